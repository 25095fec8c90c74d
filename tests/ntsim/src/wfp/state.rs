//! The one filter engine of the machine: the engine itself, the snapshot that classification reads, registered
//! callouts, subscribers of the engine's state, and memory that was handed out.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use hashbrown::HashMap;
use wfp_engine::{
    Engine, Error, FilterInfo, Guid, LayerInfo, Lifetime, Notify, Runtime, ServiceState, SessionId, Snapshot,
};

use super::convert::{NativeFilter, to_guid};
use crate::irql;
use crate::rcu::Rcu;
use crate::rt::{self, Condvar, Instant, Lazy, Mutex, MutexGuard, ThreadId, lock};
use crate::sys::fwp::{
    FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY, FWPM_SERVICE_RUNNING, FWPM_SERVICE_START_PENDING,
    FWPM_SERVICE_STATE, FWPM_SERVICE_STATE_CHANGE_CALLBACK0, FWPM_SERVICE_STOP_PENDING,
    FWPS_CALLOUT_CLASSIFY_FN1, FWPS_CALLOUT_CLASSIFY_FN2, FWPS_CALLOUT_CLASSIFY_FN3,
    FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0, FWPS_CALLOUT_NOTIFY_ADD_FILTER,
    FWPS_CALLOUT_NOTIFY_ADD_FILTER_POST_COMMIT, FWPS_CALLOUT_NOTIFY_DELETE_FILTER, FWPS_CALLOUT_NOTIFY_FN1,
    FWPS_CALLOUT_NOTIFY_FN2, FWPS_CALLOUT_NOTIFY_FN3, FWPS_CALLOUT_NOTIFY_TYPE,
};
use crate::sys::nt::{GUID, NTSTATUS, PASSIVE_LEVEL, STATUS_SUCCESS};
use crate::verify::{Leak, violation};

crate::rules! {
    pub(crate) MANAGEMENT_IN_CALLBACK = ("management call inside a classify or notify callback", "Callout Driver Programming Considerations");
    pub(crate) UNSUBSCRIBE_IN_CALLBACK = ("unsubscribe inside the state callback", "FwpmBfeStateUnsubscribeChanges0");
    pub(crate) UNKNOWN_HANDLE = ("unknown handle", "");
    pub(crate) UNKNOWN_MEMORY = ("memory that the platform did not hand out", "FwpmFreeMemory0");
    pub(crate) UNKNOWN_COMPLETION = ("unknown completion context", "FwpsCompleteOperation0");
}

/// How the platform behaves where the documentation leaves it room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The state of the base filtering engine from here on.
    pub bfe: FWPM_SERVICE_STATE,
    /// Every context is deleted as if a classification were in progress: removing it gives `STATUS_PENDING`, and the
    /// flow delete function runs on another thread (*FwpsFlowRemoveContext0*).
    pub asynchronous_delete: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { bfe: FWPM_SERVICE_RUNNING, asynchronous_delete: false }
    }
}

/// Changes how the platform behaves.
pub fn configure(config: Config) {
    ASYNCHRONOUS_DELETE.store(config.asynchronous_delete, Ordering::Relaxed);
    if bfe_state() != config.bfe {
        bfe_set_state(config.bfe);
    }
}

pub(super) static ASYNCHRONOUS_DELETE: AtomicBool = AtomicBool::new(false);

/// The engine's types on this kernel.
pub(crate) struct Kernel;

impl Runtime for Kernel {
    type Callout = Arc<Callout>;
    type Filter = NativeFilter;

    fn prepare(filter: &FilterInfo, layer: &LayerInfo) -> NativeFilter {
        NativeFilter::new(filter, layer)
    }
}

/// The functions of a callout, by the version that it was registered with.
pub(crate) enum Functions {
    V1(FWPS_CALLOUT_CLASSIFY_FN1, FWPS_CALLOUT_NOTIFY_FN1),
    V2(FWPS_CALLOUT_CLASSIFY_FN2, FWPS_CALLOUT_NOTIFY_FN2),
    V3(FWPS_CALLOUT_CLASSIFY_FN3, FWPS_CALLOUT_NOTIFY_FN3),
}

