//! Capture files: pcap (micro- and nanosecond, both byte orders) and pcapng, read as a stream.
//!
//! A damaged file is reported with the offset of the record that cannot be read, after every record before it was
//! handed on. Memory is bounded by the largest record, not by the file.

use std::cell::RefCell;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, LegacyPcapReader, Linktype, PcapBlockOwned, PcapError, PcapNGReader};

const BUFFER: usize = 1 << 20;
/// Larger than any record that a capture tool writes; a length above it is damage, not data.
const LARGEST_RECORD: usize = 64 << 20;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The link type (`LINKTYPE_*` of the pcap specification) of the interface that captured it.
    pub link_type: u16,
    /// Nanoseconds since 1970-01-01 UTC; 0 where the file gives no time.
    pub time: i64,
    /// The frame's length on the wire in bytes; `data` is shorter if the capture was cut at a snapshot length.
    pub wire_len: u32,
    /// The captured bytes.
    pub data: &'a [u8],
}

/// Why reading ended early. Everything before `offset` was handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The offset in the file, in bytes, of the record that cannot be read.
    pub offset: u64,
    /// What is wrong with it.
    pub what: String,
}

/// How reading ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the file.
    Complete,
    /// The caller asked to stop.
    Stopped,
    /// At a record that cannot be read.
    Damaged(Damage),
}

/// A source that fills the whole buffer unless it ends, and keeps the error that the parser would swallow.
struct Source<R> {
    inner: R,
    error: Rc<RefCell<Option<io::Error>>>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.inner.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.error.borrow_mut() = Some(error);
                    return Err(kind.into());
                }
            }
        }
        Ok(filled)
    }
}

/// What a pcapng section has said so far.
#[derive(Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

struct Interface {
    link_type: u16,
    /// Bytes kept of each frame; 0 is all.
    snaplen: u32,
    /// Time units per second.
    resolution: u64,
    /// Seconds added to each time stamp.
    offset: i64,
}

/// An open capture.
pub struct Capture {
    source: Box<dyn Read>,
}

impl Capture {
    /// A capture from a source of bytes.
    pub fn from_reader(source: impl Read + 'static) -> Self {
        Self { source: Box::new(source) }
    }

    /// Hands each frame to `each` with its record's offset in the file, until the end, damage, or a break.
    pub fn for_each(self, mut each: impl FnMut(Frame<'_>, u64) -> ControlFlow<()>) -> End {
        let error = Rc::new(RefCell::new(None));
        let source = Source { inner: self.source, error: Rc::clone(&error) };
        let damaged = |offset: u64, what: String| {
            let what = match error.borrow_mut().take() {
                Some(error) => format!("cannot be read: {error}"),
                None => what,
            };
            End::Damaged(Damage { offset, what })
        };
        let mut reader = match open_reader(source) {
            Ok(reader) => reader,
            Err(what) => return damaged(0, what),
        };
        let mut section = Section::default();
        let mut legacy = (0u16, 1_000u32);
        let mut capacity = BUFFER;
        loop {
            let offset = reader.consumed() as u64;
            let fault = match reader.next() {
                Ok((used, block)) => {
                    let frame = match &block {
                        PcapBlockOwned::LegacyHeader(header) => {
                            legacy.0 = link_type(header.network);
                            legacy.1 = if header.is_nanosecond_precision() { 1 } else { 1_000 };
                            Ok(None)
                        }
                        PcapBlockOwned::Legacy(block) => Ok(Some(Frame {
                            link_type: legacy.0,
                            time: i64::from(block.ts_sec) * 1_000_000_000
                                + i64::from(block.ts_usec) * i64::from(legacy.1),
                            wire_len: block.origlen.max(block.caplen),
                            data: block.data,
                        })),
                        PcapBlockOwned::NG(block) => next_generation(&mut section, block),
                    };
                    match frame {
                        Ok(Some(frame)) => {
                            if each(frame, offset).is_break() {
                                return End::Stopped;
                            }
                        }
                        Ok(None) => {}
                        Err(what) => return damaged(offset, what),
                    }
                    reader.consume(used);
                    continue;
                }
                Err(PcapError::Eof) => return End::Complete,
                Err(PcapError::Incomplete(_)) => Fault::Refill,
                Err(PcapError::BufferTooSmall) => Fault::Grow,
                Err(PcapError::UnexpectedEof) => Fault::Cut,
                Err(PcapError::ReadError) => Fault::Damage("cannot be read".into()),
                Err(PcapError::HeaderNotRecognized) => Fault::Damage("no section header".into()),
                Err(PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind)) => {
                    Fault::Damage(format!("malformed record ({})", kind.description()))
                }
            };
            match fault {
                Fault::Refill => {
                    if reader.refill().is_err() {
                        return damaged(offset, "cannot be read".into());
                    }
                }
                Fault::Grow if capacity < LARGEST_RECORD => {
                    capacity *= 2;
                    if !reader.grow(capacity) || reader.refill().is_err() {
                        return damaged(offset, "cannot be read".into());
                    }
                }
                Fault::Grow => {
                    return damaged(offset, format!("the record claims more than {LARGEST_RECORD} bytes"));
                }
                Fault::Cut => return damaged(offset, "the file ends in the midst of a record".into()),
                Fault::Damage(what) => return damaged(offset, what),
            }
        }
    }
}

enum Fault {
    Refill,
    Grow,
    Cut,
    Damage(String),
}

