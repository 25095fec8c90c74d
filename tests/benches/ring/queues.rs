//! The ring and its peers, each behind the same two closures: write so many records, empty what is there.

use std::{cell::UnsafeCell, hint::black_box, sync::Arc};

use super::{DEFAULT_RECORDS, RECORDS, dpdk::Dpdk};
use weir::ring::{
    Encoded, Entry, Handler, Here, Kind, Kinds, LifeCycle, Line, NoObject, OnProcessor, PAYLOAD, Record,
    Ring, Rings, Supply, Waker,
};

/// Writes that many records; how many were accepted.
pub type Produce = Box<dyn FnMut(u64) -> u64 + Send>;
/// Reads what is there, up to a batch of each producer; how many records.
pub type Drain = Box<dyn FnMut() -> u64 + Send>;

/// What a queue is to the comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// weir's ring.
    Ours,
    /// Another queue for the same purpose.
    Peer,
    /// Something else, to see the figures beside it.
    Beside,
}

/// Something to measure.
pub struct Queue {
    pub name: &'static str,
    pub role: Role,
    pub producers: [Produce; 2],
    pub drain: Drain,
}

/// How a row is measured.
pub enum Shape {
    Contended,
    Live,
    Single,
    Refused,
}

impl Shape {
    pub fn of(row: &str) -> Self {
        match row {
            "mpsc_live_64" => Self::Live,
            "push_64" => Self::Single,
            "refused" => Self::Refused,
            _ => Self::Contended,
        }
    }
}

/// Records that a consumer takes in one turn: a batch of each producer.
const TURN: usize = 128;

/// The queues that are measured for `row`, with `places` for each producer.
pub fn make(row: &str, places: usize, dpdk: Option<&Dpdk>) -> Vec<Queue> {
    let contended = |ours: Fill| {
        let mut queues = vec![
            weir("weir", Role::Ours, places, ours),
            array_queue::<8>(places),
            thingbuf::<8>(places),
            crossfire::<8>(places),
            heapless_mpmc_64(places),
            disruptor_multi::<8>(places),
        ];
        queues.extend(dpdk.map(|dpdk| dpdk.many::<8>(places)));
        queues
    };
    match row {
        "push_64" | "refused" => {
            let mut queues = vec![
                weir("weir", Role::Ours, places, Fill::OneLine),
                rtrb::<8>(Role::Peer, places),
                ringbuf::<8>(places),
                heapless_spsc(places),
                disruptor_single::<8>(places),
                array_queue::<8>(places),
                thingbuf::<8>(places),
                crossfire::<8>(places),
                heapless_mpmc_64(places),
            ];
            queues.extend(dpdk.map(|dpdk| dpdk.one(places)));
            if row == "push_64" {
                queues.extend(ways(places));
                queues.push(floor::<8>(places));
            }
            queues
        }
        "mpsc_push_128" | "mpsc_push_128_default" => {
            let mut queues = vec![
                weir("weir", Role::Ours, places, Fill::TwoLines),
                array_queue::<16>(places),
                thingbuf::<16>(places),
                crossfire::<16>(places),
                heapless_mpmc_128(places),
                disruptor_multi::<16>(places),
                rtrb::<16>(Role::Beside, places),
                floor::<16>(places),
            ];
            queues.extend(dpdk.map(|dpdk| dpdk.many::<16>(places)));
            queues
        }
        "varlen" | "varlen_default" => contended(Fill::Mixed),
        _ => {
            let mut queues = contended(Fill::OneLine);
            queues.extend(ways(places));
            queues.push(rtrb::<8>(Role::Beside, places));
            if row != "mpsc_live_64" {
                queues.push(floor::<8>(places));
            }
            queues
        }
    }
}

pub const THINGBUF: &str = "thingbuf";
pub const ARRAY_QUEUE: &str = "crossbeam ArrayQueue";
pub const HEAPLESS_SPSC: &str = "heapless spsc";
pub const RTE_RING: &str = "DPDK rte_ring";
pub const PLAIN: &str = "plain write of the same bytes";

/// The ring in other ways.
fn ways(places: usize) -> [Queue; 2] {
    [
        weir("weir, each push on its own", Role::Beside, places, Fill::OnItsOwn),
        weir("weir, filled in place", Role::Beside, places, Fill::InPlace),
    ]
}

