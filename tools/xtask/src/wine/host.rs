//! Wine on this machine: found, or installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install;

/// Where Wine's parts are.
#[derive(Clone, Debug)]
pub struct Wine {
    pub loader: PathBuf,
    pub server: PathBuf,
    /// Wine's own drivers and DLLs, as files of Windows' format.
    pub built_in: PathBuf,
    /// As Wine tells it.
    pub version: String,
    /// Whether programs can be given a fixed layout of memory.
    fixed: bool,
}

/// Runs a program without randomised addresses.
const FIXED: [&str; 3] = ["setarch", "x86_64", "-R"];

const LOADERS: &[&str] = &["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"];
const SERVERS: &[&str] = &["/usr/lib/wine/wineserver64", "/usr/bin/wineserver64", "/usr/bin/wineserver"];
const BUILT_IN: &[&str] = &["/usr/lib/x86_64-linux-gnu/wine/x86_64-windows", "/usr/lib/wine/x86_64-windows"];

fn first(candidates: &[&str]) -> Option<PathBuf> {
    candidates.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned)
}

impl Wine {
    fn find() -> Option<Self> {
        let (loader, server, built_in) = (first(LOADERS)?, first(SERVERS)?, first(BUILT_IN)?);
        let output = Command::new(&loader).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // Containers may forbid it.
        let [setarch, arguments @ ..] = FIXED;
        let fixed = Command::new(setarch).args(arguments).arg("true").output();
        let fixed = fixed.is_ok_and(|output| output.status.success());
        output.status.success().then_some(Self { loader, server, built_in, version, fixed })
    }

    /// A command that runs `program`, one of Wine's. Its addresses are not randomised, nor are those of what it
    /// starts: without its preloader, which Debian does not pack, Wine fails in one process of some hundred because
    /// the address that a page of Windows must have is taken ("failed to map the shared user data").
    pub fn command(&self, program: &Path) -> Command {
        if !self.fixed {
            return Command::new(program);
        }
        let [setarch, arguments @ ..] = FIXED;
        let mut command = Command::new(setarch);
        command.args(arguments).arg(program);
        command
    }

    /// Wine, installed if it is missing.
    ///
    /// # Errors
    /// What to do by hand.
    pub fn find_or_install() -> Result<Self, String> {
        if let Some(wine) = Self::find() {
            return Ok(wine);
        }
        install::packages(&["wine64"], true).map_err(|missing| missing.to_string())?;
        Self::find().ok_or_else(|| format!("no Wine at {LOADERS:?}, {SERVERS:?}, {BUILT_IN:?}"))
    }
}
