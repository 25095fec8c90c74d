//! What the compiler expects of a C run-time, and the panic handler.

use core::ffi::{c_int, c_void};
use core::panic::PanicInfo;

use windows_sys::Win32::System::Threading::{GetCurrentProcess, TerminateProcess};

// Calls of these are generated; ntdll has them all.
#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
#[allow(dead_code, reason = "named by generated code only")]
unsafe extern "C" {
    fn memcpy(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void;
    fn memmove(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void;
    fn memset(to: *mut c_void, byte: c_int, size: usize) -> *mut c_void;
    fn memcmp(a: *const c_void, b: *const c_void, size: usize) -> c_int;
    fn strlen(text: *const i8) -> usize;
    fn __chkstk();
}

/// Says that floating point is used; the linker looks for the name.
#[unsafe(no_mangle)]
#[used]
static _fltused: c_int = 0;

/// The frame handler that the toolchain's libraries name in their unwind tables. Panics abort here, so nothing unwinds
/// through Rust frames; an exception that does is none of ours.
///
/// # Safety
/// Called by the system's exception dispatch only.
#[unsafe(no_mangle)]
unsafe extern "C" fn __CxxFrameHandler3(
    _record: *mut c_void,
    _frame: *mut c_void,
    _context: *mut c_void,
    _dispatcher: *mut c_void,
) -> c_int {
    /// ExceptionContinueSearch of EXCEPTION_DISPOSITION.
    const CONTINUE_SEARCH: c_int = 1;
    CONTINUE_SEARCH
}

/// The exit code of a process that a stand-in has ended: STATUS_FATAL_APP_EXIT.
const FATAL_APP_EXIT: u32 = 0x4000_0015;

/// Ends the process: what is left of a run after a fault says nothing.
pub fn end_process() -> ! {
    // SAFETY: a pseudo handle, always valid.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the process is this one.
    unsafe { TerminateProcess(process, FATAL_APP_EXIT) };
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::log::write(format_args!("CRASH: {info}"));
    end_process();
}
