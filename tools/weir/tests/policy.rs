//! What a policy says is what is decided: the compiled image against rules tried one after the other.

#[path = "policy/reference.rs"]
mod reference;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use reference::{Connection, Rule, classbench, decide, near, numbers, toml};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use weir::policy::{Action, Direction, Family, Image};

/// Addresses that meet and miss each other at prefix borders and at both ends of the space.
fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => prop_oneof![
            (0_u32..=3, 0_u32..=255)
                .prop_map(|(net, host)| IpAddr::from((0x0a00_0000 | net << 8 | host).to_be_bytes())),
            select(vec![0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX])
                .prop_map(|bits: u32| IpAddr::from(bits.to_be_bytes())),
        ]
        .boxed(),
        Family::V6 => prop_oneof![
            (0_u128..=3, 0_u128..=255).prop_map(|(net, host)| {
                IpAddr::from((0x2001_0db8_u128 << 96 | net << 64 | host).to_be_bytes())
            }),
            select(vec![0, 1, u128::MAX >> 1, 1 << 127, u128::MAX - 1, u128::MAX])
                .prop_map(|bits: u128| IpAddr::from(bits.to_be_bytes())),
        ]
        .boxed(),
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn addresses(longest: usize) -> impl Strategy<Value = Vec<RangeInclusive<IpAddr>>> {
    let range = family().prop_flat_map(|family| {
        (address(family), address(family), any::<bool>())
            .prop_map(|(one, other, single)| if single { one..=one } else { one.min(other)..=one.max(other) })
    });
    prop::collection::vec(range, 0..=longest)
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0_u16..8, 250_u16..260, 65530_u16..=65535]
}

fn ports(longest: usize) -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    prop::collection::vec(
        (port(), port()).prop_map(|(one, other)| one.min(other)..=one.max(other)),
        0..=longest,
    )
}

fn rule(longest: usize, apps: bool) -> impl Strategy<Value = Rule> {
    let patterns = if apps {
        vec![
            r"\device\harddiskvolume1\windows\system32\svchost.exe",
            r"*\svchost.exe",
            r"\device\*",
            r"*\a*aab*b.exe",
            r"*\ÄPFEL.exe",
            r"*",
            r"system",
        ]
    } else {
        Vec::new()
    };
    (
        select(vec![Action::Allow, Action::Block, Action::Audit]),
        subsequence(vec![Direction::In, Direction::Out], 1..=2),
        subsequence(vec![1, 6, 17, 58], 0..=2),
        addresses(longest),
        addresses(longest),
        ports(longest),
        ports(longest),
        prop_oneof![3 => Just(Vec::new()), 1 => subsequence(patterns.clone(), 0..=patterns.len().min(2))],
    )
        .prop_map(|(action, directions, protocols, local, remote, local_ports, remote_ports, apps)| {
            Rule {
                action,
                directions,
                protocols,
                local,
                remote,
                local_ports,
                remote_ports,
                apps: apps.into_iter().map(str::to_owned).collect(),
            }
        })
}

fn connection() -> impl Strategy<Value = Connection> {
    let known = |strategy: BoxedStrategy<IpAddr>| prop_oneof![9 => strategy.prop_map(Some), 1 => Just(None)];
    family().prop_flat_map(move |family| {
        (
            select(vec![Direction::In, Direction::Out]),
            prop_oneof![9 => select(vec![1_u8, 6, 17, 58, 99]).prop_map(Some), 1 => Just(None)],
            known(address(family)),
            known(address(family)),
            prop_oneof![9 => port().prop_map(Some), 1 => Just(None)],
            prop_oneof![9 => port().prop_map(Some), 1 => Just(None)],
            select(vec![
                None,
                Some(r"\device\harddiskvolume1\windows\system32\svchost.exe"),
                Some(r"\Device\HarddiskVolume2\x\SVCHOST.EXE"),
                Some(r"\device\harddiskvolume1\aaab.aabb.exe"),
                Some(r"\device\harddiskvolume1\aabaab.exe"),
                Some(r"\device\harddiskvolume1\äpfel.EXE"),
                Some("System"),
            ]),
        )
            .prop_map(move |(direction, protocol, local, remote, local_port, remote_port, app)| {
                Connection {
                    direction,
                    family,
                    protocol,
                    local,
                    remote,
                    local_port,
                    remote_port,
                    app: app.map(str::to_owned),
                }
            })
    })
}

fn same(rules: &[Rule], connections: &[Connection]) -> Result<(), TestCaseError> {
    let text = toml(Action::Audit, rules);
    let compiled = weir_cli::policy::compile(&text).expect("a policy without faults");
    let image = Image::validate(&compiled.image).expect("an image that the driver takes");
    for connection in connections {
        let expected = decide(Action::Audit, rules, connection);
        connection.with_tuple(|tuple| {
            prop_assert_eq!(image.decide(tuple), expected, "{:?}", connection);
            prop_assert_eq!(image.decide_by_rules(tuple), expected, "explain: {:?}", connection);
            Ok(())
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Lists, ranges, both families, EMPTY fields and application patterns, in the bit-vector part.
    #[test]
    fn the_first_rule_that_matches_decides(
        rules in prop::collection::vec(rule(3, true), 0..100),
        connections in prop::collection::vec(connection(), 50),
    ) {
        same(&rules, &connections)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::with_cases(12) })]

    /// More rules than the bit-vector part holds: both parts at work, and buckets that overflow from one into the
    /// other.
    #[test]
    fn the_first_rule_that_matches_decides_in_a_large_policy(
        some in prop::collection::vec(rule(2, true), 1200),
        most in prop::collection::vec(rule(1, false), 1200),
        shuffle in prop::collection::vec(any::<Index>(), 600),
        connections in prop::collection::vec(connection(), 400),
    ) {
        let mut rules = most;
        rules.truncate(1200);
        for (place, rule) in shuffle.iter().zip(some) {
            let at = place.index(rules.len());
            rules.insert(at, rule);
        }
        // Rules that take everything would decide before the later ones are ever reached.
        rules.retain(|rule| !rule.local.is_empty() || !rule.remote.is_empty());
        same(&rules, &connections)?;
    }
}

/// A rule set of `../shared/rulesets`, or `None` with a message where it is absent.
fn shared_rules(name: &str, v6: bool) -> Option<Vec<Rule>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/rulesets").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(classbench(&text, v6)),
        Err(error) => {
            println!("skipped: {}: {error}", path.display());
            None
        }
    }
}

#[test]
fn public_rule_sets_decide_as_written() {
    for name in ["acl1_10.rules", "acl1_100.rules", "acl1_1000.rules", "acl1_10000.rules"] {
        for v6 in [false, true] {
            let Some(rules) = shared_rules(name, v6) else { continue };
            let compiled = weir_cli::policy::compile(&toml(Action::Block, &rules)).expect("no faults");
            let image = Image::validate(&compiled.image).expect("valid");
            let mut numbers = numbers(0x5eed);
            let mut decided = 0;
            for _ in 0..3000 {
                let at = usize::try_from(numbers(rules.len() as u64)).unwrap();
                let connection = near(&rules[at], &mut numbers, v6);
                let expected = decide(Action::Block, &rules, &connection);
                decided += usize::from(expected.rule.is_some());
                let found = connection.with_tuple(|tuple| image.decide(tuple));
                assert_eq!(found, expected, "{name}, v6 {v6}: {connection:?}");
            }
            assert!(decided > 300, "{name}: only {decided} connections met a rule");
            println!("{name} v6={v6}: {:?}", compiled.stats);
        }
    }
}
