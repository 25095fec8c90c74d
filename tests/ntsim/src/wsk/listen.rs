//! Listening sockets: accept by IRP and by event, and the inspection of conditional accept mode.

#![allow(non_upper_case_globals, reason = "the enumerators of wsk.h are matched by their names")]

use super::address;
use super::link::{Link, Listener, Notify};
use super::request::{Request, Ticket, at};
use super::socket::{Category, Entry, Key, Phase, Socket, State};
use super::{Subsystem, rules};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    PSOCKADDR, PWSK_INSPECT_ID, PWSK_SOCKET, WSK_CLIENT_CONNECTION_DISPATCH, WSK_CLIENT_LISTEN_DISPATCH,
    WSK_EVENT_ACCEPT, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE, WSK_EVENT_SEND_BACKLOG, WSK_INSPECT_ACTION,
    WSK_INSPECT_ID, WskInspectAccept, WskInspectPend, WskInspectReject,
};
use crate::verify::{lock, violation};
use std::collections::VecDeque;
use std::ptr::{null, null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Weak};

/// The events of connection-oriented sockets, which a listening socket can pass on to what it accepts.
pub const CONNECTION_EVENTS: u32 = WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT | WSK_EVENT_SEND_BACKLOG;

#[derive(Default)]
pub struct Listening {
    listener: Option<Arc<dyn Listener>>,
    accepts: VecDeque<Accept>,
    /// Arrived, inspected where that is asked for, and not accepted yet.
    waiting: VecDeque<Waiting>,
    /// Under inspection: the driver answered WskInspectPend.
    inspecting: Vec<Waiting>,
    serial: u32,
    running: bool,
}

struct Accept {
    ticket: Arc<Ticket>,
    context: usize,
    dispatch: usize,
    local: usize,
    remote: usize,
}

struct Waiting {
    link: Arc<dyn Link>,
    inspect: Option<WSK_INSPECT_ID>,
}

/// What a listening socket leaves when it stops.
pub struct Stopped {
    pub listener: Option<Arc<dyn Listener>>,
    pub links: Vec<Arc<dyn Link>>,
}

impl Listening {
    pub fn start(&mut self, listener: Arc<dyn Listener>) {
        self.listener = Some(listener);
    }

    pub fn stop(&mut self) -> Stopped {
        let left = self.waiting.drain(..).chain(self.inspecting.drain(..));
        let links = left.map(|waiting| waiting.link).collect();
        Stopped { listener: self.listener.take(), links }
    }

    pub fn take_all(&mut self) -> Vec<Arc<Ticket>> {
        self.accepts.drain(..).map(|accept| accept.ticket).collect()
    }

    pub fn pending(&self) -> usize {
        self.accepts.iter().filter(|accept| !accept.ticket.is_taken()).count()
    }

    /// The next connection to accept.
    fn next(&mut self, conditional: bool) -> Option<Arc<dyn Link>> {
        if !conditional
            && self.waiting.is_empty()
            && let Some(link) = self.listener.as_ref()?.accept()
        {
            return Some(link);
        }
        self.waiting.pop_front().map(|waiting| waiting.link)
    }

    /// The first pending accept that is not cancelled, with its IRP.
    fn next_accept(&mut self, subsystem: &Subsystem) -> Option<(Accept, Request)> {
        while let Some(accept) = self.accepts.pop_front() {
            if let Some(request) = accept.ticket.take(subsystem) {
                return Some((accept, request));
            }
        }
        None
    }
}

enum Next {
    Complete(Accept, Request, Arc<dyn Link>),
    Event(Arc<dyn Link>),
    Inspect(Arc<dyn Link>, WSK_INSPECT_ID),
    Abort(WSK_INSPECT_ID),
    Stop,
}

impl Socket {
    fn listen_dispatch(state: &State) -> Option<WSK_CLIENT_LISTEN_DISPATCH> {
        let table = with_exposed_provenance::<WSK_CLIENT_LISTEN_DISPATCH>(state.dispatch);
        // SAFETY: the driver keeps the table as long as the socket.
        (!table.is_null()).then(|| unsafe { *table })
    }

    /// One run of the accept lane.
    pub fn run_accept(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        loop {
            match self.next_accept(subsystem) {
                Next::Stop => return,
                Next::Complete(accept, request, link) => {
                    let (socket, ticket) = self.accept(subsystem, &accept, link);
                    let information = socket.handle().expose_provenance();
                    at(subsystem.callback_at_dispatch(), || {
                        ticket.finish(subsystem, request, STATUS_SUCCESS, information);
                    });
                }
                Next::Event(link) => self.accept_event(subsystem, link),
                Next::Inspect(link, id) => self.inspect(subsystem, link, id),
                Next::Abort(id) => self.tell_abort(subsystem, id),
            }
        }
    }

