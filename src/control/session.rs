//! A control connection: its socket, what has come and what is on its way out.
//!
//! Callbacks put what comes into the inbox, note what happened in a word of bits and queue the session for the worker;
//! the worker, alone, moves it from state to state, and speaks with the other side (see [`super::speech`]):
//!
//! ```text
//! admitted ─┐
//!           ├─ extensions registered ──> open ── peer finished, idle, stop ──> ending ── in good order, or too late ──> closing ──> gone
//! dialled ──┘          │ a required one is missing     │ reset, dead, not authenticated                                    ^
//!                      └───────────────────────────────┴───────────────────────────────────────────────────────────────────┘
//! ```

use super::inbox::{Inbox, Next};
use super::protocol::frame;
use super::protocol::message::SessionState;
use super::protocol::{MAX_FRAME, frame::HEADER};
use super::shared::{Place, Shared};
use super::status as ended;
use crate::ext::connection_v1::{
    CONNECTION_DIRECTION_RECEIVE, CONNECTION_DIRECTION_SEND, CONNECTION_METRIC_V1, CONNECTION_REASON_LOCAL,
    CONNECTION_REASON_PEER_FINISHED, CONNECTION_REASON_PEER_RESET, CONNECTION_REASON_PROVIDER_LEAVES,
    CONNECTION_REASON_TIMED_OUT, ConnectionV1,
};
use crate::ext::{Attached, Ends, SocketKind, Sockets, Tended};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::trace::events::Provider;
use crate::trace::{self, Guid};
use crate::wsk::{
    self, ConnectionEvents, ConnectionSocket, Data, DialError, Disconnected, Incoming, SendBuffer, status,
};
use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Notes from callbacks to the worker.
pub(super) mod note {
    pub(crate) const ADMITTED: u32 = 1 << 0;
    /// The peer has ended its side.
    pub(crate) const FINISHED: u32 = 1 << 1;
    /// The peer has reset the connection.
    pub(crate) const RESET: u32 = 1 << 2;
    /// The socket is no longer functional.
    pub(crate) const DEAD: u32 = 1 << 3;
    /// Our graceful disconnect is over.
    pub(crate) const DISCONNECT_DONE: u32 = 1 << 4;
    pub(crate) const CLOSED: u32 = 1 << 5;
    /// Something has come, or a receive request is over.
    pub(crate) const RECEIVED: u32 = 1 << 6;
    /// A buffer is back that the worker had none of.
    pub(crate) const SENT: u32 = 1 << 7;
    /// Something could not be sent, or not be received.
    pub(crate) const BROKEN: u32 = 1 << 8;
    /// The connection that weir opens is there.
    pub(crate) const CONNECTED: u32 = 1 << 9;
    /// The connection that weir opens cannot be had.
    pub(crate) const UNREACHABLE: u32 = 1 << 10;
    /// A provider of an extension interface says that the connection is over.
    pub(crate) const GIVEN_UP: u32 = 1 << 11;
    /// The session is queued.
    pub(crate) const QUEUED: u32 = 1 << 31;
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer finished, and so do we.
    Finished,
    /// The peer reset the connection.
    Reset,
    /// WSK said that the socket is no longer functional.
    Dead,
    /// Silent for too long, or taking nothing for too long.
    Idle,
    /// The handshake took too long.
    Late,
    /// Whoever it is, it is no peer, or does not mean this driver.
    Stranger,
    /// It is no peer any more.
    Dismissed,
    /// What came is no frame, or no message of this connection.
    Nonsense,
    /// weir stops.
    Stopping,
    /// A required extension interface cannot be had, for this reason.
    Extension(Status),
    /// A provider of an extension interface says that the connection is over.
    GivenUp,
    /// A connection that weir opens cannot be had, for this reason.
    Unreachable(Status),
    /// Memory or randomness is wanting, or WSK failed a request.
    Failed(Status),
}

impl End {
    /// The end as an event tells it; success for an orderly one.
    pub const fn status(self) -> Status {
        match self {
            Self::Finished => Status::SUCCESS,
            Self::Reset => status::CONNECTION_RESET,
            Self::Dead | Self::GivenUp => status::CONNECTION_DISCONNECTED,
            Self::Idle | Self::Late => status::IO_TIMEOUT,
            Self::Stranger | Self::Dismissed => ended::ACCESS_DENIED,
            Self::Nonsense => ended::INVALID_NETWORK_RESPONSE,
            Self::Stopping => Status::CANCELLED,
            Self::Extension(status) | Self::Unreachable(status) | Self::Failed(status) => status,
        }
    }

