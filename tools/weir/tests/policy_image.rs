//! The driver survives any image: what validation passes is looked up in bounds and in a bounded number of steps,
//! and what it has not even seen does no harm either.

#[path = "policy/reference.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod reference;

use std::fmt::Write as _;

use reference::{Connection, Rule, classbench, near, numbers, toml};
use weir::policy::format::{
    MAX_APP_CANDIDATES, MAX_APP_UNITS, MAX_BUCKET, MAX_GROUPS, MAX_PROBES, MAX_WORDS, header,
};
use weir::policy::{Action, Image, What, checksum};
use weir_cli::policy::compile;

/// A small policy with everything in it, and one with a hashed part; each with rules to draw connections from.
fn policies() -> Vec<(Vec<u8>, Vec<Rule>)> {
    let office = compile(include_str!("../examples/office.toml")).expect("no faults");
    let mut lines = String::new();
    let mut next = numbers(7);
    for _ in 0..1500 {
        let mut number = |bound: u64| next(bound);
        let len = 24 + number(9);
        let host = u32::try_from(number(1 << 16)).unwrap() | 0x0a00_0000;
        let network = std::net::Ipv4Addr::from(host & u32::MAX << (32 - len));
        let port = number(2000);
        writeln!(lines, "@{network}/{len}\t0.0.0.0/0\t0 : 65535\t{port} : {}\t0x06/0xFF\t", port + number(2))
            .unwrap();
    }
    let rules = classbench(&lines, false);
    let large = compile(&toml(Action::Block, &rules)).expect("no faults");
    assert!(large.stats.groups > 0 && office.stats.patterns > 0, "both parts are there to be damaged");
    let six = compile(&toml(Action::Block, &classbench(&lines, true))).expect("no faults");
    vec![(office.image, rules.clone()), (large.image, rules), (six.image, classbench(&lines, true))]
}

fn seal(image: &mut [u8]) {
    let sum = checksum(image);
    image[header::CHECKSUM..][..4].copy_from_slice(&sum.to_le_bytes());
}

/// Looks a connection up in every way.
fn look_up(image: &Image<'_>, connection: &Connection) {
    connection.with_tuple(|tuple| {
        let decision = image.decide(tuple);
        assert!(decision.rule.is_none_or(|rule| rule < image.rule_count()));
        for step in image.explain(tuple).take(50) {
            let _ = (step.rule.name(), step.rule.action());
        }
    });
}

#[test]
fn damaged_images_are_refused_or_do_no_harm() {
    let bound = 3 * MAX_APP_CANDIDATES * u32::try_from(MAX_APP_UNITS).unwrap()
        + u32::try_from(MAX_WORDS).unwrap()
        + u32::try_from(MAX_GROUPS).unwrap() * (MAX_PROBES + u32::from(MAX_BUCKET))
        + 4 * 32
        + 6;
    let (mut passed, mut refused) = (0, 0);
    for (seed, (good, rules)) in (1_u64..).zip(policies()) {
        let mut numbers = numbers(seed);
        for round in 0..600 {
            let mut image = good.clone();
            for _ in 0..=numbers(4) {
                // Half of the changes go to the small tables at the front, which steer everything.
                let end = if numbers(2) == 0 { 2048 } else { image.len() as u64 };
                let at = usize::try_from(numbers(end - 16) + 16).unwrap();
                image[at] = match numbers(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => image[at].wrapping_add(1),
                    _ => u8::try_from(numbers(256)).unwrap(),
                };
            }
            if numbers(20) == 0 {
                image.truncate(usize::try_from(numbers(image.len() as u64)).unwrap().max(header::LEN));
                let length = u32::try_from(image.len()).unwrap();
                image[header::LENGTH..][..4].copy_from_slice(&length.to_le_bytes());
            }
            seal(&mut image);
            let connections: Vec<_> = (0..4)
                .map(|_| {
                    let rule = &rules[usize::try_from(numbers(rules.len() as u64)).unwrap()];
                    let mut connection = near(rule, &mut numbers, seed == 3);
                    connection.app =
                        Some(r"\device\harddiskvolume1\windows\system32\regsvr32.exe".to_owned());
                    connection
                })
                .collect();
            match Image::validate_with_stats(&image) {
                Ok((image, stats)) => {
                    passed += 1;
                    assert!(stats.steps <= bound, "round {round}: {stats:?}");
                    for connection in &connections {
                        look_up(&image, connection);
                    }
                }
                Err(invalid) => {
                    refused += 1;
                    assert_ne!(invalid.what, What::Checksum, "it was put right");
                    assert!(invalid.offset <= image.len(), "{invalid:?}");
                    let image = Image::assume_valid(&image);
                    for connection in &connections {
                        connection.with_tuple(|tuple| {
                            let _ = image.decide(tuple);
                        });
                    }
                }
            }
        }
    }
    println!("{passed} passed, {refused} refused");
    assert!(passed > 100 && refused > 100, "both happen: {passed}, {refused}");
}

#[test]
fn bytes_that_are_no_image_do_no_harm() {
    let mut numbers = numbers(99);
    let (_, rules) = policies().swap_remove(1);
    for _ in 0..2000 {
        let length = usize::try_from(numbers(4096)).unwrap();
        let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(numbers(256)).unwrap() & 0x3f).collect();
        assert!(Image::validate(&bytes).is_err());
        if let Some(start) = bytes.get_mut(..8) {
            start.copy_from_slice(b"weirplcy");
        }
        assert!(Image::validate(&bytes).is_err());
        let connection = near(&rules[0], &mut numbers, false);
        connection.with_tuple(|tuple| {
            let _ = Image::assume_valid(&bytes).decide(tuple);
        });
    }
}

#[test]
fn each_single_bit_flipped_is_noticed() {
    let image = compile(weir_cli::policy::DEFAULT_TOML).expect("no faults").image;
    for bit in 0..image.len() * 8 {
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        assert!(Image::validate(&image).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let image = compile(weir_cli::policy::DEFAULT_TOML).expect("no faults").image;
    for length in 0..image.len() {
        assert!(Image::validate(&image[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn equal_policies_make_equal_images() {
    let image = || compile(include_str!("../examples/office.toml")).expect("no faults").image;
    assert_eq!(image(), image());
}

#[test]
fn ten_thousand_rules_take_less_than_two_megabytes() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/rulesets/acl1_10000.rules");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return;
    };
    for v6 in [false, true] {
        let compiled = compile(&toml(Action::Block, &classbench(&text, v6))).expect("no faults");
        assert!(compiled.image.len() < 2 << 20, "{} bytes", compiled.image.len());
    }
}
