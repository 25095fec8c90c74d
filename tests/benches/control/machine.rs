//! The driver in the simulated kernel with its control port open on loopback, and clients of it: what benchmarks of it share.

#![allow(dead_code, reason = "each benchmark uses a part")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::common::PARAMETERS;
use ntsim::registry::Value;
use ntsim::security::Descriptor;
use weir::control::protocol::message::{Answer, ListWriter, Subscribe};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, PublicKey, Responder, SECOND, Transport};
use weir::policy::{Action, Direction};
use weir::trace::{self, Event, Keywords, Level, sink};
use weir_cli::client::{Client, Follower};

/// How long a client waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The event that subscribers follow.
pub const VERDICT: u16 = 40;

/// What a subscriber's thread is called.
pub const SUBSCRIBER: &str = "subscriber";

pub fn keys(private: u8) -> Keys {
    Keys::new(&[private; 32])
}

/// The machine, with the driver that listens.
pub struct Machine {
    pub sim: ntsim::Sim,
    pub driver: ntsim::Driver,
    pub address: SocketAddr,
}

impl Machine {
    pub fn start() -> Self {
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

    pub fn connect(&self) -> Client {
        connect(self.address)
    }

    /// So many sessions that are there, and say so.
    pub fn sessions(&self, count: usize) -> Vec<Client> {
        let mut clients: Vec<_> = (0..count).map(|_| self.connect()).collect();
        for client in &mut clients {
            client.hello().unwrap();
        }
        clients
    }

    pub fn pool(&self) -> usize {
        // What was freed on other threads is freed.
        thread::sleep(Duration::from_millis(300));
        self.sim.pool_usage().bytes
    }
}

pub fn connect(address: SocketAddr) -> Client {
    Client::connect(&address.to_string(), &keys(1), keys(2).public(), PATIENCE).unwrap()
}

pub fn subscribe(client: &mut Client, credit: u32) -> Follower {
    let mut place = [0; 8];
    let mut ids = ListWriter::new(&mut place);
    ids.push(&VERDICT).unwrap();
    let ids = Some(ids.finish());
    let request = Subscribe { credit, level: None, keywords: None, ids, snapshot: None };
    Follower::start(client, request).unwrap()
}

/// An event of the kind that there are most of.
pub fn emit() {
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
pub fn float(number: u64) -> f64 {
    number as f64
}

pub fn per_second(count: u64, since: Instant) -> f64 {
    float(count) / since.elapsed().as_secs_f64()
}

/// Both sides of a handshake, on one thread.
pub fn handshake(own: &Keys, driver: &Keys, public: &PublicKey) -> (Transport, Transport) {
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let initiator = Initiator::start(own, public, &[3; 32], &mut first).unwrap();
    let responder = Responder::read(driver, &mut first).unwrap();
    let answering = responder.accept(&[4; 32], &mut second).unwrap();
    (initiator.finish(&mut second).unwrap(), answering)
}

/// Those who follow events, each on a thread of its own.
pub struct Subscribers {
    received: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    messages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Subscribers {
    pub fn start(machine: &Machine, count: usize) -> Self {
        let [received, lost, messages] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let mut client = machine.connect();
                let mut follower = subscribe(&mut client, 1 << 20);
                let (received, lost) = (Arc::clone(&received), Arc::clone(&lost));
                let (messages, stop) = (Arc::clone(&messages), Arc::clone(&stop));
                let read = move || {
                    while !stop.load(Ordering::Relaxed) {
                        let until = Some(Instant::now() + Duration::from_millis(50));
                        let Some(message) = follower.next(&mut client, until).unwrap() else { continue };
                        let Ok(Answer::Events(events)) = message.answer() else { continue };
                        received.fetch_add(events.events.len() as u64, Ordering::Relaxed);
                        messages.fetch_add(1, Ordering::Relaxed);
                        let gone = events.lost.unwrap_or_default().iter().map(|loss| loss.count);
                        lost.fetch_add(gone.sum(), Ordering::Relaxed);
                    }
                };
                thread::Builder::new().name(SUBSCRIBER.into()).spawn(read).unwrap()
            })
            .collect();
        Self { received, lost, messages, stop, threads }
    }

    pub fn counts(&self) -> [u64; 3] {
        [&self.received, &self.lost, &self.messages].map(|count| count.load(Ordering::Relaxed))
    }

    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