    fn next_accept(&self, subsystem: &Arc<Subsystem>) -> Next {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let conditional = state.options.conditional_accept;
        if state.phase != Phase::Open || state.dead || state.listening.listener.is_none() {
            state.listening.running = false;
            return Next::Stop;
        }
        state.listening.running = true;
        if let Some(next) = Self::next_inspection(state) {
            return next;
        }
        let listening = &mut state.listening;
        let event = state.enabled & WSK_EVENT_ACCEPT != 0;
        // Page "PFN_WSK_ACCEPT": a pending accept takes precedence, but a race with the event exists.
        let races = event && listening.pending() > 0 && subsystem.executor.chance(subsystem.config.races);
        if !races && listening.pending() > 0 {
            let Some(link) = listening.next(conditional) else {
                listening.running = false;
                return Next::Stop;
            };
            if let Some((accept, request)) = listening.next_accept(subsystem) {
                return Next::Complete(accept, request, link);
            }
            listening.waiting.push_front(Waiting { link, inspect: None });
        }
        if event && let Some(link) = listening.next(conditional) {
            Self::callback_begins(state, Key::Event(WSK_EVENT_ACCEPT));
            return Next::Event(link);
        }
        listening.running = false;
        Next::Stop
    }

    /// In conditional accept mode: what was dropped meanwhile, then what is to be inspected.
    fn next_inspection(state: &mut State) -> Option<Next> {
        if !state.options.conditional_accept {
            return None;
        }
        let listening = &mut state.listening;
        let dropped = |waiting: &Waiting| waiting.inspect.is_some() && waiting.link.is_reset();
        let gone = if let Some(index) = listening.inspecting.iter().position(dropped) {
            Some(listening.inspecting.swap_remove(index))
        } else {
            let index = listening.waiting.iter().position(dropped);
            index.and_then(|index| listening.waiting.remove(index))
        };
        if let Some(id) = gone.and_then(|gone| gone.inspect) {
            Self::callback_begins(state, Key::Inspection);
            return Some(Next::Abort(id));
        }
        let link = listening.listener.as_ref()?.accept()?;
        listening.serial = listening.serial.wrapping_add(1);
        let id = WSK_INSPECT_ID { Key: Arc::as_ptr(&link).addr(), SerialNumber: listening.serial };
        Self::callback_begins(state, Key::Inspection);
        Some(Next::Inspect(link, id))
    }

    /// Makes the socket of a connection that WskAccept takes.
    fn accept(
        self: &Arc<Self>,
        subsystem: &Arc<Subsystem>,
        accept: &Accept,
        link: Arc<dyn Link>,
    ) -> (Arc<Self>, Arc<Ticket>) {
        for (out, address) in [(accept.local, link.local()), (accept.remote, link.remote())] {
            if out != 0 {
                // SAFETY: the buffers stay valid until the IRP is completed (page "PFN_WSK_ACCEPT").
                unsafe { address::write(address, self.family, with_exposed_provenance_mut(out)) };
            }
        }
        let socket = Self::new(
            subsystem,
            &self.client,
            Category::Connection,
            self.family,
            accept.context,
            accept.dispatch,
        );
        // "All of the event callback functions on the accepted socket are disabled by default"; static ones are not
        // a default.
        if subsystem.config.static_on_accepted {
            socket.enable_fixed();
        }
        socket.attach(link, false);
        (socket, Arc::clone(&accept.ticket))
    }

    /// Enables what WSK_SET_STATIC_EVENT_CALLBACKS asked for.
    fn enable_fixed(&self) {
        let mask = self.client.static_events() & CONNECTION_EVENTS;
        let mut state = lock(&self.state);
        state.fixed = mask;
        state.enabled |= mask;
    }

    /// Accepts by WskAcceptEvent (page "PFN_WSK_ACCEPT_EVENT").
    fn accept_event(self: &Arc<Self>, subsystem: &Arc<Subsystem>, link: Arc<dyn Link>) {
        const API: &str = "WskAcceptEvent";
        let (context, dispatch, inherited) = {
            let state = lock(&self.state);
            (state.context, Self::listen_dispatch(&state), state.enabled & CONNECTION_EVENTS)
        };
        let mut local = address::to_inet(link.local(), self.family);
        let mut remote = address::to_inet(link.remote(), self.family);
        let socket = Self::new(subsystem, &self.client, Category::Connection, self.family, 0, 0);
        socket.attach(link, true);
        let mut its_context = null_mut();
        let mut its_dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH = null();
        let answer = Self::run_callback(subsystem, API, |flags| {
            dispatch.and_then(|table| table.WskAcceptEvent).map(|event| {
                // SAFETY: the driver's callback, with its context; the addresses are valid for the call.
                unsafe {
                    event(
                        with_exposed_provenance_mut(context),
                        flags,
                        (&raw mut local).cast(),
                        (&raw mut remote).cast(),
                        socket.handle(),
                        &raw mut its_context,
                        &raw mut its_dispatch,
                    )
                }
            })
        });
        if answer == Some(STATUS_SUCCESS) {
            {
                let mut state = lock(&socket.state);
                state.context = its_context.expose_provenance();
                state.dispatch = its_dispatch.expose_provenance();
                state.enabled |= inherited;
                state.connection.held_back = false;
            }
            socket.enable_fixed();
            socket.check_callbacks(API);
            socket.kick_receive();
        } else {
            if let Some(other) = answer
                && other != STATUS_REQUEST_NOT_ACCEPTED
            {
                violation(&rules::CALLBACK_STATUS, API, format!("returned {other:#010x}"));
            }
            // "The WSK subsystem will close the accepted socket on behalf of the WSK application."
            socket.discard(subsystem);
        }
        self.callback_ends(subsystem, Key::Event(WSK_EVENT_ACCEPT));
    }

