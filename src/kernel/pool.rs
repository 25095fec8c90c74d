//! Non-paged pool memory: fallible, aligned, tagged. The driver's only allocator.
//!
//! Any code at or below DISPATCH_LEVEL may allocate and free: ExAllocatePool2 where the system has it (Windows 10 2004
//! and later; [`look_up`]), else ExAllocatePoolWithTag; and ExFreePoolWithTag. Non-paged, zeroed.
//! Every block carries a [`Tag`] from the [`tags`] table, and goes back with the same one.
//!
//! What one processor works with can be asked for on its NUMA node ([`Tag::on`]): by ExAllocatePool3, which came with
//! ExAllocatePool2, and is the only one with a node. It is a wish: where the system does not know it, or the node has
//! nothing left, memory comes from another.
//!
//! Objects of more than [`MAX_BY_VALUE`] bytes are never moved through the stack: they are initialised in place
//! ([`PoolBox::try_new_in_place`], [`PoolSlice::try_from_fn`]); by value they do not compile:
//!
//! ```compile_fail,E0080
//! use weir::kernel::pool::{PoolBox, tags};
//! let big = PoolBox::try_new(tags::THREAD, [0u8; 4096]);
//! ```

use core::ffi::c_void;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

use zeroize::Zeroize;

use super::irql::Passive;
use super::processors::Node;
use super::status::{Result, Status};
use super::string::{self, UnicodeStr};
use crate::sys::nt;

/// The largest object that may be moved by value into the pool, in bytes.
pub const MAX_BY_VALUE: usize = 512;

/// What both functions align every block to on 64-bit Windows.
const POOL_ALIGNMENT: usize = 16;

/// A block of at least this size starts at a multiple of it (PAGE_SIZE; pages "ExAllocatePool2",
/// "ExAllocatePoolWithTag").
const PAGE: usize = 4096;

/// A pool tag: four ASCII characters, as pool monitors show them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(u32);

impl Tag {
    const fn new(characters: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(characters))
    }

    /// The tag as the pool functions take it: the first character in the lowest byte.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The four characters, in the order in which tools print them.
    pub const fn characters(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// This tag, for memory that is best on `node`.
    pub const fn on(self, node: Option<Node>) -> Place {
        Place { tag: self, node }
    }
}

/// Where memory is to come from: a tag, which will do alone, and a node.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    tag: Tag,
    node: Option<Node>,
}

impl From<Tag> for Place {
    fn from(tag: Tag) -> Self {
        tag.on(None)
    }
}

