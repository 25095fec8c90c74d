//! The dispatch ring keeps its promises: against a plain model, at its edges, and under the stress of many threads.
//!
//! `cargo xtask test ring` runs them under ThreadSanitizer and under Miri too, where random calls are fewer and shorter,
//! and the stress has 100 records a processor. Both have to find the race of the one test that is ignored.
//! (`--cfg ring_alone` leaves out what other tests depend on.)

#![cfg(not(loom))]

use std::{
    cell::{Cell, UnsafeCell},
    collections::VecDeque,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use weir::policy::{Action, Direction, Family};
use weir::ring::*;

/// The holder of a processor: each test gives each processor to one thread at a time.
struct At(u32);

// SAFETY: as above.
unsafe impl OnProcessor for At {
    fn processor(&self) -> u32 {
        self.0
    }
}

/// An auto-reset event that counts. Of atomics only, which ThreadSanitizer sees into without an instrumented
/// standard library.
#[derive(Default)]
struct Event {
    set: AtomicBool,
    wakes: AtomicUsize,
}

impl Waker for Event {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.set.store(true, Ordering::Release);
    }

    fn park(&self) {
        while !self.set.swap(false, Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

struct Connection {
    link: Link,
    id: usize,
    live: Arc<AtomicUsize>,
    /// Its own count: a plain reference may not reach beyond the object.
    counted: Weak<Self>,
}

impl Connection {
    fn new(id: usize, live: &Arc<AtomicUsize>) -> Arc<Self> {
        live.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|counted| Self {
            link: Link::new(),
            id,
            live: live.clone(),
            counted: counted.clone(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: the link is a field; an `Arc` counts the references.
unsafe impl Linked for Connection {
    fn link(&self) -> &Link {
        &self.link
    }

    fn retain(&self) {
        std::mem::forget(self.counted.upgrade().expect("who names it holds it"));
    }

    unsafe fn release(object: std::ptr::NonNull<Self>) {
        // SAFETY: retained before (contract).
        let counted = unsafe { object.as_ref() }.counted.upgrade().expect("retained");
        // SAFETY: the reference that `retain` forgot.
        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&counted)) }
    }
}

/// A box, in the ring's terms.
struct Heap<T: ?Sized>(Box<T>);

impl<T: ?Sized> Deref for Heap<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

// SAFETY: a box owns its allocation, which stays where it is.
unsafe impl<T: ?Sized> Owned for Heap<T> {}

struct Test;

thread_local! {
    /// The clock of the tests whose records are stamped: they run on one thread.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl Supply for Test {
    type Object<'a> = &'a Connection;
    type Lines = Heap<[Line]>;
    type Ring = Heap<Ring<Self>>;
    type Table = Heap<[Entry<Self>]>;
    type Waker = Event;

    fn now() -> u64 {
        NOW.get()
    }
}

fn ring(lines: usize, stamped: Kinds) -> Heap<Ring<Test>> {
    Heap(Box::new(Ring::new(Heap((0..lines).map(|_| Line::new()).collect()), stamped).unwrap()))
}

fn rings(processors: u32, lines: usize) -> Rings<Test> {
    stamping(processors, lines, Kinds::NONE)
}

fn stamping(processors: u32, lines: usize, stamped: Kinds) -> Rings<Test> {
    let rings = Rings::new(Heap((0..processors).map(|_| Entry::new()).collect()), Event::default());
    for processor in 0..processors {
        rings.attach(processor, ring(lines, stamped)).unwrap();
    }
    rings
}

/// What came out of the ring.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Got {
    Record { processor: u32, kind: Kind, lost: u32, payload: Vec<u8>, object: Option<(usize, u32)> },
    Event(usize, LifeCycle, u32),
}

#[derive(Default)]
struct Log {
    got: Vec<Got>,
    quiescent: usize,
    /// Records and events since the last quiescent point, at most.
    longest: usize,
    since: usize,
}

impl Log {
    fn one_more(&mut self, got: Got) {
        self.got.push(got);
        self.since += 1;
        self.longest = self.longest.max(self.since);
    }
}

impl Handler<Test> for Log {
    fn record(&mut self, record: &Record<'_, Test>) {
        self.one_more(Got::Record {
            processor: record.processor,
            kind: record.kind,
            lost: record.lost,
            payload: record.payload[..record.detail.into()].to_vec(),
            object: record.object.map(|object| (object.id, record.sequence)),
        });
    }

    fn life_cycle(&mut self, object: &Connection, event: LifeCycle, sequence: u32) {
        self.one_more(Got::Event(object.id, event, sequence));
    }

    fn quiescent(&mut self) {
        self.quiescent += 1;
        self.since = 0;
    }
}

fn claim<'a>(rings: &'a Rings<Test>, at: &'a At, payload: &[u8]) -> Result<Claim<'a, Test>, Refused> {
    claim_of(rings, at, payload, Kind::Verdict, None)
}

fn claim_of<'a>(
    rings: &'a Rings<Test>,
    at: &'a At,
    payload: &[u8],
    kind: Kind,
    object: Option<&'a Connection>,
) -> Result<Claim<'a, Test>, Refused> {
    let detail = payload.len().try_into().unwrap();
    let mut claim = match object {
        None => rings.claim(at, kind, detail, payload.len())?,
        Some(object) => rings.claim_for(at, kind, detail, payload.len(), object)?,
    };
    claim.payload().copy_from_slice(payload);
    Ok(claim)
}

/// What the model holds of one processor.
struct Model {
    capacity: usize,
    stamped: Kinds,
    next: usize,
    head: usize,
    lost: u32,
    /// Lines, and the record in them: none in a filler.
    queue: VecDeque<(usize, Option<Got>)>,
}

impl Model {
    fn lines(&self, len: usize, kind: Kind, of_object: bool) -> Result<(usize, usize), Cause> {
        let frame = 16 + if of_object { 4 } else { 0 } + if self.stamped.has(kind) { 8 } else { 0 };
        let lines = (len + frame).div_ceil(64);
        if lines > 1 && lines > self.capacity.div_ceil(2).min(MAX_LINES) {
            return Err(Cause::TooLong);
        }
        let to_end = self.capacity - self.next % self.capacity;
        let filler = if lines > to_end { to_end } else { 0 };
        let kept = if kind.leaves_room() && self.next != self.head { self.capacity / 4 } else { 0 };
        if filler + lines + kept > self.capacity - (self.next - self.head) {
            return Err(Cause::Full);
        }
        Ok((filler, lines))
    }

    fn push(&mut self, (filler, lines): (usize, usize), got: Got) {
        if filler > 0 {
            self.queue.push_back((filler, None));
        }
        self.queue.push_back((lines, Some(got)));
        self.next += filler + lines;
        self.lost = 0;
    }

    /// What one turn takes, given each object's next number.
    fn drain(&mut self, batch: usize, expected: &mut [u32; OBJECTS]) -> Vec<Got> {
        let start = self.head;
        let mut got = vec![];
        while self.head - start < batch {
            match self.queue.front() {
                None => break,
                Some((_, Some(Got::Record { object: Some((id, number)), .. })))
                    if *number != expected[*id] =>
                {
                    break;
                }
                Some((_, Some(Got::Record { object: Some((id, _)), .. }))) => expected[*id] += 1,
                Some(_) => {}
            }
            let (lines, record) = self.queue.pop_front().unwrap();
            self.head += lines;
            got.extend(record);
        }
        got
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push { processor: u32, len: usize, kind: Kind, object: Option<usize> },
    Abandon { processor: u32, len: usize, object: Option<usize> },
    Nested { processor: u32 },
    Raise { object: usize, event: LifeCycle },
    Poll,
}

const OBJECTS: usize = 3;

/// Payload bytes, at most: more than a record may have; fewer where a byte takes long.
const LONGEST: usize = if cfg!(miri) { 1_000 } else { 40_000 };
/// Random calls, at most.
const CALLS: usize = if cfg!(miri) { 30 } else { 400 };
/// Records to be merged, at most.
const WRITES: usize = if cfg!(miri) { 80 } else { 300 };

fn step(processors: u32) -> impl Strategy<Value = Step> {
    let processor = 0..processors;
    let len = prop_oneof![4 => 0..=60_usize, 2 => 60..=300_usize, 1 => 300..=LONGEST];
    let event = prop::sample::select(LifeCycle::ALL.as_slice());
    let kind = prop::sample::select(Kind::ALL);
    prop_oneof![
        10 => (processor.clone(), len.clone(), kind, prop::option::of(0..OBJECTS))
            .prop_map(|(processor, len, kind, object)| Step::Push { processor, len, kind, object }),
        1 => (processor.clone(), len, prop::option::of(0..OBJECTS))
            .prop_map(|(processor, len, object)| Step::Abandon { processor, len, object }),
        1 => processor.prop_map(|processor| Step::Nested { processor }),
        1 => (0..OBJECTS, event).prop_map(|(object, event)| Step::Raise { object, event }),
        3 => Just(Step::Poll),
    ]
}

fn run() -> impl Strategy<Value = (u32, u32, Kinds, Bounds, Vec<Step>)> {
    let bounds = (1..=100_usize, 1..=200_usize).prop_map(|(batch, work)| Bounds { batch, work, spin: 0 });
    let stamped = prop::sample::select(vec![Kinds::NONE, Kinds::NONE.with(Kind::Verdict), Kinds::ALL]);
    (1..=3_u32, 0..=9_u32, stamped, bounds).prop_flat_map(|(processors, order, stamped, bounds)| {
        (
            Just(processors),
            Just(order),
            Just(stamped),
            Just(bounds),
            prop::collection::vec(step(processors), 0..CALLS),
        )
    })
}

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 4 } else { 512 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// The rings and the model side by side.
struct Both<'a> {
    rings: &'a Rings<Test>,
    dispatcher: Dispatcher<'a, Test>,
    bounds: Bounds,
    objects: Vec<Arc<Connection>>,
    models: Vec<Model>,
    refused: [u64; 3],
    numbers: [u32; OBJECTS],
    expected: [u32; OBJECTS],
    raised: Vec<(usize, LifeCycle, u32)>,
    told: Vec<(usize, LifeCycle, u32)>,
    delivered: usize,
    serial: u8,
}

impl Both<'_> {
    fn refuse(&mut self, processor: u32, kind: Kind, cause: Cause) {
        if kind.is_pushed_again() {
            return;
        }
        self.refused[cause as usize] += 1;
        self.models[processor as usize].lost += 1;
    }

    fn closed(&self, object: usize) -> bool {
        self.raised.iter().any(|(of, event, _)| (*of, *event) == (object, LifeCycle::Closed))
    }

    fn take_number(&mut self, object: usize) -> u32 {
        self.numbers[object] += 1;
        self.numbers[object] - 1
    }

    fn step(&mut self, step: Step) {
        let rings = self.rings;
        match step {
            Step::Push { processor, len, kind, object } => {
                self.serial = self.serial.wrapping_add(1);
                let payload = vec![self.serial; len];
                let at = At(processor);
                let of = object.map(|object| self.objects[object].clone());
                let claimed = claim_of(rings, &at, &payload, kind, of.as_deref());
                let room = self.models[processor as usize].lines(len, kind, object.is_some());
                assert_eq!(claimed.as_ref().err().map(|refused| refused.0), room.err());
                let (Ok(claimed), Ok(room)) = (claimed, room) else {
                    return self.refuse(processor, kind, room.unwrap_err());
                };
                claimed.commit();
                let object = object
                    .filter(|object| !self.closed(*object))
                    .map(|object| (object, self.take_number(object)));
                let model = &mut self.models[processor as usize];
                model.push(room, Got::Record { processor, kind, lost: model.lost, payload, object });
            }
            Step::Abandon { processor, len, object } => {
                let at = At(processor);
                let room = self.models[processor as usize].lines(len, Kind::Verdict, object.is_some());
                let of = object.map(|object| self.objects[object].clone());
                let claimed = claim_of(rings, &at, &vec![0xEE; len], Kind::Verdict, of.as_deref());
                assert_eq!(claimed.err().map(|refused| refused.0), room.err());
                if let Err(cause) = room {
                    self.refuse(processor, Kind::Verdict, cause);
                }
            }
            Step::Nested { processor } => {
                let at = At(processor);
                let Ok(open) = claim(rings, &at, &[1]) else {
                    return self.refuse(processor, Kind::Verdict, Cause::Full);
                };
                assert_eq!(claim(rings, &at, &[2]).err(), Some(Refused(Cause::Nested)));
                drop(open);
                self.refuse(processor, Kind::Verdict, Cause::Nested);
            }
            Step::Raise { object, event } => {
                let new = !self.closed(object)
                    && !self.raised.iter().any(|(of, is, _)| (*of, *is) == (object, event));
                assert_eq!(rings.raise(&At(0), &self.objects[object], event), new);
                if new {
                    let number = self.take_number(object);
                    self.raised.push((object, event, number));
                }
            }
            Step::Poll => self.poll(),
        }
    }

    fn poll(&mut self) {
        let mut log = Log::default();
        let any = self.dispatcher.poll(&mut log);
        assert!(any || log.got.is_empty());
        assert!(log.longest <= self.bounds.work + self.bounds.batch.max(LifeCycle::ALL.len()));
        let mut records = vec![];
        for model in &mut self.models {
            records.extend(model.drain(self.bounds.batch, &mut self.expected));
        }
        let (got, events) = log.got.split_at(records.len());
        assert_eq!(got, records);
        self.delivered += got.len();
        for event in events {
            let Got::Event(object, event, number) = *event else { panic!("{event:?} too many") };
            assert_eq!(number, self.expected[object]);
            self.expected[object] += 1;
            self.told.push((object, event, number));
        }
    }
}

