//! What the headers say of the definitions in `sys/wsk/abi.rs`, held by the compiler.
//! Most structures are held by the table at the end of `abi.rs`; here is what that table lacks.
#![allow(clippy::wildcard_imports, reason = "a row for every name")]

use super::held;
use crate::sys::wsk::*;

held! { constants {
    AF_UNSPEC = 0,
    AF_INET = 2,
    AF_INET6 = 23,
    SOCK_STREAM = 1,
    SOCK_DGRAM = 2,
    SOCK_RAW = 3,
    IPPROTO_IP = 0,
    IPPROTO_ICMP = 1,
    IPPROTO_TCP = 6,
    IPPROTO_UDP = 17,
    IPPROTO_IPV6 = 41,
    IPPROTO_ICMPV6 = 58,
    WskInspectReject = 0,
    WskInspectAccept = 1,
    WskInspectPend = 2,
    WskSetOption = 0,
    WskGetOption = 1,
    WskIoctl = 2,
    WSK_FLAG_BASIC_SOCKET = 0,
    WSK_FLAG_LISTEN_SOCKET = 1,
    WSK_FLAG_CONNECTION_SOCKET = 2,
    WSK_FLAG_DATAGRAM_SOCKET = 4,
    WSK_FLAG_STREAM_SOCKET = 8,
    WSK_FLAG_RELEASE_ASAP = 0x2,
    WSK_FLAG_ENTIRE_MESSAGE = 0x4,
    WSK_FLAG_AT_DISPATCH_LEVEL = 0x8,
    WSK_FLAG_ABORTIVE = 0x1,
    WSK_FLAG_OOB = 0x1,
    WSK_FLAG_NODELAY = 0x2,
    WSK_FLAG_WAITALL = 0x2,
    WSK_FLAG_DRAIN = 0x4,
    WSK_NO_WAIT = 0,
    WSK_INFINITE_WAIT = 0xFFFF_FFFF,
    WSK_EVENT_SEND_BACKLOG = 0x10,
    WSK_EVENT_RECEIVE = 0x40,
    WSK_EVENT_DISCONNECT = 0x80,
    WSK_EVENT_RECEIVE_FROM = 0x100,
    WSK_EVENT_ACCEPT = 0x200,
    WSK_EVENT_DISABLE = 0x8000_0000,
    WSK_TRANSPORT_LIST_QUERY = 2,
    WSK_TRANSPORT_LIST_CHANGE = 3,
    WSK_CACHE_SD = 4,
    WSK_RELEASE_SD = 5,
    WSK_TDI_DEVICENAME_MAPPING = 6,
    WSK_SET_STATIC_EVENT_CALLBACKS = 7,
    WSK_TDI_BEHAVIOR = 8,
    WSK_TDI_BEHAVIOR_BYPASS_TDI = 1,
    IOC_VOID = 0x2000_0000,
    IOC_OUT = 0x4000_0000,
    IOC_IN = 0x8000_0000,
    IOC_INOUT = 0xC000_0000,
    IOC_WS2 = 0x0800_0000,
    IOC_VENDOR = 0x1800_0000,
    IOC_WSK = 0x0F00_0000,
    SIO_WSK_SET_REMOTE_ADDRESS = 0x8F00_0001,
    SIO_WSK_REGISTER_EXTENSION = 0xCF00_0002,
    SIO_WSK_QUERY_IDEAL_SEND_BACKLOG = 0x4F00_0003,
    SIO_WSK_QUERY_RECEIVE_BACKLOG = 0x4F00_0004,
    SIO_WSK_QUERY_INSPECT_ID = 0x4F00_0005,
    SIO_WSK_SET_SENDTO_ADDRESS = 0x8F00_0006,
    SIO_WSK_SET_TCP_SILENT_MODE = 0x2F00_0007,
    SIO_WSK_SET_RECEIVE_EX_CALLBACK = 0x8F00_0008,
    SIO_ADDRESS_LIST_QUERY = 0x4800_0016,
    SIO_ADDRESS_LIST_CHANGE = 0x2800_0017,
    SIO_ADDRESS_LIST_SORT = 0xC800_0019,
    SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS = 0x9800_00DE,
    SOL_SOCKET = 0xFFFF,
    SO_REUSEADDR = 4,
    SO_KEEPALIVE = 8,
    SO_BROADCAST = 0x20,
    SO_EXCLUSIVEADDRUSE = 0xFFFF_FFFB,
    SO_RCVBUF = 0x1002,
    SO_CONDITIONAL_ACCEPT = 0x3002,
    SO_PAUSE_ACCEPT = 0x3003,
    SO_COMPARTMENT_ID = 0x3004,
    SO_RANDOMIZE_PORT = 0x3005,
    SO_PORT_SCALABILITY = 0x3006,
    SO_REUSE_UNICASTPORT = 0x3007,
    SO_REUSE_MULTICASTPORT = 0x3008,
    WSK_SO_BASE = 0x4000,
    SO_WSK_SECURITY = 0x4001,
    SO_WSK_EVENT_CALLBACK = 0x4002,
    IPV6_V6ONLY = 27,
} }

held! { guids {
    NPI_WSK_INTERFACE_ID = "2227e803-8d8b-11d4-abad-009027719e09",
} }

held! { layouts {
    IN_ADDR: size 4, align 4 {
        s_addr: 0,
    }
    IN6_ADDR: size 16, align 2 {
        Byte: 0,
    }
    SOCKADDR_INET: size 28, align 4 {
        Ipv4: 0, Ipv6: 0, si_family: 0,
    }
    WSK_PROVIDER_LISTEN_DISPATCH: size 48, align 8 {
        Basic: 0,
    }
    WSK_PROVIDER_DATAGRAM_DISPATCH: size 64, align 8 {
        Basic: 0,
    }
    WSK_PROVIDER_CONNECTION_DISPATCH: size 104, align 8 {
        Basic: 0,
    }
    WSK_PROVIDER_STREAM_DISPATCH: size 120, align 8 {
        Basic: 0,
    }
} }
