//! System threads.
//!
//! Starting and joining take [`Passive`]. A thread is joined through its *object*, by the handle that keeps it:
//! when the wait ends, the thread has left the driver's code for good, which no event set by its last
//! instruction could promise. A [`Thread`] that is dropped without being joined leaks its handle, and the
//! verifier names it.
//!
//! ```compile_fail,E0277
//! use weir::kernel::{Result, irql::Passive, pool::PoolBox, thread::Thread};
//! fn starts_with_what_belongs_to_this_thread(passive: &Passive, context: PoolBox<*mut u8>) -> Result<Thread> {
//!     Thread::start(passive, context, |_, _| ())
//! }
//! ```

use super::irql::Passive;
use super::pool::{PoolBox, tags};
use super::status::{Result, Status};
use super::time::Interval;
use crate::kernel::event::Waited;
use crate::sys::nt;

/// A running thread, to be joined.
#[derive(Debug)]
#[must_use = "a thread must be joined before the driver unloads"]
pub struct Thread {
    handle: nt::HANDLE,
}

// SAFETY: a kernel handle, good on any thread.
unsafe impl Send for Thread {}
// SAFETY: waiting on a handle from several threads is the kernel's to synchronise.
unsafe impl Sync for Thread {}

/// What a thread is started with.
struct Packet<C> {
    entry: fn(&mut Passive, PoolBox<C>),
    context: PoolBox<C>,
}

impl Thread {
    /// Starts a system thread (PsCreateSystemThread) that calls `entry` with `context`, and ends when it returns.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES` and what PsCreateSystemThread returns; the context is dropped, and `entry`
    /// is not called.
    pub fn start<C: Send + 'static>(
        _passive: &Passive,
        context: PoolBox<C>,
        entry: fn(&mut Passive, PoolBox<C>),
    ) -> Result<Self> {
        let packet = PoolBox::try_new(tags::THREAD, Packet { entry, context })?.into_raw();
        let mut attributes = nt::OBJECT_ATTRIBUTES {
            Length: nt::OBJECT_ATTRIBUTES_SIZE,
            RootDirectory: core::ptr::null_mut(),
            ObjectName: core::ptr::null_mut(),
            // The caller may run in any process: the handle must not be that process's.
            Attributes: nt::OBJ_KERNEL_HANDLE,
            SecurityDescriptor: core::ptr::null_mut(),
            SecurityQualityOfService: core::ptr::null_mut(),
        };
        let mut handle = core::ptr::null_mut();
        // SAFETY: out and in structures live for the call; the routine matches the packet, whose ownership passes
        // to the thread; the token says PASSIVE_LEVEL.
        let status = unsafe {
            nt::PsCreateSystemThread(
                &raw mut handle,
                nt::THREAD_ALL_ACCESS,
                &raw mut attributes,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
                Some(start::<C>),
                packet.as_ptr().cast(),
            )
        };
        if let Err(status) = Status(status).exact() {
            // SAFETY: no thread was made, so the packet is still ours.
            drop(unsafe { PoolBox::from_raw(tags::THREAD, packet) });
            return Err(status);
        }
        Ok(Self { handle })
    }

    /// Waits until the thread has ended.
    pub fn join(self, passive: &Passive) {
        // Without a bound the wait can only end with the thread.
        let _ended = self.wait(passive, None);
        // SAFETY: the handle is ours, and closed once; the token says PASSIVE_LEVEL.
        _ = unsafe { nt::ZwClose(self.handle) };
    }

    /// Waits until the thread has ended, for `bound` at most.
    pub fn wait(&self, _passive: &Passive, bound: Option<Interval>) -> Waited {
        let mut due = bound.map(Interval::relative);
        let due = due.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        // SAFETY: an open handle to a thread; the token says PASSIVE_LEVEL. Not alertable.
        let status = unsafe { nt::ZwWaitForSingleObject(self.handle, nt::FALSE, due) };
        if status == nt::STATUS_TIMEOUT { Waited::TimedOut } else { Waited::Signalled }
    }
}

/// The thread's first routine. Returning from it ends the thread.
unsafe extern "C" fn start<C: Send + 'static>(packet: nt::PVOID) {
    let Some(packet) = core::ptr::NonNull::new(packet.cast::<Packet<C>>()) else { return };
    // SAFETY: `Thread::start` gave this packet up to this thread.
    let Packet { entry, context } = unsafe { PoolBox::from_raw(tags::THREAD, packet) }.into_inner();
    // SAFETY: a system thread starts at PASSIVE_LEVEL ("PsCreateSystemThread"); lent to `entry` only.
    let mut passive = unsafe { Passive::assume() };
    entry(&mut passive, context);
}
