//! The Network Module Registrar, for modules of this process.
//!
//! Clients and providers of the same network programming interface are offered to each other when the later one registers,
//! and detached when either deregisters (pages "Network Module Attachment", "Network Module Detachment"): both sides are
//! asked to detach, each may answer STATUS_PENDING and complete it later, and when both have, both clean their binding
//! contexts up. No lock is held while a module is called.

#![allow(non_snake_case, reason = "exports have the documentation's names")]

pub mod connections;
pub mod scripted;
#[cfg(test)]
mod tests;

use crate::report::violation;
use crate::sync::{Condvar, Mutex};
use crate::sys::nmr::{NPI_CLIENT_CHARACTERISTICS, NPI_PROVIDER_CHARACTERISTICS, NPI_REGISTRATION_INSTANCE};
use crate::sys::nt::{
    GUID, HANDLE, NTSTATUS, PVOID, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE,
    STATUS_PENDING, STATUS_SUCCESS,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Provider,
}

/// The characteristics of a module, which stay as long as it is registered.
#[derive(Clone, Copy)]
enum Characteristics {
    Client(*const NPI_CLIENT_CHARACTERISTICS),
    Provider(*const NPI_PROVIDER_CHARACTERISTICS),
}

struct Module {
    handle: usize,
    npi: GUID,
    characteristics: Characteristics,
    context: PVOID,
}

// SAFETY: the pointers are the module's own, and are only read, or passed back to it.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    fn side(&self) -> Side {
        match self.characteristics {
            Characteristics::Client(_) => Side::Client,
            Characteristics::Provider(_) => Side::Provider,
        }
    }

    fn client(&self) -> Option<&NPI_CLIENT_CHARACTERISTICS> {
        match self.characteristics {
            // SAFETY: it "remains valid and resident in memory as long as the client module is registered".
            Characteristics::Client(client) => unsafe { client.as_ref() },
            Characteristics::Provider(_) => None,
        }
    }

    fn provider(&self) -> Option<&NPI_PROVIDER_CHARACTERISTICS> {
        match self.characteristics {
            Characteristics::Client(_) => None,
            // SAFETY: as for a client.
            Characteristics::Provider(provider) => unsafe { provider.as_ref() },
        }
    }

    fn instance(&self) -> *const NPI_REGISTRATION_INSTANCE {
        match (self.client(), self.provider()) {
            (Some(client), _) => &raw const client.ClientRegistrationInstance,
            (_, Some(provider)) => &raw const provider.ProviderRegistrationInstance,
            _ => null(),
        }
    }
}

/// How far one side of a binding is with detaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detach {
    Not,
    /// Its callback runs; whether the completion came in before it returned.
    Called {
        completed: bool,
    },
    Pending,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// ClientAttachProvider runs, and has not called NmrClientAttachProvider.
    Offered,
    /// It has: ProviderAttachClient runs.
    Attaching,
    /// ProviderAttachClient has agreed; ClientAttachProvider has not returned yet.
    Agreed,
    Attached,
    Detaching,
    /// The cleanup callbacks run.
    Cleaning,
}

/// A client and a provider that were offered to each other.
struct Binding {
    handle: usize,
    client: Arc<Module>,
    provider: Arc<Module>,
    phase: Phase,
    client_context: usize,
    provider_context: usize,
    client_detach: Detach,
    provider_detach: Detach,
}

impl Binding {
    fn is_of(&self, module: usize) -> bool {
        self.client.handle == module || self.provider.handle == module
    }

    fn detach(&mut self, side: Side) -> &mut Detach {
        match side {
            Side::Client => &mut self.client_detach,
            Side::Provider => &mut self.provider_detach,
        }
    }
}

struct Registered {
    module: Arc<Module>,
    deregistering: bool,
}

struct Registrar {
    modules: Vec<Registered>,
    bindings: Vec<Binding>,
    last: usize,
}

static REGISTRAR: Mutex<Registrar> =
    Mutex::new(Registrar { modules: Vec::new(), bindings: Vec::new(), last: 0x4E4D_5200 });
static CHANGED: Condvar = Condvar::new();
/// How often a wait looks again although nobody woke it.
const LOOK: Duration = Duration::from_millis(100);

impl Registrar {
    fn handle(&mut self) -> usize {
        self.last += 4;
        self.last
    }

    fn module(&mut self, handle: usize, side: Side) -> Option<&mut Registered> {
        self.modules.iter_mut().find(|other| other.module.handle == handle && other.module.side() == side)
    }

    fn is_leaving(&self, module: &Module) -> bool {
        let found = self.modules.iter().find(|other| other.module.handle == module.handle);
        found.is_none_or(|found| found.deregistering)
    }

    fn binding(&mut self, handle: usize) -> Option<&mut Binding> {
        self.bindings.iter_mut().find(|binding| binding.handle == handle)
    }
}

