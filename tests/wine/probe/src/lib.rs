//! A driver that checks the stand-in netio.sys: each promise of Winsock Kernel's documentation that the control plane
//! relies on, from a client's side, both ends of each connection being its own.
//!
//! The checks run while the driver is loaded. Each leaves a line in `probe.log`: `PASS <promise>` or
//! `FAIL <promise>: <why>`; the last line is `DONE <passed> passed, <failed> failed`. The driver does not stay loaded unless
//! all passed.

#![cfg(windows)]
#![no_std]
#![allow(non_snake_case, reason = "the entry point has the system's name")]

extern crate alloc;

mod checks;
mod kernel;
mod nmr;
#[path = "../../netio/src/sys/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the stand-in")]
mod sys;
mod wsk;

use sys::nt::{NTSTATUS, PDRIVER_OBJECT, PUNICODE_STRING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL};
use wine_support::log;

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
    log!("unloaded");
}

/// The least address that a pointer has: below are the reasons that a DLL's entry is called with.
const LEAST_ADDRESS: usize = 0x10000;

/// Called when the driver is started; and as a DLL's entry by Wine's loader, which takes an image that imports from
/// kernel32.dll for a DLL, whatever its subsystem.
///
/// # Safety
/// By the system only.
#[unsafe(no_mangle)]
unsafe extern "C" fn DriverEntry(driver: PDRIVER_OBJECT, path: PUNICODE_STRING) -> NTSTATUS {
    const TRUE: NTSTATUS = 1;
    if path.addr() < LEAST_ADDRESS {
        return TRUE;
    }
    log::init("probe");
    // SAFETY: the driver's own object.
    unsafe { (*driver).DriverUnload = Some(unload) };
    if checks::run() { STATUS_SUCCESS } else { STATUS_UNSUCCESSFUL }
}
