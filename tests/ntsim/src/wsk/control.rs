//! WskControlSocket: options, ioctls, event callbacks, extension registration.

#![allow(non_upper_case_globals, reason = "the enumerators of wsk.h are matched by their names")]

use super::request::{Request, Ticket};
use super::socket::{Category, Entry, Key, Socket, refuse};
use super::{listen, rules};
use crate::sys::nt::{
    GUID, NTSTATUS, PASSIVE_LEVEL, PIRP, STATUS_EVENT_PENDING, STATUS_FILE_FORCED_CLOSED,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER,
    STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, NPI_WSK_INTERFACE_ID, PWSK_SOCKET, SIO_ADDRESS_LIST_CHANGE,
    SIO_ADDRESS_LIST_QUERY, SIO_ADDRESS_LIST_SORT, SIO_WSK_QUERY_IDEAL_SEND_BACKLOG,
    SIO_WSK_QUERY_RECEIVE_BACKLOG, SIO_WSK_REGISTER_EXTENSION, SO_CONDITIONAL_ACCEPT, SO_EXCLUSIVEADDRUSE,
    SO_KEEPALIVE, SO_WSK_EVENT_CALLBACK, SO_WSK_SECURITY, SOL_SOCKET, WSK_CONTROL_SOCKET_TYPE,
    WSK_EVENT_ACCEPT, WSK_EVENT_CALLBACK_CONTROL, WSK_EVENT_DISABLE, WskGetOption, WskIoctl, WskSetOption,
};
use crate::verify::{lock, violation};
use crate::{fault, irql};
use std::ffi::c_void;
use std::ptr::with_exposed_provenance_mut;

const API: &str = "WskControlSocket";
/// `SIO_KEEPALIVE_VALS` of `mstcpip.h`.
const SIO_KEEPALIVE_VALS: u32 = 0x9800_0004;

/// What a call asks for.
#[derive(Clone, Copy)]
struct Operation {
    kind: WSK_CONTROL_SOCKET_TYPE,
    code: u32,
    level: u32,
    input_size: usize,
    input: *mut c_void,
    output_size: usize,
    output: *mut c_void,
}

impl Operation {
    /// The input as a value of exactly its size.
    ///
    /// # Safety
    /// The input is NULL or valid for its size.
    unsafe fn value<T: Copy>(&self) -> Option<T> {
        let fits = self.input_size == size_of::<T>() && !self.input.is_null();
        // SAFETY: the caller's, and as large as it must be.
        fits.then(|| unsafe { self.input.cast::<T>().read_unaligned() })
    }

    /// A flag of four bytes or one, as options are given.
    ///
    /// # Safety
    /// As for [`Operation::value`].
    unsafe fn flag(&self) -> Option<bool> {
        // SAFETY: the caller's.
        let long = unsafe { self.value::<u32>() };
        // SAFETY: the caller's.
        long.or_else(|| unsafe { self.value::<u8>() }.map(u32::from)).map(|value| value != 0)
    }
}

/// WskControlSocket.
pub unsafe extern "system" fn control_socket(
    socket: PWSK_SOCKET,
    kind: WSK_CONTROL_SOCKET_TYPE,
    code: u32,
    level: u32,
    input_size: usize,
    input: *mut c_void,
    output_size: usize,
    output: *mut c_void,
    _returned: *mut usize,
    irp: PIRP,
) -> NTSTATUS {
    let entry = match Entry::begin(API, socket, irp) {
        Ok(entry) => entry,
        Err(status) => return status,
    };
    let operation = Operation { kind, code, level, input_size, input, output_size, output };
    match (kind, level, code) {
        (WskIoctl, _, SIO_WSK_REGISTER_EXTENSION) => {
            if !irp.is_null() {
                let page = "SIO_WSK_REGISTER_EXTENSION";
                violation(&rules::IRP_FORBIDDEN, page, "registering an extension takes no IRP");
                return refuse(&entry.subsystem, API, irp, STATUS_INVALID_PARAMETER);
            }
            // SAFETY: what the driver passed.
            unsafe {
                super::extension::register(&entry, input_size, input.cast(), output_size, output.cast())
            }
        }
        (WskSetOption, SOL_SOCKET, SO_WSK_EVENT_CALLBACK) => {
            // SAFETY: what the driver passed.
            match unsafe { operation.value::<WSK_EVENT_CALLBACK_CONTROL>() } {
                // SAFETY: the structure's page wants an identifier.
                Some(control) if !control.NpiId.is_null() => unsafe { events(&entry, control, irp) },
                _ => refuse(&entry.subsystem, API, irp, STATUS_INVALID_PARAMETER),
            }
        }
        _ => match entry.request(API, irp) {
            // SAFETY: what the driver passed.
            Ok(request) => unsafe { with_irp(&entry, request, operation) },
            Err(status) => status,
        },
    }
}

