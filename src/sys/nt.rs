//! The NT kernel's API, under the names of the WDK headers: the one place that knows where it comes from.
//!
//! Enumeration constants are plain constants here, and unions are reached through the functions below, so that
//! the spelling of generated bindings stays out of the driver.

#[cfg(image)]
mod image;
mod proof;

macro_rules! facade {
    ($($source:ident)::+) => {
        pub use $($source)::+::{
    ALL_PROCESSOR_GROUPS, DEVICE_OBJECT, DRIVER_OBJECT, EVENT_MODIFY_STATE, EX_ALLOCATE_POOL2, EX_ALLOCATE_POOL3, EX_RUNDOWN_REF, ExAcquireRundownProtection,
    ExAllocatePoolWithTag, ExFreePoolWithTag, ExInitializeRundownProtection, ExReInitializeRundownProtection,
    ExReleaseRundownProtection, ExWaitForRundownProtectionRelease, Executive, FALSE, FILE_DEVICE_NETWORK,
    FILE_DEVICE_SECURE_OPEN, GUID, HANDLE, IO_NO_INCREMENT, IO_STACK_LOCATION, IRP, IoAllocateIrp, IoAllocateMdl, IoCancelIrp,
    IoCreateDevice, IoDeleteDevice, IoFreeIrp, IoFreeMdl, IoReuseIrp, IoSetCompletionRoutine, IoSetCompletionRoutineEx,
    IofCallDriver, IofCompleteRequest, KEVENT,
    KEY_READ, KIRQL, KeBugCheckEx, KeClearEvent, KeDelayExecutionThread, KeFlushQueuedDpcs, KeGetCurrentProcessorIndex, KeInitializeEvent,
    KeLowerIrql, KeQueryActiveProcessorCountEx, KeQueryInterruptTime, KeQueryMaximumProcessorCountEx,
    KeQueryPerformanceCounter, KeQuerySystemTimePrecise, KeRaiseIrqlToDpcLevel, KeReadStateEvent, KeSetEvent,
    KeWaitForMultipleObjects, KeWaitForSingleObject, KernelMode, KeyBasicInformation,
    KeyValueBasicInformation, KeyValuePartialInformation, LARGE_INTEGER, MDL, MdlMappingNoExecute,
    MmBuildMdlForNonPagedPool, MmGetSystemAddressForMdlSafe, MmGetSystemRoutineAddress,
    NT_SUCCESS, NTSTATUS, NonPagedPoolNx, NormalPagePriority, NotificationEvent, OBJ_CASE_INSENSITIVE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES,
    ObReferenceObjectByHandle, ObfDereferenceObject,
    PIO_COMPLETION_ROUTINE, PIRP, PMDL, POOL_FLAG_NON_PAGED, PVOID, PsCreateSystemThread, REG_NOTIFY_CHANGE_LAST_SET, REG_NOTIFY_CHANGE_NAME,
    STATUS_BUFFER_OVERFLOW, STATUS_BUFFER_TOO_SMALL, STATUS_CANCELLED, STATUS_CONNECTION_DISCONNECTED,
    STATUS_CONNECTION_RESET, STATUS_DATA_NOT_ACCEPTED, STATUS_DEVICE_NOT_READY,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_IO_TIMEOUT,
    STATUS_MORE_PROCESSING_REQUIRED, STATUS_NO_MORE_ENTRIES, STATUS_NOINTERFACE, STATUS_NOT_IMPLEMENTED,
    STATUS_NOT_SUPPORTED, STATUS_OBJECT_NAME_EXISTS, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_PENDING,
    STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS, STATUS_TIMEOUT, STATUS_UNSUCCESSFUL, SynchronizationEvent,
    THREAD_ALL_ACCESS, TRUE, UNICODE_STRING, WaitAny, YieldProcessor, ZwClose, ZwCreateEvent, ZwEnumerateKey,
    ZwEnumerateValueKey, ZwNotifyChangeKey, ZwOpenKey, ZwQueryValueKey, ZwWaitForSingleObject,
};
        // Processors that come, and nodes.
        pub use $($source)::+::{
    KE_PROCESSOR_CHANGE_ADD_EXISTING, KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, KeDeregisterProcessorChangeCallback,
    KeProcessorAddCompleteNotify, KeProcessorAddStartNotify, KeQueryLogicalProcessorRelationship,
    KeRegisterProcessorChangeCallback, MM_ANY_NODE_OK, POOL_EXTENDED_PARAMETER, PROCESSOR_NUMBER,
    PoolExtendedParameterNumaNode, RelationNumaNode, SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
};
        // Bug checks.
        pub use $($source)::+::{
    KBUGCHECK_CALLBACK_REASON, KBUGCHECK_REASON_CALLBACK_RECORD, KBUGCHECK_SECONDARY_DUMP_DATA,
    KbCallbackSecondaryDumpData, KeDeregisterBugCheckReasonCallback, KeRegisterBugCheckReasonCallback,
};
        // The system's shutdown, and safe mode.
        pub use $($source)::+::{
    InitSafeBootMode, IoRegisterShutdownNotification, IoUnregisterShutdownNotification,
};
        // Files, and who may touch what.
        pub use $($source)::+::{
    DACL_SECURITY_INFORMATION, FILE_ATTRIBUTE_NORMAL, FILE_COMPLETE_IF_OPLOCKED, FILE_DIRECTORY_FILE, FILE_GENERIC_READ, FILE_GENERIC_WRITE,
    FILE_NON_DIRECTORY_FILE, FILE_OPEN, FILE_OPEN_IF, FILE_OVERWRITE_IF, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_STANDARD_INFORMATION, FILE_SYNCHRONOUS_IO_NONALERT, FILE_TRAVERSE, FILE_WRITE_THROUGH,
    FileStandardInformation, IO_GET_DRIVER_DIRECTORY, IO_STATUS_BLOCK, OWNER_SECURITY_INFORMATION,
    STATUS_END_OF_FILE, STATUS_OPLOCK_BREAK_IN_PROGRESS, SYNCHRONIZE, ZwCreateFile, ZwFlushBuffersFile, ZwQueryInformationFile,
    ZwQuerySecurityObject, ZwReadFile, ZwWriteFile,
};
    };
}

