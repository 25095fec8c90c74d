//! Rules about services (pages "INF AddService Directive", "InfVerif Error 2084").

use std::collections::BTreeMap;

use super::super::parse::Entry;
use super::files;
use super::registry::{Root, leading_dirid, number};
use super::{Install, Kind, Linter, key};

/// A service that is added.
pub struct Service {
    platform: String,
    name: String,
    section: String,
    line: usize,
    /// Its directives, but for those of the registry.
    settings: BTreeMap<String, Vec<String>>,
}

/// SPSVCINST_…, and the build of Windows that brought them, where primitive drivers are older.
const FLAGS: &[(u32, u32)] = &[
    (0x1, 0),
    (0x2, 0),
    (0x8, 0),
    (0x10, 0),
    (0x20, 0),
    (0x40, 0),
    (0x80, 0),
    (0x100, 0),
    (0x200, 0),
    (0x400, 0),
    (0x800, 0),
    (0x1000, 0),
    (0x2000, 19_041),
    (0x4000, 19_041),
    (0x8000, 19_041),
    (0x1_0000, 0),
    (0x2_0000, 22_621),
    (0x4_0000, 25_398),
];
const ASSOCIATED: u32 = 0x2;

/// Directives of a service's section, how many values each has, and the build that brought it.
const DIRECTIVES: &[(&str, usize, u32)] = &[
    ("addreg", usize::MAX, 0),
    ("addtrigger", usize::MAX, 19_041),
    ("bitreg", usize::MAX, 0),
    ("bootflags", 1, 25_398),
    ("delayedautostart", 1, 19_041),
    ("delreg", usize::MAX, 0),
    ("dependencies", usize::MAX, 0),
    ("description", 1, 0),
    ("displayname", 1, 0),
    ("errorcontrol", 1, 0),
    ("failureactions", 1, 22_621),
    ("loadordergroup", 1, 0),
    ("requiredprivileges", usize::MAX, 0),
    ("security", 1, 0),
    ("servicebinary", 1, 0),
    ("servicesidtype", 1, 19_041),
    ("servicetype", 1, 0),
    ("startname", 1, 0),
    ("starttype", 1, 0),
];
const REQUIRED: &[&str] = &["ServiceType", "StartType", "ErrorControl", "ServiceBinary"];
/// What drivers do not have.
const FOR_PROGRAMS: &[&str] = &["requiredprivileges", "servicesidtype", "delayedautostart", "addtrigger"];
const KERNEL_DRIVER: u64 = 1;
const FILE_SYSTEM_DRIVER: u64 = 2;
const OWN_PROCESS: u64 = 0x10;
const SHARED_PROCESS: u64 = 0x20;
/// SERVICE_INTERACTIVE_PROCESS, SERVICE_USER_SERVICE
const MODIFIERS: u64 = 0x100 | 0x40;
const SYSTEM_START: u64 = 1;
const LOGS: &[&str] = &["system", "application", "security"];

impl<'i> Linter<'i> {
    /// A section `.Services`.
    pub fn added_services(&mut self, install: &Install, section: &str) {
        let mut names = Vec::new();
        for entry in self.inf.entries(section) {
            let directive = self.text(entry.key.as_ref());
            match &*key(&directive) {
                "addservice" => {
                    let name = key(&self.text(entry.fields.first()));
                    if !name.is_empty() && names.contains(&name) {
                        self.tell(entry.line, 1086, format!("{name:?} is added already"));
                    }
                    names.push(name);
                    self.add_service(install, entry);
                }
                "delservice" => {
                    let message = "DelService: Windows removes by itself what a package has brought";
                    self.tell(entry.line, 1309, message);
                }
                "include" | "needs" => {}
                _ => self.tell(entry.line, 1290, format!("{directive:?} is no directive of [{section}]")),
            }
        }
    }

