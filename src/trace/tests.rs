//! The table's promises to those who read traces.

use std::collections::HashSet;
use std::format;
use std::net::IpAddr;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::events::{CloseReason, Event, Kind, Value};
use super::payload::Text;
use super::{Guid, NtStatus, PROVIDER_ID, metadata, payload};
use crate::policy::{Action, Direction};

#[test]
fn ids_and_names_are_unique_and_everything_is_described() {
    let (mut names, mut last) = (HashSet::new(), 0);
    for meta in Event::TABLE {
        assert!(meta.id > last, "{} stands out of order", meta.name);
        last = meta.id;
        assert!(names.insert(meta.name), "{} stands twice", meta.name);
        assert!(meta.doc.ends_with('.') && !meta.doc.contains("  "), "{}", meta.name);
        assert_eq!(meta.keywords.bits() >> 48, 0, "{} uses Microsoft's keywords", meta.name);
        assert!(!meta.keywords.is_empty(), "{}", meta.name);
        let mut fields = HashSet::new();
        for field in meta.fields {
            assert!(fields.insert(field.name), "{} {} stands twice", meta.name, field.name);
            assert!(field.doc.ends_with('.'), "{} {}", meta.name, field.name);
            if let Kind::Named(values) = field.kind {
                let numbers: HashSet<_> = values.iter().map(|value| value.0).collect();
                assert_eq!(numbers.len(), values.len(), "{} {}", meta.name, field.name);
            }
        }
    }
}

#[test]
fn an_event_shows_the_fields_that_its_table_lists() {
    let local: IpAddr = "2001:db8::1".parse().unwrap();
    let remote: IpAddr = "192.0.2.7".parse().unwrap();
    let event = Event::FlowClosed {
        connection: 7,
        verdict: Action::Audit,
        rule: 3,
        generation: 2,
        direction: Direction::In,
        protocol: 6,
        local,
        local_port: 443,
        remote,
        remote_port: 50000,
        packets_in: 1,
        packets_out: 2,
        bytes_in: 3,
        bytes_out: 4,
        duration: 5,
        reason: CloseReason::FlowDeleted,
    };
    let mut shown = Vec::new();
    event.fields(|name, value| shown.push((name, value)));
    let meta = Event::TABLE.iter().find(|meta| meta.id == event.id()).unwrap();
    assert_eq!((meta.name, meta.level, meta.keywords), (event.name(), event.level(), event.keywords()));
    let names: Vec<_> = shown.iter().map(|field| field.0).collect();
    assert_eq!(names, meta.fields.iter().map(|field| field.name).collect::<Vec<_>>());
    assert!(shown.contains(&("verdict", Value::Named(2, "audit"))));
    assert!(shown.contains(&("direction", Value::Named(0, "in"))));
    assert!(shown.contains(&("local", Value::Address(local))));
    assert!(shown.contains(&("bytes_out", Value::Unsigned(4))));
    assert!(shown.contains(&("reason", Value::Named(1, "flow-deleted"))));
}

#[test]
fn a_guid_reads_what_it_prints() {
    let text = "{68eeea74-36e9-51b6-d59b-eb0198be0aff}";
    assert_eq!(format!("{PROVIDER_ID}"), text);
    assert_eq!(Guid::parse(text.encode_utf16()), Some(PROVIDER_ID));
    assert_eq!(Guid::parse(text.to_uppercase().encode_utf16()), Some(PROVIDER_ID));
    for broken in [
        &text[1..],
        &text[..37],
        &text.replace('-', " "),
        &text.replace("68", "6g"),
        &text.replace("74-", "7-4"),
        &format!("{text} "),
        "",
    ] {
        assert_eq!(Guid::parse(broken.encode_utf16()), None, "{broken:?}");
    }
}

#[test]
fn a_status_is_shown_as_the_field_writes_it() {
    assert_eq!(format!("{}", NtStatus(0xC000_009A_u32.cast_signed())), "0xC000009A");
    assert_eq!(format!("{}", NtStatus(0)), "0x00000000");
}

/// What ETW is given for an event, its pieces put together.
fn written(event: &Event<'_>) -> (Vec<u8>, Vec<u8>) {
    let (metadata, payload) = payload::event(event);
    let mut bytes = Vec::new();
    payload.pieces(|piece| match piece {
        Text::Bytes(text) => bytes.extend(text),
        Text::Utf16(text) => bytes.extend(text.iter().flat_map(|unit| unit.to_le_bytes())),
    });
    (metadata.into(), bytes)
}

/// An event whose last field is bytes.
fn metadata_and_bytes_of_a_callback(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let provider = super::events::Provider::Nmr;
    let (session, interface, code, value) = (1, PROVIDER_ID, 2, 3);
    written(&Event::ExtensionCallback { session, interface, code, value, provider, data })
}

