//! Captures made for a test, and the command run on them.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use etherparse::PacketBuilder;
use serde_json::Value;

pub const HOST: [u8; 4] = [192, 168, 1, 10];
pub const SERVER: [u8; 4] = [203, 0, 113, 5];
pub const HOST_V6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
pub const SERVER_V6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];

/// An IPv4 packet with a TCP segment; `flags` of S, A, F, R.
pub fn tcp(out: bool, local_port: u16, remote_port: u16, flags: &str, data: usize) -> Vec<u8> {
    tcp_between(HOST, local_port, SERVER, remote_port, out, flags, data)
}

pub fn tcp_between(
    local: [u8; 4],
    local_port: u16,
    remote: [u8; 4],
    remote_port: u16,
    out: bool,
    flags: &str,
    data: usize,
) -> Vec<u8> {
    let (from, to) = if out { (local, remote) } else { (remote, local) };
    let (source, destination) = if out { (local_port, remote_port) } else { (remote_port, local_port) };
    let mut step = PacketBuilder::ipv4(from, to, 64).tcp(source, destination, 1, 1024);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(1),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no TCP flag {other}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, &vec![0; data]).unwrap();
    packet
}

pub fn udp(out: bool, local_port: u16, remote_port: u16, data: usize) -> Vec<u8> {
    let (from, to) = if out { (HOST, SERVER) } else { (SERVER, HOST) };
    let (source, destination) = if out { (local_port, remote_port) } else { (remote_port, local_port) };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(from, to, 64).udp(source, destination).write(&mut packet, &vec![0; data]).unwrap();
    packet
}

pub fn udp6(out: bool, local_port: u16, remote_port: u16, data: usize) -> Vec<u8> {
    let (from, to) = if out { (HOST_V6, SERVER_V6) } else { (SERVER_V6, HOST_V6) };
    let (source, destination) = if out { (local_port, remote_port) } else { (remote_port, local_port) };
    let mut packet = Vec::new();
    PacketBuilder::ipv6(from, to, 64).udp(source, destination).write(&mut packet, &vec![0; data]).unwrap();
    packet
}

pub fn ping(out: bool) -> Vec<u8> {
    let mut packet = Vec::new();
    let (from, to) = if out { (HOST, SERVER) } else { (SERVER, HOST) };
    let ip = PacketBuilder::ipv4(from, to, 64);
    let step = if out { ip.icmpv4_echo_request(1, 1) } else { ip.icmpv4_echo_reply(1, 1) };
    step.write(&mut packet, &[0; 32]).unwrap();
    packet
}

/// A whole TCP connection: nine packets.
pub fn session(local_port: u16, remote_port: u16) -> Vec<Vec<u8>> {
    [
        (true, "S", 0),
        (false, "SA", 0),
        (true, "A", 0),
        (true, "A", 100),
        (false, "A", 1000),
        (true, "FA", 0),
        (false, "A", 0),
        (false, "FA", 0),
        (true, "A", 0),
    ]
    .into_iter()
    .map(|(out, flags, data)| tcp(out, local_port, remote_port, flags, data))
    .collect()
}

fn ethertype(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// An Ethernet frame around an IP packet, with VLAN tags.
pub fn ethernet(packet: &[u8], tags: &[u16]) -> Vec<u8> {
    let out =
        packet[0] >> 4 == 4 && packet[12..16] == HOST || packet[0] >> 4 == 6 && packet[8..24] == HOST_V6;
    let (host, router) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (from, to) = if out { (host, router) } else { (router, host) };
    let mut frame = [to, from].concat();
    for tag in tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&[0, 7]);
    }
    frame.extend_from_slice(&ethertype(packet));
    frame.extend_from_slice(packet);
    frame
}

/// Puts a link header before an IP packet.
pub type Wrap = fn(&[u8]) -> Vec<u8>;

/// The link types that `weir run` reads, each with a header around an IP packet.
pub fn links() -> Vec<(&'static str, u32, Wrap)> {
    fn cooked(packet: &[u8]) -> Vec<u8> {
        let out = packet[12..16] == HOST;
        let mut frame = vec![0, if out { 4 } else { 0 }, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
        frame.extend_from_slice(&ethertype(packet));
        frame.extend_from_slice(packet);
        frame
    }
    fn cooked2(packet: &[u8]) -> Vec<u8> {
        let out = packet[12..16] == HOST;
        let mut frame = ethertype(packet).to_vec();
        frame.extend_from_slice(&[
            0,
            0,
            0,
            0,
            0,
            2,
            0,
            1,
            if out { 4 } else { 0 },
            6,
            2,
            0,
            0,
            0,
            0,
            1,
            0,
            0,
        ]);
        frame.extend_from_slice(packet);
        frame
    }
    fn with(prefix: &[u8], packet: &[u8]) -> Vec<u8> {
        [prefix, packet].concat()
    }
    vec![
        ("Ethernet", 1, |packet| ethernet(packet, &[])),
        ("802.1Q", 1, |packet| ethernet(packet, &[0x8100])),
        ("802.1ad", 1, |packet| ethernet(packet, &[0x88a8, 0x8100])),
        ("Linux cooked v1", 113, cooked),
        ("Linux cooked v2", 276, cooked2),
        ("raw IP", 101, |packet| packet.to_vec()),
        ("raw IPv4", 228, |packet| packet.to_vec()),
        ("null, little-endian", 0, |packet| with(&[2, 0, 0, 0], packet)),
        ("null, big-endian", 0, |packet| with(&[0, 0, 0, 2], packet)),
        ("loop", 108, |packet| with(&[0, 0, 0, 2], packet)),
    ]
}

/// How a capture file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Micro,
    MicroBigEndian,
    Nano,
    NanoBigEndian,
    Ng,
    NgBigEndian,
}

