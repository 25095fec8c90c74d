//! The exports of `fwpkclnt.sys`.

#![allow(non_snake_case, reason = "the headers' names")]

use core::ffi::c_void;

use crate::sys::fwp;
use crate::sys::fwp::{
    FWPM_CALLOUT0, FWPM_FILTER0, FWPM_LAYER0, FWPM_PROVIDER0, FWPM_SERVICE_STATE,
    FWPM_SERVICE_STATE_CHANGE_CALLBACK0, FWPM_SESSION0, FWPM_SUBLAYER0, FWPS_CALLOUT1, FWPS_CALLOUT2,
    FWPS_CALLOUT3, NET_BUFFER_LIST,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS};

/// Exports functions of [`fwp`] under their own names.
macro_rules! exports {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "system" fn $name($($argument: $type),*) $(-> $result)? {
                // SAFETY: the driver's, by the page of the function.
                unsafe { fwp::$name($($argument),*) }
            }
        )+
    };
}

exports! {
    fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE;
    fn FwpmBfeStateSubscribeChanges0(
        device: *mut c_void, callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0, context: *mut c_void,
        handle: *mut HANDLE
    ) -> NTSTATUS;
    fn FwpmBfeStateUnsubscribeChanges0(handle: HANDLE) -> NTSTATUS;
    fn FwpmEngineOpen0(
        server: *const u16, service: u32, identity: *mut c_void, session: *const FWPM_SESSION0,
        engine: *mut HANDLE
    ) -> NTSTATUS;
    fn FwpmEngineClose0(engine: HANDLE) -> NTSTATUS;
    fn FwpmTransactionBegin0(engine: HANDLE, flags: u32) -> NTSTATUS;
    fn FwpmTransactionCommit0(engine: HANDLE) -> NTSTATUS;
    fn FwpmTransactionAbort0(engine: HANDLE) -> NTSTATUS;
    fn FwpmProviderAdd0(engine: HANDLE, provider: *const FWPM_PROVIDER0, sd: *mut c_void) -> NTSTATUS;
    fn FwpmProviderDeleteByKey0(engine: HANDLE, key: *const GUID) -> NTSTATUS;
    fn FwpmProviderGetByKey0(engine: HANDLE, key: *const GUID, provider: *mut *mut FWPM_PROVIDER0) -> NTSTATUS;
    fn FwpmSubLayerAdd0(engine: HANDLE, sublayer: *const FWPM_SUBLAYER0, sd: *mut c_void) -> NTSTATUS;
    fn FwpmSubLayerDeleteByKey0(engine: HANDLE, key: *const GUID) -> NTSTATUS;
    fn FwpmSubLayerGetByKey0(engine: HANDLE, key: *const GUID, sublayer: *mut *mut FWPM_SUBLAYER0) -> NTSTATUS;
    fn FwpmCalloutAdd0(
        engine: HANDLE, callout: *const FWPM_CALLOUT0, sd: *mut c_void, id: *mut u32
    ) -> NTSTATUS;
    fn FwpmCalloutDeleteById0(engine: HANDLE, id: u32) -> NTSTATUS;
    fn FwpmCalloutDeleteByKey0(engine: HANDLE, key: *const GUID) -> NTSTATUS;
    fn FwpmCalloutGetByKey0(engine: HANDLE, key: *const GUID, callout: *mut *mut FWPM_CALLOUT0) -> NTSTATUS;
    fn FwpmFilterAdd0(engine: HANDLE, filter: *const FWPM_FILTER0, sd: *mut c_void, id: *mut u64) -> NTSTATUS;
    fn FwpmFilterDeleteById0(engine: HANDLE, id: u64) -> NTSTATUS;
    fn FwpmFilterDeleteByKey0(engine: HANDLE, key: *const GUID) -> NTSTATUS;
    fn FwpmFilterGetById0(engine: HANDLE, id: u64, filter: *mut *mut FWPM_FILTER0) -> NTSTATUS;
    fn FwpmFilterGetByKey0(engine: HANDLE, key: *const GUID, filter: *mut *mut FWPM_FILTER0) -> NTSTATUS;
    fn FwpmLayerGetByKey0(engine: HANDLE, key: *const GUID, layer: *mut *mut FWPM_LAYER0) -> NTSTATUS;
    fn FwpmLayerGetById0(engine: HANDLE, id: u16, layer: *mut *mut FWPM_LAYER0) -> NTSTATUS;
    fn FwpmFreeMemory0(p: *mut *mut c_void);
    fn FwpsCalloutRegister1(device: *mut c_void, callout: *const FWPS_CALLOUT1, id: *mut u32) -> NTSTATUS;
    fn FwpsCalloutRegister2(device: *mut c_void, callout: *const FWPS_CALLOUT2, id: *mut u32) -> NTSTATUS;
    fn FwpsCalloutRegister3(device: *mut c_void, callout: *const FWPS_CALLOUT3, id: *mut u32) -> NTSTATUS;
    fn FwpsCalloutUnregisterById0(id: u32) -> NTSTATUS;
    fn FwpsCalloutUnregisterByKey0(key: *const GUID) -> NTSTATUS;
    fn FwpsFlowAssociateContext0(flow: u64, layer: u16, callout: u32, context: u64) -> NTSTATUS;
    fn FwpsFlowRemoveContext0(flow: u64, layer: u16, callout: u32) -> NTSTATUS;
    fn FwpsFlowAbort0(flow: u64) -> NTSTATUS;
    fn FwpsPendOperation0(completion: HANDLE, context: *mut HANDLE) -> NTSTATUS;
    fn FwpsCompleteOperation0(context: HANDLE, packet: *mut NET_BUFFER_LIST);
}
