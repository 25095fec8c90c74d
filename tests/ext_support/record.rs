//! What weir told of extensions, in its order, and what must hold of any such record.

use super::lock;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use weir::trace::Guid;
use weir::trace::events::{Event, Provider};

/// An event about extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Registered {
        session: u64,
        interface: Guid,
        provider: Provider,
    },
    Refused {
        session: u64,
        interface: Guid,
        required: bool,
        status: i32,
    },
    Failed {
        session: u64,
        interface: Guid,
        provider: Provider,
        required: bool,
        status: i32,
    },
    Callback {
        session: u64,
        interface: Guid,
        code: u32,
        value: u64,
        provider: Provider,
        data: Vec<u8>,
    },
    Detached {
        session: u64,
        interface: Guid,
        callbacks: u64,
        provider: Provider,
    },
    ModuleAttached {
        interface: Guid,
        module: Guid,
        usable: bool,
    },
    ModuleDetached {
        interface: Guid,
        module: Guid,
    },
    Accepted(u64),
    Closed(u64, i32),
    Lost(u64),
    /// A part of weir that is not there.
    Degraded(&'static str),
}

/// What was told so far.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Heard>>>);

impl Record {
    pub fn hear(&self, event: &Event<'_>) {
        let heard = match *event {
            Event::ExtensionRegistered { session, interface, provider } => {
                Heard::Registered { session, interface, provider }
            }
            Event::ExtensionRefused { session, interface, required, status } => {
                Heard::Refused { session, interface, required, status: status.0 }
            }
            Event::ExtensionFailed { session, interface, provider, required, status } => {
                Heard::Failed { session, interface, provider, required, status: status.0 }
            }
            Event::ExtensionCallback { session, interface, code, value, provider, data } => {
                Heard::Callback { session, interface, code, value, provider, data: data.to_vec() }
            }
            Event::ExtensionDetached { session, interface, callbacks, provider } => {
                Heard::Detached { session, interface, callbacks, provider }
            }
            Event::ExtensionProviderAttached { interface, module, usable } => {
                Heard::ModuleAttached { interface, module, usable }
            }
            Event::ExtensionProviderDetached { interface, module } => {
                Heard::ModuleDetached { interface, module }
            }
            Event::ControlAccepted { session, .. } => Heard::Accepted(session),
            Event::ControlClosed { session, status } => Heard::Closed(session, status.0),
            Event::Degraded { part: "control", .. } => Heard::Degraded("control"),
            Event::Degraded { part: "extension modules", .. } => Heard::Degraded("extension modules"),
            Event::RingLoss { count, .. } => Heard::Lost(count),
            _ => return,
        };
        lock(&self.0).push(heard);
    }

    /// Nothing is heard while the guard is there: who tells waits.
    pub fn hold(&self) -> MutexGuard<'_, Vec<Heard>> {
        lock(&self.0)
    }

    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.0).clone()
    }
}

/// A registration that is told: who has what from whom. Listening sockets are all session 0.
type Key = (u64, Guid, u8);

/// Every end belongs to a registration, every registration has its end, no provider that has called back before the last
/// end does so after it, and ends count the callbacks that are told. (A callback may come before its registration is told,
/// and without one: from within it.) Vendors' callbacks carry who made them in the lower half of their value: see
/// [`super::module::Attachment::id`].
///
/// # Errors
/// What does not hold.
pub fn check_order(heard: &[Heard]) -> Result<(), String> {
    #[derive(Default)]
    struct Standing {
        open: u64,
        counted: u64,
        told: u64,
        /// Who has called back before the last end, and where in the record who has done so since.
        before: HashSet<u64>,
        since: Vec<(usize, u64)>,
    }
    let mut all: HashMap<Key, Standing> = HashMap::new();
    let failed = heard.iter().any(|event| matches!(event, Heard::Failed { .. }));
    for (at, event) in heard.iter().enumerate() {
        match *event {
            Heard::Registered { session, interface, provider } => {
                let standing = all.entry((session, interface, provider as u8)).or_default();
                standing.open += 1;
                standing.before.extend(standing.since.drain(..).map(|(_, by)| by));
            }
            Heard::Detached { session, interface, callbacks, provider } => {
                let standing = all.entry((session, interface, provider as u8)).or_default();
                standing.open = standing
                    .open
                    .checked_sub(1)
                    .ok_or_else(|| format!("event {at}: an end without a registration: {event:?}"))?;
                standing.counted += callbacks;
                standing.before.extend(standing.since.drain(..).map(|(_, by)| by));
            }
            Heard::Callback { session, interface, provider, value, .. } => {
                let standing = all.entry((session, interface, provider as u8)).or_default();
                standing.told += 1;
                if provider == Provider::Builtin && standing.open == 0 {
                    return Err(format!("event {at}: it never calls from within a registration: {event:?}"));
                }
                standing.since.push((at, value & u64::from(u32::MAX)));
            }
            _ => {}
        }
    }
    for (key, standing) in all {
        let Standing { open, counted, told, before, since } = standing;
        if open != 0 {
            return Err(format!("{open} registrations of {key:?} have no end"));
        }
        if let Some((at, _)) = since.iter().find(|(_, by)| before.contains(by)) {
            return Err(format!("event {at}: a callback after the end: {:?}", heard.get(*at)));
        }
        // What a provider called back from within a registration that failed then is told, and has no end.
        if counted > told || (!failed && counted != told) {
            return Err(format!("{key:?}: {counted} callbacks by its ends, {told} told"));
        }
    }
    Ok(())
}
