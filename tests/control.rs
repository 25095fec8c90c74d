//! The control socket: what an operator and a peer can count on.
#![cfg(feature = "sim")]

mod control_support;

use control_support::{Plane, Told, boot, eventually, parameters, passive, sockets};
use ntsim::fault;
use ntsim::wsk::{self, CallbackIrql, Category, Completion, memory};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir::control::{End, Parameters};
use weir::kernel::time::Interval;

fn status(end: End) -> i32 {
    end.status().0
}

#[test]
fn a_connection_is_accepted_its_bytes_counted_and_its_end_answered_in_good_order() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let peer = plane.connect();
    peer.send(&vec![7; 100_000]).unwrap();
    eventually("every byte is counted", || plane.control().counters().received == 100_000);
    peer.end();
    assert_eq!(peer.recv_to_end().unwrap(), []);
    assert!(!peer.is_reset());
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, status(End::Finished)));
    let counters = plane.control().counters();
    assert_eq!((counters.accepted, counters.closed, counters.refused), (1, 1, 0));
    plane.end();
}

#[test]
fn every_way_to_complete_and_every_level_gives_the_same_life() {
    for completion in [Completion::Inline, Completion::Pending, Completion::OtherThread] {
        for callback_irql in [CallbackIrql::Passive, CallbackIrql::Dispatch] {
            let config = wsk::Config { completion, callback_irql, ..wsk::Config::default() };
            let plane = Plane::start(config, &parameters());
            let (first, second) = (plane.connect(), plane.connect());
            first.send(b"first").unwrap();
            second.send(b"second").unwrap();
            eventually("the bytes are counted", || plane.control().counters().received == 11);
            first.end();
            assert_eq!(first.recv_to_end().unwrap(), [], "{completion:?} {callback_irql:?}");
            second.reset();
            eventually("both are gone", || plane.control().counters().closed == 2);
            plane.end();
        }
    }
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
    let (first, second) = (plane.connect(), plane.connect());
    eventually("both are accepted", || plane.control().counters().accepted == 2);
    first.reset();
    eventually("one is gone", || plane.control().counters().closed == 1);
    plane.wait_told(
        "the reset is told",
        |told| matches!(told, Told::Closed(_, end) if *end == status(End::Reset)),
    );
    second.send(b"still here").unwrap();
    eventually("the other one works", || plane.control().counters().received == 10);
    plane.end();
}

#[test]
fn connections_over_the_limit_are_refused_and_a_free_place_is_used_again() {
    let plane = Plane::start(wsk::Config::default(), &Parameters { max_sessions: 2, ..parameters() });
    let (first, second) = (plane.connect(), plane.connect());
    eventually("two are accepted", || plane.control().counters().accepted == 2);
    let third = plane.connect();
    third.wait_reset().unwrap();
    assert_eq!(plane.control().counters().refused, 1);
    assert!(!first.is_reset() && !second.is_reset());
    drop(first);
    eventually("one is gone", || plane.control().counters().closed == 1);
    let fourth = plane.connect();
    fourth.send(b"x").unwrap();
    eventually("the place is used again", || plane.control().counters().received == 1);
    plane.end();
}

#[test]
fn a_silent_connection_is_ended() {
    let plane = Plane::start(
        wsk::Config::default(),
        &Parameters { idle: Interval::from_millis(150), ..parameters() },
    );
    let peer = plane.connect();
    assert_eq!(peer.recv_to_end().unwrap(), []);
    plane.wait_told("the end is told", |told| *told == Told::Closed(1, status(End::Idle)));
    plane.end();
}

#[test]
fn a_connection_that_speaks_is_not_idle() {
    let idle = Interval::from_millis(400);
    let plane = Plane::start(wsk::Config::default(), &Parameters { idle, ..parameters() });
    let peer = plane.connect();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(80));
        peer.send(b"x").unwrap();
    }
    assert_eq!(plane.control().counters().closed, 0);
    plane.end();
}

