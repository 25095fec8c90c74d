//! `weir`: the operator's command line.

use std::process::ExitCode;

use clap::Parser;
use weir_cli::{policy, run};

/// Steers and tries out weir, a network callout driver for Windows.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Run(run::RunArgs),
    /// Checks policies and explains what they decide
    #[command(subcommand)]
    Policy(policy::Command),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Policy(command) => policy::run(&command),
    }
}
