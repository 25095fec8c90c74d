//! Pool memory.

use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePool, ExFreePoolWithTag, IoAllocateIrp, IoFreeIrp, KeLowerIrql,
    KeRaiseIrqlToDpcLevel, PAGE_SIZE, POOL_FLAG_CACHE_ALIGNED, POOL_FLAG_NON_PAGED,
    POOL_FLAG_NON_PAGED_EXECUTE, POOL_FLAG_PAGED, POOL_FLAG_RAISE_ON_FAILURE, POOL_FLAG_UNINITIALIZED,
};
use ntsim::verify::rule::{
    IRQL_TOO_HIGH, POOL_DOUBLE_FREE, POOL_EXECUTABLE, POOL_INVALID_FREE, POOL_OVERRUN, POOL_PARAMETER,
    POOL_RAISES, POOL_SECRET, POOL_UNDERRUN, POOL_USE_AFTER_FREE, POOL_WRONG_ROUTINE, POOL_WRONG_TAG,
};
use ntsim::{Config, boot};

use crate::{TAG, expect, expect_clean, held, machine};

fn allocate(size: usize) -> *mut u8 {
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, size, TAG) };
    assert!(!block.is_null());
    block.cast()
}

fn free(block: *mut u8) {
    unsafe { ExFreePoolWithTag(block.cast(), TAG) };
}

#[test]
fn blocks_are_zeroed_writable_and_aligned_as_documented() {
    let sim = machine();
    for (size, flags, alignment) in [
        (1, 0, 16),
        (100, 0, 16),
        (100, POOL_FLAG_CACHE_ALIGNED, 64),
        (PAGE_SIZE - 1, 0, 16),
        (PAGE_SIZE, 0, PAGE_SIZE),
        (5 * PAGE_SIZE + 3, 0, PAGE_SIZE),
    ] {
        let block: *mut u8 = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED | flags, size, TAG) }.cast();
        assert!(block.addr().is_multiple_of(alignment), "{size} at {block:?}");
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xff);
        free(block);
    }
    expect_clean(&sim);
}

#[test]
fn uninitialised_memory_holds_nonsense() {
    let sim = machine();
    let flags = POOL_FLAG_NON_PAGED | POOL_FLAG_UNINITIALIZED;
    let block: *mut u8 = unsafe { ExAllocatePool2(flags, 32, TAG) }.cast();
    assert_eq!(unsafe { block.read() }, ntsim::pool::UNINITIALISED);
    free(block);
    expect_clean(&sim);
}

#[test]
fn what_is_not_freed_is_reported_with_its_tag_and_size() {
    let sim = machine();
    let blocks = [allocate(10), allocate(20)];
    let report = sim.report();
    assert_eq!(report.leaks.len(), 2);
    assert!(report.leaks.iter().all(|leak| leak.kind == "pool block" && leak.made_by == "ExAllocatePool2"));
    assert_eq!(report.pool_by_tag(), [(ntsim::verify::Tag(TAG), 30, 2)]);
    assert_eq!(sim.pool_usage(), ntsim::pool::Usage { bytes: 30, blocks: 2 });
    blocks.into_iter().for_each(free);
    expect_clean(&sim);
}

#[test]
fn a_request_that_is_not_valid_gets_null() {
    let sim = machine();
    for (flags, size, tag) in [
        (POOL_FLAG_NON_PAGED, 0, TAG),
        (POOL_FLAG_NON_PAGED, 8, 0),
        (POOL_FLAG_NON_PAGED, 8, u32::from_le_bytes([b'T', 0, b's', b't'])),
        (POOL_FLAG_NON_PAGED, 8, u32::from_le_bytes([b'T', 7, b's', b't'])),
        (0, 8, TAG),
        (POOL_FLAG_NON_PAGED | POOL_FLAG_PAGED, 8, TAG),
        (POOL_FLAG_NON_PAGED | 0x8000_0000, 8, TAG),
    ] {
        assert!(unsafe { ExAllocatePool2(flags, size, tag) }.is_null());
    }
    expect(&sim, &[&POOL_PARAMETER; 7]);
}

#[test]
fn a_size_that_cannot_be_had_gets_null() {
    let sim = machine();
    assert!(unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, usize::MAX, TAG) }.is_null());
    assert!(unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, isize::MAX as usize, TAG) }.is_null());
    expect_clean(&sim);
}

#[test]
fn executable_and_raising_pool_are_violations() {
    let sim = machine();
    for flags in [POOL_FLAG_NON_PAGED_EXECUTE, POOL_FLAG_NON_PAGED | POOL_FLAG_RAISE_ON_FAILURE] {
        free(unsafe { ExAllocatePool2(flags, 8, TAG) }.cast());
    }
    expect(&sim, &[&POOL_EXECUTABLE, &POOL_RAISES]);
}