#[test]
fn the_stop_ends_sessions_in_good_order() {
    let mut plane = Plane::start(wsk::Config::default(), &parameters());
    let peers: Vec<_> = (0..4).map(|_| plane.connect()).collect();
    eventually("all are accepted", || plane.control().counters().accepted == 4);
    let readers: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            std::thread::spawn(move || {
                let end = peer.recv_to_end().map(|rest| rest.len());
                peer.end();
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
    let peer = plane.connect();
    eventually("it is accepted", || plane.control().counters().accepted == 1);
    peer.stall(true);
    let took = plane.stop();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(peer.is_reset());
    plane.end();
}

#[test]
fn a_listener_that_dies_is_opened_again_on_its_port() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let address = plane.address();
    let kept = plane.connect();
    eventually("it is accepted", || plane.control().counters().accepted == 1);
    for round in 2..4 {
        sockets(Category::Listen).last().unwrap().fail();
        eventually("a new listener is there", || plane.control().counters().listeners == round);
        assert_eq!(plane.address(), address);
    }
    let peer = plane.connect();
    peer.send(b"again").unwrap();
    kept.send(b"still").unwrap();
    eventually("old and new connections work", || plane.control().counters().received == 10);
    plane.end();
}

#[test]
fn a_connection_socket_that_dies_is_closed() {
    let plane = Plane::start(wsk::Config::default(), &parameters());
    let _peer = plane.connect();
    eventually("it is accepted", || plane.control().counters().accepted == 1);
    sockets(Category::Connection).first().unwrap().fail();
    eventually("it is closed", || plane.control().counters().closed == 1);
    plane.end();
}

#[test]
fn a_port_that_is_taken_is_tried_again_until_it_is_free() {
    let sim = boot(wsk::Config::default());
    let taken: SocketAddr = "127.0.0.1:47474".parse().unwrap();
    let server = memory::listen(taken).unwrap();
    let plane = Plane::start_on(sim, &Parameters { listen: taken, ..parameters() });
    plane.wait_told("the failure is told", |told| matches!(told, Told::ListenFailed(_)));
    drop(server);
    assert_eq!(plane.address(), taken);
    plane.end();
}

#[test]
fn the_unspecified_ipv6_address_takes_both_families() {
    let listen = "[::]:0".parse().unwrap();
    let plane = Plane::start(wsk::Config::default(), &Parameters { listen, ..parameters() });
    let port = plane.address().port();
    let _v6 = memory::connect(SocketAddr::new("::1".parse().unwrap(), port)).unwrap();
    let _v4 = memory::connect(SocketAddr::new("127.0.0.1".parse().unwrap(), port)).unwrap();
    eventually("both are accepted", || plane.control().counters().accepted == 2);
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
    assert_eq!(plane.control().local_address(&mut passive()), None);
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
    let address = plane.control().local_address(&mut passive()).unwrap();
    assert_ne!(address.port(), 0);
    assert_eq!(address, plane.address());
    plane.end();
}

#[test]
fn a_provider_without_events_and_control_operations_serves_by_request() {
    let listen: SocketAddr = "127.0.0.1:47474".parse().unwrap();
    let parameters = Parameters { listen, max_sessions: 2, ..parameters() };
    let plane = Plane::start(wsk::Config::incomplete(), &parameters);
    let (first, second) = (plane.connect(), plane.connect());
    first.send(&vec![1; 20_000]).unwrap();
    second.send(&[2; 5]).unwrap();
    eventually("every byte is counted", || plane.control().counters().received == 20_005);
    let third = plane.connect();
    third.wait_reset().unwrap();
    assert_eq!(plane.control().counters().refused, 1);
    first.end();
    second.reset();
    eventually("both are gone", || plane.control().counters().closed == 2);
    let fourth = plane.connect();
    fourth.send(b"x").unwrap();
    eventually("a place is free again", || plane.control().counters().received == 20_006);
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
                            let _sent = peer.try_send(b"hello");
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
    let mut first = TcpStream::connect(address).unwrap();
    let mut second = TcpStream::connect(address).unwrap();
    first.write_all(&[1; 10_000]).unwrap();
    second.write_all(&[2; 10_000]).unwrap();
    eventually("every byte is counted", || plane.control().counters().received == 20_000);
    first.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(first.read(&mut [0; 8]).unwrap(), 0);
    eventually("one is gone", || plane.control().counters().closed == 1);
    let reader = std::thread::spawn(move || second.read(&mut [0; 8]).ok());
    plane.stop();
    assert_eq!(reader.join().unwrap(), Some(0));
    assert!(TcpStream::connect(address).is_err());
    plane.end();
}

/// A short life: start, a connection each in and out, stop.
fn live(plane: &mut Plane, parameters: &Parameters) -> bool {
    if plane.try_start(parameters).is_err() {
        return false;
    }
    // A peer comes if there is somebody to come to.
    let Some(address) = plane.control().local_address(&mut passive()) else { return false };
    let Ok(mut peer) = memory::connect(address) else { return false };
    peer.set_patience(Duration::from_millis(200));
    let _sent = peer.try_send(b"hello");
    peer.end();
    peer.recv_to_end().is_ok()
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
