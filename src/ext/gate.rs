//! Admission of callbacks to a slot that is used again for socket after socket.
//!
//! A word of atomics: the slot's generation, whether it is open, and how many callbacks are inside. A callback that
//! comes with another generation, or after the gate was shut, is turned away without touching the slot; a slot is
//! used again only when nobody is inside. Any IRQL; nothing waits.

use crate::ring::sync::{AtomicU64, Ordering};

/// Bits of a generation that fit beside the address of a 64-byte aligned slot.
pub(super) const TAG_BITS: u32 = 6;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const OPEN: u64 = 1 << TAG_BITS;
const ONE_INSIDE: u64 = 1 << 32;

/// See the module. One opens, shuts and drains it; anybody enters.
pub(super) struct Gate(AtomicU64);

/// A generation, below `1 << TAG_BITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u8);

impl Tag {
    /// The generation in the low bits of `address`.
    pub(super) const fn from_address(address: usize) -> Self {
        Self((address as u64 & TAG_MASK) as u8)
    }

    pub(super) const fn get(self) -> usize {
        self.0 as usize
    }

    fn of(word: u64) -> Self {
        Self((word & TAG_MASK) as u8)
    }
}

impl Gate {
    /// A shut gate.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Opens the gate for the next generation. The caller owns the slot.
    pub(super) fn open(&self) -> Tag {
        let step = |word: u64| (word & !(TAG_MASK | OPEN)) | (word.wrapping_add(1) & TAG_MASK) | OPEN;
        let old = match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(step(word))) {
            Ok(old) | Err(old) => old,
        };
        Tag::of(step(old))
    }

    /// Shuts the gate. Who is inside stays inside.
    pub(super) fn shut(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
    }

    /// Lets a callback in, if the gate is open for its generation. [`Gate::leave`] follows an `Ok`.
    #[inline]
    pub(super) fn enter(&self, tag: Tag) -> Result<(), TurnedAway> {
        let lets_in = |word: u64| word & OPEN != 0 && Tag::of(word) == tag;
        // Who is turned away here counts as inside at no time: it holds nobody up, however often it comes.
        if !lets_in(self.0.load(Ordering::Relaxed)) {
            return Err(TurnedAway);
        }
        if lets_in(self.0.fetch_add(ONE_INSIDE, Ordering::Acquire)) {
            return Ok(());
        }
        self.leave();
        Err(TurnedAway)
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.0.fetch_sub(ONE_INSIDE, Ordering::Release);
    }

    /// Lets somebody in who needs no generation, if the gate is open. [`Gate::leave`] follows true.
    pub(super) fn enter_now(&self) -> bool {
        self.enter(self.tag()).is_ok()
    }

    /// The generation that the gate was opened for last.
    pub(super) fn tag(&self) -> Tag {
        Tag::of(self.0.load(Ordering::Relaxed))
    }

    /// Whether nobody is inside.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) < ONE_INSIDE
    }

    /// Whether the gate is shut and nobody is inside: the slot can be used again.
    pub(super) fn is_vacant(&self) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & OPEN == 0 && word < ONE_INSIDE
    }
}

/// The callback belongs to a socket that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnedAway;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_callback_of_an_earlier_socket_is_turned_away() {
        let gate = Gate::new();
        let first = gate.open();
        assert_eq!(gate.enter(first), Ok(()));
        gate.leave();
        gate.shut();
        assert_eq!(gate.enter(first), Err(TurnedAway));
        let second = gate.open();
        assert_ne!(first, second);
        assert_eq!(gate.enter(first), Err(TurnedAway));
        assert_eq!(gate.enter(second), Ok(()));
        gate.leave();
    }

    #[test]
    fn a_slot_is_vacant_only_when_the_last_callback_has_left() {
        let gate = Gate::new();
        assert!(gate.is_vacant());
        let tag = gate.open();
        assert!(!gate.is_vacant());
        assert_eq!(gate.enter(tag), Ok(()));
        gate.shut();
        assert!(!gate.is_vacant());
        gate.leave();
        assert!(gate.is_vacant());
    }

    #[test]
    fn a_generation_survives_the_way_through_an_address() {
        let gate = Gate::new();
        for _ in 0..200 {
            let tag = gate.open();
            assert_eq!(Tag::from_address(0x7F00_1240 | tag.get()), tag);
            gate.shut();
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    /// A callback reads what the slot's owner writes before the gate opens, and after it was shut and is empty.
    #[test]
    fn loom_nobody_is_inside_when_the_slot_is_used_again() {
        loom::model(|| {
            let shared = Arc::new((Gate::new(), UnsafeCell::new(0_u32)));
            shared.1.with_mut(|value| {
                // SAFETY: the gate has not been opened.
                unsafe { *value = 1 };
            });
            let tag = shared.0.open();
            let callbacks: [_; 2] = core::array::from_fn(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (gate, slot) = &*shared;
                    if gate.enter(tag).is_ok() {
                        // SAFETY: inside.
                        slot.with(|value| assert_eq!(unsafe { *value }, 1));
                        gate.leave();
                    }
                })
            });
            let (gate, slot) = &*shared;
            gate.shut();
            while !gate.is_empty() {
                thread::yield_now();
            }
            slot.with_mut(|value| {
                // SAFETY: shut, and nobody inside.
                unsafe { *value = 2 };
            });
            assert_ne!(gate.open(), tag);
            for callback in callbacks {
                callback.join().unwrap();
            }
        });
    }
}
