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

/// Whether an exception that nobody handles was in what a driver has called, as the stand-in tells it: not in a driver, and the
/// first caller is in that one.
pub fn failed_below(folder: &Path, driver: &str) -> bool {
    let text = fs::read_to_string(folder.join("fwpkclnt.log")).unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| !line.contains("CRASH: exception"));
    let caller = format!("CRASH:   called from {driver}+");
    let outside = lines.next().is_some_and(|line| !line.contains(".sys+"));
    outside && lines.next().is_some_and(|line| line.contains(&caller))
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

    #[test]
    fn a_failure_is_laid_to_who_has_called() {
        let folder = std::env::temp_dir().join(format!("weir-failed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = |at: &str, caller: &str| {
            let text = format!(
                "1 fwpkclnt 4 netio.sys is loaded\n2 fwpkclnt 4 CRASH: exception 0xc0000005 at {at}, parameters [0, 0]\n\
                 2 fwpkclnt 4 CRASH:   called from {caller}+0x10\n"
            );
            std::fs::write(folder.join("fwpkclnt.log"), text).unwrap();
            super::failed_below(&folder, "netio.sys")
        };
        assert!(log("0x7b01f03b", "netio.sys"));
        assert!(!log("0x7b01f03b", "weir.sys"));
        assert!(!log("weir.sys+0x1234", "netio.sys"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!super::failed_below(&folder, "netio.sys"));
    }
}
