//! Winsock Kernel as a client has it: registration, sockets with their functions, and callbacks that write down what they
//! are told.

use crate::kernel::{Buffer, Outcome, Pending, request, wait};
use crate::sys::nt::{
    NTSTATUS, PVOID, STATUS_DATA_NOT_ACCEPTED, STATUS_PENDING, STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    AF_INET, IN_ADDR, IPPROTO_TCP, NPI_WSK_INTERFACE_ID, NPIID, PSECURITY_DESCRIPTOR, PSOCKADDR,
    PWSK_DATA_INDICATION, PWSK_SOCKET, SO_WSK_EVENT_CALLBACK, SOCK_STREAM, SOCKADDR_IN, SOL_SOCKET, WSK_BUF,
    WSK_CLIENT_CONNECTION_DISPATCH, WSK_CLIENT_DISPATCH, WSK_CLIENT_LISTEN_DISPATCH, WSK_CLIENT_NPI,
    WSK_EVENT_CALLBACK_CONTROL, WSK_FLAG_LISTEN_SOCKET, WSK_PROVIDER_BASIC_DISPATCH,
    WSK_PROVIDER_CHARACTERISTICS, WSK_PROVIDER_CONNECTION_DISPATCH, WSK_PROVIDER_LISTEN_DISPATCH,
    WSK_PROVIDER_NPI, WSK_REGISTRATION, WskSetOption,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use wine_support::sync::{Condvar, Mutex};

#[link(name = "netio.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn WskRegister(npi: *mut WSK_CLIENT_NPI, registration: *mut WSK_REGISTRATION) -> NTSTATUS;
    fn WskCaptureProviderNPI(
        registration: *mut WSK_REGISTRATION,
        timeout: u32,
        npi: *mut WSK_PROVIDER_NPI,
    ) -> NTSTATUS;
    fn WskReleaseProviderNPI(registration: *mut WSK_REGISTRATION);
    fn WskQueryProviderCharacteristics(
        registration: *mut WSK_REGISTRATION,
        characteristics: *mut WSK_PROVIDER_CHARACTERISTICS,
    ) -> NTSTATUS;
    fn WskDeregister(registration: *mut WSK_REGISTRATION);
}

/// A registration, at an address of its own.
pub struct Registration {
    _dispatch: Box<WSK_CLIENT_DISPATCH>,
    _npi: Box<WSK_CLIENT_NPI>,
    object: *mut WSK_REGISTRATION,
}

impl Registration {
    pub fn new(version: u16) -> Self {
        let dispatch = Box::new(WSK_CLIENT_DISPATCH { Version: version, Reserved: 0, WskClientEvent: None });
        let mut npi = Box::new(WSK_CLIENT_NPI { ClientContext: null_mut(), Dispatch: &raw const *dispatch });
        let registration = Box::into_raw(Box::new(WSK_REGISTRATION {
            ReservedRegistrationState: 0,
            ReservedRegistrationContext: null_mut(),
            ReservedRegistrationLock: 0,
        }));
        // SAFETY: both stay where they are until `deregister`.
        let status = unsafe { WskRegister(&raw mut *npi, registration) };
        assert_eq!(status, STATUS_SUCCESS, "WskRegister");
        Self { _dispatch: dispatch, _npi: npi, object: registration }
    }

    pub fn capture(&self, timeout: u32) -> Result<WSK_PROVIDER_NPI, NTSTATUS> {
        let mut npi = WSK_PROVIDER_NPI { Client: null_mut(), Dispatch: null() };
        // SAFETY: registered; the NPI is writable.
        match unsafe { WskCaptureProviderNPI(self.object, timeout, &raw mut npi) } {
            STATUS_SUCCESS => Ok(npi),
            status => Err(status),
        }
    }

    pub fn release(&self) {
        // SAFETY: registered.
        unsafe { WskReleaseProviderNPI(self.object) };
    }

    pub fn characteristics(&self) -> (NTSTATUS, WSK_PROVIDER_CHARACTERISTICS) {
        let mut found = WSK_PROVIDER_CHARACTERISTICS::default();
        // SAFETY: registered; the characteristics are writable.
        let status = unsafe { WskQueryProviderCharacteristics(self.object, &raw mut found) };
        (status, found)
    }

    pub fn deregister(self) {
        // SAFETY: registered.
        unsafe { WskDeregister(self.object) };
        // SAFETY: made by `Box::into_raw`; the subsystem is done with it.
        drop(unsafe { Box::from_raw(self.object) });
    }
}

