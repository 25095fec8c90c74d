//! The platform through the functions that drivers call, on a booted machine.

#![allow(non_snake_case)]

use core::ffi::c_void;
use core::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{ClassifyRequest, Config, FlowRef, Outcome, classify, flow_create, flow_end};
use crate::fault::Plan;
use crate::sys::fwp::*;
use crate::sys::nt::*;
use crate::{Sim, irql};

const SUBLAYER: GUID = GUID { Data1: 1, Data2: 1, Data3: 1, Data4: [1; 8] };
const CALLOUT: GUID = GUID { Data1: 2, Data2: 2, Data3: 2, Data4: [2; 8] };
const LAYER: u16 = FWPS_LAYER_INBOUND_TRANSPORT_V4;
const LAYER_KEY: GUID = FWPM_LAYER_INBOUND_TRANSPORT_V4;

fn name() -> FWPM_DISPLAY_DATA0 {
    static NAME: [u16; 2] = [b'n' as u16, 0];
    FWPM_DISPLAY_DATA0 { name: NAME.as_ptr().cast_mut(), description: null_mut() }
}

type Act = fn(&FWPS_INCOMING_METADATA_VALUES0, &mut FWPS_CLASSIFY_OUT0);

/// What the callout of these tests saw last, and what it does. One machine runs at a time, so do these tests.
static SEEN_CONTEXT: AtomicU64 = AtomicU64::new(0);
static SEEN_IRQL: AtomicU32 = AtomicU32::new(0);
static DELETED: Mutex<Vec<(u16, u32, u64)>> = Mutex::new(Vec::new());
static ACT: Mutex<Option<Act>> = Mutex::new(None);
static STATES: Mutex<Vec<FWPM_SERVICE_STATE>> = Mutex::new(Vec::new());

unsafe extern "system" fn classify_fn(
    _values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    _data: *mut c_void,
    _context: *const c_void,
    _filter: *const FWPS_FILTER3,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    SEEN_CONTEXT.store(flow_context, Ordering::SeqCst);
    SEEN_IRQL.store(irql::current().into(), Ordering::SeqCst);
    // SAFETY: the platform passes it, for the length of the call.
    let out = unsafe { &mut *out };
    out.actionType = FWP_ACTION_CONTINUE;
    let act = *ACT.lock().unwrap();
    if let Some(act) = act {
        // SAFETY: as above.
        act(unsafe { &*metadata }, out);
    }
}

unsafe extern "system" fn notify_fn(
    _kind: FWPS_CALLOUT_NOTIFY_TYPE,
    _key: *const GUID,
    _filter: *mut FWPS_FILTER3,
) -> NTSTATUS {
    STATUS_SUCCESS
}

unsafe extern "system" fn flow_delete_fn(layer: u16, callout: u32, context: u64) {
    DELETED.lock().unwrap().push((layer, callout, context));
}

unsafe extern "system" fn state_fn(_context: *mut c_void, state: FWPM_SERVICE_STATE) {
    STATES.lock().unwrap().push(state);
}

/// A machine with a callout at [`LAYER`] and one filter that calls it, added in a dynamic session.
struct Driver {
    sim: Sim,
    engine: HANDLE,
    id: u32,
}

fn device() -> *mut c_void {
    core::ptr::without_provenance_mut(0x1000)
}

fn open(flags: u32) -> (NTSTATUS, HANDLE) {
    let session = FWPM_SESSION0 { flags, ..FWPM_SESSION0::ZERO };
    let mut handle = null_mut();
    // SAFETY: the arguments are as documented.
    let status = unsafe {
        FwpmEngineOpen0(null(), RPC_C_AUTHN_WINNT, null_mut(), &raw const session, &raw mut handle)
    };
    (status, handle)
}

fn register(id: &mut u32) -> NTSTATUS {
    let callout = FWPS_CALLOUT3 {
        calloutKey: CALLOUT,
        flags: 0,
        classifyFn: Some(classify_fn),
        notifyFn: Some(notify_fn),
        flowDeleteFn: Some(flow_delete_fn),
    };
    // SAFETY: the functions are this test's own.
    unsafe { FwpsCalloutRegister3(device(), &raw const callout, id) }
}

