//! The NT kernel's structures and constants as x64 and ARM64 have them (they agree), held by the compiler against both
//! spellings: the simulated kernel's and the bindings that the image is built with.
//!
//! Behind a semicolon are members that only the simulated kernel names: bindings hide members of unnamed unions behind
//! names of their own, and header sets differ in what is reserved. `or` is what mingw's headers make of two structures
//! that the WDK declares with `DECLSPEC_ALIGN(MEMORY_ALLOCATION_ALIGNMENT)`: without it a DEVICE_OBJECT ends 8 bytes
//! early, behind its last member. The driver has both by pointer only, from the kernel that allocates them, so the
//! difference is never seen; every member's offset is the same.

#[cfg(image)]
use super::image as source;
#[cfg(feature = "sim")]
use ntsim::sys::nt as source;

macro_rules! layouts {
    ($(
        $name:ident: size $size:literal $(or $short:literal)?, align $align:literal $(or $loose:literal)? {
            $($field:ident: $offset:literal,)*
            $(; $($own:ident: $at:literal,)*)?
        }
    )*) => {$(
        const _: () = {
            use source::$name;
            assert!(
                size_of::<$name>() == $size $(|| cfg!(image) && size_of::<$name>() == $short)?,
                stringify!($name)
            );
            assert!(
                align_of::<$name>() == $align $(|| cfg!(image) && align_of::<$name>() == $loose)?,
                stringify!($name)
            );
            $(assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name), ".", stringify!($field))
            );)*
            #[cfg(feature = "sim")]
            {
                $($(assert!(
                    core::mem::offset_of!($name, $own) == $at,
                    concat!(stringify!($name), ".", stringify!($own))
                );)*)?
            }
        };
    )*};
}

