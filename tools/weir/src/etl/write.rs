//! Writing: what a session of ETW leaves that logs to a file, sequentially, by the system time.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

use super::{
    BUFFER_HEADER, CLOCK_SYSTEM_TIME, Descriptor, EVENT_HEADER, FLAG_EVENTS_LOST, FLAG_EXTENDED,
    FLAG_FLUSH_MARKER, FLAG_PROCESSOR_INDEX, ITEM_HEADER, ITEM_SCHEMA, ITEM_TRAITS, LOGFILE_HEADER, MARKER,
    SECOND, STATE_FLUSH, SYSTEM_HEADER, TYPE_EVENT64, TYPE_HEADER, TYPE_SYSTEM64, aligned,
};

/// What a file says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// The session's name, and the file's.
    pub name: &'a str,
    pub file: &'a str,
    /// Bytes of a buffer. An event that does not fit into one is lost; so is one of more than 64 KiB.
    pub buffer: usize,
    pub processors: u32,
    /// When it begins, as the system time.
    pub start: u64,
}

impl Session<'_> {
    /// As large as a buffer of ETW is unless somebody says otherwise (page "EVENT_TRACE_PROPERTIES structure").
    pub const BUFFER: usize = 64 * 1024;
}

/// An event to write: what a provider hands to EtwWriteTransfer, and what the kernel adds.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The system time.
    pub time: u64,
    pub processor: u16,
    pub process: u32,
    pub thread: u32,
    /// The provider's GUID as it lies in memory.
    pub provider: [u8; 16],
    pub descriptor: Descriptor,
    /// The provider's traits, and the event's metadata.
    pub traits: &'a [u8],
    pub metadata: &'a [u8],
    /// Its fields.
    pub fields: &'a [u8],
}

/// A buffer that is being filled: its place in the file is its own, so that it can be written before it is full.
struct Buffer {
    /// Its number, by which its place is known.
    number: u64,
    records: Vec<u8>,
    flags: u16,
    /// When its last event was.
    last: u64,
    /// It has what the file has not.
    dirty: bool,
}

/// A file under way. What has been flushed is a file that any reader takes, wherever it is cut off.
pub struct Writer<W: Write + Seek> {
    output: W,
    /// Where the file begins in the output.
    origin: u64,
    buffer: usize,
    header: Vec<u8>,
    /// Of each processor.
    open: BTreeMap<u16, Buffer>,
    /// How many buffers there are, the first included.
    buffers: u64,
    lost: u32,
    end: u64,
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn saturate(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn wide(text: &str) -> impl Iterator<Item = u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes)
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file at the output's place.
    ///
    /// # Errors
    /// The output's; and a buffer's size that ETW does not have (1 KiB to 16 MiB, whole KiB), or names that do not fit.
    pub fn new(mut output: W, session: &Session<'_>) -> io::Result<Self> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if !session.buffer.is_multiple_of(1024) || !(1024..=16 << 20).contains(&session.buffer) {
            return invalid("a buffer has 1 KiB to 16 MiB, and whole KiB");
        }
        let header = first_record(session);
        if BUFFER_HEADER + aligned(header.len()) > session.buffer || header.len() > usize::from(u16::MAX) {
            return invalid("the names do not fit into a buffer");
        }
        let origin = output.stream_position()?;
        let mut writer = Self {
            output,
            origin,
            buffer: session.buffer,
            header,
            open: BTreeMap::new(),
            buffers: 1,
            lost: 0,
            end: session.start,
        };
        writer.save_header(0)?;
        writer.output.flush()?;
        Ok(writer)
    }

    /// Adds an event. One that no buffer can hold is counted as lost.
    ///
    /// # Errors
    /// The output's, when a buffer was full.
    pub fn write(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.end = self.end.max(event.time);
        let record = record(event).filter(|record| aligned(record.len()) <= self.buffer - BUFFER_HEADER);
        let Some(record) = record else {
            self.lost = self.lost.saturating_add(1);
            if let Some(buffer) = self.open.get_mut(&event.processor) {
                buffer.flags |= FLAG_EVENTS_LOST;
                buffer.dirty = true;
            }
            return Ok(());
        };
        let room = self.buffer - BUFFER_HEADER - aligned(record.len());
        let full = self.open.get(&event.processor).is_some_and(|buffer| buffer.records.len() > room);
        if full {
            self.save()?;
            self.open.remove(&event.processor);
        }
        let buffer = self.open.entry(event.processor).or_insert_with(|| {
            let number = self.buffers;
            self.buffers += 1;
            Buffer { number, records: Vec::new(), flags: 0, last: 0, dirty: false }
        });
        buffer.records.extend_from_slice(&record);
        buffer.records.resize(aligned(buffer.records.len()), 0);
        buffer.last = event.time;
        buffer.dirty = true;
        Ok(())
    }

    /// Events that no buffer could hold.
    pub const fn lost(&self) -> u32 {
        self.lost
    }

    /// What has been written up to now.
    pub const fn output(&self) -> &W {
        &self.output
    }

    /// Writes what there is, also of buffers that are not full. These are written again when they have more.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.save()?;
        self.output.flush()
    }

    /// Ends the file: it says how many buffers it has, and what was lost.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self, time: u64) -> io::Result<W> {
        self.flush()?;
        let end = self.end.max(time);
        self.save_header(end)?;
        self.output.seek(SeekFrom::Start(self.place(self.buffers)))?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn place(&self, number: u64) -> u64 {
        self.origin + number * self.buffer as u64
    }

    fn save_header(&mut self, end: u64) -> io::Result<()> {
        let mut record = self.header.clone();
        put(&mut record, SYSTEM_HEADER + 0x10, &end.to_le_bytes());
        put(&mut record, SYSTEM_HEADER + 0x24, &saturate(self.buffers).to_le_bytes());
        put(&mut record, SYSTEM_HEADER + 0x30, &self.lost.to_le_bytes());
        record.resize(aligned(record.len()), 0);
        let flags = FLAG_FLUSH_MARKER | FLAG_PROCESSOR_INDEX;
        self.output.seek(SeekFrom::Start(self.origin))?;
        self.output.write_all(&sealed(self.buffer, 0, 0, 0, (flags, TYPE_HEADER), &record))
    }

    /// Writes the buffers that have what the file has not, in the order of their numbers: there is no hole before any.
    fn save(&mut self) -> io::Result<()> {
        let mut order: Vec<_> = self.open.iter().filter(|(_, buffer)| buffer.dirty).collect();
        order.sort_by_key(|(_, buffer)| buffer.number);
        for (processor, buffer) in order {
            let kind = (buffer.flags | FLAG_PROCESSOR_INDEX, 0);
            let bytes = sealed(self.buffer, buffer.number, *processor, buffer.last, kind, &buffer.records);
            self.output.seek(SeekFrom::Start(self.place(buffer.number)))?;
            self.output.write_all(&bytes)?;
        }
        self.open.values_mut().for_each(|buffer| buffer.dirty = false);
        Ok(())
    }
}

