//! The functions of WSK_PROVIDER_DISPATCH.

use super::address;
use super::connection::{bind_to, connect_to};
use super::context::{self, Doing};
use super::exec::{Lane, Part};
use super::listen::CONNECTION_EVENTS;
use super::registration::{Client, supports};
use super::request::{Owner, Request, Ticket};
use super::socket::{Category, Entry, Socket, refuse};
use super::{Subsystem, current, rules};
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, NTSTATUS, PIRP, STATUS_BUFFER_OVERFLOW, STATUS_DEVICE_NOT_READY,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER, STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
    UNICODE_STRING,
};
use crate::sys::wsk::{
    ADDRESS_FAMILY, ADDRINFOEXW, AF_INET, AF_INET6, IPPROTO_TCP, NPI_WSK_INTERFACE_ID, PEPROCESS, PETHREAD,
    PSECURITY_DESCRIPTOR, PSOCKADDR, PWSK_CLIENT, SOCK_STREAM, WSK_CACHE_SD, WSK_CLIENT_CONNECTION_DISPATCH,
    WSK_EVENT_ACCEPT, WSK_EVENT_CALLBACK_CONTROL, WSK_FLAG_BASIC_SOCKET, WSK_FLAG_CONNECTION_SOCKET,
    WSK_FLAG_LISTEN_SOCKET, WSK_PROVIDER_DISPATCH, WSK_RELEASE_SD, WSK_SET_STATIC_EVENT_CALLBACKS,
    WSK_TDI_BEHAVIOR, WSK_TDI_DEVICENAME_MAPPING, WSK_TRANSPORT, WSK_TRANSPORT_LIST_CHANGE,
    WSK_TRANSPORT_LIST_QUERY,
};
use crate::verify::{lock, violation};
use crate::{fault, irql};
use std::ffi::c_void;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::Arc;

pub fn dispatch(version: u16) -> WSK_PROVIDER_DISPATCH {
    WSK_PROVIDER_DISPATCH {
        Version: version,
        Reserved: 0,
        WskSocket: Some(socket),
        WskSocketConnect: Some(socket_connect),
        WskControlClient: Some(control_client),
        WskGetAddressInfo: Some(get_address_info),
        WskFreeAddressInfo: Some(free_address_info),
        WskGetNameInfo: Some(get_name_info),
    }
}

/// A call of one of these functions, from its entry to its return.
struct Call {
    subsystem: Arc<Subsystem>,
    client: Arc<Client>,
}

impl Call {
    fn begin(api: &'static str, client: PWSK_CLIENT, irp: PIRP) -> Result<Self, NTSTATUS> {
        irql::require_at_most(api, DISPATCH_LEVEL);
        let Some(subsystem) = current() else { return Err(STATUS_DEVICE_NOT_READY) };
        if subsystem.config.unimplemented.contains(&api) {
            return Err(STATUS_NOT_IMPLEMENTED);
        }
        if let Some(Doing::Completion(of)) = context::current() {
            violation(&rules::IN_COMPLETION, api, format!("called from the completion routine of {of}"));
        }
        let found = lock(&subsystem.clients).get(&client.addr()).cloned();
        let Some(client) = found else {
            violation(&rules::NOT_A_CLIENT, api, format!("{client:p}"));
            return Err(refuse(&subsystem, api, irp, STATUS_INVALID_HANDLE));
        };
        if client.call_begins() {
            return Ok(Self { subsystem, client });
        }
        client.call_ends();
        violation(&rules::NO_CAPTURE, api, "called after WskReleaseProviderNPI");
        Err(refuse(&subsystem, api, irp, STATUS_DEVICE_NOT_READY))
    }

    fn request(&self, api: &'static str, irp: PIRP) -> Result<Request, NTSTATUS> {
        let owner = Owner::Client(Arc::clone(&self.client));
        let request = Request::begin(api, irp, owner).ok_or(STATUS_INVALID_PARAMETER)?;
        if self.subsystem.config.stalled.contains(&api) {
            self.client.add_list_change(Ticket::new(&self.subsystem, request));
            return Err(STATUS_PENDING);
        }
        if fault::fail(api) {
            return Err(self.fail(request, STATUS_INSUFFICIENT_RESOURCES));
        }
        Ok(request)
    }

    fn finish(
        &self,
        request: Request,
        outcome: impl FnOnce() -> (NTSTATUS, usize) + Send + 'static,
    ) -> NTSTATUS {
        self.subsystem.finish(Lane(self.client.id, Part::Control), request, outcome)
    }

    fn fail(&self, request: Request, status: NTSTATUS) -> NTSTATUS {
        self.finish(request, move || (status, 0))
    }

