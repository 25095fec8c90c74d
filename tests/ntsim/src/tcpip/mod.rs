//! The simulated TCP/IP stack: it turns packets into what the Windows Filtering Platform would be shown of them.
//!
//! It plays one host. Each packet is either of a connection that it knows or opens a new one, which is authorized at
//! ALE_AUTH_CONNECT (outbound) or ALE_AUTH_RECV_ACCEPT (inbound); then it is established at ALE_FLOW_ESTABLISHED, its
//! packets pass INBOUND_TRANSPORT or OUTBOUND_TRANSPORT, and its end is seen at ALE_ENDPOINT_CLOSURE. The order is
//! that of the pages "TCP Packet Flows" and "UDP Packet Flows" (win32/fwp); all that is not TCP follows UDP.
//!
//! Where a capture is not a stack, it differs from Windows:
//! - a TCP connection whose opening the capture lacks is authorized and established at its first packet;
//! - fragments are not reassembled: each counts as a packet of the flow that its first fragment belongs to;
//! - ICMP flows are told apart by their addresses alone, not by type, code and identifier;
//! - a connection between two of the host's own addresses is shown at the side that spoke first only.

mod ale;
mod buffer;
mod fragment;
mod table;
mod token;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::net::IpAddr;

use hashbrown::HashMap;

use self::ale::Ale;
use self::fragment::Fragments;
pub use self::table::{Connection, Direction, EndReason, Endpoints, Verdict};
use self::table::{Entry, Key};
use crate::wfp;

/// TCP header flags (RFC 9293, section 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// How long a closed TCP connection still takes its late packets: twice the maximum segment lifetime of RFC 9293.
const LINGER_NS: i64 = 240 * 1_000_000_000;
/// How many closed connections may wait for late packets.
const LINGER_MOST: usize = 65_536;

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification of the datagram.
    pub id: u32,
    /// Whether it is the first, which holds the transport header.
    pub first: bool,
    /// Whether none follows.
    pub last: bool,
}

/// One IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The protocol behind the IP header and its extensions.
    pub protocol: u8,
    /// Host order; 0 where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    /// Bits of [`tcp`]; 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type and code.
    pub icmp: (u8, u8),
    /// Set if the packet is a part of a fragmented datagram.
    pub fragment: Option<Fragment>,
    /// Bytes of the IP header with its options or extension headers.
    pub ip_header_len: u32,
    /// Bytes of the transport header; 0 for ICMP, whose message is data as a whole.
    pub transport_header_len: u32,
    /// Bytes behind the IP header: transport header and data.
    pub transport_len: u32,
    /// What is at hand of them.
    pub data: &'a [u8],
    /// Nanoseconds; any epoch, need not rise.
    pub time: i64,
}

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    /// The NET_LUID's value.
    pub luid: u64,
    /// IANA ifType.
    pub kind: u32,
}

/// Whose a connection is, as far as the host knows. What is `None` is EMPTY in a classification.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The application's NT path in lower case, UTF-16, with its terminating zero.
    pub application: Option<Arc<[u16]>>,
    /// The user's SID in binary form.
    pub user: Option<Arc<[u8]>>,
    /// The local interface.
    pub interface: Option<Interface>,
}

/// The host that the stack plays.
pub trait Host {
    /// Whether an address is one of the host's own.
    fn is_local(&self, address: IpAddr) -> bool;
    /// Whose a new connection is.
    fn identity(&self, endpoints: &Endpoints, direction: Direction) -> Identity;
}

/// Who watches the stack.
pub trait Observer {
    /// A connection was authorized, or blocked.
    fn authorized(&mut self, connection: &Connection);
    /// A connection is gone, whether it was authorized or blocked.
    fn ended(&mut self, connection: &Connection, reason: EndReason);
}

/// The stack of one host.
pub struct Stack<H, O> {
    host: H,
    /// Who watches.
    pub observer: O,
    ale: Ale,
    table: HashMap<Key, Entry>,
    /// Closed TCP connections in the order of their closing: when, which, and its serial number.
    lingering: VecDeque<(i64, Key, u64)>,
    fragments: Fragments,
    serial: u64,
    idle: Option<i64>,
    swept: Option<i64>,
}

impl<H: Host, O: Observer> Stack<H, O> {
    /// A stack without connections. A connection without a packet for `idle` nanoseconds ends; without `idle`, only
    /// TCP connections end, by their own closing.
    pub fn new(host: H, observer: O, idle: Option<i64>) -> Self {
        Self {
            host,
            observer,
            ale: Ale::new(),
            table: HashMap::new(),
            lingering: VecDeque::new(),
            fragments: Fragments::default(),
            serial: 0,
            idle,
            swept: None,
        }
    }

    /// The live connections.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Fragments that were given up, because their first fragment never came.
    pub fn orphans(&self) -> u64 {
        self.fragments.orphans()
    }

