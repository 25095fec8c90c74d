//! A provider module that comes and goes on request: for one network programming interface, with a dispatch table that
//! says its size and version and nothing else.

use super::{
    NmrDeregisterProvider, NmrProviderDetachClientComplete, NmrRegisterProvider,
    NmrWaitForProviderDeregisterComplete,
};
use crate::sync::Mutex;
use crate::sys::nmr::{
    MIT_GUID, NPI_MODULEID, NPI_MODULEID_u, NPI_PROVIDER_CHARACTERISTICS, NPI_REGISTRATION_INSTANCE,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS, PVOID, STATUS_PENDING, STATUS_SUCCESS};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use static_assertions::const_assert_eq;

/// {0B7C9B52-5E2B-4F4C-9C1B-5A1F0C0A7E11}
static MODULE_ID: NPI_MODULEID = NPI_MODULEID {
    Length: 24,
    Type: MIT_GUID,
    u: NPI_MODULEID_u {
        Guid: GUID {
            Data1: 0x0B7C_9B52,
            Data2: 0x5E2B,
            Data3: 0x4F4C,
            Data4: [0x9C, 0x1B, 0x5A, 0x1F, 0x0C, 0x0A, 0x7E, 0x11],
        },
    },
};

const_assert_eq!(size_of::<NPI_MODULEID>(), 24);
const_assert_eq!(size_of::<NPI_PROVIDER_CHARACTERISTICS>(), 72);
const_assert_eq!(size_of::<NPI_REGISTRATION_INSTANCE>(), 40);

/// The provider's table: its size and version, as the tables of the driver's interfaces begin.
#[repr(C)]
struct Dispatch {
    size: u16,
    version: u16,
    reserved: u32,
}

static DISPATCH: Dispatch = Dispatch { size: 8, version: 1, reserved: 0 };

/// What a module has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub attached: u32,
    pub detached: u32,
    pub cleaned: u32,
}

/// A scripted provider that is registered.
pub struct Module {
    npi: GUID,
    handle: usize,
    inner: *mut Inner,
}

// SAFETY: what it points to is its own, behind a mutex.
unsafe impl Send for Module {}

struct Inner {
    npi: GUID,
    characteristics: NPI_PROVIDER_CHARACTERISTICS,
    pends: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counts: Counts,
    /// Bindings whose detach was answered with STATUS_PENDING.
    pending: Vec<usize>,
}

impl Inner {
    fn take_pending(&self) -> Vec<usize> {
        core::mem::take(&mut self.state.lock().pending)
    }
}

fn complete_all(pending: Vec<usize>) -> usize {
    let count = pending.len();
    for handle in pending {
        NmrProviderDetachClientComplete(super::pointer(handle));
    }
    count
}

/// What a client is bound by. Its address is the provider's binding context.
struct Bound {
    inner: *mut Inner,
    handle: usize,
}

/// The modules that are registered.
static MODULES: Mutex<Vec<Module>> = Mutex::new(Vec::new());

/// Registers a provider of `npi`. With `pends`, its detaches wait for [`complete`]. False if there is one already.
pub fn add(npi: GUID, pends: bool) -> bool {
    if MODULES.lock().iter().any(|module| module.npi == npi) {
        return false;
    }
    let inner = Box::into_raw(Box::new(Inner {
        npi,
        characteristics: NPI_PROVIDER_CHARACTERISTICS {
            Version: 0,
            Length: 72,
            ProviderAttachClient: Some(attach),
            ProviderDetachClient: Some(detach),
            ProviderCleanupBindingContext: Some(cleanup),
            ProviderRegistrationInstance: NPI_REGISTRATION_INSTANCE {
                Version: 0,
                Size: 40,
                NpiId: core::ptr::null(),
                ModuleId: &raw const MODULE_ID,
                Number: 0,
                NpiSpecificCharacteristics: core::ptr::null(),
            },
        },
        pends,
        state: Mutex::default(),
    }));
    // SAFETY: made just now, and nobody else's.
    let own = unsafe { &mut *inner };
    own.characteristics.ProviderRegistrationInstance.NpiId = &raw const own.npi;
    let mut handle: HANDLE = null_mut();
    let characteristics = &raw const own.characteristics;
    // SAFETY: the characteristics stay until the module is deregistered.
    let status = unsafe { NmrRegisterProvider(characteristics, inner.cast(), &raw mut handle) };
    if status != STATUS_SUCCESS {
        // SAFETY: not registered, hence still ours.
        drop(unsafe { Box::from_raw(inner) });
        return false;
    }
    MODULES.lock().push(Module { npi, handle: handle.addr(), inner });
    true
}