    /// Notes the use of a security descriptor for a request, which must be a cached one.
    fn use_security(&self, api: &'static str, security: PSECURITY_DESCRIPTOR) -> bool {
        let known = security.is_null() || self.client.use_security(security.addr());
        if !known {
            violation(&rules::SECURITY_NOT_CACHED, api, format!("{security:p}"));
        }
        known
    }

    fn make(
        &self,
        category: Category,
        family: ADDRESS_FAMILY,
        context: usize,
        dispatch: usize,
        security: usize,
    ) -> Arc<Socket> {
        let socket = Socket::new(&self.subsystem, &self.client, category, family, context, dispatch);
        let mask = match category {
            Category::Basic => 0,
            // A listening socket's own, and what it passes on to what it accepts by event.
            Category::Listen => WSK_EVENT_ACCEPT | CONNECTION_EVENTS,
            Category::Connection => CONNECTION_EVENTS,
        };
        {
            let mut state = lock(&socket.state);
            state.fixed = self.client.static_events() & mask;
            state.options.security = security;
            state.security = self.client.security(security);
        }
        socket
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.client.call_ends();
    }
}

/// WskSocket.
unsafe extern "system" fn socket(
    client: PWSK_CLIENT,
    family: ADDRESS_FAMILY,
    kind: u16,
    protocol: u32,
    flags: u32,
    context: *mut c_void,
    table: *const c_void,
    _process: PEPROCESS,
    _thread: PETHREAD,
    security: PSECURITY_DESCRIPTOR,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskSocket";
    let call = match Call::begin(API, client, irp) {
        Ok(call) => call,
        Err(status) => return status,
    };
    let mut request = match call.request(API, irp) {
        Ok(request) => request,
        Err(status) => return status,
    };
    let category = match flags {
        WSK_FLAG_BASIC_SOCKET => Category::Basic,
        WSK_FLAG_LISTEN_SOCKET => Category::Listen,
        WSK_FLAG_CONNECTION_SOCKET => Category::Connection,
        _ => return call.fail(request, STATUS_NOT_SUPPORTED),
    };
    let stream = kind == SOCK_STREAM && protocol == IPPROTO_TCP;
    if !supports(family) || (category != Category::Basic && !stream) {
        return call.fail(request, STATUS_NOT_SUPPORTED);
    }
    if category == Category::Basic && !(context.is_null() && table.is_null()) {
        violation(&rules::BASIC_CONTEXT, API, format!("context {context:p}, dispatch {table:p}"));
    }
    if !call.use_security(API, security) {
        return call.fail(request, STATUS_INVALID_PARAMETER);
    }
    let socket =
        call.make(category, family, context.expose_provenance(), table.expose_provenance(), security.addr());
    request.uses_security(security.addr());
    let handle = socket.handle().expose_provenance();
    call.finish(request, move || (STATUS_SUCCESS, handle))
}

