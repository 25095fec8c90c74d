//! Management functions (`Fwpm…`), the kernel's edition: sessions, transactions, objects. IRQL = PASSIVE_LEVEL but for
//! [`FwpmBfeStateGet0`] and [`FwpmFreeMemory0`].

#![allow(non_snake_case)]

use alloc::format;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::time::Duration;

use wfp_engine::{CalloutSpec, Guid, ProviderSpec, SessionId, SubLayerSpec};

use super::{
    FWPM_CALLOUT_FLAG_PERSISTENT, FWPM_CALLOUT_FLAG_REGISTERED, FWPM_CALLOUT0, FWPM_FILTER0, FWPM_LAYER0,
    FWPM_PROVIDER_FLAG_PERSISTENT, FWPM_PROVIDER0, FWPM_SERVICE_STATE, FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    FWPM_SESSION_FLAG_DYNAMIC, FWPM_SESSION0, FWPM_SUBLAYER_FLAG_PERSISTENT, FWPM_SUBLAYER0,
    FWPM_TXN_READ_ONLY, RPC_C_AUTHN_DEFAULT, RPC_C_AUTHN_WINNT, STATUS_FWP_INVALID_FLAGS,
    STATUS_FWP_INVALID_PARAMETER, STATUS_FWP_NULL_POINTER,
};
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, HANDLE, NTSTATUS, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_HANDLE,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};
use crate::verify::violation;
use crate::wfp::convert::{Store, blob, display, to_guid};
use crate::wfp::state::{
    self, Bfe, Live, UNKNOWN_HANDLE, UNKNOWN_MEMORY, manage, session_handle, session_of, with_session,
};
use crate::{fault, irql, wfp};

/// RPC_NT_SERVER_UNAVAILABLE: "failure to communicate with the remote or local firewall engine" (*FwpmEngineOpen0*).
const RPC_NT_SERVER_UNAVAILABLE: NTSTATUS = 0xC002_0017_u32.cast_signed();

type Call<'a, T> = &'a mut dyn FnMut(&mut Bfe, &mut Live, SessionId) -> wfp_engine::Result<T>;

/// Runs a call of a session that can fail.
fn session<T>(api: &'static str, handle: HANDLE, call: Call<'_, T>) -> Result<T, NTSTATUS> {
    let Some(session) = session_of(handle.addr()) else {
        violation(&UNKNOWN_HANDLE, api, format!("{handle:p}"));
        return Err(STATUS_INVALID_HANDLE);
    };
    if fault::fail(api) {
        irql::require_at_most(api, crate::sys::nt::PASSIVE_LEVEL);
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    with_session(api, session, |bfe, live| call(bfe, live, session)).map_err(wfp_engine::Error::status)
}

fn status<T>(result: Result<T, NTSTATUS>) -> NTSTATUS {
    result.map_or_else(|status| status, |_| STATUS_SUCCESS)
}

/// The key that a pointer leads to.
///
/// # Safety
/// It is null or a GUID.
unsafe fn key(key: *const GUID) -> Result<Guid, NTSTATUS> {
    // SAFETY: by the contract.
    unsafe { key.as_ref() }.map(|key| wfp::guid(*key)).ok_or(STATUS_FWP_NULL_POINTER)
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// It is null or can be written.
unsafe fn give<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: by the contract.
        unsafe { place.write(value) };
    }
}

fn flags(flags: u32, known: u32) -> Result<(), NTSTATUS> {
    if flags & !known == 0 { Ok(()) } else { Err(STATUS_FWP_INVALID_FLAGS) }
}

/// The state of the base filtering engine. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE {
    irql::require_at_most("FwpmBfeStateGet0", DISPATCH_LEVEL);
    state::bfe_state()
}

