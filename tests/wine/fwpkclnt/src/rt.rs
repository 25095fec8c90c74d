//! What the modules of the filtering platform and of the TCP/IP stack, which the simulated kernel shares with this
//! stand-in, need of the host: over the Windows API.

use core::time::Duration;

pub(crate) use wine_support::sync::{Condvar, Lazy, Mutex, MutexGuard};
pub(crate) use wine_support::thread::{ThreadId, current as current_thread, yield_now};
pub(crate) use wine_support::time::Instant;

/// Waits for a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Waits for a condition; may wake for nothing.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard)
}

/// Waits for a condition or for the time; may wake for nothing.
pub(crate) fn wait_timeout<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, time)
}

/// Runs `body` on a thread of its own.
pub(crate) fn spawn(_name: &str, body: impl FnOnce() + Send + 'static) {
    drop(wine_support::thread::spawn(body));
}

/// Defines flags that each thread has of its own, `false` to begin with; with `get`, `set` and `replace`.
macro_rules! thread_flags {
    ($($(#[$meta:meta])* static $name:ident;)+) => {
        $($(#[$meta])* static $name: ::wine_support::thread::ThreadFlag =
            ::wine_support::thread::ThreadFlag::new();)+
    };
}
pub(crate) use thread_flags;
