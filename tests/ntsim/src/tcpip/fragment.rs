//! Which flow a fragment belongs to. Only the first fragment of a datagram has ports; the others are told by source,
//! destination, protocol and identification (RFC 791, RFC 8200 section 4.5). Memory is bounded: the oldest datagrams
//! are given up.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use super::{Fragment, Packet};

/// Datagrams followed at a time.
const MOST: usize = 4096;
/// Fragments held for one datagram until its first comes: the most that 65,535 bytes can be cut into, at 8 bytes each.
const MOST_HELD: usize = 8192;

type Datagram = (IpAddr, IpAddr, u8, u32);

/// A fragment that came before the first of its datagram.
pub(super) struct Held {
    transport_len: u32,
    ip_header_len: u32,
    time: i64,
}

impl Held {
    /// The fragment as a packet, with what the first of its datagram tells.
    pub fn packet<'a>(&self, first: &Packet<'a>) -> Packet<'a> {
        Packet {
            transport_len: self.transport_len,
            ip_header_len: self.ip_header_len,
            time: self.time,
            transport_header_len: 0,
            tcp_flags: 0,
            data: &[],
            ..*first
        }
    }
}

enum State {
    Known(u16, u16),
    Waiting(Vec<Held>),
}

#[derive(Default)]
pub(super) struct Fragments {
    datagrams: HashMap<Datagram, State>,
    order: VecDeque<Datagram>,
    orphans: u64,
}

impl Fragments {
    pub fn orphans(&self) -> u64 {
        self.orphans
    }

    /// Notes a first fragment; gives back the later ones that waited for it.
    pub fn first(&mut self, packet: &Packet<'_>, fragment: Fragment) -> Vec<Held> {
        let datagram = (packet.source, packet.destination, packet.protocol, fragment.id);
        let known = State::Known(packet.source_port, packet.destination_port);
        match self.datagrams.insert(datagram, known) {
            Some(State::Waiting(held)) => held,
            Some(State::Known(..)) => Vec::new(),
            None => {
                self.followed(datagram);
                Vec::new()
            }
        }
    }

    /// The ports of a later fragment's datagram; without them the fragment is held.
    pub fn later(&mut self, packet: &Packet<'_>, fragment: Fragment) -> Option<(u16, u16)> {
        let datagram = (packet.source, packet.destination, packet.protocol, fragment.id);
        let held = Held {
            transport_len: packet.transport_len,
            ip_header_len: packet.ip_header_len,
            time: packet.time,
        };
        match self.datagrams.get_mut(&datagram) {
            Some(State::Known(source, destination)) => return Some((*source, *destination)),
            Some(State::Waiting(waiting)) if waiting.len() < MOST_HELD => waiting.push(held),
            Some(State::Waiting(_)) => self.orphans += 1,
            None => {
                self.datagrams.insert(datagram, State::Waiting(Vec::from([held])));
                self.followed(datagram);
            }
        }
        None
    }

    /// Gives up what still waits.
    pub fn give_up(&mut self) {
        self.order.clear();
        for (_, state) in self.datagrams.drain() {
            if let State::Waiting(held) = state {
                self.orphans += held.len() as u64;
            }
        }
    }

    fn followed(&mut self, datagram: Datagram) {
        self.order.push_back(datagram);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
            && let Some(State::Waiting(held)) = self.datagrams.remove(&oldest)
        {
            self.orphans += held.len() as u64;
        }
    }
}
