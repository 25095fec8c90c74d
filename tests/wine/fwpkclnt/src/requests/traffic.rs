//! Connections, as a stack would show them to the filtering platform.
//!
//! Each connection is a stack of its own, which is shown the packets of that connection; so connections of different
//! requests do not wait for each other.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use hashbrown::HashMap;
use wine_support::drive::{self, Outcome, Request, fields};
use wine_support::json::{Value, json};
use wine_support::sync::{Lazy, Mutex};
use wine_support::time;

use super::identity::identity;
use crate::tcpip::{
    Connection, Direction, EndReason, Endpoints, Host, Identity, Observer, Packet, Stack, Verdict, tcp,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The most data in one packet: an Ethernet frame's, less the headers.
const SEGMENT: u64 = 1460;
/// The most data that one request may transfer in each direction.
pub(super) const MOST_BYTES: u64 = 1 << 30;
/// Data is zeros.
static DATA: [u8; 1500] = [0; 1500];

/// The host of one connection.
struct Player {
    local: IpAddr,
    identity: Identity,
}

impl Host for Player {
    fn is_local(&self, address: IpAddr) -> bool {
        address == self.local
    }

    fn identity(&self, _: &Endpoints, _: Direction) -> Identity {
        self.identity.clone()
    }
}

/// What became of it.
#[derive(Default)]
struct Seen {
    authorized: Option<(Verdict, u64)>,
    ended: Option<Connection>,
}

impl Observer for Seen {
    fn authorized(&mut self, connection: &Connection) {
        self.authorized = Some((connection.verdict, connection.flow));
    }

    fn ended(&mut self, connection: &Connection, _: EndReason) {
        self.ended = Some(connection.clone());
    }
}

/// What a connection is made of.
#[derive(Clone)]
pub(super) struct Spec {
    pub protocol: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub outbound: bool,
    pub identity: Identity,
}

/// A connection that was authorized.
pub(super) struct Live {
    spec: Spec,
    stack: Stack<Player, Seen>,
    pub verdict: Verdict,
    pub flow: u64,
}

// SAFETY: what the stack's pointers lead to goes with it: boxes of its own, and data of one classification, which is
// over between two calls.
unsafe impl Send for Live {}

impl Live {
    /// Authorizes a connection, and establishes it if it is permitted: a TCP connection by its handshake, any other by
    /// its first packet, which carries `first` bytes.
    pub fn open(spec: Spec, first: u64) -> Self {
        let player = Player { local: spec.local.ip(), identity: spec.identity.clone() };
        let stack = Stack::new(player, Seen::default(), None);
        let outbound = spec.outbound;
        let mut live = Self { spec, stack, verdict: Verdict::Block, flow: 0 };
        let handshake = live.spec.protocol == TCP;
        live.packet(outbound, tcp::SYN, if handshake { 0 } else { first });
        if let Some((verdict, flow)) = live.stack.observer.authorized {
            live.verdict = verdict;
            live.flow = flow;
        }
        if handshake && live.verdict == Verdict::Permit {
            live.packet(!outbound, tcp::SYN | tcp::ACK, 0);
            live.packet(outbound, tcp::ACK, 0);
        }
        live
    }

    /// Data of that many bytes, out and then in, in segments.
    pub fn transfer(&mut self, send: u64, receive: u64) {
        for (outbound, bytes) in [(true, send), (false, receive)] {
            let mut left = bytes;
            while left != 0 {
                let length = left.min(SEGMENT);
                self.packet(outbound, tcp::ACK, length);
                left -= length;
            }
        }
    }

    /// Closes it: by both sides, or by a reset from the remote one. Counters of the whole connection.
    pub fn close(mut self, reset: bool) -> Option<Connection> {
        if self.spec.protocol == TCP && self.verdict == Verdict::Permit {
            if reset {
                self.packet(false, tcp::RST, 0);
            } else {
                self.packet(true, tcp::FIN | tcp::ACK, 0);
                self.packet(false, tcp::FIN | tcp::ACK, 0);
            }
        }
        self.stack.finish();
        self.stack.observer.ended.take()
    }

    fn packet(&mut self, outbound: bool, tcp_flags: u8, length: u64) {
        let Spec { protocol, local, remote, .. } = self.spec;
        let (source, destination) = if outbound { (local, remote) } else { (remote, local) };
        let transport_header_len = match protocol {
            TCP => 20,
            UDP => 8,
            _ => 0,
        };
        let ports = protocol == TCP || protocol == UDP;
        let transport_len = transport_header_len + u32::try_from(length).unwrap_or(0);
        let packet = Packet {
            source: source.ip(),
            destination: destination.ip(),
            protocol,
            source_port: if ports { source.port() } else { 0 },
            destination_port: if ports { destination.port() } else { 0 },
            tcp_flags: if protocol == TCP { tcp_flags } else { 0 },
            // Echo request and reply.
            icmp: (if outbound == self.spec.outbound { 8 } else { 0 }, 0),
            fragment: None,
            ip_header_len: if local.is_ipv4() { 20 } else { 40 },
            transport_header_len,
            transport_len,
            data: DATA.get(..transport_len as usize).unwrap_or(&DATA),
            time: i64::try_from(time::milliseconds()).unwrap_or(0) * 1_000_000,
        };
        self.stack.packet(&packet);
    }

    fn describe(&self, id: u64) -> Value {
        json!({
            "id": id,
            "flow": self.flow,
            "protocol": self.spec.protocol,
            "local": alloc::format!("{}", self.spec.local),
            "remote": alloc::format!("{}", self.spec.remote),
            "direction": if self.spec.outbound { "outbound" } else { "inbound" },
        })
    }
}

type Shared = Arc<Mutex<Option<Live>>>;

static CONNECTIONS: Lazy<Mutex<HashMap<u64, Shared>>> = Lazy::new(Mutex::default);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port of the dynamic range, each after the other.
pub(super) fn local_port() -> u16 {
    49152 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 16384
}

/// The local endpoint where a request names none.
pub(super) fn local_endpoint(remote: SocketAddr) -> SocketAddr {
    let address = match remote {
        SocketAddr::V4(_) => IpAddr::from([10, 0, 0, 1]),
        SocketAddr::V6(_) => IpAddr::from([0x2001, 0xDB8, 0, 0, 0, 0, 0, 1]),
    };
    SocketAddr::new(address, local_port())
}

fn counters(connection: Option<&Connection>) -> Value {
    let Some(connection) = connection else {
        return Value::Null;
    };
    json!({
        "packets_received": connection.packets[0],
        "packets_sent": connection.packets[1],
        "bytes_received": connection.bytes[0],
        "bytes_sent": connection.bytes[1],
        "suppressed": connection.suppressed,
    })
}

/// The amounts of data that a request names.
pub(super) fn amounts(request: &Request) -> Result<(u64, u64), String> {
    Ok((drive::number(request, "send", 0, MOST_BYTES)?, drive::number(request, "receive", 0, MOST_BYTES)?))
}

pub(super) fn connect(request: &Request, outbound: bool) -> Outcome {
    let remote = fields::endpoint(request, "remote")?;
    let local = match drive::optional_text(request, "local")? {
        Some(_) => fields::endpoint(request, "local")?,
        None => local_endpoint(remote),
    };
    if local.is_ipv4() != remote.is_ipv4() {
        return Err("\"local\" and \"remote\" must be of one address family".into());
    }
    let protocol = fields::protocol(request)?;
    let identity = identity(request)?;
    let (send, receive) = amounts(request)?;
    let close = drive::flag(request, "close", false)?;
    let first = drive::number(request, "first", 64, SEGMENT)?;
    let mut live = Live::open(Spec { protocol, local, remote, outbound, identity }, first);
    let (verdict, flow) = (live.verdict, live.flow);
    if verdict == Verdict::Block {
        live.close(false);
        return Ok(json!({ "verdict": "block", "flow": flow, "local": alloc::format!("{local}") }));
    }
    live.transfer(send, receive);
    let mut answer = json!({ "verdict": "permit", "flow": flow, "local": alloc::format!("{local}") });
    if close {
        answer["closed"] = counters(live.close(false).as_ref());
    } else {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        CONNECTIONS.lock().insert(id, Arc::new(Mutex::new(Some(live))));
        answer["id"] = id.into();
    }
    Ok(answer)
}

fn unknown(id: u64) -> String {
    alloc::format!("no connection has the id {id}")
}

pub(super) fn transfer(request: &Request) -> Outcome {
    let id = drive::number(request, "id", 0, u64::MAX)?;
    let (send, receive) = amounts(request)?;
    let shared = CONNECTIONS.lock().get(&id).cloned().ok_or_else(|| unknown(id))?;
    let mut live = shared.lock();
    live.as_mut().ok_or_else(|| unknown(id))?.transfer(send, receive);
    Ok(Value::Null)
}

/// One connection, or without an id all of them.
pub(super) fn close(request: &Request) -> Outcome {
    let reset = drive::flag(request, "reset", false)?;
    if request.get("id").is_none() {
        let all: Vec<Shared> = CONNECTIONS.lock().drain().map(|(_, shared)| shared).collect();
        let closed = all.into_iter().filter_map(|shared| shared.lock().take()).map(|live| live.close(reset));
        return Ok(json!({ "closed": closed.count() }));
    }
    let id = drive::number(request, "id", 0, u64::MAX)?;
    let shared = CONNECTIONS.lock().remove(&id).ok_or_else(|| unknown(id))?;
    let live = shared.lock().take().ok_or_else(|| unknown(id))?;
    Ok(json!({ "closed": counters(live.close(reset).as_ref()) }))
}

pub(super) fn connections() -> Value {
    let mut all: Vec<(u64, Shared)> =
        CONNECTIONS.lock().iter().map(|(id, shared)| (*id, Arc::clone(shared))).collect();
    all.sort_by_key(|(id, _)| *id);
    let all: Vec<Value> =
        all.iter().filter_map(|(id, shared)| shared.lock().as_ref().map(|live| live.describe(*id))).collect();
    json!({ "connections": all })
}
