//! What weir's sockets have of extension interfaces: who is asked, what becomes of it, and its end.
//!
//! The sockets' worker, one thread at PASSIVE_LEVEL, registers them, offers them to modules that come, notices modules
//! that have left, and ends what they have. Callbacks only find their part (see [`super::slot`]).
//!
//! What begins and ends is never lost on its way to the consumer. A socket's first registrations and all that ends with it
//! are told by life-cycle events. What changes in between is a record of the socket, pushed again until the ring has
//! taken it; until then the part is not used for anything else.
//!
//! An interface has at most modules at a time: the registrar offers a module once, so one
//! that finds no place is not attached as long as it stays registered.

use super::builtin::{Crossing, Traffic};
use super::callback::{Callback, home, part_of};
use super::connection_v1::{
    CONNECTION_DIRECTION_RECEIVE, CONNECTION_DIRECTION_SEND, CONNECTION_EVENT_BACKLOG,
    CONNECTION_EVENT_METRIC, CONNECTION_EVENT_STATE, CONNECTION_METRIC_V1, CONNECTION_STATE_CLOSED,
    CONNECTION_STATE_ESTABLISHED, ConnectionV1,
};
use super::interface::{ExtensionInterface, Interface};
use super::module::{EXTENSION_CONNECTION, EXTENSION_MODULE_V1};
use super::modules::{Client, Inside, Key};
use super::plan::{Plan, Row};
use super::slot::{ABOVE, BEGUN, ENDED, Ends, GIVEN_UP, LEAVING, PARTS, Part, Slot, SocketKind, State};
use crate::config::schema::Requirement;
use crate::dispatch::{Rings, Subject};
use crate::kernel::event::{self, Event};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::{Result, Status};
use crate::ring::{ExtensionChange, LifeCycle, Linked};
use crate::sys::nt::PVOID;
use crate::sys::wsk::{AF_INET, AF_INET6};
use crate::trace::events::Provider as Kind;
use crate::trace::{self, Guid};
use crate::wsk::address::octets;
use crate::wsk::status::is_unsupported;
use crate::wsk::{Call, ExtensionProvider};
use core::ffi::c_void;
use core::marker::PhantomData;
use core::net::SocketAddr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A required interface that a socket cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub interface: Guid,
    pub status: Status,
}

/// How a socket stands with an interface, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The session's number; 0 for a listening socket.
    pub session: u64,
    pub kind: SocketKind,
    pub interface: Guid,
    /// Who provides it, or was asked; `None`: nobody does.
    pub provider: Option<Kind>,
    /// The vendor's module.
    pub module: Option<Guid>,
    pub state: State,
    pub requirement: Requirement,
    /// What the registration ended with.
    pub status: Status,
    pub callbacks: u64,
}

/// What became of asking a kind of provider, over all sockets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub asked: u64,
    pub granted: u64,
    /// It does not have the interface.
    pub refused: u64,
    /// It could not, or what it gave cannot be used.
    pub failed: u64,
}

/// What became of registrations, and what went wrong with callbacks, over all sockets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub wsk: Tally,
    pub nmr: Tally,
    pub builtin: Tally,
    /// Interfaces that nobody provides, or provides any more, for a socket.
    pub missing: u64,
    /// Registrations that have ended, with their socket or before.
    pub detached: u64,
    /// Vendors' modules that are attached now.
    pub modules: u64,
    /// Callbacks that went into the ring.
    pub callbacks: u64,
    /// Callbacks for which the ring had no room.
    pub lost: u64,
    /// Callbacks whose arguments broke the interface's rules.
    pub malformed: u64,
    /// Callbacks for a socket that was gone, or by a provider that had no business with it any more.
    pub late: u64,
}

#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn read(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Tally {
            asked: read(&self.asked),
            granted: read(&self.granted),
            refused: read(&self.refused),
            failed: read(&self.failed),
        }
    }
}

#[derive(Default)]
struct Counters {
    wsk: Counts,
    nmr: Counts,
    builtin: Counts,
    missing: AtomicU64,
    detached: AtomicU64,
    callbacks: AtomicU64,
    lost: AtomicU64,
    malformed: AtomicU64,
    late: AtomicU64,
}

