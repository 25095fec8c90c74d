//! A control connection.
//!
//! Callbacks note what happened in a word of bits and queue the session for the worker; the worker, alone, moves it
//! from state to state:
//!
//! ```text
//! admitted ── extensions registered ──> open ── peer finished, idle, stop ──> ending ── in good order, or too late ──> closing ──> gone
//!                      │ a required one is missing         │ reset, dead                                                   ^
//!                      └───────────────────────────────────┴───────────────────────────────────────────────────────────────┘
//! ```

use super::shared::{Place, Shared};
use crate::ext::{Attached, SocketKind, Sockets};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::trace;
use crate::wsk::{
    ConnectionEvents, ConnectionSocket, Data, Disconnected, Incoming, RECEIVE_SIZE, SendBuffer, status,
};
use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Notes from callbacks to the worker.
mod note {
    pub(super) const ADMITTED: u32 = 1 << 0;
    /// The peer has ended its side.
    pub(super) const FINISHED: u32 = 1 << 1;
    /// The peer has reset the connection.
    pub(super) const RESET: u32 = 1 << 2;
    /// The socket is no longer functional.
    pub(super) const DEAD: u32 = 1 << 3;
    /// Our graceful disconnect is over.
    pub(super) const DISCONNECT_DONE: u32 = 1 << 4;
    pub(super) const CLOSED: u32 = 1 << 5;
    /// A receive request has brought something.
    pub(super) const RECEIVED: u32 = 1 << 6;
    /// The session is queued.
    pub(super) const QUEUED: u32 = 1 << 31;
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
    /// Silent for too long.
    Idle,
    /// weir stops.
    Stopping,
    /// A required extension interface cannot be had, for this reason.
    Extension(Status),
}

impl End {
    /// The end as an event tells it; success for an orderly one.
    pub const fn status(self) -> Status {
        match self {
            Self::Finished => Status::SUCCESS,
            Self::Reset => status::CONNECTION_RESET,
            Self::Dead => status::CONNECTION_DISCONNECTED,
            Self::Idle => status::IO_TIMEOUT,
            Self::Stopping => Status::CANCELLED,
            Self::Extension(status) => status,
        }
    }
}

/// Where a session stands. The worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Admitted = 0,
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
    socket: ConnectionSocket<Self>,
    attached: Attached,
    notes: AtomicU32,
    received: AtomicU64,
    /// When something was received last, in units of 100 ns since boot.
    heard: AtomicU64,
    phase: AtomicU8,
    /// [`END_OURS`] and so on. The worker's.
    ended: AtomicU8,
    /// When an end that is under way is cut short. The worker's.
    deadline: AtomicU64,
    status: AtomicI32,
}

/// The peer has ended its side.
const END_PEER: u8 = 1;
/// Our side is ended.
const END_OURS: u8 = 2;

/// What an unknown peer is told as.
pub(super) const UNKNOWN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

impl Session {
    /// Takes a connection in, if there is a place for it. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_CANCELLED` while weir stops.
    pub(super) fn admit(
        irql: &mut AtMostDispatch,
        shared: &PoolArc<Shared>,
        incoming: Incoming,
    ) -> Result<PoolArc<Self>> {
        if shared.is_stopping() {
            return Err(Status::CANCELLED);
        }
        let place = shared.reserve(irql)?;
        let made = Self::try_new(shared, place.clone(), incoming);
        match &made {
            Ok(session) => shared.insert(irql, session),
            Err(_) => shared.vacate(irql, &place),
        }
        made
    }

