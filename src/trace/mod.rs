//! Tracing: what weir tells of itself, as ETW events of the provider `Weir.Driver`.
//!
//! [`events`] is the one table of events. [`emit`] may be called at any level up to DISPATCH_LEVEL, from anywhere: it
//! allocates nothing, waits for nothing, and for an event that nobody listens to it only tests a flag. Names,
//! fields, levels and keywords are public API.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod events;
mod guid;

pub use events::{Event, Keywords, Kind, Level, NtStatus};
pub use guid::Guid;

/// The provider's name.
pub const PROVIDER_NAME: &str = "Weir.Driver";
/// The provider's id, made from its name as EventSource does.
pub const PROVIDER_ID: Guid = Guid {
    data1: 0x68ee_ea74,
    data2: 0x36e9,
    data3: 0x51b6,
    data4: [0xd5, 0x9b, 0xeb, 0x01, 0x98, 0xbe, 0x0a, 0xff],
};

/// Whether anybody listens to events of this level and these keywords.
#[inline]
pub fn enabled(level: Level, keywords: Keywords) -> bool {
    backend::enabled(level, keywords) || follow::enabled(level, keywords)
}

/// Hands an event to whoever listens.
#[inline]
pub fn emit(event: &Event<'_>) {
    let (level, keywords) = (event.level(), event.keywords());
    if backend::enabled(level, keywords) {
        backend::write(event);
    }
    if follow::enabled(level, keywords) {
        follow::tell(event);
    }
}

/// A typed sink in place of ETW.
#[cfg(feature = "sim")]
pub mod sink;
#[cfg(feature = "sim")]
use sink as backend;

#[cfg(image)]
mod etw;
#[cfg(image)]
use etw as backend;

#[cfg(kernel)]
pub mod follow;
#[cfg(any(kernel, test))]
mod metadata;
#[cfg(any(kernel, test))]
mod payload;
#[cfg(feature = "sim")]
pub mod recorded;
#[cfg(feature = "sim")]
mod samples;
#[cfg(kernel)]
mod wanted;

/// Without a kernel there is nobody to listen: the table serves documentation and tools.
#[cfg(not(kernel))]
mod backend {
    use super::{Event, Keywords, Level};

    pub const fn enabled(_level: Level, _keywords: Keywords) -> bool {
        false
    }

    pub const fn write(_event: &Event<'_>) {}
}

/// Nor anybody to follow.
#[cfg(not(kernel))]
mod follow {
    use super::{Event, Keywords, Level};

    pub const fn enabled(_level: Level, _keywords: Keywords) -> bool {
        false
    }

    pub const fn tell(_event: &Event<'_>) {}
}

/// Makes the provider known, before the driver's first event. Without it, events are lost, and nothing else.
#[cfg(kernel)]
pub fn open(passive: &crate::kernel::irql::Passive) {
    backend::open(passive);
}

/// Takes the provider away, after the driver's last event. Called once for each [`open`].
#[cfg(kernel)]
pub fn close(passive: &crate::kernel::irql::Passive) {
    backend::close(passive);
    wanted::lift_limit();
    hold_to_limit();
}

/// What is told at most, whatever anybody asks for: events up to that level with one of those keywords. Until the
/// provider is taken away.
#[cfg(kernel)]
pub fn limit(level: events::TraceLevel, keywords: Keywords) {
    wanted::limit(level as u8, keywords.bits());
    hold_to_limit();
}

#[cfg(kernel)]
fn hold_to_limit() {
    backend::hold_to_limit();
    follow::hold_to_limit();
}

#[cfg(test)]
mod tests;
