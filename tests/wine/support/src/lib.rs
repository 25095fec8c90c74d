//! What a stand-in driver in Wine stands on.
//!
//! A stand-in is a Windows DLL under a driver's name: Wine's loader gives it to a driver that imports from it, in the
//! process `winedevice.exe`. It has no C run-time and no standard library, so this crate brings what both would: the
//! process heap as the global allocator, the functions that compilers call, a panic handler that leaves a line in the
//! log and ends the process, locks, threads, a clock, TCP. On top of these: [`mod@log`], the [`drive`] channel, and the NT
//! types ([`nt`]) that the simulated kernel spells.
//!
//! What is pure compiles and is tested on any host; the rest exists on Windows targets only.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub use serde_json as json;

pub mod drive;
pub mod nt;
pub mod tracelogging;

#[cfg(windows)]
pub mod env;
#[cfg(windows)]
mod heap;
#[cfg(windows)]
pub mod log;
#[cfg(windows)]
pub mod net;
#[cfg(windows)]
mod runtime;
#[cfg(windows)]
pub mod sync;
#[cfg(windows)]
pub mod thread;
#[cfg(windows)]
pub mod time;

#[cfg(windows)]
pub use runtime::end_process;
