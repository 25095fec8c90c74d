//! What the project's commands need besides Rust: installed where that can be done, else named with the exact command.

use std::fmt;
use std::process::Command;

use crate::step::has;

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
    println!("{what} is missing");
    if may {
        println!("   {command}");
        if Command::new(program).args(arguments).status().is_ok_and(|status| status.success()) {
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

/// Has rustup add to the toolchain in use.
///
/// # Errors
/// It could not, or `may` is false.
pub fn rustup(arguments: &[&str], what: &str, may: bool) -> Result<(), Missing> {
    bring(what, "rustup", arguments, may)
}
