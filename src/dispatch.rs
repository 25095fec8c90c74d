//! The driver's dispatch ring: its memory ([`Memory`]), its thread, and what becomes of records and events.
//!
//! Producers at or below DISPATCH_LEVEL push into [`Rings`]; one thread at PASSIVE_LEVEL takes everything out,
//! and turns it into [`trace::Event`]s. What a record is about is a [`Subject`]: a connection of the filter engine, or a
//! control socket.
//!
//! `unsafe` is here for what the ring asks of its memory ([`Owned`]) and of its subjects, and for parking.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

mod memory;

pub use memory::Memory;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ptr::NonNull;

use crate::config::Live;
use crate::config::schema::RingOrder;
use crate::ext::{Slot, Sockets};
use crate::flow::{Address, Connection, Ended, Flows};
use crate::kernel::event::Event;
use crate::kernel::irql::{self, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::thread::Thread;
use crate::kernel::time;
use crate::kernel::{Result, Status};
use crate::policy::{Direction, Family};
use crate::ring::{
    self, Bounds, Cause, ControlChange, ControlConnection, Entry, Handler, Kind, Kinds, LifeCycle, Line,
    Link, Linked, Object, Owned, Record, Ring, Summary, Supply, Verdict, Waker,
};
use crate::trace::{self, Event as Trace, events};

/// What weir's ring is made of.
pub enum Weir {}

impl Supply for Weir {
    type Object<'a> = Subject<'a>;
    type Lines = PoolSlice<Line>;
    type Ring = PoolBox<Ring<Self>>;
    type Table = PoolSlice<Entry<Self>>;
    type Waker = Alarm;

    fn now() -> u64 {
        time::counter()
    }
}

/// What a record or a life-cycle event is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A connection that the filter engine has shown.
    Connection(&'a Connection),
    /// A control socket, as extension interfaces have it.
    Socket(&'a Slot),
}

/// The address's low bit, which says that it is a socket's.
const SOCKET: usize = 1;
const _: () = assert!(align_of::<Connection>() > SOCKET && align_of::<Slot>() > SOCKET);

// SAFETY: what `Linked` promises of both; the low bit of their addresses, which alignment keeps free, tells them apart.
unsafe impl<'a> Object<'a> for Subject<'a> {
    #[inline]
    fn link(self) -> &'a Link {
        match self {
            Self::Connection(connection) => Linked::link(connection),
            Self::Socket(slot) => Linked::link(slot),
        }
    }

    #[inline]
    fn retain(self) {
        match self {
            Self::Connection(connection) => Linked::retain(connection),
            Self::Socket(slot) => Linked::retain(slot),
        }
    }

    #[inline]
    fn into_raw(self) -> NonNull<()> {
        match self {
            Self::Connection(connection) => NonNull::from(connection).cast(),
            Self::Socket(slot) => NonNull::from(slot).cast().map_addr(|address| address | SOCKET),
        }
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<()>) -> Self {
        match socket(raw) {
            // SAFETY: a connection's address, valid for `'a` (contract).
            None => Self::Connection(unsafe { raw.cast().as_ref() }),
            // SAFETY: a slot's address, valid for `'a` (contract).
            Some(slot) => Self::Socket(unsafe { slot.as_ref() }),
        }
    }

    unsafe fn release(raw: NonNull<()>) {
        match socket(raw) {
            // SAFETY: a connection's address, retained (contract).
            None => unsafe { Connection::release(raw.cast()) },
            // SAFETY: a slot's address, retained (contract).
            Some(slot) => unsafe { Slot::release(slot) },
        }
    }
}

/// The slot that is meant, if it is one.
#[inline]
fn socket(raw: NonNull<()>) -> Option<NonNull<Slot>> {
    let address = raw.as_ptr().map_addr(|address| address & !SOCKET);
    if raw.addr().get() & SOCKET == 0 { None } else { NonNull::new(address.cast()) }
}

/// The rings of all processors.
pub type Rings = ring::Rings<Weir>;

// SAFETY: a pool block stays where it is, and only its owner reaches it.
unsafe impl<T> Owned for PoolBox<T> {}
// SAFETY: as above.
unsafe impl<T> Owned for PoolSlice<T> {}

/// Wakes the dispatcher.
#[derive(Debug)]
pub struct Alarm(Event);

impl Waker for Alarm {
    fn wake(&self) {
        self.0.set();
    }

    fn park(&self) {
        // SAFETY: only the dispatcher parks, on its thread, which is at PASSIVE_LEVEL between deliveries.
        let passive = unsafe { Passive::assume() };
        // Without a bound the wait ends when the event is set.
        let _set = self.0.wait(&passive, None);
    }
}

