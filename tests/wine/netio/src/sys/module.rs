//! What vendors' modules and the driver exchange, as the driver declares it.

#[path = "../../../../../src/ext/module.rs"]
#[allow(dead_code, reason = "the whole interface, of which not every name is used")]
mod abi;

pub use abi::*;
