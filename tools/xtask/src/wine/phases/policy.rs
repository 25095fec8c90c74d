//! Policies from remote: each decides at once, and stays only if it is confirmed; a confirmed one outlives the driver.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use weir::control::protocol::message::{ErrorCode, Generation, Request};
use weir_cli::client::upload;

use super::super::Run;
use super::super::report::Report;
use super::super::session::Session;
use super::control::{STATUS, connected, hang_up};
use super::{POLICY, Parameters, ensure, load, unload};

/// A policy that blocks one port more, and has `more` rules that nothing meets.
fn without_port(port: u16, more: usize) -> String {
    use std::fmt::Write as _;
    let mut text = POLICY.to_owned();
    let rule = |name: &str, port: u16| {
        format!(
            "\n[[rule]]\nname = \"{name}\"\naction = \"block\"\ndirection = \"out\"\nprotocol = \"tcp\"\nremote_port = {port}\n"
        )
    };
    text.push_str(&rule("one-port-more", port));
    for number in 0..more {
        let _ = write!(
            text,
            "\n[[rule]]\nname = \"host-{number}\"\naction = \"block\"\nremote = \"10.{}.{}.7\"\n",
            200 + number / 250,
            number % 250
        );
    }
    text
}

/// Whether a connection to that port is let out.
fn passes(session: &Session, port: u16) -> Result<bool, String> {
    let mut channel = session.drive("fwpkclnt")?;
    let answer = channel.ask(json!({
        "op": "connect", "remote": format!("198.51.100.7:{port}"), "send": 100, "receive": 100, "close": true,
    }))?;
    Ok(answer["verdict"] == "permit")
}

fn decides(session: &Session, port: u16, blocked: bool, when: &str) -> Result<(), String> {
    let passes = passes(session, port)?;
    ensure(passes != blocked, || {
        format!("{when}: a connection to port {port} {}", if passes { "passes" } else { "is blocked" })
    })
}

/// The policies that the driver has stored, the newest last.
fn stored(session: &Session) -> Result<Vec<PathBuf>, String> {
    let folder = session.data();
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("policy."))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Stops and starts the driver, its registry as it is.
fn restart(session: &mut Session) -> Result<(), String> {
    unload(session)?;
    session.events.mark()?;
    session.load()?;
    session.events.one("FiltersInForce", |_| true)?;
    session.events.one("ControlListening", |_| true).map(drop)
}

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    let cast = &run.cast;
    unload(session)?;
    session.forget_policies()?;
    let parameters = Parameters::new(run)?;
    load(session, &parameters, 0, report)?;
    let port = parameters.port;
    session.events.mark()?;

    let mut operator = connected(session, cast, &cast.operator, port)?;
    let more = super::super::policy(&without_port(443, 400))?;
    decides(session, 443, false, "before")?;
    let generation = operator.apply(&more, 60)?;
    decides(session, 443, true, "applied")?;
    let status = operator.ask(&STATUS)?;
    let right = status["policy"] == "provisional"
        && status["generation"] == generation
        && status["rules"] == 404
        && status["rollback_in"].as_u64().is_some_and(|left| left > 30_000 && left <= 60_000)
        && status["digest"] == weir_cli::client::json::hex(&upload::digest(&more));
    ensure(right, || format!("provisional: {status}"))?;
    let busy = operator.apply(&run.policy, 60).err();
    ensure(busy.as_ref().is_some_and(|why| why.contains("busy") || why.contains("await")), || {
        format!("a second policy: {busy:?}")
    })?;
    let restored = operator.number(&Request::PolicyRollback(Generation { generation }), "generation")?;
    ensure(restored == 1, || format!("generation {restored} decides after the roll-back"))?;
    decides(session, 443, false, "rolled back")?;
    let told = session.events.one("PolicyRolledBack", |_| true)?;
    ensure(told.text("reason") == "asked", || format!("{told:?}"))?;
    report.held(&format!(
        "a policy of 404 rules ({} bytes) goes up in pieces, decides at once, and is rolled back when that is asked for",
        more.len()
    ));

    session.events.mark()?;
    let begun = Instant::now();
    operator.apply(&more, 2)?;
    hang_up(operator);
    decides(session, 443, true, "before the window is over")?;
    let told = session.events.one("PolicyRolledBack", |_| true)?;
    let after = begun.elapsed();
    ensure(told.text("reason") == "expired", || format!("{told:?}"))?;
    ensure(after > Duration::from_millis(1500) && after < Duration::from_secs(6), || {
        format!("a window of 2 s was over after {after:?}")
    })?;
    decides(session, 443, false, "when the window is over")?;
    report.held("a policy whose operator is gone rolls back when its window is over");

    session.events.mark()?;
    let mut operator = connected(session, cast, &cast.operator, port)?;
    let generation = operator.apply(&more, 60)?;
    hang_up(operator);
    let mut operator = connected(session, cast, &cast.controller, port)?;
    let why = operator.refused(&Request::PolicyConfirm(Generation { generation: generation + 1 }))?;
    ensure(why == ErrorCode::Conflict, || format!("confirming another generation: {why:?}"))?;
    operator.ask(&Request::PolicyConfirm(Generation { generation }))?;
    let told = session.events.one("PolicyConfirmed", |_| true)?;
    ensure(told.text("stored") == "true", || format!("{told:?}"))?;
    let other = super::super::policy(&without_port(8443, 0))?;
    operator.apply(&other, 60)?;
    decides(session, 443, false, "another policy, provisional")?;
    hang_up(operator);
    restart(session)?;
    session.events.one("PolicyStoreRead", |_| true)?;
    decides(session, 443, true, "after a restart")?;
    report.held("a confirmed policy is stored, and decides after a restart; a provisional one is not");

    let mut operator = connected(session, cast, &cast.operator, port)?;
    let generation = operator.apply(&other, 60)?;
    operator.ask(&Request::PolicyConfirm(Generation { generation }))?;
    hang_up(operator);
    let slots = stored(session)?;
    let newest = slots.last().ok_or("nothing is stored")?;
    let mut bytes = fs::read(newest).map_err(|error| error.to_string())?;
    bytes.truncate(bytes.len() / 2);
    unload(session)?;
    fs::write(newest, &bytes).map_err(|error| error.to_string())?;
    session.events.mark()?;
    session.load()?;
    let refused = session.events.one("PolicyStoreRefused", |_| true)?;
    session.events.one("FiltersInForce", |_| true)?;
    decides(session, 443, true, "with half of the newest slot")?;
    decides(session, 8443, false, "with half of the newest slot")?;
    report.held(&format!(
        "a slot that was written half ({}) is noticed, and the one before it decides; {} slots",
        refused.text("reason"),
        slots.len()
    ));

    unload(session)?;
    let newer = Parameters { policy: super::super::policy(&without_port(9443, 0))?, ..Parameters::new(run)? };
    newer.configure(session)?;
    session.events.mark()?;
    session.load()?;
    session.events.one("PolicyStoreOutdated", |_| true)?;
    session.events.one("FiltersInForce", |_| true)?;
    decides(session, 443, false, "with a newer policy in the registry")?;
    decides(session, 9443, true, "with a newer policy in the registry")?;
    report.held("a policy that the registry got after the confirmation is the newer one, and decides");
    unload(session)?;
    session.forget_policies()?;
    load(session, &Parameters::new(run)?, 0, report)?;
    Ok(())
}
