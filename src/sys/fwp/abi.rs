//! The binary interface of the Windows Filtering Platform: structures, constants and callback types, as the
//! headers `fwptypes.h`, `fwpmtypes.h`, `fwpstypes.h`, `fwpsk.h` and `fwpmk.h` lay them out on x64 and ARM64 (which
//! agree in every record). Data only; no function is declared here. The identifiers (layers, fields, conditions,
//! sublayers, status codes) are in [`id`].
//!
//! Each structure is written as a table: the offset, the name and the type of every member, with the size and
//! the alignment of the whole. The table is checked when it is compiled.
//!
//! An anonymous union of the C headers is a member `u`; the member `type` is spelled `type_`.

#![allow(non_camel_case_types, non_snake_case)]

use core::ffi::c_void;
use core::mem::{align_of, offset_of, size_of};

use static_assertions::const_assert_eq;

use crate::sys::nt::{GUID, HANDLE, NTSTATUS};

#[path = "id.rs"]
pub mod id;

pub use id::*;

/// `enum FWP_DATA_TYPE_`: what an [`FWP_VALUE0`] holds.
pub type FWP_DATA_TYPE = i32;
pub const FWP_EMPTY: FWP_DATA_TYPE = 0;
pub const FWP_UINT8: FWP_DATA_TYPE = 1;
pub const FWP_UINT16: FWP_DATA_TYPE = 2;
pub const FWP_UINT32: FWP_DATA_TYPE = 3;
pub const FWP_UINT64: FWP_DATA_TYPE = 4;
pub const FWP_INT8: FWP_DATA_TYPE = 5;
pub const FWP_INT16: FWP_DATA_TYPE = 6;
pub const FWP_INT32: FWP_DATA_TYPE = 7;
pub const FWP_INT64: FWP_DATA_TYPE = 8;
pub const FWP_FLOAT: FWP_DATA_TYPE = 9;
pub const FWP_DOUBLE: FWP_DATA_TYPE = 10;
pub const FWP_BYTE_ARRAY16_TYPE: FWP_DATA_TYPE = 11;
pub const FWP_BYTE_BLOB_TYPE: FWP_DATA_TYPE = 12;
pub const FWP_SID: FWP_DATA_TYPE = 13;
pub const FWP_SECURITY_DESCRIPTOR_TYPE: FWP_DATA_TYPE = 14;
pub const FWP_TOKEN_INFORMATION_TYPE: FWP_DATA_TYPE = 15;
pub const FWP_TOKEN_ACCESS_INFORMATION_TYPE: FWP_DATA_TYPE = 16;
pub const FWP_UNICODE_STRING_TYPE: FWP_DATA_TYPE = 17;
pub const FWP_BYTE_ARRAY6_TYPE: FWP_DATA_TYPE = 18;
pub const FWP_SINGLE_DATA_TYPE_MAX: FWP_DATA_TYPE = 255;
pub const FWP_V4_ADDR_MASK: FWP_DATA_TYPE = 256;
pub const FWP_V6_ADDR_MASK: FWP_DATA_TYPE = 257;
pub const FWP_RANGE_TYPE: FWP_DATA_TYPE = 258;

/// `enum FWP_MATCH_TYPE_`: how a condition compares.
pub type FWP_MATCH_TYPE = i32;
pub const FWP_MATCH_EQUAL: FWP_MATCH_TYPE = 0;
pub const FWP_MATCH_GREATER: FWP_MATCH_TYPE = 1;
pub const FWP_MATCH_LESS: FWP_MATCH_TYPE = 2;
pub const FWP_MATCH_GREATER_OR_EQUAL: FWP_MATCH_TYPE = 3;
pub const FWP_MATCH_LESS_OR_EQUAL: FWP_MATCH_TYPE = 4;
pub const FWP_MATCH_RANGE: FWP_MATCH_TYPE = 5;
pub const FWP_MATCH_FLAGS_ALL_SET: FWP_MATCH_TYPE = 6;
pub const FWP_MATCH_FLAGS_ANY_SET: FWP_MATCH_TYPE = 7;
pub const FWP_MATCH_FLAGS_NONE_SET: FWP_MATCH_TYPE = 8;
pub const FWP_MATCH_EQUAL_CASE_INSENSITIVE: FWP_MATCH_TYPE = 9;
pub const FWP_MATCH_NOT_EQUAL: FWP_MATCH_TYPE = 10;
pub const FWP_MATCH_PREFIX: FWP_MATCH_TYPE = 11;
pub const FWP_MATCH_NOT_PREFIX: FWP_MATCH_TYPE = 12;

