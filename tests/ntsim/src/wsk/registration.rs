//! Registration as a WSK client: the five exports of netio.sys, and the client object.

use super::address::family_of;
use super::request::Ticket;
use super::{Subsystem, current, rules};
use crate::sys::nt::{
    DISPATCH_LEVEL, NTSTATUS, PASSIVE_LEVEL, STATUS_DEVICE_NOT_READY, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    WSK_CLIENT_NPI, WSK_INFINITE_WAIT, WSK_NO_WAIT, WSK_PROVIDER_CHARACTERISTICS, WSK_PROVIDER_NPI,
    WSK_REGISTRATION,
};
use crate::verify::{lock, track, untrack, violation};
use crate::{boot, clock, fault, irql};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a verifier's leak calls a registration and a cached security descriptor.
pub const KIND: &str = "WSK registration";
pub const SECURITY_KIND: &str = "WSK cached security descriptor";

/// How often a wait looks whether it may end when nothing tells it.
const LOOK: Duration = Duration::from_millis(1);

/// The client object: one registration's attachment to the subsystem.
pub struct Client {
    pub id: u64,
    registration: usize,
    version: u16,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    deregistered: bool,
    captures: usize,
    /// Functions of WSK_PROVIDER_DISPATCH that are in progress.
    calls: usize,
    irps: usize,
    sockets: usize,
    had_sockets: bool,
    static_events: u32,
    list_changes: Vec<Arc<Ticket>>,
    security: HashMap<usize, Security>,
}

/// A cached security descriptor.
struct Security {
    bytes: Arc<[u8]>,
    /// Requests that use it and are not completed.
    uses: usize,
}

impl Client {
    pub fn irp_begins(&self) {
        lock(&self.state).irps += 1;
    }

    pub fn irp_ends(&self) {
        lock(&self.state).irps -= 1;
        self.changed.notify_all();
    }

    pub fn socket_opens(&self) {
        let mut state = lock(&self.state);
        state.sockets += 1;
        state.had_sockets = true;
    }

    pub fn socket_closes(&self) {
        lock(&self.state).sockets -= 1;
        self.changed.notify_all();
    }

    /// A call of the provider dispatch begins; false without a captured NPI.
    pub fn call_begins(&self) -> bool {
        let mut state = lock(&self.state);
        state.calls += 1;
        state.captures > 0
    }

    pub fn call_ends(&self) {
        lock(&self.state).calls -= 1;
        self.changed.notify_all();
    }

    pub fn had_sockets(&self) -> bool {
        lock(&self.state).had_sockets
    }

    pub fn static_events(&self) -> u32 {
        lock(&self.state).static_events
    }

    pub fn set_static_events(&self, mask: u32) {
        lock(&self.state).static_events |= mask;
    }

    pub fn add_list_change(&self, ticket: Arc<Ticket>) {
        lock(&self.state).list_changes.push(ticket);
    }

    pub fn take_list_changes(&self) -> Vec<Arc<Ticket>> {
        std::mem::take(&mut lock(&self.state).list_changes)
    }

    /// Caches a self-relative descriptor: a copy of its own, whose address is returned.
    pub fn cache_security(&self, security: &[u8]) -> usize {
        let bytes: Arc<[u8]> = Arc::from(security);
        let address = bytes.as_ptr().expose_provenance();
        lock(&self.state).security.insert(address, Security { bytes, uses: 0 });
        track(SECURITY_KIND, address, 0);
        address
    }

    /// What a cached descriptor holds.
    pub fn security(&self, address: usize) -> Option<Arc<[u8]>> {
        lock(&self.state).security.get(&address).map(|security| Arc::clone(&security.bytes))
    }

    /// Counts a use of a cached descriptor; false if it is not one.
    pub fn use_security(&self, address: usize) -> bool {
        let mut state = lock(&self.state);
        let found = state.security.get_mut(&address);
        found.map(|security| security.uses += 1).is_some()
    }

    pub fn end_use_of_security(&self, address: usize) {
        if let Some(security) = lock(&self.state).security.get_mut(&address) {
            security.uses = security.uses.saturating_sub(1);
        }
    }

    /// Gives a cached descriptor back: `None` if it is not one, else whether nothing used it.
    pub fn release_security(&self, address: usize) -> Option<bool> {
        let released = lock(&self.state).security.remove(&address)?;
        untrack(SECURITY_KIND, address);
        Some(released.uses == 0)
    }

