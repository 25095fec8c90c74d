//! Rules about the package's files: where they are, where they go (pages "INF SourceDisksNames Section",
//! "INF SourceDisksFiles Section", "INF DestinationDirs Section", "INF CopyFiles Directive", "Using Dirids").

use super::super::parse::Entry;
use super::{Install, Kind, Linter, key};

/// The driver store.
pub const STORE: i64 = 13;
/// Numbers of directories for all.
const KNOWN: &[i64] =
    &[-1, 1, 10, 11, 12, 13, 17, 18, 20, 21, 23, 24, 25, 30, 50, 51, 52, 53, 54, 55, 65_535];
/// Those that Windows 11 24H2 has withdrawn.
const WITHDRAWN: &[i64] = &[-1, 1, 17, 18, 20, 21, 24, 25, 30, 50, 53, 54, 65_535];
/// Those that are in the Windows directory.
const SYSTEM: &[i64] = &[10, 11, 12, 13, 17, 18, 20, 21, 23, 50, 51, 52, 55];
/// Special folders of the shell; those of an installing program; those of printers.
const SHELL: std::ops::RangeInclusive<i64> = 16_384..=32_767;
const PRINTERS: std::ops::RangeInclusive<i64> = 66_000..=66_004;
const USER: i64 = 32_768;

/// COPYFLG_NO_OVERWRITE, COPYFLG_REPLACEONLY: what is there already decides; a package's own folder of the driver store is
/// empty before.
const NOT_FOR_THE_STORE: u32 = 0x10 | 0x400;

/// A file that is copied.
pub struct Copied {
    /// See [`Install::platform`].
    pub platform: String,
    /// As it is known, which is then without its folder.
    pub destination: Option<(i64, String)>,
    pub source: String,
    pub line: usize,
}

