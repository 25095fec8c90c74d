//! Event trace logs: the files that Event Tracing for Windows writes, written and read without Windows.
//!
//! The format is not Microsoft's promise. What is here follows Geoff Chappell's pages on `ntwmi.h` ("WMI_BUFFER_HEADER",
//! "BufferFlag", "BufferType", "ETW_BUFFER_STATE", "Trace Headers", "SYSTEM_TRACE_HEADER", "TRACE_LOGFILE_HEADER",
//! "EVENT_HEADER"), Microsoft's pages "ETW_BUFFER_HEADER structure", "TRACE_LOGFILE_HEADER structure", "EVENT_HEADER
//! structure" and "EVENT_HEADER_EXTENDED_DATA_ITEM structure", and what files have that Windows itself wrote.
//!
//! A file is buffers, one after the other, each with a header that has its size. The first holds one record, which
//! describes the file; the others hold records of events, in the order of time for each processor. All numbers are
//! little-endian, records lie at multiples of 8.
//!
//! | offset | in a buffer's header |
//! | --- | --- |
//! | 0 | size of the buffer |
//! | 4, 8 | where its records end, when it was saved and when it was filled |
//! | 16 | when it was written |
//! | 24 | its number |
//! | 40, 42 | the processor, and the session |
//! | 44 | its state |
//! | 48 | where its records end |
//! | 52, 54 | flags, and what kind of records it has |
//! | 72 | records |
//!
//! [`Writer`] makes such files, [`Reader`] takes them apart, [`tracelogging`] decodes events that describe themselves.

pub mod read;
pub mod tracelogging;
mod write;

pub use read::Reader;
pub use write::{Event, Session, Writer};

/// A buffer's header.
const BUFFER_HEADER: usize = 72;
/// `ETW_BUFFER_FLAG_*`.
const FLAG_FLUSH_MARKER: u16 = 1;
const FLAG_EVENTS_LOST: u16 = 2;
const FLAG_BUFFER_LOST: u16 = 4;
const FLAG_PROCESSOR_INDEX: u16 = 0x20;
const FLAG_COMPRESSED: u16 = 0x40;
/// `ETW_BUFFER_TYPE_HEADER`: the first buffer.
const TYPE_HEADER: u16 = 4;
/// `EtwBufferStateFlush`.
const STATE_FLUSH: u32 = 3;

/// In the two highest bits of a record's fourth byte: it is a record with one of the types below as its third.
const MARKER: u8 = 0xC0;
/// `MESSAGE_TRACE_HEADER`s have this instead.
const MARKER_MESSAGE: u8 = 0x90;
/// `TRACE_HEADER_TYPE_*`.
const TYPE_SYSTEM32: u8 = 1;
const TYPE_SYSTEM64: u8 = 2;
const TYPE_COMPACT32: u8 = 3;
const TYPE_COMPACT64: u8 = 4;
const TYPE_FULL32: u8 = 0x0A;
const TYPE_INSTANCE32: u8 = 0x0B;
const TYPE_PERFINFO32: u8 = 0x10;
const TYPE_PERFINFO64: u8 = 0x11;
const TYPE_EVENT32: u8 = 0x12;
const TYPE_EVENT64: u8 = 0x13;
const TYPE_FULL64: u8 = 0x14;
const TYPE_INSTANCE64: u8 = 0x15;

/// `SYSTEM_TRACE_HEADER`, before what the first record tells.
const SYSTEM_HEADER: usize = 32;
/// `TRACE_LOGFILE_HEADER` in its 64-bit form.
const LOGFILE_HEADER: usize = 0x118;
/// `EVENT_HEADER`.
const EVENT_HEADER: usize = 80;
/// What stands before the data of an extended data item.
const ITEM_HEADER: usize = 8;
/// `EVENT_HEADER_FLAG_EXTENDED_INFO`.
const FLAG_EXTENDED: u16 = 1;
/// `EVENT_HEADER_EXT_TYPE_EVENT_SCHEMA_TL`, `EVENT_HEADER_EXT_TYPE_PROV_TRAITS`.
const ITEM_SCHEMA: u16 = 11;
const ITEM_TRAITS: u16 = 12;

/// `ClockType`: the performance counter, the system time, the processor's cycles.
const CLOCK_COUNTER: u32 = 1;
const CLOCK_SYSTEM_TIME: u32 = 2;
const CLOCK_CYCLES: u32 = 3;

/// Units of 100 ns in a second, and from 1601 to 1970: the system time's.
pub const SECOND: u64 = 10_000_000;
pub const UNIX: u64 = 116_444_736_000_000_000;

/// What an event is, for filters: `EVENT_DESCRIPTOR`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Descriptor {
    pub id: u16,
    pub version: u8,
    pub channel: u8,
    pub level: u8,
    pub opcode: u8,
    pub task: u16,
    pub keywords: u64,
}

impl Descriptor {
    /// As it lies in memory and in files.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&self.id.to_le_bytes());
        bytes[2..6].copy_from_slice(&[self.version, self.channel, self.level, self.opcode]);
        bytes[6..8].copy_from_slice(&self.task.to_le_bytes());
        bytes[8..].copy_from_slice(&self.keywords.to_le_bytes());
        bytes
    }

    /// The reverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [i0, i1, version, channel, level, opcode, t0, t1, keywords @ ..] = bytes;
        Self {
            id: u16::from_le_bytes([i0, i1]),
            version,
            channel,
            level,
            opcode,
            task: u16::from_le_bytes([t0, t1]),
            keywords: u64::from_le_bytes(keywords),
        }
    }
}

/// The next multiple of 8.
const fn aligned(size: usize) -> usize {
    size.next_multiple_of(8)
}
