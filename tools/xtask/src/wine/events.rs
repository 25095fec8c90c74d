//! The driver's own events, as the stand-in's Event Tracing writes them down.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use weir::trace::events::Kind;

use super::wait;

/// How long the driver may take until it tells of something that has happened.
const TOLD: Duration = Duration::from_secs(10);

/// An event: `name`, `fields` and the rest.
#[derive(Clone)]
pub struct Event(Value);

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.0["fields"])
    }
}

impl Event {
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or("?")
    }

    pub fn is(&self, name: &str) -> bool {
        self.0["name"] == name
    }

    pub fn number(&self, field: &str) -> Option<u64> {
        self.0["fields"][field].as_u64()
    }

    /// The field as text; of an enumeration, the value's name.
    pub fn text(&self, field: &str) -> String {
        let value = &self.0["fields"][field];
        let named = value.as_u64().and_then(|number| self.value_name(field, number));
        named.or(value.as_str()).map_or_else(|| value.to_string(), str::to_owned)
    }

    /// The name of an enumeration's value, by the driver's own table of events.
    fn value_name(&self, field: &str, number: u64) -> Option<&'static str> {
        let event = weir::trace::Event::TABLE.iter().find(|event| event.name == self.name())?;
        let Kind::Named(names) = event.fields.iter().find(|meta| meta.name == field)?.kind else {
            return None;
        };
        names.iter().find(|(value, _)| u64::from(*value) == number).map(|(_, name)| *name)
    }

    /// The field `status`.
    pub fn status(&self) -> Option<u32> {
        match &self.0["fields"]["status"] {
            Value::String(text) => u32::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
            value => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        }
    }

    /// Whether `status` is STATUS_SUCCESS.
    pub fn succeeded(&self) -> bool {
        self.status() == Some(0)
    }
}

/// The events of a run, in their order, as they come.
pub struct Events {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
    /// Since the last mark.
    all: Vec<Event>,
}

impl Events {
    pub fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, partial: Vec::new(), all: Vec::new() }
    }

    fn read(&mut self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        let mut bytes = Vec::new();
        let count = file.read_to_end(&mut bytes).map_err(failed)?;
        self.offset += count as u64;
        self.partial.extend_from_slice(&bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.partial.split_off(end + 1);
        for line in self.partial.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event = serde_json::from_slice(line).map_err(|error| {
                format!("{}: {error}: {}", self.path.display(), String::from_utf8_lossy(line))
            })?;
            self.all.push(Event(event));
        }
        self.partial = rest;
        Ok(())
    }

    /// From here on only what comes next is looked at.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn mark(&mut self) -> Result<(), String> {
        self.read()?;
        self.all.clear();
        Ok(())
    }

    /// The events since the mark that `wanted` takes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn since(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Result<Vec<Event>, String> {
        self.read()?;
        Ok(self.all.iter().filter(|event| wanted(event)).cloned().collect())
    }

    /// How many events of a name came since the mark.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn count(&mut self, name: &str) -> Result<u64, String> {
        self.read()?;
        Ok(self.all.iter().filter(|event| event.is(name)).count() as u64)
    }

    /// Waits for `count` events since the mark that `wanted` takes.
    ///
    /// # Errors
    /// They do not come; which came instead is told.
    pub fn several(
        &mut self,
        what: &str,
        count: usize,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Vec<Event>, String> {
        let found = wait::until(what, TOLD, || {
            let found = self.since(&mut wanted)?;
            Ok((found.len() >= count).then_some(found))
        });
        found.map_err(|error| {
            let names = self.since(|_| true).unwrap_or_default();
            let last = names.len().saturating_sub(30);
            let names: Vec<_> = names.iter().skip(last).map(Event::name).collect();
            format!("{error}; the last events were: {}", names.join(", "))
        })
    }

    /// Waits for one event since the mark.
    ///
    /// # Errors
    /// As for [`Self::several`].
    pub fn one(&mut self, name: &str, mut wanted: impl FnMut(&Event) -> bool) -> Result<Event, String> {
        let found = self.several(&format!("the event {name}"), 1, |event| event.is(name) && wanted(event))?;
        found.into_iter().next().ok_or_else(|| format!("no event {name}"))
    }
}