/// `FWP_ACTION_TYPE`: an action of a filter, or the verdict of a callout. The flag bits are part of the value.
pub type FWP_ACTION_TYPE = u32;
pub const FWP_ACTION_FLAG_TERMINATING: FWP_ACTION_TYPE = 0x1000;
pub const FWP_ACTION_FLAG_NON_TERMINATING: FWP_ACTION_TYPE = 0x2000;
pub const FWP_ACTION_FLAG_CALLOUT: FWP_ACTION_TYPE = 0x4000;
pub const FWP_ACTION_BLOCK: FWP_ACTION_TYPE = 0x1001;
pub const FWP_ACTION_PERMIT: FWP_ACTION_TYPE = 0x1002;
pub const FWP_ACTION_CALLOUT_TERMINATING: FWP_ACTION_TYPE = 0x5003;
pub const FWP_ACTION_CALLOUT_INSPECTION: FWP_ACTION_TYPE = 0x6004;
pub const FWP_ACTION_CALLOUT_UNKNOWN: FWP_ACTION_TYPE = 0x4005;
pub const FWP_ACTION_CONTINUE: FWP_ACTION_TYPE = 0x2006;
pub const FWP_ACTION_NONE: FWP_ACTION_TYPE = 7;
pub const FWP_ACTION_NONE_NO_MATCH: FWP_ACTION_TYPE = 8;

/// `enum FWP_DIRECTION_`.
pub type FWP_DIRECTION = i32;
pub const FWP_DIRECTION_OUTBOUND: FWP_DIRECTION = 0;
pub const FWP_DIRECTION_INBOUND: FWP_DIRECTION = 1;

/// `enum FWPM_SERVICE_STATE_`: the state of the base filtering engine.
pub type FWPM_SERVICE_STATE = i32;
pub const FWPM_SERVICE_STOPPED: FWPM_SERVICE_STATE = 0;
pub const FWPM_SERVICE_START_PENDING: FWPM_SERVICE_STATE = 1;
pub const FWPM_SERVICE_STOP_PENDING: FWPM_SERVICE_STATE = 2;
pub const FWPM_SERVICE_RUNNING: FWPM_SERVICE_STATE = 3;

/// `enum FWPM_FIELD_TYPE_`: how the engine reads a field of a layer.
pub type FWPM_FIELD_TYPE = i32;
pub const FWPM_FIELD_RAW_DATA: FWPM_FIELD_TYPE = 0;
pub const FWPM_FIELD_IP_ADDRESS: FWPM_FIELD_TYPE = 1;
pub const FWPM_FIELD_FLAGS: FWPM_FIELD_TYPE = 2;

/// `enum FWPS_CALLOUT_NOTIFY_TYPE_`: why a callout's notify function is called.
pub type FWPS_CALLOUT_NOTIFY_TYPE = i32;
pub const FWPS_CALLOUT_NOTIFY_ADD_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 0;
pub const FWPS_CALLOUT_NOTIFY_DELETE_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 1;
pub const FWPS_CALLOUT_NOTIFY_ADD_FILTER_POST_COMMIT: FWPS_CALLOUT_NOTIFY_TYPE = 2;

// FWPS_CALLOUT*.flags
pub const FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW: u32 = 0x1;
pub const FWP_CALLOUT_FLAG_ALLOW_OFFLOAD: u32 = 0x2;
pub const FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY: u32 = 0x4;
pub const FWP_CALLOUT_FLAG_ALLOW_MID_STREAM_INSPECTION: u32 = 0x8;
pub const FWP_CALLOUT_FLAG_ALLOW_RECLASSIFY: u32 = 0x10;
pub const FWP_CALLOUT_FLAG_ALLOW_RSC: u32 = 0x40;
pub const FWP_CALLOUT_FLAG_ALLOW_L2_BATCH_CLASSIFY: u32 = 0x80;
pub const FWP_CALLOUT_FLAG_ALLOW_USO: u32 = 0x100;
pub const FWP_CALLOUT_FLAG_ALLOW_URO: u32 = 0x200;

// FWPM_CALLOUT0.flags
pub const FWPM_CALLOUT_FLAG_PERSISTENT: u32 = 0x1_0000;
pub const FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT: u32 = 0x2_0000;
pub const FWPM_CALLOUT_FLAG_REGISTERED: u32 = 0x4_0000;

