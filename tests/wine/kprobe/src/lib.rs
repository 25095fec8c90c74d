//! A driver that checks the stand-in fwpkclnt.sys: the kernel functions that it brings because Wine lacks them, and the
//! objects of the filtering platform.
//!
//! The checks run when the driver is started. Each leaves a line in `kprobe.log`: `PASS <promise>` or
//! `FAIL <promise>: <why>`; the last line is `DONE <passed> passed, <failed> failed`. The driver does not stay loaded
//! unless all passed. With the setting `Misuse` (any value), it breaks a rule of each kind when it is unloaded, and leaves
//! a block of pool memory behind; the stand-in must notice all of it.

#![cfg(windows)]
#![no_std]
#![allow(non_snake_case, reason = "the entry point has the system's name")]

extern crate alloc;

mod checks;
mod io;
mod kernel;
mod misuse;
mod platform;
mod sys;

use core::sync::atomic::Ordering;

use sys::nt::{NTSTATUS, PDRIVER_OBJECT, PUNICODE_STRING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL};
use wine_support::{env, log};

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
    if env::setting("Misuse").is_some() {
        misuse::run();
    }
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
    log::init("kprobe");
    // SAFETY: the driver's own object.
    unsafe { (*driver).DriverUnload = Some(unload) };
    io::DRIVER.store(driver.cast(), Ordering::SeqCst);
    if checks::run() { STATUS_SUCCESS } else { STATUS_UNSUCCESSFUL }
}
