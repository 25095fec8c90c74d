//! NT types as Windows x64 lays them out, spelled as the WDK headers spell them.
//!
//! Scalars follow LLP64: `ULONG` is 32 bits, pointers 64. Enumerations are plain `i32` values with constants.
//! Callback types are `extern "C"`, which is what bindgen (and so wdk-sys) makes of `NTAPI` on x64.
//! Layouts are those of wdm.h and ntdef.h and are held by the assertions at the end.

use core::ffi::c_void;

pub type VOID = c_void;
pub type PVOID = *mut c_void;
pub type PCVOID = *const c_void;
pub type HANDLE = *mut c_void;
pub type PHANDLE = *mut HANDLE;
pub type BOOLEAN = u8;
pub type PBOOLEAN = *mut BOOLEAN;
pub type CHAR = i8;
pub type CCHAR = i8;
pub type UCHAR = u8;
pub type PUCHAR = *mut UCHAR;
pub type CSHORT = i16;
pub type SHORT = i16;
pub type USHORT = u16;
pub type PUSHORT = *mut USHORT;
pub type WCHAR = u16;
pub type PWCH = *mut WCHAR;
pub type PWSTR = *mut WCHAR;
pub type PCWSTR = *const WCHAR;
pub type PCSTR = *const i8;
pub type LONG = i32;
pub type PLONG = *mut LONG;
pub type ULONG = u32;
pub type PULONG = *mut ULONG;
pub type LONGLONG = i64;
pub type LONG64 = i64;
pub type ULONGLONG = u64;
pub type ULONG64 = u64;
pub type PULONG64 = *mut ULONG64;
pub type LONG_PTR = isize;
pub type ULONG_PTR = usize;
pub type SIZE_T = usize;
pub type PSIZE_T = *mut SIZE_T;
pub type NTSTATUS = i32;
pub type PNTSTATUS = *mut NTSTATUS;
pub type KIRQL = u8;
pub type PKIRQL = *mut KIRQL;
pub type KPRIORITY = LONG;
pub type KPROCESSOR_MODE = CCHAR;
pub type KSPIN_LOCK = ULONG_PTR;
pub type PKSPIN_LOCK = *mut KSPIN_LOCK;
pub type KAFFINITY = ULONG_PTR;
pub type ACCESS_MASK = ULONG;
pub type DEVICE_TYPE = ULONG;
pub type POOL_FLAGS = ULONG64;
pub type PFN_NUMBER = ULONG_PTR;
pub type PPFN_NUMBER = *mut PFN_NUMBER;

pub const TRUE: BOOLEAN = 1;
pub const FALSE: BOOLEAN = 0;

pub const PASSIVE_LEVEL: KIRQL = 0;
pub const APC_LEVEL: KIRQL = 1;
pub const DISPATCH_LEVEL: KIRQL = 2;
pub const HIGH_LEVEL: KIRQL = 15;

pub const PAGE_SIZE: usize = 0x1000;
pub const SYSTEM_CACHE_ALIGNMENT_SIZE: usize = 64;

/// Defines an enumeration as the headers do: an `i32` and its constants.
macro_rules! nt_enum {
    ($($name:ident { $($constant:ident = $value:expr),+ $(,)? })+) => {
        $(
            pub type $name = i32;
            $(pub const $constant: $name = $value;)+
        )+
    };
}

nt_enum! {
    EVENT_TYPE { NotificationEvent = 0, SynchronizationEvent = 1 }
    TIMER_TYPE { NotificationTimer = 0, SynchronizationTimer = 1 }
    WAIT_TYPE { WaitAll = 0, WaitAny = 1 }
    KWAIT_REASON { Executive = 0, DelayExecution = 4, UserRequest = 6, WrRundown = 36 }
    MODE { KernelModeValue = 0, UserModeValue = 1 }
    POOL_TYPE { NonPagedPool = 0, PagedPool = 1, NonPagedPoolNx = 512 }
    WORK_QUEUE_TYPE { CriticalWorkQueue = 0, DelayedWorkQueue = 1, HyperCriticalWorkQueue = 2 }
    MM_PAGE_PRIORITY { LowPagePriority = 0, NormalPagePriority = 16, HighPagePriority = 32 }
    FILE_INFORMATION_CLASS { FileStandardInformation = 5 }
    KEY_INFORMATION_CLASS {
        KeyBasicInformation = 0, KeyNodeInformation = 1, KeyFullInformation = 2, KeyNameInformation = 3,
    }
    KEY_VALUE_INFORMATION_CLASS {
        KeyValueBasicInformation = 0,
        KeyValueFullInformation = 1,
        KeyValuePartialInformation = 2,
        KeyValueFullInformationAlign64 = 3,
        KeyValuePartialInformationAlign64 = 4,
    }
}

pub const KernelMode: KPROCESSOR_MODE = 0;
pub const UserMode: KPROCESSOR_MODE = 1;

