//! Memory descriptor lists: over buffers of our own in non-paged pool, which WSK sends from and receives into, and those
//! of others, which are only read. Any level up to DISPATCH_LEVEL.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::pool::{PoolSlice, tags};
use super::status::{Result, Status};
use crate::sys::nt;

/// A buffer with the MDL that describes all of it. The two live and die together.
pub struct MdlBuffer {
    mdl: NonNull<nt::MDL>,
    bytes: PoolSlice<u8>,
}

// SAFETY: the MDL describes memory that the buffer owns, and is not tied to a thread.
unsafe impl Send for MdlBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for MdlBuffer {}

impl MdlBuffer {
    /// A zeroed buffer of `len` bytes (IoAllocateMdl, MmBuildMdlForNonPagedPool).
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for no bytes or 4 GiB and more; `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(len: usize) -> Result<Self> {
        let length = u32::try_from(len).map_err(|_| Status::INVALID_PARAMETER)?;
        if length == 0 {
            return Err(Status::INVALID_PARAMETER);
        }
        let mut bytes = PoolSlice::try_zeroed(tags::MDL, len)?;
        // SAFETY: the buffer is ours; neither part of a chain nor of an IRP.
        let mdl = unsafe {
            nt::IoAllocateMdl(bytes.as_mut_ptr().cast(), length, nt::FALSE, nt::FALSE, core::ptr::null_mut())
        };
        let mdl = NonNull::new(mdl).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        // SAFETY: just allocated for a buffer in non-paged pool.
        unsafe { nt::MmBuildMdlForNonPagedPool(mdl.as_ptr()) };
        Ok(Self { mdl, bytes })
    }

    /// The MDL, for as long as the buffer lives.
    pub fn as_mdl(&self) -> nt::PMDL {
        self.mdl.as_ptr()
    }
}

impl Deref for MdlBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for MdlBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for MdlBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by IoAllocateMdl; nothing uses it after its owner. The buffer is freed after it.
        unsafe { nt::IoFreeMdl(self.mdl.as_ptr()) };
    }
}

impl fmt::Debug for MdlBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MdlBuffer").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Bytes that an MDL describes (MmGetMdlByteCount).
///
/// # Safety
/// `mdl` is valid.
pub unsafe fn byte_count(mdl: nt::PMDL) -> usize {
    // SAFETY: the caller's promise.
    let count = unsafe { (*mdl).ByteCount };
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The MDL after this one in its chain, or NULL.
///
/// # Safety
/// `mdl` is valid.
pub unsafe fn next(mdl: nt::PMDL) -> nt::PMDL {
    // SAFETY: the caller's promise.
    unsafe { (*mdl).Next }
}

/// Copies what an MDL of somebody else's describes, from its byte `from` on, as much as `into` has room for
/// (MmGetSystemAddressForMdlSafe, which maps what is not mapped yet; it is unmapped with the MDL).
///
/// # Safety
/// `mdl` is valid and describes locked or non-paged memory that nobody writes to meanwhile; `from` and the length of
/// `into` lie within it.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`: the memory cannot be mapped. `into` is as it was.
pub unsafe fn copy_out(mdl: nt::PMDL, from: usize, into: &mut [u8]) -> Result {
    let priority = nt::NormalPagePriority.cast_unsigned() | nt::MdlMappingNoExecute;
    // SAFETY: the caller's promise.
    let address = unsafe { nt::MmGetSystemAddressForMdlSafe(mdl, priority) };
    let address = NonNull::new(address.cast::<u8>()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
    // SAFETY: within what the MDL describes.
    let start = unsafe { address.add(from) };
    // SAFETY: mapped, and long enough, says the caller; `into` is ours, hence elsewhere.
    unsafe { start.copy_to_nonoverlapping(NonNull::from(&mut *into).cast(), into.len()) };
    Ok(())
}
