//! Run-time functions (`Fwps…`): callouts, flow contexts, pended operations.

#![allow(non_snake_case)]

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicUsize};

use super::{
    FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0, FWPS_CALLOUT1, FWPS_CALLOUT2, FWPS_CALLOUT3, NET_BUFFER_LIST,
    STATUS_FWP_CALLOUT_NOT_FOUND, STATUS_FWP_NULL_POINTER,
};
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, HANDLE, NTSTATUS, STATUS_DEVICE_BUSY, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};
use crate::wfp::state::{self, Callout, Functions, manage};
use crate::{fault, irql, wfp};

/// What the versions of a callout have in common.
struct Registration {
    key: GUID,
    flags: u32,
    functions: Functions,
    /// A callout without a classify function is none.
    classifies: bool,
    flow_delete: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
}

/// # Safety
/// `id` is null or can be written.
unsafe fn register(
    api: &'static str,
    device: *mut c_void,
    registration: Option<Registration>,
    id: *mut u32,
) -> NTSTATUS {
    let Some(mut bfe) = manage(api) else {
        return STATUS_UNSUCCESSFUL;
    };
    let Some(registration) = registration.filter(|r| r.classifies && !device.is_null()) else {
        return STATUS_FWP_NULL_POINTER;
    };
    if fault::fail(api) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let key = wfp::guid(registration.key);
    let callout = Callout {
        id: bfe.engine.callout_id(key),
        flags: registration.flags,
        functions: registration.functions,
        flow_delete: registration.flow_delete,
        contexts: AtomicUsize::new(0),
        leaving: AtomicBool::new(false),
    };
    let result = state::register(&mut bfe, key, callout);
    if let Ok(number) = result
        && !id.is_null()
    {
        // SAFETY: by the contract.
        unsafe { id.write(number) };
    }
    state::status(result)
}

/// Registers a callout. IRQL = PASSIVE_LEVEL. `STATUS_FWP_ALREADY_EXISTS` for a key that is registered.
///
/// # Safety
/// The callout's functions stay callable until it is unregistered.
pub unsafe extern "system" fn FwpsCalloutRegister1(
    deviceObject: *mut c_void,
    callout: *const FWPS_CALLOUT1,
    calloutId: *mut u32,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let registration = unsafe { callout.as_ref() }.map(|callout| Registration {
        key: callout.calloutKey,
        flags: callout.flags,
        functions: Functions::V1(callout.classifyFn, callout.notifyFn),
        classifies: callout.classifyFn.is_some(),
        flow_delete: callout.flowDeleteFn,
    });
    // SAFETY: by the contract.
    unsafe { register("FwpsCalloutRegister1", deviceObject, registration, calloutId) }
}

/// As [`FwpsCalloutRegister1`], with the second version of the functions.
///
/// # Safety
/// The callout's functions stay callable until it is unregistered.
pub unsafe extern "system" fn FwpsCalloutRegister2(
    deviceObject: *mut c_void,
    callout: *const FWPS_CALLOUT2,
    calloutId: *mut u32,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let registration = unsafe { callout.as_ref() }.map(|callout| Registration {
        key: callout.calloutKey,
        flags: callout.flags,
        functions: Functions::V2(callout.classifyFn, callout.notifyFn),
        classifies: callout.classifyFn.is_some(),
        flow_delete: callout.flowDeleteFn,
    });
    // SAFETY: by the contract.
    unsafe { register("FwpsCalloutRegister2", deviceObject, registration, calloutId) }
}

/// As [`FwpsCalloutRegister1`], with the third version of the functions.
///
/// # Safety
/// The callout's functions stay callable until it is unregistered.
pub unsafe extern "system" fn FwpsCalloutRegister3(
    deviceObject: *mut c_void,
    callout: *const FWPS_CALLOUT3,
    calloutId: *mut u32,
) -> NTSTATUS {
    // SAFETY: by the contract.
    let registration = unsafe { callout.as_ref() }.map(|callout| Registration {
        key: callout.calloutKey,
        flags: callout.flags,
        functions: Functions::V3(callout.classifyFn, callout.notifyFn),
        classifies: callout.classifyFn.is_some(),
        flow_delete: callout.flowDeleteFn,
    });
    // SAFETY: by the contract.
    unsafe { register("FwpsCalloutRegister3", deviceObject, registration, calloutId) }
}

