//! A stand-in `fwpkclnt.sys` for Wine.
//!
//! Wine has no Windows Filtering Platform, and its `ntoskrnl.exe` lacks functions that a driver of today calls. This
//! image is loaded because the driver imports from it, before the driver's entry is called, and brings both:
//! - the platform's functions (`exports`), over the engine and the modules of the simulated kernel (`wfp`,
//!   `sys::fwp`), compiled from the same files; traffic comes from its TCP/IP stack (`tcpip`) when a test asks for it
//!   on the drive channel (`requests`);
//! - the kernel functions that Wine lacks or has wrong (`kernel`): the imports of drivers are pointed at them when the
//!   loader has mapped the driver (`modules`).

#![cfg(windows)]
#![no_std]

extern crate alloc;

mod boot;
mod exports;
mod fault;
mod irql;
mod kernel;
mod modules;
mod rcu;
mod requests;
mod rt;
mod sys;
#[allow(dead_code, reason = "shared with the simulated kernel, which uses all of it")]
#[path = "../../../ntsim/src/tcpip/mod.rs"]
mod tcpip;
mod verify;
#[allow(dead_code, unused_imports, reason = "shared with the simulated kernel, which uses all of it")]
#[path = "../../../ntsim/src/wfp/mod.rs"]
mod wfp;

use core::ffi::c_void;

use wine_support::{drive, log};

/// `DLL_PROCESS_ATTACH`.
const PROCESS_ATTACH: u32 = 1;

/// Called by the loader, before the entry of the driver that imports from this image.
#[unsafe(no_mangle)]
extern "system" fn DllMain(module: *mut c_void, reason: u32, _reserved: *mut c_void) -> i32 {
    if reason == PROCESS_ATTACH {
        log::init("fwpkclnt");
        kernel::start();
        fault::start();
        wfp::start();
        modules::start(module);
        drive::serve(requests::handle);
    }
    1
}
