//! The registry: what it says is in force after a restart, and what is wrong in it is refused with an event.

use weir::control::protocol::message::{From, Request};

use super::super::Run;
use super::super::client::Raw;
use super::super::peer::Peer;
use super::super::registry::Value;
use super::super::report::Report;
use super::super::session::Session;
use super::control::{closed, connected, end, hang_up, items};
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
    let parameters = Parameters::new(run)?;
    load(session, &parameters, 0, report)?;
    live(session, run, &parameters, report)
}

const PARAMETERS: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\weir\Parameters";
const POLICIES: &str = r"HKLM\SYSTEM\CurrentControlSet\Policies\weir";

/// The next change that is told is of that setting, and from there.
fn changed(session: &mut Session, name: &str, effect: &str, origin: &str) -> Result<(), String> {
    let changed = session.events.one("SettingChanged", |event| event.text("name") == name)?;
    let right = changed.text("effect") == effect && changed.text("origin") == origin;
    ensure(right, || format!("{changed:?}, but {effect} and {origin} were expected"))?;
    session.events.mark()
}

/// Settings that are changed while the driver runs, with the system's own program.
fn live(
    session: &mut Session,
    run: &Run,
    parameters: &Parameters,
    report: &mut Report,
) -> Result<(), String> {
    let unwatched = session.events.count("SettingsUnwatched")?;
    ensure(unwatched == 0, || "the registry does not tell of changes".to_owned())?;
    let cast = &run.cast;
    let operator = connected(session, cast, &cast.operator, parameters.port)?;
    let observer = connected(session, cast, &cast.observer, parameters.port)?;
    session.events.mark()?;
    let remaining = parameters.peers.first().ok_or("no peers")?;
    session.set(PARAMETERS, "ControlPeers", "REG_MULTI_SZ", remaining)?;
    let ended = end(session, observer.session())?;
    changed(session, "ControlPeers", "now", "registry")?;
    ensure(Peer::connect(cast, &cast.observer, parameters.port).is_err(), || {
        "one who is no peer any more was let in".to_owned()
    })?;
    closed(session, hang_up(operator))?;
    drop(observer);
    report.held(&format!(
        "a peer that is taken out of the registry while the driver runs is ended ({ended:#X}), and is a stranger then"
    ));

    session.events.mark()?;
    session.set(PARAMETERS, "RingRecords", "REG_DWORD", "2048")?;
    changed(session, "RingRecords", "next-start", "registry")?;
    session.set(PARAMETERS, "VerdictSampling", "REG_DWORD", "7")?;
    changed(session, "VerdictSampling", "now", "registry")?;
    session.set(PARAMETERS, "VerdictSampling", "REG_SZ", "hostile")?;
    let refused = session.events.one("SettingRefused", |event| event.text("name") == "VerdictSampling")?;
    ensure(refused.text("reason") == "wrong-type" && refused.text("origin") == "registry", || {
        format!("{refused:?}")
    })?;
    session.events.one("SettingsRead", |_| true)?;
    ensure(session.events.count("SettingChanged")? == 0, || "a refused value was taken".to_owned())?;
    report.held(
        "a change is told with when it takes effect; a value of another type is refused, and changes nothing",
    );

    session.set(PARAMETERS, "VerdictSampling", "REG_DWORD", "7")?;
    session.events.one("SettingsRead", |_| true)?;
    session.events.mark()?;
    session.set(POLICIES, "VerdictSampling", "REG_DWORD", "3")?;
    changed(session, "VerdictSampling", "now", "policy")?;
    let mut operator = connected(session, cast, &cast.operator, parameters.port)?;
    let settings = operator.list(|from| Request::Settings(From { from }))?;
    let row = items(&settings, "settings")?.iter().find(|row| row["name"] == "VerdictSampling").cloned();
    let row = row.unwrap_or_default();
    ensure(row["origin"] == "policy" && row["value"] == 3, || format!("{settings}"))?;
    closed(session, hang_up(operator))?;
    session.events.mark()?;
    session.delete_key(POLICIES)?;
    changed(session, "VerdictSampling", "now", "registry")?;
    report.held("the key of policies comes first while it is there, and whoever asks is told so");

    unload(session)?;
    load(session, &Parameters::new(run)?, 0, report)
}
