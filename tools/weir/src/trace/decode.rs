//! `weir trace decode`: what a trace has, for people or as JSON.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde_json::{Map, Value, json};
use weir::trace::{PROVIDER_ID, PROVIDER_NAME};

use super::filter::Filter;
use crate::client::json::{hex, time, timestamp};
use crate::etl::read::{About, Body, Damage, Place, Reader, Record, Statistics};
use crate::etl::{Descriptor, tracelogging};
use crate::{names, output};

/// Prints what an event trace log (.etl) has, in the order of time
///
/// Events of any provider that describe themselves (TraceLogging) are decoded, weir's among them; of everything else the
/// header is shown, and the data in hexadecimal. At the end it is told what the session has lost.
///
/// The output and the JSON are described in tools/weir/TRACE.md.
///
/// Exit code: 0 done; 1 the file cannot be read, or not to its end; 2 usage.
#[derive(clap::Args, Debug)]
pub struct DecodeArgs {
    /// The trace
    file: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &DecodeArgs) -> ExitCode {
    match try_run(args) {
        Ok(whole) if whole => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => output::done(Err(message)),
    }
}

/// Whether the file was read to its end.
fn try_run(args: &DecodeArgs) -> Result<bool, String> {
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", args.file.display());
    let file = File::open(&args.file).map_err(|error| told(&error))?;
    if file.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(told(&"it is a folder"));
    }
    let mut reader = Reader::open(file).map_err(|damage| told(&damage))?;
    let mut wanted: Vec<Place> = Vec::new();
    let statistics = reader.scan(|place, record| {
        if args.filter.wants(record) {
            wanted.push(place);
        }
    });
    // Each processor's events are in order; of one moment the file's order remains.
    wanted.sort_by_key(|place| place.time);
    let mut damaged = None;
    output::print(|out| {
        for place in &wanted {
            match reader.read(place, |record| show(out, record, args.json)) {
                Ok(shown) => shown?,
                Err(damage) => {
                    damaged = Some(damage);
                    break;
                }
            }
        }
        summary(out, args.json, reader.about(), &statistics, wanted.len())
    })?;
    let damage = damaged.as_ref().or(statistics.damage.as_ref());
    if let Some(damage) = damage {
        anstream::eprintln!("weir: {}", told(damage));
    }
    Ok(damage.is_none())
}

/// An event or another record, for people and programs.
struct Shown {
    time: u64,
    /// The provider's name, where it is known, and its GUID.
    provider: Option<String>,
    guid: Option<String>,
    /// The event's name, or what kind of record it is.
    name: String,
    /// What filters ask for.
    descriptor: Option<Descriptor>,
    fields: Map<String, Value>,
    /// What could not be decoded, and why.
    data: Option<String>,
    why: Option<String>,
}

fn about(record: &Record<'_>) -> Shown {
    let guid = |guid: [u8; 16]| tracelogging::guid(guid);
    let mut shown = Shown {
        time: record.time,
        provider: None,
        guid: None,
        name: String::new(),
        descriptor: None,
        fields: Map::new(),
        data: None,
        why: None,
    };
    match &record.body {
        Body::Event { provider, descriptor, traits, schema, fields, .. } => {
            let name = traits.and_then(|traits| tracelogging::provider_name(traits).ok());
            shown.provider = name.or_else(|| {
                let own = guid(*provider) == PROVIDER_ID.to_string();
                own.then(|| PROVIDER_NAME.to_owned())
            });
            shown.guid = Some(guid(*provider));
            shown.descriptor = Some(*descriptor);
            let decoded = schema
                .ok_or_else(|| "it does not describe itself".to_owned())
                .and_then(|schema| tracelogging::decode(schema, fields));
            match decoded {
                Ok(event) => (shown.name, shown.fields) = (event.name, event.fields),
                Err(why) => {
                    shown.name = format!("event {}", descriptor.id);
                    shown.data = Some(hex(fields));
                    shown.why = Some(why);
                }
            }
        }
        Body::Other { kind, provider, hook, data } => {
            shown.guid = provider.map(guid);
            shown.name = match hook {
                Some(hook) => format!("{kind} {hook:#06x}"),
                None => (*kind).to_owned(),
            };
            shown.data = Some(hex(data));
        }
    }
    shown
}

fn show(out: &mut dyn Write, record: &Record<'_>, as_json: bool) -> io::Result<()> {
    let shown = about(record);
    if as_json { program(out, record, shown) } else { people(out, shown) }
}

/// One object.
fn program(out: &mut dyn Write, record: &Record<'_>, shown: Shown) -> io::Result<()> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("event", shown.name.into());
    if let Some(descriptor) = shown.descriptor {
        put("id", descriptor.id.into());
    }
    put("time", time(shown.time).into());
    if let Some(provider) = shown.provider {
        put("provider", provider.into());
    }
    if let Some(guid) = shown.guid {
        put("guid", guid.into());
    }
    if let Some(descriptor) = shown.descriptor {
        put("level", names::of_level(descriptor.level).into());
        put("keywords", format!("{:#x}", descriptor.keywords).into());
        if descriptor.opcode != 0 {
            put("opcode", descriptor.opcode.into());
        }
    }
    put("processor", record.processor.into());
    for (name, number) in [("process", record.process), ("thread", record.thread)] {
        if let Some(number) = number {
            put(name, number.into());
        }
    }
    match (shown.data, shown.why) {
        (Some(data), why) => {
            put("data", data.into());
            if let Some(why) = why {
                put("undecoded", why.into());
            }
        }
        (None, _) => put("fields", shown.fields.into()),
    }
    writeln!(out, "{}", Value::from(object))
}

