//! Rows about headers, sections, relocations, exports and the debug directory.

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::ImageNtHeaders;

use super::read::{Arch, Image};
use super::rows::Finding;

/// Pages of x64 and ARM64 Windows.
const PAGE: u32 = 0x1000;
/// IMAGE_DLLCHARACTERISTICS_EX_CET_COMPAT
const CET_COMPAT: u32 = 1;

/// All findings of this part.
pub fn check(image: &Image<'_>) -> Vec<Finding> {
    vec![
        machine(image),
        subsystem(image),
        os_version(image),
        wdm(image),
        aslr(image),
        flag(image, "header.nx", pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT, "NX_COMPAT"),
        flag(image, "header.guard", pe::IMAGE_DLLCHARACTERISTICS_GUARD_CF, "GUARD_CF"),
        flag(image, "header.integrity", pe::IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, "FORCE_INTEGRITY"),
        checksum(image),
        alignment(image),
        writable_and_executable(image),
        discardable(image),
        entry(image),
        tls(image),
        relocations(image),
        exports(image),
        pdb(image),
        repro(image),
        cet(image),
        signature(image),
    ]
}

fn machine(image: &Image<'_>) -> Finding {
    const ROW: &str = "header.machine";
    let flags = image.file.nt_headers().file_header().characteristics.get(LE).0;
    let mut faults = Vec::new();
    for (flag, name) in [
        (pe::IMAGE_FILE_EXECUTABLE_IMAGE, "EXECUTABLE_IMAGE"),
        (pe::IMAGE_FILE_LARGE_ADDRESS_AWARE, "LARGE_ADDRESS_AWARE"),
    ] {
        if flags & flag.0 == 0 {
            faults.push(format!("characteristics 0x{flags:04x} lack {name}"));
        }
    }
    let made = if flags & pe::IMAGE_FILE_DLL.0 == 0 { "an EXE" } else { "a DLL" };
    Finding::from_faults(ROW, format!("PE32+, {}, {made}", image.arch.name()), faults)
}

fn subsystem(image: &Image<'_>) -> Finding {
    let header = image.optional();
    let subsystem = header.subsystem.get(LE);
    let version = (header.major_subsystem_version.get(LE), header.minor_subsystem_version.get(LE));
    let found = format!("subsystem {}, version {}.{}", subsystem.0, version.0, version.1);
    if subsystem == pe::IMAGE_SUBSYSTEM_NATIVE && version == (10, 0) {
        Finding::pass("header.subsystem", found)
    } else {
        Finding::fail("header.subsystem", format!("{found}; wanted 1 (NATIVE), 10.0"))
    }
}

fn os_version(image: &Image<'_>) -> Finding {
    let header = image.optional();
    let system =
        (header.major_operating_system_version.get(LE), header.minor_operating_system_version.get(LE));
    let own = (header.major_image_version.get(LE), header.minor_image_version.get(LE));
    let found = format!("operating system {}.{}, image {}.{}", system.0, system.1, own.0, own.1);
    if system == (10, 0) && own == (10, 0) {
        Finding::pass("header.os-version", found)
    } else {
        Finding::fail("header.os-version", format!("{found}; wanted 10.0 for both"))
    }
}

fn has(image: &Image<'_>, flag: pe::DllFlags) -> bool {
    image.optional().dll_characteristics.get(LE).0 & flag.0 != 0
}

fn flag(image: &Image<'_>, row: &'static str, flag: pe::DllFlags, name: &str) -> Finding {
    if has(image, flag) {
        Finding::pass(row, "set")
    } else {
        let all = image.optional().dll_characteristics.get(LE).0;
        Finding::fail(row, format!("DLL characteristics 0x{all:04x} lack {name}"))
    }
}

fn wdm(image: &Image<'_>) -> Finding {
    flag(image, "header.wdm", pe::IMAGE_DLLCHARACTERISTICS_WDM_DRIVER, "WDM_DRIVER")
}

