//! Reading: files of Windows, of [`super::Writer`], and what became of them. Nothing in a file is trusted: every size is
//! held against what there is, and the first thing that contradicts itself ends the reading, with where it is and why.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use super::{
    BUFFER_HEADER, CLOCK_COUNTER, CLOCK_CYCLES, CLOCK_SYSTEM_TIME, Descriptor, EVENT_HEADER,
    FLAG_BUFFER_LOST, FLAG_COMPRESSED, FLAG_EVENTS_LOST, FLAG_EXTENDED, ITEM_HEADER, ITEM_SCHEMA,
    ITEM_TRAITS, LOGFILE_HEADER, MARKER, MARKER_MESSAGE, SECOND, SYSTEM_HEADER, TYPE_COMPACT32,
    TYPE_COMPACT64, TYPE_EVENT32, TYPE_EVENT64, TYPE_FULL32, TYPE_FULL64, TYPE_INSTANCE32, TYPE_INSTANCE64,
    TYPE_PERFINFO32, TYPE_PERFINFO64, TYPE_SYSTEM32, TYPE_SYSTEM64, aligned,
};

/// The largest buffer that ETW has (page "EVENT_TRACE_PROPERTIES structure": 16384 KiB).
const LARGEST_BUFFER: u32 = 16 << 20;
/// One that has nothing but its header.
const SMALLEST_BUFFER: u32 = 72;
const _: () = assert!(SMALLEST_BUFFER as usize == BUFFER_HEADER);

/// Why a file cannot be read, or not further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where in the file, in bytes.
    pub offset: u64,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at offset {}: {}", self.offset, self.what)
    }
}

fn damage(offset: u64, what: impl Into<String>) -> Damage {
    Damage { offset, what: what.into() }
}

fn failed(offset: u64) -> impl FnOnce(io::Error) -> Damage {
    move |error| damage(offset, error.to_string())
}

/// What a file says of itself, in its first record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The session's name, and the file's when it was written.
    pub session: String,
    pub file: String,
    /// Version of Windows: major, minor, build.
    pub system: (u8, u8, u32),
    pub processors: u32,
    /// System times. A file whose session was not ended has no end.
    pub start: u64,
    pub end: Option<u64>,
    pub buffers_written: u32,
    pub events_lost: u32,
    pub buffers_lost: u32,
    clock: Clock,
}

/// How times in records become system times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    SystemTime,
    /// The count at the session's start, that moment as system time, and counts a second.
    Counter {
        first: u64,
        start: u64,
        frequency: u64,
    },
}

impl Clock {
    fn system_time(self, count: u64) -> u64 {
        match self {
            Self::SystemTime => count,
            Self::Counter { first, start, frequency } => {
                let passed = i128::from(count.cast_signed()) - i128::from(first.cast_signed());
                let units = passed * i128::from(SECOND) / i128::from(frequency.max(1));
                u64::try_from(i128::from(start) + units).unwrap_or(if units < 0 { 0 } else { u64::MAX })
            }
        }
    }
}

/// What was found besides records.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Without the first, which describes the file.
    pub buffers: u64,
    /// Records of events with a descriptor, and of others.
    pub events: u64,
    pub others: u64,
    /// Buffers that say that events before them, or buffers, were lost.
    pub after_lost_events: u64,
    pub after_lost_buffers: u64,
    /// Numbers of buffers that are missing between others.
    pub missing_buffers: u64,
    /// Why the file was not read to its end.
    pub damage: Option<Damage>,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// When it was, as system time.
    pub time: u64,
    /// In the file.
    pub offset: u64,
    size: u32,
    processor: u16,
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The system time; of a record that has none, that of the one before.
    pub time: u64,
    pub processor: u16,
    pub process: Option<u32>,
    pub thread: Option<u32>,
    pub body: Body<'a>,
}

/// What a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// An event of a provider that was registered with EtwRegister or EventRegister.
    Event {
        provider: [u8; 16],
        descriptor: Descriptor,
        /// All zeros: none.
        activity: [u8; 16],
        /// What an event that describes itself says of its provider, and of itself.
        traits: Option<&'a [u8]>,
        schema: Option<&'a [u8]>,
        fields: &'a [u8],
    },
    /// Anything else: a record of the kernel, or of an older kind of provider.
    Other {
        kind: &'static str,
        /// The provider, where there is one.
        provider: Option<[u8; 16]>,
        /// What the kernel's records are told apart by.
        hook: Option<u16>,
        data: &'a [u8],
    },
}

