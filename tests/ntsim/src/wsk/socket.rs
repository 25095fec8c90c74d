//! The socket object: who may call it when, its callbacks, and its close.

use super::connection::Connection;
use super::context::{self, Doing};
use super::exec::{Lane, Part};
use super::extension::Extension;
use super::link::{BindOptions, Binding, Notify};
use super::listen::Listening;
use super::registration::Client;
use super::request::{Owner, Request, Ticket, at};
use super::{Subsystem, rules};
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, NTSTATUS, PIRP, STATUS_CANCELLED, STATUS_DEVICE_NOT_READY,
    STATUS_FILE_FORCED_CLOSED, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER, STATUS_NOT_IMPLEMENTED, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    ADDRESS_FAMILY, PWSK_SOCKET, WSK_EVENT_ACCEPT, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE,
    WSK_EVENT_SEND_BACKLOG, WSK_FLAG_AT_DISPATCH_LEVEL, WSK_SOCKET,
};
use crate::verify::{lock, track, untrack, violation};
use crate::{fault, irql};
use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, ThreadId};

/// What a verifier's leak calls a socket.
pub const KIND: &str = "WSK socket";

/// The category of a socket (page "Winsock Kernel Socket Categories").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    Basic,
    Listen,
    Connection,
}

/// A callback that can run, be disabled and be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One of the WSK_EVENT_* bits.
    Event(u32),
    /// A bit of the mask of the extension with this index.
    Extension(usize, u32),
    /// WskInspectEvent or WskAbortEvent, which cannot be disabled.
    Inspection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// WskCloseSocket was called.
    Closing,
    /// The close has completed.
    Closed,
}

pub struct Socket {
    pub id: u64,
    handle: PWSK_SOCKET,
    pub client: Arc<Client>,
    pub category: Category,
    pub family: ADDRESS_FAMILY,
    pub subsystem: Weak<Subsystem>,
    pub state: Mutex<State>,
    /// Whether a run of the receive or accept lane is queued, and one of the send lane.
    receive_queued: AtomicBool,
    send_queued: AtomicBool,
}

// SAFETY: the raw pointers are the handle, which is ours and freed last, and the driver's context and dispatch, which
// are only passed back to it.
unsafe impl Send for Socket {}
// SAFETY: the same; all that changes is behind the mutex or atomic.
unsafe impl Sync for Socket {}

pub struct State {
    pub phase: Phase,
    /// The socket is no longer functional.
    pub dead: bool,
    /// Functions of the socket that are in progress.
    calls: Vec<(ThreadId, &'static str)>,
    /// IRPs that are pending or whose completion routine has not come back.
    irps: usize,
    callbacks: Vec<(Key, ThreadId)>,
    pub disabling: Vec<(Key, Request)>,
    /// The close's IRP; nothing for a socket that WSK closes by itself.
    closing: Option<Request>,
    pub context: usize,
    pub dispatch: usize,
    pub enabled: u32,
    /// Of those, the ones enabled by WSK_SET_STATIC_EVENT_CALLBACKS.
    pub fixed: u32,
    pub options: Options,
    /// The security descriptor that was applied, self-relative.
    pub security: Option<Arc<[u8]>>,
    pub binding: Option<Arc<dyn Binding>>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// IRPs of functions that are configured never to complete.
    pub stalled: Vec<Arc<Ticket>>,
    pub extensions: Vec<Extension>,
    pub attempts: Vec<(GUID, NTSTATUS)>,
    pub listening: Listening,
    pub connection: Connection,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub bind: BindOptions,
    pub conditional_accept: bool,
    pub keep_alive: bool,
    pub security: usize,
}

impl Socket {
    pub fn new(
        subsystem: &Arc<Subsystem>,
        client: &Arc<Client>,
        category: Category,
        family: ADDRESS_FAMILY,
        context: usize,
        dispatch: usize,
    ) -> Arc<Self> {
        let table: *const c_void = match category {
            Category::Basic => (&raw const super::dispatch::BASIC).cast(),
            Category::Listen => (&raw const super::dispatch::LISTEN).cast(),
            Category::Connection => (&raw const super::dispatch::CONNECTION).cast(),
        };
        let handle = Box::into_raw(Box::new(WSK_SOCKET { Dispatch: table }));
        let options = Options { bind: BindOptions { exclusive: false, v6_only: true }, ..Options::default() };
        let socket = Arc::new(Self {
            id: subsystem.next_id(),
            handle,
            client: Arc::clone(client),
            category,
            family,
            subsystem: Arc::downgrade(subsystem),
            state: Mutex::new(State {
                phase: Phase::Open,
                dead: false,
                calls: Vec::new(),
                irps: 0,
                callbacks: Vec::new(),
                disabling: Vec::new(),
                closing: None,
                context,
                dispatch,
                enabled: 0,
                fixed: 0,
                options,
                security: None,
                binding: None,
                local: None,
                remote: None,
                stalled: Vec::new(),
                extensions: Vec::new(),
                attempts: Vec::new(),
                listening: Listening::default(),
                connection: Connection::new(subsystem.config.ideal_send_backlog),
            }),
            receive_queued: AtomicBool::new(false),
            send_queued: AtomicBool::new(false),
        });
        client.socket_opens();
        track(KIND, handle.addr(), 0);
        subsystem
            .sockets
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(handle.addr(), Arc::clone(&socket));
        socket
    }

