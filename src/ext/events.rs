//! The rings of control sockets' extension events, and the thread that they come out on.
//!
//! A ring for each processor, apart from those of the flows. Callbacks are records of their socket; a socket's
//! registrations are told when they are settled, and told to be over when its close has completed, both as life-cycle
//! events, which are never lost. All come out in the socket's order, at PASSIVE_LEVEL, as [`trace::Event`]s, and what
//! concerns the socket's owner goes to its [`Owners`].

use super::connection_v1::{CONNECTION_EVENT_BACKLOG, CONNECTION_EVENT_STATE, ConnectionV1, is_closed};
use super::interface::Interface;
use super::plan::Row;
use super::slot::{ABOVE, BEGUN, ENDED, PARTS, Part, Slot, State};
use super::sockets::Sockets;
use crate::config::schema::Requirement;
use crate::kernel::event::{self, Event};
use crate::kernel::irql::{self, AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::thread::Thread;
use crate::kernel::{Result, Status};
use crate::ring::{
    self, Cause, Entry, ExtensionChange, ExtensionEvent, Handler, Kind, LifeCycle, Line, Record, Ring,
    Supply, Waker,
};
use crate::trace::events::Provider;
use crate::trace::{self, Guid};
use core::sync::atomic::Ordering;

/// Lines in the ring of each processor: 32 KiB.
const LINES: usize = 512;

/// What the rings are made of.
pub enum SocketRings {}

impl Supply for SocketRings {
    type Object = Slot;
    type Lines = PoolSlice<Line>;
    type Ring = PoolBox<Ring<Self>>;
    type Table = PoolSlice<Entry<Self>>;
    type Waker = Alarm;
}

pub(super) type Rings = ring::Rings<SocketRings>;

/// Wakes the dispatcher.
pub struct Alarm(Event);

impl Waker for Alarm {
    fn wake(&self) {
        self.0.set();
    }

    fn park(&self) {
        // SAFETY: only the dispatcher parks, on its thread, which is at PASSIVE_LEVEL between deliveries.
        let passive = unsafe { Passive::assume() };
        let _set = self.0.wait(&passive, None);
    }
}

/// A ring for each processor that is active now. Events on one that is added later are counted as lost.
pub(super) fn rings(passive: &Passive) -> Result<Rings> {
    let processors = usize::try_from(irql::maximum_processors()).map_err(|_| Status::INVALID_PARAMETER)?;
    let table = PoolSlice::try_from_fn(tags::RING, processors, |_| Entry::new())?;
    let rings = Rings::new(table, Alarm(Event::try_new(event::Kind::Synchronization)?));
    for processor in 0..irql::active_processors(passive) {
        let lines = PoolSlice::try_from_fn(tags::RING, LINES, |_| Line::new())?;
        let ring = Ring::new(lines).map_err(|_| Status::INVALID_PARAMETER)?;
        let ring = PoolBox::try_new(tags::RING, ring)?;
        rings.attach(processor, ring).map_err(|_| Status::INVALID_PARAMETER)?;
    }
    Ok(rings)
}

/// Whoever has the sockets, and hears of what providers say of them. Called on the thread that delivers.
pub trait Owners: Send + Sync + 'static {
    /// A provider says that the connection is over.
    fn closed(&self, irql: &mut AtMostDispatch, place: u32, session: u64);
    /// No provider says any more that what waits to be sent is above its mark.
    fn released(&self, irql: &mut AtMostDispatch, place: u32, session: u64);
}

/// The thread that delivers.
pub struct Events {
    sockets: PoolArc<Sockets>,
    thread: Thread,
}

/// What the thread works with.
struct Work<O: Owners> {
    sockets: PoolArc<Sockets>,
    owners: PoolArc<O>,
}

/// What the rings have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Callbacks delivered.
    pub delivered: u64,
    /// Callbacks lost, for whatever cause.
    pub lost: u64,
    /// Life-cycle events delivered.
    pub life_cycle: u64,
}

impl Events {
    /// Starts the thread.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what PsCreateSystemThread returns.
    pub fn start<O: Owners>(
        passive: &Passive,
        sockets: PoolArc<Sockets>,
        owners: PoolArc<O>,
    ) -> Result<Self> {
        let work = PoolBox::try_new(tags::EXTENSION, Work { sockets: sockets.clone(), owners })?;
        let thread = Thread::start(passive, work, run)?;
        Ok(Self { sockets, thread })
    }

    /// The slots.
    pub const fn sockets(&self) -> &PoolArc<Sockets> {
        &self.sockets
    }

    /// Ends the thread when it has delivered everything. Every socket is closed, and WSK deregistered.
    pub fn stop(self, passive: &Passive) {
        self.sockets.rings.stop();
        self.thread.join(passive);
    }
}

impl Sockets {
    /// What the rings have carried so far.
    pub fn figures(&self) -> Figures {
        let lost = [Cause::Full, Cause::TooLong, Cause::Nested, Cause::NoRing]
            .iter()
            .fold(0u64, |sum, cause| sum.wrapping_add(self.rings.lost(Kind::ExtensionEvent, *cause)));
        Figures { delivered: self.rings.delivered(), lost, life_cycle: self.rings.life_cycle_delivered() }
    }
}

