//! What runs on a connection's lanes: indications and completions, in their order, and the end of the connection.

use super::super::buffer::Indication;
use super::super::exec::Part;
use super::super::link::{Link, Notify};
use super::super::request::{Request, Ticket, at};
use super::super::socket::{Key, Phase, Socket, State};
use super::super::{Subsystem, rules};
use super::{Incoming, Outgoing, Retained, Stage};
use crate::sys::nt::{
    NTSTATUS, STATUS_CONNECTION_RESET, STATUS_DATA_NOT_ACCEPTED, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    WSK_CLIENT_CONNECTION_DISPATCH, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE, WSK_EVENT_SEND_BACKLOG,
    WSK_FLAG_ABORTIVE, WSK_FLAG_ENTIRE_MESSAGE, WSK_FLAG_RELEASE_ASAP,
};
use crate::verify::{lock, violation};
use std::ptr::{null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Weak};

/// What the receive lane does next.
enum Next {
    Complete(Arc<Ticket>, Request, NTSTATUS, usize),
    Indicate(Vec<u8>),
    TellEnd(u32),
    FailOutgoing,
    Stop,
}

impl Socket {
    /// Makes the socket connected. `held_back` keeps callbacks from it until the driver knows it.
    pub fn attach(self: &Arc<Self>, link: Arc<dyn Link>, held_back: bool) {
        let whom: Weak<Self> = Arc::downgrade(self);
        link.notify(whom as Weak<dyn Notify>);
        let mut state = lock(&self.state);
        state.local = Some(link.local());
        state.remote = Some(link.remote());
        state.connection.stage = Stage::Connected;
        state.connection.held_back = held_back;
        state.connection.link = Some(link);
        drop(state);
        self.kick_receive();
        self.kick_send();
    }

    /// The client dispatch table, when the driver gave one.
    fn connection_dispatch(state: &State) -> Option<WSK_CLIENT_CONNECTION_DISPATCH> {
        let table = with_exposed_provenance::<WSK_CLIENT_CONNECTION_DISPATCH>(state.dispatch);
        // SAFETY: the driver keeps the table as long as the socket (page "Enabling and Disabling Event Callback
        // Functions").
        (!table.is_null()).then(|| unsafe { *table })
    }

    /// One run of the receive lane.
    pub fn run_receive(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        lock(&self.state).connection.running = true;
        loop {
            match self.next_receive(subsystem) {
                Next::Stop => return,
                Next::Complete(ticket, request, status, count) => {
                    at(subsystem.callback_at_dispatch(), || ticket.finish(subsystem, request, status, count));
                }
                Next::Indicate(data) => self.indicate(subsystem, &data),
                Next::TellEnd(flags) => self.tell_end(subsystem, flags),
                Next::FailOutgoing => {
                    let tickets = lock(&self.state).connection.take_outgoing();
                    for ticket in tickets {
                        at(subsystem.callback_at_dispatch(), || {
                            ticket.complete(subsystem, STATUS_CONNECTION_RESET, 0);
                        });
                    }
                }
            }
        }
    }

    fn next_receive(&self, subsystem: &Arc<Subsystem>) -> Next {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.phase != Phase::Open || state.dead || state.connection.stage != Stage::Connected {
            state.connection.running = false;
            return Next::Stop;
        }
        let connection = &mut state.connection;
        connection.refill();
        let receives = state.enabled & WSK_EVENT_RECEIVE != 0
            && !connection.held_back
            && !connection.blocked
            && !connection.held.is_empty()
            && connection.retained_bytes() <= subsystem.config.retain_limit;
        // Page "PFN_WSK_RECEIVE": a pending receive takes precedence, but a race with the event exists.
        let races = receives
            && connection.pending_receives() > 0
            && subsystem.executor.chance(subsystem.config.races);
        if !races && let Some((ticket, request, status, count)) = connection.serve(subsystem) {
            return Next::Complete(ticket, request, status, count);
        }
        if receives && !connection.held.is_empty() {
            Self::callback_begins(state, Key::Event(WSK_EVENT_RECEIVE));
            return Next::Indicate(state.connection.held.take());
        }
        if connection.incoming == Incoming::Reset
            && !(connection.sends.is_empty() && connection.disconnects.is_empty())
        {
            return Next::FailOutgoing;
        }
        let over =
            matches!(connection.incoming, Incoming::Ended | Incoming::Reset) && connection.held.is_empty();
        if over && !connection.told && !connection.held_back && state.enabled & WSK_EVENT_DISCONNECT != 0 {
            connection.told = true;
            let flags = if connection.incoming == Incoming::Reset { WSK_FLAG_ABORTIVE } else { 0 };
            Self::callback_begins(state, Key::Event(WSK_EVENT_DISCONNECT));
            return Next::TellEnd(flags);
        }
        state.connection.running = false;
        Next::Stop
    }

