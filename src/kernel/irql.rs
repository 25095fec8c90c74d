//! The interrupt request level, as types.
//!
//! | token | says | given by |
//! | --- | --- | --- |
//! | [`Passive`] | PASSIVE_LEVEL, APCs aside | DriverEntry, DriverUnload, a thread's entry |
//! | [`AtMostDispatch`] | some level up to DISPATCH_LEVEL; may be preempted and migrate | every callback |
//! | [`AtDispatch`] | DISPATCH_LEVEL: this code owns its processor | a raise, or a lock held |
//! | [`HighLevel`](super::bugcheck::HighLevel) | HIGH_LEVEL, in a bug check: nobody else runs | its callback |
//!
//! Tokens have no size and no cost. They are neither `Copy`, `Send` nor `Sync`, and safe code is only ever lent
//! one (`&` or `&mut`), so that none can be kept. A call that waits takes `&Passive`; raising takes `&mut`,
//! which makes a wait inside a raised section a borrow error:
//!
//! ```compile_fail,E0502
//! use weir::kernel::{irql::Passive, time};
//! fn waits_while_raised(passive: &mut Passive) {
//!     let raised = passive.raise();
//!     time::delay(passive, time::Interval::from_millis(1)); // PASSIVE_LEVEL is lent out
//!     drop(raised);
//! }
//! ```
//! ```
//! use weir::kernel::{irql::Passive, time};
//! fn waits_after_lowering(passive: &mut Passive) {
//!     let raised = passive.raise();
//!     drop(raised);
//!     time::delay(passive, time::Interval::from_millis(1));
//! }
//! ```
//! A callback, which may run at DISPATCH_LEVEL, cannot wait at all:
//! ```compile_fail,E0308
//! use weir::kernel::{irql::AtMostDispatch, time};
//! fn callback(irql: &mut AtMostDispatch) {
//!     time::delay(irql, time::Interval::from_millis(1));
//! }
//! ```
//! Knowing only that the level is at most DISPATCH_LEVEL does not give the processor:
//! ```compile_fail,E0599
//! use weir::kernel::irql::AtMostDispatch;
//! fn callback(irql: &mut AtMostDispatch) -> u32 {
//!     irql.processor()
//! }
//! ```
//! A token cannot outlive the level it speaks of:
//! ```compile_fail,E0505
//! use weir::kernel::irql::Passive;
//! fn keeps(passive: &mut Passive) -> u32 {
//!     let raised = passive.raise();
//!     let token = raised.token();
//!     drop(raised);
//!     token.processor()
//! }
//! ```
//! ```compile_fail,E0716
//! use weir::kernel::irql::{AtDispatch, Passive};
//! struct Kept(AtDispatch<'static>);
//! fn keeps(passive: &mut Passive) -> Kept {
//!     Kept(passive.raise().token())
//! }
//! ```
//! nor be copied, nor reach another thread, whose level is its own:
//! ```compile_fail,E0277
//! use weir::kernel::irql::Passive;
//! fn need_clone<T: Clone>(_: &T) {}
//! fn copies(passive: &Passive) {
//!     need_clone::<Passive>(passive);
//! }
//! ```
//! ```compile_fail,E0277
//! use weir::kernel::irql::Passive;
//! fn sends(passive: &Passive) {
//!     std::thread::scope(|scope| {
//!         scope.spawn(|| { let _here: &Passive = passive; });
//!     });
//! }
//! ```
//! ```compile_fail,E0277
//! use weir::kernel::irql::AtMostDispatch;
//! fn need_send<T: Send>(_: T) {}
//! fn sends_a_raised_level(irql: &mut AtMostDispatch) {
//!     need_send(irql.raise());
//! }
//! ```
//! Nor can safe code make one:
//! ```compile_fail,E0133
//! let _ = weir::kernel::irql::Passive::assume();
//! ```
//! What no type can see is `core::mem::forget` of a guard; the lint `clippy::mem_forget` denies it.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::ring::OnProcessor;
use crate::sys::nt;

/// Proof that the code runs at PASSIVE_LEVEL.
///
/// Coerces to [`AtMostDispatch`] where less is asked for.
#[derive(Debug)]
#[repr(transparent)]
pub struct Passive {
    level: AtMostDispatch,
}

/// Proof that the code runs at or below DISPATCH_LEVEL. It promises neither of the two: the code may be
/// preempted, and may wake up on another processor.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtMostDispatch {
    _this_thread_only: PhantomData<*mut ()>,
}