fn open_reader<R: Read + 'static>(source: Source<R>) -> Result<Box<dyn PcapReaderIterator>, String> {
    let mut source = source;
    let mut start = [0; 4];
    let filled = source.read(&mut start).map_err(|error| format!("cannot be read: {error}"))?;
    let start = &start[..filled];
    let whole =
        Source { error: Rc::clone(&source.error), inner: io::Cursor::new(start.to_vec()).chain(source) };
    // The magic numbers are those of the pcap and pcapng specifications (draft-ietf-opsawg-pcap, -pcapng).
    let opened: Result<Box<dyn PcapReaderIterator>, _> = match *start {
        [] => return Err("the file is empty".into()),
        [0x0a, 0x0d, 0x0d, 0x0a] => PcapNGReader::new(BUFFER, whole).map(|reader| Box::new(reader) as _),
        [0xd4, 0xc3, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0xc3, 0xd4]
        | [0x4d, 0x3c, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0x3c, 0x4d]
        | [0x34, 0xcd, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0xcd, 0x34] => {
            LegacyPcapReader::new(BUFFER, whole).map(|reader| Box::new(reader) as _)
        }
        [0x1f, 0x8b, ..] => return Err("neither pcap nor pcapng: compressed with gzip".into()),
        [0x28, 0xb5, 0x2f, 0xfd] => return Err("neither pcap nor pcapng: compressed with zstd".into()),
        _ => return Err("neither pcap nor pcapng".into()),
    };
    opened.map_err(|error| match error {
        PcapError::Incomplete(_) | PcapError::UnexpectedEof | PcapError::Eof => {
            "the file ends in the midst of its header".into()
        }
        _ => "malformed file header".into(),
    })
}

/// The type alone: the upper half holds the length of the frame check sequence.
fn link_type(link_type: Linktype) -> u16 {
    let [low, high, ..] = link_type.0.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Follows the section and interface blocks of a pcapng file, and takes the frame out of a packet block.
fn next_generation<'a>(section: &mut Section, block: &Block<'a>) -> Result<Option<Frame<'a>>, String> {
    match block {
        Block::SectionHeader(header) => {
            section.interfaces.clear();
            section.big_endian = header.big_endian();
            Ok(None)
        }
        Block::InterfaceDescription(description) => {
            let exponent = u32::from(description.if_tsresol & 0x7f);
            let resolution = if description.if_tsresol & 0x80 == 0 {
                10u64.checked_pow(exponent)
            } else {
                1u64.checked_shl(exponent)
            };
            let Some(resolution) = resolution else {
                return Err(format!("time resolution {:#04x} out of range", description.if_tsresol));
            };
            // The parser reads the offset as little-endian whatever the section's byte order is.
            let offset = if section.big_endian {
                description.if_tsoffset.swap_bytes()
            } else {
                description.if_tsoffset
            };
            section.interfaces.push(Interface {
                link_type: link_type(description.linktype),
                snaplen: description.snaplen,
                resolution,
                offset,
            });
            Ok(None)
        }
        Block::EnhancedPacket(packet) => {
            let stamp = (u64::from(packet.ts_high) << 32) | u64::from(packet.ts_low);
            section.frame(packet.if_id, stamp, packet.origlen, packet.caplen, packet.data).map(Some)
        }
        Block::SimplePacket(packet) => {
            let snaplen = section.interfaces.first().map_or(0, |interface| interface.snaplen);
            let captured = if snaplen == 0 { packet.origlen } else { packet.origlen.min(snaplen) };
            let captured = captured.min(u32::try_from(packet.data.len()).unwrap_or(u32::MAX));
            section.frame(0, 0, packet.origlen, captured, packet.data).map(Some)
        }
        Block::Unknown(unknown) if unknown.block_type == OBSOLETE_PACKET => {
            let field = |at: usize| {
                let bytes = unknown.data.get(at..at + 4)?.try_into().ok()?;
                Some(if section.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
            };
            let fields = (field(0), field(4), field(8), field(12), field(16));
            let (Some(first), Some(high), Some(low), Some(captured), Some(wire)) = fields else {
                return Err("packet block cut short".into());
            };
            let interface = if section.big_endian { first >> 16 } else { first & 0xffff };
            let stamp = (u64::from(high) << 32) | u64::from(low);
            section.frame(interface, stamp, wire, captured, &unknown.data[20..]).map(Some)
        }
        _ => Ok(None),
    }
}

/// The Packet Block of old pcapng files (draft-ietf-opsawg-pcapng, appendix A).
const OBSOLETE_PACKET: u32 = 2;

impl Section {
    fn frame<'a>(
        &self,
        interface: u32,
        stamp: u64,
        wire_len: u32,
        captured: u32,
        data: &'a [u8],
    ) -> Result<Frame<'a>, String> {
        let described = usize::try_from(interface).ok().and_then(|index| self.interfaces.get(index));
        let Some(described) = described else {
            return Err(format!("packet on interface {interface}, which is not described"));
        };
        let Some(data) = usize::try_from(captured).ok().and_then(|captured| data.get(..captured)) else {
            return Err(format!("packet of {captured} bytes in a block that holds {}", data.len()));
        };
        let nanoseconds = u128::from(stamp) * 1_000_000_000 / u128::from(described.resolution);
        let time = i128::try_from(nanoseconds).unwrap_or(0) + i128::from(described.offset) * 1_000_000_000;
        Ok(Frame {
            link_type: described.link_type,
            time: i64::try_from(time).unwrap_or(0),
            wire_len: wire_len.max(captured),
            data,
        })
    }
}
