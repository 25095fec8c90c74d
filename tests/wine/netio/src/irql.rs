//! The IRQL of callbacks and completions.
//!
//! Wine has no IRQL, and its own functions do nothing; the module that fills the kernel's gaps replaces them by ones that keep
//! it for each thread.

pub use own::{as_callback, is_passive};

#[cfg(windows)]
mod own {
    use crate::machine;
    use crate::sys::nt::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};

    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "C" {
        fn KeGetCurrentIrql() -> KIRQL;
        fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL;
        fn KeLowerIrql(NewIrql: KIRQL);
    }

    /// Whether the calling thread is at PASSIVE_LEVEL.
    pub fn is_passive() -> bool {
        // SAFETY: no preconditions.
        unsafe { KeGetCurrentIrql() == PASSIVE_LEVEL }
    }

    /// Runs `body` at the IRQL that the settings choose for callbacks; it is told whether that is DISPATCH_LEVEL.
    pub fn as_callback<T>(body: impl FnOnce(bool) -> T) -> T {
        if !machine::callback_at_dispatch() {
            return body(false);
        }
        // SAFETY: the calling thread is at or below DISPATCH_LEVEL: its own, or a client's in a call.
        let before = unsafe { KfRaiseIrql(DISPATCH_LEVEL) };
        let result = body(true);
        // SAFETY: back to where this thread was.
        unsafe { KeLowerIrql(before) };
        result
    }
}

/// Hosts have no IRQL.
#[cfg(not(windows))]
mod own {
    pub const fn is_passive() -> bool {
        true
    }

    pub fn as_callback<T>(body: impl FnOnce(bool) -> T) -> T {
        body(false)
    }
}
