//! Winsock Kernel, simulated as its documentation describes it.
//!
//! A driver reaches it by the exports in [`crate::sys::wsk`]; [`Config`] says how it behaves where the documentation
//! leaves a choice: whether a request completes within its call, later, or on another thread before the call returns;
//! whether callbacks come at DISPATCH_LEVEL; in which pieces data arrives; what is not implemented at all. Choices that
//! are left to chance are drawn from a seed; a run repeats only where a test steps it ([`Config::threads`] 0).
//!
//! Two back ends carry the bytes: [`memory`], in which a test holds the other end of every connection, and real TCP.
//!
//! The rules that drivers break are checked, and breaches reported to [`crate::verify`] with the documentation page.
//! Tests look at sockets through [`sockets`], play extension providers through [`extension`], and, with
//! [`Config::threads`] 0, run the subsystem step by step with [`step`] and [`settle`].

mod address;
mod buffer;
mod client;
mod connection;
mod context;
mod control;
mod dispatch;
mod exec;
pub mod extension;
mod link;
mod listen;
pub mod memory;
mod registration;
mod request;
pub mod rules;
mod socket;
mod tcp;

pub use registration::{capture, deregister, query_characteristics, register, release};
pub use socket::{Category, SocketRef};

use crate::sys::nt::{GUID, NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_PENDING};
use crate::sys::wsk::{PWSK_SOCKET, WSK_PROVIDER_DISPATCH};
use crate::verify::{lock, violation};
use context::Doing;
use exec::{Executor, Lane};
use link::Network;
use registration::Client;
use request::{Request, Ticket, at};
use socket::Socket;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// See [`memory`].
    #[default]
    Memory,
    /// Real TCP sockets of the host.
    Tcp,
}

/// When a request whose outcome is known completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// Within the call, which returns the outcome.
    Inline,
    /// After the call has returned STATUS_PENDING, or while it does.
    Pending,
    /// On another thread, and mostly before the call has returned STATUS_PENDING.
    OtherThread,
    /// Each request as the seed decides.
    #[default]
    Seeded,
}

/// The IRQL of callbacks, and of completions that do not happen within the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallbackIrql {
    Passive,
    Dispatch,
    /// Each as the seed decides.
    #[default]
    Seeded,
}

/// How the subsystem behaves.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "choices that do not depend on each other")]
pub struct Config {
    pub backend: Backend,
    pub seed: u64,
    /// Threads that run completions and callbacks; 0 has tests run them by [`step`].
    pub threads: usize,
    pub completion: Completion,
    pub callback_irql: CallbackIrql,
    /// Whether the provider is there at boot; else [`set_ready`] brings it.
    pub ready: bool,
    /// The lowest and highest version that clients may ask for.
    pub versions: (u16, u16),
    /// `WSK_PROVIDER_DISPATCH.Version`, which tells the extension interfaces that are supported.
    pub provider_version: u16,
    /// Whether data arrives in pieces, over several indications and MDLs.
    pub split: bool,
    /// In how many of a hundred cases an event is called although a request is pending.
    pub races: u8,
    /// How many of a hundred indications carry WSK_FLAG_RELEASE_ASAP.
    pub release_asap: u8,
    /// Bytes that a driver can retain before no more are indicated: the network adapter's buffers.
    pub retain_limit: usize,
    pub ideal_send_backlog: usize,
    /// Bytes on their way in each direction of a connection in memory.
    pub window: usize,
    /// Connections that wait to be accepted before more are refused.
    pub backlog: usize,
    /// Whether static event callbacks are enabled on what WskAccept accepts; they always are on what WskAcceptEvent does.
    pub static_on_accepted: bool,
    /// Whether what a driver lends to a request is watched until the request is completed: that data to be sent does not
    /// change, and that no buffer is freed.
    pub watch_buffers: bool,
    /// Functions that return STATUS_NOT_IMPLEMENTED and never complete their IRP, by name (see [`Config::incomplete`]).
    pub unimplemented: &'static [&'static str],
    /// Functions whose IRP stays pending until it is cancelled or the socket closed, by name.
    pub stalled: &'static [&'static str],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: Backend::Memory,
            seed: 0,
            threads: 2,
            completion: Completion::Seeded,
            callback_irql: CallbackIrql::Seeded,
            ready: true,
            versions: (0x0100, 0x0100),
            provider_version: 0x0100,
            split: true,
            races: 5,
            release_asap: 50,
            retain_limit: 256 * 1024,
            ideal_send_backlog: 64 * 1024,
            window: 64 * 1024,
            backlog: 200,
            static_on_accepted: true,
            watch_buffers: true,
            unimplemented: &[],
            stalled: &[],
        }
    }
}