layouts! {
    GUID: size 16, align 4 { Data1: 0, Data2: 4, Data3: 6, Data4: 8, }
    LIST_ENTRY: size 16, align 8 { Flink: 0, Blink: 8, }
    SINGLE_LIST_ENTRY: size 8, align 8 { Next: 0, }
    UNICODE_STRING: size 16, align 8 { Length: 0, MaximumLength: 2, Buffer: 8, }
    LARGE_INTEGER: size 8, align 8 { u: 0, QuadPart: 0, }
    ULARGE_INTEGER: size 8, align 8 { u: 0, QuadPart: 0, }
    OBJECT_ATTRIBUTES: size 0x30, align 8 {
        Length: 0, RootDirectory: 8, ObjectName: 0x10, Attributes: 0x18, SecurityDescriptor: 0x20,
        SecurityQualityOfService: 0x28,
    }
    CLIENT_ID: size 16, align 8 { UniqueProcess: 0, UniqueThread: 8, }
    DISPATCHER_HEADER: size 0x18, align 8 {
        SignalState: 4, WaitListHead: 8,
        ; Type: 0, Signalling: 1, Size: 2, Reserved1: 3,
    }
    KEVENT: size 0x18, align 8 { Header: 0, }
    KWAIT_BLOCK: size 0x30, align 8 {
        WaitListEntry: 0,
        ; WaitType: 0x10, BlockState: 0x11, WaitKey: 0x12, SpareLong: 0x14, Thread: 0x18, Object: 0x20, SparePtr: 0x28,
    }
    KDPC: size 0x40, align 8 {
        DpcListEntry: 8, DeferredRoutine: 0x18, DeferredContext: 0x20, SystemArgument1: 0x28,
        SystemArgument2: 0x30, DpcData: 0x38,
        ; TargetInfoAsUlong: 0, ProcessorHistory: 0x10,
    }
    KTIMER: size 0x40, align 8 {
        Header: 0, DueTime: 0x18, TimerListEntry: 0x20, Dpc: 0x30, Period: 0x3C,
        ; Processor: 0x38, TimerType: 0x3A,
    }
    EX_RUNDOWN_REF: size 8, align 8 { ; Count: 0, }
    MDL: size 0x30, align 8 {
        Next: 0, Size: 8, MdlFlags: 0xA, Process: 0x10, MappedSystemVa: 0x18, StartVa: 0x20, ByteCount: 0x28,
        ByteOffset: 0x2C,
        ; AllocationProcessorNumber: 0xC, Reserved: 0xE,
    }
    FILE_STANDARD_INFORMATION: size 0x18, align 8 {
        AllocationSize: 0, EndOfFile: 8, NumberOfLinks: 0x10, DeletePending: 0x14, Directory: 0x15,
    }
    IO_STATUS_BLOCK: size 16, align 8 { Information: 8, ; u: 0, }
    KAPC: size 0x58, align 8 {
        ; Type: 0, AllFlags: 1, Size: 2, SpareByte1: 3, SpareLong0: 4, Thread: 8, ApcListEntry: 0x10,
        Reserved: 0x20, NormalContext: 0x38, SystemArgument1: 0x40, SystemArgument2: 0x48,
        ApcStateIndex: 0x50, ApcMode: 0x51, Inserted: 0x52,
    }
    IRP: size 0xD0, align 16 or 8 {
        Type: 0, Size: 2, MdlAddress: 8, Flags: 0x10, AssociatedIrp: 0x18, ThreadListEntry: 0x20, IoStatus: 0x30,
        RequestorMode: 0x40, PendingReturned: 0x41, StackCount: 0x42, CurrentLocation: 0x43, Cancel: 0x44,
        CancelIrql: 0x45, ApcEnvironment: 0x46, AllocationFlags: 0x47, UserEvent: 0x50, Overlay: 0x58,
        CancelRoutine: 0x68, UserBuffer: 0x70, Tail: 0x78,
        ; UserIosb: 0x48,
    }
    IO_STACK_LOCATION: size 0x48, align 8 {
        MajorFunction: 0, MinorFunction: 1, Flags: 2, Control: 3, Parameters: 8, DeviceObject: 0x28,
        FileObject: 0x30, CompletionRoutine: 0x38, Context: 0x40,
    }
    KDEVICE_QUEUE: size 0x28, align 8 { Type: 0, Size: 2, DeviceListHead: 8, Lock: 0x18, ; Busy: 0x20, }
    KDEVICE_QUEUE_ENTRY: size 0x18, align 8 { DeviceListEntry: 0, SortKey: 0x10, Inserted: 0x14, }
    WAIT_CONTEXT_BLOCK: size 0x48, align 8 {
        DeviceRoutine: 0x18, DeviceContext: 0x20, NumberOfMapRegisters: 0x28, DeviceObject: 0x30,
        CurrentIrp: 0x38, BufferChainingDpc: 0x40,
        ; WaitQueueEntry: 0,
    }
    DEVICE_OBJECT: size 0x150 or 0x148, align 16 or 8 {
        Type: 0, Size: 2, ReferenceCount: 4, DriverObject: 8, NextDevice: 0x10, AttachedDevice: 0x18,
        CurrentIrp: 0x20, Timer: 0x28, Flags: 0x30, Characteristics: 0x34, Vpb: 0x38, DeviceExtension: 0x40,
        DeviceType: 0x48, StackSize: 0x4C, Queue: 0x50, AlignmentRequirement: 0x98, DeviceQueue: 0xA0,
        Dpc: 0xC8, ActiveThreadCount: 0x108, SecurityDescriptor: 0x110, DeviceLock: 0x118, SectorSize: 0x130,
        Spare1: 0x132, DeviceObjectExtension: 0x138, Reserved: 0x140,
    }
    DRIVER_EXTENSION: size 0x28, align 8 { DriverObject: 0, AddDevice: 8, Count: 0x10, ServiceKeyName: 0x18, }
    DRIVER_OBJECT: size 0x150, align 8 {
        Type: 0, Size: 2, DeviceObject: 8, Flags: 0x10, DriverStart: 0x18, DriverSize: 0x20,
        DriverSection: 0x28, DriverExtension: 0x30, DriverName: 0x38, HardwareDatabase: 0x48,
        FastIoDispatch: 0x50, DriverInit: 0x58, DriverStartIo: 0x60, DriverUnload: 0x68, MajorFunction: 0x70,
    }
    KEY_BASIC_INFORMATION: size 0x18, align 8 { LastWriteTime: 0, TitleIndex: 8, NameLength: 0xC, Name: 0x10, }
    KEY_VALUE_BASIC_INFORMATION: size 0x10, align 4 { TitleIndex: 0, Type: 4, NameLength: 8, Name: 0xC, }
    KEY_VALUE_FULL_INFORMATION: size 0x18, align 4 {
        TitleIndex: 0, Type: 4, DataOffset: 8, DataLength: 0xC, NameLength: 0x10, Name: 0x14,
    }
    KEY_VALUE_PARTIAL_INFORMATION: size 0x10, align 4 { TitleIndex: 0, Type: 4, DataLength: 8, Data: 0xC, }
    PROCESSOR_NUMBER: size 4, align 2 { Group: 0, Number: 2, Reserved: 3, }
    KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT: size 0x10, align 4 { State: 0, NtNumber: 4, Status: 8, ProcNumber: 0xC, }
    GROUP_AFFINITY: size 0x10, align 8 { Mask: 0, Group: 8, Reserved: 0xA, }
    NUMA_NODE_RELATIONSHIP: size 0x28, align 8 { NodeNumber: 0, ; Reserved: 4, GroupCount: 0x16, GroupMask: 0x18, }
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX: size 0x50, align 8 {
        Relationship: 0, Size: 4,
        ; NumaNode: 8, Others: 0x30,
    }
    KBUGCHECK_REASON_CALLBACK_RECORD: size 0x30, align 8 {
        Entry: 0, CallbackRoutine: 0x10, Component: 0x18, Checksum: 0x20, Reason: 0x28, State: 0x2C,
    }
    KBUGCHECK_SECONDARY_DUMP_DATA: size 0x30, align 8 {
        InBuffer: 0, InBufferLength: 8, MaximumAllowed: 0xC, Guid: 0x10, OutBuffer: 0x20, OutBufferLength: 0x28,
    }
    POOL_EXTENDED_PARAMETER: size 0x10, align 8 { Type: 0, PreferredNode: 8, Rest: 0xC, }
}