    /// An enabled event needs its callback (page "Enabling and Disabling Event Callback Functions").
    pub fn check_callbacks(&self, api: &'static str) {
        let state = lock(&self.state);
        let enabled = state.enabled;
        let missing = match self.category {
            Category::Basic => false,
            Category::Listen => {
                let table = Self::listen_dispatch(&state);
                enabled & WSK_EVENT_ACCEPT != 0 && table.is_none_or(|table| table.WskAcceptEvent.is_none())
            }
            Category::Connection => {
                let table = with_exposed_provenance::<WSK_CLIENT_CONNECTION_DISPATCH>(state.dispatch);
                // SAFETY: the driver keeps the table as long as the socket.
                let table = (!table.is_null()).then(|| unsafe { *table });
                let missing = |event: u32, present: bool| enabled & event != 0 && !present;
                missing(WSK_EVENT_RECEIVE, table.is_some_and(|table| table.WskReceiveEvent.is_some()))
                    || missing(
                        WSK_EVENT_DISCONNECT,
                        table.is_some_and(|table| table.WskDisconnectEvent.is_some()),
                    )
                    || missing(
                        WSK_EVENT_SEND_BACKLOG,
                        table.is_some_and(|table| table.WskSendBacklogEvent.is_some()),
                    )
            }
        };
        drop(state);
        if missing {
            violation(&rules::NULL_CALLBACK, api, format!("socket {}, events {enabled:#x}", self.id));
        }
    }

    /// WskInspectEvent (page "PFN_WSK_INSPECT_EVENT").
    fn inspect(self: &Arc<Self>, subsystem: &Arc<Subsystem>, link: Arc<dyn Link>, mut id: WSK_INSPECT_ID) {
        const API: &str = "WskInspectEvent";
        let (context, dispatch) = {
            let state = lock(&self.state);
            (state.context, Self::listen_dispatch(&state))
        };
        let mut local = address::to_inet(link.local(), self.family);
        let mut remote = address::to_inet(link.remote(), self.family);
        let whom: Weak<Self> = Arc::downgrade(self);
        link.notify(whom as Weak<dyn Notify>);
        let kept = id;
        let answer = Self::run_callback(subsystem, API, |_| {
            dispatch.and_then(|table| table.WskInspectEvent).map(|event| {
                // SAFETY: the driver's callback, with its context; the addresses and the id are valid for the call.
                unsafe {
                    event(
                        with_exposed_provenance_mut(context),
                        (&raw mut local).cast(),
                        (&raw mut remote).cast(),
                        &raw mut id,
                    )
                }
            })
        });
        let waiting = Waiting { link, inspect: Some(kept) };
        match answer.unwrap_or(WskInspectReject) {
            WskInspectAccept => lock(&self.state).listening.waiting.push_back(waiting),
            WskInspectPend => lock(&self.state).listening.inspecting.push(waiting),
            other => {
                if other != WskInspectReject {
                    violation(&rules::CALLBACK_STATUS, API, format!("returned {other}"));
                }
                waiting.link.abort();
            }
        }
        self.callback_ends(subsystem, Key::Inspection);
        self.kick_receive();
    }

    /// WskAbortEvent (page "PFN_WSK_ABORT_EVENT").
    fn tell_abort(self: &Arc<Self>, subsystem: &Arc<Subsystem>, mut id: WSK_INSPECT_ID) {
        let (context, dispatch) = {
            let state = lock(&self.state);
            (state.context, Self::listen_dispatch(&state))
        };
        self.call_back(subsystem, Key::Inspection, "WskAbortEvent", |_| {
            if let Some(event) = dispatch.and_then(|table| table.WskAbortEvent) {
                // SAFETY: the driver's callback, with its context; the id is valid for the call.
                unsafe { event(with_exposed_provenance_mut(context), &raw mut id) };
            }
        });
    }

