//! What the driver promises about connections: who decides on them, what is counted, and what is told.
#![cfg(feature = "sim")]

mod common;

use std::net::IpAddr;
use std::sync::Mutex;
use std::thread;

use common::{Engine, ICMP, Machine, Peer, TCP, Told, UDP};
use ntsim::fault::Plan;
use ntsim::registry::Value as Registry;
use ntsim::sys::fwp::*;
use ntsim::wfp::bfe_set_state;

const BLOCKED: u32 = FWP_ACTION_BLOCK;
const PERMITTED: u32 = FWP_ACTION_PERMIT;

const TELNET: &str = r#"
version = 1
default = "allow"

[[rule]]
name = "no-telnet"
action = "block"
protocol = "tcp"
remote_port = 23
direction = "out"

[[rule]]
name = "watch-dns"
action = "audit"
protocol = "udp"
remote_port = 53
direction = "out"

[[rule]]
name = "no-smb-from-there"
action = "block"
protocol = "tcp"
direction = "in"
local_port = 445
remote = ["203.0.113.0/24", "2001:db8:bad::/48"]
"#;

const BLOCK_ALL: &str = "version = 1\ndefault = \"block\"\n";
const ALLOW_ALL: &str = "version = 1\ndefault = \"allow\"\n";

fn telnet() -> Peer {
    Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23)
}

fn web() -> Peer {
    Peer::new(TCP, "192.0.2.1", 50_001, "198.51.100.7", 443)
}

/// The whole of an outbound connection, with its opening packet.
fn whole(peer: &Peer) {
    assert_eq!(peer.connect().action, PERMITTED);
    peer.outbound(&[40]);
    peer.established();
    peer.closure();
    peer.end();
}

#[track_caller]
fn assert_fields(told: &Told, fields: &[(&str, &str)]) {
    for (field, text) in fields {
        assert_eq!(told.text(field), *text, "{field} of {told:?}");
    }
}

#[test]
fn a_start_and_a_stop_leave_nothing_behind() {
    let mut machine = Machine::boot();
    machine.load().unwrap();
    let started = machine.events.named("DriverStarted");
    assert_eq!(started[0].number("degraded"), 0, "{:?}", machine.events.all());
    let events = machine.finish();
    assert_eq!(events.all().last().unwrap().name, "DriverStopped");
}

#[test]
fn the_driver_can_be_loaded_again_and_again() {
    let mut machine = Machine::boot();
    for _ in 0..20 {
        machine.load().unwrap();
        machine.unload();
        machine.assert_clean();
    }
}

#[test]
fn an_outbound_connection_is_decided_by_the_first_rule_that_matches() {
    let machine = Machine::running(TELNET);
    assert_eq!(telnet().connect().action, BLOCKED);
    assert_eq!(web().connect().action, PERMITTED);
    let v6 = Peer::new(TCP, "2001:db8::1", 50_000, "2001:db8:1::7", 23);
    assert_eq!(v6.connect().action, BLOCKED);
    let v6 = Peer::new(TCP, "2001:db8::1", 50_000, "2001:db8:1::7", 24);
    assert_eq!(v6.connect().action, PERMITTED);
    // The rule is for the other direction.
    let inbound = Peer::new(TCP, "192.0.2.1", 4000, "198.51.100.7", 23);
    assert_eq!(inbound.accept(20, 0).action, PERMITTED);
    machine.finish();
}

#[test]
fn an_inbound_connection_is_decided_by_the_first_rule_that_matches() {
    let machine = Machine::running(TELNET);
    let blocked = Peer::new(TCP, "192.0.2.1", 445, "203.0.113.9", 50_000);
    assert_eq!(blocked.accept(20, 0).action, BLOCKED);
    let elsewhere = Peer::new(TCP, "192.0.2.1", 445, "203.0.114.9", 50_000);
    assert_eq!(elsewhere.accept(20, 0).action, PERMITTED);
    let blocked = Peer::new(TCP, "2001:db8::1", 445, "2001:db8:bad::9", 50_000);
    assert_eq!(blocked.accept(20, 0).action, BLOCKED);
    let elsewhere = Peer::new(TCP, "2001:db8::1", 445, "2001:db8:bae::9", 50_000);
    assert_eq!(elsewhere.accept(20, 0).action, PERMITTED);
    machine.finish();
}

