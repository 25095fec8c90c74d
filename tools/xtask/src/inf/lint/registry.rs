//! Rules about registry entries (pages "INF AddReg Directive", "INF DelReg Directive", "Driver Package Isolation").

use super::super::parse::Entry;
use super::files;
use super::{Install, Kind, Linter, key};

/// What HKR is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// The key of a service.
    Service(String),
    /// The key of a source of an event log.
    EventLog,
    /// A device's key.
    Device,
    /// HKR means nothing: the section is not of a service, nor of a device.
    Nothing,
    /// HKLM and the others.
    Machine,
}

/// FLG_ADDREG_…
const BINARY: u32 = 0x1;
const DELETE: u32 = 0x4;
const APPEND: u32 = 0x8;
const KEY_ONLY: u32 = 0x10;
const KEY_ONLY_COMMON: u32 = 0x2000;
/// What of the flags is the type, and which there are.
const TYPE: u32 = 0xFFFF_0000 | BINARY;
const SZ: u32 = 0;
const MULTI_SZ: u32 = 0x0001_0000;
const EXPAND_SZ: u32 = 0x0002_0000;
const DWORD: u32 = 0x0001_0001;
const QWORD: u32 = 0x000B_0001;
/// Types of one's own begin here, in the high word, but for this one.
const FIRST_OWN: u32 = 3;
const REG_MULTI_SZ: u32 = 7;
/// FLG_DELREG_MULTI_SZ_DELSTRING: a text is taken out of a list.
const DELETE_TEXT: u32 = 0x0001_8002;

/// Values of a class or a device that Windows reads, and their types.
const TYPED: &[(&str, &[u32])] = &[("LowerFilters", &[MULTI_SZ]), ("UpperFilters", &[MULTI_SZ])];
/// Those of a source of an event log.
const LOGGED: &[(&str, &[u32])] = &[
    ("CategoryCount", &[DWORD]),
    ("CategoryMessageFile", &[EXPAND_SZ, SZ]),
    ("EventMessageFile", &[EXPAND_SZ]),
    ("ParameterMessageFile", &[EXPAND_SZ, SZ]),
    ("TypesSupported", &[DWORD]),
];
/// What the service manager keeps in a service's key.
const MANAGED: &[&str] = &[
    "DelayedAutostart",
    "DependOnGroup",
    "DependOnService",
    "Description",
    "DisplayName",
    "ErrorControl",
    "Group",
    "ImagePath",
    "ObjectName",
    "Owners",
    "Start",
    "Tag",
    "Type",
];

/// Keys that are the system's alone.
const SYSTEMS: &[&str] = &[
    r"system\currentcontrolset\services",
    r"system\currentcontrolset\enum",
    r"system\currentcontrolset\control\class",
    r"system\currentcontrolset\hardware profiles",
];

/// A number in decimal, or in hexadecimal behind 0x; `None` is none, or too large.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// Whether a value is in a table, with another type.
fn has_other_type(table: &[(&str, &[u32])], value: &str, flags: u32) -> bool {
    let found = table.iter().find(|(name, _)| value.eq_ignore_ascii_case(name));
    found.is_some_and(|(_, types)| !types.contains(&(flags & TYPE)))
}

/// Whether a key is another one, or below it; both in lower case.
fn is_within(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
}

/// Whether a text begins with the Windows directory of some drive.
fn is_windows(text: &str) -> bool {
    let text = key(text);
    let rest =
        text.strip_prefix(|drive: char| drive.is_ascii_alphabetic()).and_then(|rest| rest.strip_prefix(':'));
    rest.is_some_and(|rest| is_within(rest, r"\windows") || is_within(rest, r"\winnt"))
}

/// A directory's number that a text begins with.
pub fn leading_dirid(text: &str) -> Option<(i64, &str)> {
    let (number, rest) = text.strip_prefix('%')?.split_once('%')?;
    Some((files::dirid(number)?, rest))
}

impl<'i> Linter<'i> {
    /// The flags in a field; what is no number is told.
    pub fn number(&mut self, entry: &Entry, index: usize) -> Option<u32> {
        let text = self.text(entry.fields.get(index));
        if text.is_empty() {
            return Some(0);
        }
        let number = number(&text).and_then(|number| u32::try_from(number).ok());
        if number.is_none() {
            self.tell(entry.line, 1268, format!("{text:?} is no number of 32 bits"));
        }
        number
    }

