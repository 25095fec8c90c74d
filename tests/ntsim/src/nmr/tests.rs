//! The rules of the NMR's documentation, each provoked.

#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::wildcard_imports,
    clippy::unnecessary_box_returns,
    reason = "the tests call as a driver does: what a call's caller must see to is what its test is about"
)]

use super::{Manner, Order, bindings, client_call, provider_call, set_detach_at_dispatch, set_manner};
use crate::boot::Sim;
use crate::fault::Plan;
use crate::irql;
use crate::sys::nmr::*;
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, HANDLE, NTSTATUS, PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER,
    STATUS_NOINTERFACE, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::verify::{Rule, lock};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static NPI: NPIID = GUID { Data1: 0xABCD, Data2: 1, Data3: 2, Data4: [0; 8] };
static MODULE: ModuleId = ModuleId(NPI_MODULEID {
    Length: 24,
    Type: MIT_GUID,
    u: NPI_MODULEID_u { Guid: GUID { Data1: 7, Data2: 0, Data3: 0, Data4: [0; 8] } },
});

struct ModuleId(NPI_MODULEID);
unsafe impl Sync for ModuleId {}

/// What one side's callbacks answer, and what they saw.
struct Half {
    handle: Mutex<usize>,
    binding: AtomicUsize,
    attach: AtomicI32,
    detach: AtomicI32,
    /// What NmrClientAttachProvider gave.
    provider: AtomicUsize,
    log: Mutex<Vec<&'static str>>,
    irqls: Mutex<Vec<u8>>,
    times: Mutex<Vec<Instant>>,
}

impl Half {
    fn new() -> Box<Self> {
        Box::new(Self {
            handle: Mutex::new(0),
            binding: AtomicUsize::new(0),
            attach: AtomicI32::new(STATUS_SUCCESS),
            detach: AtomicI32::new(STATUS_SUCCESS),
            provider: AtomicUsize::new(0),
            log: Mutex::default(),
            irqls: Mutex::default(),
            times: Mutex::default(),
        })
    }

    unsafe fn of<'a>(context: PVOID) -> &'a Self {
        unsafe { &*context.cast() }
    }

    fn context(&self) -> PVOID {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn note(&self, what: &'static str) {
        lock(&self.log).push(what);
        lock(&self.irqls).push(irql::current());
        lock(&self.times).push(Instant::now());
    }

    fn log(&self) -> Vec<&'static str> {
        lock(&self.log).clone()
    }

    fn binding(&self) -> HANDLE {
        std::ptr::with_exposed_provenance_mut(self.binding.load(Ordering::SeqCst))
    }

    fn registered(&self) -> HANDLE {
        std::ptr::with_exposed_provenance_mut(*lock(&self.handle))
    }
}

static TABLE: usize = 0;

unsafe extern "system" fn client_attach(
    binding: HANDLE,
    context: PVOID,
    provider: *const NPI_REGISTRATION_INSTANCE,
) -> NTSTATUS {
    let half = unsafe { Half::of(context) };
    half.note("attach");
    assert_eq!(unsafe { *(*provider).NpiId }, NPI);
    let answer = half.attach.load(Ordering::SeqCst);
    if answer == STATUS_NOINTERFACE {
        return answer;
    }
    half.binding.store(binding.expose_provenance(), Ordering::SeqCst);
    let (mut its_context, mut its_dispatch) = (null_mut(), null());
    let status = unsafe {
        NmrClientAttachProvider(
            binding,
            half.context(),
            (&raw const TABLE).cast::<c_void>(),
            &raw mut its_context,
            &raw mut its_dispatch,
        )
    };
    if status == STATUS_SUCCESS {
        half.provider.store(its_context.expose_provenance(), Ordering::SeqCst);
    }
    if answer == STATUS_SUCCESS { status } else { answer }
}

unsafe extern "system" fn client_detach(context: PVOID) -> NTSTATUS {
    let half = unsafe { Half::of(context) };
    half.note("detach");
    half.detach.load(Ordering::SeqCst)
}

unsafe extern "system" fn clean(context: PVOID) {
    unsafe { Half::of(context) }.note("clean");
}

unsafe extern "system" fn provider_attach(
    binding: HANDLE,
    context: PVOID,
    _client: *const NPI_REGISTRATION_INSTANCE,
    _client_context: PVOID,
    _client_dispatch: *const c_void,
    its_context: *mut PVOID,
    its_dispatch: *mut *const c_void,
) -> NTSTATUS {
    let half = unsafe { Half::of(context) };
    half.note("attach");
    half.binding.store(binding.expose_provenance(), Ordering::SeqCst);
    unsafe { *its_context = context };
    unsafe { *its_dispatch = (&raw const TABLE).cast() };
    half.attach.load(Ordering::SeqCst)
}

