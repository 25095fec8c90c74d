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
}

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
        output.status.success().then_some(Self { loader, server, built_in, version })
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
