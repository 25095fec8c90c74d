//! The direction from the peer: WskReceive, WskReceiveEvent with its indications, WskRelease, WskDisconnectEvent.
//!
//! Pages PFN_WSK_RECEIVE, PFN_WSK_RECEIVE_EVENT, PFN_WSK_RELEASE_DATA_INDICATION_LIST, PFN_WSK_DISCONNECT_EVENT.

use super::{Connection, Incoming, Retained};
use crate::chain::Chain;
use crate::indication::Indication;
use crate::machine;
use crate::report::violation;
use crate::request::{Irp, Request, Ticket};
use crate::socket::{Entry, Key, Phase, Socket};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_CONNECTION_ABORTED, STATUS_CONNECTION_RESET, STATUS_DATA_NOT_ACCEPTED,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    PWSK_BUF, PWSK_DATA_INDICATION, PWSK_SOCKET, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE, WSK_FLAG_ABORTIVE,
    WSK_FLAG_DRAIN, WSK_FLAG_RELEASE_ASAP, WSK_FLAG_WAITALL,
};
use crate::winsock::Failure;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::null_mut;

/// The most that is indicated at once.
const INDICATED: usize = 64 * 1024;
/// How much a client can retain before no more is indicated: the network adapter's buffers.
const RETAINED: usize = 256 * 1024;

/// A WskReceive that waits.
pub(super) struct Receive {
    pub(super) ticket: Arc<Ticket>,
    buffer: Chain,
    flags: u32,
    done: usize,
}

/// What the receive lane does next.
enum Next {
    Complete(Request, NTSTATUS, usize),
    Indicate(Vec<u8>),
    TellEnd(u32),
    FailOutgoing,
    Stop,
}

/// WskReceive.
pub unsafe extern "system" fn receive(
    socket: PWSK_SOCKET,
    buffer: PWSK_BUF,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskReceive";
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the client passed, valid until the request is completed.
        let buffer = match unsafe { Chain::new(buffer) } {
            Ok(buffer) => buffer,
            Err(fault) => {
                violation!(API, "bad buffer: {fault:?}");
                return request.finish(STATUS_INVALID_PARAMETER, 0);
            }
        };
        let drains = flags & WSK_FLAG_DRAIN != 0;
        let contradicts = drains && (flags & WSK_FLAG_WAITALL != 0 || buffer.len() != 0);
        if contradicts || flags & !(WSK_FLAG_DRAIN | WSK_FLAG_WAITALL) != 0 {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        start(&entry.socket, request, buffer, flags)
    })
}

fn start(socket: &Arc<Socket>, request: Request, mut buffer: Chain, flags: u32) -> NTSTATUS {
    if !socket.state().connection.is_connected() {
        return request.finish(STATUS_INVALID_DEVICE_STATE, 0);
    }
    if flags == 0 && machine::pick_inline() {
        let outcome = {
            let mut state = socket.state();
            let idle = state.connection.receives.is_empty() && state.callbacks.is_empty();
            let outcome = if idle { state.connection.fill(&mut buffer, 0, flags) } else { Filled::Waits(0) };
            if matches!(outcome, Filled::Done(..)) {
                state.connection.blocked = false;
            }
            outcome
        };
        if let Filled::Done(status, count) = outcome {
            socket.count_received(count);
            request.complete(status, count);
            socket.kick_receive();
            return status;
        }
    }
    let receive = Receive { ticket: Ticket::new(request), buffer, flags, done: 0 };
    socket.state().connection.receives.push_back(receive);
    socket.kick_receive();
    STATUS_PENDING
}