// FWPM_FILTER0.flags
pub const FWPM_FILTER_FLAG_NONE: u32 = 0;
pub const FWPM_FILTER_FLAG_PERSISTENT: u32 = 0x1;
pub const FWPM_FILTER_FLAG_BOOTTIME: u32 = 0x2;
pub const FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT: u32 = 0x4;
pub const FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT: u32 = 0x8;
pub const FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u32 = 0x10;
pub const FWPM_FILTER_FLAG_DISABLED: u32 = 0x20;
pub const FWPM_FILTER_FLAG_INDEXED: u32 = 0x40;

// FWPS_FILTER*.flags
pub const FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT: u16 = 0x1;
pub const FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u16 = 0x2;
pub const FWPS_FILTER_FLAG_OR_CONDITIONS: u16 = 0x4;

pub const FWPM_SESSION_FLAG_DYNAMIC: u32 = 0x1;
pub const FWPM_PROVIDER_FLAG_PERSISTENT: u32 = 0x1;
pub const FWPM_PROVIDER_FLAG_DISABLED: u32 = 0x10;
pub const FWPM_SUBLAYER_FLAG_PERSISTENT: u32 = 0x1;
pub const FWPM_TXN_READ_ONLY: u32 = 0x1;

// FWPS_CLASSIFY_OUT0
pub const FWPS_RIGHT_ACTION_WRITE: u32 = 0x1;
pub const FWPS_CLASSIFY_OUT_FLAG_ABSORB: u32 = 0x1;
pub const FWPS_CLASSIFY_OUT_FLAG_BUFFER_LIMIT_REACHED: u32 = 0x2;
pub const FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA: u32 = 0x4;
pub const FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_CHECK: u32 = 0x8;
pub const FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_POSSIBLE: u32 = 0x10;

// FWPS_INCOMING_METADATA_VALUES0.currentMetadataValues: which members hold a value.
pub const FWPS_METADATA_FIELD_DISCARD_REASON: u32 = 0x1;
pub const FWPS_METADATA_FIELD_FLOW_HANDLE: u32 = 0x2;
pub const FWPS_METADATA_FIELD_IP_HEADER_SIZE: u32 = 0x4;
pub const FWPS_METADATA_FIELD_PROCESS_PATH: u32 = 0x8;
pub const FWPS_METADATA_FIELD_TOKEN: u32 = 0x10;
pub const FWPS_METADATA_FIELD_PROCESS_ID: u32 = 0x20;
pub const FWPS_METADATA_FIELD_SYSTEM_FLAGS: u32 = 0x40;
pub const FWPS_METADATA_FIELD_SOURCE_INTERFACE_INDEX: u32 = 0x100;
pub const FWPS_METADATA_FIELD_DESTINATION_INTERFACE_INDEX: u32 = 0x200;
pub const FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE: u32 = 0x400;
pub const FWPS_METADATA_FIELD_COMPARTMENT_ID: u32 = 0x800;
pub const FWPS_METADATA_FIELD_FRAGMENT_DATA: u32 = 0x1000;
pub const FWPS_METADATA_FIELD_PATH_MTU: u32 = 0x2000;
pub const FWPS_METADATA_FIELD_COMPLETION_HANDLE: u32 = 0x4000;
pub const FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE: u32 = 0x8000;
pub const FWPS_METADATA_FIELD_TRANSPORT_CONTROL_DATA: u32 = 0x1_0000;
pub const FWPS_METADATA_FIELD_REMOTE_SCOPE_ID: u32 = 0x2_0000;
pub const FWPS_METADATA_FIELD_PACKET_DIRECTION: u32 = 0x4_0000;
pub const FWPS_METADATA_FIELD_PACKET_SYSTEM_CRITICAL: u32 = 0x8_0000;
pub const FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED: u32 = 0x40_0000;
pub const FWPS_METADATA_FIELD_TRANSPORT_HEADER_INCLUDE_HEADER: u32 = 0x80_0000;
pub const FWPS_METADATA_FIELD_DESTINATION_PREFIX: u32 = 0x100_0000;
pub const FWPS_METADATA_FIELD_PARENT_ENDPOINT_HANDLE: u32 = 0x400_0000;
pub const FWPS_METADATA_FIELD_ICMP_ID_AND_SEQUENCE: u32 = 0x800_0000;
pub const FWPS_METADATA_FIELD_LOCAL_REDIRECT_TARGET_PID: u32 = 0x1000_0000;
pub const FWPS_METADATA_FIELD_ORIGINAL_DESTINATION: u32 = 0x2000_0000;
pub const FWPS_METADATA_FIELD_REDIRECT_RECORD_HANDLE: u32 = 0x4000_0000;
pub const FWPS_METADATA_FIELD_SUB_PROCESS_TAG: u32 = 0x8000_0000;

