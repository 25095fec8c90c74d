//! The rings of all processors, the life-cycle list, and the handshake with the dispatcher.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::Deref,
    ptr::{from_ref, null_mut},
};

use super::{
    OnProcessor,
    dispatcher::Dispatcher,
    life::{LifeCycle, List, Object},
    line::Line,
    processor::{Asked, AttachError, Cause, Claim, Refused, Ring},
    record::{Kind, Payload},
    sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, Site, Track, fence, order},
};

/// Sole ownership of memory at one place.
///
/// # Safety
/// `deref` always gives the same place, which does not move when the owner does, and which nothing else
/// reaches while the owner exists.
pub unsafe trait Owned: Deref {}

// SAFETY: an exclusive borrow is the only way to the place while it lasts.
unsafe impl<T: ?Sized> Owned for &mut T {}

/// What the caller supplies: memory, the objects that records belong to, a way to wake the dispatcher.
pub trait Supply: Sized {
    /// A reference to what records and life-cycle events belong to: a connection. [`NoObject`](super::NoObject) if
    /// nothing.
    type Object<'a>: Object<'a>;
    /// Memory for the records of one processor, all zero.
    type Lines: Owned<Target = [Line]>;
    /// Memory for one processor's ring.
    type Ring: Owned<Target = Ring<Self>>;
    /// Memory for the table, with an entry for each processor that the machine may ever have.
    type Table: Owned<Target = [Entry<Self>]>;
    /// Parks and wakes the dispatcher.
    type Waker: Waker;

    /// The time, in units of a clock that all processors agree on, which does not go back. Asked for where records are
    /// stamped, and by a dispatcher that merges. IRQL <= DISPATCH_LEVEL; does not block, does not enter the ring.
    fn now() -> u64;
}

/// Parks and wakes the dispatcher, as a synchronization event does.
pub trait Waker {
    /// Makes the running or the next [`park`](Waker::park) return. IRQL <= DISPATCH_LEVEL, does not block.
    fn wake(&self);
    /// Returns once `wake` has been called since it last returned, or sooner. PASSIVE_LEVEL.
    fn park(&self);
}

/// One processor's place in the table.
pub struct Entry<S: Supply> {
    /// Where the ring is, once it is there.
    ring: AtomicPtr<Ring<S>>,
    owner: UnsafeCell<Option<S::Ring>>,
    /// Somebody has attached a ring, or is about to.
    taken: AtomicBool,
    track: Track,
}

// SAFETY: the owner is written once, by the one who took the entry, and not touched again until the entry is
// dropped; the ring is read only after its address was stored.
unsafe impl<S: Supply> Sync for Entry<S> where S::Ring: Send + Sync {}
// SAFETY: the entry owns its ring.
unsafe impl<S: Supply> Send for Entry<S> where S::Ring: Send + Sync {}