/// What callbacks were told of one socket, and what they are to answer.
#[derive(Default)]
pub struct Told {
    pub received: Vec<u8>,
    pub indications: usize,
    /// Flags of WskDisconnectEvent.
    pub disconnected: Option<u32>,
    pub accepted: Vec<(Socket, Arc<Watched>)>,
    pub refused: usize,
    pub answer: Answer,
    /// What was retained.
    pub retained: Option<usize>,
    /// What WskSendBacklogEvent told.
    pub backlogs: Vec<usize>,
    pub inside: usize,
    pub overlapped: bool,
}

/// What WskReceiveEvent and WskAcceptEvent do with what they are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Take,
    /// Only so many bytes.
    Part(usize),
    Refuse,
    Retain,
}

/// The context of a socket.
pub type Watched = (Mutex<Told>, Condvar);

pub fn watched() -> Arc<Watched> {
    Arc::new((Mutex::new(Told::default()), Condvar::new()))
}

fn context(watched: &Arc<Watched>) -> PVOID {
    Arc::as_ptr(watched).cast_mut().cast()
}

/// # Safety
/// `context` came from [`context`], and its socket is not closed.
unsafe fn told<'a>(context: PVOID) -> &'a Watched {
    // SAFETY: the caller's.
    unsafe { &*context.cast::<Watched>() }
}

pub static CONNECTION_EVENTS: WSK_CLIENT_CONNECTION_DISPATCH = WSK_CLIENT_CONNECTION_DISPATCH {
    WskReceiveEvent: Some(receive_event),
    WskDisconnectEvent: Some(disconnect_event),
    WskSendBacklogEvent: Some(backlog_event),
};

pub static LISTEN_EVENTS: WSK_CLIENT_LISTEN_DISPATCH = WSK_CLIENT_LISTEN_DISPATCH {
    WskAcceptEvent: Some(accept_event),
    WskInspectEvent: None,
    WskAbortEvent: None,
};

/// Reads a list of indications, over all of its MDLs.
///
/// # Safety
/// The list is WSK's, and not released.
pub unsafe fn read(mut list: PWSK_DATA_INDICATION) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !list.is_null() {
        // SAFETY: the caller's.
        let WSK_BUF { Mdl: mut mdl, Offset: offset, Length: mut left } = unsafe { (*list).Buffer };
        let mut skip = offset as usize;
        while left > 0 {
            // SAFETY: the chain is as long as the buffer says.
            let part = unsafe { &*mdl };
            let size = (part.ByteCount as usize - skip).min(left);
            let start = part.MappedSystemVa.cast::<u8>().wrapping_add(skip);
            // SAFETY: the MDL's own memory.
            bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(start, size) });
            left -= size;
            skip = 0;
            mdl = part.Next;
        }
        // SAFETY: the caller's.
        list = unsafe { (*list).Next };
    }
    bytes
}

unsafe extern "system" fn receive_event(
    socket_context: PVOID,
    _flags: u32,
    list: PWSK_DATA_INDICATION,
    indicated: usize,
    accepted: *mut usize,
) -> NTSTATUS {
    // SAFETY: the context that the socket was given.
    let watched = unsafe { told(socket_context) };
    // SAFETY: the list of this call.
    let bytes = unsafe { read(list) };
    let mut told = watched.0.lock();
    told.overlapped |= told.inside > 0 || bytes.len() != indicated;
    told.inside += 1;
    told.indications += 1;
    let status = match told.answer {
        Answer::Take => {
            told.received.extend_from_slice(&bytes);
            STATUS_SUCCESS
        }
        Answer::Part(count) => {
            let count = count.min(bytes.len());
            told.received.extend_from_slice(bytes.get(..count).unwrap_or_default());
            // SAFETY: WSK's variable.
            unsafe { accepted.write(count) };
            STATUS_SUCCESS
        }
        Answer::Refuse => STATUS_DATA_NOT_ACCEPTED,
        Answer::Retain => {
            told.received.extend_from_slice(&bytes);
            told.retained = Some(list.expose_provenance());
            STATUS_PENDING
        }
    };
    told.inside -= 1;
    drop(told);
    watched.1.notify_all();
    status
}

