//! The language does what POLICY.md says of it, and the checker finds what is wrong, where it is.

use proptest::prelude::*;
use std::collections::HashSet;
use std::process::{Command, Output};
use weir::policy::{Action, App, Direction, Family, Fields, Image, Tuple};
use weir_cli::policy::{Compiled, DEFAULT_TOML, Finding, Severity, app_bytes, compile};

#[path = "policy/reference.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod reference;
use reference::{Connection, Rule, decide, toml};

const OFFICE: &str = include_str!("../examples/office.toml");
const REFERENCE: &str = include_str!("../POLICY.md");

fn good(text: &str) -> Compiled {
    compile(text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
}

fn faults(text: &str) -> Vec<Finding> {
    compile(text).expect_err("a policy with faults")
}

/// A policy of one rule with these lines, which start on line 6.
fn with(lines: &str) -> String {
    format!("version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"r\"\naction = \"block\"\n{lines}\n")
}

#[test]
fn every_example_compiles_without_a_warning() {
    let mut examples = vec![OFFICE, DEFAULT_TOML];
    examples.extend(REFERENCE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()));
    assert!(examples.len() >= 6, "POLICY.md has examples");
    for text in examples {
        let compiled = good(text);
        assert!(compiled.warnings.is_empty(), "{:#?}\n{text}", compiled.warnings);
    }
}

#[test]
fn the_office_blocks_telnet_and_smb_to_the_internet() {
    let compiled = good(OFFICE);
    let image = Image::validate(&compiled.image).unwrap();
    for (protocol, remote, port, action, rule) in [
        (6, [203, 0, 113, 5], 23, Action::Block, "no-telnet"),
        (6, [203, 0, 113, 5], 445, Action::Block, "no-smb-to-the-internet"),
        (6, [10, 1, 2, 3], 445, Action::Allow, "smb-inside"),
        (17, [203, 0, 113, 5], 53, Action::Audit, "odd-dns"),
        (17, [9, 9, 9, 9], 53, Action::Allow, "dns"),
        (6, [203, 0, 113, 5], 443, Action::Allow, "web"),
    ] {
        let connection = Connection {
            direction: Direction::Out,
            family: Family::V4,
            protocol: Some(protocol),
            local: Some([192, 168, 0, 2].into()),
            remote: Some(remote.into()),
            local_port: Some(50000),
            remote_port: Some(port),
            app: None,
        };
        let decision = connection.with_tuple(|tuple| image.decide(tuple));
        let name = decision.rule.and_then(|rule| image.rule(rule)).map(|rule| rule.name());
        assert_eq!((decision.action, name), (action, Some(rule)), "{connection:?}");
    }
}

#[test]
fn every_fault_is_named_with_line_column_and_what_is_allowed() {
    let text = "version = 2\ndefualt = \"allow\"\n[[rule]]\nname = \"a\"\naction = \"permit\"\nremote = [\"10.0.0.1/8\", 7]\n\
                remote_port = \"2000-1000\"\n[[rule]]\nname = \"a\"\naction = \"allow\"\nprotocol = \"tpc\"\n";
    let found: Vec<_> = faults(text)
        .into_iter()
        .map(|fault| {
            assert!(fault.help.is_some(), "{fault:?} does not say what is allowed");
            (fault.line, fault.column, fault.message)
        })
        .collect();
    let expected = [
        (1, 1, "missing key `default`"),
        (1, 11, "unknown version 2"),
        (2, 1, "unknown key `defualt`"),
        (5, 10, "unknown action \"permit\""),
        (6, 11, "10.0.0.1/8 has bits set outside its 8-bit prefix"),
        (6, 25, "`remote` cannot be a number"),
        (7, 15, "an empty range"),
        (9, 8, "the name `a` is taken by the rule on line 4"),
        (11, 12, "unknown protocol \"tpc\""),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(line, column, message)| (*line, *column, (*message).to_owned())).collect();
    assert_eq!(found, expected);
}

