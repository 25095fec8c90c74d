//! The functions of `fwpkclnt.sys` with the kernel's prototypes, over the filter engine of [`crate::wfp`].
//! Types and identifiers are the driver's own (`src/sys/fwp/abi.rs`).
//!
//! Each function checks its IRQL, fails when fault injection says so, and converts its arguments; the rules are in the
//! crate `wfp_engine`.

#[path = "../../../../../src/sys/fwp/abi.rs"]
mod abi;
#[cfg(test)]
mod layout_tests;
mod management;
mod runtime;

pub use abi::*;
pub use management::*;
pub use runtime::*;