/// A record to be, and what happens about it.
#[derive(Clone, Copy, Debug)]
struct Write {
    processor: u32,
    stamped: bool,
    object: Option<usize>,
    /// How much time has passed since the one before it.
    later: u64,
    polls: bool,
}

fn write() -> impl Strategy<Value = Write> {
    (0..3_u32, prop::bool::weighted(0.8), prop::option::of(0..OBJECTS), 0..4_u64, prop::bool::weighted(0.1))
        .prop_map(|(processor, stamped, object, later, polls)| Write {
            processor,
            stamped,
            object,
            later,
            polls,
        })
}

/// A record's object, with the record's number there.
type Of = Option<(usize, u32)>;

/// Of each record that came out: processor, number, stamp, and object.
#[derive(Default)]
struct Times(Vec<(u32, u32, Option<u64>, Of)>);

impl Handler<Test> for Times {
    fn record(&mut self, record: &Record<'_, Test>) {
        let number = u32::from_le_bytes(*record.payload.first_chunk().unwrap());
        let object = record.object.map(|object| (object.id, record.sequence));
        self.0.push((record.processor, number, record.time, object));
    }

    fn life_cycle(&mut self, _object: &Connection, _event: LifeCycle, _sequence: u32) {}
}

proptest! {
    #![proptest_config(config())]

    /// A ring of any size, under any sequence of calls, does what one queue for each processor would do:
    /// nothing is lost that is not counted, nothing comes twice, and every order is kept.
    #[test]
    fn a_ring_of_any_size_is_a_queue((processors, order, stamped, bounds, steps) in run()) {
        let capacity = 1 << order;
        let rings = stamping(processors, capacity, stamped);
        let live = Arc::new(AtomicUsize::new(0));
        let model = || Model { capacity, stamped, next: 0, head: 0, lost: 0, queue: VecDeque::new() };
        let mut both = Both {
            rings: &rings,
            dispatcher: rings.dispatcher().unwrap().with_bounds(bounds),
            bounds,
            objects: (0..OBJECTS).map(|id| Connection::new(id, &live)).collect(),
            models: (0..processors).map(|_| model()).collect(),
            refused: [0; 3],
            numbers: [0; OBJECTS],
            expected: [0; OBJECTS],
            raised: vec![],
            told: vec![],
            delivered: 0,
            serial: 0,
        };
        let ending = (0..OBJECTS).map(|object| Step::Raise { object, event: LifeCycle::Closed });
        let polls = (0..2 * steps.len() + 2 * OBJECTS).map(|_| Step::Poll);
        for step in steps.iter().copied().chain(ending).chain(polls) {
            both.step(step);
        }
        for model in &both.models {
            prop_assert!(model.queue.is_empty());
        }
        prop_assert_eq!(rings.delivered(), both.delivered as u64);
        prop_assert_eq!(rings.life_cycle_delivered(), both.told.len() as u64);
        both.told.sort_unstable_by_key(|told| (told.0, told.2));
        both.raised.sort_unstable_by_key(|raised| (raised.0, raised.2));
        prop_assert_eq!(&both.told, &both.raised);
        for cause in [Cause::Full, Cause::TooLong, Cause::Nested] {
            let lost: u64 = Kind::ALL.iter().map(|kind| rings.lost(*kind, cause)).sum();
            prop_assert_eq!(lost, both.refused[cause as usize]);
        }
        drop(both);
        prop_assert_eq!(live.load(Ordering::Relaxed), 0);
    }

    /// Whatever processors they were written on, records come out in the order of time; those without a stamp follow the
    /// one before them; and the order of each processor and of each object is kept.
    #[test]
    fn merged_records_are_in_the_order_of_time(writes in prop::collection::vec(write(), 0..WRITES), settle in 0..8_u64) {
        let rings = stamping(3, 256, Kinds::NONE.with(Kind::Verdict));
        let live = Arc::new(AtomicUsize::new(0));
        let objects: Vec<_> = (0..OBJECTS).map(|id| Connection::new(id, &live)).collect();
        let mut dispatcher = rings.dispatcher().unwrap().in_order_of_time(settle);
        let mut log = Times::default();
        let mut written = [const { vec![] }; 3];
        NOW.set(100);
        for (number, Write { processor, stamped, object, later, polls }) in (0_u32..).zip(writes) {
            NOW.set(NOW.get() + later);
            let at = At(processor);
            let kind = if stamped { Kind::Verdict } else { Kind::ControlConnection };
            let of = object.map(|object| objects[object].clone());
            let payload = number.to_le_bytes();
            if let Ok(claimed) = claim_of(&rings, &at, &payload, kind, of.as_deref()) {
                claimed.commit();
                written[processor as usize].push(number);
            }
            if polls {
                dispatcher.poll(&mut log);
                let old_enough = |time: &u64| time + settle <= NOW.get();
                prop_assert!(log.0.iter().filter_map(|(.., time, _)| *time).all(|time| old_enough(&time)));
            }
        }
        NOW.set(NOW.get() + settle);
        while dispatcher.poll(&mut log) {}
        for (processor, written) in (0..).zip(&written) {
            let told: Vec<_> = log.0.iter().filter(|told| told.0 == processor).map(|told| told.1).collect();
            prop_assert_eq!(&told, written);
        }
        let times: Vec<_> = log.0.iter().filter_map(|told| told.2).collect();
        prop_assert!(times.is_sorted(), "{:?}", times);
        for object in 0..OBJECTS {
            let numbers: Vec<_> = log.0.iter().filter_map(|told| told.3.filter(|of| of.0 == object)).collect();
            prop_assert!(numbers.iter().map(|of| of.1).eq(0..numbers.len().try_into().unwrap()));
        }
        for object in &objects {
            rings.raise(&At(0), object, LifeCycle::Closed);
        }
        while dispatcher.poll(&mut log) {}
    }

    #[test]
    fn a_verdict_comes_back_as_it_was(
        (action, out, v6, reauthorized) in (0..3_u8, any::<bool>(), any::<bool>(), any::<bool>()),
        (protocol, rule, generation) in any::<(u8, u32, u32)>(),
        (local, remote, local_port, remote_port) in any::<([u8; 16], [u8; 16], u16, u16)>(),
    ) {
        let verdict = Verdict {
            action: Action::from_byte(action).unwrap(),
            direction: if out { Direction::Out } else { Direction::In },
            family: if v6 { Family::V6 } else { Family::V4 },
            reauthorized, protocol, rule, generation, local, remote, local_port, remote_port,
        };
        let mut payload = vec![0; verdict.size()];
        verdict.encode(&mut payload);
        prop_assert!(payload.len() <= OBJECT_PAYLOAD);
        prop_assert_eq!(Verdict::decode(verdict.detail(), &payload), Some(verdict));
        prop_assert_eq!(Verdict::decode(verdict.detail(), &payload[1..]), None);
    }

    #[test]
    fn a_control_connection_comes_back_as_it_was(
        (change, v6, session, status) in (0..3_u8, any::<bool>(), any::<u64>(), any::<i32>()),
        (remote, remote_port) in any::<([u8; 16], u16)>(),
    ) {
        let control = ControlConnection {
            change: [ControlChange::Accepted, ControlChange::Refused, ControlChange::Closed][usize::from(change)],
            family: if v6 { Family::V6 } else { Family::V4 },
            session, status, remote, remote_port,
        };
        let mut payload = vec![0; control.size()];
        control.encode(&mut payload);
        prop_assert!(payload.len() <= OBJECT_PAYLOAD);
        prop_assert_eq!(ControlConnection::decode(control.detail(), &payload), Some(control));
        prop_assert_eq!(ControlConnection::decode(control.detail(), &payload[1..]), None);
    }

    #[test]
    fn an_extension_event_comes_back_with_its_data(
        (session, code, value) in any::<(u64, u32, u64)>(),
        (part, provider) in (any::<u8>(), 0u8..4),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let event = ExtensionEvent { session, part, provider, code, value, data: &data };
        let mut payload = vec![0; event.size()];
        event.encode(&mut payload);
        prop_assert_eq!(ExtensionEvent::decode(event.detail(), &payload), Some(event));
        prop_assert_eq!(ExtensionEvent::decode(event.detail(), &payload[1..]), None);
    }

    #[test]
    fn an_extension_change_comes_back(
        (session, detached, callbacks) in any::<(u64, bool, u64)>(),
        (part, provider) in (any::<u8>(), 0u8..4),
    ) {
        let change = ExtensionChange { session, part, provider, detached, callbacks };
        let mut payload = vec![0; change.size()];
        change.encode(&mut payload);
        prop_assert_eq!(ExtensionChange::decode(change.detail(), &payload), Some(change));
        prop_assert_eq!(ExtensionChange::decode(change.detail(), &payload[1..]), None);
    }

    /// Whatever lies in a line, decoding it ends.
    #[test]
    fn decoders_take_any_bytes(detail in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(verdict) = Verdict::decode(detail, &payload) {
            prop_assert!(verdict.size() <= payload.len());
        }
        if let Some(control) = ControlConnection::decode(detail, &payload) {
            prop_assert!(control.size() <= payload.len());
        }
        if let Some(event) = ExtensionEvent::decode(detail, &payload) {
            prop_assert!(event.size() <= payload.len());
        }
    }
}

