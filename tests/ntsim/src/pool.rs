//! Kernel memory: pool blocks, and the memory of every object that the kernel allocates for a driver.
//!
//! Blocks are real heap memory, aligned as ExAllocatePool2 documents, with guard bytes on both sides. A freed block is
//! filled with [`POISON`] and kept in a bounded quarantine before the heap gets it back, so that a late write is seen
//! and a late read finds nonsense. What a block is stands in a table outside it: a wrong pointer is never followed.
//!
//! The table is in shards, each behind its own lock, so that allocating on two processors does not contend.

use std::alloc::Layout;
use std::backtrace::Backtrace;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use crate::rules;
use crate::sys::nt::{APC_LEVEL, KIRQL, PAGE_SIZE, SYSTEM_CACHE_ALIGNMENT_SIZE};
use crate::verify::{Leak, Rule, Tag, lock, violation};
use crate::{dispatcher, irql};

rules! {
    POOL_PARAMETER = ("bad pool request", "ExAllocatePool2");
    POOL_RAISES = ("pool request that raises an exception", "POOL_FLAGS");
    POOL_EXECUTABLE = ("executable pool", "POOL_FLAGS");
    POOL_WRONG_TAG = ("pool block freed with another tag", "ExFreePoolWithTag");
    POOL_DOUBLE_FREE = ("memory freed twice", "ExFreePoolWithTag");
    POOL_INVALID_FREE = ("free of what was not allocated", "ExFreePoolWithTag");
    POOL_WRONG_ROUTINE = ("memory freed by the wrong routine", "");
    POOL_OVERRUN = ("write past the end of a block", "ExAllocatePool2");
    POOL_UNDERRUN = ("write before the start of a block", "ExAllocatePool2");
    POOL_USE_AFTER_FREE = ("write to freed memory", "ExFreePoolWithTag");
    POOL_SECRET = ("secret left in memory that is freed", "RtlSecureZeroMemory");
}

/// Fills freed memory.
pub const POISON: u8 = 0xdd;
/// Fills memory that was asked for uninitialised.
pub const UNINITIALISED: u8 = 0xa5;
const FRONT_GUARD: u8 = 0xfa;
const REAR_GUARD: u8 = 0xfb;
const GUARD: usize = 16;
/// 16 bytes on 64-bit systems (page "ExAllocatePool2").
const POOL_ALIGNMENT: usize = 16;

/// What a block of kernel memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pool,
    Irp,
    Mdl,
    WorkItem,
    Device,
    /// What IoSetCompletionRoutineEx allocates.
    Completion,
    /// Memory that the kernel lends to the driver for the time of a call.
    Lent,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool block",
            Self::Irp => "IRP",
            Self::Mdl => "MDL",
            Self::WorkItem => "work item",
            Self::Device => "device object",
            Self::Completion => "completion routine",
            Self::Lent => "lent memory",
        }
    }
}

pub(crate) struct Request {
    pub api: &'static str,
    pub kind: Kind,
    pub size: usize,
    pub tag: u32,
    pub paged: bool,
    pub zeroed: bool,
    pub cache_aligned: bool,
    /// The NUMA node that is preferred.
    pub node: Option<u32>,
}

impl Request {
    /// Zeroed non-paged memory for an object of the kernel.
    pub const fn object(api: &'static str, kind: Kind, size: usize) -> Self {
        Self { api, kind, size, tag: 0, paged: false, zeroed: true, cache_aligned: false, node: None }
    }
}

/// What is known of a block.
pub(crate) struct Block {
    pub size: usize,
    pub kind: Kind,
    pub paged: bool,
    /// What the owner of the kind makes of it: the state of an IRP or a work item.
    pub state: u32,
    tag: u32,
    node: Option<u32>,
    front: u16,
    api: &'static str,
    backtrace: Option<Box<Backtrace>>,
}

#[derive(Default)]
struct PointerHasher(u64);

impl Hasher for PointerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, value: usize) {
        let mixed = (self.0 ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[derive(Default)]
struct Shard {
    live: HashMap<usize, Block, BuildHasherDefault<PointerHasher>>,
    quarantine: VecDeque<(usize, Block)>,
    quarantined: usize,
    bytes: usize,
}

const SHARDS: usize = 32;

#[repr(align(128))]
struct Slot(LazyLock<Mutex<Shard>>);

static POOL: [Slot; SHARDS] = [const { Slot(LazyLock::new(|| Mutex::new(Shard::default()))) }; SHARDS];
/// Bytes that each shard may keep in quarantine.
static QUARANTINE: AtomicUsize = AtomicUsize::new(0);

fn shard(address: usize) -> &'static Mutex<Shard> {
    let mixed = (address >> 4) ^ (address >> 12) ^ (address >> 20);
    &POOL[mixed % SHARDS].0
}

/// Memory in use by the driver, in bytes and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: usize,
    pub blocks: usize,
}

