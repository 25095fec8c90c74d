//! Rules of the documentation that the client broke: in the log, and counted for the drive channel.

use crate::sync::Mutex;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Arguments;

/// How many are kept in words.
const KEPT: usize = 100;

struct Reported {
    count: u64,
    kept: Vec<String>,
}

static REPORTED: Mutex<Reported> = Mutex::new(Reported { count: 0, kept: Vec::new() });

/// Reports that a call of `api` broke a rule.
pub fn report(api: &str, what: Arguments<'_>) {
    #[cfg(windows)]
    wine_support::log!("VIOLATION: {api}: {what}");
    let mut reported = REPORTED.lock();
    reported.count += 1;
    if reported.kept.len() < KEPT {
        reported.kept.push(format!("{api}: {what}"));
    }
}

/// How many there were, and the first of them.
pub fn violations() -> (u64, Vec<String>) {
    let reported = REPORTED.lock();
    (reported.count, reported.kept.clone())
}

/// Reports a broken rule, in the words of `format!`.
macro_rules! violation {
    ($api:expr, $($part:tt)*) => { $crate::report::report($api, format_args!($($part)*)) };
}
pub(crate) use violation;
