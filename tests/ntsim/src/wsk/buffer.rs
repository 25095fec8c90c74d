//! `WSK_BUF`s: their rules, and bytes in and out of MDL chains.

use super::rules;
use crate::pool::{self, Kind, Range};
use crate::sys::nt::{
    MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL, PAGE_SIZE, PMDL,
};
use crate::sys::wsk::{WSK_BUF, WSK_DATA_INDICATION};
use crate::verify::violation;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr::null_mut;

/// A checked buffer of the driver's: bytes of a locked or non-paged MDL chain.
///
/// The driver keeps the chain until the request that carries it is completed, so that nothing is copied before the
/// bytes are needed.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    mdl: PMDL,
    offset: usize,
    length: usize,
}

// SAFETY: the chain is non-paged memory that the driver leaves alone until the request completes (page "WSK_BUF").
unsafe impl Send for Buffer {}

impl Buffer {
    pub const EMPTY: Self = Self { mdl: null_mut(), offset: 0, length: 0 };

    /// Checks the rules of page "WSK_BUF". `None` after a violation that Windows would not survive.
    ///
    /// # Safety
    /// `buffer` is NULL or points to a `WSK_BUF` whose MDL, if any, heads a valid chain.
    pub unsafe fn check(api: &'static str, buffer: *const WSK_BUF) -> Option<Self> {
        if buffer.is_null() {
            violation(&rules::BUFFER_NULL, api, "no WSK_BUF");
            return None;
        }
        // SAFETY: not NULL, and the caller's.
        let WSK_BUF { Mdl: mdl, Offset: offset, Length: length } = unsafe { *buffer };
        if length == 0 {
            return Some(Self::EMPTY);
        }
        if mdl.is_null() {
            violation(&rules::BUFFER_NULL, api, format!("no MDL for {length} bytes"));
            return None;
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        // SAFETY: the caller's: the chain is valid.
        let first = unsafe { count(mdl) };
        if offset >= first {
            violation(&rules::BUFFER_OFFSET, api, format!("offset {offset}, first MDL of {first} bytes"));
            return None;
        }
        let mut total = 0_usize;
        let mut at = mdl;
        while !at.is_null() && total < offset.saturating_add(length) {
            // SAFETY: the caller's: the chain is valid.
            let found = unsafe { *at };
            let resident = MDL_PAGES_LOCKED | MDL_SOURCE_IS_NONPAGED_POOL;
            if found.MdlFlags & resident == 0 {
                violation(&rules::BUFFER_MDL, api, format!("MDL flags {:#x}", found.MdlFlags));
                return None;
            }
            total = total.saturating_add(usize::try_from(found.ByteCount).unwrap_or(usize::MAX));
            at = found.Next;
        }
        if total.saturating_sub(offset) < length {
            violation(
                &rules::BUFFER_LENGTH,
                api,
                format!("{length} bytes at {offset} of a chain of {total}"),
            );
            return None;
        }
        Some(Self { mdl, offset, length })
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the chain and what it describes are there still; a violation otherwise. The driver keeps both until the
    /// request is completed (pages "PFN_WSK_SEND", "PFN_WSK_RECEIVE").
    pub fn is_there(&self, api: &'static str) -> bool {
        let mut left = self.offset.saturating_add(self.length);
        let mut at = self.mdl;
        while left > 0 && !at.is_null() {
            if pool::was_freed(Kind::Mdl, at.cast()) {
                violation(&rules::BUFFER_FREED, api, format!("the MDL at {at:p}"));
                return false;
            }
            // SAFETY: not freed, and checked when the request was made.
            let found = unsafe { *at };
            // SAFETY: the same.
            let start = unsafe { address(&found) };
            // SAFETY: the same.
            let bytes = unsafe { count(at) };
            if pool::range(start, bytes.min(left)) == Range::Freed {
                violation(&rules::BUFFER_FREED, api, format!("{bytes} bytes at {start:p}"));
                return false;
            }
            left = left.saturating_sub(bytes);
            at = found.Next;
        }
        true
    }

    /// A digest of the bytes, by which a change shows.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.read(0, |bytes| {
            bytes.hash(&mut hasher);
            bytes.len()
        });
        hasher.finish()
    }

    /// Calls `each` with the parts of the buffer from `skip` on, until it returns false.
    fn parts(&self, skip: usize, mut each: impl FnMut(*mut u8, usize) -> bool) {
        let mut before = self.offset.saturating_add(skip);
        let mut left = self.length.saturating_sub(skip);
        let mut at = self.mdl;
        while left > 0 && !at.is_null() {
            // SAFETY: checked when the request was made, and the driver's until it is completed.
            let found = unsafe { *at };
            let count = usize::try_from(found.ByteCount).unwrap_or(0);
            if before < count {
                let part = left.min(count - before);
                // SAFETY: the same.
                let start = unsafe { address(&found) };
                if !each(start.wrapping_add(before), part) {
                    return;
                }
                left -= part;
            }
            before = before.saturating_sub(count);
            at = found.Next;
        }
    }

    /// Copies `from` into the buffer at `skip`; returns how much found room.
    pub fn write(&self, skip: usize, from: &[u8]) -> usize {
        let mut done = 0;
        self.parts(skip, |start, room| {
            let Some(rest) = from.get(done..) else { return false };
            let count = room.min(rest.len());
            // SAFETY: `room` bytes of the driver's buffer from `start`; `rest` is ours and elsewhere.
            unsafe { start.copy_from_nonoverlapping(rest.as_ptr(), count) };
            done += count;
            done < from.len()
        });
        done
    }

    /// Hands the bytes from `skip` on to `take`, part by part, until it takes less than it was given. Returns how
    /// many were taken.
    pub fn read(&self, skip: usize, mut take: impl FnMut(&[u8]) -> usize) -> usize {
        let mut done = 0;
        self.parts(skip, |start, count| {
            // SAFETY: `count` bytes of the driver's buffer from `start`, which it leaves alone meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(start, count) };
            let taken = take(bytes);
            done += taken;
            taken == count
        });
        done
    }
}

