//! `weir config`: what it finds in registration files, and that the driver would say the same of them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use regashii::{Registry, Value as Theirs};
use weir::config::schema::{self, Kind, REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ, Settings, TABLE};
use weir_cli::config::reg::{self, Data, Item};
use weir_cli::config::{self, Checked, Origin, Severity, check, form};

const PARAMETERS: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\weir\Parameters";
const POLICIES: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Policies\weir";
const PRIVATE: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\weir\Parameters\Key";

/// Files, each with what is found in it beside it. One is for one fault; those that begin with `good` have none, and those
/// that begin with `export` were written by the registry editor of Wine.
fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "reg")).collect();
    files.sort();
    assert!(files.len() > 90, "the corpus is there: {}", files.len());
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What people see, without colours; of the settings, those that the file has, in columns of no width.
fn shown(checked: &Checked, name: &str) -> String {
    let mut shown = Vec::new();
    config::report(&mut shown, checked, name).unwrap();
    let shown = String::from_utf8(anstream::adapter::strip_bytes(&shown).into_vec()).unwrap();
    let table = shown.find("Where nothing else is set").unwrap_or(shown.len());
    let (findings, settings) = shown.split_at(table);
    let settings = settings.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let settings = settings.filter(|line| !line.ends_with(" default"));
    let findings = findings.lines().map(|line| line.trim_end().to_owned());
    findings.chain(settings).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn what_is_found_in_each_file_is_what_stands_beside_it() {
    let mut different = Vec::new();
    for path in corpus() {
        let shown = shown(&check(&fs::read(&path).unwrap()), &name(&path));
        let beside = path.with_extension("txt");
        if std::env::var_os("WEIR_WRITE_REFERENCE").is_some() {
            fs::write(&beside, &shown).unwrap();
        }
        if fs::read_to_string(&beside).unwrap_or_default() != shown {
            different.push(format!("{}:\n{shown}", beside.display()));
        }
    }
    assert!(
        different.is_empty(),
        "if this is right, run again with WEIR_WRITE_REFERENCE=1:\n{}",
        different.join("\n")
    );
}

#[test]
fn good_files_have_no_fault_and_the_others_have_something() {
    for path in corpus() {
        let (name, checked) = (name(&path), check(&fs::read(&path).unwrap()));
        let faults = checked.count(Severity::Fault);
        match name.split('-').next().unwrap() {
            "good" if name == "good-refused-policy.reg" => assert_eq!(faults, 1, "{name}"),
            "good" | "export" => assert_eq!(faults, 0, "{name}"),
            _ => assert!(faults + checked.count(Severity::Warning) > 0, "{name}"),
        }
    }
}

/// The private key of the corpus, as the files have it.
const KEY: &str = "01,02,03,04,05,06,07,08,09,0a,0b,0c,0d,0e,0f";

#[test]
fn nothing_of_a_private_key_is_ever_shown() {
    let mut files = 0;
    for path in corpus().iter().filter(|path| name(path).contains("private")) {
        let bytes = fs::read(path).unwrap();
        let (text, _) = reg::decode(&bytes).unwrap();
        files += usize::from(text.contains(KEY));
        let checked = check(&bytes);
        let json = serde_json::to_string(&checked.findings).unwrap();
        for shown in [shown(&checked, "x.reg"), json, checked.text] {
            // Any three bytes of it that follow each other, with commas or without.
            for first in 1..=30_u8 {
                for part in [
                    format!("{first:02x},{:02x},{:02x}", first + 1, first + 2),
                    format!("{first:02x}{:02x}{:02x}", first + 1, first + 2),
                ] {
                    assert!(!shown.contains(&part), "{}: {part} in\n{shown}", name(path));
                }
            }
        }
    }
    assert!(files >= 5, "{files}");
}

/// A value's name, type and bytes.
type Written<'a> = (&'a str, u32, &'a [u8]);

fn file(keys: &[(&str, &[Written<'_>])]) -> String {
    let mut file = reg::header();
    for (key, values) in keys {
        file.extend(["\r\n[", key, "]\r\n"]);
        for (name, kind, bytes) in *values {
            file += &reg::written(name, *kind, bytes);
        }
    }
    file
}

/// The only value in a text.
fn only(text: &str) -> (u32, Vec<u8>) {
    let items = reg::read(&reg::decode(&reg::encode(text)).unwrap().0).unwrap();
    let [Item::Key { .. }, Item::Value(value)] = &items[..] else { panic!("{items:?}") };
    let Data::Set(kind, bytes) = &value.data else { panic!("{items:?}") };
    (*kind, bytes.clone())
}

/// What the driver says of a value, and what the command says of a file with it.
fn agree(setting: &schema::Setting, registry_type: u32, bytes: &[u8]) {
    let name = setting.name;
    let value = (name, registry_type, bytes);
    let text = file(&[(PARAMETERS, &[value])]);
    assert_eq!(only(&text), (registry_type, bytes.to_vec()), "{name}");
    let checked = check(&reg::encode(&text));
    let faults: Vec<_> =
        checked.findings.iter().filter(|finding| finding.severity == Severity::Fault).collect();
    let effective = checked.effective.iter().find(|effective| effective.name == name).unwrap();
    match schema::parse(name, registry_type, bytes) {
        Err(reason) => {
            let [fault] = faults[..] else { panic!("{name}: {faults:?}") };
            assert_eq!(fault.reason, Some(reason.name()), "{name} {registry_type} {bytes:02x?}");
            assert_eq!(fault.name.as_deref(), Some(name));
            assert_eq!(effective.origin, Origin::Default, "{name}");
        }
        // An image is looked into, and whom to dial is looked up.
        Ok(_) if matches!(setting.kind, Kind::Binary { .. } | Kind::Dials) && !faults.is_empty() => {
            assert_eq!(effective.origin, Origin::Default, "{name}");
        }
        Ok(parsed) => {
            assert!(faults.is_empty(), "{name} {registry_type} {bytes:02x?}: {faults:?}");
            assert_eq!(effective.origin, Origin::Registry, "{name}");
            assert_eq!(effective.value, form::shown(setting, &parsed), "{name}");
        }
    }
    // A refused policy leaves what stands in the other key.
    let default = form::default_value(setting);
    if let Some((default_type, default)) = &default {
        let text = file(&[(PARAMETERS, &[(name, *default_type, default)]), (POLICIES, &[value])]);
        let checked = check(&reg::encode(&text));
        let effective = checked.effective.iter().find(|effective| effective.name == name).unwrap();
        let refused = checked.count(Severity::Fault) > 0;
        let dials = setting.kind == Kind::Dials;
        let origin = if refused { Origin::Registry } else { Origin::Policy };
        assert!(effective.origin == origin || dials, "{name} {registry_type} {bytes:02x?}");
    }
}

/// Bytes that look like text, like nothing, like numbers.
fn fillings(setting: &schema::Setting, length: usize) -> Vec<Vec<u8>> {
    let example = match setting.kind {
        Kind::Peers => reg::text_bytes(&format!("p=observer:{:064x}", 7)),
        Kind::Dials => reg::text_bytes("p@10.0.0.1:1"),
        Kind::Extensions => reg::text_bytes("{00000000-0000-0000-0000-000000000001}=off;events=0x1f"),
        _ => reg::text_bytes("10.0.0.1:1"),
    };
    let repeat = |pattern: &[u8]| pattern.iter().copied().cycle().take(length).collect();
    vec![repeat(&[0]), repeat(&[0xff]), repeat(&[b'\\', 0]), repeat(&[0, 0xd8]), repeat(&example)]
}

#[test]
fn the_command_and_the_driver_agree_on_every_type_with_every_length() {
    for setting in TABLE {
        // Lengths over the cap, and all that matter below it: every short one, and then every 61st.
        let longest = setting.kind.maximum_size().min(3000) + 3;
        let lengths = (0..=longest).filter(|length| *length < 72 || length % 61 == 0 || longest - length < 6);
        for length in lengths {
            for bytes in fillings(setting, length) {
                for registry_type in setting.kind.registry_types() {
                    agree(setting, *registry_type, &bytes);
                }
                if length < 12 {
                    for registry_type in (0..=12).chain([u32::MAX]) {
                        agree(setting, registry_type, &bytes);
                    }
                }
            }
        }
    }
}

#[test]
fn a_good_default_round_trips() {
    let file = config::default_file();
    assert!(file.is_ascii(), "any code page will do");
    for bytes in [file.clone().into_bytes(), reg::encode(&file), file.replace("\r\n", "\n").into_bytes()] {
        let checked = check(&bytes);
        let count = |severity| checked.count(severity);
        assert_eq!((count(Severity::Fault), count(Severity::Warning)), (0, 0), "{:?}", checked.findings);
        let settings = TABLE.iter().filter(|setting| form::default_value(setting).is_some());
        assert_eq!(count(Severity::Note), settings.clone().count(), "each is what it is anyway");
        for setting in settings {
            let effective =
                checked.effective.iter().find(|effective| effective.name == setting.name).unwrap();
            assert_eq!(effective.origin, Origin::Registry, "{}", setting.name);
            let (kind, bytes) = form::default_value(setting).unwrap();
            let value = schema::parse(setting.name, kind, &bytes).unwrap();
            assert_eq!(effective.value, form::shown(setting, &value));
        }
    }
}

#[test]
fn defaults_are_those_of_the_driver() {
    for setting in TABLE {
        let Some((kind, bytes)) = form::default_value(setting) else { continue };
        let mut settings = Settings::DEFAULT;
        settings.set(setting.name, kind, &bytes).unwrap();
        assert_eq!(settings, Settings::DEFAULT, "{}", setting.name);
    }
}

/// A value that both readers are to find.
fn value() -> impl Strategy<Value = Theirs> {
    prop_oneof![
        any::<u32>().prop_map(Theirs::Dword),
        any::<u64>().prop_map(Theirs::Qword),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Theirs::Binary),
        "[ -~é€\u{1F30A}]{0,60}".prop_map(Theirs::Sz),
        "[ -~é€\u{1F30A}]{0,60}".prop_map(Theirs::ExpandSz),
        prop::collection::vec("[ -~é€\u{1F30A}]{1,30}", 0..6).prop_map(Theirs::MultiSz),
    ]
}

/// The same as the registry has it.
fn stored(value: &Theirs) -> (u32, Vec<u8>) {
    match value {
        Theirs::Dword(number) => (REG_DWORD, number.to_le_bytes().to_vec()),
        Theirs::Qword(number) => (11, number.to_le_bytes().to_vec()),
        Theirs::Binary(bytes) => (REG_BINARY, bytes.clone()),
        Theirs::Sz(text) => (REG_SZ, reg::text_bytes(text)),
        Theirs::ExpandSz(text) => (2, reg::text_bytes(text)),
        Theirs::MultiSz(texts) => (REG_MULTI_SZ, reg::list_bytes(texts.iter().map(String::as_str))),
        other => panic!("{other:?}"),
    }
}

/// Checks what must hold of any file.
fn sound(bytes: &[u8]) {
    let checked = check(bytes);
    if let Ok((text, _)) = reg::decode(bytes) {
        assert_eq!(checked.text.len(), text.len(), "what is covered keeps its place");
        let lines = text.split('\n').count();
        for finding in &checked.findings {
            assert!(finding.span.start <= finding.span.end && finding.span.end <= text.len(), "{finding:?}");
            assert!((1..=lines).contains(&finding.line), "{finding:?}");
        }
    }
    assert!(checked.effective.is_empty() || checked.effective.len() == TABLE.len());
    config::report(&mut Vec::new(), &checked, "x.reg").unwrap();
}

/// Parts of files, and what is nearly one.
const PARTS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "\\",
    "\\\r\n  ",
    ",\\\n",
    "\"",
    "\\\"",
    "\\0",
    "\0",
    "=",
    "-",
    "@",
    ";",
    "#",
    "[",
    "]",
    "[-",
    "HKEY_LOCAL_MACHINE",
    "HKLM",
    "\\SYSTEM",
    "\\CurrentControlSet",
    "\\ControlSet001",
    "\\Services\\weir",
    "\\Parameters",
    "\\Key",
    "\\Policies\\weir",
    "\r\n[HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\weir\\Parameters]\r\n",
    "\r\n[HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\weir\\Parameters\\Key]\r\n",
    "\r\n[HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Policies\\weir]\r\n",
    "\"RingRecords\"",
    "\"ControlPeers\"",
    "\"ControlDial\"",
    "\"ControlListen\"",
    "\"PolicyStore\"",
    "\"PolicyImage\"",
    "\"ExtensionInterfaces\"",
    "\"PrivateKey\"",
    "dword:",
    "hex:",
    "hex(7):",
    "hex(",
    "):",
    "00,",
    "00",
    "ff,",
    "2e,00,",
    "f",
    "1000",
    "é",
    "\u{1F30A}",
    "\u{FFFF}",
    "REGEDIT4",
    "Windows Registry Editor Version 5.00",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_is_written_is_read_by_this_reader_and_by_another(
        values in prop::collection::btree_map("[a-z0-9 \\\\\"=;\\[\\]]{1,16}", value(), 1..8),
    ) {
        let text: String = values.iter().map(|(name, value)| {
            let (kind, bytes) = stored(value);
            reg::written(name, kind, &bytes)
        }).collect();
        let text = format!("{}\r\n[{PARAMETERS}]\r\n{text}", reg::header());
        prop_assert!(text.lines().all(|line| line.len() <= 81 || line.contains("=\"")), "{text}");
        let items = reg::read(&reg::decode(&reg::encode(&text)).unwrap().0).unwrap();
        let ours: Vec<_> = items[1..].iter().map(|item| match item {
            Item::Value(value) => (value.name.clone(), value.data.clone()),
            other => panic!("{other:?}"),
        }).collect();
        let expected: Vec<_> = values.iter().map(|(name, value)| {
            let (kind, bytes) = stored(value);
            (name.clone(), Data::Set(kind, bytes))
        }).collect();
        prop_assert_eq!(ours, expected);
        let registry = Registry::deserialize(&text).unwrap();
        let (_, key) = registry.keys().iter().next().unwrap();
        let theirs: Vec<_> = key.values().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let expected: Vec<_> =
            values.into_iter().map(|(name, value)| (regashii::ValueName::Named(name), value)).collect();
        prop_assert_eq!(theirs, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn any_bytes_do_no_harm(
        mark in prop::sample::select(vec![&b""[..], b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"REGEDIT4\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        sound(&[mark, &bytes].concat());
    }

    #[test]
    fn any_parts_of_files_in_any_order_do_no_harm(
        version in any::<bool>(),
        wide in any::<bool>(),
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..60),
    ) {
        let header = if version { reg::header() } else { "REGEDIT4\r\n".to_owned() };
        let text = header + &parts.concat();
        sound(&if wide { reg::encode(&text) } else { text.into_bytes() });
    }

    #[test]
    fn bytes_changed_anywhere_do_no_harm(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = small_files().swap_remove(file.index(small_files().len()));
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        sound(&bytes);
    }
}

/// The corpus, but for what is large.
fn small_files() -> Vec<Vec<u8>> {
    static FILES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
        let files = corpus().into_iter().map(|path| fs::read(path).unwrap());
        files.filter(|bytes| (1..4000).contains(&bytes.len())).collect()
    });
    FILES.clone()
}

#[test]
fn every_cut_of_a_file_does_no_harm() {
    for file in small_files() {
        for length in 0..file.len() {
            sound(&file[..length]);
        }
    }
}

fn weir(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = common::weir().arg("config").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn beside(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_exits_as_documented() {
    for (arguments, code) in [
        (vec!["check", &*beside("good-numbers.reg")], 0),
        (vec!["check", &*beside("good-private-key.reg")], 0),
        (vec!["check", "--strict", &*beside("good-private-key.reg")], 1),
        (vec!["check", &*beside("number-power.reg")], 1),
        (vec!["check", "/no/such/file"], 2),
        (vec!["check"], 2),
        (vec!["check", "--json", &*beside("number-power.reg")], 1),
    ] {
        let (exit, out, error) = weir(&arguments);
        assert_eq!(exit, Some(code), "{arguments:?}\n{out}{error}");
    }
}

#[test]
fn json_says_what_people_are_told() {
    let (_, out, _) = weir(&["check", "--json", &beside("number-power.reg")]);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [finding, settings @ .., summary] = &lines[..] else { panic!("{out}") };
    assert_eq!(finding["event"], "finding");
    assert_eq!((&finding["severity"], &finding["reason"]), (&"fault".into(), &"not-power-of-two".into()));
    assert_eq!(
        (&finding["name"], &finding["line"], &finding["column"]),
        (&"RingRecords".into(), &4.into(), &15.into())
    );
    assert_eq!(settings.len(), TABLE.len());
    assert!(settings.iter().all(|setting| setting["event"] == "setting" && setting["origin"] == "default"));
    assert_eq!((&summary["ok"], &summary["faults"]), (&false.into(), &1.into()));
    assert_eq!(summary["keys"], serde_json::json!([PARAMETERS]));
}

#[test]
fn explain_knows_every_setting_in_any_case_and_what_a_misspelt_one_might_be() {
    let (code, all, _) = weir(&["explain"]);
    assert_eq!(code, Some(0));
    for setting in TABLE {
        assert!(all.contains(setting.name), "{}", setting.name);
        let (code, out, _) = weir(&["explain", &setting.name.to_ascii_uppercase()]);
        assert_eq!(code, Some(0));
        assert!(out.starts_with(setting.name), "{out}");
        assert!(
            out.contains(&form::range(setting.kind)) && out.contains(form::changes(setting.applies).1),
            "{out}"
        );
    }
    let (code, out, _) = weir(&["explain", "--json"]);
    assert_eq!(code, Some(0));
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), TABLE.len());
    for (line, setting) in lines.iter().zip(TABLE) {
        assert_eq!((&line["name"], &line["default"]), (&setting.name.into(), &setting.default.into()));
    }
    let (code, _, error) = weir(&["explain", "ControlListne"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("did you mean ControlListen?"), "{error}");
    let (code, _, error) = weir(&["explain", "zzz"]);
    assert_eq!((code, error.contains("did you mean")), (Some(2), false), "{error}");
}

#[test]
fn default_writes_what_registry_editor_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.reg");
    let (code, out, _) = weir(&["default"]);
    assert_eq!((code, &*out), (Some(0), &*config::default_file()));
    let (code, out, _) = weir(&["default", "--output", path.to_str().unwrap()]);
    assert_eq!((code, &*out), (Some(0), ""));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(
        reg::decode(&bytes).unwrap(),
        (config::default_file().replace("\r\n", "\n"), reg::Encoding::Utf16)
    );
    assert_eq!(weir(&["check", path.to_str().unwrap()]).0, Some(0));
}

#[test]
fn the_key_of_the_driver_is_the_one_that_is_read() {
    let bytes = [7; 32];
    for (key, faults) in [(PRIVATE, 0), (PARAMETERS, 1), (POLICIES, 1)] {
        let text = file(&[(key, &[("PrivateKey", REG_BINARY, &bytes)])]);
        let checked = check(&reg::encode(&text));
        assert_eq!(checked.count(Severity::Fault), faults, "{key}: {:?}", checked.findings);
        assert_eq!(checked.count(Severity::Warning), 1 - faults, "{key}");
    }
}
