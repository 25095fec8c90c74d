//! `cargo xtask`: the developer's command line.

mod bench;
mod build;
mod docs;
mod inf;
mod install;
mod package;
mod pe;
mod step;
mod test;
mod wine;

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
    /// Builds the driver's image, weir.sys, into target/dist
    ///
    /// And beside it the sample of a vendor's driver, weirsample.sys (tools/sdk).
    ///
    /// Needs no Windows and no WDK: headers come from mingw-w64, import libraries from the exports that the
    /// project knows. What is missing is installed by apt and rustup, or named with the exact command.
    /// Exit code: 0 done; 1 something failed or is missing; 2 usage.
    Build(build::BuildArgs),
    /// Makes the driver's package, signed, and the cabinet to submit, in target/dist
    ///
    /// For each architecture: weir.sys, weir.inf, weir.cat, weir.pdb, what lies in inf/*.wprp, and weir.cab, all signed with
    /// the certificate that is given, or with a test certificate that it makes. It says which, and which Windows loads that.
    /// tools/xtask/PACKAGE.md has the details. Exit code: 0 done; 1 something failed, or did not verify; 2 usage.
    Package(Box<package::PackageArgs>),
    /// Makes, lists and checks security catalogues (.cat), of any driver's package
    Catalog(package::catalog::CatalogArgs),
    /// Runs the benchmarks of an area
    ///
    /// With --json, one object a line: {"bench":…, "ours":…, "unit":…, "peers":{NAME:VALUE,…}, "ratio_to_best":…}.
    Bench(bench::BenchArgs),
    /// Types what the documents tell people to type
    ///
    /// The README and the operator's documents; those of inf/ are followed by cargo xtask wine. Exit code: 0 all is as
    /// they say; 1 something differs; 2 usage.
    Docs(docs::DocsArgs),
    /// Checks a driver image (x64 or ARM64), and explains what fails
    LintPe(pe::LintPeArgs),
    /// Makes and checks the INF of a driver package
    Inf(inf::InfArgs),
    /// Loads weir.sys into Wine, as it was built, and runs it end to end
    ///
    /// Makes what it needs: Wine (by apt), a prefix under target/wine, the image, the stand-ins for the drivers that
    /// Wine lacks (tests/wine). Everything that it starts it ends.
    /// Exit code: 0 all held; 1 something failed; 2 usage.
    Wine(wine::WineArgs),
}

fn main() -> ExitCode {
    if build::linker::is_asked_for() {
        return build::linker::run();
    }
    match Cli::parse().command {
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Catalog(args) => package::catalog::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Docs(args) => docs::run(&args),
        Command::LintPe(args) => pe::run(&args),
        Command::Inf(args) => inf::run(&args),
        Command::Wine(args) => wine::run(&args),
    }
}
