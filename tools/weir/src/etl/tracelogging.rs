//! Events that describe themselves (TraceLogging): with its fields' values an event has its name, and name and type of each
//! field. Header `TraceLoggingProvider.h` of the Windows SDK has the numbers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::civil::DateTime;
use serde_json::{Map, Value};

use crate::client::json::{hex, time};

/// A decoded event.
#[derive(Clone, PartialEq, Debug)]
pub struct Decoded {
    pub name: String,
    pub fields: Map<String, Value>,
}

/// Structures within structures, at most. Programs in use have one or two.
const DEEPEST: usize = 16;
/// What an event may become: so many bytes of fields' names, each value counting as [`VALUE`]. An event of 64 KiB needs less;
/// a description that asks for more, with many values of no size, was made to hurt.
const MOST: usize = 2 << 20;
const VALUE: usize = 16;

/// How many values a field has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Count {
    One,
    Constant(u16),
    /// Told before the values.
    Variable,
    /// Bytes in a format of the provider's own, behind their count.
    Custom,
}

/// A field's description.
struct Field {
    name: String,
    kind: u8,
    /// How it is to be shown; of a structure, how many fields it has.
    shown: u8,
    count: Count,
    members: Vec<Field>,
}

const UNICODE_STRING: u8 = 1;
const ANSI_STRING: u8 = 2;
const INT8: u8 = 3;
const UINT8: u8 = 4;
const INT16: u8 = 5;
const UINT16: u8 = 6;
const INT32: u8 = 7;
const UINT32: u8 = 8;
const INT64: u8 = 9;
const UINT64: u8 = 10;
const FLOAT: u8 = 11;
const DOUBLE: u8 = 12;
const BOOL32: u8 = 13;
const BINARY: u8 = 14;
const GUID: u8 = 15;
const FILETIME: u8 = 17;
const SYSTEMTIME: u8 = 18;
const SID: u8 = 19;
const HEX_INT32: u8 = 20;
const HEX_INT64: u8 = 21;
const COUNTED_STRING: u8 = 22;
const COUNTED_ANSI_STRING: u8 = 23;
const STRUCT: u8 = 24;
const COUNTED_BINARY: u8 = 25;
const KIND: u8 = 0x1F;
const COUNTED: u8 = 0x60;
const CHAIN: u8 = 0x80;

const SHOWN_STRING: u8 = 2;
const SHOWN_BOOLEAN: u8 = 3;
const SHOWN_HEX: u8 = 4;
const SHOWN_PORT: u8 = 7;
const SHOWN_IPV4: u8 = 8;
const SHOWN_IPV6: u8 = 9;
const SHOWN_WIN32_ERROR: u8 = 13;
const SHOWN_NTSTATUS: u8 = 14;
const SHOWN_HRESULT: u8 = 15;

/// What is left of some bytes.
struct Bytes<'a> {
    rest: &'a [u8],
    /// What they are, for who is told that they are too short.
    what: &'static str,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| format!("{} end too early", self.what))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    /// Bytes behind their count.
    fn counted(&mut self) -> Result<&'a [u8], String> {
        let count = self.u16()?;
        self.take(count.into())
    }

    /// UTF-8 up to a zero.
    fn text(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| format!("a text in {} has no end", self.what))?;
        let text = self.take(end + 1)?;
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Tags: bytes of which all but the last have their top bit set.
    fn tags(&mut self) -> Result<(), String> {
        while self.u8()? & CHAIN != 0 {}
        Ok(())
    }
}

/// What follows a length of two bytes, which counts itself.
fn sized<'a>(bytes: &'a [u8], what: &'static str) -> Result<Bytes<'a>, String> {
    let mut all = Bytes { rest: bytes, what };
    let length = usize::from(all.u16()?);
    let rest = length.checked_sub(2).and_then(|length| all.rest.get(..length));
    let rest =
        rest.ok_or_else(|| format!("{what} say that they have {length} bytes, and have {}", bytes.len()))?;
    Ok(Bytes { rest, what })
}

/// The name in a provider's traits.
///
/// # Errors
/// They are none.
pub fn provider_name(traits: &[u8]) -> Result<String, String> {
    sized(traits, "the provider's traits")?.text()
}

