//! What the subsystem needs of the rest of the simulated kernel: IRPs taken, completed and cancelled.

use super::rules;
use crate::sys::nt::{
    IRP, NTSTATUS, PDEVICE_OBJECT, PIRP, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS,
    SL_PENDING_RETURNED,
};
use crate::verify::violation;

/// Takes the next stack location of an IRP, after the checks of page "Using IRPs with Winsock Kernel Functions".
/// False if the IRP cannot be used.
///
/// # Safety
/// `irp` is an IRP that the caller passed in.
pub unsafe fn take(api: &'static str, irp: PIRP) -> bool {
    // SAFETY: the caller's.
    let irp = unsafe { &mut *irp };
    if irp.CurrentLocation < 2 {
        violation(&rules::IRP_STACK, api, format!("{} of {} locations", irp.CurrentLocation, irp.StackCount));
        return false;
    }
    // SAFETY: the IRP is ours now; this member is the one in use while an IRP is on its way.
    let next = unsafe { irp.Tail.Overlay.CurrentStackLocation }.wrapping_sub(1);
    // SAFETY: CurrentLocation says that there is a location below.
    let location = unsafe { &mut *next };
    let own = irp.CurrentLocation > irp.StackCount;
    let invoke = SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL;
    if own && (location.CompletionRoutine.is_none() || location.Control & invoke != invoke) {
        violation(&rules::IRP_ROUTINE, api, format!("control flags {:#x}", location.Control));
    }
    irp.CurrentLocation -= 1;
    irp.Tail.Overlay.CurrentStackLocation = next;
    true
}

/// Marks the IRP pending, as whoever returns STATUS_PENDING for it does.
///
/// # Safety
/// `irp` was taken and is not completed.
pub unsafe fn mark_pending(irp: PIRP) {
    // SAFETY: the caller's.
    let location = unsafe { (*irp).Tail.Overlay.CurrentStackLocation };
    // SAFETY: the location that `take` moved to.
    unsafe { (*location).Control |= SL_PENDING_RETURNED };
}

/// Completes the IRP. It may be gone when this returns.
///
/// # Safety
/// `irp` was taken, is not completed, and no one else completes it.
pub unsafe fn complete(irp: PIRP, status: NTSTATUS, information: usize) {
    // SAFETY: the caller's.
    unsafe { crate::irp::complete(irp, status, information) };
}

/// Makes the IRP cancellable; false if it was cancelled already.
///
/// # Safety
/// `irp` was taken and is not completed.
pub unsafe fn set_cancel(irp: *mut IRP, routine: unsafe extern "C" fn(PDEVICE_OBJECT, PIRP)) -> bool {
    // SAFETY: the caller's.
    unsafe { crate::irp::set_cancel(irp, routine) }
}

/// Makes the IRP not cancellable any more; false if its cancel routine runs or has run.
///
/// # Safety
/// As for [`set_cancel`].
pub unsafe fn clear_cancel(irp: *mut IRP) -> bool {
    // SAFETY: the caller's.
    unsafe { crate::irp::clear_cancel(irp) }
}
