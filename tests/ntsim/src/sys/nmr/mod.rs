//! The Network Module Registrar as a driver sees it: the types of `netioddk.h` and the exports of netio.sys. What
//! they do is in [`crate::nmr`].

#[path = "../../../../../src/sys/nmr/abi.rs"]
mod abi;

pub use abi::*;
