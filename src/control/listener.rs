//! The listening socket's owner.

use super::session::{Session, UNKNOWN};
use super::shared::Shared;
use crate::ext::{Attached, Ends, SocketKind, Sockets};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, tags};
use crate::kernel::{Result, Status};
use crate::policy::Family;
use crate::ring::{ControlChange, ControlConnection};
use crate::wsk::address::octets;
use crate::wsk::{Accepted, Incoming, ListenEvents};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};

/// One listening socket; a socket that is opened anew has a new owner.
pub(super) struct Listener {
    shared: PoolArc<Shared>,
    pub(super) attached: Attached,
    /// WSK said that the socket is no longer functional.
    dead: AtomicBool,
    closed: AtomicBool,
    /// An accept request that is over, where WSK has no accept events.
    accepted: SpinLock<Option<Accepted<Self>>>,
}

impl Listener {
    pub(super) fn try_new(irql: &mut AtMostDispatch, shared: &PoolArc<Shared>) -> Result<PoolArc<Self>> {
        let attached = Sockets::attach(&shared.sockets, irql, SocketKind::Listening, 0, Ends::default())
            .ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let listener = Self {
            shared: shared.clone(),
            attached,
            dead: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            accepted: SpinLock::new("accept request", None),
        };
        PoolArc::try_new(tags::CONTROL, listener)
    }

    /// The socket is of no use any more.
    pub(super) fn lost(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn take_accepted(&self, irql: &mut AtMostDispatch) -> Option<Accepted<Self>> {
        self.accepted.lock(irql).take()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl ListenEvents for Listener {
    type Connection = Session;

    fn admit(&self, irql: &mut AtMostDispatch, incoming: Incoming) -> Option<PoolArc<Session>> {
        let remote = incoming.remote;
        match Session::admit(irql, &self.shared, incoming) {
            Ok(session) => Some(session),
            Err(status) => {
                self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                let told = refusal(remote, status);
                self.shared.rings.push(&*irql.raise(), &told, None);
                None
            }
        }
    }

    fn admitted(&self, irql: &mut AtMostDispatch, session: PoolArc<Session>) {
        session.admitted(irql);
    }

    fn accept_done(&self, irql: &mut AtMostDispatch, accepted: Accepted<Self>) {
        *self.accepted.lock(irql) = Some(accepted);
        self.shared.wake();
    }

    fn dead(&self, _irql: &mut AtMostDispatch) {
        self.dead.store(true, Ordering::Release);
        self.shared.wake();
    }

    fn closed(&self, _irql: &mut AtMostDispatch) {
        self.closed.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// What is told of a connection that was not admitted.
fn refusal(remote: Option<SocketAddr>, status: Status) -> ControlConnection {
    let remote = remote.unwrap_or(UNKNOWN);
    let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
    ControlConnection {
        change: ControlChange::Refused,
        family,
        session: 0,
        status: status.0,
        remote: octets(remote.ip()),
        remote_port: remote.port(),
    }
}
