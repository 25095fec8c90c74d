//! The version resource.

use std::collections::BTreeMap;

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ResourceDirectory, ResourceDirectoryEntryData};

use super::read::Image;
use super::rows::Finding;

const ROW: &str = "version.fields";

/// VS_FIXEDFILEINFO's first field.
const SIGNATURE: u32 = 0xFEEF_04BD;
const VFT_DRV: u32 = 3;
/// VFT2_DRV_NETWORK and VFT2_DRV_SYSTEM
const SUBTYPES: [u32; 2] = [6, 7];
const VOS_NT_WINDOWS32: u32 = 0x0004_0004;
/// Strings that Windows and Partner Center show.
const NAMES: [&str; 7] = [
    "CompanyName",
    "FileDescription",
    "FileVersion",
    "InternalName",
    "OriginalFilename",
    "ProductName",
    "ProductVersion",
];

/// A block of the resource: header of length, value length and type, a key, a value, blocks in it.
struct Block<'data> {
    key: String,
    value: &'data [u8],
    children: &'data [u8],
}

fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(4)
}

fn text(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// The first block of `data`, and what follows it.
fn block(data: &[u8]) -> Option<(Block<'_>, &[u8])> {
    let word =
        |at: usize| data.get(at..at + 2).map(|word| usize::from(u16::from_le_bytes([word[0], word[1]])));
    let (len, value_len, kind) = (word(0)?, word(2)?, word(4)?);
    let whole = data.get(..len)?;
    let key = text(whole.get(6..)?);
    let value = aligned(6 + (key.encode_utf16().count() + 1) * 2).min(len);
    // Text counts in UTF-16 units.
    let value_len = if kind == 1 { value_len * 2 } else { value_len };
    let end = value.checked_add(value_len)?;
    let block = Block {
        key,
        value: whole.get(value..end)?,
        children: whole.get(aligned(end).min(len)..).unwrap_or_default(),
    };
    // A block without a length would be found for ever.
    (len >= 6).then(|| (block, data.get(aligned(len).min(data.len())..).unwrap_or_default()))
}

fn children(mut data: &[u8]) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    while let Some((found, rest)) = block(data) {
        blocks.push(found);
        data = rest;
    }
    blocks
}

/// The data of the only version resource.
fn resource<'data>(image: &Image<'data>) -> Result<&'data [u8], String> {
    let (rva, _) = image.directory(pe::IMAGE_DIRECTORY_ENTRY_RESOURCE).ok_or("no resources")?;
    let section = image.from(rva).ok_or("the resource directory is not in the file")?;
    let directory = ResourceDirectory::new(section);
    let broken = |error: object::read::Error| format!("the resource directory is broken: {error}");
    let root = directory.root().map_err(broken)?;
    let types = root.entries.iter().filter(|entry| entry.name_or_id().id() == Some(pe::RT_VERSION));
    let mut found = types.map(|entry| entry.data(directory));
    let Some(names) = found.next() else { return Err("no version resource".to_owned()) };
    // Below the type a name, below the name a language.
    let mut level = names.map_err(broken)?;
    for _ in 0..2 {
        let ResourceDirectoryEntryData::Table(table) = level else {
            return Err("the version resource is not below a name and a language".to_owned());
        };
        let [entry] = table.entries else {
            return Err(format!("{} version resources", table.entries.len()));
        };
        level = entry.data(directory).map_err(broken)?;
    }
    let ResourceDirectoryEntryData::Data(data) = level else {
        return Err("the version resource is not below a name and a language".to_owned());
    };
    let (rva, size) = (data.offset_to_data.get(LE), data.size.get(LE));
    image.bytes(rva, size as usize).ok_or_else(|| format!("its data at 0x{rva:x} is not in the file"))
}

/// The finding of this part.
pub fn check(image: &Image<'_>) -> Finding {
    match read(image) {
        Ok((found, faults)) => Finding::from_faults(ROW, found, faults),
        Err(error) => Finding::fail(ROW, error),
    }
}

fn read(image: &Image<'_>) -> Result<(String, Vec<String>), String> {
    let data = resource(image)?;
    let (root, _) = block(data).ok_or("the version resource is cut short")?;
    if root.key != "VS_VERSION_INFO" {
        return Err(format!("the version resource begins with {:?}", root.key));
    }
    let field = |index: usize| {
        let bytes = root.value.get(index * 4..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    if root.value.len() != 52 || field(0) != Some(SIGNATURE) {
        return Err("VS_FIXEDFILEINFO is missing".to_owned());
    }
    let version = |index: usize| {
        let (high, low) = (field(index).unwrap_or(0), field(index + 1).unwrap_or(0));
        format!("{}.{}.{}.{}", high >> 16, high & 0xFFFF, low >> 16, low & 0xFFFF)
    };
    let mut faults = Vec::new();
    if field(9) != Some(VFT_DRV) || field(10).is_none_or(|subtype| !SUBTYPES.contains(&subtype)) {
        faults.push(format!(
            "FILETYPE {} / {}, wanted {VFT_DRV} (driver) / 6 (network) or 7 (system)",
            field(9).unwrap_or(0),
            field(10).unwrap_or(0)
        ));
    }
    if field(8) != Some(VOS_NT_WINDOWS32) {
        faults.push(format!("FILEOS 0x{:x}, wanted 0x{VOS_NT_WINDOWS32:x}", field(8).unwrap_or(0)));
    }
    let blocks = children(root.children);
    let strings: BTreeMap<_, _> = blocks
        .iter()
        .filter(|block| block.key == "StringFileInfo")
        .flat_map(|block| children(block.children))
        .flat_map(|table| children(table.children))
        .map(|string| (string.key, text(string.value)))
        .collect();
    for name in NAMES {
        if strings.get(name).is_none_or(String::is_empty) {
            faults.push(format!("{name} is missing"));
        }
    }
    for (name, number) in [("FileVersion", version(2)), ("ProductVersion", version(4))] {
        if let Some(text) = strings.get(name).filter(|text| **text != number) {
            faults.push(format!("{name} is {text:?} as text, {number} as number"));
        }
    }
    let file = strings.get("OriginalFilename").map_or("", String::as_str);
    let bare =
        file.strip_suffix(".sys").is_some_and(|stem| !stem.is_empty() && !stem.contains(['/', '\\', '.']));
    if !file.is_empty() && !bare {
        faults.push(format!("OriginalFilename is {file:?}, no name of a driver"));
    }
    if !blocks.iter().any(|block| block.key == "VarFileInfo") {
        faults.push("VarFileInfo (the language) is missing".to_owned());
    }
    Ok((format!("{file} {}", version(2)), faults))
}
