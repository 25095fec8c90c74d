//! Vendors' modules at the Network Module Registrar: how they come, what they answer, how they leave.

use super::ext_support::{
    Answer, Chance, Form, Heard, Inline, Interface, Module, Release, World, moment, settings,
};
use super::{attachment, detached, entry, failed, ping, refused, registered, wait_settled};
use crate::control_support::client::Client;
use crate::control_support::{self, OPERATOR, eventually, sockets};
use ntsim::nmr::{self, Manner, Order};
use ntsim::sys::nt::{
    DISPATCH_LEVEL, NTSTATUS, PASSIVE_LEVEL, STATUS_ACCESS_DENIED, STATUS_EVENT_PENDING,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_NOT_IMPLEMENTED,
    STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_UNSUCCESSFUL,
};
use ntsim::wsk::{self, Category, memory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir::trace::events::Provider::{Builtin, Nmr};

const STATUSES: &[NTSTATUS] = &[
    STATUS_NOT_SUPPORTED,
    STATUS_NOT_IMPLEMENTED,
    STATUS_INVALID_PARAMETER,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_ACCESS_DENIED,
    STATUS_UNSUCCESSFUL,
    STATUS_NOINTERFACE,
    STATUS_PENDING,
    STATUS_EVENT_PENDING,
];

#[track_caller]
fn wait_registered(world: &World, session: u64, interface: Interface, count: usize) {
    world.wait("the module's registration is told", |heard| {
        registered(heard, session, interface, Nmr) >= count
    });
}

#[test]
fn every_socket_is_offered_with_what_is_known_of_it() {
    let sim = control_support::boot(wsk::Config::default());
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let mut world = World::prepare(sim);
    world.modules = Interface::ALL.map(Module::register).into();
    let mut settings = settings(&[]);
    control_support::set_list(&mut settings, "ControlDial", &["root@192.0.2.1:443"]);
    world.run(&settings);
    let mut dialled = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut dialled);
    let mut accepted = world.plane().client();
    ping(&mut accepted);
    let local = world.plane().address();
    for module in &world.modules {
        assert_eq!(module.counts().granted, 3);
        let sockets = module.sockets();
        let of = |kind: u32| *sockets.iter().find(|socket| socket.Kind == kind).unwrap();
        let (listening, from_outside, from_here) = (of(0), of(1), of(2));
        assert_eq!((listening.Session, listening.LocalPort), (0, local.port()));
        assert_eq!((from_outside.Family, from_outside.LocalPort), (2, local.port()));
        assert_eq!(from_outside.LocalAddress[..4], [127, 0, 0, 1]);
        assert_eq!(from_outside.RemotePort, accepted.peer.local().port());
        assert_eq!((from_here.RemotePort, &from_here.RemoteAddress[..4]), (443, &[192, 0, 2, 1][..]));
        assert_ne!(from_outside.Session, from_here.Session);
    }
    let totals = world.plane().control().extensions();
    assert_eq!((totals.nmr.asked, totals.nmr.granted, totals.modules), (6, 6, 2));
    drop((dialled, accepted));
    let modules = std::mem::take(&mut world.modules);
    world.plane_mut().stop();
    for module in &modules {
        let counts = module.counts();
        assert_eq!((counts.detached, counts.ended_with_binding), (3, 0), "let go of, socket by socket");
    }
    drop(modules);
    world.finish();
}

#[test]
fn exactly_success_grants_and_any_other_status_has_the_next_kind_asked() {
    for &status in STATUSES {
        for interface in Interface::ALL {
            let world =
                World::start(&[], || vec![Module::answering(interface, move |_| Answer::Status(status))]);
            let mut client = world.plane().client();
            ping(&mut client);
            wait_settled(&world, 1, interface);
            let heard = world.record.heard();
            let unsupported = matches!(status, STATUS_NOT_SUPPORTED | STATUS_NOT_IMPLEMENTED);
            assert_eq!(failed(&heard, 1, interface, Nmr), (!unsupported).then_some(status));
            let builtin = registered(&heard, 1, interface, Builtin);
            assert_eq!(builtin, usize::from(interface == Interface::Connection), "{status:#x}");
            let counts = world.modules[0].counts();
            assert_eq!((counts.offered, counts.granted), (2, 0));
            world.end();
        }
    }
}