unsafe extern "system" fn provider_detach(context: PVOID) -> NTSTATUS {
    let half = unsafe { Half::of(context) };
    half.note("detach");
    half.detach.load(Ordering::SeqCst)
}

fn instance() -> NPI_REGISTRATION_INSTANCE {
    NPI_REGISTRATION_INSTANCE {
        Version: 0,
        Size: u16::try_from(size_of::<NPI_REGISTRATION_INSTANCE>()).unwrap(),
        NpiId: &raw const NPI,
        ModuleId: &raw const MODULE.0,
        Number: 0,
        NpiSpecificCharacteristics: null(),
    }
}

fn client_characteristics() -> NPI_CLIENT_CHARACTERISTICS {
    NPI_CLIENT_CHARACTERISTICS {
        Version: 0,
        Length: u16::try_from(size_of::<NPI_CLIENT_CHARACTERISTICS>()).unwrap(),
        ClientAttachProvider: Some(client_attach),
        ClientDetachProvider: Some(client_detach),
        ClientCleanupBindingContext: Some(clean),
        ClientRegistrationInstance: instance(),
    }
}

fn provider_characteristics() -> NPI_PROVIDER_CHARACTERISTICS {
    NPI_PROVIDER_CHARACTERISTICS {
        Version: 0,
        Length: u16::try_from(size_of::<NPI_PROVIDER_CHARACTERISTICS>()).unwrap(),
        ProviderAttachClient: Some(provider_attach),
        ProviderDetachClient: Some(provider_detach),
        ProviderCleanupBindingContext: Some(clean),
        ProviderRegistrationInstance: instance(),
    }
}

/// A client and a provider of the interface.
struct Pair {
    client: Box<Half>,
    provider: Box<Half>,
    client_characteristics: Box<NPI_CLIENT_CHARACTERISTICS>,
    provider_characteristics: Box<NPI_PROVIDER_CHARACTERISTICS>,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: Half::new(),
            provider: Half::new(),
            client_characteristics: Box::new(client_characteristics()),
            provider_characteristics: Box::new(provider_characteristics()),
        }
    }

    fn register_client(&self) -> NTSTATUS {
        let mut handle = null_mut();
        let context = self.client.context();
        let status =
            unsafe { NmrRegisterClient(&raw const *self.client_characteristics, context, &raw mut handle) };
        *lock(&self.client.handle) = handle.expose_provenance();
        status
    }

    fn register_provider(&self) -> NTSTATUS {
        let mut handle = null_mut();
        let context = self.provider.context();
        let status = unsafe {
            NmrRegisterProvider(&raw const *self.provider_characteristics, context, &raw mut handle)
        };
        *lock(&self.provider.handle) = handle.expose_provenance();
        status
    }

    fn both(&self) {
        assert_eq!(self.register_client(), STATUS_SUCCESS);
        assert_eq!(self.register_provider(), STATUS_SUCCESS);
    }

    fn deregister_client(&self) -> NTSTATUS {
        unsafe { NmrDeregisterClient(self.client.registered()) }
    }

    fn wait_client(&self) -> NTSTATUS {
        unsafe { NmrWaitForClientDeregisterComplete(self.client.registered()) }
    }

    fn deregister_provider(&self) -> NTSTATUS {
        unsafe { NmrDeregisterProvider(self.provider.registered()) }
    }

    fn wait_provider(&self) -> NTSTATUS {
        unsafe { NmrWaitForProviderDeregisterComplete(self.provider.registered()) }
    }

    fn end(&self) {
        assert_eq!(self.deregister_client(), STATUS_PENDING);
        assert_eq!(self.wait_client(), STATUS_SUCCESS);
        assert_eq!(self.deregister_provider(), STATUS_PENDING);
        assert_eq!(self.wait_provider(), STATUS_SUCCESS);
    }
}

fn boot() -> Sim {
    crate::boot(crate::Config { hang_after: Duration::from_millis(200), ..crate::Config::default() })
}

