//! What weir's sockets have of extension interfaces, and what callbacks find by their context.
//!
//! A slot for each socket, all in one block. A client context is the address of the interface's part of the slot, with
//! the slot's generation in the low bits: see [`super::gate`]. A slot is in use as long as somebody owns it (the
//! socket's owner, and the ring while events are under way), and is taken again only when no callback is inside.

use super::events::Rings;
use super::gate::{Gate, TAG_BITS, Tag};
use super::interface::{ExtensionInterface, Interface};
use super::{COUNT, INTERFACES};
use crate::config::schema::{self, Extensions};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::{Result, Status};
use crate::ring::{ExtensionEvent, LifeCycle, Link, Linked};
use crate::sys::nt::{GUID, PVOID};
use crate::trace::Guid;
use crate::wsk::status::is_unsupported;
use crate::wsk::{Call, ExtensionProvider};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Whether a socket can do without an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The socket goes on without it.
    Optional,
    /// The socket is closed without it.
    Required,
}

/// What is asked for, for every socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    requirements: [Requirement; COUNT],
    /// A required interface that weir does not speak: no socket can have it.
    unknown: Option<Guid>,
}

impl Plan {
    /// Every interface of [`INTERFACES`], as an option.
    pub const OPTIONAL: Self = Self { requirements: [Requirement::Optional; COUNT], unknown: None };

    /// Every interface of [`INTERFACES`], as an option unless the settings say that it is required.
    pub fn new(settings: &Extensions) -> Self {
        let mut plan = Self::OPTIONAL;
        for wanted in
            settings.as_slice().iter().filter(|wanted| wanted.requirement == schema::Requirement::Required)
        {
            let mut known = INTERFACES.iter().zip(&mut plan.requirements);
            match known.find(|(interface, _)| Guid::from(*interface.npi_id()) == wanted.interface) {
                Some((_, requirement)) => *requirement = Requirement::Required,
                None => plan.unknown = Some(wanted.interface),
            }
        }
        plan
    }
}

/// A required interface that a socket cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub interface: Guid,
    pub status: Status,
}

/// Which sockets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketKind {
    Listening = 0,
    Accepted = 1,
    Dialled = 2,
}

/// How a socket stands with an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not asked for yet.
    Idle = 0,
    /// The call is under way; callbacks may come already.
    Registering = 1,
    /// Registered.
    Granted = 2,
    /// Not supported by the provider.
    Refused = 3,
    /// The call failed, or what it gave cannot be used.
    Failed = 4,
}

impl State {
    const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Registering,
            2 => Self::Granted,
            3 => Self::Refused,
            4 => Self::Failed,
            _ => Self::Idle,
        }
    }
}

/// How a socket stands with an interface, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The session's number; 0 for a listening socket.
    pub session: u64,
    pub interface: Guid,
    pub state: State,
    pub requirement: Requirement,
    /// What the registration ended with.
    pub status: Status,
    pub callbacks: u64,
}

/// What became of registrations, and what went wrong with callbacks, over all sockets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub granted: u64,
    pub refused: u64,
    pub failed: u64,
    /// Callbacks that went into the ring.
    pub callbacks: u64,
    /// Callbacks for which the ring had no room.
    pub lost: u64,
    /// Callbacks whose arguments broke the interface's rules.
    pub malformed: u64,
    /// Callbacks for a socket that was gone, or never had the interface.
    pub late: u64,
}

#[derive(Default)]
struct Counters {
    granted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    callbacks: AtomicU64,
    lost: AtomicU64,
    malformed: AtomicU64,
    late: AtomicU64,
}

/// The slots of all sockets. Freed after WskDeregister.
pub struct Sockets {
    slots: PoolSlice<Slot>,
    /// Where the search for a free slot begins.
    cursor: AtomicUsize,
    plan: Plan,
    pub(super) rings: Rings,
    counters: Counters,
}

