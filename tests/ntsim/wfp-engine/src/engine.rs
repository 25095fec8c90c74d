//! The management side: sessions, transactions, objects and callouts (*Object Management*).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::classify::{Callout, Resolved};
use crate::object::DisplayData;
use crate::{
    Action, CalloutKind, CalloutSpec, Error, Filter, FilterSpec, Guid, Layer, LayerInfo, Lifetime,
    ProviderSpec, Result, Runtime, Snapshot, SubLayer, SubLayerSpec, condition, id, layers, weight,
};

/// "At most, 100,000 callouts can be registered at the same time" (*WFP Error Codes*).
const MAX_CALLOUTS: usize = 100_000;
/// "WFP supports at most 2^16 sublayers" (*WFP Error Codes*).
const MAX_SUBLAYERS: usize = 1 << 16;

/// An open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// A number of its own, from 1.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The session of a number, if there ever was one.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// `FWPM_SERVICE_STATE`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    Stopped = 0,
    StartPending = 1,
    StopPending = 2,
    Running = 3,
}

/// A filter that was added.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterInfo {
    /// The run-time identifier.
    pub id: u64,
    /// As it was added, with the keys that the engine filled in.
    pub spec: FilterSpec,
    pub lifetime: Lifetime,
    /// The effective weight.
    pub weight: u64,
    pub sublayer_weight: u16,
    /// The run-time identifier of its callout, if it names one.
    pub callout: Option<u32>,
    /// `rawContext`, or what the callout has put in its place when it was notified.
    pub context: u64,
}

/// What the engine tells while a call is in progress. Calls come in the order in which they have to take effect.
pub trait Notify<R: Runtime> {
    /// The filters in force have changed. When this returns, no classification may still read an older snapshot.
    fn publish(&mut self, snapshot: Snapshot<R>);

    /// `FWPS_CALLOUT_NOTIFY_ADD_FILTER`. Gives the filter's context, which the callout may have set; `None`
    /// fails the addition (*notifyFn*).
    fn filter_added(&mut self, callout: &R::Callout, filter: &FilterInfo) -> Option<u64>;

    /// A transaction with the filter in it was committed (*FWPS_CALLOUT2*, FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY).
    fn filter_committed(&mut self, callout: &R::Callout, filter: &FilterInfo);

    /// `FWPS_CALLOUT_NOTIFY_DELETE_FILTER`, once the filter is no longer in force.
    fn filter_deleted(&mut self, callout: &R::Callout, filter: &FilterInfo);
}

/// An object with how long it lives.
#[derive(Clone, Debug)]
struct Owned<T> {
    spec: T,
    lifetime: Lifetime,
}

#[derive(Clone, Debug, Default)]
struct Objects {
    providers: BTreeMap<Guid, Arc<Owned<ProviderSpec>>>,
    sublayers: BTreeMap<Guid, Arc<Owned<SubLayerSpec>>>,
    callouts: BTreeMap<Guid, Arc<Owned<CalloutSpec>>>,
    filters: BTreeMap<u64, Arc<FilterInfo>>,
    filter_ids: BTreeMap<Guid, u64>,
}

#[derive(Debug)]
struct Session {
    dynamic: bool,
    /// The engine has stopped since.
    aborted: bool,
    transaction: Option<Transaction>,
}

#[derive(Debug)]
enum Transaction {
    ReadOnly,
    Write(Work),
}

/// Objects on their way: what a transaction has made of them.
#[derive(Debug)]
struct Work {
    objects: Objects,
    added: Vec<u64>,
    deleted: Vec<Arc<FilterInfo>>,
    callouts_changed: bool,
}

impl Work {
    fn new(objects: &Objects) -> Self {
        Self { objects: objects.clone(), added: Vec::new(), deleted: Vec::new(), callouts_changed: false }
    }
}

struct Registered<C> {
    callout: C,
    /// Being unregistered by some thread.
    leaving: bool,
}

/// The base filtering engine and the filter engine of the kernel in one.
pub struct Engine<R: Runtime> {
    state: ServiceState,
    /// TCP/IP has started, the engine has not yet run: boot-time filters hold.
    booting: bool,
    layers: Arc<[LayerInfo]>,
    objects: Objects,
    sessions: BTreeMap<SessionId, Session>,
    registered: BTreeMap<Guid, Registered<R::Callout>>,
    callout_ids: BTreeMap<Guid, u32>,
    snapshot: Snapshot<R>,
    next_session: u64,
    next_filter: u64,
    next_key: u64,
}

