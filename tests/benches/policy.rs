//! Policy look-up: nanoseconds a decision, by count of rules, against trying one flat rule after the other.
//!
//! Rules are the public ClassBench sets where `../shared/rulesets` is there, else made up in their likeness.
//! Connections are drawn at the borders of random rules and near them.

#[path = "../../tools/weir/tests/policy/reference.rs"]
#[allow(dead_code, reason = "shared with tests")]
mod reference;

use criterion::{BenchmarkId, Criterion, criterion_group};
use reference::{Connection, Rule, classbench, lift, numbers, toml};
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};
use weir::policy::{Action, Decision, Family, Image, Tuple};

const SIZES: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
const CONNECTIONS: usize = 4096;

/// The rule set of a size.
fn rules(size: usize, v6: bool) -> Vec<Rule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/rulesets");
    let mut text = std::fs::read_to_string(folder.join(format!("acl1_{size}.rules"))).unwrap_or_default();
    if let Ok(file) = std::fs::File::open(folder.join(format!("acl1_{size}.rules.gz"))) {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("a gzip file");
    }
    if text.is_empty() {
        text = made_up(size);
    }
    classbench(&text, v6)
}

/// Rules in ClassBench's format: many hosts, some networks, few large ones; a few services.
fn made_up(size: usize) -> String {
    let mut numbers = numbers(0x0c1a_55be);
    let mut out = String::new();
    for _ in 0..size {
        let mut network = || {
            let len = [32, 32, 32, 30, 28, 24, 24, 21, 16, 0][usize::try_from(numbers(10)).unwrap()];
            let address = u32::try_from(numbers(1 << 32)).unwrap() & 0x3fff_ffff;
            format!(
                "{}/{len}",
                std::net::Ipv4Addr::from(address & u32::MAX.checked_shl(32 - len).unwrap_or(0))
            )
        };
        let (source, destination) = (network(), network());
        let port = numbers(30) * numbers(30) * 7;
        let (first, last) = if port == 0 { (0, 65535) } else { (port, port) };
        writeln!(out, "@{source}\t{destination}\t0 : 65535\t{first} : {last}\t0x06/0xFF\t0x0000/0x0000\t")
            .unwrap();
    }
    out
}

/// A rule as a linear filter would keep it: 32 bytes, compared without branches.
struct Flat {
    remote: (u32, u32),
    local: (u32, u32),
    remote_port: (u16, u16),
    local_port: (u16, u16),
    protocol: Option<u8>,
}

impl Flat {
    fn of(rule: &Rule) -> Self {
        let address = |list: &[std::ops::RangeInclusive<std::net::IpAddr>]| match list.first() {
            None => (0, u32::MAX),
            Some(range) => match (range.start(), range.end()) {
                (std::net::IpAddr::V4(first), std::net::IpAddr::V4(last)) => {
                    ((*first).into(), u32::from(*last) - u32::from(*first))
                }
                _ => unreachable!("the linear filter is measured on IPv4"),
            },
        };
        let port = |list: &[std::ops::RangeInclusive<u16>]| {
            list.first().map_or((0, u16::MAX), |range| (*range.start(), range.end() - range.start()))
        };
        Self {
            remote: address(&rule.remote),
            local: address(&rule.local),
            remote_port: port(&rule.remote_ports),
            local_port: port(&rule.local_ports),
            protocol: rule.protocols.first().copied(),
        }
    }

    #[inline]
    fn matches(&self, tuple: &FlatTuple) -> bool {
        (tuple.remote.wrapping_sub(self.remote.0) <= self.remote.1)
            & (tuple.local.wrapping_sub(self.local.0) <= self.local.1)
            & (tuple.remote_port.wrapping_sub(self.remote_port.0) <= self.remote_port.1)
            & (tuple.local_port.wrapping_sub(self.local_port.0) <= self.local_port.1)
            & self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
    }
}

#[derive(Clone, Copy)]
struct FlatTuple {
    remote: u32,
    local: u32,
    remote_port: u16,
    local_port: u16,
    protocol: u8,
}

fn connections(rules: &[Rule], v6: bool) -> Vec<Connection> {
    let mut numbers = numbers(0xbeac);
    (0..CONNECTIONS)
        .map(|_| {
            let rule = &rules[usize::try_from(numbers(rules.len() as u64)).unwrap()];
            reference::near(rule, &mut numbers, v6)
        })
        .collect()
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500)).sample_size(20);
    for size in SIZES {
        for v6 in [false, true] {
            let rules = rules(size, v6);
            let compiled = weir_cli::policy::compile(&toml(Action::Block, &rules)).expect("no faults");
            let image = Image::validate(&compiled.image).expect("valid");
            let connections = connections(&rules, v6);
            let mut tuples: Vec<Tuple<'static>> = Vec::new();
            for connection in &connections {
                connection.with_tuple(|tuple| tuples.push(Tuple { app: None, ..*tuple }));
            }
            let family = if v6 { "v6" } else { "v4" };
            println!("policy/{family}/{size}: {:?}", compiled.stats);
            group.throughput(criterion::Throughput::Elements(CONNECTIONS as u64));
            group.bench_function(BenchmarkId::new(format!("weir-{family}"), size), |bencher| {
                bencher.iter(|| {
                    tuples.iter().fold(0_u32, |sum, tuple| {
                        let Decision { rule, .. } = image.decide(black_box(tuple));
                        sum.wrapping_add(rule.unwrap_or(u32::MAX))
                    })
                });
            });
            if v6 || size > 10_000 {
                continue;
            }
            let flat: Vec<Flat> = rules.iter().map(Flat::of).collect();
            let flat_tuples: Vec<FlatTuple> = tuples.iter().map(flat_tuple).collect();
            for (tuple, flat_tuple) in tuples.iter().zip(&flat_tuples) {
                let place = flat.iter().position(|rule| rule.matches(flat_tuple));
                assert_eq!(place, image.decide(tuple).rule.map(|rule| rule as usize), "both say the same");
            }
            group.bench_function(BenchmarkId::new("linear-v4", size), |bencher| {
                bencher.iter(|| {
                    flat_tuples.iter().fold(0_usize, |sum, tuple| {
                        let tuple = black_box(tuple);
                        sum.wrapping_add(
                            flat.iter().position(|rule| rule.matches(tuple)).unwrap_or(usize::MAX),
                        )
                    })
                });
            });
        }
    }
    group.finish();
}

