//! The records' payloads: one table of kinds, and how each is laid out in its lines.
//!
//! Pure; any IRQL. Numbers are little-endian, addresses in network byte order as they stand in packets. The
//! ring itself only asks for a kind's number; a further kind is a further row in the table with its payload.
//! What a connection's life-cycle events have to tell lies in the connection itself, so it has no payload here.
#![forbid(unsafe_code)]

use super::line::OBJECT_PAYLOAD;
use crate::policy::{Action, Direction, Family};
use static_assertions::const_assert;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $number:literal $name:literal;)+) => {
        /// What a record tells.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind = $number,)+
        }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];
            /// How many kinds there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The kind's name in loss counts.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// The kind with that number.
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$kind),)+ _ => None }
            }
        }
    };
}

kinds! {
    /// A connection was decided on: [`Verdict`].
    Verdict = 0 "verdict";
    /// A control connection came or went: [`ControlConnection`].
    ControlConnection = 1 "control-connection";
    /// An extension called back: [`ExtensionEvent`].
    ExtensionEvent = 2 "extension-event";
    /// A registration for an extension interface began or ended: [`ExtensionChange`].
    ExtensionChange = 3 "extension-change";
}

mod sealed {
    /// Only this module makes payloads, so that encoding one is known not to enter the ring.
    pub trait Sealed {}
}

impl Kind {
    /// Whether records of the kind leave the last quarter of a ring to others: what a vendor's provider may send as much
    /// of as it likes does not push verdicts out.
    #[inline(always)]
    pub const fn leaves_room(self) -> bool {
        matches!(self, Self::ExtensionEvent)
    }

    /// Whether a record of the kind that is refused is pushed again until it is taken: it is not lost, and not counted.
    pub const fn is_pushed_again(self) -> bool {
        matches!(self, Self::ExtensionChange)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kinds(u32);

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self(u32::MAX);

    /// These kinds, and `kind`.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether `kind` is among them.
    #[inline(always)]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 >> (kind as u8) & 1 != 0
    }
}

const_assert!(Kind::COUNT <= 32);

/// Something that a record can carry: the payload of a row in the table of kinds.
pub trait Payload: sealed::Sealed {
    /// The record's kind.
    fn kind(&self) -> Kind;

    /// The word in the record's header.
    fn detail(&self) -> u16;

    /// Bytes of payload.
    fn size(&self) -> usize;

    /// Writes the payload to `out`, which is `size` bytes long.
    fn encode(&self, out: &mut [u8]);
}

/// Writes numbers one behind the other; what does not fit is left out.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        if let Some((head, tail)) = core::mem::take(&mut self.0).split_first_chunk_mut() {
            *head = bytes;
            self.0 = tail;
        }
    }

    #[inline(always)]
    fn put_slice(&mut self, bytes: &[u8]) {
        if let Some(room) = self.0.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }
}

/// Reads numbers one behind the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline(always)]
    fn get<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn slice(&self, len: usize) -> Option<&'a [u8]> {
        self.0.get(..len)
    }
}

/// A payload that is encoded already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoded<'a, const N: usize> {
    /// The record's kind.
    pub kind: Kind,
    /// The kind's own word.
    pub detail: u16,
    /// The payload.
    pub bytes: &'a [u8; N],
}

impl<const N: usize> sealed::Sealed for Encoded<'_, N> {}

impl<const N: usize> Payload for Encoded<'_, N> {
    #[inline(always)]
    fn kind(&self) -> Kind {
        self.kind
    }

    #[inline(always)]
    fn detail(&self) -> u16 {
        self.detail
    }

    #[inline(always)]
    fn size(&self) -> usize {
        N
    }

    #[inline(always)]
    fn encode(&self, out: &mut [u8]) {
        if let Some(out) = out.first_chunk_mut() {
            *out = *self.bytes;
        }
    }
}

