//! Providers in WSK: SIO_WSK_REGISTER_EXTENSION.

use super::ext_support::{Interface, World, settings};
use super::{entry, failed, ping, refused, registered, wait_settled};
use crate::control_support::client::Client;
use crate::control_support::{self, OPERATOR, eventually, listen, set_list, sockets};
use ntsim::sys::nt::{
    DISPATCH_LEVEL, NTSTATUS, PASSIVE_LEVEL, STATUS_ACCESS_DENIED, STATUS_EVENT_PENDING,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_PARAMETER, STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
    STATUS_TIMEOUT, STATUS_UNSUCCESSFUL,
};
use ntsim::wsk::extension::{self, Callback, Script};
use ntsim::wsk::{self, Category, memory};
use weir::trace::events::Provider;

/// What a call without an IRP may come back with: the pages of the call name some, any other is possible. Of those,
/// NT_SUCCESS is true of three that are not STATUS_SUCCESS.
const STATUSES: &[NTSTATUS] = &[
    STATUS_NOT_SUPPORTED,
    STATUS_NOT_IMPLEMENTED,
    STATUS_INVALID_PARAMETER,
    STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_DEVICE_STATE,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_ACCESS_DENIED,
    STATUS_UNSUCCESSFUL,
    // STATUS_REQUEST_NOT_ACCEPTED, STATUS_FILE_FORCED_CLOSED, STATUS_BUFFER_OVERFLOW
    0xC000_00D0_u32.cast_signed(),
    0xC000_00B6_u32.cast_signed(),
    0x8000_0005_u32.cast_signed(),
    STATUS_PENDING,
    STATUS_EVENT_PENDING,
    STATUS_TIMEOUT,
];

#[test]
fn exactly_success_grants_and_any_other_status_has_the_next_kind_asked() {
    for &status in STATUSES {
        let sim = control_support::boot(wsk::Config::default());
        for interface in Interface::ALL {
            extension::script(interface.npi(), Script::Fail(status));
        }
        let entries = [entry(Interface::Label, "optional;providers=wsk")];
        let world = World::start_on(sim, &entries, Vec::new);
        let mut client = world.plane().client();
        ping(&mut client);
        for interface in Interface::ALL {
            wait_settled(&world, 1, interface);
        }
        let heard = world.record.heard();
        let unsupported = matches!(status, STATUS_NOT_SUPPORTED | STATUS_NOT_IMPLEMENTED);
        let told = (!unsupported).then_some(status);
        for interface in Interface::ALL {
            assert_eq!(failed(&heard, 1, interface, Provider::Wsk), told, "{status:#x}");
        }
        assert_eq!(registered(&heard, 1, Interface::Connection, Provider::Builtin), 1, "{status:#x}");
        let (required, why) = refused(&heard, 1, Interface::Label).expect("nobody has it");
        assert!(!required);
        assert_eq!(why, told.unwrap_or(STATUS_NOT_SUPPORTED));
        world.end();
    }
}

#[test]
fn every_socket_is_registered_itself_once_for_each_interface() {
    let sim = control_support::boot(wsk::Config::default());
    for interface in Interface::ALL {
        extension::script(interface.npi(), Script::Supported(interface.offer()));
    }
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let mut world = World::prepare(sim);
    let mut settings = settings(&[]);
    set_list(&mut settings, "ControlDial", &["root@192.0.2.1:443"]);
    world.run(&settings);
    let mut dialled = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut dialled);
    let mut accepted: Vec<_> = (0..2).map(|_| world.plane().client()).collect();
    accepted.iter_mut().for_each(ping);
    let all: Vec<_> = wsk::sockets();
    assert_eq!(all.len(), 4);
    for socket in &all {
        let mut made = socket.registrations();
        made.sort_by_key(|(npi, _)| npi.Data1);
        let each = |interface: Interface| (interface.npi(), STATUS_SUCCESS);
        assert_eq!(made, [each(Interface::Connection), each(Interface::Label)], "{:?}", socket.category());
    }
    for interface in Interface::ALL {
        let registrations = extension::registrations(interface.npi());
        assert_eq!(registrations.len(), 4);
        assert!(registrations.iter().all(|one| one.enabled() == interface.events()));
    }
    let totals = world.plane().control().extensions();
    assert_eq!((totals.wsk.asked, totals.wsk.granted, totals.builtin.asked), (8, 8, 0));
    drop((dialled, accepted));
    let heard = world.end();
    for session in 0..4 {
        for interface in Interface::ALL {
            assert_eq!(registered(&heard, session, interface, Provider::Wsk), 1, "session {session}");
        }
    }
}

