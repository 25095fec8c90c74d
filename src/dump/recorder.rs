//! Keeps what the block is made of, and makes it when the machine stops.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::{self, Head, Header, STEP_NAME, STEPS, Step, Writer};
use crate::dispatch::Rings;
use crate::kernel::bugcheck::{Callback, HighLevel, Record, Shown};
use crate::kernel::irql::{self, Passive};
use crate::kernel::pool::PoolArc;
use crate::kernel::{Result, Status, time};
use crate::policies::Policies;
use crate::ring::{Cause, Kind};
use crate::sys::nt::GUID;

/// Words of a step's name.
const WORDS: usize = STEP_NAME / size_of::<u64>();
/// Of the stop.
const OF_STOP: u64 = 1 << 32;

/// A step, as it is kept. One thread writes, and whoever reads does so when that one stands still.
struct Kept {
    time: AtomicU64,
    /// The status, and what it is a step of.
    outcome: AtomicU64,
    name: [AtomicU64; WORDS],
}

static KEPT: [Kept; STEPS] = [const {
    Kept { time: AtomicU64::new(0), outcome: AtomicU64::new(0), name: [const { AtomicU64::new(0) }; WORDS] }
}; STEPS];

/// Steps so far.
static TOLD: AtomicU32 = AtomicU32::new(0);

/// The driver starts: no step has been done.
pub fn begin() {
    TOLD.store(0, Ordering::Relaxed);
}

/// Keeps a step of the start or the stop, each of which is one thread's, at PASSIVE_LEVEL.
pub fn note(step: &str, status: Status, of_stop: bool) {
    let told = TOLD.load(Ordering::Relaxed);
    let Some(kept) = place(told) else { return };
    kept.time.store(time::system_time(), Ordering::Relaxed);
    let outcome = u64::from(status.code()) | if of_stop { OF_STOP } else { 0 };
    kept.outcome.store(outcome, Ordering::Relaxed);
    let mut name = [0; STEP_NAME];
    for (place, byte) in name.iter_mut().zip(step.bytes()) {
        *place = byte;
    }
    for (word, bytes) in kept.name.iter().zip(name.as_chunks().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    TOLD.store(told.wrapping_add(1), Ordering::Release);
}

/// Where the step of that number is kept.
fn place(number: u32) -> Option<&'static Kept> {
    KEPT.get(usize::try_from(number).ok()?.checked_rem(STEPS)?)
}

impl Kept {
    fn read(&self) -> Step {
        let outcome = self.outcome.load(Ordering::Relaxed);
        let [a, b, c, d, ..] = outcome.to_le_bytes();
        let mut name = [0; STEP_NAME];
        for (bytes, word) in name.as_chunks_mut().0.iter_mut().zip(&self.name) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Step {
            time: self.time.load(Ordering::Relaxed),
            status: i32::from_le_bytes([a, b, c, d]),
            of_stop: outcome & OF_STOP != 0,
            name,
        }
    }
}

/// What is registered for a bug check.
#[derive(Debug)]
#[must_use = "it must be stopped before the driver unloads"]
pub struct Recorder {
    callback: Callback<State>,
}

/// What the block is made of, beside the steps. Empty until there is something.
#[derive(Debug, Default)]
struct State {
    rings: Shown<Rings>,
    policies: Shown<Policies>,
}

impl Recorder {
    /// Registers it, with a block that is large enough for the processors that the machine can have, up to
    /// [`layout::MAX_PROCESSORS`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_UNSUCCESSFUL` where the system does not take it.
    pub fn start(passive: &Passive) -> Result<Self> {
        let (data1, data2, data3, data4) = layout::TAG;
        let tag = GUID { Data1: data1, Data2: data2, Data3: data3, Data4: data4 };
        let processors = usize::try_from(irql::maximum_processors()).unwrap_or(usize::MAX);
        let callback = Callback::register(passive, tag, c"weir", layout::size(processors), State::default())?;
        Ok(Self { callback })
    }

    /// From here on these are looked at.
    pub fn show(&self, rings: &PoolArc<Rings>, policies: &PoolArc<Policies>) {
        let state = self.callback.recorder();
        state.rings.show(rings.clone());
        state.policies.show(policies.clone());
    }

    /// Takes the registration back.
    pub fn stop(self, passive: &Passive) {
        self.callback.deregister(passive);
    }
}

impl Record for State {
    fn record(&self, high: &HighLevel, into: &mut [u8]) -> usize {
        let mut writer = Writer::new(into);
        let told = TOLD.load(Ordering::Acquire);
        let first = told.saturating_sub(layout::STEPS_KEPT);
        for number in first..told {
            if let Some(kept) = place(number) {
                writer.step(&kept.read());
            }
        }
        let mut left_out = 0_u32;
        if let Some(rings) = self.rings.get(high) {
            for (number, ring) in rings.rings().take(layout::MOST_RINGS) {
                let mut lost = 0_u64;
                for kind in Kind::ALL {
                    for cause in Cause::ALL {
                        lost = lost.wrapping_add(ring.lost(*kind, cause));
                    }
                }
                let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
                let head = Head {
                    number,
                    written: wide(ring.written()),
                    given_back: wide(ring.given_back()),
                    delivered: ring.delivered(),
                    lost,
                    capacity: wide(ring.capacity()),
                };
                if !writer.processor(&head, |lines| ring.copy_latest(high, lines)) {
                    left_out = left_out.saturating_add(1);
                }
            }
        }
        let generation = self.policies.get(high).map_or(0, Policies::last_generation);
        writer.finish(&Header { generation, steps: told, left_out })
    }
}
