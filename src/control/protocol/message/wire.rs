//! CBOR (RFC 8949) by tables: a record is a map with integer keys.
//!
//! What is written is definite, in the shortest form, with ascending keys. What is read may have its keys in any order
//! and such as are not known, which are skipped with whatever they hold; lengths must be definite, and nothing is
//! believed before it is there. Decoded texts, bytes and lists borrow from the message.
#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::net::IpAddr;

use minicbor::data::Type as Major;
use minicbor::{Decoder, Encoder, decode, encode};

use super::wire;
use crate::control::protocol::named;
use crate::control::protocol::role::Role;
use crate::policy::{Action, Direction};
use crate::trace::events::{FailMode, Origin, Provider};
use crate::trace::{Guid, NtStatus};

/// There is no room for what was to be written; the buffer holds nothing that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for the message")
    }
}

impl core::error::Error for NoRoom {}

impl From<encode::Error<Self>> for NoRoom {
    fn from(_: encode::Error<Self>) -> Self {
        Self
    }
}

/// Why a message was not taken, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// The byte of the message, from 0.
    pub at: usize,
    /// The key that it stands under, the outermost below the message's own.
    pub key: Option<u32>,
    pub what: What,
}

named! {
    /// What is wrong with a message.
    What {
        /// It ends within something.
        Ends = 0 "ends-early",
        /// Something else stands where another type is due.
        Type = 1 "wrong-type",
        /// A number is out of its range.
        Range = 2 "out-of-range",
        /// A key is missing.
        Missing = 3 "missing-key",
        /// A key stands twice.
        Twice = 4 "key-twice",
        /// A length is indefinite, or a value reserved.
        Form = 5 "wrong-form",
        /// A text is not UTF-8.
        Text = 6 "not-utf-8",
        /// Something follows.
        Trailing = 7 "trailing-bytes",
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)?;
        self.key.map_or(Ok(()), |key| write!(f, ", key {key}"))
    }
}

impl core::error::Error for Malformed {}

impl Malformed {
    pub(super) fn new(at: usize, what: What) -> Self {
        Self { at, key: None, what }
    }

    pub(super) fn under(self, key: u32) -> Self {
        Self { key: Some(key), ..self }
    }
}

/// What a value may be, for documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Bool,
    /// An unsigned integer of so many bits.
    Unsigned(u32),
    Text,
    Bytes,
    /// So many bytes.
    Exactly(usize),
    /// 4 or 16 bytes.
    Address,
    /// An unsigned integer, with a name for each value.
    Named(&'static str, &'static [named::Value]),
    /// A map.
    Record(&'static str),
    /// An array.
    List(&'static Self),
    /// An array of arrays.
    Events,
}

/// A key of a record, for documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub key: u32,
    pub name: &'static str,
    pub kind: Type,
    pub optional: bool,
    /// What the number counts; empty for what has no unit.
    pub unit: &'static str,
    pub doc: &'static str,
}

/// A record, for documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

/// Writes into a buffer of the caller's.
#[derive(Debug)]
pub(super) struct Buffer<'b> {
    pub(super) bytes: &'b mut [u8],
    pub(super) used: usize,
}

impl encode::Write for &mut Buffer<'_> {
    type Error = NoRoom;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let end = self.used.checked_add(bytes.len()).ok_or(NoRoom)?;
        let place = self.bytes.get_mut(self.used..end).ok_or(NoRoom)?;
        for (place, byte) in place.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.used = end;
        Ok(())
    }
}

impl<'b> Buffer<'b> {
    pub(super) fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, used: 0 }
    }
}

pub(super) type Writer<'w, 'b> = Encoder<&'w mut Buffer<'b>>;

/// A value on the wire.
pub(super) trait Item<'a>: Sized {
    const TYPE: Type;
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom>;
    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed>;
}

/// What a record has under a key.
pub(super) trait Field<'a>: Sized {
    const KIND: Type;
    const OPTIONAL: bool;
    fn is_present(&self) -> bool;
    fn write(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom>;
    fn read(reader: &mut Decoder<'a>) -> Result<Self, Malformed>;
    fn absent() -> Option<Self>;
}

impl<'a, T: Item<'a>> Field<'a> for T {
    const KIND: Type = T::TYPE;
    const OPTIONAL: bool = false;
    fn is_present(&self) -> bool {
        true
    }
    fn write(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        Item::encode(self, writer)
    }
    fn read(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Item::decode(reader)
    }
    fn absent() -> Option<Self> {
        None
    }
}

