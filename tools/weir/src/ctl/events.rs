//! Events as they happen.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};
use weir::control::protocol::message::{Answer, Capabilities, EventRecord, Events, ListWriter, Subscribe};
use weir::control::protocol::subscription::MAX_IDS;
use weir::trace::Guid;
use weir::trace::events::{Keywords, Level};

use super::show;
use crate::client::{Client, Follower, Welcome, json};
use crate::names;
use crate::output::{self, Failure};

/// Shows what happens, or the connections that are open
///
/// Without --follow, the connections that are open are shown, as the events FlowOpened, and that is all. Losses are told
/// where they happened: a driver does not wait for who reads too slowly.
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// Show what happens from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin with the connections that are open already, if FlowOpened is among the events that are shown
    #[arg(long, requires = "follow")]
    snapshot: bool,
    /// Events up to this level: critical, error, warning, information, verbose
    #[arg(long, value_parser = names::level, default_value = "information", requires = "follow")]
    level: Level,
    /// Events with one of these keywords alone: lifecycle, configuration, policy, verdict, flow, control, extension,
    /// ring, fault
    #[arg(long, value_parser = names::keyword, value_delimiter = ',', requires = "follow")]
    keywords: Vec<Keywords>,
    /// Events of these names or ids alone
    #[arg(long, value_name = "EVENT", value_parser = names::event, value_delimiter = ',', requires = "follow")]
    only: Vec<u16>,
    /// End after so many events
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How many events may be on their way at once
    #[arg(long, value_name = "EVENTS", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    credit: u32,
}

/// As what the connections come that are open already.
const FLOW_OPENED: u16 = 41;

pub fn follow(
    client: &mut Client,
    welcome: &Welcome,
    args: &EventsArgs,
    as_json: bool,
) -> Result<(), Failure> {
    if args.only.len() > MAX_IDS {
        return Err(Failure::Usage(format!("--only names more than {MAX_IDS} events")));
    }
    let snapshot = args.snapshot || !args.follow;
    if snapshot && welcome.capabilities & Capabilities::SNAPSHOT.bits() == 0 {
        return Err(Failure::Failed("this driver cannot tell which connections are open already".into()));
    }
    let keywords = args.keywords.iter().fold(Keywords::empty(), |all, keyword| all | *keyword);
    let keywords = (!keywords.is_empty()).then_some(keywords.bits());
    let mut place = [0; 4 * MAX_IDS];
    let mut ids = ListWriter::new(&mut place);
    let only = if args.follow { &args.only[..] } else { &[FLOW_OPENED] };
    for id in only {
        ids.push(id).map_err(|refused| refused.to_string())?;
    }
    let ids = (!only.is_empty()).then(|| ids.finish());
    let request = Subscribe {
        credit: args.credit,
        level: Some(args.level as u8),
        keywords,
        ids,
        snapshot: snapshot.then_some(true),
    };
    let mut follower = Follower::start(client, request)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    loop {
        let Some(message) = follower.next(client, None)? else { continue };
        let Answer::Events(events) = message.answer()? else { continue };
        let mut gone = false;
        output::print(|out| {
            let shown = show(out, &events, &mut left, as_json).and_then(|()| out.flush());
            gone = shown.is_err();
            shown
        })?;
        if gone || left == 0 || !args.follow && events.snapshot_end == Some(true) {
            return Ok(());
        }
    }
}

fn show(out: &mut dyn Write, events: &Events<'_>, left: &mut u64, as_json: bool) -> std::io::Result<()> {
    if let lost @ Value::Array(_) = json::losses(events) {
        if as_json {
            writeln!(out, "{}", json!({ "lost": lost }))?;
        } else {
            let style = Style::new().fg_color(Some(AnsiColor::Red.into()));
            for row in lost.as_array().into_iter().flatten() {
                let name = row["event"].as_str().map_or_else(|| row["id"].to_string(), ToOwned::to_owned);
                writeln!(out, "{style}lost{style:#} {} {name}", row["count"])?;
            }
        }
    }
    for event in events.events.iter() {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        if as_json {
            writeln!(out, "{}", json::event(&event))?;
        } else {
            people(out, &event)?;
        }
    }
    if events.snapshot_end == Some(true) && as_json {
        writeln!(out, "{}", json!({ "snapshot_end": true }))?;
    }
    Ok(())
}