fn assert_clean(sim: &Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

fn assert_only(sim: &Sim, rule: &'static Rule) {
    let report = sim.report();
    let names: Vec<_> = report.violations.iter().map(|violation| violation.rule.name).collect();
    assert_eq!(names, [rule.name], "{report}");
}

#[test]
fn client_and_provider_attach_in_whichever_order_they_come() {
    for client_first in [true, false] {
        let sim = boot();
        let pair = Pair::new();
        if client_first {
            pair.both();
        } else {
            assert_eq!(pair.register_provider(), STATUS_SUCCESS);
            assert_eq!(pair.register_client(), STATUS_SUCCESS);
        }
        assert_eq!(bindings(), 1);
        let given = pair.client.provider.load(Ordering::SeqCst);
        assert_eq!(given, pair.provider.context().addr());
        pair.end();
        assert_eq!(pair.client.log(), ["attach", "detach", "clean"]);
        assert_eq!(pair.provider.log(), ["attach", "detach", "clean"]);
        assert_clean(&sim);
    }
}

#[test]
fn either_side_may_decline() {
    for who in 0..2 {
        let sim = boot();
        let pair = Pair::new();
        let half = if who == 0 { &pair.client } else { &pair.provider };
        half.attach.store(STATUS_NOINTERFACE, Ordering::SeqCst);
        pair.both();
        assert_eq!(bindings(), 0);
        pair.end();
        assert!(!pair.client.log().contains(&"clean"));
        assert_clean(&sim);
    }
}

#[test]
fn several_providers_attach_to_one_client() {
    let sim = boot();
    let (first, second) = (Pair::new(), Pair::new());
    first.both();
    assert_eq!(second.register_provider(), STATUS_SUCCESS);
    assert_eq!(bindings(), 2);
    assert_eq!(first.deregister_provider(), STATUS_PENDING);
    assert_eq!(first.wait_provider(), STATUS_SUCCESS);
    assert_eq!(bindings(), 1);
    assert_eq!(first.deregister_client(), STATUS_PENDING);
    assert_eq!(first.wait_client(), STATUS_SUCCESS);
    assert_eq!(second.deregister_provider(), STATUS_PENDING);
    assert_eq!(second.wait_provider(), STATUS_SUCCESS);
    assert_clean(&sim);
}

#[test]
fn a_pended_detach_holds_the_deregistration_until_it_is_completed() {
    let sim = boot();
    let pair = Pair::new();
    pair.client.detach.store(STATUS_PENDING, Ordering::SeqCst);
    pair.provider.detach.store(STATUS_PENDING, Ordering::SeqCst);
    pair.both();
    assert_eq!(pair.deregister_provider(), STATUS_PENDING);
    let (client, provider) =
        (pair.client.binding().expose_provenance(), pair.provider.binding().expose_provenance());
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(10));
            unsafe { NmrProviderDetachClientComplete(std::ptr::with_exposed_provenance_mut(provider)) };
            thread::sleep(Duration::from_millis(10));
            unsafe { NmrClientDetachProviderComplete(std::ptr::with_exposed_provenance_mut(client)) };
        });
        assert_eq!(pair.wait_provider(), STATUS_SUCCESS);
    });
    assert_eq!(pair.client.log(), ["attach", "detach", "clean"]);
    assert_eq!(pair.provider.log(), ["attach", "detach", "clean"]);
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
    assert_clean(&sim);
}

#[test]
fn nothing_is_cleaned_up_before_both_sides_have_detached() {
    let sim = boot();
    let pair = Pair::new();
    pair.client.detach.store(STATUS_PENDING, Ordering::SeqCst);
    pair.both();
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_eq!(pair.provider.log(), ["attach", "detach"]);
    unsafe { NmrClientDetachProviderComplete(pair.client.binding()) };
    assert_eq!(pair.provider.log(), ["attach", "detach", "clean"]);
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
    assert_eq!(pair.deregister_provider(), STATUS_PENDING);
    assert_eq!(pair.wait_provider(), STATUS_SUCCESS);
    assert_clean(&sim);
}

#[test]
fn detaching_may_happen_at_dispatch_level() {
    let sim = boot();
    set_detach_at_dispatch(true);
    let pair = Pair::new();
    pair.both();
    pair.end();
    assert_eq!(lock(&pair.client.irqls)[1..], [DISPATCH_LEVEL, DISPATCH_LEVEL]);
    assert_clean(&sim);
}

#[test]
fn a_deregistration_that_never_completes_is_reported() {
    let sim = boot();
    let pair = Pair::new();
    pair.client.detach.store(STATUS_PENDING, Ordering::SeqCst);
    pair.both();
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_ne!(pair.wait_client(), STATUS_SUCCESS);
    let report = sim.report();
    assert_eq!(report.violations[0].rule, &super::NMR_BLOCKED, "{report}");
    unsafe { NmrClientDetachProviderComplete(pair.client.binding()) };
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
    assert_eq!(pair.deregister_provider(), STATUS_PENDING);
    assert_eq!(pair.wait_provider(), STATUS_SUCCESS);
}

#[test]
fn what_is_never_waited_for_is_a_leak() {
    let sim = boot();
    let pair = Pair::new();
    assert_eq!(pair.register_client(), STATUS_SUCCESS);
    assert_eq!(sim.report().leaks[0].kind, "NMR client");
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_eq!(sim.report().leaks.len(), 1);
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
    assert_clean(&sim);
}