    /// Calls WskReceiveEvent with `data` (page "PFN_WSK_RECEIVE_EVENT").
    fn indicate(self: &Arc<Self>, subsystem: &Arc<Subsystem>, data: &[u8]) {
        const API: &str = "WskReceiveEvent";
        let executor = &subsystem.executor;
        let split = subsystem.config.split;
        let mut indication = Indication::new(
            data,
            |rest| if split && executor.chance(60) { 1 + executor.draw(rest) } else { rest },
            || !split || executor.chance(50),
        );
        let head = indication.head();
        let (context, dispatch) = {
            let mut state = lock(&self.state);
            state.connection.retained.push(Retained { head: head.addr(), indication, released: false });
            state.connection.indicating = Some(head.addr());
            (state.context, Self::connection_dispatch(&state))
        };
        let mut flags = 0;
        if executor.chance(subsystem.config.release_asap) {
            flags |= WSK_FLAG_RELEASE_ASAP;
        }
        if executor.chance(50) {
            flags |= WSK_FLAG_ENTIRE_MESSAGE;
        }
        let mut accepted = data.len();
        let answer = Self::run_callback(subsystem, API, |at_dispatch| {
            dispatch.and_then(|table| table.WskReceiveEvent).map(|event| {
                // SAFETY: the driver's callback, with its context and what the page promises.
                unsafe {
                    event(
                        with_exposed_provenance_mut(context),
                        flags | at_dispatch,
                        head,
                        data.len(),
                        &raw mut accepted,
                    )
                }
            })
        });
        let answer = answer.unwrap_or(STATUS_DATA_NOT_ACCEPTED);
        let mut breach = None;
        {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let connection = &mut state.connection;
            connection.indicating = None;
            let index = connection.retained.iter().position(|kept| kept.head == head.addr());
            let released =
                index.is_some_and(|index| connection.retained.get(index).is_some_and(|kept| kept.released));
            if answer != STATUS_PENDING || released {
                if let Some(index) = index {
                    connection.retained.swap_remove(index);
                }
                if released && answer != STATUS_PENDING {
                    breach = Some((&rules::RELEASED_AND_RETURNED, format!("returned {answer:#010x}")));
                }
            }
            let rest = match answer {
                STATUS_PENDING => &[],
                STATUS_SUCCESS => {
                    if accepted > data.len() {
                        breach = Some((&rules::ACCEPTED_MORE, format!("{accepted} of {}", data.len())));
                    }
                    data.get(accepted..).unwrap_or_default()
                }
                STATUS_DATA_NOT_ACCEPTED => data,
                other => {
                    breach = Some((&rules::CALLBACK_STATUS, format!("returned {other:#010x}")));
                    data
                }
            };
            connection.blocked = !rest.is_empty();
            if !rest.is_empty() && connection.incoming != Incoming::Reset {
                connection.held.put_back(rest);
            }
        }
        if let Some((rule, detail)) = breach {
            violation(rule, API, detail);
        }
        self.callback_ends(subsystem, Key::Event(WSK_EVENT_RECEIVE));
    }

    /// Calls WskDisconnectEvent (page "PFN_WSK_DISCONNECT_EVENT").
    fn tell_end(self: &Arc<Self>, subsystem: &Arc<Subsystem>, flags: u32) {
        const API: &str = "WskDisconnectEvent";
        let (context, dispatch) = {
            let state = lock(&self.state);
            (state.context, Self::connection_dispatch(&state))
        };
        let answer = self.call_back(subsystem, Key::Event(WSK_EVENT_DISCONNECT), API, |at_dispatch| {
            dispatch.and_then(|table| table.WskDisconnectEvent).map(|event| {
                // SAFETY: the driver's callback, with its context.
                unsafe { event(with_exposed_provenance_mut(context), flags | at_dispatch) }
            })
        });
        if let Some(answer) = answer
            && answer != STATUS_SUCCESS
        {
            violation(
                &rules::CALLBACK_STATUS,
                API,
                format!("returned {answer:#010x}, must be STATUS_SUCCESS"),
            );
        }
    }

