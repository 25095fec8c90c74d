//! The functions that move data and end its flow: WskSend, WskReceive, WskDisconnect, WskRelease.

use super::super::buffer::Buffer;
use super::super::request::{Request, Ticket, at};
use super::super::rules;
use super::super::socket::Entry;
use super::{Incoming, Outgoing, Receiving, Sending, Stage};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_CONNECTION_ABORTED, STATUS_CONNECTION_DISCONNECTED, STATUS_CONNECTION_RESET,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING,
    STATUS_SUCCESS,
};
use crate::sys::wsk::{
    CMSGHDR, PSOCKADDR, PWSK_BUF, PWSK_DATA_INDICATION, PWSK_SOCKET, WSK_FLAG_ABORTIVE, WSK_FLAG_DRAIN,
    WSK_FLAG_NODELAY, WSK_FLAG_WAITALL,
};
use crate::verify::{lock, violation};
use std::ptr::null_mut;
use std::sync::Arc;

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
        let digest = subsystem.config.watch_buffers.then(|| buffer.digest());
        connection.sends.push_back(Sending { ticket: Arc::clone(&ticket), buffer, digest, done: 0, last });
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

/// WskConnectEx, WskSendEx and WskReceiveEx stand behind WskRelease, where older tables end: they are refused.
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
    _control: *mut CMSGHDR,
    irp: PIRP,
) -> NTSTATUS {
    reserved("WskSendEx", socket, irp)
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
    reserved("WskReceiveEx", socket, irp)
}

fn reserved(api: &'static str, socket: PWSK_SOCKET, irp: PIRP) -> NTSTATUS {
    Entry::with_irp(api, socket, irp, |entry, request| {
        violation(&rules::RESERVED_FUNCTION, api, "not in every provider's table");
        entry.fail(request, STATUS_NOT_SUPPORTED)
    })
}
