//! Spin lock discipline.

use ntsim::irql::raise_scope;
use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, KeLowerIrql, KeRaiseIrqlToDpcLevel, POOL_FLAG_NON_PAGED,
};
use ntsim::verify::rule::{
    IRQL_TOO_HIGH, LOCK_DEPTH, LOCK_FREED, LOCK_HELD_BLOCKING, LOCK_HELD_LOWERING, LOCK_IRQL, LOCK_NOT_HELD,
    LOCK_ORDER, LOCK_RECURSION,
};
use ntsim::verify::{lock_acquired, lock_acquiring, lock_released};

use crate::{TAG, event, expect, expect_clean, machine, wait};

fn take(address: usize, name: &'static str) {
    lock_acquiring(address, name);
    lock_acquired(address, name);
}

fn nested(locks: [(usize, &'static str); 2]) {
    let _raised = raise_scope();
    for (address, name) in locks {
        take(address, name);
    }
    for (address, _) in locks.into_iter().rev() {
        lock_released(address);
    }
}

#[test]
fn locks_taken_in_one_order_report_nothing() {
    let sim = machine();
    for _ in 0..3 {
        nested([(1, "a"), (2, "b")]);
        nested([(2, "b"), (3, "c")]);
        nested([(1, "a"), (3, "c")]);
    }
    expect_clean(&sim);
}

#[test]
fn a_lock_may_be_released_before_one_taken_after_it() {
    let sim = machine();
    let raised = raise_scope();
    take(1, "a");
    take(2, "b");
    lock_released(1);
    lock_released(2);
    drop(raised);
    expect_clean(&sim);
}

#[test]
fn two_locks_in_both_orders_are_seen_across_threads() {
    let sim = machine();
    nested([(1, "a"), (2, "b")]);
    // Other instances of the same two locks: the order is one of names.
    std::thread::scope(|scope| {
        scope.spawn(|| nested([(20, "b"), (10, "a")]));
    });
    expect(&sim, &[&LOCK_ORDER]);
    nested([(2, "b"), (1, "a")]);
    expect(&sim, &[&LOCK_ORDER]);
}

#[test]
fn a_circle_of_three_is_seen() {
    let sim = machine();
    nested([(1, "a"), (2, "b")]);
    nested([(2, "b"), (3, "c")]);
    expect_clean(&sim);
    nested([(3, "c"), (1, "a")]);
    expect(&sim, &[&LOCK_ORDER]);
}

#[test]
fn locks_of_one_name_are_ordered_by_instance() {
    let sim = machine();
    nested([(1, "flow"), (2, "flow")]);
    nested([(2, "flow"), (3, "flow")]);
    expect_clean(&sim);
    nested([(2, "flow"), (1, "flow")]);
    expect(&sim, &[&LOCK_ORDER]);
}

#[test]
fn order_is_forgotten_with_the_machine() {
    let sim = machine();
    nested([(1, "a"), (2, "b")]);
    drop(sim);
    let sim = machine();
    nested([(2, "b"), (1, "a")]);
    expect_clean(&sim);
    nested([(1, "a"), (2, "b")]);
    expect(&sim, &[&LOCK_ORDER]);
}

#[test]
fn a_lock_is_not_taken_twice_by_one_thread() {
    let sim = machine();
    let raised = raise_scope();
    take(1, "a");
    lock_acquiring(1, "a");
    lock_released(1);
    lock_acquiring(1, "a");
    drop(raised);
    expect(&sim, &[&LOCK_RECURSION]);
}

#[test]
fn a_lock_is_taken_at_dispatch_level() {
    let sim = machine();
    take(1, "a");
    lock_released(1);
    expect(&sim, &[&LOCK_IRQL]);
}

#[test]
fn a_lock_is_released_by_its_holder() {
    let sim = machine();
    let raised = raise_scope();
    lock_released(1);
    take(1, "a");
    std::thread::scope(|scope| {
        scope.spawn(|| lock_released(1));
    });
    lock_released(1);
    drop(raised);
    expect(&sim, &[&LOCK_NOT_HELD, &LOCK_NOT_HELD]);
}

#[test]
fn irql_is_not_lowered_under_a_lock() {
    let sim = machine();
    let old = unsafe { KeRaiseIrqlToDpcLevel() };
    take(1, "a");
    unsafe { KeLowerIrql(old) };
    lock_released(1);
    expect(&sim, &[&LOCK_HELD_LOWERING]);
}

#[test]
fn a_thread_does_not_block_under_a_lock() {
    let sim = machine();
    let event = event(false, true);
    let raised = raise_scope();
    take(1, "a");
    wait(event.get(), None);
    wait(event.get(), Some(0));
    lock_released(1);
    drop(raised);
    expect(&sim, &[&IRQL_TOO_HIGH, &LOCK_HELD_BLOCKING]);
    assert!(sim.report().violations[1].detail.contains("holding a"));
}

#[test]
fn memory_is_not_freed_around_a_lock_that_is_held() {
    let sim = machine();
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 64, TAG) };
    let raised = raise_scope();
    take(block.addr() + 8, "inside");
    unsafe { ExFreePoolWithTag(block, TAG) };
    lock_released(block.addr() + 8);
    drop(raised);
    expect(&sim, &[&LOCK_FREED]);
}

#[test]
fn a_thread_holds_a_bounded_number_of_locks() {
    let sim = machine();
    let raised = raise_scope();
    for address in 0..17 {
        take(address, "many");
    }
    for address in (0..16).rev() {
        lock_released(address);
    }
    drop(raised);
    expect(&sim, &[&LOCK_DEPTH]);
}
