//! What the image imports from `netio.sys` for the Network Module Registrar: prototypes of `netioddk.h`. What each asks
//! for is on the documentation's page of its name.

#![allow(non_snake_case)]

use super::NPI_CLIENT_CHARACTERISTICS;
use crate::sys::nt::{HANDLE, NTSTATUS, PVOID};
use core::ffi::c_void;

#[link(name = "netio.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn NmrClientAttachProvider(
        NmrBindingHandle: HANDLE,
        ClientBindingContext: PVOID,
        ClientDispatch: *const c_void,
        ProviderBindingContext: *mut PVOID,
        ProviderDispatch: *mut *const c_void,
    ) -> NTSTATUS;
    pub fn NmrClientDetachProviderComplete(NmrBindingHandle: HANDLE);
    pub fn NmrDeregisterClient(NmrClientHandle: HANDLE) -> NTSTATUS;
    pub fn NmrRegisterClient(
        ClientCharacteristics: *const NPI_CLIENT_CHARACTERISTICS,
        ClientContext: PVOID,
        NmrClientHandle: *mut HANDLE,
    ) -> NTSTATUS;
    pub fn NmrWaitForClientDeregisterComplete(NmrClientHandle: HANDLE) -> NTSTATUS;
}