unsafe extern "system" fn disconnect_event(socket_context: PVOID, flags: u32) -> NTSTATUS {
    // SAFETY: the context that the socket was given.
    let watched = unsafe { told(socket_context) };
    watched.0.lock().disconnected = Some(flags);
    watched.1.notify_all();
    STATUS_SUCCESS
}

unsafe extern "system" fn backlog_event(socket_context: PVOID, ideal: usize) -> NTSTATUS {
    // SAFETY: the context that the socket was given.
    let watched = unsafe { told(socket_context) };
    watched.0.lock().backlogs.push(ideal);
    watched.1.notify_all();
    STATUS_SUCCESS
}

unsafe extern "system" fn accept_event(
    socket_context: PVOID,
    _flags: u32,
    _local: PSOCKADDR,
    _remote: PSOCKADDR,
    socket: PWSK_SOCKET,
    accepted_context: *mut PVOID,
    accepted_table: *mut *const WSK_CLIENT_CONNECTION_DISPATCH,
) -> NTSTATUS {
    // SAFETY: the context that the socket was given.
    let listener = unsafe { told(socket_context) };
    let mut told = listener.0.lock();
    let status = if told.answer == Answer::Refuse || socket.is_null() {
        told.refused += 1;
        STATUS_REQUEST_NOT_ACCEPTED
    } else {
        let own = watched();
        // SAFETY: WSK's variable.
        unsafe { accepted_context.write(context(&own)) };
        // SAFETY: the same.
        unsafe { accepted_table.write(&raw const CONNECTION_EVENTS) };
        told.accepted.push((Socket(socket), own));
        STATUS_SUCCESS
    };
    drop(told);
    listener.1.notify_all();
    status
}

/// A socket, whatever its category.
#[derive(Clone, Copy)]
pub struct Socket(pub PWSK_SOCKET);

// SAFETY: sockets are for any thread.
unsafe impl Send for Socket {}

