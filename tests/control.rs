//! The control socket: what an operator and a peer can count on.
#![cfg(feature = "sim")]

mod control_support;

use control_support::client::{Client, first_message, receive_frame, send_frame};
use control_support::{
    OBSERVER, OPERATOR, Plane, Told, boot, eventually, listen, parameters, passive, set_list, sockets,
};
use ntsim::fault;
use ntsim::wsk::{self, CallbackIrql, Category, Completion, memory};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weir::config::Settings;
use weir::control::End;
use weir::control::protocol::message::{Begin, Chunk, Empty, ErrorCode, Hello, Reply, Request, Subscribe};
use weir::control::protocol::noise::Keys;
use weir::control::protocol::role::Role;

fn status(end: End) -> i32 {
    end.status().0
}

const PING: Request<'_> = Request::Ping(Empty {});

#[track_caller]
fn ping(client: &mut Client) {
    client.ask(&PING, |answer| assert!(matches!(answer, Ok(Reply::Ping(_))), "{answer:?}"));
}

#[test]
fn a_peer_is_answered_and_its_end_is_in_good_order() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    for _ in 0..100 {
        ping(&mut client);
    }
    client.peer.end();
    assert_eq!(client.peer.recv_to_end().unwrap(), []);
    assert!(!client.peer.is_reset());
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, status(End::Finished)));
    let counters = plane.control().counters();
    assert_eq!((counters.accepted, counters.closed, counters.refused), (1, 1, 0));
    assert_eq!((counters.authenticated, counters.rejected, counters.requests), (1, 0, 100));
    plane.end();
}

#[test]
fn every_way_to_complete_and_every_level_gives_the_same_life() {
    for completion in [Completion::Inline, Completion::Pending, Completion::OtherThread] {
        for callback_irql in [CallbackIrql::Passive, CallbackIrql::Dispatch] {
            let config = wsk::Config { completion, callback_irql, ..wsk::Config::default() };
            let plane = Plane::start(config, &parameters());
            let (mut first, mut second) = (plane.client(), plane.client());
            for _ in 0..20 {
                ping(&mut first);
                ping(&mut second);
            }
            first.peer.end();
            assert_eq!(first.peer.recv_to_end().unwrap(), [], "{completion:?} {callback_irql:?}");
            second.peer.reset();
            eventually("both are gone", || plane.control().counters().closed == 2);
            plane.end();
        }
    }
}

#[test]
fn requests_arrive_however_the_stream_is_cut() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    for size in 1..40 {
        let frames: Vec<u8> = (0..8).flat_map(|id| client.frame(Some(id), &PING)).collect();
        for piece in frames.chunks(size) {
            client.peer.send(piece).unwrap();
        }
        for _ in 0..8 {
            client.receive().unwrap();
        }
    }
    plane.end();
}

#[test]
fn requests_by_the_thousand_hold_the_peer_up_and_lose_nothing() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    for round in 0..10 {
        // More than any inbox has room for, before the first answer is read.
        let frames: Vec<u8> = (0..1000).flat_map(|id| client.frame(Some(id), &PING)).collect();
        std::thread::scope(|scope| {
            let peer = &client.peer;
            let sender = scope.spawn(|| peer.send(&frames));
            let mut received = 0;
            while received < 1000 {
                receive_frame(peer).unwrap();
                received += 1;
            }
            sender.join().unwrap().unwrap();
        });
        assert_eq!(plane.control().counters().requests, (round + 1) * 1000);
        // The answers' nonces have been passed over.
        client = plane.client();
        eventually("the one before goes", || plane.control().counters().closed == round + 1);
    }
    plane.end();
}

#[test]
fn no_socket_can_be_bound_to_the_same_address() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    plane.address();
    assert!(sockets(Category::Listen).iter().all(wsk::SocketRef::is_exclusive));
    plane.end();
}

#[test]
fn a_reset_ends_only_its_own_session() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let (first, mut second) = (plane.client(), plane.client());
    first.peer.reset();
    eventually("one is gone", || plane.control().counters().closed == 1);
    plane.wait_told(
        "the reset is told",
        |told| matches!(told, Told::Closed(_, end) if *end == status(End::Reset)),
    );
    ping(&mut second);
    plane.end();
}

