//! What the driver promises of processors: each that comes has its ring, on its own NUMA node, before anything is decided
//! on it; and if there is no memory for that, the driver goes on.
#![cfg(feature = "sim")]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::{Machine, Peer, TCP, Told};
use ntsim::fault::Plan;
use ntsim::pool::InUse;
use ntsim::registry::Value as Registry;
use ntsim::sys::nt::STATUS_UNSUCCESSFUL;
use ntsim::{Config, Topology};
use weir::kernel::irql::Passive;
use weir::kernel::processors::{Change, Processor, Watch, Watcher};

const ALLOW_ALL: &str = "version = 1\ndefault = \"allow\"\n";
/// The tag of rings.
const RING: [u8; 4] = *b"WrRi";
const RECORDS: usize = 1024;
const LINE: usize = 64;
/// The node of a processor that the system does not say.
const UNKNOWN: u64 = u32::MAX as u64;

/// Two processors of eight, in groups of three, and nodes of two.
fn config() -> Config {
    let topology = Topology { group_size: 3, node_size: 2, ..Topology::default() };
    Config { processors: 2, maximum_processors: 8, topology, ..Config::default() }
}

fn machine(config: Config) -> Machine {
    let machine = Machine::boot_with(config);
    machine.policy(ALLOW_ALL);
    machine.set("RingRecords", Registry::Dword(u32::try_from(RECORDS).unwrap()));
    machine
}

#[track_caller]
fn running(config: Config) -> Machine {
    let mut machine = machine(config);
    machine.load().expect("the driver starts");
    machine
}

/// The memory of records, whoever asked for it.
fn lines(machine: &Machine) -> Vec<InUse> {
    let mut blocks = machine.sim.pool_blocks(RING);
    blocks.retain(|block| block.size >= RECORDS * LINE);
    blocks
}

/// The processors of `events` with the nodes that their rings are on.
fn made(machine: &Machine) -> Vec<(u64, u64)> {
    let made = machine.events.named("RingMade");
    made.iter().map(|told| (told.number("processor"), told.number("node"))).collect()
}

/// Decides on a connection on a processor, and returns the event of it.
#[track_caller]
fn decide_on(machine: &Machine, processor: u32, port: u16) -> Told {
    let peer = Peer::new(TCP, "192.0.2.1", port, "198.51.100.7", 443);
    on_processor(processor, || {
        peer.connect();
    });
    let told = machine.events.wait_for("ConnectionVerdict", 1).remove(0);
    assert_eq!(told.number("local_port"), u64::from(port));
    assert_eq!(told.number("generation"), 1, "the policy decided: the processor has its epoch");
    machine.events.clear();
    peer.end();
    told
}

/// Runs `body` where it raises to DISPATCH_LEVEL on that processor: nobody else is on it for long.
fn on_processor(processor: u32, body: impl FnOnce()) {
    for _ in 0..10_000 {
        ntsim::irql::move_to(processor);
        drop(ntsim::irql::raise_scope());
        if ntsim::irql::processor() == processor {
            return body();
        }
        std::thread::yield_now();
    }
    panic!("processor {processor} is never free");
}

#[test]
fn each_processor_has_its_ring_on_its_node() {
    let machine = running(config());
    assert_eq!(made(&machine), [(0, 0), (1, 0)]);
    for processor in 2..6 {
        assert_eq!(machine.sim.add_processor(), Some(processor));
    }
    // The group of a processor has no bearing on its node.
    assert_eq!(made(&machine), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]);
    let lines = lines(&machine);
    let mut nodes: Vec<_> = lines.iter().map(|block| block.node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [0, 0, 1, 1, 2, 2].map(Some));
    for block in &lines {
        assert!(block.address.is_multiple_of(LINE), "{block:x?}");
        assert_eq!(block.size, RECORDS * LINE, "aligned without more memory than the records take");
    }
    // So is what the processor itself works with: the records and the ring, for each.
    let placed = machine.sim.pool_blocks(RING).iter().filter(|block| block.node.is_some()).count();
    assert_eq!(placed, 12);
    machine.finish();
}

#[test]
fn the_memory_of_all_rings_is_told() {
    let machine = running(config());
    assert_eq!(machine.sim.add_processor(), Some(2));
    let made = machine.events.named("RingMade");
    let bytes: Vec<_> = made.iter().map(|told| told.number("bytes")).collect();
    let total: Vec<_> = made.iter().map(|told| told.number("total")).collect();
    let records = u64::try_from(RECORDS * LINE).unwrap();
    assert!(bytes.iter().all(|&bytes| (records..records + 512).contains(&bytes)), "{bytes:?}");
    let table = total[0] - bytes[0];
    assert!((8 * 16..=8 * 32).contains(&table), "{table} bytes for eight processors");
    assert_eq!(total, [table + bytes[0], table + 2 * bytes[0], table + 3 * bytes[0]]);
    // And is about what the pool has under the tag, which the rings share with their dispatcher.
    let held: usize = machine.sim.pool_blocks(RING).iter().map(|block| block.size).sum();
    assert!(u64::try_from(held).unwrap() >= total[2]);
    machine.finish();
}