impl Config {
    /// Real TCP, without what only slows a program down.
    pub fn tcp() -> Self {
        Self { backend: Backend::Tcp, split: false, races: 0, watch_buffers: false, ..Self::default() }
    }

    /// A provider that has sockets, accept, connect, send and receive by IRP, and nothing else: the rest returns
    /// STATUS_NOT_IMPLEMENTED without completing its IRP, as some providers do.
    pub fn incomplete() -> Self {
        Self {
            unimplemented: &[
                "WskControlSocket",
                "WskControlClient",
                "WskDisconnect",
                "WskGetLocalAddress",
                "WskGetRemoteAddress",
                "WskSocketConnect",
            ],
            ..Self::default()
        }
    }
}

/// How many closed sockets are remembered, so that a late call is reported rather than undefined.
const REMEMBERED: usize = 1024;

pub(crate) struct Subsystem {
    config: Config,
    executor: Arc<Executor>,
    network: Arc<dyn Network>,
    memory: Option<Arc<memory::Net>>,
    dispatch: Box<WSK_PROVIDER_DISPATCH>,
    ready: AtomicBool,
    next_id: AtomicU64,
    registrations: Mutex<HashMap<usize, Arc<Client>>>,
    clients: Mutex<HashMap<usize, Arc<Client>>>,
    sockets: RwLock<HashMap<usize, Arc<Socket>>>,
    closed: Mutex<VecDeque<Arc<Socket>>>,
    /// Queued requests by the address of their IRP, for their cancel routine.
    tickets: Mutex<HashMap<usize, Arc<Ticket>>>,
    scripts: Mutex<HashMap<GUID, extension::Chooser>>,
    providers: Mutex<HashMap<usize, Arc<extension::Provider>>>,
}

/// The configuration of the machine that runs, and its subsystem once something needed it.
struct Slot {
    config: Option<Config>,
    subsystem: Option<Arc<Subsystem>>,
}

static SLOT: RwLock<Slot> = RwLock::new(Slot { config: None, subsystem: None });

/// Sets what the machine that boots now will have.
pub(crate) fn boot(config: Config) {
    let mut slot = SLOT.write().unwrap_or_else(PoisonError::into_inner);
    *slot = Slot { config: Some(config), subsystem: None };
    crate::boot::at_shutdown(shut_down);
}

fn shut_down() {
    let subsystem = {
        let mut slot = SLOT.write().unwrap_or_else(PoisonError::into_inner);
        slot.config = None;
        slot.subsystem.take()
    };
    if let Some(subsystem) = subsystem {
        subsystem.network.stop();
        subsystem.executor.stop();
        subsystem.forget();
    }
}

/// The subsystem of the machine that runs, started when it is first needed.
pub(crate) fn current() -> Option<Arc<Subsystem>> {
    {
        let slot = SLOT.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(subsystem) = &slot.subsystem {
            return Some(Arc::clone(subsystem));
        }
    }
    let mut slot = SLOT.write().unwrap_or_else(PoisonError::into_inner);
    let config = slot.config?;
    Some(Arc::clone(slot.subsystem.get_or_insert_with(|| Subsystem::start(config))))
}