#[test]
fn a_verdict_is_told_with_the_connection_as_the_wire_has_it() {
    let machine = Machine::running(TELNET);
    telnet().connect();
    let v6 = Peer::new(TCP, "2001:db8::1", 445, "2001:db8:bad::9", 50_000);
    v6.accept(20, 0);
    let dns = Peer::new(UDP, "192.0.2.1", 5353, "198.51.100.53", 53);
    assert_eq!(dns.connect().action, PERMITTED, "audit does not block");
    web().connect();
    let told = machine.events.wait_for("ConnectionVerdict", 4);
    assert_fields(
        &told[0],
        &[
            ("verdict", "block"),
            ("rule", "0"),
            ("generation", "1"),
            ("direction", "out"),
            ("protocol", "6"),
            ("local", "192.0.2.1"),
            ("local_port", "50000"),
            ("remote", "198.51.100.7"),
            ("remote_port", "23"),
            ("reauthorized", "false"),
            ("connection", "0"),
        ],
    );
    assert_fields(
        &told[1],
        &[
            ("verdict", "block"),
            ("rule", "2"),
            ("direction", "in"),
            ("local", "2001:db8::1"),
            ("local_port", "445"),
            ("remote", "2001:db8:bad::9"),
            ("remote_port", "50000"),
        ],
    );
    assert_fields(&told[2], &[("verdict", "audit"), ("rule", "1"), ("protocol", "17")]);
    assert_ne!(told[2].number("connection"), 0);
    assert_fields(&told[3], &[("verdict", "allow"), ("rule", "4294967295")]);
    machine.finish();
}

#[test]
fn a_rule_on_the_application_matches_that_application_only() {
    let machine = Machine::running(
        r#"
version = 1
default = "block"
[[rule]]
name = "curl"
action = "allow"
app = '\device\harddiskvolume*\windows\system32\curl.exe'
"#,
    );
    let mut peer = web();
    assert_eq!(peer.connect().action, BLOCKED, "an EMPTY application matches no rule that names one");
    peer.app = Some(r"\device\harddiskvolume3\windows\system32\curl.exe".into());
    assert_eq!(peer.connect().action, PERMITTED);
    peer.app = Some(r"\device\harddiskvolume3\windows\system32\curl.exe.bak".into());
    assert_eq!(peer.connect().action, BLOCKED);
    machine.finish();
}

#[test]
fn icmp_type_and_code_are_no_ports() {
    let machine = Machine::running(
        r#"
version = 1
default = "allow"
[[rule]]
name = "port-8"
action = "block"
local_port = 8
"#,
    );
    // An echo request: type 8 where a port would stand.
    let ping = Peer::new(ICMP, "192.0.2.1", 8, "198.51.100.7", 0);
    assert_eq!(ping.connect().action, PERMITTED);
    let tcp = Peer::new(TCP, "192.0.2.1", 8, "198.51.100.7", 80);
    assert_eq!(tcp.connect().action, BLOCKED);
    let told = machine.events.wait_for("ConnectionVerdict", 1);
    assert_fields(&told[0], &[("protocol", "1"), ("local_port", "8"), ("remote_port", "0")]);
    machine.finish();
}

#[test]
fn fields_that_are_empty_or_beyond_the_value_count_match_no_rule() {
    let machine = Machine::running(TELNET);
    let peer = telnet();
    let mut empty = peer.auth_connect();
    empty.clear(field::ale_auth_connect::IP_REMOTE_PORT);
    assert_eq!(empty.run(Some(&peer.flow)).action, PERMITTED);
    let mut wrong_type = peer.auth_connect();
    wrong_type.set(field::ale_auth_connect::IP_REMOTE_PORT, common::Field::U32(23));
    assert_eq!(wrong_type.run(None).action, PERMITTED);
    let mut short = peer.auth_connect();
    short.truncate(field::ale_auth_connect::IP_REMOTE_PORT);
    assert_eq!(short.run(None).action, PERMITTED);
    // What Windows 7 has is enough.
    let mut old = peer.auth_connect();
    old.truncate(32);
    assert_eq!(old.run(None).action, BLOCKED);
    machine.finish();
}

