//! Registration files: what `weir config` writes and reads, beside Wine's own registry editor.
//!
//! Wine reads texts of files that are not UTF-16 in a code page whatever their version, so those of version 5 are given to
//! it in UTF-16.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use weir_cli::config::reg::{self, Data, Item};
use weir_cli::config::{self, Checked, Origin, Severity, check, form};

use super::super::prefix::failed;
use super::super::report::Report;
use super::super::session::{Session, windows_path};
use super::ensure;
use crate::step::root;
use weir::config::schema::TABLE;

/// Where files are imported to: each into a key of its own, as if that was the machine's.
const PLACE: &str = r"HKEY_LOCAL_MACHINE\SOFTWARE\weir-registration";
const MACHINE: &str = "HKEY_LOCAL_MACHINE";

pub fn run(session: &Session, report: &mut Report) -> Result<(), String> {
    defaults(session, report)?;
    corpus(session, report)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    reg::decode(bytes).map(|(text, _)| text).map_err(|unreadable| unreadable.message().to_owned())
}

/// All defaults: imported by `regedit`, told by `reg query`, exported by both, and read again.
fn defaults(session: &Session, report: &mut Report) -> Result<(), String> {
    let key = format!(r"{MACHINE}\{}", form::PARAMETERS);
    let path = session.logs.join("defaults.reg");
    fs::write(&path, reg::encode(&config::default_file())).map_err(failed(&path))?;
    session.program(&["regedit", "/S", &windows_path(&path)])?;
    let told = session.program(&["reg", "query", &key])?;
    let settings = TABLE.iter().filter_map(|setting| Some((setting, form::default_value(setting)?)));
    for (setting, (kind, bytes)) in settings.clone() {
        let line =
            told.lines().map(str::trim).find(|line| line.split_whitespace().next() == Some(setting.name));
        let number = bytes.as_slice().try_into().map(|number| format!("{:#x}", u32::from_le_bytes(number)));
        let shown = number.ok().filter(|_| form::type_name(kind) == "REG_DWORD");
        let shown = shown.unwrap_or_else(|| setting.default.to_owned());
        let words: Vec<_> = [setting.name, &form::type_name(kind), &shown].map(str::to_owned).into();
        let found: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        ensure(found == words.iter().filter(|word| !word.is_empty()).collect::<Vec<_>>(), || {
            format!("`reg query` tells {line:?} of {words:?}")
        })?;
    }
    let count = settings.clone().count();
    for program in ["reg", "regedit"] {
        let exported = session.export(program, &key)?;
        let checked = check(&exported);
        let bad = checked.findings.iter().find(|finding| finding.severity != Severity::Note);
        ensure(bad.is_none(), || format!("{program}'s export: {bad:?}"))?;
        for (setting, (kind, bytes)) in settings.clone() {
            let value = weir::config::schema::parse(setting.name, kind, &bytes)
                .map_err(|reason| format!("{}: {}", setting.name, reason.name()))?;
            let found = checked.effective.iter().find(|effective| effective.name == setting.name);
            ensure(
                found.is_some_and(|found| {
                    found.origin == Origin::Registry && found.value == form::shown(setting, &value)
                }),
                || format!("{program}'s export: {found:?}"),
            )?;
        }
    }
    session.program(&["reg", "delete", &key, "/f"])?;
    report.held(&format!(
        "`weir config default`: Wine's regedit imports it, `reg query` tells {count} values as they are meant, and what \
         `reg export` and `regedit /E` write is read to the same"
    ));
    report.fact("defaults", count);
    Ok(())
}

/// Files of the corpus that Wine cannot tell of: those that it does not read for how they are encoded or begin, the root
/// key that its editor takes and Registry Editor does not, texts that it does not export whole, and another control set.
const LEFT_OUT: [&str; 7] =
    ["file-", "key-abbreviated", "address-nul", "path-nul", "size-", "good-control-set", "key-several-sets"];

