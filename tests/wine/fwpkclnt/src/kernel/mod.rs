//! The functions of `ntoskrnl.exe`, `hal.dll` and `cng.sys` that Wine 8 lacks, or has otherwise than Windows documents them.
//!
//! Each is named in [`TABLE`]; a driver's import of that name is pointed here ([`crate::modules`]). A function whose
//! page limits its IRQL checks it, also where the work is Wine's own. The page of a function is the page of its name
//! (learn.microsoft.com, Windows drivers); where a rule comes from another page, the comment says which.

#![allow(non_snake_case, reason = "the headers' names")]

mod bugcheck;
mod checked;
mod crash;
mod dpc;
pub(crate) mod etw;
mod file;
mod irp;
mod level;
mod lock;
mod memory;
pub(crate) mod pool;
pub(crate) mod processor;
mod random;
mod routine;
mod rundown;
mod security;
mod shared;
mod time;
mod work;

use alloc::format;
use alloc::vec::Vec;

use windows_sys::Win32::System::Threading::GetActiveProcessorCount;
use wine_support::env;

use crate::irql;
use crate::sys::nt::ALL_PROCESSOR_GROUPS;
use crate::verify::Leak;

/// A function under the name by which drivers import it.
pub(crate) struct Function {
    pub name: &'static str,
    pub address: *const (),
}

// SAFETY: the address of a function, which is there as long as the image.
unsafe impl Sync for Function {}

/// Lists functions under their own names.
macro_rules! functions {
    ($($module:ident { $($name:ident),* $(,)? })+) => {
        &[$($(Function { name: stringify!($name), address: $module::$name as *const () },)*)+]
    };
}

/// All of the kernel's.
static TABLE: &[Function] = functions! {
    bugcheck { KeBugCheck, KeBugCheckEx, KeDeregisterBugCheckReasonCallback, KeRegisterBugCheckReasonCallback }
    checked {
        IoAllocateIrp, IoAllocateMdl, IoCreateDevice, IoDeleteDevice, KeDelayExecutionThread, KeWaitForMultipleObjects, KeWaitForSingleObject,
        PsCreateSystemThread, ZwClose, ZwEnumerateKey, ZwEnumerateValueKey, ZwOpenKey, ZwQueryValueKey,
        ZwWaitForSingleObject,
    }
    dpc { KeFlushQueuedDpcs, KeInsertQueueDpc, KeRemoveQueueDpc }
    etw {
        EtwEventEnabled, EtwProviderEnabled, EtwRegister, EtwSetInformation, EtwUnregister, EtwWrite,
        EtwWriteTransfer,
    }
    file {
        IoGetDriverDirectory, ZwCreateFile, ZwFlushBuffersFile, ZwQueryInformationFile, ZwQuerySecurityObject, ZwReadFile, ZwSetInformationFile,
        ZwWriteFile,
    }
    irp { IoSetCompletionRoutineEx }
    level { KeGetCurrentIrql, KeLowerIrql, KeRaiseIrql, KeRaiseIrqlToDpcLevel, KfLowerIrql, KfRaiseIrql }
    lock {
        KeAcquireInStackQueuedSpinLock, KeAcquireSpinLock, KeAcquireSpinLockAtDpcLevel,
        KeAcquireSpinLockRaiseToDpc, KeInitializeSpinLock, KeReleaseInStackQueuedSpinLock, KeReleaseSpinLock,
        KeReleaseSpinLockFromDpcLevel, KeTryToAcquireSpinLockAtDpcLevel,
    }
    memory { MmBuildMdlForNonPagedPool }
    pool {
        ExAllocatePool, ExAllocatePool2, ExAllocatePool3, ExAllocatePoolWithTag, ExAllocatePoolZero, ExFreePool,
        ExFreePoolWithTag,
    }
    processor {
        KeDeregisterProcessorChangeCallback, KeGetCurrentProcessorNumber, KeGetCurrentProcessorNumberEx,
        KeGetProcessorIndexFromNumber, KeGetProcessorNumberFromIndex, KeQueryActiveProcessorCount,
        KeQueryActiveProcessorCountEx, KeQueryLogicalProcessorRelationship, KeQueryMaximumProcessorCount, KeQueryMaximumProcessorCountEx,
        KeRegisterProcessorChangeCallback,
    }
    routine { MmGetSystemRoutineAddress }
    rundown {
        ExAcquireRundownProtection, ExInitializeRundownProtection, ExReInitializeRundownProtection,
        ExReleaseRundownProtection, ExRundownCompleted, ExWaitForRundownProtectionRelease,
    }
    security { SeAccessCheck }
    time { KeQueryInterruptTime, KeQueryInterruptTimePrecise, KeQuerySystemTimePrecise, KeQueryUnbiasedInterruptTime }
    work { ExQueueWorkItem }
};

/// Those of `cng.sys`.
static CNG: &[Function] = functions! {
    random { BCryptGenRandom }
};

/// The function of that name that takes the place of a library's, if there is one.
pub(crate) fn replacement(library: &str, name: &str) -> Option<*const ()> {
    if ["ntoskrnl.exe", "hal.dll"].iter().any(|kernel| library.eq_ignore_ascii_case(kernel)) {
        return find(name);
    }
    let function = CNG.iter().find(|function| function.name == name)?;
    library.eq_ignore_ascii_case("cng.sys").then_some(function.address)
}

/// The kernel's function of that name, if it is here.
pub(crate) fn find(name: &str) -> Option<*const ()> {
    TABLE.iter().find(|function| function.name == name).map(|function| function.address)
}

/// Reads the settings. To be called once, before any driver runs.
///
/// `Processors` and `MaximumProcessors` (REG_SZ, decimal) are how many processors drivers see, and how many there may
/// be; without them, as many as Wine sees, and no more.
pub(crate) fn start() {
    shared::start();
    crash::start();
    let number = |name| env::setting(name).and_then(|text| text.parse().ok());
    // SAFETY: no preconditions.
    let real = unsafe { GetActiveProcessorCount(ALL_PROCESSOR_GROUPS) };
    let active = number("Processors").unwrap_or(real);
    irql::start(active, number("MaximumProcessors").unwrap_or(active));
}

/// What drivers hold of what is here.
pub(crate) fn report(leaks: &mut Vec<Leak>) {
    pool::report(leaks);
    let callbacks = processor::registered();
    if callbacks != 0 {
        let made_by = "KeRegisterProcessorChangeCallback".into();
        leaks.push(Leak::new("processor change callbacks", callbacks, made_by));
    }
    if bugcheck::registered() != 0 {
        let made_by = "KeRegisterBugCheckReasonCallback".into();
        leaks.push(Leak::new("bug check callbacks", bugcheck::registered(), made_by));
    }
    if irp::waiting() != 0 {
        let made_by = "IoSetCompletionRoutineEx, of routines that were never called".into();
        leaks.push(Leak::new("completion context", irp::waiting(), made_by));
    }
    for name in etw::state().0 {
        leaks.push(Leak::new("ETW registration", 0, format!("EtwRegister, {name}")));
    }
}
