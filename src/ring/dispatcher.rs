//! The dispatcher: the one consumer of all rings and of the life-cycle list.

use super::{
    life::{LifeCycle, Object},
    line::Stamp,
    processor::{Next, Ring, View},
    record::Kind,
    rings::{Rings, Supply},
    sync::relax,
};

/// A record as it is delivered. It lies in the ring: what is to be kept is copied.
pub struct Record<'a, S: Supply> {
    /// The processor that wrote it.
    pub processor: u32,
    /// Its kind.
    pub kind: Kind,
    /// The kind's own word.
    pub detail: u16,
    /// Records that the processor lost directly before this one.
    pub lost: u32,
    /// The object that it belongs to.
    pub object: Option<S::Object<'a>>,
    /// Its number among the records and events of its object.
    pub sequence: u32,
    /// When it was claimed, by [`Supply::now`]; of records of kinds that are stamped.
    pub time: Option<Stamp>,
    /// The payload, rounded up to whole lines: decoders take what their kind has.
    pub payload: &'a [u8],
}

/// What is done with records and events, on the dispatcher's thread.
pub trait Handler<S: Supply> {
    /// A record, in the order of its processor and of its object.
    fn record(&mut self, record: &Record<'_, S>);
    /// An event of `object`, in the object's order; after `Closed` the ring gives its reference up.
    fn life_cycle(&mut self, object: S::Object<'_>, event: LifeCycle, sequence: u32);
    /// A point between batches, where the handler holds nothing of the ring's: it may flush, and block.
    fn quiescent(&mut self) {}
    /// Polls to make in vain at most before parking, now; `bound` is what was set at first.
    fn spin(&self, bound: u32) -> u32 {
        bound
    }
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
    /// Records that came after one with a later stamp, of those that were merged by time.
    pub late: u64,
    /// Rings and objects whose next record or event never came: 0, unless a producer was still at work.
    pub withheld: usize,
}

/// The consumer. It runs on one thread, at PASSIVE_LEVEL.
pub struct Dispatcher<'a, S: Supply> {
    rings: &'a Rings<S>,
    bounds: Bounds,
    /// Polls to make in vain before parking: grows when spinning paid, shrinks when it did not.
    patience: u32,
    /// Merges by time: how long a record waits for those of other processors, in [`Supply::now`]'s units.
    settle: Option<Stamp>,
    /// Merged by time: the latest stamp that was delivered.
    latest: Stamp,
    /// Merged by time: the oldest stamp that is too young to be delivered.
    young: Option<Stamp>,
    /// It is the end: nothing waits to be merged by time.
    ends: bool,
    /// [`Dispatcher::run`] has returned, and what was left has been given up.
    over: bool,
    summary: Summary,
}

/// How often the clock is looked at before the rings are again.
const LOOKS_AT_THE_CLOCK: u32 = 256;
/// Least polls before parking.
const LEAST_PATIENCE: u32 = 16;

impl<'a, S: Supply> Dispatcher<'a, S> {
    pub(super) fn new(rings: &'a Rings<S>) -> Self {
        Self {
            rings,
            bounds: Bounds::default(),
            patience: LEAST_PATIENCE,
            settle: None,
            latest: 0,
            young: None,
            ends: false,
            over: false,
            summary: Summary::default(),
        }
    }

    /// Replaces the default bounds; zeros are taken as one.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.patience = LEAST_PATIENCE.min(bounds.spin);
        self.bounds = Bounds { batch: bounds.batch.max(1), work: bounds.work.max(1), spin: bounds.spin };
        self
    }

    /// Merges the rings by the records' stamps, as far as their objects' orders let it: a record is delivered `settle`
    /// (in units of [`Supply::now`]) after its stamp, and before it all those that were stamped before it and committed
    /// by then. One that is committed later is delivered as soon as it is seen, and counted in [`Summary::late`]. Records
    /// without a stamp follow the one before them on their processor. While it waits for `settle` the dispatcher spins.
    #[must_use]
    pub const fn in_order_of_time(mut self, settle: Stamp) -> Self {
        self.settle = Some(settle);
        self
    }

    /// Delivers until [`Rings::stop`], then what is left, then returns. After that there is no dispatcher any more.
    pub fn run(&mut self, handler: &mut impl Handler<S>) -> Summary {
        let mut idle: u32 = 0;
        while !self.over {
            // Before the poll: what was committed before the stop is seen by the poll after it.
            let stopping = self.rings.is_stopping();
            self.ends = stopping;
            if self.poll(handler) {
                if idle > 0 {
                    self.patience = self.patience.saturating_mul(2).min(handler.spin(self.bounds.spin));
                }
                idle = 0;
            } else if let Some(young) = self.young {
                self.wait_for(young);
            } else if stopping {
                self.summary.withheld = self.withheld();
                self.over = true;
                self.rings.give_up();
            } else if idle < self.patience {
                idle = idle.saturating_add(1);
                relax();
            } else {
                let spin = handler.spin(self.bounds.spin);
                self.patience = (self.patience / 2).max(LEAST_PATIENCE.min(spin));
                idle = 0;
                if self.rings.park(|| self.has_work()) {
                    self.summary.parked = self.summary.parked.wrapping_add(1);
                }
            }
        }
        self.summary
    }

