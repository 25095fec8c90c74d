//! `cargo xtask inf`: the INF of the driver's package.
//!
//! [`mod@stamp`] makes it of inf/weir.inx. [`mod@lint`] says what is wrong with one: over [`parse`], by the catalogue in
//! [`rules`]. INF.md is for people.

mod lint;
mod rules;
pub mod stamp;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use driver_catalog::parse;
use serde_json::json;

use crate::build::Arch;
use crate::step::root;
use lint::Finding;
use rules::{Gravity, Level, RULES};
use stamp::{Date, Version};

#[derive(clap::Args)]
pub struct InfArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Makes an INF of an INX: fills in the architecture and DriverVer
    ///
    /// Exit code: 0 done; 1 it could not be done; 2 usage.
    Stamp(StampArgs),
    /// Checks INFs of drivers, with the numbers of InfVerif, Windows' own checker
    ///
    /// Rules about devices are not checked. Each finding has the rule's number and a page of Microsoft's that says more;
    /// `cargo xtask inf rules` lists them all.
    /// Exit code: 0 no error; 1 an error, or a file cannot be read; 2 usage.
    Lint(LintArgs),
    /// Lists the rules: number, gravity by level, what must not be, the page that says what should be
    Rules,
}

#[derive(clap::Args)]
struct StampArgs {
    /// The INX; the driver's by default
    inx: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Arch::X64)]
    arch: Arch,
    /// The package's version; by default the driver's
    #[arg(long, value_name = "W.X.Y.Z", default_value = env!("CARGO_PKG_VERSION"))]
    driver_version: Version,
    /// The package's day in UTC; by default that of SOURCE_DATE_EPOCH, or today
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<Date>,
    /// Where the INF is written; without it, to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::Args)]
struct LintArgs {
    /// The INFs
    #[arg(required = true, value_name = "FILE")]
    infs: Vec<PathBuf>,
    /// By whose requirements; InfVerif's switch of that name
    #[arg(long, value_enum, default_value_t = Level::W)]
    level: Level,
    /// Print one JSON object: {"level":…, "errors":N, "warnings":N, "files":[{"file":…, "findings":[{"line":…, "code":…,
    /// "gravity":…, "message":…, "page":…}]}]}
    #[arg(long)]
    json: bool,
}

/// The driver's INX.
pub fn inx() -> PathBuf {
    root().join("inf/weir.inx")
}

/// The day that builds have: that of SOURCE_DATE_EPOCH (reproducible-builds.org), or today, in UTC.
///
/// # Errors
/// The variable, or the clock, says no time that a package can have.
pub fn today() -> Result<Date, String> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().ok(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs()),
    };
    seconds.and_then(Date::from_unix).ok_or_else(|| "SOURCE_DATE_EPOCH, or the clock, is wrong".to_owned())
}

fn stamp(args: &StampArgs) -> Result<(), String> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let path = args.inx.clone().unwrap_or_else(inx);
    let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    let date = args.date.map_or_else(today, Ok)?;
    let inf =
        stamp::stamp(&text, args.arch, args.driver_version, date).map_err(|error| failed(&path, &error))?;
    if let Some(output) = &args.output {
        return std::fs::write(output, inf).map_err(|error| failed(output, &error));
    }
    print!("{inf}");
    Ok(())
}

/// What InfVerif /w would refuse an INF for; nothing if it would take it.
pub fn errors(inf: &[u8]) -> Vec<String> {
    let findings = lint::lint(inf).into_iter();
    let errors = findings.filter(|finding| {
        rules::find(finding.code).is_some_and(|rule| rule.gravity(Level::W) == Gravity::Error)
    });
    errors.map(|Finding { line, code, message }| format!("line {line}: {code}: {message}")).collect()
}

/// A file's findings, with the gravity of each; without those that the level does not tell.
fn judged(path: &Path, level: Level) -> Vec<(Finding, Gravity, &'static str)> {
    let findings = std::fs::read(path).map_or_else(
        |error| vec![Finding { line: 0, code: 1000, message: error.to_string() }],
        |bytes| lint::lint(&bytes),
    );
    let judged = findings.into_iter().filter_map(|finding| {
        let rule = rules::find(finding.code)?;
        Some((finding, rule.gravity(level), rule.page))
    });
    judged.filter(|(_, gravity, _)| *gravity != Gravity::None).collect()
}

/// Checks the files; true if there is no error.
fn lint(args: &LintArgs) -> bool {
    let files: Vec<_> = args.infs.iter().map(|path| (path, judged(path, args.level))).collect();
    let count = |wanted| files.iter().flat_map(|(_, found)| found).filter(|(_, it, _)| *it == wanted).count();
    let (errors, warnings) = (count(Gravity::Error), count(Gravity::Warning));
    if args.json {
        let files = files.iter().map(|(path, found)| {
            let findings = found.iter().map(|(Finding { line, code, message }, gravity, page)| {
                json!({ "line": line, "code": code, "gravity": gravity.name(), "message": message, "page": page })
            });
            json!({ "file": path.display().to_string(), "findings": findings.collect::<Vec<_>>() })
        });
        let level = format!("{:?}", args.level).to_lowercase();
        let files = files.collect::<Vec<_>>();
        println!("{}", json!({ "level": level, "errors": errors, "warnings": warnings, "files": files }));
    } else {
        for (path, found) in &files {
            for (Finding { line, code, message }, gravity, page) in found {
                println!("{}:{line}: {gravity} {code}: {message} ({page})", path.display());
            }
        }
        println!("{} files, {errors} errors, {warnings} warnings", files.len());
    }
    errors == 0
}

/// The rules, as rows of a table.
fn table() -> String {
    let rows = RULES.iter().map(|rule| {
        let [declarative, universal, windows] =
            [Level::K, Level::U, Level::W].map(|level| rule.gravity(level).name());
        let (code, what, page) = (rule.code, rule.what, rule.page);
        format!("| {code} | {declarative} | {universal} | {windows} | {what} | {page} |\n")
    });
    ["| code | /k | /u | /w | what must not be | page |\n| --- | --- | --- | --- | --- | --- |\n".to_owned()]
        .into_iter()
        .chain(rows)
        .collect()
}

/// Does what a command asks; true if it could be done, and found no error.
fn carry_out(args: &InfArgs) -> bool {
    match &args.command {
        Command::Stamp(args) => match stamp(args) {
            Ok(()) => true,
            Err(message) => {
                eprintln!("xtask: {message}");
                false
            }
        },
        Command::Lint(args) => lint(args),
        Command::Rules => {
            print!("{}", table());
            true
        }
    }
}

/// Runs the command.
pub fn run(args: &InfArgs) -> ExitCode {
    if carry_out(args) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