/// What is written: the same records for every queue, from the first-level cache. Were they computed instead, the compiler
/// would write them in wide stores to one queue and in narrow ones to another, which is half a nanosecond and more.
#[repr(align(64))]
pub struct Records<const W: usize>([[u64; W]; 64]);

impl<const W: usize> Records<W> {
    const ALL: &'static Self = &Self::new();

    const fn new() -> Self {
        let mut records = [[0; W]; 64];
        let mut number = 0;
        while number < 64 {
            let mut word = 0;
            while word < W {
                records[number][word] = (number + word) as u64;
                word += 1;
            }
            number += 1;
        }
        Self(records)
    }

    /// All of them.
    pub fn all() -> &'static Self {
        black_box(Self::ALL)
    }

    /// Their words.
    pub fn words(&self) -> *const u64 {
        self.0.as_ptr().cast()
    }

    #[inline]
    fn of(&self, number: u64) -> &[u64; W] {
        &self.0[(number % 64) as usize]
    }
}

#[inline]
fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// A producer's state.
struct Producer<F, const W: usize> {
    push: F,
    records: &'static Records<W>,
}

/// A producer that pushes one by one. No queue may keep its state in registers from one push to the next: an event
/// finds none there. The count is local while it works: in the closures themselves, two producers' counts may share a
/// cache line.
fn produce<const W: usize>(push: impl FnMut(&[u64; W]) -> bool + Send + 'static) -> Produce {
    let mut next = 0_u64;
    let mut producer = Producer { push, records: Records::<W>::all() };
    Box::new(move |records| {
        let mut accepted = 0;
        for number in next..next + records {
            let producer = black_box(&mut producer);
            accepted += u64::from((producer.push)(producer.records.of(number)));
        }
        next += records;
        accepted
    })
}

/// A consumer that pops one by one.
fn drain(mut pop: impl FnMut() -> Option<u64> + Send + 'static) -> Drain {
    Box::new(move || {
        let mut sum = 0_u64;
        let mut taken = 0;
        while taken < TURN as u64
            && let Some(words) = pop()
        {
            sum = sum.wrapping_add(words);
            taken += 1;
        }
        black_box(sum);
        taken
    })
}

struct Heapless;

impl Supply for Heapless {
    type Object<'a> = NoObject;
    type Lines = &'static mut [Line];
    type Ring = &'static mut Ring<Self>;
    type Table = &'static mut [Entry<Self>];
    type Waker = Asleep;

    fn now() -> u64 {
        0
    }
}

struct Asleep;

impl Waker for Asleep {
    fn wake(&self) {}
    fn park(&self) {}
}

/// A producer's hold on its processor, for as long as the thread that runs it.
struct At(u32);

// SAFETY: each processor's closure owns the only one, and runs on one thread at a time.
unsafe impl OnProcessor for At {
    fn processor(&self) -> u32 {
        self.0
    }
}

struct Sum(u64, u64);

impl Handler<Heapless> for Sum {
    #[inline]
    fn record(&mut self, record: &Record<'_, Heapless>) {
        self.0 = self.0.wrapping_add(u64::from(record.lost) ^ u64::from(record.detail));
        let (words, _) = record.payload.as_chunks::<8>();
        for word in words {
            self.0 = self.0.wrapping_add(u64::from_le_bytes(*word));
        }
        self.1 += 1;
    }

    fn life_cycle(&mut self, object: NoObject, _event: LifeCycle, _sequence: u32) {
        match object {}
    }
}

/// What is written into weir's records.
#[derive(Clone, Copy)]
enum Fill {
    /// To the ring as it was looked up once, without a look at the dispatcher: as with the peers, whose handle is the
    /// queue, and who wake nobody.
    OneLine,
    TwoLines,
    /// With all that a push has to do that stands alone: the ring is looked up, and the dispatcher woken if it is
    /// parked.
    OnItsOwn,
    /// Claimed on the processor, filled by the caller, committed.
    InPlace,
    /// Lengths known at run time only: 1, 1, 2, 1, 1, 3, 1, 2 lines, 96 bytes in the mean.
    Mixed,
}

