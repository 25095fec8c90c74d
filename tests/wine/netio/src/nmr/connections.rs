//! A scripted module's side of the sockets that its clients offer it (`src/ext/module.rs`): what AttachConnection and
//! DetachConnection answer, and who may call whom until when.

use super::NmrProviderDetachClientComplete;
use super::scripted::Module;
use crate::irql;
use crate::report::violation;
use crate::script::{Answer, Call, Script, Tongue};
use crate::sync::Mutex;
use crate::sys::module::{
    EXTENSION_CONNECTION, EXTENSION_MODULE_CLIENT_DISPATCH, EXTENSION_MODULE_PROVIDER_DISPATCH,
    EXTENSION_MODULE_V1,
};
use crate::sys::nt::{
    NTSTATUS, PVOID, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::tables::{self, Client, ConnectionProvider, LabelProvider, METRIC_SIZE, Metric, VERSION};
use crate::threads;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// What nothing may be read from: what is left in the outputs of a refusal.
const POISON: usize = 0xDEAD_BEEF_0000;

/// The module's table, and those that must not be used.
static DISPATCH: EXTENSION_MODULE_PROVIDER_DISPATCH = EXTENSION_MODULE_PROVIDER_DISPATCH {
    Size: 24,
    Version: EXTENSION_MODULE_V1,
    Reserved: 0,
    AttachConnection: Some(attach_connection),
    DetachConnection: Some(detach_connection),
};
static SHORT: EXTENSION_MODULE_PROVIDER_DISPATCH = EXTENSION_MODULE_PROVIDER_DISPATCH {
    Size: 8,
    AttachConnection: None,
    DetachConnection: None,
    ..DISPATCH
};
static OLD: EXTENSION_MODULE_PROVIDER_DISPATCH =
    EXTENSION_MODULE_PROVIDER_DISPATCH { Version: 0, ..DISPATCH };
static BARE: EXTENSION_MODULE_PROVIDER_DISPATCH =
    EXTENSION_MODULE_PROVIDER_DISPATCH { AttachConnection: None, DetachConnection: None, ..DISPATCH };

/// A module's own table, by name.
pub fn dispatch(name: &str) -> Option<usize> {
    let table = match name {
        "full" => (&raw const DISPATCH).expose_provenance(),
        "null" => 0,
        "short" => (&raw const SHORT).expose_provenance(),
        "old" => (&raw const OLD).expose_provenance(),
        "bare" => (&raw const BARE).expose_provenance(),
        "misaligned" => (&raw const DISPATCH).expose_provenance() + 2,
        _ => return None,
    };
    Some(table)
}

static CONNECTION: ConnectionProvider = ConnectionProvider {
    Size: 32,
    Version: VERSION,
    Reserved: 0,
    QueryMetric: Some(query_metric),
    SetMarks: Some(set_marks),
    Control: Some(control),
};
static LABELS: LabelProvider =
    LabelProvider { Size: 16, Version: VERSION, Reserved: 0, Refresh: Some(refresh) };

/// A client that the registrar has attached. Its address is the provider's binding context.
pub struct Binding {
    pub module: Arc<Module>,
    handle: usize,
    detach_complete: Option<unsafe extern "system" fn(PVOID)>,
    state: Mutex<Bound>,
}

#[derive(Default)]
struct Bound {
    /// The registrar has asked to detach: neither side calls the other any more.
    leaving: bool,
    /// Calls of the client's functions that are in progress.
    calls: u32,
    /// The detach was answered with STATUS_PENDING, and the last call completes it.
    pending: bool,
    /// A call of AttachConnection or DetachConnection is in progress: there is one at a time.
    called: bool,
}

impl Binding {
    /// What a client gives by NmrClientAttachProvider, looked over.
    ///
    /// # Safety
    /// `table` is NULL, or begins with its size and version and lasts as long as the binding.
    pub unsafe fn new(module: Arc<Module>, handle: usize, table: *const c_void) -> Arc<Self> {
        let table: *const EXTENSION_MODULE_CLIENT_DISPATCH = table.cast();
        let aligned = table.is_aligned();
        // SAFETY: by the contract.
        let head = unsafe { table.cast::<[u16; 2]>().as_ref() }.filter(|_| aligned);
        let sound = head.is_some_and(|[size, version]| {
            usize::from(*size) >= size_of::<EXTENSION_MODULE_CLIENT_DISPATCH>()
                && *version >= EXTENSION_MODULE_V1
        });
        if !sound {
            violation!(
                "NmrClientAttachProvider",
                "the client's table is NULL, too small, too old or misaligned"
            );
        }
        // SAFETY: it is as large as it must be.
        let detach_complete = sound.then(|| unsafe { (*table).DetachComplete });
        Arc::new(Self { module, handle, detach_complete, state: Mutex::default() })
    }

    /// The registrar asks to detach: STATUS_PENDING while calls are in progress, or as the script says.
    pub fn detach(&self) -> NTSTATUS {
        let status = {
            let mut state = self.state.lock();
            state.leaving = true;
            let waits = !self.module.pends && state.calls != 0;
            state.pending = waits;
            if waits || self.module.pends { STATUS_PENDING } else { STATUS_SUCCESS }
        };
        let mut live = LIVE.lock();
        let own: Vec<_> = live
            .iter()
            .filter(|(_, connection)| core::ptr::eq(&raw const *connection.binding, self))
            .map(|(address, _)| *address)
            .collect();
        let ended: Vec<_> = own.iter().filter_map(|address| live.remove(address)).collect();
        drop(live);
        LIED.lock().retain(|binding| !core::ptr::eq(&raw const **binding, self));
        self.module.note(|counts| counts.ended += u32::try_from(ended.len()).unwrap_or(0));
        ended.into_iter().for_each(bury);
        status
    }

    /// Completes a detach that the script has held up.
    pub fn complete(&self) {
        while self.state.lock().calls != 0 {
            threads::sleep(Duration::from_millis(1));
        }
        NmrProviderDetachClientComplete(super::pointer(self.handle));
    }

    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        if !state.leaving {
            state.calls += 1;
        }
        !state.leaving
    }

    fn end(&self) {
        let complete = {
            let mut state = self.state.lock();
            state.calls -= 1;
            let complete = state.calls == 0 && state.pending;
            if complete {
                state.pending = false;
            }
            complete
        };
        if complete {
            NmrProviderDetachClientComplete(super::pointer(self.handle));
        }
    }

    /// Notes a call by the client of the module's own functions; `false` if it may not be made.
    fn enter(&self, function: &str) -> bool {
        if !irql::is_passive() {
            violation!(function, "called above PASSIVE_LEVEL");
        }
        let mut state = self.state.lock();
        let (leaving, called) = (state.leaving, state.called);
        state.called = true;
        drop(state);
        if called {
            violation!(function, "called while another call is in progress");
        }
        if leaving {
            violation!(function, "called after ProviderDetachClient");
        }
        !leaving
    }

    fn leave(&self) {
        self.state.lock().called = false;
    }

    fn detach_complete(&self, context: usize) {
        if !self.begin() {
            return;
        }
        if let Some(complete) = self.detach_complete {
            self.module.note(|counts| counts.completed += 1);
            // SAFETY: the client's function, with the context of the connection, while the binding lasts.
            irql::as_callback(|_| unsafe { complete(core::ptr::with_exposed_provenance_mut(context)) });
        }
        self.end();
    }
}