pub fn loopback(port: u16) -> SOCKADDR_IN {
    SOCKADDR_IN {
        sin_family: AF_INET,
        sin_port: port.to_be(),
        sin_addr: IN_ADDR { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

/// A function of a table, which is there.
macro_rules! function {
    ($socket:expr, $table:ty, $($path:ident).+) => {{
        // SAFETY: a socket that is not closed.
        let table: *const $table = unsafe { (*$socket.0).Dispatch.cast() };
        // SAFETY: the table of its category.
        unsafe { (*table).$($path).+ }.expect(concat!($(stringify!($path)),+))
    }};
}

impl Socket {
    /// WskSocket: a listening socket, or a connection socket.
    pub fn new(npi: &WSK_PROVIDER_NPI, flags: u32, watched: Option<&Arc<Watched>>) -> Result<Self, NTSTATUS> {
        Self::secured(npi, flags, watched, null_mut())
    }

    /// [`Self::new`] with a security descriptor.
    pub fn secured(
        npi: &WSK_PROVIDER_NPI,
        flags: u32,
        watched: Option<&Arc<Watched>>,
        security: PSECURITY_DESCRIPTOR,
    ) -> Result<Self, NTSTATUS> {
        // SAFETY: captured.
        let function = unsafe { (*npi.Dispatch).WskSocket }.expect("WskSocket");
        let listens = flags == WSK_FLAG_LISTEN_SOCKET;
        let table: *const c_void = match watched {
            None => null(),
            Some(_) if listens => (&raw const LISTEN_EVENTS).cast(),
            Some(_) => (&raw const CONNECTION_EVENTS).cast(),
        };
        let own = watched.map_or(null_mut(), context);
        let none: PVOID = null_mut();
        let made = request(|irp| {
            // SAFETY: captured; the table is static, and the context outlives the socket.
            unsafe {
                function(
                    npi.Client,
                    AF_INET,
                    SOCK_STREAM,
                    IPPROTO_TCP,
                    flags,
                    own,
                    table,
                    none.cast(),
                    none.cast(),
                    security,
                    irp,
                )
            }
        });
        match made.end() {
            (STATUS_SUCCESS, socket) => Ok(Self(core::ptr::with_exposed_provenance_mut(socket))),
            (status, _) => Err(status),
        }
    }

    /// WskSocketConnect from 127.0.0.1 to a port of it.
    pub fn connected(
        npi: &WSK_PROVIDER_NPI,
        port: u16,
        watched: Option<&Arc<Watched>>,
    ) -> Result<Self, NTSTATUS> {
        // SAFETY: captured.
        let function = unsafe { (*npi.Dispatch).WskSocketConnect }.expect("WskSocketConnect");
        let (mut local, mut remote) = (loopback(0), loopback(port));
        let (local, remote) = ((&raw mut local).cast(), (&raw mut remote).cast());
        let table = if watched.is_some() { &raw const CONNECTION_EVENTS } else { null() };
        let own = watched.map_or(null_mut(), context);
        let none: PVOID = null_mut();
        let made = request(|irp| {
            // SAFETY: captured; the addresses outlive the request, and the context the socket.
            unsafe {
                function(
                    npi.Client,
                    SOCK_STREAM,
                    IPPROTO_TCP,
                    local,
                    remote,
                    0,
                    own,
                    table,
                    none.cast(),
                    none.cast(),
                    none,
                    irp,
                )
            }
        });
        match made.end() {
            (STATUS_SUCCESS, socket) => Ok(Self(core::ptr::with_exposed_provenance_mut(socket))),
            (status, _) => Err(status),
        }
    }

    /// WskBind of a connection socket to any port of 127.0.0.1.
    pub fn bind(self) -> NTSTATUS {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskBind);
        let mut at = loopback(0);
        // SAFETY: a connection socket; the address outlives the request.
        request(|irp| unsafe { function(self.0, (&raw mut at).cast(), 0, irp) }).end().0
    }

    /// WskConnect to a port of 127.0.0.1.
    pub fn connect(self, port: u16) -> NTSTATUS {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskConnect);
        let mut to = loopback(port);
        // SAFETY: a connection socket; the address outlives the request.
        request(|irp| unsafe { function(self.0, (&raw mut to).cast(), 0, irp) }).end().0
    }

    pub fn close_later(self) -> Pending {
        let function = function!(self, WSK_PROVIDER_BASIC_DISPATCH, WskCloseSocket);
        // SAFETY: not closed yet, and not used after.
        request(|irp| unsafe { function(self.0, irp) })
    }

    pub fn close(self) -> NTSTATUS {
        self.close_later().end().0
    }

    /// WskBind of a listening socket.
    pub fn listen(self, port: u16) -> NTSTATUS {
        let function = function!(self, WSK_PROVIDER_LISTEN_DISPATCH, WskBind);
        let mut at = loopback(port);
        // SAFETY: a listening socket; the address outlives the request.
        request(|irp| unsafe { function(self.0, (&raw mut at).cast(), 0, irp) }).end().0
    }

    /// The port of a listening socket.
    pub fn port(self) -> u16 {
        let function = function!(self, WSK_PROVIDER_LISTEN_DISPATCH, WskGetLocalAddress);
        let mut at = loopback(0);
        // SAFETY: a listening socket; there is room for its address.
        let (status, _) = request(|irp| unsafe { function(self.0, (&raw mut at).cast(), irp) }).end();
        assert_eq!(status, STATUS_SUCCESS, "WskGetLocalAddress");
        u16::from_be(at.sin_port)
    }

    /// The ports of a connection socket: its own, and the peer's.
    pub fn ports(self) -> (u16, u16) {
        let local = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskGetLocalAddress);
        let remote = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskGetRemoteAddress);
        let (mut here, mut there) = (loopback(0), loopback(0));
        // SAFETY: a connection socket; there is room for its address.
        let first = request(|irp| unsafe { local(self.0, (&raw mut here).cast(), irp) }).end().0;
        // SAFETY: the same.
        let second = request(|irp| unsafe { remote(self.0, (&raw mut there).cast(), irp) }).end().0;
        assert_eq!((first, second), (STATUS_SUCCESS, STATUS_SUCCESS), "addresses");
        (u16::from_be(here.sin_port), u16::from_be(there.sin_port))
    }

    /// WskAccept, of connections without events.
    pub fn accept(self) -> Pending {
        let function = function!(self, WSK_PROVIDER_LISTEN_DISPATCH, WskAccept);
        // SAFETY: a listening socket; nothing is given that would have to stay.
        request(|irp| unsafe { function(self.0, 0, null_mut(), null(), null_mut(), null_mut(), irp) })
    }

    pub fn send(self, buffer: &mut Buffer) -> Pending {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskSend);
        let described = &raw mut buffer.described;
        // SAFETY: a connection socket; the caller keeps the buffer until the request has ended.
        request(|irp| unsafe { function(self.0, described, 0, irp) })
    }

    pub fn receive(self, buffer: &mut Buffer, flags: u32) -> Pending {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskReceive);
        let described = &raw mut buffer.described;
        // SAFETY: a connection socket; the caller keeps the buffer until the request has ended.
        request(|irp| unsafe { function(self.0, described, flags, irp) })
    }

    pub fn disconnect_later(self, flags: u32) -> Pending {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskDisconnect);
        // SAFETY: a connection socket; no buffer.
        request(|irp| unsafe { function(self.0, null_mut(), flags, irp) })
    }

    pub fn disconnect(self, flags: u32) -> Outcome {
        self.disconnect_later(flags).end()
    }

    pub fn release(self, list: usize) -> NTSTATUS {
        let function = function!(self, WSK_PROVIDER_CONNECTION_DISPATCH, WskRelease);
        // SAFETY: a connection socket; the list was retained.
        unsafe { function(self.0, core::ptr::with_exposed_provenance_mut(list)) }
    }

    /// WskControlSocket without an IRP.
    pub fn control<I, O>(
        self,
        (kind, code, level): (i32, u32, u32),
        input: &mut I,
        output: Option<&mut O>,
    ) -> NTSTATUS {
        let function = function!(self, WSK_PROVIDER_BASIC_DISPATCH, WskControlSocket);
        let size = if output.is_some() { size_of::<O>() } else { 0 };
        let output: *mut c_void = output.map_or(null_mut(), |output| core::ptr::from_mut(output).cast());
        let input = core::ptr::from_mut(input).cast();
        // SAFETY: the operation's own structures, and it completes inline.
        unsafe {
            function(self.0, kind, code, level, size_of::<I>(), input, size, output, null_mut(), null_mut())
        }
    }

    /// WskControlSocket with an IRP.
    pub fn control_later<I, O>(
        self,
        (kind, code, level): (i32, u32, u32),
        input: Option<&mut I>,
        output: Option<&mut O>,
    ) -> Outcome {
        let function = function!(self, WSK_PROVIDER_BASIC_DISPATCH, WskControlSocket);
        let sizes = (
            if input.is_some() { size_of::<I>() } else { 0 },
            if output.is_some() { size_of::<O>() } else { 0 },
        );
        let input: *mut c_void = input.map_or(null_mut(), |input| core::ptr::from_mut(input).cast());
        let output: *mut c_void = output.map_or(null_mut(), |output| core::ptr::from_mut(output).cast());
        let issued = request(|irp| {
            // SAFETY: the operation's own structures, which outlive the request.
            unsafe { function(self.0, kind, code, level, sizes.0, input, sizes.1, output, null_mut(), irp) }
        });
        issued.end()
    }

    /// SO_WSK_EVENT_CALLBACK, for WSK's own events.
    pub fn events(self, mask: u32) -> NTSTATUS {
        self.events_of(&NPI_WSK_INTERFACE_ID, mask)
    }

    pub fn events_of(self, npi: &'static NPIID, mask: u32) -> NTSTATUS {
        let mut control = WSK_EVENT_CALLBACK_CONTROL { NpiId: npi, EventMask: mask };
        let request = (WskSetOption, SO_WSK_EVENT_CALLBACK, SOL_SOCKET);
        self.control(request, &mut control, None::<&mut u32>)
    }
}

/// WskControlClient without an IRP, on one variable that holds a pointer, and perhaps another.
pub fn control_client(
    npi: &WSK_PROVIDER_NPI,
    code: u32,
    input: &mut PVOID,
    output: Option<&mut PVOID>,
) -> NTSTATUS {
    // SAFETY: captured.
    let function = unsafe { (*npi.Dispatch).WskControlClient }.expect("WskControlClient");
    let size = size_of::<PVOID>();
    let room = if output.is_some() { size } else { 0 };
    let output: *mut c_void = output.map_or(null_mut(), |output| core::ptr::from_mut(output).cast());
    let input = core::ptr::from_mut(input).cast();
    // SAFETY: captured; both variables outlive the call.
    unsafe { function(npi.Client, code, size, input, room, output, null_mut(), null_mut()) }
}

/// Waits until `count` bytes were indicated.
pub fn wait_received(watched: &Watched, count: usize) -> Option<Vec<u8>> {
    wait(watched, |told| (told.received.len() >= count).then(|| told.received.clone()))
}

/// Waits for the end of the connection: the flags it was told with.
pub fn wait_disconnected(watched: &Watched) -> Option<u32> {
    wait(watched, |told| told.disconnected)
}
