//! Peers of the control port, over real TCP.

use serde_json::json;

use super::super::client::Client;
use super::super::events::Event;
use super::super::report::Report;
use super::super::session::Session;
use super::{MAX_SESSIONS, Parameters, ensure};

/// STATUS_CONNECTION_RESET.
const RESET: u32 = 0xC000_020D;
const SUCCESS: u32 = 0;

/// Connects, and waits until the driver tells of it; the session's number.
pub fn accepted(session: &mut Session, port: u16) -> Result<(Client, u64), String> {
    let client = Client::connect(port)?;
    let from = u64::from(client.port());
    let event = session.events.one("ControlAccepted", |event| event.number("remote_port") == Some(from))?;
    let number = event.number("session").ok_or_else(|| format!("no session's number in {event:?}"))?;
    Ok((client, number))
}

/// Waits until the driver has told of the end of a session; its status.
fn end(session: &mut Session, number: u64) -> Result<u32, String> {
    let event = session.events.one("ControlClosed", |event| event.number("session") == Some(number))?;
    event.status().ok_or_else(|| format!("no status in {event:?}"))
}

/// Waits until the driver has told of the end of a session, which must be one in good order.
pub fn closed(session: &mut Session, number: u64) -> Result<(), String> {
    let status = end(session, number)?;
    ensure(status == SUCCESS, || format!("session {number} did not end in good order, but with {status:#X}"))
}

pub fn run(session: &mut Session, parameters: &Parameters, report: &mut Report) -> Result<(), String> {
    session.events.mark()?;
    let (mut client, number) = accepted(session, parameters.port)?;
    for length in [1, 100, 20_000] {
        client.send(&vec![0x57; length])?;
    }
    client.finish()?;
    closed(session, number)?;
    report.held("a session sends, finishes, and is told of as ended in good order");

    let (client, number) = accepted(session, parameters.port)?;
    client.reset()?;
    let status = end(session, number)?;
    ensure(status == RESET, || format!("session {number} was reset and ended with {status:#X}"))?;
    report.held("a session that its peer resets is told of as reset");

    session.events.mark()?;
    let mut clients = Vec::new();
    for _ in 0..MAX_SESSIONS {
        clients.push(accepted(session, parameters.port)?);
    }
    Client::connect_in_vain(parameters.port)?;
    session.events.one("ControlRefused", |_| true)?;
    report.held(&format!("{MAX_SESSIONS} sessions at a time; a further one is refused, and told of"));
    for (client, _) in &mut clients {
        client.send(b"all at once")?;
    }
    let mut numbers = Vec::new();
    for (client, number) in clients {
        client.finish()?;
        numbers.push(number);
    }
    for number in numbers {
        closed(session, number)?;
    }
    report.held("all of them end in good order");

    session.events.mark()?;
    let begin = std::time::Instant::now();
    let count: u32 = 100;
    for _ in 0..count {
        Client::connect(parameters.port)?.finish()?;
    }
    let name = |name: &'static str| move |event: &Event| event.is(name);
    session.events.several("the ends of 100 sessions", 100, name("ControlClosed"))?;
    let seconds = begin.elapsed().as_secs_f64();
    report.held(&format!("{count} sessions one after the other in {seconds:.1} s"));
    report.fact("sessions_per_second", (f64::from(count) / seconds).round());

    session.events.mark()?;
    let mut netio = session.drive("netio")?;
    let (client, number) = accepted(session, parameters.port)?;
    netio.ask(json!({ "op": "drop" }))?;
    let status = end(session, number)?;
    ensure(status != SUCCESS, || format!("session {number} was cut off and ended in good order"))?;
    drop(client);
    session.events.mark()?;
    netio.ask(json!({ "op": "kill-listener" }))?;
    session.events.one("ControlListening", |event| event.number("port") == Some(parameters.port.into()))?;
    let (client, number) = accepted(session, parameters.port)?;
    client.finish()?;
    closed(session, number)?;
    report.held("a session whose connection is cut off is told of; a listener that fails is opened again");
    Ok(())
}