    /// Ends every wait for a provider that is not ready.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    fn left(state: &State) -> Option<String> {
        let idle = state.captures == 0 && state.calls == 0 && state.sockets == 0 && state.irps == 0;
        (!idle).then(|| {
            format!(
                "{} captures, {} calls, {} sockets and {} IRPs are left",
                state.captures, state.calls, state.sockets, state.irps
            )
        })
    }
}

/// Finds the client of a registration; a violation if there is none.
fn client_of(
    subsystem: &Subsystem,
    api: &'static str,
    registration: *mut WSK_REGISTRATION,
) -> Option<Arc<Client>> {
    let found = lock(&subsystem.registrations).get(&registration.addr()).cloned();
    if found.is_none() {
        let moved = !registration.is_null() && {
            // SAFETY: the driver says that this is its registration object.
            let id = unsafe { (*registration).ReservedRegistrationState };
            lock(&subsystem.registrations).values().any(|client| client.id == id)
        };
        let rule = if moved { &rules::REGISTRATION_MOVED } else { &rules::NOT_REGISTERED };
        violation(rule, api, format!("{registration:p}"));
    }
    found
}

/// WskRegister.
///
/// # Safety
/// As the page of the same name.
pub unsafe extern "system-unwind" fn register(
    client_npi: *const WSK_CLIENT_NPI,
    registration: *mut WSK_REGISTRATION,
) -> NTSTATUS {
    const API: &str = "WskRegister";
    irql::require_at_most(API, PASSIVE_LEVEL);
    let Some(subsystem) = current() else { return STATUS_DEVICE_NOT_READY };
    if client_npi.is_null() || registration.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: not NULL; what the driver passed.
    let dispatch = unsafe { (*client_npi).Dispatch };
    if dispatch.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the dispatch stays valid until WskDeregister.
    let version = unsafe { (*dispatch).Version };
    let client = Arc::new(Client {
        id: subsystem.next_id(),
        registration: registration.addr(),
        version,
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    {
        let mut registrations = lock(&subsystem.registrations);
        let in_use =
            registrations.get(&registration.addr()).is_some_and(|before| !lock(&before.state).deregistered);
        if in_use {
            drop(registrations);
            violation(&rules::REGISTERED_TWICE, API, format!("{registration:p}"));
            return STATUS_INVALID_PARAMETER;
        }
        registrations.insert(registration.addr(), Arc::clone(&client));
    }
    lock(&subsystem.clients).insert(Arc::as_ptr(&client).addr(), Arc::clone(&client));
    track(KIND, registration.addr(), 0);
    // SAFETY: not NULL; the driver's, non-paged and at rest until WskDeregister.
    let object = unsafe { &mut *registration };
    object.ReservedRegistrationState = client.id;
    object.ReservedRegistrationContext = Arc::as_ptr(&client).cast_mut().cast();
    object.ReservedRegistrationLock = 0;
    STATUS_SUCCESS
}

/// WskCaptureProviderNPI.
///
/// # Safety
/// As the page of the same name.
pub unsafe extern "system-unwind" fn capture(
    registration: *mut WSK_REGISTRATION,
    timeout: u32,
    npi: *mut WSK_PROVIDER_NPI,
) -> NTSTATUS {
    const API: &str = "WskCaptureProviderNPI";
    irql::require_at_most(API, if timeout == WSK_NO_WAIT { DISPATCH_LEVEL } else { PASSIVE_LEVEL });
    if timeout != WSK_NO_WAIT {
        super::require_no_callback(API);
    }
    let Some(subsystem) = current() else { return STATUS_DEVICE_NOT_READY };
    let Some(client) = client_of(&subsystem, API, registration) else { return STATUS_INVALID_PARAMETER };
    if npi.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let limit = Duration::from_millis(u64::from(timeout));
    let (began, virtual_began) = (Instant::now(), clock::now());
    let mut state = lock(&client.state);
    loop {
        if state.deregistered {
            return STATUS_DEVICE_NOT_READY;
        }
        if subsystem.is_ready() {
            break;
        }
        let waited = if clock::is_virtual() {
            clock::duration(clock::now().saturating_sub(virtual_began))
        } else {
            began.elapsed()
        };
        if timeout == WSK_NO_WAIT || (timeout != WSK_INFINITE_WAIT && waited >= limit) {
            return STATUS_DEVICE_NOT_READY;
        }
        state = client.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
    let (lowest, highest) = subsystem.config.versions;
    if !(lowest..=highest).contains(&client.version) {
        return STATUS_NOINTERFACE;
    }
    state.captures += 1;
    drop(state);
    // SAFETY: not NULL; what the driver passed.
    unsafe {
        *npi = WSK_PROVIDER_NPI {
            Client: Arc::as_ptr(&client).cast_mut().cast(),
            Dispatch: subsystem.provider_dispatch(),
        };
    }
    STATUS_SUCCESS
}

/// WskReleaseProviderNPI.
///
/// # Safety
/// As the page of the same name.
pub unsafe extern "system-unwind" fn release(registration: *mut WSK_REGISTRATION) {
    const API: &str = "WskReleaseProviderNPI";
    irql::require_at_most(API, DISPATCH_LEVEL);
    let Some(subsystem) = current() else { return };
    let Some(client) = client_of(&subsystem, API, registration) else { return };
    let captured = {
        let mut state = lock(&client.state);
        let captured = state.captures > 0;
        state.captures = state.captures.saturating_sub(1);
        captured
    };
    if !captured {
        violation(&rules::RELEASE_WITHOUT_CAPTURE, API, "no NPI is captured");
    }
    client.changed.notify_all();
}

/// WskQueryProviderCharacteristics.
///
/// # Safety
/// As the page of the same name.
pub unsafe extern "system-unwind" fn query_characteristics(
    registration: *mut WSK_REGISTRATION,
    out: *mut WSK_PROVIDER_CHARACTERISTICS,
) -> NTSTATUS {
    const API: &str = "WskQueryProviderCharacteristics";
    irql::require_at_most(API, DISPATCH_LEVEL);
    let Some(subsystem) = current() else { return STATUS_DEVICE_NOT_READY };
    if client_of(&subsystem, API, registration).is_none() || out.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if !subsystem.is_ready() {
        return STATUS_DEVICE_NOT_READY;
    }
    let (lowest, highest) = subsystem.config.versions;
    // SAFETY: not NULL; what the driver passed.
    unsafe { *out = WSK_PROVIDER_CHARACTERISTICS { HighestVersion: highest, LowestVersion: lowest } };
    STATUS_SUCCESS
}

/// WskDeregister: comes back when every capture is released, every call of the provider dispatch has returned, every
/// socket is closed and every IRP completed. One that takes longer than the machine's patience is reported, and comes
/// back with what is left.
///
/// # Safety
/// As the page of the same name.
pub unsafe extern "system-unwind" fn deregister(registration: *mut WSK_REGISTRATION) {
    const API: &str = "WskDeregister";
    irql::require_at_most(API, PASSIVE_LEVEL);
    super::require_no_callback(API);
    let Some(subsystem) = current() else { return };
    let Some(client) = client_of(&subsystem, API, registration) else { return };
    if std::mem::replace(&mut lock(&client.state).deregistered, true) {
        violation(&rules::NOT_REGISTERED, API, "deregistered before");
        return;
    }
    client.changed.notify_all();
    // Page "WSK_TRANSPORT_LIST_CHANGE": what is pending is cancelled.
    for ticket in client.take_list_changes() {
        ticket.complete(&subsystem, crate::sys::nt::STATUS_CANCELLED, 0);
    }
    let deadline = Instant::now() + boot::hang_after();
    let mut hung = None;
    let mut state = lock(&client.state);
    while let Some(left) = Client::left(&state) {
        if Instant::now() > deadline {
            hung = Some(left);
            break;
        }
        if subsystem.executor.is_manual() {
            drop(state);
            subsystem.executor.step();
            state = lock(&client.state);
        }
        state = client.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
    drop(state);
    if let Some(left) = hung {
        violation(&rules::DEREGISTER_BLOCKED, API, left);
    }
    untrack(KIND, client.registration);
    lock(&subsystem.clients).remove(&Arc::as_ptr(&client).addr());
    // The registration stays known: a capture after this is answered, not a violation.
}

/// The families that the provider has transports for.
pub fn supports(family: u16) -> bool {
    let v4 = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let v6 = std::net::SocketAddr::from(([0_u16; 8], 0));
    [v4, v6].into_iter().any(|address| family_of(address) == family)
}
