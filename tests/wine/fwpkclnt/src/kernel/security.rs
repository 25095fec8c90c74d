//! Access checks.

use crate::irql;
use crate::sys::nt::{
    ACCESS_MASK, BOOLEAN, FALSE, KPROCESSOR_MODE, KernelMode, NTSTATUS, PASSIVE_LEVEL, PVOID,
    STATUS_ACCESS_DENIED, STATUS_SUCCESS, TRUE,
};

/// `MAXIMUM_ALLOWED`.
const MAXIMUM_ALLOWED: ACCESS_MASK = 0x0200_0000;

/// GENERIC_MAPPING.
#[repr(C)]
pub(super) struct GenericMapping {
    read: ACCESS_MASK,
    write: ACCESS_MASK,
    execute: ACCESS_MASK,
    all: ACCESS_MASK,
}

/// "If AccessMode is KernelMode, access is granted": to what was asked for, and what was granted before. Callers in
/// user mode do not exist here; they are denied.
pub(super) unsafe extern "system" fn SeAccessCheck(
    _descriptor: PVOID,
    _subject: PVOID,
    _locked: BOOLEAN,
    desired: ACCESS_MASK,
    previously: ACCESS_MASK,
    privileges: *mut PVOID,
    mapping: *const GenericMapping,
    mode: KPROCESSOR_MODE,
    granted: *mut ACCESS_MASK,
    status: *mut NTSTATUS,
) -> BOOLEAN {
    irql::require_at_most("SeAccessCheck", PASSIVE_LEVEL);
    // SAFETY: by the function's page it is null or can be written.
    if let Some(privileges) = unsafe { privileges.as_mut() } {
        *privileges = core::ptr::null_mut();
    }
    let allowed = mode == KernelMode;
    let access = if desired & MAXIMUM_ALLOWED == 0 {
        desired | previously
    } else {
        // SAFETY: by the function's page it can be read.
        unsafe { (*mapping).all | desired & !MAXIMUM_ALLOWED | previously }
    };
    // SAFETY: by the function's page it can be written.
    unsafe { granted.write(if allowed { access } else { 0 }) };
    // SAFETY: by the function's page it can be written.
    unsafe { status.write(if allowed { STATUS_SUCCESS } else { STATUS_ACCESS_DENIED }) };
    if allowed { TRUE } else { FALSE }
}
