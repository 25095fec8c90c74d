//! What weir does about what providers tell of a connection, and what its own provider tells.

use super::ext_support::tables::Function::SetMarks;
use super::ext_support::{Attachment, Heard, Interface, Module, World, settings};
use super::{attachment, detached, entry, ping, wait_settled};
use crate::control_support::client::Client;
use crate::control_support::{self, eventually, sockets};
use ntsim::sys::nt::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};
use ntsim::wsk::{self, Category, SocketRef};
use std::sync::Arc;
use std::time::Duration;
use weir::config::Settings;
use weir::control::protocol::message::{From, Request};
use weir::ext::connection_v1::{
    CONNECTION_DIRECTION_SEND, CONNECTION_EVENT_BACKLOG, CONNECTION_EVENT_METRIC, CONNECTION_EVENT_STATE,
    CONNECTION_STATE_CLOSED, CONNECTION_STATE_ESTABLISHED, CONNECTION_V1_CLIENT_DISPATCH,
};
use weir::trace::events::Provider::{Builtin, Nmr};

const CONNECTION: Interface = Interface::Connection;

/// Tells of the backlog of what waits to be sent.
fn backlog(attachment: &Attachment, level: KIRQL, above: bool) {
    let told = attachment.call(level, |context, dispatch| {
        // SAFETY: the table that weir gave with this interface.
        let table = unsafe { *dispatch.cast::<CONNECTION_V1_CLIENT_DISPATCH>() };
        // SAFETY: weir's table and context, while the socket is attached.
        unsafe { (table.Backlog)(context, CONNECTION_DIRECTION_SEND, u32::from(above), 7000, 6000) };
    });
    assert!(told.is_some());
}

fn state(attachment: &Attachment, level: KIRQL, state: u32, reason: u32) {
    let told = attachment.call(level, |context, dispatch| {
        // SAFETY: the table that weir gave with this interface.
        let table = unsafe { *dispatch.cast::<CONNECTION_V1_CLIENT_DISPATCH>() };
        // SAFETY: weir's table and context, while the socket is attached.
        unsafe { (table.State)(context, state, reason) };
    });
    assert!(told.is_some());
}

/// A session, with the module's hand on it and its socket.
fn session(world: &World) -> (Client, Arc<Attachment>, SocketRef) {
    let mut client = world.plane().client();
    ping(&mut client);
    let attachment = attachment(&world.modules[0], 1);
    (client, attachment, sockets(Category::Connection).remove(0))
}

/// A machine on which little is on its way, and sends pend.
fn narrow() -> ntsim::Sim {
    control_support::boot(wsk::Config {
        window: 2048,
        completion: wsk::Completion::Pending,
        ..wsk::Config::default()
    })
}

/// Asks for more than the connection takes at once.
fn flood(client: &mut Client) {
    client.peer.stall(true);
    for id in 0..60 {
        client.send(Some(1000 + id), &Request::Counters(From { from: None }));
    }
}

/// The most answers that were under way so far, about.
fn peak(socket: &SocketRef, one: usize) -> usize {
    (socket.peak_outstanding_sends() + one / 2) / one
}

/// How large one answer is.
fn one(client: &mut Client, socket: &SocketRef) -> usize {
    client.ask(&Request::Counters(From { from: None }), |answer| assert!(answer.is_ok()));
    socket.peak_outstanding_sends()
}

#[test]
fn above_the_send_mark_a_session_has_one_buffer_under_way() {
    for level in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
        let world = World::start_on(narrow(), &[], || vec![Module::register(CONNECTION)]);
        let (mut client, attachment, socket) = session(&world);
        let one = one(&mut client, &socket);
        backlog(&attachment, level, true);
        told(&world, CONNECTION_EVENT_BACKLOG);
        flood(&mut client);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(peak(&socket, one), 1);
        backlog(&attachment, level, false);
        eventually("more buffers are out", || peak(&socket, one) > 1);
        client.peer.stall(false);
        for _ in 0..60 {
            client.receive().unwrap();
        }
        ping(&mut client);
        world.end();
    }
}

