//! Decodes the events of a TraceLogging provider from what it hands to `EtwWriteTransfer`.
//!
//! Such an event describes itself: beside its fields it carries its name and, for each field, a name and a type. The
//! encoding is that of `TraceLoggingProvider.h` (Windows SDK): a data descriptor of type 2 holds the provider's traits,
//! one of type 1 the event's metadata, and all others, one after the other, the values of the fields.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::Ipv6Addr;

use serde_json::{Map, Value};

/// `EVENT_DATA_DESCRIPTOR_TYPE_NONE`: values of fields.
pub const TYPE_NONE: u8 = 0;
/// `EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA`.
pub const TYPE_EVENT_METADATA: u8 = 1;
/// `EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA`.
pub const TYPE_PROVIDER_METADATA: u8 = 2;

/// What an event cannot be decoded for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It has no descriptor of type 1.
    NoMetadata,
    /// The metadata or the traits end before what they must hold, or their length is wrong.
    Metadata,
    /// A field has a type that is none.
    FieldType(u8),
    /// The values end before the fields do.
    Values,
    /// Bytes are left when all fields have their value.
    Rest(usize),
}

/// A decoded event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// From the traits; `None` if the event came without.
    pub provider: Option<String>,
    pub name: String,
    pub fields: Map<String, Value>,
}

/// Decodes an event from its data descriptors: the type and the bytes of each.
pub fn decode(descriptors: &[(u8, &[u8])]) -> Result<Event, Malformed> {
    let of = |kind| descriptors.iter().find(|(type_, _)| *type_ == kind).map(|(_, bytes)| *bytes);
    let provider = of(TYPE_PROVIDER_METADATA).map(provider_name).transpose()?;
    let metadata = of(TYPE_EVENT_METADATA).ok_or(Malformed::NoMetadata)?;
    let values: Vec<u8> =
        descriptors.iter().filter(|(type_, _)| *type_ == TYPE_NONE).flat_map(|(_, b)| *b).copied().collect();
    let mut metadata = Bytes(sized(metadata)?);
    // Tags of the event: bytes of which all but the last have their top bit set.
    while metadata.u8()? & 0x80 != 0 {}
    let name = metadata.text()?;
    let mut values = Values(&values);
    let mut fields = Map::new();
    while !metadata.0.is_empty() {
        field(&mut metadata, &mut values, &mut fields)?;
    }
    match values.0.len() {
        0 => Ok(Event { provider, name, fields }),
        rest => Err(Malformed::Rest(rest)),
    }
}

/// The name in a provider's traits.
pub fn provider_name(traits: &[u8]) -> Result<String, Malformed> {
    Bytes(sized(traits)?).text()
}

/// What follows a length of two bytes, which counts itself.
fn sized(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut rest = Bytes(bytes);
    let length = rest.u16()?;
    if usize::from(length) == bytes.len() { Ok(rest.0) } else { Err(Malformed::Metadata) }
}

/// The metadata that is left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed::Metadata)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// UTF-8 up to a zero.
    fn text(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed::Metadata)?;
        let text = self.take(end + 1)?;
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }
}

/// The values that are left.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed::Values)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Values)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Bytes behind their count.
    fn counted(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u16()?;
        self.take(count.into())
    }
}

// enum TlgIn_t.
const IN_UNICODE_STRING: u8 = 1;
const IN_ANSI_STRING: u8 = 2;
const IN_INT8: u8 = 3;
const IN_UINT8: u8 = 4;
const IN_INT16: u8 = 5;
const IN_UINT16: u8 = 6;
const IN_INT32: u8 = 7;
const IN_UINT32: u8 = 8;
const IN_INT64: u8 = 9;
const IN_UINT64: u8 = 10;
const IN_FLOAT: u8 = 11;
const IN_DOUBLE: u8 = 12;
const IN_BOOL32: u8 = 13;
const IN_BINARY: u8 = 14;
const IN_GUID: u8 = 15;
const IN_FILETIME: u8 = 17;
const IN_SYSTEMTIME: u8 = 18;
const IN_SID: u8 = 19;
const IN_HEX_INT32: u8 = 20;
const IN_HEX_INT64: u8 = 21;
const IN_COUNTED_STRING: u8 = 22;
const IN_COUNTED_ANSI_STRING: u8 = 23;
const IN_STRUCT: u8 = 24;
const IN_COUNTED_BINARY: u8 = 25;
/// Flags beside the type.
const IN_TYPE: u8 = 0x1F;
const IN_COUNT: u8 = 0x60;
const COUNT_CONSTANT: u8 = 0x20;
const COUNT_VARIABLE: u8 = 0x40;
const COUNT_CUSTOM: u8 = 0x60;
const CHAIN: u8 = 0x80;

