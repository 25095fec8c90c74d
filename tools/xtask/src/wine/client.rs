//! A peer of the control port, over this machine's own TCP.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::wait;

/// A port that nobody listens on, another one each time, and one that the system gives to nobody who asks for any: the stand-ins' channels do, anew
/// at each load.
///
/// # Errors
/// Each of them is taken.
pub fn free_port() -> Result<u16, String> {
    /// Below the range that Linux gives from, if nobody has changed it.
    const PORTS: std::ops::Range<u16> = 24_000..32_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let (first, count) = (u32::from(PORTS.start), u32::from(PORTS.end - PORTS.start));
    let own = std::process::id();
    std::iter::repeat_with(|| TRIED.fetch_add(1, Ordering::Relaxed))
        .take(usize::from(PORTS.end - PORTS.start))
        .filter_map(|step| u16::try_from(first + own.wrapping_add(step) % count).ok())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| format!("none of the ports {PORTS:?} is free"))
}

/// A connection to the control port.
pub struct Client(TcpStream);

impl Client {
    /// # Errors
    /// Nobody listens.
    pub fn connect(port: u16) -> Result<Self, String> {
        wait::check()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map_err(|error| format!("the control port {port}: {error}"))?;
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(10))))
            .and_then(|()| stream.set_write_timeout(Some(Duration::from_secs(10))));
        prepared.map(|()| Self(stream)).map_err(|error| error.to_string())
    }

    /// Connects where the driver is to refuse the connection. A refusal resets it, perhaps before the connect is over.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect_in_vain(port: u16) -> Result<(), String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                Err(format!("the control port {port}: {error}"))
            }
            _ => Ok(()),
        }
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().map_or(0, |address| address.port())
    }

    /// # Errors
    /// The driver has ended the connection.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).map_err(|error| format!("sending to the control port: {error}"))
    }

    /// Ends this side, and waits for the driver to end its own: an orderly end reads as the end of the stream.
    ///
    /// # Errors
    /// The driver sends something, resets the connection, or does nothing.
    pub fn finish(self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the end of a control connection: {error}");
        self.0.shutdown(std::net::Shutdown::Write).map_err(failed)?;
        self.ended()
    }

    /// Waits until the driver has ended the connection in good order.
    ///
    /// # Errors
    /// As for [`Self::finish`].
    pub fn ended(mut self) -> Result<(), String> {
        match std::io::Read::read(&mut self.0, &mut [0; 64]) {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("the driver sent {count} bytes, which it has no protocol for")),
            Err(error) => Err(format!("the end of a control connection: {error}")),
        }
    }

    /// Ends the connection by a reset.
    ///
    /// # Errors
    /// The system's message.
    pub fn reset(self) -> Result<(), String> {
        rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO))
            .map_err(|error| error.to_string())
    }
}
