//! Processors: one group, numbered from 0.

use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

use wine_support::sync::Mutex;

use crate::irql;
use crate::sys::nt::{
    ALL_PROCESSOR_GROUPS, NTSTATUS, PROCESSOR_NUMBER, STATUS_INVALID_PARAMETER, STATUS_SUCCESS,
};

/// `INVALID_PROCESSOR_INDEX`.
const INVALID_INDEX: u32 = u32::MAX;

/// KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT.
#[repr(C)]
pub(super) struct Change {
    state: i32,
    number: u32,
    status: NTSTATUS,
    processor: PROCESSOR_NUMBER,
}

/// KE_PROCESSOR_CHANGE_NOTIFY_STATE.
const ADD_START: i32 = 0;
const ADD_COMPLETE: i32 = 1;
const ADD_FAILURE: i32 = 2;

/// PROCESSOR_CALLBACK_FUNCTION.
type Callback = unsafe extern "system" fn(context: *mut c_void, change: *mut Change, status: *mut NTSTATUS);

/// `KE_PROCESSOR_CHANGE_ADD_EXISTING`.
const ADD_EXISTING: u32 = 1;

#[derive(Clone, Copy)]
struct Registration {
    handle: usize,
    callback: Callback,
    context: usize,
}

#[derive(Clone)]
struct Registrations {
    all: Vec<Registration>,
    next: usize,
}

static REGISTRATIONS: Mutex<Registrations> = Mutex::new(Registrations { all: Vec::new(), next: 1 });

/// The one group has number 0.
const fn is_group(group: u16) -> bool {
    group == 0 || group == ALL_PROCESSOR_GROUPS
}

fn number_of(index: u32) -> PROCESSOR_NUMBER {
    PROCESSOR_NUMBER { Group: 0, Number: u8::try_from(index).unwrap_or(u8::MAX), Reserved: 0 }
}

pub(super) unsafe extern "system" fn KeQueryActiveProcessorCountEx(group: u16) -> u32 {
    if is_group(group) { irql::active_processors() } else { 0 }
}

pub(super) unsafe extern "system" fn KeQueryActiveProcessorCount(set: *mut usize) -> u32 {
    let count = irql::active_processors();
    // SAFETY: by the function's page it is null or can be written.
    if let Some(set) = unsafe { set.as_mut() } {
        *set = usize::MAX >> (usize::BITS - count.clamp(1, usize::BITS));
    }
    count
}

pub(super) unsafe extern "system" fn KeQueryMaximumProcessorCountEx(group: u16) -> u32 {
    if is_group(group) { irql::maximum_processors() } else { 0 }
}

pub(super) unsafe extern "system" fn KeQueryMaximumProcessorCount() -> u32 {
    irql::maximum_processors()
}

pub(super) unsafe extern "system" fn KeGetCurrentProcessorNumberEx(number: *mut PROCESSOR_NUMBER) -> u32 {
    let index = irql::processor();
    // SAFETY: by the function's page it is null or can be written.
    if let Some(number) = unsafe { number.as_mut() } {
        *number = number_of(index);
    }
    index
}

pub(super) unsafe extern "system" fn KeGetCurrentProcessorNumber() -> u32 {
    irql::processor()
}

pub(super) unsafe extern "system" fn KeGetProcessorNumberFromIndex(
    index: u32,
    number: *mut PROCESSOR_NUMBER,
) -> NTSTATUS {
    if index >= irql::maximum_processors() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: by the function's page it can be written.
    unsafe { number.write(number_of(index)) };
    STATUS_SUCCESS
}

pub(super) unsafe extern "system" fn KeGetProcessorIndexFromNumber(number: *mut PROCESSOR_NUMBER) -> u32 {
    // SAFETY: by the function's page it can be read.
    let number = unsafe { number.read() };
    let index = u32::from(number.Number);
    if number.Group == 0 && index < irql::maximum_processors() { index } else { INVALID_INDEX }
}

/// Calls a callback for one state of one addition; what it says of it.
fn call(registration: &Registration, state: i32, index: u32, status: NTSTATUS) -> NTSTATUS {
    let mut change = Change { state, number: index, status, processor: number_of(index) };
    let mut verdict = STATUS_SUCCESS;
    let context = core::ptr::with_exposed_provenance_mut(registration.context);
    irql::same_irql("ProcessorCallback", || {
        // SAFETY: the driver registered it with this context, and has not taken it back.
        unsafe { (registration.callback)(context, &raw mut change, &raw mut verdict) };
    });
    verdict
}

/// "If the KE_PROCESSOR_CHANGE_ADD_EXISTING flag is set, the callback is immediately called for each active processor",
/// once with each state.
pub(super) unsafe extern "system" fn KeRegisterProcessorChangeCallback(
    callback: Option<Callback>,
    context: *mut c_void,
    flags: u32,
) -> *mut c_void {
    irql::require_at_most("KeRegisterProcessorChangeCallback", crate::sys::nt::APC_LEVEL);
    let Some(callback) = callback else {
        return null_mut();
    };
    let mut registration = Registration { handle: 0, callback, context: context.expose_provenance() };
    if flags & ADD_EXISTING != 0 {
        for index in 0..irql::active_processors() {
            if call(&registration, ADD_START, index, STATUS_SUCCESS) < STATUS_SUCCESS {
                call(&registration, ADD_FAILURE, index, STATUS_SUCCESS);
                return null_mut();
            }
            call(&registration, ADD_COMPLETE, index, STATUS_SUCCESS);
        }
    }
    let mut registrations = REGISTRATIONS.lock();
    registration.handle = registrations.next * 16;
    registrations.next += 1;
    registrations.all.push(registration);
    core::ptr::without_provenance_mut(registration.handle)
}

pub(super) unsafe extern "system" fn KeDeregisterProcessorChangeCallback(handle: *mut c_void) {
    REGISTRATIONS.lock().all.retain(|registration| registration.handle != handle.addr());
}

/// Adds a processor and tells the drivers, as the page "KeRegisterProcessorChangeCallback" has it: all are asked first,
/// and one of them can refuse. The number of the new processor.
pub(crate) fn add() -> Option<u32> {
    let all = REGISTRATIONS.lock().all.clone();
    let index = irql::active_processors();
    if index >= irql::maximum_processors() {
        return None;
    }
    for (asked, registration) in all.iter().enumerate() {
        let verdict = call(registration, ADD_START, index, STATUS_SUCCESS);
        if verdict < STATUS_SUCCESS {
            for told in &all[..=asked] {
                call(told, ADD_FAILURE, index, verdict);
            }
            return None;
        }
    }
    irql::add_processor()?;
    for registration in &all {
        call(registration, ADD_COMPLETE, index, STATUS_SUCCESS);
    }
    Some(index)
}

/// Callbacks that drivers have not taken back.
pub(crate) fn registered() -> usize {
    REGISTRATIONS.lock().all.len()
}