    /// One turn over all rings and the list: true if anything was delivered.
    pub fn poll(&mut self, handler: &mut impl Handler<S>) -> bool {
        if self.over {
            return false;
        }
        let any = match self.settle {
            None => self.poll_in_turn(handler),
            Some(settle) => self.poll_in_time(settle, handler),
        };
        let events = self.life_cycle(handler);
        if events > 0 {
            handler.quiescent();
        }
        any || events > 0
    }

    /// A batch of each ring.
    fn poll_in_turn(&mut self, handler: &mut impl Handler<S>) -> bool {
        let mut work: usize = 0;
        let mut any = false;
        for (processor, ring) in self.rings.rings() {
            let lines = self.drain(processor, ring, Stamp::MAX, handler);
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
        any
    }

    /// The records that are old enough, the oldest first.
    fn poll_in_time(&mut self, settle: Stamp, handler: &mut impl Handler<S>) -> bool {
        let ends = self.ends;
        // Before the look at the rings: what was stamped by then and committed since is seen.
        let horizon = S::now().saturating_sub(settle);
        // What is stamped later than now is of a clock that was set back, and not waited for. (It is another now: the
        // handler may have taken its time.)
        let is_young = |time: Stamp| !ends && time > horizon && time <= S::now().saturating_add(settle);
        let mut work: usize = 0;
        self.young = None;
        while work < self.bounds.work
            && let Some((processor, ring, until)) = self.oldest(horizon, is_young)
        {
            let lines = self.drain(processor, ring, until, handler);
            work = work.saturating_add(lines);
        }
        if work > 0 {
            handler.quiescent();
        }
        work > 0
    }

    /// Spins until a record with that stamp is old enough, for a while at most, or until the end. The rings are left
    /// alone: their owners write to what a look reads.
    fn wait_for(&self, young: Stamp) {
        let until = young.saturating_add(self.settle.unwrap_or_default());
        for _ in 0..LOOKS_AT_THE_CLOCK {
            if S::now() >= until || self.rings.is_stopping() {
                return;
            }
            relax();
        }
    }

    /// The ring with the oldest record whose turn it is, and the stamp up to which no other ring has an older one.
    fn oldest(
        &mut self,
        horizon: Stamp,
        is_young: impl Fn(Stamp) -> bool,
    ) -> Option<(u32, &'a Ring<S>, Stamp)> {
        let mut oldest: Option<(u32, &'a Ring<S>, Stamp)> = None;
        let mut others = horizon;
        for (processor, ring) in self.rings.rings() {
            let Some(Next { time, is_due }) = ring.next() else { continue };
            if is_young(time) {
                self.young = Some(self.young.map_or(time, |young| young.min(time)));
                continue;
            }
            match oldest {
                _ if !is_due => others = others.min(time),
                Some((.., before)) if before <= time => others = others.min(time),
                _ => {
                    others = oldest.map_or(others, |(.., before)| others.min(before));
                    oldest = Some((processor, ring, time));
                }
            }
        }
        // One that waits for its turn may be older than all whose turn it is.
        oldest.map(|(processor, ring, time)| (processor, ring, others.max(time)))
    }

    /// Delivers a batch of one ring, up to the stamp `until`; the number of lines.
    #[inline]
    fn drain(
        &mut self,
        processor: u32,
        ring: &Ring<S>,
        until: Stamp,
        handler: &mut impl Handler<S>,
    ) -> usize {
        let (mut latest, mut late, mut records) = (self.latest, 0_u64, 0_u64);
        let lines = ring.drain(self.bounds.batch, until, |View { header, owner, time, payload }| {
            let Some(kind) = Kind::from_u8(header.kind()) else {
                return;
            };
            if let Some(time) = time {
                late = late.wrapping_add(u64::from(time < latest));
                latest = latest.max(time);
            }
            let record = Record {
                processor,
                kind,
                detail: header.detail(),
                lost: header.lost(),
                object: owner.map(|(object, _)| object),
                sequence: owner.map_or(0, |(_, sequence)| sequence),
                time,
                payload,
            };
            records = records.wrapping_add(1);
            handler.record(&record);
        });
        self.summary.records = self.summary.records.wrapping_add(records);
        if self.settle.is_some() {
            self.latest = latest;
            self.summary.late = self.summary.late.wrapping_add(late);
        }
        lines
    }

    /// Delivers events whose turn it is; their number.
    fn life_cycle(&mut self, handler: &mut impl Handler<S>) -> usize {
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
            let object = unsafe { S::Object::from_raw(node) };
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
                life.put_back(object);
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
        if !self.over {
            self.rings.dispatcher_dropped();
        }
    }
}