#[test]
fn a_connection_without_a_flow_is_decided_on_and_counted_as_untracked() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    assert_eq!(peer.auth_connect().run(None).action, PERMITTED);
    let untracked = machine.events.wait_for("FlowsUntracked", 1);
    assert_eq!(untracked[0].number("count"), 1);
    assert_eq!(machine.events.wait_for("ConnectionVerdict", 1)[0].number("connection"), 0);
    let events = machine.finish();
    assert!(events.named("FlowClosed").is_empty());
}

#[test]
fn what_an_outbound_connection_carries_is_counted_exactly() {
    let machine = Machine::running(ALLOW_ALL);
    for (local, remote) in [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8:1::7")] {
        let peer = Peer::new(TCP, local, 50_000, remote, 443);
        peer.connect();
        peer.outbound(&[40]); // SYN
        peer.inbound(40, 0); // SYN-ACK
        peer.established();
        peer.outbound(&[20, 1480, 1480, 620]); // one list, four packets
        peer.inbound(32, 1448);
        peer.inbound(32, 0);
        peer.closure();
        peer.end();
    }
    for closed in machine.events.wait_for("FlowClosed", 2) {
        assert_fields(
            &closed,
            &[
                ("packets_out", "5"),
                ("bytes_out", "3640"),
                ("packets_in", "3"),
                ("bytes_in", "1552"),
                ("reason", "closure"),
                ("verdict", "allow"),
                ("direction", "out"),
            ],
        );
    }
    machine.finish();
}

#[test]
fn the_packet_that_opens_an_inbound_connection_is_counted_once() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = Peer::new(UDP, "192.0.2.1", 53, "198.51.100.7", 50_000);
    // It passes INBOUND_TRANSPORT first, where the flow has no context yet.
    peer.inbound(8, 100);
    peer.accept(8, 100);
    peer.established();
    peer.outbound(&[208]);
    peer.inbound(8, 50);
    peer.closure();
    peer.end();
    let closed = machine.events.wait_for("FlowClosed", 1);
    assert_fields(
        &closed[0],
        &[
            ("packets_in", "2"),
            ("bytes_in", "166"),
            ("packets_out", "1"),
            ("bytes_out", "208"),
            ("direction", "in"),
        ],
    );
    machine.finish();
}

#[test]
fn a_blocked_connection_is_not_tracked() {
    let machine = Machine::running(BLOCK_ALL);
    let peer = web();
    assert_eq!(peer.connect().action, BLOCKED);
    peer.outbound(&[40]);
    peer.closure();
    peer.end();
    let events = machine.finish();
    assert!(events.named("FlowClosed").is_empty());
    assert!(events.named("FlowsUntracked").is_empty(), "nothing was lost");
    assert_eq!(events.named("ConnectionVerdict").len(), 1);
}

#[test]
fn opened_and_closed_are_told_once_and_in_order() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.connect();
    peer.established();
    peer.established();
    peer.closure();
    peer.closure();
    peer.end();
    let events = machine.finish();
    let order: Vec<&str> = events
        .all()
        .iter()
        .map(|told| told.name)
        .filter(|name| ["ConnectionVerdict", "FlowOpened", "FlowClosed"].contains(name))
        .collect();
    assert_eq!(order, ["ConnectionVerdict", "FlowOpened", "FlowClosed"]);
    let numbers: Vec<u64> = ["ConnectionVerdict", "FlowOpened", "FlowClosed"]
        .map(|name| events.named(name)[0].number("connection"))
        .to_vec();
    assert!(numbers[0] != 0 && numbers.iter().all(|&number| number == numbers[0]), "{numbers:?}");
}

#[test]
fn a_flow_that_goes_without_an_endpoint_closure_is_closed_all_the_same() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.connect();
    peer.outbound(&[40]);
    peer.end();
    let closed = machine.events.wait_for("FlowClosed", 1);
    assert_fields(&closed[0], &[("reason", "flow-deleted"), ("packets_out", "1")]);
    let events = machine.finish();
    assert_eq!(events.named("FlowClosed").len(), 1);
    assert!(events.named("FlowOpened").is_empty());
}

