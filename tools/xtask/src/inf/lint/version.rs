//! Rules about `[Version]` (page "INF Version Section").

use super::super::stamp::Date;
use super::{Linter, key};

/// Classes and their numbers (pages "System-Defined Device Setup Classes …").
const CLASSES: &[(&str, &str)] = &[
    ("ActivityMonitor", "{b86dff51-a31e-4bac-b3cf-e8cfe75c9fc2}"),
    ("AntiVirus", "{b1d1a169-c54f-4379-81db-bee7d88d7454}"),
    ("CFSMetadataServer", "{cdcf0939-b75b-4630-bf76-80f7ba655884}"),
    ("Compression", "{f3586baf-b5aa-49b5-8d6c-0569284c639f}"),
    ("ContentScreener", "{3e3f0674-c83c-4558-bb26-9820e1eba5c5}"),
    ("ContinuousBackup", "{71aa14f8-6fad-4622-ad77-92bb9d7e6947}"),
    ("CopyProtection", "{89786ff1-9c12-402f-9c9e-17753c7f4375}"),
    ("Encryption", "{a0a701c0-a511-42ff-aa6c-06dc0395576f}"),
    ("FileSystem", "{89786ff1-9c12-402f-9c9e-17753c7f4376}"),
    ("HIDClass", "{745a17a0-74d3-11d0-b6fe-00a0c90f57da}"),
    ("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}"),
    ("NetClient", "{4d36e973-e325-11ce-bfc1-08002be10318}"),
    ("NetService", "{4d36e974-e325-11ce-bfc1-08002be10318}"),
    ("NetTrans", "{4d36e975-e325-11ce-bfc1-08002be10318}"),
    ("OpenFileBackup", "{f8ecafa6-66d1-41a5-899b-66585d7216b7}"),
    ("PhysicalQuotaManagement", "{6a0a8e78-bba6-4fc4-a709-1e33cd09d67e}"),
    ("QuotaManagement", "{8503c911-a6c7-4919-8f79-5028f5866b0c}"),
    ("Replication", "{48d3ebc4-4cf8-48ff-b869-9c68ad42eb9f}"),
    (SAMPLE, "{78a1c341-4539-11d3-b88d-00c04fad5171}"),
    ("SecurityEnhancer", "{d02bc3da-0c8e-4945-9bd5-f1883c226c8c}"),
    ("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}"),
    ("SystemRecovery", "{2db15374-706e-4131-a0c7-d7c78eb0289a}"),
    ("Undelete", "{fe8f1572-c67a-48c0-bbac-0b5c6d66cafb}"),
    ("USB", "{36fc9e60-c465-11cf-8056-444553540000}"),
    ("WFPCALLOUTS", "{57465043-616c-6c6f-7574-5f636c617373}"),
];

/// The class of samples.
const SAMPLE: &str = "Sample";

/// The longest name of a class.
const MAX_CLASS: usize = 31;

/// Classes whose own settings packages bring with them.
const OPEN: &[&str] = &[SAMPLE, "WFPCALLOUTS"];

/// Directives with one value, and with two.
const SINGLE: &[&str] = &["signature", "class", "classguid", "provider", "pnplockdown", "catalogfile"];
const DRIVER_VER: &str = "driverver";

/// Whether a text is a GUID in braces.
fn is_guid(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else { return false };
    let parts: Vec<_> = inside.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether a text is a day as MM/DD/YYYY, or with hyphens.
fn is_day(text: &str) -> bool {
    let parts: Vec<_> = text.split(['/', '-']).collect();
    let [month, day, year] = *parts else { return false };
    format!("{year}-{month}-{day}").parse::<Date>().is_ok()
}

/// Whether a text is four numbers.
fn is_version(text: &str) -> bool {
    let numbers = text.split('.').map(|part| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|number| number <= 65_535)
    });
    let numbers: Vec<_> = numbers.collect();
    numbers.len() == 4 && numbers.iter().all(|number| *number)
}

