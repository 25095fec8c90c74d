//! Extension callbacks of the scripted provider in netio.sys: through the driver's gate and ring, to its events.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::events::Event;
use super::super::peer::Cast;
use super::super::report::Report;
use super::super::session::{CONNECTION_V1, Session};
use super::control::{closed, connected, hang_up};
use super::{Parameters, ensure};

/// STATUS_NOT_SUPPORTED.
const NOT_SUPPORTED: u32 = 0xC000_00BB;

pub fn run(
    session: &mut Session,
    parameters: &Parameters,
    cast: &Cast,
    report: &mut Report,
) -> Result<(), String> {
    session.events.mark()?;
    let begin = Instant::now();
    let peer = connected(session, cast, &cast.operator, parameters.port)?;
    let number = peer.session();
    let registered =
        session.events.one("ExtensionRegistered", |event| event.number("session") == Some(number))?;
    ensure(registered.text("interface").to_lowercase().contains(CONNECTION_V1), || {
        format!("{registered:?}")
    })?;
    ensure(registered.text("provider") == "wsk", || format!("not WSK's provider: {registered:?}"))?;
    report.held("a session is registered for connection_v1, with the provider in WSK");

    let of_session = |event: &Event| event.is("ExtensionCallback") && event.number("session") == Some(number);
    let callbacks = session.events.several("100 callbacks of one session", 100, of_session)?;
    let mut codes: Vec<_> = callbacks.iter().filter_map(|event| event.number("code")).collect();
    codes.sort_unstable();
    codes.dedup();
    ensure(codes == [1, 2, 4, 8], || format!("codes of the callbacks: {codes:?}"))?;
    let seconds = begin.elapsed().as_secs_f64();
    report.held("its callbacks of every kind arrive through the ring, as events");

    closed(session, hang_up(peer))?;
    let detached =
        session.events.one("ExtensionDetached", |event| event.number("session") == Some(number))?;
    let told = session.events.since(of_session)?.len();
    let made = detached.number("callbacks").unwrap_or_default();
    let lost: u64 = session
        .events
        .since(|event| event.is("RingLoss") && event.text("kind") == "extension-event")?
        .iter()
        .filter_map(|event| event.number("count"))
        .sum();
    ensure(made == told as u64 + lost, || format!("{made} callbacks were made, {told} told, {lost} lost"))?;
    report.held(&format!("every callback is accounted for: {made} made, {told} told, {lost} lost"));
    report.fact("callbacks", told);
    report.fact("callback_seconds", seconds);

    std::thread::sleep(Duration::from_millis(200));
    let late = session.events.since(of_session)?.len();
    ensure(late == told, || format!("{} callbacks came after the detachment", late - told))?;
    report.held("none comes after the session has ended");

    session.events.mark()?;
    let mut netio = session.drive("netio")?;
    netio.ask(json!({ "op": "extension", "npi": CONNECTION_V1, "answer": format!("{NOT_SUPPORTED:#X}") }))?;
    let peer = connected(session, cast, &cast.operator, parameters.port)?;
    let number = peer.session();
    let refused = session.events.one("ExtensionRefused", |event| event.number("session") == Some(number))?;
    ensure(refused.status() == Some(NOT_SUPPORTED), || format!("{refused:?}"))?;
    closed(session, hang_up(peer))?;
    netio.ask(json!({ "op": "extension", "npi": CONNECTION_V1, "answer": "grant" }))?;
    report.held("where WSK does not have the interface the session goes on without it, and that is told");
    Ok(())
}
