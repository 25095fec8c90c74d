//! The life-cycle lane: events of objects (connections) that are never lost and never wait for room.
//!
//! The [`Link`] lies inside the object, so an event needs no memory: raising it sets a bit and puts the
//! object on a list of many producers and one consumer, unless it is there already. Each event is raised at
//! most once in an object's life; [`LifeCycle::Closed`] is the last one.
//!
//! An object's records and events share one count: each takes the next number, and the dispatcher delivers
//! them in that order, whatever processors they came from. From its first number until its `Closed` has been
//! delivered the ring holds a reference to the object, so that a record may name it by address.

use core::{
    marker::PhantomData,
    ptr::{NonNull, null_mut},
};

use super::{
    rings::Supply,
    sync::{AtomicPtr, AtomicU32, AtomicU64, Cell, Ordering, Site, order},
};

/// An event in the life of an object, delivered exactly once if raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LifeCycle {
    /// The connection is established.
    Opened = 0,
    /// The extension interface let go of the connection.
    ExtensionDetached = 1,
    /// The connection is over: no record and no event of it follows.
    Closed = 2,
}

impl LifeCycle {
    /// All events.
    pub const ALL: [Self; EVENTS] = [Self::Opened, Self::ExtensionDetached, Self::Closed];
}

const EVENTS: usize = 3;

/// State word: bits 0–7 claimed events, 8–15 ready events, 16 on the list, from 17 on the next number.
const READY: u32 = 8;
const QUEUED: u64 = 1 << 16;
const NUMBER: u32 = 17;
const ONE: u64 = 1 << NUMBER;

const fn claimed(event: LifeCycle) -> u64 {
    1 << event as u8
}

const fn ready(event: LifeCycle) -> u64 {
    claimed(event) << READY
}

/// The object's next number; the count itself has 47 bits and does not wrap in practice, records carry the
/// low 32.
#[allow(clippy::cast_possible_truncation)]
const fn number(state: u64) -> u32 {
    (state >> NUMBER) as u32
}

/// What an object of the ring holds: its place on the list, its events, its count.
pub struct Link {
    state: AtomicU64,
    /// The number that each event took; written before the event is ready.
    numbers: [AtomicU32; EVENTS],
    /// The next number to deliver. The dispatcher's.
    expected: Cell<u32>,
    /// The next object on the list. The raiser's until the object is on the list, then the dispatcher's.
    next: Cell<*mut ()>,
}

// SAFETY: `expected` is only touched by the dispatcher, of which there is one; `next` passes from the raiser
// to the dispatcher with the list's release and acquire, and back with those of the state word.
unsafe impl Sync for Link {}
// SAFETY: as above; the pointer is no ownership.
unsafe impl Send for Link {}