/// The dispatcher's thread.
#[derive(Debug)]
pub struct Dispatching {
    thread: Thread,
}

/// What the thread works with.
struct Work {
    rings: PoolArc<Rings>,
    flows: PoolArc<Flows>,
    sockets: Option<PoolArc<Sockets>>,
    /// Losses that have been told, by processor and kind.
    told: PoolSlice<[u64; Kind::COUNT]>,
    live: PoolArc<Live>,
    order: RingOrder,
}

/// The part of a second that a record waits for older ones of other processors, where they are merged by time: longer
/// than a processor is usually held up by an interrupt between the claim of a record and its commit.
const SETTLING: u64 = 10_000;

/// The kinds that are stamped for that order.
const fn stamped(order: RingOrder) -> Kinds {
    match order {
        RingOrder::Processor => Kinds::NONE,
        RingOrder::Time => Kinds::ALL,
    }
}

/// Polls of all rings in a microsecond, about.
const POLLS_PER_MICROSECOND: u32 = 32;

impl Dispatching {
    /// Starts the thread.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn start(
        passive: &Passive,
        rings: PoolArc<Rings>,
        flows: PoolArc<Flows>,
        sockets: Option<PoolArc<Sockets>>,
        live: PoolArc<Live>,
        order: RingOrder,
    ) -> Result<Self> {
        let processors =
            usize::try_from(irql::maximum_processors()).map_err(|_| Status::INVALID_PARAMETER)?;
        let told = PoolSlice::try_from_fn(tags::RING, processors, |_| [0; Kind::COUNT])?;
        let work = PoolBox::try_new(tags::RING, Work { rings, flows, sockets, told, live, order })?;
        Ok(Self { thread: Thread::start(passive, work, run)? })
    }

    /// Ends the thread when it has delivered everything. No producer may be at work any more.
    pub fn stop(self, passive: &Passive, rings: &Rings) {
        rings.stop();
        self.thread.join(passive);
    }
}

fn run(_passive: &mut Passive, mut work: PoolBox<Work>) {
    let Work { rings, flows, sockets, told, live, order } = &mut *work;
    let mut consumer = Consumer { rings, flows, sockets: sockets.as_deref(), told, live };
    // There is no other dispatcher: this is the only place that asks for one, once for each `Rings`.
    let Ok(dispatcher) = rings.dispatcher() else { return };
    let dispatcher = dispatcher.with_bounds(Bounds { spin: polls(live), ..Bounds::default() });
    let mut dispatcher = match order {
        RingOrder::Processor => dispatcher,
        RingOrder::Time => dispatcher.in_order_of_time(time::counter_frequency() / SETTLING),
    };
    let Summary { late, .. } = dispatcher.run(&mut consumer);
    consumer.finish(late);
}

/// Polls before the dispatcher sleeps, as the settings have it now.
fn polls(live: &Live) -> u32 {
    live.dispatch_spin().saturating_mul(POLLS_PER_MICROSECOND)
}

/// Turns records and events into what weir tells.
struct Consumer<'a> {
    rings: &'a Rings,
    flows: &'a Flows,
    sockets: Option<&'a Sockets>,
    told: &'a mut [[u64; Kind::COUNT]],
    live: &'a Live,
}

impl Handler<Weir> for Consumer<'_> {
    fn record(&mut self, record: &Record<'_, Weir>) {
        if record.lost != 0 {
            self.tell_losses(record.processor);
        }
        match record.kind {
            Kind::Verdict => {
                if let Some(verdict) = Verdict::decode(record.detail, record.payload) {
                    let connection = match record.object {
                        Some(Subject::Connection(connection)) => Some(connection),
                        Some(Subject::Socket(_)) | None => None,
                    };
                    trace::emit(&verdict_event(&verdict, connection));
                }
            }
            Kind::ControlConnection => {
                if let Some(change) = ControlConnection::decode(record.detail, record.payload) {
                    trace::emit(&control_event(&change));
                }
            }
            Kind::ExtensionEvent | Kind::ExtensionChange => {
                if let Some(sockets) = self.sockets {
                    sockets.tell_record(record);
                }
            }
        }
    }

    fn life_cycle(&mut self, subject: Subject<'_>, event: LifeCycle, _sequence: u32) {
        match (subject, event) {
            (Subject::Connection(connection), LifeCycle::Opened) => trace::emit(&opened_event(connection)),
            (Subject::Connection(connection), LifeCycle::Closed) => trace::emit(&closed_event(connection)),
            // No connection of the filter engine has an extension interface.
            (Subject::Connection(_), LifeCycle::ExtensionDetached) => {}
            (Subject::Socket(slot), event) => {
                if let Some(sockets) = self.sockets {
                    sockets.tell_life_cycle(slot, event);
                }
            }
        }
    }

    fn quiescent(&mut self) {
        let count = self.flows.take_untracked();
        if count != 0 {
            trace::emit(&Trace::FlowsUntracked { count });
        }
    }

    fn spin(&self, _bound: u32) -> u32 {
        polls(self.live)
    }
}