/// What stands for unnamed structures and unions of the headers, in the simulated kernel alone.
#[cfg(feature = "sim")]
mod unnamed {
    use super::source;

    layouts! {
        LARGE_INTEGER_PARTS: size 8, align 4 { LowPart: 0, HighPart: 4, }
        ULARGE_INTEGER_PARTS: size 8, align 4 { LowPart: 0, HighPart: 4, }
        IO_STATUS_BLOCK_0: size 8, align 8 { Status: 0, Pointer: 0, }
        IRP_ASSOCIATED: size 8, align 8 { MasterIrp: 0, IrpCount: 0, SystemBuffer: 0, }
        IRP_ASYNCHRONOUS_PARAMETERS: size 16, align 8 { UserApcRoutine: 0, UserApcContext: 8, }
        IRP_OVERLAY: size 16, align 8 { AsynchronousParameters: 0, AllocationSize: 0, }
        IRP_TAIL_OVERLAY: size 0x50, align 8 {
            DriverContext: 0, Thread: 0x20, AuxiliaryBuffer: 0x28, ListEntry: 0x30, CurrentStackLocation: 0x40,
            OriginalFileObject: 0x48,
        }
        IRP_TAIL: size 0x58, align 8 { Overlay: 0, Apc: 0, CompletionKey: 0, }
        IO_STACK_LOCATION_OTHERS: size 0x20, align 8 {
            Argument1: 0, Argument2: 8, Argument3: 0x10, Argument4: 0x18,
        }
        IO_STACK_LOCATION_PARAMETERS: size 0x20, align 8 { Others: 0, }
        DEVICE_OBJECT_QUEUE: size 0x48, align 8 { ListEntry: 0, Wcb: 0, }
    }
}

macro_rules! constants {
    ($($name:ident = $value:literal,)*) => {
        $(const _: () = assert!(super::$name == $value, stringify!($name));)*
    };
}

macro_rules! statuses {
    ($($name:ident = $code:literal,)*) => {
        $(const _: () = assert!(super::$name.cast_unsigned() == $code, stringify!($name));)*
    };
}

