//! cng.sys: `bcrypt.h` as far as drivers use it for random numbers.

#![allow(non_snake_case, reason = "names and signatures are those of the Windows headers")]

use crate::irql::require_at_most;
use crate::sys::nt::{
    DISPATCH_LEVEL, NTSTATUS, PASSIVE_LEVEL, PUCHAR, PVOID, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL, ULONG,
};
use crate::verify::violation;
use crate::{fault, random, rules};

rules! {
    RANDOM_ARGUMENTS = ("generator without a handle and without the flag for that, or with both", "BCryptGenRandom");
}

pub const BCRYPT_RNG_USE_ENTROPY_IN_BUFFER: ULONG = 1;
pub const BCRYPT_USE_SYSTEM_PREFERRED_RNG: ULONG = 2;

/// Page "BCryptGenRandom": with BCRYPT_USE_SYSTEM_PREFERRED_RNG the handle must be NULL, and the level PASSIVE_LEVEL.
/// Handles of algorithms are not simulated.
///
/// # Safety
/// `buffer` is writable for `length` bytes.
pub unsafe extern "system-unwind" fn BCryptGenRandom(
    algorithm: PVOID,
    buffer: PUCHAR,
    length: ULONG,
    flags: ULONG,
) -> NTSTATUS {
    const API: &str = "BCryptGenRandom";
    let preferred = flags & BCRYPT_USE_SYSTEM_PREFERRED_RNG != 0;
    require_at_most(API, if preferred { PASSIVE_LEVEL } else { DISPATCH_LEVEL });
    if preferred != algorithm.is_null() {
        violation(&RANDOM_ARGUMENTS, API, format!("handle {algorithm:p}, flags {flags:#x}"));
        return STATUS_INVALID_PARAMETER;
    }
    if !preferred {
        return STATUS_INVALID_HANDLE;
    }
    // The page leaves open which error it is.
    if fault::fail(API) {
        return STATUS_UNSUCCESSFUL;
    }
    if length == 0 {
        return STATUS_SUCCESS;
    }
    // SAFETY: as the caller promises.
    random::fill(unsafe { core::slice::from_raw_parts_mut(buffer, length as usize) });
    STATUS_SUCCESS
}
