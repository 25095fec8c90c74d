//! Sockets: their functions, their gate, their end.
//!
//! - Functions are called through a [`Call`], which passes the socket's gate. Closing shuts the gate and waits until
//!   every call has returned; only then is WskCloseSocket called, as the documentation demands ("Closing a Socket"),
//!   extension functions included. WSK then cancels what is pending.
//! - Everything that closing needs is allocated before the socket is taken: it cannot fail for want of memory.
//! - WSK's context for a socket is a share of its owner, which close's completion gives back.
//!
//! IRQL: calls at <= DISPATCH_LEVEL where they need no wait; opening a listener and closing at PASSIVE_LEVEL.

use super::address;
use super::events::{ConnectionEvents, Disconnected, Incoming, ListenEvents, listen_dispatch};
use super::provider::Provider;
use crate::kernel::irp::{Bounds, Called, Completion, Irp};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::lock::SpinLock;
use crate::kernel::mdl::MdlBuffer;
use crate::kernel::pool::PoolArc;
use crate::kernel::rundown::{Protection, Rundown};
use crate::kernel::time::Interval;
use crate::kernel::{Result, Status};
use crate::sys::nt::{PIRP, PVOID};
use crate::sys::wsk::{
    IPPROTO_IPV6, IPV6_V6ONLY, NPI_WSK_INTERFACE_ID, NPIID, SIO_WSK_REGISTER_EXTENSION, SO_EXCLUSIVEADDRUSE,
    SO_WSK_EVENT_CALLBACK, SOCKADDR_INET, SOL_SOCKET, WSK_BUF, WSK_EVENT_ACCEPT, WSK_EVENT_CALLBACK_CONTROL,
    WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE, WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT,
    WSK_FLAG_LISTEN_SOCKET, WSK_PROVIDER_BASIC_DISPATCH, WSK_PROVIDER_CONNECTION_DISPATCH,
    WSK_PROVIDER_LISTEN_DISPATCH, WSK_SOCKET, WskIoctl, WskSetOption,
};
use core::ffi::c_void;
use core::net::{IpAddr, SocketAddr};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The events of weir's sockets. On a listening socket, those of connections are what accepted ones start with.
pub const EVENTS: u32 = WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT;

/// How long the making of a listener waits for each step.
const STEP: Bounds = Bounds { pending: Interval::from_millis(10_000), settle: Interval::from_millis(1_000) };

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

    fn as_ptr(&self) -> *mut WSK_SOCKET {
        self.0.as_ptr()
    }

    /// The socket's table, of the category's type.
    ///
    /// # Safety
    /// The socket is of the category whose provider table `D` is, and not closed while the reference lasts.
    unsafe fn dispatch<D>(&self) -> &D {
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
struct Socket {
    raw: RawSocket,
    gate: Rundown,
}

/// Being inside a socket's gate: its functions may be called, extension functions included, and it is not closed
/// meanwhile. Hold it shortly, and not across a wait.
#[derive(Debug)]
pub struct Call<'s> {
    raw: &'s RawSocket,
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
    /// `client_dispatch` is the interface's client table, and it and `client_context` stay valid until the socket's
    /// close has completed.
    ///
    /// # Errors
    /// What WskControlSocket returns other than exactly STATUS_SUCCESS: the output is meaningless then.
    pub unsafe fn register_extension(
        &self,
        npi_id: &'static NPIID,
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
    pub fn enable_events(&self, npi_id: &'static NPIID, mask: u32) -> Result {
        let mut input = WSK_EVENT_CALLBACK_CONTROL { NpiId: npi_id, EventMask: mask };
        let request = (WskSetOption, SO_WSK_EVENT_CALLBACK, SOL_SOCKET);
        // SAFETY: inside the gate; the option's own structure; enabling completes inline, without IRP.
        let status = unsafe { self.raw.control_inline(request, &mut input, None::<&mut u32>) };
        status.exact()
    }
}

impl Socket {
    fn call(&self) -> Option<Call<'_>> {
        Some(Call { _inside: self.gate.acquire()?, raw: &self.raw })
    }
}

/// A request with a share of the socket's owner in it, kept ready.
type Reserved<T> = SpinLock<Option<Irp<Option<PoolArc<T>>>>>;

fn reserve<T: Send + Sync + 'static>(name: &'static str) -> Result<Reserved<T>> {
    Ok(SpinLock::new(name, Some(Irp::try_new(1, None)?)))
}

