//! A simulated machine with weir's control plane on it, and what that tells.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod client;

use client::Client;
use ntsim::verify::Report;
use ntsim::wsk::{self, Category, SocketRef, memory};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use weir::board::Board;
use weir::config::schema::{Extensions, Place, REG_MULTI_SZ, REG_SZ};
use weir::config::{Live, Page, Settings};
use weir::control::protocol::noise::Keys;
use weir::control::protocol::role::Role;
use weir::control::{self, Control, Host};
use weir::dispatch::{Dispatching, Memory, Rings};
use weir::ext::connection_v1::NPI_CONNECTION_V1;
use weir::ext::label_v1::NPI_LABEL_V1;
use weir::flow::Flows;
use weir::kernel::irql::Passive;
use weir::kernel::pool::{PoolArc, PoolBox, tags};
use weir::policies::{Policies, Sources, Steward};
use weir::trace::events::{Event, FailMode, Keywords, Level};
use weir::trace::{Guid, sink};

/// What the control plane told, as far as the tests look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Waiting(i32),
    Authenticated(u64),
    Rejected(u64, i32),
    DialFailed(SocketAddr, i32),
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
    parts: Option<Parts>,
    log: Log,
    sink: Option<sink::Installed>,
    pub sim: ntsim::Sim,
}

/// The rings' memory, which is told of processors until this is dropped.
struct Grown(Option<Memory>);

impl Grown {
    fn start(records: u32) -> weir::kernel::Result<Self> {
        Memory::start(&passive(), records, Settings::DEFAULT.ring_order).map(|memory| Self(Some(memory)))
    }

    fn rings(&self) -> PoolArc<Rings> {
        self.0.as_ref().expect("started").rings().clone()
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        if let Some(memory) = self.0.take() {
            drop(memory.stop(&passive()));
        }
    }
}

/// What the control plane speaks of.
pub struct Parts {
    memory: Grown,
    pub flows: PoolArc<Flows>,
    pub policies: PoolArc<Policies>,
    pub steward: Option<Steward>,
    pub board: PoolArc<Board>,
    pub dispatching: Option<Dispatching>,
    pub live: PoolArc<Live>,
}

/// The driver's private key.
pub const DRIVER: [u8; 32] = [0xD0; 32];
/// The private keys of those who may connect: an operator, and an observer.
pub const OPERATOR: [u8; 32] = [0x01; 32];
pub const OBSERVER: [u8; 32] = [0x02; 32];

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

/// Short times, any loopback port, four sessions, an operator `root` and an observer `eye`.
pub fn parameters() -> Settings {
    let mut settings = Settings {
        control_max_sessions: 4,
        control_idle_timeout_ms: 60_000,
        control_message_rate: 0,
        shutdown_timeout_ms: 400,
        ..Settings::DEFAULT
    };
    listen(&mut settings, "127.0.0.1:0");
    let peer = |name, role: Role, key| format!("{name}={role}:{}", Keys::new(key).public());
    set_list(
        &mut settings,
        "ControlPeers",
        &[&peer("root", Role::Operator, &OPERATOR), &peer("eye", Role::Observer, &OBSERVER)],
    );
    // Of WSK alone, and connection_v1 alone; who wants more says so.
    interfaces(&mut settings, &[&connection_v1("optional;providers=wsk"), &label_v1("off")]);
    settings
}

/// What an entry of the setting says of `connection_v1`.
pub fn connection_v1(how: &str) -> String {
    format!("{}={how}", Guid::from(NPI_CONNECTION_V1))
}

/// What an entry of the setting says of `label_v1`.
pub fn label_v1(how: &str) -> String {
    format!("{}={how}", Guid::from(NPI_LABEL_V1))
}

/// Asks for these extension interfaces.
pub fn interfaces(settings: &mut Settings, entries: &[&str]) {
    set_list(settings, "ExtensionInterfaces", entries);
}

/// Listens there alone.
pub fn listen(settings: &mut Settings, address: &str) {
    let bytes: Vec<u8> = address.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    settings.set("ControlListen", REG_SZ, &bytes).unwrap();
}

/// Sets a list of texts.
pub fn set_list(settings: &mut Settings, name: &str, texts: &[&str]) {
    let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0])).chain([0]);
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    settings.set(name, REG_MULTI_SZ, &bytes).unwrap();
}

/// `connection_v1`, required.
pub fn required() -> Extensions {
    extensions(&[&connection_v1("required;providers=wsk"), &label_v1("off")])
}