#[test]
fn connections_over_the_limit_are_refused_and_a_free_place_is_used_again() {
    let plane = Plane::start(wsk::Config::default(), &Settings { control_max_sessions: 2, ..parameters() });
    let (first, second) = (plane.client(), plane.client());
    let third = plane.connect();
    third.wait_reset().unwrap();
    assert_eq!(plane.control().counters().refused, 1);
    assert!(!first.peer.is_reset() && !second.peer.is_reset());
    drop(first);
    eventually("one is gone", || plane.control().counters().closed == 1);
    ping(&mut plane.client());
    plane.end();
}

#[test]
fn a_silent_connection_is_ended() {
    let plane =
        Plane::start(wsk::Config::default(), &Settings { control_idle_timeout_ms: 150, ..parameters() });
    let mut client = plane.client();
    ping(&mut client);
    assert_eq!(client.peer.recv_to_end().unwrap(), []);
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, status(End::Idle)));
    plane.end();
}

#[test]
fn a_connection_that_speaks_is_not_idle() {
    let plane =
        Plane::start(wsk::Config::default(), &Settings { control_idle_timeout_ms: 400, ..parameters() });
    let mut client = plane.client();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(80));
        ping(&mut client);
    }
    assert_eq!(plane.control().counters().closed, 0);
    plane.end();
}

#[test]
fn who_does_not_say_who_he_is_is_ended_in_time() {
    let settings = Settings { control_handshake_timeout_ms: 150, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let silent = plane.connect();
    let halting = plane.connect();
    halting.send(&[&[0, 96], &first_message(&OPERATOR).1[..50]].concat()).unwrap();
    // A first message can be a recorded one: it is not enough.
    let replayed = plane.connect();
    send_frame(&replayed, &first_message(&OPERATOR).1).unwrap();
    receive_frame(&replayed).unwrap();
    let mut client = plane.client();
    ping(&mut client);
    for peer in [&silent, &halting, &replayed] {
        peer.wait_reset().unwrap();
    }
    eventually("three are gone", || plane.control().counters().closed == 3);
    let late = status(End::Late);
    eventually("all are told", || {
        plane.told().iter().filter(|told| matches!(told, Told::Closed(_, end) if *end == late)).count() == 3
    });
    ping(&mut client);
    plane.end();
}

#[test]
fn a_stranger_learns_nothing_and_is_counted() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let stranger = plane.connect();
    send_frame(&stranger, &first_message(&[0x55; 32]).1).unwrap();
    assert!(receive_frame(&stranger).is_err());
    let garbage = plane.connect();
    send_frame(&garbage, &[7; 96]).unwrap();
    assert!(receive_frame(&garbage).is_err());
    for frame in [&[0, 0][..], &[0, 97, 1], &[0xFF, 0xFF, 1], b"GET / HTTP/1.1\r\n\r\n"] {
        let peer = plane.connect();
        peer.send(frame).unwrap();
        assert!(receive_frame(&peer).is_err(), "{frame:?}");
    }
    // A frame of the right size for another message is none of this one.
    let short = plane.connect();
    send_frame(&short, &[1; 48]).unwrap();
    assert!(receive_frame(&short).is_err());
    eventually("all are gone", || plane.control().counters().closed == 7);
    assert_eq!(plane.control().counters().rejected, 7);
    let rejected = plane.told().into_iter().filter(|told| matches!(told, Told::Rejected(..))).count();
    assert_eq!(rejected, 7);
    ping(&mut plane.client());
    plane.end();
}

#[test]
fn a_message_that_was_changed_ends_the_connection() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    ping(&mut client);
    let mut frame = client.frame(Some(1), &PING);
    *frame.last_mut().unwrap() ^= 1;
    client.peer.send(&frame).unwrap();
    client.peer.wait_reset().unwrap();
    let nonsense = status(End::Nonsense);
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, nonsense));
    plane.end();
}

