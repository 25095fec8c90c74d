//! The digest of a file, as catalogues list it.
//!
//! A PE image is digested without its checksum and its signature, so that it can be signed after (page "Windows
//! Authenticode Portable Executable Signature Format", section "Calculating the PE Image Hash"); any other file as it is.

use std::ops::Range;

use authenticode::{PeOffsetError, PeOffsets, PeTrait, authenticode_digest};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDataDirectory};
use object::pod;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile, PeFile32, PeFile64};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::Error;

/// What a digest is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A PE image: without its checksum and its signature.
    Pe,
    /// Any other file: all of its bytes.
    Flat,
    /// Something that this library does not digest, by its object identifier.
    Other(String),
}

/// The digests of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// What they are of.
    pub kind: Kind,
    /// By which a member of version 2 is found.
    pub sha256: [u8; 32],
    /// By which a member of version 1 is found, and older parts of Windows find one of version 2.
    pub sha1: [u8; 20],
}

impl FileDigest {
    /// Digests a file.
    ///
    /// # Errors
    /// [`Error::Image`] if the file starts like a PE image and is none; [`Error::Kind`] if Windows digests files of its kind in
    /// another way (page "Subject interface packages": cabinets, installer packages).
    pub fn of(data: &[u8]) -> Result<Self, Error> {
        for (magic, kind) in OTHERS {
            if data.starts_with(magic) {
                return Err(Error::Kind { kind });
            }
        }
        if !data.starts_with(b"MZ") {
            return Ok(Self {
                kind: Kind::Flat,
                sha256: Sha256::digest(data).into(),
                sha1: Sha1::digest(data).into(),
            });
        }
        if let Ok(file) = PeFile64::parse(data) {
            return of_image(&file);
        }
        let file = PeFile32::parse(data).map_err(|error| image(error.to_string()))?;
        of_image(&file)
    }
}

/// How files of kinds start that have a digest of their own.
const OTHERS: [(&[u8], &str); 2] =
    [(b"MSCF", "cabinet"), (&[0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1], "compound file")];

fn image(why: impl Into<String>) -> Error {
    Error::Image { why: why.into() }
}

fn of_image<H: ImageNtHeaders>(file: &PeFile<'_, H>) -> Result<FileDigest, Error> {
    check(file)?;
    let file = Image(file);
    let (mut sha256, mut sha1) = (Sha256::new(), Sha1::new());
    authenticode_digest(&file, &mut sha256)
        .and_then(|()| authenticode_digest(&file, &mut sha1))
        .map_err(|_| image("its headers point out of the file"))?;
    Ok(FileDigest { kind: Kind::Pe, sha256: sha256.finalize().into(), sha1: sha1.finalize().into() })
}

/// What the calculation takes for granted.
fn check<H: ImageNtHeaders>(file: &PeFile<'_, H>) -> Result<(), Error> {
    let size = file.data().len();
    let directories = file.nt_headers().optional_header().number_of_rva_and_sizes() as usize;
    if directories <= IMAGE_DIRECTORY_ENTRY_SECURITY {
        return Err(image("it has no directory for a signature"));
    }
    if let Some(table) = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) {
        let (start, length) = (table.virtual_address.get(LE) as usize, table.size.get(LE) as usize);
        if start.checked_add(length) != Some(size) {
            return Err(image(format!(
                "its signature ({length} bytes from {start}) does not end the file ({size} bytes)"
            )));
        }
    }
    let sections = file.section_table();
    let total = sections.iter().map(|section| u64::from(section.size_of_raw_data.get(LE))).sum::<u64>();
    // Every byte is in one section at most, so that a small file is not digested for hours.
    if total > size as u64 {
        return Err(image(format!("its sections have {total} bytes, and the file {size}")));
    }
    Ok(())
}

/// What [`authenticode_digest`] asks of an image. (The crate's own answer is bound to another release of `object`.)
struct Image<'file, 'data, H: ImageNtHeaders>(&'file PeFile<'data, H>);

impl<H: ImageNtHeaders> Image<'_, '_, H> {
    fn offset_of(&self, part: &[u8]) -> Result<usize, PeOffsetError> {
        let offset = part.as_ptr().addr().checked_sub(self.0.data().as_ptr().addr());
        offset.ok_or(PeOffsetError)
    }
}

impl<H: ImageNtHeaders> PeTrait for Image<'_, '_, H> {
    fn data(&self) -> &[u8] {
        self.0.data()
    }

    fn num_sections(&self) -> usize {
        self.0.section_table().len()
    }

    fn section_data_range(&self, index: usize) -> Result<Range<usize>, PeOffsetError> {
        let section =
            self.0.section_table().section(object::SectionIndex(index)).map_err(|_| PeOffsetError)?;
        let start = section.pointer_to_raw_data.get(LE) as usize;
        let end = start.checked_add(section.size_of_raw_data.get(LE) as usize).ok_or(PeOffsetError)?;
        Ok(start..end)
    }

    fn certificate_table_range(&self) -> Result<Option<Range<usize>>, PeOffsetError> {
        let Some(table) = self.0.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) else { return Ok(None) };
        let start = table.virtual_address.get(LE) as usize;
        let end = start.checked_add(table.size.get(LE) as usize).ok_or(PeOffsetError)?;
        Ok(Some(start..end))
    }

    fn offsets(&self) -> Result<PeOffsets, PeOffsetError> {
        // Of both forms of the header, which differ after it.
        const CHECKSUM: usize = 64;
        const DIRECTORY: usize = size_of::<ImageDataDirectory>();
        let header = self.0.nt_headers().optional_header();
        let bytes = pod::bytes_of(header);
        let start = self.offset_of(bytes)?;
        let add = |offset: usize, bytes: usize| offset.checked_add(bytes).ok_or(PeOffsetError);
        let check_sum = add(start, CHECKSUM)?;
        let directory = add(start, bytes.len() + DIRECTORY * IMAGE_DIRECTORY_ENTRY_SECURITY)?;
        Ok(PeOffsets {
            check_sum,
            after_check_sum: add(check_sum, size_of::<u32>())?,
            security_data_dir: directory,
            after_security_data_dir: add(directory, DIRECTORY)?,
            after_header: header.size_of_headers() as usize,
        })
    }
}

/// Bytes as people compare them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
