//! The connections that the stack knows.

use core::net::IpAddr;

use super::{IPPROTO_TCP, IPPROTO_UDP, Identity, Packet, tcp};
use crate::wfp::FlowRef;

/// Which way a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// What the filter engine said at authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Permit,
    Block,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Both sides closed, or one reset.
    Closed,
    /// No packet for the idle time.
    Idle,
    /// The capture was over.
    CaptureEnd,
}

/// The two ends of a connection, from the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Host order; 0 where the protocol has none.
    pub local_port: u16,
    pub remote_port: u16,
    /// Type and code of the first packet, for ICMP and ICMPv6.
    pub icmp: (u8, u8),
}

impl Endpoints {
    pub(super) fn of(packet: &Packet<'_>, direction: Direction) -> Self {
        let (source, destination) =
            ((packet.source, packet.source_port), (packet.destination, packet.destination_port));
        let (local, remote) = match direction {
            Direction::Outbound => (source, destination),
            Direction::Inbound => (destination, source),
        };
        Self {
            protocol: packet.protocol,
            local: local.0,
            remote: remote.0,
            local_port: local.1,
            remote_port: remote.1,
            icmp: packet.icmp,
        }
    }

    /// Whether the protocol has ports: TCP and UDP, as in the fields of the filtering platform.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, IPPROTO_TCP | IPPROTO_UDP)
    }
}

/// What the stack knows of a connection. Counters are of the packets in the capture, whether let through or not.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The flow handle of its metadata.
    pub flow: u64,
    pub endpoints: Endpoints,
    pub direction: Direction,
    pub verdict: Verdict,
    /// Packets received and sent.
    pub packets: [u64; 2],
    /// Bytes behind the IP headers, received and sent.
    pub bytes: [u64; 2],
    /// Packets of a blocked connection after the one that was blocked, and packets that a filter dropped.
    pub suppressed: u64,
    /// Time of the first packet and of the last, in the capture's nanoseconds.
    pub first: i64,
    pub last: i64,
}

impl Connection {
    pub(super) fn new(flow: u64, endpoints: Endpoints, direction: Direction, time: i64) -> Self {
        Self {
            flow,
            endpoints,
            direction,
            verdict: Verdict::Permit,
            packets: [0; 2],
            bytes: [0; 2],
            suppressed: 0,
            first: time,
            last: time,
        }
    }

    pub(super) fn is_outbound(&self, packet: &Packet<'_>) -> bool {
        (packet.source, packet.source_port) == (self.endpoints.local, self.endpoints.local_port)
    }

    pub(super) fn count(&mut self, packet: &Packet<'_>, outbound: bool, permitted: bool) {
        let first = self.packets == [0; 2];
        let side = usize::from(outbound);
        self.packets[side] += 1;
        self.bytes[side] += u64::from(packet.transport_len);
        self.last = packet.time;
        if !permitted && !first {
            self.suppressed += 1;
        }
    }

    pub(super) fn discard(&mut self) {
        self.suppressed += 1;
    }
}

/// Protocol and both endpoints, the smaller first, so that both directions meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    protocol: u8,
    ends: [(IpAddr, u16); 2],
}

impl Key {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        let ends = if source <= destination { [source, destination] } else { [destination, source] };
        Self { protocol: packet.protocol, ends }
    }
}

/// A connection and what the stack needs to go on with it.
pub(super) struct Entry {
    pub connection: Connection,
    pub identity: Identity,
    pub flow: FlowRef,
    /// Tells connections on the same endpoints apart.
    pub serial: u64,
    /// Both sides closed, or one reset.
    pub closed: bool,
    pub established: bool,
    /// Whether the remote and the local side sent FIN.
    pub finished: [bool; 2],
}

impl Entry {
    /// Follows the closing of a TCP connection; true if this packet completed it.
    pub fn close(&mut self, packet: &Packet<'_>, outbound: bool) -> bool {
        if self.closed || packet.protocol != IPPROTO_TCP {
            return false;
        }
        if packet.tcp_flags & tcp::FIN != 0 {
            self.finished[usize::from(outbound)] = true;
        }
        self.closed = self.finished == [true; 2] || packet.tcp_flags & tcp::RST != 0;
        self.closed
    }
}