/// These entries.
pub fn extensions(entries: &[&str]) -> Extensions {
    let mut settings = Settings::DEFAULT;
    interfaces(&mut settings, entries);
    settings.extension_interfaces
}

/// That interface, required.
pub fn required_interface(interface: Guid) -> Extensions {
    extensions(&[
        &format!("{interface}=required"),
        &connection_v1("optional;providers=wsk"),
        &label_v1("off"),
    ])
}

/// Boots a machine whose WSK behaves like this.
pub fn boot(wsk: wsk::Config) -> ntsim::Sim {
    ntsim::boot(ntsim::Config { wsk, ..ntsim::Config::default() })
}

impl Plane {
    /// Boots a machine and starts the control plane.
    #[track_caller]
    pub fn start(wsk: wsk::Config, parameters: &Settings) -> Self {
        Self::start_on(boot(wsk), parameters)
    }

    /// Starts the control plane on a machine.
    #[track_caller]
    pub fn start_on(sim: ntsim::Sim, parameters: &Settings) -> Self {
        let mut plane = Self::prepare(sim);
        plane.try_start(parameters).expect("the control plane starts");
        plane
    }

    /// A machine that listens to what is told.
    pub fn prepare(sim: ntsim::Sim) -> Self {
        Self::prepare_heard(sim, |_| ())
    }

    /// The same, with another one who hears every event.
    pub fn prepare_heard(sim: ntsim::Sim, hear: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        let log = Log::default();
        let sink = sink::install(Level::Verbose, Keywords::all(), {
            let log = Arc::clone(&log);
            move |event| {
                hear(event);
                if let Some(told) = told(event) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                }
            }
        });
        Self { control: None, parts: None, log, sink: Some(sink), sim }
    }

    pub fn try_start(&mut self, parameters: &Settings) -> weir::kernel::Result {
        let mut passive = passive();
        let memory = Grown::start(256)?;
        let flows = PoolArc::try_new(tags::FLOW_TABLE, Flows::try_new(&passive, 1024)?)?;
        let policies = PoolArc::try_new(tags::POLICY, Policies::try_new(&passive)?)?;
        let board = PoolArc::try_new(tags::DRIVER, Board::new(1))?;
        let live = Live::try_new(&Page::of(parameters)?)?;
        let keys = PoolBox::try_new(tags::CONFIGURATION, Keys::new(&DRIVER))?;
        let sources = Sources {
            service: &[],
            registry: None,
            store: Place::Nowhere,
            driver: None,
            fail_mode: FailMode::Open,
        };
        let (steward, _) = Steward::start(&mut passive, policies.clone(), sources)?;
        let host = Host {
            live: live.clone(),
            keys,
            rings: memory.rings(),
            flows: flows.clone(),
            policies: policies.clone(),
            desk: steward.desk(),
            board: board.clone(),
        };
        // Taken down by `stop`, whatever becomes of the next steps.
        let parts = Parts {
            memory,
            flows,
            policies,
            steward: Some(steward),
            board,
            dispatching: None,
            live: live.clone(),
        };
        let parts = self.parts.insert(parts);
        let rings = parts.memory.rings();
        let sockets = control::sockets(&passive, parameters, rings.clone())?;
        let dispatching = Dispatching::start(
            &passive,
            rings,
            parts.flows.clone(),
            Some(sockets.clone()),
            live,
            parameters.ring_order,
        )?;
        parts.dispatching = Some(dispatching);
        self.control = Some(Control::start(&mut passive, host, sockets)?);
        Ok(())
    }

    /// Lets other settings hold, as a change of the registry does.
    pub fn change(&self, settings: &Settings) {
        self.parts().live.publish(&mut passive(), Page::of(settings).unwrap()).unwrap();
    }

    pub fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("running")
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

    /// A connection of the operator's, after the handshake.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.connect(), &OPERATOR).expect("the handshake succeeds")
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
        if let Some(parts) = self.parts.take() {
            if let Some(steward) = parts.steward {
                steward.stop(&mut passive());
            }
            if let Some(dispatching) = parts.dispatching {
                dispatching.stop(&passive(), &parts.memory.rings());
            }
        }
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
        Event::ControlAuthenticated { session, .. } => Told::Authenticated(session),
        Event::ControlRejected { session, status, .. } => Told::Rejected(session, status.0),
        Event::ControlDialFailed { remote, remote_port, status } => {
            Told::DialFailed(SocketAddr::new(remote, remote_port), status.0)
        }
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
