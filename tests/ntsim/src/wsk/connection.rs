//! Connection-oriented sockets: connect, send, receive, disconnect, and their events.

mod connect;
mod lanes;
mod transfer;

pub use connect::{bind, bind_to, connect, connect_to, get_local_address, get_remote_address};
pub use transfer::{connect_ex, disconnect, receive, receive_ex, release, send, send_ex};

use super::Subsystem;
use super::buffer::{Buffer, Indication};
use super::link::{Link, Read, Write};
use super::request::{Request, Ticket};
use super::rules;
use crate::sys::nt::{
    NTSTATUS, STATUS_CONNECTION_ABORTED, STATUS_CONNECTION_RESET, STATUS_INVALID_PARAMETER, STATUS_SUCCESS,
};
use crate::sys::wsk::{WSK_FLAG_DRAIN, WSK_FLAG_WAITALL};
use crate::verify::violation;
use std::collections::VecDeque;
use std::sync::Arc;

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
    /// Of the bytes as they were when they were given, if they are watched.
    digest: Option<u64>,
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
            if subsystem.config.watch_buffers && !receive.buffer.is_there("WskReceive") {
                let receive = self.receives.pop_front()?;
                match receive.ticket.take(subsystem) {
                    Some(request) => return Some((receive.ticket, request, STATUS_INVALID_PARAMETER, 0)),
                    None => continue,
                }
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
            if send.digest.is_some() && !send.buffer.is_there("WskSend") {
                let send = self.sends.pop_front()?;
                self.outstanding = self.outstanding.saturating_sub(send.buffer.len());
                match send.ticket.take(subsystem) {
                    Some(request) => return Some((send.ticket, request, STATUS_INVALID_PARAMETER, 0)),
                    None => continue,
                }
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
            if send.digest.is_some_and(|before| before != send.buffer.digest()) {
                violation(&rules::BUFFER_CHANGED, "WskSend", format!("{length} bytes"));
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
