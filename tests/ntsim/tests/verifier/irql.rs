//! IRQL and virtual processors.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};

use ntsim::sys::nt::{
    ALL_PROCESSOR_GROUPS, APC_LEVEL, DISPATCH_LEVEL, KIRQL, KeGetCurrentIrql, KeGetCurrentProcessorIndex,
    KeGetCurrentProcessorNumberEx, KeLowerIrql, KeQueryActiveProcessorCountEx,
    KeQueryMaximumProcessorCountEx, KeRaiseIrql, KeRaiseIrqlToDpcLevel, KfRaiseIrql, PASSIVE_LEVEL,
    PROCESSOR_NUMBER, ZwClose,
};
use ntsim::verify::rule::{
    AFTER_TERMINATE, HANDLE_INVALID, IRQL_LOWER_RAISES, IRQL_RAISE_LOWERS, IRQL_TOO_HIGH, IRQL_TOO_LOW,
};
use ntsim::{Config, boot, irql};

use crate::{expect, expect_clean, machine};

#[test]
fn raising_and_lowering_nest() {
    let sim = machine();
    assert_eq!(unsafe { KeGetCurrentIrql() }, PASSIVE_LEVEL);
    let mut outer: KIRQL = 9;
    unsafe { KeRaiseIrql(APC_LEVEL, &raw mut outer) };
    assert_eq!((outer, unsafe { KeGetCurrentIrql() }), (PASSIVE_LEVEL, APC_LEVEL));
    let middle = unsafe { KeRaiseIrqlToDpcLevel() };
    let inner = unsafe { KeRaiseIrqlToDpcLevel() };
    assert_eq!((middle, inner), (APC_LEVEL, DISPATCH_LEVEL));
    unsafe { KeLowerIrql(inner) };
    assert_eq!(unsafe { KeGetCurrentIrql() }, DISPATCH_LEVEL);
    unsafe { KeLowerIrql(middle) };
    unsafe { KeLowerIrql(outer) };
    assert_eq!(unsafe { KeGetCurrentIrql() }, PASSIVE_LEVEL);
    expect_clean(&sim);
}

#[test]
fn raising_never_lowers_and_lowering_never_raises() {
    let sim = machine();
    unsafe { KeLowerIrql(DISPATCH_LEVEL) };
    let old = unsafe { KeRaiseIrqlToDpcLevel() };
    assert_eq!(unsafe { KfRaiseIrql(APC_LEVEL) }, DISPATCH_LEVEL);
    assert_eq!(unsafe { KeGetCurrentIrql() }, DISPATCH_LEVEL);
    unsafe { KfRaiseIrql(5) };
    unsafe { KeRaiseIrqlToDpcLevel() };
    unsafe { KeLowerIrql(old) };
    expect(&sim, &[&IRQL_LOWER_RAISES, &IRQL_RAISE_LOWERS, &IRQL_RAISE_LOWERS]);
}

#[test]
fn an_api_above_its_limit_is_a_violation_that_names_it() {
    let sim = machine();
    let raised = irql::raise_scope();
    unsafe { ZwClose(std::ptr::null_mut()) };
    drop(raised);
    expect(&sim, &[&IRQL_TOO_HIGH, &HANDLE_INVALID]);
    let violation = sim.report().violations.remove(0);
    assert_eq!((violation.api, violation.page(), violation.irql), ("ZwClose", "ZwClose", DISPATCH_LEVEL));
    assert!(!irql::require_at_least("KeReleaseSpinLockFromDpcLevel", DISPATCH_LEVEL));
    expect(&sim, &[&IRQL_TOO_HIGH, &HANDLE_INVALID, &IRQL_TOO_LOW]);
    assert_ne!(AFTER_TERMINATE.page, "");
}

/// One plain counter for each processor, written without synchronisation by whoever owns the processor.
struct PerProcessor([UnsafeCell<u64>; 2]);
unsafe impl Sync for PerProcessor {}

#[test]
fn at_dispatch_level_a_thread_owns_its_processor() {
    let sim = boot(Config { processors: 2, migrate_every: 7, ..Config::default() });
    let counters = PerProcessor([UnsafeCell::new(0), UnsafeCell::new(0)]);
    let inside = [AtomicU32::new(0), AtomicU32::new(0)];
    let rounds: u32 = if cfg!(miri) { 20 } else { 20_000 };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let raised = irql::raise_scope();
                    let index = unsafe { KeGetCurrentProcessorIndex() } as usize;
                    assert_eq!(inside[index].fetch_add(1, Ordering::Relaxed), 0);
                    let counter = (&raw const counters).cast::<u64>().wrapping_add(index).cast_mut();
                    unsafe { *counter += 1 };
                    assert_eq!(unsafe { KeGetCurrentProcessorIndex() } as usize, index);
                    inside[index].fetch_sub(1, Ordering::Relaxed);
                    drop(raised);
                }
            });
        }
    });
    let [first, second] = counters.0.map(UnsafeCell::into_inner);
    assert_eq!(first + second, u64::from(4 * rounds));
    assert!(first != 0 && second != 0, "both processors were used: {first}, {second}");
    expect_clean(&sim);
}

#[test]
fn a_thread_migrates_only_below_dispatch_level() {
    let sim = boot(Config { processors: 3, migrate_every: 1, ..Config::default() });
    let visited: Vec<u32> = (0..6)
        .map(|_| {
            let _raised = irql::raise_scope();
            unsafe { KeGetCurrentProcessorIndex() }
        })
        .collect();
    assert!(visited.windows(2).all(|pair| pair[0] != pair[1]), "{visited:?}");
    assert!(visited.iter().all(|&index| index < 3));
    expect_clean(&sim);
}

#[test]
fn processors_can_be_added_up_to_the_maximum() {
    let sim = boot(Config { processors: 1, maximum_processors: 2, ..Config::default() });
    let counts = || unsafe {
        (
            KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS),
            KeQueryMaximumProcessorCountEx(ALL_PROCESSOR_GROUPS),
        )
    };
    assert_eq!(counts(), (1, 2));
    assert_eq!(sim.add_processor(), Some(1));
    assert_eq!(sim.add_processor(), None);
    assert_eq!(counts(), (2, 2));
    assert_eq!(unsafe { KeQueryActiveProcessorCountEx(3) }, 0);
    let mut number = PROCESSOR_NUMBER { Group: 9, Number: 9, Reserved: 9 };
    let index = unsafe { KeGetCurrentProcessorNumberEx(&raw mut number) };
    assert_eq!((number.Group, u32::from(number.Number)), (0, index));
    expect_clean(&sim);
}

/// Raise and lower on the hot path: 15 ns a pair is the aim in an optimised build.
#[test]
fn a_raise_and_a_lower_are_cheap() {
    let sim = machine();
    let rounds = if cfg!(miri) { 10 } else { 200_000u32 };
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        drop(irql::raise_scope());
    }
    let pair = began.elapsed() / rounds;
    println!("raise and lower: {pair:?}");
    if !cfg!(debug_assertions) {
        assert!(pair < std::time::Duration::from_nanos(100), "{pair:?}");
    }
    expect_clean(&sim);
}