    pub fn handle(&self) -> PWSK_SOCKET {
        self.handle
    }

    /// The contexts of the extension providers that this socket had.
    pub fn provider_contexts(&self) -> Vec<usize> {
        let state = lock(&self.state);
        state.extensions.iter().map(|extension| extension.provider.context().addr()).collect()
    }

    pub fn lane(&self, part: Part) -> Lane {
        Lane(self.id, part)
    }

    pub fn irp_begins(&self) {
        lock(&self.state).irps += 1;
    }

    pub fn irp_ends(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        lock(&self.state).irps -= 1;
        self.try_end_close(subsystem);
    }

    /// Queues a run of the receive (or accept) lane.
    pub fn kick_receive(self: &Arc<Self>) {
        if let Some(subsystem) = self.subsystem.upgrade()
            && !self.receive_queued.swap(true, Ordering::AcqRel)
        {
            let socket = Arc::clone(self);
            let weak = Weak::clone(&self.subsystem);
            subsystem.executor.put(
                self.lane(Part::Receive),
                Box::new(move || {
                    socket.receive_queued.store(false, Ordering::Release);
                    if let Some(subsystem) = weak.upgrade() {
                        match socket.category {
                            Category::Listen => socket.run_accept(&subsystem),
                            Category::Connection => socket.run_receive(&subsystem),
                            Category::Basic => {}
                        }
                    }
                }),
            );
        }
    }

    /// Queues a run of the send lane.
    pub fn kick_send(self: &Arc<Self>) {
        if let Some(subsystem) = self.subsystem.upgrade()
            && !self.send_queued.swap(true, Ordering::AcqRel)
        {
            let socket = Arc::clone(self);
            let weak = Weak::clone(&self.subsystem);
            subsystem.executor.put(
                self.lane(Part::Send),
                Box::new(move || {
                    socket.send_queued.store(false, Ordering::Release);
                    if let Some(subsystem) = weak.upgrade() {
                        socket.run_send(&subsystem);
                    }
                }),
            );
        }
    }

    /// Whether an event is enabled on a socket that still gets events.
    pub fn wants(state: &State, event: u32) -> bool {
        state.phase == Phase::Open && !state.dead && state.enabled & event != 0
    }

    pub fn callback_begins(state: &mut State, key: Key) {
        state.callbacks.push((key, thread::current().id()));
    }

    pub fn in_progress(state: &State, key: Key) -> bool {
        state.callbacks.iter().any(|(running, _)| *running == key)
    }

