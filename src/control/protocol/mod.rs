//! The control protocol, version 1: what goes over the wire, and nothing of what carries it.
//!
//! [PROTOCOL.md](../PROTOCOL.md) describes it for those who write a client. Pure: no kernel types, no memory but the
//! caller's, no clock and no randomness but what the caller passes in; any IRQL, though a handshake is long work for
//! PASSIVE_LEVEL. Whatever bytes come in, they are taken or refused, never a panic.
//!
//! | module | what |
//! | --- | --- |
//! | [`frame`] | lengths before messages, read however the stream is cut |
//! | [`noise`] | handshake and encryption |
//! | [`message`] | requests, replies and events in CBOR |
//! | [`role`] | who may connect, and what for |
//! | [`subscription`] | credits of those who follow events, and what they lost |
//! | [`upload`] | a policy that comes in chunks |
//! | [`limit`] | how often a source may begin |
//!
//! A connection: bytes go through a [`frame::Reader`], limited to the length of the handshake's message; the handshake
//! gives a [`noise::Transport`]; from then on each frame is one message, of [`MAX_MESSAGE`] bytes at most.

#[macro_use]
pub mod named;

pub mod frame;
pub mod limit;
pub mod message;
pub mod noise;
pub mod role;
pub mod subscription;
pub mod upload;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The version that holds with a client whose highest is `theirs`; `None`: there is none.
pub fn common_version(theirs: u32) -> Option<u32> {
    (theirs >= VERSION).then_some(VERSION)
}

/// The most bytes of a frame after its length: a message and its tag.
pub const MAX_FRAME: usize = 16 * 1024;

/// The most bytes of a message.
pub const MAX_MESSAGE: usize = MAX_FRAME - noise::TAG;

/// Encrypts the message of `length` bytes that stands in `buffer` after room for the frame's length, and makes the
/// frame of it. Returns its size, which is `length` + [`OVERHEAD`].
///
/// # Errors
/// The message is longer than [`MAX_MESSAGE`], the buffer has no room for the frame, or the transport is at its end.
pub fn seal(
    transport: &mut noise::Transport,
    buffer: &mut [u8],
    length: usize,
) -> Result<usize, noise::TransportError> {
    let (head, rest) =
        buffer.split_first_chunk_mut::<{ frame::HEADER }>().ok_or(noise::TransportError::NoRoom)?;
    let sealed = transport.seal(rest, length)?;
    *head = frame::header(sealed).ok_or(noise::TransportError::TooLong { length })?;
    Ok(sealed.saturating_add(frame::HEADER))
}

/// What a frame has besides its message: the length before it, the tag after it.
pub const OVERHEAD: usize = frame::HEADER + noise::TAG;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{VERSION, common_version};

    #[test]
    fn the_version_is_the_highest_that_both_speak() {
        assert_eq!(common_version(VERSION), Some(VERSION));
        assert_eq!(common_version(u32::MAX), Some(VERSION));
        assert_eq!(common_version(0), None);
    }
}
