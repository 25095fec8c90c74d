//! The filter engine of the Windows Filtering Platform, as Microsoft's documentation describes it: providers,
//! sublayers, callouts and filters; sessions, transactions and lifetimes; matching, weights and arbitration.
//!
//! It is pure: no kernel types, no threads, no locks. [`Engine`] is the management side (what the base filtering
//! engine does); a [`Snapshot`] taken from it is all that a classification reads. Flow contexts are in [`flow`].
//! The host calls the callouts, through [`Runtime`], [`Notify`] and [`Host`].
//!
//! Each rule names the page that it comes from. Pages are given by their title in Microsoft's documentation
//! (learn.microsoft.com), e.g. *Filter Arbitration*, or by the function or structure that they are about. Where the
//! documentation is silent and a choice had to be made, the comment says "not documented".

#![no_std]

extern crate alloc;

mod classify;
mod condition;
mod engine;
mod error;
pub mod flow;
mod guid;
mod layer;
mod object;
mod value;
mod weight;

/// What the identifiers are written in. Their file is the driver's own.
mod sys {
    #[allow(clippy::upper_case_acronyms, reason = "the headers' names")]
    pub mod nt {
        pub type GUID = crate::guid::Guid;
        pub type NTSTATUS = i32;
    }
}

#[path = "../../../../src/sys/fwp/id.rs"]
pub mod id;

pub use classify::{
    Called, Callout, Decision, Filter, Host, Layer, Misuse, Outcome, Runtime, Snapshot, SubLayer, Verdict,
};
pub use condition::{Condition, ConditionValue};
pub use engine::{Engine, FilterInfo, Notify, ServiceState, SessionId};
pub use error::{Error, Result};
pub use guid::Guid;
pub use layer::{Field, FieldKind, LayerInfo, layers};
pub use object::{
    Action, CalloutKind, CalloutSpec, DisplayData, FilterFlags, FilterSpec, Lifetime, ProviderSpec,
    SubLayerSpec, Weight,
};
pub use value::{DataType, MatchType, Value, ValueRef};