    /// An AddReg directive.
    pub fn add_reg(&mut self, install: &Install, entry: &'i Entry, root: &Root) {
        for name in self.named(entry, "AddReg") {
            if self.uses_section(entry.line, &name, "AddReg", Kind::Registry)
                && self.registry.insert((key(&name), install.platform(), root.clone()))
            {
                self.add_registry(install, &name, root);
            }
        }
    }

    fn add_registry(&mut self, install: &Install, name: &str, root: &Root) {
        let security = self.inf.section(&format!("{name}.Security"));
        if let Some(security) = security {
            self.used.entry(key(&security.name)).or_default();
        }
        for entry in self.inf.entries(name) {
            let [at, subkey, value] = [0, 1, 2].map(|index| self.text(entry.fields.get(index)));
            let id = (key(&at), key(&subkey), key(&value));
            let relative = at.eq_ignore_ascii_case("HKR");
            let Some(flags) = self.number(entry, 3) else { continue };
            if relative {
                self.relative(entry, root, (&subkey, &value), flags);
                if security.is_some() && subkey.is_empty() {
                    self.tell(
                        entry.line,
                        1226,
                        format!("[{name}.Security] is for {value:?} right under HKR"),
                    );
                }
            } else if ["hkcr", "hkcu", "hklm", "hku"].contains(&&*id.0) {
                self.absolute(entry, (&at, &subkey, &value), flags);
            } else {
                self.tell(entry.line, 1224, format!("{at:?} is no root of the registry"));
                continue;
            }
            self.value(entry, flags);
            let root = if relative { root.clone() } else { Root::Machine };
            self.set(install, name, entry, (root, &id));
        }
    }

    /// A value was set; elsewhere it must be set to the same.
    fn set(
        &mut self,
        install: &Install,
        section: &str,
        entry: &Entry,
        place: (Root, &(String, String, String)),
    ) {
        let (root, (at, subkey, value)) = place;
        if matches!(root, Root::Device | Root::EventLog | Root::Nothing) {
            return;
        }
        let data: Vec<_> = entry.fields.iter().skip(3).map(|field| self.text(Some(field))).collect();
        let data = data.join(",");
        let code = if root == Root::Machine { 1331 } else { 1332 };
        let place = (install.platform(), root, format!("{at}\\{subkey}"), value.clone());
        let (other, other_data) =
            self.values.entry(place).or_insert_with(|| (section.to_owned(), data.clone()));
        if *other_data != data && !other.eq_ignore_ascii_case(section) {
            let message = format!("{value:?} is set differently in [{other}]");
            self.tell(entry.line, code, message);
        }
    }

    /// An entry under HKR.
    fn relative(&mut self, entry: &Entry, root: &Root, place: (&str, &str), flags: u32) {
        let (subkey, value) = place;
        match root {
            Root::Nothing => {
                self.tell(entry.line, 1224, "HKR means nothing in a section of [DefaultInstall]");
            }
            Root::Service(_) => {
                let managed = MANAGED.iter().any(|name| value.eq_ignore_ascii_case(name));
                if subkey.is_empty() && managed {
                    self.tell(entry.line, 1430, format!("{value:?} is the service manager's"));
                } else if !is_within(&key(subkey), "parameters") {
                    self.tell(entry.line, 1323, format!("{subkey:?} is not in the service's key Parameters"));
                }
            }
            Root::EventLog if has_other_type(LOGGED, value, flags) => {
                self.tell(entry.line, 1431, format!("{value:?} has a type that the event log does not take"));
            }
            Root::EventLog | Root::Device | Root::Machine => {}
        }
    }

    /// An entry under another root.
    fn absolute(&mut self, entry: &Entry, place: (&str, &str, &str), flags: u32) {
        let (root, subkey, value) = place;
        self.tell(entry.line, 1304, format!("{root}\\{subkey} is outside HKR"));
        if flags & (KEY_ONLY | KEY_ONLY_COMMON) != 0 || (value.is_empty() && entry.fields.len() <= 4) {
            self.tell(entry.line, 1320, format!("{root}\\{subkey} is outside HKR"));
        } else {
            self.tell(entry.line, 1321, format!("{value:?} of {root}\\{subkey} is outside HKR"));
        }
        let path = key(subkey);
        if !root.eq_ignore_ascii_case("HKLM") {
            return;
        }
        if SYSTEMS.iter().any(|systems| is_within(&path, systems)) {
            self.tell(entry.line, 1223, format!("{root}\\{subkey} is the system's alone"));
        } else if is_within(&path, "system") && !is_within(&path, r"system\currentcontrolset") {
            self.tell(entry.line, 1222, format!("{root}\\{subkey} is not of the current control set"));
        }
    }

