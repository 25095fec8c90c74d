//! A connection.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::key::Key;
use super::reference::Ref;
use crate::kernel::pool::PoolArc;
use crate::kernel::time::{self, Interval};
use crate::policy::{Action, Direction};
use crate::ring::{LifeCycle, Link};

/// What was decided on a connection, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    pub action: Action,
    /// The rule's index in the policy; `None`: the policy's default, or the fail mode.
    pub rule: Option<u32>,
    /// The policy's generation; 0: the fail mode.
    pub generation: u32,
}

/// What a connection has carried one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    /// Transport headers and data.
    pub bytes: u64,
}

/// How the end of a connection was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// At ALE_ENDPOINT_CLOSURE.
    Closure = 1,
    /// Its flow went, without an endpoint closure before.
    FlowDeleted = 2,
    /// The driver let go of it.
    Unload = 3,
}

/// Counters of one way, on which only that way's packets write.
#[derive(Debug, Default)]
struct Way {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// How many connections there are, whoever owns them: the bound of the table counts those that are only waiting for
/// the dispatcher too.
#[derive(Debug)]
pub struct Population(AtomicU32);

impl Population {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// One more, unless there are `most`.
    pub(super) fn admit(&self, most: u32) -> bool {
        self.0
            .try_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                if count < most { count.checked_add(1) } else { None }
            })
            .is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A flag: the connection was given up before anything was told of it; its end is not told either.
const ABANDONED: u8 = 1;
/// A flag: the driver has begun to remove its flow contexts.
const REMOVING: u8 = 2;

/// What weir knows of one flow. See [the module](super).
pub struct Connection {
    pub(super) link: Link,
    pub(super) owners: AtomicU32,
    /// Flow contexts that are associated, and one more while they are being associated.
    contexts: AtomicU32,
    flags: AtomicU8,
    ended: AtomicU8,
    direction: Direction,
    number: u64,
    flow: u64,
    key: Key,
    endpoint: AtomicU64,
    /// [`Decided`], packed; replaced as a whole on reauthorization.
    decided: AtomicU64,
    since: Interval,
    until: AtomicU64,
    ways: [Way; 2],
    population: PoolArc<Population>,
    /// The next connection of the same bucket. Guarded by the bucket's lock. Its last owner goes on with it, so that a
    /// chain of any length is freed on a stack of one size.
    pub(super) next: UnsafeCell<ManuallyDrop<Option<Ref>>>,
}

// SAFETY: `next` is only touched under the lock of the connection's bucket; the rest is atomic, immutable, or
// synchronised by itself.
unsafe impl Sync for Connection {}

impl Connection {
    /// A connection that `population` has admitted.
    pub(super) fn new(
        number: u64,
        key: Key,
        direction: Direction,
        flow: u64,
        decided: Decided,
        population: PoolArc<Population>,
    ) -> Self {
        Self {
            link: Link::new(),
            owners: AtomicU32::new(1),
            contexts: AtomicU32::new(1),
            flags: AtomicU8::new(0),
            ended: AtomicU8::new(0),
            direction,
            number,
            flow,
            key,
            endpoint: AtomicU64::new(0),
            decided: AtomicU64::new(pack(decided)),
            since: time::since_boot(),
            until: AtomicU64::new(0),
            ways: [Way::default(), Way::default()],
            population,
            next: UnsafeCell::new(ManuallyDrop::new(None)),
        }
    }

    /// The connection's number, unique since the driver's start, never 0.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The flow's run-time identifier.
    pub const fn flow(&self) -> u64 {
        self.flow
    }

    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Which side opened it.
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// The transport endpoint, once it is known.
    pub fn endpoint(&self) -> Option<u64> {
        Some(self.endpoint.load(Ordering::Relaxed)).filter(|endpoint| *endpoint != 0)
    }

    /// The endpoint is learnt, or known better: that of an accepted connection is its listener's at first.
    pub fn set_endpoint(&self, endpoint: u64) {
        self.endpoint.store(endpoint, Ordering::Relaxed);
    }

    /// The last decision.
    pub fn decided(&self) -> Decided {
        unpack(self.decided.load(Ordering::Relaxed))
    }