/// A socket that a module has taken on. Its address is the provider's context.
pub struct Connection {
    pub id: u64,
    binding: Arc<Binding>,
    about: EXTENSION_CONNECTION,
    client: Client,
    client_context: usize,
    state: Mutex<State>,
    script: Mutex<Script>,
    /// What the client's functions ask to be called back with.
    asked: Mutex<VecDeque<Call>>,
    callbacks: AtomicU64,
    functions: AtomicU64,
}

#[derive(Default)]
struct State {
    /// DetachConnection was called.
    detached: bool,
    calls: u32,
    /// DetachConnection was answered with STATUS_PENDING; whether its completion waits for a time of its own, too.
    pending: bool,
    held: bool,
}

/// What the drive channel tells of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub about: EXTENSION_CONNECTION,
    pub detached: bool,
    pub callbacks: u64,
    pub functions: u64,
}

/// Connections that last, by their address, which is their context.
static LIVE: Mutex<BTreeMap<usize, Arc<Connection>>> = Mutex::new(BTreeMap::new());
/// Those that are over: their context is still known, so that its use is reported.
static DEAD: Mutex<VecDeque<Arc<Connection>>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 1024;
/// Whose sockets were taken on with a table that cannot be used, and are to be let go of again.
static LIED: Mutex<Vec<Arc<Binding>>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

