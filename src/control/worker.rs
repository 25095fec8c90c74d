//! The worker thread: the one owner of the control sockets, and the one who speaks.
//!
//! It waits for a wake-up or the next deadline, never for a peer. What else it waits for is bounded: WSK's readiness,
//! in slices, so that a stop is never held up for long, and the steps of a socket's making.

use super::conversation::{Conversation, Stage};
use super::dialler::Target;
use super::listener::Listener;
use super::plane::Host;
use super::protocol::role::Role;
use super::session::{End, Phase, Session, note};
use super::shared::Shared;
use super::speech::{Left, Speaker};
use crate::config::{Running, Settings};
use crate::ext::Tended;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status, random};
use crate::trace;
use crate::wsk::{CaptureError, Closing, EVENTS, ListenSocket, Provider, Registration, status};
use core::net::SocketAddr;
use core::sync::atomic::Ordering;

/// What the thread is started with.
pub(super) struct Context {
    pub(super) shared: PoolArc<Shared>,
    pub(super) registration: Registration,
    pub(super) host: PoolArc<Host>,
    /// As they are at the start.
    pub(super) settings: Running,
}

/// How long one wait for WSK's readiness is.
const CAPTURE_SLICE: Interval = Interval::from_millis(250);
/// How long to wait before a listener is tried again, at first, in units of 100 ns; doubled each time.
const BACK_OFF_FIRST: u64 = Interval::from_millis(250).as_100ns();
/// How long at most.
const BACK_OFF_LAST: u64 = Interval::from_millis(30_000).as_100ns();
/// How long a connection that weir opens may take to be there.
const CONNECT: Interval = Interval::from_millis(30_000);
/// How soon sockets are looked after again whose changes cannot be told yet, in units of 100 ns.
const TEND_AGAIN: u64 = Interval::from_millis(5).as_100ns();
/// No deadline.
const NEVER: u64 = u64::MAX;