#[test]
fn no_more_than_so_many_strangers_are_there_at_a_time() {
    let settings = Settings { control_max_unauthenticated: 2, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let mut known = plane.client();
    ping(&mut known);
    let _waiting = [plane.connect(), plane.connect()];
    eventually("both wait", || plane.control().counters().accepted == 3);
    plane.connect().wait_reset().unwrap();
    assert_eq!(plane.control().counters().refused, 1);
    ping(&mut known);
    plane.end();
}

#[test]
fn a_source_that_opens_too_many_connections_is_refused_and_no_other_one_is() {
    let settings = Settings { control_connect_burst: 3, control_connect_rate: 1, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let address = plane.address();
    for _ in 0..3 {
        drop(plane.client());
    }
    eventually("they are gone", || plane.control().counters().closed == 3);
    plane.connect().wait_reset().unwrap();
    let other = memory::connect_from("127.0.0.9:5000".parse().unwrap(), address).unwrap();
    ping(&mut Client::connect(other, &OBSERVER).unwrap());
    assert_eq!(plane.control().counters().refused, 1);
    plane.end();
}

#[test]
fn too_many_requests_a_second_are_answered_later() {
    let settings = Settings { control_message_rate: 50, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let mut client = plane.client();
    let start = Instant::now();
    for _ in 0..70 {
        ping(&mut client);
    }
    // Fifty at once, then one after each fiftieth of a second.
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    let mut other = plane.client();
    ping(&mut other);
    plane.end();
}

#[test]
fn thousands_of_half_open_connections_keep_no_peer_out() {
    let settings = Settings {
        control_connect_burst: 8,
        control_connect_rate: 1,
        control_handshake_timeout_ms: 300,
        control_max_sessions: 64,
        control_max_unauthenticated: 60,
        ..parameters()
    };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let address = plane.address();
    let mut half_open = Vec::new();
    for number in 0..3000_u32 {
        let source = format!("127.1.{}.{}:6000", number % 4, 1).parse().unwrap();
        let Ok(mut peer) = memory::connect_from(source, address) else { continue };
        peer.set_patience(Duration::from_millis(1));
        let _sent = peer.try_send(&first_message(&OPERATOR).1[..(number % 90) as usize]);
        half_open.push(peer);
        if number % 500 == 499 {
            let from = format!("127.2.{}.1:5000", number / 500).parse().unwrap();
            let other = memory::connect_from(from, address).unwrap();
            ping(&mut Client::connect(other, &OPERATOR).unwrap());
        }
    }
    drop(half_open);
    plane.end();
}

#[test]
fn a_connection_can_be_cut_at_every_byte() {
    for cut in 0..98 + 40 {
        let plane = Plane::start(wsk::Config { seed: cut, ..wsk::Config::default() }, &parameters());
        let peer = plane.connect();
        let (initiator, first) = first_message(&OPERATOR);
        let first = [&[0, 96], &first[..]].concat();
        let cut = usize::try_from(cut).unwrap();
        if cut < first.len() {
            peer.send(&first[..cut]).unwrap();
            if cut % 2 == 0 { peer.end() } else { peer.reset() }
        } else {
            drop((initiator, peer));
            let mut client = plane.client();
            let frame = client.frame(Some(1), &PING);
            let cut = (cut - first.len()).min(frame.len());
            client.peer.send(&frame[..cut]).unwrap();
            if cut % 2 == 0 {
                client.peer.end();
            } else {
                client.peer.reset();
            }
            drop(client);
        }
        eventually("everything is gone", || {
            let counters = plane.control().counters();
            counters.closed == counters.accepted && counters.accepted > 0
        });
        ping(&mut plane.client());
        plane.end();
    }
}

#[test]
fn weir_listens_on_several_addresses() {
    let mut settings = parameters();
    set_list(&mut settings, "ControlListen", &["127.0.0.1:4001", "[::1]:4002", "127.0.0.2:4003"]);
    let plane = Plane::start(wsk::Config::default(), &settings);
    eventually("all listen", || plane.control().counters().listeners == 3);
    for address in ["127.0.0.1:4001", "[::1]:4002", "127.0.0.2:4003"] {
        let peer = memory::connect(address.parse().unwrap()).unwrap();
        ping(&mut Client::connect(peer, &OPERATOR).unwrap());
    }
    let known: Vec<_> =
        plane.control().local_addresses(&mut passive()).map(|address| address.port()).collect();
    assert_eq!(known, [4001, 4002, 4003]);
    plane.end();
}

fn dialling(address: &str) -> Settings {
    let mut settings = parameters();
    listen(&mut settings, "");
    set_list(&mut settings, "ControlDial", &[&format!("root@{address}")]);
    settings
}

#[test]
fn a_controller_is_dialled_and_asks() {
    let sim = boot(wsk::Config::default());
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let plane = Plane::start_on(sim, &dialling("192.0.2.1:443"));
    let mut client = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut client);
    client.ask(&Request::Sessions(weir::control::protocol::message::From { from: None }), |answer| {
        let Ok(Reply::Sessions(sessions)) = answer else { panic!("{answer:?}") };
        let sessions: Vec<_> = sessions.sessions.iter().collect();
        assert_eq!(sessions.len(), 1);
        assert!(sessions[0].dialled);
        assert_eq!((sessions[0].peer, sessions[0].remote_port), (Some("root"), 443));
    });
    // The controller goes, and is dialled again.
    client.peer.end();
    drop(client);
    let mut again = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut again);
    assert_eq!(plane.control().counters().dialled, 2);
    plane.end();
}

#[test]
fn a_controller_is_dialled_by_a_provider_without_events_too() {
    let sim = boot(wsk::Config::incomplete());
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let mut settings = dialling("192.0.2.1:443");
    // By the listener it is known that there are no events.
    listen(&mut settings, "127.0.0.1:47474");
    let plane = Plane::start_on(sim, &settings);
    let mut client = Client::answer(server.accept().unwrap(), &OPERATOR).unwrap();
    for _ in 0..20 {
        ping(&mut client);
    }
    plane.end();
}

#[test]
fn a_controller_that_is_not_there_is_tried_again_and_holds_no_stop_up() {
    let mut plane = Plane::start(wsk::Config::default(), &dialling("192.0.2.1:443"));
    plane.wait_told("the failure is told", |told| matches!(told, Told::DialFailed(..)));
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    ping(&mut Client::answer(server.accept().unwrap(), &OPERATOR).unwrap());
    let took = plane.stop();
    assert!(took < Duration::from_secs(5), "{took:?}");
    plane.end();
}

#[test]
fn a_controller_that_is_not_the_one_that_was_meant_gets_nothing() {
    let sim = boot(wsk::Config::default());
    let server = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let plane = Plane::start_on(sim, &dialling("192.0.2.1:443"));
    let peer = server.accept().unwrap();
    receive_frame(&peer).unwrap();
    send_frame(&peer, &[9; 48]).unwrap();
    peer.wait_reset().unwrap();
    plane.wait_told("it is told", |told| matches!(told, Told::Rejected(..)));
    assert_eq!(plane.control().counters().authenticated, 0);
    plane.end();
}

#[test]
fn a_connect_that_hangs_holds_no_stop_up() {
    let sim = boot(wsk::Config::default());
    let remote = "192.0.2.1:443".parse().unwrap();
    memory::set_silent(remote, true).unwrap();
    let mut plane = Plane::start_on(sim, &dialling("192.0.2.1:443"));
    eventually("it is dialled", || plane.control().counters().dialled == 1);
    let took = plane.stop();
    assert!(took < Duration::from_secs(5), "{took:?}");
    plane.end();
}

#[test]
fn the_stop_ends_sessions_in_good_order() {
    let mut plane = Plane::start(wsk::Config::default(), &parameters());
    let peers: Vec<_> = (0..4).map(|_| plane.client()).collect();
    let readers: Vec<_> = peers
        .into_iter()
        .map(|client| {
            std::thread::spawn(move || {
                let end = client.peer.recv_to_end().map(|rest| rest.len());
                client.peer.end();
                end.ok()
            })
        })
        .collect();
    plane.stop();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Some(0));
    }
    let stopped = plane
        .told()
        .iter()
        .filter(|told| matches!(told, Told::Closed(_, end) if *end == status(End::Stopping)))
        .count();
    assert_eq!(stopped, 4);
    plane.end();
}

