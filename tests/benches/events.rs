//! Events from a classification to a subscriber's socket, beside the ring alone, and where the time goes.
//!
//! `events_end_to_end` has every part: classify, the ring, the dispatcher, the subscriber's log, encoding, encryption,
//! loopback TCP, and the client, who decrypts and decodes on the same processors. `dispatcher_time`, `control_time`,
//! `sockets_time` and `subscriber_time` are the processor time of its threads in the same run, for each event that arrived
//! (the caller's own is left out: it waits by turning); the dispatcher's has its spinning before it parks.
//! `events_without_the_ring` emits on the caller's thread what the dispatcher would emit. `ring_alone` is a producer and a
//! dispatcher that counts. The other stages are each measured alone on one thread: of the dispatcher's are
//! `poll_and_decode` and `emit_followed`, of the control port's `encryption` and `socket_write`. Medians of rounds that are
//! interleaved.
//!
//! `event_off` and `event_below_level` are an event that nobody wants, without a session and with one of a lower level: the
//! caller has all of its fields at hand. Their peer is an event of the crate `tracing` with the same fields, without a
//! subscriber and with one of a lower level. Like a classification, they ask before they make the event;
//! `event_made_and_off` makes it first, as is done where events are rare. `event_recorded` is one that is wanted: what the
//! image makes of it for ETW, gathered in one place.

#[path = "../common/mod.rs"]
mod common;
#[path = "control/machine.rs"]
mod machine;
#[path = "events/off.rs"]
mod off;

use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Peer, TCP};
use machine::{Machine, SUBSCRIBER, Subscribers, emit, float, handshake, keys};
use ntsim::sys::nt::DISPATCH_LEVEL;
use weir::control::protocol::noise::TAG;
use weir::policy::{Action, Direction, Family};
use weir::ring::{
    Entry, Handler, Kinds, LifeCycle, Line, NoObject, OnProcessor, Record, Ring, Rings, Supply, Verdict,
    Waker,
};
use weir::trace::{Keywords, Level, sink};

const ROUNDS: usize = 9;
/// How long a rate is measured in a round.
const SPAN: Duration = Duration::from_millis(400);
/// Events in a stage's sample; the ring holds them all, and so does a subscriber's log.
const EVENTS: u64 = 500;
/// Samples of a stage in a round.
const SAMPLES: usize = 20;
/// Events on their way to the subscriber, at most.
const ON_THE_WAY: u64 = 1_000;
/// Bytes of a full message of events, and of an event in it.
const MESSAGE: usize = 16_000;
const EVENT: usize = 55;

struct Alone;

impl Supply for Alone {
    type Object<'a> = NoObject;
    type Lines = &'static mut [Line];
    type Ring = &'static mut Ring<Self>;
    type Table = &'static mut [Entry<Self>];
    type Waker = Asleep;

    fn now() -> u64 {
        0
    }
}

#[derive(Default)]
struct Asleep(AtomicBool);

