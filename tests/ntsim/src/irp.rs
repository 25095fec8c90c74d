//! IRPs that drivers allocate and send to a subsystem (WSK), and the subsystem's side of them.
//!
//! A driver owns an IRP until it sends it, and again from the moment its completion routine is called (page "Using IRPs
//! with Winsock Kernel Functions"). The subsystem calls [`send`] when it takes an IRP and [`complete`] once, later or at
//! once, on any thread at IRQL <= DISPATCH_LEVEL.

use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use crate::pool::{self, Kind, Request};
use crate::rules;
use crate::sys::nt::{
    DISPATCH_LEVEL, IO_STACK_LOCATION, IO_TYPE_IRP, IRP, KIRQL, NT_SUCCESS, NTSTATUS, PDEVICE_OBJECT,
    PDRIVER_CANCEL, PIO_COMPLETION_ROUTINE, PIRP, PVOID, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR,
    SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_PARAMETER, STATUS_MORE_PROCESSING_REQUIRED, STATUS_SUCCESS,
};
use crate::verify::{Rule, violation};
use crate::{device, irql, lock};

const WSK_IRPS: &str = "Using IRPs with Winsock Kernel Functions";

rules! {
    IRP_INVALID = ("IRP that was not allocated", "IoAllocateIrp");
    IRP_USE_AFTER_FREE = ("IRP used after it was freed", "IoFreeIrp");
    IRP_FREED_PENDING = ("IRP freed while it is pending", "IoFreeIrp");
    IRP_REUSED_PENDING = ("IRP reused while it is pending", "Reusing IRPs");
    IRP_SENT_PENDING = ("IRP sent while it is pending", WSK_IRPS);
    IRP_COMPLETED_TWICE = ("IRP completed while it is not pending", "IoCompleteRequest");
    IRP_NO_STACK = ("IRP without a stack location left", WSK_IRPS);
    IRP_NO_COMPLETION = ("IRP sent without a completion routine for every outcome", WSK_IRPS);
    IRP_COMPLETION_STATUS = (
        "completion routine of the driver's own IRP does not return STATUS_MORE_PROCESSING_REQUIRED",
        "IoSetCompletionRoutine"
    );
    IRP_STATUS_PENDING = ("IRP completed with STATUS_PENDING", "IoCompleteRequest");
    IRP_CANCEL_ROUTINE = ("IRP completed with a cancel routine set", "IoSetCancelRoutine");
    IRP_STACK_SIZE = ("bad stack size", "IoAllocateIrp");
    COMPLETION_DEVICE = ("completion routine for a device object that is not there", "IoSetCompletionRoutineEx");
    COMPLETION_LOST = (
        "completion routine of IoSetCompletionRoutineEx dropped before it ran: its memory leaks",
        "IoSetCompletionRoutineEx"
    );
    CALL_DEVICE = ("IRP sent to a device object that is not there", "IoCallDriver");
    CANCEL_LOCK = ("cancel spin lock released by a thread that does not hold it", "IoReleaseCancelSpinLock");
}

/// The states of an IRP's block.
const OWNED: u32 = 0;
const PENDING: u32 = 1;

/// Allocates an IRP with `stack_size` locations. Null when there is no memory.
pub(crate) fn allocate(api: &'static str, stack_size: i8) -> PIRP {
    let Some(count) = usize::try_from(stack_size).ok().filter(|&count| count != 0) else {
        violation(&IRP_STACK_SIZE, api, format!("{stack_size}"));
        return ptr::null_mut();
    };
    let size = size_of::<IRP>() + count * size_of::<IO_STACK_LOCATION>();
    let irp: PIRP = pool::allocate(&Request::object(api, Kind::Irp, size)).cast();
    if !irp.is_null() {
        // SAFETY: the block has room for the IRP and its locations.
        unsafe { initialise(irp, stack_size, size) };
    }
    irp
}

/// # Safety
/// `irp` is writable for `size` bytes, which hold `stack_size` locations behind the IRP.
unsafe fn initialise(irp: PIRP, stack_size: i8, size: usize) {
    // SAFETY: as the caller promises.
    unsafe { irp.cast::<u8>().write_bytes(0, size) };
    // SAFETY: zeroes are a valid IRP.
    let fields = unsafe { &mut *irp };
    fields.Type = IO_TYPE_IRP;
    fields.Size = u16::try_from(size).unwrap_or(u16::MAX);
    fields.StackCount = stack_size;
    fields.CurrentLocation = stack_size.wrapping_add(1);
    // SAFETY: one behind the last location is the end of the block.
    let end = unsafe { irp.cast::<u8>().add(size) };
    fields.Tail.Overlay.CurrentStackLocation = end.cast();
}

