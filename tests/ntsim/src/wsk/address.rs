//! `SOCKADDR`s and [`SocketAddr`]s.

use crate::sys::wsk::{
    ADDRESS_FAMILY, AF_INET, AF_INET6, IN_ADDR, IN6_ADDR, SOCKADDR, SOCKADDR_IN, SOCKADDR_IN6, SOCKADDR_INET,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Reads the address of the given family; `None` if the structure is of another one.
///
/// # Safety
/// `address` points to a `SOCKADDR` of the size of its own family.
pub unsafe fn read(address: *const SOCKADDR, family: ADDRESS_FAMILY) -> Option<SocketAddr> {
    // SAFETY: the caller's; every family starts with sa_family.
    let found = unsafe { (*address).sa_family };
    if found != family {
        return None;
    }
    match found {
        AF_INET => {
            // SAFETY: the family says that it is this structure.
            let v4 = unsafe { address.cast::<SOCKADDR_IN>().read_unaligned() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        AF_INET6 => {
            // SAFETY: the family says that it is this structure.
            let v6 = unsafe { address.cast::<SOCKADDR_IN6>().read_unaligned() };
            Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(v6.sin6_addr.Byte),
                u16::from_be(v6.sin6_port),
                u32::from_be(v6.sin6_flowinfo),
                v6.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

/// An address as the structure of its family; an IPv4 address is mapped when the family is AF_INET6.
pub fn to_inet(address: SocketAddr, family: ADDRESS_FAMILY) -> SOCKADDR_INET {
    match (address, family) {
        (SocketAddr::V4(v4), AF_INET) => SOCKADDR_INET {
            Ipv4: SOCKADDR_IN {
                sin_family: AF_INET,
                sin_port: v4.port().to_be(),
                sin_addr: IN_ADDR { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            },
        },
        (address, _) => {
            let (ip, scope, flow) = match address {
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
                SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id(), v6.flowinfo()),
            };
            SOCKADDR_INET {
                Ipv6: SOCKADDR_IN6 {
                    sin6_family: AF_INET6,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: flow.to_be(),
                    sin6_addr: IN6_ADDR { Byte: ip.octets() },
                    sin6_scope_id: scope,
                },
            }
        }
    }
}

/// Bytes of the structure that belongs to `family`.
pub fn size(family: ADDRESS_FAMILY) -> usize {
    if family == AF_INET { size_of::<SOCKADDR_IN>() } else { size_of::<SOCKADDR_IN6>() }
}

/// Writes an address into a buffer of the family's structure.
///
/// # Safety
/// `out` is valid for writes of the structure that belongs to `family`.
pub unsafe fn write(address: SocketAddr, family: ADDRESS_FAMILY, out: *mut SOCKADDR) {
    let inet = to_inet(address, family);
    if family == AF_INET {
        // SAFETY: AF_INET filled this member (an address of the other family never reaches an AF_INET socket).
        let v4 = unsafe { inet.Ipv4 };
        // SAFETY: the caller's.
        unsafe { out.cast::<SOCKADDR_IN>().write_unaligned(v4) };
    } else {
        // SAFETY: every other family filled this member.
        let v6 = unsafe { inet.Ipv6 };
        // SAFETY: the caller's.
        unsafe { out.cast::<SOCKADDR_IN6>().write_unaligned(v6) };
    }
}

/// The family of an address.
pub fn family_of(address: SocketAddr) -> ADDRESS_FAMILY {
    match address {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    }
}

/// An IPv4-mapped address as the IPv4 address that it stands for, any other as it is.
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The loopback address of the same family, for what is bound to the wildcard.
pub fn specific(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