#[test]
fn what_is_decided_on_an_added_processor_is_told() {
    let machine = running(config());
    decide_on(&machine, 0, 1);
    for processor in 2..8 {
        assert_eq!(machine.sim.add_processor(), Some(processor));
        decide_on(&machine, processor, u16::try_from(processor).unwrap());
    }
    let events = machine.finish();
    assert_eq!(events.named("RingSummary")[0].number("lost"), 0);
    assert_eq!(events.named("RingMissing"), []);
}

#[test]
fn processors_that_come_under_traffic_lose_nothing() {
    let machine = running(config());
    machine.events.clear();
    let stop = AtomicBool::new(false);
    let decided = std::thread::scope(|scope| {
        let decide = |thread: u16| {
            let stop = &stop;
            scope.spawn(move || {
                let mut count = 0u16;
                while !stop.load(Ordering::Relaxed) && count < 400 {
                    let peer = Peer::new(TCP, "192.0.2.1", thread * 1000 + count, "198.51.100.7", 443);
                    ntsim::irql::move_to(u32::from(count % 8));
                    peer.connect();
                    peer.end();
                    count += 1;
                    std::thread::sleep(Duration::from_micros(50));
                }
                usize::from(count)
            })
        };
        let threads = [decide(1), decide(2), decide(3)];
        for processor in 2..8 {
            std::thread::sleep(Duration::from_millis(3));
            assert_eq!(machine.sim.add_processor(), Some(processor));
        }
        std::thread::sleep(Duration::from_millis(10));
        stop.store(true, Ordering::Relaxed);
        threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
    });
    let events = machine.finish();
    assert_eq!(events.named("ConnectionVerdict").len(), decided);
    assert_eq!(events.named("RingSummary")[0].number("lost"), 0);
}

/// The rings of each processor are two blocks, asked for at first with a node, then without.
fn fail_allocations(machine: &Machine, from: u64) {
    machine.sim.fault(Plan::From(from));
}

#[test]
fn without_memory_for_a_ring_the_driver_goes_on() {
    let machine = running(config());
    fail_allocations(&machine, 1);
    assert_eq!(machine.sim.add_processor(), Some(2), "weir refuses no processor");
    machine.sim.fault(Plan::None);
    let missing = machine.events.named("RingMissing");
    assert_eq!(missing.len(), 1);
    assert_eq!((missing[0].number("processor"), missing[0].text("status")), (2, "0xC000009A"));
    assert_eq!(made(&machine).len(), 2);
    machine.events.clear();
    // What is decided there is not told, and counted.
    let peer = Peer::new(TCP, "192.0.2.1", 1000, "198.51.100.7", 443);
    on_processor(2, || {
        peer.connect();
    });
    decide_on(&machine, 1, 2000);
    peer.end();
    // The next one has its ring.
    assert_eq!(machine.sim.add_processor(), Some(3));
    decide_on(&machine, 3, 3000);
    let events = machine.finish();
    let summary = &events.named("RingSummary")[0];
    assert!(summary.number("lost") >= 1, "{summary:?}");
}

#[test]
fn a_ring_that_cannot_be_made_before_the_processor_runs_is_made_then() {
    for failing in 1..=4 {
        let machine = running(config());
        // Node, then records, ring: of the first attempt.
        machine.sim.fault(Plan::Nth(failing));
        assert_eq!(machine.sim.add_processor(), Some(2));
        machine.sim.fault(Plan::None);
        assert_eq!(machine.events.named("RingMissing"), [], "{failing}");
        assert_eq!(made(&machine).len(), 3, "{failing}");
        decide_on(&machine, 2, 1);
        machine.finish();
    }
}

#[test]
fn a_processor_that_did_not_come_may_come_later() {
    let machine = running(config());
    machine.sim.fail_to_add_processor(STATUS_UNSUCCESSFUL);
    assert_eq!(made(&machine), [(0, 0), (1, 0), (2, 1)]);
    let held = machine.sim.pool_blocks(RING).len();
    machine.sim.fail_to_add_processor(STATUS_UNSUCCESSFUL);
    assert_eq!(machine.sim.add_processor(), Some(2));
    assert_eq!(machine.sim.pool_blocks(RING).len(), held, "the ring was there");
    decide_on(&machine, 2, 1);
    machine.finish();
}

#[test]
fn a_system_that_says_no_node_of_a_starting_processor_is_enough() {
    let topology = Topology { starting_is_related: false, ..config().topology };
    let machine = running(Config { topology, ..config() });
    assert_eq!(machine.sim.add_processor(), Some(2));
    assert_eq!(made(&machine), [(0, 0), (1, 0), (2, UNKNOWN)]);
    decide_on(&machine, 2, 1);
    machine.finish();
}