pub const IO_NO_INCREMENT: KPRIORITY = 0;
pub const IO_NETWORK_INCREMENT: KPRIORITY = 2;
pub const EVENT_INCREMENT: KPRIORITY = 1;
pub const MAXIMUM_WAIT_OBJECTS: usize = 64;
pub const THREAD_WAIT_OBJECTS: usize = 3;

pub const POOL_FLAG_USE_QUOTA: POOL_FLAGS = 0x1;
pub const POOL_FLAG_UNINITIALIZED: POOL_FLAGS = 0x2;
pub const POOL_FLAG_SESSION: POOL_FLAGS = 0x4;
pub const POOL_FLAG_CACHE_ALIGNED: POOL_FLAGS = 0x8;
pub const POOL_FLAG_RAISE_ON_FAILURE: POOL_FLAGS = 0x20;
pub const POOL_FLAG_NON_PAGED: POOL_FLAGS = 0x40;
pub const POOL_FLAG_NON_PAGED_EXECUTE: POOL_FLAGS = 0x80;
pub const POOL_FLAG_PAGED: POOL_FLAGS = 0x100;
pub const POOL_FLAG_SPECIAL_POOL: POOL_FLAGS = 0x1_0000_0000;

pub const OBJ_CASE_INSENSITIVE: ULONG = 0x40;
pub const OBJ_KERNEL_HANDLE: ULONG = 0x200;

pub const SYNCHRONIZE: ACCESS_MASK = 0x0010_0000;
pub const EVENT_MODIFY_STATE: ACCESS_MASK = 0x0002;
pub const DELETE: ACCESS_MASK = 0x0001_0000;
pub const READ_CONTROL: ACCESS_MASK = 0x0002_0000;
pub const THREAD_ALL_ACCESS: ACCESS_MASK = 0x001F_FFFF;
pub const KEY_QUERY_VALUE: ACCESS_MASK = 0x0001;
pub const KEY_SET_VALUE: ACCESS_MASK = 0x0002;
pub const KEY_CREATE_SUB_KEY: ACCESS_MASK = 0x0004;
pub const KEY_ENUMERATE_SUB_KEYS: ACCESS_MASK = 0x0008;
pub const KEY_NOTIFY: ACCESS_MASK = 0x0010;
pub const KEY_READ: ACCESS_MASK = 0x0002_0019;
pub const KEY_WRITE: ACCESS_MASK = 0x0002_0006;
pub const KEY_ALL_ACCESS: ACCESS_MASK = 0x000F_003F;

pub const FILE_READ_DATA: ACCESS_MASK = 0x0001;
pub const FILE_WRITE_DATA: ACCESS_MASK = 0x0002;
pub const FILE_APPEND_DATA: ACCESS_MASK = 0x0004;
pub const FILE_TRAVERSE: ACCESS_MASK = 0x0020;
pub const FILE_GENERIC_READ: ACCESS_MASK = 0x0012_0089;
pub const FILE_GENERIC_WRITE: ACCESS_MASK = 0x0012_0116;

pub const FILE_ATTRIBUTE_NORMAL: ULONG = 0x80;
pub const FILE_SHARE_READ: ULONG = 1;
pub const FILE_SHARE_WRITE: ULONG = 2;
pub const FILE_SHARE_DELETE: ULONG = 4;

pub const FILE_SUPERSEDE: ULONG = 0;
pub const FILE_OPEN: ULONG = 1;
pub const FILE_CREATE: ULONG = 2;
pub const FILE_OPEN_IF: ULONG = 3;
pub const FILE_OVERWRITE: ULONG = 4;
pub const FILE_OVERWRITE_IF: ULONG = 5;

pub const FILE_DIRECTORY_FILE: ULONG = 0x01;
pub const FILE_WRITE_THROUGH: ULONG = 0x02;
pub const FILE_SYNCHRONOUS_IO_ALERT: ULONG = 0x10;
pub const FILE_SYNCHRONOUS_IO_NONALERT: ULONG = 0x20;
pub const FILE_NON_DIRECTORY_FILE: ULONG = 0x40;
pub const FILE_COMPLETE_IF_OPLOCKED: ULONG = 0x100;

/// What `Information` says of a file that ZwCreateFile opened.
pub const FILE_OPENED: usize = 1;
pub const FILE_CREATED: usize = 2;
pub const FILE_OVERWRITTEN: usize = 3;

pub const REG_NONE: ULONG = 0;
pub const REG_SZ: ULONG = 1;
pub const REG_EXPAND_SZ: ULONG = 2;
pub const REG_BINARY: ULONG = 3;
pub const REG_DWORD: ULONG = 4;
pub const REG_DWORD_BIG_ENDIAN: ULONG = 5;
pub const REG_LINK: ULONG = 6;
pub const REG_MULTI_SZ: ULONG = 7;
pub const REG_QWORD: ULONG = 11;

pub const REG_OPTION_NON_VOLATILE: ULONG = 0;
pub const REG_OPTION_VOLATILE: ULONG = 1;
pub const REG_CREATED_NEW_KEY: ULONG = 1;
pub const REG_OPENED_EXISTING_KEY: ULONG = 2;

