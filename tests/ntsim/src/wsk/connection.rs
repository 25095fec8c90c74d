//! Connection-oriented sockets: connect, send, receive, disconnect, and their events.

use super::address;
use super::buffer::{Buffer, Indication};
use super::link::{Link, Notify, Read, Write};
use super::request::{Request, Ticket, at};
use super::socket::{Category, Entry, Key, Phase, Socket, State};
use super::{Subsystem, rules};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_ADDRESS_ALREADY_ASSOCIATED, STATUS_CONNECTION_ABORTED,
    STATUS_CONNECTION_DISCONNECTED, STATUS_CONNECTION_RESET, STATUS_DATA_NOT_ACCEPTED,
    STATUS_INVALID_ADDRESS_COMPONENT, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    STATUS_SUCCESS,
};
use crate::sys::wsk::{
    PSOCKADDR, PWSK_BUF, PWSK_DATA_INDICATION, PWSK_SOCKET, WSK_CLIENT_CONNECTION_DISPATCH,
    WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE, WSK_EVENT_SEND_BACKLOG, WSK_FLAG_ABORTIVE, WSK_FLAG_DRAIN,
    WSK_FLAG_ENTIRE_MESSAGE, WSK_FLAG_NODELAY, WSK_FLAG_RELEASE_ASAP, WSK_FLAG_WAITALL,
};
use crate::verify::{lock, violation};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ptr::{null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::{Arc, Mutex, Weak};

/// What is read from a link at a time.
const PIECE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unconnected,
    Connecting,
    Connected,
}

/// How the incoming direction ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Incoming {
    #[default]
    Open,
    /// The peer ended it (FIN).
    Ended,
    /// The peer reset the connection.
    Reset,
    /// The driver disconnected abortively.
    Aborted,
}

/// How far the outgoing direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outgoing {
    #[default]
    Open,
    /// A graceful disconnect waits for what is queued.
    Ending,
    /// The end is sent, and not acknowledged yet.
    Ended,
    Done,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Connection {
    stage: Stage,
    link: Option<Arc<dyn Link>>,
    connecting: Option<Arc<Ticket>>,
    incoming: Incoming,
    /// Whether the driver was told of the end of the incoming direction.
    told: bool,
    receives: VecDeque<Receiving>,
    held: Held,
    /// No indications until a receive request completes.
    blocked: bool,
    /// A run of the receive lane is under way.
    running: bool,
    /// Callbacks wait until WskAcceptEvent has returned.
    pub held_back: bool,
    retained: Vec<Retained>,
    /// The list whose callback is running, by its head.
    indicating: Option<usize>,
    outgoing: Outgoing,
    sends: VecDeque<Sending>,
    outstanding: usize,
    peak_outstanding: usize,
    disconnects: Vec<Arc<Ticket>>,
    ideal_send_backlog: usize,
}

struct Receiving {
    ticket: Arc<Ticket>,
    buffer: Buffer,
    flags: u32,
    done: usize,
}

struct Sending {
    ticket: Arc<Ticket>,
    buffer: Buffer,
    done: usize,
    /// The last data of a graceful disconnect, whose IRP completes later.
    last: bool,
}

struct Retained {
    head: usize,
    indication: Indication,
    released: bool,
}

/// What was read from the link and not taken by the driver.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Held {
    fn get(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
    }

    fn take(&mut self) -> Vec<u8> {
        let taken = self.get().to_vec();
        self.clear();
        taken
    }

    /// Puts back what was taken, before what is there now.
    fn put_back(&mut self, bytes: &[u8]) {
        let all = [bytes, self.get()].concat();
        (self.start, self.end) = (0, all.len());
        self.bytes = all;
    }

    /// Fills what is empty by `read`, which returns how much it wrote.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> usize) {
        self.bytes.resize(PIECE, 0);
        (self.start, self.end) = (0, read(&mut self.bytes).min(PIECE));
    }
}

