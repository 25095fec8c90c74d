//! What the image imports from `fwpkclnt.sys`: prototypes of `fwpsk.h` and `fwpmk.h`. What each asks for is on the
//! documentation's page of its name.

#![allow(non_snake_case)]

use core::ffi::c_void;

use super::{
    FWPM_CALLOUT0, FWPM_FILTER0, FWPM_PROVIDER0, FWPM_SERVICE_STATE, FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    FWPM_SESSION0, FWPM_SUBLAYER0, FWPS_CALLOUT3,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS};

#[link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE;
    pub fn FwpmBfeStateSubscribeChanges0(
        deviceObject: *mut c_void,
        callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
        context: *mut c_void,
        changeHandle: *mut HANDLE,
    ) -> NTSTATUS;
    pub fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS;
    pub fn FwpmCalloutAdd0(
        engineHandle: HANDLE,
        callout: *const FWPM_CALLOUT0,
        sd: *mut c_void,
        id: *mut u32,
    ) -> NTSTATUS;
    pub fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS;
    pub fn FwpmEngineOpen0(
        serverName: *const u16,
        authnService: u32,
        authIdentity: *mut c_void,
        session: *const FWPM_SESSION0,
        engineHandle: *mut HANDLE,
    ) -> NTSTATUS;
    pub fn FwpmFilterAdd0(
        engineHandle: HANDLE,
        filter: *const FWPM_FILTER0,
        sd: *mut c_void,
        id: *mut u64,
    ) -> NTSTATUS;
    pub fn FwpmFreeMemory0(p: *mut *mut c_void);
    pub fn FwpmProviderAdd0(
        engineHandle: HANDLE,
        provider: *const FWPM_PROVIDER0,
        sd: *mut c_void,
    ) -> NTSTATUS;
    pub fn FwpmSubLayerAdd0(
        engineHandle: HANDLE,
        subLayer: *const FWPM_SUBLAYER0,
        sd: *mut c_void,
    ) -> NTSTATUS;
    pub fn FwpmSubLayerGetByKey0(
        engineHandle: HANDLE,
        key: *const GUID,
        subLayer: *mut *mut FWPM_SUBLAYER0,
    ) -> NTSTATUS;
    pub fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS;
    pub fn FwpmTransactionBegin0(engineHandle: HANDLE, flags: u32) -> NTSTATUS;
    pub fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS;
    pub fn FwpsCalloutRegister3(
        deviceObject: *mut c_void,
        callout: *const FWPS_CALLOUT3,
        calloutId: *mut u32,
    ) -> NTSTATUS;
    pub fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS;
    pub fn FwpsFlowAssociateContext0(flowId: u64, layerId: u16, calloutId: u32, flowContext: u64)
    -> NTSTATUS;
    pub fn FwpsFlowRemoveContext0(flowId: u64, layerId: u16, calloutId: u32) -> NTSTATUS;
}