/// Decodes an event's fields by its metadata.
///
/// # Errors
/// The two are not of one event, or of none.
pub fn decode(metadata: &[u8], fields: &[u8]) -> Result<Decoded, String> {
    let mut metadata = sized(metadata, "the event's metadata")?;
    metadata.tags()?;
    let name = metadata.text()?;
    let mut all = Vec::new();
    while !metadata.rest.is_empty() {
        all.push(describe(&mut metadata, DEEPEST)?);
    }
    let mut values = Values { bytes: Bytes { rest: fields, what: "the event's fields" }, left: MOST };
    let fields = values.members(&all)?;
    match values.bytes.rest.len() {
        0 => Ok(Decoded { name, fields }),
        rest => Err(format!("{rest} bytes are left behind the event's last field")),
    }
}

/// Reads the description of one field, and of those in it.
fn describe(metadata: &mut Bytes<'_>, depth: usize) -> Result<Field, String> {
    let name = metadata.text()?;
    let kind = metadata.u8()?;
    let mut shown = 0;
    if kind & CHAIN != 0 {
        shown = metadata.u8()?;
        if shown & CHAIN != 0 {
            metadata.tags()?;
        }
        shown &= !CHAIN;
    }
    let count = match kind & COUNTED {
        0 => Count::One,
        0x20 => Count::Constant(metadata.u16()?),
        0x40 => Count::Variable,
        _ => {
            metadata.counted()?;
            Count::Custom
        }
    };
    let kind = kind & KIND;
    let mut members = Vec::new();
    if kind == STRUCT && count != Count::Custom {
        let depth = depth.checked_sub(1).ok_or("structures lie too deep in each other")?;
        for _ in 0..shown {
            members.push(describe(metadata, depth)?);
        }
    }
    Ok(Field { name, kind, shown, count, members })
}

/// The values that are left.
struct Values<'a> {
    bytes: Bytes<'a>,
    left: usize,
}

impl Values<'_> {
    fn members(&mut self, fields: &[Field]) -> Result<Map<String, Value>, String> {
        let mut into = Map::new();
        let mut times = HashMap::new();
        for field in fields {
            self.spend(field.name.len())?;
            let value = self.field(field)?;
            // Of several fields with one name each is told.
            let number = times.entry(&field.name).and_modify(|number| *number += 1).or_insert(1);
            let name = if *number == 1 { field.name.clone() } else { format!("{}#{number}", field.name) };
            into.insert(name, value);
        }
        Ok(into)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or("the event has more values than it can")?;
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<Value, String> {
        let count = match field.count {
            Count::One => return self.single(field),
            Count::Custom => return Ok(hex(self.bytes.counted()?).into()),
            Count::Constant(count) => count,
            Count::Variable => self.bytes.u16()?,
        };
        let values: Vec<_> = (0..count).map(|_| self.single(field)).collect::<Result<_, _>>()?;
        // Text, letter by letter.
        let letters = field.kind == UINT8 && field.shown == SHOWN_STRING;
        if letters || field.kind == UINT16 && field.shown == SHOWN_STRING {
            return Ok(values.iter().filter_map(Value::as_str).collect::<String>().into());
        }
        Ok(values.into())
    }

    fn single(&mut self, field: &Field) -> Result<Value, String> {
        self.spend(VALUE)?;
        let (bytes, shown) = (&mut self.bytes, field.shown);
        Ok(match field.kind {
            0 => Value::Null,
            UNICODE_STRING => {
                let mut units = Vec::new();
                loop {
                    match bytes.u16()? {
                        0 => break,
                        unit => units.push(unit),
                    }
                }
                String::from_utf16_lossy(&units).into()
            }
            ANSI_STRING => bytes.text()?.into(),
            COUNTED_STRING => {
                let units = bytes.counted()?.chunks_exact(2);
                let units: Vec<_> = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
                String::from_utf16_lossy(&units).into()
            }
            COUNTED_ANSI_STRING => String::from_utf8_lossy(bytes.counted()?).into(),
            BINARY | COUNTED_BINARY => binary(bytes.counted()?, shown),
            INT8 => signed(i8::from_le_bytes(bytes.array()?), shown),
            INT16 => signed(i16::from_le_bytes(bytes.array()?), shown),
            INT32 if matches!(shown, SHOWN_NTSTATUS | SHOWN_HRESULT) => status(bytes.array()?),
            INT32 => signed(i32::from_le_bytes(bytes.array()?), shown),
            INT64 => signed(i64::from_le_bytes(bytes.array()?), shown),
            UINT8 if shown == SHOWN_STRING => char::from(bytes.u8()?).to_string().into(),
            UINT8 => unsigned(bytes.u8()?, shown),
            UINT16 if shown == SHOWN_PORT => u16::from_be_bytes(bytes.array()?).into(),
            UINT16 if shown == SHOWN_STRING => String::from_utf16_lossy(&[bytes.u16()?]).into(),
            UINT16 => unsigned(bytes.u16()?, shown),
            UINT32 if shown == SHOWN_IPV4 => Ipv4Addr::from(bytes.array::<4>()?).to_string().into(),
            UINT32 | HEX_INT32 if matches!(shown, SHOWN_NTSTATUS | SHOWN_HRESULT | SHOWN_WIN32_ERROR) => {
                status(bytes.array()?)
            }
            UINT32 => unsigned(u32::from_le_bytes(bytes.array()?), shown),
            UINT64 => unsigned(u64::from_le_bytes(bytes.array()?), shown),
            HEX_INT32 => unsigned(u32::from_le_bytes(bytes.array()?), SHOWN_HEX),
            HEX_INT64 => unsigned(u64::from_le_bytes(bytes.array()?), SHOWN_HEX),
            FLOAT => f64::from(f32::from_le_bytes(bytes.array()?)).into(),
            DOUBLE => f64::from_le_bytes(bytes.array()?).into(),
            BOOL32 => (i32::from_le_bytes(bytes.array()?) != 0).into(),
            GUID => guid(bytes.array()?).into(),
            FILETIME => time(u64::from_le_bytes(bytes.array()?)).into(),
            SYSTEMTIME => system_time(bytes.array()?).into(),
            SID => sid(bytes)?.into(),
            STRUCT => self.members(&field.members)?.into(),
            other => return Err(format!("field {} has the type {other}, which is none", field.name)),
        })
    }
}

