//! Rows about the load configuration directory and control flow guard.

use std::collections::BTreeSet;

use object::LittleEndian as LE;
use object::pe::{self, ImageLoadConfigDirectory64};

use super::read::Image;
use super::rows::Finding;

/// What the loader replaces by a random value (x64 and ARM64).
const DEFAULT_COOKIE: u64 = 0x0000_2B99_2DDF_A232;
/// The directory up to GuardFlags, which is where the fields of control flow guard end.
const GUARD_END: usize = 0x94;

const ROWS: [&str; 5] =
    ["config.size", "config.cookie", "config.flags", "config.functions", "config.pointers"];

/// The load configuration, if it reaches over the fields of control flow guard.
pub fn directory<'data>(image: &Image<'data>) -> Result<(&'data ImageLoadConfigDirectory64, u32), String> {
    let (rva, size) =
        image.directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG).ok_or("no load configuration")?;
    let data = image.from(rva).ok_or_else(|| format!("0x{rva:x} is not in the file"))?;
    let stated = image.u32(rva).ok_or("cut short")?;
    if stated != size {
        return Err(format!("Size is 0x{stated:x}, the data directory's is 0x{size:x}"));
    }
    if (stated as usize) < GUARD_END {
        return Err(format!("Size 0x{stated:x} ends before the fields of control flow guard"));
    }
    // Fields behind Size are not read: none of them is used here.
    let whole =
        data.get(..stated as usize).ok_or_else(|| format!("0x{stated:x} bytes are not in the file"))?;
    let (config, _) = object::pod::from_bytes::<ImageLoadConfigDirectory64>(whole).map_err(|()| {
        format!("Size 0x{stated:x} is less than 0x{:x}", size_of::<ImageLoadConfigDirectory64>())
    })?;
    Ok((config, stated))
}

/// The call targets that control flow guard allows, sorted as stored. Empty when there is no table.
pub fn call_targets(image: &Image<'_>) -> Vec<u32> {
    directory(image).ok().and_then(|(config, _)| table(image, config).ok()).unwrap_or_default()
}

/// Slots that hold the check and dispatch functions of control flow guard.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuardSlots {
    pub check: Option<u32>,
    pub dispatch: Option<u32>,
}

impl GuardSlots {
    pub fn of(image: &Image<'_>) -> Self {
        let Ok((config, _)) = directory(image) else { return Self::default() };
        Self {
            check: image.rva(config.guard_cf_check_function_pointer.get(LE)),
            dispatch: image.rva(config.guard_cf_dispatch_function_pointer.get(LE)),
        }
    }

    pub fn contains(self, slot: u32) -> bool {
        self.check == Some(slot) || self.dispatch == Some(slot)
    }
}

fn table(image: &Image<'_>, config: &ImageLoadConfigDirectory64) -> Result<Vec<u32>, String> {
    let count = config.guard_cf_function_count.get(LE);
    let va = config.guard_cf_function_table.get(LE);
    if count == 0 {
        return Err("the table is empty".to_owned());
    }
    let rva = image.rva(va).ok_or_else(|| format!("the table's address 0x{va:x} is not in the image"))?;
    let flags = config.guard_flags.get(LE).0;
    // Each row is an RVA and so many bytes more.
    let stride = 4
        + ((flags & pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_MASK)
            >> pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_SHIFT) as usize;
    let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(stride));
    let rows = len
        .and_then(|len| image.bytes(rva, len))
        .ok_or_else(|| format!("the table at 0x{rva:x} of {count} rows is not in the file"))?;
    let first = |row: &[u8]| row.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    Ok(rows.chunks_exact(stride).filter_map(first).collect())
}

/// All findings of this part. `starts` are the starts of functions as the map has them, if there is one.
pub fn check(image: &Image<'_>, starts: Option<&BTreeSet<u32>>) -> Vec<Finding> {
    let (config, size) = match directory(image) {
        Ok(found) => found,
        Err(error) => {
            let mut findings = vec![Finding::fail("config.size", error)];
            let others = ROWS.iter().filter(|row| **row != "config.size");
            findings.extend(others.map(|row| Finding::note(row, "not checked: config.size")));
            return findings;
        }
    };
    vec![
        Finding::pass("config.size", format!("0x{size:x} bytes")),
        cookie(image, config),
        flags(config),
        functions(image, config, starts),
        pointers(image, config),
    ]
}

