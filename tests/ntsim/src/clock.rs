//! The machine's clock: real, or virtual and moved by the test.
//!
//! Times are in 100 ns units. Interrupt time counts from boot, system time from 1601-01-01 (page "KeQueryInterruptTime",
//! "KeQuerySystemTimePrecise").

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Which clock a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    #[default]
    Real,
    /// Stands still until [`crate::Sim::advance`].
    Virtual,
}

/// 100 ns units in a second; also the frequency of the performance counter, as on current Windows.
pub const UNITS_PER_SECOND: u64 = 10_000_000;

/// 1970-01-01 in system time.
const UNIX_EPOCH_IN_SYSTEM_TIME: u64 = 116_444_736_000_000_000;
/// The system time at which a virtual clock starts: 2024-01-01.
const VIRTUAL_START: u64 = UNIX_EPOCH_IN_SYSTEM_TIME + 1_704_067_200 * UNITS_PER_SECOND;

static VIRTUAL: AtomicBool = AtomicBool::new(false);
static VIRTUAL_NOW: AtomicU64 = AtomicU64::new(0);
/// Where real interrupt time counts from, in units since [`origin`].
static BOOTED: AtomicU64 = AtomicU64::new(0);

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn since_origin() -> u64 {
    units(origin().elapsed())
}

/// A duration in 100 ns units.
pub fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX)
}

/// 100 ns units as a duration.
pub fn duration(units: u64) -> Duration {
    Duration::new(units / UNITS_PER_SECOND, u32::try_from(units % UNITS_PER_SECOND * 100).unwrap_or(0))
}

pub(crate) fn start(clock: Clock) {
    VIRTUAL.store(clock == Clock::Virtual, Ordering::Relaxed);
    VIRTUAL_NOW.store(0, Ordering::Relaxed);
    let now = since_origin();
    BOOTED.store(now, Ordering::Relaxed);
}

/// Whether the clock stands still until moved.
pub fn is_virtual() -> bool {
    VIRTUAL.load(Ordering::Relaxed)
}

/// Interrupt time.
pub fn now() -> u64 {
    if is_virtual() {
        VIRTUAL_NOW.load(Ordering::Acquire)
    } else {
        since_origin().saturating_sub(BOOTED.load(Ordering::Relaxed))
    }
}

/// System time, UTC.
pub fn system_time() -> u64 {
    if is_virtual() {
        VIRTUAL_START + now()
    } else {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UNIX_EPOCH_IN_SYSTEM_TIME + units(since)
    }
}

/// Moves a virtual clock to `to`, never backwards.
pub(crate) fn move_to(to: u64) {
    VIRTUAL_NOW.fetch_max(to, Ordering::AcqRel);
}

/// A documented timeout as interrupt time: negative is relative to now, positive an absolute system time
/// (page "KeWaitForSingleObject").
pub fn deadline(timeout: i64) -> u64 {
    if timeout <= 0 {
        now().saturating_add(timeout.unsigned_abs())
    } else {
        now().saturating_add(timeout.unsigned_abs().saturating_sub(system_time()))
    }
}
