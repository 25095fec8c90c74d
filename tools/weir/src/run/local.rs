//! Which addresses of a capture are the host's own.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::ControlFlow;

use ipnet::IpNet;

use super::capture::Capture;
use super::packet::{self, Link, is_host};

/// How many frames are looked at.
const SAMPLE: usize = 100_000;
/// A hardware address that sends for more addresses than this is a router's.
const MOST_OF_A_HOST: usize = 64;
/// A capture of millions of addresses is not told by the rare ones.
const MOST_ADDRESSES: usize = 65_536;

/// The host's own addresses, and how they were found.
#[derive(Clone, Debug)]
pub struct Local {
    networks: Vec<IpNet>,
    addresses: HashSet<IpAddr>,
    /// What was inferred, for people; `None` if the user said it.
    pub inferred: Option<&'static str>,
}

impl Local {
    /// As the user said.
    pub fn given(networks: Vec<IpNet>) -> Self {
        Self { networks, addresses: HashSet::new(), inferred: None }
    }

    /// Whether an address is the host's own.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.networks.iter().any(|network| network.contains(&address))
    }

    /// The addresses and networks, sorted, for people and programs.
    pub fn names(&self) -> Vec<String> {
        let mut addresses: Vec<_> = self.addresses.iter().collect();
        addresses.sort();
        let networks = self.networks.iter().map(|network| {
            if network.prefix_len() == network.max_prefix_len() {
                network.addr().to_string()
            } else {
                network.to_string()
            }
        });
        addresses.into_iter().map(ToString::to_string).chain(networks).collect()
    }

    /// Infers it from the first frames of a capture.
    pub fn infer(capture: Capture) -> Self {
        let mut sample = Sample::default();
        let mut frames = 0;
        // Damage is reported when the capture is replayed.
        capture.for_each(|frame, _| {
            frames += 1;
            if let Ok((link, packet)) = packet::decode(&frame) {
                sample.take(link, packet.source, packet.destination);
            }
            if frames < SAMPLE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        sample.infer()
    }
}

/// Private, link-local and unique local addresses: those of hosts, rather than of servers far away.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[derive(Default)]
struct Sample {
    packets: u64,
    first: Option<IpAddr>,
    /// Packets from or to each address.
    addresses: HashMap<IpAddr, u64>,
    /// Packets from or to each hardware address, and the addresses that it sends for.
    hardware: HashMap<[u8; 6], (u64, HashSet<IpAddr>)>,
    /// Senders of what the link header says was sent by the capturing host.
    sent_here: HashSet<IpAddr>,
}

impl Sample {
    fn take(&mut self, link: Link, source: IpAddr, destination: IpAddr) {
        self.packets += 1;
        if self.first.is_none() && is_host(source) {
            self.first = Some(source);
        }
        for address in [source, destination] {
            if is_host(address)
                && (self.addresses.len() < MOST_ADDRESSES || self.addresses.contains_key(&address))
            {
                *self.addresses.entry(address).or_default() += 1;
            }
        }
        if link.sent_here == Some(true) && is_host(source) {
            self.sent_here.insert(source);
        }
        if let (Some(from), Some(to)) = (link.source, link.destination) {
            let (packets, senders) = self.hardware.entry(from).or_default();
            *packets += 1;
            if is_host(source) && senders.len() <= MOST_OF_A_HOST {
                senders.insert(source);
            }
            // The low bit of the first byte marks a group address.
            if to != from && to[0] & 1 == 0 {
                self.hardware.entry(to).or_default().0 += 1;
            }
        }
    }

    fn infer(self) -> Local {
        let local = |addresses: HashSet<IpAddr>, inferred| Local {
            networks: Vec::new(),
            addresses,
            inferred: Some(inferred),
        };
        if !self.sent_here.is_empty() {
            return local(
                self.sent_here,
                "the senders of the packets that the capture marks as sent by its host",
            );
        }
        if let Some(senders) = self.busiest_station() {
            return local(senders, "what the hardware address common to the frames sends for");
        }
        let mut found = HashSet::new();
        for v4 in [true, false] {
            found.extend(self.busiest_address(v4));
        }
        if !found.is_empty() {
            return local(found, "the address that the packets of each family have in common");
        }
        let private: Vec<IpNet> = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"]
            .iter()
            .filter_map(|network| network.parse().ok())
            .filter(|network: &IpNet| self.addresses.keys().any(|address| network.contains(address)))
            .collect();
        if private.is_empty() {
            let busiest = self.addresses.iter().max_by_key(|&(address, packets)| (packets, address));
            let busiest = busiest.map(|(address, _)| *address).into_iter().collect();
            return local(busiest, "the address with most packets");
        }
        Local {
            networks: private,
            addresses: HashSet::new(),
            inferred: Some("the private networks, as no single host is common to the packets"),
        }
    }

    /// The addresses of the station that nearly every frame is from or to. A router's far side has many public
    /// addresses, a host has few.
    fn busiest_station(&self) -> Option<HashSet<IpAddr>> {
        let threshold = self.packets - self.packets / 10;
        self.hardware
            .iter()
            .filter(|(_, (packets, senders))| {
                *packets >= threshold && (1..=MOST_OF_A_HOST).contains(&senders.len())
            })
            .min_by_key(|(station, (_, senders))| {
                let public = senders.iter().filter(|address| !is_private(**address)).count();
                let speaks_first = self.first.is_some_and(|first| senders.contains(&first));
                (
                    public,
                    !senders.iter().any(|address| is_private(*address)),
                    !speaks_first,
                    senders.len(),
                    **station,
                )
            })
            .map(|(_, (_, senders))| senders.clone())
    }

    /// The address that at least nine in ten packets of a family are from or to.
    fn busiest_address(&self, v4: bool) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(move |(address, _)| address.is_ipv4() == v4);
        // Each packet counts for two addresses; groups are not counted, which only lowers the sum.
        let packets: u64 = family().map(|(_, packets)| packets).sum::<u64>() / 2;
        family()
            .filter(|&(_, &count)| count * 10 >= packets * 9 && packets > 0)
            .max_by_key(|&(address, &count)| {
                (count, is_private(*address), self.first == Some(*address), *address)
            })
            .map(|(address, _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(source: [u8; 6], destination: [u8; 6]) -> Link {
        Link { source: Some(source), destination: Some(destination), sent_here: None }
    }

    #[test]
    fn a_host_behind_a_router_is_told_by_its_hardware_address() {
        let mut sample = Sample::default();
        for server in 1..9u8 {
            let server = ip(&format!("203.0.113.{server}"));
            sample.take(link(HOST, ROUTER), ip("192.168.7.5"), server);
            sample.take(link(ROUTER, HOST), server, ip("192.168.7.5"));
        }
        sample.take(link(HOST, ROUTER), ip("fe80::5"), ip("ff02::fb"));
        assert_eq!(sample.infer().names(), ["192.168.7.5", "fe80::5"]);
    }

    #[test]
    fn without_hardware_addresses_the_common_address_is_the_host() {
        let mut sample = Sample::default();
        for server in 1..9u8 {
            sample.take(Link::default(), ip(&format!("203.0.113.{server}")), ip("198.51.100.1"));
        }
        assert_eq!(sample.infer().names(), ["198.51.100.1"]);
    }

    #[test]
    fn of_two_hosts_the_private_one_is_local_then_the_one_that_speaks_first() {
        let mut sample = Sample::default();
        sample.take(link(ROUTER, HOST), ip("203.0.113.1"), ip("10.0.0.1"));
        sample.take(link(HOST, ROUTER), ip("10.0.0.1"), ip("203.0.113.1"));
        assert_eq!(sample.infer().names(), ["10.0.0.1"]);
        let mut sample = Sample::default();
        sample.take(link(ROUTER, HOST), ip("10.0.0.2"), ip("10.0.0.1"));
        sample.take(link(HOST, ROUTER), ip("10.0.0.1"), ip("10.0.0.2"));
        assert_eq!(sample.infer().names(), ["10.0.0.2"]);
    }

    #[test]
    fn what_a_cooked_capture_marks_as_sent_wins() {
        let mut sample = Sample::default();
        let sent = Link { sent_here: Some(true), ..Link::default() };
        let received = Link { sent_here: Some(false), ..Link::default() };
        sample.take(received, ip("10.0.0.9"), ip("203.0.113.1"));
        sample.take(sent, ip("203.0.113.1"), ip("10.0.0.9"));
        assert_eq!(sample.infer().names(), ["203.0.113.1"]);
    }

    #[test]
    fn traffic_of_many_hosts_leaves_the_private_networks() {
        let mut sample = Sample::default();
        for host in 1..20u8 {
            let (private, public) = (ip(&format!("10.0.0.{host}")), ip(&format!("203.0.113.{host}")));
            sample.take(Link::default(), private, public);
        }
        let local = sample.infer();
        assert_eq!(local.names(), ["10.0.0.0/8"]);
        assert!(local.contains(ip("10.9.9.9")));
    }
}
