//! What the check promises, on images made by hand, on the driver's own image when it was built, and on garbage.

mod draft;
mod independent;

use std::collections::BTreeMap;
use std::path::PathBuf;

use draft::{Built, CALLBACK, DISCARDABLE, Draft, HELPER, Item, START, WRITE, code, set_checksum};

use super::read::Arch;
use super::report::Report;
use super::rows::{ROWS, Status};
use super::{LONG, check};
use crate::step::root;

fn lint(built: &Built) -> Report {
    check(&built.image, Ok(&built.map), &root().join("tests/abi/exports")).unwrap()
}

fn failed(report: &Report) -> Vec<&'static str> {
    let failed = report.findings.iter().filter(|finding| finding.status == Status::Fail);
    failed.map(|finding| finding.row).collect()
}

#[test]
fn a_good_image_passes_every_row() {
    for arch in [Arch::X64, Arch::Arm64] {
        let report = lint(&Draft::new(arch).build());
        let rows: Vec<_> = report.findings.iter().map(|finding| finding.row).collect();
        assert_eq!(rows, ROWS.iter().map(|row| row.id).collect::<Vec<_>>());
        assert!(report.passed(), "{arch:?}: {}", report.text("good", false));
        assert_eq!(report.sizes.functions, 6);
        assert_eq!(report.sizes.call_targets, 2);
        assert_eq!(report.sizes.imports["ntoskrnl.exe"], 2);
    }
}

