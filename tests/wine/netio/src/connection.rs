//! Connection-oriented sockets: their state, and how it begins and ends.
//!
//! Pages PFN_WSK_BIND, PFN_WSK_CONNECT, PFN_WSK_DISCONNECT, "Closing a Socket".

mod connect;
mod receive;
mod send;

pub use connect::{attempt, bind, bind_to, connect};
pub use receive::{receive, release};
pub use send::{connect_ex, disconnect, receive_ex, send, send_ex};

use crate::indication::Indication;
use crate::listen::Arrived;
use crate::reactor::{Ready, Watch};
use crate::report::violation;
use crate::request::Ticket;
use crate::socket::{Category, Key, Phase, Socket, State};
use crate::sys::nt::STATUS_SUCCESS;
use crate::sys::wsk::{
    IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, WSK_CLIENT_CONNECTION_DISPATCH, WSK_EVENT_SEND_BACKLOG,
};
use crate::winsock::{self, Failure};
use crate::work;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use receive::Receive;
use send::Send;
use windows_sys::Win32::Networking::WinSock::TCP_NODELAY;

/// What WSK asks to be kept outstanding, to begin with.
const IDEAL_SEND_BACKLOG: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    Unbound,
    Bound,
    Connecting,
    Connected,
}

/// The direction from the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Incoming {
    #[default]
    Open,
    /// The peer has ended it.
    Ended,
    /// The peer has reset the connection.
    Reset,
    /// The client has aborted the connection.
    Aborted,
}

/// The direction to the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outgoing {
    #[default]
    Open,
    /// It ends after what is queued.
    Ending,
    Ended,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Connection {
    pub stage: Stage,
    link: Option<Link>,
    /// The client does not know the socket yet: no callbacks.
    pub held_back: bool,
    /// Received, and neither indicated nor asked for yet.
    held: Vec<u8>,
    receives: VecDeque<Receive>,
    /// The client did not accept all of an indication: no more until a receive completes.
    blocked: bool,
    pub retained: Vec<Retained>,
    /// The list that is being indicated.
    indicating: Option<usize>,
    pub incoming: Incoming,
    /// WskDisconnectEvent was called.
    told: bool,
    sends: VecDeque<Send>,
    /// A send is being queued whose beginning is sent already.
    between: bool,
    pub outgoing: Outgoing,
    connecting: Option<connect::Connecting>,
    ideal: usize,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            stage: Stage::Unbound,
            link: None,
            held_back: false,
            held: Vec::new(),
            receives: VecDeque::new(),
            blocked: false,
            retained: Vec::new(),
            indicating: None,
            incoming: Incoming::Open,
            told: false,
            sends: VecDeque::new(),
            between: false,
            outgoing: Outgoing::Open,
            connecting: None,
            ideal: IDEAL_SEND_BACKLOG,
        }
    }
}

struct Link {
    /// Dropped first, so that nobody polls a closed socket.
    watch: Watch,
    socket: Arc<winsock::Socket>,
}

/// Indications that the client keeps until WskRelease.
pub struct Retained {
    head: usize,
    _indication: Indication,
    bytes: usize,
    /// Released while its callback runs.
    released: bool,
}

impl Connection {
    /// Lists that the client keeps. The one that its callback is looking at is not among them.
    pub fn kept_back(&self) -> usize {
        self.retained.iter().filter(|kept| Some(kept.head) != self.indicating).count()
    }

    pub fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// Receives, sends and connects that wait.
    pub fn pending(&self) -> (usize, usize, usize) {
        (self.receives.len(), self.sends.len(), usize::from(self.connecting.is_some()))
    }

    pub fn ideal_send_backlog(&self) -> usize {
        self.ideal
    }

    pub fn receive_backlog(&self) -> usize {
        self.held.len()
    }

    /// Whether both directions have ended, so that a close need not abort.
    pub fn is_over(&mut self) -> bool {
        if self.incoming == Incoming::Open
            && self.held.is_empty()
            && let Some(link) = &self.link
            && link.socket.peek_end() == Ok(true)
        {
            self.incoming = Incoming::Ended;
        }
        self.incoming == Incoming::Ended && self.held.is_empty() && self.outgoing == Outgoing::Ended
    }

    /// Gives Winsock's socket up; the peer sees a reset unless `graceful`.
    pub fn drop_link(&mut self, graceful: bool) {
        if let Some(Link { watch, socket }) = self.link.take() {
            if !graceful && self.stage == Stage::Connected {
                socket.reset_on_close();
            }
            drop(watch);
            drop(socket);
        }
    }

