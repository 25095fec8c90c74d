//! The Network Module Registrar, simulated as its documentation describes it.
//!
//! Clients and providers of the same network programming interface are offered to each other, attach, and detach when
//! either side deregisters (pages "Network Module Attachment", "Network Module Detachment"). Drivers reach it by the
//! exports in [`crate::sys::nmr`], and a test's vendor module does the same. Attaching happens on the thread that
//! registers, detaching on the one that deregisters, the client's side first, unless [`set_manner`] says otherwise.

use crate::boot::{at_shutdown, hang_after};
use crate::sys::nmr::{
    NPI_CLIENT_CHARACTERISTICS, NPI_PROVIDER_CHARACTERISTICS, NPI_REGISTRATION_INSTANCE, NPIID,
};
use crate::sys::nt::{
    APC_LEVEL, DISPATCH_LEVEL, HANDLE, NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_PENDING,
    STATUS_SUCCESS, STATUS_TIMEOUT,
};
use crate::verify::{lock, track, untrack, violation};
use crate::{fault, irql, rules, threads, wsk};
use std::ffi::c_void;
use std::ptr::{null, null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

rules! {
    NMR_HANDLE = ("not a handle of this kind", "");
    NMR_CHARACTERISTICS = ("bad characteristics", "NPI_REGISTRATION_INSTANCE");
    NMR_ATTACH_STATUS = ("ClientAttachProvider returned another status than NmrClientAttachProvider", "NPI_CLIENT_ATTACH_PROVIDER_FN");
    NMR_ATTACH_TWICE = ("NmrClientAttachProvider outside the binding's ClientAttachProvider, or twice", "NmrClientAttachProvider");
    NMR_NULL_DISPATCH = ("a provider attached without a binding context or dispatch table", "NPI_PROVIDER_ATTACH_CLIENT_FN");
    NMR_DETACH_STATUS = ("undocumented status from a detach callback", "NPI_CLIENT_DETACH_PROVIDER_FN");
    NMR_COMPLETE = ("detach completed that is not pending", "");
    NMR_NOT_DEREGISTERED = ("waited for before it was deregistered", "");
    NMR_CALL_AFTER_DETACH = ("a provider's function was called over a binding from which the client has detached", "NPI_CLIENT_DETACH_PROVIDER_FN");
    NMR_CALLBACK_AFTER_DETACH = ("a client's callback was called over a binding from which the provider has detached", "NPI_PROVIDER_DETACH_CLIENT_FN");
    NMR_BLOCKED = ("deregistration does not complete", "Network Module Detachment");
}

/// How often a wait looks whether it may end.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Provider,
}

impl Side {
    fn kind(self) -> &'static str {
        match self {
            Self::Client => "NMR client",
            Self::Provider => "NMR provider",
        }
    }
}

/// A registered module.
struct Module {
    handle: usize,
    side: Side,
    npi: NPIID,
    /// The driver's structure, which stays valid as long as the module is registered.
    characteristics: usize,
    context: usize,
    deregistering: AtomicBool,
}

impl Module {
    fn client(&self) -> NPI_CLIENT_CHARACTERISTICS {
        // SAFETY: a client's structure; it "remains valid and resident as long as the client module is registered".
        unsafe { *with_exposed_provenance::<NPI_CLIENT_CHARACTERISTICS>(self.characteristics) }
    }

    fn provider(&self) -> NPI_PROVIDER_CHARACTERISTICS {
        // SAFETY: a provider's structure; the same.
        unsafe { *with_exposed_provenance::<NPI_PROVIDER_CHARACTERISTICS>(self.characteristics) }
    }

    fn instance(&self) -> *const NPI_REGISTRATION_INSTANCE {
        // Both structures hold it at the same offset.
        const OFFSET: usize = std::mem::offset_of!(NPI_CLIENT_CHARACTERISTICS, ClientRegistrationInstance);
        with_exposed_provenance::<u8>(self.characteristics).wrapping_add(OFFSET).cast()
    }
}

/// How far one side of a binding is with detaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detach {
    Attached,
    /// The callback runs; whether its completion came in already.
    Calling {
        completed: bool,
    },
    Pending,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// ClientAttachProvider runs.
    Offered,
    Attached,
    Detaching,
}

