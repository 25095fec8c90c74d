//! The IRQL of callbacks and completions.
//!
//! Wine has no IRQL. Where the module that fills ntoskrnl.exe's gaps keeps one for each thread, it is raised and lowered
//! through that module's exports, looked up by name when it is first needed; without it, everything is at PASSIVE_LEVEL.

use crate::machine;
use core::sync::atomic::{AtomicPtr, Ordering};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::core::w;

type Raise = unsafe extern "C" fn() -> u8;
type Lower = unsafe extern "C" fn(u8);

/// NULL: not looked up. Otherwise what was found, for good.
static FOUND: AtomicPtr<Exports> = AtomicPtr::new(core::ptr::null_mut());

struct Exports {
    raise: Option<Raise>,
    lower: Option<Lower>,
}

fn exports() -> &'static Exports {
    let found = FOUND.load(Ordering::Acquire);
    // SAFETY: NULL, or made by `Box::leak` below.
    if let Some(found) = unsafe { found.as_ref() } {
        return found;
    }
    // SAFETY: a name with its terminating zero.
    let module = unsafe { GetModuleHandleW(w!("fwpkclnt.sys")) };
    let mut exports = Exports { raise: None, lower: None };
    if !module.is_null() {
        // SAFETY: a module that is never unloaded, and a name with its terminating zero.
        let raise = unsafe { GetProcAddress(module, c"KeRaiseIrqlToDpcLevel".as_ptr().cast()) };
        // SAFETY: as above.
        let lower = unsafe { GetProcAddress(module, c"KeLowerIrql".as_ptr().cast()) };
        if let (Some(raise), Some(lower)) = (raise, lower) {
            // SAFETY: the function of that name in wdm.h.
            exports.raise =
                Some(unsafe { core::mem::transmute::<unsafe extern "system" fn() -> isize, Raise>(raise) });
            // SAFETY: as above.
            exports.lower =
                Some(unsafe { core::mem::transmute::<unsafe extern "system" fn() -> isize, Lower>(lower) });
        }
    }
    let leaked: &'static Exports = alloc::boxed::Box::leak(alloc::boxed::Box::new(exports));
    FOUND.store(core::ptr::from_ref(leaked).cast_mut(), Ordering::Release);
    leaked
}

/// Runs `body` at the IRQL that the settings choose for callbacks; it is told whether that is DISPATCH_LEVEL.
pub fn as_callback<T>(body: impl FnOnce(bool) -> T) -> T {
    if !machine::callback_at_dispatch() {
        return body(false);
    }
    let Exports { raise: Some(raise), lower: Some(lower) } = exports() else { return body(false) };
    // SAFETY: callable at any IRQL up to DISPATCH_LEVEL.
    let before = unsafe { raise() };
    let result = body(true);
    // SAFETY: back to where this thread was.
    unsafe { lower(before) };
    result
}