/// Begins to deregister the provider of `npi`; `None` if there is none. [`Leaving::finish`] waits for its end.
pub fn remove(npi: &GUID) -> Option<Leaving> {
    let mut modules = MODULES.lock();
    let index = modules.iter().position(|module| module.npi == *npi)?;
    let module = modules.swap_remove(index);
    drop(modules);
    NmrDeregisterProvider(super::pointer(module.handle));
    Some(Leaving(module))
}

/// A scripted provider that is being deregistered.
pub struct Leaving(Module);

impl Leaving {
    /// Completes the detaches that were answered with STATUS_PENDING; how many there were.
    pub fn complete(&self) -> usize {
        // SAFETY: freed by `finish` alone.
        complete_all(unsafe { &*self.0.inner }.take_pending())
    }

    /// Waits until every client is detached; what the module has seen.
    pub fn finish(self) -> Counts {
        NmrWaitForProviderDeregisterComplete(super::pointer(self.0.handle));
        // SAFETY: deregistered: nobody calls it any more.
        let inner = unsafe { Box::from_raw(self.0.inner) };
        inner.state.lock().counts
    }
}

/// Completes the detaches of the provider of `npi` that were answered with STATUS_PENDING; how many there were.
pub fn complete(npi: &GUID) -> Option<usize> {
    let pending = {
        let modules = MODULES.lock();
        let module = modules.iter().find(|module| module.npi == *npi)?;
        // SAFETY: freed only after it is taken from the list.
        unsafe { &*module.inner }.take_pending()
    };
    Some(complete_all(pending))
}

/// What the provider of `npi` has seen.
pub fn counts(npi: &GUID) -> Option<Counts> {
    let modules = MODULES.lock();
    let module = modules.iter().find(|module| module.npi == *npi)?;
    // SAFETY: freed only after it is taken from the list.
    let inner = unsafe { &*module.inner };
    let counts = inner.state.lock().counts;
    Some(counts)
}

unsafe extern "system" fn attach(
    handle: HANDLE,
    context: PVOID,
    _client: *const NPI_REGISTRATION_INSTANCE,
    _client_context: PVOID,
    _client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    let inner: *mut Inner = context.cast();
    // SAFETY: the context of the registration, which lasts.
    unsafe { &*inner }.state.lock().counts.attached += 1;
    let bound = Box::new(Bound { inner, handle: handle.addr() });
    // SAFETY: the registrar's variable.
    unsafe { provider_context.write(Box::into_raw(bound).cast()) };
    // SAFETY: the same.
    unsafe { provider_dispatch.write((&raw const DISPATCH).cast()) };
    STATUS_SUCCESS
}

unsafe extern "system" fn detach(context: PVOID) -> NTSTATUS {
    // SAFETY: the binding context, which lasts until `cleanup`.
    let bound = unsafe { &*context.cast::<Bound>() };
    // SAFETY: registered as long as it is bound.
    let inner = unsafe { &*bound.inner };
    let mut state = inner.state.lock();
    state.counts.detached += 1;
    if inner.pends {
        state.pending.push(bound.handle);
        STATUS_PENDING
    } else {
        STATUS_SUCCESS
    }
}

unsafe extern "system" fn cleanup(context: PVOID) {
    // SAFETY: made by `attach`; this is the last that is heard of it.
    let bound = unsafe { Box::from_raw(context.cast::<Bound>()) };
    // SAFETY: registered as long as it is bound.
    unsafe { &*bound.inner }.state.lock().counts.cleaned += 1;
}
