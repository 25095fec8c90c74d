//! Spin locks, which raise to DISPATCH_LEVEL. Wine's raise nothing and answer IRQL 0.

use core::sync::atomic::{AtomicUsize, Ordering};

use wine_support::thread;

use crate::irql;
use crate::sys::nt::{BOOLEAN, DISPATCH_LEVEL, KIRQL, KSPIN_LOCK};
use crate::verify::violation;

crate::rules! {
    SPIN_LOCK_NOT_HELD = ("spin lock released that nobody holds", "");
    SPIN_LOCK_IRQL = ("spin lock taken below DISPATCH_LEVEL", "");
}

/// KLOCK_QUEUE_HANDLE: room for the queue, then the IRQL before.
#[repr(C)]
pub(super) struct QueueHandle {
    next: *mut QueueHandle,
    lock: *mut KSPIN_LOCK,
    old: KIRQL,
}

const _: () = assert!(size_of::<QueueHandle>() == 0x18);

/// # Safety
/// It is a spin lock, in memory that stays while it is used.
unsafe fn word<'a>(lock: *mut KSPIN_LOCK) -> &'a AtomicUsize {
    // SAFETY: by the contract; a KSPIN_LOCK is a word.
    unsafe { AtomicUsize::from_ptr(lock) }
}

fn acquire(lock: &AtomicUsize) {
    let mut attempts = 0u32;
    while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        attempts += 1;
        if attempts.is_multiple_of(64) {
            thread::yield_now();
        } else {
            core::hint::spin_loop();
        }
    }
}

fn release(api: &'static str, lock: &AtomicUsize) {
    if lock.swap(0, Ordering::Release) == 0 {
        violation(&SPIN_LOCK_NOT_HELD, api, "");
    }
}

fn require_dispatch(api: &'static str) {
    if irql::current() < DISPATCH_LEVEL {
        violation(&SPIN_LOCK_IRQL, api, "");
    }
}

pub(super) unsafe extern "system" fn KeInitializeSpinLock(lock: *mut KSPIN_LOCK) {
    // SAFETY: by the function's page.
    unsafe { lock.write(0) };
}

pub(super) unsafe extern "system" fn KeAcquireSpinLockRaiseToDpc(lock: *mut KSPIN_LOCK) -> KIRQL {
    let old = irql::raise(DISPATCH_LEVEL);
    // SAFETY: by the function's page.
    acquire(unsafe { word(lock) });
    old
}

pub(super) unsafe extern "system" fn KeAcquireSpinLock(lock: *mut KSPIN_LOCK, old: *mut KIRQL) {
    // SAFETY: by the function's page.
    let level = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
    // SAFETY: by the function's page.
    unsafe { old.write(level) };
}

pub(super) unsafe extern "system" fn KeReleaseSpinLock(lock: *mut KSPIN_LOCK, old: KIRQL) {
    // SAFETY: by the function's page.
    release("KeReleaseSpinLock", unsafe { word(lock) });
    irql::lower(old);
}

pub(super) unsafe extern "system" fn KeAcquireSpinLockAtDpcLevel(lock: *mut KSPIN_LOCK) {
    require_dispatch("KeAcquireSpinLockAtDpcLevel");
    // SAFETY: by the function's page.
    acquire(unsafe { word(lock) });
}

pub(super) unsafe extern "system" fn KeReleaseSpinLockFromDpcLevel(lock: *mut KSPIN_LOCK) {
    require_dispatch("KeReleaseSpinLockFromDpcLevel");
    // SAFETY: by the function's page.
    release("KeReleaseSpinLockFromDpcLevel", unsafe { word(lock) });
}

pub(super) unsafe extern "system" fn KeTryToAcquireSpinLockAtDpcLevel(lock: *mut KSPIN_LOCK) -> BOOLEAN {
    require_dispatch("KeTryToAcquireSpinLockAtDpcLevel");
    // SAFETY: by the function's page.
    let lock = unsafe { word(lock) };
    lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok().into()
}

pub(super) unsafe extern "system" fn KeAcquireInStackQueuedSpinLock(
    lock: *mut KSPIN_LOCK,
    handle: *mut QueueHandle,
) {
    // SAFETY: by the function's page.
    let old = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
    // SAFETY: by the function's page it is the caller's, and can be written.
    unsafe { handle.write(QueueHandle { next: core::ptr::null_mut(), lock, old }) };
}

pub(super) unsafe extern "system" fn KeReleaseInStackQueuedSpinLock(handle: *mut QueueHandle) {
    // SAFETY: `KeAcquireInStackQueuedSpinLock` has filled it.
    let handle = unsafe { &*handle };
    // SAFETY: as above.
    unsafe { KeReleaseSpinLock(handle.lock, handle.old) };
}
