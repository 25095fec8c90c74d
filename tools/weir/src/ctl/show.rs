//! What a driver is, has and has counted.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use weir::control::protocol::message::{Empty, ErrorCode, From, Request, Tuple};
use weir::policy::{Action, Direction, Fields};
use weir::trace::Guid;
use weir::trace::events::{FailMode, Origin};

use crate::client::{Client, Error, Message, json};
use crate::output::{self, Failure, bytes, span, table};
use crate::policy::{TupleArgs, failed_fields};
use crate::record;
use crate::run::protocol;

/// Prints as JSON, or by `people`.
pub(super) fn print(
    as_json: bool,
    value: impl FnOnce() -> serde_json::Value,
    people: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    output::print(|out| if as_json { writeln!(out, "{}", value()) } else { people(out) })?;
    Ok(())
}

/// The rows of a long list, from all its parts.
macro_rules! rows {
    ($pages:expr, $variant:ident.$list:ident) => {{
        let mut rows = Vec::new();
        for page in &$pages {
            rows.extend(record!(page, $variant)?.$list.iter());
        }
        rows
    }};
}

pub fn status(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let message = client.ask(&Request::Status(Empty {}))?;
    let status = record!(message, Status)?;
    let pages = settings(client)?;
    let rows = rows!(pages, Settings.settings);
    print(
        as_json,
        || {
            let mut whole = message.json();
            if let Some(settings) = json::pages(&pages).get_mut("settings") {
                whole["settings"] = settings.take();
            }
            whole
        },
        |out| {
            let up = span(status.now.saturating_sub(status.started));
            writeln!(out, "driver       {}, up for {up}, {} processors", status.driver, status.processors)?;
            let filters = if status.filters { "in force" } else { "not in force: every connection passes" };
            writeln!(out, "filters      {filters}")?;
            let rules = status.rules;
            write!(out, "policy       {}", status.policy)?;
            match (status.generation, status.rollback_in) {
                (0, _) => writeln!(out)?,
                (generation, None) => writeln!(out, ", generation {generation}, {rules} rules")?,
                (generation, Some(left)) => {
                    let left = left.div_ceil(1000);
                    writeln!(
                        out,
                        ", generation {generation}, {rules} rules; rolled back in {left} s unless confirmed"
                    )?;
                }
            }
            if let Some(digest) = status.digest {
                writeln!(out, "digest       {}", json::hex(&digest))?;
            }
            let fail = match status.fail_mode {
                FailMode::Open => "connections pass",
                FailMode::Closed => "connections are blocked",
            };
            writeln!(out, "without one  {fail}")?;
            writeln!(out, "connections  {}", status.connections)?;
            writeln!(out, "sessions     {}", status.sessions)?;
            match status.degraded {
                0 => {}
                1 => writeln!(out, "degraded     1 part of the driver is missing")?,
                count => writeln!(out, "degraded     {count} parts of the driver are missing")?,
            }
            if rows.is_empty() {
                return Ok(());
            }
            let mut table = table(["setting", "value", "from", ""], &[1]);
            for row in &rows {
                let number =
                    |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
                let mut notes = Vec::new();
                if row.pending {
                    let next = row.next.map_or_else(String::new, |next| format!(": {next}"));
                    notes.push(format!("waits for the next start{next}"));
                }
                notes.extend(row.refused.map(|reason| format!("refused in Parameters: {reason}")));
                notes.extend(row.refused_policy.map(|reason| format!("refused in Policies: {reason}")));
                table.add_row([row.name, &number(row.value), origin(row.origin), &notes.join("; ")]);
            }
            writeln!(out, "\n{table}")
        },
    )
}

/// The settings that are not at their defaults; none from a driver that does not tell.
fn settings(client: &mut Client) -> Result<Vec<Message>, Failure> {
    match client.pages(|from| Request::Settings(From { from })) {
        Err(Error::Refused(refusal)) if refusal.code == ErrorCode::UnknownRequest => Ok(Vec::new()),
        pages => Ok(pages?),
    }
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Default => "default",
        Origin::Registry => "Parameters",
        Origin::Policy => "Policies",
    }
}

pub fn counters(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let pages = client.pages(|from| Request::Counters(From { from }))?;
    let rows = rows!(pages, Counters.counters);
    print(
        as_json,
        || json::pages(&pages),
        |out| {
            let mut table = table(["counter", "value", "unit"], &[1]);
            for row in &rows {
                table.add_row([row.name, &row.value.to_string(), row.unit.unwrap_or("")]);
            }
            writeln!(out, "{table}")
        },
    )
}

pub fn rules(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let pages = client.pages(|from| Request::PolicyShow(From { from }))?;
    let rows = rows!(pages, PolicyShow.rules);
    let Some(policy) = pages.first() else { return Ok(()) };
    let policy = record!(policy, PolicyShow)?;
    print(
        as_json,
        || json::pages(&pages),
        |out| {
            let (state, generation, total) = (policy.state, policy.generation, policy.total);
            let size = bytes(policy.size.into());
            writeln!(out, "{state}, generation {generation}: {total} rules in {size}")?;
            if let Some(default) = policy.default_action {
                writeln!(out, "what no rule matches: {}", action(default))?;
            }
            let mut table = table(["rule", "name", "action", "hits"], &[0, 3]);
            for row in &rows {
                let hits = row.hits.map_or_else(String::new, |hits| hits.to_string());
                table.add_row([&row.rule.to_string(), row.name, action(row.action), &hits]);
            }
            writeln!(out, "{table}")
        },
    )
}

