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
//! - received data is copied or left at once, in part if need be, never retained (no STATUS_PENDING, hence no WskRelease);
//! - a socket's context is a share of its owner that lasts until close has completed.

#![allow(non_snake_case, reason = "callbacks have the documentation's parameter names")]

use super::address;
use super::connection::{ConnectionSocket, SendBuffer};
use super::data::Data;
use super::listen::Accepted;
use super::socket::RawSocket;
use crate::kernel::Result;
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

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnected {
    /// Nothing more will be received; sending is still possible.
    Gracefully,
    /// The connection is gone.
    Abortively,
}

/// The owner of a connection socket, told of its events. Every function may be called at IRQL <= DISPATCH_LEVEL, on any
/// thread, and must not make requests of the socket, since it may be the completion of one ("Using IRPs with Winsock
/// Kernel Functions").
pub trait ConnectionEvents: Send + Sync + Sized + 'static {
    /// The socket.
    fn socket(&self) -> &ConnectionSocket<Self>;
    /// Data lie ready. What `data` still holds afterwards was not taken, and WSK indicates nothing more until a
    /// [`ConnectionSocket::receive`] has brought something. What a receive request brought comes here as well, and is
    /// lost unless it is taken; the request asked for no more than its `most`. Events are serial for each socket, but
    /// what a request brought may come beside one.
    fn received(&self, irql: &mut AtMostDispatch, data: &mut Data<'_>);
    /// A receive request has brought what [`ConnectionEvents::received`] was told; the next one may be made, elsewhere.
    fn receive_done(&self, irql: &mut AtMostDispatch);
    /// A buffer is back, in the order in which they were sent, with the bytes that were sent, or why they were not.
    fn sent(&self, irql: &mut AtMostDispatch, buffer: SendBuffer<Self>, result: Result<usize>);
    /// How many bytes should be outstanding to keep the connection busy: the answer to
    /// [`ConnectionSocket::query_ideal_backlog`], and whenever it changes, where WSK has that event.
    fn ideal_backlog(&self, irql: &mut AtMostDispatch, bytes: usize);
    /// What [`ConnectionSocket::dial`] asked for is over: the socket is connected, or it is to be closed.
    fn connected(&self, irql: &mut AtMostDispatch, result: Result);
    /// The peer has ended the connection. It may be told more than once.
    fn disconnected(&self, irql: &mut AtMostDispatch, how: Disconnected);
    /// The socket is no longer functional; it must be closed as soon as possible.
    fn dead(&self, irql: &mut AtMostDispatch);
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
            WskSendBacklogEvent: Some(backlog_event::<T>),
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
    let context = connection.socket().accept(&connection);
    // SAFETY: WSK's variable, valid for the call.
    unsafe { AcceptSocketContext.write(context.as_ptr().cast()) };
    // SAFETY: as above.
    unsafe { AcceptSocketDispatch.write(connection_dispatch::<T::Connection>()) };
    listener.admitted(&mut irql, connection);
    STATUS_SUCCESS
}

/// PFN_WSK_RECEIVE_EVENT. `BytesAccepted` is untouched when all was taken.
unsafe extern "system" fn receive_event<T: ConnectionEvents>(
    SocketContext: PVOID,
    _Flags: u32,
    DataIndication: PWSK_DATA_INDICATION,
    BytesIndicated: usize,
    BytesAccepted: *mut usize,
) -> NTSTATUS {
    // SAFETY: the context given with the socket; WSK lets callbacks return before it completes close.
    let Some(connection) = (unsafe { owner::<T>(SocketContext) }) else { return STATUS_DATA_NOT_ACCEPTED };
    // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
    let mut irql = unsafe { AtMostDispatch::assume() };
    if DataIndication.is_null() {
        connection.dead(&mut irql);
        return STATUS_SUCCESS;
    }
    // SAFETY: the list is valid for the call, and its memory locked or non-paged.
    let mut data = unsafe { Data::indicated(DataIndication, BytesIndicated) };
    connection.received(&mut irql, &mut data);
    match BytesIndicated.saturating_sub(data.len()) {
        _ if data.is_empty() => STATUS_SUCCESS,
        0 => STATUS_DATA_NOT_ACCEPTED,
        taken => {
            // SAFETY: WSK's variable, valid for the call.
            unsafe { BytesAccepted.write(taken) };
            STATUS_SUCCESS
        }
    }
}

/// PFN_WSK_SEND_BACKLOG_EVENT: always returns STATUS_SUCCESS.
unsafe extern "system" fn backlog_event<T: ConnectionEvents>(
    SocketContext: PVOID,
    IdealBacklogSize: usize,
) -> NTSTATUS {
    // SAFETY: the context given with the socket; WSK lets callbacks return before it completes close.
    if let Some(connection) = unsafe { owner::<T>(SocketContext) } {
        // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
        let mut irql = unsafe { AtMostDispatch::assume() };
        connection.ideal_backlog(&mut irql, IdealBacklogSize);
    }
    STATUS_SUCCESS
}

/// PFN_WSK_DISCONNECT_EVENT: always returns STATUS_SUCCESS.
unsafe extern "system" fn disconnect_event<T: ConnectionEvents>(
    SocketContext: PVOID,
    Flags: u32,
) -> NTSTATUS {
    // SAFETY: the context given with the socket; WSK lets callbacks return before it completes close.
    let Some(connection) = (unsafe { owner::<T>(SocketContext) }) else { return STATUS_SUCCESS };
    // SAFETY: WSK calls at IRQL <= DISPATCH_LEVEL; the token does not leave this call.
    let mut irql = unsafe { AtMostDispatch::assume() };
    let how =
        if Flags & WSK_FLAG_ABORTIVE == 0 { Disconnected::Gracefully } else { Disconnected::Abortively };
    connection.disconnected(&mut irql, how);
    STATUS_SUCCESS
}
