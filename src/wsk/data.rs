//! Received data, read where they lie.
//!
//! An indication is a list of `WSK_DATA_INDICATION`s, each with a chain of MDLs of which an offset into the first and a
//! length are data ("WSK_BUF", "WSK_DATA_INDICATION"). The MDLs are the transport's: locked pages, mapped only when
//! somebody reads them, which can fail. Any IRQL up to DISPATCH_LEVEL.

use crate::kernel::{Result, mdl};
use crate::sys::nt::PMDL;
use crate::sys::wsk::{WSK_BUF, WSK_DATA_INDICATION};
use core::marker::PhantomData;
use core::ptr::null_mut;

/// Data that were received and not taken yet. It lasts as long as the callback that it is lent to.
pub struct Data<'d> {
    at: Cursor,
    /// Bytes from the cursor on.
    left: usize,
    indicated: bool,
    _lent: PhantomData<&'d [u8]>,
}

/// A place in an indication. A plain value, so that a reading that fails leaves no trace.
#[derive(Clone, Copy)]
struct Cursor {
    /// The indication after the current one.
    next: *const WSK_DATA_INDICATION,
    mdl: PMDL,
    /// Bytes of the MDL that are read, or no data.
    skip: usize,
    /// Bytes of the current indication that are not read.
    left: usize,
}

impl Cursor {
    fn at(buffer: &WSK_BUF, next: *const WSK_DATA_INDICATION) -> Self {
        let skip = usize::try_from(buffer.Offset).unwrap_or(usize::MAX);
        Self { next, mdl: buffer.Mdl, skip, left: buffer.Length }
    }

    /// Reads from the first MDL that has something, as much as it has at most; nothing at the end.
    ///
    /// # Safety
    /// As [`Data::indicated`].
    unsafe fn read_part(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            if self.left == 0 || self.mdl.is_null() {
                // SAFETY: NULL, or an indication of the list, which is there while the callback runs.
                let Some(indication) = (unsafe { self.next.as_ref() }) else { return Ok(0) };
                *self = Self::at(&indication.Buffer, indication.Next);
                continue;
            }
            // SAFETY: an MDL of the chain.
            let count = unsafe { mdl::byte_count(self.mdl) };
            let there = count.saturating_sub(self.skip).min(self.left);
            if there == 0 {
                self.skip = self.skip.saturating_sub(count);
                // SAFETY: as above.
                self.mdl = unsafe { mdl::next(self.mdl) };
                continue;
            }
            let length = there.min(into.len());
            let Some(into) = into.get_mut(..length) else { return Ok(0) };
            // SAFETY: as above; the part lies within the MDL, whose bytes are the transport's and do not change.
            unsafe { mdl::copy_out(self.mdl, self.skip, into)? };
            self.skip = self.skip.saturating_add(length);
            self.left = self.left.saturating_sub(length);
            return Ok(length);
        }
    }
}

impl<'d> Data<'d> {
    /// What an event indicates.
    ///
    /// # Safety
    /// NULL or a list that stays while `'d` lasts, whose MDLs describe locked or non-paged memory.
    pub(super) unsafe fn indicated(list: *const WSK_DATA_INDICATION, bytes: usize) -> Self {
        let at = Cursor { next: list, mdl: null_mut(), skip: 0, left: 0 };
        Self { at, left: bytes, indicated: true, _lent: PhantomData }
    }

    /// What a request brought: the first `bytes` of `buffer`, which has as many.
    pub(super) fn brought(buffer: &'d mdl::MdlBuffer, bytes: usize) -> Self {
        let left = bytes.min(buffer.len());
        let at = Cursor { next: core::ptr::null(), mdl: buffer.as_mdl(), skip: 0, left };
        Self { at, left, indicated: false, _lent: PhantomData }
    }

    /// Whether an event indicates them, and not a request has brought them. While a request is out, what it brings may
    /// be before them in the stream, though its completion comes after ("PFN_WSK_RECEIVE": the two race).
    pub const fn is_indicated(&self) -> bool {
        self.indicated
    }

