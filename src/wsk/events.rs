//! WSK's event callbacks, as traits.
//!
//! WSK calls the functions of a client dispatch table at IRQL <= DISPATCH_LEVEL, and counts on them to return soon
//! and wait for nothing: they get an [`AtMostDispatch`], with which nothing that waits can be called. Each callback
//! here is a thunk: it builds typed arguments and calls the trait.
//!
//! Rules of the documentation that are kept here, once for all sockets:
//! - a NULL `AcceptSocket` or `DataIndication` says that the socket is no longer functional
//!   (PFN_WSK_ACCEPT_EVENT, PFN_WSK_RECEIVE_EVENT);
//! - the accepted socket's context and dispatch table are set before anyone else hears of the socket;
//! - after STATUS_REQUEST_NOT_ACCEPTED the accepted socket is WSK's to close, and is not touched;
//! - received data is taken or refused at once, never retained (no STATUS_PENDING, hence no WskRelease);
//! - a socket's context is a share of its owner that lasts until close has completed.

#![allow(non_snake_case, reason = "callbacks have the documentation's parameter names")]

use super::address;
use super::socket::{Accepted, ConnectionSocket, RawSocket};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::pool::PoolArc;
use crate::sys::nt::{
    NTSTATUS, PVOID, STATUS_DATA_NOT_ACCEPTED, STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    PSOCKADDR, PWSK_DATA_INDICATION, PWSK_SOCKET, WSK_CLIENT_CONNECTION_DISPATCH, WSK_CLIENT_LISTEN_DISPATCH,
    WSK_FLAG_ABORTIVE,
};
use core::net::SocketAddr;
use core::ptr::NonNull;

/// A connection that WSK has accepted and offers.
#[derive(Debug)]
pub struct Incoming {
    pub socket: RawSocket,
    /// `None`: WSK did not say, or the family is another one than was asked for.
    pub local: Option<SocketAddr>,
    /// `None`: WSK did not say, or the family is another one than was asked for.
    pub remote: Option<SocketAddr>,
}

/// What became of indicated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// All of it was taken.
    Consumed,
    /// Nothing was taken; WSK indicates no more until a WskReceive has completed.
    NotAccepted,
}

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnected {
    /// Nothing more will be received; sending is still possible.
    Gracefully,
    /// The connection is gone.
    Abortively,
}

/// The owner of a connection socket, told of its events. Every function may be called at IRQL <= DISPATCH_LEVEL.
pub trait ConnectionEvents: Send + Sync + Sized + 'static {
    /// The socket.
    fn socket(&self) -> &ConnectionSocket<Self>;
    /// `bytes` of data lie ready. Calls are serial for each socket.
    fn received(&self, irql: &mut AtMostDispatch, bytes: usize) -> Received;
    /// The peer has ended the connection.
    fn disconnected(&self, irql: &mut AtMostDispatch, how: Disconnected);
    /// The socket is no longer functional; it must be closed as soon as possible.
    fn dead(&self, irql: &mut AtMostDispatch);
    /// A receive request has brought what [`ConnectionEvents::received`] was told; the next one may be made, elsewhere.
    fn receive_done(&self, irql: &mut AtMostDispatch);
    /// The graceful disconnect that was asked for is over, one way or the other.
    fn disconnect_done(&self, irql: &mut AtMostDispatch);
    /// Close has completed: no event comes after this one.
    fn closed(&self, irql: &mut AtMostDispatch);
}

/// The owner of a listening socket, told of its events. Every function may be called at IRQL <= DISPATCH_LEVEL.
pub trait ListenEvents: Send + Sync + Sized + 'static {
    /// What owns the accepted sockets.
    type Connection: ConnectionEvents;
    /// Takes a connection in, by the object that will own it, or refuses it. Nobody may use the socket yet.
    fn admit(&self, irql: &mut AtMostDispatch, incoming: Incoming) -> Option<PoolArc<Self::Connection>>;
    /// WSK knows the owner now: the socket may be used.
    fn admitted(&self, irql: &mut AtMostDispatch, connection: PoolArc<Self::Connection>);
    /// An accept request is over: to be passed to [`super::ListenSocket::accepted`], elsewhere.
    fn accept_done(&self, irql: &mut AtMostDispatch, accepted: Accepted<Self>);
    /// The socket is no longer functional; it must be closed as soon as possible.
    fn dead(&self, irql: &mut AtMostDispatch);
    /// Close has completed: no event comes after this one.
    fn closed(&self, irql: &mut AtMostDispatch);
}