/// Has `callback` called at each change of the state.
///
/// # Safety
/// The callback stays callable until the subscription is given back.
pub unsafe extern "system" fn FwpmBfeStateSubscribeChanges0(
    deviceObject: *mut c_void,
    callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    context: *mut c_void,
    changeHandle: *mut HANDLE,
) -> NTSTATUS {
    const API: &str = "FwpmBfeStateSubscribeChanges0";
    let Some(mut bfe) = manage(API) else {
        return STATUS_UNSUCCESSFUL;
    };
    if deviceObject.is_null() || callback.is_none() || changeHandle.is_null() {
        return STATUS_FWP_NULL_POINTER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let handle = state::subscribe(&mut bfe, callback, context);
    // SAFETY: by the contract.
    unsafe { give(changeHandle, core::ptr::without_provenance_mut(handle)) };
    STATUS_SUCCESS
}

/// Gives a subscription back; waits for a callback in progress. Not to be called inside that callback.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS {
    const API: &str = "FwpmBfeStateUnsubscribeChanges0";
    irql::require_at_most(API, crate::sys::nt::PASSIVE_LEVEL);
    if state::unsubscribe(API, changeHandle.addr()) {
        STATUS_SUCCESS
    } else {
        violation(&UNKNOWN_HANDLE, API, format!("{changeHandle:p}"));
        STATUS_INVALID_HANDLE
    }
}

/// Opens a session. The engine must be running.
///
/// # Safety
/// The session is null or as documented; `engineHandle` can be written.
pub unsafe extern "system" fn FwpmEngineOpen0(
    serverName: *const u16,
    authnService: u32,
    _authIdentity: *mut c_void,
    session: *const FWPM_SESSION0,
    engineHandle: *mut HANDLE,
) -> NTSTATUS {
    const API: &str = "FwpmEngineOpen0";
    let Some(mut bfe) = manage(API) else {
        return STATUS_UNSUCCESSFUL;
    };
    if engineHandle.is_null() {
        return STATUS_FWP_NULL_POINTER;
    }
    // "Callout drivers must specify NULL" for the server, and one of the two services.
    if !serverName.is_null() || !matches!(authnService, RPC_C_AUTHN_WINNT | RPC_C_AUTHN_DEFAULT) {
        return STATUS_FWP_INVALID_PARAMETER;
    }
    // SAFETY: by the contract.
    let session = unsafe { session.as_ref() };
    let (session_flags, timeout) = session.map_or((0, 0), |s| (s.flags, s.txnWaitTimeoutInMSec));
    if let Err(status) = flags(session_flags, FWPM_SESSION_FLAG_DYNAMIC) {
        return status;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let Some(id) = bfe.engine.open(session_flags & FWPM_SESSION_FLAG_DYNAMIC != 0) else {
        return RPC_NT_SERVER_UNAVAILABLE;
    };
    if timeout != 0 {
        bfe.timeouts.insert(id, Duration::from_millis(timeout.into()));
    }
    // SAFETY: by the contract.
    unsafe { give(engineHandle, core::ptr::without_provenance_mut(session_handle(id))) };
    STATUS_SUCCESS
}

/// Closes a session: its transaction is aborted, what it added dynamically goes.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS {
    const API: &str = "FwpmEngineClose0";
    let Some(mut bfe) = manage(API) else {
        return STATUS_UNSUCCESSFUL;
    };
    let mut live = Live::new(&bfe);
    let closed = session_of(engineHandle.addr()).is_some_and(|id| {
        bfe.timeouts.remove(&id);
        bfe.engine.close(id, &mut live)
    });
    state::transaction_ended();
    if closed {
        STATUS_SUCCESS
    } else {
        violation(&UNKNOWN_HANDLE, API, format!("{engineHandle:p}"));
        STATUS_INVALID_HANDLE
    }
}

/// Begins a transaction; waits for that of another session.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmTransactionBegin0(engineHandle: HANDLE, txnFlags: u32) -> NTSTATUS {
    if let Err(status) = flags(txnFlags, FWPM_TXN_READ_ONLY) {
        return status;
    }
    let read_only = txnFlags & FWPM_TXN_READ_ONLY != 0;
    status(session("FwpmTransactionBegin0", engineHandle, &mut |bfe, _, id| bfe.engine.begin(id, read_only)))
}