/// A row, and a draft that breaks it and nothing else.
type Break = (&'static str, fn(&mut Draft));

/// `core::panicking::panic`
const PANIC: &str = "_ZN4core9panicking5panic17h0123456789abcdefE";

const BREAKS: &[Break] = &[
    ("header.machine", |draft| draft.characteristics &= !0x20),
    ("header.subsystem", |draft| draft.subsystem = (2, 10, 0)),
    ("header.subsystem", |draft| draft.subsystem = (1, 6, 1)),
    ("header.os-version", |draft| draft.os_version = (6, 0)),
    ("header.wdm", |draft| draft.dll_characteristics &= !0x2000),
    ("header.aslr", |draft| draft.dll_characteristics &= !0x40),
    ("header.aslr", |draft| draft.dll_characteristics &= !0x20),
    ("header.aslr", |draft| draft.characteristics |= 1),
    ("header.nx", |draft| draft.dll_characteristics &= !0x100),
    ("header.guard", |draft| draft.dll_characteristics &= !0x4000),
    ("header.integrity", |draft| draft.dll_characteristics &= !0x80),
    ("header.checksum", |draft| draft.checksum = Some(0)),
    ("sections.alignment", |draft| draft.section_alignment = 0x200),
    ("sections.wx", |draft| draft.flags = BTreeMap::from([(".text", WRITE)])),
    ("sections.discardable", |draft| draft.flags = BTreeMap::from([(".rdata", DISCARDABLE)])),
    ("sections.entry", |draft| draft.entry = Some(0x2000)),
    ("sections.tls", |draft| draft.directories.push((9, 0x2000, 40))),
    ("sections.relocations", |draft| draft.directories.push((5, 0, 0))),
    ("sections.relocations", |draft| draft.relocations.push((3, 0x58))),
    ("sections.relocations", |draft| draft.relocations.push((10, 0x8000))),
    ("sections.exports", |draft| draft.exports = vec!["DriverEntry", "DllInitialize"]),
    ("debug.pdb", |draft| draft.pdb = "C:\\work\\weir.pdb"),
    ("debug.repro", |draft| draft.repro = false),
    ("config.size", |draft| draft.config_size = 0x70),
    ("config.size", |draft| draft.directories.push((10, 0, 0))),
    ("config.cookie", |draft| draft.cookie = 1),
    ("config.flags", |draft| draft.guard_flags = 0x100),
    ("config.functions", |draft| draft.call_targets = vec![HELPER, "DriverEntry"]),
    ("config.functions", |draft| draft.call_targets = vec![CALLBACK]),
    ("config.functions", |draft| draft.call_targets.push(CALLBACK)),
    ("config.pointers", |draft| draft.guard_writable = true),
    ("version.fields", |draft| draft.file_type = 1),
    ("version.fields", |draft| draft.file_version = "0.1.3.0"),
    ("version.fields", |draft| draft.directories.push((2, 0, 0))),
    ("signature", |draft| {
        draft.certificate = Some((vec![16, 0, 0, 0, 0, 2, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8], false));
    }),
    ("imports.libraries", |draft| draft.imports[1] = ("ndis.sys", vec!["NdisAllocateMdl"])),
    ("imports.names", |draft| draft.imports[1].1[0] = "WskRegisters"),
    ("imports.names", |draft| draft.imports[0].1[0] = "ExAllocatePool2"),
    ("imports.ordinals", |draft| draft.imports[1].1[0] = "#7"),
    ("imports.early", |draft| draft.directories.push((13, 0x2000, 64))),
    ("imports.early", |draft| draft.directories.push((11, 0x2000, 64))),
    ("imports.table", |draft| draft.table_short = 8),
    ("code.decodes", |draft| draft.function(HELPER).items.push(Item::Raw(&[0x06], &[0xFFFF_FFFF]))),
    // vaddps ymm0, ymm0, ymm0; SVE add
    ("code.vector", |draft| {
        draft.function(HELPER).items.push(Item::Raw(&[0xC5, 0xFC, 0x58, 0xC0], &[0x0420_0000]));
    }),
    // popcnt; ldadd
    ("code.baseline", |draft| {
        draft.function(HELPER).items.push(Item::Raw(&[0xF3, 0x48, 0x0F, 0xB8, 0xC0], &[0xB820_0000]));
    }),
    // wbinvd; hvc
    ("code.privileged", |draft| draft.function(HELPER).items.push(Item::Raw(&[0x0F, 0x09], &[0xD400_0002]))),
    // ud2; brk
    ("code.traps", |draft| draft.function(HELPER).items.push(Item::Raw(&[0x0F, 0x0B], &[0xD420_0020]))),
    // call rax; blr x9
    ("code.indirect", |draft| draft.function(CALLBACK).items.push(Item::Raw(&[0xFF, 0xD0], &[0xD63F_0120]))),
    ("code.targets", |draft| draft.function(START).items.push(Item::Take(HELPER))),
    ("code.alloc", |draft| {
        draft.functions.push(code("_RNvNtCs1f2BdUxKfgg_5alloc7raw_vec17capacity_overflow", 0, &[]));
    }),
    ("code.panics", |draft| draft.functions.push(code(PANIC, 0, &[]))),
    // KeBugCheckEx
    ("code.panics", |draft| draft.function(CALLBACK).items.push(Item::Import(1))),
    ("stack.frames", |draft| draft.function(CALLBACK).frame = 1040),
    ("stack.recursion", |draft| draft.function(CALLBACK).items.push(Item::Call(CALLBACK))),
    ("stack.recursion", |draft| {
        draft.functions.push(code(
            "_ZN4weir1a17h0123456789abcdefE",
            32,
            &[Item::Call(HELPER), Item::Call(CALLBACK)],
        ));
        draft.function(CALLBACK).items.push(Item::Call("_ZN4weir1a17h0123456789abcdefE"));
    }),
    ("stack.depth", |draft| {
        const STEPS: [&str; 6] =
            ["_ZN4weir1aE", "_ZN4weir1bE", "_ZN4weir1cE", "_ZN4weir1dE", "_ZN4weir1eE", HELPER];
        for pair in STEPS.windows(2) {
            draft.functions.push(code(pair[0], 1008, &[Item::Call(pair[1])]));
        }
        draft.function(CALLBACK).items.push(Item::Call(STEPS[0]));
    }),
];

/// Rows whose break depends on the architecture or is none of the draft's.
const OTHERS: [&str; 3] = ["debug.cet", "code.map", "stack.unwind"];

#[test]
fn a_broken_image_fails_the_row_that_is_broken_and_no_other() {
    for arch in [Arch::X64, Arch::Arm64] {
        for (index, (row, change)) in BREAKS.iter().enumerate() {
            let mut draft = Draft::new(arch);
            change(&mut draft);
            let report = lint(&draft.build());
            assert_eq!(failed(&report), [*row], "{arch:?}, break {index}: {}", report.text("broken", false));
        }
    }
    for row in ROWS {
        assert!(OTHERS.contains(&row.id) || BREAKS.iter().any(|(broken, _)| *broken == row.id), "{}", row.id);
    }
}

#[test]
fn shadow_stacks_are_asked_of_x64_alone() {
    for (arch, fails) in [(Arch::X64, vec!["debug.cet"]), (Arch::Arm64, vec![])] {
        let mut draft = Draft::new(arch);
        draft.cet = false;
        assert_eq!(failed(&lint(&draft.build())), fails);
    }
}

#[test]
fn a_stack_without_unwind_data_fails() {
    let mut draft = Draft::new(Arch::X64);
    // sub rsp, 8; add rsp, 8
    draft.function(HELPER).items = vec![Item::Raw(&[0x48, 0x83, 0xEC, 8, 0x48, 0x83, 0xC4, 8], &[])];
    assert_eq!(failed(&lint(&draft.build())), ["stack.unwind"]);
    let mut draft = Draft::new(Arch::Arm64);
    // stp x29, x30, [sp, #-16]!; ldp x29, x30, [sp], #16
    draft.function(HELPER).items = vec![Item::Raw(&[], &[0xA9BF_7BFD, 0xA8C1_7BFD])];
    assert_eq!(failed(&lint(&draft.build())), ["stack.unwind"]);
}

#[test]
fn without_the_right_map_the_code_is_not_passed() {
    let built = Draft::new(Arch::X64).build();
    let exports = root().join("tests/abi/exports");
    let moved = built.map.replace("00000001800010", "00000001800018");
    for map in [Err("no such file".to_owned()), Ok(""), Ok(" weir\n"), Ok(moved.as_str())] {
        let report = check(&built.image, map, &exports).unwrap();
        assert_eq!(failed(&report), ["code.map"]);
    }
    // One symbol less: code that nobody knows.
    let line = built.map.lines().find(|line| line.contains(HELPER)).unwrap();
    let report = check(&built.image, Ok(&built.map.replace(line, "")), &exports).unwrap();
    assert_eq!(failed(&report), ["code.decodes"]);
}

#[test]
fn bytes_behind_the_last_section_fail() {
    let mut built = Draft::new(Arch::X64).build();
    built.image.extend([1, 2, 3, 4]);
    set_checksum(&mut built.image, None);
    assert_eq!(failed(&lint(&built)), ["signature"]);
}

#[test]
fn a_signed_image_is_noted() {
    let mut draft = Draft::new(Arch::X64);
    draft.certificate = Some((vec![16, 0, 0, 0, 0, 2, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8], true));
    let report = lint(&draft.build());
    assert!(report.passed());
    let finding = report.findings.iter().find(|finding| finding.row == "signature").unwrap();
    assert_eq!(finding.status, Status::Note);
}

#[test]
fn an_export_of_the_entry_point_passes_and_one_of_another_function_by_its_name_does_not() {
    let mut draft = Draft::new(Arch::X64);
    draft.exports = vec!["DriverEntry"];
    let report = lint(&draft.build());
    assert!(report.passed(), "{}", report.text("exports", false));
    draft.functions.push(code("_ZN4weir5entryE", 0, &[]));
    draft.entry = Some(0x1000 + 0x30);
    draft.functions.swap(0, 1);
    assert!(failed(&lint(&draft.build())).contains(&"sections.exports"));
}

#[test]
fn the_calls_to_a_panic_are_told_from_the_root_to_the_source_line() {
    for arch in [Arch::X64, Arch::Arm64] {
        let mut draft = Draft::new(arch);
        let middle = "_RNvNtCs8icZUrvfcq9_4weir6policy4walk";
        draft.functions.push(code(middle, 48, &[Item::Location, Item::Call(PANIC)]));
        draft.functions.push(code(PANIC, 0, &[]));
        draft.function(CALLBACK).items.push(Item::Call(middle));
        let report = lint(&draft.build());
        assert_eq!(failed(&report), ["code.panics"], "{}", report.text("panic", false));
        let [panic] = report.panics.as_slice() else { panic!("{:?}", report.panics) };
        assert_eq!(
            panic.chain,
            ["weir::wfp::callout::classify", "weir::policy::walk", "core::panicking::panic"]
        );
        let [caller] = panic.callers.as_slice() else { panic!("{:?}", panic.callers) };
        assert_eq!(caller.function, "weir::policy::walk");
        assert_eq!(caller.location.as_deref(), Some("src/wfp/callout.rs:12:34"));
        let names: Vec<_> = panic.reached_from.iter().map(|kind| kind.name()).collect();
        assert_eq!(names, ["callback"]);
    }
}

#[test]
fn a_panic_that_only_the_entry_point_reaches_says_so() {
    let mut draft = Draft::new(Arch::X64);
    draft.functions.push(code(PANIC, 0, &[]));
    draft.function(START).items.push(Item::Call(PANIC));
    let report = lint(&draft.build());
    let names: Vec<_> = report.panics[0].reached_from.iter().map(|kind| kind.name()).collect();
    assert_eq!(names, ["start"]);
}

#[test]
fn a_function_whose_address_code_takes_is_a_root() {
    for arch in [Arch::X64, Arch::Arm64] {
        let mut draft = Draft::new(arch);
        draft.functions.push(code("_ZN4weir5later17h0123456789abcdefE", 48, &[Item::Call(HELPER)]));
        draft.function(START).items.push(Item::Take("_ZN4weir5later17h0123456789abcdefE"));
        draft.call_targets.push("_ZN4weir5later17h0123456789abcdefE");
        let report = lint(&draft.build());
        assert!(report.depths.iter().any(|depth| depth.root == "weir::later"), "{:?}", report.depths);
    }
}

#[test]
fn the_deepest_path_adds_frames_and_return_addresses_and_a_last_jump_gives_its_frame_back() {
    let depth = |draft: &Draft| {
        let report = lint(&draft.build());
        report.depths.iter().find(|depth| depth.root == "weir::wfp::callout::classify").unwrap().bytes
    };
    let mut draft = Draft::new(Arch::X64);
    // The callback and the leaf below it
    assert_eq!(depth(&draft), 48 + 8 + 8);
    draft.functions.push(code("_ZN4weir4lastE", 400, &[Item::Call(HELPER)]));
    draft.function(CALLBACK).items = vec![Item::Call("_ZN4weir4lastE")];
    assert_eq!(depth(&draft), 48 + 8 + 400 + 8 + 8);
    draft.function(CALLBACK).items = vec![Item::Jump("_ZN4weir4lastE")];
    assert_eq!(depth(&draft), 400 + 8 + 8);
    let mut draft = Draft::new(Arch::Arm64);
    assert_eq!(depth(&draft), 48);
    draft.function(HELPER).frame = 160;
    assert_eq!(depth(&draft), 48 + 160);
}

#[test]
fn a_call_by_pointer_is_measured_as_if_it_led_to_the_deepest_callback() {
    let mut draft = Draft::new(Arch::X64);
    let other = "_ZN4weir5otherE";
    draft.functions.push(code(other, 800, &[]));
    draft.call_targets.push(other);
    let by_pointer = |draft: &Draft| {
        let report = lint(&draft.build());
        let found = report.depths.iter().find(|depth| depth.root == "weir::wfp::callout::classify").unwrap();
        (found.by_pointer, report.passed())
    };
    // The callback, its return address and the other's
    assert_eq!(by_pointer(&draft), (Some(48 + 8 + 800 + 8), true));
    draft.function(CALLBACK).items.retain(|item| !matches!(item, Item::Guarded));
    assert_eq!(by_pointer(&draft), (None, true));
}

#[test]
fn a_checked_jump_in_place_of_a_call_is_one_by_pointer() {
    let mut draft = Draft::new(Arch::Arm64);
    // After the check and the call: another check, and br x15
    draft.function(CALLBACK).items.extend([Item::Check, Item::Raw(&[], &[0xD61F_01E0])]);
    let report = lint(&draft.build());
    let finding = report.findings.iter().find(|finding| finding.row == "code.indirect").unwrap();
    assert_eq!(finding.found, "2 guarded, 0 not; 1 jumps by a register (switches)");
    assert!(report.passed());
}

#[test]
fn a_load_into_a_vector_register_leaves_the_general_one_of_that_number() {
    let slots = |load: u32| {
        // adrp x8; ldr x8, [x8]; the load; blr x8
        let code = [0x9000_0008, 0xF940_0108, load, 0xD63F_0100_u32].map(u32::to_le_bytes);
        let facts = super::arm64::decode(0x1000, code.as_flattened());
        facts.transfers.iter().filter(|transfer| matches!(transfer.to, super::code::To::Slot(_))).count()
    };
    // ldr d8, [x20]; ldr x8, [x20]
    assert_eq!((slots(0xFD40_0288), slots(0xF940_0288)), (1, 0));
}

#[test]
fn what_needs_avx_is_found_whatever_it_is() {
    for instruction in [
        // vzeroupper; vmovdqa xmm0, xmm0; kmovq k0, rax; vaddps zmm0; fld1; movq mm0, rax; emms
        &[0xC5, 0xF8, 0x77][..],
        &[0xC5, 0xF9, 0x6F, 0xC0],
        &[0xC4, 0xE1, 0xFB, 0x92, 0xC0],
        &[0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0],
        &[0xD9, 0xE8],
        &[0x48, 0x0F, 0x6E, 0xC0],
        &[0x0F, 0x77],
    ] {
        let facts = super::x64::decode(0x1000, instruction, 0);
        assert_eq!(facts.vector.len(), 1, "{instruction:02x?}: {facts:?}");
    }
    // addps xmm0, xmm0; endbr64; pause; lock cmpxchg16b [rax]; tzcnt
    for instruction in [
        &[0x0F, 0x58, 0xC0][..],
        &[0xF3, 0x0F, 0x1E, 0xFA],
        &[0xF3, 0x90],
        &[0xF0, 0x48, 0x0F, 0xC7, 0x08],
        &[0xF3, 0x48, 0x0F, 0xBC, 0xC0],
    ] {
        let facts = super::x64::decode(0x1000, instruction, 0);
        assert!(facts.vector.is_empty() && facts.baseline.is_empty(), "{instruction:02x?}: {facts:?}");
    }
}

#[test]
fn a_trap_behind_a_call_or_a_switch_is_none_that_code_runs_into() {
    // call; ud2 — jmp rax; ud2 — ud2 at once
    let behind_call = super::x64::decode(0x1000, &[0xE8, 0, 1, 0, 0, 0x0F, 0x0B], 0);
    assert!(behind_call.traps.is_empty() && behind_call.holes.is_empty());
    let behind_switch = super::x64::decode(0x1000, &[0xFF, 0xE0, 0x0F, 0x0B], 0);
    assert!(behind_switch.traps.is_empty());
    assert_eq!(behind_switch.holes.len(), 1);
    // je +2; jmp rax; ud2
    let branched_to = super::x64::decode(0x1000, &[0x74, 0x02, 0xFF, 0xE0, 0x0F, 0x0B], 0);
    assert_eq!(branched_to.traps.len(), 1);
}

/// A small generator of numbers, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

#[test]
fn every_truncation_is_refused_or_fails() {
    let exports = root().join("tests/abi/exports");
    for arch in [Arch::X64, Arch::Arm64] {
        let built = Draft::new(arch).build();
        for len in 0..built.image.len() {
            if let Ok(report) = check(&built.image[..len], Ok(&built.map), &exports) {
                assert!(!report.passed(), "{arch:?}: {len} bytes passed");
            }
        }
    }
}

/// Changes some bytes of an image and its map, and checks it.
fn check_garbage(built: &Built, random: &mut Random) {
    let mut image = built.image.clone();
    for _ in 0..=random.next(8) {
        // Headers and tables rather than padding
        let at = if random.next(2) == 0 { random.next(0x400) } else { random.next(image.len()) };
        image[at] = match random.next(3) {
            0 => 0xFF,
            1 => 0,
            _ => u8::try_from(random.next(256)).unwrap(),
        };
    }
    if random.next(2) == 0 {
        set_checksum(&mut image, None);
    }
    let mut map = built.map.clone().into_bytes();
    if random.next(4) == 0 {
        let at = random.next(map.len());
        map[at] = b'0' + u8::try_from(random.next(40)).unwrap();
    }
    let map = String::from_utf8_lossy(&map).into_owned();
    if let Ok(report) = check(&image, Ok(&map), &root().join("tests/abi/exports")) {
        let _ = report.text("garbage", true);
        let _ = report.json("garbage").to_string();
    }
}

#[test]
fn no_garbage_stops_the_check() {
    let mut random = Random(0x7765_6972);
    for arch in [Arch::X64, Arch::Arm64] {
        let built = Draft::new(arch).build();
        for _ in 0..3000 {
            check_garbage(&built, &mut random);
        }
    }
    for (_, built) in own_images() {
        for _ in 0..100 {
            check_garbage(&built, &mut random);
        }
    }
}

/// The driver's own image and its map: `WEIR_IMAGE`, or those that `cargo xtask build` left.
fn own_images() -> Vec<(PathBuf, Built)> {
    let named = std::env::var_os("WEIR_IMAGE").map(PathBuf::from);
    let built = ["x64", "arm64"].map(|arch| root().join(format!("target/dist/{arch}/weir.sys")));
    let images: Vec<_> = named.map_or_else(|| built.to_vec(), |named| vec![named]);
    let mut found = Vec::new();
    for path in images {
        match (std::fs::read(&path), std::fs::read_to_string(path.with_extension("map"))) {
            (Ok(image), Ok(map)) => found.push((path, Built { image, map })),
            _ => println!("skipped: no {} (cargo xtask build)", path.display()),
        }
    }
    found
}

#[test]
fn a_change_to_the_drivers_image_fails_the_row_of_that_change() {
    for (path, mut built) in own_images() {
        let before = failed(&lint(&built));
        let (offset, original) = {
            let image = super::read::Image::parse(&built.image).unwrap();
            (super::header::checksum_offset(&image), built.image.clone())
        };
        // From the checksum on: subsystem, DLL characteristics. Before it: versions.
        let changes: [(&str, usize, u8); 6] = [
            ("header.subsystem", offset + 4, 2),
            ("header.nx", offset + 7, original[offset + 7] & !0x01),
            ("header.guard", offset + 7, original[offset + 7] & !0x40),
            ("header.wdm", offset + 7, original[offset + 7] & !0x20),
            ("header.aslr", offset + 6, original[offset + 6] & !0x40),
            ("header.os-version", offset - 24, 6),
        ];
        for (row, at, value) in changes {
            built.image.clone_from(&original);
            built.image[at] = value;
            set_checksum(&mut built.image, None);
            let mut after = failed(&lint(&built));
            after.retain(|failed| !before.contains(failed));
            assert_eq!(after, [row], "{}", path.display());
        }
        built.image.clone_from(&original);
        let last = built.image.len() - 1;
        built.image[last] ^= 1;
        assert!(failed(&lint(&built)).contains(&"header.checksum"));
    }
}

#[test]
fn the_page_about_the_rows_is_the_catalogue() {
    let page = std::fs::read_to_string(root().join("tools/xtask/LINT-PE.md")).unwrap();
    let rows: Vec<_> = ROWS.iter().map(|row| format!("| `{}` | {} |\n", row.id, row.asks)).collect();
    let table = rows.concat();
    assert!(page.contains(&table), "the table in tools/xtask/LINT-PE.md should be:\n{table}");
    assert!(LONG.contains("tools/xtask/LINT-PE.md"));
}