#[test]
fn buffers_that_were_made_before_are_held_back_too() {
    let world = World::start_on(narrow(), &[], || vec![Module::register(CONNECTION)]);
    let (mut client, attachment, socket) = session(&world);
    let one = one(&mut client, &socket);
    flood(&mut client);
    eventually("several buffers are made", || peak(&socket, one) > 2);
    backlog(&attachment, PASSIVE_LEVEL, true);
    told(&world, CONNECTION_EVENT_BACKLOG);
    client.peer.stall(false);
    for _ in 0..60 {
        client.receive().unwrap();
    }
    let before = world.plane().control().counters().sent;
    flood(&mut client);
    std::thread::sleep(Duration::from_millis(50));
    // What the window takes is sent; beyond it is one buffer.
    let under_way = world.plane().control().counters().sent - before;
    assert!(under_way < 3 * one as u64 + 2048, "{under_way} bytes of {one} each");
    backlog(&attachment, PASSIVE_LEVEL, false);
    client.peer.stall(false);
    for _ in 0..60 {
        client.receive().unwrap();
    }
    world.end();
}

#[track_caller]
fn told(world: &World, event: u32) {
    world.wait("the callback is told", |heard| {
        heard.iter().any(|heard| matches!(heard, Heard::Callback { session: 1, code, .. } if *code == event))
    });
}

#[test]
fn a_session_is_not_held_back_by_a_module_that_has_left() {
    let mut world = World::start_on(narrow(), &[], || vec![Module::register(CONNECTION)]);
    let (mut client, attachment, socket) = session(&world);
    let one = one(&mut client, &socket);
    backlog(&attachment, PASSIVE_LEVEL, true);
    told(&world, CONNECTION_EVENT_BACKLOG);
    world.modules.clear();
    world.wait("the module's end is told", |heard| detached(heard, 1, CONNECTION, Nmr) == 1);
    flood(&mut client);
    eventually("more buffers are out", || peak(&socket, one) > 1);
    client.peer.stall(false);
    for _ in 0..60 {
        client.receive().unwrap();
    }
    world.end();
}

#[test]
fn a_session_is_held_back_while_any_module_says_so() {
    let world =
        World::start_on(narrow(), &[], || vec![Module::register(CONNECTION), Module::register(CONNECTION)]);
    let (mut client, first, socket) = session(&world);
    let one = one(&mut client, &socket);
    let second = attachment(&world.modules[1], 1);
    backlog(&first, PASSIVE_LEVEL, true);
    backlog(&second, PASSIVE_LEVEL, true);
    backlog(&first, PASSIVE_LEVEL, false);
    world.wait("the callbacks are told", |heard| {
        let is = |heard: &&Heard| {
            matches!(heard, Heard::Callback { session: 1, code: CONNECTION_EVENT_BACKLOG, .. })
        };
        heard.iter().filter(is).count() == 3
    });
    flood(&mut client);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(peak(&socket, one), 1, "the second module has not taken it back");
    backlog(&second, PASSIVE_LEVEL, false);
    eventually("more buffers are out", || peak(&socket, one) > 1);
    client.peer.stall(false);
    for _ in 0..60 {
        client.receive().unwrap();
    }
    world.end();
}

#[test]
fn closed_from_a_vendor_ends_the_session() {
    for level in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
        let world = World::start(&[], || vec![Module::register(CONNECTION)]);
        let (client, attachment, _) = session(&world);
        state(&attachment, level, CONNECTION_STATE_ESTABLISHED, 0);
        state(&attachment, level, CONNECTION_STATE_CLOSED, 2);
        let mut other = world.plane().client();
        eventually("the session is gone", || world.plane().control().counters().closed == 1);
        assert!(client.peer.recv_to_end().is_ok() || client.peer.is_reset());
        // The other one goes on.
        ping(&mut other);
        world.wait("its end is told", |heard| detached(heard, 1, CONNECTION, Nmr) == 1);
        world.end();
    }
}