/// Whether `irp` is a live IRP; a violation otherwise.
fn check(api: &'static str, irp: PIRP) -> Option<u32> {
    let state = pool::with_block(Kind::Irp, irp.cast(), |block| block.state);
    if state.is_none() {
        let rule: &'static Rule =
            if pool::was_freed(Kind::Irp, irp.cast()) { &IRP_USE_AFTER_FREE } else { &IRP_INVALID };
        violation(rule, api, format!("{:#x}", irp.addr()));
    }
    state
}

/// Whether `irp` is an IRP that the driver owns; a violation of `rule` when it is pending.
fn check_owned(api: &'static str, irp: PIRP, rule: &'static Rule) -> bool {
    match check(api, irp) {
        Some(OWNED) => true,
        Some(_) => {
            violation(rule, api, format!("{:#x}", irp.addr()));
            false
        }
        None => false,
    }
}

/// Frees an IRP. A pending one stays allocated: the subsystem still has it.
pub(crate) fn free(api: &'static str, irp: PIRP) {
    if check_owned(api, irp, &IRP_FREED_PENDING) {
        // SAFETY: it is a live IRP that is not pending.
        unsafe { require_no_lost_routine(api, irp) };
        pool::release(api, Kind::Irp, irp.cast(), 0);
    }
}

/// Makes an IRP as new, with `status` in it.
///
/// # Safety
/// `irp` is the driver's own.
pub(crate) unsafe fn reuse(api: &'static str, irp: PIRP, status: NTSTATUS) {
    if !check_owned(api, irp, &IRP_REUSED_PENDING) {
        return;
    }
    // SAFETY: it is a live IRP that is not pending.
    unsafe { require_no_lost_routine(api, irp) };
    // SAFETY: it is a live IRP.
    let count = unsafe { (*irp).StackCount };
    let locations = usize::try_from(count).unwrap_or(0);
    // SAFETY: the IRP was allocated with that many locations.
    unsafe { initialise(irp, count, size_of::<IRP>() + locations * size_of::<IO_STACK_LOCATION>()) };
    // SAFETY: it is a live IRP that nobody else has.
    let fields = unsafe { &mut *irp };
    fields.IoStatus.u.Status = status;
}

/// The location that the subsystem will see: where the driver's completion routine goes. `None`, and a violation, when
/// the IRP is not there or has none left.
///
/// # Safety
/// `irp` is the driver's own.
pub(crate) unsafe fn next_location(api: &'static str, irp: PIRP) -> Option<*mut IO_STACK_LOCATION> {
    check(api, irp)?;
    // SAFETY: it is a live IRP.
    if unsafe { (*irp).CurrentLocation } <= 1 {
        violation(&IRP_NO_STACK, api, format!("{:#x}", irp.addr()));
        return None;
    }
    // SAFETY: it is a live IRP.
    let current = unsafe { current_location(irp) };
    // SAFETY: more than one location is left, so the one before lies behind the IRP's header.
    Some(unsafe { current.sub(1) })
}

/// What IoSetCompletionRoutineEx remembers, in memory that it allocates and frees when the routine has returned.
struct Guarded {
    device: PDEVICE_OBJECT,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
}

/// The flags of a stack location for the outcomes that a completion routine is for.
pub(crate) fn invoke_on(success: bool, error: bool, cancel: bool) -> u8 {
    let flag = |asked: bool, flag: u8| if asked { flag } else { 0 };
    flag(success, SL_INVOKE_ON_SUCCESS) | flag(error, SL_INVOKE_ON_ERROR) | flag(cancel, SL_INVOKE_ON_CANCEL)
}

/// Sets a completion routine (page "IoSetCompletionRoutine").
///
/// # Safety
/// `irp` is the driver's own.
pub(crate) unsafe fn set_completion(
    api: &'static str,
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    control: u8,
) {
    // SAFETY: as the caller promises.
    let Some(location) = (unsafe { next_location(api, irp) }) else { return };
    // SAFETY: as the caller promises.
    unsafe { require_no_lost_routine(api, irp) };
    // SAFETY: the location belongs to the IRP.
    let location = unsafe { &mut *location };
    location.CompletionRoutine = routine;
    location.Context = context;
    location.Control = control;
}

