//! Timers and DPCs.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, FALSE, KDPC, KTIMER, KeCancelTimer, KeFlushQueuedDpcs,
    KeInitializeDpc, KeInitializeTimer, KeInitializeTimerEx, KeInsertQueueDpc, KeQueryInterruptTime,
    KeQueryPerformanceCounter, KeQuerySystemTimePrecise, KeRemoveQueueDpc, KeSetTimer, KeSetTimerEx,
    LARGE_INTEGER, PKDPC, POOL_FLAG_NON_PAGED, PVOID, STATUS_SUCCESS, STATUS_TIMEOUT, SynchronizationTimer,
    TRUE,
};
use ntsim::verify::rule::{
    DPC_ROUTINE, IRQL_NOT_RESTORED, IRQL_TOO_HIGH, OBJECT_FREED, OBJECT_NOT_INITIALISED, TIMER_STILL_SET,
};
use ntsim::{Clock, Config, Sim, boot, irql};

use crate::{TAG, expect, expect_clean, held, machine, relative_ms, wait};

unsafe extern "C" fn count(_dpc: PKDPC, context: PVOID, _first: PVOID, _second: PVOID) {
    assert_eq!(irql::current(), 2);
    unsafe { &*context.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

struct Parts {
    timer: KTIMER,
    dpc: KDPC,
    runs: AtomicU32,
}

fn parts(synchronization: bool) -> Box<Parts> {
    let mut parts: Box<Parts> = unsafe { Box::new(std::mem::zeroed()) };
    if synchronization {
        unsafe { KeInitializeTimerEx(&raw mut parts.timer, SynchronizationTimer) };
    } else {
        unsafe { KeInitializeTimer(&raw mut parts.timer) };
    }
    let runs = (&raw mut parts.runs).cast();
    unsafe { KeInitializeDpc(&raw mut parts.dpc, Some(count), runs) };
    parts
}

fn virtual_machine() -> Sim {
    boot(Config { clock: Clock::Virtual, ..Config::default() })
}

#[test]
fn a_timer_expires_once_and_runs_its_dpc() {
    let sim = machine();
    let mut parts = parts(false);
    let began = Instant::now();
    assert_eq!(unsafe { KeSetTimer(&raw mut parts.timer, relative_ms(20), &raw mut parts.dpc) }, FALSE);
    assert_eq!(held(&sim), ["timer that is set"]);
    assert_eq!(wait(&raw const parts.timer, None), STATUS_SUCCESS);
    assert!(began.elapsed() >= Duration::from_millis(20));
    unsafe { KeFlushQueuedDpcs() };
    assert_eq!(parts.runs.load(Ordering::SeqCst), 1);
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_SUCCESS, "a notification timer stays signalled");
    assert_eq!(unsafe { KeCancelTimer(&raw mut parts.timer) }, FALSE);
    expect_clean(&sim);
}

#[test]
fn a_timer_can_be_set_again_and_cancelled() {
    let sim = virtual_machine();
    let mut parts = parts(true);
    unsafe { KeSetTimer(&raw mut parts.timer, relative_ms(10), &raw mut parts.dpc) };
    assert_eq!(unsafe { KeSetTimer(&raw mut parts.timer, relative_ms(50), &raw mut parts.dpc) }, TRUE);
    sim.advance(Duration::from_millis(49));
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_TIMEOUT);
    sim.advance(Duration::from_millis(1));
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_SUCCESS);
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_TIMEOUT, "a synchronisation timer is taken");
    assert_eq!(parts.runs.load(Ordering::SeqCst), 1);
    unsafe { KeSetTimer(&raw mut parts.timer, relative_ms(10), ptr::null_mut()) };
    assert_eq!(unsafe { KeCancelTimer(&raw mut parts.timer) }, TRUE);
    sim.advance(Duration::from_secs(1));
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_TIMEOUT);
    unsafe { KeSetTimer(&raw mut parts.timer, relative_ms(0), ptr::null_mut()) };
    assert_eq!(wait(&raw const parts.timer, Some(0)), STATUS_SUCCESS, "due at once");
    expect_clean(&sim);
}

#[test]
fn a_periodic_timer_runs_its_dpc_each_period_until_cancelled() {
    let sim = virtual_machine();
    let mut parts = parts(true);
    unsafe { KeSetTimerEx(&raw mut parts.timer, relative_ms(5), 10, &raw mut parts.dpc) };
    sim.advance(Duration::from_millis(36));
    assert_eq!(parts.runs.load(Ordering::SeqCst), 4, "at 5, 15, 25 and 35 ms");
    assert_eq!(unsafe { KeCancelTimer(&raw mut parts.timer) }, TRUE);
    sim.advance(Duration::from_secs(1));
    assert_eq!(parts.runs.load(Ordering::SeqCst), 4);
    expect_clean(&sim);
}

