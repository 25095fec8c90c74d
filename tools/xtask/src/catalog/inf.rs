//! What of an INF is in a catalogue: the files of the package, and the devices that it is for.
//!
//! Only as much of an INF is understood as this takes (pages "INF Version Section", "INF SourceDisksFiles Section", "INF
//! SourceDisksNames Section", "INF Manufacturer Section", "INF Models Section"); whether the INF is right is not asked.

use crate::Error;
use crate::parse::{self, Entry};

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

/// The package of an architecture, as an INF describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// The catalogue's name (`CatalogFile`).
    pub catalog: String,
    /// Files, with the INF's folder left out and backslashes between folders; the INF itself is not among them.
    pub files: Vec<String>,
    /// Hardware and compatible IDs, in lower case, each once.
    pub hardware_ids: Vec<String>,
}

impl Package {
    /// Reads the INF of a package.
    ///
    /// # Errors
    /// [`Error::Inf`] if the bytes are no INF, if it names no catalogue, or a file outside of its folder.
    pub fn of(inf: &[u8], architecture: Architecture) -> Result<Self, Error> {
        let (text, _) = parse::decode(inf).map_err(|why| Error::Inf { line: None, why: why.into() })?;
        let inf = parse::parse(&text)
            .map_err(|error| Error::Inf { line: Some(error.line), why: error.to_string() })?;
        let reader = Reader { inf, decoration: architecture.decoration() };
        Ok(Self { catalog: reader.catalog()?, files: reader.files()?, hardware_ids: reader.hardware_ids() })
    }
}

/// An INF, read for one architecture.
struct Reader {
    inf: parse::Inf,
    decoration: &'static str,
}

impl Reader {
    fn key(&self, entry: &Entry) -> String {
        entry.key.as_ref().map(|key| self.inf.text(key)).unwrap_or_default()
    }

    /// The n-th value of an entry, from 0; empty where there is none.
    fn value(&self, entry: &Entry, index: usize) -> String {
        entry.fields.get(index).map(|field| self.inf.text(field)).unwrap_or_default()
    }

    fn catalog(&self) -> Result<String, Error> {
        let decoration = self.decoration;
        let keys = [format!("CatalogFile.NT{decoration}"), "CatalogFile.NT".into(), "CatalogFile".into()];
        let named = |key: &String| {
            let mut entries = self.inf.entries("Version");
            let entry = entries.find(|entry| self.key(entry).eq_ignore_ascii_case(key))?;
            Some(self.value(entry, 0)).filter(|name| !name.is_empty())
        };
        keys.iter().find_map(named).ok_or_else(|| Error::Inf {
            line: None,
            why: format!("no CatalogFile in [Version], for {decoration} or for all"),
        })
    }

    fn files(&self) -> Result<Vec<String>, Error> {
        let own = format!(".{}", self.decoration);
        let mut files: Vec<String> = Vec::new();
        for entry in [own.as_str(), ""].iter().flat_map(|suffix| self.entries("SourceDisksFiles", suffix)) {
            let number = self.value(entry, 0);
            let mut disks =
                [own.as_str(), ""].into_iter().flat_map(|suffix| self.entries("SourceDisksNames", suffix));
            // Description, tag file, nothing, path.
            let disk = disks.find(|disk| self.key(disk) == number);
            let path = disk.map(|disk| self.value(disk, 3)).unwrap_or_default();
            let (folder, name) = (self.value(entry, 1), self.key(entry));
            let parts = [path.as_str(), &folder, &name];
            let steps = parts.iter().flat_map(|part| part.split(['\\', '/'])).filter(|step| !step.is_empty());
            if name.is_empty() || steps.clone().any(|step| step == ".." || step.contains(':')) {
                return Err(Error::Inf {
                    line: Some(entry.line),
                    why: format!("{:?} is not a file in the INF's folder", parts.join("\\")),
                });
            }
            let file = steps.filter(|step| *step != ".").collect::<Vec<_>>().join("\\");
            if !files.iter().any(|known| known.eq_ignore_ascii_case(&file)) {
                files.push(file);
            }
        }
        Ok(files)
    }

    fn entries(&self, section: &str, suffix: &str) -> Vec<&Entry> {
        self.inf.entries(&format!("{section}{suffix}")).collect()
    }

    fn hardware_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for entry in self.inf.entries("Manufacturer") {
            let models = self.value(entry, 0);
            let targets: Vec<_> = (1..entry.fields.len()).map(|index| self.value(entry, index)).collect();
            let is_own = |target: &&String| {
                let target = target.to_ascii_lowercase();
                let rest = target.strip_prefix("nt").and_then(|rest| rest.strip_prefix(self.decoration));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let mut sections: Vec<_> =
                targets.iter().filter(is_own).map(|target| format!("{models}.{target}")).collect();
            if targets.is_empty() {
                sections.push(models);
            }
            for model in sections.iter().flat_map(|section| self.inf.entries(section)) {
                for index in 1..model.fields.len() {
                    let id = self.value(model, index).to_lowercase();
                    if !id.is_empty() && !ids.contains(&id) {
                        ids.push(id);
                    }
                }
            }
        }
        ids
    }
}
