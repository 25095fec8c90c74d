//! One classification: the values of the stack as the engine reads them, and calls of the callouts.

use alloc::format;
use core::ffi::c_void;

use wfp_engine::{Called, Decision, Filter, Host, Misuse, ValueRef, Verdict};

use super::convert::value_ref;
use super::flow::Flow;
use super::state::{Callout, Functions, Kernel, PUBLISHED};
use super::{ClassifyRequest, Outcome, access, pend};
use crate::irql;
use crate::sys::fwp::{
    FWP_ACTION_BLOCK, FWP_ACTION_CONTINUE, FWP_ACTION_NONE, FWP_ACTION_NONE_NO_MATCH, FWP_ACTION_PERMIT,
    FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW, FWPS_CLASSIFY_OUT_FLAG_ABSORB, FWPS_CLASSIFY_OUT0,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0, FWPS_INCOMING_VALUES0,
    FWPS_LAYER_ALE_AUTH_CONNECT_V4, FWPS_LAYER_ALE_AUTH_CONNECT_V6, FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4,
    FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6, FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4,
    FWPS_LAYER_ALE_FLOW_ESTABLISHED_V6, FWPS_LAYER_DATAGRAM_DATA_V4, FWPS_LAYER_DATAGRAM_DATA_V6,
    FWPS_LAYER_INBOUND_TRANSPORT_V4, FWPS_LAYER_INBOUND_TRANSPORT_V6, FWPS_LAYER_OUTBOUND_TRANSPORT_V4,
    FWPS_LAYER_OUTBOUND_TRANSPORT_V6, FWPS_LAYER_STREAM_V4, FWPS_LAYER_STREAM_V6,
    FWPS_METADATA_FIELD_FLOW_HANDLE, FWPS_RIGHT_ACTION_WRITE,
};
use crate::sys::nt::DISPATCH_LEVEL;
use crate::verify::violation;

crate::rules! {
    INVALID_ACTION = ("invalid action of a callout", "FWPS_CLASSIFY_OUT0");
    WROTE_WITHOUT_RIGHT = ("action written without FWPS_RIGHT_ACTION_WRITE", "FWPS_CLASSIFY_OUT0");
    RIGHT_TAKEN = ("FWPS_RIGHT_ACTION_WRITE set by a callout that had not got it", "FWPS_CLASSIFY_OUT0");
    INSPECTION_DECIDED = ("inspection callout decided", "FWPM_ACTION0");
    TERMINATING_DID_NOT_DECIDE = ("terminating callout did not decide", "FWPM_ACTION0");
}

/// The layers whose metadata has a flow handle (*Metadata Fields at Each Filtering Layer*).
const fn flow_layers() -> u128 {
    let layers = [
        FWPS_LAYER_ALE_AUTH_CONNECT_V4,
        FWPS_LAYER_ALE_AUTH_CONNECT_V6,
        FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4,
        FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6,
        FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4,
        FWPS_LAYER_ALE_FLOW_ESTABLISHED_V6,
        FWPS_LAYER_STREAM_V4,
        FWPS_LAYER_STREAM_V6,
        FWPS_LAYER_DATAGRAM_DATA_V4,
        FWPS_LAYER_DATAGRAM_DATA_V6,
        FWPS_LAYER_INBOUND_TRANSPORT_V4,
        FWPS_LAYER_INBOUND_TRANSPORT_V6,
        FWPS_LAYER_OUTBOUND_TRANSPORT_V4,
        FWPS_LAYER_OUTBOUND_TRANSPORT_V6,
    ];
    let mut set = 0;
    let mut index = 0;
    while index < layers.len() {
        set |= 1 << layers[index];
        index += 1;
    }
    set
}

const FLOW_LAYERS: u128 = flow_layers();

/// Whether flows pass at a layer.
pub(super) fn has_flows(layer: u16) -> bool {
    layer < 128 && FLOW_LAYERS & 1 << layer != 0
}

struct Classification<'a> {
    values: FWPS_INCOMING_VALUES0,
    slice: &'a [FWPS_INCOMING_VALUE0],
    metadata: &'a FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    flow: Option<&'a Flow>,
}

pub(super) fn classify(request: ClassifyRequest<'_>) -> Outcome {
    let ClassifyRequest { layer: id, values, metadata, layer_data, flow, irql: level } = request;
    PUBLISHED.read(|published| {
        let Some(layer) = published.and_then(|published| published.snapshot.layer(id)) else {
            return Outcome::default();
        };
        let flow = flow.filter(|_| has_flows(id));
        if let Some(flow) = flow {
            metadata.currentMetadataValues |= FWPS_METADATA_FIELD_FLOW_HANDLE;
            metadata.flowHandle = flow.id();
        }
        let mut classification = Classification {
            values: FWPS_INCOMING_VALUES0 {
                layerId: id,
                valueCount: u32::try_from(values.len()).unwrap_or(u32::MAX),
                incomingValue: values.as_mut_ptr(),
            },
            slice: values,
            metadata,
            layer_data,
            flow: flow.map(super::FlowRef::flow),
        };
        let (outcome, pended) = pend::watch(|| {
            let raise = level >= DISPATCH_LEVEL && irql::current() < DISPATCH_LEVEL;
            let _raised = raise.then(irql::raise_scope);
            layer.classify(&mut classification)
        });
        Outcome {
            action: if outcome.permit { FWP_ACTION_PERMIT } else { FWP_ACTION_BLOCK },
            filter: outcome.filter,
            sublayer_weight: outcome.sublayer_weight,
            absorb: outcome.absorb,
            veto: outcome.veto,
            pended,
        }
    })
}

