//! Vendors' modules at the Network Module Registrar: scripted ones of the netio stand-in, and the sample driver of the SDK.
//! They come late, leave in the midst of callbacks, come back, refuse, fail, lie, pend and call late, while the driver
//! serves sessions.

use std::time::Duration;

use serde_json::{Value, json};
use weir::control::protocol::message::{Control, Extended, From, Request};
use weir::trace::Guid;

use super::super::Run;
use super::super::client::Raw;
use super::super::drive::Channel;
use super::super::events::Event;
use super::super::peer::Peer;
use super::super::report::Report;
use super::super::session::{CONNECTION_V1, LABEL_V1, SAMPLE, Session};
use super::super::wait;
use super::control::{STATUS, closed, connected, end, hang_up, items};
use super::extensions::{
    LIES, NOT_SUPPORTED, answer, counter, detached, hex, is_of, pause, registered, told,
};
use super::{Parameters, ensure, load, unload};

/// An interface of a vendor's own, with the tables of `label_v1`.
const ALIAS: &str = "7e5a1c90-2b6f-4d11-9a63-0c4d8e21f5b7";
/// `connection_v1`, as the protocol has it.
const INTERFACE: Guid = Guid {
    data1: 0x5EE5_D4F1,
    data2: 0x9929,
    data3: 0x4633,
    data4: [0x83, 0x68, 0x7B, 0xC7, 0x43, 0x8B, 0x41, 0x40],
};
/// STATUS_INSUFFICIENT_RESOURCES.
const NO_RESOURCES: &str = "0xC000009A";

/// What is done to a scripted module: `fields` are those of tests/wine/README.md.
fn nmr(netio: &mut Channel, op: &str, npi: &str, fields: Value) -> Result<Value, String> {
    let mut request = json!({ "op": op, "npi": npi });
    if let (Some(request), Value::Object(fields)) = (request.as_object_mut(), fields) {
        request.extend(fields);
    }
    netio.ask(request)
}

/// Adds a module, and sees that the driver tells of it; its identifier.
fn add(session: &mut Session, netio: &mut Channel, npi: &str, fields: Value) -> Result<String, String> {
    let added = nmr(netio, "nmr-add", npi, fields)?;
    let module = added["module"].as_str().ok_or_else(|| format!("no module in {added}"))?.to_owned();
    let attached = session.events.one("ExtensionProviderAttached", |event| is_module(event, npi, &module))?;
    ensure(attached.text("usable") == "true", || format!("{attached:?}"))?;
    Ok(module)
}

/// Removes a module, and sees that the driver tells of it, and has detached; what it has seen.
fn remove(
    session: &mut Session,
    netio: &mut Channel,
    npi: &str,
    module: &str,
    fields: Value,
) -> Result<Value, String> {
    let seen = nmr(netio, "nmr-remove", npi, fields)?;
    session.events.one("ExtensionProviderDetached", |event| is_module(event, npi, module))?;
    let right = seen["attached"] == 1 && seen["detached"] == 1 && seen["cleaned"] == 1;
    ensure(right, || format!("a module that has gone: {seen}"))?;
    Ok(seen)
}

fn is_module(event: &Event, npi: &str, module: &str) -> bool {
    event.text("interface").to_lowercase().contains(npi)
        && event.text("module").to_lowercase().contains(module)
}

/// What a module counts.
fn counted(netio: &mut Channel, npi: &str, field: &str) -> Result<u64, String> {
    let counts = nmr(netio, "nmr-counts", npi, json!({}))?;
    counts[field].as_u64().ok_or_else(|| format!("no {field} in {counts}"))
}

/// Waits until a session's callbacks come, from a provider of that kind.
fn calls_back(session: &mut Session, number: u64, interface: &str, provider: &str) -> Result<Event, String> {
    let wanted = |event: &Event| is_of(event, number, interface) && event.text("provider") == provider;
    session.events.one("ExtensionCallback", wanted)
}

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    unload(session)?;
    let parameters = Parameters {
        extensions: vec![
            format!("{{{CONNECTION_V1}}}=optional;providers=nmr,builtin"),
            format!("{{{LABEL_V1}}}=optional;providers=nmr,wsk"),
            format!("{{{ALIAS}}}=optional;providers=wsk,nmr;events=0x1;speaks={{{LABEL_V1}}}"),
        ],
        ..Parameters::new(run)?
    };
    load(session, &parameters, 0, report)?;
    let mut netio = session.drive("netio")?;
    optional(session, run, &parameters, &mut netio, report)?;
    answers(session, run, &parameters, &mut netio, report)?;
    detaching(session, run, &parameters, &mut netio, report)?;
    unload(session)?;
    required(session, run, report)?;
    sample(session, run, report)?;
    load(session, &Parameters::new(run)?, 0, report)
}

