//! Held against public vectors, against another implementation, and against messages that were tampered with.

use std::format;
use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::control::protocol::{MAX_FRAME, MAX_MESSAGE, OVERHEAD, frame, seal as seal_frame};

#[path = "vectors.rs"]
mod vectors;
use vectors::VECTORS;

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn key(text: &str) -> [u8; KEY] {
    hex(text).try_into().unwrap()
}

fn random(seed: u8) -> [u8; KEY] {
    [seed; KEY]
}

/// Both sides' static keys.
fn sides() -> (Keys, Keys) {
    (Keys::new(&[0x11; KEY]), Keys::new(&[0x22; KEY]))
}

fn connect() -> (Transport, Transport) {
    let (client, server) = sides();
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
    let responder = Responder::read(&server, &mut first).unwrap();
    assert_eq!(responder.peer(), client.public());
    let server = responder.accept(&random(4), &mut second).unwrap();
    (initiator.finish(&mut second).unwrap(), server)
}

fn sealed(transport: &mut Transport, message: &[u8]) -> Vec<u8> {
    let mut buffer = [message, &[0; TAG]].concat();
    assert_eq!(transport.seal(&mut buffer, message.len()), Ok(buffer.len()));
    buffer
}

fn opened(transport: &mut Transport, message: &[u8]) -> Result<Vec<u8>, TransportError> {
    transport.open(&mut message.to_vec()).map(|message| message.to_vec())
}

#[test]
fn the_public_vectors_hold() {
    for vector in VECTORS {
        let source = vector.source;
        let prologue = hex(vector.prologue);
        let (client, server) = (Keys::new(&key(vector.initiator)), Keys::new(&key(vector.responder)));
        assert_eq!(server.public().0, key(vector.responder_public), "{source}");
        // What the messages have besides their payloads.
        let frame = |(payload, ciphertext): (&str, &str), overhead: usize| {
            let (payload, ciphertext) = (hex(payload), hex(ciphertext));
            assert_eq!(payload.len() + overhead, ciphertext.len(), "{source}");
            let mut message = vec![0; overhead - TAG];
            message.extend(&payload);
            message.extend([0; TAG]);
            (payload, message, ciphertext)
        };

        let (payload, mut message, expected) = frame(vector.messages[0], FIRST);
        let ephemeral = &key(vector.initiator_ephemeral);
        let initiator =
            Initiator::start_with(&prologue, &client, server.public(), ephemeral, &mut message).unwrap();
        assert_eq!(message, expected, "{source}");
        let responder = Responder::read_with(&prologue, &server, &mut message).unwrap();
        assert_eq!(responder.peer(), client.public(), "{source}");
        assert_eq!(message[FIRST - TAG..][..payload.len()], payload, "{source}");

        let (payload, mut message, expected) = frame(vector.messages[1], SECOND);
        let ephemeral = &key(vector.responder_ephemeral);
        let (mut server, server_hash) = responder.accept_with(ephemeral, &mut message).unwrap();
        assert_eq!(message, expected, "{source}");
        let (mut client, client_hash) = initiator.finish_with(&mut message).unwrap();
        assert_eq!(message[KEY..][..payload.len()], payload, "{source}");
        assert_eq!(client_hash, server_hash, "{source}");
        if !vector.handshake_hash.is_empty() {
            assert_eq!(client_hash, key(vector.handshake_hash), "{source}");
        }

        for (index, message) in vector.messages.iter().enumerate().skip(2) {
            let (from, to) =
                if index % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let message = sealed(from, &hex(message.0));
            assert_eq!(message, hex(vector.messages[index].1), "{source} {index}");
            assert_eq!(opened(to, &message).unwrap(), hex(vector.messages[index].0), "{source} {index}");
        }
    }
}

fn snow<'k>(private: &'k [u8], prologue: &'k [u8]) -> ::snow::Builder<'k> {
    ::snow::Builder::new(NAME.parse().unwrap())
        .local_private_key(private)
        .unwrap()
        .prologue(prologue)
        .unwrap()
}

