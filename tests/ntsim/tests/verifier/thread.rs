//! System threads, handles, references.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, HANDLE, KernelMode, ObReferenceObject, ObReferenceObjectByHandle,
    ObfDereferenceObject, ObfReferenceObject, POOL_FLAG_NON_PAGED, PVOID, PsCreateSystemThread,
    PsTerminateSystemThread, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_SUCCESS,
    THREAD_ALL_ACCESS, ZwClose, ZwWaitForSingleObject,
};
use ntsim::verify::rule::{
    AFTER_TERMINATE, HANDLE_INVALID, IRQL_NOT_RESTORED, OBJECT_REFERENCE, THREAD_NOT_SYSTEM, THREAD_START,
};

use crate::{TAG, event, expect, expect_clean, held, machine, wait};

fn create(start: unsafe extern "C" fn(PVOID), context: PVOID) -> HANDLE {
    let mut handle = ptr::null_mut();
    let null = ptr::null_mut();
    let status = unsafe {
        PsCreateSystemThread(
            &raw mut handle,
            THREAD_ALL_ACCESS,
            ptr::null_mut(),
            null,
            ptr::null_mut(),
            Some(start),
            context,
        )
    };
    assert_eq!(status, STATUS_SUCCESS);
    handle
}

fn reference(handle: HANDLE) -> PVOID {
    let mut object = ptr::null_mut();
    let status = unsafe {
        ObReferenceObjectByHandle(
            handle,
            THREAD_ALL_ACCESS,
            ptr::null_mut(),
            KernelMode,
            &raw mut object,
            ptr::null_mut(),
        )
    };
    assert_eq!(status, STATUS_SUCCESS);
    object
}

unsafe extern "C" fn count(context: PVOID) {
    let counter = unsafe { &*context.cast::<AtomicU32>() };
    std::thread::sleep(std::time::Duration::from_millis(20));
    counter.fetch_add(1, Ordering::SeqCst);
    assert_eq!(unsafe { PsTerminateSystemThread(STATUS_SUCCESS) }, STATUS_SUCCESS);
}

#[test]
fn waiting_on_a_thread_object_waits_for_the_thread() {
    let sim = machine();
    let counter = AtomicU32::new(0);
    let context: *mut c_void = ptr::from_ref(&counter).cast_mut().cast();
    let handle = create(count, context);
    let object = reference(handle);
    assert_eq!(unsafe { ZwClose(handle) }, STATUS_SUCCESS);
    assert_eq!(wait(object.cast_const(), None), STATUS_SUCCESS);
    assert_eq!(counter.load(Ordering::SeqCst), 1);
    assert_eq!(wait(object.cast_const(), Some(0)), STATUS_SUCCESS, "a thread stays signalled");
    unsafe { ObfDereferenceObject(object) };

    let handle = create(count, context);
    assert_eq!(unsafe { ZwWaitForSingleObject(handle, 0, ptr::null_mut()) }, STATUS_SUCCESS);
    assert_eq!(counter.load(Ordering::SeqCst), 2);
    unsafe { ZwClose(handle) };
    expect_clean(&sim);
}

#[test]
fn handles_references_and_running_threads_are_held() {
    unsafe extern "C" fn wait_for(context: PVOID) {
        wait(context.cast_const(), None);
    }
    let sim = machine();
    let go = event(false, false);
    let handle = create(wait_for, go.get().cast());
    assert_eq!(held(&sim), ["running thread", "thread handle"]);
    let object = reference(handle);
    unsafe { ObReferenceObject(object) };
    unsafe { ObfReferenceObject(object) };
    unsafe { ZwClose(handle) };
    assert_eq!(held(&sim), ["running thread", "thread reference"]);
    unsafe { ntsim::sys::nt::KeSetEvent(go.get(), 0, 0) };
    wait(object.cast_const(), None);
    unsafe { ObfDereferenceObject(object) };
    unsafe { ObfDereferenceObject(object) };
    assert_eq!(held(&sim), ["thread reference"]);
    unsafe { ObfDereferenceObject(object) };
    expect_clean(&sim);
}

#[test]
fn a_handle_is_closed_once() {
    let sim = machine();
    let counter = AtomicU32::new(0);
    let handle = create(count, ptr::from_ref(&counter).cast_mut().cast());
    unsafe { ZwWaitForSingleObject(handle, 0, ptr::null_mut()) };
    unsafe { ZwClose(handle) };
    assert_eq!(unsafe { ZwClose(handle) }, STATUS_INVALID_HANDLE);
    let mut object = ptr::null_mut();
    let status = unsafe {
        ObReferenceObjectByHandle(handle, 0, ptr::null_mut(), KernelMode, &raw mut object, ptr::null_mut())
    };
    assert_eq!(status, STATUS_INVALID_HANDLE);
    expect(&sim, &[&HANDLE_INVALID, &HANDLE_INVALID]);
}

#[test]
fn an_object_is_dereferenced_as_often_as_referenced() {
    let sim = machine();
    let counter = AtomicU32::new(0);
    let handle = create(count, ptr::from_ref(&counter).cast_mut().cast());
    let object = reference(handle);
    wait(object.cast_const(), None);
    unsafe { ObfDereferenceObject(object) };
    unsafe { ObfDereferenceObject(object) };
    unsafe { ObReferenceObject(object) };
    unsafe { ZwClose(handle) };
    expect(&sim, &[&OBJECT_REFERENCE, &OBJECT_REFERENCE]);
}

#[test]
fn nothing_follows_the_end_of_a_thread() {
    unsafe extern "C" fn goes_on(_context: PVOID) {
        unsafe { PsTerminateSystemThread(STATUS_SUCCESS) };
        let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, TAG) };
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    let sim = machine();
    let handle = create(goes_on, ptr::null_mut());
    unsafe { ZwWaitForSingleObject(handle, 0, ptr::null_mut()) };
    unsafe { ZwClose(handle) };
    expect(&sim, &[&AFTER_TERMINATE, &AFTER_TERMINATE]);
}

#[test]
fn a_thread_ends_at_passive_level() {
    unsafe extern "C" fn raises(_context: PVOID) {
        unsafe { ntsim::sys::nt::KeRaiseIrqlToDpcLevel() };
    }
    let sim = machine();
    for _ in 0..8 {
        let handle = create(raises, ptr::null_mut());
        unsafe { ZwWaitForSingleObject(handle, 0, ptr::null_mut()) };
        unsafe { ZwClose(handle) };
    }
    // More threads than processors: each gave its processor back.
    expect(&sim, &[&IRQL_NOT_RESTORED; 8]);
}

#[test]
fn only_system_threads_terminate_themselves() {
    let sim = machine();
    assert_eq!(unsafe { PsTerminateSystemThread(STATUS_SUCCESS) }, STATUS_INVALID_PARAMETER);
    let mut handle = ptr::null_mut();
    let null = ptr::null_mut();
    let status = unsafe {
        PsCreateSystemThread(&raw mut handle, 0, ptr::null_mut(), null, ptr::null_mut(), None, null)
    };
    assert_eq!(status, STATUS_INVALID_PARAMETER);
    expect(&sim, &[&THREAD_NOT_SYSTEM, &THREAD_START]);
}
