//! Holds the driver's WFP tables against a reference that was extracted from the WDK headers, where it is at hand.

use std::path::Path;

use serde_json::Value;

use super::abi::STRUCTS;
use super::id::{CONDITION_KEYS, LAYER_KEYS, LAYERS, STATUSES, SUBLAYER_KEYS, field};
use crate::sys::nt::GUID;

fn reference() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/wfp-layout.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).expect("the reference is JSON"))
}

fn printed(guid: GUID) -> String {
    let [a, b, tail @ ..] = guid.Data4;
    let tail = tail.iter().fold(0u64, |digits, byte| digits << 8 | u64::from(*byte));
    format!("{:08x}-{:04x}-{:04x}-{a:02x}{b:02x}-{tail:012x}", guid.Data1, guid.Data2, guid.Data3)
}

#[test]
fn structures_are_laid_out_as_in_the_headers() {
    let Some(reference) = reference() else { return };
    for (name, size, align, members) in STRUCTS {
        if *name == "IP_ADDRESS_PREFIX" {
            // The reference has it only as a member: 32 bytes at 156.
            assert_eq!((*size, *align), (32, 4));
            continue;
        }
        let record = &reference["structs"][name];
        assert_eq!(record["size"], *size, "size of {name}");
        assert_eq!(record["align"], *align, "alignment of {name}");
        let offsets = record["offsets"].as_object().expect(name);
        for (member, offset) in *members {
            let member = match *member {
                "type_" => "type",
                "u" => "<union>",
                other => other,
            };
            assert_eq!(offsets.get(member).and_then(Value::as_u64), Some(*offset as u64), "{name}.{member}");
        }
        let unions = offsets.keys().filter(|key| key.starts_with('<')).count();
        let ours = members.iter().filter(|(member, _)| *member == "u").count();
        assert_eq!((members.len(), ours), (offsets.len(), unions), "members of {name}");
    }
}

#[test]
fn layers_have_the_identifiers_of_the_headers() {
    let Some(reference) = reference() else { return };
    for (name, id) in LAYERS {
        assert_eq!(reference["layers"][name], *id, "{name}");
    }
}

#[test]
fn keys_have_the_digits_of_the_headers() {
    let Some(reference) = reference() else { return };
    for (name, key) in LAYER_KEYS.iter().chain(CONDITION_KEYS).chain(SUBLAYER_KEYS) {
        assert_eq!(reference["guids"][name], printed(*key), "{name}");
    }
}

#[test]
fn statuses_have_the_codes_of_the_headers() {
    let Some(reference) = reference() else { return };
    assert_eq!(reference["status"].as_object().expect("statuses").len(), STATUSES.len());
    for (name, code) in STATUSES {
        let name = name.strip_prefix("STATUS_FWP_").expect("the prefix");
        assert_eq!(reference["status"][name], format!("0x{:08X}", code.cast_unsigned()), "{name}");
    }
}

#[test]
fn fields_have_the_indexes_of_the_headers_at_both_layers() {
    let Some(reference) = reference() else { return };
    for (family, fields) in field::TABLE {
        for version in ["V4", "V6"] {
            let layer = format!("{}_{version}", family.to_uppercase());
            let indexes = reference["fields"][&layer].as_object().expect("a layer");
            assert_eq!(indexes["MAX"], fields.len(), "fields of {layer}");
            for (name, index) in *fields {
                assert_eq!(indexes[*name], *index, "{layer} {name}");
            }
        }
    }
}