macro_rules! tags {
    ($($(#[doc = $doc:literal])+ $name:ident = $characters:literal;)+) => {
        /// Every tag that weir allocates with.
        pub mod tags {
            use super::Tag;
            $($(#[doc = $doc])+ pub const $name: Tag = Tag::new(*$characters);)+
            /// Tag, and what is allocated with it: the table that the documentation prints.
            pub const ALL: &[(Tag, &str)] = &[$(($name, concat!($($doc),+))),+];
        }
    };
}

tags! {
    /// Start packets of system threads.
    THREAD = b"WrTh";
    /// Kernel events and rundown references.
    SYNC = b"WrSy";
    /// I/O request packets with what they refer to.
    IRP = b"WrIr";
    /// Buffers described by memory descriptor lists.
    MDL = b"WrMd";
    /// Registry values while they are read.
    REGISTRY = b"WrRg";
    /// The driver's own state.
    DRIVER = b"WrDr";
    /// Settings.
    CONFIGURATION = b"WrCf";
    /// Policy images.
    POLICY = b"WrPo";
    /// Orders for policies, and what became of them.
    DESK = b"WrDk";
    /// Policies on their way to and from the file system.
    STORE = b"WrPs";
    /// Security descriptors while they are read.
    SECURITY = b"WrSd";
    /// What is told when a processor is added.
    PROCESSORS = b"WrPr";
    /// Per-processor epochs of policy readers.
    EPOCH = b"WrEp";
    /// Rings and their records.
    RING = b"WrRi";
    /// Tables of connections.
    FLOW_TABLE = b"WrFt";
    /// Connections.
    CONNECTION = b"WrCo";
    /// Engine session and callouts.
    WFP = b"WrWf";
    /// Sockets.
    SOCKET = b"WrSo";
    /// Registrations of extension interfaces.
    EXTENSION = b"WrEx";
    /// Control sessions.
    CONTROL = b"WrCt";
    /// The guard against boot loops.
    GUARD = b"WrGu";
    /// What goes into a crash dump.
    DUMP = b"WrDu";
}

/// ExAllocatePool2, or NULL.
static ALLOCATE_POOL2: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// ExAllocatePool3, or NULL.
static ALLOCATE_POOL3: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Looks for ExAllocatePool2 and ExAllocatePool3, before the first allocation.
pub fn look_up(_passive: &Passive) {
    static NAMES: [([u16; 15], &AtomicPtr<c_void>); 2] = [
        (string::from_ascii(b"ExAllocatePool2"), &ALLOCATE_POOL2),
        (string::from_ascii(b"ExAllocatePool3"), &ALLOCATE_POOL3),
    ];
    for (name, routine) in &NAMES {
        let found = UnicodeStr::new(name).map_or(null_mut(), |name| {
            // SAFETY: PASSIVE_LEVEL; the name is only read.
            unsafe { nt::MmGetSystemRoutineAddress(name.as_raw()) }
        });
        routine.store(found, Ordering::Release);
    }
}

/// A block of pool memory, zeroed; NULL if there is none.
///
/// # Safety
/// The size is not zero.
#[inline(never)]
unsafe fn allocate_block(size: usize, place: Place) -> *mut u8 {
    let Place { tag, node } = place;
    let routine = ALLOCATE_POOL3.load(Ordering::Acquire);
    if let (Some(node), false) = (node, routine.is_null()) {
        // SAFETY: the kernel's routine of that name has this type.
        let routine = unsafe { core::mem::transmute::<*mut c_void, nt::EX_ALLOCATE_POOL3>(routine) };
        let parameter = nt::prefer_node(node.number());
        // SAFETY: the size is not zero; the parameter lives for the call; callable up to DISPATCH_LEVEL for non-paged
        // pool.
        let block = unsafe { routine(nt::POOL_FLAG_NON_PAGED, size, tag.0, &raw const parameter, 1) };
        if !block.is_null() {
            return block.cast();
        }
    }
    let routine = ALLOCATE_POOL2.load(Ordering::Acquire);
    if !routine.is_null() {
        // SAFETY: the kernel's routine of that name has this type.
        let routine = unsafe { core::mem::transmute::<*mut c_void, nt::EX_ALLOCATE_POOL2>(routine) };
        // SAFETY: the size is not zero; callable up to DISPATCH_LEVEL for non-paged pool.
        return unsafe { routine(nt::POOL_FLAG_NON_PAGED, size, tag.0) }.cast();
    }
    // SAFETY: as above.
    let block = unsafe { nt::ExAllocatePoolWithTag(nt::NonPagedPoolNx, size, tag.0) }.cast::<u8>();
    if !block.is_null() {
        // SAFETY: the block has this size, and nobody else has it.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// Allocates `size` bytes, zeroed, aligned to `align`. The block's start is found again by [`free`].
fn allocate(place: impl Into<Place>, size: usize, align: usize) -> Result<NonNull<u8>> {
    let padding = padding(size, align);
    let total = size.max(1).checked_add(padding).ok_or(Status::INSUFFICIENT_RESOURCES)?;
    // SAFETY: the size is not zero.
    let block =
        NonNull::new(unsafe { allocate_block(total, place.into()) }).ok_or(Status::INSUFFICIENT_RESOURCES)?;
    if padding == 0 {
        return Ok(block);
    }
    // The object starts at the first aligned address that leaves room before it for the block's own.
    let start = block.addr().get();
    let offset = start
        .checked_add(size_of::<NonNull<u8>>())
        .and_then(|least| least.checked_next_multiple_of(align))
        .and_then(|aligned| aligned.checked_sub(start))
        .unwrap_or(padding);
    // SAFETY: the offset is at most `padding`, which was added to the size.
    let object = unsafe { block.add(offset) };
    // SAFETY: there is room for one pointer between the block's start and the object.
    let header = unsafe { object.sub(size_of::<NonNull<u8>>()) }.cast::<NonNull<u8>>();
    // SAFETY: inside the block; an object aligned to more than 16 bytes leaves the word before it aligned.
    unsafe { header.write(block) };
    Ok(object)
}

/// Frees what [`allocate`] returned.
///
/// # Safety
/// `object` came from [`allocate`] with the same tag, size and alignment, and is not used afterwards.
unsafe fn free(tag: Tag, object: NonNull<u8>, size: usize, align: usize) {
    let block = if padding(size, align) == 0 {
        object
    } else {
        // SAFETY: `allocate` left room for one pointer before an object of this alignment.
        let header = unsafe { object.sub(size_of::<NonNull<u8>>()) }.cast::<NonNull<u8>>();
        // SAFETY: `allocate` wrote the block's address there.
        unsafe { header.read() }
    };
    // SAFETY: the block came from `allocate_block` with this tag.
    unsafe { nt::ExFreePoolWithTag(block.as_ptr().cast(), tag.0) };
}

/// How much more to allocate so that any block holds an aligned object with a pointer before it.
const fn padding(size: usize, align: usize) -> usize {
    if align <= POOL_ALIGNMENT || size >= PAGE && align <= PAGE {
        0
    } else {
        align.saturating_add(size_of::<usize>())
    }
}

/// One object in the pool.
pub struct PoolBox<T> {
    object: NonNull<T>,
    tag: Tag,
}

// SAFETY: the box owns its object, as a `Box` does.
unsafe impl<T: Send> Send for PoolBox<T> {}
// SAFETY: a shared box gives shared references only.
unsafe impl<T: Sync> Sync for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Moves `value` into a new block. It must be small: see [`MAX_BY_VALUE`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; the value is dropped.
    pub fn try_new(place: impl Into<Place>, value: T) -> Result<Self> {
        Self::try_with(place, || value)
    }

    /// A new block with what `make` makes, once there is a place for it: it need not be moved, nor undone.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `make` has not been called.
    pub fn try_with(place: impl Into<Place>, make: impl FnOnce() -> T) -> Result<Self> {
        const { assert!(size_of::<T>() <= MAX_BY_VALUE, "initialise it in place") };
        let place = place.into();
        let object = allocate(place, size_of::<T>(), align_of::<T>())?.cast::<T>();
        // SAFETY: freshly allocated for a `T`.
        unsafe { object.write(make()) };
        Ok(Self { object, tag: place.tag })
    }

    /// A copy of an object of any size, which does not pass over the stack.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_copy(tag: Tag, original: &T) -> Result<Self>
    where
        T: Copy,
    {
        let object = allocate(tag, size_of::<T>(), align_of::<T>())?.cast::<T>();
        // SAFETY: freshly allocated for a `T`, which is copied whole.
        unsafe { object.copy_from_nonoverlapping(NonNull::from(original), 1) };
        Ok(Self { object, tag })
    }

    /// Lets `init` build the object where it will stay. The memory is zeroed beforehand.
    ///
    /// # Safety
    /// When `init` returns `Ok`, the object is initialised; when it returns `Err`, nothing in it needs dropping.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what `init` returns.
    pub unsafe fn try_new_in_place(
        tag: Tag,
        init: impl FnOnce(&mut MaybeUninit<T>) -> Result<()>,
    ) -> Result<Self> {
        let memory = allocate(tag, size_of::<T>(), align_of::<T>())?;
        let mut object = memory.cast::<MaybeUninit<T>>();
        // SAFETY: freshly allocated, ours alone, and `MaybeUninit` needs no initialisation.
        let slot = unsafe { object.as_mut() };
        match init(slot) {
            Ok(()) => Ok(Self { object: object.cast(), tag }),
            Err(status) => {
                // SAFETY: allocated above with this tag, size and alignment; nothing refers to it.
                unsafe { free(tag, memory, size_of::<T>(), align_of::<T>()) };
                Err(status)
            }
        }
    }

    /// The object's address, which stays the same until it is freed.
    pub fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }

    /// Gives the object up to be owned by its address, for a context that the kernel carries.
    pub fn into_raw(self) -> NonNull<T> {
        let this = core::mem::ManuallyDrop::new(self);
        this.object
    }

    /// Takes back what [`PoolBox::into_raw`] gave up.
    ///
    /// # Safety
    /// `object` came from `into_raw` of a box with this tag, once.
    pub const unsafe fn from_raw(tag: Tag, object: NonNull<T>) -> Self {
        Self { object, tag }
    }

    /// Moves the value out and frees the block. It must be small: see [`MAX_BY_VALUE`].
    pub fn into_inner(self) -> T {
        const { assert!(size_of::<T>() <= MAX_BY_VALUE, "leave it where it is") };
        let tag = self.tag;
        let object = self.into_raw();
        // SAFETY: the box owned an initialised object, which is freed without being dropped.
        let value = unsafe { object.read() };
        let bytes = NonNull::slice_from_raw_parts(object.cast::<u8>(), size_of::<T>());
        // SAFETY: the object's own memory, which nobody else has.
        let bytes = unsafe { &mut *bytes.as_ptr() };
        // It may have been a secret.
        bytes.zeroize();
        // SAFETY: allocated with this tag, size and alignment.
        unsafe { free(tag, object.cast(), size_of::<T>(), align_of::<T>()) };
        value
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the box owns an initialised object.
        unsafe { self.object.as_ref() }
    }
}

impl<T> DerefMut for PoolBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the box owns an initialised object, and is borrowed mutably.
        unsafe { self.object.as_mut() }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        // SAFETY: the box owns an initialised object, which nothing uses after this.
        unsafe { self.object.drop_in_place() };
        // SAFETY: allocated with this tag, size and alignment.
        unsafe { free(self.tag, self.object.cast(), size_of::<T>(), align_of::<T>()) };
    }
}

impl<T: fmt::Debug> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A number of objects side by side in the pool. Its length is fixed; an empty one has no block.
pub struct PoolSlice<T> {
    start: NonNull<T>,
    len: usize,
    tag: Tag,
}

// SAFETY: the slice owns its objects.
unsafe impl<T: Send> Send for PoolSlice<T> {}
// SAFETY: a shared slice gives shared references only.
unsafe impl<T: Sync> Sync for PoolSlice<T> {}

impl<T> PoolSlice<T> {
    /// `len` objects, each made by `element` from its index, where it will stay.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_from_fn(
        place: impl Into<Place>,
        len: usize,
        mut element: impl FnMut(usize) -> T,
    ) -> Result<Self> {
        Self::try_from_fallible(place, len, |index| Ok(element(index)))
    }

    /// As [`PoolSlice::try_from_fn`], with elements that can fail: those made before are dropped.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what `element` returns.
    pub fn try_from_fallible(
        place: impl Into<Place>,
        len: usize,
        mut element: impl FnMut(usize) -> Result<T>,
    ) -> Result<Self> {
        const { assert!(size_of::<T>() <= MAX_BY_VALUE, "elements are moved into place") };
        let bytes = size_of::<T>().checked_mul(len).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        if bytes == 0 && len != 0 {
            return Err(Status::INVALID_PARAMETER);
        }
        let place = place.into();
        let tag = place.tag;
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len, tag });
        }
        let memory = allocate(place, bytes, align_of::<T>())?;
        let mut partial = Partial { start: memory.cast::<T>(), made: 0, len, tag };
        for index in 0..len {
            let value = element(index)?;
            // SAFETY: `index` is below `len`, for which the memory was allocated.
            let slot = unsafe { partial.start.add(index) };
            // SAFETY: inside the memory, and not initialised yet.
            unsafe { slot.write(value) };
            partial.made = partial.made.saturating_add(1);
        }
        let partial = core::mem::ManuallyDrop::new(partial);
        Ok(Self { start: partial.start, len, tag })
    }

    /// The address of the first element, which stays the same until it is freed.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.start.as_ptr()
    }
}

