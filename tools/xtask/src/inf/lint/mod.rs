//! Checks an INF by the [rules](super::rules).
//!
//! It is walked as Windows would: from `[Version]` to the sections for installing, from those to what they name. What is
//! reached is judged; what is not, nothing uses. A device's INF is walked, too, so that its files, services and registry
//! entries are judged; what devices alone have is passed over.

mod files;
mod registry;
mod sections;
mod service;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{self, Encoding, Entry, Field, Inf, Section};
use files::Copied;
use registry::Root;
use service::Service;

/// Something that a rule is broken by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// From 1.
    pub line: usize,
    pub code: u16,
    pub message: String,
}

/// The build of the oldest Windows that knows primitive drivers: 10, version 1903.
const PRIMITIVE: u32 = 18_362;

/// A section that Windows begins an installation with, and those beside it.
#[derive(Clone, Debug)]
struct Install {
    /// Without a suffix as `.Services`.
    name: String,
    line: usize,
    /// As in `NTamd64`, in lower case.
    arch: Option<String>,
    /// The build of the oldest Windows that it is for.
    build: u32,
    device: bool,
}

impl Install {
    /// What one machine may install: of a primitive driver one section, of a device's driver those of all its devices.
    fn platform(&self) -> String {
        if self.device { String::new() } else { key(&self.name) }
    }
}

/// What a directive wants of the sections that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Files,
    Registry,
    Service,
    EventLog,
}

/// A check under way.
struct Linter<'i> {
    inf: &'i Inf,
    findings: BTreeSet<Finding>,
    /// Sections that something uses, in lower case, and by which directives.
    used: BTreeMap<String, Vec<(Kind, String)>>,
    copied: Vec<Copied>,
    /// The sections of services, by the services' names, with the section for installing.
    services: Vec<Service>,
    /// Where each value of the registry was set, and how; by platform.
    values: BTreeMap<(String, Root, String, String), (String, String)>,
    /// Registry sections that have been looked at, for which platform, and below what.
    registry: BTreeSet<(String, String, Root)>,
}

/// Checks a file. Findings are in the order of their lines.
pub fn lint(bytes: &[u8]) -> Vec<Finding> {
    let finding = |line, code, message: String| Finding { line, code, message };
    let (text, encoding) = match parse::decode(bytes) {
        Ok(read) => read,
        Err(what) => return vec![finding(1, 1003, what.to_owned())],
    };
    let mut findings = BTreeSet::new();
    if let Encoding::Other(what) = encoding {
        findings.insert(finding(1, 1003, what.to_owned()));
    }
    match parse::parse(&text) {
        Ok(inf) => findings.append(&mut Linter::check(&inf)),
        Err(error) => {
            findings.insert(finding(error.line, 1002, error.to_string()));
            findings.insert(finding(error.line, 1299, "the rest was not checked".to_owned()));
        }
    }
    findings.into_iter().collect()
}

/// A name as it is looked for: case does not matter.
fn key(name: &str) -> String {
    name.to_lowercase()
}

/// What decorates a section's name: the architecture, the oldest build, and what is behind them.
fn decoration(rest: &str) -> Option<(Option<String>, Option<u32>, &str)> {
    let rest = rest.strip_prefix('.')?;
    if !rest.get(..2)?.eq_ignore_ascii_case("nt") {
        return None;
    }
    let (platform, mut rest) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    let arch = platform.get(2..).filter(|arch| !arch.is_empty()).map(key);
    // `.10.0...18362`: major, minor, product type, suite, build.
    let mut numbers = Vec::new();
    while let Some(after) = rest.strip_prefix('.') {
        let (part, next) = after.split_at(after.find('.').unwrap_or(after.len()));
        if !part.is_empty() && !part.starts_with(|first: char| first.is_ascii_digit()) {
            break;
        }
        numbers.push(part);
        rest = next;
    }
    let build = numbers.get(4).and_then(|build| build.parse().ok());
    Some((arch, build, rest))
}

impl<'i> Linter<'i> {
    fn check(inf: &'i Inf) -> BTreeSet<Finding> {
        let mut linter = Self {
            inf,
            findings: BTreeSet::new(),
            used: BTreeMap::new(),
            copied: Vec::new(),
            services: Vec::new(),
            values: BTreeMap::new(),
            registry: BTreeSet::new(),
        };
        if inf.section("Version").is_none() {
            linter.tell(1, 1001, "no [Version] section");
            return linter.findings;
        }
        linter.sections();
        linter.version();
        linter.sources();
        linter.destinations();
        let installs = linter.installs();
        for install in &installs {
            linter.install(install);
        }
        linter.uninstalls();
        linter.same_destinations();
        linter.same_services();
        linter.uses();
        linter.findings
    }

    fn tell(&mut self, line: usize, code: u16, message: impl Into<String>) {
        self.findings.insert(Finding { line, code, message: message.into() });
    }