impl Waker for Asleep {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn park(&self) {
        while !self.0.swap(false, Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

struct At;

// SAFETY: one thread at a time pushes to each of the rings below.
unsafe impl OnProcessor for At {
    fn processor(&self) -> u32 {
        0
    }
}

/// Takes the records: counts them, or decodes them as well.
struct Count {
    decodes: bool,
    records: u64,
}

impl Handler<Alone> for Count {
    fn record(&mut self, record: &Record<'_, Alone>) {
        if self.decodes {
            black_box(Verdict::decode(record.detail, record.payload));
        }
        self.records += 1;
    }

    fn life_cycle(&mut self, object: NoObject, _event: LifeCycle, _sequence: u32) {
        match object {}
    }
}

fn rings() -> &'static Rings<Alone> {
    let lines: Vec<_> = (0..4096).map(|_| Line::new()).collect();
    let Ok(ring) = Ring::new(Vec::leak(lines), Kinds::NONE) else { unreachable!("a power of two") };
    let rings = Box::leak(Box::new(Rings::new(Vec::leak(vec![Entry::new()]), Asleep::default())));
    assert!(rings.attach(0, Box::leak(Box::new(ring))).is_ok());
    rings
}

fn verdict() -> Verdict {
    black_box(Verdict {
        action: Action::Block,
        direction: Direction::Out,
        family: Family::V4,
        reauthorized: false,
        protocol: 6,
        rule: 7,
        generation: 1,
        local: [1; 16],
        remote: [2; 16],
        local_port: 50_000,
        remote_port: 443,
    })
}

/// Nanoseconds for each of so many events.
fn each(since: Instant, events: u64) -> f64 {
    since.elapsed().as_secs_f64() * 1e9 / float(events)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn samples(mut sample: impl FnMut() -> f64) -> f64 {
    median((0..SAMPLES).map(|_| sample()).collect())
}

/// The push, and the dispatcher's turn over what was pushed.
fn ring_stages(rings: &Rings<Alone>) -> [f64; 2] {
    let Ok(mut dispatcher) = rings.dispatcher() else { unreachable!("the only one") };
    let mut polls = Vec::new();
    let push = samples(|| {
        let begun = Instant::now();
        for _ in 0..EVENTS {
            assert!(rings.push(&At, &verdict(), None));
        }
        let push = each(begun, EVENTS);
        let mut count = Count { decodes: true, records: 0 };
        let begun = Instant::now();
        while dispatcher.poll(&mut count) {}
        polls.push(each(begun, EVENTS));
        assert_eq!(count.records, EVENTS);
        push
    });
    [push, median(polls)]
}

/// Records a second from one producer to a dispatcher that only counts.
fn ring_alone() -> f64 {
    let rings = rings();
    let dispatcher = thread::spawn(move || {
        let Ok(mut dispatcher) = rings.dispatcher() else { unreachable!("the only one") };
        dispatcher.run(&mut Count { decodes: false, records: 0 }).records
    });
    let begun = Instant::now();
    while begun.elapsed() < SPAN {
        for _ in 0..EVENTS {
            // A full ring's dispatcher wants the processor.
            if !rings.push(&At, &verdict(), None) {
                thread::yield_now();
            }
        }
    }
    rings.stop();
    float(dispatcher.join().unwrap()) / begun.elapsed().as_secs_f64()
}

/// Events a second that reach the subscriber, and how many did not, while `call` makes them.
fn to_subscriber(subscribers: &Subscribers, mut call: impl FnMut()) -> [f64; 2] {
    let [received_before, lost_before, _] = subscribers.counts();
    let (begun, mut made) = (Instant::now(), 0);
    let since = || {
        let [received, lost, _] = subscribers.counts();
        (received - received_before, lost - lost_before)
    };
    while begun.elapsed() < SPAN {
        let (received, lost) = since();
        if made > received + lost + ON_THE_WAY {
            thread::yield_now();
            continue;
        }
        for _ in 0..100 {
            call();
        }
        made += 100;
    }
    let (received, lost) = since();
    let rate = float(received) / begun.elapsed().as_secs_f64();
    // What is under way is not the next measurement's.
    thread::sleep(Duration::from_millis(100));
    [rate, float(lost)]
}

/// An event's emission, encoding into the subscriber's log with it; its log has room for all of a sample.
fn emission() -> f64 {
    samples(|| {
        let begun = Instant::now();
        for _ in 0..EVENTS {
            emit();
        }
        let emission = each(begun, EVENTS);
        thread::sleep(Duration::from_millis(5));
        emission
    })
}

fn encryption() -> f64 {
    let (driver, own) = (keys(2), keys(1));
    let (mut transport, _) = handshake(&own, &driver, driver.public());
    let mut buffer = vec![0; MESSAGE + TAG];
    samples(|| {
        let begun = Instant::now();
        black_box(transport.seal(&mut buffer, MESSAGE).unwrap());
        each(begun, (MESSAGE / EVENT) as u64)
    })
}

/// A message's write to a loopback socket whose other end is read.
fn socket_write(stream: &mut TcpStream) -> f64 {
    let message = vec![0; MESSAGE];
    samples(|| {
        let begun = Instant::now();
        stream.write_all(&message).unwrap();
        each(begun, (MESSAGE / EVENT) as u64)
    })
}

/// A connected socket, with a thread that reads the other end.
fn socket() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut other, _) = listener.accept().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; MESSAGE];
        while other.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    stream
}

