//! Winsock's sockets, non-blocking, with its errors as NT statuses.

use crate::address::{self, Inet};
use crate::sys::nt::{
    NTSTATUS, STATUS_ACCESS_DENIED, STATUS_ADDRESS_ALREADY_EXISTS, STATUS_CONNECTION_ABORTED,
    STATUS_CONNECTION_DISCONNECTED, STATUS_CONNECTION_REFUSED, STATUS_CONNECTION_RESET,
    STATUS_HOST_UNREACHABLE, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_ADDRESS_COMPONENT,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_IO_TIMEOUT, STATUS_NETWORK_UNREACHABLE,
    STATUS_NOT_SUPPORTED, STATUS_UNSUCCESSFUL,
};
use core::net::SocketAddr;
use static_assertions::const_assert_eq;
use windows_sys::Win32::Networking::WinSock::{
    FIONBIO, INVALID_SOCKET, IPPROTO_TCP, IPPROTO_UDP, LINGER, MSG_PEEK, POLLERR, POLLRDNORM, SD_SEND,
    SO_ERROR, SO_LINGER, SOCK_DGRAM, SOCK_STREAM, SOCKET, SOL_SOCKET, WSA_FLAG_OVERLAPPED, WSAEACCES,
    WSAEADDRINUSE, WSAEADDRNOTAVAIL, WSAEAFNOSUPPORT, WSAECONNABORTED, WSAECONNREFUSED, WSAECONNRESET,
    WSAEHOSTUNREACH, WSAEINPROGRESS, WSAEINVAL, WSAENETRESET, WSAENETUNREACH, WSAENOBUFS, WSAENOPROTOOPT,
    WSAENOTCONN, WSAEPROTONOSUPPORT, WSAESHUTDOWN, WSAETIMEDOUT, WSAEWOULDBLOCK, WSAGetLastError, WSAPOLLFD,
    WSAPoll, WSASocketW, accept, bind, closesocket, connect, getpeername, getsockname, getsockopt,
    ioctlsocket, listen, recv, send, setsockopt, shutdown,
};

/// An open socket, closed when dropped.
#[derive(Debug)]
pub struct Socket(SOCKET);

/// What an operation that could not be done at once comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    WouldBlock,
    Status(NTSTATUS),
}

pub type Result<T> = core::result::Result<T, Failure>;

fn last() -> Failure {
    // SAFETY: no preconditions.
    let code = unsafe { WSAGetLastError() };
    if code == WSAEWOULDBLOCK || code == WSAEINPROGRESS {
        Failure::WouldBlock
    } else {
        Failure::Status(status(code))
    }
}

/// The NT status of a Winsock error.
pub const fn status(code: i32) -> NTSTATUS {
    match code {
        WSAECONNREFUSED => STATUS_CONNECTION_REFUSED,
        WSAETIMEDOUT => STATUS_IO_TIMEOUT,
        WSAECONNRESET | WSAENETRESET => STATUS_CONNECTION_RESET,
        WSAECONNABORTED => STATUS_CONNECTION_ABORTED,
        WSAESHUTDOWN => STATUS_CONNECTION_DISCONNECTED,
        WSAENOTCONN => STATUS_INVALID_DEVICE_STATE,
        WSAEADDRINUSE => STATUS_ADDRESS_ALREADY_EXISTS,
        WSAEADDRNOTAVAIL => STATUS_INVALID_ADDRESS_COMPONENT,
        WSAEACCES => STATUS_ACCESS_DENIED,
        WSAENETUNREACH => STATUS_NETWORK_UNREACHABLE,
        WSAEHOSTUNREACH => STATUS_HOST_UNREACHABLE,
        WSAENOBUFS => STATUS_INSUFFICIENT_RESOURCES,
        WSAEINVAL => STATUS_INVALID_PARAMETER,
        WSAEAFNOSUPPORT | WSAEPROTONOSUPPORT | WSAENOPROTOOPT => STATUS_NOT_SUPPORTED,
        _ => STATUS_UNSUCCESSFUL,
    }
}

