//! The control plane's start and stop, and what it is started with.

use super::shared::{Counters, Shared};
use super::worker;
use crate::config::Settings;
use crate::dispatch::Rings;
use crate::ext::{self, Events, Plan};
use crate::kernel::Result;
use crate::kernel::event::Waited;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::thread::Thread;
use crate::kernel::time::Interval;
use crate::wsk::{Registration, WSK_VERSION};
use core::fmt;
use core::net::SocketAddr;

/// What the control plane is started with.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Where to listen; port 0: any.
    pub listen: SocketAddr,
    /// The most connections at a time.
    pub max_sessions: u32,
    /// The extension interfaces that sockets are registered for.
    pub extensions: Plan,
    /// How long a connection may be silent.
    pub idle: Interval,
    /// How long a graceful end may take, of one connection and of all at the stop, before it is aborted.
    pub ending: Interval,
}

impl Parameters {
    /// How long a connection may be silent.
    pub const IDLE: Interval = Interval::from_millis(300_000);

    /// As the settings have it; `None`: no control socket is wanted.
    pub fn new(settings: &Settings) -> Option<Self> {
        Some(Self {
            listen: *settings.control_listen.as_slice().first()?,
            max_sessions: settings.control_max_sessions,
            extensions: Plan::new(&settings.extension_interfaces),
            idle: Self::IDLE,
            ending: Interval::from_millis(settings.shutdown_timeout_ms),
        })
    }
}

/// How long [`Control::local_address`] waits for the first attempt to listen. DriverEntry calls it.
const SETTLING: Interval = Interval::from_millis(1_000);

/// The control plane.
#[must_use = "it runs until it is stopped"]
pub struct Control {
    /// `None`: no control socket is wanted.
    running: Option<Running>,
}

struct Running {
    shared: PoolArc<Shared>,
    events: Events,
    worker: Thread,
    listen: SocketAddr,
}

impl Control {
    /// Starts the control plane that the settings ask for; `rings` carry what it tells from callbacks.
    ///
    /// Does not wait for WSK to be ready: the socket listens some time later, which the event ControlListening and
    /// [`Control::local_address`] tell.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what WskRegister and PsCreateSystemThread return. Nothing is left behind.
    pub fn start(passive: &mut Passive, settings: &Settings, rings: &PoolArc<Rings>) -> Result<Self> {
        let Some(parameters) = Parameters::new(settings) else { return Ok(Self { running: None }) };
        Self::start_with(passive, &parameters, rings)
    }

    /// Starts the control plane with other parameters than the settings can give.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub fn start_with(
        passive: &mut Passive,
        parameters: &Parameters,
        rings: &PoolArc<Rings>,
    ) -> Result<Self> {
        let max_sessions = usize::try_from(parameters.max_sessions).unwrap_or(usize::MAX);
        // The listener's slot, and slots whose last events are under way.
        let slots = max_sessions.saturating_add(max_sessions / 4).saturating_add(8);
        let events = Events::start(passive, slots, parameters.extensions)?;
        match start_worker(passive, parameters, rings, &events, max_sessions) {
            Ok((shared, worker)) => {
                Ok(Self { running: Some(Running { shared, events, worker, listen: parameters.listen }) })
            }
            Err(status) => {
                events.stop(passive);
                Err(status)
            }
        }
    }

    /// The address that the control socket is bound to, or will be. Where any port will do, this waits for the first
    /// attempt to listen, for a second at most.
    pub fn local_address(&self, passive: &mut Passive) -> Option<SocketAddr> {
        let running = self.running.as_ref()?;
        if running.listen.port() != 0 {
            return Some(running.listen);
        }
        match running.shared.settled.wait(passive, Some(SETTLING)) {
            Waited::Signalled => *running.shared.listening.lock(passive),
            Waited::TimedOut => None,
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.running.as_ref().map(|running| running.shared.counters()).unwrap_or_default()
    }

    /// What became of registrations and callbacks so far.
    pub fn extensions(&self) -> ext::Totals {
        self.running.as_ref().map(|running| running.events.sockets().totals()).unwrap_or_default()
    }

    /// What the rings of extension events have carried so far.
    pub fn figures(&self) -> ext::Figures {
        self.running.as_ref().map(|running| running.events.sockets().figures()).unwrap_or_default()
    }

    /// Closes every socket, gracefully where the peers allow it in time, detaches from WSK, and ends the threads.
    pub fn stop(self, passive: &mut Passive) {
        let Some(Running { shared, events, worker, .. }) = self.running else { return };
        shared.stop();
        worker.join(passive);
        events.stop(passive);
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

fn start_worker(
    passive: &Passive,
    parameters: &Parameters,
    rings: &PoolArc<Rings>,
    events: &Events,
    max_sessions: usize,
) -> Result<(PoolArc<Shared>, Thread)> {
    let shared = Shared::try_new(events.sockets().clone(), rings.clone(), max_sessions)?;
    let registration = Registration::new(passive, WSK_VERSION)?;
    let context = worker::Context { shared: shared.clone(), registration, parameters: *parameters };
    let context = PoolBox::try_new(tags::CONTROL, context)?;
    let worker = Thread::start(passive, context, worker::run)?;
    Ok((shared, worker))
}
