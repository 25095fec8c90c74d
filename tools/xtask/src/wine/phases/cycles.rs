//! Load and unload, again and again, each time with everything alive at the unload: control sessions that have sent half
//! of what they meant to, extension callbacks under way, flows with contexts, traffic on them.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::super::Run;
use super::super::client::Raw;
use super::super::logs::GAP;
use super::super::peer::{Cast, Peer};
use super::super::report::Report;
use super::super::session::{Netio, SAMPLE, Session};
use super::control::{STATUS, accepted, connected};
use super::{Parameters, classification, ensure, left_behind, subscribers, told, unload, vendors};

/// Sessions that are open at each unload: two that have asked, one that follows events and does not read, one that has not
/// said who it is.
const SESSIONS: usize = 4;

/// In every cycle of such a number the sample of a vendor's driver is loaded, too, and unloaded after weir.
const VENDOR: u32 = 4;

pub fn cycles(run: &Run, count: u32, report: &mut Report) {
    let logs = run.logs.join("cycles");
    let _told = report.phase("load and unload under load", |report| {
        told(&logs.clone(), under_load(run, count, logs, report))
    });
}

fn under_load(run: &Run, count: u32, logs: PathBuf, report: &mut Report) -> Result<(), String> {
    let mut session = Session::start(&run.wine, &run.prefix, &run.files, Netio::StandIn, logs)?;
    // Its peers do not finish, so the stop waits this long for each cycle's sessions.
    let parameters = Parameters { shutdown_milliseconds: 300, ..Parameters::new(run)? };
    parameters.configure(&session)?;
    session.create_service()?;
    session.add_driver(SAMPLE, &run.files.sample)?;
    let begin = Instant::now();
    let mut callbacks = 0;
    for number in 1..=count {
        callbacks += cycle(&mut session, &parameters, &run.cast, number)
            .map_err(|error| format!("cycle {number} of {count}: {error}"))?;
        if number % 10 == 0 || number == count {
            let seconds = begin.elapsed().as_secs_f64();
            report.say(&format!("   {number} of {count} cycles, {:.2} s each", seconds / f64::from(number)));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    report.held(&format!(
        "{count} times loaded, and unloaded with {SESSIONS} sessions, {} flows and extension callbacks alive",
        classification::FLOWS
    ));
    report.fact("cycles", count);
    report.fact("seconds_per_cycle", seconds / f64::from(count.max(1)));
    report.fact("extension_callbacks", callbacks);
    let searched = super::super::logs::search(&session.logs, &[GAP])?;
    report.held(&format!("{searched} logs tell of no crash"));
    Ok(())
}

/// One cycle; how many extension callbacks it has seen.
///
/// In every other one the platform deletes flow contexts on a thread of its own, later than it is asked to; in every
/// fifth the filtering engine is about to stop when the driver is unloaded. Extension callbacks come from WSK and from vendors'
/// modules, which in every other cycle have both interfaces.
fn cycle(session: &mut Session, parameters: &Parameters, cast: &Cast, number: u32) -> Result<u64, String> {
    session.events.mark()?;
    session.load()?;
    session.events.one("FiltersInForce", |_| true)?;
    session.events.one("ControlListening", |_| true)?;
    let vendor = number.is_multiple_of(VENDOR);
    if vendor {
        session.load_driver(SAMPLE)?;
    }
    let mut netio = session.drive("netio")?;
    vendors::call_back(&mut netio, number)?;
    let mut peers: Vec<Peer> = Vec::new();
    for keys in [&cast.operator, &cast.observer] {
        let mut peer = connected(session, cast, keys, parameters.port)?;
        peer.ask(&STATUS)?;
        peers.push(peer);
    }
    let mut others: Vec<Raw> = vec![subscribers::stalled(cast, parameters.port)?];
    others.push(accepted(session, parameters.port)?.0);
    for provider in ["wsk", "nmr"] {
        session.events.one("ExtensionCallback", |event| event.text("provider") == provider)?;
    }
    let mut channel = session.drive("fwpkclnt")?;
    channel.ask(json!({ "op": "asynchronous_delete", "on": number.is_multiple_of(2) }))?;
    classification::keep_alive(&mut channel)?;
    if number.is_multiple_of(5) {
        channel.ask(json!({ "op": "bfe", "state": "stop_pending" }))?;
    }
    unload(session)?;
    if vendor {
        vendors::are_alone(&mut netio)?;
        session.unload_driver(SAMPLE)?;
        left_behind(session, SAMPLE, (number / VENDOR) as usize)?;
    }
    for (begun, ended) in [("ControlAccepted", "ControlClosed"), ("ExtensionRegistered", "ExtensionDetached")]
    {
        let (begun_count, ended_count) = (session.events.count(begun)?, session.events.count(ended)?);
        ensure(begun_count == ended_count && begun_count != 0, || {
            format!("{begun_count} {begun} and {ended_count} {ended}")
        })?;
    }
    // What is told of a connection before its end is telemetry, and may be lost; its end may not. One that was allowed,
    // and not established yet when the driver stopped, has an end and no opening.
    let summaries = session.events.since(|event| event.is("RingSummary"))?;
    let lost: u64 = summaries.iter().filter_map(|event| event.number("lost")).sum();
    let allowed =
        session.events.since(|event| event.is("ConnectionVerdict") && event.text("verdict") != "block")?;
    let allowed = allowed.len() as u64;
    let (opened, closed) = (session.events.count("FlowOpened")?, session.events.count("FlowClosed")?);
    let whole = !summaries.is_empty() && opened >= classification::FLOWS as u64;
    ensure(whole && opened <= closed && closed <= allowed + lost, || {
        format!("{allowed} allowed, {opened} FlowOpened, {closed} FlowClosed, {lost} records lost")
    })?;
    session.events.count("ExtensionCallback")
}