// FWPS_INCOMING_METADATA_VALUES0.flags
pub const FWPS_INCOMING_FLAG_CACHE_SAFE: u32 = 0x1;
pub const FWPS_INCOMING_FLAG_ENFORCE_QUERY: u32 = 0x2;
pub const FWPS_INCOMING_FLAG_ABSORB: u32 = 0x4;
pub const FWPS_INCOMING_FLAG_CONNECTION_FAILING_INDICATION: u32 = 0x8;
pub const FWPS_INCOMING_FLAG_MID_STREAM_INSPECTION: u32 = 0x10;
pub const FWPS_INCOMING_FLAG_RECLASSIFY: u32 = 0x20;
pub const FWPS_INCOMING_FLAG_IS_LOOSE_SOURCE_FLOW: u32 = 0x40;
pub const FWPS_INCOMING_FLAG_IS_LOCAL_ONLY_FLOW: u32 = 0x80;

// The value of the FLAGS field of a layer.
pub const FWP_CONDITION_FLAG_IS_LOOPBACK: u32 = 0x1;
pub const FWP_CONDITION_FLAG_IS_IPSEC_SECURED: u32 = 0x2;
pub const FWP_CONDITION_FLAG_IS_REAUTHORIZE: u32 = 0x4;
pub const FWP_CONDITION_FLAG_IS_WILDCARD_BIND: u32 = 0x8;
pub const FWP_CONDITION_FLAG_IS_RAW_ENDPOINT: u32 = 0x10;
pub const FWP_CONDITION_FLAG_IS_FRAGMENT: u32 = 0x20;
pub const FWP_CONDITION_FLAG_IS_FRAGMENT_GROUP: u32 = 0x40;
pub const FWP_CONDITION_FLAG_IS_IPSEC_NATT_RECLASSIFY: u32 = 0x80;
pub const FWP_CONDITION_FLAG_REQUIRES_ALE_CLASSIFY: u32 = 0x100;
pub const FWP_CONDITION_FLAG_IS_IMPLICIT_BIND: u32 = 0x200;
pub const FWP_CONDITION_FLAG_IS_REASSEMBLED: u32 = 0x400;
pub const FWP_CONDITION_FLAG_IS_NAME_APP_SPECIFIED: u32 = 0x4000;
pub const FWP_CONDITION_FLAG_IS_PROMISCUOUS: u32 = 0x8000;
pub const FWP_CONDITION_FLAG_IS_AUTH_FW: u32 = 0x1_0000;
pub const FWP_CONDITION_FLAG_IS_RECLASSIFY: u32 = 0x2_0000;
pub const FWP_CONDITION_FLAG_IS_OUTBOUND_PASS_THRU: u32 = 0x4_0000;
pub const FWP_CONDITION_FLAG_IS_INBOUND_PASS_THRU: u32 = 0x8_0000;
pub const FWP_CONDITION_FLAG_IS_CONNECTION_REDIRECTED: u32 = 0x10_0000;
pub const FWP_CONDITION_FLAG_IS_PROXY_CONNECTION: u32 = 0x20_0000;
pub const FWP_CONDITION_FLAG_IS_APPCONTAINER_LOOPBACK: u32 = 0x40_0000;
pub const FWP_CONDITION_FLAG_IS_NON_APPCONTAINER_LOOPBACK: u32 = 0x80_0000;

// The value of the REAUTHORIZE_REASON field.
pub const FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE: u32 = 0x1;
pub const FWP_CONDITION_REAUTHORIZE_REASON_NEW_ARRIVAL_INTERFACE: u32 = 0x2;
pub const FWP_CONDITION_REAUTHORIZE_REASON_NEW_NEXTHOP_INTERFACE: u32 = 0x4;
pub const FWP_CONDITION_REAUTHORIZE_REASON_PROFILE_CROSSING: u32 = 0x8;
pub const FWP_CONDITION_REAUTHORIZE_REASON_CLASSIFY_COMPLETION: u32 = 0x10;
pub const FWP_CONDITION_REAUTHORIZE_REASON_IPSEC_PROPERTIES_CHANGED: u32 = 0x20;
pub const FWP_CONDITION_REAUTHORIZE_REASON_MID_STREAM_INSPECTION: u32 = 0x40;
pub const FWP_CONDITION_REAUTHORIZE_REASON_SOCKET_PROPERTY_CHANGED: u32 = 0x80;

