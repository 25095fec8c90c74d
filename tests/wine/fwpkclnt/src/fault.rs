//! Fault injection: a function that can fail asks here first, and fails as documented when it was told to.

use wine_support::env;
use wine_support::sync::Mutex;
use wine_support::thread::ThreadWord;

use alloc::string::String;
use alloc::vec::Vec;

/// A call that is to fail.
struct Plan {
    api: String,
    /// How many calls pass before.
    pass: u64,
    /// How many fail after those.
    fail: u64,
}

static PLANS: Mutex<Vec<Plan>> = Mutex::new(Vec::new());
static EXEMPT: ThreadWord = ThreadWord::new();

/// Has calls of `api` fail: the `nth` from now, counted from 1, and `count` in all.
pub(crate) fn plan(api: &str, nth: u64, count: u64) {
    PLANS.lock().push(Plan { api: api.into(), pass: nth.saturating_sub(1), fail: count });
}

/// Reads the setting `Faults` (REG_SZ): calls that are to fail from the start on, as `api[:nth[:count]]`, with spaces
/// between.
pub(crate) fn start() {
    for entry in env::setting("Faults").unwrap_or_default().split_whitespace() {
        let mut parts = entry.split(':');
        let api = parts.next().unwrap_or_default();
        let mut number = || parts.next().map_or(Ok(1), str::parse);
        match (number(), number()) {
            (Ok(nth), Ok(count)) => plan(api, nth, count),
            _ => wine_support::log!("the setting Faults: {entry:?} is not api:nth:count"),
        }
    }
}

/// Calls that were to fail and have not been made.
pub(crate) fn pending() -> u64 {
    PLANS.lock().iter().map(|plan| plan.fail).sum()
}

/// Drops all plans.
pub(crate) fn clear() {
    PLANS.lock().clear();
}

/// Whether this call must fail.
pub(crate) fn fail(api: &'static str) -> bool {
    if EXEMPT.get() != 0 {
        return false;
    }
    let mut plans = PLANS.lock();
    let Some(plan) = plans.iter_mut().find(|plan| plan.api == api && plan.fail != 0) else {
        return false;
    };
    if plan.pass != 0 {
        plan.pass -= 1;
        return false;
    }
    plan.fail -= 1;
    wine_support::log!("{api} fails as it was told to");
    true
}

/// Runs `body` with no fault injected on this thread.
pub(crate) fn exempt<T>(body: impl FnOnce() -> T) -> T {
    EXEMPT.set(EXEMPT.get() + 1);
    let result = body();
    EXEMPT.set(EXEMPT.get() - 1);
    result
}
