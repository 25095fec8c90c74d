//! The functions of the provider's own table: WskSocket, WskSocketConnect, WskControlClient, name resolution.

use crate::address;
use crate::connection;
use crate::fault::{FAULTS, Fate};
use crate::registration::{self, Client, VERSION};
use crate::report::violation;
use crate::request::{Irp, Owner, Request, Ticket};
use crate::security;
use crate::socket::{Category, Socket};
use crate::sys::nt::{
    GUID, NTSTATUS, PIRP, STATUS_BUFFER_OVERFLOW, STATUS_DEVICE_NOT_READY, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
    UNICODE_STRING,
};
use crate::sys::wsk::{
    ADDRESS_FAMILY, ADDRINFOEXW, AF_INET, AF_INET6, IPPROTO_TCP, NPI_WSK_INTERFACE_ID, PEPROCESS, PETHREAD,
    PSECURITY_DESCRIPTOR, PSOCKADDR, PWSK_CLIENT, SOCK_STREAM, WSK_CACHE_SD, WSK_CLIENT_CONNECTION_DISPATCH,
    WSK_EVENT_CALLBACK_CONTROL, WSK_EVENT_DISABLE, WSK_FLAG_BASIC_SOCKET, WSK_FLAG_CONNECTION_SOCKET,
    WSK_FLAG_LISTEN_SOCKET, WSK_PROVIDER_DISPATCH, WSK_RELEASE_SD, WSK_SET_STATIC_EVENT_CALLBACKS,
    WSK_TDI_BEHAVIOR, WSK_TDI_DEVICENAME_MAPPING, WSK_TRANSPORT, WSK_TRANSPORT_LIST_CHANGE,
    WSK_TRANSPORT_LIST_QUERY,
};
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::null_mut;

static DISPATCH: WSK_PROVIDER_DISPATCH = WSK_PROVIDER_DISPATCH {
    Version: VERSION,
    Reserved: 0,
    WskSocket: Some(socket),
    WskSocketConnect: Some(socket_connect),
    WskControlClient: Some(control_client),
    WskGetAddressInfo: Some(get_address_info),
    WskFreeAddressInfo: Some(free_address_info),
    WskGetNameInfo: Some(get_name_info),
};

/// The provider's table.
pub fn dispatch() -> *const WSK_PROVIDER_DISPATCH {
    &raw const DISPATCH
}

/// A call of one of these functions, from its entry to its return.
struct Call(Arc<Client>);

impl Call {
    fn begin(api: &'static str, handle: PWSK_CLIENT, irp: Irp) -> Result<Self, NTSTATUS> {
        let Some(client) = registration::client(handle) else {
            violation!(api, "{handle:p} is no client");
            return Err(STATUS_INVALID_HANDLE);
        };
        let captured = client.call_begins();
        let call = Self(client);
        if !captured {
            violation!(api, "the provider is not captured");
            let owner = Owner::Client(Arc::clone(&call.0));
            return Err(crate::request::refuse(api, irp, owner, STATUS_DEVICE_NOT_READY));
        }
        Ok(call)
    }

