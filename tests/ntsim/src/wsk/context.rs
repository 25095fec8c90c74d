//! What the calling thread is doing on behalf of WSK: running a callback, or a completion routine.

use std::cell::RefCell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// An event callback, a WSK one or an extension's.
    Callback(&'static str),
    /// The completion routine of an IRP that the named function was given.
    Completion(&'static str),
}

thread_local! {
    static DOING: RefCell<Vec<Doing>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with the thread marked.
pub fn during<T>(doing: Doing, body: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DOING.with_borrow_mut(Vec::pop);
        }
    }
    DOING.with_borrow_mut(|stack| stack.push(doing));
    let _leave = Leave;
    body()
}

/// What the thread is doing, innermost.
pub fn current() -> Option<Doing> {
    DOING.with_borrow(|stack| stack.last().copied())
}
