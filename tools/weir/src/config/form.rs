//! Settings in words: types, ranges, entries of lists; and values as an administrator writes them.

use weir::config::interface;
use weir::config::schema::{
    Applies, Kind, MAX_ENDPOINTS, MAX_EXTENSIONS, MAX_PATH, REG_DWORD, REG_MULTI_SZ, REG_SZ, SPOKEN, Setting,
    Text, Texts, Value,
};
use weir::control::protocol::role::MAX_PEERS;

use super::reg;

/// A registry type's name; as for `hex(…)` where it has none.
pub fn type_name(registry_type: u32) -> String {
    const NAMES: [&str; 12] = [
        "REG_NONE",
        "REG_SZ",
        "REG_EXPAND_SZ",
        "REG_BINARY",
        "REG_DWORD",
        "REG_DWORD_BIG_ENDIAN",
        "REG_LINK",
        "REG_MULTI_SZ",
        "REG_RESOURCE_LIST",
        "REG_FULL_RESOURCE_DESCRIPTOR",
        "REG_RESOURCE_REQUIREMENTS_LIST",
        "REG_QWORD",
    ];
    let name = usize::try_from(registry_type).ok().and_then(|number| NAMES.get(number));
    name.map_or_else(|| format!("value of type {registry_type:#x}"), ToString::to_string)
}

/// The types that a value of this kind may have.
pub fn types(kind: Kind) -> String {
    let names: Vec<_> = kind.registry_types().iter().map(|kind| type_name(*kind)).collect();
    names.join(", ")
}

/// What it may be.
pub fn range(kind: Kind) -> String {
    match kind {
        Kind::Number { minimum, maximum, power_of_two, unit } => {
            let power = if power_of_two { ", a power of two" } else { "" };
            format!("{minimum} to {maximum} {unit}{power}")
        }
        Kind::Choice(values) => {
            let values: Vec<_> = values.iter().map(|(number, name)| format!("{number} {name}")).collect();
            values.join(", ")
        }
        Kind::Endpoints => {
            format!("`ADDRESS:PORT` or `[ADDRESS]:PORT` each, at most {MAX_ENDPOINTS}, or empty")
        }
        Kind::Dials => {
            format!("`PEER@ADDRESS:PORT` or `PEER@[ADDRESS]:PORT` each, at most {MAX_ENDPOINTS}")
        }
        Kind::Peers => format!("`NAME=ROLE:KEY` each, at most {MAX_PEERS}"),
        Kind::Directory => "an absolute path, `.`, or empty".into(),
        Kind::Extensions => {
            "`{NPIID}=required`, `{NPIID}=optional` or `{NPIID}=off` each, and options".into()
        }
        Kind::Binary { maximum } => format!("at most {maximum} bytes"),
    }
}

/// What an entry, or the whole of it, looks like: a line each.
pub fn grammar(kind: Kind) -> Vec<String> {
    let lines: &[&str] = match kind {
        Kind::Number { .. } | Kind::Choice(_) | Kind::Binary { .. } => &[],
        Kind::Endpoints => &[
            "ADDRESS:PORT    an IPv4 address and a port, 0 for any that is free: 192.0.2.7:47474",
            "[ADDRESS]:PORT  an IPv6 address, with a scope if need be: [2001:db8::7]:47474, [fe80::1%3]:47474",
        ],
        Kind::Dials => &[
            "PEER@ADDRESS:PORT    a name of ControlPeers, in any case, and where it is: fleet@192.0.2.7:47474",
            "PEER@[ADDRESS]:PORT  the same with an IPv6 address: fleet@[2001:db8::7]:47474",
            "The address is not 0.0.0.0 nor [::], and the port not 0.",
        ],
        Kind::Peers => &[
            "NAME=ROLE:KEY",
            "NAME  1 to 32 letters, digits, `.`, `-`, `_` and `@`; each stands once, whatever its case",
            "ROLE  observer or operator",
            "KEY   the public key, 64 hexadecimal digits (`weir keys show FILE`); each stands once",
        ],
        Kind::Directory => &[
            r"\??\C:\PATH  an absolute path of the object manager, which begins with `\`",
            ".            the directory that the system keeps for the driver",
            "             empty: nowhere",
        ],
        Kind::Extensions => &[
            "{NPIID}=required|optional|off, then options in any order, each at most once:",
            ";events=0xMASK        the events to switch on, a bit each",
            ";providers=KIND,…     who is asked, in this order: wsk, nmr, builtin",
            ";speaks={NPIID}       it has the tables of that one",
            "No blanks; case does not matter; each interface stands once.",
        ],
    };
    let mut lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
    match kind {
        Kind::Directory => lines.push(format!("At most {MAX_PATH} characters.")),
        Kind::Extensions => {
            lines.push(format!("At most {MAX_EXTENSIONS}. weir knows these:"));
            let known = interface::NAMES.iter().zip(SPOKEN);
            lines.extend(known.map(|(name, interface)| format!("{interface}  {name}")));
        }
        _ => {}
    }
    lines
}