/// One socket's slot: the ring's object.
#[repr(C)]
pub struct Slot {
    /// One part for each interface; their addresses are the client contexts.
    parts: [Part; COUNT],
    gate: Gate,
    /// The socket's owner, and the ring.
    owners: AtomicU32,
    kind: AtomicU8,
    /// The session's number; 0 for a listening socket.
    session: AtomicU64,
    /// Made anew for each socket, while nobody owns the slot.
    link: UnsafeCell<Link<Slot>>,
    home: AtomicPtr<Sockets>,
}

/// A socket's part for one interface.
#[repr(C, align(64))]
struct Part {
    slot: AtomicPtr<Slot>,
    state: AtomicU8,
    /// The index in [`INTERFACES`].
    interface: u8,
    /// What the registration ended with.
    status: AtomicI32,
    callbacks: AtomicU64,
    /// Written before the state becomes [`State::Granted`], by the one who registers.
    provider: UnsafeCell<ExtensionProvider>,
}

const _: () = assert!(align_of::<Part>() == 1 << TAG_BITS);

// SAFETY: the link synchronises itself, and is replaced only while nobody owns the slot; providers' tables are written
// by the one thread that registers, before the state is released, and read after it is acquired. The rest is atomic.
unsafe impl Sync for Slot {}
// SAFETY: nothing in a slot is bound to a thread.
unsafe impl Send for Slot {}

impl Part {
    fn new(interface: usize) -> Self {
        Self {
            slot: AtomicPtr::new(null_mut()),
            state: AtomicU8::new(State::Idle as u8),
            interface: u8::try_from(interface).unwrap_or(u8::MAX),
            status: AtomicI32::new(0),
            callbacks: AtomicU64::new(0),
            provider: UnsafeCell::new(ExtensionProvider { context: null_mut(), dispatch: core::ptr::null() }),
        }
    }

    fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    fn set(&self, state: State, status: Status) {
        self.status.store(status.0, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Release);
    }

    fn row(&self) -> Option<&'static Interface> {
        INTERFACES.get(usize::from(self.interface))
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            parts: core::array::from_fn(Part::new),
            gate: Gate::new(),
            owners: AtomicU32::new(0),
            kind: AtomicU8::new(SocketKind::Listening as u8),
            session: AtomicU64::new(0),
            link: UnsafeCell::new(Link::new()),
            home: AtomicPtr::new(null_mut()),
        }
    }

    pub(super) fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// Each interface that the socket was asked to have: its identifier, state, status, and callbacks.
    pub(super) fn registrations(&self) -> impl Iterator<Item = Registration> {
        self.parts.iter().filter_map(|part| {
            let interface = Guid::from(*part.row()?.npi_id());
            let state = part.state();
            let status = Status(part.status.load(Ordering::Relaxed));
            let callbacks = part.callbacks.load(Ordering::Relaxed);
            Some(Registration { index: usize::from(part.interface), interface, state, status, callbacks })
        })
    }
}

/// How a socket stands with one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) index: usize,
    pub(super) interface: Guid,
    pub(super) state: State,
    pub(super) status: Status,
    pub(super) callbacks: u64,
}

// SAFETY: the link is the slot's own, used with the one `Rings` of the block; a slot lies in its block until the ring
// is gone, and is not given to another socket while it has an owner; counting neither waits nor enters the ring.
unsafe impl Linked for Slot {
    fn link(&self) -> &Link<Self> {
        // SAFETY: replaced only while the slot has no owner, and whoever asks is one.
        unsafe { &*self.link.get() }
    }

    fn retain(&self) {
        self.owners.fetch_add(1, Ordering::Relaxed);
    }

    unsafe fn release(object: NonNull<Self>) {
        // SAFETY: an owner's pointer (contract); the slot's memory outlives the ring.
        unsafe { object.as_ref() }.owners.fetch_sub(1, Ordering::Release);
    }
}