pub fn connections(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let pages = client.pages(|from| Request::Connections(From { from }))?;
    let rows = rows!(pages, Connections.connections);
    print(
        as_json,
        || json::pages(&pages),
        |out| {
            let head = [
                "connection",
                "way",
                "protocol",
                "local",
                "remote",
                "verdict",
                "rule",
                "received",
                "sent",
                "opened",
            ];
            let mut table = table(head, &[0, 6, 7, 8]);
            for row in &rows {
                table.add_row([
                    row.connection.to_string(),
                    direction(row.direction).into(),
                    protocol(row.protocol),
                    end(row.local, row.local_port),
                    end(row.remote, row.remote_port),
                    action(row.verdict).into(),
                    row.rule.map_or_else(|| "default".into(), |rule| rule.to_string()),
                    bytes(row.bytes_in),
                    bytes(row.bytes_out),
                    moment(row.opened),
                ]);
            }
            writeln!(out, "{table}")
        },
    )
}

pub fn sessions(client: &mut Client, own: u64, as_json: bool) -> Result<(), Failure> {
    let pages = client.pages(|from| Request::Sessions(From { from }))?;
    let rows = rows!(pages, Sessions.sessions);
    print(
        as_json,
        || json::pages(&pages),
        |out| {
            let head = [
                "session",
                "state",
                "peer",
                "role",
                "remote",
                "opened by",
                "since",
                "received",
                "sent",
                "events",
                "lost",
            ];
            let mut table = table(head, &[0, 7, 8, 9, 10]);
            for row in &rows {
                let number =
                    |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
                let mine = if row.session == own { " (this one)" } else { "" };
                table.add_row([
                    row.session.to_string(),
                    format!("{}{mine}", row.state),
                    row.peer.unwrap_or("").into(),
                    row.role.map_or_else(String::new, |role| role.to_string()),
                    end(row.remote, row.remote_port),
                    if row.dialled { "the driver" } else { "the peer" }.into(),
                    moment(row.since),
                    bytes(row.received),
                    bytes(row.sent),
                    number(row.events),
                    number(row.lost),
                ]);
            }
            writeln!(out, "{table}")
        },
    )
}

pub fn extensions(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let pages = client.pages(|from| Request::Extensions(From { from }))?;
    let rows = rows!(pages, Extensions.extensions);
    print(
        as_json,
        || json::pages(&pages),
        |out| {
            let head = [
                "session",
                "kind",
                "interface",
                "state",
                "needed",
                "provider",
                "module",
                "status",
                "callbacks",
            ];
            let mut table = table(head, &[0, 8]);
            for row in &rows {
                // A listening socket has none.
                let session = if row.session == 0 { String::new() } else { row.session.to_string() };
                table.add_row([
                    session,
                    row.kind.map_or_else(String::new, |kind| kind.to_string()),
                    interface(&row.interface),
                    row.state.to_string(),
                    if row.required { "required" } else { "optional" }.into(),
                    row.provider.map_or_else(String::new, |provider| provider.name().into()),
                    row.module.map_or_else(String::new, |module| module.to_string()),
                    row.status.map_or_else(String::new, |status| status.to_string()),
                    row.callbacks.to_string(),
                ]);
            }
            writeln!(out, "{table}")
        },
    )
}

pub fn explain(client: &mut Client, tuple: &TupleArgs, all: bool, as_json: bool) -> Result<(), Failure> {
    let asked = |from| {
        Request::Explain(Tuple {
            direction: tuple.direction,
            protocol: tuple.protocol,
            local: tuple.local.map(|end| end.address),
            local_port: tuple.local.and_then(|end| end.port),
            remote: tuple.remote.map(|end| end.address),
            remote_port: tuple.remote.and_then(|end| end.port),
            application: tuple.app.as_deref(),
            from,
        })
    };
    let pages = client.pages(asked)?;
    let steps = rows!(pages, Explain.steps);
    let Some(last) = pages.last() else { return Ok(()) };
    let answer = record!(last, Explain)?;
    print(
        as_json,
        || explained(&pages),
        |out| {
            let mut left_out = 0_usize;
            for step in &steps {
                let failed = failed_fields(Fields::from_bits_truncate(step.failed));
                if failed.is_empty() {
                    writeln!(out, "  {} matches", step.name)?;
                } else if all || failed.len() == 1 {
                    writeln!(out, "  {} does not match: {}", step.name, failed.join(", "))?;
                } else {
                    left_out += 1;
                }
            }
            if left_out > 0 {
                writeln!(out, "  {left_out} more did not match in more than one field (--all lists them)")?;
            }
            let verdict = action(answer.action);
            match (answer.rule, answer.generation) {
                (_, 0) => writeln!(out, "{verdict}: there is no policy, so the fail mode decides"),
                (None, generation) => writeln!(out, "{verdict}, by the default of generation {generation}"),
                (Some(rule), generation) => {
                    let name = steps.iter().find(|step| step.rule == rule).map_or("", |step| step.name);
                    writeln!(out, "{verdict}, by rule {rule} `{name}` of generation {generation}")
                }
            }
        },
    )
}

/// The explanation in JSON, with the names of the fields in the place of their bits.
fn explained(pages: &[Message]) -> serde_json::Value {
    let mut whole = json::pages(pages);
    for step in whole["steps"].as_array_mut().into_iter().flatten() {
        let bits = step["failed"].as_u64().and_then(|bits| u8::try_from(bits).ok()).unwrap_or_default();
        step["failed"] = failed_fields(Fields::from_bits_truncate(bits)).into();
    }
    whole
}

/// An extension interface by the name that people have for it, or its NPIID.
pub fn interface(interface: &Guid) -> String {
    weir::config::interface::name(interface).map_or_else(|| interface.to_string(), Into::into)
}

pub fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Block => "block",
        Action::Audit => "audit",
    }
}

pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

pub fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// A time of the protocol, to the second, UTC.
fn moment(time: u64) -> String {
    json::timestamp(time)
        .map_or_else(|| time.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}