/// An accepted connection's socket, a part of its owner `T`.
pub struct ConnectionSocket<T: ConnectionEvents> {
    socket: Socket,
    /// WSK's share of the owner; NULL before the socket is open, and after its close is issued.
    context: AtomicPtr<()>,
    phase: AtomicU32,
    disconnect: Reserved<T>,
    close: Reserved<T>,
    /// Where WSK has no receive events: the one request, while it is not out.
    receive: SpinLock<Option<Irp<Receiving<T>>>>,
}

/// What a receive request refers to.
struct Receiving<T> {
    owner: Option<PoolArc<T>>,
    /// Owned for `described`, which names its MDL.
    _data: MdlBuffer,
    described: WSK_BUF,
}

// SAFETY: `described` names the MDL of the buffer, which goes with it; the rest is Send.
unsafe impl<T: Send + Sync> Send for Receiving<T> {}

/// Bytes that a receive request has room for.
const RECEIVE_SIZE: usize = 4096;

/// Offered by WSK, which closes the socket itself if it is refused.
const OFFERED: u32 = 0;
const OPEN: u32 = 1;
const CLOSING: u32 = 2;
const CLOSED: u32 = 3;

impl<T: ConnectionEvents> ConnectionSocket<T> {
    /// Prepares to own an offered socket. Nothing is called on it. Dropping the result refuses it.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn offered(raw: RawSocket) -> Result<Self> {
        Ok(Self {
            socket: Socket { raw, gate: Rundown::try_new()? },
            context: AtomicPtr::new(null_mut()),
            phase: AtomicU32::new(OFFERED),
            disconnect: reserve("disconnect request")?,
            close: reserve("close request")?,
            receive: SpinLock::new("receive request", None),
        })
    }

    /// The socket is ours from now on. Returns WSK's context: a share of the owner.
    pub(super) fn open(&self, owner: &PoolArc<T>) -> NonNull<()> {
        let context = owner.clone().into_raw();
        self.context.store(context.as_ptr(), Ordering::Release);
        self.phase.store(OPEN, Ordering::Release);
        context
    }

    /// Passes the gate; `None` once closing has begun.
    pub fn call(&self) -> Option<Call<'_>> {
        if self.phase.load(Ordering::Acquire) == OPEN { self.socket.call() } else { None }
    }

    /// Whether close has completed.
    pub fn is_closed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CLOSED
    }

    /// Ends the sending side gracefully (WskDisconnect without data): the peer sees the end of the stream. Returns
    /// whether it was asked for; [`ConnectionEvents::disconnect_done`] follows then, perhaps only when the socket is
    /// closed, since a graceful disconnect has no bound of its own. The second time nothing happens.
    pub fn disconnect(&self, irql: &mut AtMostDispatch, owner: &PoolArc<T>) -> bool {
        let Some(call) = self.call() else { return false };
        let Some(mut irp) = self.disconnect.lock(irql).take() else { return false };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.WskDisconnect else { return false };
        *irp.buffers_mut() = Some(owner.clone());
        let socket = call.raw.as_ptr();
        let _returned = irp.start(
            disconnect_done::<T>,
            |_| (),
            |irp, ()| {
                // SAFETY: inside the gate; no buffer; the IRP is ready.
                Status(unsafe { function(socket, null_mut(), 0, irp) })
            },
        );
        true
    }

    /// Makes the request that [`ConnectionSocket::receive`] uses, where WSK has no receive events.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn prepare_receive(&self, irql: &mut AtMostDispatch) -> Result {
        let data = MdlBuffer::try_new(RECEIVE_SIZE)?;
        let described = WSK_BUF { Mdl: data.as_mdl(), Offset: 0, Length: RECEIVE_SIZE };
        let request = Irp::try_new(1, Receiving { owner: None, _data: data, described })?;
        *self.receive.lock(irql) = Some(request);
        Ok(())
    }

    /// Receives once (WskReceive). [`ConnectionEvents::received`], with [`ConnectionEvents::receive_done`], or
    /// [`ConnectionEvents::disconnected`] follows; then this may be called again, but not from there. Nothing happens
    /// while a request is out.
    pub fn receive(&self, irql: &mut AtMostDispatch, owner: &PoolArc<T>) {
        let Some(call) = self.call() else { return };
        let Some(mut irp) = self.receive.lock(irql).take() else { return };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.WskReceive else { return };
        irp.buffers_mut().owner = Some(owner.clone());
        let socket = call.raw.as_ptr();
        let _returned = irp.start(
            receive_done::<T>,
            |buffers| &raw mut buffers.described,
            |irp, buffer| {
                // SAFETY: inside the gate; the buffer and what it describes are the request's own.
                Status(unsafe { function(socket, buffer, 0, irp) })
            },
        );
    }

    /// Closes the socket: waits until every call has returned, then issues WskCloseSocket, which aborts the
    /// connection unless both sides have ended it. [`ConnectionEvents::closed`] follows. The second time nothing
    /// happens.
    pub fn close(&self, passive: &mut Passive) {
        if self.phase.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.socket.gate.run_down(passive);
        let context = NonNull::new(self.context.swap(null_mut(), Ordering::AcqRel));
        // SAFETY: `open` gave this share up, and the swap takes it once.
        let share = context.map(|context| unsafe { PoolArc::from_raw(context) });
        let Some(mut irp) = self.close.lock(passive).take() else { return };
        *irp.buffers_mut() = share;
        // SAFETY: a connection socket, not closed yet.
        let table = unsafe { self.socket.raw.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
        issue_close(&self.socket.raw, *table, irp, connection_closed::<T>);
    }
}