/// A client and a provider that were offered to each other.
struct Binding {
    handle: usize,
    client: Arc<Module>,
    provider: Arc<Module>,
    state: Mutex<BindingState>,
}

struct BindingState {
    phase: Phase,
    /// What NmrClientAttachProvider returned.
    attached: Option<NTSTATUS>,
    client_context: usize,
    provider_context: usize,
    client: Detach,
    provider: Detach,
}

#[derive(Default)]
struct Registrar {
    modules: Vec<Arc<Module>>,
    bindings: Vec<Arc<Binding>>,
    last: usize,
}

static REGISTRAR: Mutex<Registrar> =
    Mutex::new(Registrar { modules: Vec::new(), bindings: Vec::new(), last: 0x4E4D_5200 });
static CHANGED: Condvar = Condvar::new();
static MANNER: Mutex<Manner> = Mutex::new(Manner::DEFAULT);

/// In which order both sides are asked to detach. The page "Network Module Detachment" says that they are, and leaves
/// the order open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    ClientFirst,
    ProviderFirst,
    /// On two threads at once. (At PASSIVE_LEVEL; whoever deregisters at DISPATCH_LEVEL has the client's side first.)
    Together,
}

/// What the documentation leaves to the registrar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    pub order: Order,
    /// Detach and cleanup callbacks come at DISPATCH_LEVEL, which their pages allow, instead of the IRQL of whoever
    /// deregisters.
    pub detach_at_dispatch: bool,
    /// Modules are offered to each other on another thread than the one that registers, which may have returned by
    /// then: page "Attaching a Client Module to a Provider Module" says that it happens after registration, not where.
    pub attach_elsewhere: bool,
}

impl Manner {
    const DEFAULT: Self =
        Self { order: Order::ClientFirst, detach_at_dispatch: false, attach_elsewhere: false };
}

pub(crate) fn boot() {
    set_manner(Manner::DEFAULT);
    at_shutdown(|| {
        let mut registrar = lock(&REGISTRAR);
        registrar.modules = Vec::new();
        registrar.bindings = Vec::new();
    });
}

/// How the registrar does what the documentation leaves to it, from now on.
pub fn set_manner(manner: Manner) {
    *lock(&MANNER) = manner;
}

fn manner() -> Manner {
    *lock(&MANNER)
}

/// [`Manner::detach_at_dispatch`] alone.
pub fn set_detach_at_dispatch(dispatch: bool) {
    lock(&MANNER).detach_at_dispatch = dispatch;
}

/// DISPATCH_LEVEL where detach callbacks come at it.
fn raised() -> Option<irql::Raised> {
    manner().detach_at_dispatch.then(irql::raise_scope)
}

/// Runs a call of the client into the provider over the binding `handle`, on the provider's side: nothing may be called,
/// nor be in progress, once the client has detached, which it says by returning STATUS_SUCCESS from its
/// ClientDetachProvider or by NmrClientDetachProviderComplete.
pub fn client_call<T>(handle: HANDLE, function: &'static str, body: impl FnOnce() -> T) -> T {
    require_attached(handle, Side::Client, function, "called");
    let result = body();
    require_attached(handle, Side::Client, function, "still in progress");
    result
}

/// Runs a call of the provider into the client over the binding `handle`, on the provider's side: as [`client_call`],
/// the other way round.
pub fn provider_call<T>(handle: HANDLE, function: &'static str, body: impl FnOnce() -> T) -> T {
    require_attached(handle, Side::Provider, function, "called");
    let result = body();
    require_attached(handle, Side::Provider, function, "still in progress");
    result
}

fn require_attached(handle: HANDLE, side: Side, function: &'static str, how: &str) {
    let found = lock(&REGISTRAR).bindings.iter().find(|binding| binding.handle == handle.addr()).cloned();
    let attached = found.is_some_and(|binding| *side_of(&mut lock(&binding.state), side) != Detach::Done);
    if !attached {
        let rule = match side {
            Side::Client => &NMR_CALL_AFTER_DETACH,
            Side::Provider => &NMR_CALLBACK_AFTER_DETACH,
        };
        violation(rule, function, format!("{how}, binding {handle:p}"));
    }
}

/// How many bindings between clients and providers exist.
pub fn bindings() -> usize {
    lock(&REGISTRAR).bindings.len()
}

