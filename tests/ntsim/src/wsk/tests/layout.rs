//! Holds the driver's WSK and NMR structures against a reference that was extracted from the WDK headers, where it is
//! at hand.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn structures_are_laid_out_as_in_the_headers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/wfp-layout.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return;
    };
    let reference: Value = serde_json::from_str(&text).expect("the reference is JSON");
    let mut rows = crate::sys::wsk::layout_rows();
    rows.extend(crate::sys::nmr::layout_rows());
    for (name, size, align, members) in &rows {
        let record = &reference["structs"][name];
        assert_eq!(record["size"], *size, "size of {name}");
        assert_eq!(record["align"], *align, "alignment of {name}");
        let offsets = record["offsets"].as_object().expect(name);
        let ours: BTreeMap<&str, usize> = members.iter().copied().collect();
        for (member, offset) in offsets.iter().filter(|(member, _)| !member.starts_with('<')) {
            let found = ours.get(member.as_str()).map(|found| *found as u64);
            assert_eq!(found, offset.as_u64(), "{name}.{member}");
        }
    }
    let structs = reference["structs"].as_object().unwrap();
    let theirs = structs.keys().filter(|name| name.starts_with("WSK_") || name.starts_with("NPI_"));
    for name in theirs.filter(|name| !name.contains('<')) {
        assert!(rows.iter().any(|row| row.0 == name), "{name} is not declared");
    }
}

#[test]
fn identifiers_and_codes_have_the_documented_values() {
    use crate::sys::wsk::*;
    let npi = NPI_WSK_INTERFACE_ID;
    assert_eq!((npi.Data1, npi.Data2, npi.Data3), (0x2227_E803, 0x8D8B, 0x11D4));
    assert_eq!(npi.Data4, [0xAB, 0xAD, 0x00, 0x90, 0x27, 0x71, 0x9E, 0x09]);
    assert_eq!(MAKE_WSK_VERSION(1, 0), 0x100);
    assert_eq!((WSK_MAJOR_VERSION(0x0203), WSK_MINOR_VERSION(0x0203)), (2, 3));
    let codes = [WSK_TRANSPORT_LIST_QUERY, WSK_TRANSPORT_LIST_CHANGE, WSK_CACHE_SD, WSK_RELEASE_SD];
    assert_eq!(codes, [2, 3, 4, 5]);
    let codes = [WSK_TDI_DEVICENAME_MAPPING, WSK_SET_STATIC_EVENT_CALLBACKS, WSK_TDI_BEHAVIOR];
    assert_eq!(codes, [6, 7, 8]);
    assert_eq!((SO_WSK_SECURITY, SO_WSK_EVENT_CALLBACK), (0x4001, 0x4002));
    assert_eq!(SO_EXCLUSIVEADDRUSE, 0xFFFF_FFFB);
}
