//! The worker thread: the one owner of the control sockets.
//!
//! It waits for a wake-up or the next deadline, never for a peer. What else it waits for is bounded: WSK's readiness,
//! in slices, so that a stop is never held up for long, and the steps of a listener's making.

use super::Parameters;
use super::listener::Listener;
use super::session::{End, Session};
use super::shared::Shared;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::trace;
use crate::wsk::{CaptureError, Closing, EVENTS, ListenSocket, Provider, Registration, status};
use core::net::SocketAddr;
use core::sync::atomic::Ordering;

/// What the thread is started with.
pub(super) struct Context {
    pub(super) shared: PoolArc<Shared>,
    pub(super) registration: Registration,
    pub(super) parameters: Parameters,
}

/// How long one wait for WSK's readiness is.
const CAPTURE_SLICE: Interval = Interval::from_millis(250);
/// How long to wait before a listener is tried again, at first, in units of 100 ns; doubled each time.
const BACK_OFF_FIRST: u64 = Interval::from_millis(250).as_100ns();
/// How long at most.
const BACK_OFF_LAST: u64 = Interval::from_millis(30_000).as_100ns();
/// No deadline.
const NEVER: u64 = u64::MAX;

/// The thread.
pub(super) fn run(passive: &mut Passive, context: PoolBox<Context>) {
    let Context { shared, mut registration, parameters } = context.into_inner();
    let mut told = false;
    while !shared.is_stopping() {
        let captured = registration.capture(passive, CAPTURE_SLICE);
        match captured.map(|provider| Worker::new(&shared, &provider, parameters).run(passive)) {
            Ok(()) => break,
            // It may have failed at once.
            Err(CaptureError::NotReady(status)) => {
                if !told {
                    told = true;
                    trace::emit(&trace::Event::ControlWaiting { status: status.into() });
                }
                let _stopped = shared.awaited().wait(passive, Some(CAPTURE_SLICE));
            }
            Err(CaptureError::OtherVersion) => match other_version(passive, &registration) {
                Ok(other) => registration = other,
                Err(status) => {
                    trace::emit(&trace::Event::Degraded { part: "control", status: status.into() });
                    break;
                }
            },
        }
    }
    shared.settled.set();
    let abandoned = registration.deregister(passive);
    if abandoned != 0 {
        let operation = "a WSK request was never completed";
        trace::emit(&trace::Event::Fault { operation, status: Status::PENDING.into() });
    }
}

/// A registration for the version that WSK has.
fn other_version(passive: &Passive, registration: &Registration) -> Result<Registration> {
    let version = registration.other_version(passive).ok_or(Status::NOT_SUPPORTED)?;
    Registration::new(passive, version)
}

/// How the listener stands.
enum Listening {
    /// It is tried at this time.
    Waiting(u64),
    Open(ListenSocket<Listener>, PoolArc<Listener>),
    /// Its socket is being closed.
    Closing(PoolArc<Listener>),
}

struct Worker<'w> {
    shared: &'w PoolArc<Shared>,
    provider: &'w Provider<'w>,
    parameters: Parameters,
    /// Events are enabled on every socket from its creation on.
    static_events: bool,
    listening: Listening,
    /// Where to bind: what was bound last, so that port 0 means the same port again.
    address: SocketAddr,
    back_off: u64,
    /// No session's time is up before this.
    due: u64,
}

impl<'w> Worker<'w> {
    fn new(shared: &'w PoolArc<Shared>, provider: &'w Provider<'w>, parameters: Parameters) -> Self {
        // Before any socket. A provider that cannot is asked socket by socket.
        let static_events = provider.set_static_event_callbacks(EVENTS).is_ok();
        Self {
            shared,
            provider,
            parameters,
            static_events,
            listening: Listening::Waiting(0),
            address: parameters.listen,
            back_off: BACK_OFF_FIRST,
            due: NEVER,
        }
    }

    fn run(mut self, passive: &mut Passive) {
        loop {
            self.tend_listener(passive);
            self.attend_sessions(passive);
            if self.shared.is_stopping() {
                self.end_sessions(passive);
                if matches!(self.listening, Listening::Waiting(_)) && self.shared.is_empty(passive) {
                    return;
                }
            }
            let due = self.expire_sessions(passive).min(match self.listening {
                Listening::Waiting(at) if !self.shared.is_stopping() => at,
                _ => NEVER,
            });
            let left = Interval::from_100ns(due.saturating_sub(time::since_boot().as_100ns()));
            let bound = (due != NEVER).then_some(left);
            // Signalled or not, everything is looked at.
            let _waited = self.shared.awaited().wait(passive, bound);
        }
    }

