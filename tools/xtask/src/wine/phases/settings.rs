//! The registry: what it says is in force after a restart, and what is wrong in it is refused with an event.

use super::super::Run;
use super::super::client::Raw;
use super::super::registry::Value;
use super::super::report::Report;
use super::super::session::Session;
use super::control::{closed, connected, hang_up};
use super::{Parameters, ensure, load, unload};

/// An extension interface that nobody provides.
const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    session.events.mark()?;
    unload(session)?;
    let mut parameters = Parameters::new(run)?;
    parameters.ring_records = 1024;
    load(session, &parameters, 0, report)?;
    let peer = connected(session, &run.cast, &run.cast.operator, parameters.port)?;
    closed(session, hang_up(peer))?;
    report.held("a port that was changed in the registry is listened on after a restart of the driver");

    unload(session)?;
    let bad = [
        ("RingRecords", Value::Number(1000), "not-power-of-two"),
        ("ControlMaxSessions", Value::Text("many".into()), "wrong-type"),
        ("MaxConnections", Value::Number(1), "out-of-range"),
        ("ExtensionInterfaces", Value::Texts(vec!["{no-guid}=required".into()]), "bad-interface"),
    ];
    let parameters = Parameters::new(run)?;
    let mut values = parameters.values();
    for (name, value, _) in &bad {
        values.retain(|(other, _)| other != name);
        values.push((*name, value.clone()));
    }
    values.push(("ControlListne", Value::Text("127.0.0.1:1".into())));
    session.events.mark()?;
    parameters.configure_with(session, &values)?;
    session.load()?;
    let started = session.events.one("DriverStarted", |_| true)?;
    for (name, _, reason) in bad {
        let refused = session.events.one("SettingRefused", |event| event.text("name") == name)?;
        ensure(refused.text("reason") == reason, || {
            format!("{name} was refused for another reason: {refused:?}")
        })?;
    }
    let unknown = session.events.one("SettingUnknown", |_| true)?;
    ensure(unknown.text("name") == "ControlListne", || format!("{unknown:?}"))?;
    ensure(started.number("degraded") == Some(0), || format!("{started:?}"))?;
    let peer = connected(session, &run.cast, &run.cast.operator, parameters.port)?;
    closed(session, hang_up(peer))?;
    report.held(
        "four bad values are refused, each with its reason; a misspelt name is told of; the defaults hold",
    );

    unload(session)?;
    let mut parameters = Parameters::new(run)?;
    if let Some(byte) = parameters.policy.last_mut() {
        *byte ^= 1;
    }
    session.events.mark()?;
    parameters.configure(session)?;
    session.load()?;
    let refused = session.events.one("PolicyRefused", |_| true)?;
    let started = session.events.one("DriverStarted", |_| true)?;
    ensure(started.number("degraded") == Some(1), || format!("{started:?}"))?;
    report.held(&format!(
        "a damaged policy is refused ({}), and the driver says that it is degraded",
        refused.text("reason")
    ));
    unload(session)?;

    let mut parameters = Parameters::new(run)?;
    parameters.extensions.push(format!("{{{NOBODYS}}}=required"));
    session.events.mark()?;
    parameters.configure(session)?;
    session.load()?;
    let refused =
        session.events.one("ExtensionRefused", |event| event.text("interface").contains(NOBODYS))?;
    ensure(refused.text("required") == "true", || format!("{refused:?}"))?;
    session.events.one("ControlListenFailed", |_| true)?;
    session.events.one("FiltersInForce", |_| true)?;
    ensure(Raw::connect(parameters.port).is_err(), || "the control port is open all the same".to_owned())?;
    report.held("without an interface that the registry says is required the control port stays shut, and that is told");

    unload(session)?;
    load(session, &Parameters::new(run)?, 0, report)
}