// enum TlgOut_t.
const OUT_BOOLEAN: u8 = 3;
const OUT_HEX: u8 = 4;
const OUT_PORT: u8 = 7;
const OUT_IPV4: u8 = 8;
const OUT_IPV6: u8 = 9;

/// Reads the description of one field, then its value.
fn field(
    metadata: &mut Bytes<'_>,
    values: &mut Values<'_>,
    into: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    let name = metadata.text()?;
    let in_ = metadata.u8()?;
    let mut out = 0;
    if in_ & CHAIN != 0 {
        out = metadata.u8()?;
        if out & CHAIN != 0 {
            while metadata.u8()? & 0x80 != 0 {}
        }
    }
    let (type_, out) = (in_ & IN_TYPE, out & !CHAIN);
    let count = match in_ & IN_COUNT {
        COUNT_CONSTANT => Some(metadata.u16()?),
        COUNT_VARIABLE => Some(values.u16()?),
        COUNT_CUSTOM => return Err(Malformed::FieldType(in_)),
        _ => None,
    };
    let value = match count {
        _ if type_ == IN_STRUCT => structure(metadata, values, out, count)?,
        None => single(values, type_, out)?,
        Some(count) => {
            Value::Array((0..count).map(|_| single(values, type_, out)).collect::<Result<_, _>>()?)
        }
    };
    into.insert(name, value);
    Ok(())
}

/// A structure is described once, whatever number of them follows; its out type is the number of its fields.
fn structure(
    metadata: &mut Bytes<'_>,
    values: &mut Values<'_>,
    fields: u8,
    count: Option<u16>,
) -> Result<Value, Malformed> {
    let mut one = |metadata: &mut Bytes<'_>| {
        let mut into = Map::new();
        for _ in 0..fields {
            field(metadata, values, &mut into)?;
        }
        Ok(Value::Object(into))
    };
    let Some(count) = count else {
        return one(metadata);
    };
    if count == 0 {
        // Where the description ends could only be told with values at hand.
        return Err(Malformed::Values);
    }
    let start = metadata.0;
    let mut all = Vec::new();
    for _ in 0..count {
        metadata.0 = start;
        all.push(one(metadata)?);
    }
    Ok(Value::Array(all))
}

fn single(values: &mut Values<'_>, type_: u8, out: u8) -> Result<Value, Malformed> {
    Ok(match type_ {
        IN_UNICODE_STRING => {
            let mut units = Vec::new();
            loop {
                match values.u16()? {
                    0 => break,
                    unit => units.push(unit),
                }
            }
            String::from_utf16_lossy(&units).into()
        }
        IN_ANSI_STRING => {
            let end = values.0.iter().position(|byte| *byte == 0).ok_or(Malformed::Values)?;
            let text = values.take(end + 1)?;
            String::from_utf8_lossy(&text[..end]).into()
        }
        IN_COUNTED_STRING => {
            let units: Vec<u16> = values
                .counted()?
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .collect();
            String::from_utf16_lossy(&units).into()
        }
        IN_COUNTED_ANSI_STRING => String::from_utf8_lossy(values.counted()?).into(),
        IN_BINARY | IN_COUNTED_BINARY => binary(values.counted()?, out),
        IN_INT8 => signed(i8::from_le_bytes(values.array()?)),
        IN_INT16 => signed(i16::from_le_bytes(values.array()?)),
        IN_INT32 => signed(i32::from_le_bytes(values.array()?)),
        IN_INT64 => signed(i64::from_le_bytes(values.array()?)),
        IN_UINT8 => unsigned(u8::from_le_bytes(values.array()?), out),
        IN_UINT16 if out == OUT_PORT => u16::from_be_bytes(values.array()?).into(),
        IN_UINT16 => unsigned(u16::from_le_bytes(values.array()?), out),
        IN_UINT32 if out == OUT_IPV4 => {
            let [a, b, c, d] = values.array()?;
            format!("{a}.{b}.{c}.{d}").into()
        }
        IN_UINT32 => unsigned(u32::from_le_bytes(values.array()?), out),
        IN_UINT64 => unsigned(u64::from_le_bytes(values.array()?), out),
        IN_HEX_INT32 => unsigned(u32::from_le_bytes(values.array()?), OUT_HEX),
        IN_HEX_INT64 => unsigned(u64::from_le_bytes(values.array()?), OUT_HEX),
        IN_FLOAT => f64::from(f32::from_le_bytes(values.array()?)).into(),
        IN_DOUBLE => f64::from_le_bytes(values.array()?).into(),
        IN_BOOL32 => (i32::from_le_bytes(values.array()?) != 0).into(),
        IN_GUID => guid(values.array()?).into(),
        IN_FILETIME => u64::from_le_bytes(values.array()?).into(),
        IN_SYSTEMTIME => hex(values.take(16)?).into(),
        IN_SID => sid(values)?.into(),
        other => return Err(Malformed::FieldType(other)),
    })
}

