//! WskControlSocket: options, ioctls, event callbacks, extension registration.
//!
//! Pages PFN_WSK_CONTROL_SOCKET, "SO_WSK_EVENT_CALLBACK", "SIO_WSK_REGISTER_EXTENSION", "WSK Socket IOCTL Operations".

#![allow(non_upper_case_globals, reason = "the enumerators of wsk.h are matched by their names")]

use crate::extension;
use crate::report::violation;
use crate::request::{Irp, Request, Ticket};
use crate::socket::{CONNECTION_EVENTS, Category, Entry, Key, State};
use crate::sys::nt::{
    GUID, NTSTATUS, PIRP, STATUS_EVENT_PENDING, STATUS_FILE_FORCED_CLOSED, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    AF_INET6, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, NPI_WSK_INTERFACE_ID, PWSK_SOCKET,
    SIO_ADDRESS_LIST_CHANGE, SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, SIO_WSK_QUERY_RECEIVE_BACKLOG,
    SIO_WSK_REGISTER_EXTENSION, SO_EXCLUSIVEADDRUSE, SO_KEEPALIVE, SO_WSK_EVENT_CALLBACK, SOL_SOCKET,
    WSK_CONTROL_SOCKET_TYPE, WSK_EVENT_ACCEPT, WSK_EVENT_CALLBACK_CONTROL, WSK_EVENT_DISABLE, WskGetOption,
    WskIoctl, WskSetOption,
};
use core::ffi::c_void;
use windows_sys::Win32::Networking::WinSock;

const API: &str = "WskControlSocket";
const TCP_NODELAY: u32 = WinSock::TCP_NODELAY.cast_unsigned();

/// What a call asks for.
#[derive(Clone, Copy)]
struct Operation {
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

    /// A flag of four bytes, or of one.
    ///
    /// # Safety
    /// As for [`Operation::value`].
    unsafe fn flag(&self) -> Option<bool> {
        // SAFETY: the caller's.
        let long = unsafe { self.value::<u32>() };
        // SAFETY: the caller's.
        let byte = unsafe { self.value::<u8>() };
        long.or(byte.map(u32::from)).map(|value| value != 0)
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
    returned: *mut usize,
    irp: PIRP,
) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    let entry = match Entry::begin(API, socket, irp) {
        Ok(entry) => entry,
        Err(status) => return status,
    };
    let operation = Operation { code, level, input_size, input, output_size, output };
    match (kind, level, code) {
        (WskIoctl, _, SIO_WSK_REGISTER_EXTENSION) => {
            if !irp.is_null() || !returned.is_null() {
                violation!("SIO_WSK_REGISTER_EXTENSION", "takes neither an IRP nor OutputSizeReturned");
                return entry.refuse(API, irp, STATUS_INVALID_PARAMETER);
            }
            // SAFETY: what the client passed.
            unsafe { extension::register(&entry, input_size, input.cast(), output_size, output.cast()) }
        }
        (WskSetOption, SOL_SOCKET, SO_WSK_EVENT_CALLBACK) => {
            // SAFETY: what the client passed.
            match unsafe { operation.value::<WSK_EVENT_CALLBACK_CONTROL>() } {
                Some(control) if !control.NpiId.is_null() => {
                    // SAFETY: not NULL: an identifier, says the structure's page.
                    let npi = unsafe { *control.NpiId };
                    events(&entry, npi, control.EventMask, irp)
                }
                _ => entry.refuse(API, irp, STATUS_INVALID_PARAMETER),
            }
        }
        _ => {
            let request = match entry.request(API, irp) {
                Ok(request) => request,
                Err(status) => return status,
            };
            match kind {
                // SAFETY: what the client passed.
                WskSetOption => unsafe { set_option(&entry, request, operation) },
                // SAFETY: the same.
                WskGetOption => unsafe { get_option(&entry, request, operation) },
                // SAFETY: the same.
                WskIoctl => unsafe { ioctl(&entry, request, operation) },
                _ => request.finish(STATUS_INVALID_PARAMETER, 0),
            }
        }
    }
}

