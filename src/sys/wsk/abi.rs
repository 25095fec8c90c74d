//! Winsock Kernel's binary interface: the types, constants and identifiers of `wsk.h`, and of `ws2def.h`,
//! `ws2ipdef.h` and `netiodef.h` as far as WSK needs them.
//!
//! Declarations only, for x64 and ARM64 (both LLP64, one set of numbers). Layouts are asserted at the end of the
//! file; names are the headers' own. Addresses and ports in `SOCKADDR`s are in network byte order.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::upper_case_acronyms)]

use crate::sys::nt::{GUID, NTSTATUS, PIRP, PMDL, PVOID, UNICODE_STRING};
use core::ffi::c_void;
use static_assertions::{assert_eq_align, assert_eq_size, const_assert_eq};

// ---- Scalars ------------------------------------------------------------------------------------------------

/// `ADDRESS_FAMILY` of `ws2def.h`.
pub type ADDRESS_FAMILY = u16;
pub type NPIID = GUID;
pub type PNPIID = *const NPIID;
/// A client's handle for its attachment to the WSK provider; opaque.
pub type PWSK_CLIENT = PVOID;
pub type PWSK_SOCKET = *mut WSK_SOCKET;
/// Opaque to WSK's clients, who pass a pointer on or NULL.
pub type PEPROCESS = PVOID;
/// Opaque to WSK's clients, who pass a pointer on or NULL.
pub type PETHREAD = PVOID;
pub type PSECURITY_DESCRIPTOR = PVOID;
pub type WSK_INSPECT_ACTION = i32;
pub type WSK_CONTROL_SOCKET_TYPE = i32;

/// `MAKE_WSK_VERSION`: the major version in the high byte, the minor one in the low byte.
pub const fn MAKE_WSK_VERSION(major: u8, minor: u8) -> u16 {
    u16::from_be_bytes([major, minor])
}
pub const fn WSK_MAJOR_VERSION(version: u16) -> u8 {
    version.to_be_bytes()[0]
}
pub const fn WSK_MINOR_VERSION(version: u16) -> u8 {
    version.to_be_bytes()[1]
}

// ---- Socket addresses ---------------------------------------------------------------------------------------

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SOCKADDR {
    pub sa_family: ADDRESS_FAMILY,
    pub sa_data: [u8; 14],
}
pub type PSOCKADDR = *mut SOCKADDR;

/// An IPv4 address in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IN_ADDR {
    pub s_addr: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SOCKADDR_IN {
    pub sin_family: ADDRESS_FAMILY,
    pub sin_port: u16,
    pub sin_addr: IN_ADDR,
    pub sin_zero: [u8; 8],
}

/// An IPv6 address in network byte order.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IN6_ADDR {
    pub Byte: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SOCKADDR_IN6 {
    pub sin6_family: ADDRESS_FAMILY,
    pub sin6_port: u16,
    pub sin6_flowinfo: u32,
    pub sin6_addr: IN6_ADDR,
    pub sin6_scope_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union SOCKADDR_INET {
    pub Ipv4: SOCKADDR_IN,
    pub Ipv6: SOCKADDR_IN6,
    pub si_family: ADDRESS_FAMILY,
}

#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::pub_underscore_fields, reason = "the header's names")]
pub struct SOCKADDR_STORAGE {
    pub ss_family: ADDRESS_FAMILY,
    pub __ss_pad1: [u8; 6],
    pub __ss_align: i64,
    pub __ss_pad2: [u8; 112],
}

/// `WSACMSGHDR`: the header of a control data object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CMSGHDR {
    pub cmsg_len: usize,
    pub cmsg_level: i32,
    pub cmsg_type: i32,
}
pub type PCMSGHDR = *mut CMSGHDR;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ADDRINFOEXW {
    pub ai_flags: i32,
    pub ai_family: i32,
    pub ai_socktype: i32,
    pub ai_protocol: i32,
    pub ai_addrlen: usize,
    pub ai_canonname: *mut u16,
    pub ai_addr: PSOCKADDR,
    pub ai_blob: PVOID,
    pub ai_bloblen: usize,
    pub ai_provider: *mut GUID,
    pub ai_next: *mut ADDRINFOEXW,
}

pub const AF_UNSPEC: ADDRESS_FAMILY = 0;
pub const AF_INET: ADDRESS_FAMILY = 2;
pub const AF_INET6: ADDRESS_FAMILY = 23;
pub const SOCK_STREAM: u16 = 1;
pub const SOCK_DGRAM: u16 = 2;
pub const SOCK_RAW: u16 = 3;
pub const IPPROTO_IP: u32 = 0;
pub const IPPROTO_ICMP: u32 = 1;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
pub const IPPROTO_IPV6: u32 = 41;
pub const IPPROTO_ICMPV6: u32 = 58;

// ---- Sockets, versions, transports --------------------------------------------------------------------------

