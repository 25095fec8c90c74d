//! The net buffer list that a layer is shown: one buffer, one memory descriptor over what is at hand of the packet.
//!
//! A NET_BUFFER_LIST is opaque and its size differs between NDIS versions; the members that a callout reaches through
//! the documented macros (NET_BUFFER_LIST_FIRST_NB, NET_BUFFER_NEXT_NB, NET_BUFFER_DATA_LENGTH and the like, pages of
//! nblaccessors.h) stand at their places of NDIS 6.40, the rest is zero.

use alloc::boxed::Box;
use core::ffi::c_void;
use core::mem::offset_of;

use crate::sys::nt::MDL;

/// The first members of NET_BUFFER_LIST and its size.
#[repr(C, align(16))]
struct List {
    next: *mut c_void,
    first: *mut Buffer,
    rest: [u64; 44],
}

/// The first members of NET_BUFFER and its size.
#[repr(C, align(16))]
struct Buffer {
    next: *mut Buffer,
    current_mdl: *mut MDL,
    current_mdl_offset: u32,
    data_length: u64,
    mdl_chain: *mut MDL,
    data_offset: u32,
    rest: [u64; 16],
}

const _: () = {
    assert!(size_of::<List>() == 368);
    assert!(offset_of!(List, first) == 8);
    assert!(size_of::<Buffer>() == 176);
    assert!(offset_of!(Buffer, current_mdl) == 8);
    assert!(offset_of!(Buffer, data_length) == 24);
    assert!(offset_of!(Buffer, mdl_chain) == 32);
    assert!(offset_of!(Buffer, data_offset) == 40);
};

/// A packet as NDIS would hold it. Used again for each packet.
pub(super) struct PacketBuffer {
    parts: Box<(List, Buffer, MDL)>,
}

impl PacketBuffer {
    pub fn new() -> Self {
        let list = List { next: core::ptr::null_mut(), first: core::ptr::null_mut(), rest: [0; 44] };
        let buffer = Buffer {
            next: core::ptr::null_mut(),
            current_mdl: core::ptr::null_mut(),
            current_mdl_offset: 0,
            data_length: 0,
            mdl_chain: core::ptr::null_mut(),
            data_offset: 0,
            rest: [0; 16],
        };
        // SAFETY: MDL is made of integers and pointers; all bytes zero is a value of it.
        let mdl = unsafe { core::mem::zeroed() };
        Self { parts: Box::new((list, buffer, mdl)) }
    }

    /// The net buffer list of a packet with `length` bytes from the layer's data position on, of which `data` is at
    /// hand. Good until the next call, as long as `data` lives.
    pub fn list(&mut self, data: &[u8], length: u32) -> *mut c_void {
        let (list, buffer, mdl) = &mut *self.parts;
        mdl.MappedSystemVa = data.as_ptr().cast_mut().cast();
        mdl.StartVa = mdl.MappedSystemVa;
        mdl.ByteCount = u32::try_from(data.len()).unwrap_or(u32::MAX);
        buffer.current_mdl = mdl;
        buffer.mdl_chain = mdl;
        buffer.data_length = length.into();
        list.first = buffer;
        core::ptr::from_mut(list).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callout_finds_length_and_bytes_where_the_macros_look() {
        let mut packet = PacketBuffer::new();
        let list = packet.list(b"payload", 1400);
        // SAFETY: the list is longer than 8 bytes, where FirstNetBuffer stands.
        let first = unsafe { list.cast::<*mut Buffer>().add(1) };
        // SAFETY: the list is live.
        let buffer = unsafe { *first };
        // SAFETY: the buffer is live.
        let buffer = unsafe { &*buffer };
        assert_eq!(buffer.data_length, 1400);
        assert!(buffer.next.is_null());
        // SAFETY: the descriptor is live.
        let mdl = unsafe { &*buffer.mdl_chain };
        assert_eq!(mdl.ByteCount, 7);
    }
}
