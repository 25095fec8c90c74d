//! Extension interfaces, scripted: what the subsystem answers to SIO_WSK_REGISTER_EXTENSION, and a test's hands on the
//! provider's side of what it granted.
//!
//! Without a script every interface is refused with STATUS_NOT_SUPPORTED, which is what the documentation lets a stock
//! Windows do. A granted registration lives until its socket's close (pages "Registering an Extension Interface",
//! "Closing a Socket"): the provider calls the client's callbacks through [`Registration::call`], which the close waits
//! for; the client calls the provider's functions, which announce themselves by [`enter`], and none may be in progress
//! when WskCloseSocket is called, nor be called after.

use super::context::{self, Doing};
use super::request::at;
use super::socket::{Entry, Key, Phase, Socket, SocketRef};
use super::{current, rules};
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, KIRQL, NTSTATUS, STATUS_FILE_FORCED_CLOSED, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT};
use crate::verify::{lock, violation};
use crate::{fault, irql};
use std::ffi::c_void;
use std::ptr::{null, null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const API: &str = "SIO_WSK_REGISTER_EXTENSION";

/// What to answer to one registration of an interface.
#[derive(Clone, Debug)]
pub enum Script {
    /// STATUS_SUCCESS, with the provider's tables.
    Supported(Offer),
    /// As [`Script::Supported`], after calling back from within the registration: before it returns, and so before the
    /// client has the provider's tables.
    InlineCallback(Offer, Callback),
    /// STATUS_SUCCESS with NULL for both the provider's context and its dispatch table.
    NullTables,
    NotSupported,
    /// Any other status. A status that is not STATUS_SUCCESS grants nothing, whatever NT_SUCCESS says of it; the output
    /// is filled with what must not be used.
    Fail(NTSTATUS),
}

/// The provider's side of a granted registration.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    dispatch: usize,
    context: usize,
}

impl Offer {
    /// A provider with this dispatch table, which must stay; its context is a block of the simulator's own, dead (and
    /// watched) from the socket's close on.
    pub fn new<T: Sync>(dispatch: &'static T) -> Self {
        Self { dispatch: std::ptr::from_ref(dispatch).expose_provenance(), context: 0 }
    }

    /// The same with a context of the test's; it must differ for each registration if [`enter`] is to tell them apart.
    #[must_use]
    pub fn with_context(mut self, context: *mut c_void) -> Self {
        self.context = context.expose_provenance();
        self
    }
}

/// What a script calls with the registration at hand.
#[derive(Clone)]
pub struct Callback(Arc<dyn Fn(&Registration) + Send + Sync>);

impl Callback {
    pub fn new(body: impl Fn(&Registration) + Send + Sync + 'static) -> Self {
        Self(Arc::new(body))
    }
}

impl std::fmt::Debug for Callback {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Callback")
    }
}

pub(super) type Chooser = Arc<dyn Fn(&SocketRef) -> Script + Send + Sync>;

/// One registration, as its socket keeps it.
pub(super) struct Extension {
    pub npi: GUID,
    pub provider: Arc<Provider>,
    pub enabled: u32,
}

/// The provider's context of one registration.
pub(super) struct Provider {
    state: Mutex<ProviderState>,
    calls: AtomicU64,
    /// What the client gets as ProviderContext unless the script has its own.
    block: Box<u64>,
    context: usize,
    dispatch: usize,
    client_context: usize,
    client_dispatch: usize,
}

#[derive(Default)]
struct ProviderState {
    closed: bool,
    functions: Vec<(ThreadId, &'static str)>,
}

impl Provider {
    /// A function in progress on another thread than `own`.
    pub fn function_in_progress(&self, own: ThreadId) -> Option<&'static str> {
        let state = lock(&self.state);
        state.functions.iter().find(|(by, _)| *by != own).map(|(_, name)| *name)
    }

    /// The close was issued: the context is dead.
    pub fn close(&self) {
        lock(&self.state).closed = true;
    }

    pub fn context(&self) -> *mut c_void {
        if self.context == 0 {
            std::ptr::from_ref(&*self.block).cast_mut().cast()
        } else {
            with_exposed_provenance_mut(self.context)
        }
    }
}

/// Answers every registration of the interface `npi` by `script`, from now on.
pub fn script(npi: GUID, script: Script) {
    script_by(npi, move |_| script.clone());
}

/// Answers each registration of the interface `npi` by what `choose` says for its socket. It is called within the
/// registration, on the driver's thread, and must not wait.
pub fn script_by(npi: GUID, choose: impl Fn(&SocketRef) -> Script + Send + Sync + 'static) {
    if let Some(subsystem) = current() {
        lock(&subsystem.scripts).insert(npi, Arc::new(choose));
    }
}

