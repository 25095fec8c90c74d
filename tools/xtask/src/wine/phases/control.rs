//! The control port: sessions of the protocol over real TCP, as many as there may be, and who is not let in.

use serde_json::{Value, json};
use weir::control::protocol::message::{Empty, ErrorCode, From, Generation, Hello, Request, Tuple};
use weir::control::protocol::noise::Keys;
use weir::policy::Direction;

use super::super::client::Raw;
use super::super::events::Event;
use super::super::peer::{Cast, Peer};
use super::super::report::Report;
use super::super::session::Session;
use super::{MAX_SESSIONS, Parameters, RULES, ensure};

/// STATUS_CONNECTION_RESET.
const RESET: u32 = 0xC000_020D;
/// STATUS_ACCESS_DENIED.
const DENIED: u32 = 0xC000_0022;
const SUCCESS: u32 = 0;

pub const STATUS: Request<'_> = Request::Status(Empty {});

pub const fn sessions(from: Option<u32>) -> Request<'static> {
    Request::Sessions(From { from })
}

/// Connects without the protocol, and waits until the driver tells of it; the session's number.
pub fn accepted(session: &mut Session, port: u16) -> Result<(Raw, u64), String> {
    let client = Raw::connect(port)?;
    let from = u64::from(client.port());
    let event = session.events.one("ControlAccepted", |event| event.number("remote_port") == Some(from))?;
    let number = event.number("session").ok_or_else(|| format!("no session's number in {event:?}"))?;
    Ok((client, number))
}

/// Connects as a peer, and sees that the driver tells of it.
pub fn connected(session: &mut Session, cast: &Cast, keys: &Keys, port: u16) -> Result<Peer, String> {
    let peer = Peer::connect(cast, keys, port)?;
    let told = session
        .events
        .one("ControlAuthenticated", |event| event.number("session") == Some(peer.session()))?;
    ensure(told.text("peer") == peer.welcome.peer, || format!("{told:?}, but {:?}", peer.welcome))?;
    Ok(peer)
}

/// Waits until the driver has told of the end of a session; its status.
pub fn end(session: &mut Session, number: u64) -> Result<u32, String> {
    let event = session.events.one("ControlClosed", |event| event.number("session") == Some(number))?;
    event.status().ok_or_else(|| format!("no status in {event:?}"))
}

/// Waits until the driver has told of the end of a session, which must be one in good order.
pub fn closed(session: &mut Session, number: u64) -> Result<(), String> {
    let status = end(session, number)?;
    ensure(status == SUCCESS, || format!("session {number} did not end in good order, but with {status:#X}"))
}

/// The items of a list in a reply.
pub fn items<'v>(reply: &'v Value, field: &str) -> Result<&'v Vec<Value>, String> {
    reply[field].as_array().ok_or_else(|| format!("no {field} in {reply}"))
}

/// What each request is answered with.
fn requests(peer: &mut Peer, other: &Peer) -> Result<usize, String> {
    let status = peer.ask(&STATUS)?;
    let right = status["filters"] == true
        && status["policy"] == "confirmed"
        && status["rules"] == RULES
        && status["generation"] == 1
        && status["sessions"] == 2
        && status["degraded"] == 0;
    ensure(right, || format!("status: {status}"))?;
    let counters = peer.list(|from| Request::Counters(From { from }))?;
    ensure(items(&counters, "counters")?.len() > 5, || format!("counters: {counters}"))?;
    let listed = peer.list(sessions)?;
    for (number, name) in [(peer.session(), "operator"), (other.session(), "observer")] {
        let found = items(&listed, "sessions")?.iter().find(|listed| listed["session"] == number);
        let found = found.ok_or_else(|| format!("session {number} is not listed: {listed}"))?;
        let right = found["peer"] == name
            && found["role"] == name
            && found["state"] == "open"
            && found["dialled"] == false
            && found["remote"] == "127.0.0.1";
        ensure(right, || format!("session {number}: {found}"))?;
    }
    let extensions = peer.list(|from| Request::Extensions(From { from }))?;
    let registered =
        |extension: &&Value| extension["state"] == "registered" && extension["provider"] == "wsk";
    let count = items(&extensions, "extensions")?.iter().filter(registered).count();
    ensure(count >= 2, || format!("extensions: {extensions}"))?;
    let policy = peer.list(|from| Request::PolicyShow(From { from }))?;
    let names: Vec<_> = items(&policy, "rules")?.iter().map(|rule| rule["name"].as_str()).collect();
    let wanted = [Some("no-telnet"), Some("mail-is-looked-at"), Some("no-visitors")];
    ensure(names == wanted, || format!("rules: {policy}"))?;
    let tuple =
        Tuple { direction: Direction::Out, protocol: Some(6), remote_port: Some(23), ..super::NO_TUPLE };
    let explained = peer.ask(&Request::Explain(tuple))?;
    ensure(explained["action"] == "block" && explained["rule"] == 0, || format!("explain: {explained}"))?;
    Ok(6)
}

