//! A breach of each kind: the stand-in's log must tell of all.

use crate::checks::TAG;
use crate::kernel::{
    ExAllocatePool2, ExFreePoolWithTag, KeDelayExecutionThread, KeLowerIrql, KeReleaseSpinLock, KfRaiseIrql,
};
use crate::sys::nt::{DISPATCH_LEVEL, KSPIN_LOCK, LARGE_INTEGER, PASSIVE_LEVEL, POOL_FLAG_NON_PAGED};

pub fn run() {
    let overrun = ExAllocatePool2(POOL_FLAG_NON_PAGED, 10, TAG).cast::<u8>();
    // SAFETY: it is not: this is the breach. The stand-in keeps a guard behind each block.
    unsafe { overrun.wrapping_add(10).write(1) };
    // SAFETY: the block is ours, but for its tag, which is the next breach.
    unsafe { ExFreePoolWithTag(overrun.cast(), !TAG) };
    // SAFETY: it is not: the block is freed. The stand-in remembers that.
    unsafe { ExFreePoolWithTag(overrun.cast(), TAG) };
    let old = KfRaiseIrql(DISPATCH_LEVEL);
    let soon = LARGE_INTEGER { QuadPart: -1 };
    // SAFETY: the interval lives; the IRQL is the breach.
    unsafe { KeDelayExecutionThread(0, 0, &raw const soon) };
    KeLowerIrql(old);
    let mut lock: KSPIN_LOCK = 0;
    // SAFETY: the lock lives; that nobody holds it is the breach.
    unsafe { KeReleaseSpinLock(&raw mut lock, PASSIVE_LEVEL) };
    // Left behind.
    ExAllocatePool2(POOL_FLAG_NON_PAGED, 123, TAG);
}