impl<R: Runtime> Default for Engine<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Runtime> Engine<R> {
    /// An engine as it is when TCP/IP starts: stopped, with the built-in objects only.
    pub fn new() -> Self {
        // The weights of built-in sublayers are not documented.
        let builtin = [
            (id::FWPM_SUBLAYER_INSPECTION, "Inspection", 0xFFFF),
            (id::FWPM_SUBLAYER_IPSEC_TUNNEL, "IPsec tunnel", 0xC000),
            (id::FWPM_SUBLAYER_TEREDO, "Teredo", 0xA000),
            (id::FWPM_SUBLAYER_UNIVERSAL, "Universal", 0x8000),
            (id::FWPM_SUBLAYER_SECURE_SOCKET, "Secure socket", 0x4000),
            (id::FWPM_SUBLAYER_LIPS, "Legacy IPsec", 0x2000),
        ];
        let mut objects = Objects::default();
        for (key, name, weight) in builtin {
            let spec = SubLayerSpec { key, display: name.into(), weight, ..SubLayerSpec::default() };
            objects.sublayers.insert(key, Arc::new(Owned { spec, lifetime: Lifetime::BuiltIn }));
        }
        Self {
            state: ServiceState::Stopped,
            booting: true,
            layers: layers().into(),
            objects,
            sessions: BTreeMap::new(),
            registered: BTreeMap::new(),
            callout_ids: BTreeMap::new(),
            snapshot: Snapshot::default(),
            next_session: 1,
            next_filter: 0x1_0000,
            next_key: 1,
        }
    }

    pub fn state(&self) -> ServiceState {
        self.state
    }

