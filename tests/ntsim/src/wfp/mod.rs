//! The Windows Filtering Platform as `tcpip.sys` uses it: flows are created and ended, packets and connections
//! classified. What drivers call is in [`crate::sys::fwp`]; the rules are in the crate `wfp_engine`.
//!
//! Classification reads a snapshot of the filters without taking a lock. Management calls make a new one and wait
//! until nobody reads the old one any more.

mod access;
pub(crate) mod convert;
mod flow;
mod host;
pub(crate) mod pend;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use core::ffi::c_void;

use crate::sys::fwp::{
    FWP_ACTION_TYPE, FWPM_SERVICE_STATE, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0,
};
use crate::sys::nt::KIRQL;

pub(crate) use convert::{filter_spec, guid, wide};
pub use flow::{FlowRef, flow_create, flow_end};
pub(crate) use flow::{associate, flow_abort, remove};
pub use pend::{Offer, offer_completion};
pub use state::{Config, configure};
pub(crate) use state::{report, start, stop};

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
    /// A hard permit that a callout blocked all the same.
    pub veto: bool,
    /// A callout has pended the operation and will complete it.
    pub pended: bool,
}

/// Classifies at one layer. Callable at IRQL <= DISPATCH_LEVEL.
pub fn classify(request: ClassifyRequest<'_>) -> Outcome {
    host::classify(request)
}

/// Whether a classification at `layer` could meet any filter. Cheap: for callers that would otherwise gather
/// values for nothing.
#[inline]
pub fn layer_has_filters(layer: u16) -> bool {
    state::layer_has_filters(layer)
}

/// Rises whenever the filters in force change: connections authorized before are then to be authorized anew
/// (*ALE Reauthorization*).
pub fn policy_generation() -> u64 {
    state::policy_generation()
}

/// The state of the base filtering engine.
pub fn bfe_state() -> FWPM_SERVICE_STATE {
    state::bfe_state()
}

/// Moves the base filtering engine to another state and tells its subscribers, on the calling thread, at
/// PASSIVE_LEVEL. Stopping it ends every session, so that dynamic and static objects go.
pub fn bfe_set_state(new: FWPM_SERVICE_STATE) {
    state::bfe_set_state(new);
}
