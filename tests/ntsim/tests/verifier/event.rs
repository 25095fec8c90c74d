//! Events and waits.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, Executive, FALSE, KEVENT, KWAIT_BLOCK, KeClearEvent,
    KeDelayExecutionThread, KeInitializeEvent, KeReadStateEvent, KeResetEvent, KeSetEvent,
    KeWaitForMultipleObjects, KernelMode, NTSTATUS, NotificationEvent, POOL_FLAG_NON_PAGED, PVOID,
    STATUS_INVALID_PARAMETER, STATUS_SUCCESS, STATUS_TIMEOUT, TRUE, WaitAll, WaitAny,
};
use ntsim::verify::rule::{
    IRQL_TOO_HIGH, OBJECT_FREED, OBJECT_NOT_INITIALISED, OBJECT_REINITIALISED, WAIT_ARGUMENTS,
};
use ntsim::{Clock, Config, boot, irql};

use crate::{Event, TAG, event, expect, expect_clean, machine, relative_ms, wait};

fn set(event: &Event) -> i32 {
    unsafe { KeSetEvent(event.get(), 0, FALSE) }
}

fn read(event: &Event) -> i32 {
    unsafe { KeReadStateEvent(event.get()) }
}

#[test]
fn a_notification_event_stays_set_and_a_synchronisation_event_is_taken() {
    let sim = machine();
    for (synchronization, left) in [(false, 1), (true, 0)] {
        let event = event(synchronization, false);
        assert_eq!(set(&event), 0);
        assert_eq!(set(&event), 1);
        assert_eq!(wait(event.get(), None), STATUS_SUCCESS);
        assert_eq!(read(&event), left);
        unsafe { KeClearEvent(event.get()) };
        assert_eq!(unsafe { KeResetEvent(event.get()) }, 0);
        assert_eq!(wait(event.get(), Some(0)), STATUS_TIMEOUT);
    }
    expect_clean(&sim);
}

#[test]
fn a_wait_ends_at_its_timeout() {
    let sim = machine();
    let event = event(false, false);
    let began = Instant::now();
    assert_eq!(wait(event.get(), Some(-200_000)), STATUS_TIMEOUT);
    assert!(began.elapsed() >= Duration::from_millis(20));
    let absolute = i64::try_from(ntsim::clock::system_time()).unwrap() + 200_000;
    let began = Instant::now();
    assert_eq!(wait(event.get(), Some(absolute)), STATUS_TIMEOUT);
    assert!(began.elapsed() >= Duration::from_millis(15));
    assert_eq!(wait(event.get(), Some(1)), STATUS_TIMEOUT, "a time in the past");
    let mut interval = relative_ms(10);
    let began = Instant::now();
    assert_eq!(unsafe { KeDelayExecutionThread(KernelMode, FALSE, &raw mut interval) }, STATUS_SUCCESS);
    assert!(began.elapsed() >= Duration::from_millis(10));
    expect_clean(&sim);
}

#[test]
fn a_synchronisation_event_releases_one_waiter_and_a_notification_event_all() {
    let sim = machine();
    for (synchronization, sets) in [(true, 3), (false, 1)] {
        let event = event(synchronization, false);
        let woken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    assert_eq!(wait(event.get(), None), STATUS_SUCCESS);
                    woken.fetch_add(1, Ordering::SeqCst);
                });
            }
            for count in 1..=sets {
                std::thread::sleep(Duration::from_millis(20));
                set(&event);
                std::thread::sleep(Duration::from_millis(20));
                if synchronization {
                    assert_eq!(woken.load(Ordering::SeqCst), count);
                }
            }
        });
        assert_eq!(woken.load(Ordering::SeqCst), 3);
    }
    expect_clean(&sim);
}

#[test]
fn an_event_that_is_set_and_reset_at_once_still_releases_its_waiter() {
    let sim = machine();
    let event = event(false, false);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(wait(event.get(), None), STATUS_SUCCESS);
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(30));
        set(&event);
        unsafe { KeResetEvent(event.get()) };
    });
    assert!(done.load(Ordering::SeqCst));
    expect_clean(&sim);
}

fn wait_multiple(events: &[&Event], all: bool, timeout_ms: i64) -> NTSTATUS {
    let mut objects: Vec<PVOID> = events.iter().map(|event| event.get().cast()).collect();
    let mut timeout = relative_ms(timeout_ms);
    let mut blocks: Vec<KWAIT_BLOCK> = vec![unsafe { std::mem::zeroed() }; events.len()];
    let blocks = if events.len() > 3 { blocks.as_mut_ptr() } else { ptr::null_mut() };
    unsafe {
        KeWaitForMultipleObjects(
            u32::try_from(events.len()).unwrap(),
            objects.as_mut_ptr(),
            if all { WaitAll } else { WaitAny },
            Executive,
            KernelMode,
            FALSE,
            &raw mut timeout,
            blocks,
        )
    }
}

#[test]
fn waiting_for_any_tells_which_and_takes_only_that() {
    let sim = machine();
    let (first, second, third) = (event(true, false), event(true, true), event(true, true));
    assert_eq!(wait_multiple(&[&first, &second, &third], false, 10), 1);
    assert_eq!((read(&second), read(&third)), (0, 1));
    assert_eq!(wait_multiple(&[&first, &second, &third, &first], false, 10), 2);
    assert_eq!(wait_multiple(&[&first, &second, &third], false, 10), STATUS_TIMEOUT);
    expect_clean(&sim);
}

