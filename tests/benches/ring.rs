//! The dispatch ring beside the queues that others would take, in one process and run.
//!
//! `cargo bench --bench ring -- [--json] [--rounds N] [--write]`: `--write` regenerates `src/ring/FIGURES.md` and
//! `src/ring/figures.svg`.
//!
//! Every round measures every queue once, in a rotating order, so that a drift of the machine meets all of them, and
//! begins with a cache-line ping-pong that says how near the two cores are just then. Figures are medians over the
//! rounds. A record is the same for all: 64 or 128 bytes, of which the ring's header is a part; it is written in place
//! where the queue can (weir, thingbuf, disruptor) and read whole by the consumer.

#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

#[path = "ring/measure.rs"]
mod measure;
#[path = "ring/queues.rs"]
mod queues;
#[path = "ring/report.rs"]
mod report;

use std::{process::ExitCode, time::Duration};

use measure::{Cores, Round};
use queues::{Queue, Shape};
use report::{Row, Unit};

/// Records that a producer writes in one sample; every queue holds that many of each of its producers.
const RECORDS: u32 = 4096;
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
    let mut rows = [
        Row::new("mpsc_push_64", "contended push, 2 producers on 2 cores, 64 B", Unit::Nanoseconds),
        Row::new(
            "mpsc_live_64",
            "2 producers and the consumer live on 2 cores, 64 B",
            Unit::MillionsPerSecond,
        ),
        Row::new("push_64", "push, one core, 64 B", Unit::Nanoseconds),
        Row::new("mpsc_push_128", "contended push, 2 producers on 2 cores, 128 B", Unit::Nanoseconds),
        Row::new(
            "varlen",
            "contended push, 64 to 192 B (96 in the mean), beside 64 B fixed",
            Unit::Nanoseconds,
        ),
        Row::new("refused", "refused push, ring full, one core", Unit::Nanoseconds),
    ];
    let mut queues = rows.each_ref().map(|row| queues::make(row.name));
    for round in 0..rounds {
        let ping_pong = cores.ping_pong();
        for (row, queues) in rows.iter_mut().zip(&mut queues) {
            queues.rotate_left(1);
            for queue in queues {
                let figure = measure(queue, &cores, round, row.name);
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

/// One sample of `queue` in the shape of the row.
fn measure(queue: &mut Queue, cores: &Cores, round: usize, row: &str) -> f64 {
    match Shape::of(row) {
        Shape::Contended => cores.contended(queue, RECORDS.into(), round),
        Shape::Live => cores.live(queue, LIVE),
        Shape::Single => cores.single(queue, RECORDS.into()),
        Shape::Refused => cores.refused(queue, RECORDS.into()),
    }
}
