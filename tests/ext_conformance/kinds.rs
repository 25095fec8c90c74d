//! Which kinds of providers are asked, in which order, for what: the settings.

use super::ext_support::{Form, module};
use super::ext_support::{Interface, Module, World, moment, settings};
use super::{entry, ping, refused, registered, wait_settled};
use crate::control_support;
use ntsim::sys::nt::{GUID, STATUS_NOT_SUPPORTED};
use ntsim::wsk;
use ntsim::wsk::extension::{self, Script};
use weir::trace::Guid;
use weir::trace::events::Provider::{self, Builtin, Nmr, Wsk};

/// The kinds in that order, as the settings have them.
fn list(kinds: &[Provider]) -> String {
    let names = kinds.iter().map(|kind| match kind {
        Wsk => "wsk",
        Nmr => "nmr",
        Builtin => "builtin",
    });
    names.collect::<Vec<_>>().join(",")
}

#[test]
fn the_first_kind_that_grants_has_the_socket_and_the_rest_is_not_asked() {
    let orders: &[&[Provider]] = &[
        &[Wsk, Nmr, Builtin],
        &[Wsk, Builtin, Nmr],
        &[Nmr, Wsk, Builtin],
        &[Nmr, Builtin, Wsk],
        &[Builtin, Wsk, Nmr],
        &[Builtin, Nmr, Wsk],
        &[Wsk, Nmr],
        &[Nmr, Wsk],
        &[Wsk, Builtin],
        &[Builtin, Wsk],
        &[Nmr, Builtin],
        &[Builtin, Nmr],
        &[Wsk],
        &[Nmr],
        &[Builtin],
    ];
    for interface in Interface::ALL {
        for order in orders {
            for there in 0..4 {
                let (wsk, nmr) = (there & 1 != 0, there & 2 != 0);
                let sim = control_support::boot(wsk::Config::default());
                if wsk {
                    extension::script(interface.npi(), Script::Supported(interface.offer()));
                }
                let entries = [entry(interface, &format!("optional;providers={}", list(order)))];
                let modules = || if nmr { vec![Module::register(interface)] } else { Vec::new() };
                let world = World::start_on(sim, &entries, modules);
                let mut client = world.plane().client();
                ping(&mut client);
                wait_settled(&world, 1, interface);
                let can = |kind: &Provider| match kind {
                    Wsk => wsk,
                    Nmr => nmr,
                    Builtin => interface == Interface::Connection,
                };
                let expected = order.iter().copied().find(can);
                let case = format!("{interface:?}, {order:?}, wsk {wsk}, nmr {nmr}");
                let heard = world.record.heard();
                for kind in [Wsk, Nmr, Builtin] {
                    let count = registered(&heard, 1, interface, kind);
                    assert_eq!(count, usize::from(expected == Some(kind)), "{case}: {kind:?}");
                }
                if expected.is_none() {
                    assert_eq!(refused(&heard, 1, interface), Some((false, STATUS_NOT_SUPPORTED)), "{case}");
                }
                // Only those before the one who grants are asked.
                let asked = |kind: Provider| {
                    let last = expected.and_then(|kind| order.iter().position(|other| *other == kind));
                    order.iter().position(|other| *other == kind).is_some_and(|at| at <= last.unwrap_or(9))
                };
                let connections = wsk::sockets();
                let made = |socket: &wsk::SocketRef| {
                    socket.registrations().iter().any(|(npi, _)| *npi == interface.npi())
                };
                assert_eq!(connections.iter().all(made), asked(Wsk), "{case}");
                if let Some(module) = world.modules.first() {
                    assert_eq!(module.counts().offered != 0, asked(Nmr), "{case}");
                }
                world.end();
            }
        }
    }
}

#[test]
fn what_is_off_is_not_asked_for() {
    let sim = control_support::boot(wsk::Config::default());
    for interface in Interface::ALL {
        extension::script(interface.npi(), Script::Supported(interface.offer()));
    }
    let entries = Interface::ALL.map(|interface| entry(interface, "off"));
    let world = World::start_on(sim, &entries, || Interface::ALL.map(Module::register).into());
    let mut client = world.plane().client();
    ping(&mut client);
    for _ in 0..20 {
        moment();
    }
    assert!(wsk::sockets().iter().all(|socket| socket.registrations().is_empty()));
    for module in &world.modules {
        assert_eq!(module.counts(), module::Counts::default());
    }
    let heard = world.end();
    let extensions = |heard: &&super::Heard| {
        matches!(heard, super::Heard::Registered { .. } | super::Heard::Refused { .. })
    };
    assert_eq!(heard.iter().filter(extensions).count(), 0, "{heard:?}");
}

