//! Attachment to the WSK subsystem: registration, and capture of its provider.
//!
//! All at PASSIVE_LEVEL. A capture waits, and WSK may not be there while the system starts: capture on a worker
//! thread, with a bound for each wait, never in DriverEntry. Deregistration blocks until every capture is released,
//! every call has returned and every socket is closed; it must be over before DriverUnload returns.
//! Documentation: "Registering a Winsock Kernel Application", "Unregistering a Winsock Kernel Application",
//! WskCaptureProviderNPI.

use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolBox, tags};
use crate::kernel::time::Interval;
use crate::kernel::{Result, Status, irp};
use crate::sys::nt::{PIRP, PVOID, STATUS_NOINTERFACE};
use crate::sys::wsk::{
    ADDRESS_FAMILY, IPPROTO_TCP, MAKE_WSK_VERSION, NPI_WSK_INTERFACE_ID, PFN_WSK_CONTROL_CLIENT,
    PFN_WSK_SOCKET, SOCK_STREAM, WSK_CLIENT_DISPATCH, WSK_CLIENT_NPI, WSK_EVENT_CALLBACK_CONTROL,
    WSK_MAJOR_VERSION, WSK_PROVIDER_CHARACTERISTICS, WSK_PROVIDER_NPI, WSK_REGISTRATION,
    WSK_SET_STATIC_EVENT_CALLBACKS, WskCaptureProviderNPI, WskDeregister, WskQueryProviderCharacteristics,
    WskRegister, WskReleaseProviderNPI,
};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr::null_mut;

/// The version that weir is written for.
pub const WSK_VERSION: u16 = MAKE_WSK_VERSION(1, 0);

/// weir as a WSK application. Dropped at PASSIVE_LEVEL, when every socket is closed.
pub struct Registration {
    block: PoolBox<Block>,
}

/// What WSK keeps the addresses of.
struct Block {
    dispatch: WSK_CLIENT_DISPATCH,
    npi: UnsafeCell<WSK_CLIENT_NPI>,
    registration: UnsafeCell<WSK_REGISTRATION>,
}

// SAFETY: after WskRegister, which has the block for itself, only WSK looks into it, and synchronises that.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Registration {
    /// Registers for the WSK NPI of `version` (WskRegister).
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what WskRegister returns.
    pub fn new(_passive: &Passive, version: u16) -> Result<Self> {
        let block = Block {
            dispatch: WSK_CLIENT_DISPATCH { Version: version, Reserved: 0, WskClientEvent: None },
            npi: UnsafeCell::new(WSK_CLIENT_NPI { ClientContext: null_mut(), Dispatch: core::ptr::null() }),
            registration: UnsafeCell::new(WSK_REGISTRATION {
                ReservedRegistrationState: 0,
                ReservedRegistrationContext: null_mut(),
                ReservedRegistrationLock: 0,
            }),
        };
        let mut block = PoolBox::try_new(tags::SOCKET, block)?;
        let dispatch = &raw const block.dispatch;
        block.npi.get_mut().Dispatch = dispatch;
        // SAFETY: both structures lie in non-paged pool at an address of their own until WskDeregister.
        Status(unsafe { WskRegister(block.npi.get(), block.registration.get()) }).exact()?;
        Ok(Self { block })
    }

    /// Captures the provider, waiting for WSK to be ready for `bound` at most.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn capture(
        &self,
        _passive: &Passive,
        bound: Interval,
    ) -> core::result::Result<Provider<'_>, CaptureError> {
        let milliseconds = u32::try_from(bound.as_100ns() / 10_000).unwrap_or(u32::MAX - 1);
        let mut npi = WSK_PROVIDER_NPI { Client: null_mut(), Dispatch: core::ptr::null() };
        // SAFETY: registered; PASSIVE_LEVEL, where waiting is allowed; `npi` is written before the call returns.
        let status = unsafe { WskCaptureProviderNPI(self.raw(), milliseconds, &raw mut npi) };
        match Status(status).exact() {
            Ok(()) => Ok(Provider { npi, registration: self }),
            Err(Status(STATUS_NOINTERFACE)) => Err(CaptureError::OtherVersion),
            Err(status) => Err(CaptureError::NotReady(status)),
        }
    }

    /// The version to register with instead, after [`CaptureError::OtherVersion`]: the provider's lowest one with
    /// the same major number, if it has any.
    pub fn other_version(&self, _passive: &Passive) -> Option<u16> {
        let mut range = WSK_PROVIDER_CHARACTERISTICS::default();
        // SAFETY: registered; `range` is written before the call returns.
        let status = unsafe { WskQueryProviderCharacteristics(self.raw(), &raw mut range) };
        let same_major = WSK_MAJOR_VERSION(range.LowestVersion) == WSK_MAJOR_VERSION(WSK_VERSION);
        (Status(status).exact().is_ok() && same_major).then_some(range.LowestVersion)
    }

    /// Waits until WSK is done with weir (WskDeregister): every socket closed, every request completed. Frees the
    /// requests that never were, and says how many.
    pub fn deregister(self, passive: &mut Passive) -> u32 {
        drop(self);
        // SAFETY: requests are made of WSK only, and WSK is done with weir.
        unsafe { irp::reclaim_parked(passive) }
    }

    fn raw(&self) -> *mut WSK_REGISTRATION {
        self.block.registration.get()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered once; captures borrow from `self` and are gone; the owner drops at PASSIVE_LEVEL.
        unsafe { WskDeregister(self.raw()) };
    }
}