/// A buffer as it lies in the file. What no record has is filled with ones, as the kernel does.
fn sealed(
    size: usize,
    number: u64,
    processor: u16,
    time: u64,
    (flags, kind): (u16, u16),
    records: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; BUFFER_HEADER];
    let used = saturate(BUFFER_HEADER + records.len()).to_le_bytes();
    put(&mut bytes, 0, &saturate(size).to_le_bytes());
    put(&mut bytes, 4, &used);
    put(&mut bytes, 8, &used);
    put(&mut bytes, 16, &time.to_le_bytes());
    put(&mut bytes, 24, &number.to_le_bytes());
    put(&mut bytes, 40, &processor.to_le_bytes());
    put(&mut bytes, 44, &STATE_FLUSH.to_le_bytes());
    put(&mut bytes, 48, &used);
    put(&mut bytes, 52, &flags.to_le_bytes());
    put(&mut bytes, 54, &kind.to_le_bytes());
    bytes.extend_from_slice(records);
    bytes.resize(size, 0xFF);
    bytes
}

/// The record that describes the file, of a file that has not ended.
fn first_record(session: &Session<'_>) -> Vec<u8> {
    let mut record = vec![0; SYSTEM_HEADER + LOGFILE_HEADER];
    record.extend(wide(session.name));
    record.extend(wide(session.file));
    // The version of what follows, and the record's kind; WMI_LOG_TYPE_HEADER is 0.
    put(&mut record, 0, &[2, 0, TYPE_SYSTEM64, MARKER]);
    let size = u16::try_from(record.len()).unwrap_or(u16::MAX);
    put(&mut record, 4, &size.to_le_bytes());
    put(&mut record, 0x10, &session.start.to_le_bytes());
    let about = &mut record[SYSTEM_HEADER..];
    put(about, 0, &saturate(session.buffer).to_le_bytes());
    // Windows 10, and the format of Windows 7 and later.
    put(about, 4, &[10, 0, 1, 5]);
    put(about, 0x0C, &session.processors.to_le_bytes());
    // The clock interrupt of most machines, in units of 100 ns.
    put(about, 0x18, &156_250_u32.to_le_bytes());
    // EVENT_TRACE_FILE_MODE_SEQUENTIAL.
    put(about, 0x20, &1_u32.to_le_bytes());
    // One buffer at the start, and pointers of 8 bytes.
    put(about, 0x28, &1_u32.to_le_bytes());
    put(about, 0x2C, &8_u32.to_le_bytes());
    // The time zone is all zeros: UTC. The machine's start is not known; that of the session stands for it.
    put(about, 0xF8, &session.start.to_le_bytes());
    put(about, 0x100, &SECOND.to_le_bytes());
    put(about, 0x108, &session.start.to_le_bytes());
    put(about, 0x110, &CLOCK_SYSTEM_TIME.to_le_bytes());
    record
}

/// An event's record; `None`: it is larger than a record can say.
fn record(event: &Event<'_>) -> Option<Vec<u8>> {
    let mut record = vec![0; EVENT_HEADER];
    put(&mut record, 2, &[TYPE_EVENT64, MARKER]);
    put(&mut record, 8, &event.thread.to_le_bytes());
    put(&mut record, 12, &event.process.to_le_bytes());
    put(&mut record, 16, &event.time.to_le_bytes());
    put(&mut record, 24, &event.provider);
    put(&mut record, 40, &event.descriptor.to_bytes());
    let items = [(ITEM_TRAITS, event.traits), (ITEM_SCHEMA, event.metadata)];
    let mut items = items.into_iter().filter(|(_, data)| !data.is_empty()).peekable();
    if items.peek().is_some() {
        put(&mut record, 4, &FLAG_EXTENDED.to_le_bytes());
    }
    while let Some((kind, data)) = items.next() {
        let whole = aligned(ITEM_HEADER + data.len());
        let more = u16::from(items.peek().is_some());
        for number in [u16::try_from(whole).ok()?, kind, more, u16::try_from(data.len()).ok()?] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(data);
        record.resize(aligned(record.len()), 0);
    }
    record.extend_from_slice(event.fields);
    let size = u16::try_from(record.len()).ok()?;
    put(&mut record, 0, &size.to_le_bytes());
    Some(record)
}
