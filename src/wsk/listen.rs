//! Listening sockets.
//!
//! A listening socket listens from WskBind on, and accepts by event, or by request where WSK has no events.

use super::address;
use super::events::{ConnectionEvents, Incoming, ListenEvents, listen_dispatch};
use super::provider::Provider;
use super::security::Cached;
use super::socket::{Call, Closing, EVENTS, RawSocket, STEP, Setup, Socket, Step, issue_close, make, step};
use crate::kernel::irp::{Called, Completion, Irp, Started};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::PoolArc;
use crate::kernel::{Result, Status};
use crate::sys::wsk::{
    IPPROTO_IPV6, IPV6_V6ONLY, NPI_WSK_INTERFACE_ID, SO_EXCLUSIVEADDRUSE, SOCKADDR_INET, SOL_SOCKET,
    WSK_FLAG_LISTEN_SOCKET, WSK_PROVIDER_BASIC_DISPATCH, WSK_PROVIDER_LISTEN_DISPATCH, WSK_SOCKET,
    WskSetOption,
};
use core::net::{IpAddr, SocketAddr};
use core::ptr::{NonNull, null_mut};

/// A bound listening socket. It must be closed by [`ListenSocket::close`].
#[must_use = "a listener that is not closed keeps WSK from being deregistered"]
pub struct ListenSocket<L: ListenEvents> {
    socket: Socket,
    raw: RawSocket,
    address: SocketAddr,
    context: NonNull<()>,
    close: Irp<Option<PoolArc<L>>>,
    exclusive: Result,
    secured: Result,
}

