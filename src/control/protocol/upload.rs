//! A policy on its way up: that it is all there, in its order, and the one that was announced.
//!
//! The bytes are the caller's to keep: an [`Upload`] says where each chunk belongs, and in the end whether they are the
//! right ones. Whether they are a policy is another question.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::message::{Begin, Chunk, Commit, ErrorCode};
use super::noise::Digest;

/// How long an applied policy decides unless it is confirmed, in seconds, if the request does not say.
pub const WINDOW: u32 = 60;
/// The longest window that a request may ask for, in seconds.
pub const MAX_WINDOW: u32 = 3600;

/// A policy that goes up.
#[derive(Clone, Debug)]
pub struct Upload {
    number: u32,
    size: u32,
    announced: [u8; 32],
    received: u32,
    digest: Digest,
}

const _: () = assert!(size_of::<Upload>() <= 192);

impl Upload {
    /// The upload with that number, of an image of at most `most` bytes.
    ///
    /// # Errors
    /// [`ErrorCode::Limit`]: it is larger. [`ErrorCode::Malformed`]: it is empty.
    pub fn begin(number: u32, begin: &Begin, most: u32) -> Result<Self, ErrorCode> {
        match begin.size {
            0 => Err(ErrorCode::Malformed),
            size if size > most => Err(ErrorCode::Limit),
            size => {
                Ok(Self { number, size, announced: begin.digest, received: 0, digest: Digest::default() })
            }
        }
    }

    /// The image's size.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many bytes are there.
    pub const fn received(&self) -> u32 {
        self.received
    }

    /// Takes a chunk, and says where its bytes belong in the image.
    ///
    /// # Errors
    /// Nothing has changed. [`ErrorCode::NotFound`]: it is of another upload. [`ErrorCode::Conflict`]: it does not
    /// begin where the one before ended. [`ErrorCode::Malformed`]: it has no bytes, or more than are missing.
    pub fn chunk(&mut self, chunk: &Chunk<'_>) -> Result<Range<usize>, ErrorCode> {
        if chunk.upload != self.number {
            return Err(ErrorCode::NotFound);
        }
        if chunk.offset != self.received {
            return Err(ErrorCode::Conflict);
        }
        let missing = self.size.saturating_sub(self.received);
        let length = u32::try_from(chunk.bytes.len()).ok().filter(|length| (1..=missing).contains(length));
        let end = self.received.saturating_add(length.ok_or(ErrorCode::Malformed)?);
        let (Ok(start), Ok(stop)) = (usize::try_from(self.received), usize::try_from(end)) else {
            return Err(ErrorCode::Limit);
        };
        self.digest.update(chunk.bytes);
        self.received = end;
        Ok(start..stop)
    }