fn signed(value: impl Into<i64>) -> Value {
    value.into().into()
}

fn unsigned(value: impl Into<u64>, out: u8) -> Value {
    let value = value.into();
    match out {
        OUT_HEX => format!("{value:#x}").into(),
        OUT_BOOLEAN => (value != 0).into(),
        _ => value.into(),
    }
}

/// Bytes in hexadecimal digits; an address as addresses are written.
fn binary(bytes: &[u8], out: u8) -> Value {
    match <[u8; 16]>::try_from(bytes) {
        Ok(address) if out == OUT_IPV6 => Ipv6Addr::from(address).to_string().into(),
        _ => hex(bytes).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A String takes all that is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A GUID as it lies in memory, in the registry's spelling.
pub fn guid(bytes: [u8; 16]) -> String {
    // The first three members are little-endian numbers.
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits = hex(&ORDER.map(|index| bytes[index]));
    format!(
        "{{{}-{}-{}-{}-{}}}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}

fn sid(values: &mut Values<'_>) -> Result<String, Malformed> {
    let [revision, count] = values.array()?;
    let authority: [u8; 6] = values.array()?;
    let authority = authority.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let mut text = format!("S-{revision}-{authority}");
    for _ in 0..count {
        let part = u32::from_le_bytes(values.array()?);
        text.push('-');
        text.push_str(&part.to_string());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use serde_json::json;

    /// A block behind its length.
    fn block(parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let length = u16::try_from(body.len() + 2).expect("a short block");
        [&length.to_le_bytes()[..], &body].concat()
    }

    fn fields_of(description: &[&[u8]], values: &[&[u8]]) -> Result<Map<String, Value>, Malformed> {
        let mut parts: Vec<&[u8]> = vec![&[0], b"E\0"];
        parts.extend(description);
        let metadata = block(&parts);
        let mut descriptors: Vec<(u8, &[u8])> = vec![(TYPE_EVENT_METADATA, &metadata)];
        descriptors.extend(values.iter().map(|bytes| (TYPE_NONE, *bytes)));
        decode(&descriptors).map(|event| event.fields)
    }

    #[test]
    fn an_event_names_its_provider_itself_and_its_fields() {
        // The traits and the metadata that TraceLoggingProvider.h makes of
        // TraceLoggingWrite(provider, "Started", TraceLoggingUInt32(7, "Count"), TraceLoggingString("x", "Text")).
        let traits = b"\x0e\0Weir.Driver\0";
        let metadata = b"\x18\0\0Started\0Count\0\x08Text\0\x02";
        let event = decode(&[
            (TYPE_PROVIDER_METADATA, traits),
            (TYPE_EVENT_METADATA, metadata),
            (TYPE_NONE, &7u32.to_le_bytes()),
            (TYPE_NONE, b"x\0"),
        ])
        .expect("well formed");
        assert_eq!(event.provider.as_deref(), Some("Weir.Driver"));
        assert_eq!(event.name, "Started");
        assert_eq!(Value::Object(event.fields), json!({"Count": 7, "Text": "x"}));
    }

    #[test]
    fn each_type_is_read_in_its_own_size() {
        let fields = fields_of(
            &[
                b"i8\0\x03",
                b"u8\0\x04",
                b"i16\0\x05",
                b"u16\0\x06",
                b"i32\0\x07",
                b"i64\0\x09",
                b"u64\0\x0a",
                b"f\0\x0b",
                b"d\0\x0c",
                b"b\0\x0d",
                b"h32\0\x14",
                b"h64\0\x15",
                b"after\0\x04",
            ],
            &[
                &[0xFF],
                &[200],
                &(-300i16).to_le_bytes(),
                &60_000u16.to_le_bytes(),
                &(-70_000i32).to_le_bytes(),
                &(-5_000_000_000i64).to_le_bytes(),
                &u64::MAX.to_le_bytes(),
                &1.5f32.to_le_bytes(),
                &2.25f64.to_le_bytes(),
                &1u32.to_le_bytes(),
                &0xBEEFu32.to_le_bytes(),
                &0xF00Du64.to_le_bytes(),
                &[9],
            ],
        );
        assert_eq!(
            fields.map(Value::Object),
            Ok(json!({
                "i8": -1, "u8": 200, "i16": -300, "u16": 60_000, "i32": -70_000, "i64": -5_000_000_000i64,
                "u64": u64::MAX, "f": 1.5, "d": 2.25, "b": true, "h32": "0xbeef", "h64": "0xf00d", "after": 9
            }))
        );
    }

    #[test]
    fn strings_and_bytes_end_where_they_say() {
        let fields = fields_of(
            &[b"wide\0\x01", b"narrow\0\x02", b"cw\0\x16", b"cn\0\x17", b"bin\0\x0e", b"after\0\x04"],
            &[
                &[b'h', 0, 0xE9, 0, 0, 0],
                b"abc\0",
                &[4, 0, b'o', 0, b'k', 0],
                &[2, 0, b'n', b'o'],
                &[3, 0, 1, 2, 0xFF],
                &[9],
            ],
        );
        assert_eq!(
            fields.map(Value::Object),
            Ok(json!({"wide": "hé", "narrow": "abc", "cw": "ok", "cn": "no", "bin": "0102ff", "after": 9}))
        );
    }

    #[test]
    fn addresses_ports_flags_and_identifiers_are_worded() {
        let v6: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let guid =
            [0x74, 0xEA, 0xEE, 0x68, 0xE9, 0x36, 0xB6, 0x51, 0xD5, 0x9B, 0xEB, 1, 0x98, 0xBE, 0x0A, 0xFF];
        let fields = fields_of(
            &[
                b"v4\0\x88\x08",
                b"v6\0\x8e\x09",
                b"port\0\x86\x07",
                b"on\0\x84\x03",
                b"status\0\x88\x04",
                b"id\0\x0f",
                b"who\0\x13",
            ],
            &[
                &[10, 0, 0, 1],
                &[&[16, 0][..], &v6.octets()].concat(),
                &443u16.to_be_bytes(),
                &[1],
                &0xC000_0001u32.to_le_bytes(),
                &guid,
                &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0],
            ],
        );
        assert_eq!(
            fields.map(Value::Object),
            Ok(json!({
                "v4": "10.0.0.1", "v6": "2001:db8::7", "port": 443, "on": true, "status": "0xc0000001",
                "id": "{68eeea74-36e9-51b6-d59b-eb0198be0aff}", "who": "S-1-5-32-544"
            }))
        );
    }

    #[test]
    fn arrays_structures_and_tags_are_followed() {
        let fields = fields_of(
            &[
                b"fixed\0\x26\x02\0",
                b"list\0\x44",
                b"pair\0\x98\x02",
                b"a\0\x04",
                b"b\0\x84\x81\x05",
                b"after\0\x04",
            ],
            &[&[1, 0, 2, 0], &[3, 0, 7, 8, 9], &[5], &[6], &[9]],
        );
        assert_eq!(
            fields.map(Value::Object),
            Ok(json!({"fixed": [1, 2], "list": [7, 8, 9], "pair": {"a": 5, "b": 6}, "after": 9}))
        );
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        let broken = |descriptors: &[(u8, &[u8])]| decode(descriptors).expect_err("not an event");
        assert_eq!(broken(&[(TYPE_NONE, &[1, 2])]), Malformed::NoMetadata);
        assert_eq!(broken(&[(TYPE_EVENT_METADATA, b"\x09\0\0E\0")]), Malformed::Metadata);
        assert_eq!(broken(&[(TYPE_EVENT_METADATA, b"\x04\0\0E")]), Malformed::Metadata);
        assert_eq!(broken(&[(TYPE_EVENT_METADATA, &[5])]), Malformed::Metadata);
        assert_eq!(fields_of(&[b"x\0\x1f"], &[]), Err(Malformed::FieldType(0x1f)));
        assert_eq!(fields_of(&[b"x\0\x08"], &[&[1, 2, 3]]), Err(Malformed::Values));
        assert_eq!(fields_of(&[b"x\0\x02"], &[b"no end"]), Err(Malformed::Values));
        assert_eq!(fields_of(&[b"x\0\x04"], &[&[1, 2]]), Err(Malformed::Rest(1)));
    }
}
