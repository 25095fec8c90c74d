//! The rings' memory: a ring for each processor, on the processor's own NUMA node, made when the system tells of it.
//!
//! The table has an entry for each processor that the machine can ever have, in all groups. Those that are active at the
//! start have their rings when [`Memory::start`] returns, or it fails. One that is added later gets its ring before it
//! runs; if there is no memory then, it is tried once more when it runs, and else what the processor writes is counted as
//! lost. A ring stays where it is until the driver stops, also when its processor did not come after all: the dispatcher
//! may be looking at it, and the processor may come later.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Alarm, Rings, Weir};
use crate::config::schema::RingOrder;
use crate::kernel::event::{self, Event};
use crate::kernel::irql::{self, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::processors::{Change, Node, Processor, Watch, Watcher};
use crate::kernel::{Result, Status};
use crate::ring::{AttachError, Entry, Kinds, Line, Ring};
use crate::trace::{self, Event as Trace};

/// The rings with their memory, which grows with the processors.
#[must_use = "it must be stopped before the driver unloads"]
pub struct Memory {
    watch: Watch<Maker>,
}

/// Makes rings.
struct Maker {
    rings: PoolArc<Rings>,
    /// Records in each.
    records: usize,
    stamped: Kinds,
    /// Bytes of all that has been made.
    bytes: AtomicU64,
}

impl Memory {
    /// Makes the rings: one of `records` lines, a power of two, for each processor that is active now, and for those
    /// that are added until [`Memory::stop`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, also where a processor that is active has no ring; `STATUS_INVALID_PARAMETER` for
    /// a number of records that is no power of two.
    pub fn start(passive: &Passive, records: u32, order: RingOrder) -> Result<Self> {
        let count = |number: u32| usize::try_from(number).map_err(|_| Status::INVALID_PARAMETER);
        let (records, processors) = (count(records)?, count(irql::maximum_processors())?);
        let stamped = super::stamped(order);
        if !records.is_power_of_two() {
            return Err(Status::INVALID_PARAMETER);
        }
        let table = PoolSlice::try_from_fn(tags::RING, processors, |_| Entry::new())?;
        let alarm = Alarm(Event::try_new(event::Kind::Synchronization)?);
        let bytes = AtomicU64::new(bytes(size_of::<Entry<Weir>>(), processors));
        let rings = PoolArc::try_new(tags::RING, Rings::new(table, alarm))?;
        // Those that come later are not this call's.
        let active = irql::active_processors(passive);
        let memory = Self { watch: Watch::start(passive, Maker { rings, records, stamped, bytes })? };
        if (0..active).any(|processor| memory.rings().ring(processor).is_none()) {
            drop(memory.stop(passive));
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        Ok(memory)
    }

    /// The rings.
    pub fn rings(&self) -> &PoolArc<Rings> {
        &self.watch.watcher().rings
    }

    /// Makes no more rings; those that there are stay with their owners.
    pub fn stop(self, passive: &Passive) -> PoolArc<Rings> {
        let rings = self.rings().clone();
        self.watch.stop(passive);
        rings
    }
}

impl Watcher for Maker {
    fn changed(&self, _passive: &Passive, processor: Processor, change: Change) {
        let index = processor.index();
        if change == Change::Failed || self.rings.ring(index).is_some() {
            return;
        }
        let made = self.make(processor);
        if let (Err(status), Change::Active) = (made, change) {
            trace::emit(&Trace::RingMissing { processor: index, status: status.into() });
        }
    }
}

impl Maker {
    fn make(&self, processor: Processor) -> Result {
        let node = processor.node();
        let tag = tags::RING.on(node);
        let lines = PoolSlice::try_from_fn(tag, self.records, |_| Line::new())?;
        let ring = Ring::new(lines, self.stamped).map_err(attach_status)?;
        self.rings.attach(processor.index(), PoolBox::try_new(tag, ring)?).map_err(attach_status)?;
        let bytes = bytes(size_of::<Line>(), self.records).saturating_add(bytes(size_of::<Ring<Weir>>(), 1));
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        trace::emit(&Trace::RingMade {
            processor: processor.index(),
            node: node.map_or(u32::MAX, Node::number),
            bytes,
            total,
        });
        Ok(())
    }
}

/// What so many of a size take.
fn bytes(size: usize, count: usize) -> u64 {
    u64::try_from(size.saturating_mul(count)).unwrap_or(u64::MAX)
}

const fn attach_status(error: AttachError) -> Status {
    match error {
        AttachError::Lines | AttachError::Processor | AttachError::Attached => Status::INVALID_PARAMETER,
    }
}
