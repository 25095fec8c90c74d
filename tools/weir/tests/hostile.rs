//! Captures and traces that were made to hurt: reading never panics, never hands on more than the file holds, and ends.

mod common;

use std::io::Cursor;
use std::ops::ControlFlow;

use common::{CONTAINERS, capture, links, ping, session, shared, udp6};
use proptest::prelude::*;
use weir::trace::Event;
use weir::trace::recorded::{Recorded, TRAITS};
use weir_cli::etl::read::{Body, Reader};
use weir_cli::etl::{self, Descriptor, Session, Writer, tracelogging};
use weir_cli::run::capture::{Capture, End};
use weir_cli::run::packet;

/// Reads a file to its end; the bytes that its frames held.
fn read(bytes: &[u8]) -> (End, usize) {
    let mut held = 0;
    let end = Capture::from_reader(Cursor::new(bytes.to_vec())).for_each(|frame, offset| {
        assert!(offset <= bytes.len() as u64);
        assert!(frame.data.len() <= frame.wire_len as usize);
        held += frame.data.len();
        if let Ok((_, packet)) = packet::decode(&frame) {
            assert!(packet.data.len() <= frame.data.len());
            assert!(packet.transport_len <= frame.wire_len);
            assert!(packet.transport_header_len <= packet.transport_len);
        }
        ControlFlow::Continue(())
    });
    assert!(held <= bytes.len());
    (end, held)
}

fn files() -> Vec<Vec<u8>> {
    let mut packets = session(50_000, 443);
    packets.push(ping(true));
    let mut files = Vec::new();
    for container in CONTAINERS {
        for (_, link_type, wrap) in links() {
            files.push(capture(
                container,
                link_type,
                &packets.iter().map(|packet| wrap(packet)).collect::<Vec<_>>(),
            ));
        }
        files.push(capture(container, 101, &[udp6(true, 1, 2, 30)]));
    }
    files
}

/// Reads a trace to its end, and each record again; how many there were.
fn read_trace(bytes: &[u8]) -> Result<u64, String> {
    let mut reader = Reader::open(Cursor::new(bytes)).map_err(|damage| {
        assert!(damage.offset <= bytes.len() as u64);
        damage.to_string()
    })?;
    let (mut places, mut held) = (Vec::new(), 0);
    let statistics = reader.scan(|place, record| {
        let data = match &record.body {
            Body::Event { fields, schema, .. } => {
                let _decoded = schema.map(|schema| tracelogging::decode(schema, fields));
                fields.len()
            }
            Body::Other { data, .. } => data.len(),
        };
        held += data;
        places.push((place, record.time, data));
    });
    assert!(held <= bytes.len());
    assert_eq!(statistics.events + statistics.others, places.len() as u64);
    for (place, time, data) in &places {
        assert!(place.offset < bytes.len() as u64);
        let again = reader.read(place, |record| {
            assert_eq!(record.time, *time);
            match record.body {
                Body::Event { fields, .. } => fields.len(),
                Body::Other { data, .. } => data.len(),
            }
        });
        assert_eq!(again, Ok(*data));
    }
    statistics.damage.map_or(Ok(places.len() as u64), |damage| {
        assert!(damage.offset <= bytes.len() as u64);
        Err(damage.to_string())
    })
}

/// A trace of some events, in buffers of 1 KiB for two processors, and of all kinds of records.
fn trace() -> Vec<u8> {
    let session = Session { name: "s", file: "f", buffer: 1024, processors: 2, start: 1 << 57 };
    let mut writer = Writer::new(Cursor::new(Vec::new()), &session).unwrap();
    for (n, event) in (0..).zip(Event::samples(3).iter().take(20)) {
        let Recorded { metadata, fields } = Recorded::of(event);
        let event = etl::Event {
            time: session.start + n,
            processor: u16::try_from(n % 2).unwrap(),
            process: 1,
            thread: 1,
            provider: [7; 16],
            descriptor: Descriptor { id: event.id(), level: 4, ..Descriptor::default() },
            traits: TRAITS,
            metadata,
            fields: &fields,
        };
        writer.write(&event).unwrap();
    }
    let mut bytes = writer.finish(session.start + 99).unwrap().into_inner();
    // One more buffer, with records of the other kinds: system, compact, perfinfo, classic, instance, message.
    let mut buffer = bytes[1024..1024 + 72].to_vec();
    for (kind, marker, size, at) in [
        (2, 0xC0, 40, 4),
        (4, 0xC0, 24, 4),
        (0x11, 0xC0, 21, 4),
        (0x14, 0xC0, 50, 0),
        (0x15, 0xC0, 56, 0),
        (0, 0x90, 60, 0),
    ] {
        let mut record = vec![0_u8; size];
        record[2..4].copy_from_slice(&[kind, marker]);
        record[6..8].copy_from_slice(&[0x2B, 0]);
        if at == 4 {
            record[7] = 3;
        }
        record[at] = u8::try_from(size).unwrap();
        buffer.extend(record);
        buffer.resize(buffer.len().next_multiple_of(8), 0);
    }
    let used = u32::try_from(buffer.len()).unwrap().to_le_bytes();
    buffer[48..52].copy_from_slice(&used);
    buffer.resize(1024, 0xFF);
    bytes.extend(buffer);
    bytes
}

