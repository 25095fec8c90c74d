//! Which events somebody listens to: one word, so that asking is one load.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Keywords, Level};

/// Keywords, with the level in the upper bits; 0: nobody listens.
#[derive(Debug)]
pub(super) struct Wanted(AtomicU64);

const LEVEL_SHIFT: u32 = 56;
/// Of the keywords, those that are weir's to give.
const KEYWORDS: u64 = 0x0000_FFFF_FFFF_FFFF;

impl Wanted {
    pub(super) const fn nothing() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Events up to `level` with one of `keywords`.
    pub(super) fn set(&self, level: u8, keywords: u64) {
        self.0.store(u64::from(level) << LEVEL_SHIFT | keywords & KEYWORDS, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    #[inline]
    pub(super) fn includes(&self, level: Level, keywords: Keywords) -> bool {
        let wanted = self.0.load(Ordering::Acquire);
        u64::from(level as u8) <= wanted >> LEVEL_SHIFT && wanted & keywords.bits() != 0
    }
}