/// SO_WSK_EVENT_CALLBACK.
///
/// # Safety
/// The control's identifier is valid.
unsafe fn events(entry: &Entry, control: WSK_EVENT_CALLBACK_CONTROL, irp: PIRP) -> NTSTATUS {
    let socket = &entry.socket;
    let disables = control.EventMask & WSK_EVENT_DISABLE != 0;
    let mask = control.EventMask & !WSK_EVENT_DISABLE;
    if !disables && !irp.is_null() {
        violation(&rules::IRP_FORBIDDEN, "SO_WSK_EVENT_CALLBACK", "enabling takes no IRP");
        return refuse(&entry.subsystem, API, irp, STATUS_INVALID_PARAMETER);
    }
    let request = match (!irp.is_null()).then(|| entry.request(API, irp)).transpose() {
        Ok(request) => request,
        Err(status) => return status,
    };
    if request.is_none() && fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the caller's.
    let npi = unsafe { *control.NpiId };
    match switch(socket, npi, mask, disables) {
        Ok(key) if disables => disable(entry, key, request),
        Ok(_) => {
            socket.check_callbacks(API);
            // What arrived before is indicated now.
            socket.kick_receive();
            STATUS_SUCCESS
        }
        Err(status) => match request {
            Some(request) => entry.fail(request, status),
            None => status,
        },
    }
}

/// Enables or disables the events of `mask`, if they can be (page "SO_WSK_EVENT_CALLBACK").
fn switch(socket: &Socket, npi: GUID, mask: u32, disables: bool) -> Result<Key, NTSTATUS> {
    let mut state = lock(&socket.state);
    if state.dead {
        return Err(STATUS_FILE_FORCED_CLOSED);
    }
    if mask == 0 || (disables && !mask.is_power_of_two()) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    if npi != NPI_WSK_INTERFACE_ID {
        let index = state.extensions.iter().position(|extension| extension.npi == npi);
        let index = index.ok_or(STATUS_INVALID_PARAMETER)?;
        // After bind, and after connect, for the events of whatever interface.
        let may = match socket.category {
            Category::Basic => true,
            Category::Listen => state.local.is_some(),
            Category::Connection => state.connection.is_connected(),
        };
        if !may {
            return Err(STATUS_INVALID_DEVICE_STATE);
        }
        if let Some(extension) = state.extensions.get_mut(index) {
            extension.enabled = if disables { extension.enabled & !mask } else { extension.enabled | mask };
        }
        return Ok(Key::Extension(index, mask));
    }
    // What may be enabled: on a listening socket also what it passes on to accepted ones.
    let (valid, may) = match socket.category {
        Category::Basic => (0, true),
        Category::Listen => (WSK_EVENT_ACCEPT | listen::CONNECTION_EVENTS, state.local.is_some()),
        Category::Connection => (listen::CONNECTION_EVENTS, state.connection.is_connected()),
    };
    // "After any connection-oriented event callback functions are enabled on a listening socket, they cannot be
    // disabled on the listening socket."
    let passed_on = socket.category == Category::Listen && mask & listen::CONNECTION_EVENTS != 0;
    if mask & !valid != 0 || (disables && passed_on) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    if !may {
        return Err(STATUS_INVALID_DEVICE_STATE);
    }
    if state.fixed & mask != 0 {
        drop(state);
        violation(&rules::STATIC_FIXED, API, format!("events {mask:#x}"));
        return Err(STATUS_INVALID_PARAMETER);
    }
    state.enabled = if disables { state.enabled & !mask } else { state.enabled | mask };
    Ok(Key::Event(mask))
}