#[test]
fn a_dpc_is_queued_once_at_a_time_and_flushed() {
    unsafe extern "C" fn slow(dpc: PKDPC, context: PVOID, first: PVOID, second: PVOID) {
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!((first.addr(), second.addr()), (1, 2));
        unsafe { count(dpc, context, first, second) };
    }
    let sim = machine();
    let mut parts = parts(false);
    let runs: PVOID = (&raw mut parts.runs).cast();
    let mut others: Vec<KDPC> = vec![parts.dpc; 3];
    for dpc in &mut others {
        unsafe { KeInitializeDpc(dpc, Some(slow), runs) };
    }
    let queue = |dpc: *mut KDPC| unsafe { KeInsertQueueDpc(dpc, 1 as PVOID, 2 as PVOID) };
    let raised = irql::raise_scope();
    // Two DPCs at a time: the third is still in the queue.
    let dpcs: Vec<*mut KDPC> = others.iter_mut().map(ptr::from_mut).collect();
    assert!(dpcs.iter().all(|&dpc| queue(dpc) == TRUE));
    assert_eq!(queue(dpcs[2]), FALSE);
    drop(raised);
    unsafe { KeFlushQueuedDpcs() };
    assert_eq!(parts.runs.load(Ordering::SeqCst), 3);
    assert_eq!(unsafe { KeRemoveQueueDpc(dpcs[0]) }, FALSE);
    expect_clean(&sim);
}

#[test]
fn a_dpc_that_was_not_initialised_is_not_queued() {
    let sim = machine();
    let mut zeroed: KDPC = unsafe { std::mem::zeroed() };
    assert_eq!(unsafe { KeInsertQueueDpc(&raw mut zeroed, ptr::null_mut(), ptr::null_mut()) }, FALSE);
    expect(&sim, &[&DPC_ROUTINE]);
}

#[test]
fn a_dpc_returns_at_dispatch_level() {
    unsafe extern "C" fn lowers(_dpc: PKDPC, _context: PVOID, _first: PVOID, _second: PVOID) {
        unsafe { ntsim::sys::nt::KeLowerIrql(0) };
    }
    let sim = machine();
    let mut dpc: KDPC = unsafe { std::mem::zeroed() };
    unsafe { KeInitializeDpc(&raw mut dpc, Some(lowers), ptr::null_mut()) };
    unsafe { KeInsertQueueDpc(&raw mut dpc, ptr::null_mut(), ptr::null_mut()) };
    unsafe { KeFlushQueuedDpcs() };
    expect(&sim, &[&IRQL_NOT_RESTORED]);
}

#[test]
fn dpcs_are_flushed_at_passive_level() {
    let sim = machine();
    let raised = irql::raise_scope();
    unsafe { KeFlushQueuedDpcs() };
    drop(raised);
    expect(&sim, &[&IRQL_TOO_HIGH]);
}

#[test]
fn a_timer_is_not_initialised_or_freed_while_it_is_set() {
    let sim = virtual_machine();
    let block: *mut KTIMER = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, size_of::<KTIMER>(), TAG) }.cast();
    unsafe { KeSetTimer(block, relative_ms(10), ptr::null_mut()) };
    unsafe { KeInitializeTimer(block) };
    unsafe { KeSetTimer(block, relative_ms(10), ptr::null_mut()) };
    unsafe { KeInitializeTimer(block) };
    unsafe { KeSetTimer(block, relative_ms(10), ptr::null_mut()) };
    unsafe { ExFreePoolWithTag(block.cast(), TAG) };
    sim.advance(Duration::from_secs(1));
    expect(&sim, &[&OBJECT_NOT_INITIALISED, &TIMER_STILL_SET, &OBJECT_FREED]);
    assert!(held(&sim).is_empty());
}

#[test]
fn time_goes_forward_in_100_ns_units() {
    let sim = machine();
    let mut frequency = LARGE_INTEGER { QuadPart: 0 };
    let ticks = |frequency: *mut LARGE_INTEGER| unsafe { KeQueryPerformanceCounter(frequency).QuadPart };
    let (interrupt, counter) = (unsafe { KeQueryInterruptTime() }, ticks(&raw mut frequency));
    std::thread::sleep(Duration::from_millis(20));
    assert!(unsafe { KeQueryInterruptTime() } - interrupt >= 200_000);
    assert!(ticks(ptr::null_mut()) - counter >= 200_000);
    assert_eq!(unsafe { frequency.QuadPart }, 10_000_000);
    let mut time = LARGE_INTEGER { QuadPart: 0 };
    unsafe { KeQuerySystemTimePrecise(&raw mut time) };
    // 2020-01-01 in system time.
    assert!(unsafe { time.QuadPart } > 132_223_104_000_000_000);
    drop(sim);
    let sim = virtual_machine();
    assert_eq!(unsafe { KeQueryInterruptTime() }, 0);
    sim.advance(Duration::from_micros(5));
    assert_eq!(unsafe { KeQueryInterruptTime() }, 50);
}
