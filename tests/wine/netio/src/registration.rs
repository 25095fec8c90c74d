//! Registration with the WSK subsystem, and capture of its provider.
//!
//! Pages "Registering a Winsock Kernel Application", "Unregistering a Winsock Kernel Application",
//! "WskCaptureProviderNPI", "WskDeregister".

use crate::machine::{self, CHANGED};
use crate::provider;
use crate::report::violation;
use crate::request::{self, Ticket};
use crate::security::Cached;
use crate::sync::Mutex;
use crate::sys::nt::{
    NTSTATUS, STATUS_DEVICE_NOT_READY, STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    PWSK_CLIENT, WSK_CLIENT_NPI, WSK_INFINITE_WAIT, WSK_NO_WAIT, WSK_PROVIDER_CHARACTERISTICS,
    WSK_PROVIDER_NPI, WSK_REGISTRATION,
};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use wine_support::log;
use wine_support::time::Instant;

/// The version of the provider, and the only one that clients may ask for.
pub const VERSION: u16 = 0x0100;

/// How often a wait looks again although nobody woke it.
const LOOK: Duration = Duration::from_millis(100);

/// A registered client.
pub struct Client {
    pub id: u64,
    version: u16,
    state: Mutex<State>,
}

/// What holds a deregistration up, and what the client has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub captures: u32,
    pub calls: u32,
    pub sockets: u32,
    pub irps: u32,
}

#[derive(Default)]
struct State {
    held: Held,
    deregistering: bool,
    had_sockets: bool,
    static_events: u32,
    kept: Vec<Arc<Ticket>>,
    cached: Vec<Cached>,
}

/// Clients by the address of their registration.
static REGISTRATIONS: Mutex<BTreeMap<usize, Arc<Client>>> = Mutex::new(BTreeMap::new());
/// What deregistrations found in their way, in words.
static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Client {
    /// The handle that the client passes to the provider's functions.
    fn handle(self: &Arc<Self>) -> PWSK_CLIENT {
        Arc::as_ptr(self).cast_mut().cast()
    }

    pub fn held(&self) -> Held {
        self.state.lock().held
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let wake = {
            let mut state = self.state.lock();
            change(&mut state.held);
            state.deregistering
        };
        if wake {
            machine::changed();
        }
    }

    /// A function of the provider's table is called; `false` if the provider is not captured.
    pub fn call_begins(&self) -> bool {
        let mut state = self.state.lock();
        state.held.calls += 1;
        state.held.captures > 0
    }

    pub fn call_ends(&self) {
        self.change(|held| held.calls -= 1);
    }

    pub fn socket_opens(&self) {
        let mut state = self.state.lock();
        state.had_sockets = true;
        state.held.sockets += 1;
    }

    pub fn socket_closes(&self) {
        self.change(|held| held.sockets -= 1);
    }

    pub fn irp_begins(&self) {
        self.change(|held| held.irps += 1);
    }

    pub fn irp_ends(&self) {
        self.change(|held| held.irps -= 1);
    }

    pub fn static_events(&self) -> u32 {
        self.state.lock().static_events
    }

    /// Page "WSK_SET_STATIC_EVENT_CALLBACKS": before any socket. False if it is too late.
    pub fn set_static_events(&self, mask: u32) -> bool {
        let mut state = self.state.lock();
        if !state.had_sockets {
            state.static_events |= mask;
        }
        !state.had_sockets
    }

    pub fn had_sockets(&self) -> bool {
        self.state.lock().had_sockets
    }

    pub fn cache(&self, descriptor: Cached) {
        self.state.lock().cached.push(descriptor);
    }

    /// Forgets a cached security descriptor; false if it is none.
    pub fn uncache(&self, address: usize) -> bool {
        let cached = &mut self.state.lock().cached;
        let index = cached.iter().position(|descriptor| descriptor.address() == address);
        index.map(|index| cached.swap_remove(index)).is_some()
    }

    pub fn has_cached(&self, address: usize) -> bool {
        self.state.lock().cached.iter().any(|descriptor| descriptor.address() == address)
    }

    /// How many security descriptors it has cached.
    pub fn cached(&self) -> usize {
        self.state.lock().cached.len()
    }

    /// Keeps a request that nothing but a cancellation ends (WSK_TRANSPORT_LIST_CHANGE), which WskDeregister cancels.
    pub fn keep(&self, ticket: Arc<Ticket>) {
        let mut state = self.state.lock();
        state.kept.retain(|ticket| !ticket.is_taken());
        state.kept.push(ticket);
    }
}

fn find(registration: *mut WSK_REGISTRATION, api: &str) -> Option<Arc<Client>> {
    let found = REGISTRATIONS.lock().get(&registration.addr()).cloned();
    if found.is_none() {
        violation!(api, "{registration:p} is not registered");
    }
    found
}

/// The client behind a handle.
pub fn client(handle: PWSK_CLIENT) -> Option<Arc<Client>> {
    REGISTRATIONS.lock().values().find(|client| client.handle() == handle).cloned()
}

/// Every registered client.
pub fn clients() -> Vec<Arc<Client>> {
    REGISTRATIONS.lock().values().cloned().collect()
}

/// What deregistrations found in their way.
pub fn leaks() -> Vec<String> {
    LEAKS.lock().clone()
}