    fn text(&self, field: Option<&Field>) -> String {
        field.map(|field| self.inf.text(field)).unwrap_or_default()
    }

    /// The key of an entry, in lower case.
    fn key(&self, entry: &Entry) -> String {
        key(&self.text(entry.key.as_ref()))
    }

    /// Tells of values that nobody reads: those after the first so many that are not empty.
    fn extra(&mut self, entry: &Entry, most: usize) {
        let extra = entry.fields.iter().skip(most).find(|field| !field.raw.is_empty());
        if let Some(extra) = extra {
            let extra = self.text(Some(extra));
            self.tell(entry.line, 1201, format!("{extra:?} is one value too many"));
        }
    }

    /// The entry of a section with that key.
    fn entry(&self, section: &str, wanted: &str) -> Option<&'i Entry> {
        self.inf.entries(section).find(|entry| self.key(entry) == wanted)
    }

    /// A section is used by a directive; false if it is not there, which is told.
    fn uses_section(&mut self, line: usize, name: &str, directive: &str, kind: Kind) -> bool {
        if self.inf.section(name).is_none() {
            // A service's own section has a number of its own.
            let code = if kind == Kind::Service { 2006 } else { 1203 };
            self.tell(line, code, format!("[{name}], which {directive} names, is not there"));
            return false;
        }
        let users = self.used.entry(key(name)).or_default();
        if users.iter().any(|(_, other)| other.eq_ignore_ascii_case(directive)) {
            return true;
        }
        let other = users.first().cloned();
        users.push((kind, directive.to_owned()));
        if let Some((other_kind, other)) = other {
            let code = if other_kind == kind { 1205 } else { 1206 };
            self.tell(line, code, format!("[{name}] is used by {other} and by {directive}"));
        }
        true
    }

    /// The sections that a directive names.
    fn named(&mut self, entry: &Entry, directive: &str) -> Vec<String> {
        let names: Vec<_> = entry.fields.iter().map(|field| self.text(Some(field))).collect();
        let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            self.tell(entry.line, 1005, format!("{directive} names no section"));
        }
        names
    }

    /// Everything that a section leads to is used, and not judged.
    fn pass_over(&mut self, name: &str) {
        let mut left = vec![name.to_owned()];
        while let Some(name) = left.pop() {
            if self.used.contains_key(&key(&name)) || self.inf.section(&name).is_none() {
                continue;
            }
            self.used.insert(key(&name), Vec::new());
            let fields = self.inf.entries(&name).flat_map(|entry| &entry.fields);
            left.extend(fields.map(|field| self.text(Some(field))));
        }
    }

    /// The sections of that name, decorated or not, with what is behind their decorations.
    fn decorated(&self, name: &str) -> Vec<(&'i Section, Option<String>, Option<u32>, &'i str)> {
        let decorated = |section: &'i Section| {
            let (first, rest) = section.name.split_at_checked(name.len())?;
            if !first.eq_ignore_ascii_case(name) || !(rest.is_empty() || rest.starts_with('.')) {
                return None;
            }
            let (arch, build, suffix) = decoration(rest).unwrap_or((None, None, rest));
            Some((section, arch, build, suffix))
        };
        self.inf.sections.iter().filter_map(decorated).collect()
    }

    /// Where Windows begins.
    fn installs(&mut self) -> Vec<Install> {
        let mut installs = Vec::new();
        let manufacturer = self.inf.section("Manufacturer");
        for (section, arch, build, suffix) in self.decorated("DefaultInstall") {
            if !suffix.is_empty() {
                continue;
            }
            if let Some(manufacturer) = manufacturer {
                self.tell(section.line, 1212, "there is [Manufacturer], too");
                self.tell(manufacturer.line, 1420, "a primitive driver has no [Manufacturer]");
            }
            if arch.is_none() {
                self.tell(section.line, 1421, format!("[{}] has no architecture", section.name));
            }
            let name = section.name.clone();
            let build = build.unwrap_or(PRIMITIVE).max(PRIMITIVE);
            installs.push(Install { name, line: section.line, arch, build, device: false });
        }
        let first = installs.first().map(|install| install.line);
        if manufacturer.is_none() && installs.iter().all(|install| install.arch.is_none()) {
            let line = first.or_else(|| self.inf.section("Version").map(|section| section.line));
            self.tell(line.unwrap_or(1), 1423, "there is no [DefaultInstall.NT…] with an architecture");
        }
        if let Some(line) = first {
            for directive in ["Class", "ClassGuid", "Provider"] {
                let entry = self.entry("Version", &key(directive));
                if entry.is_none_or(|entry| self.text(entry.fields.first()).is_empty()) {
                    self.tell(line, 1420, format!("a primitive driver has {directive} in [Version]"));
                }
            }
        }
        installs.extend(self.devices());
        installs
    }

    /// The sections for devices: by manufacturer and model.
    fn devices(&mut self) -> Vec<Install> {
        let mut installs: Vec<Install> = Vec::new();
        let mut models = BTreeSet::new();
        for entry in self.inf.entries("Manufacturer") {
            let name = self.text(entry.fields.first().or(entry.key.as_ref()));
            models.insert(name.clone());
            let decorations = entry.fields.iter().skip(1).map(|field| self.text(Some(field)));
            models.extend(decorations.map(|decoration| format!("{name}.{decoration}")));
        }
        for models in models {
            let names: Vec<_> =
                self.inf.entries(&models).map(|entry| self.text(entry.fields.first())).collect();
            if self.inf.section(&models).is_some() {
                self.used.entry(key(&models)).or_default();
            }
            for name in names.iter().filter(|name| !name.is_empty()) {
                for (section, arch, build, suffix) in self.decorated(name) {
                    if suffix.is_empty() && installs.iter().all(|install| install.name != section.name) {
                        let (name, build) = (section.name.clone(), build.unwrap_or(u32::MAX));
                        installs.push(Install { name, line: section.line, arch, build, device: true });
                    }
                }
            }
        }
        installs
    }

    fn install(&mut self, install: &Install) {
        self.used.entry(key(&install.name)).or_default();
        for entry in self.inf.entries(&install.name) {
            self.directive(install, entry);
        }
        let prefix = format!("{}.", install.name);
        let beside = self.inf.sections.iter().filter(|section| {
            section.name.get(..prefix.len()).is_some_and(|first| first.eq_ignore_ascii_case(&prefix))
        });
        for section in beside {
            let suffix = section.name.get(prefix.len()..).map(key).unwrap_or_default();
            match &*suffix {
                "services" => {
                    self.used.entry(key(&section.name)).or_default();
                    self.added_services(install, &section.name);
                }
                "coinstallers" | "logconfigoverride" | "factdef" => {
                    if !install.device {
                        self.tell(section.line, 1300, format!("[{}] is of times gone by", section.name));
                    }
                    self.pass_over(&section.name);
                }
                "events" | "components" | "software" | "filters" | "interfaces" | "com" | "hw" | "wmi"
                | "wdf" | "security" => self.pass_over(&section.name),
                _ if install.device => self.pass_over(&section.name),
                _ => {}
            }
        }
    }

    /// A directive of a section for installing.
    fn directive(&mut self, install: &Install, entry: &'i Entry) {
        let directive = self.text(entry.key.as_ref());
        match &*key(&directive) {
            "copyfiles" => self.copy_files(install, entry),
            "addreg" => {
                let root = if install.device { Root::Device } else { Root::Nothing };
                self.add_reg(install, entry, &root);
            }
            "copyinf" => {
                for field in &entry.fields {
                    let name = self.text(Some(field));
                    if !files::has_extension(&name, "inf") {
                        self.tell(entry.line, 1110, format!("{name:?} is no INF"));
                    }
                }
            }
            "needs" => self.needs(install, entry),
            "include" | "optiondesc" => {}
            "delfiles" | "renfiles" => self.changed_files(entry, &directive),
            "delreg" | "bitreg" => self.changed_registry(entry, &directive),
            "profileitems" | "updateinis" | "updateinifields" | "ini2reg" | "registerdlls"
            | "unregisterdlls" => {
                self.tell(entry.line, 1301, format!("{directive} is of times gone by"));
                for field in &entry.fields {
                    let name = self.text(Some(field));
                    self.pass_over(&name);
                }
            }
            _ if install.device => {
                for field in &entry.fields {
                    let name = self.text(Some(field));
                    self.pass_over(&name);
                }
            }
            _ => {
                self.tell(entry.line, 1290, format!("{directive:?} is no directive of [{}]", install.name));
            }
        }
    }

    /// Sections of this INF that are installed with another one.
    fn needs(&mut self, install: &Install, entry: &'i Entry) {
        let includes = self.entry(&install.name, "include").is_some();
        for field in &entry.fields {
            let name = self.text(Some(field));
            if self.inf.section(&name).is_some() {
                self.pass_over(&name);
            } else if !includes {
                self.tell(entry.line, 1315, format!("[{name}] is not there, and no INF is included"));
            }
        }
    }

    /// What is for older Windows alone; it must say so.
    fn uninstalls(&mut self) {
        let device = self.inf.section("Manufacturer").is_some();
        for (section, arch, _, suffix) in self.decorated("DefaultUninstall") {
            self.pass_over(&section.name);
            if !suffix.is_empty() || device {
                continue;
            }
            if arch.is_none() {
                self.tell(section.line, 1421, format!("[{}] has no architecture", section.name));
            }
            let is_legacy = |name: &str| {
                let entry = self.entry(name, "legacyuninstall");
                entry.is_some_and(|entry| self.text(entry.fields.first()) == "1")
            };
            if !is_legacy(&section.name) && !is_legacy(&format!("{}.Services", section.name)) {
                self.tell(section.line, 1422, format!("[{}] is without LegacyUninstall=1", section.name));
            }
        }
    }
}