/// A registered callout.
pub(crate) struct Callout {
    pub id: u32,
    pub flags: u32,
    pub functions: Functions,
    pub flow_delete: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
    /// Flow contexts whose flow delete function has not returned.
    pub contexts: AtomicUsize,
    /// Being unregistered: no context may be added.
    pub leaving: AtomicBool,
}

/// What classification reads: the filters in force, and the registered callouts by their run-time identifiers.
pub(crate) struct Published {
    pub snapshot: Snapshot<Kernel>,
    callouts: Arc<Callouts>,
}

impl Published {
    pub fn callout(&self, id: u32) -> Option<&Callout> {
        self.callouts.get(&id).map(|callout| &**callout)
    }
}

pub(crate) type Callouts = HashMap<u32, Arc<Callout>>;

pub(crate) static PUBLISHED: Rcu<Published> = Rcu::new();

/// A bit for each layer that has filters, and the number of the snapshot.
static LAYERS_WITH_FILTERS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static GENERATION: AtomicU64 = AtomicU64::new(0);

#[inline]
pub(super) fn layer_has_filters(layer: u16) -> bool {
    let set = LAYERS_WITH_FILTERS.get(usize::from(layer / 64));
    set.is_some_and(|set| set.load(Ordering::Acquire) & 1 << (layer % 64) != 0)
}

pub(super) fn policy_generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

static BFE: Lazy<Mutex<Bfe>> = Lazy::new(|| Mutex::new(Bfe::new()));
/// A transaction has ended.
static TRANSACTION_ENDED: Condvar = Condvar::new();
/// A state callback has returned.
static CALLBACK_RETURNED: Condvar = Condvar::new();

rt::thread_flags! {
    /// Whether this thread is in a notify callback.
    static NOTIFYING;
}

/// Whether this thread is in a callback of the platform that holds what a management call would wait for.
fn in_callback() -> bool {
    NOTIFYING.get() || Rcu::<Published>::is_reading()
}

struct Subscriber {
    handle: usize,
    callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    context: usize,
    /// The thread that its callback runs on.
    running: Option<ThreadId>,
}

/// Memory that a driver has to free.
struct HandedOut {
    api: &'static str,
    free: Box<dyn FnOnce() + Send>,
}

/// What is behind the lock of management calls.
pub(crate) struct Bfe {
    pub engine: Engine<Kernel>,
    /// How long each session waits for the transaction lock.
    pub timeouts: HashMap<SessionId, Duration>,
    pub callouts: Arc<Callouts>,
    subscribers: Vec<Subscriber>,
    next_subscriber: usize,
    /// What was handed out and is to be freed with FwpmFreeMemory0, by address.
    memory: HashMap<usize, HandedOut>,
}

impl Bfe {
    fn new() -> Self {
        let mut engine = Engine::new();
        engine.set_state(ServiceState::Running, &mut Quiet);
        Self {
            engine,
            timeouts: HashMap::new(),
            callouts: Arc::default(),
            subscribers: Vec::new(),
            next_subscriber: 1,
            memory: HashMap::new(),
        }
    }

    /// Hands out `object` until it is freed.
    pub fn hand_out<T: Send + 'static>(&mut self, api: &'static str, object: T) -> *mut T {
        let object = Box::into_raw(Box::new(object));
        let address = object.expose_provenance();
        let free = Box::new(move || {
            let object = core::ptr::with_exposed_provenance_mut::<T>(address);
            // SAFETY: it is the box that was made above, and this runs once.
            drop(unsafe { Box::from_raw(object) });
        });
        self.memory.insert(address, HandedOut { api, free });
        object
    }

    /// Frees what was handed out. False if it was not.
    pub fn free(&mut self, address: usize) -> bool {
        self.memory.remove(&address).map(|memory| (memory.free)()).is_some()
    }
}

impl Drop for Bfe {
    fn drop(&mut self) {
        for (_, memory) in self.memory.drain() {
            (memory.free)();
        }
    }
}

/// An engine that nobody has used tells nobody.
struct Quiet;

