//! Extension interfaces: registration of weir's sockets for them, and the way of their callbacks.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`ExtensionInterface`], [`INTERFACES`] | what an interface is, and the table of those that weir speaks |
//! | [`connection_v1`], [`label_v1`] | the interfaces |
//! | [`Plan`] | which of them sockets are to have, and by whom, as the settings want it |
//! | [`Sockets`], [`Attached`] | per socket: which interfaces it has, from whom; what callbacks find by their context |
//! | [`module`], `modules` | vendors' modules at the Network Module Registrar |
//! | [`Traffic`] | weir's own provider of `connection_v1` |
//! | [`Callback`] | a provider's call: a claim, a few stores, a commit |
//! | `events` | what callbacks, beginnings and ends come out of the dispatch ring as |
//!
//! Three kinds of providers are asked in the order of the settings until one grants: the WSK subsystem; vendors' modules,
//! of which each is offered every socket; weir itself. A module that comes later is offered the sockets that there are,
//! unless WSK, or a kind that is asked before modules, provides the interface; weir itself steps back then, and comes back
//! when the last module has left. WSK is asked once for a socket, when it is new.
//!
//! The contract with WSK, from "Winsock Kernel Extension Interfaces", "Registering an Extension Interface",
//! "SIO_WSK_REGISTER_EXTENSION" and "Closing a Socket":
//! - Registration is socket by socket, by the socket's own functions, once for each interface, and ends with the
//!   socket. Extensions do not pass from a listening socket to the sockets that it accepts.
//! - `STATUS_NOT_SUPPORTED` is a normal answer. A socket whose *required* interface cannot be had is closed.
//! - The provider's context and table are kept on exactly `STATUS_SUCCESS`, and are used inside the socket's gate
//!   only: they are dead once close is issued.
//! - weir's context and table outlive close's completion. The contexts lie in one block that is freed after
//!   WskDeregister, and carry a generation: a provider that calls back later than it may is counted and hits nothing.
//!
//! Callbacks go through the driver's one dispatch ring, of which they leave the last quarter to others: a provider that
//! storms cannot push verdicts out. Events of one socket are delivered in their order; beginnings and ends are never lost.
//!
//! IRQL: callbacks <= DISPATCH_LEVEL, on any processor; registration, start and stop PASSIVE_LEVEL.
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

mod builtin;
mod callback;
pub mod connection_v1;
mod door;
mod events;
mod gate;
mod interface;
pub mod label_v1;
pub mod module;
mod modules;
mod plan;
mod slot;
mod sockets;

pub use builtin::Traffic;
pub use callback::Callback;
pub use interface::{ExtensionInterface, Interface};
pub use plan::{Marks, Plan};
pub use slot::{Ends, Slot, SocketKind, State};
pub use sockets::{Attached, Missing, Provider, Sockets, Standing, Tally, Tended, Totals};

/// The interfaces that weir speaks.
pub static INTERFACES: [Interface; 2] =
    [Interface::of::<connection_v1::ConnectionV1>(), Interface::of::<label_v1::LabelV1>()];
