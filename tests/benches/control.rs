//! The control plane over loopback TCP, against the driver in the simulated kernel: handshakes, requests, events to
//! subscribers, what a session holds of the pool, and what subscribers who never read cost a classification.
//!
//! The clients are in the same process, on the same processors as the driver: both sides' work is in every rate. `crypto`
//! is what the encryption alone takes, on one processor, both sides of it, of the same number of messages of the same
//! size, in the same run: no program can be faster by much. Figures are of one run; rates are over [`SPAN`].

#[path = "../common/mod.rs"]
mod common;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{PARAMETERS, Peer, TCP};
use ntsim::registry::Value;
use ntsim::security::Descriptor;
use ntsim::sys::nt::DISPATCH_LEVEL;
use weir::control::protocol::message::{Answer, Empty, ListWriter, Request, Subscribe};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, PublicKey, Responder, SECOND, TAG, Transport};
use weir::policy::{Action, Direction};
use weir::trace::{self, Event, Keywords, Level, sink};
use weir_cli::client::{Client, Follower};

/// How long a rate is measured.
const SPAN: Duration = Duration::from_secs(2);
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Within the burst that one address may open at once.
const HANDSHAKES: u32 = 800;
const SESSIONS: usize = 100;
/// Events on their way to a subscriber, at most: a log of the driver's holds some more.
const ON_THE_WAY: u64 = 1_000;
/// Events a second while requests are timed.
const FLOW: u64 = 100_000;
/// The event that subscribers follow.
const VERDICT: u16 = 40;

fn keys(private: u8) -> Keys {
    Keys::new(&[private; 32])
}

/// The machine, with the driver that listens.
struct Machine {
    sim: ntsim::Sim,
    driver: ntsim::Driver,
    address: SocketAddr,
}

impl Machine {
    fn start() -> Self {
        let sim = ntsim::boot(ntsim::Config {
            processors: 2,
            quarantine: 0,
            wsk: ntsim::wsk::Config::tcp(),
            ..ntsim::Config::default()
        });
        let set = |name, value| sim.registry().set(PARAMETERS, name, value);
        let policy = "version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"no-telnet\"\naction = \"block\"\n\
                      protocol = \"tcp\"\nremote_port = 23\n";
        let image = weir_cli::policy::compile(policy).expect("the policy compiles").image;
        set("PolicyImage", Value::Binary(image));
        set("RingRecords", Value::Dword(4096));
        set("ControlListen", Value::Sz("127.0.0.1:0".into()));
        set("ControlPeers", Value::MultiSz(vec![format!("bench=operator:{}", keys(1).public())]));
        set("ControlMaxSessions", Value::Dword(1024));
        set("ControlMaxUnauthenticated", Value::Dword(1024));
        set("ControlConnectBurst", Value::Dword(1024));
        set("ControlConnectRate", Value::Dword(60_000));
        set("ControlMessageRate", Value::Dword(0));
        let key = format!("{PARAMETERS}\\Key");
        sim.registry().set(&key, "PrivateKey", Value::Binary(vec![2; 32]));
        assert!(sim.registry().set_security(&key, Descriptor::closed().bytes()));
        let found = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&found);
        let listens = sink::install(Level::Information, Keywords::CONTROL, move |event| {
            if let Event::ControlListening { address, port } = *event {
                *heard.lock().unwrap() = Some(SocketAddr::new(address, port));
            }
        });
        let driver = sim.load_driver("weir", weir::DriverEntry).expect("the driver starts");
        let address = loop {
            if let Some(address) = *found.lock().unwrap() {
                break address;
            }
            thread::sleep(Duration::from_millis(1));
        };
        drop(listens);
        Self { sim, driver, address }
    }

    fn connect(&self) -> Client {
        connect(self.address)
    }

    /// Sessions that are there, and say so.
    fn sessions(&self) -> Vec<Client> {
        let mut clients: Vec<_> = (0..SESSIONS).map(|_| self.connect()).collect();
        for client in &mut clients {
            client.hello().unwrap();
        }
        clients
    }

    fn pool(&self) -> usize {
        // What was freed on other threads is freed.
        thread::sleep(Duration::from_millis(300));
        self.sim.pool_usage().bytes
    }
}

fn connect(address: SocketAddr) -> Client {
    Client::connect(&address.to_string(), &keys(1), keys(2).public(), PATIENCE).unwrap()
}

fn subscribe(client: &mut Client, credit: u32) -> Follower {
    let mut place = [0; 8];
    let mut ids = ListWriter::new(&mut place);
    ids.push(&VERDICT).unwrap();
    let ids = Some(ids.finish());
    let request = Subscribe { credit, level: None, keywords: None, ids, snapshot: None };
    Follower::start(client, request).unwrap()
}

/// An event of the kind that there are most of.
fn emit() {
    trace::emit(&Event::ConnectionVerdict {
        connection: 123_456,
        verdict: Action::Allow,
        rule: 7,
        generation: 1,
        direction: Direction::Out,
        protocol: 6,
        local: [192, 0, 2, 1].into(),
        local_port: 50_000,
        remote: [198, 51, 100, 7].into(),
        remote_port: 443,
        reauthorized: false,
    });
}

#[expect(clippy::cast_precision_loss, reason = "figures")]
fn float(number: u64) -> f64 {
    number as f64
}

fn per_second(count: u64, since: Instant) -> f64 {
    float(count) / since.elapsed().as_secs_f64()
}

/// Both sides of a handshake, on one thread.
fn handshake(own: &Keys, driver: &Keys, public: &PublicKey) -> (Transport, Transport) {
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let initiator = Initiator::start(own, public, &[3; 32], &mut first).unwrap();
    let responder = Responder::read(driver, &mut first).unwrap();
    let answering = responder.accept(&[4; 32], &mut second).unwrap();
    (initiator.finish(&mut second).unwrap(), answering)
}

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

/// Those who follow events, each on a thread of its own.
struct Subscribers {
    received: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    messages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Subscribers {
    fn start(machine: &Machine, count: usize) -> Self {
        let [received, lost, messages] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let mut client = machine.connect();
                let mut follower = subscribe(&mut client, 1 << 20);
                let (received, lost) = (Arc::clone(&received), Arc::clone(&lost));
                let (messages, stop) = (Arc::clone(&messages), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let until = Some(Instant::now() + Duration::from_millis(50));
                        let Some(message) = follower.next(&mut client, until).unwrap() else { continue };
                        let Ok(Answer::Events(events)) = message.answer() else { continue };
                        received.fetch_add(events.events.len() as u64, Ordering::Relaxed);
                        messages.fetch_add(1, Ordering::Relaxed);
                        let gone = events.lost.unwrap_or_default().iter().map(|loss| loss.count);
                        lost.fetch_add(gone.sum(), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { received, lost, messages, stop, threads }
    }

    fn counts(&self) -> [u64; 3] {
        [&self.received, &self.lost, &self.messages].map(|count| count.load(Ordering::Relaxed))
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
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
    let mut clients = machine.sessions();
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
        let mut clients = machine.sessions();
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
