//! IRQL and virtual processors.
//!
//! Each thread has its IRQL. Raising to DISPATCH_LEVEL takes exclusive ownership of one virtual processor: the
//! thread's last one when it is free, else any free one, else the thread waits for one. So at DISPATCH_LEVEL a thread
//! is neither preempted by, nor shares its processor with, another simulated thread; below it, a thread belongs to a
//! processor only loosely and may migrate (page "Managing Hardware Priorities", WDK kernel guide).
//!
//! Raise and lower cost one uncontended compare-and-swap and one store.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::rules;
use crate::sys::nt::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};
use crate::verify::violation;

/// The most processors a machine can have.
pub const MAXIMUM_PROCESSORS: usize = 64;

rules! {
    IRQL_TOO_HIGH = ("IRQL too high", "");
    IRQL_TOO_LOW = ("IRQL too low", "");
    IRQL_NOT_RESTORED = ("IRQL not restored", "Managing Hardware Priorities");
    IRQL_RAISE_LOWERS = ("raise to a lower IRQL", "KeRaiseIrql");
    IRQL_LOWER_RAISES = ("lower to a higher IRQL", "KeLowerIrql");
    AFTER_TERMINATE = ("kernel call after PsTerminateSystemThread", "PsTerminateSystemThread");
}

#[repr(align(128))]
struct Processor {
    /// The number of the thread that owns it; 0 when it is free.
    owner: AtomicU32,
}

static PROCESSORS: [Processor; MAXIMUM_PROCESSORS] =
    [const { Processor { owner: AtomicU32::new(0) } }; MAXIMUM_PROCESSORS];
/// 0 when no machine is booted.
static ACTIVE: AtomicU32 = AtomicU32::new(0);
static MAXIMUM: AtomicU32 = AtomicU32::new(0);
/// A thread moves to another processor at each such number of raises; 0 is never.
static MIGRATE_EVERY: AtomicU32 = AtomicU32::new(0);
static NEXT_THREAD: AtomicU32 = AtomicU32::new(1);

struct Thread {
    irql: Cell<KIRQL>,
    /// The last processor; `u32::MAX` before the first.
    processor: Cell<u32>,
    number: Cell<u32>,
    raises: Cell<u32>,
    terminated: Cell<bool>,
    system: Cell<bool>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            irql: Cell::new(PASSIVE_LEVEL),
            processor: Cell::new(u32::MAX),
            number: Cell::new(0),
            raises: Cell::new(0),
            terminated: Cell::new(false),
            system: Cell::new(false),
        }
    };
}

pub(crate) fn start(active: u32, maximum: u32, migrate_every: u32) {
    for processor in &PROCESSORS {
        processor.owner.store(0, Ordering::Relaxed);
    }
    MIGRATE_EVERY.store(migrate_every, Ordering::Relaxed);
    MAXIMUM.store(maximum, Ordering::Relaxed);
    ACTIVE.store(active, Ordering::Release);
}

pub(crate) fn stop() {
    ACTIVE.store(0, Ordering::Release);
}

/// Adds a processor, as hot-adding one would. Returns its index, or `None` when the machine has its maximum.
pub(crate) fn add_processor() -> Option<u32> {
    let maximum = MAXIMUM.load(Ordering::Relaxed);
    ACTIVE
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| (active < maximum).then_some(active + 1))
        .ok()
}

pub fn active_processors() -> u32 {
    ACTIVE.load(Ordering::Acquire)
}

pub fn maximum_processors() -> u32 {
    MAXIMUM.load(Ordering::Relaxed)
}

/// The calling thread's IRQL.
#[inline]
pub fn current() -> KIRQL {
    THREAD.with(|thread| thread.irql.get())
}

/// The processor that the calling thread runs on: at DISPATCH_LEVEL the one it owns, below only the last one.
#[inline]
pub fn processor() -> u32 {
    THREAD.with(|thread| {
        if thread.processor.get() == u32::MAX {
            thread.first_processor();
        }
        thread.processor.get()
    })
}

/// The calling thread, below DISPATCH_LEVEL, goes to this processor, if it is active: it raises there when the processor is
/// free.
///
/// # Panics
/// At DISPATCH_LEVEL.
pub fn move_to(processor: u32) {
    assert!(current() < DISPATCH_LEVEL, "the thread owns its processor");
    THREAD.with(|thread| {
        thread.number();
        thread.processor.set(processor);
    });
}