/// Whether a count is another one than was seen, which is brought up to date.
fn differs(count: &AtomicU32, seen: &mut u32) -> bool {
    let now = count.load(Ordering::Acquire);
    core::mem::replace(seen, now) != now
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The slots of all sockets. Freed when every provider has let go: after WskDeregister and [`Sockets::disconnect`].
pub struct Sockets {
    /// Before the slots, as they are dropped: if nobody has taken the last events, the rings let go of the slots.
    pub(super) rings: PoolArc<Rings>,
    slots: PoolSlice<Slot>,
    /// [`PARTS`] for each slot and row.
    parts: PoolSlice<Part>,
    /// One for each row.
    clients: PoolSlice<Client>,
    /// Where the search for a free slot begins.
    cursor: AtomicUsize,
    pub(super) plan: Plan,
    /// Changes with every module that comes or goes, and when one has let go of a socket.
    epoch: AtomicU32,
    /// How many modules have come.
    arrivals: AtomicU32,
    /// Something is noted with a socket.
    noted: AtomicBool,
    /// Wakes the sockets' worker: set when modules come and go, and when something is noted with a socket.
    wake: PoolArc<Event>,
    counters: PoolBox<Counters>,
}

impl Sockets {
    /// Slots for `count` sockets at a time, whose events go into `rings`. The dispatcher of those keeps them until it has
    /// delivered everything. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(
        _passive: &Passive,
        count: usize,
        plan: Plan,
        rings: PoolArc<Rings>,
    ) -> Result<PoolArc<Self>> {
        let rows = plan.rows.len();
        let each = rows.saturating_mul(PARTS);
        let sockets = Self {
            slots: PoolSlice::try_from_fn(tags::EXTENSION, count, Slot::new)?,
            parts: PoolSlice::try_from_fn(tags::EXTENSION, count.saturating_mul(each), |index| {
                Part::new(index.checked_rem(each).unwrap_or_default())
            })?,
            clients: PoolSlice::try_from_fallible(tags::EXTENSION, rows, |index| {
                plan.rows.get(index).map(Client::new).ok_or(Status::INVALID_PARAMETER)
            })?,
            cursor: AtomicUsize::new(0),
            rings,
            plan,
            epoch: AtomicU32::new(0),
            arrivals: AtomicU32::new(0),
            noted: AtomicBool::new(false),
            wake: PoolArc::try_new(tags::EXTENSION, Event::try_new(event::Kind::Synchronization)?)?,
            counters: PoolBox::try_new(tags::EXTENSION, Counters::default())?,
        };
        let sockets = PoolArc::try_new(tags::EXTENSION, sockets)?;
        let home = core::ptr::from_ref::<Self>(&sockets);
        for slot in &*sockets.slots {
            slot.home.store(home.cast_mut(), Ordering::Relaxed);
            for part in sockets.parts_of(slot) {
                part.slot.store(core::ptr::from_ref(slot).cast_mut(), Ordering::Relaxed);
            }
        }
        for client in &*sockets.clients {
            client.settle(home);
        }
        Ok(sockets)
    }

    /// The parts of a slot, row by row.
    pub(super) fn parts_of(&self, slot: &Slot) -> &[Part] {
        let each = self.plan.rows.len().saturating_mul(PARTS);
        let begin = slot.index.saturating_mul(each);
        self.parts.get(begin..begin.saturating_add(each)).unwrap_or_default()
    }

    /// Registers weir with the registrar, for every interface that modules may provide. PASSIVE_LEVEL.
    pub fn connect(&self, passive: &Passive) {
        for (row, client) in self.plan.rows.iter().zip(&*self.clients) {
            if row.wants_modules()
                && let Err(status) = client.register(passive, row)
            {
                trace::emit(&trace::Event::Degraded { part: "extension modules", status: status.into() });
            }
        }
    }

    /// Detaches from every module. No socket is there any more. Waits for modules that are still calling.
    pub fn disconnect(&self, passive: &Passive) {
        for client in &*self.clients {
            client.deregister();
        }
        for client in &*self.clients {
            client.wait(passive);
        }
        self.sweep();
    }

    /// What the sockets' worker waits for.
    pub const fn wake(&self) -> &PoolArc<Event> {
        &self.wake
    }

    /// Whether a socket needs what a module may provide.
    pub fn requires_modules(&self) -> bool {
        self.plan.rows.iter().any(|row| row.requirement == Requirement::Required && row.wants_modules())
    }

    /// What a provider says of a socket is noted with it, and its owner is to act on that. IRQL <= DISPATCH_LEVEL.
    pub(super) fn look_after(&self) {
        self.noted.store(true, Ordering::Release);
        self.wake.set();
    }

    /// Whether the sockets are to be looked after because of that.
    pub fn take_noted(&self) -> bool {
        self.noted.swap(false, Ordering::Acquire)
    }

    /// Whether modules have come, or gone, since `seen`, which is brought up to date.
    pub fn have_modules_changed(&self, seen: &mut u32) -> bool {
        differs(&self.epoch, seen)
    }

    /// Whether modules have come since `seen`, which is brought up to date.
    pub fn have_modules_come(&self, seen: &mut u32) -> bool {
        differs(&self.arrivals, seen)
    }

    /// A module has come. PASSIVE_LEVEL.
    pub(super) fn module_came(&self) {
        self.arrivals.fetch_add(1, Ordering::Release);
        self.modules_changed();
    }

    /// A module has come or gone. IRQL <= DISPATCH_LEVEL.
    pub(super) fn modules_changed(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        self.wake.set();
    }

    /// Gives up what is kept for modules that have gone without `DetachComplete`.
    pub fn sweep(&self) {
        for part in &*self.parts {
            if part.has(LEAVING) && !self.client(part).is_some_and(|client| client.is_bound(part.module())) {
                part.take(LEAVING);
            }
        }
    }

    fn client(&self, part: &Part) -> Option<&Client> {
        self.clients.get(part.row())
    }

    pub(super) fn row(&self, part: &Part) -> Option<&Row> {
        self.plan.rows.get(part.row())
    }

    /// Whether the module that a part is of may call.
    pub(super) fn is_attached(&self, part: &Part) -> bool {
        self.client(part).is_some_and(|client| client.is_open(part.module()))
    }

    /// Takes a slot for a socket of that session; `None` if there is none left. IRQL <= DISPATCH_LEVEL.
    pub fn attach(
        this: &PoolArc<Self>,
        irql: &mut AtMostDispatch,
        kind: SocketKind,
        session: u64,
        ends: Ends,
    ) -> Option<Attached> {
        let slots = &*this.slots;
        let start = this.cursor.fetch_add(1, Ordering::Relaxed).checked_rem(slots.len())?;
        let (before, from) = slots.split_at_checked(start)?;
        let mut all = from.iter().chain(before);
        let slot = all.find(|slot| slot.take(this.parts_of(slot), kind, session))?;
        *slot.ends.lock(irql) = ends;
        Some(Attached { slot: NonNull::from(slot), sockets: this.clone() })
    }

    pub fn totals(&self) -> Totals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counters = &self.counters;
        let modules = self.clients.iter().map(|client| client.keys().count()).sum::<usize>();
        Totals {
            wsk: counters.wsk.read(),
            nmr: counters.nmr.read(),
            builtin: counters.builtin.read(),
            missing: read(&counters.missing),
            detached: read(&counters.detached),
            modules: u64::try_from(modules).unwrap_or(u64::MAX),
            callbacks: read(&counters.callbacks),
            lost: read(&counters.lost),
            malformed: read(&counters.malformed),
            late: read(&counters.late),
        }
    }

    fn counts(&self, kind: Kind) -> &Counts {
        match kind {
            Kind::Wsk => &self.counters.wsk,
            Kind::Nmr => &self.counters.nmr,
            Kind::Builtin => &self.counters.builtin,
        }
    }

    pub(super) fn late(&self) {
        count(&self.counters.late);
    }

    pub(super) fn malformed(&self) {
        count(&self.counters.malformed);
    }

    /// A callback was made, and the ring has taken it or not.
    pub(super) fn called_back(&self, taken: bool) {
        count(if taken { &self.counters.callbacks } else { &self.counters.lost });
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_owned()).count()
    }

    /// How a socket stands with an interface, by an index from 0 over all there can be; `Some(None)`: there is none at
    /// that index now, `None`: nor is there any further on.
    pub fn standing(&self, index: usize) -> Option<Option<Standing>> {
        let part = self.parts.get(index)?;
        let state = part.state();
        let Some((slot, _)) = home(part) else { return Some(None) };
        if !slot.is_owned() || matches!(state, State::Idle | State::Registering) {
            return Some(None);
        }
        let Some(row) = self.row(part) else { return Some(None) };
        let provider = Some(part.kind()).filter(|kind| state != State::Refused || *kind == Kind::Nmr);
        Some(Some(Standing {
            session: slot.session(),
            kind: slot.kind(),
            interface: row.interface(),
            provider,
            module: self.client(part).and_then(|client| client.id(part.module())),
            state,
            requirement: row.requirement,
            status: part.status(),
            callbacks: part.callbacks.load(Ordering::Relaxed),
        }))
    }
}

