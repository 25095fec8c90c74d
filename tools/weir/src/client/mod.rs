//! A client of the control protocol (src/control/PROTOCOL.md), over blocking TCP.
//!
//! A [`Client`] asks, whichever side opened the connection. Several requests may be under way: [`Client::send`] gives
//! the id by which [`Client::reply`] waits for the answer, in any order; [`Client::ask`] does both. Events of a
//! subscription come by [`Client::events`]; those that arrive while a reply is waited for are kept until then, and are
//! not more than there was credit for. After an error other than [`Error::Refused`] the connection is of no use.

mod envelope;
mod error;
mod follow;
pub mod json;
pub mod upload;
mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use weir::control::protocol::VERSION;
use weir::control::protocol::message::{Answer, ERROR, EVENTS, Hello, REPLY, REQUESTS, Reply, Request};
use weir::control::protocol::noise::{Keys, PublicKey};
use weir::control::protocol::role::Role;

use self::envelope::Envelope;
pub use self::error::{Error, Refusal};
pub use self::follow::Follower;
use self::wire::Wire;
pub use self::wire::random;

/// Where a driver listens unless it is set otherwise.
pub const PORT: u16 = 47474;

/// A message that was received, and can be read.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Takes a message in, and says what it is.
    fn new(bytes: &[u8]) -> Result<(Envelope, Self), Error> {
        let message = Self { bytes: bytes.to_vec() };
        match Envelope::of(bytes) {
            Some(envelope) => Ok((envelope, message)),
            // What is wrong with it is told by who reads it whole.
            None => message.answer().and(Err(Error::Unexpected { number: 0 })),
        }
    }

    /// What it is.
    ///
    /// # Errors
    /// [`Error::Malformed`]: it cannot be read.
    pub fn answer(&self) -> Result<Answer<'_>, Error> {
        Ok(Answer::decode(&self.bytes)?.1)
    }

    /// How many events it has.
    fn events(&self) -> u64 {
        Envelope::of(&self.bytes).and_then(|envelope| envelope.events(&self.bytes)).unwrap_or_default()
    }

    /// The reply that it is.
    ///
    /// # Errors
    /// [`Error::Unexpected`]: it is none.
    pub fn reply(&self) -> Result<Reply<'_>, Error> {
        match self.answer()? {
            Answer::Reply(reply) => Ok(reply),
            other => Err(Error::Unexpected { number: number(&other) }),
        }
    }

    /// The record in JSON, with the names of PROTOCOL.md.
    pub fn json(&self) -> serde_json::Value {
        json::record(&self.bytes)
    }
}

/// Takes the record of a [`Message`] that must be the reply to a certain request.
#[macro_export]
macro_rules! record {
    ($message:expr, $variant:ident) => {
        match $message.reply() {
            Ok(::weir::control::protocol::message::Reply::$variant(record)) => Ok(record),
            Ok(other) => Err($crate::client::Error::Unexpected { number: other.number() }),
            Err(error) => Err(error),
        }
    };
}

/// As whom the driver takes the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub driver: String,
    pub session: u64,
    pub peer: String,
    pub role: Role,
    /// [`Capabilities`](weir::control::protocol::message::Capabilities), and later ones.
    pub capabilities: u64,
}

/// A connection to a driver. See [the module](self).
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    next_id: u64,
    /// The number of each request that was not answered yet.
    asked: HashMap<u64, u16>,
    answered: HashMap<u64, Message>,
    events: VecDeque<Message>,
}

