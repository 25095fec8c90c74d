//! The rings of control sockets' extension events, and the thread that they come out on.
//!
//! A ring for each processor, apart from those of the flows. Callbacks are records of their socket; a socket's
//! registrations are told when they are settled, and told to be over when its close has completed, both as life-cycle
//! events, which are never lost. All come out in the socket's order, at PASSIVE_LEVEL, as [`trace::Event`]s.

use super::sockets::{Plan, Registration, Requirement, Slot, Sockets, State, guid};
use crate::kernel::event::{self, Event};
use crate::kernel::irql::{self, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::thread::Thread;
use crate::kernel::{Result, Status};
use crate::ring::{
    self, Cause, Entry, ExtensionEvent, Handler, Kind, LifeCycle, Line, Record, Ring, Supply, Waker,
};
use crate::trace::{self, events};

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
fn rings(passive: &Passive) -> Result<Rings> {
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

/// The sockets' slots with their rings, and the thread that delivers.
pub struct Events {
    sockets: PoolArc<Sockets>,
    thread: Thread,
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
    /// Makes slots for `count` sockets at a time, and starts the thread.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what PsCreateSystemThread returns.
    pub fn start(passive: &Passive, count: usize, plan: Plan) -> Result<Self> {
        let sockets = Sockets::try_new(count, plan, rings(passive)?)?;
        let work = PoolBox::try_new(tags::EXTENSION, sockets.clone())?;
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

fn run(_passive: &mut Passive, sockets: PoolBox<PoolArc<Sockets>>) {
    let sockets = sockets.into_inner();
    // There is no other dispatcher: this is the only place that asks for one, once for each `Rings`.
    let Ok(mut dispatcher) = sockets.rings.dispatcher() else { return };
    let mut consumer = Consumer { sockets: &sockets, told: 0 };
    dispatcher.run(&mut consumer);
    consumer.tell_losses(0);
    let Figures { delivered, lost, .. } = sockets.figures();
    trace::emit(&trace::Event::RingSummary { delivered, lost, rings: "extensions" });
}

/// Turns records and events into what weir tells.
struct Consumer<'a> {
    sockets: &'a Sockets,
    /// Losses that have been told.
    told: u64,
}

impl Consumer<'_> {
    /// Tells what was lost since this was told last, and where it was noticed.
    fn tell_losses(&mut self, processor: u32) {
        let lost = self.sockets.figures().lost;
        let count = lost.wrapping_sub(self.told);
        self.told = lost;
        if count != 0 {
            trace::emit(&trace::Event::RingLoss { processor, kind: Kind::ExtensionEvent.name(), count });
        }
    }

    fn tell_registration(&self, session: u64, registration: &Registration) {
        let Registration { index, interface, state, status, .. } = *registration;
        let required = self.sockets.requirement(index) == Requirement::Required;
        let provider = events::Provider::Wsk;
        let status = events::NtStatus::from(status);
        match state {
            State::Granted => {
                trace::emit(&trace::Event::ExtensionRegistered { session, interface, provider });
            }
            State::Refused => {
                trace::emit(&trace::Event::ExtensionRefused { session, interface, required, status });
            }
            State::Failed => {
                trace::emit(&trace::Event::ExtensionFailed {
                    session,
                    interface,
                    provider,
                    required,
                    status,
                });
            }
            // Settled before it is told.
            State::Idle | State::Registering => {}
        }
    }
}

impl Handler<Slot> for Consumer<'_> {
    fn record(&mut self, record: &Record<'_, Slot>) {
        if record.lost != 0 {
            self.tell_losses(record.processor);
        }
        // The only kind in these rings.
        let Some(event) = ExtensionEvent::decode(record.detail, record.payload) else { return };
        trace::emit(&trace::Event::ExtensionCallback {
            session: event.session,
            interface: guid(&event.interface),
            code: event.code,
            value: event.value,
            provider: events::Provider::Wsk,
            data: event.data,
        });
    }

    fn life_cycle(&mut self, slot: &Slot, event: LifeCycle, _sequence: u32) {
        let session = slot.session();
        if event == LifeCycle::Opened
            && let Some(interface) = self.sockets.unknown_requirement()
        {
            let status = events::NtStatus::from(Status::NOT_SUPPORTED);
            trace::emit(&trace::Event::ExtensionRefused { session, interface, required: true, status });
        }
        for registration in slot.registrations() {
            match event {
                LifeCycle::Opened => self.tell_registration(session, &registration),
                LifeCycle::ExtensionDetached if registration.state == State::Granted => {
                    let Registration { interface, callbacks, .. } = registration;
                    let provider = events::Provider::Wsk;
                    trace::emit(&trace::Event::ExtensionDetached { session, interface, callbacks, provider });
                }
                LifeCycle::ExtensionDetached | LifeCycle::Closed => {}
            }
        }
    }
}