/// `EXTENSION_MODULE_CLIENT_DISPATCH::DetachComplete`. IRQL <= DISPATCH_LEVEL.
#[allow(non_snake_case, reason = "the interface's names")]
pub(super) unsafe extern "system" fn detach_complete(ClientContext: PVOID) {
    // SAFETY: the module hands back the context of the attachment.
    let Some((part, tag)) = (unsafe { part_of(ClientContext) }) else { return };
    let Some((_, sockets)) = home(part) else { return };
    if part.gate.tag() == tag && part.take(LEAVING) {
        // The part can be used again.
        sockets.modules_changed();
    } else {
        sockets.late();
    }
}

/// A socket's slot, in its owner's hand. Given up when close has completed.
///
/// But for what tells of traffic, the sockets' worker alone uses it.
pub struct Attached {
    slot: NonNull<Slot>,
    sockets: PoolArc<Sockets>,
}

// SAFETY: slots are Sync, and the block is kept alive.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

/// A mark that was crossed.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Backlog {
    direction: u32,
    bytes: u64,
    crossing: Crossing,
}

/// Whether everything is as it should be, or is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tended {
    Settled,
    /// Soon, in some milliseconds.
    Again,
}

impl Attached {
    fn slot(&self) -> &Slot {
        // SAFETY: in the block, which `sockets` keeps alive.
        unsafe { self.slot.as_ref() }
    }

