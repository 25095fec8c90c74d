//! What the driver says, in JSON: made from the protocol's tables, so that every key has the name it has in PROTOCOL.md.
//!
//! Times are texts in RFC 3339, UTC; addresses, GUIDs and the values of enumerations are texts; other bytes are in
//! hexadecimal. A value that a later version has added to an enumeration stays a number; keys of later versions are left
//! out.

use jiff::Timestamp;
use minicbor::Decoder;
use minicbor::data::Type as Major;
use serde_json::{Map, Value, json};
use weir::control::protocol::message::{
    ERROR, EventRecord, EventValue, Events, Failure, RECORDS, REPLY, REQUESTS, Shape, Type,
};
use weir::trace::events::Kind;

use super::Message;
use super::envelope::Envelope;

/// The unit of a time.
const TIME: &str = "100 ns since 1601, UTC";

/// From 1601 to 1970, in units of 100 ns.
const UNIX: i128 = 116_444_736_000_000_000;

/// A time of the protocol; `None`: it is too late for a date.
pub fn timestamp(time: u64) -> Option<Timestamp> {
    Timestamp::from_nanosecond((i128::from(time) - UNIX) * 100).ok()
}

/// The reverse of [`timestamp`]; `None`: it is before 1601.
pub fn system_time(time: Timestamp) -> Option<u64> {
    u64::try_from(time.as_nanosecond() / 100 + UNIX).ok()
}

/// A time of the protocol in RFC 3339.
pub fn time(time: u64) -> String {
    timestamp(time).map_or_else(|| time.to_string(), |time| time.to_string())
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The record of a reply or an error. Null for everything else.
pub(super) fn record(message: &[u8]) -> Value {
    read_message(message).unwrap_or_default()
}

fn read_message(message: &[u8]) -> Option<Value> {
    let envelope = Envelope::of(message)?;
    let shape = if envelope.kind == ERROR {
        Failure::SHAPE
    } else {
        REQUESTS.iter().find(|meta| meta.number + REPLY == envelope.kind)?.reply
    };
    read_record(&shape, &mut envelope.body(message))
}

fn read_record(shape: &Shape, reader: &mut Decoder<'_>) -> Option<Value> {
    let mut object = Map::new();
    for _ in 0..reader.map().ok()?? {
        let number = matches!(reader.datatype().ok()?, Major::U8 | Major::U16 | Major::U32 | Major::U64)
            .then(|| reader.u64().ok());
        let Some(number) = number else {
            // A key that is no number, of a later version, and its value.
            reader.skip().ok()?;
            reader.skip().ok()?;
            continue;
        };
        let number = number?;
        match shape.keys.iter().find(|key| u64::from(key.key) == number) {
            None => reader.skip().ok()?,
            Some(key) if key.unit == TIME => {
                object.insert(key.name.to_owned(), time(reader.u64().ok()?).into());
            }
            Some(key) => {
                object.insert(key.name.to_owned(), read_value(key.kind, reader)?);
            }
        }
    }
    Some(object.into())
}

fn read_value(kind: Type, reader: &mut Decoder<'_>) -> Option<Value> {
    Some(match kind {
        Type::Bool => reader.bool().ok()?.into(),
        Type::Unsigned(_) => reader.u64().ok()?.into(),
        Type::Text => reader.str().ok()?.into(),
        Type::Bytes | Type::Exactly(_) | Type::Address => {
            let bytes = reader.bytes().ok()?;
            let value = EventValue::Bytes(bytes);
            let text = match kind {
                Type::Address => value.address().map(|address| address.to_string()),
                Type::Exactly(16) => value.guid().map(|guid| guid.to_string()),
                _ => None,
            };
            text.unwrap_or_else(|| hex(bytes)).into()
        }
        Type::Named(_, values) => {
            let number = reader.u64().ok()?;
            let name = values.iter().find(|value| u64::from(value.0) == number).map(|value| value.1);
            name.map_or_else(|| number.into(), Into::into)
        }
        Type::Record(name) => read_record(RECORDS.iter().find(|shape| shape.name == name)?, reader)?,
        Type::List(item) => {
            let count = reader.array().ok()??;
            (0..count).map(|_| read_value(*item, reader)).collect::<Option<Vec<_>>>()?.into()
        }
        // Events are read by [`event`].
        Type::Events => {
            reader.skip().ok()?;
            Value::Null
        }
    })
}

/// The parts of a long list as one record.
pub fn pages(pages: &[Message]) -> Value {
    let mut whole = Map::new();
    for page in pages {
        let Value::Object(page) = page.json() else { continue };
        for (name, value) in page {
            match (whole.get_mut(&name), value) {
                (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
                (None, value) if name != "next" => {
                    whole.insert(name, value);
                }
                _ => {}
            }
        }
    }
    whole.into()
}

/// An event. One that this version does not know has its id, and its values without names.
pub fn event(event: &EventRecord<'_>) -> Value {
    let Some(meta) = event.meta() else {
        let values: Vec<_> = event.values().map(|value| field(None, &value)).collect();
        return json!({ "id": event.id, "time": time(event.time), "values": values });
    };
    let mut fields = Map::new();
    for (about, value) in meta.fields.iter().zip(event.values()) {
        fields.insert(about.name.to_owned(), field(Some(about.kind), &value));
    }
    json!({
        "event": meta.name,
        "id": event.id,
        "time": time(event.time),
        "level": format!("{:?}", meta.level).to_lowercase(),
        "fields": fields,
    })
}

/// A field's value.
fn field(kind: Option<Kind>, value: &EventValue<'_>) -> Value {
    match (kind, *value) {
        (_, EventValue::Bool(value)) => value.into(),
        (Some(Kind::Named(names)), EventValue::Unsigned(number)) => {
            let name = names.iter().find(|name| u64::from(name.0) == number);
            name.map_or_else(|| number.into(), |name| name.1.into())
        }
        (_, EventValue::Unsigned(number)) => number.into(),
        (_, EventValue::Text(text)) => text.into(),
        (kind, EventValue::Bytes(bytes)) => {
            let text = match kind {
                Some(Kind::Address) => value.address().map(|address| address.to_string()),
                Some(Kind::Guid) => value.guid().map(|guid| guid.to_string()),
                _ => None,
            };
            text.unwrap_or_else(|| hex(bytes)).into()
        }
        (_, EventValue::Other) => Value::Null,
    }
}

/// What was lost, by the events' names; null: nothing.
pub fn losses(events: &Events<'_>) -> Value {
    let Some(lost) = events.lost else { return Value::Null };
    let lost = lost.iter().map(|loss| {
        let meta = weir::trace::Event::TABLE.iter().find(|meta| meta.id == loss.event);
        json!({ "event": meta.map(|meta| meta.name), "id": loss.event, "count": loss.count })
    });
    lost.collect::<Vec<_>>().into()
}
