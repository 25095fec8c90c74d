//! `weir`: the operator's command line.

use std::process::ExitCode;

use clap::Parser as _;
use weir_cli::cli::Cli;

fn main() -> ExitCode {
    weir_cli::cli::run(&Cli::parse())
}