fn bury(connection: Arc<Connection>) {
    let forgotten = {
        let mut dead = DEAD.lock();
        dead.push_back(connection);
        (dead.len() > REMEMBERED).then(|| dead.pop_front()).flatten()
    };
    drop(forgotten);
}

/// The connections that last.
pub fn live() -> Vec<Arc<Connection>> {
    LIVE.lock().values().cloned().collect()
}

/// What a module has, and has had, in the order in which it came.
pub fn seen(module: &Module) -> Vec<Seen> {
    let mut all = live();
    all.extend(DEAD.lock().iter().cloned());
    all.retain(|connection| core::ptr::eq(&raw const *connection.binding.module, module));
    all.sort_by_key(|connection| connection.id);
    let told = |connection: &Arc<Connection>| Seen {
        about: connection.about,
        detached: connection.state.lock().detached,
        callbacks: connection.callbacks.load(Ordering::Relaxed),
        functions: connection.functions.load(Ordering::Relaxed),
    };
    all.iter().map(told).collect()
}

/// Forgets what a module has had, whose last client is cleaned up.
pub fn forget(module: &Module) {
    let all = core::mem::take(&mut *DEAD.lock());
    let (own, mut rest): (VecDeque<_>, VecDeque<_>) =
        all.into_iter().partition(|connection| core::ptr::eq(&raw const *connection.binding.module, module));
    let mut dead = DEAD.lock();
    rest.append(&mut dead);
    *dead = rest;
    drop(dead);
    // Each has a share of the module.
    drop(own);
}

impl Connection {
    pub fn npi(&self) -> crate::sys::nt::GUID {
        self.binding.module.npi
    }

    fn begin(&self) -> Option<Call> {
        if !self.binding.begin() {
            return None;
        }
        let call = {
            let mut state = self.state.lock();
            let call = if state.detached { None } else { self.next() };
            state.calls += u32::from(call.is_some());
            call
        };
        if call.is_none() {
            self.binding.end();
        }
        call
    }

    fn next(&self) -> Option<Call> {
        let enabled = self.about.EventMask;
        let asked = self.asked.lock().pop_front();
        let asked = asked.filter(|call| enabled & call.event() != 0);
        asked.or_else(|| self.script.lock().next(enabled, None))
    }

    /// Makes one callback, if there is one to make.
    pub fn call_back(&self) -> bool {
        let Some(call) = self.begin() else { return false };
        self.call(&call);
        let completes = {
            let mut state = self.state.lock();
            state.calls -= 1;
            let completes = state.pending && !state.held && state.calls == 0;
            if completes {
                state.pending = false;
            }
            completes
        };
        if completes {
            self.binding.detach_complete(self.client_context);
        }
        self.binding.end();
        true
    }

    fn call(&self, call: &Call) {
        let sample = self.metric();
        // SAFETY: the binding lasts, and the client's context and table with it.
        irql::as_callback(|_| unsafe { self.client.call(call, sample) });
        self.callbacks.fetch_add(1, Ordering::Relaxed);
        self.binding.module.note(|counts| counts.callbacks += 1);
    }

    /// A call after DetachConnection, on purpose.
    fn call_late(&self) {
        if !self.binding.begin() {
            return;
        }
        let call = self.script.lock().next(self.about.EventMask, None);
        if let Some(call) = call {
            let sample = self.metric();
            // SAFETY: the binding lasts, until whose end the client bears late calls.
            irql::as_callback(|_| unsafe { self.client.call(&call, sample) });
            self.binding.module.note(|counts| counts.late += 1);
        }
        self.binding.end();
    }

    fn metric(&self) -> Metric {
        let calls = self.callbacks.load(Ordering::Relaxed);
        Metric::of(calls, self.functions.load(Ordering::Relaxed))
    }

    /// DetachConnection, for a connection that lasts.
    fn detach(self: &Arc<Self>) -> NTSTATUS {
        let script = self.binding.module.behaviour();
        let pends = {
            let mut state = self.state.lock();
            state.detached = true;
            state.held = script.detach_after.is_some();
            state.pending = state.held || state.calls != 0;
            state.pending
        };
        LIVE.lock().remove(&Arc::as_ptr(self).addr());
        bury(Arc::clone(self));
        for _ in 0..script.late {
            self.call_late();
        }
        if script.late != 0 || script.detach_after.is_some() {
            self.linger(script.late, Duration::from_millis(script.detach_after.unwrap_or(5)));
        }
        self.binding.module.note(|counts| {
            counts.released += 1;
            counts.pended += u32::from(pends);
        });
        if pends { STATUS_PENDING } else { STATUS_SUCCESS }
    }