/// A file that is being read.
pub struct Reader<R: Read + Seek> {
    source: R,
    length: u64,
    about: About,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// UTF-16 up to a zero, from a place on; the text and where it ends.
fn wide(bytes: &[u8], at: usize) -> (String, usize) {
    let units = bytes.get(at..).unwrap_or_default().chunks_exact(2).map(|unit| u16_at(unit, 0));
    let units: Vec<_> = units.take_while(|unit| *unit != 0).collect();
    (String::from_utf16_lossy(&units), at + 2 * units.len() + 2)
}

/// A buffer: what its header says that matters, and as much of it as the file has.
struct Buffer {
    offset: u64,
    size: u64,
    number: u64,
    processor: u16,
    flags: u16,
    /// Header and records.
    bytes: Vec<u8>,
    /// The file ends within it.
    cut: bool,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads what the file says of itself.
    ///
    /// # Errors
    /// It is no trace, or none that weir reads.
    pub fn open(mut source: R) -> Result<Self, Damage> {
        let length = source.seek(SeekFrom::End(0)).map_err(failed(0))?;
        if length == 0 {
            return Err(damage(0, "the file is empty"));
        }
        let first = buffer(&mut source, 0, length)?;
        let about = about(&first)?;
        Ok(Self { source, length, about })
    }

    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Goes through all records, in the order of the file, which is that of time for each processor alone.
    pub fn scan(&mut self, mut visit: impl FnMut(Place, &Record<'_>)) -> Statistics {
        let mut statistics = Statistics::default();
        let mut numbers = HashSet::new();
        let mut offset = 0;
        while offset < self.length {
            match self.scan_buffer(offset, &mut statistics, &mut numbers, &mut visit) {
                Ok(next) => offset = next,
                Err(damage) => {
                    statistics.damage = Some(damage);
                    break;
                }
            }
        }
        if let (Some(first), Some(last)) = (numbers.iter().min(), numbers.iter().max()) {
            statistics.missing_buffers = (last - first + 1).saturating_sub(numbers.len() as u64);
        }
        statistics
    }

    fn scan_buffer(
        &mut self,
        offset: u64,
        statistics: &mut Statistics,
        numbers: &mut HashSet<u64>,
        visit: &mut impl FnMut(Place, &Record<'_>),
    ) -> Result<u64, Damage> {
        let buffer = buffer(&mut self.source, offset, self.length)?;
        if offset > 0 {
            statistics.buffers += 1;
            numbers.insert(buffer.number);
        }
        statistics.after_lost_events += u64::from(buffer.flags & FLAG_EVENTS_LOST != 0);
        statistics.after_lost_buffers += u64::from(buffer.flags & FLAG_BUFFER_LOST != 0);
        if buffer.flags & FLAG_COMPRESSED != 0 {
            let what = "the buffer is compressed; weir reads traces of sessions that do not compress";
            return Err(damage(offset, what));
        }
        let mut at = BUFFER_HEADER;
        let mut time = self.about.start;
        while at + 4 <= buffer.bytes.len() {
            let rest = &buffer.bytes[at..];
            // What follows the last record.
            if rest.starts_with(&[0xFF; 4]) {
                break;
            }
            let here = offset + at as u64;
            let (size, record) = record(rest, &self.about.clock, (buffer.processor, time))
                .map_err(|what| cut_or(&buffer, self.length, damage(here, what)))?;
            time = record.time;
            match record.body {
                // The first record, and what else the file says of itself.
                Body::Other { hook: Some(0..=0xFF), .. } => {}
                ref body => {
                    let counted = matches!(body, Body::Event { .. });
                    statistics.events += u64::from(counted);
                    statistics.others += u64::from(!counted);
                    let size = u32::from(u16::try_from(size).unwrap_or(u16::MAX));
                    visit(Place { time, offset: here, size, processor: buffer.processor }, &record);
                }
            }
            at += aligned(size);
        }
        if buffer.cut {
            return Err(cut(&buffer, self.length));
        }
        Ok(offset + buffer.size)
    }

    /// Reads a record again.
    ///
    /// # Errors
    /// The source's; and what a file that has changed meanwhile may have.
    pub fn read<T>(&mut self, place: &Place, look: impl FnOnce(&Record<'_>) -> T) -> Result<T, Damage> {
        let mut bytes = vec![0; place.size as usize];
        self.source.seek(SeekFrom::Start(place.offset)).map_err(failed(place.offset))?;
        self.source.read_exact(&mut bytes).map_err(failed(place.offset))?;
        let (_, record) = record(&bytes, &self.about.clock, (place.processor, place.time))
            .map_err(|what| damage(place.offset, what))?;
        Ok(look(&record))
    }
}

fn cut(buffer: &Buffer, length: u64) -> Damage {
    let Buffer { offset, size, .. } = buffer;
    damage(length, format!("the file ends within the buffer at offset {offset}, which has {size} bytes"))
}

/// In a buffer that the file does not have whole, a record that cannot be is one that was cut.
fn cut_or(buffer: &Buffer, length: u64, found: Damage) -> Damage {
    if buffer.cut { cut(buffer, length) } else { found }
}

/// Reads a buffer.
fn buffer<R: Read + Seek>(source: &mut R, offset: u64, length: u64) -> Result<Buffer, Damage> {
    let left = length - offset;
    if left < BUFFER_HEADER as u64 {
        return Err(damage(
            length,
            format!("the file ends within the header of the buffer at offset {offset}"),
        ));
    }
    let mut bytes = vec![0; BUFFER_HEADER];
    source.seek(SeekFrom::Start(offset)).map_err(failed(offset))?;
    source.read_exact(&mut bytes).map_err(failed(offset))?;
    let (size, end) = (u32_at(&bytes, 0), u32_at(&bytes, 48));
    let flags = u16_at(&bytes, 52);
    if !(SMALLEST_BUFFER..=LARGEST_BUFFER).contains(&size) {
        return Err(damage(offset, format!("no buffer has a size of {size} bytes")));
    }
    let compressed = flags & FLAG_COMPRESSED != 0;
    if end < SMALLEST_BUFFER || end > size && !compressed {
        let what = format!("a buffer of {size} bytes cannot have records up to byte {end}");
        return Err(damage(offset + 48, what));
    }
    let end = if compressed { SMALLEST_BUFFER } else { end };
    let there = left.min(end.into());
    // At most LARGEST_BUFFER, and no more than the file has.
    bytes.resize(usize::try_from(there).unwrap_or(BUFFER_HEADER), 0);
    source.read_exact(&mut bytes[BUFFER_HEADER..]).map_err(failed(offset))?;
    Ok(Buffer {
        offset,
        size: size.into(),
        number: u64_at(&bytes, 24),
        processor: u16_at(&bytes, 40),
        flags,
        cut: left < u64::from(size),
        bytes,
    })
}

/// Reads the first record.
fn about(first: &Buffer) -> Result<About, Damage> {
    let here = BUFFER_HEADER as u64;
    let no = |what: &str| damage(here, format!("this is no event trace log: {what}"));
    let record = first.bytes.get(BUFFER_HEADER..).unwrap_or_default();
    let (kind, marker, size) = (array::<1>(record, 2)[0], array::<1>(record, 3)[0], u16_at(record, 4));
    if !matches!(kind, TYPE_SYSTEM32 | TYPE_SYSTEM64) || marker != MARKER || u16_at(record, 6) != 0 {
        return Err(no("its first record does not describe one"));
    }
    let narrow = kind == TYPE_SYSTEM32;
    let fixed = if narrow { LOGFILE_HEADER - 8 } else { LOGFILE_HEADER };
    let size = usize::from(size);
    if size < SYSTEM_HEADER + fixed || size > record.len() {
        return Err(if first.cut {
            cut(first, first.offset + record.len() as u64)
        } else {
            no("its first record is too short")
        });
    }
    let about = &record[SYSTEM_HEADER..size];
    // Behind the two pointers everything lies 8 bytes earlier in the 32-bit form.
    let late = |at: usize| if narrow { at - 8 } else { at };
    let (session, end) = wide(about, fixed);
    let (file, _) = wide(about, end);
    let start = u64_at(about, late(0x108));
    let counter = |frequency| Clock::Counter { first: u64_at(record, 0x10), start, frequency };
    let clock = match u32_at(about, late(0x110)) {
        // Windows Vista and earlier say 0 for it.
        0 | CLOCK_SYSTEM_TIME => Clock::SystemTime,
        CLOCK_COUNTER => counter(u64_at(about, late(0x100))),
        CLOCK_CYCLES => counter(u64::from(u32_at(about, 0x34)) * 1_000_000),
        other => return Err(no(&format!("there is no clock of the kind {other}"))),
    };
    if matches!(clock, Clock::Counter { frequency: 0, .. }) {
        return Err(no("its clock has no frequency"));
    }
    let [major, minor, ..] = array::<4>(about, 4);
    let end = u64_at(about, 0x10);
    Ok(About {
        session,
        file,
        system: (major, minor, u32_at(about, 8)),
        processors: u32_at(about, 0x0C),
        start,
        end: (end != 0).then_some(end),
        buffers_written: u32_at(about, 0x24),
        events_lost: u32_at(about, 0x30),
        buffers_lost: u32_at(about, late(0x114)),
        clock,
    })
}

/// Reads a record, which is before other bytes; its size, and what it is. `known`: processor, and the time for one that has
/// none.
fn record<'a>(bytes: &'a [u8], clock: &Clock, known: (u16, u64)) -> Result<(usize, Record<'a>), String> {
    let (kind, marker) = (array::<1>(bytes, 2)[0], array::<1>(bytes, 3)[0]);
    let unknown = || Err(format!("no record begins with {:#010x}", u32_at(bytes, 0)));
    // Where its size is, and how long its header.
    let (at, header, name) = match (marker, kind) {
        (MARKER, TYPE_EVENT32 | TYPE_EVENT64) => (0, EVENT_HEADER, "event"),
        (MARKER, TYPE_SYSTEM32 | TYPE_SYSTEM64) => (4, SYSTEM_HEADER, "system"),
        (MARKER, TYPE_COMPACT32 | TYPE_COMPACT64) => (4, 24, "system"),
        (MARKER, TYPE_PERFINFO32 | TYPE_PERFINFO64) => (4, 16, "perfinfo"),
        (MARKER, TYPE_FULL32 | TYPE_FULL64) => (0, 48, "classic"),
        (MARKER, TYPE_INSTANCE32 | TYPE_INSTANCE64) => (0, 48, "instance"),
        (MARKER_MESSAGE, _) => (0, 8, "message"),
        _ => return unknown(),
    };
    let size = usize::from(u16_at(bytes, at));
    let Some(whole) = bytes.get(..size).filter(|_| size >= header) else {
        return Err(format!("a record of the kind {name} has {size} bytes, where {} are left", bytes.len()));
    };
    let data = &whole[header..];
    let (processor, before) = known;
    let mut record = Record {
        time: before,
        processor,
        process: None,
        thread: None,
        body: Body::Other { kind: name, provider: None, hook: None, data },
    };
    let time = |at| clock.system_time(u64_at(whole, at));
    match name {
        "event" => {
            record.time = time(16);
            record.body = event(whole)?;
        }
        "perfinfo" => {
            record.time = time(8);
            record.body = Body::Other { kind: name, provider: None, hook: Some(u16_at(whole, 6)), data };
        }
        "system" => {
            record.time = time(16);
            record.body = Body::Other { kind: name, provider: None, hook: Some(u16_at(whole, 6)), data };
        }
        "message" => message(whole, &mut record, clock),
        _ => {
            record.time = time(16);
            record.body = Body::Other { kind: name, provider: Some(array(whole, 24)), hook: None, data };
        }
    }
    if !matches!(name, "perfinfo" | "message") {
        record.thread = Some(u32_at(whole, 8));
        record.process = Some(u32_at(whole, 12));
    }
    Ok((size, record))
}

/// An event with a descriptor: its header, items of extended data if it has any, and its fields.
fn event(record: &[u8]) -> Result<Body<'_>, String> {
    let (mut traits, mut schema) = (None, None);
    let mut at = EVENT_HEADER;
    let mut more = u16_at(record, 4) & FLAG_EXTENDED != 0;
    while more {
        let (kind, size) = (u16_at(record, at + 2), usize::from(u16_at(record, at + 6)));
        let data = record.get(at + ITEM_HEADER..).and_then(|rest| rest.get(..size));
        let data = data.ok_or_else(|| {
            format!("an item of {size} bytes, {at} bytes behind the record's beginning, goes beyond its end")
        })?;
        match kind {
            ITEM_TRAITS => traits = Some(data),
            ITEM_SCHEMA => schema = Some(data),
            _ => {}
        }
        more = u16_at(record, at + 4) & 1 != 0;
        at += aligned(ITEM_HEADER + size);
    }
    Ok(Body::Event {
        provider: array(record, 24),
        descriptor: Descriptor::from_bytes(array(record, 40)),
        activity: array(record, 64),
        traits,
        schema,
        // The last item may end with the record, where its padding would be.
        fields: record.get(at..).unwrap_or_default(),
    })
}

/// A message of the trace preprocessor, WPP: page "MESSAGE_TRACE_HEADER" of Geoff Chappell's has the order of what it may have.
fn message<'a>(whole: &'a [u8], record: &mut Record<'a>, clock: &Clock) {
    let options = u16_at(whole, 6);
    let mut at = 8;
    let mut take = |bit: u16, size: usize| {
        let place = (options & bit != 0).then_some(at).filter(|at| at + size <= whole.len());
        if place.is_some() {
            at += size;
        }
        place
    };
    // The sequence number, the message's GUID or else the component's number, the time, and thread and process.
    take(1, 4);
    let provider = take(2, 16);
    if provider.is_none() {
        take(4, 4);
    }
    let time = take(8, 8);
    let system = take(0x20, 8);
    if let Some(time) = time {
        record.time = clock.system_time(u64_at(whole, time));
    }
    record.thread = system.map(|system| u32_at(whole, system));
    record.process = system.map(|system| u32_at(whole, system + 4));
    record.body = Body::Other {
        kind: "message",
        provider: provider.map(|provider| array(whole, provider)),
        hook: None,
        data: whole.get(at..).unwrap_or_default(),
    };
}