/// One line: when, what, and the fields as `name=value`.
fn people(out: &mut dyn Write, event: &EventRecord<'_>) -> std::io::Result<()> {
    let color = match event.meta().map(|meta| meta.level) {
        Some(Level::Critical | Level::Error) => Some(AnsiColor::Red),
        Some(Level::Warning) => Some(AnsiColor::Yellow),
        _ => None,
    };
    let style = Style::new().fg_color(color.map(Into::into));
    let time = json::timestamp(event.time)
        .map_or_else(|| event.time.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string());
    let said = json::event(event);
    let name = said["event"].as_str().map_or_else(|| event.id.to_string(), ToOwned::to_owned);
    write!(out, "{time} {style}{name}{style:#}")?;
    for (field, value) in said["fields"].as_object().into_iter().flatten() {
        match value {
            // Perhaps people have a name for it.
            Value::String(text) if field == "interface" => {
                let interface = Guid::parse(text.encode_utf16());
                write!(out, " {field}={}", interface.as_ref().map_or_else(|| text.clone(), show::interface))?;
            }
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"']) => {
                write!(out, " {field}={text}")?;
            }
            Value::Number(number) if field == "status" => {
                let status = number.as_u64().and_then(|status| u32::try_from(status).ok());
                write!(out, " {field}={:#010X}", status.unwrap_or_default())?;
            }
            value => write!(out, " {field}={value}")?,
        }
    }
    for value in said["values"].as_array().into_iter().flatten() {
        write!(out, " {value}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::config::schema::SPOKEN;
    use weir::control::protocol::message::Batch;
    use weir::trace::events::{Event, Provider};

    /// A callback of an extension, for people and as JSON.
    fn shown(interface: Guid, data: &[u8]) -> [String; 2] {
        let mut buffer = vec![0; 1024];
        let mut batch = Batch::begin(&mut buffer, 1, 0, [].into_iter(), false).unwrap();
        let (session, code, value, provider) = (7, 8, 42, Provider::Nmr);
        let event = Event::ExtensionCallback { session, interface, code, value, provider, data };
        batch.push(116_444_736_000_000_000, &event).unwrap();
        let length = batch.finish();
        let (_, Answer::Events(events)) = Answer::decode(&buffer[..length]).unwrap() else {
            panic!("no events")
        };
        [false, true].map(|as_json| {
            let mut out = Vec::new();
            show(&mut out, &events, &mut 1, as_json).unwrap();
            let text = String::from_utf8(out).unwrap();
            text.replace(['\u{1b}'], "").replace("[0m", "")
        })
    }

    #[test]
    fn a_callback_is_shown_with_its_interfaces_name_and_its_bytes() {
        let [people, json] = shown(SPOKEN[0], &[0, 0xAB]);
        let line = "1970-01-01 00:00:00.000 ExtensionCallback session=7 interface=connection_v1 code=8 \
                    value=42 provider=nmr data=00ab\n";
        assert_eq!(people, line);
        let json: Value = serde_json::from_str(&json).unwrap();
        let interface = "{5ee5d4f1-9929-4633-8368-7bc7438b4140}";
        let fields = json!({
            "session": 7, "interface": interface, "code": 8, "value": 42, "provider": "nmr", "data": "00ab"
        });
        assert_eq!(json["fields"], fields);
        assert_eq!((&json["event"], &json["level"]), (&"ExtensionCallback".into(), &"verbose".into()));
        let [people, _] = shown(Guid::default(), &[]);
        let end = "interface={00000000-0000-0000-0000-000000000000} code=8 value=42 provider=nmr data=\"\"\n";
        assert!(people.ends_with(end), "{people}");
    }
}