/// The nanoseconds that a thread has had a processor, by its folder in `/proc`.
fn ran(thread: &Path) -> f64 {
    // One that has just ended ran no longer.
    let Ok(statistics) = fs::read_to_string(thread.join("schedstat")) else { return 0.0 };
    statistics.split_whitespace().next().unwrap().parse().unwrap()
}

/// The folder of the thread that turns records into events.
fn dispatcher(mut call: impl FnMut()) -> PathBuf {
    let found = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&found);
    let listens = sink::install(Level::Information, Keywords::VERDICT, move |_| {
        let here = fs::read_link("/proc/thread-self").unwrap();
        *heard.lock().unwrap() = Some(Path::new("/proc").join(here));
    });
    call();
    let thread = loop {
        if let Some(thread) = found.lock().unwrap().take() {
            break thread;
        }
        thread::yield_now();
    };
    drop(listens);
    thread
}

/// The time of the dispatcher, the driver's other threads, the simulated sockets and the subscriber.
fn time(dispatcher: &Path) -> [f64; 4] {
    let mut time = [0.0; 4];
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let thread = thread.unwrap().path();
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let of = if thread.file_name() == dispatcher.file_name() {
            0
        } else if name.starts_with("driver") {
            1
        } else if name.starts_with("wsk") {
            2
        } else if name.trim_end() == SUBSCRIBER {
            3
        } else {
            continue;
        };
        time[of] += ran(&thread);
    }
    time
}

/// What is measured, with its unit.
const ROWS: [(&str, &str); 15] = [
    ("events_end_to_end", "events/s"),
    ("events_end_to_end_lost", "events"),
    ("dispatcher_time", "ns/event"),
    ("control_time", "ns/event"),
    ("sockets_time", "ns/event"),
    ("subscriber_time", "ns/event"),
    ("events_without_the_ring", "events/s"),
    ("events_without_the_ring_lost", "events"),
    ("ring_alone", "records/s"),
    ("push", "ns/event"),
    ("poll_and_decode", "ns/event"),
    ("emit_unheard", "ns/event"),
    ("emit_followed", "ns/event"),
    ("encryption", "ns/event"),
    ("socket_write", "ns/event"),
];

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    // Before there is a machine: nobody listens, and nothing else runs.
    off::measure(json);
    let machine = Machine::start();
    let blocked = Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23);
    let mut request = blocked.auth_connect();
    request.irql = DISPATCH_LEVEL;
    let own = rings();
    let mut stream = socket();
    let mut figures: [Vec<f64>; ROWS.len()] = Default::default();
    let dispatcher = dispatcher(|| {
        black_box(request.run(Some(&blocked.flow)));
    });
    for _ in 0..ROUNDS {
        let unheard = emission();
        let subscribers = Subscribers::start(&machine, 1);
        let (before, [received_before, ..]) = (time(&dispatcher), subscribers.counts());
        let [through, through_lost] = to_subscriber(&subscribers, || {
            black_box(request.run(Some(&blocked.flow)));
        });
        let (after, [received, ..]) = (time(&dispatcher), subscribers.counts());
        let time: [f64; 4] =
            std::array::from_fn(|of| (after[of] - before[of]) / float(received - received_before));
        let [beside, beside_lost] = to_subscriber(&subscribers, emit);
        let followed = emission();
        subscribers.end();
        let [push, poll] = ring_stages(own);
        let round = [
            through,
            through_lost,
            time[0],
            time[1],
            time[2],
            time[3],
            beside,
            beside_lost,
            ring_alone(),
            push,
            poll,
            unheard,
            followed,
            encryption(),
            socket_write(&mut stream),
        ];
        for (all, figure) in figures.iter_mut().zip(round) {
            all.push(figure);
        }
    }
    for ((bench, unit), figures) in ROWS.iter().zip(figures) {
        let ours = median(figures);
        if json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{ours:.1},\"unit\":{unit:?},\"peers\":{{}},\"ratio_to_best\":null}}"
            );
        } else if unit.ends_with("/s") {
            println!("{bench:<30} {ours:>12.0} {unit:<10} {:>9.1} ns each", 1e9 / ours);
        } else {
            println!("{bench:<30} {ours:>12.1} {unit}");
        }
    }
    machine.driver.unload();
    let end = machine.sim.report();
    assert!(end.is_clean(), "{end}");
}
