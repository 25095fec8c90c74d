//! Winsock Kernel as a driver sees it: the types of `wsk.h` and the five exports of netio.sys. What they do is in
//! [`crate::wsk`].

#[path = "../../../../../src/sys/wsk/abi.rs"]
mod abi;

pub use abi::*;
