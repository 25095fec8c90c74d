//! Frames: two bytes of length, the high one first, then as many bytes of message.
//!
//! A stream is cut wherever the network likes. A [`Reader`] takes the pieces as they come and gathers one frame at a
//! time in a buffer of the caller's. What cannot be a frame ends the stream: there is no way to find the next one.
#![forbid(unsafe_code)]

use core::fmt;

use super::MAX_FRAME;

/// The bytes of the length.
pub const HEADER: usize = size_of::<u16>();

/// The length before a message of so many bytes; `None` if no frame can have them.
pub fn header(length: usize) -> Option<[u8; HEADER]> {
    u16::try_from(length).ok().filter(|_| (1..=MAX_FRAME).contains(&length)).map(u16::to_be_bytes)
}

/// How many bytes follow a length, of at most `limit`.
///
/// # Errors
/// No frame has it.
pub fn length(head: [u8; HEADER], limit: usize) -> Result<usize, What> {
    match usize::from(u16::from_be_bytes(head)) {
        0 => Err(What::Empty),
        length if length > limit => Err(What::TooLong { length, limit }),
        length => Ok(length),
    }
}

/// Why a stream was given up, and at which byte of it, counted from 0: that of the frame's length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    pub at: u64,
    pub what: What,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It has no message.
    Empty,
    /// It is longer than one may be here.
    TooLong { length: usize, limit: usize },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, what } = self;
        match what {
            What::Empty => write!(f, "the frame at byte {at} is empty"),
            What::TooLong { length, limit } => {
                write!(f, "the frame at byte {at} has {length} bytes, and may have {limit} at most")
            }
        }
    }
}

impl core::error::Error for Refused {}

/// What came of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// So many bytes of the piece were taken; the others belong to later frames.
    pub taken: usize,
    /// A frame is complete: so many bytes, from the buffer's beginning on.
    pub frame: Option<usize>,
}

/// Gathers frames.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where in the stream the frame begins that is being read.
    at: u64,
    head: [u8; HEADER],
    /// How many bytes of the frame are there, those of its length included.
    have: usize,
    limit: usize,
    refused: Option<Refused>,
}

const _: () = assert!(size_of::<Reader>() <= 64);

impl Reader {
    /// A reader of frames of at most `limit` bytes (no more than [`MAX_FRAME`]) after their length.
    pub fn new(limit: usize) -> Self {
        Self { at: 0, head: [0; HEADER], have: 0, limit: limit.min(MAX_FRAME), refused: None }
    }

