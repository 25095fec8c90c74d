//! Why a value is refused, in words that name what would be right.

use weir::config::schema::{
    self, Kind, MAX_ENDPOINTS, MAX_EXTENSIONS, MAX_PATH, REG_DWORD, REG_MULTI_SZ, REG_SZ, Refused, Setting,
    TABLE,
};
use weir::control::protocol::role::{MAX_PEERS, Peer};

use super::{form, reg};
use crate::output::plural;

/// A text of the file within a message.
pub fn clean(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut clean = printable(&text.chars().take(LONGEST).collect::<String>());
    if text.chars().nth(LONGEST).is_some() {
        clean.push('…');
    }
    clean
}

/// A text that a terminal only prints.
pub fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_debug());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// The setting whose name is nearest, if one is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    best(name, TABLE.iter().map(|setting| setting.name))
}

/// The one that is nearest, if one is near.
pub fn best<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(64).collect::<String>().to_ascii_lowercase();
    let near = known.map(|known| (strsim::jaro_winkler(&known.to_ascii_lowercase(), &name), known));
    near.filter(|(near, _)| *near > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// Why the driver refuses a value, and what would be right.
pub fn refused(setting: &Setting, registry_type: u32, bytes: &[u8], reason: Refused) -> (String, String) {
    let (name, kind) = (setting.name, setting.kind);
    let right = format!("{}: {}", form::types(kind), form::range(kind));
    let size = plural(bytes.len(), "byte");
    let number = bytes.try_into().map_or(0, u32::from_le_bytes);
    let message = match (reason, kind) {
        (Refused::WrongType, _) => {
            let is = form::type_name(registry_type);
            let number = (registry_type == REG_SZ).then(|| utf16(bytes).parse::<u32>().ok()).flatten();
            let number = number.filter(|_| kind.registry_types().contains(&REG_DWORD));
            let as_number = number.map(|number| format!("; {number} is `dword:{number:08x}`"));
            return (format!("`{name}` is a {is}"), right + &as_number.unwrap_or_default());
        }
        (Refused::WrongSize, Kind::Number { .. } | Kind::Choice(_)) => {
            format!("`{name}` has {size}, and a REG_DWORD has 4")
        }
        (Refused::WrongSize, _) if bytes.is_empty() => format!("`{name}` has no bytes"),
        (Refused::WrongSize, _) => format!("`{name}` has {size}, and text has two for each character"),
        (Refused::OutOfRange, Kind::Number { minimum, .. }) if number < minimum => {
            format!("`{name}` is {number}, which is too small")
        }
        (Refused::OutOfRange, Kind::Number { .. }) => format!("`{name}` is {number}, which is too large"),
        (Refused::OutOfRange, Kind::Choice(_)) => format!("`{name}` is {number}, which stands for nothing"),
        (Refused::NotPowerOfTwo, Kind::Number { minimum, maximum, .. }) => {
            let below = 1_u32 << number.max(1).ilog2();
            let near = [Some(below), below.checked_mul(2)].into_iter().flatten();
            let near = near.filter(|number| (minimum..=maximum).contains(number));
            let near = near.map(|number| format!("{number} (`dword:{number:08x}`)")).collect::<Vec<_>>();
            let help = format!("{right}; next to it: {}", near.join(", "));
            return (format!("`{name}` is {number}, which is no power of two"), help);
        }
        (Refused::TooLong, _) if bytes.len() > kind.maximum_size() => {
            format!("`{name}` has {size}, and at most {} are taken", kind.maximum_size())
        }
        (_, Kind::Directory) => {
            let path = utf16(bytes);
            let is = match reason {
                Refused::EmbeddedNul => "a NUL character in a path".to_owned(),
                _ if path.encode_utf16().count() > MAX_PATH => format!("longer than {MAX_PATH} characters"),
                _ => r"no absolute path of the object manager, as `\??\C:\ProgramData\weir` is".to_owned(),
            };
            format!("`{name}`, `{}`: {is}", clean(&path))
        }
        _ => return entry_refused(setting, registry_type, bytes, reason),
    };
    (message, right)
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>();
    String::from_utf16_lossy(units.strip_suffix(&[0]).unwrap_or(&units))
}

/// The same of a list: which entry it is.
fn entry_refused(setting: &Setting, registry_type: u32, bytes: &[u8], reason: Refused) -> (String, String) {
    let (name, kind) = (setting.name, setting.kind);
    let text = utf16(bytes);
    let text = if registry_type == REG_SZ { text.as_str() } else { text.strip_suffix('\0').unwrap_or(&text) };
    let right = form::range(kind);
    if reason == Refused::EmbeddedNul {
        let message = if registry_type == REG_SZ {
            format!("`{name}` has a NUL character in its text")
        } else {
            format!("`{name}` has an empty entry among others")
        };
        return (message, right);
    }
    let entries: Vec<_> = if registry_type == REG_SZ { vec![text] } else { text.split('\0').collect() };
    // The first one that cannot be taken with those before it.
    let wrong = (1..=entries.len()).find(|count| {
        let list = reg::list_bytes(entries[..*count].iter().copied());
        schema::parse(name, REG_MULTI_SZ, &list).is_err()
    });
    let number = wrong.unwrap_or(1);
    let entry = entries.get(number - 1).copied().unwrap_or_default();
    let place = if entries.len() > 1 { format!(", entry {number}") } else { String::new() };
    let is = match reason {
        Refused::BadPeer | Refused::Duplicate if kind == Kind::Peers => peer_reason(&entries, number),
        Refused::BadPeer => "no peer's name and address with `@` between them".to_owned(),
        Refused::BadAddress if kind == Kind::Dials => "no address and port that can be dialled".to_owned(),
        Refused::BadAddress => "no address and port".to_owned(),
        Refused::NotText => "a blank, or a character outside ASCII".to_owned(),
        Refused::TooLong => "too long for an address and port".to_owned(),
        Refused::Duplicate => "it stands here twice".to_owned(),
        Refused::TooMany => {
            let most = match kind {
                Kind::Peers => MAX_PEERS,
                Kind::Extensions => MAX_EXTENSIONS,
                _ => MAX_ENDPOINTS,
            };
            format!("at most {most} are taken")
        }
        Refused::BadInterface => "no interface and what is asked of it".to_owned(),
        Refused::UnknownInterface => "it speaks an interface that weir does not know".to_owned(),
        Refused::OutOfRange => "events of more than 32 bits".to_owned(),
        other => other.name().to_owned(),
    };
    let help = if reason == Refused::BadPeer && kind == Kind::Peers {
        format!("{right}: `weir config explain {name}` has an example")
    } else {
        right
    };
    (format!("`{name}`{place}, `{}`: {is}", clean(entry)), help)
}

/// What is wrong with the peer of that number, from 1.
fn peer_reason(entries: &[&str], number: usize) -> String {
    let read = |entry: &&str| Peer::parse(entry.encode_utf16());
    let earlier: Vec<_> = entries.iter().take(number - 1).filter_map(|entry| read(entry).ok()).collect();
    let reason =
        entries.get(number - 1).and_then(|entry| read(entry).and_then(|peer| peer.fits(&earlier)).err());
    let reason = reason.map_or("no peer", |reason| reason.reason()).trim_end_matches('.');
    let mut letters = reason.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
