#![cfg(windows)]
#![no_std]

use core::ffi::c_void;
use wine_support::{drive, log};

#[unsafe(no_mangle)]
extern "system" fn DllMain(_module: *mut c_void, reason: u32, _reserved: *mut c_void) -> i32 {
    if reason == 1 {
        log::init("fwpkclnt");
        drive::serve(|op, _| Err(wine_support::json::to_string(op).unwrap_or_default()));
    }
    1
}