#[test]
fn sockets_that_are_refused_are_counted_one_by_one_too() {
    let sim = control_support::boot(wsk::Config::default());
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let mut world = World::prepare(sim);
    let mut settings = settings(&[
        entry(Interface::Connection, "optional;providers=wsk,nmr"),
        entry(Interface::Label, "optional;providers=nmr,wsk"),
    ]);
    set_list(&mut settings, "ControlDial", &["root@192.0.2.1:443"]);
    world.run(&settings);
    let mut dialled = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut dialled);
    let mut accepted = world.plane().client();
    ping(&mut accepted);
    for socket in wsk::sockets() {
        let made = socket.registrations();
        assert_eq!(made.len(), 2, "{:?}", socket.category());
        assert!(made.iter().all(|(_, status)| *status == STATUS_NOT_SUPPORTED));
    }
    for session in 0..3 {
        for interface in Interface::ALL {
            wait_settled(&world, session, interface);
        }
    }
    let totals = world.plane().control().extensions();
    assert_eq!((totals.wsk.asked, totals.wsk.refused, totals.wsk.granted), (6, 6, 0));
    assert_eq!(totals.missing, 6);
    drop((dialled, accepted));
    world.end();
}

#[test]
fn a_table_that_cannot_be_used_is_not_used_and_the_next_kind_is_asked() {
    for interface in Interface::ALL {
        let [short, old] = interface.wrong_offers();
        for script in [Script::NullTables, Script::Supported(short), Script::Supported(old)] {
            let sim = control_support::boot(wsk::Config::default());
            extension::script(interface.npi(), script);
            let world = World::start_on(sim, &[], Vec::new);
            let mut client = world.plane().client();
            ping(&mut client);
            wait_settled(&world, 1, interface);
            let heard = world.record.heard();
            assert_eq!(failed(&heard, 1, interface, Provider::Wsk), Some(STATUS_INVALID_PARAMETER));
            let taken_over = usize::from(interface == Interface::Connection);
            assert_eq!(registered(&heard, 1, interface, Provider::Builtin), taken_over);
            assert!(extension::registrations(interface.npi()).iter().all(|one| one.enabled() == 0));
            world.end();
        }
    }
}

#[test]
fn a_provider_that_was_not_taken_and_calls_is_counted_and_hits_nothing() {
    for interface in Interface::ALL {
        let sim = control_support::boot(wsk::Config::default());
        extension::script(interface.npi(), Script::Supported(interface.wrong_offers()[0]));
        let world = World::start_on(sim, &[], Vec::new);
        let mut client = world.plane().client();
        ping(&mut client);
        for registration in extension::registrations(interface.npi()) {
            for level in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
                // SAFETY: weir's context and table, while the socket is there.
                registration.call(0, level, |context, table| unsafe { interface.tell(context, table, 1) });
            }
        }
        let totals = world.plane().control().extensions();
        assert_eq!(totals.late, 4, "two of the listening socket, two of the connection");
        world.end();
    }
}

#[test]
fn callbacks_from_within_the_registration_arrive_even_if_it_fails_then() {
    for interface in Interface::ALL {
        for usable in [true, false] {
            let offer = if usable { interface.offer() } else { interface.wrong_offers()[1] };
            let inline = Callback::new(move |registration| {
                // SAFETY: weir's context and table; its registration is under way.
                unsafe {
                    interface.tell(registration.client_context(), registration.client_dispatch(), 7);
                };
            });
            let sim = control_support::boot(wsk::Config::default());
            extension::script(interface.npi(), Script::InlineCallback(offer, inline));
            let world = World::start_on(sim, &[], Vec::new);
            let mut client = world.plane().client();
            ping(&mut client);
            world.wait("the callback is told", |heard| {
                heard.iter().any(|heard| {
                    matches!(heard, super::Heard::Callback { session: 1, interface: of, value: 7, provider, .. }
                        if *of == interface.guid() && *provider == Provider::Wsk)
                })
            });
            world.end();
        }
    }
}

