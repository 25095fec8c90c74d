//! Locks: the stand-ins' own on Windows, the standard library's in tests on the host.

#[cfg(windows)]
pub use wine_support::sync::{Condvar, Mutex, MutexGuard};

#[cfg(not(windows))]
pub use host::{Condvar, Mutex};

#[cfg(not(windows))]
mod host {
    use std::sync::PoisonError;
    use std::time::Duration;

    pub type MutexGuard<'m, T> = std::sync::MutexGuard<'m, T>;

    #[derive(Default)]
    pub struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Default)]
    pub struct Condvar(std::sync::Condvar);

    impl Condvar {
        pub const fn new() -> Self {
            Self(std::sync::Condvar::new())
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        pub fn wait_timeout<'m, T>(&self, guard: MutexGuard<'m, T>, time: Duration) -> MutexGuard<'m, T> {
            self.0.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}
