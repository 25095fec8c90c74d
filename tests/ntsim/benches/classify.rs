//! What the filter engine itself costs: a classification at a transport layer with one inspection callout that has a
//! flow context, the packet path of a driver that counts.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
#[allow(clippy::wildcard_imports, reason = "the constants of a layer and its metadata")]
use ntsim::sys::fwp::*;
use ntsim::sys::nt::{DISPATCH_LEVEL, GUID, NTSTATUS, STATUS_SUCCESS};
use ntsim::wfp::{self, ClassifyRequest};

static PACKETS: AtomicU64 = AtomicU64::new(0);

unsafe extern "system" fn classify(
    _values: *const FWPS_INCOMING_VALUES0,
    _metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    _data: *mut c_void,
    _context: *const c_void,
    _filter: *const FWPS_FILTER3,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    PACKETS.store(flow_context, Ordering::Relaxed);
    // SAFETY: the platform passes it, for the length of the call.
    unsafe { (*out).actionType = FWP_ACTION_CONTINUE };
}

unsafe extern "system" fn notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER3,
) -> NTSTATUS {
    STATUS_SUCCESS
}

unsafe extern "system" fn flow_delete(_: u16, _: u32, _: u64) {}

fn transport(criterion: &mut Criterion) {
    const KEY: GUID = GUID { Data1: 1, Data2: 2, Data3: 3, Data4: [4; 8] };
    let name: [u16; 2] = [u16::from(b'b'), 0];
    let display = FWPM_DISPLAY_DATA0 { name: name.as_ptr().cast_mut(), description: null_mut() };
    let _sim = ntsim::boot(ntsim::Config::default());
    let registration = FWPS_CALLOUT3 {
        calloutKey: KEY,
        flags: FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW,
        classifyFn: Some(classify),
        notifyFn: Some(notify),
        flowDeleteFn: Some(flow_delete),
    };
    let callout = FWPM_CALLOUT0 {
        calloutKey: KEY,
        displayData: display,
        applicableLayer: FWPM_LAYER_INBOUND_TRANSPORT_V4,
        ..FWPM_CALLOUT0::ZERO
    };
    let filter = FWPM_FILTER0 {
        displayData: display,
        layerKey: FWPM_LAYER_INBOUND_TRANSPORT_V4,
        action: FWPM_ACTION0 { type_: FWP_ACTION_CALLOUT_INSPECTION, u: FWPM_ACTION0_U { calloutKey: KEY } },
        ..FWPM_FILTER0::ZERO
    };
    let device = core::ptr::without_provenance_mut(8);
    let (mut id, mut engine) = (0, null_mut());
    // SAFETY: the arguments are as documented, here and below.
    assert_eq!(unsafe { FwpsCalloutRegister3(device, &raw const registration, &raw mut id) }, STATUS_SUCCESS);
    // SAFETY: as above.
    let status = unsafe { FwpmEngineOpen0(null(), RPC_C_AUTHN_WINNT, null_mut(), null(), &raw mut engine) };
    assert_eq!(status, STATUS_SUCCESS);
    // SAFETY: as above.
    let status = unsafe { FwpmCalloutAdd0(engine, &raw const callout, null_mut(), null_mut()) };
    assert_eq!(status, STATUS_SUCCESS);
    // SAFETY: as above.
    let status = unsafe { FwpmFilterAdd0(engine, &raw const filter, null_mut(), null_mut()) };
    assert_eq!(status, STATUS_SUCCESS);
    let flow = wfp::flow_create();
    // SAFETY: no pointers.
    let status = unsafe { FwpsFlowAssociateContext0(flow.id(), FWPS_LAYER_INBOUND_TRANSPORT_V4, id, 7) };
    assert_eq!(status, STATUS_SUCCESS);

    let mut values = [FWPS_INCOMING_VALUE0::ZERO; field::inbound_transport::COUNT];
    let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
    criterion.bench_function("transport classify, one inspection callout with a flow context", |bench| {
        bench.iter(|| {
            wfp::classify(ClassifyRequest {
                layer: FWPS_LAYER_INBOUND_TRANSPORT_V4,
                values: black_box(&mut values),
                metadata: black_box(&mut metadata),
                layer_data: null_mut(),
                flow: Some(&flow),
                irql: DISPATCH_LEVEL,
            })
        });
    });
    criterion.bench_function("layer without filters", |bench| {
        bench.iter(|| wfp::layer_has_filters(black_box(FWPS_LAYER_STREAM_V4)));
    });
    criterion.bench_function("flow with a context, made and ended", |bench| {
        bench.iter(|| {
            let flow = wfp::flow_create();
            // SAFETY: no pointers.
            unsafe { FwpsFlowAssociateContext0(flow.id(), FWPS_LAYER_INBOUND_TRANSPORT_V4, id, 7) };
            wfp::flow_end(&flow);
        });
    });
    wfp::flow_end(&flow);
    // SAFETY: no pointers.
    unsafe { FwpmEngineClose0(engine) };
    // SAFETY: no pointers.
    unsafe { FwpsCalloutUnregisterById0(id) };
}

criterion_group!(benches, transport);
criterion_main!(benches);