#[test]
fn paged_pool_is_for_apc_level_and_below() {
    let sim = machine();
    let block = unsafe { ExAllocatePool2(POOL_FLAG_PAGED, 8, TAG) };
    let old = unsafe { KeRaiseIrqlToDpcLevel() };
    let late = unsafe { ExAllocatePool2(POOL_FLAG_PAGED, 8, TAG) };
    unsafe { ExFreePoolWithTag(block, TAG) };
    let fine = allocate(8);
    free(fine);
    unsafe { KeLowerIrql(old) };
    unsafe { ExFreePoolWithTag(late, TAG) };
    expect(&sim, &[&IRQL_TOO_HIGH, &IRQL_TOO_HIGH]);
}

#[test]
fn a_secret_is_overwritten_before_its_memory_is_freed() {
    let sim = machine();
    let hold_secret = |overwritten: bool| {
        let block = allocate(100);
        unsafe { block.add(41).copy_from_nonoverlapping(b"hunter2".as_ptr(), 7) };
        if overwritten {
            unsafe { block.write_bytes(0, 100) };
        }
        free(block);
    };
    hold_secret(false);
    sim.watch_secret(b"hunter2");
    hold_secret(true);
    hold_secret(false);
    expect(&sim, &[&POOL_SECRET]);
}

#[test]
fn a_block_is_freed_with_its_own_tag() {
    let sim = machine();
    unsafe { ExFreePoolWithTag(allocate(8).cast(), u32::from_le_bytes(*b"Else")) };
    unsafe { ExFreePool(allocate(8).cast()) };
    expect(&sim, &[&POOL_WRONG_TAG]);
    assert!(held(&sim).is_empty());
}

#[test]
fn a_block_is_freed_once() {
    let sim = machine();
    let block = allocate(8);
    free(block);
    free(block);
    expect(&sim, &[&POOL_DOUBLE_FREE]);
}

#[test]
fn only_what_was_allocated_is_freed() {
    let sim = machine();
    let block = allocate(64);
    free(unsafe { block.add(16) });
    free(block);
    free(16 as *mut u8);
    expect(&sim, &[&POOL_INVALID_FREE, &POOL_INVALID_FREE]);
}

#[test]
fn each_kind_of_memory_has_its_own_free() {
    let sim = machine();
    let irp = unsafe { IoAllocateIrp(1, 0) };
    unsafe { ExFreePool(irp.cast()) };
    assert_eq!(held(&sim), ["IRP"]);
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&POOL_WRONG_ROUTINE]);
}

#[test]
fn writes_outside_a_block_are_seen_when_it_is_freed() {
    let sim = machine();
    let block = allocate(5);
    unsafe { block.add(5).write(1) };
    free(block);
    let block = allocate(5);
    unsafe { block.sub(1).write(1) };
    free(block);
    expect(&sim, &[&POOL_OVERRUN, &POOL_UNDERRUN]);
}

#[test]
fn writes_outside_a_live_block_are_reported_once() {
    let sim = machine();
    let block = allocate(5);
    unsafe { block.add(5).write(1) };
    expect(&sim, &[&POOL_OVERRUN]);
    expect(&sim, &[&POOL_OVERRUN]);
    free(block);
    expect(&sim, &[&POOL_OVERRUN]);
}

#[test]
fn freed_memory_is_poisoned_and_a_late_write_is_seen() {
    let sim = machine();
    let block = allocate(40);
    free(block);
    // The block lies in quarantine, so the memory is still there to be misused.
    assert_eq!(unsafe { block.add(39).read() }, ntsim::pool::POISON);
    expect_clean(&sim);
    unsafe { block.add(39).write(0) };
    expect(&sim, &[&POOL_USE_AFTER_FREE]);
    expect(&sim, &[&POOL_USE_AFTER_FREE]);
}

#[test]
fn a_late_write_is_seen_when_the_block_leaves_quarantine() {
    // A quarantine of 32 shards of 64 bytes: each holds one block of 64 at most.
    let sim = boot(Config { quarantine: 32 * 64, ..Config::default() });
    let block = allocate(64);
    free(block);
    unsafe { block.write(1) };
    // Enough blocks that each shard gets some.
    let others: Vec<_> = (0..if cfg!(miri) { 400 } else { 4000 }).map(|_| allocate(64)).collect();
    others.into_iter().for_each(free);
    let report = sim.report();
    assert_eq!(report.violation_count, 1, "{report}");
    assert_eq!(report.violations[0].rule, &POOL_USE_AFTER_FREE);
    assert_eq!(report.violations[0].api, "ExFreePoolWithTag", "seen on eviction, not by the report");
}

#[test]
fn without_quarantine_nothing_is_kept() {
    let sim = boot(Config { quarantine: 0, ..Config::default() });
    let block = allocate(8);
    free(block);
    free(block);
    expect(&sim, &[&POOL_INVALID_FREE]);
}

#[test]
fn blocks_may_be_freed_on_another_thread_than_they_were_allocated_on() {
    let sim = machine();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..if cfg!(miri) { 1 } else { 50 } {
                    let addresses: Vec<usize> =
                        (1..40).map(|size| allocate(size * 7).expose_provenance()).collect();
                    std::thread::scope(|inner| {
                        inner.spawn(move || {
                            for address in addresses {
                                free(std::ptr::with_exposed_provenance_mut(address));
                            }
                        });
                    });
                }
            });
        }
    });
    expect_clean(&sim);
}
