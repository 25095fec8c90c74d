//! The table of connections.
//!
//! A fixed number of buckets, each a chain behind a spin lock of its own. Nothing is allocated and nothing foreign is
//! called under a lock, and a connection that leaves is freed after the lock is released.
//!
//! A connection is found by its [`Key`], which the endpoint closure has too; flows that share a key (ICMP, or a new
//! connection on endpoints whose old one lingers) are told apart by flow handle or endpoint.

use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use super::connection::{Connection, Decided, Population};
use super::key::Key;
use super::reference::Ref;
use crate::kernel::irql::{AtDispatch, AtMostDispatch, Passive};
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::{Result, Status, time};
use crate::policy::Direction;

/// The most and the fewest buckets.
const MOST_BUCKETS: usize = 1 << 16;
const FEWEST_BUCKETS: usize = 1 << 6;

/// A cursor's low bits: the place in its bucket's chain. The others: the bucket.
const PLACE_BITS: u32 = 16;
const PLACE: u32 = (1 << PLACE_BITS) - 1;
const _: () = assert!(MOST_BUCKETS <= 1 << (u32::BITS - PLACE_BITS));

/// Connections of one bucket.
struct Chain {
    first: Option<Ref>,
}

/// All connections that weir tracks.
pub struct Flows {
    buckets: PoolSlice<SpinLock<Chain>>,
    seed: u64,
    /// The most connections.
    most: u32,
    population: PoolArc<Population>,
    /// The last number given to a connection or a decision.
    numbers: AtomicU64,
    /// Connections that could not be tracked.
    untracked: AtomicU64,
}

/// What [`Flows::insert`] did.
#[derive(Debug)]
pub enum Inserted {
    /// The connection is new, and in the table.
    New(Ref),
    /// The flow has a connection already.
    Known(Ref),
}

impl Flows {
    /// A table for at most `most` connections.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(_passive: &Passive, most: u32) -> Result<Self> {
        let wanted = usize::try_from(most).map_err(|_| Status::INVALID_PARAMETER)?;
        let count = wanted.clamp(FEWEST_BUCKETS, MOST_BUCKETS).next_power_of_two();
        let buckets = PoolSlice::try_from_fn(tags::FLOW_TABLE, count, |_| {
            SpinLock::new("flow bucket", Chain { first: None })
        })?;
        let population = PoolArc::try_new(tags::FLOW_TABLE, Population::new())?;
        // What remote hosts do not know: when the driver started, to the tick, and where its memory lies.
        let seed = time::counter().rotate_left(32) ^ time::system_time() ^ buckets.as_ptr().addr() as u64;
        Ok(Self { buckets, seed, most, population, numbers: AtomicU64::new(0), untracked: AtomicU64::new(0) })
    }

    /// A number for a connection, unique since the driver's start, never 0.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// How many numbers were given: to connections, and to decisions without one.
    pub fn numbers(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed)
    }

    /// How many connections there are, those included that only wait to be freed.
    pub fn population(&self) -> u32 {
        self.population.get()
    }

    /// How many connections could not be tracked since the last call.
    pub fn take_untracked(&self) -> u64 {
        self.untracked.swap(0, Ordering::Relaxed)
    }

    /// A connection cannot be tracked.
    pub fn count_untracked(&self) {
        self.untracked.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes the connection of `flow` and puts it into the table, unless the flow has one. One flow context is counted
    /// as being associated: see [`Connection::remove_context`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`: no memory, or as many connections as are allowed.
    pub fn insert(
        &self,
        number: u64,
        key: Key,
        direction: Direction,
        flow: u64,
        decided: Decided,
        at: &AtDispatch<'_>,
    ) -> Result<Inserted> {
        if !self.population.admit(self.most) {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        // From here on the connection leaves the population when it is dropped.
        let connection =
            Ref::try_new(Connection::new(number, key, direction, flow, decided, self.population.clone()))?;
        let mut chain = self.bucket(&key)?.lock_at(at);
        if let Some(known) = chain.find(|other| other.flow() == flow && *other.key() == key) {
            drop(chain);
            return Ok(Inserted::Known(known));
        }
        chain.push(connection.clone());
        drop(chain);
        Ok(Inserted::New(connection))
    }

    /// The connection of `flow`.
    pub fn find(&self, key: &Key, flow: u64, at: &AtDispatch<'_>) -> Option<Ref> {
        self.bucket(key).ok()?.lock_at(at).find(|other| other.flow() == flow && other.key() == key)
    }

    /// The connection that ends with `endpoint`: of those with this key that have not ended, the one whose endpoint
    /// it is; where either endpoint is not known, the key has to do.
    pub fn find_open(&self, key: &Key, endpoint: Option<u64>, at: &AtDispatch<'_>) -> Option<Ref> {
        let chain = self.bucket(key).ok()?.lock_at(at);
        let exact = chain.find(|other| {
            endpoint.is_some() && other.endpoint() == endpoint && other.key() == key && !other.is_closed()
        });
        exact.or_else(|| {
            chain.find(|other| {
                (endpoint.is_none() || other.endpoint().is_none()) && other.key() == key && !other.is_closed()
            })
        })
    }

    /// Takes a connection out of the table; true if it was there.
    pub fn remove(&self, connection: &Connection, at: &AtDispatch<'_>) -> bool {
        let removed = match self.bucket(connection.key()) {
            Ok(bucket) => bucket.lock_at(at).remove(connection),
            Err(_) => None,
        };
        // Dropped, and perhaps freed, without the lock.
        removed.is_some()
    }

    /// Calls `each` with every connection whose removal has not begun, once, without a lock held.
    pub fn for_each_removal(&self, passive: &mut Passive, mut each: impl FnMut(Ref)) {
        for bucket in self.buckets.iter() {
            loop {
                let found = bucket.lock(passive).find(Connection::begin_removal);
                let Some(connection) = found else { break };
                each(connection);
            }
        }
    }

    /// The connection at `cursor`, or the next one after it, and the cursor after that; `None`: there are no more. Cursors
    /// count from 0. Connections that come and go meanwhile may be missed or met twice.
    pub fn next_from(&self, irql: &mut AtMostDispatch, cursor: u32) -> Option<(Ref, u32)> {
        let mut place = usize::try_from(cursor & PLACE).ok()?;
        for index in usize::try_from(cursor.wrapping_shr(PLACE_BITS)).ok()?..self.buckets.len() {
            let mut left = place;
            let found = self.buckets.get(index)?.lock(irql).find(|_| match left.checked_sub(1) {
                Some(less) => {
                    left = less;
                    false
                }
                None => true,
            });
            if let Some(connection) = found {
                let next = u32::try_from(place).ok()?.saturating_add(1).min(PLACE);
                return Some((connection, u32::try_from(index).ok()?.wrapping_shl(PLACE_BITS) | next));
            }
            place = 0;
        }
        None
    }

    fn bucket(&self, key: &Key) -> Result<&SpinLock<Chain>> {
        let mask = self.buckets.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "the mask takes the low bits")]
        let index = key.hash(self.seed) as usize & mask;
        self.buckets.get(index).ok_or(Status::INVALID_PARAMETER)
    }
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").field("population", &self.population()).finish_non_exhaustive()
    }
}

