//! Held against the tables: messages are made from the shapes of records, not from the records.

use std::collections::HashSet;
use std::format;
use std::string::{String, ToString as _};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::wire::What;
use super::*;
use crate::control::protocol::role::Role;
use crate::policy::{Action, Direction};
use crate::trace::events::{CloseReason, Event, Origin, Provider};
use crate::trace::{NtStatus, PROVIDER_ID};

/// A CBOR value, to be written as RFC 8949 says and not as the code under test does.
#[derive(Clone, PartialEq, Debug)]
enum Cbor {
    Unsigned(u64),
    Negative(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Tag(u64, Vec<Self>),
    Bool(bool),
    /// One that holds as many as there are, until a break.
    Indefinite(u8),
}

impl Cbor {
    fn head(major: u8, number: u64, out: &mut Vec<u8>) {
        let major = major << 5;
        let bytes = number.to_be_bytes();
        match number {
            0..24 => out.push(major | bytes[7]),
            24..0x100 => out.extend([major | 0x18, bytes[7]]),
            0x100..0x1_0000 => out.extend([&[major | 0x19], &bytes[6..]].concat()),
            0x1_0000..0x1_0000_0000 => out.extend([&[major | 0x1A], &bytes[4..]].concat()),
            _ => out.extend([&[major | 0x1B], &bytes[..]].concat()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(number) => Self::head(0, *number, out),
            Self::Negative(number) => Self::head(1, *number, out),
            Self::Bytes(bytes) => {
                Self::head(2, bytes.len() as u64, out);
                out.extend(bytes);
            }
            Self::Text(text) => {
                Self::head(3, text.len() as u64, out);
                out.extend(text.as_bytes());
            }
            Self::Array(items) => {
                Self::head(4, items.len() as u64, out);
                for item in items {
                    item.write(out);
                }
            }
            Self::Map(items) => {
                Self::head(5, items.len() as u64, out);
                for item in items.iter().flat_map(|(key, value)| [key, value]) {
                    item.write(out);
                }
            }
            Self::Tag(tag, items) => {
                Self::head(6, *tag, out);
                for item in items {
                    item.write(out);
                }
            }
            Self::Bool(value) => out.push(0xF4 | u8::from(*value)),
            Self::Indefinite(major) => out.extend([major << 5 | 0x1F, 0xFF]),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// Choices without end from a seed (splitmix64).
struct Chooser(u64);

impl Chooser {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.number() % most as u64).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number().to_le_bytes()[0]).collect()
    }

    /// A number of any size up to so many bits.
    fn sized(&mut self, bits: u32) -> u64 {
        let number = self.number() >> (64 - bits);
        number >> self.below(bits as usize)
    }

    fn value(&mut self, kind: Type) -> Cbor {
        match kind {
            Type::Bool => Cbor::Bool(self.below(2) == 0),
            Type::Unsigned(bits) => Cbor::Unsigned(self.sized(bits)),
            Type::Text => Cbor::Text(["", "weir", "Länge", "\u{1F30A}"][self.below(4)].into()),
            Type::Bytes => {
                let length = self.below(300);
                Cbor::Bytes(self.bytes(length))
            }
            Type::Exactly(length) => Cbor::Bytes(self.bytes(length)),
            Type::Address => {
                let length = [4, 16][self.below(2)];
                Cbor::Bytes(self.bytes(length))
            }
            Type::Named(_, values) => Cbor::Unsigned(values[self.below(values.len())].0.into()),
            Type::Record(name) => self.record(&shape(name)),
            Type::List(item) => Cbor::Array((0..self.below(4)).map(|_| self.value(*item)).collect()),
            Type::Events => Cbor::Array((0..self.below(4)).map(|_| self.event()).collect()),
        }
    }

    fn event(&mut self) -> Cbor {
        let mut values = vec![Cbor::Unsigned(self.sized(16)), Cbor::Unsigned(self.sized(64))];
        values.extend((0..self.below(5)).map(|_| self.anything(3)));
        Cbor::Array(values)
    }

    fn record(&mut self, shape: &Shape) -> Cbor {
        let mut values = Vec::new();
        for key in shape.keys {
            if !key.optional || self.below(2) == 0 {
                values.push((Cbor::Unsigned(key.key.into()), self.value(key.kind)));
            }
        }
        Cbor::Map(values)
    }

    /// What a later version might have.
    fn anything(&mut self, depth: u32) -> Cbor {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => Cbor::Unsigned(self.sized(64)),
            1 => Cbor::Negative(self.sized(64)),
            2 => Cbor::Bytes(self.bytes(3)),
            3 => Cbor::Text("later".into()),
            4 => Cbor::Bool(true),
            5 => Cbor::Array((0..self.below(4)).map(|_| self.anything(depth - 1)).collect()),
            6 => {
                let count = self.below(3);
                Cbor::Map((0..count).map(|_| (self.anything(0), self.anything(depth - 1))).collect())
            }
            _ => Cbor::Tag(self.sized(32), vec![self.anything(depth - 1)]),
        }
    }

