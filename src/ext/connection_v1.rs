//! `connection_v1`: what a vendor's provider tells about a connection, and what it can be asked.
//!
//! The binary interface for vendors. Tables and structures begin with their size and version, so that either side
//! may grow: a reader uses what lies within `Size` only. The callbacks may be called at IRQL <= DISPATCH_LEVEL, on
//! any processor, from within the registration itself, and by several threads at once; they return soon, and keep
//! no pointer. All numbers are in host byte order.
//!
//! In the ring, an event is its bit as the record's code, a value, and data (little-endian):
//!
//! | event | bit | callback | value | data |
//! | --- | --- | --- | --- | --- |
//! | state | 0x1 | `State` | state, reason in the upper half | none |
//! | backlog | 0x2 | `Backlog` | bytes | mark u64, direction u32, above u32 |
//! | metric | 0x4 | `Metric` | bytes received | bytes sent u64, flags u32, round trip u32 (microseconds) |
//! | vendor | 0x8 | `Vendor` | type | the vendor's, up to 40 bytes |

#![allow(
    non_snake_case,
    non_camel_case_types,
    reason = "a binary interface, in the style of Windows headers"
)]

use super::callback::data_of;
use super::interface::{ExtensionInterface, has_all_of};
use super::slot::{ABOVE, GIVEN_UP};
use super::{Callback, Provider};
use crate::kernel::{Result, Status};
use crate::sys::nt::{GUID, NTSTATUS, PVOID};
use crate::sys::wsk::{MAKE_WSK_VERSION, NPIID};
use core::ffi::c_void;
use core::ptr::NonNull;
use static_assertions::const_assert_eq;

/// {5EE5D4F1-9929-4633-8368-7BC7438B4140}
pub static NPI_CONNECTION_V1: NPIID = GUID {
    Data1: 0x5EE5_D4F1,
    Data2: 0x9929,
    Data3: 0x4633,
    Data4: [0x83, 0x68, 0x7B, 0xC7, 0x43, 0x8B, 0x41, 0x40],
};

/// The version in the tables and structures of this page.
pub const CONNECTION_V1: u16 = 1;

/// Events, the bits of SO_WSK_EVENT_CALLBACK with [`NPI_CONNECTION_V1`].
pub const CONNECTION_EVENT_STATE: u32 = 0x1;
pub const CONNECTION_EVENT_BACKLOG: u32 = 0x2;
pub const CONNECTION_EVENT_METRIC: u32 = 0x4;
pub const CONNECTION_EVENT_VENDOR: u32 = 0x8;

/// States of a connection.
pub const CONNECTION_STATE_ESTABLISHED: u32 = 1;
pub const CONNECTION_STATE_CLOSED: u32 = 2;

/// Why a connection closed.
pub const CONNECTION_REASON_NONE: u32 = 0;
pub const CONNECTION_REASON_PEER_FINISHED: u32 = 1;
pub const CONNECTION_REASON_PEER_RESET: u32 = 2;
pub const CONNECTION_REASON_LOCAL: u32 = 3;
pub const CONNECTION_REASON_TIMED_OUT: u32 = 4;
pub const CONNECTION_REASON_PROVIDER_LEAVES: u32 = 5;

/// Directions of a backlog.
pub const CONNECTION_DIRECTION_RECEIVE: u32 = 0;
pub const CONNECTION_DIRECTION_SEND: u32 = 1;

/// `CONNECTION_METRIC_V1::Flags`: the round-trip time is known.
pub const CONNECTION_METRIC_ROUND_TRIP: u32 = 0x1;

/// The most bytes of a vendor event.
pub const CONNECTION_VENDOR_DATA_MAX: u32 = 40;

/// A sample of a connection's counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CONNECTION_METRIC_V1 {
    pub Size: u16,
    pub Version: u16,
    pub Flags: u32,
    pub BytesReceived: u64,
    pub BytesSent: u64,
    /// In microseconds.
    pub RoundTripTime: u32,
    pub Reserved: u32,
}

/// weir's callbacks. A provider calls those within `Size` only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CONNECTION_V1_CLIENT_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    pub State: unsafe extern "system" fn(ClientContext: PVOID, State: u32, Reason: u32),
    pub Backlog:
        unsafe extern "system" fn(ClientContext: PVOID, Direction: u32, Above: u32, Bytes: u64, Mark: u64),
    pub Metric: unsafe extern "system" fn(ClientContext: PVOID, Metric: *const CONNECTION_METRIC_V1),
    pub Vendor: unsafe extern "system" fn(ClientContext: PVOID, Type: u32, Data: *const c_void, Length: u32),
}

