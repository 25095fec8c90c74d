//! Counted strings, debug output and bug checks: wdm.h.

use super::types::{NTSTATUS, PCSTR, PCWSTR, PUNICODE_STRING, ULONG, ULONG_PTR, UNICODE_STRING};
use super::{STATUS_SUCCESS, USHORT};

/// Page "RtlInitUnicodeString": any level for non-paged memory. The string is cut at 32767 characters less its end.
///
/// # Safety
/// `destination` is writable, `source` NULL or a zero-terminated string that outlives it.
pub unsafe extern "system-unwind" fn RtlInitUnicodeString(destination: PUNICODE_STRING, source: PCWSTR) {
    const LONGEST: usize = 0xfffc;
    let mut bytes = 0usize;
    if !source.is_null() {
        // SAFETY: the string has a terminating zero, and none was met yet.
        while bytes < LONGEST && unsafe { source.wrapping_byte_add(bytes).read() } != 0 {
            bytes += 2;
        }
    }
    let length = USHORT::try_from(bytes).unwrap_or(0);
    let maximum = if source.is_null() { 0 } else { length + 2 };
    // SAFETY: as the caller promises.
    unsafe {
        destination.write(UNICODE_STRING {
            Length: length,
            MaximumLength: maximum,
            Buffer: source.cast_mut(),
        });
    }
}

/// A counted string as text; `None` for NULL.
///
/// # Safety
/// `string` is null or valid.
pub(super) unsafe fn text(string: PUNICODE_STRING) -> Option<String> {
    // SAFETY: as the caller promises.
    let string = unsafe { string.as_ref() }?;
    if string.Buffer.is_null() {
        return Some(String::new());
    }
    // SAFETY: as the caller promises.
    let units = unsafe { core::slice::from_raw_parts(string.Buffer, usize::from(string.Length) / 2) };
    Some(String::from_utf16_lossy(units))
}

/// Page "DbgPrintEx", for a message that has no arguments: IRQL <= DIRQL. It goes to the sink of
/// [`crate::debug::set_sink`].
///
/// # Safety
/// `message` is a zero-terminated string.
pub unsafe extern "system-unwind" fn DbgPrintEx(component: ULONG, level: ULONG, message: PCSTR) -> NTSTATUS {
    // SAFETY: as the caller promises.
    let message = unsafe { core::ffi::CStr::from_ptr(message.cast()) };
    crate::debug::print(component, level, &message.to_string_lossy());
    STATUS_SUCCESS
}

/// Page "KeBugCheckEx": any level; does not return.
///
/// # Panics
/// Always: that is what stops the machine here.
///
/// # Safety
/// None needed.
#[cold]
pub unsafe extern "system-unwind" fn KeBugCheckEx(
    code: ULONG,
    first: ULONG_PTR,
    second: ULONG_PTR,
    third: ULONG_PTR,
    fourth: ULONG_PTR,
) -> ! {
    panic!("bug check {code:#x} ({first:#x}, {second:#x}, {third:#x}, {fourth:#x})");
}
