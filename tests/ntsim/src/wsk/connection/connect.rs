//! The functions that give a socket its addresses: WskBind, WskConnect, WskGetLocalAddress, WskGetRemoteAddress.

use super::super::exec::Part;
use super::super::link::{Link, Notify};
use super::super::request::{Request, Ticket, at};
use super::super::socket::{Category, Entry, Phase, Socket};
use super::super::{Subsystem, address, rules};
use super::Stage;
use crate::sys::nt::{
    NTSTATUS, PIRP, STATUS_ADDRESS_ALREADY_ASSOCIATED, STATUS_CONNECTION_ABORTED,
    STATUS_INVALID_ADDRESS_COMPONENT, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    STATUS_SUCCESS,
};
use crate::sys::wsk::{PSOCKADDR, PWSK_SOCKET};
use crate::verify::{lock, violation};
use std::net::SocketAddr;
use std::ptr::with_exposed_provenance_mut;
use std::sync::{Arc, Mutex, Weak};

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
    Entry::with_irp(API, socket, irp, |entry, mut request| {
        request.lends(local, address::size(entry.socket.family));
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
    Entry::with_irp(API, socket, irp, |entry, mut request| {
        request.lends(remote, address::size(entry.socket.family));
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
    let lane = socket.lane(Part::Control);
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
    mut request: Request,
    address: Option<SocketAddr>,
    out: PSOCKADDR,
) -> NTSTATUS {
    let Some(address) = address else { return entry.fail(request, STATUS_INVALID_DEVICE_STATE) };
    if out.is_null() {
        violation(&rules::NULL_OUTPUT, api, "no buffer for the address");
        return entry.fail(request, STATUS_INVALID_PARAMETER);
    }
    let (family, out) = (entry.socket.family, out.expose_provenance());
    request.lends(with_exposed_provenance_mut::<u8>(out), address::size(family));
    entry.finish(request, move || {
        // SAFETY: the buffer stays valid until the IRP is completed, which is after this.
        unsafe { address::write(address, family, with_exposed_provenance_mut(out)) };
        (STATUS_SUCCESS, 0)
    })
}