/// When a changed value takes effect: in a word, and in words.
pub const fn changes(applies: Applies) -> (&'static str, &'static str) {
    match applies {
        Applies::Restart => ("restart", "at the driver's next start"),
        Applies::Live => ("at-once", "at once"),
        Applies::Lowered => ("at-once", "at once; more than at the driver's start: at the next one"),
    }
}

/// The default as the registry would have it: type and bytes. `None`: the value is not there.
pub fn default_value(setting: &Setting) -> Option<(u32, Vec<u8>)> {
    let kind = *setting.kind.registry_types().first()?;
    let bytes = match kind {
        REG_DWORD => setting.default.parse::<u32>().ok()?.to_le_bytes().to_vec(),
        REG_SZ => reg::text_bytes(setting.default),
        REG_MULTI_SZ => reg::list_bytes(setting.default.split_terminator(' ')),
        _ => return None,
    };
    Some((kind, bytes))
}

/// The key that settings stand in, below HKEY_LOCAL_MACHINE.
pub const PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\weir\Parameters";

/// How to set a value on Windows; `None` for one that nobody types.
pub fn command(setting: &Setting) -> Option<String> {
    let data = match setting.kind {
        Kind::Binary { .. } => return None,
        Kind::Number { .. } | Kind::Choice(_) | Kind::Endpoints | Kind::Directory => {
            setting.default.to_owned()
        }
        Kind::Dials => "fleet@192.0.2.7:47474".to_owned(),
        Kind::Peers => format!("fleet=operator:{KEY}"),
        Kind::Extensions => format!("{}=optional", SPOKEN[0]),
    };
    let kind = type_name(*setting.kind.registry_types().first()?);
    Some(format!(r#"reg add HKLM\{PARAMETERS} /v {} /t {kind} /d "{data}" /f"#, setting.name))
}

/// Somebody's public key.
const KEY: &str = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";

/// The texts of a value, for people.
pub fn texts(texts: Texts<'_>) -> Vec<String> {
    texts.iter().map(text).collect()
}

/// A text of the registry, for people.
pub fn text(text: Text<'_>) -> String {
    String::from_utf16_lossy(&text.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>())
}

/// A value for people: lists have an entry each.
pub fn shown(setting: &Setting, value: &Value<'_>) -> Vec<String> {
    match (*value, setting.kind) {
        (Value::Number(number), Kind::Number { unit, .. }) => vec![format!("{number} {unit}")],
        (Value::Choice(number), Kind::Choice(values)) => {
            let name = values.iter().find(|(value, _)| *value == number).map_or("", |(_, name)| name);
            vec![format!("{number} {name}")]
        }
        (Value::Number(number), _) => vec![number.to_string()],
        (Value::Choice(number), _) => vec![number.to_string()],
        (Value::Endpoints(list) | Value::Dials(list) | Value::Peers(list) | Value::Extensions(list), _) => {
            texts(list)
        }
        (Value::Directory([]), _) => Vec::new(),
        (Value::Directory(path), _) => vec![text(path)],
        (Value::Binary(bytes), _) => vec![format!("{} bytes", bytes.len())],
    }
}
