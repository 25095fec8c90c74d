//! Extension interfaces: SIO_WSK_REGISTER_EXTENSION, answered by the settings, and the scripted provider behind it.
//!
//! A granted registration lives until its socket's close (pages "Registering an Extension Interface", "Closing a Socket"):
//! threads of the provider's own call the client's callbacks, each noted with the socket, so that the close waits for it and
//! no further one begins. The tables are those of the driver's interfaces, as a vendor would declare them.

use crate::caller;
use crate::config::key;
use crate::connection::Incoming;
use crate::irql;
use crate::machine;
use crate::report::violation;
use crate::script::{Answer, Call, LABEL, Reason, Script, Tongue};
use crate::socket::{Entry, Key, Phase, Socket, State};
use crate::sync::Mutex;
use crate::sys::nt::{
    GUID, NTSTATUS, PVOID, STATUS_FILE_FORCED_CLOSED, STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT};
use crate::tables::{self, Client, ConnectionProvider, LabelProvider, METRIC_SIZE, Metric, VERSION};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use wine_support::thread;

const API: &str = "SIO_WSK_REGISTER_EXTENSION";

/// In how many of a hundred cases a callback takes its time to end.
const LINGERING: u64 = 2;
/// In how many of a hundred cases the first callback comes from within the call that enables it.
const INLINE: u64 = 50;

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

/// One registration, as its socket keeps it.
pub struct Extension {
    pub npi: GUID,
    pub provider: Arc<Provider>,
    /// The events that SO_WSK_EVENT_CALLBACK has enabled.
    pub enabled: u32,
}

/// What was asked of a socket for one interface, and what was answered: stays with the socket, closed or not.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    pub npi: GUID,
    /// How often it was asked for, and how often granted.
    pub asked: u32,
    pub granted: u32,
    /// What was returned last.
    pub status: NTSTATUS,
    pub enabled: u32,
    /// As long as the registration lasts, the provider has these.
    pub callbacks: u64,
    pub functions: u64,
}

/// The provider's side of one registration. Its address is the provider's context.
pub struct Provider {
    pub npi: GUID,
    socket: Arc<Socket>,
    index: usize,
    client: Client,
    /// The socket's close was issued: the context is dead.
    closed: AtomicBool,
    script: Mutex<Script>,
    /// What the client's control codes ask to be called back with.
    asked: Mutex<VecDeque<Call>>,
    callbacks: AtomicU64,
    functions: AtomicU64,
}

/// Counts over all registrations.
#[derive(Default)]
pub struct Totals {
    pub granted: AtomicU64,
    pub refused: AtomicU64,
    pub callbacks: AtomicU64,
    pub functions: AtomicU64,
    /// Callbacks that were running when their socket's close had completed. None, ever.
    pub after_close: AtomicU64,
    /// Functions that the client called of a socket that it had closed.
    pub functions_after_close: AtomicU64,
}

pub static TOTALS: Totals = Totals {
    granted: AtomicU64::new(0),
    refused: AtomicU64::new(0),
    callbacks: AtomicU64::new(0),
    functions: AtomicU64::new(0),
    after_close: AtomicU64::new(0),
    functions_after_close: AtomicU64::new(0),
};

/// How registrations are answered, where that was changed after the start.
static ANSWERS: Mutex<BTreeMap<[u8; 16], Behaviour>> = Mutex::new(BTreeMap::new());
/// Registrations that are called back, by their address, which is their context.
static LIVE: Mutex<BTreeMap<usize, Arc<Provider>>> = Mutex::new(BTreeMap::new());
/// Those of closed sockets: their context is still known, so that its use is reported.
static DEAD: Mutex<VecDeque<Arc<Provider>>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 1024;

/// What becomes of the registrations of an interface.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    answer: Answer,
    /// Callbacks from within the registration.
    inline: u64,
}