fn pointer(handle: usize) -> HANDLE {
    core::ptr::with_exposed_provenance_mut(handle)
}

/// Modules (clients, providers) and bindings that are there.
pub fn counts() -> (usize, usize, usize) {
    let registrar = REGISTRAR.lock();
    let clients = registrar.modules.iter().filter(|other| other.module.side() == Side::Client).count();
    (clients, registrar.modules.len() - clients, registrar.bindings.len())
}

fn sound(api: &str, head: (u16, u16), size: usize, instance: &NPI_REGISTRATION_INSTANCE) -> bool {
    let (version, length) = head;
    let sound = version == 0
        && usize::from(length) >= size
        && instance.Version == 0
        && usize::from(instance.Size) >= size_of::<NPI_REGISTRATION_INSTANCE>()
        && !instance.NpiId.is_null()
        && !instance.ModuleId.is_null();
    if !sound {
        violation!(api, "a version is not 0, a length too small, or an identifier NULL");
    }
    sound
}

/// Adds a module and offers it to those of the other side.
///
/// # Safety
/// `out` is writable; `instance` is sound.
unsafe fn register(
    characteristics: Characteristics,
    instance: &NPI_REGISTRATION_INSTANCE,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: an identifier, which is not NULL.
    let npi = unsafe { *instance.NpiId };
    let (module, others) = {
        let mut registrar = REGISTRAR.lock();
        let handle = registrar.handle();
        let module = Arc::new(Module { handle, npi, characteristics, context });
        let others: Vec<_> = registrar
            .modules
            .iter()
            .filter(|other| !other.deregistering && other.module.npi == npi)
            .filter(|other| other.module.side() != module.side())
            .map(|other| Arc::clone(&other.module))
            .collect();
        registrar.modules.push(Registered { module: Arc::clone(&module), deregistering: false });
        (module, others)
    };
    // The handle is there before the first callback, which may come from here.
    // SAFETY: the caller's.
    unsafe { out.write(pointer(module.handle)) };
    for other in others {
        match module.side() {
            Side::Client => offer(&module, &other),
            Side::Provider => offer(&other, &module),
        }
    }
    STATUS_SUCCESS
}

/// Offers a provider to a client (page "Attaching a Client Module to a Provider Module").
fn offer(client: &Arc<Module>, provider: &Arc<Module>) {
    const API: &str = "ClientAttachProvider";
    let handle = {
        let mut registrar = REGISTRAR.lock();
        if registrar.is_leaving(client) || registrar.is_leaving(provider) {
            return;
        }
        let handle = registrar.handle();
        registrar.bindings.push(Binding {
            handle,
            client: Arc::clone(client),
            provider: Arc::clone(provider),
            phase: Phase::Offered,
            client_context: 0,
            provider_context: 0,
            client_detach: Detach::Not,
            provider_detach: Detach::Not,
        });
        handle
    };
    let attach = client.client().and_then(|client| client.ClientAttachProvider);
    let answer = attach.map_or(STATUS_NOINTERFACE, |attach| {
        // SAFETY: the client's callback, with its context and the provider's registration.
        unsafe { attach(pointer(handle), client.context, provider.instance()) }
    });
    let (agreed, leaves) = {
        let mut registrar = REGISTRAR.lock();
        let leaves = registrar.is_leaving(client) || registrar.is_leaving(provider);
        let agreed = registrar.binding(handle).is_some_and(|binding| {
            let agreed = binding.phase == Phase::Agreed;
            if agreed {
                binding.phase = Phase::Attached;
            }
            agreed
        });
        if !agreed {
            registrar.bindings.retain(|binding| binding.handle != handle);
        }
        (agreed, leaves)
    };
    if agreed != (answer == STATUS_SUCCESS) {
        violation!(API, "returned {answer:#010x}, not what NmrClientAttachProvider did");
    }
    CHANGED.notify_all();
    if agreed && leaves {
        // One side went while the other was attaching.
        detach(handle);
    }
}

/// Detaches both sides (page "Network Module Detachment").
fn detach(handle: usize) {
    let (client, provider, contexts) = {
        let mut registrar = REGISTRAR.lock();
        let Some(binding) = registrar.binding(handle) else { return };
        if binding.phase != Phase::Attached {
            return;
        }
        binding.phase = Phase::Detaching;
        binding.client_detach = Detach::Called { completed: false };
        binding.provider_detach = Detach::Called { completed: false };
        let contexts = (pointer(binding.client_context), pointer(binding.provider_context));
        (Arc::clone(&binding.client), Arc::clone(&binding.provider), contexts)
    };
    let function = client.client().and_then(|client| client.ClientDetachProvider);
    // SAFETY: the client's callback, with its binding context.
    let answer = function.map_or(STATUS_SUCCESS, |function| unsafe { function(contexts.0) });
    answered(handle, Side::Client, answer);
    let function = provider.provider().and_then(|provider| provider.ProviderDetachClient);
    // SAFETY: the provider's callback, with its binding context.
    let answer = function.map_or(STATUS_SUCCESS, |function| unsafe { function(contexts.1) });
    answered(handle, Side::Provider, answer);
    clean_up(handle);
}

