//! The trace of a session: what the image handed to ETW, as a file of ETW's, and what another reader makes of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use weir_cli::etl::read::{Body, Reader};
use weir_cli::etl::{self, Descriptor, Session, Writer, tracelogging};

use crate::install;
use crate::step::root;

/// What the stand-in has written, and what becomes of it.
const RAW: &str = "etw.raw";
const DECODED: &str = "etw.jsonl";
pub const TRACE: &str = "weir.etl";
/// The types of a provider's traits and of an event's metadata among an event's parts; others are fields.
const TRAITS: u8 = 2;
const METADATA: u8 = 1;

/// What is left of the stand-in's records.
struct Records<'a>(&'a [u8]);

/// An event as the stand-in got it.
struct Record {
    time: u64,
    process: u32,
    thread: u32,
    processor: u16,
    provider: [u8; 16],
    descriptor: Descriptor,
    traits: Vec<u8>,
    metadata: Vec<u8>,
    fields: Vec<u8>,
}

impl Records<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
}

impl Record {
    /// The next one. `None`: what follows is none.
    fn read(all: &mut Records<'_>) -> Option<Self> {
        let size = usize::try_from(all.u32()?).ok()?.checked_sub(4)?;
        let (record, rest) = all.0.split_at_checked(size)?;
        all.0 = rest;
        let mut rest = Records(record);
        let mut record = Self {
            time: rest.take().map(u64::from_le_bytes)?,
            process: rest.u32()?,
            thread: rest.u32()?,
            processor: rest.u16()?,
            provider: [0; 16],
            descriptor: Descriptor::default(),
            traits: Vec::new(),
            metadata: Vec::new(),
            fields: Vec::new(),
        };
        let parts = rest.u16()?;
        record.provider = rest.take()?;
        record.descriptor = Descriptor::from_bytes(rest.take()?);
        for _ in 0..parts {
            let size = usize::try_from(rest.u32()?).ok()?;
            let [kind] = rest.take()?;
            let (bytes, left) = rest.0.split_at_checked(size)?;
            rest.0 = left;
            let place = match kind {
                TRAITS => &mut record.traits,
                METADATA => &mut record.metadata,
                _ => &mut record.fields,
            };
            place.extend_from_slice(bytes);
        }
        rest.0.is_empty().then_some(record)
    }
}

/// Makes the trace of a session from what the stand-in has recorded; how many events it has.
fn write(logs: &Path) -> Result<u64, String> {
    let raw = logs.join(RAW);
    let bytes = fs::read(&raw).map_err(|error| format!("{}: {error}", raw.display()))?;
    let path = logs.join(TRACE);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut records = Records(&bytes);
    let (mut writer, mut count, mut last) = (None, 0, 0);
    while !records.0.is_empty() {
        let at = bytes.len() - records.0.len();
        let record =
            Record::read(&mut records).ok_or_else(|| format!("{}: no record at {at}", raw.display()))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            place => {
                let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                let session = Session {
                    name: "cargo xtask wine",
                    file: TRACE,
                    buffer: Session::BUFFER,
                    processors: u32::try_from(processors).unwrap_or(u32::MAX),
                    start: record.time,
                };
                place.insert(Writer::new(File::create(&path).map_err(failed)?, &session).map_err(failed)?)
            }
        };
        // A machine's clock may be set back while it runs.
        last = record.time.max(last);
        let Record {
            process,
            thread,
            processor,
            provider,
            descriptor,
            ref traits,
            ref metadata,
            ref fields,
            ..
        } = record;
        let event = etl::Event {
            time: last,
            processor,
            process,
            thread,
            provider,
            descriptor,
            traits,
            metadata,
            fields,
        };
        writer.write(&event).map_err(failed)?;
        count += 1;
    }
    let writer = writer.ok_or_else(|| format!("{}: no event", raw.display()))?;
    if writer.lost() > 0 {
        return Err(format!("{}: {} events do not fit", path.display(), writer.lost()));
    }
    writer.finish(last).map_err(failed)?;
    Ok(count)
}

