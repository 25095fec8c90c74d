//! A WSK client as a driver would be one: what the tests use to call the subsystem.

use super::PATIENCE;
use crate::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, GUID, IoAllocateIrp, IoAllocateMdl, IoFreeIrp, IoFreeMdl, IoReuseIrp,
    IoSetCompletionRoutine, MmBuildMdlForNonPagedPool, NTSTATUS, PDEVICE_OBJECT, PIRP, PMDL,
    POOL_FLAG_NON_PAGED, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING, STATUS_SUCCESS, TRUE,
};
use crate::sys::wsk::*;
use crate::verify::lock;
use crate::wsk::{address, step};
use std::ffi::c_void;
use std::net::SocketAddr;
use std::pin::Pin;
use std::ptr::{null, null_mut};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const TAG: u32 = u32::from_le_bytes(*b"Wtst");

/// How a request ended: what the call returned, and what its IRP was completed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub returned: NTSTATUS,
    pub status: NTSTATUS,
    pub information: usize,
}

#[derive(Default)]
struct Done {
    result: Mutex<Option<(NTSTATUS, usize)>>,
    changed: Condvar,
}

/// An IRP of the client's own.
pub struct Irp {
    pub irp: PIRP,
    done: Box<Done>,
    /// Called from the completion routine.
    then: Box<Option<Box<dyn Fn() + Send>>>,
}

struct Context {
    done: *const Done,
    then: *const Option<Box<dyn Fn() + Send>>,
}

unsafe extern "C" fn completed(_device: PDEVICE_OBJECT, irp: PIRP, context: *mut c_void) -> NTSTATUS {
    let context = unsafe { Box::from_raw(context.cast::<Context>()) };
    let status = unsafe { (*irp).IoStatus.u.Status };
    let information = unsafe { (*irp).IoStatus.Information };
    if let Some(then) = unsafe { &*context.then } {
        then();
    }
    let done = unsafe { &*context.done };
    let mut result = lock(&done.result);
    *result = Some((status, information));
    done.changed.notify_all();
    drop(result);
    STATUS_MORE_PROCESSING_REQUIRED
}

impl Irp {
    pub fn new() -> Self {
        Self::with(None)
    }

    pub fn with(then: Option<Box<dyn Fn() + Send>>) -> Self {
        let irp = crate::fault::exempt(|| unsafe { IoAllocateIrp(1, 0) });
        let this = Self { irp, done: Box::default(), then: Box::new(then) };
        this.arm();
        this
    }

    fn arm(&self) {
        let context = Box::new(Context { done: &raw const *self.done, then: &raw const *self.then });
        let context = Box::into_raw(context).cast();
        unsafe { IoSetCompletionRoutine(self.irp, Some(completed), context, TRUE, TRUE, TRUE) };
    }

    pub fn reuse(&self) {
        *lock(&self.done.result) = None;
        unsafe { IoReuseIrp(self.irp, STATUS_SUCCESS) };
        self.arm();
    }

    pub fn result(&self) -> Option<(NTSTATUS, usize)> {
        *lock(&self.done.result)
    }

    pub fn wait_for(&self, limit: Duration) -> Option<(NTSTATUS, usize)> {
        let deadline = Instant::now() + limit;
        loop {
            let result = lock(&self.done.result);
            if result.is_some() {
                return *result;
            }
            if Instant::now() > deadline {
                return None;
            }
            drop(self.done.changed.wait_timeout(result, Duration::from_millis(1)).unwrap());
            step();
        }
    }

    pub fn wait(&self) -> (NTSTATUS, usize) {
        self.wait_for(PATIENCE).expect("the IRP is completed")
    }

    /// The IRP was never taken: its completion context goes with it.
    pub fn abandon(self) {
        let location = unsafe { (*self.irp).Tail.Overlay.CurrentStackLocation.sub(1) };
        drop(unsafe { Box::from_raw((*location).Context.cast::<Context>()) });
    }
}

impl Drop for Irp {
    fn drop(&mut self) {
        unsafe { IoFreeIrp(self.irp) };
    }
}

/// Calls with an IRP and waits for it.
pub fn call(body: impl FnOnce(PIRP) -> NTSTATUS) -> Outcome {
    let irp = Irp::new();
    let returned = body(irp.irp);
    let (status, information) = irp.wait();
    if returned != STATUS_PENDING {
        assert_eq!(returned, status, "an inline return is the IRP's status");
    }
    Outcome { returned, status, information }
}