/// Modules that come late, leave and come back, while a session goes on.
fn optional(
    session: &mut Session,
    run: &Run,
    parameters: &Parameters,
    netio: &mut Channel,
    report: &mut Report,
) -> Result<(), String> {
    let cast = &run.cast;
    session.events.mark()?;
    answer(netio, ALIAS, "grant-label")?;
    let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
    let number = peer.session();
    registered(session, number, CONNECTION_V1, "builtin")?;
    session.events.one("ExtensionRefused", |event| is_of(event, number, LABEL_V1))?;
    calls_back(session, number, CONNECTION_V1, "builtin")?;
    report.held("where no vendor's module is there an optional interface is weir's own, or nobody's, and the session goes on");
    registered(session, number, ALIAS, "wsk")?;
    let label = calls_back(session, number, ALIAS, "wsk")?;
    ensure(label.number("code") == Some(1), || format!("{label:?}"))?;
    answer(netio, ALIAS, NOT_SUPPORTED)?;
    report.held(
        "an interface of a vendor's own that speaks a known one's tables is had under its own identifier",
    );

    let module = add(session, netio, CONNECTION_V1, json!({ "inline": 3 }))?;
    registered(session, number, CONNECTION_V1, "nmr")?;
    registered(session, 0, CONNECTION_V1, "nmr")?;
    detached(session, number, CONNECTION_V1, "builtin")?;
    let vendor = session.events.one("ExtensionCallback", |event| {
        is_of(event, number, CONNECTION_V1)
            && event.text("provider") == "nmr"
            && event.number("code") == Some(8)
            && !event.text("data").is_empty()
    })?;
    let later = connected(session, cast, &cast.observer, parameters.port)?;
    registered(session, later.session(), CONNECTION_V1, "nmr")?;
    let listed = nmr(netio, "nmr-connections", CONNECTION_V1, json!({}))?;
    let connections = items(&listed, "connections")?;
    let of = |kind: &str, number: u64| {
        connections.iter().filter(|one| one["kind"] == kind && one["session"] == number).count()
    };
    let right = connections.len() == 3
        && of("listening", 0) == 1
        && of("accepted", number) == 1
        && of("accepted", later.session()) == 1
        && connections.iter().all(|one| {
            one["events"] == 0xF
                && one["detached"] == false
                && one["local"] == format!("127.0.0.1:{}", parameters.port)
        });
    ensure(right, || format!("the sockets that a module was offered: {listed}"))?;
    report.held(&format!(
        "a module that comes late is offered each socket that there is, once, and each that comes, with its addresses; weir's own \
         provider steps back, and the module's callbacks arrive with their data ({} bytes)",
        vendor.text("data").len() / 2
    ));

    let control = Control { session: number, interface: INTERFACE, code: 77, data: Some(b"a vendor's own") };
    let taken = peer.ask(&Request::ExtensionControl(control))?;
    ensure(taken["provider"] == "nmr", || format!("a control code: {taken}"))?;
    session.events.one("ExtensionCallback", |event| {
        is_of(event, number, CONNECTION_V1)
            && event.number("value") == Some(77)
            && event.text("data").to_lowercase() == hex(b"a vendor's own")
    })?;
    report.held("a control code that an operator sends gets to the module, which answers by an event");

    let second = add(session, netio, CONNECTION_V1, json!({ "name": "second" }))?;
    let twice = |event: &Event| {
        event.is("ExtensionRegistered")
            && is_of(event, number, CONNECTION_V1)
            && event.text("provider") == "nmr"
    };
    session.events.several("a second module's registration", 2, twice)?;
    remove(session, netio, CONNECTION_V1, &second, json!({ "name": "second" }))?;
    report.held("a second module of the same interface has its own connections, and goes by itself");

    leaves(session, netio, &mut peer, &module, report)?;
    for peer in [peer, later] {
        closed(session, hang_up(peer))?;
    }
    Ok(())
}

