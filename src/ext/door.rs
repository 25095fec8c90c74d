//! The door to a module's functions: who calls them is inside, and the module is let go when the last one has left.
//!
//! A word of atomics: whether the place is taken, whether the module's functions may be called, whether the registrar
//! wants it gone, whether that was put off, how many are inside, the generation. Any IRQL; nothing waits.

use crate::ring::sync::{AtomicU64, Ordering};

/// Somebody has the place.
const TAKEN: u64 = 1;
/// The module's functions may be called.
const OPEN: u64 = 1 << 1;
/// The module is to be let go.
const LEAVING: u64 = 1 << 2;
/// That was put off until nobody is inside.
const PENDING: u64 = 1 << 3;
const ONE_INSIDE: u64 = 1 << 8;
const INSIDE: u64 = 0xFFFF << 8;
const GENERATION: u32 = 32;

/// See the module.
pub(super) struct Door(AtomicU64);

/// Whether nobody is inside a door that was shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Shut {
    /// Nobody is, and nobody comes.
    Empty,
    /// [`Door::leave`] says when.
    PutOff,
}

impl Door {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[allow(clippy::cast_possible_truncation, reason = "the upper half of the word")]
    const fn of(word: u64) -> u32 {
        (word >> GENERATION) as u32
    }

    /// The generation of whoever has the place, or had it last.
    pub(super) fn generation(&self) -> u32 {
        Self::of(self.0.load(Ordering::Acquire))
    }

    /// Takes the place for another module, if nobody has it.
    pub(super) fn take(&self) -> bool {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            let generation = u64::from(Self::of(word).wrapping_add(1));
            (word & TAKEN == 0).then_some(generation << GENERATION | TAKEN)
        });
        taken.is_ok()
    }

    /// Lets callers in from here on.
    pub(super) fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::Release);
    }

    /// Gives the place up: nobody calls either side any more.
    pub(super) fn vacate(&self) {
        self.0.fetch_and(!(TAKEN | OPEN | LEAVING | PENDING), Ordering::Release);
    }

    pub(super) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire) & TAKEN != 0
    }

    /// Whether it is that module, and its functions may be called.
    pub(super) fn is_open(&self, generation: u32) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & (OPEN | LEAVING) == OPEN && Self::of(word) == generation
    }

    /// Whether it is that module, which may be on its way out.
    pub(super) fn is_bound(&self, generation: u32) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & TAKEN != 0 && Self::of(word) == generation
    }

    /// Goes inside, if it is that module and its functions may be called. [`Door::leave`] follows true.
    pub(super) fn enter(&self, generation: u32) -> bool {
        let entered = self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
            let open = word & (OPEN | LEAVING) == OPEN && Self::of(word) == generation;
            (open && word & INSIDE != INSIDE).then_some(word.wrapping_add(ONE_INSIDE))
        });
        entered.is_ok()
    }

    /// Leaves; true for the one who was waited for: the module can be let go now.
    pub(super) fn leave(&self) -> bool {
        let last = |word: u64| word & (INSIDE | PENDING) == ONE_INSIDE | PENDING;
        let step = |word: u64| {
            let left = word.wrapping_sub(ONE_INSIDE);
            if last(word) { left & !PENDING } else { left }
        };
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| Some(step(word))) {
            Ok(before) | Err(before) => last(before),
        }
    }

    /// Lets nobody in any more. Once for each module.
    pub(super) fn shut(&self) -> Shut {
        let empty = |word: u64| word & INSIDE == 0;
        let step = |word: u64| word | LEAVING | if empty(word) { 0 } else { PENDING };
        let before = match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(step(word))) {
            Ok(before) | Err(before) => before,
        };
        if empty(before) { Shut::Empty } else { Shut::PutOff }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_entered_while_it_is_there_by_its_own_generation() {
        let door = Door::new();
        assert!(door.take());
        assert!(!door.take());
        let first = door.generation();
        assert!(!door.enter(first), "not open yet");
        door.open();
        assert!(door.enter(first));
        assert!(!door.leave(), "nobody waits");
        assert_eq!(door.shut(), Shut::Empty);
        assert!(!door.enter(first));
        assert!(door.is_bound(first));
        door.vacate();
        assert!(!door.is_bound(first));
        assert!(door.take());
        door.open();
        assert!(!door.enter(first), "another module has the place");
    }

    #[test]
    fn the_last_one_inside_lets_the_module_go() {
        let door = Door::new();
        assert!(door.take());
        door.open();
        let generation = door.generation();
        assert!(door.enter(generation));
        assert!(door.enter(generation));
        assert_eq!(door.shut(), Shut::PutOff);
        assert!(!door.leave());
        assert!(door.leave());
    }

    #[test]
    fn a_door_that_is_shut_before_it_was_opened_lets_nobody_in() {
        let door = Door::new();
        assert!(door.take());
        assert_eq!(door.shut(), Shut::Empty);
        door.open();
        assert!(!door.enter(door.generation()));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    /// However callers and the registrar meet, the module is let go exactly once, and nobody is inside then.
    #[test]
    fn loom_a_module_is_let_go_once_when_nobody_is_inside() {
        loom::model(|| {
            let shared = Arc::new((Door::new(), UnsafeCell::new(()), AtomicU32::new(0)));
            assert!(shared.0.take());
            shared.0.open();
            let generation = shared.0.generation();
            let gone = |shared: &(Door, UnsafeCell<()>, AtomicU32)| {
                // The module takes its table away.
                shared.1.with_mut(|_| ());
                shared.2.fetch_add(1, Ordering::Relaxed);
            };
            let callers: [_; 2] = core::array::from_fn(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    if shared.0.enter(generation) {
                        shared.1.with(|_| ());
                        if shared.0.leave() {
                            gone(&shared);
                        }
                    }
                })
            });
            if shared.0.shut() == Shut::Empty {
                gone(&shared);
            }
            for caller in callers {
                caller.join().unwrap();
            }
            assert_eq!(shared.2.load(Ordering::Relaxed), 1);
        });
    }
}