impl<'a, T: Item<'a>> Field<'a> for Option<T> {
    const KIND: Type = T::TYPE;
    const OPTIONAL: bool = true;
    fn is_present(&self) -> bool {
        self.is_some()
    }
    fn write(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        self.as_ref().map_or(Ok(()), |value| value.encode(writer))
    }
    fn read(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        T::decode(reader).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Reads something of minicbor's. Its errors have texts and no numbers: what went wrong is told from what is there.
fn take<'a, T>(
    reader: &mut Decoder<'a>,
    expected: impl Fn(Major) -> bool,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, decode::Error>,
) -> Result<T, Malformed> {
    let at = reader.position();
    let there = reader.datatype().map_err(|_| Malformed::new(at, What::Ends))?;
    if !expected(there) {
        return Err(Malformed::new(at, if is_definite(there) { What::Type } else { What::Form }));
    }
    read(reader).map_err(|error| {
        let what = if error.is_end_of_input() {
            What::Ends
        } else if there == Major::String {
            What::Text
        } else {
            What::Range
        };
        Malformed::new(at, what)
    })
}

const fn is_definite(there: Major) -> bool {
    !matches!(
        there,
        Major::BytesIndef
            | Major::StringIndef
            | Major::ArrayIndef
            | Major::MapIndef
            | Major::Break
            | Major::Unknown(_)
    )
}

const fn is_unsigned(there: Major) -> bool {
    matches!(there, Major::U8 | Major::U16 | Major::U32 | Major::U64)
}

pub(super) fn unsigned(reader: &mut Decoder<'_>, most: u64) -> Result<u64, Malformed> {
    let at = reader.position();
    let number = take(reader, is_unsigned, Decoder::u64)?;
    if number <= most { Ok(number) } else { Err(Malformed::new(at, What::Range)) }
}

fn definite<'a>(
    reader: &mut Decoder<'a>,
    major: Major,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<Option<u64>, decode::Error>,
) -> Result<u64, Malformed> {
    let at = reader.position();
    take(reader, |there| there == major, read)?.ok_or(Malformed::new(at, What::Form))
}

pub(super) fn array(reader: &mut Decoder<'_>) -> Result<u64, Malformed> {
    definite(reader, Major::Array, Decoder::array)
}

pub(super) fn map(reader: &mut Decoder<'_>) -> Result<u64, Malformed> {
    definite(reader, Major::Map, Decoder::map)
}

/// Skips one value and all that is in it.
pub(super) fn skip(reader: &mut Decoder<'_>) -> Result<(), Malformed> {
    let mut left = 1_u64;
    while left > 0 {
        let at = reader.position();
        let there = reader.datatype().map_err(|_| Malformed::new(at, What::Ends))?;
        let inside = match there {
            Major::Array => array(reader)?,
            Major::Map => map(reader)?.saturating_mul(2),
            Major::Tag => take(reader, |_| true, Decoder::tag).map(|_| 1)?,
            Major::Bytes => take(reader, |_| true, Decoder::bytes).map(|_| 0)?,
            Major::String => take(reader, |_| true, Decoder::str).map(|_| 0)?,
            there if is_definite(there) => take(reader, |_| true, Decoder::skip).map(|()| 0)?,
            _ => return Err(Malformed::new(at, What::Form)),
        };
        left = left.saturating_sub(1).saturating_add(inside);
    }
    Ok(())
}

/// A record's next key; `None` for one that no record has, which has been skipped.
pub(super) fn key(reader: &mut Decoder<'_>) -> Result<Option<u32>, Malformed> {
    let at = reader.position();
    let there = reader.datatype().map_err(|_| Malformed::new(at, What::Ends))?;
    if is_unsigned(there) {
        return unsigned(reader, u64::MAX).map(|key| u32::try_from(key).ok());
    }
    skip(reader).map(|()| None)
}

pub(super) fn missing(reader: &Decoder<'_>, key: u32) -> Malformed {
    Malformed::new(reader.position(), What::Missing).under(key)
}

pub(super) fn twice(at: usize, key: u32) -> Malformed {
    Malformed::new(at, What::Twice).under(key)
}

/// That nothing is left.
pub(super) fn end(reader: &Decoder<'_>) -> Result<(), Malformed> {
    let at = reader.position();
    if at == reader.input().len() { Ok(()) } else { Err(Malformed::new(at, What::Trailing)) }
}

macro_rules! numbers {
    ($($type:ident)+) => {$(
        impl Item<'_> for $type {
            const TYPE: Type = Type::Unsigned($type::BITS);
            fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
                writer.u64(u64::from(*self))?;
                Ok(())
            }
            fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
                let at = reader.position();
                let number = unsigned(reader, u64::from($type::MAX))?;
                $type::try_from(number).map_err(|_| Malformed::new(at, What::Range))
            }
        }
    )+};
}

