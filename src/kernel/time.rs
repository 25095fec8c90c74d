//! Time: intervals in the kernel's unit of 100 ns, clocks, delays.

use super::irql::Passive;
use crate::sys::nt::{self, LARGE_INTEGER};

/// A length of time, in units of 100 ns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Interval(u64);

impl Interval {
    pub const ZERO: Self = Self(0);

    pub const fn from_100ns(units: u64) -> Self {
        Self(units)
    }

    pub const fn from_micros(micros: u32) -> Self {
        Self((micros as u64).saturating_mul(10))
    }

    pub const fn from_millis(millis: u32) -> Self {
        Self((millis as u64).saturating_mul(10_000))
    }

    pub const fn as_100ns(self) -> u64 {
        self.0
    }

    /// As the wait functions take it: negative, that is, counted from now.
    pub(super) fn relative(self) -> LARGE_INTEGER {
        nt::large_integer(i64::try_from(self.0).unwrap_or(i64::MAX).saturating_neg())
    }
}

/// Time since the machine started, in units of 100 ns, with the resolution of the clock interrupt
/// (KeQueryInterruptTime). Never goes back, is not adjusted; any level.
pub fn since_boot() -> Interval {
    // SAFETY: callable at any level.
    Interval(unsafe { nt::KeQueryInterruptTime() })
}

/// The system time: units of 100 ns since 1601-01-01 UTC (KeQuerySystemTimePrecise). Any level.
pub fn system_time() -> u64 {
    let mut now = nt::large_integer(0);
    // SAFETY: writes the time to the variable; callable at any level.
    unsafe { nt::KeQuerySystemTimePrecise(&raw mut now) };
    nt::large_integer_value(&now).cast_unsigned()
}

/// The performance counter (KeQueryPerformanceCounter): count, in ticks of [`counter_frequency`]. Any level.
pub fn counter() -> u64 {
    // SAFETY: callable at any level; without a frequency to write.
    let count = unsafe { nt::KeQueryPerformanceCounter(core::ptr::null_mut()) };
    nt::large_integer_value(&count).cast_unsigned()
}

/// Ticks a second of [`counter`]; does not change while the machine runs. At least 1.
pub fn counter_frequency() -> u64 {
    let mut frequency = nt::large_integer(0);
    // SAFETY: writes the frequency to the variable; callable at any level.
    unsafe { nt::KeQueryPerformanceCounter(&raw mut frequency) };
    nt::large_integer_value(&frequency).cast_unsigned().max(1)
}

/// Waits (KeDelayExecutionThread), at least for `interval`, rounded up to the clock's resolution.
pub fn delay(_passive: &Passive, interval: Interval) {
    let mut interval = interval.relative();
    // SAFETY: the token says PASSIVE_LEVEL; the interval is read before the call returns. Not alertable, so that
    // it only returns when the time is over.
    _ = unsafe { nt::KeDelayExecutionThread(nt::KernelMode, nt::FALSE, &raw mut interval) };
}
