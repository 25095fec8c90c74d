#![doc = include_str!("README.md")]
#![doc = include_str!("FIGURES.md")]
#![doc = include_str!("figures.svg")]
#![allow(clippy::inline_always, reason = "a push takes a few nanoseconds, calls included")]

mod dispatcher;
mod life;
mod line;
#[cfg(all(loom, test))]
mod loom_models;
mod processor;
mod record;
mod rings;
pub(crate) mod sync;

pub use dispatcher::{Bounds, Dispatcher, Handler, Record, Summary};
pub use life::{LifeCycle, Link, Linked, NoObject, Object};
pub use line::{Line, MAX_LINES, OBJECT_PAYLOAD, PAYLOAD, Stamp};
pub use processor::{AttachError, Cause, Claim, Refused, Ring};
pub use record::*;
pub use rings::{Entry, Here, Owned, Rings, Supply, Taken, Waker};

/// Proof that the caller owns a processor.
///
/// # Safety
/// While a value of the type exists, the thread that holds it stays on the processor that [`processor`]
/// names, and no other holder of such a value runs on that processor: on Windows, IRQL is DISPATCH_LEVEL.
/// The number is system-wide (over all processor groups), does not change during the life of the value,
/// and the value is neither `Send` nor `Sync`.
///
/// [`processor`]: OnProcessor::processor
pub unsafe trait OnProcessor {
    /// The processor's system-wide number.
    fn processor(&self) -> u32;
}

/// Proof that nobody but the caller runs.
///
/// # Safety
/// While a value of the type exists, no other processor executes anything, and the caller is not interrupted.
pub unsafe trait Alone {}