#[test]
fn connections_that_share_their_endpoints_are_told_apart() {
    let machine = Machine::running(ALLOW_ALL);
    let first = web();
    first.connect();
    first.outbound(&[100]);
    // The same endpoints again, while the old flow lingers.
    let second = web();
    second.connect();
    second.outbound(&[200]);
    second.closure();
    let closed = machine.events.wait_for("FlowClosed", 1);
    assert_fields(&closed[0], &[("bytes_out", "200"), ("reason", "closure")]);
    first.closure();
    first.end();
    second.end();
    let closed = machine.events.wait_for("FlowClosed", 2);
    assert_fields(&closed[1], &[("bytes_out", "100"), ("reason", "closure")]);
    assert_ne!(closed[0].number("connection"), closed[1].number("connection"));
    machine.finish();
}

#[test]
fn a_reauthorization_decides_again_and_makes_no_second_connection() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.connect();
    peer.outbound(&[40]);
    assert_eq!(peer.reconnect().action, PERMITTED);
    peer.outbound(&[40]);
    peer.closure();
    peer.end();
    let events = machine.finish();
    let verdicts = events.named("ConnectionVerdict");
    assert_fields(&verdicts[0], &[("reauthorized", "false")]);
    assert_fields(&verdicts[1], &[("reauthorized", "true")]);
    assert_eq!(verdicts[0].number("connection"), verdicts[1].number("connection"));
    let closed = events.named("FlowClosed");
    assert_eq!(closed.len(), 1);
    assert_fields(&closed[0], &[("packets_out", "2"), ("bytes_out", "80")]);
}

#[test]
fn a_flow_that_is_authorized_twice_is_one_connection() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.connect();
    peer.outbound(&[40]);
    peer.connect();
    peer.outbound(&[60]);
    peer.end();
    let events = machine.finish();
    let verdicts = events.named("ConnectionVerdict");
    assert_eq!(verdicts[0].number("connection"), verdicts[1].number("connection"));
    let closed = events.named("FlowClosed");
    assert_eq!(closed.len(), 1);
    assert_fields(&closed[0], &[("packets_out", "2"), ("bytes_out", "100")]);
    assert!(events.named("FlowsUntracked").is_empty());
}

#[test]
fn a_connection_from_before_the_driver_is_tracked_from_its_reauthorization_on() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.outbound(&[40]);
    assert_eq!(peer.reconnect().action, PERMITTED);
    peer.outbound(&[60]);
    peer.closure();
    peer.end();
    let closed = machine.events.wait_for("FlowClosed", 1);
    assert_fields(&closed[0], &[("packets_out", "1"), ("bytes_out", "60")]);
    machine.finish();
}

/// Another product's filter at ALE_AUTH_CONNECT, above or below weir's sublayer, and what becomes of a connection.
fn beside(policy: &str, weight: u16, action: u32, flags: u32) -> ntsim::wfp::Outcome {
    let machine = Machine::running(policy);
    let engine = Engine::open();
    let sublayer = engine.sublayer(1, weight);
    engine.filter(FWPM_LAYER_ALE_AUTH_CONNECT_V4, sublayer, action, flags);
    let outcome = web().connect();
    drop(engine);
    machine.finish();
    outcome
}

const ABOVE: u16 = 0xF000;
const BELOW: u16 = 0x0100;
const HARD: u32 = FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT;

#[test]
fn weirs_block_stands_against_a_soft_permit_above_and_any_permit_below() {
    assert_eq!(beside(BLOCK_ALL, ABOVE, FWP_ACTION_PERMIT, 0).action, BLOCKED);
    assert_eq!(beside(BLOCK_ALL, BELOW, FWP_ACTION_PERMIT, 0).action, BLOCKED);
    assert_eq!(beside(BLOCK_ALL, BELOW, FWP_ACTION_PERMIT, HARD).action, BLOCKED);
}

#[test]
fn weir_vetoes_a_hard_permit_above() {
    let outcome = beside(BLOCK_ALL, ABOVE, FWP_ACTION_PERMIT, HARD);
    assert_eq!((outcome.action, outcome.veto), (BLOCKED, true));
}

