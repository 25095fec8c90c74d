//! Rundown protection: wdm.h.
//!
//! `EX_RUNDOWN_REF` holds, in bit 0, whether rundown has begun, and above it how many hold protection.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::types::{APC_LEVEL, BOOLEAN, DISPATCH_LEVEL, PEX_RUNDOWN_REF};
use super::{FALSE, TRUE};
use crate::irql::require_at_most;
use crate::verify::violation;
use crate::{dispatcher, lock, rules};

rules! {
    RUNDOWN_RELEASE = ("rundown protection released more often than acquired", "ExReleaseRundownProtection");
    RUNDOWN_STATE = ("object is not run down", "ExReInitializeRundownProtection");
}

const RUNNING_DOWN: usize = 1;
const ONE: usize = 2;

/// # Safety
/// `rundown` stays for as long as the result is used.
unsafe fn count<'a>(rundown: PEX_RUNDOWN_REF) -> &'a AtomicUsize {
    // SAFETY: as the caller promises; the structure is one pointer-sized field.
    unsafe { AtomicUsize::from_ptr(rundown.cast()) }
}

/// Page "ExInitializeRundownProtection": any level.
///
/// # Safety
/// `rundown` is writable.
pub unsafe extern "system-unwind" fn ExInitializeRundownProtection(rundown: PEX_RUNDOWN_REF) {
    // SAFETY: as the caller promises.
    unsafe { (*rundown).Count = 0 };
}

/// Page "ExAcquireRundownProtection": IRQL <= DISPATCH_LEVEL. FALSE once rundown has begun.
///
/// # Safety
/// `rundown` is initialised.
#[inline]
pub unsafe extern "system-unwind" fn ExAcquireRundownProtection(rundown: PEX_RUNDOWN_REF) -> BOOLEAN {
    require_at_most("ExAcquireRundownProtection", DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    let count = unsafe { count(rundown) };
    let mut seen = count.load(Ordering::Relaxed);
    while seen & RUNNING_DOWN == 0 {
        match count.compare_exchange_weak(seen, seen + ONE, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return TRUE,
            Err(now) => seen = now,
        }
    }
    FALSE
}

/// Page "ExReleaseRundownProtection": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller holds protection.
#[inline]
pub unsafe extern "system-unwind" fn ExReleaseRundownProtection(rundown: PEX_RUNDOWN_REF) {
    const API: &str = "ExReleaseRundownProtection";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    let count = unsafe { count(rundown) };
    let mut seen = count.load(Ordering::Relaxed);
    loop {
        if seen < ONE {
            violation(&RUNDOWN_RELEASE, API, format!("{:#x}", rundown.addr()));
            return;
        }
        match count.compare_exchange_weak(seen, seen - ONE, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
    // The object may be gone from here on: a waiter needs no more than this release.
    if seen - ONE == RUNNING_DOWN {
        dispatcher::rundown_released();
    }
}

/// Page "ExWaitForRundownProtectionRelease": IRQL <= APC_LEVEL. Returns once nobody holds protection; at once when the
/// object is run down already.
///
/// # Safety
/// `rundown` is initialised and stays until the call returns.
pub unsafe extern "system-unwind" fn ExWaitForRundownProtectionRelease(rundown: PEX_RUNDOWN_REF) {
    const API: &str = "ExWaitForRundownProtectionRelease";
    require_at_most(API, APC_LEVEL);
    lock::require_none_held_blocking(API);
    // SAFETY: as the caller promises.
    let count = unsafe { count(rundown) };
    count.fetch_or(RUNNING_DOWN, Ordering::AcqRel);
    dispatcher::wait_rundown(API, rundown.addr(), || count.load(Ordering::Acquire) == RUNNING_DOWN);
}

/// Page "ExRundownCompleted": the object is run down.
///
/// # Safety
/// `rundown` is initialised.
pub unsafe extern "system-unwind" fn ExRundownCompleted(rundown: PEX_RUNDOWN_REF) {
    // SAFETY: as the caller promises.
    unsafe { require_run_down("ExRundownCompleted", rundown) };
}

/// Page "ExReInitializeRundownProtection": IRQL <= APC_LEVEL; the object is run down.
///
/// # Safety
/// `rundown` is initialised.
pub unsafe extern "system-unwind" fn ExReInitializeRundownProtection(rundown: PEX_RUNDOWN_REF) {
    const API: &str = "ExReInitializeRundownProtection";
    require_at_most(API, APC_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { require_run_down(API, rundown) } {
        // SAFETY: as the caller promises.
        unsafe { count(rundown) }.store(0, Ordering::Release);
    }
}

/// # Safety
/// `rundown` is initialised.
unsafe fn require_run_down(api: &'static str, rundown: PEX_RUNDOWN_REF) -> bool {
    // SAFETY: as the caller promises.
    let seen = unsafe { count(rundown) }.load(Ordering::Acquire);
    if seen != RUNNING_DOWN {
        violation(
            &RUNDOWN_STATE,
            api,
            format!("running down: {}, held {} times", seen & RUNNING_DOWN != 0, seen / ONE),
        );
    }
    seen == RUNNING_DOWN
}
