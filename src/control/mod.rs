//! The control plane: weir's own sockets, and the protocol that they speak.
//!
//! [`protocol`] is pure, and shared with the tools; the rest is the driver's.
//!
//! One worker thread at PASSIVE_LEVEL owns every socket, and is the one who speaks: it captures WSK, opens the listeners
//! and opens them anew when they are lost, connects to controllers, registers each socket for its extension interfaces,
//! does handshakes, answers requests, sends events, ends and closes connections. Callbacks, at IRQL <= DISPATCH_LEVEL,
//! only admit a connection, put what has come into its inbox or note what happened, and wake the worker; nothing in them
//! waits. What waits for the file system or for readers of a policy is another thread's ([`crate::policies`]).
//!
//! | object | owned by | until |
//! | --- | --- | --- |
//! | `Shared` | every other object | the last of them |
//! | `Hub` | `Shared`, the trace | the worker has ended, and nobody is inside |
//! | `Listener` | the worker, WSK | its close has completed |
//! | `Session` | the table, WSK | its close has completed |
//! | `Conversation` | the worker | the session is being closed |
//!
//! ```text
//! WSK ── received ──> inbox ── frame ──> speech ── message ──> requests ── answer ──> speech ── frame ──> outbox ── send ──> WSK
//! trace ── event ──> hub: a log for each who follows ── events ──────────────────────────┘
//! ```
//!
//! What one side does costs the others nothing: every request to WSK about a connection is asynchronous, a session has
//! its turn for a few messages at a time, and connections, those of which it is not known who they are, requests and
//! memory have bounds.
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
mod conversation;
#[cfg(kernel)]
mod dialler;
#[cfg(kernel)]
mod hub;
#[cfg(kernel)]
mod inbox;
#[cfg(kernel)]
mod listener;
#[cfg(kernel)]
mod log;
#[cfg(kernel)]
mod plane;
#[cfg(kernel)]
mod requests;
#[cfg(kernel)]
mod session;
#[cfg(kernel)]
mod shared;
#[cfg(kernel)]
mod speech;
#[cfg(kernel)]
mod worker;

#[cfg(kernel)]
pub use plane::{Control, Host, sockets};
#[cfg(kernel)]
pub use session::{End, Session};
#[cfg(kernel)]
pub use shared::Counters;

/// Statuses that connections are refused and ended with.
#[cfg(kernel)]
mod status {
    use crate::kernel::Status;

    pub(super) const ACCESS_DENIED: Status = Status(0xC000_0022_u32.cast_signed());
    pub(super) const INVALID_NETWORK_RESPONSE: Status = Status(0xC000_00C3_u32.cast_signed());
    pub(super) const CONNECTION_COUNT_LIMIT: Status = Status(0xC000_0246_u32.cast_signed());
}