fn add_filter(engine: HANDLE, type_: FWP_ACTION_TYPE) -> NTSTATUS {
    let filter = FWPM_FILTER0 {
        displayData: name(),
        layerKey: LAYER_KEY,
        subLayerKey: SUBLAYER,
        action: FWPM_ACTION0 { type_, u: FWPM_ACTION0_U { calloutKey: CALLOUT } },
        ..FWPM_FILTER0::ZERO
    };
    // SAFETY: the arguments are as documented.
    unsafe { FwpmFilterAdd0(engine, &raw const filter, null_mut(), null_mut()) }
}

fn add_objects(engine: HANDLE) {
    let sublayer =
        FWPM_SUBLAYER0 { subLayerKey: SUBLAYER, displayData: name(), weight: 7, ..FWPM_SUBLAYER0::ZERO };
    // SAFETY: the arguments are as documented.
    let status = unsafe { FwpmSubLayerAdd0(engine, &raw const sublayer, null_mut()) };
    assert_eq!(status, STATUS_SUCCESS);
    let callout = FWPM_CALLOUT0 {
        calloutKey: CALLOUT,
        displayData: name(),
        applicableLayer: LAYER_KEY,
        ..FWPM_CALLOUT0::ZERO
    };
    // SAFETY: the arguments are as documented.
    let status = unsafe { FwpmCalloutAdd0(engine, &raw const callout, null_mut(), null_mut()) };
    assert_eq!(status, STATUS_SUCCESS);
}

impl Driver {
    fn load() -> Self {
        let sim = crate::boot(crate::Config::default());
        *ACT.lock().unwrap() = None;
        DELETED.lock().unwrap().clear();
        STATES.lock().unwrap().clear();
        let mut id = 0;
        assert_eq!(register(&mut id), STATUS_SUCCESS);
        let (status, engine) = open(FWPM_SESSION_FLAG_DYNAMIC);
        assert_eq!(status, STATUS_SUCCESS);
        add_objects(engine);
        assert_eq!(add_filter(engine, FWP_ACTION_CALLOUT_UNKNOWN), STATUS_SUCCESS);
        Self { sim, engine, id }
    }

    fn acts(act: Act) {
        *ACT.lock().unwrap() = Some(act);
    }

    fn associate(&self, flow: &FlowRef, context: u64) -> NTSTATUS {
        // SAFETY: no pointers.
        unsafe { FwpsFlowAssociateContext0(flow.id(), LAYER, self.id, context) }
    }

    fn remove(&self, flow: &FlowRef) -> NTSTATUS {
        // SAFETY: no pointers.
        unsafe { FwpsFlowRemoveContext0(flow.id(), LAYER, self.id) }
    }

    fn unregister(&self) -> NTSTATUS {
        // SAFETY: no pointers.
        unsafe { FwpsCalloutUnregisterById0(self.id) }
    }

    fn close(&self) -> NTSTATUS {
        // SAFETY: no pointers.
        unsafe { FwpmEngineClose0(self.engine) }
    }

    fn unload(self) {
        assert_eq!(self.close(), STATUS_SUCCESS);
        assert_eq!(self.unregister(), STATUS_SUCCESS);
        let report = self.sim.report();
        assert!(report.is_clean(), "{report}");
    }
}

fn deleted() -> Vec<(u16, u32, u64)> {
    DELETED.lock().unwrap().clone()
}

fn packet(flow: Option<&FlowRef>) -> Outcome {
    let mut values = [FWPS_INCOMING_VALUE0::ZERO; field::inbound_transport::COUNT];
    let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
    classify(ClassifyRequest {
        layer: LAYER,
        values: &mut values,
        metadata: &mut metadata,
        layer_data: null_mut(),
        flow,
        irql: DISPATCH_LEVEL,
    })
}

