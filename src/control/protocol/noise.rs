//! `Noise_IK_25519_ChaChaPoly_BLAKE2s` (the Noise Protocol Framework, revision 34), both roles.
//!
//! The pattern, in the specification's words:
//! ```text
//! <- s
//! ...
//! -> e, es, s, ss
//! <- e, ee, se
//! ```
//! Neither message carries a payload: the first could be replayed. Each has one length, and every other one is refused
//! before any work is done. The initiator knows the responder's key beforehand; the responder learns the initiator's
//! from the first message and decides then ([`Responder::peer`]). Which side asks for what afterwards is not Noise's
//! business.
//!
//! This is the pattern and nothing else, over curve25519-dalek, chacha20, poly1305 and blake2. General implementations
//! take patterns apart at run time, and answer a message of the wrong length, or a call out of order, by a panic; here
//! each step is a type of its own, which can be taken once. The crates that put these primitives together
//! (x25519-dalek, chacha20poly1305) have panics in them that cannot occur; an image has none, so this does what they
//! do by the calls that return errors.
//!
//! Keys are overwritten when they are dropped; what the compiler has copied while they were moved, or the primitives had
//! on the stack, is out of reach. Randomness is the caller's: 32 bytes for each handshake, from a generator for keys,
//! never used twice. With the plain back ends a step of a handshake takes some 3 KiB of stack, and two or three
//! multiplications on the curve: it belongs on a thread at PASSIVE_LEVEL.
#![forbid(unsafe_code)]

use core::fmt;

use blake2::digest::Digest as _;
use blake2::{Blake2s256, digest};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use curve25519_dalek::constants::X25519_BASEPOINT;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::clamp_integer;
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit as _, UniversalHash as _};
use zeroize::Zeroizing;

#[cfg(all(
    image,
    not(all(chacha20_backend = "soft", curve25519_dalek_backend = "serial", poly1305_backend = "soft"))
))]
compile_error!(
    "a driver must not use vector registers beyond SSE: build with --cfg chacha20_backend=\"soft\" \
     --cfg curve25519_dalek_backend=\"serial\" --cfg poly1305_backend=\"soft\", as .cargo/config.toml has it"
);

/// The protocol's name.
pub const NAME: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// What both sides mix in first: a peer that means another protocol gets no further.
pub const PROLOGUE: &[u8] = b"weir/1";

/// The bytes of a key.
pub const KEY: usize = 32;
/// The bytes that encryption adds to a message.
pub const TAG: usize = 16;
/// The bytes of the handshake's first message: ephemeral key, encrypted static key, tag of the empty payload.
pub const FIRST: usize = KEY + KEY + TAG + TAG;
/// The bytes of the handshake's second message: ephemeral key, tag of the empty payload.
pub const SECOND: usize = KEY + TAG;
/// After so many messages each direction's key is replaced by the one that the specification's REKEY makes of it.
pub const REKEY_INTERVAL: u64 = 1 << 16;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY]);

impl PublicKey {
    /// Reads 64 hexadecimal digits, in either case.
    pub fn parse(units: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut units = units.into_iter();
        let mut digit = || char::from_u32(u32::from(units.next()?))?.to_digit(16);
        let mut key = [0; KEY];
        for byte in &mut key {
            *byte = u8::try_from(digit()? << 4 | digit()?).ok()?;
        }
        units.next().is_none().then_some(Self(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One side's static keys.
pub struct Keys {
    private: Key,
    public: PublicKey,
}

impl Keys {
    /// From a private key, which is any 32 bytes from a generator for keys.
    pub fn new(private: &[u8; KEY]) -> Self {
        let private = Key::new(*private);
        let public = public_of(&private);
        Self { private, public }
    }

    pub const fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Why there will be no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    /// The message has the wrong length.
    Length { length: usize, expected: usize },
    /// The message is not meant for this key, prologue or handshake, or was changed on the way.
    Forged,
    /// A key is one that makes every secret the same.
    WeakKey,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { length, expected } => {
                write!(f, "a handshake message of {length} bytes, where {expected} are due")
            }
            Self::Forged => f.write_str("a handshake message for another key or protocol, or damaged"),
            Self::WeakKey => f.write_str("a handshake with a key that gives no secret"),
        }
    }
}

impl core::error::Error for HandshakeError {}

/// Why a message cannot be sent, or was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportError {
    /// It is longer than a frame can hold.
    TooLong { length: usize },
    /// It is shorter than a tag.
    TooShort { length: usize },
    /// The buffer has no room for message and tag.
    NoRoom,
    /// It was changed on the way, left out, sent twice or out of order. Nothing can be read any more.
    Forged,
    /// As many messages have passed as a key may ever protect, or an earlier one was forged.
    Ended,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length } => write!(f, "a message of {length} bytes is too long"),
            Self::TooShort { length } => write!(f, "an encrypted message of {length} bytes is too short"),
            Self::NoRoom => f.write_str("no room for the message and its tag"),
            Self::Forged => f.write_str("a message that was damaged, repeated or out of order"),
            Self::Ended => f.write_str("the connection's keys have been used up or given up"),
        }
    }
}