#[test]
fn every_cut_of_a_trace_is_read_to_its_damage() {
    let whole = trace();
    assert_eq!(read_trace(&whole), Ok(20 + 6));
    for length in 0..whole.len() {
        // What is cut between two buffers is shorter, and whole.
        assert_eq!(
            read_trace(&whole[..length]).is_ok(),
            length > 0 && length.is_multiple_of(1024),
            "{length}"
        );
    }
}

#[test]
fn a_description_that_is_larger_than_what_it_describes_is_refused() {
    // An array of 65,535 structures, of which each has 65,535 structures without a field, and so on.
    let mut metadata = b"\0\0\0E\0".to_vec();
    for _ in 0..15 {
        metadata.extend(b"s\0\xB8\x01\xFF\xFF");
    }
    metadata.extend(b"s\0\xB8\0\xFF\xFF");
    let length = u16::try_from(metadata.len()).unwrap().to_le_bytes();
    metadata[..2].copy_from_slice(&length);
    assert_eq!(tracelogging::decode(&metadata, &[]).unwrap_err(), "the event has more values than it can");
    // And structures in structures.
    let mut metadata = [&b"\0\0\0E\0"[..], &b"s\0\x98\x01".repeat(16_000)].concat();
    let length = u16::try_from(metadata.len()).unwrap().to_le_bytes();
    metadata[..2].copy_from_slice(&length);
    assert_eq!(tracelogging::decode(&metadata, &[]).unwrap_err(), "structures lie too deep in each other");
    // Names that would be told again and again.
    let name = "n".repeat(30_000);
    let mut metadata = [b"\0\0\0E\0s\0\xB8\x01\xFF\xFF", name.as_bytes(), b"\0\0"].concat();
    let length = u16::try_from(metadata.len()).unwrap().to_le_bytes();
    metadata[..2].copy_from_slice(&length);
    assert_eq!(tracelogging::decode(&metadata, &[]).unwrap_err(), "the event has more values than it can");
}

#[test]
fn every_cut_of_a_file_is_read_to_its_damage() {
    for file in files() {
        for length in 0..file.len() {
            read(&file[..length]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_changed_anywhere_do_no_harm(
        file in 0..files().len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = files().swap_remove(file);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read(&bytes);
    }

    #[test]
    fn bytes_changed_anywhere_in_a_trace_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        // Most of a trace is what no header says; these are headers.
        headers in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..256, any::<u8>()), 0..4),
    ) {
        let mut bytes = trace();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        for (buffer, offset, value) in headers {
            let place = buffer.index(bytes.len() / 1024) * 1024 + offset;
            bytes[place] = value;
        }
        let _outcome = read_trace(&bytes);
    }

    #[test]
    fn metadata_and_fields_of_any_bytes_do_no_harm(
        description in prop::collection::vec(
            prop::sample::select(vec![0_u8, 1, 2, 4, 8, 14, 18, 19, 22, 24, 0x38, 0x44, 0x58, 0x62, 0x84, 0x98, 0xB8, 0xFF, b'x']),
            0..100,
        ),
        fields in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let length = u16::try_from(description.len() + 2).unwrap().to_le_bytes();
        let _outcome = tracelogging::decode(&[&length[..], &description].concat(), &fields);
        let _outcome = tracelogging::decode(&description, &fields);
        let _outcome = tracelogging::provider_name(&fields);
    }

    #[test]
    fn frames_of_any_bytes_do_no_harm(
        link_type in prop::sample::select(vec![0u16, 1, 12, 101, 108, 113, 228, 229, 276, 9999]),
        data in prop::collection::vec(any::<u8>(), 0..200),
        more in 0u32..200,
    ) {
        let wire_len = u32::try_from(data.len()).unwrap() + more;
        let frame = weir_cli::run::capture::Frame { link_type, time: 0, wire_len, data: &data };
        if let Ok((_, packet)) = packet::decode(&frame) {
            prop_assert!(packet.transport_len <= wire_len);
            prop_assert!(packet.transport_header_len <= packet.transport_len);
        }
    }
}

#[test]
fn a_capture_that_a_fuzzer_made_is_read_whole() {
    let Some(path) = shared("captures/fuzz-2020-02-16-11740.pcap") else { return };
    let (end, _) = read(&std::fs::read(path).unwrap());
    assert_eq!(end, End::Complete);
}
