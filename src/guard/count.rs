//! The count of unclean starts, as its file has it. Numbers are little-endian.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | 8 | `weirgrd` and a zero |
//! | 8 | 4 | version of this layout: 1 |
//! | 12 | 4 | starts in a row that are not known to have ended well |
//! | 16 | 8 | when it was written: 100 ns since 1601, UTC |
//! | 24 | 24 | version of the driver that has counted, as text; zeros to the end |
//! | 48 | 16 | the first half of the BLAKE2s-256 of all before |
//!
//! Pure. The digest tells what was not written to its end; it is no protection from somebody who may write to the file.
#![forbid(unsafe_code)]

use crate::policies::slot::digest;

/// The file's size, in bytes.
pub const SIZE: usize = 64;

const MAGIC: [u8; 8] = *b"weirgrd\0";
const LAYOUT: u32 = 1;
/// Where the digest is.
const DIGEST: usize = 48;
/// Room for the driver's version.
const VERSION: usize = 24;

/// The version of this driver.
pub const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

const _: () = assert!(OWN_VERSION.len() <= VERSION);

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// Starts in a row that are not known to have ended well.
    pub starts: u32,
    /// 100 ns since 1601, UTC.
    pub written: u64,
    /// Of the driver that has counted.
    pub version: [u8; VERSION],
}

/// Why a file holds no count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    Size,
    /// It was not written to its end, or is another file.
    Digest,
    /// Another version of weir wrote it, in another way.
    Layout,
}

impl Damage {
    /// What is wrong, in a word.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Digest => "half-written",
            Self::Layout => "layout",
        }
    }
}

/// A version, with zeros to the end.
pub fn version(text: &str) -> [u8; VERSION] {
    let mut version = [0; VERSION];
    for (place, byte) in version.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    version
}

impl Count {
    /// A count by this driver.
    pub fn own(starts: u32, written: u64) -> Self {
        Self { starts, written, version: version(OWN_VERSION) }
    }

    /// Whether another version of the driver has counted.
    pub fn is_others(&self) -> bool {
        self.version != version(OWN_VERSION)
    }

    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let fields: [&[u8]; 5] = [
            &MAGIC,
            &LAYOUT.to_le_bytes(),
            &self.starts.to_le_bytes(),
            &self.written.to_le_bytes(),
            &self.version,
        ];
        for (place, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        let own = digest(bytes.get(..DIGEST).unwrap_or_default());
        for (place, byte) in bytes.iter_mut().skip(DIGEST).zip(own) {
            *place = byte;
        }
        bytes
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// Why it holds no count.
    pub fn decode(file: &[u8]) -> Result<Self, Damage> {
        let file: &[u8; SIZE] = file.try_into().map_err(|_| Damage::Size)?;
        let (said, own) = file.split_at(DIGEST);
        if field(file, 0) != Some(MAGIC) || !digest(said).starts_with(own) {
            return Err(Damage::Digest);
        }
        if field(file, 8).map(u32::from_le_bytes) != Some(LAYOUT) {
            return Err(Damage::Layout);
        }
        let read = || {
            Some(Self {
                starts: u32::from_le_bytes(field(file, 12)?),
                written: u64::from_le_bytes(field(file, 16)?),
                version: field(file, 24)?,
            })
        };
        read().ok_or(Damage::Size)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let count = Count::own(7, 133_800_000_000_000_000);
        assert_eq!(Count::decode(&count.encode()), Ok(count));
        assert!(!count.is_others());
        assert!(Count { version: version("0.0.9"), ..count }.is_others());
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_holds_nothing() {
        let file = Count::own(3, 1).encode();
        let other = Count::own(2, 0).encode();
        for cut in 0..SIZE {
            assert_eq!(Count::decode(&file[..cut]), Err(Damage::Size), "{cut}");
            let torn: Vec<u8> = [&file[..cut], &other[cut..]].concat();
            let read = Count::decode(&torn);
            assert!(read.is_err() || torn == file || torn == other, "{cut}");
        }
        for bit in 0..SIZE * 8 {
            let mut changed = file;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Count::decode(&changed).is_err(), "{bit}");
        }
        assert_eq!(Count::decode(&[&file[..], b"x"].concat()), Err(Damage::Size));
    }

    #[test]
    fn another_layout_is_told_from_damage() {
        let mut file = Count::own(3, 1).encode();
        file[8] = 2;
        let own = digest(&file[..DIGEST]);
        file[DIGEST..].copy_from_slice(&own[..SIZE - DIGEST]);
        assert_eq!(Count::decode(&file), Err(Damage::Layout));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _either = Count::decode(&bytes);
        }
    }
}
