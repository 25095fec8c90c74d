//! Transport addresses: between `core::net` and the `SOCKADDR`s of WSK.
//!
//! Pure but for [`read`], which looks at memory that WSK owns. Any IRQL.

use crate::sys::wsk::{
    ADDRESS_FAMILY, AF_INET, AF_INET6, IN_ADDR, IN6_ADDR, PSOCKADDR, SOCKADDR, SOCKADDR_IN, SOCKADDR_IN6,
    SOCKADDR_INET,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The address family that WSK wants for a socket on `address`.
pub const fn family(address: &SocketAddr) -> ADDRESS_FAMILY {
    match address {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    }
}

/// The unspecified address and port 0: what WSK fills in.
pub const fn unspecified() -> SOCKADDR_INET {
    SOCKADDR_INET { Ipv6: to_v6(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)) }
}

/// `address` as a `SOCKADDR`, in network byte order.
pub const fn to_sockaddr(address: &SocketAddr) -> SOCKADDR_INET {
    match address {
        SocketAddr::V4(v4) => {
            // The IPv6 form is the larger one: the rest of the union is initialised too.
            let mut inet = unspecified();
            inet.Ipv4 = to_v4(*v4);
            inet
        }
        SocketAddr::V6(v6) => SOCKADDR_INET { Ipv6: to_v6(v6) },
    }
}

const fn to_v4(address: SocketAddrV4) -> SOCKADDR_IN {
    SOCKADDR_IN {
        sin_family: AF_INET,
        sin_port: address.port().to_be(),
        sin_addr: IN_ADDR { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

const fn to_v6(address: &SocketAddrV6) -> SOCKADDR_IN6 {
    SOCKADDR_IN6 {
        sin6_family: AF_INET6,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: IN6_ADDR { Byte: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

/// The address behind `pointer`; `None` if it is NULL or of another family.
///
/// # Safety
/// `pointer` is NULL, or points to a `SOCKADDR` of the length that its family has.
pub unsafe fn read(pointer: *const SOCKADDR) -> Option<SocketAddr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL, and every SOCKADDR begins with its family (contract).
    match unsafe { pointer.cast::<ADDRESS_FAMILY>().read_unaligned() } {
        AF_INET => {
            // SAFETY: an AF_INET address is a SOCKADDR_IN (contract); no alignment is assumed.
            let v4 = unsafe { pointer.cast::<SOCKADDR_IN>().read_unaligned() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        AF_INET6 => {
            // SAFETY: an AF_INET6 address is a SOCKADDR_IN6 (contract); no alignment is assumed.
            let v6 = unsafe { pointer.cast::<SOCKADDR_IN6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.Byte);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The address in a `SOCKADDR_INET` that WSK has filled in.
pub fn from_inet(inet: &SOCKADDR_INET) -> Option<SocketAddr> {
    // SAFETY: the union has room for the SOCKADDRs of both families, and all of its bytes are initialised.
    unsafe { read(core::ptr::from_ref(inet).cast()) }
}

/// `inet` as WSK's functions take it.
pub const fn as_psockaddr(inet: *mut SOCKADDR_INET) -> PSOCKADDR {
    inet.cast()
}

/// The 16 bytes that events carry: IPv4 in the first four, the rest zero.
pub fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn addresses_of_both_families_survive_the_way_there_and_back() {
        for text in ["127.0.0.1:47474", "0.0.0.0:0", "[::1]:65535", "[fe80::1%7]:80", "[::]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let inet = to_sockaddr(&address);
            assert_eq!(from_inet(&inet).unwrap().to_string(), text);
        }
    }

    #[test]
    fn ports_and_addresses_are_in_network_byte_order() {
        let inet = to_sockaddr(&"192.0.2.1:258".parse().unwrap());
        // SAFETY: an IPv4 address was stored.
        let v4 = unsafe { inet.Ipv4 };
        assert_eq!(v4.sin_port.to_ne_bytes(), [1, 2]);
        assert_eq!(v4.sin_addr.s_addr.to_ne_bytes(), [192, 0, 2, 1]);
    }

    #[test]
    fn null_and_foreign_families_are_no_address() {
        let foreign = SOCKADDR { sa_family: 17, sa_data: [0; 14] };
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read(core::ptr::null()) }, None);
        // SAFETY: a valid SOCKADDR.
        assert_eq!(unsafe { read(&raw const foreign) }, None);
    }
}
