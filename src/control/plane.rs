//! The control plane's start and stop, and what it is started with.

use super::hub::Hub;
use super::protocol::noise::Keys;
use super::shared::{Counters, Shared, max_sessions};
use super::worker;
use crate::board::Board;
use crate::config::{Live, Running, Settings};
use crate::dispatch::Rings;
use crate::ext::{self, Marks, Plan, Sockets};
use crate::flow::Flows;
use crate::kernel::Result;
use crate::kernel::event::Waited;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::thread::Thread;
use crate::kernel::time::Interval;
use crate::policies::{Desk, Policies};
use crate::policy::Action;
use crate::trace::events::FailMode;
use crate::trace::follow::{self, Following};
use crate::wsk::{Registration, WSK_VERSION};
use core::fmt;
use core::net::SocketAddr;

/// What the control plane is started with: who it is, and the parts of the driver that it speaks of.
pub struct Host {
    /// The settings that hold.
    pub live: PoolArc<Live>,
    /// The driver's own keys.
    pub keys: PoolBox<Keys>,
    pub rings: PoolArc<Rings>,
    pub flows: PoolArc<Flows>,
    pub policies: PoolArc<Policies>,
    pub desk: PoolArc<Desk>,
    pub board: PoolArc<Board>,
}

/// What is done with connections while there is no policy.
pub(super) const fn fail_action(settings: &Settings) -> Action {
    match settings.fail_mode {
        FailMode::Open => Action::Allow,
        FailMode::Closed => Action::Block,
    }
}

/// What the control plane's sockets will have of extension interfaces, as the settings want it. The rings' dispatcher
/// tells of it, and outlives the control plane.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`.
pub fn sockets(passive: &Passive, settings: &Settings, rings: PoolArc<Rings>) -> Result<PoolArc<Sockets>> {
    let max_sessions = max_sessions(settings);
    let addresses = settings.control_listen.as_slice().len();
    // The listeners' slots, and slots whose last events are under way.
    let slots = max_sessions.saturating_add(max_sessions / 4).saturating_add(addresses).saturating_add(8);
    let marks =
        Marks { receive: settings.receive_backlog_mark.into(), send: settings.send_backlog_mark.into() };
    let plan = Plan::try_new(&settings.extension_interfaces, marks)?;
    Sockets::try_new(passive, slots, plan, rings)
}

/// How long [`Control::local_addresses`] waits for the first attempts to listen. DriverEntry calls it.
const SETTLING: Interval = Interval::from_millis(1_000);

/// The control plane.
#[must_use = "it runs until it is stopped"]
pub struct Control {
    shared: PoolArc<Shared>,
    worker: Thread,
    following: Following,
    host: PoolArc<Host>,
    /// As they were at the start: where to listen, and whom to connect to, does not change.
    settings: Running,
}

impl Control {
    /// Starts the control plane.
    ///
    /// Does not wait for WSK to be ready: the sockets listen some time later, which the event ControlListening and
    /// [`Control::local_addresses`] tell.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what WskRegister and PsCreateSystemThread return. Nothing is left behind.
    pub fn start(passive: &mut Passive, host: Host, sockets: PoolArc<Sockets>) -> Result<Self> {
        let settings = host.live.running(passive);
        let shared = Shared::try_new(sockets, host.rings.clone(), &settings)?;
        let host = PoolArc::try_new(tags::CONTROL, host)?;
        let registration = Registration::new(passive, WSK_VERSION)?;
        let context = worker::Context {
            shared: shared.clone(),
            registration,
            host: host.clone(),
            settings: settings.clone(),
        };
        let context = PoolBox::try_new(tags::CONTROL, context)?;
        let following = follow::follow::<Hub>(shared.hub.clone())?;
        host.desk.set_wake(passive, Some(shared.awaited().clone()));
        host.live.set_wake(passive, Some(shared.awaited().clone()));
        match Thread::start(passive, context, worker::run) {
            Ok(worker) => Ok(Self { shared, worker, following, host, settings }),
            Err(status) => {
                host.live.set_wake(passive, None);
                host.desk.set_wake(passive, None);
                following.end(passive);
                Err(status)
            }
        }
    }

    /// The addresses that control sockets are bound to, or will be. Where any port will do, this waits for the first
    /// attempts to listen, for a second at most.
    pub fn local_addresses<'a>(&'a self, passive: &'a mut Passive) -> impl Iterator<Item = SocketAddr> + 'a {
        let wanted = self.settings.control_listen.as_slice();
        if wanted.iter().any(|address| address.port() == 0) {
            // After that, an address without a port is not known.
            let _waited: Waited = self.shared.settled.wait(passive, Some(SETTLING));
        }
        wanted.iter().enumerate().filter_map(|(index, wanted)| {
            let bound = self.shared.listening.lock(passive).get(index).copied().flatten();
            bound.or_else(|| Some(*wanted).filter(|wanted| wanted.port() != 0))
        })
    }

    /// The controllers that weir connects to.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.settings.control_dial.as_slice().iter().map(|dial| dial.address)
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// What became of registrations and callbacks so far.
    pub fn extensions(&self) -> ext::Totals {
        self.shared.sockets.totals()
    }

    /// Closes every socket, gracefully where the peers allow it in time, detaches from WSK, and ends the threads.
    pub fn stop(self, passive: &mut Passive) {
        let Self { shared, worker, following, host, .. } = self;
        shared.stop();
        worker.join(passive);
        host.live.set_wake(passive, None);
        host.desk.set_wake(passive, None);
        following.end(passive);
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("counters", &self.counters()).finish_non_exhaustive()
    }
}