impl Sockets {
    /// Slots for `count` sockets at a time, and rings for their events.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(count: usize, plan: Plan, rings: Rings) -> Result<PoolArc<Self>> {
        let sockets = Self {
            slots: PoolSlice::try_from_fn(tags::EXTENSION, count, |_| Slot::new())?,
            cursor: AtomicUsize::new(0),
            plan,
            rings,
            counters: Counters::default(),
        };
        let sockets = PoolArc::try_new(tags::EXTENSION, sockets)?;
        let home = core::ptr::from_ref::<Self>(&sockets).cast_mut();
        for slot in &*sockets.slots {
            slot.home.store(home, Ordering::Relaxed);
            for part in &slot.parts {
                part.slot.store(core::ptr::from_ref(slot).cast_mut(), Ordering::Relaxed);
            }
        }
        Ok(sockets)
    }

    /// Takes a slot for a socket; `None` if there is none left. Any IRQL <= DISPATCH_LEVEL.
    pub fn attach(this: &PoolArc<Self>, kind: SocketKind, session: u64) -> Option<Attached> {
        let slots = &*this.slots;
        let start = this.cursor.fetch_add(1, Ordering::Relaxed).checked_rem(slots.len())?;
        let (before, from) = slots.split_at_checked(start)?;
        let slot = from.iter().chain(before).find(|slot| {
            slot.gate.is_vacant()
                && slot.owners.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        slot.kind.store(kind as u8, Ordering::Relaxed);
        slot.session.store(session, Ordering::Relaxed);
        for part in &slot.parts {
            part.set(State::Idle, Status::SUCCESS);
            part.callbacks.store(0, Ordering::Relaxed);
        }
        // SAFETY: this is the only owner, just now, and callbacks that come too late look at the gate alone.
        unsafe { slot.link.get().write(Link::new()) };
        let tag = slot.gate.open();
        Some(Attached { slot: NonNull::from(slot), sockets: this.clone(), tag })
    }

    pub fn totals(&self) -> Totals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counters { granted, refused, failed, callbacks, lost, malformed, late } = &self.counters;
        Totals {
            granted: read(granted),
            refused: read(refused),
            failed: read(failed),
            callbacks: read(callbacks),
            lost: read(lost),
            malformed: read(malformed),
            late: read(late),
        }
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.owners.load(Ordering::Relaxed) != 0).count()
    }

    /// How a socket stands with an interface, by an index from 0 over all there can be; `Some(None)`: there is none at
    /// that index now, `None`: nor is there any further on.
    pub fn standing(&self, index: usize) -> Option<Option<Standing>> {
        let slot = self.slots.get(index.checked_div(COUNT)?)?;
        let part = slot.parts.get(index.checked_rem(COUNT)?)?;
        let (state, row) = (part.state(), part.row());
        if slot.owners.load(Ordering::Acquire) == 0 || slot.gate.is_vacant() || state == State::Idle {
            return Some(None);
        }
        Some(row.map(|interface| Standing {
            session: slot.session(),
            interface: Guid::from(*interface.npi_id()),
            state,
            requirement: self.requirement(part.interface.into()),
            status: Status(part.status.load(Ordering::Relaxed)),
            callbacks: part.callbacks.load(Ordering::Relaxed),
        }))
    }

    /// The required interface that weir does not speak, if the settings want one.
    pub(super) const fn unknown_requirement(&self) -> Option<Guid> {
        self.plan.unknown
    }

    pub(super) fn requirement(&self, index: usize) -> Requirement {
        self.plan.requirements.get(index).copied().unwrap_or(Requirement::Optional)
    }
}

/// A socket's slot, in its owner's hand. Given up when close has completed.
pub struct Attached {
    slot: NonNull<Slot>,
    sockets: PoolArc<Sockets>,
    tag: Tag,
}

// SAFETY: slots are Sync, and the block is kept alive.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

impl Attached {
    fn slot(&self) -> &Slot {
        // SAFETY: in the block, which `sockets` keeps alive.
        unsafe { self.slot.as_ref() }
    }

