//! `cargo xtask wine`: the image, loaded into Wine as it was built, and run end to end. WINE.md says what each phase
//! proves, and what Wine cannot prove.

mod client;
mod drive;
mod events;
mod host;
mod logs;
mod peer;
mod phases;
mod prefix;
mod process;
mod registry;
mod report;
mod session;
mod trace;
mod wait;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::ValueEnum;

use crate::build::{Arch, core_is_installed, dist};
use crate::install;
use crate::step::root;
use host::Wine;
use peer::Cast;
use prefix::Prefix;
use report::Report;
use session::Files;

#[derive(clap::Args)]
pub struct WineArgs {
    /// The image to load, for x64; without it, one is built
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// How many times the driver is loaded and unloaded with connections, flows and callbacks alive
    #[arg(long, value_name = "N", default_value_t = 100)]
    cycles: u32,
    /// Runs these sessions alone
    #[arg(long, value_enum, value_name = "SESSION")]
    only: Vec<Part>,
    /// Prints one JSON object at the end: {"passed":…, "seconds":…, "phases":[{"name":…, "passed":…, "seconds":…,
    /// "checks":[…], …}], "logs":…}; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Leaves the logs in target/wine/logs after a clean run, too
    #[arg(long)]
    keep: bool,
}

/// A session of Wine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The stand-ins, checked by drivers that know what is documented
    Checks,
    /// The driver, with both stand-ins
    Driver,
    /// The driver, with Wine's own netio.sys
    WineNetio,
    /// The driver, loaded and unloaded again and again
    Cycles,
    /// The driver, installed by its INF
    Install,
    /// The administrator's documents, followed
    Documents,
}

/// What a run works with.
struct Run {
    wine: Wine,
    prefix: Prefix,
    files: Files,
    /// The compiled policy.
    policy: Vec<u8>,
    cast: Cast,
    logs: PathBuf,
}

const WINDOWS: &str = Arch::X64.triple();

/// Runs a command of the build, with its output on the terminal.
fn build(what: &str, command: &mut Command, report: &Report) -> Result<(), String> {
    report.say(&format!("   {what}"));
    // Standard output is the summary's.
    let status = command.current_dir(root()).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {} ended with {status}", command.get_program().display())),
        Err(error) => Err(format!("{what}: {}: {error}", command.get_program().display())),
    }
}

/// The image: the one that is named, or a new one.
fn image(args: &WineArgs, report: &Report) -> Result<PathBuf, String> {
    if let Some(image) = &args.image {
        return if image.is_file() {
            Ok(image.clone())
        } else {
            Err(format!("no image: {}", image.display()))
        };
    }
    // In a process of its own, so that what it prints does not get into the summary.
    let xtask = std::env::current_exe().map_err(|error| error.to_string())?;
    build("building the image", Command::new(xtask).args(["build", "--arch", "x64"]), report)?;
    Ok(dist(Arch::X64).join("weir.sys"))
}

/// The SDK's sample of a vendor's driver, which is built with the image: beside it, or where the last build has left it.
fn sample(image: &Path) -> Result<PathBuf, String> {
    let name = "weirsample.sys";
    let places = [image.with_file_name(name), dist(Arch::X64).join(name)];
    let found = places.into_iter().find(|place| place.is_file());
    found.ok_or_else(|| format!("no {name} beside {}, nor in {}", image.display(), dist(Arch::X64).display()))
}

/// Builds what is in tests/wine; the folder that it is in then.
fn stand_ins(folder: &Path, report: &Report) -> Result<PathBuf, String> {
    if !core_is_installed(Arch::X64).map_err(|error| error.to_string())? {
        install::rustup(&["target", "add", WINDOWS], WINDOWS, true).map_err(|missing| missing.to_string())?;
    }
    let target = folder.join("stand-ins");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--locked",
        "--release",
        "--target",
        WINDOWS,
        "--manifest-path",
        "tests/wine/Cargo.toml",
    ]);
    cargo.arg("--target-dir").arg(&target).env("CARGO_TARGET_X86_64_PC_WINDOWS_MSVC_LINKER", "rust-lld");
    build("building the stand-ins", &mut cargo, report)?;
    Ok(target.join(WINDOWS).join("release"))
}

/// A policy, as an image.
fn policy(text: &str) -> Result<Vec<u8>, String> {
    let compiled = weir_cli::policy::compile(text);
    compiled.map(|compiled| compiled.image).map_err(|findings| format!("a policy of the run: {findings:?}"))
}

impl Run {
    fn prepare(args: &WineArgs, report: &mut Report) -> Result<Self, String> {
        let folder = root().join("target/wine");
        let logs = folder.join("logs");
        let wine = Wine::find_or_install()?;
        let prefix = Prefix::prepare(&wine, &folder, report)?;
        report.held(&format!("{} has a prefix of its own", wine.version));
        if logs.exists() {
            std::fs::remove_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
        }
        let image = image(args, report)?;
        let built = stand_ins(&folder, report)?;
        let policy = policy(phases::POLICY)?;
        report.held(&format!("{} is loaded as it is", image.display()));
        let files = Files {
            sample: sample(&image)?,
            image,
            fwpkclnt: built.join("fwpkclnt.dll"),
            netio: built.join("netio.dll"),
            checks: ["kprobe", "probe"].map(|name| (name, built.join(name).with_extension("dll"))),
            keyguard: built.join("keyguard.exe"),
        };
        Ok(Self { wine, prefix, files, policy, cast: Cast::new()?, logs })
    }
}

/// Runs the command.
pub fn run(args: &WineArgs) -> ExitCode {
    if let Err(error) = wait::catch_signals() {
        eprintln!("xtask: {error}");
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(args.json);
    let prepared = report.phase("preparation", |report| Run::prepare(args, report));
    let logs = root().join("target/wine/logs");
    if let Some(run) = &prepared {
        for part in
            Part::value_variants().iter().filter(|part| args.only.is_empty() || args.only.contains(part))
        {
            match part {
                Part::Checks => phases::checks(run, &mut report),
                Part::Driver => phases::stand_ins(run, &mut report),
                Part::WineNetio => phases::wine_netio(run, &mut report),
                Part::Cycles => phases::cycles(run, args.cycles, &mut report),
                Part::Install => phases::install(run, &mut report),
                Part::Documents => phases::documents(run, &mut report),
            }
        }
    }
    let passed = report.finish(&logs.display().to_string());
    if passed && !args.keep {
        // Told apart from a failure to run: the logs of a clean run say nothing more.
        let _ = std::fs::remove_dir_all(&logs);
    } else if logs.exists() {
        report.say(&format!("logs: {}", logs.display()));
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