#[test]
fn the_version_is_looked_at_before_wsk_is_asked() {
    let config = wsk::Config { provider_version: 0x0001, ..wsk::Config::default() };
    let sim = control_support::boot(config);
    for interface in Interface::ALL {
        extension::script(interface.npi(), Script::Supported(interface.offer()));
    }
    let world = World::start_on(sim, &[], Vec::new);
    let mut client = world.plane().client();
    ping(&mut client);
    wait_settled(&world, 1, Interface::Connection);
    assert!(wsk::sockets().iter().all(|socket| socket.registrations().is_empty()));
    assert_eq!(registered(&world.record.heard(), 1, Interface::Connection, Provider::Builtin), 1);
    world.end();
}

#[test]
fn a_provider_that_answers_each_socket_otherwise_is_told_so_socket_by_socket() {
    let sim = control_support::boot(wsk::Config::default());
    let interface = Interface::Connection;
    extension::script_by(interface.npi(), move |socket| match (socket.category(), socket.id() % 2) {
        (Category::Connection, 0) => Script::Supported(interface.offer()),
        (Category::Connection, _) => Script::NotSupported,
        _ => Script::Fail(STATUS_ACCESS_DENIED),
    });
    let world = World::start_on(sim, &[], Vec::new);
    let mut clients: Vec<_> = (0..4).map(|_| world.plane().client()).collect();
    clients.iter_mut().for_each(ping);
    let granted = extension::registrations(interface.npi()).len();
    assert_eq!(sockets(Category::Connection).len(), 4);
    let totals = world.plane().control().extensions();
    assert_eq!(usize::try_from(totals.wsk.granted).unwrap(), granted);
    assert_eq!(totals.wsk.granted + totals.wsk.refused - 5, 4, "label_v1 is refused to all five");
    assert_eq!(totals.wsk.failed, 1);
    assert_eq!(totals.builtin.granted, 5 - totals.wsk.granted);
    drop(clients);
    world.end();
}

#[test]
fn the_providers_functions_are_used_inside_the_sockets_gate_alone() {
    // The marks are set on each socket by the provider's function; the simulated WSK watches when it is called.
    let sim = control_support::boot(wsk::Config::default());
    let interface = Interface::Connection;
    extension::script(interface.npi(), Script::Supported(interface.offer()));
    let mut world = World::prepare(sim);
    let mut settings = settings(&[]);
    settings.send_backlog_mark = 1024;
    settings.receive_backlog_mark = 2048;
    world.run(&settings);
    let clients: Vec<_> = (0..3).map(|_| world.plane().client()).collect();
    eventually("the marks are set", || {
        let all = extension::registrations(interface.npi());
        let connections = all.iter().filter(|one| one.socket().category() == Category::Connection);
        connections.filter(|one| one.function_calls() == 2).count() == 3
    });
    for client in &clients {
        client.peer.reset();
    }
    drop(clients);
    world.end();
}

#[test]
fn a_required_interface_that_wsk_refuses_closes_the_socket_and_says_why() {
    for (script, status) in [
        (Script::NotSupported, STATUS_NOT_SUPPORTED),
        (Script::Fail(STATUS_ACCESS_DENIED), STATUS_ACCESS_DENIED),
        (Script::Fail(STATUS_PENDING), STATUS_PENDING),
        (Script::NullTables, STATUS_INVALID_PARAMETER),
    ] {
        for interface in Interface::ALL {
            let sim = control_support::boot(wsk::Config::default());
            let script = script.clone();
            extension::script_by(interface.npi(), move |socket| match socket.category() {
                Category::Connection => script.clone(),
                _ => Script::Supported(interface.offer()),
            });
            let entries = [entry(interface, "required;providers=wsk,nmr")];
            let world = World::start_on(sim, &entries, Vec::new);
            let peer = world.plane().connect();
            peer.wait_reset().unwrap();
            world.wait("the reason is told", |heard| {
                refused(heard, 1, interface) == Some((true, status))
                    && heard.contains(&super::Heard::Closed(1, status))
            });
            world.end();
        }
    }
}

#[test]
fn a_provider_without_control_of_sockets_gets_the_builtin_one() {
    // No WskControlSocket at all: STATUS_NOT_IMPLEMENTED.
    let sim = control_support::boot(wsk::Config::incomplete());
    let mut world = World::prepare(sim);
    let mut settings = settings(&[]);
    listen(&mut settings, "127.0.0.1:47474");
    world.run(&settings);
    let mut client = world.plane().client();
    ping(&mut client);
    wait_settled(&world, 1, Interface::Connection);
    assert_eq!(registered(&world.record.heard(), 1, Interface::Connection, Provider::Builtin), 1);
    world.end();
}
