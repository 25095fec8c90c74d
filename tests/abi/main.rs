//! The binary interface that the driver declares is complete, is the one of the headers, and is exported by the images
//! that it is imported from.
//!
//! The compiler holds each declaration against a row (`src/sys/proof`, `src/sys/nt/proof.rs`, and the tables beside the
//! structures). Here the source is read: nothing may lack its row, rows agree with references where these are at hand,
//! and imports are on the lists of `exports`.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, number, tree};

const FWP: &[&str] = &["src/sys/fwp/abi.rs", "src/sys/fwp/id.rs", "src/sys/proof/fwp.rs"];
const WSK: &[&str] = &["src/sys/wsk/abi.rs", "src/sys/proof/wsk.rs"];
const NMR: &[&str] = &["src/sys/nmr/abi.rs", "src/sys/proof/nmr.rs"];
/// What the simulated kernel spells anew.
const NTSIM: &[&str] = &["tests/ntsim/src/sys/nt/types.rs", "tests/ntsim/src/sys/nt/status.rs"];

fn complete(paths: &[&str], source: &Source) {
    let rows: BTreeSet<_> = source.values.keys().chain(source.guids.keys()).cloned().collect();
    let lacking: Vec<_> = source.constants.difference(&rows).collect();
    assert!(lacking.is_empty(), "{paths:?}: constants without a row: {lacking:?}");
    let lacking: Vec<_> = source.fields.difference(&source.indexes).collect();
    assert!(lacking.is_empty(), "{paths:?}: fields without a row: {lacking:?}");
    for (name, members) in &source.records {
        let row = source.layouts.get(name).unwrap_or_else(|| panic!("{paths:?}: {name} has no row"));
        let lacking: Vec<_> = members.iter().filter(|member| !row.members.contains_key(*member)).collect();
        assert!(lacking.is_empty(), "{paths:?}: members of {name} without a row: {lacking:?}");
    }
}

#[test]
fn every_declaration_of_wfp_wsk_and_nmr_has_a_row() {
    for (paths, constants, records) in [(FWP, 370, 35), (WSK, 70, 30), (NMR, 2, 5)] {
        let source = Source::read(paths);
        complete(paths, &source);
        // The reader has found what there is.
        assert!(source.constants.len() >= constants, "{paths:?}: {} constants", source.constants.len());
        assert!(source.records.len() >= records, "{paths:?}: {} structures", source.records.len());
    }
}

#[test]
fn every_structure_that_the_simulated_kernel_spells_has_a_row() {
    let ntsim = Source::read(NTSIM);
    let rows = Source::read(&["src/sys/nt/proof.rs"]);
    assert!(ntsim.records.len() >= 35, "{} structures", ntsim.records.len());
    for (name, members) in &ntsim.records {
        let row = rows.layouts.get(name).unwrap_or_else(|| panic!("{name} has no row"));
        let lacking: Vec<_> = members.iter().filter(|member| !row.members.contains_key(*member)).collect();
        assert!(lacking.is_empty(), "members of {name} without a row: {lacking:?}");
    }
}

#[test]
fn every_constant_that_the_driver_takes_from_nt_has_a_row() {
    let known = Source::read(NTSIM).constants;
    let facade = Source::read(&["src/sys/nt.rs"]);
    let rows = Source::read(&["src/sys/nt/proof.rs"]).values;
    let named: Vec<_> = facade.facade.intersection(&known).collect();
    assert!(named.len() >= 40, "{} constants", named.len());
    let lacking: Vec<_> = named.into_iter().filter(|name| !rows.contains_key(*name)).collect();
    assert!(lacking.is_empty(), "constants without a row: {lacking:?}");
}

/// A page of the reference, if it is at hand.
fn reference(name: &str) -> Option<String> {
    let path = tree("../shared/reference").join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("skipped: no {}", path.display());
    }
    text
}

