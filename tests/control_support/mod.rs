//! A simulated machine with weir's control plane on it, and what that tells.
#![allow(dead_code, reason = "each test program uses a part")]

use ntsim::verify::Report;
use ntsim::wsk::{self, Category, SocketRef, memory};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use weir::control::{Control, Parameters};
use weir::dispatch::{self, Rings};
use weir::ext::{Plan, connection_v1::NPI_CONNECTION_V1};
use weir::kernel::irql::Passive;
use weir::kernel::pool::PoolArc;
use weir::kernel::time::Interval;
use weir::trace::events::{Event, Keywords, Level};
use weir::trace::{Guid, sink};

/// What the control plane told, as far as the tests look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Waiting(i32),
    Listening(SocketAddr),
    ListenFailed(i32),
    Accepted(u64),
    Closed(u64, i32),
    Registered(u64),
    Refused { session: u64, required: bool, status: i32 },
    Failed { session: u64, required: bool, status: i32 },
    Callback { session: u64, code: u32, value: u64 },
    Detached { session: u64, callbacks: u64 },
    Lost(u64),
}

type Log = Arc<Mutex<Vec<Told>>>;

/// The control plane on a machine of its own.
pub struct Plane {
    control: Option<Control>,
    rings: Option<PoolArc<Rings>>,
    log: Log,
    sink: Option<sink::Installed>,
    pub sim: ntsim::Sim,
}

/// The token of the test's own thread.
pub fn passive() -> Passive {
    // SAFETY: tests run at PASSIVE_LEVEL, and lend the token to calls only.
    unsafe { Passive::assume() }
}

/// Waits for `what` to come true.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Short times, any loopback port, four sessions.
pub fn parameters() -> Parameters {
    Parameters {
        listen: "127.0.0.1:0".parse().unwrap(),
        max_sessions: 4,
        extensions: Plan::OPTIONAL,
        idle: Interval::from_millis(60_000),
        ending: Interval::from_millis(400),
    }
}

/// `connection_v1`, required.
pub fn required() -> Plan {
    required_interface(Guid::from(NPI_CONNECTION_V1))
}

/// A plan in which `interface` is required.
pub fn required_interface(interface: Guid) -> Plan {
    let text = format!("{interface}=required");
    let units: Vec<u16> = text.encode_utf16().chain([0, 0]).collect();
    let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let mut settings = weir::config::Settings::DEFAULT;
    settings.set("ExtensionInterfaces", weir::config::schema::REG_MULTI_SZ, &bytes).unwrap();
    Plan::new(&settings.extension_interfaces)
}

/// Boots a machine whose WSK behaves like this.
pub fn boot(wsk: wsk::Config) -> ntsim::Sim {
    ntsim::boot(ntsim::Config { wsk, ..ntsim::Config::default() })
}

impl Plane {
    /// Boots a machine and starts the control plane.
    #[track_caller]
    pub fn start(wsk: wsk::Config, parameters: &Parameters) -> Self {
        Self::start_on(boot(wsk), parameters)
    }

    /// Starts the control plane on a machine.
    #[track_caller]
    pub fn start_on(sim: ntsim::Sim, parameters: &Parameters) -> Self {
        let mut plane = Self::prepare(sim);
        plane.try_start(parameters).expect("the control plane starts");
        plane
    }

    /// A machine that listens to what is told.
    pub fn prepare(sim: ntsim::Sim) -> Self {
        let log = Log::default();
        let sink = sink::install(Level::Verbose, Keywords::all(), {
            let log = Arc::clone(&log);
            move |event| {
                if let Some(told) = told(event) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                }
            }
        });
        Self { control: None, rings: None, log, sink: Some(sink), sim }
    }

    pub fn try_start(&mut self, parameters: &Parameters) -> weir::kernel::Result {
        let rings = self.rings.insert(dispatch::rings(&passive(), 256)?);
        self.control = Some(Control::start_with(&mut passive(), parameters, rings)?);
        Ok(())
    }

    pub fn control(&self) -> &Control {
        self.control.as_ref().expect("running")
    }

    /// The address that is listened on, once it is.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let mut address = None;
        eventually("the control socket listens", || {
            address = self.told().into_iter().rev().find_map(|told| match told {
                Told::Listening(address) => Some(address),
                _ => None,
            });
            address.is_some()
        });
        address.unwrap()
    }

    #[track_caller]
    pub fn connect(&self) -> memory::Peer {
        memory::connect(self.address()).expect("a listener is there")
    }

    pub fn told(&self) -> Vec<Told> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[track_caller]
    pub fn wait_told(&self, what: &str, is: impl Fn(&Told) -> bool) -> Told {
        let mut found = None;
        eventually(what, || {
            found = self.told().into_iter().find(&is);
            found.is_some()
        });
        found.unwrap()
    }

    /// Stops the control plane, but not the machine; how long it took.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        if let Some(control) = self.control.take() {
            control.stop(&mut passive());
        }
        self.rings = None;
        start.elapsed()
    }

    /// Stops everything, and says what was told. The verifier must have nothing to say.
    #[track_caller]
    pub fn end(mut self) -> Vec<Told> {
        self.stop();
        self.check();
        self.told()
    }

    /// The verifier has nothing to say.
    #[track_caller]
    pub fn check(&self) {
        let report: Report = self.sim.report();
        assert!(report.is_clean(), "{report}");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
        self.sink = None;
    }
}

/// The sockets of a category that are open or being closed.
pub fn sockets(category: Category) -> Vec<SocketRef> {
    wsk::sockets().into_iter().filter(|socket| socket.category() == category).collect()
}

fn told(event: &Event<'_>) -> Option<Told> {
    Some(match *event {
        Event::ControlWaiting { status } => Told::Waiting(status.0),
        Event::ControlListening { address, port } => Told::Listening(SocketAddr::new(address, port)),
        Event::ControlListenFailed { status, .. } => Told::ListenFailed(status.0),
        Event::ControlAccepted { session, .. } => Told::Accepted(session),
        Event::ControlClosed { session, status } => Told::Closed(session, status.0),
        Event::ExtensionRegistered { session, .. } => Told::Registered(session),
        Event::ExtensionRefused { session, required, status, .. } => {
            Told::Refused { session, required, status: status.0 }
        }
        Event::ExtensionFailed { session, required, status, .. } => {
            Told::Failed { session, required, status: status.0 }
        }
        Event::ExtensionCallback { session, code, value, .. } => Told::Callback { session, code, value },
        Event::ExtensionDetached { session, callbacks, .. } => Told::Detached { session, callbacks },
        Event::RingLoss { count, .. } => Told::Lost(count),
        _ => return None,
    })
}