#[test]
fn another_implementation_connects_as_either_side_and_changes_keys_at_the_same_message() {
    let (client, server) = sides();
    let mut other = snow(&[0x11; KEY], PROLOGUE)
        .remote_public_key(&server.public().0)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[3; KEY])
        .build_initiator()
        .unwrap();
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    assert_eq!(other.write_message(&[], &mut first).unwrap(), FIRST);
    let responder = Responder::read(&server, &mut first).unwrap();
    assert_eq!(responder.peer(), client.public());
    let mut this = responder.accept(&random(4), &mut second).unwrap();
    assert_eq!(other.read_message(&second, &mut []).unwrap(), 0);
    let mut other = other.into_transport_mode().unwrap();
    let mut buffer = [0; 64];
    for count in 1..=REKEY_INTERVAL + 3 {
        let length = other.write_message(b"up", &mut buffer).unwrap();
        assert_eq!(this.open(&mut buffer[..length]).unwrap(), b"up");
        let down = sealed(&mut this, b"down");
        assert_eq!(other.read_message(&down, &mut buffer).unwrap(), 4);
        if count == REKEY_INTERVAL {
            other.rekey_outgoing();
            other.rekey_incoming();
        }
    }

    let mut other = snow(&[0x22; KEY], PROLOGUE)
        .fixed_ephemeral_key_for_testing_only(&[4; KEY])
        .build_responder()
        .unwrap();
    let this = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
    other.read_message(&first, &mut []).unwrap();
    assert_eq!(other.get_remote_static().unwrap(), client.public().0);
    other.write_message(&[], &mut second).unwrap();
    let mut this = this.finish(&mut second).unwrap();
    let mut other = other.into_transport_mode().unwrap();
    let up = sealed(&mut this, b"up");
    assert_eq!(other.read_message(&up, &mut buffer).unwrap(), 2);
}

#[test]
fn a_handshake_for_another_key_or_prologue_is_refused() {
    let (client, server) = sides();
    let other = Keys::new(&[0x33; KEY]);
    let mut first = [0; FIRST];
    let _initiator = Initiator::start(&client, other.public(), &random(3), &mut first).unwrap();
    assert_eq!(Responder::read(&server, &mut first).unwrap_err(), HandshakeError::Forged);
    let _initiator =
        Initiator::start_with(b"weir/2", &client, server.public(), &random(3), &mut first).unwrap();
    assert_eq!(Responder::read(&server, &mut first).unwrap_err(), HandshakeError::Forged);

    // An impostor cannot answer in the responder's place.
    let (mut second, mut copy) = ([0; SECOND], [0; FIRST]);
    let initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
    let _other = Initiator::start(&client, other.public(), &random(3), &mut copy).unwrap();
    let impostor = Responder::read(&other, &mut copy).unwrap();
    let _transport = impostor.accept(&random(4), &mut second).unwrap();
    assert_eq!(initiator.finish(&mut second).unwrap_err(), HandshakeError::Forged);
}

/// What anybody can compute without a key is refused: the points whose secrets are all zero (RFC 7748, section 6.1).
#[test]
fn keys_that_give_no_secret_are_refused() {
    let (client, server) = sides();
    let low_order = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    for point in [
        [0; KEY],
        {
            let mut one = [0; KEY];
            one[0] = 1;
            one
        },
        key(low_order),
    ] {
        let mut first = [0; FIRST];
        let started = Initiator::start(&client, &PublicKey(point), &random(3), &mut first);
        assert_eq!(started.unwrap_err(), HandshakeError::WeakKey);
        let _initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
        first[..KEY].copy_from_slice(&point);
        assert_eq!(Responder::read(&server, &mut first).unwrap_err(), HandshakeError::WeakKey);
    }
}

#[test]
fn every_changed_bit_of_a_handshake_ends_it() {
    let (client, server) = sides();
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let start = |message: &mut _| Initiator::start(&client, server.public(), &random(3), message).unwrap();
    let _initiator = start(&mut first);
    for bit in 0..FIRST * 8 {
        let mut changed = first;
        changed[bit / 8] ^= 1 << (bit % 8);
        // The highest bit of a point is not looked at (RFC 7748, section 5), but is part of what is hashed.
        assert_eq!(Responder::read(&server, &mut changed).unwrap_err(), HandshakeError::Forged, "bit {bit}");
    }
    let _transport =
        Responder::read(&server, &mut first.clone()).unwrap().accept(&random(4), &mut second).unwrap();
    for bit in 0..SECOND * 8 {
        let mut changed = second;
        changed[bit / 8] ^= 1 << (bit % 8);
        let initiator = start(&mut [0; FIRST]);
        assert_eq!(initiator.finish(&mut changed).unwrap_err(), HandshakeError::Forged, "bit {bit}");
    }
}

