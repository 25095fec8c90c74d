//! Bug checks: what is added to the crash dump (KeRegisterBugCheckReasonCallback, KbCallbackSecondaryDumpData).
//!
//! Page "Writing a Bug Check Callback Routine": the callback runs at HIGH_LEVEL and is not interrupted, while the other
//! processors stand still wherever they were. It must not allocate, wait, take a lock, touch pageable memory, or call what
//! is for DISPATCH_LEVEL and below; a page fault there can cost the dump. So it gets a token of its own, [`HighLevel`],
//! which opens nothing but what a bug check may look at, and memory that was allocated ahead:
//!
//! ```compile_fail,E0308
//! use weir::kernel::{bugcheck::HighLevel, event::Event};
//! fn waits(high: &HighLevel, event: &Event) {
//!     let _ = event.wait(high, None);
//! }
//! ```
//! ```compile_fail,E0599
//! use weir::kernel::bugcheck::HighLevel;
//! fn raises(high: &mut HighLevel) {
//!     let _ = high.raise();
//! }
//! ```

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::irql::Passive;
use super::pool::{PoolArc, PoolBox, PoolSlice, tags};
use super::status::{Result, Status};
use crate::ring::Alone;
use crate::sys::nt;

/// Proof that a bug check is under way, at HIGH_LEVEL, and all other processors stand still.
#[derive(Debug)]
pub struct HighLevel {
    _this_thread_only: PhantomData<*mut ()>,
}

// SAFETY: "callback routines are guaranteed to run without interruption", and the "other cores are frozen".
unsafe impl Alone for HighLevel {}

/// Makes the block.
pub trait Record: Send + Sync + 'static {
    /// Writes it into `into`, and says how long it is. It may be asked more than once.
    fn record(&self, high: &HighLevel, into: &mut [u8]) -> usize;
}

/// Something that a bug check may look at, while it is shown.
pub struct Shown<T> {
    raw: AtomicPtr<()>,
    owned: PhantomData<PoolArc<T>>,
}

// SAFETY: it owns what a `PoolArc` does, behind an atomic.
unsafe impl<T: Send + Sync> Send for Shown<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shown<T> {}

impl<T> Default for Shown<T> {
    fn default() -> Self {
        Self { raw: AtomicPtr::new(null_mut()), owned: PhantomData }
    }
}

impl<T> fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.raw).finish()
    }
}

impl<T> Shown<T> {
    /// Shows this, in place of what was shown.
    pub fn show(&self, object: PoolArc<T>) {
        self.replace(object.into_raw().as_ptr());
    }

    fn replace(&self, raw: *mut ()) {
        let Some(before) = NonNull::new(self.raw.swap(raw, Ordering::AcqRel)) else { return };
        // SAFETY: `show` gave it up, and the swap gives it to one caller.
        drop(unsafe { PoolArc::<T>::from_raw(before) });
    }

    /// What is shown.
    pub fn get<'a>(&'a self, _high: &'a HighLevel) -> Option<&'a T> {
        let raw = NonNull::new(self.raw.load(Ordering::Acquire))?;
        // SAFETY: it is owned while it is shown, and who would replace it stands still for as long as the token lives.
        Some(unsafe { PoolArc::borrow_raw(raw) })
    }
}

impl<T> Drop for Shown<T> {
    fn drop(&mut self) {
        self.replace(null_mut());
    }
}

/// What the system and the callback share. It stays where it is.
#[repr(C)]
struct Context<T> {
    /// The system's, linked into a list of its own. First, since it is what the callback gets.
    record: UnsafeCell<MaybeUninit<nt::KBUGCHECK_REASON_CALLBACK_RECORD>>,
    tag: nt::GUID,
    /// The callback's alone.
    block: UnsafeCell<PoolSlice<u8>>,
    recorder: T,
}

/// The registration. It must be taken back before the driver unloads.
#[must_use = "it must be taken back before the driver unloads"]
pub struct Callback<T: Record> {
    context: NonNull<Context<T>>,
}