impl core::error::Error for TransportError {}

type Key = Zeroizing<[u8; KEY]>;

/// The side that sends the first message, and waits for the second.
pub struct Initiator {
    symmetric: Symmetric,
    fixed: Key,
    ephemeral: Key,
}

impl Initiator {
    /// Writes the first message, to the responder with that key. `ephemeral` is random, and to be overwritten
    /// afterwards.
    ///
    /// # Errors
    /// [`HandshakeError::WeakKey`]: the responder's key is no key.
    pub fn start(
        local: &Keys,
        responder: &PublicKey,
        ephemeral: &[u8; KEY],
        message: &mut [u8; FIRST],
    ) -> Result<Self, HandshakeError> {
        Self::start_with(PROLOGUE, local, responder, ephemeral, message)
    }

    /// The payload, if any, is what stands in the message before its last tag.
    fn start_with(
        prologue: &[u8],
        local: &Keys,
        responder: &PublicKey,
        ephemeral: &[u8; KEY],
        message: &mut [u8],
    ) -> Result<Self, HandshakeError> {
        let mut symmetric = Symmetric::new(prologue, responder);
        let ephemeral = Key::new(*ephemeral);
        let (public, identity, payload) = first(message)?;
        *public = public_of(&ephemeral).0;
        symmetric.mix_hash(public);
        symmetric.mix_key(&agree(&ephemeral, responder)?);
        for (place, byte) in identity.iter_mut().zip(local.public.0) {
            *place = byte;
        }
        symmetric.seal(identity)?;
        symmetric.mix_key(&agree(&local.private, responder)?);
        symmetric.seal(payload)?;
        Ok(Self { symmetric, fixed: local.private.clone(), ephemeral })
    }

    /// Reads the second message, in place. The other side is then known to have the key it was called by.
    ///
    /// # Errors
    /// There will be no connection.
    pub fn finish(self, message: &mut [u8]) -> Result<Transport, HandshakeError> {
        expect(message, SECOND)?;
        self.finish_with(message).map(|(transport, _)| transport)
    }

    fn finish_with(mut self, message: &mut [u8]) -> Result<(Transport, [u8; KEY]), HandshakeError> {
        let (public, payload) = second(message)?;
        let other = PublicKey(*public);
        self.symmetric.mix_hash(public);
        self.symmetric.mix_key(&agree(&self.ephemeral, &other)?);
        self.symmetric.mix_key(&agree(&self.fixed, &other)?);
        self.symmetric.open(payload)?;
        let (send, receive) = self.symmetric.split();
        Ok((Transport { send, receive }, self.symmetric.hash))
    }
}

/// The side that has read the first message, and may write the second.
pub struct Responder {
    symmetric: Symmetric,
    peer: PublicKey,
    /// The peer's ephemeral key.
    ephemeral: PublicKey,
}

impl Responder {
    /// Reads the first message, in place. It may be one that was seen before: until the peer's first message after
    /// the handshake, nothing says that the peer is there.
    ///
    /// # Errors
    /// The connection is to be ended without an answer.
    pub fn read(local: &Keys, message: &mut [u8]) -> Result<Self, HandshakeError> {
        expect(message, FIRST)?;
        Self::read_with(PROLOGUE, local, message)
    }