/// A chapter of a page, from its heading to the next of its rank.
fn chapter<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(heading).unwrap_or_else(|| panic!("no chapter {heading}")) + heading.len();
    let rest = &page[start..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// Names and numbers that follow each other: `NAME=1`, `NAME 0x1`, `NAME = 1`.
fn named_numbers(text: &str) -> Vec<(&str, u64)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_number = |word: &str| {
        word.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            || word.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut pairs = Vec::new();
    let mut before = "";
    for found in text.split_inclusive(|c: char| !word(c) && !matches!(c, ' ' | '=')) {
        for part in found.split([' ', '=']).map(|part| part.trim_matches(|c| !word(c))) {
            if !before.is_empty() && !is_number(before) && !part.is_empty() && is_number(part) {
                pairs.push((before, number(part)));
            }
            if !part.is_empty() {
                before = part;
            }
        }
        before = "";
    }
    pairs
}

#[test]
fn constants_of_wfp_have_the_values_of_the_reference() {
    // Enumerations, whose names the page shortens: what stands before the name in the headers.
    const ENUMERATIONS: &[(&str, &[&str])] = &[
        ("FWP_ACTION_TYPE", &["FWP_ACTION_", "FWP_ACTION_FLAG_"]),
        ("FWP_DATA_TYPE", &["FWP_"]),
        ("FWP_MATCH_TYPE", &["FWP_MATCH_"]),
        ("FWP_DIRECTION", &["FWP_DIRECTION_"]),
        ("FWPM_SERVICE_STATE", &["FWPM_SERVICE_"]),
        ("Notify type", &["FWPS_CALLOUT_NOTIFY_"]),
    ];
    let Some(page) = reference("wfp-layout.md") else { return };
    let mut theirs = BTreeMap::new();
    for paragraph in chapter(&page, "## 4. Constants").lines() {
        // `**Title** (`PREFIX_*`): …` or `**Title**: …`, perhaps several in a line.
        for part in paragraph.split("**").collect::<Vec<_>>().windows(2) {
            let (title, body) = (part[0], part[1]);
            let beside =
                body.strip_prefix(" (`").and_then(|rest| rest.split_once("*`)")).map(|(name, _)| name);
            let listed = ENUMERATIONS.iter().find(|(name, _)| *name == title).map(|(_, prefixes)| *prefixes);
            for prefix in beside.as_slice().iter().copied().chain(listed.unwrap_or_default().iter().copied())
            {
                for (name, value) in named_numbers(body) {
                    theirs.insert(format!("{prefix}{name}"), value);
                    theirs.insert(format!("{prefix}{name}_TYPE"), value);
                }
            }
        }
    }
    let ours = Source::read(&["src/sys/proof/fwp.rs"]).values;
    let mut held = 0;
    for (name, value) in &ours {
        if let Some(theirs) = theirs.get(name) {
            assert_eq!(theirs, value, "{name}");
            held += 1;
        }
    }
    assert!(held >= 150, "the page has only {held} of the constants");
}

#[test]
fn constants_of_wsk_have_the_values_of_the_reference() {
    // Groups whose names the page shortens: what stands around the name in the header.
    const GROUPS: &[(&str, &str, &str)] = &[
        ("socket category", "WSK_FLAG_", "_SOCKET"),
        ("event masks", "WSK_EVENT_", ""),
        ("WskControlClient codes", "WSK_", ""),
        ("WskControlClient codes", "WSK_TDI_BEHAVIOR_", ""),
    ];
    let Some(page) = reference("wsk-layout.md") else { return };
    let mut theirs = BTreeMap::new();
    for row in chapter(&page, "## 4. Constants").lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '*'])).collect();
        let [title, values] = cells.as_slice() else { continue };
        if title.starts_with("SIO_") && !title.contains('/') {
            theirs.insert((*title).to_owned(), number(values.split([' ', '*']).next().unwrap_or_default()));
        }
        for (name, value) in named_numbers(values) {
            theirs.insert(name.to_owned(), value);
            for (_, before, after) in GROUPS.iter().filter(|(group, ..)| title.starts_with(group)) {
                theirs.insert(format!("{before}{name}{after}"), value);
            }
        }
    }
    for row in chapter(&page, "## 1. Scalar").lines().filter(|line| line.contains("(i32)")) {
        theirs.extend(named_numbers(row).into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    let mut held = 0;
    for paths in [WSK, NMR] {
        for (name, value) in &Source::read(paths).values {
            if let Some(theirs) = theirs.get(name) {
                assert_eq!(theirs, value, "{name}");
                held += 1;
            }
        }
    }
    assert!(held >= 65, "the page has only {held} of the constants");
}

#[test]
fn structures_of_wsk_and_nmr_are_laid_out_as_in_the_reference() {
    let Some(page) = reference("wsk-layout.md") else { return };
    let mut ours = Source::read(WSK).layouts;
    ours.extend(Source::read(NMR).layouts);
    let (mut structures, mut members) = (0, 0);
    for line in chapter(&page, "## 2. Structures").lines() {
        // - `NAME` (remark) → SIZE (remark): OFFSET TYPE NAME; OFFSET TYPE NAME (remark).
        let Some((name, rest)) = line.strip_prefix("- `").and_then(|rest| rest.split_once('`')) else {
            continue;
        };
        let Some((_, rest)) = rest.split_once("→ ") else { continue };
        let Some(row) = ours.get(name) else { continue };
        let size = rest.split(|c: char| !c.is_ascii_digit()).next().map(number);
        assert_eq!(row.size, size, "size of {name}");
        structures += 1;
        let Some((_, list)) = rest.split_once(": ") else { continue };
        for part in list.split([';', '.']) {
            let mut words = part.split_whitespace().filter(|word| !word.starts_with(['[', '(']));
            let Some(Ok(offset)) = words.next().map(str::parse::<u64>) else { continue };
            for member in words {
                if let Some(found) = row.members.get(member) {
                    assert_eq!(*found, offset, "{name}.{member}");
                    members += 1;
                }
            }
        }
    }
    assert!(
        structures >= 25 && members >= 90,
        "the page has only {structures} structures, {members} members"
    );
}

/// An image's exports, and since which version; empty: since before the oldest that weir runs on.
fn exports(image: &str) -> BTreeMap<String, String> {
    let path = tree("tests/abi/exports").join(format!("{}.txt", image.to_lowercase()));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut exports = BTreeMap::new();
    let mut last = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, since) = line.split_once(" ; since ").unwrap_or((line, ""));
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        assert!(plain && !name.is_empty(), "{image}: not an export: {line:?}");
        assert!(last < name, "{image}: {name} is out of order, or twice");
        last = name;
        exports.insert(name.to_owned(), since.to_owned());
    }
    exports
}