    /// Runs a callback that [`Socket::callback_begins`] has announced, and notes its end. `body` gets the flag to
    /// pass to the callback: WSK_FLAG_AT_DISPATCH_LEVEL may be missing at DISPATCH_LEVEL, never present below.
    pub fn call_back<T>(
        self: &Arc<Self>,
        subsystem: &Arc<Subsystem>,
        key: Key,
        name: &'static str,
        body: impl FnOnce(u32) -> T,
    ) -> T {
        let result = Self::run_callback(subsystem, name, body);
        self.callback_ends(subsystem, key);
        result
    }

    /// [`Socket::call_back`] for a caller that notes the end itself.
    pub fn run_callback<T>(subsystem: &Arc<Subsystem>, name: &'static str, body: impl FnOnce(u32) -> T) -> T {
        let dispatch = subsystem.callback_at_dispatch();
        let flag = if dispatch && subsystem.executor.chance(50) { WSK_FLAG_AT_DISPATCH_LEVEL } else { 0 };
        at(dispatch, || context::during(Doing::Callback(name), || irql::same_irql(name, || body(flag))))
    }

    pub fn callback_ends(self: &Arc<Self>, subsystem: &Arc<Subsystem>, key: Key) {
        let mut done = Vec::new();
        {
            let mut state = lock(&self.state);
            let own = thread::current().id();
            if let Some(index) = state.callbacks.iter().rposition(|entry| *entry == (key, own)) {
                state.callbacks.swap_remove(index);
            }
            if !Self::in_progress(&state, key) {
                // Page "SO_WSK_EVENT_CALLBACK": a pended disable completes when the calls in progress have returned.
                let (ready, left) = std::mem::take(&mut state.disabling)
                    .into_iter()
                    .partition(|(disabled, _): &(Key, Request)| *disabled == key);
                state.disabling = left;
                done = ready;
            }
        }
        for (_, request) in done {
            at(subsystem.callback_at_dispatch(), || request.complete(subsystem, STATUS_SUCCESS, 0));
        }
        self.try_end_close(subsystem);
    }

    /// Makes the socket no longer functional (STATUS_FILE_FORCED_CLOSED from then on) and has the callbacks say so.
    pub fn fail(self: &Arc<Self>) {
        let Some(subsystem) = self.subsystem.upgrade() else { return };
        {
            let mut state = lock(&self.state);
            if state.phase != Phase::Open || state.dead {
                return;
            }
            state.dead = true;
        }
        self.fail_pending(&subsystem, STATUS_FILE_FORCED_CLOSED);
        let socket = Arc::clone(self);
        let weak = Arc::downgrade(&subsystem);
        subsystem.executor.put(
            self.lane(Part::Receive),
            Box::new(move || {
                if let Some(subsystem) = weak.upgrade() {
                    match socket.category {
                        Category::Listen => socket.indicate_dead_listener(&subsystem),
                        Category::Connection => socket.indicate_dead_connection(&subsystem),
                        Category::Basic => {}
                    }
                }
            }),
        );
    }

    /// Completes everything that is pending on the socket with `status`.
    pub fn fail_pending(self: &Arc<Self>, subsystem: &Arc<Subsystem>, status: NTSTATUS) {
        let tickets = {
            let mut state = lock(&self.state);
            let mut tickets = std::mem::take(&mut state.stalled);
            tickets.extend(state.listening.take_all());
            tickets.extend(state.connection.take_all());
            tickets
        };
        for ticket in tickets {
            at(subsystem.callback_at_dispatch(), || ticket.complete(subsystem, status, 0));
        }
    }

    /// WskCloseSocket.
    ///
    /// # Safety
    /// `socket` and `irp` are what a driver passed.
    pub unsafe fn close(handle: PWSK_SOCKET, irp: PIRP) -> NTSTATUS {
        const API: &str = "WskCloseSocket";
        let (subsystem, socket) = match Entry::find(API, handle, irp) {
            Ok(found) => found,
            Err(status) => return status,
        };
        let Some(request) = Request::begin(API, irp, Owner::Client(Arc::clone(&socket.client))) else {
            return STATUS_INVALID_PARAMETER;
        };
        if !socket.begin_close(&subsystem, API, Some(request)) {
            return STATUS_INVALID_HANDLE;
        }
        let inline = subsystem.pick_inline();
        if inline && let Some(done) = socket.end_close(&subsystem) {
            done.finish(&subsystem);
            return STATUS_SUCCESS;
        }
        let weak = Arc::downgrade(&subsystem);
        let lane = socket.lane(Part::Control);
        subsystem.executor.put(
            lane,
            Box::new(move || {
                if let Some(subsystem) = weak.upgrade() {
                    socket.try_end_close(&subsystem);
                }
            }),
        );
        STATUS_PENDING
    }