impl<S: Supply> Entry<S> {
    /// An entry without a ring.
    pub fn new() -> Self {
        Self {
            ring: AtomicPtr::new(null_mut()),
            owner: UnsafeCell::new(None),
            taken: AtomicBool::new(false),
            track: Track::new(1),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self) -> Option<&Ring<S>> {
        let ring = self.ring.load(order(Site::Attach, Ordering::Acquire));
        if !ring.is_null() {
            self.track.read(0, 1);
        }
        // SAFETY: null, or the ring that the entry owns.
        unsafe { ring.as_ref() }
    }

    fn attach(&self, ring: S::Ring) -> Result<(), AttachError> {
        if self.taken.swap(true, Ordering::Relaxed) {
            return Err(AttachError::Attached);
        }
        self.track.write(0, 1);
        // SAFETY: whoever takes the entry is alone with its owner.
        let owner = unsafe { &mut *self.owner.get() };
        let ring: &Ring<S> = owner.insert(ring);
        self.ring.store(from_ref(ring).cast_mut(), order(Site::Attach, Ordering::Release));
        Ok(())
    }
}

impl<S: Supply> Default for Entry<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// The dispatcher's state: what producers look at after each record. On a line of its own, which stays shared
/// in every processor's cache while nobody parks.
#[repr(C, align(64))]
struct Signal {
    state: AtomicU32,
    stopping: AtomicBool,
    /// A dispatcher exists.
    taken: AtomicBool,
}

const AWAKE: u32 = 0;
const PARKED: u32 = 1;
const SIGNALLED: u32 = 2;

/// Why nobody can be dispatcher: there is one, or has been one to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken;

/// The rings of all processors and the life-cycle list.
pub struct Rings<S: Supply> {
    signal: Signal,
    table: S::Table,
    /// Entries from here on have never been attached.
    limit: AtomicU32,
    pub(super) life: List<S>,
    /// Records lost on processors without a ring, by kind.
    no_ring: [AtomicU64; Kind::COUNT],
    /// Life-cycle events delivered.
    life_delivered: AtomicU64,
    waker: S::Waker,
}

// SAFETY: rings are reached by their processor's owner or the dispatcher only (see `Ring`); the list's plain
// cells by the dispatcher only; the rest is atomic, or `Sync` by the bounds.
unsafe impl<S: Supply> Sync for Rings<S>
where
    S::Table: Sync,
    S::Ring: Send + Sync,
    S::Lines: Send + Sync,
    S::Waker: Sync,
{
}

impl<S: Supply> Rings<S> {
    /// No rings yet. PASSIVE_LEVEL.
    pub fn new(table: S::Table, waker: S::Waker) -> Self {
        Self {
            signal: Signal {
                state: AtomicU32::new(AWAKE),
                stopping: AtomicBool::new(false),
                taken: AtomicBool::new(false),
            },
            table,
            limit: AtomicU32::new(0),
            life: List::new(),
            no_ring: core::array::from_fn(|_| AtomicU64::new(0)),
            life_delivered: AtomicU64::new(0),
            waker,
        }
    }

    /// Gives `processor` its ring: for the active processors at start, for others as they are added. It stays
    /// until the whole is dropped. PASSIVE_LEVEL.
    pub fn attach(&self, processor: u32, ring: S::Ring) -> Result<(), AttachError> {
        let entry = usize::try_from(processor).ok().and_then(|index| self.table.get(index));
        let entry = entry.ok_or(AttachError::Processor)?;
        // First, so that who finds the ring has it seen by a dispatcher that parks.
        self.limit.fetch_max(processor.saturating_add(1), Ordering::Release);
        entry.attach(ring)
    }

    /// The ring of the caller's processor, looked up once for all that the caller writes while it holds the processor;
    /// none if it has none. IRQL = DISPATCH_LEVEL (by `at`).
    #[inline(always)]
    pub fn here<'a>(&'a self, at: &'a impl OnProcessor) -> Option<Here<'a, S>> {
        let ring = self.ring(at.processor())?;
        Some(Here { rings: self, ring, processor: PhantomData })
    }

