//! IRQL and processors: wdm.h.

use super::types::{KIRQL, PKIRQL, PPROCESSOR_NUMBER, ULONG, USHORT};
use crate::{irql, processors};

/// Page "KeGetCurrentIrql": any level.
///
/// # Safety
/// None needed.
#[inline]
pub unsafe extern "system-unwind" fn KeGetCurrentIrql() -> KIRQL {
    irql::current()
}

/// Page "KeRaiseIrqlToDpcLevel": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller lowers again, on the same thread.
#[inline]
pub unsafe extern "system-unwind" fn KeRaiseIrqlToDpcLevel() -> KIRQL {
    irql::raise_to_dispatch()
}

/// Page "KfRaiseIrql": the new level is at least the current one.
///
/// # Safety
/// The caller lowers again, on the same thread.
pub unsafe extern "system-unwind" fn KfRaiseIrql(new: KIRQL) -> KIRQL {
    irql::raise(new)
}

/// Page "KeRaiseIrql": the new level is at least the current one.
///
/// # Safety
/// `old` is writable; the caller lowers again, on the same thread.
pub unsafe extern "system-unwind" fn KeRaiseIrql(new: KIRQL, old: PKIRQL) {
    let before = irql::raise(new);
    // SAFETY: as the caller promises.
    unsafe { old.write(before) };
}

/// Page "KeLowerIrql": to the level that the last raise returned.
///
/// # Safety
/// No spin lock is held.
#[inline]
pub unsafe extern "system-unwind" fn KeLowerIrql(new: KIRQL) {
    irql::lower(new);
}

/// Page "KeGetCurrentProcessorNumberEx" with a NULL argument: the system-wide index. Any level; below DISPATCH_LEVEL
/// the answer may be out of date at once.
///
/// # Safety
/// None needed.
#[inline]
pub unsafe extern "system-unwind" fn KeGetCurrentProcessorIndex() -> ULONG {
    irql::processor()
}

/// Page "KeGetCurrentProcessorNumberEx".
///
/// # Safety
/// `number` is NULL or writable.
pub unsafe extern "system-unwind" fn KeGetCurrentProcessorNumberEx(number: PPROCESSOR_NUMBER) -> ULONG {
    let index = irql::processor();
    // SAFETY: as the caller promises.
    if let Some(number) = unsafe { number.as_mut() } {
        *number = processors::number_of(index);
    }
    index
}

/// How many of the first `count` processors are in a group; all, for all groups.
fn in_group(group: USHORT, count: ULONG) -> ULONG {
    if group == super::types::ALL_PROCESSOR_GROUPS { count } else { processors::in_group(group, count) }
}

/// Page "KeQueryActiveProcessorCountEx": any level; 0 for a group that is not there.
///
/// # Safety
/// None needed.
pub unsafe extern "system-unwind" fn KeQueryActiveProcessorCountEx(group: USHORT) -> ULONG {
    in_group(group, irql::active_processors())
}

/// Page "KeQueryMaximumProcessorCountEx": any level. Processors may be added up to it while the machine runs.
///
/// # Safety
/// None needed.
pub unsafe extern "system-unwind" fn KeQueryMaximumProcessorCountEx(group: USHORT) -> ULONG {
    in_group(group, irql::maximum_processors())
}

/// Page "YieldProcessor": any level.
///
/// # Safety
/// None needed.
#[inline]
pub unsafe extern "system-unwind" fn YieldProcessor() {
    if irql::yields() {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}