    /// The end as `connection_v1` tells it.
    const fn reason(self) -> u32 {
        match self {
            Self::Finished => CONNECTION_REASON_PEER_FINISHED,
            Self::Reset => CONNECTION_REASON_PEER_RESET,
            Self::Idle | Self::Late => CONNECTION_REASON_TIMED_OUT,
            Self::GivenUp | Self::Extension(_) => CONNECTION_REASON_PROVIDER_LEAVES,
            Self::Dead
            | Self::Stranger
            | Self::Dismissed
            | Self::Nonsense
            | Self::Stopping
            | Self::Unreachable(_)
            | Self::Failed(_) => CONNECTION_REASON_LOCAL,
        }
    }
}

/// Where a session stands. The worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    New = 0,
    Open = 1,
    Ending = 2,
    Closing = 3,
}

/// A control connection.
pub struct Session {
    shared: PoolArc<Shared>,
    place: Place,
    number: u64,
    remote: SocketAddr,
    /// The target, by its number, that weir has dialled.
    dialled: Option<u8>,
    /// The system time of its beginning.
    since: u64,
    socket: ConnectionSocket<Self>,
    attached: Attached,
    notes: AtomicU32,
    inbox: SpinLock<Inbox>,
    outbox: SpinLock<Outbox>,
    /// A receive request is out.
    receiving: AtomicBool,
    /// When something was received last, in units of 100 ns since boot.
    heard: AtomicU64,
    phase: AtomicU8,
    /// The peer, by its number, once it is known; [`NOBODY`].
    peer: AtomicU8,
    /// [`END_OURS`] and so on. The worker's.
    ended: AtomicU8,
    /// Why it ends, as `connection_v1` tells it. The worker's.
    reason: AtomicU32,
    /// When an end that is under way, or a handshake, is cut short. The worker's.
    deadline: AtomicU64,
    status: AtomicI32,
    /// Why something broke.
    broken: AtomicI32,
    /// When its counters are told next, in units of 100 ns since boot. The worker's.
    sample_at: AtomicU64,
    /// When the worker has something to do for it anyway, in units of 100 ns since boot. The worker's.
    wake_at: AtomicU64,
}

/// Buffers that messages are sent from.
struct Outbox {
    idle: [Option<SendBuffer<Session>>; BUFFERS],
    /// Buffers that there are, idle or not.
    made: usize,
    /// Buffers that are out.
    out: usize,
    /// Bytes that are out.
    outstanding: usize,
    /// Bytes that should be out to keep the connection busy.
    ideal: usize,
    /// The worker has looked for a buffer in vain.
    wanted: bool,
    /// When a buffer was sent or came back last, in units of 100 ns since boot.
    moved: u64,
}

/// The most buffers of a session: the first is its own, the others are of the common budget.
const BUFFERS: usize = 4;
/// The size of a buffer: the largest frame.
pub(super) const BUFFER: usize = MAX_FRAME + HEADER;

/// The peer has ended its side.
const END_PEER: u8 = 1;
/// Our side is ended.
const END_OURS: u8 = 2;

/// No peer's number.
const NOBODY: u8 = u8::MAX;

/// What an unknown peer is told as.
pub(super) const UNKNOWN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// The first of the providers' answers that is not that it has no such function; if there is none, the first of all.
fn first_that_can<T>(
    mut answers: impl Iterator<Item = (Provider, Result<T>)>,
) -> Option<(Provider, Result<T>)> {
    let first = answers.next()?;
    let cannot = |answer: &(Provider, Result<T>)| matches!(answer.1, Err(Status::NOT_SUPPORTED));
    if cannot(&first) { answers.find(|answer| !cannot(answer)).or(Some(first)) } else { Some(first) }
}

impl Session {
    /// Takes a connection in, if there is a place for it. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_CONNECTION_COUNT_LIMIT` if it is one too many of its source;
    /// `STATUS_CANCELLED` while weir stops.
    pub(super) fn admit(
        irql: &mut AtMostDispatch,
        shared: &PoolArc<Shared>,
        incoming: Incoming,
    ) -> Result<PoolArc<Self>> {
        let (remote, local) = (incoming.remote.unwrap_or(UNKNOWN), incoming.local);
        shared.admit(irql, remote.ip())?;
        let place = shared.reserve(irql)?;
        let socket = ConnectionSocket::offered(incoming.socket);
        let made = socket
            .and_then(|socket| Self::try_new(irql, shared, place.clone(), (local, remote), None, socket));
        match &made {
            Ok(session) => shared.insert(irql, session),
            Err(_) => shared.vacate(irql, &place),
        }
        made
    }

