//! Who follows events, and what waits to be sent to them.
//!
//! An event is heard on the thread that emits it, at or below DISPATCH_LEVEL: it is encoded once, and copied into the
//! log of each session that wants it and has credit for it. What finds no credit or no room is counted, and costs
//! nobody else anything. The worker takes messages out of the logs.
#![forbid(unsafe_code)]

use super::log::Log;
use super::protocol::message::{Encoded, NoRoom, Subscribe};
use super::protocol::subscription::{Offered, Refused, Subscription};
use super::shared::Budget;
use crate::kernel::event;
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::trace::{self, Event};
use core::sync::atomic::{AtomicBool, Ordering};

/// What a log has at least, in bytes.
const SMALLEST_LOG: usize = 8 * 1024;
/// What it has at first, as long as the common budget lasts.
const LOG: usize = 64 * 1024;
/// What it grows to at most, as long as the common budget lasts.
const LARGEST_LOG: usize = 256 * 1024;
/// Room for one encoded event. A longer one, which only a long name in the registry makes, is lost and counted.
const LONGEST_EVENT: usize = 1024;
/// How often losses are told where there is nothing else to send, in units of 100 ns.
const LOSSES_APART: u64 = Interval::from_millis(100).as_100ns();

/// All who follow.
pub(super) struct Hub {
    inner: SpinLock<Inner>,
    /// Somebody has something new to be sent.
    ready: AtomicBool,
    wake: PoolArc<event::Event>,
}

struct Inner {
    /// The first ones are there, without gaps.
    followers: PoolSlice<Option<Follower>>,
    scratch: PoolSlice<u8>,
}

struct Follower {
    /// The session's place.
    place: usize,
    subscription: PoolBox<Subscription>,
    log: Log,
    /// What the log has had from the common budget.
    grown: usize,
    /// An event that there was credit for has found no room.
    short: bool,
    /// Something has come since the last message was taken.
    fresh: bool,
    /// It hears no more, and ends when its log is empty.
    ending: bool,
    /// Losses alone are not told before, in units of 100 ns since boot.
    not_before: u64,
}

/// Why nobody follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The session follows already.
    Already,
    Refused(Refused),
    Memory(Status),
}

/// What a log had to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A message of so many bytes.
    Message(usize),
    Nothing,
    /// There will be something to tell at that time, in units of 100 ns since boot.
    Later(u64),
    /// It was to end, and has nothing left to send.
    Ended,
}

