//! `weir trace`: traces of Event Tracing for Windows, on any system.

mod decode;
mod filter;

use std::process::ExitCode;

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Decode(decode::DecodeArgs),
}

/// Runs the command.
pub fn run(command: &Command) -> ExitCode {
    match command {
        Command::Decode(args) => decode::run(args),
    }
}
