//! Which events somebody listens to: one word, so that asking is one load.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Keywords, Level};

/// Keywords, with the level in the upper bits; 0: nobody listens.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What is both asked for and within the limit: the one word that is looked at.
    included: AtomicU64,
    asked: AtomicU64,
}

/// What is told at most, whatever is asked for.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Sets the limit. Each [`Wanted`] is to be told ([`Wanted::hold_to_limit`]).
pub(super) fn limit(level: u8, keywords: u64) {
    LIMIT.store(word(level, keywords), Ordering::SeqCst);
}

/// There is no limit.
pub(super) fn lift_limit() {
    LIMIT.store(u64::MAX, Ordering::SeqCst);
}

const fn word(level: u8, keywords: u64) -> u64 {
    (level as u64) << LEVEL_SHIFT | keywords & KEYWORDS
}

/// The lower level, and the keywords of both.
fn least(one: u64, other: u64) -> u64 {
    (one >> LEVEL_SHIFT).min(other >> LEVEL_SHIFT) << LEVEL_SHIFT | one & other & KEYWORDS
}

const LEVEL_SHIFT: u32 = 56;
/// Of the keywords, those that are weir's to give.
const KEYWORDS: u64 = 0x0000_FFFF_FFFF_FFFF;

impl Wanted {
    pub(super) const fn nothing() -> Self {
        Self { included: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }

    /// Events up to `level` with one of `keywords`.
    pub(super) fn set(&self, level: u8, keywords: u64) {
        self.asked.store(word(level, keywords), Ordering::SeqCst);
        self.hold_to_limit();
    }

    pub(super) fn clear(&self) {
        self.set(0, 0);
    }

    /// Brings what is looked at into line with what is asked for and the limit. Each may change meanwhile, under another
    /// thread's hands: whoever is last sees both.
    pub(super) fn hold_to_limit(&self) {
        loop {
            let (asked, limit) = (self.asked.load(Ordering::SeqCst), LIMIT.load(Ordering::SeqCst));
            self.included.store(least(asked, limit), Ordering::SeqCst);
            if (asked, limit) == (self.asked.load(Ordering::SeqCst), LIMIT.load(Ordering::SeqCst)) {
                return;
            }
        }
    }

    #[inline]
    pub(super) fn includes(&self, level: Level, keywords: Keywords) -> bool {
        let wanted = self.included.load(Ordering::Acquire);
        u64::from(level as u8) <= wanted >> LEVEL_SHIFT && wanted & keywords.bits() != 0
    }
}
