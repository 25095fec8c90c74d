//! A socket's slot, and its parts: one for each provider that it may have of each interface.
//!
//! All lie in blocks that are freed after every provider has let go. A client context is the address of a part, with
//! the part's generation in the low bits: see [`super::gate`]. A slot is in use as long as somebody owns it (the socket's
//! owner, and the ring while events are under way).
//!
//! One thread, the sockets' worker, moves the parts from state to state; the rest is atomic.

use super::builtin::Traffic;
use super::gate::{Gate, TAG_BITS};
use super::modules::{Key, MODULES};
use super::sockets::Sockets;
use crate::kernel::Status;
use crate::kernel::irql::Passive;
use crate::kernel::lock::SpinLock;
use crate::kernel::time::{self, Interval};
use crate::ring::sync::relax;
use crate::ring::{Link, Linked};
use crate::sys::nt::PVOID;
use crate::trace::events::Provider;
use crate::wsk::ExtensionProvider;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::net::SocketAddr;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Which sockets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketKind {
    Listening = 0,
    Accepted = 1,
    Dialled = 2,
}

impl SocketKind {
    const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Accepted,
            2 => Self::Dialled,
            _ => Self::Listening,
        }
    }
}

/// A socket's addresses, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
}

/// How a socket stands with a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not asked.
    Idle = 0,
    /// The call is under way; callbacks may come already.
    Registering = 1,
    /// Registered.
    Granted = 2,
    /// Nobody provides the interface, or this module does not for this socket.
    Refused = 3,
    /// The module's registration failed, or what it gave cannot be used.
    Failed = 4,
    /// It has ended.
    Detached = 5,
}

impl State {
    const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Registering,
            2 => Self::Granted,
            3 => Self::Refused,
            4 => Self::Failed,
            5 => Self::Detached,
            _ => Self::Idle,
        }
    }
}

/// The parts of a slot for each interface: the first for WSK or weir itself, the others for modules.
pub(super) const PARTS: usize = 1 + MODULES;

/// Its beginning is to be told.
pub(super) const BEGUN: u8 = 1;
/// Its end is to be told.
pub(super) const ENDED: u8 = 2;
/// `DetachComplete` is to come: the part cannot be used, by this socket or the next.
pub(super) const LEAVING: u8 = 4;
/// The provider says that more waits to be sent than its mark.
pub(super) const ABOVE: u8 = 8;
/// The provider says that the connection is over.
pub(super) const GIVEN_UP: u8 = 16;

/// How often [`Part::shut`] looks before it waits, and how long it waits between looks then.
const LOOKS: u32 = 1_000;
const PAUSE: Interval = Interval::from_micros(50);

/// A socket's part for a provider.
#[repr(C, align(64))]
pub(super) struct Part {
    pub(super) gate: Gate,
    pub(super) slot: AtomicPtr<Slot>,
    /// Written before the state becomes [`State::Granted`].
    provider: UnsafeCell<ExtensionProvider>,
    pub(super) callbacks: AtomicU64,
    /// The module, as a number.
    module: AtomicU64,
    /// What the registration ended with.
    status: AtomicI32,
    /// Its place in the slot; [`PARTS`] for each row of the plan.
    pub(super) index: u8,
    state: AtomicU8,
    kind: AtomicU8,
    /// [`BEGUN`] and so on.
    pub(super) flags: AtomicU8,
}

const _: () = assert!(align_of::<Part>() == 1 << TAG_BITS);

// SAFETY: providers' tables are written by the one thread that registers, before the state is released, and read after it
// is acquired. The rest is atomic.
unsafe impl Sync for Part {}
// SAFETY: nothing in a part is bound to a thread.
unsafe impl Send for Part {}

impl Part {
    pub(super) fn new(index: usize) -> Self {
        Self {
            gate: Gate::new(),
            slot: AtomicPtr::new(null_mut()),
            provider: UnsafeCell::new(ExtensionProvider { context: null_mut(), dispatch: core::ptr::null() }),
            callbacks: AtomicU64::new(0),
            module: AtomicU64::new(Key::NOBODY.to_u64()),
            status: AtomicI32::new(0),
            index: u8::try_from(index).unwrap_or(u8::MAX),
            state: AtomicU8::new(State::Idle as u8),
            kind: AtomicU8::new(Provider::Wsk as u8),
            flags: AtomicU8::new(0),
        }
    }

    /// As for a new socket.
    fn reset(&self) {
        self.set(State::Idle, Status::SUCCESS);
        self.callbacks.store(0, Ordering::Relaxed);
        // The module that has to let go yet is known by the part.
        if self.flags.fetch_and(LEAVING, Ordering::AcqRel) & LEAVING == 0 {
            self.module.store(Key::NOBODY.to_u64(), Ordering::Relaxed);
        }
    }

    /// The interface, by its row in the plan.
    pub(super) fn row(&self) -> usize {
        usize::from(self.index).checked_div(PARTS).unwrap_or_default()
    }

    /// Whether a provider can be asked for it.
    pub(super) fn is_free(&self) -> bool {
        self.state() == State::Idle && !self.has(LEAVING)
    }