    fn read_with(prologue: &[u8], local: &Keys, message: &mut [u8]) -> Result<Self, HandshakeError> {
        let mut symmetric = Symmetric::new(prologue, &local.public);
        let (public, identity, payload) = first(message)?;
        let ephemeral = PublicKey(*public);
        symmetric.mix_hash(public);
        symmetric.mix_key(&agree(&local.private, &ephemeral)?);
        symmetric.open(identity)?;
        let mut peer = PublicKey([0; KEY]);
        for (place, byte) in peer.0.iter_mut().zip(&*identity) {
            *place = *byte;
        }
        symmetric.mix_key(&agree(&local.private, &peer)?);
        symmetric.open(payload)?;
        Ok(Self { symmetric, peer, ephemeral })
    }

    /// Who has sent the first message, or once did.
    pub const fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// Writes the second message. `ephemeral` is random, and to be overwritten
    /// afterwards.
    ///
    /// # Errors
    /// There will be no connection.
    pub fn accept(
        self,
        ephemeral: &[u8; KEY],
        message: &mut [u8; SECOND],
    ) -> Result<Transport, HandshakeError> {
        self.accept_with(ephemeral, message).map(|(transport, _)| transport)
    }

    fn accept_with(
        mut self,
        ephemeral: &[u8; KEY],
        message: &mut [u8],
    ) -> Result<(Transport, [u8; KEY]), HandshakeError> {
        let ephemeral = Key::new(*ephemeral);
        let (public, payload) = second(message)?;
        *public = public_of(&ephemeral).0;
        self.symmetric.mix_hash(public);
        self.symmetric.mix_key(&agree(&ephemeral, &self.ephemeral)?);
        self.symmetric.mix_key(&agree(&ephemeral, &self.peer)?);
        self.symmetric.seal(payload)?;
        let (receive, send) = self.symmetric.split();
        Ok((Transport { send, receive }, self.symmetric.hash))
    }
}

/// What follows the handshake: messages in both directions, each in its order.
pub struct Transport {
    send: Cipher,
    receive: Cipher,
}

impl Transport {
    /// Encrypts the message of `length` bytes at the buffer's beginning, in place; its tag follows it. Returns the
    /// length with the tag.
    ///
    /// # Errors
    /// Nothing was encrypted, and the buffer is as it was.
    pub fn seal(&mut self, buffer: &mut [u8], length: usize) -> Result<usize, TransportError> {
        if length > super::MAX_MESSAGE {
            return Err(TransportError::TooLong { length });
        }
        let size = length.saturating_add(TAG);
        let sealed = buffer.get_mut(..size).ok_or(TransportError::NoRoom)?;
        self.send.seal(sealed)?;
        Ok(size)
    }

    /// Decrypts a message, in place.
    ///
    /// # Errors
    /// The connection is to be ended: a stream that lacks a message has no next one.
    pub fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<&'m mut [u8], TransportError> {
        let length = message.len();
        if length > super::MAX_FRAME {
            return Err(TransportError::TooLong { length });
        }
        self.receive.open(message)
    }

    /// Messages sent and received.
    pub const fn counts(&self) -> (u64, u64) {
        (self.send.nonce, self.receive.nonce)
    }
}