    /// Decided on again.
    pub fn decide(&self, decided: Decided) {
        self.decided.store(pack(decided), Ordering::Relaxed);
    }

    /// Adds to what has been carried.
    #[inline]
    pub fn count(&self, way: Direction, packets: u32, bytes: u64) {
        let way = self.way(way);
        way.packets.fetch_add(u64::from(packets), Ordering::Relaxed);
        way.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What has been carried one way.
    pub fn counters(&self, way: Direction) -> Counters {
        let way = self.way(way);
        Counters { packets: way.packets.load(Ordering::Relaxed), bytes: way.bytes.load(Ordering::Relaxed) }
    }

    const fn way(&self, way: Direction) -> &Way {
        let [received, sent] = &self.ways;
        match way {
            Direction::In => received,
            Direction::Out => sent,
        }
    }

    /// Whether its end has been raised.
    pub fn is_closed(&self) -> bool {
        self.link.raised(LifeCycle::Closed)
    }

    /// Notes how and when it ended; the first note stays.
    pub fn end(&self, how: Ended) {
        if self.ended.compare_exchange(0, how as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.until.store(time::since_boot().as_100ns(), Ordering::Release);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        match self.ended.load(Ordering::Acquire) {
            1 => Some(Ended::Closure),
            2 => Some(Ended::FlowDeleted),
            3 => Some(Ended::Unload),
            _ => None,
        }
    }

    /// When it was decided on, as a system time: units of 100 ns since 1601, UTC.
    pub fn opened(&self) -> u64 {
        let age = time::since_boot().as_100ns().saturating_sub(self.since.as_100ns());
        time::system_time().saturating_sub(age)
    }

    /// From the decision to the end, in units of 100 ns; to now, if it has not ended.
    pub fn duration(&self) -> u64 {
        let until = match self.until.load(Ordering::Acquire) {
            0 => time::since_boot().as_100ns(),
            until => until,
        };
        until.saturating_sub(self.since.as_100ns())
    }

    /// A flow context is going to be associated.
    pub fn add_context(&self) {
        self.contexts.fetch_add(1, Ordering::Relaxed);
    }

    /// A flow context is gone, or all that could be associated are. True for the last: the flow is gone for weir.
    #[must_use]
    pub fn remove_context(&self) -> bool {
        self.contexts.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Given up before anything was told of it.
    pub fn abandon(&self) {
        self.flags.fetch_or(ABANDONED, Ordering::AcqRel);
    }

    pub fn is_abandoned(&self) -> bool {
        self.flags.load(Ordering::Acquire) & ABANDONED != 0
    }

    /// Whether the caller is the first to remove its flow contexts.
    pub fn begin_removal(&self) -> bool {
        self.flags.fetch_or(REMOVING, Ordering::AcqRel) & REMOVING == 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.population.leave();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("number", &self.number)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// `None` in the 24 bits of a packed rule. A policy has fewer rules.
const NO_RULE: u64 = 0xFF_FFFF;

fn pack(decided: Decided) -> u64 {
    let rule = decided.rule.map_or(NO_RULE, |rule| u64::from(rule).min(NO_RULE));
    u64::from(decided.generation) << 32 | rule << 8 | decided.action as u64
}

fn unpack(packed: u64) -> Decided {
    let [generation, rest] =
        [packed >> 32, packed & 0xFFFF_FFFF].map(|half| u32::try_from(half).unwrap_or(0));
    let [action, ..] = packed.to_le_bytes();
    let rule = rest >> 8;
    Decided {
        action: Action::from_byte(action).unwrap_or(Action::Block),
        rule: (u64::from(rule) != NO_RULE).then_some(rule),
        generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_survives_packing() {
        for action in [Action::Allow, Action::Block, Action::Audit] {
            for rule in [None, Some(0), Some(131_071)] {
                for generation in [0, 1, u32::MAX] {
                    let decided = Decided { action, rule, generation };
                    assert_eq!(unpack(pack(decided)), decided);
                }
            }
        }
    }

    const _: () = assert!(crate::policy::format::MAX_RULES < 0xFF_FFFF);
}
