//! The dispatcher: the one consumer of all rings and of the life-cycle list.

use super::{
    life::{LifeCycle, Linked},
    processor::View,
    record::Kind,
    rings::{Rings, Supply},
    sync::relax,
};

/// A record as it is delivered. It lies in the ring: what is to be kept is copied.
pub struct Record<'a, T> {
    /// The processor that wrote it.
    pub processor: u32,
    /// Its kind.
    pub kind: Kind,
    /// The kind's own word.
    pub detail: u16,
    /// Records that the processor lost directly before this one.
    pub lost: u32,
    /// The object that it belongs to.
    pub object: Option<&'a T>,
    /// Its number among the records and events of its object.
    pub sequence: u32,
    /// The payload, rounded up to whole lines: decoders take what their kind has.
    pub payload: &'a [u8],
}

/// What is done with records and events, on the dispatcher's thread.
pub trait Handler<T> {
    /// A record, in the order of its processor and of its object.
    fn record(&mut self, record: &Record<'_, T>);
    /// An event of `object`, in the object's order; after `Closed` the ring gives its reference up.
    fn life_cycle(&mut self, object: &T, event: LifeCycle, sequence: u32);
    /// A point between batches, where the handler holds nothing of the ring's: it may flush, and block.
    fn quiescent(&mut self) {}
}

/// Bounds on the dispatcher's work.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Lines taken from one ring before the next has its turn, and before lines are given back.
    pub batch: usize,
    /// Lines and events between two quiescent points.
    pub work: usize,
    /// Most polls of all rings without finding anything before the dispatcher parks.
    pub spin: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { batch: 64, work: 1024, spin: 2048 }
    }
}

/// What a dispatcher has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Summary {
    /// Records delivered.
    pub records: u64,
    /// Life-cycle events delivered.
    pub life_cycle: usize,
    /// Times that it parked.
    pub parked: u64,
    /// Rings and objects whose next record or event never came: 0, unless a producer was still at work.
    pub withheld: usize,
}

/// The consumer. It runs on one thread, at PASSIVE_LEVEL.
pub struct Dispatcher<'a, S: Supply> {
    rings: &'a Rings<S>,
    bounds: Bounds,
    /// Polls to make in vain before parking: grows when spinning paid, shrinks when it did not.
    patience: u32,
    summary: Summary,
}

/// Least polls before parking.
const LEAST_PATIENCE: u32 = 16;

impl<'a, S: Supply> Dispatcher<'a, S> {
    pub(super) fn new(rings: &'a Rings<S>) -> Self {
        Self { rings, bounds: Bounds::default(), patience: LEAST_PATIENCE, summary: Summary::default() }
    }

    /// Replaces the default bounds; zeros are taken as one.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.patience = LEAST_PATIENCE.min(bounds.spin);
        self.bounds = Bounds { batch: bounds.batch.max(1), work: bounds.work.max(1), spin: bounds.spin };
        self
    }

    /// Delivers until [`Rings::stop`], then what is left, then returns.
    pub fn run(&mut self, handler: &mut impl Handler<S::Object>) -> Summary {
        let mut idle: u32 = 0;
        loop {
            // Before the poll: what was committed before the stop is seen by the poll after it.
            let stopping = self.rings.is_stopping();
            if self.poll(handler) {
                if idle > 0 {
                    self.patience = self.patience.saturating_mul(2).min(self.bounds.spin);
                }
                idle = 0;
            } else if stopping {
                self.summary.withheld = self.withheld();
                return self.summary;
            } else if idle < self.patience {
                idle = idle.saturating_add(1);
                relax();
            } else {
                self.patience = (self.patience / 2).max(LEAST_PATIENCE.min(self.bounds.spin));
                idle = 0;
                if self.rings.park(|| self.has_work()) {
                    self.summary.parked = self.summary.parked.wrapping_add(1);
                }
            }
        }
    }

    /// One turn over all rings and the list: true if anything was delivered.
    pub fn poll(&mut self, handler: &mut impl Handler<S::Object>) -> bool {
        let mut work: usize = 0;
        let mut any = false;
        for (processor, ring) in self.rings.rings() {
            let mut records: u64 = 0;
            let lines = ring.drain(self.bounds.batch, |View { header, owner, payload }| {
                let Some(kind) = Kind::from_u8(header.kind()) else {
                    return;
                };
                let record = Record {
                    processor,
                    kind,
                    detail: header.detail(),
                    lost: header.lost(),
                    object: owner.map(|(object, _)| object),
                    sequence: owner.map_or(0, |(_, sequence)| sequence),
                    payload,
                };
                records = records.wrapping_add(1);
                handler.record(&record);
            });
            self.summary.records = self.summary.records.wrapping_add(records);
            any |= lines > 0;
            work = work.saturating_add(lines);
            if work >= self.bounds.work {
                work = 0;
                handler.quiescent();
            }
        }
        if work > 0 {
            handler.quiescent();
        }
        let events = self.life_cycle(handler);
        if events > 0 {
            handler.quiescent();
        }
        any || events > 0
    }

    /// Delivers events whose turn it is; their number.
    fn life_cycle(&mut self, handler: &mut impl Handler<S::Object>) -> usize {
        let life = &self.rings.life;
        life.take();
        let mut events: usize = 0;
        let mut kept = None;
        while events < self.bounds.work {
            if kept.is_some() && life.oldest() == kept {
                break;
            }
            let Some(node) = life.pop() else { break };
            // SAFETY: objects on the list are retained until their `Closed` is delivered, below.
            let object = unsafe { node.as_ref() };
            let link = object.link();
            let mut closed = false;
            while let Some((event, sequence)) = link.ready_event() {
                handler.life_cycle(object, event, sequence);
                link.advance();
                events = events.saturating_add(1);
                closed = event == LifeCycle::Closed;
            }
            if closed {
                // SAFETY: retained with its first number; nothing in the ring names it any more.
                unsafe { S::Object::release(node) };
            } else if !link.dequeue() {
                life.put_back(node);
                kept.get_or_insert(node);
            }
        }
        self.summary.life_cycle = self.summary.life_cycle.saturating_add(events);
        self.rings.count_life_cycle(events);
        events
    }

    /// Whether anything can be delivered that the last poll did not see.
    fn has_work(&self) -> bool {
        let life = &self.rings.life;
        life.has_incoming() || life.has_deliverable() || self.rings.rings().any(|(_, ring)| ring.has_news())
    }

    /// Rings and objects that wait for a number which nobody took to its end.
    fn withheld(&self) -> usize {
        let rings = self.rings.rings().filter(|(_, ring)| ring.is_held()).count();
        rings.saturating_add(self.rings.life.len())
    }
}

impl<S: Supply> Drop for Dispatcher<'_, S> {
    fn drop(&mut self) {
        self.rings.dispatcher_dropped();
    }
}