    pub fn take_all(&mut self) -> Vec<Arc<Ticket>> {
        let mut tickets: Vec<_> = self.receives.drain(..).map(|receive| receive.ticket).collect();
        tickets.extend(self.take_outgoing());
        tickets.extend(self.connecting.take().map(|connecting| connecting.ticket));
        tickets
    }

    fn take_outgoing(&mut self) -> Vec<Arc<Ticket>> {
        self.sends.drain(..).map(|send| send.ticket).collect()
    }

    /// The socket that options are set on, if there is one.
    pub fn winsock(&self) -> Option<&winsock::Socket> {
        self.link.as_ref().map(|link| &*link.socket)
    }
}

/// Sets what was asked for before there was a socket.
fn set_options(state: &State, socket: &winsock::Socket) {
    let on = 1_u32.to_ne_bytes();
    if state.options.keep_alive {
        let _best_effort = socket.set_option(SOL_SOCKET, SO_KEEPALIVE, &on);
    }
    if state.options.no_delay {
        let _best_effort = socket.set_option(IPPROTO_TCP, TCP_NODELAY.cast_unsigned(), &on);
    }
}

impl Socket {
    /// The client dispatch table, when the client gave one.
    fn connection_dispatch(state: &State) -> Option<WSK_CLIENT_CONNECTION_DISPATCH> {
        let table: *const WSK_CLIENT_CONNECTION_DISPATCH = state.dispatch.cast();
        // SAFETY: NULL, or the client's table, which it keeps as long as the socket.
        unsafe { table.as_ref() }.copied()
    }

    /// Makes an accepted connection the socket's. `held_back` keeps callbacks from it until the client knows it.
    pub fn attach(self: &Arc<Self>, arrived: Arrived, held_back: bool) {
        let Arrived { socket, local, remote } = arrived;
        let whom: Weak<Self> = Arc::downgrade(self);
        let watch = Watch::new(&socket, whom as Weak<dyn Ready>);
        {
            let mut state = self.state();
            state.local = Some(local);
            state.remote = Some(remote);
            state.accepted = true;
            state.connection.stage = Stage::Connected;
            state.connection.held_back = held_back;
            state.connection.link = Some(Link { watch, socket });
        }
        self.kick_receive();
    }

    /// Ends the connection as a reset by the peer would. False if there is none.
    pub fn cut(&self) -> bool {
        {
            let mut state = self.state();
            let connection = &mut state.connection;
            if connection.link.is_none() || !connection.is_connected() {
                return false;
            }
            connection.drop_link(false);
            connection.incoming = Incoming::Reset;
            connection.held.clear();
        }
        self.kick_receive();
        true
    }

    /// Says by the callbacks' NULL arguments that the socket is no longer functional.
    pub fn indicate_death(&self) {
        match self.category {
            Category::Listen => self.indicate_dead_listener(),
            Category::Connection => self.indicate_dead_connection(),
            Category::Basic => {}
        }
    }

    /// Sets what should be kept outstanding, and calls WskSendBacklogEvent (its page).
    pub fn set_ideal_send_backlog(&self, bytes: usize) {
        let key = Key::Event(WSK_EVENT_SEND_BACKLOG);
        let event = {
            let mut state = self.state();
            state.connection.ideal = bytes;
            let wanted = state.wants(WSK_EVENT_SEND_BACKLOG) && !state.connection.held_back;
            let table = if wanted { Self::connection_dispatch(&state) } else { None };
            let event = table.and_then(|table| table.WskSendBacklogEvent);
            if event.is_some() && state.phase == Phase::Open {
                state.callbacks.push(key);
            }
            event.map(|event| (event, state.context as usize))
        };
        let (Some((event, context)), Some(socket)) = (event, self.share()) else { return };
        work::put(move || {
            let answer = socket.call_back(key, |_| {
                // SAFETY: the client's callback, with its context.
                unsafe { event(context as *mut core::ffi::c_void, bytes) }
            });
            if answer != STATUS_SUCCESS {
                violation!("WskSendBacklogEvent", "returned {answer:#010x}, must be STATUS_SUCCESS");
            }
        });
    }
}

/// The status of a failure that cannot be waited out.
fn status_of(failure: Failure) -> crate::sys::nt::NTSTATUS {
    match failure {
        Failure::Status(status) => status,
        Failure::WouldBlock => crate::sys::nt::STATUS_INVALID_DEVICE_STATE,
    }
}
