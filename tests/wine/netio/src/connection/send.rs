//! The direction to the peer: WskSend and WskDisconnect.
//!
//! Pages PFN_WSK_SEND, PFN_WSK_DISCONNECT. A graceful disconnect completes when Winsock has taken the end of the stream:
//! Winsock does not tell when the peer has acknowledged it.

use super::{Connection, Incoming, Outgoing};
use crate::chain::Chain;
use crate::machine;
use crate::report::violation;
use crate::request::{Irp, Request, Ticket};
use crate::socket::{Entry, Phase, Socket};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_CONNECTION_ABORTED, STATUS_CONNECTION_DISCONNECTED, STATUS_CONNECTION_RESET,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING,
    STATUS_SUCCESS,
};
use crate::sys::wsk::{CMSGHDR, PSOCKADDR, PWSK_BUF, PWSK_SOCKET, WSK_FLAG_ABORTIVE, WSK_FLAG_NODELAY};
use crate::winsock::Failure;
use alloc::sync::Arc;

/// A WskSend, or the end of the stream, that waits.
pub(super) struct Send {
    pub(super) ticket: Arc<Ticket>,
    buffer: Chain,
    done: usize,
    /// The end of the stream comes after it.
    last: bool,
}

/// WskSend.
pub unsafe extern "system" fn send(socket: PWSK_SOCKET, buffer: PWSK_BUF, flags: u32, irp: PIRP) -> NTSTATUS {
    const API: &str = "WskSend";
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp(API, socket, irp, |entry, request| {
        // SAFETY: what the client passed, valid until the request is completed.
        match unsafe { Chain::new(buffer) } {
            Ok(buffer) if flags & !WSK_FLAG_NODELAY == 0 => start(&entry.socket, request, buffer, false),
            Ok(_) => request.finish(STATUS_INVALID_PARAMETER, 0),
            Err(fault) => {
                violation!(API, "bad buffer: {fault:?}");
                request.finish(STATUS_INVALID_PARAMETER, 0)
            }
        }
    })
}

fn start(socket: &Arc<Socket>, request: Request, buffer: Chain, last: bool) -> NTSTATUS {
    let length = buffer.len();
    let (status, done, between) = {
        let mut state = socket.state();
        let connection = &mut state.connection;
        let status = connection.may_send();
        let mut done = 0;
        if status == STATUS_SUCCESS && last {
            connection.outgoing = Outgoing::Ending;
        }
        let free = connection.sends.is_empty() && !connection.between;
        let tries = status == STATUS_SUCCESS && !last && free && machine::pick_inline();
        let status = if tries { connection.write(&buffer, &mut done) } else { status };
        connection.between |= tries;
        (status, done, tries)
    };
    if between && (status != STATUS_SUCCESS || done == length) {
        socket.state().connection.between = false;
        socket.count_sent(done);
        let count = if status == STATUS_SUCCESS { done } else { 0 };
        request.complete(status, count);
        socket.kick_send();
        return status;
    }
    if status != STATUS_SUCCESS {
        return request.finish(status, 0);
    }
    let send = Send { ticket: Ticket::new(request), buffer, done, last };
    {
        let mut state = socket.state();
        let connection = &mut state.connection;
        if between {
            connection.between = false;
            connection.sends.push_front(send);
        } else {
            connection.sends.push_back(send);
        }
    }
    socket.kick_send();
    STATUS_PENDING
}

