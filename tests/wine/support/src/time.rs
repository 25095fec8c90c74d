//! A clock that only goes forward.

use core::ops::Add;
use core::time::Duration;

use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};

/// A moment of the performance counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub fn now() -> Self {
        let mut count = 0i64;
        // SAFETY: the place can be written.
        unsafe { QueryPerformanceCounter(&raw mut count) };
        let mut frequency = 0i64;
        // SAFETY: the place can be written.
        unsafe { QueryPerformanceFrequency(&raw mut frequency) };
        let frequency = frequency.max(1).cast_unsigned();
        let count = count.cast_unsigned();
        let nanoseconds = u128::from(count % frequency) * 1_000_000_000 / u128::from(frequency);
        Self(Duration::new(count / frequency, u32::try_from(nanoseconds).unwrap_or(0)))
    }

    /// Zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The counter itself, as a time.
    pub fn since_start(self) -> Duration {
        self.0
    }

    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Milliseconds of the performance counter: one clock for all stand-ins of a machine.
pub fn milliseconds() -> u64 {
    u64::try_from(Instant::now().0.as_millis()).unwrap_or(u64::MAX)
}