    /// WskReceiveEvent with a NULL indication: the socket is no longer functional.
    pub fn indicate_dead_connection(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        let (context, dispatch) = {
            let mut state = lock(&self.state);
            if state.phase != Phase::Open || state.enabled & WSK_EVENT_RECEIVE == 0 {
                return;
            }
            Self::callback_begins(&mut state, Key::Event(WSK_EVENT_RECEIVE));
            (state.context, Self::connection_dispatch(&state))
        };
        self.call_back(subsystem, Key::Event(WSK_EVENT_RECEIVE), "WskReceiveEvent", |at_dispatch| {
            let mut accepted = 0;
            dispatch.and_then(|table| table.WskReceiveEvent).map(|event| {
                // SAFETY: the driver's callback, with its context; NULL means a dead socket.
                unsafe {
                    event(with_exposed_provenance_mut(context), at_dispatch, null_mut(), 0, &raw mut accepted)
                }
            })
        });
    }

    /// One run of the send lane.
    pub fn run_send(self: &Arc<Self>, subsystem: &Arc<Subsystem>) {
        loop {
            let done = {
                let mut state = lock(&self.state);
                if state.phase != Phase::Open || state.connection.stage != Stage::Connected {
                    return;
                }
                state.connection.advance_send(subsystem)
            };
            match done {
                Some((ticket, request, status, count)) => {
                    if status == STATUS_CONNECTION_RESET {
                        self.kick_receive();
                    }
                    at(subsystem.callback_at_dispatch(), || ticket.finish(subsystem, request, status, count));
                }
                None => return,
            }
        }
    }

    pub fn set_ideal_send_backlog(self: &Arc<Self>, bytes: usize) {
        const API: &str = "WskSendBacklogEvent";
        let Some(subsystem) = self.subsystem.upgrade() else { return };
        lock(&self.state).connection.ideal_send_backlog = bytes;
        let socket = Arc::clone(self);
        let weak = Arc::downgrade(&subsystem);
        let tell = move || {
            let Some(subsystem) = weak.upgrade() else { return };
            let (context, dispatch) = {
                let mut state = lock(&socket.state);
                if !Self::wants(&state, WSK_EVENT_SEND_BACKLOG) || state.connection.held_back {
                    return;
                }
                Self::callback_begins(&mut state, Key::Event(WSK_EVENT_SEND_BACKLOG));
                (state.context, Self::connection_dispatch(&state))
            };
            let key = Key::Event(WSK_EVENT_SEND_BACKLOG);
            let answer = socket.call_back(&subsystem, key, API, |_| {
                dispatch.and_then(|table| table.WskSendBacklogEvent).map(|event| {
                    // SAFETY: the driver's callback, with its context.
                    unsafe { event(with_exposed_provenance_mut(context), bytes) }
                })
            });
            if let Some(answer) = answer
                && answer != STATUS_SUCCESS
            {
                violation(
                    &rules::CALLBACK_STATUS,
                    API,
                    format!("returned {answer:#010x}, must be STATUS_SUCCESS"),
                );
            }
        };
        subsystem.executor.put(self.lane(Part::Send), Box::new(tell));
    }

    /// Page "Closing a Socket": a connection that was not disconnected in both directions is aborted.
    pub fn disconnect_for_close(self: &Arc<Self>) {
        let (link, graceful, binding, listener) = {
            let mut state = lock(&self.state);
            let binding = state.binding.take();
            let listener = state.listening.stop();
            let connection = &mut state.connection;
            connection.refill();
            let ended = connection.incoming == Incoming::Ended && connection.held.is_empty();
            let graceful = ended && matches!(connection.outgoing, Outgoing::Ended | Outgoing::Done);
            (connection.link.take(), graceful, binding, listener)
        };
        if let Some(link) = link {
            if graceful { link.close() } else { link.abort() }
        }
        if let Some(binding) = binding {
            binding.close();
        }
        for link in listener.links {
            link.abort();
        }
        if let Some(listener) = listener.listener {
            listener.close();
        }
    }
}