    /// Begins to open a connection to `remote`, the target with that number. The session is in its place, whatever
    /// comes of it.
    ///
    /// # Errors
    /// There is no session.
    pub(super) fn dial(
        passive: &mut Passive,
        shared: &PoolArc<Shared>,
        provider: &wsk::Provider<'_>,
        remote: SocketAddr,
        target: u8,
    ) -> Result {
        let place = shared.reserve(passive)?;
        let made = ConnectionSocket::to_dial().and_then(|socket| {
            Self::try_new(passive, shared, place.clone(), (None, remote), Some(target), socket)
        });
        let session = match made {
            Ok(session) => session,
            Err(status) => {
                shared.vacate(passive, &place);
                return Err(status);
            }
        };
        shared.insert(passive, &session);
        shared.counts.dialled.fetch_add(1, Ordering::Relaxed);
        match session.socket.dial(passive, provider, &session, remote) {
            Ok(()) => session.note(passive, note::ADMITTED),
            Err(DialError { status, closing, .. }) => {
                let (remote, remote_port) = (remote.ip(), remote.port());
                trace::emit(&trace::Event::ControlDialFailed { remote, remote_port, status: status.into() });
                session.status.store(status.0, Ordering::Relaxed);
                session.phase.store(Phase::Closing as u8, Ordering::Relaxed);
                // Whatever was made is being closed, and its end is noted.
                let over = if closing == crate::wsk::Closing::Issued { 0 } else { note::CLOSED };
                session.note(passive, note::ADMITTED | over);
            }
        }
        Ok(())
    }

    fn try_new(
        irql: &mut AtMostDispatch,
        shared: &PoolArc<Shared>,
        place: Place,
        (local, remote): (Option<SocketAddr>, SocketAddr),
        dialled: Option<u8>,
        socket: ConnectionSocket<Self>,
    ) -> Result<PoolArc<Self>> {
        let number = shared.next_session();
        let kind = if dialled.is_some() { SocketKind::Dialled } else { SocketKind::Accepted };
        let ends = Ends { local, remote: Some(remote) };
        let attached = Sockets::attach(&shared.sockets, irql, kind, number, ends)
            .ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let outbox = Outbox {
            idle: [const { None }; BUFFERS],
            made: 0,
            out: 0,
            outstanding: 0,
            ideal: 0,
            wanted: false,
            moved: 0,
        };
        let inbox = Inbox::try_new()?;
        let session = PoolArc::try_with(tags::CONTROL, || Self {
            shared: shared.clone(),
            place,
            number,
            remote,
            dialled,
            since: time::system_time(),
            socket,
            attached,
            notes: AtomicU32::new(0),
            inbox: SpinLock::new("inbox", inbox),
            outbox: SpinLock::new("outbox", outbox),
            receiving: AtomicBool::new(false),
            heard: AtomicU64::new(time::since_boot().as_100ns()),
            phase: AtomicU8::new(Phase::New as u8),
            peer: AtomicU8::new(NOBODY),
            ended: AtomicU8::new(0),
            reason: AtomicU32::new(0),
            deadline: AtomicU64::new(u64::MAX),
            status: AtomicI32::new(Status::SUCCESS.0),
            broken: AtomicI32::new(Status::SUCCESS.0),
            sample_at: AtomicU64::new(u64::MAX),
            wake_at: AtomicU64::new(u64::MAX),
        })?;
        if !session.is_dialled() {
            shared.unauthenticated.fetch_add(1, Ordering::Relaxed);
        }
        Ok(session)
    }

    /// WSK knows the session: the worker may begin with it.
    pub(super) fn admitted(&self, irql: &mut AtMostDispatch) {
        self.shared.counts.accepted.fetch_add(1, Ordering::Relaxed);
        self.note(irql, note::ADMITTED);
    }

    /// The session's number, unique since the driver's start.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The other side.
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The system time of its beginning.
    pub(super) const fn since(&self) -> u64 {
        self.since
    }

    /// Whether weir has opened it.
    pub(super) const fn is_dialled(&self) -> bool {
        self.dialled.is_some()
    }

