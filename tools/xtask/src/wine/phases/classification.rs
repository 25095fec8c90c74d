//! Traffic that the stand-in for the filtering platform makes, and what the driver decides and tells of it.

use std::net::IpAddr;

use serde_json::json;

use super::super::drive::Channel;
use super::super::events::Event;
use super::super::report::Report;
use super::super::session::Session;
use super::ensure;

/// Flows that are alive at each unload of the cycles, beside those of the load.
pub const FLOWS: usize = 8;

/// A connection, and what [`super::POLICY`] makes of it.
struct Case {
    op: &'static str,
    protocol: &'static str,
    local: &'static str,
    remote: &'static str,
    verdict: &'static str,
    /// The rule's index; none: the default.
    rule: Option<u64>,
}

/// Rule of ConnectionVerdict that stands for the policy's default.
const DEFAULT: u64 = 0xFFFF_FFFF;

const CASES: &[Case] = &[
    case("connect", "tcp", "10.0.0.1:50001", "198.51.100.7:443", "allow", None),
    case("connect", "tcp", "10.0.0.1:50002", "198.51.100.7:23", "block", Some(0)),
    case("connect", "tcp", "10.0.0.1:50003", "198.51.100.7:25", "audit", Some(1)),
    case("accept", "tcp", "10.0.0.1:3389", "203.0.113.9:60001", "block", Some(2)),
    case("accept", "tcp", "10.0.0.1:8080", "203.0.113.9:60002", "allow", None),
    case("connect", "tcp", "[2001:db8::1]:50004", "[2001:db8::7]:23", "block", Some(0)),
    case("connect", "tcp", "[2001:db8::1]:50005", "[2001:db8::7]:443", "allow", None),
    case("connect", "udp", "10.0.0.1:50006", "198.51.100.53:53", "allow", None),
    case("accept", "udp", "10.0.0.1:3389", "203.0.113.9:60003", "allow", None),
];

const fn case(
    op: &'static str,
    protocol: &'static str,
    local: &'static str,
    remote: &'static str,
    verdict: &'static str,
    rule: Option<u64>,
) -> Case {
    Case { op, protocol, local, remote, verdict, rule }
}

/// Whether an event is about this connection.
fn is_about(event: &Event, case: &Case) -> bool {
    let same = |address: &str, port: &str, endpoint: &str| {
        let Ok(endpoint) = endpoint.parse::<std::net::SocketAddr>() else { return false };
        let told = event.text(address).parse::<IpAddr>().map(|address| address.to_canonical());
        told == Ok(endpoint.ip()) && event.number(port) == Some(endpoint.port().into())
    };
    same("local", "local_port", case.local) && same("remote", "remote_port", case.remote)
}

/// Opens each connection, and holds the verdict and the driver's events against the policy.
pub fn verdicts(session: &mut Session) -> Result<usize, String> {
    let mut channel = session.drive("fwpkclnt")?;
    for case in CASES {
        session.events.mark()?;
        let (send, receive) = (5000, 20_000);
        let answer = channel.ask(json!({
            "op": case.op, "protocol": case.protocol, "local": case.local, "remote": case.remote,
            "send": send, "receive": receive,
        }))?;
        let passes = case.verdict != "block";
        let expected = if passes { "permit" } else { "block" };
        let name = format!("{} {} {} {}", case.op, case.protocol, case.local, case.remote);
        ensure(answer["verdict"] == expected, || format!("{name}: {answer}, not {expected}"))?;
        let told = session.events.one("ConnectionVerdict", |event| is_about(event, case))?;
        let rule = case.rule.unwrap_or(DEFAULT);
        let direction = if case.op == "connect" { "out" } else { "in" };
        let right = told.text("verdict") == case.verdict
            && told.number("rule") == Some(rule)
            && told.text("direction") == direction;
        ensure(right, || format!("{name}: not {} by rule {rule}: {told:?}", case.verdict))?;
        if !passes {
            let opened = session.events.since(|event| event.is("FlowOpened") && is_about(event, case))?;
            ensure(opened.is_empty(), || format!("{name} was blocked and opened: {opened:?}"))?;
            continue;
        }
        session.events.one("FlowOpened", |event| is_about(event, case))?;
        let answer = channel.ask(json!({ "op": "close", "id": answer["id"] }))?;
        let closed = session.events.one("FlowClosed", |event| is_about(event, case))?;
        let pairs = [
            ("packets_in", "packets_received"),
            ("packets_out", "packets_sent"),
            ("bytes_in", "bytes_received"),
            ("bytes_out", "bytes_sent"),
        ];
        for (ours, theirs) in pairs {
            let (ours, theirs) = (closed.number(ours), answer["closed"][theirs].as_u64());
            ensure(ours.is_some() && ours == theirs, || format!("{name}: {closed:?}, but {answer}"))?;
        }
        ensure(closed.text("verdict") == case.verdict, || format!("{name}: {closed:?}"))?;
    }
    Ok(CASES.len())
}

