//! The NT kernel as the image has it: wdk-sys, and what its headers define inline or hide in unnamed unions.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

pub use wdk::nt_success as NT_SUCCESS;
pub use wdk_sys::ntddk::*;
pub use wdk_sys::*;

use core::ptr::null_mut;

pub const TRUE: BOOLEAN = 1;
pub const FALSE: BOOLEAN = 0;

pub const ALL_PROCESSOR_GROUPS: USHORT = 0xFFFF;
pub const IO_NO_INCREMENT: KPRIORITY = 0;
pub type POOL_FLAGS = u64;
pub const POOL_FLAG_NON_PAGED: POOL_FLAGS = 0x40;

pub const KernelMode: KPROCESSOR_MODE = 0;
/// Beside a priority: what is mapped is data.
pub const MdlMappingNoExecute: ULONG = 0x4000_0000;
pub use wdk_sys::_EVENT_TYPE::{NotificationEvent, SynchronizationEvent};
pub use wdk_sys::_FILE_INFORMATION_CLASS::FileStandardInformation;
pub use wdk_sys::_KBUGCHECK_CALLBACK_REASON::KbCallbackSecondaryDumpData;
pub use wdk_sys::_KE_PROCESSOR_CHANGE_NOTIFY_STATE::{
    KeProcessorAddCompleteNotify, KeProcessorAddStartNotify,
};
pub use wdk_sys::_KEY_INFORMATION_CLASS::KeyBasicInformation;
pub use wdk_sys::_KEY_VALUE_INFORMATION_CLASS::{KeyValueBasicInformation, KeyValuePartialInformation};
pub use wdk_sys::_KWAIT_REASON::Executive;
pub use wdk_sys::_LOGICAL_PROCESSOR_RELATIONSHIP::RelationNumaNode;
pub use wdk_sys::_MM_PAGE_PRIORITY::NormalPagePriority;
pub use wdk_sys::_POOL_TYPE::NonPagedPoolNx;
pub use wdk_sys::_WAIT_TYPE::WaitAny;

const _: () = assert!(wdk_sys::_MODE::KernelMode == 0);

/// Page "ExAllocatePool2". Not imported: it is younger than the oldest Windows that weir runs on.
pub type EX_ALLOCATE_POOL2 = unsafe extern "system" fn(POOL_FLAGS, usize, ULONG) -> PVOID;

/// Page "ExAllocatePool3". Not imported, as ExAllocatePool2.
pub type EX_ALLOCATE_POOL3 =
    unsafe extern "system" fn(POOL_FLAGS, usize, ULONG, *const POOL_EXTENDED_PARAMETER, ULONG) -> PVOID;

/// Page "POOL_EXTENDED_PARAMETER": older headers do not have it.
#[repr(C)]
pub struct POOL_EXTENDED_PARAMETER {
    /// Bit fields: 8 bits of type, one that says that the parameter is optional, 55 that are reserved.
    pub Type: u64,
    pub PreferredNode: ULONG,
    pub Rest: ULONG,
}

/// Of POOL_EXTENDED_PARAMETER_TYPE.
pub const PoolExtendedParameterNumaNode: u64 = 3;
/// Beside the number of a node: any other will do.
pub const MM_ANY_NODE_OK: ULONG = 0x8000_0000;

/// Page "IoGetDriverDirectory". Not imported: without it there is a directory of the same kind.
pub type IO_GET_DRIVER_DIRECTORY = unsafe extern "system" fn(PDRIVER_OBJECT, i32, ULONG, PHANDLE) -> NTSTATUS;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    // Deprecated, so wdk-sys does not bind it; there is nothing else before Windows 10 2004.
    pub fn ExAllocatePoolWithTag(PoolType: POOL_TYPE, NumberOfBytes: usize, Tag: ULONG) -> PVOID;
    pub fn KeLowerIrql(NewIrql: KIRQL);
    pub fn KeQuerySystemTimePrecise(CurrentTime: PLARGE_INTEGER);
    fn KfRaiseIrql(NewIrql: KIRQL) -> KIRQL;
    // Its priority is a ULONG, with flags beside the enumeration, and an enumeration alone in mingw-w64's headers.
    pub fn MmMapLockedPagesSpecifyCache(
        MemoryDescriptorList: PMDL,
        AccessMode: KPROCESSOR_MODE,
        CacheType: MEMORY_CACHING_TYPE,
        RequestedAddress: PVOID,
        BugCheckOnFailure: ULONG,
        Priority: ULONG,
    ) -> PVOID;
}