/// The client dispatch table of connection sockets that a `T` owns.
pub(super) const fn connection_dispatch<T: ConnectionEvents>() -> &'static WSK_CLIENT_CONNECTION_DISPATCH {
    const {
        &WSK_CLIENT_CONNECTION_DISPATCH {
            WskReceiveEvent: Some(receive_event::<T>),
            WskDisconnectEvent: Some(disconnect_event::<T>),
            WskSendBacklogEvent: None,
        }
    }
}

/// The client dispatch table of listening sockets that a `T` owns.
pub(super) const fn listen_dispatch<T: ListenEvents>() -> &'static WSK_CLIENT_LISTEN_DISPATCH {
    const {
        &WSK_CLIENT_LISTEN_DISPATCH {
            WskAcceptEvent: Some(accept_event::<T>),
            WskInspectEvent: None,
            WskAbortEvent: None,
        }
    }
}

/// The owner behind a socket's context.
///
/// # Safety
/// `context` is the context of a socket that a `T` owns, and close of that socket has not completed while `'a` lasts.
unsafe fn owner<'a, T>(context: PVOID) -> Option<&'a T> {
    let context = NonNull::new(context.cast::<()>())?;
    // SAFETY: a socket's context is a share of its owner, given up for as long as the socket is not closed.
    Some(unsafe { PoolArc::borrow_raw(context) })
}

/// PFN_WSK_ACCEPT_EVENT.
unsafe extern "system" fn accept_event<T: ListenEvents>(
    SocketContext: PVOID,
    _Flags: u32,
    LocalAddress: PSOCKADDR,
    RemoteAddress: PSOCKADDR,
    AcceptSocket: PWSK_SOCKET,
    AcceptSocketContext: *mut PVOID,
    AcceptSocketDispatch: *mut *const WSK_CLIENT_CONNECTION_DISPATCH,
) -> NTSTATUS {
    // SAFETY: the context of the socket's creation; WSK lets callbacks return before it completes close.
    let Some(listener) = (unsafe { owner::<T>(SocketContext) }) else { return STATUS_REQUEST_NOT_ACCEPTED };
    // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
    let mut irql = unsafe { AtMostDispatch::assume() };
    let Some(socket) = RawSocket::new(AcceptSocket) else {
        listener.dead(&mut irql);
        return STATUS_REQUEST_NOT_ACCEPTED;
    };
    // SAFETY: NULL or an address that is valid for the call.
    let local = unsafe { address::read(LocalAddress) };
    // SAFETY: as above.
    let remote = unsafe { address::read(RemoteAddress) };
    let Some(connection) = listener.admit(&mut irql, Incoming { socket, local, remote }) else {
        return STATUS_REQUEST_NOT_ACCEPTED;
    };
    let context = connection.socket().open(&connection);
    // SAFETY: WSK's variable, valid for the call.
    unsafe { AcceptSocketContext.write(context.as_ptr().cast()) };
    // SAFETY: as above.
    unsafe { AcceptSocketDispatch.write(connection_dispatch::<T::Connection>()) };
    listener.admitted(&mut irql, connection);
    STATUS_SUCCESS
}

/// PFN_WSK_RECEIVE_EVENT. `BytesAccepted` stays untouched, which says "all".
unsafe extern "system" fn receive_event<T: ConnectionEvents>(
    SocketContext: PVOID,
    _Flags: u32,
    DataIndication: PWSK_DATA_INDICATION,
    BytesIndicated: usize,
    _BytesAccepted: *mut usize,
) -> NTSTATUS {
    // SAFETY: the context given when the socket was accepted; WSK lets callbacks return before it completes close.
    let Some(connection) = (unsafe { owner::<T>(SocketContext) }) else { return STATUS_DATA_NOT_ACCEPTED };
    // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
    let mut irql = unsafe { AtMostDispatch::assume() };
    if DataIndication.is_null() {
        connection.dead(&mut irql);
        return STATUS_SUCCESS;
    }
    match connection.received(&mut irql, BytesIndicated) {
        Received::Consumed => STATUS_SUCCESS,
        Received::NotAccepted => STATUS_DATA_NOT_ACCEPTED,
    }
}

/// PFN_WSK_DISCONNECT_EVENT: always returns STATUS_SUCCESS.
unsafe extern "system" fn disconnect_event<T: ConnectionEvents>(
    SocketContext: PVOID,
    Flags: u32,
) -> NTSTATUS {
    // SAFETY: the context given when the socket was accepted; WSK lets callbacks return before it completes close.
    let Some(connection) = (unsafe { owner::<T>(SocketContext) }) else { return STATUS_SUCCESS };
    // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
    let mut irql = unsafe { AtMostDispatch::assume() };
    let how =
        if Flags & WSK_FLAG_ABORTIVE == 0 { Disconnected::Gracefully } else { Disconnected::Abortively };
    connection.disconnected(&mut irql, how);
    STATUS_SUCCESS
}