    /// It is bound to that address.
    pub fn bound(&self, irql: &mut AtMostDispatch, local: SocketAddr) {
        self.slot().ends.lock(irql).local = Some(local);
    }

    /// Its traffic.
    pub fn traffic(&self) -> &Traffic {
        &self.slot().traffic
    }

    /// The rows of the plan, each with its parts: the first for WSK or weir itself, the others for modules.
    fn rows(&self) -> impl Iterator<Item = Line<'_>> {
        let sockets = &*self.sockets;
        let parts = sockets.parts_of(self.slot()).chunks_exact(PARTS);
        sockets.plan.rows.iter().zip(&*sockets.clients).zip(parts).filter_map(|((row, client), parts)| {
            let (first, modules) = parts.split_first()?;
            Some(Line { row, client, first, modules })
        })
    }

    /// Registers the socket for every interface, and switches its events on. `wsk_version` is
    /// `WSK_PROVIDER_DISPATCH.Version`. Once for each socket; after bind or connect, because of the events. Callbacks may
    /// come before this returns.
    ///
    /// # Errors
    /// The first required interface that cannot be had. The socket must be closed then.
    pub fn register(
        &self,
        passive: &mut Passive,
        call: &Call<'_>,
        wsk_version: u16,
    ) -> core::result::Result<(), Missing> {
        let mut missing = None;
        for line in self.rows() {
            let Err(status) = self.settle(passive, call, wsk_version, &line) else { continue };
            line.first.set(State::Refused, status);
            count(&self.sockets.counters.missing);
            if line.row.requirement == Requirement::Required {
                missing = missing.or(Some(Missing { interface: line.row.interface(), status }));
            }
        }
        self.sockets.rings.raise(&*passive.raise(), Subject::Socket(self.slot()), LifeCycle::Opened);
        missing.map_or(Ok(()), Err)
    }

    /// Asks one kind of provider after the other.
    fn settle(&self, passive: &mut Passive, call: &Call<'_>, wsk_version: u16, line: &Line<'_>) -> Result {
        let mut last = Status::NOT_SUPPORTED;
        for kind in line.row.providers.iter() {
            let granted = match kind {
                Kind::Wsk => self.ask_wsk(passive, call, wsk_version, line),
                Kind::Nmr => self.offer(passive, line),
                Kind::Builtin => self.provide(line),
            };
            match granted {
                Ok(()) => return Ok(()),
                Err(status) if is_unsupported(status) => {}
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    /// Counts what became of asking, and tells of a failure.
    fn asked(&self, kind: Kind, row: &Row, outcome: Result) -> Result {
        let counts = self.sockets.counts(kind);
        count(&counts.asked);
        count(match outcome {
            Ok(()) => &counts.granted,
            Err(status) if is_unsupported(status) => &counts.refused,
            Err(_) => &counts.failed,
        });
        if let Err(status) = outcome
            && !is_unsupported(status)
        {
            let (session, interface) = (self.slot().session(), row.interface());
            let required = row.requirement == Requirement::Required;
            let status = status.into();
            trace::emit(&trace::Event::ExtensionFailed {
                session,
                interface,
                provider: kind,
                required,
                status,
            });
        }
        outcome
    }

    fn ask_wsk(&self, passive: &Passive, call: &Call<'_>, wsk_version: u16, line: &Line<'_>) -> Result {
        let Some(interface) = line.row.spoken().filter(|interface| interface.offered_by(wsk_version)) else {
            return Err(Status::NOT_SUPPORTED);
        };
        let part = line.first;
        let context = part.ask(Kind::Wsk, Key::NOBODY);
        let outcome = register_wsk(call, interface, line.row, context);
        if let Ok(provider) = outcome {
            part.grant(provider);
        } else {
            part.shut(passive);
            part.note(GIVEN_UP, false);
            part.set(State::Idle, Status::SUCCESS);
        }
        self.asked(Kind::Wsk, line.row, outcome.map(|_| ()))?;
        self.mark(line.row, part, Some(call));
        Ok(())
    }

    /// weir itself provides the interface, if it can.
    fn provide(&self, line: &Line<'_>) -> Result {
        let table = line.row.spoken().and_then(Interface::builtin).ok_or(Status::NOT_SUPPORTED)?;
        self.traffic().begin();
        line.first.ask(Kind::Builtin, Key::NOBODY);
        let context = core::ptr::from_ref(self.traffic()).cast_mut().cast::<c_void>();
        line.first.grant(ExtensionProvider { context, dispatch: table.as_ptr() });
        self.asked(Kind::Builtin, line.row, Ok(()))?;
        self.mark(line.row, line.first, None);
        Ok(())
    }

    /// Offers the socket to every module that is there and was not asked yet.
    ///
    /// # Errors
    /// None has taken it; why the last one asked has not.
    fn offer(&self, passive: &mut Passive, line: &Line<'_>) -> Result {
        let mut outcome = Err(Status::NOT_SUPPORTED);
        for key in line.client.keys() {
            let asked = |part: &Part| part.module() == key && part.state() != State::Idle;
            if line.modules.iter().any(asked) {
                continue;
            }
            // There are as many parts as modules; one may not have been told of yet.
            let Some(part) = line.modules.iter().find(|part| part.is_free()) else { continue };
            let offered = self.offer_to(passive, line, key, part);
            if offered.is_ok() || outcome.is_err() {
                outcome = offered;
            }
        }
        outcome
    }

    fn offer_to(&self, passive: &mut Passive, line: &Line<'_>, key: Key, part: &Part) -> Result {
        let interface = line.row.spoken().ok_or(Status::NOT_SUPPORTED)?;
        let inside = line.client.enter(key).ok_or(Status::NOT_SUPPORTED)?;
        let connection = connection(self.slot(), line.row, *self.slot().ends.lock(passive));
        let context = part.ask(Kind::Nmr, key);
        // SAFETY: the interface's own table, a constant; the context lies in a block that outlives the module's binding.
        let attached = unsafe { inside.attach(passive, &connection, context, interface.client_dispatch()) };
        let outcome = attached.and_then(|provider| {
            // SAFETY: exactly STATUS_SUCCESS: the provider's table for this interface, or NULL.
            let usable = unsafe { is_usable(interface, provider) };
            if !usable {
                part.shut(passive);
                Self::detach(passive, part, &inside, provider.context);
            }
            if usable { Ok(provider) } else { Err(Status::INVALID_PARAMETER) }
        });
        drop(inside);
        match outcome {
            Ok(provider) => part.grant(provider),
            Err(status) => {
                part.shut(passive);
                part.note(GIVEN_UP, false);
                let state = if is_unsupported(status) { State::Refused } else { State::Failed };
                part.set(state, status);
            }
        }
        self.asked(Kind::Nmr, line.row, outcome.map(|_| ()))?;
        self.mark(line.row, part, None);
        Ok(())
    }

    /// Has a module let go of the socket.
    fn detach(passive: &Passive, part: &Part, inside: &Inside<'_>, provider_context: PVOID) {
        // The completion may come before the answer.
        part.flags.fetch_or(LEAVING, Ordering::AcqRel);
        // SAFETY: the module's own context, of a connection that it has taken; the part ends with this.
        let status = unsafe { inside.detach(passive, provider_context) };
        if status != Status::PENDING {
            part.take(LEAVING);
        }
    }

    /// Sets the marks that the settings want.
    fn mark(&self, row: &Row, part: &Part, call: Option<&Call<'_>>) {
        let marks = self.sockets.plan.marks;
        if !row.spoken().is_some_and(Interface::is::<ConnectionV1>) {
            return;
        }
        for (direction, high) in
            [(CONNECTION_DIRECTION_RECEIVE, marks.receive), (CONNECTION_DIRECTION_SEND, marks.send)]
        {
            if high != 0
                && let Some(provider) = self.provider_of::<ConnectionV1>(part, call)
            {
                // Who has no marks tells of none.
                let _set = provider.set_marks(direction, high / 2, high);
            }
        }
    }

    /// Ends a part while modules may come back: its callbacks hit nothing from here on.
    fn end_part(&self, passive: &Passive, line: &Line<'_>, part: &Part) {
        let provider = part.provider();
        part.shut(passive);
        part.flags.fetch_or(ENDED, Ordering::Relaxed);
        part.set(State::Detached, Status::SUCCESS);
        count(&self.sockets.counters.detached);
        if part.kind() == Kind::Nmr
            && let Some(provider) = provider
            && let Some(inside) = line.client.enter(part.module())
        {
            Self::detach(passive, part, &inside, provider.context);
        }
    }

    /// Puts what has begun or ended on its way; false: the ring has no room now.
    fn tell(&self, passive: &mut Passive, part: &Part) -> bool {
        for (flag, detached) in [(BEGUN, false), (ENDED, true)] {
            if !part.has(flag) {
                continue;
            }
            let change = ExtensionChange {
                session: self.slot().session(),
                part: part.index,
                provider: part.kind() as u8,
                detached,
                callbacks: part.callbacks.load(Ordering::Relaxed),
            };
            let raised = passive.raise();
            let taken = self.sockets.rings.push(&*raised, &change, Some(Subject::Socket(self.slot())));
            drop(raised);
            if !taken {
                return false;
            }
            part.take(flag);
        }
        true
    }

    /// Brings the socket, if it is registered, up to date with the modules that have come and gone. Before close is issued.
    ///
    /// # Errors
    /// A required interface that nobody provides any more. The socket must be closed then.
    pub fn tend(&self, passive: &mut Passive) -> core::result::Result<Tended, Missing> {
        if !self.slot().link().raised(LifeCycle::Opened) {
            return Ok(Tended::Settled);
        }
        if !self.slot().told.load(Ordering::Acquire) {
            return Ok(Tended::Again);
        }
        let mut tended = Tended::Settled;
        let mut missing = None;
        for line in self.rows() {
            if line.row.wants_modules()
                && let Err(status) = self.tend_row(passive, &line)
                && line.row.requirement == Requirement::Required
            {
                missing = missing.or(Some(Missing { interface: line.row.interface(), status }));
            }
            // What has ended, then what has taken its place.
            for part in line.all().filter(|part| part.has(ENDED)).chain(line.all()) {
                if !self.tell(passive, part) || !Self::recover(part) {
                    tended = Tended::Again;
                }
            }
        }
        missing.map_or(Ok(tended), Err)
    }

    /// Makes a part that has ended, and of which that was told, good for another provider; false: it was not before.
    fn recover(part: &Part) -> bool {
        if part.state() != State::Detached {
            return true;
        }
        if !part.has(BEGUN | ENDED) {
            part.set(State::Idle, Status::SUCCESS);
        }
        // Whether the row has what it needs is seen when it is looked at again.
        false
    }

    fn tend_row(&self, passive: &mut Passive, line: &Line<'_>) -> Result {
        for part in line.modules {
            let gone = !line.client.is_open(part.module());
            match part.state() {
                State::Granted if gone => self.end_part(passive, line, part),
                State::Refused | State::Failed if gone => {
                    part.set(State::Idle, Status::SUCCESS);
                }
                _ => {}
            }
        }
        let (own, kind) = (line.first.state(), line.first.kind());
        // What WSK has granted ends with the socket alone.
        if own == State::Granted && (kind == Kind::Wsk || line.row.asks_before(kind, Kind::Nmr)) {
            return Ok(());
        }
        // Why a module has not taken it stands with the module.
        let _taken = self.offer(passive, line);
        let provided = line.modules.iter().any(|part| part.state() == State::Granted);
        match own {
            State::Granted if provided => self.end_part(passive, line, line.first),
            State::Granted => {}
            State::Refused if provided => line.first.set(State::Idle, Status::SUCCESS),
            _ if provided => {}
            // A module waits for a part that is not free yet.
            State::Idle if Self::is_waited_for(line) => {}
            State::Idle => {
                let may = line.row.providers.iter().any(|kind| kind == Kind::Builtin);
                if !may || self.provide(line).is_err() {
                    let status = Status::NOT_SUPPORTED;
                    line.first.set(State::Refused, status);
                    count(&self.sockets.counters.missing);
                    let (session, interface) = (self.slot().session(), line.row.interface());
                    let required = line.row.requirement == Requirement::Required;
                    let status = status.into();
                    trace::emit(&trace::Event::ExtensionRefused { session, interface, required, status });
                    return Err(Status::NOT_SUPPORTED);
                }
            }
            // Its end is to be told before it begins again; nobody has provided it from the beginning.
            State::Detached | State::Refused | State::Registering | State::Failed => {}
        }
        Ok(())
    }

    /// Whether a module is to have the socket that cannot yet, since what was before it is still to be told.
    fn is_waited_for(line: &Line<'_>) -> bool {
        let asked = |key: Key| line.modules.iter().any(|part| part.module() == key && !part.is_free());
        let untold = line.modules.iter().any(|part| part.state() == State::Detached);
        untold && line.client.keys().any(|key| !asked(key))
    }

    /// Ends everything: close has completed, or there was no socket. Modules let go of it.
    pub fn end(&self, passive: &Passive) {
        for line in self.rows() {
            for part in line.all().filter(|part| part.state() == State::Granted) {
                self.end_part(passive, &line, part);
            }
        }
    }

    fn provider_of<'c, I: ExtensionInterface>(
        &'c self,
        part: &Part,
        call: Option<&'c Call<'_>>,
    ) -> Option<Provider<'c, I>> {
        let row = self.sockets.row(part)?;
        if !row.spoken().is_some_and(Interface::is::<I>) {
            return None;
        }
        let provider = part.provider()?;
        let inside = match part.kind() {
            Kind::Wsk => {
                call?;
                None
            }
            Kind::Nmr => Some(self.sockets.client(part)?.enter(part.module())?),
            Kind::Builtin => None,
        };
        let dispatch = NonNull::new(provider.dispatch.cast_mut())?.cast();
        Some(Provider { context: provider.context, dispatch, _inside: inside, _call: PhantomData })
    }

    /// The providers of `I` that the socket has. Their functions may be called while `call` lasts: inside the socket's
    /// gate, which close shuts first, and inside the module's.
    pub fn providers<'c, I: ExtensionInterface>(
        &'c self,
        call: &'c Call<'_>,
    ) -> impl Iterator<Item = (Kind, Provider<'c, I>)> {
        let parts = self.sockets.parts_of(self.slot()).iter();
        parts.filter_map(|part| Some((part.kind(), self.provider_of::<I>(part, Some(call))?)))
    }

    /// As [`Attached::providers`], of the interface that is asked for by this identifier.
    pub fn providers_by<'c, I: ExtensionInterface>(
        &'c self,
        call: &'c Call<'_>,
        interface: Guid,
    ) -> impl Iterator<Item = (Kind, Provider<'c, I>)> {
        let parts = self.sockets.parts_of(self.slot()).iter();
        parts
            .filter(move |part| self.sockets.row(part).is_some_and(|row| row.interface() == interface))
            .filter_map(|part| Some((part.kind(), self.provider_of::<I>(part, Some(call))?)))
    }

    /// How the socket stands with `I`: granted by anybody, or as the first who was asked has it.
    pub fn state<I: ExtensionInterface>(&self) -> State {
        let of = |line: &Line<'_>| line.row.spoken().is_some_and(Interface::is::<I>);
        let mut states = self.rows().filter(of).flat_map(|line| line.all().map(Part::state));
        let first = states.next().unwrap_or(State::Idle);
        states.find(|state| *state == State::Granted).unwrap_or(first)
    }

    /// The parts for which weir itself provides `connection_v1`, with that event on.
    fn own(&self, event: u32) -> impl Iterator<Item = &Part> {
        let on = move |line: &Line<'_>| line.row.events & event != 0;
        let own = |part: &&Part| part.kind() == Kind::Builtin && part.state() == State::Granted;
        self.rows().filter(on).map(|line| line.first).filter(own)
    }

    /// The connection is there.
    pub fn established(&self, irql: &mut AtMostDispatch) {
        for part in self.own(CONNECTION_EVENT_STATE) {
            if let Some(callback) = Callback::own(irql, part) {
                callback.own_state(CONNECTION_STATE_ESTABLISHED, 0);
            }
        }
    }

    /// The connection is over, for that reason (`CONNECTION_REASON_…`).
    pub fn over(&self, irql: &mut AtMostDispatch, reason: u32) {
        for part in self.own(CONNECTION_EVENT_STATE) {
            if let Some(callback) = Callback::own(irql, part) {
                callback.own_state(CONNECTION_STATE_CLOSED, reason);
            }
        }
    }

    /// So many bytes wait in that direction (`CONNECTION_DIRECTION_…`). The caller counts them, and holds what it counts
    /// them by. What comes back is to be told by [`Attached::tell_backlog`].
    pub fn backlog(&self, direction: u32, bytes: u64) -> Option<Backlog> {
        let crossing = self.traffic().cross(direction, bytes)?;
        if direction == CONNECTION_DIRECTION_SEND {
            self.own(CONNECTION_EVENT_BACKLOG).for_each(|part| {
                if part.gate.enter_now() {
                    part.note(ABOVE, crossing.above);
                    part.gate.leave();
                }
            });
        }
        Some(Backlog { direction, bytes, crossing })
    }

    /// Tells of a mark that was crossed, if one was.
    pub fn tell_backlog(&self, irql: &mut AtMostDispatch, backlog: Option<Backlog>) {
        let Some(Backlog { direction, bytes, crossing }) = backlog else { return };
        for part in self.own(CONNECTION_EVENT_BACKLOG) {
            if let Some(callback) = Callback::own(irql, part) {
                callback.own_backlog(direction, crossing.above, bytes, crossing.mark);
            }
        }
    }

    /// Whether a provider says that more waits to be sent than its mark.
    pub fn is_held_back(&self) -> bool {
        self.sockets.parts_of(self.slot()).iter().any(|part| part.has(ABOVE))
    }

    /// Whether a provider says that the connection is over.
    pub fn is_given_up(&self) -> bool {
        self.sockets.parts_of(self.slot()).iter().any(|part| part.has(GIVEN_UP))
    }

    /// The time for a sample of the counters has come.
    pub fn sample(&self, irql: &mut AtMostDispatch) {
        let sample: CONNECTION_METRIC_V1 = self.traffic().sample();
        for part in self.own(CONNECTION_EVENT_METRIC) {
            if let Some(callback) = Callback::own(irql, part) {
                callback.metric(&sample);
            }
        }
    }
}