constants! {
    TRUE = 1,
    FALSE = 0,
    ALL_PROCESSOR_GROUPS = 0xFFFF,
    KE_PROCESSOR_CHANGE_ADD_EXISTING = 1,
    KeProcessorAddStartNotify = 0,
    KeProcessorAddCompleteNotify = 1,
    RelationNumaNode = 1,
    MM_ANY_NODE_OK = 0x8000_0000,
    PoolExtendedParameterNumaNode = 3,
    KbCallbackSecondaryDumpData = 2,
    DACL_SECURITY_INFORMATION = 4,
    FILE_ATTRIBUTE_NORMAL = 0x80,
    FILE_COMPLETE_IF_OPLOCKED = 0x100,
    FILE_DIRECTORY_FILE = 1,
    FILE_GENERIC_READ = 0x12_0089,
    FILE_GENERIC_WRITE = 0x12_0116,
    FILE_NON_DIRECTORY_FILE = 0x40,
    FILE_OPEN = 1,
    FILE_OPEN_IF = 3,
    FILE_OVERWRITE_IF = 5,
    FILE_SHARE_READ = 1,
    FILE_SHARE_WRITE = 2,
    FILE_SYNCHRONOUS_IO_NONALERT = 0x20,
    FILE_TRAVERSE = 0x20,
    FILE_WRITE_THROUGH = 2,
    FileStandardInformation = 5,
    SYNCHRONIZE = 0x10_0000,
    OWNER_SECURITY_INFORMATION = 1,
    FILE_DEVICE_NETWORK = 0x12,
    FILE_DEVICE_SECURE_OPEN = 0x100,
    IO_NO_INCREMENT = 0,
    OBJ_CASE_INSENSITIVE = 0x40,
    OBJ_KERNEL_HANDLE = 0x200,
    POOL_FLAG_NON_PAGED = 0x40,
    NonPagedPoolNx = 0x200,
    EVENT_MODIFY_STATE = 2,
    KEY_READ = 0x2_0019,
    REG_NOTIFY_CHANGE_NAME = 1,
    REG_NOTIFY_CHANGE_LAST_SET = 4,
    THREAD_ALL_ACCESS = 0x1F_FFFF,
    KernelMode = 0,
    Executive = 0,
    MdlMappingNoExecute = 0x4000_0000,
    NormalPagePriority = 16,
    NotificationEvent = 0,
    SynchronizationEvent = 1,
    WaitAny = 1,
    KeyBasicInformation = 0,
    KeyValueBasicInformation = 0,
    KeyValuePartialInformation = 2,
}

statuses! {
    STATUS_SUCCESS = 0,
    STATUS_WAIT_0 = 0,
    STATUS_TIMEOUT = 0x102,
    STATUS_PENDING = 0x103,
    STATUS_OPLOCK_BREAK_IN_PROGRESS = 0x108,
    STATUS_OBJECT_NAME_EXISTS = 0x4000_0000,
    STATUS_BUFFER_OVERFLOW = 0x8000_0005,
    STATUS_NO_MORE_ENTRIES = 0x8000_001A,
    STATUS_UNSUCCESSFUL = 0xC000_0001,
    STATUS_NOT_IMPLEMENTED = 0xC000_0002,
    STATUS_INVALID_PARAMETER = 0xC000_000D,
    STATUS_INVALID_DEVICE_REQUEST = 0xC000_0010,
    STATUS_END_OF_FILE = 0xC000_0011,
    STATUS_MORE_PROCESSING_REQUIRED = 0xC000_0016,
    STATUS_BUFFER_TOO_SMALL = 0xC000_0023,
    STATUS_OBJECT_NAME_NOT_FOUND = 0xC000_0034,
    STATUS_INSUFFICIENT_RESOURCES = 0xC000_009A,
    STATUS_DEVICE_NOT_READY = 0xC000_00A3,
    STATUS_IO_TIMEOUT = 0xC000_00B5,
    STATUS_NOT_SUPPORTED = 0xC000_00BB,
    STATUS_REQUEST_NOT_ACCEPTED = 0xC000_00D0,
    STATUS_CANCELLED = 0xC000_0120,
    STATUS_INVALID_DEVICE_STATE = 0xC000_0184,
    STATUS_CONNECTION_DISCONNECTED = 0xC000_020C,
    STATUS_CONNECTION_RESET = 0xC000_020D,
    STATUS_DATA_NOT_ACCEPTED = 0xC000_021B,
    STATUS_NOINTERFACE = 0xC000_02B9,
}