#[test]
fn kinds_have_their_numbers_and_distinct_names() {
    for (number, kind) in (0..).zip(Kind::ALL) {
        assert_eq!(*kind as u8, number);
        assert_eq!(Kind::from_u8(number), Some(*kind));
        assert_eq!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
    }
    assert_eq!(Kind::from_u8(u8::try_from(Kind::COUNT).unwrap()), None);
}

#[test]
fn a_ring_fits_where_objects_are_moved_by_value() {
    assert!(size_of::<Ring<Test>>() <= 512);
}

#[test]
fn lines_are_a_power_of_two() {
    for count in 0..=130_usize {
        let lines = Heap((0..count).map(|_| Line::new()).collect());
        match Ring::<Test>::new(lines, Kinds::NONE) {
            Ok(ring) => assert_eq!((ring.capacity(), count.is_power_of_two()), (count, true)),
            Err(error) => assert_eq!((error, count.is_power_of_two()), (AttachError::Lines, false)),
        }
    }
}

#[test]
fn a_processor_gets_one_ring_and_only_if_the_table_has_it() {
    let rings = rings(1, 2);
    assert_eq!(rings.attach(0, ring(2, Kinds::NONE)), Err(AttachError::Attached));
    assert_eq!(rings.attach(1, ring(2, Kinds::NONE)), Err(AttachError::Processor));
}

