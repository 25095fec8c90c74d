//! The host threads that the simulated kernel runs on: its own services and the system threads of drivers.
//!
//! All are joined when the machine is shut down.

use std::sync::Mutex;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::irql;
use crate::verify::lock;

static THREADS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

fn keep(handle: JoinHandle<()>) {
    let mut threads = lock(&THREADS);
    let finished: Vec<_> = threads.extract_if(.., |thread| thread.is_finished()).collect();
    threads.push(handle);
    drop(threads);
    for thread in finished {
        // A panic on it was printed when it happened; the machine goes on without the thread.
        let _ = thread.join();
    }
}

/// Starts a thread of the kernel itself.
///
/// # Panics
/// When the host has no thread to give.
pub(crate) fn service(name: &str, body: impl FnOnce() + Send + 'static) {
    assert!(system(name, body), "the host has no thread for {name}");
}

/// Starts a system thread. Returns false when the host has none to give.
pub(crate) fn system(name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let run = move || {
        irql::enter_system_thread();
        body();
    };
    Builder::new().name(name.to_owned()).spawn(run).map(keep).is_ok()
}

/// Joins all threads. Returns how many did not end within `limit`; those are left alone.
pub(crate) fn join_all(limit: Duration) -> usize {
    let began = Instant::now();
    loop {
        let threads = std::mem::take(&mut *lock(&THREADS));
        let mut running = Vec::new();
        for thread in threads {
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                running.push(thread);
            }
        }
        if running.is_empty() && lock(&THREADS).is_empty() {
            return 0;
        }
        if began.elapsed() >= limit {
            return running.len();
        }
        lock(&THREADS).append(&mut running);
        std::thread::sleep(Duration::from_micros(100));
    }
}
