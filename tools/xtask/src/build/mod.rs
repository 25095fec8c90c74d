//! `cargo xtask build`: the driver's image, on Linux, without a WDK.
//!
//! 1. [`toolchain`]: which `core` the image is built with, and the linker.
//! 2. [`wdk`]: headers and import libraries in the folders of a WDK, and a wdk-build that runs on this host.
//! 3. [`image`]: cargo, for one architecture.
//! 4. [`sample`]: the sample of a vendor's driver, in C.
//! 5. [`reproduce`]: on request, the same again in another folder.
//!
//! Everything lies under `target/wdk` and `target/image`; what is up to date is left alone.

mod image;
pub mod linker;
mod reproduce;
mod sample;
mod toolchain;
mod wdk;

use std::fmt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::step::root;
pub use toolchain::core_is_installed;

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    X64,
    Arm64,
}

impl Arch {
    /// As folders of `target/dist` and `--arch` spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust spells it.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::X64 => "x86_64-pc-windows-msvc",
            Self::Arm64 => "aarch64-pc-windows-msvc",
        }
    }

    /// As the WDK's folders spell it.
    const fn folder(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "ARM64",
        }
    }
}

/// How much is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As it is shipped: optimised as a whole
    Release,
    /// Quickly built, with assertions and overflow checks
    Dev,
}

#[derive(clap::Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct BuildArgs {
    /// The architectures; both without any
    #[arg(long, value_enum)]
    pub arch: Vec<Arch>,
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    pub profile: Profile,
    /// Uses what is on this machine; installs and fetches nothing
    #[arg(long)]
    pub offline: bool,
    /// Compiles core from the toolchain's sources, even where it could be used as it is installed
    #[arg(long)]
    pub build_std: bool,
    /// Then builds a copy of the tree in another folder, and compares
    #[arg(long)]
    pub reproduce: bool,
    /// Builds nothing: lets clippy look at what only the image contains, and takes its warnings for errors
    #[arg(long, conflicts_with_all = ["reproduce", "build_std"])]
    pub lint: bool,
}

/// Why there is no image.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<crate::install::Missing> for Error {
    fn from(missing: crate::install::Missing) -> Self {
        Self(missing.to_string())
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |error| Error(format!("{}: {error}", path.display()))
}

/// Writes a file, unless it has this content already.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
    }
    std::fs::write(path, content).map_err(io(path))
}

/// Makes a symbolic link, or leaves one that is right.
fn link(place: &Path, target: &Path) -> Result<(), Error> {
    if std::fs::read_link(place).is_ok_and(|present| present == target) {
        return Ok(());
    }
    if place.symlink_metadata().is_ok() {
        std::fs::remove_file(place).map_err(io(place))?;
    }
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
    }
    symlink(target, place).map_err(io(place))
}

/// Where the images of an architecture are left.
pub fn dist(arch: Arch) -> PathBuf {
    root().join("target/dist").join(arch.name())
}

/// Builds the images that `args` names.
///
/// # Errors
/// What is missing, with the command that brings it; or which command failed.
pub fn build(args: &BuildArgs) -> Result<(), Error> {
    let both = [Arch::X64, Arch::Arm64];
    let archs = if args.arch.is_empty() { &both[..] } else { &args.arch[..] };
    let kit = wdk::prepare(args.offline)?;
    for &arch in archs {
        let toolchain = toolchain::choose(arch, args)?;
        println!("\n== weir.sys for {}: {toolchain}", arch.name());
        kit.libraries(arch, &toolchain)?;
        image::build(arch, args, &toolchain, &kit)?;
        if !args.lint {
            println!("\n== weirsample.sys for {}", arch.name());
            sample::build(arch, &toolchain, &kit, args.offline)?;
        }
    }
    if args.reproduce { reproduce::check(archs, args) } else { Ok(()) }
}

/// Runs the command.
pub fn run(args: &BuildArgs) -> ExitCode {
    match build(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