    fn try_new(shared: &PoolArc<Shared>, place: Place, incoming: Incoming) -> Result<PoolArc<Self>> {
        let number = shared.next_session();
        let attached = Sockets::attach(&shared.sockets, SocketKind::Accepted, number)
            .ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let session = Self {
            shared: shared.clone(),
            place,
            number,
            remote: incoming.remote.unwrap_or(UNKNOWN),
            socket: ConnectionSocket::offered(incoming.socket)?,
            attached,
            notes: AtomicU32::new(0),
            received: AtomicU64::new(0),
            heard: AtomicU64::new(time::since_boot().as_100ns()),
            phase: AtomicU8::new(Phase::Admitted as u8),
            ended: AtomicU8::new(0),
            deadline: AtomicU64::new(u64::MAX),
            status: AtomicI32::new(Status::SUCCESS.0),
        };
        PoolArc::try_new(tags::CONTROL, session)
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

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Notes what happened, and queues the session unless it is queued.
    fn note(&self, irql: &mut AtMostDispatch, bits: u32) {
        if self.notes.fetch_or(bits | note::QUEUED, Ordering::AcqRel) & note::QUEUED == 0 {
            self.shared.queue(irql, self);
        }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    /// Does what the notes ask for. The worker's.
    pub(super) fn attend(this: &PoolArc<Self>, passive: &mut Passive, wsk_version: u16, ending: Interval) {
        let notes = this.notes.swap(0, Ordering::AcqRel);
        if this.phase() == Phase::Admitted as u8 && notes & note::ADMITTED == 0 {
            // Something came before the admission was noted, which will queue the session again.
            this.notes.fetch_or(notes & !note::QUEUED, Ordering::AcqRel);
            return;
        }
        if notes & note::ADMITTED != 0 {
            Self::begin(this, passive, wsk_version);
        }
        if notes & note::RECEIVED != 0 {
            this.socket.receive(passive, this, RECEIVE_SIZE);
        }
        if notes & note::DISCONNECT_DONE != 0 {
            this.ended.fetch_or(END_OURS, Ordering::Relaxed);
        }
        if notes & note::FINISHED != 0 {
            this.ended.fetch_or(END_PEER, Ordering::Relaxed);
            Self::end(this, passive, End::Finished, ending);
        }
        if notes & note::RESET != 0 {
            this.close(passive, End::Reset);
        }
        if notes & note::DEAD != 0 {
            this.close(passive, End::Dead);
        }
        let both = END_PEER | END_OURS;
        if this.phase() == Phase::Ending as u8 && this.ended.load(Ordering::Relaxed) & both == both {
            this.close(passive, End::Finished);
        }
        if notes & note::CLOSED != 0 {
            this.gone(passive);
        }
    }

    /// Registers the extensions, on the socket itself: a listener's do not pass on.
    fn begin(this: &PoolArc<Self>, passive: &mut Passive, wsk_version: u16) {
        this.phase.store(Phase::Open as u8, Ordering::Relaxed);
        let (remote, remote_port) = (this.remote.ip(), this.remote.port());
        trace::emit(&trace::Event::ControlAccepted { session: this.number, remote, remote_port });
        let Some(call) = this.socket.call() else { return };
        let registered = this.attached.register(&call, wsk_version);
        drop(call);
        if let Err(missing) = registered {
            return this.close(passive, End::Extension(missing.status));
        }
        if this.shared.by_request.load(Ordering::Relaxed) {
            this.socket.receive(passive, this, RECEIVE_SIZE);
        }
    }

    /// Begins an orderly end: our side is finished too, and the peer has `bound` to finish its own.
    pub(super) fn end(this: &PoolArc<Self>, passive: &mut Passive, why: End, bound: Interval) {
        if this.phase() != Phase::Open as u8 {
            return;
        }
        this.phase.store(Phase::Ending as u8, Ordering::Relaxed);
        this.status.store(why.status().0, Ordering::Relaxed);
        let deadline = time::since_boot().as_100ns().saturating_add(bound.as_100ns());
        this.deadline.store(deadline, Ordering::Relaxed);
        let graceful = !this.shared.by_request.load(Ordering::Relaxed);
        if !graceful || !this.socket.disconnect(passive, this) {
            this.close(passive, why);
        }
    }

    /// Closes the socket. A connection that has not ended in good order is aborted by that.
    pub(super) fn close(&self, passive: &mut Passive, why: End) {
        if self.phase() == Phase::Closing as u8 {
            return;
        }
        if self.phase() != Phase::Ending as u8 {
            self.status.store(why.status().0, Ordering::Relaxed);
        }
        self.phase.store(Phase::Closing as u8, Ordering::Relaxed);
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.socket.close(passive);
    }

    /// Close has completed: the session leaves the table.
    fn gone(&self, passive: &mut Passive) {
        self.shared.counts.closed.fetch_add(1, Ordering::Relaxed);
        let status = trace::NtStatus(self.status.load(Ordering::Relaxed));
        trace::emit(&trace::Event::ControlClosed { session: self.number, status });
        self.shared.remove(passive, self);
    }

    /// Looks whether time is up, for an idle connection or an end under way; otherwise says when it will be.
    pub(super) fn expire(
        this: &PoolArc<Self>,
        passive: &mut Passive,
        idle: Interval,
        ending: Interval,
    ) -> u64 {
        let now = time::since_boot().as_100ns();
        if this.phase() == Phase::Open as u8 {
            let due = this.heard.load(Ordering::Relaxed).saturating_add(idle.as_100ns());
            if now < due {
                return due;
            }
            Self::end(this, passive, End::Idle, ending);
        }
        let due = this.deadline.load(Ordering::Relaxed);
        if now < due {
            return due;
        }
        this.close(passive, End::Idle);
        u64::MAX
    }
}

impl ConnectionEvents for Session {
    fn socket(&self) -> &ConnectionSocket<Self> {
        &self.socket
    }

    fn received(&self, _irql: &mut AtMostDispatch, data: &mut Data<'_>) {
        let mut into = [0; 256];
        let mut bytes: u64 = 0;
        while let Ok(read @ 1..) = data.read(&mut into) {
            bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.shared.counts.received.fetch_add(bytes, Ordering::Relaxed);
        self.heard.store(time::since_boot().as_100ns(), Ordering::Relaxed);
    }

    fn sent(&self, _irql: &mut AtMostDispatch, _buffer: SendBuffer<Self>, _result: Result<usize>) {}

    fn ideal_backlog(&self, _irql: &mut AtMostDispatch, _bytes: usize) {}

    fn connected(&self, _irql: &mut AtMostDispatch, _result: Result) {}

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

    fn receive_done(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::RECEIVED);
    }

    fn disconnect_done(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::DISCONNECT_DONE);
    }

    fn closed(&self, irql: &mut AtMostDispatch) {
        self.note(irql, note::CLOSED);
    }
}
