//! What one classification costs, through the simulated filter engine: a connection that is blocked, with its event on
//! and off, a packet that is counted, and the whole of a connection's life.
//!
//! Rounds are interleaved in one process, figures are medians, in nanoseconds; less is better. `event_on` is what the
//! event adds to a classification: the record in the dispatch ring; its aim is 10 ns. The engine's own part is
//! measured by a layer at which nobody filters.

#[path = "../common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use common::{Classification, PARAMETERS, Peer, TCP};
use ntsim::registry::Value;
use ntsim::sys::fwp::field;
use ntsim::sys::nt::DISPATCH_LEVEL;
use weir::trace::{Keywords, Level, sink};

const ROUNDS: usize = 31;
/// Classifications in a round; the ring holds more, so that none is refused.
const CALLS: u32 = 200_000;
const CONNECTIONS: u16 = 20_000;

/// A hundred rules that do not match, and the one that does.
fn policy() -> String {
    let mut text = String::from("version = 1\ndefault = \"allow\"\n");
    for rule in 0..100 {
        let rule = format!(
            "[[rule]]\nname = \"r{rule}\"\naction = \"block\"\nprotocol = \"udp\"\nremote = \"10.{rule}.0.0/16\"\nremote_port = {}\n",
            1000 + rule
        );
        text.push_str(&rule);
    }
    text + "[[rule]]\nname = \"no-telnet\"\naction = \"block\"\nprotocol = \"tcp\"\nremote_port = 23\n"
}

fn per_call(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let sim = ntsim::boot(ntsim::Config { processors: 2, quarantine: 0, ..Default::default() });
    let image = weir_cli::policy::compile(&policy()).expect("the policy compiles").image;
    let set = |name, value| sim.registry().set(PARAMETERS, name, value);
    set("ControlListen", Value::Sz(String::new()));
    set("PolicyImage", Value::Binary(image));
    set("RingRecords", Value::Dword(1 << 20));
    let driver = sim.load_driver("weir", weir::DriverEntry).expect("the driver starts");

    let blocked = Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23);
    let mut block = blocked.auth_connect();
    block.irql = DISPATCH_LEVEL;
    let carried = Peer::new(TCP, "192.0.2.1", 50_001, "198.51.100.7", 443);
    carried.connect();
    let mut packet = carried.outbound_packet(&[1480]);
    // ALE_RESOURCE_ASSIGNMENT: nobody filters there.
    let mut nothing = Classification::new(
        ntsim::sys::fwp::FWPS_LAYER_ALE_RESOURCE_ASSIGNMENT_V4,
        field::ale_resource_assignment::COUNT,
    );

    let rows = ["engine", "classify_event_off", "classify_event_on", "count_packet", "connection_life"];
    let mut figures: [Vec<f64>; 5] = Default::default();
    let settle = || std::thread::sleep(std::time::Duration::from_millis(60));
    for round in 0..ROUNDS {
        figures[0].push(per_call(CALLS, || {
            black_box(nothing.run(None));
        }));
        let off = |block: &mut Classification| {
            per_call(CALLS, || {
                black_box(block.run(Some(&blocked.flow)));
            })
        };
        let on = |block: &mut Classification| {
            let listens = sink::install(Level::Information, Keywords::VERDICT, |event| {
                black_box(event.id());
            });
            let figure = off(block);
            // The dispatcher is done before the next row is measured.
            settle();
            drop(listens);
            figure
        };
        if round % 2 == 0 {
            figures[1].push(off(&mut block));
            figures[2].push(on(&mut block));
        } else {
            figures[2].push(on(&mut block));
            figures[1].push(off(&mut block));
        }
        figures[3].push(per_call(CALLS, || {
            black_box(packet.run(Some(&carried.flow)));
        }));
        let mut port = 0;
        figures[4].push(per_call(CONNECTIONS.into(), || {
            let peer = Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443);
            port = port.wrapping_add(1);
            peer.connect();
            peer.established();
            peer.closure();
            peer.end();
        }));
        settle();
    }
    carried.end();
    driver.unload();
    let report = sim.report();
    assert!(report.is_clean(), "{report}");

    let figures = figures.map(median);
    let event = figures[2] - figures[1];
    let print = |bench: &str, ours: f64| {
        if json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{ours:.1},\"unit\":\"ns\",\"peers\":{{}},\"ratio_to_best\":null}}"
            );
        } else {
            println!("{bench:<20} {ours:>8.1} ns");
        }
    };
    for (row, figure) in rows.iter().zip(figures) {
        print(row, figure);
    }
    print("event_on", event);
}
