//! What each event says of itself in a trace: names and types of its fields, in the format of TraceLogging, made by the
//! compiler from the table of events.
//!
//! An event's metadata is its size in bytes including this (16 bits), one byte of tags (none), its name and a zero; then
//! for each field its name and a zero, and its type in the trace (one byte, with bit 7 set if one byte follows that
//! says how to show it). Little-endian. Header `TraceLoggingProvider.h` has the numbers.
#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "the compiler evaluates all of it but `of`, and refuses what would panic"
)]

use super::PROVIDER_NAME;
use super::events::{Event, FieldMeta, Kind, Meta};

const TLG_UINT8: u8 = 4;
const TLG_UINT16: u8 = 6;
const TLG_UINT32: u8 = 8;
const TLG_UINT64: u8 = 10;
const TLG_BINARY: u8 = 14;
const TLG_GUID: u8 = 15;
const TLG_HEX_INT32: u8 = 20;
const TLG_COUNTED_STRING: u8 = 22;
const TLG_COUNTED_ANSI_STRING: u8 = 23;
const SHOWN_AS: u8 = 0x80;
const OUT_BOOLEAN: u8 = 3;
const OUT_IPV6: u8 = 9;
const OUT_NTSTATUS: u8 = 14;
const OUT_UTF8: u8 = 35;

/// How a field stands in the trace, and how it is shown (0: as its type tells).
///
/// Addresses are IPv6, IPv4 ones mapped (RFC 4291): the format has no type for either. A named value is its name.
const fn types(kind: Kind) -> (u8, u8) {
    match kind {
        Kind::Bool => (TLG_UINT8, OUT_BOOLEAN),
        Kind::U8 => (TLG_UINT8, 0),
        Kind::U16 => (TLG_UINT16, 0),
        Kind::U32 => (TLG_UINT32, 0),
        Kind::U64 => (TLG_UINT64, 0),
        Kind::NtStatus => (TLG_HEX_INT32, OUT_NTSTATUS),
        Kind::Guid => (TLG_GUID, 0),
        Kind::Address => (TLG_BINARY, OUT_IPV6),
        Kind::Bytes => (TLG_BINARY, 0),
        Kind::Text | Kind::Named(_) => (TLG_COUNTED_ANSI_STRING, OUT_UTF8),
        Kind::Wide => (TLG_COUNTED_STRING, 0),
    }
}

const fn field_size(field: &FieldMeta) -> usize {
    field.name.len() + 2 + (types(field.kind).1 != 0) as usize
}

const fn size(event: &Meta) -> usize {
    let mut size = 2 + 1 + event.name.len() + 1;
    let mut index = 0;
    while index < event.fields.len() {
        size += field_size(&event.fields[index]);
        index += 1;
    }
    size
}

const EVENTS: &[Meta] = Event::TABLE;

const TOTAL: usize = {
    let (mut total, mut index) = (0, 0);
    while index < EVENTS.len() {
        total += size(&EVENTS[index]);
        index += 1;
    }
    total
};

/// One more than the largest id.
const IDS: usize = EVENTS[EVENTS.len() - 1].id as usize + 1;

/// The metadata of all events, one after the other, and for each id where its own begins and ends, and its fields.
struct Table {
    bytes: [u8; TOTAL],
    places: [(u16, u16, &'static [FieldMeta]); IDS],
}

/// Writes text and a zero.
const fn write_name(bytes: &mut [u8], mut at: usize, name: &str) -> usize {
    let name = name.as_bytes();
    let mut index = 0;
    while index < name.len() {
        bytes[at] = name[index];
        at += 1;
        index += 1;
    }
    bytes[at] = 0;
    at + 1
}

const fn short(number: usize) -> u16 {
    assert!(number <= u16::MAX as usize);
    #[allow(clippy::cast_possible_truncation, reason = "asserted")]
    let number = number as u16;
    number
}

const fn table() -> Table {
    let mut table = Table { bytes: [0; TOTAL], places: [(0, 0, &[]); IDS] };
    let (mut at, mut index) = (0, 0);
    while index < EVENTS.len() {
        let event = &EVENTS[index];
        let end = at + size(event);
        table.places[event.id as usize] = (short(at), short(end), event.fields);
        let length = short(end - at).to_le_bytes();
        table.bytes[at] = length[0];
        table.bytes[at + 1] = length[1];
        at = write_name(&mut table.bytes, at + 3, event.name);
        let mut field = 0;
        while field < event.fields.len() {
            at = write_name(&mut table.bytes, at, event.fields[field].name);
            let (kind, shown) = types(event.fields[field].kind);
            if shown == 0 {
                table.bytes[at] = kind;
                at += 1;
            } else {
                table.bytes[at] = kind | SHOWN_AS;
                table.bytes[at + 1] = shown;
                at += 2;
            }
            field += 1;
        }
        assert!(at == end);
        index += 1;
    }
    table
}

static TABLE: Table = table();

/// The metadata of the event with this id, and its fields; empty for an id that is no event's.
pub(super) fn of(id: u16) -> (&'static [u8], &'static [FieldMeta]) {
    let (start, end, fields) = TABLE.places.get(usize::from(id)).copied().unwrap_or_default();
    (TABLE.bytes.get(usize::from(start)..usize::from(end)).unwrap_or_default(), fields)
}

const PROVIDER_SIZE: usize = 2 + PROVIDER_NAME.len() + 1;

/// The provider's traits: their size in bytes including this (16 bits), its name, a zero.
pub(super) static PROVIDER: [u8; PROVIDER_SIZE] = {
    let mut bytes = [0; PROVIDER_SIZE];
    let size = short(PROVIDER_SIZE).to_le_bytes();
    bytes[0] = size[0];
    bytes[1] = size[1];
    let _ = write_name(&mut bytes, 2, PROVIDER_NAME);
    bytes
};

/// The most bytes that an event's fields of bounded size take together.
pub(super) const MOST_BYTES: usize = {
    let (mut most, mut index) = (0, 0);
    while index < EVENTS.len() {
        let fields = EVENTS[index].fields;
        let (mut bytes, mut field) = (0, 0);
        while field < fields.len() {
            bytes += match fields[field].kind {
                Kind::Bool | Kind::U8 => 1,
                // Texts and bytes have their length here.
                Kind::U16 | Kind::Text | Kind::Wide | Kind::Bytes => 2,
                Kind::U32 | Kind::NtStatus => 4,
                Kind::U64 => 8,
                Kind::Guid => 16,
                Kind::Address => 2 + 16,
                Kind::Named(names) => {
                    let (mut longest, mut name) = (0, 0);
                    while name < names.len() {
                        if names[name].1.len() > longest {
                            longest = names[name].1.len();
                        }
                        name += 1;
                    }
                    2 + longest
                }
            };
            field += 1;
        }
        if bytes > most {
            most = bytes;
        }
        index += 1;
    }
    most
};

/// The most texts, and bytes of any number, that an event has.
pub(super) const MOST_TEXTS: usize = {
    let (mut most, mut index) = (0, 0);
    while index < EVENTS.len() {
        let fields = EVENTS[index].fields;
        let (mut texts, mut field) = (0, 0);
        while field < fields.len() {
            texts += matches!(fields[field].kind, Kind::Text | Kind::Wide | Kind::Bytes) as usize;
            field += 1;
        }
        if texts > most {
            most = texts;
        }
        index += 1;
    }
    most
};
