//! Threads, handles and object references: wdm.h, ntifs.h.

use super::registry::REGISTRY_HANDLE;
use super::types::{
    ACCESS_MASK, BOOLEAN, EVENT_TYPE, HANDLE, KPROCESSOR_MODE, LONG_PTR, NTSTATUS, NotificationEvent,
    OBJ_KERNEL_HANDLE, PASSIVE_LEVEL, PCLIENT_ID, PHANDLE, PKSTART_ROUTINE, PLARGE_INTEGER,
    POBJECT_ATTRIBUTES, POBJECT_HANDLE_INFORMATION, POBJECT_TYPE, PVOID, ULONG,
};
use super::{DISPATCH_LEVEL, FALSE, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::dispatcher::object_type;
use crate::irql::require_at_most;
use crate::object::{self, THREAD_NOT_SYSTEM};
use crate::verify::violation;
use crate::{dispatcher, fault, irql};

/// Page "PsCreateSystemThread": PASSIVE_LEVEL. The handle is a kernel handle.
///
/// # Safety
/// `thread` is writable; the start routine may be called with the context on another thread.
pub unsafe extern "system-unwind" fn PsCreateSystemThread(
    thread: PHANDLE,
    _access: ULONG,
    _attributes: POBJECT_ATTRIBUTES,
    _process: HANDLE,
    _client: PCLIENT_ID,
    start: PKSTART_ROUTINE,
    context: PVOID,
) -> NTSTATUS {
    const API: &str = "PsCreateSystemThread";
    require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    match object::create_thread(API, start, context) {
        Ok(handle) => {
            // SAFETY: as the caller promises.
            unsafe { thread.write(handle) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Page "PsTerminateSystemThread": PASSIVE_LEVEL, on a thread that a driver created. On Windows it does not return.
/// Here it returns, and the thread object is signalled when the start routine has returned too: a host thread cannot be
/// ended under the frames above it. Any call into the kernel in between is a violation, so the start routine must return
/// at once.
///
/// # Safety
/// The caller's frames need no clean-up.
pub unsafe extern "system-unwind" fn PsTerminateSystemThread(_status: NTSTATUS) -> NTSTATUS {
    const API: &str = "PsTerminateSystemThread";
    require_at_most(API, PASSIVE_LEVEL);
    if !irql::is_system_thread() {
        violation(&THREAD_NOT_SYSTEM, API, "called on a thread of the host");
        return STATUS_INVALID_PARAMETER;
    }
    irql::terminate_thread();
    STATUS_SUCCESS
}

/// Page "ObReferenceObjectByHandle": PASSIVE_LEVEL.
///
/// # Safety
/// `object` is writable.
pub unsafe extern "system-unwind" fn ObReferenceObjectByHandle(
    handle: HANDLE,
    _access: ACCESS_MASK,
    _kind: POBJECT_TYPE,
    _mode: KPROCESSOR_MODE,
    object: *mut PVOID,
    _information: POBJECT_HANDLE_INFORMATION,
) -> NTSTATUS {
    const API: &str = "ObReferenceObjectByHandle";
    require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    match object::reference_by_handle(API, handle) {
        Ok(found) => {
            // SAFETY: as the caller promises.
            unsafe { object.write(found) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Page "ObReferenceObject": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller holds a reference to `object`.
pub unsafe extern "system-unwind" fn ObReferenceObject(object: PVOID) -> LONG_PTR {
    const API: &str = "ObReferenceObject";
    require_at_most(API, DISPATCH_LEVEL);
    object::reference(API, object)
}

/// Page "ObReferenceObject", which is a macro over this export.
///
/// # Safety
/// The caller holds a reference to `object`.
pub unsafe extern "system-unwind" fn ObfReferenceObject(object: PVOID) -> LONG_PTR {
    const API: &str = "ObfReferenceObject";
    require_at_most(API, DISPATCH_LEVEL);
    object::reference(API, object)
}

/// Page "ObDereferenceObject", which is a macro over this export: IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller gives up one reference to `object`.
pub unsafe extern "system-unwind" fn ObfDereferenceObject(object: PVOID) -> LONG_PTR {
    const API: &str = "ObfDereferenceObject";
    require_at_most(API, DISPATCH_LEVEL);
    object::dereference(API, object)
}

/// Page "ZwClose": PASSIVE_LEVEL.
///
/// # Safety
/// The handle is not used any more.
pub unsafe extern "system-unwind" fn ZwClose(handle: HANDLE) -> NTSTATUS {
    const API: &str = "ZwClose";
    require_at_most(API, PASSIVE_LEVEL);
    object::close(API, handle)
}

/// Page "ZwCreateEvent" (ntifs.h): PASSIVE_LEVEL.
///
/// # Safety
/// `event` is writable, `attributes` NULL or valid.
pub unsafe extern "system-unwind" fn ZwCreateEvent(
    event: PHANDLE,
    access: ACCESS_MASK,
    attributes: POBJECT_ATTRIBUTES,
    kind: EVENT_TYPE,
    state: BOOLEAN,
) -> NTSTATUS {
    const API: &str = "ZwCreateEvent";
    require_at_most(API, PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let kernel = unsafe { attributes.as_ref() }
        .is_some_and(|attributes| attributes.Attributes & OBJ_KERNEL_HANDLE != 0);
    if !kernel && !irql::is_system_thread() {
        violation(&REGISTRY_HANDLE, API, "OBJ_KERNEL_HANDLE is missing");
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let kind = if kind == NotificationEvent {
        object_type::NOTIFICATION_EVENT
    } else {
        object_type::SYNCHRONIZATION_EVENT
    };
    let made = object::create_event(API, kind, state != FALSE, access);
    // SAFETY: as the caller promises.
    unsafe { event.write(made) };
    STATUS_SUCCESS
}

/// Page "ZwWaitForSingleObject" (ntifs.h): PASSIVE_LEVEL. Waits for the thread or event behind a handle.
///
/// # Safety
/// `timeout` is NULL or readable.
pub unsafe extern "system-unwind" fn ZwWaitForSingleObject(
    handle: HANDLE,
    _alertable: BOOLEAN,
    timeout: PLARGE_INTEGER,
) -> NTSTATUS {
    const API: &str = "ZwWaitForSingleObject";
    require_at_most(API, PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let timeout = unsafe { super::event::timeout_of(timeout) };
    match object::reference_by_handle(API, handle) {
        Ok(found) => {
            // SAFETY: the object is referenced until the wait is over.
            let status = unsafe { dispatcher::wait(API, &[found], false, timeout) };
            object::dereference(API, found);
            status
        }
        Err(status) => status,
    }
}
