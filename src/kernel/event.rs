//! Kernel events.
//!
//! Setting, clearing and reading are for any level up to DISPATCH_LEVEL; waiting takes [`Passive`].
//! The KEVENT links its waiters to its own address: it lives in a pool block of its own, so an [`Event`] may be
//! moved; [`EventCell`] is the raw one, for embedding in an object that stays where it is.

use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::mem::MaybeUninit;

use super::irql::Passive;
use super::pool::{PoolBox, tags};
use super::status::{Result, Status};
use super::time::Interval;
use crate::sys::nt::{self, KEVENT};

/// What setting an event does to its waiters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Stays set until cleared, and lets every waiter through.
    Notification,
    /// Lets one waiter through, and is clear again.
    Synchronization,
}

/// How a wait with a bound ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Waited {
    Signalled,
    TimedOut,
}

/// An event that may be moved.
#[derive(Debug)]
pub struct Event {
    cell: PoolBox<EventCell>,
}

impl Event {
    /// A new event, clear.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(kind: Kind) -> Result<Self> {
        // SAFETY: initialised next.
        let cell = PoolBox::try_new(tags::SYNC, unsafe { EventCell::uninitialised() })?;
        // SAFETY: in the pool, where it stays, and not initialised yet.
        unsafe { cell.init(kind) };
        Ok(Self { cell })
    }

    /// Sets the event. The event must not be freed before this returns: a waiter that frees it shares its
    /// ownership ([`super::pool::PoolArc`]) or joins the thread that sets it.
    pub fn set(&self) {
        self.cell.set();
    }

    /// Clears the event.
    pub fn clear(&self) {
        self.cell.clear();
    }

    /// Whether it is set, now.
    pub fn is_set(&self) -> bool {
        self.cell.is_set()
    }

    /// Waits until the event is set, for `bound` at most, without end where there is none.
    pub fn wait(&self, passive: &Passive, bound: Option<Interval>) -> Waited {
        self.cell.wait(passive, bound)
    }

    /// Waits until one of up to three events is set, and says which: the first in order where several are.
    /// `None` when `bound` passed before.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for no event or more than three.
    pub fn wait_any(events: &[&Self], _passive: &Passive, bound: Option<Interval>) -> Result<Option<usize>> {
        let mut objects = [core::ptr::null_mut(); MAX_WAIT_OBJECTS];
        if events.is_empty() || events.len() > objects.len() {
            return Err(Status::INVALID_PARAMETER);
        }
        for (object, event) in objects.iter_mut().zip(events) {
            *object = event.cell.as_object();
        }
        let count = u32::try_from(events.len()).map_err(|_| Status::INVALID_PARAMETER)?;
        let mut due = bound.map(Interval::relative);
        let due = due.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        // SAFETY: `count` events that the borrow keeps alive; up to THREAD_WAIT_OBJECTS the thread's own wait
        // blocks serve; the token says PASSIVE_LEVEL.
        let status = unsafe {
            nt::KeWaitForMultipleObjects(
                count,
                objects.as_mut_ptr(),
                nt::WaitAny,
                nt::Executive,
                nt::KernelMode,
                nt::FALSE,
                due,
                core::ptr::null_mut(),
            )
        };
        match usize::try_from(status.wrapping_sub(nt::STATUS_WAIT_0)) {
            Ok(index) if index < events.len() => Ok(Some(index)),
            _ if status == nt::STATUS_TIMEOUT => Ok(None),
            _ => Err(Status(status)),
        }
    }
}

/// THREAD_WAIT_OBJECTS: how many objects can be waited for without blocks of the caller's.
const MAX_WAIT_OBJECTS: usize = 3;

/// The event itself, for embedding in what stays where it is.
#[derive(Debug)]
pub struct EventCell {
    event: UnsafeCell<MaybeUninit<KEVENT>>,
    _stays: PhantomPinned,
}

// SAFETY: the kernel synchronises every operation on an event.
unsafe impl Send for EventCell {}
// SAFETY: as above.
unsafe impl Sync for EventCell {}

impl EventCell {
    /// Room for an event.
    ///
    /// # Safety
    /// Nothing but [`EventCell::init`] is done with it before that.
    pub const unsafe fn uninitialised() -> Self {
        Self { event: UnsafeCell::new(MaybeUninit::uninit()), _stays: PhantomPinned }
    }

    /// Makes it an event, clear.
    ///
    /// # Safety
    /// It is in non-paged memory and will not be moved any more, and this is done once, before anything else.
    pub unsafe fn init(&self, kind: Kind) {
        let kind = match kind {
            Kind::Notification => nt::NotificationEvent,
            Kind::Synchronization => nt::SynchronizationEvent,
        };
        // SAFETY: room for an event, which stays where it is.
        unsafe { nt::KeInitializeEvent(self.raw(), kind, nt::FALSE) };
    }

    /// Sets the event; see [`Event::set`].
    pub fn set(&self) {
        // SAFETY: initialised; without Wait, callable up to DISPATCH_LEVEL.
        unsafe { nt::KeSetEvent(self.raw(), nt::IO_NO_INCREMENT, nt::FALSE) };
    }

    /// Clears the event.
    pub fn clear(&self) {
        // SAFETY: initialised; callable up to DISPATCH_LEVEL.
        unsafe { nt::KeClearEvent(self.raw()) };
    }

    /// Whether it is set, now.
    pub fn is_set(&self) -> bool {
        // SAFETY: initialised; callable up to DISPATCH_LEVEL.
        unsafe { nt::KeReadStateEvent(self.raw()) != 0 }
    }

    /// Waits until the event is set, for `bound` at most, without end where there is none.
    pub fn wait(&self, _passive: &Passive, bound: Option<Interval>) -> Waited {
        let mut due = bound.map(Interval::relative);
        let due = due.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        // SAFETY: initialised, and alive while it is borrowed; the token says PASSIVE_LEVEL.
        let status = unsafe {
            nt::KeWaitForSingleObject(self.as_object(), nt::Executive, nt::KernelMode, nt::FALSE, due)
        };
        if status == nt::STATUS_TIMEOUT { Waited::TimedOut } else { Waited::Signalled }
    }

    fn raw(&self) -> *mut KEVENT {
        self.event.get().cast()
    }

    fn as_object(&self) -> nt::PVOID {
        self.raw().cast()
    }
}