    /// Flags, and data of their type.
    fn value(&mut self, entry: &Entry, flags: u32) {
        let name = self.text(entry.fields.get(2));
        if has_other_type(TYPED, &name, flags) {
            self.tell(entry.line, 1225, format!("{name:?} has a type that Windows does not take"));
        }
        if flags & DELETE != 0 {
            self.tell(entry.line, 1308, "an entry that deletes");
            return;
        }
        if flags & (KEY_ONLY | KEY_ONLY_COMMON) != 0 {
            return;
        }
        let of = flags & TYPE;
        let own = (flags >> 16) >= FIRST_OWN && of != QWORD;
        if own && flags & BINARY == 0 {
            self.tell(entry.line, 1264, format!("0x{flags:08X} is a type of one's own without 0x1"));
            return;
        }
        if own && flags >> 16 == REG_MULTI_SZ {
            self.tell(entry.line, 1263, format!("0x{flags:08X} is REG_MULTI_SZ as a type of one's own"));
            return;
        }
        if flags & APPEND != 0 {
            if of == MULTI_SZ {
                self.tell(entry.line, 1305, "a text is appended to a list that others may have changed");
            } else {
                self.tell(entry.line, 1265, "only to a list of texts can be appended");
            }
        }
        let data: Vec<_> = entry.fields.iter().skip(4).map(|field| self.text(Some(field))).collect();
        match of {
            DWORD | QWORD => {
                let bits = if of == DWORD { u64::from(u32::MAX) } else { u64::MAX };
                let text = data.first().cloned().unwrap_or_default();
                // Four bytes are taken as well.
                if data.len() < 2 && !text.is_empty() && number(&text).is_none_or(|number| number > bits) {
                    self.tell(entry.line, 1268, format!("{text:?} is no number of that size"));
                }
                if data.len() < 2 {
                    return;
                }
                if data.len() == 4 && of == DWORD {
                    self.bytes(entry, &data);
                } else {
                    self.extra(entry, 5);
                }
            }
            SZ | EXPAND_SZ => self.extra(entry, 5),
            MULTI_SZ => {}
            _ => self.bytes(entry, &data),
        }
        if matches!(of, SZ | EXPAND_SZ | MULTI_SZ) {
            for text in &data {
                self.path(entry, text);
            }
        }
    }

    fn bytes(&mut self, entry: &Entry, data: &[String]) {
        let is_byte = |text: &&String| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if let Some(wrong) = data.iter().find(|text| !is_byte(text)) {
            self.tell(entry.line, 1267, format!("{wrong:?} is no byte in hexadecimal"));
        }
    }

    /// A text that may be a path.
    fn path(&mut self, entry: &Entry, text: &str) {
        if is_windows(text) {
            self.tell(entry.line, 1257, format!("{text:?}: say %%SystemRoot%% for the Windows directory"));
        }
        match leading_dirid(text) {
            Some((files::STORE, _)) | None => {}
            Some((dirid, _)) => {
                self.tell(entry.line, 1258, format!("{text:?}: say %%SystemRoot%% for {dirid}"));
                if files::is_withdrawn(dirid) {
                    self.tell(entry.line, 1341, format!("the directory's number {dirid} is withdrawn"));
                }
            }
        }
    }

    /// DelReg and BitReg.
    pub fn changed_registry(&mut self, entry: &'i Entry, directive: &str) {
        self.tell(
            entry.line,
            1308,
            format!("{directive}: Windows removes by itself what a package has brought"),
        );
        for name in self.named(entry, directive) {
            if !self.uses_section(entry.line, &name, directive, Kind::Registry) {
                continue;
            }
            for entry in self.inf.entries(&name) {
                let text = self.text(entry.fields.get(4));
                if self.number(entry, 3) == Some(DELETE_TEXT) && text.is_empty() {
                    self.tell(entry.line, 1266, "it is not said which text is taken out");
                }
            }
        }
    }
}
