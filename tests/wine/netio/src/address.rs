//! Transport addresses: `SOCKADDR`s of both families, copied in and out.

use crate::sys::wsk::{
    ADDRESS_FAMILY, AF_INET, AF_INET6, IN_ADDR, IN6_ADDR, PSOCKADDR, SOCKADDR_IN, SOCKADDR_IN6,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A `SOCKADDR` of a family of the internet, with room for either.
#[repr(C)]
#[derive(Clone, Copy)]
pub union Inet {
    v4: SOCKADDR_IN,
    v6: SOCKADDR_IN6,
}

impl Inet {
    pub const EMPTY: Self = Self {
        v6: SOCKADDR_IN6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: IN6_ADDR { Byte: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    pub fn new(address: SocketAddr) -> Self {
        let mut inet = Self::EMPTY;
        match address {
            SocketAddr::V4(v4) => {
                inet.v4 = SOCKADDR_IN {
                    sin_family: AF_INET,
                    sin_port: v4.port().to_be(),
                    sin_addr: IN_ADDR { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                }
            }
            SocketAddr::V6(v6) => {
                inet.v6 = SOCKADDR_IN6 {
                    sin6_family: AF_INET6,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: IN6_ADDR { Byte: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                }
            }
        }
        inet
    }

    /// The address, if its family is one of the two.
    pub fn get(&self) -> Option<SocketAddr> {
        // SAFETY: both members are integers, and all bytes are initialised.
        let v6 = unsafe { self.v6 };
        match v6.sin6_family {
            AF_INET => {
                // SAFETY: as above.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.Byte);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The size of its `SOCKADDR`, in bytes.
    pub fn size(&self) -> usize {
        // SAFETY: both members begin with the family.
        if unsafe { self.v6.sin6_family } == AF_INET { size_of::<SOCKADDR_IN>() } else { size_of::<Self>() }
    }

    pub fn as_ptr(&self) -> *const Self {
        core::ptr::from_ref(self)
    }

    pub fn as_psockaddr(&mut self) -> PSOCKADDR {
        core::ptr::from_mut(self).cast()
    }
}

pub const fn family(address: &SocketAddr) -> ADDRESS_FAMILY {
    match address {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    }
}

/// The address behind a client's pointer, if it is of `family`.
///
/// # Safety
/// `pointer` is NULL or points to a `SOCKADDR` of the length that its family has.
pub unsafe fn read(pointer: PSOCKADDR, family: ADDRESS_FAMILY) -> Option<SocketAddr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL; every SOCKADDR begins with its family.
    if unsafe { pointer.cast::<ADDRESS_FAMILY>().read_unaligned() } != family {
        return None;
    }
    let mut inet = Inet::EMPTY;
    if family == AF_INET {
        // SAFETY: a SOCKADDR_IN, says its family.
        inet.v4 = unsafe { pointer.cast::<SOCKADDR_IN>().read_unaligned() };
    } else if family == AF_INET6 {
        // SAFETY: a SOCKADDR_IN6, says its family.
        inet.v6 = unsafe { pointer.cast::<SOCKADDR_IN6>().read_unaligned() };
    }
    inet.get()
}

/// Writes `address` as an address of `family`; an IPv4 address on an IPv6 socket is a mapped one.
///
/// # Safety
/// `pointer` is NULL or has room for a `SOCKADDR` of `family`.
pub unsafe fn write(address: SocketAddr, family: ADDRESS_FAMILY, pointer: PSOCKADDR) {
    let inet = Inet::new(in_family(address, family));
    if !pointer.is_null() {
        // SAFETY: as many bytes as the family has, and room for them.
        unsafe { pointer.cast::<u8>().copy_from_nonoverlapping(inet.as_ptr().cast(), inet.size()) };
    }
}

/// `address` as a socket of `family` tells it.
pub fn in_family(address: SocketAddr, family: ADDRESS_FAMILY) -> SocketAddr {
    match (address.ip(), family) {
        (IpAddr::V4(v4), AF_INET6) => SocketAddrV6::new(v4.to_ipv6_mapped(), address.port(), 0, 0).into(),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_survive_the_way_there_and_back() {
        for text in ["127.0.0.1:47474", "0.0.0.0:0", "[::1]:65535", "[fe80::1%7]:80", "[::]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Inet::new(address).get(), Some(address));
            let mut inet = Inet::new(address);
            // SAFETY: an address of its family.
            assert_eq!(unsafe { read(inet.as_psockaddr(), family(&address)) }, Some(address));
        }
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_socket_is_told_as_a_mapped_address() {
        let mut inet = Inet::EMPTY;
        // SAFETY: there is room for either family.
        unsafe { write("192.0.2.1:7".parse().unwrap(), AF_INET6, inet.as_psockaddr()) };
        assert_eq!(inet.get(), Some("[::ffff:192.0.2.1]:7".parse().unwrap()));
    }

    #[test]
    fn another_family_and_null_are_no_address() {
        let mut inet = Inet::new("127.0.0.1:1".parse().unwrap());
        // SAFETY: an address of its family.
        assert_eq!(unsafe { read(inet.as_psockaddr(), AF_INET6) }, None);
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read(core::ptr::null_mut(), AF_INET) }, None);
    }
}
