//! The driver's own INF: no rule is broken, and what it sets is what the driver reads.

use weir::config::schema::{Kind, REG_DWORD, REG_MULTI_SZ, REG_SZ, Setting, TABLE, parse as value};

use super::super::parse::{Inf, parse};
use super::super::stamp::{self, Version};
use super::{Level, find, inx, lint};
use crate::build::Arch;

/// FLG_ADDREG_NOCLOBBER
const STAYS: u32 = 0x2;

/// The INF of a package.
fn stamped(arch: Arch) -> String {
    let text = std::fs::read_to_string(inx()).unwrap();
    let version: Version = env!("CARGO_PKG_VERSION").parse().unwrap();
    stamp::stamp(&text, arch, version, "2026-11-22".parse().unwrap()).unwrap()
}

fn inf() -> Inf {
    parse(&stamped(Arch::X64)).unwrap()
}

/// The fields of a section's entries.
fn rows(inf: &Inf, section: &str) -> Vec<Vec<String>> {
    let entries = inf.entries(section);
    entries.map(|entry| entry.fields.iter().map(|field| inf.text(field)).collect()).collect()
}

/// How a default stands in the INF: flags, and values.
fn written(setting: &Setting) -> (u32, Vec<String>) {
    let flags = match (setting.kind, setting.kind.registry_types().first()) {
        (Kind::Binary { .. }, _) | (_, None) => panic!("{} has a default", setting.name),
        (_, Some(&REG_SZ)) => 0,
        (_, Some(&REG_DWORD)) => 0x0001_0001,
        (_, Some(&REG_MULTI_SZ)) => 0x0001_0000,
        (_, Some(other)) => panic!("{}: {other}", setting.name),
    };
    (flags | STAYS, vec![setting.default.to_owned()])
}

#[test]
fn it_breaks_no_rule_of_any_level() {
    for arch in [Arch::X64, Arch::Arm64] {
        assert_eq!(lint(stamped(arch).as_bytes()), []);
    }
    assert!(find(1322).is_some_and(|rule| rule.gravity(Level::W) == super::Gravity::Error));
    // What is not stamped yet lacks what stamping adds.
    let codes = lint(&std::fs::read(inx()).unwrap()).into_iter().map(|finding| finding.code);
    assert_eq!(codes.collect::<std::collections::BTreeSet<_>>(), [1234, 1274].into());
}

#[test]
fn its_defaults_are_those_of_the_schema() {
    let expected: Vec<Vec<String>> = TABLE
        .iter()
        .filter(|setting| !setting.default.is_empty())
        .map(|setting| {
            let (flags, values) = written(setting);
            let place = ["HKR", "Parameters", setting.name].map(str::to_owned);
            place.into_iter().chain([format!("0x{flags:08X}")]).chain(values).collect()
        })
        .collect();
    assert_eq!(rows(&inf(), "weir.Parameters"), expected, "in the order of src/config/schema.rs");
}

#[test]
fn the_driver_takes_every_default_as_it_is_installed() {
    for row in rows(&inf(), "weir.Parameters") {
        let [_, _, name, flags, text] = &row[..] else { panic!("{row:?}") };
        let (kind, bytes) = if flags == "0x00010003" {
            (REG_DWORD, text.parse::<u32>().unwrap().to_le_bytes().to_vec())
        } else {
            (REG_SZ, text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
        };
        assert!(value(name, kind, &bytes).is_ok(), "{row:?}");
    }
}

#[test]
fn the_private_keys_place_is_guarded() {
    let inf = inf();
    assert_eq!(rows(&inf, "weir.Key"), [["HKR", r"Parameters\Key", "", "0x00000010"].map(str::to_owned)]);
    // Nothing inherited; the system and its administrators, who may do everything; nobody else.
    assert_eq!(rows(&inf, "weir.Key.Security"), [["D:P(A;;GA;;;SY)(A;;GA;;;BA)".to_owned()]]);
}

#[test]
fn it_starts_as_its_comments_say() {
    let inf = inf();
    let service: Vec<_> = inf
        .entries("weir.Service")
        .map(|entry| (inf.text(entry.key.as_ref().unwrap()), inf.text(&entry.fields[0])))
        .collect();
    let value = |name: &str| service.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("StartType"), Some("1"));
    assert_eq!(value("ErrorControl"), Some("1"));
    assert_eq!(value("ServiceBinary"), Some(r"%13%\weir.sys"));
    assert_eq!((value("LoadOrderGroup"), value("Dependencies")), (None, None));
}
