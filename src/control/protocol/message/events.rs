//! Events on the wire, made from the table of [`Event`]s: a new event needs nothing here.
//!
//! An event is an array: its id, when it was, then its fields in the table's order. Fields are only ever added at the
//! end, so an older client ignores what it does not know, and a newer one does without.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use minicbor::data::Type as Major;
use minicbor::{Decoder, Encoder, encode};

use super::records::Loss;
use super::wire::{Buffer, Item, Malformed, NoRoom, Type, What, Writer, array, guid, skip, unsigned};
use super::{EVENTS, head};
use crate::trace::events::{Meta, Value};
use crate::trace::{Event, Guid};

/// Gathers events in a message of their own.
#[derive(Debug)]
pub struct Batch<'b> {
    buffer: Buffer<'b>,
    /// Where the count of events stands.
    count_at: usize,
    count: u16,
}

/// An array with its length in two bytes, whatever it is.
const ARRAY_16: u8 = 0x99;

impl<'b> Batch<'b> {
    /// Begins a message for the subscription with that id, after `first` events that were sent before. `lost` is what
    /// was lost since the message before.
    ///
    /// # Errors
    /// There is no room for that much.
    pub fn begin(
        buffer: &'b mut [u8],
        subscription: u64,
        first: u64,
        lost: impl Iterator<Item = Loss> + Clone,
        snapshot_end: bool,
    ) -> Result<Self, NoRoom> {
        let mut buffer = Buffer::new(buffer);
        let mut writer = Encoder::new(&mut buffer);
        head(EVENTS, Some(subscription), &mut writer)?;
        let losses = lost.clone().count();
        let further = [losses > 0, snapshot_end].map(u64::from);
        writer.map(further.into_iter().fold(2, u64::saturating_add))?;
        writer.u8(0)?.u64(first)?;
        if losses > 0 {
            writer.u8(1)?.array(losses as u64)?;
            for loss in lost {
                loss.encode(&mut writer)?;
            }
        }
        if snapshot_end {
            writer.u8(2)?.bool(true)?;
        }
        writer.u8(3)?;
        encode::Write::write_all(writer.writer_mut(), &[ARRAY_16])?;
        let count_at = buffer.used;
        encode::Write::write_all(&mut &mut buffer, &[0; 2])?;
        Ok(Self { buffer, count_at, count: 0 })
    }

    /// Adds an event, and when it was: in units of 100 ns since 1601, UTC.
    ///
    /// # Errors
    /// There is no room for it; those before it stay.
    pub fn push(&mut self, time: u64, event: &Event<'_>) -> Result<(), NoRoom> {
        let count = self.count.checked_add(1).ok_or(NoRoom)?;
        let used = self.buffer.used;
        let written = encode_event(time, event, &mut Encoder::new(&mut self.buffer));
        match written {
            Ok(()) => self.count = count,
            Err(NoRoom) => self.buffer.used = used,
        }
        written
    }

    /// Adds an event that was encoded before, as [`push`](Self::push) would.
    ///
    /// # Errors
    /// There is no room for it; those before it stay.
    pub fn push_encoded(&mut self, event: &Encoded<'_>) -> Result<(), NoRoom> {
        let count = self.count.checked_add(1).ok_or(NoRoom)?;
        encode::Write::write_all(&mut &mut self.buffer, event.bytes)?;
        self.count = count;
        Ok(())
    }

    /// How many events there are.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Ends the message; its length.
    pub fn finish(self) -> usize {
        let end = self.count_at.saturating_add(size_of::<u16>());
        let place = self.buffer.bytes.get_mut(self.count_at..end).unwrap_or_default();
        for (place, byte) in place.iter_mut().zip(self.count.to_be_bytes()) {
            *place = byte;
        }
        self.buffer.used
    }
}

/// An event that is encoded once, for all who want it.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'b> {
    bytes: &'b [u8],
}

impl<'b> Encoded<'b> {
    /// Encodes an event, and when it was: in units of 100 ns since 1601, UTC.
    ///
    /// # Errors
    /// There is no room for it in the buffer.
    pub fn new(buffer: &'b mut [u8], time: u64, event: &Event<'_>) -> Result<Self, NoRoom> {
        let mut buffer = Buffer::new(buffer);
        encode_event(time, event, &mut Encoder::new(&mut buffer))?;
        let Buffer { bytes, used } = buffer;
        Ok(Self { bytes: bytes.get(..used).unwrap_or_default() })
    }

    /// Takes up what [`bytes`](Self::bytes) gave.
    pub const fn from_bytes(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    /// The event as it goes into messages.
    pub const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }
}

