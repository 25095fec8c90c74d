//! `cargo xtask bench`.

use std::process::{Command, ExitCode};

use clap::ValueEnum;

use crate::install;
use crate::step::{has, root};

/// A part of weir that is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Area {
    /// The dispatch ring beside other queues
    Ring,
    /// Replay of a capture, and its parts
    Run,
    /// Look-up in the policy
    Policy,
    /// One classification, with its event on and off
    Wfp,
    /// The control plane: handshakes, requests, events to subscribers, memory
    Control,
    /// Events from a classification to a subscriber's socket, and where the time goes
    Events,
    /// Extension interfaces: registering, callbacks to the ring and to the consumer
    Ext,
}

#[derive(clap::Args)]
pub struct BenchArgs {
    #[arg(value_enum)]
    area: Area,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
    /// Also regenerates the figures in the area's documentation (ring)
    #[arg(long)]
    write: bool,
    /// Installs DPDK by apt if it is missing, to have rte_ring among the peers (ring)
    #[arg(long)]
    dpdk: bool,
}

/// What DPDK's ring is compiled with.
fn dpdk() -> Result<(), install::Missing> {
    if has("pkg-config", "--version")
        && Command::new("pkg-config")
            .args(["--exists", "libdpdk"])
            .status()
            .is_ok_and(|status| status.success())
    {
        return Ok(());
    }
    install::packages(&["gcc", "pkg-config", "libdpdk-dev"], true)
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> ExitCode {
    if (args.write || args.dpdk) && !matches!(args.area, Area::Ring) {
        eprintln!("xtask: --write and --dpdk are for ring");
        return ExitCode::from(2);
    }
    if args.dpdk
        && let Err(missing) = dpdk()
    {
        eprintln!("xtask: {missing}");
        return ExitCode::FAILURE;
    }
    let (package, bench) = match args.area {
        Area::Ring => ("weir", "ring"),
        Area::Run => ("weir-cli", "replay"),
        Area::Policy => ("weir-cli", "policy"),
        Area::Wfp => ("weir-cli", "classify"),
        Area::Control => ("weir-cli", "control"),
        Area::Events => ("weir-cli", "events"),
        Area::Ext => ("weir-cli", "ext"),
    };
    let mut command = Command::new("cargo");
    command.args(["bench", "--locked", "--quiet", "-p", package, "--bench", bench, "--"]);
    if args.json {
        command.arg("--json");
    }
    if args.write {
        command.arg("--write");
    }
    match command.current_dir(root()).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
