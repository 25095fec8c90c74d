//! Rundown protection: many short uses, one end that waits for them (EX_RUNDOWN_REF).
//!
//! Acquiring and releasing are for any level up to DISPATCH_LEVEL and never wait; running down takes
//! [`Passive`]. Documentation: "Run-Down Protection".

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use super::irql::Passive;
use super::pool::{PoolBox, tags};
use super::status::Result;
use crate::sys::nt::{self, EX_RUNDOWN_REF};

/// A gate: open until it is run down.
#[derive(Debug)]
pub struct Rundown {
    // Opaque and known to the kernel by address: in a block of its own.
    reference: PoolBox<Reference>,
}

#[derive(Debug)]
struct Reference(UnsafeCell<MaybeUninit<EX_RUNDOWN_REF>>);

// SAFETY: the kernel's operations on the reference are interlocked.
unsafe impl Send for Reference {}
// SAFETY: as above.
unsafe impl Sync for Reference {}

impl Rundown {
    /// A new gate, open.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new() -> Result<Self> {
        let reference = Reference(UnsafeCell::new(MaybeUninit::uninit()));
        let rundown = Self { reference: PoolBox::try_new(tags::SYNC, reference)? };
        // SAFETY: room for the structure, in the pool, where it stays.
        unsafe { nt::ExInitializeRundownProtection(rundown.raw()) };
        Ok(rundown)
    }

    /// Enters, unless the gate is closed. Whoever waits in [`Rundown::run_down`] waits for the guard.
    #[inline]
    pub fn acquire(&self) -> Option<Protection<'_>> {
        // SAFETY: initialised; callable up to DISPATCH_LEVEL.
        let entered = unsafe { nt::ExAcquireRundownProtection(self.raw()) } != nt::FALSE;
        // Made only on success: dropping one leaves.
        entered.then(|| Protection { rundown: self })
    }

    /// Closes the gate and waits until everyone has left. Closing twice does nothing more. The caller must not be
    /// inside itself: it would wait for itself.
    pub fn run_down(&self, _passive: &Passive) {
        // SAFETY: initialised; the token says PASSIVE_LEVEL.
        unsafe { nt::ExWaitForRundownProtectionRelease(self.raw()) };
    }

    /// Runs the gate down, and opens it again for a new object.
    pub fn reopen(&mut self, passive: &Passive) {
        self.run_down(passive);
        // SAFETY: run down just now, and nobody else can be about: the gate is borrowed mutably.
        unsafe { nt::ExReInitializeRundownProtection(self.raw()) };
    }

    fn raw(&self) -> *mut EX_RUNDOWN_REF {
        self.reference.0.get().cast()
    }
}

/// Being inside the gate; leaves when dropped, on any thread.
#[derive(Debug)]
#[must_use = "dropping it leaves at once"]
pub struct Protection<'a> {
    rundown: &'a Rundown,
}

impl Protection<'_> {
    /// Stays inside beyond the borrow, for work that ends in a callback, which calls [`Rundown::leave`].
    pub fn keep(self) {
        let _kept = core::mem::ManuallyDrop::new(self);
    }
}

impl Rundown {
    /// Leaves for a [`Protection::keep`].
    ///
    /// # Safety
    /// Once for each `keep`.
    pub unsafe fn leave(&self) {
        // SAFETY: the caller entered and has not left; callable up to DISPATCH_LEVEL.
        unsafe { nt::ExReleaseRundownProtection(self.raw()) };
    }
}

impl Drop for Protection<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: entered when made, and left here only.
        unsafe { self.rundown.leave() };
    }
}