/// The bytes that an MDL describes.
///
/// # Safety
/// `mdl` is valid.
unsafe fn count(mdl: PMDL) -> usize {
    // SAFETY: the caller's.
    let bytes = unsafe { (*mdl).ByteCount };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Where the bytes of an MDL are: its system mapping, or, without one, the pages that it was built from.
///
/// # Safety
/// `mdl` was checked.
unsafe fn address(mdl: &MDL) -> *mut u8 {
    if mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        mdl.MappedSystemVa.cast()
    } else {
        mdl.StartVa.cast::<u8>().wrapping_add(usize::try_from(mdl.ByteOffset).unwrap_or(0))
    }
}

/// What stands before each indication's data, as the transport's headers would.
const GAP: usize = 12;

/// One list of `WSK_DATA_INDICATION`s with its MDLs and bytes, as the transport would hand it up: split over
/// several indications, each of one or more MDLs, with data that does not start at the start. Every other MDL has no
/// system address yet: whoever reads it maps it (page "MmGetSystemAddressForMdlSafe").
#[expect(clippy::vec_box, reason = "they point to each other, so that none may move")]
pub struct Indication {
    nodes: Vec<Box<WSK_DATA_INDICATION>>,
    mdls: Vec<Box<MDL>>,
    /// Boxed, so that its address stays.
    bytes: Box<[u8]>,
    length: usize,
}

// SAFETY: the pointers inside point into the boxes beside them.
unsafe impl Send for Indication {}

impl Indication {
    /// Lays `data` out in pieces. `cut` returns the size of the next piece below its argument plus one; a new
    /// indication starts where `fresh` says so, else the piece is one more MDL of the current one.
    pub fn new(data: &[u8], mut cut: impl FnMut(usize) -> usize, mut fresh: impl FnMut() -> bool) -> Self {
        let mut pieces = Vec::new();
        let mut rest = data.len();
        while rest > 0 {
            let piece = cut(rest).clamp(1, rest);
            pieces.push(piece);
            rest -= piece;
        }
        let mut this = Self {
            nodes: Vec::new(),
            mdls: Vec::new(),
            bytes: vec![0xEE; data.len() + GAP * pieces.len()].into_boxed_slice(),
            length: data.len(),
        };
        let base = this.bytes.as_mut_ptr();
        let (mut at, mut from) = (0_usize, 0_usize);
        for piece in pieces {
            let starts = this.nodes.is_empty() || fresh();
            let gap = if starts { GAP } else { 0 };
            let Some(source) = data.get(from..from + piece) else { break };
            let start = base.wrapping_add(at);
            // SAFETY: the pieces and gaps together are no longer than the buffer, and `data` is elsewhere.
            unsafe { start.wrapping_add(gap).copy_from_nonoverlapping(source.as_ptr(), piece) };
            this.append(start, gap, piece, starts);
            at += gap + piece;
            from += piece;
        }
        this
    }

