//! The dispatch ring beside the queues that others would take, in one process and run.
//!
//! `cargo xtask bench ring [--json] [--write]`: `--write` regenerates `src/ring/FIGURES.md` and `src/ring/figures.svg`,
//! which wants a machine with nothing else to do. DPDK's rte_ring is among the peers if DPDK is installed:
//! `apt-get install libdpdk-dev pkg-config`, or `--dpdk`.
//!
//! Every round measures every queue once, in a rotating order, so that a drift of the machine meets all of them, and
//! begins with a cache-line ping-pong that says how near the two cores are just then. Figures are medians over the
//! rounds. A record is the same for all: 64 or 128 bytes, of which the ring's header is a part; it is written in place
//! where the queue can (thingbuf, disruptor) and read whole by the consumer. `weir` is the ring with a handle held, as the
//! peers have one: looked up once, and no look at a parked dispatcher; beside it stand a push with both, as a driver makes
//! it, and a record that the caller fills in place.

#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

#[path = "ring/dpdk.rs"]
mod dpdk;
#[path = "ring/measure.rs"]
mod measure;
#[path = "ring/queues.rs"]
mod queues;
#[path = "ring/report.rs"]
mod report;

use std::{process::ExitCode, time::Duration};

use dpdk::Dpdk;
use measure::{Cores, Round};
use queues::{Queue, Shape};
use report::{Against, Aim, Row, Unit};

/// Records that a producer writes in one sample, and that every queue holds of each of its producers. So many go beyond
/// a core's own caches: a line that the consumer has read is in the shared one when its turn comes again.
const RECORDS: usize = 65_536;
/// The same with rings as long as the driver's are by default. They fit a core's own cache, so half of the lines have to
/// come back from the consumer's: whatever the queue, that is most of the figure.
const DEFAULT_RECORDS: usize = 4096;
/// How long the two producers and the consumer run against each other in one sample.
const LIVE: Duration = Duration::from_millis(4);

fn main() -> ExitCode {
    let mut json = false;
    let mut write = false;
    let mut rounds = 60;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--write" => write = true,
            "--rounds" => rounds = arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(rounds),
            // Cargo's own.
            "--bench" => {}
            unknown => {
                eprintln!("unknown argument {unknown}; there are --json, --write and --rounds N");
                return ExitCode::from(2);
            }
        }
    }
    let Some(cores) = Cores::two() else {
        eprintln!("two cores are needed");
        return ExitCode::FAILURE;
    };
    let mut rows = rows();
    let dpdk = Dpdk::load();
    let mut queues = rows.each_ref().map(|row| queues::make(row.name, row.records, dpdk.as_ref()));
    for round in 0..rounds {
        let ping_pong = cores.ping_pong();
        for (row, queues) in rows.iter_mut().zip(&mut queues) {
            queues.rotate_left(1);
            for queue in queues {
                let figure = measure(queue, &cores, round, row);
                row.add(queue.name, queue.role, Round { ping_pong, figure });
            }
        }
        if !json {
            eprint!("\r{} of {rounds} rounds", round + 1);
        }
    }
    if json {
        for row in &rows {
            println!("{}", row.json());
        }
    } else {
        eprint!("\r");
        print!("{}", report::table(&rows));
    }
    if write {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ring");
        let table = report::page(&rows);
        let written = std::fs::write(format!("{directory}/FIGURES.md"), table)
            .and_then(|()| std::fs::write(format!("{directory}/figures.svg"), report::plot(&rows)));
        if let Err(error) = written {
            eprintln!("cannot write to {directory}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What is measured, and how fast it is to be.
fn rows() -> [Row; 9] {
    use Against::{Best, Named};
    let ns = Unit::Nanoseconds;
    [
        Row::new("mpsc_push_64", RECORDS, "contended push, 2 producers on 2 cores, 64 B", ns).aims(
            const {
                &[
                    Aim::times(5.0, Named(queues::THINGBUF)),
                    Aim::times(6.0, Named(queues::ARRAY_QUEUE)),
                    Aim::times(20.0, Named(queues::RTE_RING)),
                    Aim::within(1.2, Named(queues::PLAIN)),
                ]
            },
        ),
        Row::new(
            "mpsc_live_64",
            RECORDS,
            "2 producers and the consumer live on 2 cores, 64 B",
            Unit::MillionsPerSecond,
        )
        .aims(const { &[Aim::times(4.5, Named(queues::ARRAY_QUEUE))] }),
        Row::new("push_64", RECORDS, "push, one core, 64 B", ns).aims(const { &[Aim::times(1.1, Best)] }),
        Row::new("mpsc_push_128", RECORDS, "contended push, 2 producers on 2 cores, 128 B", ns)
            .aims(const { &[Aim::times(4.0, Best)] }),
        Row::new("varlen", RECORDS, "contended push, 64 to 192 B (96 in the mean) beside 64 B fixed", ns)
            .aims(const { &[Aim::times(1.5, Named(queues::THINGBUF))] }),
        Row::new("refused", RECORDS, "refused push, ring full, one core", ns)
            .aims(const { &[Aim::within(1.3, Named(queues::HEAPLESS_SPSC))] }),
        Row::new("mpsc_push_64_default", DEFAULT_RECORDS, "contended push, 64 B, rings of 4096", ns),
        Row::new("mpsc_push_128_default", DEFAULT_RECORDS, "contended push, 128 B, rings of 4096", ns),
        Row::new("varlen_default", DEFAULT_RECORDS, "contended push, 64 to 192 B, rings of 4096", ns),
    ]
}

/// One sample of `queue` in the shape of the row.
fn measure(queue: &mut Queue, cores: &Cores, round: usize, row: &Row) -> f64 {
    let records = row.records as u64;
    match Shape::of(row.name) {
        Shape::Contended => cores.contended(queue, records, round),
        Shape::Live => cores.live(queue, LIVE),
        Shape::Single => cores.single(queue, records),
        Shape::Refused => cores.refused(queue, records),
    }
}