/// Issues WskCloseSocket; the share in the IRP is WSK's, given back by `handler`.
fn issue_close<T: Send + Sync + 'static>(
    raw: &RawSocket,
    table: WSK_PROVIDER_BASIC_DISPATCH,
    irp: Irp<Option<PoolArc<T>>>,
    handler: fn(Irp<Option<PoolArc<T>>>, Completion, &mut AtMostDispatch),
) {
    let socket = raw.as_ptr();
    // A provider without this function is none: nothing else can end the socket.
    let Some(function) = table.WskCloseSocket else { return };
    let _returned = irp.start(
        handler,
        |_| (),
        |irp, ()| {
            // SAFETY: the gate is run down, so no other function is in progress, and none is called afterwards.
            Status(unsafe { function(socket, irp) })
        },
    );
}

fn disconnect_done<T: ConnectionEvents>(
    mut irp: Irp<Option<PoolArc<T>>>,
    _completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = irp.buffers_mut().take() {
        owner.disconnect_done(irql);
    }
}

fn connection_closed<T: ConnectionEvents>(
    mut irp: Irp<Option<PoolArc<T>>>,
    _completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = irp.buffers_mut().take() {
        owner.socket().phase.store(CLOSED, Ordering::Release);
        owner.closed(irql);
    }
}

/// The completion of [`ConnectionSocket::receive`].
fn receive_done<T: ConnectionEvents>(
    mut irp: Irp<Receiving<T>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    let Some(owner) = irp.buffers_mut().owner.take() else { return };
    *owner.socket().receive.lock(irql) = Some(irp);
    match (completion.status.exact(), completion.information) {
        // The peer's end of the stream.
        (Ok(()), 0) => owner.disconnected(irql, Disconnected::Gracefully),
        (Ok(()), bytes) => {
            owner.received(irql, bytes);
            owner.receive_done(irql);
        }
        // The socket is being closed.
        (Err(Status::CANCELLED), _) => {}
        (Err(_), _) => owner.disconnected(irql, Disconnected::Abortively),
    }
}

/// A bound listening socket. It must be closed by [`ListenSocket::close`].
#[must_use = "a listener that is not closed keeps WSK from being deregistered"]
pub struct ListenSocket<L: ListenEvents> {
    socket: Socket,
    address: SocketAddr,
    context: NonNull<()>,
    close: Irp<Option<PoolArc<L>>>,
    exclusive: Result,
}

// SAFETY: the context is a share of an `L`, which is Send and Sync; the rest is.
unsafe impl<L: ListenEvents> Send for ListenSocket<L> {}

/// What the requests of a listener's making refer to.
struct Setup {
    address: SOCKADDR_INET,
    option: u32,
}

/// The step at which a listener could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Allocate = 0,
    Socket = 1,
    DualStack = 2,
    Bind = 3,
    LocalAddress = 4,
}

/// Why a listener could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenError {
    pub step: Step,
    pub status: Status,
}

impl Step {
    fn failed(self) -> impl FnOnce(Status) -> ListenError {
        move |status| ListenError { step: self, status }
    }
}