/// Unregisters a callout; none of its functions is called any more when this returns `STATUS_SUCCESS`. IRQL =
/// PASSIVE_LEVEL. `STATUS_DEVICE_BUSY` while it has flow contexts, `STATUS_FWP_IN_USE` while another thread unregisters
/// it, `STATUS_FWP_CALLOUT_NOT_FOUND`.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS {
    let Some(mut bfe) = manage("FwpsCalloutUnregisterById0") else {
        return STATUS_UNSUCCESSFUL;
    };
    let Ok(key) = bfe.engine.callout_key(calloutId) else {
        return STATUS_FWP_CALLOUT_NOT_FOUND;
    };
    unregistered(state::unregister(&mut bfe, &key))
}

/// As [`FwpsCalloutUnregisterById0`], by the callout's key.
///
/// # Safety
/// The key is null or a GUID.
pub unsafe extern "system" fn FwpsCalloutUnregisterByKey0(calloutKey: *const GUID) -> NTSTATUS {
    let Some(mut bfe) = manage("FwpsCalloutUnregisterByKey0") else {
        return STATUS_UNSUCCESSFUL;
    };
    // SAFETY: by the contract.
    let Some(key) = (unsafe { calloutKey.as_ref() }) else {
        return STATUS_FWP_NULL_POINTER;
    };
    unregistered(state::unregister(&mut bfe, &wfp::guid(*key)))
}

fn unregistered(result: wfp_engine::Result<bool>) -> NTSTATUS {
    match result {
        Ok(true) => STATUS_DEVICE_BUSY,
        result => state::status(result),
    }
}

/// Associates a context with a flow, for one callout at one layer. IRQL <= DISPATCH_LEVEL. `STATUS_OBJECT_NAME_EXISTS`,
/// which passes `NT_SUCCESS`, if there is one already.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpsFlowAssociateContext0(
    flowId: u64,
    layerId: u16,
    calloutId: u32,
    flowContext: u64,
) -> NTSTATUS {
    irql::require_at_most("FwpsFlowAssociateContext0", DISPATCH_LEVEL);
    if fault::fail("FwpsFlowAssociateContext0") {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    wfp::associate(flowId, layerId, calloutId, flowContext)
}

/// Removes a context from a flow. IRQL <= DISPATCH_LEVEL. `STATUS_SUCCESS`: the flow delete function has run, on this
/// stack; `STATUS_PENDING`: it will run; `STATUS_UNSUCCESSFUL`: there was none.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpsFlowRemoveContext0(flowId: u64, layerId: u16, calloutId: u32) -> NTSTATUS {
    irql::require_at_most("FwpsFlowRemoveContext0", DISPATCH_LEVEL);
    wfp::remove(flowId, layerId, calloutId)
}

/// Aborts a flow. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// None beyond the ABI.
pub unsafe extern "system" fn FwpsFlowAbort0(flowId: u64) -> NTSTATUS {
    irql::require_at_most("FwpsFlowAbort0", DISPATCH_LEVEL);
    if fault::fail("FwpsFlowAbort0") {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    wfp::flow_abort(flowId)
}

/// Pends the operation that is being classified. IRQL <= DISPATCH_LEVEL. `STATUS_FWP_CANNOT_PEND` in a reauthorization.
///
/// # Safety
/// `completionContext` is null or can be written.
pub unsafe extern "system" fn FwpsPendOperation0(
    completionHandle: HANDLE,
    completionContext: *mut HANDLE,
) -> NTSTATUS {
    irql::require_at_most("FwpsPendOperation0", DISPATCH_LEVEL);
    if completionHandle.is_null() || completionContext.is_null() {
        return STATUS_FWP_NULL_POINTER;
    }
    if fault::fail("FwpsPendOperation0") {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    match wfp::pend::pend(completionHandle) {
        Ok(context) => {
            // SAFETY: by the contract.
            unsafe { completionContext.write(context) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Completes a pended operation. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The packet is null or one that the stack can take.
pub unsafe extern "system" fn FwpsCompleteOperation0(
    completionContext: HANDLE,
    netBufferList: *mut NET_BUFFER_LIST,
) {
    irql::require_at_most("FwpsCompleteOperation0", DISPATCH_LEVEL);
    wfp::pend::complete(completionContext, netBufferList);
}
