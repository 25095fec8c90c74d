//! loom models of the ring: every interleaving, and every value that weak memory lets a load see.
//!
//! In each the dispatcher is spawned last and the main thread only joins: loom remembers one last access for
//! each object, and explores the consumer's races only then. Each model counts the event that it is about over
//! all executions, and fails if that never happened. And for each ordering that the protocol needs, a model
//! with that one weakened has to fail.

use std::{
    boxed::Box,
    ops::Deref,
    sync::{Arc, Mutex as StdMutex, atomic as real},
    vec,
    vec::Vec,
};

use loom::{
    sync::{Arc as LoomArc, Condvar, Mutex},
    thread,
};

use super::{sync::Site, sync::weak, *};

/// The holder of a processor: each model gives each processor to one thread.
struct At(u32);

// SAFETY: the models make one for each processor.
unsafe impl OnProcessor for At {
    fn processor(&self) -> u32 {
        self.0
    }
}

/// An auto-reset event.
struct Event {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn new() -> Self {
        Self { set: Mutex::new(false), changed: Condvar::new() }
    }
}

impl Waker for Event {
    fn wake(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn park(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.changed.wait(set).unwrap();
        }
        *set = false;
    }
}

/// An object with plain data beside its link, which loom holds to the ordering of events.
struct Connection {
    link: Link,
    count: loom::cell::Cell<u64>,
}

// SAFETY: `count` is written before `Closed` is raised, and read when that is delivered.
unsafe impl Sync for Connection {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Connection {}

impl Connection {
    fn new() -> Arc<Self> {
        Arc::new(Self { link: Link::new(), count: loom::cell::Cell::new(0) })
    }
}

// SAFETY: the link is a field; an `Arc` counts the references.
unsafe impl Linked for Connection {
    fn link(&self) -> &Link {
        &self.link
    }

    fn retain(&self) {
        // SAFETY: every connection of the models is made by `Arc::new`.
        unsafe { Arc::increment_strong_count(self) }
    }

    unsafe fn release(object: core::ptr::NonNull<Self>) {
        // SAFETY: retained before (contract).
        unsafe { Arc::decrement_strong_count(object.as_ptr()) }
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

struct Model;

impl Supply for Model {
    type Object<'a> = &'a Connection;
    type Lines = Heap<[Line]>;
    type Ring = Heap<Ring<Self>>;
    type Table = Heap<[Entry<Self>]>;
    type Waker = Event;

    fn now() -> u64 {
        0
    }
}

fn ring(lines: usize) -> Heap<Ring<Model>> {
    Heap(Box::new(Ring::new(Heap((0..lines).map(|_| Line::new()).collect()), Kinds::NONE).unwrap()))
}

/// Room for the rings of so many processors, none of which has one yet.
fn without_rings(processors: u32) -> Rings<Model> {
    Rings::new(Heap((0..processors).map(|_| Entry::new()).collect()), Event::new())
}

fn rings(processors: u32, lines: usize) -> LoomArc<Rings<Model>> {
    let rings = without_rings(processors);
    for processor in 0..processors {
        rings.attach(processor, ring(lines)).unwrap();
    }
    LoomArc::new(rings)
}

/// What was delivered, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Got {
    Record { processor: u32, value: u8, lost: u32 },
    Event(LifeCycle, u64),
}

struct Log(Vec<Got>);

impl Handler<Model> for Log {
    fn record(&mut self, record: &Record<'_, Model>) {
        let value = record.payload[0];
        assert!(record.payload[..record.detail.into()].iter().all(|byte| *byte == value), "a torn record");
        self.0.push(Got::Record { processor: record.processor, value, lost: record.lost });
    }