fn encode_event(time: u64, event: &Event<'_>, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
    let mut fields = 0_u64;
    event.fields(|_, _| fields = fields.saturating_add(1));
    writer.array(fields.saturating_add(2))?.u16(event.id())?.u64(time)?;
    let mut written = Ok(());
    event.fields(|_, value| {
        if written.is_ok() {
            written = encode_value(value, writer);
        }
    });
    written
}

fn encode_value(value: Value<'_>, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
    match value {
        Value::Bool(value) => value.encode(writer),
        Value::Unsigned(value) => value.encode(writer),
        Value::NtStatus(value) => value.encode(writer),
        Value::Guid(value) => value.encode(writer),
        Value::Address(value) => value.encode(writer),
        Value::Bytes(value) => value.encode(writer),
        Value::Text(value) => value.encode(writer),
        Value::Named(value, _) => value.encode(writer),
        Value::Wide(units) => {
            let text = || {
                char::decode_utf16(units.iter().copied())
                    .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            };
            let length = text().map(|character| character.len_utf8() as u64).fold(0, u64::saturating_add);
            writer.str_len(length)?;
            let mut place = [0; 4];
            for character in text() {
                let bytes = character.encode_utf8(&mut place).as_bytes();
                encode::Write::write_all(writer.writer_mut(), bytes)?;
            }
            Ok(())
        }
    }
}

/// Events that stay encoded. They have been looked at, every one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct EventList<'a> {
    bytes: &'a [u8],
    count: u64,
}

impl<'a> EventList<'a> {
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = EventRecord<'a>> + use<'a> {
        let mut reader = Decoder::new(self.bytes);
        (0..self.count).map_while(move |_| EventRecord::decode(&mut reader).ok())
    }
}

impl core::fmt::Debug for EventList<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> Item<'a> for EventList<'a> {
    const TYPE: Type = Type::Events;

    fn encode(&self, writer: &mut Writer<'_, '_>) -> Result<(), NoRoom> {
        writer.array(self.count)?;
        encode::Write::write_all(writer.writer_mut(), self.bytes)
    }

    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = array(reader)?;
        let start = reader.position();
        for _ in 0..count {
            EventRecord::decode(reader)?;
        }
        Ok(Self { bytes: reader.input().get(start..reader.position()).unwrap_or_default(), count })
    }
}

/// An event as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventRecord<'a> {
    pub id: u16,
    /// When it was, in units of 100 ns since 1601, UTC.
    pub time: u64,
    fields: &'a [u8],
    count: u64,
}

/// A field's value as it came. What its number or its bytes mean is told by the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventValue<'a> {
    Bool(bool),
    Unsigned(u64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Nothing that this version knows.
    Other,
}

impl EventValue<'_> {
    /// As an address, if it can be one.
    pub fn address(&self) -> Option<IpAddr> {
        let Self::Bytes(bytes) = self else { return None };
        let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
    }

    /// As a GUID, if it can be one.
    pub fn guid(&self) -> Option<Guid> {
        let Self::Bytes(bytes) = self else { return None };
        <[u8; 16]>::try_from(*bytes).ok().map(guid)
    }
}

impl<'a> EventRecord<'a> {
    fn decode(reader: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let at = reader.position();
        let count = array(reader)?;
        let count = count.checked_sub(2).ok_or(Malformed { at, key: None, what: What::Range })?;
        let id = u16::decode(reader)?;
        let time = u64::decode(reader)?;
        let start = reader.position();
        for _ in 0..count {
            skip(reader)?;
        }
        let fields = reader.input().get(start..reader.position()).unwrap_or_default();
        Ok(Self { id, time, fields, count })
    }

    /// What this version knows of the event.
    pub fn meta(&self) -> Option<&'static Meta> {
        Event::TABLE.iter().find(|meta| meta.id == self.id)
    }

    /// The values, in the order of the table's fields.
    pub fn values(&self) -> impl Iterator<Item = EventValue<'a>> + use<'a> {
        let mut reader = Decoder::new(self.fields);
        (0..self.count).map_while(move |_| value(&mut reader).ok())
    }
}

fn value<'a>(reader: &mut Decoder<'a>) -> Result<EventValue<'a>, Malformed> {
    let there = reader.datatype().unwrap_or(Major::Undefined);
    match there {
        Major::Bool => bool::decode(reader).map(EventValue::Bool),
        Major::U8 | Major::U16 | Major::U32 | Major::U64 => {
            unsigned(reader, u64::MAX).map(EventValue::Unsigned)
        }
        Major::String => <&str>::decode(reader).map(EventValue::Text),
        Major::Bytes => <&[u8]>::decode(reader).map(EventValue::Bytes),
        _ => skip(reader).map(|()| EventValue::Other),
    }
}
