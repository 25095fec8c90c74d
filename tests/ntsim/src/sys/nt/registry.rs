//! The registry: wdm.h, all at PASSIVE_LEVEL.

use super::types::{
    ACCESS_MASK, BOOLEAN, EVENT_MODIFY_STATE, HANDLE, KEY_ENUMERATE_SUB_KEYS, KEY_INFORMATION_CLASS,
    KEY_NOTIFY, KEY_QUERY_VALUE, KEY_VALUE_INFORMATION_CLASS, NTSTATUS, OBJ_KERNEL_HANDLE, PASSIVE_LEVEL,
    PHANDLE, PIO_APC_ROUTINE, PIO_STATUS_BLOCK, POBJECT_ATTRIBUTES, PULONG, PUNICODE_STRING, PVOID,
    REG_NOTIFY_CHANGE_LAST_SET, REG_NOTIFY_CHANGE_NAME, ULONG,
};
use super::{
    FALSE, OBJECT_ATTRIBUTES, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    STATUS_SUCCESS,
};
use crate::irql::{is_system_thread, require_at_most};
use crate::registry::{self, Output};
use crate::verify::violation;
use crate::{fault, object, rules};

rules! {
    REGISTRY_HANDLE = ("handle that a user process could reach", "ZwOpenKey");
    REGISTRY_ATTRIBUTES = ("bad object attributes", "InitializeObjectAttributes");
    REGISTRY_BUFFER = ("buffer not aligned for what is written to it", "ZwQueryValueKey");
    REGISTRY_NOTIFY = ("bad request for a notification", "ZwNotifyChangeKey");
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

/// Page "ZwNotifyChangeKey": PASSIVE_LEVEL, KEY_NOTIFY. Told once, by the event; the status block is written before it is
/// set. Page "RegNotifyChangeKeyValue": closing the key sets the event as well; that the key itself is deleted is not told.
/// Here a driver must not wait in the call, and must not have a routine called: it could outlive the image.
///
/// # Safety
/// `block` is writable until the event is set.
pub unsafe extern "system-unwind" fn ZwNotifyChangeKey(
    key: HANDLE,
    event: HANDLE,
    routine: PIO_APC_ROUTINE,
    _context: PVOID,
    block: PIO_STATUS_BLOCK,
    filter: ULONG,
    tree: BOOLEAN,
    buffer: PVOID,
    size: ULONG,
    asynchronous: BOOLEAN,
) -> NTSTATUS {
    const API: &str = "ZwNotifyChangeKey";
    const KNOWN: ULONG = REG_NOTIFY_CHANGE_NAME | REG_NOTIFY_CHANGE_LAST_SET | 2 | 8;
    let handle = key;
    let key = match enter(API, key, KEY_NOTIFY) {
        Ok(key) => key,
        Err(status) => return status,
    };
    let problem = if asynchronous == FALSE || event.is_null() {
        "the caller would wait in it"
    } else if routine.is_some() {
        "a routine that can outlive the image"
    } else if !buffer.is_null() || size != 0 {
        "a buffer, which is reserved"
    } else if filter == 0 || filter & !KNOWN != 0 {
        "unknown changes, or none"
    } else if block.is_null() {
        "no status block"
    } else {
        return match object::reference_event(API, event, EVENT_MODIFY_STATE) {
            Ok(event) => {
                registry::notify(
                    &key,
                    handle.addr(),
                    event.addr(),
                    block.expose_provenance(),
                    filter,
                    tree != FALSE,
                );
                STATUS_PENDING
            }
            Err(status) => status,
        };
    };
    violation(&REGISTRY_NOTIFY, API, problem);
    STATUS_INVALID_PARAMETER
}