impl Connection {
    pub fn new(ideal_send_backlog: usize) -> Self {
        Self {
            stage: Stage::Unconnected,
            link: None,
            connecting: None,
            incoming: Incoming::Open,
            told: false,
            receives: VecDeque::new(),
            held: Held::default(),
            blocked: false,
            running: false,
            held_back: false,
            retained: Vec::new(),
            indicating: None,
            outgoing: Outgoing::Open,
            sends: VecDeque::new(),
            outstanding: 0,
            peak_outstanding: 0,
            disconnects: Vec::new(),
            ideal_send_backlog,
        }
    }

    /// The lists that the driver retains.
    fn kept(&self) -> impl Iterator<Item = &Retained> {
        self.retained.iter().filter(|kept| !kept.released && Some(kept.head) != self.indicating)
    }

    pub fn retained_count(&self) -> usize {
        self.kept().count()
    }

    fn retained_bytes(&self) -> usize {
        self.kept().map(|kept| kept.indication.len()).sum()
    }

    pub fn peak_outstanding(&self) -> usize {
        self.peak_outstanding
    }

    pub fn pending_receives(&self) -> usize {
        self.receives.iter().filter(|receive| !receive.ticket.is_taken()).count()
    }

    pub fn receive_backlog(&self) -> usize {
        self.held.len()
    }

    pub fn ideal_send_backlog(&self) -> usize {
        self.ideal_send_backlog
    }

    pub fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// Every request that is pending, taken off its queue.
    pub fn take_all(&mut self) -> Vec<Arc<Ticket>> {
        let mut tickets: Vec<_> = self.connecting.take().into_iter().collect();
        tickets.extend(self.receives.drain(..).map(|receive| receive.ticket));
        tickets.extend(self.take_outgoing());
        tickets
    }

    fn take_outgoing(&mut self) -> Vec<Arc<Ticket>> {
        self.outstanding = 0;
        let sends = self.sends.drain(..).map(|send| send.ticket);
        let mut tickets: Vec<_> = sends.collect();
        tickets.append(&mut self.disconnects);
        tickets
    }

    /// Reads ahead if nothing is held, and learns how the incoming direction ended.
    fn refill(&mut self) {
        let Some(link) = &self.link else { return };
        if self.incoming == Incoming::Open && link.is_reset() {
            self.incoming = Incoming::Reset;
            self.held.clear();
        }
        if self.incoming == Incoming::Open && self.held.is_empty() {
            let incoming = &mut self.incoming;
            self.held.fill(|into| match link.read(into) {
                Read::Data(count) => count,
                Read::Empty => 0,
                Read::End => {
                    *incoming = Incoming::Ended;
                    0
                }
                Read::Reset => {
                    *incoming = Incoming::Reset;
                    0
                }
            });
        }
    }

    /// Gives back what a closed connection needs no more.
    pub fn forget(&mut self) {
        self.held = Held::default();
        self.link = None;
    }

    /// Moves what can be moved into the first pending receive. `Some` if it is done, with its outcome.
    fn serve(&mut self, subsystem: &Subsystem) -> Option<(Arc<Ticket>, Request, NTSTATUS, usize)> {
        loop {
            let receive = self.receives.front_mut()?;
            if receive.ticket.is_taken() {
                self.receives.pop_front();
                continue;
            }
            let drains = receive.flags & WSK_FLAG_DRAIN != 0;
            let mut moved = 0;
            if drains {
                self.held.clear();
            } else {
                moved = receive.buffer.write(receive.done, self.held.get());
                receive.done += moved;
                self.held.consume(moved);
            }
            let full = receive.done == receive.buffer.len() && !drains;
            let waits_for_all = receive.flags & WSK_FLAG_WAITALL != 0;
            let outcome = match self.incoming {
                _ if full || (moved > 0 && !waits_for_all) => Some(STATUS_SUCCESS),
                // A success with no bytes is the peer's end of the stream.
                Incoming::Ended if self.held.is_empty() => Some(STATUS_SUCCESS),
                Incoming::Open | Incoming::Ended => None,
                Incoming::Reset => Some(STATUS_CONNECTION_RESET),
                Incoming::Aborted => Some(STATUS_CONNECTION_ABORTED),
            };
            let done = receive.done;
            let Some(status) = outcome else {
                if self.held.is_empty() {
                    self.refill();
                    if !self.held.is_empty() || self.incoming != Incoming::Open {
                        continue;
                    }
                }
                return None;
            };
            let receive = self.receives.pop_front()?;
            if let Some(request) = receive.ticket.take(subsystem) {
                // Page "PFN_WSK_RECEIVE_EVENT": a receive resumes the indications.
                self.blocked = false;
                return Some((receive.ticket, request, status, done));
            }
            // Cancelled just now: what was moved into it goes with it, as with any cancelled receive.
        }
    }
}

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
        subsystem.executor.put(self.lane(super::exec::Part::Send), Box::new(tell));
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