/// WskDisconnect.
pub unsafe extern "system" fn disconnect(
    socket: PWSK_SOCKET,
    buffer: PWSK_BUF,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskDisconnect";
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp(API, socket, irp, |entry, request| {
        if flags & !WSK_FLAG_ABORTIVE != 0 {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        if flags & WSK_FLAG_ABORTIVE != 0 {
            if !buffer.is_null() {
                violation!(API, "an abortive disconnect with a buffer");
                return request.finish(STATUS_INVALID_PARAMETER, 0);
            }
            return abort(&entry.socket, request);
        }
        if buffer.is_null() {
            return start(&entry.socket, request, Chain::default(), true);
        }
        // SAFETY: what the client passed, valid until the request is completed.
        match unsafe { Chain::new(buffer) } {
            Ok(buffer) => start(&entry.socket, request, buffer, true),
            Err(fault) => {
                violation!(API, "bad buffer: {fault:?}");
                request.finish(STATUS_INVALID_PARAMETER, 0)
            }
        }
    })
}

fn abort(socket: &Socket, request: Request) -> NTSTATUS {
    let tickets = {
        let mut state = socket.state();
        let connection = &mut state.connection;
        if !connection.is_connected() {
            drop(state);
            return request.finish(STATUS_INVALID_DEVICE_STATE, 0);
        }
        connection.drop_link(false);
        if connection.incoming != Incoming::Reset {
            connection.incoming = Incoming::Aborted;
        }
        connection.held.clear();
        connection.outgoing = Outgoing::Ended;
        connection.take_all()
    };
    // "The WSK subsystem will abortively disconnect the socket": what is pending is over.
    for ticket in tickets {
        ticket.complete(STATUS_CONNECTION_ABORTED, 0);
    }
    request.finish(STATUS_SUCCESS, 0)
}

impl Connection {
    fn may_send(&self) -> NTSTATUS {
        match (self.is_connected(), self.outgoing, self.incoming) {
            (false, ..) => STATUS_INVALID_DEVICE_STATE,
            (true, _, Incoming::Reset) => STATUS_CONNECTION_RESET,
            (true, _, Incoming::Aborted) => STATUS_CONNECTION_ABORTED,
            (true, Outgoing::Open, _) => STATUS_SUCCESS,
            (true, ..) => STATUS_CONNECTION_DISCONNECTED,
        }
    }

    /// Sends of `buffer` what the connection takes. A failure is the end of both directions.
    fn write(&mut self, buffer: &Chain, done: &mut usize) -> NTSTATUS {
        while *done < buffer.len() {
            let Some(link) = &self.link else { return STATUS_CONNECTION_RESET };
            match link.socket.send(buffer.readable(*done)) {
                Ok(count) => *done += count,
                Err(Failure::WouldBlock) => break,
                Err(Failure::Status(status)) => {
                    self.incoming = Incoming::Reset;
                    self.held.clear();
                    return status;
                }
            }
        }
        STATUS_SUCCESS
    }

    /// Sends what is queued. `Some` when a request is done, with its outcome.
    fn advance_send(&mut self) -> Option<(Request, NTSTATUS, usize)> {
        if self.between {
            return None;
        }
        loop {
            let mut send = self.sends.pop_front()?;
            if send.ticket.is_taken() {
                // A cancelled end of the stream is none.
                if send.last && self.outgoing == Outgoing::Ending {
                    self.outgoing = Outgoing::Open;
                }
                continue;
            }
            let mut done = send.done;
            let mut status = self.write(&send.buffer, &mut done);
            send.done = done;
            if status == STATUS_SUCCESS && done < send.buffer.len() {
                self.sends.push_front(send);
                if let Some(link) = &self.link {
                    link.watch.want_write();
                }
                return None;
            }
            if status == STATUS_SUCCESS && send.last {
                self.outgoing = Outgoing::Ended;
                if let Some(Err(Failure::Status(failed))) = self.link.as_ref().map(|link| link.socket.end()) {
                    status = failed;
                }
            }
            if let Some(request) = send.ticket.take() {
                let count = if status == STATUS_SUCCESS { done } else { 0 };
                return Some((request, status, count));
            }
        }
    }
}

impl Socket {
    /// One run of the send lane.
    pub fn run_send(&self) {
        if !self.advance_connect() {
            return;
        }
        loop {
            let done = {
                let mut state = self.state();
                if state.phase != Phase::Open || state.dead || !state.connection.is_connected() {
                    return;
                }
                state.connection.advance_send()
            };
            let Some((request, status, count)) = done else { return };
            self.count_sent(count);
            request.complete_as_callback(status, count);
            // The end of the stream, or a failure, may be what the other lane waits for.
            self.kick_receive();
        }
    }
}

/// WskConnectEx, WskSendEx and WskReceiveEx stand behind WskRelease, where older tables end: they are refused.
fn reserved(api: &'static str, socket: PWSK_SOCKET, irp: Irp) -> NTSTATUS {
    Entry::with_irp(api, socket, irp, |_, request| {
        violation!(api, "not in every provider's table");
        request.finish(STATUS_NOT_SUPPORTED, 0)
    })
}

pub unsafe extern "system" fn connect_ex(
    socket: PWSK_SOCKET,
    _remote: PSOCKADDR,
    _buffer: PWSK_BUF,
    _flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    reserved("WskConnectEx", socket, unsafe { Irp::passed(irp) })
}

pub unsafe extern "system" fn send_ex(
    socket: PWSK_SOCKET,
    _buffer: PWSK_BUF,
    _flags: u32,
    _length: u32,
    _control: *mut CMSGHDR,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    reserved("WskSendEx", socket, unsafe { Irp::passed(irp) })
}

pub unsafe extern "system" fn receive_ex(
    socket: PWSK_SOCKET,
    _buffer: PWSK_BUF,
    _flags: u32,
    _length: *mut u32,
    _control: *mut CMSGHDR,
    _reserved: *mut u32,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    reserved("WskReceiveEx", socket, unsafe { Irp::passed(irp) })
}