/// Calls with an IRP that must succeed.
pub fn succeed(body: impl FnOnce(PIRP) -> NTSTATUS) -> usize {
    let outcome = call(body);
    assert_eq!(outcome.status, STATUS_SUCCESS, "{outcome:x?}");
    outcome.information
}

/// Non-paged memory behind a chain of MDLs.
pub struct Memory {
    parts: Vec<(*mut u8, usize, PMDL)>,
}

unsafe impl Send for Memory {}

impl Memory {
    pub fn new(sizes: &[usize]) -> Self {
        let parts: Vec<_> = sizes
            .iter()
            .map(|&size| {
                let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, size, TAG) };
                let length = u32::try_from(size).unwrap();
                let mdl = unsafe { IoAllocateMdl(block, length, 0, 0, null_mut()) };
                unsafe { MmBuildMdlForNonPagedPool(mdl) };
                (block.cast::<u8>(), size, mdl)
            })
            .collect();
        for pair in parts.windows(2) {
            unsafe { (*pair[0].2).Next = pair[1].2 };
        }
        Self { parts }
    }

    pub fn of(data: &[u8]) -> Self {
        let this = Self::new(&[data.len()]);
        unsafe { this.parts[0].0.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        this
    }

    /// Where the first part starts.
    pub fn start(&self) -> *mut u8 {
        self.parts[0].0
    }

    /// Writes a byte of the first part.
    pub fn set(&self, index: usize, byte: u8) {
        assert!(index < self.parts[0].1);
        unsafe { self.start().add(index).write(byte) };
    }

    pub fn buffer(&self, offset: u32, length: usize) -> WSK_BUF {
        WSK_BUF { Mdl: self.parts[0].2, Offset: offset, Length: length }
    }

    pub fn whole(&self) -> WSK_BUF {
        self.buffer(0, self.parts.iter().map(|part| part.1).sum())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let parts = self.parts.iter();
        parts
            .flat_map(|&(start, size, _)| unsafe { std::slice::from_raw_parts(start, size) }.to_vec())
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (block, _, mdl) in self.parts.drain(..) {
            unsafe { IoFreeMdl(mdl) };
            unsafe { ExFreePoolWithTag(block.cast(), TAG) };
        }
    }
}

/// A registered client with a captured provider.
pub struct Client {
    pub registration: Pin<Box<WSK_REGISTRATION>>,
    pub npi: WSK_PROVIDER_NPI,
    captured: bool,
    left: bool,
}

unsafe impl Send for Client {}
unsafe impl Sync for Client {}

pub static DISPATCH: WSK_CLIENT_DISPATCH =
    WSK_CLIENT_DISPATCH { Version: MAKE_WSK_VERSION(1, 0), Reserved: 0, WskClientEvent: None };

pub fn registration() -> Pin<Box<WSK_REGISTRATION>> {
    Box::pin(WSK_REGISTRATION {
        ReservedRegistrationState: 0,
        ReservedRegistrationContext: null_mut(),
        ReservedRegistrationLock: 0,
    })
}

impl Client {
    pub fn new() -> Self {
        let mut registration = registration();
        let mut npi = WSK_CLIENT_NPI { ClientContext: null_mut(), Dispatch: &raw const DISPATCH };
        assert_eq!(unsafe { WskRegister(&raw mut npi, &raw mut *registration) }, STATUS_SUCCESS);
        let mut provider = WSK_PROVIDER_NPI { Client: null_mut(), Dispatch: null() };
        let status = unsafe { WskCaptureProviderNPI(&raw mut *registration, WSK_NO_WAIT, &raw mut provider) };
        assert_eq!(status, STATUS_SUCCESS);
        Self { registration, npi: provider, captured: true, left: false }
    }

    /// The client object's number.
    pub fn id(&self) -> u64 {
        self.registration.ReservedRegistrationState
    }

    pub fn dispatch(&self) -> WSK_PROVIDER_DISPATCH {
        unsafe { *self.npi.Dispatch }
    }

    pub fn release(&mut self) {
        if std::mem::replace(&mut self.captured, false) {
            unsafe { WskReleaseProviderNPI(&raw mut *self.registration) };
        }
    }