impl Notify<Kernel> for Quiet {
    fn publish(&mut self, _: Snapshot<Kernel>) {}

    fn filter_added(&mut self, _: &Arc<Callout>, filter: &FilterInfo) -> Option<u64> {
        Some(filter.context)
    }

    fn filter_committed(&mut self, _: &Arc<Callout>, _: &FilterInfo) {}

    fn filter_deleted(&mut self, _: &Arc<Callout>, _: &FilterInfo) {}
}

/// Brings the engine's changes into force and calls the callouts.
pub(crate) struct Live {
    layers: Arc<[LayerInfo]>,
    callouts: Arc<Callouts>,
}

impl Live {
    pub fn new(bfe: &Bfe) -> Self {
        Self { layers: Arc::clone(bfe.engine.layers()), callouts: Arc::clone(&bfe.callouts) }
    }

    fn call(&self, callout: &Callout, kind: FWPS_CALLOUT_NOTIFY_TYPE, filter: &FilterInfo) -> Option<u64> {
        let layer = self.layers.iter().find(|layer| layer.key == filter.spec.layer)?;
        let mut native = NativeFilter::new(filter, layer);
        let key = to_guid(filter.spec.key);
        // "Must be NULL if the notifyType parameter is set to FWPS_CALLOUT_NOTIFY_DELETE_FILTER" (notifyFn).
        let key: *const GUID =
            if kind == FWPS_CALLOUT_NOTIFY_DELETE_FILTER { core::ptr::null() } else { &raw const key };
        let outer = NOTIFYING.replace(true);
        let status = irql::same_irql("notifyFn", || -> NTSTATUS {
            let filter = native.as_mut_ptr();
            match callout.functions {
                // SAFETY: the driver registered the function with this version of the filter, whose layout is the
                // same in all versions; key and filter live until it returns.
                Functions::V1(_, Some(notify)) => unsafe { notify(kind, key, filter.cast()) },
                // SAFETY: as above.
                Functions::V2(_, Some(notify)) => unsafe { notify(kind, key, filter.cast()) },
                // SAFETY: as above.
                Functions::V3(_, Some(notify)) => unsafe { notify(kind, key, filter) },
                _ => STATUS_SUCCESS,
            }
        });
        NOTIFYING.set(outer);
        (status >= STATUS_SUCCESS).then(|| native.context())
    }
}

impl Notify<Kernel> for Live {
    fn publish(&mut self, snapshot: Snapshot<Kernel>) {
        for (first, set) in (0..).step_by(64).zip(&LAYERS_WITH_FILTERS) {
            let bits = (0..64).filter(|bit| snapshot.layer(first + bit).is_some());
            set.store(bits.fold(0, |set, bit| set | 1 << bit), Ordering::Release);
        }
        GENERATION.store(snapshot.generation, Ordering::Release);
        PUBLISHED.replace(Some(Published { snapshot, callouts: Arc::clone(&self.callouts) }));
    }

    fn filter_added(&mut self, callout: &Arc<Callout>, filter: &FilterInfo) -> Option<u64> {
        self.call(callout, FWPS_CALLOUT_NOTIFY_ADD_FILTER, filter)
    }

    fn filter_committed(&mut self, callout: &Arc<Callout>, filter: &FilterInfo) {
        if callout.flags & FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY != 0 {
            self.call(callout, FWPS_CALLOUT_NOTIFY_ADD_FILTER_POST_COMMIT, filter);
        }
    }

    fn filter_deleted(&mut self, callout: &Arc<Callout>, filter: &FilterInfo) {
        self.call(callout, FWPS_CALLOUT_NOTIFY_DELETE_FILTER, filter);
    }
}

