//! How the driver stands as a whole: noted by its parts, read by whoever asks. Any IRQL.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The notes.
#[derive(Debug)]
pub struct Board {
    started: u64,
    degraded: AtomicU32,
    filtering: AtomicBool,
}

impl Board {
    /// Of a driver that started at that system time.
    pub const fn new(started: u64) -> Self {
        Self { started, degraded: AtomicU32::new(0), filtering: AtomicBool::new(false) }
    }

    /// When the driver was started: units of 100 ns since 1601, UTC.
    pub const fn started(&self) -> u64 {
        self.started
    }

    /// Some parts are missing.
    pub fn degrade(&self, parts: u32) {
        self.degraded.fetch_add(parts, Ordering::Relaxed);
    }

    /// How many parts were missing when the driver had started.
    pub fn degraded(&self) -> u32 {
        self.degraded.load(Ordering::Relaxed)
    }

    /// The filters are in force, or not any more.
    pub fn set_filtering(&self, filtering: bool) {
        self.filtering.store(filtering, Ordering::Release);
    }

    /// Whether the filters are in force.
    pub fn is_filtering(&self) -> bool {
        self.filtering.load(Ordering::Acquire)
    }
}