    fn append(&mut self, start: *mut u8, gap: usize, piece: usize, starts: bool) {
        let offset = start.addr() % PAGE_SIZE;
        let mapped = self.mdls.len() % 2 == 1;
        let mut mdl = Box::new(MDL {
            Next: null_mut(),
            Size: i16::try_from(size_of::<MDL>()).unwrap_or(0),
            MdlFlags: if mapped { MDL_MAPPED_TO_SYSTEM_VA } else { 0 } | MDL_PAGES_LOCKED,
            AllocationProcessorNumber: 0,
            Reserved: 0,
            Process: null_mut(),
            MappedSystemVa: if mapped { start.cast() } else { null_mut() },
            StartVa: start.wrapping_sub(offset).cast(),
            ByteCount: u32::try_from(gap + piece).unwrap_or(u32::MAX),
            ByteOffset: u32::try_from(offset).unwrap_or(0),
        });
        let pointer: PMDL = &raw mut *mdl;
        if starts {
            let mut node = Box::new(WSK_DATA_INDICATION {
                Next: null_mut(),
                Buffer: WSK_BUF { Mdl: pointer, Offset: u32::try_from(gap).unwrap_or(0), Length: piece },
            });
            let next = &raw mut *node;
            if let Some(last) = self.nodes.last_mut() {
                last.Next = next;
            }
            self.nodes.push(node);
        } else {
            if let Some(last) = self.mdls.last_mut() {
                last.Next = pointer;
            }
            if let Some(last) = self.nodes.last_mut() {
                last.Buffer.Length += piece;
            }
        }
        self.mdls.push(mdl);
    }

    pub fn head(&mut self) -> *mut WSK_DATA_INDICATION {
        self.nodes.first_mut().map_or(null_mut(), |node| &raw mut **node)
    }

    pub fn len(&self) -> usize {
        self.length
    }
}

impl Drop for Indication {
    fn drop(&mut self) {
        // What a driver still reads after giving the indication back is not data.
        self.bytes.fill(0xDD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::vec_box, reason = "they point to each other, so that none may move")]
    fn chain(parts: &mut [Vec<u8>]) -> Vec<Box<MDL>> {
        let mut mdls: Vec<Box<MDL>> = parts
            .iter_mut()
            .map(|part| {
                Box::new(MDL {
                    Next: null_mut(),
                    Size: 48,
                    MdlFlags: MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL,
                    AllocationProcessorNumber: 0,
                    Reserved: 0,
                    Process: null_mut(),
                    MappedSystemVa: part.as_mut_ptr().cast(),
                    StartVa: null_mut(),
                    ByteCount: u32::try_from(part.len()).unwrap(),
                    ByteOffset: 0,
                })
            })
            .collect();
        for index in 1..mdls.len() {
            let next: PMDL = &raw mut *mdls[index];
            mdls[index - 1].Next = next;
        }
        mdls
    }

    #[test]
    fn bytes_cross_the_mdls_of_a_chain() {
        let mut parts = vec![vec![1, 2, 3], vec![4, 5], vec![6, 7, 8, 9]];
        let mut mdls = chain(&mut parts);
        let buffer = WSK_BUF { Mdl: &raw mut *mdls[0], Offset: 2, Length: 6 };
        // SAFETY: the chain above.
        let buffer = unsafe { Buffer::check("WskSend", &raw const buffer) }.unwrap();
        let mut seen = Vec::new();
        assert_eq!(
            buffer.read(1, |part| {
                seen.extend_from_slice(part);
                part.len()
            }),
            5
        );
        assert_eq!(seen, [4, 5, 6, 7, 8]);
        assert_eq!(buffer.write(0, &[30, 40, 50, 60]), 4);
        drop(mdls);
        assert_eq!(parts, [vec![1, 2, 30], vec![40, 50], vec![60, 7, 8, 9]]);
    }

    #[test]
    fn an_indication_holds_its_data_however_it_is_cut() {
        let data: Vec<u8> = (0..=255).collect();
        let mut flip = false;
        let mut indication = Indication::new(
            &data,
            |rest| (rest / 3).max(1),
            || {
                flip = !flip;
                flip
            },
        );
        let mut seen = Vec::new();
        let mut node = indication.head();
        let mut nodes = 0;
        while !node.is_null() {
            // SAFETY: a node of the indication.
            let found = unsafe { *node };
            // SAFETY: the same.
            let part = unsafe { Buffer::check("test", &raw const found.Buffer) }.unwrap();
            part.read(0, |bytes| {
                seen.extend_from_slice(bytes);
                bytes.len()
            });
            node = found.Next;
            nodes += 1;
        }
        assert_eq!(seen, data);
        assert!(nodes > 1);
        assert_eq!(indication.len(), 256);
    }
}