impl Linter<'_> {
    pub fn version(&mut self) {
        let heading = self.inf.section("Version").map_or(1, |section| section.line);
        for entry in self.inf.entries("Version") {
            match &*self.key(entry) {
                DRIVER_VER => self.extra(entry, 2),
                directive if SINGLE.contains(&directive) => self.extra(entry, 1),
                _ => {}
            }
        }
        let value = |linter: &Self, directive: &str| {
            let entry = linter.entry("Version", &key(directive));
            entry
                .map(|entry| (entry.line, linter.text(entry.fields.first())))
                .filter(|(_, it)| !it.is_empty())
        };
        let (line, signature) = value(self, "Signature").unwrap_or((heading, String::new()));
        if !["$windows nt$", "$chicago$"].contains(&&*key(&signature)) {
            self.tell(line, 1001, format!("the signature is {signature:?}, not $Windows NT$"));
        }
        for directive in ["Class", "ClassGuid", "Provider", "DriverVer"] {
            if value(self, directive).is_none() {
                let line = self.entry("Version", &key(directive)).map_or(heading, |entry| entry.line);
                self.tell(line, 1234, format!("[Version] has no {directive}"));
            }
        }
        if let Some((line, provider)) = value(self, "Provider")
            && key(&provider).starts_with("microsoft")
        {
            self.tell(line, 1204, format!("{provider:?} is for Microsoft alone"));
        }
        self.class(value(self, "Class"), value(self, "ClassGuid"));
        self.driver_version();
        self.catalogues(heading);
        let (line, lockdown) = value(self, "PnpLockdown").unwrap_or((heading, String::new()));
        if lockdown.parse() != Ok(1) {
            self.tell(line, 1324, "there is no PnpLockdown=1, so installed files are not protected");
        }
    }

    fn class(&mut self, class: Option<(usize, String)>, guid: Option<(usize, String)>) {
        if let Some((line, class)) = &class
            && class.chars().count() > MAX_CLASS
        {
            self.tell(*line, 1286, format!("{class:?} has more than {MAX_CLASS} characters"));
        }
        if let Some((line, guid)) = &guid
            && !is_guid(guid)
        {
            self.tell(*line, 1010, format!("{guid:?} is no GUID in braces"));
            return;
        }
        let (Some((class_line, class)), Some((guid_line, guid))) = (class, guid) else { return };
        let by_guid = CLASSES.iter().find(|(_, known)| guid.eq_ignore_ascii_case(known));
        let by_name = CLASSES.iter().find(|(known, _)| class.eq_ignore_ascii_case(known));
        match (by_guid, by_name) {
            (Some((known, _)), _) if !class.eq_ignore_ascii_case(known) => {
                self.tell(class_line, 1280, format!("ClassGuid is that of {known}, not of {class}"));
            }
            (_, Some((_, known))) if !guid.eq_ignore_ascii_case(known) => {
                self.tell(guid_line, 1281, format!("{class} has the ClassGuid {known}"));
            }
            (Some((SAMPLE, _)), _) => self.tell(class_line, 1284, format!("{SAMPLE} is for samples alone")),
            _ => {}
        }
        for (section, _, _, _) in self.decorated("ClassInstall32") {
            self.pass_over(&section.name);
            if by_guid.is_some_and(|(name, _)| !OPEN.contains(name)) {
                self.tell(section.line, 1285, format!("[{}] for a class of Microsoft's", section.name));
            }
        }
    }

    fn driver_version(&mut self) {
        let Some(entry) = self.entry("Version", DRIVER_VER) else { return };
        let (date, version) = (self.text(entry.fields.first()), self.text(entry.fields.get(1)));
        if date.is_empty() {
            return;
        }
        if !is_day(&date) {
            self.tell(entry.line, 1218, format!("{date:?} is no day as MM/DD/YYYY"));
        }
        if !is_version(&version) {
            self.tell(entry.line, 1217, format!("{version:?} is no version as w.x.y.z"));
        }
    }

    fn catalogues(&mut self, heading: usize) {
        let mut any = false;
        for entry in self.inf.entries("Version") {
            let directive = self.key(entry);
            if directive != "catalogfile" && !directive.starts_with("catalogfile.") {
                continue;
            }
            any = true;
            let name = self.text(entry.fields.first());
            let stem = key(&name).strip_suffix(".cat").map(str::len).unwrap_or_default();
            if stem == 0 || name.contains(['\\', '/', ':']) {
                self.tell(entry.line, 1214, format!("{name:?} is no name of a catalogue"));
            }
        }
        if !any {
            self.tell(heading, 1233, "there is no CatalogFile, so the package cannot be signed");
        }
    }
}
