//! A connection: frames over TCP, the handshake, messages in both directions.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weir::control::protocol::frame::{HEADER, Reader, header};
use weir::control::protocol::message::NoRoom;
use weir::control::protocol::noise::{FIRST, Initiator, Keys, PublicKey, Responder, SECOND, Transport};
use weir::control::protocol::{MAX_FRAME, MAX_MESSAGE, seal};
use zeroize::Zeroizing;

use super::Error;

/// How often a read looks whether it is too late.
const TICK: Duration = Duration::from_millis(50);

/// Random bytes for a key.
///
/// # Errors
/// [`Error::Random`].
pub fn random() -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(Error::Random)?;
    Ok(bytes)
}

/// The bytes of a connection, cut into frames.
#[derive(Debug)]
struct Frames {
    stream: TcpStream,
    reader: Reader,
    frame: Vec<u8>,
    /// What was received, and where what was not looked at begins and ends.
    ahead: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Frames {
    fn new(stream: TcpStream, limit: usize, patience: Duration) -> Result<Self, Error> {
        stream.set_nodelay(true).map_err(Error::Io)?;
        stream.set_read_timeout(Some(TICK)).map_err(Error::Io)?;
        stream.set_write_timeout(Some(patience)).map_err(Error::Io)?;
        Ok(Self {
            stream,
            reader: Reader::new(limit),
            frame: vec![0; MAX_FRAME],
            ahead: vec![0; 4 * MAX_FRAME],
            begin: 0,
            end: 0,
        })
    }

    /// The next frame's length; the frame stands at the buffer's beginning. `None`: there was none in time.
    fn next(&mut self, until: Option<Instant>) -> Result<Option<usize>, Error> {
        loop {
            while self.begin < self.end {
                let piece = &self.ahead[self.begin..self.end];
                let progress = self.reader.read(&mut self.frame, piece).map_err(Error::Frame)?;
                self.begin += progress.taken;
                if let Some(length) = progress.frame {
                    return Ok(Some(length));
                }
            }
            match self.stream.read(&mut self.ahead) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => (self.begin, self.end) = (0, count),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        if until.is_some_and(|until| Instant::now() >= until) {
                            return Ok(None);
                        }
                    }
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                        return Err(Error::Closed);
                    }
                    _ => return Err(Error::Io(error)),
                },
            }
        }
    }

    fn write(&mut self, bytes: &[u8], patience: Duration) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(|error| match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Error::Closed
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::Late { what: "room for a request", patience }
            }
            _ => Error::Io(error),
        })
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Wire {
    frames: Frames,
    transport: Transport,
    out: Vec<u8>,
    patience: Duration,
}

impl Wire {
    /// Calls the driver with that key.
    ///
    /// # Errors
    /// There is no such driver, or it does not want this client.
    pub fn call(
        stream: TcpStream,
        keys: &Keys,
        driver: &PublicKey,
        patience: Duration,
    ) -> Result<Self, Error> {
        let address = address_of(&stream);
        let mut frames = Frames::new(stream, SECOND, patience)?;
        let mut first = [0; FIRST];
        let initiator = Initiator::start(keys, driver, &*random()?, &mut first)
            .map_err(|error| Error::Handshake { address: address.clone(), error })?;
        frames
            .write(&[&header(FIRST).unwrap_or_default()[..], &first].concat(), patience)
            .map_err(|error| in_handshake(error, &address))?;
        let length = frames
            .next(Some(Instant::now() + patience))
            .map_err(|error| in_handshake(error, &address))?
            .ok_or(Error::Late { what: "answer to the handshake", patience })?;
        let transport = initiator
            .finish(&mut frames.frame[..length])
            .map_err(|error| Error::Handshake { address, error })?;
        Ok(Self::new(frames, transport, patience))
    }

    /// Answers a connection that the driver with that key has opened.
    ///
    /// # Errors
    /// It was somebody else, or what it sent is no handshake for this key.
    pub fn answer(
        stream: TcpStream,
        keys: &Keys,
        driver: &PublicKey,
        patience: Duration,
    ) -> Result<Self, Error> {
        let address = address_of(&stream);
        let mut frames = Frames::new(stream, FIRST, patience)?;
        let length = frames
            .next(Some(Instant::now() + patience))
            .map_err(|error| in_handshake(error, &address))?
            .ok_or(Error::Late { what: "handshake", patience })?;
        let refused = |error| Error::Handshake { address: address.clone(), error };
        let responder = Responder::read(keys, &mut frames.frame[..length]).map_err(refused)?;
        if responder.peer() != driver {
            return Err(Error::OtherDriver { address, key: *responder.peer() });
        }
        let mut second = [0; SECOND];
        let transport = responder.accept(&*random()?, &mut second).map_err(refused)?;
        frames
            .write(&[&header(SECOND).unwrap_or_default()[..], &second].concat(), patience)
            .map_err(|error| in_handshake(error, &address))?;
        Ok(Self::new(frames, transport, patience))
    }

    fn new(mut frames: Frames, transport: Transport, patience: Duration) -> Self {
        frames.reader.set_limit(MAX_FRAME);
        Self { frames, transport, out: vec![0; HEADER + MAX_FRAME], patience }
    }

    /// The next message; `None`: there was none in time.
    pub fn receive(&mut self, until: Option<Instant>) -> Result<Option<&[u8]>, Error> {
        let Some(length) = self.frames.next(until)? else { return Ok(None) };
        let message = self.transport.open(&mut self.frames.frame[..length])?;
        Ok(Some(message))
    }

    /// Sends the message that `write` puts into a buffer.
    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> Result<usize, NoRoom>) -> Result<(), Error> {
        let length = write(&mut self.out[HEADER..HEADER + MAX_MESSAGE]).map_err(|NoRoom| Error::TooLarge)?;
        let size = seal(&mut self.transport, &mut self.out, length)?;
        self.frames.write(&self.out[..size], self.patience)
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }
}

fn address_of(stream: &TcpStream) -> String {
    stream.peer_addr().map_or_else(|_| "the other side".into(), |address| address.to_string())
}

/// Before the handshake is done there is no message that says why.
fn in_handshake(error: Error, address: &str) -> Error {
    let address = address.to_owned();
    match error {
        Error::Closed => Error::NotTaken { address },
        Error::Frame(refused) => Error::NotWeir { address, refused },
        other => other,
    }
}