fn run<O: Owners>(passive: &mut Passive, work: PoolBox<Work<O>>) {
    let Work { sockets, owners } = work.into_inner();
    // There is no other dispatcher: this is the only place that asks for one, once for each `Rings`.
    let Ok(mut dispatcher) = sockets.rings.dispatcher() else { return };
    let mut consumer = Consumer { sockets: &sockets, owners: &*owners, told: 0, passive };
    dispatcher.run(&mut consumer);
    consumer.tell_losses(0);
    let Figures { delivered, lost, .. } = sockets.figures();
    trace::emit(&trace::Event::RingSummary { delivered, lost, rings: "extensions" });
}

/// Turns records and events into what weir tells.
struct Consumer<'a, O> {
    sockets: &'a Sockets,
    owners: &'a O,
    /// Losses that have been told.
    told: u64,
    passive: &'a mut Passive,
}

impl<O: Owners> Consumer<'_, O> {
    /// Tells what was lost since this was told last, and where it was noticed.
    fn tell_losses(&mut self, processor: u32) {
        let lost = self.sockets.figures().lost;
        let count = lost.wrapping_sub(self.told);
        self.told = lost;
        if count != 0 {
            trace::emit(&trace::Event::RingLoss { processor, kind: Kind::ExtensionEvent.name(), count });
        }
    }

    /// The interface that a part of any slot is for.
    fn row(&self, part: u8) -> Option<&Row> {
        self.sockets.plan.rows.get(usize::from(part).checked_div(PARTS)?)
    }

    fn called_back(&mut self, event: &ExtensionEvent<'_>, slot: Option<&Slot>) {
        let Some(row) = self.row(event.part) else { return };
        let provider = Provider::from_number(event.provider).unwrap_or(Provider::Wsk);
        let ExtensionEvent { session, code, value, data, .. } = *event;
        let connection_v1 = row.spoken().is_some_and(Interface::is::<ConnectionV1>);
        let interface = row.interface();
        trace::emit(&trace::Event::ExtensionCallback { session, interface, code, value, provider, data });
        let Some(slot) = slot.filter(|_| connection_v1) else { return };
        let place = slot.place();
        match code {
            // What weir says itself it knows.
            CONNECTION_EVENT_STATE if is_closed(value) && provider != Provider::Builtin => {
                self.owners.closed(self.passive, place, session);
            }
            CONNECTION_EVENT_BACKLOG if !self.sockets.parts_of(slot).iter().any(|part| part.has(ABOVE)) => {
                self.owners.released(self.passive, place, session);
            }
            _ => {}
        }
    }

    fn changed(&self, change: &ExtensionChange) {
        let Some(row) = self.row(change.part) else { return };
        let provider = Provider::from_number(change.provider).unwrap_or(Provider::Wsk);
        tell(change.session, row.interface(), provider, change.detached.then_some(change.callbacks));
    }

    /// Tells of a part's beginning, if that is not told yet.
    fn tell_beginning(&self, slot: &Slot, part: &Part) {
        if let Some(row) = self.sockets.row(part)
            && part.take(BEGUN)
        {
            tell(slot.session(), row.interface(), part.kind(), None);
        }
    }

    /// Tells of a part's end, if that is not told yet.
    fn tell_end(&self, slot: &Slot, part: &Part) {
        if let Some(row) = self.sockets.row(part)
            && part.take(ENDED)
        {
            let callbacks = part.callbacks.load(Ordering::Relaxed);
            tell(slot.session(), row.interface(), part.kind(), Some(callbacks));
        }
    }

    fn tell_refusal(&self, slot: &Slot, part: &Part) {
        let Some(row) = self.sockets.row(part) else { return };
        if part.state() == State::Refused && part.kind() != Provider::Nmr {
            let (session, interface) = (slot.session(), row.interface());
            let required = row.requirement == Requirement::Required;
            let status = part.status().into();
            trace::emit(&trace::Event::ExtensionRefused { session, interface, required, status });
        }
    }
}

/// Tells of a registration's beginning, or of its end after so many callbacks.
fn tell(session: u64, interface: Guid, provider: Provider, ended: Option<u64>) {
    match ended {
        None => trace::emit(&trace::Event::ExtensionRegistered { session, interface, provider }),
        Some(callbacks) => {
            trace::emit(&trace::Event::ExtensionDetached { session, interface, callbacks, provider });
        }
    }
}

impl<O: Owners> Handler<Slot> for Consumer<'_, O> {
    fn record(&mut self, record: &Record<'_, Slot>) {
        if record.lost != 0 {
            self.tell_losses(record.processor);
        }
        match record.kind {
            Kind::ExtensionEvent => {
                if let Some(event) = ExtensionEvent::decode(record.detail, record.payload) {
                    self.called_back(&event, record.object);
                }
            }
            Kind::ExtensionChange => {
                if let Some(change) = ExtensionChange::decode(record.detail, record.payload) {
                    self.changed(&change);
                }
            }
            // Those are in the rings of flows (`crate::dispatch`).
            Kind::Verdict | Kind::ControlConnection => {}
        }
    }

    fn life_cycle(&mut self, slot: &Slot, event: LifeCycle, _sequence: u32) {
        let parts = self.sockets.parts_of(slot);
        match event {
            LifeCycle::Opened => {
                for part in parts {
                    self.tell_beginning(slot, part);
                    self.tell_refusal(slot, part);
                }
                slot.told.store(true, Ordering::Release);
            }
            LifeCycle::ExtensionDetached => {
                for part in parts {
                    self.tell_beginning(slot, part);
                    self.tell_end(slot, part);
                }
            }
            LifeCycle::Closed => {}
        }
    }
}
