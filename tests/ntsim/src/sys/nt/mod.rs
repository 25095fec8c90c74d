//! The NT kernel's own API, under the names of the WDK headers.
//!
//! Thin functions: each checks its documented IRQL and arguments, asks [`crate::fault`] where it can fail, and calls the
//! safe module that does the work. The documentation page of a function is the page of its name.

#![allow(
    non_snake_case,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::upper_case_acronyms,
    clippy::too_many_arguments,
    reason = "names and signatures are those of the Windows headers"
)]

mod bugcheck;
mod event;
mod file;
mod io;
mod irql;
mod object;
mod pool;
mod processor;
mod registry;
mod routine;
mod rundown;
mod security;
mod status;
mod string;
mod timer;
mod types;

/// The rules that are checked here.
pub(crate) mod rule {
    pub use super::file::{FILE_ASYNCHRONOUS, FILE_HANDLE, FILE_OPLOCK, FILE_SYNCHRONOUS};
    pub use super::io::{DEVICE_OWNER, MDL_INVALID, MDL_MEMORY, MDL_NOT_BUILT};
    pub use super::processor::PROCESSOR_RELATION;
    pub use super::registry::{REGISTRY_ATTRIBUTES, REGISTRY_BUFFER, REGISTRY_HANDLE, REGISTRY_NOTIFY};
    pub use super::rundown::{RUNDOWN_RELEASE, RUNDOWN_STATE};
}

pub use bugcheck::{KeDeregisterBugCheckReasonCallback, KeRegisterBugCheckReasonCallback};
pub use event::{
    KeClearEvent, KeDelayExecutionThread, KeInitializeEvent, KeReadStateEvent, KeResetEvent, KeSetEvent,
    KeWaitForMultipleObjects, KeWaitForSingleObject,
};
pub use file::{
    IoGetDriverDirectory, ZwCreateFile, ZwFlushBuffersFile, ZwQueryInformationFile, ZwReadFile, ZwWriteFile,
};
pub use io::{
    IoAcquireCancelSpinLock, IoAllocateIrp, IoAllocateMdl, IoAllocateWorkItem, IoCancelIrp, IoCreateDevice,
    IoDeleteDevice, IoFreeIrp, IoFreeMdl, IoFreeWorkItem, IoQueueWorkItem, IoRegisterShutdownNotification,
    IoReleaseCancelSpinLock, IoReuseIrp, IoSetCompletionRoutine, IoSetCompletionRoutineEx,
    IoUnregisterShutdownNotification, IofCallDriver, IofCompleteRequest, MmBuildMdlForNonPagedPool,
    MmGetSystemAddressForMdlSafe,
};
pub use irql::{
    KeGetCurrentIrql, KeGetCurrentProcessorIndex, KeGetCurrentProcessorNumberEx, KeLowerIrql,
    KeQueryActiveProcessorCountEx, KeQueryMaximumProcessorCountEx, KeRaiseIrql, KeRaiseIrqlToDpcLevel,
    KfRaiseIrql, YieldProcessor,
};
pub use object::{
    ObReferenceObject, ObReferenceObjectByHandle, ObfDereferenceObject, ObfReferenceObject,
    PsCreateSystemThread, PsTerminateSystemThread, ZwClose, ZwCreateEvent, ZwWaitForSingleObject,
};
pub use pool::{
    EX_ALLOCATE_POOL2, EX_ALLOCATE_POOL3, ExAllocatePool2, ExAllocatePool3, ExAllocatePoolWithTag,
    ExFreePool, ExFreePoolWithTag,
};
pub use processor::{
    KeDeregisterProcessorChangeCallback, KeQueryLogicalProcessorRelationship,
    KeRegisterProcessorChangeCallback,
};
pub use registry::{ZwEnumerateKey, ZwEnumerateValueKey, ZwNotifyChangeKey, ZwOpenKey, ZwQueryValueKey};
pub use routine::{InitSafeBootMode, MmGetSystemRoutineAddress};
pub use rundown::{
    ExAcquireRundownProtection, ExInitializeRundownProtection, ExReInitializeRundownProtection,
    ExReleaseRundownProtection, ExRundownCompleted, ExWaitForRundownProtectionRelease,
};
pub use security::ZwQuerySecurityObject;
pub use status::*;
pub use string::{DbgPrintEx, KeBugCheckEx, RtlInitUnicodeString};
pub use timer::{
    KeCancelTimer, KeFlushQueuedDpcs, KeInitializeDpc, KeInitializeTimer, KeInitializeTimerEx,
    KeInsertQueueDpc, KeQueryInterruptTime, KeQueryPerformanceCounter, KeQuerySystemTimePrecise,
    KeRemoveQueueDpc, KeSetTimer, KeSetTimerEx,
};
pub use types::*;