    pub(super) fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, state: State, status: Status) {
        self.status.store(status.0, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Release);
    }

    pub(super) fn kind(&self) -> Provider {
        Provider::from_number(self.kind.load(Ordering::Relaxed)).unwrap_or(Provider::Wsk)
    }

    pub(super) fn module(&self) -> Key {
        Key::from_u64(self.module.load(Ordering::Relaxed))
    }

    /// A provider of that kind is asked from here on: what it is given as client context.
    pub(super) fn ask(&self, kind: Provider, module: Key) -> PVOID {
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.module.store(module.to_u64(), Ordering::Relaxed);
        self.callbacks.store(0, Ordering::Relaxed);
        self.set(State::Registering, Status::PENDING);
        let tag = self.gate.open();
        let context: PVOID = core::ptr::from_ref(self).cast_mut().cast::<c_void>();
        context.map_addr(|address| address | tag.get())
    }

    /// The provider has granted it, and gave this.
    pub(super) fn grant(&self, provider: ExtensionProvider) {
        // SAFETY: only the one who registers writes it, and nobody reads it before the state says that it is there.
        unsafe { *self.provider.get() = provider };
        self.flags.fetch_or(BEGUN, Ordering::Relaxed);
        self.set(State::Granted, Status::SUCCESS);
    }

    /// What the provider gave, while it is granted.
    pub(super) fn provider(&self) -> Option<ExtensionProvider> {
        // SAFETY: written before the state became Granted; written again by the thread that ended it in between.
        (self.state() == State::Granted).then(|| unsafe { *self.provider.get() })
    }

    /// Lets nobody in any more, and waits until nobody is inside: what callbacks do there is short, and waits for nothing.
    pub(super) fn shut(&self, passive: &Passive) {
        self.gate.shut();
        for _ in 0..LOOKS {
            if self.gate.is_empty() {
                break;
            }
            relax();
        }
        while !self.gate.is_empty() {
            time::delay(passive, PAUSE);
        }
        // Whoever is gone holds nobody back; that the connection is over is true without them.
        self.note(ABOVE, false);
    }

    /// Takes what is to be told, of `flags`.
    pub(super) fn take(&self, flags: u8) -> bool {
        self.flags.fetch_and(!flags, Ordering::AcqRel) & flags != 0
    }

    /// Notes that a flag is so; whether it was not.
    pub(super) fn note(&self, flag: u8, is: bool) -> bool {
        let before = if is {
            self.flags.fetch_or(flag, Ordering::AcqRel)
        } else {
            self.flags.fetch_and(!flag, Ordering::AcqRel)
        };
        (before & flag != 0) != is
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flags != 0
    }
}

/// One socket's slot: the ring's object.
pub struct Slot {
    pub(super) index: usize,
    /// The socket's owner, and the ring.
    owners: AtomicU32,
    kind: AtomicU8,
    /// The beginning has been told.
    pub(super) told: AtomicBool,
    /// The session's number; 0 for a listening socket.
    session: AtomicU64,
    pub(super) traffic: Traffic,
    pub(super) ends: SpinLock<Ends>,
    /// Made anew for each socket, while nobody owns the slot.
    link: UnsafeCell<Link>,
    pub(super) home: AtomicPtr<Sockets>,
}

// SAFETY: the link synchronises itself, and is replaced only while nobody owns the slot. The rest is atomic.
unsafe impl Sync for Slot {}
// SAFETY: nothing in a slot is bound to a thread.
unsafe impl Send for Slot {}

impl Slot {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            owners: AtomicU32::new(0),
            kind: AtomicU8::new(SocketKind::Listening as u8),
            told: AtomicBool::new(false),
            session: AtomicU64::new(0),
            traffic: Traffic::new(),
            ends: SpinLock::new("a socket's addresses", Ends::default()),
            link: UnsafeCell::new(Link::new()),
            home: AtomicPtr::new(null_mut()),
        }
    }

    /// Takes the slot for a socket, if nobody owns it and nobody is inside its parts.
    pub(super) fn take(&self, parts: &[Part], kind: SocketKind, session: u64) -> bool {
        let vacant = parts.iter().all(|part| part.gate.is_vacant())
            && self.owners.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !vacant {
            return false;
        }
        // Another socket may have had it between the look and now.
        if !parts.iter().all(|part| part.gate.is_vacant()) {
            self.let_go();
            return false;
        }
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.session.store(session, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
        self.traffic.reset();
        for part in parts {
            part.reset();
        }
        // SAFETY: this is the only owner, just now, and callbacks that come too late look at the gates alone.
        unsafe { self.link.get().write(Link::new()) };
        true
    }

    pub(super) fn is_owned(&self) -> bool {
        self.owners.load(Ordering::Acquire) != 0
    }

    pub(super) fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    pub(super) fn kind(&self) -> SocketKind {
        SocketKind::from_u8(self.kind.load(Ordering::Relaxed))
    }

    pub(super) fn home(&self) -> Option<&Sockets> {
        // SAFETY: stored when the block was made: the block's owner.
        unsafe { self.home.load(Ordering::Relaxed).as_ref() }
    }

    /// Gives a share up.
    pub(super) fn let_go(&self) {
        self.owners.fetch_sub(1, Ordering::Release);
    }
}

// SAFETY: the link is the slot's own, used with the one `Rings` of the block; a slot lies in its block until the
// dispatcher has let go of its share of that, when it has delivered or given up everything; it is not given to another
// socket while it has an owner; counting neither waits nor enters the ring.
unsafe impl Linked for Slot {
    fn link(&self) -> &Link {
        // SAFETY: replaced only while the slot has no owner, and whoever asks is one.
        unsafe { &*self.link.get() }
    }

    fn retain(&self) {
        self.owners.fetch_add(1, Ordering::Relaxed);
    }

    unsafe fn release(object: NonNull<Self>) {
        // SAFETY: an owner's pointer (contract); the slot's memory outlives the dispatcher's run.
        unsafe { object.as_ref() }.let_go();
    }
}
