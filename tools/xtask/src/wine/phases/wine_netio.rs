//! The driver with Wine's own netio.sys: code that nobody here wrote. It has no event callbacks, no control operations
//! on sockets and no disconnect, so the driver must do with requests, and must say so.

use std::path::PathBuf;

use super::super::events::Event;
use super::super::report::Report;
use super::super::session::{CONNECTION_V1, LABEL_V1, Netio, Session};
use super::super::{Run, logs};
use super::control::{STATUS, connected, hang_up, items, sessions};
use super::extensions::{is_of, registered};
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
    // Its Nmr functions are stubs: a call of one is an exception that ends the process.
    let extensions = [CONNECTION_V1, LABEL_V1].map(|npi| format!("{{{npi}}}=optional;providers=wsk,builtin"));
    let parameters = Parameters { extensions: extensions.into(), ..Parameters::new(run)? };
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
    let number = peer.session();
    registered(&mut session, number, CONNECTION_V1, "builtin")?;
    let own = |event: &Event| is_of(event, number, CONNECTION_V1) && event.text("provider") == "builtin";
    session.events.one("ExtensionCallback", own)?;
    session.events.one("ExtensionRefused", |event| is_of(event, number, LABEL_V1))?;
    let failed = session.events.count("ExtensionFailed")?;
    ensure(failed == 0, || format!("{failed} registrations have failed"))?;
    report.held(
        "it registers no extensions: weir's own provider gives connection_v1, nobody gives label_v1, and that is told",
    );
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
