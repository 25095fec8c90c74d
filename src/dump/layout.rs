//! The block's layout, to write and to read. Pure.
#![forbid(unsafe_code)]

/// The block's tag in a dump, in the fields of a GUID.
pub const TAG: (u32, u16, u16, [u8; 8]) =
    (0x6620_9997, 0x3e4b, 0x4933, [0x80, 0x3c, 0xd2, 0x26, 0xf1, 0x80, 0xf6, 0xab]);

const MAGIC: [u8; 8] = *b"weirdmp\0";
const LAYOUT: u32 = 1;
/// The version of the driver that writes.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub const HEADER: usize = 64;
pub const STEP: usize = 48;
pub const STEP_NAME: usize = 32;
/// What stands before a processor's lines.
pub const HEAD: usize = 64;
/// A line of a ring.
pub const LINE: usize = 64;
/// Steps that are kept.
pub const STEPS: usize = 32;
/// As a number.
pub const STEPS_KEPT: u32 = 32;
const _: () = assert!(STEPS_KEPT as usize == STEPS);
/// Rings that are looked at, at most: those that there is no room for are counted.
pub const MOST_RINGS: usize = 4096;
/// Lines of each processor.
pub const LINES: usize = 16;
/// Processors that there is room for, at most.
pub const MAX_PROCESSORS: usize = 64;

const VERSION_AT: usize = 16;
const VERSION_SIZE: usize = 24;

/// The size of a block with room for so many processors.
pub const fn size(processors: usize) -> usize {
    const PROCESSOR: usize = HEAD + LINES * LINE;
    let processors = if processors < MAX_PROCESSORS { processors } else { MAX_PROCESSORS };
    (HEADER + STEPS * STEP).saturating_add(processors.saturating_mul(PROCESSOR))
}

/// What stands in the header beside the sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Of a policy that was given last; 0: none.
    pub generation: u32,
    /// Since the driver was loaded.
    pub steps: u32,
    /// With a ring, and not in the block.
    pub left_out: u32,
}

/// A step of the start or the stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// 100 ns since 1601, UTC.
    pub time: u64,
    pub status: i32,
    pub of_stop: bool,
    /// Zeros to the end.
    pub name: [u8; STEP_NAME],
}

/// Where a processor's ring stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    pub number: u32,
    pub written: u64,
    pub given_back: u64,
    pub delivered: u64,
    pub lost: u64,
    pub capacity: u64,
}

/// Writes a block from its start; what has no room is left out.
#[derive(Debug)]
pub struct Writer<'a> {
    into: &'a mut [u8],
    at: usize,
    steps: u32,
    processors: u32,
}

impl<'a> Writer<'a> {
    /// Writes over `into`.
    pub fn new(into: &'a mut [u8]) -> Self {
        into.fill(0);
        Self { into, at: HEADER, steps: 0, processors: 0 }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = self.into.get_mut(at..).unwrap_or_default();
        for (place, byte) in place.iter_mut().zip(bytes) {
            *place = *byte;
        }
    }

    /// Adds a step; false if there is no room.
    pub fn step(&mut self, step: &Step) -> bool {
        let (at, end) = (self.at, self.at.saturating_add(STEP));
        if end > self.into.len() {
            return false;
        }
        self.put(at, &step.time.to_le_bytes());
        self.put(at.saturating_add(8), &step.status.to_le_bytes());
        self.put(at.saturating_add(12), &u32::from(step.of_stop).to_le_bytes());
        self.put(at.saturating_add(16), &step.name);
        self.at = end;
        self.steps = self.steps.saturating_add(1);
        true
    }

    /// Adds a processor, whose lines `copy` writes to where they belong, and says how many they are; false if there is no
    /// room.
    pub fn processor(&mut self, head: &Head, copy: impl FnOnce(&mut [[u8; LINE]]) -> usize) -> bool {
        let (at, lines) = (self.at, self.at.saturating_add(HEAD));
        let end = lines.saturating_add(LINES.saturating_mul(LINE));
        let Some(room) = self.into.get_mut(lines..end) else { return false };
        let copied = copy(room.as_chunks_mut().0).min(LINES);
        self.put(at, &head.number.to_le_bytes());
        self.put(at.saturating_add(4), &u32::try_from(copied).unwrap_or(0).to_le_bytes());
        let numbers = [head.written, head.given_back, head.delivered, head.lost, head.capacity];
        for (index, number) in numbers.iter().enumerate() {
            self.put(at.saturating_add(8).saturating_add(index.saturating_mul(8)), &number.to_le_bytes());
        }
        self.at = end;
        self.processors = self.processors.saturating_add(1);
        true
    }