/// The engine, for a management call. `None` inside a callback of the platform, which holds what the call would wait
/// for.
pub(crate) fn manage(api: &'static str) -> Option<MutexGuard<'static, Bfe>> {
    irql::require_at_most(api, PASSIVE_LEVEL);
    if in_callback() {
        violation(&MANAGEMENT_IN_CALLBACK, api, "");
        return None;
    }
    Some(lock(&BFE))
}

/// Runs one call of a session. While another session has the transaction lock, waits for it as long as the session
/// allows: "if the caller did not specify a lock timeout, it defaults to 15 seconds" (*Object Management*).
pub(crate) fn with_session<T>(
    api: &'static str,
    session: SessionId,
    mut call: impl FnMut(&mut Bfe, &mut Live) -> wfp_engine::Result<T>,
) -> wfp_engine::Result<T> {
    let mut bfe = manage(api).ok_or(Error::TransactionInProgress)?;
    let deadline = Instant::now() + bfe.timeouts.get(&session).copied().unwrap_or(Duration::from_secs(15));
    let mut live = Live::new(&bfe);
    loop {
        match call(&mut bfe, &mut live) {
            Err(Error::Timeout) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Error::Timeout);
                }
                bfe = rt::wait_timeout(&TRANSACTION_ENDED, bfe, left);
            }
            result => return result,
        }
    }
}

/// A transaction has ended: others may try again.
pub(crate) fn transaction_ended() {
    TRANSACTION_ENDED.notify_all();
}

const fn to_state(state: FWPM_SERVICE_STATE) -> ServiceState {
    match state {
        FWPM_SERVICE_START_PENDING => ServiceState::StartPending,
        FWPM_SERVICE_STOP_PENDING => ServiceState::StopPending,
        FWPM_SERVICE_RUNNING => ServiceState::Running,
        _ => ServiceState::Stopped,
    }
}

pub(crate) fn bfe_state() -> FWPM_SERVICE_STATE {
    lock(&BFE).engine.state() as FWPM_SERVICE_STATE
}

pub(crate) fn bfe_set_state(new: FWPM_SERVICE_STATE) {
    let handles: Vec<usize> = {
        let mut bfe = lock(&BFE);
        let mut live = Live::new(&bfe);
        bfe.engine.set_state(to_state(new), &mut live);
        bfe.subscribers.iter().map(|subscriber| subscriber.handle).collect()
    };
    transaction_ended();
    for handle in handles {
        let callback = {
            let mut bfe = lock(&BFE);
            let Some(subscriber) = bfe.subscribers.iter_mut().find(|s| s.handle == handle) else {
                continue;
            };
            subscriber.running = Some(rt::current_thread());
            subscriber.callback.map(|callback| (callback, subscriber.context))
        };
        if let Some((callback, context)) = callback {
            irql::same_irql("BFE state callback", || {
                // SAFETY: the driver subscribed with this callback and context, and cannot unsubscribe while it runs.
                unsafe { callback(core::ptr::with_exposed_provenance_mut::<c_void>(context), new) };
            });
        }
        if let Some(subscriber) = lock(&BFE).subscribers.iter_mut().find(|s| s.handle == handle) {
            subscriber.running = None;
        }
        CALLBACK_RETURNED.notify_all();
    }
}

pub(crate) fn subscribe(
    bfe: &mut Bfe,
    callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
    context: *mut c_void,
) -> usize {
    let handle = SUBSCRIBER_BASE + bfe.next_subscriber;
    bfe.next_subscriber += 1;
    let context = context.expose_provenance();
    bfe.subscribers.push(Subscriber { handle, callback, context, running: None });
    handle
}

/// Handles of subscriptions start here, so that they are no engine handles.
const SUBSCRIBER_BASE: usize = 0xBFE0_0000;

/// Ends a subscription, once its callback has returned. False if there is none.
pub(crate) fn unsubscribe(api: &'static str, handle: usize) -> bool {
    let mut bfe = lock(&BFE);
    loop {
        let Some(index) = bfe.subscribers.iter().position(|s| s.handle == handle) else {
            return false;
        };
        match bfe.subscribers[index].running {
            None => {
                bfe.subscribers.remove(index);
                return true;
            }
            Some(thread) if thread == rt::current_thread() => {
                violation(&UNSUBSCRIBE_IN_CALLBACK, api, "deadlock");
                bfe.subscribers.remove(index);
                return true;
            }
            Some(_) => {
                bfe = rt::wait(&CALLBACK_RETURNED, bfe);
            }
        }
    }
}