    pub fn socket_irp(
        &self,
        family: u16,
        flags: u32,
        context: *mut c_void,
        dispatch: *const c_void,
        irp: PIRP,
    ) -> NTSTATUS {
        unsafe {
            self.dispatch().WskSocket.unwrap()(
                self.npi.Client,
                family,
                SOCK_STREAM,
                IPPROTO_TCP,
                flags,
                context,
                dispatch,
                null_mut(),
                null_mut(),
                null_mut(),
                irp,
            )
        }
    }

    pub fn socket(&self, family: u16, flags: u32, context: *mut c_void, dispatch: *const c_void) -> Sock {
        let handle = succeed(|irp| self.socket_irp(family, flags, context, dispatch, irp));
        Sock(std::ptr::with_exposed_provenance_mut(handle))
    }

    /// A listening socket, bound.
    pub fn listener(
        &self,
        at: &str,
        context: *mut c_void,
        dispatch: *const WSK_CLIENT_LISTEN_DISPATCH,
    ) -> Sock {
        let at: SocketAddr = at.parse().unwrap();
        let family = address::family_of(at);
        let socket = self.socket(family, WSK_FLAG_LISTEN_SOCKET, context, dispatch.cast());
        assert_eq!(socket.bind(at).status, STATUS_SUCCESS);
        socket
    }

    /// A connection to `to`.
    pub fn connection(
        &self,
        to: SocketAddr,
        context: *mut c_void,
        dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
    ) -> Sock {
        let family = address::family_of(to);
        let socket = self.socket(family, WSK_FLAG_CONNECTION_SOCKET, context, dispatch.cast());
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        assert_eq!(socket.bind(any.parse().unwrap()).status, STATUS_SUCCESS);
        assert_eq!(socket.connect(to).status, STATUS_SUCCESS);
        socket
    }

    pub fn control(
        &self,
        code: u32,
        input: &mut [u8],
        output: &mut [u8],
        returned: *mut usize,
        irp: PIRP,
    ) -> NTSTATUS {
        unsafe {
            self.dispatch().WskControlClient.unwrap()(
                self.npi.Client,
                code,
                input.len(),
                if input.is_empty() { null_mut() } else { input.as_mut_ptr().cast() },
                output.len(),
                if output.is_empty() { null_mut() } else { output.as_mut_ptr().cast() },
                returned,
                irp,
            )
        }
    }

    pub fn set_static(&self, mask: u32) -> NTSTATUS {
        let mut control =
            WSK_EVENT_CALLBACK_CONTROL { NpiId: &raw const NPI_WSK_INTERFACE_ID, EventMask: mask };
        unsafe {
            self.dispatch().WskControlClient.unwrap()(
                self.npi.Client,
                WSK_SET_STATIC_EVENT_CALLBACKS,
                size_of_val(&control),
                (&raw mut control).cast(),
                0,
                null_mut(),
                null_mut(),
                null_mut(),
            )
        }
    }
}

impl Client {
    /// Goes without deregistering.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        self.release();
        unsafe { WskDeregister(&raw mut *self.registration) };
    }
}

/// A socket of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sock(pub PWSK_SOCKET);

unsafe impl Send for Sock {}
unsafe impl Sync for Sock {}

impl Sock {
    pub fn basic(self) -> WSK_PROVIDER_BASIC_DISPATCH {
        unsafe { *(*self.0).Dispatch.cast() }
    }

    pub fn listen(self) -> WSK_PROVIDER_LISTEN_DISPATCH {
        unsafe { *(*self.0).Dispatch.cast() }
    }

    pub fn table(self) -> WSK_PROVIDER_CONNECTION_DISPATCH {
        unsafe { *(*self.0).Dispatch.cast() }
    }

    pub fn bind(self, at: SocketAddr) -> Outcome {
        let mut at = address::to_inet(at, address::family_of(at));
        call(|irp| unsafe { self.listen().WskBind.unwrap()(self.0, (&raw mut at).cast(), 0, irp) })
    }

    pub fn connect(self, to: SocketAddr) -> Outcome {
        let mut to = address::to_inet(to, address::family_of(to));
        call(|irp| unsafe { self.table().WskConnect.unwrap()(self.0, (&raw mut to).cast(), 0, irp) })
    }

    pub fn close_irp(self, irp: PIRP) -> NTSTATUS {
        unsafe { self.basic().WskCloseSocket.unwrap()(self.0, irp) }
    }

    pub fn close(self) {
        assert_eq!(succeed(|irp| self.close_irp(irp)), 0);
    }

