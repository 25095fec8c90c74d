//! Connections' sockets: accepted ones, and those that weir dials.
//!
//! Data that are sent stay where they are until the request is completed, since WSK does not copy them
//! (PFN_WSK_SEND): a [`SendBuffer`] belongs to its request from [`ConnectionSocket::send`] until
//! [`ConnectionEvents::sent`].

use super::address;
use super::data::Data;
use super::events::{ConnectionEvents, Disconnected, connection_dispatch};
use super::provider::Provider;
use super::socket::{
    CONNECTION_EVENTS, Call, Closing, RawSocket, Setup, Socket, Step, issue_close, make, step,
};
use crate::kernel::irp::{Completion, Irp, Started};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::lock::SpinLock;
use crate::kernel::mdl::MdlBuffer;
use crate::kernel::pool::PoolArc;
use crate::kernel::{Result, Status};
use crate::sys::wsk::{
    NPI_WSK_INTERFACE_ID, SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, SOCKADDR_INET, WSK_BUF,
    WSK_FLAG_CONNECTION_SOCKET, WSK_FLAG_NODELAY, WSK_PROVIDER_CONNECTION_DISPATCH, WskIoctl,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// A connection's socket, a part of its owner `T`.
pub struct ConnectionSocket<T: ConnectionEvents> {
    socket: Socket,
    /// WSK's share of the owner; NULL before the socket is open, and after its close is issued.
    context: AtomicPtr<()>,
    phase: AtomicU32,
    requests: SpinLock<Requests<T>>,
}

/// The requests that are not out.
struct Requests<T: ConnectionEvents> {
    connect: Option<Irp<Connecting<T>>>,
    receive: Option<Irp<Receiving<T>>>,
    backlog: Option<Irp<Asking<T>>>,
    disconnect: Option<Irp<Option<PoolArc<T>>>>,
    close: Option<Irp<Option<PoolArc<T>>>>,
}

/// What a connect request refers to.
struct Connecting<T> {
    owner: Option<PoolArc<T>>,
    remote: SOCKADDR_INET,
}

/// What a receive request refers to.
struct Receiving<T> {
    owner: Option<PoolArc<T>>,
    data: MdlBuffer,
    described: WSK_BUF,
}

// SAFETY: `described` names the MDL of the buffer, which goes with it; the rest is Send.
unsafe impl<T: Send + Sync> Send for Receiving<T> {}

/// What a question for the ideal send backlog refers to.
struct Asking<T> {
    owner: Option<PoolArc<T>>,
    answer: usize,
}

/// What a send request refers to.
struct Sending<T> {
    owner: Option<PoolArc<T>>,
    data: MdlBuffer,
    described: WSK_BUF,
}

// SAFETY: as for `Receiving`.
unsafe impl<T: Send + Sync> Send for Sending<T> {}

/// What a request refers to, with a share of the socket's owner in it.
trait Owned {
    type Owner;
    fn take_owner(&mut self) -> Option<PoolArc<Self::Owner>>;
}

impl<T> Owned for Receiving<T> {
    type Owner = T;
    fn take_owner(&mut self) -> Option<PoolArc<T>> {
        self.owner.take()
    }
}

impl<T> Owned for Asking<T> {
    type Owner = T;
    fn take_owner(&mut self) -> Option<PoolArc<T>> {
        self.owner.take()
    }
}

impl<T> Owned for Option<PoolArc<T>> {
    type Owner = T;
    fn take_owner(&mut self) -> Self {
        self.take()
    }
}

/// Bytes that a receive request has room for.
pub const RECEIVE_SIZE: usize = 2048;

/// A buffer in non-paged pool with the request that sends it. It can be sent again and again.
pub struct SendBuffer<T: ConnectionEvents> {
    request: Irp<Sending<T>>,
}

impl<T: ConnectionEvents> SendBuffer<T> {
    /// A zeroed buffer of `size` bytes.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for no bytes or 4 GiB and more; `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(size: usize) -> Result<Self> {
        let data = MdlBuffer::try_new(size)?;
        let described = WSK_BUF { Mdl: data.as_mdl(), Offset: 0, Length: size };
        Ok(Self { request: Irp::try_new(1, Sending { owner: None, data, described })? })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.request.buffers().data
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.request.buffers_mut().data
    }
}