/// A module of `connection_v1` leaves, comes back and leaves again.
fn leaves(
    session: &mut Session,
    netio: &mut Channel,
    peer: &mut Peer,
    module: &str,
    report: &mut Report,
) -> Result<(), String> {
    let number = peer.session();
    // In the midst of callbacks.
    netio.ask(json!({ "op": "storm", "npi": CONNECTION_V1, "threads": 3, "callbacks": 100_000, "milliseconds": 10_000 }))?;
    std::thread::sleep(Duration::from_millis(50));
    let seen = remove(session, netio, CONNECTION_V1, module, json!({}))?;
    netio.ask(json!({ "op": "storm-end", "stop": true }))?;
    ensure(seen["released"] == 0 && seen["ended"] == 3, || {
        format!("a connection was let go of after the registrar's detach, or not known then: {seen}")
    })?;
    session.events.mark()?;
    peer.ask(&STATUS)?;
    let listed = standing(peer)?;
    let own = |one: &&Value| {
        one["session"] == number && one["provider"] == "builtin" && one["state"] == "registered"
    };
    ensure(listed.iter().filter(own).count() == 1, || {
        format!("weir's own provider is not back: {listed:?}")
    })?;
    report.held(&format!(
        "a module leaves in the midst of a storm of {} callbacks; weir's own provider is back, and the sessions go on",
        seen["callbacks"]
    ));

    for _ in 0..3 {
        session.events.mark()?;
        let module = add(session, netio, CONNECTION_V1, json!({ "pends": true }))?;
        registered(session, number, CONNECTION_V1, "nmr")?;
        calls_back(session, number, CONNECTION_V1, "nmr")?;
        let seen = remove(session, netio, CONNECTION_V1, &module, json!({ "after": 100 }))?;
        ensure(seen["detaches_completed"] == 1, || format!("a pending detach: {seen}"))?;
        detached(session, number, CONNECTION_V1, "nmr")?;
        registered(session, number, CONNECTION_V1, "builtin")?;
        peer.ask(&STATUS)?;
    }
    report.held("it comes back and leaves again, with a detach that pends and is completed later");
    Ok(())
}

/// How sockets stand with interfaces, by the protocol.
fn standing(peer: &mut Peer) -> Result<Vec<Value>, String> {
    let listed = peer.list(|from| Request::Extensions(From { from }))?;
    Ok(items(&listed, "extensions")?.clone())
}

/// What a module may answer, and what becomes of the session.
fn answers(
    session: &mut Session,
    run: &Run,
    parameters: &Parameters,
    netio: &mut Channel,
    report: &mut Report,
) -> Result<(), String> {
    let cast = &run.cast;
    session.events.mark()?;
    let module = add(session, netio, CONNECTION_V1, json!({ "answer": NOT_SUPPORTED }))?;
    let others = [NOT_SUPPORTED, NO_RESOURCES, "0x80000005", "0x103"];
    for given in others.into_iter().chain(LIES) {
        session.events.mark()?;
        nmr(netio, "nmr-set", CONNECTION_V1, json!({ "answer": given }))?;
        let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
        let number = peer.session();
        registered(session, number, CONNECTION_V1, "builtin")?;
        let failed = session
            .events
            .since(|event| event.is("ExtensionFailed") && is_of(event, number, CONNECTION_V1))?;
        let right = failed.len() == usize::from(given != NOT_SUPPORTED)
            && failed.iter().all(|event| event.text("provider") == "nmr");
        ensure(right, || format!("{given}: failures {failed:?}"))?;
        peer.ask(&STATUS)?;
        closed(session, hang_up(peer))?;
    }
    let seen = remove(session, netio, CONNECTION_V1, &module, json!({}))?;
    ensure(seen["granted"] == 0 && seen["lied"] == seen["released"], || format!("{seen}"))?;
    report.held("a module that refuses, fails or gives tables that cannot be used is told for what it is; a socket that it took on all the same it is asked to let go of");

    for table in ["null", "short", "old", "misaligned", "bare"] {
        session.events.mark()?;
        nmr(netio, "nmr-add", CONNECTION_V1, json!({ "table": table }))?;
        let attached = session.events.one("ExtensionProviderAttached", |_| true)?;
        ensure(attached.text("usable") == "false", || format!("{table}: {attached:?}"))?;
        let peer = connected(session, cast, &cast.operator, parameters.port)?;
        registered(session, peer.session(), CONNECTION_V1, "builtin")?;
        closed(session, hang_up(peer))?;
        let seen = nmr(netio, "nmr-remove", CONNECTION_V1, json!({}))?;
        ensure(seen["asked"] == 0, || format!("a module with the table {table} was asked: {seen}"))?;
    }
    session.events.mark()?;
    nmr(netio, "nmr-add", CONNECTION_V1, json!({ "attach": NO_RESOURCES }))?;
    let seen = nmr(netio, "nmr-remove", CONNECTION_V1, json!({}))?;
    ensure(seen["attached"] == 0 && seen["cleaned"] == 0, || format!("{seen}"))?;
    report.held(
        "a module whose own table cannot be used is told of and left alone, one that does not attach is none",
    );
    Ok(())
}