impl Registrar {
    fn handle(&mut self) -> usize {
        self.last += 4;
        self.last
    }
}

fn module(api: &'static str, side: Side, handle: HANDLE) -> Option<Arc<Module>> {
    let registrar = lock(&REGISTRAR);
    let found = registrar
        .modules
        .iter()
        .find(|module| module.handle == handle.addr() && module.side == side)
        .cloned();
    drop(registrar);
    if found.is_none() {
        violation(&NMR_HANDLE, api, format!("{handle:p}"));
    }
    found
}

fn binding(api: &'static str, handle: HANDLE) -> Option<Arc<Binding>> {
    let found = lock(&REGISTRAR).bindings.iter().find(|binding| binding.handle == handle.addr()).cloned();
    if found.is_none() {
        violation(&NMR_HANDLE, api, format!("{handle:p}"));
    }
    found
}

/// Checks what client and provider characteristics have in common.
fn check(
    api: &'static str,
    version: u16,
    length: u16,
    size: usize,
    instance: &NPI_REGISTRATION_INSTANCE,
) -> bool {
    let sound = version == 0
        && usize::from(length) >= size
        && instance.Version == 0
        && usize::from(instance.Size) >= size_of::<NPI_REGISTRATION_INSTANCE>()
        && !instance.NpiId.is_null()
        && !instance.ModuleId.is_null();
    if !sound {
        violation(&NMR_CHARACTERISTICS, api, "a version is not 0, a length too small, or an identifier NULL");
    }
    sound
}

fn register(
    api: &'static str,
    side: Side,
    characteristics: usize,
    instance: &NPI_REGISTRATION_INSTANCE,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    if fault::fail(api) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: `check` saw that it is not NULL; an identifier.
    let npi = unsafe { *instance.NpiId };
    let (added, others) = {
        let mut registrar = lock(&REGISTRAR);
        let added = Arc::new(Module {
            handle: registrar.handle(),
            side,
            npi,
            characteristics,
            context: context.expose_provenance(),
            deregistering: AtomicBool::new(false),
        });
        let others: Vec<_> = registrar
            .modules
            .iter()
            .filter(|other| other.side != side && other.npi == npi)
            .filter(|other| !other.deregistering.load(Ordering::Acquire))
            .cloned()
            .collect();
        registrar.modules.push(Arc::clone(&added));
        (added, others)
    };
    track(side.kind(), added.handle, 0);
    // The handle is there before the first callback, which may come from here.
    // SAFETY: what the driver passed.
    unsafe { *out = with_exposed_provenance_mut(added.handle) };
    let offers = move || {
        for other in others {
            match side {
                Side::Client => offer(&added, &other),
                Side::Provider => offer(&other, &added),
            }
        }
    };
    if manner().attach_elsewhere {
        threads::service("NMR", offers);
    } else {
        offers();
    }
    STATUS_SUCCESS
}

/// Offers a provider to a client (page "Attaching a Client Module to a Provider Module").
fn offer(client: &Arc<Module>, provider: &Arc<Module>) {
    const API: &str = "ClientAttachProvider";
    let offered = {
        let mut registrar = lock(&REGISTRAR);
        let gone = |module: &Module| module.deregistering.load(Ordering::Acquire);
        if gone(client) || gone(provider) {
            return;
        }
        let offered = Arc::new(Binding {
            handle: registrar.handle(),
            client: Arc::clone(client),
            provider: Arc::clone(provider),
            state: Mutex::new(BindingState {
                phase: Phase::Offered,
                attached: None,
                client_context: 0,
                provider_context: 0,
                client: Detach::Attached,
                provider: Detach::Attached,
            }),
        });
        registrar.bindings.push(Arc::clone(&offered));
        offered
    };
    let answer = client.client().ClientAttachProvider.map_or(STATUS_NOINTERFACE, |attach| {
        // SAFETY: the client's callback, with its context and the provider's registration.
        irql::same_irql(API, || unsafe {
            attach(
                with_exposed_provenance_mut(offered.handle),
                with_exposed_provenance_mut(client.context),
                provider.instance(),
            )
        })
    });
    let attached = {
        let mut state = lock(&offered.state);
        if state.attached == Some(STATUS_SUCCESS) {
            state.phase = Phase::Attached;
        }
        state.attached
    };
    if attached.is_some_and(|attached| attached != answer) || (attached.is_none() && answer == STATUS_SUCCESS)
    {
        violation(&NMR_ATTACH_STATUS, API, format!("{answer:#010x} after {attached:x?}"));
    }
    if attached != Some(STATUS_SUCCESS) {
        forget(&offered);
    } else if [client, provider].iter().any(|module| module.deregistering.load(Ordering::Acquire)) {
        // One side went while the other was attaching.
        detach(&offered);
    }
}

