//! The unit of ring memory: one cache line. A record's first line begins with its header.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | the kind's number; the high bit says that the record belongs to an object |
//! | 1 | how many lines the record takes |
//! | 2–3 | detail: a word for the kind's own use |
//! | 4–7 | records that the processor lost since its last one |
//! | 8–15 | the object's address; without an object, payload |
//! | 16–19 | the record's number among those of its object; without an object, payload |
//!
//! The first eight bytes are written in one store.

use core::{cell::UnsafeCell, mem::size_of};

use static_assertions::const_assert_eq;

/// Bytes in a line.
pub const LINE: usize = 64;
/// Payload bytes of a record of one line that belongs to no object.
pub const PAYLOAD: usize = LINE - size_of::<Head>();
/// Payload bytes of a record of one line that belongs to an object.
pub const OBJECT_PAYLOAD: usize = PAYLOAD - size_of::<Owner>();
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

/// The first eight bytes of each record.
#[derive(Clone, Copy)]
pub struct Head(u64);

impl Head {
    const OBJECT: u64 = 0x80;
    const KIND: u64 = 0x7F;

    /// The head of a record of `lines` lines, at most [`MAX_LINES`].
    #[inline(always)]
    pub const fn new(kind: u8, of_object: bool, lines: usize, detail: u16, lost: u32) -> Self {
        let object = if of_object { Self::OBJECT } else { 0 };
        Self((lost as u64) << 32 | (detail as u64) << 16 | (lines as u64) << 8 | object | kind as u64)
    }

    /// The kind's number, or [`FILLER`].
    #[inline(always)]
    pub const fn kind(self) -> u8 {
        (self.0 & Self::KIND) as u8
    }

    /// Whether an [`Owner`] follows.
    #[inline(always)]
    pub const fn of_object(self) -> bool {
        self.0 & Self::OBJECT != 0
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

/// What follows the head of an object's record. Packed, so that the payload may begin right behind it.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub struct Owner {
    /// The object's address.
    pub object: *const (),
    /// The record's number among those of its object.
    pub sequence: u32,
}

/// Kind of the record that fills the end of the ring where the next one did not fit.
pub const FILLER: u8 = 0x7F;

const_assert_eq!(size_of::<Line>(), LINE);
const_assert_eq!(align_of::<Line>(), LINE);
const_assert_eq!(PAYLOAD, 56);
const_assert_eq!(OBJECT_PAYLOAD, 44);

/// Bytes before the payload.
#[inline(always)]
pub const fn header(of_object: bool) -> usize {
    LINE - if of_object { OBJECT_PAYLOAD } else { PAYLOAD }
}

/// Lines for a record of `len` payload bytes.
#[inline(always)]
pub const fn lines_for(of_object: bool, len: usize) -> usize {
    let first = LINE - header(of_object);
    if len <= first { 1 } else { 1 + (len - first).div_ceil(LINE) }
}
