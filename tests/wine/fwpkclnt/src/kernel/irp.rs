//! Completion routines that keep their driver loaded.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::nt::{
    BOOLEAN, DISPATCH_LEVEL, FALSE, NTSTATUS, PDEVICE_OBJECT, PIO_COMPLETION_ROUTINE, PIRP, PVOID,
    SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_SUCCESS,
};
use crate::verify::violation;
use crate::{fault, irql, modules};

crate::rules! {
    NO_DEVICE = ("no device object", "IoSetCompletionRoutineEx");
    NO_LOCATION = ("no stack location is left", "IoSetCompletionRoutine");
}

/// What the I/O manager remembers of a routine that was set.
struct Kept {
    device: PDEVICE_OBJECT,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
}

/// Routines that were set and have not been called.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The driver of the device is not unloaded before the routine has returned. What is remembered for it is freed when the
/// routine is called, and not before.
pub(super) unsafe extern "system" fn IoSetCompletionRoutineEx(
    device: PDEVICE_OBJECT,
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    on_success: BOOLEAN,
    on_error: BOOLEAN,
    on_cancel: BOOLEAN,
) -> NTSTATUS {
    const API: &str = "IoSetCompletionRoutineEx";
    irql::require_at_most(API, DISPATCH_LEVEL);
    if device.is_null() {
        violation(&NO_DEVICE, API, "");
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: by the function's page an IRP that the driver owns.
    let fields = unsafe { &mut *irp };
    if fields.CurrentLocation <= 1 {
        violation(&NO_LOCATION, API, "");
    }
    // SAFETY: the tail is an overlay throughout an IRP's life.
    let current = unsafe { fields.Tail.Overlay.CurrentStackLocation };
    // SAFETY: the next lower driver's location lies before the current one.
    let next = unsafe { &mut *current.wrapping_sub(1) };
    let kept = Box::new(Kept { device, routine, context });
    let chosen = |flag: BOOLEAN, bit| if flag == FALSE { 0 } else { bit };
    next.CompletionRoutine = Some(call);
    next.Context = Box::into_raw(kept).cast();
    next.Control = chosen(on_success, SL_INVOKE_ON_SUCCESS)
        | chosen(on_error, SL_INVOKE_ON_ERROR)
        | chosen(on_cancel, SL_INVOKE_ON_CANCEL);
    WAITING.fetch_add(1, Ordering::AcqRel);
    STATUS_SUCCESS
}

/// Calls the driver's routine. Its image stays until that has returned.
unsafe extern "C" fn call(_device: PDEVICE_OBJECT, irp: PIRP, context: PVOID) -> NTSTATUS {
    // SAFETY: given up by `IoSetCompletionRoutineEx` for this one call.
    let kept = unsafe { Box::from_raw(context.cast::<Kept>()) };
    WAITING.fetch_sub(1, Ordering::AcqRel);
    let Kept { device, routine, context } = *kept;
    let Some(routine) = routine else { return STATUS_SUCCESS };
    let _image = modules::hold(routine as usize);
    // SAFETY: the driver's routine, with its context.
    unsafe { routine(device, irp, context) }
}

/// Routines that were set and never called: what remembers them is lost.
pub(crate) fn waiting() -> usize {
    WAITING.load(Ordering::Acquire)
}
