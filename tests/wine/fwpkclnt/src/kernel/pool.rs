//! Pool memory. Wine lacks `ExAllocatePool2` and `ExAllocatePool3`; all of it is here, so that a block can be freed by each function, and so
//! that what is left behind, freed twice, or written beyond its end is noticed.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

use hashbrown::{HashMap, HashSet};
use wine_support::sync::{Lazy, Mutex};

use crate::sys::nt::{
    APC_LEVEL, DISPATCH_LEVEL, PAGE_SIZE, POOL_EXTENDED_PARAMETER, POOL_FLAG_CACHE_ALIGNED,
    POOL_FLAG_NON_PAGED, POOL_FLAG_NON_PAGED_EXECUTE, POOL_FLAG_PAGED, POOL_FLAG_RAISE_ON_FAILURE,
    POOL_FLAG_SESSION, POOL_FLAG_SPECIAL_POOL, POOL_FLAG_UNINITIALIZED, POOL_FLAG_USE_QUOTA, POOL_FLAGS,
    PoolExtendedParameterNumaNode, PoolExtendedParameterPriority, SYSTEM_CACHE_ALIGNMENT_SIZE,
};
use crate::verify::{Leak, violation};
use crate::{fault, irql};

crate::rules! {
    POOL_NO_TAG = ("pool allocated with tag 0", "");
    POOL_DOUBLE_FREE = ("pool block freed twice", "");
    POOL_WRONG_TAG = ("pool block freed with another tag", "");
    POOL_OVERRUN = ("pool block written beyond its end", "");
}

mod wine {
    use super::c_void;

    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn ExFreePoolWithTag(block: *mut c_void, tag: u32);
    }
}

/// "The memory is aligned to 16 bytes on 64-bit systems; if a page or more, to a page" (*ExAllocatePool2*).
const ALIGNMENT: usize = 16;
/// Bytes behind each block, and what is in them.
const GUARD: usize = 16;
const GUARD_BYTE: u8 = 0xFD;
/// What an uninitialised block holds, and a freed one.
const FRESH_BYTE: u8 = 0xCD;
const FREED_BYTE: u8 = 0xDD;
/// How many freed blocks are remembered.
const FREED: usize = 4096;

struct Block {
    size: usize,
    align: usize,
    tag: u32,
}

#[derive(Default)]
struct Blocks {
    live: HashMap<usize, Block>,
    /// Blocks that were freed lately and whose place is not used again.
    freed: HashSet<usize>,
    /// Them in the order of their freeing, and some that are in use again.
    order: VecDeque<usize>,
}

static BLOCKS: Lazy<Mutex<Blocks>> = Lazy::new(Mutex::default);

fn layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(GUARD)?, align).ok()
}

/// Allocates; null if there is no memory.
fn allocate(api: &'static str, size: usize, tag: u32, least: usize, fill: u8) -> *mut c_void {
    if tag == 0 {
        violation(&POOL_NO_TAG, api, "");
    }
    if fault::fail(api) {
        return null_mut();
    }
    let size = size.max(1);
    let align = if size >= PAGE_SIZE { PAGE_SIZE } else { least };
    let Some(layout) = layout(size, align) else {
        return null_mut();
    };
    // SAFETY: the size is not zero.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        return null_mut();
    }
    // SAFETY: the block has that size and more.
    unsafe { block.write_bytes(fill, size) };
    // SAFETY: behind it there is room for the guard.
    let guard = unsafe { block.add(size) };
    // SAFETY: as above.
    unsafe { guard.write_bytes(GUARD_BYTE, GUARD) };
    let mut blocks = BLOCKS.lock();
    let address = block.expose_provenance();
    blocks.freed.remove(&address);
    blocks.live.insert(address, Block { size, align, tag });
    block.cast()
}

/// A tag as it is written: its bytes from the lowest.
fn tag_text(tag: u32) -> String {
    tag.to_le_bytes()
        .iter()
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
        .collect()
}

/// Frees a block; with a tag of 0, whatever its tag is.
fn free(api: &'static str, address: *mut c_void, tag: u32) {
    irql::require_at_most(api, DISPATCH_LEVEL);
    let block = {
        let mut blocks = BLOCKS.lock();
        let Some(block) = blocks.live.remove(&address.addr()) else {
            let twice = blocks.freed.contains(&address.addr());
            drop(blocks);
            if twice {
                violation(&POOL_DOUBLE_FREE, api, format!("{address:p}"));
            } else {
                // Wine's own functions hand out memory that callers free.
                // SAFETY: it is not from here; by the function's page it is from the kernel's pool.
                unsafe { wine::ExFreePoolWithTag(address, tag) };
            }
            return;
        };
        if blocks.order.len() == FREED
            && let Some(oldest) = blocks.order.pop_front()
        {
            blocks.freed.remove(&oldest);
        }
        blocks.order.push_back(address.addr());
        blocks.freed.insert(address.addr());
        block
    };
    if tag != 0 && tag != block.tag {
        let detail = format!("allocated with {:?}, freed with {:?}", tag_text(block.tag), tag_text(tag));
        violation(&POOL_WRONG_TAG, api, detail);
    }
    let start = address.cast::<u8>();
    // SAFETY: the guard is behind the block.
    let guard = unsafe { start.add(block.size) };
    // SAFETY: as above.
    let guard = unsafe { core::slice::from_raw_parts(guard, GUARD) };
    if guard.iter().any(|byte| *byte != GUARD_BYTE) {
        let detail = format!("{:?}, {} bytes at {address:p}", tag_text(block.tag), block.size);
        violation(&POOL_OVERRUN, api, detail);
    }
    // SAFETY: the block is the caller's no more.
    unsafe { start.write_bytes(FREED_BYTE, block.size) };
    if let Some(layout) = layout(block.size, block.align) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(start, layout) };
    }
}

