//! Sockets: their functions, their gate, their end.
//!
//! - Functions are called through a [`Call`], which passes the socket's gate. Closing shuts the gate and waits until
//!   every call has returned; only then is WskCloseSocket called, as the documentation demands ("Closing a Socket"),
//!   extension functions included. WSK then cancels what is pending.
//! - Everything that closing needs is allocated before the socket is taken, the setting of the completion routine
//!   included ([`Irp::arm`]): it cannot fail for want of memory.
//! - WSK's context for a socket is a share of its owner, which close's completion gives back.
//!
//! IRQL: calls at <= DISPATCH_LEVEL where they need no wait; opening a listener and closing at PASSIVE_LEVEL.

use super::provider::Provider;
use super::security::Cached;
use crate::kernel::irp::{Bounds, Called, Completion, Irp};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::PoolArc;
use crate::kernel::rundown::{Protection, Rundown};
use crate::kernel::time::Interval;
use crate::kernel::{Result, Status};
use crate::sys::nt::{PIRP, PVOID};
use crate::sys::wsk::{
    ADDRESS_FAMILY, NPIID, SIO_WSK_REGISTER_EXTENSION, SO_WSK_EVENT_CALLBACK, SOCKADDR_INET, SOL_SOCKET,
    WSK_EVENT_ACCEPT, WSK_EVENT_CALLBACK_CONTROL, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE,
    WSK_EVENT_SEND_BACKLOG, WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT, WSK_PROVIDER_BASIC_DISPATCH,
    WSK_SOCKET, WskIoctl, WskSetOption,
};
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// The events of connections.
pub const CONNECTION_EVENTS: u32 = WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT | WSK_EVENT_SEND_BACKLOG;

/// The events of weir's sockets. On a listening socket, those of connections are what accepted ones start with.
pub const EVENTS: u32 = WSK_EVENT_ACCEPT | CONNECTION_EVENTS;

/// How long each step of a socket's making waits.
pub(super) const STEP: Bounds =
    Bounds { pending: Interval::from_millis(10_000), settle: Interval::from_millis(1_000) };

/// The address of a `WSK_SOCKET`.
#[derive(Debug)]
pub struct RawSocket(NonNull<WSK_SOCKET>);

// SAFETY: a socket may be used on any thread; WSK synchronises its functions.
unsafe impl Send for RawSocket {}
// SAFETY: as above.
unsafe impl Sync for RawSocket {}

impl RawSocket {
    pub(super) fn new(socket: *mut WSK_SOCKET) -> Option<Self> {
        NonNull::new(socket).map(Self)
    }

    /// The same socket, for who refuses it if nobody takes it.
    pub(super) const fn again(&self) -> Self {
        Self(self.0)
    }

    pub(super) const fn as_ptr(&self) -> *mut WSK_SOCKET {
        self.0.as_ptr()
    }

    /// The socket's table, of the category's type.
    ///
    /// # Safety
    /// The socket is of the category whose provider table `D` is, and not closed while the reference lasts.
    pub(super) unsafe fn dispatch<D>(&self) -> &D {
        // SAFETY: a socket is valid until it is closed.
        let table = unsafe { self.0.as_ref() }.Dispatch.cast::<D>();
        // SAFETY: the category's table, says the caller, and resident as long as the socket.
        unsafe { &*table }
    }