    /// A function that must have an IRP.
    fn with_irp(
        api: &'static str,
        handle: PWSK_CLIENT,
        irp: Irp,
        body: impl FnOnce(&Arc<Client>, Request) -> NTSTATUS,
    ) -> NTSTATUS {
        let call = match Self::begin(api, handle, irp) {
            Ok(call) => call,
            Err(status) => return status,
        };
        let Some(request) = Request::begin(api, irp, Owner::Client(Arc::clone(&call.0))) else {
            return STATUS_INVALID_PARAMETER;
        };
        match FAULTS.call(api) {
            None => body(&call.0, request),
            Some(Fate::Fail(status)) => request.finish(status, 0),
            Some(Fate::Stall) => {
                call.0.keep(Ticket::new(request));
                STATUS_PENDING
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.call_ends();
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
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Call::with_irp(API, client, irp, |client, request| {
        if !security::may_pass(API, client, security) {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        let category = match flags {
            WSK_FLAG_BASIC_SOCKET => Some(Category::Basic),
            WSK_FLAG_LISTEN_SOCKET => Some(Category::Listen),
            WSK_FLAG_CONNECTION_SOCKET => Some(Category::Connection),
            _ => None,
        };
        let stream = kind == SOCK_STREAM && protocol == IPPROTO_TCP;
        let inet = family == AF_INET || family == AF_INET6;
        match category {
            Some(category) if inet && (stream || category == Category::Basic) => {
                let socket = Socket::new(client, category, family, context, table);
                socket.state().secured = !security.is_null();
                socket.enable_static();
                request.finish(STATUS_SUCCESS, socket.handle().expose_provenance())
            }
            _ => request.finish(STATUS_NOT_SUPPORTED, 0),
        }
    })
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
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Call::with_irp(API, client, irp, |client, request| {
        if !security::may_pass(API, client, security) {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        if kind != SOCK_STREAM || protocol != IPPROTO_TCP || flags != 0 || local.is_null() {
            return request.finish(STATUS_INVALID_PARAMETER, 0);
        }
        // SAFETY: not NULL; every SOCKADDR begins with its family.
        let family = unsafe { local.cast::<ADDRESS_FAMILY>().read_unaligned() };
        // SAFETY: what the client passed, as the page has it.
        let from = unsafe { address::read(local, family) };
        // SAFETY: the same.
        let to = unsafe { address::read(remote, family) };
        let (Some(from), Some(to)) = (from, to) else { return request.finish(STATUS_INVALID_PARAMETER, 0) };
        let socket = Socket::new(client, Category::Connection, family, context, table.cast());
        socket.state().secured = !security.is_null();
        match connection::bind_to(&socket, from) {
            Ok(()) => connection::attempt(&socket, request, to, true),
            Err(status) => {
                socket.discard();
                request.finish(status, 0)
            }
        }
    })
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
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    if code == WSK_TRANSPORT_LIST_CHANGE {
        return Call::with_irp(API, client, irp, |client, request| {
            client.keep(Ticket::new(request));
            STATUS_PENDING
        });
    }
    let call = match Call::begin(API, client, irp) {
        Ok(call) => call,
        Err(status) => return status,
    };
    if !irp.is_null() {
        violation!(API, "control code {code} takes no IRP");
        let owner = Owner::Client(Arc::clone(&call.0));
        return crate::request::refuse(API, irp, owner, STATUS_INVALID_PARAMETER);
    }
    // What an operation without an IRP fails with comes at once; it cannot stall.
    if code == WSK_CACHE_SD
        && let Some(Fate::Fail(status)) = FAULTS.call("WSK_CACHE_SD")
    {
        return status;
    }
    match code {
        WSK_CACHE_SD | WSK_RELEASE_SD if !returned.is_null() => {
            violation!(API, "control code {code} takes no OutputSizeReturned");
            STATUS_INVALID_PARAMETER
        }
        // SAFETY: what the client passed.
        WSK_CACHE_SD => unsafe { security::cache(&call.0, (input_size, input), (output_size, output)) },
        // SAFETY: what the client passed.
        WSK_RELEASE_SD => unsafe { security::release(&call.0, (input_size, input)) },
        WSK_SET_STATIC_EVENT_CALLBACKS => {
            let fits = input_size == size_of::<WSK_EVENT_CALLBACK_CONTROL>() && !input.is_null();
            // SAFETY: as large as it must be; what the client passed.
            let control =
                fits.then(|| unsafe { input.cast::<WSK_EVENT_CALLBACK_CONTROL>().read_unaligned() });
            set_static(&call.0, control)
        }
        // SAFETY: what the client passed.
        WSK_TRANSPORT_LIST_QUERY => unsafe { list_transports(output_size, output.cast(), returned) },
        // Both only before any socket; there are no TDI transports here to divert to.
        WSK_TDI_BEHAVIOR | WSK_TDI_DEVICENAME_MAPPING if call.0.had_sockets() => STATUS_INVALID_DEVICE_STATE,
        WSK_TDI_BEHAVIOR | WSK_TDI_DEVICENAME_MAPPING => STATUS_SUCCESS,
        _ => STATUS_NOT_SUPPORTED,
    }
}

/// Page "WSK_SET_STATIC_EVENT_CALLBACKS".
fn set_static(client: &Client, control: Option<WSK_EVENT_CALLBACK_CONTROL>) -> NTSTATUS {
    let Some(control) = control else { return STATUS_INVALID_PARAMETER };
    // SAFETY: NULL or an identifier, says the structure's page.
    let npi = unsafe { control.NpiId.as_ref() };
    if npi != Some(&NPI_WSK_INTERFACE_ID) || control.EventMask & WSK_EVENT_DISABLE != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    if !client.set_static_events(control.EventMask) {
        violation!("WSK_SET_STATIC_EVENT_CALLBACKS", "after a socket was made");
        return STATUS_INVALID_DEVICE_STATE;
    }
    STATUS_SUCCESS
}

/// Page "WSK_TRANSPORT_LIST_QUERY".
///
/// # Safety
/// `output` is NULL or valid for `size` bytes; `returned` is NULL or valid.
unsafe fn list_transports(size: usize, output: *mut WSK_TRANSPORT, returned: *mut usize) -> NTSTATUS {
    let list = [AF_INET, AF_INET6].map(|family| WSK_TRANSPORT {
        Version: VERSION,
        SocketType: SOCK_STREAM,
        Protocol: IPPROTO_TCP,
        AddressFamily: family,
        ProviderId: GUID::default(),
    });
    if returned.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL.
    unsafe { returned.write(size_of_val(&list)) };
    if size < size_of_val(&list) || output.is_null() {
        return STATUS_BUFFER_OVERFLOW;
    }
    // SAFETY: large enough, and the client's own.
    unsafe { output.copy_from_nonoverlapping(list.as_ptr(), list.len()) };
    STATUS_SUCCESS
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
        // SAFETY: not NULL; what the client passed.
        unsafe { result.write(null_mut()) };
    }
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Call::with_irp("WskGetAddressInfo", client, irp, |_, request| request.finish(STATUS_NOT_SUPPORTED, 0))
}

unsafe extern "system" fn free_address_info(_client: PWSK_CLIENT, info: *mut ADDRINFOEXW) {
    violation!("WskFreeAddressInfo", "{info:p} was never given out");
}

/// WskGetNameInfo: there is no resolver here.
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
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    Call::with_irp("WskGetNameInfo", client, irp, |_, request| request.finish(STATUS_NOT_SUPPORTED, 0))
}
