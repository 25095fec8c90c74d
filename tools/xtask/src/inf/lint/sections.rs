//! Rules about sections as such: names, doubles, strings, what nothing uses (pages "General Syntax Rules for INF Files",
//! "INF Strings Section").

use std::collections::BTreeSet;

use super::super::stamp::ARCH;
use super::{Linter, key};

/// Sections that Windows looks for by itself; decorated ones as well.
const KNOWN: &[&str] = &[
    "classinstall32",
    "controlflags",
    "defaultinstall",
    "defaultuninstall",
    "destinationdirs",
    "interfaceinstall32",
    "manufacturer",
    "signatureattributes",
    "sourcedisksfiles",
    "sourcedisksnames",
    "strings",
    "version",
];

/// Of these, an entry is known by what stands before its sign of equality.
const KEYED: &[&str] = &["destinationdirs", "sourcedisksfiles", "sourcedisksnames", "strings"];

/// A section's name without what decorates it.
fn plain(name: &str) -> String {
    key(name.split('.').next().unwrap_or_default())
}

impl Linter<'_> {
    /// Before anything is looked at by its meaning.
    pub fn sections(&mut self) {
        let mut seen = BTreeSet::new();
        for section in &self.inf.sections {
            if !seen.insert(key(&section.name)) {
                self.tell(section.line, 1209, format!("[{}] stands there already", section.name));
            }
            if section.name.contains(ARCH) {
                self.tell(section.line, 1274, format!("[{}]: {ARCH} is not replaced", section.name));
            }
            let strings = plain(&section.name) == "strings";
            let mut keys = BTreeSet::new();
            for entry in &section.entries {
                let fields = entry.key.iter().chain(&entry.fields);
                for field in fields.clone().filter(|_| !strings) {
                    for token in self.inf.unknown(field) {
                        self.tell(entry.line, 1235, format!("%{token}% is not in [Strings]"));
                    }
                }
                if !strings && fields.clone().any(|field| field.raw.contains(ARCH)) {
                    self.tell(entry.line, 1274, format!("{ARCH} is not replaced"));
                }
                let name = self.key(entry);
                if KEYED.contains(&&*plain(&section.name)) && !keys.insert(name.clone()) {
                    self.tell(entry.line, 1294, format!("{name:?} stands there already"));
                }
            }
        }
        self.languages();
    }

    /// Every language has the same strings.
    fn languages(&mut self) {
        let names = |linter: &Self, section: &str| -> BTreeSet<String> {
            linter.inf.entries(section).map(|entry| linter.key(entry)).collect()
        };
        let languages: Vec<_> =
            self.inf.sections.iter().filter(|section| plain(&section.name) == "strings").collect();
        let Some((first, others)) = languages.split_first() else { return };
        let expected = names(self, &first.name);
        for section in others {
            let different = &names(self, &section.name) ^ &expected;
            if let Some(name) = different.first() {
                let message = format!("[{}] and [{}] differ: {name:?}", section.name, first.name);
                self.tell(section.line, 1295, message);
            }
        }
    }

    /// After everything was walked.
    pub fn uses(&mut self) {
        let unused = self.inf.sections.iter().filter(|section| {
            let name = key(&section.name);
            let system = KNOWN.contains(&&*plain(&name));
            let installs = name.starts_with("defaultinstall");
            !self.used.contains_key(&name) && (!system || installs)
        });
        for section in unused.collect::<Vec<_>>() {
            self.tell(section.line, 2083, format!("nothing uses [{}]", section.name));
        }
    }
}