impl Client {
    /// Calls the driver with that key at `host`: an address or a name, with or without a port. `patience` is for each
    /// step on its own, and later for each reply.
    ///
    /// # Errors
    /// There is no connection.
    pub fn connect(host: &str, keys: &Keys, driver: &PublicKey, patience: Duration) -> Result<Self, Error> {
        let resolve = |error| Error::Resolve { host: host.to_owned(), error };
        let mut failed = resolve(io::Error::from(io::ErrorKind::NotFound));
        for address in addresses(host).map_err(resolve)? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => return Wire::call(stream, keys, driver, patience).map(Self::over),
                Err(error) => failed = Error::Connect { address: address.to_string(), error },
            }
        }
        Err(failed)
    }

    /// Answers a driver that has dialled. From here on it is the same.
    ///
    /// # Errors
    /// It is not the driver with that key.
    pub fn accept(
        stream: TcpStream,
        keys: &Keys,
        driver: &PublicKey,
        patience: Duration,
    ) -> Result<Self, Error> {
        Wire::answer(stream, keys, driver, patience).map(Self::over)
    }

    fn over(wire: Wire) -> Self {
        let (asked, answered) = (HashMap::new(), HashMap::new());
        Self { wire, next_id: 1, asked, answered, events: VecDeque::new() }
    }

    /// Says hello.
    ///
    /// # Errors
    /// There is no common version, or no answer.
    pub fn hello(&mut self) -> Result<Welcome, Error> {
        let client = concat!("weir ", env!("CARGO_PKG_VERSION"));
        let message = self.ask(&Request::Hello(Hello { version: VERSION, client: Some(client) }))?;
        let welcome = record!(message, Hello)?;
        Ok(Welcome {
            driver: welcome.driver.to_owned(),
            session: welcome.session,
            peer: welcome.peer.to_owned(),
            role: welcome.role,
            capabilities: welcome.capabilities,
        })
    }

    /// Sends a request; its id.
    ///
    /// # Errors
    /// It was not sent.
    pub fn send(&mut self, request: &Request<'_>) -> Result<u64, Error> {
        let id = self.next_id;
        self.wire.send(|buffer| request.encode(Some(id), buffer))?;
        self.next_id += 1;
        self.asked.insert(id, request.number());
        Ok(id)
    }

    /// Sends a request that is not answered.
    ///
    /// # Errors
    /// It was not sent.
    pub fn tell(&mut self, request: &Request<'_>) -> Result<(), Error> {
        self.wire.send(|buffer| request.encode(None, buffer))
    }

    /// The reply to the request with that id.
    ///
    /// # Errors
    /// [`Error::Refused`]: it was answered by an error. Everything else ends the connection.
    pub fn reply(&mut self, id: u64) -> Result<Message, Error> {
        let patience = self.wire.patience();
        let until = Instant::now() + patience;
        loop {
            if let Some(message) = self.answered.remove(&id) {
                let asked = self.asked.remove(&id).unwrap_or_default();
                return check(asked, &message).map(|()| message);
            }
            if !self.receive(Some(until))? {
                return Err(Error::Late { what: "reply", patience });
            }
        }
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`reply`](Self::reply).
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Message, Error> {
        let id = self.send(request)?;
        self.reply(id)
    }

    /// Asks for a long list, as often as it takes; `request` makes the request that goes on from there.
    ///
    /// # Errors
    /// As [`ask`](Self::ask). [`Error::Endless`]: it goes round in a circle.
    pub fn pages<'r>(&mut self, request: impl Fn(Option<u32>) -> Request<'r>) -> Result<Vec<Message>, Error> {
        let (mut pages, mut from, mut seen) = (Vec::new(), None, HashSet::new());
        loop {
            let asked = request(from);
            let page = self.ask(&asked)?;
            from = next(&page.reply()?);
            pages.push(page);
            match from {
                None => return Ok(pages),
                Some(from) if seen.insert(from) => {}
                Some(_) => return Err(Error::Endless { asked: meta(asked.number()).0 }),
            }
        }
    }

    /// Takes one message in; whether there was one in time.
    fn receive(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        let Some(bytes) = self.wire.receive(until)? else { return Ok(false) };
        let (envelope, message) = Message::new(bytes)?;
        match (envelope.kind, envelope.id) {
            (EVENTS, _) => self.events.push_back(message),
            (REPLY..=ERROR, Some(id)) if self.asked.contains_key(&id) => {
                self.answered.insert(id, message);
            }
            // Of a later version, or to what nobody waits for any more.
            _ => {}
        }
        Ok(true)
    }
}

/// Whether the message answers a request with that number.
fn check(asked: u16, message: &Message) -> Result<(), Error> {
    match message.answer()? {
        Answer::Error(failure) => {
            let (name, role) = meta(asked);
            Err(Error::Refused(Box::new(Refusal::new(name, role, &failure))))
        }
        Answer::Reply(reply) if reply.number().checked_sub(REPLY) == Some(asked) => Ok(()),
        other => Err(Error::Unexpected { number: number(&other) }),
    }
}

/// A request's name, and the role that it takes.
fn meta(request: u16) -> (&'static str, Role) {
    let meta = REQUESTS.iter().find(|meta| meta.number == request);
    meta.map_or(("", Role::Observer), |meta| (meta.name, meta.role))
}

/// A message's number.
fn number(answer: &Answer<'_>) -> u16 {
    match answer {
        Answer::Reply(reply) => reply.number(),
        Answer::Error(_) => ERROR,
        Answer::Events(_) => EVENTS,
        Answer::Unknown(number) => *number,
    }
}

/// Where a long list goes on.
fn next(reply: &Reply<'_>) -> Option<u32> {
    match reply {
        Reply::Counters(part) => part.next,
        Reply::Sessions(part) => part.next,
        Reply::Extensions(part) => part.next,
        Reply::Settings(part) => part.next,
        Reply::Connections(part) => part.next,
        Reply::PolicyShow(part) => part.next,
        Reply::Explain(part) => part.next,
        _ => None,
    }
}

/// The addresses of `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]` and `[ADDRESS]:PORT`.
fn addresses(host: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![SocketAddr::new(address, PORT)]);
    }
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    match host.rsplit_once(':') {
        Some(_) => host.to_socket_addrs().map(Iterator::collect),
        None => (host, PORT).to_socket_addrs().map(Iterator::collect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_or_not() {
        for (host, address) in [
            ("192.0.2.1", "192.0.2.1:47474"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("2001:db8::1", "[2001:db8::1]:47474"),
            ("[2001:db8::1]", "[2001:db8::1]:47474"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(addresses(host).unwrap(), [address.parse().unwrap()], "{host}");
        }
        for (host, port) in [("localhost", PORT), ("localhost:81", 81)] {
            assert!(
                addresses(host).unwrap().iter().all(|a| a.port() == port && a.ip().is_loopback()),
                "{host}"
            );
        }
        addresses("localhost:").unwrap_err();
        addresses("").unwrap_err();
    }
}