pub fn run(
    session: &mut Session,
    parameters: &Parameters,
    cast: &Cast,
    report: &mut Report,
) -> Result<(), String> {
    let port = parameters.port;
    session.events.mark()?;
    let mut operator = connected(session, cast, &cast.operator, port)?;
    let mut observer = connected(session, cast, &cast.observer, port)?;
    let sockets = session.drive("netio")?.ask(json!({ "op": "sockets" }))?;
    let listening = items(&sockets, "sockets")?.iter().filter(|socket| socket["category"] == "listen");
    let secured: Vec<_> = listening.map(|socket| socket["secured"] == true).collect();
    ensure(secured == [true], || format!("listeners with a security descriptor: {sockets}"))?;
    report.held("the listening socket has a security descriptor");
    let asked = requests(&mut operator, &observer)?;
    report.held(&format!(
        "an operator and an observer are known by their keys; {asked} kinds of requests are answered"
    ));

    let confirm = Request::PolicyConfirm(Generation { generation: 1 });
    let why = observer.refused(&confirm)?;
    ensure(why == ErrorCode::NotPermitted, || format!("an observer's confirm: {why:?}"))?;
    let why = operator.refused(&Request::Hello(Hello { version: 0, client: None }))?;
    ensure(why == ErrorCode::Version, || format!("version 0: {why:?}"))?;
    report.held("an observer may not change the policy; a version that nobody speaks is told");

    let refused = Peer::connect(cast, &cast.stranger, port).err();
    let refused = refused.ok_or("a stranger was let in")?;
    let told = session.events.one("ControlRejected", |_| true)?;
    ensure(told.status() == Some(DENIED), || format!("{told:?}"))?;
    ensure(refused.contains("closed the connection"), || format!("a stranger learned more: {refused}"))?;
    report.held("a stranger's connection is closed without an answer, and told of");

    let (operator, observer) = (hang_up(operator), hang_up(observer));
    for number in [operator, observer] {
        closed(session, number)?;
    }
    report.held("sessions whose peers hang up are told of as ended in good order");

    let (client, number) = accepted(session, port)?;
    client.reset()?;
    let status = end(session, number)?;
    ensure(status == RESET, || format!("session {number} was reset and ended with {status:#X}"))?;
    report.held("a session that its peer resets is told of as reset");

    many(session, cast, port, report)?;
    cut_off(session, cast, port, report)
}

/// Ends a session; its number.
pub fn hang_up(peer: Peer) -> u64 {
    let number = peer.session();
    drop(peer);
    number
}

/// As many sessions as there may be, and one more; and one after the other.
fn many(session: &mut Session, cast: &Cast, port: u16, report: &mut Report) -> Result<(), String> {
    session.events.mark()?;
    let mut peers = Vec::new();
    for number in 0..MAX_SESSIONS {
        // The last places are for operators.
        let keys = if number < MAX_SESSIONS / 2 { &cast.observer } else { &cast.operator };
        peers.push(connected(session, cast, keys, port)?);
    }
    Raw::connect_in_vain(port)?;
    session.events.one("ControlRefused", |_| true)?;
    report.held(&format!("{MAX_SESSIONS} sessions at a time; a further one is refused, and told of"));
    for peer in &mut peers {
        peer.ask(&STATUS)?;
    }
    let numbers: Vec<_> = peers.into_iter().map(hang_up).collect();
    for number in numbers {
        closed(session, number)?;
    }
    report.held("all of them are answered, and end in good order");

    session.events.mark()?;
    let begin = std::time::Instant::now();
    let count: u32 = 100;
    for _ in 0..count {
        let mut peer = Peer::connect(cast, &cast.operator, port)?;
        peer.ask(&STATUS)?;
    }
    let name = |name: &'static str| move |event: &Event| event.is(name);
    session.events.several("the ends of 100 sessions", 100, name("ControlClosed"))?;
    let seconds = begin.elapsed().as_secs_f64();
    report.held(&format!(
        "{count} sessions one after the other, a handshake and a request each, in {seconds:.1} s"
    ));
    report.fact("sessions_per_second", (f64::from(count) / seconds).round());

    let mut peer = connected(session, cast, &cast.operator, port)?;
    let begin = std::time::Instant::now();
    let count = 500;
    for _ in 0..count {
        peer.ask(&STATUS)?;
    }
    let rate = (f64::from(count) / begin.elapsed().as_secs_f64()).round();
    report.held(&format!("{count} requests one after the other, {rate} a second"));
    report.fact("requests_per_second", rate);
    closed(session, hang_up(peer))
}

/// Connections and listeners that fail.
fn cut_off(session: &mut Session, cast: &Cast, port: u16, report: &mut Report) -> Result<(), String> {
    session.events.mark()?;
    let mut netio = session.drive("netio")?;
    let peer = connected(session, cast, &cast.operator, port)?;
    netio.ask(json!({ "op": "drop" }))?;
    let status = end(session, peer.session())?;
    ensure(status != SUCCESS, || format!("session {} was cut off and ended in good order", peer.session()))?;
    drop(peer);
    session.events.mark()?;
    netio.ask(json!({ "op": "kill-listener" }))?;
    session.events.one("ControlListening", |event| event.number("port") == Some(port.into()))?;
    let peer = connected(session, cast, &cast.observer, port)?;
    closed(session, hang_up(peer))?;
    report.held("a session whose connection is cut off is told of; a listener that fails is opened again");
    Ok(())
}
