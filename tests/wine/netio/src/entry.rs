//! The image's entry.

use crate::{drive, machine};
use core::ffi::c_void;
use wine_support::log;

/// `DLL_PROCESS_ATTACH`.
const PROCESS_ATTACH: u32 = 1;
/// `LDR_ADDREF_DLL_PIN`.
const PIN: u32 = 1;

#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn LdrAddRefDll(flags: u32, module: *mut c_void) -> i32;
}

/// Called by the loader, before the entry of the driver that imports from this image. The image stays for good: its threads
/// run on when the last driver is gone.
#[unsafe(no_mangle)]
extern "system" fn DllMain(module: *mut c_void, reason: u32, _reserved: *mut c_void) -> i32 {
    if reason == PROCESS_ATTACH {
        log::init("netio");
        // SAFETY: the module that is being loaded.
        unsafe { LdrAddRefDll(PIN, module) };
        if let Err(error) = wine_support::net::start() {
            log!("CRASH: Winsock does not start: {error:?}");
        }
        machine::start();
        drive::serve();
    }
    1
}
