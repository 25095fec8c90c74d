//! The tables that a vendor's module and weir exchange when the Network Module Registrar attaches them to each other
//! (NmrClientAttachProvider): the same for every interface.
//!
//! The registrar binds modules, not sockets. So a module gets each of weir's sockets by `AttachConnection`, as WSK gets
//! it by SIO_WSK_REGISTER_EXTENSION: with weir's context and table of the interface, for the provider's. Tables and
//! structures begin with their size and version; a reader uses what lies within `Size` only. Numbers are in host byte
//! order.
//!
//! - Exactly STATUS_SUCCESS grants. Callbacks may come before `AttachConnection` returns.
//! - Once `DetachConnection` is called, no callback may be made for the connection. STATUS_PENDING is for calls that are
//!   in progress: `DetachComplete` follows when they have returned.
//! - Once the registrar has asked a side to detach (ProviderDetachClient, ClientDetachProvider), that side makes no calls
//!   any more ("Detaching Network Modules"): no `DetachConnection` follows for what is attached then.

#![allow(
    non_snake_case,
    non_camel_case_types,
    reason = "a binary interface, in the style of Windows headers"
)]

use crate::sys::nt::{NTSTATUS, PVOID};
use core::ffi::c_void;
use static_assertions::const_assert_eq;

/// The version in the tables and structures of this page.
pub const EXTENSION_MODULE_V1: u16 = 1;

/// Kinds of sockets.
pub const EXTENSION_CONNECTION_LISTENING: u32 = 0;
pub const EXTENSION_CONNECTION_ACCEPTED: u32 = 1;
pub const EXTENSION_CONNECTION_DIALLED: u32 = 2;

/// What a module is told of a socket. It lasts for the call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EXTENSION_CONNECTION {
    pub Size: u16,
    pub Version: u16,
    pub Kind: u32,
    /// The session's number, unique since weir's start; 0 for a listening socket.
    pub Session: u64,
    /// The events that are wanted; the interface defines the bits.
    pub EventMask: u32,
    /// AF_INET or AF_INET6; 0: the addresses are not known.
    pub Family: u16,
    /// In host byte order.
    pub LocalPort: u16,
    /// In host byte order.
    pub RemotePort: u16,
    pub Reserved: u16,
    pub Reserved2: u32,
    /// In network byte order; an IPv4 address fills the first four bytes.
    pub LocalAddress: [u8; 16],
    /// As `LocalAddress`.
    pub RemoteAddress: [u8; 16],
}

/// The module's table: NmrClientAttachProvider's ProviderDispatch. IRQL of both: PASSIVE_LEVEL, one call at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EXTENSION_MODULE_PROVIDER_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    /// Takes a socket on: `ClientDispatch` and `ProviderDispatch` are the interface's tables.
    pub AttachConnection: Option<
        unsafe extern "system" fn(
            ProviderBindingContext: PVOID,
            Connection: *const EXTENSION_CONNECTION,
            ClientContext: PVOID,
            ClientDispatch: *const c_void,
            ProviderContext: *mut PVOID,
            ProviderDispatch: *mut *const c_void,
        ) -> NTSTATUS,
    >,
    /// Lets go of a socket: STATUS_SUCCESS, or STATUS_PENDING and `DetachComplete` later.
    pub DetachConnection: Option<unsafe extern "system" fn(ProviderContext: PVOID) -> NTSTATUS>,
}

/// weir's table: ProviderAttachClient's ClientDispatch. IRQL <= DISPATCH_LEVEL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EXTENSION_MODULE_CLIENT_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    /// The calls that were in progress when `DetachConnection` answered STATUS_PENDING have returned.
    pub DetachComplete: unsafe extern "system" fn(ClientContext: PVOID),
}

const_assert_eq!(size_of::<EXTENSION_CONNECTION>(), 64);
const_assert_eq!(core::mem::offset_of!(EXTENSION_CONNECTION, Session), 8);
const_assert_eq!(core::mem::offset_of!(EXTENSION_CONNECTION, EventMask), 16);
const_assert_eq!(core::mem::offset_of!(EXTENSION_CONNECTION, LocalAddress), 32);
const_assert_eq!(core::mem::offset_of!(EXTENSION_CONNECTION, RemoteAddress), 48);
const_assert_eq!(size_of::<EXTENSION_MODULE_PROVIDER_DISPATCH>(), 24);
const_assert_eq!(core::mem::offset_of!(EXTENSION_MODULE_PROVIDER_DISPATCH, AttachConnection), 8);
const_assert_eq!(core::mem::offset_of!(EXTENSION_MODULE_PROVIDER_DISPATCH, DetachConnection), 16);
const_assert_eq!(size_of::<EXTENSION_MODULE_CLIENT_DISPATCH>(), 16);
const_assert_eq!(core::mem::offset_of!(EXTENSION_MODULE_CLIENT_DISPATCH, DetachComplete), 8);
