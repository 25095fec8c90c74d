//! Memory behind a `WSK_BUF`: the pieces of an MDL chain, from an offset into its first MDL on.
//!
//! Page "WSK_BUF": the offset lies within the first MDL, and the length within the chain.

use crate::sys::nt::{MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL, PMDL};
use crate::sys::wsk::{PWSK_BUF, WSK_BUF};
use alloc::vec::Vec;

/// A contiguous piece.
#[derive(Clone, Copy, Debug)]
struct Extent {
    start: *mut u8,
    length: usize,
}

/// A buffer of the client's, valid until its request is completed.
#[derive(Debug, Default)]
pub struct Chain {
    extents: Vec<Extent>,
    length: usize,
}

// SAFETY: the memory is the client's, non-paged, and belongs to the request for as long as this value lives.
unsafe impl Send for Chain {}
// SAFETY: as above; shared access changes nothing but the client's memory, under the socket's lock.
unsafe impl Sync for Chain {}

/// Why a `WSK_BUF` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Null,
    /// The offset lies beyond the first MDL.
    Offset,
    /// The length goes beyond the chain.
    Length,
}

impl Chain {
    /// Takes a buffer apart.
    ///
    /// # Safety
    /// `buffer` is NULL or points to a `WSK_BUF` with a chain of built MDLs, all valid while the result is used.
    pub unsafe fn new(buffer: PWSK_BUF) -> Result<Self, Fault> {
        if buffer.is_null() {
            return Err(Fault::Null);
        }
        // SAFETY: not NULL; what the caller promises.
        let WSK_BUF { Mdl: mut mdl, Offset: offset, Length: length } = unsafe { *buffer };
        let mut chain = Self { extents: Vec::new(), length };
        let mut skip = offset as usize;
        let mut left = length;
        if !mdl.is_null() {
            // SAFETY: not NULL; a built MDL.
            let count = unsafe { (*mdl).ByteCount } as usize;
            if skip > count {
                return Err(Fault::Offset);
            }
        }
        while left > 0 {
            if mdl.is_null() {
                return Err(Fault::Length);
            }
            // SAFETY: not NULL; a built MDL of the chain.
            let count = unsafe { (*mdl).ByteCount } as usize;
            let size = (count - skip).min(left);
            if size > 0 {
                // SAFETY: as above.
                let start = unsafe { address(mdl) };
                chain.extents.push(Extent { start: start.wrapping_add(skip), length: size });
            }
            left -= size;
            skip = 0;
            // SAFETY: as above.
            mdl = unsafe { (*mdl).Next };
        }
        Ok(chain)
    }

    pub const fn len(&self) -> usize {
        self.length
    }

    /// The contiguous piece at `offset`; empty at the end.
    fn piece(&self, offset: usize) -> Option<Extent> {
        let mut skip = offset;
        for extent in &self.extents {
            if skip < extent.length {
                return Some(Extent { start: extent.start.wrapping_add(skip), length: extent.length - skip });
            }
            skip -= extent.length;
        }
        None
    }

    /// What lies contiguously at `offset`, to be read; empty at the end.
    pub fn readable(&self, offset: usize) -> &[u8] {
        self.piece(offset).map_or(&[], |piece| {
            // SAFETY: within the client's buffer, which belongs to the request and to nobody else.
            unsafe { core::slice::from_raw_parts(piece.start, piece.length) }
        })
    }

    /// What lies contiguously at `offset`, to be written; empty at the end.
    pub fn writable(&mut self, offset: usize) -> &mut [u8] {
        self.piece(offset).map_or(&mut [], |piece| {
            // SAFETY: within the client's buffer, which belongs to the request and to nobody else.
            unsafe { core::slice::from_raw_parts_mut(piece.start, piece.length) }
        })
    }
}

/// Where an MDL's bytes are. Wine runs drivers in one address space: an MDL that nobody has mapped is read where its
/// memory was allocated.
///
/// # Safety
/// `mdl` points to a built MDL.
unsafe fn address(mdl: PMDL) -> *mut u8 {
    // SAFETY: the caller's.
    let mdl = unsafe { &*mdl };
    let mapped = mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0;
    if mapped && !mdl.MappedSystemVa.is_null() {
        mdl.MappedSystemVa.cast()
    } else {
        mdl.StartVa.cast::<u8>().wrapping_add(mdl.ByteOffset as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::nt::MDL;
    use core::ptr::null_mut;
    use std::vec;

    fn mdl(memory: &mut [u8], next: *mut MDL, mapped: bool) -> MDL {
        let start = memory.as_mut_ptr();
        MDL {
            Next: next,
            Size: 0x30,
            MdlFlags: if mapped { MDL_MAPPED_TO_SYSTEM_VA } else { 0 },
            AllocationProcessorNumber: 0,
            Reserved: 0,
            Process: null_mut(),
            MappedSystemVa: if mapped { start.cast() } else { null_mut() },
            StartVa: start.wrapping_sub(7).cast(),
            ByteCount: u32::try_from(memory.len()).unwrap(),
            ByteOffset: 7,
        }
    }

    fn read(chain: &Chain) -> Vec<u8> {
        let mut bytes = vec![];
        while bytes.len() < chain.len() {
            let piece = chain.readable(bytes.len());
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    #[test]
    fn a_buffer_reaches_over_its_mdls_from_its_offset_on() {
        let (mut one, mut two, mut three) = (*b"abcd", *b"ef", *b"ghij");
        let mut last = mdl(&mut three, null_mut(), false);
        let mut middle = mdl(&mut two, &raw mut last, true);
        let mut first = mdl(&mut one, &raw mut middle, false);
        let mut buffer = WSK_BUF { Mdl: &raw mut first, Offset: 2, Length: 6 };
        // SAFETY: all of it lives on this stack.
        let mut chain = unsafe { Chain::new(&raw mut buffer) }.unwrap();
        assert_eq!(read(&chain), b"cdefgh");
        assert_eq!(chain.readable(6), b"");
        chain.writable(3)[0] = b'X';
        drop(chain);
        assert_eq!(&two, b"eX");
    }

    #[test]
    fn an_offset_at_the_first_mdls_end_begins_with_the_second() {
        let (mut one, mut two) = (*b"abcd", *b"ef");
        let mut last = mdl(&mut two, null_mut(), true);
        let mut first = mdl(&mut one, &raw mut last, true);
        let mut buffer = WSK_BUF { Mdl: &raw mut first, Offset: 4, Length: 2 };
        // SAFETY: all of it lives on this stack.
        let chain = unsafe { Chain::new(&raw mut buffer) }.unwrap();
        assert_eq!(read(&chain), b"ef");
    }

    #[test]
    fn offsets_and_lengths_beyond_the_memory_are_refused() {
        let mut one = *b"abcd";
        let mut only = mdl(&mut one, null_mut(), true);
        let mut fault = |offset, length| {
            let mut buffer = WSK_BUF { Mdl: &raw mut only, Offset: offset, Length: length };
            // SAFETY: all of it lives on this stack.
            unsafe { Chain::new(&raw mut buffer) }.err()
        };
        assert_eq!(fault(0, 5), Some(Fault::Length));
        assert_eq!(fault(5, 0), Some(Fault::Offset));
        assert_eq!(fault(4, 0), None);
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { Chain::new(null_mut()) }.err(), Some(Fault::Null));
    }
}
