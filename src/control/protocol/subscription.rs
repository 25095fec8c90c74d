//! Who follows events: what is wanted, how much may still be sent, and what was lost, exactly.
//!
//! Every event that a subscription wants is either sent or counted as lost, by its kind, and every loss is told once,
//! with the next message. What one subscription loses costs no other one anything: an event that cannot be sent is an
//! addition.
#![forbid(unsafe_code)]

use super::message::{Batch, Loss, NoRoom, Subscribe};
use crate::trace::{Event, Keywords, Level};

/// How many kinds of events there are.
const KINDS: usize = Event::TABLE.len();

/// The most ids that a subscription can name.
pub const MAX_IDS: usize = 32;

/// The highest id, and one.
const IDS: usize = {
    let Some(last) = Event::TABLE.last() else { panic!("there are events") };
    last.id as usize + 1
};

/// From ids to places in the table, and one more; 0: there is no such event.
#[expect(clippy::indexing_slicing, reason = "at compile time")]
const PLACES: [u8; IDS] = {
    assert!(KINDS <= u128::BITS as usize);
    let mut places = [0; IDS];
    let (mut rest, mut place) = (Event::TABLE, 0);
    while let [meta, others @ ..] = rest {
        place += 1;
        places[meta.id as usize] = place;
        rest = others;
    }
    places
};

fn place_of(id: u16) -> Option<usize> {
    usize::from(PLACES.get(usize::from(id)).copied().unwrap_or_default()).checked_sub(1)
}

/// Why a subscription was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The level is not one of 1 to 5.
    Level,
    /// More than [`MAX_IDS`] ids.
    TooManyIds,
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offered {
    /// It is not of those that were asked for.
    Unwanted,
    /// It was sent, and has used a credit.
    Sent,
    /// There was no credit, or no room: it has been counted.
    Lost,
}

/// A subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    /// The id of the request.
    id: u64,
    /// A bit for each kind, by its place in the table.
    wanted: u128,
    credit: u64,
    sent: u64,
    /// What was lost, and not yet told, by kind.
    lost: [u64; KINDS],
    /// Kinds that have lost something, as in `wanted`.
    losers: u128,
    lost_in_all: u64,
    snapshot: Snapshot,
}

// A session holds one.
const _: () = assert!(size_of::<Subscription>() <= 768);

/// How the connections that were open already stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Snapshot {
    /// They were not asked for, or have been told.
    None,
    /// They are being told.
    Running,
    /// They have been told; that this is so has not.
    Over,
}

impl Subscription {
    /// The subscription that the request with that id asks for. Ids that this version does not know want nothing.
    ///
    /// # Errors
    /// The request cannot be done.
    pub fn new(id: u64, request: &Subscribe<'_>) -> Result<Self, Refused> {
        let level = request.level.unwrap_or(Level::Information as u8);
        if !(Level::Critical as u8..=Level::Verbose as u8).contains(&level) {
            return Err(Refused::Level);
        }
        if request.ids.is_some_and(|ids| ids.len() > MAX_IDS) {
            return Err(Refused::TooManyIds);
        }
        let mut wanted = 0_u128;
        for (place, meta) in Event::TABLE.iter().enumerate() {
            let keyword = request.keywords.is_none_or(|keywords| meta.keywords.bits() & keywords != 0);
            let named = request.ids.is_none_or(|ids| ids.iter().any(|id| id == meta.id));
            if meta.level as u8 <= level && keyword && named {
                wanted |= bit(place);
            }
        }
        Ok(Self {
            id,
            wanted,
            credit: request.credit.into(),
            sent: 0,
            lost: [0; KINDS],
            losers: 0,
            lost_in_all: 0,
            snapshot: if request.snapshot == Some(true) { Snapshot::Running } else { Snapshot::None },
        })
    }

    /// The id of the request that has subscribed.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether events with that id are wanted.
    #[inline]
    pub fn wants(&self, id: u16) -> bool {
        place_of(id).is_some_and(|place| self.wanted & bit(place) != 0)
    }

    /// Hands an event over: `push` puts it into a message, if it is wanted and there is credit.
    #[inline]
    pub fn offer(&mut self, id: u16, push: impl FnOnce() -> Result<(), NoRoom>) -> Offered {
        let Some(place) = place_of(id).filter(|place| self.wanted & bit(*place) != 0) else {
            return Offered::Unwanted;
        };
        if let Some(credit) = self.credit.checked_sub(1)
            && push().is_ok()
        {
            self.credit = credit;
            self.sent = self.sent.saturating_add(1);
            return Offered::Sent;
        }
        if let Some(lost) = self.lost.get_mut(place) {
            *lost = lost.saturating_add(1);
        }
        self.losers |= bit(place);
        self.lost_in_all = self.lost_in_all.saturating_add(1);
        Offered::Lost
    }