/// A number that tells simulated threads apart; never 0.
pub fn thread_number() -> u32 {
    THREAD.with(Thread::number)
}

/// Raises to DISPATCH_LEVEL and returns the IRQL before.
#[inline]
pub fn raise_to_dispatch() -> KIRQL {
    THREAD.with(|thread| {
        let old = thread.irql.get();
        if old < DISPATCH_LEVEL {
            thread.take_processor();
            thread.irql.set(DISPATCH_LEVEL);
        } else if old > DISPATCH_LEVEL {
            violation(&IRQL_RAISE_LOWERS, "KeRaiseIrqlToDpcLevel", format!("from {old} to {DISPATCH_LEVEL}"));
        }
        old
    })
}

/// Raises to `new` and returns the IRQL before.
pub fn raise(new: KIRQL) -> KIRQL {
    let old = current();
    if new < old {
        violation(&IRQL_RAISE_LOWERS, "KeRaiseIrql", format!("from {old} to {new}"));
        return old;
    }
    if new >= DISPATCH_LEVEL && old < DISPATCH_LEVEL {
        raise_to_dispatch();
    }
    THREAD.with(|thread| thread.irql.set(new));
    old
}

/// Lowers to `new`.
#[inline]
pub fn lower(new: KIRQL) {
    THREAD.with(|thread| {
        let old = thread.irql.get();
        if new > old {
            violation(&IRQL_LOWER_RAISES, "KeLowerIrql", format!("from {old} to {new}"));
            return;
        }
        if new < DISPATCH_LEVEL && old >= DISPATCH_LEVEL {
            crate::lock::require_none_held("KeLowerIrql");
            thread.irql.set(new);
            thread.release_processor();
        } else {
            thread.irql.set(new);
        }
    });
}

/// Raised until dropped; see [`raise_scope`].
#[must_use]
pub struct Raised {
    old: KIRQL,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for Raised {
    fn drop(&mut self) {
        lower(self.old);
    }
}

/// Raises to DISPATCH_LEVEL until the guard goes.
pub fn raise_scope() -> Raised {
    Raised { old: raise_to_dispatch(), _this_thread: PhantomData }
}

/// Keeps all processors but the calling thread's from running anything at DISPATCH_LEVEL, until dropped.
pub(crate) struct Frozen(Vec<usize>);

/// See [`Frozen`]. The calling thread is at DISPATCH_LEVEL or above, and owns its processor.
pub(crate) fn freeze() -> Frozen {
    /// No thread's number: they count from 1, and a machine has not so many.
    const NOBODY: u32 = u32::MAX;
    let own = processor() as usize;
    let others = (0..active_processors() as usize).filter(|&index| index != own);
    Frozen(
        others
            .inspect(|&index| {
                let owner = &PROCESSORS[index].owner;
                while owner.compare_exchange(0, NOBODY, Ordering::Acquire, Ordering::Relaxed).is_err() {
                    std::thread::yield_now();
                }
            })
            .collect(),
    )
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for &index in &self.0 {
            PROCESSORS[index].owner.store(0, Ordering::Release);
        }
    }
}

/// Checks the documented upper limit of `api`. Returns whether it was kept.
#[inline]
pub fn require_at_most(api: &'static str, limit: KIRQL) -> bool {
    THREAD.with(|thread| {
        let kept = thread.irql.get() <= limit;
        if !kept || thread.terminated.get() {
            breach(api, limit, kept);
        }
        kept
    })
}

/// Checks the documented lower limit of `api`. Returns whether it was kept.
#[inline]
pub fn require_at_least(api: &'static str, limit: KIRQL) -> bool {
    let kept = current() >= limit;
    if !kept {
        violation(&IRQL_TOO_LOW, api, format!("called at IRQL {}, needs at least {limit}", current()));
    }
    kept
}

#[cold]
fn breach(api: &'static str, limit: KIRQL, kept: bool) {
    if !kept {
        violation(&IRQL_TOO_HIGH, api, format!("called at IRQL {}, allowed up to {limit}", current()));
    }
    if THREAD.with(|thread| thread.terminated.get()) {
        violation(&AFTER_TERMINATE, api, "the thread must do nothing more");
    }
}