#[test]
fn a_callout_runs_at_the_irql_of_the_classification_and_decides() {
    let driver = Driver::load();
    assert_eq!(packet(None).action, FWP_ACTION_PERMIT);
    assert_eq!(SEEN_IRQL.load(Ordering::SeqCst), u32::from(DISPATCH_LEVEL));
    assert_eq!(irql::current(), PASSIVE_LEVEL);
    Driver::acts(|_, out| {
        out.actionType = FWP_ACTION_BLOCK;
        out.rights &= !FWPS_RIGHT_ACTION_WRITE;
        out.flags |= FWPS_CLASSIFY_OUT_FLAG_ABSORB;
    });
    let outcome = packet(None);
    assert_eq!((outcome.action, outcome.absorb), (FWP_ACTION_BLOCK, true));
    assert_eq!(outcome.sublayer_weight, Some(7));
    driver.unload();
}

#[test]
fn a_flow_context_reaches_the_callout_and_is_deleted_with_the_flow() {
    let driver = Driver::load();
    let flow = flow_create();
    packet(Some(&flow));
    assert_eq!(SEEN_CONTEXT.load(Ordering::SeqCst), 0);
    assert_eq!(driver.associate(&flow, 99), STATUS_SUCCESS);
    assert_eq!(driver.associate(&flow, 98), STATUS_OBJECT_NAME_EXISTS);
    assert_eq!(driver.associate(&flow, 0), STATUS_INVALID_PARAMETER);
    packet(Some(&flow));
    assert_eq!(SEEN_CONTEXT.load(Ordering::SeqCst), 99);
    flow_end(&flow);
    assert_eq!(deleted(), [(LAYER, driver.id, 99)]);
    assert_eq!(driver.remove(&flow), STATUS_UNSUCCESSFUL);
    driver.unload();
}

#[test]
fn a_context_needs_a_callout_of_the_layer() {
    // Page: FwpsFlowAssociateContext0.
    let driver = Driver::load();
    let flow = flow_create();
    for (layer, id) in [(FWPS_LAYER_OUTBOUND_TRANSPORT_V4, driver.id), (LAYER, driver.id + 1)] {
        // SAFETY: no pointers.
        let status = unsafe { FwpsFlowAssociateContext0(flow.id(), layer, id, 1) };
        assert_eq!(status, STATUS_INVALID_PARAMETER);
    }
    driver.unload();
}

#[test]
fn removing_a_context_deletes_it_on_the_stack_of_the_caller() {
    let driver = Driver::load();
    let flow = flow_create();
    assert_eq!(driver.associate(&flow, 5), STATUS_SUCCESS);
    assert_eq!(driver.remove(&flow), STATUS_SUCCESS);
    assert_eq!(deleted(), [(LAYER, driver.id, 5)]);
    driver.unload();
}

#[test]
fn removing_a_context_inside_its_classification_is_pending_until_that_is_over() {
    // Page: FwpsFlowRemoveContext0.
    static STATUS: Mutex<Option<(NTSTATUS, usize)>> = Mutex::new(None);
    static ID: AtomicU32 = AtomicU32::new(0);
    let driver = Driver::load();
    ID.store(driver.id, Ordering::SeqCst);
    let flow = flow_create();
    assert_eq!(driver.associate(&flow, 5), STATUS_SUCCESS);
    Driver::acts(|metadata, _| {
        // SAFETY: no pointers.
        let status = unsafe { FwpsFlowRemoveContext0(metadata.flowHandle, LAYER, ID.load(Ordering::SeqCst)) };
        *STATUS.lock().unwrap() = Some((status, DELETED.lock().unwrap().len()));
    });
    packet(Some(&flow));
    assert_eq!(*STATUS.lock().unwrap(), Some((STATUS_PENDING, 0)));
    assert_eq!(deleted(), [(LAYER, driver.id, 5)]);
    driver.unload();
}

#[test]
fn a_context_can_be_deleted_on_another_thread() {
    let driver = Driver::load();
    super::configure(Config { asynchronous_delete: true, ..Config::default() });
    let flows = [flow_create(), flow_create()];
    assert_eq!(driver.associate(&flows[0], 5), STATUS_SUCCESS);
    assert_eq!(driver.associate(&flows[1], 6), STATUS_SUCCESS);
    assert_eq!(driver.remove(&flows[0]), STATUS_PENDING);
    flow_end(&flows[1]);
    assert_eq!(driver.close(), STATUS_SUCCESS);
    while driver.unregister() == STATUS_DEVICE_BUSY {
        std::thread::yield_now();
    }
    assert_eq!(deleted().len(), 2);
    assert!(driver.sim.report().is_clean());
}

