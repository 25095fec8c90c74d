//! The typed sink that stands in for ETW where the driver runs in the simulated kernel.
//!
//! It is called on the thread that emits the event, at that thread's level, up to DISPATCH_LEVEL: it may take a lock
//! of its own for a moment, and must not call into the driver.

use std::boxed::Box;
use std::sync::{PoisonError, RwLock};

use super::wanted::Wanted;
use super::{Event, Keywords, Level};
use crate::kernel::irql::Passive;

type Sink = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// The sink, and the number of its installation.
static SINK: RwLock<(u64, Option<Sink>)> = RwLock::new((0, None));
static WANTED: Wanted = Wanted::nothing();

/// The sink, as long as it is installed.
#[derive(Debug)]
#[must_use = "dropping it takes the sink away"]
pub struct Installed(u64);

/// Installs a sink for events up to `level` with one of `keywords`, in place of the one before.
pub fn install(
    level: Level,
    keywords: Keywords,
    sink: impl Fn(&Event<'_>) + Send + Sync + 'static,
) -> Installed {
    let mut place = SINK.write().unwrap_or_else(PoisonError::into_inner);
    let number = place.0.wrapping_add(1);
    *place = (number, Some(Box::new(sink)));
    WANTED.set(level as u8, keywords.bits());
    Installed(number)
}

impl Drop for Installed {
    fn drop(&mut self) {
        let mut place = SINK.write().unwrap_or_else(PoisonError::into_inner);
        if place.0 == self.0 {
            WANTED.clear();
            place.1 = None;
        }
    }
}

/// A sink is installed and taken away by whoever listens.
pub(super) const fn open(_passive: &Passive) {}

/// As for [`open`].
pub(super) const fn close(_passive: &Passive) {}

#[inline]
pub(super) fn enabled(level: Level, keywords: Keywords) -> bool {
    WANTED.includes(level, keywords)
}

pub(super) fn hold_to_limit() {
    WANTED.hold_to_limit();
}

pub(super) fn write(event: &Event<'_>) {
    let place = SINK.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(sink) = &place.1 {
        sink(event);
    }
}
