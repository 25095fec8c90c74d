//! A seeded schedule: modules come and go, providers in WSK change their answers, connections begin and end, and callbacks
//! storm, at every point of each other's lives.
//!
//! `EXT_SEEDS=FIRST..END` chooses the seeds. A failure names its own.

use super::ext_support::{
    Answer, Attachment, Chance, Heard, Inline, Interface, Module, Release, World, lock, settings,
};
use super::ping;
use crate::control_support::client::Client;
use crate::control_support::{OPERATOR, Told, eventually, sockets};
use ntsim::nmr;
use ntsim::sys::nt::{STATUS_ACCESS_DENIED, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_UNSUCCESSFUL};
use ntsim::wsk::extension::{self, Callback, Registration, Script};
use ntsim::wsk::{self, Category, memory};
use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weir::control::protocol::message::{Empty, Request};
use weir::trace::events::Provider::Builtin;

/// Seeds in a run without further ado.
const SEEDS: u64 = 6000;
/// Steps of a schedule.
const STEPS: usize = 24;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("EXT_SEEDS") else { return 0..SEEDS };
    let range = text
        .split_once("..")
        .and_then(|(first, end)| Some(first.trim().parse().ok()?..end.trim().parse().ok()?));
    range.unwrap_or_else(|| panic!("EXT_SEEDS={text}: FIRST..END is wanted"))
}

/// Each session's callbacks are numbered, one after the other, whoever makes them.
#[derive(Default)]
struct Turns {
    of: Mutex<HashMap<u64, Arc<Mutex<u64>>>>,
    /// Callbacks made by the rules.
    made: AtomicU64,
}

impl Turns {
    fn turn(&self, session: u64) -> Arc<Mutex<u64>> {
        Arc::clone(lock(&self.of).entry(session).or_default())
    }

    /// Makes the session's next callback.
    fn call(&self, session: u64, id: u64, call: impl FnOnce(u64) -> bool) -> bool {
        let turn = self.turn(session);
        let mut turn = lock(&turn);
        *turn += 1;
        let made = call(id | *turn << 32);
        self.made.fetch_add(u64::from(made), Ordering::Relaxed);
        made
    }

    fn by_module(&self, attachment: &Attachment, level: u8) -> bool {
        self.call(attachment.session(), attachment.id, |value| attachment.tell(level, value))
    }

    /// WSK's registrations carry no session: their order is by their socket.
    fn in_wsk(&self, interface: Interface, registration: &Registration, level: u8) -> bool {
        let socket = registration.socket().id();
        self.call(u64::MAX - socket, 0x4000_0000 | socket, |value| {
            // SAFETY: weir's context and table, while the socket is there.
            registration
                .call(1, level, |context, table| unsafe { interface.tell(context, table, value) })
                .is_some()
        })
    }
}

struct Schedule {
    chance: Chance,
    world: World,
    turns: Arc<Turns>,
    clients: Vec<Client>,
    peers: Vec<memory::Peer>,
    /// Whether an interface may be missing without the end of a session.
    forgiving: bool,
    /// A listening socket was lost, and with it whoever waited to be accepted.
    shaken: bool,
}

/// How an interface is wanted.
fn wanted(chance: &mut Chance, interface: Interface) -> String {
    let orders = [
        "wsk,nmr,builtin",
        "nmr,wsk,builtin",
        "nmr,builtin,wsk",
        "builtin,nmr,wsk",
        "wsk,nmr",
        "nmr,builtin",
        "nmr",
        "wsk",
    ];
    let requirement = *chance.of(&["optional", "optional", "optional", "required"]);
    let events = if chance.percent(20) { ";events=0x1" } else { "" };
    let order = chance.of(&orders);
    format!("{}={requirement}{events};providers={order}", interface.guid())
}

/// What WSK answers, socket by socket.
fn script(chance: &mut Chance, interface: Interface, turns: &Arc<Turns>) {
    let mut seed = chance.clone();
    let seed = seed.next();
    let turns = Arc::clone(turns);
    let calls = AtomicU64::new(0);
    extension::script_by(interface.npi(), move |_| {
        let mut chance = Chance::new(seed ^ calls.fetch_add(1, Ordering::Relaxed));
        let turns = Arc::clone(&turns);
        match chance.below(10) {
            0..=3 => Script::Supported(interface.offer()),
            4 => Script::InlineCallback(
                interface.offer(),
                Callback::new(move |registration| {
                    turns.call(
                        u64::MAX - registration.socket().id(),
                        0x4000_0000 | registration.socket().id(),
                        |value| {
                            // SAFETY: weir's context and table; its registration is under way.
                            unsafe {
                                interface.tell(
                                    registration.client_context(),
                                    registration.client_dispatch(),
                                    value,
                                );
                            }
                            true
                        },
                    );
                }),
            ),
            5 => Script::Supported(interface.wrong_offers()[0]),
            6 => Script::NullTables,
            7 => Script::Fail(STATUS_PENDING),
            8 => Script::Fail(STATUS_ACCESS_DENIED),
            _ => Script::NotSupported,
        }
    });
}

