//! Received data as WSK hands it out: a list of `WSK_DATA_INDICATION`s over chains of MDLs.

use crate::sys::nt::{MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL};
use crate::sys::wsk::{PWSK_DATA_INDICATION, WSK_BUF, WSK_DATA_INDICATION};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::null_mut;
use static_assertions::const_assert_eq;

/// A list of indications with all that it refers to.
#[expect(clippy::vec_box, reason = "addresses stay the same when the vectors grow")]
pub struct Indication {
    _data: Box<[u8]>,
    _mdls: Vec<Box<MDL>>,
    nodes: Vec<Box<WSK_DATA_INDICATION>>,
}

// SAFETY: the pointers lead to what the value owns.
unsafe impl Send for Indication {}

impl Indication {
    /// Lays `data`, which is not empty, out in pieces. `piece` says how many of the bytes that are left come next (at
    /// least one); `together` whether a piece goes into the same indication as the one before it, as its next MDL. An
    /// indication begins at `offset` within its first MDL.
    pub fn new(
        data: &[u8],
        offset: usize,
        mut piece: impl FnMut(usize) -> usize,
        mut together: impl FnMut() -> bool,
    ) -> Self {
        // Every indication's first MDL has `offset` bytes in front of what is indicated.
        let mut pieces: Vec<(usize, bool)> = Vec::new();
        let mut left = data.len();
        while left > 0 {
            let size = piece(left).clamp(1, left);
            let first = pieces.is_empty() || !together();
            pieces.push((size, first));
            left -= size;
        }
        let room = data.len() + offset * pieces.iter().filter(|(_, first)| *first).count();
        let mut memory = alloc::vec![0_u8; room].into_boxed_slice();
        let base = memory.as_mut_ptr();
        let (mut mdls, mut nodes) = (Vec::<Box<MDL>>::new(), Vec::<Box<WSK_DATA_INDICATION>>::new());
        let (mut from, mut to) = (0, 0);
        for (size, first) in pieces {
            let lead = if first { offset } else { 0 };
            let start = base.wrapping_add(to);
            let source = data.get(from..from + size).unwrap_or_default();
            let target = start.wrapping_add(lead);
            // SAFETY: the room for all pieces and what leads them was counted above.
            unsafe { target.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
            let mut mdl = Box::new(mdl(start, lead + size));
            let pointer: *mut MDL = &raw mut *mdl;
            if first {
                let buffer = WSK_BUF { Mdl: pointer, Offset: as_u32(offset), Length: size };
                let mut node = Box::new(WSK_DATA_INDICATION { Next: null_mut(), Buffer: buffer });
                let next: PWSK_DATA_INDICATION = &raw mut *node;
                if let Some(last) = nodes.last_mut() {
                    last.Next = next;
                }
                nodes.push(node);
            } else {
                if let Some(last) = mdls.last_mut() {
                    last.Next = pointer;
                }
                if let Some(node) = nodes.last_mut() {
                    node.Buffer.Length += size;
                }
            }
            mdls.push(mdl);
            from += size;
            to += lead + size;
        }
        Self { _data: memory, _mdls: mdls, nodes }
    }

    /// What the client is given.
    pub fn head(&mut self) -> PWSK_DATA_INDICATION {
        self.nodes.first_mut().map_or(null_mut(), |node| &raw mut **node)
    }
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The size of an MDL without page frame numbers, which nobody reads here.
const MDL_SIZE: i16 = 0x30;
const_assert_eq!(size_of::<MDL>(), MDL_SIZE as usize);

/// An MDL over memory that is mapped where it is.
fn mdl(start: *mut u8, length: usize) -> MDL {
    const PAGE: usize = 4096;
    let offset = start.addr() % PAGE;
    MDL {
        Next: null_mut(),
        Size: MDL_SIZE,
        MdlFlags: MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL,
        AllocationProcessorNumber: 0,
        Reserved: 0,
        Process: null_mut(),
        MappedSystemVa: start.cast(),
        StartVa: start.wrapping_sub(offset).cast(),
        ByteCount: as_u32(length),
        ByteOffset: as_u32(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;
    use std::vec;

    /// Reads a list as a client does.
    fn read(head: PWSK_DATA_INDICATION) -> (Vec<u8>, usize) {
        let (mut bytes, mut nodes, mut node) = (vec![], 0, head);
        while !node.is_null() {
            // SAFETY: a list that the test owns.
            let buffer = unsafe { &raw mut (*node).Buffer };
            // SAFETY: the same.
            let chain = unsafe { Chain::new(buffer) }.unwrap();
            let mut at = 0;
            while at < chain.len() {
                let piece = chain.readable(at);
                bytes.extend_from_slice(piece);
                at += piece.len();
            }
            nodes += 1;
            // SAFETY: the same.
            node = unsafe { (*node).Next };
        }
        (bytes, nodes)
    }

    fn data() -> Box<[u8]> {
        (0..=255).collect()
    }

    #[test]
    fn whole_data_is_one_indication_over_one_mdl() {
        let mut whole = Indication::new(&data(), 0, |left| left, || true);
        assert_eq!(read(whole.head()), (data().to_vec(), 1));
    }

    #[test]
    fn pieces_become_mdls_of_a_chain_or_indications_of_a_list() {
        let mut list = Indication::new(&data(), 0, |_| 10, || false);
        assert_eq!(read(list.head()), (data().to_vec(), 26));
        let mut chain = Indication::new(&data(), 0, |_| 10, || true);
        assert_eq!(read(chain.head()), (data().to_vec(), 1));
        let mut turn = 0;
        let alternately = move || {
            turn += 1;
            turn % 2 == 0
        };
        let mut mixed = Indication::new(&data(), 5, |_| 10, alternately);
        let (bytes, nodes) = read(mixed.head());
        assert_eq!(bytes, data().to_vec());
        assert!((2..26).contains(&nodes), "{nodes}");
    }

    #[test]
    fn an_offset_leads_into_the_first_mdl_of_each_indication() {
        let mut offset = Indication::new(&data(), 3, |_| 100, || false);
        // SAFETY: a list that the test owns.
        assert_eq!(unsafe { (*offset.head()).Buffer.Offset }, 3);
        assert_eq!(read(offset.head()), (data().to_vec(), 3));
    }
}