#[test]
fn a_record_without_a_ring_is_counted_and_the_processor_may_be_added_later() {
    let rings = Rings::<Test>::new(Heap((0..8).map(|_| Entry::new()).collect()), Event::default());
    let at = At(7);
    assert_eq!(claim(&rings, &at, &[1]).err(), Some(Refused(Cause::NoRing)));
    assert_eq!(claim(&rings, &At(8), &[1]).err(), Some(Refused(Cause::NoRing)));
    assert_eq!(rings.lost(Kind::Verdict, Cause::NoRing), 2);
    rings.attach(7, ring(4, Kinds::NONE)).unwrap();
    claim(&rings, &at, &[2]).unwrap().commit();
    let mut log = Log::default();
    assert!(rings.dispatcher().unwrap().poll(&mut log));
    assert_eq!(log.got.len(), 1);
    assert_eq!(rings.rings().map(|(processor, _)| processor).collect::<Vec<_>>(), [7]);
}

#[test]
fn there_is_one_dispatcher_at_a_time() {
    let rings = rings(1, 2);
    let dispatcher = rings.dispatcher().unwrap();
    assert_eq!(rings.dispatcher().err(), Some(Taken));
    drop(dispatcher);
    assert!(rings.dispatcher().is_ok());
}

#[test]
fn a_leaked_claim_closes_its_own_ring_only() {
    let rings = rings(2, 4);
    let at = At(0);
    std::mem::forget(claim(&rings, &at, &[1]).unwrap());
    assert_eq!(claim(&rings, &at, &[1]).err(), Some(Refused(Cause::Nested)));
    claim(&rings, &At(1), &[1]).unwrap().commit();
    let mut log = Log::default();
    rings.dispatcher().unwrap().poll(&mut log);
    assert_eq!(log.got.len(), 1);
}

