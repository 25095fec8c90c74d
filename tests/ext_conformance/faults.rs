//! Memory, and whatever else can fail, running out at every step: each call that can fail fails once, until none is left
//! to fail.

use super::ext_support::{Interface, Module, World, settings};
use super::{detached, entry, registered};
use crate::control_support::client::Client;
use crate::control_support::{self, OPERATOR, eventually};
use ntsim::fault::Plan;
use ntsim::wsk;
use ntsim::wsk::extension::{self, Script};
use weir::control::protocol::message::{Empty, Request};
use weir::trace::events::Provider::{Builtin, Nmr};

/// Runs `step` with the first call failing, then with the second, until no call fails any more. `step` gets a machine
/// on which faults are off, and turns them on by what it is given.
#[track_caller]
fn each(least: u64, step: impl Fn(u64) -> bool) {
    let mut nth = 1;
    while step(nth) {
        nth += 1;
        assert!(nth < 5000, "it never ends");
    }
    assert!(nth > least, "only {nth} calls can fail");
}

fn machine() -> ntsim::Sim {
    control_support::boot(wsk::Config { threads: 1, ..wsk::Config::default() })
}

/// Whether the fault was met; faults are off from here on.
fn met(world: &World) -> bool {
    let sim = &world.plane().sim;
    let met = !sim.faults_injected().is_empty();
    sim.fault(Plan::None);
    met
}

/// The control plane does without its sockets, and has said so.
fn degraded(world: &World) -> bool {
    world.record.heard().contains(&super::Heard::Degraded("control"))
}

/// The driver serves after a fault: somebody new is served.
#[track_caller]
fn serves(world: &World) {
    let mut served = false;
    eventually("somebody new is served", || {
        let Ok(peer) = ntsim::wsk::memory::connect(world.plane().address()) else { return false };
        let Ok(mut client) = Client::connect(peer, &OPERATOR) else { return false };
        client.ask(&Request::Ping(Empty {}), |answer| served = answer.is_ok());
        served
    });
}

#[test]
fn starting_with_modules_there() {
    each(20, |nth| {
        let mut world = World::prepare(machine());
        world.modules = Interface::ALL.map(Module::register).into();
        let settings = settings(&[]);
        world.plane().sim.fault(Plan::Nth(nth));
        let started = world.plane_mut().try_start(&settings).is_ok();
        if started {
            // What fails on the worker's side is met within this.
            let listening = |heard: &control_support::Told| {
                matches!(heard, control_support::Told::Listening(_) | control_support::Told::ListenFailed(_))
            };
            eventually("the listening socket is tried, or what tries it is not there", || {
                degraded(&world) || world.plane().told().iter().any(listening)
            });
        }
        let met = met(&world);
        if started {
            if !degraded(&world) {
                serves(&world);
            }
        } else {
            assert!(met, "it does not start without a fault");
        }
        world.end();
        met
    });
}

/// Registering an accepted connection, with the interfaces from there.
fn registering(prepare: impl Fn(), modules: impl Fn() -> Vec<Module>) {
    each(3, |nth| {
        let sim = machine();
        prepare();
        let world = World::start_on(sim, &[], &modules);
        let address = world.plane().address();
        world.plane().sim.fault(Plan::Nth(nth));
        let peer = ntsim::wsk::memory::connect(address);
        let counters = || world.plane().control().counters();
        eventually("it is served or refused", || {
            let settled = |heard: &super::Heard| {
                matches!(heard,
                    super::Heard::Registered { session: 1, interface, .. }
                    | super::Heard::Refused { session: 1, interface, .. } if *interface == Interface::Label.guid())
            };
            counters().refused + counters().closed != 0
                || world.record.heard().iter().any(settled)
                || peer.is_err()
        });
        let met = met(&world);
        drop(peer);
        serves(&world);
        world.end();
        met
    });
}

#[test]
fn registering_in_wsk() {
    let prepare = || {
        for interface in Interface::ALL {
            extension::script(interface.npi(), Script::Supported(interface.offer()));
        }
    };
    registering(prepare, Vec::new);
}

#[test]
fn registering_with_modules() {
    registering(|| (), || Interface::ALL.into_iter().chain(Interface::ALL).map(Module::register).collect());
}

#[test]
fn registering_with_what_weir_has_itself() {
    registering(|| (), Vec::new);
}

#[test]
fn a_module_that_comes_late_and_leaves() {
    // No call of weir's can fail on this way, or each that can does.
    each(0, |nth| {
        let mut world = World::start_on(machine(), &[], Vec::new);
        let mut client = world.plane().client();
        super::ping(&mut client);
        super::wait_settled(&world, 1, Interface::Connection);
        world.plane().sim.fault(Plan::Nth(nth));
        world.modules.push(Module::register(Interface::Connection));
        let attached = || world.modules[0].counts().bindings != 0;
        eventually("it is attached, or was not for the fault", || {
            attached() || !world.plane().sim.faults_injected().is_empty()
        });
        if world.plane().sim.faults_injected().is_empty() {
            world.wait("the sockets are the module's, or weir's again", |heard| {
                registered(heard, 1, Interface::Connection, Nmr) == 1
            });
        }
        world.modules.clear();
        world.wait("weir provides it", |heard| {
            registered(heard, 1, Interface::Connection, Builtin)
                > detached(heard, 1, Interface::Connection, Builtin)
        });
        let met = met(&world);
        super::ping(&mut client);
        world.end();
        met
    });
}

#[test]
fn a_required_interface_while_memory_is_short() {
    let entries = [entry(Interface::Connection, "required;providers=nmr")];
    each(3, |nth| {
        let world = World::start_on(machine(), &entries, || vec![Module::register(Interface::Connection)]);
        let address = world.plane().address();
        world.plane().sim.fault(Plan::Nth(nth));
        let peer = ntsim::wsk::memory::connect(address);
        eventually("it is served or refused", || {
            let counters = world.plane().control().counters();
            counters.refused + counters.closed != 0
                || registered(&world.record.heard(), 1, Interface::Connection, Nmr) != 0
                || peer.is_err()
        });
        let met = met(&world);
        drop(peer);
        serves(&world);
        world.end();
        met
    });
}

#[test]
fn memory_that_stays_short_for_a_while() {
    for from in 1..12 {
        let mut world = World::start_on(machine(), &[], || vec![Module::register(Interface::Connection)]);
        let address = world.plane().address();
        let mut client = world.plane().client();
        super::ping(&mut client);
        world.plane().sim.fault(Plan::From(from));
        let peers: Vec<_> = (0..2).map(|_| ntsim::wsk::memory::connect(address)).collect();
        world.modules.clear();
        world.modules.push(Module::register(Interface::Connection));
        std::thread::sleep(std::time::Duration::from_millis(3));
        world.plane().sim.fault(Plan::None);
        drop(peers);
        drop(client);
        serves(&world);
        world.end();
    }
}