/// Every other file of the corpus: what Wine takes of it is what the command says that the driver would have.
fn corpus(session: &Session, report: &mut Report) -> Result<(), String> {
    let folder = root().join("tools/weir/tests/config");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
        let path = entry.map_err(failed(&folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_file = path.extension().is_some_and(|extension| extension == "reg");
        if is_file && !LEFT_OUT.iter().any(|out| name.starts_with(out)) {
            files.push(path);
        }
    }
    files.sort();
    // One program for all of them: starting one takes longer than what it does.
    let batch = session.logs.join("import.cmd");
    let mut lines = String::from("@echo off\r\n");
    for (number, path) in files.iter().enumerate() {
        let bytes = fs::read(path).map_err(failed(path))?;
        let text = text(&bytes)?.replace(MACHINE, &format!(r"{PLACE}\{number}"));
        let copy = session.logs.join(format!("corpus-{number}.reg"));
        let bytes = if text.starts_with("REGEDIT4") { text.into_bytes() } else { reg::encode(&text) };
        fs::write(&copy, bytes).map_err(failed(&copy))?;
        let _infallible = write!(lines, "reg import corpus-{number}.reg\r\n");
    }
    // A file that gives nothing leaves no key, and the export needs one.
    let _infallible = write!(lines, "reg add {PLACE} /f\r\n");
    fs::write(&batch, lines).map_err(failed(&batch))?;
    session.batch(&batch, &session.logs)?;
    let exported = session.export("reg", PLACE)?;
    session.program(&["reg", "delete", PLACE, "/f"])?;

    let taken = split(&text(&exported)?)?;
    for (number, path) in files.iter().enumerate() {
        let ours = check(&fs::read(path).map_err(failed(path))?);
        let theirs = taken.get(&number).cloned().unwrap_or_else(reg::header);
        let theirs = check(&reg::encode(&theirs));
        ensure(values(&ours) == values(&theirs), || {
            let different = ours
                .effective
                .iter()
                .zip(&theirs.effective)
                .find(|(ours, theirs)| ours.value != theirs.value);
            format!("{}: {different:?}", path.display())
        })?;
    }
    report.held(&format!(
        "{} registration files, most of them faulty, are read by Wine's editor to what `weir config check` says that the \
         driver would have",
        files.len()
    ));
    report.fact("registration_files", files.len());
    Ok(())
}

fn values(checked: &Checked) -> Vec<(&str, &[String], Origin)> {
    checked.effective.iter().map(|effective| (effective.name, &*effective.value, effective.origin)).collect()
}

/// The export as files again, by their numbers.
fn split(exported: &str) -> Result<BTreeMap<usize, String>, String> {
    let items = reg::read(exported).map_err(|(_, what)| what.message().to_owned())?;
    let mut files: BTreeMap<usize, String> = BTreeMap::new();
    let mut current = None;
    for item in items {
        match item {
            Item::Key { name, .. } => {
                let below = name.get(PLACE.len() + 1..).unwrap_or_default();
                let (number, key) = below.split_once('\\').unwrap_or((below, ""));
                current = number.parse().ok();
                if let Some(number) = current {
                    let file = files.entry(number).or_insert_with(reg::header);
                    let _infallible = write!(file, "\r\n[{MACHINE}\\{key}]\r\n");
                }
            }
            Item::Value(value) => {
                let file = current.and_then(|number| files.get_mut(&number));
                if let (Some(file), Data::Set(kind, bytes)) = (file, value.data) {
                    file.push_str(&reg::written(&value.name, kind, &bytes));
                }
            }
            other => return Err(format!("Wine's export: {other:?}")),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_split_into_the_files_that_it_was_made_of() {
        let exported = format!(
            "Windows Registry Editor Version 5.00\n\n[{PLACE}]\n\n[{PLACE}\\0]\n\n[{PLACE}\\0\\SYSTEM]\n\"a\"=\"b\"\n\
             [{PLACE}\\11\\SYSTEM\\x]\n\"c\"=dword:1\n"
        );
        let files = split(&exported).unwrap();
        assert_eq!(files.keys().copied().collect::<Vec<_>>(), [0, 11]);
        assert!(files[&0].ends_with("[HKEY_LOCAL_MACHINE\\SYSTEM]\r\n\"a\"=\"b\"\r\n"), "{}", files[&0]);
        assert!(
            files[&11].ends_with("[HKEY_LOCAL_MACHINE\\SYSTEM\\x]\r\n\"c\"=dword:00000001\r\n"),
            "{}",
            files[&11]
        );
        assert!(split(&exported.replace("=dword:1", "=dword:x")).is_err());
    }
}