#[test]
fn a_module_that_grants_with_a_wrong_table_is_let_go_of_at_once() {
    for interface in Interface::ALL {
        for which in 0..3 {
            let answer = move || if which == 2 { Answer::NullTable } else { Answer::GrantWrongly(which) };
            let world = World::start(&[], || vec![Module::answering(interface, move |_| answer())]);
            let mut client = world.plane().client();
            ping(&mut client);
            wait_settled(&world, 1, interface);
            eventually("both sockets are let go of", || world.modules[0].counts().detached == 2);
            let heard = world.record.heard();
            assert_eq!(failed(&heard, 1, interface, Nmr), Some(STATUS_INVALID_PARAMETER));
            assert_eq!(registered(&heard, 1, interface, Nmr), 0);
            // It was granted for a moment, as the module sees it. Its calls come too late.
            for attachment in world.modules[0].all_attachments() {
                assert!(!attachment.tell(PASSIVE_LEVEL, 1), "the module keeps the rules");
                // SAFETY: the control plane runs.
                unsafe { attachment.tell_regardless(DISPATCH_LEVEL, 1) };
            }
            assert_eq!(world.plane().control().extensions().late, 2);
            world.end();
        }
    }
}

#[test]
fn a_module_whose_own_table_is_wrong_is_left_alone() {
    for form in [Form::Short, Form::Old, Form::NoAttach, Form::NoDetach] {
        let interface = Interface::Connection;
        let world = World::start(&[], || vec![Module::register_as(interface, interface.npi(), form)]);
        let mut client = world.plane().client();
        ping(&mut client);
        wait_settled(&world, 1, interface);
        let (interface, module) = (interface.guid(), world.modules[0].id());
        let heard = world.record.heard();
        assert!(heard.contains(&Heard::ModuleAttached { interface, module, usable: false }), "{form:?}");
        assert_eq!(world.modules[0].counts().offered, 0, "{form:?}");
        assert_eq!(world.plane().control().extensions().modules, 0);
        world.end();
    }
}

#[test]
fn a_module_with_a_null_table_does_no_harm() {
    let interface = Interface::Connection;
    let mut world = World::start(&[], || vec![Module::register_as(interface, interface.npi(), Form::Null)]);
    let mut client = world.plane().client();
    ping(&mut client);
    world.plane_mut().stop();
    world.modules.clear();
    let report = world.plane().sim.report();
    // The module's own breach, which the registrar reports.
    assert_eq!(report.violations.len(), 1, "{report}");
    assert_eq!(report.violations[0].rule, &nmr::NMR_NULL_DISPATCH);
}

#[test]
fn a_module_that_declines_and_one_with_a_larger_table() {
    let interface = Interface::Connection;
    let declines = Form::Declines(STATUS_NOINTERFACE);
    for (form, offered) in [(declines, 0), (Form::Declines(STATUS_PENDING), 0), (Form::Larger, 2)] {
        let world = World::start(&[], || vec![Module::register_as(interface, interface.npi(), form)]);
        let mut client = world.plane().client();
        ping(&mut client);
        wait_settled(&world, 1, interface);
        assert_eq!(world.modules[0].counts().offered, offered, "{form:?}");
        world.end();
    }
}