#[test]
fn weirs_permit_is_soft_and_overrides_nobodys_block() {
    assert_eq!(beside(ALLOW_ALL, ABOVE, FWP_ACTION_BLOCK, 0).action, BLOCKED);
    assert_eq!(beside(ALLOW_ALL, BELOW, FWP_ACTION_BLOCK, 0).action, BLOCKED);
    assert_eq!(beside(ALLOW_ALL, ABOVE, FWP_ACTION_PERMIT, 0).action, PERMITTED);
}

#[test]
fn without_a_policy_the_fail_mode_decides() {
    for (mode, action, verdict) in [(0, PERMITTED, "allow"), (1, BLOCKED, "block")] {
        let mut machine = Machine::boot();
        machine.set("FailMode", Registry::Dword(mode));
        machine.load().unwrap();
        assert_eq!(web().connect().action, action);
        let told = machine.events.wait_for("ConnectionVerdict", 1);
        assert_fields(&told[0], &[("verdict", verdict), ("generation", "0"), ("rule", "4294967295")]);
        assert_eq!(machine.events.named("PolicyAbsent").len(), 1);
        machine.finish();
    }
}

#[test]
fn a_damaged_policy_is_refused_and_the_fail_mode_decides() {
    let mut machine = Machine::boot();
    let mut image = weir_cli::policy::compile(TELNET).unwrap().image;
    *image.last_mut().unwrap() ^= 1;
    machine.set("PolicyImage", Registry::Binary(image));
    machine.load().unwrap();
    assert_eq!(telnet().connect().action, PERMITTED);
    let refused = machine.events.named("PolicyRefused");
    assert_fields(&refused[0], &[("reason", "checksum")]);
    assert_eq!(machine.events.named("DriverStarted")[0].number("degraded"), 1);
    machine.finish();
}

#[test]
fn weirs_objects_are_gone_after_unload() {
    let mut machine = Machine::boot();
    machine.load().unwrap();
    let engine = Engine::open();
    assert!(engine.has_provider(&weir::wfp::layer::PROVIDER));
    machine.unload();
    assert!(!engine.has_provider(&weir::wfp::layer::PROVIDER));
    drop(engine);
    machine.finish();
}