/// `FwpmEngineOpen0`: the two authentication services that it takes.
pub const RPC_C_AUTHN_WINNT: u32 = 10;
pub const RPC_C_AUTHN_DEFAULT: u32 = 0xFFFF_FFFF;

/// A structure that is only ever handled by pointer.
macro_rules! opaque {
    ($($(#[$meta:meta])* $name:ident)*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                opaque: [u8; 0],
            }
        )*
    };
}

opaque! {
    /// A packet or a chain of them. Its size differs between NDIS versions; it is never copied.
    NET_BUFFER_LIST
    /// The provider context of a filter, each version of it.
    FWPM_PROVIDER_CONTEXT1
    FWPM_PROVIDER_CONTEXT2
    FWPM_PROVIDER_CONTEXT3
}

/// Writes each structure from its table, checks the table against the compiler's layout, and gives the
/// structure a value with all bytes zero.
macro_rules! layout {
    ($($(#[$meta:meta])* $name:ident: size $size:literal, align $align:literal {
        $($offset:literal $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name {
                $(pub $field: $type,)*
            }

            impl $name {
                /// All bytes zero: numbers 0, pointers null, values [`FWP_EMPTY`].
                // SAFETY: the members are integers, raw pointers, optional function pointers, and arrays,
                // structures and unions of them; zero is a valid value of each.
                pub const ZERO: Self = unsafe { core::mem::zeroed() };
            }

            const_assert_eq!(size_of::<$name>(), $size);
            const_assert_eq!(align_of::<$name>(), $align);
            $(const_assert_eq!(offset_of!($name, $field), $offset);)*
        )*

        /// Name, size, alignment and members of every structure, for the comparison with the reference.
        #[cfg(test)]
        pub const STRUCTS: &[(&str, usize, usize, &[(&str, usize)])] =
            &[$((stringify!($name), $size, $align, &[$((stringify!($field), $offset)),*])),*];
    };
}

/// The union of an [`FWP_VALUE0`]. What is longer than four bytes is a pointer, `uint64` too.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_VALUE0_U {
    pub uint8: u8,
    pub uint16: u16,
    pub uint32: u32,
    pub uint64: *mut u64,
    pub int8: i8,
    pub int16: i16,
    pub int32: i32,
    pub int64: *mut i64,
    pub float32: f32,
    pub double64: *mut f64,
    pub byteArray16: *mut FWP_BYTE_ARRAY16,
    pub byteBlob: *mut FWP_BYTE_BLOB,
    pub sid: *mut c_void,
    pub sd: *mut FWP_BYTE_BLOB,
    pub tokenInformation: *mut c_void,
    pub tokenAccessInformation: *mut FWP_BYTE_BLOB,
    pub unicodeString: *mut u16,
    pub byteArray6: *mut FWP_BYTE_ARRAY6,
}

/// The union of an [`FWP_CONDITION_VALUE0`]: as [`FWP_VALUE0_U`], with masks and ranges.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWP_CONDITION_VALUE0_U {
    pub uint8: u8,
    pub uint16: u16,
    pub uint32: u32,
    pub uint64: *mut u64,
    pub int8: i8,
    pub int16: i16,
    pub int32: i32,
    pub int64: *mut i64,
    pub float32: f32,
    pub double64: *mut f64,
    pub byteArray16: *mut FWP_BYTE_ARRAY16,
    pub byteBlob: *mut FWP_BYTE_BLOB,
    pub sid: *mut c_void,
    pub sd: *mut FWP_BYTE_BLOB,
    pub tokenInformation: *mut c_void,
    pub tokenAccessInformation: *mut FWP_BYTE_BLOB,
    pub unicodeString: *mut u16,
    pub byteArray6: *mut FWP_BYTE_ARRAY6,
    pub v4AddrMask: *mut FWP_V4_ADDR_AND_MASK,
    pub v6AddrMask: *mut FWP_V6_ADDR_AND_MASK,
    pub rangeValue: *mut FWP_RANGE0,
}

/// The union of an [`FWPM_ACTION0`]: one GUID, by the kind of action.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWPM_ACTION0_U {
    pub filterType: GUID,
    pub calloutKey: GUID,
}

/// The union of an [`FWPM_FILTER0`]: a number that the callout gets in its filter, or a provider context.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWPM_FILTER0_U {
    pub rawContext: u64,
    pub providerContextKey: GUID,
}