#[test]
fn a_peer_that_takes_nothing_cannot_hold_the_stop_up() {
    let mut plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    client.peer.stall(true);
    client.send(Some(1), &PING);
    let took = plane.stop();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(client.peer.is_reset());
    plane.end();
}

#[test]
fn a_peer_that_takes_nothing_for_too_long_is_dropped_alone() {
    let settings = Settings { control_idle_timeout_ms: 400, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let (mut stuck, mut other) = (plane.client(), plane.client());
    stuck.peer.stall(true);
    let start = Instant::now();
    while !stuck.peer.is_reset() {
        assert!(start.elapsed() < Duration::from_secs(10));
        // It speaks, and does not listen.
        let frame = stuck.frame(Some(1), &PING);
        let _sent = stuck.peer.try_send(&frame);
        ping(&mut other);
        std::thread::sleep(Duration::from_millis(20));
    }
    ping(&mut other);
    plane.end();
}

#[test]
fn a_listener_that_dies_is_opened_again_on_its_port() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let address = plane.address();
    let mut kept = plane.client();
    for round in 2..4 {
        sockets(Category::Listen).last().unwrap().fail();
        eventually("a new listener is there", || plane.control().counters().listeners == round);
        assert_eq!(plane.address(), address);
    }
    ping(&mut plane.client());
    ping(&mut kept);
    plane.end();
}

