//! How the system was started.

use crate::sys::nt;

/// The kind of safe mode that the system runs in: 1 minimal, 2 with networking, 3 directory services repair; 0: in none
/// (page "Determining Whether the Operating System Is Running in Safe Mode"). Any level.
pub fn safe_mode() -> u32 {
    // SAFETY: a variable that does not change any more.
    unsafe { nt::InitSafeBootMode() }
}
