//! The control plane over loopback TCP, against the driver in the simulated kernel: handshakes, requests, events to
//! subscribers, what a session holds of the pool, and what subscribers who never read cost a classification.
//!
//! The clients are in the same process, on the same processors as the driver: both sides' work is in every rate. `crypto`
//! is what the encryption alone takes, on one processor, both sides of it, of the same number of messages of the same
//! size, in the same run: no program can be faster by much. Figures are of one run; rates are over [`SPAN`].

#[path = "../common/mod.rs"]
mod common;

#[path = "control/machine.rs"]
mod machine;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Peer, TCP};
use machine::{Machine, Subscribers, connect, emit, float, handshake, keys, per_second, subscribe};
use ntsim::sys::nt::DISPATCH_LEVEL;
use weir::control::protocol::message::{Empty, Request};
use weir::control::protocol::noise::TAG;

/// How long a rate is measured.
const SPAN: Duration = Duration::from_secs(2);
/// Within the burst that one address may open at once.
const HANDSHAKES: u32 = 800;
const SESSIONS: usize = 100;
/// Events on their way to a subscriber, at most: a log of the driver's holds some more.
const ON_THE_WAY: u64 = 1_000;
/// Events a second while requests are timed.
const FLOW: u64 = 100_000;
/// So many messages of `length` bytes a second can be sealed and opened, on one thread.
fn sealed_and_opened(length: usize) -> f64 {
    let (driver, own) = (keys(2), keys(1));
    let (mut one, mut other) = handshake(&own, &driver, driver.public());
    let mut buffer = vec![0; length + TAG];
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < SPAN / 4 {
        for _ in 0..100 {
            let size = one.seal(&mut buffer, length).unwrap();
            black_box(other.open(&mut buffer[..size]).unwrap());
            count += 1;
        }
    }
    per_second(count, begun)
}

fn handshakes(machine: &Machine, report: &mut Report) {
    let (driver, own) = (keys(2), keys(1));
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < SPAN / 2 {
        black_box(handshake(&own, &driver, driver.public()));
        count += 1;
    }
    let crypto = per_second(count, begun);
    let address = machine.address;
    let begun = Instant::now();
    let callers: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..HANDSHAKES / 2 {
                    drop(connect(address));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    report.rate("handshakes", per_second(HANDSHAKES.into(), begun), "handshakes/s", crypto);
    // So many may connect again.
    thread::sleep(Duration::from_millis(1100));
}

fn requests(machine: &Machine, report: &mut Report) {
    // A ping has 7 bytes, its reply some 20.
    let crypto = 1.0 / (1.0 / sealed_and_opened(7) + 1.0 / sealed_and_opened(20));
    let mut client = machine.connect();
    let ping = Request::Ping(Empty {});
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        client.ask(&ping).unwrap();
        count += 1;
    }
    report.rate("requests_one_by_one", per_second(count, begun), "requests/s", crypto);
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        let ids: Vec<_> = (0..64).map(|_| client.send(&ping).unwrap()).collect();
        for id in ids {
            client.reply(id).unwrap();
            count += 1;
        }
    }
    report.rate("requests_64_at_once", per_second(count, begun), "requests/s", crypto);
}

/// Events as fast as the subscribers take them.
fn events(machine: &Machine, report: &mut Report, count: usize) {
    let subscribers = Subscribers::start(machine, count);
    let each = count as u64;
    let (begun, mut emitted) = (Instant::now(), 0_u64);
    while begun.elapsed() < SPAN {
        let [received, lost, _] = subscribers.counts();
        if emitted * each > received + lost + ON_THE_WAY * each {
            thread::yield_now();
            continue;
        }
        for _ in 0..100 {
            emit();
        }
        emitted += 100;
    }
    let [received, lost, messages] = subscribers.counts();
    let rate = per_second(received, begun);
    subscribers.end();
    // As many events in each message as there were, each of so many bytes.
    let in_one = received / messages.max(1);
    let length = usize::try_from(in_one * 55 + 20).unwrap().min(16_000);
    let crypto = sealed_and_opened(length) * float(in_one);
    report.rate(&format!("events_to_{count}"), rate, "events/s", crypto);
    report.plain(&format!("events_lost_of_{count}"), float(lost), "events");
    report.plain(&format!("events_a_message_to_{count}"), float(in_one), "events");
}