    /// The same for who knows this version alone: other keys, in any order, all the way down.
    fn disguise(&mut self, value: &Cbor, kind: Type) -> Cbor {
        match (value, kind) {
            (Cbor::Map(items), Type::Record(name)) => self.disguise_record(items, &shape(name)),
            (Cbor::Array(items), Type::List(kind)) => {
                Cbor::Array(items.iter().map(|item| self.disguise(item, *kind)).collect())
            }
            (value, _) => value.clone(),
        }
    }

    fn disguise_record(&mut self, items: &[(Cbor, Cbor)], shape: &Shape) -> Cbor {
        let kind =
            |key: &Cbor| shape.keys.iter().find(|known| *key == Cbor::Unsigned(known.key.into())).unwrap();
        let known = items.iter().map(|(key, value)| (key.clone(), self.disguise(value, kind(key).kind)));
        let mut items: Vec<_> = known.collect();
        for _ in 0..self.below(3) {
            let key = match self.below(3) {
                0 => Cbor::Unsigned(100 + self.sized(64) / 2),
                1 => Cbor::Text("key".into()),
                _ => Cbor::Negative(self.sized(8)),
            };
            let at = self.below(items.len() + 1);
            items.insert(at, (key, self.anything(3)));
        }
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
        Cbor::Map(items)
    }
}

fn shape(name: &str) -> Shape {
    *RECORDS.iter().find(|shape| shape.name == name).unwrap()
}

/// Every kind of message: number and record.
fn kinds() -> Vec<(u16, Shape)> {
    let requests = REQUESTS.iter().map(|meta| (meta.number, meta.request));
    let replies = REQUESTS.iter().map(|meta| (meta.number + REPLY, meta.reply));
    requests.chain(replies).chain([(ERROR, Failure::SHAPE), (EVENTS, Events::SHAPE)]).collect()
}

fn envelope(kind: u16, id: u64, body: Cbor) -> Cbor {
    let number = |number: u64| Cbor::Unsigned(number);
    Cbor::Map(vec![(number(0), number(kind.into())), (number(1), number(id)), (number(2), body)])
}

/// Reads a message of that kind, and writes it anew.
fn again(kind: u16, message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let length = if kind < REPLY {
        let (id, request) = Request::decode(message).map_err(|rejected| rejected.malformed.unwrap())?;
        request.encode(id, &mut buffer).unwrap()
    } else {
        let (id, answer) = Answer::decode(message)?;
        let id = id.unwrap();
        match answer {
            Answer::Reply(reply) => reply.encode(id, &mut buffer).unwrap(),
            Answer::Error(failure) => failure.encode(id, &mut buffer).unwrap(),
            Answer::Events(events) => {
                encode(EVENTS, Some(id), &mut buffer, |writer| Item::encode(&events, writer)).unwrap()
            }
            Answer::Unknown(number) => panic!("{number} is known"),
        }
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// All that is known of a message of that kind, the items of its lists one by one.
fn shown(kind: u16, message: &[u8]) -> String {
    if kind < REPLY {
        format!("{:?}", Request::decode(message).unwrap())
    } else {
        format!("{:?}", Answer::decode(message).unwrap())
    }
}

proptest! {
    #[test]
    fn every_message_is_read_as_it_is_written_with_or_without_what_later_versions_add(seed: u64) {
        let mut chooser = Chooser(seed);
        for (kind, shape) in kinds() {
            let body = chooser.record(&shape);
            let message = envelope(kind, chooser.sized(64), body.clone()).bytes();
            let read = again(kind, &message);
            prop_assert_eq!(read.as_deref(), Ok(&message[..]), "{}", shape.name);
            let Cbor::Map(items) = &body else { unreachable!() };
            let disguised = chooser.disguise_record(items, &shape);
            let Cbor::Map(mut outer) = envelope(kind, 7, disguised) else { unreachable!() };
            outer.push((Cbor::Unsigned(3), chooser.anything(3)));
            outer.rotate_left(chooser.below(4));
            let plain = envelope(kind, 7, body).bytes();
            prop_assert_eq!(shown(kind, &Cbor::Map(outer).bytes()), shown(kind, &plain), "{}", shape.name);
        }
    }

    #[test]
    fn no_message_is_taken_in_part(seed: u64) {
        let mut chooser = Chooser(seed);
        for (kind, shape) in kinds() {
            let message = envelope(kind, 7, chooser.record(&shape)).bytes();
            for length in 0..message.len() {
                prop_assert_eq!(again(kind, &message[..length]).unwrap_err().what, What::Ends);
            }
            let longer = [&message[..], &[0]].concat();
            let trailing = Malformed { at: message.len(), key: None, what: What::Trailing };
            prop_assert_eq!(again(kind, &longer), Err(trailing));
            let room = message.len() - 1;
            if let Ok((id, request)) = Request::decode(&message) {
                prop_assert_eq!(request.encode(id, &mut vec![0; room]), Err(NoRoom));
            }
        }
    }

    #[test]
    fn a_wrong_key_is_named(seed: u64) {
        let mut chooser = Chooser(seed);
        for (kind, shape) in kinds() {
            let Cbor::Map(items) = chooser.record(&shape) else { unreachable!() };
            for (at, (key, value)) in items.iter().enumerate() {
                let Cbor::Unsigned(number) = key else { unreachable!() };
                let number = u32::try_from(*number).unwrap();
                let known = shape.keys.iter().find(|known| known.key == number).unwrap();
                let spoilt = |value: Option<Cbor>, other: Option<Cbor>| {
                    let mut items = items.clone();
                    items.remove(at);
                    items.splice(at..at, value.map(|value| (key.clone(), value)));
                    items.extend(other.map(|value| (key.clone(), value)));
                    let error = again(kind, &envelope(kind, 7, Cbor::Map(items)).bytes()).err();
                    error.map(|error| (error.key, error.what))
                };
                let error = |what| Some((Some(number), what));
                // Found before it is known whose keys these are.
                let form = Some((None, What::Form));
                if !known.optional {
                    prop_assert_eq!(spoilt(None, None), error(What::Missing));
                }
                prop_assert_eq!(spoilt(Some(value.clone()), Some(value.clone())), error(What::Twice));
                prop_assert_eq!(spoilt(Some(Cbor::Negative(0)), None), error(What::Type));
                prop_assert_eq!(spoilt(Some(Cbor::Tag(1, vec![value.clone()])), None), error(What::Type));
                match known.kind {
                    Type::Unsigned(64) | Type::Bool | Type::Record(_) => {}
                    Type::Unsigned(bits) => {
                        prop_assert_eq!(spoilt(Some(Cbor::Unsigned(1 << bits)), None), error(What::Range));
                    }
                    Type::Named(_, values) => {
                        let beyond = Cbor::Unsigned(values.len() as u64);
                        prop_assert_eq!(spoilt(Some(beyond), None), error(What::Range));
                    }
                    Type::Exactly(_) | Type::Address => {
                        let long = Cbor::Bytes(vec![0; 17]);
                        prop_assert_eq!(spoilt(Some(long), None), error(What::Range));
                        let indefinite = Some(Cbor::Indefinite(2));
                        prop_assert_eq!(spoilt(indefinite, None), form);
                    }
                    Type::Text => {
                        prop_assert_eq!(spoilt(Some(Cbor::Indefinite(3)), None), form);
                    }
                    Type::Bytes => {
                        prop_assert_eq!(spoilt(Some(Cbor::Indefinite(2)), None), form);
                    }
                    Type::List(_) | Type::Events => {
                        prop_assert_eq!(spoilt(Some(Cbor::Indefinite(4)), None), form);
                        let item = Cbor::Array(vec![Cbor::Bool(true)]);
                        prop_assert_eq!(spoilt(Some(item), None), error(What::Type));
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes: Vec<u8>, seed: u64) {
        let _request = Request::decode(&bytes);
        let _answer = Answer::decode(&bytes);
        let mut chooser = Chooser(seed);
        for (kind, shape) in kinds() {
            let mut message = envelope(kind, 7, chooser.record(&shape)).bytes();
            for _ in 0..=chooser.below(3) {
                let at = chooser.below(message.len());
                message[at] = chooser.bytes(1)[0];
            }
            if let Ok((id, request)) = Request::decode(&message) {
                prop_assert!(request.encode(id, &mut vec![0; MAX_MESSAGE]).is_ok());
            }
            if let Ok((_, Answer::Events(events))) = Answer::decode(&message) {
                for event in events.events.iter() {
                    let _all = event.values().count();
                }
            }
        }
    }
}

fn unsigned(number: u64) -> Cbor {
    Cbor::Unsigned(number)
}

fn rejected(message: &Cbor) -> Rejected {
    Request::decode(&message.bytes()).unwrap_err()
}

#[test]
fn what_cannot_be_done_is_answered_to_whom_it_concerns() {
    let empty = || Cbor::Map(vec![]);
    let unknown = rejected(&envelope(99, 5, empty()));
    assert_eq!((unknown.id, unknown.code, unknown.number), (Some(5), ErrorCode::UnknownRequest, Some(99)));
    assert_eq!(unknown.failure().code, ErrorCode::UnknownRequest);
    // A reply is no request.
    assert_eq!(rejected(&envelope(3 + REPLY, 5, empty())).code, ErrorCode::UnknownRequest);

    let rejected_hello = rejected(&envelope(1, 6, Cbor::Map(vec![(unsigned(0), Cbor::Text("1".into()))])));
    assert_eq!((rejected_hello.id, rejected_hello.code), (Some(6), ErrorCode::Malformed));
    let failure = rejected_hello.failure();
    assert_eq!((failure.text, failure.key, failure.at), (Some("wrong-type"), Some(0), Some(8)));
    assert_eq!(rejected_hello.malformed.unwrap().to_string(), "wrong-type at byte 8, key 0");

    let no_body = rejected(&Cbor::Map(vec![(unsigned(1), unsigned(8)), (unsigned(0), unsigned(3))]));
    let malformed = no_body.malformed.unwrap();
    assert_eq!((no_body.id, malformed.what, malformed.key), (Some(8), What::Missing, Some(BODY)));
    let twice = rejected(&Cbor::Map(vec![(unsigned(0), unsigned(3)), (unsigned(0), unsigned(3))]));
    assert_eq!((twice.id, twice.malformed.unwrap().what), (None, What::Twice));
    for other in [Cbor::Array(vec![]), Cbor::Indefinite(5), Cbor::Tag(55799, vec![empty()])] {
        assert!(matches!(rejected(&other).malformed.unwrap().what, What::Type | What::Form), "{other:?}");
    }
    let deep = Cbor::Map(vec![(unsigned(0), unsigned(3)), (unsigned(9), Cbor::Indefinite(4))]);
    assert_eq!(rejected(&deep).malformed.unwrap().what, What::Form);
}

#[test]
fn a_request_without_an_id_has_none() {
    let message = Cbor::Map(vec![(unsigned(0), unsigned(2)), (unsigned(2), Cbor::Map(vec![]))]).bytes();
    assert_eq!(Request::decode(&message), Ok((None, Request::Ping(Empty {}))));
    let mut buffer = [0; 16];
    let length = Request::Ping(Empty {}).encode(None, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], message);
}

#[test]
fn what_a_later_driver_sends_is_passed_over() {
    let message = envelope(300, 5, Cbor::Map(vec![])).bytes();
    assert_eq!(Answer::decode(&message), Ok((Some(5), Answer::Unknown(300))));
}

/// However deep or long something claims to be: no more is read than there is, and no stack is used for it.
#[test]
fn claims_cost_no_more_than_their_bytes() {
    for opener in [&[0x81][..], &[0xA1, 0], &[0xC1], &[0x9B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]
    {
        let mut message = vec![0xA3, 0, 3, 9];
        while message.len() + opener.len() <= MAX_MESSAGE {
            message.extend(opener);
        }
        assert_eq!(Request::decode(&message).unwrap_err().malformed.unwrap().what, What::Ends);
    }
}

#[test]
fn observers_look_and_operators_change() {
    let operators: Vec<_> =
        REQUESTS.iter().filter(|meta| meta.role == Role::Operator).map(|meta| meta.name).collect();
    let changes = [
        "extension control",
        "policy begin",
        "policy chunk",
        "policy commit",
        "policy confirm",
        "policy rollback",
    ];
    assert_eq!(operators, changes);
    let begin = Request::PolicyBegin(Begin { size: 1, digest: [0; 32] });
    assert_eq!((begin.role(), begin.number()), (Role::Operator, 12));
    assert_eq!(Request::Status(Empty {}).role(), Role::Observer);
}

#[test]
fn numbers_names_and_keys_are_unique_and_everything_is_described() {
    let (mut last, mut names) = (0, HashSet::new());
    for meta in REQUESTS {
        assert!(meta.number > last && meta.number < REPLY, "{}", meta.name);
        last = meta.number;
        assert!(names.insert(meta.name) && meta.doc.ends_with('.'), "{}", meta.name);
        assert!(RECORDS.contains(&meta.request) && RECORDS.contains(&meta.reply), "{}", meta.name);
    }
    let mut names = HashSet::new();
    for shape in RECORDS {
        assert!(names.insert(shape.name) && shape.doc.ends_with('.'), "{}", shape.name);
        for (place, key) in shape.keys.iter().enumerate() {
            // Without gaps, and below 24, so that a key is one byte.
            assert_eq!(usize::try_from(key.key), Ok(place), "{} {}", shape.name, key.name);
            assert!(key.key < 24 && key.doc.ends_with('.'), "{} {}", shape.name, key.name);
            if let Type::Named(_, values) = key.kind {
                // As the tests of wrong keys have it.
                assert!(values.iter().map(|value| usize::from(value.0)).eq(0..values.len()), "{}", key.name);
            }
        }
    }
}

#[test]
fn a_full_list_fits_into_a_message() {
    let mut place = vec![0; MAX_LIST];
    let mut message = vec![0; MAX_MESSAGE];
    let name = "n".repeat(64);
    let mut rules = ListWriter::new(&mut place);
    let rule = Rule { rule: u32::MAX, name: &name, action: Action::Audit, hits: Some(u64::MAX) };
    let mut count = 0;
    while rules.push(&rule).is_ok() {
        count += 1;
    }
    let policy = Policy {
        state: PolicyState::Provisional,
        generation: u32::MAX,
        digest: Some([0xFF; 32]),
        size: u32::MAX,
        default_action: Some(Action::Audit),
        total: u32::MAX,
        rules: rules.finish(),
        next: Some(u32::MAX),
    };
    let length = Reply::PolicyShow(policy).encode(u64::MAX, &mut message).unwrap();
    assert!(count > 150);
    match Answer::decode(&message[..length]).unwrap() {
        (Some(u64::MAX), Answer::Reply(Reply::PolicyShow(read))) => {
            assert_eq!(read.rules.len(), count);
            assert!(read.rules.iter().all(|read| read == rule));
        }
        other => panic!("{other:?}"),
    }

    let bytes = vec![0xFF; MAX_LIST];
    let chunk = Request::PolicyChunk(Chunk { upload: u32::MAX, offset: u32::MAX, bytes: &bytes });
    assert!(chunk.encode(Some(u64::MAX), &mut message).is_ok());
    let image = Reply::PolicyRead(Image { size: u32::MAX, bytes: &bytes });
    assert!(image.encode(u64::MAX, &mut message).is_ok());
}

#[test]
fn a_list_keeps_what_fits_and_its_order() {
    let mut place = [0; 9];
    let mut writer = ListWriter::new(&mut place);
    for number in [1_u64, 256, 65536] {
        assert_eq!(writer.push(&number), Ok(()));
    }
    assert_eq!(writer.push(&2_u64), Err(NoRoom));
    let list = writer.finish::<u64>();
    assert_eq!(
        (list.len(), list.is_empty(), list.iter().collect::<Vec<_>>()),
        (3, false, vec![1, 256, 65536])
    );
    assert!(List::<u64>::default().is_empty());
}

/// Events with every kind of field.
fn samples(name: &[u16]) -> [Event<'_>; 6] {
    [
        Event::FlowClosed {
            connection: u64::MAX,
            verdict: Action::Audit,
            rule: 3,
            generation: 2,
            direction: Direction::Out,
            protocol: 6,
            local: "192.0.2.7".parse().unwrap(),
            local_port: 443,
            remote: "2001:db8::1".parse().unwrap(),
            remote_port: 50000,
            packets_in: 1,
            packets_out: 2,
            bytes_in: 3,
            bytes_out: 4,
            duration: 5,
            reason: CloseReason::Unload,
        },
        Event::SettingUnknown { name, origin: Origin::Registry },
        Event::ExtensionRefused {
            session: 1,
            interface: PROVIDER_ID,
            required: true,
            status: NtStatus(0xC000_00BB_u32.cast_signed()),
        },
        Event::ExtensionRegistered { session: 0, interface: PROVIDER_ID, provider: Provider::Nmr },
        Event::ExtensionCallback {
            session: 1,
            interface: PROVIDER_ID,
            code: u32::MAX,
            value: u64::MAX,
            provider: Provider::Nmr,
            data: &[0; 40],
        },
        Event::DriverStopping {},
    ]
}

#[test]
fn events_arrive_with_the_fields_of_their_table() {
    let name: Vec<u16> = "Länge \u{1F30A}".encode_utf16().chain([0xD800, 0x41]).collect();
    let mut buffer = vec![0; 1024];
    let losses = [Loss { event: 40, count: 7 }, Loss { event: 41, count: u64::MAX }];
    let mut batch = Batch::begin(&mut buffer, 5, 1000, losses.into_iter(), true).unwrap();
    for event in samples(&name) {
        batch.push(77, &event).unwrap();
    }
    assert_eq!(batch.count(), 6);
    let length = batch.finish();
    let (id, Answer::Events(events)) = Answer::decode(&buffer[..length]).unwrap() else {
        panic!("no events")
    };
    assert_eq!((id, events.first, events.snapshot_end), (Some(5), 1000, Some(true)));
    assert!(events.lost.unwrap().iter().eq(losses));
    assert_eq!(events.events.len(), 6);

    for (record, event) in events.events.iter().zip(samples(&name)) {
        let meta = record.meta().unwrap();
        assert_eq!((record.id, record.time, meta.name), (event.id(), 77, event.name()));
        let values: Vec<_> = record.values().collect();
        assert_eq!(values.len(), meta.fields.len());
        let mut place = 0;
        event.fields(|name, value| {
            use crate::trace::events::Value;
            let sent = values[place];
            place += 1;
            match value {
                Value::Bool(value) => assert_eq!(sent, EventValue::Bool(value), "{name}"),
                Value::Unsigned(value) => assert_eq!(sent, EventValue::Unsigned(value), "{name}"),
                Value::NtStatus(value) => {
                    assert_eq!(sent, EventValue::Unsigned(value.0.cast_unsigned().into()), "{name}");
                }
                Value::Guid(value) => assert_eq!(sent.guid(), Some(value), "{name}"),
                Value::Address(value) => assert_eq!(sent.address(), Some(value), "{name}"),
                Value::Bytes(value) => assert_eq!(sent, EventValue::Bytes(value), "{name}"),
                Value::Text(value) => assert_eq!(sent, EventValue::Text(value), "{name}"),
                Value::Wide(units) => {
                    assert_eq!(sent, EventValue::Text(&String::from_utf16_lossy(units)), "{name}");
                }
                Value::Named(value, _) => assert_eq!(sent, EventValue::Unsigned(value.into()), "{name}"),
            }
        });
    }
}

#[test]
fn events_of_another_version_are_read_as_far_as_they_are_known() {
    // Seven with a field more, one that is not known, and nine with a field less.
    let later = Cbor::Array(vec![unsigned(7), unsigned(1), Cbor::Map(vec![(unsigned(1), Cbor::Bool(true))])]);
    let unknown =
        Cbor::Array(vec![unsigned(60_000), unsigned(2), Cbor::Text("new".into()), Cbor::Negative(1)]);
    let earlier = Cbor::Array(vec![unsigned(9), unsigned(3), Cbor::Text("operation".into())]);
    let events = Cbor::Array(vec![later, unknown, earlier]);
    let message =
        envelope(EVENTS, 5, Cbor::Map(vec![(unsigned(0), unsigned(0)), (unsigned(3), events)])).bytes();
    let (_, Answer::Events(events)) = Answer::decode(&message).unwrap() else { panic!("no events") };
    let read: Vec<_> = events
        .events
        .iter()
        .map(|event| (event.meta().map(|meta| meta.name), event.values().collect::<Vec<_>>()))
        .collect();
    let expected = [
        (Some("DriverStopped"), vec![EventValue::Other]),
        (None, vec![EventValue::Text("new"), EventValue::Other]),
        (Some("Fault"), vec![EventValue::Text("operation")]),
    ];
    assert_eq!(read, expected);
}

#[test]
fn a_batch_takes_events_until_it_is_full_and_no_longer() {
    let name = [0x41; 20];
    let mut buffer = [0; 61];
    let mut batch = Batch::begin(&mut buffer, 5, 0, [].into_iter(), false).unwrap();
    let event = Event::SettingUnknown { name: &name, origin: Origin::Registry };
    let mut count = 0;
    while batch.push(1, &event).is_ok() {
        count += 1;
    }
    assert_eq!(batch.push(1, &Event::DriverStopped {}), Ok(()), "a small one still fits");
    let length = batch.finish();
    let (_, Answer::Events(events)) = Answer::decode(&buffer[..length]).unwrap() else { panic!("no events") };
    assert_eq!((count, events.events.len()), (1, 2));
    assert_eq!(Batch::begin(&mut [0; 8], 5, 0, [].into_iter(), false).unwrap_err(), NoRoom);
}

#[test]
fn an_event_is_the_same_whether_it_was_encoded_for_one_or_for_all() {
    let name: Vec<u16> = "Länge".encode_utf16().collect();
    let (mut once, mut alone, mut shared) = ([0; 256], [0; 256], [0; 256]);
    for event in samples(&name) {
        let encoded = Encoded::new(&mut once, 77, &event).unwrap();
        let mut batches = [&mut alone, &mut shared]
            .map(|buffer| Batch::begin(buffer, 5, 0, [].into_iter(), false).unwrap());
        batches[0].push(77, &event).unwrap();
        batches[1].push_encoded(&encoded).unwrap();
        let [alone, shared] = batches.map(Batch::finish);
        assert_eq!(alone, shared);
        let room = alone - 1;
        let mut tight = vec![0; room];
        let mut batch = Batch::begin(&mut tight, 5, 0, [].into_iter(), false).unwrap();
        assert_eq!((batch.push_encoded(&encoded), batch.count()), (Err(NoRoom), 0));
    }
    assert_eq!(alone, shared);
    assert_eq!(Encoded::new(&mut [0; 4], 77, &samples(&name)[0]).unwrap_err(), NoRoom);
}