    /// Registers the socket for every interface, and switches its events on. `wsk_version` is
    /// `WSK_PROVIDER_DISPATCH.Version`. Once for each socket; after bind or connect, because of the events.
    /// IRQL <= DISPATCH_LEVEL; callbacks may come before this returns.
    ///
    /// # Errors
    /// The first required interface that cannot be had. The socket must be closed then.
    pub fn register(&self, call: &Call<'_>, wsk_version: u16) -> core::result::Result<(), Missing> {
        let slot = self.slot();
        let mut missing =
            self.sockets.plan.unknown.map(|interface| Missing { interface, status: Status::NOT_SUPPORTED });
        for (index, (part, interface)) in slot.parts.iter().zip(&INTERFACES).enumerate() {
            part.set(State::Registering, Status::PENDING);
            let outcome = self.register_one(call, wsk_version, part, interface);
            let counters = &self.sockets.counters;
            let (state, status, counter) = match outcome {
                Ok(()) => (State::Granted, Status::SUCCESS, &counters.granted),
                Err(status) if is_unsupported(status) => (State::Refused, status, &counters.refused),
                Err(status) => (State::Failed, status, &counters.failed),
            };
            part.set(state, status);
            counter.fetch_add(1, Ordering::Relaxed);
            if state != State::Granted && self.sockets.requirement(index) == Requirement::Required {
                missing = missing.or(Some(Missing { interface: Guid::from(*interface.npi_id()), status }));
            }
        }
        self.sockets.rings.raise(slot, LifeCycle::Opened);
        missing.map_or(Ok(()), Err)
    }

    fn register_one(&self, call: &Call<'_>, wsk_version: u16, part: &Part, interface: &Interface) -> Result {
        if !interface.offered_by(wsk_version) {
            return Err(Status::NOT_SUPPORTED);
        }
        let context: PVOID = core::ptr::from_ref(part).cast_mut().cast::<c_void>();
        let context = context.map_addr(|address| address | self.tag.get());
        // SAFETY: the interface's own table, a constant; the context lies in the block, which outlives the socket.
        let provider =
            unsafe { call.register_extension(interface.npi_id(), context, interface.client_dispatch()) }?;
        let dispatch = NonNull::new(provider.dispatch.cast_mut()).ok_or(Status::INVALID_PARAMETER)?;
        // SAFETY: STATUS_SUCCESS: the provider's table for this interface, valid until close is issued.
        if !unsafe { interface.provider_is_usable(dispatch) } {
            return Err(Status::INVALID_PARAMETER);
        }
        // SAFETY: only the one who registers writes it, and nobody reads it before the state says that it is there.
        unsafe { *part.provider.get() = provider };
        if interface.event_mask() != 0 {
            call.enable_events(interface.npi_id(), interface.event_mask())?;
        }
        Ok(())
    }

    /// The provider's functions for `I`, if the socket has it. They may be called while `call` lasts: inside the
    /// socket's gate, which close shuts first.
    pub fn provider<'c, I: ExtensionInterface>(&self, _call: &'c Call<'_>) -> Option<Provider<'c, I>> {
        let part = self.slot().parts.iter().find(|part| part.row().is_some_and(Interface::is::<I>))?;
        if part.state() != State::Granted {
            return None;
        }
        // SAFETY: written before the state became Granted, and not again while the socket lives.
        let provider = unsafe { *part.provider.get() };
        let dispatch = NonNull::new(provider.dispatch.cast_mut())?.cast();
        Some(Provider { context: provider.context, dispatch, _inside: PhantomData })
    }

    /// How the socket stands with `I`.
    pub fn state<I: ExtensionInterface>(&self) -> State {
        let part = self.slot().parts.iter().find(|part| part.row().is_some_and(Interface::is::<I>));
        part.map_or(State::Idle, Part::state)
    }
}

impl Drop for Attached {
    /// Ends the registrations: close has completed, or the socket was never used.
    fn drop(&mut self) {
        let slot = self.slot();
        slot.gate.shut();
        if slot.link().raised(LifeCycle::Opened) {
            let rings = &self.sockets.rings;
            rings.raise(slot, LifeCycle::ExtensionDetached);
            rings.raise(slot, LifeCycle::Closed);
        }
        // SAFETY: this owner's own count, which it does not use again.
        unsafe { Slot::release(self.slot) };
    }
}

