//! One value that many threads read without a lock, and one replaces: readers mark a slot of their own while they read;
//! whoever replaces the value waits until every reader that may still have the old one is through.
//!
//! Reading costs two stores and a fence. Callable at any IRQL; replacing it waits, so PASSIVE_LEVEL.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};

use crate::verify::lock;

/// What one thread does. Odd while it reads.
#[repr(align(128))]
struct Slot {
    turn: AtomicU64,
    taken: AtomicBool,
}

/// All slots that there ever were; those of threads that ended are taken again.
static SLOTS: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// How many reads this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Gives the slot back when the thread ends.
    static OWNER: Owner = const { Owner };
}

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(slot) = MINE.take() {
            slot.taken.store(false, Ordering::Release);
        }
    }
}

#[cold]
fn take_slot() -> &'static Slot {
    let mut slots = lock(&SLOTS);
    let free = slots.iter().copied().find(|slot| !slot.taken.swap(true, Ordering::Acquire));
    let slot = free.unwrap_or_else(|| {
        let slot: &'static Slot =
            Box::leak(Box::new(Slot { turn: AtomicU64::new(0), taken: AtomicBool::new(true) }));
        slots.push(slot);
        slot
    });
    MINE.set(Some(slot));
    // A thread that is ending has no owner any more; its slot stays taken.
    let _ = OWNER.try_with(|_| ());
    slot
}

/// A read in progress, on the thread that began it.
struct Reading {
    slot: &'static Slot,
    outermost: bool,
    _this_thread: PhantomData<*const ()>,
}

impl Reading {
    #[inline]
    fn begin() -> Self {
        let slot = MINE.get().unwrap_or_else(take_slot);
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        if depth == 0 {
            slot.turn.store(slot.turn.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            // The mark is seen before the value is loaded: pairs with the fence in `replace`.
            fence(Ordering::SeqCst);
        }
        Self { slot, outermost: depth == 0, _this_thread: PhantomData }
    }
}

impl Drop for Reading {
    #[inline]
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if self.outermost {
            self.slot.turn.store(self.slot.turn.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
    }
}

/// The value.
pub(crate) struct Rcu<T> {
    current: AtomicPtr<T>,
}

impl<T: Send + Sync> Rcu<T> {
    /// Without a value.
    pub const fn new() -> Self {
        Self { current: AtomicPtr::new(null_mut()) }
    }

    /// Reads the value. Reads may be nested.
    #[inline]
    pub fn read<R>(&self, body: impl FnOnce(Option<&T>) -> R) -> R {
        let _reading = Reading::begin();
        let current = NonNull::new(self.current.load(Ordering::Acquire));
        // SAFETY: a value that a marked reader may have loaded is freed only once the reader is through.
        body(current.map(|value| unsafe { value.as_ref() }))
    }

    /// Whether this thread is reading some value.
    #[inline]
    pub fn is_reading() -> bool {
        DEPTH.get() != 0
    }

    /// Replaces the value, and returns when nobody reads the old one any more. Replacements do not overlap: the caller
    /// has a lock for them.
    ///
    /// # Panics
    /// Inside a read, which would wait for itself.
    pub fn replace(&self, value: Option<T>) {
        assert!(!Self::is_reading(), "the filters in force cannot change inside a classification");
        let new = value.map_or(null_mut(), |value| Box::into_raw(Box::new(value)));
        let old = self.current.swap(new, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let slots = lock(&SLOTS).clone();
        for slot in slots {
            let turn = slot.turn.load(Ordering::Acquire);
            while turn % 2 == 1 && slot.turn.load(Ordering::Acquire) == turn {
                std::thread::yield_now();
            }
        }
        if !old.is_null() {
            // SAFETY: it was made by `Box::into_raw`, is no longer current, and all readers are through.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}
