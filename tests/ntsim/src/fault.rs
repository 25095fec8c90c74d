//! Fault injection: every API that can fail asks [`fail`] first, and fails as documented when told to.
//!
//! A plan says which call fails. Calls are counted from the moment the plan is set, so a walk over a path runs it once
//! with [`Plan::None`], reads [`calls`], and then fails each call in turn.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::verify::lock;

/// Which fallible calls fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    #[default]
    None,
    /// The n-th fallible call from now, counted from 1, and no other.
    Nth(u64),
    /// The n-th and every later one.
    From(u64),
    /// The n-th call of one API, counted from 1.
    Api { name: &'static str, nth: u64 },
    /// One call in `one_in`, chosen by the seed.
    Seeded { seed: u64, one_in: u64 },
}

/// A call that was made to fail.
#[derive(Clone, Debug)]
pub struct Injected {
    pub api: &'static str,
    /// Its number among all fallible calls since the plan was set, from 1.
    pub call: u64,
    pub thread: String,
    /// When [`crate::Config::backtraces`] asks for it.
    pub backtrace: Option<String>,
}

const COUNTING: u8 = 0;
const DECIDING: u8 = 1;

static MODE: AtomicU8 = AtomicU8::new(COUNTING);
static CALLS: AtomicU64 = AtomicU64::new(0);
static OF_API: AtomicU64 = AtomicU64::new(0);
static PLAN: Mutex<(Plan, Vec<Injected>)> = Mutex::new((Plan::None, Vec::new()));

thread_local! {
    static EXEMPT: Cell<u32> = const { Cell::new(0) };
}

/// Sets the plan and starts counting anew.
pub fn set(plan: Plan) {
    let mut state = lock(&PLAN);
    *state = (plan, Vec::new());
    CALLS.store(0, Ordering::Relaxed);
    OF_API.store(0, Ordering::Relaxed);
    MODE.store(if plan == Plan::None { COUNTING } else { DECIDING }, Ordering::Release);
}

/// Fallible calls seen since the plan was set.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// The calls that were made to fail since the plan was set.
pub fn injected() -> Vec<Injected> {
    lock(&PLAN).1.clone()
}

/// Called inside every API that can fail: whether this call must fail.
#[inline]
pub fn fail(api: &'static str) -> bool {
    if EXEMPT.get() != 0 {
        return false;
    }
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    MODE.load(Ordering::Acquire) != COUNTING && decide(api, call)
}

#[cold]
fn decide(api: &'static str, call: u64) -> bool {
    let mut state = lock(&PLAN);
    let fails = match state.0 {
        Plan::None => false,
        Plan::Nth(nth) => call == nth,
        Plan::From(nth) => call >= nth,
        Plan::Api { name, nth } => name == api && OF_API.fetch_add(1, Ordering::Relaxed) + 1 == nth,
        Plan::Seeded { seed, one_in } => one_in != 0 && mix(seed ^ mix(call)).is_multiple_of(one_in),
    };
    if fails {
        state.1.push(Injected {
            api,
            call,
            thread: crate::verify::thread_name(),
            backtrace: crate::verify::backtrace().map(|backtrace| backtrace.to_string()),
        });
    }
    fails
}

/// The finaliser of splitmix64.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Runs `body`, on this thread, with no fault injected and no call counted: for what the simulator does for itself.
pub fn exempt<T>(body: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            EXEMPT.set(EXEMPT.get() - 1);
        }
    }
    EXEMPT.set(EXEMPT.get() + 1);
    let _leave = Leave;
    body()
}
