//! The registrar's promises, with a client of the tests' and the scripted provider.

use super::scripted::{self, Counts};
use super::*;
use crate::report;
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

unsafe extern "system" fn attach(
    handle: HANDLE,
    context: PVOID,
    provider: *const NPI_REGISTRATION_INSTANCE,
) -> NTSTATUS {
    // SAFETY: the client's context.
    let seen = unsafe { &*context.cast::<Seen>() };
    assert!(!provider.is_null());
    let (mut theirs, mut dispatch) = (null_mut(), null());
    let own: *const u32 = &0;
    // SAFETY: a context and a table that stay; variables of this call.
    let status =
        unsafe { NmrClientAttachProvider(handle, context, own.cast(), &raw mut theirs, &raw mut dispatch) };
    if status == STATUS_SUCCESS {
        seen.attached.fetch_add(1, Ordering::SeqCst);
        seen.provider_dispatch.store(dispatch.addr(), Ordering::SeqCst);
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
            assert!(scripted::add(npi, false));
        }
        let client = client(npi, false);
        let handle = register(client);
        if !provider_first {
            assert_eq!(client.seen.counts(), (0, 0, 0));
            assert!(scripted::add(npi, false));
        }
        assert_eq!(client.seen.counts(), (1, 0, 0));
        assert_ne!(client.seen.provider_dispatch.load(Ordering::SeqCst), 0);
        assert_eq!(scripted::counts(&npi), Some(Counts { attached: 1, detached: 0, cleaned: 0 }));
        assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
        assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
        assert_eq!(client.seen.counts(), (1, 1, 1));
        let seen = scripted::remove(&npi).unwrap().finish();
        assert_eq!(seen, Counts { attached: 1, detached: 1, cleaned: 1 });
    }
}

#[test]
fn nobody_is_cleaned_up_before_both_sides_have_detached() {
    let npi = npi(2);
    assert!(scripted::add(npi, true));
    let client = client(npi, true);
    let handle = register(client);
    let leaving = scripted::remove(&npi).unwrap();
    assert_eq!(client.seen.counts(), (1, 1, 0));
    assert_eq!(leaving.complete(), 1);
    assert_eq!(client.seen.counts(), (1, 1, 0), "the client has not detached yet");
    let binding = client.seen.binding.load(Ordering::SeqCst);
    let waiter = thread::spawn(move || leaving.finish());
    thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished(), "deregistration waits for both sides");
    NmrClientDetachProviderComplete(super::pointer(binding));
    assert_eq!(waiter.join().unwrap(), Counts { attached: 1, detached: 1, cleaned: 1 });
    assert_eq!(client.seen.counts(), (1, 1, 1));
    assert_eq!(NmrDeregisterClient(handle), STATUS_PENDING);
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
}

#[test]
fn another_interface_is_not_offered() {
    assert!(scripted::add(npi(3), false));
    let client = client(npi(4), false);
    let handle = register(client);
    assert_eq!(client.seen.counts(), (0, 0, 0));
    NmrDeregisterClient(handle);
    assert_eq!(NmrWaitForClientDeregisterComplete(handle), STATUS_SUCCESS);
    scripted::remove(&npi(3)).unwrap().finish();
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
