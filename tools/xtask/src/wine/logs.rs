//! What the logs of a session must not have in them.

use std::fs;
use std::path::Path;

/// Words of a crash: of Wine (an exception that nobody handles, a bug check, a function that it does not have, a fault
/// in a driver), and of the stand-ins (tests/wine/README.md).
const CRASHES: &[&str] = &[
    "Unhandled",
    "unhandled exception",
    "KeBugCheck",
    "unimplemented",
    "page fault",
    "CRASH:",
    "VIOLATION:",
    "LEAK:",
    "stack overflow",
    "virtual_setup_exception",
    "panicked at",
];

/// A function that the driver imports and nobody has: a crash, if it were called.
pub const GAP: &str = "GAP:";

/// Looks through every log of a folder, for crashes and for the `others`.
///
/// # Errors
/// The first lines that tell of a crash.
pub fn search(folder: &Path, others: &[&str]) -> Result<usize, String> {
    let mut searched = 0;
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "log" && extension != "jsonl") {
            continue;
        }
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let found: Vec<_> = text
            .lines()
            .filter(|line| CRASHES.iter().chain(others).any(|word| line.contains(word)))
            .take(5)
            .collect();
        if !found.is_empty() {
            return Err(format!("{} tells of a crash:\n      {}", path.display(), found.join("\n      ")));
        }
        searched += 1;
    }
    Ok(searched)
}

#[cfg(test)]
mod tests {
    #[test]
    fn crashes_are_found_whoever_tells_of_them() {
        let folder = std::env::temp_dir().join(format!("weir-logs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("wine.log"), "0024:warn:debugstr: all is well\n").unwrap();
        std::fs::write(folder.join("import.reg"), "Unhandled\n").unwrap();
        assert_eq!(super::search(&folder, &[]), Ok(1));
        assert!(super::search(&folder, &["all is well"]).is_err());
        std::fs::write(folder.join("netio.log"), "12 netio 4 VIOLATION: a socket is left\n").unwrap();
        assert!(super::search(&folder, &[]).unwrap_err().contains("a socket is left"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