#[test]
fn a_connection_socket_that_dies_is_closed() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let _client = plane.client();
    sockets(Category::Connection).first().unwrap().fail();
    eventually("it is closed", || plane.control().counters().closed == 1);
    plane.end();
}

#[test]
fn a_port_that_is_taken_is_tried_again_until_it_is_free() {
    let sim = boot(wsk::Config::default());
    let taken: SocketAddr = "127.0.0.1:47474".parse().unwrap();
    let server = memory::listen(taken).unwrap();
    let mut settings = parameters();
    listen(&mut settings, "127.0.0.1:47474");
    let plane = Plane::start_on(sim, &settings);
    plane.wait_told("the failure is told", |told| matches!(told, Told::ListenFailed(_)));
    drop(server);
    assert_eq!(plane.address(), taken);
    plane.end();
}

#[test]
fn the_unspecified_ipv6_address_takes_both_families() {
    let mut settings = parameters();
    listen(&mut settings, "[::]:0");
    let plane = Plane::start(wsk::Config::default(), &settings);
    let port = plane.address().port();
    for address in ["::1", "127.0.0.1"] {
        let peer = memory::connect(SocketAddr::new(address.parse().unwrap(), port)).unwrap();
        ping(&mut Client::connect(peer, &OPERATOR).unwrap());
    }
    plane.end();
}

#[test]
fn wsk_that_comes_late_is_waited_for_and_a_stop_is_not() {
    let late = wsk::Config { ready: false, ..wsk::Config::default() };
    let plane = Plane::start(late, &parameters());
    assert_eq!(plane.control().counters().listeners, 0);
    plane.wait_told("that WSK is not there", |told| matches!(told, Told::Waiting(_)));
    wsk::set_ready(true);
    plane.address();
    let told = plane.end();
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Waiting(_))).count(), 1);

    let mut plane = Plane::start(late, &parameters());
    let took = plane.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    plane.end();
}

#[test]
fn wsk_of_another_major_version_is_not_used() {
    let plane =
        Plane::start(wsk::Config { versions: (0x0200, 0x0300), ..wsk::Config::default() }, &parameters());
    assert_eq!(plane.control().local_addresses(&mut passive()).count(), 0);
    assert_eq!(plane.control().counters().listeners, 0);
    plane.end();
}

#[test]
fn wsk_of_another_minor_version_is_used() {
    let plane =
        Plane::start(wsk::Config { versions: (0x0101, 0x0105), ..wsk::Config::default() }, &parameters());
    plane.address();
    plane.end();
}

#[test]
fn the_address_is_known_when_the_driver_asks() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let addresses: Vec<_> = plane.control().local_addresses(&mut passive()).collect();
    assert_eq!(addresses, [plane.address()]);
    assert_ne!(addresses[0].port(), 0);
    plane.end();
}

#[test]
fn a_provider_without_events_and_control_operations_serves_by_request() {
    let mut settings = Settings { control_max_sessions: 2, ..parameters() };
    listen(&mut settings, "127.0.0.1:47474");
    let plane = Plane::start(wsk::Config::incomplete(), &settings);
    let (mut first, mut second) = (plane.client(), plane.client());
    for _ in 0..50 {
        ping(&mut first);
        ping(&mut second);
    }
    let third = plane.connect();
    third.wait_reset().unwrap();
    assert_eq!(plane.control().counters().refused, 1);
    first.peer.end();
    second.peer.reset();
    eventually("both are gone", || plane.control().counters().closed == 2);
    ping(&mut plane.client());
    plane.end();
}

#[test]
fn connections_that_arrive_while_weir_stops_are_left_to_nobody() {
    for seed in 0..8 {
        let mut plane = Plane::start(wsk::Config { seed, ..wsk::Config::default() }, &parameters());
        let address = plane.address();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        if let Ok(peer) = memory::connect(address) {
                            let _sent = peer.try_send(&first_message(&OPERATOR).1);
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            plane.stop();
            over.store(true, Ordering::Relaxed);
        });
        plane.end();
    }
}