#[test]
fn a_callout_with_contexts_is_busy() {
    // Page: FwpsCalloutUnregisterById0.
    let driver = Driver::load();
    let flow = flow_create();
    assert_eq!(driver.associate(&flow, 5), STATUS_SUCCESS);
    assert_eq!(driver.unregister(), STATUS_DEVICE_BUSY);
    assert_eq!(driver.remove(&flow), STATUS_SUCCESS);
    assert_eq!(driver.unregister(), STATUS_SUCCESS);
    assert_eq!(driver.unregister(), STATUS_FWP_CALLOUT_NOT_FOUND);
    assert_eq!(packet(None).action, FWP_ACTION_BLOCK, "its filter has no callout any more");
    assert_eq!(driver.close(), STATUS_SUCCESS);
    assert_eq!(packet(None).action, FWP_ACTION_PERMIT);
}

#[test]
fn what_a_driver_leaves_behind_is_reported() {
    let driver = Driver::load();
    let flow = flow_create();
    assert_eq!(driver.associate(&flow, 5), STATUS_SUCCESS);
    let kinds: Vec<_> = driver.sim.report().leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(kinds, ["WFP callout", "WFP engine handle", "WFP flow context"]);
    flow_end(&flow);
    driver.unload();
}

#[test]
fn static_objects_that_outlive_their_session_are_reported() {
    let driver = Driver::load();
    let (_, engine) = open(0);
    let provider = FWPM_PROVIDER0 { providerKey: CALLOUT, displayData: name(), ..FWPM_PROVIDER0::ZERO };
    // SAFETY: the arguments are as documented.
    assert_eq!(unsafe { FwpmProviderAdd0(engine, &raw const provider, null_mut()) }, STATUS_SUCCESS);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmEngineClose0(engine) }, STATUS_SUCCESS);
    assert_eq!(driver.close(), STATUS_SUCCESS);
    assert_eq!(driver.unregister(), STATUS_SUCCESS);
    let kinds: Vec<_> = driver.sim.report().leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(kinds, ["WFP object"]);
}

#[test]
fn a_stop_of_the_engine_ends_sessions_and_tells_subscribers() {
    // Pages: Object Management, FwpmBfeStateSubscribeChanges0.
    let driver = Driver::load();
    let mut subscription = null_mut();
    // SAFETY: the arguments are as documented.
    let status =
        unsafe { FwpmBfeStateSubscribeChanges0(device(), Some(state_fn), null_mut(), &raw mut subscription) };
    assert_eq!(status, STATUS_SUCCESS);
    super::bfe_set_state(FWPM_SERVICE_STOP_PENDING);
    super::bfe_set_state(FWPM_SERVICE_STOPPED);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmBfeStateGet0() }, FWPM_SERVICE_STOPPED);
    assert!(!super::layer_has_filters(LAYER));
    assert_ne!(open(0).0, STATUS_SUCCESS);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmTransactionBegin0(driver.engine, 0) }, STATUS_FWP_SESSION_ABORTED);
    super::bfe_set_state(FWPM_SERVICE_RUNNING);
    assert_eq!(
        *STATES.lock().unwrap(),
        [FWPM_SERVICE_STOP_PENDING, FWPM_SERVICE_STOPPED, FWPM_SERVICE_RUNNING]
    );
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmBfeStateUnsubscribeChanges0(subscription) }, STATUS_SUCCESS);
    super::bfe_set_state(FWPM_SERVICE_STOPPED);
    assert_eq!(STATES.lock().unwrap().len(), 3);
    driver.unload();
}

