//! Listening sockets: they listen from WskBind on; connections are accepted by IRP and by event.
//!
//! Pages PFN_WSK_BIND, PFN_WSK_ACCEPT, PFN_WSK_ACCEPT_EVENT, "Listening for and Accepting Incoming Connections".

use crate::address::{self, Inet};
use crate::reactor::{Ready, Watch};
use crate::report::violation;
use crate::request::{Irp, Request, Ticket};
use crate::socket::{CONNECTION_EVENTS, Category, Entry, Key, Phase, Socket, State};
use crate::sys::nt::{
    NTSTATUS, PIRP, PVOID, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED,
    STATUS_PENDING, STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, PSOCKADDR, PWSK_INSPECT_ID, PWSK_SOCKET, SO_EXCLUSIVEADDRUSE,
    SOL_SOCKET, WSK_CLIENT_CONNECTION_DISPATCH, WSK_CLIENT_LISTEN_DISPATCH, WSK_EVENT_ACCEPT,
    WSK_INSPECT_ACTION,
};
use crate::winsock::{self, Failure};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ptr::{null, null_mut};
use wine_support::log;

#[derive(Default)]
pub struct Listening {
    listener: Option<Listener>,
    accepts: VecDeque<Accept>,
    /// Accepted of Winsock, and of nobody else yet.
    waiting: VecDeque<Arrived>,
    pub accepted: u64,
}

struct Listener {
    /// Dropped first, so that nobody polls a closed socket.
    watch: Watch,
    socket: Arc<winsock::Socket>,
}

struct Accept {
    ticket: Arc<Ticket>,
    context: PVOID,
    dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
    local: PSOCKADDR,
    remote: PSOCKADDR,
}

/// A connection of Winsock's.
pub struct Arrived {
    pub socket: Arc<winsock::Socket>,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

enum Next {
    Complete(Accept, Request, Arrived),
    Event(Arrived),
    Stop,
}

impl Listening {
    /// Stops listening; what waits is reset.
    pub fn stop(&mut self) {
        self.listener = None;
        for waiting in self.waiting.drain(..) {
            waiting.socket.reset_on_close();
        }
    }

    pub fn take_all(&mut self) -> Vec<Arc<Ticket>> {
        self.accepts.drain(..).map(|accept| accept.ticket).collect()
    }

    pub fn pending(&self) -> usize {
        self.accepts.iter().filter(|accept| !accept.ticket.is_taken()).count()
    }

