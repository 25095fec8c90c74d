//! `cargo xtask inf`: the INF of the driver's package.
//!
//! [`stamp`] makes it of inf/weir.inx.

pub mod stamp;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::build::Arch;
use crate::step::root;
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

/// Runs the command.
pub fn run(args: &InfArgs) -> ExitCode {
    let done = match &args.command {
        Command::Stamp(args) => stamp(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
