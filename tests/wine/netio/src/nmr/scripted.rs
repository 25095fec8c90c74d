//! Provider modules that come and go on request, each for one network programming interface, as a vendor's driver would be:
//! [`super::connections`] has what they do with the sockets that they are offered.

use super::connections::{self, Binding, Seen};
use super::{NmrDeregisterProvider, NmrRegisterProvider, NmrWaitForProviderDeregisterComplete};
use crate::script::Answer;
use crate::sync::Mutex;
use crate::sys::nmr::{
    MIT_GUID, NPI_MODULEID, NPI_MODULEID_u, NPI_PROVIDER_CHARACTERISTICS, NPI_REGISTRATION_INSTANCE,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS, PVOID, STATUS_SUCCESS};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use static_assertions::const_assert_eq;

const_assert_eq!(size_of::<NPI_MODULEID>(), 24);
const_assert_eq!(size_of::<NPI_PROVIDER_CHARACTERISTICS>(), 72);
const_assert_eq!(size_of::<NPI_REGISTRATION_INSTANCE>(), 40);

/// What a module has seen, and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the registrar's: clients attached, asked to detach, cleaned up.
    pub attached: u32,
    pub detached: u32,
    pub cleaned: u32,
    /// AttachConnection: calls; of them granted, refused, answered with what must not be used.
    pub asked: u32,
    pub granted: u32,
    pub refused: u32,
    pub lied: u32,
    /// DetachConnection: calls; of them answered with STATUS_PENDING; DetachComplete called.
    pub released: u32,
    pub pended: u32,
    pub completed: u32,
    /// Connections that the registrar's detach has ended.
    pub ended: u32,
    /// Callbacks made in time, and after DetachConnection.
    pub callbacks: u64,
    pub late: u64,
    /// Functions of the connections' tables that were called.
    pub functions: u64,
}

/// What a module does. Changed while it is there, it is in force from the next call on.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// To the registrar's attaching: STATUS_SUCCESS takes the client on.
    pub attach: NTSTATUS,
    /// To AttachConnection.
    pub answer: Answer,
    /// Callbacks from within AttachConnection.
    pub inline: u64,
    /// Milliseconds from DetachConnection, which answers STATUS_PENDING, to DetachComplete. Without it, it pends only while
    /// callbacks are in progress.
    pub detach_after: Option<u64>,
    /// Calls after DetachConnection: so many from within it, and so many later.
    pub late: u64,
    /// The module's own table (`connections::dispatch`).
    pub table: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            attach: STATUS_SUCCESS,
            answer: Answer::Grant(None),
            inline: 0,
            detach_after: None,
            late: 0,
            table: connections::dispatch("full").unwrap_or(0),
        }
    }
}

/// A scripted provider module. Its address is its context for the registrar.
pub struct Module {
    pub npi: GUID,
    name: String,
    id: NPI_MODULEID,
    characteristics: NPI_PROVIDER_CHARACTERISTICS,
    handle: AtomicUsize,
    /// The registrar's detaches wait for [`complete`].
    pub pends: bool,
    behaviour: Mutex<Behaviour>,
    state: Mutex<State>,
}

// SAFETY: the pointers among its characteristics lead to itself.
unsafe impl Send for Module {}
// SAFETY: as above; what changes is behind mutexes or atomic.
unsafe impl Sync for Module {}

#[derive(Default)]
struct State {
    counts: Counts,
    /// Bindings whose detach the script holds up.
    pending: Vec<Arc<Binding>>,
}

impl Module {
    pub fn behaviour(&self) -> Behaviour {
        *self.behaviour.lock()
    }

    pub fn note(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state.lock().counts);
    }

    fn complete_all(&self) -> usize {
        let pending = core::mem::take(&mut self.state.lock().pending);
        for binding in &pending {
            binding.complete();
        }
        pending.len()
    }
}

/// The modules that are registered.
static MODULES: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());

fn find(npi: &GUID, name: &str) -> Option<Arc<Module>> {
    MODULES.lock().iter().find(|module| module.npi == *npi && module.name == name).cloned()
}

/// {0B7C9B52-5E2B-4F4C-9C1B-5A1F0C0A7E11}, with a number of its own in the first part.
fn module_id() -> GUID {
    static MADE: AtomicU32 = AtomicU32::new(0);
    GUID {
        Data1: 0x0B7C_9B52_u32.wrapping_add(MADE.fetch_add(1, Ordering::Relaxed)),
        Data2: 0x5E2B,
        Data3: 0x4F4C,
        Data4: [0x9C, 0x1B, 0x5A, 0x1F, 0x0C, 0x0A, 0x7E, 0x11],
    }
}

