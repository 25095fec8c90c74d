//! Security descriptors of objects: ntifs.h, at PASSIVE_LEVEL.

use super::types::{
    HANDLE, NTSTATUS, PASSIVE_LEVEL, PSECURITY_DESCRIPTOR, PULONG, READ_CONTROL, SECURITY_INFORMATION, ULONG,
};
use super::{STATUS_BUFFER_TOO_SMALL, STATUS_INSUFFICIENT_RESOURCES, STATUS_NOT_SUPPORTED, STATUS_SUCCESS};
use crate::irql::require_at_most;
use crate::{fault, object, registry};

/// Page "ZwQuerySecurityObject": PASSIVE_LEVEL, READ_CONTROL access. The descriptor is self-relative; with too little
/// room STATUS_BUFFER_TOO_SMALL, and nothing is copied but the length needed. Here for keys, and owner and list alone.
///
/// # Safety
/// `descriptor` is writable for `length` bytes, `needed` writable.
pub unsafe extern "system-unwind" fn ZwQuerySecurityObject(
    handle: HANDLE,
    _information: SECURITY_INFORMATION,
    descriptor: PSECURITY_DESCRIPTOR,
    length: ULONG,
    needed: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwQuerySecurityObject";
    require_at_most(API, PASSIVE_LEVEL);
    let key = match object::key(API, handle, READ_CONTROL) {
        Ok(key) => key,
        Err(status) => return status,
    };
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let Some(found) = registry::security(&key) else { return STATUS_NOT_SUPPORTED };
    // SAFETY: as the caller promises.
    unsafe { needed.write(u32::try_from(found.len()).unwrap_or(u32::MAX)) };
    if found.len() > length as usize {
        return STATUS_BUFFER_TOO_SMALL;
    }
    // SAFETY: as the caller promises.
    unsafe { core::ptr::copy_nonoverlapping(found.as_ptr(), descriptor.cast(), found.len()) };
    STATUS_SUCCESS
}
