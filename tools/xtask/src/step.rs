//! One command of a run: what it is, how it went, how long it took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::install;

/// The variable that tells tests which Python to use.
const PYTHON: &str = "WEIR_TEST_PYTHON";

/// The top of the tree.
pub fn root() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    tools.parent().unwrap_or(tools).to_owned()
}

/// A command with what it proves.
pub struct Step {
    /// What it proves, for people.
    pub what: &'static str,
    /// Program and arguments, separated by blanks.
    pub command: &'static str,
    /// Environment variables on top of the caller's.
    pub env: &'static [(&'static str, &'static str)],
    /// It has to fail, and to say this: a mistake that has to be found.
    pub finds: Option<&'static str>,
}

impl Step {
    /// Runs the step in the tree's top folder; true if it succeeded.
    pub fn run(&self) -> bool {
        let settings: Vec<_> = self.env.iter().map(|(name, value)| format!("{name}={value:?} ")).collect();
        let settings = settings.concat();
        println!("\n== {}\n   {settings}{}", self.what, self.command);
        let start = Instant::now();
        let mut words = self.command.split_whitespace();
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(program);
        command.args(words).envs(self.env.iter().copied()).current_dir(root());
        if std::env::var_os(PYTHON).is_none() {
            command.env(PYTHON, install::python_path());
        }
        let passed = match self.finds {
            None => command.status().map(|status| status.success()),
            Some(mistake) => command.output().map(|output| {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                let found = !output.status.success() && said.contains(mistake);
                if !found {
                    println!("{said}");
                }
                found
            }),
        };
        let passed = passed.unwrap_or_else(|error| {
            println!("   cannot run {program}: {error}");
            false
        });
        println!(
            "== {} {} ({:.0} s)",
            if passed { "passed" } else { "FAILED" },
            self.what,
            start.elapsed().as_secs_f64()
        );
        passed
    }
}

/// Whether a program answers.
pub fn has(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}