/// WskRelease.
pub unsafe extern "system" fn release(socket: PWSK_SOCKET, indication: PWSK_DATA_INDICATION) -> NTSTATUS {
    const API: &str = "WskRelease";
    let entry = match Entry::begin(API, socket, Irp::NULL) {
        Ok(entry) => entry,
        Err(status) => return status,
    };
    let freed = {
        let mut state = entry.socket.state();
        let connection = &mut state.connection;
        let indicating = connection.indicating;
        let retained = &mut connection.retained;
        let found = retained.iter().position(|kept| kept.head == indication.addr() && !kept.released);
        found.map(|index| {
            // While its callback runs the list stays until that returns STATUS_PENDING.
            if indicating == Some(indication.addr()) {
                if let Some(kept) = retained.get_mut(index) {
                    kept.released = true;
                }
                None
            } else {
                Some(retained.swap_remove(index))
            }
        })
    };
    if freed.is_none() {
        violation!(API, "{indication:p} is not retained of socket {}", entry.socket.id);
        return STATUS_INVALID_PARAMETER;
    }
    entry.socket.kick_receive();
    STATUS_SUCCESS
}

/// What filling a receive's buffer came to.
enum Filled {
    Done(NTSTATUS, usize),
    /// More must come; so much is there.
    Waits(usize),
}

impl Connection {
    /// Reads from the connection, and notes its end. `None`: nothing now.
    fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        if self.incoming != Incoming::Open {
            return None;
        }
        match self.link.as_ref()?.socket.receive(into) {
            Ok(0) => self.incoming = Incoming::Ended,
            Ok(count) => return Some(count),
            Err(Failure::WouldBlock) => {}
            Err(Failure::Status(_)) => self.incoming = Incoming::Reset,
        }
        None
    }

    /// Reads what there is, if nothing is held.
    fn refill(&mut self) {
        if self.held.is_empty() {
            let mut bytes = alloc::vec![0; INDICATED];
            if let Some(count) = self.read(&mut bytes) {
                bytes.truncate(count);
                self.held = bytes;
            }
        }
    }

    /// Takes from what is held first, then from the connection.
    fn take(&mut self, into: &mut [u8]) -> Option<usize> {
        if self.held.is_empty() {
            return self.read(into);
        }
        let count = into.len().min(self.held.len());
        let rest = self.held.split_off(count);
        into.get_mut(..count)?.copy_from_slice(&self.held);
        self.held = rest;
        Some(count)
    }

    /// Moves data into a receive's buffer, `done` bytes of which are filled.
    fn fill(&mut self, buffer: &mut Chain, mut done: usize, flags: u32) -> Filled {
        let drains = flags & WSK_FLAG_DRAIN != 0;
        let mut scratch = if drains { alloc::vec![0; INDICATED] } else { Vec::new() };
        while drains || done < buffer.len() {
            let into = if drains { &mut *scratch } else { buffer.writable(done) };
            match self.take(into) {
                Some(count) => done += count,
                None => break,
            }
        }
        if !drains && (done == buffer.len() || (done > 0 && flags & WSK_FLAG_WAITALL == 0)) {
            return Filled::Done(STATUS_SUCCESS, done);
        }
        match self.incoming {
            // A success with no bytes is the peer's end of the stream.
            Incoming::Ended => Filled::Done(STATUS_SUCCESS, if drains { 0 } else { done }),
            Incoming::Reset => Filled::Done(STATUS_CONNECTION_RESET, 0),
            Incoming::Aborted => Filled::Done(STATUS_CONNECTION_ABORTED, 0),
            Incoming::Open => Filled::Waits(done),
        }
    }

    /// Serves the first pending receive, if it can be.
    fn serve(&mut self) -> Option<(Request, NTSTATUS, usize)> {
        loop {
            self.receives.retain(|receive| !receive.ticket.is_taken());
            let mut receive = self.receives.pop_front()?;
            match self.fill(&mut receive.buffer, receive.done, receive.flags) {
                Filled::Waits(done) => {
                    receive.done = done;
                    self.receives.push_front(receive);
                    return None;
                }
                Filled::Done(status, count) => {
                    if let Some(request) = receive.ticket.take() {
                        // Page PFN_WSK_RECEIVE_EVENT: a receive resumes the indications.
                        self.blocked = false;
                        return Some((request, status, count));
                    }
                    // Cancelled just now: what was moved into it goes with it.
                }
            }
        }
    }

    fn retained_bytes(&self) -> usize {
        self.retained.iter().map(|retained| retained.bytes).sum()
    }
}