    /// WskAcceptEvent with a NULL socket, or WskInspectEvent with a NULL id: the listener is no longer functional.
    pub fn indicate_dead_listener(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        let (context, dispatch, key) = {
            let mut state = lock(&self.state);
            let key = if state.options.conditional_accept {
                Key::Inspection
            } else if state.enabled & WSK_EVENT_ACCEPT != 0 {
                Key::Event(WSK_EVENT_ACCEPT)
            } else {
                return;
            };
            if state.phase != Phase::Open {
                return;
            }
            Self::callback_begins(&mut state, key);
            (state.context, Self::listen_dispatch(&state), key)
        };
        let Some(table) = dispatch else {
            self.callback_ends(subsystem, key);
            return;
        };
        self.call_back(subsystem, key, "WskAcceptEvent", |flags| {
            let mut ignored = null_mut();
            let mut unused: *const WSK_CLIENT_CONNECTION_DISPATCH = null();
            if key == Key::Inspection {
                if let Some(event) = table.WskInspectEvent {
                    // SAFETY: the driver's callback, with its context; NULL means a dead socket.
                    unsafe {
                        event(with_exposed_provenance_mut(context), null_mut(), null_mut(), null_mut())
                    };
                }
            } else if let Some(event) = table.WskAcceptEvent {
                // SAFETY: the same.
                unsafe {
                    event(
                        with_exposed_provenance_mut(context),
                        flags,
                        null_mut(),
                        null_mut(),
                        null_mut(),
                        &raw mut ignored,
                        &raw mut unused,
                    )
                };
            }
        });
    }
}

/// WskAccept (page "PFN_WSK_ACCEPT").
pub unsafe extern "system" fn accept(
    socket: PWSK_SOCKET,
    flags: u32,
    context: *mut std::ffi::c_void,
    dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
    local: PSOCKADDR,
    remote: PSOCKADDR,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskAccept";
    Entry::with_irp(API, socket, irp, |entry, request| {
        if flags != 0 {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        let Entry { subsystem, socket } = entry;
        if lock(&socket.state).local.is_none() {
            return entry.fail(request, STATUS_INVALID_DEVICE_STATE);
        }
        let inline = subsystem.pick_inline();
        let ticket = Ticket::new(subsystem, request);
        let done = {
            let mut state = lock(&socket.state);
            let conditional = state.options.conditional_accept;
            let listening = &mut state.listening;
            listening.accepts.push_back(Accept {
                ticket: Arc::clone(&ticket),
                context: context.expose_provenance(),
                dispatch: dispatch.expose_provenance(),
                local: local.expose_provenance(),
                remote: remote.expose_provenance(),
            });
            let link = (inline && !listening.running && listening.accepts.len() == 1)
                .then(|| listening.next(conditional))
                .flatten();
            link.and_then(|link| {
                if let Some((accept, request)) = listening.next_accept(subsystem) {
                    return Some((accept, request, link));
                }
                listening.waiting.push_front(Waiting { link, inspect: None });
                None
            })
        };
        if let Some((accept, request, link)) = done {
            let (accepted, ticket) = socket.accept(subsystem, &accept, link);
            ticket.finish(subsystem, request, STATUS_SUCCESS, accepted.handle().expose_provenance());
            return STATUS_SUCCESS;
        }
        socket.kick_receive();
        if !inline {
            subsystem.linger(&ticket);
        }
        STATUS_PENDING
    })
}

/// WskInspectComplete (page "PFN_WSK_INSPECT_COMPLETE").
pub unsafe extern "system" fn inspect_complete(
    socket: PWSK_SOCKET,
    id: PWSK_INSPECT_ID,
    action: WSK_INSPECT_ACTION,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskInspectComplete";
    Entry::with_irp(API, socket, irp, |entry, request| {
        if id.is_null() || !(action == WskInspectAccept || action == WskInspectReject) {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        // SAFETY: not NULL; what the driver passed.
        let id = unsafe { *id };
        let found = {
            let mut state = lock(&entry.socket.state);
            if !state.options.conditional_accept {
                drop(state);
                return entry.fail(request, STATUS_INVALID_DEVICE_STATE);
            }
            let inspecting = &mut state.listening.inspecting;
            let index = inspecting.iter().position(|waiting| waiting.inspect == Some(id));
            index.map(|index| inspecting.swap_remove(index))
        };
        // One that was dropped meanwhile is not established, whatever the action.
        if let Some(waiting) = found {
            if action == WskInspectAccept {
                lock(&entry.socket.state).listening.waiting.push_back(waiting);
            } else {
                waiting.link.abort();
            }
        }
        entry.socket.kick_receive();
        entry.fail(request, STATUS_SUCCESS)
    })
}