/// A provider's functions, for as long as they may be called.
pub struct Provider<'c, I: ExtensionInterface> {
    context: PVOID,
    dispatch: NonNull<I::ProviderDispatch>,
    _inside: PhantomData<&'c ()>,
}

impl<I: ExtensionInterface> Provider<'_, I> {
    /// What its functions want as `ProviderContext`.
    pub const fn context(&self) -> PVOID {
        self.context
    }

    /// Its table.
    pub const fn dispatch(&self) -> &I::ProviderDispatch {
        // SAFETY: looked over when it was given, and valid until close is issued, which the gate holds up.
        unsafe { self.dispatch.as_ref() }
    }
}

/// A provider's call on a socket that is there. Leaves when dropped.
pub struct Callback<'a> {
    slot: &'a Slot,
    part: &'a Part,
    sockets: &'a Sockets,
    irql: AtMostDispatch,
}

impl<'a> Callback<'a> {
    /// Lets a callback in; `None`, counted, if its socket is gone or has no such interface.
    ///
    /// # Safety
    /// `context` is NULL or a client context that was given in a registration, the block of slots is there, and the
    /// IRQL is at most DISPATCH_LEVEL.
    pub unsafe fn enter(context: PVOID) -> Option<Self> {
        let tag = Tag::from_address(context.addr());
        let part = context.map_addr(|address| address & !(align_of::<Part>().wrapping_sub(1))).cast::<Part>();
        // SAFETY: NULL, or the part of a slot, whose block is there (contract).
        let part: &'a Part = unsafe { part.as_ref() }?;
        // SAFETY: stored when the block was made, of which it is a part.
        let slot: &'a Slot = unsafe { part.slot.load(Ordering::Relaxed).as_ref() }?;
        // SAFETY: stored when the block was made: the block's owner.
        let sockets: &'a Sockets = unsafe { slot.home.load(Ordering::Relaxed).as_ref() }?;
        if slot.gate.enter(tag).is_err() {
            sockets.counters.late.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: IRQL <= DISPATCH_LEVEL (contract); the token goes with the callback, which stays in this call.
        let callback = Self { slot, part, sockets, irql: unsafe { AtMostDispatch::assume() } };
        if !matches!(part.state(), State::Registering | State::Granted) {
            sockets.counters.late.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(callback)
    }

    /// Puts the event into the ring of this processor, as the socket's next.
    pub fn emit(mut self, code: u32, value: u64, data: &[u8]) {
        let Some(interface) = self.part.row() else { return };
        let event = ExtensionEvent {
            session: self.slot.session(),
            interface: guid_bytes(interface.npi_id()),
            code,
            value,
            data,
        };
        let raised = self.irql.raise();
        let taken = self.sockets.rings.push(&*raised, &event, Some(self.slot));
        drop(raised);
        let counters = &self.sockets.counters;
        if taken {
            self.part.callbacks.fetch_add(1, Ordering::Relaxed);
            counters.callbacks.fetch_add(1, Ordering::Relaxed);
        } else {
            counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a callback whose arguments break the interface's rules.
    pub fn malformed(self) {
        self.sockets.counters.malformed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        self.slot.gate.leave();
    }
}

/// A GUID as the bytes of the Windows structure.
const fn guid_bytes(guid: &GUID) -> [u8; 16] {
    // SAFETY: 16 bytes without padding, of which any are a value.
    unsafe { core::ptr::from_ref(guid).cast::<[u8; 16]>().read() }
}

const _: () = assert!(size_of::<GUID>() == 16);

/// What [`guid_bytes`] gave.
pub(super) fn guid(bytes: &[u8; 16]) -> Guid {
    // SAFETY: as many bytes as the structure has, of which any are a value.
    let guid = unsafe { bytes.as_ptr().cast::<GUID>().read_unaligned() };
    Guid::from(guid)
}