    /// WskControlSocket without IRP.
    ///
    /// # Safety
    /// The socket is not closed; input and output fit the operation, which completes inline.
    unsafe fn control_inline<I, O>(
        &self,
        request: (i32, u32, u32),
        input: &mut I,
        output: Option<&mut O>,
    ) -> Status {
        let (kind, code, level) = request;
        // SAFETY: every socket's table begins with the basic one.
        let basic = unsafe { self.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
        let Some(function) = basic.WskControlSocket else { return Status::NOT_SUPPORTED };
        let (size, output) = match output {
            Some(output) => (size_of::<O>(), core::ptr::from_mut(output).cast::<c_void>()),
            None => (0, null_mut()),
        };
        // SAFETY: the caller's promise. OutputSizeReturned is NULL, as SIO_WSK_REGISTER_EXTENSION and
        // SO_WSK_EVENT_CALLBACK want it; neither takes an IRP here.
        Status(unsafe {
            function(
                self.as_ptr(),
                kind,
                code,
                level,
                size_of::<I>(),
                core::ptr::from_mut(input).cast(),
                size,
                output,
                null_mut(),
                null_mut(),
            )
        })
    }
}

/// What both kinds of sockets have: the raw one, and the gate before its functions.
#[derive(Debug)]
pub(super) struct Socket {
    /// NULL before there is one.
    raw: AtomicPtr<WSK_SOCKET>,
    gate: Rundown,
}

/// Being inside a socket's gate: its functions may be called, extension functions included, and it is not closed
/// meanwhile. Hold it shortly, and not across a wait.
#[derive(Debug)]
pub struct Call<'s> {
    pub(super) raw: RawSocket,
    _inside: Protection<'s>,
}

/// What a provider gave for an extension interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionProvider {
    pub context: PVOID,
    pub dispatch: *const c_void,
}

impl Call<'_> {
    /// Registers the socket for an extension interface (SIO_WSK_REGISTER_EXTENSION). Callbacks may come before this
    /// returns.
    ///
    /// # Safety
    /// `client_dispatch` is the interface's client table, and it, `npi_id` and `client_context` stay valid until the
    /// socket's close has completed.
    ///
    /// # Errors
    /// What WskControlSocket returns other than exactly STATUS_SUCCESS: the output is meaningless then.
    pub unsafe fn register_extension(
        &self,
        npi_id: &NPIID,
        client_context: PVOID,
        client_dispatch: *const c_void,
    ) -> Result<ExtensionProvider> {
        let mut input = WSK_EXTENSION_CONTROL_IN {
            NpiId: npi_id,
            ClientContext: client_context,
            ClientDispatch: client_dispatch,
        };
        let mut output =
            WSK_EXTENSION_CONTROL_OUT { ProviderContext: null_mut(), ProviderDispatch: core::ptr::null() };
        let request = (WskIoctl, SIO_WSK_REGISTER_EXTENSION, 0);
        // SAFETY: inside the gate; the ioctl's own structures; it completes inline.
        let status = unsafe { self.raw.control_inline(request, &mut input, Some(&mut output)) };
        status.exact()?;
        Ok(ExtensionProvider { context: output.ProviderContext, dispatch: output.ProviderDispatch })
    }

    /// Switches on the events of `mask` that `npi_id` defines, WSK's own or an extension's (SO_WSK_EVENT_CALLBACK):
    /// on a listening socket after bind, on a connection socket after connect.
    ///
    /// # Errors
    /// What WskControlSocket returns other than exactly STATUS_SUCCESS.
    pub fn enable_events(&self, npi_id: &NPIID, mask: u32) -> Result {
        let mut input = WSK_EVENT_CALLBACK_CONTROL { NpiId: npi_id, EventMask: mask };
        let request = (WskSetOption, SO_WSK_EVENT_CALLBACK, SOL_SOCKET);
        // SAFETY: inside the gate; the option's own structure; enabling completes inline, without IRP.
        let status = unsafe { self.raw.control_inline(request, &mut input, None::<&mut u32>) };
        status.exact()
    }
}

impl Socket {
    /// Room for a socket that there is, or will be.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new(raw: Option<RawSocket>) -> Result<Self> {
        let raw = AtomicPtr::new(raw.map_or(null_mut(), |raw| raw.as_ptr()));
        Ok(Self { raw, gate: Rundown::try_new()? })
    }

    /// The socket was made.
    pub(super) fn made(&self, raw: &RawSocket) {
        self.raw.store(raw.as_ptr(), Ordering::Release);
    }

    pub(super) fn raw(&self) -> Option<RawSocket> {
        RawSocket::new(self.raw.load(Ordering::Acquire))
    }

    /// Passes the gate.
    pub(super) fn call(&self) -> Option<Call<'_>> {
        let inside = self.gate.acquire()?;
        Some(Call { raw: self.raw()?, _inside: inside })
    }

    /// Shuts the gate, and waits until every call has returned.
    pub(super) fn shut(&self, passive: &Passive) {
        self.gate.run_down(passive);
    }
}

