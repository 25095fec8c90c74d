//! Processors: one group and one NUMA node, numbered from 0.

use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

use wine_support::sync::Mutex;

use crate::irql;
use crate::sys::nt::{
    ALL_PROCESSOR_GROUPS, DISPATCH_LEVEL, KE_PROCESSOR_CHANGE_ADD_EXISTING,
    KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, KeProcessorAddCompleteNotify, KeProcessorAddFailureNotify,
    KeProcessorAddStartNotify, NTSTATUS, PASSIVE_LEVEL, PROCESSOR_NUMBER, RelationNumaNode,
    STATUS_INFO_LENGTH_MISMATCH, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_SUCCESS,
};

/// `INVALID_PROCESSOR_INDEX`.
const INVALID_INDEX: u32 = u32::MAX;

type Callback = unsafe extern "C" fn(*mut c_void, *mut KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, *mut NTSTATUS);

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

/// The node of one processor, which is 0; other relationships are not known.
pub(super) unsafe extern "system" fn KeQueryLogicalProcessorRelationship(
    number: *mut PROCESSOR_NUMBER,
    relationship: i32,
    information: *mut u32,
    length: *mut u32,
) -> NTSTATUS {
    /// Relationship, size, and a node, which ends with an affinity.
    const SIZE: u32 = 0x30;
    irql::require_at_most("KeQueryLogicalProcessorRelationship", DISPATCH_LEVEL);
    // SAFETY: by the function's page it is null or can be read.
    let Some(number) = (unsafe { number.as_ref() }) else { return STATUS_NOT_SUPPORTED };
    if relationship != RelationNumaNode {
        return STATUS_NOT_SUPPORTED;
    }
    let active = irql::active_processors();
    if number.Group != 0 || u32::from(number.Number) >= active {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: by the function's page it can be read and written.
    let room = unsafe { length.replace(SIZE) };
    if information.is_null() || room < SIZE {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    let mask = u64::MAX >> (u64::BITS - active.clamp(1, u64::BITS));
    let mut related = [0u32; SIZE as usize / 4];
    related[0] = relationship.cast_unsigned();
    related[1] = SIZE;
    // How many groups the node is in, in the upper half.
    related[7] = 1 << 16;
    let (low, high) = (mask & u64::from(u32::MAX), mask >> 32);
    related[8..10].copy_from_slice(&[low, high].map(|half| u32::try_from(half).unwrap_or(u32::MAX)));
    // SAFETY: by the function's page there is room for that much.
    unsafe { information.copy_from_nonoverlapping(related.as_ptr(), related.len()) };
    STATUS_SUCCESS
}

/// Calls a callback for one state of one addition; what it says of it.
fn call(registration: &Registration, state: i32, index: u32, status: NTSTATUS) -> NTSTATUS {
    let mut change = KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT {
        State: state,
        NtNumber: index,
        Status: status,
        ProcNumber: number_of(index),
    };
    let mut verdict = STATUS_SUCCESS;
    let context = core::ptr::with_exposed_provenance_mut(registration.context);
    irql::same_irql("ProcessorCallback", || {
        // SAFETY: the driver registered it with this context, and has not taken it back.
        unsafe { (registration.callback)(context, &raw mut change, &raw mut verdict) };
    });
    verdict
}

/// With KE_PROCESSOR_CHANGE_ADD_EXISTING the callback is told first that each active processor is about to be added, then
/// that each has been; after an error, of those before it, that they have not.
pub(super) unsafe extern "system" fn KeRegisterProcessorChangeCallback(
    callback: Option<Callback>,
    context: *mut c_void,
    flags: u32,
) -> *mut c_void {
    irql::require_at_most("KeRegisterProcessorChangeCallback", PASSIVE_LEVEL);
    let Some(callback) = callback else {
        return null_mut();
    };
    let mut registration = Registration { handle: 0, callback, context: context.expose_provenance() };
    let active = if flags & KE_PROCESSOR_CHANGE_ADD_EXISTING == 0 { 0 } else { irql::active_processors() };
    for index in 0..active {
        let verdict = call(&registration, KeProcessorAddStartNotify, index, STATUS_SUCCESS);
        if verdict < STATUS_SUCCESS {
            for before in 0..index {
                call(&registration, KeProcessorAddFailureNotify, before, verdict);
            }
            return null_mut();
        }
    }
    for index in 0..active {
        call(&registration, KeProcessorAddCompleteNotify, index, STATUS_SUCCESS);
    }
    let mut registrations = REGISTRATIONS.lock();
    registration.handle = registrations.next * 16;
    registrations.next += 1;
    registrations.all.push(registration);
    core::ptr::without_provenance_mut(registration.handle)
}

pub(super) unsafe extern "system" fn KeDeregisterProcessorChangeCallback(handle: *mut c_void) {
    irql::require_at_most("KeDeregisterProcessorChangeCallback", PASSIVE_LEVEL);
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
        let verdict = call(registration, KeProcessorAddStartNotify, index, STATUS_SUCCESS);
        if verdict < STATUS_SUCCESS {
            for told in &all[..=asked] {
                call(told, KeProcessorAddFailureNotify, index, verdict);
            }
            return None;
        }
    }
    irql::add_processor()?;
    for registration in &all {
        call(registration, KeProcessorAddCompleteNotify, index, STATUS_SUCCESS);
    }
    Some(index)
}

/// Callbacks that drivers have not taken back.
pub(crate) fn registered() -> usize {
    REGISTRATIONS.lock().all.len()
}