/// Sets a completion routine that keeps the driver's image until it has returned (page "IoSetCompletionRoutineEx"):
/// the device object is referenced until then.
///
/// # Safety
/// `irp` is the driver's own.
pub(crate) unsafe fn set_guarded_completion(
    api: &'static str,
    device: PDEVICE_OBJECT,
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    control: u8,
) -> NTSTATUS {
    let guarded: *mut Guarded =
        pool::allocate(&Request::object(api, Kind::Completion, size_of::<Guarded>())).cast();
    if guarded.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if !device::reference(device) {
        violation(&COMPLETION_DEVICE, api, format!("{:#x}", device.addr()));
        pool::release(api, Kind::Completion, guarded.cast(), 0);
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: allocated for it just now.
    unsafe { guarded.write(Guarded { device, routine, context }) };
    // SAFETY: as the caller promises.
    unsafe { set_completion(api, irp, Some(run_guarded), guarded.cast(), control) };
    STATUS_SUCCESS
}

/// Calls what [`set_guarded_completion`] was given, then lets go of the device object and the memory.
unsafe extern "C" fn run_guarded(_device: PDEVICE_OBJECT, irp: PIRP, context: PVOID) -> NTSTATUS {
    const API: &str = "IoSetCompletionRoutineEx";
    // SAFETY: written when the routine was set, and freed here only.
    let Guarded { device, routine, context: own } = unsafe { context.cast::<Guarded>().read() };
    pool::release(API, Kind::Completion, context.cast(), 0);
    let answer = routine.map_or(STATUS_SUCCESS, |routine| {
        // SAFETY: the driver set the routine and its context for this IRP.
        unsafe { routine(device, irp, own) }
    });
    device::dereference(API, device);
    answer
}

/// A routine that [`set_guarded_completion`] has set must run: its memory is freed by that.
///
/// # Safety
/// `irp` is live and not pending.
unsafe fn require_no_lost_routine(api: &'static str, irp: PIRP) {
    // SAFETY: it is a live IRP.
    if unsafe { (*irp).CurrentLocation } <= 1 {
        return;
    }
    // SAFETY: as above.
    let current = unsafe { current_location(irp) };
    // SAFETY: a location is left.
    let location = unsafe { current.sub(1) };
    // SAFETY: the location belongs to the IRP.
    let routine = unsafe { (*location).CompletionRoutine };
    let guarded: PIO_COMPLETION_ROUTINE = Some(run_guarded);
    if routine.map(|routine| routine as usize) == guarded.map(|routine| routine as usize) {
        violation(&COMPLETION_LOST, api, format!("{:#x}", irp.addr()));
    }
}

/// Sends an IRP to a device object's driver (page "IoCallDriver").
///
/// # Safety
/// `irp` is the driver's own, with the next location set up.
pub(crate) unsafe fn call_driver(api: &'static str, device: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
    if !device::is_live(device) {
        violation(&CALL_DEVICE, api, format!("{:#x}", device.addr()));
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as the caller promises.
    if !unsafe { send(api, irp) } {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as the caller promises.
    let location = unsafe { current_location(irp) };
    // SAFETY: a sent IRP has a current location.
    let location = unsafe { &mut *location };
    location.DeviceObject = device;
    // SAFETY: it is live.
    let driver = unsafe { (*device).DriverObject };
    // SAFETY: a device's driver is there.
    let driver = unsafe { &*driver };
    let dispatch = driver.MajorFunction.get(usize::from(location.MajorFunction)).copied().flatten();
    let Some(dispatch) = dispatch else {
        // SAFETY: sent just now.
        unsafe { complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0) };
        return STATUS_INVALID_DEVICE_REQUEST;
    };
    // SAFETY: the driver's dispatch routine, for its device.
    irql::same_irql("dispatch routine", || unsafe { dispatch(device, irp) })
}

/// The subsystem takes an IRP: it is pending from here until [`complete`]. Returns false, with a violation recorded, when
/// the IRP cannot be taken; it is untouched then.
///
/// # Safety
/// `irp` is what a driver passed.
pub unsafe fn send(api: &'static str, irp: PIRP) -> bool {
    if !check_owned(api, irp, &IRP_SENT_PENDING) {
        return false;
    }
    // SAFETY: as the caller promises.
    let Some(location) = (unsafe { next_location(api, irp) }) else { return false };
    // SAFETY: the location belongs to the IRP.
    let control = unsafe { (*location).Control };
    // SAFETY: as above.
    let routine = unsafe { (*location).CompletionRoutine };
    let all = SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL;
    if routine.is_none() || control & all != all {
        violation(&IRP_NO_COMPLETION, api, format!("{:#x}, control {control:#x}", irp.addr()));
        return false;
    }
    // SAFETY: it is a live IRP that nobody else has.
    let fields = unsafe { &mut *irp };
    fields.CurrentLocation -= 1;
    fields.Tail.Overlay.CurrentStackLocation = location;
    fields.PendingReturned = 0;
    pool::with_block(Kind::Irp, irp.cast(), |block| block.state = PENDING).is_some()
}

/// The subsystem will answer STATUS_PENDING (page "IoMarkIrpPending").
///
/// # Safety
/// The subsystem has the IRP.
pub unsafe fn mark_pending(irp: PIRP) {
    // SAFETY: the subsystem has the IRP.
    let location = unsafe { current_location(irp) };
    // SAFETY: a sent IRP has a current location.
    unsafe { (*location).Control |= SL_PENDING_RETURNED };
}

/// # Safety
/// `irp` is live.
unsafe fn current_location(irp: PIRP) -> *mut IO_STACK_LOCATION {
    // SAFETY: as the caller promises.
    let tail = unsafe { (*irp).Tail };
    // SAFETY: the tail is in use as an overlay throughout an IRP's life.
    unsafe { tail.Overlay.CurrentStackLocation }
}

/// Whether the driver asked for the IRP to be cancelled.
///
/// # Safety
/// The subsystem has the IRP.
pub unsafe fn is_cancelled(irp: PIRP) -> bool {
    // SAFETY: the field is a byte of a live IRP, only ever used as an atomic once sent.
    unsafe { cancel_flag(irp) }.load(Ordering::Acquire) != 0
}

/// # Safety
/// `irp` is live for as long as the result is used.
unsafe fn cancel_flag<'a>(irp: PIRP) -> &'a AtomicU8 {
    // SAFETY: the field lies inside the IRP.
    let field = unsafe { &raw mut (*irp).Cancel };
    // SAFETY: as the caller promises.
    unsafe { AtomicU8::from_ptr(field) }
}

/// # Safety
/// `irp` is live for as long as the result is used.
unsafe fn cancel_slot<'a>(irp: PIRP) -> &'a AtomicPtr<()> {
    // SAFETY: the field lies inside the IRP.
    let field = unsafe { irp.cast::<u8>().add(offset_of!(IRP, CancelRoutine)) };
    // SAFETY: the field is a pointer, aligned, only ever used as an atomic once sent.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

fn routine_pointer(routine: PDRIVER_CANCEL) -> *mut () {
    routine.map_or(ptr::null_mut(), |routine| routine as *mut ())
}

/// # Safety
/// `pointer` came from [`routine_pointer`].
unsafe fn pointer_routine(pointer: *mut ()) -> PDRIVER_CANCEL {
    // SAFETY: an optional function pointer is a nullable pointer.
    unsafe { std::mem::transmute::<*mut (), PDRIVER_CANCEL>(pointer) }
}

/// Sets or clears the cancel routine; returns the one before (page "IoSetCancelRoutine"). It is called with the cancel
/// spin lock held at DISPATCH_LEVEL and must release it with `IoReleaseCancelSpinLock(Irp->CancelIrql)`. A `None` answer
/// to clearing means that the routine is being called and owns the completion.
///
/// # Safety
/// The subsystem has the IRP.
pub unsafe fn set_cancel_routine(irp: PIRP, routine: PDRIVER_CANCEL) -> PDRIVER_CANCEL {
    // SAFETY: as the caller promises.
    let before = unsafe { cancel_slot(irp) }.swap(routine_pointer(routine), Ordering::AcqRel);
    // SAFETY: the slot only ever holds cancel routines.
    unsafe { pointer_routine(before) }
}

/// Page "IoCancelIrp".
///
/// # Safety
/// `irp` is the driver's, or pending.
pub(crate) unsafe fn cancel(api: &'static str, irp: PIRP) -> bool {
    let level = acquire_cancel_lock();
    if check(api, irp).is_none() {
        release_cancel_lock(api, level);
        return false;
    }
    // SAFETY: it is a live IRP.
    unsafe { cancel_flag(irp) }.store(1, Ordering::Release);
    // SAFETY: as above.
    match unsafe { set_cancel_routine(irp, None) } {
        None => {
            release_cancel_lock(api, level);
            false
        }
        Some(routine) => {
            // SAFETY: it is a live IRP; the routine releases the lock to this level.
            unsafe { (*irp).CancelIrql = level };
            // SAFETY: it is a live IRP.
            let location = unsafe { current_location(irp) };
            // SAFETY: a sent IRP has a current location.
            let device = unsafe { (*location).DeviceObject };
            // SAFETY: the routine was set for this IRP.
            unsafe { routine(device, irp) };
            true
        }
    }
}

/// The number of the thread that holds the cancel spin lock; 0 when it is free.
static CANCEL_LOCK_HOLDER: AtomicUsize = AtomicUsize::new(0);
const CANCEL_LOCK_NAME: &str = "cancel spin lock";

fn cancel_lock_address() -> usize {
    ptr::from_ref(&CANCEL_LOCK_HOLDER).addr()
}

/// Page "IoAcquireCancelSpinLock".
pub fn acquire_cancel_lock() -> KIRQL {
    let level = irql::raise_to_dispatch();
    lock::lock_acquiring(cancel_lock_address(), CANCEL_LOCK_NAME);
    let me = irql::thread_number() as usize;
    while CANCEL_LOCK_HOLDER.compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
        if irql::yields() {
            std::thread::yield_now();
        }
    }
    lock::lock_acquired(cancel_lock_address(), CANCEL_LOCK_NAME);
    level
}

/// Page "IoReleaseCancelSpinLock".
pub fn release_cancel_lock(api: &'static str, level: KIRQL) {
    let me = irql::thread_number() as usize;
    if CANCEL_LOCK_HOLDER.load(Ordering::Relaxed) != me {
        violation(&CANCEL_LOCK, api, "");
        return;
    }
    lock::lock_released(cancel_lock_address());
    CANCEL_LOCK_HOLDER.store(0, Ordering::Release);
    irql::lower(level);
}

pub(crate) fn stop() {
    CANCEL_LOCK_HOLDER.store(0, Ordering::Release);
}

/// The subsystem completes an IRP (page "IoCompleteRequest"): fills in the status, calls the driver's completion
/// routine, and does not touch the IRP afterwards. IRQL <= DISPATCH_LEVEL, no spin lock held.
///
/// # Safety
/// The subsystem took the IRP with [`send`] and has not completed it.
pub unsafe fn complete(irp: PIRP, status: NTSTATUS, information: usize) {
    const API: &str = "IoCompleteRequest";
    irql::require_at_most(API, DISPATCH_LEVEL);
    lock::require_none_held_blocking(API);
    match check(API, irp) {
        Some(PENDING) => {}
        Some(_) => {
            violation(&IRP_COMPLETED_TWICE, API, format!("{:#x}", irp.addr()));
            return;
        }
        None => return,
    }
    if status == crate::sys::nt::STATUS_PENDING {
        violation(&IRP_STATUS_PENDING, API, format!("{:#x}", irp.addr()));
    }
    // SAFETY: the subsystem has the IRP.
    if unsafe { set_cancel_routine(irp, None) }.is_some() {
        violation(&IRP_CANCEL_ROUTINE, API, format!("{:#x}", irp.addr()));
    }
    // SAFETY: as above.
    let fields = unsafe { &mut *irp };
    fields.IoStatus.u.Status = status;
    fields.IoStatus.Information = information;
    // SAFETY: the tail is in use as an overlay throughout an IRP's life.
    let current = unsafe { fields.Tail.Overlay.CurrentStackLocation };
    // SAFETY: a sent IRP has a current location.
    let location = unsafe { current.read() };
    // SAFETY: the location belongs to the IRP; it is spent.
    unsafe { current.cast::<u8>().write_bytes(0, size_of::<IO_STACK_LOCATION>()) };
    fields.PendingReturned = u8::from(location.Control & SL_PENDING_RETURNED != 0);
    fields.CurrentLocation += 1;
    // SAFETY: one behind a location is a location or the end of the block.
    fields.Tail.Overlay.CurrentStackLocation = unsafe { current.add(1) };
    // SAFETY: the subsystem has the IRP.
    let cancelled = unsafe { is_cancelled(irp) };
    // From here on the driver owns it, and may free or send it again inside its routine.
    pool::with_block(Kind::Irp, irp.cast(), |block| block.state = OWNED);

    let on_status = if NT_SUCCESS(status) { SL_INVOKE_ON_SUCCESS } else { SL_INVOKE_ON_ERROR };
    let invoked =
        location.Control & on_status != 0 || (cancelled && location.Control & SL_INVOKE_ON_CANCEL != 0);
    // The driver has no device object at the level of its own location (page "IoCompletion routine").
    let device = ptr::null_mut();
    let answer = location.CompletionRoutine.filter(|_| invoked).map(|routine| {
        // SAFETY: the driver set the routine and its context for this IRP.
        irql::same_irql("IoCompletion", || unsafe { routine(device, irp, location.Context) })
    });
    if answer != Some(STATUS_MORE_PROCESSING_REQUIRED) {
        violation(&IRP_COMPLETION_STATUS, API, format!("{:#x} answered {answer:x?}", irp.addr()));
    }
}
