//! A peer of the control port that need not keep to the protocol, over this machine's own TCP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weir::control::protocol::frame::{HEADER, header};
use weir::control::protocol::message::{Hello, Request};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, SECOND, Transport};
use weir::control::protocol::{MAX_FRAME, VERSION, seal};
use weir_cli::client;

use super::peer::Cast;
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
pub struct Raw(TcpStream);

impl Raw {
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

    /// Has this machine take in little that is not read.
    ///
    /// # Errors
    /// The system's message.
    pub fn take_little(&self) -> Result<(), String> {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.0, 4096).map_err(|error| error.to_string())
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().map_or(0, |address| address.port())
    }

    /// # Errors
    /// The driver has ended the connection.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).map_err(|error| format!("sending to the control port: {error}"))
    }

    /// Does the handshake; what encrypts from there on.
    ///
    /// # Errors
    /// The driver does not answer as it must.
    pub fn shake_hands(&mut self, first: First) -> Result<Transport, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the handshake: {error}");
        self.send(&first.frame)?;
        let mut answer = [0; HEADER + SECOND];
        self.0.read_exact(&mut answer).map_err(|error| failed(&error))?;
        let (head, message) = answer.split_at_mut(HEADER);
        if header(SECOND).is_none_or(|wanted| wanted != head) {
            return Err(failed(&format!("it is answered by {head:?}")));
        }
        first.initiator.finish(message).map_err(|error| failed(&error))
    }

    /// Ends this side, and waits for the driver to end its own.
    ///
    /// # Errors
    /// The driver sends something, or does nothing.
    pub fn finish(self) -> Result<(), String> {
        let _reset_already = self.0.shutdown(std::net::Shutdown::Write);
        self.ended()
    }

    /// Waits until the driver has ended the connection, whether in good order or by a reset.
    ///
    /// # Errors
    /// It sends something, or does nothing.
    pub fn ended(mut self) -> Result<(), String> {
        match self.0.read(&mut [0; 64]) {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("the driver sent {count} bytes to who should learn nothing")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
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

/// The handshake's first message, as a frame.
pub struct First {
    initiator: Initiator,
    pub frame: Vec<u8>,
}

impl First {
    /// # Errors
    /// The system has no random bytes.
    pub fn new(cast: &Cast, keys: &Keys) -> Result<Self, String> {
        let ephemeral = client::random().map_err(|error| error.to_string())?;
        let mut frame = vec![0; HEADER + FIRST];
        let (head, message) = frame.split_at_mut(HEADER);
        head.copy_from_slice(&header(FIRST).unwrap_or_default());
        let message = message.try_into().map_err(|_| "the first message has another length".to_owned())?;
        let initiator =
            Initiator::start(keys, cast.driver(), &ephemeral, message).map_err(|error| error.to_string())?;
        Ok(Self { initiator, frame })
    }

    /// Without its beginning, which goes ahead.
    pub fn split(mut self, at: usize) -> (Vec<u8>, Self) {
        let rest = self.frame.split_off(at);
        (std::mem::replace(&mut self.frame, rest), self)
    }
}

/// A request as a frame.
///
/// # Errors
/// It does not fit.
pub fn frame(transport: &mut Transport, request: &Request<'_>) -> Result<Vec<u8>, String> {
    let mut buffer = vec![0; HEADER + MAX_FRAME];
    let length =
        request.encode(Some(1), &mut buffer[HEADER..]).map_err(|_| "a request without room".to_owned())?;
    let size = seal(transport, &mut buffer, length).map_err(|error| error.to_string())?;
    buffer.truncate(size);
    Ok(buffer)
}

/// The request that a session begins with.
pub const HELLO: Request<'_> = Request::Hello(Hello { version: VERSION, client: None });