numbers! { u8 u16 u32 u64 }

macro_rules! choices {
    ($($type:ident, $from:path, $values:expr;)+) => {$(
        impl Item<'_> for $type {
            const TYPE: Type = Type::Named(stringify!($type), $values);
            fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
                writer.u8(*self as u8)?;
                Ok(())
            }
            fn decode(reader: &mut minicbor::Decoder<'_>) -> Result<Self, Malformed> {
                let at = reader.position();
                $from(<u8 as Item>::decode(reader)?).ok_or(Malformed::new(at, wire::What::Range))
            }
        }
    )+};
}
pub(super) use choices;

const fn direction(number: u8) -> Option<Direction> {
    match number {
        0 => Some(Direction::In),
        1 => Some(Direction::Out),
        _ => None,
    }
}

choices! {
    Role, Role::from_number, Role::VALUES;
    What, What::from_number, What::VALUES;
    Action, Action::from_byte, &[
        (0, "allow", "It is permitted."),
        (1, "block", "It is blocked."),
        (2, "audit", "It passes without being permitted, and is recorded."),
    ];
    Direction, direction, &[(0, "in", "The other side opens it."), (1, "out", "This side opens it.")];
    FailMode, FailMode::from_number, &[(0, "open", "They pass."), (1, "closed", "They are blocked.")];
    Provider, Provider::from_number, &[
        (0, "wsk", "Winsock Kernel."),
        (1, "nmr", "A vendor's module."),
        (2, "builtin", "weir itself."),
    ];
    Origin, Origin::from_number, &[
        (0, "default", "The driver's default."),
        (1, "registry", "The service's own key."),
        (2, "policy", "The key of policies."),
    ];
}

impl Item<'_> for bool {
    const TYPE: Type = Type::Bool;
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.bool(*self)?;
        Ok(())
    }
    fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
        take(reader, |there| there == Major::Bool, Decoder::bool)
    }
}

impl Item<'_> for NtStatus {
    const TYPE: Type = Type::Unsigned(32);
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        Item::encode(&self.0.cast_unsigned(), writer)
    }
    fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
        <u32 as Item>::decode(reader).map(|status| Self(status.cast_signed()))
    }
}

impl<'a> Item<'a> for &'a str {
    const TYPE: Type = Type::Text;
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.str(self)?;
        Ok(())
    }
    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        take(reader, |there| there == Major::String, Decoder::str)
    }
}

impl<'a> Item<'a> for &'a [u8] {
    const TYPE: Type = Type::Bytes;
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.bytes(self)?;
        Ok(())
    }
    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        take(reader, |there| there == Major::Bytes, Decoder::bytes)
    }
}

impl<const N: usize> Item<'_> for [u8; N] {
    const TYPE: Type = Type::Exactly(N);
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.bytes(self)?;
        Ok(())
    }
    fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let at = reader.position();
        <&[u8]>::decode(reader)?.try_into().map_err(|_| Malformed::new(at, What::Range))
    }
}

impl Item<'_> for Guid {
    const TYPE: Type = Type::Exactly(16);
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        let number = u128::from(self.data1) << 96
            | u128::from(self.data2) << 80
            | u128::from(self.data3) << 64
            | u128::from(u64::from_be_bytes(self.data4));
        writer.bytes(&number.to_be_bytes())?;
        Ok(())
    }
    fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
        <[u8; 16]>::decode(reader).map(guid)
    }
}

/// A GUID in the order in which it is printed.
pub(super) fn guid(bytes: [u8; 16]) -> Guid {
    let number = u128::from_be_bytes(bytes);
    // What is left of the number fits each time.
    Guid {
        data1: u32::try_from(number >> 96).unwrap_or_default(),
        data2: u16::try_from(number >> 80 & 0xFFFF).unwrap_or_default(),
        data3: u16::try_from(number >> 64 & 0xFFFF).unwrap_or_default(),
        data4: u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default().to_be_bytes(),
    }
}

impl Item<'_> for IpAddr {
    const TYPE: Type = Type::Address;
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        match self {
            Self::V4(address) => writer.bytes(&address.octets())?,
            Self::V6(address) => writer.bytes(&address.octets())?,
        };
        Ok(())
    }
    fn decode(reader: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let at = reader.position();
        let bytes = <&[u8]>::decode(reader)?;
        let v4 = <[u8; 4]>::try_from(bytes).map(Self::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(Self::from))
            .map_err(|_| Malformed::new(at, What::Range))
    }
}

