//! The Network Module Registrar: a client and a provider of an interface of their own.

use crate::checks::{Check, same};
use crate::sys::nmr::{
    MIT_GUID, NPI_CLIENT_CHARACTERISTICS, NPI_MODULEID, NPI_MODULEID_u, NPI_PROVIDER_CHARACTERISTICS,
    NPI_REGISTRATION_INSTANCE, NPIID,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS, PVOID, STATUS_PENDING, STATUS_SUCCESS};
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

#[link(name = "netio.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn NmrRegisterClient(
        characteristics: *const NPI_CLIENT_CHARACTERISTICS,
        context: PVOID,
        handle: *mut HANDLE,
    ) -> NTSTATUS;
    fn NmrRegisterProvider(
        characteristics: *const NPI_PROVIDER_CHARACTERISTICS,
        context: PVOID,
        handle: *mut HANDLE,
    ) -> NTSTATUS;
    fn NmrDeregisterClient(handle: HANDLE) -> NTSTATUS;
    fn NmrDeregisterProvider(handle: HANDLE) -> NTSTATUS;
    fn NmrWaitForClientDeregisterComplete(handle: HANDLE) -> NTSTATUS;
    fn NmrWaitForProviderDeregisterComplete(handle: HANDLE) -> NTSTATUS;
    fn NmrClientAttachProvider(
        binding: HANDLE,
        client_context: PVOID,
        client_dispatch: *const c_void,
        provider_context: *mut PVOID,
        provider_dispatch: *mut *const c_void,
    ) -> NTSTATUS;
    fn NmrClientDetachProviderComplete(binding: HANDLE);
}

static INTERFACE: NPIID = GUID { Data1: 0x5052_4F42, Data2: 1, Data3: 2, Data4: [3; 8] };
static MODULE: NPI_MODULEID = NPI_MODULEID {
    Length: 24,
    Type: MIT_GUID,
    u: NPI_MODULEID_u { Guid: GUID { Data1: 0x5052_4F42, Data2: 4, Data3: 5, Data4: [6; 8] } },
};

/// What each side's table and context is, and what was called, in its order: a decimal digit each.
static TABLE: u64 = 0x0123_4567_89AB_CDEF;
static CALLS: AtomicU32 = AtomicU32::new(0);
static BINDING: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

const CLIENT_ATTACH: u32 = 1;
const PROVIDER_ATTACH: u32 = 2;
const CLIENT_DETACH: u32 = 3;
const PROVIDER_DETACH: u32 = 4;
const CLIENT_CLEANUP: u32 = 5;
const PROVIDER_CLEANUP: u32 = 6;

fn note(call: u32) {
    let more = |calls: u32| Some(calls * 10 + call);
    let _before = CALLS.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
}

unsafe extern "system" fn client_attach(
    binding: HANDLE,
    context: PVOID,
    _provider: *const NPI_REGISTRATION_INSTANCE,
) -> NTSTATUS {
    note(CLIENT_ATTACH);
    BINDING.store(binding, Ordering::Release);
    let (mut theirs, mut table) = (null_mut(), null());
    // SAFETY: within this callback; the context and the table stay.
    let status = unsafe {
        NmrClientAttachProvider(binding, context, (&raw const TABLE).cast(), &raw mut theirs, &raw mut table)
    };
    assert!(status != STATUS_SUCCESS || table == (&raw const TABLE).cast(), "the provider's table");
    status
}

unsafe extern "system" fn client_detach(_context: PVOID) -> NTSTATUS {
    note(CLIENT_DETACH);
    STATUS_PENDING
}

unsafe extern "system" fn client_cleanup(_context: PVOID) {
    note(CLIENT_CLEANUP);
}

unsafe extern "system" fn provider_attach(
    _binding: HANDLE,
    context: PVOID,
    _client: *const NPI_REGISTRATION_INSTANCE,
    _client_context: PVOID,
    _client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    note(PROVIDER_ATTACH);
    // SAFETY: the registrar's variable.
    unsafe { provider_context.write(context) };
    // SAFETY: the same.
    unsafe { provider_dispatch.write((&raw const TABLE).cast()) };
    STATUS_SUCCESS
}

unsafe extern "system" fn provider_detach(_context: PVOID) -> NTSTATUS {
    note(PROVIDER_DETACH);
    STATUS_SUCCESS
}

unsafe extern "system" fn provider_cleanup(_context: PVOID) {
    note(PROVIDER_CLEANUP);
}

/// Attaching, detaching with one side pending, and cleaning up, in the documented order.
pub fn check() -> Check {
    let instance = NPI_REGISTRATION_INSTANCE {
        Version: 0,
        Size: 40,
        NpiId: &raw const INTERFACE,
        ModuleId: &raw const MODULE,
        Number: 0,
        NpiSpecificCharacteristics: null(),
    };
    let client = NPI_CLIENT_CHARACTERISTICS {
        Version: 0,
        Length: 72,
        ClientAttachProvider: Some(client_attach),
        ClientDetachProvider: Some(client_detach),
        ClientCleanupBindingContext: Some(client_cleanup),
        ClientRegistrationInstance: instance,
    };
    let provider = NPI_PROVIDER_CHARACTERISTICS {
        Version: 0,
        Length: 72,
        ProviderAttachClient: Some(provider_attach),
        ProviderDetachClient: Some(provider_detach),
        ProviderCleanupBindingContext: Some(provider_cleanup),
        ProviderRegistrationInstance: instance,
    };
    CALLS.store(0, Ordering::Release);
    let own: PVOID = (&raw const TABLE).cast_mut().cast();
    let (mut ours, mut theirs) = (null_mut(), null_mut());
    // SAFETY: the characteristics live until the deregistration below is over.
    let status = unsafe { NmrRegisterClient(&raw const client, own, &raw mut ours) };
    same("NmrRegisterClient", &status, &STATUS_SUCCESS)?;
    // SAFETY: the same.
    let status = unsafe { NmrRegisterProvider(&raw const provider, own, &raw mut theirs) };
    same("NmrRegisterProvider", &status, &STATUS_SUCCESS)?;
    same("attached", &CALLS.load(Ordering::Acquire), &12)?;
    // SAFETY: registered.
    let status = unsafe { NmrDeregisterProvider(theirs) };
    same("NmrDeregisterProvider", &status, &STATUS_PENDING)?;
    same("detached", &CALLS.load(Ordering::Acquire), &1234)?;
    // SAFETY: the client's detach is pending.
    unsafe { NmrClientDetachProviderComplete(BINDING.load(Ordering::Acquire)) };
    // SAFETY: being deregistered.
    let status = unsafe { NmrWaitForProviderDeregisterComplete(theirs) };
    same("NmrWaitForProviderDeregisterComplete", &status, &STATUS_SUCCESS)?;
    same("cleaned up", &CALLS.load(Ordering::Acquire), &123_456)?;
    // SAFETY: registered.
    let status = unsafe { NmrDeregisterClient(ours) };
    same("NmrDeregisterClient", &status, &STATUS_PENDING)?;
    // SAFETY: being deregistered.
    let status = unsafe { NmrWaitForClientDeregisterComplete(ours) };
    same("NmrWaitForClientDeregisterComplete", &status, &STATUS_SUCCESS)
}
