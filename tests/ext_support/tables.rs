//! The tables that scripted providers give: right ones whose functions watch how they are called, and wrong ones.

use super::module;
use ntsim::sys::nt::{GUID, NTSTATUS, PVOID, STATUS_SUCCESS};
use ntsim::wsk::extension::{self, Offer};
use std::ffi::c_void;
use weir::ext::connection_v1::{
    CONNECTION_METRIC_V1, CONNECTION_V1, CONNECTION_V1_CLIENT_DISPATCH, CONNECTION_V1_PROVIDER_DISPATCH,
    NPI_CONNECTION_V1,
};
use weir::ext::label_v1::{LABEL_V1, LABEL_V1_CLIENT_DISPATCH, LABEL_V1_PROVIDER_DISPATCH, NPI_LABEL_V1};
use weir::trace::Guid;

/// An interface that weir speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Connection,
    Label,
}

impl Interface {
    pub const ALL: [Self; 2] = [Self::Connection, Self::Label];

    pub fn npi(self) -> GUID {
        match self {
            Self::Connection => NPI_CONNECTION_V1,
            Self::Label => NPI_LABEL_V1,
        }
    }

    pub fn guid(self) -> Guid {
        Guid::from(self.npi())
    }

    /// All events of the interface.
    pub fn events(self) -> u32 {
        match self {
            Self::Connection => 0xF,
            Self::Label => 1,
        }
    }

    /// The size of weir's table.
    pub fn client_size(self) -> u16 {
        match self {
            Self::Connection => u16::try_from(size_of::<CONNECTION_V1_CLIENT_DISPATCH>()).unwrap(),
            Self::Label => u16::try_from(size_of::<LABEL_V1_CLIENT_DISPATCH>()).unwrap(),
        }
    }

    /// A table that weir can use, of a module's.
    pub fn table(self) -> *const c_void {
        match self {
            Self::Connection => (&raw const MODULE_CONNECTION).cast(),
            Self::Label => (&raw const MODULE_LABEL).cast(),
        }
    }

    /// Tables that weir cannot use.
    pub fn wrong_tables(self) -> [*const c_void; 2] {
        match self {
            Self::Connection => [(&raw const SHORT_CONNECTION).cast(), (&raw const OLD_CONNECTION).cast()],
            Self::Label => [(&raw const SHORT_LABEL).cast(), (&raw const OLD_LABEL).cast()],
        }
    }

    /// What a provider in WSK gives.
    pub fn offer(self) -> Offer {
        match self {
            Self::Connection => Offer::new(&WSK_CONNECTION),
            Self::Label => Offer::new(&WSK_LABEL),
        }
    }

    /// What a provider in WSK gives that weir cannot use.
    pub fn wrong_offers(self) -> [Offer; 2] {
        match self {
            Self::Connection => [Offer::new(&SHORT_CONNECTION), Offer::new(&OLD_CONNECTION)],
            Self::Label => [Offer::new(&SHORT_LABEL), Offer::new(&OLD_LABEL)],
        }
    }

    /// Calls weir's callback that carries nothing but a number: `State`, or `Label`. The number comes out as the value.
    ///
    /// # Safety
    /// The context and the table that weir gave with this interface, at IRQL <= DISPATCH_LEVEL, while they are there.
    pub unsafe fn tell(self, context: *mut c_void, dispatch: *const c_void, value: u64) {
        match self {
            Self::Connection => {
                // SAFETY: the table of this interface (contract).
                let table = unsafe { *dispatch.cast::<CONNECTION_V1_CLIENT_DISPATCH>() };
                let [state, reason] =
                    [value, value >> 32].map(|half| u32::try_from(half & u64::from(u32::MAX)).unwrap());
                // SAFETY: as above.
                unsafe { (table.State)(context, state, reason) };
            }
            Self::Label => {
                // SAFETY: the table of this interface (contract).
                let table = unsafe { *dispatch.cast::<LABEL_V1_CLIENT_DISPATCH>() };
                // SAFETY: as above.
                unsafe { (table.Label)(context, value, b"label".as_ptr().cast(), 5) };
            }
        }
    }
}