layout! {
    FWP_BYTE_ARRAY6: size 6, align 1 {
        0 byteArray6: [u8; 6],
    }
    FWP_BYTE_ARRAY16: size 16, align 1 {
        0 byteArray16: [u8; 16],
    }
    /// `size` is in bytes. An application id is UTF-16 with its terminating NUL counted.
    FWP_BYTE_BLOB: size 16, align 8 {
        0 size: u32,
        8 data: *mut u8,
    }
    /// Both in host byte order.
    FWP_V4_ADDR_AND_MASK: size 8, align 4 {
        0 addr: u32,
        4 mask: u32,
    }
    /// The address in network byte order.
    FWP_V6_ADDR_AND_MASK: size 17, align 1 {
        0 addr: [u8; 16],
        16 prefixLength: u8,
    }
    FWP_VALUE0: size 16, align 8 {
        0 type_: FWP_DATA_TYPE,
        8 u: FWP_VALUE0_U,
    }
    FWP_RANGE0: size 32, align 8 {
        0 valueLow: FWP_VALUE0,
        16 valueHigh: FWP_VALUE0,
    }
    FWP_CONDITION_VALUE0: size 16, align 8 {
        0 type_: FWP_DATA_TYPE,
        8 u: FWP_CONDITION_VALUE0_U,
    }
    /// `name` must not be null on any object that is added.
    FWPM_DISPLAY_DATA0: size 16, align 8 {
        0 name: *mut u16,
        8 description: *mut u16,
    }
    FWPM_SESSION0: size 72, align 8 {
        0 sessionKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        36 txnWaitTimeoutInMSec: u32,
        40 processId: u32,
        48 sid: *mut c_void,
        56 username: *mut u16,
        64 kernelMode: i32,
    }
    FWPM_PROVIDER0: size 64, align 8 {
        0 providerKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        40 providerData: FWP_BYTE_BLOB,
        56 serviceName: *mut u16,
    }
    FWPM_SUBLAYER0: size 72, align 8 {
        0 subLayerKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        40 providerKey: *mut GUID,
        48 providerData: FWP_BYTE_BLOB,
        64 weight: u16,
    }
    /// `calloutId` is set by the engine.
    FWPM_CALLOUT0: size 88, align 8 {
        0 calloutKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        40 providerKey: *mut GUID,
        48 providerData: FWP_BYTE_BLOB,
        64 applicableLayer: GUID,
        80 calloutId: u32,
    }
    FWPM_FILTER_CONDITION0: size 40, align 8 {
        0 fieldKey: GUID,
        16 matchType: FWP_MATCH_TYPE,
        24 conditionValue: FWP_CONDITION_VALUE0,
    }
    FWPM_ACTION0: size 20, align 4 {
        0 type_: FWP_ACTION_TYPE,
        4 u: FWPM_ACTION0_U,
    }
    /// `filterId` and `effectiveWeight` are set by the engine.
    FWPM_FILTER0: size 200, align 8 {
        0 filterKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        40 providerKey: *mut GUID,
        48 providerData: FWP_BYTE_BLOB,
        64 layerKey: GUID,
        80 subLayerKey: GUID,
        96 weight: FWP_VALUE0,
        112 numFilterConditions: u32,
        120 filterCondition: *mut FWPM_FILTER_CONDITION0,
        128 action: FWPM_ACTION0,
        152 u: FWPM_FILTER0_U,
        168 reserved: *mut GUID,
        176 filterId: u64,
        184 effectiveWeight: FWP_VALUE0,
    }
    FWPM_FIELD0: size 16, align 8 {
        0 fieldKey: *mut GUID,
        8 type_: FWPM_FIELD_TYPE,
        12 dataType: FWP_DATA_TYPE,
    }
    FWPM_LAYER0: size 72, align 8 {
        0 layerKey: GUID,
        16 displayData: FWPM_DISPLAY_DATA0,
        32 flags: u32,
        36 numFields: u32,
        40 field: *mut FWPM_FIELD0,
        48 defaultSubLayerKey: GUID,
        64 layerId: u16,
    }
    FWPS_INCOMING_VALUE0: size 16, align 8 {
        0 value: FWP_VALUE0,
    }
    /// The values of one classification, by the field index of the layer.
    FWPS_INCOMING_VALUES0: size 16, align 8 {
        0 layerId: u16,
        4 valueCount: u32,
        8 incomingValue: *mut FWPS_INCOMING_VALUE0,
    }
    FWPS_DISCARD_METADATA0: size 16, align 8 {
        0 discardModule: i32,
        4 discardReason: u32,
        8 filterId: u64,
    }
    FWPS_INBOUND_FRAGMENT_METADATA0: size 12, align 4 {
        0 fragmentIdentification: u32,
        4 fragmentOffset: u16,
        8 fragmentLength: u32,
    }
    /// A `SOCKADDR_INET` and a prefix length.
    IP_ADDRESS_PREFIX: size 32, align 4 {
        0 Prefix: [u32; 7],
        28 PrefixLength: u8,
    }
    /// What accompanies a classification. A member holds a value only where its bit is set in
    /// `currentMetadataValues` (`currentL2MetadataValues` for those of layer 2).
    FWPS_INCOMING_METADATA_VALUES0: size 280, align 8 {
        0 currentMetadataValues: u32,
        4 flags: u32,
        8 reserved: u64,
        16 discardMetadata: FWPS_DISCARD_METADATA0,
        32 flowHandle: u64,
        40 ipHeaderSize: u32,
        44 transportHeaderSize: u32,
        48 processPath: *mut FWP_BYTE_BLOB,
        56 token: u64,
        64 processId: u64,
        72 sourceInterfaceIndex: u32,
        76 destinationInterfaceIndex: u32,
        80 compartmentId: u32,
        84 fragmentMetadata: FWPS_INBOUND_FRAGMENT_METADATA0,
        96 pathMtu: u32,
        104 completionHandle: HANDLE,
        112 transportEndpointHandle: u64,
        120 remoteScopeId: u32,
        128 controlData: *mut c_void,
        136 controlDataLength: u32,
        140 packetDirection: FWP_DIRECTION,
        144 headerIncludeHeader: *mut c_void,
        152 headerIncludeHeaderLength: u32,
        156 destinationPrefix: IP_ADDRESS_PREFIX,
        188 frameLength: u16,
        192 parentEndpointHandle: u64,
        200 icmpIdAndSequence: u32,
        204 localRedirectTargetPID: u32,
        208 originalDestination: *mut c_void,
        216 redirectRecords: HANDLE,
        224 currentL2MetadataValues: u32,
        228 l2Flags: u32,
        232 ethernetMacHeaderSize: u32,
        236 wiFiOperationMode: u32,
        240 vSwitchSourcePortId: u32,
        244 vSwitchSourceNicIndex: u16,
        248 vSwitchDestinationPortId: u32,
        256 vSwitchPacketContext: HANDLE,
        264 subProcessTag: *mut c_void,
        272 reserved1: u64,
    }
    /// The verdict of a classification. `actionType` may be written only where `rights` has
    /// [`FWPS_RIGHT_ACTION_WRITE`].
    FWPS_CLASSIFY_OUT0: size 40, align 8 {
        0 actionType: FWP_ACTION_TYPE,
        8 outContext: u64,
        16 filterId: u64,
        24 rights: u32,
        28 flags: u32,
        32 reserved: u32,
    }
    FWPS_ACTION0: size 8, align 4 {
        0 type_: FWP_ACTION_TYPE,
        4 calloutId: u32,
    }
    FWPS_FILTER_CONDITION0: size 24, align 8 {
        0 fieldId: u16,
        2 reserved: u16,
        4 matchType: FWP_MATCH_TYPE,
        8 conditionValue: FWP_CONDITION_VALUE0,
    }
    /// A filter as a callout sees it. `context` is the `rawContext` that was given when it was added.
    FWPS_FILTER3: size 64, align 8 {
        0 filterId: u64,
        8 weight: FWP_VALUE0,
        24 subLayerWeight: u16,
        26 flags: u16,
        28 numFilterConditions: u32,
        32 filterCondition: *mut FWPS_FILTER_CONDITION0,
        40 action: FWPS_ACTION0,
        48 context: u64,
        56 providerContext: *mut FWPM_PROVIDER_CONTEXT3,
    }
    FWPS_FILTER2: size 64, align 8 {
        0 filterId: u64,
        8 weight: FWP_VALUE0,
        24 subLayerWeight: u16,
        26 flags: u16,
        28 numFilterConditions: u32,
        32 filterCondition: *mut FWPS_FILTER_CONDITION0,
        40 action: FWPS_ACTION0,
        48 context: u64,
        56 providerContext: *mut FWPM_PROVIDER_CONTEXT2,
    }
    FWPS_FILTER1: size 64, align 8 {
        0 filterId: u64,
        8 weight: FWP_VALUE0,
        24 subLayerWeight: u16,
        26 flags: u16,
        28 numFilterConditions: u32,
        32 filterCondition: *mut FWPS_FILTER_CONDITION0,
        40 action: FWPS_ACTION0,
        48 context: u64,
        56 providerContext: *mut FWPM_PROVIDER_CONTEXT1,
    }
    FWPS_CALLOUT3: size 48, align 8 {
        0 calloutKey: GUID,
        16 flags: u32,
        24 classifyFn: FWPS_CALLOUT_CLASSIFY_FN3,
        32 notifyFn: FWPS_CALLOUT_NOTIFY_FN3,
        40 flowDeleteFn: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
    }
    FWPS_CALLOUT2: size 48, align 8 {
        0 calloutKey: GUID,
        16 flags: u32,
        24 classifyFn: FWPS_CALLOUT_CLASSIFY_FN2,
        32 notifyFn: FWPS_CALLOUT_NOTIFY_FN2,
        40 flowDeleteFn: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
    }
    FWPS_CALLOUT1: size 48, align 8 {
        0 calloutKey: GUID,
        16 flags: u32,
        24 classifyFn: FWPS_CALLOUT_CLASSIFY_FN1,
        32 notifyFn: FWPS_CALLOUT_NOTIFY_FN1,
        40 flowDeleteFn: FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0,
    }
}