#[test]
fn the_lists_of_exports_are_whole() {
    let least = [
        ("ntoskrnl.exe", 2500),
        ("hal.dll", 80),
        ("fwpkclnt.sys", 200),
        ("netio.sys", 500),
        ("cng.sys", 35),
        ("ndis.sys", 500),
    ];
    for (image, count) in least {
        assert!(exports(image).len() >= count, "{image}");
    }
    assert_eq!(exports("ntoskrnl.exe")["ExAllocatePool2"], "10.0.19041");
    assert_eq!(exports("hal.dll")["KeQueryPerformanceCounter"], "");
    assert!(!exports("ntoskrnl.exe").contains_key("KeQueryPerformanceCounter"));
}

fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(tree(folder)).expect("a folder of the tree") {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("a name in UTF-8"));
        if entry.file_type().expect("a file type").is_dir() {
            files.extend(rust_files(&path));
        } else if std::path::Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_import_is_an_export_of_its_image_in_the_oldest_windows() {
    let files = rust_files("src");
    let source = Source::read(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let mut imports = source.imports;
    for image in ["ntoskrnl.exe", "fwpkclnt.sys", "netio.sys", "cng.sys"] {
        assert!(imports.values().any(|from| from == image), "nothing is imported from {image}");
    }
    // What the façade takes from wdk-sys comes from the kernel itself.
    let ntsim = rust_files("tests/ntsim/src/sys/nt");
    let functions = Source::read(&ntsim.iter().map(String::as_str).collect::<Vec<_>>()).functions;
    let own = Source::read(&["src/sys/nt/image.rs"]);
    let bound = source.facade.intersection(&functions);
    for name in bound.filter(|name| !own.functions.contains(*name) && !own.imports.contains_key(*name)) {
        imports.insert(name.clone(), "ntoskrnl.exe".to_owned());
    }
    let mut refused = Vec::new();
    for (name, image) in &imports {
        match exports(image).get(name).map(String::as_str) {
            Some("") => {}
            Some(since) => refused.push(format!("{image} exports {name} only since {since}")),
            None => refused.push(format!("{image} does not export {name}")),
        }
    }
    assert!(refused.is_empty(), "an image that imports these would not load:\n{}", refused.join("\n"));
}