    /// Bytes that are not taken yet.
    pub const fn len(&self) -> usize {
        self.left
    }

    /// Whether everything is taken.
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Takes the next bytes, as many as fit into `into`, and says how many.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`: an MDL cannot be mapped. Nothing is taken then, and `into` holds anything.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let wanted = self.left.min(into.len());
        let mut at = self.at;
        let mut done: usize = 0;
        while done < wanted {
            let Some(rest) = into.get_mut(done..wanted) else { break };
            // SAFETY: made of what is there while `'d` lasts.
            let part = unsafe { at.read_part(rest)? };
            if part == 0 {
                // The list holds less than was said; there is nothing more to take.
                self.left = done;
                break;
            }
            done = done.saturating_add(part);
        }
        self.at = at;
        self.left = self.left.saturating_sub(done);
        Ok(done)
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::kernel::mdl::MdlBuffer;
    use std::vec;
    use std::vec::Vec;

    /// MDLs over these parts, linked to a chain.
    fn chain(parts: &[&[u8]]) -> Vec<MdlBuffer> {
        let mut mdls = Vec::new();
        for part in parts {
            let mut mdl = MdlBuffer::try_new(part.len()).unwrap();
            mdl.copy_from_slice(part);
            mdls.push(mdl);
        }
        for pair in mdls.windows(2) {
            // SAFETY: both are there as long as the vector.
            unsafe { (*pair[0].as_mdl()).Next = pair[1].as_mdl() };
        }
        mdls
    }

    fn indication(chain: &[MdlBuffer], offset: u32, length: usize) -> WSK_DATA_INDICATION {
        let mdl = chain.first().map_or(null_mut(), MdlBuffer::as_mdl);
        WSK_DATA_INDICATION { Next: null_mut(), Buffer: WSK_BUF { Mdl: mdl, Offset: offset, Length: length } }
    }

    /// All that there is, `piece` bytes at a time.
    fn read(mut data: Data<'_>, piece: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut into = vec![0; piece];
        while !data.is_empty() {
            let before = data.len();
            let read = data.read(&mut into).unwrap();
            assert!(read <= before);
            all.extend_from_slice(&into[..read]);
        }
        all
    }

    #[test]
    fn lists_of_chains_are_read_in_pieces_of_any_size() {
        let _sim = ntsim::boot(ntsim::Config::default());
        let first = chain(&[b"xxab", b"cde", b"f", b"ghzz"]);
        let last = chain(&[b"yij"]);
        for piece in 1..12 {
            let mut tail = indication(&last, 1, 2);
            // An indication of nothing between the others.
            let mut nothing = indication(&[], 0, 0);
            nothing.Next = &raw mut tail;
            let mut head = indication(&first, 2, 8);
            head.Next = &raw mut nothing;
            // SAFETY: all of it is there.
            let data = unsafe { Data::indicated(&raw const head, 10) };
            assert_eq!(read(data, piece), b"abcdefghij");
        }
    }

    #[test]
    fn a_list_that_holds_less_than_was_said_ends_where_it_ends() {
        let _sim = ntsim::boot(ntsim::Config::default());
        let parts = chain(&[b"abc"]);
        let mut second = indication(&[], 0, 4);
        let mut head = indication(&parts, 0, 3);
        head.Next = &raw mut second;
        // SAFETY: all of it is there.
        let data = unsafe { Data::indicated(&raw const head, 7) };
        assert_eq!(read(data, 2), b"abc");
    }

    #[test]
    fn what_a_request_brought_is_no_more_than_its_buffer() {
        let _sim = ntsim::boot(ntsim::Config::default());
        let parts = chain(&[b"abcdef"]);
        assert_eq!(read(Data::brought(&parts[0], 4), 3), b"abcd");
        assert_eq!(Data::brought(&parts[0], 4096).len(), 6);
        assert!(!Data::brought(&parts[0], 4).is_indicated());
    }
}