const LENGTHS: [usize; 8] = [8, 48, 112, 30, 48, 176, 16, 96];

/// Writes words while there is room for whole ones.
#[inline]
fn fill(payload: &mut [u8], number: u64) {
    let (words, _) = payload.as_chunks_mut::<8>();
    for (word, place) in words.iter_mut().enumerate() {
        *place = number.wrapping_add(word as u64).to_le_bytes();
    }
}

/// The part of a record that is payload: what is before it, the header and room for an object, is the ring's.
#[inline]
fn encoded<const W: usize, const N: usize>(record: &[u64; W]) -> Encoded<'_, N> {
    const { assert!(N <= 8 * W) };
    // SAFETY: within the record.
    let last = unsafe { record.as_ptr().cast::<u8>().add(8 * W - N) };
    // SAFETY: the last bytes of the record, which is borrowed as long.
    Encoded { kind: Kind::Verdict, detail: 0, bytes: unsafe { &*last.cast::<[u8; N]>() } }
}

/// A producer's ring, held for as long as the thread that runs it: what the handles of other queues are.
struct Held(Here<'static, Heapless>);

// SAFETY: each processor's closure owns the only one, and runs on one thread at a time.
unsafe impl Send for Held {}

impl Held {
    fn get(&self) -> &Here<'static, Heapless> {
        &self.0
    }
}

fn weir(name: &'static str, role: Role, places: usize, fill_with: Fill) -> Queue {
    let table: Vec<_> = (0..2).map(|_| Entry::new()).collect();
    let rings: &'static Rings<Heapless> = Box::leak(Box::new(Rings::new(Vec::leak(table), Asleep)));
    for processor in 0..2 {
        // One line a record, or up to two.
        let lines = if matches!(fill_with, Fill::TwoLines | Fill::Mixed) { 2 * places } else { places };
        let lines: Vec<_> = (0..lines).map(|_| Line::new()).collect();
        let Ok(ring) = Ring::new(Vec::leak(lines), Kinds::NONE) else { unreachable!("a power of two") };
        assert!(rings.attach(processor, Box::leak(Box::new(ring))).is_ok());
    }
    let held = |processor| {
        let at: &'static At = Box::leak(Box::new(At(processor)));
        Held(rings.here(at).expect("it has its ring"))
    };
    let producer = |processor| match fill_with {
        Fill::OneLine => {
            let here = held(processor);
            produce(move |record: &[u64; 8]| here.get().push_quietly(&encoded::<8, PAYLOAD>(record), None))
        }
        Fill::TwoLines => {
            let here = held(processor);
            produce(move |record: &[u64; 16]| {
                here.get().push_quietly(&encoded::<16, { PAYLOAD + 64 }>(record), None)
            })
        }
        Fill::OnItsOwn => {
            produce(move |record: &[u64; 8]| rings.push(&At(processor), &encoded::<8, PAYLOAD>(record), None))
        }
        Fill::InPlace => produce(move |record: &[u64; 8]| {
            let at = At(processor);
            let Ok(mut claim) = rings.claim(&at, Kind::Verdict, 0, PAYLOAD) else { return false };
            claim.payload().copy_from_slice(encoded::<8, PAYLOAD>(record).bytes);
            claim.commit_quietly();
            true
        }),
        Fill::Mixed => {
            let lengths = black_box(LENGTHS);
            let here = held(processor);
            produce(move |record: &[u64; 8]| {
                let [number, ..] = *record;
                let len = lengths[(number % 8) as usize];
                let Ok(mut claim) = here.get().claim(Kind::Verdict, 0, len) else { return false };
                fill(claim.payload(), number);
                claim.commit_quietly();
                true
            })
        }
    };
    let Ok(mut dispatcher) = rings.dispatcher() else { unreachable!("the first") };
    let drain = Box::new(move || {
        let mut sum = Sum(0, 0);
        dispatcher.poll(&mut sum);
        black_box(sum.0);
        sum.1
    });
    Queue { name, role, producers: [producer(0), producer(1)], drain }
}

/// The same bytes written to a ring of one's own, without a look at a consumer and without publication.
struct Plain<const W: usize> {
    places: Box<[Place<W>]>,
    next: Position,
}

