//! Extension interfaces: SIO_WSK_REGISTER_EXTENSION, answered by the settings, and the scripted provider behind it.
//!
//! A granted registration lives until its socket's close (pages "Registering an Extension Interface", "Closing a Socket"):
//! threads of the provider's own call the client's callbacks, each noted with the socket, so that the close waits for it and
//! no further one begins. The tables are those of the driver's `connection_v1` interface, as a vendor would declare them.

#![allow(
    non_snake_case,
    non_camel_case_types,
    reason = "a binary interface, in the style of Windows headers"
)]

use crate::config::key;
use crate::connection::Incoming;
use crate::irql;
use crate::machine;
use crate::report::violation;
use crate::script::{Answer, Call, Reason, Script};
use crate::socket::{Entry, Key, Phase, Socket, State};
use crate::sync::Mutex;
use crate::sys::nt::{
    GUID, NTSTATUS, PVOID, STATUS_FILE_FORCED_CLOSED, STATUS_INVALID_DEVICE_REQUEST,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use static_assertions::const_assert_eq;
use wine_support::thread;

const API: &str = "SIO_WSK_REGISTER_EXTENSION";

/// Threads that call back: two, so that one socket's callbacks may overlap another's.
const THREADS: u64 = 2;
/// In how many of a hundred cases a callback takes its time to end.
const LINGERING: u64 = 2;
/// In how many of a hundred cases the first callback comes from within the call that enables it.
const INLINE: u64 = 50;

#[repr(C)]
struct Metric {
    Size: u16,
    Version: u16,
    Flags: u32,
    BytesReceived: u64,
    BytesSent: u64,
    RoundTripTime: u32,
    Reserved: u32,
}

#[repr(C)]
struct ClientDispatch {
    Size: u16,
    Version: u16,
    Reserved: u32,
    State: unsafe extern "system" fn(PVOID, u32, u32),
    Backlog: unsafe extern "system" fn(PVOID, u32, u32, u64, u64),
    Metric: unsafe extern "system" fn(PVOID, *const Metric),
    Vendor: unsafe extern "system" fn(PVOID, u32, *const c_void, u32),
}

#[repr(C)]
struct ProviderDispatch {
    Size: u16,
    Version: u16,
    Reserved: u32,
    QueryMetric: unsafe extern "system" fn(PVOID, *mut Metric) -> NTSTATUS,
    SetMarks: unsafe extern "system" fn(PVOID, u32, u64, u64) -> NTSTATUS,
    Control: unsafe extern "system" fn(PVOID, u32, *const c_void, u32) -> NTSTATUS,
}

const_assert_eq!(size_of::<Metric>(), 32);
const_assert_eq!(size_of::<ClientDispatch>(), 40);
const_assert_eq!(size_of::<ProviderDispatch>(), 32);

const METRIC_SIZE: u16 = 32;
const CLIENT_SIZE: u16 = 40;
const VERSION: u16 = 1;

static PROVIDER: ProviderDispatch = ProviderDispatch {
    Size: 32,
    Version: VERSION,
    Reserved: 0,
    QueryMetric: query_metric,
    SetMarks: set_marks,
    Control: control,
};

/// One registration, as its socket keeps it.
pub struct Extension {
    pub npi: GUID,
    pub provider: Arc<Provider>,
    /// The events that SO_WSK_EVENT_CALLBACK has enabled.
    pub enabled: u32,
}

/// The provider's side of one registration. Its address is the provider's context.
pub struct Provider {
    socket: Arc<Socket>,
    index: usize,
    client_context: PVOID,
    client_dispatch: *const c_void,
    /// The socket's close was issued: the context is dead.
    closed: AtomicBool,
    script: Mutex<Script>,
    /// What the client's control codes ask to be called back with.
    asked: Mutex<VecDeque<Call>>,
    callbacks: AtomicU64,
    functions: AtomicU64,
}

// SAFETY: the raw pointers are the client's, and are only passed back to it, as long as its socket is not closed.
unsafe impl Send for Provider {}
// SAFETY: as above.
unsafe impl Sync for Provider {}

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
static ANSWERS: Mutex<BTreeMap<[u8; 16], Answer>> = Mutex::new(BTreeMap::new());
/// Registrations that are called back, by their address, which is their context.
static LIVE: Mutex<BTreeMap<usize, Arc<Provider>>> = Mutex::new(BTreeMap::new());
/// Those of closed sockets: their context is still known, so that its use is reported.
static DEAD: Mutex<VecDeque<Arc<Provider>>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 1024;
static STARTED: AtomicBool = AtomicBool::new(false);
/// No callbacks are made for now.
static PAUSED: AtomicBool = AtomicBool::new(false);

/// Changes how registrations of `npi` are answered from now on.
pub fn set_answer(npi: &GUID, answer: Answer) {
    ANSWERS.lock().insert(key(npi), answer);
}

/// Holds callbacks up, or lets them go on.
pub fn pause(paused: bool) {
    PAUSED.store(paused, Ordering::Release);
}

fn answer(npi: &GUID) -> Answer {
    let npi = key(npi);
    let changed = ANSWERS.lock().get(&npi).copied();
    changed
        .or_else(|| machine::config().extensions.get(&npi).copied())
        .unwrap_or(Answer::Refuse(STATUS_NOT_SUPPORTED))
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

    /// The socket's counters as the interface tells them.
    fn metric(&self) -> Metric {
        Metric {
            Size: METRIC_SIZE,
            Version: VERSION,
            Flags: 0,
            BytesReceived: self.socket.received.load(Ordering::Relaxed),
            BytesSent: self.socket.sent.load(Ordering::Relaxed),
            RoundTripTime: 0,
            Reserved: 0,
        }
    }

    /// The next callback of an event that is enabled, begun: noted with the socket, whose close waits for it.
    fn begin(&self) -> Option<Call> {
        let mut state = self.socket.state();
        let enabled = state.extensions.get(self.index)?.enabled;
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
    fn call_back(&self, may_linger: bool) {
        let Some(call) = self.begin() else { return };
        let key = Key::Extension(self.index, call.event());
        let context = self.client_context;
        // SAFETY: the client's table, looked over at the registration and kept until its socket's close has completed.
        let table = unsafe { &*self.client_dispatch.cast::<ClientDispatch>() };
        irql::as_callback(|_| match &call {
            Call::State { state, reason } => {
                // SAFETY: the client's callback, with its context.
                unsafe { (table.State)(context, *state, *reason as u32) };
            }
            Call::Backlog { direction, above, bytes, mark } => {
                // SAFETY: as above.
                unsafe { (table.Backlog)(context, *direction, u32::from(*above), *bytes, *mark) };
            }
            Call::Metric => {
                let metric = self.metric();
                // SAFETY: as above; the sample lives for the call.
                unsafe { (table.Metric)(context, &raw const metric) };
            }
            Call::Vendor { kind, data } => {
                let length = u32::try_from(data.len()).unwrap_or(0);
                // SAFETY: as above; the data lives for the call.
                unsafe { (table.Vendor)(context, *kind, data.as_ptr().cast(), length) };
            }
        });
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

/// The provider's threads: each looks after the registrations whose sockets are its share.
fn run(share: u64) {
    loop {
        thread::sleep(Duration::from_millis(machine::config().period));
        if PAUSED.load(Ordering::Acquire) {
            continue;
        }
        let live: Vec<_> = {
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
            live.values().filter(|provider| provider.socket.id % THREADS == share).cloned().collect()
        };
        for provider in live {
            provider.call_back(true);
        }
    }
}

fn start() {
    if !STARTED.swap(true, Ordering::AcqRel) {
        for share in 0..THREADS {
            thread::spawn(move || run(share));
        }
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
    let (status, out) = decide(&entry.socket, npi, input);
    let count = if status == STATUS_SUCCESS { &TOTALS.granted } else { &TOTALS.refused };
    count.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as large as it must be.
    unsafe { output.write_unaligned(out) };
    status
}

fn decide(
    socket: &Arc<Socket>,
    npi: GUID,
    input: WSK_EXTENSION_CONTROL_IN,
) -> (NTSTATUS, WSK_EXTENSION_CONTROL_OUT) {
    /// What nothing may be read from.
    const POISON: usize = 0xDEAD_BEEF_0000;
    let poison = WSK_EXTENSION_CONTROL_OUT {
        ProviderContext: core::ptr::without_provenance_mut(POISON),
        ProviderDispatch: core::ptr::without_provenance(POISON),
    };
    let nothing = WSK_EXTENSION_CONTROL_OUT { ProviderContext: null_mut(), ProviderDispatch: null() };
    match answer(&npi) {
        Answer::Refuse(status) => return (status, poison),
        Answer::NullTables => return (STATUS_SUCCESS, nothing),
        Answer::Grant => {}
    }
    let dispatch: *const ClientDispatch = input.ClientDispatch.cast();
    // SAFETY: NULL, or a table that begins with its size and version (the interface).
    let head = unsafe { dispatch.cast::<[u16; 2]>().as_ref() };
    if head.is_none_or(|[size, version]| *size < CLIENT_SIZE || *version < VERSION) {
        violation!(API, "the client's table is NULL, too small or too old: {head:?}");
        return (STATUS_INVALID_PARAMETER, poison);
    }
    let provider = {
        let mut state = socket.state();
        if state.dead {
            return (STATUS_FILE_FORCED_CLOSED, poison);
        }
        if state.extensions.iter().any(|extension| extension.npi == npi) {
            return (STATUS_INVALID_DEVICE_REQUEST, poison);
        }
        let provider = Arc::new(Provider {
            socket: Arc::clone(socket),
            index: state.extensions.len(),
            client_context: input.ClientContext,
            client_dispatch: input.ClientDispatch,
            closed: AtomicBool::new(false),
            script: Mutex::new(Script::new(machine::config().seed ^ socket.id)),
            asked: Mutex::new(VecDeque::new()),
            callbacks: AtomicU64::new(0),
            functions: AtomicU64::new(0),
        });
        state.extensions.push(Extension { npi, provider: Arc::clone(&provider), enabled: 0 });
        provider
    };
    let context = provider.context();
    LIVE.lock().insert(context.addr(), provider);
    start();
    let dispatch = (&raw const PROVIDER).cast();
    (STATUS_SUCCESS, WSK_EXTENSION_CONTROL_OUT { ProviderContext: context, ProviderDispatch: dispatch })
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