    /// Moves the engine to another state.
    ///
    /// Running: "boot-time filters are disabled", and persistent ones are in force; "it is atomic, so if a provider has
    /// both a boot-time and a persistent filter, there will never be a window when neither is in effect" (*WFP
    /// Operation*).
    ///
    /// Stopped: static objects live until "BFE stops", sessions end and their objects with them (*Object Management*).
    /// A persistent filter "survives across BFE stop/start" (*FWPM_FILTER0*) and stays in force.
    pub fn set_state(&mut self, state: ServiceState, notify: &mut impl Notify<R>) {
        self.state = state;
        match state {
            ServiceState::Running if self.booting => {
                self.booting = false;
                self.recompile_all();
                notify.publish(self.snapshot.clone());
            }
            ServiceState::Stopped if !self.booting => {
                for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.drop_transaction(id, notify);
                }
                for session in self.sessions.values_mut() {
                    session.aborted = true;
                }
                self.retain(notify, |lifetime| !matches!(lifetime, Lifetime::Dynamic(_) | Lifetime::Static));
            }
            _ => {}
        }
    }

    /// Starts the machine anew: what is persistent or boot-time is left, and boot-time filters hold until the engine
    /// runs (*Object Management*, Object Lifetimes).
    pub fn reboot(&mut self, notify: &mut impl Notify<R>) {
        self.state = ServiceState::Stopped;
        self.booting = true;
        self.sessions.clear();
        self.registered.clear();
        self.objects.retain(|lifetime| !matches!(lifetime, Lifetime::Dynamic(_) | Lifetime::Static));
        self.index_callouts();
        self.recompile_all();
        notify.publish(self.snapshot.clone());
    }

    /// All filters in force.
    pub fn snapshot(&self) -> Snapshot<R> {
        self.snapshot.clone()
    }

    /// The layers and their fields.
    pub fn layers(&self) -> &Arc<[LayerInfo]> {
        &self.layers
    }

    pub fn layer(&self, key: &Guid) -> Result<&LayerInfo> {
        self.layers.iter().find(|layer| layer.key == *key).ok_or(Error::LayerNotFound)
    }

    pub fn layer_by_id(&self, id: u16) -> Result<&LayerInfo> {
        self.layers.iter().find(|layer| layer.id == id).ok_or(Error::LayerNotFound)
    }

    // Sessions.

    /// Opens a session. `None`: "for a callout driver to successfully open a session to the filter engine, the filter
    /// engine must be currently running" (*FwpmEngineOpen0*); the status for it is not one of the platform's.
    pub fn open(&mut self, dynamic: bool) -> Option<SessionId> {
        if self.state != ServiceState::Running {
            return None;
        }
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(id, Session { dynamic, aborted: false, transaction: None });
        Some(id)
    }

    /// Closes a session: a transaction in progress is aborted, and "any objects added during a dynamic session are
    /// automatically deleted when the session ends" (*Object Management*, Sessions). An aborted session must be
    /// closed too (*WFP Error Codes*, FWP_E_SESSION_ABORTED). False if there is no such session.
    pub fn close(&mut self, session: SessionId, notify: &mut impl Notify<R>) -> bool {
        if !self.sessions.contains_key(&session) {
            return false;
        }
        self.drop_transaction(session, notify);
        self.sessions.remove(&session);
        self.retain(notify, |lifetime| lifetime != Lifetime::Dynamic(session));
        true
    }

    fn session(&self, session: SessionId) -> Result<&Session> {
        match self.sessions.get(&session) {
            Some(open) if !open.aborted => Ok(open),
            _ => Err(Error::SessionAborted),
        }
    }

    /// Whether another session keeps `session` from writing, or from reading if `reading`.
    fn locked(&self, session: SessionId, reading: bool) -> bool {
        self.sessions.iter().any(|(other, open)| {
            *other != session
                && match open.transaction {
                    Some(Transaction::Write(_)) => true,
                    Some(Transaction::ReadOnly) => !reading,
                    None => false,
                }
        })
    }

    // Transactions.

    /// "This function cannot be called from within a transaction. It will fail with FWP_E_TXN_IN_PROGRESS"
    /// (*FwpmTransactionBegin0*). [`Error::Timeout`] while another session has the lock.
    pub fn begin(&mut self, session: SessionId, read_only: bool) -> Result<()> {
        if self.session(session)?.transaction.is_some() {
            return Err(Error::TransactionInProgress);
        }
        if self.locked(session, read_only) {
            return Err(Error::Timeout);
        }
        let transaction =
            if read_only { Transaction::ReadOnly } else { Transaction::Write(Work::new(&self.objects)) };
        if let Some(open) = self.sessions.get_mut(&session) {
            open.transaction = Some(transaction);
        }
        Ok(())
    }

    fn take_transaction(&mut self, session: SessionId) -> Result<Transaction> {
        self.session(session)?;
        self.sessions.get_mut(&session).and_then(|open| open.transaction.take()).ok_or(Error::NoTransaction)
    }

    /// Makes what the transaction has done take effect, all at once.
    pub fn commit(&mut self, session: SessionId, notify: &mut impl Notify<R>) -> Result<()> {
        if let Transaction::Write(work) = self.take_transaction(session)? {
            self.apply(work, notify);
        }
        Ok(())
    }

    /// Undoes what the transaction has done. The run-time registration of callouts is no part of it.
    pub fn abort(&mut self, session: SessionId, notify: &mut impl Notify<R>) -> Result<()> {
        self.take_transaction(session).map(|transaction| self.roll_back(transaction, notify))
    }

    fn drop_transaction(&mut self, session: SessionId, notify: &mut impl Notify<R>) {
        let transaction = self.sessions.get_mut(&session).and_then(|open| open.transaction.take());
        if let Some(transaction) = transaction {
            self.roll_back(transaction, notify);
        }
    }

    /// Callouts were told of the filters that the transaction added; they are told that these are gone.
    fn roll_back(&self, transaction: Transaction, notify: &mut impl Notify<R>) {
        let Transaction::Write(work) = transaction else {
            return;
        };
        for id in work.added {
            let filter = work.objects.filters.get(&id).or_else(|| work.deleted.iter().find(|f| f.id == id));
            if let Some((filter, callout)) = filter.and_then(|f| Some((f, self.callout_of(f)?))) {
                notify.filter_deleted(callout, filter);
            }
        }
    }

    /// Replaces the objects, brings the changed layers into force, then tells the callouts.
    fn apply(&mut self, work: Work, notify: &mut impl Notify<R>) {
        let changed: BTreeSet<Guid> = work
            .added
            .iter()
            .filter_map(|id| work.objects.filters.get(id))
            .chain(&work.deleted)
            .map(|filter| filter.spec.layer)
            .collect();
        self.objects = work.objects;
        if work.callouts_changed {
            self.index_callouts();
        }
        if !changed.is_empty() || work.callouts_changed {
            self.publish(&changed, notify);
        }
        for id in &work.added {
            if let Some(filter) = self.objects.filters.get(id)
                && let Some(callout) = self.callout_of(filter)
            {
                notify.filter_committed(callout, filter);
            }
        }
        for filter in &work.deleted {
            if let Some(callout) = self.callout_of(filter) {
                notify.filter_deleted(callout, filter);
            }
        }
    }

    /// The registered callout that a filter names.
    fn callout_of(&self, filter: &FilterInfo) -> Option<&R::Callout> {
        match filter.spec.action {
            Action::Callout(_, key) => self.registered.get(&key).map(|registered| &registered.callout),
            _ => None,
        }
    }

    /// Deletes all objects but those that `keep` says.
    fn retain(&mut self, notify: &mut impl Notify<R>, keep: impl Fn(Lifetime) -> bool) {
        let mut work = Work::new(&self.objects);
        work.callouts_changed = true;
        work.deleted.extend(work.objects.filters.values().filter(|f| !keep(f.lifetime)).cloned());
        work.objects.retain(keep);
        self.apply(work, notify);
    }

    /// Runs one change in the session's transaction, or in one of its own: "if a function call is made outside of an
    /// explicit transaction, it will be executed within an implicit transaction"; "if an operation fails during the
    /// course of a transaction, it does not affect the overall state of the transaction" (*Object Management*,
    /// Transactions).
    fn change<T>(
        &mut self,
        session: SessionId,
        notify: &mut impl Notify<R>,
        operation: impl FnOnce(&mut Work) -> Result<T>,
    ) -> Result<T> {
        let implicit = match self.session(session)?.transaction {
            Some(Transaction::ReadOnly) => return Err(Error::IncompatibleTransaction),
            Some(Transaction::Write(_)) => false,
            None if self.locked(session, false) => return Err(Error::Timeout),
            None => true,
        };
        if implicit {
            let mut work = Work::new(&self.objects);
            let result = operation(&mut work)?;
            self.apply(work, notify);
            return Ok(result);
        }
        match self.sessions.get_mut(&session).and_then(|open| open.transaction.as_mut()) {
            Some(Transaction::Write(work)) => operation(work),
            _ => Err(Error::NoTransaction),
        }
    }

    /// The objects as the session sees them: those of its own transaction, else the committed ones.
    fn view(&self, session: SessionId) -> Result<&Objects> {
        match &self.session(session)?.transaction {
            Some(Transaction::Write(work)) => Ok(&work.objects),
            _ => Ok(&self.objects),
        }
    }

    /// The lifetime of an object that a session adds. That a dynamic session cannot add a persistent object follows
    /// from "an object is dynamic only if it is added using a dynamic session handle"; the status is not documented.
    fn lifetime(&self, session: SessionId, persistent: bool) -> Result<Lifetime> {
        match (self.session(session)?.dynamic, persistent) {
            (true, true) => Err(Error::DynamicSession),
            (true, false) => Ok(Lifetime::Dynamic(session)),
            (false, true) => Ok(Lifetime::Persistent),
            (false, false) => Ok(Lifetime::Static),
        }
    }

    /// "Callers can assign the object's GUID or leave it zero-initialized and let BFE assign the GUID" (*Object
    /// Management*, LUIDs and GUIDs). These are not random, so that runs repeat.
    fn key_or_new(&mut self, key: Guid) -> Guid {
        if !key.is_zero() {
            return key;
        }
        let serial = self.next_key;
        self.next_key += 1;
        Guid { Data1: 0xBFE0_0000, Data2: 0, Data3: 0x4000, Data4: serial.to_be_bytes() }
    }

    // Objects.

    pub fn add_provider(
        &mut self,
        session: SessionId,
        mut spec: ProviderSpec,
        notify: &mut impl Notify<R>,
    ) -> Result<Guid> {
        let lifetime = self.lifetime(session, spec.persistent)?;
        spec.display.check()?;
        spec.key = self.key_or_new(spec.key);
        self.change(session, notify, |work| {
            let key = spec.key;
            insert(&mut work.objects.providers, key, Owned { spec, lifetime })
        })
    }

    /// [`Error::InUse`] while another object names it: "an object cannot be deleted until all objects that reference
    /// it have first been deleted" (*Object Management*, Object Associations). So it is with each kind.
    pub fn delete_provider(
        &mut self,
        session: SessionId,
        key: &Guid,
        notify: &mut impl Notify<R>,
    ) -> Result<()> {
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            let found = objects.providers.get(key).ok_or(Error::ProviderNotFound)?;
            deletable(found.lifetime, session)?;
            let named = objects.sublayers.values().any(|o| o.spec.provider == Some(*key))
                || objects.callouts.values().any(|o| o.spec.provider == Some(*key))
                || objects.filters.values().any(|f| f.spec.provider == Some(*key));
            if named {
                return Err(Error::InUse);
            }
            objects.providers.remove(key);
            Ok(())
        })
    }

    pub fn provider(&self, session: SessionId, key: &Guid) -> Result<ProviderSpec> {
        self.view(session)?.providers.get(key).map(|found| found.spec.clone()).ok_or(Error::ProviderNotFound)
    }

    pub fn add_sublayer(
        &mut self,
        session: SessionId,
        mut spec: SubLayerSpec,
        notify: &mut impl Notify<R>,
    ) -> Result<Guid> {
        let lifetime = self.lifetime(session, spec.persistent)?;
        spec.display.check()?;
        spec.key = self.key_or_new(spec.key);
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            objects.check_provider(lifetime, spec.provider)?;
            if objects.sublayers.len() >= MAX_SUBLAYERS {
                return Err(Error::TooManySubLayers);
            }
            let key = spec.key;
            insert(&mut objects.sublayers, key, Owned { spec, lifetime })
        })
    }

    pub fn delete_sublayer(
        &mut self,
        session: SessionId,
        key: &Guid,
        notify: &mut impl Notify<R>,
    ) -> Result<()> {
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            let found = objects.sublayers.get(key).ok_or(Error::SubLayerNotFound)?;
            deletable(found.lifetime, session)?;
            if objects.filters.values().any(|f| f.spec.sublayer == *key) {
                return Err(Error::InUse);
            }
            objects.sublayers.remove(key);
            Ok(())
        })
    }

    pub fn sublayer(&self, session: SessionId, key: &Guid) -> Result<SubLayerSpec> {
        self.view(session)?.sublayers.get(key).map(|found| found.spec.clone()).ok_or(Error::SubLayerNotFound)
    }

    /// Adds a callout object; gives its run-time identifier, "the same identifier that is returned when a callout
    /// driver registers the callout driver's callout functions" (*FwpmCalloutAdd0*). The order of the two is free.
    pub fn add_callout(
        &mut self,
        session: SessionId,
        mut spec: CalloutSpec,
        notify: &mut impl Notify<R>,
    ) -> Result<u32> {
        let lifetime = self.lifetime(session, spec.persistent)?;
        spec.display.check()?;
        self.layer(&spec.layer)?;
        spec.key = self.key_or_new(spec.key);
        let key = spec.key;
        let id = self.callout_id(key);
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            objects.check_provider(lifetime, spec.provider)?;
            if objects.callouts.len() >= MAX_CALLOUTS {
                return Err(Error::TooManyCallouts);
            }
            work.callouts_changed = true;
            insert(&mut objects.callouts, key, Owned { spec, lifetime })
        })?;
        Ok(id)
    }

    /// "A callout can be deleted from the filter engine only if there are no filters in the filter engine that specify
    /// the callout for the filter's action" (*FwpmCalloutDeleteByKey0*).
    pub fn delete_callout(
        &mut self,
        session: SessionId,
        key: &Guid,
        notify: &mut impl Notify<R>,
    ) -> Result<()> {
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            let found = objects.callouts.get(key).ok_or(Error::CalloutNotFound)?;
            deletable(found.lifetime, session)?;
            let named = |f: &Arc<FilterInfo>| matches!(f.spec.action, Action::Callout(_, k) if k == *key);
            if objects.filters.values().any(named) {
                return Err(Error::InUse);
            }
            objects.callouts.remove(key);
            work.callouts_changed = true;
            Ok(())
        })
    }

    /// The callout object of a key, its run-time identifier, and whether its functions are registered.
    pub fn callout(&self, session: SessionId, key: &Guid) -> Result<(CalloutSpec, u32, bool)> {
        let found = self.view(session)?.callouts.get(key).ok_or(Error::CalloutNotFound)?;
        let id = self.callout_ids.get(key).copied().ok_or(Error::CalloutNotFound)?;
        Ok((found.spec.clone(), id, self.registered.contains_key(key)))
    }

    /// The key of a run-time identifier.
    pub fn callout_key(&self, id: u32) -> Result<Guid> {
        self.callout_ids.iter().find(|(_, i)| **i == id).map(|(key, _)| *key).ok_or(Error::CalloutNotFound)
    }

    /// The run-time identifier that a callout's key has or will have, the same as long as the machine runs. What
    /// values there are is not documented.
    pub fn callout_id(&mut self, key: Guid) -> u32 {
        let next = u32::try_from(self.callout_ids.len()).unwrap_or(u32::MAX).saturating_add(0x100);
        *self.callout_ids.entry(key).or_insert(next)
    }

    /// Adds a filter; gives its run-time identifier.
    pub fn add_filter(
        &mut self,
        session: SessionId,
        mut spec: FilterSpec,
        notify: &mut impl Notify<R>,
    ) -> Result<u64> {
        let flags = spec.flags;
        // The two cannot be set together, and the other "can be set only if the action type is
        // FWP_ACTION_CALLOUT_TERMINATING or FWP_ACTION_CALLOUT_UNKNOWN" (FWPM_FILTER0).
        let may_permit =
            matches!(spec.action, Action::Callout(CalloutKind::Terminating | CalloutKind::Unknown, _));
        if (flags.persistent && flags.boot_time) || (flags.permit_if_callout_unregistered && !may_permit) {
            return Err(Error::InvalidFlags);
        }
        let mut lifetime = self.lifetime(session, flags.persistent || flags.boot_time)?;
        if flags.boot_time {
            lifetime = Lifetime::BootTime;
        }
        spec.display.check()?;
        let layers = Arc::clone(&self.layers);
        let layer = layers.iter().find(|layer| layer.key == spec.layer).ok_or(Error::LayerNotFound)?;
        if spec.sublayer.is_zero() {
            spec.sublayer = layer.default_sublayer;
        }
        let weight = weight::effective(spec.weight, &condition::compile(&spec.conditions, layer)?)?;
        spec.key = self.key_or_new(spec.key);
        let mut info = FilterInfo {
            id: self.next_filter,
            lifetime,
            weight,
            sublayer_weight: 0,
            callout: None,
            context: spec.context,
            spec,
        };
        let callout = match info.spec.action {
            Action::Callout(_, key) => {
                info.callout = self.callout_ids.get(&key).copied();
                self.registered.get(&key).map(|registered| registered.callout.clone())
            }
            _ => None,
        };
        self.next_filter += 1;
        let objects = match &self.session(session)?.transaction {
            Some(Transaction::ReadOnly) => return Err(Error::IncompatibleTransaction),
            None if self.locked(session, false) => return Err(Error::Timeout),
            _ => self.view(session)?,
        };
        info.sublayer_weight = objects.check_filter(&info)?;
        // "The caller added a callout filter and the callout returned an error from its notification routine"
        // (FwpmFilterAdd0). The callout may set the context of the filter (notifyFn).
        if let Some(callout) = callout {
            info.context = notify.filter_added(&callout, &info).ok_or(Error::CalloutNotificationFailed)?;
        }
        self.change(session, notify, |work| {
            let id = info.id;
            work.objects.filter_ids.insert(info.spec.key, id);
            work.objects.filters.insert(id, Arc::new(info));
            work.added.push(id);
            Ok(id)
        })
    }

    pub fn delete_filter(&mut self, session: SessionId, id: u64, notify: &mut impl Notify<R>) -> Result<()> {
        self.change(session, notify, |work| {
            let objects = &mut work.objects;
            let found = objects.filters.get(&id).ok_or(Error::FilterNotFound)?;
            deletable(found.lifetime, session)?;
            if let Some(filter) = objects.filters.remove(&id) {
                objects.filter_ids.remove(&filter.spec.key);
                work.deleted.push(filter);
            }
            Ok(())
        })
    }

    pub fn filter(&self, session: SessionId, id: u64) -> Result<Arc<FilterInfo>> {
        self.view(session)?.filters.get(&id).cloned().ok_or(Error::FilterNotFound)
    }

    /// The run-time identifier of a filter's key.
    pub fn filter_id(&self, session: SessionId, key: &Guid) -> Result<u64> {
        self.view(session)?.filter_ids.get(key).copied().ok_or(Error::FilterNotFound)
    }

    /// The committed filters, by rising identifier.
    pub fn filters(&self) -> impl Iterator<Item = &FilterInfo> {
        self.objects.filters.values().map(|filter| &**filter)
    }

    /// The committed objects of a lifetime, each by its kind and key.
    pub fn objects(&self, lifetime: Lifetime) -> Vec<(&'static str, Guid)> {
        let of = |(kind, key, life)| (life == lifetime).then_some((kind, key));
        let providers = self.objects.providers.iter().map(|(key, o)| ("provider", *key, o.lifetime));
        let sublayers = self.objects.sublayers.iter().map(|(key, o)| ("sublayer", *key, o.lifetime));
        let callouts = self.objects.callouts.iter().map(|(key, o)| ("callout", *key, o.lifetime));
        let filters = self.objects.filters.values().map(|f| ("filter", f.spec.key, f.lifetime));
        providers.chain(sublayers).chain(callouts).chain(filters).filter_map(of).collect()
    }

    /// The keys of the callouts whose functions are registered.
    pub fn registered(&self) -> impl Iterator<Item = (&Guid, &R::Callout)> {
        self.registered.iter().map(|(key, registered)| (key, &registered.callout))
    }

    /// The open sessions, aborted ones included.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    // The run-time side of callouts.

    /// Registers a callout's functions: "at any time, even if the filter engine is not currently running". It is not
    /// told of filters that are there already (*FwpsCalloutRegister2*, *Processing Notify Callouts*).
    pub fn register(&mut self, key: Guid, callout: R::Callout, notify: &mut impl Notify<R>) -> Result<()> {
        if self.registered.contains_key(&key) {
            return Err(Error::AlreadyExists);
        }
        if self.registered.len() >= MAX_CALLOUTS {
            return Err(Error::TooManyCallouts);
        }
        self.callout_id(key);
        self.registered.insert(key, Registered { callout, leaving: false });
        self.publish_callout(key, notify);
        Ok(())
    }

    /// Begins to unregister a callout: gives it, still registered. [`Error::InUse`]: "the callout is already in the
    /// process of being registered or unregistered in another thread" (*FwpsCalloutUnregisterById0*).
    pub fn begin_unregister(&mut self, key: &Guid) -> Result<R::Callout> {
        let registered = self.registered.get_mut(key).ok_or(Error::CalloutNotFound)?;
        if registered.leaving {
            return Err(Error::InUse);
        }
        registered.leaving = true;
        Ok(registered.callout.clone())
    }

    /// Ends what [`begin_unregister`](Self::begin_unregister) began: the callout is gone, or, if it is busy, stays
    /// registered. It goes even while filters name it: they block, or are ignored (*FwpsCalloutUnregisterById0*).
    pub fn end_unregister(&mut self, key: &Guid, busy: bool, notify: &mut impl Notify<R>) {
        if busy {
            if let Some(registered) = self.registered.get_mut(key) {
                registered.leaving = false;
            }
        } else if self.registered.remove(key).is_some() {
            self.publish_callout(*key, notify);
        }
    }

    // Compilation.

    fn publish_callout(&mut self, key: Guid, notify: &mut impl Notify<R>) {
        let changed = self
            .objects
            .filters
            .values()
            .filter(|f| matches!(f.spec.action, Action::Callout(_, k) if k == key))
            .map(|f| f.spec.layer)
            .collect();
        self.publish(&changed, notify);
    }

    fn publish(&mut self, changed: &BTreeSet<Guid>, notify: &mut impl Notify<R>) {
        self.recompile(|layer| changed.contains(&layer.key));
        notify.publish(self.snapshot.clone());
    }

    /// Notes the layer of each callout object.
    fn index_callouts(&mut self) {
        let layer_of = |key: Guid| self.layers.iter().find(|layer| layer.key == key).map(|layer| layer.id);
        let callouts = self
            .objects
            .callouts
            .iter()
            .filter_map(|(key, object)| Some((*self.callout_ids.get(key)?, layer_of(object.spec.layer)?)))
            .collect();
        self.snapshot.callouts = Arc::new(callouts);
    }

    fn recompile_all(&mut self) {
        self.recompile(|_| true);
    }

    fn recompile(&mut self, changed: impl Fn(&LayerInfo) -> bool) {
        let layers = Arc::clone(&self.layers);
        for layer in layers.iter().filter(|layer| changed(layer)) {
            let index = usize::from(layer.id);
            if self.snapshot.layers.len() <= index {
                self.snapshot.layers.resize_with(index + 1, || None);
            }
            self.snapshot.layers[index] = self.compile(layer).map(Arc::new);
        }
        self.snapshot.generation += 1;
    }

    /// The filters of a layer that are in force now: boot-time ones until the engine runs, all others after.
    fn compile(&self, layer: &LayerInfo) -> Option<Layer<R>> {
        let mut filters: Vec<&Arc<FilterInfo>> = self
            .objects
            .filters
            .values()
            .filter(|f| f.spec.layer == layer.key && (f.lifetime == Lifetime::BootTime) == self.booting)
            .collect();
        // Which of two sublayers, or of two filters, of the same weight comes first is not documented.
        filters.sort_by_key(|f| (Reverse(f.sublayer_weight), f.spec.sublayer, Reverse(f.weight), f.id));
        let sublayers: Box<[SubLayer<R>]> = filters
            .chunk_by(|a, b| a.spec.sublayer == b.spec.sublayer)
            .map(|chunk| SubLayer {
                weight: chunk[0].sublayer_weight,
                filters: chunk.iter().map(|filter| self.compile_filter(filter, layer)).collect(),
            })
            .collect();
        (!sublayers.is_empty()).then_some(Layer { id: layer.id, sublayers })
    }

    fn compile_filter(&self, info: &Arc<FilterInfo>, layer: &LayerInfo) -> Filter<R> {
        let action = match info.spec.action {
            Action::Permit => Resolved::Permit,
            Action::Block => Resolved::Block,
            Action::Callout(kind, _) => match (self.callout_of(info), kind) {
                (Some(callout), _) => Resolved::Callout(Callout { kind, registered: callout.clone() }),
                (None, CalloutKind::Inspection) => Resolved::Ignored,
                // "Filters with an action type of FWP_ACTION_CALLOUT_TERMINATING or FWP_ACTION_CALLOUT_UNKNOWN are
                // treated as FWP_ACTION_BLOCK" (FwpsCalloutRegister2), but for a flag: "If the callout is not
                // registered, the filter is treated as a permit filter" (FWPM_FILTER0).
                (None, _) if info.spec.flags.permit_if_callout_unregistered => Resolved::Permit,
                (None, _) => Resolved::Block,
            },
        };
        Filter {
            info: Arc::clone(info),
            native: R::prepare(info, layer),
            // They were checked when the filter was added.
            conditions: condition::compile(&info.spec.conditions, layer).unwrap_or_default(),
            action,
        }
    }
}

