//! From a captured frame to what the TCP/IP stack needs to know of its packet.
//!
//! Link headers are taken off here (a few fixed bytes each); IP headers are `etherparse`'s. Lengths are those that the
//! IP header declares, so that a capture cut at a snapshot length counts as its wire did.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv6ExtensionSlice, LaxIpSlice, ip_number};
use ntsim::tcpip::{Fragment, Packet, tcp};

use super::capture::Frame;

/// Why a frame is not shown to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// It carries no IP packet (ARP, LLDP, spanning tree and the like).
    NotIp,
    /// It contradicts itself or its protocol.
    Malformed,
    /// Its headers were cut off, in the capture or on the wire.
    Truncated,
    /// Its link type is none that weir reads.
    LinkType,
    /// A later fragment whose first fragment the capture lacks.
    Fragment,
}

impl Skip {
    /// All, in the order of a report.
    pub const ALL: [Self; 5] =
        [Self::NotIp, Self::Malformed, Self::Truncated, Self::LinkType, Self::Fragment];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::LinkType => "link_type",
            Self::Fragment => "fragment",
        }
    }
}

/// Who sent a frame, as far as its link header tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Source hardware address of an Ethernet frame.
    pub source: Option<[u8; 6]>,
    /// Destination hardware address of an Ethernet frame.
    pub destination: Option<[u8; 6]>,
    /// Whether the capturing host sent it, where the link header says so (Linux cooked).
    pub sent_here: Option<bool>,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and the two tags that came before it.
const VLAN_TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

/// Link types, from the registry of the pcap specification (LINKTYPE_ values; 12 and 14 are raw IP of some BSDs).
mod link_type {
    pub const NULL: u16 = 0;
    pub const ETHERNET: u16 = 1;
    pub const RAW_BSD: u16 = 12;
    pub const RAW_OPENBSD: u16 = 14;
    pub const RAW: u16 = 101;
    pub const LOOP: u16 = 108;
    pub const LINUX_SLL: u16 = 113;
    pub const IPV4: u16 = 228;
    pub const IPV6: u16 = 229;
    pub const LINUX_SLL2: u16 = 276;
}

/// Takes the link header off: what it says of the sender, and the bytes from the IP header on.
///
/// # Errors
/// `Skip` if there is no IP packet behind it.
pub fn link<'a>(frame: &Frame<'a>) -> Result<(Link, &'a [u8]), Skip> {
    let data = frame.data;
    let cut = || if data.len() < frame.wire_len as usize { Skip::Truncated } else { Skip::Malformed };
    let mut link = Link::default();
    let (ethertype, at) = match frame.link_type {
        link_type::ETHERNET => {
            let header = data.get(..14).ok_or_else(cut)?;
            link.destination = header[..6].try_into().ok();
            link.source = header[6..12].try_into().ok();
            (be16(header, 12).ok_or_else(cut)?, 14)
        }
        link_type::LINUX_SLL => {
            let header = data.get(..16).ok_or_else(cut)?;
            // Packet type 4: sent by the capturing host (LINKTYPE_LINUX_SLL).
            link.sent_here = Some(be16(header, 0) == Some(4));
            (be16(header, 14).ok_or_else(cut)?, 16)
        }
        link_type::LINUX_SLL2 => {
            let header = data.get(..20).ok_or_else(cut)?;
            link.sent_here = Some(header[10] == 4);
            (be16(header, 0).ok_or_else(cut)?, 20)
        }
        link_type::NULL | link_type::LOOP => {
            let family: [u8; 4] = data.get(..4).ok_or_else(cut)?.try_into().map_err(|_| cut())?;
            // LOOP is big-endian, NULL the capturing host's order; families are small, so either order is told by
            // where the zeros are.
            let family = u32::from_be_bytes(family).min(u32::from_le_bytes(family));
            // AF_INET is 2 everywhere; AF_INET6 is 24, 28 or 30 on the BSDs and macOS, 10 on Linux, 23 on Windows.
            match family {
                2 => (ETHERTYPE_IPV4, 4),
                10 | 23 | 24 | 28 | 30 => (ETHERTYPE_IPV6, 4),
                _ => return Err(Skip::NotIp),
            }
        }
        link_type::RAW | link_type::RAW_BSD | link_type::RAW_OPENBSD => {
            match data.first().ok_or_else(cut)? >> 4 {
                4 => (ETHERTYPE_IPV4, 0),
                6 => (ETHERTYPE_IPV6, 0),
                _ => return Err(Skip::Malformed),
            }
        }
        link_type::IPV4 => (ETHERTYPE_IPV4, 0),
        link_type::IPV6 => (ETHERTYPE_IPV6, 0),
        _ => return Err(Skip::LinkType),
    };
    let (mut ethertype, mut at) = (ethertype, at);
    while VLAN_TAGS.contains(&ethertype) {
        ethertype = be16(data, at + 2).ok_or_else(cut)?;
        at += 4;
    }
    if ethertype == ETHERTYPE_PPPOE_SESSION {
        // RFC 2516: six bytes of PPPoE, then the PPP protocol number (RFC 1661): 0x0021 IPv4, 0x0057 IPv6.
        ethertype = match be16(data, at + 6).ok_or_else(cut)? {
            0x0021 => ETHERTYPE_IPV4,
            0x0057 => ETHERTYPE_IPV6,
            _ => return Err(Skip::NotIp),
        };
        at += 8;
    }
    let packet = data.get(at..).ok_or_else(cut)?;
    let version = match ethertype {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => return Err(Skip::NotIp),
    };
    match packet.first() {
        None => Err(cut()),
        Some(first) if first >> 4 != version => Err(Skip::Malformed),
        Some(_) => Ok((link, packet)),
    }
}

