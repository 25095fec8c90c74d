//! Messages: requests to the driver, its replies, errors and events, in CBOR.
//!
//! A message is a map with three keys: what it is, which request it belongs to, and a record ([`RECORDS`]). Requests
//! have numbers below [`REPLY`] ([`REQUESTS`]); a reply has its request's number plus [`REPLY`]; beside these there are
//! [`ERROR`] and [`EVENTS`]. The id is the client's choice; a request without one is done and not answered.
//!
//! Decoded messages borrow from their bytes, and encoded ones go into a buffer of the caller's: [`MAX_MESSAGE`] is
//! enough for each, if its lists were gathered in [`MAX_LIST`].
#![forbid(unsafe_code)]

mod events;
mod records;
mod wire;

#[cfg(all(test, not(loom)))]
mod tests;

use minicbor::{Decoder, Encoder};

pub use events::{Batch, Encoded, EventList, EventRecord, EventValue};
pub use records::*;
pub use wire::{Key, List, ListWriter, Malformed, NoRoom, Shape, Type, What};

use super::MAX_MESSAGE;
use super::role::Role;
use wire::{Buffer, Item};

/// What a reply's number has besides its request's.
pub const REPLY: u16 = 128;
/// The number of an error.
pub const ERROR: u16 = 256;
/// The number of events.
pub const EVENTS: u16 = 257;
/// The most bytes of a list, or of a part of a policy, that a message has room for beside what stands with it.
pub const MAX_LIST: usize = MAX_MESSAGE - 256;

/// The most bytes that go with a control code of a vendor's.
pub const MAX_CONTROL: usize = 40;

/// The keys of every message.
const KIND: u32 = 0;
const ID: u32 = 1;
const BODY: u32 = 2;

/// What is known of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestMeta {
    pub number: u16,
    pub name: &'static str,
    /// Who may ask.
    pub role: Role,
    pub doc: &'static str,
    pub request: Shape,
    pub reply: Shape,
}

