//! Randomness: the one function of `cng.sys` that has rules to be checked. Wine has that driver; its numbers are Linux's.

use crate::sys::nt::{NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_INVALID_HANDLE, STATUS_UNSUCCESSFUL};
use crate::verify::violation;
use crate::{fault, irql};

crate::rules! {
    HANDLE_WITH_FLAG = ("a handle with BCRYPT_USE_SYSTEM_PREFERRED_RNG", "BCryptGenRandom");
}

/// `BCRYPT_USE_SYSTEM_PREFERRED_RNG`.
const SYSTEM_PREFERRED: u32 = 2;

mod cng {
    use super::{NTSTATUS, PVOID};

    #[link(name = "cng.sys", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn BCryptGenRandom(algorithm: PVOID, buffer: PVOID, length: u32, flags: u32) -> NTSTATUS;
    }
}

/// "BCRYPT_USE_SYSTEM_PREFERRED_RNG is only supported at PASSIVE_LEVEL IRQL", and "the hAlgorithm parameter must be NULL".
pub(super) unsafe extern "system" fn BCryptGenRandom(
    algorithm: PVOID,
    buffer: PVOID,
    length: u32,
    flags: u32,
) -> NTSTATUS {
    const API: &str = "BCryptGenRandom";
    irql::require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return STATUS_UNSUCCESSFUL;
    }
    if flags & SYSTEM_PREFERRED != 0 && !algorithm.is_null() {
        violation(&HANDLE_WITH_FLAG, API, "");
        return STATUS_INVALID_HANDLE;
    }
    // SAFETY: the driver's, by the page of the function.
    unsafe { cng::BCryptGenRandom(algorithm, buffer, length, flags) }
}
