//! The driver calls a controller, which asks over that connection as over any other.

use super::super::Run;
use super::super::client::free_port;
use super::super::peer::{self, Peer};
use super::super::report::Report;
use super::super::session::{LABEL_V1, Session};
use super::control::{STATUS, hang_up, items, sessions};
use super::extensions::{ALL, NOT_SUPPORTED, all_granted, answer, registered, sockets};
use super::{Parameters, ensure, load, unload};

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    let cast = &run.cast;
    unload(session)?;
    let port = free_port()?;
    let dials = Parameters { dial: vec![format!("controller@127.0.0.1:{port}")], ..Parameters::new(run)? };
    load(session, &dials, 0, report)?;
    session.events.one("ControlDialFailed", |_| true)?;
    report.held("a controller that is not there is told of");

    let mut netio = session.drive("netio")?;
    answer(&mut netio, LABEL_V1, "grant")?;
    let listener = peer::listen(port)?;
    let mut controller = Peer::accept(cast, &cast.controller, &listener)?;
    let listed = controller.list(sessions)?;
    let dialled = items(&listed, "sessions")?
        .iter()
        .any(|session| session["dialled"] == true && session["peer"] == "controller");
    ensure(dialled, || format!("the controller's session is not listed: {listed}"))?;
    report.held("the driver calls its controller, which asks over that connection");
    for (interface, _) in ALL {
        registered(session, controller.session(), interface, "wsk")?;
    }
    let sockets = sockets(&mut netio)?;
    let dialled: Vec<_> = sockets.iter().filter(|socket| socket["kind"] == "dialled").collect();
    let [dialled] = dialled[..] else { return Err(format!("not one dialled socket: {sockets:?}")) };
    all_granted(dialled)?;
    answer(&mut netio, LABEL_V1, NOT_SUPPORTED)?;
    report.held("the socket that it has dialled was asked once for each extension interface, and has it with its events on");

    hang_up(controller);
    let impostor = Peer::accept(cast, &cast.stranger, &listener).err();
    ensure(impostor.is_some(), || "another key was taken for the controller's".to_owned())?;
    let mut controller = Peer::accept(cast, &cast.controller, &listener)?;
    controller.ask(&STATUS)?;
    report.held("it calls again after the end, and after somebody with another key has answered");
    // The controller stays, and finds the end of the connection.
    unload(session)?;
    drop(controller);
    load(session, &Parameters::new(run)?, 0, report)
}