fn signed(value: impl Into<i64>, shown: u8) -> Value {
    let value = value.into();
    if shown == SHOWN_HEX { format!("{value:#x}").into() } else { value.into() }
}

fn unsigned(value: impl Into<u64>, shown: u8) -> Value {
    let value = value.into();
    match shown {
        SHOWN_HEX => format!("{value:#x}").into(),
        SHOWN_BOOLEAN => (value != 0).into(),
        _ => value.into(),
    }
}

fn status(bytes: [u8; 4]) -> Value {
    format!("{:#010X}", u32::from_le_bytes(bytes)).into()
}

/// Bytes in hexadecimal digits; an address as addresses are written, an IPv4 one in an IPv6 one as what it is.
fn binary(bytes: &[u8], shown: u8) -> Value {
    match <[u8; 16]>::try_from(bytes) {
        Ok(address) if shown == SHOWN_IPV6 => Ipv6Addr::from(address).to_canonical().to_string().into(),
        _ => hex(bytes).into(),
    }
}

/// A GUID as it lies in memory, in the registry's spelling.
pub fn guid(bytes: [u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, data4 @ ..] = bytes;
    weir::trace::Guid {
        data1: u32::from_le_bytes([a0, a1, a2, a3]),
        data2: u16::from_le_bytes([b0, b1]),
        data3: u16::from_le_bytes([c0, c1]),
        data4,
    }
    .to_string()
}

/// A `SYSTEMTIME`, which has no zone.
fn system_time(bytes: [u8; 16]) -> String {
    let word = |index: usize| i16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]);
    let byte = |index| i8::try_from(word(index)).unwrap_or(-1);
    let nanoseconds = i32::from(word(7)).saturating_mul(1_000_000);
    DateTime::new(word(0), byte(1), byte(3), byte(4), byte(5), byte(6), nanoseconds)
        .map_or_else(|_| hex(&bytes), |time| time.to_string())
}

fn sid(bytes: &mut Bytes<'_>) -> Result<String, String> {
    let [revision, count] = bytes.array()?;
    let authority: [u8; 6] = bytes.array()?;
    let authority = authority.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut text = format!("S-{revision}-{authority}");
    for _ in 0..count {
        text = format!("{text}-{}", u32::from_le_bytes(bytes.array()?));
    }
    Ok(text)
}
