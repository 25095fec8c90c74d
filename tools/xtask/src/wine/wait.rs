//! Waiting: always for something that has a name, always bounded, and never past an interruption.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

const POLL: Duration = Duration::from_millis(10);

/// From now on the signals that end a program end its waits instead, so that it can clean up.
///
/// # Errors
/// The system's message.
pub fn catch_signals() -> Result<(), String> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).map_err(|error| error.to_string())
}

/// # Errors
/// There was a signal.
pub fn check() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// Calls `probe` until it gives something.
///
/// # Errors
/// `what` it waited for and how long; or that it was interrupted; or the probe's own failure.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    until_uninterrupted(what, limit, || match probe()? {
        Some(found) => Ok(Some(found)),
        None => check().map(|()| None),
    })
}

/// [`until`], for cleaning up: an interruption does not end it.
///
/// # Errors
/// `what` it waited for and how long; or the probe's own failure.
pub fn until_uninterrupted<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(format!("waited {} s for {what}, in vain", limit.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}