/// A wait that would block: not allowed in a WSK callback or completion routine (page "Winsock Kernel Events").
pub(crate) fn require_no_callback(api: &'static str) {
    if let Some(doing) = context::current() {
        let (Doing::Callback(name) | Doing::Completion(name)) = doing;
        violation(&rules::CALLBACK_WAITS, api, format!("within {name}"));
    }
}

impl Subsystem {
    fn start(config: Config) -> Arc<Self> {
        let executor = Executor::start(config.seed, config.threads);
        let (network, memory): (Arc<dyn Network>, _) = match config.backend {
            Backend::Memory => {
                let settings =
                    memory::Settings { window: config.window, backlog: config.backlog, split: config.split };
                let net = memory::Net::start(Arc::clone(&executor), settings);
                (Arc::new(memory::MemoryNetwork(Arc::clone(&net))), Some(net))
            }
            Backend::Tcp => (tcp::TcpNetwork::start(), None),
        };
        Arc::new(Self {
            ready: AtomicBool::new(config.ready),
            dispatch: Box::new(client::dispatch(config.provider_version)),
            config,
            executor,
            network,
            memory,
            next_id: AtomicU64::new(1),
            registrations: Mutex::default(),
            clients: Mutex::default(),
            sockets: RwLock::default(),
            closed: Mutex::default(),
            tickets: Mutex::default(),
            scripts: Mutex::default(),
            providers: Mutex::default(),
        })
    }

