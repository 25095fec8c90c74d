//! A PE image in memory: headers by the `object` crate, everything behind an address by bounded reads.
//!
//! Every read answers "not there" for an address outside of what the file stores, so that no row needs to trust
//! the image. Addresses are relative to the image base (RVA) throughout.

use std::ops::Range;

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, PeFile64};

/// A larger file is refused: a driver is a few hundred KiB.
pub const MAX_FILE: usize = 64 << 20;

/// The processor that an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X64,
    Arm64,
}

impl Arch {
    /// How the project calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A row of the section table.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    /// Where the loader maps it.
    pub start: u32,
    /// Bytes in memory.
    pub size: u32,
    /// Bytes in the file, as the header says.
    pub raw: Range<usize>,
    pub flags: pe::SectionFlags,
}

impl Section {
    pub fn is(&self, flag: pe::SectionFlags) -> bool {
        self.flags.0 & flag.0 != 0
    }

    pub fn executable(&self) -> bool {
        self.is(pe::IMAGE_SCN_MEM_EXECUTE)
    }

    pub fn writable(&self) -> bool {
        self.is(pe::IMAGE_SCN_MEM_WRITE)
    }

    pub fn contains(&self, rva: u32) -> bool {
        rva.checked_sub(self.start).is_some_and(|offset| offset < self.size)
    }
}

/// An image whose headers and section table hold.
pub struct Image<'data> {
    pub data: &'data [u8],
    pub file: PeFile64<'data>,
    pub arch: Arch,
    pub sections: Vec<Section>,
}

impl<'data> Image<'data> {
    /// Reads the headers.
    ///
    /// # Errors
    /// Says what keeps the file from being an x64 or ARM64 PE32+ image.
    pub fn parse(data: &'data [u8]) -> Result<Self, String> {
        if data.len() > MAX_FILE {
            return Err(format!("{} bytes: no driver is that large (limit {MAX_FILE})", data.len()));
        }
        let file = PeFile64::parse(data).map_err(|error| format!("not a PE32+ image: {error}"))?;
        let arch = match file.nt_headers().file_header.machine.get(LE) {
            pe::IMAGE_FILE_MACHINE_AMD64 => Arch::X64,
            pe::IMAGE_FILE_MACHINE_ARM64 => Arch::Arm64,
            other => return Err(format!("machine 0x{:04x}: neither x64 nor ARM64", other.0)),
        };
        let mut sections = Vec::new();
        for header in file.section_table().iter() {
            let bytes = header.name;
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let raw = header.pointer_to_raw_data.get(LE) as usize;
            let raw = raw..raw.saturating_add(header.size_of_raw_data.get(LE) as usize);
            let name = String::from_utf8_lossy(name).into_owned();
            if !raw.is_empty() && data.get(raw.clone()).is_none() {
                return Err(format!(
                    "section {name}: bytes {}..{} of a file of {} bytes",
                    raw.start,
                    raw.end,
                    data.len()
                ));
            }
            sections.push(Section {
                name,
                start: header.virtual_address.get(LE),
                size: header.virtual_size.get(LE),
                raw,
                flags: header.characteristics.get(LE),
            });
        }
        Ok(Self { data, file, arch, sections })
    }

    /// The optional header.
    pub fn optional(&self) -> &'data pe::ImageOptionalHeader64 {
        self.file.nt_headers().optional_header()
    }

    pub fn base(&self) -> u64 {
        self.optional().image_base.get(LE)
    }

    /// The section that an address is in.
    pub fn section(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.contains(rva))
    }

    pub fn is_code(&self, rva: u32) -> bool {
        self.section(rva).is_some_and(Section::executable)
    }

    /// From a preferred virtual address, as the file's pointers hold them.
    pub fn rva(&self, va: u64) -> Option<u32> {
        let rva = u32::try_from(va.checked_sub(self.base())?).ok()?;
        (rva < self.optional().size_of_image.get(LE)).then_some(rva)
    }

    /// What the file stores of a section.
    pub fn stored(&self, section: &Section) -> &'data [u8] {
        let stored = self.data.get(section.raw.clone()).unwrap_or_default();
        stored.get(..section.size as usize).unwrap_or(stored)
    }

    /// What is stored from an address to the end of its section.
    pub fn from(&self, rva: u32) -> Option<&'data [u8]> {
        let section = self.section(rva)?;
        self.stored(section).get((rva - section.start) as usize..)
    }

    pub fn bytes(&self, rva: u32, len: usize) -> Option<&'data [u8]> {
        self.from(rva)?.get(..len)
    }

    pub fn u32(&self, rva: u32) -> Option<u32> {
        self.bytes(rva, 4)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub fn u64(&self, rva: u32) -> Option<u64> {
        self.bytes(rva, 8)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// A data directory that is there: address and size.
    pub fn directory(&self, id: usize) -> Option<(u32, u32)> {
        let directory = self.file.data_directory(id)?;
        let (rva, size) = directory.address_range();
        (rva != 0 || size != 0).then_some((rva, size))
    }

    /// The base relocations: address and kind.
    ///
    /// # Errors
    /// Says where the table breaks off.
    pub fn relocations(&self) -> Result<Vec<(u32, pe::BaseRelocationType)>, String> {
        let Some((rva, size)) = self.directory(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC) else {
            return Ok(Vec::new());
        };
        let table = self
            .bytes(rva, size as usize)
            .ok_or_else(|| format!("the table at 0x{rva:x} of {size} bytes is not in the file"))?;
        let mut blocks = object::read::pe::RelocationBlockIterator::new(table);
        let mut sites = Vec::new();
        while let Some(block) = blocks.next().map_err(|error| error.to_string())? {
            let page = block.virtual_address();
            // The iterator adds a 12-bit offset to the page without a check.
            if page > self.optional().size_of_image.get(LE) {
                return Err(format!("a block for page 0x{page:x}, outside of the image"));
            }
            sites.extend(
                block
                    .map(|site| (site.virtual_address, site.typ))
                    .filter(|(_, kind)| *kind != pe::IMAGE_REL_BASED_ABSOLUTE),
            );
        }
        Ok(sites)
    }

    /// Addresses in the image that pointers in it hold, each with the place of the pointer.
    pub fn pointers(&self) -> Vec<(u32, u32)> {
        let sites = self.relocations().unwrap_or_default();
        let targets = sites.into_iter().filter(|(_, kind)| *kind == pe::IMAGE_REL_BASED_DIR64);
        targets.filter_map(|(site, _)| Some((site, self.rva(self.u64(site)?)?))).collect()
    }
}
