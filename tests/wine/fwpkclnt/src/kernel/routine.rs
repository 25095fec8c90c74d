//! Looking functions up at run time.

use alloc::string::String;
use core::ffi::c_void;
use core::ptr::null_mut;

use crate::irql;
use crate::modules;
use crate::sys::nt::{PASSIVE_LEVEL, UNICODE_STRING};

mod wine {
    use super::{UNICODE_STRING, c_void};

    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn MmGetSystemRoutineAddress(name: *const UNICODE_STRING) -> *mut c_void;
    }
}

/// Wine answers a function that aborts for every name that it knows and does not have; here such a name has no address,
/// as on a Windows that lacks the function.
pub(super) unsafe extern "system" fn MmGetSystemRoutineAddress(name: *const UNICODE_STRING) -> *mut c_void {
    irql::require_at_most("MmGetSystemRoutineAddress", PASSIVE_LEVEL);
    // SAFETY: by the function's page.
    let string = unsafe { &*name };
    // SAFETY: a counted string has that many bytes.
    let units = unsafe { core::slice::from_raw_parts(string.Buffer, usize::from(string.Length) / 2) };
    if let Some(address) = super::find(&String::from_utf16_lossy(units)) {
        return address.cast_mut().cast();
    }
    // SAFETY: by the function's page.
    let address = unsafe { wine::MmGetSystemRoutineAddress(name) };
    // SAFETY: Wine gives null or the address of code.
    if address.is_null() || unsafe { modules::is_stub(address.cast()) } { null_mut() } else { address }
}
