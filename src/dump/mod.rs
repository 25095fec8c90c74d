#![doc = include_str!("DUMP.md")]
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

pub mod layout;

#[cfg(kernel)]
mod recorder;

#[cfg(kernel)]
pub use recorder::{Recorder, begin, note};