mod variable {
    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub static InitSafeBootMode: super::ULONG;
    }
}

/// Page "Determining Whether the Operating System Is Running in Safe Mode": 0 outside of it.
///
/// # Safety
/// None beyond the ABI.
pub unsafe fn InitSafeBootMode() -> ULONG {
    // SAFETY: the kernel's variable, which was written before any driver was loaded.
    unsafe { variable::InitSafeBootMode }
}

// Before Windows 10 2004 the hardware abstraction layer was an image of its own; later ones forward.
#[link(name = "hal.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn KeQueryPerformanceCounter(PerformanceFrequency: PLARGE_INTEGER) -> LARGE_INTEGER;
}

/// The current processor's number over all groups. IRQL: any; steady from DISPATCH_LEVEL up.
///
/// # Safety
/// None beyond the ABI.
pub unsafe fn KeGetCurrentProcessorIndex() -> ULONG {
    // SAFETY: the number within a group is not asked for.
    unsafe { KeGetCurrentProcessorNumberEx(null_mut()) }
}

/// Page "KeRaiseIrqlToDpcLevel function": for these processors it is inline in the headers.
///
/// # Safety
/// The level is DISPATCH_LEVEL at most, and lowered again.
pub unsafe fn KeRaiseIrqlToDpcLevel() -> KIRQL {
    const LEVEL: KIRQL = 2;
    const _: () = assert!(LEVEL as u32 == DISPATCH_LEVEL);
    // SAFETY: the caller's promise.
    unsafe { KfRaiseIrql(LEVEL) }
}

/// `InterruptTime` of KUSER_SHARED_DATA, which every system maps here for the kernel.
const SHARED_INTERRUPT_TIME: usize = 0xFFFF_F780_0000_0008;

/// Page "KeQueryInterruptTime function": for these processors it is inline in the headers, one read.
///
/// # Safety
/// None beyond the ABI.
pub unsafe fn KeQueryInterruptTime() -> ULONGLONG {
    let time = core::ptr::with_exposed_provenance::<ULONGLONG>(SHARED_INTERRUPT_TIME);
    // SAFETY: mapped for as long as the system runs; the clock writes it in one access.
    unsafe { time.read_volatile() }
}

/// Tells the processor that it waits in a loop.
///
/// # Safety
/// None beyond the ABI.
pub unsafe fn YieldProcessor() {
    core::hint::spin_loop();
}

/// Page "IoSetCompletionRoutine macro (wdm.h)". IRQL: up to DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is the caller's, and has a stack location below the current one.
pub unsafe fn IoSetCompletionRoutine(
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    on_success: BOOLEAN,
    on_error: BOOLEAN,
    on_cancel: BOOLEAN,
) {
    // SAFETY: the caller's promise.
    let next = unsafe { super::next_stack_location(irp) };
    // SAFETY: as above; nobody else looks at it before the IRP is sent.
    let next = unsafe { &mut *next };
    next.CompletionRoutine = routine;
    next.Context = context;
    next.Control = 0;
    for (on, bit) in
        [(on_success, SL_INVOKE_ON_SUCCESS), (on_error, SL_INVOKE_ON_ERROR), (on_cancel, SL_INVOKE_ON_CANCEL)]
    {
        if on != FALSE {
            // The bits are of a byte.
            next.Control |= bit.to_le_bytes()[0];
        }
    }
}

/// Page "MmGetSystemAddressForMdlSafe macro": inline in the headers. IRQL: up to DISPATCH_LEVEL. NULL: no room to map it.
///
/// # Safety
/// The MDL was built.
pub unsafe fn MmGetSystemAddressForMdlSafe(mdl: PMDL, priority: ULONG) -> PVOID {
    const MAPPED: u32 = MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL;
    // SAFETY: the caller's promise.
    let flags = unsafe { (*mdl).MdlFlags };
    if u32::from(flags.cast_unsigned()) & MAPPED != 0 {
        // SAFETY: as above.
        return unsafe { (*mdl).MappedSystemVa };
    }
    // SAFETY: the pages are locked, says the caller; a failure is an answer, not a bug check.
    unsafe {
        MmMapLockedPagesSpecifyCache(
            mdl,
            KernelMode,
            wdk_sys::_MEMORY_CACHING_TYPE::MmCached,
            null_mut(),
            ULONG::from(FALSE),
            priority,
        )
    }
}
