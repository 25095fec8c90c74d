//! Threads that run what is deferred: completions and callbacks, each socket's in its order.

use crate::sync::{Condvar, Mutex};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use core::time::Duration;
use wine_support::thread;

pub type Job = Box<dyn FnOnce() + Send>;

/// Callbacks return soon: a few threads are enough for any number of sockets.
const THREADS: usize = 4;

static JOBS: Mutex<VecDeque<Job>> = Mutex::new(VecDeque::new());
static CAME: Condvar = Condvar::new();
static STARTED: AtomicBool = AtomicBool::new(false);

/// Has a thread run `job`, soon.
pub fn put(job: impl FnOnce() + Send + 'static) {
    if !STARTED.swap(true, Ordering::AcqRel) {
        for _ in 0..THREADS {
            thread::spawn(run);
        }
    }
    JOBS.lock().push_back(Box::new(job));
    CAME.notify_one();
}

fn run() {
    loop {
        let mut jobs = JOBS.lock();
        let job = loop {
            match jobs.pop_front() {
                Some(job) => break job,
                None => jobs = CAME.wait_timeout(jobs, Duration::from_mins(1)),
            }
        };
        drop(jobs);
        job();
    }
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
/// Asked for again while it ran.
const AGAIN: u8 = 3;

/// Work of one kind for one socket, never run by two threads at once.
#[derive(Debug, Default)]
pub struct Lane(AtomicU8);

impl Lane {
    /// Asks for a run; true if the caller must queue one.
    pub fn ask(&self) -> bool {
        let change = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            IDLE => Some(QUEUED),
            RUNNING => Some(AGAIN),
            _ => None,
        });
        change == Ok(IDLE)
    }

    /// Runs `body`, again for as long as it is asked for meanwhile.
    pub fn run(&self, mut body: impl FnMut()) {
        loop {
            self.0.store(RUNNING, Ordering::Release);
            body();
            if self.0.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }
}
