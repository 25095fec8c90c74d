//! Those who follow events: what they are told adds up, and one that does not read holds nobody up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir::control::protocol::message::{Answer, From, Request, Subscribe, Unsubscribe};
use weir::trace::Keywords;
use weir_cli::client::{Message, json as readable};

use super::super::client::{First, HELLO, Raw, frame};
use super::super::peer::{Cast, Peer};
use super::super::report::Report;
use super::super::session::Session;
use super::super::wait;
use super::control::{STATUS, connected, hang_up, items, sessions};
use super::{Parameters, ensure};

/// Verdicts, openings and ends of connections: no callbacks of extensions, which never cease.
const OF_CONNECTIONS: Option<u64> = Some(Keywords::VERDICT.union(Keywords::FLOW).bits());

/// How many were lost, by a list of losses.
fn sum(losses: &Value) -> u64 {
    losses.as_array().into_iter().flatten().filter_map(|loss| loss["count"].as_u64()).sum()
}

/// What a subscription has brought so far.
#[derive(Default)]
struct Followed {
    /// By their names.
    events: Vec<Value>,
    lost: u64,
    snapshot_ended: bool,
}

impl Followed {
    fn count(&self, name: &str) -> u64 {
        self.events.iter().filter(|event| event["event"] == name).count() as u64
    }

    /// Takes in what comes until nothing does for `patience`, or `enough` says so.
    fn read(
        &mut self,
        peer: &mut Peer,
        follower: &mut weir_cli::client::Follower,
        patience: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        while !enough(self) {
            let Some(message) = peer.next(follower, patience)? else { break };
            self.take(&message);
        }
        Ok(())
    }

    fn take(&mut self, message: &Message) {
        let Ok(Answer::Events(events)) = message.answer() else { return };
        self.events.extend(events.events.iter().map(|event| readable::event(&event)));
        self.snapshot_ended |= events.snapshot_end == Some(true);
        self.lost += sum(&readable::losses(&events));
    }
}

/// How many events about connections the driver has written since the mark.
fn count_written(session: &mut Session) -> Result<u64, String> {
    const EVENTS: [&str; 3] = ["ConnectionVerdict", "FlowOpened", "FlowClosed"];
    EVENTS.iter().map(|name| session.events.count(name)).sum()
}

/// A subscriber that reads, while connections are decided on.
pub fn follow(session: &mut Session, cast: &Cast, port: u16, report: &mut Report) -> Result<(), String> {
    const OPEN: u64 = 5;
    const CONNECTIONS: u64 = 400;
    let mut channel = session.drive("fwpkclnt")?;
    for number in 0..OPEN {
        channel.ask(json!({ "op": "connect", "remote": format!("198.51.100.{number}:443") }))?;
    }
    let mut peer = connected(session, cast, &cast.observer, port)?;
    let listed = peer.list(|from| Request::Connections(From { from }))?;
    ensure(items(&listed, "connections")?.len() as u64 == OPEN, || format!("connections: {listed}"))?;
    let subscribe =
        Subscribe { credit: 2000, level: Some(5), keywords: OF_CONNECTIONS, ids: None, snapshot: Some(true) };
    let mut following = peer.follow(subscribe)?;
    let mut followed = Followed::default();
    followed.read(&mut peer, &mut following, Duration::from_secs(2), |followed| followed.snapshot_ended)?;
    let told = followed.count("FlowOpened");
    ensure(followed.snapshot_ended && told >= OPEN, || {
        format!("a snapshot of {told} connections, not {OPEN}")
    })?;
    report.held(&format!("a subscriber is told of the {OPEN} connections that are open already, first"));

    session.events.mark()?;
    let begin = Instant::now();
    let load = channel.ask(json!({
        "op": "load", "threads": 2, "connections": CONNECTIONS / 2, "send": 500, "receive": 500, "hold": 4,
        "remotes": ["198.51.100.1:443", "198.51.100.3:23"],
    }))?;
    let mut followed = Followed::default();
    let all = |followed: &Followed| followed.count("ConnectionVerdict") + followed.lost >= CONNECTIONS;
    followed.read(&mut peer, &mut following, Duration::from_secs(3), all)?;
    let seconds = begin.elapsed().as_secs_f64();
    channel.ask(json!({ "op": "load_wait", "load": load["load"], "stop": false }))?;
    followed.read(&mut peer, &mut following, Duration::from_millis(500), |_| false)?;
    let (verdicts, ends) = (followed.count("ConnectionVerdict"), followed.count("FlowClosed"));
    let (told, written) = (followed.events.len() as u64, count_written(session)?);
    ensure(told + followed.lost == written && verdicts != 0, || {
        format!(
            "{written} events were written, {told} told ({verdicts} verdicts), and {} lost",
            followed.lost
        )
    })?;
    let ended = peer.stop(following)?;
    report.held(&format!(
        "events follow while {CONNECTIONS} connections are decided on: of {written} {told} are told ({verdicts} verdicts, \
         {ends} ends), the {} others as lost, in {seconds:.1} s; {} sent in all",
        followed.lost, ended["sent"]
    ));
    report.fact("events_followed", followed.events.len());
    channel.ask(json!({ "op": "close" }))?;
    hang_up(peer);

    for (credit, about) in
        [(10, "with credit for 10 events"), (1_000_000, "who reads late is told as much as is kept")]
    {
        let (sent, lost) = unread(session, cast, port, credit)?;
        ensure(u64::from(credit) >= sent, || format!("{sent} events sent with credit for {credit}"))?;
        report.held(&format!("{about}: {sent} are sent, and the {lost} others are counted as lost"));
    }
    Ok(())
}