impl Hub {
    /// For as many sessions as `most`; `wake` is set when there is something to be sent.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new(most: usize, wake: PoolArc<event::Event>) -> Result<PoolArc<Self>> {
        let inner = Inner {
            followers: PoolSlice::try_from_fn(tags::CONTROL, most, |_| None)?,
            scratch: PoolSlice::try_zeroed(tags::CONTROL, LONGEST_EVENT)?,
        };
        let hub = Self { inner: SpinLock::new("followers", inner), ready: AtomicBool::new(false), wake };
        PoolArc::try_new(tags::CONTROL, hub)
    }

    /// Lets the session in `place` follow what the request with that id asks for.
    ///
    /// # Errors
    /// Nothing has changed.
    pub(super) fn subscribe(
        &self,
        irql: &mut AtMostDispatch,
        place: usize,
        id: u64,
        request: &Subscribe<'_>,
        budget: &Budget,
    ) -> core::result::Result<(), NotTaken> {
        let subscription = Subscription::new(id, request).map_err(NotTaken::Refused)?;
        let subscription = PoolBox::try_copy(tags::CONTROL, &subscription).map_err(NotTaken::Memory)?;
        let (log, grown) = first_log(budget).map_err(NotTaken::Memory)?;
        let follower = Follower {
            place,
            subscription,
            log,
            grown,
            short: false,
            fresh: false,
            ending: false,
            not_before: 0,
        };
        let mut inner = self.inner.lock(irql);
        let taken = inner.find(place).is_some();
        // There are as many places here as sessions.
        match inner.followers.iter_mut().find(|vacant| vacant.is_none()) {
            Some(vacant) if !taken => *vacant = Some(follower),
            _ => {
                drop(inner);
                budget.give_back(follower.grown);
                return Err(NotTaken::Already);
            }
        }
        inner.want();
        Ok(())
    }

    /// More may be sent. False: there is no such subscription.
    pub(super) fn grant(&self, irql: &mut AtMostDispatch, place: usize, id: u64, credit: u32) -> bool {
        let mut inner = self.inner.lock(irql);
        let Some(follower) = inner.find(place).filter(|follower| follower.is(id)) else { return false };
        follower.subscription.grant(credit);
        true
    }

    /// Nothing more is to be heard; [`Taken::Ended`] follows when all is sent. False: there is no such subscription.
    pub(super) fn end(&self, irql: &mut AtMostDispatch, place: usize, id: u64) -> bool {
        let mut inner = self.inner.lock(irql);
        let Some(follower) = inner.find(place).filter(|follower| follower.is(id)) else { return false };
        follower.ending = true;
        true
    }

    /// Events sent to the session in `place`, and lost; `None`: it follows nothing.
    pub(super) fn totals(&self, irql: &mut AtMostDispatch, place: usize) -> Option<(u64, u64)> {
        let mut inner = self.inner.lock(irql);
        inner.find(place).map(|follower| follower.subscription.totals())
    }

    /// Whether something new is to be sent since this was asked last.
    pub(super) fn take_ready(&self) -> bool {
        self.ready.swap(false, Ordering::AcqRel)
    }

    /// The `index`-th of those who follow, by its session's place.
    pub(super) fn follower(&self, irql: &mut AtMostDispatch, index: usize) -> Option<usize> {
        let inner = self.inner.lock(irql);
        Some(inner.followers.get(index)?.as_ref()?.place)
    }

    /// Takes the next message for the session in `place` out of its log.
    pub(super) fn take(
        &self,
        irql: &mut AtMostDispatch,
        place: usize,
        budget: &Budget,
        buffer: &mut [u8],
    ) -> Taken {
        self.enlarge(irql, place, budget);
        let now = time::since_boot().as_100ns();
        let mut inner = self.inner.lock(irql);
        let Inner { followers, scratch } = &mut *inner;
        let Some(follower) = find(followers, place) else { return Taken::Nothing };
        follower.fresh = false;
        if follower.log.count() == 0 {
            if follower.ending {
                return Taken::Ended;
            }
            if !follower.subscription.owes() {
                return Taken::Nothing;
            }
            if now < follower.not_before {
                return Taken::Later(follower.not_before);
            }
        }
        follower.not_before = now.saturating_add(LOSSES_APART);
        let kept = follower.log.count();
        let Ok(mut batch) = follower.subscription.begin(buffer, kept) else { return Taken::Nothing };
        let mut push = |front: &[u8], back: &[u8]| {
            if back.is_empty() {
                return batch.push_encoded(&Encoded::from_bytes(front)).is_ok();
            }
            let whole = join(scratch, front, back);
            batch.push_encoded(&Encoded::from_bytes(whole)).is_ok()
        };
        while follower.log.pop(&mut push) {}
        Taken::Message(batch.finish())
    }

    /// Ends the subscription of the session in `place`, if it has one, whatever waits to be sent: `tell` gets it.
    pub(super) fn finish<R>(
        &self,
        irql: &mut AtMostDispatch,
        place: usize,
        budget: &Budget,
        tell: impl FnOnce(&Subscription) -> R,
    ) -> Option<R> {
        let mut inner = self.inner.lock(irql);
        let removed = inner.remove(place);
        drop(inner);
        let removed = removed?;
        budget.give_back(removed.grown);
        Some(tell(&removed.subscription))
    }

    /// Whether the session in `place` is still to be told of the connections that are open already, and may be now.
    pub(super) fn wants_snapshot(&self, irql: &mut AtMostDispatch, place: usize) -> bool {
        let mut inner = self.inner.lock(irql);
        inner.find(place).is_some_and(|follower| {
            follower.subscription.is_in_snapshot()
                && !follower.ending
                && follower.subscription.credit() != 0
                && follower.log.has_room(LONGEST_EVENT)
        })
    }

    /// Tells the session in `place` of a connection that is open already. False: it cannot be told now.
    pub(super) fn tell_snapshot(
        &self,
        irql: &mut AtMostDispatch,
        place: usize,
        at: u64,
        event: &Event<'_>,
    ) -> bool {
        let mut inner = self.inner.lock(irql);
        let Inner { followers, scratch } = &mut *inner;
        let Some(follower) = find(followers, place) else { return false };
        if !follower.subscription.wants(event.id()) {
            return true;
        }
        let Ok(encoded) = Encoded::new(scratch, at, event) else { return true };
        if follower.subscription.credit() == 0 || !follower.log.has_room(encoded.bytes().len()) {
            return false;
        }
        let log = &mut follower.log;
        let push = || if log.push(encoded.bytes()) { Ok(()) } else { Err(NoRoom) };
        follower.subscription.offer(event.id(), push) == Offered::Sent
    }

    /// All connections that were open already have been told.
    pub(super) fn end_snapshot(&self, irql: &mut AtMostDispatch, place: usize) {
        let mut inner = self.inner.lock(irql);
        if let Some(follower) = inner.find(place) {
            follower.subscription.end_snapshot();
        }
    }

    /// Gives a log that was too small twice its size, if the budget and the memory are there.
    fn enlarge(&self, irql: &mut AtMostDispatch, place: usize, budget: &Budget) {
        let mut inner = self.inner.lock(irql);
        let Some(follower) = inner.find(place) else { return };
        let (short, size) = (core::mem::take(&mut follower.short), follower.log.size());
        drop(inner);
        if !short || size >= LARGEST_LOG || !budget.take(size) {
            return;
        }
        let Ok(larger) = Log::try_new(size.saturating_mul(2)) else { return budget.give_back(size) };
        let mut inner = self.inner.lock(irql);
        let smaller = inner.find(place).map(|follower| {
            follower.grown = follower.grown.saturating_add(size);
            follower.log.move_into(larger)
        });
        // Freed without the lock.
        drop(inner);
        if smaller.is_none() {
            budget.give_back(size);
        }
    }
}

