//! The registry: wdm.h, all at PASSIVE_LEVEL.

use super::types::{
    ACCESS_MASK, HANDLE, KEY_ENUMERATE_SUB_KEYS, KEY_INFORMATION_CLASS, KEY_QUERY_VALUE,
    KEY_VALUE_INFORMATION_CLASS, NTSTATUS, OBJ_KERNEL_HANDLE, PASSIVE_LEVEL, PHANDLE, POBJECT_ATTRIBUTES,
    PULONG, PUNICODE_STRING, PVOID, ULONG,
};
use super::{OBJECT_ATTRIBUTES, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::irql::{is_system_thread, require_at_most};
use crate::registry::{self, Output};
use crate::verify::violation;
use crate::{fault, object, rules};

rules! {
    REGISTRY_HANDLE = ("handle that a user process could reach", "ZwOpenKey");
    REGISTRY_ATTRIBUTES = ("bad object attributes", "InitializeObjectAttributes");
    REGISTRY_BUFFER = ("buffer not aligned for what is written to it", "ZwQueryValueKey");
}

/// # Safety
/// `string` is null or a valid UNICODE_STRING.
pub(super) unsafe fn units<'a>(string: PUNICODE_STRING) -> Option<&'a [u16]> {
    // SAFETY: as the caller promises.
    let string = unsafe { string.as_ref() }?;
    if string.Buffer.is_null() {
        return Some(&[]);
    }
    // SAFETY: as the caller promises.
    Some(unsafe { core::slice::from_raw_parts(string.Buffer, usize::from(string.Length) / 2) })
}

/// Page "ZwOpenKey": PASSIVE_LEVEL; OBJ_KERNEL_HANDLE unless on a system thread.
///
/// # Safety
/// `key` is writable, `attributes` valid.
pub unsafe extern "system-unwind" fn ZwOpenKey(
    key: PHANDLE,
    access: ACCESS_MASK,
    attributes: POBJECT_ATTRIBUTES,
) -> NTSTATUS {
    const API: &str = "ZwOpenKey";
    require_at_most(API, PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let Some(attributes) = (unsafe { attributes.as_ref() }) else { return STATUS_INVALID_PARAMETER };
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
        violation(&REGISTRY_ATTRIBUTES, API, format!("Length is {}", attributes.Length));
        return STATUS_INVALID_PARAMETER;
    }
    if attributes.Attributes & OBJ_KERNEL_HANDLE == 0 && !is_system_thread() {
        violation(&REGISTRY_HANDLE, API, "OBJ_KERNEL_HANDLE is missing");
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: as the caller promises.
    let Some(name) = (unsafe { units(attributes.ObjectName) }) else { return STATUS_INVALID_PARAMETER };
    let root = if attributes.RootDirectory.is_null() {
        None
    } else {
        match object::key(API, attributes.RootDirectory, 0) {
            Ok(root) => Some(root),
            Err(status) => return status,
        }
    };
    match registry::open(root.as_ref(), name) {
        Ok(found) => {
            // SAFETY: as the caller promises.
            unsafe { key.write(object::open_key(found, access, API)) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// The common checks of the three routines that read a key.
fn enter(api: &'static str, key: HANDLE, needed: ACCESS_MASK) -> Result<registry::Key, NTSTATUS> {
    require_at_most(api, PASSIVE_LEVEL);
    let key = object::key(api, key, needed)?;
    if fault::fail(api) { Err(STATUS_INSUFFICIENT_RESOURCES) } else { Ok(key) }
}

fn check_buffer(api: &'static str, class: i32, buffer: PVOID) {
    if !registry::is_aligned(class, buffer.cast()) {
        violation(&REGISTRY_BUFFER, api, format!("{:#x}", buffer.addr()));
    }
}

/// Page "ZwQueryValueKey": PASSIVE_LEVEL, KEY_QUERY_VALUE. STATUS_BUFFER_OVERFLOW with partial data,
/// STATUS_BUFFER_TOO_SMALL with none; the length needed is returned either way.
///
/// # Safety
/// `name` is valid, `information` writable for `length` bytes, `result_length` writable.
pub unsafe extern "system-unwind" fn ZwQueryValueKey(
    key: HANDLE,
    name: PUNICODE_STRING,
    class: KEY_VALUE_INFORMATION_CLASS,
    information: PVOID,
    length: ULONG,
    result_length: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwQueryValueKey";
    let key = match enter(API, key, KEY_QUERY_VALUE) {
        Ok(key) => key,
        Err(status) => return status,
    };
    check_buffer(API, class, information);
    let output = Output { buffer: information.cast(), length, result_length };
    // SAFETY: as the caller promises.
    let name = unsafe { units(name) }.unwrap_or(&[]);
    // SAFETY: as the caller promises.
    unsafe { registry::query_value(&key, name, class, &output) }
}

/// Page "ZwEnumerateValueKey": PASSIVE_LEVEL, KEY_QUERY_VALUE; STATUS_NO_MORE_ENTRIES behind the last.
///
/// # Safety
/// `information` is writable for `length` bytes, `result_length` writable.
pub unsafe extern "system-unwind" fn ZwEnumerateValueKey(
    key: HANDLE,
    index: ULONG,
    class: KEY_VALUE_INFORMATION_CLASS,
    information: PVOID,
    length: ULONG,
    result_length: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwEnumerateValueKey";
    let key = match enter(API, key, KEY_QUERY_VALUE) {
        Ok(key) => key,
        Err(status) => return status,
    };
    check_buffer(API, class, information);
    let output = Output { buffer: information.cast(), length, result_length };
    // SAFETY: as the caller promises.
    unsafe { registry::enumerate_value(&key, index, class, &output) }
}

/// Page "ZwEnumerateKey": PASSIVE_LEVEL, KEY_ENUMERATE_SUB_KEYS; STATUS_NO_MORE_ENTRIES behind the last.
///
/// # Safety
/// `information` is writable for `length` bytes, `result_length` writable.
pub unsafe extern "system-unwind" fn ZwEnumerateKey(
    key: HANDLE,
    index: ULONG,
    class: KEY_INFORMATION_CLASS,
    information: PVOID,
    length: ULONG,
    result_length: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwEnumerateKey";
    let key = match enter(API, key, KEY_ENUMERATE_SUB_KEYS) {
        Ok(key) => key,
        Err(status) => return status,
    };
    let output = Output { buffer: information.cast(), length, result_length };
    // SAFETY: as the caller promises.
    unsafe { registry::enumerate_key(&key, index, class, &output) }
}
