//! The Network Module Registrar, as the driver declares it.

#[path = "../../../../../src/sys/nmr/abi.rs"]
#[allow(dead_code, reason = "the whole interface, of which not every name is used")]
mod abi;

pub use abi::*;