/// A row of the plan, as a socket has it.
struct Line<'a> {
    row: &'a Row,
    client: &'a Client,
    first: &'a Part,
    modules: &'a [Part],
}

impl<'a> Line<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Part> + use<'a> {
        core::iter::once(self.first).chain(self.modules)
    }
}

/// SIO_WSK_REGISTER_EXTENSION, and the events.
fn register_wsk(
    call: &Call<'_>,
    interface: &Interface,
    row: &Row,
    context: PVOID,
) -> Result<ExtensionProvider> {
    // SAFETY: the interface's own table, a constant; the context lies in a block that outlives the socket, and the
    // identifier in one that lasts as long.
    let provider = unsafe { call.register_extension(row.npi(), context, interface.client_dispatch()) }?;
    // SAFETY: STATUS_SUCCESS: the provider's table for this interface, valid until close is issued, or NULL.
    if !unsafe { is_usable(interface, provider) } {
        return Err(Status::INVALID_PARAMETER);
    }
    if row.events != 0 {
        call.enable_events(row.npi(), row.events)?;
    }
    Ok(provider)
}

/// Whether what a provider gave can be used.
///
/// # Safety
/// The dispatch table is NULL, or begins as the interface defines.
unsafe fn is_usable(interface: &Interface, provider: ExtensionProvider) -> bool {
    let Some(dispatch) = NonNull::new(provider.dispatch.cast_mut()) else { return false };
    // SAFETY: the caller's promise.
    unsafe { interface.provider_is_usable(dispatch) }
}

