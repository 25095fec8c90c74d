//! Winsock Kernel as a driver sees it: the types of `wsk.h` and the five exports of netio.sys. What they do is in
//! [`crate::wsk`].

#[path = "../../../../../src/sys/wsk/abi.rs"]
mod abi;

pub use abi::*;

use crate::sys::nt::NTSTATUS;

/// Page "WskRegister". IRQL: PASSIVE_LEVEL.
///
/// # Safety
/// Both point to structures of their type; the registration object stays where it is until [`WskDeregister`].
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn WskRegister(
    WskClientNpi: *mut WSK_CLIENT_NPI,
    WskRegistration: *mut WSK_REGISTRATION,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe { crate::wsk::register(WskClientNpi, WskRegistration) }
}

/// Page "WskCaptureProviderNPI". IRQL: PASSIVE_LEVEL; with WSK_NO_WAIT up to DISPATCH_LEVEL.
///
/// # Safety
/// The registration object is one, and the NPI is writable.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn WskCaptureProviderNPI(
    WskRegistration: *mut WSK_REGISTRATION,
    WaitTimeout: u32,
    WskProviderNpi: *mut WSK_PROVIDER_NPI,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe { crate::wsk::capture(WskRegistration, WaitTimeout, WskProviderNpi) }
}

/// Page "WskReleaseProviderNPI". IRQL: up to DISPATCH_LEVEL.
///
/// # Safety
/// The registration object is one.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn WskReleaseProviderNPI(WskRegistration: *mut WSK_REGISTRATION) {
    // SAFETY: the caller's.
    unsafe { crate::wsk::release(WskRegistration) };
}

/// Page "WskQueryProviderCharacteristics". IRQL: up to DISPATCH_LEVEL.
///
/// # Safety
/// The registration object is one, and the characteristics are writable.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn WskQueryProviderCharacteristics(
    WskRegistration: *mut WSK_REGISTRATION,
    WskProviderCharacteristics: *mut WSK_PROVIDER_CHARACTERISTICS,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe { crate::wsk::query_characteristics(WskRegistration, WskProviderCharacteristics) }
}

/// Page "WskDeregister". IRQL: PASSIVE_LEVEL. Waits.
///
/// # Safety
/// The registration object is one.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn WskDeregister(WskRegistration: *mut WSK_REGISTRATION) {
    // SAFETY: the caller's.
    unsafe { crate::wsk::deregister(WskRegistration) };
}