/// The platform of a machine that has just started, with the base filtering engine running.
pub(crate) fn start() {
    let mut bfe = lock(&BFE);
    *bfe = Bfe::new();
    Live::new(&bfe).publish(Snapshot::default());
    drop(bfe);
    ASYNCHRONOUS_DELETE.store(false, Ordering::Relaxed);
    super::flow::reset();
    super::pend::reset();
}

/// Waits until nothing runs in the background any more, and forgets everything.
pub(crate) fn stop() {
    super::flow::drain();
    start();
}

/// What drivers hold: sessions, subscriptions, registered callouts, memory, objects that outlive their session but
/// were not made persistent, flow contexts and pended operations.
pub(crate) fn report(leaks: &mut Vec<Leak>) {
    let bfe = lock(&BFE);
    let mut leak = |kind: &'static str, id: usize, made_by: String| {
        leaks.push(Leak::new(kind, id, made_by));
    };
    for session in bfe.engine.sessions() {
        leak("WFP engine handle", session_handle(session), "FwpmEngineOpen0".into());
    }
    for subscriber in &bfe.subscribers {
        leak("BFE subscription", subscriber.handle, "FwpmBfeStateSubscribeChanges0".into());
    }
    for (key, callout) in bfe.engine.registered() {
        let contexts = callout.contexts.load(Ordering::SeqCst);
        let made_by = format!("FwpsCalloutRegister, key {key}, flow contexts left: {contexts}");
        leak("WFP callout", callout.id as usize, made_by);
    }
    for (address, memory) in &bfe.memory {
        leak("WFP memory", *address, memory.api.into());
    }
    for (kind, key) in bfe.engine.objects(Lifetime::Static) {
        leak("WFP object", key.Data1 as usize, format!("a {kind} that is not dynamic, key {key}"));
    }
    drop(bfe);
    super::flow::report(&mut leak);
    super::pend::report(&mut leak);
}

/// The handle that a driver has for a session.
pub(crate) fn session_handle(session: SessionId) -> usize {
    SESSION_BASE + usize::try_from(session.number()).unwrap_or(usize::MAX >> 1) * 8
}

const SESSION_BASE: usize = 0xFE00_0000;

/// The session of a handle; none if it never was one.
pub(crate) fn session_of(handle: usize) -> Option<SessionId> {
    let offset = handle.checked_sub(SESSION_BASE)?;
    (offset != 0 && offset.is_multiple_of(8)).then(|| SessionId::from_number((offset / 8) as u64))
}

/// Registers a callout.
pub(crate) fn register(bfe: &mut Bfe, key: Guid, callout: Callout) -> wfp_engine::Result<u32> {
    let (id, callout) = (callout.id, Arc::new(callout));
    let before = Arc::clone(&bfe.callouts);
    Arc::make_mut(&mut bfe.callouts).insert(id, Arc::clone(&callout));
    let mut live = Live::new(bfe);
    bfe.engine.register(key, callout, &mut live).map(|()| id).inspect_err(|_| bfe.callouts = before)
}

/// Unregisters a callout: busy while it has flow contexts (*FwpsCalloutUnregisterById0*). When it is gone, none of its
/// functions is running or will be called.
pub(crate) fn unregister(bfe: &mut Bfe, key: &Guid) -> wfp_engine::Result<bool> {
    let callout = bfe.engine.begin_unregister(key)?;
    callout.leaving.store(true, Ordering::SeqCst);
    let busy = callout.contexts.load(Ordering::SeqCst) != 0;
    if busy {
        callout.leaving.store(false, Ordering::SeqCst);
    } else {
        Arc::make_mut(&mut bfe.callouts).remove(&callout.id);
    }
    let mut live = Live::new(bfe);
    bfe.engine.end_unregister(key, busy, &mut live);
    Ok(busy)
}

/// A status for a call of the engine.
pub(crate) fn status<T>(result: wfp_engine::Result<T>) -> NTSTATUS {
    result.map_or_else(Error::status, |_| STATUS_SUCCESS)
}

/// Frees memory that was handed out. False if it was not.
pub(crate) fn free(address: usize) -> bool {
    lock(&BFE).free(address)
}
