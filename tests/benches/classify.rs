//! What one classification costs, through the simulated filter engine: a connection that is blocked, with its event on
//! and off, a packet that is counted, and the whole of a connection's lifetime.
//!
//! Rounds are interleaved in one process, figures are medians, in nanoseconds; less is better. `engine` is the simulated
//! engine's own part, at a layer where nobody filters. `event_on` is what its event adds to a classification: the record
//! in the dispatch ring, while the dispatcher is at work on a batch. `event_on_live` is the same with a dispatcher that
//! takes each record at once, and so takes its cache lines away from the producer.

#[path = "../common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Classification, PARAMETERS, Peer, TCP};
use ntsim::registry::Value;
use ntsim::sys::fwp::field;
use ntsim::sys::nt::DISPATCH_LEVEL;
use ntsim::wfp::{flow_create, flow_end};
use weir::trace::{Keywords, Level, sink};

const ROUNDS: usize = 101;
/// Classifications in a round. The ring of [`RECORDS`] holds them all, so that no record is refused.
const CALLS: u32 = 3_000;
const RECORDS: u32 = 4_096;
/// What an event may add to a classification, in nanoseconds.
const EVENT_ON: f64 = 10.0;

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

fn per_call(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Long enough for the dispatcher to deliver what a round left.
fn settle() {
    std::thread::sleep(Duration::from_millis(3));
}

/// What the dispatcher does while the event is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dispatcher {
    /// It takes each record as it comes.
    Live,
    /// It has the first record of a batch in hand, and looks at no other.
    Busy,
}

static HELD: AtomicBool = AtomicBool::new(false);
static IN_HAND: AtomicBool = AtomicBool::new(false);

/// Measures `call` with its event on.
fn listening(dispatcher: Dispatcher, mut call: impl FnMut()) -> f64 {
    HELD.store(dispatcher == Dispatcher::Busy, Ordering::SeqCst);
    IN_HAND.store(false, Ordering::SeqCst);
    let listens = sink::install(Level::Information, Keywords::VERDICT, |event| {
        black_box(event.id());
        IN_HAND.store(true, Ordering::SeqCst);
        while HELD.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    call();
    while !IN_HAND.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let figure = per_call(&mut call);
    HELD.store(false, Ordering::SeqCst);
    settle();
    drop(listens);
    figure
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What came of an aim, as JSON and for people.
fn outcome(ours: f64, aim: f64) -> (String, String) {
    let met = ours <= aim;
    let json = format!(",\"aim\":[{{\"aim\":\"≤ {aim} ns\",\"is\":{ours:.1},\"met\":{met}}}],\"met\":{met}");
    (json, format!("  aim: ≤ {aim} ns: {}", if met { "met" } else { "missed" }))
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let sim = ntsim::boot(ntsim::Config { processors: 2, quarantine: 0, ..Default::default() });
    let image = weir_cli::policy::compile(&policy()).expect("the policy compiles").image;
    let set = |name, value| sim.registry().set(PARAMETERS, name, value);
    set("ControlListen", Value::Sz(String::new()));
    set("PolicyImage", Value::Binary(image));
    set("RingRecords", Value::Dword(RECORDS));
    let driver = sim.load_driver("weir", weir::DriverEntry).expect("the driver starts");

    let blocked = Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23);
    let mut block = blocked.auth_connect();
    block.irql = DISPATCH_LEVEL;
    let mut block = || {
        black_box(block.run(Some(&blocked.flow)));
    };
    let carried = Peer::new(TCP, "192.0.2.1", 50_001, "198.51.100.7", 443);
    carried.connect();
    let mut packet = carried.outbound_packet(&[1480]);
    let (mut connect, mut established, mut closure) =
        (carried.auth_connect(), carried.establishment(), carried.endpoint_closure());
    let mut nothing = Classification::new(
        ntsim::sys::fwp::FWPS_LAYER_ALE_RESOURCE_ASSIGNMENT_V4,
        field::ale_resource_assignment::COUNT,
    );

    let mut figures: [Vec<f64>; 6] = Default::default();
    for round in 0..ROUNDS {
        for row in 0..figures.len() {
            // Another one first in each round.
            let row = (row + round) % figures.len();
            figures[row].push(match row {
                0 => per_call(|| {
                    black_box(nothing.run(None));
                }),
                1 => per_call(&mut block),
                2 => listening(Dispatcher::Busy, &mut block),
                3 => listening(Dispatcher::Live, &mut block),
                4 => per_call(|| {
                    black_box(packet.run(Some(&carried.flow)));
                }),
                _ => {
                    let lifetime = per_call(|| {
                        let flow = flow_create();
                        connect.run(Some(&flow));
                        established.run(Some(&flow));
                        closure.run(None);
                        flow_end(&flow);
                    });
                    settle();
                    lifetime
                }
            });
        }
    }
    carried.end();
    driver.unload();
    let report = sim.report();
    assert!(report.is_clean(), "{report}");

    let [engine, off, busy, live, count, lifetime] = figures.map(|figures| median(&figures));
    for (bench, ours, aim) in [
        ("engine", engine, None),
        ("classify", off, None),
        ("event_on", busy - off, Some(EVENT_ON)),
        ("event_on_live", live - off, None),
        ("count_packet", count, None),
        ("connection_life", lifetime, None),
    ] {
        let (object, text) = aim.map_or_else(Default::default, |aim| outcome(ours, aim));
        if json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{ours:.1},\"unit\":\"ns\",\"peers\":{{}},\"ratio_to_best\":null{object}}}"
            );
        } else {
            println!("{bench:<16} {ours:>8.1} ns{text}");
        }
    }
}
