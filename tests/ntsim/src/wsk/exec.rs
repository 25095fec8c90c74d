//! What runs the subsystem's deferred work: completions and callbacks.
//!
//! Work is put on *lanes*. A lane runs its tasks one after another in the order in which they were put; different
//! lanes run in an order drawn from the seed, on as many threads as configured, or, with none, whenever a test
//! steps the executor. Nothing runs while a lock of this module is held.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub type Task = Box<dyn FnOnce() + Send>;

/// Names a lane: an object's number, and which of its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(pub u64, pub Part);

/// The lanes of one object. They run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Receive and accept: data, connections and ends of streams, in order.
    Receive,
    /// Send and disconnect.
    Send,
    /// Everything else; tasks here do not wait for each other's callbacks.
    Control,
}

/// A small seeded generator (SplitMix64).
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }
}

#[derive(Default)]
struct Queue {
    lanes: HashMap<Lane, VecDeque<Task>>,
    /// Lanes with work that no thread is running.
    ready: Vec<Lane>,
    running: Vec<Lane>,
    stop: bool,
}

pub struct Executor {
    queue: Mutex<Queue>,
    rng: Mutex<Rng>,
    /// Work came or went, or the executor stops.
    changed: Condvar,
    workers: Mutex<Vec<JoinHandle<()>>>,
    threads: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// Starts `threads` workers; with none, [`Executor::step`] runs the work.
    pub fn start(seed: u64, threads: usize) -> Arc<Self> {
        let executor = Arc::new(Self {
            queue: Mutex::default(),
            rng: Mutex::new(Rng::new(seed)),
            changed: Condvar::new(),
            workers: Mutex::default(),
            threads,
        });
        let workers = (0..threads)
            .map(|index| {
                let executor = Arc::clone(&executor);
                thread::Builder::new()
                    .name(format!("wsk-{index}"))
                    .spawn(move || executor.work())
                    .expect("the host has threads")
            })
            .collect();
        *lock(&executor.workers) = workers;
        executor
    }

    /// Runs what is queued, then ends the workers.
    pub fn stop(&self) {
        lock(&self.queue).stop = true;
        self.changed.notify_all();
        let workers = std::mem::take(&mut *lock(&self.workers));
        for worker in workers {
            if worker.thread().id() != thread::current().id() {
                // A worker's panic was already reported where it happened.
                drop(worker.join());
            }
        }
        while self.step() {}
    }

    /// Whether tests have to step the executor themselves.
    pub fn is_manual(&self) -> bool {
        self.threads == 0
    }

    /// A seeded draw below `limit`.
    pub fn draw(&self, limit: usize) -> usize {
        lock(&self.rng).below(limit)
    }

    /// A seeded coin that shows heads `percent` times in a hundred.
    pub fn chance(&self, percent: u8) -> bool {
        percent > 0 && self.draw(100) < usize::from(percent)
    }

    pub fn put(&self, lane: Lane, task: Task) {
        let mut queue = lock(&self.queue);
        let tasks = queue.lanes.entry(lane).or_default();
        tasks.push_back(task);
        if tasks.len() == 1 && !queue.running.contains(&lane) {
            queue.ready.push(lane);
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Runs one task; false if none was ready.
    pub fn step(&self) -> bool {
        let queue = lock(&self.queue);
        self.run_one(queue)
    }

    /// Waits until no work is queued or running. False if that took longer than `limit`.
    pub fn settle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        if self.is_manual() {
            while self.step() {
                if Instant::now() > deadline {
                    return false;
                }
            }
            return true;
        }
        let mut queue = lock(&self.queue);
        while !(queue.ready.is_empty() && queue.running.is_empty()) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.ready.is_empty() {
                if queue.stop {
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            self.run_one(queue);
        }
    }

    fn run_one(&self, mut queue: MutexGuard<'_, Queue>) -> bool {
        if queue.ready.is_empty() {
            return false;
        }
        let index = if queue.ready.len() == 1 { 0 } else { self.draw(queue.ready.len()) };
        let lane = queue.ready.swap_remove(index);
        let Some(task) = queue.lanes.get_mut(&lane).and_then(VecDeque::pop_front) else { return false };
        queue.running.push(lane);
        drop(queue);
        // A bug check is a panic here; it is in the report already, and the other lanes go on.
        drop(catch_unwind(AssertUnwindSafe(task)));
        let mut queue = lock(&self.queue);
        queue.running.retain(|running| *running != lane);
        if queue.lanes.get(&lane).is_some_and(|tasks| !tasks.is_empty()) {
            queue.ready.push(lane);
        } else {
            queue.lanes.remove(&lane);
        }
        drop(queue);
        self.changed.notify_all();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(log: &Arc<Mutex<Vec<u32>>>, value: u32) -> Task {
        let log = Arc::clone(log);
        Box::new(move || lock(&log).push(value))
    }

    #[test]
    fn a_lane_keeps_its_order_and_lanes_interleave_by_seed() {
        let run = |seed| {
            let executor = Executor::start(seed, 0);
            let log = Arc::new(Mutex::new(Vec::new()));
            for value in 0..8 {
                executor.put(Lane(1, Part::Receive), record(&log, value));
                executor.put(Lane(2, Part::Receive), record(&log, 100 + value));
            }
            assert!(executor.settle(Duration::from_secs(5)));
            Arc::try_unwrap(log).unwrap().into_inner().unwrap()
        };
        let first = run(1);
        let low: Vec<u32> = first.iter().copied().filter(|value| *value < 100).collect();
        assert_eq!(low, (0..8).collect::<Vec<u32>>());
        assert_eq!(first, run(1));
        assert!((2..20).any(|seed| run(seed) != first));
    }

    #[test]
    fn workers_end_when_stopped_and_leave_nothing_undone() {
        let executor = Executor::start(7, 2);
        let log = Arc::new(Mutex::new(Vec::new()));
        for value in 0..100 {
            executor.put(Lane(u64::from(value % 3), Part::Send), record(&log, value));
        }
        executor.stop();
        assert_eq!(lock(&log).len(), 100);
    }
}
