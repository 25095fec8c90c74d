//! One value that many threads read, and one replaces: readers hold a reference while they read; whoever replaces the
//! value waits until every reader of the old one is through. What runs during a read runs outside all locks.

use alloc::sync::Arc;

use wine_support::sync::Mutex;
use wine_support::thread::{ThreadWord, yield_now};

/// How many reads a thread is in.
static DEPTH: ThreadWord = ThreadWord::new();

/// The value.
pub(crate) struct Rcu<T> {
    current: Mutex<Option<Arc<T>>>,
}

impl<T: Send + Sync> Rcu<T> {
    /// Without a value.
    pub const fn new() -> Self {
        Self { current: Mutex::new(None) }
    }

    /// Reads the value. Reads may be nested.
    pub fn read<R>(&self, body: impl FnOnce(Option<&T>) -> R) -> R {
        let current = self.current.lock().clone();
        DEPTH.set(DEPTH.get() + 1);
        let result = body(current.as_deref());
        DEPTH.set(DEPTH.get() - 1);
        result
    }

    /// Whether this thread is reading some value.
    pub fn is_reading() -> bool {
        DEPTH.get() != 0
    }

    /// Replaces the value, and returns when nobody reads the old one any more.
    ///
    /// # Panics
    /// Inside a read, which would wait for itself.
    pub fn replace(&self, value: Option<T>) {
        assert!(!Self::is_reading(), "the filters in force cannot change inside a classification");
        let old = core::mem::replace(&mut *self.current.lock(), value.map(Arc::new));
        while old.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
            yield_now();
        }
    }
}
