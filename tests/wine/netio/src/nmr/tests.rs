//! The registrar's promises, with a client of the tests' and the scripted provider.

use super::scripted::{self, Behaviour, Counts};
use super::*;
use crate::report;
use crate::sys::module::{
    EXTENSION_CONNECTION, EXTENSION_MODULE_CLIENT_DISPATCH, EXTENSION_MODULE_PROVIDER_DISPATCH,
};
use crate::sys::nmr::{MIT_GUID, NPI_MODULEID, NPI_MODULEID_u};
use std::boxed::Box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A client that counts, in its context.
#[derive(Default)]
struct Seen {
    attached: AtomicUsize,
    detached: AtomicUsize,
    cleaned: AtomicUsize,
    provider_dispatch: AtomicUsize,
    provider_context: AtomicUsize,
    /// DetachComplete, and the callback "state".
    completed: AtomicUsize,
    states: AtomicUsize,
    /// The detach is answered with STATUS_PENDING, of this binding.
    pends: bool,
    binding: AtomicUsize,
}

impl Seen {
    fn counts(&self) -> (usize, usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (read(&self.attached), read(&self.detached), read(&self.cleaned))
    }
}

struct Client {
    characteristics: NPI_CLIENT_CHARACTERISTICS,
    module_id: NPI_MODULEID,
    npi: GUID,
    seen: Seen,
}

static TABLE: EXTENSION_MODULE_CLIENT_DISPATCH =
    EXTENSION_MODULE_CLIENT_DISPATCH { Size: 16, Version: 1, Reserved: 0, DetachComplete: detach_complete };

/// The connections' contexts are the client's, in these tests.
unsafe extern "system" fn detach_complete(context: PVOID) {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    seen.completed.fetch_add(1, Ordering::SeqCst);
}

unsafe extern "system" fn attach(
    handle: HANDLE,
    context: PVOID,
    provider: *const NPI_REGISTRATION_INSTANCE,
) -> NTSTATUS {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    assert!(!provider.is_null());
    let (mut theirs, mut dispatch) = (null_mut(), null());
    let own = &raw const TABLE;
    // SAFETY: a context and a table that stay; variables of this call.
    let status =
        unsafe { NmrClientAttachProvider(handle, context, own.cast(), &raw mut theirs, &raw mut dispatch) };
    seen.provider_context.store(theirs.expose_provenance(), Ordering::SeqCst);
    if status == STATUS_SUCCESS {
        seen.attached.fetch_add(1, Ordering::SeqCst);
        seen.provider_dispatch.store(dispatch.expose_provenance(), Ordering::SeqCst);
        seen.binding.store(handle.addr(), Ordering::SeqCst);
    }
    status
}

unsafe extern "system" fn detach(context: PVOID) -> NTSTATUS {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    seen.detached.fetch_add(1, Ordering::SeqCst);
    if seen.pends { STATUS_PENDING } else { STATUS_SUCCESS }
}

unsafe extern "system" fn cleanup(context: PVOID) {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    seen.cleaned.fetch_add(1, Ordering::SeqCst);
}

fn counted(attached: u32, detached: u32, cleaned: u32) -> Counts {
    Counts { attached, detached, cleaned, ..Counts::default() }
}

fn npi(last: u8) -> GUID {
    GUID { Data1: 1, Data2: 2, Data3: 3, Data4: [0, 0, 0, 0, 0, 0, 0, last] }
}

/// A client that is never freed.
fn client(npi: GUID, pends: bool) -> &'static mut Client {
    let guid = NPI_MODULEID_u { Guid: npi };
    let client = Box::leak(Box::new(Client {
        characteristics: NPI_CLIENT_CHARACTERISTICS {
            Version: 0,
            Length: 72,
            ClientAttachProvider: Some(attach),
            ClientDetachProvider: Some(detach),
            ClientCleanupBindingContext: Some(cleanup),
            ClientRegistrationInstance: NPI_REGISTRATION_INSTANCE {
                Version: 0,
                Size: 40,
                NpiId: null(),
                ModuleId: null(),
                Number: 0,
                NpiSpecificCharacteristics: null(),
            },
        },
        module_id: NPI_MODULEID { Length: 24, Type: MIT_GUID, u: guid },
        npi,
        seen: Seen { pends, ..Seen::default() },
    }));
    client.characteristics.ClientRegistrationInstance.NpiId = &raw const client.npi;
    client.characteristics.ClientRegistrationInstance.ModuleId = &raw const client.module_id;
    client
}

fn register(client: &Client) -> HANDLE {
    let mut handle = null_mut();
    let context = (&raw const client.seen).cast_mut().cast();
    let characteristics = &raw const client.characteristics;
    // SAFETY: never freed.
    let status = unsafe { NmrRegisterClient(characteristics, context, &raw mut handle) };
    assert_eq!(status, STATUS_SUCCESS);
    handle
}