/// SO_WSK_EVENT_CALLBACK.
fn events(entry: &Entry, npi: GUID, mask: u32, irp: Irp) -> NTSTATUS {
    let disables = mask & WSK_EVENT_DISABLE != 0;
    let mask = mask & !WSK_EVENT_DISABLE;
    if !disables && !irp.is_null() {
        violation!("SO_WSK_EVENT_CALLBACK", "enabling takes no IRP");
        return entry.refuse(API, irp, STATUS_INVALID_PARAMETER);
    }
    let switched = switch(&mut entry.socket.state(), entry.socket.category, npi, mask, disables);
    let key = match switched {
        Ok(key) => key,
        Err(status) => return entry.refuse(API, irp, status),
    };
    if !disables {
        match key {
            Key::Event(_) => {
                // What arrived before is indicated now.
                entry.socket.kick_receive();
            }
            Key::Extension(index, _) => extension::enabled(&entry.socket, index),
        }
        return STATUS_SUCCESS;
    }
    if irp.is_null() {
        let busy = entry.socket.state().callbacks.contains(&key);
        return if busy { STATUS_EVENT_PENDING } else { STATUS_SUCCESS };
    }
    let request = match entry.request(API, irp) {
        Ok(request) => request,
        Err(status) => return status,
    };
    let mut state = entry.socket.state();
    if state.callbacks.contains(&key) {
        request.mark_pending();
        state.disabling.push((key, request));
        return STATUS_PENDING;
    }
    drop(state);
    request.complete(STATUS_SUCCESS, 0);
    STATUS_SUCCESS
}

/// Enables or disables the events of `mask`, if they can be.
fn switch(
    state: &mut State,
    category: Category,
    npi: GUID,
    mask: u32,
    disables: bool,
) -> Result<Key, NTSTATUS> {
    if state.dead {
        return Err(STATUS_FILE_FORCED_CLOSED);
    }
    // "Only one event can be disabled at a time."
    if mask == 0 || (disables && !mask.is_power_of_two()) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let change = |enabled: u32| if disables { enabled & !mask } else { enabled | mask };
    if npi != NPI_WSK_INTERFACE_ID {
        let index = state.extensions.iter().position(|extension| extension.npi == npi);
        let index = index.ok_or(STATUS_INVALID_PARAMETER)?;
        if let Some(extension) = state.extensions.get_mut(index) {
            extension.enabled = change(extension.enabled);
        }
        return Ok(Key::Extension(index, mask));
    }
    // What may be enabled: on a listening socket also what it passes on to accepted ones.
    let (valid, may) = match category {
        Category::Basic => (0, true),
        Category::Listen => (WSK_EVENT_ACCEPT | CONNECTION_EVENTS, state.local.is_some()),
        Category::Connection => (CONNECTION_EVENTS, state.connection.is_connected()),
    };
    // "After any connection-oriented event callback functions are enabled on a listening socket, they cannot be
    // disabled on the listening socket."
    let passed_on = category == Category::Listen && mask & CONNECTION_EVENTS != 0;
    if mask & !valid != 0 || (disables && passed_on) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    if !may {
        return Err(STATUS_INVALID_DEVICE_STATE);
    }
    if state.fixed & mask != 0 {
        violation!("SO_WSK_EVENT_CALLBACK", "events {mask:#x} are static");
        return Err(STATUS_INVALID_PARAMETER);
    }
    state.enabled = change(state.enabled);
    Ok(Key::Event(mask))
}