pub const REG_NOTIFY_CHANGE_NAME: ULONG = 1;
pub const REG_NOTIFY_CHANGE_LAST_SET: ULONG = 4;

pub const IRP_MJ_CREATE: usize = 0x00;
pub const IRP_MJ_CLOSE: usize = 0x02;
pub const IRP_MJ_DEVICE_CONTROL: usize = 0x0e;
pub const IRP_MJ_INTERNAL_DEVICE_CONTROL: usize = 0x0f;
pub const IRP_MJ_SHUTDOWN: usize = 0x10;
pub const IRP_MJ_MAXIMUM_FUNCTION: usize = 0x1b;

pub const IO_TYPE_DEVICE: CSHORT = 3;
pub const IO_TYPE_DRIVER: CSHORT = 4;
pub const IO_TYPE_IRP: CSHORT = 6;

pub const SL_PENDING_RETURNED: UCHAR = 0x01;
pub const SL_ERROR_RETURNED: UCHAR = 0x02;
pub const SL_INVOKE_ON_CANCEL: UCHAR = 0x20;
pub const SL_INVOKE_ON_SUCCESS: UCHAR = 0x40;
pub const SL_INVOKE_ON_ERROR: UCHAR = 0x80;

pub const FILE_DEVICE_NETWORK: DEVICE_TYPE = 0x12;
pub const FILE_DEVICE_UNKNOWN: DEVICE_TYPE = 0x22;
pub const FILE_DEVICE_SECURE_OPEN: ULONG = 0x100;
pub const DO_DEVICE_INITIALIZING: ULONG = 0x80;
pub const DO_EXCLUSIVE: ULONG = 0x8;
pub const DO_DEVICE_HAS_NAME: ULONG = 0x40;

pub const MDL_MAPPED_TO_SYSTEM_VA: CSHORT = 0x0001;
pub const MDL_PAGES_LOCKED: CSHORT = 0x0002;
pub const MDL_SOURCE_IS_NONPAGED_POOL: CSHORT = 0x0004;
pub const MDL_ALLOCATED_FIXED_SIZE: CSHORT = 0x0008;
pub const MDL_PARTIAL: CSHORT = 0x0010;
pub const MdlMappingNoExecute: ULONG = 0x4000_0000;

pub const ALL_PROCESSOR_GROUPS: USHORT = 0xffff;
pub const KE_PROCESSOR_CHANGE_ADD_EXISTING: ULONG = 1;
pub type KE_PROCESSOR_CHANGE_NOTIFY_STATE = i32;
pub const KeProcessorAddStartNotify: KE_PROCESSOR_CHANGE_NOTIFY_STATE = 0;
pub const KeProcessorAddCompleteNotify: KE_PROCESSOR_CHANGE_NOTIFY_STATE = 1;
pub const KeProcessorAddFailureNotify: KE_PROCESSOR_CHANGE_NOTIFY_STATE = 2;
pub type LOGICAL_PROCESSOR_RELATIONSHIP = i32;
pub const RelationNumaNode: LOGICAL_PROCESSOR_RELATIONSHIP = 1;
/// The number of a node, with [`MM_ANY_NODE_OK`] or without.
pub type POOL_NODE_REQUIREMENT = ULONG;
pub const MM_ANY_NODE_OK: POOL_NODE_REQUIREMENT = 0x8000_0000;
pub const PoolExtendedParameterPriority: ULONG64 = 1;
pub const PoolExtendedParameterNumaNode: ULONG64 = 3;

pub const DPFLTR_IHVDRIVER_ID: ULONG = 77;
pub const DPFLTR_IHVNETWORK_ID: ULONG = 80;
pub const DPFLTR_ERROR_LEVEL: ULONG = 0;
pub const DPFLTR_WARNING_LEVEL: ULONG = 1;
pub const DPFLTR_TRACE_LEVEL: ULONG = 2;
pub const DPFLTR_INFO_LEVEL: ULONG = 3;

pub type KBUGCHECK_CALLBACK_REASON = i32;
pub const KbCallbackSecondaryDumpData: KBUGCHECK_CALLBACK_REASON = 2;

#[repr(C)]
pub struct KBUGCHECK_REASON_CALLBACK_RECORD {
    pub Entry: LIST_ENTRY,
    pub CallbackRoutine: KBUGCHECK_REASON_CALLBACK_ROUTINE,
    pub Component: PUCHAR,
    pub Checksum: ULONG_PTR,
    pub Reason: KBUGCHECK_CALLBACK_REASON,
    pub State: UCHAR,
}
pub type PKBUGCHECK_REASON_CALLBACK_RECORD = *mut KBUGCHECK_REASON_CALLBACK_RECORD;
pub type KBUGCHECK_REASON_CALLBACK_ROUTINE = Option<
    unsafe extern "C" fn(
        Reason: KBUGCHECK_CALLBACK_REASON,
        Record: PKBUGCHECK_REASON_CALLBACK_RECORD,
        ReasonSpecificData: PVOID,
        ReasonSpecificDataLength: ULONG,
    ),