/// A connection's decision: one line, for both families. The connection is the record's object; a blocked one
/// has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What was decided.
    pub action: Action,
    /// Which side opened the connection.
    pub direction: Direction,
    /// The family of both addresses.
    pub family: Family,
    /// It was decided again, after a change of policy or of the network.
    pub reauthorized: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// The rule that decided, by its place in the policy; `u32::MAX`: the default.
    pub rule: u32,
    /// The policy that decided, counted from the driver's start; 0: the fail mode.
    pub generation: u32,
    /// The local address in network byte order; an IPv4 address fills the first four bytes.
    pub local: [u8; 16],
    /// The remote address, as `local`.
    pub remote: [u8; 16],
    /// The local port in host byte order; for ICMP the message's type.
    pub local_port: u16,
    /// The remote port; for ICMP the message's code.
    pub remote_port: u16,
}

impl Verdict {
    const SIZE: usize = 16 + 16 + 4 + 4 + 2 + 2;
    const DIRECTION: u16 = 1 << 2;
    const FAMILY: u16 = 1 << 3;
    const REAUTHORIZED: u16 = 1 << 4;
    const PROTOCOL: u32 = 8;

    /// What `detail` and `payload` of a record of this kind say.
    pub fn decode(detail: u16, payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let [low, protocol] = detail.to_le_bytes();
        Some(Self {
            action: Action::from_byte(low & 3)?,
            direction: if detail & Self::DIRECTION == 0 { Direction::In } else { Direction::Out },
            family: if detail & Self::FAMILY == 0 { Family::V4 } else { Family::V6 },
            reauthorized: detail & Self::REAUTHORIZED != 0,
            protocol,
            local: from.get()?,
            remote: from.get()?,
            rule: u32::from_le_bytes(from.get()?),
            generation: u32::from_le_bytes(from.get()?),
            local_port: u16::from_le_bytes(from.get()?),
            remote_port: u16::from_le_bytes(from.get()?),
        })
    }
}

// One line, also as an object's record.
const_assert!(Verdict::SIZE <= OBJECT_PAYLOAD);

impl sealed::Sealed for Verdict {}

impl Payload for Verdict {
    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind::Verdict
    }

    #[inline(always)]
    fn detail(&self) -> u16 {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        u16::from(self.action as u8)
            | flag(self.direction == Direction::Out, Self::DIRECTION)
            | flag(self.family == Family::V6, Self::FAMILY)
            | flag(self.reauthorized, Self::REAUTHORIZED)
            | u16::from(self.protocol) << Self::PROTOCOL
    }

    #[inline(always)]
    fn size(&self) -> usize {
        Self::SIZE
    }

    #[inline(always)]
    fn encode(&self, out: &mut [u8]) {
        let mut to = Writer(out);
        to.put(self.local);
        to.put(self.remote);
        to.put(self.rule.to_le_bytes());
        to.put(self.generation.to_le_bytes());
        to.put(self.local_port.to_le_bytes());
        to.put(self.remote_port.to_le_bytes());
    }
}

/// What happened to a control connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ControlChange {
    /// It was accepted.
    Accepted = 0,
    /// It was refused; the status says why.
    Refused = 1,
    /// It has ended; the status says how.
    Closed = 2,
}

/// A control connection came or went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlConnection {
    /// What happened.
    pub change: ControlChange,
    /// The family of `remote`.
    pub family: Family,
    /// The session's number, unique since the driver's start.
    pub session: u64,
    /// NTSTATUS.
    pub status: i32,
    /// The other side's address in network byte order; an IPv4 address fills the first four bytes.
    pub remote: [u8; 16],
    /// The other side's port in host byte order.
    pub remote_port: u16,
}

impl ControlConnection {
    const SIZE: usize = 8 + 4 + 16 + 2;
    const FAMILY: u16 = 1 << 8;

    /// What `detail` and `payload` of a record of this kind say.
    pub fn decode(detail: u16, payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let [change, _] = detail.to_le_bytes();
        Some(Self {
            change: match change {
                0 => ControlChange::Accepted,
                1 => ControlChange::Refused,
                2 => ControlChange::Closed,
                _ => return None,
            },
            family: if detail & Self::FAMILY == 0 { Family::V4 } else { Family::V6 },
            session: u64::from_le_bytes(from.get()?),
            status: i32::from_le_bytes(from.get()?),
            remote: from.get()?,
            remote_port: u16::from_le_bytes(from.get()?),
        })
    }
}

impl sealed::Sealed for ControlConnection {}

