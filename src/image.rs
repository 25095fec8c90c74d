//! What an image needs beside its code: the entry's name for the linker, the end of a panic, and the load
//! configuration, which the WDK's own library would bring if C had been compiled.

use core::arch::global_asm;
use core::panic::PanicInfo;

use crate::sys::nt::KeBugCheckEx;

/// The bug check's code, which stands for weir: no code of Windows has these digits.
const BUGCHECK_PANIC: u32 = u32::from_be_bytes(*b"weir");

/// Stops the machine, with the place of the panic as parameters: the file's name and its length, line, column.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line, column) =
        info.location().map_or(("", 0, 0), |location| (location.file(), location.line(), location.column()));
    // SAFETY: it may be called at any IRQL, and does not return.
    unsafe {
        KeBugCheckEx(BUGCHECK_PANIC, file.as_ptr().addr() as _, file.len() as _, line.into(), column.into())
    };
    #[allow(unreachable_code, clippy::empty_loop, reason = "bindings do not know that it never returns")]
    loop {}
}

// A name without an export, which `no_mangle` would give it. Only what the symbol table calls a function comes into the
// table of call targets, and the kernel calls the entry as it calls every pointer.
global_asm!(".def DriverEntry", ".scl 2", ".type 32", ".endef", ".globl DriverEntry", ".p2align 4");
#[cfg(target_arch = "x86_64")]
global_asm!("DriverEntry: jmp {}", sym crate::DriverEntry);
#[cfg(target_arch = "aarch64")]
global_asm!("DriverEntry: b {}", sym crate::DriverEntry);

// What control flow guard calls until the kernel has set its own.
#[cfg(target_arch = "x86_64")]
global_asm!(".text", ".p2align 4", "weir_guard_check: ret", ".p2align 4", "weir_guard_dispatch: jmp rax",);
#[cfg(target_arch = "aarch64")]
global_asm!(".text", ".p2align 4", "weir_guard_check: ret", ".p2align 4", "weir_guard_dispatch: br x9",);

// IMAGE_LOAD_CONFIG_DIRECTORY64 up to GuardMemcpyFunctionPointer (page "IMAGE_LOAD_CONFIG_DIRECTORY64"); the linker
// makes the tables.
global_asm!(
    ".section .00cfg,\"dr\"",
    ".p2align 3",
    ".globl __guard_check_icall_fptr",
    "__guard_check_icall_fptr: .quad weir_guard_check",
    ".globl __guard_dispatch_icall_fptr",
    "__guard_dispatch_icall_fptr: .quad weir_guard_dispatch",
    // The kernel makes a cookie of its own of this known one.
    ".section .data,\"dw\"",
    ".p2align 3",
    ".globl __security_cookie",
    "__security_cookie: .quad 0x00002B992DDFA232",
    ".section .rdata,\"dr\"",
    ".p2align 3",
    ".globl _load_config_used",
    "_load_config_used:",
    ".long 0x140", // Size
    ".zero 0x54",  // TimeDateStamp to EditList
    ".quad __security_cookie",
    ".zero 0x10", // SEHandlerTable, SEHandlerCount
    ".quad __guard_check_icall_fptr",
    ".quad __guard_dispatch_icall_fptr",
    ".quad __guard_fids_table",
    ".quad __guard_fids_count",
    ".long __guard_flags",
    ".zero 0x0C", // CodeIntegrity
    ".quad __guard_iat_table",
    ".quad __guard_iat_count",
    ".quad __guard_longjmp_table",
    ".quad __guard_longjmp_count",
    ".zero 0x38", // DynamicValueRelocTable to HotPatchTableOffset, with what is reserved
    ".zero 0x10", // EnclaveConfigurationPointer, VolatileMetadataPointer
    ".quad __guard_eh_cont_table",
    ".quad __guard_eh_cont_count",
    ".zero 0x28", // GuardXFGCheckFunctionPointer to GuardMemcpyFunctionPointer
    ".text",
);