#[test]
fn an_event_describes_itself_in_the_format_of_tracelogging() {
    let name: Vec<u16> = "Naïve".encode_utf16().collect();
    let origin = super::events::Origin::Policy;
    let (metadata, bytes) = written(&Event::SettingUnknown { name: &name, origin });
    assert_eq!(metadata, b"\x21\0\0SettingUnknown\0name\0\x16origin\0\x97\x23");
    assert_eq!(bytes, b"\x0A\0N\0a\0\xEF\0v\0e\0\x06\0policy");

    let (metadata, bytes) = written(&Event::Degraded { part: "control", status: NtStatus(-1) });
    assert_eq!(metadata, b"\x1C\0\0Degraded\0part\0\x97\x23status\0\x94\x0E");
    assert_eq!(bytes, b"\x07\0control\xFF\xFF\xFF\xFF");

    let (metadata, bytes) = written(&Event::ControlAccepted {
        session: 0x0102_0304_0506_0708,
        remote: "192.0.2.7".parse().unwrap(),
        remote_port: 0x1234,
    });
    assert_eq!(metadata, b"\x32\0\0ControlAccepted\0session\0\x0Aremote\0\x8E\x09remote_port\0\x06");
    assert_eq!(
        bytes,
        b"\x08\x07\x06\x05\x04\x03\x02\x01\x10\0\0\0\0\0\0\0\0\0\0\0\xFF\xFF\xC0\0\x02\x07\x34\x12"
    );

    let interface = PROVIDER_ID;
    let provider = super::events::Provider::Builtin;
    let (_, bytes) = written(&Event::ExtensionRegistered { session: 1, interface, provider });
    let guid = b"\x74\xEA\xEE\x68\xE9\x36\xB6\x51\xD5\x9B\xEB\x01\x98\xBE\x0A\xFF";
    assert_eq!(bytes, [&b"\x01\0\0\0\0\0\0\0"[..], guid, b"\x07\0builtin"].concat());

    let (_, callback) = metadata_and_bytes_of_a_callback(&[0xAB, 0, 7]);
    assert!(callback.ends_with(b"\x03\0nmr\x03\0\xAB\0\x07"), "{callback:x?}");
    let (metadata, callback) = metadata_and_bytes_of_a_callback(&[]);
    assert!(metadata.ends_with(b"provider\0\x97\x23data\0\x0E"), "{metadata:x?}");
    assert!(callback.ends_with(b"\x03\0nmr\0\0"), "{callback:x?}");

    let fail_mode = super::events::FailMode::Closed;
    assert_eq!(written(&Event::PolicyAbsent { fail_mode }).1, b"\x06\0closed");
    assert_eq!(written(&Event::DriverStopped {}), (b"\x11\0\0DriverStopped\0".into(), Vec::new()));
    assert_eq!(metadata::PROVIDER, *b"\x0E\0Weir.Driver\0");
}

#[test]
fn a_text_is_cut_where_its_length_no_longer_fits() {
    let long: Vec<u16> = vec![0x41; 40_000];
    let origin = super::events::Origin::Policy;
    let (_, bytes) = written(&Event::SettingUnknown { name: &long, origin });
    assert_eq!((bytes.len(), &bytes[..2]), (2 + 65_534 + 2 + "policy".len(), &65_534_u16.to_le_bytes()[..]));
    let (_, short) = metadata_and_bytes_of_a_callback(&[]);
    let (_, bytes) = metadata_and_bytes_of_a_callback(&vec![7; 70_000]);
    assert_eq!((bytes.len(), bytes[short.len() - 2]), (short.len() + 65_535, 0xFF));
}

#[cfg(feature = "sim")]
mod sink {
    use std::sync::{Arc, Mutex};

    use super::{Event, NtStatus, String, Vec};
    use crate::trace::{Keywords, Level, emit, enabled, sink};

    const EVENT: Event<'_> = Event::Degraded { part: "part", status: NtStatus(0) };

    /// One test, because there is one sink in the process.
    #[test]
    fn the_sink_gets_what_it_asked_for_while_it_is_installed() {
        let seen = Arc::new(Mutex::new(Vec::<String>::new()));
        let install = |level, keywords| {
            let seen = Arc::clone(&seen);
            sink::install(level, keywords, move |event| seen.lock().unwrap().push(event.name().into()))
        };
        let count = || seen.lock().unwrap().len();

        emit(&EVENT);
        assert_eq!(count(), 0, "nobody listened");

        let errors_only = install(Level::Error, Keywords::all());
        assert!(!enabled(EVENT.level(), EVENT.keywords()));
        emit(&EVENT);
        assert_eq!(count(), 0, "a warning is not an error");

        let other_keywords = install(Level::Verbose, Keywords::all() - Keywords::FAULT);
        emit(&EVENT);
        assert_eq!(count(), 0, "not this keyword");

        let all = install(Level::Verbose, Keywords::all());
        drop((errors_only, other_keywords));
        emit(&EVENT);
        assert_eq!(*seen.lock().unwrap(), ["Degraded"], "a sink that was replaced takes nothing away");

        drop(all);
        emit(&EVENT);
        assert_eq!(count(), 1, "it has been taken away");
    }
}
