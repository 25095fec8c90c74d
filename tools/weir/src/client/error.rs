//! What can go wrong between a client and a driver, and what to do about it.

use std::fmt;
use std::io;
use std::time::Duration;

use weir::control::protocol::frame;
use weir::control::protocol::message::{ErrorCode, Failure, Malformed};
use weir::control::protocol::noise::{HandshakeError, PublicKey, TransportError};
use weir::control::protocol::role::Role;
use weir::trace::NtStatus;

/// Why there is no connection, no answer, or not the one that was asked for.
#[derive(Debug)]
pub enum Error {
    /// The host's name leads to no address.
    Resolve { host: String, error: io::Error },
    /// Nobody took the connection.
    Connect { address: String, error: io::Error },
    /// The connection was closed instead of an answer to the first message.
    NotTaken { address: String },
    /// What answered is not what was meant.
    Handshake { address: String, error: HandshakeError },
    /// What answered speaks something else.
    NotWeir { address: String, refused: frame::Refused },
    /// Another driver than the one that was meant has dialled.
    OtherDriver { address: String, key: PublicKey },
    /// The driver has closed the connection.
    Closed,
    /// Nothing came in time.
    Late { what: &'static str, patience: Duration },
    /// The connection has failed.
    Io(io::Error),
    /// What came cannot be a frame.
    Frame(frame::Refused),
    /// What came cannot be decrypted.
    Transport(TransportError),
    /// What came cannot be read.
    Malformed(Malformed),
    /// What came is not an answer to what was asked.
    Unexpected { number: u16 },
    /// A long list goes on where it was before.
    Endless { asked: &'static str },
    /// The request does not fit into a message.
    TooLarge,
    /// The driver says no.
    Refused(Box<Refusal>),
    /// The system has no random bytes.
    Random(getrandom::Error),
}

/// The driver's error, and what it was about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The request's name.
    pub request: &'static str,
    /// What the request takes.
    pub takes: Role,
    pub code: ErrorCode,
    pub text: Option<String>,
    pub status: Option<NtStatus>,
    pub key: Option<u32>,
    pub at: Option<u64>,
}

impl Refusal {
    pub(super) fn new(request: &'static str, takes: Role, failure: &Failure<'_>) -> Self {
        Self {
            request,
            takes,
            code: failure.code,
            text: failure.text.map(ToOwned::to_owned),
            status: failure.status,
            key: failure.key,
            at: failure.at,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, takes, code, text, status, key, at } = self;
        match code {
            ErrorCode::UnknownRequest => {
                write!(f, "the driver does not know the request `{request}`: it is older than this weir")?;
            }
            ErrorCode::NotPermitted => {
                write!(f, "`{request}` takes the role {takes}, which the driver does not give this key")?;
            }
            ErrorCode::Version => {
                f.write_str("the driver speaks no version of the protocol that this weir does")?;
            }
            _ => {
                let means = ErrorCode::VALUES.iter().find(|value| value.0 == *code as u8);
                let means = means.map_or("", |value| value.2.trim_end_matches('.'));
                write!(f, "the driver refuses `{request}`: {code}")?;
                match text {
                    Some(text) => write!(f, ": {text}")?,
                    None => write!(f, " ({means})")?,
                }
            }
        }
        if let Some(status) = status {
            write!(f, ", status {status}")?;
        }
        if let Some(key) = key {
            write!(f, ", at key {key}")?;
        }
        at.map_or(Ok(()), |at| write!(f, ", at byte {at}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, error } => write!(f, "{host} has no address: {error}"),
            Self::Connect { address, error } => match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    write!(
                        f,
                        "nothing listens at {address}: is the driver running, with a key and ControlListen?"
                    )
                }
                io::ErrorKind::TimedOut => write!(f, "no answer from {address}: a firewall, or no such host"),
                _ => write!(f, "no connection to {address}: {error}"),
            },
            Self::NotTaken { address } => write!(
                f,
                "{address} has closed the connection during the handshake: the driver has another key than the one \
                 given, or it does not have this key among its peers, or there are too many connections"
            ),
            Self::Handshake { address, error } => {
                write!(f, "{address} does not answer as the driver with this key would: {error}")
            }
            Self::NotWeir { address, refused } => {
                write!(f, "what listens at {address} does not speak weir's control protocol: {refused}")
            }
            Self::OtherDriver { address, key } => {
                write!(f, "{address} is not the driver that is waited for: its key is {key}")
            }
            Self::Closed => f.write_str("the driver has closed the connection"),
            Self::Late { what, patience } => {
                write!(f, "no {what} within {} s (--timeout)", patience.as_secs_f32())
            }
            Self::Io(error) => write!(f, "the connection has failed: {error}"),
            Self::Frame(refused) => write!(f, "the connection is given up: {refused}"),
            Self::Transport(error) => write!(f, "the connection is given up: {error}"),
            Self::Malformed(malformed) => write!(f, "the driver's answer cannot be read: {malformed}"),
            Self::Unexpected { number } => {
                write!(f, "the driver answers by a message of another kind than was asked for, {number}")
            }
            Self::Endless { asked } => write!(f, "the driver's list for `{asked}` has no end"),
            Self::TooLarge => f.write_str("the request does not fit into a message"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Random(error) => write!(f, "no random bytes: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
