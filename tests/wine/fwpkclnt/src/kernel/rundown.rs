//! Run-down protection (page "Run-Down Protection"). Wine has none.
//!
//! The word counts users in steps of two; its lowest bit says that the object is running down, or has.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use wine_support::thread;

use crate::irql;
use crate::sys::nt::{APC_LEVEL, BOOLEAN, DISPATCH_LEVEL, EX_RUNDOWN_REF, FALSE, TRUE};
use crate::verify::violation;

crate::rules! {
    RUNDOWN_RELEASE = ("run-down protection released that nobody holds", "");
    RUNDOWN_IN_USE = ("run-down protection initialised while it is held", "");
}

const RUNNING_DOWN: usize = 1;
const USER: usize = 2;

/// # Safety
/// It is a run-down reference, in memory that stays while it is used.
unsafe fn word<'a>(reference: *mut EX_RUNDOWN_REF) -> &'a AtomicUsize {
    // SAFETY: by the contract; the structure is one word.
    unsafe { AtomicUsize::from_ptr(reference.cast()) }
}

pub(super) unsafe extern "system" fn ExInitializeRundownProtection(reference: *mut EX_RUNDOWN_REF) {
    // SAFETY: by the function's page.
    unsafe { word(reference) }.store(0, Ordering::Release);
}

pub(super) unsafe extern "system" fn ExReInitializeRundownProtection(reference: *mut EX_RUNDOWN_REF) {
    // SAFETY: by the function's page.
    if unsafe { word(reference) }.swap(0, Ordering::AcqRel) >= USER {
        violation(&RUNDOWN_IN_USE, "ExReInitializeRundownProtection", "");
    }
}

pub(super) unsafe extern "system" fn ExAcquireRundownProtection(reference: *mut EX_RUNDOWN_REF) -> BOOLEAN {
    irql::require_at_most("ExAcquireRundownProtection", DISPATCH_LEVEL);
    // SAFETY: by the function's page.
    let word = unsafe { word(reference) };
    let more = |value| (value & RUNNING_DOWN == 0).then_some(value + USER);
    if word.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok() { TRUE } else { FALSE }
}

pub(super) unsafe extern "system" fn ExReleaseRundownProtection(reference: *mut EX_RUNDOWN_REF) {
    irql::require_at_most("ExReleaseRundownProtection", DISPATCH_LEVEL);
    // SAFETY: by the function's page.
    let word = unsafe { word(reference) };
    let less = |value: usize| value.checked_sub(USER);
    if word.fetch_update(Ordering::Release, Ordering::Relaxed, less).is_err() {
        violation(&RUNDOWN_RELEASE, "ExReleaseRundownProtection", "");
    }
}

pub(super) unsafe extern "system" fn ExWaitForRundownProtectionRelease(reference: *mut EX_RUNDOWN_REF) {
    irql::require_at_most("ExWaitForRundownProtectionRelease", APC_LEVEL);
    // SAFETY: by the function's page.
    let word = unsafe { word(reference) };
    word.fetch_or(RUNNING_DOWN, Ordering::AcqRel);
    while word.load(Ordering::Acquire) != RUNNING_DOWN {
        thread::sleep(Duration::from_millis(1));
    }
}

pub(super) unsafe extern "system" fn ExRundownCompleted(reference: *mut EX_RUNDOWN_REF) {
    // SAFETY: by the function's page.
    unsafe { word(reference) }.store(RUNNING_DOWN, Ordering::Release);
}