/// WskSocketConnect.
unsafe extern "system" fn socket_connect(
    client: PWSK_CLIENT,
    kind: u16,
    protocol: u32,
    local: PSOCKADDR,
    remote: PSOCKADDR,
    flags: u32,
    context: *mut c_void,
    table: *const WSK_CLIENT_CONNECTION_DISPATCH,
    _process: PEPROCESS,
    _thread: PETHREAD,
    security: PSECURITY_DESCRIPTOR,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskSocketConnect";
    let call = match Call::begin(API, client, irp) {
        Ok(call) => call,
        Err(status) => return status,
    };
    let mut request = match call.request(API, irp) {
        Ok(request) => request,
        Err(status) => return status,
    };
    if local.is_null() || remote.is_null() {
        violation(&rules::NULL_ADDRESS, API, "local or remote");
        return call.fail(request, STATUS_INVALID_PARAMETER);
    }
    // SAFETY: not NULL; every SOCKADDR starts with its family.
    let family = unsafe { (*local).sa_family };
    // SAFETY: a structure of the family that it names.
    let from = unsafe { address::read(local, family) };
    // SAFETY: the same.
    let to = unsafe { address::read(remote, family) };
    let (Some(from), Some(to)) = (from, to) else { return call.fail(request, STATUS_INVALID_PARAMETER) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP || flags != 0 {
        return call.fail(request, STATUS_NOT_SUPPORTED);
    }
    if !call.use_security(API, security) {
        return call.fail(request, STATUS_INVALID_PARAMETER);
    }
    let socket = call.make(
        Category::Connection,
        family,
        context.expose_provenance(),
        table.expose_provenance(),
        security.addr(),
    );
    request.uses_security(security.addr());
    let entry = Entry::internal(&call.subsystem, &socket);
    match bind_to(&entry, from) {
        Ok(()) => connect_to(&entry, request, to, true),
        Err(status) => {
            socket.discard(&call.subsystem);
            call.fail(request, status)
        }
    }
}

/// WskControlClient.
unsafe extern "system" fn control_client(
    client: PWSK_CLIENT,
    code: u32,
    input_size: usize,
    input: *mut c_void,
    output_size: usize,
    output: *mut c_void,
    returned: *mut usize,
    irp: PIRP,
) -> NTSTATUS {
    const API: &str = "WskControlClient";
    let call = match Call::begin(API, client, irp) {
        Ok(call) => call,
        Err(status) => return status,
    };
    if code == WSK_TRANSPORT_LIST_CHANGE {
        return match call.request(API, irp) {
            Ok(request) => {
                call.client.add_list_change(Ticket::new(&call.subsystem, request));
                STATUS_PENDING
            }
            Err(status) => status,
        };
    }
    if !irp.is_null() {
        violation(&rules::IRP_FORBIDDEN, API, format!("control code {code}"));
        return refuse(&call.subsystem, API, irp, STATUS_INVALID_PARAMETER);
    }
    // What gives something back needs nothing for it.
    if code != WSK_RELEASE_SD && fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    match code {
        // SAFETY: what the driver passed, as the page of the code has it.
        WSK_SET_STATIC_EVENT_CALLBACKS => unsafe { set_static(&call, input_size, input.cast()) },
        // SAFETY: the same.
        WSK_TRANSPORT_LIST_QUERY => unsafe { list_transports(output_size, output.cast(), returned) },
        WSK_CACHE_SD if input_size == size_of::<usize>() && output_size == size_of::<usize>() => {
            // SAFETY: the page wants pointers to pointer-sized variables.
            unsafe { cache_security(&call, input.cast(), output.cast()) }
        }
        WSK_RELEASE_SD if input_size == size_of::<usize>() && !input.is_null() => {
            // SAFETY: a pointer-sized variable.
            let address = unsafe { *input.cast::<usize>() };
            match call.client.release_security(address) {
                Some(true) => STATUS_SUCCESS,
                Some(false) => {
                    violation(&rules::SECURITY_RELEASED_EARLY, API, format!("{address:#x}"));
                    STATUS_SUCCESS
                }
                None => {
                    violation(&rules::SECURITY_NOT_CACHED, API, format!("{address:#x}"));
                    STATUS_INVALID_PARAMETER
                }
            }
        }
        // Both only before any socket; there are no TDI transports here to divert to.
        WSK_TDI_BEHAVIOR | WSK_TDI_DEVICENAME_MAPPING => {
            if call.client.had_sockets() {
                STATUS_INVALID_DEVICE_STATE
            } else {
                STATUS_SUCCESS
            }
        }
        WSK_CACHE_SD | WSK_RELEASE_SD => STATUS_INVALID_PARAMETER,
        _ => STATUS_NOT_SUPPORTED,
    }
}

/// Page "WSK_SET_STATIC_EVENT_CALLBACKS".
///
/// # Safety
/// `input` is NULL or valid for `size` bytes.
unsafe fn set_static(call: &Call, size: usize, input: *const WSK_EVENT_CALLBACK_CONTROL) -> NTSTATUS {
    if size != size_of::<WSK_EVENT_CALLBACK_CONTROL>() || input.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: as large as it must be.
    let control = unsafe { *input };
    // SAFETY: NULL or an identifier, says the structure's page.
    let is_wsk = !control.NpiId.is_null() && unsafe { *control.NpiId } == NPI_WSK_INTERFACE_ID;
    if !is_wsk || control.EventMask & crate::sys::wsk::WSK_EVENT_DISABLE != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    if call.client.had_sockets() {
        violation(&rules::STATIC_AFTER_SOCKET, "WskControlClient", "the client has created sockets");
        return STATUS_INVALID_DEVICE_STATE;
    }
    call.client.set_static_events(control.EventMask);
    STATUS_SUCCESS
}

/// Page "WSK_TRANSPORT_LIST_QUERY".
///
/// # Safety
/// `output` is NULL or valid for `size` bytes; `returned` is NULL or valid.
unsafe fn list_transports(size: usize, output: *mut WSK_TRANSPORT, returned: *mut usize) -> NTSTATUS {
    let list = [AF_INET, AF_INET6].map(|family| WSK_TRANSPORT {
        Version: 0x0100,
        SocketType: SOCK_STREAM,
        Protocol: IPPROTO_TCP,
        AddressFamily: family,
        ProviderId: GUID { Data1: 0, Data2: 0, Data3: 0, Data4: [0; 8] },
    });
    if returned.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL.
    unsafe { *returned = size_of_val(&list) };
    if size < size_of_val(&list) || output.is_null() {
        return STATUS_BUFFER_OVERFLOW;
    }
    // SAFETY: large enough, and the driver's own.
    unsafe { output.copy_from_nonoverlapping(list.as_ptr(), list.len()) };
    STATUS_SUCCESS
}

/// Page "WSK_CACHE_SD".
///
/// # Safety
/// Both are NULL or valid for a pointer.
unsafe fn cache_security(
    call: &Call,
    input: *const PSECURITY_DESCRIPTOR,
    output: *mut PSECURITY_DESCRIPTOR,
) -> NTSTATUS {
    if input.is_null() || output.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL.
    let given = unsafe { *input };
    // SAFETY: the page wants a descriptor there.
    let Some(security) = (unsafe { read_security(given.cast()) }) else {
        violation(&rules::SECURITY_INVALID, "WskControlClient", format!("{given:p}"));
        return STATUS_INVALID_PARAMETER;
    };
    let cached = with_exposed_provenance_mut(call.client.cache_security(&security));
    // SAFETY: not NULL.
    unsafe { *output = cached };
    STATUS_SUCCESS
}

/// The bytes of a self-relative security descriptor (pages "SECURITY_DESCRIPTOR", "ACL", "SID"). `None` if it is none.
///
/// # Safety
/// `at` is NULL or points to a security descriptor.
unsafe fn read_security(at: *const u8) -> Option<Vec<u8>> {
    const REVISION: u8 = 1;
    const SELF_RELATIVE: u16 = 0x8000;
    const HEADER: usize = 20;
    if at.is_null() {
        return None;
    }
    // SAFETY: every descriptor has the header.
    let header = unsafe { at.cast::<[u8; HEADER]>().read() };
    let control = u16::from_le_bytes([header[2], header[3]]);
    if header[0] != REVISION || control & SELF_RELATIVE == 0 {
        return None;
    }
    let mut end = HEADER;
    for (field, is_list) in [(4, false), (8, false), (12, true), (16, true)] {
        let offset: [u8; 4] = header.get(field..field + 4)?.try_into().ok()?;
        let offset = usize::try_from(u32::from_le_bytes(offset)).ok()?;
        if offset != 0 {
            let part = at.wrapping_add(offset);
            // SAFETY: an offset of the descriptor leads to a SID or an ACL, both of four bytes at least.
            let start = unsafe { part.cast::<[u8; 4]>().read() };
            let length = if is_list {
                usize::from(u16::from_le_bytes([start[2], start[3]]))
            } else {
                8 + 4 * usize::from(start[1])
            };
            end = end.max(offset + length);
        }
    }
    // SAFETY: up to the end of its last part.
    Some(unsafe { std::slice::from_raw_parts(at, end) }.to_vec())
}

/// WskGetAddressInfo: there is no resolver here.
unsafe extern "system" fn get_address_info(
    client: PWSK_CLIENT,
    _node: *mut UNICODE_STRING,
    _service: *mut UNICODE_STRING,
    _namespace: u32,
    _provider: *mut GUID,
    _hints: *mut ADDRINFOEXW,
    result: *mut *mut ADDRINFOEXW,
    _process: PEPROCESS,
    _thread: PETHREAD,
    irp: PIRP,
) -> NTSTATUS {
    if !result.is_null() {
        // SAFETY: not NULL; what the driver passed.
        unsafe { *result = null_mut() };
    }
    unresolved("WskGetAddressInfo", client, irp)
}

unsafe extern "system" fn get_name_info(
    client: PWSK_CLIENT,
    _address: PSOCKADDR,
    _length: u32,
    _node: *mut UNICODE_STRING,
    _service: *mut UNICODE_STRING,
    _flags: u32,
    _process: PEPROCESS,
    _thread: PETHREAD,
    irp: PIRP,
) -> NTSTATUS {
    unresolved("WskGetNameInfo", client, irp)
}

fn unresolved(api: &'static str, client: PWSK_CLIENT, irp: PIRP) -> NTSTATUS {
    let call = match Call::begin(api, client, irp) {
        Ok(call) => call,
        Err(status) => return status,
    };
    match call.request(api, irp) {
        Ok(request) => call.fail(request, STATUS_NOT_SUPPORTED),
        Err(status) => status,
    }
}

unsafe extern "system" fn free_address_info(client: PWSK_CLIENT, _info: *mut ADDRINFOEXW) {
    // Nothing was ever given out: only the checks of any call remain.
    drop(Call::begin("WskFreeAddressInfo", client, null_mut()));
}
