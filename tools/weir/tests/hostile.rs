//! Captures that were made to hurt: reading never panics, never hands on more than the file holds, and ends.

mod common;

use std::io::Cursor;
use std::ops::ControlFlow;

use common::{CONTAINERS, capture, links, ping, session, shared, udp6};
use proptest::prelude::*;
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