/// A subscriber that reads when all is over; how many events were sent, and how many lost.
fn unread(session: &mut Session, cast: &Cast, port: u16, credit: u32) -> Result<(u64, u64), String> {
    const CONNECTIONS: u64 = 2000;
    let mut channel = session.drive("fwpkclnt")?;
    let mut peer = connected(session, cast, &cast.observer, port)?;
    let subscribe = Subscribe { credit, level: Some(5), keywords: OF_CONNECTIONS, ids: None, snapshot: None };
    session.events.mark()?;
    let subscription = peer.subscribe(subscribe)?;
    let load = channel.ask(json!({
        "op": "load", "threads": 2, "connections": CONNECTIONS / 2, "send": 500, "receive": 500, "hold": 4,
        "remotes": ["198.51.100.1:443"],
    }))?;
    channel.ask(json!({ "op": "load_wait", "load": load["load"], "stop": false }))?;
    // What was lost is told without credit.
    let mut followed = Followed::default();
    while let Some(message) = peer.events(Duration::from_millis(500))? {
        followed.take(&message);
    }
    let ended = peer.ask(&Request::Unsubscribe(Unsubscribe { subscription }))?;
    let sent = ended["sent"].as_u64().unwrap_or(0);
    let lost = followed.lost + sum(&ended["lost"]);
    let written = count_written(session)?;
    let right = sent == followed.events.len() as u64 && lost + sent == written;
    ensure(right, || {
        format!("credit for {credit}: {} events of {written}, {lost} lost; {ended}", followed.events.len())
    })?;
    hang_up(peer);
    Ok((sent, lost))
}

/// A subscriber that gives credit without end and never reads.
pub fn stalled(cast: &Cast, port: u16) -> Result<Raw, String> {
    let mut client = Raw::connect(port)?;
    client.take_little()?;
    let mut transport = client.shake_hands(First::new(cast, &cast.observer)?)?;
    let hello = frame(&mut transport, &HELLO)?;
    client.send(&hello)?;
    let all = Subscribe { credit: u32::MAX, level: Some(5), keywords: None, ids: None, snapshot: Some(true) };
    let subscribe = frame(&mut transport, &Request::Subscribe(all))?;
    client.send(&subscribe)?;
    Ok(client)
}

/// The sessions of subscribers that do not read.
fn stalled_ones(peer: &mut Peer) -> Result<Vec<Value>, String> {
    let listed = peer.list(sessions)?;
    let all = items(&listed, "sessions")?;
    Ok(all.iter().filter(|session| session["peer"] == "observer").cloned().collect())
}

/// How many events were lost for them; `None`: there is none of them any more.
fn lost_of(stalled: &[Value]) -> Option<u64> {
    let lost = stalled.iter().filter_map(|session| session["lost"].as_u64()).sum();
    (!stalled.is_empty()).then_some(lost)
}

fn never_reads(session: &mut Session, cast: &Cast, port: u16, report: &mut Report) -> Result<(), String> {
    const STALLED: usize = 3;
    session.events.mark()?;
    let mut peer = connected(session, cast, &cast.operator, port)?;
    let clients = (0..STALLED).map(|_| stalled(cast, port)).collect::<Result<Vec<_>, _>>()?;
    let mut channel = session.drive("fwpkclnt")?;
    let load = channel.ask(json!({
        "op": "load", "threads": 2, "send": 200, "receive": 200, "hold": 4,
        "remotes": ["198.51.100.1:443", "198.51.100.2:25", "198.51.100.3:23"],
    }))?;
    let mut slowest = Duration::ZERO;
    let begin = Instant::now();
    let mut asked = 0;
    // On a busy machine it takes a while until what they do not read fills everything.
    while begin.elapsed() < Duration::from_secs(3)
        || (begin.elapsed() < Duration::from_secs(15) && lost_of(&stalled_ones(&mut peer)?) == Some(0))
    {
        let before = Instant::now();
        peer.ask(&STATUS)?;
        slowest = slowest.max(before.elapsed());
        asked += 1;
    }
    let told = channel.ask(json!({ "op": "load_wait", "load": load["load"], "stop": true }))?;
    ensure(slowest < Duration::from_secs(2), || {
        format!("a request took {slowest:?} beside subscribers that do not read")
    })?;
    let stalled = stalled_ones(&mut peer)?;
    let lost = lost_of(&stalled).unwrap_or_default();
    // One that takes nothing for long is ended, which is told as well.
    let ended = session.events.count("ControlClosed")?;
    ensure(stalled.len() as u64 + ended == STALLED as u64, || format!("{ended} ended, and {stalled:?}"))?;
    ensure(lost > 0 || stalled.is_empty(), || {
        format!("nothing is lost for those who do not read: {stalled:?}")
    })?;
    report.held(&format!(
        "{STALLED} subscribers that never read, while {} connections are decided on: {asked} requests of another are \
         answered, in {:.0} ms at most; {lost} events are lost for those who do not read, of whom {ended} were ended",
        told["permitted"].as_u64().unwrap_or(0) + told["blocked"].as_u64().unwrap_or(0),
        slowest.as_secs_f64() * 1000.0
    ));
    drop(clients);
    wait::until("the end of the subscribers", Duration::from_secs(15), || {
        let listed = peer.list(sessions)?;
        Ok((items(&listed, "sessions")?.len() == 1).then_some(()))
    })?;
    hang_up(peer);
    Ok(())
}

pub fn run(
    session: &mut Session,
    parameters: &Parameters,
    cast: &Cast,
    report: &mut Report,
) -> Result<(), String> {
    session.events.mark()?;
    follow(session, cast, parameters.port, report)?;
    never_reads(session, cast, parameters.port, report)
}