#[cfg(image)]
facade!(image);
#[cfg(feature = "sim")]
facade!(ntsim::sys::nt);

/// The status of a wait that the first object ended.
pub const STATUS_WAIT_0: NTSTATUS = 0;

/// `OBJECT_ATTRIBUTES.Length`.
pub const OBJECT_ATTRIBUTES_SIZE: u32 = 0x30;

const _: () = assert!(size_of::<OBJECT_ATTRIBUTES>() == 0x30);

/// A LARGE_INTEGER of this value.
pub const fn large_integer(value: i64) -> LARGE_INTEGER {
    LARGE_INTEGER { QuadPart: value }
}

/// The value of a LARGE_INTEGER.
pub const fn large_integer_value(integer: &LARGE_INTEGER) -> i64 {
    // SAFETY: both views of the union are plain integers of the same 8 bytes.
    unsafe { integer.QuadPart }
}

/// Room for the relationship of one processor.
pub const UNRELATED: SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX = {
    // SAFETY: plain numbers, of which any are good.
    unsafe { core::mem::zeroed() }
};

/// Where `NumaNode.NodeNumber` is, within an unnamed union (page "SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX").
const NODE_NUMBER: usize = 8;

const _: () = assert!(size_of::<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX>() >= NODE_NUMBER + size_of::<u32>());

/// The node in a relationship, if it is that of a node.
pub const fn numa_node(related: &SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX) -> Option<u32> {
    if related.Relationship != RelationNumaNode {
        return None;
    }
    let related = core::ptr::from_ref(related);
    // SAFETY: within the structure.
    let node = unsafe { related.byte_add(NODE_NUMBER) };
    // SAFETY: the union's member for a node starts with its number, and any bits are one.
    Some(unsafe { node.cast::<u32>().read() })
}

/// The parameter of a pool allocation that prefers a node, and is ignored where it is not known (page
/// "POOL_EXTENDED_PARAMETER").
pub const fn prefer_node(node: u32) -> POOL_EXTENDED_PARAMETER {
    const OPTIONAL: u64 = 0x100;
    POOL_EXTENDED_PARAMETER {
        Type: PoolExtendedParameterNumaNode | OPTIONAL,
        PreferredNode: node | MM_ANY_NODE_OK,
        Rest: 0,
    }
}

/// `IRP_MJ_INTERNAL_DEVICE_CONTROL`: requests between drivers.
pub const IRP_MJ_INTERNAL_DEVICE_CONTROL: u8 = 0x0F;

/// `IRP_MJ_SHUTDOWN`.
pub const IRP_MJ_SHUTDOWN: u8 = 0x10;

/// Where `Tail.Overlay.CurrentStackLocation` is, within unnamed unions.
const CURRENT_STACK_LOCATION: usize = 0xB8;

const _: () = assert!(core::mem::offset_of!(IRP, Tail) == 0x78 && size_of::<IRP>() == 0xD0);

/// The stack location of whom the IRP is sent to next (page "IoGetNextIrpStackLocation", inline in the headers).
///
/// # Safety
/// `irp` is the caller's, and has a location left.
pub unsafe fn next_stack_location(irp: PIRP) -> *mut IO_STACK_LOCATION {
    // SAFETY: within the IRP.
    let current = unsafe { irp.byte_add(CURRENT_STACK_LOCATION) };
    // SAFETY: the field is a pointer to the current location.
    let current = unsafe { current.cast::<*mut IO_STACK_LOCATION>().read() };
    // SAFETY: the caller's promise.
    unsafe { current.sub(1) }
}

/// Whether an IRP is beyond its first stack location: somebody has it, or had it and did not complete it.
///
/// # Safety
/// `irp` points to an IRP.
pub unsafe fn was_sent(irp: PIRP) -> bool {
    // SAFETY: the caller's promise.
    let irp = unsafe { &*irp };
    irp.CurrentLocation <= irp.StackCount
}

/// Fills in `IoStatus` of an IRP, without information.
///
/// # Safety
/// `irp` points to an IRP that was sent to the caller.
pub unsafe fn set_io_status(irp: PIRP, status: NTSTATUS) {
    // SAFETY: the caller's promise.
    let block = unsafe { &mut (*irp).IoStatus };
    block.Information = 0;
    // The union of status and pointer, whose name the headers do not give, comes first.
    let first = core::ptr::from_mut(block).cast::<NTSTATUS>();
    // SAFETY: within the IRP.
    unsafe { first.write(status) };
}

/// `Information` of a status block.
pub const fn io_information(block: &IO_STATUS_BLOCK) -> usize {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        reason = "a ULONG_PTR is a u64 in the bindings"
    )]
    let information = block.Information as usize;
    information
}

/// `IoStatus` of an IRP: status and information.
///
/// # Safety
/// `irp` points to an IRP that the caller owns, or that is being completed to it.
pub unsafe fn io_status(irp: PIRP) -> (NTSTATUS, usize) {
    // SAFETY: the caller's promise.
    let block = unsafe { &(*irp).IoStatus };
    // The union of status and pointer, whose name the headers do not give, comes first.
    let status = core::ptr::from_ref(block).cast::<NTSTATUS>();
    // SAFETY: a kernel request's IoStatus holds a status; any bits are one.
    let status = unsafe { status.read() };
    (status, io_information(block))
}
