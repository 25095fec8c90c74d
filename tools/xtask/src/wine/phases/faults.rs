//! Calls of the kernel's that fail while the control plane needs them: one session ends, or one thing is not had, and it is
//! told; everybody else goes on.

use serde_json::json;
use weir::control::protocol::message::{ErrorCode, Generation, Request};

use super::super::Run;
use super::super::drive::Channel;
use super::super::peer::Peer;
use super::super::report::Report;
use super::super::session::Session;
use super::control::{STATUS, connected, end, hang_up};
use super::{Parameters, ensure, load, unload};

/// STATUS_INSUFFICIENT_RESOURCES.
const NO_RESOURCES: u32 = 0xC000_009A;

fn fault(channel: &mut Channel, api: &str, count: u32) -> Result<(), String> {
    channel.ask(json!({ "op": "fault", "api": api, "count": count })).map(drop)
}

/// Sees that no fault waits that was not met.
fn met(channel: &mut Channel, api: &str) -> Result<(), String> {
    let left = channel.ask(json!({ "op": "fault", "clear": true }))?;
    ensure(left["pending"] == 0, || format!("{api} was not called: {left}"))
}

pub fn run(
    session: &mut Session,
    run: &Run,
    parameters: &Parameters,
    report: &mut Report,
) -> Result<(), String> {
    let (cast, port) = (&run.cast, parameters.port);
    let mut kernel = session.drive("fwpkclnt")?;
    let mut netio = session.drive("netio")?;
    session.events.mark()?;
    let mut peer = connected(session, cast, &cast.operator, port)?;

    fault(&mut kernel, "BCryptGenRandom", 1)?;
    let refused = Peer::connect(cast, &cast.observer, port);
    ensure(refused.is_err(), || "a handshake without randomness".to_owned())?;
    hang_up(connected(session, cast, &cast.observer, port)?);
    report.held("a handshake for which there is no randomness ends its connection, and the next one is made");

    for api in ["WskSend", "WskControlSocket", "IoSetCompletionRoutineEx"] {
        let channel = if api.starts_with("Wsk") { &mut netio } else { &mut kernel };
        fault(channel, api, 1)?;
        let other = Peer::connect(cast, &cast.observer, port).map(hang_up);
        met(channel, api)?;
        peer.ask(&STATUS).map_err(|error| format!("{api} failed for another, {other:?}, and {error}"))?;
        hang_up(connected(session, cast, &cast.observer, port)?);
    }
    report
        .held("a send, a question for the backlog, a completion routine that fail are one session's at most");

    let other = connected(session, cast, &cast.observer, port)?;
    netio.ask(json!({ "op": "fault", "api": "WskDisconnect", "stall": true }))?;
    let number = hang_up(other);
    end(session, number)?;
    met(&mut netio, "WskDisconnect")?;
    peer.ask(&STATUS)?;
    report.held("a disconnect that never ends is given up, and the connection closed");

    session.events.mark()?;
    let generation = peer.apply(&run.policy, 60)?;
    fault(&mut kernel, "ZwWriteFile", 1)?;
    let confirm = Request::PolicyConfirm(Generation { generation });
    let why = peer.refused(&confirm)?;
    ensure(why == ErrorCode::Failed, || format!("a confirmation on a full disk: {why:?}"))?;
    session.events.one("PolicyStoreRefused", |_| true)?;
    ensure(peer.ask(&STATUS)?["policy"] == "provisional", || "it is confirmed all the same".to_owned())?;
    peer.ask(&confirm)?;
    session.events.one("PolicyConfirmed", |event| event.text("stored") == "true")?;
    report.held("a policy that the disk has no room for still awaits its confirmation, and is confirmed when there is room");
    hang_up(peer);

    session.events.mark()?;
    fault(&mut netio, "WSK_CACHE_SD", 1)?;
    netio.ask(json!({ "op": "kill-listener" }))?;
    session.events.one("ControlListening", |_| true)?;
    let told = session.events.one("Fault", |event| event.text("operation") == "WSK_CACHE_SD")?;
    ensure(told.status() == Some(NO_RESOURCES), || format!("{told:?}"))?;
    hang_up(connected(session, cast, &cast.operator, port)?);
    report.held("a listener that cannot have its security descriptor listens without, and that is told");
    unload(session)?;
    session.forget_policies()?;
    load(session, parameters, 0, report)
}