/// What is allocated now, over all kinds.
pub fn usage() -> Usage {
    POOL.iter().fold(Usage::default(), |sum, slot| {
        let shard = lock(&slot.0);
        Usage { bytes: sum.bytes + shard.bytes, blocks: sum.blocks + shard.live.len() }
    })
}

/// A pool block in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    pub address: usize,
    pub size: usize,
    /// The NUMA node that was asked for, where the system understood that.
    pub node: Option<u32>,
}

/// The pool blocks in use with this tag, in no order.
pub fn in_use(tag: u32) -> Vec<InUse> {
    let mut found = Vec::new();
    for slot in &POOL {
        let shard = lock(&slot.0);
        let blocks = shard.live.iter().filter(|(_, block)| block.kind == Kind::Pool && block.tag == tag);
        found.extend(blocks.map(|(&address, block)| InUse { address, size: block.size, node: block.node }));
    }
    found
}

pub(crate) fn start(quarantine: usize) {
    watch_secret(&[]);
    QUARANTINE.store(quarantine / SHARDS, Ordering::Relaxed);
}

/// Gives everything back to the heap.
pub(crate) fn stop() {
    for slot in &POOL {
        let shard = std::mem::take(&mut *lock(&slot.0));
        for (address, block) in shard.live.into_iter().chain(shard.quarantine) {
            // SAFETY: the block was in the table, so it came from `allocate` and was not given back yet.
            unsafe { give_back(address, &block) };
        }
    }
}

fn layout(size: usize, front: usize) -> Option<Layout> {
    let total = size.checked_add(front)?.checked_add(GUARD)?;
    Layout::from_size_align(total, front.max(POOL_ALIGNMENT)).ok()
}

/// # Safety
/// `address` and `block` are of a block that `allocate` made and that was not given back before.
unsafe fn give_back(address: usize, block: &Block) {
    let front = usize::from(block.front);
    if let Some(layout) = layout(block.size, front) {
        // SAFETY: as the caller promises; the layout is the one it was allocated with.
        unsafe { std::alloc::dealloc((address - front) as *mut u8, layout) };
    }
}

/// Allocates a block. Null when the heap has none.
pub(crate) fn allocate(request: &Request) -> *mut u8 {
    let front = if request.size >= PAGE_SIZE {
        PAGE_SIZE
    } else if request.cache_aligned {
        SYSTEM_CACHE_ALIGNMENT_SIZE
    } else {
        POOL_ALIGNMENT
    };
    let Some(layout) = layout(request.size, front) else { return ptr::null_mut() };
    let base = if request.zeroed {
        // SAFETY: the layout is not of zero size: it has two guards.
        unsafe { std::alloc::alloc_zeroed(layout) }
    } else {
        // SAFETY: as above.
        unsafe { std::alloc::alloc(layout) }
    };
    if base.is_null() {
        return base;
    }
    // SAFETY: the front lies inside the new allocation.
    let start = unsafe { base.add(front) };
    // SAFETY: the front guard is the last GUARD bytes of the front, which is at least as long.
    unsafe { start.wrapping_sub(GUARD).write_bytes(FRONT_GUARD, GUARD) };
    // SAFETY: the layout has GUARD bytes behind the block.
    unsafe { start.wrapping_add(request.size).write_bytes(REAR_GUARD, GUARD) };
    if !request.zeroed {
        // SAFETY: the block itself.
        unsafe { start.write_bytes(UNINITIALISED, request.size) };
    }
    let block = Block {
        size: request.size,
        kind: request.kind,
        paged: request.paged,
        state: 0,
        tag: request.tag,
        node: request.node,
        front: u16::try_from(front).unwrap_or(0),
        api: request.api,
        backtrace: crate::verify::backtrace().map(Box::new),
    };
    let address = start.expose_provenance();
    let mut shard = lock(shard(address));
    shard.bytes += request.size;
    shard.live.insert(address, block);
    start
}

