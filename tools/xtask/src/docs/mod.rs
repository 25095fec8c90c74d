//! `cargo xtask docs`: what the documents tell people to type is typed.
//!
//! What stands in a fenced block is run, or held against what knows it, by the words behind the fence:
//!
//! | block | what is done with it |
//! | --- | --- |
//! | `sh` | run by bash, which stops at the first command that fails; lines that begin with `export` hold for the rest of the document |
//! | `sh background` | run, and left running until the document ends; what follows waits until it says where it listens |
//! | `sh follows` | run beside what follows, and ended by itself when the document ends |
//! | `sh step` | each line is a step of `cargo xtask test`, or all of it |
//! | `console` | each line behind `$` is run, and prints the lines below it, in which `…` stands for anything |
//! | `console refused` | the same, and each command ends with exit code 1 |
//! | `cmd` | run by Windows' command interpreter in Wine, in the session of `cargo xtask wine` |
//! | `cmd not-run` | programs that Wine does not have: each is held against what Microsoft's pages say that it takes |
//! | any language and a file's name | written to that file, for the commands behind it |
//!
//! Commands of weir that a text mentions are held against the command line's own definitions.
//!
//! Documents at the top and in `tools` are run in the tree's top folder, which has to be as clean afterwards as before;
//! those in `inf` in a folder of their own, one after the other, as an administrator reads them.

pub mod markdown;
mod mentions;
pub mod script;
pub mod windows;

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::step::root;
use crate::test;
use markdown::{Block, Kind};
use script::Script;

#[derive(clap::Args)]
pub struct DocsArgs {
    /// Run these documents alone, as paths from the tree's top folder
    documents: Vec<String>,
}

/// The documents that are run on this machine.
const HERE: [&str; 7] = [
    "README.md",
    "tools/weir/RUN.md",
    "tools/weir/POLICY.md",
    "tools/weir/CONFIG.md",
    "tools/weir/TRACE.md",
    "tools/weir/CTL.md",
    "tools/xtask/INF.md",
];

/// The administrator's documents, in the order in which they are followed. They need Windows, or Wine in its place.
pub const IN_WINE: [&str; 5] =
    ["inf/README.md", "inf/CONFIGURE.md", "inf/MONITOR.md", "inf/TROUBLESHOOT.md", "inf/REMOVE.md"];

/// Runs the command.
pub fn run(args: &DocsArgs) -> ExitCode {
    match check(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: &DocsArgs) -> Result<(), String> {
    if let Some(unknown) = args.documents.iter().find(|it| !HERE.contains(&&***it)) {
        return Err(if IN_WINE.contains(&&**unknown) {
            format!("{unknown} needs Wine: cargo xtask wine --only documents")
        } else {
            format!("{unknown} is not among the documents that are run: {}", HERE.join(", "))
        });
    }
    mentions::check(&tracked("*.md")?)?;
    let weir = script::build_weir()?;
    let before = status()?;
    for name in HERE {
        if !args.documents.is_empty() && !args.documents.iter().any(|it| it == name) {
            continue;
        }
        let mut script = Script::new(&weir, root())?;
        let mut done = 0;
        for block in markdown::read(name)? {
            println!("   {name}:{}: {}", block.line, block.kind);
            run_block(&mut script, &block).map_err(|error| format!("{name}:{}: {error}", block.line))?;
            done += 1;
        }
        script.finished()?;
        println!("== {name}: {done} blocks");
    }
    let after = status()?;
    if before == after {
        Ok(())
    } else {
        Err(format!("the documents' commands have left in the tree:\n{after}(before: {before:?})"))
    }
}

/// Does with a block what its kind says; those for Windows are not for this machine.
///
/// # Errors
/// What differs from what the document says.
pub fn run_block(script: &mut Script, block: &Block) -> Result<(), String> {
    match &block.kind {
        Kind::Sh => script.run(&block.text),
        Kind::Background => script.background(&block.text),
        Kind::Follows => script.follows(&block.text),
        Kind::Steps => block.text.lines().try_for_each(test::is_step),
        Kind::Console { refused } => script.console(&block.text, *refused),
        Kind::File(name) => script.write(name, &block.text),
        Kind::NotRun => windows::check(&block.text),
        Kind::Cmd => Err("commands for Windows stand in inf/ alone, which is followed in Wine".to_owned()),
    }
}

/// The files of the tree that match.
fn tracked(pattern: &str) -> Result<Vec<String>, String> {
    git(&["ls-files", pattern]).map(|files| files.lines().map(str::to_owned).collect())
}

fn status() -> Result<String, String> {
    git(&["status", "--porcelain"])
}

fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    if output.status.success() {
        String::from_utf8(output.stdout).map_err(|error| format!("git: {error}"))
    } else {
        Err(format!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
    }
}

/// The text of a file of the tree.
fn text(name: &str) -> Result<String, String> {
    let path = root().join(Path::new(name));
    std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))
}
