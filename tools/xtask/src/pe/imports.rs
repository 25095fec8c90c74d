//! Rows about imports.

use std::collections::BTreeMap;

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageThunkData, Import as Thunk};

use super::exports::{Exports, Since};
use super::read::Image;
use super::rows::{Finding, Status};

/// Libraries that a driver may import from.
const LIBRARIES: [&str; 5] = ["ntoskrnl.exe", "hal.dll", "fwpkclnt.sys", "netio.sys", "cng.sys"];

/// A function that the loader looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// In lower case, as Windows compares it.
    pub library: String,
    /// The name, or `#ordinal`.
    pub name: String,
    pub ordinal: bool,
    /// The slot that the loader writes its address to.
    pub slot: u32,
}

/// The imports by slot.
///
/// # Errors
/// Says where the table is broken.
pub fn read(image: &Image<'_>) -> Result<Vec<Import>, String> {
    let broken = |error: object::read::Error| format!("the import table is broken: {error}");
    let Some(table) = image.file.import_table().map_err(broken)? else { return Ok(Vec::new()) };
    let mut imports = Vec::new();
    let mut descriptors = table.descriptors().map_err(broken)?;
    while let Some(descriptor) = descriptors.next().map_err(broken)? {
        let library = table.name(descriptor.name.get(LE)).map_err(broken)?;
        let library = String::from_utf8_lossy(library).to_ascii_lowercase();
        let first = descriptor.first_thunk.get(LE);
        let lookup = match descriptor.original_first_thunk.get(LE) {
            0 => first,
            lookup => lookup,
        };
        let mut thunks = table.thunks(lookup).map_err(broken)?;
        let mut slot = first;
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>().map_err(broken)? {
            let (name, ordinal) = if thunk.is_ordinal() {
                (format!("#{}", thunk.ordinal()), true)
            } else {
                match table.import::<pe::ImageNtHeaders64>(thunk).map_err(broken)? {
                    Thunk::Name(_, name) => (String::from_utf8_lossy(name).into_owned(), false),
                    Thunk::Ordinal(ordinal) => (format!("#{ordinal}"), true),
                }
            };
            imports.push(Import { library: library.clone(), name, ordinal, slot });
            slot = slot.checked_add(8).ok_or("the import table is broken: it has no end")?;
        }
    }
    Ok(imports)
}

/// How many functions come from each library.
pub fn count(imports: &[Import]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for import in imports {
        *counts.entry(import.library.clone()).or_default() += 1;
    }
    counts
}

/// All findings of this part.
pub fn check(image: &Image<'_>, exports: &mut Exports) -> Vec<Finding> {
    let mut findings = match read(image) {
        Ok(imports) => vec![libraries(&imports), names(&imports, exports), ordinals(&imports)],
        Err(error) => vec![
            Finding::fail("imports.libraries", error),
            Finding::note("imports.names", "not checked: imports.libraries"),
            Finding::note("imports.ordinals", "not checked: imports.libraries"),
        ],
    };
    findings.push(early(image));
    findings.push(table(image));
    findings
}

fn libraries(imports: &[Import]) -> Finding {
    const ROW: &str = "imports.libraries";
    let counts = count(imports);
    if counts.is_empty() {
        return Finding::fail(ROW, "no import at all: no driver can do without the kernel");
    }
    let others: Vec<_> = counts.keys().filter(|library| !LIBRARIES.contains(&library.as_str())).collect();
    if !others.is_empty() {
        let all = imports.iter().filter(|import| others.contains(&&import.library));
        let details = all.map(|import| format!("{}!{}", import.library, import.name)).collect();
        let names: Vec<_> = others.iter().map(|name| name.as_str()).collect();
        return Finding::fail(ROW, names.join(", ")).with(details);
    }
    let found: Vec<_> = counts.iter().map(|(library, count)| format!("{library} {count}")).collect();
    let hal: Vec<_> = imports
        .iter()
        .filter(|import| import.library == "hal.dll")
        .map(|import| format!("hal.dll!{}", import.name))
        .collect();
    let status = if hal.is_empty() { Status::Pass } else { Status::Note };
    Finding { row: ROW, status, found: found.join(", "), details: hal }
}

fn names(imports: &[Import], exports: &mut Exports) -> Finding {
    let mut faults = Vec::new();
    let mut checked = 0;
    let mut without = Vec::new();
    for import in imports.iter().filter(|import| !import.ordinal) {
        // Other libraries are another row's fault.
        if !LIBRARIES.contains(&import.library.as_str()) {
            continue;
        }
        match exports.since(&import.library, &import.name) {
            Ok(Some(Since::Always)) => checked += 1,
            Ok(Some(Since::Version(version))) => faults.push(format!(
                "{}!{} is there since {version} only: to be looked up at run time",
                import.library, import.name
            )),
            Ok(None) => faults.push(format!("{} does not export {}", import.library, import.name)),
            Err(error) => {
                if !without.contains(&error) {
                    without.push(error);
                }
            }
        }
    }
    faults.extend(without);
    Finding::from_faults("imports.names", format!("{checked} names found"), faults)
}

fn ordinals(imports: &[Import]) -> Finding {
    let faults = imports
        .iter()
        .filter(|import| import.ordinal)
        .map(|import| format!("{} {}", import.library, import.name))
        .collect();
    Finding::from_faults("imports.ordinals", "none", faults)
}

fn early(image: &Image<'_>) -> Finding {
    let mut faults = Vec::new();
    for (id, name) in [
        (pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, "delayed"),
        (pe::IMAGE_DIRECTORY_ENTRY_BOUND_IMPORT, "bound"),
    ] {
        if let Some((rva, size)) = image.directory(id) {
            faults.push(format!("{name} imports at 0x{rva:x}, {size} bytes"));
        }
    }
    Finding::from_faults("imports.early", "none", faults)
}

fn table(image: &Image<'_>) -> Finding {
    const ROW: &str = "imports.table";
    let Some((rva, size)) = image.directory(pe::IMAGE_DIRECTORY_ENTRY_IAT) else {
        return Finding::fail(ROW, "no directory entry for the import address table");
    };
    let Some(section) =
        image.section(rva).filter(|section| section.contains(rva.saturating_add(size.max(1) - 1)))
    else {
        return Finding::fail(ROW, format!("0x{rva:x} + {size} bytes are in no section"));
    };
    let outside = read(image)
        .unwrap_or_default()
        .into_iter()
        .filter(|import| !(rva..rva.saturating_add(size)).contains(&import.slot))
        .map(|import| {
            format!("{}!{} at 0x{:x} is outside of the table", import.library, import.name, import.slot)
        });
    let mut faults: Vec<_> = outside.collect();
    if section.executable() {
        faults.insert(0, format!("{} is executable", section.name));
    }
    Finding::from_faults(ROW, format!("{size} bytes in {}", section.name), faults)
}