pub const CONTAINERS: [Container; 6] = [
    Container::Micro,
    Container::MicroBigEndian,
    Container::Nano,
    Container::NanoBigEndian,
    Container::Ng,
    Container::NgBigEndian,
];

/// A capture file of frames one millisecond apart.
pub fn capture(container: Container, link_type: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    use Container::*;
    let big = matches!(container, MicroBigEndian | NanoBigEndian | NgBigEndian);
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = Vec::new();
    if matches!(container, Ng | NgBigEndian) {
        let block = |file: &mut Vec<u8>, kind: u32, body: &[u8]| {
            let padded = body.len().next_multiple_of(4);
            let length = word(u32::try_from(padded + 12).unwrap());
            file.extend_from_slice(&word(kind));
            file.extend_from_slice(&length);
            file.extend_from_slice(body);
            file.resize(file.len() + padded - body.len(), 0);
            file.extend_from_slice(&length);
        };
        let section = [&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat();
        block(&mut file, 0x0a0d_0d0a, &section);
        let interface = [&half(u16::try_from(link_type).unwrap())[..], &half(0), &word(0)].concat();
        block(&mut file, 1, &interface);
        for (index, frame) in frames.iter().enumerate() {
            let length = word(u32::try_from(frame.len()).unwrap());
            let time = 1_700_000_000_000_000 + 1000 * index as u64;
            let stamp = [word((time >> 32) as u32), word((time & 0xffff_ffff) as u32)].concat();
            block(&mut file, 6, &[&word(0)[..], &stamp, &length, &length, frame].concat());
        }
        return file;
    }
    let (magic, unit) = if matches!(container, Nano | NanoBigEndian) {
        (0xa1b2_3c4d, 1_000_000)
    } else {
        (0xa1b2_c3d4, 1000)
    };
    file.extend_from_slice(&word(magic));
    file.extend_from_slice(&half(2));
    file.extend_from_slice(&half(4));
    for value in [0, 0, 262_144, link_type] {
        file.extend_from_slice(&word(value));
    }
    for (index, frame) in frames.iter().enumerate() {
        let length = u32::try_from(frame.len()).unwrap();
        let index = u32::try_from(index).unwrap();
        for value in [1_700_000_000 + index / 1000, index % 1000 * unit, length, length] {
            file.extend_from_slice(&word(value));
        }
        file.extend_from_slice(frame);
    }
    file
}

/// A pcap file of raw IP packets.
pub fn raw(packets: &[Vec<u8>]) -> Vec<u8> {
    capture(Container::Micro, 101, packets)
}

/// A file for a test, gone with it.
pub fn file(suffix: &str, contents: &[u8]) -> tempfile::TempPath {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(contents).unwrap();
    file.into_temp_path()
}

/// The configuration directory of the tests' commands.
pub fn configuration() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("configuration-{}", std::process::id()))
}

pub fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.stdin(Stdio::null());
    // Not the user's own.
    command.env("XDG_CONFIG_HOME", configuration());
    command
}

/// What a run printed.
pub struct Run {
    pub output: Output,
    pub events: Vec<Value>,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let events = String::from_utf8(output.stdout.clone())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .collect();
        Self { output, events }
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub fn summary(&self) -> &Value {
        let last = self.events.last().unwrap_or_else(|| panic!("nothing printed: {}", self.stderr()));
        assert_eq!(last["event"], "summary", "{}", self.stderr());
        last
    }

    pub fn all(&self, event: &str) -> Vec<&Value> {
        self.events.iter().filter(|value| value["event"] == event).collect()
    }

    /// The summary of a run that must have found nothing wrong.
    pub fn clean(&self) -> &Value {
        assert_eq!(self.output.status.code(), Some(0), "{}", self.stderr());
        let summary = self.summary();
        assert_eq!(summary["verifier"]["leaks"], 0, "{}", self.stderr());
        assert_eq!(summary["verifier"]["violations"], 0, "{}", self.stderr());
        assert_eq!(summary["ring"]["dropped"], 0);
        assert_eq!(self.all("verdict").len() as u64, summary["flows"].as_u64().unwrap());
        assert_eq!(self.all("closed").len() as u64, summary["flows"].as_u64().unwrap());
        let shown: u64 = self.all("closed").iter().map(|closed| closed["packets"].as_u64().unwrap()).sum();
        let (packets, skipped) = (summary["packets"].as_u64().unwrap(), summary["skipped"].as_u64().unwrap());
        assert_eq!(shown + skipped, packets, "every packet is accounted for");
        summary
    }
}

/// Replays a capture with `--json` and more arguments.
pub fn replay(capture: &[u8], arguments: &[&str]) -> Run {
    let path = file(".pcap", capture);
    Run::of(weir().args(["run", "--json", "--capture"]).arg(&path).args(arguments))
}

/// `../shared/…` beside the tree, or `None` with a message.
pub fn shared(path: &str) -> Option<PathBuf> {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if shared.exists() {
        return Some(shared);
    }
    println!("skipped: {} is not here", shared.display());
    None
}