impl Objects {
    fn retain(&mut self, keep: impl Fn(Lifetime) -> bool) {
        self.filters.retain(|_, o| keep(o.lifetime));
        self.filter_ids.retain(|_, id| self.filters.contains_key(id));
        self.callouts.retain(|_, o| keep(o.lifetime));
        self.sublayers.retain(|_, o| keep(o.lifetime));
        self.providers.retain(|_, o| keep(o.lifetime));
    }

    fn check_provider(&self, lifetime: Lifetime, provider: Option<Guid>) -> Result<()> {
        let Some(key) = provider else {
            return Ok(());
        };
        let found = self.providers.get(&key).ok_or(Error::ProviderNotFound)?;
        refer(lifetime, found.lifetime, Some(key), Some(key))
    }

    /// Holds a new filter against the objects that it names; gives the weight of its sublayer.
    fn check_filter(&self, filter: &FilterInfo) -> Result<u16> {
        let (spec, lifetime) = (&filter.spec, filter.lifetime);
        if self.filter_ids.contains_key(&spec.key) {
            return Err(Error::AlreadyExists);
        }
        self.check_provider(lifetime, spec.provider)?;
        let sublayer = self.sublayers.get(&spec.sublayer).ok_or(Error::SubLayerNotFound)?;
        refer(lifetime, sublayer.lifetime, spec.provider, sublayer.spec.provider)?;
        if let Action::Callout(_, key) = spec.action {
            // "A call to FwpmCalloutAdd0 is required before the creation of filters that reference the callout"
            // (WFP Operation); it must be "a valid callout in the layer" (FWPM_ACTION0).
            let callout = self.callouts.get(&key).ok_or(Error::CalloutNotFound)?;
            if callout.spec.layer != spec.layer {
                return Err(Error::IncompatibleLayer);
            }
            refer(lifetime, callout.lifetime, spec.provider, callout.spec.provider)?;
        }
        Ok(sublayer.spec.weight)
    }
}

impl DisplayData {
    fn check(&self) -> Result<()> {
        if self.name.is_none() { Err(Error::NullDisplayName) } else { Ok(()) }
    }
}

fn refer(from: Lifetime, to: Lifetime, provider: Option<Guid>, other: Option<Guid>) -> Result<()> {
    if from.may_refer_to(to, provider, other) { Ok(()) } else { Err(Error::LifetimeMismatch) }
}

/// "The object is built-in, so it cannot be deleted"; an object of another dynamic session is that session's.
fn deletable(lifetime: Lifetime, session: SessionId) -> Result<()> {
    match lifetime {
        Lifetime::BuiltIn => Err(Error::BuiltinObject),
        Lifetime::Dynamic(owner) if owner != session => Err(Error::WrongSession),
        _ => Ok(()),
    }
}

fn insert<T>(map: &mut BTreeMap<Guid, Arc<Owned<T>>>, key: Guid, object: Owned<T>) -> Result<Guid> {
    if map.contains_key(&key) {
        return Err(Error::AlreadyExists);
    }
    map.insert(key, Arc::new(object));
    Ok(key)
}