    fn life_cycle(&mut self, object: &Connection, event: LifeCycle, _sequence: u32) {
        let count = if event == LifeCycle::Closed { object.count.get() } else { 0 };
        self.0.push(Got::Event(event, count));
    }
}

fn push(rings: &Rings<Model>, processor: u32, value: u8, len: u16, object: Option<&Connection>) -> bool {
    let at = At(processor);
    let claim = match object {
        None => rings.claim(&at, Kind::Verdict, len, len.into()),
        Some(object) => rings.claim_for(&at, Kind::Verdict, len, len.into(), object),
    };
    let Ok(mut claim) = claim else { return false };
    claim.payload().fill(value);
    claim.commit();
    true
}

const NO_SPIN: Bounds = Bounds { batch: 2, work: 4, spin: 0 };

/// Explores `model` with `site` weakened, up to so many preemptions; `seen` must have happened.
fn explore(
    site: Option<Site>,
    preemptions: Option<usize>,
    model: impl Fn(&real::AtomicUsize) + Sync + Send + 'static,
) {
    weak::set(site);
    let seen = Arc::new(real::AtomicUsize::new(0));
    let executions = Arc::new(real::AtomicUsize::new(0));
    let (seen_in, executions_in) = (seen.clone(), executions.clone());
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(move || {
        executions_in.fetch_add(1, real::Ordering::Relaxed);
        model(&seen_in);
    });
    let (seen, executions) = (seen.load(real::Ordering::Relaxed), executions.load(real::Ordering::Relaxed));
    std::println!("{executions} executions, {seen} of them with the event in question");
    assert!(seen > 0, "the model never came to what it is about");
}

fn records(got: &[Got], of: u32) -> Vec<(u8, u32)> {
    got.iter()
        .filter_map(|got| match got {
            Got::Record { processor, value, lost } if *processor == of => Some((*value, *lost)),
            _ => None,
        })
        .collect()
}

/// Two processors push two records each into rings of one line; the dispatcher polls meanwhile. What is
/// accepted comes once, in order, with its gaps; the rest is counted.
fn claim_commit_drain(site: Option<Site>) {
    explore(site, Some(3), |early| {
        let rings = rings(2, 1);
        let producers: Vec<_> = (0..2)
            .map(|processor| {
                let rings = rings.clone();
                thread::spawn(move || {
                    (1..=2).map(|value| push(&rings, processor, value, 4, None)).collect::<Vec<_>>()
                })
            })
            .collect();
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        let accepted: Vec<Vec<bool>> = producers.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut log = dispatcher.join().unwrap();
        early.fetch_add(usize::from(!log.0.is_empty()), real::Ordering::Relaxed);
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        for (processor, accepted) in (0..2).zip(&accepted) {
            let expected: Vec<_> =
                (1..=2).zip(accepted).filter(|(_, taken)| **taken).map(|(value, _)| (value, 0)).collect();
            assert_eq!(records(&log.0, processor), expected);
        }
        let refused = accepted.iter().flatten().filter(|taken| !**taken).count();
        assert_eq!(rings.lost(Kind::Verdict, Cause::Full), refused as u64);
    });
}

#[test]
fn what_is_accepted_is_delivered_once_and_in_order() {
    claim_commit_drain(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_publication_is_caught() {
    claim_commit_drain(Some(Site::Publish));
}

/// One processor goes round a ring of two lines more than twice, the dispatcher after it.
fn wrap_around(site: Option<Site>) {
    explore(site, Some(3), |reused| {
        let rings = rings(1, 2);
        let mut before = Log(vec![]);
        assert!(push(&rings, 0, 1, 4, None));
        rings.dispatcher().unwrap().poll(&mut before);
        let producer = {
            let rings = rings.clone();
            thread::spawn(move || (2..=5).map(|value| push(&rings, 0, value, 4, None)).collect::<Vec<_>>())
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                let mut dispatcher = rings.dispatcher().unwrap();
                for _ in 0..2 {
                    dispatcher.poll(&mut log);
                }
                log
            })
        };
        let accepted = producer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        reused.fetch_add(usize::from(accepted[2]), real::Ordering::Relaxed);
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        let mut lost = 0;
        let mut expected = vec![];
        for (value, taken) in (2..=5).zip(&accepted) {
            if *taken {
                expected.push((value, lost));
                lost = 0;
            } else {
                lost += 1;
            }
        }
        assert_eq!(records(&log.0, 0), expected);
    });
}

#[test]
fn lines_are_written_again_only_after_they_were_read() {
    wrap_around(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_look_at_the_tail_is_caught() {
    wrap_around(Some(Site::Observe));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_giving_back_is_caught() {
    wrap_around(Some(Site::Free));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_taking_back_is_caught() {
    wrap_around(Some(Site::Reuse));
}

/// Records of two lines in a ring of four: the second one lies behind a filler.
#[test]
fn a_record_of_several_lines_is_never_seen_in_parts() {
    explore(None, Some(3), |early| {
        let rings = rings(1, 4);
        let mut before = Log(vec![]);
        assert!(push(&rings, 0, 9, 100, None));
        assert!(push(&rings, 0, 9, 4, None));
        rings.dispatcher().unwrap().poll(&mut before);
        rings.dispatcher().unwrap().poll(&mut before);
        let producer = {
            let rings = rings.clone();
            thread::spawn(move || (1..=2).filter(|value| push(&rings, 0, *value, 100, None)).count())
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        let accepted = producer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        early.fetch_add(usize::from(!log.0.is_empty()), real::Ordering::Relaxed);
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        assert_eq!(log.0.len(), accepted);
    });
}

/// A claim is abandoned while the dispatcher looks: nothing of it is seen, the next record takes its place.
#[test]
fn an_abandoned_claim_leaves_no_trace() {
    explore(None, None, |early| {
        let rings = rings(1, 1);
        let producer = {
            let rings = rings.clone();
            thread::spawn(move || {
                let at = At(0);
                let mut claim = rings.claim(&at, Kind::Verdict, 4, 4).unwrap();
                claim.payload().fill(7);
                drop(claim);
                assert!(push(&rings, 0, 1, 4, None));
            })
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        producer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        early.fetch_add(usize::from(!log.0.is_empty()), real::Ordering::Relaxed);
        rings.dispatcher().unwrap().poll(&mut log);
        assert_eq!(records(&log.0, 0), [(1, 0)]);
    });
}

/// Producers push while the dispatcher goes to park; then they are done, and only then stop is asked for.
/// Every wake-up that is lost is a deadlock.
fn park_and_wake(site: Option<Site>) {
    explore(site, Some(2), |parked| {
        let rings = rings(2, 2);
        let delivered = LoomArc::new((Mutex::new(0), Condvar::new()));
        let producers: Vec<_> = (0..2)
            .map(|processor| {
                let rings = rings.clone();
                thread::spawn(move || assert!(push(&rings, processor, 1, 4, None)))
            })
            .collect();
        let dispatcher = {
            let (rings, delivered) = (rings.clone(), delivered.clone());
            thread::spawn(move || {
                let mut count = Count { delivered };
                rings.dispatcher().unwrap().with_bounds(NO_SPIN).run(&mut count)
            })
        };
        for producer in producers {
            producer.join().unwrap();
        }
        let (count, changed) = &*delivered;
        let mut count = count.lock().unwrap();
        while *count < 2 {
            count = changed.wait(count).unwrap();
        }
        drop(count);
        rings.stop();
        let summary = dispatcher.join().unwrap();
        assert_eq!((summary.records, summary.withheld), (2, 0));
        parked.fetch_add(usize::from(summary.parked > 0), real::Ordering::Relaxed);
    });
}

struct Count {
    delivered: LoomArc<(Mutex<usize>, Condvar)>,
}

impl Handler<Model> for Count {
    fn record(&mut self, _record: &Record<'_, Model>) {
        *self.delivered.0.lock().unwrap() += 1;
        self.delivered.1.notify_one();
    }

    fn life_cycle(&mut self, _object: &Connection, _event: LifeCycle, _sequence: u32) {}
}

#[test]
fn no_wake_up_is_lost() {
    park_and_wake(None);
}

/// A deadlock leaves loom's threads half-way, whose destructors abort the process: so it happens in a process
/// of its own.
fn deadlocks(test: &str) {
    let me = std::env::current_exe().unwrap();
    let arguments = ["--ignored", "--exact", test, "--nocapture"];
    let output = std::process::Command::new(me).args(arguments).output().unwrap();
    let said = std::string::String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("deadlock; threads"), "no deadlock: {said}");
}

#[test]
fn a_missing_fence_of_the_producer_is_caught() {
    deadlocks("ring::loom_models::park_and_wake_without_the_fence_of_the_producer");
}

#[test]
fn a_missing_fence_of_the_dispatcher_is_caught() {
    deadlocks("ring::loom_models::park_and_wake_without_the_fence_of_the_dispatcher");
}

#[test]
#[ignore = "deadlocks: run in a process of its own by the test that expects it"]
fn park_and_wake_without_the_fence_of_the_producer() {
    park_and_wake(Some(Site::Signal));
}

#[test]
#[ignore = "deadlocks: run in a process of its own by the test that expects it"]
fn park_and_wake_without_the_fence_of_the_dispatcher() {
    park_and_wake(Some(Site::Park));
}

/// Stop is asked for while the dispatcher works: it returns, and everything committed before is delivered.
fn shutdown(site: Option<Site>) {
    explore(site, Some(3), |parked| {
        let rings = rings(1, 4);
        let connection = Connection::new();
        let producer = {
            let (rings, connection) = (rings.clone(), connection.clone());
            thread::spawn(move || {
                assert!(push(&rings, 0, 1, 4, Some(&connection)));
                connection.count.set(5);
                assert!(rings.raise(&At(0), &connection, LifeCycle::Closed));
                rings.stop();
            })
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                let summary = rings.dispatcher().unwrap().with_bounds(NO_SPIN).run(&mut log);
                (log, summary)
            })
        };
        producer.join().unwrap();
        let (log, summary) = dispatcher.join().unwrap();
        let record = Got::Record { processor: 0, value: 1, lost: 0 };
        assert_eq!(log.0, [record, Got::Event(LifeCycle::Closed, 5)], "not all was delivered");
        assert_eq!(summary.withheld, 0);
        assert_eq!(Arc::strong_count(&connection), 1);
        parked.fetch_add(usize::from(summary.parked > 0), real::Ordering::Relaxed);
    });
}

#[test]
fn shutdown_delivers_everything() {
    shutdown(None);
}

#[test]
#[should_panic(expected = "not all was delivered")]
fn a_relaxed_stop_is_caught() {
    shutdown(Some(Site::Stop));
}

/// One processor opens a connection while another closes it: each event comes once, opened before closed, and
/// none that was raised after closed.
fn life_cycle(site: Option<Site>) {
    explore(site, Some(2), |crossed| {
        let rings = rings(2, 2);
        let connection = Connection::new();
        let opener = {
            let (rings, connection) = (rings.clone(), connection.clone());
            thread::spawn(move || {
                let raised = rings.raise(&At(1), &connection, LifeCycle::Opened);
                assert!(!rings.raise(&At(1), &connection, LifeCycle::Opened));
                raised
            })
        };
        let closer = {
            let (rings, connection) = (rings.clone(), connection.clone());
            thread::spawn(move || {
                connection.count.set(3);
                assert!(rings.raise(&At(0), &connection, LifeCycle::Closed));
            })
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        let raised = opener.join().unwrap();
        closer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        crossed.fetch_add(usize::from(raised && log.0.len() == 1), real::Ordering::Relaxed);
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        let mut expected = vec![Got::Event(LifeCycle::Closed, 3)];
        if raised {
            expected.insert(0, Got::Event(LifeCycle::Opened, 0));
        }
        assert_eq!(log.0, expected);
        assert_eq!(Arc::strong_count(&connection), 1);
    });
}

#[test]
fn life_cycle_events_come_once_and_in_order() {
    life_cycle(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_enqueue_is_caught() {
    life_cycle(Some(Site::Enqueue));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_take_is_caught() {
    life_cycle(Some(Site::Take));
}

/// The object is on the list when its last event becomes ready: only that flag hands the counters over.
fn ready_while_listed(site: Option<Site>) {
    explore(site, Some(3), |late| {
        let rings = rings(1, 2);
        let connection = Connection::new();
        assert!(rings.raise(&At(0), &connection, LifeCycle::Opened));
        let closer = {
            let (rings, connection) = (rings.clone(), connection.clone());
            thread::spawn(move || {
                connection.count.set(3);
                assert!(rings.raise(&At(0), &connection, LifeCycle::Closed));
            })
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        closer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        late.fetch_add(usize::from(log.0.len() == 2), real::Ordering::Relaxed);
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        let expected = [Got::Event(LifeCycle::Opened, 0), Got::Event(LifeCycle::Closed, 3)];
        assert_eq!(log.0, expected, "not handed over");
    });
}

#[test]
fn an_event_hands_over_what_was_written_before_it() {
    ready_while_listed(None);
}

#[test]
#[should_panic(expected = "not handed over")]
fn a_relaxed_ready_mark_is_caught() {
    ready_while_listed(Some(Site::Ready));
}

/// A connection's records go through two rings: whatever the dispatcher finds first, it delivers them as
/// numbered, and the closing event last.
#[test]
fn the_order_of_a_connection_holds_across_processors() {
    explore(None, Some(2), |crossed| {
        let rings = rings(2, 2);
        let connection = Connection::new();
        let turn = LoomArc::new(StdMutex::new(Vec::new()));
        let producers: Vec<_> = (0..2)
            .map(|processor| {
                let (rings, connection, turn) = (rings.clone(), connection.clone(), turn.clone());
                thread::spawn(move || {
                    assert!(push(&rings, processor, 1, 4, Some(&connection)));
                    turn.lock().unwrap().push(processor);
                })
            })
            .collect();
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Numbers(vec![], false);
                let mut dispatcher = rings.dispatcher().unwrap();
                dispatcher.poll(&mut log);
                dispatcher.poll(&mut log);
                log
            })
        };
        for producer in producers {
            producer.join().unwrap();
        }
        let mut log = dispatcher.join().unwrap();
        assert!(rings.raise(&At(0), &connection, LifeCycle::Closed));
        let mut dispatcher = rings.dispatcher().unwrap();
        while dispatcher.poll(&mut log) {}
        assert_eq!(log.0.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        // The first number was taken by the processor whose ring is looked at last.
        crossed.fetch_add(usize::from(log.0[0].0 == 1), real::Ordering::Relaxed);
        assert_eq!(Arc::strong_count(&connection), 1);
    });
}

struct Numbers(Vec<(u32, u32)>, bool);

impl Handler<Model> for Numbers {
    fn record(&mut self, record: &Record<'_, Model>) {
        assert!(record.object.is_some() && !self.1);
        self.0.push((record.processor, record.sequence));
    }

    fn life_cycle(&mut self, _object: &Connection, event: LifeCycle, sequence: u32) {
        self.1 = event == LifeCycle::Closed;
        self.0.push((u32::MAX, sequence));
    }
}

/// A processor is added while its owner and the dispatcher are at work.
fn hot_add(site: Option<Site>) {
    explore(site, None, |taken| {
        let rings = LoomArc::new(without_rings(2));
        let adder = {
            let rings = rings.clone();
            thread::spawn(move || rings.attach(1, ring(1)).unwrap())
        };
        let producer = {
            let rings = rings.clone();
            thread::spawn(move || push(&rings, 1, 1, 4, None))
        };
        let dispatcher = {
            let rings = rings.clone();
            thread::spawn(move || {
                let mut log = Log(vec![]);
                rings.dispatcher().unwrap().poll(&mut log);
                log
            })
        };
        adder.join().unwrap();
        let accepted = producer.join().unwrap();
        let mut log = dispatcher.join().unwrap();
        taken.fetch_add(usize::from(accepted && !log.0.is_empty()), real::Ordering::Relaxed);
        rings.dispatcher().unwrap().poll(&mut log);
        assert_eq!(log.0.len(), usize::from(accepted));
        assert_eq!(rings.lost(Kind::Verdict, Cause::NoRing), u64::from(!accepted));
    });
}

#[test]
fn a_processor_may_be_added_while_the_dispatcher_works() {
    hot_add(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_attachment_is_caught() {
    hot_add(Some(Site::Attach));
}

/// A ring is attached to a processor that runs already and has something to tell, while the dispatcher goes to park: what
/// was taken is delivered, and nobody says so a second time.
#[test]
fn what_a_processor_says_first_wakes_the_dispatcher() {
    explore(None, Some(2), |parked| {
        let rings = LoomArc::new(without_rings(2));
        let delivered = LoomArc::new((Mutex::new(0), Condvar::new()));
        let adder = {
            let rings = rings.clone();
            thread::spawn(move || rings.attach(1, ring(1)).unwrap())
        };
        let producer = {
            let rings = rings.clone();
            thread::spawn(move || push(&rings, 1, 1, 4, None))
        };
        let dispatcher = {
            let (rings, delivered) = (rings.clone(), delivered.clone());
            thread::spawn(move || {
                let mut count = Count { delivered };
                rings.dispatcher().unwrap().with_bounds(NO_SPIN).run(&mut count)
            })
        };
        if producer.join().unwrap() {
            let (count, changed) = &*delivered;
            let mut count = count.lock().unwrap();
            while *count < 1 {
                count = changed.wait(count).unwrap();
            }
        }
        adder.join().unwrap();
        rings.stop();
        let summary = dispatcher.join().unwrap();
        parked.fetch_add(usize::from(summary.parked > 0 && summary.records == 1), real::Ordering::Relaxed);
    });
}