fn forget(binding: &Arc<Binding>) {
    lock(&REGISTRAR).bindings.retain(|other| !Arc::ptr_eq(other, binding));
    CHANGED.notify_all();
}

/// Detaches both sides (page "Network Module Detachment").
fn detach(binding: &Arc<Binding>) {
    {
        let mut state = lock(&binding.state);
        if state.phase != Phase::Attached {
            return;
        }
        state.phase = Phase::Detaching;
    }
    match manner().order {
        Order::Together if irql::current() < DISPATCH_LEVEL => std::thread::scope(|scope| {
            scope.spawn(|| detach_side(binding, Side::Provider));
            detach_side(binding, Side::Client);
        }),
        Order::ClientFirst | Order::Together => {
            detach_side(binding, Side::Client);
            detach_side(binding, Side::Provider);
        }
        Order::ProviderFirst => {
            detach_side(binding, Side::Provider);
            detach_side(binding, Side::Client);
        }
    }
    let raised = raised();
    clean_up(binding);
    drop(raised);
}

fn side_of(state: &mut BindingState, side: Side) -> &mut Detach {
    match side {
        Side::Client => &mut state.client,
        Side::Provider => &mut state.provider,
    }
}

fn detach_side(binding: &Arc<Binding>, side: Side) {
    let _raised = raised();
    let context = {
        let mut state = lock(&binding.state);
        *side_of(&mut state, side) = Detach::Calling { completed: false };
        match side {
            Side::Client => state.client_context,
            Side::Provider => state.provider_context,
        }
    };
    let context: PVOID = with_exposed_provenance_mut(context);
    let answer = match side {
        Side::Client => binding.client.client().ClientDetachProvider.map(|detach| {
            // SAFETY: the client's callback, with its binding context.
            irql::same_irql("ClientDetachProvider", || unsafe { detach(context) })
        }),
        Side::Provider => binding.provider.provider().ProviderDetachClient.map(|detach| {
            // SAFETY: the provider's callback, with its binding context.
            irql::same_irql("ProviderDetachClient", || unsafe { detach(context) })
        }),
    };
    let answer = answer.unwrap_or(STATUS_SUCCESS);
    let breach = {
        let mut state = lock(&binding.state);
        let progress = side_of(&mut state, side);
        let completed = *progress == Detach::Calling { completed: true };
        *progress = if answer == STATUS_PENDING && !completed { Detach::Pending } else { Detach::Done };
        match answer {
            STATUS_SUCCESS if completed => Some(&NMR_COMPLETE),
            STATUS_SUCCESS | STATUS_PENDING => None,
            _ => Some(&NMR_DETACH_STATUS),
        }
    };
    if let Some(rule) = breach {
        violation(rule, side.kind(), format!("returned {answer:#010x}"));
    }
}

/// Has both sides clean up once both have detached.
fn clean_up(binding: &Arc<Binding>) {
    let (client_context, provider_context) = {
        let state = lock(&binding.state);
        if state.client != Detach::Done || state.provider != Detach::Done {
            return;
        }
        (state.client_context, state.provider_context)
    };
    {
        // Whoever takes it from the list is the one to clean up.
        let mut registrar = lock(&REGISTRAR);
        let index = registrar.bindings.iter().position(|other| Arc::ptr_eq(other, binding));
        let Some(index) = index else { return };
        let cleaning = registrar.bindings.swap_remove(index);
        // It stays known to those who wait until the callbacks have returned.
        CLEANING.with_lock(|list| list.push(cleaning));
    }
    if let Some(clean) = binding.client.client().ClientCleanupBindingContext {
        // SAFETY: the client's callback, with its binding context.
        irql::same_irql("ClientCleanupBindingContext", || unsafe {
            clean(with_exposed_provenance_mut(client_context));
        });
    }
    if let Some(clean) = binding.provider.provider().ProviderCleanupBindingContext {
        // SAFETY: the provider's callback, with its binding context.
        irql::same_irql("ProviderCleanupBindingContext", || unsafe {
            clean(with_exposed_provenance_mut(provider_context));
        });
    }
    CLEANING.with_lock(|list| list.retain(|other| !Arc::ptr_eq(other, binding)));
    CHANGED.notify_all();
}