/// Waits until the filters are in force, or are not.
fn wait_until_decided(blocked: bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let peer = web();
        let action = peer.connect().action;
        peer.end();
        if (action == BLOCKED) == blocked {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "still {action:#x}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn the_filters_come_back_when_the_engine_is_restarted() {
    let machine = Machine::running(BLOCK_ALL);
    wait_until_decided(true);
    for _ in 0..3 {
        bfe_set_state(FWPM_SERVICE_STOP_PENDING);
        bfe_set_state(FWPM_SERVICE_STOPPED);
        wait_until_decided(false);
        bfe_set_state(FWPM_SERVICE_START_PENDING);
        bfe_set_state(FWPM_SERVICE_RUNNING);
        wait_until_decided(true);
    }
    let events = machine.finish();
    // A notification that comes late, when the engine runs again, costs one more round; each is whole.
    let gone = events.named("FiltersGone").len();
    assert!(gone >= 3, "{gone}");
    assert_eq!(events.named("FiltersInForce").len(), gone + 1);
}

#[test]
fn a_restart_of_the_engine_that_is_over_before_anybody_looks_is_noticed() {
    let machine = Machine::running(BLOCK_ALL);
    for _ in 0..20 {
        bfe_set_state(FWPM_SERVICE_STOPPED);
        bfe_set_state(FWPM_SERVICE_RUNNING);
    }
    wait_until_decided(true);
    machine.finish();
}

#[test]
fn a_driver_that_starts_before_the_engine_filters_once_it_runs() {
    let mut machine = Machine::boot();
    bfe_set_state(FWPM_SERVICE_STOPPED);
    machine.policy(BLOCK_ALL);
    machine.load().unwrap();
    assert_eq!(machine.events.named("DriverStarted")[0].number("degraded"), 1);
    assert_eq!(web().connect().action, PERMITTED, "there are no filters");
    bfe_set_state(FWPM_SERVICE_RUNNING);
    wait_until_decided(true);
    machine.finish();
}

#[test]
fn connections_outlive_a_restart_of_the_engine() {
    let machine = Machine::running(ALLOW_ALL);
    let peer = web();
    peer.connect();
    peer.outbound(&[40]);
    bfe_set_state(FWPM_SERVICE_STOPPED);
    bfe_set_state(FWPM_SERVICE_RUNNING);
    let probe = |machine: &Machine| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !ntsim::wfp::layer_has_filters(FWPS_LAYER_ALE_AUTH_CONNECT_V4) {
            assert!(std::time::Instant::now() < deadline, "{:?}", machine.events.all());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    };
    probe(&machine);
    peer.outbound(&[60]);
    peer.closure();
    peer.end();
    let closed = machine.events.wait_for("FlowClosed", 1);
    assert_fields(&closed[0], &[("bytes_out", "100"), ("reason", "closure")]);
    machine.finish();
}

#[test]
fn a_connection_for_which_there_is_no_memory_passes_and_is_counted_as_untracked() {
    let machine = Machine::running(ALLOW_ALL);
    machine.sim.fault(Plan::Api { name: "ExAllocatePool2", nth: 1 });
    let peer = web();
    assert_eq!(peer.connect().action, PERMITTED);
    peer.outbound(&[40]);
    peer.established();
    peer.closure();
    peer.end();
    machine.sim.fault(Plan::None);
    assert_eq!(machine.events.wait_for("FlowsUntracked", 1)[0].number("count"), 1);
    let events = machine.finish();
    assert!(events.named("FlowClosed").is_empty());
    assert_eq!(events.named("ConnectionVerdict")[0].number("connection"), 0);
}

#[test]
fn a_flow_that_takes_no_context_passes_and_is_counted_as_untracked() {
    for nth in [1, 2] {
        let machine = Machine::running(ALLOW_ALL);
        machine.sim.fault(Plan::Api { name: "FwpsFlowAssociateContext0", nth });
        let peer = web();
        assert_eq!(peer.connect().action, PERMITTED);
        machine.sim.fault(Plan::None);
        peer.outbound(&[40]);
        peer.end();
        assert_eq!(machine.events.wait_for("FlowsUntracked", 1)[0].number("count"), 1);
        let events = machine.finish();
        assert!(events.named("FlowClosed").is_empty(), "context {nth}");
    }
}

#[test]
fn connections_beyond_the_bound_pass_and_are_counted_as_untracked() {
    const BOUND: u16 = 1024;
    let mut machine = Machine::boot();
    machine.policy(ALLOW_ALL);
    machine.set("MaxConnections", Registry::Dword(BOUND.into()));
    machine.load().unwrap();
    let peers: Vec<Peer> =
        (0..BOUND + 10).map(|port| Peer::new(UDP, "192.0.2.1", 53, "198.51.100.7", 1000 + port)).collect();
    for peer in &peers {
        assert_eq!(peer.connect().action, PERMITTED);
    }
    for peer in &peers {
        peer.closure();
        peer.end();
    }
    let closed = machine.events.wait_for("FlowClosed", BOUND.into());
    assert_eq!(closed.len(), usize::from(BOUND));
    // There is room again.
    let again = web();
    again.connect();
    again.end();
    let events = machine.finish();
    let untracked: u64 = events.named("FlowsUntracked").iter().map(|told| told.number("count")).sum();
    assert_eq!(untracked, 10);
    assert_eq!(events.named("FlowClosed").len(), usize::from(BOUND) + 1);
}

#[test]
fn verdicts_that_the_ring_cannot_carry_are_counted_and_ends_are_never_lost() {
    let mut machine = Machine::boot_with(ntsim::Config { processors: 1, ..Default::default() });
    machine.policy(ALLOW_ALL);
    machine.set("RingRecords", Registry::Dword(256));
    machine.load().unwrap();
    {
        // The dispatcher cannot tell anything while this is held.
        let _held = machine.events.hold();
        for port in 0..2000 {
            let peer = Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443);
            whole(&peer);
        }
    }
    let events = machine.finish();
    let told = events.named("ConnectionVerdict").len() as u64;
    let lost: u64 = events.named("RingLoss").iter().map(|loss| loss.number("count")).sum();
    assert!(lost > 0, "the ring was large enough");
    assert_eq!(told + lost, 2000);
    let summaries = events.named("RingSummary");
    let [summary] = &summaries[..] else { panic!("{summaries:?}") };
    assert_eq!((summary.number("lost"), summary.number("delivered")), (lost, told));
    assert_eq!(events.named("FlowOpened").len(), 2000);
    assert_eq!(events.named("FlowClosed").len(), 2000);
}

