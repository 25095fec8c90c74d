//! What of an INF is in a catalogue: the files of the package, and the devices that it is for.
//!
//! Only as much of an INF is read as this takes (pages "General Syntax Rules for INF Files", "INF SourceDisksFiles Section",
//! "INF Manufacturer Section", "INF Models Section"); whether the INF is right is not asked.

use std::collections::BTreeMap;

use crate::Error;

/// A processor architecture that packages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x64
    Amd64,
    /// ARM64
    Arm64,
}

impl Architecture {
    /// As sections of an INF are decorated: `amd64`.
    #[must_use]
    pub const fn decoration(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As catalogues call Windows 10 and later on it: `_v100_X64`.
    #[must_use]
    pub const fn system(self) -> &'static str {
        match self {
            Self::Amd64 => "_v100_X64",
            Self::Arm64 => "_v100_ARM64",
        }
    }
}

/// An INF, as far as it is read: its sections, each with its lines.
#[derive(Clone, Debug, Default)]
pub struct Inf {
    /// By name, in lower case; a section may stand in an INF several times.
    sections: BTreeMap<String, Vec<Line>>,
}

#[derive(Clone, Debug)]
struct Line {
    number: usize,
    /// What is before the equals sign; empty without one.
    key: String,
    values: Vec<String>,
}

/// The package of an architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// The catalogue's name (`CatalogFile`).
    pub catalog: String,
    /// Files, with the INF's folder left out and backslashes between folders; the INF itself is not among them.
    pub files: Vec<String>,
    /// Hardware and compatible IDs, in lower case, each once.
    pub hardware_ids: Vec<String>,
}

/// The text of an INF: UTF-16LE or UTF-8 with their marks, or bytes below 128 and code page 1252's others, which are let pass.
fn decode(data: &[u8]) -> Result<String, Error> {
    let wrong = |why: &str| Error::Inf { line: None, why: why.into() };
    if let Some(units) = data.strip_prefix(&[0xFF, 0xFE]) {
        let (units, rest) = units.as_chunks::<2>();
        let units: Vec<_> = units.iter().copied().map(u16::from_le_bytes).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        return text.ok_or_else(|| wrong("marked as UTF-16, and is not"));
    }
    if let Some(text) = data.strip_prefix(&[0xEF, 0xBB, 0xBF]) {
        return String::from_utf8(text.to_vec()).map_err(|_| wrong("marked as UTF-8, and is not"));
    }
    Ok(data.iter().copied().map(char::from).collect())
}

/// Splits at commas and cuts a comment off, neither within quotation marks; a doubled quotation mark stands for one.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.next_if_eq(&'"').is_some() => push(&mut fields, '"'),
            ('"', _) => quoted = !quoted,
            (';', false) => break,
            (',', false) => {
                trim(&mut fields);
                fields.push(String::new());
            }
            (' ' | '\t', false) if fields.last().is_some_and(String::is_empty) => {}
            _ => push(&mut fields, character),
        }
    }
    trim(&mut fields);
    fields
}

fn push(fields: &mut [String], character: char) {
    if let Some(last) = fields.last_mut() {
        last.push(character);
    }
}

fn trim(fields: &mut [String]) {
    if let Some(last) = fields.last_mut() {
        last.truncate(last.trim_end().len());
    }
}

