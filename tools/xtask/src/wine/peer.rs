//! Those who speak with the driver: clients of the control protocol, each with a key of its own.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use weir::control::protocol::message::{ErrorCode, REQUESTS, Request, Subscribe};
use weir::control::protocol::noise::{Keys, PublicKey};
use weir_cli::client::{self, Client, Follower, Message, Welcome};

use super::wait;

/// How long a step of the protocol may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The driver's key, and those of everybody else.
pub struct Cast {
    /// The private one, as it stands in the registry.
    pub driver: [u8; 32],
    driver_public: PublicKey,
    pub operator: Keys,
    pub observer: Keys,
    /// Whom the driver calls.
    pub controller: Keys,
    /// Nobody's that the driver knows.
    pub stranger: Keys,
}

impl Cast {
    /// # Errors
    /// The system has no random bytes.
    pub fn new() -> Result<Self, String> {
        let keys = || client::random().map(|private| Keys::new(&private)).map_err(|error| error.to_string());
        let driver = *client::random().map_err(|error| error.to_string())?;
        let driver_public = *Keys::new(&driver).public();
        let (operator, observer) = (keys()?, keys()?);
        Ok(Self { driver, driver_public, operator, observer, controller: keys()?, stranger: keys()? })
    }

    pub const fn driver(&self) -> &PublicKey {
        &self.driver_public
    }

    /// The peers, as the registry has them.
    pub fn peers(&self) -> Vec<String> {
        let peer = |name: &str, role: &str, keys: &Keys| format!("{name}={role}:{}", keys.public());
        vec![
            peer("operator", "operator", &self.operator),
            peer("observer", "observer", &self.observer),
            peer("controller", "operator", &self.controller),
        ]
    }
}

/// A connection over which the handshake is done and hello was said.
pub struct Peer {
    client: Client,
    pub welcome: Welcome,
}

impl Peer {
    /// # Errors
    /// The driver does not take it.
    pub fn connect(cast: &Cast, keys: &Keys, port: u16) -> Result<Self, String> {
        wait::check()?;
        let host = format!("127.0.0.1:{port}");
        let client = Client::connect(&host, keys, cast.driver(), PATIENCE);
        Self::greet(client.map_err(|error| format!("the control port: {error}"))?)
    }

    /// Takes a connection that the driver has opened.
    ///
    /// # Errors
    /// It does not come, or is not the driver's.
    pub fn accept(cast: &Cast, keys: &Keys, listener: &TcpListener) -> Result<Self, String> {
        let stream = accept(listener)?;
        let client = Client::accept(stream, keys, cast.driver(), PATIENCE);
        Self::greet(client.map_err(|error| format!("the driver's call: {error}"))?)
    }

    fn greet(mut client: Client) -> Result<Self, String> {
        let welcome = client.hello().map_err(|error| format!("hello: {error}"))?;
        Ok(Self { client, welcome })
    }

    /// The session's number.
    pub const fn session(&self) -> u64 {
        self.welcome.session
    }

    /// # Errors
    /// There was no reply, or an error.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Value, String> {
        wait::check()?;
        self.client
            .ask(request)
            .map(|message| message.json())
            .map_err(|error| format!("{}: {error}", name(request)))
    }

    /// Asks for a long list as often as it takes; all of it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn list<'r>(&mut self, request: impl Fn(Option<u32>) -> Request<'r>) -> Result<Value, String> {
        wait::check()?;
        let pages =
            self.client.pages(&request).map_err(|error| format!("{}: {error}", name(&request(None))))?;
        Ok(client::json::pages(&pages))
    }

    /// Asks for what is to be refused; why it was.
    ///
    /// # Errors
    /// It was not refused.
    pub fn refused(&mut self, request: &Request<'_>) -> Result<ErrorCode, String> {
        match self.client.ask(request) {
            Err(client::Error::Refused(refusal)) => Ok(refusal.code),
            Err(error) => Err(format!("{}: {error}", name(request))),
            Ok(message) => Err(format!("{} was done: {}", name(request), message.json())),
        }
    }

    /// Applies a policy; its generation.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn apply(&mut self, image: &[u8], window: u32) -> Result<u32, String> {
        wait::check()?;
        let applied = self.client.apply(image, Some(window), None);
        applied.map(|applied| applied.generation).map_err(|error| format!("applying a policy: {error}"))
    }

    /// Subscribes to events, and gives no credit but the request's; the subscription's id.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn subscribe(&mut self, request: Subscribe<'_>) -> Result<u64, String> {
        let told = |error: client::Error| format!("subscribe: {error}");
        let id = self.client.send(&Request::Subscribe(request)).map_err(told)?;
        self.client.reply(id).map_err(told)?;
        Ok(id)
    }

    /// The next message of a subscription, without new credit, if one comes in time.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn events(&mut self, patience: Duration) -> Result<Option<Message>, String> {
        wait::check()?;
        self.client.events(Some(Instant::now() + patience)).map_err(|error| format!("events: {error}"))
    }

    /// Subscribes to events, and gives credit as they are taken.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn follow(&mut self, request: Subscribe<'_>) -> Result<Follower, String> {
        Follower::start(&mut self.client, request).map_err(|error| format!("subscribe: {error}"))
    }

    /// The next message of a subscription, if one comes in time.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn next(&mut self, follower: &mut Follower, patience: Duration) -> Result<Option<Message>, String> {
        wait::check()?;
        let next = follower.next(&mut self.client, Some(Instant::now() + patience));
        next.map_err(|error| format!("events: {error}"))
    }

    /// Ends a subscription; what the driver says of it in the end.
    ///
    /// # Errors
    /// There was no reply.
    pub fn stop(&mut self, follower: Follower) -> Result<Value, String> {
        let told = follower.stop(&mut self.client);
        told.map(|message| message.json()).map_err(|error| format!("unsubscribe: {error}"))
    }

    /// What the request says that is no list: `field` of the reply.
    ///
    /// # Errors
    /// As [`Self::ask`]; or there is no such field.
    pub fn number(&mut self, request: &Request<'_>, field: &str) -> Result<u64, String> {
        let reply = self.ask(request)?;
        reply[field].as_u64().ok_or_else(|| format!("{} has no {field}: {reply}", name(request)))
    }
}

fn name(request: &Request<'_>) -> &'static str {
    REQUESTS.iter().find(|meta| meta.number == request.number()).map_or("a request", |meta| meta.name)
}

/// A listener for the driver to call.
///
/// # Errors
/// The system's message.
pub fn listen(port: u16) -> Result<TcpListener, String> {
    let told = |error: std::io::Error| format!("port {port}: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(told)?;
    listener.set_nonblocking(true).map_err(told)?;
    Ok(listener)
}

/// Waits for a call of the driver's.
///
/// # Errors
/// It does not come.
pub fn accept(listener: &TcpListener) -> Result<TcpStream, String> {
    wait::until("a call of the driver's", Duration::from_secs(20), || match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false).map(|()| Some(stream)).map_err(|error| error.to_string())
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.to_string()),
    })
}
