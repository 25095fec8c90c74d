//! Blocking TCP on 127.0.0.1, as much as a drive channel needs.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::zeroed;
use core::ptr::null_mut;

use windows_sys::Win32::Networking::WinSock::{
    AF_INET, IN_ADDR, IN_ADDR_0, INVALID_SOCKET, IPPROTO_TCP, SO_REUSEADDR, SOCK_STREAM, SOCKADDR_IN, SOCKET,
    SOL_SOCKET, SOMAXCONN, TCP_NODELAY, WSADATA, WSAGetLastError, WSAStartup, accept, bind, closesocket,
    getsockname, listen, recv, send, setsockopt, socket,
};

/// A Winsock error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WinsockError(pub i32);

fn last_error() -> WinsockError {
    // SAFETY: no preconditions.
    WinsockError(unsafe { WSAGetLastError() })
}

/// Starts Winsock 2.2 in this process. May be called again.
pub fn start() -> Result<(), WinsockError> {
    // SAFETY: WSADATA is made of integers, arrays and pointers.
    let mut data: WSADATA = unsafe { zeroed() };
    // SAFETY: the place can be written.
    match unsafe { WSAStartup(0x0202, &raw mut data) } {
        0 => Ok(()),
        error => Err(WinsockError(error)),
    }
}

const ADDRESS_SIZE: i32 = 16;
const _: () = assert!(size_of::<SOCKADDR_IN>() == 16);

struct Socket(SOCKET);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the socket is open, and is not used after this.
        unsafe { closesocket(self.0) };
    }
}

impl Socket {
    fn set(&self, level: i32, option: i32) {
        let on = 1u32;
        let value = (&raw const on).cast::<u8>();
        // SAFETY: the value has four bytes.
        unsafe { setsockopt(self.0, level, option, value, 4) };
    }
}

/// A listening socket.
pub struct Listener(Socket);

impl Listener {
    /// Listens on 127.0.0.1; port 0 is one of the system's choice.
    pub fn bind(port: u16) -> Result<Self, WinsockError> {
        // SAFETY: values only.
        let socket = unsafe { socket(AF_INET.into(), SOCK_STREAM, IPPROTO_TCP) };
        if socket == INVALID_SOCKET {
            return Err(last_error());
        }
        let socket = Socket(socket);
        socket.set(SOL_SOCKET, SO_REUSEADDR);
        let address = SOCKADDR_IN {
            sin_family: AF_INET,
            sin_port: port.to_be(),
            sin_addr: IN_ADDR { S_un: IN_ADDR_0 { S_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() } },
            sin_zero: [0; 8],
        };
        // SAFETY: the address is of that size.
        if unsafe { bind(socket.0, (&raw const address).cast(), ADDRESS_SIZE) } != 0 {
            return Err(last_error());
        }
        // SAFETY: the socket is open.
        if unsafe { listen(socket.0, SOMAXCONN.cast_signed()) } != 0 {
            return Err(last_error());
        }
        Ok(Self(socket))
    }

    /// The port, in host order.
    pub fn port(&self) -> Result<u16, WinsockError> {
        // SAFETY: SOCKADDR_IN is made of integers.
        let mut address: SOCKADDR_IN = unsafe { zeroed() };
        let mut size = ADDRESS_SIZE;
        let place = &raw mut address;
        // SAFETY: the place has that size.
        if unsafe { getsockname(self.0.0, place.cast(), &raw mut size) } != 0 {
            return Err(last_error());
        }
        Ok(u16::from_be(address.sin_port))
    }

    /// Waits for a connection.
    pub fn accept(&self) -> Result<Connection, WinsockError> {
        // SAFETY: the socket listens; no address is asked for.
        let socket = unsafe { accept(self.0.0, null_mut(), null_mut()) };
        if socket == INVALID_SOCKET {
            return Err(last_error());
        }
        let socket = Socket(socket);
        socket.set(IPPROTO_TCP, TCP_NODELAY);
        Ok(Connection { socket, read: Vec::new() })
    }
}

/// A connection that carries lines.
pub struct Connection {
    socket: Socket,
    read: Vec<u8>,
}

impl Connection {
    /// The next line, without its end; `None` when the peer has closed or the connection failed.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let mut line = core::mem::replace(&mut self.read, rest);
                line.pop();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            let mut bytes = [0u8; 4096];
            let room = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: there is room for that many bytes.
            let count = unsafe { recv(self.socket.0, bytes.as_mut_ptr(), room, 0) };
            match usize::try_from(count) {
                Ok(count) if count != 0 => self.read.extend_from_slice(&bytes[..count]),
                _ => return None,
            }
        }
    }

    /// Sends all of it; false if the connection failed.
    pub fn send(&mut self, mut text: &[u8]) -> bool {
        while !text.is_empty() {
            let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
            // SAFETY: there are that many bytes.
            let count = unsafe { send(self.socket.0, text.as_ptr(), length, 0) };
            match usize::try_from(count) {
                Ok(count) if count != 0 => text = text.get(count..).unwrap_or(&[]),
                _ => return false,
            }
        }
        true
    }
}