/// How connections end: at once, later, and with callbacks that come too late.
fn detaching(
    session: &mut Session,
    run: &Run,
    parameters: &Parameters,
    netio: &mut Channel,
    report: &mut Report,
) -> Result<(), String> {
    const ROUNDS: u64 = 3;
    let cast = &run.cast;
    session.events.mark()?;
    let module = add(session, netio, LABEL_V1, json!({ "detach_after": 50 }))?;
    for _ in 0..ROUNDS {
        let peer = connected(session, cast, &cast.operator, parameters.port)?;
        let number = peer.session();
        registered(session, number, LABEL_V1, "nmr")?;
        calls_back(session, number, LABEL_V1, "nmr")?;
        closed(session, hang_up(peer))?;
        detached(session, number, LABEL_V1, "nmr")?;
    }
    wait::until("the completions of detaches", Duration::from_secs(5), || {
        Ok((counted(netio, LABEL_V1, "completed")? == ROUNDS).then_some(()))
    })?;
    let pended = counted(netio, LABEL_V1, "pended")?;
    ensure(pended == ROUNDS, || format!("{pended} of {ROUNDS} detaches have pended"))?;
    report.held("a connection that a module lets go of later ends with its session all the same, and the module completes it");

    let mut peer = connected(session, cast, &cast.observer, parameters.port)?;
    let before = counter(&mut peer, "extensions.late")?;
    nmr(netio, "nmr-set", LABEL_V1, json!({ "detach_after": null, "late": 5 }))?;
    session.events.mark()?;
    for _ in 0..ROUNDS {
        let peer = connected(session, cast, &cast.operator, parameters.port)?;
        let number = peer.session();
        registered(session, number, LABEL_V1, "nmr")?;
        closed(session, hang_up(peer))?;
        let made = detached(session, number, LABEL_V1, "nmr")?;
        std::thread::sleep(Duration::from_millis(30));
        let own = |event: &Event| event.is("ExtensionCallback") && is_of(event, number, LABEL_V1);
        let told = session.events.since(own)?.len() as u64;
        ensure(told == made, || format!("{made} callbacks were made in time, and {told} told"))?;
    }
    let late = counted(netio, LABEL_V1, "late")?;
    ensure(late == 10 * ROUNDS, || format!("{late} callbacks were made late"))?;
    let seen = counter(&mut peer, "extensions.late")? - before;
    ensure(seen >= late, || format!("{late} callbacks were made late, {seen} counted"))?;
    report.held(&format!("{late} callbacks that come after a connection's end are counted, and hit nothing"));
    closed(session, hang_up(peer))?;
    remove(session, netio, LABEL_V1, &module, json!({}))?;

    // Everything at once: sessions come and go under a storm, with detaches that pend by themselves.
    pause(netio, true)?;
    session.events.mark()?;
    let mut modules = Vec::new();
    for interface in [CONNECTION_V1, LABEL_V1] {
        let fields = json!({ "inline": 2, "late": 2 });
        modules.push((interface, add(session, netio, interface, fields)?));
    }
    netio.ask(json!({ "op": "storm", "threads": 3, "callbacks": 8000, "milliseconds": 4000 }))?;
    for _ in 0..8 {
        let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
        peer.ask(&STATUS)?;
        closed(session, hang_up(peer))?;
    }
    netio.ask(json!({ "op": "storm-end" }))?;
    let mut made = 0;
    for (interface, module) in modules {
        let seen = remove(session, netio, interface, &module, json!({}))?;
        let right = seen["asked"] == 9 && seen["granted"] == 9 && seen["released"] == 8 && seen["ended"] == 1;
        ensure(right, || format!("{interface}: {seen}"))?;
        made += seen["callbacks"].as_u64().unwrap_or_default();
    }
    pause(netio, false)?;
    let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
    peer.ask(&STATUS)?;
    closed(session, hang_up(peer))?;
    let (told, lost) = told(session)?;
    // Some met a gate that was shut already: those are late.
    ensure(told + lost <= made + 100 && told > 0, || format!("{made} were made, {told} told, {lost} lost"))?;
    report.held(&format!(
        "modules of both interfaces storm ({made} callbacks) while eight sessions come and go: each socket is attached once and \
         detached once"
    ));
    Ok(())
}