>;

#[repr(C)]
pub struct KBUGCHECK_SECONDARY_DUMP_DATA {
    pub InBuffer: PVOID,
    pub InBufferLength: ULONG,
    pub MaximumAllowed: ULONG,
    pub Guid: GUID,
    pub OutBuffer: PVOID,
    pub OutBufferLength: ULONG,
}

/// Opaque kernel structures, known by pointer only.
macro_rules! opaque {
    ($($name:ident, $pointer:ident;)+) => {
        $(
            #[repr(C)]
            pub struct $name {
                _opaque: [u8; 0],
            }
            pub type $pointer = *mut $name;
        )+
    };
}

opaque! {
    ETHREAD, PETHREAD;
    KTHREAD, PKTHREAD;
    EPROCESS, PEPROCESS;
    OBJECT_TYPE, POBJECT_TYPE;
    FILE_OBJECT, PFILE_OBJECT;
    VPB, PVPB;
    IO_TIMER, PIO_TIMER;
    IO_WORKITEM, PIO_WORKITEM;
    FAST_IO_DISPATCH, PFAST_IO_DISPATCH;
    DEVOBJ_EXTENSION, PDEVOBJ_EXTENSION;
    OBJECT_HANDLE_INFORMATION, POBJECT_HANDLE_INFORMATION;
}

pub type PSECURITY_DESCRIPTOR = PVOID;
pub type SECURITY_INFORMATION = ULONG;

