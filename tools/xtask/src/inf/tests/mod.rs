//! What the linter finds, and that it finds nothing else; what the driver's own INF is.

mod driver;

use std::collections::BTreeSet;
use std::path::Path;

use super::lint::lint;
use super::parse::{Encoding, Field, decode, parse};
use super::rules::{Gravity, Level, RULES, find};
use super::{inx, judged, root, table};

const GOOD: &str = include_str!("good.inf");
const CORPUS: &str = include_str!("corpus.txt");

/// Where public INFs are looked for.
const PUBLIC: &str = "WEIR_PUBLIC_INFS";

fn found(text: &str) -> BTreeSet<(u16, usize)> {
    lint(text.as_bytes()).into_iter().map(|finding| (finding.code, finding.line)).collect()
}

/// A case of the corpus: its rule, the changed INF, the findings.
fn case(text: &str) -> (u16, String, BTreeSet<(u16, usize)>) {
    let mut lines: Vec<_> = GOOD.lines().collect();
    let (mut place, mut expected) = (None, Vec::new());
    let (code, changes) = text.split_once('\n').unwrap();
    for change in changes.lines() {
        if let Some(line) = change.strip_prefix('-') {
            let at = lines.iter().position(|other| *other == line);
            let at = at.unwrap_or_else(|| panic!("{code}: there is no line {line:?}"));
            lines.remove(at);
            place = Some(at);
        } else if let Some(line) = change.strip_prefix('+') {
            let at = place.unwrap_or(lines.len());
            lines.insert(at, line);
            place = Some(at + 1);
        } else if let Some(finding) = change.strip_prefix("! ") {
            expected.push(finding.split_once(' ').unwrap());
        } else {
            assert!(change.is_empty(), "{code}: {change:?}");
        }
    }
    let expected = expected.into_iter().map(|(code, line)| {
        let at = lines.iter().rposition(|other| *other == line);
        (code.parse().unwrap(), 1 + at.unwrap_or_else(|| panic!("{code}: there is no line {line:?}")))
    });
    (code.trim().parse().unwrap(), lines.join("\n"), expected.collect())
}

