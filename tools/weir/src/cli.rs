//! The command line: its definitions, and what is made from them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{config, ctl, keys, output, policy, run, top, trace};

/// Steers and tries out weir, a network callout driver for Windows.
#[derive(clap::Parser, Debug)]
#[command(name = "weir", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(clap::Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Top(top::TopArgs),
    Ctl(ctl::CtlArgs),
    #[command(subcommand)]
    Keys(keys::Command),
    /// Checks policies and explains what they decide
    #[command(subcommand)]
    Policy(policy::Command),
    /// Reads traces that Event Tracing for Windows has written
    #[command(subcommand)]
    Trace(trace::Command),
    /// Says what can be set in the registry, and checks registration files
    #[command(subcommand)]
    Config(config::Command),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Prints what a shell needs to complete weir's commands and options
///
/// For example: weir completions bash > ~/.local/share/bash-completion/completions/weir
#[derive(clap::Args, Debug)]
struct CompletionsArgs {
    shell: Shell,
}

/// Prints weir's manual page, or writes a page for each command
#[derive(clap::Args, Debug)]
struct ManArgs {
    /// Where the pages go: weir.1, weir-run.1, …
    directory: Option<PathBuf>,
}

/// Runs the command.
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Top(args) => top::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Keys(command) => keys::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Trace(command) => trace::run(command),
        Command::Config(command) => config::run(command),
        Command::Completions(args) => output::done(completions(args.shell)),
        Command::Man(args) => output::done(man(args)),
    }
}

fn completions(shell: Shell) -> Result<(), String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
    output::print(|out| out.write_all(&script))
}

fn man(args: &ManArgs) -> Result<(), String> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(Cli::command()).render(&mut page);
        made.map_err(|error| format!("the manual page: {error}"))?;
        return output::print(|out| out.write_all(&page));
    };
    let fail = |error: io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }
}