    /// Lets so many more be sent.
    pub fn grant(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit.into());
    }

    pub const fn credit(&self) -> u64 {
        self.credit
    }

    /// Events sent and lost, in all.
    pub const fn totals(&self) -> (u64, u64) {
        (self.sent, self.lost_in_all)
    }

    /// Whether the connections that are open already are still to be told: while there is credit, for these are not
    /// to be lost for want of it.
    pub fn is_in_snapshot(&self) -> bool {
        self.snapshot == Snapshot::Running
    }

    /// They have been told.
    pub fn end_snapshot(&mut self) {
        if self.is_in_snapshot() {
            self.snapshot = Snapshot::Over;
        }
    }

    /// Whether there is something to tell even without an event: losses, or the snapshot's end. It needs no credit.
    pub fn owes(&self) -> bool {
        self.losers != 0 || self.snapshot == Snapshot::Over
    }

    /// Up to which level, and with which keywords, events are wanted; `None`: none are.
    pub fn reach(&self) -> Option<(Level, Keywords)> {
        let wanted = Event::TABLE.iter().enumerate().filter(|(place, _)| self.wanted & bit(*place) != 0);
        wanted
            .map(|(_, meta)| (meta.level, meta.keywords))
            .reduce(|(level, keywords), (other, others)| (level.max(other), keywords.union(others)))
    }

    /// What was lost and has not been told.
    pub fn losses(&self) -> impl Iterator<Item = Loss> + Clone {
        let told =
            |(meta, count): (&crate::trace::events::Meta, &u64)| Loss { event: meta.id, count: *count };
        Event::TABLE.iter().zip(&self.lost).filter(|(_, count)| **count > 0).map(told)
    }

    /// Begins a message of events, which tells what is owed: it is to be sent. `kept` events that were offered already
    /// are kept elsewhere, and the first of them is the first to go into this message.
    ///
    /// # Errors
    /// There is no room, and everything is owed as before.
    pub fn begin<'b>(&mut self, buffer: &'b mut [u8], kept: u64) -> Result<Batch<'b>, NoRoom> {
        let over = self.snapshot == Snapshot::Over;
        let first = self.sent.saturating_sub(kept);
        let batch = Batch::begin(buffer, self.id, first, self.losses(), over)?;
        self.lost = [0; KINDS];
        self.losers = 0;
        if over {
            self.snapshot = Snapshot::None;
        }
        Ok(batch)
    }
}

