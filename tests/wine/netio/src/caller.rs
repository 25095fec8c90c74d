//! The threads that scripted providers call back on: their own, at their own pace, and, while one lasts, those of a storm.

use crate::extension;
use crate::machine;
use crate::nmr::connections;
use crate::sync::Mutex;
use crate::sys::nt::GUID;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use wine_support::thread::{self, JoinHandle};
use wine_support::time::Instant;

/// Threads that call back: two, so that one socket's callbacks may overlap another's.
const THREADS: u64 = 2;

static STARTED: AtomicBool = AtomicBool::new(false);
/// No callbacks are made for now, but those of storms.
static PAUSED: AtomicBool = AtomicBool::new(false);
static STORM: Mutex<Option<Storm>> = Mutex::new(None);

struct Storm {
    threads: Vec<JoinHandle>,
    over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
}

/// Holds callbacks up, or lets them go on.
pub fn pause(paused: bool) {
    PAUSED.store(paused, Ordering::Release);
}

/// Sees that there are threads that call back.
pub fn start() {
    if !STARTED.swap(true, Ordering::AcqRel) {
        for share in 0..THREADS {
            thread::spawn(move || run(share));
        }
    }
}

/// Each thread looks after the registrations that are its share.
fn run(share: u64) {
    loop {
        thread::sleep(Duration::from_millis(machine::config().period));
        if PAUSED.load(Ordering::Acquire) {
            continue;
        }
        for provider in extension::live().filter(|provider| provider.socket() % THREADS == share) {
            provider.call_back(true);
        }
        for connection in
            connections::live().into_iter().filter(|connection| connection.id % THREADS == share)
        {
            connection.call_back();
        }
    }
}

/// Has `threads` threads call back as fast as they can, for whatever is registered for `npi` (everything, without one), each
/// `callbacks` times or until the time is over. False if there is a storm already.
pub fn storm(threads: u64, callbacks: u64, time: Duration, npi: Option<GUID>) -> bool {
    let mut storm = STORM.lock();
    if storm.is_some() {
        return false;
    }
    let over = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let end = Instant::now();
    let bodies = (0..threads).map(|_| {
        let (over, made) = (Arc::clone(&over), Arc::clone(&made));
        thread::spawn(move || {
            let mut own = 0;
            while own < callbacks && !over.load(Ordering::Acquire) && end.elapsed() < time {
                let mut any = false;
                for provider in extension::live().filter(|provider| npi.is_none_or(|npi| provider.npi == npi))
                {
                    own += u64::from(provider.call_back(false));
                    any = true;
                }
                let connections = connections::live().into_iter();
                for connection in
                    connections.filter(|connection| npi.is_none_or(|npi| connection.npi() == npi))
                {
                    own += u64::from(connection.call_back());
                    any = true;
                }
                if !any {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            made.fetch_add(own, Ordering::AcqRel);
        })
    });
    let threads = bodies.collect();
    *storm = Some(Storm { threads, over, made });
    true
}

/// Waits until the storm is over, or ends it; how many callbacks it has made. `None`: there is none.
pub fn storm_end(stop: bool) -> Option<u64> {
    let storm = STORM.lock().take()?;
    if stop {
        storm.over.store(true, Ordering::Release);
    }
    for thread in storm.threads {
        thread.join();
    }
    Some(storm.made.load(Ordering::Acquire))
}