fn flat_tuple(tuple: &Tuple<'_>) -> FlatTuple {
    let address = |wire: Option<[u8; 16]>| {
        wire.map_or(0, |wire| u32::from_be_bytes([wire[0], wire[1], wire[2], wire[3]]))
    };
    let ports = matches!(tuple.protocol, Some(6 | 17));
    FlatTuple {
        remote: address(tuple.remote),
        local: address(tuple.local),
        remote_port: tuple.remote_port.filter(|_| ports).unwrap_or(0),
        local_port: tuple.local_port.filter(|_| ports).unwrap_or(0),
        protocol: tuple.protocol.unwrap_or(0),
    }
}

/// What an application costs: a path of 60 characters against the patterns of a policy.
fn applications(criterion: &mut Criterion) {
    let mut text = "version = 1\ndefault = \"allow\"\n".to_owned();
    for number in 0..100 {
        writeln!(text, "[[rule]]\nname = \"r{number}\"\naction = \"block\"\napp = \"program{number}.exe\"")
            .unwrap();
    }
    text.push_str(
        "[[rule]]\nname = \"all\"\naction = \"block\"\napp = '\\device\\harddiskvolume*\\temp\\*'\n",
    );
    let compiled = weir_cli::policy::compile(&text).expect("no faults");
    let image = Image::validate(&compiled.image).expect("valid");
    let path = weir_cli::policy::app_bytes(r"\device\harddiskvolume3\program files\vendor\program77.exe");
    let connection = Connection {
        direction: weir::policy::Direction::Out,
        family: Family::V4,
        protocol: Some(6),
        local: Some(lift(1, false, 0)),
        remote: Some(lift(2, false, 0)),
        local_port: Some(1),
        remote_port: Some(2),
        app: None,
    };
    connection.with_tuple(|tuple| {
        let tuple = Tuple { app: weir::policy::App::from_utf16le(&path), ..*tuple };
        assert_eq!(image.decide(&tuple).rule, Some(77));
        criterion
            .bench_function("policy/app-100", |bencher| bencher.iter(|| image.decide(black_box(&tuple))));
    });
}

/// What a swap costs the tools: compiling and validating.
fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy-build");
    group.sample_size(10);
    let text = toml(Action::Block, &rules(10_000, false));
    group.bench_function("compile-10000", |bencher| {
        bencher.iter(|| weir_cli::policy::compile(black_box(&text)));
    });
    let compiled = weir_cli::policy::compile(&text).expect("no faults");
    group.bench_function("validate-10000", |bencher| {
        bencher.iter(|| Image::validate(black_box(&compiled.image)).is_ok());
    });
    group.finish();
}

criterion_group!(benches, lookup, applications, build);

/// Nanoseconds a call of a pass over all connections.
#[expect(clippy::cast_precision_loss, reason = "a few thousand connections")]
fn time(pass: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    black_box(pass());
    start.elapsed().as_secs_f64() * 1e9 / CONNECTIONS as f64
}

/// The IPv4 look-ups beside the flat rules, an object a line: medians of interleaved rounds.
fn json() {
    const ROUNDS: usize = 15;
    for size in SIZES {
        let rules = rules(size, false);
        let compiled = weir_cli::policy::compile(&toml(Action::Block, &rules)).expect("no faults");
        let image = Image::validate(&compiled.image).expect("valid");
        let mut tuples: Vec<Tuple<'static>> = Vec::new();
        for connection in &connections(&rules, false) {
            connection.with_tuple(|tuple| tuples.push(Tuple { app: None, ..*tuple }));
        }
        let flat: Vec<Flat> = rules.iter().map(Flat::of).collect();
        let flat_tuples: Vec<FlatTuple> = tuples.iter().map(flat_tuple).collect();
        let mut figures: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            figures[0].push(time(|| {
                let rules = tuples.iter().map(|tuple| image.decide(black_box(tuple)).rule);
                rules.fold(0, |sum, rule| sum ^ rule.map_or(usize::MAX, |rule| rule as usize))
            }));
            figures[1].push(time(|| {
                let matching = |tuple| flat.iter().position(|rule: &Flat| rule.matches(black_box(tuple)));
                flat_tuples.iter().fold(0, |sum, tuple| sum ^ matching(tuple).unwrap_or(usize::MAX))
            }));
        }
        let [ours, linear] = figures.map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        });
        println!(
            "{{\"bench\":\"lookup_{size}\",\"ours\":{ours:.1},\"unit\":\"ns\",\"peers\":{{\"linear\":{linear:.1}}},\
             \"ratio_to_best\":{:.2}}}",
            linear / ours
        );
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--json") {
        json();
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