/// A required interface: without it there is no session and no control port, and it is told why.
fn required(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    let cast = &run.cast;
    let parameters = Parameters {
        extensions: vec![format!("{{{CONNECTION_V1}}}=required;providers=nmr")],
        ..Parameters::new(run)?
    };
    session.events.mark()?;
    parameters.configure(session)?;
    session.load()?;
    let why = session.events.one("ExtensionRefused", |event| is_of(event, 0, CONNECTION_V1))?;
    ensure(why.text("required") == "true", || format!("{why:?}"))?;
    session.events.one("FiltersInForce", |_| true)?;
    ensure(Raw::connect(parameters.port).is_err(), || "the control port is open all the same".to_owned())?;
    // Another one: the stand-in's state goes when its last driver does.
    let netio = &mut session.drive("netio")?;
    let module = add(session, netio, CONNECTION_V1, json!({}))?;
    session.events.one("ControlListening", |_| true)?;
    registered(session, 0, CONNECTION_V1, "nmr")?;
    report.held("without the module that is required the control port stays shut, and that is told; it opens when the module comes");
    let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
    registered(session, peer.session(), CONNECTION_V1, "nmr")?;
    session.events.mark()?;
    nmr(netio, "nmr-set", CONNECTION_V1, json!({ "answer": NO_RESOURCES }))?;
    let refused = Peer::connect(cast, &cast.observer, parameters.port);
    ensure(refused.is_err(), || "a session without its required interface".to_owned())?;
    let why = session.events.one("ExtensionRefused", |_| true)?;
    let right = why.text("required") == "true" && why.status() == Some(0xC000_009A);
    ensure(right, || format!("{why:?}"))?;
    end(session, why.number("session").unwrap_or_default())?;
    peer.ask(&STATUS)?;
    report.held(
        "a socket that cannot have its required interface is closed, and says why; those that have it go on",
    );

    session.events.mark()?;
    nmr(netio, "nmr-set", CONNECTION_V1, json!({ "answer": "grant" }))?;
    let number = peer.session();
    nmr(netio, "nmr-remove", CONNECTION_V1, json!({}))?;
    session.events.one("ExtensionProviderDetached", |event| is_module(event, CONNECTION_V1, &module))?;
    let why = session.events.one("ExtensionRefused", |event| is_of(event, number, CONNECTION_V1))?;
    ensure(why.text("required") == "true", || format!("{why:?}"))?;
    end(session, number)?;
    drop(peer);
    wait::until("the control port shut", Duration::from_secs(5), || {
        Ok(Raw::connect(parameters.port).is_err().then_some(()))
    })?;
    report.held(
        "when the module that is required goes, sessions and the listening socket are closed, and say why",
    );

    session.events.mark()?;
    let module = add(session, netio, CONNECTION_V1, json!({}))?;
    session.events.one("ControlListening", |_| true)?;
    let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
    registered(session, peer.session(), CONNECTION_V1, "nmr")?;
    peer.ask(&STATUS)?;
    closed(session, hang_up(peer))?;
    report.held("when it comes back, so does the control port");
    remove(session, netio, CONNECTION_V1, &module, json!({}))?;
    unload(session)
}

/// Sees that there is a module of each interface that calls back, within calls and too late, too; and that it is asked for
/// `connection_v1` in every other cycle, since WSK is asked first.
pub fn call_back(netio: &mut Channel, cycle: u32) -> Result<(), String> {
    for npi in [CONNECTION_V1, LABEL_V1] {
        if nmr(netio, "nmr-counts", npi, json!({})).is_err() {
            nmr(netio, "nmr-add", npi, json!({ "inline": 1, "late": 1 }))?;
        }
        let after = cycle.is_multiple_of(3).then_some(20);
        nmr(netio, "nmr-set", npi, json!({ "detach_after": after }))?;
    }
    answer(netio, CONNECTION_V1, if cycle.is_multiple_of(2) { NOT_SUPPORTED } else { "grant" })
}