/// Whether the `length` bytes at `address` are all `VALUE`. Compared in runs, since it is done for every block that is
/// freed.
///
/// # Safety
/// The range is readable.
unsafe fn all_are<const VALUE: u8>(address: usize, length: usize) -> bool {
    const RUN: usize = 256;
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, length) };
    bytes.chunks(RUN).all(|run| *run == [VALUE; RUN][..run.len()])
}

/// What must be in no block that is freed; empty: nothing is looked for.
static SECRET: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Whether there is one: asked for every block.
static WATCHING: AtomicBool = AtomicBool::new(false);

/// Looks for these bytes in every block that is freed from here on.
pub(crate) fn watch_secret(secret: &[u8]) {
    *lock(&SECRET) = secret.to_vec();
    WATCHING.store(!secret.is_empty(), Ordering::Release);
}

fn holds_secret(bytes: &[u8]) -> bool {
    if !WATCHING.load(Ordering::Acquire) {
        return false;
    }
    let secret = lock(&SECRET);
    !secret.is_empty() && bytes.windows(secret.len()).any(|window| window == *secret)
}

/// # Safety
/// The block is allocated.
unsafe fn guards_broken(address: usize, block: &Block) -> Option<&'static Rule> {
    // SAFETY: the front guard belongs to the allocation.
    if !unsafe { all_are::<FRONT_GUARD>(address - GUARD, GUARD) } {
        return Some(&POOL_UNDERRUN);
    }
    // SAFETY: so does the rear guard.
    (!unsafe { all_are::<REAR_GUARD>(address + block.size, GUARD) }).then_some(&POOL_OVERRUN)
}

/// # Safety
/// The block is allocated and in quarantine.
unsafe fn written_since_freed(address: usize, block: &Block) -> bool {
    // SAFETY: the block is still ours.
    !unsafe { all_are::<POISON>(address, block.size) }
}

fn describe(address: usize, block: &Block) -> String {
    let tag = if block.tag == 0 { String::new() } else { format!(" tag '{}'", Tag(block.tag)) };
    format!("{} {address:#x} of {} bytes{tag} from {}", block.kind.name(), block.size, block.api)
}

/// Frees a block. `tag` 0 accepts any.
pub(crate) fn release(api: &'static str, kind: Kind, pointer: *mut u8, tag: u32) {
    let address = pointer.addr();
    let mut found: Vec<(&'static Rule, String)> = Vec::new();
    let mut freed = None;
    {
        let mut shard = lock(shard(address));
        match shard.live.get(&address) {
            None => {
                let again = shard.quarantine.iter().find(|(freed, _)| *freed == address);
                found.push(match again {
                    Some((_, block)) => (&POOL_DOUBLE_FREE, describe(address, block)),
                    None => (&POOL_INVALID_FREE, format!("{address:#x}")),
                });
            }
            Some(block) if block.kind != kind => {
                found.push((&POOL_WRONG_ROUTINE, describe(address, block)));
            }
            Some(block) => {
                if tag != 0 && block.tag != tag {
                    found.push((
                        &POOL_WRONG_TAG,
                        format!("{} freed as '{}'", describe(address, block), Tag(tag)),
                    ));
                }
                // SAFETY: the block is in the table.
                if let Some(rule) = unsafe { guards_broken(address, block) } {
                    found.push((rule, describe(address, block)));
                }
                if block.paged && irql::current() > APC_LEVEL {
                    found.push((&irql::IRQL_TOO_HIGH, format!("paged {}", describe(address, block))));
                }
                freed = shard.live.remove(&address);
            }
        }
        if let Some(block) = freed.take() {
            shard.bytes -= block.size;
            if let Some(name) = crate::lock::held_within(address, block.size) {
                found.push((&crate::lock::LOCK_FREED, format!("{name} in {}", describe(address, &block))));
            }
            let in_use = dispatcher::check_freed(address, block.size);
            found.extend(in_use.into_iter().map(|detail| (&dispatcher::OBJECT_FREED, detail)));
            let awaited = crate::registry::check_freed(address, block.size);
            found.extend(awaited.into_iter().map(|detail| (&crate::sys::nt::rule::REGISTRY_NOTIFY, detail)));
            // SAFETY: the block was in the table until now, and is initialised: it was zeroed, or poisoned.
            if holds_secret(unsafe { std::slice::from_raw_parts(address as *const u8, block.size) }) {
                found.push((&POOL_SECRET, describe(address, &block)));
            }
            // SAFETY: as above, and nobody else can take it from there again.
            unsafe { (address as *mut u8).write_bytes(POISON, block.size) };
            shard.quarantined += block.size;
            shard.quarantine.push_back((address, block));
            let limit = QUARANTINE.load(Ordering::Relaxed);
            while shard.quarantined > limit
                && let Some((address, block)) = shard.quarantine.pop_front()
            {
                shard.quarantined -= block.size;
                // SAFETY: the block was in quarantine until now.
                if unsafe { written_since_freed(address, &block) } {
                    found.push((&POOL_USE_AFTER_FREE, describe(address, &block)));
                }
                // SAFETY: as above; nothing refers to it any more.
                unsafe { give_back(address, &block) };
            }
        }
    }
    for (rule, detail) in found {
        violation(rule, api, detail);
    }
}

/// Looks at a live block of one kind, and may change its state. `None` when there is none at this address.
pub(crate) fn with_block<T>(kind: Kind, pointer: *const u8, body: impl FnOnce(&mut Block) -> T) -> Option<T> {
    let address = pointer.addr();
    lock(shard(address)).live.get_mut(&address).filter(|block| block.kind == kind).map(body)
}

/// Whether `pointer` is a block of this kind that was freed lately.
pub(crate) fn was_freed(kind: Kind, pointer: *const u8) -> bool {
    let address = pointer.addr();
    lock(shard(address)).quarantine.iter().any(|(freed, block)| *freed == address && block.kind == kind)
}

/// What a range of memory is to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Inside one live block.
    Inside { paged: bool },
    /// Starts in a live block and runs past its end.
    Beyond,
    /// In a block that was freed.
    Freed,
    /// Not in the pool: the driver's image, a stack, …
    Elsewhere,
}