#[test]
fn what_was_added_can_be_read_back_and_must_be_freed() {
    let driver = Driver::load();
    let (key, mut sublayer): (GUID, *mut FWPM_SUBLAYER0) = (SUBLAYER, null_mut());
    // SAFETY: the arguments are as documented.
    let status = unsafe { FwpmSubLayerGetByKey0(driver.engine, &raw const key, &raw mut sublayer) };
    assert_eq!(status, STATUS_SUCCESS);
    // SAFETY: the function gave it.
    assert_eq!(unsafe { (*sublayer).weight }, 7);
    assert!(driver.sim.report().leaks.iter().any(|leak| leak.kind == "WFP memory"));
    // SAFETY: the function gave it.
    unsafe { FwpmFreeMemory0((&raw mut sublayer).cast()) };
    assert!(sublayer.is_null());

    let mut layer: *mut FWPM_LAYER0 = null_mut();
    // SAFETY: the arguments are as documented.
    let status = unsafe { FwpmLayerGetById0(driver.engine, LAYER, &raw mut layer) };
    assert_eq!(status, STATUS_SUCCESS);
    // SAFETY: the function gave it.
    let FWPM_LAYER0 { numFields, field: fields, .. } = unsafe { *layer };
    assert_eq!(numFields as usize, field::inbound_transport::COUNT);
    // SAFETY: there are that many fields.
    let port = unsafe { *fields.wrapping_add(field::inbound_transport::IP_LOCAL_PORT) };
    assert_eq!(port.dataType, FWP_UINT16);
    // SAFETY: the key lives as long as the layer.
    assert_eq!(super::guid(unsafe { *port.fieldKey }), super::guid(FWPM_CONDITION_IP_LOCAL_PORT));
    // SAFETY: the function gave it.
    unsafe { FwpmFreeMemory0((&raw mut layer).cast()) };
    driver.unload();
}

#[test]
fn a_filter_with_conditions_survives_the_way_there_and_back() {
    let driver = Driver::load();
    let mut mask = FWP_V4_ADDR_AND_MASK { addr: 0x0A00_0000, mask: 0xFF00_0000 };
    let mut low = 1u64;
    let mut high = 2u64;
    let mut range = FWP_RANGE0 {
        valueLow: FWP_VALUE0 { type_: FWP_UINT64, u: FWP_VALUE0_U { uint64: &raw mut low } },
        valueHigh: FWP_VALUE0 { type_: FWP_UINT64, u: FWP_VALUE0_U { uint64: &raw mut high } },
    };
    let condition = |fieldKey, matchType, type_, u| FWPM_FILTER_CONDITION0 {
        fieldKey,
        matchType,
        conditionValue: FWP_CONDITION_VALUE0 { type_, u },
    };
    let mut conditions = [
        condition(
            FWPM_CONDITION_IP_REMOTE_ADDRESS,
            FWP_MATCH_EQUAL,
            FWP_V4_ADDR_MASK,
            FWP_CONDITION_VALUE0_U { v4AddrMask: &raw mut mask },
        ),
        condition(
            FWPM_CONDITION_IP_LOCAL_INTERFACE,
            FWP_MATCH_RANGE,
            FWP_RANGE_TYPE,
            FWP_CONDITION_VALUE0_U { rangeValue: &raw mut range },
        ),
        condition(
            FWPM_CONDITION_IP_PROTOCOL,
            FWP_MATCH_EQUAL,
            FWP_UINT8,
            FWP_CONDITION_VALUE0_U { uint8: 6 },
        ),
    ];
    let filter = FWPM_FILTER0 {
        displayData: name(),
        layerKey: LAYER_KEY,
        subLayerKey: SUBLAYER,
        weight: FWP_VALUE0 { type_: FWP_UINT8, u: FWP_VALUE0_U { uint8: 15 } },
        numFilterConditions: 3,
        filterCondition: conditions.as_mut_ptr(),
        action: FWPM_ACTION0 { type_: FWP_ACTION_BLOCK, ..FWPM_ACTION0::ZERO },
        ..FWPM_FILTER0::ZERO
    };
    let mut id = 0;
    // SAFETY: the arguments are as documented.
    let status = unsafe { FwpmFilterAdd0(driver.engine, &raw const filter, null_mut(), &raw mut id) };
    assert_eq!(status, STATUS_SUCCESS);
    let mut back: *mut FWPM_FILTER0 = null_mut();
    // SAFETY: the arguments are as documented.
    assert_eq!(unsafe { FwpmFilterGetById0(driver.engine, id, &raw mut back) }, STATUS_SUCCESS);
    // SAFETY: the function gave it.
    let read = unsafe { *back };
    // SAFETY: it is as documented.
    let read = unsafe { super::filter_spec(&read) }.expect("a good filter");
    // SAFETY: it is as documented.
    let mut given = unsafe { super::filter_spec(&filter) }.expect("a good filter");
    given.key = read.key;
    assert_eq!(read, given);
    // SAFETY: the function gave it.
    unsafe { FwpmFreeMemory0((&raw mut back).cast()) };

    let mut luid = 2u64;
    let mut values = [FWPS_INCOMING_VALUE0::ZERO; field::inbound_transport::COUNT];
    let mut set = |index: usize, type_, u| values[index].value = FWP_VALUE0 { type_, u };
    set(field::inbound_transport::IP_PROTOCOL, FWP_UINT8, FWP_VALUE0_U { uint8: 6 });
    set(field::inbound_transport::IP_REMOTE_ADDRESS, FWP_UINT32, FWP_VALUE0_U { uint32: 0x0A01_0203 });
    set(field::inbound_transport::IP_LOCAL_INTERFACE, FWP_UINT64, FWP_VALUE0_U { uint64: &raw mut luid });
    let verdict = |values: &mut [FWPS_INCOMING_VALUE0]| {
        let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
        classify(ClassifyRequest {
            layer: LAYER,
            values,
            metadata: &mut metadata,
            layer_data: null_mut(),
            flow: None,
            irql: DISPATCH_LEVEL,
        })
        .filter
    };
    assert_eq!(verdict(&mut values), Some(id));
    values[field::inbound_transport::IP_PROTOCOL].value.u.uint8 = 17;
    assert_eq!(verdict(&mut values), None);
    driver.unload();
}

