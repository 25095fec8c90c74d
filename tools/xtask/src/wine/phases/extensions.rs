//! Extension interfaces that WSK has: the scripted provider in netio.sys grants, refuses, fails, lies and storms, and its
//! callbacks come through the driver's gate and ring to its events. `vendors` has those of the registrar.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::control::protocol::message::{From, Request};

use super::super::drive::Channel;
use super::super::events::Event;
use super::super::peer::{Cast, Peer};
use super::super::report::Report;
use super::super::session::{CONNECTION_V1, LABEL_V1, Session};
use super::super::wait;
use super::control::{STATUS, closed, connected, hang_up, items};
use super::{Parameters, ensure};

/// STATUS_NOT_SUPPORTED, and STATUS_NOT_IMPLEMENTED, which says the same: answers of who does not have an interface.
pub const NOT_SUPPORTED: &str = "0xC00000BB";
const NOT_IMPLEMENTED: &str = "0xC0000002";
/// STATUS_INSUFFICIENT_RESOURCES, STATUS_BUFFER_OVERFLOW, STATUS_OBJECT_NAME_EXISTS, STATUS_PENDING: an error, a warning,
/// and two successes that grant nothing.
const OTHER_STATUSES: [u32; 4] = [0xC000_009A, 0x8000_0005, 0x4000_0000, 0x0000_0103];
/// Successes whose tables cannot be used.
pub const LIES: [&str; 4] = ["null", "short", "old", "misaligned"];

/// The events of each interface, all of them.
pub const ALL: [(&str, u64); 2] = [(CONNECTION_V1, 0xF), (LABEL_V1, 0x1)];

/// Bytes as the events have them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// How the provider in WSK answers from here on.
pub fn answer(netio: &mut Channel, npi: &str, answer: &str) -> Result<(), String> {
    netio.ask(json!({ "op": "extension", "npi": npi, "answer": answer })).map(drop)
}

/// Whether an event is of a session and an interface.
pub fn is_of(event: &Event, number: u64, interface: &str) -> bool {
    event.number("session") == Some(number) && event.text("interface").to_lowercase().contains(interface)
}

/// Waits until a session is told to be registered for an interface, with that kind of provider.
pub fn registered(session: &mut Session, number: u64, interface: &str, provider: &str) -> Result<(), String> {
    let wanted = |event: &Event| is_of(event, number, interface) && event.text("provider") == provider;
    session
        .events
        .one("ExtensionRegistered", wanted)
        .map(drop)
        .map_err(|error| format!("session {number} and {interface} by {provider}: {error}"))
}

/// Waits until a registration is told to have ended; how many callbacks it has made.
pub fn detached(session: &mut Session, number: u64, interface: &str, provider: &str) -> Result<u64, String> {
    let wanted = |event: &Event| is_of(event, number, interface) && event.text("provider") == provider;
    let event = session.events.one("ExtensionDetached", wanted);
    let event = event.map_err(|error| format!("session {number} and {interface} by {provider}: {error}"))?;
    event.number("callbacks").ok_or_else(|| format!("no callbacks in {event:?}"))
}

/// How many callbacks since the mark were told, and told as lost.
pub fn told(session: &mut Session) -> Result<(u64, u64), String> {
    let losses =
        session.events.since(|event| event.is("RingLoss") && event.text("kind") == "extension-event")?;
    let lost = losses.iter().filter_map(|event| event.number("count")).sum();
    Ok((session.events.count("ExtensionCallback")?, lost))
}

/// A counter of the driver's, by the protocol.
pub fn counter(peer: &mut Peer, name: &str) -> Result<u64, String> {
    let listed = peer.list(|from| Request::Counters(From { from }))?;
    let found = items(&listed, "counters")?.iter().find(|counter| counter["name"] == name);
    found.and_then(|counter| counter["value"].as_u64()).ok_or_else(|| format!("no counter {name}: {listed}"))
}