/// Decides on one packet or connection. `layerData` and `classifyContext` may be null; `flowContext` is 0 where
/// the flow has none of this callout. IRQL <= DISPATCH_LEVEL.
pub type FWPS_CALLOUT_CLASSIFY_FN3 = Option<
    unsafe extern "system" fn(
        inFixedValues: *const FWPS_INCOMING_VALUES0,
        inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
        layerData: *mut c_void,
        classifyContext: *const c_void,
        filter: *const FWPS_FILTER3,
        flowContext: u64,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ),
>;
/// As [`FWPS_CALLOUT_CLASSIFY_FN3`], with the second version of the filter.
pub type FWPS_CALLOUT_CLASSIFY_FN2 = Option<
    unsafe extern "system" fn(
        inFixedValues: *const FWPS_INCOMING_VALUES0,
        inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
        layerData: *mut c_void,
        classifyContext: *const c_void,
        filter: *const FWPS_FILTER2,
        flowContext: u64,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ),
>;
/// As [`FWPS_CALLOUT_CLASSIFY_FN3`], with the first version of the filter.
pub type FWPS_CALLOUT_CLASSIFY_FN1 = Option<
    unsafe extern "system" fn(
        inFixedValues: *const FWPS_INCOMING_VALUES0,
        inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
        layerData: *mut c_void,
        classifyContext: *const c_void,
        filter: *const FWPS_FILTER1,
        flowContext: u64,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ),