#[test]
fn undelivered_events_give_their_objects_up_with_the_rings() {
    let live = Arc::new(AtomicUsize::new(0));
    let rings = rings(1, 2);
    for id in 0..3 {
        assert!(rings.raise(&At(0), &Connection::new(id, &live), LifeCycle::Closed));
    }
    assert_eq!(live.load(Ordering::Relaxed), 3);
    drop(rings);
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

#[test]
fn a_running_dispatcher_is_not_signalled() {
    let rings = rings(1, 1024);
    for _ in 0..100 {
        claim(&rings, &At(0), &[1]).unwrap().commit();
    }
    assert_eq!(rings.waker().wakes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_parked_dispatcher_is_signalled_once() {
    let rings = Arc::new(rings(1, 1024));
    let gate = Arc::new(Gate { entered: AtomicUsize::new(0), open: AtomicUsize::new(0) });
    let dispatcher = {
        let (rings, gate) = (rings.clone(), gate.clone());
        thread::spawn(move || {
            let bounds = Bounds { spin: 0, ..Bounds::default() };
            rings.dispatcher().unwrap().with_bounds(bounds).run(&mut &*gate)
        })
    };
    // The first record may find the dispatcher parked or not; inside the handler it is certainly awake.
    claim(&rings, &At(0), &[1]).unwrap().commit();
    while gate.entered.load(Ordering::Acquire) == 0 {
        thread::yield_now();
    }
    let wakes = rings.waker().wakes.load(Ordering::Relaxed);
    assert!(wakes <= 1);
    for _ in 0..100 {
        claim(&rings, &At(0), &[1]).unwrap().commit();
    }
    assert_eq!(rings.waker().wakes.load(Ordering::Relaxed), wakes);
    gate.open.store(1, Ordering::Release);
    rings.stop();
    assert_eq!(dispatcher.join().unwrap().records, 101);
}

struct Gate {
    entered: AtomicUsize,
    open: AtomicUsize,
}

impl Handler<Test> for &Gate {
    fn record(&mut self, _record: &Record<'_, Test>) {
        self.entered.store(1, Ordering::Release);
        while self.open.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
    }

    fn life_cycle(&mut self, _object: &Connection, _event: LifeCycle, _sequence: u32) {}
}

/// Checks, on the dispatcher's thread, what the stress below promises.
struct Witness {
    next: Vec<u64>,
    lost: Vec<u64>,
    expected: Vec<u32>,
    closed: usize,
}

impl Handler<Test> for Witness {
    fn record(&mut self, record: &Record<'_, Test>) {
        let processor = record.processor as usize;
        let (number, fill) = record.payload[..record.detail.into()].split_first_chunk().unwrap();
        let number = u64::from_le_bytes(*number);
        self.lost[processor] += u64::from(record.lost);
        assert_eq!(number, self.next[processor] + u64::from(record.lost), "a gap that was not told");
        self.next[processor] = number + 1;
        assert!(fill.iter().all(|byte| *byte == number.to_le_bytes()[0]), "a torn record");
        if let Some(object) = record.object {
            assert_eq!(record.sequence, self.expected[object.id], "out of a connection's order");
            self.expected[object.id] += 1;
        }
    }

    fn life_cycle(&mut self, object: &Connection, event: LifeCycle, sequence: u32) {
        assert_eq!(sequence, self.expected[object.id], "out of a connection's order");
        self.expected[object.id] += 1;
        self.closed += usize::from(event == LifeCycle::Closed);
    }
}

/// One processor's work in the stress below; the records accepted.
fn produce(rings: &Rings<Test>, processor: u32, pushes: u64, connections: &[Arc<Connection>]) -> u64 {
    let at = At(processor);
    let mut random = u64::from(processor) + 1;
    let mut accepted = 0;
    for number in 0..pushes {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let more = if random % 4 == 0 { random / 4 % 400 } else { random / 4 % 37 };
        let mut payload = vec![number.to_le_bytes()[0]; 8 + usize::try_from(more).unwrap()];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let connection = &connections[usize::try_from(random >> 32).unwrap() % connections.len()];
        let of = (random >> 62 == 0).then_some(&**connection);
        if let Ok(claimed) = claim_of(rings, &at, &payload, Kind::ExtensionEvent, of) {
            claimed.commit();
            accepted += 1;
        }
        let event = match random >> 20 & 0xFFF {
            0 => Some(LifeCycle::Opened),
            1 => Some(LifeCycle::ExtensionDetached),
            2 if number * 2 > pushes => Some(LifeCycle::Closed),
            _ => None,
        };
        if let Some(event) = event {
            rings.raise(&at, connection, event);
        }
        if random % 256 == 3 {
            thread::yield_now();
        }
    }
    accepted
}

/// Three processors write records of every length, free ones and those of connections that all of them share,
/// while the connections open and close, the dispatcher parks and wakes, and a fourth processor is added.
#[test]
fn nothing_is_lost_torn_or_out_of_order_under_stress() {
    const PROCESSORS: u32 = 4;
    const CONNECTIONS: usize = 64;
    let pushes: u64 = if cfg!(miri) { 100 } else { 100_000 };
    let live = Arc::new(AtomicUsize::new(0));
    let rings = Rings::<Test>::new(Heap((0..PROCESSORS).map(|_| Entry::new()).collect()), Event::default());
    for processor in 0..PROCESSORS - 1 {
        rings.attach(processor, ring(64, Kinds::NONE)).unwrap();
    }
    let connections: Vec<_> = (0..CONNECTIONS).map(|id| Connection::new(id, &live)).collect();
    let rings = Arc::new(rings);
    let accepted: Arc<[_]> = (0..PROCESSORS).map(|_| AtomicU64::new(0)).collect();
    let producers: Vec<_> = (0..PROCESSORS)
        .map(|processor| {
            let (rings, accepted, connections) = (rings.clone(), accepted.clone(), connections.clone());
            thread::spawn(move || {
                if processor == PROCESSORS - 1 {
                    rings.attach(processor, ring(32, Kinds::NONE)).unwrap();
                }
                let count = produce(&rings, processor, pushes, &connections);
                accepted[processor as usize].store(count, Ordering::Relaxed);
            })
        })
        .collect();
    let dispatcher = {
        let rings = rings.clone();
        thread::spawn(move || {
            let (next, lost) = (vec![0; PROCESSORS as usize], vec![0; PROCESSORS as usize]);
            let mut witness = Witness { next, lost, expected: vec![0; CONNECTIONS], closed: 0 };
            let bounds = Bounds { batch: 16, work: 32, spin: 64 };
            let summary = rings.dispatcher().unwrap().with_bounds(bounds).run(&mut witness);
            (witness, summary)
        })
    };
    for producer in producers {
        producer.join().unwrap();
    }
    for connection in &connections {
        rings.raise(&At(0), connection, LifeCycle::Closed);
    }
    rings.stop();
    let (witness, summary) = dispatcher.join().unwrap();
    assert_eq!(summary.withheld, 0);
    assert_eq!(witness.closed, CONNECTIONS);
    assert_eq!(summary.records, accepted.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>());
    for (processor, ring) in rings.rings() {
        let (accepted, index) = (accepted[processor as usize].load(Ordering::Relaxed), processor as usize);
        let lost = ring.lost(Kind::ExtensionEvent, Cause::Full);
        assert_eq!(ring.delivered(), accepted);
        assert_eq!(lost, pushes - accepted);
        // The rest was lost after the last record, and is in the count only.
        assert_eq!(witness.next[index] + lost - witness.lost[index], pushes);
    }
    drop(connections);
    assert_eq!(live.load(Ordering::Relaxed), 0);
    let causes = [Cause::TooLong, Cause::Nested, Cause::NoRing];
    assert_eq!(causes.map(|cause| rings.lost(Kind::ExtensionEvent, cause)), [0; 3]);
}

fn times(log: &Times) -> Vec<u64> {
    log.0.iter().filter_map(|told| told.2).collect()
}

#[test]
fn a_record_that_is_committed_after_its_time_is_late_and_one_within_it_is_not() {
    for (settle, order, late) in [(0, [6, 5], 1), (10, [5, 6], 0)] {
        let rings = stamping(2, 4, Kinds::ALL);
        let mut dispatcher = rings.dispatcher().unwrap().in_order_of_time(settle);
        let mut log = Times::default();
        NOW.set(5);
        let (here, there) = (At(0), At(1));
        let slow = claim(&rings, &here, &[0; 4]).unwrap();
        NOW.set(6);
        claim(&rings, &there, &[0; 4]).unwrap().commit();
        dispatcher.poll(&mut log);
        slow.commit();
        NOW.set(20);
        dispatcher.poll(&mut log);
        assert_eq!(times(&log), order);
        rings.stop();
        assert_eq!(dispatcher.run(&mut log).late, late);
    }
}

#[test]
fn a_merging_dispatcher_does_not_wait_at_the_stop() {
    let rings = stamping(2, 4, Kinds::ALL);
    NOW.set(50);
    claim(&rings, &At(1), &[0; 4]).unwrap().commit();
    let mut log = Times::default();
    let mut dispatcher = rings.dispatcher().unwrap().in_order_of_time(1_000_000);
    assert!(!dispatcher.poll(&mut log));
    assert_eq!(times(&log), []);
    rings.stop();
    let summary = dispatcher.run(&mut log);
    assert_eq!((times(&log), summary.records, summary.withheld), (vec![50], 1, 0));
}

#[test]
fn what_a_provider_may_flood_leaves_room_for_the_rest() {
    let rings = rings(1, 16);
    let at = At(0);
    let flood = || claim_of(&rings, &at, &[0; 4], Kind::ExtensionEvent, None);
    for _ in 0..12 {
        flood().unwrap().commit();
    }
    assert_eq!(flood().err(), Some(Refused(Cause::Full)));
    for _ in 0..4 {
        claim(&rings, &at, &[0; 4]).unwrap().commit();
    }
    assert_eq!(claim(&rings, &at, &[0; 4]).err(), Some(Refused(Cause::Full)));
    let mut log = Log::default();
    while rings.dispatcher().unwrap().poll(&mut log) {}
    assert_eq!(log.got.len(), 16);
    flood().unwrap().commit();
}

#[test]
fn encoded_payloads_come_out_as_they_went_in() {
    let rings = rings(1, 16);
    let at = At(0);
    let here = rings.here(&at).unwrap();
    let payload = Encoded { kind: Kind::Verdict, detail: 100, bytes: &[7; 100] };
    assert!(here.push_quietly(&payload, None) && rings.push(&at, &payload, None));
    assert!(rings.here(&At(1)).is_none());
    let mut log = Log::default();
    rings.dispatcher().unwrap().poll(&mut log);
    let record =
        Got::Record { processor: 0, kind: Kind::Verdict, lost: 0, payload: vec![7; 100], object: None };
    assert_eq!(log.got, [record.clone(), record]);
}

/// A publication as the ring's would be with its release left out: whoever looks for races has to find this one.
#[test]
#[ignore = "a mistake, on purpose"]
fn a_relaxed_publication_is_a_race() {
    struct Published {
        line: UnsafeCell<u64>,
        tail: AtomicUsize,
    }
    // SAFETY: it is not; that is the point.
    unsafe impl Sync for Published {}
    let published = Arc::new(Published { line: UnsafeCell::new(0), tail: AtomicUsize::new(0) });
    let consumer = {
        let published = published.clone();
        thread::spawn(move || {
            while published.tail.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            // SAFETY: as above.
            unsafe { published.line.get().read() }
        })
    };
    // SAFETY: as above.
    unsafe { published.line.get().write(1) };
    published.tail.store(1, Ordering::Relaxed);
    assert_eq!(consumer.join().unwrap(), 1);
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    let rings = stamping(2, 4, Kinds::ALL);
    NOW.set(1_000_000);
    claim(&rings, &At(1), &[0; 4]).unwrap().commit();
    NOW.set(10);
    claim(&rings, &At(0), &[0; 4]).unwrap().commit();
    let mut log = Times::default();
    let mut dispatcher = rings.dispatcher().unwrap().in_order_of_time(50);
    NOW.set(70);
    assert!(dispatcher.poll(&mut log));
    assert_eq!(times(&log), [10, 1_000_000]);
}

/// Takes its time over each record, and more is written meanwhile.
struct Slow<'a>(&'a Rings<Test>, Vec<u64>);

impl Handler<Test> for Slow<'_> {
    fn record(&mut self, record: &Record<'_, Test>) {
        self.1.extend(record.time);
        NOW.set(NOW.get() + 1000);
        claim(self.0, &At(0), &[0; 4]).unwrap().commit();
    }

    fn life_cycle(&mut self, _object: &Connection, _event: LifeCycle, _sequence: u32) {}
}

#[test]
fn what_is_written_while_a_record_is_told_is_not_old_enough_yet() {
    let rings = stamping(1, 8, Kinds::ALL);
    NOW.set(100);
    claim(&rings, &At(0), &[0; 4]).unwrap().commit();
    NOW.set(200);
    let mut slow = Slow(&rings, vec![]);
    let mut dispatcher = rings.dispatcher().unwrap().in_order_of_time(50);
    assert!(dispatcher.poll(&mut slow) && !dispatcher.poll(&mut slow));
    assert_eq!(slow.1, [100]);
}

#[test]
fn after_the_end_there_is_no_dispatcher_any_more() {
    let rings = rings(1, 8);
    rings.stop();
    let mut dispatcher = rings.dispatcher().unwrap();
    let summary = dispatcher.run(&mut Log::default());
    claim(&rings, &At(0), &[1]).unwrap().commit();
    assert!(!dispatcher.poll(&mut Log::default()));
    assert_eq!(dispatcher.run(&mut Log::default()), summary);
    drop(dispatcher);
    assert_eq!(rings.dispatcher().err(), Some(Taken));
}

#[test]
fn a_clock_that_is_set_back_does_not_hold_the_stop_up() {
    let rings = stamping(1, 4, Kinds::ALL);
    NOW.set(100);
    claim(&rings, &At(0), &[0; 4]).unwrap().commit();
    NOW.set(95);
    rings.stop();
    let mut log = Times::default();
    let summary = rings.dispatcher().unwrap().in_order_of_time(10).run(&mut log);
    assert_eq!((times(&log), summary.withheld), (vec![100], 0));
}

#[test]
fn what_is_pushed_again_is_not_counted_as_lost() {
    let rings = rings(1, 1);
    let at = At(0);
    let change = ExtensionChange { session: 1, part: 0, provider: 0, detached: false, callbacks: 0 };
    assert!(rings.push(&at, &change, None));
    assert!(!rings.push(&at, &change, None));
    assert!(!rings.push(&At(1), &change, None));
    assert!(Cause::ALL.iter().all(|cause| rings.lost(Kind::ExtensionChange, *cause) == 0));
    rings.dispatcher().unwrap().poll(&mut Log::default());
    assert!(rings.push(&at, &change, None));
    let mut log = Log::default();
    rings.dispatcher().unwrap().poll(&mut log);
    assert!(matches!(log.got[..], [Got::Record { lost: 0, .. }]));
}