/// What the IP header says of the packet.
struct Network {
    /// Bytes of the header with options or extension headers.
    header: usize,
    /// Bytes of the packet, its header included.
    declared: usize,
    fragment: Option<Fragment>,
}

fn network(ip: &LaxIpSlice<'_>, wire: usize) -> Result<Network, Skip> {
    let (header, declared, fragment) = match ip {
        LaxIpSlice::Ipv4(v4) => {
            let header = v4.header();
            let header_len = header.slice().len();
            let total = match usize::from(header.total_len()) {
                // Segmentation offload: the length is filled in by the adapter, after the capture.
                0 => wire,
                total if total < header_len => return Err(Skip::Malformed),
                total => total,
            };
            let fragment = header.is_fragmenting_payload().then(|| Fragment {
                id: header.identification().into(),
                first: header.fragments_offset().value() == 0,
                last: !header.more_fragments(),
            });
            (header_len + v4.extensions().auth.map_or(0, |auth| auth.slice().len()), total, fragment)
        }
        LaxIpSlice::Ipv6(v6) => {
            let declared = match usize::from(v6.header().payload_length()) {
                // A jumbogram (RFC 2675) or segmentation offload.
                0 => wire,
                payload => payload + 40,
            };
            let fragment = v6.extensions().clone().into_iter().find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(header) if header.is_fragmenting_payload() => Some(Fragment {
                    id: header.identification(),
                    first: header.fragment_offset().value() == 0,
                    last: !header.more_fragments(),
                }),
                _ => None,
            });
            (40 + v6.extensions().slice().len(), declared, fragment)
        }
    };
    Ok(Network { header, declared, fragment })
}

/// Reads the headers of one frame.
///
/// # Errors
/// `Skip` says why the frame is not for the stack.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<(Link, Packet<'a>), Skip> {
    let (link, data) = link(frame)?;
    let link_len = frame.data.len() - data.len();
    // What the wire carried from the IP header on; the link's trailer and padding included.
    let wire = (frame.wire_len as usize).saturating_sub(link_len);
    let cut = || if data.len() < wire { Skip::Truncated } else { Skip::Malformed };

    let (ip, stopped) = LaxIpSlice::from_slice(data).map_err(|error| match error {
        etherparse::err::ip::LaxHeaderSliceError::Len(_) => cut(),
        etherparse::err::ip::LaxHeaderSliceError::Content(_) => Skip::Malformed,
    })?;
    if let Some((error, _)) = stopped {
        return Err(match error {
            etherparse::err::ipv6_exts::HeaderSliceError::Len(_) => cut(),
            etherparse::err::ipv6_exts::HeaderSliceError::Content(_) => Skip::Malformed,
        });
    }
    let Network { header: ip_header, declared, fragment } = network(&ip, wire)?;
    if declared > wire || declared < ip_header {
        return Err(Skip::Malformed);
    }
    let length = declared - ip_header;
    let transport = ip.payload().payload;
    let cut = || if transport.len() < length { Skip::Truncated } else { Skip::Malformed };

    let mut packet = Packet {
        source: ip.source_addr(),
        destination: ip.destination_addr(),
        protocol: ip.payload_ip_number().0,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        icmp: (0, 0),
        fragment,
        ip_header_len: u32::try_from(ip_header).map_err(|_| Skip::Malformed)?,
        transport_header_len: 0,
        transport_len: u32::try_from(length).map_err(|_| Skip::Malformed)?,
        data: transport,
        time: frame.time,
    };
    if fragment.is_some_and(|fragment| !fragment.first) {
        return Ok((link, packet));
    }
    // A first fragment may hold less than the datagram's declared length, never less than its header.
    let whole = fragment.is_none();
    let header = match IpNumber(packet.protocol) {
        ip_number::TCP => {
            let bytes = transport.get(..20).ok_or_else(cut)?;
            let header = usize::from(bytes[12] >> 4) * 4;
            if header < 20 || header > length {
                return Err(Skip::Malformed);
            }
            packet.tcp_flags = bytes[13] & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
            header
        }
        ip_number::UDP => {
            let bytes = transport.get(..8).ok_or_else(cut)?;
            let declared = usize::from(be16(bytes, 4).ok_or_else(cut)?);
            // 0 is a jumbogram's (RFC 2675) or segmentation offload's.
            if declared != 0 && (declared < 8 || (whole && declared > length)) {
                return Err(Skip::Malformed);
            }
            8
        }
        ip_number::ICMP | ip_number::IPV6_ICMP => {
            let bytes = transport.get(..4).ok_or_else(cut)?;
            packet.icmp = (bytes[0], bytes[1]);
            // The whole message is the ICMP layer's data: it has no transport header (WFP, data offset positions).
            0
        }
        _ => 0,
    };
    if matches!(IpNumber(packet.protocol), ip_number::TCP | ip_number::UDP) {
        packet.source_port = be16(transport, 0).ok_or_else(cut)?;
        packet.destination_port = be16(transport, 2).ok_or_else(cut)?;
    }
    packet.transport_header_len = u32::try_from(header).map_err(|_| Skip::Malformed)?;
    Ok((link, packet))
}

/// Whether an address can be a host's own: neither unspecified nor a group's.
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast()),
    }
}
