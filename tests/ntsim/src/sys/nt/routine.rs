//! Exports that are looked up: wdm.h `MmGetSystemRoutineAddress`; and the kernel's variables.

use core::ptr::null_mut;

use super::file::IoGetDriverDirectory;
use super::pool::{EX_ALLOCATE_POOL2, EX_ALLOCATE_POOL3, ExAllocatePool2, ExAllocatePool3};
use super::string::text;
use super::types::{IO_GET_DRIVER_DIRECTORY, PASSIVE_LEVEL, PUNICODE_STRING, PVOID, ULONG};
use crate::irql::require_at_most;

/// Page "MmGetSystemRoutineAddress": IRQL = PASSIVE_LEVEL; NULL for what the system does not export. Here that is all but
/// what a driver has reason to look up, and what [`Config::absent_routines`](crate::Config::absent_routines) names.
///
/// # Safety
/// `name` is valid.
pub unsafe extern "system-unwind" fn MmGetSystemRoutineAddress(name: PUNICODE_STRING) -> PVOID {
    require_at_most("MmGetSystemRoutineAddress", PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let name = unsafe { text(name) }.unwrap_or_default();
    if crate::boot::routine_is_absent(&name) {
        return null_mut();
    }
    match name.as_str() {
        "ExAllocatePool2" => (ExAllocatePool2 as EX_ALLOCATE_POOL2 as *const ()).cast_mut().cast(),
        "ExAllocatePool3" => (ExAllocatePool3 as EX_ALLOCATE_POOL3 as *const ()).cast_mut().cast(),
        "IoGetDriverDirectory" => {
            (IoGetDriverDirectory as IO_GET_DRIVER_DIRECTORY as *const ()).cast_mut().cast()
        }
        _ => null_mut(),
    }
}

/// Page "Determining Whether the Operating System Is Running in Safe Mode": what the kernel's variable of that name holds,
/// 0 outside of safe mode ([`Config::safe_boot`](crate::Config::safe_boot)).
///
/// # Safety
/// None needed.
pub unsafe fn InitSafeBootMode() -> ULONG {
    crate::boot::safe_boot()
}
