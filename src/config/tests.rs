//! The schema's promises, over every value and hostile bytes.

use std::collections::HashSet;
use std::format;
use std::net::SocketAddr;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::schema::*;

const HIGHEST_TYPE: u32 = 12;

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn zeros(length: usize) -> Vec<u8> {
    vec![0; length]
}

/// Bytes that look like text, like nothing, like numbers.
fn fillings(length: usize) -> [Vec<u8>; 6] {
    let repeat = |pattern: &[u8]| pattern.iter().copied().cycle().take(length).collect();
    [
        zeros(length),
        repeat(&[0xff]),
        repeat(&[b'a', 0]),
        repeat(&[0, 0xd8]),
        repeat(&utf16("{5ee5d4f1-9929-4633-8368-7bc7438b4140}=required\0")),
        repeat(&utf16(
            "{00000000-0000-0000-0000-000000000001}=off;events=0x1f;providers=nmr,wsk;speaks=\
             {5ee5d4f1-9929-4633-8368-7bc7438b4140}\0",
        )),
    ]
}

#[test]
fn the_defaults_are_what_the_table_says() {
    let mut settings = Settings::DEFAULT;
    for setting in TABLE.iter().filter(|setting| setting.name != POLICY_IMAGE.name) {
        let bytes = match setting.kind {
            Kind::Number { .. } | Kind::Choice(_) => {
                setting.default.parse::<u32>().unwrap().to_le_bytes().to_vec()
            }
            Kind::Endpoints | Kind::Dials | Kind::Peers | Kind::Directory | Kind::Extensions => {
                utf16(&format!("{}\0", setting.default))
            }
            Kind::Binary { .. } => panic!("{} is not a setting", setting.name),
        };
        settings.set(setting.name, setting.kind.registry_types()[0], &bytes).unwrap();
        assert_eq!(settings, Settings::DEFAULT, "{}", setting.name);
    }
}

#[test]
fn a_list_that_was_longer_is_the_same_as_one_that_never_was() {
    let set = |settings: &mut Settings, text: &str| {
        settings.set("ControlListen", REG_MULTI_SZ, &utf16(text)).unwrap();
    };
    let (mut longer, mut never) = (Settings::DEFAULT, Settings::DEFAULT);
    set(&mut longer, "127.0.0.1:1\x00127.0.0.1:2\0\0");
    assert_ne!(longer, never);
    set(&mut longer, "127.0.0.1:1\0\0");
    set(&mut never, "127.0.0.1:1\0\0");
    assert_eq!(longer, never);
}