#[test]
fn callbacks_from_within_attaching_arrive_even_if_it_fails_then() {
    for interface in Interface::ALL {
        for which in 0..2 {
            let inline = Inline::new(|attachment| {
                for level in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
                    assert!(attachment.tell(level, attachment.id));
                }
            });
            let answer = move |_: &_| match which {
                0 => Answer::GrantAndCall(inline.clone()),
                _ => Answer::CallAndFail(inline.clone(), STATUS_UNSUCCESSFUL),
            };
            let world = World::start(&[], || vec![Module::answering(interface, answer)]);
            let mut client = world.plane().client();
            ping(&mut client);
            world.wait("the callbacks are told", |heard| {
                let is = |heard: &&Heard| {
                    matches!(heard, Heard::Callback { session: 1, provider: Nmr, interface: of, .. }
                        if *of == interface.guid())
                };
                heard.iter().filter(is).count() == 2
            });
            let totals = world.plane().control().extensions();
            assert_eq!(totals.late, 0);
            world.end();
        }
    }
}

#[test]
fn a_module_that_comes_late_gets_the_sockets_that_live_and_the_builtin_one_steps_back() {
    for manner in manners() {
        let interface = Interface::Connection;
        let mut world = World::start(&[], Vec::new);
        nmr::set_manner(manner);
        let mut clients: Vec<_> = (0..3).map(|_| world.plane().client()).collect();
        clients.iter_mut().for_each(ping);
        for session in 0..=3 {
            world
                .wait("weir provides it itself", |heard| registered(heard, session, interface, Builtin) == 1);
        }
        world.modules.push(Module::register(interface));
        for session in 0..=3 {
            wait_registered(&world, session, interface, 1);
            world.wait("weir steps back", |heard| detached(heard, session, interface, Builtin) == 1);
        }
        assert_eq!(world.modules[0].counts().granted, 4);
        clients.iter_mut().for_each(ping);
        // It goes, and weir is there again; it comes back, and has them again.
        for round in 1..=2 {
            world.modules.clear();
            for session in 0..=3 {
                world.wait("the module's end is told", |heard| {
                    detached(heard, session, interface, Nmr) == round
                });
                world.wait("weir provides it again", |heard| {
                    registered(heard, session, interface, Builtin) == round + 1
                });
            }
            clients.iter_mut().for_each(ping);
            world.modules.push(Module::register(interface));
            for session in 0..=3 {
                wait_registered(&world, session, interface, round + 1);
            }
        }
        clients.iter_mut().for_each(ping);
        drop(clients);
        world.end();
    }
}

#[test]
fn a_module_does_not_take_what_another_kind_before_it_has() {
    let interface = Interface::Connection;
    let sim = control_support::boot(wsk::Config::default());
    ntsim::wsk::extension::script(
        interface.npi(),
        ntsim::wsk::extension::Script::Supported(interface.offer()),
    );
    let mut world = World::start_on(sim, &[], Vec::new);
    let mut client = world.plane().client();
    ping(&mut client);
    world.modules.push(Module::register(interface));
    for _ in 0..30 {
        moment();
    }
    ping(&mut client);
    assert_eq!(world.modules[0].counts().offered, 0);
    world.end();
}

#[test]
fn two_modules_have_each_socket_and_one_of_them_leaves() {
    let interface = Interface::Label;
    let mut world = World::start(&[], || vec![Module::register(interface), Module::register(interface)]);
    let mut client = world.plane().client();
    ping(&mut client);
    wait_registered(&world, 1, interface, 2);
    let all: Vec<_> = world.modules.iter().map(|module| attachment(module, 1)).collect();
    for (at, attachment) in all.iter().enumerate() {
        assert!(attachment.tell(DISPATCH_LEVEL, attachment.id | (at as u64) << 32));
    }
    world.modules.remove(0);
    world.wait("one end is told", |heard| detached(heard, 1, interface, Nmr) == 1);
    assert!(all[1].tell(PASSIVE_LEVEL, all[1].id | 9 << 32));
    assert!(!all[0].tell(PASSIVE_LEVEL, 1));
    ping(&mut client);
    let heard = world.end();
    let vendors = |heard: &&Heard| matches!(heard, Heard::Callback { provider: Nmr, .. });
    assert_eq!(heard.iter().filter(vendors).count(), 3);
}