#[test]
fn waiting_for_all_takes_all_or_none() {
    let sim = machine();
    let (first, second) = (event(true, true), event(true, false));
    assert_eq!(wait_multiple(&[&first, &second], true, 10), STATUS_TIMEOUT);
    assert_eq!(read(&first), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(wait_multiple(&[&first, &second], true, 60_000), STATUS_SUCCESS);
        });
        std::thread::sleep(Duration::from_millis(20));
        set(&second);
    });
    assert_eq!((read(&first), read(&second)), (0, 0));
    expect_clean(&sim);
}

#[test]
fn too_many_objects_are_refused() {
    let sim = machine();
    let event = event(false, true);
    let mut objects: Vec<PVOID> = vec![event.get().cast(); 65];
    let mut blocks: Vec<KWAIT_BLOCK> = vec![unsafe { std::mem::zeroed() }; 65];
    let mut refused = |count, blocks| unsafe {
        KeWaitForMultipleObjects(
            count,
            objects.as_mut_ptr(),
            WaitAny,
            Executive,
            KernelMode,
            FALSE,
            ptr::null_mut(),
            blocks,
        )
    };
    assert_eq!(refused(4, ptr::null_mut()), STATUS_INVALID_PARAMETER);
    assert_eq!(refused(65, blocks.as_mut_ptr()), STATUS_INVALID_PARAMETER);
    assert_eq!(refused(0, ptr::null_mut()), STATUS_INVALID_PARAMETER);
    expect(&sim, &[&WAIT_ARGUMENTS; 3]);
}

#[test]
fn a_thread_blocks_below_dispatch_level_only() {
    let sim = machine();
    let event = event(false, true);
    let raised = irql::raise_scope();
    assert_eq!(wait(event.get(), Some(0)), STATUS_SUCCESS);
    assert_eq!(set(&event), 1);
    expect_clean(&sim);
    wait(event.get(), None);
    wait(event.get(), Some(-1));
    unsafe { KeSetEvent(event.get(), 0, TRUE) };
    let mut interval = relative_ms(1);
    unsafe { KeDelayExecutionThread(KernelMode, FALSE, &raw mut interval) };
    drop(raised);
    let report = sim.report();
    let apis: Vec<_> = report.violations.iter().map(|violation| violation.api).collect();
    assert!(report.violations.iter().all(|violation| violation.rule == &IRQL_TOO_HIGH), "{report}");
    assert_eq!(
        apis,
        [
            "KeWaitForSingleObject",
            "KeWaitForSingleObject",
            "KeSetEvent",
            "KeDelayExecutionThread",
            "KeDelayExecutionThread"
        ]
    );
}

#[test]
fn an_event_that_was_moved_or_never_initialised_is_seen() {
    let sim = machine();
    let zeroed: Box<KEVENT> = unsafe { Box::new(std::mem::zeroed()) };
    assert_eq!(wait(&raw const *zeroed, None), STATUS_INVALID_PARAMETER);
    let original = event(false, true);
    let moved = Event(Box::new(unsafe { original.get().read() }.into()));
    assert_eq!(set(&moved), 0);
    assert_eq!(wait(ptr::null::<KEVENT>(), None), STATUS_INVALID_PARAMETER);
    let block: *mut KEVENT = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, size_of::<KEVENT>(), TAG) }.cast();
    unsafe { KeInitializeEvent(block, NotificationEvent, FALSE) };
    unsafe { ExFreePoolWithTag(block.cast(), TAG) };
    unsafe { KeSetEvent(block, 0, FALSE) };
    expect(&sim, &[&OBJECT_NOT_INITIALISED; 4]);
}

#[test]
fn an_event_is_not_freed_or_initialised_under_its_waiter() {
    let sim = machine();
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 256, TAG) }.expose_provenance();
    let event: *mut KEVENT = ptr::with_exposed_provenance_mut(block + 64);
    unsafe { KeInitializeEvent(event, NotificationEvent, FALSE) };
    let address = event.expose_provenance();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let event: *const KEVENT = ptr::with_exposed_provenance(address);
            assert_eq!(wait(event, Some(-50_000_000)), STATUS_SUCCESS);
        });
        std::thread::sleep(Duration::from_millis(30));
        unsafe { KeInitializeEvent(event, NotificationEvent, FALSE) };
        expect(&sim, &[&OBJECT_REINITIALISED]);
        unsafe { KeSetEvent(event, 0, FALSE) };
    });
    unsafe { KeResetEvent(event) };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let event: *const KEVENT = ptr::with_exposed_provenance(address);
            assert_eq!(wait(event, Some(-1_000_000)), STATUS_TIMEOUT);
        });
        std::thread::sleep(Duration::from_millis(30));
        unsafe { ExFreePoolWithTag(ptr::with_exposed_provenance_mut(block), TAG) };
        expect(&sim, &[&OBJECT_REINITIALISED, &OBJECT_FREED]);
    });
}

#[test]
fn under_a_virtual_clock_a_wait_ends_when_the_clock_is_moved_past_it() {
    let sim = boot(Config { clock: Clock::Virtual, ..Config::default() });
    let event = event(false, false);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(wait(event.get(), Some(-10_000_000_000)), STATUS_TIMEOUT);
            ended.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(30));
        sim.advance(Duration::from_secs(999));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!ended.load(Ordering::SeqCst));
        sim.advance(Duration::from_secs(1));
    });
    assert!(ended.load(Ordering::SeqCst));
    assert_eq!(ntsim::clock::now(), 10_000_000_000);
    expect_clean(&sim);
}