/// Notes what a detach callback returned.
fn answered(handle: usize, side: Side, answer: NTSTATUS) {
    let breach = {
        let mut registrar = REGISTRAR.lock();
        let Some(binding) = registrar.binding(handle) else { return };
        let detach = binding.detach(side);
        let completed = *detach == Detach::Called { completed: true };
        *detach = if answer == STATUS_PENDING && !completed { Detach::Pending } else { Detach::Done };
        !matches!(answer, STATUS_SUCCESS | STATUS_PENDING) || (answer == STATUS_SUCCESS && completed)
    };
    if breach {
        violation!("detach callback", "{side:?} returned {answer:#010x}");
    }
}

/// Has both sides clean up, once both have detached.
fn clean_up(handle: usize) {
    let (client, provider, contexts) = {
        let mut registrar = REGISTRAR.lock();
        let Some(binding) = registrar.binding(handle) else { return };
        let detached = binding.client_detach == Detach::Done && binding.provider_detach == Detach::Done;
        // Whoever changes the phase is the one to clean up.
        if !detached || binding.phase != Phase::Detaching {
            return;
        }
        binding.phase = Phase::Cleaning;
        let contexts = (pointer(binding.client_context), pointer(binding.provider_context));
        (Arc::clone(&binding.client), Arc::clone(&binding.provider), contexts)
    };
    if let Some(clean) = client.client().and_then(|client| client.ClientCleanupBindingContext) {
        // SAFETY: the client's callback, with its binding context.
        unsafe { clean(contexts.0) };
    }
    if let Some(clean) = provider.provider().and_then(|provider| provider.ProviderCleanupBindingContext) {
        // SAFETY: the provider's callback, with its binding context.
        unsafe { clean(contexts.1) };
    }
    REGISTRAR.lock().bindings.retain(|binding| binding.handle != handle);
    CHANGED.notify_all();
}

fn deregister(api: &str, side: Side, handle: HANDLE) -> NTSTATUS {
    let handle = handle.addr();
    let bound: Option<Vec<usize>> = {
        let mut registrar = REGISTRAR.lock();
        let found = registrar.module(handle, side).filter(|found| !found.deregistering);
        found.map(|found| found.deregistering = true).map(|()| {
            let bound = registrar.bindings.iter().filter(|binding| binding.is_of(handle));
            bound.map(|binding| binding.handle).collect()
        })
    };
    let Some(bound) = bound else {
        violation!(api, "{handle:#x} is not registered, or being deregistered already");
        return STATUS_INVALID_PARAMETER;
    };
    for binding in bound {
        detach(binding);
    }
    STATUS_PENDING
}

fn wait(api: &str, side: Side, handle: HANDLE) -> NTSTATUS {
    let handle = handle.addr();
    let mut registrar = REGISTRAR.lock();
    if !registrar.module(handle, side).is_some_and(|found| found.deregistering) {
        drop(registrar);
        violation!(api, "{handle:#x} is not being deregistered");
        return STATUS_INVALID_PARAMETER;
    }
    while registrar.bindings.iter().any(|binding| binding.is_of(handle)) {
        registrar = CHANGED.wait_timeout(registrar, LOOK);
    }
    registrar.modules.retain(|other| other.module.handle != handle);
    STATUS_SUCCESS
}

fn completed(api: &str, side: Side, handle: HANDLE) {
    let handle = handle.addr();
    let known = {
        let mut registrar = REGISTRAR.lock();
        registrar.binding(handle).is_some_and(|binding| {
            let detach = binding.detach(side);
            match *detach {
                Detach::Pending => *detach = Detach::Done,
                Detach::Called { completed: false } => *detach = Detach::Called { completed: true },
                _ => return false,
            }
            true
        })
    };
    if !known {
        violation!(api, "no detach of {handle:#x} is pending");
    }
    clean_up(handle);
}

/// Page "NmrRegisterClient".
///
/// # Safety
/// The characteristics stay as long as the client is registered; the handle is writable.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn NmrRegisterClient(
    characteristics: *const NPI_CLIENT_CHARACTERISTICS,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: NULL or the client's structure.
    let found = unsafe { characteristics.as_ref() };
    let Some(found) = found.filter(|_| !out.is_null()) else { return STATUS_INVALID_PARAMETER };
    let size = size_of::<NPI_CLIENT_CHARACTERISTICS>();
    let instance = &found.ClientRegistrationInstance;
    if !sound("NmrRegisterClient", (found.Version, found.Length), size, instance) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the handle is writable, and the instance sound.
    unsafe { register(Characteristics::Client(characteristics), instance, context, out) }
}

