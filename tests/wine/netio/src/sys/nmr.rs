//! The Network Module Registrar, as the driver declares it.

#[path = "../../../../../src/sys/nmr/abi.rs"]
#[allow(dead_code, reason = "the whole interface, of which not every name is used")]
mod abi;

#[allow(unused_imports, reason = "the probe has no use for it")]
pub use abi::*;
