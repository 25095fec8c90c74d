//! `label_v1`: a vendor's provider gives a connection a label, as a number and a text.
//!
//! The binary interface for vendors, by the rules of [`super::connection_v1`]. In the ring, an event is its bit as the
//! record's code, the label's number as the value, and the text.
//!
//! | event | bit | callback | value | data |
//! | --- | --- | --- | --- | --- |
//! | label | 0x1 | `Label` | number | text (UTF-8), up to 40 bytes |

#![allow(
    non_snake_case,
    non_camel_case_types,
    reason = "a binary interface, in the style of Windows headers"
)]

use super::callback::data_of;
use super::interface::{ExtensionInterface, has_all_of};
use super::{Callback, Provider};
use crate::kernel::{Result, Status};
use crate::sys::nt::{GUID, NTSTATUS, PVOID};
use crate::sys::wsk::{MAKE_WSK_VERSION, NPIID};
use core::ffi::c_void;
use core::ptr::NonNull;
use static_assertions::const_assert_eq;

/// {9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}
pub static NPI_LABEL_V1: NPIID = GUID {
    Data1: 0x9D2C_6A7E,
    Data2: 0x41B5,
    Data3: 0x4C0F,
    Data4: [0x8E, 0x39, 0x52, 0xA7, 0xD6, 0x1F, 0x0B, 0x84],
};

/// The version in the tables of this page.
pub const LABEL_V1: u16 = 1;

/// The connection's label: a bit of SO_WSK_EVENT_CALLBACK with [`NPI_LABEL_V1`].
pub const LABEL_EVENT_LABEL: u32 = 0x1;

/// The most bytes of a label's text.
pub const LABEL_TEXT_MAX: u32 = 40;

/// weir's callback, callable at IRQL <= DISPATCH_LEVEL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LABEL_V1_CLIENT_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    pub Label: unsafe extern "system" fn(ClientContext: PVOID, Label: u64, Text: *const c_void, Length: u32),
}

/// The provider's function, callable at IRQL <= DISPATCH_LEVEL until the socket's close is issued.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LABEL_V1_PROVIDER_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    /// Has the label told again.
    pub Refresh: Option<unsafe extern "system" fn(ProviderContext: PVOID) -> NTSTATUS>,
}

const CLIENT_SIZE: u16 = 16;
const PROVIDER_SIZE: u16 = 16;
const_assert_eq!(size_of::<LABEL_V1_CLIENT_DISPATCH>(), CLIENT_SIZE as usize);
const_assert_eq!(size_of::<LABEL_V1_PROVIDER_DISPATCH>(), PROVIDER_SIZE as usize);
const_assert_eq!(core::mem::offset_of!(LABEL_V1_CLIENT_DISPATCH, Label), 8);
const_assert_eq!(core::mem::offset_of!(LABEL_V1_PROVIDER_DISPATCH, Refresh), 8);

static CLIENT_DISPATCH: LABEL_V1_CLIENT_DISPATCH =
    LABEL_V1_CLIENT_DISPATCH { Size: CLIENT_SIZE, Version: LABEL_V1, Reserved: 0, Label: label };

/// The interface.
pub struct LabelV1;

// SAFETY: the tables are this page's definition of the interface, and the callback hands the client context to
// `Callback::enter` alone.
unsafe impl ExtensionInterface for LabelV1 {
    type ClientDispatch = LABEL_V1_CLIENT_DISPATCH;
    type ProviderDispatch = LABEL_V1_PROVIDER_DISPATCH;
    const NPIID: &'static NPIID = &NPI_LABEL_V1;
    const CLIENT_DISPATCH: &'static LABEL_V1_CLIENT_DISPATCH = &CLIENT_DISPATCH;
    const EVENT_MASK: u32 = LABEL_EVENT_LABEL;
    const MINIMUM_WSK_VERSION: u16 = MAKE_WSK_VERSION(1, 0);

    unsafe fn provider_is_usable(dispatch: NonNull<c_void>) -> bool {
        // SAFETY: every table of this interface begins with its size and version (contract).
        unsafe { has_all_of::<LABEL_V1_PROVIDER_DISPATCH>(dispatch, LABEL_V1) }
    }
}

impl Provider<'_, LabelV1> {
    /// Has the provider tell the label again. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// `STATUS_NOT_SUPPORTED` where the provider has no such function, and what it returns other than exactly
    /// STATUS_SUCCESS.
    pub fn refresh(&self) -> Result {
        let function = self.dispatch().Refresh.ok_or(Status::NOT_SUPPORTED)?;
        // SAFETY: the provider's own context, while its functions may be called.
        Status(unsafe { function(self.context()) }).exact()
    }
}

unsafe extern "system" fn label(ClientContext: PVOID, Label: u64, Text: *const c_void, Length: u32) {
    // SAFETY: the provider hands back the context of the registration, at IRQL <= DISPATCH_LEVEL (the interface).
    let Some(callback) = (unsafe { Callback::enter(ClientContext) }) else { return };
    // SAFETY: NULL, or `Length` bytes that live for the call (the interface).
    let Some(text) = (unsafe { data_of(Text, Length, LABEL_TEXT_MAX) }) else { return callback.malformed() };
    callback.emit(LABEL_EVENT_LABEL, Label, text);
}
