//! Bug checks: a line of the log, and the end of the process.

use core::mem::zeroed;

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEMORY_BASIC_INFORMATION, PAGE_GUARD, PAGE_NOACCESS, VirtualQuery,
};
use wine_support::log;

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
