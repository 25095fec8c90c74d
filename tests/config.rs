//! What the registry can do to the driver: nothing but set what it may set.
#![cfg(feature = "sim")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ntsim::fault::Plan;
use ntsim::registry::Value;
use ntsim::security::{Ace, Descriptor, READ, Sid};
use weir::config::schema::{
    self, FailMode, Kind, Origin, POLICY_IMAGE, Provider, Refused, Requirement, SPOKEN, TABLE,
};
use weir::config::{self, Loaded, Settings};
use weir::control::protocol::noise::Keys;
use weir::kernel::Status;
use weir::kernel::irql::Passive;
use weir::kernel::registry::{Found, Key, MAX_NAME};
use weir::trace::{Keywords, Level, sink};

const SERVICE: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir";
const PARAMETERS: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir\Parameters";
const POLICIES: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Policies\weir";

/// Test threads run at PASSIVE_LEVEL.
fn passive() -> Passive {
    // SAFETY: nothing has raised this thread's level; the token stays in the test.
    unsafe { Passive::assume() }
}

fn boot() -> ntsim::Sim {
    let sim = ntsim::boot(ntsim::Config::default());
    sim.registry().create_key(PARAMETERS);
    sim
}

fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// Loads the settings, with what was traced, one line an event.
fn load() -> (Loaded, Vec<String>) {
    try_load().unwrap()
}

/// The same, where there may be no memory for them.
fn try_load() -> Result<(Loaded, Vec<String>), Status> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&lines);
    let installed = sink::install(Level::Verbose, Keywords::all(), move |event| {
        into.lock().unwrap().push(format!("{event:?}"));
    });
    let loaded = config::load(&passive(), &utf16(SERVICE))?;
    drop(installed);
    let lines = lines.lock().unwrap().clone();
    Ok((loaded, lines))
}

