//! What the worker and the callbacks share: the table of sessions, who needs the worker's attention, and what bounds
//! connections from outside.
//!
//! Callbacks take the table's lock for a few stores. A session waits in the queue at most once, so the queue has room
//! for all.

use super::hub::Hub;
use super::protocol::limit::{Entry, Limiter, Rate};
use super::session::Session;
use super::status::CONNECTION_COUNT_LIMIT;
use crate::config::Settings;
use crate::dispatch::Rings;
use crate::ext::Sockets;
use crate::kernel::event::{Event, Kind};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// How many sources are told apart.
const SOURCES: usize = 256;
/// What sessions can have beyond their own, in bytes: larger logs and further buffers, for those who are busy.
const BUDGET: usize = 896 * 1024;
/// A second, and a minute, in units of 100 ns.
const SECOND: u64 = Interval::from_millis(1_000).as_100ns();
const MINUTE: u64 = Interval::from_millis(60_000).as_100ns();

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What has happened so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        #[derive(Default)]
        pub(super) struct Counts {
            $(pub(super) $name: AtomicU64,)+
        }

        impl Counts {
            fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Connections admitted.
    accepted,
    /// Connections refused: one too many, in all or of one source, or for want of memory.
    refused,
    /// Connections that weir has begun to open.
    dialled,
    /// Connections that have ended.
    closed,
    /// Connections whose other side is known.
    authenticated,
    /// Connections that were ended because the other side is no peer, or spoke something else.
    rejected,
    /// Bytes received.
    received,
    /// Bytes sent.
    sent,
    /// Requests, of whatever kind.
    requests,
    /// Times that a listener was opened.
    listeners,
}

