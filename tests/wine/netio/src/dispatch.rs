//! The sockets' provider dispatch tables, and the functions that all categories share.

use crate::connection;
use crate::control::control_socket;
use crate::listen;
use crate::request::Irp;
use crate::socket::{self, Socket};
use crate::sys::nt::{NTSTATUS, PIRP};
use crate::sys::wsk::{
    PSOCKADDR, PWSK_SOCKET, WSK_PROVIDER_BASIC_DISPATCH, WSK_PROVIDER_CONNECTION_DISPATCH,
    WSK_PROVIDER_LISTEN_DISPATCH,
};

pub static BASIC: WSK_PROVIDER_BASIC_DISPATCH =
    WSK_PROVIDER_BASIC_DISPATCH { WskControlSocket: Some(control_socket), WskCloseSocket: Some(close) };

pub static LISTEN: WSK_PROVIDER_LISTEN_DISPATCH = WSK_PROVIDER_LISTEN_DISPATCH {
    Basic: BASIC,
    WskBind: Some(listen::bind),
    WskAccept: Some(listen::accept),
    WskInspectComplete: Some(listen::inspect_complete),
    WskGetLocalAddress: Some(local_address),
};

pub static CONNECTION: WSK_PROVIDER_CONNECTION_DISPATCH = WSK_PROVIDER_CONNECTION_DISPATCH {
    Basic: BASIC,
    WskBind: Some(connection::bind),
    WskConnect: Some(connection::connect),
    WskGetLocalAddress: Some(local_address),
    WskGetRemoteAddress: Some(remote_address),
    WskSend: Some(connection::send),
    WskReceive: Some(connection::receive),
    WskDisconnect: Some(connection::disconnect),
    WskRelease: Some(connection::release),
    WskConnectEx: Some(connection::connect_ex),
    WskSendEx: Some(connection::send_ex),
    WskReceiveEx: Some(connection::receive_ex),
};

unsafe extern "system" fn close(socket: PWSK_SOCKET, irp: PIRP) -> NTSTATUS {
    // SAFETY: what the client passed.
    Socket::close(socket, unsafe { Irp::passed(irp) })
}

unsafe extern "system" fn local_address(socket: PWSK_SOCKET, address: PSOCKADDR, irp: PIRP) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    // SAFETY: as the page has it.
    unsafe { socket::get_address("WskGetLocalAddress", socket, address, irp, |state| state.local) }
}

unsafe extern "system" fn remote_address(socket: PWSK_SOCKET, address: PSOCKADDR, irp: PIRP) -> NTSTATUS {
    // SAFETY: what the client passed.
    let irp = unsafe { Irp::passed(irp) };
    // SAFETY: as the page has it.
    unsafe { socket::get_address("WskGetRemoteAddress", socket, address, irp, |state| state.remote) }
}