#[test]
fn a_management_call_at_dispatch_level_is_a_violation() {
    let driver = Driver::load();
    {
        let _raised = irql::raise_scope();
        // SAFETY: no pointers.
        unsafe { FwpmTransactionBegin0(driver.engine, 0) };
    }
    assert_eq!(driver.sim.report().violation_count, 1);
}

#[test]
fn a_management_call_inside_a_classification_is_a_violation_and_fails() {
    static ENGINE: AtomicU64 = AtomicU64::new(0);
    let driver = Driver::load();
    ENGINE.store(driver.engine.addr() as u64, Ordering::SeqCst);
    Driver::acts(|_, _| {
        let engine = usize::try_from(ENGINE.load(Ordering::SeqCst)).unwrap();
        // SAFETY: no pointers are followed.
        let status = unsafe { FwpmTransactionBegin0(core::ptr::without_provenance_mut(engine), 0) };
        assert!(status < 0);
    });
    packet(None);
    assert!(driver.sim.report().violations.iter().any(|v| v.rule == &super::state::MANAGEMENT_IN_CALLBACK));
}

#[test]
fn each_fallible_call_fails_when_told_to() {
    let driver = Driver::load();
    let flow = flow_create();
    driver.sim.fault(Plan::From(1));
    assert_eq!(driver.associate(&flow, 5), STATUS_INSUFFICIENT_RESOURCES);
    assert_eq!(add_filter(driver.engine, FWP_ACTION_BLOCK), STATUS_INSUFFICIENT_RESOURCES);
    assert_eq!(open(0).0, STATUS_INSUFFICIENT_RESOURCES);
    assert_eq!(register(&mut 0), STATUS_INSUFFICIENT_RESOURCES);
    assert_eq!(driver.sim.fault_calls(), 4);
    driver.sim.fault(Plan::None);
    driver.unload();
}

