//! Clocks, in units of 100 ns.

use core::mem::zeroed;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::SystemInformation::GetSystemTimePreciseAsFileTime;
use wine_support::time::Instant;

use crate::sys::nt::LARGE_INTEGER;

/// Time since the system started, as far as the performance counter tells: what the clock interrupt would have counted.
fn since_start() -> u64 {
    u64::try_from(Instant::now().since_start().as_nanos() / 100).unwrap_or(u64::MAX)
}

/// Wine's counts milliseconds.
pub(super) unsafe extern "system" fn KeQueryInterruptTime() -> u64 {
    since_start()
}

pub(super) unsafe extern "system" fn KeQueryUnbiasedInterruptTime() -> u64 {
    since_start()
}

pub(super) unsafe extern "system" fn KeQueryInterruptTimePrecise(counter: *mut u64) -> u64 {
    let now = since_start();
    // SAFETY: by the function's page it can be written.
    unsafe { counter.write(now) };
    now
}

pub(super) unsafe extern "system" fn KeQuerySystemTimePrecise(time: *mut LARGE_INTEGER) {
    // SAFETY: FILETIME is made of integers.
    let mut now: FILETIME = unsafe { zeroed() };
    // SAFETY: the place can be written.
    unsafe { GetSystemTimePreciseAsFileTime(&raw mut now) };
    let now = i64::from(now.dwHighDateTime) << 32 | i64::from(now.dwLowDateTime);
    // SAFETY: by the function's page it can be written.
    unsafe { time.write(LARGE_INTEGER { QuadPart: now }) };
}