#[test]
fn values_that_are_not_allowed_are_faults() {
    for lines in [
        "protocol = 256",
        "protocol = -1",
        "protocol = []",
        "protocol = [[6]]",
        "protocol = \"6\"",
        "local_port = 65536",
        "local_port = \"1-\"",
        "local_port = \"+5\"",
        "local_port = 1.5",
        "remote = \"10.0.0.0/33\"",
        "remote = \"::/129\"",
        "remote = \"10.0.0.1-::1\"",
        "remote = \"10.0.0.9-10.0.0.1\"",
        "remote = \"example.com\"",
        "remote = true",
        "app = \"\"",
        "app = 'folder\\x.exe'",
        "app = \"c:/x.exe\"",
        "app = 5",
        "direction = \"inbound\"",
        "description = 5",
        "name2 = \"x\"",
    ] {
        let found = faults(&with(lines));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert_eq!(found[0].line, 6, "{lines}");
    }
    for name in ["", "default", " r", "a\\nb", &"x".repeat(129)] {
        let text =
            format!("version = 1\ndefault = \"allow\"\n[[rule]]\naction = \"block\"\nname = \"{name}\"\n");
        assert_eq!(faults(&text)[0].line, 5, "{name:?}");
    }
}

#[test]
fn text_that_is_not_toml_is_a_fault_where_it_stops_being_it() {
    let found = faults(&with("remote = [\"10.0.0.1\"\nlocal_port = 80"));
    assert!(found.iter().all(|fault| fault.message.starts_with("not valid TOML")), "{found:?}");
    assert!((6..=8).contains(&found[0].line), "{found:?}");
    let found = faults("version = 1\ndefault = \"allow\"\ndefault = \"block\"\n");
    assert_eq!((found.len(), found[0].line), (1, 3), "{found:?}");
}

#[test]
fn columns_count_characters() {
    let found = faults(&with("description = \"ää\" # ü\nremote = [ \"10.0.0.1\", \"ö\" ]"));
    assert_eq!((found[0].line, found[0].column), (7, 24));
}

#[test]
fn applications_match_as_documented() {
    for (pattern, path, matches) in [
        ("curl.exe", r"\device\harddiskvolume3\tools\curl.exe", true),
        ("curl.exe", r"\device\harddiskvolume3\tools\mycurl.exe", false),
        ("python*.exe", r"\device\harddiskvolume3\p\Python3.12.EXE", true),
        (r"C:\Windows\x.exe", r"\device\harddiskvolume12\WINDOWS\X.exe", true),
        (r"C:\Windows\x.exe", r"\device\harddiskvolume12\y\windows\x.exe", false),
        (r"C:\Windows\x.exe", r"\device\harddiskvolume\windows\x.exe", false),
        (r"C:\Windows\*\x.exe", r"\device\harddiskvolume1\windows\y\x.exe", true),
        (r"C:\Windows\x.exe", r"\device\harddiskvolume1x\windows\x.exe", false),
        (r"\device\harddiskvolume3\tools\*", r"\device\harddiskvolume3\tools\a\b.exe", true),
        ("System", "System", true),
        ("System", r"\device\harddiskvolume3\system", false),
        ("*", "x", true),
        ("**", "x", true),
        (r"*\ÖL.exe", r"\a\öl.EXE", true),
        ("k.exe", "\\a\\\u{212a}.exe", false),
    ] {
        let compiled = good(&with(&format!("app = '{pattern}'")));
        let image = Image::validate(&compiled.image).unwrap();
        let path = app_bytes(path);
        let tuple = Tuple {
            direction: Direction::Out,
            family: Family::V6,
            protocol: None,
            local: None,
            remote: None,
            local_port: None,
            remote_port: None,
            app: App::from_utf16le(&path),
        };
        assert_eq!(image.decide(&tuple).rule.is_some(), matches, "{pattern} {path:?}");
        assert_eq!(image.decide_by_rules(&tuple), image.decide(&tuple));
    }
}

