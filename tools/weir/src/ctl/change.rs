//! Policies: applied, confirmed, taken back.

use std::path::PathBuf;

use serde_json::json;
use weir::control::protocol::message::{Empty, Generation, PolicyState, Request};
use weir::control::protocol::upload::MAX_WINDOW;

use super::connect::Way;
use crate::client::Client;
use crate::output::{self, Failure};
use crate::{policy, record};

/// Lets a policy decide, at once and for now: unless it is confirmed in time, the driver goes back to the one before
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    /// The policy, a TOML file (tools/weir/POLICY.md) or an image (`weir policy check --output`); `-` is standard input
    file: PathBuf,
    /// How long it decides unless it is confirmed [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WINDOW)))]
    window: Option<u32>,
    /// Confirm it too, if the driver can still be reached over a new connection
    #[arg(long)]
    confirm: bool,
    /// Apply it only if the policy that decides has this generation
    #[arg(long, value_name = "GENERATION")]
    replaces: Option<u32>,
}

/// Keeps a policy that was applied; it decides after a restart as well
#[derive(clap::Args, Debug)]
pub struct ConfirmArgs {
    /// The policy's generation; without it, whatever awaits its confirmation
    generation: Option<u32>,
}

/// Goes back at once from a policy that was applied and not confirmed
#[derive(clap::Args, Debug)]
pub struct RollbackArgs {
    /// The policy's generation; without it, whatever awaits its confirmation
    generation: Option<u32>,
}

impl ApplyArgs {
    /// The policy's image.
    ///
    /// # Errors
    /// It cannot be read, or is no policy.
    pub fn image(&self) -> Result<Vec<u8>, String> {
        policy::image(&self.file)
    }
}

pub fn apply(
    mut client: Client,
    way: &Way,
    args: &ApplyArgs,
    image: &[u8],
    json: bool,
) -> Result<(), Failure> {
    let applied = client.apply(image, args.window, args.replaces)?;
    let (generation, rules, window) = (applied.generation, applied.rules, applied.window);
    if args.confirm {
        // Another connection, opened under the new policy: one that is open already proves nothing.
        drop(client);
        let confirmed = way.open().and_then(|(mut client, _)| {
            Ok(client.ask(&Request::PolicyConfirm(Generation { generation })).map(drop)?)
        });
        if let Err(Failure::Failed(error) | Failure::Usage(error)) = confirmed {
            return Err(Failure::Failed(format!(
                "generation {generation} decides, but is not confirmed; it is rolled back within {window} s: {error}"
            )));
        }
    }
    output::print(|out| {
        if json {
            let confirmed = args.confirm;
            let said =
                json!({ "generation": generation, "rules": rules, "window": window, "confirmed": confirmed });
            return writeln!(out, "{said}");
        }
        let rules = if rules == 1 { "1 rule".into() } else { format!("{rules} rules") };
        if args.confirm {
            return writeln!(out, "generation {generation}, {rules}, decides and is confirmed");
        }
        writeln!(
            out,
            "generation {generation}, {rules}, decides; it is rolled back in {window} s unless confirmed \
             (weir ctl confirm {generation})"
        )
    })?;
    Ok(())
}

/// The generation that is meant: the one given, or the one that awaits its confirmation.
fn meant(client: &mut Client, given: Option<u32>) -> Result<u32, Failure> {
    if let Some(generation) = given {
        return Ok(generation);
    }
    let status = client.ask(&Request::Status(Empty {}))?;
    let status = record!(status, Status)?;
    match status.policy {
        PolicyState::Provisional => Ok(status.generation),
        PolicyState::Confirmed => {
            Err(Failure::Failed(format!("generation {} is confirmed: nothing is open", status.generation)))
        }
        PolicyState::Absent => Err(Failure::Failed("there is no policy: nothing is open".into())),
    }
}

pub fn confirm(client: &mut Client, args: &ConfirmArgs, json: bool) -> Result<(), Failure> {
    let generation = meant(client, args.generation)?;
    let reply = client.ask(&Request::PolicyConfirm(Generation { generation }))?;
    let Generation { generation } = record!(reply, PolicyConfirm)?;
    output::print(|out| {
        if json {
            return writeln!(out, "{}", json!({ "generation": generation }));
        }
        writeln!(out, "generation {generation} is confirmed")
    })?;
    Ok(())
}

pub fn rollback(client: &mut Client, args: &RollbackArgs, json: bool) -> Result<(), Failure> {
    let from = meant(client, args.generation)?;
    let reply = client.ask(&Request::PolicyRollback(Generation { generation: from }))?;
    let Generation { generation } = record!(reply, PolicyRollback)?;
    output::print(|out| {
        if json {
            return writeln!(out, "{}", json!({ "generation": generation }));
        }
        match generation {
            0 => writeln!(out, "generation {from} is rolled back: the fail mode decides"),
            _ => writeln!(out, "generation {from} is rolled back: generation {generation} decides"),
        }
    })?;
    Ok(())
}