#[repr(align(64))]
struct Place<const W: usize>(UnsafeCell<[u64; W]>);

#[repr(align(64))]
struct Position(UnsafeCell<usize>);

// SAFETY: one side at a time, by the shape of the measurement.
unsafe impl<const W: usize> Sync for Plain<W> {}
// SAFETY: plain memory.
unsafe impl<const W: usize> Send for Plain<W> {}

fn floor<const W: usize>(places: usize) -> Queue {
    let plain = || {
        let places = (0..places).map(|_| Place(UnsafeCell::new([0; W]))).collect();
        Arc::new(Plain::<W> { places, next: Position(UnsafeCell::new(0)) })
    };
    let memory = [plain(), plain()];
    let mask = places - 1;
    let producer = |memory: Arc<Plain<W>>| {
        produce(move |record: &[u64; W]| {
            // SAFETY: only the producer comes here.
            let next = unsafe { &mut *memory.next.0.get() };
            let place = &memory.places[*next & mask];
            // SAFETY: nobody reads while this writes, by the shape of the measurement.
            unsafe { place.0.get().write(*record) };
            *next += 1;
            true
        })
    };
    let producers = [producer(memory[0].clone()), producer(memory[1].clone())];
    let mut read = false;
    let drain = Box::new(move || {
        read = !read;
        if !read {
            return 0;
        }
        let places = memory.iter().flat_map(|memory| &memory.places);
        // SAFETY: nobody writes while this reads, by the shape of the measurement.
        let total = places.fold(0_u64, |total, place| total.wrapping_add(sum(unsafe { &*place.0.get() })));
        black_box(total);
        1
    });
    Queue { name: PLAIN, role: Role::Beside, producers, drain }
}

fn array_queue<const W: usize>(places: usize) -> Queue {
    let queue = Arc::new(crossbeam_queue::ArrayQueue::<[u64; W]>::new(2 * places));
    let producer = |queue: Arc<crossbeam_queue::ArrayQueue<[u64; W]>>| {
        produce(move |record: &[u64; W]| queue.push(*record).is_ok())
    };
    let producers = [producer(queue.clone()), producer(queue.clone())];
    Queue {
        name: ARRAY_QUEUE,
        role: Role::Peer,
        producers,
        drain: drain(move || queue.pop().map(|words| sum(&words))),
    }
}

fn thingbuf<const W: usize>(places: usize) -> Queue
where
    [u64; W]: Default + Clone,
{
    let queue = Arc::new(thingbuf::ThingBuf::<[u64; W]>::new(2 * places));
    let producer = |queue: Arc<thingbuf::ThingBuf<[u64; W]>>| {
        produce(move |record: &[u64; W]| queue.push_ref().map(|mut place| *place = *record).is_ok())
    };
    let producers = [producer(queue.clone()), producer(queue.clone())];
    Queue {
        name: THINGBUF,
        role: Role::Peer,
        producers,
        drain: drain(move || queue.pop_ref().map(|words| sum(&*words))),
    }
}

fn crossfire<const W: usize>(places: usize) -> Queue {
    let (sender, receiver) = crossfire::mpsc::bounded_blocking::<[u64; W]>(2 * places);
    let other = sender.clone();
    let producers = [
        produce(move |record: &[u64; W]| sender.try_send(*record).is_ok()),
        produce(move |record: &[u64; W]| other.try_send(*record).is_ok()),
    ];
    let drain = drain(move || receiver.try_recv().ok().map(|words| sum(&words)));
    Queue { name: "crossfire", role: Role::Peer, producers, drain }
}

/// Its capacity is part of its type: one of each size that is measured.
macro_rules! heapless_mpmc {
    ($make:ident, $words:literal) => {
        fn $make(places: usize) -> Queue {
            heapless_mpmc!(places, $words, [RECORDS, DEFAULT_RECORDS])
        }
    };
    ($places:ident, $words:literal, [$($size:ident),+]) => {
        match $places {
            $($size => {
                #[allow(deprecated, reason = "a preempted producer holds the others up: these are not preempted")]
                static QUEUE: heapless::mpmc::Queue<[u64; $words], { 2 * $size }> = heapless::mpmc::Queue::new();
                let producer = || produce(|record: &[u64; $words]| QUEUE.enqueue(*record).is_ok());
                let drain = drain(|| QUEUE.dequeue().map(|words| sum(&words)));
                Queue { name: "heapless mpmc", role: Role::Peer, producers: [producer(), producer()], drain }
            })+
            _ => unreachable!("no such size"),
        }
    };
}