    /// On a thread of its own and after a time: the completion that is due, and calls that are late. The registrar's detach
    /// waits for the thread.
    fn linger(self: &Arc<Self>, late: u64, after: Duration) {
        if !self.binding.begin() {
            return;
        }
        let connection = Arc::clone(self);
        let _thread = threads::spawn(move || {
            threads::sleep(after);
            let completes = {
                let mut state = connection.state.lock();
                let completes = state.held && state.calls == 0;
                state.held = false;
                if completes {
                    state.pending = false;
                }
                completes
            };
            if completes {
                connection.binding.detach_complete(connection.client_context);
            }
            for _ in 0..late {
                connection.call_late();
            }
            connection.binding.end();
        });
    }
}

/// What is said of a socket, if it keeps to the contract.
unsafe fn look_at(connection: *const EXTENSION_CONNECTION) -> Result<EXTENSION_CONNECTION, &'static str> {
    if connection.is_null() || !connection.is_aligned() {
        return Err("the connection is NULL or misaligned");
    }
    // SAFETY: it begins with its size and version (the contract).
    let [size, version] = unsafe { connection.cast::<[u16; 2]>().read() };
    if usize::from(size) < size_of::<EXTENSION_CONNECTION>() || version < EXTENSION_MODULE_V1 {
        return Err("the connection's structure is too small or too old");
    }
    // SAFETY: as large as it must be.
    let about = unsafe { connection.read() };
    if about.Kind > 2 || (about.Kind == 0) != (about.Session == 0) {
        return Err("a kind that there is not, or a session that does not go with it");
    }
    if !matches!(about.Family, 0 | 2 | 23) || (about.Family != 0 && about.LocalPort == 0) {
        return Err("an address family that there is not, or no local port");
    }
    if about.Family == 2 && about.LocalAddress[4..].iter().any(|byte| *byte != 0) {
        return Err("an IPv4 address of more than four bytes");
    }
    Ok(about)
}