impl Schedule {
    fn start(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let sim = ntsim::boot(ntsim::Config {
            processors: 2,
            maximum_processors: 2,
            migrate_every: 5 * u32::from(chance.percent(50)),
            wsk: wsk::Config { seed, threads: 1 + chance.below(2), ..wsk::Config::default() },
            ..ntsim::Config::default()
        });
        nmr::set_manner(chance.manner());
        let turns = Arc::new(Turns::default());
        let mut entries = Vec::new();
        for interface in Interface::ALL {
            if chance.percent(70) {
                entries.push(wanted(&mut chance, interface));
            }
            if chance.percent(50) {
                script(&mut chance, interface, &turns);
            }
        }
        let forgiving = !entries.iter().any(|entry| entry.contains("required"));
        let mut schedule = Self {
            chance,
            world: World::prepare(sim),
            turns,
            clients: Vec::new(),
            peers: Vec::new(),
            forgiving,
            shaken: false,
        };
        for _ in 0..schedule.chance.below(3) {
            schedule.module_comes();
        }
        let mut settings = settings(&entries);
        if schedule.chance.percent(30) {
            settings.send_backlog_mark = 100;
            settings.receive_backlog_mark = 100;
        }
        schedule.world.run(&settings);
        if schedule.chance.percent(90) {
            let plane = schedule.world.plane();
            eventually("the listening socket is there, or refused", || {
                plane.told().iter().any(|told| matches!(told, Told::Listening(_) | Told::ListenFailed(_)))
            });
        }
        schedule
    }

    fn module_comes(&mut self) {
        if self.world.modules.len() == 5 {
            return;
        }
        let interface = *self.chance.of(&Interface::ALL);
        let seed = self.chance.next();
        let turns = Arc::clone(&self.turns);
        let calls = AtomicU64::new(0);
        let module = Module::answering(interface, move |_| {
            let mut chance = Chance::new(seed ^ calls.fetch_add(1, Ordering::Relaxed));
            let turns = Arc::clone(&turns);
            let level = chance.irql();
            let inline = Inline::new(move |attachment| {
                turns.by_module(attachment, level);
            });
            match chance.below(12) {
                0..=4 => Answer::Grant,
                5 | 6 => Answer::GrantAndCall(inline),
                7 => Answer::CallAndFail(inline, STATUS_UNSUCCESSFUL),
                8 => Answer::GrantWrongly(chance.below(2)),
                9 => Answer::NullTable,
                10 => Answer::Status(STATUS_NOT_SUPPORTED),
                _ => Answer::Status(STATUS_PENDING),
            }
        });
        let calls = AtomicU64::new(0);
        module.release(move |_| {
            let mut chance = Chance::new(!seed ^ calls.fetch_add(1, Ordering::Relaxed));
            match chance.below(10) {
                0..=4 => Release::Proper,
                5 => Release::Early,
                6 | 7 => Release::Later(Duration::from_micros(200), chance.irql()),
                8 => Release::Status(STATUS_UNSUCCESSFUL),
                _ => Release::Later(Duration::ZERO, chance.irql()),
            }
        });
        self.world.modules.push(module);
    }

    fn connect(&mut self) {
        let Some(address) = self.address() else { return };
        let Ok(peer) = memory::connect(address) else { return };
        if self.chance.percent(60) {
            // A required interface may end it at any point.
            match Client::connect(peer, &OPERATOR) {
                Ok(client) => self.clients.push(client),
                Err(error) => {
                    assert!(!self.forgiving || self.shaken || self.full(), "the handshake: {error}");
                }
            }
        } else {
            self.peers.push(peer);
        }
    }

    /// Whether the table of sessions may have been full.
    fn full(&self) -> bool {
        self.world.plane().control().counters().refused != 0
    }

    fn address(&self) -> Option<std::net::SocketAddr> {
        self.world.plane().told().into_iter().rev().find_map(|told| match told {
            Told::Listening(address) => Some(address),
            _ => None,
        })
    }

