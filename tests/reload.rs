//! What an administrator can count on who changes a setting while the driver runs.
#![cfg(feature = "sim")]

mod common;

use std::time::Duration;

use common::{Machine, PARAMETERS, Peer, TCP, Told};
use ntsim::fault::Plan;
use ntsim::registry::Value;
use ntsim::{Clock, Config};
use weir::trace::{Keywords, Level};

const POLICIES: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Policies\weir";
const ALLOW: &str = "version = 1\ndefault = \"allow\"\n";
const BLOCK: &str = "version = 1\ndefault = \"block\"\n";

fn changes(told: &[Told]) -> Vec<(String, String, String)> {
    let text = |told: &Told, field| told.text(field).to_owned();
    told.iter().map(|told| (text(told, "name"), text(told, "effect"), text(told, "origin"))).collect()
}

/// The next change that is told is this one.
#[track_caller]
fn expect(machine: &Machine, name: &str, effect: &str, origin: &str) {
    let told = changes(&machine.events.wait_for("SettingChanged", 1));
    assert_eq!(told, [(name.to_owned(), effect.to_owned(), origin.to_owned())]);
    machine.events.wait_for("SettingsRead", 1);
    machine.events.clear();
}

/// A machine that runs, and has nothing to tell any more.
fn running(policy: &str) -> Machine {
    let machine = Machine::running(policy);
    machine.events.wait_for("DriverStarted", 1);
    machine.events.clear();
    machine
}

fn connection(port: u16) -> Peer {
    Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443)
}

#[test]
fn a_live_setting_takes_effect_at_once_and_another_one_at_the_next_start() {
    let machine = running(ALLOW);
    machine.set("VerdictSampling", Value::Dword(0));
    expect(&machine, "VerdictSampling", "now", "registry");
    connection(1).connect();
    machine.set("RingRecords", Value::Dword(512));
    expect(&machine, "RingRecords", "next-start", "registry");
    assert!(machine.sim.registry().remove(PARAMETERS, "RingRecords"));
    expect(&machine, "RingRecords", "now", "default");
    assert!(machine.sim.registry().remove(PARAMETERS, "VerdictSampling"));
    expect(&machine, "VerdictSampling", "now", "default");
    connection(2).connect();
    machine.events.wait_for("ConnectionVerdict", 1);
    let events = machine.finish();
    let told = events.named("ConnectionVerdict");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].number("local_port"), 2);
}

#[test]
fn several_values_that_are_set_together_are_read_together() {
    let machine = running(ALLOW);
    machine.set("VerdictSampling", Value::Dword(3));
    machine.set("FailMode", Value::Dword(1));
    machine.set("ShutdownTimeoutMs", Value::Dword(300));
    machine.events.wait_for("SettingsRead", 1);
    let told = changes(&machine.events.named("SettingChanged"));
    let names: Vec<_> = told.iter().map(|(name, effect, _)| (name.as_str(), effect.as_str())).collect();
    assert_eq!(names, [("FailMode", "next-start"), ("VerdictSampling", "now"), ("ShutdownTimeoutMs", "now")]);
    machine.finish();
}

#[test]
fn a_refused_value_is_told_once_and_the_one_before_holds() {
    let machine = running(ALLOW);
    machine.set("VerdictSampling", Value::Dword(0));
    expect(&machine, "VerdictSampling", "now", "registry");
    machine.set("VerdictSampling", Value::Sz("hostile".into()));
    let refused = machine.events.wait_for("SettingRefused", 1);
    assert_eq!((refused[0].text("reason"), refused[0].text("origin")), ("wrong-type", "registry"));
    connection(1).connect();
    machine.set("Unknown", Value::Dword(1));
    machine.events.wait_for("SettingUnknown", 1);
    machine.set("Unknown", Value::Dword(2));
    machine.set("DispatchSpinMicroseconds", Value::Dword(0));
    machine.events.wait_for("SettingChanged", 1);
    let events = machine.finish();
    assert_eq!(events.named("SettingRefused").len(), 1);
    assert_eq!(events.named("SettingUnknown").len(), 1);
    assert_eq!(events.named("SettingChanged").len(), 1);
    assert!(events.named("ConnectionVerdict").is_empty());
}

#[test]
fn policies_come_and_go_while_the_driver_runs() {
    let machine = running(ALLOW);
    let registry = machine.sim.registry();
    machine.set("VerdictSampling", Value::Dword(5));
    expect(&machine, "VerdictSampling", "now", "registry");
    registry.set(POLICIES, "VerdictSampling", Value::Dword(6));
    expect(&machine, "VerdictSampling", "now", "policy");
    registry.set(POLICIES, "VerdictSampling", Value::Binary(vec![]));
    let refused = machine.events.wait_for("SettingRefused", 1);
    assert_eq!((refused[0].text("reason"), refused[0].text("origin")), ("wrong-type", "policy"));
    machine.events.wait_for("SettingsRead", 1);
    assert!(machine.events.named("SettingChanged").is_empty(), "the policy before holds");
    machine.events.clear();
    registry.delete_key(POLICIES);
    expect(&machine, "VerdictSampling", "now", "registry");
    machine.finish();
}

#[test]
fn a_key_that_is_deleted_and_made_anew_is_followed() {
    let machine = running(ALLOW);
    machine.set("VerdictSampling", Value::Dword(5));
    expect(&machine, "VerdictSampling", "now", "registry");
    let (kind, data) = machine.sim.registry().get(PARAMETERS, "PolicyImage").unwrap();
    machine.sim.registry().delete_key(PARAMETERS);
    machine.set("VerdictSampling", Value::Dword(6));
    machine.set("ControlListen", Value::Sz(String::new()));
    machine.set("PolicyImage", Value::Raw { kind, data });
    expect(&machine, "VerdictSampling", "now", "registry");
    assert!(machine.events.named("PolicyAbsent").is_empty());
    machine.sim.registry().delete_key(PARAMETERS);
    machine.events.wait_for("PolicyAbsent", 1);
    machine.finish();
}