/// The sockets of the netio stand-in that are open.
pub fn sockets(netio: &mut Channel) -> Result<Vec<Value>, String> {
    let listed = netio.ask(json!({ "op": "sockets" }))?;
    Ok(items(&listed, "sockets")?.clone())
}

/// Sees that a socket was asked once for each interface, and has it with all of its events.
pub fn all_granted(socket: &Value) -> Result<(), String> {
    let registrations = items(socket, "extensions")?;
    ensure(registrations.len() == ALL.len(), || format!("the registrations of a socket: {socket}"))?;
    for (npi, events) in ALL {
        let right = registrations.iter().any(|registration| {
            registration["npi"] == npi
                && registration["asked"] == 1
                && registration["granted"] == 1
                && registration["status"] == "0x00000000"
                && registration["enabled"] == events
        });
        ensure(right, || format!("the registration of a socket for {npi}: {socket}"))?;
    }
    Ok(())
}

/// Sees that of each open socket: how many there are of each kind.
pub fn socket_by_socket(netio: &mut Channel) -> Result<BTreeMap<String, usize>, String> {
    let mut kinds = BTreeMap::new();
    for socket in sockets(netio)? {
        let kind = socket["kind"].as_str().ok_or_else(|| format!("a socket of no kind: {socket}"))?;
        *kinds.entry(kind.to_owned()).or_default() += 1;
        all_granted(&socket)?;
    }
    Ok(kinds)
}

pub fn run(
    session: &mut Session,
    parameters: &Parameters,
    cast: &Cast,
    report: &mut Report,
) -> Result<(), String> {
    let port = parameters.port;
    let mut netio = session.drive("netio")?;
    granted(session, &mut netio, cast, port, report)?;
    statuses(session, &mut netio, cast, port, report)?;
    inline(session, &mut netio, cast, port, report)?;
    storm(session, &mut netio, cast, port, report)?;
    let counted = netio.ask(json!({ "op": "status" }))?;
    let extensions = &counted["extensions"];
    ensure(extensions["after_close"] == 0 && extensions["functions_after_close"] == 0, || {
        format!("after a socket's close: {extensions}")
    })?;
    report.held(&format!(
        "none of {} callbacks and none of {} calls of the provider's functions ran when its socket's close had completed",
        extensions["callbacks"], extensions["functions"]
    ));
    answer(&mut netio, CONNECTION_V1, "grant")?;
    answer(&mut netio, LABEL_V1, NOT_SUPPORTED)
}