#[test]
fn a_client_attaches_whichever_comes_first_and_is_detached_and_cleaned_up_once() {
    for provider_first in [true, false] {
        let npi = npi(1);
        if provider_first {
            assert!(scripted::add(npi, "", false, Behaviour::default()).is_some());
        }
        let client = client(npi, false);
        let handle = register(client);
        if !provider_first {
            assert_eq!(client.seen.counts(), (0, 0, 0));
            assert!(scripted::add(npi, "", false, Behaviour::default()).is_some());
        }
        assert_eq!(client.seen.counts(), (1, 0, 0));
        assert_ne!(client.seen.provider_dispatch.load(Ordering::SeqCst), 0);
        assert_eq!(scripted::counts(&npi, ""), Some(counted(1, 0, 0)));
        assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
        assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
        assert_eq!(client.seen.counts(), (1, 1, 1));
        let seen = scripted::remove(&npi, "").unwrap().finish();
        assert_eq!(seen, counted(1, 1, 1));
    }
}

#[test]
fn nobody_is_cleaned_up_before_both_sides_have_detached() {
    let npi = npi(2);
    assert!(scripted::add(npi, "", true, Behaviour::default()).is_some());
    let client = client(npi, true);
    let handle = register(client);
    let leaving = scripted::remove(&npi, "").unwrap();
    assert_eq!(client.seen.counts(), (1, 1, 0));
    assert_eq!(leaving.complete(), 1);
    assert_eq!(client.seen.counts(), (1, 1, 0), "the client has not detached yet");
    let binding = client.seen.binding.load(Ordering::SeqCst);
    let waiter = thread::spawn(move || leaving.finish());
    thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished(), "deregistration waits for both sides");
    NmrClientDetachProviderComplete(super::pointer(binding));
    assert_eq!(waiter.join().unwrap(), counted(1, 1, 1));
    assert_eq!(client.seen.counts(), (1, 1, 1));
    assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
}

#[test]
fn another_interface_is_not_offered() {
    assert!(scripted::add(npi(3), "", false, Behaviour::default()).is_some());
    let client = client(npi(4), false);
    let handle = register(client);
    assert_eq!(client.seen.counts(), (0, 0, 0));
    NmrDeregisterClient(handle);
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
    scripted::remove(&npi(3), "").unwrap().finish();
}

#[test]
fn misuse_is_refused_and_reported() {
    let client = client(npi(5), false);
    let handle = register(client);
    let (before, _) = report::violations();
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_INVALID_PARAMETER);
    assert_eq!(NmrDeregisterProvider(handle), STATUS_INVALID_PARAMETER, "a handle of the other side");
    assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
    assert_eq!(NmrDeregisterClient(handle), STATUS_INVALID_PARAMETER, "twice");
    client.characteristics.Length = 8;
    let mut other = null_mut();
    let characteristics = &raw const client.characteristics;
    // SAFETY: never freed.
    let status = unsafe { NmrRegisterClient(characteristics, null_mut(), &raw mut other) };
    assert_eq!(status, STATUS_INVALID_PARAMETER);
    let (after, _) = report::violations();
    assert!(after >= before + 4, "{before} {after}");
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
}

/// A client's callbacks of `connection_v1`, which count in the client's context: any but the sample's.
#[repr(C)]
struct Callbacks {
    size: u16,
    version: u16,
    reserved: u32,
    state: unsafe extern "system" fn(PVOID, u32, u32),
    others: [usize; 3],
}

static CALLBACKS: Callbacks =
    Callbacks { size: 40, version: 1, reserved: 0, state: state_changed, others: [0; 3] };

unsafe extern "system" fn state_changed(context: PVOID, _state: u32, _reason: u32) {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    seen.states.fetch_add(1, Ordering::SeqCst);
}

/// The event "state" alone.
const STATE: u32 = 1;

const ABOUT: EXTENSION_CONNECTION = EXTENSION_CONNECTION {
    Size: 64,
    Version: 1,
    Kind: 1,
    Session: 7,
    EventMask: STATE,
    Family: 2,
    LocalPort: 1,
    RemotePort: 2,
    Reserved: 0,
    Reserved2: 0,
    LocalAddress: [0; 16],
    RemoteAddress: [0; 16],
};

impl Client {
    fn module(&self) -> &'static EXTENSION_MODULE_PROVIDER_DISPATCH {
        let table = self.seen.provider_dispatch.load(Ordering::SeqCst);
        // SAFETY: one of the scripted module's tables.
        unsafe { &*core::ptr::with_exposed_provenance(table) }
    }

    /// AttachConnection: its status, context and table.
    fn offer(&self, about: &EXTENSION_CONNECTION) -> (NTSTATUS, PVOID, *const c_void) {
        let (mut context, mut table) = (null_mut(), null());
        let own = (&raw const self.seen).cast_mut().cast();
        let binding =
            core::ptr::with_exposed_provenance_mut(self.seen.provider_context.load(Ordering::SeqCst));
        let function = self.module().AttachConnection.unwrap();
        let callbacks = (&raw const CALLBACKS).cast();
        // SAFETY: contexts and tables that stay; variables of this call.
        let status = unsafe { function(binding, about, own, callbacks, &raw mut context, &raw mut table) };
        (status, context, table)
    }

    fn release(&self, context: PVOID) -> NTSTATUS {
        let function = self.module().DetachConnection.unwrap();
        // SAFETY: what was attached, or is to be reported.
        unsafe { function(context) }
    }

    fn finish(&self, handle: HANDLE) {
        assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
        assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
        assert_eq!(self.seen.counts(), (1, 1, 1));
    }
}