#[test]
fn explain_names_the_fields_that_fail() {
    let compiled =
        good(&with("direction = \"out\"\nprotocol = \"tcp\"\nremote = \"10.0.0.0/8\"\nremote_port = 23"));
    let image = Image::validate(&compiled.image).unwrap();
    let mut tuple = Tuple {
        direction: Direction::Out,
        family: Family::V4,
        protocol: Some(6),
        local: None,
        remote: Some(reference::wire([10, 0, 0, 1].into())),
        local_port: None,
        remote_port: Some(23),
        app: None,
    };
    let failed = |tuple: &Tuple<'_>| image.explain(tuple).map(|step| step.failed).collect::<Vec<_>>();
    assert_eq!(failed(&tuple), [Fields::empty()]);
    tuple.remote_port = Some(24);
    assert_eq!(failed(&tuple), [Fields::REMOTE_PORT]);
    tuple.direction = Direction::In;
    tuple.protocol = None;
    tuple.remote = None;
    assert_eq!(failed(&tuple), [Fields::DIRECTION | Fields::PROTOCOL | Fields::REMOTE | Fields::REMOTE_PORT]);
}

fn warned(compiled: &Compiled) -> HashSet<String> {
    compiled.warnings.iter().filter_map(|warning| warning.rule.clone()).collect()
}

#[test]
fn rules_that_contradict_themselves_are_named() {
    for lines in [
        "protocol = \"icmp\"\nremote_port = 80",
        "local = \"10.0.0.1\"\nremote = \"::1\"",
        "remote = \"::ffff:10.0.0.1\"",
    ] {
        let compiled = good(&with(lines));
        assert_eq!(warned(&compiled).len(), 1, "{lines}: {:?}", compiled.warnings);
        assert_eq!(compiled.warnings[0].severity, Severity::Warning);
    }
}

#[test]
fn a_pattern_that_shows_to_cover_another_shadows_it() {
    for (first, second, shadows) in [
        (r"'*\curl*.exe'", r"['curl-7.exe', 'C:\x\curl.EXE']", true),
        (r"'*\curl*.exe'", r"['curl-7.exe', 'wget.exe']", false),
        (r"'C:\x\*'", r"'C:\x\y.exe'", true),
        (r"'\device\harddiskvolume*\x.exe'", r"'C:\x.exe'", true),
        (r"'C:\x.exe'", r"'\device\harddiskvolume*\x.exe'", false),
        (r"'*'", r"'\device\*\a*b*'", true),
        (r"'\device\*\a*b*'", r"'*'", false),
        (r"['a.exe', 'b.exe']", r"['b.exe', 'a.exe']", true),
    ] {
        let text = format!(
            "{}[[rule]]\nname = \"s\"\naction = \"allow\"\napp = {second}\n",
            with(&format!("app = {first}"))
        );
        assert_eq!(warned(&good(&text)).contains("s"), shadows, "{first} {second}");
    }
}