#[test]
fn a_handshake_message_has_one_length() {
    let (client, server) = sides();
    let mut first = [0; FIRST];
    for length in (0..FIRST + 40).filter(|length| *length != FIRST) {
        let _initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
        let mut message = first.to_vec();
        message.resize(length, 0);
        let expected = HandshakeError::Length { length, expected: FIRST };
        assert_eq!(Responder::read(&server, &mut message).unwrap_err(), expected);
    }
    for length in (0..SECOND + 40).filter(|length| *length != SECOND) {
        let initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
        let expected = HandshakeError::Length { length, expected: SECOND };
        assert_eq!(initiator.finish(&mut vec![0; length]).unwrap_err(), expected);
        assert_eq!(expected.to_string(), format!("a handshake message of {length} bytes, where 48 are due"));
    }
}

#[test]
fn a_first_message_sent_again_opens_nothing() {
    let (client, server) = sides();
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let initiator = Initiator::start(&client, server.public(), &random(3), &mut first).unwrap();
    let (recorded, responder) = (first, Responder::read(&server, &mut first).unwrap());
    let _transport = responder.accept(&random(4), &mut second).unwrap();
    let mut client = initiator.finish(&mut second).unwrap();
    let request = sealed(&mut client, b"request");

    let mut replayed = recorded;
    let responder = Responder::read(&server, &mut replayed).unwrap();
    let mut server = responder.accept(&random(5), &mut second).unwrap();
    assert_eq!(opened(&mut server, &request), Err(TransportError::Forged));
}

#[test]
fn a_message_passes_once_in_its_order_and_unchanged() {
    type Spoil<'s> = &'s dyn Fn(&mut Transport, &mut Transport);
    let spoil: [Spoil<'_>; 4] = [
        // Sent twice.
        &|from, to| {
            let message = sealed(from, b"one");
            assert_eq!(opened(to, &message).unwrap(), b"one");
            assert_eq!(opened(to, &message), Err(TransportError::Forged));
        },
        // Left out.
        &|from, to| {
            let _lost = sealed(from, b"one");
            let message = sealed(from, b"two");
            assert_eq!(opened(to, &message), Err(TransportError::Forged));
        },
        // Sent back.
        &|from, _| {
            let message = sealed(from, b"one");
            assert_eq!(opened(from, &message), Err(TransportError::Forged));
        },
        // Cut to nothing.
        &|_, to| assert_eq!(opened(to, &[0; TAG - 1]), Err(TransportError::TooShort { length: TAG - 1 })),
    ];
    for spoil in spoil {
        let (mut client, mut server) = connect();
        spoil(&mut client, &mut server);
    }
    let (mut client, mut server) = connect();
    let message = sealed(&mut client, b"a message");
    for bit in 0..message.len() * 8 {
        let mut copy = Transport {
            send: Cipher { key: Key::default(), nonce: 0 },
            receive: Cipher { key: server.receive.key.clone(), nonce: server.receive.nonce },
        };
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opened(&mut copy, &changed), Err(TransportError::Forged), "bit {bit}");
        assert_eq!(opened(&mut copy, &message), Err(TransportError::Ended), "it stays at its end");
        assert_eq!(*copy.receive.key, [0; KEY], "nothing can be read with what is left");
    }
    for length in 0..message.len() {
        let mut copy = Transport {
            send: Cipher { key: Key::default(), nonce: 0 },
            receive: Cipher { key: server.receive.key.clone(), nonce: server.receive.nonce },
        };
        assert!(opened(&mut copy, &message[..length]).is_err(), "cut to {length}");
    }
    assert_eq!(opened(&mut server, &message).unwrap(), b"a message");
}

#[test]
fn a_refused_message_changes_nothing() {
    let (mut client, mut server) = connect();
    let mut buffer = vec![7; MAX_MESSAGE + TAG + 1];
    assert_eq!(
        client.seal(&mut buffer, MAX_MESSAGE + 1),
        Err(TransportError::TooLong { length: MAX_MESSAGE + 1 })
    );
    assert_eq!(client.seal(&mut buffer[..9], 9), Err(TransportError::NoRoom));
    assert_eq!(client.seal(&mut buffer, usize::MAX), Err(TransportError::TooLong { length: usize::MAX }));
    assert!(buffer.iter().all(|byte| *byte == 7));
    assert_eq!(client.counts(), (0, 0));
    assert_eq!(client.seal(&mut buffer, MAX_MESSAGE), Ok(MAX_FRAME));
    assert_eq!(server.open(&mut buffer), Err(TransportError::TooLong { length: MAX_FRAME + 1 }));
    assert_eq!(server.open(&mut buffer[..MAX_FRAME]).unwrap().len(), MAX_MESSAGE);
}

