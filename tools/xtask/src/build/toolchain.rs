//! Which `core` an image is built with: the one that is installed for its target, else one compiled from the
//! toolchain's own sources.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Arch, BuildArgs, Error};
use crate::install;

/// What compiles and links.
pub struct Toolchain {
    /// As `rustc --version` prints it.
    version: String,
    pub sysroot: PathBuf,
    /// The linker of the toolchain.
    pub linker: PathBuf,
    /// `core` is compiled with the image.
    pub build_std: bool,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = if self.build_std { "core compiled from its sources" } else { "core as installed" };
        write!(f, "{}, {core}", self.version)
    }
}

fn rustc(arguments: &[&str]) -> Result<String, Error> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&program).args(arguments).output();
    let output = output.map_err(|error| Error(format!("{}: {error}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(Error(format!("rustc {} failed", arguments.join(" "))))
    }
}

/// Whether the target's `core` is installed.
fn installed(sysroot: &Path, arch: Arch) -> bool {
    let folder = sysroot.join("lib/rustlib").join(arch.triple()).join("lib");
    let Ok(entries) = folder.read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Whether the target's `core` is installed in the toolchain in use.
///
/// # Errors
/// There is no rustc.
pub fn core_is_installed(arch: Arch) -> Result<bool, Error> {
    Ok(installed(Path::new(&rustc(&["--print", "sysroot"])?), arch))
}

/// Whether the library's sources are at hand.
fn sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// Finds the toolchain in use and what it lacks for this architecture.
pub fn choose(arch: Arch, args: &BuildArgs) -> Result<Toolchain, Error> {
    let version = rustc(&["--version"])?;
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    let linker = PathBuf::from(rustc(&["--print", "target-libdir"])?).join("../bin/rust-lld");
    let linker = linker.canonicalize().map_err(super::io(&linker))?;
    let may = !args.offline;
    let mut build_std = args.build_std;
    if !build_std && !installed(&sysroot, arch) {
        let what = format!("the toolchain's {}", arch.triple());
        let added = install::rustup(&["target", "add", arch.triple()], &what, may);
        // A toolchain that is not rustup's, or a server that is out of reach.
        build_std = match added {
            Ok(()) => false,
            Err(missing) if !sources(&sysroot) && !may => return Err(missing.into()),
            Err(_) => true,
        };
    }
    if build_std && !sources(&sysroot) {
        install::rustup(&["component", "add", "rust-src"], "the toolchain's rust-src", may)?;
    }
    Ok(Toolchain { version, sysroot, linker, build_std })
}
