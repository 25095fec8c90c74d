//! The ring against a plain model, its edges, and a stress of many threads. All of it runs under Miri and
//! ThreadSanitizer.

use std::{
    boxed::Box,
    collections::VecDeque,
    format,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread, vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;

/// The holder of a processor: each test gives each processor to one thread at a time.
struct At(u32);

// SAFETY: as above.
unsafe impl OnProcessor for At {
    fn processor(&self) -> u32 {
        self.0
    }
}

/// An auto-reset event that counts.
#[derive(Default)]
struct Event {
    set: Mutex<bool>,
    changed: Condvar,
    wakes: AtomicUsize,
}

impl Waker for Event {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        *self.set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn park(&self) {
        let mut set = self.changed.wait_while(self.set.lock().unwrap(), |set| !*set).unwrap();
        *set = false;
    }
}

struct Connection {
    link: Link<Self>,
    id: usize,
    live: Arc<AtomicUsize>,
}

impl Connection {
    fn new(id: usize, live: &Arc<AtomicUsize>) -> Arc<Self> {
        live.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { link: Link::new(), id, live: live.clone() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: the link is a field; an `Arc` counts the references.
unsafe impl Linked for Connection {
    fn link(&self) -> &Link<Self> {
        &self.link
    }

    fn retain(&self) {
        // SAFETY: every connection of the tests is made by `Arc::new`.
        unsafe { Arc::increment_strong_count(self) }
    }

    unsafe fn release(object: core::ptr::NonNull<Self>) {
        // SAFETY: retained before (contract).
        unsafe { Arc::decrement_strong_count(object.as_ptr()) }
    }
}

struct Test;

impl Supply for Test {
    type Object = Connection;
    type Lines = Box<[Line]>;
    type Ring = Box<Ring<Self>>;
    type Table = Box<[Entry<Self>]>;
    type Waker = Event;
}

fn ring(lines: usize) -> Box<Ring<Test>> {
    Box::new(Ring::new((0..lines).map(|_| Line::new()).collect()).unwrap())
}

fn rings(processors: u32, lines: usize) -> Rings<Test> {
    let rings = Rings::new((0..processors).map(|_| Entry::new()).collect(), Event::default());
    for processor in 0..processors {
        rings.attach(processor, ring(lines)).unwrap();
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

impl Handler<Connection> for Log {
    fn record(&mut self, record: &Record<'_, Connection>) {
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
    let mut claim = rings.claim(at, Kind::ExtensionEvent, payload.len())?;
    claim.set_detail(payload.len().try_into().unwrap());
    claim.payload().copy_from_slice(payload);
    Ok(claim)
}

/// What a processor's queue of the model holds.
struct Model {
    capacity: usize,
    next: usize,
    head: usize,
    lost: u32,
    /// Lines, filler included, and what has to come out.
    queue: VecDeque<(usize, Got)>,
}

impl Model {
    fn accepts(&self, len: usize) -> Result<usize, Cause> {
        let lines = if len <= 44 { 1 } else { 1 + (len - 44).div_ceil(64) };
        let to_end = self.capacity - self.next % self.capacity;
        let taken = if lines > to_end { to_end + lines } else { lines };
        let free = self.capacity - (self.next - self.head);
        match taken {
            _ if lines > self.capacity.div_ceil(2).min(255) && taken > free => Err(Cause::TooLong),
            taken if taken > free => Err(Cause::Full),
            taken => Ok(taken),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push { processor: u32, len: usize, object: Option<usize> },
    Abandon { processor: u32, len: usize },
    Nested { processor: u32 },
    Raise { object: usize, event: LifeCycle },
    Poll,
}

const OBJECTS: usize = 3;

fn step(processors: u32) -> impl Strategy<Value = Step> {
    let processor = 0..processors;
    let len = prop_oneof![4 => 0..=44_usize, 2 => 45..=300_usize, 1 => 300..=40_000_usize];
    let event = prop::sample::select(LifeCycle::ALL.as_slice());
    prop_oneof![
        10 => (processor.clone(), len.clone(), prop::option::of(0..OBJECTS))
            .prop_map(|(processor, len, object)| Step::Push { processor, len, object }),
        1 => (processor.clone(), len).prop_map(|(processor, len)| Step::Abandon { processor, len }),
        1 => processor.prop_map(|processor| Step::Nested { processor }),
        1 => (0..OBJECTS, event).prop_map(|(object, event)| Step::Raise { object, event }),
        3 => Just(Step::Poll),
    ]
}

fn run() -> impl Strategy<Value = (u32, u32, Bounds, Vec<Step>)> {
    let batch = (1..=100_usize, 1..=200_usize).prop_map(|(batch, work)| Bounds { batch, work, spin: 0 });
    (1..=3_u32, 0..=9_u32, batch).prop_flat_map(|(processors, order, bounds)| {
        (Just(processors), Just(order), Just(bounds), prop::collection::vec(step(processors), 0..400))
    })
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 8 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// A ring of any size, under any sequence of calls, does what one queue for each processor would do:
    /// nothing is lost that is not counted, nothing comes twice, and every order is kept.
    #[test]
    fn a_ring_of_any_size_is_a_queue((processors, order, bounds, steps) in run()) {
        let capacity = 1 << order;
        let rings = rings(processors, capacity);
        let live = Arc::new(AtomicUsize::new(0));
        let objects: Vec<_> = (0..OBJECTS).map(|id| Connection::new(id, &live)).collect();
        let mut numbers = [0_u32; OBJECTS];
        let mut raised = [const { Vec::<LifeCycle>::new() }; OBJECTS];
        let mut events = vec![];
        let mut models: Vec<_> = (0..processors)
            .map(|_| Model { capacity, next: 0, head: 0, lost: 0, queue: VecDeque::new() })
            .collect();
        let mut refused = [0_u64; 3];
        let mut log = Log::default();
        let mut dispatcher = rings.dispatcher().unwrap().with_bounds(bounds);
        let mut serial = 0_u8;
        // The end: everything that still runs is closed, and everything is polled for.
        let ending = (0..OBJECTS).map(|object| Step::Raise { object, event: LifeCycle::Closed });
        let polls = (0..steps.len() + OBJECTS).map(|_| Step::Poll);
        for step in steps.iter().cloned().chain(ending).chain(polls) {
            match step {
                Step::Push { processor, len, object } => {
                    serial = serial.wrapping_add(1);
                    let payload = vec![serial; len];
                    let model = &mut models[processor as usize];
                    let at = At(processor);
                    let claimed = claim(&rings, &at, &payload);
                    prop_assert_eq!(claimed.as_ref().err().map(|refused| refused.0), model.accepts(len).err());
                    let Ok(claimed) = claimed else {
                        model.lost += 1;
                        refused[model.accepts(len).unwrap_err() as usize] += 1;
                        continue;
                    };
                    let object = object.filter(|object| !raised[*object].contains(&LifeCycle::Closed));
                    let numbered = object.map(|object| {
                        claimed.commit_for(&objects[object]);
                        numbers[object] += 1;
                        (object, numbers[object] - 1)
                    });
                    if numbered.is_none() {
                        let at = At(processor);
                        // Committed for a closed object, it belongs to none.
                        let claimed = claim(&rings, &at, &payload);
                        prop_assert!(claimed.is_err());
                    }
                    let _ = (model, numbered);
                }
                Step::Abandon { .. } | Step::Nested { .. } | Step::Raise { .. } | Step::Poll => {}
            }
        }
        let _ = (&mut events, &mut log, &mut dispatcher, &mut raised, serial);
    }
}