/// Why a connection could not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialError {
    pub step: Step,
    pub status: Status,
    /// Whether [`ConnectionEvents::closed`] follows.
    pub closing: Closing,
}

/// Offered by WSK, which closes the socket itself if it is refused; or to be dialled.
const NEW: u32 = 0;
/// Being dialled: the socket is not open yet.
const DIALLING: u32 = 1;
const OPEN: u32 = 2;
const CLOSING: u32 = 3;
const CLOSED: u32 = 4;

impl<T: ConnectionEvents> ConnectionSocket<T> {
    /// Prepares to own an offered socket. Nothing is called on it. Dropping the result refuses it.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn offered(raw: RawSocket) -> Result<Self> {
        Self::try_new(Some(raw), None)
    }

    /// Prepares to own a socket that [`ConnectionSocket::dial`] will make.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn to_dial() -> Result<Self> {
        let connecting = Connecting { owner: None, remote: address::unspecified() };
        Self::try_new(None, Some(Irp::try_new(1, connecting)?))
    }

    fn try_new(raw: Option<RawSocket>, connect: Option<Irp<Connecting<T>>>) -> Result<Self> {
        let data = MdlBuffer::try_new(RECEIVE_SIZE)?;
        let described = WSK_BUF { Mdl: data.as_mdl(), Offset: 0, Length: RECEIVE_SIZE };
        let mut close = Irp::try_new(1, None)?;
        close.arm()?;
        let requests = Requests {
            connect,
            receive: Some(Irp::try_new(1, Receiving { owner: None, data, described })?),
            backlog: Some(Irp::try_new(1, Asking { owner: None, answer: 0 })?),
            disconnect: Some(Irp::try_new(1, None)?),
            close: Some(close),
        };
        Ok(Self {
            socket: Socket::try_new(raw)?,
            context: AtomicPtr::new(null_mut()),
            phase: AtomicU32::new(NEW),
            requests: SpinLock::new("socket requests", requests),
        })
    }

    /// The offered socket is ours from now on. Returns WSK's context: a share of the owner.
    pub(super) fn accept(&self, owner: &PoolArc<T>) -> NonNull<()> {
        let context = owner.clone().into_raw();
        self.open(context);
        context
    }

    fn open(&self, context: NonNull<()>) {
        self.context.store(context.as_ptr(), Ordering::Release);
        self.phase.store(OPEN, Ordering::Release);
    }

    /// Passes the gate; `None` before the socket is open, and once closing has begun.
    pub fn call(&self) -> Option<Call<'_>> {
        if self.phase.load(Ordering::Acquire) == OPEN { self.socket.call() } else { None }
    }

    /// Whether close has completed, or there was nothing to close after all.
    pub fn is_closed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CLOSED
    }

    /// Makes the socket, binds it to the wildcard address of `remote`'s family, and asks for the connection.
    /// [`ConnectionEvents::connected`] follows. Once for each socket, and not beside [`ConnectionSocket::close`].
    ///
    /// # Errors
    /// [`DialError`]. Every step before the connection itself is waited for, within bounds; a socket that was made is
    /// closed again.
    pub fn dial(
        &self,
        passive: &mut Passive,
        provider: &Provider<'_>,
        owner: &PoolArc<T>,
        remote: SocketAddr,
    ) -> core::result::Result<(), DialError> {
        let nothing = |step, status| DialError { step, status, closing: Closing::NothingToClose };
        let connect = self.requests.lock(passive).connect.take();
        let Some(mut connect) = connect else {
            return Err(nothing(Step::Connect, Status::INVALID_DEVICE_STATE));
        };
        self.phase.store(DIALLING, Ordering::Release);
        let made = Self::allocate(owner, remote).map_err(|status| nothing(Step::Allocate, status)).and_then(
            |setup| {
                let category = (address::family(&remote), WSK_FLAG_CONNECTION_SOCKET);
                let dispatch = core::ptr::from_ref(connection_dispatch::<T>()).cast();
                // SAFETY: the table of connection sockets that a `T` owns.
                let made = unsafe { make(passive, provider, category, dispatch, None, setup) };
                made.map_err(|status| nothing(Step::Socket, status))
            },
        );
        let (setup, raw, context) = match made {
            Ok(made) => made,
            Err(error) => {
                self.phase.store(CLOSED, Ordering::Release);
                return Err(error);
            }
        };
        self.socket.made(&raw);
        self.open(context);
        connect.buffers_mut().remote = address::to_sockaddr(&remote);
        match self.bind_and_connect(passive, owner, setup, connect) {
            Ok(()) => Ok(()),
            Err((step, status)) => {
                self.close(passive);
                Err(DialError { step, status, closing: Closing::Issued })
            }
        }
    }

    fn allocate(owner: &PoolArc<T>, remote: SocketAddr) -> Result<Irp<Setup<T>>> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = address::to_sockaddr(&SocketAddr::new(any, 0));
        Irp::try_new(1, Setup { owner: Some(owner.clone()), address, option: 0 })
    }

    /// What WskConnect needs first (else STATUS_INVALID_DEVICE_STATE), and WskConnect.
    fn bind_and_connect(
        &self,
        passive: &mut Passive,
        owner: &PoolArc<T>,
        setup: Irp<Setup<T>>,
        mut connect: Irp<Connecting<T>>,
    ) -> core::result::Result<(), (Step, Status)> {
        let call = self.call().ok_or((Step::Bind, Status::CANCELLED))?;
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let socket = call.raw.as_ptr();
        let bind = table.WskBind.ok_or((Step::Bind, Status::NOT_SUPPORTED))?;
        let bound = step(passive, setup, |irp, setup| {
            // SAFETY: the address is the IRP's own, in non-paged pool until the completion.
            Status(unsafe { bind(socket, address::as_psockaddr(&raw mut setup.address), 0, irp) })
        });
        bound.map_err(|(_, status)| (Step::Bind, status))?;
        let function = table.WskConnect.ok_or((Step::Connect, Status::NOT_SUPPORTED))?;
        connect.buffers_mut().owner = Some(owner.clone());
        let started = connect.start(
            passive,
            connect_done::<T>,
            |buffers| address::as_psockaddr(&raw mut buffers.remote),
            |irp, remote| {
                // SAFETY: inside the gate; the address is the request's own.
                Status(unsafe { function(socket, remote, 0, irp) })
            },
        );
        match started {
            Ok(Started::Out) => Ok(()),
            Ok(Started::Ignored(status)) => Err((Step::Connect, status)),
            Err(_) => Err((Step::Connect, Status::INSUFFICIENT_RESOURCES)),
        }
    }

    /// Switches on the connection's events (SO_WSK_EVENT_CALLBACK), on a socket that was connected, where they are not
    /// on anyway.
    ///
    /// # Errors
    /// What WskControlSocket returns; `STATUS_INVALID_DEVICE_STATE` on a socket that is being closed.
    pub fn enable(&self) -> Result {
        let call = self.call().ok_or(Status::INVALID_DEVICE_STATE)?;
        call.enable_events(&NPI_WSK_INTERFACE_ID, CONNECTION_EVENTS)
    }

    /// Sends the first `length` bytes of `buffer`, or all of it if that is shorter. [`ConnectionEvents::sent`] gives it
    /// back. What is sent one after the other arrives in that order.
    ///
    /// # Errors
    /// The buffer, and nothing was sent: the socket is not open, or is being closed, or memory is wanting.
    pub fn send(
        &self,
        irql: &mut AtMostDispatch,
        owner: &PoolArc<T>,
        buffer: SendBuffer<T>,
        length: usize,
    ) -> core::result::Result<(), SendBuffer<T>> {
        let Some(call) = self.call() else { return Err(buffer) };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.WskSend else { return Err(buffer) };
        let SendBuffer { mut request } = buffer;
        let sending = request.buffers_mut();
        sending.owner = Some(owner.clone());
        // A length beyond the chain would stop Windows.
        sending.described.Length = length.min(sending.data.len());
        let socket = call.raw.as_ptr();
        let started = request.start(
            irql,
            sent::<T>,
            |buffers| &raw mut buffers.described,
            |irp, buffer| {
                // SAFETY: inside the gate; the buffer and what it describes are the request's own.
                Status(unsafe { function(socket, buffer, WSK_FLAG_NODELAY, irp) })
            },
        );
        match started {
            // A provider that ignores what it is to send keeps it: the connection is as good as stalled.
            Ok(Started::Out | Started::Ignored(_)) => Ok(()),
            Err(mut request) => {
                request.buffers_mut().owner = None;
                Err(SendBuffer { request })
            }
        }
    }

    /// Asks how many bytes should be outstanding to keep the connection busy (SIO_WSK_QUERY_IDEAL_SEND_BACKLOG), on a
    /// socket that is connected. Returns whether the question is out; [`ConnectionEvents::ideal_backlog`] follows then,
    /// if the provider knows.
    pub fn query_ideal_backlog(&self, irql: &mut AtMostDispatch, owner: &PoolArc<T>) -> bool {
        let Some(call) = self.call() else { return false };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.Basic.WskControlSocket else { return false };
        let Some(mut irp) = self.requests.lock(irql).backlog.take() else { return false };
        *irp.buffers_mut() = Asking { owner: Some(owner.clone()), answer: 0 };
        let socket = call.raw.as_ptr();
        let started = irp.start(
            irql,
            backlog_known::<T>,
            |buffers| &raw mut buffers.answer,
            |irp, answer| {
                // SAFETY: inside the gate; the output is the request's own; OutputSizeReturned is NULL, as the page of
                // the operation has it.
                Status(unsafe {
                    function(
                        socket,
                        WskIoctl,
                        SIO_WSK_QUERY_IDEAL_SEND_BACKLOG,
                        0,
                        0,
                        null_mut(),
                        size_of::<usize>(),
                        answer.cast(),
                        null_mut(),
                        irp,
                    )
                })
            },
        );
        self.put_back(irql, started, |requests| &mut requests.backlog)
    }

    /// Receives once (WskReceive): 1 to `most` bytes, [`RECEIVE_SIZE`] at most. [`ConnectionEvents::received`] and
    /// [`ConnectionEvents::receive_done`] follow, or [`ConnectionEvents::disconnected`], or, when the socket is closed,
    /// nothing. After the former this may be called again, but not from there. Returns whether a request was made: not
    /// while another one is out, nor on a socket that is being closed, nor when memory is wanting.
    pub fn receive(&self, irql: &mut AtMostDispatch, owner: &PoolArc<T>, most: usize) -> bool {
        let Some(call) = self.call() else { return false };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.WskReceive else { return false };
        let Some(mut irp) = self.requests.lock(irql).receive.take() else { return false };
        let receiving = irp.buffers_mut();
        receiving.owner = Some(owner.clone());
        receiving.described.Length = most.clamp(1, RECEIVE_SIZE);
        let socket = call.raw.as_ptr();
        let started = irp.start(
            irql,
            receive_done::<T>,
            |buffers| &raw mut buffers.described,
            |irp, buffer| {
                // SAFETY: inside the gate; the buffer and what it describes are the request's own.
                Status(unsafe { function(socket, buffer, 0, irp) })
            },
        );
        self.put_back(irql, started, |requests| &mut requests.receive)
    }

    /// Ends the sending side gracefully (WskDisconnect without data): the peer sees the end of the stream. Returns
    /// whether it was asked for; [`ConnectionEvents::disconnect_done`] follows then, perhaps only when the socket is
    /// closed, since a graceful disconnect has no bound of its own. The second time nothing happens.
    pub fn disconnect(&self, irql: &mut AtMostDispatch, owner: &PoolArc<T>) -> bool {
        let Some(call) = self.call() else { return false };
        // SAFETY: a connection socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_CONNECTION_DISPATCH>() };
        let Some(function) = table.WskDisconnect else { return false };
        let Some(mut irp) = self.requests.lock(irql).disconnect.take() else { return false };
        *irp.buffers_mut() = Some(owner.clone());
        let socket = call.raw.as_ptr();
        let started = irp.start(
            irql,
            disconnect_done::<T>,
            |_| (),
            |irp, ()| {
                // SAFETY: inside the gate; no buffer; the IRP is ready.
                Status(unsafe { function(socket, null_mut(), 0, irp) })
            },
        );
        self.put_back(irql, started, |requests| &mut requests.disconnect)
    }

    /// Keeps a request that was not made for another time. Whether it was.
    fn put_back<B: Owned + Send + 'static>(
        &self,
        irql: &mut AtMostDispatch,
        started: core::result::Result<Started, Irp<B>>,
        place: impl FnOnce(&mut Requests<T>) -> &mut Option<Irp<B>>,
    ) -> bool {
        match started {
            Ok(started) => started == Started::Out,
            Err(mut irp) => {
                let share = irp.buffers_mut().take_owner();
                *place(&mut self.requests.lock(irql)) = Some(irp);
                // Not under the lock: it may be the last one.
                drop(share);
                false
            }
        }
    }

    /// Closes the socket: waits until every call has returned, then issues WskCloseSocket, which cancels what is
    /// pending, a connect too, and aborts the connection unless both sides have ended it.
    /// [`ConnectionEvents::closed`] follows. The second time nothing happens.
    pub fn close(&self, passive: &mut Passive) {
        if self.phase.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        self.socket.shut(passive);
        let context = NonNull::new(self.context.swap(null_mut(), Ordering::AcqRel));
        // SAFETY: given up to WSK when the socket was opened, and the swap takes it once.
        let share = context.map(|context| unsafe { PoolArc::from_raw(context) });
        let close = self.requests.lock(passive).close.take();
        let (Some(mut irp), Some(raw)) = (close, self.socket.raw()) else { return };
        *irp.buffers_mut() = share;
        issue_close(passive, &raw, irp, connection_closed::<T>);
    }
}

