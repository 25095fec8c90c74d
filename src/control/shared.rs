//! What the worker and the callbacks share: the table of sessions, and who needs the worker's attention.
//!
//! Callbacks take the table's lock for a few stores. A session waits in the queue at most once, so the queue has room
//! for all.

use super::session::Session;
use crate::dispatch::Rings;
use crate::ext::Sockets;
use crate::kernel::event::{Event, Kind};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::{Result, Status};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections admitted.
    pub accepted: u64,
    /// Connections refused, for want of a place or of memory.
    pub refused: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes received.
    pub received: u64,
    /// Times that a listener was opened.
    pub listeners: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) listeners: AtomicU64,
}

pub(super) struct Shared {
    pub(super) sockets: PoolArc<Sockets>,
    /// The driver's rings: for what callbacks tell of connections that do not come to be.
    pub(super) rings: PoolArc<Rings>,
    /// Wakes the worker.
    wake: Event,
    stopping: AtomicBool,
    /// WSK has no events: connections are accepted, and data received, by request. Such a provider is not asked for
    /// graceful disconnects either.
    pub(super) by_request: AtomicBool,
    table: SpinLock<Table>,
    /// The number of the next session, from 1.
    next_session: AtomicU64,
    /// Where the listener is bound.
    pub(super) listening: SpinLock<Option<SocketAddr>>,
    /// Set when the first attempt to listen is over.
    pub(super) settled: Event,
    pub(super) counts: Counts,
}

struct Table {
    places: PoolSlice<Option<PoolArc<Session>>>,
    /// Free places, the first `free` of them.
    vacant: PoolSlice<usize>,
    free: usize,
    /// Places of sessions that need attention: `waiting` of them from `first` on, in a circle.
    queue: PoolSlice<usize>,
    first: usize,
    waiting: usize,
}

/// A place in the table that nobody else has.
#[derive(Clone)]
pub(super) struct Place(usize);

impl Shared {
    pub(super) fn try_new(
        sockets: PoolArc<Sockets>,
        rings: PoolArc<Rings>,
        max_sessions: usize,
    ) -> Result<PoolArc<Self>> {
        let table = Table {
            places: PoolSlice::try_from_fn(tags::CONTROL, max_sessions, |_| None)?,
            vacant: PoolSlice::try_from_fn(tags::CONTROL, max_sessions, |index| index)?,
            free: max_sessions,
            queue: PoolSlice::try_from_fn(tags::CONTROL, max_sessions, |_| 0)?,
            first: 0,
            waiting: 0,
        };
        let shared = Self {
            sockets,
            rings,
            wake: Event::try_new(Kind::Synchronization)?,
            stopping: AtomicBool::new(false),
            by_request: AtomicBool::new(false),
            table: SpinLock::new("control sessions", table),
            next_session: AtomicU64::new(1),
            listening: SpinLock::new("control address", None),
            settled: Event::try_new(Kind::Notification)?,
            counts: Counts::default(),
        };
        PoolArc::try_new(tags::CONTROL, shared)
    }

    pub(super) fn counters(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { accepted, refused, closed, received, listeners } = &self.counts;
        Counters {
            accepted: read(accepted),
            refused: read(refused),
            closed: read(closed),
            received: read(received),
            listeners: read(listeners),
        }
    }

    /// Tells the worker to close everything and end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.set();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Wakes the worker.
    pub(super) fn wake(&self) {
        self.wake.set();
    }

    /// What the worker waits for.
    pub(super) const fn awaited(&self) -> &Event {
        &self.wake
    }

    pub(super) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes a place for a session.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`: all are taken.
    pub(super) fn reserve(&self, irql: &mut AtMostDispatch) -> Result<Place> {
        let mut table = self.table.lock(irql);
        let last = table.free.checked_sub(1).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let index = table.vacant.get(last).copied().ok_or(Status::INSUFFICIENT_RESOURCES)?;
        table.free = last;
        Ok(Place(index))
    }

    /// Gives a place back.
    pub(super) fn vacate(&self, irql: &mut AtMostDispatch, place: &Place) {
        let mut table = self.table.lock(irql);
        let free = table.free;
        if let Some(slot) = table.vacant.get_mut(free) {
            *slot = place.0;
            table.free = free.saturating_add(1);
        }
    }

    /// Puts a session into its place.
    pub(super) fn insert(&self, irql: &mut AtMostDispatch, session: &PoolArc<Session>) {
        let mut table = self.table.lock(irql);
        if let Some(place) = table.places.get_mut(session.place().0) {
            *place = Some(session.clone());
        }
    }

    /// Takes a session out, and gives its place back.
    pub(super) fn remove(&self, irql: &mut AtMostDispatch, session: &Session) {
        let mut table = self.table.lock(irql);
        let removed = table.places.get_mut(session.place().0).and_then(Option::take);
        drop(table);
        if removed.is_some() {
            self.vacate(irql, session.place());
        }
    }

    /// Queues a session for the worker. The caller sees to it that it is there once.
    pub(super) fn queue(&self, irql: &mut AtMostDispatch, session: &Session) {
        let mut table = self.table.lock(irql);
        let at = table.first.wrapping_add(table.waiting).checked_rem(table.queue.len());
        if let Some(entry) = at.and_then(|at| table.queue.get_mut(at)) {
            *entry = session.place().0;
            table.waiting = table.waiting.saturating_add(1);
        }
        drop(table);
        self.wake.set();
    }

    /// The next session that needs attention.
    pub(super) fn next_queued(&self, irql: &mut AtMostDispatch) -> Option<PoolArc<Session>> {
        let mut table = self.table.lock(irql);
        while table.waiting != 0 {
            let index = table.queue.get(table.first).copied()?;
            table.first = table.first.wrapping_add(1).checked_rem(table.queue.len())?;
            table.waiting = table.waiting.saturating_sub(1);
            if let Some(Some(session)) = table.places.get(index) {
                return Some(session.clone());
            }
        }
        None
    }

    /// The session in the first place from `index` on that is taken, and the index after it.
    pub(super) fn session_from(
        &self,
        irql: &mut AtMostDispatch,
        index: usize,
    ) -> Option<(PoolArc<Session>, usize)> {
        let table = self.table.lock(irql);
        let (at, session) = table
            .places
            .iter()
            .enumerate()
            .skip(index)
            .find_map(|(at, place)| Some((at, place.as_ref()?.clone())))?;
        Some((session, at.saturating_add(1)))
    }

    /// Whether no session is there, nor one under way.
    pub(super) fn is_empty(&self, irql: &mut AtMostDispatch) -> bool {
        let table = self.table.lock(irql);
        table.free == table.places.len()
    }
}