fn cookie(image: &Image<'_>, config: &ImageLoadConfigDirectory64) -> Finding {
    const ROW: &str = "config.cookie";
    let va = config.security_cookie.get(LE);
    let Some(rva) = image.rva(va) else {
        return Finding::fail(ROW, format!("its address 0x{va:x} is not in the image"));
    };
    let writable = image.section(rva).is_some_and(|section| section.writable() && !section.executable());
    let mut faults = Vec::new();
    if !writable {
        faults.push(format!("0x{rva:x} is not writable data"));
    }
    match image.u64(rva) {
        Some(DEFAULT_COOKIE) => {}
        Some(value) => faults.push(format!("its value is 0x{value:x}, not the default 0x{DEFAULT_COOKIE:x}")),
        None => faults.push(format!("0x{rva:x} is not stored in the file")),
    }
    if image.pointers().iter().any(|(site, _)| *site == rva) {
        faults.push(format!("0x{rva:x} is relocated"));
    }
    Finding::from_faults(ROW, format!("0x{rva:x}, default value"), faults)
}

fn flags(config: &ImageLoadConfigDirectory64) -> Finding {
    let flags = config.guard_flags.get(LE).0;
    let mut faults = Vec::new();
    for (flag, name) in [
        (pe::IMAGE_GUARD_CF_INSTRUMENTED, "CF_INSTRUMENTED"),
        (pe::IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT, "CF_FUNCTION_TABLE_PRESENT"),
    ] {
        if flags & flag.0 == 0 {
            faults.push(format!("GuardFlags 0x{flags:x} lack {name}"));
        }
    }
    Finding::from_faults("config.flags", format!("GuardFlags 0x{flags:x}"), faults)
}

fn functions(
    image: &Image<'_>,
    config: &ImageLoadConfigDirectory64,
    starts: Option<&BTreeSet<u32>>,
) -> Finding {
    const ROW: &str = "config.functions";
    let targets = match table(image, config) {
        Ok(targets) => targets,
        Err(error) => return Finding::fail(ROW, error),
    };
    let mut faults = Vec::new();
    if !targets.is_sorted_by(|a, b| a < b) {
        faults.push("the table is not sorted, or has a row twice".to_owned());
    }
    for target in &targets {
        if !image.is_code(*target) {
            faults.push(format!("0x{target:x} is not code"));
        } else if starts.is_some_and(|starts| !starts.contains(target)) {
            faults.push(format!("0x{target:x} is not the start of a function in the map"));
        }
    }
    let entry = image.optional().address_of_entry_point.get(LE);
    if image.is_code(entry) && targets.binary_search(&entry).is_err() {
        faults.push(format!("0x{entry:x}, the entry point, is not in the table"));
    }
    let slots = GuardSlots::of(image);
    for (site, target) in image.pointers() {
        let guards = slots.contains(site);
        if !guards && image.is_code(target) && targets.binary_search(&target).is_err() {
            faults.push(format!("0x{target:x}, which 0x{site:x} points to, is not in the table"));
        }
    }
    Finding::from_faults(ROW, format!("{} call targets", targets.len()), faults)
}

fn pointers(image: &Image<'_>, config: &ImageLoadConfigDirectory64) -> Finding {
    let mut faults = Vec::new();
    for (name, va) in [
        ("check", config.guard_cf_check_function_pointer.get(LE)),
        ("dispatch", config.guard_cf_dispatch_function_pointer.get(LE)),
    ] {
        let Some(slot) = image.rva(va) else {
            faults.push(format!("{name}: its address 0x{va:x} is not in the image"));
            continue;
        };
        if image.section(slot).is_none_or(|section| section.writable() || section.executable()) {
            faults.push(format!("{name}: 0x{slot:x} is not read-only data"));
        }
        match image.u64(slot).and_then(|va| image.rva(va)) {
            Some(target) if image.is_code(target) => {}
            _ => faults.push(format!("{name}: 0x{slot:x} does not point to code")),
        }
    }
    Finding::from_faults("config.pointers", "check and dispatch, read-only", faults)
}