#[test]
fn the_mask_of_the_settings_is_what_is_switched_on() {
    for (wanted, mask) in [("", 0xF), (";events=0x3", 0x3), (";events=0x8", 0x8)] {
        let interface = Interface::Connection;
        let sim = control_support::boot(wsk::Config::default());
        extension::script(interface.npi(), Script::Supported(interface.offer()));
        let entries = [entry(interface, &format!("optional;providers=wsk{wanted}"))];
        let world = World::start_on(sim, &entries, Vec::new);
        let mut client = world.plane().client();
        ping(&mut client);
        let all = extension::registrations(interface.npi());
        assert_eq!(all.iter().map(extension::Registration::enabled).collect::<Vec<_>>(), [mask, mask]);
        world.end();

        let entries = [entry(interface, &format!("optional;providers=nmr{wanted}"))];
        let world = World::start(&entries, || vec![Module::register(interface)]);
        let mut client = world.plane().client();
        ping(&mut client);
        wait_settled(&world, 1, interface);
        let sockets = world.modules[0].sockets();
        assert_eq!(sockets.iter().map(|socket| socket.EventMask).collect::<Vec<_>>(), [mask, mask]);
        world.end();
    }
}

const ALIAS: GUID = GUID { Data1: 0xA11A5, Data2: 7, Data3: 8, Data4: [1, 2, 3, 4, 5, 6, 7, 8] };

#[test]
fn an_alias_speaks_the_tables_of_its_interface() {
    for speaks in Interface::ALL {
        let alias = Guid::from(ALIAS);
        let entries = [format!("{alias}=optional;speaks={}", speaks.guid())];
        for nmr in [false, true] {
            let sim = control_support::boot(wsk::Config::default());
            if !nmr {
                extension::script(ALIAS, Script::Supported(speaks.offer()));
            }
            let modules = || {
                let module = || Module::register_as(speaks, ALIAS, Form::Proper);
                if nmr { vec![module()] } else { Vec::new() }
            };
            let world = World::start_on(sim, &entries, modules);
            let mut client = world.plane().client();
            ping(&mut client);
            let by = if nmr { Nmr } else { Wsk };
            let wanted = super::Heard::Registered { session: 1, interface: alias, provider: by };
            world.wait("the alias is registered", |heard| heard.contains(&wanted));
            // The interface itself is there beside it.
            wait_settled(&world, 1, speaks);
            let told = if nmr {
                let attachments = world.modules[0].attachments();
                let connection = attachments.iter().find(|attachment| attachment.session() == 1).unwrap();
                connection.tell(0, 5)
            } else {
                let mut all = extension::registrations(ALIAS).into_iter();
                let one = all.find(|one| one.socket().category() == wsk::Category::Connection).unwrap();
                // SAFETY: weir's context and table, while the socket is there.
                one.call(1, 0, |context, table| unsafe { speaks.tell(context, table, 5) }).is_some()
            };
            assert!(told);
            world.wait("the callback is told by the alias", |heard| {
                let is = |heard: &super::Heard| {
                    matches!(heard, super::Heard::Callback { session: 1, interface, value: 5, provider, .. }
                        if *interface == alias && *provider == by)
                };
                heard.iter().any(is)
            });
            world.end();
        }
    }
}

#[test]
fn an_interface_that_weir_does_not_know_is_refused_or_missing() {
    let unknown = Guid::from(ALIAS);
    let world = World::start(&[format!("{unknown}=optional")], Vec::new);
    let mut client = world.plane().client();
    ping(&mut client);
    world.wait("the refusal is told", |heard| {
        let is = |heard: &super::Heard| {
            matches!(heard, super::Heard::Refused { session: 1, interface, required: false, .. }
                if *interface == unknown)
        };
        heard.iter().any(is)
    });
    world.end();

    let mut world = World::prepare(control_support::boot(wsk::Config::default()));
    world.run(&settings(&[format!("{unknown}=required")]));
    world.wait("the reason is told", |heard| {
        let is = |heard: &super::Heard| {
            matches!(heard, super::Heard::Refused { session: 0, interface, required: true, .. }
                if *interface == unknown)
        };
        heard.iter().any(is)
    });
    assert_eq!(world.plane().control().counters().listeners, 0);
    world.end();
}