#[test]
fn a_transaction_is_waited_for() {
    // Page: Object Management, Transactions.
    let driver = Driver::load();
    let (_, other) = open(0);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmTransactionBegin0(driver.engine, 0) }, STATUS_SUCCESS);
    let other_address = other.expose_provenance();
    let waiting = std::thread::spawn(move || {
        // SAFETY: no pointers are followed.
        unsafe { FwpmTransactionBegin0(core::ptr::with_exposed_provenance_mut(other_address), 0) }
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!waiting.is_finished());
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmTransactionCommit0(driver.engine) }, STATUS_SUCCESS);
    assert_eq!(waiting.join().unwrap(), STATUS_SUCCESS);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmEngineClose0(other) }, STATUS_SUCCESS);
    driver.unload();
}

#[test]
fn a_session_gives_up_waiting_after_its_timeout() {
    let driver = Driver::load();
    let session = FWPM_SESSION0 { txnWaitTimeoutInMSec: 10, ..FWPM_SESSION0::ZERO };
    let mut other = null_mut();
    // SAFETY: the arguments are as documented.
    let status = unsafe {
        FwpmEngineOpen0(null(), RPC_C_AUTHN_DEFAULT, null_mut(), &raw const session, &raw mut other)
    };
    assert_eq!(status, STATUS_SUCCESS);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmTransactionBegin0(driver.engine, 0) }, STATUS_SUCCESS);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmTransactionBegin0(other, 0) }, STATUS_FWP_TIMEOUT);
    // SAFETY: no pointers.
    assert_eq!(unsafe { FwpmEngineClose0(other) }, STATUS_SUCCESS);
    driver.unload();
}

#[test]
fn an_operation_is_pended_once_and_completed() {
    // Pages: FwpsPendOperation0, FwpsCompleteOperation0.
    static CONTEXT: Mutex<Option<(NTSTATUS, usize)>> = Mutex::new(None);
    static COMPLETED: AtomicU32 = AtomicU32::new(0);
    let driver = Driver::load();
    Driver::acts(|metadata, out| {
        let mut context = null_mut();
        // SAFETY: the arguments are as documented.
        let status = unsafe { FwpsPendOperation0(metadata.completionHandle, &raw mut context) };
        *CONTEXT.lock().unwrap() = Some((status, context.addr()));
        out.actionType = FWP_ACTION_BLOCK;
        out.rights &= !FWPS_RIGHT_ACTION_WRITE;
        out.flags |= FWPS_CLASSIFY_OUT_FLAG_ABSORB;
    });
    let run = |reauthorization| {
        let offer = super::offer_completion(reauthorization, |_| {
            COMPLETED.fetch_add(1, Ordering::SeqCst);
        });
        let mut values = [FWPS_INCOMING_VALUE0::ZERO; field::inbound_transport::COUNT];
        let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
        offer.describe(&mut metadata);
        classify(ClassifyRequest {
            layer: LAYER,
            values: &mut values,
            metadata: &mut metadata,
            layer_data: null_mut(),
            flow: None,
            irql: PASSIVE_LEVEL,
        })
    };
    assert!(!run(true).pended);
    assert_eq!(CONTEXT.lock().unwrap().take().map(|(status, _)| status), Some(STATUS_FWP_CANNOT_PEND));
    assert!(run(false).pended);
    let (status, context) = CONTEXT.lock().unwrap().take().unwrap();
    assert_eq!(status, STATUS_SUCCESS);
    assert!(driver.sim.report().leaks.iter().any(|leak| leak.kind == "WFP pended operation"));
    // SAFETY: the platform gave the context; there is no packet.
    unsafe { FwpsCompleteOperation0(core::ptr::without_provenance_mut(context), null_mut()) };
    assert_eq!(COMPLETED.load(Ordering::SeqCst), 1);
    driver.unload();
}

#[test]
fn unregistering_waits_for_classifications_in_progress() {
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    let driver = Driver::load();
    INSIDE.store(0, Ordering::SeqCst);
    Driver::acts(|_, _| {
        INSIDE.store(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(30));
        INSIDE.store(2, Ordering::SeqCst);
    });
    let traffic = std::thread::spawn(|| packet(None));
    while INSIDE.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(driver.unregister(), STATUS_SUCCESS);
    assert_eq!(INSIDE.load(Ordering::SeqCst), 2);
    traffic.join().unwrap();
    assert_eq!(driver.close(), STATUS_SUCCESS);
}