/// The thread.
pub(super) fn run(passive: &mut Passive, context: PoolBox<Context>) {
    let Context { shared, mut registration, host, settings } = context.into_inner();
    let mut told = false;
    shared.sockets.connect(passive);
    while !shared.is_stopping() {
        let captured = registration.capture(passive, CAPTURE_SLICE);
        match captured.map(|provider| work(passive, &shared, &provider, &host, &settings)) {
            Ok(Ok(())) => break,
            Ok(Err(status)) => {
                trace::emit(&trace::Event::Degraded { part: "control", status: status.into() });
                break;
            }
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
    shared.sockets.disconnect(passive);
    if abandoned != 0 {
        let operation = "a WSK request was never completed";
        trace::emit(&trace::Event::Fault { operation, status: Status::PENDING.into() });
    }
}

/// A random byte; without randomness, the one in the middle.
fn chance(passive: &Passive) -> u8 {
    let mut byte = [0];
    match random::fill(passive, &mut byte) {
        Ok(()) => u8::from_le_bytes(byte),
        Err(_) => 0x80,
    }
}

/// A registration for the version that WSK has.
fn other_version(passive: &Passive, registration: &Registration) -> Result<Registration> {
    let version = registration.other_version(passive).ok_or(Status::NOT_SUPPORTED)?;
    Registration::new(passive, version)
}

fn work(
    passive: &mut Passive,
    shared: &PoolArc<Shared>,
    provider: &Provider<'_>,
    host: &Host,
    settings: &Running,
) -> Result {
    Worker::try_new(passive, shared, provider, host, settings.clone())?.run(passive);
    Ok(())
}

/// An address to listen on.
struct Port {
    listening: Listening,
    /// As the settings have it.
    wanted: SocketAddr,
    /// Where to bind: what was bound last, so that port 0 means the same port again.
    address: SocketAddr,
    back_off: u64,
    tried: bool,
}

/// How long things may take.
struct Times {
    idle: Interval,
    ending: Interval,
    handshake: Interval,
}

impl Times {
    const fn of(settings: &Settings) -> Self {
        Self {
            idle: Interval::from_millis(settings.control_idle_timeout_ms),
            ending: Interval::from_millis(settings.shutdown_timeout_ms),
            handshake: Interval::from_millis(settings.control_handshake_timeout_ms),
        }
    }
}

/// How a listener stands.
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
    host: &'w Host,
    speaker: Speaker<'w>,
    /// Events are enabled on every socket from its creation on.
    static_events: bool,
    ports: PoolSlice<Port>,
    targets: PoolSlice<Target>,
    /// By the sessions' places.
    conversations: PoolSlice<Option<PoolBox<Conversation>>>,
    /// Which settings have been taken over.
    version: u32,
    idle: Interval,
    ending: Interval,
    handshake: Interval,
    /// No session's time is up before this.
    due: u64,
    /// Which modules of extension interfaces were there when the sockets were looked after last.
    modules: u32,
    /// How many had come by then.
    arrivals: u32,
    /// When they are looked after again.
    tend_at: u64,
}

impl<'w> Worker<'w> {
    fn try_new(
        passive: &mut Passive,
        shared: &'w PoolArc<Shared>,
        provider: &'w Provider<'w>,
        host: &'w Host,
        settings: Running,
    ) -> Result<Self> {
        let addresses = settings.control_listen.as_slice();
        let nowhere = SocketAddr::new(core::net::IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED), 0);
        let ports = PoolSlice::try_from_fn(tags::CONTROL, addresses.len(), |index| {
            let wanted = addresses.get(index).copied().unwrap_or(nowhere);
            let listening = Listening::Waiting(0);
            Port { listening, wanted, address: wanted, back_off: BACK_OFF_FIRST, tried: false }
        })?;
        let dials = settings.control_dial.as_slice();
        let targets = PoolSlice::try_from_fallible(tags::CONTROL, dials.len(), |index| {
            let dial = dials.get(index).ok_or(Status::INVALID_PARAMETER)?;
            Ok(Target::new(dial.address, settings.control_peers.named(&dial.peer)))
        })?;
        let conversations = PoolSlice::try_from_fn(tags::CONTROL, shared.places(passive), |_| None)?;
        // Before any socket. A provider that cannot is asked socket by socket.
        let static_events = provider.set_static_event_callbacks(EVENTS).is_ok();
        let Times { idle, ending, handshake } = Times::of(&settings);
        Ok(Self {
            shared,
            provider,
            host,
            speaker: Speaker::try_new(shared, host, settings)?,
            static_events,
            ports,
            targets,
            conversations,
            version: 0,
            idle,
            ending,
            handshake,
            due: NEVER,
            modules: 0,
            arrivals: 0,
            tend_at: NEVER,
        })
    }

    fn run(mut self, passive: &mut Passive) {
        loop {
            let stopping = self.shared.is_stopping();
            let mut due = NEVER;
            self.adopt_settings(passive);
            for index in 0..self.ports.len() {
                self.tend_listener(passive, index);
            }
            self.settle();
            if !stopping {
                self.dial(passive);
            }
            self.fetch_outcomes(passive);
            self.attend_followers(passive);
            let busy = self.attend_sessions(passive);
            self.tend_extensions(passive);
            if stopping {
                self.end_sessions(passive);
                let listening =
                    self.ports.iter().any(|port| !matches!(port.listening, Listening::Waiting(_)));
                if !listening && self.shared.sessions(passive) == 0 {
                    return;
                }
            } else {
                due = self.next_attempt();
            }
            let due = self.expire_sessions(passive).min(self.tend_at).min(due);
            if busy {
                continue;
            }
            let left = Interval::from_100ns(due.saturating_sub(time::since_boot().as_100ns()));
            let bound = (due != NEVER).then_some(left);
            // Signalled or not, everything is looked at.
            let _waited = self.shared.awaited().wait(passive, bound);
        }
    }

    /// Takes over the settings that hold by now, if they are others.
    fn adopt_settings(&mut self, passive: &mut Passive) {
        let version = self.host.live.version();
        if core::mem::replace(&mut self.version, version) == version {
            return;
        }
        let settings = self.host.live.running(passive);
        let period = self.shared.metric_period();
        self.shared.adopt(passive, &settings);
        let samples_anew = self.shared.metric_period() != period;
        Times { idle: self.idle, ending: self.ending, handshake: self.handshake } = Times::of(&settings);
        let before = self.speaker.settings().clone();
        self.speaker.adopt(settings.clone());
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            from = next;
            self.recognise(passive, &session, (&before, &settings));
            if samples_anew {
                session.sample_anew();
            }
        }
        let now = time::since_boot().as_100ns();
        for (target, dial) in self.targets.iter_mut().zip(settings.control_dial.as_slice()) {
            target.set_peer(settings.control_peers.named(&dial.peer), now);
        }
        // Times may be up earlier than they were.
        self.due = 0;
    }

    /// Finds a session's peer among those that there are now: one that is not there any more is ended, and one that may
    /// not change the policy any more does not.
    fn recognise(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        (before, now): (&Settings, &Settings),
    ) {
        let Some(conversation) = self.conversation(session) else { return };
        let Some(known) = before.control_peers.numbered(conversation.peer) else { return };
        let number = now.control_peers.with_key(&known.key);
        let role = now.control_peers.numbered(number).map(|peer| peer.role);
        conversation.peer = number;
        if role != Some(Role::Operator) {
            conversation.upload = None;
        }
        if let Some(number) = number {
            session.renumber(number);
        }
        if role != Some(Role::Operator) {
            self.shared.end_upload(session.number());
        }
        if role.is_none() {
            session.close(passive, End::Dismissed);
            self.forget(passive, session);
        }
    }

    /// When a listener or a target is to be tried next.
    fn next_attempt(&self) -> u64 {
        let ports = self.ports.iter().filter_map(|port| match port.listening {
            Listening::Waiting(at) => Some(at),
            Listening::Open(..) | Listening::Closing(_) => None,
        });
        ports.chain(self.targets.iter().filter_map(Target::due)).min().unwrap_or(NEVER)
    }

    /// Tells those who wait for it that every address has been tried.
    fn settle(&self) {
        if self.ports.iter().all(|port| port.tried) {
            self.shared.settled.set();
        }
    }

    /// Opens, closes and re-opens a listener.
    fn tend_listener(&mut self, passive: &mut Passive, index: usize) {
        let stopping = self.shared.is_stopping();
        let Some(port) = self.ports.get_mut(index) else { return };
        if let Listening::Open(socket, owner) = &port.listening
            && let Some(accepted) = owner.take_accepted(passive)
            && socket.accepted(passive, owner, accepted).is_err()
        {
            owner.lost();
        }
        let now = time::since_boot().as_100ns();
        port.listening = match core::mem::replace(&mut port.listening, Listening::Waiting(NEVER)) {
            Listening::Waiting(at) if now >= at && !stopping => {
                port.tried = true;
                let opened = open(passive, self.shared, self.provider, self.static_events, port);
                if let Listening::Open(socket, _) = &opened {
                    set_address(passive, self.shared, index, Some(socket.address()));
                }
                opened
            }
            Listening::Open(socket, owner) if stopping || owner.is_dead() => {
                if !stopping {
                    tell_failure(socket.address(), status::CONNECTION_DISCONNECTED);
                }
                set_address(passive, self.shared, index, None);
                socket.close(passive);
                Listening::Closing(owner)
            }
            Listening::Closing(owner) if owner.is_closed() => {
                owner.attached.end(passive);
                if let Some(accepted) = owner.take_accepted(passive) {
                    accepted.refuse(passive);
                }
                Listening::Waiting(port.next_try())
            }
            unchanged => unchanged,
        };
    }

    /// Looks after the sockets' extension interfaces when modules have come or gone.
    fn tend_extensions(&mut self, passive: &mut Passive) {
        let changed = self.shared.sockets.have_modules_changed(&mut self.modules);
        let now = time::since_boot().as_100ns();
        if changed {
            self.shared.sockets.sweep();
        }
        if self.shared.sockets.have_modules_come(&mut self.arrivals) {
            self.hope_again(now);
        }
        let noted = self.shared.sockets.take_noted();
        if !changed && !noted && now < self.tend_at {
            return;
        }
        let mut settled = true;
        for port in self.ports.iter() {
            if let Listening::Open(_, owner) = &port.listening {
                match owner.attached.tend(passive) {
                    Ok(tended) => settled &= tended == Tended::Settled,
                    // It is closed at the next turn, and tried anew.
                    Err(_missing) => owner.lost(),
                }
            }
        }
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            from = next;
            match session.tend(passive) {
                Ok(tended) => settled &= tended == Tended::Settled,
                Err(end) => {
                    session.close(passive, end);
                    self.forget(passive, &session);
                }
            }
        }
        if self.ports.iter().any(Port::is_lost) {
            self.shared.wake();
        }
        self.tend_at = if settled { NEVER } else { now.saturating_add(TEND_AGAIN) };
    }

    /// Whom a required interface was wanting may have it now: who waits is tried at once.
    fn hope_again(&mut self, now: u64) {
        if !self.shared.sockets.requires_modules() {
            return;
        }
        for port in &mut *self.ports {
            port.back_off = BACK_OFF_FIRST;
            if let Listening::Waiting(at) = &mut port.listening {
                *at = (*at).min(now);
            }
        }
        for target in &mut *self.targets {
            target.hope_again(now);
        }
    }

    /// Connects to those whose time has come.
    fn dial(&mut self, passive: &mut Passive) {
        let now = time::since_boot().as_100ns();
        for (number, target) in self.targets.iter_mut().enumerate() {
            if target.due().is_none_or(|at| now < at) {
                continue;
            }
            let Ok(number) = u8::try_from(number) else { return };
            target.begun(now);
            if let Err(status) = Session::dial(passive, self.shared, self.provider, target.remote(), number) {
                let (remote, remote_port) = (target.remote().ip(), target.remote().port());
                trace::emit(&trace::Event::ControlDialFailed { remote, remote_port, status: status.into() });
                target.ended(now, false, chance(passive));
            }
        }
    }

    /// Hands what became of orders to those who gave them, if they are still there.
    fn fetch_outcomes(&mut self, passive: &mut Passive) {
        while let Some(outcome) = self.host.desk.next_outcome(passive) {
            let mut from = 0;
            while let Some((session, next)) = self.shared.session_from(passive, from) {
                from = next;
                if session.number() != outcome.ticket.session {
                    continue;
                }
                if let Some(conversation) = self.conversation(&session) {
                    conversation.ordered = false;
                    conversation.outcome = Some(outcome);
                    session.note(passive, note::SENT);
                }
                break;
            }
        }
    }

    /// Has those who follow sent what is new.
    fn attend_followers(&mut self, passive: &mut Passive) {
        if !self.shared.hub.take_ready() {
            return;
        }
        let mut index = 0;
        while let Some(place) = self.shared.hub.follower(passive, index) {
            if let Some(session) = self.shared.session_at(passive, place) {
                session.note(passive, note::SENT);
            }
            index = index.saturating_add(1);
        }
    }

    /// Looks after the sessions that are queued now. True: some are queued still.
    fn attend_sessions(&mut self, passive: &mut Passive) -> bool {
        for _ in 0..self.conversations.len() {
            let Some(session) = self.shared.next_queued(passive) else { return false };
            self.attend(passive, &session);
        }
        true
    }

    /// Does what a session's notes ask for.
    fn attend(&mut self, passive: &mut Passive, session: &PoolArc<Session>) {
        let Some(notes) = session.take_notes() else { return };
        if let Err(end) = self.note_what_happened(passive, session, notes) {
            self.tell_end(session, end);
            session.close(passive, end);
        }
        if notes & note::FINISHED != 0 && session.phase() != Phase::Open {
            Session::peer_ended(session, passive, self.ending);
        }
        if notes & note::DISCONNECT_DONE != 0 {
            session.disconnect_done(passive);
        }
        if notes & note::RESET != 0 {
            session.close(passive, End::Reset);
        }
        if notes & note::DEAD != 0 {
            session.close(passive, End::Dead);
        }
        if notes & note::GIVEN_UP != 0 {
            Session::end(session, passive, End::GivenUp, self.ending);
        }
        if session.phase() != Phase::Open {
            self.forget(passive, session);
        }
        if notes & note::CLOSED != 0 {
            if let Some(target) =
                session.target().and_then(|target| self.targets.get_mut(usize::from(target)))
            {
                target.ended(time::since_boot().as_100ns(), session.peer().is_some(), chance(passive));
            }
            session.gone(passive);
        }
        // Deadlines are looked at when the first of them may be up.
        self.due = self.due.min(session.due(passive, self.idle));
    }

    fn note_what_happened(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        notes: u32,
    ) -> core::result::Result<(), End> {
        if notes & note::ADMITTED != 0 && session.phase() == Phase::New {
            let dialled = session.target().is_some();
            let stage = if dialled { Stage::Connecting } else { Stage::AwaitingFirst };
            let conversation =
                PoolBox::try_new(tags::CONTROL, Conversation::new(stage)).map_err(End::Failed)?;
            if let Some(place) = self.conversations.get_mut(session.index()) {
                *place = Some(conversation);
            }
            let bound = if dialled { CONNECT } else { self.handshake };
            Session::begin(session, passive, self.provider.version(), bound)?;
        }
        if notes & note::UNREACHABLE != 0 {
            return Err(session.unreachable());
        }
        if notes & note::BROKEN != 0 {
            return Err(session.broken());
        }
        let Some(conversation) = self.conversations.get_mut(session.index()).and_then(Option::as_mut) else {
            return Ok(());
        };
        if notes & note::CONNECTED != 0
            && let Some(target) = session.target().and_then(|target| self.targets.get(usize::from(target)))
        {
            let wsk = (self.provider.version(), self.static_events);
            session.connected(passive, wsk, self.handshake)?;
            let peer = target.peer().ok_or(End::Stranger)?;
            self.speaker.initiate(passive, session, conversation, peer)?;
            Session::go_on_receiving(session, passive);
        }
        conversation.finished |= notes & note::FINISHED != 0;
        match self.speaker.go_on(passive, session, conversation)? {
            Left::Waiting
                if conversation.finished && !conversation.is_ordered() && !session.is_held_up(passive) =>
            {
                Session::peer_ended(session, passive, self.ending);
            }
            Left::Waiting => {}
            Left::Busy => session.note(passive, note::SENT),
            Left::Until(at) => session.wake_at(at),
        }
        Ok(())
    }

    /// Tells of an end that somebody should look at.
    fn tell_end(&self, session: &Session, end: End) {
        let (remote, remote_port, status) =
            (session.remote().ip(), session.remote().port(), end.status().into());
        match end {
            End::Stranger | End::Nonsense => {
                self.shared.counts.rejected.fetch_add(1, Ordering::Relaxed);
                trace::emit(&trace::Event::ControlRejected {
                    session: session.number(),
                    remote,
                    remote_port,
                    status,
                });
            }
            End::Unreachable(_) => {
                trace::emit(&trace::Event::ControlDialFailed { remote, remote_port, status });
            }
            _ => {}
        }
    }

    /// A session is no longer spoken with.
    fn forget(&mut self, passive: &mut Passive, session: &Session) {
        let ended = self.shared.hub.finish(passive, session.index(), &self.shared.budget, |_| ());
        if ended.is_some() {
            session.release_buffers(passive);
        }
        self.shared.end_upload(session.number());
        if let Some(place) = self.conversations.get_mut(session.index()) {
            *place = None;
        }
    }

    fn conversation(&mut self, session: &Session) -> Option<&mut Conversation> {
        self.conversations.get_mut(session.index())?.as_deref_mut()
    }

    /// Begins the end of every session.
    fn end_sessions(&mut self, passive: &mut Passive) {
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            Session::end(&session, passive, End::Stopping, self.ending);
            if session.phase() != Phase::New {
                self.forget(passive, &session);
            }
            self.due = self.due.min(session.due(passive, self.idle));
            from = next;
        }
    }

    /// Ends the sessions whose time is up, when it may be; the next time when this may be.
    fn expire_sessions(&mut self, passive: &mut Passive) -> u64 {
        if time::since_boot().as_100ns() < self.due {
            return self.due;
        }
        self.due = NEVER;
        let mut from = 0;
        while let Some((session, next)) = self.shared.session_from(passive, from) {
            if session.phase() != Phase::New {
                Session::expire(&session, passive, self.idle, self.ending);
                if session.phase() != Phase::Open {
                    self.forget(passive, &session);
                }
            }
            self.due = self.due.min(session.due(passive, self.idle));
            from = next;
        }
        self.due
    }
}

