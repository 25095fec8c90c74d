//! Objects of the filtering platform, by the functions of `fwpkclnt.sys`.

use core::ffi::c_void;
use core::ptr::{null, null_mut};

use crate::checks::{Check, same, that};
use crate::sys::fwp::{
    FWP_ACTION_CALLOUT_TERMINATING, FWP_MATCH_EQUAL, FWP_UINT16, FWPM_CALLOUT0,
    FWPM_CONDITION_IP_REMOTE_PORT, FWPM_FILTER_CONDITION0, FWPM_FILTER0, FWPM_LAYER_ALE_AUTH_CONNECT_V4,
    FWPM_SESSION_FLAG_DYNAMIC, FWPM_SESSION0, FWPM_SUBLAYER0, RPC_C_AUTHN_DEFAULT, STATUS_FWP_ALREADY_EXISTS,
    STATUS_FWP_FILTER_NOT_FOUND, STATUS_FWP_IN_USE, STATUS_FWP_NO_TXN_IN_PROGRESS,
    STATUS_FWP_NULL_DISPLAY_NAME, STATUS_FWP_SUBLAYER_NOT_FOUND,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS, STATUS_SUCCESS};

#[link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn FwpmEngineOpen0(
        server: *const u16,
        service: u32,
        identity: *mut c_void,
        session: *const FWPM_SESSION0,
        engine: *mut HANDLE,
    ) -> NTSTATUS;
    fn FwpmEngineClose0(engine: HANDLE) -> NTSTATUS;
    fn FwpmTransactionBegin0(engine: HANDLE, flags: u32) -> NTSTATUS;
    fn FwpmTransactionCommit0(engine: HANDLE) -> NTSTATUS;
    fn FwpmTransactionAbort0(engine: HANDLE) -> NTSTATUS;
    fn FwpmSubLayerAdd0(engine: HANDLE, sublayer: *const FWPM_SUBLAYER0, sd: *mut c_void) -> NTSTATUS;
    fn FwpmSubLayerDeleteByKey0(engine: HANDLE, key: *const GUID) -> NTSTATUS;
    fn FwpmSubLayerGetByKey0(
        engine: HANDLE,
        key: *const GUID,
        sublayer: *mut *mut FWPM_SUBLAYER0,
    ) -> NTSTATUS;
    fn FwpmCalloutAdd0(
        engine: HANDLE,
        callout: *const FWPM_CALLOUT0,
        sd: *mut c_void,
        id: *mut u32,
    ) -> NTSTATUS;
    fn FwpmCalloutDeleteById0(engine: HANDLE, id: u32) -> NTSTATUS;
    fn FwpmFilterAdd0(engine: HANDLE, filter: *const FWPM_FILTER0, sd: *mut c_void, id: *mut u64)
    -> NTSTATUS;
    fn FwpmFilterDeleteById0(engine: HANDLE, id: u64) -> NTSTATUS;
    fn FwpmFilterGetById0(engine: HANDLE, id: u64, filter: *mut *mut FWPM_FILTER0) -> NTSTATUS;
    fn FwpmFreeMemory0(p: *mut *mut c_void);
}

static SUBLAYER: GUID = GUID { Data1: 0x6B70_7262, Data2: 1, Data3: 1, Data4: [1; 8] };
static CALLOUT: GUID = GUID { Data1: 0x6B70_7262, Data2: 2, Data3: 2, Data4: [2; 8] };

/// "probe" in UTF-16.
static mut NAME: [u16; 6] = [0x70, 0x72, 0x6F, 0x62, 0x65, 0];

/// Frees what a Get function gave.
fn free<T>(mut given: *mut T) {
    // SAFETY: the platform gave it.
    unsafe { FwpmFreeMemory0((&raw mut given).cast()) };
}

pub fn objects() -> Check {
    let mut session = FWPM_SESSION0::ZERO;
    session.flags = FWPM_SESSION_FLAG_DYNAMIC;
    let mut engine = null_mut();
    // SAFETY: all places live.
    let status = unsafe {
        FwpmEngineOpen0(null(), RPC_C_AUTHN_DEFAULT, null_mut(), &raw const session, &raw mut engine)
    };
    same("FwpmEngineOpen0", &status, &STATUS_SUCCESS)?;
    let result = in_session(engine);
    // SAFETY: opened above.
    same("FwpmEngineClose0", &unsafe { FwpmEngineClose0(engine) }, &STATUS_SUCCESS)?;
    result
}