>;

/// Tells a callout of a filter that names it. `filterKey` is null on delete; a failure of an addition fails
/// the addition of the filter. IRQL <= DISPATCH_LEVEL.
pub type FWPS_CALLOUT_NOTIFY_FN3 = Option<
    unsafe extern "system" fn(
        notifyType: FWPS_CALLOUT_NOTIFY_TYPE,
        filterKey: *const GUID,
        filter: *mut FWPS_FILTER3,
    ) -> NTSTATUS,
>;
/// As [`FWPS_CALLOUT_NOTIFY_FN3`], with the second version of the filter.
pub type FWPS_CALLOUT_NOTIFY_FN2 = Option<
    unsafe extern "system" fn(
        notifyType: FWPS_CALLOUT_NOTIFY_TYPE,
        filterKey: *const GUID,
        filter: *mut FWPS_FILTER2,
    ) -> NTSTATUS,
>;
/// As [`FWPS_CALLOUT_NOTIFY_FN3`], with the first version of the filter.
pub type FWPS_CALLOUT_NOTIFY_FN1 = Option<
    unsafe extern "system" fn(
        notifyType: FWPS_CALLOUT_NOTIFY_TYPE,
        filterKey: *const GUID,
        filter: *mut FWPS_FILTER1,
    ) -> NTSTATUS,
>;

/// Tells a callout that a flow context of its own is gone. May run inside `FwpsFlowRemoveContext0`, on the
/// caller's stack. IRQL <= DISPATCH_LEVEL.
pub type FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0 =
    Option<unsafe extern "system" fn(layerId: u16, calloutId: u32, flowContext: u64)>;

/// Tells of a change of the base filtering engine's state. IRQL = PASSIVE_LEVEL.
pub type FWPM_SERVICE_STATE_CHANGE_CALLBACK0 =
    Option<unsafe extern "system" fn(context: *mut c_void, newState: FWPM_SERVICE_STATE)>;