/// Proof that the code runs at DISPATCH_LEVEL for `'a`: it is not preempted, and stays on its processor.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtDispatch<'a> {
    level: AtMostDispatch,
    _while: PhantomData<&'a AtMostDispatch>,
}

/// DISPATCH_LEVEL, until dropped.
#[derive(Debug)]
#[must_use = "dropping it lowers the level again at once"]
pub struct Raised<'a> {
    at: AtDispatch<'a>,
    old: nt::KIRQL,
}

impl Passive {
    /// # Safety
    /// The calling thread runs at PASSIVE_LEVEL, and the token is lent only to code that runs before the caller
    /// returns or changes the level.
    pub const unsafe fn assume() -> Self {
        // SAFETY: PASSIVE_LEVEL is at most DISPATCH_LEVEL; the rest is the caller's promise.
        Self { level: unsafe { AtMostDispatch::assume() } }
    }
}

impl AtMostDispatch {
    /// # Safety
    /// The calling thread runs at or below DISPATCH_LEVEL, and the token is lent only to code that runs before
    /// the caller returns or changes the level.
    pub const unsafe fn assume() -> Self {
        Self { _this_thread_only: PhantomData }
    }

    /// Raises to DISPATCH_LEVEL (KeRaiseIrqlToDpcLevel). At DISPATCH_LEVEL already, it stays there.
    #[inline]
    pub fn raise(&mut self) -> Raised<'_> {
        // SAFETY: the level is at most DISPATCH_LEVEL, so this raises it or leaves it.
        let old = unsafe { nt::KeRaiseIrqlToDpcLevel() };
        // SAFETY: the level is DISPATCH_LEVEL until `Raised` is dropped, which the lifetime of `self` outlasts.
        Raised { at: unsafe { AtDispatch::assume() }, old }
    }
}

impl AtDispatch<'_> {
    /// # Safety
    /// The calling thread runs at DISPATCH_LEVEL for the whole of the lifetime that the caller gives the token.
    pub const unsafe fn assume() -> Self {
        // SAFETY: DISPATCH_LEVEL is at most DISPATCH_LEVEL; the rest is the caller's promise.
        Self { level: unsafe { AtMostDispatch::assume() }, _while: PhantomData }
    }

    /// The index of the processor that this code owns, from 0, unique in the machine over all groups, below
    /// [`maximum_processors`].
    #[inline]
    pub fn processor(&self) -> u32 {
        // SAFETY: callable at any level.
        unsafe { nt::KeGetCurrentProcessorIndex() }
    }
}

/// The number of processors that the machine can ever have, those added while it runs included: the number of
/// per-processor slots to allocate. At least 1. (KeQueryMaximumProcessorCountEx)
pub fn maximum_processors() -> u32 {
    // SAFETY: callable at any level.
    unsafe { nt::KeQueryMaximumProcessorCountEx(nt::ALL_PROCESSOR_GROUPS) }.max(1)
}

/// The number of processors now active, at least 1. (KeQueryActiveProcessorCountEx)
pub fn active_processors(_passive: &Passive) -> u32 {
    // SAFETY: callable up to APC_LEVEL; the token says PASSIVE_LEVEL.
    unsafe { nt::KeQueryActiveProcessorCountEx(nt::ALL_PROCESSOR_GROUPS) }.max(1)
}

impl Raised<'_> {
    /// The raised level's token.
    #[inline]
    pub fn token(&self) -> AtDispatch<'_> {
        // SAFETY: the level is lowered when `self` is dropped, which the borrow rules out.
        unsafe { AtDispatch::assume() }
    }
}

impl<'a> Deref for Raised<'a> {
    type Target = AtDispatch<'a>;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.at
    }
}

impl DerefMut for Raised<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.at
    }
}

impl Drop for Raised<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `old` came from the matching raise on this thread (`Raised` is not `Send`), and what was
        // raised after it is lowered before it, because it borrows from it.
        unsafe { nt::KeLowerIrql(self.old) };
    }
}

impl Deref for Passive {
    type Target = AtMostDispatch;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.level
    }
}

impl DerefMut for Passive {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.level
    }
}

impl Deref for AtDispatch<'_> {
    type Target = AtMostDispatch;
    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.level
    }
}

impl DerefMut for AtDispatch<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.level
    }
}

// SAFETY: at DISPATCH_LEVEL the thread is neither preempted nor moved, and the index is unique per processor
// and below the maximum count.
unsafe impl OnProcessor for AtDispatch<'_> {
    #[inline]
    fn processor(&self) -> u32 {
        AtDispatch::processor(self)
    }
}