/// The remote ports of verdicts that were made by turns on several processors, as they were told.
fn ports_told(order: u32) -> Vec<u64> {
    const TURNS: u16 = 40;
    let mut machine = Machine::boot_with(ntsim::Config { processors: 4, ..Default::default() });
    machine.policy(ALLOW_ALL);
    machine.set("RingOrder", Registry::Dword(order));
    machine.load().unwrap();
    {
        let _held = machine.events.hold();
        let turn = Mutex::new(0);
        thread::scope(|scope| {
            for me in 0..4 {
                let turn = &turn;
                scope.spawn(move || {
                    loop {
                        let mut turn = turn.lock().unwrap();
                        if *turn == TURNS {
                            return;
                        }
                        if *turn % 4 == me {
                            whole(&Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 1000 + *turn));
                            *turn += 1;
                        }
                    }
                });
            }
        });
    }
    let verdicts = machine.finish().named("ConnectionVerdict");
    verdicts.iter().map(|verdict| verdict.number("remote_port")).collect()
}

#[test]
fn verdicts_of_several_processors_are_told_in_the_order_of_time_if_that_is_asked_for() {
    assert_eq!(ports_told(1), (1000..1040).collect::<Vec<_>>());
    // Otherwise a processor's come together.
    let by_processor = ports_told(0);
    assert_eq!(by_processor.len(), 40);
    assert!(!by_processor.is_sorted());
}

#[test]
fn of_the_verdicts_that_allow_one_in_so_many_is_told() {
    for (sampling, told) in [(0, 0), (1, 100), (10, 10)] {
        let mut machine = Machine::boot();
        machine.policy(TELNET);
        machine.set("VerdictSampling", Registry::Dword(sampling));
        machine.load().unwrap();
        for port in 0..100 {
            let peer = Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443);
            peer.connect();
            peer.end();
            // Those that block are always told.
            Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 23).connect();
        }
        let events = machine.finish();
        let verdicts = events.named("ConnectionVerdict");
        let count = |verdict: &str| verdicts.iter().filter(|told| told.text("verdict") == verdict).count();
        assert_eq!((count("allow"), count("block")), (told, 100), "sampling {sampling}");
        assert_eq!(events.named("FlowClosed").len(), 100);
    }
}

#[test]
fn connections_on_all_processors_at_once_are_counted_exactly() {
    const THREADS: u16 = 4;
    const EACH: u16 = 200;
    let machine = Machine::running(ALLOW_ALL);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for port in 0..EACH {
                    let local: IpAddr = format!("192.0.2.{}", thread + 1).parse().unwrap();
                    let peer = Peer::new(TCP, &local.to_string(), 1000 + port, "198.51.100.7", 443);
                    peer.connect();
                    for _ in 0..3 {
                        peer.outbound(&[u32::from(port), 7]);
                        peer.inbound(20, 5);
                    }
                    peer.established();
                    peer.closure();
                    peer.end();
                }
            });
        }
    });
    let total = usize::from(THREADS * EACH);
    let closed = machine.events.wait_for("FlowClosed", total);
    for told in &closed {
        let port = told.number("local_port") - 1000;
        assert_eq!(told.number("packets_out"), 6);
        assert_eq!(told.number("bytes_out"), 3 * (port + 7));
        assert_eq!(told.number("bytes_in"), 3 * 25);
    }
    let events = machine.finish();
    assert_eq!(events.named("FlowClosed").len(), total);
    assert_eq!(events.named("ConnectionVerdict").len(), total);
}

