//! What the project's commands need besides Rust: installed where that can be done, else named with the exact command.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use crate::step::{has, root};

/// Something of the machine that is missing, with the command that brings it.
#[derive(Debug)]
pub struct Missing {
    what: String,
    command: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing; this brings it: {}", self.what, self.command)
    }
}

/// Runs a command that brings `what`, if commands may be run.
fn bring(what: &str, program: &str, arguments: &[&str], may: bool) -> Result<(), Missing> {
    let command = format!("{program} {}", arguments.join(" "));
    // Standard output is for what a command says of its own.
    eprintln!("{what} is missing");
    if may {
        eprintln!("   {command}");
        let status = Command::new(program).args(arguments).stdout(std::io::stderr()).status();
        if status.is_ok_and(|status| status.success()) {
            return Ok(());
        }
    }
    Err(Missing { what: what.into(), command })
}

/// Installs Debian packages.
///
/// # Errors
/// They could not be installed, or `may` is false.
pub fn packages(names: &[&str], may: bool) -> Result<(), Missing> {
    let names = names.join(" ");
    let script = format!("apt-get update -q && apt-get install -qy --no-install-recommends {names}");
    if has("sudo", "--version") {
        bring(&names, "sudo", &["sh", "-c", &script], may)
    } else {
        bring(&names, "sh", &["-c", &script], may)
    }
}

/// What a client of another ecosystem needs: a Noise library, which needs a cryptographic one, and a CBOR library; a reader of
/// signatures; and one of traces, which does not say which release of `construct` it needs.
const PYTHON_PACKAGES: [&str; 5] =
    ["noiseprotocol==0.3.1", "cbor2==6.3.0", "signify==0.9.3", "etl-parser==1.0.1", "construct==2.10.70"];
/// (signify itself is not imported: see package/verify.py.)
const PYTHON_CHECK: &str = "import cbor2, etl.etl, noise.connection, signify";

/// The interpreter of the tests' own environment, which [`python`] makes.
pub fn python_path() -> PathBuf {
    root().join("target/python/bin/python3")
}

/// Makes an environment of Python with the packages that tests use, in `target`.
///
/// # Errors
/// It could not be made.
pub fn python() -> Result<(), Missing> {
    let path = python_path();
    let path = path.to_string_lossy();
    if Command::new(&*path).args(["-c", PYTHON_CHECK]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    if !has("python3", "--version")
        || !Command::new("python3")
            .args(["-c", "import ensurepip"])
            .output()
            .is_ok_and(|output| output.status.success())
    {
        packages(&["python3-venv"], true)?;
    }
    let folder = root().join("target/python");
    bring(
        "the tests' environment of Python",
        "python3",
        &["-m", "venv", "--clear", &folder.to_string_lossy()],
        true,
    )?;
    let arguments =
        ["-m", "pip", "install", "--quiet"].into_iter().chain(PYTHON_PACKAGES).collect::<Vec<_>>();
    bring(&PYTHON_PACKAGES.join(" "), &path, &arguments, true)
}

/// Has rustup add to the toolchain in use.
///
/// # Errors
/// It could not, or `may` is false.
pub fn rustup(arguments: &[&str], what: &str, may: bool) -> Result<(), Missing> {
    bring(what, "rustup", arguments, may)
}
