//! `keyguard KEY SDDL`: sets owner and access list of a key under HKEY_LOCAL_MACHINE, as the driver's package does it on
//! Windows. Wine has no program for it, and forgets it when its server ends.
//!
//! Exit code: 0 done; otherwise the error of Windows; 160 (ERROR_BAD_ARGUMENTS): usage.

#![cfg_attr(windows, no_std)]
#![cfg_attr(windows, no_main)]

#[cfg(windows)]
mod windows {
    // What the compiler expects of a C run-time, and the panic handler.
    extern crate wine_support;

    use core::ffi::c_void;
    use core::ptr::null_mut;

    use windows_sys::Win32::Foundation::{ERROR_BAD_ARGUMENTS, ERROR_SUCCESS, GetLastError};
    use windows_sys::Win32::Security::Authorization::{
        ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
    };
    use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION};
    use windows_sys::Win32::System::Environment::GetCommandLineW;
    use windows_sys::Win32::System::Registry::{
        HKEY, HKEY_LOCAL_MACHINE, KEY_ALL_ACCESS, RegOpenKeyExW, RegSetKeySecurity,
    };
    use windows_sys::Win32::System::Threading::ExitProcess;
    use windows_sys::Win32::UI::Shell::CommandLineToArgvW;

    #[unsafe(no_mangle)]
    extern "system" fn start() -> ! {
        let code = run();
        // SAFETY: no preconditions.
        unsafe { ExitProcess(code) }
    }

    fn run() -> u32 {
        let mut count = 0;
        // SAFETY: no preconditions.
        let line = unsafe { GetCommandLineW() };
        // SAFETY: the system's own text.
        let arguments = unsafe { CommandLineToArgvW(line, &raw mut count) };
        if arguments.is_null() || count != 3 {
            return ERROR_BAD_ARGUMENTS;
        }
        // SAFETY: so many arguments are there.
        let [_, path, text] = unsafe { arguments.cast::<[*const u16; 3]>().read() };
        // SAFETY: the arguments end with a zero each, and are never freed.
        unsafe { guard(path, text) }
    }

    /// # Safety
    /// Both texts end with a zero.
    unsafe fn guard(path: *const u16, text: *const u16) -> u32 {
        let mut descriptor: *mut c_void = null_mut();
        let place = &raw mut descriptor;
        // SAFETY: by the contract.
        let made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(text, SDDL_REVISION_1, place, null_mut())
        };
        if made == 0 {
            // SAFETY: no preconditions.
            return unsafe { GetLastError() };
        }
        let mut key: HKEY = null_mut();
        // SAFETY: by the contract.
        let opened = unsafe { RegOpenKeyExW(HKEY_LOCAL_MACHINE, path, 0, KEY_ALL_ACCESS, &raw mut key) };
        if opened != ERROR_SUCCESS {
            return opened;
        }
        // SAFETY: an open key and a descriptor that was made.
        unsafe { RegSetKeySecurity(key, OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION, descriptor) }
    }
}

#[cfg(not(windows))]
fn main() {
    eprintln!("keyguard runs on Windows only");
}