/// Ends a disable: at once, or when the callbacks in progress have returned.
fn disable(entry: &Entry, key: Key, request: Option<Request>) -> NTSTATUS {
    let mut state = lock(&entry.socket.state);
    let busy = Socket::in_progress(&state, key);
    let Some(request) = request else {
        return if busy { STATUS_EVENT_PENDING } else { STATUS_SUCCESS };
    };
    if busy {
        request.mark_pending();
        state.disabling.push((key, request));
        return STATUS_PENDING;
    }
    drop(state);
    request.complete(&entry.subsystem, STATUS_SUCCESS, 0);
    STATUS_SUCCESS
}

/// Operations that need an IRP.
///
/// # Safety
/// The buffers are what the driver passed.
unsafe fn with_irp(entry: &Entry, mut request: Request, operation: Operation) -> NTSTATUS {
    request.lends(operation.input, operation.input_size);
    match operation.kind {
        // SAFETY: the caller's.
        WskSetOption => unsafe { set_option(entry, request, operation) },
        WskGetOption => get_option(entry, request, operation),
        WskIoctl => ioctl(entry, request, operation),
        _ => entry.fail(request, STATUS_INVALID_PARAMETER),
    }
}

/// # Safety
/// The buffers are what the driver passed.
unsafe fn set_option(entry: &Entry, mut request: Request, operation: Operation) -> NTSTATUS {
    let Entry { socket, .. } = entry;
    // SAFETY: the caller's.
    let flag = unsafe { operation.flag() };
    // SAFETY: the caller's.
    let security = unsafe { operation.value::<usize>() };
    let mut state = lock(&socket.state);
    let bound = state.local.is_some();
    let options = &mut state.options;
    let status = match (operation.level, operation.code, flag) {
        (SOL_SOCKET, SO_KEEPALIVE, Some(on)) if socket.category == Category::Connection => {
            options.keep_alive = on;
            STATUS_SUCCESS
        }
        // These decide how the address is taken: before it is.
        (SOL_SOCKET, SO_EXCLUSIVEADDRUSE | SO_CONDITIONAL_ACCEPT | SO_WSK_SECURITY, _)
        | (IPPROTO_IPV6, IPV6_V6ONLY, _)
            if bound =>
        {
            STATUS_INVALID_DEVICE_STATE
        }
        (SOL_SOCKET, SO_EXCLUSIVEADDRUSE, Some(on)) => {
            options.bind.exclusive = on;
            STATUS_SUCCESS
        }
        (SOL_SOCKET, SO_CONDITIONAL_ACCEPT, Some(on)) if socket.category == Category::Listen => {
            options.conditional_accept = on;
            STATUS_SUCCESS
        }
        (IPPROTO_IPV6, IPV6_V6ONLY, Some(on)) if socket.family == crate::sys::wsk::AF_INET6 => {
            options.bind.v6_only = on;
            STATUS_SUCCESS
        }
        (SOL_SOCKET, SO_WSK_SECURITY, _) => match security {
            Some(security) if socket.client.use_security(security) => {
                options.security = security;
                state.security = socket.client.security(security);
                drop(state);
                request.uses_security(security);
                return entry.fail(request, STATUS_SUCCESS);
            }
            found => {
                drop(state);
                violation(&rules::SECURITY_NOT_CACHED, "SO_WSK_SECURITY", format!("{found:x?}"));
                return entry.fail(request, STATUS_INVALID_PARAMETER);
            }
        },
        // The transport's own options change nothing that can be seen here.
        (IPPROTO_TCP, _, Some(_)) => STATUS_SUCCESS,
        (SOL_SOCKET | IPPROTO_IPV6 | IPPROTO_TCP, _, None) => STATUS_INVALID_PARAMETER,
        _ => STATUS_NOT_SUPPORTED,
    };
    drop(state);
    entry.fail(request, status)
}