    /// Checks that the socket may be closed, and starts: no call is accepted any more, everything pending is
    /// cancelled, the connection aborted unless both directions have ended. False if it is being closed already.
    pub fn begin_close(
        self: &Arc<Self>,
        subsystem: &Arc<Subsystem>,
        api: &'static str,
        request: Option<Request>,
    ) -> bool {
        let mut refused = None;
        let mut found = Vec::new();
        {
            let mut state = lock(&self.state);
            if state.phase == Phase::Open {
                for extension in &state.extensions {
                    extension.provider.close();
                }
                state.phase = Phase::Closing;
                if let Some(request) = &request {
                    self.examine_close(&state, &mut found);
                    request.mark_pending();
                }
                state.closing = request;
            } else {
                refused = Some(request);
            }
        }
        if let Some(request) = refused {
            violation(&rules::CLOSED_TWICE, api, format!("socket {}", self.id));
            if let Some(request) = request {
                request.complete(subsystem, STATUS_INVALID_HANDLE, 0);
            }
            return false;
        }
        for (rule, detail) in found {
            violation(rule, api, detail);
        }
        self.disconnect_for_close();
        self.fail_pending(subsystem, STATUS_CANCELLED);
        true
    }

    /// Closes a socket that the driver never got, or rejected.
    pub fn discard(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        if self.begin_close(subsystem, "WskCloseSocket", None) {
            self.try_end_close(subsystem);
        }
    }

    /// The rules of page "Closing a Socket".
    fn examine_close(&self, state: &State, found: &mut Vec<(&'static crate::verify::Rule, String)>) {
        let own = thread::current().id();
        for (_, name) in state.calls.iter().filter(|(by, _)| *by != own) {
            found.push((&rules::CALLS_AT_CLOSE, format!("socket {}: {name}", self.id)));
        }
        for extension in &state.extensions {
            if let Some(name) = extension.provider.function_in_progress(own) {
                found.push((&rules::EXTENSION_AT_CLOSE, format!("socket {}: {name}", self.id)));
            }
        }
        let retained = state.connection.retained_count();
        if retained > 0 {
            found.push((&rules::RETAINED_AT_CLOSE, format!("socket {}: {retained} lists", self.id)));
        }
    }

    /// Ends the close if nothing stands in its way any more.
    pub fn try_end_close(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        if let Some(done) = self.end_close(subsystem) {
            at(subsystem.callback_at_dispatch(), || done.finish(subsystem));
        }
    }

    /// Page "Closing a Socket": the close completes after every pending IRP and every callback in progress.
    fn end_close(self: &Arc<Self>, subsystem: &Arc<Subsystem>) -> Option<CloseDone> {
        let mut state = lock(&self.state);
        if state.phase != Phase::Closing || state.irps != 0 || !state.callbacks.is_empty() {
            return None;
        }
        state.phase = Phase::Closed;
        state.connection.forget();
        let request = state.closing.take();
        drop(state);
        untrack(KIND, self.handle.addr());
        subsystem.bury(self);
        Some(CloseDone { socket: Arc::clone(self), request })
    }
}

/// A socket that is closed; only its IRP is left to complete.
struct CloseDone {
    socket: Arc<Socket>,
    request: Option<Request>,
}

impl CloseDone {
    fn finish(self, subsystem: &Arc<Subsystem>) {
        if let Some(request) = self.request {
            request.complete(subsystem, STATUS_SUCCESS, 0);
        }
        self.socket.client.socket_closes();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: from Box::into_raw in `new`, and freed nowhere else.
        drop(unsafe { Box::from_raw(self.handle) });
    }
}

impl Notify for Socket {
    fn readable(&self) {
        if let Some(socket) = self.shared() {
            socket.kick_receive();
        }
    }