    /// As [`Here::claim`], on the caller's processor. IRQL = DISPATCH_LEVEL (by `at`).
    #[inline(always)]
    pub fn claim<'a>(
        &'a self,
        at: &'a impl OnProcessor,
        kind: Kind,
        detail: u16,
        len: usize,
    ) -> Result<Claim<'a, S>, Refused> {
        let Some(here) = self.here(at) else { return Err(self.refuse_without_ring(kind)) };
        here.claim(kind, detail, len)
    }

    /// As [`Here::claim_for`], on the caller's processor. IRQL = DISPATCH_LEVEL (by `at`).
    #[inline(always)]
    pub fn claim_for<'a>(
        &'a self,
        at: &'a impl OnProcessor,
        kind: Kind,
        detail: u16,
        len: usize,
        object: S::Object<'a>,
    ) -> Result<Claim<'a, S>, Refused> {
        let Some(here) = self.here(at) else { return Err(self.refuse_without_ring(kind)) };
        here.claim_for(kind, detail, len, object)
    }

    /// Writes and commits `payload` in one go, and wakes the dispatcher if it is parked; as
    /// [`claim_for`](Rings::claim_for) if there is an `object`. True unless it was refused, which is counted.
    /// IRQL = DISPATCH_LEVEL (by `at`).
    #[inline(always)]
    pub fn push<'a, P: Payload>(
        &'a self,
        at: &'a impl OnProcessor,
        payload: &P,
        object: Option<S::Object<'a>>,
    ) -> bool {
        let Some(here) = self.here(at) else {
            self.refuse_without_ring(payload.kind());
            return false;
        };
        let pushed = here.push_quietly(payload, object);
        if pushed {
            self.notify();
        }
        pushed
    }

    #[cold]
    fn refuse_without_ring(&self, kind: Kind) -> Refused {
        if kind.is_pushed_again() {
            return Refused(Cause::NoRing);
        }
        if let Some(count) = self.no_ring.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Refused(Cause::NoRing)
    }

    /// Raises `event` of `object`; false if it, or `Closed`, was raised before. Never lost: the event waits in
    /// the object. IRQL = DISPATCH_LEVEL (by `at`): whoever has taken a number of the object is not kept from telling it,
    /// since rings wait for that.
    pub fn raise(&self, _at: &impl OnProcessor, object: S::Object<'_>, event: LifeCycle) -> bool {
        let raised = self.life.raise(object, event);
        if raised {
            self.notify();
        }
        raised
    }

    /// Wakes the dispatcher if it is parked and nobody has woken it yet. IRQL <= DISPATCH_LEVEL.
    #[inline(always)]
    pub fn notify(&self) {
        fence(Site::Signal);
        if self.signal.state.load(Ordering::Relaxed) == PARKED {
            self.wake();
        }
    }

    #[cold]
    #[inline(never)]
    fn wake(&self) {
        let state = &self.signal.state;
        if state.compare_exchange(PARKED, SIGNALLED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.waker.wake();
        }
    }

    /// Asks the dispatcher to deliver everything committed and raised before, and to return. The caller sees to
    /// it that no producer is at work any more. IRQL <= DISPATCH_LEVEL.
    pub fn stop(&self) {
        self.signal.stopping.store(true, order(Site::Stop, Ordering::Release));
        self.notify();
    }

    /// The only dispatcher; another can be had when it is dropped, unless it has run to its end.
    pub fn dispatcher(&self) -> Result<Dispatcher<'_, S>, Taken> {
        if self.signal.taken.swap(true, Ordering::Acquire) { Err(Taken) } else { Ok(Dispatcher::new(self)) }
    }

    pub(super) fn dispatcher_dropped(&self) {
        self.signal.taken.store(false, Ordering::Release);
    }

    /// The dispatcher has delivered so many more events. The dispatcher's.
    pub(super) fn count_life_cycle(&self, events: usize) {
        if let (Ok(events), true) = (u64::try_from(events), events > 0) {
            let count = self.life_delivered.load(Ordering::Relaxed).wrapping_add(events);
            self.life_delivered.store(count, Ordering::Relaxed);
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.signal.stopping.load(order(Site::Stop, Ordering::Acquire))
    }

    /// Parks unless `has_work` after everybody has been told that the dispatcher parks; true if it was parked.
    pub(super) fn park(&self, has_work: impl FnOnce() -> bool) -> bool {
        let state = &self.signal.state;
        // Exchanges, not stores: a store would race with a late signal for the place in the order.
        state.swap(PARKED, Ordering::AcqRel);
        fence(Site::Park);
        let parks = !has_work() && !self.is_stopping();
        while parks && state.load(Ordering::Acquire) == PARKED {
            self.waker.park();
        }
        state.swap(AWAKE, Ordering::AcqRel);
        parks
    }

    /// The ring of `processor`, for its counters.
    #[inline(always)]
    pub fn ring(&self, processor: u32) -> Option<&Ring<S>> {
        self.table.get(usize::try_from(processor).ok()?)?.get()
    }

    /// The rings attached so far, with their processors.
    pub fn rings(&self) -> impl Iterator<Item = (u32, &Ring<S>)> {
        (0..self.limit.load(Ordering::Acquire))
            .zip(self.table.iter())
            .filter_map(|(processor, entry)| Some((processor, entry.get()?)))
    }

    /// What parks and wakes the dispatcher.
    pub fn waker(&self) -> &S::Waker {
        &self.waker
    }

    /// Records delivered so far, life-cycle events not counted.
    pub fn delivered(&self) -> u64 {
        self.rings().fold(0, |sum, (_, ring)| sum.wrapping_add(ring.delivered()))
    }

    /// Life-cycle events delivered so far.
    pub fn life_cycle_delivered(&self) -> u64 {
        self.life_delivered.load(Ordering::Relaxed)
    }

    /// Records of `kind` lost for `cause` so far, on all processors.
    pub fn lost(&self, kind: Kind, cause: Cause) -> u64 {
        if cause == Cause::NoRing {
            return self.no_ring.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed));
        }
        self.rings().fold(0, |sum, (_, ring)| sum.wrapping_add(ring.lost(kind, cause)))
    }
}