impl Connection {
    /// Sends what the link takes. `Some` when a request is done, with its outcome.
    fn advance_send(&mut self, subsystem: &Subsystem) -> Option<(Arc<Ticket>, Request, NTSTATUS, usize)> {
        let link = Arc::clone(self.link.as_ref()?);
        loop {
            if self.incoming == Incoming::Reset {
                return self.fail_one(subsystem, STATUS_CONNECTION_RESET);
            }
            let Some(send) = self.sends.front_mut() else { break };
            if send.ticket.is_taken() {
                let length = send.buffer.len();
                self.outstanding = self.outstanding.saturating_sub(length);
                self.sends.pop_front();
                continue;
            }
            let mut reset = false;
            send.done += send.buffer.read(send.done, |bytes| match link.write(bytes) {
                Write::Wrote(count) => count,
                Write::Full => 0,
                Write::Reset => {
                    reset = true;
                    0
                }
            });
            if reset {
                self.incoming = Incoming::Reset;
                self.held.clear();
                continue;
            }
            let length = send.buffer.len();
            if send.done < length {
                return None;
            }
            let send = self.sends.pop_front()?;
            self.outstanding = self.outstanding.saturating_sub(length);
            if !send.last
                && let Some(request) = send.ticket.take(subsystem)
            {
                return Some((send.ticket, request, STATUS_SUCCESS, length));
            }
        }
        if self.outgoing == Outgoing::Ending {
            self.outgoing = Outgoing::Ended;
            link.end();
        }
        if self.outgoing == Outgoing::Ended && link.end_acknowledged() {
            self.outgoing = Outgoing::Done;
        }
        if self.outgoing == Outgoing::Done {
            while let Some(ticket) = self.disconnects.pop() {
                if let Some(request) = ticket.take(subsystem) {
                    return Some((ticket, request, STATUS_SUCCESS, 0));
                }
            }
        }
        None
    }

    fn fail_one(
        &mut self,
        subsystem: &Subsystem,
        status: NTSTATUS,
    ) -> Option<(Arc<Ticket>, Request, NTSTATUS, usize)> {
        self.outstanding = 0;
        loop {
            let ticket = match self.sends.pop_front() {
                Some(send) => send.ticket,
                None => self.disconnects.pop()?,
            };
            if let Some(request) = ticket.take(subsystem) {
                return Some((ticket, request, status, 0));
            }
        }
    }
}

// ---- The functions of the dispatch table --------------------------------------------------------------------

/// Reads a `SOCKADDR` of the socket's family.
///
/// # Safety
/// `address` is NULL or what page "PFN_WSK_BIND" wants.
unsafe fn read_address(entry: &Entry, api: &'static str, address: PSOCKADDR) -> Result<SocketAddr, NTSTATUS> {
    if address.is_null() {
        violation(&rules::NULL_ADDRESS, api, "no address");
        return Err(STATUS_INVALID_PARAMETER);
    }
    // SAFETY: the caller's.
    unsafe { address::read(address, entry.socket.family) }.ok_or(STATUS_INVALID_ADDRESS_COMPONENT)
}

/// WskBind, for every category that has it.
pub unsafe extern "system" fn bind(socket: PWSK_SOCKET, local: PSOCKADDR, flags: u32, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskBind";
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the driver passed.
        let status = match unsafe { read_address(entry, API, local) } {
            Ok(_) if flags != 0 => STATUS_INVALID_PARAMETER,
            Ok(at) => bind_to(entry, at).map_or_else(|status| status, |()| STATUS_SUCCESS),
            Err(status) => status,
        };
        entry.fail(request, status)
    })
}