/// What two readers are to agree on.
fn event(id: &Value, name: &Value, level: &Value, keywords: &Value, fields: &Value) -> Value {
    json!({ "id": id, "name": name, "level": level, "keywords": keywords, "fields": fields })
}

/// What weir's own reader finds, in the order of the file.
fn own(path: &Path) -> Result<Vec<Value>, String> {
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(|error| told(&error))?;
    let mut reader = Reader::open(file).map_err(|damage| told(&damage))?;
    let mut events = Vec::new();
    let statistics = reader.scan(|_, record| {
        let Body::Event { descriptor, schema, fields, .. } = &record.body else { return };
        let decoded = tracelogging::decode(schema.unwrap_or_default(), fields);
        let (name, fields) = decoded
            .map_or_else(|why| (why, Value::Null), |decoded| (decoded.name, Value::from(decoded.fields)));
        let Descriptor { id, level, keywords, .. } = *descriptor;
        events.push(event(&id.into(), &name.into(), &level.into(), &keywords.into(), &fields));
    });
    statistics.damage.map_or(Ok(()), |damage| Err(told(&damage)))?;
    Ok(events)
}

/// What etl-parser finds, in the order of the file.
fn theirs(path: &Path) -> Result<Vec<Value>, String> {
    install::python().map_err(|missing| missing.to_string())?;
    let script = root().join("tests/etl_parser.py");
    let output = Command::new(install::python_path())
        .arg(script)
        .arg(path)
        .output()
        .map_err(|error| format!("python: {error}"))?;
    if !output.status.success() {
        return Err(format!("etl-parser: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let mut events = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: Value =
            serde_json::from_str(line).map_err(|error| format!("etl-parser: {error}: {line}"))?;
        if let Some(why) = line.get("refused") {
            return Err(format!("{}: etl-parser: {why}", path.display()));
        }
        if line.get("name").is_some() {
            events.push(event(
                &line["id"],
                &line["name"],
                &line["level"],
                &line["keywords"],
                &line["fields"],
            ));
        }
    }
    Ok(events)
}

/// etl-parser takes some milliseconds for an event: of a file with more buffers than this it gets so many, from its beginning to
/// its end.
const BUFFERS: usize = 24;

/// A part of a trace that is a trace, or the trace itself if it is small.
fn part(path: &Path) -> Result<PathBuf, String> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| format!("{path}: {error}")
    };
    let bytes = fs::read(path).map_err(failed(path))?;
    let buffers: Vec<_> = bytes.chunks(Session::BUFFER).collect();
    let Some((header, events)) = buffers.split_first().filter(|(_, events)| events.len() > BUFFERS) else {
        return Ok(path.to_owned());
    };
    let last = events.len() - 1;
    let chosen = (0..BUFFERS).filter_map(|number| events.get(number * last / (BUFFERS - 1)).copied());
    let chosen: Vec<_> = std::iter::once(*header).chain(chosen).collect();
    let part = path.with_file_name("part.etl");
    fs::write(&part, chosen.concat()).map_err(failed(&part))?;
    Ok(part)
}

/// What the stand-in has decoded by itself as the events came; it words values in its own way.
fn names(logs: &Path) -> Result<Map<String, Value>, String> {
    let path = logs.join(DECODED);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut counts = Map::new();
    for line in text.lines() {
        let line: Value =
            serde_json::from_str(line).map_err(|error| format!("{}: {error}", path.display()))?;
        count(&mut counts, &line["name"]);
    }
    Ok(counts)
}

fn count(counts: &mut Map<String, Value>, name: &Value) {
    let name = name.as_str().unwrap_or_default().to_owned();
    let number = counts.get(&name).and_then(Value::as_u64).unwrap_or(0);
    counts.insert(name, (number + 1).into());
}