#[test]
fn of_five_modules_four_are_attached_and_the_fifth_does_no_harm() {
    let interface = Interface::Label;
    let mut world = World::start(&[], || (0..5).map(|_| Module::register(interface)).collect());
    let mut client = world.plane().client();
    ping(&mut client);
    wait_registered(&world, 1, interface, 4);
    let offered: Vec<_> = world.modules.iter().map(|module| module.counts().offered).collect();
    assert_eq!(offered, [2, 2, 2, 2, 0]);
    assert_eq!(world.plane().control().extensions().modules, 4);
    // A place that gets free is another one's.
    world.modules.remove(1);
    world.modules.push(Module::register(interface));
    eventually("the newcomer has the sockets", || world.modules[4].counts().granted == 2);
    ping(&mut client);
    world.end();
}

fn manners() -> Vec<Manner> {
    let mut manners = Vec::new();
    for order in [Order::ClientFirst, Order::ProviderFirst, Order::Together] {
        for bits in 0..4 {
            manners.push(Manner {
                order,
                detach_at_dispatch: bits & 1 != 0,
                attach_elsewhere: bits & 2 != 0,
            });
        }
    }
    manners
}

#[test]
fn weir_may_unload_first_and_the_modules_stay() {
    for manner in manners() {
        let mut world = World::start(&[], || {
            Interface::ALL.into_iter().chain(Interface::ALL).map(Module::register).collect()
        });
        nmr::set_manner(manner);
        let mut clients: Vec<_> = (0..2).map(|_| world.plane().client()).collect();
        clients.iter_mut().for_each(ping);
        world.plane_mut().stop();
        for module in &world.modules {
            let counts = module.counts();
            assert_eq!((counts.bindings, counts.unbound), (1, 1), "{manner:?}");
            assert_eq!(counts.granted, counts.detached, "{manner:?}");
        }
        drop(clients);
        world.finish();
    }
}

#[test]
fn a_module_leaves_in_the_midst_of_its_callbacks() {
    for (seed, manner) in manners().into_iter().enumerate() {
        let interface = *Chance::new(seed as u64).of(&Interface::ALL);
        let mut world = World::start(&[], || vec![Module::register(interface)]);
        nmr::set_manner(manner);
        let mut clients: Vec<_> = (0..2).map(|_| world.plane().client()).collect();
        clients.iter_mut().for_each(ping);
        let all: Vec<_> = (1..=2).map(|session| attachment(&world.modules[0], session)).collect();
        let module = world.modules.remove(0);
        std::thread::scope(|scope| {
            for (thread, attachment) in all.iter().chain(&all).enumerate() {
                scope.spawn(move || {
                    let level = if thread % 2 == 0 { PASSIVE_LEVEL } else { DISPATCH_LEVEL };
                    while attachment.tell(level, attachment.id) {}
                });
            }
            std::thread::sleep(Duration::from_millis(2));
            let level = if manner.detach_at_dispatch { DISPATCH_LEVEL } else { PASSIVE_LEVEL };
            module.begin_leaving(level);
            module.finish_leaving();
        });
        let counts = module.counts();
        assert_eq!(counts.ended_with_binding, 3, "{manner:?}");
        assert_eq!(counts.detached, 0, "the registrar has ended it");
        drop(module);
        for session in 1..=2 {
            world.wait("the end is told", |heard| detached(heard, session, interface, Nmr) == 1);
        }
        clients.iter_mut().for_each(ping);
        let totals = world.plane().control().extensions();
        assert_eq!(counts.callbacks, totals.callbacks + totals.lost + totals.late - builtin(&world));
        drop(clients);
        world.end();
    }
}

/// What weir's own provider has told so far.
fn builtin(world: &World) -> u64 {
    let heard = world.record.heard();
    heard.iter().filter(|heard| matches!(heard, Heard::Callback { provider: Builtin, .. })).count() as u64
}