/// Memory that is there once for all sessions, in bytes.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    /// Takes so many bytes, if they are there.
    pub(super) fn take(&self, bytes: usize) -> bool {
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

pub(super) struct Shared {
    /// The driver's rings: for what callbacks tell of connections that do not come to be.
    pub(super) rings: PoolArc<Rings>,
    pub(super) sockets: PoolArc<Sockets>,
    pub(super) hub: PoolArc<Hub>,
    pub(super) budget: Budget,
    /// Wakes the worker.
    wake: PoolArc<Event>,
    stopping: AtomicBool,
    /// WSK has no events: connections are accepted, and data received, by request. Such a provider is not asked for
    /// graceful disconnects either.
    pub(super) by_request: AtomicBool,
    table: SpinLock<Table>,
    /// The number of the next session, from 1.
    next_session: AtomicU64,
    /// The session, by its number, that sends a policy up; 0: none. The worker's.
    uploader: AtomicU64,
    /// Sessions that others have opened and of which it is not known who they are.
    pub(super) unauthenticated: AtomicU32,
    max_unauthenticated: AtomicU32,
    /// How many sessions there can be now.
    max_sessions: AtomicUsize,
    limiter: SpinLock<Limiter<PoolSlice<Entry>>>,
    /// Where the listeners are bound, in the order of the settings.
    pub(super) listening: SpinLock<PoolSlice<Option<SocketAddr>>>,
    /// Set when the first attempt to listen is over, everywhere.
    pub(super) settled: Event,
    pub(super) counts: Counts,
    metric_period: AtomicU64,
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

impl Table {
    fn taken(&self) -> usize {
        self.places.len().saturating_sub(self.free)
    }
}

/// A place in the table that nobody else has.
#[derive(Clone)]
pub(super) struct Place(usize);

impl Place {
    pub(super) const fn index(&self) -> usize {
        self.0
    }
}

/// How often one address may connect.
fn connect_rate(settings: &Settings) -> Rate {
    Rate {
        burst: settings.control_connect_burst,
        interval: MINUTE.checked_div(settings.control_connect_rate.into()).unwrap_or(MINUTE),
    }
}

fn metric_period(settings: &Settings) -> u64 {
    u64::from(settings.extension_metric_seconds).saturating_mul(SECOND)
}

/// The most sessions, as the settings have it.
pub(super) fn max_sessions(settings: &Settings) -> usize {
    usize::try_from(settings.control_max_sessions).unwrap_or(usize::MAX)
}

impl Shared {
    pub(super) fn try_new(
        sockets: PoolArc<Sockets>,
        rings: PoolArc<Rings>,
        settings: &Settings,
    ) -> Result<PoolArc<Self>> {
        let wake = sockets.wake().clone();
        let max_sessions = max_sessions(settings);
        let table = Table {
            places: PoolSlice::try_from_fn(tags::CONTROL, max_sessions, |_| None)?,
            vacant: PoolSlice::try_from_fn(tags::CONTROL, max_sessions, |index| index)?,
            free: max_sessions,
            // One entry for each, and one for each that has just gone.
            queue: PoolSlice::try_from_fn(tags::CONTROL, max_sessions.saturating_mul(2), |_| 0)?,
            first: 0,
            waiting: 0,
        };
        let sources = PoolSlice::try_from_fn(tags::CONTROL, SOURCES, |_| Entry::default())?;
        let addresses = settings.control_listen.as_slice().len();
        let shared = Self {
            sockets,
            rings,
            hub: Hub::try_new(max_sessions, wake.clone())?,
            budget: Budget(AtomicUsize::new(BUDGET)),
            wake,
            stopping: AtomicBool::new(false),
            by_request: AtomicBool::new(false),
            table: SpinLock::new("control sessions", table),
            next_session: AtomicU64::new(1),
            uploader: AtomicU64::new(0),
            unauthenticated: AtomicU32::new(0),
            max_unauthenticated: AtomicU32::new(settings.control_max_unauthenticated),
            max_sessions: AtomicUsize::new(max_sessions),
            limiter: SpinLock::new("control sources", Limiter::new(connect_rate(settings), sources)),
            listening: SpinLock::new(
                "control addresses",
                PoolSlice::try_from_fn(tags::CONTROL, addresses, |_| None)?,
            ),
            settled: Event::try_new(Kind::Notification)?,
            counts: Counts::default(),
            metric_period: AtomicU64::new(metric_period(settings)),
        };
        PoolArc::try_new(tags::CONTROL, shared)
    }

    /// Other settings hold.
    pub(super) fn adopt(&self, irql: &mut AtMostDispatch, settings: &Settings) {
        self.max_unauthenticated.store(settings.control_max_unauthenticated, Ordering::Relaxed);
        self.max_sessions.store(max_sessions(settings), Ordering::Relaxed);
        self.metric_period.store(metric_period(settings), Ordering::Relaxed);
        self.limiter.lock(irql).set_rate(connect_rate(settings));
    }

    /// How many sessions there are places for.
    pub(super) fn places(&self, irql: &mut AtMostDispatch) -> usize {
        self.table.lock(irql).places.len()
    }

    /// How often a connection's counters are told where weir itself does, in units of 100 ns; 0: not at all.
    pub(super) fn metric_period(&self) -> u64 {
        self.metric_period.load(Ordering::Relaxed)
    }

    pub(super) fn counters(&self) -> Counters {
        self.counts.read()
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
    pub(super) const fn awaited(&self) -> &PoolArc<Event> {
        &self.wake
    }

    pub(super) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a connection from that address may come in now.
    ///
    /// # Errors
    /// `STATUS_CANCELLED` while weir stops; `STATUS_INSUFFICIENT_RESOURCES` while too many are there that have not said
    /// who they are; `STATUS_CONNECTION_COUNT_LIMIT` if too many come from there.
    pub(super) fn admit(&self, irql: &mut AtMostDispatch, from: IpAddr) -> Result {
        if self.is_stopping() {
            return Err(Status::CANCELLED);
        }
        if self.unauthenticated.load(Ordering::Relaxed) >= self.max_unauthenticated.load(Ordering::Relaxed) {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let now = time::since_boot().as_100ns();
        self.limiter.lock(irql).admit(now, from).map_err(|_too_often| CONNECTION_COUNT_LIMIT)
    }

    /// Takes a place for a session.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`: all are taken.
    pub(super) fn reserve(&self, irql: &mut AtMostDispatch) -> Result<Place> {
        let most = self.max_sessions.load(Ordering::Relaxed);
        let mut table = self.table.lock(irql);
        if table.taken() >= most {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
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
        if let Some(place) = table.places.get_mut(session.index()) {
            *place = Some(session.clone());
        }
    }

    /// Takes a session out, and gives its place back.
    pub(super) fn remove(&self, irql: &mut AtMostDispatch, session: &Session) {
        let mut table = self.table.lock(irql);
        let removed = table.places.get_mut(session.index()).and_then(Option::take);
        drop(table);
        if removed.is_some() {
            self.vacate(irql, session.place());
        }
    }

    /// Queues a session for the worker, while it has its place. The caller sees to it that it is there once.
    pub(super) fn queue(&self, irql: &mut AtMostDispatch, session: &Session) {
        let mut table = self.table.lock(irql);
        let there = table.places.get(session.index()).and_then(Option::as_ref);
        if there.is_none_or(|there| !core::ptr::eq(&raw const **there, session)) {
            // It has gone meanwhile: there is nothing left to do for it.
            return;
        }
        let at = table.first.wrapping_add(table.waiting).checked_rem(table.queue.len());
        if let Some(entry) = at.and_then(|at| table.queue.get_mut(at)) {
            *entry = session.index();
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

    /// The session in that place, if there is one.
    pub(super) fn session_at(&self, irql: &mut AtMostDispatch, index: usize) -> Option<PoolArc<Session>> {
        self.table.lock(irql).places.get(index)?.clone()
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

    /// Whether only those places are left that are kept for operators: one of eight.
    pub(super) fn is_nearly_full(&self, irql: &mut AtMostDispatch) -> bool {
        let most = self.max_sessions.load(Ordering::Relaxed);
        let taken = self.table.lock(irql).taken();
        most.saturating_sub(taken) < most / 8
    }

    /// Makes the session the one that sends a policy up, unless another one does.
    pub(super) fn begin_upload(&self, session: u64) -> bool {
        let before = self.uploader.compare_exchange(0, session, Ordering::Relaxed, Ordering::Relaxed);
        before.is_ok() || before == Err(session)
    }

    /// The session sends no policy up any more.
    pub(super) fn end_upload(&self, session: u64) {
        // Another one's is none of its business.
        let _ended = self.uploader.compare_exchange(session, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How many sessions there are, those under way included.
    pub(super) fn sessions(&self, irql: &mut AtMostDispatch) -> usize {
        self.table.lock(irql).taken()
    }
}