/// Finds the block around a range. It searches every block unless the range starts where a block starts: for the slow
/// paths of the simulator (building MDLs, checking socket addresses).
pub fn range(pointer: *const u8, length: usize) -> Range {
    let address = pointer.addr();
    let judge = |start: usize, block: &Block| {
        if address.checked_add(length).is_some_and(|end| end <= start + block.size) {
            Range::Inside { paged: block.paged }
        } else {
            Range::Beyond
        }
    };
    if let Some(block) = lock(shard(address)).live.get(&address) {
        return judge(address, block);
    }
    for slot in &POOL {
        let shard = lock(&slot.0);
        let holds = |start: usize, block: &Block| start <= address && address < start + block.size;
        if let Some((&start, block)) = shard.live.iter().find(|(start, block)| holds(**start, block)) {
            return judge(start, block);
        }
        if shard.quarantine.iter().any(|(start, block)| holds(*start, block)) {
            return Range::Freed;
        }
    }
    Range::Elsewhere
}

/// Lists what is held, and looks for damage in all blocks, live and freed.
pub(crate) fn report(leaks: &mut Vec<Leak>) {
    let mut found = Vec::new();
    for slot in &POOL {
        let shard = lock(&slot.0);
        for (&address, block) in &shard.live {
            leaks.push(Leak {
                kind: block.kind.name(),
                id: address,
                tag: (block.tag != 0).then_some(Tag(block.tag)),
                size: block.size,
                made_by: block.api.to_owned(),
                backtrace: block.backtrace.as_ref().map(ToString::to_string),
            });
            // SAFETY: the block is in the table, and the shard is locked.
            if let Some(rule) = unsafe { guards_broken(address, block) } {
                found.push((rule, describe(address, block)));
                // Mended, so that it is not reported again.
                // SAFETY: the guards belong to the allocation.
                unsafe { ((address - GUARD) as *mut u8).write_bytes(FRONT_GUARD, GUARD) };
                // SAFETY: as above.
                unsafe { ((address + block.size) as *mut u8).write_bytes(REAR_GUARD, GUARD) };
            }
        }
        for (address, block) in &shard.quarantine {
            // SAFETY: the block is in quarantine, and the shard is locked.
            if unsafe { written_since_freed(*address, block) } {
                found.push((&POOL_USE_AFTER_FREE, describe(*address, block)));
                // SAFETY: the block is still ours.
                unsafe { (*address as *mut u8).write_bytes(POISON, block.size) };
            }
        }
    }
    for (rule, detail) in found {
        violation(rule, "verifier", detail);
    }
}

/// The highest IRQL at which memory of this kind may be allocated and freed.
pub(crate) const fn irql_limit(paged: bool) -> KIRQL {
    if paged { APC_LEVEL } else { crate::sys::nt::DISPATCH_LEVEL }
}
