//! The Windows Filtering Platform as `tcpip.sys` uses it: flows are created and ended, packets and connections
//! classified. What drivers call is in [`crate::sys::fwp`].

use core::ffi::c_void;

use crate::sys::fwp::{
    FWP_ACTION_TYPE, FWPM_SERVICE_STATE, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0,
};
use crate::sys::nt::KIRQL;

/// A data flow: what a connection is to the filter engine once it is authorized.
#[derive(Clone, Debug)]
pub struct FlowRef(std::sync::Arc<u64>);

impl FlowRef {
    /// The flow handle of the metadata; never 0.
    pub fn id(&self) -> u64 {
        *self.0
    }

    /// Whether a callout has aborted the flow (`FwpsFlowAbort0`).
    pub fn aborted(&self) -> bool {
        false
    }
}

/// Makes a flow without contexts.
pub fn flow_create() -> FlowRef {
    unimplemented!()
}

/// Ends a flow: each context that is still associated is deleted, by its callout's flowDeleteFn.
pub fn flow_end(_flow: &FlowRef) {
    unimplemented!()
}

/// One classification. `values` are by the layer's field indexes; `metadata` holds what the caller knows, to
/// which the flow handle is added if there is a flow and the layer documents one.
pub struct ClassifyRequest<'a> {
    pub layer: u16,
    pub values: &'a mut [FWPS_INCOMING_VALUE0],
    pub metadata: &'a mut FWPS_INCOMING_METADATA_VALUES0,
    pub layer_data: *mut c_void,
    pub flow: Option<&'a FlowRef>,
    /// The IRQL at which callouts run: `PASSIVE_LEVEL` or `DISPATCH_LEVEL`. Nothing is raised if the caller is
    /// there already.
    pub irql: KIRQL,
}

/// What the filters of a layer decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `FWP_ACTION_PERMIT` or `FWP_ACTION_BLOCK`; if no filter decided, the layer's default action.
    pub action: FWP_ACTION_TYPE,
    /// The filter that decided, and the weight of its sublayer; `None` if none did.
    pub filter: Option<u64>,
    pub sublayer_weight: Option<u16>,
    /// A block that is to be silent.
    pub absorb: bool,
    /// A callout has pended the operation and will complete it.
    pub pended: bool,
}

/// Classifies at one layer.
pub fn classify(_request: ClassifyRequest<'_>) -> Outcome {
    unimplemented!()
}

/// Whether a classification at `layer` could meet any filter. Cheap: for callers that would otherwise gather
/// values for nothing.
pub fn layer_has_filters(_layer: u16) -> bool {
    unimplemented!()
}

/// Moves the base filtering engine to another state and tells its subscribers. Stopping it ends every session,
/// so that dynamic and static objects go.
pub fn bfe_set_state(_state: FWPM_SERVICE_STATE) {
    unimplemented!()
}