impl<L: ListenEvents> ListenSocket<L> {
    /// Makes a socket that listens on `address`; port 0 lets the transport choose. The unspecified IPv6 address
    /// takes IPv4 connections as well. From bind on, connections queue up; their events come once they are enabled.
    ///
    /// # Errors
    /// [`ListenError`]. A socket that was made is closed again: [`ListenEvents::closed`] follows, as the result's
    /// second part says.
    pub fn bind(
        passive: &mut Passive,
        provider: &Provider<'_>,
        owner: &PoolArc<L>,
        address: SocketAddr,
    ) -> core::result::Result<Self, (ListenError, Closing)> {
        let nothing = |error| (error, Closing::NothingToClose);
        let (setup, close, gate) = allocate(address).map_err(Step::Allocate.failed()).map_err(nothing)?;

        let context = owner.clone().into_raw();
        let made = step(passive, setup, |irp, _| {
            let dispatch = core::ptr::from_ref(listen_dispatch::<L>()).cast();
            let family = address::family(&address);
            // SAFETY: the table of listening sockets, whose functions expect this context; both outlive the socket.
            unsafe { provider.socket(family, WSK_FLAG_LISTEN_SOCKET, context.as_ptr().cast(), dispatch, irp) }
        });
        let (setup, raw) = match made {
            Ok((setup, information)) => {
                (setup, RawSocket::new(core::ptr::with_exposed_provenance_mut(information)))
            }
            Err((_, status)) => {
                // SAFETY: no socket was made, so the context is still ours.
                drop(unsafe { PoolArc::<L>::from_raw(context) });
                return Err(nothing(Step::Socket.failed()(status)));
            }
        };
        let Some(raw) = raw else {
            // SAFETY: no socket was made, so the context is still ours.
            drop(unsafe { PoolArc::<L>::from_raw(context) });
            return Err(nothing(Step::Socket.failed()(Status::UNSUCCESSFUL)));
        };

        let mut this = Self { socket: Socket { raw, gate }, address, context, close, exclusive: Ok(()) };
        match this.set_up(passive, setup) {
            Ok(()) => Ok(this),
            Err(error) => {
                this.close(passive);
                Err((error, Closing::Issued))
            }
        }
    }

    /// The steps between the socket's creation and its first connection.
    fn set_up(&mut self, passive: &Passive, setup: Irp<Setup>) -> core::result::Result<(), ListenError> {
        // SAFETY: made as a listening socket; closed only by `close`, which takes `self`.
        let table = unsafe { self.socket.raw.dispatch::<WSK_PROVIDER_LISTEN_DISPATCH>() };
        let socket = self.socket.raw.as_ptr();

        let mut setup = setup;
        if self.address.ip() == IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED) {
            setup.buffers_mut().option = 0;
            let set = step(passive, setup, |irp, setup| {
                // SAFETY: the option is the IRP's own.
                unsafe { set_option(table, socket, (IPPROTO_IPV6, IPV6_V6ONLY), &mut setup.option, irp) }
            });
            (setup, _) = set.map_err(|(_, status)| Step::DualStack.failed()(status))?;
        }

        // Before bind, and with an IRP. A provider that cannot is used all the same: the operator is told.
        setup.buffers_mut().option = 1;
        let set = step(passive, setup, |irp, setup| {
            // SAFETY: the option is the IRP's own.
            unsafe { set_option(table, socket, (SOL_SOCKET, SO_EXCLUSIVEADDRUSE), &mut setup.option, irp) }
        });
        self.exclusive = set.as_ref().map(|_| ()).map_err(|(_, status)| *status);
        let setup = match set {
            Ok((setup, _)) | Err((Some(setup), _)) => setup,
            Err((None, _)) => fresh_setup(self.address)?,
        };

        let bound = step(passive, setup, |irp, setup| {
            let function = table.WskBind?;
            // SAFETY: the address is the IRP's own, in non-paged pool until the completion.
            Some(Status(unsafe { function(socket, address::as_psockaddr(&raw mut setup.address), 0, irp) }))
        });
        let (mut setup, _) = bound.map_err(|(_, status)| Step::Bind.failed()(status))?;

