//! Callbacks from every processor at once.

use super::ext_support::{Attachment, Heard, Interface, Module, World};
use super::{detached, ping, registered};
use crate::control_support::{self, eventually};
use ntsim::sys::nt::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use ntsim::wsk::extension::{self, Registration, Script};
use ntsim::wsk::{self, Category};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir::trace::events::Provider::{self, Builtin, Nmr, Wsk};

/// The other side of a registration, whoever provides it.
enum Hand {
    Module(Arc<Attachment>),
    Wsk(Interface, Registration, u64),
}

impl Hand {
    fn session(&self) -> u64 {
        match self {
            Self::Module(attachment) => attachment.session(),
            Self::Wsk(.., session) => *session,
        }
    }

    fn id(&self) -> u64 {
        match self {
            Self::Module(attachment) => attachment.id,
            Self::Wsk(_, registration, _) => 0x8000_0000 | registration.socket().id(),
        }
    }

    fn tell(&self, level: u8, number: u64) -> bool {
        let value = self.id() | number << 32;
        match self {
            Self::Module(attachment) => attachment.tell(level, value),
            Self::Wsk(interface, registration, _) => registration
                // SAFETY: weir's context and table, while the socket is there.
                .call(1, level, |context, table| unsafe { interface.tell(context, table, value) })
                .is_some(),
        }
    }
}

/// A machine where WSK provides the one interface, and a module the other; four sessions, and every hand on them.
fn mixed(seed: u64) -> (World, Vec<control_support::client::Client>, Vec<Hand>) {
    let sim = ntsim::boot(ntsim::Config {
        migrate_every: 3,
        wsk: wsk::Config { seed, ..wsk::Config::default() },
        ..ntsim::Config::default()
    });
    let (in_wsk, in_nmr) = if seed.is_multiple_of(2) {
        (Interface::Connection, Interface::Label)
    } else {
        (Interface::Label, Interface::Connection)
    };
    extension::script(in_wsk.npi(), Script::Supported(in_wsk.offer()));
    let world = World::start_on(sim, &[], || vec![Module::register(in_nmr), Module::register(in_nmr)]);
    let mut hands = Vec::new();
    let mut clients = Vec::new();
    for session in 1..=4 {
        let mut client = world.plane().client();
        ping(&mut client);
        let known = |hand: &Hand| matches!(hand, Hand::Wsk(..));
        let wsk_known = hands.iter().filter(|hand| known(hand)).count();
        let all = extension::registrations(in_wsk.npi()).into_iter();
        let mut connections = all.filter(|one| one.socket().category() == Category::Connection);
        hands.push(Hand::Wsk(in_wsk, connections.nth(wsk_known).unwrap(), session));
        clients.push(client);
    }
    eventually("the modules have all", || world.modules.iter().all(|module| module.counts().granted == 5));
    let attachments = world.modules.iter().flat_map(Module::attachments);
    hands.extend(attachments.filter(|attachment| attachment.session() != 0).map(Hand::Module));
    assert_eq!(hands.len(), 12);
    (world, clients, hands)
}

fn told(heard: &[Heard], session: u64) -> Vec<(Provider, u64)> {
    let of = |heard: &Heard| match *heard {
        Heard::Callback { session: of, value, provider, .. } if of == session && provider != Builtin => {
            Some((provider, value))
        }
        _ => None,
    };
    heard.iter().filter_map(of).collect()
}

#[test]
fn what_one_connection_is_told_of_several_interfaces_keeps_its_order() {
    for seed in 0..4 {
        let (world, clients, hands) = mixed(seed);
        let turns: HashMap<u64, Mutex<u64>> = (1..=4).map(|session| (session, Mutex::new(0))).collect();
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (hands, turns) = (&hands, &turns);
                scope.spawn(move || {
                    for round in 0..60 {
                        let hand = &hands[(thread * 7 + round) % hands.len()];
                        let level = if (thread + round) % 3 == 0 { PASSIVE_LEVEL } else { DISPATCH_LEVEL };
                        let mut turn = turns[&hand.session()].lock().unwrap();
                        *turn += 1;
                        assert!(hand.tell(level, *turn));
                    }
                });
            }
        });
        drop(clients);
        let lost = world.plane().control().extensions().lost;
        let heard = world.end();
        let mut delivered = 0;
        for session in 1..=4 {
            let numbers: Vec<_> = told(&heard, session).iter().map(|(_, value)| value >> 32).collect();
            assert!(numbers.is_sorted(), "seed {seed}, session {session}: {numbers:?}");
            delivered += numbers.len() as u64;
        }
        assert_eq!(delivered + lost, 240, "seed {seed}");
    }
}

#[test]
fn in_a_storm_every_callback_is_told_or_counted_and_sessions_work_and_end() {
    for seed in 0..4 {
        let (world, mut clients, hands) = mixed(seed);
        let made = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (hands, made, over) = (&hands, &made, &over);
                scope.spawn(move || {
                    let level = if thread % 2 == 0 { DISPATCH_LEVEL } else { PASSIVE_LEVEL };
                    let mut number = 0;
                    while !over.load(Ordering::Relaxed) {
                        number += 1;
                        for hand in hands {
                            made.fetch_add(u64::from(hand.tell(level, number)), Ordering::Relaxed);
                        }
                    }
                });
            }
            for client in &mut clients {
                ping(client);
            }
            clients.pop().unwrap().peer.reset();
            clients.pop().unwrap().peer.end();
            std::thread::sleep(Duration::from_millis(5));
            for client in &mut clients {
                ping(client);
            }
            eventually("two sessions are gone", || world.plane().control().counters().closed == 2);
            over.store(true, Ordering::Relaxed);
        });
        drop(clients);
        let control = world.plane().control();
        let totals = control.extensions();
        let made = made.into_inner();
        let heard = world.end();
        let all: u64 = (0..=4).map(|session| told(&heard, session).len() as u64).sum();
        let own = heard.iter().filter(|heard| matches!(heard, Heard::Callback { provider: Builtin, .. }));
        assert_eq!(own.count(), 0, "nobody needs weir's own");
        assert_eq!(totals.callbacks + totals.lost + totals.late, made, "seed {seed}: {totals:?}");
        assert_eq!(all, totals.callbacks, "seed {seed}");
        for session in 1..=4 {
            for interface in Interface::ALL {
                for provider in [Wsk, Nmr] {
                    let (begun, ended) = (
                        registered(&heard, session, interface, provider),
                        detached(&heard, session, interface, provider),
                    );
                    assert_eq!(begun, ended, "seed {seed}, session {session}");
                }
            }
        }
    }
}

#[test]
fn unload_in_the_midst_of_a_storm_waits_for_it() {
    for seed in 0..4 {
        let (mut world, clients, hands) = mixed(seed);
        std::thread::scope(|scope| {
            for hand in &hands {
                scope.spawn(move || while hand.tell(DISPATCH_LEVEL, 1) {});
            }
            std::thread::sleep(Duration::from_millis(3));
            world.plane_mut().stop();
        });
        drop(clients);
        world.finish();
    }
}