impl Socket {
    /// One run of the receive lane.
    pub fn run_receive(&self) {
        loop {
            match self.next_receive() {
                Next::Stop => return,
                Next::Complete(request, status, count) => {
                    self.count_received(count);
                    request.complete_as_callback(status, count);
                }
                Next::Indicate(data) => self.indicate(&data),
                Next::TellEnd(flags) => self.tell_end(flags),
                Next::FailOutgoing => {
                    let tickets = self.state().connection.take_outgoing();
                    for ticket in tickets {
                        ticket.complete(STATUS_CONNECTION_RESET, 0);
                    }
                }
            }
        }
    }

    fn next_receive(&self) -> Next {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.phase != Phase::Open || state.dead || !state.connection.is_connected() {
            return Next::Stop;
        }
        let indicates = state.enabled & WSK_EVENT_RECEIVE != 0;
        let tells = state.enabled & WSK_EVENT_DISCONNECT != 0;
        let connection = &mut state.connection;
        // Page PFN_WSK_RECEIVE: a pending receive takes precedence over the event.
        if let Some((request, status, count)) = connection.serve() {
            return Next::Complete(request, status, count);
        }
        let indicates = indicates
            && !connection.held_back
            && !connection.blocked
            && connection.receives.is_empty()
            && connection.retained_bytes() < RETAINED;
        if indicates {
            connection.refill();
            if !connection.held.is_empty() {
                let data = core::mem::take(&mut connection.held);
                state.callbacks.push(Key::Event(WSK_EVENT_RECEIVE));
                return Next::Indicate(data);
            }
        }
        let tells = tells && !connection.told && !connection.held_back;
        let reads = indicates || !connection.receives.is_empty();
        if tells && !reads && connection.incoming == Incoming::Open && connection.held.is_empty() {
            // Nobody reads: an end with nothing before it can be told all the same.
            match connection.link.as_ref().map(|link| link.socket.peek_end()) {
                Some(Ok(true)) => connection.incoming = Incoming::Ended,
                Some(Err(Failure::Status(_))) => connection.incoming = Incoming::Reset,
                Some(Err(Failure::WouldBlock)) => {
                    if let Some(link) = &connection.link {
                        link.watch.want_read();
                    }
                }
                Some(Ok(false)) | None => {}
            }
        }
        if connection.incoming == Incoming::Reset && !connection.sends.is_empty() {
            return Next::FailOutgoing;
        }
        let over =
            matches!(connection.incoming, Incoming::Ended | Incoming::Reset) && connection.held.is_empty();
        if over && tells {
            connection.told = true;
            let flags = if connection.incoming == Incoming::Reset { WSK_FLAG_ABORTIVE } else { 0 };
            state.callbacks.push(Key::Event(WSK_EVENT_DISCONNECT));
            return Next::TellEnd(flags);
        }
        if reads
            && connection.incoming == Incoming::Open
            && let Some(link) = &connection.link
        {
            link.watch.want_read();
        }
        Next::Stop
    }

