//! How a queue is measured.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::queues::{Produce, Queue};

/// One sample: how far the cores were from each other in its round, and the figure.
#[derive(Clone, Copy)]
pub struct Round {
    /// Nanoseconds for a cache line to go to the other core and come back.
    pub ping_pong: f64,
    pub figure: f64,
}

impl Round {
    pub fn is_near(&self) -> bool {
        self.ping_pong <= 200.0
    }
}

/// The two cores that threads are pinned to.
pub struct Cores([core_affinity::CoreId; 2]);

/// Both threads leave it together, each time.
struct Meet(AtomicU64);

impl Meet {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn wait(&self) {
        let all = self.0.fetch_add(1, Ordering::AcqRel) / 2 * 2 + 2;
        while self.0.load(Ordering::Acquire) < all {
            std::hint::spin_loop();
        }
    }
}

/// Turns before the one that counts: they bring the memory into the caches.
const WARM: usize = 3;

fn nanoseconds(time: Duration, records: u64) -> f64 {
    time.as_secs_f64() * 1e9 / records as f64
}

impl Cores {
    /// The first two.
    pub fn two() -> Option<Self> {
        match core_affinity::get_core_ids()?[..] {
            [one, two, ..] => Some(Self([one, two])),
            _ => None,
        }
    }

    /// Runs both, each on its core.
    fn both<A: Send, B: Send>(
        &self,
        one: impl FnOnce() -> A + Send,
        two: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        let pinned = |core| assert!(core_affinity::set_for_current(core), "threads can be pinned");
        thread::scope(|scope| {
            let one = scope.spawn(move || {
                pinned(self.0[0]);
                one()
            });
            let two = scope.spawn(move || {
                pinned(self.0[1]);
                two()
            });
            (one.join().expect("no panic"), two.join().expect("no panic"))
        })
    }

    /// Nanoseconds for a cache line to go to the other core and back.
    pub fn ping_pong(&self) -> f64 {
        const TURNS: u64 = 2000;
        let ball = AtomicU64::new(0);
        let play = |mine: u64| {
            let start = Instant::now();
            for turn in 0..TURNS {
                while ball.load(Ordering::Acquire) != 2 * turn + mine {
                    std::hint::spin_loop();
                }
                ball.store(2 * turn + mine + 1, Ordering::Release);
            }
            nanoseconds(start.elapsed(), TURNS)
        };
        self.both(|| play(0), || play(1)).0
    }

    /// Nanoseconds a record while both producers write at once. The consumer empties the queue afterwards, by turns on
    /// the one core and on the other, so that half of the lines were last read far from their producer.
    pub fn contended(&self, queue: &mut Queue, records: u64, round: usize) -> f64 {
        let name = queue.name;
        let [one, two] = &mut queue.producers;
        let drain = Mutex::new(&mut queue.drain);
        let meet = Meet::new();
        let work = |producer: &mut Produce, me: usize| {
            let mut time = Duration::ZERO;
            for turn in 0..=WARM {
                meet.wait();
                let start = Instant::now();
                let accepted = producer(records);
                time = start.elapsed();
                assert_eq!(accepted, records, "{name} has room for all");
                meet.wait();
                if (turn + round) % 2 == me {
                    let mut drain = drain.lock().expect("no panic");
                    while drain() > 0 {}
                }
            }
            nanoseconds(time, records)
        };
        let (one, two) = self.both(|| work(one, 0), || work(two, 1));
        f64::midpoint(one, two)
    }

    /// Millions of records delivered in a second: one core writes, the other writes and drains in turn.
    pub fn live(&self, queue: &mut Queue, time: Duration) -> f64 {
        const TURN: u64 = 64;
        let [one, two] = &mut queue.producers;
        let drain = &mut queue.drain;
        let meet = Meet::new();
        let done = AtomicBool::new(false);
        let other = || {
            meet.wait();
            while !done.load(Ordering::Relaxed) {
                two(TURN);
            }
        };
        let this = || {
            meet.wait();
            let begin = Instant::now();
            let mut delivered = 0;
            while begin.elapsed() < time {
                for _ in 0..16 {
                    one(TURN);
                    delivered += drain();
                }
            }
            let time = begin.elapsed();
            done.store(true, Ordering::Relaxed);
            delivered as f64 / time.as_secs_f64() / 1e6
        };
        let (figure, ()) = self.both(this, other);
        while drain() > 0 {}
        figure
    }

    /// Nanoseconds a record of one producer with nobody else; emptied on the same core.
    pub fn single(&self, queue: &mut Queue, records: u64) -> f64 {
        let name = queue.name;
        let [one, _] = &mut queue.producers;
        let drain = &mut queue.drain;
        let work = || {
            let mut time = Duration::ZERO;
            for _ in 0..=WARM {
                let start = Instant::now();
                let accepted = one(records);
                time = start.elapsed();
                assert_eq!(accepted, records, "{name} has room for all");
                while drain() > 0 {}
            }
            nanoseconds(time, records)
        };
        self.both(work, || ()).0
    }

    /// Nanoseconds a record that finds the queue full.
    pub fn refused(&self, queue: &mut Queue, records: u64) -> f64 {
        let name = queue.name;
        let [one, _] = &mut queue.producers;
        let drain = &mut queue.drain;
        let work = || {
            while one(records) == records {}
            let mut time = Duration::ZERO;
            for _ in 0..=WARM {
                let start = Instant::now();
                let accepted = one(records);
                time = start.elapsed();
                assert_eq!(accepted, 0, "{name} is full");
            }
            while drain() > 0 {}
            nanoseconds(time, records)
        };
        self.both(work, || ()).0
    }
}
