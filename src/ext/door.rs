//! The door to a module's functions: who calls them is inside, and the module is let go when the last one has left.
//!
//! A word of atomics: whether the place is taken, whether the module's functions may be called, whether the registrar
//! wants it gone, how many are inside, the generation. Any IRQL; nothing waits.

use crate::ring::sync::{AtomicU64, Ordering};

/// Somebody has the place.
const TAKEN: u64 = 1;
/// The module's functions may be called.
const OPEN: u64 = 1 << 1;
/// The module is to be let go when nobody is inside.
const LEAVING: u64 = 1 << 2;
const ONE_INSIDE: u64 = 1 << 8;
const INSIDE: u64 = 0xFFFF << 8;
/// There is room for those who come anyway.
const MOST_INSIDE: u64 = 0xFF00 << 8;
const GENERATION: u32 = 32;

/// See the module.
pub(super) struct Door(AtomicU64);

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

    /// Takes the place for another module, if nobody has it. Who has is inside.
    pub(super) fn take(&self) -> bool {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            let generation = u64::from(Self::of(word).wrapping_add(1));
            (word & TAKEN == 0).then_some(generation << GENERATION | ONE_INSIDE | TAKEN)
        });
        taken.is_ok()
    }

    /// Lets callers in from here on.
    pub(super) fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::Release);
    }

    /// Gives the place up: nobody calls either side any more, and nobody is inside but the caller, if at all.
    pub(super) fn vacate(&self) {
        self.0.fetch_and(!(TAKEN | OPEN | LEAVING | INSIDE), Ordering::Release);
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
            (open && word & INSIDE < MOST_INSIDE).then_some(word.wrapping_add(ONE_INSIDE))
        });
        entered.is_ok()
    }

    /// Leaves; true for the last one of a door that is shut: the module can be let go now.
    pub(super) fn leave(&self) -> bool {
        let before = self.0.fetch_sub(ONE_INSIDE, Ordering::AcqRel);
        before & (INSIDE | LEAVING) == ONE_INSIDE | LEAVING
    }

    /// Lets nobody in any more but the caller, who is inside from here on. Once for each module.
    pub(super) fn shut(&self) {
        let step = |word: u64| (word | LEAVING).wrapping_add(ONE_INSIDE);
        // It is never refused.
        let _before = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| Some(step(word)));
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
        assert!(!door.leave(), "nobody waits");
        assert!(door.enter(first));
        assert!(!door.leave(), "nobody waits");
        door.shut();
        assert!(!door.enter(first));
        assert!(door.leave(), "who shuts it is the last");
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
        assert!(door.enter(door.generation()));
        door.shut();
        assert!(!door.leave());
        assert!(!door.leave());
        assert!(door.leave());
    }

    #[test]
    fn a_door_that_is_shut_before_it_was_opened_lets_nobody_in() {
        let door = Door::new();
        assert!(door.take());
        door.shut();
        assert!(!door.leave(), "who has taken it is inside");
        door.open();
        assert!(!door.enter(door.generation()));
        assert!(door.leave());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    /// However who attaches, a caller and the registrar meet, the module is let go exactly once, and nobody is inside then.
    #[test]
    fn loom_a_module_is_let_go_once_when_nobody_is_inside() {
        loom::model(|| {
            let shared = Arc::new((Door::new(), UnsafeCell::new(()), AtomicU32::new(0)));
            assert!(shared.0.take());
            let generation = shared.0.generation();
            let leave = |shared: &(Door, UnsafeCell<()>, AtomicU32)| {
                if shared.0.leave() {
                    // The module takes its table away.
                    shared.1.with_mut(|_| ());
                    shared.2.fetch_add(1, Ordering::Relaxed);
                }
            };
            let attaching = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1.with(|_| ());
                    shared.0.open();
                    leave(&shared);
                })
            };
            let caller = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    if shared.0.enter(generation) {
                        shared.1.with(|_| ());
                        leave(&shared);
                    }
                })
            };
            shared.0.shut();
            leave(&shared);
            attaching.join().unwrap();
            caller.join().unwrap();
            assert_eq!(shared.2.load(Ordering::Relaxed), 1);
        });
    }
}