impl Payload for ControlConnection {
    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind::ControlConnection
    }

    fn detail(&self) -> u16 {
        u16::from(self.change as u8) | if self.family == Family::V6 { Self::FAMILY } else { 0 }
    }

    fn size(&self) -> usize {
        Self::SIZE
    }

    fn encode(&self, out: &mut [u8]) {
        let mut to = Writer(out);
        to.put(self.session.to_le_bytes());
        to.put(self.status.to_le_bytes());
        to.put(self.remote);
        to.put(self.remote_port.to_le_bytes());
    }
}

/// An extension called back on a control connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtensionEvent<'a> {
    /// The session's number.
    pub session: u64,
    /// Whom the socket has it from, by its place among all it may have.
    pub part: u8,
    /// The kind of provider; below 4.
    pub provider: u8,
    /// What the interface calls the event.
    pub code: u32,
    /// The event's parameter.
    pub value: u64,
    /// The vendor's data; what is over 63 bytes is cut off.
    pub data: &'a [u8],
}

/// A number of 6 bits and the kind of provider, in a byte.
const fn pack(number: u8, provider: u8) -> u8 {
    number << 2 | (provider & 3)
}

/// What [`pack`] has put together.
const fn unpack(byte: u8) -> (u8, u8) {
    (byte >> 2, byte & 3)
}

impl<'a> ExtensionEvent<'a> {
    const FIXED: usize = 8 + 4 + 8;
    const MOST: u8 = u8::MAX >> 2;

    fn data(&self) -> &'a [u8] {
        self.data.get(..usize::from(Self::MOST)).unwrap_or(self.data)
    }

    /// What `detail` and `payload` of a record of this kind say.
    pub fn decode(detail: u16, payload: &'a [u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let [part, packed] = detail.to_le_bytes();
        let (length, provider) = unpack(packed);
        Some(Self {
            session: u64::from_le_bytes(from.get()?),
            part,
            provider,
            code: u32::from_le_bytes(from.get()?),
            value: u64::from_le_bytes(from.get()?),
            data: from.slice(usize::from(length))?,
        })
    }
}

// Without data, or with a little, one line.
const_assert!(ExtensionEvent::FIXED + 16 <= OBJECT_PAYLOAD);

impl sealed::Sealed for ExtensionEvent<'_> {}

impl Payload for ExtensionEvent<'_> {
    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind::ExtensionEvent
    }

    fn detail(&self) -> u16 {
        let length = u8::try_from(self.data().len()).unwrap_or(Self::MOST);
        u16::from_le_bytes([self.part, pack(length, self.provider)])
    }

    fn size(&self) -> usize {
        self.data().len().saturating_add(Self::FIXED)
    }

    fn encode(&self, out: &mut [u8]) {
        let mut to = Writer(out);
        to.put(self.session.to_le_bytes());
        to.put(self.code.to_le_bytes());
        to.put(self.value.to_le_bytes());
        to.put_slice(self.data());
    }
}

/// A registration of a socket for an extension interface began or ended while the socket lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtensionChange {
    /// The session's number.
    pub session: u64,
    /// As of [`ExtensionEvent`].
    pub part: u8,
    /// As of [`ExtensionEvent`].
    pub provider: u8,
    /// It has ended.
    pub detached: bool,
    /// How often it has called back.
    pub callbacks: u64,
}

impl ExtensionChange {
    const SIZE: usize = 8 + 8;

    /// What `detail` and `payload` of a record of this kind say.
    pub fn decode(detail: u16, payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let [part, packed] = detail.to_le_bytes();
        let (detached, provider) = unpack(packed);
        Some(Self {
            session: u64::from_le_bytes(from.get()?),
            part,
            provider,
            detached: detached != 0,
            callbacks: u64::from_le_bytes(from.get()?),
        })
    }
}

const_assert!(ExtensionChange::SIZE <= OBJECT_PAYLOAD);

impl sealed::Sealed for ExtensionChange {}

impl Payload for ExtensionChange {
    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind::ExtensionChange
    }

    fn detail(&self) -> u16 {
        u16::from_le_bytes([self.part, pack(u8::from(self.detached), self.provider)])
    }

    fn size(&self) -> usize {
        Self::SIZE
    }

    fn encode(&self, out: &mut [u8]) {
        let mut to = Writer(out);
        to.put(self.session.to_le_bytes());
        to.put(self.callbacks.to_le_bytes());
    }
}
