//! What an extension interface is: one type, and a row in the table of interfaces.
//!
//! An interface is an NPI of its own, apart from the WSK NPI ("Winsock Kernel Extension Interfaces"): an
//! identifier, a client dispatch table with weir's callbacks, a provider dispatch table with the provider's
//! functions, and the events that its callbacks stand for. A new interface is one file that implements
//! [`ExtensionInterface`] and one row in [`super::INTERFACES`].

use crate::sys::wsk::NPIID;
use core::ffi::c_void;
use core::ptr::NonNull;

/// An extension interface.
///
/// # Safety
/// `ClientDispatch` and `ProviderDispatch` have the layout that the interface with this `NPIID` defines, and
/// `provider_is_usable` returns true only for a table of which every function that weir calls may be called.
/// The functions of `CLIENT_DISPATCH` take the client context as [`super::Callback::enter`] wants it.
pub unsafe trait ExtensionInterface: 'static {
    /// The table of weir's callbacks.
    type ClientDispatch: Sync + 'static;
    /// The table of the provider's functions.
    type ProviderDispatch: Sync + 'static;

    /// The identifier, a static: WSK may keep its address as long as the socket lives.
    const NPIID: &'static NPIID;
    /// weir's callbacks, resident and constant.
    const CLIENT_DISPATCH: &'static Self::ClientDispatch;
    /// The events to switch on by SO_WSK_EVENT_CALLBACK; the interface defines the bits. 0: it has none.
    const EVENT_MASK: u32;
    /// The lowest `WSK_PROVIDER_DISPATCH.Version` with which the interface can be had.
    const MINIMUM_WSK_VERSION: u16;

    /// The table of weir's own provider, if weir has one; its context is the socket's [`Traffic`](super::Traffic).
    const BUILTIN: Option<&'static Self::ProviderDispatch> = None;

    /// Whether the table that a provider gave can be used. Providers lie: sizes and versions are looked at here,
    /// before anything else is read.
    ///
    /// # Safety
    /// `dispatch` points to a table that begins as the interface defines.
    unsafe fn provider_is_usable(dispatch: NonNull<c_void>) -> bool;
}

/// A row of the table of interfaces: an [`ExtensionInterface`] without its types.
pub struct Interface {
    npi_id: &'static NPIID,
    client_dispatch: *const c_void,
    event_mask: u32,
    minimum_wsk_version: u16,
    /// NULL: there is none.
    builtin: *const c_void,
    provider_is_usable: unsafe fn(NonNull<c_void>) -> bool,
}

// SAFETY: the pointers are to constants of types that are Sync (bounds on the dispatch tables).
unsafe impl Sync for Interface {}

impl Interface {
    /// The row of `I`.
    pub const fn of<I: ExtensionInterface>() -> Self {
        Self {
            npi_id: I::NPIID,
            client_dispatch: core::ptr::from_ref(I::CLIENT_DISPATCH).cast(),
            event_mask: I::EVENT_MASK,
            minimum_wsk_version: I::MINIMUM_WSK_VERSION,
            builtin: match I::BUILTIN {
                Some(table) => core::ptr::from_ref(table).cast(),
                None => core::ptr::null(),
            },
            provider_is_usable: I::provider_is_usable,
        }
    }

    pub const fn npi_id(&self) -> &'static NPIID {
        self.npi_id
    }

    pub const fn client_dispatch(&self) -> *const c_void {
        self.client_dispatch
    }

    pub const fn event_mask(&self) -> u32 {
        self.event_mask
    }

    /// The table of weir's own provider, if weir has one.
    pub const fn builtin(&self) -> Option<NonNull<c_void>> {
        NonNull::new(self.builtin.cast_mut())
    }

    /// Whether a WSK subsystem of `version` may be asked for this interface ("Registering an Extension Interface":
    /// the version tells which ones it has).
    pub const fn offered_by(&self, version: u16) -> bool {
        version >= self.minimum_wsk_version
    }

    /// [`ExtensionInterface::provider_is_usable`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn provider_is_usable(&self, dispatch: NonNull<c_void>) -> bool {
        // SAFETY: the caller's promise is the function's.
        unsafe { (self.provider_is_usable)(dispatch) }
    }

    /// Whether this is the row of `I`.
    pub fn is<I: ExtensionInterface>(&self) -> bool {
        core::ptr::eq(self.npi_id, I::NPIID)
    }
}

/// Whether a provider's table has all of `T`, in that version or a later one.
///
/// # Safety
/// Where it is aligned as a `T`, `table` points to a table that begins with its size and version.
pub(super) unsafe fn has_all_of<T>(table: NonNull<c_void>, version: u16) -> bool {
    if !table.cast::<T>().is_aligned() {
        return false;
    }
    // SAFETY: aligned; every table begins with its size and version (contract).
    let [size, its_version] = unsafe { table.cast::<[u16; 2]>().read() };
    its_version >= version && usize::from(size) >= size_of::<T>()
}