unsafe extern "system" fn attach_connection(
    context: PVOID,
    connection: *const EXTENSION_CONNECTION,
    client_context: PVOID,
    client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    const API: &str = "AttachConnection";
    // SAFETY: the binding context, which lasts until the registrar's cleanup: a share of it for this call.
    unsafe { Arc::increment_strong_count(context.cast_const().cast::<Binding>()) };
    // SAFETY: the share.
    let binding = unsafe { Arc::from_raw(context.cast_const().cast::<Binding>()) };
    if !binding.enter(API) {
        return STATUS_INVALID_DEVICE_STATE;
    }
    binding.module.note(|counts| counts.asked += 1);
    // SAFETY: the caller's.
    let answered = match unsafe { look_at(connection) } {
        Err(why) => {
            violation!(API, "{why}");
            Err(STATUS_INVALID_PARAMETER)
        }
        // SAFETY: the caller's.
        Ok(about) => unsafe { take_on(&binding, about, client_context, client_dispatch) },
    };
    let (status, own, table) = match answered {
        Ok((own, table)) => (STATUS_SUCCESS, own, table),
        Err(status) => {
            (status, core::ptr::without_provenance_mut(POISON), core::ptr::without_provenance(POISON))
        }
    };
    if provider_context.is_null() || provider_dispatch.is_null() {
        violation!(API, "an output is NULL");
        binding.leave();
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; the caller's variable.
    unsafe { provider_context.write(own) };
    // SAFETY: the same.
    unsafe { provider_dispatch.write(table) };
    binding.leave();
    status
}

/// Answers to AttachConnection as the script says.
///
/// # Safety
/// `table` is NULL, or begins with its size and version and lasts as long as the connection.
unsafe fn take_on(
    binding: &Arc<Binding>,
    about: EXTENSION_CONNECTION,
    context: PVOID,
    table: *const c_void,
) -> Result<(PVOID, *const c_void), NTSTATUS> {
    let script = binding.module.behaviour();
    let tongue = match script.answer {
        Answer::Refuse(status) => {
            binding.module.note(|counts| counts.refused += 1);
            return Err(status);
        }
        Answer::Lie(lie) => {
            binding.module.note(|counts| counts.lied += 1);
            LIED.lock().push(Arc::clone(binding));
            return Ok((null_mut(), tables::unusable(lie)));
        }
        Answer::Grant(tongue) => tongue.unwrap_or_else(|| Tongue::of(&binding.module.npi)),
        Answer::Bare => Tongue::of(&binding.module.npi),
    };
    // SAFETY: by the contract.
    let Some(client) = (unsafe { Client::new(context, table, tongue) }) else {
        violation!("AttachConnection", "the client's table is NULL, too small, too old or misaligned");
        return Err(STATUS_INVALID_PARAMETER);
    };
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let connection = Arc::new(Connection {
        id,
        binding: Arc::clone(binding),
        about,
        client,
        client_context: context.expose_provenance(),
        state: Mutex::default(),
        script: Mutex::new(Script::new(id ^ 0x4E4D_5200, tongue)),
        asked: Mutex::default(),
        callbacks: AtomicU64::new(0),
        functions: AtomicU64::new(0),
    });
    binding.module.note(|counts| counts.granted += 1);
    let own = Arc::as_ptr(&connection);
    LIVE.lock().insert(own.addr(), Arc::clone(&connection));
    #[cfg(windows)]
    crate::caller::start();
    for _ in 0..script.inline {
        connection.call_back();
    }
    let dispatch = match (script.answer, tongue) {
        (Answer::Bare, _) => tables::bare(tongue),
        (_, Tongue::Connection) => (&raw const CONNECTION).cast(),
        (_, Tongue::Label) => (&raw const LABELS).cast(),
    };
    Ok((own.cast_mut().cast(), dispatch))
}

unsafe extern "system" fn detach_connection(context: PVOID) -> NTSTATUS {
    const API: &str = "DetachConnection";
    if context.is_null()
        && let Some(binding) = LIED.lock().pop()
    {
        binding.module.note(|counts| counts.released += 1);
        return STATUS_SUCCESS;
    }
    let found = LIVE.lock().get(&context.addr()).cloned();
    let Some(connection) = found else {
        violation!(API, "called with {context:p}, which is detached already or never was attached");
        return STATUS_INVALID_DEVICE_STATE;
    };
    if !connection.binding.enter(API) {
        return STATUS_SUCCESS;
    }
    let status = connection.detach();
    connection.binding.leave();
    status
}

/// The connection behind a context, for a function that the client calls: none that is detached, or never was.
fn called(context: PVOID, function: &str) -> Option<Arc<Connection>> {
    let found = LIVE.lock().get(&context.addr()).cloned();
    if let Some(connection) = &found {
        connection.functions.fetch_add(1, Ordering::Relaxed);
        connection.binding.module.note(|counts| counts.functions += 1);
    } else {
        violation!(function, "called with {context:p}, which is detached or never was attached");
    }
    found
}

unsafe extern "system" fn query_metric(context: PVOID, metric: *mut Metric) -> NTSTATUS {
    let Some(connection) = called(context, "QueryMetric") else { return STATUS_INVALID_DEVICE_STATE };
    // SAFETY: NULL, or a structure that begins with its size (the interface).
    let size = unsafe { metric.cast::<u16>().as_ref() };
    if size.is_none_or(|size| *size < METRIC_SIZE) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as large as it must be.
    unsafe { metric.write_unaligned(connection.metric()) };
    STATUS_SUCCESS
}

unsafe extern "system" fn set_marks(context: PVOID, direction: u32, low: u64, high: u64) -> NTSTATUS {
    let Some(_connection) = called(context, "SetMarks") else { return STATUS_INVALID_DEVICE_STATE };
    if direction > 1 || low > high { STATUS_INVALID_PARAMETER } else { STATUS_SUCCESS }
}

unsafe extern "system" fn control(context: PVOID, code: u32, input: *const c_void, length: u32) -> NTSTATUS {
    let Some(connection) = called(context, "Control") else { return STATUS_INVALID_DEVICE_STATE };
    let length = length as usize;
    if length > crate::script::VENDOR_DATA || (input.is_null() && length != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    let data = if length == 0 {
        Vec::new()
    } else {
        // SAFETY: not NULL, and `length` bytes that live for the call (the interface).
        unsafe { core::slice::from_raw_parts(input.cast::<u8>(), length) }.to_vec()
    };
    connection.asked.lock().push_back(Call::Vendor { kind: code, data });
    STATUS_SUCCESS
}

unsafe extern "system" fn refresh(context: PVOID) -> NTSTATUS {
    let Some(connection) = called(context, "Refresh") else { return STATUS_INVALID_DEVICE_STATE };
    let again = connection.script.lock().next(crate::script::LABEL, None);
    connection.asked.lock().extend(again);
    STATUS_SUCCESS
}