impl PoolSlice<u8> {
    /// `len` zeroed bytes, aligned to 16.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_zeroed(tag: Tag, len: usize) -> Result<Self> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len, tag });
        }
        // Blocks come zeroed.
        Ok(Self { start: allocate(tag, len, align_of::<u8>())?, len, tag })
    }
}

/// Elements made so far; drops them, and frees the memory, unless the slice is completed.
struct Partial<T> {
    start: NonNull<T>,
    made: usize,
    /// Those that there is memory for.
    len: usize,
    tag: Tag,
}

impl<T> Drop for Partial<T> {
    fn drop(&mut self) {
        let made = NonNull::slice_from_raw_parts(self.start, self.made);
        // SAFETY: exactly these elements were initialised.
        unsafe { made.drop_in_place() };
        // It was computed without overflow when the memory was allocated.
        let bytes = size_of::<T>().wrapping_mul(self.len);
        // SAFETY: allocated with this tag, size and alignment.
        unsafe { free(self.tag, self.start.cast(), bytes, align_of::<T>()) };
    }
}

impl<T> Deref for PoolSlice<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        let all = NonNull::slice_from_raw_parts(self.start, self.len);
        // SAFETY: the slice owns `len` initialised objects, or is empty.
        unsafe { all.as_ref() }
    }
}

