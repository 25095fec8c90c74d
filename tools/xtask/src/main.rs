//! `cargo xtask`: the developer's command line.

mod bench;
mod step;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Tests and measures weir.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Installs what the tests need, says so, and runs them: all that CI runs, or some areas
    ///
    /// Exit code: 0 all passed; 1 something failed; 2 usage.
    Test(test::TestArgs),
    /// Runs the benchmarks of an area
    ///
    /// With --json, one object a line: {"bench":…, "ours":…, "unit":…, "peers":{NAME:VALUE,…}, "ratio_to_best":…}.
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
