//! What the driver promises of its unload: it returns, nothing is left, and every connection's end has been told.
#![cfg(feature = "sim")]

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Engine, Machine, Peer, TCP, UDP};
use ntsim::sys::fwp::{FWP_ACTION_PERMIT, FWPM_SERVICE_RUNNING, FWPM_SERVICE_STOPPED};
use ntsim::wfp::{Config, bfe_set_state, configure, flow_create};
use weir::wfp::layer::LAYERS;

const ALLOW_ALL: &str = "version = 1\ndefault = \"allow\"\n";

fn peer(port: u16) -> Peer {
    Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443)
}

fn live_flows(machine: &Machine, count: u16) -> Vec<Peer> {
    let peers: Vec<Peer> = (0..count).map(peer).collect();
    for peer in &peers {
        peer.connect();
        peer.outbound(&[40, 60]);
        peer.established();
    }
    machine.events.wait_for("FlowOpened", count.into());
    peers
}

#[test]
fn live_connections_are_let_go_and_told_to_be_over() {
    let machine = Machine::running(ALLOW_ALL);
    let peers = live_flows(&machine, 100);
    let events = machine.finish();
    let closed = events.named("FlowClosed");
    assert_eq!(closed.len(), peers.len());
    for told in closed {
        assert_eq!((told.text("reason"), told.number("bytes_out")), ("unload", 100));
    }
    // The flows themselves live on.
    for peer in &peers {
        assert_eq!(peer.outbound(&[1]).action, FWP_ACTION_PERMIT);
        peer.end();
    }
}

#[test]
fn contexts_that_are_deleted_later_are_waited_for() {
    let machine = Machine::running(ALLOW_ALL);
    configure(Config { asynchronous_delete: true, ..Config::default() });
    let peers = live_flows(&machine, 100);
    let events = machine.finish();
    assert_eq!(events.named("FlowClosed").len(), peers.len());
}

#[test]
fn flows_that_end_during_the_unload_are_told_once() {
    for asynchronous_delete in [false, true] {
        let mut machine = Machine::running(ALLOW_ALL);
        configure(Config { asynchronous_delete, ..Config::default() });
        let peers = live_flows(&machine, 300);
        std::thread::scope(|scope| {
            let ends = scope.spawn(|| {
                for peer in &peers {
                    peer.closure();
                    peer.end();
                }
            });
            machine.unload();
            ends.join().unwrap();
        });
        machine.assert_clean();
        assert_eq!(machine.events.named("FlowClosed").len(), peers.len());
    }
}

#[test]
fn unload_is_safe_under_traffic() {
    for round in 0..10 {
        let mut machine = Machine::running(ALLOW_ALL);
        configure(Config { asynchronous_delete: round % 2 == 1, ..Config::default() });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..3u16 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut port = 0;
                    while !stop.load(Ordering::Relaxed) {
                        port = (port + 1) % 1000;
                        let peer = peer(thread * 1000 + port);
                        peer.connect();
                        peer.outbound(&[40]);
                        peer.established();
                        peer.inbound(20, 10);
                        peer.reconnect();
                        if port % 2 == 0 {
                            peer.closure();
                        }
                        if port % 3 != 0 {
                            peer.end();
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            machine.unload();
            stop.store(true, Ordering::Relaxed);
        });
        machine.assert_clean();
        // Each connection that was told of has an end that was told of.
        let mut seen: Vec<u64> = machine
            .events
            .named("ConnectionVerdict")
            .iter()
            .map(|told| told.number("connection"))
            .filter(|&number| number != 0)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        let mut closed: Vec<u64> =
            machine.events.named("FlowClosed").iter().map(|told| told.number("connection")).collect();
        closed.sort_unstable();
        let told = closed.len();
        closed.dedup();
        assert_eq!(closed.len(), told, "an end was told twice");
        assert!(seen.iter().all(|number| closed.binary_search(number).is_ok()), "an end was not told");
    }
}

/// Filters that are not weir's keep calling its callouts while it unloads, until they are unregistered.
#[test]
fn filters_of_others_do_not_keep_it_from_unloading() {
    for round in 0..20u64 {
        let mut machine = Machine::boot();
        machine.policy(ALLOW_ALL);
        let engine = Engine::open();
        let sublayer = engine.sublayer(1, 0x4000);
        for layer in &LAYERS {
            engine.callout(layer.callout, layer.key);
            engine.calling_filter(layer.key, sublayer, layer.filter_action(), layer.callout);
        }
        machine.load().unwrap();
        assert_eq!(machine.events.named("DriverStarted")[0].number("degraded"), 1);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2u16 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut flows = VecDeque::new();
                    let mut attempt = peer(thread).auth_connect();
                    while !stop.load(Ordering::Relaxed) {
                        // Live flows, so that contexts stay.
                        let flow = flow_create();
                        attempt.run(Some(&flow));
                        flows.push_back(flow);
                        flows.drain(..flows.len().saturating_sub(500));
                    }
                });
            }
            machine.events.wait_for("ConnectionVerdict", 1);
            std::thread::sleep(Duration::from_micros(round * 100));
            machine.unload();
            stop.store(true, Ordering::Relaxed);
        });
        drop(engine);
        machine.assert_clean();
        assert!(!machine.events.named("FlowClosed").is_empty(), "nothing was tracked");
    }
}

#[test]
fn unload_works_while_the_engine_is_stopped_and_while_it_starts_and_stops() {
    let machine = Machine::running(ALLOW_ALL);
    let _flows = live_flows(&machine, 10);
    bfe_set_state(FWPM_SERVICE_STOPPED);
    let events = machine.finish();
    assert_eq!(events.named("FlowClosed").len(), 10);

    for _ in 0..5 {
        let mut machine = Machine::running(ALLOW_ALL);
        std::thread::scope(|scope| {
            let flips = scope.spawn(|| {
                for _ in 0..50 {
                    bfe_set_state(FWPM_SERVICE_STOPPED);
                    bfe_set_state(FWPM_SERVICE_RUNNING);
                }
            });
            machine.unload();
            flips.join().unwrap();
        });
        machine.assert_clean();
    }
}

#[test]
fn what_is_in_the_ring_at_the_unload_is_delivered() {
    let mut machine = Machine::running(ALLOW_ALL);
    {
        let _held = machine.events.hold();
        for port in 0..500 {
            let peer = Peer::new(UDP, "192.0.2.1", port, "198.51.100.7", 53);
            peer.connect();
            peer.end();
        }
    }
    machine.unload();
    machine.assert_clean();
    assert_eq!(machine.events.named("ConnectionVerdict").len(), 500);
    assert_eq!(machine.events.named("FlowClosed").len(), 500);
}