fn in_session(engine: HANDLE) -> Check {
    let mut sublayer = FWPM_SUBLAYER0::ZERO;
    sublayer.subLayerKey = SUBLAYER;
    sublayer.weight = 77;
    let add = |sublayer: &FWPM_SUBLAYER0| {
        // SAFETY: the sublayer lives.
        unsafe { FwpmSubLayerAdd0(engine, sublayer, null_mut()) }
    };
    same("a sublayer without a name", &add(&sublayer), &STATUS_FWP_NULL_DISPLAY_NAME)?;
    sublayer.displayData.name = (&raw mut NAME).cast();
    // What an aborted transaction has added is not there.
    // SAFETY: a session's handle.
    same("begin", &unsafe { FwpmTransactionBegin0(engine, 0) }, &STATUS_SUCCESS)?;
    same("a sublayer", &add(&sublayer), &STATUS_SUCCESS)?;
    // SAFETY: a session's handle.
    same("abort", &unsafe { FwpmTransactionAbort0(engine) }, &STATUS_SUCCESS)?;
    // SAFETY: a session's handle.
    let status = unsafe { FwpmTransactionCommit0(engine) };
    same("commit without a transaction", &status, &STATUS_FWP_NO_TXN_IN_PROGRESS)?;
    let mut given = null_mut();
    // SAFETY: the key and the place live.
    let status = unsafe { FwpmSubLayerGetByKey0(engine, &raw const SUBLAYER, &raw mut given) };
    same("a sublayer that was rolled back", &status, &STATUS_FWP_SUBLAYER_NOT_FOUND)?;
    same("a sublayer", &add(&sublayer), &STATUS_SUCCESS)?;
    same("the same once more", &add(&sublayer), &STATUS_FWP_ALREADY_EXISTS)?;
    // SAFETY: the key and the place live.
    let status = unsafe { FwpmSubLayerGetByKey0(engine, &raw const SUBLAYER, &raw mut given) };
    same("FwpmSubLayerGetByKey0", &status, &STATUS_SUCCESS)?;
    // SAFETY: the platform gave it.
    let weight = unsafe { (*given).weight };
    free(given);
    same("its weight", &weight, &77)?;
    filters(engine)?;
    // SAFETY: the key lives.
    let status = unsafe { FwpmSubLayerDeleteByKey0(engine, &raw const SUBLAYER) };
    same("FwpmSubLayerDeleteByKey0", &status, &STATUS_SUCCESS)
}

fn filters(engine: HANDLE) -> Check {
    let mut callout = FWPM_CALLOUT0::ZERO;
    callout.calloutKey = CALLOUT;
    callout.displayData.name = (&raw mut NAME).cast();
    callout.applicableLayer = FWPM_LAYER_ALE_AUTH_CONNECT_V4;
    let mut number = 0;
    // SAFETY: all places live.
    let status = unsafe { FwpmCalloutAdd0(engine, &raw const callout, null_mut(), &raw mut number) };
    same("FwpmCalloutAdd0", &status, &STATUS_SUCCESS)?;
    let mut condition = FWPM_FILTER_CONDITION0::ZERO;
    condition.fieldKey = FWPM_CONDITION_IP_REMOTE_PORT;
    condition.matchType = FWP_MATCH_EQUAL;
    condition.conditionValue.type_ = FWP_UINT16;
    condition.conditionValue.u.uint16 = 443;
    let mut filter = FWPM_FILTER0::ZERO;
    filter.displayData.name = (&raw mut NAME).cast();
    filter.layerKey = FWPM_LAYER_ALE_AUTH_CONNECT_V4;
    filter.subLayerKey = SUBLAYER;
    filter.action.type_ = FWP_ACTION_CALLOUT_TERMINATING;
    filter.action.u.calloutKey = CALLOUT;
    filter.numFilterConditions = 1;
    filter.filterCondition = &raw mut condition;
    let mut id = 0;
    // SAFETY: all places live.
    let status = unsafe { FwpmFilterAdd0(engine, &raw const filter, null_mut(), &raw mut id) };
    same("FwpmFilterAdd0", &status, &STATUS_SUCCESS)?;
    // SAFETY: values only.
    same("a callout in use", &unsafe { FwpmCalloutDeleteById0(engine, number) }, &STATUS_FWP_IN_USE)?;
    // SAFETY: the key lives.
    let status = unsafe { FwpmSubLayerDeleteByKey0(engine, &raw const SUBLAYER) };
    same("a sublayer in use", &status, &STATUS_FWP_IN_USE)?;
    let mut given = null_mut();
    // SAFETY: the place lives.
    let status = unsafe { FwpmFilterGetById0(engine, id, &raw mut given) };
    same("FwpmFilterGetById0", &status, &STATUS_SUCCESS)?;
    // SAFETY: the platform gave it.
    let read = unsafe { &*given };
    // SAFETY: it says that it has one condition.
    let test = unsafe { &*read.filterCondition };
    // SAFETY: a condition on a port is of that type.
    let port = unsafe { test.conditionValue.u.uint16 };
    let found = (read.filterId, read.numFilterConditions, test.conditionValue.type_, port);
    free(given);
    same("the filter", &found, &(id, 1, FWP_UINT16, 443))?;
    // SAFETY: values only.
    same("FwpmFilterDeleteById0", &unsafe { FwpmFilterDeleteById0(engine, id) }, &STATUS_SUCCESS)?;
    // SAFETY: values only.
    let status = unsafe { FwpmFilterDeleteById0(engine, id) };
    same("a filter that is gone", &status, &STATUS_FWP_FILTER_NOT_FOUND)?;
    // SAFETY: values only.
    same("FwpmCalloutDeleteById0", &unsafe { FwpmCalloutDeleteById0(engine, number) }, &STATUS_SUCCESS)?;
    that("identifiers", id != 0 && number != 0)
}