pub fn bind_to(entry: &Entry, at: SocketAddr) -> Result<(), NTSTATUS> {
    let Entry { subsystem, socket } = entry;
    let options = {
        let state = lock(&socket.state);
        if state.local.is_some() {
            return Err(STATUS_ADDRESS_ALREADY_ASSOCIATED);
        }
        state.options.bind
    };
    if socket.category == Category::Listen {
        let whom: Weak<Socket> = Arc::downgrade(socket);
        let listener = subsystem.network.listen(at, options, whom as Weak<dyn Notify>)?;
        let mut state = lock(&socket.state);
        state.local = Some(listener.local());
        state.listening.start(listener);
        // Page "WSK_SET_STATIC_EVENT_CALLBACKS": these are enabled by themselves.
        state.enabled |= state.fixed;
        drop(state);
        socket.kick_receive();
    } else {
        let binding = subsystem.network.bind(at, options)?;
        let mut state = lock(&socket.state);
        state.local = Some(binding.local());
        state.binding = Some(binding);
    }
    Ok(())
}

/// Where a connect's outcome goes while its call is in progress, and after.
struct Attempt {
    in_call: bool,
    outcome: Option<Result<Arc<dyn Link>, NTSTATUS>>,
}

/// WskConnect (page "PFN_WSK_CONNECT").
pub unsafe extern "system" fn connect(
    socket: PWSK_SOCKET,
    remote: PSOCKADDR,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskConnect";
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the driver passed.
        match unsafe { read_address(entry, API, remote) } {
            Ok(_) if flags != 0 => entry.fail(request, STATUS_INVALID_PARAMETER),
            Ok(remote) => connect_to(entry, request, remote, false),
            Err(status) => entry.fail(request, status),
        }
    })
}

/// Connects a bound socket and completes `request` with the outcome. A socket that is `new` goes to the driver with it,
/// or goes away.
pub fn connect_to(entry: &Entry, request: Request, remote: SocketAddr, new: bool) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    let binding = {
        let mut state = lock(&socket.state);
        // Page "PFN_WSK_CONNECT": only on a socket that was bound, and once.
        match state.binding.clone() {
            Some(binding) if state.connection.stage == Stage::Unconnected => {
                state.connection.stage = Stage::Connecting;
                binding
            }
            _ => {
                drop(state);
                return entry.fail(request, STATUS_INVALID_DEVICE_STATE);
            }
        }
    };
    let attempt = Arc::new(Mutex::new(Attempt { in_call: true, outcome: None }));
    let abandoned = Arc::clone(socket);
    let ticket = Ticket::with_cancel(
        subsystem,
        request,
        Box::new(move |subsystem| {
            if new {
                abandoned.discard(subsystem);
            }
        }),
    );
    lock(&socket.state).connection.connecting = Some(Arc::clone(&ticket));
    let started = {
        let attempt = Arc::clone(&attempt);
        let socket = Arc::clone(socket);
        let ticket = Arc::clone(&ticket);
        let weak = Arc::downgrade(subsystem);
        binding.connect(
            remote,
            Box::new(move |outcome| {
                let mut slot = lock(&attempt);
                if slot.in_call {
                    slot.outcome = Some(outcome);
                } else if let Some(subsystem) = weak.upgrade() {
                    drop(slot);
                    later(&subsystem, &socket, &ticket, outcome, new);
                }
            }),
        )
    };
    let mut slot = lock(&attempt);
    slot.in_call = false;
    let outcome = slot.outcome.take().or_else(|| started.err().map(Err));
    drop(slot);
    let Some(outcome) = outcome else { return STATUS_PENDING };
    if subsystem.pick_inline() {
        let Some(request) = ticket.take(subsystem) else { return STATUS_PENDING };
        let (status, information) = settle(subsystem, socket, outcome, new);
        ticket.finish(subsystem, request, status, information);
        status
    } else {
        later(subsystem, socket, &ticket, outcome, new);
        subsystem.linger(&ticket);
        STATUS_PENDING
    }
}

