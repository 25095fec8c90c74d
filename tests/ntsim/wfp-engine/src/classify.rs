//! Classification: the filters of a layer, compiled, and the arbitration between them (*Filter Arbitration*).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::condition::Group;
use crate::{CalloutKind, FilterInfo, LayerInfo, ValueRef};

/// What the host keeps with the engine's objects.
pub trait Runtime: Sized {
    /// A registered callout.
    type Callout: Clone;
    /// A filter in the host's own form, made once when a layer is compiled.
    type Filter;

    fn prepare(filter: &FilterInfo, layer: &LayerInfo) -> Self::Filter;
}

/// The host of one classification.
pub trait Host<R: Runtime> {
    /// The value of a field of the layer, by its index.
    fn value(&self, field: usize) -> ValueRef<'_>;

    /// Whether a security descriptor grants `FWP_ACTRL_MATCH_FILTER` to a token, whose form is the host's own.
    fn grants(&self, descriptor: &[u8], token: &[u8]) -> bool;

    /// Calls a callout's classify function.
    fn classify(&mut self, callout: &R::Callout, filter: &Filter<R>, verdict: &mut Verdict) -> Called;

    /// A callout has not kept to its contract.
    fn misuse(&mut self, filter: &Filter<R>, misuse: Misuse);
}

/// Whether [`Host::classify`] called the callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    Yes,
    /// The callout is only for flows that have a context of its own: "the filter engine calls the callout driver's
    /// classifyFn callout function only if there is a context associated with the data flow" (*FWPS_CALLOUT2*,
    /// FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW).
    No,
}

/// How a callout broke its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// "If the FWPS_RIGHT_ACTION_WRITE flag is not set, a callout driver should not write to this member unless it is
    /// vetoing an FWP_ACTION_PERMIT action" (*FWPS_CLASSIFY_OUT0*).
    WroteWithoutRight,
    /// A callout of an inspection filter "never returns block or permit" (*FWPM_ACTION0*).
    InspectionDecided,
    /// A callout of a terminating filter "always returns block or permit" (*FWPM_ACTION0*).
    TerminatingDidNotDecide,
}

/// The action of a classification on its way (*FWPS_CLASSIFY_OUT0*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    None,
    Continue,
    Permit,
    Block,
}

/// What a callout is given and gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub action: Decision,
    /// `FWPS_RIGHT_ACTION_WRITE`.
    pub writable: bool,
    /// `FWPS_CLASSIFY_OUT_FLAG_ABSORB`.
    pub absorb: bool,
}

/// The result of a classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub permit: bool,
    /// The filter that decided; `None` if none did and the layer's default stands.
    pub filter: Option<u64>,
    /// The weight of that filter's sublayer.
    pub sublayer_weight: Option<u16>,
    /// A block that is silent.
    pub absorb: bool,
    /// A hard permit was blocked by a callout.
    pub veto: bool,
}

/// A filter in force.
pub struct Filter<R: Runtime> {
    pub info: Arc<FilterInfo>,
    /// What [`Runtime::prepare`] made of it.
    pub native: R::Filter,
    pub(crate) conditions: Box<[Group]>,
    pub(crate) action: Resolved<R>,
}

/// A callout as a filter names it.
pub struct Callout<R: Runtime> {
    pub(crate) kind: CalloutKind,
    pub(crate) registered: R::Callout,
}

/// The action of a filter, callouts looked up.
pub(crate) enum Resolved<R: Runtime> {
    Permit,
    Block,
    Callout(Callout<R>),
    /// An inspection filter whose callout is not registered: "filters with an action type of
    /// FWP_ACTION_CALLOUT_INSPECTION are ignored until the callout is registered" (*FwpsCalloutRegister2*).
    Ignored,
}

/// The filters of one sublayer, by falling weight.
pub struct SubLayer<R: Runtime> {
    pub weight: u16,
    pub(crate) filters: Box<[Filter<R>]>,
}

/// The filters of one layer: sublayers by falling weight.
pub struct Layer<R: Runtime> {
    pub id: u16,
    pub(crate) sublayers: Box<[SubLayer<R>]>,
}

/// All filters in force at one moment.
pub struct Snapshot<R: Runtime> {
    /// By layer id.
    pub(crate) layers: Vec<Option<Arc<Layer<R>>>>,
    /// The layer of each callout object, by run-time identifiers.
    pub(crate) callouts: Arc<BTreeMap<u32, u16>>,
    /// Rises with each change.
    pub generation: u64,
}

impl<R: Runtime> Clone for Snapshot<R> {
    fn clone(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            callouts: Arc::clone(&self.callouts),
            generation: self.generation,
        }
    }
}

impl<R: Runtime> Default for Snapshot<R> {
    fn default() -> Self {
        Self { layers: Vec::new(), callouts: Arc::default(), generation: 0 }
    }
}