    pub fn accept_irp(
        self,
        context: *mut c_void,
        dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
        irp: PIRP,
    ) -> NTSTATUS {
        unsafe { self.listen().WskAccept.unwrap()(self.0, 0, context, dispatch, null_mut(), null_mut(), irp) }
    }

    pub fn accept(self) -> Sock {
        Sock(std::ptr::with_exposed_provenance_mut(succeed(|irp| self.accept_irp(null_mut(), null(), irp))))
    }

    pub fn send_irp(self, buffer: &mut WSK_BUF, irp: PIRP) -> NTSTATUS {
        unsafe { self.table().WskSend.unwrap()(self.0, &raw mut *buffer, 0, irp) }
    }

    pub fn send(self, data: &[u8]) -> Outcome {
        let memory = Memory::of(data);
        call(|irp| self.send_irp(&mut memory.whole(), irp))
    }

    pub fn receive_irp(self, buffer: &mut WSK_BUF, flags: u32, irp: PIRP) -> NTSTATUS {
        unsafe { self.table().WskReceive.unwrap()(self.0, &raw mut *buffer, flags, irp) }
    }

    /// Receives up to `size` bytes.
    pub fn receive(self, size: usize, flags: u32) -> (NTSTATUS, Vec<u8>) {
        let memory = Memory::new(&[size]);
        let outcome = call(|irp| self.receive_irp(&mut memory.whole(), flags, irp));
        let mut data = memory.bytes();
        data.truncate(outcome.information);
        (outcome.status, data)
    }

    pub fn receive_to_end(self) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let (status, more) = self.receive(1000, 0);
            assert_eq!(status, STATUS_SUCCESS);
            if more.is_empty() {
                return data;
            }
            data.extend(more);
        }
    }

    pub fn disconnect_irp(self, flags: u32, irp: PIRP) -> NTSTATUS {
        unsafe { self.table().WskDisconnect.unwrap()(self.0, null_mut(), flags, irp) }
    }

    pub fn disconnect(self, flags: u32) -> Outcome {
        call(|irp| self.disconnect_irp(flags, irp))
    }

    pub fn local(self) -> SocketAddr {
        let mut out =
            SOCKADDR_STORAGE { ss_family: 0, __ss_pad1: [0; 6], __ss_align: 0, __ss_pad2: [0; 112] };
        let get = self.listen().WskGetLocalAddress;
        let out_pointer: PSOCKADDR = (&raw mut out).cast();
        let listens = unsafe { (*self.0).Dispatch } == (&raw const crate::wsk::dispatch::LISTEN).cast();
        succeed(|irp| unsafe {
            if listens {
                get.unwrap()(self.0, out_pointer, irp)
            } else {
                self.table().WskGetLocalAddress.unwrap()(self.0, out_pointer, irp)
            }
        });
        unsafe { address::read(out_pointer, out.ss_family) }.unwrap()
    }

    pub fn control(
        self,
        kind: i32,
        code: u32,
        level: u32,
        input: (*mut c_void, usize),
        output: (*mut c_void, usize),
        irp: PIRP,
    ) -> NTSTATUS {
        unsafe {
            self.basic().WskControlSocket.unwrap()(
                self.0,
                kind,
                code,
                level,
                input.1,
                input.0,
                output.1,
                output.0,
                null_mut(),
                irp,
            )
        }
    }

    pub fn set_option(self, level: u32, code: u32, mut value: u32) -> Outcome {
        let input = ((&raw mut value).cast(), size_of_val(&value));
        call(|irp| self.control(WskSetOption, code, level, input, (null_mut(), 0), irp))
    }

    pub fn events_of(self, npi: &'static GUID, mask: u32, irp: PIRP) -> NTSTATUS {
        let mut control = WSK_EVENT_CALLBACK_CONTROL { NpiId: npi, EventMask: mask };
        let input = ((&raw mut control).cast(), size_of_val(&control));
        self.control(WskSetOption, SO_WSK_EVENT_CALLBACK, SOL_SOCKET, input, (null_mut(), 0), irp)
    }

    pub fn events(self, mask: u32) -> NTSTATUS {
        self.events_of(&NPI_WSK_INTERFACE_ID, mask, null_mut())
    }

    pub fn release(self, indication: PWSK_DATA_INDICATION) -> NTSTATUS {
        unsafe { self.table().WskRelease.unwrap()(self.0, indication) }
    }
}

/// Waits until `ready`.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        if !step() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