#[test]
fn closed_ends_the_session_though_the_ring_has_no_room_for_it() {
    let world = World::start(&[], || vec![Module::register(CONNECTION)]);
    let (client, attachment, _) = session(&world);
    let lost = || world.plane().control().extensions().lost;
    // Who hears of callbacks hears of nothing any more, so that the rings fill.
    let held = world.record.hold();
    while lost() == 0 {
        state(&attachment, DISPATCH_LEVEL, CONNECTION_STATE_ESTABLISHED, 0);
    }
    let before = lost();
    state(&attachment, DISPATCH_LEVEL, CONNECTION_STATE_CLOSED, 2);
    assert_eq!(lost(), before + 1);
    drop(held);
    eventually("the session is gone", || world.plane().control().counters().closed == 1);
    assert!(client.peer.recv_to_end().is_ok() || client.peer.is_reset());
    world.end();
}

#[test]
fn what_was_not_asked_for_is_dropped_and_has_no_effect() {
    let entries = [entry(CONNECTION, &format!("optional;events={CONNECTION_EVENT_METRIC:#x}"))];
    let world = World::start(&entries, || vec![Module::register(CONNECTION)]);
    let (mut client, attachment, _) = session(&world);
    backlog(&attachment, PASSIVE_LEVEL, true);
    state(&attachment, DISPATCH_LEVEL, CONNECTION_STATE_CLOSED, 2);
    assert_eq!(world.plane().control().extensions().malformed, 2);
    ping(&mut client);
    let heard = world.end();
    assert!(!heard.iter().any(|heard| matches!(heard, Heard::Callback { .. })));
}

#[test]
fn closed_of_the_listening_socket_does_no_harm() {
    let world = World::start(&[], || vec![Module::register(CONNECTION)]);
    world.plane().address();
    let listening = attachment(&world.modules[0], 0);
    state(&listening, DISPATCH_LEVEL, CONNECTION_STATE_CLOSED, 2);
    let (mut client, ..) = session(&world);
    ping(&mut client);
    world.end();
}

/// What weir's own provider told of the first session: event and value.
fn own(heard: &[Heard]) -> Vec<(u32, u64)> {
    let of = |heard: &Heard| match *heard {
        Heard::Callback { session: 1, code, value, provider: Builtin, .. } => Some((code, value)),
        _ => None,
    };
    heard.iter().filter_map(of).collect()
}

fn start(change: impl FnOnce(&mut Settings)) -> (World, Client) {
    let mut world = World::prepare(narrow());
    let mut settings = settings(&[]);
    change(&mut settings);
    world.run(&settings);
    let mut client = world.plane().client();
    ping(&mut client);
    wait_settled(&world, 1, CONNECTION);
    (world, client)
}

#[test]
fn the_builtin_provider_tells_of_the_beginning_and_the_end_and_its_reason() {
    for (how, reason) in [("finished", 1_u64), ("reset", 2)] {
        let (world, client) = start(|_| ());
        if how == "reset" {
            client.peer.reset();
        } else {
            client.peer.end();
        }
        eventually("the session is gone", || world.plane().control().counters().closed == 1);
        let heard = world.end();
        let closed = u64::from(CONNECTION_STATE_CLOSED) | reason << 32;
        let established = u64::from(CONNECTION_STATE_ESTABLISHED);
        assert_eq!(
            own(&heard),
            [(CONNECTION_EVENT_STATE, established), (CONNECTION_EVENT_STATE, closed)],
            "{how}"
        );
    }
}

#[test]
fn the_builtin_provider_tells_the_end_when_weir_stops() {
    let (world, client) = start(|_| ());
    let heard = world.end();
    let closed = |told: &&(u32, u64)| told.0 == CONNECTION_EVENT_STATE && told.1 & 0xFFFF == 2;
    assert_eq!(own(&heard).iter().filter(closed).count(), 1);
    drop(client);
}