/// Page "NmrRegisterProvider".
///
/// # Safety
/// The characteristics stay as long as the provider is registered; the handle is writable.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn NmrRegisterProvider(
    characteristics: *const NPI_PROVIDER_CHARACTERISTICS,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    // SAFETY: NULL or the provider's structure.
    let found = unsafe { characteristics.as_ref() };
    let Some(found) = found.filter(|_| !out.is_null()) else { return STATUS_INVALID_PARAMETER };
    let size = size_of::<NPI_PROVIDER_CHARACTERISTICS>();
    let instance = &found.ProviderRegistrationInstance;
    if !sound("NmrRegisterProvider", (found.Version, found.Length), size, instance) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the handle is writable, and the instance sound.
    unsafe { register(Characteristics::Provider(characteristics), instance, context, out) }
}

/// Page "NmrDeregisterClient". Returns STATUS_PENDING.
#[unsafe(no_mangle)]
pub extern "system" fn NmrDeregisterClient(handle: HANDLE) -> NTSTATUS {
    deregister("NmrDeregisterClient", Side::Client, handle)
}

/// Page "NmrDeregisterProvider". Returns STATUS_PENDING.
#[unsafe(no_mangle)]
pub extern "system" fn NmrDeregisterProvider(handle: HANDLE) -> NTSTATUS {
    deregister("NmrDeregisterProvider", Side::Provider, handle)
}

/// Page "NmrWaitForClientDeregisterComplete".
#[unsafe(no_mangle)]
pub extern "system" fn NmrWaitForClientDeregisterComplete(handle: HANDLE) -> NTSTATUS {
    wait("NmrWaitForClientDeregisterComplete", Side::Client, handle)
}

/// Page "NmrWaitForProviderDeregisterComplete".
#[unsafe(no_mangle)]
pub extern "system" fn NmrWaitForProviderDeregisterComplete(handle: HANDLE) -> NTSTATUS {
    wait("NmrWaitForProviderDeregisterComplete", Side::Provider, handle)
}

/// Page "NmrClientDetachProviderComplete".
#[unsafe(no_mangle)]
pub extern "system" fn NmrClientDetachProviderComplete(handle: HANDLE) {
    completed("NmrClientDetachProviderComplete", Side::Client, handle);
}

/// Page "NmrProviderDetachClientComplete".
#[unsafe(no_mangle)]
pub extern "system" fn NmrProviderDetachClientComplete(handle: HANDLE) {
    completed("NmrProviderDetachClientComplete", Side::Provider, handle);
}

/// Page "NmrClientAttachProvider": within the binding's ClientAttachProvider, once.
///
/// # Safety
/// The client's context and table stay until its cleanup; the outputs are writable.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn NmrClientAttachProvider(
    handle: HANDLE,
    client_context: PVOID,
    client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    const API: &str = "NmrClientAttachProvider";
    if provider_context.is_null() || provider_dispatch.is_null() {
        violation!(API, "an output is NULL");
        return STATUS_INVALID_PARAMETER;
    }
    let modules = {
        let mut registrar = REGISTRAR.lock();
        let found = registrar.binding(handle.addr()).filter(|binding| binding.phase == Phase::Offered);
        found.map(|binding| {
            binding.phase = Phase::Attaching;
            binding.client_context = client_context.expose_provenance();
            (Arc::clone(&binding.client), Arc::clone(&binding.provider))
        })
    };
    let Some((client, provider)) = modules else {
        violation!(API, "outside the binding's ClientAttachProvider, or twice");
        return STATUS_INVALID_DEVICE_STATE;
    };
    let (mut context, mut dispatch) = (null_mut(), null());
    let attach = provider.provider().and_then(|provider| provider.ProviderAttachClient);
    let answer = attach.map_or(STATUS_NOINTERFACE, |attach| {
        // SAFETY: the provider's callback, with its context, the client's registration and what the client gave.
        unsafe {
            attach(
                handle,
                provider.context,
                client.instance(),
                client_context,
                client_dispatch,
                &raw mut context,
                &raw mut dispatch,
            )
        }
    });
    if answer == STATUS_SUCCESS {
        if let Some(binding) = REGISTRAR.lock().binding(handle.addr()) {
            binding.phase = Phase::Agreed;
            binding.provider_context = context.expose_provenance();
        }
        // SAFETY: not NULL; the client's variable.
        unsafe { provider_context.write(context) };
        // SAFETY: the same.
        unsafe { provider_dispatch.write(dispatch) };
    }
    answer
}