#[test]
fn a_detach_may_pend_and_completes_whenever_the_module_likes() {
    let later = |micros, level| Release::Later(Duration::from_micros(micros), level);
    for release in [
        Release::Early,
        later(0, PASSIVE_LEVEL),
        later(0, DISPATCH_LEVEL),
        later(20_000, DISPATCH_LEVEL),
        Release::Status(STATUS_UNSUCCESSFUL),
    ] {
        let interface = Interface::Connection;
        let world = World::start(&[], || vec![Module::register(interface)]);
        world.modules[0].release(move |_| release);
        // More connections than there are slots, one after the other.
        for session in 1..=40 {
            let mut client = world.plane().client();
            ping(&mut client);
            attachment(&world.modules[0], session);
            client.peer.reset();
            world.wait("the end is told", |heard| detached(heard, session, interface, Nmr) == 1);
        }
        let counts = world.modules[0].counts();
        assert_eq!(counts.granted, 41, "{release:?}");
        assert_eq!(counts.detached, 40, "{release:?}");
        world.end();
    }
}

#[test]
fn a_detach_that_never_completes_holds_nothing_up_and_ends_with_the_module() {
    let interface = Interface::Connection;
    let mut world = World::start(&[], || vec![Module::register(interface)]);
    world.modules[0].release(|_| Release::Never);
    for round in 0..3 {
        let mut client = world.plane().client();
        ping(&mut client);
        client.peer.reset();
        eventually("the session is gone", || world.plane().control().counters().closed == round + 1);
    }
    // What it held is free once it has left.
    world.modules.clear();
    for round in 3..43 {
        let mut client = world.plane().client();
        ping(&mut client);
        client.peer.reset();
        eventually("the session is gone", || world.plane().control().counters().closed == round + 1);
    }
    world.modules.push(Module::register(interface));
    world.modules[0].release(|_| Release::Never);
    let mut client = world.plane().client();
    ping(&mut client);
    // With a detach under way, weir unloads.
    world.end();
}

#[test]
fn a_module_that_calls_after_it_has_let_go_is_counted_and_hits_nothing() {
    for interface in Interface::ALL {
        let mut world = World::start(&[], || vec![Module::register(interface)]);
        let mut client = world.plane().client();
        ping(&mut client);
        let gone = attachment(&world.modules[0], 1);
        client.peer.reset();
        world.wait("the end is told", |heard| detached(heard, 1, interface, Nmr) == 1);
        // Others have the slots meanwhile.
        let mut others: Vec<_> = (0..4).map(|_| world.plane().client()).collect();
        others.iter_mut().for_each(ping);
        for level in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
            // SAFETY: the control plane runs.
            unsafe { gone.tell_regardless(level, gone.id) };
        }
        assert_eq!(world.plane().control().extensions().late, 2);
        // After the module has left, too.
        let left = attachment(&world.modules[0], 2);
        world.modules.clear();
        // SAFETY: the control plane runs.
        unsafe { left.tell_regardless(DISPATCH_LEVEL, left.id) };
        assert_eq!(world.plane().control().extensions().late, 3);
        others.iter_mut().for_each(ping);
        drop(others);
        let heard = world.end();
        let vendors = |heard: &&Heard| matches!(heard, Heard::Callback { provider: Nmr, .. });
        assert_eq!(heard.iter().filter(vendors).count(), 0);
    }
}

#[test]
fn a_required_interface_closes_the_socket_when_the_last_module_leaves() {
    for interface in Interface::ALL {
        let entries = [entry(interface, "required;providers=wsk,nmr")];
        let mut world =
            World::start(&entries, || vec![Module::register(interface), Module::register(interface)]);
        let mut client = world.plane().client();
        ping(&mut client);
        wait_registered(&world, 1, interface, 2);
        // One of two: the socket stays.
        world.modules.remove(0);
        world.wait("one end is told", |heard| detached(heard, 1, interface, Nmr) == 1);
        ping(&mut client);
        world.modules.clear();
        client.peer.wait_reset().unwrap();
        world.wait("it is told why", |heard| {
            refused(heard, 1, interface) == Some((true, STATUS_NOT_SUPPORTED))
                && heard.contains(&Heard::Closed(1, STATUS_NOT_SUPPORTED))
        });
        eventually("the listening socket is closed", || sockets(Category::Listen).is_empty());
        world.end();
    }
}

