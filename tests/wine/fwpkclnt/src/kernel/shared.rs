//! The data that the kernel shares with everyone (KUSER_SHARED_DATA), at the address that it has for drivers.
//!
//! For x64, `KeQueryInterruptTime`, `KeQuerySystemTime` and `KeQueryTickCount` are inline in the headers: they read at
//! 0xFFFFF780`00000000. User mode has the same page at 0x7FFE0000, and nothing at the kernel's address, where Linux lets
//! no process have memory. Wine emulates a plain move from there; a compiler may as well add or compare. So whatever
//! instruction reads there is made once more with the page's other address in the register that it reads through, and
//! the register is put back behind it.

use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, EXCEPTION_SINGLE_STEP};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, CONTEXT, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH,
    EXCEPTION_POINTERS,
};
use wine_support::log;
use wine_support::thread::ThreadWord;

const KERNEL: u64 = 0xFFFF_F780_0000_0000;
const USER: u64 = 0x7FFE_0000;
const SIZE: u64 = 0x1000;

/// The kind of an access violation.
const READ: usize = 0;

/// The trap flag of EFLAGS: one instruction, then an exception.
const TRAP: u32 = 0x100;

/// While an instruction is made once more: the number of the register and 1.
static STEPPING: ThreadWord = ThreadWord::new();

/// The general registers, by their numbers.
fn registers(context: &mut CONTEXT) -> [&mut u64; 16] {
    let CONTEXT { Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15, .. } =
        context;
    [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15]
}

const fn is_in(page: u64, address: u64) -> bool {
    address >= page && address - page < SIZE
}

/// Begins to make an instruction once more. False if no register leads to the page.
fn redirect(context: &mut CONTEXT) -> bool {
    let found = registers(context).into_iter().enumerate().find(|(_, register)| is_in(KERNEL, **register));
    let Some((number, register)) = found else {
        return false;
    };
    *register = *register - KERNEL + USER;
    STEPPING.set(number + 1);
    context.EFlags |= TRAP;
    true
}

/// The instruction is done. A register that it has loaded stays as it is.
fn put_back(context: &mut CONTEXT, number: usize) {
    if let Some(register) = registers(context).into_iter().nth(number)
        && is_in(USER, *register)
    {
        *register = *register - USER + KERNEL;
    }
    context.EFlags &= !TRAP;
}

unsafe extern "system" fn handle(pointers: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: the system's own, for the time of this call.
    let pointers = unsafe { &*pointers };
    // SAFETY: as above.
    let record = unsafe { &*pointers.ExceptionRecord };
    // SAFETY: as above.
    let context = unsafe { &mut *pointers.ContextRecord };
    let handled = match record.ExceptionCode {
        EXCEPTION_ACCESS_VIOLATION => {
            let [kind, address, ..] = record.ExceptionInformation;
            kind == READ && is_in(KERNEL, address as u64) && redirect(context)
        }
        EXCEPTION_SINGLE_STEP => {
            let stepping = STEPPING.replace(0);
            if stepping != 0 {
                put_back(context, stepping - 1);
            }
            stepping != 0
        }
        _ => false,
    };
    if handled { EXCEPTION_CONTINUE_EXECUTION } else { EXCEPTION_CONTINUE_SEARCH }
}

/// Handles such reads from here on.
pub(super) fn start() {
    // SAFETY: the handler is of this image, which stays loaded.
    if unsafe { AddVectoredExceptionHandler(1, Some(handle)) }.is_null() {
        log!("CRASH: AddVectoredExceptionHandler failed");
    }
}