/// Registers a provider of `npi`; there may be several, each with a name. With `pends`, the registrar's detaches wait for
/// [`complete`]. Its identifier; `None` if there is one of that name already.
pub fn add(npi: GUID, name: &str, pends: bool, behaviour: Behaviour) -> Option<GUID> {
    if find(&npi, name).is_some() {
        return None;
    }
    let id = module_id();
    let mut module = Arc::new(Module {
        npi,
        name: name.to_string(),
        id: NPI_MODULEID { Length: 24, Type: MIT_GUID, u: NPI_MODULEID_u { Guid: id } },
        characteristics: NPI_PROVIDER_CHARACTERISTICS {
            Version: 0,
            Length: 72,
            ProviderAttachClient: Some(attach),
            ProviderDetachClient: Some(detach),
            ProviderCleanupBindingContext: Some(cleanup),
            ProviderRegistrationInstance: NPI_REGISTRATION_INSTANCE {
                Version: 0,
                Size: 40,
                NpiId: null(),
                ModuleId: null(),
                Number: 0,
                NpiSpecificCharacteristics: null(),
            },
        },
        handle: AtomicUsize::new(0),
        pends,
        behaviour: Mutex::new(behaviour),
        state: Mutex::default(),
    });
    let own = Arc::get_mut(&mut module)?;
    own.characteristics.ProviderRegistrationInstance.NpiId = &raw const own.npi;
    own.characteristics.ProviderRegistrationInstance.ModuleId = &raw const own.id;
    // In the list before its first callback, which may come from within the registration.
    MODULES.lock().push(Arc::clone(&module));
    let mut handle: HANDLE = null_mut();
    let context = Arc::as_ptr(&module).cast_mut().cast();
    let characteristics = &raw const module.characteristics;
    // SAFETY: the characteristics stay until the module is deregistered.
    let status = unsafe { NmrRegisterProvider(characteristics, context, &raw mut handle) };
    if status != STATUS_SUCCESS {
        MODULES.lock().retain(|other| !Arc::ptr_eq(other, &module));
        return None;
    }
    module.handle.store(handle.addr(), Ordering::Release);
    Some(id)
}

/// Begins to deregister a provider; `None` if there is none. [`Leaving::finish`] waits for its end.
pub fn remove(npi: &GUID, name: &str) -> Option<Leaving> {
    let module = find(npi, name)?;
    MODULES.lock().retain(|other| !Arc::ptr_eq(other, &module));
    NmrDeregisterProvider(super::pointer(module.handle.load(Ordering::Acquire)));
    Some(Leaving(module))
}

/// A scripted provider that is being deregistered.
pub struct Leaving(Arc<Module>);

impl Leaving {
    /// Completes the detaches that the script holds up; how many there were.
    pub fn complete(&self) -> usize {
        self.0.complete_all()
    }

    /// Waits until every client is detached; what the module has seen.
    pub fn finish(self) -> Counts {
        NmrWaitForProviderDeregisterComplete(super::pointer(self.0.handle.load(Ordering::Acquire)));
        connections::forget(&self.0);
        self.0.state.lock().counts
    }
}

/// Completes the detaches of a provider that the script holds up; how many there were.
pub fn complete(npi: &GUID, name: &str) -> Option<usize> {
    find(npi, name).map(|module| module.complete_all())
}

/// What a provider has seen.
pub fn counts(npi: &GUID, name: &str) -> Option<Counts> {
    find(npi, name).map(|module| module.state.lock().counts)
}

/// What a provider does.
pub fn behaviour(npi: &GUID, name: &str) -> Option<Behaviour> {
    find(npi, name).map(|module| module.behaviour())
}

/// Changes what a provider does; false if there is none.
pub fn set_behaviour(npi: &GUID, name: &str, behaviour: Behaviour) -> bool {
    let module = find(npi, name);
    if let Some(module) = &module {
        *module.behaviour.lock() = behaviour;
    }
    module.is_some()
}

/// The connections that a provider has, and has had.
pub fn connections(npi: &GUID, name: &str) -> Option<Vec<Seen>> {
    find(npi, name).map(|module| connections::seen(&module))
}

unsafe extern "system" fn attach(
    handle: HANDLE,
    context: PVOID,
    _client: *const NPI_REGISTRATION_INSTANCE,
    _client_context: PVOID,
    client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    let module: *const Module = context.cast_const().cast();
    // SAFETY: the context of the registration, which lasts: a share of it for the binding.
    unsafe { Arc::increment_strong_count(module) };
    // SAFETY: the share.
    let module = unsafe { Arc::from_raw(module) };
    let behaviour = module.behaviour();
    if behaviour.attach != STATUS_SUCCESS {
        return behaviour.attach;
    }
    module.note(|counts| counts.attached += 1);
    // SAFETY: the client's table, which lasts until the registrar's cleanup.
    let binding = unsafe { Binding::new(module, handle.addr(), client_dispatch) };
    // SAFETY: the registrar's variable.
    unsafe { provider_context.write(Arc::into_raw(binding).cast_mut().cast()) };
    // SAFETY: the same.
    unsafe { provider_dispatch.write(core::ptr::with_exposed_provenance(behaviour.table)) };
    STATUS_SUCCESS
}

unsafe extern "system" fn detach(context: PVOID) -> NTSTATUS {
    let binding: *const Binding = context.cast_const().cast();
    // SAFETY: the binding context, which lasts until `cleanup`: a share of it for this call.
    unsafe { Arc::increment_strong_count(binding) };
    // SAFETY: the share.
    let binding = unsafe { Arc::from_raw(binding) };
    let module = Arc::clone(&binding.module);
    module.note(|counts| counts.detached += 1);
    if module.pends {
        module.state.lock().pending.push(Arc::clone(&binding));
    }
    binding.detach()
}

unsafe extern "system" fn cleanup(context: PVOID) {
    // SAFETY: made by `attach`; this is the last that is heard of it.
    let binding = unsafe { Arc::from_raw(context.cast_const().cast::<Binding>()) };
    binding.module.note(|counts| counts.cleaned += 1);
}
