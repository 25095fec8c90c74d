//! The unit of ring memory: one cache line. A record's first line begins with its header.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | the kind's number; the high bits say that the record belongs to an object, and has a time stamp |
//! | 1 | how many lines the record takes |
//! | 2–3 | detail: a word for the kind's own use |
//! | 4–7 | records that the processor lost since its last one |
//! | 8–15 | the object's address; without an object, nothing |
//! | from 16 | payload |
//! | the last 4 | the record's number among those of its object; without an object, payload |
//! | the 8 before | the time stamp; without one, payload |
//!
//! But for the stamp, that is the order of writing, from the first byte to the last: processors send stores to a line that another
//! one has read along in one go then. With the header written last, or stores of 16 bytes that are not aligned, a
//! record took half as long again, up to three times as long.

use core::{cell::UnsafeCell, mem::size_of};

use static_assertions::const_assert_eq;

/// Bytes in a line.
pub const LINE: usize = 64;
/// Bytes before the payload: the header, and the object's address or room for it.
pub const BEFORE: usize = size_of::<Header>() + size_of::<*const ()>();
/// Payload bytes of a record of one line without a time stamp that belongs to no object.
pub const PAYLOAD: usize = LINE - BEFORE;
/// Payload bytes of a record of one line without a time stamp that belongs to an object.
pub const OBJECT_PAYLOAD: usize = PAYLOAD - SEQUENCE;
/// A time stamp.
pub type Stamp = u64;
/// As it lies in a record.
pub type StampBytes = [u8; size_of::<Stamp>()];
/// The number behind the payload of a record that belongs to an object.
pub type Sequence = [u8; 4];
/// Its size.
pub const SEQUENCE: usize = size_of::<Sequence>();
/// Most lines that one record may take.
pub const MAX_LINES: usize = u8::MAX as usize;

/// One cache line of ring memory. All bytes zero is a valid line, so memory may come from a zeroing
/// allocator.
#[repr(C, align(64))]
pub struct Line(UnsafeCell<[u8; LINE]>);

// SAFETY: the bytes are reached only through raw pointers by the ring, whose protocol gives each line to
// one side at a time.
unsafe impl Sync for Line {}

impl Line {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; LINE]))
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// The first word of each record. The object's address follows, if it has one.
#[derive(Clone, Copy)]
pub struct Header(u64);

/// What lies around a record's payload.
#[derive(Clone, Copy)]
pub struct Frame {
    pub of_object: bool,
    pub stamped: bool,
}

impl Frame {
    /// Of a record of no object, without a stamp.
    pub const PLAIN: Self = Self { of_object: false, stamped: false };

    /// Bytes behind the time stamp.
    #[inline(always)]
    pub const fn behind_stamp(self) -> usize {
        if self.of_object { SEQUENCE } else { 0 }
    }

    /// Bytes behind the payload.
    #[inline(always)]
    pub const fn after(self) -> usize {
        self.behind_stamp() + if self.stamped { size_of::<Stamp>() } else { 0 }
    }

    /// Lines for a record of `len` payload bytes.
    #[inline(always)]
    pub const fn lines_for(self, len: usize) -> usize {
        let first = LINE - BEFORE - self.after();
        if len <= first { 1 } else { 1 + (len - first).div_ceil(LINE) }
    }
}

impl Header {
    const OBJECT: u64 = 0x80;
    const STAMPED: u64 = 0x40;
    const KIND: u64 = 0x3F;

    /// The header of a record of `lines` lines, at most [`MAX_LINES`].
    #[inline(always)]
    pub const fn new(kind: u8, frame: Frame, lines: usize, detail: u16) -> Self {
        let object = if frame.of_object { Self::OBJECT } else { 0 };
        let stamped = if frame.stamped { Self::STAMPED } else { 0 };
        Self((detail as u64) << 16 | (lines as u64) << 8 | object | stamped | kind as u64)
    }

    /// The same, after the loss of so many records.
    pub const fn after_losing(self, lost: u32) -> Self {
        Self(self.0 | (lost as u64) << 32)
    }

    /// The kind's number, or [`FILLER`].
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        (self.0 & Self::KIND) as u8
    }

    /// What lies around the payload.
    #[inline(always)]
    pub const fn frame(self) -> Frame {
        Frame { of_object: self.0 & Self::OBJECT != 0, stamped: self.0 & Self::STAMPED != 0 }
    }

    /// Lines that the record takes, this one included.
    #[inline(always)]
    pub const fn lines(self) -> usize {
        (self.0 >> 8 & 0xFF) as usize
    }

    /// The kind's own word.
    #[inline(always)]
    pub const fn detail(self) -> u16 {
        (self.0 >> 16 & 0xFFFF) as u16
    }

    /// Records lost directly before this one.
    #[inline(always)]
    pub const fn lost(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Kind of the record that fills the end of the ring where the next one did not fit.
pub const FILLER: u8 = 0x3F;

const_assert_eq!(size_of::<Line>(), LINE);
const_assert_eq!(align_of::<Line>(), LINE);
const_assert_eq!(BEFORE, 16);