// SAFETY: the context is a share of an `L`, which is Send and Sync; the rest is.
unsafe impl<L: ListenEvents> Send for ListenSocket<L> {}

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
        let allocated = allocate(owner, address).map_err(Step::Allocate.failed()).map_err(nothing)?;
        let (setup, close, socket) = allocated;
        let category = (address::family(&address), WSK_FLAG_LISTEN_SOCKET);
        let dispatch = core::ptr::from_ref(listen_dispatch::<L>()).cast();
        let (security, secured) = match Cached::new(provider) {
            Ok(security) => (Some(security), Ok(())),
            Err(status) => (None, Err(status)),
        };
        // SAFETY: the table of listening sockets that an `L` owns.
        let made = unsafe { make(passive, provider, category, dispatch, security, setup) };
        let (setup, raw, context) = made.map_err(Step::Socket.failed()).map_err(nothing)?;
        socket.made(&raw);
        let mut this = Self { socket, raw, address, context, close, exclusive: Ok(()), secured };
        match this.set_up(passive, setup) {
            Ok(()) => Ok(this),
            Err(error) => {
                this.close(passive);
                Err((error, Closing::Issued))
            }
        }
    }

    /// The steps between the socket's creation and its first connection.
    fn set_up(&mut self, passive: &Passive, setup: Irp<Setup<L>>) -> core::result::Result<(), ListenError> {
        // SAFETY: made as a listening socket; closed only by `close`, which takes `self`.
        let table = unsafe { self.raw.dispatch::<WSK_PROVIDER_LISTEN_DISPATCH>() };
        let socket = self.raw.as_ptr();

        let mut setup = setup;
        if self.address.ip() == IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED) {
            // SAFETY: not closed, and its own table.
            let set = unsafe { set_option(passive, table, socket, setup, (IPPROTO_IPV6, IPV6_V6ONLY), 0) };
            (setup, _) = set.map_err(|(_, status)| Step::DualStack.failed()(status))?;
        }

        // Before bind, and with an IRP. A provider that cannot is used all the same: the operator is told.
        // SAFETY: as above.
        let set = unsafe { set_option(passive, table, socket, setup, (SOL_SOCKET, SO_EXCLUSIVEADDRUSE), 1) };
        self.exclusive = set.as_ref().map(|_| ()).map_err(|(_, status)| *status);
        let setup = match set {
            Ok((setup, _)) | Err((Some(setup), _)) => setup,
            Err((None, _)) => fresh_setup(None, self.address).map_err(Step::Allocate.failed())?,
        };

        let function = table.WskBind.ok_or(Status::NOT_SUPPORTED).map_err(Step::Bind.failed())?;
        let bound = step(passive, setup, |irp, setup| {
            // SAFETY: the address is the IRP's own, in non-paged pool until the completion.
            Status(unsafe { function(socket, address::as_psockaddr(&raw mut setup.address), 0, irp) })
        });
        let (mut setup, _) = bound.map_err(|(_, status)| Step::Bind.failed()(status))?;

        if self.address.port() != 0 {
            return Ok(());
        }
        setup.buffers_mut().address = address::unspecified();
        // Nobody could be told of a port that nobody knows.
        let function = table.WskGetLocalAddress.ok_or(Status::NOT_SUPPORTED);
        let function = function.map_err(Step::LocalAddress.failed())?;
        let asked = step(passive, setup, |irp, setup| {
            // SAFETY: as above; large enough for both families.
            Status(unsafe { function(socket, address::as_psockaddr(&raw mut setup.address), irp) })
        });
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

    /// Whether the socket has a security descriptor of ours, or why it has the default one, which does not let the address
    /// be shared either.
    pub const fn secured(&self) -> Result {
        self.secured
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
    /// `STATUS_INSUFFICIENT_RESOURCES`; what a provider returns that cannot.
    pub fn accept(&self, irql: &mut AtMostDispatch, owner: &PoolArc<L>) -> Result {
        let (local, remote) = (address::unspecified(), address::unspecified());
        self.accept_again(
            irql,
            owner,
            Irp::try_new(1, Accepting { owner: None, spare: None, local, remote })?,
        )
    }

    fn accept_again(
        &self,
        irql: &mut AtMostDispatch,
        owner: &PoolArc<L>,
        mut irp: Irp<Accepting<L>>,
    ) -> Result {
        let Some(call) = self.call() else { return Ok(()) };
        // SAFETY: a listening socket, and inside its gate.
        let table = unsafe { call.raw.dispatch::<WSK_PROVIDER_LISTEN_DISPATCH>() };
        let function = table.WskAccept.ok_or(Status::NOT_SUPPORTED)?;
        let buffers = irp.buffers_mut();
        // Before the request, so that whatever it accepts can be refused.
        match &mut buffers.spare {
            Some(spare) => spare.arm()?,
            none => {
                let mut spare = Irp::try_new(1, ())?;
                spare.arm()?;
                *none = Some(spare);
            }
        }
        buffers.owner = Some(owner.clone());
        let socket = call.raw.as_ptr();
        let addresses = |buffers: &mut Accepting<L>| {
            (address::as_psockaddr(&raw mut buffers.local), address::as_psockaddr(&raw mut buffers.remote))
        };
        let started = irp.start(irql, accept_done::<L>, addresses, |irp, (local, remote)| {
            // SAFETY: inside the gate; no events, hence no context and no table; the addresses are the request's own.
            Status(unsafe { function(socket, 0, null_mut(), core::ptr::null(), local, remote, irp) })
        });
        match started {
            Ok(Started::Out) => Ok(()),
            Ok(Started::Ignored(status)) => Err(status),
            Err(_) => Err(Status::INSUFFICIENT_RESOURCES),
        }
    }

    /// Takes in what a request has accepted, or refuses it, and makes the next request.
    ///
    /// # Errors
    /// Why nothing more can be accepted: the socket must be closed.
    pub fn accepted(&self, passive: &mut Passive, owner: &PoolArc<L>, accepted: Accepted<L>) -> Result {
        accepted.completion.status.exact()?;
        let socket = accepted.socket().ok_or(Status::UNSUCCESSFUL)?;
        let Accepted { mut irp, completion: _ } = accepted;
        let buffers = irp.buffers();
        let incoming = Incoming {
            socket: socket.again(),
            local: address::from_inet(&buffers.local),
            remote: address::from_inet(&buffers.remote),
        };
        if let Some(connection) = owner.admit(passive, incoming) {
            // The share that WSK would have as a context; close gives it back all the same.
            connection.socket().accept(&connection);
            owner.admitted(passive, connection);
        } else {
            refuse(passive, &socket, &mut irp);
        }
        self.accept_again(passive, owner, irp)
    }

    /// Closes the socket: waits until every call has returned, then issues WskCloseSocket.
    /// [`ListenEvents::closed`] follows.
    pub fn close(self, passive: &mut Passive) {
        self.socket.shut(passive);
        let mut irp = self.close;
        // SAFETY: `bind` gave this share up to WSK; close's completion drops it.
        *irp.buffers_mut() = Some(unsafe { PoolArc::from_raw(self.context) });
        issue_close(passive, &self.raw, irp, listener_closed::<L>);
    }
}