impl<R: Runtime> Snapshot<R> {
    /// The filters of a layer; `None` if it has none.
    pub fn layer(&self, id: u16) -> Option<&Layer<R>> {
        self.layers.get(usize::from(id))?.as_deref()
    }

    /// Whether a callout object of that run-time identifier was added at that layer.
    pub fn has_callout(&self, callout: u32, layer: u16) -> bool {
        self.callouts.get(&callout) == Some(&layer)
    }
}

impl<R: Runtime> Layer<R> {
    /// Arbitrates between the filters of the layer.
    ///
    /// "Perform filter arbitration at every sub-layer in order from highest priority to lowest priority. Evaluate all
    /// sub-layers even if a higher priority sub-layer has decided to block the traffic" (*Filter Arbitration*): a
    /// hard block is final, yet the callouts below see it. Without a decision the traffic passes.
    pub fn classify(&self, host: &mut impl Host<R>) -> Outcome {
        let mut arbitration = Arbitration {
            verdict: Verdict { action: Decision::None, writable: true, absorb: false },
            by: None,
            veto: false,
        };
        for sublayer in &self.sublayers {
            // "Evaluate matching filters in order until a Permit or a Block is returned (filters can also return
            // Continue) or until the list is exhausted."
            for filter in &sublayer.filters {
                if filter.matches(host) && arbitration.apply(sublayer, filter, host) {
                    break;
                }
            }
        }
        Outcome {
            permit: arbitration.verdict.action != Decision::Block,
            filter: arbitration.by.map(|(filter, _)| filter),
            sublayer_weight: arbitration.by.map(|(_, weight)| weight),
            absorb: arbitration.verdict.absorb && arbitration.verdict.action == Decision::Block,
            veto: arbitration.veto,
        }
    }
}

impl<R: Runtime> Filter<R> {
    /// All fields that the filter names must match; a filter without conditions matches all.
    fn matches(&self, host: &impl Host<R>) -> bool {
        self.conditions.iter().all(|group| group.holds(host))
    }
}

struct Arbitration {
    verdict: Verdict,
    by: Option<(u64, u16)>,
    veto: bool,
}

impl Arbitration {
    /// Applies a filter that matches; whether its sublayer is done.
    fn apply<R: Runtime>(
        &mut self,
        sublayer: &SubLayer<R>,
        filter: &Filter<R>,
        host: &mut impl Host<R>,
    ) -> bool {
        let by = Some((filter.info.id, sublayer.weight));
        match &filter.action {
            // "Filter permit: soft permit" unless the filter clears the right.
            Resolved::Permit => {
                self.decide(Decision::Permit, !filter.info.spec.flags.clear_action_right, by);
                true
            }
            // "Filter block: hard block."
            Resolved::Block => {
                self.decide(Decision::Block, false, by);
                true
            }
            Resolved::Ignored => false,
            Resolved::Callout(callout) => self.call(callout, filter, by, host),
        }
    }

    /// A filter's own decision holds where the action may still be written: "the flag controls whether a lower
    /// priority sub-layer is allowed to override the action".
    fn decide(&mut self, action: Decision, writable: bool, by: Option<(u64, u16)>) {
        if self.verdict.writable {
            self.verdict = Verdict { action, writable, absorb: false };
            self.by = by;
        }
    }

    fn call<R: Runtime>(
        &mut self,
        callout: &Callout<R>,
        filter: &Filter<R>,
        by: Option<(u64, u16)>,
        host: &mut impl Host<R>,
    ) -> bool {
        // What a callout finds in actionType is documented for the veto only: there it is the action so far.
        let before = Verdict {
            action: if self.verdict.writable { Decision::None } else { self.verdict.action },
            writable: self.verdict.writable,
            absorb: false,
        };
        let mut verdict = before;
        if host.classify(&callout.registered, filter, &mut verdict) == Called::No {
            return false;
        }
        let decided = matches!(verdict.action, Decision::Permit | Decision::Block);
        if callout.kind == CalloutKind::Inspection && verdict.action != before.action && decided {
            host.misuse(filter, Misuse::InspectionDecided);
            return false;
        }
        if !before.writable {
            return match (before.action, verdict.action) {
                // "A Veto is a Block action returned by the filter when the FWPS_RIGHT_ACTION_WRITE flag was reset
                // prior to calling the filter. A Veto will block traffic that was permitted with a hard permit."
                (Decision::Permit, Decision::Block) => {
                    self.verdict =
                        Verdict { action: Decision::Block, writable: false, absorb: verdict.absorb };
                    self.by = by;
                    self.veto = true;
                    true
                }
                (before, after) => {
                    if before != after {
                        host.misuse(filter, Misuse::WroteWithoutRight);
                    }
                    false
                }
            };
        }
        if decided {
            self.verdict = verdict;
            self.by = by;
        } else {
            if callout.kind == CalloutKind::Terminating {
                host.misuse(filter, Misuse::TerminatingDidNotDecide);
            }
            self.verdict.writable = verdict.writable;
        }
        decided
    }
}