    /// Whether what went up is all of what was announced; the window, in seconds, that it is to decide for.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]: the request means another upload. [`ErrorCode::Malformed`]: the window is none that
    /// may be asked for. [`ErrorCode::Digest`]: bytes are missing, or are not the ones announced.
    pub fn commit(&self, commit: &Commit) -> Result<u32, ErrorCode> {
        if commit.upload != self.number {
            return Err(ErrorCode::NotFound);
        }
        let window = commit.window.unwrap_or(WINDOW);
        if !(1..=MAX_WINDOW).contains(&window) {
            return Err(ErrorCode::Malformed);
        }
        let whole = self.received == self.size && self.digest.clone().finish() == self.announced;
        if whole { Ok(window) } else { Err(ErrorCode::Digest) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const COMMIT: Commit = Commit { upload: 7, window: None, replaces: None };

    fn announced(image: &[u8]) -> Begin {
        let mut digest = Digest::default();
        digest.update(image);
        Begin { size: u32::try_from(image.len()).unwrap(), digest: digest.finish() }
    }

    fn begun(image: &[u8]) -> Upload {
        Upload::begin(7, &announced(image), 1000).unwrap()
    }

    fn chunk(offset: u32, bytes: &[u8]) -> Chunk<'_> {
        Chunk { upload: 7, offset, bytes }
    }

    #[test]
    fn an_upload_has_a_size_that_the_driver_takes() {
        let begin =
            |size| Upload::begin(7, &Begin { size, digest: [0; 32] }, 1000).map(|upload| upload.size());
        assert_eq!(begin(0), Err(ErrorCode::Malformed));
        assert_eq!((begin(1), begin(1000)), (Ok(1), Ok(1000)));
        assert_eq!((begin(1001), begin(u32::MAX)), (Err(ErrorCode::Limit), Err(ErrorCode::Limit)));
    }

    #[test]
    fn a_chunk_that_does_not_belong_changes_nothing() {
        let mut upload = begun(b"policy");
        assert_eq!(upload.chunk(&chunk(0, b"pol")), Ok(0..3));
        for (wrong, code) in [
            (Chunk { upload: 8, offset: 3, bytes: b"icy" }, ErrorCode::NotFound),
            (chunk(0, b"pol"), ErrorCode::Conflict),
            (chunk(4, b"cy"), ErrorCode::Conflict),
            (chunk(3, b""), ErrorCode::Malformed),
            (chunk(3, b"icy!"), ErrorCode::Malformed),
        ] {
            assert_eq!((upload.chunk(&wrong), upload.received()), (Err(code), 3));
        }
        assert_eq!(upload.commit(&COMMIT), Err(ErrorCode::Digest), "not all of it");
        assert_eq!(upload.chunk(&chunk(3, b"icy")), Ok(3..6));
        assert_eq!(upload.chunk(&chunk(6, b"!")), Err(ErrorCode::Malformed));
        assert_eq!(upload.commit(&COMMIT), Ok(WINDOW));
    }

    #[test]
    fn a_commit_is_of_what_was_announced_for_a_window_that_may_be() {
        let mut upload = begun(b"policy");
        upload.chunk(&chunk(0, b"Policy")).unwrap();
        assert_eq!(upload.commit(&COMMIT), Err(ErrorCode::Digest));
        let mut upload = begun(b"policy");
        upload.chunk(&chunk(0, b"policy")).unwrap();
        assert_eq!(upload.commit(&Commit { upload: 6, ..COMMIT }), Err(ErrorCode::NotFound));
        let window = |window| upload.commit(&Commit { window: Some(window), ..COMMIT });
        assert_eq!((window(0), window(3601)), (Err(ErrorCode::Malformed), Err(ErrorCode::Malformed)));
        assert_eq!((window(1), window(3600)), (Ok(1), Ok(3600)));
    }

    proptest! {
        #[test]
        fn an_image_in_any_chunks_is_put_together_again(
            image in prop::collection::vec(any::<u8>(), 1..1000),
            sizes in prop::collection::vec(1_usize..100, 1..50),
        ) {
            let mut upload = begun(&image);
            let (mut rest, mut copy) = (&image[..], vec![0; image.len()]);
            let mut sizes = sizes.iter().cycle();
            while !rest.is_empty() {
                let (piece, others) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                let place = upload.chunk(&chunk(upload.received(), piece)).unwrap();
                copy[place].copy_from_slice(piece);
                rest = others;
            }
            prop_assert_eq!(upload.commit(&COMMIT), Ok(WINDOW));
            prop_assert_eq!(copy, image);
        }

        #[test]
        fn any_chunks_stay_within_the_image(chunks: Vec<(u32, Vec<u8>)>, size in 1_u32..100) {
            let mut upload = Upload::begin(7, &Begin { size, digest: [0; 32] }, 1000).unwrap();
            for (offset, bytes) in chunks {
                for offset in [offset, upload.received()] {
                    if let Ok(place) = upload.chunk(&chunk(offset, &bytes)) {
                        prop_assert!(place.end <= size as usize && place.len() == bytes.len());
                    }
                }
            }
        }
    }
}