    /// Gives back what the machine's end leaves.
    fn forget(&self) {
        let sockets = std::mem::take(&mut *self.sockets.write().unwrap_or_else(PoisonError::into_inner));
        for socket in sockets.into_values() {
            socket.disconnect_for_close();
            let mut state = lock(&socket.state);
            drop((state.listening.take_all(), state.connection.take_all()));
            state.stalled.clear();
        }
        lock(&self.closed).clear();
        lock(&self.tickets).clear();
        lock(&self.providers).clear();
        lock(&self.scripts).clear();
        lock(&self.clients).clear();
        for client in std::mem::take(&mut *lock(&self.registrations)).into_values() {
            drop(client.take_list_changes());
        }
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn memory(&self) -> Option<Arc<memory::Net>> {
        self.memory.clone()
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn provider_dispatch(&self) -> *const WSK_PROVIDER_DISPATCH {
        &raw const *self.dispatch
    }

    /// A socket that is open or being closed.
    fn socket(&self, handle: PWSK_SOCKET) -> Option<Arc<Socket>> {
        self.sockets.read().unwrap_or_else(PoisonError::into_inner).get(&handle.addr()).cloned()
    }

    /// Takes a closed socket from the living.
    fn bury(&self, socket: &Arc<Socket>) {
        let handle = socket.handle().addr();
        self.sockets.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        let mut closed = lock(&self.closed);
        closed.push_back(Arc::clone(socket));
        let forgotten = (closed.len() > REMEMBERED).then(|| closed.pop_front()).flatten();
        drop(closed);
        if let Some(forgotten) = forgotten {
            let contexts = forgotten.provider_contexts();
            lock(&self.providers).retain(|context, _| !contexts.contains(context));
        }
    }

    /// Whether the next callback, or completion outside its call, comes at DISPATCH_LEVEL.
    fn callback_at_dispatch(&self) -> bool {
        match self.config.callback_irql {
            CallbackIrql::Passive => false,
            CallbackIrql::Dispatch => true,
            CallbackIrql::Seeded => self.executor.chance(50),
        }
    }

    /// Whether the next request completes within its call.
    fn pick_inline(&self) -> bool {
        match self.config.completion {
            Completion::Inline => true,
            Completion::Pending | Completion::OtherThread => false,
            Completion::Seeded => self.executor.chance(34),
        }
    }

    /// Completes a request whose outcome is known, within the call or on a lane. Returns what the function returns.
    fn finish(
        self: &Arc<Self>,
        lane: Lane,
        mut request: Request,
        outcome: impl FnOnce() -> (NTSTATUS, usize) + Send + 'static,
    ) -> NTSTATUS {
        if self.pick_inline() {
            let (status, information) = outcome();
            request.complete(self, status, information);
            return status;
        }
        request.mark_pending();
        let done = Arc::new(AtomicBool::new(false));
        let (weak, flag) = (Arc::downgrade(self), Arc::clone(&done));
        self.executor.put(
            lane,
            Box::new(move || {
                if let Some(subsystem) = weak.upgrade() {
                    let lent = request.has_what_was_lent(&subsystem);
                    let (status, information) = if lent { outcome() } else { (STATUS_INVALID_PARAMETER, 0) };
                    at(subsystem.callback_at_dispatch(), || {
                        request.complete(&subsystem, status, information);
                    });
                }
                flag.store(true, Ordering::Release);
            }),
        );
        self.wait_a_little(|| done.load(Ordering::Acquire));
        STATUS_PENDING
    }

    /// Gives another thread the time to complete a queued request before the call returns, where that is configured.
    fn linger(&self, ticket: &Ticket) {
        self.wait_a_little(|| ticket.is_completed());
    }

    fn wait_a_little(&self, done: impl Fn() -> bool) {
        let other_thread = match self.config.completion {
            Completion::OtherThread => true,
            Completion::Seeded => self.executor.chance(25),
            Completion::Inline | Completion::Pending => false,
        };
        if other_thread && !self.executor.is_manual() {
            // Bounded: whoever calls at DISPATCH_LEVEL may own the processor that the other thread needs.
            let deadline = Instant::now() + Duration::from_micros(500);
            while !done() && Instant::now() < deadline {
                thread::yield_now();
            }
        }
    }
}

/// Brings the provider, or takes it away: what WskCaptureProviderNPI waits for.
pub fn set_ready(ready: bool) {
    if let Some(subsystem) = current() {
        subsystem.ready.store(ready, Ordering::Release);
        for client in lock(&subsystem.clients).values() {
            client.wake();
        }
    }
}

/// Runs one piece of deferred work, on a machine with [`Config::threads`] 0; false if there was none.
pub fn step() -> bool {
    current().is_some_and(|subsystem| subsystem.executor.is_manual() && subsystem.executor.step())
}

/// Waits until no deferred work is left; false if that takes longer than `limit`.
pub fn settle(limit: Duration) -> bool {
    current().is_none_or(|subsystem| subsystem.executor.settle(limit))
}

/// The sockets that are open or being closed, oldest first.
pub fn sockets() -> Vec<SocketRef> {
    let Some(subsystem) = current() else { return Vec::new() };
    let sockets = subsystem.sockets.read().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<_> = sockets.values().cloned().map(SocketRef).collect();
    drop(sockets);
    found.sort_by_key(SocketRef::id);
    found
}

/// The sockets that were closed last, in the order of their closing.
pub fn closed_sockets() -> Vec<SocketRef> {
    let Some(subsystem) = current() else { return Vec::new() };
    let closed = lock(&subsystem.closed);
    closed.iter().cloned().map(SocketRef).collect()
}

/// Completes what waits for a change of the list of transports (WSK_TRANSPORT_LIST_CHANGE).
pub fn change_transport_list() {
    let Some(subsystem) = current() else { return };
    let clients: Vec<_> = lock(&subsystem.clients).values().cloned().collect();
    for client in clients {
        for ticket in client.take_list_changes() {
            at(subsystem.callback_at_dispatch(), || {
                ticket.complete(&subsystem, crate::sys::nt::STATUS_SUCCESS, 0);
            });
        }
    }
}

#[cfg(test)]
mod tests;
