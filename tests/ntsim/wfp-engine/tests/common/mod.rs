//! A host of the engine for tests: callouts are closures, values are given by index.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::RefCell;
use std::rc::Rc;

use wfp_engine::id::{FWPM_LAYER_ALE_AUTH_CONNECT_V4, FWPS_LAYER_ALE_AUTH_CONNECT_V4};
use wfp_engine::{
    Action, Called, CalloutKind, CalloutSpec, Decision, Engine, Error, Filter, FilterInfo, FilterSpec, Guid,
    Host, LayerInfo, Misuse, Notify, Outcome, Result, Runtime, ServiceState, SessionId, Snapshot,
    SubLayerSpec, Value, ValueRef, Verdict, Weight,
};

pub type Classify = Rc<dyn Fn(&mut Verdict) -> Called>;

/// Callouts as closures.
pub struct Closures;

impl Runtime for Closures {
    type Callout = Classify;
    type Filter = ();

    fn prepare(_: &FilterInfo, _: &LayerInfo) {}
}

/// What the engine has told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Published,
    Added(u64),
    Committed(u64),
    Deleted(u64),
}

/// Records what the engine tells.
#[derive(Default)]
pub struct Record {
    pub told: Vec<Told>,
    pub snapshot: Snapshot<Closures>,
    /// What callouts answer to an addition.
    pub refuse: bool,
    pub context: Option<u64>,
}

impl Notify<Closures> for Record {
    fn publish(&mut self, snapshot: Snapshot<Closures>) {
        self.snapshot = snapshot;
        self.told.push(Told::Published);
    }

    fn filter_added(&mut self, _: &Classify, filter: &FilterInfo) -> Option<u64> {
        self.told.push(Told::Added(filter.id));
        (!self.refuse).then(|| self.context.unwrap_or(filter.context))
    }

    fn filter_committed(&mut self, _: &Classify, filter: &FilterInfo) {
        self.told.push(Told::Committed(filter.id));
    }

    fn filter_deleted(&mut self, _: &Classify, filter: &FilterInfo) {
        self.told.push(Told::Deleted(filter.id));
    }
}

/// An engine that runs, with an open session.
pub struct Bench {
    pub engine: Engine<Closures>,
    pub record: Record,
    pub session: SessionId,
    pub misuses: RefCell<Vec<Misuse>>,
}

/// A key that is the test's own.
pub fn key(n: u32) -> Guid {
    Guid { Data1: n, Data2: 1, Data3: 2, Data4: [3; 8] }
}

pub const CONNECT: Guid = FWPM_LAYER_ALE_AUTH_CONNECT_V4;

impl Bench {
    pub fn new() -> Self {
        let mut engine = Engine::new();
        let mut record = Record::default();
        engine.set_state(ServiceState::Running, &mut record);
        let session = engine.open(false).expect("the engine runs");
        record.told.clear();
        Self { engine, record, session, misuses: RefCell::default() }
    }

    pub fn dynamic(&mut self) -> SessionId {
        self.engine.open(true).expect("the engine runs")
    }

    pub fn sublayer(&mut self, n: u32, weight: u16) -> Guid {
        let spec = SubLayerSpec { key: key(n), display: "s".into(), weight, ..SubLayerSpec::default() };
        self.engine.add_sublayer(self.session, spec, &mut self.record).expect("a new sublayer")
    }

    /// Adds a callout object at ALE_AUTH_CONNECT_V4 and registers its function.
    pub fn callout(&mut self, n: u32, classify: impl Fn(&mut Verdict) -> Called + 'static) -> Guid {
        let key = self.callout_object(n);
        self.register(n, classify);
        key
    }

    pub fn callout_object(&mut self, n: u32) -> Guid {
        let spec = CalloutSpec { key: key(n), display: "c".into(), layer: CONNECT, ..CalloutSpec::default() };
        self.engine.add_callout(self.session, spec, &mut self.record).expect("a new callout");
        key(n)
    }

    pub fn register(&mut self, n: u32, classify: impl Fn(&mut Verdict) -> Called + 'static) {
        self.engine.register(key(n), Rc::new(classify), &mut self.record).expect("a new registration");
    }

    pub fn unregister(&mut self, n: u32) {
        self.engine.begin_unregister(&key(n)).expect("it is registered");
        self.engine.end_unregister(&key(n), false, &mut self.record);
    }

    pub fn add(&mut self, spec: FilterSpec) -> Result<u64> {
        self.engine.add_filter(self.session, spec, &mut self.record)
    }

    /// Adds a filter for everything at ALE_AUTH_CONNECT_V4.
    pub fn filter(&mut self, sublayer: Guid, weight: u64, action: Action) -> u64 {
        self.filter_with(sublayer, weight, action, |_| {})
    }

    pub fn filter_with(
        &mut self,
        sublayer: Guid,
        weight: u64,
        action: Action,
        change: impl FnOnce(&mut FilterSpec),
    ) -> u64 {
        let mut spec =
            FilterSpec { sublayer, weight: Weight::Exact(weight), ..FilterSpec::new(CONNECT, action) };
        change(&mut spec);
        self.add(spec).expect("a good filter")
    }

    /// Classifies at ALE_AUTH_CONNECT_V4 without values.
    pub fn classify(&self) -> Outcome {
        self.classify_with(&[])
    }

    /// Classifies at ALE_AUTH_CONNECT_V4 with values by field index.
    pub fn classify_with(&self, values: &[(usize, Value)]) -> Outcome {
        self.classify_at(FWPS_LAYER_ALE_AUTH_CONNECT_V4, values)
    }

    pub fn classify_at(&self, layer: u16, values: &[(usize, Value)]) -> Outcome {
        let mut packet = Packet { values, misuses: &self.misuses };
        self.engine.snapshot().layer(layer).map_or(
            Outcome { permit: true, filter: None, sublayer_weight: None, absorb: false, veto: false },
            |layer| layer.classify(&mut packet),
        )
    }
}

struct Packet<'a> {
    values: &'a [(usize, Value)],
    misuses: &'a RefCell<Vec<Misuse>>,
}

impl Host<Closures> for Packet<'_> {
    fn value(&self, field: usize) -> ValueRef<'_> {
        self.values
            .iter()
            .find(|(index, _)| *index == field)
            .map_or(ValueRef::Empty, |(_, value)| value.as_ref())
    }

    /// A token is granted what a descriptor of the same bytes describes.
    fn grants(&self, descriptor: &[u8], token: &[u8]) -> bool {
        descriptor == token
    }

    fn classify(&mut self, callout: &Classify, _: &Filter<Closures>, verdict: &mut Verdict) -> Called {
        callout(verdict)
    }

    fn misuse(&mut self, _: &Filter<Closures>, misuse: Misuse) {
        self.misuses.borrow_mut().push(misuse);
    }
}

/// A callout that returns one action and leaves the right, or clears it.
pub fn returns(action: Decision, clear_right: bool) -> impl Fn(&mut Verdict) -> Called {
    move |verdict| {
        verdict.action = action;
        if clear_right {
            verdict.writable = false;
        }
        Called::Yes
    }
}

pub fn unknown(key: Guid) -> Action {
    Action::Callout(CalloutKind::Unknown, key)
}

pub fn inspection(key: Guid) -> Action {
    Action::Callout(CalloutKind::Inspection, key)
}

pub fn terminating(key: Guid) -> Action {
    Action::Callout(CalloutKind::Terminating, key)
}

pub fn error<T: std::fmt::Debug>(result: Result<T>) -> Error {
    result.expect_err("it must fail")
}
