//! Random bytes, good enough for keys (BCryptGenRandom of cng.sys, the system's preferred generator). PASSIVE_LEVEL: so
//! the page of BCryptGenRandom has it for BCRYPT_USE_SYSTEM_PREFERRED_RNG, without an algorithm's handle.

use super::irql::Passive;
use super::status::{Result, Status};
use crate::sys::cng;

/// Fills the buffer. On an error it holds nothing to rely on.
///
/// # Errors
/// What BCryptGenRandom returns; `STATUS_INVALID_PARAMETER` for more than 4 GiB.
pub fn fill(_passive: &Passive, buffer: &mut [u8]) -> Result {
    let length = u32::try_from(buffer.len()).map_err(|_| Status::INVALID_PARAMETER)?;
    // SAFETY: the buffer has `length` bytes; no algorithm's handle goes with the flag; PASSIVE_LEVEL says the token.
    let status = unsafe {
        cng::BCryptGenRandom(
            core::ptr::null_mut(),
            buffer.as_mut_ptr(),
            length,
            cng::BCRYPT_USE_SYSTEM_PREFERRED_RNG,
        )
    };
    Status(status).exact()
}