/// How long requests take while events flow to another.
fn requests_beside_events(machine: &Machine, report: &mut Report) {
    let subscribers = Subscribers::start(machine, 1);
    let over = Arc::new(AtomicBool::new(false));
    let timing = {
        let (over, mut client) = (Arc::clone(&over), machine.connect());
        thread::spawn(move || {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.ask(&Request::Status(Empty {})).unwrap();
                took.push(begun.elapsed().as_secs_f64() * 1e6);
                thread::sleep(Duration::from_micros(500));
            }
            took
        })
    };
    let (begun, mut emitted) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        let due = u64::try_from(begun.elapsed().as_micros()).unwrap() * FLOW / 1_000_000;
        while emitted < due {
            emit();
            emitted += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let [received, lost, _] = subscribers.counts();
    let rate = per_second(received, begun);
    over.store(true, Ordering::Relaxed);
    let mut took = timing.join().unwrap();
    subscribers.end();
    took.sort_by(f64::total_cmp);
    report.plain("events_beside_requests", rate, "events/s");
    report.plain("events_lost_beside_requests", float(lost), "events");
    report.plain("request_p50", took[took.len() / 2], "us");
    report.plain("request_p99", took[took.len() * 99 / 100], "us");
}

fn memory(machine: &Machine, report: &mut Report) {
    let before = machine.pool();
    let mut clients = machine.sessions(SESSIONS);
    let there = machine.pool();
    let followers: Vec<_> = clients.iter_mut().map(|client| subscribe(client, u32::MAX)).collect();
    let following = machine.pool();
    // Nobody reads: what lies in the driver is as much as it lets lie there.
    for _ in 0..100_000 {
        emit();
    }
    let stalled = machine.pool();
    drop((followers, clients));
    let each = |bytes: usize| float(bytes as u64) / float(SESSIONS as u64) / 1024.0;
    report.plain("session", each(there - before), "KiB of pool");
    report.plain("session_that_follows", each(following - before), "KiB of pool");
    report.plain("session_that_stalls", each(stalled - before), "KiB of pool");
    thread::sleep(Duration::from_secs(1));
    report.plain(
        "left_by_100_sessions",
        float(machine.pool().saturating_sub(before) as u64) / 1024.0,
        "KiB of pool",
    );
}

/// Classifications in a round; the ring holds them all.
const CALLS: u32 = 3_000;
const ROUNDS: usize = 40;

/// What a blocked connection's classification takes: the median of rounds, in nanoseconds.
fn classify(call: &mut impl FnMut()) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..CALLS {
                call();
            }
            let took = begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS);
            // The dispatcher delivers what the round has left.
            thread::sleep(Duration::from_millis(15));
            took
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn classify_beside_subscribers(machine: &Machine, report: &mut Report) {
    let blocked = Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23);
    let mut request = blocked.auth_connect();
    request.irql = DISPATCH_LEVEL;
    let mut call = || {
        black_box(request.run(Some(&blocked.flow)));
    };
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..3 {
        figures[0].push(classify(&mut call));
        let reading = Subscribers::start(machine, 1);
        figures[1].push(classify(&mut call));
        reading.end();
        let mut clients = machine.sessions(SESSIONS);
        let stalled: Vec<_> = clients.iter_mut().map(|client| subscribe(client, u32::MAX)).collect();
        figures[2].push(classify(&mut call));
        drop((stalled, clients));
        thread::sleep(Duration::from_millis(500));
    }
    let [alone, read, stalled] = figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[1]
    });
    report.plain("classify_unheard", alone, "ns");
    report.plain("classify_one_reader", read, "ns");
    report.plain("classify_100_stalled", stalled, "ns");
}

struct Report {
    json: bool,
}

impl Report {
    fn rate(&mut self, bench: &str, ours: f64, unit: &str, crypto: f64) {
        let ratio = ours / crypto;
        if self.json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{ours:.0},\"unit\":{unit:?},\"peers\":{{\"crypto\":{crypto:.0}}},\
                 \"ratio_to_best\":{ratio:.3}}}"
            );
        } else {
            println!("{bench:<28} {ours:>12.0} {unit:<14} crypto {crypto:>12.0}, {ratio:.2} of it");
        }
    }

    fn plain(&mut self, bench: &str, ours: f64, unit: &str) {
        if self.json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{ours:.1},\"unit\":{unit:?},\"peers\":{{}},\"ratio_to_best\":null}}"
            );
        } else {
            println!("{bench:<28} {ours:>12.1} {unit}");
        }
    }
}

/// What is measured, by name: without any on the command line, all of it.
type Part = (&'static str, fn(&Machine, &mut Report));

const PARTS: [Part; 8] = [
    ("memory", memory),
    ("handshakes", handshakes),
    ("requests", requests),
    ("requests_beside_events", requests_beside_events),
    ("events_to_1", |machine, report| events(machine, report, 1)),
    ("events_to_10", |machine, report| events(machine, report, 10)),
    ("events_to_100", |machine, report| events(machine, report, 100)),
    ("classify", classify_beside_subscribers),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut report = Report { json: arguments.iter().any(|argument| argument == "--json") };
    let named: Vec<_> = PARTS.iter().filter(|(name, _)| arguments.iter().any(|it| it == name)).collect();
    let parts = if named.is_empty() { PARTS.iter().collect() } else { named };
    let machine = Machine::start();
    for (_, part) in parts {
        part(&machine, &mut report);
    }
    machine.driver.unload();
    let end = machine.sim.report();
    assert!(end.is_clean(), "{end}");
}
