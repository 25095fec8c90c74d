//! Bug checks, and what drivers add to a dump.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use ntsim::bugcheck::bug_check;
use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, GUID, HIGH_LEVEL, KBUGCHECK_REASON_CALLBACK_RECORD,
    KBUGCHECK_SECONDARY_DUMP_DATA, KbCallbackSecondaryDumpData, KeDeregisterBugCheckReasonCallback,
    KeRegisterBugCheckReasonCallback, NTSTATUS, PDRIVER_OBJECT, POOL_FLAG_NON_PAGED, PUNICODE_STRING,
    STATUS_SUCCESS,
};
use ntsim::verify::rule::{BUGCHECK_RECORD, BUGCHECK_TOO_LONG, DRIVER_LEFT_BUGCHECK, IRQL_TOO_HIGH};

use crate::{TAG, expect, expect_clean, machine};

const RECORD: usize = size_of::<KBUGCHECK_REASON_CALLBACK_RECORD>();

/// What the callbacks below do beside answering with 8 bytes.
static MODE: AtomicU32 = AtomicU32::new(0);
const PLAIN: u32 = 0;
const ALLOCATES: u32 = 1;
const TOO_MUCH: u32 = 2;
const STAYS: u32 = 3;
static BLOCK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" fn callback(
    _reason: i32,
    record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    data: *mut c_void,
    _length: u32,
) {
    assert_eq!(ntsim::irql::current(), HIGH_LEVEL);
    let data = unsafe { &mut *data.cast::<KBUGCHECK_SECONDARY_DUMP_DATA>() };
    data.Guid = GUID { Data1: 7, Data2: 0, Data3: 0, Data4: [0; 8] };
    data.OutBuffer = unsafe { record.add(1) }.cast();
    data.OutBufferLength = 8;
    match MODE.load(Ordering::SeqCst) {
        ALLOCATES => _ = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, TAG) },
        TOO_MUCH => data.OutBufferLength = data.MaximumAllowed + 1,
        _ => {}
    }
}

unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, RECORD + 8, TAG) };
    BLOCK.store(block, Ordering::SeqCst);
    let name = c"sample".as_ptr().cast_mut().cast();
    let register = || unsafe {
        KeRegisterBugCheckReasonCallback(block.cast(), Some(callback), KbCallbackSecondaryDumpData, name)
    };
    assert_eq!(register(), 1);
    unsafe { (*driver).DriverUnload = Some(unload) };
    STATUS_SUCCESS
}

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
    let block = BLOCK.load(Ordering::SeqCst);
    if MODE.load(Ordering::SeqCst) != STAYS {
        assert_eq!(unsafe { KeDeregisterBugCheckReasonCallback(block.cast()) }, 1);
        assert_eq!(unsafe { KeDeregisterBugCheckReasonCallback(block.cast()) }, 0, "it is gone");
    }
    unsafe { ExFreePoolWithTag(block, TAG) };
}

#[test]
fn what_a_driver_adds_is_in_the_dump() {
    let sim = machine();
    MODE.store(PLAIN, Ordering::SeqCst);
    let driver = sim.load_driver("sample", entry).unwrap();
    let blocks = bug_check(100);
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].component.as_str(), &blocks[0].data[..]), ("sample", &[0; 8][..]));
    driver.unload();
    assert!(bug_check(100).is_empty());
    expect_clean(&sim);
}

#[test]
fn a_callback_that_does_what_it_must_not_is_a_violation() {
    for (mode, rules) in [
        (ALLOCATES, &[&IRQL_TOO_HIGH, &IRQL_TOO_HIGH][..]),
        (TOO_MUCH, &[&BUGCHECK_TOO_LONG][..]),
        (STAYS, &[&DRIVER_LEFT_BUGCHECK][..]),
    ] {
        let sim = machine();
        MODE.store(mode, Ordering::SeqCst);
        let driver = sim.load_driver("sample", entry).unwrap();
        bug_check(100);
        driver.unload();
        expect(&sim, rules);
    }
}

#[test]
fn a_record_is_registered_once() {
    let sim = machine();
    MODE.store(PLAIN, Ordering::SeqCst);
    let driver = sim.load_driver("sample", entry).unwrap();
    let block = BLOCK.load(Ordering::SeqCst);
    let again = unsafe {
        KeRegisterBugCheckReasonCallback(
            block.cast(),
            Some(callback),
            KbCallbackSecondaryDumpData,
            ptr::null_mut(),
        )
    };
    assert_eq!(again, 0);
    driver.unload();
    expect(&sim, &[&BUGCHECK_RECORD]);
}
