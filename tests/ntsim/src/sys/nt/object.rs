//! Threads, handles and object references: wdm.h, ntifs.h.

use super::types::{
    ACCESS_MASK, BOOLEAN, HANDLE, KPROCESSOR_MODE, LONG_PTR, NTSTATUS, PASSIVE_LEVEL, PCLIENT_ID, PHANDLE,
    PKSTART_ROUTINE, PLARGE_INTEGER, POBJECT_ATTRIBUTES, POBJECT_HANDLE_INFORMATION, POBJECT_TYPE, PVOID,
    ULONG,
};
use super::{DISPATCH_LEVEL, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
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

/// Page "ZwWaitForSingleObject" (ntifs.h): PASSIVE_LEVEL. Waits for the thread behind a handle.
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
