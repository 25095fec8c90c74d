//! `weir ctl`: looks at a driver and steers it, over the control protocol.

mod change;
mod connect;
mod events;
mod extension;
mod show;

use std::process::ExitCode;

pub use self::connect::{ConnectArgs, Way};
pub use self::show::{action, direction, end, interface};
use crate::output;
use crate::policy::TupleArgs;

/// Looks at a driver and steers it
///
/// The driver is one that listens (--host) or dials out (--listen); without these, the one of `weir run --stay` on this
/// machine. The commands, their output and the JSON are described in tools/weir/CTL.md.
///
/// Exit code: 0 done; 1 refused or failed; 2 usage.
#[derive(clap::Args, Debug)]
pub struct CtlArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON: one object, or one a line where it goes on
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(clap::Subcommand, Debug)]
enum Command {
    /// How the driver stands
    Status,
    /// What it has counted
    Counters,
    /// The policy that decides, and its rules
    Rules,
    /// The connections that it tracks
    Connections,
    /// The control connections
    Sessions,
    /// The extension interfaces of the control connections, and who provides them
    Extensions,
    Extension(extension::ExtensionArgs),
    /// What the policy says of a connection, and why
    ///
    /// What is not given is EMPTY: no rule that names it matches.
    Explain(ExplainArgs),
    Events(events::EventsArgs),
    Apply(change::ApplyArgs),
    Confirm(change::ConfirmArgs),
    Rollback(change::RollbackArgs),
}

/// A connection, and how much to say of it.
#[derive(clap::Args, Debug)]
struct ExplainArgs {
    #[command(flatten)]
    tuple: TupleArgs,
    /// List every rule before the one that decides, not just those that one field alone keeps from matching
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub fn run(args: &CtlArgs) -> ExitCode {
    output::done(try_run(args))
}

fn try_run(args: &CtlArgs) -> Result<(), output::Failure> {
    if let Command::Explain(explain) = &args.command {
        explain.tuple.family().map_err(output::Failure::Usage)?;
    }
    // What is wrong with a file is told before anybody is called.
    let image = match &args.command {
        Command::Apply(apply) => Some(apply.image()?),
        _ => None,
    };
    let way = args.connect.way()?;
    let (mut client, welcome) = way.open()?;
    let json = args.json;
    match &args.command {
        Command::Status => show::status(&mut client, json),
        Command::Counters => show::counters(&mut client, json),
        Command::Rules => show::rules(&mut client, json),
        Command::Connections => show::connections(&mut client, json),
        Command::Sessions => show::sessions(&mut client, welcome.session, json),
        Command::Extensions => show::extensions(&mut client, json),
        Command::Extension(extension) => extension::run(&mut client, extension, json),
        Command::Explain(explain) => show::explain(&mut client, &explain.tuple, explain.all, json),
        Command::Events(events) => events::follow(&mut client, &welcome, events, json),
        Command::Apply(apply) => change::apply(client, &way, apply, &image.unwrap_or_default(), json),
        Command::Confirm(confirm) => change::confirm(&mut client, confirm, json),
        Command::Rollback(rollback) => change::rollback(&mut client, rollback, json),
    }
}
