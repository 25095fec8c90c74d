//! Rundown protection.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ntsim::sys::nt::{
    EX_RUNDOWN_REF, ExAcquireRundownProtection, ExInitializeRundownProtection,
    ExReInitializeRundownProtection, ExReleaseRundownProtection, ExRundownCompleted,
    ExWaitForRundownProtectionRelease, FALSE, TRUE,
};
use ntsim::verify::rule::{IRQL_TOO_HIGH, RUNDOWN_HANGS, RUNDOWN_RELEASE, RUNDOWN_STATE};
use ntsim::{Config, boot, irql};

use crate::{expect, expect_clean, machine};

struct Rundown(Box<EX_RUNDOWN_REF>);
unsafe impl Sync for Rundown {}

impl Rundown {
    fn new() -> Self {
        let mut rundown = Box::new(EX_RUNDOWN_REF { Count: 77 });
        unsafe { ExInitializeRundownProtection(&raw mut *rundown) };
        Self(rundown)
    }

    fn get(&self) -> *mut EX_RUNDOWN_REF {
        ptr::from_ref(&*self.0).cast_mut()
    }
}

#[test]
fn rundown_waits_for_the_last_holder_and_admits_no_other() {
    let sim = machine();
    let rundown = Rundown::new();
    let released = AtomicBool::new(false);
    assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, TRUE);
    assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, TRUE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unsafe { ExWaitForRundownProtectionRelease(rundown.get()) };
            assert!(released.load(Ordering::SeqCst));
        });
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, FALSE);
        let raised = irql::raise_scope();
        unsafe { ExReleaseRundownProtection(rundown.get()) };
        released.store(true, Ordering::SeqCst);
        unsafe { ExReleaseRundownProtection(rundown.get()) };
        drop(raised);
    });
    unsafe { ExWaitForRundownProtectionRelease(rundown.get()) };
    unsafe { ExRundownCompleted(rundown.get()) };
    assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, FALSE);
    unsafe { ExReInitializeRundownProtection(rundown.get()) };
    assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, TRUE);
    unsafe { ExReleaseRundownProtection(rundown.get()) };
    expect_clean(&sim);
}

#[test]
fn protection_is_released_as_often_as_acquired() {
    let sim = machine();
    let rundown = Rundown::new();
    unsafe { ExReleaseRundownProtection(rundown.get()) };
    unsafe { ExWaitForRundownProtectionRelease(rundown.get()) };
    unsafe { ExReleaseRundownProtection(rundown.get()) };
    expect(&sim, &[&RUNDOWN_RELEASE, &RUNDOWN_RELEASE]);
}

#[test]
fn only_what_is_run_down_is_initialised_again() {
    let sim = machine();
    let rundown = Rundown::new();
    unsafe { ExReInitializeRundownProtection(rundown.get()) };
    unsafe { ExRundownCompleted(rundown.get()) };
    expect(&sim, &[&RUNDOWN_STATE, &RUNDOWN_STATE]);
}

#[test]
fn rundown_is_not_waited_for_at_dispatch_level() {
    let sim = machine();
    let rundown = Rundown::new();
    let raised = irql::raise_scope();
    unsafe { ExWaitForRundownProtectionRelease(rundown.get()) };
    drop(raised);
    expect(&sim, &[&IRQL_TOO_HIGH]);
}

#[test]
fn protection_that_is_never_released_is_reported() {
    let sim = boot(Config { hang_after: Duration::from_millis(50), ..Config::default() });
    let rundown = Rundown::new();
    assert_eq!(unsafe { ExAcquireRundownProtection(rundown.get()) }, TRUE);
    std::thread::scope(|scope| {
        scope.spawn(|| unsafe { ExWaitForRundownProtectionRelease(rundown.get()) });
        while sim.report().violation_count == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        unsafe { ExReleaseRundownProtection(rundown.get()) };
    });
    expect(&sim, &[&RUNDOWN_HANGS]);
}