    /// Calls WskReceiveEvent with `data`.
    fn indicate(&self, data: &[u8]) {
        const API: &str = "WskReceiveEvent";
        let length = data.len();
        let splits = machine::splits();
        let offset = if splits { machine::draw(16) } else { 0 };
        let piece = |left| if splits { 1 + machine::draw(left) } else { left };
        let mut indication = Indication::new(data, offset, piece, || machine::draw(2) == 0);
        let head = indication.head();
        let (context, table) = {
            let mut state = self.state();
            let kept =
                Retained { head: head.addr(), _indication: indication, bytes: length, released: false };
            state.connection.retained.push(kept);
            state.connection.indicating = Some(head.addr());
            (state.context, Self::connection_dispatch(&state))
        };
        let asap = if machine::draw(2) == 0 { WSK_FLAG_RELEASE_ASAP } else { 0 };
        let mut accepted = length;
        let key = Key::Event(WSK_EVENT_RECEIVE);
        let event = table.and_then(|table| table.WskReceiveEvent);
        if event.is_none() {
            violation!(API, "enabled on socket {}, and NULL", self.id);
        }
        let answer = crate::irql::as_callback(|dispatch| {
            let level = if dispatch { crate::sys::wsk::WSK_FLAG_AT_DISPATCH_LEVEL } else { 0 };
            event.map_or(STATUS_DATA_NOT_ACCEPTED, |event| {
                // SAFETY: the client's callback, with its context; the list stays until it is released.
                unsafe { event(context, asap | level, head, length, &raw mut accepted) }
            })
        });
        let accepted = self.indicated(head.addr(), data, answer, accepted);
        self.count_received(accepted);
        self.callback_ends(key);
    }

    /// Settles what became of indicated data; returns how much of it was taken.
    fn indicated(&self, head: usize, data: &[u8], answer: NTSTATUS, accepted: usize) -> usize {
        const API: &str = "WskReceiveEvent";
        let mut breach = false;
        let taken = match answer {
            STATUS_PENDING => data.len(),
            STATUS_SUCCESS if accepted <= data.len() => accepted,
            // What was accepted of it is written; otherwise the variable still says "all", which is nothing here.
            STATUS_DATA_NOT_ACCEPTED if accepted < data.len() => accepted,
            STATUS_DATA_NOT_ACCEPTED => 0,
            _ => {
                breach = true;
                0
            }
        };
        let freed = {
            let mut state = self.state();
            let connection = &mut state.connection;
            connection.indicating = None;
            let index = connection.retained.iter().position(|kept| kept.head == head);
            let kept = index.and_then(|index| connection.retained.get(index));
            let released = kept.is_some_and(|kept| kept.released);
            breach |= released && answer != STATUS_PENDING;
            let rest = data.get(taken..).unwrap_or_default();
            connection.blocked = !rest.is_empty();
            if !rest.is_empty() && connection.incoming != Incoming::Reset {
                connection.held = rest.into();
            }
            if answer != STATUS_PENDING || released {
                index.map(|index| connection.retained.swap_remove(index))
            } else {
                None
            }
        };
        drop(freed);
        if breach {
            violation!(API, "returned {answer:#010x}, {accepted} of {} accepted", data.len());
        }
        taken
    }

    /// Calls WskDisconnectEvent.
    fn tell_end(&self, flags: u32) {
        const API: &str = "WskDisconnectEvent";
        let (context, table) = {
            let state = self.state();
            (state.context, Self::connection_dispatch(&state))
        };
        let event = table.and_then(|table| table.WskDisconnectEvent);
        let answer = self.call_back(Key::Event(WSK_EVENT_DISCONNECT), |level| {
            // SAFETY: the client's callback, with its context.
            event.map(|event| unsafe { event(context, flags | level) })
        });
        match answer {
            None => violation!(API, "enabled on socket {}, and NULL", self.id),
            Some(STATUS_SUCCESS) => {}
            Some(other) => violation!(API, "returned {other:#010x}, must be STATUS_SUCCESS"),
        }
    }

    /// WskReceiveEvent with a NULL indication: the socket is no longer functional.
    pub(super) fn indicate_dead_connection(&self) {
        let key = Key::Event(WSK_EVENT_RECEIVE);
        let (context, table) = {
            let mut state = self.state();
            if state.phase != Phase::Open || state.enabled & WSK_EVENT_RECEIVE == 0 {
                return;
            }
            state.callbacks.push(key);
            (state.context, Self::connection_dispatch(&state))
        };
        let mut accepted = 0;
        self.call_back(key, |level| {
            if let Some(event) = table.and_then(|table| table.WskReceiveEvent) {
                // SAFETY: the client's callback, with its context; NULL for the data that is not there.
                unsafe { event(context, level, null_mut(), 0, &raw mut accepted) };
            }
        });
    }
}