    /// Writes the header. How many bytes the block has; 0 if there is not even room for that.
    pub fn finish(mut self, header: &Header) -> usize {
        if self.into.len() < HEADER {
            return 0;
        }
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.put(0, &MAGIC);
        self.put(VERSION_AT, VERSION.as_bytes().get(..VERSION_SIZE).unwrap_or(VERSION.as_bytes()));
        let numbers = [(8, LAYOUT), (12, number(self.at)), (40, header.generation), (44, header.steps)];
        let counts = [(48, self.steps), (52, self.processors), (56, number(LINES)), (60, header.left_out)];
        for (at, number) in numbers.into_iter().chain(counts) {
            self.put(at, &number.to_le_bytes());
        }
        self.at
    }
}

/// A block, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dump<'a> {
    /// Of the driver that wrote it.
    pub version: &'a str,
    pub header: Header,
    steps: &'a [[u8; STEP]],
    processors: &'a [u8],
    /// The size of one of them.
    processor: usize,
}

impl<'a> Dump<'a> {
    /// Reads a block; `None` if that is none, of another layout, or cut.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| number(bytes, at).map(u32::from_le_bytes);
        let count = |at: usize| usize::try_from(word(at)?).ok();
        if bytes.get(..8)? != MAGIC || word(8)? != LAYOUT {
            return None;
        }
        let all = bytes.get(..count(12)?)?;
        let version = all.get(VERSION_AT..VERSION_AT.checked_add(VERSION_SIZE)?)?;
        let steps_end = count(48)?.checked_mul(STEP)?.checked_add(HEADER)?;
        let processor = count(56)?.checked_mul(LINE)?.checked_add(HEAD)?;
        let end = count(52)?.checked_mul(processor)?.checked_add(steps_end)?;
        Some(Self {
            version: text(version)?,
            header: Header { generation: word(40)?, steps: word(44)?, left_out: word(60)? },
            steps: all.get(HEADER..steps_end)?.as_chunks().0,
            processors: all.get(steps_end..end)?,
            processor,
        })
    }

    /// The steps, the oldest first; a name that is none is left out.
    pub fn steps(&self) -> impl Iterator<Item = (Step, &'a str)> + use<'a> {
        self.steps.iter().filter_map(|step| {
            let name = step.get(16..)?.first_chunk()?;
            let read = Step {
                time: u64::from_le_bytes(number(step, 0)?),
                status: i32::from_le_bytes(number(step, 8)?),
                of_stop: u32::from_le_bytes(number(step, 12)?) != 0,
                name: *name,
            };
            Some((read, text(name)?))
        })
    }

    /// The processors, with their lines, the oldest first.
    pub fn processors(&self) -> impl Iterator<Item = (Head, &'a [[u8; LINE]])> + use<'a> {
        self.processors.chunks_exact(self.processor).filter_map(|section| {
            let wide = |at| number(section, at).map(u64::from_le_bytes);
            let count = usize::try_from(u32::from_le_bytes(number(section, 4)?)).ok()?;
            let head = Head {
                number: u32::from_le_bytes(number(section, 0)?),
                written: wide(8)?,
                given_back: wide(16)?,
                delivered: wide(24)?,
                lost: wide(32)?,
                capacity: wide(40)?,
            };
            Some((head, section.get(HEAD..)?.as_chunks().0.get(..count)?))
        })
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Text with zeros to the end.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(bytes.get(..end)?).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const TOLD: Step = Step { time: 7, status: -1, of_stop: true, name: [b'x'; STEP_NAME] };
    const AT: Head = Head { number: 3, written: 20, given_back: 18, delivered: 17, lost: 2, capacity: 256 };

    fn block(room: usize) -> Vec<u8> {
        let mut bytes = vec![0xAA; room];
        let mut writer = Writer::new(&mut bytes);
        writer.step(&TOLD);
        writer.processor(&AT, |lines| {
            lines[0] = [1; LINE];
            lines[1] = [2; LINE];
            2
        });
        let length = writer.finish(&Header { generation: 5, steps: 40, left_out: 1 });
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = block(size(1));
        let dump = Dump::read(&bytes).unwrap();
        assert_eq!((dump.version, dump.header.generation, dump.header.steps), (VERSION, 5, 40));
        assert_eq!(dump.header.left_out, 1);
        let steps: Vec<_> = dump.steps().collect();
        assert_eq!(steps, [(TOLD, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")]);
        let processors: Vec<_> = dump.processors().collect();
        assert_eq!(processors, [(AT, &[[1; LINE], [2; LINE]][..])]);
    }

    #[test]
    fn with_less_room_there_is_less_in_it_and_what_there_is_can_be_read() {
        for room in 0..size(1) {
            let bytes = block(room);
            assert!(bytes.len() <= room);
            let dump = Dump::read(&bytes);
            assert_eq!(dump.is_some(), room >= HEADER, "{room}");
            let Some(dump) = dump else { continue };
            assert_eq!(dump.steps().count(), usize::from(room >= HEADER + STEP));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 0..4096),
            known in any::<bool>(),
        ) {
            if known && bytes.len() > 16 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
            }
            if let Some(dump) = Dump::read(&bytes) {
                let _ = dump.steps().count() + dump.processors().count();
            }
        }
    }
}