/// Changes how registrations of `npi` are answered from now on; one that is granted is called back `inline` times from within.
pub fn set_answer(npi: &GUID, answer: Answer, inline: u64) {
    ANSWERS.lock().insert(key(npi), Behaviour { answer, inline });
}

fn behaviour(npi: &GUID) -> Behaviour {
    let npi = key(npi);
    let changed = ANSWERS.lock().get(&npi).copied();
    changed.unwrap_or_else(|| {
        let answer = machine::config().extensions.get(&npi).copied();
        Behaviour { answer: answer.unwrap_or(Answer::Refuse(STATUS_NOT_SUPPORTED)), inline: 0 }
    })
}

/// The registrations that last, each once.
pub fn live() -> impl Iterator<Item = Arc<Provider>> {
    let mut live = LIVE.lock();
    let dead: Vec<_> = live
        .iter()
        .filter(|(_, provider)| provider.closed.load(Ordering::Acquire))
        .map(|(context, _)| *context)
        .collect();
    let mut kept = DEAD.lock();
    for context in dead {
        kept.extend(live.remove(&context));
    }
    while kept.len() > REMEMBERED {
        kept.pop_front();
    }
    live.values().cloned().collect::<Vec<_>>().into_iter()
}

impl Provider {
    fn context(self: &Arc<Self>) -> PVOID {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// The socket's close is issued: no callback begins from now on. Under the socket's lock.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Callbacks made, functions called.
    pub fn counts(&self) -> (u64, u64) {
        (self.callbacks.load(Ordering::Relaxed), self.functions.load(Ordering::Relaxed))
    }

    /// The socket's number.
    pub fn socket(&self) -> u64 {
        self.socket.id
    }

    /// The socket's counters as the interface tells them.
    fn metric(&self) -> Metric {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Metric::of(read(&self.socket.received), read(&self.socket.sent))
    }

    /// The next callback of an event that is enabled, or is `forced`, begun: noted with the socket, whose close waits for it.
    fn begin(&self, forced: u32) -> Option<Call> {
        let mut state = self.socket.state();
        let enabled = state.extensions.get(self.index)?.enabled | forced;
        if state.phase != Phase::Open || self.closed.load(Ordering::Acquire) {
            return None;
        }
        let asked = self.asked.lock().pop_front();
        let asked = asked.filter(|call| enabled & call.event() != 0);
        let over = over(&state);
        let call = asked.or_else(|| self.script.lock().next(enabled, over))?;
        state.callbacks.push(Key::Extension(self.index, call.event()));
        Some(call)
    }

    /// Makes one callback, if there is one to make. With `may_linger`, which sleeps, the thread is the provider's own.
    pub fn call_back(&self, may_linger: bool) -> bool {
        self.call_back_forced(may_linger, 0)
    }

    fn call_back_forced(&self, may_linger: bool, forced: u32) -> bool {
        let Some(call) = self.begin(forced) else { return false };
        let key = Key::Extension(self.index, call.event());
        // SAFETY: the socket's close waits for the callback that has begun.
        irql::as_callback(|_| unsafe { self.client.call(&call, self.metric()) });
        self.callbacks.fetch_add(1, Ordering::Relaxed);
        TOTALS.callbacks.fetch_add(1, Ordering::Relaxed);
        if may_linger && machine::chance(LINGERING) {
            // Still in progress for the socket: its close waits.
            thread::sleep(Duration::from_millis(2));
        }
        if self.socket.state().phase == Phase::Closed {
            TOTALS.after_close.fetch_add(1, Ordering::Relaxed);
        }
        self.socket.callback_ends(key);
        true
    }
}

/// The client has enabled events: one may be called at once, on the client's own thread.
pub fn enabled(socket: &Socket, index: usize) {
    let provider = socket.state().extensions.get(index).map(|extension| Arc::clone(&extension.provider));
    if let Some(provider) = provider.filter(|_| machine::chance(INLINE)) {
        provider.call_back(false);
    }
}

/// Whether the connection has ended, and why.
fn over(state: &State) -> Option<Reason> {
    match state.connection.incoming {
        Incoming::Open => None,
        Incoming::Ended => Some(Reason::PeerFinished),
        Incoming::Reset => Some(Reason::PeerReset),
        Incoming::Aborted => Some(Reason::ProviderLeaves),
    }
}

/// SIO_WSK_REGISTER_EXTENSION: completes inline.
///
/// # Safety
/// The buffers are NULL or as large as is said.
pub unsafe fn register(
    entry: &Entry,
    input_size: usize,
    input: *const WSK_EXTENSION_CONTROL_IN,
    output_size: usize,
    output: *mut WSK_EXTENSION_CONTROL_OUT,
) -> NTSTATUS {
    let fits = input_size == size_of::<WSK_EXTENSION_CONTROL_IN>()
        && output_size == size_of::<WSK_EXTENSION_CONTROL_OUT>();
    if !fits || input.is_null() || output.is_null() {
        violation!(API, "{input_size} bytes in, {output_size} bytes out");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as large as it must be.
    let input = unsafe { input.read_unaligned() };
    if input.NpiId.is_null() {
        violation!(API, "the interface's identifier is NULL");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL: an identifier.
    let npi = unsafe { *input.NpiId };
    let Behaviour { answer, inline } = behaviour(&npi);
    let (status, out, granted) = decide(&entry.socket, npi, input, answer);
    let count = if granted.is_some() { &TOTALS.granted } else { &TOTALS.refused };
    count.fetch_add(1, Ordering::Relaxed);
    note(&mut entry.socket.state(), npi, status, granted.is_some());
    if let Some(provider) = granted {
        for _ in 0..inline {
            provider.call_back_forced(false, provider.client.tongue.events());
        }
    }
    // SAFETY: as large as it must be.
    unsafe { output.write_unaligned(out) };
    status
}

/// Notes with the socket what was asked for, and what was answered.
fn note(state: &mut State, npi: GUID, status: NTSTATUS, granted: bool) {
    let known = state.registrations.iter_mut().find(|registration| registration.npi == npi);
    if let Some(registration) = known {
        registration.asked += 1;
        registration.granted += u32::from(granted);
        registration.status = status;
        return;
    }
    let granted = u32::from(granted);
    state.registrations.push(Registration {
        npi,
        asked: 1,
        granted,
        status,
        enabled: 0,
        callbacks: 0,
        functions: 0,
    });
}

/// What nothing may be read from: what is left in the outputs of a refusal.
pub const POISON: usize = 0xDEAD_BEEF_0000;

fn decide(
    socket: &Arc<Socket>,
    npi: GUID,
    input: WSK_EXTENSION_CONTROL_IN,
    answer: Answer,
) -> (NTSTATUS, WSK_EXTENSION_CONTROL_OUT, Option<Arc<Provider>>) {
    let poison = WSK_EXTENSION_CONTROL_OUT {
        ProviderContext: core::ptr::without_provenance_mut(POISON),
        ProviderDispatch: core::ptr::without_provenance(POISON),
    };
    let tongue = match answer {
        Answer::Refuse(status) => return (status, poison, None),
        Answer::Lie(lie) => {
            let dispatch = tables::unusable(lie);
            let context = if dispatch.is_null() { null_mut() } else { poison.ProviderContext };
            let out = WSK_EXTENSION_CONTROL_OUT { ProviderContext: context, ProviderDispatch: dispatch };
            return (STATUS_SUCCESS, out, None);
        }
        Answer::Grant(tongue) => tongue.unwrap_or_else(|| Tongue::of(&npi)),
        Answer::Bare => Tongue::of(&npi),
    };
    // SAFETY: NULL, or a table that begins with its size and version (the interface) and is kept until the socket's close
    // has completed.
    let client = unsafe { Client::new(input.ClientContext, input.ClientDispatch, tongue) };
    let Some(client) = client else {
        violation!(API, "the client's table is NULL, too small, too old or misaligned");
        return (STATUS_INVALID_PARAMETER, poison, None);
    };
    let provider = {
        let mut state = socket.state();
        if state.dead {
            return (STATUS_FILE_FORCED_CLOSED, poison, None);
        }
        if state.extensions.iter().any(|extension| extension.npi == npi) {
            return (STATUS_INVALID_DEVICE_REQUEST, poison, None);
        }
        let provider = Arc::new(Provider {
            npi,
            socket: Arc::clone(socket),
            index: state.extensions.len(),
            client,
            closed: AtomicBool::new(false),
            script: Mutex::new(Script::new(machine::config().seed ^ socket.id, tongue)),
            asked: Mutex::new(VecDeque::new()),
            callbacks: AtomicU64::new(0),
            functions: AtomicU64::new(0),
        });
        state.extensions.push(Extension { npi, provider: Arc::clone(&provider), enabled: 0 });
        provider
    };
    let context = provider.context();
    LIVE.lock().insert(context.addr(), Arc::clone(&provider));
    caller::start();
    let dispatch = match (answer, tongue) {
        (Answer::Bare, _) => tables::bare(tongue),
        (_, Tongue::Connection) => (&raw const CONNECTION).cast(),
        (_, Tongue::Label) => (&raw const LABELS).cast(),
    };
    let out = WSK_EXTENSION_CONTROL_OUT { ProviderContext: context, ProviderDispatch: dispatch };
    (STATUS_SUCCESS, out, Some(provider))
}

/// The registration behind a context, for a function that the client calls: none that is closed, or never was.
fn called(context: PVOID, function: &str) -> Option<Arc<Provider>> {
    TOTALS.functions.fetch_add(1, Ordering::Relaxed);
    let found = LIVE.lock().get(&context.addr()).cloned();
    let found = found.filter(|provider| !provider.closed.load(Ordering::Acquire));
    if let Some(provider) = &found {
        provider.functions.fetch_add(1, Ordering::Relaxed);
    } else {
        TOTALS.functions_after_close.fetch_add(1, Ordering::Relaxed);
        violation!(function, "called with {context:p}, whose socket is closed or never was");
    }
    found
}

unsafe extern "system" fn query_metric(context: PVOID, metric: *mut Metric) -> NTSTATUS {
    let Some(provider) = called(context, "QueryMetric") else { return STATUS_INVALID_DEVICE_STATE };
    // SAFETY: NULL, or a structure that begins with its size (the interface).
    let size = unsafe { metric.cast::<u16>().as_ref() };
    if size.is_none_or(|size| *size < METRIC_SIZE) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as large as it must be.
    unsafe { metric.write_unaligned(provider.metric()) };
    STATUS_SUCCESS
}

unsafe extern "system" fn set_marks(context: PVOID, direction: u32, low: u64, high: u64) -> NTSTATUS {
    let Some(provider) = called(context, "SetMarks") else { return STATUS_INVALID_DEVICE_STATE };
    if direction > 1 || low > high {
        return STATUS_INVALID_PARAMETER;
    }
    if high != 0 {
        let call = Call::Backlog { direction, above: false, bytes: 0, mark: low };
        provider.asked.lock().push_back(call);
    }
    STATUS_SUCCESS
}

unsafe extern "system" fn control(context: PVOID, code: u32, input: *const c_void, length: u32) -> NTSTATUS {
    let Some(provider) = called(context, "Control") else { return STATUS_INVALID_DEVICE_STATE };
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
    // What was said is called back, as the vendor's event of that type.
    provider.asked.lock().push_back(Call::Vendor { kind: code, data });
    STATUS_SUCCESS
}

unsafe extern "system" fn refresh(context: PVOID) -> NTSTATUS {
    let Some(provider) = called(context, "Refresh") else { return STATUS_INVALID_DEVICE_STATE };
    let again = provider.script.lock().next(LABEL, None);
    provider.asked.lock().extend(again);
    STATUS_SUCCESS
}
