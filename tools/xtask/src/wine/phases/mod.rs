//! The phases of a run. Each session of Wine is one function; what it looks at is told check by check.

mod classification;
mod control;
mod cycles;
mod dial;
mod documents;
mod extensions;
mod faults;
mod hostile;
mod install;
mod keys;
mod policy;
mod registration;
mod settings;
mod subscribers;
mod vendors;
mod wine_netio;

pub use cycles::cycles;
pub use documents::documents;
pub use install::install;
pub use wine_netio::wine_netio;

use std::path::Path;
use std::time::Duration;

use weir::control::protocol::message::Tuple;
use weir::policy::Direction;

use super::Run;
use super::client::free_port;
use super::events::Event;
use super::logs::GAP;
use super::registry::{GUARDED, Value};
use super::report::Report;
use super::session::{Netio, SERVICE, Session};
use super::trace::{self, Traced};
use super::wait;
use crate::step::root;

/// What the driver decides by. The addresses and ports are those of `classification`.
pub const POLICY: &str = r#"# The policy of `cargo xtask wine`.
version = 1
generation = 1
default = "allow"

[[rule]]
name = "no-telnet"
action = "block"
direction = "out"
protocol = "tcp"
remote_port = 23

[[rule]]
name = "mail-is-looked-at"
action = "audit"
direction = "out"
protocol = "tcp"
remote_port = 25

[[rule]]
name = "no-visitors"
action = "block"
direction = "in"
protocol = "tcp"
local_port = 3389
"#;

/// The rules of [`POLICY`].
const RULES: u64 = 3;

/// Sessions at a time.
const MAX_SESSIONS: u32 = 24;
/// Of them, those of whom it is not known yet who they are.
const MAX_UNAUTHENTICATED: u32 = 8;

/// A connection of which nothing is known.
const NO_TUPLE: Tuple<'static> = Tuple {
    direction: Direction::Out,
    protocol: None,
    local: None,
    local_port: None,
    remote: None,
    remote_port: None,
    application: None,
    from: None,
};

/// Fails with `why` unless `condition` holds.
fn ensure(condition: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(why()) }
}

/// The driver's parameters.
#[derive(Clone)]
struct Parameters {
    port: u16,
    /// The private key, and who may do what with it.
    key: [u8; 32],
    guard: &'static str,
    peers: Vec<String>,
    dial: Vec<String>,
    connect_burst: u32,
    connect_rate: u32,
    ring_records: u32,
    shutdown_milliseconds: u32,
    extensions: Vec<String>,
    policy: Vec<u8>,
}

impl Parameters {
    fn new(run: &Run) -> Result<Self, String> {
        Ok(Self {
            port: free_port()?,
            key: run.cast.driver,
            guard: GUARDED,
            peers: run.cast.peers(),
            dial: Vec::new(),
            connect_burst: 1024,
            connect_rate: 60_000,
            ring_records: 4096,
            shutdown_milliseconds: 2000,
            extensions: Vec::new(),
            policy: run.policy.clone(),
        })
    }

    fn values(&self) -> Vec<(&'static str, Value)> {
        let mut values = vec![
            ("ControlListen", Value::Text(format!("127.0.0.1:{}", self.port))),
            ("ControlMaxSessions", Value::Number(MAX_SESSIONS)),
            ("ControlMaxUnauthenticated", Value::Number(MAX_UNAUTHENTICATED)),
            ("ControlHandshakeTimeout", Value::Number(1500)),
            ("ControlConnectBurst", Value::Number(self.connect_burst)),
            ("ControlConnectRate", Value::Number(self.connect_rate)),
            ("ControlPeers", Value::Texts(self.peers.clone())),
            ("RingRecords", Value::Number(self.ring_records)),
            ("PolicyImage", Value::Binary(self.policy.clone())),
            ("ShutdownTimeoutMs", Value::Number(self.shutdown_milliseconds)),
        ];
        if !self.extensions.is_empty() {
            values.push(("ExtensionInterfaces", Value::Texts(self.extensions.clone())));
        }
        if !self.dial.is_empty() {
            values.push(("ControlDial", Value::Texts(self.dial.clone())));
        }
        values
    }

    /// Writes them into the registry, and the key.
    fn configure(&self, session: &Session) -> Result<(), String> {
        self.configure_with(session, &self.values())
    }

    /// Writes other values into the registry, and the key.
    fn configure_with(&self, session: &Session, values: &[(&str, Value)]) -> Result<(), String> {
        session.configure(values, Some((&self.key, self.guard)))
    }
}

/// Loads the driver and sees it in force.
fn load(
    session: &mut Session,
    parameters: &Parameters,
    degraded: u64,
    report: &mut Report,
) -> Result<(), String> {
    session.events.mark()?;
    parameters.configure(session)?;
    session.create_service()?;
    session.load()?;
    let started = session.events.one("DriverStarted", |_| true)?;
    let failed = session.events.since(|event| event.is("StartStep") && !event.succeeded())?;
    ensure(failed.is_empty(), || format!("steps of the start failed: {failed:?}"))?;
    ensure(started.number("degraded") == Some(degraded), || format!("degraded at the start: {started:?}"))?;
    session.events.one("PolicyLoaded", |event| event.number("rules") == Some(RULES))?;
    session.events.one("ControlListening", |event| event.number("port") == Some(parameters.port.into()))?;
    session.events.one("FiltersInForce", |_| true)?;
    report.held(&format!(
        "loaded: every step of the start succeeded, {RULES} rules are loaded, filters are in force, the control port \
         is 127.0.0.1:{}",
        parameters.port
    ));
    Ok(())
}