#[test]
fn another_policy_in_the_registry_decides_at_once_and_a_damaged_one_does_not() {
    let machine = running(ALLOW);
    let decides = |blocked: bool| {
        let outcome = connection(9).connect();
        assert_eq!(outcome.action == ntsim::sys::fwp::FWP_ACTION_BLOCK, blocked);
    };
    decides(false);
    machine.policy(BLOCK);
    machine.events.wait_for("PolicyLoaded", 1);
    decides(true);
    expect(&machine, "PolicyImage", "now", "registry");
    machine.set("PolicyImage", Value::Binary(vec![7; 100]));
    machine.events.wait_for("PolicyRefused", 1);
    decides(true);
    machine.set("PolicyImage", Value::Dword(7));
    machine.events.wait_for("SettingRefused", 1);
    decides(true);
    machine.policy(ALLOW);
    machine.events.wait_for("PolicyLoaded", 1);
    decides(false);
    let compiled = weir_cli::policy::compile(BLOCK).unwrap();
    machine.sim.registry().set(POLICIES, "PolicyImage", Value::Binary(compiled.image));
    machine.events.wait_for("PolicyLoaded", 2);
    decides(true);
    machine.finish();
}

#[test]
fn what_is_told_is_limited_by_level_and_keywords() {
    let machine = running(ALLOW);
    machine.set("TraceKeywords", Value::Dword(u32::try_from(Keywords::VERDICT.bits()).unwrap()));
    while weir::trace::enabled(Level::Information, Keywords::CONFIGURATION) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(weir::trace::enabled(Level::Verbose, Keywords::VERDICT));
    machine.set("TraceLevel", Value::Dword(3));
    while weir::trace::enabled(Level::Information, Keywords::VERDICT) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(weir::trace::enabled(Level::Warning, Keywords::VERDICT));
    machine.finish();
    let machine = running(ALLOW);
    assert!(weir::trace::enabled(Level::Verbose, Keywords::CONFIGURATION), "the limit ends with the driver");
    machine.finish();
}

#[test]
fn what_silences_the_trace_is_told_before_it_does_and_what_opens_it_after_that() {
    let machine = running(ALLOW);
    let told = |name: &str| {
        let told = changes(&machine.events.wait_for("SettingChanged", 1));
        assert_eq!(told, [(name.to_owned(), "now".to_owned(), "registry".to_owned())]);
    };
    let allows = |allowed| {
        while weir::trace::enabled(Level::Information, Keywords::CONFIGURATION) != allowed {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for (name, silent, all) in [("TraceLevel", 0, 5), ("TraceKeywords", 0, u32::MAX)] {
        machine.set(name, Value::Dword(silent));
        told(name);
        allows(false);
        machine.events.clear();
        machine.set(name, Value::Dword(all));
        allows(true);
        told(name);
        machine.events.wait_for("SettingsRead", 1);
        machine.events.clear();
    }
    // What leaves the events of settings is told once, as any other.
    machine.set("TraceLevel", Value::Dword(4));
    expect(&machine, "TraceLevel", "now", "registry");
    machine.finish();
}

#[test]
fn where_the_registry_tells_of_nothing_it_is_looked_at_again_and_again() {
    let mut machine = Machine::boot_with(Config { clock: Clock::Virtual, ..Config::default() });
    machine.policy(ALLOW);
    machine.sim.fault(Plan::Api { name: "ZwNotifyChangeKey", nth: 1 });
    machine.load().unwrap();
    machine.events.wait_for("SettingsUnwatched", 1);
    machine.set("VerdictSampling", Value::Dword(5));
    while machine.events.named("SettingChanged").is_empty() {
        machine.sim.advance(Duration::from_millis(500));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(machine.events.named("SettingsUnwatched").len(), 1);
    machine.finish();
}

#[test]
fn whichever_call_of_a_change_fails_it_is_taken_in_the_end_and_nothing_is_left() {
    let mut calls = 0;
    for nth in 1.. {
        let mut machine = Machine::boot_with(Config { clock: Clock::Virtual, ..Config::default() });
        machine.policy(ALLOW);
        machine.load().unwrap();
        machine.events.wait_for("DriverStarted", 1);
        machine.sim.fault(Plan::Nth(nth));
        machine.set("VerdictSampling", Value::Dword(5));
        while machine.events.named("SettingChanged").is_empty() {
            machine.sim.advance(Duration::from_millis(250));
            std::thread::sleep(Duration::from_micros(200));
        }
        machine.unload();
        let injected = machine.sim.faults_injected();
        machine.sim.fault(Plan::None);
        machine.assert_clean();
        if injected.is_empty() {
            break;
        }
        calls += 1;
    }
    assert!(calls > 20, "{calls}");
}

#[test]
fn settings_that_change_while_the_driver_stops_leave_nothing() {
    for round in 0..20 {
        let mut machine = Machine::running(ALLOW);
        std::thread::scope(|scope| {
            let registry = machine.sim.registry();
            let changing = scope.spawn(move || {
                for n in 0..200 {
                    registry.set(PARAMETERS, "VerdictSampling", Value::Dword(n));
                    registry.set(POLICIES, "FailMode", Value::Dword(n % 3));
                    if n % 50 == 0 {
                        registry.delete_key(POLICIES);
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(round * 3));
            machine.unload();
            changing.join().unwrap();
        });
        machine.assert_clean();
    }
}
