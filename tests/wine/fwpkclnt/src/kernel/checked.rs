//! Functions that Wine has, with the IRQL that their pages allow checked, and made to fail where they were told to.

use core::ptr::null_mut;

use crate::sys::nt::{
    ACCESS_MASK, APC_LEVEL, BOOLEAN, DISPATCH_LEVEL, HANDLE, KIRQL, KPROCESSOR_MODE, LARGE_INTEGER, NTSTATUS,
    OBJECT_ATTRIBUTES, PASSIVE_LEVEL, PDEVICE_OBJECT, PDRIVER_OBJECT, PIRP, PKSTART_ROUTINE, PKWAIT_BLOCK,
    PMDL, PVOID, STATUS_INSUFFICIENT_RESOURCES, UNICODE_STRING,
};
use crate::{fault, irql};

/// Defines functions that check the IRQL and go on to Wine's own of that name.
macro_rules! checked {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $limit:expr $(, else $failure:expr)?;)+) => {
        mod wine {
            #[allow(clippy::wildcard_imports, reason = "the types of the same functions")]
            use super::*;

            #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
            unsafe extern "system" {
                $(pub fn $name($($argument: $type),*) $(-> $result)?;)+
            }
        }
        $(
            pub(super) unsafe extern "system" fn $name($($argument: $type),*) $(-> $result)? {
                irql::require_at_most(stringify!($name), $limit);
                $(if fault::fail(stringify!($name)) {
                    return $failure;
                })?
                // SAFETY: the driver's, by the page of the function.
                unsafe { wine::$name($($argument),*) }
            }
        )+
    };
}
pub(super) use checked;

/// "If Timeout is zero, the caller can be at DISPATCH_LEVEL": a wait that does not wait.
fn wait_limit(timeout: *const LARGE_INTEGER) -> KIRQL {
    // SAFETY: by the function's page it is null or an interval.
    let timeout = unsafe { timeout.as_ref() };
    // SAFETY: both views are plain integers.
    let zero = timeout.is_some_and(|timeout| unsafe { timeout.QuadPart } == 0);
    if zero { DISPATCH_LEVEL } else { APC_LEVEL }
}

checked! {
    fn IoCreateDevice(
        driver: PDRIVER_OBJECT, extension: u32, name: *const UNICODE_STRING, kind: u32, characteristics: u32,
        exclusive: BOOLEAN, device: *mut PDEVICE_OBJECT
    ) -> NTSTATUS, APC_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn IoAllocateIrp(stack: i8, quota: BOOLEAN) -> PIRP, DISPATCH_LEVEL, else null_mut();
    fn IoAllocateMdl(
        address: PVOID, length: u32, secondary: BOOLEAN, quota: BOOLEAN, irp: PIRP
    ) -> PMDL, DISPATCH_LEVEL, else null_mut();
    fn IoDeleteDevice(device: PDEVICE_OBJECT), APC_LEVEL;
    fn KeDelayExecutionThread(
        mode: KPROCESSOR_MODE, alertable: BOOLEAN, interval: *const LARGE_INTEGER
    ) -> NTSTATUS, APC_LEVEL;
    fn KeWaitForMultipleObjects(
        count: u32, objects: *const PVOID, kind: i32, reason: i32, mode: KPROCESSOR_MODE, alertable: BOOLEAN,
        timeout: *const LARGE_INTEGER, blocks: PKWAIT_BLOCK
    ) -> NTSTATUS, wait_limit(timeout);
    fn KeWaitForSingleObject(
        object: PVOID, reason: i32, mode: KPROCESSOR_MODE, alertable: BOOLEAN, timeout: *const LARGE_INTEGER
    ) -> NTSTATUS, wait_limit(timeout);
    fn PsCreateSystemThread(
        thread: *mut HANDLE, access: ACCESS_MASK, attributes: *const OBJECT_ATTRIBUTES, process: HANDLE,
        client: PVOID, routine: PKSTART_ROUTINE, context: PVOID
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn ZwClose(handle: HANDLE) -> NTSTATUS, PASSIVE_LEVEL;
    fn ZwEnumerateKey(
        key: HANDLE, index: u32, class: i32, information: PVOID, length: u32, result: *mut u32
    ) -> NTSTATUS, PASSIVE_LEVEL;
    fn ZwEnumerateValueKey(
        key: HANDLE, index: u32, class: i32, information: PVOID, length: u32, result: *mut u32
    ) -> NTSTATUS, PASSIVE_LEVEL;
    fn ZwOpenKey(
        key: *mut HANDLE, access: ACCESS_MASK, attributes: *const OBJECT_ATTRIBUTES
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn ZwQueryValueKey(
        key: HANDLE, name: *const UNICODE_STRING, class: i32, information: PVOID, length: u32, result: *mut u32
    ) -> NTSTATUS, PASSIVE_LEVEL;
    fn ZwWaitForSingleObject(
        handle: HANDLE, alertable: BOOLEAN, timeout: *const LARGE_INTEGER
    ) -> NTSTATUS, PASSIVE_LEVEL;
}