impl Link {
    /// The link of an object that has no number yet.
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            numbers: [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)],
            expected: Cell::new(0),
            next: Cell::new(null_mut()),
        }
    }

    /// Whether `event` has been raised.
    pub fn raised(&self, event: LifeCycle) -> bool {
        self.state.load(Ordering::Acquire) & claimed(event) != 0
    }

    /// Whether `number` is the next one to deliver. The dispatcher's.
    pub(super) fn is_next(&self, number: u32) -> bool {
        self.expected.get() == number
    }

    /// The next number has been delivered. The dispatcher's.
    pub(super) fn advance(&self) {
        self.expected.set(self.expected.get().wrapping_add(1));
    }

    /// The ready event whose turn it is. The dispatcher's.
    pub(super) fn ready_event(&self) -> Option<(LifeCycle, u32)> {
        let state = self.state.load(order(Site::Take, Ordering::Acquire));
        LifeCycle::ALL
            .into_iter()
            .zip(&self.numbers)
            .filter(|(event, _)| state & ready(*event) != 0)
            .map(|(event, number)| (event, number.load(Ordering::Relaxed)))
            .find(|(_, number)| self.is_next(*number))
    }

    /// Takes the object off the list unless an event is ready and not delivered; true if it is off.
    pub(super) fn dequeue(&self) -> bool {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let waiting = LifeCycle::ALL.into_iter().zip(&self.numbers).any(|(event, at)| {
                state & ready(event) != 0
                    && at.load(Ordering::Relaxed).wrapping_sub(self.expected.get()).cast_signed() >= 0
            });
            if waiting {
                return false;
            }
            match self.state.compare_exchange(state, state & !QUEUED, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

/// A reference to an object whose records and events are delivered in the object's own order.
///
/// A ring may carry records of objects of several types: the reference says of which type one is, and keeps that through
/// [`into_raw`](Object::into_raw). `&T` is such a reference where `T` is [`Linked`].
///
/// # Safety
/// * `link` always returns the same link, inside the object, used with one `Rings` only.
/// * After `retain`, the object stays valid at its address until the matching `release`.
/// * `from_raw` of what `into_raw` returned is the same reference again.
/// * All may run at DISPATCH_LEVEL, do not block, and do not enter the ring.
pub unsafe trait Object<'a>: Copy + Send {
    /// The object's link.
    fn link(self) -> &'a Link;

    /// Takes a reference to the object.
    fn retain(self);

    /// The reference as a plain address.
    fn into_raw(self) -> NonNull<()>;

    /// The reference from its address.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Object::into_raw), and the object is valid for `'a`.
    unsafe fn from_raw(raw: NonNull<()>) -> Self;

    /// Gives up a reference that [`retain`](Object::retain) took; the object may be freed by it.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Object::into_raw) of an object that was retained, and the caller does not touch the
    /// object afterwards.
    unsafe fn release(raw: NonNull<()>);
}

/// An object that plain references to it can be [`Object`]s of.
///
/// # Safety
/// As of [`Object`].
pub unsafe trait Linked: Sync {
    /// The object's link.
    fn link(&self) -> &Link;

    /// Takes a reference to the object.
    fn retain(&self);

    /// Gives up a reference that [`retain`](Linked::retain) took; the object may be freed by it.
    ///
    /// # Safety
    /// `object` was retained, and is not touched by the caller afterwards.
    unsafe fn release(object: NonNull<Self>);
}

// SAFETY: what `Linked` promises; a reference's address leads back to it.
unsafe impl<'a, T: Linked> Object<'a> for &'a T {
    fn link(self) -> &'a Link {
        T::link(self)
    }

    fn retain(self) {
        T::retain(self);
    }

    #[inline]
    fn into_raw(self) -> NonNull<()> {
        NonNull::from(self).cast()
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<()>) -> Self {
        // SAFETY: from `into_raw`, and valid for `'a` (contract).
        unsafe { raw.cast().as_ref() }
    }

    unsafe fn release(raw: NonNull<()>) {
        // SAFETY: from `into_raw`, retained, and not touched afterwards (contract).
        unsafe { T::release(raw.cast()) };
    }
}

/// For rings whose records belong to no object.
#[derive(Clone, Copy)]
pub enum NoObject {}

// SAFETY: there is no value of the type.
unsafe impl<'a> Object<'a> for NoObject {
    fn link(self) -> &'a Link {
        match self {}
    }

    fn retain(self) {
        match self {}
    }

    fn into_raw(self) -> NonNull<()> {
        match self {}
    }

    unsafe fn from_raw(raw: NonNull<()>) -> Self {
        // SAFETY: nothing comes from `into_raw`: this is never called (contract).
        unsafe { raw.cast::<Self>().read() }
    }

    unsafe fn release(_raw: NonNull<()>) {}
}

/// Takes the object's next number for a record; none once `Closed` has been raised.
#[inline]
pub(super) fn take_number<'a>(object: impl Object<'a>) -> Option<u32> {
    let old = object.link().state.fetch_add(ONE, Ordering::AcqRel);
    if old & claimed(LifeCycle::Closed) != 0 {
        return None;
    }
    if old >> NUMBER == 0 {
        object.retain();
    }
    Some(number(old))
}

/// The list of objects with events to deliver.
pub(super) struct List<S> {
    /// Raised since the dispatcher looked, newest first.
    incoming: AtomicPtr<()>,
    /// Taken by the dispatcher, oldest first.
    first: core::cell::Cell<*mut ()>,
    last: core::cell::Cell<*mut ()>,
    objects: PhantomData<fn() -> S>,
}