/// An array whose items stay encoded. Those that were decoded have been looked at, every one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct List<'a, T> {
    bytes: &'a [u8],
    count: u64,
    items: PhantomData<fn() -> T>,
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self { bytes: &[], count: 0, items: PhantomData }
    }
}

#[expect(private_bounds, reason = "what can be in a list is a matter of this module")]
impl<'a, T: Item<'a>> List<'a, T> {
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut reader = Decoder::new(self.bytes);
        (0..self.count).map_while(move |_| T::decode(&mut reader).ok())
    }
}

impl<'a, T: Item<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Item<'a>> Item<'a> for List<'a, T> {
    const TYPE: Type = Type::List(&T::TYPE);
    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.array(self.count)?;
        encode::Write::write_all(writer.writer_mut(), self.bytes)
    }
    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = array(reader)?;
        let start = reader.position();
        for _ in 0..count {
            T::decode(reader)?;
        }
        let bytes = reader.input().get(start..reader.position()).unwrap_or_default();
        Ok(Self { bytes, count, items: PhantomData })
    }
}

/// Gathers a list in a buffer, as far as there is room. Its items are all of one type.
#[derive(Debug)]
pub struct ListWriter<'b> {
    buffer: Buffer<'b>,
    count: u64,
}

#[expect(private_bounds, reason = "what can be in a list is a matter of this module")]
impl<'b> ListWriter<'b> {
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer: Buffer::new(buffer), count: 0 }
    }

    /// Adds an item.
    ///
    /// # Errors
    /// There is no room for it; those before it stay.
    pub fn push<'i, T: Item<'i>>(&mut self, item: &T) -> Result<(), NoRoom> {
        let used = self.buffer.used;
        let written = item.encode(&mut Encoder::new(&mut self.buffer));
        if written.is_err() {
            self.buffer.used = used;
        } else {
            self.count = self.count.saturating_add(1);
        }
        written
    }

    /// The list.
    pub fn finish<T: Item<'b>>(self) -> List<'b, T> {
        let bytes: &'b [u8] = self.buffer.bytes;
        List {
            bytes: bytes.get(..self.buffer.used).unwrap_or_default(),
            count: self.count,
            items: PhantomData,
        }
    }
}

/// Declares records: maps with integer keys.
macro_rules! records {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $(<$life:lifetime>)? {
            $($(#[doc = $key_doc:literal])+ $key:literal $field:ident: $type:ty $([$unit:literal])?,)*
        }
    )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Debug)]
            pub struct $name $(<$life>)? {
                $($(#[doc = $key_doc])+ pub $field: $type,)*
            }

            impl $(<$life>)? $name $(<$life>)? {
                /// What is on the wire.
                pub const SHAPE: Shape = Shape {
                    name: stringify!($name),
                    doc: concat!($($doc),+).trim_ascii(),
                    keys: &[$(Key {
                        key: $key,
                        name: stringify!($field),
                        kind: <$type as Field>::KIND,
                        optional: <$type as Field>::OPTIONAL,
                        unit: concat!($($unit)?),
                        doc: concat!($($key_doc),+).trim_ascii(),
                    }),*],
                };
            }

            impl<'a> Item<'a> for $name $(<$life>)? {
                const TYPE: Type = Type::Record(stringify!($name));

                fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
                    let present = [$(Field::is_present(&self.$field)),*];
                    let present: &[bool] = &present;
                    writer.map(present.iter().filter(|present| **present).count() as u64)?;
                    $(if Field::is_present(&self.$field) {
                        writer.u32($key)?;
                        Field::write(&self.$field, writer)?;
                    })*
                    Ok(())
                }

                #[allow(unused_mut, unused_variables, reason = "a record may have no keys")]
                fn decode(reader: &mut minicbor::Decoder<'a>) -> Result<Self, Malformed> {
                    $(let mut $field: Option<$type> = None;)*
                    for _ in 0..wire::map(reader)? {
                        let at = reader.position();
                        match wire::key(reader)? {
                            $(Some($key) => {
                                if $field.is_some() {
                                    return Err(wire::twice(at, $key));
                                }
                                let value = <$type as Field>::read(reader);
                                $field = Some(value.map_err(|error| error.under($key))?);
                            })*
                            _ => wire::skip(reader)?,
                        }
                    }
                    Ok(Self {
                        $($field: match $field.or_else(<$type as Field>::absent) {
                            Some(value) => value,
                            None => return Err(wire::missing(reader, $key)),
                        },)*
                    })
                }
            }
        )+

        /// Every record, for documentation.
        pub const RECORDS: &[Shape] = &[$($name::SHAPE),+];
    };
}
pub(super) use records;