macro_rules! opaque {
    ($($name:ident)+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}

opaque! { Initiator Responder Transport }

// What a connection holds of each.
const _: () = {
    assert!(size_of::<Keys>() == 64);
    assert!(size_of::<Initiator>() == 160);
    assert!(size_of::<Responder>() == 160);
    assert!(size_of::<Transport>() == 80);
};

/// The specification's SymmetricState. Every key of this pattern encrypts one thing, so there is no nonce but 0.
struct Symmetric {
    hash: [u8; KEY],
    chaining: Key,
    key: Key,
}

impl Symmetric {
    fn new(prologue: &[u8], responder: &PublicKey) -> Self {
        let hash = hash(&[NAME.as_bytes()]);
        let mut symmetric = Self { hash, chaining: hash.into(), key: Key::default() };
        symmetric.mix_hash(prologue);
        symmetric.mix_hash(&responder.0);
        symmetric
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, secret: &Key) {
        (self.chaining, self.key) = derive(&self.chaining, &**secret);
    }

    /// Encrypts what stands before the room for its tag.
    fn seal(&mut self, sealed: &mut [u8]) -> Result<(), HandshakeError> {
        seal(&self.key, 0, &self.hash, sealed).ok_or(HandshakeError::Forged)?;
        self.mix_hash(sealed);
        Ok(())
    }

    /// Decrypts what stands before its tag.
    fn open(&mut self, sealed: &mut [u8]) -> Result<(), HandshakeError> {
        let next = hash(&[&self.hash, sealed]);
        open(&self.key, 0, &self.hash, sealed).ok_or(HandshakeError::Forged)?;
        self.hash = next;
        Ok(())
    }

    /// The keys of the initiator's messages, and of the responder's.
    fn split(&self) -> (Cipher, Cipher) {
        let (initiator, responder) = derive(&self.chaining, &[]);
        (Cipher { key: initiator, nonce: 0 }, Cipher { key: responder, nonce: 0 })
    }
}

/// The specification's CipherState.
struct Cipher {
    key: Key,
    /// That of the next message; [`ENDED`]: there is none.
    nonce: u64,
}

/// The nonce that protects no message: it makes the next key.
const ENDED: u64 = u64::MAX;

impl Cipher {
    fn seal(&mut self, sealed: &mut [u8]) -> Result<(), TransportError> {
        if self.nonce == ENDED {
            return Err(TransportError::Ended);
        }
        seal(&self.key, self.nonce, &[], sealed).ok_or(TransportError::NoRoom)?;
        self.advance();
        Ok(())
    }

    fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<&'m mut [u8], TransportError> {
        if self.nonce == ENDED {
            return Err(TransportError::Ended);
        }
        let length = message.len();
        let Some(rest) = length.checked_sub(TAG) else {
            self.end();
            return Err(TransportError::TooShort { length });
        };
        if open(&self.key, self.nonce, &[], message).is_none() {
            self.end();
            return Err(TransportError::Forged);
        }
        self.advance();
        Ok(message.get_mut(..rest).unwrap_or_default())
    }

    fn end(&mut self) {
        self.nonce = ENDED;
        self.key = Key::default();
    }

    fn advance(&mut self) {
        self.nonce = self.nonce.saturating_add(1);
        if self.nonce == ENDED {
            self.end();
        } else if self.nonce.is_multiple_of(REKEY_INTERVAL) {
            self.rekey();
        }
    }

    fn rekey(&mut self) {
        let mut block = Zeroizing::new([0; KEY + TAG]);
        // The block has room for its tag.
        let _sealed = seal(&self.key, ENDED, &[], &mut *block);
        for (place, byte) in self.key.iter_mut().zip(&*block) {
            *place = *byte;
        }
    }
}

/// Encrypts what stands before the room for its tag; `None`: there is none.
fn seal(key: &[u8; KEY], nonce: u64, associated: &[u8], sealed: &mut [u8]) -> Option<()> {
    let (text, place) = sealed.split_last_chunk_mut::<TAG>()?;
    let (mut stream, mac) = begin(key, nonce)?;
    stream.try_apply_keystream(text).ok()?;
    *place = tagged(mac, associated, text).finalize().into();
    Some(())
}

/// Decrypts what stands before its tag; `None`: the tag is not this one.
fn open(key: &[u8; KEY], nonce: u64, associated: &[u8], sealed: &mut [u8]) -> Option<()> {
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
    let (mut stream, mac) = begin(key, nonce)?;
    // In constant time.
    tagged(mac, associated, text).verify((&*tag).into()).ok()?;
    stream.try_apply_keystream(text).ok()
}

/// The stream for a message, and what makes its tag: its key is of the stream's first block (RFC 8439, section 2.6).
fn begin(key: &[u8; KEY], nonce: u64) -> Option<(ChaCha20, Poly1305)> {
    let [nonce @ .., _, _, _, _] = (u128::from(nonce) << 32).to_le_bytes();
    let mut stream = ChaCha20::new(key.into(), (&nonce).into());
    let mut block = Zeroizing::new([0; 64]);
    stream.try_apply_keystream(&mut *block).ok()?;
    let mac = Poly1305::new(block.first_chunk::<KEY>()?.into());
    Some((stream, mac))
}