/// Refuses the interface again.
pub fn clear(npi: GUID) {
    if let Some(subsystem) = current() {
        lock(&subsystem.scripts).remove(&npi);
    }
}

/// The registrations of the interface `npi` that are alive, in the order of their sockets.
pub fn registrations(npi: GUID) -> Vec<Registration> {
    let sockets = super::sockets();
    let found = sockets.into_iter().filter_map(|socket| {
        let state = lock(&socket.0.state);
        let index = state.extensions.iter().position(|extension| extension.npi == npi)?;
        let provider = Arc::clone(&state.extensions.get(index)?.provider);
        drop(state);
        Some(Registration { socket: socket.0, index, npi, provider })
    });
    found.collect()
}

/// Waits until `count` registrations of the interface are alive.
pub fn wait_registrations(npi: GUID, count: usize, limit: Duration) -> Option<Vec<Registration>> {
    let deadline = Instant::now() + limit;
    loop {
        let found = registrations(npi);
        if found.len() >= count {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        if !super::step() {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A granted registration, from the provider's side. Stays readable after its socket's close.
#[derive(Clone)]
pub struct Registration {
    socket: Arc<Socket>,
    index: usize,
    npi: GUID,
    provider: Arc<Provider>,
}

impl Registration {
    pub fn socket(&self) -> SocketRef {
        SocketRef(Arc::clone(&self.socket))
    }

    pub fn npi(&self) -> GUID {
        self.npi
    }

    /// The context that the client registered.
    pub fn client_context(&self) -> *mut c_void {
        with_exposed_provenance_mut(self.provider.client_context)
    }

    /// The dispatch table that the client registered.
    pub fn client_dispatch(&self) -> *const c_void {
        with_exposed_provenance(self.provider.client_dispatch)
    }

    /// The context that the client was given.
    pub fn provider_context(&self) -> *mut c_void {
        self.provider.context()
    }

    /// How often the client called a function of the provider.
    pub fn function_calls(&self) -> u64 {
        self.provider.calls.load(Ordering::Relaxed)
    }

    /// The events that the client has enabled by SO_WSK_EVENT_CALLBACK.
    pub fn enabled(&self) -> u32 {
        let state = lock(&self.socket.state);
        state.extensions.get(self.index).map_or(0, |extension| extension.enabled)
    }

    /// Whether the provider may still call: WskCloseSocket was not called.
    pub fn is_open(&self) -> bool {
        lock(&self.socket.state).phase == Phase::Open
    }

    /// Calls the client as the documentation allows: `body` gets its context and its dispatch table and makes the call,
    /// on this thread at `irql`. `None`, without a call, if `event` is not enabled (0 is a callback that no mask
    /// governs) or the socket is being closed; the close waits for calls in progress.
    pub fn call<T>(
        &self,
        event: u32,
        irql: KIRQL,
        body: impl FnOnce(*mut c_void, *const c_void) -> T,
    ) -> Option<T> {
        let subsystem = current()?;
        let key = Key::Extension(self.index, event);
        {
            let mut state = lock(&self.socket.state);
            let enabled = state.extensions.get(self.index)?.enabled;
            if state.phase != Phase::Open || (event != 0 && enabled & event == 0) {
                return None;
            }
            Socket::callback_begins(&mut state, key);
        }
        let result = self.run(irql, body);
        self.socket.callback_ends(&subsystem, key);
        Some(result)
    }

    /// Calls the client whatever the mask and the socket's state, as a provider that breaks the rules would. The close
    /// does not wait for it.
    ///
    /// # Safety
    /// The memory behind the client's context and dispatch table is still there.
    pub unsafe fn call_regardless<T>(
        &self,
        irql: KIRQL,
        body: impl FnOnce(*mut c_void, *const c_void) -> T,
    ) -> T {
        self.run(irql, body)
    }

    fn run<T>(&self, level: KIRQL, body: impl FnOnce(*mut c_void, *const c_void) -> T) -> T {
        let name = "extension callback";
        let (context, dispatch) = (self.client_context(), self.client_dispatch());
        at(level >= DISPATCH_LEVEL, || {
            context::during(Doing::Callback(name), || irql::same_irql(name, || body(context, dispatch)))
        })
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Registration").field("socket", &self.socket.id).finish_non_exhaustive()
    }
}

/// A function of the provider that the client is calling; ends when dropped.
pub struct InCall(Arc<Provider>);

impl Drop for InCall {
    fn drop(&mut self) {
        let own = thread::current().id();
        let mut state = lock(&self.0.state);
        if let Some(index) = state.functions.iter().rposition(|(by, _)| *by == own) {
            state.functions.swap_remove(index);
        }
    }
}

/// To be called first by every function of a scripted provider's dispatch table, with the provider's context that the
/// client passed: counts the call, and checks that the socket was not closed. `None` if it was (a violation), or if the
/// context is nobody's.
pub fn enter(provider_context: *mut c_void, function: &'static str) -> Option<InCall> {
    irql::require_at_most(function, DISPATCH_LEVEL);
    let subsystem = current()?;
    let provider = lock(&subsystem.providers).get(&provider_context.addr()).cloned();
    let alive = provider.filter(|provider| {
        let mut state = lock(&provider.state);
        if !state.closed {
            state.functions.push((thread::current().id(), function));
        }
        !state.closed
    });
    if alive.is_none() {
        violation(&rules::EXTENSION_AFTER_CLOSE, function, format!("provider context {provider_context:p}"));
    }
    let provider = alive?;
    provider.calls.fetch_add(1, Ordering::Relaxed);
    Some(InCall(provider))
}

/// SIO_WSK_REGISTER_EXTENSION.
///
/// # Safety
/// The buffers are what the driver passed.
pub(super) unsafe fn register(
    entry: &Entry,
    input_size: usize,
    input: *const WSK_EXTENSION_CONTROL_IN,
    output_size: usize,
    output: *mut WSK_EXTENSION_CONTROL_OUT,
) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    if input_size != size_of::<WSK_EXTENSION_CONTROL_IN>()
        || output_size != size_of::<WSK_EXTENSION_CONTROL_OUT>()
        || input.is_null()
        || output.is_null()
    {
        violation(&rules::NULL_OUTPUT, API, format!("{input_size} bytes in, {output_size} bytes out"));
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as large as it must be.
    let WSK_EXTENSION_CONTROL_IN { NpiId: npi, ClientContext: context, ClientDispatch: dispatch } =
        unsafe { *input };
    if npi.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL: an identifier.
    let npi = unsafe { *npi };
    let status = if lock(&socket.state).dead {
        STATUS_FILE_FORCED_CLOSED
    } else if fault::fail(API) {
        STATUS_INSUFFICIENT_RESOURCES
    } else if lock(&socket.state).extensions.iter().any(|extension| extension.npi == npi) {
        STATUS_INVALID_DEVICE_REQUEST
    } else {
        let chooser = lock(&subsystem.scripts).get(&npi).cloned();
        let script = chooser.map_or(Script::NotSupported, |choose| choose(&SocketRef(Arc::clone(socket))));
        let client = (context.expose_provenance(), dispatch.expose_provenance());
        let (status, out) = answer(entry, npi, script, client);
        // SAFETY: as large as it must be.
        unsafe { output.write_unaligned(out) };
        status
    };
    lock(&socket.state).attempts.push((npi, status));
    status
}

fn answer(
    entry: &Entry,
    npi: GUID,
    script: Script,
    client: (usize, usize),
) -> (NTSTATUS, WSK_EXTENSION_CONTROL_OUT) {
    /// An address that nothing may be read from.
    const POISON: usize = 0xDEAD_BEEF_0000;
    let poison = WSK_EXTENSION_CONTROL_OUT {
        ProviderContext: std::ptr::without_provenance_mut(POISON),
        ProviderDispatch: std::ptr::without_provenance(POISON),
    };
    let (offer, inline) = match script {
        Script::Supported(offer) => (offer, None),
        Script::InlineCallback(offer, callback) => (offer, Some(callback)),
        Script::NullTables => {
            let nothing = WSK_EXTENSION_CONTROL_OUT { ProviderContext: null_mut(), ProviderDispatch: null() };
            return (STATUS_SUCCESS, nothing);
        }
        Script::NotSupported => return (STATUS_NOT_SUPPORTED, poison),
        Script::Fail(status) => return (status, poison),
    };
    let provider = Arc::new(Provider {
        state: Mutex::default(),
        calls: AtomicU64::new(0),
        block: Box::new(0),
        context: offer.context,
        dispatch: offer.dispatch,
        client_context: client.0,
        client_dispatch: client.1,
    });
    let out = WSK_EXTENSION_CONTROL_OUT {
        ProviderContext: provider.context(),
        ProviderDispatch: with_exposed_provenance(provider.dispatch),
    };
    lock(&entry.subsystem.providers).insert(out.ProviderContext.addr(), Arc::clone(&provider));
    let index = {
        let mut state = lock(&entry.socket.state);
        state.extensions.push(Extension { npi, provider: Arc::clone(&provider), enabled: 0 });
        state.extensions.len() - 1
    };
    if let Some(Callback(body)) = inline {
        body(&Registration { socket: Arc::clone(&entry.socket), index, npi, provider });
    }
    (STATUS_SUCCESS, out)
}
