//! The socket object: who may call it when, its callbacks, and its close.
//!
//! Pages "Winsock Kernel Socket Categories", "Closing a Socket", PFN_WSK_CLOSE_SOCKET.

use crate::address;
use crate::connection::Connection;
use crate::dispatch;
use crate::extension::{Extension, Registration};
use crate::fault::{FAULTS, Fate};
use crate::irql;
use crate::listen::Listening;
use crate::machine;
use crate::reactor::Ready;
use crate::registration::Client;
use crate::report::violation;
use crate::request::{self, Irp, Owner, Request, Ticket};
use crate::sync::Mutex;
use crate::sys::nt::{
    NTSTATUS, STATUS_CANCELLED, STATUS_FILE_FORCED_CLOSED, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    ADDRESS_FAMILY, PSOCKADDR, PWSK_SOCKET, WSK_EVENT_ACCEPT, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE,
    WSK_EVENT_SEND_BACKLOG, WSK_FLAG_AT_DISPATCH_LEVEL, WSK_SOCKET,
};
use crate::work::{self, Lane};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};

/// How many closed sockets are remembered, so that a late call is reported rather than undefined.
const REMEMBERED: usize = 1024;

/// The events of connection-oriented sockets, which a listening socket can pass on to what it accepts.
pub const CONNECTION_EVENTS: u32 = WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT | WSK_EVENT_SEND_BACKLOG;

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
    handle: Box<WSK_SOCKET>,
    pub client: Arc<Client>,
    pub category: Category,
    pub family: ADDRESS_FAMILY,
    this: Weak<Self>,
    state: Mutex<State>,
    /// Accepts or receives, and sends.
    receive_lane: Lane,
    send_lane: Lane,
    /// Bytes that went through.
    pub received: AtomicU64,
    pub sent: AtomicU64,
}

// SAFETY: the raw pointers are the handle's table, which is static, and the client's context and dispatch, which are only
// passed back to it.
unsafe impl Send for Socket {}
// SAFETY: the same; all that changes is behind the mutex or atomic.
unsafe impl Sync for Socket {}

pub struct State {
    pub phase: Phase,
    /// The socket is no longer functional.
    pub dead: bool,
    /// Functions of the socket that are in progress, its close aside.
    calls: u32,
    /// IRPs that are pending or whose completion routine has not come back, the close's aside.
    irps: u32,
    pub callbacks: Vec<Key>,
    pub disabling: Vec<(Key, Request)>,
    closing: Option<Request>,
    /// What the client gave.
    pub context: *mut c_void,
    pub dispatch: *const c_void,
    pub enabled: u32,
    /// Of those, the ones enabled by WSK_SET_STATIC_EVENT_CALLBACKS.
    pub fixed: u32,
    pub options: Options,
    /// It was made with a security descriptor.
    pub secured: bool,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// Accepted from a listening socket.
    pub accepted: bool,
    pub extensions: Vec<Extension>,
    pub registrations: Vec<Registration>,
    pub listening: Listening,
    pub connection: Connection,
    /// Requests that nothing but a cancellation ends.
    pub waiting: Vec<Arc<Ticket>>,
}

/// Options that are kept until there is a socket of Winsock's to set them on.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Options {
    pub exclusive: bool,
    pub v6_only: bool,
    pub keep_alive: bool,
    pub no_delay: bool,
}

/// Sockets that are open or being closed, by handle.
static SOCKETS: Mutex<BTreeMap<usize, Arc<Socket>>> = Mutex::new(BTreeMap::new());
/// Closed ones, whose handles are kept from being used again.
static CLOSED: Mutex<VecDeque<Arc<Socket>>> = Mutex::new(VecDeque::new());

/// Every socket that is open or being closed, in the order of their making.
pub fn sockets() -> Vec<Arc<Socket>> {
    let mut sockets: Vec<_> = SOCKETS.lock().values().cloned().collect();
    sockets.sort_by_key(|socket| socket.id);
    sockets
}

/// Closed sockets, the last ones.
pub fn closed() -> Vec<Arc<Socket>> {
    CLOSED.lock().iter().cloned().collect()
}