impl Default for Outcome {
    /// What happens where there is no filter: the layer's default action.
    fn default() -> Self {
        Self {
            action: FWP_ACTION_PERMIT,
            filter: None,
            sublayer_weight: None,
            absorb: false,
            veto: false,
            pended: false,
        }
    }
}

impl Classification<'_> {
    fn call(
        &self,
        callout: &Callout,
        filter: &Filter<Kernel>,
        flow_context: u64,
        out: &mut FWPS_CLASSIFY_OUT0,
    ) {
        let values = &raw const self.values;
        let metadata: *const FWPS_INCOMING_METADATA_VALUES0 = self.metadata;
        let data = self.layer_data;
        let native = filter.native.as_ptr();
        let context = core::ptr::null();
        irql::same_irql("classifyFn", || match callout.functions {
            // SAFETY: the driver registered the function with this version of the filter, whose layout is the same
            // in all versions; all that is passed lives until it returns.
            Functions::V3(Some(classify), _) => unsafe {
                classify(values, metadata, data, context, native, flow_context, out);
            },
            // SAFETY: as above.
            Functions::V2(Some(classify), _) => unsafe {
                classify(values, metadata, data, context, native.cast(), flow_context, out);
            },
            // SAFETY: as above.
            Functions::V1(Some(classify), _) => unsafe {
                classify(values, metadata, data, context, native.cast(), flow_context, out);
            },
            _ => {}
        });
    }
}

impl Host<Kernel> for Classification<'_> {
    fn value(&self, field: usize) -> ValueRef<'_> {
        self.slice.get(field).map_or(ValueRef::Empty, |value| value_ref(&value.value))
    }

    fn grants(&self, descriptor: &[u8], token: &[u8]) -> bool {
        access::grants(descriptor, token)
    }

    fn classify(
        &mut self,
        callout: &<Kernel as wfp_engine::Runtime>::Callout,
        filter: &Filter<Kernel>,
        verdict: &mut Verdict,
    ) -> Called {
        let layer = self.values.layerId;
        // Only a callout with a flow delete function can have contexts.
        let flow = self.flow.filter(|_| callout.flow_delete.is_some());
        let flow_context = flow.map_or(0, |flow| flow.acquire(layer, callout.id));
        if flow_context == 0 && callout.flags & FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW != 0 {
            return Called::No;
        }
        let mut out = FWPS_CLASSIFY_OUT0 {
            actionType: match verdict.action {
                Decision::None => FWP_ACTION_NONE,
                Decision::Continue => FWP_ACTION_CONTINUE,
                Decision::Permit => FWP_ACTION_PERMIT,
                Decision::Block => FWP_ACTION_BLOCK,
            },
            rights: if verdict.writable { FWPS_RIGHT_ACTION_WRITE } else { 0 },
            ..FWPS_CLASSIFY_OUT0::ZERO
        };
        self.call(callout, filter, flow_context, &mut out);
        if flow_context != 0
            && let Some(flow) = flow
        {
            flow.release(layer, callout.id, flow_context);
        }
        let writable = out.rights & FWPS_RIGHT_ACTION_WRITE != 0;
        if writable && !verdict.writable {
            misused(&RIGHT_TAKEN, filter, "");
        }
        verdict.writable &= writable;
        verdict.absorb = out.flags & FWPS_CLASSIFY_OUT_FLAG_ABSORB != 0;
        verdict.action = match out.actionType {
            FWP_ACTION_PERMIT => Decision::Permit,
            FWP_ACTION_BLOCK => Decision::Block,
            FWP_ACTION_CONTINUE => Decision::Continue,
            FWP_ACTION_NONE | FWP_ACTION_NONE_NO_MATCH => Decision::None,
            other => {
                misused(&INVALID_ACTION, filter, &format!("{other:#x}"));
                Decision::Continue
            }
        };
        Called::Yes
    }

    fn misuse(&mut self, filter: &Filter<Kernel>, misuse: Misuse) {
        let rule = match misuse {
            Misuse::WroteWithoutRight => &WROTE_WITHOUT_RIGHT,
            Misuse::InspectionDecided => &INSPECTION_DECIDED,
            Misuse::TerminatingDidNotDecide => &TERMINATING_DID_NOT_DECIDE,
        };
        misused(rule, filter, "");
    }
}

#[cold]
fn misused(rule: &'static crate::verify::Rule, filter: &Filter<Kernel>, detail: &str) {
    let layer = filter.info.spec.layer;
    violation(rule, "classifyFn", format!("{detail} filter {:#x}, layer {layer}", filter.info.id));
}
