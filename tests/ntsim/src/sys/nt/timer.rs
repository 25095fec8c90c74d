//! Timers, DPCs and the clock: wdm.h.

use super::types::{
    BOOLEAN, DISPATCH_LEVEL, KTIMER, LARGE_INTEGER, LONG, NotificationTimer, PASSIVE_LEVEL,
    PKDEFERRED_ROUTINE, PKTIMER, PLARGE_INTEGER, PRKDPC, PVOID, TIMER_TYPE, ULONGLONG,
};
use super::{FALSE, TRUE};
use crate::clock::{self, UNITS_PER_SECOND};
use crate::dispatcher::{self, TIMER_STILL_SET, TIMERS, object_type};
use crate::irql::require_at_most;
use crate::verify::violation;

/// Page "KeInitializeTimer": a notification timer.
///
/// # Safety
/// `timer` is writable, and is not set.
pub unsafe extern "system-unwind" fn KeInitializeTimer(timer: PKTIMER) {
    // SAFETY: as the caller promises.
    unsafe { KeInitializeTimerEx(timer, NotificationTimer) };
}

/// Page "KeInitializeTimerEx": any level.
///
/// # Safety
/// `timer` is writable, and is not set.
pub unsafe extern "system-unwind" fn KeInitializeTimerEx(timer: PKTIMER, kind: TIMER_TYPE) {
    const API: &str = "KeInitializeTimerEx";
    if dispatcher::cancel_timer(timer) {
        violation(&TIMER_STILL_SET, API, format!("{:#x} is initialised again", timer.addr()));
    }
    let kind = if kind == NotificationTimer {
        object_type::NOTIFICATION_TIMER
    } else {
        object_type::SYNCHRONIZATION_TIMER
    };
    // SAFETY: as the caller promises.
    unsafe { timer.write_bytes(0, 1) };
    // SAFETY: as the caller promises; the header is the timer's start.
    unsafe { dispatcher::initialise(API, timer.cast(), kind, size_of::<KTIMER>(), false) };
}

/// Page "KeSetTimer": IRQL <= DISPATCH_LEVEL. TRUE when the timer was set.
///
/// # Safety
/// Timer and DPC are initialised and stay until the timer has expired or is cancelled.
pub unsafe extern "system-unwind" fn KeSetTimer(timer: PKTIMER, due: LARGE_INTEGER, dpc: PRKDPC) -> BOOLEAN {
    // SAFETY: as the caller promises.
    unsafe { set("KeSetTimer", timer, due, 0, dpc) }
}

/// Page "KeSetTimerEx": IRQL <= DISPATCH_LEVEL. The period is in milliseconds, 0 for once.
///
/// # Safety
/// Timer and DPC are initialised and stay until the timer has expired or is cancelled.
pub unsafe extern "system-unwind" fn KeSetTimerEx(
    timer: PKTIMER,
    due: LARGE_INTEGER,
    period: LONG,
    dpc: PRKDPC,
) -> BOOLEAN {
    // SAFETY: as the caller promises.
    unsafe { set("KeSetTimerEx", timer, due, period, dpc) }
}

/// # Safety
/// As for [`KeSetTimerEx`].
unsafe fn set(api: &'static str, timer: PKTIMER, due: LARGE_INTEGER, period: LONG, dpc: PRKDPC) -> BOOLEAN {
    require_at_most(api, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if !unsafe { dispatcher::check(api, timer.cast(), TIMERS) } {
        return FALSE;
    }
    // SAFETY: every bit pattern of the union is a valid quad.
    let due = unsafe { due.QuadPart };
    // SAFETY: it is a timer; the rest is as the caller promises.
    let was_set = unsafe { dispatcher::set_timer(timer, due, period.max(0).cast_unsigned(), dpc) };
    if was_set { TRUE } else { FALSE }
}

/// Page "KeCancelTimer": IRQL <= DISPATCH_LEVEL. TRUE when the timer was set. A DPC that it queued already still runs:
/// flush before its memory goes.
///
/// # Safety
/// `timer` is an initialised timer.
pub unsafe extern "system-unwind" fn KeCancelTimer(timer: PKTIMER) -> BOOLEAN {
    const API: &str = "KeCancelTimer";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { dispatcher::check(API, timer.cast(), TIMERS) } && dispatcher::cancel_timer(timer) {
        TRUE
    } else {
        FALSE
    }
}

/// Page "KeInitializeDpc": any level.
///
/// # Safety
/// `dpc` is writable, and is not queued; the routine may be called with the context.
pub unsafe extern "system-unwind" fn KeInitializeDpc(
    dpc: PRKDPC,
    routine: PKDEFERRED_ROUTINE,
    context: PVOID,
) {
    // SAFETY: as the caller promises.
    unsafe { dispatcher::initialise_dpc(dpc, routine, context) };
}

/// Page "KeInsertQueueDpc": any level. FALSE when it is queued already.
///
/// # Safety
/// `dpc` is initialised and stays until it has run or was removed.
pub unsafe extern "system-unwind" fn KeInsertQueueDpc(dpc: PRKDPC, first: PVOID, second: PVOID) -> BOOLEAN {
    // SAFETY: as the caller promises.
    if unsafe { dispatcher::queue_dpc("KeInsertQueueDpc", dpc, first, second) } { TRUE } else { FALSE }
}

/// Page "KeRemoveQueueDpc": any level. FALSE when it was not queued; it may be running then.
///
/// # Safety
/// `dpc` is initialised.
pub unsafe extern "system-unwind" fn KeRemoveQueueDpc(dpc: PRKDPC) -> BOOLEAN {
    if dispatcher::remove_dpc(dpc) { TRUE } else { FALSE }
}

/// Page "KeFlushQueuedDpcs": PASSIVE_LEVEL. Waits until the DPCs queued so far have run, on every processor.
///
/// # Safety
/// None needed.
pub unsafe extern "system-unwind" fn KeFlushQueuedDpcs() {
    const API: &str = "KeFlushQueuedDpcs";
    if require_at_most(API, PASSIVE_LEVEL) {
        dispatcher::flush_dpcs();
    }
}

/// Page "KeQueryPerformanceCounter": any level. The frequency is in ticks a second.
///
/// # Safety
/// `frequency` is NULL or writable.
pub unsafe extern "system-unwind" fn KeQueryPerformanceCounter(frequency: PLARGE_INTEGER) -> LARGE_INTEGER {
    // SAFETY: as the caller promises.
    if let Some(frequency) = unsafe { frequency.as_mut() } {
        frequency.QuadPart = UNITS_PER_SECOND.cast_signed();
    }
    LARGE_INTEGER { QuadPart: clock::now().cast_signed() }
}

/// Page "KeQueryInterruptTime": any level. 100 ns units since boot.
///
/// # Safety
/// None needed.
pub unsafe extern "system-unwind" fn KeQueryInterruptTime() -> ULONGLONG {
    clock::now()
}

/// Page "KeQuerySystemTimePrecise": any level. 100 ns units since 1601-01-01 UTC.
///
/// # Safety
/// `time` is writable.
pub unsafe extern "system-unwind" fn KeQuerySystemTimePrecise(time: PLARGE_INTEGER) {
    // SAFETY: as the caller promises.
    unsafe { time.write(LARGE_INTEGER { QuadPart: clock::system_time().cast_signed() }) };
}
