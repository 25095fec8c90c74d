//! | [`ExtensionInterface`], [`INTERFACES`] | what an interface is, and the table of those that weir speaks |
//! | [`Sockets`], [`Attached`] | per socket: which interfaces it has, from whom; what callbacks find by their context |
//! | [`Callback`] | a provider's call: a claim, a few stores, a commit |
//! | [`Events`] | the rings that callbacks go through, and the thread that they come out on |
//!
//! The contract, from "Winsock Kernel Extension Interfaces", "Registering an Extension Interface",
//! "SIO_WSK_REGISTER_EXTENSION" and "Closing a Socket":
//! - Registration is socket by socket, by the socket's own functions, once for each interface, and ends with the
//!   socket. Extensions do not pass from a listening socket to the sockets that it accepts.
//! - `STATUS_NOT_SUPPORTED` is a normal answer. A socket whose *required* interface cannot be had is closed.
//! - The provider's context and table are kept on exactly `STATUS_SUCCESS`, and are used inside the socket's gate
//!   only: they are dead once close is issued.
//! - weir's context and table outlive close's completion. The contexts lie in one block that is freed after
//!   WskDeregister, and carry a generation: a provider that calls back later than it may is counted and hits nothing.
//!
//! Control sockets have rings of their own, beside those of the flows: a provider that storms cannot push verdicts
//! out, nor the other way round. Events of one socket are delivered in their order; the end of a registration is
//! never lost.
//!
//! IRQL: callbacks <= DISPATCH_LEVEL, on any processor; registration <= DISPATCH_LEVEL; start and stop PASSIVE_LEVEL.
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

pub mod connection_v1;
mod events;
mod gate;
mod interface;
pub mod label_v1;
pub mod module;
mod sockets;

pub use events::{Events, Figures};
pub use interface::{ExtensionInterface, Interface};
pub use sockets::{
    Attached, Callback, Missing, Plan, Provider, Requirement, SocketKind, Sockets, Standing, State, Totals,
};

/// The interfaces that weir speaks.
pub static INTERFACES: [Interface; COUNT] = [Interface::of::<connection_v1::ConnectionV1>()];

const COUNT: usize = 1;