#[test]
fn weirs_own_listener_is_exempt_from_the_policy_and_nothing_else_is() {
    for listen in ["127.0.0.1:47474", "127.0.0.1:0"] {
        let mut machine = Machine::boot();
        machine.policy(BLOCK_ALL);
        machine.key();
        machine.set("ControlListen", Registry::Sz(listen.into()));
        machine.key();
        machine.load().unwrap();
        let listening = machine.events.wait_for("ControlListening", 1);
        let port = u16::try_from(listening[0].number("port")).unwrap();
        let accept = |protocol, local: &str, port, app: Option<&str>| {
            let remote = if local.contains(':') { "2001:db8:1::7" } else { "198.51.100.7" };
            let mut peer = Peer::new(protocol, local, port, remote, 50_000);
            peer.app = app.map(str::to_owned);
            peer.accept(20, 0).action
        };
        assert_eq!(accept(TCP, "192.0.2.1", port, Some("System")), PERMITTED);
        assert_eq!(accept(TCP, "2001:db8::1", port, Some("System")), PERMITTED);
        assert_eq!(accept(TCP, "192.0.2.1", port, Some(r"\device\harddiskvolume3\system")), BLOCKED);
        assert_eq!(accept(TCP, "192.0.2.1", port, None), BLOCKED);
        assert_eq!(accept(TCP, "192.0.2.1", port ^ 1, Some("System")), BLOCKED);
        assert_eq!(accept(UDP, "192.0.2.1", port, Some("System")), BLOCKED);
        let events = machine.finish();
        assert_eq!(events.named("ConnectionVerdict").len(), 4, "the exempt are no business of the policy");
    }
}

#[test]
fn weirs_own_connections_to_controllers_are_exempt_from_the_policy_and_nothing_else_is() {
    let mut machine = Machine::boot();
    machine.policy(BLOCK_ALL);
    machine.key();
    let controllers = ["root@198.51.100.7:4433", "root@[2001:db8:1::7]:4434"];
    machine.set("ControlDial", Registry::MultiSz(controllers.map(Into::into).to_vec()));
    machine.load().unwrap();
    let connect = |protocol, remote: &str, port, app: Option<&str>| {
        let local = if remote.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
        let mut peer = Peer::new(protocol, local, 50_000, remote, port);
        peer.app = app.map(str::to_owned);
        peer.connect().action
    };
    assert_eq!(connect(TCP, "198.51.100.7", 4433, Some("System")), PERMITTED);
    assert_eq!(connect(TCP, "2001:db8:1::7", 4434, Some("System")), PERMITTED);
    assert_eq!(connect(TCP, "198.51.100.8", 4433, Some("System")), BLOCKED);
    assert_eq!(connect(TCP, "198.51.100.7", 4434, Some("System")), BLOCKED);
    assert_eq!(connect(TCP, "2001:db8:1::8", 4434, Some("System")), BLOCKED);
    assert_eq!(connect(UDP, "198.51.100.7", 4433, Some("System")), BLOCKED);
    assert_eq!(connect(TCP, "198.51.100.7", 4433, Some(r"\device\harddiskvolume3\system")), BLOCKED);
    assert_eq!(connect(TCP, "198.51.100.7", 4433, None), BLOCKED);
    machine.finish();
}

#[test]
fn without_a_key_there_is_no_control_socket() {
    let mut machine = Machine::boot();
    machine.set("ControlListen", Registry::Sz("127.0.0.1:0".into()));
    machine.load().unwrap();
    let events = machine.finish();
    assert_eq!(events.named("ControlKeyAbsent").len(), 1);
    assert_eq!(events.named("ControlListening").len(), 0);
}

#[test]
fn a_windows_without_exallocatepool2_runs_the_driver_on_the_older_function() {
    let config = ntsim::Config { absent_routines: &["ExAllocatePool2"], ..ntsim::Config::default() };
    let mut machine = Machine::boot_with(config);
    machine.policy(ALLOW_ALL);
    machine.load().unwrap();
    let peer = web();
    assert_eq!(peer.connect().action, PERMITTED);
    peer.established();
    peer.closure();
    peer.end();
    machine.events.wait_for("FlowClosed", 1);
    // What serves the others does not serve this one.
    machine.sim.fault(Plan::Api { name: "ExAllocatePoolWithTag", nth: 1 });
    assert_eq!(web().connect().action, PERMITTED);
    machine.sim.fault(Plan::None);
    machine.events.wait_for("FlowsUntracked", 1);
    machine.finish();
}
