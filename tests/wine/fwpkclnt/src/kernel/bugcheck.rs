//! Bug checks: a line of the log, and the end of the process. And what drivers would add to a dump: each is asked for it
//! once, as a bug check would, when it takes its registration back.

use alloc::format;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr::null_mut;

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEMORY_BASIC_INFORMATION, PAGE_GUARD, PAGE_NOACCESS, VirtualQuery,
};
use wine_support::log;
use wine_support::sync::Mutex;

use crate::irql;
use crate::rules;
use crate::sys::nt::GUID;
use crate::verify::violation;

rules! {
    BUGCHECK_DATA = ("no data for the dump, or more than is allowed", "Writing a Bug Check Callback Routine");
}

/// KbCallbackSecondaryDumpData.
const SECONDARY_DUMP_DATA: i32 = 2;
const HIGH_LEVEL: u8 = 15;

/// Page "KBUGCHECK_SECONDARY_DUMP_DATA".
#[repr(C)]
struct SecondaryDumpData {
    in_buffer: *mut c_void,
    in_buffer_length: u32,
    maximum_allowed: u32,
    tag: GUID,
    out_buffer: *mut c_void,
    out_buffer_length: u32,
}

type Callback = unsafe extern "C" fn(i32, *mut c_void, *mut c_void, u32);

static REGISTRATIONS: Mutex<Vec<(usize, Callback)>> = Mutex::new(Vec::new());

/// Callbacks that are registered.
pub(super) fn registered() -> usize {
    REGISTRATIONS.lock().len()
}

/// As its page has it, for secondary dump data alone.
pub(super) unsafe extern "system" fn KeRegisterBugCheckReasonCallback(
    record: *mut c_void,
    callback: Option<Callback>,
    reason: i32,
    _component: *mut u8,
) -> u8 {
    let Some(callback) = callback.filter(|_| reason == SECONDARY_DUMP_DATA) else { return 0 };
    let mut registrations = REGISTRATIONS.lock();
    if registrations.iter().any(|(other, _)| *other == record.addr()) {
        return 0;
    }
    registrations.push((record.addr(), callback));
    1
}

/// As its page has it.
pub(super) unsafe extern "system" fn KeDeregisterBugCheckReasonCallback(record: *mut c_void) -> u8 {
    let mut registrations = REGISTRATIONS.lock();
    let Some(at) = registrations.iter().position(|(other, _)| *other == record.addr()) else { return 0 };
    let (_, callback) = registrations.remove(at);
    drop(registrations);
    rehearse(record, callback);
    1
}

/// Asks for the data at HIGH_LEVEL, first for their size.
fn rehearse(record: *mut c_void, callback: Callback) {
    const API: &str = "KeDeregisterBugCheckReasonCallback";
    const ALLOWED: u32 = 1 << 16;
    let mut own = [0_u8; 512];
    let old = irql::raise(HIGH_LEVEL);
    for out_buffer in [null_mut(), own.as_mut_ptr().cast()] {
        let mut data = SecondaryDumpData {
            in_buffer: own.as_mut_ptr().cast(),
            in_buffer_length: 512,
            maximum_allowed: ALLOWED,
            tag: GUID { Data1: 0, Data2: 0, Data3: 0, Data4: [0; 8] },
            out_buffer,
            out_buffer_length: 0,
        };
        let size = u32::try_from(size_of::<SecondaryDumpData>()).unwrap_or_default();
        // SAFETY: the driver registered it with this record, and for this reason.
        unsafe { callback(SECONDARY_DUMP_DATA, record, (&raw mut data).cast(), size) };
        let size = data.out_buffer_length;
        if data.out_buffer.is_null() || data.tag.Data1 == 0 || !(1..=ALLOWED).contains(&size) {
            violation(&BUGCHECK_DATA, API, format!("{:#x}, {size} bytes", data.out_buffer.addr()));
        }
    }
    irql::lower(old);
}

/// Text in memory, if an address and a length can mean one: a driver in Rust hands over the place of a panic so.
fn text(address: usize, length: usize) -> Option<&'static str> {
    const LONGEST: usize = 512;
    if address == 0 || !(1..=LONGEST).contains(&length) {
        return None;
    }
    let start = core::ptr::with_exposed_provenance::<u8>(address);
    // SAFETY: MEMORY_BASIC_INFORMATION is made of integers and pointers.
    let mut information: MEMORY_BASIC_INFORMATION = unsafe { zeroed() };
    let place = &raw mut information;
    // SAFETY: the place has that size; the address is not read.
    let known = unsafe { VirtualQuery(start.cast(), place, size_of::<MEMORY_BASIC_INFORMATION>()) };
    let readable = known != 0
        && information.State == MEM_COMMIT
        && information.Protect & (PAGE_NOACCESS | PAGE_GUARD) == 0
        && address + length <= information.BaseAddress.addr() + information.RegionSize;
    if !readable {
        return None;
    }
    // SAFETY: the memory is there and can be read; the process ends after this.
    let bytes = unsafe { core::slice::from_raw_parts(start, length) };
    core::str::from_utf8(bytes).ok().filter(|text| text.chars().all(|c| !c.is_control()))
}

pub(super) unsafe extern "system" fn KeBugCheckEx(code: u32, a: usize, b: usize, c: usize, d: usize) -> ! {
    if let Some(text) = text(a, b) {
        log!("CRASH: KeBugCheckEx {code:#x} ({text:?}, {c}, {d})");
    } else {
        log!("CRASH: KeBugCheckEx {code:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x})");
    }
    wine_support::end_process()
}

pub(super) unsafe extern "system" fn KeBugCheck(code: u32) -> ! {
    // SAFETY: the same, without parameters.
    unsafe { KeBugCheckEx(code, 0, 0, 0, 0) }
}
