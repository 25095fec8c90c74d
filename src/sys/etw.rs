//! Event Tracing for Windows, as a driver calls it: types of `evntprov.h`, and the functions of `ntoskrnl.exe`. What each
//! asks for is on the documentation's page of its name. The image alone has it.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::upper_case_acronyms)]

use core::ffi::c_void;

use super::nt::{GUID, NTSTATUS};
use static_assertions::const_assert_eq;

/// A registration of a provider; 0: none.
pub type REGHANDLE = u64;

/// What an event is, for filters.
#[repr(C)]
pub struct EVENT_DESCRIPTOR {
    pub Id: u16,
    pub Version: u8,
    pub Channel: u8,
    pub Level: u8,
    pub Opcode: u8,
    pub Task: u16,
    pub Keyword: u64,
}

/// A piece of an event's data.
#[repr(C)]
pub struct EVENT_DATA_DESCRIPTOR {
    pub Ptr: u64,
    pub Size: u32,
    pub Type: u8,
    pub Reserved1: u8,
    pub Reserved2: u16,
}

const_assert_eq!(size_of::<EVENT_DESCRIPTOR>(), 16);
const_assert_eq!(core::mem::offset_of!(EVENT_DESCRIPTOR, Keyword), 8);
const_assert_eq!(size_of::<EVENT_DATA_DESCRIPTOR>(), 16);
const_assert_eq!(core::mem::offset_of!(EVENT_DATA_DESCRIPTOR, Type), 12);

/// The channel of events that describe themselves.
pub const WINEVENT_CHANNEL_TRACELOGGING: u8 = 11;
pub const EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA: u8 = 1;
pub const EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA: u8 = 2;
/// An EVENT_INFO_CLASS: the provider's name and traits.
pub const EventProviderSetTraits: i32 = 2;
pub const EVENT_CONTROL_CODE_DISABLE_PROVIDER: u32 = 0;
pub const EVENT_CONTROL_CODE_ENABLE_PROVIDER: u32 = 1;

pub type ETWENABLECALLBACK = unsafe extern "system" fn(
    SourceId: *const GUID,
    ControlCode: u32,
    Level: u8,
    MatchAnyKeyword: u64,
    MatchAllKeyword: u64,
    FilterData: *const c_void,
    CallbackContext: *mut c_void,
);

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn EtwRegister(
        ProviderId: *const GUID,
        EnableCallback: Option<ETWENABLECALLBACK>,
        CallbackContext: *mut c_void,
        RegHandle: *mut REGHANDLE,
    ) -> NTSTATUS;
    pub fn EtwSetInformation(
        RegHandle: REGHANDLE,
        InformationClass: i32,
        EventInformation: *const c_void,
        InformationLength: u32,
    ) -> NTSTATUS;
    pub fn EtwUnregister(RegHandle: REGHANDLE) -> NTSTATUS;
    pub fn EtwWriteTransfer(
        RegHandle: REGHANDLE,
        EventDescriptor: *const EVENT_DESCRIPTOR,
        ActivityId: *const GUID,
        RelatedActivityId: *const GUID,
        UserDataCount: u32,
        UserData: *const EVENT_DATA_DESCRIPTOR,
    ) -> NTSTATUS;
}
