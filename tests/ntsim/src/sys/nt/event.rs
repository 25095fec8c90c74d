//! Events, waits and delays: wdm.h.

use super::types::{
    BOOLEAN, EVENT_TYPE, KPRIORITY, KPROCESSOR_MODE, KWAIT_REASON, LONG, MAXIMUM_WAIT_OBJECTS, NTSTATUS,
    NotificationEvent, PKWAIT_BLOCK, PLARGE_INTEGER, PRKEVENT, PVOID, THREAD_WAIT_OBJECTS, ULONG, WAIT_TYPE,
    WaitAll,
};
use super::{APC_LEVEL, DISPATCH_LEVEL, FALSE, KEVENT, STATUS_INVALID_PARAMETER};
use crate::dispatcher::{self, EVENTS, WAIT_ARGUMENTS, object_type};
use crate::irql::require_at_most;
use crate::verify::violation;

/// Page "KeInitializeEvent": any level; the event lies in non-paged memory and is not moved afterwards.
///
/// # Safety
/// `event` is writable.
pub unsafe extern "system-unwind" fn KeInitializeEvent(event: PRKEVENT, kind: EVENT_TYPE, state: BOOLEAN) {
    let kind = if kind == NotificationEvent {
        object_type::NOTIFICATION_EVENT
    } else {
        object_type::SYNCHRONIZATION_EVENT
    };
    let signalled = state != FALSE;
    // SAFETY: as the caller promises.
    unsafe {
        dispatcher::initialise("KeInitializeEvent", event.cast(), kind, size_of::<KEVENT>(), signalled);
    }
}

/// Page "KeSetEvent": IRQL <= DISPATCH_LEVEL when `wait` is FALSE, else <= APC_LEVEL. Returns the state before.
///
/// # Safety
/// `event` is an initialised event.
pub unsafe extern "system-unwind" fn KeSetEvent(
    event: PRKEVENT,
    _increment: KPRIORITY,
    wait: BOOLEAN,
) -> LONG {
    const API: &str = "KeSetEvent";
    require_at_most(API, if wait == FALSE { DISPATCH_LEVEL } else { APC_LEVEL });
    // SAFETY: as the caller promises; a null pointer is noticed.
    if unsafe { dispatcher::check(API, event.cast(), EVENTS) } {
        // SAFETY: it is an event.
        unsafe { dispatcher::signal(event.cast()) }
    } else {
        0
    }
}

/// Page "KeClearEvent": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `event` is an initialised event.
pub unsafe extern "system-unwind" fn KeClearEvent(event: PRKEVENT) {
    const API: &str = "KeClearEvent";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { dispatcher::check(API, event.cast(), EVENTS) } {
        // SAFETY: it is an event.
        unsafe { dispatcher::reset(event.cast()) };
    }
}

/// Page "KeResetEvent": IRQL <= DISPATCH_LEVEL. Returns the state before.
///
/// # Safety
/// `event` is an initialised event.
pub unsafe extern "system-unwind" fn KeResetEvent(event: PRKEVENT) -> LONG {
    const API: &str = "KeResetEvent";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { dispatcher::check(API, event.cast(), EVENTS) } {
        // SAFETY: it is an event.
        unsafe { dispatcher::reset(event.cast()) }
    } else {
        0
    }
}

/// Page "KeReadStateEvent": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `event` is an initialised event.
pub unsafe extern "system-unwind" fn KeReadStateEvent(event: PRKEVENT) -> LONG {
    const API: &str = "KeReadStateEvent";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { dispatcher::check(API, event.cast(), EVENTS) } {
        // SAFETY: it is an event.
        unsafe { dispatcher::read(event.cast()) }
    } else {
        0
    }
}

/// # Safety
/// `timeout` is null or readable.
pub(super) unsafe fn timeout_of(timeout: PLARGE_INTEGER) -> Option<i64> {
    // SAFETY: as the caller promises.
    let timeout = unsafe { timeout.as_ref() }?;
    // SAFETY: every bit pattern of the union is a valid quad.
    Some(unsafe { timeout.QuadPart })
}

/// Page "KeWaitForSingleObject": IRQL <= APC_LEVEL, with a zero timeout <= DISPATCH_LEVEL. No alert or APC is ever
/// delivered here, so an alertable wait ends as any other does.
///
/// # Safety
/// `object` is an initialised dispatcher object that stays until the wait ends; `timeout` is NULL or readable.
pub unsafe extern "system-unwind" fn KeWaitForSingleObject(
    object: PVOID,
    _reason: KWAIT_REASON,
    _mode: KPROCESSOR_MODE,
    _alertable: BOOLEAN,
    timeout: PLARGE_INTEGER,
) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let timeout = unsafe { timeout_of(timeout) };
    // SAFETY: as the caller promises.
    unsafe { dispatcher::wait("KeWaitForSingleObject", &[object], false, timeout) }
}

/// Page "KeWaitForMultipleObjects": IRQL as for one object; at most THREAD_WAIT_OBJECTS objects without an array of
/// wait blocks, at most MAXIMUM_WAIT_OBJECTS with one (more stop Windows).
///
/// # Safety
/// `objects` has `count` initialised dispatcher objects that stay until the wait ends; `timeout` is NULL or readable.
pub unsafe extern "system-unwind" fn KeWaitForMultipleObjects(
    count: ULONG,
    objects: *mut PVOID,
    wait_type: WAIT_TYPE,
    _reason: KWAIT_REASON,
    _mode: KPROCESSOR_MODE,
    _alertable: BOOLEAN,
    timeout: PLARGE_INTEGER,
    wait_blocks: PKWAIT_BLOCK,
) -> NTSTATUS {
    const API: &str = "KeWaitForMultipleObjects";
    let limit = if wait_blocks.is_null() { THREAD_WAIT_OBJECTS } else { MAXIMUM_WAIT_OBJECTS };
    let count = count as usize;
    if count == 0 || count > limit {
        violation(&WAIT_ARGUMENTS, API, format!("{count} objects, at most {limit}"));
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as the caller promises.
    let objects = unsafe { core::slice::from_raw_parts(objects, count) };
    // SAFETY: as the caller promises.
    let timeout = unsafe { timeout_of(timeout) };
    // SAFETY: as the caller promises.
    unsafe { dispatcher::wait(API, objects, wait_type == WaitAll, timeout) }
}

/// Page "KeDelayExecutionThread": IRQL <= APC_LEVEL.
///
/// # Safety
/// `interval` is readable.
pub unsafe extern "system-unwind" fn KeDelayExecutionThread(
    _mode: KPROCESSOR_MODE,
    _alertable: BOOLEAN,
    interval: PLARGE_INTEGER,
) -> NTSTATUS {
    const API: &str = "KeDelayExecutionThread";
    require_at_most(API, APC_LEVEL);
    // SAFETY: as the caller promises.
    match unsafe { timeout_of(interval) } {
        Some(interval) => dispatcher::delay(API, interval),
        None => STATUS_INVALID_PARAMETER,
    }
}