/// The provider's functions, each callable at IRQL <= DISPATCH_LEVEL until the socket's close is issued.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CONNECTION_V1_PROVIDER_DISPATCH {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    /// Fills in a sample; the caller sets `Size` and `Version`.
    pub QueryMetric: Option<
        unsafe extern "system" fn(ProviderContext: PVOID, Metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS,
    >,
    /// Sets the marks, in bytes, whose crossing `Backlog` reports; 0 and 0 turn it off.
    pub SetMarks: Option<
        unsafe extern "system" fn(ProviderContext: PVOID, Direction: u32, Low: u64, High: u64) -> NTSTATUS,
    >,
    /// A control code of the vendor's own, with up to 40 bytes.
    pub Control: Option<
        unsafe extern "system" fn(
            ProviderContext: PVOID,
            Code: u32,
            Input: *const c_void,
            Length: u32,
        ) -> NTSTATUS,
    >,
}

const CLIENT_SIZE: u16 = 40;
pub(super) const PROVIDER_SIZE: u16 = 32;
pub(super) const METRIC_SIZE: u16 = 32;
const_assert_eq!(size_of::<CONNECTION_V1_CLIENT_DISPATCH>(), CLIENT_SIZE as usize);
const_assert_eq!(size_of::<CONNECTION_V1_PROVIDER_DISPATCH>(), PROVIDER_SIZE as usize);
const_assert_eq!(size_of::<CONNECTION_METRIC_V1>(), METRIC_SIZE as usize);
const_assert_eq!(core::mem::offset_of!(CONNECTION_V1_CLIENT_DISPATCH, State), 8);
const_assert_eq!(core::mem::offset_of!(CONNECTION_V1_CLIENT_DISPATCH, Vendor), 32);
const_assert_eq!(core::mem::offset_of!(CONNECTION_V1_PROVIDER_DISPATCH, Control), 24);
const_assert_eq!(core::mem::offset_of!(CONNECTION_METRIC_V1, RoundTripTime), 24);

static CLIENT_DISPATCH: CONNECTION_V1_CLIENT_DISPATCH = CONNECTION_V1_CLIENT_DISPATCH {
    Size: CLIENT_SIZE,
    Version: CONNECTION_V1,
    Reserved: 0,
    State: state,
    Backlog: backlog,
    Metric: metric,
    Vendor: vendor,
};

/// The interface.
pub struct ConnectionV1;

// SAFETY: the tables are this page's definition of the interface, and the callbacks hand the client context to
// `Callback::enter` alone.
unsafe impl ExtensionInterface for ConnectionV1 {
    type ClientDispatch = CONNECTION_V1_CLIENT_DISPATCH;
    type ProviderDispatch = CONNECTION_V1_PROVIDER_DISPATCH;
    const NPIID: &'static NPIID = &NPI_CONNECTION_V1;
    const CLIENT_DISPATCH: &'static CONNECTION_V1_CLIENT_DISPATCH = &CLIENT_DISPATCH;
    const EVENT_MASK: u32 =
        CONNECTION_EVENT_STATE | CONNECTION_EVENT_BACKLOG | CONNECTION_EVENT_METRIC | CONNECTION_EVENT_VENDOR;
    const MINIMUM_WSK_VERSION: u16 = MAKE_WSK_VERSION(1, 0);
    const BUILTIN: Option<&'static CONNECTION_V1_PROVIDER_DISPATCH> = Some(&super::builtin::TABLE);

    unsafe fn provider_is_usable(dispatch: NonNull<c_void>) -> bool {
        // SAFETY: every table of this interface begins with its size and version (contract).
        unsafe { has_all_of::<CONNECTION_V1_PROVIDER_DISPATCH>(dispatch, CONNECTION_V1) }
    }
}

impl Provider<'_, ConnectionV1> {
    /// A sample of the connection's counters. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// `STATUS_NOT_SUPPORTED` where the provider has no such function, and what it returns other than exactly
    /// STATUS_SUCCESS.
    pub fn query_metric(&self) -> Result<CONNECTION_METRIC_V1> {
        let function = self.dispatch().QueryMetric.ok_or(Status::NOT_SUPPORTED)?;
        let mut metric = CONNECTION_METRIC_V1 {
            Size: METRIC_SIZE,
            Version: CONNECTION_V1,
            ..CONNECTION_METRIC_V1::default()
        };
        // SAFETY: the provider's own context, while its functions may be called; it writes as much as `Size` says.
        Status(unsafe { function(self.context(), &raw mut metric) }).exact()?;
        Ok(metric)
    }

    /// Sets the marks of `direction` ([`CONNECTION_DIRECTION_RECEIVE`], [`CONNECTION_DIRECTION_SEND`]), in bytes, whose
    /// crossing is told; 0 and 0: none. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// As [`Provider::query_metric`].
    pub fn set_marks(&self, direction: u32, low: u64, high: u64) -> Result {
        let function = self.dispatch().SetMarks.ok_or(Status::NOT_SUPPORTED)?;
        // SAFETY: the provider's own context, while its functions may be called.
        Status(unsafe { function(self.context(), direction, low, high) }).exact()
    }

    /// Sends the vendor a control code of its own, with at most [`CONNECTION_VENDOR_DATA_MAX`] bytes.
    /// IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for more bytes; else as [`Provider::query_metric`].
    pub fn control(&self, code: u32, input: &[u8]) -> Result {
        let function = self.dispatch().Control.ok_or(Status::NOT_SUPPORTED)?;
        let length = u32::try_from(input.len()).ok().filter(|length| *length <= CONNECTION_VENDOR_DATA_MAX);
        let length = length.ok_or(Status::INVALID_PARAMETER)?;
        // SAFETY: the provider's own context, while its functions may be called; the input lives for the call.
        Status(unsafe { function(self.context(), code, input.as_ptr().cast(), length) }).exact()
    }
}