/// Unloads the driver and sees that nothing of it is left.
fn unload(session: &mut Session) -> Result<(), String> {
    session.unload()?;
    session.events.one("DriverStopping", |_| true)?;
    session.events.one("DriverStopped", |_| true)?;
    let steps = session.events.since(|event| event.is("StopStep"))?;
    let good = !steps.is_empty() && steps.iter().all(Event::succeeded);
    ensure(good, || format!("steps of the stop: {steps:?}"))?;
    left(session)
}

/// Makes the session's trace, which other readers read.
fn traced(session: &Session, report: &mut Report) -> Result<(), String> {
    let Traced { path, events, read } = trace::check(&session.logs)?;
    // What is left of a clean run.
    let kept = root().join("target/wine").join(trace::TRACE);
    std::fs::copy(&path, &kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    report.held(&format!(
        "{} has the {events} events that the image has handed over; etl-parser reads the same in it as weir ({read} of them)",
        kept.display()
    ));
    report.fact("events", events);
    Ok(())
}

/// Waits until the stand-in says what the driver has left behind, which must be nothing.
fn left(session: &mut Session) -> Result<(), String> {
    session.unloads += 1;
    left_behind(session, SERVICE, session.unloads)
}

/// The same of any driver, and of its unload of that number.
fn left_behind(session: &Session, driver: &str, number: usize) -> Result<(), String> {
    let path = session.logs.join("fwpkclnt.log");
    let said = format!(" {driver}.sys is unloaded; left behind: ");
    let said = wait::until("the stand-in's word of the unload", Duration::from_secs(10), || {
        let log = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(log
            .lines()
            .filter_map(|line| line.split_once(&said))
            .nth(number - 1)
            .map(|(_, left)| left.to_owned()))
    })?;
    ensure(said.trim() == "0", || format!("{driver} left {said} objects behind: see {}", path.display()))
}

/// An outcome; of a failure, with what the logs tell of a crash, which may be its cause.
fn told(logs: &Path, outcome: Result<(), String>) -> Result<(), String> {
    outcome.map_err(|error| match super::logs::search(logs, &[]) {
        Err(crash) if !error.contains(&crash) => format!("{error}; {crash}"),
        _ => error,
    })
}

/// The stand-ins, by drivers that know what is documented.
pub fn checks(run: &Run, report: &mut Report) {
    let logs = run.logs.join("checks");
    let outcome = |report: &mut Report| {
        let session = Session::start(&run.wine, &run.prefix, &run.files, Netio::StandIn, logs.clone())?;
        session.configure(&[], None)?;
        for (name, file) in &run.files.checks {
            let kept = session.check(name, file)?;
            report.held(&format!("{name}.sys found {kept} promises kept"));
        }
        Ok(())
    };
    let _told = report.phase("the stand-ins themselves", |report| told(&logs.clone(), outcome(report)));
}

/// The driver with both stand-ins.
pub fn stand_ins(run: &Run, report: &mut Report) {
    let mut session = None;
    let started = report.phase("start, with the stand-ins", |report| {
        let logs = run.logs.join("stand-ins");
        let session =
            session.insert(Session::start(&run.wine, &run.prefix, &run.files, Netio::StandIn, logs)?);
        let parameters = Parameters::new(run)?;
        load(session, &parameters, 0, report)?;
        Ok(parameters)
    });
    let (Some(parameters), Some(session)) = (started, session.as_mut()) else { return };
    // Each can be looked at even where the one before it failed.
    let cast = &run.cast;
    let _told = report.phase("the control port", |report| control::run(session, &parameters, cast, report));
    let _told =
        report.phase("peers without manners", |report| hostile::run(session, &parameters, cast, report));
    let _told = report.phase("classification", |report| classification::run(session, report));
    let _told = report.phase("subscribers", |report| subscribers::run(session, &parameters, cast, report));
    let _told = report.phase("extensions", |report| extensions::run(session, &parameters, cast, report));
    let _told = report.phase("calls that fail", |report| faults::run(session, run, &parameters, report));
    let _told = report.phase("policies from remote", |report| policy::run(session, run, report));
    let _told = report.phase("a controller that is called", |report| dial::run(session, run, report));
    let _told = report.phase("vendors' modules", |report| vendors::run(session, run, report));
    let _told = report.phase("the driver's key", |report| keys::run(session, run, report));
    let _told = report.phase("settings", |report| settings::run(session, run, report));
    let _told = report.phase("unload", |report| {
        unload(session)?;
        report.held("unloaded: every step of the stop succeeded, and nothing is left");
        let searched = super::logs::search(&session.logs, &[GAP])?;
        report.held(&format!("{searched} logs tell of no crash"));
        Ok(())
    });
    let _told = report.phase("the trace", |report| traced(session, report));
}