#[test]
fn real_tcp_connections_are_served() {
    let mut plane = Plane::start(wsk::Config::tcp(), &parameters());
    let address = plane.address();
    let mut stream = TcpStream::connect(address).unwrap();
    let (initiator, first) = first_message(&OPERATOR);
    stream.write_all(&[&[0, 96], &first[..]].concat()).unwrap();
    let mut second = [0; 50];
    stream.read_exact(&mut second).unwrap();
    assert_eq!(second[..2], [0, 48]);
    initiator.finish(&mut second[2..]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    eventually("it is gone", || plane.control().counters().closed == 1);
    plane.stop();
    assert!(TcpStream::connect(address).is_err());
    plane.end();
}

/// A short life: start, a connection each in and out, stop.
fn live(plane: &mut Plane, parameters: &Settings) -> bool {
    if plane.try_start(parameters).is_err() {
        return false;
    }
    // A peer comes if there is somebody to come to.
    let Some(address) = plane.control().local_addresses(&mut passive()).next() else { return false };
    let Ok(mut peer) = memory::connect(address) else { return false };
    peer.set_patience(Duration::from_millis(200));
    let Ok(mut client) = Client::connect(peer, &OPERATOR) else { return false };
    let subscribe =
        Subscribe { credit: 100, level: Some(5), keywords: None, ids: None, snapshot: Some(true) };
    for request in [Request::Subscribe(subscribe), PING] {
        let frame = client.frame(Some(1), &request);
        let _sent = client.peer.try_send(&frame);
    }
    let answered = client.receive().is_ok() && client.receive().is_ok();
    client.peer.end();
    answered && client.peer.recv_to_end().is_ok()
}

#[test]
fn whatever_fails_once_nothing_is_left_behind() {
    let parameters = parameters();
    let calls = {
        let mut plane = Plane::prepare(boot(wsk::Config::default()));
        plane.sim.fault(fault::Plan::None);
        assert!(live(&mut plane, &parameters));
        plane.stop();
        let calls = plane.sim.fault_calls();
        plane.end();
        calls
    };
    assert!(calls > 20, "{calls}");
    for nth in 1..=calls {
        let mut plane = Plane::prepare(boot(wsk::Config { seed: nth, ..wsk::Config::default() }));
        plane.sim.fault(fault::Plan::Nth(nth));
        live(&mut plane, &parameters);
        plane.stop();
        plane.sim.fault(fault::Plan::None);
        plane.end();
    }
}

#[test]
fn when_much_fails_nothing_is_left_behind() {
    for seed in 0..60 {
        let mut plane = Plane::prepare(boot(wsk::Config { seed, ..wsk::Config::default() }));
        plane.sim.fault(fault::Plan::Seeded { seed, one_in: 12 });
        live(&mut plane, &parameters());
        plane.stop();
        plane.sim.fault(fault::Plan::None);
        plane.end();
    }
}

/// The settings with these peers, by name, role and private key.
fn with_peers(peers: &[(&str, Role, &[u8; 32])]) -> Settings {
    let mut settings = parameters();
    let texts: Vec<_> =
        peers.iter().map(|(name, role, key)| format!("{name}={role}:{}", Keys::new(key).public())).collect();
    set_list(&mut settings, "ControlPeers", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    settings
}

#[test]
fn a_peer_that_is_none_any_more_is_ended_and_a_new_one_may_come() {
    const OTHER: [u8; 32] = [0x55; 32];
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut operator = plane.client();
    let mut observer = Client::connect(plane.connect(), &OBSERVER).unwrap();
    ping(&mut operator);
    ping(&mut observer);
    // Another order, another name.
    plane.change(&with_peers(&[("new", Role::Operator, &OTHER), ("eyes", Role::Observer, &OBSERVER)]));
    operator.peer.wait_reset().unwrap();
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, status(End::Dismissed)));
    ping(&mut observer);
    observer.ask(&Request::Hello(Hello { version: 1, client: None }), |answer| {
        let Ok(Reply::Hello(welcome)) = answer else { panic!("{answer:?}") };
        assert_eq!((welcome.peer, welcome.role), ("eyes", Role::Observer));
    });
    assert!(Client::connect(plane.connect(), &OPERATOR).is_err(), "it is a stranger by now");
    ping(&mut Client::connect(plane.connect(), &OTHER).unwrap());
    plane.end();
}

