//! A stored policy, as its file has it: a header, then the image. Numbers are little-endian.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 8 | `weirpol` and a zero |
//! | 8 | 4 | version of this layout: 1 |
//! | 12 | 4 | size of the image, in bytes |
//! | 16 | 8 | sequence: counts the confirmations; the higher one is the newer |
//! | 24 | 8 | when it was confirmed: 100 ns since 1601, UTC |
//! | 32 | 32 | BLAKE2s-256 of the policy that the registry had then; zeros: it had none |
//! | 64 | 32 | BLAKE2s-256 of the image |
//! | 96 | 32 | BLAKE2s-256 of all before |
//! | 128 | | the image |
//!
//! Pure. The header is written last, and the digests tell whatever is not whole; they are no protection from somebody who
//! may write to the file.
#![forbid(unsafe_code)]

use crate::control::protocol::noise::Digest;
use crate::policy::format::MAX_IMAGE;

/// The header's size, in bytes; the image follows.
pub const HEADER: usize = 128;
/// The largest file, in bytes.
pub const LARGEST: usize = HEADER.saturating_add(MAX_IMAGE);

const MAGIC: [u8; 8] = *b"weirpol\0";
const VERSION: u32 = 1;
/// Where the digest of the header is.
const OWN_DIGEST: usize = 96;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Size of the image, in bytes.
    pub size: u32,
    pub sequence: u64,
    /// 100 ns since 1601, UTC.
    pub confirmed: u64,
    /// BLAKE2s-256 of the policy that the registry had then; zeros: it had none.
    pub registry: [u8; 32],
    /// BLAKE2s-256 of the image.
    pub image: [u8; 32],
}

/// Why a file holds no policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// It was not written to its end, or is another file.
    Header,
    /// Another version of weir wrote it.
    Version,
    /// The image is longer or shorter than it was.
    Size,
    /// The image is not the one that was written.
    Image,
}

impl Damage {
    /// What is wrong, in a word or two.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Header => "half-written header",
            Self::Version => "version",
            Self::Size => "size",
            Self::Image => "digest of the image",
        }
    }
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 7] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.size.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.confirmed.to_le_bytes(),
            &self.registry,
            &self.image,
        ];
        for (place, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        let own = digest(bytes.get(..OWN_DIGEST).unwrap_or_default());
        for (place, byte) in bytes.iter_mut().skip(OWN_DIGEST).zip(own) {
            *place = byte;
        }
        bytes
    }

    /// Reads the header that a file of `length` bytes begins with.
    ///
    /// # Errors
    /// [`Damage`], but for that of the image.
    pub fn decode(file: &[u8], length: u64) -> Result<Self, Damage> {
        let header = file.get(..HEADER).ok_or(Damage::Header)?;
        let (said, own) = header.split_at_checked(OWN_DIGEST).ok_or(Damage::Header)?;
        if field(header, 0) != Some(MAGIC) || digest(said) != own {
            return Err(Damage::Header);
        }
        let read = || {
            Some(Self {
                size: u32::from_le_bytes(field(header, 12)?),
                sequence: u64::from_le_bytes(field(header, 16)?),
                confirmed: u64::from_le_bytes(field(header, 24)?),
                registry: field(header, 32)?,
                image: field(header, 64)?,
            })
        };
        if field(header, 8).map(u32::from_le_bytes) != Some(VERSION) {
            return Err(Damage::Version);
        }
        let header = read().ok_or(Damage::Header)?;
        if length.checked_sub(HEADER as u64) == Some(u64::from(header.size)) {
            Ok(header)
        } else {
            Err(Damage::Size)
        }
    }

    /// Whether that is the image.
    ///
    /// # Errors
    /// [`Damage::Image`].
    pub fn check(&self, image: &[u8]) -> Result<(), Damage> {
        if digest(image) == self.image { Ok(()) } else { Err(Damage::Image) }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// BLAKE2s-256.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.update(bytes);
    digest.finish()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn file(image: &[u8]) -> Vec<u8> {
        let header = Header {
            size: u32::try_from(image.len()).unwrap(),
            sequence: 7,
            confirmed: 133_800_000_000_000_000,
            registry: [3; 32],
            image: digest(image),
        };
        [&header.encode()[..], image].concat()
    }

    fn read(file: &[u8]) -> Result<Header, Damage> {
        let header = Header::decode(file, file.len() as u64)?;
        header.check(&file[HEADER..])?;
        Ok(header)
    }

    #[test]
    fn what_was_written_is_read() {
        let header = read(&file(b"image")).unwrap();
        assert_eq!((header.size, header.sequence, header.registry), (5, 7, [3; 32]));
        assert_eq!(header.confirmed, 133_800_000_000_000_000);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_holds_nothing() {
        let file = file(b"an image of some bytes");
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length}");
            let mut zeros = file.clone();
            zeros[length..].fill(0);
            assert!(read(&zeros).is_err(), "zeros from {length}");
            let mut zeros = file.clone();
            zeros[..=length].fill(0);
            assert!(read(&zeros).is_err(), "zeros up to {length}");
        }
        assert_eq!(read(&[&file[..], b"x"].concat()), Err(Damage::Size));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let file = file(b"an image of some bytes");
        for bit in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "{bit}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut file = file(b"image");
        file[8] = 2;
        let own = digest(&file[..OWN_DIGEST]);
        file[OWN_DIGEST..HEADER].copy_from_slice(&own);
        assert_eq!(read(&file), Err(Damage::Version));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = read(&bytes);
        }
    }
}
