//! The functions of `fwpkclnt.sys` with the kernel's prototypes, over the filter engine of [`crate::wfp`].
//! Types and identifiers are the driver's own (`src/sys/fwp/abi.rs`).

#[path = "../../../../../src/sys/fwp/abi.rs"]
mod abi;

pub use abi::*;