/// Both interfaces on every socket, and the callbacks of one session.
fn granted(
    session: &mut Session,
    netio: &mut Channel,
    cast: &Cast,
    port: u16,
    report: &mut Report,
) -> Result<(), String> {
    session.events.mark()?;
    answer(netio, LABEL_V1, "grant")?;
    netio.ask(json!({ "op": "kill-listener" }))?;
    session.events.one("ControlListening", |_| true)?;
    for (interface, _) in ALL {
        registered(session, 0, interface, "wsk")?;
    }
    let begin = Instant::now();
    let peer = connected(session, cast, &cast.operator, port)?;
    let other = connected(session, cast, &cast.observer, port)?;
    let number = peer.session();
    for (interface, _) in ALL {
        registered(session, number, interface, "wsk")?;
    }
    let kinds = socket_by_socket(netio)?;
    let right = kinds.get("listening") == Some(&1) && kinds.get("accepted") == Some(&2) && kinds.len() == 2;
    ensure(right, || format!("the kinds of sockets: {kinds:?}"))?;
    report.held(
        "the listening socket and each accepted one was asked once for each of two interfaces, by its own functions, and \
         has it with its events on",
    );

    let of_session = |event: &Event| event.is("ExtensionCallback") && event.number("session") == Some(number);
    let callbacks = session.events.several("200 callbacks of one session", 200, of_session)?;
    let codes = |interface: &str| {
        let own = callbacks.iter().filter(|event| is_of(event, number, interface));
        let mut codes: Vec<_> = own.filter_map(|event| event.number("code")).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    };
    let (connection, label) = (codes(CONNECTION_V1), codes(LABEL_V1));
    ensure(connection == [1, 2, 4, 8] && label == [1], || {
        format!("codes of the callbacks: {connection:?}, {label:?}")
    })?;
    let labels = callbacks.iter().filter(|event| is_of(event, number, LABEL_V1));
    // A label's text begins with the word, as far as it reaches.
    let whole = labels.clone().all(|event| {
        let data = event.text("data").to_lowercase();
        let word = hex(b"label ");
        event.text("provider") == "wsk" && (data.starts_with(&word) || word.starts_with(&data))
    });
    let longest = labels.map(|event| event.text("data").len() / 2).max().unwrap_or_default();
    ensure(whole && longest > 6 && longest <= 40, || {
        format!("the labels' texts, the longest of {longest} bytes")
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    report.held("callbacks of every kind of both arrive through the ring, as events, with their data");
    report.fact("callbacks", callbacks.len());
    report.fact("callback_seconds", seconds);

    for peer in [peer, other] {
        let number = hang_up(peer);
        closed(session, number)?;
        for (interface, _) in ALL {
            detached(session, number, interface, "wsk")?;
        }
    }
    netio.ask(json!({ "op": "kill-listener" }))?;
    for (interface, _) in ALL {
        detached(session, 0, interface, "wsk")?;
    }
    session.events.several("the new listening socket", 2, |event| event.is("ControlListening"))?;
    let told = session.events.since(of_session)?.len();
    std::thread::sleep(Duration::from_millis(200));
    let late = session.events.since(of_session)?.len();
    ensure(late == told, || format!("{} callbacks came after the detachment", late - told))?;
    report.held("none comes after the session has ended");
    Ok(())
}

/// What becomes of a session where WSK answers otherwise than by exactly STATUS_SUCCESS and sound tables.
fn statuses(
    session: &mut Session,
    netio: &mut Channel,
    cast: &Cast,
    port: u16,
    report: &mut Report,
) -> Result<(), String> {
    let refusals = [NOT_SUPPORTED, NOT_IMPLEMENTED].map(|status| (status.to_owned(), true, None));
    let failures = OTHER_STATUSES.map(|status| (format!("{status:#X}"), false, Some(status)));
    let lies = LIES.map(|lie| (lie.to_owned(), false, None));
    let mut count = 0;
    for (given, refusal, status) in refusals.into_iter().chain(failures).chain(lies) {
        session.events.mark()?;
        for (interface, _) in ALL {
            answer(netio, interface, &given)?;
        }
        let mut peer = connected(session, cast, &cast.operator, port)?;
        let number = peer.session();
        registered(session, number, CONNECTION_V1, "builtin")?;
        let refused = session.events.one("ExtensionRefused", |event| is_of(event, number, LABEL_V1))?;
        ensure(refused.text("required") == "false", || format!("{given}: {refused:?}"))?;
        let failed = session
            .events
            .since(|event| event.is("ExtensionFailed") && event.number("session") == Some(number))?;
        let right = failed.iter().all(|event| {
            event.text("provider") == "wsk" && status.is_none_or(|status| event.status() == Some(status))
        });
        let wanted = if refusal { 0 } else { ALL.len() };
        ensure(right && failed.len() == wanted, || format!("{given}: failures {failed:?}"))?;
        peer.ask(&STATUS)?;
        closed(session, hang_up(peer))?;
        count += 1;
    }
    report.held(&format!(
        "of {count} answers that grant nothing, each status class and unusable tables among them, each is told for what it is; \
         weir's own provider is had where it can be, and the session goes on"
    ));

    session.events.mark()?;
    for (interface, _) in ALL {
        answer(netio, interface, "bare")?;
    }
    let mut peer = connected(session, cast, &cast.operator, port)?;
    for (interface, _) in ALL {
        registered(session, peer.session(), interface, "wsk")?;
    }
    peer.ask(&STATUS)?;
    closed(session, hang_up(peer))?;
    report.held("a provider all of whose functions are NULL is had all the same");
    Ok(())
}

/// Callbacks from within the registration itself.
fn inline(
    session: &mut Session,
    netio: &mut Channel,
    cast: &Cast,
    port: u16,
    report: &mut Report,
) -> Result<(), String> {
    const INLINE: usize = 7;
    session.events.mark()?;
    pause(netio, true)?;
    for (interface, _) in ALL {
        let wanted = json!({ "op": "extension", "npi": interface, "answer": "grant", "inline": INLINE });
        netio.ask(wanted)?;
    }
    let peer = connected(session, cast, &cast.operator, port)?;
    let number = peer.session();
    for (interface, _) in ALL {
        let own = |event: &Event| event.is("ExtensionCallback") && is_of(event, number, interface);
        session.events.several("callbacks from within a registration", INLINE, own)?;
    }
    closed(session, hang_up(peer))?;
    for (interface, _) in ALL {
        let made = detached(session, number, interface, "wsk")?;
        // One more may come from within the call that enables the events.
        ensure(made == 7 || made == 8, || format!("{interface}: {made} callbacks"))?;
        answer(netio, interface, "grant")?;
    }
    pause(netio, false)?;
    report.held("callbacks from within the registration itself are taken as any others");
    Ok(())
}

/// Has scripted providers call back, or not.
pub fn pause(netio: &mut Channel, on: bool) -> Result<(), String> {
    netio.ask(json!({ "op": "pause", "on": on }))?;
    if on {
        // What is in progress ends.
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The callbacks that the provider in WSK has made so far.
fn made(netio: &mut Channel) -> Result<u64, String> {
    let status = netio.ask(json!({ "op": "status" }))?;
    status["extensions"]["callbacks"].as_u64().ok_or_else(|| format!("no callbacks in {status}"))
}

/// Providers that call back as fast as they can, while sessions come and go.
fn storm(
    session: &mut Session,
    netio: &mut Channel,
    cast: &Cast,
    port: u16,
    report: &mut Report,
) -> Result<(), String> {
    const SESSIONS: usize = 12;
    pause(netio, true)?;
    session.events.mark()?;
    let before = made(netio)?;
    netio.ask(json!({ "op": "storm", "threads": 4, "callbacks": 8000, "milliseconds": 4000 }))?;
    for number in 0..SESSIONS {
        let keys = if number % 2 == 0 { &cast.operator } else { &cast.observer };
        let mut peer = connected(session, cast, keys, port)?;
        peer.ask(&STATUS)?;
        closed(session, hang_up(peer))?;
    }
    let stormed = netio.ask(json!({ "op": "storm-end" }))?["callbacks"].as_u64().unwrap_or_default();
    // Losses are told with the next that is not lost.
    pause(netio, false)?;
    std::thread::sleep(Duration::from_millis(50));
    pause(netio, true)?;
    let made = made(netio)? - before;
    let mut counted = (0, 0);
    let all = wait::until("the account of the callbacks", Duration::from_secs(10), || {
        counted = told(session)?;
        Ok((counted.0 + counted.1 == made).then_some(()))
    });
    let (told, lost) = counted;
    all.map_err(|error| format!("{error}: {made} were made, {told} told, {lost} lost"))?;
    let (begun, ended) = ("ExtensionRegistered", "ExtensionDetached");
    let (begun, ended) = (session.events.count(begun)?, session.events.count(ended)?);
    ensure(begun == ended && begun == 2 * SESSIONS as u64, || format!("{begun} began, {ended} ended"))?;
    pause(netio, false)?;
    report.held(&format!(
        "four threads call back as fast as they can, {stormed} times, while {SESSIONS} sessions come and go: of {made} \
         callbacks {told} are told, {lost} told as lost, and the beginning and the end of every registration"
    ));
    report.fact("storm_callbacks", made);
    report.fact("storm_lost", lost);
    Ok(())
}
