//! The Network Module Registrar as a driver sees it: the types of `netioddk.h` and the exports of netio.sys. What
//! they do is in [`crate::nmr`].

#[path = "../../../../../src/sys/nmr/abi.rs"]
mod abi;

pub use abi::*;

use crate::nmr;
use crate::sys::nt::{HANDLE, NTSTATUS, PVOID};
use core::ffi::c_void;

/// Page "NmrRegisterClient". IRQL: PASSIVE_LEVEL.
///
/// # Safety
/// The characteristics and the context stay as long as the client is registered; the handle is writable.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrRegisterClient(
    ClientCharacteristics: *const NPI_CLIENT_CHARACTERISTICS,
    ClientContext: PVOID,
    NmrClientHandle: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe { nmr::register_client(ClientCharacteristics, ClientContext, NmrClientHandle) }
}

/// Page "NmrRegisterProvider". IRQL: PASSIVE_LEVEL.
///
/// # Safety
/// The characteristics and the context stay as long as the provider is registered; the handle is writable.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrRegisterProvider(
    ProviderCharacteristics: *const NPI_PROVIDER_CHARACTERISTICS,
    ProviderContext: PVOID,
    NmrProviderHandle: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe { nmr::register_provider(ProviderCharacteristics, ProviderContext, NmrProviderHandle) }
}

/// Page "NmrDeregisterClient". IRQL: up to DISPATCH_LEVEL. Returns STATUS_PENDING.
///
/// # Safety
/// None beyond the handle's being the caller's.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrDeregisterClient(NmrClientHandle: HANDLE) -> NTSTATUS {
    nmr::deregister_client(NmrClientHandle)
}

/// Page "NmrDeregisterProvider". IRQL: up to DISPATCH_LEVEL. Returns STATUS_PENDING.
///
/// # Safety
/// None beyond the handle's being the caller's.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrDeregisterProvider(NmrProviderHandle: HANDLE) -> NTSTATUS {
    nmr::deregister_provider(NmrProviderHandle)
}

/// Page "NmrWaitForClientDeregisterComplete". IRQL: below DISPATCH_LEVEL. Waits.
///
/// # Safety
/// None beyond the handle's being the caller's.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrWaitForClientDeregisterComplete(NmrClientHandle: HANDLE) -> NTSTATUS {
    nmr::wait_client(NmrClientHandle)
}

/// Page "NmrWaitForProviderDeregisterComplete". IRQL: below DISPATCH_LEVEL. Waits.
///
/// # Safety
/// None beyond the handle's being the caller's.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrWaitForProviderDeregisterComplete(
    NmrProviderHandle: HANDLE,
) -> NTSTATUS {
    nmr::wait_provider(NmrProviderHandle)
}

/// Page "NmrClientAttachProvider". IRQL: PASSIVE_LEVEL, within the client's ClientAttachProvider.
///
/// # Safety
/// The client's context and dispatch stay until its cleanup; the outputs are writable.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrClientAttachProvider(
    NmrBindingHandle: HANDLE,
    ClientBindingContext: PVOID,
    ClientDispatch: *const c_void,
    ProviderBindingContext: *mut PVOID,
    ProviderDispatch: *mut *const c_void,
) -> NTSTATUS {
    // SAFETY: the caller's.
    unsafe {
        nmr::client_attach(
            NmrBindingHandle,
            ClientBindingContext,
            ClientDispatch,
            ProviderBindingContext,
            ProviderDispatch,
        )
    }
}

/// Page "NmrClientDetachProviderComplete". IRQL: up to DISPATCH_LEVEL.
///
/// # Safety
/// None beyond the handle's being that of a binding.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrClientDetachProviderComplete(NmrBindingHandle: HANDLE) {
    nmr::client_detached(NmrBindingHandle);
}

/// Page "NmrProviderDetachClientComplete". IRQL: up to DISPATCH_LEVEL.
///
/// # Safety
/// None beyond the handle's being that of a binding.
#[allow(non_snake_case)]
pub unsafe extern "system-unwind" fn NmrProviderDetachClientComplete(NmrBindingHandle: HANDLE) {
    nmr::provider_detached(NmrBindingHandle);
}