fn get_option(entry: &Entry, request: Request, operation: Operation) -> NTSTATUS {
    if (operation.level, operation.code) == (SOL_SOCKET, SO_WSK_SECURITY) {
        // A cached copy, which the driver releases; NULL where the default descriptor holds.
        let set = lock(&entry.socket.state).security.clone();
        let copy = set.map_or(0, |security| entry.socket.client.cache_security(&security));
        return give(entry, request, operation, copy);
    }
    let value = {
        let options = lock(&entry.socket.state).options;
        match (operation.level, operation.code) {
            (SOL_SOCKET, SO_KEEPALIVE) => Some(options.keep_alive),
            (SOL_SOCKET, SO_EXCLUSIVEADDRUSE) => Some(options.bind.exclusive),
            (SOL_SOCKET, SO_CONDITIONAL_ACCEPT) => Some(options.conditional_accept),
            (IPPROTO_IPV6, IPV6_V6ONLY) => Some(options.bind.v6_only),
            _ => None,
        }
    };
    match value {
        Some(value) => give(entry, request, operation, u32::from(value)),
        None => entry.fail(request, STATUS_NOT_SUPPORTED),
    }
}

fn ioctl(entry: &Entry, request: Request, operation: Operation) -> NTSTATUS {
    let Entry { subsystem, socket } = entry;
    match operation.code {
        SIO_WSK_QUERY_IDEAL_SEND_BACKLOG | SIO_WSK_QUERY_RECEIVE_BACKLOG => {
            let value = {
                let state = lock(&socket.state);
                let connection = &state.connection;
                let value = if operation.code == SIO_WSK_QUERY_IDEAL_SEND_BACKLOG {
                    connection.ideal_send_backlog()
                } else {
                    connection.receive_backlog()
                };
                connection.is_connected().then_some(value)
            };
            match value {
                Some(value) => give(entry, request, operation, value),
                None => entry.fail(request, STATUS_INVALID_DEVICE_STATE),
            }
        }
        SIO_KEEPALIVE_VALS => entry.fail(request, STATUS_SUCCESS),
        SIO_ADDRESS_LIST_QUERY | SIO_ADDRESS_LIST_SORT => {
            irql::require_at_most("SIO_ADDRESS_LIST_QUERY", PASSIVE_LEVEL);
            entry.fail(request, STATUS_NOT_SUPPORTED)
        }
        SIO_ADDRESS_LIST_CHANGE => {
            irql::require_at_most("SIO_ADDRESS_LIST_CHANGE", PASSIVE_LEVEL);
            // The addresses here never change: it waits until it is cancelled.
            let ticket = Ticket::new(subsystem, request);
            lock(&socket.state).stalled.push(ticket);
            STATUS_PENDING
        }
        _ => entry.fail(request, STATUS_NOT_SUPPORTED),
    }
}

/// Completes a query with its value, written when the IRP is completed.
fn give<T: Copy + Send + 'static>(
    entry: &Entry,
    mut request: Request,
    operation: Operation,
    value: T,
) -> NTSTATUS {
    if operation.output.is_null() || operation.output_size < size_of::<T>() {
        violation(&rules::NULL_OUTPUT, API, format!("{} bytes", operation.output_size));
        return entry.fail(request, STATUS_INVALID_PARAMETER);
    }
    let out = operation.output.expose_provenance();
    request.lends(operation.output, size_of::<T>());
    entry.finish(request, move || {
        // SAFETY: the buffer stays valid until the IRP is completed, which is after this.
        unsafe { with_exposed_provenance_mut::<T>(out).write_unaligned(value) };
        (STATUS_SUCCESS, size_of::<T>())
    })
}