fn added(npi: GUID, behaviour: Behaviour) {
    assert!(scripted::add(npi, "", false, behaviour).is_some());
}

#[test]
fn a_socket_is_taken_on_called_back_from_within_and_let_go() {
    let npi = npi(6);
    added(npi, Behaviour { inline: 3, ..Behaviour::default() });
    let client = client(npi, false);
    let handle = register(client);
    let (status, context, table) = client.offer(&ABOUT);
    assert_eq!(status, STATUS_SUCCESS);
    assert!(!context.is_null() && !table.is_null());
    // There is one change of state to tell of.
    assert_eq!(client.seen.states.load(Ordering::SeqCst), 1);
    let seen = scripted::connections(&npi, "").unwrap();
    assert_eq!((seen.len(), seen[0].about, seen[0].detached), (1, ABOUT, false));
    assert_eq!(client.release(context), STATUS_SUCCESS);
    assert!(scripted::connections(&npi, "").unwrap()[0].detached);
    client.finish(handle);
    let counts = scripted::remove(&npi, "").unwrap().finish();
    let expected = Counts { asked: 1, granted: 1, released: 1, callbacks: 1, ..counted(1, 1, 1) };
    assert_eq!(counts, expected);
}

#[test]
fn a_socket_is_refused_or_lied_to_as_the_script_says() {
    let npi = npi(7);
    added(npi, Behaviour { answer: "0x103".parse().unwrap(), ..Behaviour::default() });
    let client = client(npi, false);
    let handle = register(client);
    assert_eq!(client.offer(&ABOUT).0, 0x103);
    for (answer, null) in [("null", true), ("short", false), ("old", false), ("misaligned", false)] {
        let behaviour = Behaviour { answer: answer.parse().unwrap(), ..Behaviour::default() };
        assert!(scripted::set_behaviour(&npi, "", behaviour));
        let (status, context, table) = client.offer(&ABOUT);
        assert_eq!((status, table.is_null()), (STATUS_SUCCESS, null), "{answer}");
        assert_eq!(client.release(context), STATUS_SUCCESS);
    }
    client.finish(handle);
    let counts = scripted::remove(&npi, "").unwrap().finish();
    assert_eq!(counts, Counts { asked: 5, refused: 1, lied: 4, released: 4, ..counted(1, 1, 1) });
}

#[test]
fn letting_go_pends_and_completes_and_late_calls_are_made() {
    let npi = npi(8);
    added(npi, Behaviour { detach_after: Some(20), late: 2, ..Behaviour::default() });
    let client = client(npi, false);
    let handle = register(client);
    let (_, context, _) = client.offer(&ABOUT);
    assert_eq!(client.release(context), STATUS_PENDING);
    assert_eq!(client.seen.completed.load(Ordering::SeqCst), 0);
    while client.seen.completed.load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    client.finish(handle);
    let counts = scripted::remove(&npi, "").unwrap().finish();
    // One change of state to tell of, and it was told late.
    assert_eq!((counts.pended, counts.completed, counts.late, counts.callbacks), (1, 1, 1, 0));
}

#[test]
fn the_registrars_detach_ends_connections_and_later_calls_are_reported() {
    let npi = npi(9);
    added(npi, Behaviour::default());
    let client = client(npi, false);
    let handle = register(client);
    let (_, context, _) = client.offer(&ABOUT);
    let (before, _) = report::violations();
    assert_eq!(client.offer(&EXTENSION_CONNECTION { Size: 8, ..ABOUT }).0, STATUS_INVALID_PARAMETER);
    assert_eq!(client.offer(&EXTENSION_CONNECTION { Kind: 0, ..ABOUT }).0, STATUS_INVALID_PARAMETER);
    client.finish(handle);
    assert_eq!(client.release(context), STATUS_INVALID_DEVICE_STATE, "it has ended");
    let (after, _) = report::violations();
    assert!(after >= before + 3, "{before} {after}");
    let counts = scripted::remove(&npi, "").unwrap().finish();
    assert_eq!((counts.ended, counts.released), (1, 0));
}

#[test]
fn several_modules_of_an_interface_have_names_and_identifiers_of_their_own() {
    let npi = npi(10);
    let first = scripted::add(npi, "a", false, Behaviour::default());
    let second = scripted::add(npi, "b", false, Behaviour::default());
    assert!(first.is_some() && second.is_some() && first != second);
    assert_eq!(scripted::add(npi, "b", false, Behaviour::default()), None);
    for name in ["a", "b"] {
        assert_eq!(scripted::remove(&npi, name).unwrap().finish(), Counts::default());
    }
}