/// Why the provider could not be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// WSK is not ready, or goes away; ask again later.
    NotReady(Status),
    /// WSK has no interface of the registered version: see [`Registration::other_version`].
    OtherVersion,
}

/// The captured provider, released when dropped. Sockets made with it work on after that, through their own tables.
pub struct Provider<'r> {
    npi: WSK_PROVIDER_NPI,
    registration: &'r Registration,
}

impl Provider<'_> {
    /// `WSK_PROVIDER_DISPATCH.Version`, which tells the extension interfaces that the subsystem has.
    pub fn version(&self) -> u16 {
        // SAFETY: the table is valid until the capture is released.
        unsafe { (*self.npi.Dispatch).Version }
    }

    /// WskControlClient, for the operations that take no IRP.
    pub(super) fn control<I, O>(&self, code: u32, input: Option<&mut I>, output: Option<&mut O>) -> Status {
        // SAFETY: the table is valid until the capture is released.
        let function: PFN_WSK_CONTROL_CLIENT = unsafe { (*self.npi.Dispatch).WskControlClient };
        let Some(function) = function else { return Status::NOT_SUPPORTED };
        let (input_size, input) = lent(input);
        let (output_size, output) = lent(output);
        // SAFETY: both are read and written before the call returns; OutputSizeReturned is NULL, as the pages of the
        // operations that weir uses have it.
        Status(unsafe {
            function(self.npi.Client, code, input_size, input, output_size, output, null_mut(), null_mut())
        })
    }

    /// Enables the events of `mask` on every socket made from now on; before the first one, and for good
    /// (WSK_SET_STATIC_EVENT_CALLBACKS).
    ///
    /// # Errors
    /// What WskControlClient returns: STATUS_NOT_SUPPORTED and STATUS_NOT_IMPLEMENTED among them.
    pub fn set_static_event_callbacks(&self, mask: u32) -> Result {
        let mut control =
            WSK_EVENT_CALLBACK_CONTROL { NpiId: &raw const NPI_WSK_INTERFACE_ID, EventMask: mask };
        self.control(WSK_SET_STATIC_EVENT_CALLBACKS, Some(&mut control), None::<&mut u32>).exact()
    }

    /// WskSocket for TCP, in the category of the flags. The socket arrives in the IRP's information.
    ///
    /// # Safety
    /// `dispatch` is the category's client table, `context` what its functions expect, both valid until the
    /// socket's close has completed; `security` is NULL or a cached descriptor that stays until the completion; `irp` is
    /// ready for a call.
    pub(super) unsafe fn socket(
        &self,
        (family, flags): (ADDRESS_FAMILY, u32),
        context: PVOID,
        dispatch: *const c_void,
        security: PVOID,
        irp: PIRP,
    ) -> Status {
        // SAFETY: the table is valid until the capture is released.
        let function: PFN_WSK_SOCKET = unsafe { (*self.npi.Dispatch).WskSocket };
        // A provider without it is none; the IRP counts as ignored.
        let Some(function) = function else { return Status::NOT_SUPPORTED };
        // SAFETY: the caller's promises; no owner: the default.
        Status(unsafe {
            function(
                self.npi.Client,
                family,
                SOCK_STREAM,
                IPPROTO_TCP,
                flags,
                context,
                dispatch,
                null_mut(),
                null_mut(),
                security,
                irp,
            )
        })
    }
}

/// A buffer as WSK takes it: its size, and its address or NULL.
fn lent<T>(buffer: Option<&mut T>) -> (usize, PVOID) {
    buffer.map_or((0, null_mut()), |buffer| (size_of::<T>(), core::ptr::from_mut(buffer).cast()))
}

impl Drop for Provider<'_> {
    fn drop(&mut self) {
        // SAFETY: captured once, released once; nothing calls through the table afterwards.
        unsafe { WskReleaseProviderNPI(self.registration.raw()) };
    }
}