// SAFETY: `first` and `last` are only touched by the dispatcher.
unsafe impl<S> Sync for List<S> {}
// SAFETY: the list owns references to objects that may be used and released on any thread.
unsafe impl<S> Send for List<S> {}

impl<S: Supply> List<S> {
    pub fn new() -> Self {
        Self {
            incoming: AtomicPtr::new(null_mut()),
            first: core::cell::Cell::new(null_mut()),
            last: core::cell::Cell::new(null_mut()),
            objects: PhantomData,
        }
    }

    /// The link of an object on the list; none of null.
    #[expect(clippy::unused_self, reason = "the link is valid as long as the list is borrowed")]
    fn link(&self, node: *mut ()) -> Option<&Link> {
        let node = NonNull::new(node)?;
        // SAFETY: objects on the list are retained until their `Closed` is delivered, hence valid.
        Some(unsafe { S::Object::from_raw(node) }.link())
    }

    /// Marks `event` and puts the object on the list; false if the event, or `Closed`, was raised before.
    pub fn raise(&self, object: S::Object<'_>, event: LifeCycle) -> bool {
        let link = object.link();
        let mut old = link.state.load(Ordering::Relaxed);
        loop {
            if old & (claimed(event) | claimed(LifeCycle::Closed)) != 0 {
                return false;
            }
            let new = (old | claimed(event)).wrapping_add(ONE);
            match link.state.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if old >> NUMBER == 0 {
            object.retain();
        }
        if let Some(at) = link.numbers.get(event as usize) {
            at.store(number(old), Ordering::Relaxed);
        }
        let before = link.state.fetch_or(ready(event) | QUEUED, order(Site::Ready, Ordering::AcqRel));
        if before & QUEUED == 0 {
            self.push(object);
        }
        true
    }

    fn push(&self, object: S::Object<'_>) {
        let node = object.into_raw().as_ptr();
        let mut head = self.incoming.load(Ordering::Relaxed);
        loop {
            object.link().next.set(head);
            match self.incoming.compare_exchange_weak(
                head,
                node,
                order(Site::Enqueue, Ordering::Release),
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Whether objects have been raised since the dispatcher took the list.
    pub fn has_incoming(&self) -> bool {
        !self.incoming.load(Ordering::Relaxed).is_null()
    }

    /// Moves what came in behind what is there, in the order in which it was raised. The dispatcher's.
    pub fn take(&self) {
        if !self.has_incoming() {
            return;
        }
        let mut newest = self.incoming.swap(null_mut(), order(Site::Take, Ordering::AcqRel));
        let last = newest;
        let mut first: *mut () = null_mut();
        while let Some(link) = self.link(newest) {
            let next = link.next.get();
            link.next.set(first);
            first = newest;
            newest = next;
        }
        self.append(first, last);
    }

    /// Puts one taken object behind the others. The dispatcher's.
    pub fn put_back(&self, object: S::Object<'_>) {
        object.link().next.set(null_mut());
        let node = object.into_raw().as_ptr();
        self.append(node, node);
    }

    fn append(&self, first: *mut (), last: *mut ()) {
        match self.link(self.last.get()) {
            None => self.first.set(first),
            Some(end) => end.next.set(first),
        }
        self.last.set(last);
    }

    /// The oldest taken object, by its address. The dispatcher's.
    pub fn pop(&self) -> Option<NonNull<()>> {
        let first = self.first.get();
        let next = self.link(first)?.next.get();
        self.first.set(next);
        if next.is_null() {
            self.last.set(null_mut());
        }
        NonNull::new(first)
    }

    /// The oldest taken object, left where it is. The dispatcher's.
    pub fn oldest(&self) -> Option<NonNull<()>> {
        NonNull::new(self.first.get())
    }

    /// Objects taken whose events wait for their turn. The dispatcher's.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether a taken object has an event whose turn it is. The dispatcher's.
    pub fn has_deliverable(&self) -> bool {
        self.iter().any(|link| link.ready_event().is_some())
    }

    fn iter(&self) -> impl Iterator<Item = &Link> {
        core::iter::successors(self.link(self.first.get()), |link| self.link(link.next.get()))
    }
}