/// Runs a callback of the driver and checks that it comes back at the IRQL it was called at.
pub fn same_irql<T>(callback: &'static str, body: impl FnOnce() -> T) -> T {
    let before = current();
    let result = body();
    let after = current();
    if after != before {
        violation(&IRQL_NOT_RESTORED, callback, format!("entered at IRQL {before}, returned at {after}"));
        restore(before);
    }
    result
}

/// Puts the thread back to `level` after a callback left it elsewhere.
pub(crate) fn restore(level: KIRQL) {
    crate::lock::forget_held();
    if current() > level {
        lower(level);
    } else {
        raise(level);
    }
}

/// The thread is a system thread from here on.
pub(crate) fn enter_system_thread() {
    THREAD.with(|thread| {
        thread.system.set(true);
        thread.terminated.set(false);
    });
}

/// Whether the calling thread was made by the simulated kernel.
pub fn is_system_thread() -> bool {
    THREAD.with(|thread| thread.system.get())
}

pub(crate) fn terminate_thread() {
    THREAD.with(|thread| thread.terminated.set(true));
}

pub(crate) fn leave_system_thread(routine: &'static str) {
    THREAD.with(|thread| thread.terminated.set(false));
    let level = current();
    if level != PASSIVE_LEVEL {
        violation(&IRQL_NOT_RESTORED, routine, format!("the thread ended at IRQL {level}"));
        restore(PASSIVE_LEVEL);
    }
}

impl Thread {
    fn number(&self) -> u32 {
        if self.number.get() == 0 {
            self.number.set(NEXT_THREAD.fetch_add(1, Ordering::Relaxed).max(1));
        }
        self.number.get()
    }

    #[cold]
    fn first_processor(&self) {
        let active = active_processors();
        assert!(active != 0, "no simulated machine is booted: call ntsim::boot first");
        self.processor.set(self.number() % active);
    }

    #[inline]
    fn take_processor(&self) {
        let last = self.processor.get();
        if last < ACTIVE.load(Ordering::Relaxed)
            && let Some(processor) = PROCESSORS.get(last as usize)
            && processor
                .owner
                .compare_exchange(0, self.number.get(), Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            return;
        }
        self.take_any_processor();
    }

    #[cold]
    fn take_any_processor(&self) {
        if self.processor.get() >= active_processors() {
            self.first_processor();
        }
        let mut attempts = 0u32;
        loop {
            let active = active_processors();
            let start = self.processor.get();
            for step in 0..active {
                let index = (start + step) % active;
                let owner = &PROCESSORS[index as usize].owner;
                if owner.load(Ordering::Relaxed) == 0
                    && owner.compare_exchange(0, self.number(), Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    self.processor.set(index);
                    return;
                }
            }
            attempts += 1;
            match attempts {
                0..64 => std::hint::spin_loop(),
                64..256 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(20)),
            }
        }
    }

    #[inline]
    fn release_processor(&self) {
        PROCESSORS[self.processor.get() as usize % MAXIMUM_PROCESSORS].owner.store(0, Ordering::Release);
        if MIGRATE_EVERY.load(Ordering::Relaxed) != 0 {
            self.maybe_migrate();
        }
    }

    #[cold]
    fn maybe_migrate(&self) {
        let raises = self.raises.get() + 1;
        if raises >= MIGRATE_EVERY.load(Ordering::Relaxed) {
            self.raises.set(0);
            self.processor.set((self.processor.get() + 1) % active_processors().max(1));
        } else {
            self.raises.set(raises);
        }
    }
}

/// How often a thread may spin before it lets the host run another: the host has fewer processors than the machine.
const SPINS: u32 = 64;

/// Called in a spin loop: whether it is time to let the host run another thread, on whose progress this one may wait.
pub(crate) fn yields() -> bool {
    thread_local! {
        static SPINS_LEFT: Cell<u32> = const { Cell::new(SPINS) };
    }
    let left = SPINS_LEFT.get();
    SPINS_LEFT.set(if left == 0 { SPINS } else { left - 1 });
    left == 0
}