impl Port {
    /// Its socket is of no use any more.
    fn is_lost(&self) -> bool {
        matches!(&self.listening, Listening::Open(_, owner) if owner.is_dead())
    }

    /// The time of the next try, further away each time.
    fn next_try(&mut self) -> u64 {
        let at = time::since_boot().as_100ns().saturating_add(self.back_off);
        self.back_off = self.back_off.saturating_mul(2).min(BACK_OFF_LAST);
        at
    }
}

fn open(
    passive: &mut Passive,
    shared: &PoolArc<Shared>,
    provider: &Provider<'_>,
    static_events: bool,
    port: &mut Port,
) -> Listening {
    let address = port.address;
    let owner = match Listener::try_new(passive, shared) {
        Ok(owner) => owner,
        Err(status) => {
            tell_failure(address, status);
            return Listening::Waiting(port.next_try());
        }
    };
    let socket = match ListenSocket::bind(passive, provider, &owner, address) {
        Ok(socket) => socket,
        Err((error, closing)) => {
            tell_failure(address, error.status);
            // Any other port may do, if any was asked for.
            port.address = port.wanted;
            return match closing {
                Closing::Issued => Listening::Closing(owner),
                Closing::NothingToClose => Listening::Waiting(port.next_try()),
            };
        }
    };
    if let Err(status) = ready(passive, shared, provider, static_events, &socket, &owner) {
        tell_failure(socket.address(), status);
        socket.close(passive);
        return Listening::Closing(owner);
    }
    if let Err(status) = socket.exclusive() {
        trace::emit(&trace::Event::Fault { operation: "SO_EXCLUSIVEADDRUSE", status: status.into() });
    }
    if let Err(status) = socket.secured() {
        trace::emit(&trace::Event::Fault { operation: "WSK_CACHE_SD", status: status.into() });
    }
    port.address = socket.address();
    port.back_off = BACK_OFF_FIRST;
    shared.counts.listeners.fetch_add(1, Ordering::Relaxed);
    let (address, port) = (port.address.ip(), port.address.port());
    trace::emit(&trace::Event::ControlListening { address, port });
    Listening::Open(socket, owner)
}