fn connect_done<T: ConnectionEvents>(
    mut irp: Irp<Connecting<T>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = irp.buffers_mut().owner.take() {
        owner.connected(irql, completion.status.exact());
    }
}

fn sent<T: ConnectionEvents>(
    mut request: Irp<Sending<T>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    if let Some(owner) = request.buffers_mut().owner.take() {
        let result = completion.status.exact().map(|()| completion.information);
        owner.sent(irql, SendBuffer { request }, result);
    }
}

fn backlog_known<T: ConnectionEvents>(
    mut irp: Irp<Asking<T>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    let Asking { owner, answer } = irp.buffers_mut();
    let answer = *answer;
    let Some(owner) = owner.take() else { return };
    owner.socket().requests.lock(irql).backlog = Some(irp);
    if completion.status.exact().is_ok() {
        owner.ideal_backlog(irql, answer);
    }
}

fn receive_done<T: ConnectionEvents>(
    mut irp: Irp<Receiving<T>>,
    completion: Completion,
    irql: &mut AtMostDispatch,
) {
    let Some(owner) = irp.buffers_mut().owner.take() else { return };
    let ended = match (completion.status.exact(), completion.information) {
        (Ok(()), 0) => Some(Disconnected::Gracefully),
        (Ok(()), bytes) => {
            owner.received(irql, &mut Data::brought(&irp.buffers().data, bytes));
            None
        }
        (Err(_), _) => Some(Disconnected::Abortively),
    };
    owner.socket().requests.lock(irql).receive = Some(irp);
    match ended {
        None => owner.receive_done(irql),
        // The socket is being closed.
        Some(_) if completion.status == Status::CANCELLED => {}
        Some(how) => owner.disconnected(irql, how),
    }
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