impl Socket {
    pub fn new(
        client: &Arc<Client>,
        category: Category,
        family: ADDRESS_FAMILY,
        context: *mut c_void,
        table: *const c_void,
    ) -> Arc<Self> {
        let own: *const c_void = match category {
            Category::Basic => (&raw const dispatch::BASIC).cast(),
            Category::Listen => (&raw const dispatch::LISTEN).cast(),
            Category::Connection => (&raw const dispatch::CONNECTION).cast(),
        };
        let socket = Arc::new_cyclic(|this| Self {
            id: machine::next_id(),
            handle: Box::new(WSK_SOCKET { Dispatch: own }),
            client: Arc::clone(client),
            category,
            family,
            this: Weak::clone(this),
            state: Mutex::new(State {
                phase: Phase::Open,
                dead: false,
                calls: 0,
                irps: 0,
                callbacks: Vec::new(),
                disabling: Vec::new(),
                closing: None,
                context,
                dispatch: table,
                enabled: 0,
                fixed: 0,
                options: Options { exclusive: false, v6_only: true, keep_alive: false, no_delay: false },
                secured: false,
                local: None,
                remote: None,
                accepted: false,
                extensions: Vec::new(),
                registrations: Vec::new(),
                listening: Listening::default(),
                connection: Connection::default(),
                waiting: Vec::new(),
            }),
            receive_lane: Lane::default(),
            send_lane: Lane::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        client.socket_opens();
        SOCKETS.lock().insert(socket.handle().addr(), Arc::clone(&socket));
        socket
    }

    pub fn handle(&self) -> PWSK_SOCKET {
        core::ptr::from_ref::<WSK_SOCKET>(&self.handle).cast_mut()
    }

    pub fn state(&self) -> crate::sync::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Itself, for a job; `None` once it is forgotten.
    pub fn share(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub fn irp_begins(&self) {
        self.state().irps += 1;
    }

    pub fn irp_ends(&self) {
        self.state().irps -= 1;
        self.try_end_close();
    }

    /// Enables, of what WSK_SET_STATIC_EVENT_CALLBACKS asked for, what this category has.
    pub fn enable_static(&self) {
        let mask = match self.category {
            Category::Basic => 0,
            // Its own, and what it passes on to what it accepts by event.
            Category::Listen => WSK_EVENT_ACCEPT | CONNECTION_EVENTS,
            Category::Connection => CONNECTION_EVENTS,
        };
        let mask = self.client.static_events() & mask;
        let mut state = self.state();
        state.fixed |= mask;
        state.enabled |= mask;
    }

    /// Has the accept or receive lane run, soon.
    pub fn kick_receive(&self) {
        let Some(socket) = self.share() else { return };
        if self.receive_lane.ask() {
            work::put(move || {
                socket.receive_lane.run(|| match socket.category {
                    Category::Listen => socket.run_accept(),
                    Category::Connection => socket.run_receive(),
                    Category::Basic => {}
                });
            });
        }
    }

    /// Has the send lane run, soon.
    pub fn kick_send(&self) {
        let Some(socket) = self.share() else { return };
        if self.send_lane.ask() {
            work::put(move || {
                socket.send_lane.run(|| socket.run_send());
            });
        }
    }

    /// Runs a callback that was put into [`State::callbacks`] as `key`, and notes its end. `body` gets the flag to pass.
    pub fn call_back<T>(&self, key: Key, body: impl FnOnce(u32) -> T) -> T {
        let result =
            irql::as_callback(|dispatch| body(if dispatch { WSK_FLAG_AT_DISPATCH_LEVEL } else { 0 }));
        self.callback_ends(key);
        result
    }

    pub fn callback_ends(&self, key: Key) {
        let mut done = Vec::new();
        {
            let mut state = self.state();
            if let Some(index) = state.callbacks.iter().position(|entry| *entry == key) {
                state.callbacks.swap_remove(index);
            }
            if !state.callbacks.contains(&key) {
                // Page "SO_WSK_EVENT_CALLBACK": a pended disable completes when the calls in progress have returned.
                let (ready, left) = core::mem::take(&mut state.disabling)
                    .into_iter()
                    .partition(|(disabled, _): &(Key, Request)| *disabled == key);
                state.disabling = left;
                done = ready;
            }
        }
        for (_, request) in done {
            request.complete_as_callback(STATUS_SUCCESS, 0);
        }
        self.try_end_close();
    }

    /// Makes the socket no longer functional: everything fails with STATUS_FILE_FORCED_CLOSED from now on, and the
    /// callbacks say so by a NULL argument. False if it was on its way out.
    pub fn fail(&self) -> bool {
        {
            let mut state = self.state();
            if state.phase != Phase::Open || state.dead {
                return false;
            }
            state.dead = true;
            state.listening.stop();
            state.connection.drop_link(false);
        }
        self.fail_pending(STATUS_FILE_FORCED_CLOSED);
        if let Some(socket) = self.share() {
            work::put(move || socket.indicate_death());
        }
        true
    }

    /// Completes everything that is pending on the socket with `status`.
    pub fn fail_pending(&self, status: NTSTATUS) {
        let tickets = {
            let mut state = self.state();
            let mut tickets = core::mem::take(&mut state.waiting);
            tickets.extend(state.listening.take_all());
            tickets.extend(state.connection.take_all());
            tickets
        };
        for ticket in tickets {
            ticket.complete(status, 0);
        }
    }

    /// WskCloseSocket.
    pub fn close(handle: PWSK_SOCKET, irp: Irp) -> NTSTATUS {
        const API: &str = "WskCloseSocket";
        let Some(socket) = find(API, handle) else { return STATUS_INVALID_HANDLE };
        let owner = Owner::Client(Arc::clone(&socket.client));
        let Some(request) = Request::begin(API, irp, owner) else { return STATUS_INVALID_PARAMETER };
        let (calls, retained) = {
            let mut state = socket.state();
            if state.phase != Phase::Open {
                drop(state);
                violation!(API, "socket {} is being closed already", socket.id);
                request.complete(STATUS_INVALID_HANDLE, 0);
                return STATUS_INVALID_HANDLE;
            }
            state.phase = Phase::Closing;
            for extension in &state.extensions {
                extension.provider.close();
            }
            (state.calls, state.connection.kept_back())
        };
        if retained != 0 {
            violation!(API, "socket {}: {retained} lists of indications are not released", socket.id);
        }
        if calls != 0 {
            violation!(API, "socket {}: {calls} of its functions are in progress", socket.id);
        }
        socket.tear_down();
        if machine::pick_inline() && socket.state().is_idle() {
            socket.bury();
            request.complete(STATUS_SUCCESS, 0);
            return STATUS_SUCCESS;
        }
        request.mark_pending();
        socket.state().closing = Some(request);
        work::put(move || socket.try_end_close());
        STATUS_PENDING
    }

    /// Page "Closing a Socket": the connection is aborted unless both directions have ended; what is pending is cancelled.
    fn tear_down(&self) {
        {
            let mut state = self.state();
            state.listening.stop();
            let graceful = state.connection.is_over();
            state.connection.drop_link(graceful);
        }
        self.fail_pending(STATUS_CANCELLED);
    }

    /// Closes a socket that the client never got, or has rejected.
    pub fn discard(&self) {
        self.state().phase = Phase::Closing;
        self.tear_down();
        self.bury();
    }

    /// Completes the close, once nothing is in progress any more. The IRP comes last.
    fn try_end_close(&self) {
        let request = {
            let mut state = self.state();
            if state.phase != Phase::Closing || !state.is_idle() {
                return;
            }
            state.closing.take()
        };
        if let Some(request) = request {
            self.bury();
            request.complete_as_callback(STATUS_SUCCESS, 0);
        }
    }

    fn bury(&self) {
        let extensions = {
            let mut state = self.state();
            state.registrations = state.registered();
            state.phase = Phase::Closed;
            core::mem::take(&mut state.extensions)
        };
        // Each has a share of the socket.
        drop(extensions);
        let socket = SOCKETS.lock().remove(&self.handle().addr());
        let forgotten = {
            let mut closed = CLOSED.lock();
            closed.extend(socket);
            (closed.len() > REMEMBERED).then(|| closed.pop_front()).flatten()
        };
        drop(forgotten);
        self.client.socket_closes();
    }

    pub fn count_received(&self, bytes: usize) {
        self.received.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes what was sent, after each share of which WSK thinks its ideal backlog over, as it does when the network
    /// changes.
    pub fn count_sent(&self, bytes: usize) {
        const SHARE: u64 = 256 * 1024;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        let before = self.sent.fetch_add(bytes, Ordering::Relaxed);
        if before / SHARE != (before + bytes) / SHARE {
            self.set_ideal_send_backlog((16 + machine::draw(240)) * 1024);
        }
    }
}

impl Ready for Socket {
    fn readable(&self) {
        self.kick_receive();
    }

    fn writable(&self) {
        self.kick_send();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.irps == 0 && self.callbacks.is_empty()
    }

    /// The interfaces that it was to be registered for.
    pub fn registered(&self) -> Vec<Registration> {
        let mut registrations = self.registrations.clone();
        for registration in &mut registrations {
            if let Some(lasts) = self.extensions.iter().find(|extension| extension.npi == registration.npi) {
                registration.enabled = lasts.enabled;
                (registration.callbacks, registration.functions) = lasts.provider.counts();
            }
        }
        registrations
    }

    /// Functions in progress, IRPs outstanding: for the drive channel.
    pub fn busy(&self) -> (u32, u32) {
        (self.calls, self.irps)
    }

    /// Whether an event is enabled on a socket that still gets events.
    pub fn wants(&self, event: u32) -> bool {
        self.phase == Phase::Open && !self.dead && self.enabled & event != 0
    }
}

fn find(api: &str, handle: PWSK_SOCKET) -> Option<Arc<Socket>> {
    let found = SOCKETS.lock().get(&handle.addr()).cloned();
    if found.is_none() {
        let closed = CLOSED.lock().iter().any(|socket| socket.handle() == handle);
        let what = if closed { "is closed" } else { "is no socket" };
        violation!(api, "{handle:p} {what}");
    }
    found
}

/// A call of one of a socket's functions, from its entry to its return.
pub struct Entry {
    pub socket: Arc<Socket>,
}

impl Entry {
    /// Finds the socket and notes the call. With a socket that cannot be called, the IRP is completed.
    pub fn begin(api: &'static str, handle: PWSK_SOCKET, irp: Irp) -> Result<Self, NTSTATUS> {
        let Some(socket) = find(api, handle) else { return Err(STATUS_INVALID_HANDLE) };
        let (phase, dead) = {
            let mut state = socket.state();
            if state.phase == Phase::Open {
                state.calls += 1;
            }
            (state.phase, state.dead)
        };
        if phase != Phase::Open {
            violation!(api, "socket {} is being closed", socket.id);
            let owner = Owner::Client(Arc::clone(&socket.client));
            return Err(request::refuse(api, irp, owner, STATUS_INVALID_HANDLE));
        }
        let entry = Self { socket };
        if dead {
            return Err(entry.refuse(api, irp, STATUS_FILE_FORCED_CLOSED));
        }
        Ok(entry)
    }

    /// Completes the IRP of a call that is refused, if there is one.
    pub fn refuse(&self, api: &'static str, irp: Irp, status: NTSTATUS) -> NTSTATUS {
        request::refuse(api, irp, Owner::Socket(Arc::clone(&self.socket)), status)
    }

    /// Takes the call's IRP, unless the call has a fate of its own: then what it returns.
    pub fn request(&self, api: &'static str, irp: Irp) -> Result<Request, NTSTATUS> {
        let owner = Owner::Socket(Arc::clone(&self.socket));
        let request = Request::begin(api, irp, owner).ok_or(STATUS_INVALID_PARAMETER)?;
        match FAULTS.call(api) {
            None => Ok(request),
            Some(Fate::Fail(status)) => Err(request.finish(status, 0)),
            Some(Fate::Stall) => {
                let ticket = Ticket::new(request);
                self.socket.state().waiting.push(ticket);
                Err(STATUS_PENDING)
            }
        }
    }

    /// A function that must have an IRP.
    pub fn with_irp(
        api: &'static str,
        handle: PWSK_SOCKET,
        irp: Irp,
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
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.socket.state().calls -= 1;
        self.socket.try_end_close();
    }
}

/// WskGetLocalAddress and WskGetRemoteAddress.
///
/// # Safety
/// `pointer` is NULL or has room for an address of the socket's family.
pub unsafe fn get_address(
    api: &'static str,
    handle: PWSK_SOCKET,
    pointer: PSOCKADDR,
    irp: Irp,
    which: impl FnOnce(&State) -> Option<SocketAddr>,
) -> NTSTATUS {
    Entry::with_irp(api, handle, irp, |entry, request| {
        if pointer.is_null() {
            violation!(api, "the address is NULL");
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        let found = which(&entry.socket.state());
        let Some(found) = found else { return request.finish(STATUS_INVALID_DEVICE_STATE, 0) };
        // SAFETY: the caller's.
        unsafe { address::write(found, entry.socket.family, pointer) };
        request.finish(STATUS_SUCCESS, 0)
    })
}