/// A socket. `Dispatch` points to the provider table of the socket's category.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_SOCKET {
    pub Dispatch: *const c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WSK_PROVIDER_CHARACTERISTICS {
    pub HighestVersion: u16,
    pub LowestVersion: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_TRANSPORT {
    pub Version: u16,
    pub SocketType: u16,
    pub Protocol: u32,
    pub AddressFamily: ADDRESS_FAMILY,
    pub ProviderId: GUID,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_TDI_MAP {
    pub SocketType: u16,
    pub AddressFamily: ADDRESS_FAMILY,
    pub Protocol: u32,
    pub TdiDeviceName: *const u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_TDI_MAP_INFO {
    pub ElementCount: u32,
    pub Map: *const WSK_TDI_MAP,
}

// ---- Buffers and indications --------------------------------------------------------------------------------

/// A part of an MDL chain: `Offset` bytes into its first MDL, `Length` bytes long.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_BUF {
    pub Mdl: PMDL,
    pub Offset: u32,
    pub Length: usize,
}
pub type PWSK_BUF = *mut WSK_BUF;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_BUF_LIST {
    pub Next: *mut WSK_BUF_LIST,
    pub Buffer: WSK_BUF,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_DATA_INDICATION {
    pub Next: *mut WSK_DATA_INDICATION,
    pub Buffer: WSK_BUF,
}
pub type PWSK_DATA_INDICATION = *mut WSK_DATA_INDICATION;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_DATAGRAM_INDICATION {
    pub Next: *mut WSK_DATAGRAM_INDICATION,
    pub Buffer: WSK_BUF,
    pub ControlInfo: PCMSGHDR,
    pub ControlInfoLength: u32,
    pub RemoteAddress: PSOCKADDR,
}
pub type PWSK_DATAGRAM_INDICATION = *mut WSK_DATAGRAM_INDICATION;

/// Identifies a connection under inspection by its contents (both fields), not by its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WSK_INSPECT_ID {
    pub Key: usize,
    pub SerialNumber: u32,
}
pub type PWSK_INSPECT_ID = *mut WSK_INSPECT_ID;

// ---- Control ------------------------------------------------------------------------------------------------

/// Input of SO_WSK_EVENT_CALLBACK and of WSK_SET_STATIC_EVENT_CALLBACKS.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_EVENT_CALLBACK_CONTROL {
    pub NpiId: PNPIID,
    pub EventMask: u32,
}

/// Input of SIO_WSK_REGISTER_EXTENSION.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_EXTENSION_CONTROL_IN {
    pub NpiId: PNPIID,
    pub ClientContext: PVOID,
    pub ClientDispatch: *const c_void,
}

/// Output of SIO_WSK_REGISTER_EXTENSION.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_EXTENSION_CONTROL_OUT {
    pub ProviderContext: PVOID,
    pub ProviderDispatch: *const c_void,
}

// ---- Client callbacks ---------------------------------------------------------------------------------------

