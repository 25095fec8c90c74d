//! The driver with Wine's own netio.sys: code that nobody here wrote. It has no event callbacks, no control operations
//! on sockets and no disconnect, so the driver must do with requests, and must say so.

use std::path::PathBuf;

use super::super::report::Report;
use super::super::session::{Netio, Session};
use super::super::{Run, logs};
use super::control::{STATUS, connected, hang_up, items, sessions};
use super::{Parameters, classification, ensure, load, subscribers, told, unload};

/// STATUS_NOT_IMPLEMENTED.
const NOT_IMPLEMENTED: u32 = 0xC000_0002;

/// How often the session is tried: when a listener with a pending accept is closed, Wine's netio.sys sometimes takes up the
/// accept after it has forgotten it, and reads at NULL.
const TRIES: usize = 4;

pub fn wine_netio(run: &Run, report: &mut Report) {
    let _told = report.phase("Wine's own netio.sys", |report| {
        let mut tries = (1..=TRIES).map(|number| run.logs.join(format!("wine-netio-{number}")));
        loop {
            let Some(logs) = tries.next() else {
                return Err(format!("it has failed by itself {TRIES} times: see {}", run.logs.display()));
            };
            let outcome = told(&logs, alone(run, logs.clone(), report));
            if outcome.is_ok() || !logs::failed_below(&logs, "netio.sys") {
                return outcome;
            }
            report.say("   Wine's netio.sys has failed by itself, and is tried again");
        }
    });
}

fn alone(run: &Run, logs: PathBuf, report: &mut Report) -> Result<(), String> {
    let mut session = Session::start(&run.wine, &run.prefix, &run.files, Netio::Wine, logs)?;
    let parameters = Parameters::new(run)?;
    load(&mut session, &parameters, 0, report)?;
    let degraded = session.events.one("Degraded", |event| event.text("part") == "control events")?;
    ensure(degraded.status() == Some(NOT_IMPLEMENTED), || format!("{degraded:?}"))?;
    for operation in ["SO_EXCLUSIVEADDRUSE", "WSK_CACHE_SD"] {
        session.events.one("Fault", |event| event.text("operation") == operation)?;
    }
    report.held("the driver says that it has no control events, no exclusive address and no security descriptor, and why");

    session.events.mark()?;
    let cast = &run.cast;
    for keys in [&cast.operator, &cast.observer] {
        let mut peer = connected(&mut session, cast, keys, parameters.port)?;
        for _ in 0..20 {
            peer.ask(&STATUS)?;
        }
        let number = hang_up(peer);
        session.events.one("ControlClosed", |event| event.number("session") == Some(number))?;
    }
    let mut peer = connected(&mut session, cast, &cast.operator, parameters.port)?;
    let more = super::super::policy(super::POLICY)?;
    let generation = peer.apply(&more, 60)?;
    ensure(generation > 1, || format!("generation {generation}"))?;
    let listed = peer.list(sessions)?;
    ensure(items(&listed, "sessions")?.len() == 1, || format!("{listed}"))?;
    hang_up(peer);
    report.held("the protocol is spoken, and a policy applied, by requests alone");
    subscribers::follow(&mut session, cast, parameters.port, report)?;

    classification::verdicts(&mut session)?;
    report.held("the policy decides as before");

    unload(&mut session)?;
    report.held("unloaded: every step of the stop succeeded, and nothing is left");
    // It has not all that the driver imports; what it lacks is not called.
    let searched = super::super::logs::search(&session.logs, &[])?;
    report.held(&format!("{searched} logs tell of no crash"));
    Ok(())
}
