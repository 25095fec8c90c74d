//! The tables that providers and their clients call each other by, as a vendor would declare them: those of the driver's
//! interfaces `connection_v1` and `label_v1` (`src/ext`), and a client's side of a registration.

#![allow(non_snake_case, reason = "a binary interface, in the style of Windows headers")]

use crate::script::{Call, Lie, Tongue};
use crate::sys::nt::{NTSTATUS, PVOID};
use core::ffi::c_void;
use core::ptr::null;
use static_assertions::const_assert_eq;

pub const VERSION: u16 = 1;

/// A sample of a connection's counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Metric {
    pub Size: u16,
    pub Version: u16,
    pub Flags: u32,
    pub BytesReceived: u64,
    pub BytesSent: u64,
    pub RoundTripTime: u32,
    pub Reserved: u32,
}

pub const METRIC_SIZE: u16 = 32;

impl Metric {
    pub const fn of(received: u64, sent: u64) -> Self {
        Self {
            Size: METRIC_SIZE,
            Version: VERSION,
            Flags: 0,
            BytesReceived: received,
            BytesSent: sent,
            RoundTripTime: 0,
            Reserved: 0,
        }
    }
}

#[repr(C)]
struct ConnectionClient {
    Size: u16,
    Version: u16,
    Reserved: u32,
    State: unsafe extern "system" fn(PVOID, u32, u32),
    Backlog: unsafe extern "system" fn(PVOID, u32, u32, u64, u64),
    Metric: unsafe extern "system" fn(PVOID, *const Metric),
    Vendor: unsafe extern "system" fn(PVOID, u32, *const c_void, u32),
}

#[repr(C)]
pub struct ConnectionProvider {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    pub QueryMetric: Option<unsafe extern "system" fn(PVOID, *mut Metric) -> NTSTATUS>,
    pub SetMarks: Option<unsafe extern "system" fn(PVOID, u32, u64, u64) -> NTSTATUS>,
    pub Control: Option<unsafe extern "system" fn(PVOID, u32, *const c_void, u32) -> NTSTATUS>,
}

#[repr(C)]
struct LabelClient {
    Size: u16,
    Version: u16,
    Reserved: u32,
    Label: unsafe extern "system" fn(PVOID, u64, *const c_void, u32),
}

#[repr(C)]
pub struct LabelProvider {
    pub Size: u16,
    pub Version: u16,
    pub Reserved: u32,
    pub Refresh: Option<unsafe extern "system" fn(PVOID) -> NTSTATUS>,
}

const_assert_eq!(size_of::<Metric>(), METRIC_SIZE as usize);
const_assert_eq!(size_of::<ConnectionClient>(), 40);
const_assert_eq!(size_of::<ConnectionProvider>(), 32);
const_assert_eq!(size_of::<LabelClient>(), 16);
const_assert_eq!(size_of::<LabelProvider>(), 16);

/// Tables whose functions are all NULL, which grant all the same.
static BARE_CONNECTION: ConnectionProvider = ConnectionProvider { Size: 32, ..UNUSABLE };
static BARE_LABEL: LabelProvider = LabelProvider { Size: 16, Version: VERSION, Reserved: 0, Refresh: None };

/// Tables that must not be used. Their functions are NULL, so that a call of one is a crash.
const UNUSABLE: ConnectionProvider = ConnectionProvider {
    Size: 8,
    Version: VERSION,
    Reserved: 0,
    QueryMetric: None,
    SetMarks: None,
    Control: None,
};
static SHORT: ConnectionProvider = UNUSABLE;
static OLD: ConnectionProvider = ConnectionProvider { Size: 32, Version: 0, ..UNUSABLE };

/// A table whose functions are all NULL.
pub fn bare(tongue: Tongue) -> *const c_void {
    match tongue {
        Tongue::Connection => (&raw const BARE_CONNECTION).cast(),
        Tongue::Label => (&raw const BARE_LABEL).cast(),
    }
}

/// A table that is none.
pub fn unusable(lie: Lie) -> *const c_void {
    match lie {
        Lie::Null => null(),
        Lie::Short => (&raw const SHORT).cast(),
        Lie::Old => (&raw const OLD).cast(),
        Lie::Misaligned => (&raw const BARE_CONNECTION).cast::<c_void>().wrapping_byte_add(2),
    }
}

/// What a client has given at a registration: its context, and its table, which speaks `tongue`.
#[derive(Clone, Copy)]
pub struct Client {
    context: PVOID,
    table: *const c_void,
    pub tongue: Tongue,
}

// SAFETY: the pointers are the client's, and are only passed back to it, as long as the registration lasts.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// Looks the client's table over: as large and as new as that of the interface, and aligned.
    ///
    /// # Safety
    /// `table` is NULL, or begins with its size and version and lasts as long as the registration.
    pub unsafe fn new(context: PVOID, table: *const c_void, tongue: Tongue) -> Option<Self> {
        let least = match tongue {
            Tongue::Connection => size_of::<ConnectionClient>(),
            Tongue::Label => size_of::<LabelClient>(),
        };
        if !table.cast::<u64>().is_aligned() {
            return None;
        }
        // SAFETY: by the contract.
        let [size, version] = *unsafe { table.cast::<[u16; 2]>().as_ref() }?;
        let sound = usize::from(size) >= least && version >= VERSION;
        sound.then_some(Self { context, table, tongue })
    }

    /// Makes a callback.
    ///
    /// # Safety
    /// The registration lasts, or the client can bear a late call.
    pub unsafe fn call(&self, call: &Call, metric: Metric) {
        let context = self.context;
        if let Call::Label { label, text } = call {
            // SAFETY: looked over by `new`, for this interface.
            let table = unsafe { &*self.table.cast::<LabelClient>() };
            let length = u32::try_from(text.len()).unwrap_or(0);
            // SAFETY: the client's callback, with its context; the text lives for the call.
            return unsafe { (table.Label)(context, *label, text.as_ptr().cast(), length) };
        }
        // SAFETY: looked over by `new`, for this interface.
        let table = unsafe { &*self.table.cast::<ConnectionClient>() };
        match call {
            Call::State { state, reason } => {
                // SAFETY: the client's callback, with its context.
                unsafe { (table.State)(context, *state, *reason as u32) };
            }
            Call::Backlog { direction, above, bytes, mark } => {
                // SAFETY: as above.
                unsafe { (table.Backlog)(context, *direction, u32::from(*above), *bytes, *mark) };
            }
            Call::Metric => {
                // SAFETY: as above; the sample lives for the call.
                unsafe { (table.Metric)(context, &raw const metric) };
            }
            Call::Vendor { kind, data } => {
                let length = u32::try_from(data.len()).unwrap_or(0);
                // SAFETY: as above; the data lives for the call.
                unsafe { (table.Vendor)(context, *kind, data.as_ptr().cast(), length) };
            }
            Call::Label { .. } => {}
        }
    }
}
