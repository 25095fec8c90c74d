//! The global allocator: the process heap, whose blocks are aligned to 16 bytes, and room in front of a block for more.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::ptr::null_mut;

use windows_sys::Win32::System::Memory::{GetProcessHeap, HEAP_FLAGS, HEAP_ZERO_MEMORY, HeapAlloc, HeapFree};

/// What HeapAlloc aligns to on 64-bit Windows (page "HeapAlloc").
const HEAP_ALIGNMENT: usize = 16;

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

impl Heap {
    fn take(layout: Layout, flags: HEAP_FLAGS) -> *mut u8 {
        let room = if layout.align() > HEAP_ALIGNMENT { layout.align() } else { 0 };
        let Some(size) = layout.size().checked_add(room) else {
            return null_mut();
        };
        // SAFETY: the process has a heap as long as it lives.
        let heap = unsafe { GetProcessHeap() };
        // SAFETY: the heap is valid, the flags are HeapAlloc's.
        let start = unsafe { HeapAlloc(heap, flags, size) }.cast::<u8>();
        if room == 0 || start.is_null() {
            return start;
        }
        // At least 16 bytes before the block are part of it, since the heap's own alignment divides the one wanted.
        let block = start.map_addr(|address| (address + room) & !(room - 1));
        #[expect(clippy::cast_ptr_alignment, reason = "aligned to more than 16")]
        // SAFETY: the word before the block lies between `start` and the block.
        let header = unsafe { block.cast::<*mut u8>().sub(1) };
        // SAFETY: as above; the block is aligned for a pointer.
        unsafe { header.write(start) };
        block
    }
}

// SAFETY: blocks come from the process heap, of the size and alignment asked for, and go back there.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout, 0)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout, HEAP_ZERO_MEMORY)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let start = if layout.align() > HEAP_ALIGNMENT {
            #[expect(clippy::cast_ptr_alignment, reason = "aligned to more than 16")]
            // SAFETY: `take` has left the start of such a block in the word before it.
            let header = unsafe { block.cast::<*mut u8>().sub(1) };
            // SAFETY: as above.
            unsafe { header.read() }
        } else {
            block
        };
        // SAFETY: the process has a heap as long as it lives.
        let heap = unsafe { GetProcessHeap() };
        // SAFETY: `start` is what HeapAlloc gave.
        unsafe { HeapFree(heap, 0, start.cast::<c_void>()) };
    }
}