pub type PFN_WSK_CLIENT_EVENT = Option<
    unsafe extern "system" fn(
        ClientContext: PVOID,
        EventType: u32,
        Information: PVOID,
        InformationLength: usize,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_ACCEPT_EVENT = Option<
    unsafe extern "system" fn(
        SocketContext: PVOID,
        Flags: u32,
        LocalAddress: PSOCKADDR,
        RemoteAddress: PSOCKADDR,
        AcceptSocket: PWSK_SOCKET,
        AcceptSocketContext: *mut PVOID,
        AcceptSocketDispatch: *mut *const WSK_CLIENT_CONNECTION_DISPATCH,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_INSPECT_EVENT = Option<
    unsafe extern "system" fn(
        SocketContext: PVOID,
        LocalAddress: PSOCKADDR,
        RemoteAddress: PSOCKADDR,
        InspectID: PWSK_INSPECT_ID,
    ) -> WSK_INSPECT_ACTION,
>;
pub type PFN_WSK_ABORT_EVENT =
    Option<unsafe extern "system" fn(SocketContext: PVOID, InspectID: PWSK_INSPECT_ID) -> NTSTATUS>;
pub type PFN_WSK_RECEIVE_EVENT = Option<
    unsafe extern "system" fn(
        SocketContext: PVOID,
        Flags: u32,
        DataIndication: PWSK_DATA_INDICATION,
        BytesIndicated: usize,
        BytesAccepted: *mut usize,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_RECEIVE_EX_EVENT = Option<
    unsafe extern "system" fn(
        SocketContext: PVOID,
        Flags: u32,
        DataIndication: PWSK_DATA_INDICATION,
        ControlInfo: PCMSGHDR,
        ControlInfoLength: u32,
        BytesIndicated: usize,
        BytesAccepted: *mut usize,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_DISCONNECT_EVENT =
    Option<unsafe extern "system" fn(SocketContext: PVOID, Flags: u32) -> NTSTATUS>;
pub type PFN_WSK_SEND_BACKLOG_EVENT =
    Option<unsafe extern "system" fn(SocketContext: PVOID, IdealBacklogSize: usize) -> NTSTATUS>;
pub type PFN_WSK_RECEIVE_FROM_EVENT = Option<
    unsafe extern "system" fn(
        SocketContext: PVOID,
        Flags: u32,
        DataIndication: PWSK_DATAGRAM_INDICATION,
    ) -> NTSTATUS,
>;

// ---- Client dispatch tables (constant and resident) ---------------------------------------------------------

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_DISPATCH {
    pub Version: u16,
    pub Reserved: u16,
    /// May be NULL.
    pub WskClientEvent: PFN_WSK_CLIENT_EVENT,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_LISTEN_DISPATCH {
    pub WskAcceptEvent: PFN_WSK_ACCEPT_EVENT,
    pub WskInspectEvent: PFN_WSK_INSPECT_EVENT,
    pub WskAbortEvent: PFN_WSK_ABORT_EVENT,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_DATAGRAM_DISPATCH {
    pub WskReceiveFromEvent: PFN_WSK_RECEIVE_FROM_EVENT,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_CONNECTION_DISPATCH {
    pub WskReceiveEvent: PFN_WSK_RECEIVE_EVENT,
    pub WskDisconnectEvent: PFN_WSK_DISCONNECT_EVENT,
    pub WskSendBacklogEvent: PFN_WSK_SEND_BACKLOG_EVENT,
}

/// Windows 10 1703 and later.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_STREAM_DISPATCH {
    pub Listen: *const WSK_CLIENT_LISTEN_DISPATCH,
    pub Connect: *const WSK_CLIENT_CONNECTION_DISPATCH,
}

// ---- Provider functions -------------------------------------------------------------------------------------

pub type PFN_WSK_SOCKET = Option<
    unsafe extern "system" fn(
        Client: PWSK_CLIENT,
        AddressFamily: ADDRESS_FAMILY,
        SocketType: u16,
        Protocol: u32,
        Flags: u32,
        SocketContext: PVOID,
        Dispatch: *const c_void,
        OwningProcess: PEPROCESS,
        OwningThread: PETHREAD,
        SecurityDescriptor: PSECURITY_DESCRIPTOR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_SOCKET_CONNECT = Option<
    unsafe extern "system" fn(
        Client: PWSK_CLIENT,
        SocketType: u16,
        Protocol: u32,
        LocalAddress: PSOCKADDR,
        RemoteAddress: PSOCKADDR,
        Flags: u32,
        SocketContext: PVOID,
        Dispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
        OwningProcess: PEPROCESS,
        OwningThread: PETHREAD,
        SecurityDescriptor: PSECURITY_DESCRIPTOR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_CONTROL_CLIENT = Option<
    unsafe extern "system" fn(
        Client: PWSK_CLIENT,
        ControlCode: u32,
        InputSize: usize,
        InputBuffer: PVOID,
        OutputSize: usize,
        OutputBuffer: PVOID,
        OutputSizeReturned: *mut usize,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_GET_ADDRESS_INFO = Option<
    unsafe extern "system" fn(
        Client: PWSK_CLIENT,
        NodeName: *mut UNICODE_STRING,
        ServiceName: *mut UNICODE_STRING,
        NameSpace: u32,
        Provider: *mut GUID,
        Hints: *mut ADDRINFOEXW,
        Result: *mut *mut ADDRINFOEXW,
        OwningProcess: PEPROCESS,
        OwningThread: PETHREAD,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_FREE_ADDRESS_INFO =
    Option<unsafe extern "system" fn(Client: PWSK_CLIENT, AddrInfo: *mut ADDRINFOEXW)>;
pub type PFN_WSK_GET_NAME_INFO = Option<
    unsafe extern "system" fn(
        Client: PWSK_CLIENT,
        SockAddr: PSOCKADDR,
        SockAddrLength: u32,
        NodeName: *mut UNICODE_STRING,
        ServiceName: *mut UNICODE_STRING,
        Flags: u32,
        OwningProcess: PEPROCESS,
        OwningThread: PETHREAD,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
/// `OutputSizeReturned` is `SIZE_T*` in the header, eight bytes, although several pages call it ULONG.
pub type PFN_WSK_CONTROL_SOCKET = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        RequestType: WSK_CONTROL_SOCKET_TYPE,
        ControlCode: u32,
        Level: u32,
        InputSize: usize,
        InputBuffer: PVOID,
        OutputSize: usize,
        OutputBuffer: PVOID,
        OutputSizeReturned: *mut usize,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_CLOSE_SOCKET = Option<unsafe extern "system" fn(Socket: PWSK_SOCKET, Irp: PIRP) -> NTSTATUS>;
pub type PFN_WSK_BIND = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        LocalAddress: PSOCKADDR,
        Flags: u32,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_ACCEPT = Option<
    unsafe extern "system" fn(
        ListenSocket: PWSK_SOCKET,
        Flags: u32,
        AcceptSocketContext: PVOID,
        AcceptSocketDispatch: *const WSK_CLIENT_CONNECTION_DISPATCH,
        LocalAddress: PSOCKADDR,
        RemoteAddress: PSOCKADDR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_INSPECT_COMPLETE = Option<
    unsafe extern "system" fn(
        ListenSocket: PWSK_SOCKET,
        InspectID: PWSK_INSPECT_ID,
        Action: WSK_INSPECT_ACTION,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_LISTEN = Option<unsafe extern "system" fn(Socket: PWSK_SOCKET, Irp: PIRP) -> NTSTATUS>;
pub type PFN_WSK_CONNECT = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        RemoteAddress: PSOCKADDR,
        Flags: u32,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_CONNECT_EX = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        RemoteAddress: PSOCKADDR,
        Buffer: PWSK_BUF,
        Flags: u32,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_GET_LOCAL_ADDRESS =
    Option<unsafe extern "system" fn(Socket: PWSK_SOCKET, LocalAddress: PSOCKADDR, Irp: PIRP) -> NTSTATUS>;
pub type PFN_WSK_GET_REMOTE_ADDRESS =
    Option<unsafe extern "system" fn(Socket: PWSK_SOCKET, RemoteAddress: PSOCKADDR, Irp: PIRP) -> NTSTATUS>;
pub type PFN_WSK_SEND = Option<
    unsafe extern "system" fn(Socket: PWSK_SOCKET, Buffer: PWSK_BUF, Flags: u32, Irp: PIRP) -> NTSTATUS,
>;
pub type PFN_WSK_RECEIVE = Option<
    unsafe extern "system" fn(Socket: PWSK_SOCKET, Buffer: PWSK_BUF, Flags: u32, Irp: PIRP) -> NTSTATUS,
>;
pub type PFN_WSK_DISCONNECT = Option<
    unsafe extern "system" fn(Socket: PWSK_SOCKET, Buffer: PWSK_BUF, Flags: u32, Irp: PIRP) -> NTSTATUS,
>;
pub type PFN_WSK_RELEASE_DATA_INDICATION_LIST =
    Option<unsafe extern "system" fn(Socket: PWSK_SOCKET, DataIndication: PWSK_DATA_INDICATION) -> NTSTATUS>;
pub type PFN_WSK_SEND_EX = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        Buffer: PWSK_BUF,
        Flags: u32,
        ControlInfoLength: u32,
        ControlInfo: PCMSGHDR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_RECEIVE_EX = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        Buffer: PWSK_BUF,
        Flags: u32,
        ControlInfoLength: *mut u32,
        ControlInfo: PCMSGHDR,
        Reserved: *mut u32,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_SEND_TO = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        Buffer: PWSK_BUF,
        Flags: u32,
        RemoteAddress: PSOCKADDR,
        ControlInfoLength: u32,
        ControlInfo: PCMSGHDR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_SEND_MESSAGES = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        BufferList: *mut WSK_BUF_LIST,
        Flags: u32,
        RemoteAddress: PSOCKADDR,
        ControlInfoLength: u32,
        ControlInfo: PCMSGHDR,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_RECEIVE_FROM = Option<
    unsafe extern "system" fn(
        Socket: PWSK_SOCKET,
        Buffer: PWSK_BUF,
        Flags: u32,
        RemoteAddress: PSOCKADDR,
        ControlLength: *mut u32,
        ControlInfo: PCMSGHDR,
        ControlFlags: *mut u32,
        Irp: PIRP,
    ) -> NTSTATUS,
>;
pub type PFN_WSK_RELEASE_DATAGRAM_INDICATION_LIST = Option<
    unsafe extern "system" fn(Socket: PWSK_SOCKET, DatagramIndication: PWSK_DATAGRAM_INDICATION) -> NTSTATUS,
>;

// ---- Provider dispatch tables -------------------------------------------------------------------------------

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_DISPATCH {
    pub Version: u16,
    pub Reserved: u16,
    pub WskSocket: PFN_WSK_SOCKET,
    pub WskSocketConnect: PFN_WSK_SOCKET_CONNECT,
    pub WskControlClient: PFN_WSK_CONTROL_CLIENT,
    pub WskGetAddressInfo: PFN_WSK_GET_ADDRESS_INFO,
    pub WskFreeAddressInfo: PFN_WSK_FREE_ADDRESS_INFO,
    pub WskGetNameInfo: PFN_WSK_GET_NAME_INFO,
}

/// The head of every socket's table, whatever its category.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_BASIC_DISPATCH {
    pub WskControlSocket: PFN_WSK_CONTROL_SOCKET,
    pub WskCloseSocket: PFN_WSK_CLOSE_SOCKET,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_LISTEN_DISPATCH {
    pub Basic: WSK_PROVIDER_BASIC_DISPATCH,
    pub WskBind: PFN_WSK_BIND,
    pub WskAccept: PFN_WSK_ACCEPT,
    pub WskInspectComplete: PFN_WSK_INSPECT_COMPLETE,
    pub WskGetLocalAddress: PFN_WSK_GET_LOCAL_ADDRESS,
}

/// `WskSendMessages` exists on Windows 8 and later.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_DATAGRAM_DISPATCH {
    pub Basic: WSK_PROVIDER_BASIC_DISPATCH,
    pub WskBind: PFN_WSK_BIND,
    pub WskSendTo: PFN_WSK_SEND_TO,
    pub WskReceiveFrom: PFN_WSK_RECEIVE_FROM,
    pub WskRelease: PFN_WSK_RELEASE_DATAGRAM_INDICATION_LIST,
    pub WskGetLocalAddress: PFN_WSK_GET_LOCAL_ADDRESS,
    pub WskSendMessages: PFN_WSK_SEND_MESSAGES,
}

/// Read nothing after `WskRelease` without a look at the system's version: older tables end there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_CONNECTION_DISPATCH {
    pub Basic: WSK_PROVIDER_BASIC_DISPATCH,
    pub WskBind: PFN_WSK_BIND,
    pub WskConnect: PFN_WSK_CONNECT,
    pub WskGetLocalAddress: PFN_WSK_GET_LOCAL_ADDRESS,
    pub WskGetRemoteAddress: PFN_WSK_GET_REMOTE_ADDRESS,
    pub WskSend: PFN_WSK_SEND,
    pub WskReceive: PFN_WSK_RECEIVE,
    pub WskDisconnect: PFN_WSK_DISCONNECT,
    pub WskRelease: PFN_WSK_RELEASE_DATA_INDICATION_LIST,
    pub WskConnectEx: PFN_WSK_CONNECT_EX,
    pub WskSendEx: PFN_WSK_SEND_EX,
    pub WskReceiveEx: PFN_WSK_RECEIVE_EX,
}

/// Windows 10 1703 and later.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_STREAM_DISPATCH {
    pub Basic: WSK_PROVIDER_BASIC_DISPATCH,
    pub WskBind: PFN_WSK_BIND,
    pub WskAccept: PFN_WSK_ACCEPT,
    pub WskConnect: PFN_WSK_CONNECT,
    pub WskListen: PFN_WSK_LISTEN,
    pub WskSend: PFN_WSK_SEND,
    pub WskReceive: PFN_WSK_RECEIVE,
    pub WskDisconnect: PFN_WSK_DISCONNECT,
    pub WskRelease: PFN_WSK_RELEASE_DATA_INDICATION_LIST,
    pub WskGetLocalAddress: PFN_WSK_GET_LOCAL_ADDRESS,
    pub WskGetRemoteAddress: PFN_WSK_GET_REMOTE_ADDRESS,
    pub WskConnectEx: PFN_WSK_CONNECT_EX,
    pub WskSendEx: PFN_WSK_SEND_EX,
    pub WskReceiveEx: PFN_WSK_RECEIVE_EX,
}

// ---- Registration -------------------------------------------------------------------------------------------

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_CLIENT_NPI {
    pub ClientContext: PVOID,
    pub Dispatch: *const WSK_CLIENT_DISPATCH,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WSK_PROVIDER_NPI {
    pub Client: PWSK_CLIENT,
    pub Dispatch: *const WSK_PROVIDER_DISPATCH,
}

/// Opaque to the client; non-paged, and never moved between WskRegister and WskDeregister.
#[repr(C)]
#[derive(Debug)]
pub struct WSK_REGISTRATION {
    pub ReservedRegistrationState: u64,
    pub ReservedRegistrationContext: PVOID,
    pub ReservedRegistrationLock: usize,
}

// ---- Constants ----------------------------------------------------------------------------------------------

/// The WSK NPI; its address may be kept by WSK, therefore a static.
pub static NPI_WSK_INTERFACE_ID: NPIID = GUID {
    Data1: 0x2227_E803,
    Data2: 0x8D8B,
    Data3: 0x11D4,
    Data4: [0xAB, 0xAD, 0x00, 0x90, 0x27, 0x71, 0x9E, 0x09],
};

pub const WskInspectReject: WSK_INSPECT_ACTION = 0;
pub const WskInspectAccept: WSK_INSPECT_ACTION = 1;
pub const WskInspectPend: WSK_INSPECT_ACTION = 2;

pub const WskSetOption: WSK_CONTROL_SOCKET_TYPE = 0;
pub const WskGetOption: WSK_CONTROL_SOCKET_TYPE = 1;
pub const WskIoctl: WSK_CONTROL_SOCKET_TYPE = 2;

/// Categories of sockets, the `Flags` of WskSocket.
pub const WSK_FLAG_BASIC_SOCKET: u32 = 0;
pub const WSK_FLAG_LISTEN_SOCKET: u32 = 1;
pub const WSK_FLAG_CONNECTION_SOCKET: u32 = 2;
pub const WSK_FLAG_DATAGRAM_SOCKET: u32 = 4;
pub const WSK_FLAG_STREAM_SOCKET: u32 = 8;

/// Flags of callbacks.
pub const WSK_FLAG_RELEASE_ASAP: u32 = 0x2;
pub const WSK_FLAG_ENTIRE_MESSAGE: u32 = 0x4;
pub const WSK_FLAG_AT_DISPATCH_LEVEL: u32 = 0x8;

/// Flag of WskDisconnect and of WskDisconnectEvent.
pub const WSK_FLAG_ABORTIVE: u32 = 0x1;
/// Flags of WskSend.
pub const WSK_FLAG_OOB: u32 = 0x1;
pub const WSK_FLAG_NODELAY: u32 = 0x2;
/// Flags of WskReceive, beside WSK_FLAG_OOB.
pub const WSK_FLAG_WAITALL: u32 = 0x2;
pub const WSK_FLAG_DRAIN: u32 = 0x4;

/// Timeouts of WskCaptureProviderNPI, beside milliseconds.
pub const WSK_NO_WAIT: u32 = 0;
pub const WSK_INFINITE_WAIT: u32 = 0xFFFF_FFFF;

pub const WSK_EVENT_SEND_BACKLOG: u32 = 0x10;
pub const WSK_EVENT_RECEIVE: u32 = 0x40;
pub const WSK_EVENT_DISCONNECT: u32 = 0x80;
pub const WSK_EVENT_RECEIVE_FROM: u32 = 0x100;
pub const WSK_EVENT_ACCEPT: u32 = 0x200;
pub const WSK_EVENT_DISABLE: u32 = 0x8000_0000;

pub const WSK_TRANSPORT_LIST_QUERY: u32 = 2;
pub const WSK_TRANSPORT_LIST_CHANGE: u32 = 3;
pub const WSK_CACHE_SD: u32 = 4;
pub const WSK_RELEASE_SD: u32 = 5;
pub const WSK_TDI_DEVICENAME_MAPPING: u32 = 6;
pub const WSK_SET_STATIC_EVENT_CALLBACKS: u32 = 7;
pub const WSK_TDI_BEHAVIOR: u32 = 8;
pub const WSK_TDI_BEHAVIOR_BYPASS_TDI: u32 = 1;

pub const IOC_VOID: u32 = 0x2000_0000;
pub const IOC_OUT: u32 = 0x4000_0000;
pub const IOC_IN: u32 = 0x8000_0000;
pub const IOC_INOUT: u32 = IOC_IN | IOC_OUT;
pub const IOC_WS2: u32 = 0x0800_0000;
pub const IOC_VENDOR: u32 = 0x1800_0000;
pub const IOC_WSK: u32 = IOC_WS2 | 0x0700_0000;

pub const SIO_WSK_SET_REMOTE_ADDRESS: u32 = IOC_IN | IOC_WSK | 0x1;
pub const SIO_WSK_REGISTER_EXTENSION: u32 = IOC_INOUT | IOC_WSK | 0x2;
pub const SIO_WSK_QUERY_IDEAL_SEND_BACKLOG: u32 = IOC_OUT | IOC_WSK | 0x3;
pub const SIO_WSK_QUERY_RECEIVE_BACKLOG: u32 = IOC_OUT | IOC_WSK | 0x4;
pub const SIO_WSK_QUERY_INSPECT_ID: u32 = IOC_OUT | IOC_WSK | 0x5;
pub const SIO_WSK_SET_SENDTO_ADDRESS: u32 = IOC_IN | IOC_WSK | 0x6;
pub const SIO_WSK_SET_TCP_SILENT_MODE: u32 = IOC_VOID | IOC_WSK | 0x7;
pub const SIO_WSK_SET_RECEIVE_EX_CALLBACK: u32 = IOC_IN | IOC_WSK | 0x8;
pub const SIO_ADDRESS_LIST_QUERY: u32 = IOC_OUT | IOC_WS2 | 0x16;
pub const SIO_ADDRESS_LIST_CHANGE: u32 = IOC_VOID | IOC_WS2 | 0x17;
pub const SIO_ADDRESS_LIST_SORT: u32 = IOC_INOUT | IOC_WS2 | 0x19;
pub const SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS: u32 = IOC_IN | IOC_VENDOR | 0xde;

pub const SOL_SOCKET: u32 = 0xFFFF;
pub const SO_REUSEADDR: u32 = 0x4;
pub const SO_KEEPALIVE: u32 = 0x8;
pub const SO_BROADCAST: u32 = 0x20;
pub const SO_EXCLUSIVEADDRUSE: u32 = !SO_REUSEADDR;
pub const SO_RCVBUF: u32 = 0x1002;
pub const SO_CONDITIONAL_ACCEPT: u32 = 0x3002;
pub const SO_PAUSE_ACCEPT: u32 = 0x3003;
pub const SO_COMPARTMENT_ID: u32 = 0x3004;
pub const SO_RANDOMIZE_PORT: u32 = 0x3005;
pub const SO_PORT_SCALABILITY: u32 = 0x3006;
pub const SO_REUSE_UNICASTPORT: u32 = 0x3007;
pub const SO_REUSE_MULTICASTPORT: u32 = 0x3008;
pub const WSK_SO_BASE: u32 = 0x4000;
pub const SO_WSK_SECURITY: u32 = WSK_SO_BASE + 1;
pub const SO_WSK_EVENT_CALLBACK: u32 = WSK_SO_BASE + 2;
/// Option of level IPPROTO_IPV6.
pub const IPV6_V6ONLY: u32 = 27;

// ---- Layout -------------------------------------------------------------------------------------------------

macro_rules! assert_layout {
    ($type:ty, $size:literal, $align:literal, { $($field:ident : $offset:literal),* $(,)? }) => {
        const_assert_eq!(size_of::<$type>(), $size);
        const_assert_eq!(align_of::<$type>(), $align);
        $(const_assert_eq!(core::mem::offset_of!($type, $field), $offset);)*
    };
}

/// Calls `$with!` once for each structure that the headers lay out: name, size, alignment, offsets.
macro_rules! layouts {
    ($with:ident) => {
        $with!(WSK_SOCKET, 8, 8, { Dispatch: 0 });
        $with!(WSK_PROVIDER_CHARACTERISTICS, 4, 2, { HighestVersion: 0, LowestVersion: 2 });
        $with!(WSK_TRANSPORT, 28, 4, {
            Version: 0, SocketType: 2, Protocol: 4, AddressFamily: 8, ProviderId: 12
        });
        $with!(WSK_TDI_MAP, 16, 8, { SocketType: 0, AddressFamily: 2, Protocol: 4, TdiDeviceName: 8 });
        $with!(WSK_TDI_MAP_INFO, 16, 8, { ElementCount: 0, Map: 8 });
        $with!(WSK_BUF, 24, 8, { Mdl: 0, Offset: 8, Length: 16 });
        $with!(WSK_BUF_LIST, 32, 8, { Next: 0, Buffer: 8 });
        $with!(WSK_DATA_INDICATION, 32, 8, { Next: 0, Buffer: 8 });
        $with!(WSK_DATAGRAM_INDICATION, 56, 8, {
            Next: 0, Buffer: 8, ControlInfo: 32, ControlInfoLength: 40, RemoteAddress: 48
        });
        $with!(WSK_INSPECT_ID, 16, 8, { Key: 0, SerialNumber: 8 });
        $with!(WSK_EVENT_CALLBACK_CONTROL, 16, 8, { NpiId: 0, EventMask: 8 });
        $with!(WSK_EXTENSION_CONTROL_IN, 24, 8, { NpiId: 0, ClientContext: 8, ClientDispatch: 16 });
        $with!(WSK_EXTENSION_CONTROL_OUT, 16, 8, { ProviderContext: 0, ProviderDispatch: 8 });
        $with!(WSK_CLIENT_DISPATCH, 16, 8, { Version: 0, Reserved: 2, WskClientEvent: 8 });
        $with!(WSK_CLIENT_LISTEN_DISPATCH, 24, 8, { WskAcceptEvent: 0, WskInspectEvent: 8, WskAbortEvent: 16 });
        $with!(WSK_CLIENT_DATAGRAM_DISPATCH, 8, 8, { WskReceiveFromEvent: 0 });
        $with!(WSK_CLIENT_CONNECTION_DISPATCH, 24, 8, {
            WskReceiveEvent: 0, WskDisconnectEvent: 8, WskSendBacklogEvent: 16
        });
        $with!(WSK_CLIENT_STREAM_DISPATCH, 16, 8, { Listen: 0, Connect: 8 });
        $with!(WSK_PROVIDER_DISPATCH, 56, 8, {
            Version: 0, Reserved: 2, WskSocket: 8, WskSocketConnect: 16, WskControlClient: 24,
            WskGetAddressInfo: 32, WskFreeAddressInfo: 40, WskGetNameInfo: 48
        });
        $with!(WSK_PROVIDER_BASIC_DISPATCH, 16, 8, { WskControlSocket: 0, WskCloseSocket: 8 });
        $with!(WSK_PROVIDER_LISTEN_DISPATCH, 48, 8, {
            WskBind: 16, WskAccept: 24, WskInspectComplete: 32, WskGetLocalAddress: 40
        });
        $with!(WSK_PROVIDER_DATAGRAM_DISPATCH, 64, 8, {
            WskBind: 16, WskSendTo: 24, WskReceiveFrom: 32, WskRelease: 40, WskGetLocalAddress: 48,
            WskSendMessages: 56
        });
        $with!(WSK_PROVIDER_CONNECTION_DISPATCH, 104, 8, {
            WskBind: 16, WskConnect: 24, WskGetLocalAddress: 32, WskGetRemoteAddress: 40, WskSend: 48,
            WskReceive: 56, WskDisconnect: 64, WskRelease: 72, WskConnectEx: 80, WskSendEx: 88,
            WskReceiveEx: 96
        });
        $with!(WSK_PROVIDER_STREAM_DISPATCH, 120, 8, {
            WskBind: 16, WskAccept: 24, WskConnect: 32, WskListen: 40, WskSend: 48, WskReceive: 56,
            WskDisconnect: 64, WskRelease: 72, WskGetLocalAddress: 80, WskGetRemoteAddress: 88,
            WskConnectEx: 96, WskSendEx: 104, WskReceiveEx: 112
        });
        $with!(WSK_CLIENT_NPI, 16, 8, { ClientContext: 0, Dispatch: 8 });
        $with!(WSK_PROVIDER_NPI, 16, 8, { Client: 0, Dispatch: 8 });
        $with!(WSK_REGISTRATION, 24, 8, {
            ReservedRegistrationState: 0, ReservedRegistrationContext: 8, ReservedRegistrationLock: 16
        });
    };
}

layouts!(assert_layout);
assert_layout!(SOCKADDR, 16, 2, { sa_family: 0, sa_data: 2 });
assert_layout!(SOCKADDR_IN, 16, 4, { sin_family: 0, sin_port: 2, sin_addr: 4, sin_zero: 8 });
assert_layout!(SOCKADDR_IN6, 28, 4, {
    sin6_family: 0, sin6_port: 2, sin6_flowinfo: 4, sin6_addr: 8, sin6_scope_id: 24
});
assert_layout!(SOCKADDR_STORAGE, 128, 8, { ss_family: 0, __ss_pad1: 2, __ss_align: 8, __ss_pad2: 16 });
assert_layout!(CMSGHDR, 16, 8, { cmsg_len: 0, cmsg_level: 8, cmsg_type: 12 });
assert_layout!(ADDRINFOEXW, 72, 8, {
    ai_flags: 0, ai_family: 4, ai_socktype: 8, ai_protocol: 12, ai_addrlen: 16, ai_canonname: 24,
    ai_addr: 32, ai_blob: 40, ai_bloblen: 48, ai_provider: 56, ai_next: 64
});
assert_eq_size!(SOCKADDR_INET, SOCKADDR_IN6);
assert_eq_align!(SOCKADDR_INET, u32);
assert_eq_size!(PFN_WSK_SOCKET, usize);

const_assert_eq!(SIO_WSK_REGISTER_EXTENSION, 0xCF00_0002);
const_assert_eq!(SIO_WSK_SET_REMOTE_ADDRESS, 0x8F00_0001);
const_assert_eq!(SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, 0x4F00_0003);
const_assert_eq!(SIO_WSK_QUERY_RECEIVE_BACKLOG, 0x4F00_0004);
const_assert_eq!(SIO_WSK_QUERY_INSPECT_ID, 0x4F00_0005);
const_assert_eq!(SIO_WSK_SET_SENDTO_ADDRESS, 0x8F00_0006);
const_assert_eq!(SIO_WSK_SET_TCP_SILENT_MODE, 0x2F00_0007);
const_assert_eq!(SIO_WSK_SET_RECEIVE_EX_CALLBACK, 0x8F00_0008);
const_assert_eq!(SIO_ADDRESS_LIST_QUERY, 0x4800_0016);
const_assert_eq!(SIO_ADDRESS_LIST_CHANGE, 0x2800_0017);
const_assert_eq!(SIO_ADDRESS_LIST_SORT, 0xC800_0019);
const_assert_eq!(SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS, 0x9800_00DE);
const_assert_eq!(SO_EXCLUSIVEADDRUSE, 0xFFFF_FFFB);
const_assert_eq!(MAKE_WSK_VERSION(1, 0), 0x0100);

/// The rows of `layouts!` as data, for a test that holds them against another source.
#[cfg(test)]
#[expect(clippy::type_complexity, reason = "one row for each structure")]
pub(crate) fn layout_rows()
-> std::vec::Vec<(&'static str, usize, usize, std::vec::Vec<(&'static str, usize)>)> {
    let mut rows = std::vec::Vec::new();
    macro_rules! row {
        ($type:ty, $size:literal, $align:literal, { $($field:ident : $offset:literal),* $(,)? }) => {
            rows.push((
                stringify!($type),
                size_of::<$type>(),
                align_of::<$type>(),
                std::vec![$((stringify!($field), core::mem::offset_of!($type, $field))),*],
            ));
        };
    }
    layouts!(row);
    rows
}
