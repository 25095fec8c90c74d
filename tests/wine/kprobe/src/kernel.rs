//! The functions of the kernel that are checked, as a driver imports them.

use core::ffi::c_void;

use crate::sys::nt::{
    BOOLEAN, EX_RUNDOWN_REF, GUID, KDPC, KIRQL, KSPIN_LOCK, LARGE_INTEGER, LIST_ENTRY, MDL, NTSTATUS,
    PKDEFERRED_ROUTINE, PROCESSOR_NUMBER, UNICODE_STRING,
};

/// WORK_QUEUE_ITEM.
#[repr(C)]
pub struct WorkItem {
    pub list: LIST_ENTRY,
    pub routine: unsafe extern "C" fn(*mut c_void),
    pub parameter: *mut c_void,
}

/// KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT.
#[repr(C)]
pub struct ProcessorChange {
    pub state: i32,
    pub number: u32,
    pub status: NTSTATUS,
    pub processor: PROCESSOR_NUMBER,
}

pub type ProcessorCallback = unsafe extern "C" fn(*mut c_void, *mut ProcessorChange, *mut NTSTATUS);

pub type EnableCallback = unsafe extern "C" fn(*const GUID, u32, u8, u64, u64, *mut c_void, *mut c_void);

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    pub fn EtwRegister(
        id: *const GUID,
        callback: Option<EnableCallback>,
        context: *mut c_void,
        handle: *mut u64,
    ) -> NTSTATUS;
    pub safe fn EtwUnregister(handle: u64) -> NTSTATUS;
    pub safe fn ExAllocatePool2(flags: u64, size: usize, tag: u32) -> *mut c_void;
    pub fn ExAcquireRundownProtection(reference: *mut EX_RUNDOWN_REF) -> BOOLEAN;
    pub fn ExFreePoolWithTag(block: *mut c_void, tag: u32);
    pub fn ExInitializeRundownProtection(reference: *mut EX_RUNDOWN_REF);
    pub fn ExQueueWorkItem(item: *mut WorkItem, queue: i32);
    pub fn ExReleaseRundownProtection(reference: *mut EX_RUNDOWN_REF);
    pub fn ExWaitForRundownProtectionRelease(reference: *mut EX_RUNDOWN_REF);
    pub fn IoAllocateMdl(
        address: *mut c_void,
        length: u32,
        more: u8,
        quota: u8,
        irp: *mut c_void,
    ) -> *mut MDL;
    pub fn IoFreeMdl(mdl: *mut MDL);
    pub fn KeAcquireSpinLockRaiseToDpc(lock: *mut KSPIN_LOCK) -> KIRQL;
    pub fn KeDelayExecutionThread(mode: i8, alertable: BOOLEAN, interval: *const LARGE_INTEGER) -> NTSTATUS;
    pub fn KeDeregisterProcessorChangeCallback(handle: *mut c_void);
    pub safe fn KeFlushQueuedDpcs();
    pub safe fn KeGetCurrentIrql() -> KIRQL;
    pub fn KeGetCurrentProcessorNumberEx(number: *mut PROCESSOR_NUMBER) -> u32;
    pub fn KeInitializeDpc(dpc: *mut KDPC, routine: PKDEFERRED_ROUTINE, context: *mut c_void);
    pub fn KeInsertQueueDpc(dpc: *mut KDPC, first: *mut c_void, second: *mut c_void) -> BOOLEAN;
    pub safe fn KeLowerIrql(level: KIRQL);
    pub safe fn KeQueryActiveProcessorCountEx(group: u16) -> u32;
    pub safe fn KeQueryInterruptTime() -> u64;
    pub fn KeQueryLogicalProcessorRelationship(
        number: *mut PROCESSOR_NUMBER,
        relationship: i32,
        information: *mut u32,
        length: *mut u32,
    ) -> NTSTATUS;
    pub safe fn KeQueryMaximumProcessorCountEx(group: u16) -> u32;
    pub fn KeQuerySystemTimePrecise(time: *mut LARGE_INTEGER);
    pub fn KeRegisterProcessorChangeCallback(
        callback: ProcessorCallback,
        context: *mut c_void,
        flags: u32,
    ) -> *mut c_void;
    pub fn KeReleaseSpinLock(lock: *mut KSPIN_LOCK, level: KIRQL);
    pub fn KeRemoveQueueDpc(dpc: *mut KDPC) -> BOOLEAN;
    pub safe fn KfRaiseIrql(level: KIRQL) -> KIRQL;
    pub fn MmBuildMdlForNonPagedPool(mdl: *mut MDL);
    pub fn MmGetSystemRoutineAddress(name: *const UNICODE_STRING) -> *mut c_void;
}