    /// Takes one packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        self.expire(packet.time);
        match packet.fragment {
            None => self.transport(packet),
            Some(fragment) if fragment.first => {
                let held = self.fragments.first(packet, fragment);
                self.transport(packet);
                for later in held {
                    self.transport(&later.packet(packet));
                }
            }
            Some(fragment) => {
                if let Some((source_port, destination_port)) = self.fragments.later(packet, fragment) {
                    self.transport(&Packet { source_port, destination_port, ..*packet });
                }
            }
        }
    }

    /// Ends every connection.
    pub fn finish(&mut self) {
        self.fragments.give_up();
        self.lingering.clear();
        for (_, entry) in core::mem::take(&mut self.table) {
            let reason = if entry.closed { EndReason::Closed } else { EndReason::CaptureEnd };
            Self::end(&mut self.ale, &mut self.observer, &entry, reason);
        }
    }

    fn transport(&mut self, packet: &Packet<'_>) {
        let key = Key::of(packet);
        if let Some(entry) = self.table.get_mut(&key) {
            let opens = packet.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN;
            if !(entry.closed && opens) {
                let outbound = entry.connection.is_outbound(packet);
                deliver(&mut self.ale, entry, packet, outbound);
                if entry.close(packet, outbound) {
                    self.lingering.push_back((packet.time, key, entry.serial));
                }
                return;
            }
            // The same endpoints, a new connection.
            if let Some(old) = self.table.remove(&key) {
                Self::end(&mut self.ale, &mut self.observer, &old, EndReason::Closed);
            }
        }
        self.open(key, packet);
    }

    fn open(&mut self, key: Key, packet: &Packet<'_>) {
        // The host speaks if the source is its own, or if neither is: then the capture shows others' traffic, and who
        // speaks first stands for the host.
        let direction = if self.host.is_local(packet.source) || !self.host.is_local(packet.destination) {
            if !self.host.is_local(packet.source) && ale::is_group(packet.destination) {
                Direction::Inbound
            } else {
                Direction::Outbound
            }
        } else {
            Direction::Inbound
        };
        let endpoints = Endpoints::of(packet, direction);
        let identity = self.host.identity(&endpoints, direction);
        self.serial += 1;
        let flow = wfp::flow_create();
        let mut entry = Entry {
            connection: Connection::new(flow.id(), endpoints, direction, packet.time),
            identity,
            flow,
            serial: self.serial,
            closed: false,
            established: false,
            finished: [false; 2],
        };
        let outbound = direction == Direction::Outbound;
        // An inbound packet passes the transport layer first ("TCP Packet Flows").
        let mut passed = outbound || self.ale.inbound_transport(&entry, packet, true);
        passed = passed && self.ale.authorize(&entry, packet);
        entry.connection.verdict = if passed { Verdict::Permit } else { Verdict::Block };
        entry.connection.count(packet, outbound, passed);
        self.observer.authorized(&entry.connection);
        if passed {
            // TCP is established by its handshake, all else at once; so is a connection that was there before the
            // capture.
            let handshake = packet.protocol == IPPROTO_TCP && packet.tcp_flags & (tcp::SYN | tcp::RST) != 0;
            if !handshake {
                self.establish(&mut entry);
            }
            if outbound && !self.ale.outbound_transport(&entry, packet) {
                entry.connection.discard();
            }
        }
        if entry.close(packet, outbound) {
            self.lingering.push_back((packet.time, key, entry.serial));
        }
        self.table.insert(key, entry);
    }

    fn establish(&mut self, entry: &mut Entry) {
        entry.established = true;
        self.ale.flow_established(entry);
    }

    fn end(ale: &mut Ale, observer: &mut O, entry: &Entry, reason: EndReason) {
        if entry.connection.verdict == Verdict::Permit {
            ale.endpoint_closure(entry);
        }
        wfp::flow_end(&entry.flow);
        observer.ended(&entry.connection, reason);
    }

    fn expire(&mut self, now: i64) {
        while let Some(&(closed, key, serial)) = self.lingering.front() {
            if self.lingering.len() <= LINGER_MOST && now.saturating_sub(closed) < LINGER_NS {
                break;
            }
            self.lingering.pop_front();
            if self.table.get(&key).is_some_and(|entry| entry.serial == serial)
                && let Some(entry) = self.table.remove(&key)
            {
                Self::end(&mut self.ale, &mut self.observer, &entry, EndReason::Closed);
            }
        }
        let Some(idle) = self.idle else { return };
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_sub(swept) < idle / 4 {
            return;
        }
        self.swept = Some(now);
        let (ale, observer) = (&mut self.ale, &mut self.observer);
        self.table.retain(|_, entry| {
            let live = now.saturating_sub(entry.connection.last) < idle;
            if !live {
                Self::end(
                    ale,
                    observer,
                    entry,
                    if entry.closed { EndReason::Closed } else { EndReason::Idle },
                );
            }
            live
        });
    }
}

/// Shows a packet of a known connection at its layers.
fn deliver(ale: &mut Ale, entry: &mut Entry, packet: &Packet<'_>, outbound: bool) {
    let permitted = entry.connection.verdict == Verdict::Permit;
    entry.connection.count(packet, outbound, permitted);
    if !permitted {
        return;
    }
    let acknowledges = packet.tcp_flags & (tcp::ACK | tcp::RST) == tcp::ACK;
    let opens = packet.tcp_flags & tcp::SYN != 0;
    // The client is established by the SYN-ACK that it receives, the server by the ACK that follows its own; where
    // the capture lacks that one, by any later packet.
    let completes = !entry.established
        && acknowledges
        && (!opens || (!outbound && entry.connection.direction == Direction::Outbound));
    if outbound {
        if completes {
            entry.established = true;
            ale.flow_established(entry);
        }
        if !ale.outbound_transport(entry, packet) {
            entry.connection.discard();
        }
    } else {
        if !ale.inbound_transport(entry, packet, false) {
            entry.connection.discard();
        }
        if completes {
            entry.established = true;
            ale.flow_established(entry);
        }
    }
}