impl trace::follow::Follower for Hub {
    fn hear(&self, irql: &mut AtMostDispatch, event: &Event<'_>) {
        let id = event.id();
        let mut news = false;
        let mut inner = self.inner.lock(irql);
        let Inner { followers, scratch } = &mut *inner;
        let mut encoded = None;
        for follower in followers.iter_mut().map_while(Option::as_mut) {
            if follower.ending || !follower.subscription.wants(id) {
                continue;
            }
            if encoded.is_none() {
                let made = Encoded::new(scratch, time::system_time(), event);
                encoded = Some(made.map_or(0, |made| made.bytes().len()));
            }
            let bytes = encoded.and_then(|length| scratch.get(..length)).unwrap_or_default();
            let log = &mut follower.log;
            let push = || if !bytes.is_empty() && log.push(bytes) { Ok(()) } else { Err(NoRoom) };
            let lost = follower.subscription.offer(id, push) == Offered::Lost;
            follower.short |= lost && follower.subscription.credit() != 0;
            news |= !core::mem::replace(&mut follower.fresh, true);
        }
        drop(inner);
        if news && !self.ready.swap(true, Ordering::AcqRel) {
            self.wake.set();
        }
    }
}

impl Inner {
    fn find(&mut self, place: usize) -> Option<&mut Follower> {
        find(&mut self.followers, place)
    }

    fn remove(&mut self, place: usize) -> Option<Follower> {
        let mut there = self.followers.iter_mut().filter(|follower| follower.is_some());
        let found =
            there.find(|follower| follower.as_ref().is_some_and(|follower| follower.place == place))?;
        let removed = found.take();
        // The last one closes the gap.
        let last = self.followers.iter_mut().rev().find_map(Option::take);
        if let (Some(last), Some(gap)) = (last, self.followers.iter_mut().find(|follower| follower.is_none()))
        {
            *gap = Some(last);
        }
        self.want();
        removed
    }

    /// Has those events told to the hub that somebody follows.
    fn want(&self) {
        let reaches = self.followers.iter().flatten().filter_map(|follower| follower.subscription.reach());
        trace::follow::want(
            reaches.reduce(|(level, keywords), (other, others)| (level.max(other), keywords.union(others))),
        );
    }
}

/// A log for one who begins to follow, and what it has of the budget.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`.
fn first_log(budget: &Budget) -> Result<(Log, usize)> {
    let extra = LOG.saturating_sub(SMALLEST_LOG);
    if budget.take(extra) {
        if let Ok(log) = Log::try_new(LOG) {
            return Ok((log, extra));
        }
        budget.give_back(extra);
    }
    Ok((Log::try_new(SMALLEST_LOG)?, 0))
}

impl Follower {
    fn is(&self, id: u64) -> bool {
        self.subscription.id() == id && !self.ending
    }
}

fn find(followers: &mut [Option<Follower>], place: usize) -> Option<&mut Follower> {
    followers.iter_mut().map_while(Option::as_mut).find(|follower| follower.place == place)
}

/// Both pieces side by side in `scratch`, which has room for every event.
fn join<'s>(scratch: &'s mut [u8], front: &[u8], back: &[u8]) -> &'s [u8] {
    let mut length = 0_usize;
    for (place, byte) in scratch.iter_mut().zip(front.iter().chain(back)) {
        *place = *byte;
        length = length.saturating_add(1);
    }
    scratch.get(..length).unwrap_or_default()
}