        if self.address.port() != 0 {
            return Ok(());
        }
        setup.buffers_mut().address = address::unspecified();
        let asked = step(passive, setup, |irp, setup| {
            let function = table.WskGetLocalAddress?;
            // SAFETY: as above; large enough for both families.
            Some(Status(unsafe { function(socket, address::as_psockaddr(&raw mut setup.address), irp) }))
        });
        // Nobody could be told of a port that nobody knows.
        let (setup, _) = asked.map_err(|(_, status)| Step::LocalAddress.failed()(status))?;
        self.address = address::from_inet(&setup.buffers().address)
            .ok_or(Status::UNSUCCESSFUL)
            .map_err(Step::LocalAddress.failed())?;
        Ok(())
    }

    /// The address that the socket is bound to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether no other socket can be bound to the same address (SO_EXCLUSIVEADDRUSE), or why this cannot be had.
    pub const fn exclusive(&self) -> Result {
        self.exclusive
    }

    /// Passes the gate.
    pub fn call(&self) -> Option<Call<'_>> {
        self.socket.call()
    }

    /// Lets connections in, and switches on the events that they start with.
    ///
    /// # Errors
    /// What WskControlSocket returns.
    pub fn enable(&self) -> Result {
        let call = self.call().ok_or(Status::INVALID_DEVICE_STATE)?;
        call.enable_events(&NPI_WSK_INTERFACE_ID, EVENTS)
    }

    /// Accepts by request (WskAccept), where WSK has no accept events. [`ListenEvents::accept_done`] follows.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn accept(&self, owner: &PoolArc<L>) -> Result {
        let buffers =
            Accepting { owner: None, local: address::unspecified(), remote: address::unspecified() };
        self.accept_again(owner, Irp::try_new(1, buffers)?);
        Ok(())
    }

    fn accept_again(&self, owner: &PoolArc<L>, mut irp: Irp<Accepting<L>>) {
        let Some(call) = self.call() else { return };
        // SAFETY: a listening socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_LISTEN_DISPATCH>() };
        let Some(function) = table.WskAccept else { return };
        irp.buffers_mut().owner = Some(owner.clone());
        let socket = call.raw.as_ptr();
        let addresses = |buffers: &mut Accepting<L>| {
            (address::as_psockaddr(&raw mut buffers.local), address::as_psockaddr(&raw mut buffers.remote))
        };
        let _returned = irp.start(accept_done::<L>, addresses, |irp, (local, remote)| {
            // SAFETY: inside the gate; no events, hence no context and no table; the addresses are the request's own.
            Status(unsafe { function(socket, 0, null_mut(), core::ptr::null(), local, remote, irp) })
        });
    }

    /// Takes in what a request has accepted, or refuses it, and makes the next request.
    ///
    /// # Errors
    /// Why nothing more can be accepted: the socket must be closed.
    pub fn accepted(&self, passive: &mut Passive, owner: &PoolArc<L>, accepted: Accepted<L>) -> Result {
        let Accepted { mut irp, completion } = accepted;
        completion.status.exact()?;
        let pointer = core::ptr::with_exposed_provenance_mut(completion.information);
        let socket = RawSocket::new(pointer).ok_or(Status::UNSUCCESSFUL)?;
        let buffers = irp.buffers();
        let incoming = Incoming {
            socket,
            local: address::from_inet(&buffers.local),
            remote: address::from_inet(&buffers.remote),
        };
        if let Some(connection) = owner.admit(passive, incoming) {
            // The share that WSK would have as a context; close gives it back all the same.
            connection.socket().open(&connection);
            owner.admitted(passive, connection);
        } else if let Some(refused) = RawSocket::new(pointer) {
            match close_refused(passive, &refused, irp) {
                Some(again) => irp = again,
                None => return self.accept(owner),
            }
        }
        self.accept_again(owner, irp);
        Ok(())
    }

    /// Closes the socket: waits until every call has returned, then issues WskCloseSocket.
    /// [`ListenEvents::closed`] follows.
    pub fn close(self, passive: &mut Passive) {
        self.socket.gate.run_down(passive);
        let mut irp = self.close;
        // SAFETY: `bind` gave this share up to WSK; close's completion drops it.
        *irp.buffers_mut() = Some(unsafe { PoolArc::from_raw(self.context) });
        // SAFETY: not closed yet.
        let table = unsafe { self.socket.raw.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
        issue_close(&self.socket.raw, *table, irp, listener_closed::<L>);
    }
}

/// What an accept request refers to.
struct Accepting<L> {
    owner: Option<PoolArc<L>>,
    local: SOCKADDR_INET,
    remote: SOCKADDR_INET,
}

/// An accept request that is over.
pub struct Accepted<L: ListenEvents> {
    irp: Irp<Accepting<L>>,
    completion: Completion,
}