/// A directory's number; `None` is no number.
pub fn dirid(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Whether a directory's number is withdrawn.
pub fn is_withdrawn(dirid: i64) -> bool {
    WITHDRAWN.contains(&dirid)
}

/// Whether a file has that extension.
pub fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// A path below a directory.
fn below(folder: &str, name: &str) -> String {
    let folder = folder.trim_matches('\\');
    key(&if folder.is_empty() { name.to_owned() } else { format!("{folder}\\{name}") })
}

/// Whether a path stays below where it begins.
fn stays(path: &str) -> bool {
    !path.contains(':') && path.split(['\\', '/']).all(|part| part != "..")
}

impl<'i> Linter<'i> {
    /// The sections of that name, for this architecture or all of them.
    fn for_arch(&self, name: &str, arch: Option<&str>) -> Vec<&'i Entry> {
        let wanted = arch.map(|arch| format!("{name}.{arch}"));
        let of = |section: &str| {
            section.eq_ignore_ascii_case(name)
                || wanted.as_ref().map_or_else(
                    || key(section).starts_with(&key(&format!("{name}."))),
                    |wanted| section.eq_ignore_ascii_case(wanted),
                )
        };
        let sections = self.inf.sections.iter().filter(|section| of(&section.name));
        sections.flat_map(|section| &section.entries).collect()
    }

    /// What `[SourceDisksNames]` and `[SourceDisksFiles]` say.
    pub fn sources(&mut self) {
        let mut disks = Vec::new();
        for entry in self.for_arch("SourceDisksNames", None) {
            disks.push(self.key(entry));
            let path = self.text(entry.fields.get(3));
            if !stays(&path) {
                self.tell(entry.line, 1015, format!("{path:?} is not below the INF"));
            }
        }
        for entry in self.for_arch("SourceDisksFiles", None) {
            let name = self.text(entry.key.as_ref());
            if has_extension(&name, "cat") {
                self.tell(entry.line, 1213, format!("{name:?} is the catalogue, which no list has"));
            }
            if name.ends_with('_') {
                self.tell(entry.line, 1231, format!("{name:?} is a compressed file's name"));
            }
            let disk = self.text(entry.fields.first());
            if disk.is_empty() || !disk.bytes().all(|byte| byte.is_ascii_digit()) {
                self.tell(entry.line, 1008, format!("{disk:?} is no disk's number"));
            } else if !disks.contains(&disk) {
                self.tell(
                    entry.line,
                    1273,
                    format!("{name:?} is on disk {disk}, which [SourceDisksNames] has not"),
                );
            }
            let folder = self.text(entry.fields.get(1));
            if !stays(&folder) {
                self.tell(entry.line, 1015, format!("{folder:?} is not below the INF"));
            }
        }
    }

    /// What `[DestinationDirs]` says.
    pub fn destinations(&mut self) {
        for entry in self.inf.entries("DestinationDirs") {
            let text = self.text(entry.fields.first());
            self.extra(entry, 2);
            match dirid(&text) {
                Some(dirid)
                    if KNOWN.contains(&dirid) || SHELL.contains(&dirid) || PRINTERS.contains(&dirid) =>
                {
                    if is_withdrawn(dirid) {
                        self.tell(entry.line, 1340, format!("the directory's number {dirid} is withdrawn"));
                    }
                    if !SYSTEM.contains(&dirid) && !PRINTERS.contains(&dirid) {
                        self.tell(entry.line, 1306, format!("{dirid} is not in the Windows directory"));
                    }
                }
                Some(dirid) if dirid >= USER => {
                    self.tell(
                        entry.line,
                        1241,
                        format!("{dirid} is a number that an installing program defines"),
                    );
                }
                _ => self.tell(entry.line, 1243, format!("{text:?} is no directory's number")),
            }
        }
    }

    /// Where the files of a list go: number and folder.
    fn destination(&self, list: Option<&str>) -> Option<(i64, String)> {
        let entry = list.and_then(|list| self.entry("DestinationDirs", &key(list)));
        let entry = entry.or_else(|| self.entry("DestinationDirs", "defaultdestdir"))?;
        Some((dirid(&self.text(entry.fields.first()))?, self.text(entry.fields.get(1))))
    }

    pub fn copy_files(&mut self, install: &Install, entry: &'i Entry) {
        for name in self.named(entry, "CopyFiles") {
            if let Some(file) = name.strip_prefix('@') {
                self.has_destination(entry.line, None, file);
                self.copy(install, entry.line, None, (file, ""), 0);
                continue;
            }
            if !self.uses_section(entry.line, &name, "CopyFiles", Kind::Files) {
                continue;
            }
            self.has_destination(entry.line, Some(&name), &name);
            let in_store = self.destination(Some(&name)).is_some_and(|(dirid, _)| dirid == STORE);
            if let Some(security) = self.inf.section(&format!("{name}.Security")) {
                self.used.entry(key(&security.name)).or_default();
                if in_store {
                    let message = format!("[{}]: the driver store has its own", security.name);
                    self.tell(security.line, 1101, message);
                }
            }
            for file in self.inf.entries(&name) {
                self.extra(file, 5);
                let destination = self.text(file.fields.first());
                if destination.is_empty() {
                    self.tell(file.line, 1229, "an entry without a file");
                    continue;
                }
                let source = self.text(file.fields.get(1));
                let flags = self.number(file, 3).unwrap_or(0);
                self.copy(install, file.line, Some(&name), (&destination, &source), flags);
            }
        }
    }

    fn has_destination(&mut self, line: usize, list: Option<&str>, name: &str) {
        let known = list.is_some_and(|list| self.entry("DestinationDirs", &key(list)).is_some());
        if !known && self.entry("DestinationDirs", "defaultdestdir").is_none() {
            self.tell(line, 1275, format!("{name:?} has no destination"));
        }
    }

    /// One file is copied.
    fn copy(&mut self, install: &Install, line: usize, list: Option<&str>, names: (&str, &str), flags: u32) {
        let (name, source) = names;
        let source = if source.is_empty() { name } else { source };
        // A device's INF may name the architecture with the models.
        let arch = install.arch.as_deref().filter(|_| !install.device);
        let listed = self.for_arch("SourceDisksFiles", arch);
        let listed = listed.into_iter().find(|entry| self.key(entry) == key(source));
        if listed.is_none() {
            let arch = arch.unwrap_or("any architecture");
            self.tell(line, 1230, format!("{source:?} is not in [SourceDisksFiles] for {arch}"));
        }
        let destination = self.destination(list);
        if let Some((dirid, folder)) = &destination {
            if *dirid == STORE {
                let from = listed.map(|entry| self.text(entry.fields.get(1))).unwrap_or_default();
                if !source.eq_ignore_ascii_case(name) {
                    self.tell(line, 1100, format!("{source:?} would be {name:?} in the driver store"));
                } else if listed.is_some() && below(&from, name) != below(folder, name) {
                    self.tell(
                        line,
                        1100,
                        format!("{name:?} is in {from:?} of the package, and would be in {folder:?}"),
                    );
                }
                if flags & NOT_FOR_THE_STORE != 0 {
                    let flags = flags & NOT_FOR_THE_STORE;
                    self.tell(line, 1103, format!("the flag 0x{flags:X} means nothing in the driver store"));
                }
            } else {
                self.tell(line, 1322, format!("{name:?} goes to {dirid}, not to the driver store (13)"));
            }
        }
        let destination = destination.map(|(dirid, folder)| (dirid, below(&folder, name)));
        self.copied.push(Copied { platform: install.platform(), destination, source: key(source), line });
    }

    /// DelFiles and RenFiles.
    pub fn changed_files(&mut self, entry: &'i Entry, directive: &str) {
        self.tell(
            entry.line,
            1309,
            format!("{directive}: Windows removes by itself what a package has brought"),
        );
        for name in self.named(entry, directive) {
            let list = (!name.starts_with('@')).then_some(&*name);
            if list.is_some() && !self.uses_section(entry.line, &name, directive, Kind::Files) {
                continue;
            }
            if self.destination(list).is_some_and(|(dirid, _)| dirid == STORE) {
                self.tell(entry.line, 1102, format!("{directive} on files of the driver store"));
            }
        }
    }

    /// Files that would be written over each other.
    pub fn same_destinations(&mut self) {
        let mut found = Vec::new();
        for (index, file) in self.copied.iter().enumerate() {
            let mut earlier = self.copied.iter().take(index);
            let other = earlier.find(|other| {
                other.platform == file.platform
                    && other.destination == file.destination
                    && file.destination.is_some()
                    && other.source != file.source
            });
            if let Some(other) = other {
                let message =
                    format!("{:?} goes where {:?} of line {} goes", file.source, other.source, other.line);
                found.push((file.line, message));
            }
        }
        for (line, message) in found {
            self.tell(line, 1330, message);
        }
    }
}