/// Records how an attempt ended.
fn settle(
    subsystem: &Arc<Subsystem>,
    socket: &Arc<Socket>,
    outcome: Result<Arc<dyn Link>, NTSTATUS>,
    new: bool,
) -> (NTSTATUS, usize) {
    let open = {
        let mut state = lock(&socket.state);
        state.connection.connecting = None;
        state.connection.stage = Stage::Unconnected;
        state.enabled |= state.fixed;
        state.phase == Phase::Open
    };
    let status = match outcome {
        Ok(link) if open => {
            socket.attach(link, false);
            socket.check_callbacks("WskConnect");
            return (STATUS_SUCCESS, if new { socket.handle().expose_provenance() } else { 0 });
        }
        Ok(link) => {
            link.abort();
            STATUS_CONNECTION_ABORTED
        }
        Err(status) => status,
    };
    if new {
        socket.discard(subsystem);
    }
    (status, 0)
}

fn later(
    subsystem: &Arc<Subsystem>,
    socket: &Arc<Socket>,
    ticket: &Arc<Ticket>,
    outcome: Result<Arc<dyn Link>, NTSTATUS>,
    new: bool,
) {
    let (socket, ticket, weak) = (Arc::clone(socket), Arc::clone(ticket), Arc::downgrade(subsystem));
    let lane = socket.lane(super::exec::Part::Control);
    let task = move || {
        let Some(subsystem) = weak.upgrade() else { return };
        match ticket.take(&subsystem) {
            Some(request) => {
                let (status, information) = settle(&subsystem, &socket, outcome, new);
                at(subsystem.callback_at_dispatch(), || {
                    ticket.finish(&subsystem, request, status, information);
                });
            }
            // Cancelled: the connection is not wanted.
            None => {
                if let Ok(link) = outcome {
                    link.abort();
                }
            }
        }
    };
    subsystem.executor.put(lane, Box::new(task));
}

/// WskGetLocalAddress, for every category that has it.
pub unsafe extern "system" fn get_local_address(socket: PWSK_SOCKET, out: PSOCKADDR, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskGetLocalAddress";
    Entry::with_irp(API, socket, irp, |entry, request| {
        let address = lock(&entry.socket.state).local;
        give_address(entry, API, request, address, out)
    })
}

/// WskGetRemoteAddress.
pub unsafe extern "system" fn get_remote_address(socket: PWSK_SOCKET, out: PSOCKADDR, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskGetRemoteAddress";
    Entry::with_irp(API, socket, irp, |entry, request| {
        let address = lock(&entry.socket.state).remote;
        give_address(entry, API, request, address, out)
    })
}

fn give_address(
    entry: &Entry,
    api: &'static str,
    request: Request,
    address: Option<SocketAddr>,
    out: PSOCKADDR,
) -> NTSTATUS {
    let Some(address) = address else { return entry.fail(request, STATUS_INVALID_DEVICE_STATE) };
    if out.is_null() {
        violation(&rules::NULL_OUTPUT, api, "no buffer for the address");
        return entry.fail(request, STATUS_INVALID_PARAMETER);
    }
    let (family, out) = (entry.socket.family, out.expose_provenance());
    entry.finish(request, move || {
        // SAFETY: the buffer stays valid until the IRP is completed, which is after this.
        unsafe { address::write(address, family, with_exposed_provenance_mut(out)) };
        (STATUS_SUCCESS, 0)
    })
}

/// WskSend (page "PFN_WSK_SEND").
pub unsafe extern "system" fn send(socket: PWSK_SOCKET, buffer: PWSK_BUF, flags: u32, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskSend";
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the driver passed.
        let Some(buffer) = (unsafe { Buffer::check(API, buffer) }) else {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        };
        if flags & !WSK_FLAG_NODELAY != 0 {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        enqueue_send(entry, request, buffer, false)
    })
}