/// What an accept request refers to.
struct Accepting<L> {
    owner: Option<PoolArc<L>>,
    /// Closes what nobody wants. Armed while the request is out.
    spare: Option<Irp<()>>,
    local: SOCKADDR_INET,
    remote: SOCKADDR_INET,
}

/// An accept request that is over.
#[must_use = "what it has accepted is taken in or refused"]
pub struct Accepted<L: ListenEvents> {
    irp: Irp<Accepting<L>>,
    completion: Completion,
}

impl<L: ListenEvents> Accepted<L> {
    /// The socket of the connection, if there is one.
    fn socket(&self) -> Option<RawSocket> {
        self.completion.status.exact().ok()?;
        RawSocket::new(core::ptr::with_exposed_provenance_mut(self.completion.information))
    }

    /// Refuses the connection, if there is one: nobody listens any more.
    pub fn refuse(mut self, passive: &Passive) {
        if let Some(socket) = self.socket() {
            refuse(passive, &socket, &mut self.irp);
        }
    }
}

/// Closes a socket that a request has accepted and nobody wants; unlike one that an event offers, it is ours to close.
fn refuse<L: ListenEvents>(passive: &Passive, refused: &RawSocket, irp: &mut Irp<Accepting<L>>) {
    // SAFETY: accepted just now, hence not closed.
    let table = unsafe { refused.dispatch::<WSK_PROVIDER_BASIC_DISPATCH>() };
    let (Some(function), Some(spare)) = (table.WskCloseSocket, irp.buffers_mut().spare.take()) else {
        return;
    };
    let closed = spare.call(passive, STEP, |irp, ()| {
        // SAFETY: no other function was ever called on the socket; the request is ready.
        Status(unsafe { function(refused.as_ptr(), irp) })
    });
    if let Called::Completed(spare, _) = closed {
        irp.buffers_mut().spare = Some(spare);
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
fn allocate<L: ListenEvents>(
    owner: &PoolArc<L>,
    address: SocketAddr,
) -> Result<(Irp<Setup<L>>, Irp<Option<PoolArc<L>>>, Socket)> {
    let mut close = Irp::try_new(1, None)?;
    close.arm()?;
    Ok((fresh_setup(Some(owner.clone()), address)?, close, Socket::try_new(None)?))
}

fn fresh_setup<L: ListenEvents>(owner: Option<PoolArc<L>>, address: SocketAddr) -> Result<Irp<Setup<L>>> {
    Irp::try_new(1, Setup { owner, address: address::to_sockaddr(&address), option: 0 })
}

/// WskControlSocket for a socket option of four bytes, with an IRP.
///
/// # Safety
/// The socket is not closed, and `table` is its own.
#[expect(clippy::type_complexity, reason = "as of `step`")]
unsafe fn set_option<L: ListenEvents>(
    passive: &Passive,
    table: &WSK_PROVIDER_LISTEN_DISPATCH,
    socket: *mut WSK_SOCKET,
    mut setup: Irp<Setup<L>>,
    (level, option): (u32, u32),
    value: u32,
) -> core::result::Result<(Irp<Setup<L>>, usize), (Option<Irp<Setup<L>>>, Status)> {
    let Some(function) = table.Basic.WskControlSocket else {
        return Err((Some(setup), Status::NOT_SUPPORTED));
    };
    setup.buffers_mut().option = value;
    step(passive, setup, |irp, setup| {
        // SAFETY: the caller's promises; the option is the IRP's own; no output.
        Status(unsafe {
            function(
                socket,
                WskSetOption,
                option,
                level,
                size_of::<u32>(),
                (&raw mut setup.option).cast(),
                0,
                null_mut(),
                null_mut(),
                irp,
            )
        })
    })
}