pub const OWNER_SECURITY_INFORMATION: SECURITY_INFORMATION = 1;
pub const DACL_SECURITY_INFORMATION: SECURITY_INFORMATION = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GUID {
    pub Data1: u32,
    pub Data2: u16,
    pub Data3: u16,
    pub Data4: [u8; 8],
}
pub type PGUID = *mut GUID;
pub type LPCGUID = *const GUID;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LIST_ENTRY {
    pub Flink: *mut LIST_ENTRY,
    pub Blink: *mut LIST_ENTRY,
}
pub type PLIST_ENTRY = *mut LIST_ENTRY;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SINGLE_LIST_ENTRY {
    pub Next: *mut SINGLE_LIST_ENTRY,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UNICODE_STRING {
    /// In bytes, without a terminating zero.
    pub Length: USHORT,
    /// In bytes.
    pub MaximumLength: USHORT,
    pub Buffer: PWCH,
}
pub type PUNICODE_STRING = *mut UNICODE_STRING;
pub type PCUNICODE_STRING = *const UNICODE_STRING;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct LARGE_INTEGER_PARTS {
    pub LowPart: ULONG,
    pub HighPart: LONG,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union LARGE_INTEGER {
    pub u: LARGE_INTEGER_PARTS,
    pub QuadPart: LONGLONG,
}
pub type PLARGE_INTEGER = *mut LARGE_INTEGER;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ULARGE_INTEGER_PARTS {
    pub LowPart: ULONG,
    pub HighPart: ULONG,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union ULARGE_INTEGER {
    pub u: ULARGE_INTEGER_PARTS,
    pub QuadPart: ULONGLONG,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OBJECT_ATTRIBUTES {
    pub Length: ULONG,
    pub RootDirectory: HANDLE,
    pub ObjectName: PUNICODE_STRING,
    pub Attributes: ULONG,
    pub SecurityDescriptor: PVOID,
    pub SecurityQualityOfService: PVOID,
}
pub type POBJECT_ATTRIBUTES = *mut OBJECT_ATTRIBUTES;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CLIENT_ID {
    pub UniqueProcess: HANDLE,
    pub UniqueThread: HANDLE,
}
pub type PCLIENT_ID = *mut CLIENT_ID;

/// The head of every object that can be waited on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DISPATCHER_HEADER {
    pub Type: UCHAR,
    pub Signalling: UCHAR,
    pub Size: UCHAR,
    pub Reserved1: UCHAR,
    pub SignalState: LONG,
    pub WaitListHead: LIST_ENTRY,
}
pub type PDISPATCHER_HEADER = *mut DISPATCHER_HEADER;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KEVENT {
    pub Header: DISPATCHER_HEADER,
}
pub type PKEVENT = *mut KEVENT;
pub type PRKEVENT = *mut KEVENT;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KWAIT_BLOCK {
    pub WaitListEntry: LIST_ENTRY,
    pub WaitType: UCHAR,
    pub BlockState: UCHAR,
    pub WaitKey: USHORT,
    pub SpareLong: LONG,
    pub Thread: PKTHREAD,
    pub Object: PVOID,
    pub SparePtr: PVOID,
}
pub type PKWAIT_BLOCK = *mut KWAIT_BLOCK;

pub type PKDEFERRED_ROUTINE = Option<
    unsafe extern "C" fn(Dpc: PKDPC, DeferredContext: PVOID, SystemArgument1: PVOID, SystemArgument2: PVOID),
>;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KDPC {
    pub TargetInfoAsUlong: ULONG,
    pub DpcListEntry: SINGLE_LIST_ENTRY,
    pub ProcessorHistory: KAFFINITY,
    pub DeferredRoutine: PKDEFERRED_ROUTINE,
    pub DeferredContext: PVOID,
    pub SystemArgument1: PVOID,
    pub SystemArgument2: PVOID,
    pub DpcData: PVOID,
}
pub type PKDPC = *mut KDPC;
pub type PRKDPC = *mut KDPC;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct KTIMER {
    pub Header: DISPATCHER_HEADER,
    pub DueTime: ULARGE_INTEGER,
    pub TimerListEntry: LIST_ENTRY,
    pub Dpc: PKDPC,
    pub Processor: USHORT,
    pub TimerType: USHORT,
    pub Period: ULONG,
}
pub type PKTIMER = *mut KTIMER;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EX_RUNDOWN_REF {
    pub Count: ULONG_PTR,
}
pub type PEX_RUNDOWN_REF = *mut EX_RUNDOWN_REF;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MDL {
    pub Next: *mut MDL,
    pub Size: CSHORT,
    pub MdlFlags: CSHORT,
    pub AllocationProcessorNumber: USHORT,
    pub Reserved: USHORT,
    pub Process: PEPROCESS,
    pub MappedSystemVa: PVOID,
    pub StartVa: PVOID,
    pub ByteCount: ULONG,
    pub ByteOffset: ULONG,
}
pub type PMDL = *mut MDL;

#[repr(C)]
#[derive(Clone, Copy)]
pub union IO_STATUS_BLOCK_0 {
    pub Status: NTSTATUS,
    pub Pointer: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IO_STATUS_BLOCK {
    pub u: IO_STATUS_BLOCK_0,
    pub Information: ULONG_PTR,
}
pub type PIO_STATUS_BLOCK = *mut IO_STATUS_BLOCK;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FILE_STANDARD_INFORMATION {
    pub AllocationSize: LARGE_INTEGER,
    pub EndOfFile: LARGE_INTEGER,
    pub NumberOfLinks: ULONG,
    pub DeletePending: BOOLEAN,
    pub Directory: BOOLEAN,
}

/// Page "IoGetDriverDirectory".
pub type IO_GET_DRIVER_DIRECTORY =
    unsafe extern "system-unwind" fn(PDRIVER_OBJECT, i32, ULONG, PHANDLE) -> NTSTATUS;

pub type PIO_APC_ROUTINE =
    Option<unsafe extern "C" fn(ApcContext: PVOID, IoStatusBlock: PIO_STATUS_BLOCK, Reserved: ULONG)>;
pub type PIO_COMPLETION_ROUTINE =
    Option<unsafe extern "C" fn(DeviceObject: PDEVICE_OBJECT, Irp: PIRP, Context: PVOID) -> NTSTATUS>;
pub type PDRIVER_CANCEL = Option<unsafe extern "C" fn(DeviceObject: PDEVICE_OBJECT, Irp: PIRP)>;
pub type PDRIVER_DISPATCH = Option<unsafe extern "C" fn(DeviceObject: PDEVICE_OBJECT, Irp: PIRP) -> NTSTATUS>;
pub type PDRIVER_STARTIO = Option<unsafe extern "C" fn(DeviceObject: PDEVICE_OBJECT, Irp: PIRP)>;
pub type PDRIVER_UNLOAD = Option<unsafe extern "C" fn(DriverObject: PDRIVER_OBJECT)>;
pub type PDRIVER_INITIALIZE =
    Option<unsafe extern "C" fn(DriverObject: PDRIVER_OBJECT, RegistryPath: PUNICODE_STRING) -> NTSTATUS>;
pub type PDRIVER_ADD_DEVICE = Option<
    unsafe extern "C" fn(DriverObject: PDRIVER_OBJECT, PhysicalDeviceObject: PDEVICE_OBJECT) -> NTSTATUS,
>;
pub type PKSTART_ROUTINE = Option<unsafe extern "C" fn(StartContext: PVOID)>;
pub type PIO_WORKITEM_ROUTINE = Option<unsafe extern "C" fn(DeviceObject: PDEVICE_OBJECT, Context: PVOID)>;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct KAPC {
    pub Type: UCHAR,
    pub AllFlags: UCHAR,
    pub Size: UCHAR,
    pub SpareByte1: UCHAR,
    pub SpareLong0: ULONG,
    pub Thread: PKTHREAD,
    pub ApcListEntry: LIST_ENTRY,
    pub Reserved: [PVOID; 3],
    pub NormalContext: PVOID,
    pub SystemArgument1: PVOID,
    pub SystemArgument2: PVOID,
    pub ApcStateIndex: CCHAR,
    pub ApcMode: KPROCESSOR_MODE,
    pub Inserted: BOOLEAN,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IRP_ASSOCIATED {
    pub MasterIrp: *mut IRP,
    pub IrpCount: LONG,
    pub SystemBuffer: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IRP_ASYNCHRONOUS_PARAMETERS {
    pub UserApcRoutine: PIO_APC_ROUTINE,
    pub UserApcContext: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IRP_OVERLAY {
    pub AsynchronousParameters: IRP_ASYNCHRONOUS_PARAMETERS,
    pub AllocationSize: LARGE_INTEGER,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IRP_TAIL_OVERLAY {
    /// The driver's own, while it owns the IRP.
    pub DriverContext: [PVOID; 4],
    pub Thread: PETHREAD,
    pub AuxiliaryBuffer: *mut CHAR,
    pub ListEntry: LIST_ENTRY,
    pub CurrentStackLocation: PIO_STACK_LOCATION,
    pub OriginalFileObject: PFILE_OBJECT,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IRP_TAIL {
    pub Overlay: IRP_TAIL_OVERLAY,
    pub Apc: KAPC,
    pub CompletionKey: PVOID,
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct IRP {
    pub Type: CSHORT,
    pub Size: USHORT,
    pub MdlAddress: PMDL,
    pub Flags: ULONG,
    pub AssociatedIrp: IRP_ASSOCIATED,
    pub ThreadListEntry: LIST_ENTRY,
    pub IoStatus: IO_STATUS_BLOCK,
    pub RequestorMode: KPROCESSOR_MODE,
    pub PendingReturned: BOOLEAN,
    pub StackCount: CHAR,
    pub CurrentLocation: CHAR,
    pub Cancel: BOOLEAN,
    pub CancelIrql: KIRQL,
    pub ApcEnvironment: CCHAR,
    pub AllocationFlags: UCHAR,
    pub UserIosb: PIO_STATUS_BLOCK,
    pub UserEvent: PKEVENT,
    pub Overlay: IRP_OVERLAY,
    pub CancelRoutine: PDRIVER_CANCEL,
    pub UserBuffer: PVOID,
    pub Tail: IRP_TAIL,
}
pub type PIRP = *mut IRP;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IO_STACK_LOCATION_OTHERS {
    pub Argument1: PVOID,
    pub Argument2: PVOID,
    pub Argument3: PVOID,
    pub Argument4: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IO_STACK_LOCATION_PARAMETERS {
    pub Others: IO_STACK_LOCATION_OTHERS,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IO_STACK_LOCATION {
    pub MajorFunction: UCHAR,
    pub MinorFunction: UCHAR,
    pub Flags: UCHAR,
    pub Control: UCHAR,
    pub Parameters: IO_STACK_LOCATION_PARAMETERS,
    pub DeviceObject: PDEVICE_OBJECT,
    pub FileObject: PFILE_OBJECT,
    pub CompletionRoutine: PIO_COMPLETION_ROUTINE,
    pub Context: PVOID,
}
pub type PIO_STACK_LOCATION = *mut IO_STACK_LOCATION;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KDEVICE_QUEUE {
    pub Type: CSHORT,
    pub Size: CSHORT,
    pub DeviceListHead: LIST_ENTRY,
    pub Lock: KSPIN_LOCK,
    pub Busy: LONG64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KDEVICE_QUEUE_ENTRY {
    pub DeviceListEntry: LIST_ENTRY,
    pub SortKey: ULONG,
    pub Inserted: BOOLEAN,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WAIT_CONTEXT_BLOCK {
    pub WaitQueueEntry: KDEVICE_QUEUE_ENTRY,
    pub DeviceRoutine: PVOID,
    pub DeviceContext: PVOID,
    pub NumberOfMapRegisters: ULONG,
    pub DeviceObject: PVOID,
    pub CurrentIrp: PVOID,
    pub BufferChainingDpc: PKDPC,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union DEVICE_OBJECT_QUEUE {
    pub ListEntry: LIST_ENTRY,
    pub Wcb: WAIT_CONTEXT_BLOCK,
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct DEVICE_OBJECT {
    pub Type: CSHORT,
    pub Size: USHORT,
    pub ReferenceCount: LONG,
    pub DriverObject: PDRIVER_OBJECT,
    pub NextDevice: PDEVICE_OBJECT,
    pub AttachedDevice: PDEVICE_OBJECT,
    pub CurrentIrp: PIRP,
    pub Timer: PIO_TIMER,
    pub Flags: ULONG,
    pub Characteristics: ULONG,
    pub Vpb: PVPB,
    pub DeviceExtension: PVOID,
    pub DeviceType: DEVICE_TYPE,
    pub StackSize: CCHAR,
    pub Queue: DEVICE_OBJECT_QUEUE,
    pub AlignmentRequirement: ULONG,
    pub DeviceQueue: KDEVICE_QUEUE,
    pub Dpc: KDPC,
    pub ActiveThreadCount: ULONG,
    pub SecurityDescriptor: PSECURITY_DESCRIPTOR,
    pub DeviceLock: KEVENT,
    pub SectorSize: USHORT,
    pub Spare1: USHORT,
    pub DeviceObjectExtension: PDEVOBJ_EXTENSION,
    pub Reserved: PVOID,
}
pub type PDEVICE_OBJECT = *mut DEVICE_OBJECT;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DRIVER_EXTENSION {
    pub DriverObject: PDRIVER_OBJECT,
    pub AddDevice: PDRIVER_ADD_DEVICE,
    pub Count: ULONG,
    pub ServiceKeyName: UNICODE_STRING,
}
pub type PDRIVER_EXTENSION = *mut DRIVER_EXTENSION;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DRIVER_OBJECT {
    pub Type: CSHORT,
    pub Size: CSHORT,
    pub DeviceObject: PDEVICE_OBJECT,
    pub Flags: ULONG,
    pub DriverStart: PVOID,
    pub DriverSize: ULONG,
    pub DriverSection: PVOID,
    pub DriverExtension: PDRIVER_EXTENSION,
    pub DriverName: UNICODE_STRING,
    pub HardwareDatabase: PUNICODE_STRING,
    pub FastIoDispatch: PFAST_IO_DISPATCH,
    pub DriverInit: PDRIVER_INITIALIZE,
    pub DriverStartIo: PDRIVER_STARTIO,
    pub DriverUnload: PDRIVER_UNLOAD,
    pub MajorFunction: [PDRIVER_DISPATCH; IRP_MJ_MAXIMUM_FUNCTION + 1],
}
pub type PDRIVER_OBJECT = *mut DRIVER_OBJECT;

/// `Name` starts the variable part.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KEY_BASIC_INFORMATION {
    pub LastWriteTime: LARGE_INTEGER,
    pub TitleIndex: ULONG,
    pub NameLength: ULONG,
    pub Name: [WCHAR; 1],
}
pub type PKEY_BASIC_INFORMATION = *mut KEY_BASIC_INFORMATION;

/// `Name` starts the variable part.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KEY_VALUE_BASIC_INFORMATION {
    pub TitleIndex: ULONG,
    pub Type: ULONG,
    pub NameLength: ULONG,
    pub Name: [WCHAR; 1],
}
pub type PKEY_VALUE_BASIC_INFORMATION = *mut KEY_VALUE_BASIC_INFORMATION;

/// `Name` starts the variable part; the data stands at `DataOffset` from the start of the structure.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KEY_VALUE_FULL_INFORMATION {
    pub TitleIndex: ULONG,
    pub Type: ULONG,
    pub DataOffset: ULONG,
    pub DataLength: ULONG,
    pub NameLength: ULONG,
    pub Name: [WCHAR; 1],
}
pub type PKEY_VALUE_FULL_INFORMATION = *mut KEY_VALUE_FULL_INFORMATION;

/// `Data` starts the variable part.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KEY_VALUE_PARTIAL_INFORMATION {
    pub TitleIndex: ULONG,
    pub Type: ULONG,
    pub DataLength: ULONG,
    pub Data: [UCHAR; 1],
}
pub type PKEY_VALUE_PARTIAL_INFORMATION = *mut KEY_VALUE_PARTIAL_INFORMATION;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PROCESSOR_NUMBER {
    pub Group: USHORT,
    pub Number: UCHAR,
    pub Reserved: UCHAR,
}
pub type PPROCESSOR_NUMBER = *mut PROCESSOR_NUMBER;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT {
    pub State: KE_PROCESSOR_CHANGE_NOTIFY_STATE,
    pub NtNumber: ULONG,
    pub Status: NTSTATUS,
    pub ProcNumber: PROCESSOR_NUMBER,
}
pub type PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT = *mut KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT;
pub type PROCESSOR_CALLBACK_FUNCTION = Option<
    unsafe extern "C" fn(
        CallbackContext: PVOID,
        ChangeContext: PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
        OperationStatus: *mut NTSTATUS,
    ),
>;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GROUP_AFFINITY {
    pub Mask: KAFFINITY,
    pub Group: USHORT,
    pub Reserved: [USHORT; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NUMA_NODE_RELATIONSHIP {
    pub NodeNumber: ULONG,
    pub Reserved: [UCHAR; 18],
    pub GroupCount: USHORT,
    pub GroupMask: GROUP_AFFINITY,
}

/// With the one relationship that is simulated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX {
    pub Relationship: LOGICAL_PROCESSOR_RELATIONSHIP,
    pub Size: ULONG,
    pub NumaNode: NUMA_NODE_RELATIONSHIP,
    /// Other relationships are longer.
    pub Others: [ULONG64; 4],
}
pub type PSYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX = *mut SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct POOL_EXTENDED_PARAMETER {
    /// Bit fields: 8 bits of type, one that says that the parameter is optional, 55 that are reserved.
    pub Type: ULONG64,
    pub PreferredNode: POOL_NODE_REQUIREMENT,
    pub Rest: ULONG,
}
pub type PCPOOL_EXTENDED_PARAMETER = *const POOL_EXTENDED_PARAMETER;

#[cfg(target_pointer_width = "64")]
mod layout {
    use static_assertions::const_assert_eq;

    use super::{
        CLIENT_ID, DEVICE_OBJECT, DISPATCHER_HEADER, DRIVER_EXTENSION, DRIVER_OBJECT, EX_RUNDOWN_REF, GUID,
        IO_STACK_LOCATION, IO_STATUS_BLOCK, IRP, IRP_TAIL_OVERLAY, KAPC, KDEVICE_QUEUE, KDPC, KEVENT,
        KEY_BASIC_INFORMATION, KEY_VALUE_BASIC_INFORMATION, KEY_VALUE_FULL_INFORMATION,
        KEY_VALUE_PARTIAL_INFORMATION, KTIMER, KWAIT_BLOCK, LARGE_INTEGER, LIST_ENTRY, MDL,
        OBJECT_ATTRIBUTES, UNICODE_STRING, WAIT_CONTEXT_BLOCK,
    };

    macro_rules! sizes {
        ($($name:ident = $size:expr;)+) => { $(const_assert_eq!(size_of::<$name>(), $size);)+ };
    }
    macro_rules! offsets {
        ($($name:ident . $field:ident = $offset:expr;)+) => {
            $(const_assert_eq!(core::mem::offset_of!($name, $field), $offset);)+
        };
    }

    sizes! {
        GUID = 16;
        LIST_ENTRY = 16;
        UNICODE_STRING = 16;
        LARGE_INTEGER = 8;
        OBJECT_ATTRIBUTES = 0x30;
        CLIENT_ID = 16;
        DISPATCHER_HEADER = 0x18;
        KEVENT = 0x18;
        KWAIT_BLOCK = 0x30;
        KDPC = 0x40;
        KTIMER = 0x40;
        KAPC = 0x58;
        EX_RUNDOWN_REF = 8;
        MDL = 0x30;
        IO_STATUS_BLOCK = 0x10;
        IRP = 0xD0;
        IO_STACK_LOCATION = 0x48;
        KDEVICE_QUEUE = 0x28;
        WAIT_CONTEXT_BLOCK = 0x48;
        DEVICE_OBJECT = 0x150;
        DRIVER_EXTENSION = 0x28;
        DRIVER_OBJECT = 0x150;
        KEY_BASIC_INFORMATION = 24;
        KEY_VALUE_BASIC_INFORMATION = 16;
        KEY_VALUE_FULL_INFORMATION = 24;
        KEY_VALUE_PARTIAL_INFORMATION = 16;
    }

    offsets! {
        UNICODE_STRING.Buffer = 8;
        OBJECT_ATTRIBUTES.ObjectName = 0x10;
        OBJECT_ATTRIBUTES.Attributes = 0x18;
        DISPATCHER_HEADER.SignalState = 4;
        DISPATCHER_HEADER.WaitListHead = 8;
        KDPC.DeferredRoutine = 0x18;
        KDPC.DpcData = 0x38;
        KTIMER.Dpc = 0x30;
        KTIMER.Period = 0x3c;
        MDL.MdlFlags = 0xa;
        MDL.MappedSystemVa = 0x18;
        MDL.StartVa = 0x20;
        MDL.ByteCount = 0x28;
        MDL.ByteOffset = 0x2c;
        IRP.MdlAddress = 0x8;
        IRP.IoStatus = 0x30;
        IRP.PendingReturned = 0x41;
        IRP.StackCount = 0x42;
        IRP.CurrentLocation = 0x43;
        IRP.Cancel = 0x44;
        IRP.CancelIrql = 0x45;
        IRP.UserIosb = 0x48;
        IRP.UserEvent = 0x50;
        IRP.CancelRoutine = 0x68;
        IRP.Tail = 0x78;
        IRP_TAIL_OVERLAY.CurrentStackLocation = 0x40;
        IO_STACK_LOCATION.Control = 3;
        IO_STACK_LOCATION.Parameters = 8;
        IO_STACK_LOCATION.DeviceObject = 0x28;
        IO_STACK_LOCATION.CompletionRoutine = 0x38;
        IO_STACK_LOCATION.Context = 0x40;
        DEVICE_OBJECT.DriverObject = 8;
        DEVICE_OBJECT.NextDevice = 0x10;
        DEVICE_OBJECT.Flags = 0x30;
        DEVICE_OBJECT.DeviceExtension = 0x40;
        DEVICE_OBJECT.StackSize = 0x4c;
        DEVICE_OBJECT.DeviceQueue = 0xa0;
        DEVICE_OBJECT.Dpc = 0xc8;
        DEVICE_OBJECT.DeviceLock = 0x118;
        DRIVER_OBJECT.DeviceObject = 8;
        DRIVER_OBJECT.DriverExtension = 0x30;
        DRIVER_OBJECT.DriverName = 0x38;
        DRIVER_OBJECT.DriverUnload = 0x68;
        DRIVER_OBJECT.MajorFunction = 0x70;
        KEY_VALUE_FULL_INFORMATION.Name = 20;
        KEY_VALUE_PARTIAL_INFORMATION.Data = 12;
    }
}
