//! Kernel events.
//!
//! Setting, clearing and reading are for any level up to DISPATCH_LEVEL; waiting takes [`Passive`].
//! The KEVENT links its waiters to its own address: it lives in a pool block of its own, so an [`Event`] may be
//! moved; [`EventCell`] is the raw one, for embedding in an object that stays where it is, and [`Signal`] one of the
//! object manager's, for calls that take a handle.

use core::cell::UnsafeCell;
use core::marker::{PhantomData, PhantomPinned};
use core::mem::MaybeUninit;
use core::ptr::{NonNull, null_mut};

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
    pub fn wait_any(events: &[&Self], passive: &Passive, bound: Option<Interval>) -> Result<Option<usize>> {
        let mut awaited = [None; MAX_WAIT_OBJECTS];
        let places = awaited.get_mut(..events.len()).ok_or(Status::INVALID_PARAMETER)?;
        for (place, event) in places.iter_mut().zip(events) {
            *place = Some(event.awaited());
        }
        wait_any(&awaited, passive, bound)
    }

    /// The event, to be waited for together with others.
    pub fn awaited(&self) -> Awaited<'_> {
        Awaited(self.cell.as_object(), PhantomData)
    }
}

/// Something to be waited for.
#[derive(Clone, Copy, Debug)]
pub struct Awaited<'a>(nt::PVOID, PhantomData<&'a ()>);

/// Waits until one of up to three is set, and says which by its place: the first in order where several are. `None` when
/// `bound` passed before.
///
/// # Errors
/// `STATUS_INVALID_PARAMETER` for none or more than three.
pub fn wait_any(
    awaited: &[Option<Awaited<'_>>],
    _passive: &Passive,
    bound: Option<Interval>,
) -> Result<Option<usize>> {
    let mut objects = [null_mut(); MAX_WAIT_OBJECTS];
    let mut places = objects.iter_mut();
    for Awaited(object, _) in awaited.iter().flatten() {
        *places.next().ok_or(Status::INVALID_PARAMETER)? = *object;
    }
    let count = MAX_WAIT_OBJECTS.saturating_sub(places.len());
    let count = u32::try_from(count).map_err(|_| Status::INVALID_PARAMETER)?;
    if count == 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let mut due = bound.map(Interval::relative);
    let due = due.as_mut().map_or(null_mut(), core::ptr::from_mut);
    // SAFETY: `count` events that the borrows keep alive; up to THREAD_WAIT_OBJECTS the thread's own wait
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
            null_mut(),
        )
    };
    if status == nt::STATUS_TIMEOUT {
        return Ok(None);
    }
    let index = usize::try_from(status.wrapping_sub(nt::STATUS_WAIT_0)).map_err(|_| Status(status))?;
    let place = awaited.iter().enumerate().filter(|(_, awaited)| awaited.is_some()).nth(index);
    place.map(|(place, _)| Some(place)).ok_or(Status(status))
}

/// THREAD_WAIT_OBJECTS: how many objects can be waited for without blocks of the caller's.
const MAX_WAIT_OBJECTS: usize = 3;

/// An event that has a handle, clear at first; who is set by it stays set.
#[derive(Debug)]
#[must_use = "it must be closed"]
pub struct Signal {
    handle: nt::HANDLE,
    object: NonNull<KEVENT>,
}

// SAFETY: a kernel handle and a reference, good on any thread; the kernel synchronises every operation on an event.
unsafe impl Send for Signal {}
// SAFETY: as above.
unsafe impl Sync for Signal {}

impl Signal {
    /// A new event, clear (ZwCreateEvent, ObReferenceObjectByHandle).
    ///
    /// # Errors
    /// What these return.
    pub fn try_new(passive: &Passive) -> Result<Self> {
        let mut attributes = nt::OBJECT_ATTRIBUTES {
            Length: nt::OBJECT_ATTRIBUTES_SIZE,
            RootDirectory: null_mut(),
            ObjectName: null_mut(),
            // The caller may run in any process: the handle must not be that process's.
            Attributes: nt::OBJ_KERNEL_HANDLE,
            SecurityDescriptor: null_mut(),
            SecurityQualityOfService: null_mut(),
        };
        let mut handle = null_mut();
        // SAFETY: out and in structures live for the call; the token says PASSIVE_LEVEL.
        let status = unsafe {
            nt::ZwCreateEvent(
                &raw mut handle,
                nt::EVENT_MODIFY_STATE | nt::SYNCHRONIZE,
                &raw mut attributes,
                nt::NotificationEvent,
                nt::FALSE,
            )
        };
        Status(status).exact()?;
        let mut object = null_mut();
        // SAFETY: the handle is ours, and an event's, so that its type need not be checked; PASSIVE_LEVEL as above.
        let status = unsafe {
            nt::ObReferenceObjectByHandle(
                handle,
                nt::SYNCHRONIZE,
                null_mut(),
                nt::KernelMode,
                &raw mut object,
                null_mut(),
            )
        };
        let object = NonNull::new(object.cast::<KEVENT>()).ok_or(Status::UNSUCCESSFUL);
        match Status(status).exact().and(object) {
            Ok(object) => Ok(Self { handle, object }),
            Err(status) => {
                close_handle(passive, handle);
                Err(status)
            }
        }
    }

    /// The handle, for as long as it is not closed.
    pub const fn handle(&self) -> nt::HANDLE {
        self.handle
    }

    /// The event, to be waited for together with others.
    pub const fn awaited(&self) -> Awaited<'_> {
        Awaited(self.object.as_ptr().cast(), PhantomData)
    }

    /// Waits until the event is set, for `bound` at most.
    pub fn wait(&self, passive: &Passive, bound: Interval) -> Waited {
        match wait_any(&[Some(self.awaited())], passive, Some(bound)) {
            Ok(Some(_)) => Waited::Signalled,
            Ok(None) | Err(_) => Waited::TimedOut,
        }
    }

    /// Gives it up.
    pub fn close(self, passive: &Passive) {
        // SAFETY: the reference that `try_new` took, given back once.
        _ = unsafe { nt::ObfDereferenceObject(self.object.as_ptr().cast()) };
        close_handle(passive, self.handle);
    }
}

fn close_handle(_passive: &Passive, handle: nt::HANDLE) {
    // SAFETY: the caller's own, closed once; the token says PASSIVE_LEVEL.
    _ = unsafe { nt::ZwClose(handle) };
}

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
        let due = due.as_mut().map_or(null_mut(), core::ptr::from_mut);
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