    /// The target that weir has dialled.
    pub(super) const fn target(&self) -> Option<u8> {
        self.dialled
    }

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.attached.traffic().received()
    }

    /// Bytes sent so far.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.attached.traffic().sent()
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Its place, as an index.
    pub(super) const fn index(&self) -> usize {
        self.place.index()
    }

    /// The peer's number, once it is known.
    pub(super) fn peer(&self) -> Option<u8> {
        Some(self.peer.load(Ordering::Relaxed)).filter(|peer| *peer != NOBODY)
    }

    /// Its peer, if it is known, has another number now. The worker's.
    pub(super) fn renumber(&self, peer: u8) {
        if self.peer().is_some() {
            self.peer.store(peer, Ordering::Relaxed);
        }
    }

    /// It is known who the other side is. The worker's.
    pub(super) fn authenticated(&self, peer: u8) {
        if self.peer.swap(peer, Ordering::Relaxed) == NOBODY && !self.is_dialled() {
            self.shared.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.counts.authenticated.fetch_add(1, Ordering::Relaxed);
        self.deadline.store(u64::MAX, Ordering::Relaxed);
    }

    /// How it stands, for those who ask.
    pub(super) fn state(&self) -> SessionState {
        match (self.phase(), self.peer()) {
            (Phase::Ending | Phase::Closing, _) => SessionState::Ending,
            (_, None) => SessionState::Handshake,
            (_, Some(_)) => SessionState::Open,
        }
    }

    /// Notes what happened, and queues the session unless it is queued.
    pub(super) fn note(&self, irql: &mut AtMostDispatch, bits: u32) {
        if self.notes.fetch_or(bits | note::QUEUED, Ordering::AcqRel) & note::QUEUED == 0 {
            self.shared.queue(irql, self);
        }
    }

    /// What was noted since this was asked last; `None`: WSK does not know the session yet, which will be noted.
    pub(super) fn take_notes(&self) -> Option<u32> {
        let notes = self.notes.swap(0, Ordering::AcqRel);
        if self.phase() == Phase::New && notes & note::ADMITTED == 0 {
            // The admission queues the session again.
            self.notes.fetch_or(notes & !note::QUEUED, Ordering::AcqRel);
            return None;
        }
        Some(notes)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::New,
            1 => Phase::Open,
            2 => Phase::Ending,
            _ => Phase::Closing,
        }
    }

    /// Begins with the session, which may take so long to be connected, or to say who it is.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn begin(
        this: &PoolArc<Self>,
        passive: &mut Passive,
        wsk_version: u16,
        bound: Interval,
    ) -> core::result::Result<(), End> {
        this.phase.store(Phase::Open as u8, Ordering::Relaxed);
        this.bound_by(bound);
        if !this.is_dialled() {
            let (remote, remote_port) = (this.remote.ip(), this.remote.port());
            trace::emit(&trace::Event::ControlAccepted { session: this.number, remote, remote_port });
        }
        if !this.is_dialled() {
            this.established(passive, wsk_version)?;
            Self::go_on_receiving(this, passive);
        }
        Ok(())
    }

    /// The connection is there. Registers the extensions, on the socket itself: a listener's do not pass on; and not
    /// before it is connected, since their events cannot be switched on before ("SO_WSK_EVENT_CALLBACK").
    fn established(&self, passive: &mut Passive, wsk_version: u16) -> core::result::Result<(), End> {
        let Some(call) = self.socket.call() else { return Ok(()) };
        let registered = self.attached.register(passive, &call, wsk_version);
        registered.map_err(|missing| End::Extension(missing.status))?;
        drop(call);
        self.attached.established(passive);
        self.sample_later(time::since_boot().as_100ns());
        Ok(())
    }

    /// Another period of samples holds: one begins now.
    pub(super) fn sample_anew(&self) {
        if self.phase() == Phase::Open {
            self.sample_later(time::since_boot().as_100ns());
        }
    }

    fn sample_later(&self, now: u64) {
        let period = self.shared.metric_period();
        let at = if period == 0 { u64::MAX } else { now.saturating_add(period) };
        self.sample_at.store(at, Ordering::Relaxed);
    }

    /// Brings its extension interfaces up to date with the modules that come and go, and acts on what providers have said.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn tend(&self, passive: &mut Passive) -> core::result::Result<Tended, End> {
        if !matches!(self.phase(), Phase::Open | Phase::Ending) {
            return Ok(Tended::Settled);
        }
        let tended = self.attached.tend(passive).map_err(|missing| End::Extension(missing.status))?;
        if self.attached.is_given_up() {
            self.note(passive, note::GIVEN_UP);
        }
        if !self.attached.is_held_back() && self.outbox.lock(passive).wanted {
            self.note(passive, note::SENT);
        }
        Ok(tended)
    }

    /// A sample by the first of those who provide `interface` that takes any: who it is, and what it answers. `None`:
    /// nobody provides it for this session.
    pub(super) fn extension_metric(
        &self,
        interface: Guid,
    ) -> Option<(Provider, Result<CONNECTION_METRIC_V1>)> {
        let call = self.socket.call()?;
        let providers = self.attached.providers_by::<ConnectionV1>(&call, interface);
        first_that_can(providers.map(|(kind, provider)| (kind, provider.query_metric())))
    }

    /// Sends the vendor that provides `interface` a control code of its own, as [`Session::extension_metric`].
    pub(super) fn extension_control(
        &self,
        interface: Guid,
        code: u32,
        data: &[u8],
    ) -> Option<(Provider, Result)> {
        let call = self.socket.call()?;
        let providers = self.attached.providers_by::<ConnectionV1>(&call, interface);
        first_that_can(providers.map(|(kind, provider)| (kind, provider.control(code, data))))
    }

    /// What is under way may take so long.
    fn bound_by(&self, bound: Interval) {
        let deadline = time::since_boot().as_100ns().saturating_add(bound.as_100ns());
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// A connection that weir opens is there: its events are switched on, where they are not from the beginning. The
    /// handshake may take so long.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn connected(
        &self,
        passive: &mut Passive,
        (wsk_version, static_events): (u16, bool),
        handshake: Interval,
    ) -> core::result::Result<(), End> {
        self.bound_by(handshake);
        self.established(passive, wsk_version)?;
        if static_events || self.shared.by_request.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.socket.enable() {
            Err(status) if status::is_unsupported(status) => {
                self.shared.by_request.store(true, Ordering::Relaxed);
                Ok(())
            }
            enabled => enabled.map_err(End::Failed),
        }
    }

    /// Asks for more, where WSK tells nothing of it by itself.
    pub(super) fn go_on_receiving(this: &PoolArc<Self>, passive: &mut Passive) {
        let by_request = this.shared.by_request.load(Ordering::Relaxed);
        if this.phase() != Phase::Open || this.receiving.load(Ordering::Acquire) {
            return;
        }
        let mut inbox = this.inbox.lock(passive);
        let room = inbox.room();
        if room == 0 || !(by_request || inbox.refused) {
            return;
        }
        inbox.refused = false;
        this.receiving.store(true, Ordering::Release);
        drop(inbox);
        if !this.socket.receive(passive, this, room) {
            // Nothing would come any more: memory is wanting, or the socket is being closed.
            this.receiving.store(false, Ordering::Release);
            this.broken.store(Status::INSUFFICIENT_RESOURCES.0, Ordering::Relaxed);
            this.note(passive, note::BROKEN);
        }
    }

    /// Takes the next frame of at most `limit` bytes out of the inbox, to the beginning of `into`: how long it is;
    /// `None`: it is not complete.
    ///
    /// # Errors
    /// Why the session is to be ended.
    pub(super) fn next_frame(
        this: &PoolArc<Self>,
        passive: &mut Passive,
        limit: usize,
        into: &mut [u8],
    ) -> core::result::Result<Option<usize>, End> {
        let nonsense = |_: frame::What| End::Nonsense;
        let mut inbox = this.inbox.lock(passive);
        let next = inbox.next(limit, into).map_err(nonsense)?;
        let backlog = this.attached.backlog(CONNECTION_DIRECTION_RECEIVE, bytes(inbox.filled()));
        drop(inbox);
        this.attached.tell_backlog(passive, backlog);
        match next {
            Next::Frame(length) => return Ok(Some(length)),
            Next::Incomplete => {}
            Next::NoRoom => {
                let larger = PoolSlice::try_zeroed(tags::CONTROL, BUFFER).map_err(End::Failed)?;
                let smaller = this.inbox.lock(passive).move_into(larger);
                // Freed without the lock.
                drop(smaller);
            }
        }
        Self::go_on_receiving(this, passive);
        Ok(None)
    }

    /// Gives back what a large frame has needed, where nothing stands in it.
    pub(super) fn shrink(&self, passive: &mut Passive) {
        // A request that is out was made for the room that there is.
        if self.receiving.load(Ordering::Acquire) || !self.inbox.lock(passive).is_oversized() {
            return;
        }
        // Without memory it stays as it is.
        let Ok(small) = PoolSlice::try_zeroed(tags::CONTROL, super::inbox::SMALL) else { return };
        let mut inbox = self.inbox.lock(passive);
        let other = inbox.move_into(small);
        drop(inbox);
        drop(other);
    }

    /// A buffer of [`BUFFER`] bytes to send from. `None`: as many bytes are out as should be, or there is no memory for
    /// a further buffer; the session is queued again when one comes back.
    ///
    /// # Errors
    /// There is no memory for the first one.
    pub(super) fn buffer(&self, passive: &mut Passive) -> Result<Option<SendBuffer<Self>>> {
        // Too much waits to be sent, says a provider: no more than one buffer is out at a time.
        let held_back = self.attached.is_held_back();
        let mut outbox = self.outbox.lock(passive);
        if held_back && outbox.out != 0 {
            outbox.wanted = true;
            return Ok(None);
        }
        if let Some(buffer) = outbox.idle.iter_mut().find_map(Option::take) {
            return Ok(Some(buffer));
        }
        let first = outbox.made == 0;
        let busy = outbox.outstanding.saturating_add(BUFFER) > outbox.ideal || outbox.made >= BUFFERS;
        if !first && (busy || !self.shared.budget.take(BUFFER)) {
            outbox.wanted = true;
            return Ok(None);
        }
        outbox.made = outbox.made.saturating_add(1);
        drop(outbox);
        match SendBuffer::try_new(BUFFER) {
            Ok(buffer) => Ok(Some(buffer)),
            Err(status) => {
                let mut outbox = self.outbox.lock(passive);
                outbox.made = outbox.made.saturating_sub(1);
                // One may have come back meanwhile; else one that is out will.
                let idle = outbox.idle.iter_mut().find_map(Option::take);
                outbox.wanted = idle.is_none();
                drop(outbox);
                if first {
                    return Err(status);
                }
                self.shared.budget.give_back(BUFFER);
                Ok(idle)
            }
        }
    }

    /// Puts a buffer back that was not used.
    pub(super) fn put_back(&self, irql: &mut AtMostDispatch, buffer: SendBuffer<Self>) {
        let mut outbox = self.outbox.lock(irql);
        if let Some(place) = outbox.idle.iter_mut().find(|place| place.is_none()) {
            *place = Some(buffer);
        }
    }

    /// Sends the first `length` bytes of a buffer.
    pub(super) fn send(
        this: &PoolArc<Self>,
        irql: &mut AtMostDispatch,
        buffer: SendBuffer<Self>,
        length: usize,
    ) {
        let mut outbox = this.outbox.lock(irql);
        outbox.out = outbox.out.saturating_add(1);
        outbox.outstanding = outbox.outstanding.saturating_add(length);
        outbox.moved = time::since_boot().as_100ns();
        let backlog = this.attached.backlog(CONNECTION_DIRECTION_SEND, bytes(outbox.outstanding));
        drop(outbox);
        this.attached.tell_backlog(irql, backlog);
        if let Err(buffer) = this.socket.send(irql, this, buffer, length) {
            // It is being closed.
            this.returned(irql, buffer, length);
        }
    }

    /// A buffer is no longer out.
    fn returned(&self, irql: &mut AtMostDispatch, buffer: SendBuffer<Self>, length: usize) {
        let mut outbox = self.outbox.lock(irql);
        outbox.out = outbox.out.saturating_sub(1);
        outbox.outstanding = outbox.outstanding.saturating_sub(length);
        outbox.moved = time::since_boot().as_100ns();
        if let Some(place) = outbox.idle.iter_mut().find(|place| place.is_none()) {
            *place = Some(buffer);
        }
        let wanted = core::mem::take(&mut outbox.wanted);
        let backlog = self.attached.backlog(CONNECTION_DIRECTION_SEND, bytes(outbox.outstanding));
        drop(outbox);
        self.attached.tell_backlog(irql, backlog);
        if wanted {
            self.note(irql, note::SENT);
        }
    }

    /// Frees the buffers of the common budget that are not out.
    pub(super) fn release_buffers(&self, irql: &mut AtMostDispatch) {
        loop {
            let mut outbox = self.outbox.lock(irql);
            if outbox.made <= 1 {
                return;
            }
            let Some(buffer) = outbox.idle.iter_mut().find_map(Option::take) else { return };
            outbox.made = outbox.made.saturating_sub(1);
            drop(outbox);
            drop(buffer);
            self.shared.budget.give_back(BUFFER);
        }
    }

    /// Asks how many bytes should be out.
    pub(super) fn ask_ideal_backlog(this: &PoolArc<Self>, irql: &mut AtMostDispatch) {
        // Where WSK does not know, one buffer at a time is out.
        let _asked = this.socket.query_ideal_backlog(irql, this);
    }

    /// Whether the worker waits for a buffer.
    pub(super) fn is_held_up(&self, irql: &mut AtMostDispatch) -> bool {
        self.outbox.lock(irql).wanted
    }

    /// What broke.
    pub(super) fn broken(&self) -> End {
        End::Failed(Status(self.broken.load(Ordering::Relaxed)))
    }

    /// Why a connection that weir opens cannot be had.
    pub(super) fn unreachable(&self) -> End {
        End::Unreachable(Status(self.broken.load(Ordering::Relaxed)))
    }

    /// There will be something to do at that time, in units of 100 ns since boot.
    pub(super) fn wake_at(&self, at: u64) {
        self.wake_at.fetch_min(at, Ordering::Relaxed);
    }

    /// Whether both sides have ended the connection; `bits` of them have now.
    fn both_ended(&self, bits: u8) -> bool {
        let both = END_PEER | END_OURS;
        (self.ended.fetch_or(bits, Ordering::Relaxed) | bits) & both == both
    }

    /// The peer has ended its side.
    pub(super) fn peer_ended(this: &PoolArc<Self>, passive: &mut Passive, ending: Interval) {
        let both = this.both_ended(END_PEER);
        Self::end(this, passive, End::Finished, ending);
        if both && this.phase() == Phase::Ending {
            this.close(passive, End::Finished);
        }
    }

    /// Our side is ended.
    pub(super) fn disconnect_done(&self, passive: &mut Passive) {
        if self.both_ended(END_OURS) && self.phase() == Phase::Ending {
            self.close(passive, End::Finished);
        }
    }

    /// Begins an orderly end: our side is finished too, and the peer has `bound` to finish its own.
    pub(super) fn end(this: &PoolArc<Self>, passive: &mut Passive, why: End, bound: Interval) {
        if this.phase() != Phase::Open {
            return;
        }
        this.phase.store(Phase::Ending as u8, Ordering::Relaxed);
        this.ends_because(why);
        this.bound_by(bound);
        let graceful = !this.shared.by_request.load(Ordering::Relaxed);
        if !graceful || !this.socket.disconnect(passive, this) {
            this.close(passive, why);
        }
    }

    /// What comes after is a consequence.
    fn ends_because(&self, why: End) {
        self.status.store(why.status().0, Ordering::Relaxed);
        self.reason.store(why.reason(), Ordering::Relaxed);
    }

    /// Closes the socket. A connection that has not ended in good order is aborted by that.
    pub(super) fn close(&self, passive: &mut Passive, why: End) {
        if self.phase() == Phase::Closing {
            return;
        }
        if self.phase() != Phase::Ending {
            self.ends_because(why);
        }
        self.phase.store(Phase::Closing as u8, Ordering::Relaxed);
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.sample_at.store(u64::MAX, Ordering::Relaxed);
        self.attached.over(passive, self.reason.load(Ordering::Relaxed));
        self.socket.close(passive);
    }

    /// Close has completed: the session leaves the table.
    pub(super) fn gone(&self, passive: &mut Passive) {
        if self.peer().is_none() && !self.is_dialled() {
            self.shared.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        }
        self.attached.end(passive);
        self.release_buffers(passive);
        let mut outbox = self.outbox.lock(passive);
        let last = outbox.idle.iter_mut().find_map(Option::take);
        drop(outbox);
        drop(last);
        let status = trace::NtStatus(self.status.load(Ordering::Relaxed));
        trace::emit(&trace::Event::ControlClosed { session: self.number, status });
        self.shared.remove(passive, self);
        // Whoever sees it counted finds its place free.
        self.shared.counts.closed.fetch_add(1, Ordering::Release);
    }

    /// When there is something to do for it if nothing happens before, in units of 100 ns since boot.
    pub(super) fn due(&self, irql: &mut AtMostDispatch, idle: Interval) -> u64 {
        let due = self.deadline.load(Ordering::Relaxed).min(self.wake_at.load(Ordering::Relaxed));
        due.min(self.sample_at.load(Ordering::Relaxed)).min(self.idle_at(irql, idle))
    }

    /// When it will have been silent, or will have taken nothing, for too long.
    fn idle_at(&self, irql: &mut AtMostDispatch, idle: Interval) -> u64 {
        if self.phase() != Phase::Open || self.peer().is_none() {
            return u64::MAX;
        }
        let outbox = self.outbox.lock(irql);
        let moved = if outbox.out == 0 { u64::MAX } else { outbox.moved };
        drop(outbox);
        self.heard.load(Ordering::Relaxed).min(moved).saturating_add(idle.as_100ns())
    }

    /// Does what is due by now.
    pub(super) fn expire(this: &PoolArc<Self>, passive: &mut Passive, idle: Interval, ending: Interval) {
        let now = time::since_boot().as_100ns();
        if this.wake_at.load(Ordering::Relaxed) <= now {
            this.wake_at.store(u64::MAX, Ordering::Relaxed);
            this.note(passive, note::SENT);
        }
        if this.sample_at.load(Ordering::Relaxed) <= now {
            this.attached.sample(passive);
            this.sample_later(now);
        }
        if this.idle_at(passive, idle) <= now {
            Self::end(this, passive, End::Idle, ending);
        }
        if this.deadline.load(Ordering::Relaxed) <= now {
            this.close(passive, if this.peer().is_some() { End::Idle } else { End::Late });
        }
    }
}