/// Bindings whose cleanup callbacks run.
struct Cleaning(Mutex<Vec<Arc<Binding>>>);
static CLEANING: Cleaning = Cleaning(Mutex::new(Vec::new()));

impl Cleaning {
    fn with_lock<T>(&self, body: impl FnOnce(&mut Vec<Arc<Binding>>) -> T) -> T {
        body(&mut lock(&self.0))
    }
}

fn deregister(api: &'static str, side: Side, handle: HANDLE) -> NTSTATUS {
    irql::require_at_most(api, DISPATCH_LEVEL);
    let Some(module) = module(api, side, handle) else { return STATUS_INVALID_PARAMETER };
    if module.deregistering.swap(true, Ordering::AcqRel) {
        violation(&NMR_HANDLE, api, "deregistered before");
        return STATUS_INVALID_PARAMETER;
    }
    let bound: Vec<_> = {
        let registrar = lock(&REGISTRAR);
        let of = |binding: &&Arc<Binding>| {
            Arc::ptr_eq(&binding.client, &module) || Arc::ptr_eq(&binding.provider, &module)
        };
        registrar.bindings.iter().filter(of).cloned().collect()
    };
    for binding in bound {
        detach(&binding);
    }
    STATUS_PENDING
}

fn wait(api: &'static str, side: Side, handle: HANDLE) -> NTSTATUS {
    irql::require_at_most(api, APC_LEVEL);
    wsk::require_no_callback(api);
    let Some(module) = module(api, side, handle) else { return STATUS_INVALID_PARAMETER };
    if !module.deregistering.load(Ordering::Acquire) {
        violation(&NMR_NOT_DEREGISTERED, api, "");
        return STATUS_INVALID_PARAMETER;
    }
    let of = |binding: &Arc<Binding>| {
        Arc::ptr_eq(&binding.client, &module) || Arc::ptr_eq(&binding.provider, &module)
    };
    let deadline = Instant::now() + hang_after();
    let mut registrar = lock(&REGISTRAR);
    loop {
        let left = registrar.bindings.iter().filter(|binding| of(binding)).count();
        let cleaning = CLEANING.with_lock(|list| list.iter().filter(|binding| of(binding)).count());
        if left + cleaning == 0 {
            break;
        }
        if Instant::now() > deadline {
            drop(registrar);
            violation(&NMR_BLOCKED, api, format!("{left} bindings are not detached"));
            return STATUS_TIMEOUT;
        }
        registrar = CHANGED.wait_timeout(registrar, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
    registrar.modules.retain(|other| !Arc::ptr_eq(other, &module));
    drop(registrar);
    untrack(side.kind(), module.handle);
    STATUS_SUCCESS
}

fn complete(api: &'static str, side: Side, handle: HANDLE) {
    irql::require_at_most(api, DISPATCH_LEVEL);
    let Some(binding) = binding(api, handle) else { return };
    let (known, done) = {
        let mut state = lock(&binding.state);
        let progress = side_of(&mut state, side);
        match progress {
            Detach::Pending => {
                *progress = Detach::Done;
                (true, true)
            }
            Detach::Calling { completed } if !*completed => {
                *completed = true;
                (true, false)
            }
            _ => (false, false),
        }
    };
    if !known {
        violation(&NMR_COMPLETE, api, format!("{handle:p}"));
    }
    if done {
        let raised = raised();
        clean_up(&binding);
        drop(raised);
    }
}

/// # Safety
/// As page "NmrRegisterClient" has it.
pub unsafe fn register_client(
    characteristics: *const NPI_CLIENT_CHARACTERISTICS,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    const API: &str = "NmrRegisterClient";
    irql::require_at_most(API, PASSIVE_LEVEL);
    if characteristics.is_null() || out.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; what the driver passed.
    let found = unsafe { &*characteristics };
    let instance = &found.ClientRegistrationInstance;
    let size = size_of::<NPI_CLIENT_CHARACTERISTICS>();
    if !check(API, found.Version, found.Length, size, instance) {
        return STATUS_INVALID_PARAMETER;
    }
    register(API, Side::Client, characteristics.expose_provenance(), instance, context, out)
}

/// # Safety
/// As page "NmrRegisterProvider" has it.
pub unsafe fn register_provider(
    characteristics: *const NPI_PROVIDER_CHARACTERISTICS,
    context: PVOID,
    out: *mut HANDLE,
) -> NTSTATUS {
    const API: &str = "NmrRegisterProvider";
    irql::require_at_most(API, PASSIVE_LEVEL);
    if characteristics.is_null() || out.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; what the driver passed.
    let found = unsafe { &*characteristics };
    let instance = &found.ProviderRegistrationInstance;
    let size = size_of::<NPI_PROVIDER_CHARACTERISTICS>();
    if !check(API, found.Version, found.Length, size, instance) {
        return STATUS_INVALID_PARAMETER;
    }
    register(API, Side::Provider, characteristics.expose_provenance(), instance, context, out)
}

pub fn deregister_client(handle: HANDLE) -> NTSTATUS {
    deregister("NmrDeregisterClient", Side::Client, handle)
}

pub fn deregister_provider(handle: HANDLE) -> NTSTATUS {
    deregister("NmrDeregisterProvider", Side::Provider, handle)
}

pub fn wait_client(handle: HANDLE) -> NTSTATUS {
    wait("NmrWaitForClientDeregisterComplete", Side::Client, handle)
}

pub fn wait_provider(handle: HANDLE) -> NTSTATUS {
    wait("NmrWaitForProviderDeregisterComplete", Side::Provider, handle)
}

pub fn client_detached(handle: HANDLE) {
    complete("NmrClientDetachProviderComplete", Side::Client, handle);
}

pub fn provider_detached(handle: HANDLE) {
    complete("NmrProviderDetachClientComplete", Side::Provider, handle);
}

/// # Safety
/// As page "NmrClientAttachProvider" has it.
pub unsafe fn client_attach(
    handle: HANDLE,
    client_context: PVOID,
    client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    const API: &str = "NmrClientAttachProvider";
    irql::require_at_most(API, PASSIVE_LEVEL);
    let Some(binding) = binding(API, handle) else { return STATUS_INVALID_PARAMETER };
    if provider_context.is_null() || provider_dispatch.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    {
        let mut state = lock(&binding.state);
        if state.phase != Phase::Offered || state.attached.is_some() {
            drop(state);
            violation(&NMR_ATTACH_TWICE, API, format!("{handle:p}"));
            return STATUS_INVALID_DEVICE_STATE;
        }
        // Taken: a second call is refused while the first runs.
        state.attached = Some(STATUS_PENDING);
        state.client_context = client_context.expose_provenance();
    }
    let (mut context, mut dispatch) = (null_mut(), null());
    let status = if fault::fail(API) {
        STATUS_INSUFFICIENT_RESOURCES
    } else {
        binding.provider.provider().ProviderAttachClient.map_or(STATUS_NOINTERFACE, |attach| {
            // SAFETY: the provider's callback, with its context and the client's registration.
            irql::same_irql("ProviderAttachClient", || unsafe {
                attach(
                    handle,
                    with_exposed_provenance_mut(binding.provider.context),
                    binding.client.instance(),
                    client_context,
                    client_dispatch,
                    &raw mut context,
                    &raw mut dispatch,
                )
            })
        })
    };
    {
        let mut state = lock(&binding.state);
        state.attached = Some(status);
        state.provider_context = context.expose_provenance();
    }
    if status == STATUS_SUCCESS {
        if dispatch.is_null() {
            violation(&NMR_NULL_DISPATCH, API, "the dispatch table is NULL");
        }
        // SAFETY: not NULL; what the client passed.
        unsafe { *provider_context = context };
        // SAFETY: the same.
        unsafe { *provider_dispatch = dispatch };
    }
    status
}

#[cfg(test)]
mod tests;
