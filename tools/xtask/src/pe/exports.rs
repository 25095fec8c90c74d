//! The lists of what Windows' kernel libraries export: `tests/abi/exports/LIBRARY.txt`.
//!
//! One name a line; `#` begins a comment. A name alone is in the oldest Windows that the driver is made for and in all
//! newer ones; `NAME ; since VERSION` is in that version and newer only, `; since unknown` in current ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Since when a library exports a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// In the oldest Windows that the driver is made for.
    Always,
    /// In this version and newer, or unknown.
    Version(String),
}

/// The lists of a folder, read as they are asked for.
#[derive(Debug)]
pub struct Exports {
    folder: PathBuf,
    lists: BTreeMap<String, Result<BTreeMap<String, Since>, String>>,
}

impl Exports {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), lists: BTreeMap::new() }
    }

    /// Since when `library` exports `name`; none if it does not.
    ///
    /// # Errors
    /// Says why there is no list for the library.
    pub fn since(&mut self, library: &str, name: &str) -> Result<Option<Since>, String> {
        let folder = &self.folder;
        let list = self.lists.entry(library.to_owned()).or_insert_with(|| {
            // The name comes from the image: it must not lead out of the folder.
            if library.contains(['/', '\\']) || library.starts_with('.') {
                return Err(format!("{library:?} is no library's name"));
            }
            let path = folder.join(format!("{library}.txt"));
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("no list of exports {}: {error}", path.display()))?;
            parse(&text).map_err(|error| format!("{}: {error}", path.display()))
        });
        list.as_ref().map(|names| names.get(name).cloned()).map_err(Clone::clone)
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Since>, String> {
    let mut names = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let fault = || format!("line {}: {line:?} is not `NAME` or `NAME ; since VERSION`", index + 1);
        let (name, since) = match line.split_once(';') {
            None => (line, Since::Always),
            Some((name, rest)) => {
                let version = rest.trim().strip_prefix("since ").ok_or_else(fault)?;
                (name.trim(), Since::Version(version.trim().to_owned()))
            }
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(fault());
        }
        names.insert(name.to_owned(), since);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_names_versions_and_comments() {
        let names = parse("# head\nA\n\nB ; since 10.0.19041 # newer\nC ; since unknown\n").unwrap();
        assert_eq!(names["A"], Since::Always);
        assert_eq!(names["B"], Since::Version("10.0.19041".into()));
        assert_eq!(names["C"], Since::Version("unknown".into()));
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        assert!(parse("A\nB C\n").unwrap_err().starts_with("line 2"));
        assert!(parse("A ; before 10\n").unwrap_err().starts_with("line 1"));
    }

    #[test]
    fn a_library_name_does_not_lead_out_of_the_folder() {
        let mut exports = Exports::new(Path::new("/nowhere"));
        assert!(exports.since("../etc", "A").unwrap_err().contains("no library"));
    }
}
