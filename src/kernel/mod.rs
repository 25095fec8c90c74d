//! Safe primitives over the kernel API: what the rest of the driver is written in.
//!
//! Rules that hold for everything below:
//! - weir has no code above DISPATCH_LEVEL but for a bug check's ([`bugcheck`]), so a function that the documentation allows up to DISPATCH_LEVEL
//!   takes no proof of it. A function that waits, or that is bound to PASSIVE_LEVEL, takes [`irql::Passive`];
//!   one that needs the processor to stay put takes [`irql::AtDispatch`]; see [`irql`].
//! - Whatever can fail returns a [`Status`]; nothing panics, and no memory comes from anywhere but [`pool`].
//! - An object that the kernel holds by address (event, rundown reference, IRP) lives in a pool block of its
//!   own, so that its Rust owner may be moved freely.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable,
        clippy::mem_forget
    )
)]

pub mod boot;
pub mod bugcheck;
pub mod device;
#[cfg(image)]
pub mod etw;
pub mod event;
pub mod file;
pub mod irp;
pub mod irql;
pub mod lock;
pub mod mdl;
pub mod pool;
pub mod processors;
pub mod random;
pub mod registry;
pub mod rundown;
pub mod security;
pub mod shutdown;
mod status;
pub mod string;
pub mod thread;
pub mod time;

pub use status::{Result, Status};
