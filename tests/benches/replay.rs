//! How fast `weir run` replays: packets a second of the whole command, on one core, under a policy of 100 rules, for a
//! capture in the page cache; beside it, what only reading and parsing the same file costs, and `tcpdump` with the same
//! 100 rules as its filter, if it is installed.
//!
//! Rounds are interleaved, figures are medians; more is better.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use etherparse::PacketBuilder;
use weir_cli::run::{capture::Capture, packet};

const PACKETS: u32 = 2_000_000;
const PACKETS_OF_A_FLOW: u32 = 40;
const ROUNDS: usize = 7;
const RULES: u8 = 100;

/// TCP connections of one host, twenty at a time, each opened, used and closed.
fn write_capture(path: &Path) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("the capture can be made"));
    let mut put = |bytes: &[u8]| file.write_all(bytes).expect("the capture can be written");
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        put(&word.to_le_bytes());
    }
    let at_a_time = 20;
    for index in 0..PACKETS {
        let batch = index / (PACKETS_OF_A_FLOW * at_a_time);
        let flow = batch * at_a_time + index % at_a_time;
        let step = index / at_a_time % PACKETS_OF_A_FLOW;
        let out = step.is_multiple_of(2);
        let [_, high, middle, low] = flow.to_be_bytes();
        let (host, server) = ([192, 168, 1, 10], [100 + high, middle, low, 7]);
        let (from, to) = if out { (host, server) } else { (server, host) };
        let port = 1024 + u16::try_from(flow % 60_000).unwrap_or(0);
        let (source, destination) = if out { (port, 443) } else { (443, port) };
        let (station, router) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let link =
            PacketBuilder::ethernet2(if out { station } else { router }, if out { router } else { station });
        let tcp = link.ipv4(from, to, 64).tcp(source, destination, index, 1024);
        let (tcp, data) = match step {
            0 => (tcp.syn(), 0),
            1 => (tcp.syn().ack(1), 0),
            38 | 39 => (tcp.fin().ack(1), 0),
            _ => (tcp.ack(1), 400),
        };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[0; 400][..data]).expect("writing to memory succeeds");
        let length = u32::try_from(frame.len()).unwrap_or(0);
        for word in [1_700_000_000 + index / 100_000, index % 100_000 * 10, length, length] {
            put(&word.to_le_bytes());
        }
        put(&frame);
    }
    file.flush().expect("the capture can be written");
}

fn policy() -> String {
    let rules: Vec<_> = (0..RULES)
        .map(|number| {
            format!(
                "[[rule]]\nname = \"r{number}\"\naction = \"block\"\ndirection = \"out\"\nprotocol = \"tcp\"\n\
                 remote = \"198.18.{number}.0/24\"\nremote_port = {}\n",
                8000 + u16::from(number)
            )
        })
        .collect();
    format!("version = 1\ndefault = \"allow\"\n{}", rules.concat())
}

fn filter() -> String {
    let rules: Vec<_> = (0..RULES)
        .map(|number| format!("(tcp and net 198.18.{number}.0/24 and port {})", 8000 + u16::from(number)))
        .collect();
    format!("not ({})", rules.join(" or "))
}

/// Packets a second of a command that is bound to one core.
fn time(command: &mut Command) -> Option<f64> {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    status.success().then(|| f64::from(PACKETS) / start.elapsed().as_secs_f64())
}

fn on_one_core(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", program]);
    command
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (capture, rules) = (folder.path().join("replay.pcap"), folder.path().join("rules.toml"));
    eprintln!("making a capture of {PACKETS} packets");
    write_capture(&capture);
    std::fs::write(&rules, policy()).expect("the policy can be written");

    let names = ["weir run", "tcpdump", "parse only"];
    let mut figures: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        figures[0].extend(time(
            on_one_core(env!("CARGO_BIN_EXE_weir"))
                .args(["run", "--quiet", "--policy"])
                .arg(&rules)
                .arg("--capture")
                .arg(&capture),
        ));
        figures[1].extend(time(
            on_one_core("tcpdump").arg("-nnr").arg(&capture).args(["-w", "/dev/null"]).arg(filter()),
        ));
        let start = Instant::now();
        let mut bytes = 0;
        Capture::from_reader(std::fs::File::open(&capture).expect("the capture is there")).for_each(
            |frame, _| {
                bytes += packet::decode(&frame).map_or(0, |(_, packet)| u64::from(packet.transport_len));
                ControlFlow::Continue(())
            },
        );
        std::hint::black_box(bytes);
        figures[2].push(f64::from(PACKETS) / start.elapsed().as_secs_f64());
    }
    let [ours, peers @ ..] = figures.map(median);
    let ours = ours.expect("weir run works, and taskset (util-linux) is installed");
    let peers: Vec<_> = names[1..]
        .iter()
        .zip(peers)
        .filter_map(|(name, figure)| figure.map(|figure| (*name, figure)))
        .collect();
    let best = peers.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
    if json {
        let peers: Vec<_> = peers.iter().map(|(name, figure)| format!("{name:?}:{figure:.0}")).collect();
        println!(
            "{{\"bench\":\"replay\",\"ours\":{ours:.0},\"unit\":\"packets/s\",\"peers\":{{{}}},\"ratio_to_best\":{:.3}}}",
            peers.join(","),
            ours / best
        );
    } else {
        println!("weir run    {:>6.2} million packets a second", ours / 1e6);
        for (name, figure) in peers {
            println!(
                "{name:<11} {:>6.2} million packets a second, weir run at {:.2} of it",
                figure / 1e6,
                ours / figure
            );
        }
    }
}