fn enqueue_send(entry: &Entry, request: Request, buffer: Buffer, last: bool) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    let status = {
        let state = lock(&socket.state);
        match (state.connection.stage, state.connection.outgoing) {
            (Stage::Connected, Outgoing::Open) => match state.connection.incoming {
                Incoming::Reset => STATUS_CONNECTION_RESET,
                Incoming::Aborted => STATUS_CONNECTION_ABORTED,
                Incoming::Open | Incoming::Ended => STATUS_SUCCESS,
            },
            (Stage::Connected, _) => STATUS_CONNECTION_DISCONNECTED,
            _ => STATUS_INVALID_DEVICE_STATE,
        }
    };
    if status != STATUS_SUCCESS {
        return entry.fail(request, status);
    }
    let inline = subsystem.pick_inline();
    let ticket = Ticket::new(subsystem, request);
    let done = {
        let mut state = lock(&socket.state);
        let connection = &mut state.connection;
        let idle = connection.sends.is_empty();
        connection.outstanding += buffer.len();
        connection.peak_outstanding = connection.peak_outstanding.max(connection.outstanding);
        connection.sends.push_back(Sending { ticket: Arc::clone(&ticket), buffer, done: 0, last });
        if last {
            connection.outgoing = Outgoing::Ending;
            connection.disconnects.push(Arc::clone(&ticket));
        }
        if inline && idle { connection.advance_send(subsystem) } else { None }
    };
    if let Some((completed, request, status, count)) = done {
        completed.finish(subsystem, request, status, count);
        return status;
    }
    socket.kick_send();
    if !inline {
        subsystem.linger(&ticket);
    }
    STATUS_PENDING
}

/// WskReceive (page "PFN_WSK_RECEIVE").
pub unsafe extern "system" fn receive(
    socket: PWSK_SOCKET,
    buffer: PWSK_BUF,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskReceive";
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the driver passed.
        let Some(buffer) = (unsafe { Buffer::check(API, buffer) }) else {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        };
        let drains = flags & WSK_FLAG_DRAIN != 0;
        if drains && flags & WSK_FLAG_WAITALL != 0 {
            violation(&rules::RECEIVE_FLAGS, API, "both flags");
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        if drains && buffer.len() != 0 {
            violation(&rules::DRAIN_LENGTH, API, format!("length {}", buffer.len()));
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        if flags & !(WSK_FLAG_DRAIN | WSK_FLAG_WAITALL) != 0 {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        enqueue_receive(entry, request, buffer, flags)
    })
}

fn enqueue_receive(entry: &Entry, request: Request, buffer: Buffer, flags: u32) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    if !lock(&socket.state).connection.is_connected() {
        return entry.fail(request, STATUS_INVALID_DEVICE_STATE);
    }
    let inline = subsystem.pick_inline();
    let ticket = Ticket::new(subsystem, request);
    let done = {
        let mut state = lock(&socket.state);
        let connection = &mut state.connection;
        connection.receives.push_back(Receiving { ticket: Arc::clone(&ticket), buffer, flags, done: 0 });
        if inline && !connection.running && connection.receives.len() == 1 {
            connection.refill();
            connection.serve(subsystem)
        } else {
            None
        }
    };
    // Whatever is left may now be indicated.
    socket.kick_receive();
    if let Some((completed, request, status, count)) = done {
        completed.finish(subsystem, request, status, count);
        return status;
    }
    if !inline {
        subsystem.linger(&ticket);
    }
    STATUS_PENDING
}

/// WskDisconnect (page "PFN_WSK_DISCONNECT").
pub unsafe extern "system" fn disconnect(
    socket: PWSK_SOCKET,
    buffer: PWSK_BUF,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskDisconnect";
    Entry::with_irp(API, socket, irp, |entry, request| {
        if flags & !WSK_FLAG_ABORTIVE != 0 {
            return entry.fail(request, STATUS_INVALID_PARAMETER);
        }
        if flags & WSK_FLAG_ABORTIVE != 0 {
            if !buffer.is_null() {
                violation(&rules::ABORTIVE_BUFFER, API, "a buffer was given");
                return entry.fail(request, STATUS_INVALID_PARAMETER);
            }
            return abort(entry, request);
        }
        let buffer = if buffer.is_null() {
            Buffer::EMPTY
        } else {
            // SAFETY: what the driver passed.
            match unsafe { Buffer::check(API, buffer) } {
                Some(buffer) => buffer,
                None => return entry.fail(request, STATUS_INVALID_PARAMETER),
            }
        };
        enqueue_send(entry, request, buffer, true)
    })
}