/// Rules over a few values, of which every combination can be tried.
fn small_rule() -> impl Strategy<Value = Rule> {
    let address = |number: u8| std::net::IpAddr::from([10, 0, 0, number]);
    let range = (0_u16..6, 0_u16..6).prop_map(|(a, b)| a.min(b)..=a.max(b));
    (
        prop::sample::subsequence(vec![Direction::In, Direction::Out], 1..=2),
        prop::sample::subsequence(vec![1, 6, 17], 0..=3),
        prop::collection::vec(
            (0_u8..8, 0_u8..8).prop_map(move |(a, b)| address(a.min(b))..=address(a.max(b))),
            0..=2,
        ),
        prop::collection::vec(range, 0..=2),
    )
        .prop_map(|(directions, protocols, remote, remote_ports)| Rule {
            directions,
            protocols,
            remote,
            remote_ports,
            ..Rule::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// A rule is reported exactly if no connection at all would be decided by it.
    #[test]
    fn rules_that_earlier_ones_leave_nothing_to_are_named(rules in prop::collection::vec(small_rule(), 1..12)) {
        let mut decides = HashSet::new();
        for direction in [Direction::In, Direction::Out] {
            for protocol in [None, Some(1), Some(6), Some(17), Some(99)] {
                for remote in (0..10).map(|at| (at < 9).then(|| [10, 0, 0, at].into())) {
                    for remote_port in (0..8).map(|at| (at < 7).then_some(at)) {
                        for family in [Family::V4, Family::V6] {
                            let remote = remote.filter(|_| family == Family::V4);
                            let connection = Connection {
                                direction, family, protocol, remote, remote_port,
                                local: None, local_port: None, app: None,
                            };
                            decides.extend(decide(Action::Audit, &rules, &connection).rule);
                        }
                    }
                }
            }
        }
        let never: HashSet<String> = (0_u32..)
            .zip(&rules)
            .filter(|(index, _)| !decides.contains(index))
            .map(|(index, _)| format!("r{index}"))
            .collect();
        let compiled = good(&toml(Action::Audit, &rules));
        prop_assert_eq!(compiled.unchecked, 0);
        prop_assert_eq!(warned(&compiled), never);
    }
}

fn naive(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
        [first, rest @ ..] => text.first() == Some(first) && naive(rest, &text[1..]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    /// Wildcards, on texts that repeat themselves enough to lead a careless search astray.
    #[test]
    fn a_wildcard_stands_for_any_characters(pattern in r"[\\*]([ab]{0,3}\*){0,3}[ab]{0,2}", path in "[ab]{0,14}") {
        let path = format!("\\{path}");
        let compiled = good(&with(&format!("app = '{pattern}'")));
        let image = Image::validate(&compiled.image).unwrap();
        let bytes = app_bytes(&path);
        let tuple = Tuple {
            direction: Direction::In,
            family: Family::V4,
            protocol: None,
            local: None,
            remote: None,
            local_port: None,
            remote_port: None,
            app: App::from_utf16le(&bytes),
        };
        prop_assert_eq!(image.decide(&tuple).rule.is_some(), naive(pattern.as_bytes(), path.as_bytes()));
    }
}

fn weir(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(args).output().expect("the command line runs")
}

fn file(text: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn check_exits_as_documented_and_shows_the_line() {
    let shadowed = with("") + "[[rule]]\nname = \"s\"\naction = \"allow\"\n";
    for (text, args, code, shown) in [
        (OFFICE, vec![], 0, "good: 18 rules"),
        (shadowed.as_str(), vec![], 0, "name = \"s\""),
        (shadowed.as_str(), vec!["--strict"], 1, "^^^"),
        ("version = 3\n", vec![], 1, "version = 3"),
        ("version = 3\n", vec!["--json"], 1, "\"line\":1,\"column\":11"),
        (OFFICE, vec!["--json"], 0, "\"event\":\"summary\""),
    ] {
        let file = file(text.as_bytes());
        let mut all = vec!["policy", "check", file.path().to_str().unwrap()];
        all.extend(&args);
        let output = weir(&all);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{stdout}");
        assert!(stdout.contains(shown), "{args:?}: no {shown} in\n{stdout}");
    }
    assert_eq!(weir(&["policy", "check", "/no/such/file"]).status.code(), Some(2));
    let latin = file(b"version = 1\n# \xff\n");
    let output = weir(&["policy", "check", "--json", latin.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"line\":2,\"column\":3"));
}

#[test]
fn check_writes_an_image_that_the_driver_takes() {
    let (policy, image) = (file(OFFICE.as_bytes()), file(b""));
    let (policy, image) = (policy.path().to_str().unwrap(), image.path().to_str().unwrap());
    assert!(weir(&["policy", "check", policy, "--output", image]).status.success());
    let bytes = std::fs::read(image).unwrap();
    assert_eq!(Image::validate(&bytes).unwrap().rule_count(), 18);
}

#[test]
fn explain_tells_the_rule_and_the_near_misses() {
    let policy = file(OFFICE.as_bytes());
    let policy = policy.path().to_str().unwrap();
    let connection = [
        "--direction",
        "out",
        "--protocol",
        "tcp",
        "--local",
        "192.168.1.2:1234",
        "--remote",
        "203.0.113.5:23",
    ];
    let output = weir(&[&["policy", "explain", policy][..], &connection].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.ends_with("block, by rule `no-telnet` (line 32)\n"), "{stdout}");
    assert!(stdout.contains("neighbour-discovery (line 16) does not match: protocol"), "{stdout}");
    let output = weir(&[&["policy", "explain", "--json", policy][..], &connection].concat());
    let last = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    assert_eq!(last, r#"{"event":"decision","verdict":"block","rule":"no-telnet","line":32}"#);
}
