//! The small capture that `weir run` uses when it is given none: an office workstation's minute.
//!
//! The file in the tree is what [`generate`] makes; a test holds the two together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

/// The file.
pub const CAPTURE: &[u8] = include_bytes!("../../examples/sample.pcap");

const WORKSTATION: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x00, 0x14];
const ROUTER: [u8; 6] = [0x02, 0x00, 0x5e, 0x00, 0x00, 0x01];
/// Addresses of RFC 5737 and RFC 3849 stand for the internet.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 20);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 10, 0, 0, 0, 0, 0x20);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);

/// Microseconds between packets.
const STEP: u32 = 20_000;

struct Writer {
    file: Vec<u8>,
    /// Microseconds since the capture began.
    time: u32,
}

/// One connection: its ends as the workstation sees them.
#[derive(Clone, Copy)]
struct Peer {
    local: u16,
    remote: IpAddr,
    port: u16,
}

impl Peer {
    fn new(local: u16, remote: impl Into<IpAddr>, port: u16) -> Self {
        Self { local, remote: remote.into(), port }
    }
}

impl Writer {
    fn new() -> Self {
        let mut file = Vec::new();
        // Magic, version 2.4, time zone, accuracy, snapshot length, LINKTYPE_ETHERNET (draft-ietf-opsawg-pcap).
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        Self { file, time: 0 }
    }

    fn record(&mut self, frame: &[u8]) {
        const START: u32 = 1_767_258_000;
        let length = u32::try_from(frame.len()).expect("frames are short");
        for word in [START + self.time / 1_000_000, self.time % 1_000_000, length, length] {
            self.file.extend_from_slice(&word.to_le_bytes());
        }
        self.file.extend_from_slice(frame);
        self.time += STEP;
    }

    fn ip(out: bool, remote: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let (from, to) = if out { (WORKSTATION, ROUTER) } else { (ROUTER, WORKSTATION) };
        let link = PacketBuilder::ethernet2(from, to);
        match remote {
            IpAddr::V4(remote) if out => link.ipv4(HOST.octets(), remote.octets(), 64),
            IpAddr::V4(remote) => link.ipv4(remote.octets(), HOST.octets(), 57),
            IpAddr::V6(remote) if out => link.ipv6(HOST_V6.octets(), remote.octets(), 64),
            IpAddr::V6(remote) => link.ipv6(remote.octets(), HOST_V6.octets(), 57),
        }
    }

    fn tcp(&mut self, out: bool, peer: Peer, flags: &str, data: usize) {
        let (from, to) = if out { (peer.local, peer.port) } else { (peer.port, peer.local) };
        let mut step = Self::ip(out, peer.remote).tcp(from, to, 1000, 64_240);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(2000),
                'F' => step.fin(),
                'R' => step.rst(),
                _ => step.psh(),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, &vec![0x2e; data]).expect("writing to memory succeeds");
        self.record(&frame);
    }

    fn udp(&mut self, out: bool, peer: Peer, data: usize) {
        let (from, to) = if out { (peer.local, peer.port) } else { (peer.port, peer.local) };
        let mut frame = Vec::new();
        let step = Self::ip(out, peer.remote).udp(from, to);
        step.write(&mut frame, &vec![0x2e; data]).expect("writing to memory succeeds");
        self.record(&frame);
    }

    fn ping(&mut self, remote: IpAddr) {
        for out in [true, false] {
            let mut frame = Vec::new();
            let ip = Self::ip(out, remote);
            let step = match (remote, out) {
                (IpAddr::V4(_), true) => ip.icmpv4_echo_request(7, 1),
                (IpAddr::V4(_), false) => ip.icmpv4_echo_reply(7, 1),
                (IpAddr::V6(_), true) => {
                    ip.icmpv6_echo_request(7, 1)
                        .write(&mut frame, &[0; 32])
                        .expect("writing to memory succeeds");
                    self.record(&frame);
                    continue;
                }
                (IpAddr::V6(_), false) => {
                    ip.icmpv6_echo_reply(7, 1)
                        .write(&mut frame, &[0; 32])
                        .expect("writing to memory succeeds");
                    self.record(&frame);
                    continue;
                }
            };
            step.write(&mut frame, &[0; 32]).expect("writing to memory succeeds");
            self.record(&frame);
        }
    }

    /// A whole TCP connection that the workstation opens: `rounds` requests and answers.
    fn session(&mut self, peer: Peer, rounds: usize) {
        self.tcp(true, peer, "S", 0);
        self.tcp(false, peer, "SA", 0);
        self.tcp(true, peer, "A", 0);
        for round in 0..rounds {
            self.tcp(true, peer, "PA", 200 + round);
            self.tcp(false, peer, "PA", 1400);
        }
        self.tcp(true, peer, "FA", 0);
        self.tcp(false, peer, "FA", 0);
        self.tcp(true, peer, "A", 0);
    }
}

/// Makes the capture.
///
/// # Panics
/// Never: it writes to memory.
pub fn generate() -> Vec<u8> {
    let mut writer = Writer::new();
    let (web, mail) = (Ipv4Addr::new(203, 0, 113, 80), Ipv4Addr::new(198, 51, 100, 25));
    let web_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x80);

    let lookup = Peer::new(50_001, RESOLVER, 53);
    writer.udp(true, lookup, 40);
    writer.udp(false, lookup, 120);
    writer.session(Peer::new(50_100, web, 443), 4);
    writer.session(Peer::new(50_101, web_v6, 443), 3);
    let quic = Peer::new(50_102, web_v6, 443);
    for _ in 0..3 {
        writer.udp(true, quic, 1200);
        writer.udp(false, quic, 1200);
    }
    writer.session(Peer::new(50_103, mail, 587), 2);

    // Telnet to a server far away, tried three times.
    let telnet = Peer::new(50_104, Ipv4Addr::new(203, 0, 113, 23), 23);
    for _ in 0..3 {
        writer.tcp(true, telnet, "S", 0);
    }
    // A file share on the internet.
    let share = Peer::new(50_105, Ipv4Addr::new(198, 51, 100, 45), 445);
    writer.tcp(true, share, "S", 0);
    writer.tcp(false, share, "RA", 0);
    // A resolver that is not the office's.
    let other = Peer::new(50_106, Ipv4Addr::new(198, 51, 100, 53), 53);
    writer.udp(true, other, 44);
    writer.udp(false, other, 90);
    // A colleague's remote desktop, and somebody who tries the same from outside.
    let colleague = Peer::new(3389, Ipv4Addr::new(192, 168, 10, 31), 51_000);
    writer.tcp(false, colleague, "S", 0);
    writer.tcp(true, colleague, "SA", 0);
    writer.tcp(false, colleague, "A", 0);
    writer.tcp(false, colleague, "PA", 300);
    writer.tcp(true, colleague, "PA", 900);
    writer.tcp(false, Peer::new(3389, Ipv4Addr::new(203, 0, 113, 66), 40_000), "S", 0);
    writer.udp(true, Peer::new(5353, Ipv4Addr::new(224, 0, 0, 251), 5353), 60);
    writer.ping(RESOLVER.into());
    writer.ping(web_v6.into());
    writer.file
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_capture_in_the_tree_is_what_the_generator_makes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sample.pcap");
        let made = super::generate();
        if std::env::var_os("WEIR_WRITE_SAMPLE").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == made, "run again with WEIR_WRITE_SAMPLE=1 to write {path}");
    }
}
