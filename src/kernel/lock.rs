//! Spin locks.
//!
//! One design: [`SpinLock`] owns its data, its [`Guard`] owns the level at which the lock is held. A spin lock
//! held below DISPATCH_LEVEL could be preempted and leave its waiters spinning for a thread that cannot run, so
//! [`SpinLock::lock`] raises first, and [`SpinLock::lock_at`] takes the proof that this has been done.
//!
//! Any code at or below DISPATCH_LEVEL may take one. The guard borrows the level: nothing can wait while it
//! lives, and it is released in reverse order. Taking a lock twice on one thread never ends; the simulated
//! kernel reports it, and the order of locks, by name.
//!
//! ```compile_fail,E0502
//! use weir::kernel::{irql::Passive, lock::SpinLock, time};
//! fn waits_under_a_lock(passive: &mut Passive, counter: &SpinLock<u32>) {
//!     let guard = counter.lock(passive);
//!     time::delay(passive, time::Interval::from_millis(1));
//!     drop(guard);
//! }
//! ```
//! ```compile_fail,E0277
//! use weir::kernel::{irql::Passive, lock::SpinLock};
//! fn need_send<T: Send>(_: T) {}
//! fn sends_a_guard(passive: &mut Passive, counter: &SpinLock<u32>) {
//!     need_send(counter.lock(passive));
//! }
//! ```
//! ```compile_fail,E0505
//! use weir::kernel::{irql::Passive, lock::SpinLock};
//! fn lowers_under_a_lock(passive: &mut Passive, counter: &SpinLock<u32>) -> u32 {
//!     let raised = passive.raise();
//!     let guard = counter.lock_at(&raised);
//!     drop(raised);
//!     *guard
//! }
//! ```

use core::fmt;
use core::ops::{Deref, DerefMut};

use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::RelaxStrategy;

use super::irql::{AtDispatch, AtMostDispatch, Raised};
use crate::sys::{nt, verifier};

/// Relaxes with `YieldProcessor` while another processor holds the lock.
struct YieldProcessor;

impl RelaxStrategy for YieldProcessor {
    #[inline]
    fn relax() {
        // SAFETY: an instruction without effect but on the processor's pipeline.
        unsafe { nt::YieldProcessor() };
    }
}

/// Data behind a spin lock.
pub struct SpinLock<T> {
    name: &'static str,
    inner: SpinMutex<T, YieldProcessor>,
}

/// What a guard holds of the level: the raise itself, or a borrow of someone else's.
pub trait Level {
    /// The level's token, for the time that the lock is held.
    fn token(&self) -> AtDispatch<'_>;
}

impl Level for Raised<'_> {
    #[inline]
    fn token(&self) -> AtDispatch<'_> {
        Raised::token(self)
    }
}

impl Level for &AtDispatch<'_> {
    #[inline]
    fn token(&self) -> AtDispatch<'_> {
        // SAFETY: the borrowed token says that the level is DISPATCH_LEVEL while it is borrowed.
        unsafe { AtDispatch::assume() }
    }
}

/// The lock, held. Field order matters: the lock is released before the level is lowered.
#[must_use = "dropping it releases the lock at once"]
pub struct Guard<'a, T, L: Level> {
    lock: &'a SpinLock<T>,
    data: SpinMutexGuard<'a, T, YieldProcessor>,
    level: L,
}

impl<T> SpinLock<T> {
    /// `name` appears in the verifier's reports.
    pub const fn new(name: &'static str, data: T) -> Self {
        Self { name, inner: SpinMutex::new(data) }
    }

    /// Raises to DISPATCH_LEVEL and takes the lock. The level is lowered when the guard is dropped.
    #[inline]
    pub fn lock<'a>(&'a self, irql: &'a mut AtMostDispatch) -> Guard<'a, T, Raised<'a>> {
        let level = irql.raise();
        self.acquire(level)
    }

    /// Takes the lock where the level is DISPATCH_LEVEL already.
    #[inline]
    pub fn lock_at<'a>(&'a self, at: &'a AtDispatch<'_>) -> Guard<'a, T, &'a AtDispatch<'a>> {
        self.acquire(at)
    }

    /// The data, without locking: the exclusive borrow is proof enough.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    #[inline]
    fn acquire<L: Level>(&self, level: L) -> Guard<'_, T, L> {
        // Told before it spins, so that a lock taken twice is reported and not only waited for.
        verifier::lock_acquiring(self.address(), self.name);
        let data = self.inner.lock();
        verifier::lock_acquired(self.address(), self.name);
        Guard { lock: self, data, level }
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

impl<T, L: Level> Guard<'_, T, L> {
    /// The data together with the level's token, for taking a further lock or claiming a ring slot meanwhile.
    #[inline]
    pub fn with_token(&mut self) -> (&mut T, AtDispatch<'_>) {
        (&mut self.data, self.level.token())
    }
}

impl<T, L: Level> Deref for Guard<'_, T, L> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T, L: Level> DerefMut for Guard<'_, T, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

impl<T, L: Level> Drop for Guard<'_, T, L> {
    #[inline]
    fn drop(&mut self) {
        verifier::lock_released(self.lock.address());
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock").field("name", &self.name).finish_non_exhaustive()
    }
}