#[test]
fn a_system_that_allocates_on_no_node_is_enough() {
    let unknown = Topology { pool_knows_nodes: false, ..config().topology };
    let older: &[Config] = &[
        Config { topology: unknown, ..config() },
        Config { absent_routines: &["ExAllocatePool3"], ..config() },
        Config { absent_routines: &["ExAllocatePool2", "ExAllocatePool3"], ..config() },
    ];
    for &config in older {
        let machine = running(config);
        assert_eq!(machine.sim.add_processor(), Some(2));
        let lines = lines(&machine);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|block| block.node.is_none() && block.address.is_multiple_of(LINE)));
        decide_on(&machine, 2, 1);
        machine.finish();
    }
}

#[test]
fn a_start_without_memory_for_the_ring_of_a_processor_is_refused() {
    let mut machine = machine(config());
    machine.sim.fault(Plan::Api { name: "KeRegisterProcessorChangeCallback", nth: 1 });
    assert!(machine.load().is_err());
    machine.sim.fault(Plan::None);
    let failed = &machine.events.named("StartFailed")[0];
    assert_eq!((failed.text("step"), failed.text("status")), ("rings", "0xC000009A"));
    machine.assert_clean();
}

#[test]
fn processors_that_come_while_the_driver_starts_have_their_rings() {
    for round in 0..20 {
        let mut machine = machine(config());
        std::thread::scope(|scope| {
            let added = scope.spawn(|| {
                for processor in 2..8 {
                    std::thread::sleep(Duration::from_micros(100 * round));
                    assert_eq!(ntsim::processors::hot_add(), Some(processor));
                }
            });
            machine.load().unwrap();
            added.join().unwrap();
        });
        let mut made: Vec<_> = made(&machine).iter().map(|(processor, _)| *processor).collect();
        made.sort_unstable();
        assert_eq!(made, [0, 1, 2, 3, 4, 5, 6, 7]);
        machine.events.clear();
        for processor in 0..8 {
            decide_on(&machine, processor, u16::try_from(processor).unwrap() + 1);
        }
        machine.finish();
    }
}

#[test]
fn processors_that_come_while_the_driver_stops_do_no_harm() {
    for round in 0..20 {
        let mut machine = running(config());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for processor in 2..8 {
                    assert_eq!(ntsim::processors::hot_add(), Some(processor));
                    std::thread::sleep(Duration::from_micros(50 * round));
                }
            });
            machine.unload();
        });
        machine.assert_clean();
        let steps: Vec<_> =
            machine.events.named("StopStep").iter().map(|told| told.text("step").to_owned()).collect();
        let at = |step| steps.iter().position(|told| told == step);
        assert!(at("callouts") < at("rings") && at("rings") < at("dispatcher"), "{steps:?}");
    }
}

/// Says when it is told of a processor that starts, and stays until it is let go.
struct Stays(Mutex<(Sender<()>, Receiver<()>)>);

impl Watcher for Stays {
    fn changed(&self, _passive: &Passive, processor: Processor, change: Change) {
        if processor.index() == 2 && change == Change::Starts {
            let ends = self.0.lock().unwrap();
            ends.0.send(()).unwrap();
            ends.1.recv().unwrap();
        }
    }
}

#[test]
fn the_end_of_a_watch_waits_for_who_is_being_told() {
    for deregistration_waits in [true, false] {
        let topology = Topology { deregistration_waits, ..config().topology };
        let sim = ntsim::boot(Config { topology, ..config() });
        let (entered, is_entered) = channel();
        let (let_go, is_let_go) = channel();
        // SAFETY: test threads run at PASSIVE_LEVEL, and lend the token to calls only.
        let passive = unsafe { Passive::assume() };
        let watch = Watch::start(&passive, Stays(Mutex::new((entered, is_let_go)))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(ntsim::processors::hot_add(), Some(2)));
            is_entered.recv().unwrap();
            let stopped = scope.spawn(|| {
                // SAFETY: as above.
                let passive = unsafe { Passive::assume() };
                watch.stop(&passive);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!stopped.is_finished());
            let_go.send(()).unwrap();
        });
        let report = sim.report();
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_watch_that_cannot_start_leaves_nothing() {
    struct Nobody;
    impl Watcher for Nobody {
        fn changed(&self, _passive: &Passive, _processor: Processor, _change: Change) {}
    }
    let sim = ntsim::boot(config());
    // SAFETY: as above.
    let passive = unsafe { Passive::assume() };
    for failing in 1.. {
        sim.fault(Plan::Nth(failing));
        let watch = Watch::start(&passive, Nobody);
        let failed = !sim.faults_injected().is_empty();
        assert_eq!(watch.is_err(), failed);
        if let Ok(watch) = watch {
            watch.stop(&passive);
            break;
        }
    }
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}