fn aslr(image: &Image<'_>) -> Finding {
    let mut faults = Vec::new();
    if !has(image, pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE) {
        faults.push("not DYNAMIC_BASE".to_owned());
    }
    if !has(image, pe::IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA) {
        faults.push("not HIGH_ENTROPY_VA".to_owned());
    }
    let flags = image.file.nt_headers().file_header().characteristics.get(LE).0;
    if flags & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0 {
        faults.push("RELOCS_STRIPPED".to_owned());
    }
    Finding::from_faults("header.aslr", "both set", faults)
}

/// The PE checksum: 16-bit words added with carry, without the field itself, plus the file's length.
pub fn sum(data: &[u8], field: usize) -> u32 {
    let mut sum = 0u32;
    for (index, word) in data.chunks(2).enumerate() {
        let at = index * 2;
        if at == field || at == field + 2 {
            continue;
        }
        let word =
            u32::from(word.first().copied().unwrap_or(0)) | u32::from(word.get(1).copied().unwrap_or(0)) << 8;
        sum += word;
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum.wrapping_add(u32::try_from(data.len()).unwrap_or(u32::MAX))
}

/// Where the checksum is in the file.
pub fn checksum_offset(image: &Image<'_>) -> usize {
    // The signature, the file header, and the optional header up to the field.
    image.file.dos_header().nt_headers_offset() as usize + 4 + 20 + 64
}

fn checksum(image: &Image<'_>) -> Finding {
    const ROW: &str = "header.checksum";
    let stated = image.optional().check_sum.get(LE);
    let right = sum(image.data, checksum_offset(image));
    if stated == right {
        Finding::pass(ROW, format!("0x{right:08x}"))
    } else {
        Finding::fail(
            ROW,
            format!("0x{stated:08x}, but the file's is 0x{right:08x} (linker option /RELEASE)"),
        )
    }
}

fn alignment(image: &Image<'_>) -> Finding {
    let header = image.optional();
    let mut faults = Vec::new();
    let alignment = header.section_alignment.get(LE);
    if alignment < PAGE || !alignment.is_multiple_of(PAGE) {
        faults.push(format!("SectionAlignment 0x{alignment:x}"));
    }
    let image_size = header.size_of_image.get(LE);
    if !image_size.is_multiple_of(PAGE) {
        faults.push(format!("SizeOfImage 0x{image_size:x} ends inside of a page"));
    }
    let mut end = header.size_of_headers.get(LE);
    if image.sections.is_empty() {
        faults.push("no section".to_owned());
    }
    for section in &image.sections {
        let name = &section.name;
        if !section.start.is_multiple_of(PAGE) {
            faults.push(format!("{name} at 0x{:x}", section.start));
        }
        if section.start < end {
            faults.push(format!("{name} at 0x{:x}, where the one before ends at 0x{end:x}", section.start));
        }
        match section.start.checked_add(section.size) {
            Some(after) if after <= image_size => end = after,
            _ => faults.push(format!("{name} reaches over SizeOfImage 0x{image_size:x}")),
        }
        if section.size == 0 {
            faults.push(format!("{name} is empty"));
        }
    }
    let found = format!("{} sections, 0x{image_size:x} bytes in memory", image.sections.len());
    Finding::from_faults("sections.alignment", found, faults)
}

fn writable_and_executable(image: &Image<'_>) -> Finding {
    let both = image.sections.iter().filter(|section| section.writable() && section.executable());
    let faults = both.map(|section| format!("{} is writable and executable", section.name)).collect();
    Finding::from_faults("sections.wx", "none", faults)
}

fn discardable(image: &Image<'_>) -> Finding {
    let mut faults = Vec::new();
    for section in &image.sections {
        if section.is(pe::IMAGE_SCN_MEM_DISCARDABLE) && section.name != ".reloc" {
            faults.push(format!("{} is discardable", section.name));
        }
        // The kernel pages a driver's section out by its name only.
        if section.name.starts_with("PAGE") {
            faults.push(format!("{} is pageable", section.name));
        }
    }
    Finding::from_faults("sections.discardable", "none but .reloc", faults)
}

fn entry(image: &Image<'_>) -> Finding {
    const ROW: &str = "sections.entry";
    let entry = image.optional().address_of_entry_point.get(LE);
    match image.section(entry) {
        Some(section) if section.executable() => {
            Finding::pass(ROW, format!("0x{entry:x} in {}", section.name))
        }
        Some(section) => {
            Finding::fail(ROW, format!("0x{entry:x} in {}, which is not executable", section.name))
        }
        None => Finding::fail(ROW, format!("0x{entry:x} in no section")),
    }
}

fn tls(image: &Image<'_>) -> Finding {
    match image.directory(pe::IMAGE_DIRECTORY_ENTRY_TLS) {
        None => Finding::pass("sections.tls", "none"),
        Some((rva, size)) => {
            Finding::fail("sections.tls", format!("a TLS directory at 0x{rva:x}, {size} bytes"))
        }
    }
}

fn relocations(image: &Image<'_>) -> Finding {
    const ROW: &str = "sections.relocations";
    if image.directory(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC).is_none() {
        return Finding::fail(ROW, "none: the image can only be loaded at its preferred address");
    }
    let sites = match image.relocations() {
        Ok(sites) => sites,
        Err(error) => return Finding::fail(ROW, error),
    };
    let mut faults = Vec::new();
    for (site, kind) in &sites {
        if *kind != pe::IMAGE_REL_BASED_DIR64 {
            faults.push(format!("kind {} at 0x{site:x}", kind.0));
        } else if image.u64(*site).is_none() {
            faults.push(format!("0x{site:x} is not stored in any section"));
        } else if image.is_code(*site) {
            faults.push(format!("0x{site:x} is in code"));
        } else if image.u64(*site).and_then(|va| image.rva(va)).is_none() {
            faults.push(format!("0x{site:x} does not point into the image"));
        }
    }
    Finding::from_faults(ROW, format!("{} of kind DIR64", sites.len()), faults)
}

fn exports(image: &Image<'_>) -> Finding {
    const ROW: &str = "sections.exports";
    let table = match image.file.export_table() {
        Ok(None) => return Finding::pass(ROW, "none"),
        Ok(Some(table)) => table,
        Err(error) => return Finding::fail(ROW, format!("the table cannot be read: {error}")),
    };
    let exports = match table.exports() {
        Ok(exports) => exports,
        Err(error) => return Finding::fail(ROW, format!("the table cannot be read: {error}")),
    };
    let entry = image.optional().address_of_entry_point.get(LE);
    let mut faults = Vec::new();
    for export in &exports {
        let name = export.name.map(String::from_utf8_lossy);
        let name = name.as_deref().unwrap_or("(no name)");
        match export.target {
            object::read::pe::ExportTarget::Address(rva) if name == "DriverEntry" && rva == entry => {}
            object::read::pe::ExportTarget::Address(rva) if name == "DriverEntry" => {
                faults.push(format!("DriverEntry at 0x{rva:x}, but the entry point is 0x{entry:x}"));
            }
            object::read::pe::ExportTarget::Address(_) => faults.push(name.to_owned()),
            _ => faults.push(format!("{name}, forwarded")),
        }
    }
    if !faults.is_empty() {
        return Finding::fail(ROW, format!("{} exports that nothing needs", faults.len())).with(faults);
    }
    if exports.is_empty() { Finding::pass(ROW, "none") } else { Finding::pass(ROW, "DriverEntry alone") }
}

/// A row of the debug directory: its kind and its data.
fn debug_entries<'data>(image: &Image<'data>) -> Result<Vec<(pe::DebugType, &'data [u8])>, String> {
    let Some((rva, size)) = image.directory(pe::IMAGE_DIRECTORY_ENTRY_DEBUG) else { return Ok(Vec::new()) };
    let table = image
        .bytes(rva, size as usize)
        .ok_or_else(|| format!("the debug directory at 0x{rva:x} of {size} bytes is not in the file"))?;
    let each = size_of::<pe::ImageDebugDirectory>();
    let rows = table.len() / each;
    let rows: &[pe::ImageDebugDirectory] = object::pod::slice_from_bytes(table, rows)
        .map_err(|()| "the debug directory is too short".to_owned())?
        .0;
    rows.iter()
        .map(|row| {
            let start = row.pointer_to_raw_data.get(LE) as usize;
            let len = row.size_of_data.get(LE) as usize;
            let data = start.checked_add(len).and_then(|end| image.data.get(start..end));
            let kind = row.typ.get(LE);
            data.map(|data| (kind, data)).ok_or_else(|| {
                format!("debug entry of kind {}: bytes {start} + {len} are not in the file", kind.0)
            })
        })
        .collect()
}