impl Chain {
    fn push(&mut self, connection: Ref) {
        let next = self.first.take();
        // SAFETY: a connection that comes into a bucket is in none, and this one's lock is held.
        unsafe { *connection.next.get() = ManuallyDrop::new(next) };
        self.first = Some(connection);
    }

    fn find(&self, mut wanted: impl FnMut(&Connection) -> bool) -> Option<Ref> {
        let mut at = self.first.as_ref();
        while let Some(connection) = at {
            if wanted(connection) {
                return Some(connection.clone());
            }
            // SAFETY: the chain is borrowed from the lock's guard, so nobody changes it.
            at = unsafe { &*connection.next.get() }.as_ref();
        }
        None
    }

    fn remove(&mut self, wanted: &Connection) -> Option<Ref> {
        let mut place: *mut Option<Ref> = &raw mut self.first;
        loop {
            // SAFETY: the chain's head or the link of one of its connections, borrowed from the lock's guard; no
            // other reference to it exists here.
            let slot = unsafe { &mut *place };
            match slot.take() {
                None => return None,
                Some(connection) if connection.is(wanted) => {
                    // SAFETY: as above: the link of a connection of the chain.
                    *slot = unsafe { &mut *connection.next.get() }.take();
                    return Some(connection);
                }
                Some(connection) => {
                    place = connection.next.get().cast();
                    *slot = Some(connection);
                }
            }
        }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::{Flows, Inserted};
    use crate::flow::connection::Decided;
    use crate::flow::key::Key;
    use crate::kernel::irql::Passive;
    use crate::policy::{Action, Direction, Family};

    #[test]
    fn cursors_lead_to_every_connection_once() {
        let _sim = ntsim::boot(ntsim::Config::default());
        // SAFETY: a test's thread is at PASSIVE_LEVEL.
        let mut passive = unsafe { Passive::assume() };
        let flows = Flows::try_new(&passive, 1_000).unwrap();
        let decided = Decided { action: Action::Allow, rule: None, generation: 1 };
        for flow in 1..=1_000_u64 {
            let key = Key {
                family: Family::V4,
                protocol: 6,
                local: Default::default(),
                remote: Default::default(),
                // Chains of ten.
                local_port: u16::try_from(flow / 10).unwrap(),
                remote_port: 2,
            };
            let raised = passive.raise();
            drop(flows.insert(flow, key, Direction::Out, flow, decided, &raised.token()).unwrap());
        }
        let (mut cursor, mut met) = (0, std::vec::Vec::new());
        while let Some((connection, next)) = flows.next_from(&mut passive, cursor) {
            met.push(connection.number());
            cursor = next;
        }
        met.sort_unstable();
        assert!(met.iter().copied().eq(1..=1_000));
        assert!(flows.next_from(&mut passive, u32::MAX).is_none());
    }

    #[test]
    fn a_long_chain_is_freed_on_a_small_stack() {
        const CONNECTIONS: u32 = 5_000;
        let _sim = ntsim::boot(ntsim::Config::default());
        let decided = Decided { action: Action::Allow, rule: None, generation: 1 };
        let key = Key {
            family: Family::V4,
            protocol: 6,
            local: Default::default(),
            remote: Default::default(),
            local_port: 1,
            remote_port: 2,
        };
        let fill_and_drop = move || {
            // SAFETY: a test's thread is at PASSIVE_LEVEL.
            let mut passive = unsafe { Passive::assume() };
            let flows = Flows::try_new(&passive, CONNECTIONS).unwrap();
            for flow in 1..=CONNECTIONS.into() {
                let raised = passive.raise();
                let inserted =
                    flows.insert(flow, key, Direction::Out, flow, decided, &raised.token()).unwrap();
                assert!(matches!(inserted, Inserted::New(_)));
            }
            assert_eq!(flows.population(), CONNECTIONS);
            let population = flows.population.clone();
            drop(flows);
            assert_eq!(population.get(), 0);
        };
        let small = std::thread::Builder::new().stack_size(64 << 10).spawn(fill_and_drop);
        small.unwrap().join().unwrap();
    }
}