#[test]
fn the_builtin_provider_tells_when_a_backlog_crosses_its_marks() {
    let (world, mut client) = start(|settings| settings.send_backlog_mark = 1500);
    flood(&mut client);
    world.wait("the crossing is told", |heard| {
        own(heard).iter().any(|(code, bytes)| *code == CONNECTION_EVENT_BACKLOG && *bytes >= 1500)
    });
    client.peer.stall(false);
    for _ in 0..60 {
        client.receive().unwrap();
    }
    world.wait("the crossing back is told", |heard| {
        own(heard).iter().any(|(code, bytes)| *code == CONNECTION_EVENT_BACKLOG && *bytes <= 750)
    });
    ping(&mut client);
    let heard = world.end();
    let crossings = heard.iter().filter_map(|heard| match heard {
        Heard::Callback { session: 1, code: CONNECTION_EVENT_BACKLOG, data, .. } => {
            Some((data[8..12] == 1_u32.to_le_bytes(), data[12..16] == 1_u32.to_le_bytes()))
        }
        _ => None,
    });
    for (at, (is_send, above)) in crossings.enumerate() {
        assert!(is_send);
        assert_eq!(above, at % 2 == 0, "they alternate");
    }
}

#[test]
fn the_builtin_provider_samples_the_counters_as_often_as_the_settings_say() {
    let (world, mut client) = start(|settings| settings.extension_metric_seconds = 1);
    world.wait("a sample is told", |heard| {
        own(heard).iter().any(|(code, received)| *code == CONNECTION_EVENT_METRIC && *received != 0)
    });
    ping(&mut client);
    let heard = world.end();
    let sample = heard.iter().find_map(|heard| match heard {
        Heard::Callback { session: 1, code: CONNECTION_EVENT_METRIC, data, .. } => Some(data.clone()),
        _ => None,
    });
    let sent = u64::from_le_bytes(sample.unwrap()[..8].try_into().unwrap());
    assert_ne!(sent, 0);
}

#[test]
fn a_connection_that_is_there_is_sampled_as_often_as_settings_that_change_say() {
    for before in [0, 86_400] {
        let (world, client) = start(|settings| settings.extension_metric_seconds = before);
        world.plane().change(&Settings { extension_metric_seconds: 1, ..settings(&[]) });
        world.wait("a sample is told", |heard| {
            own(heard).iter().any(|(code, _)| *code == CONNECTION_EVENT_METRIC)
        });
        drop(client);
        world.end();
    }
}

#[test]
fn events_that_are_off_are_not_told_by_the_builtin_provider() {
    let world = World::start(&[format!("{}=optional;events=0x4", CONNECTION.guid())], Vec::new);
    let mut client = world.plane().client();
    ping(&mut client);
    wait_settled(&world, 1, CONNECTION);
    client.peer.reset();
    eventually("the session is gone", || world.plane().control().counters().closed == 1);
    assert_eq!(own(&world.end()), []);
}

#[test]
fn marks_go_to_every_provider_that_takes_them() {
    let mut world = World::prepare(control_support::boot(wsk::Config::default()));
    world.modules = vec![Module::register(CONNECTION), Module::register(CONNECTION)];
    let mut settings = settings(&[]);
    settings.send_backlog_mark = 1000;
    settings.receive_backlog_mark = 600;
    world.run(&settings);
    let mut client = world.plane().client();
    ping(&mut client);
    for module in &world.modules {
        let connection = attachment(module, 1);
        let marks = |direction, high| (connection.id, SetMarks { direction, low: high / 2, high });
        eventually("the marks are set", || {
            let set = module.functions();
            set.contains(&marks(0, 600)) && set.contains(&marks(1, 1000))
        });
    }
    world.end();
}