/// A provider's function that weir called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    QueryMetric,
    SetMarks { direction: u32, low: u64, high: u64 },
    Control { code: u32, length: u32 },
    Refresh,
}

/// What scripted providers answer to a query.
pub const METRIC: CONNECTION_METRIC_V1 = CONNECTION_METRIC_V1 {
    Size: 32,
    Version: CONNECTION_V1,
    Flags: 1,
    BytesReceived: 1111,
    BytesSent: 2222,
    RoundTripTime: 333,
    Reserved: 0,
};

unsafe fn fill(metric: *mut CONNECTION_METRIC_V1) {
    // SAFETY: weir's structure, which lives for the call.
    unsafe { *metric = METRIC };
}

unsafe extern "system" fn module_query_metric(context: PVOID, metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
    module::function(context, Function::QueryMetric, |_| {
        // SAFETY: weir's structure, which lives for the call.
        unsafe { fill(metric) };
        STATUS_SUCCESS
    })
}

unsafe extern "system" fn module_set_marks(context: PVOID, direction: u32, low: u64, high: u64) -> NTSTATUS {
    module::function(context, Function::SetMarks { direction, low, high }, |_| STATUS_SUCCESS)
}

unsafe extern "system" fn module_control(
    context: PVOID,
    code: u32,
    _data: *const c_void,
    length: u32,
) -> NTSTATUS {
    module::function(context, Function::Control { code, length }, |_| STATUS_SUCCESS)
}

unsafe extern "system" fn module_refresh(context: PVOID) -> NTSTATUS {
    module::function(context, Function::Refresh, |_| STATUS_SUCCESS)
}

unsafe extern "system" fn wsk_query_metric(context: PVOID, metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
    let _in = extension::enter(context, "QueryMetric");
    // SAFETY: weir's structure, which lives for the call.
    unsafe { fill(metric) };
    STATUS_SUCCESS
}

unsafe extern "system" fn wsk_set_marks(context: PVOID, _: u32, _: u64, _: u64) -> NTSTATUS {
    let _in = extension::enter(context, "SetMarks");
    STATUS_SUCCESS
}

unsafe extern "system" fn wsk_control(context: PVOID, _: u32, _: *const c_void, _: u32) -> NTSTATUS {
    let _in = extension::enter(context, "Control");
    STATUS_SUCCESS
}

unsafe extern "system" fn wsk_refresh(context: PVOID) -> NTSTATUS {
    let _in = extension::enter(context, "Refresh");
    STATUS_SUCCESS
}

static MODULE_CONNECTION: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH {
    Size: 32,
    Version: CONNECTION_V1,
    Reserved: 0,
    QueryMetric: Some(module_query_metric),
    SetMarks: Some(module_set_marks),
    Control: Some(module_control),
};
static MODULE_LABEL: LABEL_V1_PROVIDER_DISPATCH =
    LABEL_V1_PROVIDER_DISPATCH { Size: 16, Version: LABEL_V1, Reserved: 0, Refresh: Some(module_refresh) };
static WSK_CONNECTION: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH {
    QueryMetric: Some(wsk_query_metric),
    SetMarks: Some(wsk_set_marks),
    Control: Some(wsk_control),
    ..MODULE_CONNECTION
};
static WSK_LABEL: LABEL_V1_PROVIDER_DISPATCH =
    LABEL_V1_PROVIDER_DISPATCH { Refresh: Some(wsk_refresh), ..MODULE_LABEL };
static SHORT_CONNECTION: CONNECTION_V1_PROVIDER_DISPATCH =
    CONNECTION_V1_PROVIDER_DISPATCH { Size: 24, ..MODULE_CONNECTION };
static OLD_CONNECTION: CONNECTION_V1_PROVIDER_DISPATCH =
    CONNECTION_V1_PROVIDER_DISPATCH { Version: 0, ..MODULE_CONNECTION };
static SHORT_LABEL: LABEL_V1_PROVIDER_DISPATCH = LABEL_V1_PROVIDER_DISPATCH { Size: 8, ..MODULE_LABEL };
static OLD_LABEL: LABEL_V1_PROVIDER_DISPATCH = LABEL_V1_PROVIDER_DISPATCH { Version: 0, ..MODULE_LABEL };