fn abort(entry: &Entry, request: Request) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    let (link, tickets) = {
        let mut state = lock(&socket.state);
        let connection = &mut state.connection;
        let Some(link) = connection.link.clone().filter(|_| connection.stage == Stage::Connected) else {
            drop(state);
            return entry.fail(request, STATUS_INVALID_DEVICE_STATE);
        };
        if connection.incoming != Incoming::Reset {
            connection.incoming = Incoming::Aborted;
        }
        connection.held.clear();
        connection.outgoing = Outgoing::Done;
        (link, connection.take_all())
    };
    link.abort();
    // "The WSK subsystem will abortively disconnect the socket and force completion of the pending IRP."
    for ticket in tickets {
        at(subsystem.callback_at_dispatch(), || ticket.complete(subsystem, STATUS_CONNECTION_ABORTED, 0));
    }
    entry.fail(request, STATUS_SUCCESS)
}

/// WskRelease (page "PFN_WSK_RELEASE_DATA_INDICATION_LIST").
pub unsafe extern "system" fn release(socket: PWSK_SOCKET, indication: PWSK_DATA_INDICATION) -> NTSTATUS {
    const API: &str = "WskRelease";
    let entry = match Entry::begin(API, socket, null_mut()) {
        Ok(entry) => entry,
        Err(status) => return status,
    };
    let found = {
        let mut state = lock(&entry.socket.state);
        let indicating = state.connection.indicating;
        let retained = &mut state.connection.retained;
        let index = retained.iter().position(|kept| kept.head == indication.addr() && !kept.released);
        if let Some(index) = index {
            // While its callback runs the list stays until that returns STATUS_PENDING.
            if indicating == Some(indication.addr()) {
                if let Some(kept) = retained.get_mut(index) {
                    kept.released = true;
                }
            } else {
                retained.remove(index);
            }
        }
        index.is_some()
    };
    if !found {
        violation(&rules::NOT_RETAINED, API, format!("{indication:p}"));
        return STATUS_INVALID_PARAMETER;
    }
    entry.socket.kick_receive();
    STATUS_SUCCESS
}

/// A function that the pages call reserved for system use.
pub unsafe extern "system" fn connect_ex(
    socket: PWSK_SOCKET,
    _remote: PSOCKADDR,
    _buffer: PWSK_BUF,
    _flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    reserved("WskConnectEx", socket, irp)
}

pub unsafe extern "system" fn send_ex(
    socket: PWSK_SOCKET,
    _buffer: PWSK_BUF,
    _flags: u32,
    _length: u32,
    _control: *mut crate::sys::wsk::CMSGHDR,
    irp: PIRP,
) -> NTSTATUS {
    reserved("WskSendEx", socket, irp)
}

pub unsafe extern "system" fn receive_ex(
    socket: PWSK_SOCKET,
    _buffer: PWSK_BUF,
    _flags: u32,
    _length: *mut u32,
    _control: *mut crate::sys::wsk::CMSGHDR,
    _reserved: *mut u32,
    irp: PIRP,
) -> NTSTATUS {
    reserved("WskReceiveEx", socket, irp)
}

/// Older tables end at WskRelease: what stands behind it is not for a driver that did not look at the version.
fn reserved(api: &'static str, socket: PWSK_SOCKET, irp: PIRP) -> NTSTATUS {
    Entry::with_irp(api, socket, irp, |entry, request| {
        violation(&rules::RESERVED_FUNCTION, api, "not in every provider's table");
        entry.fail(request, crate::sys::nt::STATUS_NOT_SUPPORTED)
    })
}