impl<L: ListenEvents> Accepted<L> {
    /// Refuses the connection, if there is one: nobody listens any more.
    pub fn refuse(self, passive: &Passive) {
        let pointer = core::ptr::with_exposed_provenance_mut(self.completion.information);
        if self.completion.status.exact().is_ok()
            && let Some(refused) = RawSocket::new(pointer)
        {
            let _irp = close_refused(passive, &refused, self.irp);
        }
    }
}

/// Closes a socket that a request has accepted and nobody wants; unlike one that an event offers, it is ours to close.
/// The request comes back unless it was never completed.
fn close_refused<B: Send + 'static>(passive: &Passive, refused: &RawSocket, irp: Irp<B>) -> Option<Irp<B>> {
    // SAFETY: accepted just now, hence not closed.
    let table = unsafe { refused.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
    let function = table.WskCloseSocket?;
    let closed = irp.call(passive, STEP, |irp, _| {
        // SAFETY: no other function was ever called on the socket; the request is ready.
        Status(unsafe { function(refused.as_ptr(), irp) })
    });
    match closed {
        Called::Completed(irp, _) => Some(irp),
        Called::NeverCompleted(_) => None,
    }
}

fn accept_done<L: ListenEvents>(
    mut irp: Irp<Accepting<L>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = irp.buffers_mut().owner.take() {
        owner.accept_done(irql, Accepted { irp, completion });
    }
}

/// Whether a socket is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    NothingToClose,
    /// [`ListenEvents::closed`] follows.
    Issued,
}

fn listener_closed<L: ListenEvents>(
    mut irp: Irp<Option<PoolArc<L>>>,
    _completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = irp.buffers_mut().take() {
        owner.closed(irql);
    }
}

/// Everything that a listener's making and closing need.
#[expect(clippy::type_complexity, reason = "taken apart at once")]
fn allocate<L: ListenEvents>(address: SocketAddr) -> Result<(Irp<Setup>, Irp<Option<PoolArc<L>>>, Rundown)> {
    let setup = Setup { address: address::to_sockaddr(&address), option: 0 };
    Ok((Irp::try_new(1, setup)?, Irp::try_new(1, None)?, Rundown::try_new()?))
}

fn fresh_setup(address: SocketAddr) -> core::result::Result<Irp<Setup>, ListenError> {
    let setup = Setup { address: address::to_sockaddr(&address), option: 0 };
    Irp::try_new(1, setup).map_err(Step::Allocate.failed())
}

/// WskControlSocket for a socket option, with an IRP.
///
/// # Safety
/// The socket is not closed, `table` is its own, and `irp` owns `option`.
unsafe fn set_option(
    table: &WSK_PROVIDER_LISTEN_DISPATCH,
    socket: *mut WSK_SOCKET,
    (level, option): (u32, u32),
    value: &mut u32,
    irp: PIRP,
) -> Option<Status> {
    let function = table.Basic.WskControlSocket?;
    // SAFETY: the caller's promises; an option of four bytes, no output.
    let status = unsafe {
        function(
            socket,
            WskSetOption,
            option,
            level,
            size_of::<u32>(),
            core::ptr::from_mut(value).cast(),
            0,
            null_mut(),
            null_mut(),
            irp,
        )
    };
    Some(Status(status))
}

/// Makes one request of a listener's making, and waits for it. `issue` returns `None` where the provider has no such
/// function. The IRP comes back unless it was never completed.
#[expect(clippy::type_complexity, reason = "the request comes back either way")]
fn step(
    passive: &Passive,
    request: Irp<Setup>,
    issue: impl FnOnce(PIRP, &mut Setup) -> Option<Status>,
) -> core::result::Result<(Irp<Setup>, usize), (Option<Irp<Setup>>, Status)> {
    let mut missing = false;
    let called = request.call(passive, STEP, |irp, setup| {
        issue(irp, setup).unwrap_or_else(|| {
            missing = true;
            Status::NOT_SUPPORTED
        })
    });
    match called {
        Called::Completed(irp, Completion { status, information }) => match status.exact() {
            Ok(()) => Ok((irp, information)),
            Err(status) => Err((Some(irp), status)),
        },
        Called::NeverCompleted(_) if missing => Err((None, Status::NOT_SUPPORTED)),
        Called::NeverCompleted(status) => Err((None, status)),
    }
}