/// Where a session's trace is, how many events it has, and how many of these etl-parser has read.
pub struct Traced {
    pub path: PathBuf,
    pub events: u64,
    pub read: usize,
}

/// Makes the trace of a session, and sees that three readers agree on it.
///
/// # Errors
/// It cannot be made, or they do not agree.
pub fn check(logs: &Path) -> Result<Traced, String> {
    let events = write(logs)?;
    let path = logs.join(TRACE);
    let mut counts = Map::new();
    let all = own(&path)?;
    for event in &all {
        count(&mut counts, &event["name"]);
    }
    if all.len() as u64 != events || counts != names(logs)? {
        return Err(format!("{}: {} events, and not those of {DECODED}", path.display(), all.len()));
    }
    let part = part(&path)?;
    let (own, theirs) = (own(&part)?, theirs(&part)?);
    if let Some((ours, other)) = own.iter().zip(&theirs).find(|(ours, other)| ours != other) {
        return Err(format!("{}: etl-parser reads {other}, which is {ours}", part.display()));
    }
    if own.len() != theirs.len() {
        return Err(format!("{}: etl-parser reads {} of {} events", part.display(), theirs.len(), own.len()));
    }
    Ok(Traced { path, events, read: theirs.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let mut record = vec![0; 4];
        record.extend(134_000_000_000_000_000_u64.to_le_bytes());
        record.extend([5, 0, 0, 0, 6, 0, 0, 0, 1, 0]);
        record.extend(u16::try_from(parts.len()).unwrap().to_le_bytes());
        record.extend([7; 16]);
        record.extend(Descriptor { id: 3, level: 4, keywords: 1, ..Descriptor::default() }.to_bytes());
        for (kind, bytes) in parts {
            record.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            record.push(*kind);
            record.extend_from_slice(bytes);
        }
        let size = u32::try_from(record.len()).unwrap().to_le_bytes();
        record[..4].copy_from_slice(&size);
        record
    }

    #[test]
    fn records_of_the_stand_in_become_a_trace() {
        let folder = std::env::temp_dir().join(format!("weir-etl-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let one = record(&[(2, b"\x04\0A\0"), (1, b"\x0C\0\0Event\0n\0\x06"), (0, &[1]), (0, &[2])]);
        fs::write(folder.join(RAW), [&one[..], &one].concat()).unwrap();
        assert_eq!(write(&folder), Ok(2));
        let event = json!({ "id": 3, "name": "Event", "level": 4, "keywords": 1, "fields": { "n": 513 } });
        assert_eq!(own(&folder.join(TRACE)), Ok(vec![event.clone(), event]));
        fs::write(folder.join(RAW), &one[..one.len() - 1]).unwrap();
        assert!(write(&folder).unwrap_err().contains("no record at 0"));
        fs::write(folder.join(RAW), b"").unwrap();
        assert!(write(&folder).unwrap_err().contains("no event"));
        // Of many buffers, first and last are among those that are chosen.
        let large = record(&[
            (2, b"\x04\0A\0"),
            (1, b"\x0C\0\0Event\0n\0\x17"),
            (0, &30_000_u16.to_le_bytes()),
            (0, &vec![1; 30_000]),
        ]);
        fs::write(folder.join(RAW), large.repeat(100)).unwrap();
        assert_eq!(write(&folder), Ok(100));
        let trace = folder.join(TRACE);
        let chosen = part(&trace).unwrap();
        let (part, whole) = (fs::read(&chosen).unwrap(), fs::read(&trace).unwrap());
        assert_eq!((whole.len(), part.len()), (51 * Session::BUFFER, (1 + BUFFERS) * Session::BUFFER));
        assert!(whole.starts_with(&part[..2 * Session::BUFFER]));
        assert!(whole.ends_with(&part[part.len() - Session::BUFFER..]));
        assert_eq!(own(&chosen).map(|events| events.len()), Ok(2 * BUFFERS));
        fs::remove_dir_all(&folder).unwrap();
    }
}