#[test]
fn a_client_returns_what_attaching_returned() {
    let sim = boot();
    let pair = Pair::new();
    pair.client.attach.store(STATUS_INVALID_PARAMETER, Ordering::SeqCst);
    pair.both();
    pair.end();
    assert_only(&sim, &super::NMR_ATTACH_STATUS);
}

#[test]
fn waiting_before_deregistering_and_unknown_handles_are_refused() {
    let sim = boot();
    let pair = Pair::new();
    assert_eq!(pair.register_client(), STATUS_SUCCESS);
    assert_eq!(pair.wait_client(), STATUS_INVALID_PARAMETER);
    assert_eq!(sim.report().violations[0].rule, &super::NMR_NOT_DEREGISTERED);
    let wrong = unsafe { NmrDeregisterProvider(pair.client.registered()) };
    assert_eq!(wrong, STATUS_INVALID_PARAMETER);
    assert_eq!(sim.report().violations[1].rule, &super::NMR_HANDLE);
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
    unsafe { NmrClientDetachProviderComplete(std::ptr::without_provenance_mut(4)) };
    assert_eq!(sim.report().violations[2].rule, &super::NMR_HANDLE);
}

#[test]
fn completing_a_detach_that_did_not_pend_is_noticed() {
    let sim = boot();
    let pair = Pair::new();
    pair.both();
    unsafe { NmrClientDetachProviderComplete(pair.client.binding()) };
    pair.end();
    assert_only(&sim, &super::NMR_COMPLETE);
}

#[test]
fn bad_characteristics_are_refused() {
    let sim = boot();
    let mut pair = Pair::new();
    pair.client_characteristics.ClientRegistrationInstance.Version = 1;
    assert_eq!(pair.register_client(), STATUS_INVALID_PARAMETER);
    assert_only(&sim, &super::NMR_CHARACTERISTICS);
}

#[test]
fn registering_fails_on_demand() {
    let sim = boot();
    let pair = Pair::new();
    sim.fault(Plan::Api { name: "NmrRegisterClient", nth: 1 });
    assert_eq!(pair.register_client(), STATUS_INSUFFICIENT_RESOURCES);
    sim.fault(Plan::None);
    assert_clean(&sim);
}

#[test]
fn the_order_of_detaching_is_the_registrars_choice() {
    for (order, expected) in [
        (Order::ClientFirst, Some(["client", "provider"])),
        (Order::ProviderFirst, Some(["provider", "client"])),
        (Order::Together, None),
    ] {
        for detach_at_dispatch in [false, true] {
            let sim = boot();
            set_manner(Manner { order, detach_at_dispatch, ..Manner::default() });
            let pair = Pair::new();
            pair.both();
            pair.end();
            let at = |half: &Half| lock(&half.times)[1];
            let first = if at(&pair.client) < at(&pair.provider) {
                ["client", "provider"]
            } else {
                ["provider", "client"]
            };
            assert!(expected.is_none_or(|expected| expected == first), "{order:?}: {first:?}");
            assert_clean(&sim);
        }
    }
}

#[test]
fn modules_may_be_offered_on_another_thread() {
    let sim = boot();
    set_manner(Manner { attach_elsewhere: true, ..Manner::default() });
    let pair = Pair::new();
    pair.both();
    while bindings() == 0 || pair.provider.log().is_empty() {
        thread::yield_now();
    }
    pair.end();
    assert_eq!(pair.client.log(), ["attach", "detach", "clean"]);
    assert_clean(&sim);
}

#[test]
fn calls_over_a_binding_end_before_the_caller_has_detached() {
    let sim = boot();
    let pair = Pair::new();
    pair.client.detach.store(STATUS_PENDING, Ordering::SeqCst);
    pair.both();
    let binding = pair.client.binding();
    client_call(binding, "function", || provider_call(binding, "callback", || ()));
    assert_eq!(pair.deregister_provider(), STATUS_PENDING);
    // The client's detach is pending: what is in progress may come to its end. The provider is through.
    client_call(binding, "function", || ());
    assert_eq!(sim.report().violations.len(), 0);
    provider_call(binding, "callback", || ());
    assert_eq!(sim.report().violations.len(), 2);
    assert_eq!(sim.report().violations[0].rule, &super::NMR_CALLBACK_AFTER_DETACH);
    client_call(binding, "function", || unsafe { NmrClientDetachProviderComplete(binding) });
    assert_eq!(sim.report().violations.len(), 3);
    assert_eq!(sim.report().violations[2].rule, &super::NMR_CALL_AFTER_DETACH);
    assert_eq!(pair.wait_provider(), STATUS_SUCCESS);
    assert_eq!(pair.deregister_client(), STATUS_PENDING);
    assert_eq!(pair.wait_client(), STATUS_SUCCESS);
}