impl<T> DerefMut for PoolSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        let mut all = NonNull::slice_from_raw_parts(self.start, self.len);
        // SAFETY: the slice owns `len` initialised objects, or is empty, and is borrowed mutably.
        unsafe { all.as_mut() }
    }
}

impl<T> Drop for PoolSlice<T> {
    fn drop(&mut self) {
        if self.len != 0 {
            // Frees as an unfinished slice does.
            drop(Partial { start: self.start, made: self.len, len: self.len, tag: self.tag });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for PoolSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// An object in the pool with several owners, freed by the last. There are no weak references: break cycles by
/// hand.
pub struct PoolArc<T> {
    shared: NonNull<Counted<T>>,
}

struct Counted<T> {
    owners: AtomicUsize,
    tag: Tag,
    value: T,
}

// SAFETY: owners on several threads share the value, and the last one, on any thread, drops it.
unsafe impl<T: Send + Sync> Send for PoolArc<T> {}
// SAFETY: a shared owner can be cloned into another thread.
unsafe impl<T: Send + Sync> Sync for PoolArc<T> {}

impl<T> PoolArc<T> {
    /// Moves `value` into a new block with one owner. It must be small: see [`MAX_BY_VALUE`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; the value is dropped.
    pub fn try_new(tag: Tag, value: T) -> Result<Self> {
        let counted = PoolBox::try_new(tag, Counted { owners: AtomicUsize::new(1), tag, value })?;
        Ok(Self { shared: counted.into_raw() })
    }

    /// A new block with one owner and what `make` makes, once there is a place for it.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; `make` has not been called.
    pub fn try_with(tag: Tag, make: impl FnOnce() -> T) -> Result<Self> {
        let counted = PoolBox::try_with(tag, || Counted { owners: AtomicUsize::new(1), tag, value: make() })?;
        Ok(Self { shared: counted.into_raw() })
    }

    /// Gives this ownership up to a context that the kernel carries.
    pub fn into_raw(self) -> NonNull<()> {
        let this = core::mem::ManuallyDrop::new(self);
        this.shared.cast()
    }

    /// What [`PoolArc::into_raw`] would give, without giving the ownership up.
    pub fn as_raw(&self) -> NonNull<()> {
        self.shared.cast()
    }

    /// Takes back the ownership that [`PoolArc::into_raw`] gave up.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of a `PoolArc<T>`, and this is done once for each.
    pub const unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { shared: raw.cast() }
    }

    /// The value behind what [`PoolArc::into_raw`] gave up, without taking the ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of a `PoolArc<T>`, and that ownership lasts for `'a`.
    pub unsafe fn borrow_raw<'a>(raw: NonNull<()>) -> &'a T {
        // SAFETY: the caller vouches for type and life.
        let counted = unsafe { raw.cast::<Counted<T>>().as_ref() };
        &counted.value
    }

    /// Whether both own the same object.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        self.shared == other.shared
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: an owner keeps the block alive.
        unsafe { self.shared.as_ref() }
    }
}

impl<T> Clone for PoolArc<T> {
    fn clone(&self) -> Self {
        // More owners than addresses cannot be: each is a value somewhere in memory that was not forgotten.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared }
    }
}

impl<T> Deref for PoolArc<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for PoolArc<T> {
    fn drop(&mut self) {
        if self.counted().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Whatever the other owners did to the value happened before it is dropped.
        fence(Ordering::Acquire);
        let tag = self.counted().tag;
        // SAFETY: this was the last owner; the block was made by `PoolBox::try_new` with this tag.
        drop(unsafe { PoolBox::from_raw(tag, self.shared) });
    }
}

impl<T: fmt::Debug> fmt::Debug for PoolArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