heapless_mpmc!(heapless_mpmc_64, 8);
heapless_mpmc!(heapless_mpmc_128, 16);

/// Two rings of one producer each, read in turn.
macro_rules! one_each {
    ($name:expr, $role:expr, $make:expr, $push:expr, $pop:expr) => {{
        let ((mut one, mut from_one), (mut two, mut from_two)) = ($make, $make);
        let producers =
            [produce(move |record| $push(&mut one, record)), produce(move |record| $push(&mut two, record))];
        let drain = drain(move || $pop(&mut from_one).or_else(|| $pop(&mut from_two)));
        Queue { name: $name, role: $role, producers, drain }
    }};
}

fn rtrb<const W: usize>(role: Role, places: usize) -> Queue {
    let push = |to: &mut rtrb::Producer<[u64; W]>, record: &[u64; W]| to.push(*record).is_ok();
    let pop = |from: &mut rtrb::Consumer<[u64; W]>| from.pop().ok().map(|words| sum(&words));
    if role == Role::Peer {
        one_each!("rtrb", role, rtrb::RingBuffer::new(places), push, pop)
    } else {
        one_each!("rtrb, one for each producer", role, rtrb::RingBuffer::new(places), push, pop)
    }
}

fn ringbuf<const W: usize>(places: usize) -> Queue {
    use ringbuf::{
        HeapCons, HeapProd, HeapRb,
        traits::{Consumer, Producer, Split},
    };
    let push = |to: &mut HeapProd<[u64; W]>, record: &[u64; W]| to.try_push(*record).is_ok();
    let pop = |from: &mut HeapCons<[u64; W]>| from.try_pop().map(|words| sum(&words));
    one_each!("ringbuf", Role::Peer, HeapRb::new(places).split(), push, pop)
}

fn heapless_spsc(places: usize) -> Queue {
    use heapless::spsc::{Consumer, Producer, Queue as Spsc};
    assert_eq!(places, RECORDS, "its capacity is part of its type");
    let make = || {
        // One place of a queue stays empty.
        let queue: &'static mut Spsc<[u64; 8], { RECORDS + 1 }> = Box::leak(Box::new(Spsc::new()));
        queue.split()
    };
    let push = |to: &mut Producer<'static, [u64; 8]>, record: &[u64; 8]| to.enqueue(*record).is_ok();
    let pop = |from: &mut Consumer<'static, [u64; 8]>| from.dequeue().map(|words| sum(&words));
    one_each!(HEAPLESS_SPSC, Role::Peer, make(), push, pop)
}

macro_rules! disruptor {
    ($make:ident, $build:ident) => {
        fn $make<const W: usize>(places: usize) -> Queue {
            use disruptor::Producer;
            let builder = disruptor::$build(2 * places, || [0_u64; W], disruptor::BusySpin);
            let (mut poller, builder) = builder.new_event_poller();
            let producers = disruptor!(@producers $build, builder);
            let drain = Box::new(move || {
                let Ok(mut events) = poller.take(TURN as u64) else { return 0 };
                let mut total = 0_u64;
                let mut taken = 0;
                for words in &mut events {
                    total = total.wrapping_add(sum(words));
                    taken += 1;
                }
                black_box(total);
                taken
            });
            Queue { name: "disruptor", role: Role::Peer, producers, drain }
        }
    };
    (@push $producer:ident) => {
        produce(move |record: &[u64; W]| $producer.try_publish(|place| *place = *record).is_ok())
    };
    (@producers build_single_producer, $builder:ident) => {{
        let mut one = $builder.build();
        [disruptor!(@push one), produce(|_: &[u64; W]| false)]
    }};
    (@producers build_multi_producer, $builder:ident) => {{
        let mut one = $builder.build();
        let mut two = one.clone();
        [disruptor!(@push one), disruptor!(@push two)]
    }};
}

disruptor!(disruptor_single, build_single_producer);
disruptor!(disruptor_multi, build_multi_producer);