#[test]
fn a_module_that_lets_go_of_a_connection_later_does_not_have_it_dialled_again_at_once() {
    let interface = Interface::Connection;
    let mut world = World::prepare(control_support::boot(wsk::Config::default()));
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let mut settings = settings(&[entry(interface, "required;providers=nmr,builtin")]);
    control_support::set_list(&mut settings, "ControlDial", &["root@192.0.2.1:443"]);
    let module = Module::register(interface);
    module.release(|_| Release::Later(Duration::from_millis(5), DISPATCH_LEVEL));
    world.modules = vec![module];
    world.run(&settings);
    let peer = server.accept().unwrap();
    eventually("the module has the listening socket and the connection", || {
        world.modules[0].counts().granted == 2
    });
    peer.reset();
    eventually("the module has let go of it", || world.modules[0].counts().completed == 1);
    std::thread::sleep(Duration::from_millis(200));
    let dialled = world.plane().control().counters().dialled;
    assert_eq!(dialled, 1, "the back-off of a second holds");
    // A module that comes is a reason to try again.
    world.modules.push(Module::register(interface));
    server.accept().unwrap();
    world.end();
}

#[test]
fn a_listener_waits_for_its_required_module() {
    let interface = Interface::Connection;
    let entries = [entry(interface, "required;providers=nmr")];
    let mut world = World::start(&entries, Vec::new);
    world.wait("the listening socket is refused", |heard| refused(heard, 0, interface).is_some());
    assert!(sockets(Category::Listen).is_empty() || world.plane().control().counters().listeners == 0);
    world.modules.push(Module::register(interface));
    let mut client = world.plane().client();
    ping(&mut client);
    wait_registered(&world, 1, interface, 1);
    world.end();
}

#[test]
fn a_socket_that_closes_while_it_is_offered_is_let_go_of() {
    // The module takes its time; the peer does not wait.
    let interface = Interface::Connection;
    let slow = Arc::new(AtomicBool::new(false));
    let is_slow = Arc::clone(&slow);
    let module = move || {
        Module::answering(interface, move |_| {
            if is_slow.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Answer::Grant
        })
    };
    let world = World::start(&[], || vec![module()]);
    world.plane().address();
    slow.store(true, Ordering::Relaxed);
    let peers: Vec<_> = (0..3).map(|_| world.plane().connect()).collect();
    for peer in &peers {
        peer.reset();
    }
    eventually("the sessions are gone", || {
        let counters = world.plane().control().counters();
        counters.closed + counters.refused == 3
    });
    let counts = world.modules[0].counts();
    assert_eq!(counts.granted, counts.detached + 1, "all but the listening socket");
    world.end();
}

#[test]
fn a_module_leaves_while_it_is_asked() {
    for manner in manners() {
        let interface = Interface::Connection;
        let asked = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&asked);
        let mut world = World::prepare(control_support::boot(wsk::Config::default()));
        world.modules = vec![Module::answering(interface, move |socket| {
            if socket.Session == 1 {
                noted.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
            Answer::Grant
        })];
        world.run(&settings(&[]));
        nmr::set_manner(manner);
        let address = world.plane().address();
        let peer = memory::connect(address).unwrap();
        eventually("the module is asked", || asked.load(Ordering::Relaxed));
        world.modules.clear();
        let mut client = Client::connect(peer, &OPERATOR).unwrap();
        ping(&mut client);
        world.wait("weir provides it", |heard| {
            let gone = heard.iter().any(|heard| matches!(heard, Heard::ModuleDetached { .. }));
            let by = |by| (registered(heard, 1, interface, by), detached(heard, 1, interface, by));
            // It may have provided it before the module came, too.
            let (begun, ended) = by(Builtin);
            gone && begun == ended + 1 && by(Nmr) == (1, 1)
        });
        drop(client);
        world.end();
    }
}