    /// Every hand on weir, some times, from two threads.
    fn storm(&mut self) {
        let attachments: Vec<_> = self.world.modules.iter().flat_map(Module::attachments).collect();
        let in_wsk: Vec<_> = Interface::ALL
            .into_iter()
            .flat_map(|interface| {
                extension::registrations(interface.npi()).into_iter().map(move |one| (interface, one))
            })
            .collect();
        let rounds = 1 + self.chance.below(6);
        let levels = [self.chance.irql(), self.chance.irql()];
        let leaves = (self.chance.percent(30) && !self.world.modules.is_empty())
            .then(|| self.world.modules.remove(self.chance.below(self.world.modules.len())));
        let turns = &self.turns;
        std::thread::scope(|scope| {
            for level in levels {
                let (attachments, in_wsk) = (&attachments, &in_wsk);
                scope.spawn(move || {
                    for _ in 0..rounds {
                        for attachment in attachments {
                            turns.by_module(attachment, level);
                        }
                        for (interface, registration) in in_wsk {
                            turns.in_wsk(*interface, registration, level);
                        }
                    }
                });
            }
            drop(leaves);
        });
    }

    fn step(&mut self) {
        match self.chance.below(16) {
            0..=3 => self.connect(),
            4 | 5 => self.module_comes(),
            6 | 7 if !self.world.modules.is_empty() => {
                let at = self.chance.below(self.world.modules.len());
                let module = self.world.modules.remove(at);
                module.begin_leaving(self.chance.irql());
                drop(module);
            }
            8 | 9 => self.storm(),
            10 => {
                let interface = *self.chance.of(&Interface::ALL);
                script(&mut self.chance, interface, &self.turns);
            }
            11 if !self.clients.is_empty() => {
                let at = self.chance.below(self.clients.len());
                let client = self.clients.remove(at);
                if self.chance.percent(50) { client.peer.reset() } else { client.peer.end() }
            }
            12 if !self.peers.is_empty() => {
                let at = self.chance.below(self.peers.len());
                let peer = self.peers.remove(at);
                if self.chance.percent(50) { peer.reset() } else { peer.end() }
            }
            13 => {
                if let Some(listening) = sockets(Category::Listen).first() {
                    self.shaken = true;
                    listening.fail();
                }
            }
            14 => nmr::set_manner(self.chance.manner()),
            _ => {
                // Sessions work all the while; a required interface may have ended them.
                for client in &mut self.clients {
                    if self.forgiving {
                        ping(client);
                    } else {
                        let frame = client.frame(Some(0xFFFF), &Request::Ping(Empty {}));
                        let _ = client.peer.send(&frame);
                    }
                }
            }
        }
    }

    fn end(mut self) {
        if self.forgiving {
            self.clients.iter_mut().for_each(ping);
        }
        let order = self.chance.below(3);
        if order == 0 {
            self.world.modules.clear();
        }
        // What was told until the stop goes on while weir stops.
        let attachments: Vec<_> = self.world.modules.iter().flat_map(Module::attachments).collect();
        let late_leaver = (order == 1).then(|| self.world.modules.pop()).flatten();
        let turns = Arc::clone(&self.turns);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for attachment in &attachments {
                    turns.by_module(attachment, 0);
                }
            });
            scope.spawn(move || drop(late_leaver));
            self.clients.clear();
            self.peers.clear();
        });
        let mut balance = String::new();
        let balanced = |balance: &mut String| {
            let made = self.turns.made.load(Ordering::Relaxed);
            let totals = self.world.plane().control().extensions();
            let is =
                |heard: &&Heard| matches!(heard, Heard::Callback { provider, .. } if *provider != Builtin);
            let told = self.world.record.heard().iter().filter(is).count() as u64;
            *balance = format!("{made} made, {told} told, {totals:?}");
            // What weir's own provider lost is among what was lost.
            let (known, all) = (told + totals.late, told + totals.late + totals.lost);
            totals.malformed == 0 && known <= made && made <= all
        };
        // Sockets that are just being registered call back meanwhile.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !balanced(&mut balance) {
            assert!(Instant::now() < deadline, "callbacks are neither told nor counted: {balance}");
            std::thread::yield_now();
        }
        let heard = self.world.end();
        let mut last: HashMap<u64, u64> = HashMap::new();
        for heard in &heard {
            if let Heard::Callback { session, value, provider, .. } = *heard
                && provider != Builtin
                // Listening sockets, one after the other, are all session 0.
                && session != 0
            {
                // WSK's are numbered by socket.
                let (by, number) = (value & 0xFFFF_FFFF, value >> 32);
                let line = if by & 0x4000_0000 == 0 { session } else { by };
                let before = last.insert(line, number);
                assert!(before < Some(number), "session {session}: {before:?} then {number}\n");
            }
        }
    }
}

#[test]
fn whatever_comes_and_goes_the_contract_holds() {
    let began = Instant::now();
    let seeds = seeds();
    for seed in seeds.clone() {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut schedule = Schedule::start(seed);
            for _ in 0..STEPS {
                schedule.step();
            }
            schedule.end();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed: run it alone by EXT_SEEDS={seed}..{}", seed + 1);
            resume_unwind(panic);
        }
    }
    eprintln!("seeds {seeds:?} in {:?}", began.elapsed());
}