    /// From the next frame on, other ones may be longer, or shorter.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_FRAME);
    }

    /// Whether the stream may end here: between two frames.
    pub const fn is_between_frames(&self) -> bool {
        self.have == 0
    }

    /// Takes from `piece` what belongs to the next frame, into `buffer`, which must be the same from call to call
    /// until the frame is complete. With nothing left in the piece, nothing happens.
    ///
    /// # Errors
    /// The stream is to be given up; every later call says the same. A buffer that is shorter than the limit refuses
    /// what it has no room for.
    pub fn read(&mut self, buffer: &mut [u8], piece: &[u8]) -> Result<Progress, Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let mut taken = 0_usize;
        for byte in piece.iter().take(HEADER.saturating_sub(self.have)) {
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have = self.have.saturating_add(1);
            taken = taken.saturating_add(1);
        }
        let Some(have) = self.have.checked_sub(HEADER) else { return Ok(Progress { taken, frame: None }) };
        let limit = self.limit.min(buffer.len());
        let length = length(self.head, limit).map_err(|what| self.refuse(what))?;
        let message = buffer.get_mut(..length).unwrap_or_default();
        let missing = message.get_mut(have..).unwrap_or_default();
        let rest = piece.get(taken..).unwrap_or_default();
        let count = missing.len().min(rest.len());
        for (place, byte) in missing.iter_mut().zip(rest) {
            *place = *byte;
        }
        taken = taken.saturating_add(count);
        self.have = self.have.saturating_add(count);
        let size = length.saturating_add(HEADER);
        if self.have < size {
            return Ok(Progress { taken, frame: None });
        }
        self.at = self.at.wrapping_add(size as u64);
        self.have = 0;
        Ok(Progress { taken, frame: Some(length) })
    }

    fn refuse(&mut self, what: What) -> Refused {
        *self.refused.insert(Refused { at: self.at, what })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::string::ToString as _;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// All frames of a stream that comes in these pieces.
    fn frames(limit: usize, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Refused> {
        let (mut reader, mut buffer, mut frames) = (Reader::new(limit), vec![0; limit], Vec::new());
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                let progress = reader.read(&mut buffer, piece)?;
                assert!(progress.taken > 0, "it goes on");
                piece = &piece[progress.taken..];
                frames.extend(progress.frame.map(|length| buffer[..length].to_vec()));
            }
        }
        Ok(frames)
    }

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&header(message.len()).unwrap()[..], message].concat()).collect()
    }

    #[test]
    fn a_stream_may_be_cut_at_any_byte() {
        let messages = vec![vec![1], vec![2; 255], vec![3; 256], vec![4; 300]];
        let bytes = stream(&messages);
        assert_eq!(frames(300, &[&bytes]).unwrap(), messages);
        for at in 0..=bytes.len() {
            assert_eq!(frames(300, &[&bytes[..at], &bytes[at..]]).unwrap(), messages, "cut at {at}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(frames(300, &single).unwrap(), messages);
    }

    #[test]
    fn the_end_of_a_stream_is_an_end_between_frames_alone() {
        let bytes = stream(&[vec![7; 5]]);
        let (mut reader, mut buffer) = (Reader::new(5), [0; 5]);
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(reader.is_between_frames(), index == 0);
            reader.read(&mut buffer, &[*byte]).unwrap();
        }
        assert!(reader.is_between_frames());
    }

    #[test]
    fn what_cannot_be_a_frame_is_refused_with_its_place_and_for_good() {
        let mut bytes = stream(&[vec![7; 5]]);
        bytes.extend([0, 0]);
        let refused = frames(16, &[&bytes]).unwrap_err();
        assert_eq!(refused, Refused { at: 7, what: What::Empty });
        assert_eq!(refused.to_string(), "the frame at byte 7 is empty");

        let refused = frames(16, &[&[0, 17, 1]]).unwrap_err();
        assert_eq!(refused, Refused { at: 0, what: What::TooLong { length: 17, limit: 16 } });
        assert_eq!(refused.to_string(), "the frame at byte 0 has 17 bytes, and may have 16 at most");

        let mut reader = Reader::new(MAX_FRAME);
        assert_eq!(
            reader.read(&mut [0; 10], &[0, 11]),
            Err(Refused { at: 0, what: What::TooLong { length: 11, limit: 10 } }),
            "the buffer is shorter than the limit",
        );
        reader.set_limit(11);
        assert!(reader.read(&mut [0; 11], &[0, 1, 2]).is_err(), "a stream that was given up stays so");
    }

    #[test]
    fn no_frame_is_larger_than_16_kib() {
        assert_eq!(header(0), None);
        assert_eq!(header(1), Some([0, 1]));
        assert_eq!(header(MAX_FRAME), Some([0x40, 0]));
        assert_eq!(header(MAX_FRAME + 1), None);
        assert_eq!(header(65535), None);
        let mut reader = Reader::new(usize::MAX);
        let what = What::TooLong { length: MAX_FRAME + 1, limit: MAX_FRAME };
        assert_eq!(reader.read(&mut vec![0; 65535], &[0x40, 1]), Err(Refused { at: 0, what }));
    }

    #[test]
    fn the_limit_can_grow_when_the_other_side_is_known() {
        let (mut reader, mut buffer) = (Reader::new(2), [0; 4]);
        let first = reader.read(&mut buffer, &[0, 2, 8, 9, 0, 4]).unwrap();
        assert_eq!(first, Progress { taken: 4, frame: Some(2) });
        reader.set_limit(4);
        let rest = reader.read(&mut buffer, &[0, 4, 1, 2, 3, 4]).unwrap();
        assert_eq!(rest, Progress { taken: 6, frame: Some(4) });
    }

    proptest! {
        #[test]
        fn any_messages_in_any_pieces_arrive(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes = stream(&messages);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(frames(400, &pieces).unwrap(), messages);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes: Vec<u8>) {
            if let Ok(frames) = frames(64, &[&bytes]) {
                prop_assert!(stream(&frames).len() <= bytes.len());
            }
        }
    }
}