/// What a module is told of a socket.
fn connection(slot: &Slot, row: &Row, ends: Ends) -> EXTENSION_CONNECTION {
    let bytes = |end: Option<SocketAddr>| end.map_or([0; 16], |end| octets(end.ip()));
    let port = |end: Option<SocketAddr>| end.map_or(0, |end| end.port());
    let family = ends.remote.or(ends.local).map_or(0, |end| if end.is_ipv4() { AF_INET } else { AF_INET6 });
    EXTENSION_CONNECTION {
        Size: 64,
        Version: EXTENSION_MODULE_V1,
        Kind: slot.kind() as u32,
        Session: slot.session(),
        EventMask: row.events,
        Family: family,
        LocalPort: port(ends.local),
        RemotePort: port(ends.remote),
        Reserved: 0,
        Reserved2: 0,
        LocalAddress: bytes(ends.local),
        RemoteAddress: bytes(ends.remote),
    }
}

const _: () = assert!(size_of::<EXTENSION_CONNECTION>() == 64);

impl Drop for Attached {
    /// Gives the slot up; what was not ended is over with its socket.
    fn drop(&mut self) {
        let slot = self.slot();
        for part in self.sockets.parts_of(slot) {
            part.gate.shut();
            if part.state() == State::Granted {
                part.flags.fetch_or(ENDED, Ordering::Relaxed);
                part.set(State::Detached, Status::SUCCESS);
                count(&self.sockets.counters.detached);
            }
        }
        if slot.link().raised(LifeCycle::Opened) {
            let rings = &self.sockets.rings;
            // SAFETY: sockets and their owners are given up at DISPATCH_LEVEL at most; the token stays in this call.
            let mut irql = unsafe { AtMostDispatch::assume() };
            let raised = irql.raise();
            rings.raise(&*raised, Subject::Socket(slot), LifeCycle::ExtensionDetached);
            rings.raise(&*raised, Subject::Socket(slot), LifeCycle::Closed);
        }
        // This owner's own share, which it does not use again.
        slot.let_go();
    }
}

/// A provider's functions, for as long as they may be called.
pub struct Provider<'c, I: ExtensionInterface> {
    context: PVOID,
    dispatch: NonNull<I::ProviderDispatch>,
    _inside: Option<Inside<'c>>,
    _call: PhantomData<&'c ()>,
}

impl<I: ExtensionInterface> Provider<'_, I> {
    /// What its functions want as `ProviderContext`.
    pub const fn context(&self) -> PVOID {
        self.context
    }

    /// Its table.
    pub const fn dispatch(&self) -> &I::ProviderDispatch {
        // SAFETY: looked over when it was given; valid until close is issued, or the module has let go, which the gates
        // hold up.
        unsafe { self.dispatch.as_ref() }
    }
}
