//! Every fallible kernel call on the way up, and on the way down, fails once: the driver starts degraded or refuses, and
//! leaves nothing behind.
#![cfg(feature = "sim")]

mod common;

use common::{Machine, Peer, TCP, UDP};
use ntsim::fault::Plan;
use ntsim::registry::Value as Registry;

const POLICY: &str = r#"
version = 1
default = "allow"
[[rule]]
name = "no-telnet"
action = "block"
protocol = "tcp"
remote_port = 23
"#;

fn machine(control: bool) -> Machine {
    let machine = Machine::boot();
    machine.policy(POLICY);
    if control {
        machine.key();
        machine.set("ControlListen", Registry::Sz("127.0.0.1:0".into()));
        machine.set("ControlDial", Registry::MultiSz(vec!["root@192.0.2.9:443".into()]));
    }
    machine
}

/// A little of everything.
fn traffic() {
    for port in 0..20 {
        let blocked = Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 23);
        blocked.connect();
        let peer = Peer::new(UDP, "2001:db8::1", 53, "2001:db8:1::7", port);
        peer.inbound(8, 100);
        peer.accept(8, 100);
        peer.established();
        peer.outbound(&[40, 60]);
        if port % 2 == 0 {
            peer.closure();
        }
        if port % 4 != 0 {
            peer.end();
        }
    }
}

/// Starts, works, and stops under `plan`; says whether the start succeeded and whether a call was made to fail.
#[track_caller]
fn run(control: bool, plan: Plan) -> (bool, bool) {
    let mut machine = machine(control);
    machine.sim.fault(plan);
    let started = machine.load();
    if started.is_ok() {
        traffic();
    }
    machine.unload();
    let injected = machine.sim.faults_injected();
    machine.sim.fault(Plan::None);
    let report = machine.sim.report();
    assert!(
        report.is_clean(),
        "{plan:?} ({injected:#?}), {}:\n{report}\n{:#?}",
        if started.is_ok() { "started" } else { "refused" },
        machine.events.all(),
    );
    let all = machine.events.all();
    match started {
        Ok(()) => assert_eq!(all.last().unwrap().name, "DriverStopped", "{plan:?}: {all:#?}"),
        Err(_) => assert_eq!(all.last().unwrap().name, "StartFailed", "{plan:?}: {all:#?}"),
    }
    (started.is_ok(), !injected.is_empty())
}

/// For every k, the k-th fallible call fails, until a run has nothing left to fail.
fn walk(control: bool) {
    let (mut started, mut refused) = (0, 0);
    for k in 1.. {
        let (ok, injected) = run(control, Plan::Nth(k));
        if !injected {
            assert!(ok, "nothing failed, and the driver did not start");
            break;
        }
        if ok { started += 1 } else { refused += 1 }
    }
    println!("control {control}: {refused} refused, {started} started or had started");
    assert!(started > 0 && refused > 0, "{started} started, {refused} refused");
}

#[test]
fn whichever_call_fails_the_driver_starts_or_refuses_and_leaves_nothing() {
    walk(false);
}

#[test]
fn whichever_call_fails_with_a_control_socket_the_driver_starts_or_refuses_and_leaves_nothing() {
    walk(true);
}

#[test]
fn calls_that_fail_at_random_leave_nothing() {
    for seed in 0..60 {
        for one_in in [3, 10, 50] {
            run(seed % 2 == 0, Plan::Seeded { seed, one_in });
        }
    }
}