/// A number of bytes.
fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl ConnectionEvents for Session {
    fn socket(&self) -> &ConnectionSocket<Self> {
        &self.socket
    }

    fn received(&self, irql: &mut AtMostDispatch, data: &mut Data<'_>) {
        let mut inbox = self.inbox.lock(irql);
        if data.is_indicated() && self.receiving.load(Ordering::Acquire) {
            // What the request brings comes first; this is asked for afterwards.
            inbox.refused = true;
            return;
        }
        let filled = inbox.fill(data);
        let backlog = self.attached.backlog(CONNECTION_DIRECTION_RECEIVE, bytes(inbox.filled()));
        drop(inbox);
        self.attached.tell_backlog(irql, backlog);
        // What a request brings is lost unless it is taken; it was made for the room that there is.
        let lost = !data.is_indicated() && !data.is_empty();
        match filled.and_then(|bytes| if lost { Err(Status::BUFFER_TOO_SMALL) } else { Ok(bytes) }) {
            Ok(taken) => {
                self.attached.traffic().add_received(bytes(taken));
                self.shared.counts.received.fetch_add(bytes(taken), Ordering::Relaxed);
                self.heard.store(time::since_boot().as_100ns(), Ordering::Relaxed);
                self.note(irql, note::RECEIVED);
            }
            Err(status) => {
                self.broken.store(status.0, Ordering::Relaxed);
                self.note(irql, note::BROKEN);
            }
        }
    }

    fn receive_done(&self, irql: &mut AtMostDispatch) {
        self.receiving.store(false, Ordering::Release);
        self.note(irql, note::RECEIVED);
    }

    fn sent(&self, irql: &mut AtMostDispatch, buffer: SendBuffer<Self>, result: Result<usize>) {
        let sent = result.unwrap_or_default();
        self.attached.traffic().add_sent(bytes(sent));
        self.shared.counts.sent.fetch_add(bytes(sent), Ordering::Relaxed);
        self.returned(irql, buffer, sent);
        if let Err(status) = result {
            self.broken.store(status.0, Ordering::Relaxed);
            self.note(irql, note::BROKEN);
        }
    }

    fn ideal_backlog(&self, irql: &mut AtMostDispatch, bytes: usize) {
        self.outbox.lock(irql).ideal = bytes;
    }

    fn connected(&self, irql: &mut AtMostDispatch, result: Result) {
        match result {
            Ok(()) => self.note(irql, note::CONNECTED),
            Err(status) => {
                self.broken.store(status.0, Ordering::Relaxed);
                self.note(irql, note::UNREACHABLE);
            }
        }
    }

    fn disconnected(&self, irql: &mut AtMostDispatch, how: Disconnected) {
        self.note(
            irql,
            match how {
                Disconnected::Gracefully => note::FINISHED,
                Disconnected::Abortively => note::RESET,
            },
        );
    }

    fn dead(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::DEAD);
    }

    fn disconnect_done(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::DISCONNECT_DONE);
    }

    fn closed(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::CLOSED);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_first_provider_that_has_the_function_answers_and_none_is_asked_after_it() {
        const CANNOT: Result<u8> = Err(Status::NOT_SUPPORTED);
        const FAILS: Result<u8> = Err(Status::INVALID_PARAMETER);
        type Case = (&'static [Result<u8>], Option<(usize, Result<u8>)>);
        let cases: [Case; 6] = [
            (&[], None),
            (&[Ok(1), Ok(2)], Some((1, Ok(1)))),
            (&[CANNOT, Ok(2), Ok(3)], Some((2, Ok(2)))),
            (&[FAILS, Ok(2)], Some((1, FAILS))),
            (&[CANNOT, FAILS, Ok(3)], Some((2, FAILS))),
            (&[CANNOT, CANNOT], Some((2, CANNOT))),
        ];
        for (answers, expected) in cases {
            let asked = Cell::new(0);
            let answered = first_that_can(answers.iter().map(|answer| {
                asked.set(asked.get() + 1);
                (Provider::Nmr, *answer)
            }));
            let answered = answered.map(|(provider, answer)| {
                assert_eq!(provider, Provider::Nmr);
                (asked.get(), answer)
            });
            assert_eq!(answered, expected, "{:?}", answers.iter().collect::<Vec<_>>());
        }
    }
}