fn pdb(image: &Image<'_>) -> Finding {
    const ROW: &str = "debug.pdb";
    let entries = match debug_entries(image) {
        Ok(entries) => entries,
        Err(error) => return Finding::fail(ROW, error),
    };
    let pdbs: Vec<_> = entries.iter().filter(|(kind, _)| *kind == pe::IMAGE_DEBUG_TYPE_CODEVIEW).collect();
    let [(_, data)] = pdbs.as_slice() else {
        return Finding::fail(ROW, format!("{} CodeView entries", pdbs.len()));
    };
    // RSDS, a GUID, an age, the name.
    let name = match data.split_at_checked(24) {
        Some((head, name)) if head.starts_with(b"RSDS") => {
            name.split(|byte| *byte == 0).next().unwrap_or_default()
        }
        _ => return Finding::fail(ROW, "the CodeView entry is not RSDS"),
    };
    let name = String::from_utf8_lossy(name);
    if name.is_empty() || name.contains(['/', '\\', ':']) {
        return Finding::fail(ROW, format!("{name:?} (linker option /PDBALTPATH:%_PDB%)"));
    }
    Finding::pass(ROW, name)
}

fn repro(image: &Image<'_>) -> Finding {
    const ROW: &str = "debug.repro";
    match debug_entries(image) {
        Ok(entries) if entries.iter().any(|(kind, _)| *kind == pe::IMAGE_DEBUG_TYPE_REPRO) => {
            let stamp = image.file.nt_headers().file_header().time_date_stamp.get(LE);
            Finding::pass(ROW, format!("there; stamp 0x{stamp:08x}"))
        }
        Ok(_) => Finding::fail(ROW, "missing (linker option /Brepro)"),
        Err(error) => Finding::fail(ROW, error),
    }
}

