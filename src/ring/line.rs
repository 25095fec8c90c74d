//! The unit of ring memory: one cache line, which begins with the record's header.

use core::{cell::UnsafeCell, mem::size_of};

use static_assertions::const_assert_eq;

/// Bytes in a line.
pub const LINE: usize = 64;
/// Bytes of a record's header, at the start of its first line.
pub const HEADER: usize = size_of::<Header>();
/// Payload bytes of a record of one line.
pub const PAYLOAD: usize = LINE - HEADER;
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

/// The start of each record. Packed, so that the payload may begin right behind it.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub struct Header {
    /// [`FILLER`], or the record's kind.
    pub kind: u8,
    /// Lines that the record takes, its own header's included.
    pub lines: u8,
    /// A word for the kind's own use.
    pub detail: u16,
    /// Records that this processor lost since its last one.
    pub lost: u32,
    /// The object that the record belongs to, or null.
    pub object: *const (),
    /// The record's number among those of its object.
    pub sequence: u32,
}

/// Kind of the record that fills the end of the ring where the next one did not fit.
pub const FILLER: u8 = u8::MAX;

const_assert_eq!(size_of::<Line>(), LINE);
const_assert_eq!(align_of::<Line>(), LINE);
const_assert_eq!(HEADER, 20);
const_assert_eq!(PAYLOAD, 44);

/// Lines for a record of `len` payload bytes.
#[inline(always)]
pub const fn lines_for(len: usize) -> usize {
    if len <= PAYLOAD { 1 } else { 1 + (len - PAYLOAD).div_ceil(LINE) }
}
