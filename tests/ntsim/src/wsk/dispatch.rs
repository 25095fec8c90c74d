//! The tables that sockets point to.

use super::{connection, control, listen, socket::Socket};
use crate::sys::nt::{NTSTATUS, PIRP};
use crate::sys::wsk::{
    PWSK_SOCKET, WSK_PROVIDER_BASIC_DISPATCH, WSK_PROVIDER_CONNECTION_DISPATCH, WSK_PROVIDER_LISTEN_DISPATCH,
};

unsafe extern "system" fn close(socket: PWSK_SOCKET, irp: PIRP) -> NTSTATUS {
    // SAFETY: what the driver passed.
    unsafe { Socket::close(socket, irp) }
}

pub static BASIC: WSK_PROVIDER_BASIC_DISPATCH = BASIC_TABLE;

pub static LISTEN: WSK_PROVIDER_LISTEN_DISPATCH = WSK_PROVIDER_LISTEN_DISPATCH {
    Basic: BASIC_TABLE,
    WskBind: Some(connection::bind),
    WskAccept: Some(listen::accept),
    WskInspectComplete: Some(listen::inspect_complete),
    WskGetLocalAddress: Some(connection::get_local_address),
};

pub static CONNECTION: WSK_PROVIDER_CONNECTION_DISPATCH = WSK_PROVIDER_CONNECTION_DISPATCH {
    Basic: BASIC_TABLE,
    WskBind: Some(connection::bind),
    WskConnect: Some(connection::connect),
    WskGetLocalAddress: Some(connection::get_local_address),
    WskGetRemoteAddress: Some(connection::get_remote_address),
    WskSend: Some(connection::send),
    WskReceive: Some(connection::receive),
    WskDisconnect: Some(connection::disconnect),
    WskRelease: Some(connection::release),
    WskConnectEx: Some(connection::connect_ex),
    WskSendEx: Some(connection::send_ex),
    WskReceiveEx: Some(connection::receive_ex),
};

const BASIC_TABLE: WSK_PROVIDER_BASIC_DISPATCH = WSK_PROVIDER_BASIC_DISPATCH {
    WskControlSocket: Some(control::control_socket),
    WskCloseSocket: Some(close),
};