fn cet(image: &Image<'_>) -> Finding {
    const ROW: &str = "debug.cet";
    let entries = match debug_entries(image) {
        Ok(entries) => entries,
        Err(error) => return Finding::fail(ROW, error),
    };
    let extended = entries.iter().find(|(kind, _)| *kind == pe::IMAGE_DEBUG_TYPE_EX_DLLCHARACTERISTICS);
    let flags =
        extended.and_then(|(_, data)| data.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    match (image.arch, flags & CET_COMPAT != 0) {
        (_, true) => Finding::pass(ROW, "set"),
        (Arch::Arm64, false) => Finding::pass(ROW, "ARM64 has none"),
        (Arch::X64, false) => Finding::fail(ROW, "missing (linker option /CETCOMPAT)"),
    }
}

fn signature(image: &Image<'_>) -> Finding {
    const ROW: &str = "signature";
    // This directory alone holds an offset into the file.
    let Some((offset, size)) = image.directory(pe::IMAGE_DIRECTORY_ENTRY_SECURITY) else {
        let end = image.sections.iter().map(|section| section.raw.end).max().unwrap_or(0);
        return match image.data.len().checked_sub(end) {
            None | Some(0) => Finding::pass(ROW, "not signed"),
            Some(more) => Finding::fail(ROW, format!("not signed, but {more} bytes follow the last section")),
        };
    };
    let end = (offset as usize).checked_add(size as usize);
    let table = end.and_then(|end| image.data.get(offset as usize..end));
    let Some(table) = table else {
        return Finding::fail(ROW, format!("certificates at {offset} + {size} are not in the file"));
    };
    let word = |at: usize| table.get(at..at + 2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    let len = table.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    // WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_PKCS_SIGNED_DATA
    if (word(4), word(6)) != (Some(0x0200), Some(2)) || len < 8 || len > size {
        return Finding::fail(ROW, "the certificate table is not PKCS #7 of revision 2.0");
    }
    if end != Some(image.data.len()) {
        return Finding::fail(ROW, "something follows the certificates");
    }
    Finding::note(ROW, format!("signed: {len} bytes of certificates, not verified here"))
}