fn check(result: i32) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(last()) }
}

fn count(result: i32) -> Result<usize> {
    usize::try_from(result).map_err(|_| last())
}

fn length(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}

/// What waits to be accepted, at most. (Wine makes 5 of SOMAXCONN.)
const BACKLOG: i32 = 1024;

const INET_SIZE: i32 = 28;
const_assert_eq!(size_of::<Inet>(), INET_SIZE as usize);
const LINGER_SIZE: i32 = 4;
const_assert_eq!(size_of::<LINGER>(), LINGER_SIZE as usize);

impl Socket {
    pub fn stream(family: u16) -> Result<Self> {
        Self::open(family, SOCK_STREAM, IPPROTO_TCP)
    }

    pub fn datagram(family: u16) -> Result<Self> {
        Self::open(family, SOCK_DGRAM, IPPROTO_UDP)
    }

    fn open(family: u16, kind: i32, protocol: i32) -> Result<Self> {
        // SAFETY: values only.
        let socket =
            unsafe { WSASocketW(family.into(), kind, protocol, core::ptr::null(), 0, WSA_FLAG_OVERLAPPED) };
        Self::adopt(socket)
    }

    /// Takes a new socket over and makes it non-blocking.
    fn adopt(socket: SOCKET) -> Result<Self> {
        if socket == INVALID_SOCKET {
            return Err(last());
        }
        let socket = Self(socket);
        let mut on = 1_u32;
        // SAFETY: the socket is open, and the flag can be read.
        check(unsafe { ioctlsocket(socket.0, FIONBIO, &raw mut on) })?;
        Ok(socket)
    }

    pub const fn raw(&self) -> SOCKET {
        self.0
    }