/// # Safety
/// The buffers are what the client passed.
unsafe fn set_option(entry: &Entry, request: Request, operation: Operation) -> NTSTATUS {
    // SAFETY: the caller's.
    let Some(on) = (unsafe { operation.flag() }) else { return request.finish(STATUS_INVALID_PARAMETER, 0) };
    let status = {
        let mut state = entry.socket.state();
        let bound = state.local.is_some();
        match (operation.level, operation.code) {
            // These decide how the address is taken: before it is.
            (SOL_SOCKET, SO_EXCLUSIVEADDRUSE) | (IPPROTO_IPV6, IPV6_V6ONLY) if bound => {
                STATUS_INVALID_DEVICE_STATE
            }
            (SOL_SOCKET, SO_EXCLUSIVEADDRUSE) => {
                state.options.exclusive = on;
                STATUS_SUCCESS
            }
            (IPPROTO_IPV6, IPV6_V6ONLY) if entry.socket.family == AF_INET6 => {
                state.options.v6_only = on;
                STATUS_SUCCESS
            }
            (SOL_SOCKET, SO_KEEPALIVE) if entry.socket.category == Category::Connection => {
                state.options.keep_alive = on;
                pass_on(&state, operation, on)
            }
            (IPPROTO_TCP, TCP_NODELAY) if entry.socket.category == Category::Connection => {
                state.options.no_delay = on;
                pass_on(&state, operation, on)
            }
            _ => STATUS_NOT_SUPPORTED,
        }
    };
    request.finish(status, 0)
}

/// Sets an option on Winsock's socket, if there is one already.
fn pass_on(state: &State, operation: Operation, on: bool) -> NTSTATUS {
    let Some(socket) = state.connection.winsock() else { return STATUS_SUCCESS };
    match socket.set_option(operation.level, operation.code, &u32::from(on).to_ne_bytes()) {
        Ok(()) => STATUS_SUCCESS,
        Err(_) => STATUS_NOT_SUPPORTED,
    }
}

/// # Safety
/// The buffers are what the client passed.
unsafe fn get_option(entry: &Entry, request: Request, operation: Operation) -> NTSTATUS {
    let options = entry.socket.state().options;
    let value = match (operation.level, operation.code) {
        (SOL_SOCKET, SO_EXCLUSIVEADDRUSE) => options.exclusive,
        (SOL_SOCKET, SO_KEEPALIVE) => options.keep_alive,
        (IPPROTO_IPV6, IPV6_V6ONLY) => options.v6_only,
        (IPPROTO_TCP, TCP_NODELAY) => options.no_delay,
        _ => return request.finish(STATUS_NOT_SUPPORTED, 0),
    };
    // SAFETY: the caller's.
    unsafe { give(request, operation, u32::from(value)) }
}

/// # Safety
/// The buffers are what the client passed.
unsafe fn ioctl(entry: &Entry, request: Request, operation: Operation) -> NTSTATUS {
    match operation.code {
        SIO_WSK_QUERY_IDEAL_SEND_BACKLOG | SIO_WSK_QUERY_RECEIVE_BACKLOG => {
            let value = {
                let state = entry.socket.state();
                let connection = &state.connection;
                let value = if operation.code == SIO_WSK_QUERY_IDEAL_SEND_BACKLOG {
                    connection.ideal_send_backlog()
                } else {
                    connection.receive_backlog()
                };
                connection.is_connected().then_some(value)
            };
            match value {
                // SAFETY: the caller's.
                Some(value) => unsafe { give(request, operation, value) },
                None => request.finish(STATUS_INVALID_DEVICE_STATE, 0),
            }
        }
        SIO_ADDRESS_LIST_CHANGE => {
            // The addresses here never change: it waits until it is cancelled.
            let ticket = Ticket::new(request);
            entry.socket.state().waiting.push(ticket);
            STATUS_PENDING
        }
        _ => request.finish(STATUS_NOT_SUPPORTED, 0),
    }
}

/// Completes a query with its value.
///
/// # Safety
/// The output is NULL or valid for its size until the request is completed.
unsafe fn give<T: Copy>(request: Request, operation: Operation, value: T) -> NTSTATUS {
    if operation.output.is_null() || operation.output_size < size_of::<T>() {
        violation!(API, "{} bytes for the output of {:#x}", operation.output_size, operation.code);
        return request.finish(STATUS_INVALID_PARAMETER, 0);
    }
    // SAFETY: the caller's, and large enough.
    unsafe { operation.output.cast::<T>().write_unaligned(value) };
    request.finish(STATUS_SUCCESS, size_of::<T>())
}