    fn writable(&self) {
        if let Some(socket) = self.shared() {
            socket.kick_send();
        }
    }
}

impl Socket {
    fn shared(&self) -> Option<Arc<Self>> {
        self.subsystem.upgrade()?.socket(self.handle)
    }
}

/// A call of one of a socket's functions, from its entry to its return.
pub struct Entry {
    pub subsystem: Arc<Subsystem>,
    pub socket: Arc<Socket>,
}

impl Entry {
    /// For what WSK does on a socket that the driver does not have yet.
    pub fn internal(subsystem: &Arc<Subsystem>, socket: &Arc<Socket>) -> Self {
        lock(&socket.state).calls.push((thread::current().id(), "WskSocketConnect"));
        Self { subsystem: Arc::clone(subsystem), socket: Arc::clone(socket) }
    }

    /// Finds the socket, and checks what holds for every function. An IRP that came along is completed on failure,
    /// unless the function is configured as unimplemented.
    fn find(
        api: &'static str,
        handle: PWSK_SOCKET,
        irp: PIRP,
    ) -> Result<(Arc<Subsystem>, Arc<Socket>), NTSTATUS> {
        irql::require_at_most(api, DISPATCH_LEVEL);
        let Some(subsystem) = super::current() else { return Err(STATUS_DEVICE_NOT_READY) };
        if subsystem.config.unimplemented.contains(&api) {
            return Err(STATUS_NOT_IMPLEMENTED);
        }
        if let Some(Doing::Completion(of)) = context::current() {
            violation(&rules::IN_COMPLETION, api, format!("called from the completion routine of {of}"));
        }
        let Some(socket) = subsystem.socket(handle) else {
            violation(&rules::SOCKET_GONE, api, format!("{handle:p}"));
            return Err(refuse(&subsystem, api, irp, STATUS_INVALID_HANDLE));
        };
        Ok((subsystem, socket))
    }

    pub fn begin(api: &'static str, handle: PWSK_SOCKET, irp: PIRP) -> Result<Self, NTSTATUS> {
        let (subsystem, socket) = Self::find(api, handle, irp)?;
        let phase = {
            let mut state = lock(&socket.state);
            if state.phase == Phase::Open {
                state.calls.push((thread::current().id(), api));
            }
            state.phase
        };
        if phase == Phase::Open {
            return Ok(Self { subsystem, socket });
        }
        violation(&rules::SOCKET_CLOSING, api, format!("socket {}", socket.id));
        Err(refuse(&subsystem, api, irp, STATUS_INVALID_HANDLE))
    }

    /// [`Entry::begin`] for a function that needs an IRP: takes it, and deals with what can befall any request.
    pub fn with_irp(
        api: &'static str,
        handle: PWSK_SOCKET,
        irp: PIRP,
        body: impl FnOnce(&Self, Request) -> NTSTATUS,
    ) -> NTSTATUS {
        let entry = match Self::begin(api, handle, irp) {
            Ok(entry) => entry,
            Err(status) => return status,
        };
        match entry.request(api, irp) {
            Ok(request) => body(&entry, request),
            Err(status) => status,
        }
    }

    /// Takes the IRP of a request; fails it if the socket is dead, if a fault is due, or pends it for ever.
    pub fn request(&self, api: &'static str, irp: PIRP) -> Result<Request, NTSTATUS> {
        let owner = Owner::Socket(Arc::clone(&self.socket));
        let request = Request::begin(api, irp, owner).ok_or(STATUS_INVALID_PARAMETER)?;
        if self.subsystem.config.stalled.contains(&api) {
            let ticket = Ticket::new(&self.subsystem, request);
            lock(&self.socket.state).stalled.push(ticket);
            return Err(STATUS_PENDING);
        }
        let status = if lock(&self.socket.state).dead {
            STATUS_FILE_FORCED_CLOSED
        } else if fault::fail(api) {
            STATUS_INSUFFICIENT_RESOURCES
        } else {
            return Ok(request);
        };
        Err(self.finish(request, move || (status, 0)))
    }