/// Registers the extensions, then lets connections in: by events, or by requests where WSK has no events.
fn ready(
    passive: &mut Passive,
    shared: &Shared,
    provider: &Provider<'_>,
    static_events: bool,
    socket: &ListenSocket<Listener>,
    owner: &PoolArc<Listener>,
) -> Result {
    let call = socket.call().ok_or(Status::INVALID_DEVICE_STATE)?;
    owner.attached.bound(passive, socket.address());
    let registered = owner.attached.register(passive, &call, provider.version());
    registered.map_err(|missing| missing.status)?;
    drop(call);
    if static_events {
        return Ok(());
    }
    match socket.enable() {
        Err(status) if status::is_unsupported(status) => {
            shared.by_request.store(true, Ordering::Relaxed);
            trace::emit(&trace::Event::Degraded { part: "control events", status: status.into() });
            socket.accept(passive, owner)
        }
        enabled => enabled,
    }
}

fn set_address(passive: &mut Passive, shared: &Shared, index: usize, address: Option<SocketAddr>) {
    if let Some(place) = shared.listening.lock(passive).get_mut(index) {
        *place = address;
    }
}

fn tell_failure(address: SocketAddr, status: Status) {
    let (address, port) = (address.ip(), address.port());
    trace::emit(&trace::Event::ControlListenFailed { address, port, status: status.into() });
}