macro_rules! requests {
    ($(
        $(#[doc = $doc:literal])+
        $number:literal $name:literal $role:ident $variant:ident:
            $request:ident $(<$request_life:lifetime>)? -> $reply:ident $(<$reply_life:lifetime>)?;
    )+) => {
        /// A request.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Request<'a> {
            $($(#[doc = $doc])+ $variant($request $(<$request_life>)?),)+
        }

        /// A request's reply.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reply<'a> {
            $($(#[doc = $doc])+ $variant($reply $(<$reply_life>)?),)+
        }

        /// Every request: what it is called, who may ask, what goes and what comes.
        pub const REQUESTS: &[RequestMeta] = &[$(RequestMeta {
            number: $number,
            name: $name,
            role: Role::$role,
            doc: concat!($($doc),+).trim_ascii(),
            request: $request::SHAPE,
            reply: $reply::SHAPE,
        }),+];

        impl<'a> Request<'a> {
            /// The request's number on the wire.
            pub const fn number(&self) -> u16 {
                match self { $(Self::$variant(_) => $number),+ }
            }

            /// What a peer must be to ask for it.
            pub const fn role(&self) -> Role {
                match self { $(Self::$variant(_) => Role::$role),+ }
            }

            fn body(&self, writer: &mut wire::Writer<'_, '_>) -> Result<(), NoRoom> {
                match self { $(Self::$variant(body) => Item::encode(body, writer)),+ }
            }

            /// `None`: there is no such request.
            fn read(number: u16, reader: &mut Decoder<'a>) -> Option<Result<Self, Malformed>> {
                match number {
                    $($number => Some(<$request as Item>::decode(reader).map(Self::$variant)),)+
                    _ => None,
                }
            }
        }

        impl<'a> Reply<'a> {
            /// The reply's number on the wire.
            pub const fn number(&self) -> u16 {
                match self { $(Self::$variant(_) => REPLY + $number),+ }
            }

            fn body(&self, writer: &mut wire::Writer<'_, '_>) -> Result<(), NoRoom> {
                match self { $(Self::$variant(body) => Item::encode(body, writer)),+ }
            }

            fn read(number: u16, reader: &mut Decoder<'a>) -> Option<Result<Self, Malformed>> {
                match number.checked_sub(REPLY)? {
                    $($number => Some(<$reply as Item>::decode(reader).map(Self::$variant)),)+
                    _ => None,
                }
            }
        }
    };
}

requests! {
    /// Says who the client is, and learns who the driver is. It may be left out: then version 1 holds.
    1 "hello" Observer Hello: Hello<'a> -> Welcome<'a>;
    /// Keeps a connection from being idle.
    2 "ping" Observer Ping: Empty -> Time;
    /// How the driver stands.
    3 "status" Observer Status: Empty -> Status<'a>;
    /// What the driver has counted.
    4 "counters" Observer Counters: From -> Counters<'a>;
    /// The control connections.
    5 "sessions" Observer Sessions: From -> Sessions<'a>;
    /// The extension interfaces of the control connections.
    6 "extensions" Observer Extensions: From -> Extensions<'a>;
    /// The connections that are tracked. Part by part: one that opens or ends meanwhile may be missing or stand twice.
    7 "connections" Observer Connections: From -> Connections<'a>;
    /// Has a connection's counters sampled by who provides an extension interface for it, weir itself or a vendor. What
    /// that answers instead stands in the error `failed`; with `not-found` there is no such connection, or nobody
    /// provides the interface for it.
    8 "extension metric" Observer ExtensionMetric: Extended -> Metric;
    /// Sends a vendor's own control code to who provides an extension interface for a connection. Errors are as with
    /// `extension metric`.
    9 "extension control" Operator ExtensionControl: Control<'a> -> Controlled;
    /// The policy that decides, with its rules.
    10 "policy show" Observer PolicyShow: From -> Policy<'a>;
    /// The image of the policy that decides, part by part.
    11 "policy read" Observer PolicyRead: ReadImage -> Image<'a>;
    /// Announces a policy.
    12 "policy begin" Operator PolicyBegin: Begin -> Begun;
    /// Sends a part of a policy.
    13 "policy chunk" Operator PolicyChunk: Chunk<'a> -> Uploaded;
    /// Lets the policy that went up decide, until it is confirmed or its window is over.
    14 "policy commit" Operator PolicyCommit: Commit -> Applied;
    /// Keeps a policy that was applied, and stores it.
    15 "policy confirm" Operator PolicyConfirm: Generation -> Generation;
    /// Goes back from a policy that was applied and not confirmed to the one before it. The reply has the generation
    /// that decides then; 0: the fail mode.
    16 "policy rollback" Operator PolicyRollback: Generation -> Generation;
    /// What the policy says of a connection, and why.
    17 "explain" Observer Explain: Tuple<'a> -> Explanation<'a>;
    /// The settings that are not at their defaults, that are refused, or that wait for the driver's next start. A driver of
    /// before does not know this request.
    18 "settings" Observer Settings: From -> Settings<'a>;
    /// Has events sent, as far as there is credit. A connection has one subscription at a time.
    20 "subscribe" Observer Subscribe: Subscribe<'a> -> Empty;
    /// Lets further events be sent. Mostly without an id.
    21 "credit" Observer Credit: Credit -> Empty;
    /// Ends a subscription.
    22 "unsubscribe" Observer Unsubscribe: Unsubscribe -> Unsubscribed<'a>;
}

// Requests and replies are built on the stack.
const _: () = {
    assert!(size_of::<Request<'_>>() <= 128);
    assert!(size_of::<Reply<'_>>() <= 192);
};

/// A request that cannot be done as it stands, and what the answer to it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// The request's id, if it has one and it could be read.
    pub id: Option<u64>,
    pub code: ErrorCode,
    /// The request's number, where it is not known.
    pub number: Option<u16>,
    pub malformed: Option<Malformed>,
}

impl Rejected {
    /// The error to answer with.
    pub fn failure(&self) -> Failure<'static> {
        let malformed = self.malformed;
        Failure {
            code: self.code,
            text: malformed.map(|malformed| malformed.what.name()),
            status: None,
            key: malformed.and_then(|malformed| malformed.key),
            at: malformed.map(|malformed| malformed.at as u64),
        }
    }

    fn malformed(id: Option<u64>, malformed: Malformed) -> Self {
        Self { id, code: ErrorCode::Malformed, number: None, malformed: Some(malformed) }
    }
}

impl<'a> Request<'a> {
    /// Reads a request, and the id to answer with.
    ///
    /// # Errors
    /// What to answer, if there is an id. The connection goes on.
    pub fn decode(message: &'a [u8]) -> Result<(Option<u64>, Self), Rejected> {
        let envelope = Envelope::decode(message)?;
        let id = envelope.id;
        let mut reader = envelope.body(message);
        match Self::read(envelope.kind, &mut reader) {
            Some(request) => Ok((id, request.map_err(|malformed| Rejected::malformed(id, malformed))?)),
            None => Err(Rejected {
                id,
                code: ErrorCode::UnknownRequest,
                number: Some(envelope.kind),
                malformed: None,
            }),
        }
    }

    /// Writes a request; its length. Without an id it is not answered.
    ///
    /// # Errors
    /// There is no room.
    pub fn encode(&self, id: Option<u64>, buffer: &mut [u8]) -> Result<usize, NoRoom> {
        encode(self.number(), id, buffer, |writer| self.body(writer))
    }
}

impl Reply<'_> {
    /// Writes a reply; its length.
    ///
    /// # Errors
    /// There is no room.
    pub fn encode(&self, id: u64, buffer: &mut [u8]) -> Result<usize, NoRoom> {
        encode(self.number(), Some(id), buffer, |writer| self.body(writer))
    }
}

impl Failure<'_> {
    /// Writes an error; its length.
    ///
    /// # Errors
    /// There is no room.
    pub fn encode(&self, id: u64, buffer: &mut [u8]) -> Result<usize, NoRoom> {
        encode(ERROR, Some(id), buffer, |writer| Item::encode(self, writer))
    }
}

/// What a client gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    Reply(Reply<'a>),
    Error(Failure<'a>),
    Events(Events<'a>),
    /// Something with this number that a later version has.
    Unknown(u16),
}

impl<'a> Answer<'a> {
    /// Reads what the driver sent, and the id of the request that it belongs to.
    ///
    /// # Errors
    /// It is not as it must be.
    pub fn decode(message: &'a [u8]) -> Result<(Option<u64>, Self), Malformed> {
        let envelope = Envelope::decode(message).map_err(|rejected| {
            let what = Malformed { at: 0, key: None, what: What::Form };
            rejected.malformed.unwrap_or(what)
        })?;
        let mut reader = envelope.body(message);
        let answer = match envelope.kind {
            ERROR => Self::Error(Item::decode(&mut reader)?),
            EVENTS => Self::Events(Item::decode(&mut reader)?),
            number => match Reply::read(number, &mut reader) {
                Some(reply) => Self::Reply(reply?),
                None => Self::Unknown(number),
            },
        };
        Ok((envelope.id, answer))
    }
}

fn encode(
    kind: u16,
    id: Option<u64>,
    buffer: &mut [u8],
    body: impl FnOnce(&mut wire::Writer<'_, '_>) -> Result<(), NoRoom>,
) -> Result<usize, NoRoom> {
    let mut buffer = Buffer::new(buffer);
    let mut writer = Encoder::new(&mut buffer);
    head(kind, id, &mut writer)?;
    body(&mut writer)?;
    Ok(buffer.used)
}

/// All of a message but its body, which must follow.
fn head(kind: u16, id: Option<u64>, writer: &mut wire::Writer<'_, '_>) -> Result<(), NoRoom> {
    writer.map(if id.is_some() { 3 } else { 2 })?.u32(KIND)?.u16(kind)?;
    if let Some(id) = id {
        writer.u32(ID)?.u64(id)?;
    }
    writer.u32(BODY)?;
    Ok(())
}

/// A message around its record.
struct Envelope {
    kind: u16,
    id: Option<u64>,
    /// Where the record is; it has been skipped over once, so it is whole.
    body: usize,
}

impl Envelope {
    fn decode(message: &[u8]) -> Result<Self, Rejected> {
        let mut id = None;
        Self::read(message, &mut id).map_err(|malformed| Rejected::malformed(id, malformed))
    }

    fn read(message: &[u8], id: &mut Option<u64>) -> Result<Self, Malformed> {
        let mut reader = Decoder::new(message);
        let (mut kind, mut body) = (None, None);
        for _ in 0..wire::map(&mut reader)? {
            let at = reader.position();
            let key = wire::key(&mut reader)?;
            let again = match key {
                Some(KIND) => kind.replace(u16::decode(&mut reader)?).is_some(),
                Some(ID) => id.replace(u64::decode(&mut reader)?).is_some(),
                Some(BODY) => {
                    let start = reader.position();
                    wire::skip(&mut reader)?;
                    body.replace(start).is_some()
                }
                _ => {
                    wire::skip(&mut reader)?;
                    false
                }
            };
            if again {
                return Err(wire::twice(at, key.unwrap_or_default()));
            }
        }
        wire::end(&reader)?;
        Ok(Self {
            kind: kind.ok_or_else(|| wire::missing(&reader, KIND))?,
            id: *id,
            body: body.ok_or_else(|| wire::missing(&reader, BODY))?,
        })
    }

    fn body<'m>(&self, message: &'m [u8]) -> Decoder<'m> {
        let mut reader = Decoder::new(message);
        reader.set_position(self.body);
        reader
    }
}
