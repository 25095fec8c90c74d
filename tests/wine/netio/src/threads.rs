//! Threads: the stand-ins' own on Windows, the standard library's in tests on the host.

#[cfg(not(windows))]
pub use std::thread::{sleep, spawn};
#[cfg(windows)]
pub use wine_support::thread::{sleep, spawn};
