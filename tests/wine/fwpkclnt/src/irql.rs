//! The IRQL of threads, and the processors that go with it.
//!
//! Wine has no IRQL: a thread is preempted wherever it is. What a driver builds upon is kept here all the same: from
//! DISPATCH_LEVEL up a thread owns a processor, which no other thread is on until it lowers (page "Managing Hardware
//! Priorities"); a thread that raises while none is free waits.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use windows_sys::Win32::System::Threading::GetCurrentThreadId;
use wine_support::thread::{self, ThreadWord};

use crate::sys::nt::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};
use crate::verify::violation;

crate::rules! {
    IRQL_TOO_HIGH = ("IRQL too high", "");
    IRQL_NOT_RESTORED = ("IRQL not restored", "Managing Hardware Priorities");
    IRQL_RAISE_LOWERS = ("raise to a lower IRQL", "KeRaiseIrql");
    IRQL_LOWER_RAISES = ("lower to a higher IRQL", "KeLowerIrql");
}

/// The most processors that are simulated: one group.
pub(crate) const MAXIMUM_PROCESSORS: u32 = 64;

/// The thread that owns each processor, 0 for none.
static OWNERS: [AtomicU32; MAXIMUM_PROCESSORS as usize] =
    [const { AtomicU32::new(0) }; MAXIMUM_PROCESSORS as usize];
static ACTIVE: AtomicU32 = AtomicU32::new(1);
static MAXIMUM: AtomicU32 = AtomicU32::new(1);

/// The IRQL in the lowest byte; above it the number of the last processor and 1, or 0 before the first.
static STATE: ThreadWord = ThreadWord::new();
const LEVEL: usize = 0xFF;

/// Sets how many processors there are, and how many there may be.
pub(crate) fn start(active: u32, maximum: u32) {
    let active = active.clamp(1, MAXIMUM_PROCESSORS);
    MAXIMUM.store(maximum.clamp(active, MAXIMUM_PROCESSORS), Ordering::Release);
    ACTIVE.store(active, Ordering::Release);
}

/// Adds a processor, as hot-adding one would; its number.
pub(crate) fn add_processor() -> Option<u32> {
    let more = |active| (active < maximum_processors()).then_some(active + 1);
    ACTIVE.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()
}

pub(crate) fn active_processors() -> u32 {
    ACTIVE.load(Ordering::Acquire)
}

pub(crate) fn maximum_processors() -> u32 {
    MAXIMUM.load(Ordering::Acquire)
}

#[allow(clippy::cast_possible_truncation, reason = "masked")]
const fn level_of(state: usize) -> KIRQL {
    (state & LEVEL) as KIRQL
}

fn set_level(level: KIRQL) {
    STATE.set(STATE.get() & !LEVEL | usize::from(level));
}

/// The calling thread's IRQL.
pub(crate) fn current() -> KIRQL {
    level_of(STATE.get())
}

/// The processor that the calling thread is on: from DISPATCH_LEVEL up the one that it owns, below the last one.
pub(crate) fn processor() -> u32 {
    match u32::try_from(STATE.get() >> 8) {
        Ok(number @ 1..) => number - 1,
        _ => thread_number() / 4 % active_processors(),
    }
}

/// Thread identifiers are multiples of four.
fn thread_number() -> u32 {
    // SAFETY: no preconditions.
    unsafe { GetCurrentThreadId() }
}

fn take_processor() {
    let me = thread_number();
    let mut attempts = 0u32;
    loop {
        let active = active_processors();
        let first = processor();
        for step in 0..active {
            let number = (first + step) % active;
            let owner = &OWNERS[number as usize];
            if owner.load(Ordering::Relaxed) == 0
                && owner.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                STATE.set((number as usize + 1) << 8 | usize::from(current()));
                return;
            }
        }
        attempts += 1;
        match attempts {
            0..32 => core::hint::spin_loop(),
            32..256 => thread::yield_now(),
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn release_processor() {
    OWNERS[processor() as usize].store(0, Ordering::Release);
}

/// Raises to `new` and returns the IRQL before.
pub(crate) fn raise(new: KIRQL) -> KIRQL {
    let old = current();
    if new < old {
        violation(&IRQL_RAISE_LOWERS, "KeRaiseIrql", alloc::format!("from {old} to {new}"));
        return old;
    }
    if new >= DISPATCH_LEVEL && old < DISPATCH_LEVEL {
        take_processor();
    }
    set_level(new);
    old
}

/// Lowers to `new`.
pub(crate) fn lower(new: KIRQL) {
    let old = current();
    if new > old {
        violation(&IRQL_LOWER_RAISES, "KeLowerIrql", alloc::format!("from {old} to {new}"));
        return;
    }
    set_level(new);
    if new < DISPATCH_LEVEL && old >= DISPATCH_LEVEL {
        release_processor();
    }
}

/// Raised until dropped; see [`raise_scope`].
#[must_use]
pub(crate) struct Raised {
    old: KIRQL,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for Raised {
    fn drop(&mut self) {
        lower(self.old);
    }
}

/// Raises to DISPATCH_LEVEL until the guard goes.
pub(crate) fn raise_scope() -> Raised {
    Raised { old: raise(current().max(DISPATCH_LEVEL)), _this_thread: PhantomData }
}

/// Checks the documented upper limit of `api`.
pub(crate) fn require_at_most(api: &'static str, limit: KIRQL) {
    let level = current();
    if level > limit {
        let detail = alloc::format!("called at IRQL {level}, allowed up to {limit}");
        violation(&IRQL_TOO_HIGH, api, detail);
    }
}

/// Runs a callback of the driver and checks that it comes back at the IRQL that it was called at.
pub(crate) fn same_irql<T>(callback: &'static str, body: impl FnOnce() -> T) -> T {
    let before = current();
    let result = body();
    restore(callback, before);
    result
}

/// Puts the thread back to `level`, where a callback should have left it.
fn restore(callback: &'static str, level: KIRQL) {
    let after = current();
    if after == level {
        return;
    }
    let detail = alloc::format!("entered at IRQL {level}, returned at {after}");
    violation(&IRQL_NOT_RESTORED, callback, detail);
    if after > level {
        lower(level);
    } else {
        raise(level);
    }
}

/// A thread that the driver has used ends, or goes back to a pool: it must be at PASSIVE_LEVEL.
pub(crate) fn leave(routine: &'static str) {
    restore(routine, PASSIVE_LEVEL);
}