/// What is authenticated (RFC 8439, section 2.8).
fn tagged(mut mac: Poly1305, associated: &[u8], text: &[u8]) -> Poly1305 {
    mac.update_padded(associated);
    mac.update_padded(text);
    let lengths = u128::from(text.len() as u64) << 64 | u128::from(associated.len() as u64);
    mac.update(&[lengths.to_le_bytes().into()]);
    mac
}

fn public_of(private: &Key) -> PublicKey {
    PublicKey(*multiply(private, &X25519_BASEPOINT))
}

fn agree(private: &Key, public: &PublicKey) -> Result<Key, HandshakeError> {
    let secret = multiply(private, &MontgomeryPoint(public.0));
    // RFC 7748, section 6.1: without looking at the bytes one by one.
    let any = secret.iter().fold(0, |any, byte| any | byte);
    if any == 0 { Err(HandshakeError::WeakKey) } else { Ok(secret) }
}

/// X25519 (RFC 7748, section 5), in constant time.
fn multiply(private: &Key, point: &MontgomeryPoint) -> Key {
    let scalar = Key::new(clamp_integer(**private));
    let bits = |byte: &u8| {
        let byte = *byte;
        (0..u8::BITS).rev().map(move |bit| byte.wrapping_shr(bit) & 1 != 0)
    };
    let product = Zeroizing::new(point.mul_bits_be(scalar.iter().rev().flat_map(bits)));
    Key::new(product.to_bytes())
}

/// BLAKE2s-256 of pieces.
fn hash(pieces: &[&[u8]]) -> [u8; KEY] {
    let mut hasher = Blake2s256::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}

/// HMAC (RFC 2104) with BLAKE2s-256, whose blocks have 64 bytes. Unlike the hmac crate's for such hashes, it leaves no
/// trace of the key behind.
fn authenticate(key: &[u8; KEY], pieces: &[&[u8]]) -> Key {
    let mut pad = Zeroizing::new([0x36_u8; 64]);
    for (place, byte) in pad.iter_mut().zip(key) {
        *place ^= byte;
    }
    let mut hasher = Blake2s256::new();
    hasher.update(*pad);
    for piece in pieces {
        hasher.update(piece);
    }
    let inner = Key::new(hasher.finalize().into());
    for byte in pad.iter_mut() {
        *byte ^= 0x36 ^ 0x5C;
    }
    Key::new(hash(&[&*pad, &*inner]))
}

/// The specification's HKDF with two outputs.
fn derive(chaining: &[u8; KEY], input: &[u8]) -> (Key, Key) {
    let temporary = authenticate(chaining, &[input]);
    let first = authenticate(&temporary, &[&[1]]);
    let second = authenticate(&temporary, &[&*first, &[2]]);
    (first, second)
}

fn expect(message: &[u8], expected: usize) -> Result<(), HandshakeError> {
    let length = message.len();
    if length == expected { Ok(()) } else { Err(HandshakeError::Length { length, expected }) }
}

type First<'m> = (&'m mut [u8; KEY], &'m mut [u8; KEY + TAG], &'m mut [u8]);

/// The parts of the first message: ephemeral key, encrypted static key, encrypted payload.
fn first(message: &mut [u8]) -> Result<First<'_>, HandshakeError> {
    let error = HandshakeError::Length { length: message.len(), expected: FIRST };
    let (public, rest) = message.split_first_chunk_mut().ok_or(error)?;
    let (identity, payload) = rest.split_first_chunk_mut().ok_or(error)?;
    Ok((public, identity, payload))
}

/// The parts of the second message: ephemeral key, encrypted payload.
fn second(message: &mut [u8]) -> Result<(&mut [u8; KEY], &mut [u8]), HandshakeError> {
    let error = HandshakeError::Length { length: message.len(), expected: SECOND };
    message.split_first_chunk_mut().ok_or(error)
}

/// The digest of something that goes up in pieces: BLAKE2s-256.
#[derive(Clone, Debug, Default)]
pub struct Digest(Blake2s256);

impl Digest {
    pub fn update(&mut self, piece: &[u8]) {
        digest::Update::update(&mut self.0, piece);
    }

    pub fn finish(self) -> [u8; KEY] {
        self.0.finalize().into()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