    /// Completes a request whose outcome is known: within the call, or later, as configured. `outcome` runs just
    /// before the completion. Returns what the function returns.
    pub fn finish(
        &self,
        request: Request,
        outcome: impl FnOnce() -> (NTSTATUS, usize) + Send + 'static,
    ) -> NTSTATUS {
        self.subsystem.finish(self.socket.lane(Part::Control), request, outcome)
    }

    pub fn fail(&self, request: Request, status: NTSTATUS) -> NTSTATUS {
        self.finish(request, move || (status, 0))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let own = thread::current().id();
        let mut state = lock(&self.socket.state);
        if let Some(index) = state.calls.iter().rposition(|(by, _)| *by == own) {
            state.calls.swap_remove(index);
        }
    }
}

/// Completes the IRP of a call that cannot be served, so that its owner does not wait for ever.
pub fn refuse(subsystem: &Arc<Subsystem>, api: &'static str, irp: PIRP, status: NTSTATUS) -> NTSTATUS {
    if !irp.is_null()
        && let Some(request) = Request::begin(api, irp, Owner::Nobody)
    {
        request.complete(subsystem, status, 0);
    }
    status
}

/// A socket as a test sees it; stays readable after the socket is closed.
#[derive(Clone)]
pub struct SocketRef(pub(super) Arc<Socket>);

impl SocketRef {
    /// A number that no other socket of this machine has had.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn category(&self) -> Category {
        self.0.category
    }

    pub fn local(&self) -> Option<SocketAddr> {
        lock(&self.0.state).local
    }

    pub fn remote(&self) -> Option<SocketAddr> {
        lock(&self.0.state).remote
    }

    /// Whether WskCloseSocket has completed.
    pub fn is_closed(&self) -> bool {
        lock(&self.0.state).phase == Phase::Closed
    }

    /// Whether another socket could not share the address (SO_EXCLUSIVEADDRUSE).
    pub fn is_exclusive(&self) -> bool {
        lock(&self.0.state).options.bind.exclusive
    }

    /// The security descriptor that was applied to the socket, self-relative; `None`: the default one, which does not let
    /// the address be shared (page "SO_WSK_SECURITY").
    pub fn security(&self) -> Option<Vec<u8>> {
        lock(&self.0.state).security.as_deref().map(<[u8]>::to_vec)
    }

    /// The WSK_EVENT_* bits that are enabled.
    pub fn enabled_events(&self) -> u32 {
        lock(&self.0.state).enabled
            & (WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT | WSK_EVENT_SEND_BACKLOG)
    }

    /// Each SIO_WSK_REGISTER_EXTENSION on this socket: the interface and what it returned, in order.
    pub fn registrations(&self) -> Vec<(GUID, NTSTATUS)> {
        lock(&self.0.state).attempts.clone()
    }

    /// Lists of indications that the driver retains.
    pub fn retained(&self) -> usize {
        lock(&self.0.state).connection.retained_count()
    }

    /// The most bytes that were ever handed to WskSend and not completed.
    pub fn peak_outstanding_sends(&self) -> usize {
        lock(&self.0.state).connection.peak_outstanding()
    }

    /// Pending receive requests.
    pub fn pending_receives(&self) -> usize {
        lock(&self.0.state).connection.pending_receives()
    }

    /// Pending accept requests.
    pub fn pending_accepts(&self) -> usize {
        lock(&self.0.state).listening.pending()
    }

    /// Makes the socket no longer functional: its callbacks get NULL, its functions STATUS_FILE_FORCED_CLOSED.
    pub fn fail(&self) {
        self.0.fail();
    }

    /// Changes the ideal send backlog, which WskSendBacklogEvent tells if it is enabled.
    pub fn set_ideal_send_backlog(&self, bytes: usize) {
        self.0.set_ideal_send_backlog(bytes);
    }
}

impl std::fmt::Debug for SocketRef {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SocketRef")
            .field("id", &self.id())
            .field("category", &self.category())
            .field("local", &self.local())
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
