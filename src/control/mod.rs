//! The control plane: weir's own sockets, and the protocol that they speak.
//!
//! [`protocol`] is pure, and shared with the tools; the rest is the driver's.
//!
//! One worker thread at PASSIVE_LEVEL owns every socket: it captures WSK, opens the listener and opens it anew when it
//! is lost, registers each socket for its extension interfaces, ends and closes connections. Callbacks, at IRQL <=
//! DISPATCH_LEVEL, only admit a connection or note what happened, and wake the worker; nothing in them waits.
//!
//! | object | owned by | until |
//! | --- | --- | --- |
//! | `Shared` | every other object | the last of them |
//! | `Listener` | the worker, WSK | its close has completed |
//! | `Session` | the table, WSK | its close has completed |
//!
//! A connection is held until its peer ends it, it has been idle for too long, or weir stops; what it sends is
//! consumed and counted: `Session` is where a protocol goes in. No more than so many are there at a time; further
//! ones are refused. A peer that stalls holds up nobody: every request to WSK about a connection is asynchronous.
#![forbid(unsafe_code)]
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

pub mod protocol;

#[cfg(kernel)]
mod listener;
#[cfg(kernel)]
mod plane;
#[cfg(kernel)]
mod session;
#[cfg(kernel)]
mod shared;
#[cfg(kernel)]
mod worker;

#[cfg(kernel)]
pub use plane::{Control, Parameters};
#[cfg(kernel)]
pub use session::{End, Session};
#[cfg(kernel)]
pub use shared::Counters;