impl Inf {
    /// Reads an INF.
    ///
    /// # Errors
    /// [`Error::Inf`] for an encoding that is not what it is marked as, and for an entry before the first section.
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let text = decode(data)?;
        let mut inf = Self::default();
        let mut section: Option<String> = None;
        // A line that ends in a backslash goes on in the next one.
        let mut begun: Option<(usize, String)> = None;
        for (index, line) in text.lines().enumerate() {
            let (number, line) = match begun.take() {
                Some((number, start)) => (number, start + line.trim()),
                None => (index + 1, line.trim().to_owned()),
            };
            if let Some(start) = line.strip_suffix('\\').filter(|start| !start.contains(';')) {
                begun = Some((number, start.to_owned()));
                continue;
            }
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let name = name.split(']').next().unwrap_or_default().trim().to_lowercase();
                inf.sections.entry(name.clone()).or_default();
                section = Some(name);
                continue;
            }
            let Some(lines) = section.as_ref().and_then(|section| inf.sections.get_mut(section)) else {
                return Err(Error::Inf {
                    line: Some(number),
                    why: "an entry before the first section".into(),
                });
            };
            let (key, values) = line.split_once('=').unwrap_or(("", &line));
            lines.push(Line { number, key: fields(key).concat(), values: fields(values) });
        }
        Ok(inf)
    }

    fn section(&self, name: &str) -> &[Line] {
        self.sections.get(&name.to_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// `%name%` by the section `[Strings]`; anything else as it is.
    fn resolve(&self, text: &str) -> String {
        let name = text.strip_prefix('%').and_then(|rest| rest.strip_suffix('%'));
        let line = name
            .and_then(|name| self.section("Strings").iter().find(|line| line.key.eq_ignore_ascii_case(name)));
        line.and_then(|line| line.values.first()).map_or_else(|| text.to_owned(), Clone::clone)
    }

    /// The package that the INF describes for an architecture.
    ///
    /// # Errors
    /// [`Error::Inf`] if it names no catalogue, or a file outside of its folder.
    pub fn package(&self, architecture: Architecture) -> Result<Package, Error> {
        let decoration = architecture.decoration();
        let version = self.section("Version");
        let value = |key: &str| {
            let line = version.iter().find(|line| line.key.eq_ignore_ascii_case(key));
            line.and_then(|line| line.values.first()).filter(|value| !value.is_empty())
        };
        let keys = [format!("CatalogFile.NT{decoration}"), "CatalogFile.NT".into(), "CatalogFile".into()];
        let Some(catalog) = keys.iter().find_map(|key| value(key)) else {
            return Err(Error::Inf {
                line: None,
                why: format!("no CatalogFile in [Version], for {decoration} or for all"),
            });
        };
        Ok(Package {
            catalog: self.resolve(catalog),
            files: self.files(decoration)?,
            hardware_ids: self.hardware_ids(decoration),
        })
    }

    fn files(&self, decoration: &str) -> Result<Vec<String>, Error> {
        let disks = |suffix: &str| self.section(&format!("SourceDisksNames{suffix}"));
        let own = format!(".{decoration}");
        let mut files: Vec<String> = Vec::new();
        for suffix in [own.as_str(), ""] {
            for line in self.section(&format!("SourceDisksFiles{suffix}")) {
                let mut values = line.values.iter().map(|value| self.resolve(value));
                let (disk, folder) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
                let disk =
                    [own.as_str(), ""].iter().flat_map(|suffix| disks(suffix)).find(|line| line.key == disk);
                // Description, tag file, nothing, path.
                let path = disk
                    .and_then(|line| line.values.get(3))
                    .map(|path| self.resolve(path))
                    .unwrap_or_default();
                let name = self.resolve(&line.key);
                let parts = [path.as_str(), &folder, &name];
                let mut steps =
                    parts.iter().flat_map(|part| part.split(['\\', '/'])).filter(|step| !step.is_empty());
                if name.is_empty() || steps.clone().any(|step| step == ".." || step.contains(':')) {
                    return Err(Error::Inf {
                        line: Some(line.number),
                        why: format!("{:?} is not a file in the INF's folder", parts.join("\\")),
                    });
                }
                let file = steps.by_ref().filter(|step| *step != ".").collect::<Vec<_>>().join("\\");
                if !files.iter().any(|known| known.eq_ignore_ascii_case(&file)) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    fn hardware_ids(&self, decoration: &str) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for line in self.section("Manufacturer") {
            let (models, targets) = match line.values.split_first() {
                Some((models, targets)) if !models.is_empty() => (models, targets),
                // Without a value the key is the section's name.
                _ => (&line.key, &[][..]),
            };
            let mut sections = targets.iter().map(|target| target.to_lowercase()).filter(|target| {
                let rest = target.strip_prefix("nt").and_then(|rest| rest.strip_prefix(decoration));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            let decorated: Vec<_> = sections.by_ref().map(|target| format!("{models}.{target}")).collect();
            let sections = if targets.is_empty() { vec![models.clone()] } else { decorated };
            let lines = sections.iter().flat_map(|section| self.section(section));
            for id in lines.flat_map(|line| line.values.iter().skip(1)) {
                let id = self.resolve(id).to_lowercase();
                if !id.is_empty() && !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        ids
    }
}
