//! What a run writes of the driver's events for `weir trace decode` and for the tools of Windows: an event trace log.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ntsim::irql;
use weir::trace::events::{Event, Keywords, Level};
use weir::trace::recorded::{Recorded, TRAITS};
use weir::trace::{Guid, PROVIDER_ID};

use crate::etl::{self, Descriptor, Session, UNIX, Writer};

/// The channel of events that describe themselves (WINEVENT_CHANNEL_TRACELOGGING).
const CHANNEL: u8 = 11;
/// How long what was written may be in this process alone: what a session of ETW may be told as its flush timer.
const FLUSH: Duration = Duration::from_secs(1);

/// A file under way, shared with the driver's threads.
pub struct Recording {
    path: PathBuf,
    level: Level,
    keywords: Keywords,
    state: Mutex<State>,
}

struct State {
    /// `None`: a write has failed.
    writer: Option<Writer<File>>,
    error: Option<io::Error>,
    /// When the last event was: the clock may be set back.
    last: u64,
    flushed: Instant,
}

/// The system time as Windows has it.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UNIX + u64::try_from(since.as_nanos() / 100).unwrap_or_default()
}

/// As a GUID lies in memory.
fn in_memory(guid: Guid) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&guid.data1.to_le_bytes());
    bytes[4..6].copy_from_slice(&guid.data2.to_le_bytes());
    bytes[6..8].copy_from_slice(&guid.data3.to_le_bytes());
    bytes[8..].copy_from_slice(&guid.data4);
    bytes
}

/// What an event of the driver is in a trace, but for its bytes.
pub fn descriptor(event: &Event<'_>) -> (Descriptor, [u8; 16]) {
    let descriptor = Descriptor {
        id: event.id(),
        channel: CHANNEL,
        level: event.level() as u8,
        keywords: event.keywords().bits(),
        ..Descriptor::default()
    };
    (descriptor, in_memory(PROVIDER_ID))
}

impl Recording {
    /// Begins a file; one that is there is replaced, unless the run reads it.
    ///
    /// # Errors
    /// A text for people.
    pub fn begin(
        path: &Path,
        inputs: &[Option<&Path>],
        (level, keywords): (Level, Keywords),
    ) -> Result<Self, String> {
        let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        if let Ok(there) = path.canonicalize()
            && inputs.iter().flatten().any(|input| input.canonicalize().is_ok_and(|input| input == there))
        {
            return Err(told(&"the run reads it; it will not be replaced by a trace"));
        }
        let start = now();
        let file = File::create(path).map_err(|error| told(&error))?;
        let session = Session {
            name: "weir run",
            file: &path.file_name().unwrap_or_default().to_string_lossy(),
            buffer: Session::BUFFER,
            processors: std::thread::available_parallelism()
                .map_or(1, |count| count.get().try_into().unwrap_or(1)),
            start,
        };
        let writer = Writer::new(file, &session).map_err(|error| told(&error))?;
        let state = State { writer: Some(writer), error: None, last: start, flushed: Instant::now() };
        Ok(Self { path: path.to_owned(), level, keywords, state: Mutex::new(state) })
    }

    /// What is wanted of the driver.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Writes an event, if it is wanted. Called on the driver's threads.
    pub fn hear(&self, event: &Event<'_>) {
        if event.level() > self.level || !event.keywords().intersects(self.keywords) {
            return;
        }
        let Recorded { metadata, fields } = Recorded::of(event);
        let (descriptor, provider) = descriptor(event);
        self.with(|state| {
            state.last = state.last.max(now());
            let event = etl::Event {
                time: state.last,
                processor: u16::try_from(irql::processor()).unwrap_or(u16::MAX),
                process: std::process::id(),
                thread: irql::thread_number(),
                provider,
                descriptor,
                traits: TRAITS,
                metadata,
                fields: &fields,
            };
            state.writer.as_mut().map_or(Ok(()), |writer| writer.write(&event))
        });
    }

    /// Sees that what was written some time ago is in the file.
    pub fn flush(&self) {
        self.with(|state| {
            if state.flushed.elapsed() < FLUSH {
                return Ok(());
            }
            state.flushed = Instant::now();
            state.writer.as_mut().map_or(Ok(()), Writer::flush)
        });
    }

    /// After the first failure nothing is written any more: what is in the file stays as it is.
    fn with(&self, work: impl FnOnce(&mut State) -> io::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = work(&mut state) {
            state.writer = None;
            state.error = Some(error);
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// A text for people: something could not be written.
    pub fn finish(&self) -> Result<(), String> {
        self.with(|state| {
            let Some(writer) = state.writer.take() else { return Ok(()) };
            let lost = writer.lost();
            writer.finish(state.last.max(now()))?;
            if lost > 0 {
                eprintln!("weir: {}: {lost} events were too large to be written", self.path.display());
            }
            Ok(())
        });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let error = state.error.take();
        error.map_or(Ok(()), |error| Err(format!("{}: {error}", self.path.display())))
    }
}