    fn add_service(&mut self, install: &Install, entry: &'i Entry) {
        let [name, flags, section, log, log_type] =
            [0, 1, 2, 3, 4].map(|index| self.text(entry.fields.get(index)));
        self.extra(entry, 6);
        let flags = self.flags(install, entry, &flags);
        if name.is_empty() {
            if !section.is_empty() {
                self.tell(entry.line, 1272, format!("[{section}] is for a service without a name"));
            } else if !install.device || flags & ASSOCIATED == 0 {
                self.tell(entry.line, 1253, "a service without a name");
            }
            return;
        }
        if !log_type.is_empty() && !LOGS.contains(&&*key(&log_type)) {
            self.tell(entry.line, 1250, format!("{log_type:?} is no event log"));
        }
        if !log.is_empty() && self.uses_section(entry.line, &log, "AddService", Kind::EventLog) {
            for entry in
                self.inf.entries(&log).filter(|entry| self.key(entry) == "addreg").collect::<Vec<_>>()
            {
                self.add_reg(install, entry, &Root::EventLog);
            }
        }
        if section.is_empty() {
            self.tell(entry.line, 1005, format!("AddService names no section for {name:?}"));
            return;
        }
        if !self.uses_section(entry.line, &section, "AddService", Kind::Service) {
            return;
        }
        self.binary(install, &section);
        let done =
            |service: &Service| service.section == key(&section) && service.platform == install.platform();
        if !self.services.iter().any(done) {
            self.service(install, &name, &section);
        }
        let settings = self.settings(&section);
        let service = Service {
            platform: install.platform(),
            name: key(&name),
            section: key(&section),
            line: entry.line,
            settings,
        };
        self.services.push(service);
    }

    fn flags(&mut self, install: &Install, entry: &Entry, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let Some(flags) = number(text).and_then(|flags| u32::try_from(flags).ok()) else {
            self.tell(entry.line, 1081, format!("AddService has flags that are no number: {text:?}"));
            return 0;
        };
        let known = FLAGS.iter().fold(0, |known, (flag, _)| known | flag);
        if flags & !known != 0 {
            self.tell(entry.line, 1083, format!("AddService has an unknown flag: 0x{:X}", flags & !known));
        }
        for (flag, build) in FLAGS.iter().filter(|(flag, _)| flags & flag != 0) {
            self.newer(install, entry.line, &format!("the flag 0x{flag:X}"), *build);
        }
        flags
    }

    /// Something that older Windows do not know.
    fn newer(&mut self, install: &Install, line: usize, what: &str, build: u32) {
        if build > install.build {
            let message =
                format!("{what} is of build {build}; [{}] is for {} as well", install.name, install.build);
            self.tell(line, 1199, message);
        }
    }

    /// A service's own section.
    fn service(&mut self, install: &Install, name: &str, section: &str) {
        let heading = self.inf.section(section).map_or(1, |section| section.line);
        let mut seen: Vec<String> = Vec::new();
        for entry in self.inf.entries(section) {
            let directive = self.text(entry.key.as_ref());
            let lower = key(&directive);
            let Some((_, most, build)) = DIRECTIVES.iter().find(|(known, ..)| *known == lower) else {
                self.tell(entry.line, 1290, format!("{directive:?} is no directive of a service"));
                continue;
            };
            self.newer(install, entry.line, &directive, *build);
            self.extra(entry, *most);
            if *most == 1 && seen.contains(&lower) {
                self.tell(entry.line, 1088, format!("{directive} stands there already"));
            }
            match &*lower {
                "addreg" => self.add_reg(install, entry, &Root::Service(key(name))),
                "delreg" | "bitreg" => self.changed_registry(entry, &directive),
                "addtrigger" | "failureactions" => {
                    for name in self.named(entry, &directive) {
                        self.pass_over(&name);
                    }
                }
                "displayname" | "description" => {}
                _ if self.text(entry.fields.first()).is_empty() => {
                    self.tell(entry.line, 1006, format!("{directive} has no value"));
                }
                _ => self.setting(entry, &lower),
            }
            seen.push(lower);
        }
        for required in REQUIRED {
            if !seen.contains(&key(required)) {
                self.tell(heading, 1289, format!("the service {name:?} has no {required}"));
            }
        }
        self.of_its_type(section);
    }