#[test]
fn a_key_protects_no_more_messages_than_it_may() {
    let (mut client, mut server) = connect();
    let original = *client.send.key;
    client.send.nonce = REKEY_INTERVAL - 1;
    server.receive.nonce = REKEY_INTERVAL - 1;
    let message = sealed(&mut client, b"the last of its key");
    assert_ne!(*client.send.key, original);
    assert_eq!(opened(&mut server, &message).unwrap(), b"the last of its key");
    assert_eq!(*client.send.key, *server.receive.key);
    let message = sealed(&mut client, b"the first of the next");
    assert_eq!(opened(&mut server, &message).unwrap(), b"the first of the next");

    client.send.nonce = ENDED - 1;
    server.receive.nonce = ENDED - 1;
    let message = sealed(&mut client, b"the very last");
    assert_eq!(opened(&mut server, &message).unwrap(), b"the very last");
    assert_eq!(client.seal(&mut [0; 32], 1), Err(TransportError::Ended));
    assert_eq!(opened(&mut server, &message), Err(TransportError::Ended));
    assert_eq!(*client.send.key, [0; KEY]);
}

#[test]
fn a_sealed_frame_is_one_that_the_reader_takes() {
    let (mut client, mut server) = connect();
    let mut buffer = vec![0; MAX_FRAME + frame::HEADER];
    buffer[frame::HEADER..][..5].copy_from_slice(b"hello");
    assert_eq!(seal_frame(&mut client, &mut buffer[..5 + OVERHEAD - 1], 5), Err(TransportError::NoRoom));
    assert_eq!(seal_frame(&mut client, &mut [], 0), Err(TransportError::NoRoom));
    let size = seal_frame(&mut client, &mut buffer, 5).unwrap();
    assert_eq!(size, 5 + OVERHEAD);
    let (mut reader, mut message) = (frame::Reader::new(MAX_FRAME), [0; 64]);
    let length = reader.read(&mut message, &buffer[..size]).unwrap().frame.unwrap();
    assert_eq!(server.open(&mut message[..length]).unwrap(), b"hello");
}

#[test]
fn keys_are_read_as_they_are_printed_and_private_ones_are_not_printed() {
    let keys = Keys::new(&[0xAB; KEY]);
    let text = keys.public().to_string();
    assert_eq!(PublicKey::parse(text.encode_utf16()), Some(*keys.public()));
    assert_eq!(PublicKey::parse(text.to_uppercase().encode_utf16()), Some(*keys.public()));
    for broken in
        [&text[1..], &format!("{text}0"), &format!(" {}", &text[1..]), &text.replace(&text[3..5], "xy"), ""]
    {
        assert_eq!(PublicKey::parse(broken.encode_utf16()), None, "{broken:?}");
    }
    assert_eq!(format!("{keys:?}"), format!("Keys {{ public: {text}, .. }}"));
    let (client, server) = connect();
    assert_eq!(format!("{client:?} {server:?}"), "Transport { .. } Transport { .. }");
}

#[test]
fn a_digest_is_that_of_the_whole_whatever_the_pieces() {
    // RFC 7693, appendix B.
    let expected = key("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    for at in 0..=3 {
        let mut digest = Digest::default();
        digest.update(&b"abc"[..at]);
        digest.update(&b"abc"[at..]);
        assert_eq!(digest.finish(), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_as_any_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (client, server) = sides();
        prop_assert!(Responder::read(&server, &mut bytes.clone()).is_err());
        let initiator = Initiator::start(&client, server.public(), &random(3), &mut [0; FIRST]).unwrap();
        prop_assert!(initiator.finish(&mut bytes.clone()).is_err());
        prop_assert!(opened(&mut connect().0, &bytes).is_err());
    }

    #[test]
    fn any_messages_arrive_in_both_directions(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
    ) {
        let (mut client, mut server) = connect();
        for (up, message) in messages {
            let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let bytes = sealed(from, &message);
            prop_assert_eq!(opened(to, &bytes).unwrap(), message);
        }
    }
}