fn bit(place: usize) -> u128 {
    1_u128.wrapping_shl(u32::try_from(place).unwrap_or_default())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::control::protocol::message::{Answer, Events, ListWriter};
    use crate::trace::NtStatus;

    const FAULT: Event<'_> = Event::Fault { operation: "operation", status: NtStatus(-1) };
    const STOPPED: Event<'_> = Event::DriverStopped {};

    fn subscribe() -> Subscribe<'static> {
        Subscribe { credit: 0, level: None, keywords: None, ids: None, snapshot: None }
    }

    fn subscription(credit: u32) -> Subscription {
        Subscription::new(9, &Subscribe { credit, ..subscribe() }).unwrap()
    }

    fn events(message: &[u8]) -> Events<'_> {
        match Answer::decode(message).unwrap() {
            (Some(9), Answer::Events(events)) => events,
            other => panic!("{other:?}"),
        }
    }

    fn wanted(request: &Subscribe<'_>) -> Vec<u16> {
        let subscription = Subscription::new(9, request).unwrap();
        Event::TABLE.iter().map(|meta| meta.id).filter(|id| subscription.wants(*id)).collect()
    }

    #[test]
    fn what_is_wanted_is_what_was_asked_for() {
        let of = |choose: &dyn Fn(&crate::trace::events::Meta) -> bool| {
            Event::TABLE.iter().filter(|meta| choose(meta)).map(|meta| meta.id).collect::<Vec<_>>()
        };
        assert_eq!(wanted(&subscribe()), of(&|meta| meta.level <= Level::Information));
        let errors = Subscribe { level: Some(2), ..subscribe() };
        assert_eq!(wanted(&errors), of(&|meta| meta.level <= Level::Error));
        let all = Subscribe { level: Some(5), ..subscribe() };
        assert_eq!(wanted(&all).len(), KINDS);
        let flows = Subscribe { keywords: Some(0x10), ..subscribe() };
        assert_eq!(wanted(&flows), [41, 42, 43]);
        let mut place = [0; 32];
        let mut ids = ListWriter::new(&mut place);
        for id in [42_u16, 60000, 9, 0] {
            ids.push(&id).unwrap();
        }
        assert_eq!(wanted(&Subscribe { ids: Some(ids.finish()), ..subscribe() }), [9, 42]);
        for level in [0, 6] {
            let refused = Subscription::new(9, &Subscribe { level: Some(level), ..subscribe() });
            assert_eq!(refused.unwrap_err(), Refused::Level);
        }
        let mut place = [0; 64];
        let mut ids = ListWriter::new(&mut place);
        (0..=MAX_IDS).for_each(|_| ids.push(&1_u16).unwrap());
        let refused = Subscription::new(9, &Subscribe { ids: Some(ids.finish()), ..subscribe() });
        assert_eq!(refused.unwrap_err(), Refused::TooManyIds);
    }

    #[test]
    fn without_credit_events_are_lost_and_counted_and_told_once() {
        let mut subscription = subscription(1);
        let mut buffer = vec![0; 256];
        let mut batch = subscription.begin(&mut buffer, 0).unwrap();
        assert_eq!(subscription.offer(9, || batch.push(5, &FAULT)), Offered::Sent);
        for _ in 0..3 {
            assert_eq!(subscription.offer(9, || batch.push(5, &FAULT)), Offered::Lost);
        }
        assert_eq!(subscription.offer(7, || batch.push(5, &STOPPED)), Offered::Lost);
        assert_eq!(subscription.offer(2, || batch.push(5, &FAULT)), Offered::Unwanted);
        assert_eq!(subscription.offer(65535, || batch.push(5, &FAULT)), Offered::Unwanted);
        let length = batch.finish();
        let first = events(&buffer[..length]);
        assert_eq!((first.first, first.lost, first.events.len()), (0, None, 1));

        assert!(subscription.owes());
        subscription.grant(1);
        let mut batch = subscription.begin(&mut buffer, 0).unwrap();
        assert_eq!(subscription.offer(7, || batch.push(6, &STOPPED)), Offered::Sent);
        let length = batch.finish();
        let second = events(&buffer[..length]);
        let lost: Vec<_> = second.lost.unwrap().iter().map(|loss| (loss.event, loss.count)).collect();
        assert_eq!((second.first, lost), (1, vec![(7, 1), (9, 3)]));
        assert_eq!(second.events.iter().map(|event| (event.id, event.time)).collect::<Vec<_>>(), [(7, 6)]);
        assert!(!subscription.owes());
        assert_eq!((subscription.totals(), subscription.credit()), ((2, 4), 0));
    }

    #[test]
    fn what_there_is_no_room_for_costs_no_credit() {
        let mut subscription = subscription(10);
        let mut buffer = [0; 30];
        let mut batch = subscription.begin(&mut buffer, 0).unwrap();
        assert_eq!(subscription.offer(9, || batch.push(5, &FAULT)), Offered::Lost);
        assert_eq!(subscription.offer(7, || batch.push(5, &STOPPED)), Offered::Sent);
        assert_eq!((subscription.totals(), subscription.credit()), ((1, 1), 9));
        assert_eq!(subscription.begin(&mut [0; 12], 0).unwrap_err(), NoRoom);
        assert!(subscription.owes(), "what could not be told is still owed");
    }

    #[test]
    fn the_end_of_a_snapshot_is_told_once() {
        let request = Subscribe { snapshot: Some(true), ..subscribe() };
        let mut subscription = Subscription::new(9, &request).unwrap();
        assert!(subscription.is_in_snapshot() && !subscription.owes());
        subscription.end_snapshot();
        assert!(!subscription.is_in_snapshot() && subscription.owes());
        let mut buffer = [0; 64];
        for expected in [Some(true), None] {
            let length = subscription.begin(&mut buffer, 0).unwrap().finish();
            assert_eq!(events(&buffer[..length]).snapshot_end, expected);
        }
        subscription.end_snapshot();
        assert!(!subscription.owes());
    }

    proptest! {
        /// Whatever comes when: all that was wanted was sent or told as lost, by kind.
        #[test]
        fn nothing_goes_missing(steps in prop::collection::vec((0_u8..4, 1_u32..6), 1..200)) {
            let mut subscription = subscription(3);
            let (mut offered, mut arrived) = (BTreeMap::new(), BTreeMap::new());
            let mut buffer = [0; 80];
            let mut messages = Vec::new();
            for (what, count) in steps {
                if what == 0 {
                    subscription.grant(count);
                }
                let Ok(mut batch) = subscription.begin(&mut buffer, 0) else { continue };
                for _ in 0..count {
                    let event = if what == 1 { &STOPPED } else { &FAULT };
                    *offered.entry(event.id()).or_insert(0) += 1;
                    subscription.offer(event.id(), || batch.push(1, event));
                }
                let length = batch.finish();
                messages.push(buffer[..length].to_vec());
            }
            let mut last = [0; 200];
            let length = subscription.begin(&mut last, 0).unwrap().finish();
            messages.push(last[..length].to_vec());
            let mut before = 0;
            for message in &messages {
                let events = events(message);
                prop_assert_eq!(events.first, before);
                before += events.events.len() as u64;
                for loss in events.lost.unwrap_or_default().iter() {
                    *arrived.entry(loss.event).or_insert(0) += loss.count;
                }
                for event in events.events.iter() {
                    *arrived.entry(event.id).or_insert(0) += 1;
                }
            }
            prop_assert_eq!(offered, arrived);
        }
    }
}
