//! Exceptions that nobody handles: a line of the log that says where, before Wine ends the process.

use windows_sys::Win32::System::Diagnostics::Debug::{
    EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS, SetUnhandledExceptionFilter,
};
use wine_support::log;

use crate::irql;
use crate::modules;

unsafe extern "system" fn unhandled(pointers: *const EXCEPTION_POINTERS) -> i32 {
    // SAFETY: the system's own, for the time of this call.
    let pointers = unsafe { &*pointers };
    // SAFETY: as above.
    let record = unsafe { &*pointers.ExceptionRecord };
    // SAFETY: as above.
    let context = unsafe { &*pointers.ContextRecord };
    let count = (record.NumberParameters as usize).min(record.ExceptionInformation.len());
    log!(
        "CRASH: exception {:#x} at {}, parameters {:x?}, IRQL {}; rax {:x} rcx {:x} rdx {:x} r8 {:x} r9 {:x} rsp {:x}",
        record.ExceptionCode,
        modules::place(record.ExceptionAddress.addr()),
        &record.ExceptionInformation[..count],
        irql::current(),
        context.Rax,
        context.Rcx,
        context.Rdx,
        context.R8,
        context.R9,
        context.Rsp,
    );
    let top = usize::try_from(context.Rsp).unwrap_or(0);
    for address in modules::return_addresses(top) {
        log!("CRASH:   called from {}", modules::place(address));
    }
    EXCEPTION_CONTINUE_SEARCH
}

/// Logs such exceptions from here on.
pub(super) fn start() {
    // SAFETY: the filter is of this image, which stays loaded.
    unsafe { SetUnhandledExceptionFilter(Some(unhandled)) };
}