/// Makes what was done in the transaction take effect.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS {
    let result =
        session("FwpmTransactionCommit0", engineHandle, &mut |bfe, live, id| bfe.engine.commit(id, live));
    state::transaction_ended();
    status(result)
}

/// Undoes what was done in the transaction. Is not made to fail: nothing could be done about it.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS {
    let result = fault::exempt(|| {
        session("FwpmTransactionAbort0", engineHandle, &mut |bfe, live, id| bfe.engine.abort(id, live))
    });
    state::transaction_ended();
    status(result)
}

/// Adds a provider.
///
/// # Safety
/// The provider is null or as documented.
pub unsafe extern "system" fn FwpmProviderAdd0(
    engineHandle: HANDLE,
    provider: *const FWPM_PROVIDER0,
    _sd: *mut c_void,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let Some(provider) = (unsafe { provider.as_ref() }) else {
        return STATUS_FWP_NULL_POINTER;
    };
    // "FWPM_PROVIDER_FLAG_DISABLED: this flag cannot be set when adding new providers" (FWPM_PROVIDER0).
    if let Err(status) = flags(provider.flags, FWPM_PROVIDER_FLAG_PERSISTENT) {
        return status;
    }
    let spec = ProviderSpec {
        key: wfp::guid(provider.providerKey),
        // SAFETY: by the contract.
        display: unsafe { display(&provider.displayData) },
        persistent: provider.flags & FWPM_PROVIDER_FLAG_PERSISTENT != 0,
        // SAFETY: by the contract.
        data: unsafe { blob(&provider.providerData) },
        // SAFETY: by the contract.
        service_name: unsafe { wfp::wide(provider.serviceName) },
    };
    status(session("FwpmProviderAdd0", engineHandle, &mut |bfe, live, id| {
        bfe.engine.add_provider(id, spec.clone(), live)
    }))
}

/// Deletes a provider; `STATUS_FWP_IN_USE` while another object names it.
///
/// # Safety
/// The key is null or a GUID.
pub unsafe extern "system" fn FwpmProviderDeleteByKey0(
    engineHandle: HANDLE,
    providerKey: *const GUID,
) -> NTSTATUS {
    // SAFETY: by the contract.
    status(unsafe { key(providerKey) }.and_then(|key| {
        session("FwpmProviderDeleteByKey0", engineHandle, &mut |bfe, live, id| {
            bfe.engine.delete_provider(id, &key, live)
        })
    }))
}

/// What a `Get` function hands out: the structure, then what it points at.
#[repr(C)]
struct Returned<T> {
    head: T,
    store: Store,
}

// SAFETY: the pointers lead into the store, which goes with it.
unsafe impl<T> Send for Returned<T> {}