/// Sees that the modules have nothing of a driver that is unloaded.
pub fn are_alone(netio: &mut Channel) -> Result<(), String> {
    for npi in [CONNECTION_V1, LABEL_V1] {
        let seen = nmr(netio, "nmr-counts", npi, json!({}))?;
        let right = seen["attached"] == seen["cleaned"]
            && seen["granted"].as_u64()
                == seen["released"].as_u64().zip(seen["ended"].as_u64()).map(|(a, b)| a + b);
        ensure(right, || format!("a module of {npi} when the driver is unloaded: {seen}"))?;
    }
    Ok(())
}

/// The identifier of the sample driver's modules (tools/sdk/sample).
const SAMPLE_MODULE: &str = "c94ad0c5-e2ab-4e5c-8c3f-0d6e3f9b7e21";

/// Sees the sample driver's callbacks of both interfaces for a session: the data are the sample's.
fn sampled(session: &mut Session, number: u64) -> Result<(), String> {
    for (interface, data) in
        [(CONNECTION_V1, hex(&number.to_le_bytes())), (LABEL_V1, hex(format!("session {number}").as_bytes()))]
    {
        registered(session, number, interface, "nmr")?;
        let vendor = |event: &Event| {
            is_of(event, number, interface)
                && event.text("provider") == "nmr"
                && event.text("data").to_lowercase().starts_with(&data)
        };
        session.events.one("ExtensionCallback", vendor).map_err(|error| format!("{interface}: {error}"))?;
    }
    Ok(())
}

/// Sees that the sample's modules are told as attached, or as detached.
fn sample_is(session: &mut Session, event: &str) -> Result<(), String> {
    for interface in [CONNECTION_V1, LABEL_V1] {
        session.events.one(event, |event| is_module(event, interface, SAMPLE_MODULE))?;
    }
    Ok(())
}

/// The sample of a vendor's driver: loaded and removed while weir serves, and each unloaded before the other.
fn sample(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    const ROUNDS: usize = 2;
    let cast = &run.cast;
    session.add_driver(SAMPLE, &run.files.sample)?;
    let parameters = Parameters {
        extensions: vec![
            format!("{{{CONNECTION_V1}}}=optional;providers=nmr,builtin"),
            format!("{{{LABEL_V1}}}=optional;providers=nmr"),
        ],
        ..Parameters::new(run)?
    };
    load(session, &parameters, 0, report)?;
    let mut peer = connected(session, cast, &cast.operator, parameters.port)?;
    let number = peer.session();
    registered(session, number, CONNECTION_V1, "builtin")?;
    for _ in 0..ROUNDS {
        session.events.mark()?;
        session.load_driver(SAMPLE)?;
        sample_is(session, "ExtensionProviderAttached")?;
        sampled(session, number)?;
        let metric = Request::ExtensionMetric(Extended { session: number, interface: INTERFACE });
        let metric = peer.ask(&metric)?;
        ensure(metric["provider"] == "nmr" && metric["round_trip"] == 1500, || {
            format!("a sample: {metric}")
        })?;
        let control = Control { session: number, interface: INTERFACE, code: 0, data: None };
        let refused = peer.refused(&Request::ExtensionControl(control));
        ensure(refused.is_ok(), || format!("a control code that the sample does not have: {refused:?}"))?;
        let later = connected(session, cast, &cast.observer, parameters.port)?;
        sampled(session, later.session())?;
        closed(session, hang_up(later))?;
        session.events.mark()?;
        session.unload_driver(SAMPLE)?;
        sample_is(session, "ExtensionProviderDetached")?;
        for interface in [CONNECTION_V1, LABEL_V1] {
            detached(session, number, interface, "nmr")?;
        }
        registered(session, number, CONNECTION_V1, "builtin")?;
        peer.ask(&STATUS)?;
    }
    report.held(&format!(
        "the sample of a vendor's driver is loaded beside weir, is seen to call back for both interfaces and to be asked, is removed and put back, \
         {ROUNDS} times, while a session goes on"
    ));

    session.events.mark()?;
    session.load_driver(SAMPLE)?;
    sampled(session, number)?;
    unload(session)?;
    drop(peer);
    report.held("weir is unloaded with the sample's callbacks alive");
    load(session, &parameters, 0, report)?;
    sample_is(session, "ExtensionProviderAttached")?;
    let peer = connected(session, cast, &cast.operator, parameters.port)?;
    sampled(session, peer.session())?;
    session.unload_driver(SAMPLE)?;
    detached(session, peer.session(), CONNECTION_V1, "nmr")?;
    closed(session, hang_up(peer))?;
    unload(session)?;
    report.held("weir finds the sample when it is loaded again, and neither leaves anything behind");
    Ok(())
}