// SAFETY: the recorder is shared with the callback, which nobody calls but a bug check.
unsafe impl<T: Record> Send for Callback<T> {}
// SAFETY: as above.
unsafe impl<T: Record> Sync for Callback<T> {}

impl<T: Record> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Callback").field(&self.context).finish()
    }
}

impl<T: Record> Callback<T> {
    /// Registers `recorder` for a block of up to `size` bytes with that tag.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_UNSUCCESSFUL` where the system does not take it.
    pub fn register(
        _passive: &Passive,
        tag: nt::GUID,
        component: &'static CStr,
        size: usize,
        recorder: T,
    ) -> Result<Self> {
        let block = UnsafeCell::new(PoolSlice::try_zeroed(tags::DUMP, size)?);
        // KeInitializeCallbackRecord: the state is BufferEmpty, 0.
        let record = UnsafeCell::new(MaybeUninit::zeroed());
        let context = PoolBox::try_new(tags::DUMP, Context { record, tag, block, recorder })?.into_raw();
        // SAFETY: the context is there.
        let record = unsafe { context.as_ref() }.record.get().cast();
        // SAFETY: a record in the pool, where it stays until it is taken back; the text is static; the routine is for this
        // reason.
        let registered = unsafe {
            nt::KeRegisterBugCheckReasonCallback(
                record,
                Some(dump::<T>),
                nt::KbCallbackSecondaryDumpData,
                component.as_ptr().cast_mut().cast(),
            )
        };
        if registered == nt::FALSE {
            // SAFETY: it was not registered, so the context is still ours.
            drop(unsafe { PoolBox::from_raw(tags::DUMP, context) });
            return Err(Status::UNSUCCESSFUL);
        }
        Ok(Self { context })
    }

    /// Who makes the block.
    pub fn recorder(&self) -> &T {
        // SAFETY: the context stays until the registration is taken back.
        let context = unsafe { self.context.as_ref() };
        &context.recorder
    }

    /// Takes the registration back (KeDeregisterBugCheckReasonCallback).
    pub fn deregister(self, _passive: &Passive) {
        // SAFETY: the context is there.
        let record = unsafe { self.context.as_ref() }.record.get().cast();
        // SAFETY: registered in `register`, and taken back once.
        let gone = unsafe { nt::KeDeregisterBugCheckReasonCallback(record) };
        // A record that the system says it does not have is not ours to free.
        if gone != nt::FALSE {
            // SAFETY: given up in `register`; no bug check finds it any more.
            drop(unsafe { PoolBox::from_raw(tags::DUMP, self.context) });
        }
    }
}

/// The callback.
unsafe extern "C" fn dump<T: Record>(
    reason: nt::KBUGCHECK_CALLBACK_REASON,
    record: *mut nt::KBUGCHECK_REASON_CALLBACK_RECORD,
    data: nt::PVOID,
    length: u32,
) {
    let size = usize::try_from(length).unwrap_or(0);
    if reason != nt::KbCallbackSecondaryDumpData || size < size_of::<nt::KBUGCHECK_SECONDARY_DUMP_DATA>() {
        return;
    }
    // SAFETY: the record is the first member of the context that was registered with it.
    let Some(context) = (unsafe { record.cast::<Context<T>>().as_ref() }) else { return };
    // SAFETY: for this reason the data are of this type.
    let Some(data) = (unsafe { data.cast::<nt::KBUGCHECK_SECONDARY_DUMP_DATA>().as_mut() }) else { return };
    // SAFETY: the callback's alone, and it is not interrupted.
    let block = unsafe { &mut *context.block.get() };
    let allowed = usize::try_from(data.MaximumAllowed).unwrap_or(0).min(block.len());
    let high = HighLevel { _this_thread_only: PhantomData };
    let written = match block.get_mut(..allowed) {
        Some(into) => context.recorder.record(&high, into).min(allowed),
        None => 0,
    };
    data.Guid = context.tag;
    // Whether the system asks for the size alone, or for the block: it is the same, and of the driver's own memory.
    data.OutBuffer = block.as_mut_ptr().cast();
    data.OutBufferLength = u32::try_from(written).unwrap_or(0);
}