/// Runs a `Get` function of a session.
///
/// # Safety
/// `place` is null or can be written.
unsafe fn get<T: 'static>(
    api: &'static str,
    handle: HANDLE,
    place: *mut *mut T,
    read: &mut dyn FnMut(&mut Bfe, SessionId, &mut Store) -> wfp_engine::Result<T>,
) -> NTSTATUS {
    if place.is_null() {
        return STATUS_FWP_NULL_POINTER;
    }
    let result = session(api, handle, &mut |bfe, _, id| {
        let mut store = Store::default();
        let head = read(bfe, id, &mut store)?;
        Ok(bfe.hand_out(api, Returned { head, store }).cast::<T>())
    });
    match result {
        Ok(object) => {
            // SAFETY: by the contract.
            unsafe { give(place, object) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Gives a provider, to be freed with [`FwpmFreeMemory0`].
///
/// # Safety
/// The key is null or a GUID; `provider` can be written.
pub unsafe extern "system" fn FwpmProviderGetByKey0(
    engineHandle: HANDLE,
    providerKey: *const GUID,
    provider: *mut *mut FWPM_PROVIDER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let key = match unsafe { key(providerKey) } {
        Ok(key) => key,
        Err(status) => return status,
    };
    // SAFETY: by the contract.
    unsafe {
        get("FwpmProviderGetByKey0", engineHandle, provider, &mut |bfe, id, store| {
            let spec = bfe.engine.provider(id, &key)?;
            Ok(FWPM_PROVIDER0 {
                providerKey: to_guid(spec.key),
                displayData: store.display(&spec.display),
                flags: if spec.persistent { FWPM_PROVIDER_FLAG_PERSISTENT } else { 0 },
                providerData: store.bytes(&spec.data),
                serviceName: store.wide(spec.service_name.as_deref()),
            })
        })
    }
}

/// Adds a sublayer.
///
/// # Safety
/// The sublayer is null or as documented.
pub unsafe extern "system" fn FwpmSubLayerAdd0(
    engineHandle: HANDLE,
    subLayer: *const FWPM_SUBLAYER0,
    _sd: *mut c_void,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let Some(sublayer) = (unsafe { subLayer.as_ref() }) else {
        return STATUS_FWP_NULL_POINTER;
    };
    if let Err(status) = flags(sublayer.flags, FWPM_SUBLAYER_FLAG_PERSISTENT) {
        return status;
    }
    let spec = SubLayerSpec {
        key: wfp::guid(sublayer.subLayerKey),
        // SAFETY: by the contract.
        display: unsafe { display(&sublayer.displayData) },
        persistent: sublayer.flags & FWPM_SUBLAYER_FLAG_PERSISTENT != 0,
        // SAFETY: by the contract.
        provider: unsafe { sublayer.providerKey.as_ref() }.map(|key| wfp::guid(*key)),
        // SAFETY: by the contract.
        data: unsafe { blob(&sublayer.providerData) },
        weight: sublayer.weight,
    };
    status(session("FwpmSubLayerAdd0", engineHandle, &mut |bfe, live, id| {
        bfe.engine.add_sublayer(id, spec.clone(), live)
    }))
}

/// Deletes a sublayer; `STATUS_FWP_IN_USE` while a filter is in it.
///
/// # Safety
/// The key is null or a GUID.
pub unsafe extern "system" fn FwpmSubLayerDeleteByKey0(
    engineHandle: HANDLE,
    subLayerKey: *const GUID,
) -> NTSTATUS {
    // SAFETY: by the contract.
    status(unsafe { key(subLayerKey) }.and_then(|key| {
        session("FwpmSubLayerDeleteByKey0", engineHandle, &mut |bfe, live, id| {
            bfe.engine.delete_sublayer(id, &key, live)
        })
    }))
}

/// Gives a sublayer, to be freed with [`FwpmFreeMemory0`].
///
/// # Safety
/// The key is null or a GUID; `subLayer` can be written.
pub unsafe extern "system" fn FwpmSubLayerGetByKey0(
    engineHandle: HANDLE,
    subLayerKey: *const GUID,
    subLayer: *mut *mut FWPM_SUBLAYER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let key = match unsafe { key(subLayerKey) } {
        Ok(key) => key,
        Err(status) => return status,
    };
    // SAFETY: by the contract.
    unsafe {
        get("FwpmSubLayerGetByKey0", engineHandle, subLayer, &mut |bfe, id, store| {
            let spec = bfe.engine.sublayer(id, &key)?;
            Ok(FWPM_SUBLAYER0 {
                subLayerKey: to_guid(spec.key),
                displayData: store.display(&spec.display),
                flags: if spec.persistent { FWPM_SUBLAYER_FLAG_PERSISTENT } else { 0 },
                providerKey: store.key(spec.provider),
                providerData: store.bytes(&spec.data),
                weight: spec.weight,
            })
        })
    }
}

/// Adds a callout object; gives its run-time identifier.
///
/// # Safety
/// The callout is null or as documented; `id` is null or can be written.
pub unsafe extern "system" fn FwpmCalloutAdd0(
    engineHandle: HANDLE,
    callout: *const FWPM_CALLOUT0,
    _sd: *mut c_void,
    id: *mut u32,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let Some(callout) = (unsafe { callout.as_ref() }) else {
        return STATUS_FWP_NULL_POINTER;
    };
    if let Err(status) = flags(callout.flags, FWPM_CALLOUT_FLAG_PERSISTENT) {
        return status;
    }
    let spec = CalloutSpec {
        key: wfp::guid(callout.calloutKey),
        // SAFETY: by the contract.
        display: unsafe { display(&callout.displayData) },
        persistent: callout.flags & FWPM_CALLOUT_FLAG_PERSISTENT != 0,
        // SAFETY: by the contract.
        provider: unsafe { callout.providerKey.as_ref() }.map(|key| wfp::guid(*key)),
        // SAFETY: by the contract.
        data: unsafe { blob(&callout.providerData) },
        layer: wfp::guid(callout.applicableLayer),
    };
    let result = session("FwpmCalloutAdd0", engineHandle, &mut |bfe, live, session| {
        bfe.engine.add_callout(session, spec.clone(), live)
    });
    if let Ok(number) = result {
        // SAFETY: by the contract.
        unsafe { give(id, number) };
    }
    status(result)
}

/// Deletes a callout object; `STATUS_FWP_IN_USE` while a filter names it.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmCalloutDeleteById0(engineHandle: HANDLE, calloutId: u32) -> NTSTATUS {
    status(session("FwpmCalloutDeleteById0", engineHandle, &mut |bfe, live, id| {
        let key = bfe.engine.callout_key(calloutId)?;
        bfe.engine.delete_callout(id, &key, live)
    }))
}

/// As [`FwpmCalloutDeleteById0`], by the callout's key.
///
/// # Safety
/// The key is null or a GUID.
pub unsafe extern "system" fn FwpmCalloutDeleteByKey0(
    engineHandle: HANDLE,
    calloutKey: *const GUID,
) -> NTSTATUS {
    // SAFETY: by the contract.
    status(unsafe { key(calloutKey) }.and_then(|key| {
        session("FwpmCalloutDeleteByKey0", engineHandle, &mut |bfe, live, id| {
            bfe.engine.delete_callout(id, &key, live)
        })
    }))
}

/// Gives a callout object, to be freed with [`FwpmFreeMemory0`].
///
/// # Safety
/// The key is null or a GUID; `callout` can be written.
pub unsafe extern "system" fn FwpmCalloutGetByKey0(
    engineHandle: HANDLE,
    calloutKey: *const GUID,
    callout: *mut *mut FWPM_CALLOUT0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let key = match unsafe { key(calloutKey) } {
        Ok(key) => key,
        Err(status) => return status,
    };
    // SAFETY: by the contract.
    unsafe {
        get("FwpmCalloutGetByKey0", engineHandle, callout, &mut |bfe, id, store| {
            let (spec, number, registered) = bfe.engine.callout(id, &key)?;
            Ok(FWPM_CALLOUT0 {
                calloutKey: to_guid(spec.key),
                displayData: store.display(&spec.display),
                flags: if spec.persistent { FWPM_CALLOUT_FLAG_PERSISTENT } else { 0 }
                    | if registered { FWPM_CALLOUT_FLAG_REGISTERED } else { 0 },
                providerKey: store.key(spec.provider),
                providerData: store.bytes(&spec.data),
                applicableLayer: to_guid(spec.layer),
                calloutId: number,
            })
        })
    }
}

/// Adds a filter; gives its run-time identifier.
///
/// # Safety
/// The filter is null or as documented; `id` is null or can be written.
pub unsafe extern "system" fn FwpmFilterAdd0(
    engineHandle: HANDLE,
    filter: *const FWPM_FILTER0,
    _sd: *mut c_void,
    id: *mut u64,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let Some(filter) = (unsafe { filter.as_ref() }) else {
        return STATUS_FWP_NULL_POINTER;
    };
    // SAFETY: by the contract.
    let spec = match unsafe { wfp::filter_spec(filter) } {
        Ok(spec) => spec,
        Err(status) => return status,
    };
    let result = session("FwpmFilterAdd0", engineHandle, &mut |bfe, live, session| {
        bfe.engine.add_filter(session, spec.clone(), live)
    });
    if let Ok(number) = result {
        // SAFETY: by the contract.
        unsafe { give(id, number) };
    }
    status(result)
}

/// Deletes a filter.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpmFilterDeleteById0(engineHandle: HANDLE, filterId: u64) -> NTSTATUS {
    status(session("FwpmFilterDeleteById0", engineHandle, &mut |bfe, live, id| {
        bfe.engine.delete_filter(id, filterId, live)
    }))
}

/// As [`FwpmFilterDeleteById0`], by the filter's key.
///
/// # Safety
/// The key is null or a GUID.
pub unsafe extern "system" fn FwpmFilterDeleteByKey0(
    engineHandle: HANDLE,
    filterKey: *const GUID,
) -> NTSTATUS {
    // SAFETY: by the contract.
    status(unsafe { key(filterKey) }.and_then(|key| {
        session("FwpmFilterDeleteByKey0", engineHandle, &mut |bfe, live, id| {
            let filter = bfe.engine.filter_id(id, &key)?;
            bfe.engine.delete_filter(id, filter, live)
        })
    }))
}

/// Gives a filter, to be freed with [`FwpmFreeMemory0`].
///
/// # Safety
/// `filter` can be written.
pub unsafe extern "system" fn FwpmFilterGetById0(
    engineHandle: HANDLE,
    filterId: u64,
    filter: *mut *mut FWPM_FILTER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    unsafe {
        get("FwpmFilterGetById0", engineHandle, filter, &mut |bfe, id, store| {
            Ok(store.filter(&*bfe.engine.filter(id, filterId)?))
        })
    }
}

/// As [`FwpmFilterGetById0`], by the filter's key.
///
/// # Safety
/// The key is null or a GUID; `filter` can be written.
pub unsafe extern "system" fn FwpmFilterGetByKey0(
    engineHandle: HANDLE,
    filterKey: *const GUID,
    filter: *mut *mut FWPM_FILTER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let key = match unsafe { key(filterKey) } {
        Ok(key) => key,
        Err(status) => return status,
    };
    // SAFETY: by the contract.
    unsafe {
        get("FwpmFilterGetByKey0", engineHandle, filter, &mut |bfe, id, store| {
            let number = bfe.engine.filter_id(id, &key)?;
            Ok(store.filter(&*bfe.engine.filter(id, number)?))
        })
    }
}

/// Gives a layer with its fields, to be freed with [`FwpmFreeMemory0`].
///
/// # Safety
/// The key is null or a GUID; `layer` can be written.
pub unsafe extern "system" fn FwpmLayerGetByKey0(
    engineHandle: HANDLE,
    layerKey: *const GUID,
    layer: *mut *mut FWPM_LAYER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let key = match unsafe { key(layerKey) } {
        Ok(key) => key,
        Err(status) => return status,
    };
    // SAFETY: by the contract.
    unsafe {
        get("FwpmLayerGetByKey0", engineHandle, layer, &mut |bfe, _, store| {
            bfe.engine.layer(&key).map(|layer| store.layer(layer))
        })
    }
}

/// As [`FwpmLayerGetByKey0`], by the layer's run-time identifier.
///
/// # Safety
/// `layer` can be written.
pub unsafe extern "system" fn FwpmLayerGetById0(
    engineHandle: HANDLE,
    layerId: u16,
    layer: *mut *mut FWPM_LAYER0,
) -> NTSTATUS {
    // SAFETY: by the contract.
    unsafe {
        get("FwpmLayerGetById0", engineHandle, layer, &mut |bfe, _, store| {
            bfe.engine.layer_by_id(layerId).map(|layer| store.layer(layer))
        })
    }
}

/// Frees what a `Get` function gave, and clears the pointer. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `p` is null or a pointer to a pointer that such a function gave.
pub unsafe extern "system" fn FwpmFreeMemory0(p: *mut *mut c_void) {
    const API: &str = "FwpmFreeMemory0";
    irql::require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: by the contract.
    let Some(place) = (unsafe { p.as_mut() }) else {
        return;
    };
    if place.is_null() {
        return;
    }
    if state::free(place.addr()) {
        *place = null_mut();
    } else {
        violation(&UNKNOWN_MEMORY, API, format!("{:p}", *place));
    }
}