/// Page "WskRegister".
///
/// # Safety
/// Both point to structures of their type, or are NULL; the registration stays where it is until [`WskDeregister`].
#[unsafe(no_mangle)]
pub unsafe extern "system" fn WskRegister(
    npi: *mut WSK_CLIENT_NPI,
    registration: *mut WSK_REGISTRATION,
) -> NTSTATUS {
    const API: &str = "WskRegister";
    if !machine::is_sound() {
        return STATUS_INVALID_PARAMETER;
    }
    if npi.is_null() || registration.is_null() {
        violation!(API, "NULL");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; the client's structure.
    let dispatch = unsafe { (*npi).Dispatch };
    if dispatch.is_null() {
        violation!(API, "the client's dispatch table is NULL");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; the client's table.
    let version = unsafe { (*dispatch).Version };
    let client = Arc::new(Client { id: machine::next_id(), version, state: Mutex::default() });
    // SAFETY: not NULL; the registration object is the subsystem's to use.
    unsafe { (*registration).ReservedRegistrationContext = client.handle().cast() };
    let before = REGISTRATIONS.lock().insert(registration.addr(), client);
    if let Some(before) = before {
        violation!(API, "{registration:p} is registered already, as client {}", before.id);
    }
    STATUS_SUCCESS
}

/// Page "WskCaptureProviderNPI".
///
/// # Safety
/// The NPI is writable or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn WskCaptureProviderNPI(
    registration: *mut WSK_REGISTRATION,
    timeout: u32,
    npi: *mut WSK_PROVIDER_NPI,
) -> NTSTATUS {
    const API: &str = "WskCaptureProviderNPI";
    let Some(client) = find(registration, API) else { return STATUS_INVALID_PARAMETER };
    if npi.is_null() {
        violation!(API, "the output is NULL");
        return STATUS_INVALID_PARAMETER;
    }
    let deadline =
        (timeout != WSK_INFINITE_WAIT).then(|| Instant::now() + Duration::from_millis(timeout.into()));
    let mut waits = CHANGED.0.lock();
    loop {
        {
            let mut state = client.state.lock();
            if state.deregistering {
                return STATUS_DEVICE_NOT_READY;
            }
            if machine::is_ready() {
                if client.version != VERSION {
                    return STATUS_NOINTERFACE;
                }
                state.held.captures += 1;
                break;
            }
        }
        let now = Instant::now();
        if timeout == WSK_NO_WAIT || deadline.is_some_and(|deadline| now >= deadline) {
            return STATUS_DEVICE_NOT_READY;
        }
        let left = deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(now));
        waits = CHANGED.1.wait_timeout(waits, left.min(LOOK));
    }
    drop(waits);
    let captured = WSK_PROVIDER_NPI { Client: client.handle(), Dispatch: provider::dispatch() };
    // SAFETY: not NULL; the client's variable.
    unsafe { npi.write(captured) };
    STATUS_SUCCESS
}

/// Page "WskReleaseProviderNPI".
#[unsafe(no_mangle)]
pub extern "system" fn WskReleaseProviderNPI(registration: *mut WSK_REGISTRATION) {
    const API: &str = "WskReleaseProviderNPI";
    let Some(client) = find(registration, API) else { return };
    if client.held().captures == 0 {
        violation!(API, "the provider is not captured");
        return;
    }
    client.change(|held| held.captures -= 1);
}

/// Page "WskQueryProviderCharacteristics".
///
/// # Safety
/// The characteristics are writable or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn WskQueryProviderCharacteristics(
    registration: *mut WSK_REGISTRATION,
    characteristics: *mut WSK_PROVIDER_CHARACTERISTICS,
) -> NTSTATUS {
    const API: &str = "WskQueryProviderCharacteristics";
    if find(registration, API).is_none() || characteristics.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    if !machine::is_ready() {
        return STATUS_DEVICE_NOT_READY;
    }
    let found = WSK_PROVIDER_CHARACTERISTICS { HighestVersion: VERSION, LowestVersion: VERSION };
    // SAFETY: not NULL; the client's variable.
    unsafe { characteristics.write(found) };
    STATUS_SUCCESS
}

/// Page "WskDeregister": waits until every capture is released, every call has returned, every socket is closed and
/// every IRP completed. What holds it up for too long is reported, and waited for all the same.
#[unsafe(no_mangle)]
pub extern "system" fn WskDeregister(registration: *mut WSK_REGISTRATION) {
    const API: &str = "WskDeregister";
    let Some(client) = find(registration, API) else { return };
    let kept = {
        let mut state = client.state.lock();
        if core::mem::replace(&mut state.deregistering, true) {
            drop(state);
            violation!(API, "client {} is being deregistered already", client.id);
            return;
        }
        core::mem::take(&mut state.kept)
    };
    for ticket in kept {
        ticket.complete(crate::sys::nt::STATUS_CANCELLED, 0);
    }
    // Those who wait to capture are told that there is nothing to wait for.
    machine::changed();
    let patience = Duration::from_millis(machine::config().patience);
    let begun = Instant::now();
    let mut told = false;
    let mut waits = CHANGED.0.lock();
    while client.held() != Held::default() {
        if !told && begun.elapsed() >= patience {
            told = true;
            let held = client.held();
            let words = format!(
                "client {} is held up by {} captures, {} calls, {} sockets, {} IRPs:{}",
                client.id,
                held.captures,
                held.calls,
                held.sockets,
                held.irps,
                request::words()
            );
            log!("VIOLATION: {API}: {words}");
            LEAKS.lock().push(words);
        }
        waits = CHANGED.1.wait_timeout(waits, LOOK);
    }
    drop(waits);
    if client.cached() != 0 {
        let words = format!("client {} has not released {} security descriptors", client.id, client.cached());
        log!("VIOLATION: {API}: {words}");
        LEAKS.lock().push(words);
    }
    REGISTRATIONS.lock().remove(&registration.addr());
    log!("client {} is deregistered", client.id);
}