impl Callback<'_> {
    /// The connection's state is this one, for that reason.
    fn state(self, state: u32, reason: u32) {
        let value = u64::from(reason) << 32 | u64::from(state);
        if state == CONNECTION_STATE_CLOSED {
            self.emit_noted((GIVEN_UP, true), CONNECTION_EVENT_STATE, value, &[]);
        } else {
            self.emit(CONNECTION_EVENT_STATE, value, &[]);
        }
    }

    /// As weir knows it itself.
    pub(super) fn own_state(self, state: u32, reason: u32) {
        self.emit(CONNECTION_EVENT_STATE, u64::from(reason) << 32 | u64::from(state), &[]);
    }

    /// So many bytes wait in that direction, which is above a mark, or below it.
    fn backlog(self, direction: u32, above: bool, bytes: u64, mark: u64) {
        let data = data(mark, direction, u32::from(above));
        if direction == CONNECTION_DIRECTION_SEND {
            self.emit_noted((ABOVE, above), CONNECTION_EVENT_BACKLOG, bytes, &data);
        } else {
            self.emit(CONNECTION_EVENT_BACKLOG, bytes, &data);
        }
    }

    /// As weir knows it itself, and has noted already.
    pub(super) fn own_backlog(self, direction: u32, above: bool, bytes: u64, mark: u64) {
        self.emit(CONNECTION_EVENT_BACKLOG, bytes, &data(mark, direction, u32::from(above)));
    }

    /// A sample.
    pub(super) fn metric(self, sample: &CONNECTION_METRIC_V1) {
        let data = data(sample.BytesSent, sample.Flags, sample.RoundTripTime);
        self.emit(CONNECTION_EVENT_METRIC, sample.BytesReceived, &data);
    }
}

unsafe extern "system" fn state(ClientContext: PVOID, State: u32, Reason: u32) {
    // SAFETY: the provider hands back the context of the registration, at IRQL <= DISPATCH_LEVEL (the interface).
    let Some(callback) = (unsafe { Callback::enter(ClientContext) }) else { return };
    callback.state(State, Reason);
}

unsafe extern "system" fn backlog(ClientContext: PVOID, Direction: u32, Above: u32, Bytes: u64, Mark: u64) {
    // SAFETY: as in `state`.
    let Some(callback) = (unsafe { Callback::enter(ClientContext) }) else { return };
    callback.backlog(Direction, Above != 0, Bytes, Mark);
}

unsafe extern "system" fn metric(ClientContext: PVOID, Metric: *const CONNECTION_METRIC_V1) {
    // SAFETY: as in `state`.
    let Some(callback) = (unsafe { Callback::enter(ClientContext) }) else { return };
    // SAFETY: NULL, or a structure that begins with its size and version and lives for the call (the interface).
    let Some(sample) = (unsafe { read_metric(Metric) }) else { return callback.malformed() };
    callback.metric(&sample);
}

unsafe extern "system" fn vendor(ClientContext: PVOID, Type: u32, Data: *const c_void, Length: u32) {
    // SAFETY: as in `state`.
    let Some(callback) = (unsafe { Callback::enter(ClientContext) }) else { return };
    // SAFETY: NULL, or `Length` bytes that live for the call (the interface).
    let Some(data) = (unsafe { data_of(Data, Length, CONNECTION_VENDOR_DATA_MAX) }) else {
        return callback.malformed();
    };
    callback.emit(CONNECTION_EVENT_VENDOR, u64::from(Type), data);
}

/// The data of an event that has three numbers beside its value.
fn data(first: u64, second: u32, third: u32) -> [u8; 16] {
    (u128::from(third) << 96 | u128::from(second) << 64 | u128::from(first)).to_le_bytes()
}

/// The sample behind `pointer`, if its size and version are such that it can be read.
///
/// # Safety
/// `pointer` is NULL, or points to a structure that begins with a valid `Size`.
unsafe fn read_metric(pointer: *const CONNECTION_METRIC_V1) -> Option<CONNECTION_METRIC_V1> {
    let pointer = NonNull::new(pointer.cast_mut())?;
    // SAFETY: every structure of this interface begins with its size and version (contract).
    let [size, version] = unsafe { pointer.cast::<[u16; 2]>().read_unaligned() };
    if size < METRIC_SIZE || version < CONNECTION_V1 {
        return None;
    }
    // SAFETY: `size` bytes are there, at least as many as the structure has (contract).
    Some(unsafe { pointer.read_unaligned() })
}