#[test]
fn a_peer_whose_role_is_another_has_the_others_rights_at_once() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    let begin = Request::PolicyBegin(Begin { size: 1000, digest: [1; 32] });
    let begins =
        |client: &mut Client| client.ask(&begin, |answer| answer.map(drop).map_err(|failure| failure.code));
    assert_eq!(begins(&mut client), Ok(()));
    plane.change(&with_peers(&[("root", Role::Observer, &OPERATOR), ("eye", Role::Operator, &OBSERVER)]));
    let chunk = Request::PolicyChunk(Chunk { upload: 1, offset: 0, bytes: &[0; 10] });
    eventually("the right is gone", || begins(&mut client) == Err(ErrorCode::NotPermitted));
    assert_eq!(client.refused(&chunk), ErrorCode::NotPermitted);
    // What the one had begun is not in the way of the other.
    let mut other = Client::connect(plane.connect(), &OBSERVER).unwrap();
    assert_eq!(begins(&mut other), Ok(()));
    plane.change(&parameters());
    eventually("the right is back", || begins(&mut client) == Ok(()));
    plane.end();
}

/// Comes true once the worker has taken the settings over: whoever connects now is turned away.
#[track_caller]
fn turns_away(plane: &Plane) {
    eventually("another one is turned away", || {
        let mut peer = plane.connect();
        peer.set_patience(Duration::from_millis(100));
        peer.wait_reset().is_ok()
    });
}

#[test]
fn limits_and_times_that_change_hold_at_once() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let (mut first, mut second) = (plane.client(), plane.client());
    ping(&mut first);
    ping(&mut second);
    plane.change(&Settings { control_max_sessions: 2, ..parameters() });
    turns_away(&plane);
    // Never more than there were places for at the start.
    plane.change(&Settings { control_max_sessions: 1024, ..parameters() });
    let mut more = Vec::new();
    eventually("there is room for two more", || {
        if let Ok(client) = Client::connect(plane.connect(), &OPERATOR) {
            more.push(client);
        }
        more.len() == 2
    });
    turns_away(&plane);
    drop(more);
    plane.change(&Settings { control_max_unauthenticated: 1, ..parameters() });
    let silent = plane.connect();
    turns_away(&plane);
    drop(silent);
    plane.change(&Settings { control_connect_burst: 1, control_connect_rate: 1, ..parameters() });
    turns_away(&plane);
    ping(&mut first);
    plane.change(&Settings { control_idle_timeout_ms: 100, ..parameters() });
    assert_eq!(second.peer.recv_to_end().unwrap(), []);
    plane.wait_told(
        "it was silent for too long",
        |told| matches!(told, Told::Closed(2, end) if *end == status(End::Idle)),
    );
    plane.end();
}

#[test]
fn who_is_to_be_dialled_and_is_no_peer_any_more_is_not_until_he_is_one_again() {
    let sim = boot(wsk::Config::default());
    let listener = memory::listen("192.0.2.1:443".parse().unwrap()).unwrap();
    let settings = dialling("192.0.2.1:443");
    let plane = Plane::start_on(sim, &settings);
    let mut first = Client::answer(listener.accept().unwrap(), &OPERATOR).unwrap();
    ping(&mut first);
    let mut without = with_peers(&[("eye", Role::Observer, &OBSERVER)]);
    (without.control_listen, without.control_dial) = (settings.control_listen, settings.control_dial);
    plane.change(&without);
    first.peer.wait_reset().unwrap();
    eventually("its session is gone", || plane.control().counters().closed == 1);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(plane.control().counters().dialled, 1, "nobody is dialled");
    plane.change(&settings);
    ping(&mut Client::answer(listener.accept().unwrap(), &OPERATOR).unwrap());
    plane.end();
}

#[test]
fn who_asks_is_told_which_settings_are_not_the_defaults_and_which_wait() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let mut client = plane.client();
    ping(&mut client);
    plane.change(&Settings { ring_records: 512, verdict_sampling: 7, ..parameters() });
    let from = weir::control::protocol::message::From { from: None };
    let mut told = Vec::new();
    eventually("what waits is told", || {
        client.ask(&Request::Settings(from), |answer| {
            let Ok(Reply::Settings(settings)) = answer else { panic!("{answer:?}") };
            assert_eq!(settings.next, None);
            told = settings
                .settings
                .iter()
                .map(|it| (it.name.to_owned(), it.pending, it.value, it.next))
                .collect();
        });
        !told.is_empty()
    });
    assert_eq!(told, [("RingRecords".to_owned(), true, Some(4096), Some(512))]);
    plane.end();
}