    /// A value of a service's directive.
    fn setting(&mut self, entry: &Entry, directive: &str) {
        let value = self.text(entry.fields.first());
        let number = number(&value);
        let good = match directive {
            "servicetype" => number.is_some_and(|number| {
                [KERNEL_DRIVER, FILE_SYSTEM_DRIVER, OWN_PROCESS, SHARED_PROCESS]
                    .contains(&(number & !MODIFIERS))
            }),
            "starttype" => number.is_some_and(|number| number <= 4),
            "errorcontrol" => number.is_some_and(|number| number <= 3),
            _ => true,
        };
        if !good {
            self.tell(entry.line, 1260, format!("{value:?} is no {directive}"));
        }
    }

    fn of_its_type(&mut self, section: &str) {
        let value = |linter: &Self, directive| {
            let entry = linter.entry(section, directive)?;
            Some((entry.line, number(&linter.text(entry.fields.first()))?))
        };
        let Some((_, service_type)) = value(self, "servicetype") else { return };
        if [KERNEL_DRIVER, FILE_SYSTEM_DRIVER].contains(&service_type) {
            for entry in self.inf.entries(section) {
                if FOR_PROGRAMS.contains(&&*self.key(entry)) {
                    self.tell(entry.line, 1252, format!("a driver has no {}", self.key(entry)));
                }
            }
        } else if let Some((line, start)) = value(self, "starttype")
            && start <= SYSTEM_START
        {
            self.tell(line, 1252, format!("a program cannot be started with {start}"));
        }
    }

    /// A service's binary, for each section that installs it.
    fn binary(&mut self, install: &Install, section: &str) {
        let Some(entry) = self.entry(section, "servicebinary") else { return };
        let text = self.text(entry.fields.first());
        if text.is_empty() {
            return;
        }
        if !text.matches('"').count().is_multiple_of(2) {
            self.tell(entry.line, 1254, format!("{text:?} has a quotation mark too many"));
            return;
        }
        let path = match text.strip_prefix('"') {
            Some(rest) => rest.split('"').next(),
            None => text.split(' ').next(),
        };
        let path = path.unwrap_or_default();
        let Some((dirid, name)) = leading_dirid(path) else {
            self.tell(entry.line, 2085, format!("{text:?} is not under a directory's number"));
            return;
        };
        if files::is_withdrawn(dirid) {
            self.tell(entry.line, 1341, format!("the directory's number {dirid} is withdrawn"));
        }
        let name = key(name.trim_start_matches('\\'));
        let is = |file: &&files::Copied| file.destination.as_ref() == Some(&(dirid, name.clone()));
        let includes = self.entry(&install.name, "include").is_some();
        let own = |file: &&files::Copied| file.platform == install.platform();
        if !includes && !self.copied.iter().filter(own).any(|file| is(&file)) {
            let message = format!("{text:?} is not among what [{}] copies", install.name);
            self.tell(entry.line, 2084, message);
        }
    }

    fn settings(&self, section: &str) -> BTreeMap<String, Vec<String>> {
        let entries = self.inf.entries(section).map(|entry| {
            let values = entry.fields.iter().map(|field| key(&self.text(Some(field))));
            (self.key(entry), values.collect())
        });
        entries.filter(|(directive, _)| !["addreg", "delreg", "bitreg"].contains(&&**directive)).collect()
    }

    /// Services that are configured in more than one way.
    pub fn same_services(&mut self) {
        let mut found = Vec::new();
        for (index, service) in self.services.iter().enumerate() {
            let mut earlier = self
                .services
                .iter()
                .take(index)
                .filter(|other| other.name == service.name && other.platform == service.platform);
            if let Some(other) = earlier.find(|other| other.settings != service.settings) {
                let message = format!("{:?} is not what it is in [{}]", service.name, other.section);
                found.push((service.line, message));
            }
        }
        for (line, message) in found {
            self.tell(line, 1333, message);
        }
    }
}