impl Consumer<'_> {
    /// Tells what a processor has lost since this was told last.
    fn tell_losses(&mut self, processor: u32) {
        let Some(ring) = self.rings.ring(processor) else { return };
        let Ok(index) = usize::try_from(processor) else { return };
        let Some(told) = self.told.get_mut(index) else { return };
        for (kind, told) in Kind::ALL.iter().zip(told) {
            let lost = [Cause::Full, Cause::TooLong, Cause::Nested]
                .iter()
                .fold(0u64, |sum, cause| sum.wrapping_add(ring.lost(*kind, *cause)));
            let count = lost.wrapping_sub(*told);
            *told = lost;
            if count != 0 {
                trace::emit(&Trace::RingLoss { processor, kind: kind.name(), count });
            }
        }
    }

    /// Tells what is left to tell when everything has been delivered.
    fn finish(&mut self, late: u64) {
        self.quiescent();
        for processor in 0..irql::maximum_processors() {
            self.tell_losses(processor);
        }
        let lost = Kind::ALL
            .iter()
            .flat_map(|kind| {
                [Cause::Full, Cause::TooLong, Cause::Nested, Cause::NoRing].map(|cause| (*kind, cause))
            })
            .fold(0u64, |sum, (kind, cause)| sum.wrapping_add(self.rings.lost(kind, cause)));
        trace::emit(&Trace::RingSummary { delivered: self.rings.delivered(), lost, late });
    }
}

fn verdict_event<'a>(verdict: &Verdict, connection: Option<&Connection>) -> Trace<'a> {
    Trace::ConnectionVerdict {
        connection: connection.map_or(0, Connection::number),
        verdict: verdict.action,
        rule: verdict.rule,
        generation: verdict.generation,
        direction: verdict.direction,
        protocol: verdict.protocol,
        local: address(verdict.family, verdict.local),
        local_port: verdict.local_port,
        remote: address(verdict.family, verdict.remote),
        remote_port: verdict.remote_port,
        reauthorized: verdict.reauthorized,
    }
}

/// The event that tells of a connection that opens, or is open.
pub fn opened_event<'a>(connection: &Connection) -> Trace<'a> {
    let key = connection.key();
    Trace::FlowOpened {
        connection: connection.number(),
        direction: connection.direction(),
        protocol: key.protocol,
        local: address(key.family, key.local),
        local_port: key.local_port,
        remote: address(key.family, key.remote),
        remote_port: key.remote_port,
    }
}

fn closed_event<'a>(connection: &Connection) -> Trace<'a> {
    let key = connection.key();
    let decided = connection.decided();
    let received = connection.counters(Direction::In);
    let sent = connection.counters(Direction::Out);
    Trace::FlowClosed {
        connection: connection.number(),
        verdict: decided.action,
        rule: decided.rule.unwrap_or(u32::MAX),
        generation: decided.generation,
        direction: connection.direction(),
        protocol: key.protocol,
        local: address(key.family, key.local),
        local_port: key.local_port,
        remote: address(key.family, key.remote),
        remote_port: key.remote_port,
        packets_in: received.packets,
        packets_out: sent.packets,
        bytes_in: received.bytes,
        bytes_out: sent.bytes,
        duration: connection.duration(),
        reason: match connection.ended() {
            Some(Ended::Closure) => events::CloseReason::Closure,
            Some(Ended::FlowDeleted) | None => events::CloseReason::FlowDeleted,
            Some(Ended::Unload) => events::CloseReason::Unload,
        },
    }
}

fn control_event<'a>(change: &ControlConnection) -> Trace<'a> {
    let remote = address(change.family, change.remote);
    let status = events::NtStatus(change.status);
    let ControlConnection { session, remote_port, .. } = *change;
    match change.change {
        ControlChange::Accepted => Trace::ControlAccepted { session, remote, remote_port },
        ControlChange::Refused => Trace::ControlRefused { remote, remote_port, status },
        ControlChange::Closed => Trace::ControlClosed { session, status },
    }
}

/// An address as the connections' keys have it.
pub fn address(family: Family, address: Address) -> IpAddr {
    match (family, address) {
        (Family::V4, [a, b, c, d, ..]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        (Family::V6, address) => IpAddr::V6(Ipv6Addr::from(address)),
    }
}