/// A text from a trace, which may have anything in it, for a terminal.
fn plain(text: &str) -> String {
    let graphic = |letter: char| !letter.is_control() && !letter.is_whitespace() && letter != '"';
    if !text.is_empty() && text.chars().all(graphic) { text.to_owned() } else { format!("{text:?}") }
}

fn plain_value(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(plain_value).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{}={}", plain(name), plain_value(value)))
                .collect();
            format!("{{{}}}", fields.join(" "))
        }
        value => value.to_string(),
    }
}

/// One line: when, what, and the fields as `name=value`. Providers are told of events that are not weir's.
fn people(out: &mut dyn Write, shown: Shown) -> io::Result<()> {
    let color = match shown.descriptor.map(|descriptor| descriptor.level) {
        Some(1 | 2) => Some(AnsiColor::Red),
        Some(3) => Some(AnsiColor::Yellow),
        _ => None,
    };
    let style = Style::new().fg_color(color.map(Into::into));
    let time = timestamp(shown.time)
        .map_or_else(|| shown.time.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string());
    write!(out, "{time} ")?;
    match (&shown.provider, &shown.guid) {
        (Some(provider), _) if provider == PROVIDER_NAME => {}
        (Some(provider), _) => write!(out, "{}/", plain(provider))?,
        (None, Some(guid)) => write!(out, "{guid}/")?,
        (None, None) => {}
    }
    // What is weir's own to say has blanks in it.
    let name = if shown.data.is_some() { shown.name } else { plain(&shown.name) };
    write!(out, "{style}{name}{style:#}")?;
    for (name, value) in &shown.fields {
        write!(out, " {}={}", plain(name), plain_value(value))?;
    }
    if let Some(data) = shown.data {
        if let Some(descriptor) = shown.descriptor {
            let Descriptor { version, level, keywords, opcode, task, .. } = descriptor;
            write!(
                out,
                " version={version} level={level} keywords={keywords:#x} opcode={opcode} task={task}"
            )?;
        }
        write!(out, " data={data}")?;
    }
    if let Some(why) = shown.why {
        write!(out, " ({})", plain_why(&why))?;
    }
    writeln!(out)
}

/// A reason, which may name a field.
fn plain_why(why: &str) -> String {
    why.chars()
        .flat_map(|letter| if letter.is_control() { letter.escape_debug().collect() } else { vec![letter] })
        .collect()
}

fn summary(
    out: &mut dyn Write,
    as_json: bool,
    about: &About,
    statistics: &Statistics,
    shown: usize,
) -> io::Result<()> {
    let Statistics {
        buffers,
        events,
        others,
        after_lost_events,
        after_lost_buffers,
        missing_buffers,
        damage,
    } = statistics;
    if as_json {
        let damage = damage.as_ref().map(|Damage { offset, what }| json!({ "offset": offset, "what": what }));
        let summary = json!({ "statistics": {
            "session": about.session,
            "file": about.file,
            "start": time(about.start),
            "end": about.end.map(time),
            "processors": about.processors,
            "shown": shown,
            "events": events,
            "others": others,
            "buffers": buffers,
            "events_lost": about.events_lost,
            "buffers_lost": about.buffers_lost,
            "buffers_after_lost_events": after_lost_events,
            "buffers_after_lost_buffers": after_lost_buffers,
            "buffers_missing": missing_buffers,
            "damage": damage,
        }});
        return writeln!(out, "{summary}");
    }
    let date = |time| {
        timestamp(time)
            .map_or_else(|| time.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let end = about.end.map_or_else(|| "an end that was not written".to_owned(), date);
    writeln!(out, "session {} from {} to {end}", plain(&about.session), date(about.start))?;
    write!(out, "{shown} shown of {events} events")?;
    if *others > 0 {
        write!(out, " and {others} other records")?;
    }
    writeln!(out, "; buffers: {buffers}")?;
    let mut lost = Vec::new();
    let mut count = |number: u64, what: &str| {
        if number > 0 {
            lost.push(format!("{number} {what}"));
        }
    };
    count(about.events_lost.into(), "events");
    count(about.buffers_lost.into(), "buffers");
    count(*missing_buffers, "numbers of buffers");
    count(*after_lost_events, "buffers say that events were lost before them");
    count(*after_lost_buffers, "buffers say that buffers were lost before them");
    writeln!(out, "lost: {}", if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        assert_eq!(plain("weir"), "weir");
        assert_eq!(plain("Grüße"), "Grüße");
        assert_eq!(plain(""), "\"\"");
        assert_eq!(plain("a b"), "\"a b\"");
        assert_eq!(plain("\u{1b}[2J\u{9b}"), "\"\\u{1b}[2J\\u{9b}\"");
        assert_eq!(plain_value(&json!({"a": ["x", "\n"], "b": 1})), "{a=[x, \"\\n\"] b=1}");
        assert_eq!(plain_why("field \u{1b} has"), "field \\u{1b} has");
    }
}
