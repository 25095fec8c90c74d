//! An event's fields as bytes, in the order and the types that its [`metadata`] tells. Little-endian.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use super::events::{Event, FieldMeta, Kind, Value};
use super::metadata::{self, MOST_BYTES, MOST_TEXTS};

/// A text or bytes of any number, which stay where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Text<'a> {
    Bytes(&'a [u8]),
    Utf16(&'a [u16]),
}

/// The fields: bytes, and the texts that stand between them.
pub(super) struct Payload<'a> {
    bytes: [u8; MOST_BYTES],
    used: usize,
    /// Each text with how many of the bytes stand before it.
    texts: [(usize, Text<'a>); MOST_TEXTS],
    count: usize,
}

impl<'a> Payload<'a> {
    /// The fields of an event. What it costs is bounded; a text is cut at 65535 bytes.
    pub(super) fn of(event: &'a Event<'_>, fields: &[FieldMeta]) -> Self {
        let mut payload =
            Self { bytes: [0; MOST_BYTES], used: 0, texts: [(0, Text::Bytes(&[])); MOST_TEXTS], count: 0 };
        let mut fields = fields.iter();
        event.fields(|_, value| payload.field(fields.next().map(|field| field.kind), value));
        payload
    }

    fn field(&mut self, kind: Option<Kind>, value: Value<'a>) {
        match value {
            Value::Bool(it) => self.put(&[u8::from(it)]),
            Value::Unsigned(number) => {
                let width = match kind {
                    Some(Kind::U8) => 1,
                    Some(Kind::U16) => 2,
                    Some(Kind::U32) => 4,
                    _ => 8,
                };
                self.put(number.to_le_bytes().get(..width).unwrap_or_default());
            }
            Value::NtStatus(status) => self.put(&status.0.to_le_bytes()),
            Value::Guid(guid) => {
                self.put(&guid.data1.to_le_bytes());
                self.put(&guid.data2.to_le_bytes());
                self.put(&guid.data3.to_le_bytes());
                self.put(&guid.data4);
            }
            Value::Address(address) => {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                self.put(&16_u16.to_le_bytes());
                self.put(&address.octets());
            }
            Value::Text(text) => self.bytes(text.as_bytes()),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::Wide(text) => {
                let text = text.get(..usize::from(u16::MAX / 2)).unwrap_or(text);
                self.text(size_of_val(text), Text::Utf16(text));
            }
            Value::Named(_, name) => {
                self.put(&u16::try_from(name.len()).unwrap_or_default().to_le_bytes());
                self.put(name.as_bytes());
            }
        }
    }

    /// The size of the buffer is that of the event with most.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used.saturating_add(bytes.len());
        if let Some(place) = self.bytes.get_mut(self.used..end) {
            for (place, byte) in place.iter_mut().zip(bytes) {
                *place = *byte;
            }
            self.used = end;
        }
    }

    fn bytes(&mut self, bytes: &'a [u8]) {
        let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
        self.text(bytes.len(), Text::Bytes(bytes));
    }

    fn text(&mut self, size: usize, text: Text<'a>) {
        self.put(&u16::try_from(size).unwrap_or_default().to_le_bytes());
        if let Some(place) = self.texts.get_mut(self.count) {
            *place = (self.used, text);
            self.count = self.count.saturating_add(1);
        }
    }

    /// Hands over the pieces, in order.
    pub(super) fn pieces<'p>(&'p self, mut piece: impl FnMut(Text<'p>)) {
        let mut start = 0;
        for (before, text) in self.texts.iter().take(self.count) {
            piece(Text::Bytes(self.bytes.get(start..*before).unwrap_or_default()));
            piece(*text);
            start = *before;
        }
        piece(Text::Bytes(self.bytes.get(start..self.used).unwrap_or_default()));
    }
}

/// What an event consists of: its metadata, and its fields.
pub(super) fn event<'a>(event: &'a Event<'_>) -> (&'static [u8], Payload<'a>) {
    let (metadata, fields) = metadata::of(event.id());
    (metadata, Payload::of(event, fields))
}