/// Sums a field over events.
fn sum(events: &[Event], field: &str) -> u64 {
    events.iter().filter_map(|event| event.number(field)).sum()
}

/// Thousands of connections on several threads: what becomes of each is told, or counted as lost.
fn load(session: &mut Session, report: &mut Report) -> Result<(), String> {
    const THREADS: u64 = 4;
    const CONNECTIONS: u64 = 250;
    session.events.mark()?;
    let mut channel = session.drive("fwpkclnt")?;
    let begun = channel.ask(json!({
        "op": "load", "threads": THREADS, "connections": CONNECTIONS, "send": 3000, "receive": 3000, "hold": 4,
        "remotes": ["198.51.100.1:443", "198.51.100.2:443", "198.51.100.3:23", "198.51.100.4:23"],
    }))?;
    let ended = channel.ask(json!({ "op": "load_wait", "load": begun["load"], "stop": false }))?;
    let (permitted, blocked) = (ended["permitted"].as_u64(), ended["blocked"].as_u64());
    let (Some(permitted), Some(blocked)) = (permitted, blocked) else {
        return Err(format!("the load: {ended}"));
    };
    ensure(permitted + blocked == THREADS * CONNECTIONS && permitted != 0 && blocked != 0, || {
        format!("the load: {ended}")
    })?;
    let count = usize::try_from(permitted).unwrap_or(usize::MAX);
    session.events.several("the ends of all connections", count, |event| event.is("FlowClosed"))?;
    let verdicts = session.events.since(|event| event.is("ConnectionVerdict"))?.len() as u64;
    let closed = session.events.since(|event| event.is("FlowClosed"))?;
    let lost = sum(&session.events.since(|event| event.is("RingLoss"))?, "count");
    ensure(closed.len() as u64 == permitted, || format!("{permitted} connections, {} ends", closed.len()))?;
    ensure(verdicts + lost >= permitted + blocked, || {
        format!("{permitted} permitted, {blocked} blocked, {verdicts} verdicts told, {lost} records lost")
    })?;
    report.held(&format!(
        "{permitted} connections permitted and {blocked} blocked on {THREADS} threads: the end of each permitted one \
         is told, {verdicts} verdicts are told and {lost} records lost"
    ));
    report.fact("load", ended);
    Ok(())
}

/// The base filtering engine stops and starts again.
fn engine(session: &mut Session, channel: &mut Channel) -> Result<(), String> {
    session.events.mark()?;
    for state in ["stop_pending", "stopped"] {
        channel.ask(json!({ "op": "bfe", "state": state }))?;
    }
    session.events.one("FiltersGone", |_| true)?;
    for state in ["start_pending", "running"] {
        channel.ask(json!({ "op": "bfe", "state": state }))?;
    }
    session.events.one("FiltersInForce", |_| true)?;
    Ok(())
}

/// Opens connections that stay open, and begins a load that goes on until its process ends.
pub fn keep_alive(channel: &mut Channel) -> Result<(), String> {
    for number in 0..FLOWS {
        let remote = format!("198.51.100.{}:443", number + 10);
        let answer =
            channel.ask(json!({ "op": "connect", "remote": remote, "send": 2000, "receive": 2000 }))?;
        ensure(answer["verdict"] == "permit", || format!("{remote}: {answer}"))?;
    }
    // Long connections, so that most of what the driver does is counting packets, not telling of connections.
    channel.ask(json!({
        "op": "load", "threads": 2, "send": 2_000_000, "receive": 2_000_000, "hold": 8,
        "remotes": ["198.51.100.1:443", "198.51.100.2:25", "198.51.100.3:23", "[2001:db8::9]:443"],
    }))?;
    Ok(())
}

pub fn run(session: &mut Session, report: &mut Report) -> Result<(), String> {
    let count = verdicts(session)?;
    report.held(&format!(
        "{count} connections, in and out, TCP and UDP, IPv4 and IPv6: each verdict is the policy's, told with its \
         rule; counters of packets and bytes agree with what was sent"
    ));
    load(session, report)?;
    let mut channel = session.drive("fwpkclnt")?;
    engine(session, &mut channel)?;
    verdicts(session)?;
    report.held("the filtering engine stops and starts again: told, and the policy decides again");
    let callouts = channel.ask(json!({ "op": "callouts" }))?;
    let contexts = callouts["callouts"]
        .as_array()
        .map(|all| all.iter().filter_map(|callout| callout["flow_contexts"].as_u64()).sum::<u64>());
    ensure(contexts == Some(0), || format!("flow contexts are left, though no flow is: {callouts}"))?;
    report.held("no flow context is left once no flow is");
    Ok(())
}