#[test]
fn a_good_inf_breaks_no_rule() {
    assert_eq!(lint(GOOD.as_bytes()), []);
    assert_eq!(lint(GOOD.replace('\n', "\r\n").as_bytes()), []);
    let utf16: Vec<u8> =
        std::iter::once(0xFEFF).chain(GOOD.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert_eq!(lint(&utf16), []);
}

#[test]
fn each_rule_is_found_where_it_is_broken_and_nothing_else() {
    let (mut rules, mut wrong) = (BTreeSet::from([1000, 1003]), Vec::new());
    for text in CORPUS.split("\n== ").skip(1) {
        let (code, inf, expected) = case(text);
        let expected_codes: Vec<_> = expected.iter().map(|(code, _)| *code).collect();
        assert!(expected_codes.contains(&code), "{code} is not among {expected_codes:?}");
        if found(&inf) != expected {
            wrong.push((code, expected, lint(inf.as_bytes())));
        }
        rules.insert(code);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let listed: BTreeSet<_> = RULES.iter().map(|rule| rule.code).collect();
    assert_eq!(rules, listed, "the corpus, and the rules");
    assert!(RULES.is_sorted_by(|one, other| one.code < other.code));
}

#[test]
fn encodings_other_than_windows_takes_are_told_and_read() {
    let marked = |mark: &[u8], text: Vec<u8>| [mark, &text].concat();
    let units = |bytes: fn(u16) -> [u8; 2]| GOOD.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    for bytes in [
        marked(b"\xef\xbb\xbf", GOOD.into()),
        marked(b"\xfe\xff", units(u16::to_be_bytes)),
        units(u16::to_le_bytes),
    ] {
        let codes: Vec<_> = lint(&bytes).into_iter().map(|finding| (finding.code, finding.line)).collect();
        assert_eq!(codes, [(1003, 1)]);
    }
    for bytes in [&b"\xff\xfe["[..], b"\xff\xfe\x00\xd8", b"\xef\xbb\xbf\xff", b"[Version]\n\0"] {
        let codes: Vec<_> = lint(bytes).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [1003], "{bytes:?}");
    }
    // One of a code page: which one does not matter.
    let ansi = GOOD.replace("Eine Diskette", "Disk\u{fc}tte");
    let ansi: Vec<u8> = ansi.chars().map(|it| u8::try_from(u32::from(it)).unwrap()).collect();
    assert_eq!(decode(&ansi).unwrap().1, Encoding::Ansi);
    assert_eq!(lint(&ansi), []);
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_number() {
    let [(finding, gravity, _)] = &judged(Path::new("/nowhere/at.inf"), Level::K)[..] else { panic!() };
    assert_eq!((finding.code, *gravity), (1000, Gravity::Error));
}

#[test]
fn a_level_has_its_own_gravity() {
    let levels = |code| [Level::K, Level::U, Level::W].map(|level| find(code).unwrap().gravity(level));
    assert_eq!(levels(1304), [Gravity::Warning, Gravity::Error, Gravity::None]);
    assert_eq!(levels(1322), [Gravity::None, Gravity::None, Gravity::Error]);
    assert_eq!(levels(2083), [Gravity::Warning; 3]);
}

#[test]
fn quoting_continuation_comments_and_tokens_are_windows() {
    let text = "/* anything */\n[A]\nkey=1,\"two ; \"\"three\"\"\" , four \\ ; comment\n , five\n\"a key\"=x\nHKR,a=b\n\
                p=\"ends\\\"\n50% = %Missing%%%%Known%\n[Strings]\nKNOWN=\"yes\"\nknown=\"no\"\n";
    let inf = parse(text).unwrap();
    let entries: Vec<_> = inf.entries("a").collect();
    let fields =
        |index: usize| -> Vec<_> { entries[index].fields.iter().map(|it| it.raw.as_str()).collect() };
    assert_eq!(fields(0), ["1", "two ; \"three\"", "four", "five"]);
    assert_eq!((entries[0].line, entries[1].line), (3, 5));
    assert_eq!(entries[1].key, Some(Field { raw: "a key".into() }));
    assert_eq!((&entries[2].key, fields(2)), (&None, vec!["HKR", "a=b"]));
    assert_eq!(fields(3), ["ends\\"]);
    let [field] = &entries[4].fields[..] else { panic!() };
    assert_eq!(inf.text(field), "%Missing%%yes");
    assert_eq!(inf.unknown(field), ["Missing"]);
    assert_eq!(inf.unknown(&Field { raw: "%13%\\x %-1%".into() }), [""; 0]);
}

/// Pieces of which texts are made that are nearly INFs.
const PIECES: &[&str] = &[
    "[Version]",
    "[DefaultInstall.NTamd64]",
    "[Strings]",
    "\n",
    "\r\n",
    "=",
    ",",
    "\"",
    "%",
    "%%",
    ";",
    "\\",
    "[",
    "]",
    ".",
    "$ARCH$",
    "CopyFiles",
    "AddReg",
    "AddService",
    "HKR",
    "0x",
    "13",
    "\u{e9}",
    "\u{10ffff}",
    " ",
    "\0",
    "{",
    "-1",
];

#[test]
fn whatever_the_bytes_there_is_an_answer() {
    let mut random = fastrand::Rng::with_seed(1);
    let lines: Vec<_> = GOOD.lines().collect();
    for _ in 0..4000 {
        let count = random.usize(..60);
        let text: String = match random.u8(..3) {
            0 => (0..count).map(|_| *random.choice(PIECES).unwrap()).collect(),
            1 => (0..count).flat_map(|_| [*random.choice(&lines).unwrap(), "\n"]).collect(),
            _ => {
                let mut text: Vec<char> = GOOD.chars().collect();
                for _ in 0..count {
                    let at = random.usize(..text.len());
                    text.splice(at..=at, random.choice(PIECES).unwrap().chars());
                }
                text.into_iter().collect()
            }
        };
        let last = text.lines().count().max(1);
        for finding in lint(text.as_bytes()) {
            assert!(
                find(finding.code).is_some() && (1..=last).contains(&finding.line),
                "{finding:?}\n{text}"
            );
        }
        let mut bytes = text.into_bytes();
        for _ in 0..count.min(bytes.len()) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        lint(&bytes);
    }
}

#[test]
fn the_page_has_the_rules_as_they_are() {
    let path = root().join("tools/xtask/INF.md");
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains(&table()), "{} is to have:\n{}", path.display(), table());
}

/// INFs of primitive drivers that others have published, in a folder of one's own, stamped.
#[test]
fn public_infs_of_primitive_drivers_pass() {
    let Some(folder) = std::env::var_os(PUBLIC) else {
        println!("skipped: {PUBLIC} names no folder with public INFs");
        return;
    };
    let mut count = 0;
    for entry in Path::new(&folder).read_dir().unwrap() {
        let path = entry.unwrap().path();
        let wrong = judged(&path, Level::K);
        let wrong: Vec<_> = wrong.iter().filter(|(_, gravity, _)| *gravity == Gravity::Error).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", path.display());
        count += 1;
    }
    println!("{count} public INFs have no error");
    assert_ne!(count, 0, "{PUBLIC} has no INF");
}