#[test]
fn every_type_with_every_length_is_taken_or_refused_and_a_refused_one_changes_nothing() {
    for setting in TABLE {
        let longest = setting.kind.maximum_size().min(4096) + 3;
        for bytes in fillings(longest) {
            for length in 0..=longest {
                for registry_type in (0..=HIGHEST_TYPE).chain([u32::MAX]) {
                    let mut settings = Settings::DEFAULT;
                    let taken = settings.set(setting.name, registry_type, &bytes[..length]);
                    let right_type = setting.kind.registry_types().contains(&registry_type);
                    assert!(right_type || taken == Err(Refused::WrongType), "{}", setting.name);
                    if taken.is_err() {
                        assert_eq!(settings, Settings::DEFAULT, "{} {length}", setting.name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_value_without_bytes_is_refused() {
    for setting in TABLE {
        for &registry_type in setting.kind.registry_types() {
            let refused = parse(setting.name, registry_type, &[]).unwrap_err();
            assert_eq!(refused, Refused::WrongSize, "{}", setting.name);
        }
    }
}

#[test]
fn a_value_over_its_cap_is_refused() {
    for setting in TABLE {
        let kind = setting.kind;
        let bytes = zeros(kind.maximum_size() + 2);
        let refused = parse(setting.name, kind.registry_types()[0], &bytes).unwrap_err();
        let expected = match kind {
            Kind::Number { .. } | Kind::Choice(_) => Refused::WrongSize,
            _ => Refused::TooLong,
        };
        assert_eq!(refused, expected, "{}", setting.name);
    }
}

#[test]
fn numbers_are_held_to_their_range() {
    for setting in TABLE {
        let Kind::Number { minimum, maximum, power_of_two, .. } = setting.kind else { continue };
        let set = |number: u32| {
            let mut settings = Settings::DEFAULT;
            settings.set(setting.name, REG_DWORD, &number.to_le_bytes())
        };
        assert_eq!(set(minimum), Ok(()), "{}", setting.name);
        assert_eq!(set(maximum), Ok(()), "{}", setting.name);
        if let Some(above) = maximum.checked_add(1) {
            assert_eq!(set(above), Err(Refused::OutOfRange), "{}", setting.name);
        }
        if let Some(below) = minimum.checked_sub(1) {
            assert_eq!(set(below), Err(Refused::OutOfRange), "{}", setting.name);
        }
        if power_of_two {
            assert_eq!(set(minimum + 1), Err(Refused::NotPowerOfTwo), "{}", setting.name);
        }
    }
}

#[test]
fn the_fail_mode_is_one_that_has_a_name() {
    let mut settings = Settings::DEFAULT;
    assert_eq!(settings.set("FailMode", REG_DWORD, &1_u32.to_le_bytes()), Ok(()));
    assert_eq!(settings.fail_mode, FailMode::Closed);
    for number in [2, 255, 256, u32::MAX] {
        let refused = settings.set("FailMode", REG_DWORD, &number.to_le_bytes());
        assert_eq!(refused, Err(Refused::OutOfRange), "{number}");
    }
    assert_eq!(settings.fail_mode, FailMode::Closed);
}

#[test]
fn a_name_is_found_in_any_case_and_no_other_is() {
    let mut settings = Settings::DEFAULT;
    assert_eq!(settings.set("ringRECORDS", REG_DWORD, &512_u32.to_le_bytes()), Ok(()));
    assert_eq!(settings.ring_records, 512);
    for name in ["", "RingRecord", "RingRecords ", "RingRecords\0"] {
        assert_eq!(settings.set(name, REG_DWORD, &512_u32.to_le_bytes()), Err(Refused::UnknownName));
    }
}

#[test]
fn an_endpoint_is_taken_with_and_without_terminator() {
    for (text, expected) in [
        ("10.1.2.3:1", Some("10.1.2.3:1")),
        ("[::1]:65535\0", Some("[::1]:65535")),
        ("0.0.0.0:0", Some("0.0.0.0:0")),
        ("\0", None),
    ] {
        let bytes = utf16(text);
        let mut settings = Settings::DEFAULT;
        settings.set("ControlListen", REG_SZ, &bytes).unwrap();
        let expected: Vec<SocketAddr> = expected.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        assert_eq!(settings.control_listen.as_slice(), expected, "{text:?}");
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused_with_the_reason() {
    for (text, reason) in [
        ("127.0.0.1", Refused::BadAddress),
        ("127.0.0.1:65536", Refused::BadAddress),
        ("localhost:1", Refused::BadAddress),
        ("::1:1", Refused::BadAddress),
        ("127.0.0.1:1 ", Refused::NotText),
        ("127.0.0.1:１", Refused::NotText),
        ("127.0.0.1:\0:", Refused::EmbeddedNul),
        ("127.0.0.1:1\0\0", Refused::EmbeddedNul),
        ("\0::1:1", Refused::EmbeddedNul),
    ] {
        assert_eq!(parse("ControlListen", REG_SZ, &utf16(text)), Err(reason), "{text:?}");
    }
    let mut odd = utf16("127.0.0.1:1");
    odd.push(0);
    assert_eq!(parse("ControlListen", REG_SZ, &odd), Err(Refused::WrongSize));
}

fn set(name: &str, registry_type: u32, text: &str) -> Result<Settings, Refused> {
    let mut settings = Settings::DEFAULT;
    settings.set(name, registry_type, &utf16(text))?;
    Ok(settings)
}

#[test]
fn several_endpoints_are_taken_in_their_order() {
    let listen = |registry_type, text: &str| {
        set("ControlListen", registry_type, text)
            .map(|settings| settings.control_listen.as_slice().iter().map(ToString::to_string).collect())
    };
    let expected: Vec<String> = vec!["10.1.2.3:1".into(), "[::1]:2".into()];
    for end in ["", "\0", "\0\0"] {
        assert_eq!(listen(REG_MULTI_SZ, &format!("10.1.2.3:1\0[::1]:2{end}")), Ok(expected.clone()));
    }
    assert_eq!(listen(REG_MULTI_SZ, "\0"), Ok(Vec::<String>::new()));
    let many = |count: u32| (1..=count).map(|port| format!("10.1.2.3:{port}\0")).collect::<Vec<_>>().concat();
    assert_eq!(listen(REG_MULTI_SZ, &many(8)).map(|list: Vec<String>| list.len()), Ok(8));
    for (registry_type, text, reason) in [
        (REG_MULTI_SZ, many(9), Refused::TooMany),
        (REG_MULTI_SZ, "10.1.2.3:1\x0010.1.2.3:1\0\0".into(), Refused::Duplicate),
        (REG_MULTI_SZ, "10.1.2.3:1\0\x0010.1.2.3:2\0\0".into(), Refused::EmbeddedNul),
        (REG_MULTI_SZ, "10.1.2.3:1\0nowhere\0\0".into(), Refused::BadAddress),
        (REG_SZ, "10.1.2.3:1\x0010.1.2.3:2\0".into(), Refused::EmbeddedNul),
    ] {
        assert_eq!(listen(registry_type, &text), Err(reason), "{text:?}");
    }
}

#[test]
fn peers_are_taken_in_their_order_with_names_and_keys_of_their_own() {
    let key = |number: usize| format!("{number:064x}");
    let peers = |text: &str| {
        set("ControlPeers", REG_MULTI_SZ, text)
            .map(|settings| settings.control_peers.as_slice().iter().map(ToString::to_string).collect())
    };
    let list = |count: usize| {
        (0..count).map(|n| format!("peer-{n}=observer:{}\0", key(n))).collect::<Vec<_>>().concat()
    };
    let expected: Vec<String> = vec![format!("b=operator:{}", key(1)), format!("a=observer:{}", key(2))];
    assert_eq!(peers(&format!("b=operator:{}\0a=Observer:{}\0\0", key(1), key(2))), Ok(expected));
    assert_eq!(peers(&list(64)).map(|list: Vec<String>| list.len()), Ok(64));
    for (text, reason) in [
        (list(65), Refused::TooMany),
        (format!("a=operator:{}\0A=operator:{}\0", key(1), key(2)), Refused::Duplicate),
        (format!("a=operator:{}\0b=operator:{}\0", key(1), key(1)), Refused::Duplicate),
        (format!("a=root:{}\0", key(1)), Refused::BadPeer),
        ("a\0".into(), Refused::BadPeer),
    ] {
        assert_eq!(peers(&text), Err(reason), "{text:?}");
    }
}

#[test]
fn whom_to_dial_is_a_peer_and_an_address_that_can_be_dialled() {
    let dials = |text: &str| {
        set("ControlDial", REG_MULTI_SZ, text).map(|settings| {
            let dials = settings.control_dial.as_slice().iter();
            dials.map(|dial| format!("{} {}", dial.peer, dial.address)).collect::<Vec<_>>()
        })
    };
    let taken = dials("fleet@192.0.2.7:1\0lab@x@[2001:db8::7]:2\0\0");
    assert_eq!(taken, Ok(vec!["fleet 192.0.2.7:1".into(), "lab@x [2001:db8::7]:2".into()]));
    for (text, reason) in [
        ("192.0.2.7:1\0", Refused::BadPeer),
        ("@192.0.2.7:1\0", Refused::BadPeer),
        ("a b@192.0.2.7:1\0", Refused::BadPeer),
        ("fleet@\0", Refused::BadAddress),
        ("fleet@192.0.2.7\0", Refused::BadAddress),
        ("fleet@192.0.2.7:0\0", Refused::BadAddress),
        ("fleet@0.0.0.0:1\0", Refused::BadAddress),
        ("fleet@192.0.2.7:1\0fleet@192.0.2.7:1\0", Refused::Duplicate),
    ] {
        assert_eq!(dials(text), Err(reason), "{text:?}");
    }
}

#[test]
fn the_first_to_dial_who_is_no_peer_is_named() {
    let mut settings = Settings::DEFAULT;
    assert_eq!(settings.stranger(), None);
    let dials = utf16("Fleet@192.0.2.7:1\0lab@192.0.2.7:2\0other@192.0.2.7:3\0\0");
    settings.set("ControlDial", REG_MULTI_SZ, &dials).unwrap();
    for (peers, stranger) in [
        (&[][..], Some("Fleet")),
        (&["fleet"], Some("lab")),
        (&["lab", "other"], Some("Fleet")),
        (&["fleet", "LAB"], Some("other")),
        (&["fleet", "other", "lab"], None),
    ] {
        let peers = peers.iter().enumerate().map(|(n, name)| format!("{name}=observer:{n:064x}\0"));
        let peers = utf16(&(peers.collect::<String>() + "\0"));
        settings.set("ControlPeers", REG_MULTI_SZ, &peers).unwrap();
        assert_eq!(settings.stranger().map(|dial| dial.peer.to_string()).as_deref(), stranger);
    }
}

#[test]
fn a_directory_is_a_path_the_drivers_own_or_none() {
    let place = |text: &str| {
        set("PolicyStore", REG_SZ, text).map(|settings| match settings.policy_store.place() {
            Place::Nowhere => "nowhere".into(),
            Place::Own => "own".into(),
            Place::At(path) => String::from_utf16(path).unwrap(),
        })
    };
    for (text, expected) in [
        ("\0", "nowhere"),
        (".", "own"),
        (".\0", "own"),
        (r"\??\C:\ProgramData\weir", r"\??\C:\ProgramData\weir"),
        ("\\??\\C:\\Ü\0", "\\??\\C:\\Ü"),
    ] {
        assert_eq!(place(text).as_deref(), Ok(expected), "{text:?}");
    }
    let long = |length| format!("\\{}", "x".repeat(length));
    assert_eq!(place(&long(254)).map(|path| path.len()), Ok(255));
    for (text, reason) in [
        (long(255), Refused::BadPath),
        (long(300), Refused::TooLong),
        ("\\".into(), Refused::BadPath),
        (r"C:\ProgramData".into(), Refused::BadPath),
        ("..".into(), Refused::BadPath),
        ("\\??\\C:\0\\x\0".into(), Refused::EmbeddedNul),
    ] {
        assert_eq!(place(&text), Err(reason), "{text:?}");
    }
    // A shorter one leaves nothing of a longer one.
    let mut settings = set("PolicyStore", REG_SZ, &long(200)).unwrap();
    settings.set("PolicyStore", REG_SZ, &utf16(".")).unwrap();
    assert_eq!(settings, Settings::DEFAULT);
}

const A: &str = "{5EE5D4F1-9929-4633-8368-7BC7438B4140}";
const B: &str = "{00000000-0000-0000-0000-000000000001}";

fn interfaces(text: &str) -> Result<Vec<Extension>, Refused> {
    set("ExtensionInterfaces", REG_MULTI_SZ, text)
        .map(|settings| settings.extension_interfaces.as_slice().to_vec())
}

/// The only interface in a text.
#[track_caller]
fn interface(text: &str) -> Extension {
    let [extension] = interfaces(text).unwrap()[..] else { panic!("{text}: not one") };
    extension
}

fn guid(text: &str) -> crate::trace::Guid {
    crate::trace::Guid::parse(text.encode_utf16()).unwrap()
}

#[test]
fn extension_interfaces_are_taken_in_their_order() {
    let expected = vec![
        Extension::new(guid(A), Requirement::Required),
        Extension::new(guid(B), Requirement::Optional),
        Extension::new(guid(L), Requirement::Off),
    ];
    for end in ["", "\0", "\0\0"] {
        let text = format!("{A}=required\0{B}=Optional\0{}=OFF{end}", L.to_ascii_lowercase());
        assert_eq!(interfaces(&text), Ok(expected.clone()), "{end:?}");
    }
    for none in ["\0", "\0\0"] {
        assert_eq!(interfaces(none), Ok(vec![]), "{none:?}");
    }
}

const L: &str = "{9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}";

#[test]
fn the_options_of_an_extension_interface_stand_in_any_order_and_case() {
    use Provider::{Builtin, Nmr, Wsk};
    let order = |kinds: &[Provider]| Providers::new(kinds.iter().copied()).unwrap();
    let plain = Extension::new(guid(A), Requirement::Optional);
    for (options, expected) in [
        ("", plain),
        (";events=0x0", Extension { events: Some(0), ..plain }),
        (";events=0xF", Extension { events: Some(15), ..plain }),
        (";EVENTS=0XfFfFfFfF", Extension { events: Some(u32::MAX), ..plain }),
        (";events=0x00000000000000000003", Extension { events: Some(3), ..plain }),
        (";providers=nmr", Extension { providers: order(&[Nmr]), ..plain }),
        (";providers=Builtin,WSK", Extension { providers: order(&[Builtin, Wsk]), ..plain }),
        (";providers=wsk,nmr,builtin", plain),
        (
            ";providers=builtin,nmr,wsk;events=0x7",
            Extension { providers: order(&[Builtin, Nmr, Wsk]), events: Some(7), ..plain },
        ),
        (
            ";events=0x7;providers=builtin,nmr,wsk",
            Extension { providers: order(&[Builtin, Nmr, Wsk]), events: Some(7), ..plain },
        ),
    ] {
        assert_eq!(interface(&format!("{A}=optional{options}")), expected, "{options}");
    }
    let alias = interface(&format!("{B}=required;speaks={L};events=0x1"));
    let expected =
        Extension { speaks: Some(guid(L)), events: Some(1), ..Extension::new(guid(B), alias.requirement) };
    assert_eq!(alias, expected);
    let options = "events=0x00000001;providers=builtin,wsk,nmr;speaks=";
    let longest = (0..16).map(|n| format!("{{00000000-0000-0000-0000-{n:012}}}=required;{options}{A}\0"));
    let longest = longest.collect::<Vec<_>>().concat();
    assert_eq!(utf16(&longest).len() + 2, Kind::Extensions.maximum_size(), "there is room for the longest");
    assert_eq!(interfaces(&(longest + "\0")).map(|entries| entries.len()), Ok(16));
}

#[test]
fn providers_are_at_least_one_and_none_twice() {
    assert_eq!(Providers::new([]), None);
    assert_eq!(Providers::new([Provider::Nmr, Provider::Nmr]), None);
    let all = [Provider::Wsk, Provider::Nmr, Provider::Builtin];
    assert_eq!(Providers::new(all), Some(Providers::DEFAULT));
    assert_eq!(Providers::new(all.into_iter().chain(all)), None);
    assert!(Providers::DEFAULT.iter().eq(all));
}

#[test]
fn extension_interfaces_are_refused_whole_with_the_reason() {
    for (text, reason) in [
        (format!("{A}=required\0\0{B}=optional\0\0"), Refused::EmbeddedNul),
        (format!("{A}=required\0{A}=optional\0\0"), Refused::Duplicate),
        (format!("{A}=off\0{}=off;events=0x1\0\0", A.to_ascii_lowercase()), Refused::Duplicate),
        (format!("{A}\0\0"), Refused::BadInterface),
        (format!("{A} =required\0\0"), Refused::BadInterface),
        (format!(" {A}=required\0\0"), Refused::BadInterface),
        (format!("{A};\0\0"), Refused::BadInterface),
        (format!(";{A}=required\0\0"), Refused::BadInterface),
        (format!("{}=required\0\0", &A[1..]), Refused::BadInterface),
        (format!("{}x=required\0\0", &A[..37]), Refused::BadInterface),
        ("=required\0\0".into(), Refused::BadInterface),
        ("connection_v1=required\0\0".into(), Refused::BadInterface),
    ] {
        assert_eq!(interfaces(&text), Err(reason), "{text:?}");
    }
    for (rest, reason) in [
        ("", Refused::BadInterface),
        ("maybe", Refused::BadInterface),
        ("required ", Refused::BadInterface),
        (" required", Refused::BadInterface),
        ("requiréd", Refused::BadInterface),
        ("r\u{1F30A}quired", Refused::BadInterface),
        ("required;", Refused::BadInterface),
        ("required;;events=0x1", Refused::BadInterface),
        ("required,events=0x1", Refused::BadInterface),
        ("required; events=0x1", Refused::BadInterface),
        ("required;events =0x1", Refused::BadInterface),
        ("required;events= 0x1", Refused::BadInterface),
        ("required;events", Refused::BadInterface),
        ("required;events=", Refused::BadInterface),
        ("required;events=0x", Refused::BadInterface),
        ("required;events=0", Refused::BadInterface),
        ("required;events=15", Refused::BadInterface),
        ("required;events=0x1g", Refused::BadInterface),
        ("required;events=0x１", Refused::BadInterface),
        ("required;events=-0x1", Refused::BadInterface),
        ("required;events=0x-1", Refused::BadInterface),
        ("required;events=0x1=1", Refused::BadInterface),
        ("required;events=0x100000000", Refused::OutOfRange),
        ("required;events=0xFFFFFFFFF", Refused::OutOfRange),
        ("required;events=0xFFFFFFFFFFFFFFFFFF", Refused::OutOfRange),
        ("required;events=0xFFFFFFFFFFFFFFFFFFz", Refused::BadInterface),
        ("required;events=0x1;events=0x1", Refused::Duplicate),
        ("required;events=0x1;Events=0x2", Refused::Duplicate),
        ("required;providers", Refused::BadInterface),
        ("required;providers=", Refused::BadInterface),
        ("required;providers=,", Refused::BadInterface),
        ("required;providers=wsk,", Refused::BadInterface),
        ("required;providers=,wsk", Refused::BadInterface),
        ("required;providers=wsk, nmr", Refused::BadInterface),
        ("required;providers=wsk;nmr", Refused::BadInterface),
        ("required;providers=vendor", Refused::BadInterface),
        ("required;providers=wsk,vendor,wsk", Refused::BadInterface),
        ("required;providers=wsk,wsk", Refused::Duplicate),
        ("required;providers=wsk,nmr,builtin,WSK", Refused::Duplicate),
        ("required;providers=nmr;providers=wsk", Refused::Duplicate),
        ("required;speaks=", Refused::BadInterface),
        ("required;speaks=label_v1", Refused::BadInterface),
        ("required;wants=0x1", Refused::BadInterface),
        ("required;required", Refused::BadInterface),
        ("required;=", Refused::BadInterface),
    ] {
        for interface in [A, B] {
            let text = format!("{interface}={rest}\0\0");
            assert_eq!(interfaces(&text), Err(reason), "{text:?}");
            let among = format!("{L}=off\0{text}");
            assert_eq!(interfaces(&among), Err(reason), "{among:?}");
        }
    }
    for (text, reason) in [
        (format!("{B}=optional;speaks={B}"), Refused::BadInterface),
        (format!("{A}=optional;speaks={A}"), Refused::BadInterface),
        (format!("{A}=optional;speaks={L}"), Refused::BadInterface),
        (format!("{B}=optional;speaks={L};speaks={A}"), Refused::Duplicate),
        (format!("{B}=optional;speaks={}", B.replace('1', "2")), Refused::UnknownInterface),
        (format!("{B}=off;speaks={}", B.replace('1', "2")), Refused::UnknownInterface),
    ] {
        assert_eq!(interfaces(&text), Err(reason), "{text:?}");
    }
    let list = |count: u32| {
        let entries = (0..count).map(|n| format!("{{00000000-0000-0000-0000-{n:012}}}=required\0"));
        entries.collect::<Vec<_>>().concat()
    };
    assert_eq!(interfaces(&list(16)).map(|entries| entries.len()), Ok(16));
    assert_eq!(interfaces(&list(17)), Err(Refused::TooMany));
    assert_eq!(interfaces(&list(60)), Err(Refused::TooLong));
}

#[test]
fn every_part_of_an_entry_is_needed() {
    let whole = format!("{B}=required;events=0x1f;providers=nmr,wsk;speaks={L}");
    let taken = interface(&whole);
    let ends = [
        format!("{B}=required"),
        format!("{B}=required;events=0x1"),
        format!("{B}=required;events=0x1f"),
        format!("{B}=required;events=0x1f;providers=nmr"),
        format!("{B}=required;events=0x1f;providers=nmr,wsk"),
        whole.clone(),
    ];
    for length in 1..=whole.len() {
        let text = &whole[..length];
        assert_eq!(interfaces(text).is_ok(), ends.iter().any(|end| end == text), "{text}");
    }
    // Whatever one character becomes: another value, or none.
    for at in 0..whole.len() {
        for other in ["", " ", ";", "=", ",", "0", "é", "{", "\u{FFFF}"] {
            let text = [&whole[..at], other, &whole[at + 1..]].concat();
            if interfaces(&text) == Ok(vec![taken]) {
                assert_eq!(other, &whole[at..=at], "{text}");
            }
        }
    }
}

#[test]
fn interfaces_that_weir_knows_have_names() {
    use crate::config::interface::{NAMES, name, named};
    assert_eq!(name(&guid(A)), Some("connection_v1"));
    assert_eq!(name(&guid(L)), Some("label_v1"));
    assert_eq!(name(&guid(B)), None);
    assert_eq!(NAMES.map(named), SPOKEN.map(Some));
    assert_eq!((named("Label_V1"), named("label")), (Some(guid(L)), None));
}

#[cfg(kernel)]
#[test]
fn the_interfaces_known_to_settings_are_those_of_the_driver() {
    let spoken: Vec<crate::trace::Guid> =
        crate::ext::INTERFACES.iter().map(|interface| (*interface.npi_id()).into()).collect();
    assert_eq!(spoken, SPOKEN);
}

#[test]
fn the_table_can_be_printed_for_people() {
    let mut names = HashSet::new();
    for setting in TABLE {
        assert!(names.insert(setting.name.to_ascii_lowercase()), "{} stands twice", setting.name);
        assert!(setting.doc.ends_with('.'), "{}", setting.name);
        assert!(!setting.doc.contains("  "), "{}", setting.name);
    }
}