    /// Sets an option by its value's bytes.
    pub fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let (level, name) = (level.cast_signed(), name.cast_signed());
        // SAFETY: the value has that many bytes.
        check(unsafe { setsockopt(self.0, level, name, value.as_ptr(), length(value)) })
    }

    /// Reads an option; returns how many bytes it has.
    pub fn option(&self, level: u32, name: u32, value: &mut [u8]) -> Result<usize> {
        let (level, name) = (level.cast_signed(), name.cast_signed());
        let mut size = length(value);
        // SAFETY: there is room for that many bytes.
        check(unsafe { getsockopt(self.0, level, name, value.as_mut_ptr(), &raw mut size) })?;
        Ok(usize::try_from(size).unwrap_or(0))
    }

    pub fn bind(&self, at: SocketAddr) -> Result<()> {
        let inet = Inet::new(at);
        let size = i32::try_from(inet.size()).unwrap_or(INET_SIZE);
        // SAFETY: an address of that size.
        check(unsafe { bind(self.0, inet.as_ptr().cast(), size) })
    }

    pub fn listen(&self) -> Result<()> {
        // SAFETY: the socket is open.
        check(unsafe { listen(self.0, BACKLOG) })
    }

    /// The next connection that waits, with its peer.
    pub fn accept(&self) -> Result<(Self, SocketAddr)> {
        let mut inet = Inet::EMPTY;
        let mut size = INET_SIZE;
        // SAFETY: there is room for an address of either family.
        let socket = unsafe { accept(self.0, inet.as_psockaddr().cast(), &raw mut size) };
        let socket = Self::adopt(socket)?;
        let peer = inet.get().ok_or(Failure::Status(STATUS_UNSUCCESSFUL))?;
        Ok((socket, peer))
    }

    /// Begins to connect.
    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        let inet = Inet::new(to);
        let size = i32::try_from(inet.size()).unwrap_or(INET_SIZE);
        // SAFETY: an address of that size.
        check(unsafe { connect(self.0, inet.as_ptr().cast(), size) })
    }

    /// What a connect that was begun has come to.
    pub fn connected(&self) -> Result<()> {
        let mut code = [0; 4];
        self.option(SOL_SOCKET.cast_unsigned(), SO_ERROR.cast_unsigned(), &mut code)?;
        match i32::from_ne_bytes(code) {
            0 => self.remote().map(|_| ()).map_err(|_| Failure::WouldBlock),
            code => Err(Failure::Status(status(code))),
        }
    }

    pub fn local(&self) -> Result<SocketAddr> {
        let mut inet = Inet::EMPTY;
        let mut size = INET_SIZE;
        // SAFETY: there is room for an address of either family.
        check(unsafe { getsockname(self.0, inet.as_psockaddr().cast(), &raw mut size) })?;
        inet.get().ok_or(Failure::Status(STATUS_UNSUCCESSFUL))
    }

    pub fn remote(&self) -> Result<SocketAddr> {
        let mut inet = Inet::EMPTY;
        let mut size = INET_SIZE;
        // SAFETY: there is room for an address of either family.
        check(unsafe { getpeername(self.0, inet.as_psockaddr().cast(), &raw mut size) })?;
        inet.get().ok_or(Failure::Status(STATUS_UNSUCCESSFUL))
    }

    /// Receives; 0 is the end of the stream, where there is room for more than nothing.
    pub fn receive(&self, into: &mut [u8]) -> Result<usize> {
        // SAFETY: there is room for that many bytes.
        let received = count(unsafe { recv(self.0, into.as_mut_ptr(), length(into), 0) });
        self.unless_failed(received)
    }

    /// Whether the peer has ended its direction, or reset the connection, with nothing before it to read.
    pub fn peek_end(&self) -> Result<bool> {
        let mut byte = [0; 1];
        // SAFETY: there is room for one byte.
        let received = count(unsafe { recv(self.0, byte.as_mut_ptr(), 1, MSG_PEEK) });
        self.unless_failed(received).map(|count| count == 0)
    }

    /// What was received, unless it says "end" of a connection that was reset: Wine's server may take the error before a
    /// receive can. A poll tells both apart.
    fn unless_failed(&self, received: Result<usize>) -> Result<usize> {
        if received != Ok(0) {
            return received;
        }
        let mut polled = WSAPOLLFD { fd: self.0, events: POLLRDNORM, revents: 0 };
        // SAFETY: one entry, for an open socket; it does not wait.
        let ready = unsafe { WSAPoll(&raw mut polled, 1, 0) };
        if ready > 0 && polled.revents & POLLERR != 0 {
            Err(Failure::Status(STATUS_CONNECTION_RESET))
        } else {
            received
        }
    }

    pub fn send(&self, from: &[u8]) -> Result<usize> {
        // SAFETY: there are that many bytes.
        count(unsafe { send(self.0, from.as_ptr(), length(from), 0) })
    }

    /// Ends the sending direction after what was sent.
    pub fn end(&self) -> Result<()> {
        // SAFETY: the socket is open.
        check(unsafe { shutdown(self.0, SD_SEND) })
    }

    /// Has the close that follows reset the connection.
    pub fn reset_on_close(&self) {
        let linger = LINGER { l_onoff: 1, l_linger: 0 };
        let value = (&raw const linger).cast();
        // SAFETY: the option's own structure.
        unsafe { setsockopt(self.0, SOL_SOCKET, SO_LINGER, value, LINGER_SIZE) };
    }

    /// A UDP socket that gets what it sends: to wake whoever polls it.
    pub fn to_itself() -> Result<Self> {
        let socket = Self::datagram(address::family(&LOOPBACK))?;
        socket.bind(LOOPBACK)?;
        let here = socket.local()?;
        socket.connect(here)?;
        Ok(socket)
    }
}

const LOOPBACK: SocketAddr = SocketAddr::V4(core::net::SocketAddrV4::new(core::net::Ipv4Addr::LOCALHOST, 0));

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the socket is open, and is not used after this.
        unsafe { closesocket(self.0) };
    }
}
