//! Winsock Kernel: the provider, and the sockets of the control plane.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`Registration`], [`Provider`] | attachment to the WSK subsystem |
//! | [`ListenSocket`], [`ConnectionSocket`] | sockets, each with a gate before its functions |
//! | [`Call`] | being inside a socket's gate |
//! | [`Data`], [`SendBuffer`] | what was received, where it lies; what is sent, with its request |
//! | [`ListenEvents`], [`ConnectionEvents`] | what the owners of sockets are told |
//!
//! `unsafe` ends here: users of this module own sockets by safe types. A socket's owner is shared with WSK until the
//! socket's close has completed, so no callback outlives what it is for.
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

pub mod address;
mod connection;
mod data;
mod events;
mod listen;
mod provider;
mod security;
mod socket;

pub use connection::{ConnectionSocket, DialError, RECEIVE_SIZE, SendBuffer};
pub use data::Data;
pub use events::{ConnectionEvents, Disconnected, Incoming, ListenEvents};
pub use listen::{Accepted, ListenError, ListenSocket};
pub use provider::{CaptureError, Provider, Registration, WSK_VERSION};
pub use socket::{CONNECTION_EVENTS, Call, Closing, EVENTS, ExtensionProvider, RawSocket, Step};

/// Statuses that sockets end with.
pub mod status {
    use crate::kernel::Status;
    use crate::sys::nt;

    /// Whether a provider says that it has no such function.
    pub const fn is_unsupported(status: Status) -> bool {
        matches!(status, Status(nt::STATUS_NOT_SUPPORTED | nt::STATUS_NOT_IMPLEMENTED))
    }

    pub const CONNECTION_DISCONNECTED: Status = Status(nt::STATUS_CONNECTION_DISCONNECTED);
    pub const CONNECTION_RESET: Status = Status(nt::STATUS_CONNECTION_RESET);
    pub const IO_TIMEOUT: Status = Status(nt::STATUS_IO_TIMEOUT);
}