    /// Opens, closes and re-opens the listener.
    fn tend_listener(&mut self, passive: &mut Passive) {
        let stopping = self.shared.is_stopping();
        if let Listening::Open(socket, owner) = &self.listening
            && let Some(accepted) = owner.take_accepted(passive)
            && socket.accepted(passive, owner, accepted).is_err()
        {
            owner.lost();
        }
        let now = time::since_boot().as_100ns();
        self.listening = match core::mem::replace(&mut self.listening, Listening::Waiting(NEVER)) {
            Listening::Waiting(at) if now >= at && !stopping => self.open(passive),
            Listening::Open(socket, owner) if stopping || owner.is_dead() => {
                if !stopping {
                    Self::tell_failure(socket.address(), status::CONNECTION_DISCONNECTED);
                }
                *self.shared.listening.lock(passive) = None;
                socket.close(passive);
                Listening::Closing(owner)
            }
            Listening::Closing(owner) if owner.is_closed() => {
                if let Some(accepted) = owner.take_accepted(passive) {
                    accepted.refuse(passive);
                }
                Listening::Waiting(self.next_try())
            }
            unchanged => unchanged,
        };
    }

    /// The time of the next try, further away each time.
    fn next_try(&mut self) -> u64 {
        let at = time::since_boot().as_100ns().saturating_add(self.back_off);
        self.back_off = self.back_off.saturating_mul(2).min(BACK_OFF_LAST);
        at
    }

    fn open(&mut self, passive: &mut Passive) -> Listening {
        let next = self.try_open(passive);
        self.shared.settled.set();
        next
    }

    fn try_open(&mut self, passive: &mut Passive) -> Listening {
        let address = self.address;
        let owner = match Listener::try_new(self.shared) {
            Ok(owner) => owner,
            Err(status) => {
                Self::tell_failure(address, status);
                return Listening::Waiting(self.next_try());
            }
        };
        let socket = match ListenSocket::bind(passive, self.provider, &owner, address) {
            Ok(socket) => socket,
            Err((error, closing)) => {
                Self::tell_failure(address, error.status);
                // Any other port may do, if any was asked for.
                self.address = self.parameters.listen;
                return match closing {
                    Closing::Issued => Listening::Closing(owner),
                    Closing::NothingToClose => Listening::Waiting(self.next_try()),
                };
            }
        };
        if let Err(status) = self.ready(&socket, &owner) {
            Self::tell_failure(socket.address(), status);
            socket.close(passive);
            return Listening::Closing(owner);
        }
        if let Err(status) = socket.exclusive() {
            trace::emit(&trace::Event::Fault { operation: "SO_EXCLUSIVEADDRUSE", status: status.into() });
        }
        self.address = socket.address();
        self.back_off = BACK_OFF_FIRST;
        *self.shared.listening.lock(passive) = Some(self.address);
        self.shared.counts.listeners.fetch_add(1, Ordering::Relaxed);
        let (address, port) = (self.address.ip(), self.address.port());
        trace::emit(&trace::Event::ControlListening { address, port });
        Listening::Open(socket, owner)
    }

    /// Registers the extensions, then lets connections in: by events, or by requests where WSK has no events.
    fn ready(&self, socket: &ListenSocket<Listener>, owner: &PoolArc<Listener>) -> Result {
        let call = socket.call().ok_or(Status::INVALID_DEVICE_STATE)?;
        owner.attached.register(&call, self.provider.version()).map_err(|missing| missing.status)?;
        drop(call);
        if self.static_events {
            return Ok(());
        }
        match socket.enable() {
            Err(status) if status::is_unsupported(status) => {
                self.shared.by_request.store(true, Ordering::Relaxed);
                trace::emit(&trace::Event::Degraded { part: "control events", status: status.into() });
                socket.accept(owner)
            }
            enabled => enabled,
        }
    }

    fn tell_failure(address: SocketAddr, status: Status) {
        let (address, port) = (address.ip(), address.port());
        trace::emit(&trace::Event::ControlListenFailed { address, port, status: status.into() });
    }

    /// Looks after the sessions that callbacks have queued.
    fn attend_sessions(&mut self, passive: &mut Passive) {
        while let Some(session) = self.shared.next_queued(passive) {
            Session::attend(&session, passive, self.provider.version(), self.parameters.ending);
            let shortest = self.parameters.idle.min(self.parameters.ending).as_100ns();
            self.due = self.due.min(time::since_boot().as_100ns().saturating_add(shortest));
        }
    }

    /// Begins the end of every session.
    fn end_sessions(&mut self, passive: &mut Passive) {
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            Session::end(&session, passive, End::Stopping, self.parameters.ending);
            from = next;
        }
        let ending = self.parameters.ending.as_100ns();
        self.due = self.due.min(time::since_boot().as_100ns().saturating_add(ending));
    }

    /// Ends the sessions whose time is up, when it may be; the next time when this may be.
    fn expire_sessions(&mut self, passive: &mut Passive) -> u64 {
        if time::since_boot().as_100ns() < self.due {
            return self.due;
        }
        self.due = NEVER;
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            let due = Session::expire(&session, passive, self.parameters.idle, self.parameters.ending);
            self.due = self.due.min(due);
            from = next;
        }
        self.due
    }
}
