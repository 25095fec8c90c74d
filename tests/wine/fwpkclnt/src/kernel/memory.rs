//! Memory descriptor lists.

use crate::irql;
use crate::sys::nt::{DISPATCH_LEVEL, MDL, MDL_SOURCE_IS_NONPAGED_POOL};

/// The list describes nonpaged pool, which has its address already: `MmGetSystemAddressForMdlSafe` answers it. Wine
/// leaves it out.
pub(super) unsafe extern "system" fn MmBuildMdlForNonPagedPool(mdl: *mut MDL) {
    irql::require_at_most("MmBuildMdlForNonPagedPool", DISPATCH_LEVEL);
    // SAFETY: by the function's page it is one that IoAllocateMdl gave.
    let mdl = unsafe { &mut *mdl };
    mdl.MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
    mdl.MappedSystemVa = mdl.StartVa.wrapping_byte_add(mdl.ByteOffset as usize);
}