/// "Zero-initialized by default"; flags that are not known and not optional are refused, and so is no type or more
/// than one (page "POOL_FLAGS").
pub(super) unsafe extern "system" fn ExAllocatePool2(
    flags: POOL_FLAGS,
    size: usize,
    tag: u32,
) -> *mut c_void {
    allocate_by_flags("ExAllocatePool2", flags, size, tag)
}

/// As `ExAllocatePool2`, with parameters, of which those that are known need nothing done: all memory is of one node. "If
/// this field is set to 0, Type must be recognized by the pool allocator or the allocation fails" (page
/// "POOL_EXTENDED_PARAMETER").
pub(super) unsafe extern "system" fn ExAllocatePool3(
    flags: POOL_FLAGS,
    size: usize,
    tag: u32,
    parameters: *const POOL_EXTENDED_PARAMETER,
    count: u32,
) -> *mut c_void {
    const TYPE: u64 = 0xFF;
    const OPTIONAL: u64 = 0x100;
    const KNOWN: [u64; 2] = [PoolExtendedParameterPriority, PoolExtendedParameterNumaNode];
    for index in 0..count as usize {
        // SAFETY: by the function's page there are that many.
        let parameter = unsafe { parameters.add(index) };
        // SAFETY: as above.
        let kind = unsafe { (*parameter).Type };
        if !KNOWN.contains(&(kind & TYPE)) && kind & OPTIONAL == 0 {
            return null_mut();
        }
    }
    allocate_by_flags("ExAllocatePool3", flags, size, tag)
}

fn allocate_by_flags(api: &'static str, flags: POOL_FLAGS, size: usize, tag: u32) -> *mut c_void {
    const TYPES: POOL_FLAGS = POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE | POOL_FLAG_PAGED;
    const KNOWN: POOL_FLAGS = TYPES
        | POOL_FLAG_USE_QUOTA
        | POOL_FLAG_UNINITIALIZED
        | POOL_FLAG_SESSION
        | POOL_FLAG_CACHE_ALIGNED
        | POOL_FLAG_RAISE_ON_FAILURE;
    /// Flags from here up are optional: what is not known is ignored.
    const REQUIRED: POOL_FLAGS = POOL_FLAG_SPECIAL_POOL - 1;
    let limit = if flags & POOL_FLAG_PAGED == 0 { DISPATCH_LEVEL } else { APC_LEVEL };
    irql::require_at_most(api, limit);
    if (flags & TYPES).count_ones() != 1 || flags & REQUIRED & !KNOWN != 0 || size == 0 {
        return null_mut();
    }
    let least = if flags & POOL_FLAG_CACHE_ALIGNED == 0 { ALIGNMENT } else { SYSTEM_CACHE_ALIGNMENT_SIZE };
    let fill = if flags & POOL_FLAG_UNINITIALIZED == 0 { 0 } else { FRESH_BYTE };
    allocate(api, size, tag, least, fill)
}

pub(super) unsafe extern "system" fn ExAllocatePoolWithTag(_kind: i32, size: usize, tag: u32) -> *mut c_void {
    irql::require_at_most("ExAllocatePoolWithTag", DISPATCH_LEVEL);
    allocate("ExAllocatePoolWithTag", size, tag, ALIGNMENT, FRESH_BYTE)
}

pub(super) unsafe extern "system" fn ExAllocatePoolZero(_kind: i32, size: usize, tag: u32) -> *mut c_void {
    irql::require_at_most("ExAllocatePoolZero", DISPATCH_LEVEL);
    allocate("ExAllocatePoolZero", size, tag, ALIGNMENT, 0)
}

pub(super) unsafe extern "system" fn ExAllocatePool(_kind: i32, size: usize) -> *mut c_void {
    /// The tag of blocks without one.
    const NONE: u32 = u32::from_le_bytes(*b"None");
    irql::require_at_most("ExAllocatePool", DISPATCH_LEVEL);
    allocate("ExAllocatePool", size, NONE, ALIGNMENT, FRESH_BYTE)
}

pub(super) unsafe extern "system" fn ExFreePoolWithTag(block: *mut c_void, tag: u32) {
    free("ExFreePoolWithTag", block, tag);
}

pub(super) unsafe extern "system" fn ExFreePool(block: *mut c_void) {
    free("ExFreePool", block, 0);
}

/// What is allocated, by tag: its text, blocks and bytes.
pub(crate) fn by_tag() -> Vec<(String, usize, usize)> {
    let mut tags: HashMap<u32, (usize, usize)> = HashMap::new();
    for block in BLOCKS.lock().live.values() {
        let entry = tags.entry(block.tag).or_default();
        entry.0 += 1;
        entry.1 += block.size;
    }
    let mut rows: Vec<_> =
        tags.into_iter().map(|(tag, (blocks, bytes))| (tag_text(tag), blocks, bytes)).collect();
    rows.sort();
    rows
}

/// What is allocated, as a list of leaks: one for each tag.
pub(crate) fn report(leaks: &mut Vec<Leak>) {
    for (tag, blocks, bytes) in by_tag() {
        let made_by = format!("tag {tag:?}, {blocks} blocks of {bytes} bytes");
        leaks.push(Leak::new("pool", blocks, made_by));
    }
}