/// What the requests of a socket's making refer to.
pub(super) struct Setup<T> {
    /// WSK's share of the socket's owner while the socket is being made: as long as that request may be out.
    pub(super) owner: Option<PoolArc<T>>,
    pub(super) address: SOCKADDR_INET,
    pub(super) option: u32,
}

/// The step at which a socket could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Allocate = 0,
    Socket = 1,
    DualStack = 2,
    Bind = 3,
    LocalAddress = 4,
    Connect = 5,
}

/// Whether a socket is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    NothingToClose,
    /// The owner's `closed` follows.
    Issued,
}

/// Makes one request of a socket's making, and waits for it. The IRP comes back unless it was never completed.
#[expect(clippy::type_complexity, reason = "the request comes back either way")]
pub(super) fn step<T: Send + Sync + 'static>(
    passive: &Passive,
    request: Irp<Setup<T>>,
    issue: impl FnOnce(PIRP, &mut Setup<T>) -> Status,
) -> core::result::Result<(Irp<Setup<T>>, usize), (Option<Irp<Setup<T>>>, Status)> {
    match request.call(passive, STEP, issue) {
        Called::Completed(irp, Completion { status, information }) => match status.exact() {
            Ok(()) => Ok((irp, information)),
            Err(status) => Err((Some(irp), status)),
        },
        Called::NotMade(irp) => Err((Some(irp), Status::INSUFFICIENT_RESOURCES)),
        Called::NeverCompleted(status) => Err((None, status)),
    }
}

/// WskSocket, in the category of `flags`, with a security descriptor or the default one. The share of the owner that
/// becomes WSK's context comes back with the socket. A socket that is made by a request that was given up is nobody's:
/// WskDeregister waits for it.
///
/// # Safety
/// `dispatch` is the category's client table, whose functions expect a share of a `T`.
pub(super) unsafe fn make<T: Send + Sync + 'static>(
    passive: &Passive,
    provider: &Provider<'_>,
    (family, flags): (ADDRESS_FAMILY, u32),
    dispatch: *const c_void,
    security: Option<Cached<'_>>,
    setup: Irp<Setup<T>>,
) -> Result<(Irp<Setup<T>>, RawSocket, NonNull<()>)> {
    let descriptor = security.as_ref().map_or(null_mut(), Cached::as_raw);
    let made = step(passive, setup, |irp, setup| {
        let context = setup.owner.as_ref().map_or(null_mut(), |owner| owner.as_raw().as_ptr().cast());
        // SAFETY: the caller's table; the request has the share as long as it may make a socket, and the descriptor
        // stays as long.
        unsafe { provider.socket((family, flags), context, dispatch, descriptor, irp) }
    });
    if let (Err((None, _)), Some(security)) = (&made, security) {
        security.abandon();
    }
    let (mut setup, information) = made.map_err(|(_, status)| status)?;
    let pointer = core::ptr::with_exposed_provenance_mut(information);
    let raw = RawSocket::new(pointer).ok_or(Status::UNSUCCESSFUL)?;
    let context = setup.buffers_mut().owner.take().ok_or(Status::UNSUCCESSFUL)?.into_raw();
    Ok((setup, raw, context))
}

/// Issues WskCloseSocket; the share in the IRP, which is armed, is WSK's, given back by `handler`.
pub(super) fn issue_close<T: Send + Sync + 'static>(
    irql: &mut AtMostDispatch,
    raw: &RawSocket,
    irp: Irp<Option<PoolArc<T>>>,
    handler: fn(Irp<Option<PoolArc<T>>>, Completion, &mut AtMostDispatch),
) {
    let socket = raw.as_ptr();
    // SAFETY: not closed yet; every socket's table begins with the basic one.
    let table = unsafe { raw.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
    // A provider without this function is none: nothing else can end the socket.
    let Some(function) = table.WskCloseSocket else { return };
    let _started = irp.start(
        irql,
        handler,
        |_| (),
        |irp, ()| {
            // SAFETY: the gate is run down, so no other function is in progress, and none is called afterwards.
            Status(unsafe { function(socket, irp) })
        },
    );
}
