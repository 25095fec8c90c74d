//! The driver's private key: where it lies for others to read, or not at all, there is no control port.

use super::super::Run;
use super::super::client::Raw;
use super::super::registry::GUARDED;
use super::super::report::Report;
use super::super::session::Session;
use super::{Parameters, ensure, load, unload};

/// Who may do what, and the reason for which it is refused.
const WIDE: &[(&str, &str)] = &[
    // Users may read.
    ("O:SYG:SYD:P(A;;KA;;;SY)(A;;KA;;;BA)(A;;KR;;;BU)", "admits-others"),
    // Everybody may do everything.
    ("O:SYG:SYD:P(A;;KA;;;WD)", "admits-others"),
    // Users own it, and could let themselves in.
    ("O:BUG:SYD:P(A;;KA;;;SY)(A;;KA;;;BA)", "owner"),
];

pub fn run(session: &mut Session, run: &Run, report: &mut Report) -> Result<(), String> {
    for (guard, reason) in WIDE {
        unload(session)?;
        let parameters = Parameters { guard, ..Parameters::new(run)? };
        parameters.configure(session)?;
        session.events.mark()?;
        session.load()?;
        let refused = session.events.one("ControlKeyRefused", |_| true)?;
        ensure(refused.text("reason") == *reason, || format!("{guard}: {refused:?}"))?;
        shut(session, parameters.port)?;
    }
    report.held(&format!(
        "a key that others may read, or own, is refused in each of {} ways: the control port stays shut, the policy \
         decides",
        WIDE.len()
    ));
    for (private, event) in [
        (None, "ControlKeyAbsent"),
        (Some(vec![0; 32]), "ControlKeyRefused"),
        (Some(vec![7; 31]), "ControlKeyRefused"),
    ] {
        unload(session)?;
        let parameters = Parameters::new(run)?;
        let key = private.as_ref().map(|bytes: &Vec<u8>| (bytes.as_slice(), GUARDED));
        session.configure(&parameters.values(), key)?;
        session.events.mark()?;
        session.load()?;
        session.events.one(event, |_| true)?;
        shut(session, parameters.port)?;
    }
    report.held(
        "without a key, with one of zeros and with half of one it stays shut as well, and that is told",
    );
    unload(session)?;
    load(session, &Parameters::new(run)?, 0, report)
}

/// Nobody listens, and the filters are in force all the same.
fn shut(session: &mut Session, port: u16) -> Result<(), String> {
    session.events.one("FiltersInForce", |_| true)?;
    ensure(Raw::connect(port).is_err(), || "the control port is open all the same".to_owned())
}