/// The ring of the processor that the caller holds. IRQL = DISPATCH_LEVEL as long as it lasts.
pub struct Here<'a, S: Supply> {
    rings: &'a Rings<S>,
    ring: &'a Ring<S>,
    /// Neither `Send` nor `Sync`: bound to the processor.
    processor: PhantomData<*const ()>,
}

impl<'a, S: Supply> Here<'a, S> {
    /// Claims room for a record of `kind` with `len` bytes of payload, which belongs to no object; `detail` is the
    /// word in the header for the kind's own use.
    #[inline(always)]
    pub fn claim(&self, kind: Kind, detail: u16, len: usize) -> Result<Claim<'a, S>, Refused> {
        self.claim_any(&Asked { kind, detail, len, object: None })
    }

    /// Claims room for a record that will be the next of `object`: committed, it is delivered after all that took
    /// a number of the object before, with a reference to the object. Once `Closed` has been raised it is
    /// delivered as a record of no object.
    #[inline(always)]
    pub fn claim_for(
        &self,
        kind: Kind,
        detail: u16,
        len: usize,
        object: S::Object<'a>,
    ) -> Result<Claim<'a, S>, Refused> {
        self.claim_any(&Asked { kind, detail, len, object: Some(object) })
    }

    #[inline(always)]
    fn claim_any(&self, asked: &Asked<'a, S>) -> Result<Claim<'a, S>, Refused> {
        // SAFETY: the ring is the one of the processor that is held for `'a`.
        let open = unsafe { self.ring.claim(asked) }?;
        Ok(Claim::new(self.rings, open))
    }

    /// Writes and commits `payload` in one go, as [`claim_for`](Here::claim_for) if there is an `object`, without a look
    /// at the dispatcher: the caller calls [`Rings::notify`] after the last of a batch, before it leaves the processor.
    /// True unless it was refused, which is counted.
    #[inline(always)]
    pub fn push_quietly<P: Payload>(&self, payload: &P, object: Option<S::Object<'a>>) -> bool {
        // SAFETY: the ring is the one of the processor that is held for `'a`.
        unsafe { self.ring.push(payload, object) }.is_ok()
    }
}

impl<S: Supply> Rings<S> {
    /// Gives up the objects whose events nobody has taken. The dispatcher's.
    pub(super) fn give_up(&self) {
        self.life.take();
        while let Some(object) = self.life.pop() {
            // SAFETY: objects on the list are retained; this list gives the reference up.
            unsafe { S::Object::release(object) };
        }
    }
}

impl<S: Supply> Drop for Rings<S> {
    fn drop(&mut self) {
        self.give_up();
    }
}
