//! What the modules of the filtering platform and of the TCP/IP stack (`wfp`, `tcpip`, `sys::fwp`) need of the host.
//!
//! Those modules are also compiled into the stand-in `fwpkclnt.sys` for Wine (`tests/wine`), which has no standard
//! library: there, a module of this name offers the same over the Windows API.

use std::sync::PoisonError;
use std::time::Duration;

pub(crate) use std::sync::{Condvar, LazyLock as Lazy, Mutex, MutexGuard};
pub(crate) use std::thread::{ThreadId, yield_now};
pub(crate) use std::time::Instant;

pub(crate) use crate::verify::lock;

/// Waits for a condition; may wake for nothing.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a condition or for the time; may wake for nothing.
pub(crate) fn wait_timeout<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
}

/// The calling thread.
pub(crate) fn current_thread() -> ThreadId {
    std::thread::current().id()
}

/// Runs `body` on a thread of its own.
///
/// # Panics
/// When the host has no thread to give.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(body);
    spawned.expect("the host has no thread to give");
}

/// Defines flags that each thread has of its own, `false` to begin with; with `get`, `set` and `replace`.
macro_rules! thread_flags {
    ($($(#[$meta:meta])* static $name:ident;)+) => {
        std::thread_local! {
            $($(#[$meta])* static $name: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };)+
        }
    };
}
pub(crate) use thread_flags;