    fn arrived(&mut self) -> Option<Arrived> {
        if let Some(waiting) = self.waiting.pop_front() {
            return Some(waiting);
        }
        let listener = self.listener.as_ref()?;
        loop {
            match listener.socket.accept() {
                Ok((socket, remote)) => {
                    // One that is gone already is none.
                    if let Ok(local) = socket.local() {
                        return Some(Arrived { socket: Arc::new(socket), local, remote });
                    }
                }
                Err(Failure::WouldBlock) => break,
                Err(Failure::Status(status)) => {
                    log!("accept: {status:#010x}");
                    break;
                }
            }
        }
        listener.watch.want_read();
        None
    }
}

/// A socket of Winsock's, bound to `at`.
pub fn bound(state: &State, at: SocketAddr) -> winsock::Result<winsock::Socket> {
    let socket = winsock::Socket::stream(address::family(&at))?;
    if address::family(&at) == AF_INET6 {
        socket.set_option(IPPROTO_IPV6, IPV6_V6ONLY, &u32::from(state.options.v6_only).to_ne_bytes())?;
    }
    if state.options.exclusive
        && let Err(failure) = socket.set_option(SOL_SOCKET, SO_EXCLUSIVEADDRUSE, &1_u32.to_ne_bytes())
    {
        // The host's addresses are exclusive of themselves.
        log!("SO_EXCLUSIVEADDRUSE: {failure:x?}");
    }
    socket.bind(at)?;
    Ok(socket)
}

/// WskBind of a listening socket.
pub unsafe extern "system" fn bind(socket: PWSK_SOCKET, local: PSOCKADDR, flags: u32, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskBind";
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp(API, socket, irp, |entry, request| {
        let socket = &entry.socket;
        // SAFETY: what the client passed, as the page has it.
        let at = unsafe { address::read(local, socket.family) };
        let Some(at) = at.filter(|_| flags == 0) else {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        };
        let outcome = open(socket, at);
        let status = match outcome {
            Ok(()) => STATUS_SUCCESS,
            Err(Failure::Status(status)) => status,
            Err(Failure::WouldBlock) => STATUS_INVALID_DEVICE_STATE,
        };
        socket.kick_receive();
        request.finish(status, 0)
    })
}

fn open(socket: &Arc<Socket>, at: SocketAddr) -> winsock::Result<()> {
    let mut state = socket.state();
    if state.local.is_some() {
        return Err(Failure::Status(STATUS_INVALID_DEVICE_STATE));
    }
    let listener = bound(&state, at)?;
    listener.listen()?;
    state.local = Some(listener.local()?);
    let listener = Arc::new(listener);
    let whom: Weak<Socket> = Arc::downgrade(socket);
    let watch = Watch::new(&listener, whom as Weak<dyn Ready>);
    state.listening.listener = Some(Listener { watch, socket: listener });
    Ok(())
}

/// WskAccept.
pub unsafe extern "system" fn accept(
    socket: PWSK_SOCKET,
    flags: u32,
    context: PVOID,
    dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
    local: PSOCKADDR,
    remote: PSOCKADDR,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp("WskAccept", socket, irp, |entry, request| {
        if flags != 0 {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        if entry.socket.state().listening.listener.is_none() {
            return request.finish(STATUS_INVALID_DEVICE_STATE, 0);
        }
        let accept = Accept { ticket: Ticket::new(request), context, dispatch, local, remote };
        entry.socket.state().listening.accepts.push_back(accept);
        entry.socket.kick_receive();
        STATUS_PENDING
    })
}

/// WskInspectComplete: conditional accept mode cannot be switched on here, so there is nothing to complete.
pub unsafe extern "system" fn inspect_complete(
    socket: PWSK_SOCKET,
    _id: PWSK_INSPECT_ID,
    _action: WSK_INSPECT_ACTION,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp("WskInspectComplete", socket, irp, |_, request| request.finish(STATUS_NOT_SUPPORTED, 0))
}

impl Socket {
    /// One run of the accept lane.
    pub fn run_accept(&self) {
        loop {
            match self.next_accept() {
                Next::Stop => return,
                Next::Event(arrived) => self.accept_event(arrived),
                Next::Complete(accept, request, arrived) => {
                    for (pointer, address) in [(accept.local, arrived.local), (accept.remote, arrived.remote)]
                    {
                        // SAFETY: the buffers stay valid until the IRP is completed (page PFN_WSK_ACCEPT).
                        unsafe { address::write(address, self.family, pointer) };
                    }
                    let table = accept.dispatch.cast();
                    let socket =
                        Self::new(&self.client, Category::Connection, self.family, accept.context, table);
                    // All of its events are disabled by default; static ones are not a default.
                    socket.enable_static();
                    socket.attach(arrived, false);
                    request.complete_as_callback(STATUS_SUCCESS, socket.handle().expose_provenance());
                }
            }
        }
    }

    fn next_accept(&self) -> Next {
        let mut state = self.state();
        if state.phase != Phase::Open || state.dead {
            return Next::Stop;
        }
        let event = state.wants(WSK_EVENT_ACCEPT);
        let listening = &mut state.listening;
        listening.accepts.retain(|accept| !accept.ticket.is_taken());
        if listening.accepts.is_empty() && !event {
            return Next::Stop;
        }
        let Some(arrived) = listening.arrived() else { return Next::Stop };
        listening.accepted += 1;
        // Page PFN_WSK_ACCEPT: a pending accept takes precedence.
        while let Some(accept) = listening.accepts.pop_front() {
            if let Some(request) = accept.ticket.take() {
                return Next::Complete(accept, request, arrived);
            }
        }
        if event {
            state.callbacks.push(Key::Event(WSK_EVENT_ACCEPT));
            return Next::Event(arrived);
        }
        listening.accepted -= 1;
        listening.waiting.push_front(arrived);
        Next::Stop
    }

    fn listen_dispatch(state: &State) -> Option<WSK_CLIENT_LISTEN_DISPATCH> {
        let table: *const WSK_CLIENT_LISTEN_DISPATCH = state.dispatch.cast();
        // SAFETY: NULL, or the client's table, which it keeps as long as the socket.
        unsafe { table.as_ref() }.copied()
    }

    /// Page PFN_WSK_ACCEPT_EVENT.
    fn accept_event(&self, arrived: Arrived) {
        const API: &str = "WskAcceptEvent";
        let (context, table, inherited) = {
            let state = self.state();
            (state.context, Self::listen_dispatch(&state), state.enabled & CONNECTION_EVENTS)
        };
        let mut local = Inet::new(address::in_family(arrived.local, self.family));
        let mut remote = Inet::new(address::in_family(arrived.remote, self.family));
        let socket = Self::new(&self.client, Category::Connection, self.family, null_mut(), null());
        socket.attach(arrived, true);
        let (mut its_context, mut its_table) = (null_mut(), null());
        let key = Key::Event(WSK_EVENT_ACCEPT);
        let answer = table.and_then(|table| table.WskAcceptEvent).map(|event| {
            self.call_back(key, |flags| {
                // SAFETY: the client's callback, with its context; the addresses and variables are valid for the call.
                unsafe {
                    event(
                        context,
                        flags,
                        local.as_psockaddr(),
                        remote.as_psockaddr(),
                        socket.handle(),
                        &raw mut its_context,
                        &raw mut its_table,
                    )
                }
            })
        });
        match answer {
            Some(STATUS_SUCCESS) => {
                {
                    let mut state = socket.state();
                    state.context = its_context;
                    state.dispatch = its_table.cast();
                    state.enabled |= inherited;
                    state.connection.held_back = false;
                }
                socket.enable_static();
                socket.kick_receive();
                return;
            }
            Some(STATUS_REQUEST_NOT_ACCEPTED) => {}
            Some(other) => violation!(API, "returned {other:#010x}"),
            None => {
                violation!(API, "enabled on socket {}, and NULL", self.id);
                self.callback_ends(key);
            }
        }
        // The subsystem closes an accepted socket that the client did not take.
        socket.discard();
    }

    /// WskAcceptEvent with a NULL socket: the listening socket is no longer functional.
    pub fn indicate_dead_listener(&self) {
        let key = Key::Event(WSK_EVENT_ACCEPT);
        let (context, table) = {
            let mut state = self.state();
            if state.phase != Phase::Open || state.enabled & WSK_EVENT_ACCEPT == 0 {
                return;
            }
            state.callbacks.push(key);
            (state.context, Self::listen_dispatch(&state))
        };
        let (mut its_context, mut its_table) = (null_mut(), null());
        self.call_back(key, |flags| {
            if let Some(event) = table.and_then(|table| table.WskAcceptEvent) {
                // SAFETY: the client's callback, with its context; NULL for all that is not there.
                unsafe {
                    event(
                        context,
                        flags,
                        null_mut(),
                        null_mut(),
                        null_mut(),
                        &raw mut its_context,
                        &raw mut its_table,
                    )
                };
            }
        });
    }
}
