//! The Network Module Registrar's binary interface: the types and constants of `netiodef.h` and `netioddk.h`.
//!
//! Declarations only, for x64 and ARM64. Layouts are asserted at the end of the file; names are the headers' own.

#![allow(non_camel_case_types, non_snake_case, clippy::upper_case_acronyms)]

use crate::sys::nt::{GUID, HANDLE, NTSTATUS, PVOID};
use core::ffi::c_void;
use static_assertions::const_assert_eq;

pub type NPIID = GUID;
pub type PNPIID = *const NPIID;
pub type NPI_MODULEID_TYPE = i32;

/// The module is identified by a GUID.
pub const MIT_GUID: NPI_MODULEID_TYPE = 1;
/// The module is identified by the locally unique identifier of a network interface.
pub const MIT_IF_LUID: NPI_MODULEID_TYPE = 2;

/// `LUID`, 4-byte aligned as in `ntdef.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LUID {
    pub LowPart: u32,
    pub HighPart: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union NPI_MODULEID_u {
    pub Guid: GUID,
    pub IfLuid: LUID,
}

/// `Length` is `size_of::<NPI_MODULEID>()`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NPI_MODULEID {
    pub Length: u16,
    pub Type: NPI_MODULEID_TYPE,
    pub u: NPI_MODULEID_u,
}
pub type PNPI_MODULEID = *const NPI_MODULEID;

/// `Version` is 0, `Size` is `size_of::<NPI_REGISTRATION_INSTANCE>()`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NPI_REGISTRATION_INSTANCE {
    pub Version: u16,
    pub Size: u16,
    pub NpiId: PNPIID,
    pub ModuleId: PNPI_MODULEID,
    pub Number: u32,
    pub NpiSpecificCharacteristics: *const c_void,
}

pub type NPI_CLIENT_ATTACH_PROVIDER_FN = Option<
    unsafe extern "system" fn(
        NmrBindingHandle: HANDLE,
        ClientContext: PVOID,
        ProviderRegistrationInstance: *const NPI_REGISTRATION_INSTANCE,
    ) -> NTSTATUS,
>;
pub type NPI_CLIENT_DETACH_PROVIDER_FN =
    Option<unsafe extern "system" fn(ClientBindingContext: PVOID) -> NTSTATUS>;
pub type NPI_CLIENT_CLEANUP_BINDING_CONTEXT_FN =
    Option<unsafe extern "system" fn(ClientBindingContext: PVOID)>;
pub type NPI_PROVIDER_ATTACH_CLIENT_FN = Option<
    unsafe extern "system" fn(
        NmrBindingHandle: HANDLE,
        ProviderContext: PVOID,
        ClientRegistrationInstance: *const NPI_REGISTRATION_INSTANCE,
        ClientBindingContext: PVOID,
        ClientDispatch: *const c_void,
        ProviderBindingContext: *mut PVOID,
        ProviderDispatch: *mut *const c_void,
    ) -> NTSTATUS,
>;
pub type NPI_PROVIDER_DETACH_CLIENT_FN =
    Option<unsafe extern "system" fn(ProviderBindingContext: PVOID) -> NTSTATUS>;
pub type NPI_PROVIDER_CLEANUP_BINDING_CONTEXT_FN =
    Option<unsafe extern "system" fn(ProviderBindingContext: PVOID)>;

/// `Version` is 0, `Length` is `size_of::<NPI_CLIENT_CHARACTERISTICS>()`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NPI_CLIENT_CHARACTERISTICS {
    pub Version: u16,
    pub Length: u16,
    pub ClientAttachProvider: NPI_CLIENT_ATTACH_PROVIDER_FN,
    pub ClientDetachProvider: NPI_CLIENT_DETACH_PROVIDER_FN,
    /// May be NULL.
    pub ClientCleanupBindingContext: NPI_CLIENT_CLEANUP_BINDING_CONTEXT_FN,
    pub ClientRegistrationInstance: NPI_REGISTRATION_INSTANCE,
}

/// `Version` is 0, `Length` is `size_of::<NPI_PROVIDER_CHARACTERISTICS>()`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NPI_PROVIDER_CHARACTERISTICS {
    pub Version: u16,
    pub Length: u16,
    pub ProviderAttachClient: NPI_PROVIDER_ATTACH_CLIENT_FN,
    pub ProviderDetachClient: NPI_PROVIDER_DETACH_CLIENT_FN,
    /// May be NULL.
    pub ProviderCleanupBindingContext: NPI_PROVIDER_CLEANUP_BINDING_CONTEXT_FN,
    pub ProviderRegistrationInstance: NPI_REGISTRATION_INSTANCE,
}

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
        $with!(NPI_MODULEID, 24, 4, { Length: 0, Type: 4 });
        $with!(NPI_REGISTRATION_INSTANCE, 40, 8, {
            Version: 0, Size: 2, NpiId: 8, ModuleId: 16, Number: 24, NpiSpecificCharacteristics: 32
        });
        $with!(NPI_CLIENT_CHARACTERISTICS, 72, 8, {
            Version: 0, Length: 2, ClientAttachProvider: 8, ClientDetachProvider: 16,
            ClientCleanupBindingContext: 24, ClientRegistrationInstance: 32
        });
        $with!(NPI_PROVIDER_CHARACTERISTICS, 72, 8, {
            Version: 0, Length: 2, ProviderAttachClient: 8, ProviderDetachClient: 16,
            ProviderCleanupBindingContext: 24, ProviderRegistrationInstance: 32
        });
    };
}

layouts!(assert_layout);
assert_layout!(NPI_MODULEID, 24, 4, { u: 8 });
assert_layout!(NPI_MODULEID_u, 16, 4, { Guid: 0, IfLuid: 0 });

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
