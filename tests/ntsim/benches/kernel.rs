//! The simulated kernel's own cost on the paths that a packet takes.

#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a benchmark calls the kernel's functions as a driver written in C would"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ntsim::Config;
use ntsim::irql::raise_scope;
use ntsim::sys::nt::{
    EX_RUNDOWN_REF, ExAcquireRundownProtection, ExAllocatePool2, ExFreePoolWithTag,
    ExReleaseRundownProtection, FALSE, KEVENT, KeInitializeEvent, KeSetEvent, NotificationEvent,
    POOL_FLAG_NON_PAGED,
};
use ntsim::verify::{lock_acquired, lock_acquiring, lock_released};

const TAG: u32 = u32::from_le_bytes(*b"Test");

fn kernel(criterion: &mut Criterion) {
    let sim = ntsim::boot(Config::default());
    criterion.bench_function("raise and lower", |bencher| bencher.iter(|| drop(raise_scope())));
    for size in [64, 512] {
        criterion.bench_function(&format!("allocate and free {size} bytes"), |bencher| {
            bencher.iter(|| unsafe {
                ExFreePoolWithTag(black_box(ExAllocatePool2(POOL_FLAG_NON_PAGED, size, TAG)), TAG);
            });
        });
    }
    let live: Vec<_> =
        (0..100_000).map(|_| unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 256, TAG) }).collect();
    criterion.bench_function("allocate and free 256 bytes beside 100,000 blocks", |bencher| {
        bencher.iter(|| unsafe {
            ExFreePoolWithTag(black_box(ExAllocatePool2(POOL_FLAG_NON_PAGED, 256, TAG)), TAG);
        });
    });
    for block in live {
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    criterion.bench_function("two nested locks, at DISPATCH_LEVEL", |bencher| {
        let _raised = raise_scope();
        bencher.iter(|| {
            for (address, name) in [(1, "outer"), (2, "inner")] {
                lock_acquiring(address, name);
                lock_acquired(address, name);
            }
            lock_released(2);
            lock_released(1);
        });
    });
    let mut rundown = EX_RUNDOWN_REF { Count: 0 };
    criterion.bench_function("acquire and release rundown protection", |bencher| {
        bencher.iter(|| unsafe {
            black_box(ExAcquireRundownProtection(&raw mut rundown));
            ExReleaseRundownProtection(&raw mut rundown);
        });
    });
    let mut event: Box<KEVENT> = unsafe { Box::new(std::mem::zeroed()) };
    unsafe { KeInitializeEvent(&raw mut *event, NotificationEvent, FALSE) };
    criterion.bench_function("set an event that nobody waits for", |bencher| {
        bencher.iter(|| unsafe { KeSetEvent(&raw mut *event, 0, FALSE) });
    });
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

criterion_group!(benches, kernel);
criterion_main!(benches);