#[track_caller]
fn assert_clean(sim: &ntsim::Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn without_a_key_the_defaults_hold() {
    let sim = ntsim::boot(ntsim::Config::default());
    let (loaded, events) = load();
    assert_eq!(loaded.book.page().settings, Settings::DEFAULT);
    assert!(loaded.policy_image.is_none());
    assert!(loaded.identity.is_none());
    assert_eq!(events, ["SettingsRead { taken: 0, refused: 0 }", "ControlKeyAbsent"]);
    drop(loaded);
    assert_clean(&sim);
}

#[test]
fn what_stands_in_the_registry_is_taken() {
    let sim = boot();
    let image: Vec<u8> = (0..100_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    let set = |name, value| sim.registry().set(PARAMETERS, name, value);
    set("ControlListen", Value::Sz("[::1]:0".into()));
    set("CONTROLmaxsessions", Value::Dword(3));
    set("FailMode", Value::Dword(1));
    set("PolicyImage", Value::Binary(image.clone()));
    set(
        "ExtensionInterfaces",
        Value::MultiSz(vec![
            "{5EE5D4F1-9929-4633-8368-7BC7438B4140}=required".into(),
            "{00000000-0000-0000-0000-000000000001}=optional;speaks={9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}\
             ;providers=builtin,nmr;events=0xA5"
                .into(),
            "{9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}=off".into(),
        ]),
    );
    set("ExtensionMetricSeconds", Value::Dword(0));
    set("SendBacklogMark", Value::Dword(65_536));
    set("ReceiveBacklogMark", Value::Dword(16_777_216));
    let (loaded, events) = load();
    let settings = &loaded.book.page().settings;
    assert_eq!(settings.control_listen.as_slice(), ["[::1]:0".parse::<SocketAddr>().unwrap()]);
    assert_eq!(settings.control_max_sessions, 3);
    assert_eq!(settings.fail_mode, FailMode::Closed);
    assert_eq!(settings.ring_records, Settings::DEFAULT.ring_records);
    let interfaces = settings.extension_interfaces.as_slice();
    let requirements: Vec<_> = interfaces.iter().map(|it| it.requirement).collect();
    assert_eq!(requirements, [Requirement::Required, Requirement::Optional, Requirement::Off]);
    let [_, alias, _] = interfaces else { panic!("{interfaces:?}") };
    assert_eq!((alias.events, alias.speaks), (Some(0xA5), Some(SPOKEN[1])));
    assert!(alias.providers.iter().eq([Provider::Builtin, Provider::Nmr]));
    assert_eq!(settings.extension_metric_seconds, 0);
    assert_eq!((settings.send_backlog_mark, settings.receive_backlog_mark), (65_536, 16_777_216));
    assert_eq!(loaded.policy_image.as_ref().unwrap().bytes(), image);
    assert_eq!(events, ["SettingsRead { taken: 8, refused: 0 }", "ControlKeyAbsent"]);
    drop(loaded);
    assert_clean(&sim);
}

#[test]
fn with_one_interface_that_is_refused_none_is_taken_and_the_reason_is_told() {
    const KNOWN: &str = "{5EE5D4F1-9929-4633-8368-7BC7438B4140}";
    for (entry, reason) in [
        (
            "{00000000-0000-0000-0000-000000000001}=optional;speaks={00000000-0000-0000-0000-000000000002}",
            "UnknownInterface",
        ),
        ("{00000000-0000-0000-0000-000000000001}=optional;events=0x100000000", "OutOfRange"),
        ("{00000000-0000-0000-0000-000000000001}=optional;events=0x1;events=0x1", "Duplicate"),
        ("{00000000-0000-0000-0000-000000000001}=optional;providers=someone", "BadInterface"),
    ] {
        let sim = boot();
        let entries = vec![format!("{KNOWN}=required"), entry.into()];
        let size = 2 * (entries.iter().map(|entry| entry.len() + 1).sum::<usize>() + 1);
        sim.registry().set(PARAMETERS, "ExtensionInterfaces", Value::MultiSz(entries));
        let (loaded, events) = load();
        assert_eq!(loaded.book.page().settings, Settings::DEFAULT);
        let told = format!(
            "SettingRefused {{ name: \"ExtensionInterfaces\", reason: {reason}, registry_type: 7, size: {size}, origin: Registry }}"
        );
        assert_eq!(events[0], told);
        drop(loaded);
        assert_clean(&sim);
    }
}

#[test]
fn a_refused_value_is_told_and_leaves_the_default() {
    let sim = boot();
    let set = |name, value| sim.registry().set(PARAMETERS, name, value);
    set("ControlListen", Value::Sz("nowhere".into()));
    set("FailMode", Value::Dword(9));
    set("RingRecords", Value::Dword(1000));
    set("MaxConnections", Value::Sz("2000".into()));
    set("ShutdownTimeoutMs", Value::Binary(vec![1, 2, 3]));
    set("VerdictSampling", Value::Binary(vec![0; 1000]));
    set("PolicyImage", Value::Binary(vec![]));
    set("RingRecord", Value::Dword(512));
    let (loaded, events) = load();
    assert_eq!(loaded.book.page().settings, Settings::DEFAULT);
    assert!(loaded.policy_image.is_none());
    let expected = [
        r#"SettingRefused { name: "ControlListen", reason: BadAddress, registry_type: 1, size: 16, origin: Registry }"#,
        r#"SettingRefused { name: "FailMode", reason: OutOfRange, registry_type: 4, size: 4, origin: Registry }"#,
        r#"SettingRefused { name: "RingRecords", reason: NotPowerOfTwo, registry_type: 4, size: 4, origin: Registry }"#,
        r#"SettingRefused { name: "MaxConnections", reason: WrongType, registry_type: 1, size: 10, origin: Registry }"#,
        r#"SettingRefused { name: "VerdictSampling", reason: WrongType, registry_type: 3, size: 1000, origin: Registry }"#,
        r#"SettingRefused { name: "ShutdownTimeoutMs", reason: WrongType, registry_type: 3, size: 3, origin: Registry }"#,
        r#"SettingRefused { name: "PolicyImage", reason: WrongSize, registry_type: 3, size: 0, origin: Registry }"#,
        "SettingUnknown { name: [82, 105, 110, 103, 82, 101, 99, 111, 114, 100], origin: Registry }",
        "SettingsRead { taken: 0, refused: 7 }",
        "ControlKeyAbsent",
    ];
    assert_eq!(events, expected);
    drop(loaded);
    assert_clean(&sim);
}

#[test]
fn every_type_and_length_of_every_value_is_survived() {
    let sim = boot();
    for setting in TABLE {
        for registry_type in [0, 1, 2, 3, 4, 5, 7, 11, 99, u32::MAX] {
            for length in (0..=20).chain([130, 131, 132, 255, 256, 257, 1538, 1539, 4096]) {
                if (setting.name, registry_type, length) == ("TraceKeywords", 4, 4) {
                    // Any number is one.
                    continue;
                }
                let value = Value::Raw { kind: registry_type, data: vec![0xd8; length] };
                sim.registry().set(PARAMETERS, setting.name, value);
                let (loaded, events) = load();
                assert_eq!(loaded.book.page().settings, Settings::DEFAULT, "{}", setting.name);
                let taken = loaded.policy_image.is_some();
                assert_eq!(taken, setting.name == POLICY_IMAGE.name && registry_type == 3 && length != 0);
                let refused = events.iter().filter(|event| event.starts_with("SettingRefused")).count();
                assert_eq!(refused, usize::from(!taken), "{} {registry_type} {length}", setting.name);
            }
        }
        sim.registry().remove(PARAMETERS, setting.name);
    }
    assert_clean(&sim);
}

/// Every type and length that somebody may write, over a value that holds, in one key and in the other.
#[test]
fn nothing_that_is_written_in_either_key_changes_what_held_before() {
    for (key, other, origin) in
        [(PARAMETERS, POLICIES, Origin::Registry), (POLICIES, PARAMETERS, Origin::Policy)]
    {
        let sim = boot();
        let mut book = load().0.book;
        for (name, value) in good() {
            sim.registry().set(key, name, value);
        }
        let read = book.read(&passive()).unwrap();
        assert_eq!((read.taken as usize, read.refused), (good().len(), 0));
        book.keep(read);
        let held = book.page().settings;
        for (index, setting) in TABLE.iter().enumerate() {
            assert_eq!(book.page().rows[index].origin, origin, "{}", setting.name);
            assert!(setting.name == POLICY_IMAGE.name || !held.agrees(&Settings::DEFAULT, setting.name));
            let good = sim.registry().get(key, setting.name).unwrap();
            for registry_type in [0, 1, 2, 3, 4, 5, 7, 11, 99, u32::MAX] {
                for length in (0..=20).chain([130, 131, 255, 256, 257, 1538, 1539, 4096]) {
                    let data = vec![0xd8; length];
                    if schema::parse(setting.name, registry_type, &data).is_ok() {
                        continue;
                    }
                    sim.registry().set(key, setting.name, Value::Raw { kind: registry_type, data });
                    let read = book.read(&passive()).unwrap();
                    let row = read.page.rows[index];
                    assert!(!read.is_other_image, "{}", setting.name);
                    assert_eq!((read.page.settings, row.origin), (held, origin), "{}", setting.name);
                    let refused = if key == POLICIES { row.policy } else { row.registry };
                    assert!(refused.is_some(), "{} {registry_type} {length}", setting.name);
                    book.keep(read);
                }
            }
            let (kind, data) = good;
            sim.registry().set(key, setting.name, Value::Raw { kind, data });
        }
        // What one key gives and the other refuses holds.
        for setting in TABLE {
            sim.registry().set(other, setting.name, Value::Raw { kind: 99, data: vec![1] });
        }
        let (loaded, _) = load();
        assert_eq!(loaded.book.page().settings, held);
        sim.registry().delete_key(POLICIES);
        sim.registry().delete_key(PARAMETERS);
        let read = book.read(&passive()).unwrap();
        assert_eq!(read.page.settings, Settings::DEFAULT, "what is not there any more is the default");
        drop((read, loaded, book));
        assert_clean(&sim);
    }
}

/// A value of each setting that can be taken and is not the default.
fn good() -> Vec<(&'static str, Value)> {
    let peers = vec![format!("root=operator:{:064x}", 9)];
    TABLE
        .iter()
        .map(|setting| {
            let value = match setting.kind {
                Kind::Number { power_of_two: true, minimum, .. } => Value::Dword(minimum),
                Kind::Number { minimum, .. } if (minimum + 1).to_string() == setting.default => {
                    Value::Dword(minimum)
                }
                Kind::Number { minimum, .. } => Value::Dword(minimum + 1),
                Kind::Choice(values) => {
                    let other = values.iter().find(|(number, _)| number.to_string() != setting.default);
                    Value::Dword(other.unwrap().0.into())
                }
                Kind::Endpoints => Value::Sz("[::1]:1".into()),
                Kind::Dials => Value::MultiSz(vec!["root@192.0.2.1:1".into()]),
                Kind::Peers => Value::MultiSz(peers.clone()),
                Kind::Directory => Value::Sz(r"\??\C:\weir".into()),
                Kind::Extensions => {
                    Value::MultiSz(vec!["{00000000-0000-0000-0000-000000000001}=optional".into()])
                }
                Kind::Binary { .. } => Value::Binary(vec![1, 2, 3]),
            };
            (setting.name, value)
        })
        .collect()
}

#[test]
fn policies_come_first_and_what_is_refused_there_leaves_the_other_key() {
    let sim = boot();
    sim.registry().set(PARAMETERS, "VerdictSampling", Value::Dword(7));
    sim.registry().set(PARAMETERS, "FailMode", Value::Dword(1));
    sim.registry().set(POLICIES, "verdictsampling", Value::Dword(9));
    sim.registry().set(POLICIES, "FailMode", Value::Dword(2));
    sim.registry().set(POLICIES, "VerdictSamplin", Value::Dword(2));
    let (loaded, events) = load();
    let page = loaded.book.page();
    assert_eq!((page.settings.verdict_sampling, page.settings.fail_mode), (9, FailMode::Closed));
    let row = |name| {
        let index = TABLE.iter().position(|setting| setting.name == name).unwrap();
        (page.rows[index].origin, page.rows[index].policy.map(|rejected| rejected.reason))
    };
    assert_eq!(row("VerdictSampling"), (Origin::Policy, None));
    assert_eq!(row("FailMode"), (Origin::Registry, Some(Refused::OutOfRange)));
    assert_eq!(row("RingRecords"), (Origin::Default, None));
    let name: Vec<u16> = utf16("VerdictSamplin");
    let expected = [
        r#"SettingRefused { name: "FailMode", reason: OutOfRange, registry_type: 4, size: 4, origin: Policy }"#
            .to_owned(),
        format!("SettingUnknown {{ name: {name:?}, origin: Policy }}"),
        "SettingsRead { taken: 2, refused: 1 }".into(),
        "ControlKeyAbsent".into(),
    ];
    assert_eq!(events, expected);
    drop(loaded);
    assert_clean(&sim);
}

#[test]
fn the_private_key_is_not_taken_from_the_policies() {
    let sim = boot();
    let key = format!(r"{POLICIES}\Key");
    sim.registry().set(&key, "PrivateKey", Value::Binary(PRIVATE.into()));
    assert!(sim.registry().set_security(&key, Descriptor::closed().bytes()));
    assert_eq!(told_of_key().unwrap(), "ControlKeyAbsent");
    assert_clean(&sim);
}

#[test]
fn what_is_refused_or_not_known_is_told_once_and_another_one_anew() {
    let sim = boot();
    sim.registry().set(PARAMETERS, "FailMode", Value::Dword(9));
    sim.registry().set(PARAMETERS, "Nonsense", Value::Dword(9));
    let (loaded, events) = load();
    assert_eq!(events.len(), 4, "{events:?}");
    let mut book = loaded.book;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let installed = sink::install(Level::Verbose, Keywords::all(), {
        let lines = Arc::clone(&lines);
        move |event| lines.lock().unwrap().push(event.name())
    });
    let mut again = || {
        let read = book.read(&passive()).unwrap();
        book.keep(read);
        std::mem::take(&mut *lines.lock().unwrap())
    };
    assert!(again().is_empty());
    sim.registry().set(PARAMETERS, "FailMode", Value::Dword(8));
    assert_eq!(again(), ["SettingRefused"]);
    assert!(again().is_empty());
    sim.registry().set(PARAMETERS, "nonsense2", Value::Dword(9));
    assert_eq!(again(), ["SettingUnknown"]);
    sim.registry().set(POLICIES, "Nonsense", Value::Dword(9));
    assert_eq!(again(), ["SettingUnknown"]);
    assert!(again().is_empty());
    drop((installed, book));
    assert_clean(&sim);
}

#[test]
fn whom_to_dial_is_held_against_the_peers_that_come_with_it() {
    let sim = boot();
    let peers = |names: &[&str]| {
        let entry = |name: &&str| format!("{name}=observer:{:064x}", name.as_bytes()[0]);
        Value::MultiSz(names.iter().map(entry).collect())
    };
    let dials = |name: &str| Value::MultiSz(vec![format!("{name}@192.0.2.1:1")]);
    sim.registry().set(PARAMETERS, "ControlPeers", peers(&["a", "b"]));
    sim.registry().set(PARAMETERS, "ControlDial", dials("a"));
    let mut book = load().0.book;
    let mut again = || {
        let read = book.read(&passive()).unwrap();
        book.keep(read);
        let dials = book.page().settings.control_dial;
        (dials.as_slice().iter().map(|dial| dial.peer.to_string()).collect::<String>(), book.page().settings)
    };
    sim.registry().set(PARAMETERS, "ControlDial", dials("c"));
    assert_eq!(again().0, "a", "who is no peer is not dialled, and who was is");
    sim.registry().set(PARAMETERS, "ControlPeers", peers(&["b", "c"]));
    assert_eq!(again().0, "c", "both come together");
    sim.registry().set(PARAMETERS, "ControlPeers", peers(&["b"]));
    let (dials, settings) = again();
    assert_eq!((dials.as_str(), settings.control_peers.as_slice().len()), ("", 1), "nobody is left");
    drop(book);
    assert_clean(&sim);
}

#[test]
fn a_policy_that_is_withdrawn_holds_no_longer_whatever_stands_in_the_other_key() {
    let sim = boot();
    let registry = sim.registry();
    let peers = |name: &str| Value::MultiSz(vec![format!("{name}=operator:{:064x}", 9)]);
    let mistake = || Value::MultiSz(vec!["mistake".into()]);
    let index = TABLE.iter().position(|setting| setting.name == "ControlPeers").unwrap();
    // What the service's key gives before, in the meantime, and when the policy goes; and who is a peer then.
    let absent = None;
    for (before, meanwhile, after, then) in [
        (absent.clone(), mistake(), mistake(), ""),
        (Some(peers("own")), mistake(), mistake(), "own"),
        (absent.clone(), peers("own"), mistake(), "own"),
        (Some(peers("old")), mistake(), peers("own"), "own"),
        (Some(mistake()), mistake(), mistake(), ""),
    ] {
        let mut book = load().0.book;
        let mut again = || {
            let read = book.read(&passive()).unwrap();
            let row = read.page.rows[index];
            let names: String = read
                .page
                .settings
                .control_peers
                .as_slice()
                .iter()
                .map(|peer| peer.name.to_string())
                .collect();
            book.keep(read);
            (names, row.origin, row.registry.is_some(), row.policy.is_some())
        };
        if let Some(before) = before {
            registry.set(PARAMETERS, "ControlPeers", before);
            again();
        }
        registry.set(POLICIES, "ControlPeers", peers("fleet"));
        assert_eq!(again(), ("fleet".into(), Origin::Policy, false, false));
        registry.set(PARAMETERS, "ControlPeers", meanwhile);
        assert_eq!(again(), ("fleet".into(), Origin::Policy, false, false));
        registry.set(PARAMETERS, "ControlPeers", after.clone());
        assert!(registry.remove(POLICIES, "ControlPeers"));
        let origin = if then.is_empty() { Origin::Default } else { Origin::Registry };
        let refused = after == mistake();
        assert_eq!(again(), (then.into(), origin, refused, false));
        // And what is refused among the policies after that does not bring it back.
        registry.set(POLICIES, "ControlPeers", mistake());
        assert_eq!(again(), (then.into(), origin, refused, true));
        registry.delete_key(POLICIES);
        registry.delete_key(PARAMETERS);
        drop(book);
    }
    assert_clean(&sim);
}

#[test]
fn a_withdrawn_image_decides_on_while_the_other_key_has_none_that_can_be_taken() {
    let sim = boot();
    let mut book = load().0.book;
    sim.registry().set(POLICIES, "PolicyImage", Value::Binary(vec![1]));
    let read = book.read(&passive()).unwrap();
    assert!(read.is_other_image);
    book.keep(read);
    sim.registry().set(PARAMETERS, "PolicyImage", Value::Dword(1));
    sim.registry().delete_key(POLICIES);
    let read = book.read(&passive()).unwrap();
    assert!(!read.is_other_image && read.image.is_none());
    book.keep(read);
    sim.registry().delete_key(PARAMETERS);
    assert!(book.read(&passive()).unwrap().is_other_image);
    drop(book);
    assert_clean(&sim);
}

#[test]
fn an_image_that_is_there_again_after_a_refused_one_is_read_again() {
    let sim = boot();
    let image = Value::Binary(vec![1]);
    sim.registry().set(PARAMETERS, "PolicyImage", image.clone());
    let mut book = load().0.book;
    for (key, value, is_other) in [
        (PARAMETERS, Value::Dword(1), false),
        (PARAMETERS, Value::Dword(2), false),
        (PARAMETERS, image.clone(), true),
        (PARAMETERS, image.clone(), false),
        (POLICIES, image.clone(), false),
        (POLICIES, Value::Dword(1), false),
        (POLICIES, image, true),
    ] {
        sim.registry().set(key, "PolicyImage", value);
        let read = book.read(&passive()).unwrap();
        assert_eq!(read.is_other_image, is_other);
        book.keep(read);
    }
    drop(book);
    assert_clean(&sim);
}

#[test]
fn a_dial_of_the_policies_that_names_no_peer_leaves_that_of_the_other_key() {
    let sim = boot();
    let peers = Value::MultiSz(vec![format!("a=observer:{:064x}", 1), format!("b=observer:{:064x}", 2)]);
    let dials = |name: &str| Value::MultiSz(vec![format!("{name}@192.0.2.1:1")]);
    let index = TABLE.iter().position(|setting| setting.name == "ControlDial").unwrap();
    sim.registry().set(PARAMETERS, "ControlPeers", peers);
    sim.registry().set(PARAMETERS, "ControlDial", dials("a"));
    sim.registry().set(POLICIES, "ControlDial", dials("c"));
    let who = |page: &config::Page| {
        let row = page.rows[index];
        let names: String =
            page.settings.control_dial.as_slice().iter().map(|dial| dial.peer.to_string()).collect();
        (names, row.origin, row.registry.is_some(), row.policy.is_some())
    };
    // After a start.
    let (loaded, events) = load();
    let refused = r#"SettingRefused { name: "ControlDial", reason: UnknownPeer, registry_type: 7, size: 0, origin: Policy }"#;
    assert_eq!(events[..2], [refused, "SettingsRead { taken: 2, refused: 1 }"]);
    let mut book = loaded.book;
    assert_eq!(who(book.page()), ("a".into(), Origin::Registry, false, true));
    let mut again = || {
        let read = book.read(&passive()).unwrap();
        let known = (read.taken, read.refused);
        book.keep(read);
        (who(book.page()), known)
    };
    assert_eq!(again(), (("a".into(), Origin::Registry, false, true), (2, 1)), "as it was");
    sim.registry().set(PARAMETERS, "ControlDial", dials("b"));
    assert_eq!(again().0, ("b".into(), Origin::Registry, false, true));
    sim.registry().set(PARAMETERS, "ControlDial", dials("d"));
    assert_eq!(again(), (("b".into(), Origin::Registry, true, true), (1, 2)), "it gave that before");
    assert_eq!(again(), (("b".into(), Origin::Registry, true, true), (1, 2)));
    sim.registry().set(PARAMETERS, "ControlDial", Value::Dword(1));
    assert_eq!(again(), (("b".into(), Origin::Registry, true, true), (1, 2)));
    // What the policies gave before holds on, as long as it is there.
    sim.registry().set(POLICIES, "ControlDial", dials("a"));
    assert_eq!(again(), (("a".into(), Origin::Policy, false, false), (2, 0)));
    sim.registry().set(POLICIES, "ControlDial", dials("c"));
    assert_eq!(again(), (("a".into(), Origin::Policy, false, true), (1, 1)));
    sim.registry().set(PARAMETERS, "ControlDial", dials("d"));
    sim.registry().delete_key(POLICIES);
    assert_eq!(again().0, ("b".into(), Origin::Registry, true, false), "and no longer");
    // Nobody is left who was known.
    sim.registry().set(PARAMETERS, "ControlPeers", Value::MultiSz(vec![format!("e=observer:{:064x}", 1)]));
    sim.registry().set(POLICIES, "ControlDial", dials("c"));
    assert_eq!(again().0, (String::new(), Origin::Default, true, true));
    drop(book);
    assert_clean(&sim);
}

#[test]
fn whatever_call_fails_the_load_ends_with_settings_that_hold() {
    let sim = boot();
    for setting in TABLE {
        let value = Value::Raw { kind: setting.kind.registry_types()[0], data: vec![1; 300] };
        sim.registry().set(PARAMETERS, setting.name, value);
    }
    sim.fault(Plan::None);
    drop(load());
    let calls = sim.fault_calls();
    assert!(calls > 20, "{calls} calls");
    let mut wanting = 0;
    for call in 1..=calls {
        sim.fault(Plan::Nth(call));
        match config::load(&passive(), &utf16(SERVICE)) {
            Ok(loaded) => assert_eq!(loaded.book.page().settings, Settings::DEFAULT, "call {call}"),
            Err(status) => {
                assert_eq!(status, Status::INSUFFICIENT_RESOURCES, "call {call}");
                wanting += 1;
            }
        }
        sim.fault(Plan::None);
        assert_clean(&sim);
    }
    // The path, two pages that are shared, and names that are remembered.
    assert_eq!(wanting, 6);
}

const KEY: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir\Parameters\Key";
const PRIVATE: [u8; 32] = [0x42; 32];

/// A machine with a private key, under this descriptor.
fn with_key(value: Value, descriptor: &Descriptor) -> ntsim::Sim {
    let sim = boot();
    sim.registry().create_key(KEY);
    assert!(sim.registry().set_security(KEY, descriptor.bytes()));
    sim.registry().set(KEY, "PrivateKey", value);
    sim
}

/// What was told of the key, if it was not taken.
fn told_of_key() -> Option<String> {
    let (loaded, mut events) = load();
    events.retain(|event| event.starts_with("ControlKey"));
    assert_eq!(loaded.identity.is_some(), events.is_empty());
    if let Some(keys) = &loaded.identity {
        assert_eq!(keys.public(), Keys::new(&PRIVATE).public());
    }
    assert!(events.len() <= 1, "{events:?}");
    events.pop()
}

#[test]
fn a_key_that_only_the_system_can_see_is_taken() {
    let sim = with_key(Value::Binary(PRIVATE.into()), &Descriptor::closed());
    assert_eq!(told_of_key(), None);
    assert_clean(&sim);
}

#[test]
fn the_private_key_is_left_in_no_memory_that_is_freed() {
    for (value, descriptor) in [
        (Value::Binary(PRIVATE.into()), Descriptor::closed()),
        (Value::Binary(PRIVATE.into()), Descriptor::of_a_service()),
        (Value::Binary([PRIVATE, PRIVATE].concat()), Descriptor::closed()),
        (Value::Raw { kind: 4, data: PRIVATE.into() }, Descriptor::closed()),
    ] {
        let sim = with_key(value, &descriptor);
        sim.watch_secret(&PRIVATE[..8]);
        let calls = {
            sim.fault(Plan::None);
            drop(load());
            sim.fault_calls()
        };
        for call in 1..=calls {
            sim.fault(Plan::Nth(call));
            drop(try_load());
        }
        sim.fault(Plan::None);
        assert_clean(&sim);
    }
}

#[test]
fn a_key_that_others_might_see_is_refused_with_the_reason() {
    let closed = Descriptor::closed;
    let with = |ace| {
        let mut descriptor = closed();
        descriptor.list.get_or_insert_default().push(ace);
        descriptor
    };
    for (descriptor, reason) in [
        (Descriptor::of_a_service(), "Admits"),
        (with(Ace::allow(READ, Sid::EVERYONE)), "Admits"),
        (with(Ace::allow_callback(READ, Sid::USERS)), "Admits"),
        (Descriptor { owner: Sid::USERS, ..closed() }, "Owner"),
        (Descriptor { list: None, ..closed() }, "NoList"),
        (with(Ace { kind: 77, ..Ace::allow(READ, Sid::SYSTEM) }), "Descriptor"),
    ] {
        let sim = with_key(Value::Binary(PRIVATE.into()), &descriptor);
        let told = format!("ControlKeyRefused {{ reason: {reason}, status: 0x00000000 }}");
        assert_eq!(told_of_key(), Some(told));
        assert_clean(&sim);
    }
    // A descriptor of many entries is read all the same.
    let many = vec![Ace::allow(READ, Sid::SYSTEM); 2000];
    let sim = with_key(Value::Binary(PRIVATE.into()), &Descriptor { list: Some(many), ..closed() });
    assert_eq!(told_of_key(), None);
    assert_clean(&sim);
}

#[test]
fn a_key_below_what_users_may_read_is_not_closed_by_itself() {
    let sim = boot();
    sim.registry().set(KEY, "PrivateKey", Value::Binary(PRIVATE.into()));
    assert_eq!(told_of_key().unwrap(), "ControlKeyRefused { reason: Admits, status: 0x00000000 }");
    assert_clean(&sim);
}

#[test]
fn what_is_no_key_is_refused_with_the_reason() {
    for (value, reason) in [
        (Value::Binary(vec![]), "WrongSize"),
        (Value::Binary(vec![1; 31]), "WrongSize"),
        (Value::Binary(vec![1; 33]), "WrongSize"),
        (Value::Binary(vec![1; 5000]), "WrongSize"),
        (Value::Sz("0123456789012345".into()), "WrongType"),
        (Value::Sz("0".repeat(4000)), "WrongType"),
        (Value::Dword(1), "WrongType"),
        (Value::Binary(vec![0; 32]), "Zero"),
    ] {
        let sim = with_key(value, &Descriptor::closed());
        let told = format!("ControlKeyRefused {{ reason: {reason}, status: 0x00000000 }}");
        assert_eq!(told_of_key(), Some(told));
        assert_clean(&sim);
    }
}

#[test]
fn without_a_key_that_is_told() {
    let sim = boot();
    assert_eq!(told_of_key().unwrap(), "ControlKeyAbsent");
    sim.registry().create_key(KEY);
    assert_eq!(told_of_key().unwrap(), "ControlKeyAbsent");
    assert_clean(&sim);
}

#[test]
fn whatever_call_fails_there_is_the_key_or_an_event_that_says_why_not() {
    let sim = with_key(Value::Binary(PRIVATE.into()), &Descriptor::closed());
    sim.fault(Plan::None);
    assert_eq!(told_of_key(), None);
    let calls = sim.fault_calls();
    let mut refused = 0;
    for call in 1..=calls {
        sim.fault(Plan::Nth(call));
        if try_load().is_err() {
            continue;
        }
        sim.fault(Plan::Nth(call));
        if let Some(told) = told_of_key() {
            // Without the settings' key nothing below it is looked for.
            let expected = "ControlKeyRefused { reason: Unreadable, status: 0xC000009A }";
            assert_eq!(told, expected, "call {call}");
            refused += 1;
        }
        sim.fault(Plan::None);
        assert_clean(&sim);
    }
    assert!(refused >= 4, "{refused} of {calls}");
}

#[test]
fn whom_the_driver_connects_to_must_be_a_peer() {
    let sim = boot();
    let key = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";
    let set = |name, values: &[&str]| {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        sim.registry().set(PARAMETERS, name, Value::MultiSz(values));
    };
    set("ControlPeers", &[&format!("fleet=operator:{key}")]);
    set("ControlDial", &["FLEET@192.0.2.7:47474", "fleet@[2001:db8::7]:1"]);
    let (loaded, events) = load();
    assert_eq!(loaded.book.page().settings.control_dial.as_slice().len(), 2);
    assert_eq!(events[0], "SettingsRead { taken: 2, refused: 0 }");
    drop(loaded);
    set("ControlDial", &["fleet@192.0.2.7:47474", "other@192.0.2.8:47474"]);
    let (loaded, events) = load();
    assert_eq!(loaded.book.page().settings.control_dial.as_slice(), []);
    let refused = r#"SettingRefused { name: "ControlDial", reason: UnknownPeer, registry_type: 7, size: 0, origin: Registry }"#;
    assert_eq!(events, [refused, "SettingsRead { taken: 1, refused: 1 }", "ControlKeyAbsent"]);
    drop(loaded);
    assert_clean(&sim);
}

#[test]
fn a_value_over_its_cap_is_not_read() {
    let sim = boot();
    sim.registry().set(PARAMETERS, "Blob", Value::Binary(vec![7; 1000]));
    let passive = passive();
    let key = Key::open(&passive, &utf16(PARAMETERS)).unwrap();
    let read = |cap| key.value(&utf16("blob"), cap).unwrap();
    assert!(matches!(read(999), Found::TooLong { kind: 3, size: 1000 }));
    let Found::Value(value) = read(1000) else { panic!("it fits") };
    assert_eq!((value.kind(), value.bytes()), (3, [7; 1000].as_slice()));
    assert!(matches!(key.value(&utf16("Blub"), 1000), Ok(Found::Absent)));
    drop((value, key));
    assert_clean(&sim);
}

#[test]
fn values_and_subkeys_are_enumerated_with_long_names_cut_off() {
    let sim = boot();
    let long = "n".repeat(MAX_NAME + 5);
    for name in ["one", "two", &long] {
        sim.registry().set(PARAMETERS, name, Value::Dword(1));
        sim.registry().create_key(&format!(r"{PARAMETERS}\{name}"));
    }
    let passive = passive();
    let key = Key::open(&passive, &utf16(PARAMETERS)).unwrap();
    let collect = |name: &dyn Fn(u32) -> Option<String>| {
        let mut names: Vec<_> = (0..).map_while(name).collect();
        names.sort();
        names
    };
    let expected = ["n".repeat(MAX_NAME), "one".into(), "two".into()];
    let values = collect(&|index| key.value_name(index).unwrap().map(|name| String::from_utf16_lossy(&name)));
    assert_eq!(values, expected);
    let subkeys =
        collect(&|index| key.subkey_name(index).unwrap().map(|name| String::from_utf16_lossy(&name)));
    assert_eq!(subkeys, expected);
    drop(key);
    assert_clean(&sim);
}

#[test]
fn a_key_that_is_not_there_is_an_error() {
    let sim = boot();
    let passive = passive();
    let missing = Key::open(&passive, &utf16(r"\Registry\Machine\SYSTEM\Nothing"));
    assert_eq!(missing.map(drop), Err(Status::OBJECT_NAME_NOT_FOUND));
    let too_long = Key::open(&passive, &vec![u16::from(b'x'); 40_000]);
    assert_eq!(too_long.map(drop), Err(Status::INVALID_PARAMETER));
    assert_clean(&sim);
}
