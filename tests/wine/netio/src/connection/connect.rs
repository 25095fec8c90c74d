//! WskBind and WskConnect of connection sockets, and what WskSocketConnect does of both.

use super::{Link, Stage, set_options, status_of};
use crate::address;
use crate::listen;
use crate::reactor::{Ready, Watch};
use crate::request::{Irp, Request, Ticket};
use crate::socket::{Entry, Phase, Socket};
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{PSOCKADDR, PWSK_SOCKET};
use crate::winsock::Failure;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::net::SocketAddr;

/// A connect under way.
pub(super) struct Connecting {
    pub(super) ticket: Arc<Ticket>,
    remote: SocketAddr,
    /// It is WskSocketConnect's: the IRP brings the socket, or there is none.
    makes: bool,
}

/// WskBind of a connection socket.
pub unsafe extern "system" fn bind(socket: PWSK_SOCKET, local: PSOCKADDR, flags: u32, irp: PIRP) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp("WskBind", socket, irp, |entry, request| {
        // SAFETY: what the client passed, as the page has it.
        let at = unsafe { address::read(local, entry.socket.family) };
        let Some(at) = at.filter(|_| flags == 0) else {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        };
        let status = match bind_to(&entry.socket, at) {
            Ok(()) => STATUS_SUCCESS,
            Err(status) => status,
        };
        request.finish(status, 0)
    })
}

pub fn bind_to(socket: &Arc<Socket>, at: SocketAddr) -> Result<(), NTSTATUS> {
    let mut state = socket.state();
    if state.connection.stage != Stage::Unbound {
        return Err(STATUS_INVALID_DEVICE_STATE);
    }
    let bound = listen::bound(&state, at).map_err(status_of)?;
    set_options(&state, &bound);
    state.local = Some(bound.local().map_err(status_of)?);
    let bound = Arc::new(bound);
    let whom: Weak<Socket> = Arc::downgrade(socket);
    let watch = Watch::new(&bound, whom as Weak<dyn Ready>);
    state.connection.link = Some(Link { watch, socket: bound });
    state.connection.stage = Stage::Bound;
    Ok(())
}

/// WskConnect.
pub unsafe extern "system" fn connect(
    socket: PWSK_SOCKET,
    remote: PSOCKADDR,
    flags: u32,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Entry::with_irp("WskConnect", socket, irp, |entry, request| {
        // SAFETY: what the client passed, as the page has it.
        let to = unsafe { address::read(remote, entry.socket.family) };
        let Some(to) = to.filter(|_| flags == 0) else {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        };
        attempt(&entry.socket, request, to, false)
    })
}

/// Begins to connect a bound socket. With `makes`, a socket that cannot be connected is closed, and one that is
/// arrives in the IRP.
pub fn attempt(socket: &Arc<Socket>, request: Request, to: SocketAddr, makes: bool) -> NTSTATUS {
    let status = {
        let mut state = socket.state();
        let begun = match (&state.connection.link, state.connection.stage) {
            (Some(link), Stage::Bound) => match link.socket.connect(to) {
                Ok(()) | Err(Failure::WouldBlock) => STATUS_SUCCESS,
                Err(Failure::Status(status)) => status,
            },
            _ => STATUS_INVALID_DEVICE_STATE,
        };
        if begun == STATUS_SUCCESS {
            state.connection.stage = Stage::Connecting;
        }
        begun
    };
    if status != STATUS_SUCCESS {
        if makes {
            socket.discard();
        }
        return request.finish(status, 0);
    }
    let whose = Arc::clone(socket);
    let ticket = Ticket::with_cancel(request, Box::new(move || whose.kick_send()));
    let connecting = Connecting { ticket, remote: to, makes };
    socket.state().connection.connecting = Some(connecting);
    socket.kick_send();
    STATUS_PENDING
}

impl Socket {
    /// Looks what a connect has come to. False while it is under way, or when it has failed.
    pub(super) fn advance_connect(&self) -> bool {
        let (done, failed) = {
            let mut state = self.state();
            if state.phase != Phase::Open || state.dead {
                return false;
            }
            let connection = &mut state.connection;
            if connection.stage != Stage::Connecting {
                return connection.stage == Stage::Connected;
            }
            let (Some(link), Some(connecting)) = (&connection.link, connection.connecting.take()) else {
                return false;
            };
            if connecting.ticket.is_taken() {
                // Cancelled: the socket is of no use any more.
                connection.link = None;
                connection.stage = Stage::Bound;
                drop(state);
                if connecting.makes {
                    self.discard();
                }
                return false;
            }
            let failed = match link.socket.connected() {
                Err(Failure::WouldBlock) => {
                    link.watch.want_write();
                    connection.connecting = Some(connecting);
                    return false;
                }
                Ok(()) => None,
                Err(Failure::Status(status)) => Some(status),
            };
            if failed.is_none() {
                connection.stage = Stage::Connected;
                let local = link.socket.local().ok();
                state.local = local.or(state.local);
                state.remote = Some(connecting.remote);
            } else {
                connection.link = None;
                connection.stage = Stage::Bound;
            }
            (connecting, failed)
        };
        let Connecting { ticket, makes, .. } = done;
        match failed {
            None => {
                if makes {
                    self.enable_static();
                }
                ticket.complete(STATUS_SUCCESS, if makes { self.handle().expose_provenance() } else { 0 });
                self.kick_receive();
                true
            }
            Some(status) => {
                if makes {
                    self.discard();
                }
                ticket.complete(status, 0);
                false
            }
        }
    }
}
