//! The driver calls a controller, which asks over that connection as over any other.

use super::super::Run;
use super::super::peer::{self, Peer};
use super::super::report::Report;
use super::super::session::Session;
use super::control::{STATUS, hang_up, items, sessions};
use super::{Parameters, ensure, load, unload};

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    let cast = &run.cast;
    unload(session)?;
    let (listener, port) = peer::listen()?;
    let dials = Parameters { dial: vec![format!("controller@127.0.0.1:{port}")], ..Parameters::new(run)? };
    load(session, &dials, 0, report)?;
    let mut controller = Peer::accept(cast, &cast.controller, &listener)?;
    let listed = controller.list(sessions)?;
    let dialled = items(&listed, "sessions")?
        .iter()
        .any(|session| session["dialled"] == true && session["peer"] == "controller");
    ensure(dialled, || format!("the controller's session is not listed: {listed}"))?;
    report.held("the driver calls its controller, which asks over that connection");

    hang_up(controller);
    // Somebody else answers, without the controller's key.
    drop(peer::accept(&listener)?);
    let impostor = Peer::accept(cast, &cast.stranger, &listener).err();
    ensure(impostor.is_some(), || "another key was taken for the controller's".to_owned())?;
    let mut controller = Peer::accept(cast, &cast.controller, &listener)?;
    controller.ask(&STATUS)?;
    report.held(
        "it calls again after the end, after a connection that says nothing, and after one with another key",
    );
    drop(listener);
    hang_up(controller);
    session.events.one("ControlDialFailed", |_| true)?;
    report.held("a controller that is not there is told of");
    unload(session)?;
    load(session, &Parameters::new(run)?, 0, report)
}
