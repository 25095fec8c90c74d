//! What the driver promises of a crash dump: its last steps, and the tail of every ring, whenever the machine stops.
#![cfg(feature = "sim")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Machine, Peer, TCP, UDP};
use ntsim::bugcheck::{Block, bug_check};
use ntsim::fault::Plan;
use weir::dump;
use weir::dump::layout::{self, Dump, LINES};
use weir::kernel::Status;

const ALLOW_ALL: &str = "version = 1\ndefault = \"allow\"\n";

/// weir's block of a dump that takes so much of each.
fn block(maximum: u32) -> Option<Block> {
    let mut blocks = bug_check(maximum);
    assert!(blocks.len() <= 1, "{blocks:?}");
    let block = blocks.pop()?;
    assert_eq!(block.component, "weir");
    let (data1, data2, data3, data4) = layout::TAG;
    let tag = block.tag;
    assert_eq!((tag.Data1, tag.Data2, tag.Data3, tag.Data4), (data1, data2, data3, data4));
    Some(block)
}

fn connection(port: u16) {
    let peer = Peer::new(UDP, "192.0.2.1", port, "198.51.100.7", 53);
    peer.connect();
    peer.end();
}

#[test]
fn a_dump_has_the_last_steps_and_where_every_ring_stands() {
    let machine = Machine::running(ALLOW_ALL);
    for port in 0..200 {
        connection(port);
    }
    machine.events.wait_for("ConnectionVerdict", 200);
    let Block { data, .. } = block(1 << 20).unwrap();
    let dump = Dump::read(&data).unwrap();
    assert_eq!(dump.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((dump.header.generation, dump.header.left_out), (1, 0));
    let steps: Vec<_> = dump.steps().collect();
    let names: Vec<&str> = steps.iter().map(|(_, name)| *name).collect();
    // As the events had it.
    let told: Vec<String> =
        machine.events.named("StartStep").iter().map(|told| told.text("step").to_owned()).collect();
    assert_eq!(names, told);
    assert!(steps.iter().all(|(step, _)| step.status == 0 && !step.of_stop && step.time != 0), "{steps:?}");
    assert!(steps.is_sorted_by_key(|(step, _)| step.time));
    let processors: Vec<_> = dump.processors().collect();
    assert_eq!(processors.iter().map(|(head, _)| head.number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let mut written = 0;
    for (head, lines) in &processors {
        assert_eq!(lines.len(), LINES.min(usize::try_from(head.written).unwrap()), "{head:?}");
        assert!(head.given_back <= head.written && head.capacity == 4096 && head.lost == 0, "{head:?}");
        written += head.written;
    }
    assert!(written >= 200, "{processors:?}");
    machine.finish();
}

#[test]
fn a_record_in_the_dump_is_the_one_that_was_written() {
    let machine = Machine::running("version = 1\ndefault = \"block\"\n");
    Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 23).connect();
    machine.events.wait_for("ConnectionVerdict", 1);
    let Block { data, .. } = block(1 << 20).unwrap();
    let dump = Dump::read(&data).unwrap();
    let lines: Vec<[u8; 64]> = dump.processors().flat_map(|(_, lines)| lines.to_vec()).collect();
    assert_eq!(lines.len(), 1);
    let verdict =
        weir::ring::Verdict::decode(u16::from_le_bytes([lines[0][2], lines[0][3]]), &lines[0][16..]);
    let verdict = verdict.expect("a verdict");
    assert_eq!((verdict.remote_port, verdict.local_port), (23, 50_000));
    machine.finish();
}

#[test]
fn however_much_the_system_takes_the_block_fits_and_can_be_read() {
    let machine = Machine::running(ALLOW_ALL);
    connection(1);
    let whole = block(u32::MAX).unwrap().data.len();
    assert_eq!(
        whole,
        layout::HEADER
            + Dump::read(&block(u32::MAX).unwrap().data).unwrap().steps().count() * layout::STEP
            + 4 * (layout::HEAD + LINES * layout::LINE)
    );
    for maximum in [0, 1, 63] {
        assert!(block(maximum).is_none(), "{maximum}");
    }
    for maximum in (64..whole + 100).step_by(97) {
        let Block { data, .. } = block(u32::try_from(maximum).unwrap()).unwrap();
        assert!(data.len() <= maximum && Dump::read(&data).is_some(), "{maximum}");
    }
    machine.finish();
}

#[test]
fn the_machine_may_stop_at_any_time() {
    for processors in [1, 4] {
        let config = ntsim::Config { processors, maximum_processors: 4, ..ntsim::Config::default() };
        let mut machine = Machine::boot_with(config);
        machine.policy(ALLOW_ALL);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(block) = block(1 << 20) {
                        let dump = Dump::read(&block.data).expect("a whole block");
                        assert!(dump.processors().count() <= 4);
                    }
                }
            });
            for _ in 0..10 {
                machine.load().unwrap();
                for port in 0..50 {
                    connection(port);
                }
                machine.unload();
            }
            stop.store(true, Ordering::Relaxed);
        });
        machine.finish();
    }
}

#[test]
fn more_steps_than_there_is_room_for_leave_the_last_ones() {
    let mut machine = Machine::running(ALLOW_ALL);
    let before = Dump::read(&block(1 << 20).unwrap().data).unwrap().header.steps;
    for number in 0..40 {
        dump::note(&format!("step {number}"), Status::SUCCESS, false);
    }
    let Block { data, .. } = block(1 << 20).unwrap();
    let read = Dump::read(&data).unwrap();
    assert_eq!(read.header.steps, before + 40);
    let names: Vec<&str> = read.steps().map(|(_, name)| name).collect();
    let last: Vec<String> = (8..40).map(|number| format!("step {number}")).collect();
    assert_eq!(names, last);
    // Each start counts anew.
    machine.unload();
    machine.load().unwrap();
    let Block { data, .. } = block(1 << 20).unwrap();
    let read = Dump::read(&data).unwrap();
    assert_eq!((read.header.steps, read.steps().count()), (before, before as usize));
    machine.finish();
}

#[test]
fn a_driver_whose_callback_is_not_taken_goes_on_without() {
    let mut machine = Machine::boot();
    machine.sim.fault(Plan::Api { name: "KeRegisterBugCheckReasonCallback", nth: 1 });
    machine.load().unwrap();
    machine.sim.fault(Plan::None);
    assert_eq!(machine.events.named("Degraded")[0].text("part"), "dump");
    assert_eq!(machine.events.named("DriverStarted")[0].number("degraded"), 1);
    assert!(block(1 << 20).is_none());
    machine.finish();
}
