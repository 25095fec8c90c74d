//! What a session has received and the worker has not taken yet.
//!
//! Filled by callbacks, under a lock; frames leave it whole. It has room for a small frame at first, and for the
//! largest when one comes. What finds no room is not taken from WSK, which then holds the peer up.
#![forbid(unsafe_code)]

use super::protocol::frame::{self, HEADER};
use crate::kernel::Result;
use crate::kernel::pool::{PoolSlice, tags};
use crate::wsk::Data;

/// Room at first, in bytes: most requests, and the handshake's messages, are shorter.
pub(super) const SMALL: usize = 1024;

/// The bytes.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: PoolSlice<u8>,
    filled: usize,
    /// WSK has more, and tells nothing of it until it is asked for.
    pub(super) refused: bool,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A frame of so many bytes after its length.
    Frame(usize),
    /// The frame that has begun is not complete.
    Incomplete,
    /// There is no room for the frame that has begun.
    NoRoom,
}

impl Inbox {
    /// Room for [`SMALL`] bytes.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new() -> Result<Self> {
        Ok(Self { bytes: PoolSlice::try_zeroed(tags::CONTROL, SMALL)?, filled: 0, refused: false })
    }

    /// How many bytes wait to be taken.
    pub(super) const fn filled(&self) -> usize {
        self.filled
    }

    /// Takes what there is room for; how many bytes.
    ///
    /// # Errors
    /// The data cannot be read.
    pub(super) fn fill(&mut self, data: &mut Data<'_>) -> Result<usize> {
        let place = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let taken = data.read(place)?;
        self.filled = self.filled.saturating_add(taken);
        self.refused |= !data.is_empty();
        Ok(taken)
    }

    /// How many bytes there is room for.
    pub(super) fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.filled)
    }

    /// Moves the next frame, without its length, to the beginning of `into`, which has room for `limit` bytes.
    ///
    /// # Errors
    /// What comes is no frame of at most `limit` bytes.
    pub(super) fn next(&mut self, limit: usize, into: &mut [u8]) -> core::result::Result<Next, frame::What> {
        let filled = self.bytes.get_mut(..self.filled).unwrap_or_default();
        let Some((head, rest)) = filled.split_first_chunk::<HEADER>() else { return Ok(Next::Incomplete) };
        let length = frame::length(*head, limit)?;
        let Some(message) = rest.get(..length) else {
            let size = length.saturating_add(HEADER);
            return Ok(if size > self.bytes.len() { Next::NoRoom } else { Next::Incomplete });
        };
        for (place, byte) in into.iter_mut().zip(message) {
            *place = *byte;
        }
        let size = length.saturating_add(HEADER);
        let kept = filled.len().saturating_sub(size);
        filled.copy_within(size.., 0);
        self.filled = kept;
        Ok(Next::Frame(length))
    }

    /// Goes on in `other`, which has room for what there is; what it was in before.
    pub(super) fn move_into(&mut self, mut other: PoolSlice<u8>) -> PoolSlice<u8> {
        if other.len() < self.filled {
            return other;
        }
        for (place, byte) in other.iter_mut().zip(self.bytes.iter().take(self.filled)) {
            *place = *byte;
        }
        core::mem::replace(&mut self.bytes, other)
    }

    /// Whether it is larger than it has to be.
    pub(super) fn is_oversized(&self) -> bool {
        self.bytes.len() > SMALL && self.filled == 0
    }
}
