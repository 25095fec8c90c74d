//! Extension interfaces: what a vendor's provider and an operator can count on.
#![cfg(feature = "sim")]

mod control_support;

use control_support::{Plane, Told, eventually, parameters, required, required_interface, sockets};
use ntsim::sys::nt::{
    DISPATCH_LEVEL, KIRQL, NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_ACCESS_DENIED, STATUS_EVENT_PENDING,
    STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};
use ntsim::wsk::extension::{self, Callback, Offer, Registration, Script};
use ntsim::wsk::{self, Category};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use weir::config::Settings;
use weir::control::protocol::message::{Empty, Request};
use weir::ext::connection_v1::{
    CONNECTION_EVENT_BACKLOG, CONNECTION_EVENT_METRIC, CONNECTION_EVENT_STATE, CONNECTION_EVENT_VENDOR,
    CONNECTION_METRIC_V1, CONNECTION_V1, CONNECTION_V1_CLIENT_DISPATCH, CONNECTION_V1_PROVIDER_DISPATCH,
    NPI_CONNECTION_V1,
};
use weir::ext::{Tally, Totals};
use weir::trace::Guid;

const ALL: u32 =
    CONNECTION_EVENT_STATE | CONNECTION_EVENT_BACKLOG | CONNECTION_EVENT_METRIC | CONNECTION_EVENT_VENDOR;

unsafe extern "system" fn query_metric(_context: PVOID, _metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
    STATUS_SUCCESS
}

static PROVIDER: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH {
    Size: 32,
    Version: CONNECTION_V1,
    Reserved: 0,
    QueryMetric: Some(query_metric),
    SetMarks: None,
    Control: None,
};

static SHORT: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH { Size: 24, ..PROVIDER };
static OLD: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH { Version: 0, ..PROVIDER };

fn supported() -> Script {
    Script::Supported(Offer::new(&PROVIDER))
}

fn plane_with(script: Script) -> Plane {
    plane(wsk::Config::default(), script, &parameters())
}

#[track_caller]
fn plane(config: wsk::Config, script: Script, parameters: &Settings) -> Plane {
    let sim = control_support::boot(config);
    extension::script(NPI_CONNECTION_V1, script);
    Plane::start_on(sim, parameters)
}

/// The registration of the first accepted connection.
#[track_caller]
fn accepted(count: usize) -> Vec<Registration> {
    let mut found = Vec::new();
    eventually("the connections are registered", || {
        found = extension::registrations(NPI_CONNECTION_V1)
            .into_iter()
            .filter(|registration| registration.socket().category() == Category::Connection)
            .filter(|registration| registration.enabled() == ALL)
            .collect();
        found.len() >= count
    });
    found
}

/// The table of weir's callbacks.
fn table(dispatch: *const c_void) -> CONNECTION_V1_CLIENT_DISPATCH {
    // SAFETY: what weir registered for this interface, a constant.
    unsafe { *dispatch.cast() }
}

/// Calls weir's `State` callback as the documentation allows. Whether the socket was still there.
fn tell(registration: &Registration, irql: KIRQL, state: u32, reason: u32) -> bool {
    let told = registration.call(CONNECTION_EVENT_STATE, irql, |context, dispatch| {
        let table = table(dispatch);
        // SAFETY: weir's table and context, while the socket is there.
        unsafe { (table.State)(context, state, reason) }
    });
    told.is_some()
}

fn vendor(registration: &Registration, kind: u32, data: *const c_void, length: u32) {
    registration.call(CONNECTION_EVENT_VENDOR, DISPATCH_LEVEL, |context, dispatch| {
        let table = table(dispatch);
        // SAFETY: weir's table and context, while the socket is there.
        unsafe { (table.Vendor)(context, kind, data, length) }
    });
}

fn metric(registration: &Registration, metric: *const CONNECTION_METRIC_V1) {
    registration.call(CONNECTION_EVENT_METRIC, PASSIVE_LEVEL, |context, dispatch| {
        let table = table(dispatch);
        // SAFETY: weir's table and context, while the socket is there.
        unsafe { (table.Metric)(context, metric) }
    });
}

fn values(told: &[Told], wanted: u64) -> Vec<u64> {
    let of = |told: &Told| match *told {
        Told::Callback { session, value, .. } if session == wanted => Some(value),
        _ => None,
    };
    told.iter().filter_map(of).collect()
}

#[test]
fn every_socket_is_registered_itself_and_once() {
    let plane = plane_with(supported());
    let peers: Vec<_> = (0..3).map(|_| plane.connect()).collect();
    accepted(3);
    for socket in wsk::sockets() {
        assert_eq!(socket.registrations(), [(NPI_CONNECTION_V1, STATUS_SUCCESS)], "{:?}", socket.category());
    }
    assert_eq!(extension::registrations(NPI_CONNECTION_V1).len(), 4);
    eventually("the registrations are told", || {
        plane.told().iter().filter(|told| matches!(told, Told::Registered(_))).count() == 4
    });
    assert_eq!(
        plane.control().extensions(),
        Totals { wsk: Tally { asked: 4, granted: 4, ..Tally::default() }, ..Totals::default() }
    );
    drop(peers);
    let told = plane.end();
    for session in 0..=3 {
        let ends = told.iter().filter(|told| **told == Told::Detached { session, callbacks: 0 }).count();
        assert_eq!(ends, 1, "session {session}");
    }
}

#[test]
fn a_listener_that_is_opened_again_is_registered_again() {
    let plane = plane_with(supported());
    plane.address();
    sockets(Category::Listen)[0].fail();
    eventually("a new listener is there", || plane.control().counters().listeners == 2);
    assert_eq!(sockets(Category::Listen)[0].registrations(), [(NPI_CONNECTION_V1, STATUS_SUCCESS)]);
    plane.end();
}

#[test]
fn not_supported_is_a_normal_answer() {
    let plane = plane_with(Script::NotSupported);
    let mut client = plane.client();
    client.ask(&Request::Ping(Empty {}), |answer| assert!(answer.is_ok()));
    let refused = Told::Refused { session: 1, required: false, status: STATUS_NOT_SUPPORTED };
    plane.wait_told("the refusal is told", |told| *told == refused);
    assert_eq!(
        plane.control().extensions(),
        Totals { wsk: Tally { asked: 2, refused: 2, ..Tally::default() }, missing: 2, ..Totals::default() }
    );
    plane.end();
}

#[test]
fn only_exactly_success_grants() {
    // The sim fills the output with an address that must not be touched.
    for status in [STATUS_EVENT_PENDING, STATUS_PENDING, STATUS_ACCESS_DENIED, STATUS_UNSUCCESSFUL] {
        let plane = plane_with(Script::Fail(status));
        let mut client = plane.client();
        client.ask(&Request::Ping(Empty {}), |answer| assert!(answer.is_ok()));
        plane.wait_told("the failure is told", |told| {
            *told == Told::Failed { session: 1, required: false, status }
        });
        assert_eq!(
            plane.control().extensions(),
            Totals {
                wsk: Tally { asked: 2, failed: 2, ..Tally::default() },
                missing: 2,
                ..Totals::default()
            }
        );
        plane.end();
    }
}

#[test]
fn a_provider_that_lies_about_its_tables_is_not_used() {
    let liars =
        [Script::NullTables, Script::Supported(Offer::new(&SHORT)), Script::Supported(Offer::new(&OLD))];
    for script in liars {
        let plane = plane_with(script);
        let _peer = plane.connect();
        plane.wait_told("the failure is told", |told| {
            *told == Told::Failed { session: 1, required: false, status: STATUS_INVALID_PARAMETER }
        });
        assert!(extension::registrations(NPI_CONNECTION_V1).iter().all(|left| left.enabled() == 0));
        plane.end();
    }
}

#[test]
fn a_connection_without_its_required_interface_is_closed_and_says_why() {
    for (script, status) in [
        (Script::NotSupported, STATUS_NOT_SUPPORTED),
        (Script::Fail(STATUS_ACCESS_DENIED), STATUS_ACCESS_DENIED),
        (Script::NullTables, STATUS_INVALID_PARAMETER),
    ] {
        let sim = control_support::boot(wsk::Config::default());
        extension::script_by(NPI_CONNECTION_V1, move |socket| match socket.category() {
            Category::Connection => script.clone(),
            _ => supported(),
        });
        let plane = Plane::start_on(sim, &Settings { extension_interfaces: required(), ..parameters() });
        let peer = plane.connect();
        peer.wait_reset().unwrap();
        plane.wait_told("the end is told", |told| *told == Told::Closed(1, status));
        plane.wait_told("the reason is told", |told| {
            matches!(
                *told,
                Told::Refused { session: 1, required: true, .. }
                    | Told::Failed { session: 1, required: true, .. }
            )
        });
        plane.end();
    }
}

#[test]
fn a_listener_without_its_required_interface_is_not_opened() {
    let plane = plane(
        wsk::Config::default(),
        Script::NotSupported,
        &Settings { extension_interfaces: required(), ..parameters() },
    );
    plane.wait_told("the failure is told", |told| *told == Told::ListenFailed(STATUS_NOT_SUPPORTED));
    assert_eq!(plane.control().counters().listeners, 0);
    plane.end();
}

#[test]
fn a_required_interface_that_weir_does_not_speak_is_missing() {
    let extensions = required_interface(Guid { data1: 1, data2: 2, data3: 3, data4: [4; 8] });
    let plane = plane(
        wsk::Config::default(),
        supported(),
        &Settings { extension_interfaces: extensions, ..parameters() },
    );
    plane.wait_told("the failure is told", |told| *told == Told::ListenFailed(STATUS_NOT_SUPPORTED));
    let why = Told::Refused { session: 0, required: true, status: STATUS_NOT_SUPPORTED };
    plane.wait_told("the reason is told", |told| *told == why);
    plane.end();
}

#[test]
fn the_version_is_looked_at_before_anything_is_asked() {
    let config = wsk::Config { provider_version: 0x0001, ..wsk::Config::default() };
    let plane = plane(config, supported(), &parameters());
    let _peer = plane.connect();
    plane.wait_told("the refusal is told", |told| {
        *told == Told::Refused { session: 1, required: false, status: STATUS_NOT_SUPPORTED }
    });
    assert!(wsk::sockets().iter().all(|socket| socket.registrations().is_empty()));
    plane.end();
}

#[test]
fn callbacks_from_within_the_registration_arrive() {
    let inline = Callback::new(|registration| {
        let table = table(registration.client_dispatch());
        // SAFETY: weir's table and context; its registration is under way.
        unsafe { (table.State)(registration.client_context(), 1, 0) };
    });
    let plane = plane_with(Script::InlineCallback(Offer::new(&PROVIDER), inline));
    let _peer = plane.connect();
    plane.wait_told("the callback is told", |told| {
        *told == Told::Callback { session: 1, code: CONNECTION_EVENT_STATE, value: 1 }
    });
    let told = plane.end();
    assert!(told.contains(&Told::Detached { session: 1, callbacks: 1 }));
}

#[test]
fn callbacks_are_delivered_in_their_order_whatever_level_and_processor_they_come_on() {
    let sim = ntsim::boot(ntsim::Config { migrate_every: 1, ..ntsim::Config::default() });
    extension::script(NPI_CONNECTION_V1, supported());
    let plane = Plane::start_on(sim, &parameters());
    let _peer = plane.connect();
    let registration = &accepted(1)[0];
    let turn = Mutex::new(0);
    std::thread::scope(|scope| {
        for irql in [PASSIVE_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL] {
            let turn = &turn;
            scope.spawn(move || {
                for _ in 0..200 {
                    let mut turn = turn.lock().unwrap();
                    *turn += 1;
                    assert!(tell(registration, irql, *turn, 0));
                }
            });
        }
    });
    let lost = plane.control().extensions().lost;
    let delivered = values(&plane.end(), 1);
    assert!(delivered.is_sorted(), "{delivered:?}");
    assert_eq!(delivered.len() as u64 + lost, 600);
}

#[test]
fn in_a_storm_every_callback_is_delivered_or_counted_and_no_end_is_lost() {
    for seed in 0..3 {
        let plane = plane(wsk::Config { seed, ..wsk::Config::default() }, supported(), &parameters());
        let peers: Vec<_> = (0..4).map(|_| plane.connect()).collect();
        let registrations = accepted(4);
        let sent = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (registrations, sent, over) = (&registrations, &sent, &over);
                scope.spawn(move || {
                    let irql = if thread % 2 == 0 { DISPATCH_LEVEL } else { PASSIVE_LEVEL };
                    for count in 0.. {
                        let mut anyone = false;
                        for registration in registrations {
                            if tell(registration, irql, count, thread) {
                                sent.fetch_add(1, Ordering::Relaxed);
                                anyone = true;
                            }
                        }
                        if !anyone || over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            for peer in peers {
                std::thread::sleep(Duration::from_millis(5));
                peer.reset();
            }
            eventually("all sessions are gone", || plane.control().counters().closed == 4);
            over.store(true, Ordering::Relaxed);
        });
        let sent = sent.into_inner();
        let totals = plane.control().extensions();
        assert_eq!(totals.callbacks + totals.lost, sent);
        assert_eq!(totals.late, 0);
        let told = plane.end();
        let mut callbacks = 0;
        for session in 1..=4 {
            let end = told
                .iter()
                .position(|told| matches!(told, Told::Detached { session: of, .. } if *of == session));
            let after = values(&told[end.expect("the end is told")..], session);
            assert_eq!(after, [], "callbacks after the end of session {session}");
            let mut last = HashMap::new();
            for value in values(&told, session) {
                callbacks += 1;
                let (count, thread) = (value & 0xFFFF_FFFF, value >> 32);
                let before = last.insert(thread, count);
                assert!(
                    before.is_none_or(|before| before < count),
                    "session {session}: {before:?} then {count}"
                );
            }
        }
        assert_eq!(callbacks, totals.callbacks);
    }
}

#[test]
fn a_provider_that_calls_after_the_close_is_counted_and_hits_nothing() {
    let plane = plane_with(supported());
    let peer = plane.connect();
    let gone = accepted(1).remove(0);
    peer.reset();
    eventually("the session is gone", || plane.control().counters().closed == 1);
    plane.wait_told("its end is told", |told| matches!(told, Told::Detached { session: 1, .. }));
    // Others have the slots meanwhile.
    let _peers: Vec<_> = (0..4).map(|_| plane.connect()).collect();
    accepted(4);
    for irql in [PASSIVE_LEVEL, DISPATCH_LEVEL] {
        let late = |context, dispatch| {
            let table = table(dispatch);
            // SAFETY: weir's table; the slot behind the context stays until the control plane has stopped.
            unsafe { (table.State)(context, 1, 0) }
        };
        // SAFETY: as above.
        unsafe { gone.call_regardless(irql, late) };
    }
    assert_eq!(plane.control().extensions().late, 2);
    let told = plane.end();
    assert!(!told.iter().any(|told| matches!(told, Told::Callback { .. })));
}

#[test]
fn a_provider_that_calls_although_it_was_not_taken_is_counted_and_hits_nothing() {
    // Grants, but with a table that weir does not take: the registration fails.
    let plane = plane_with(Script::Supported(Offer::new(&SHORT)));
    let _peer = plane.connect();
    plane.wait_told("the failure is told", |told| matches!(told, Told::Failed { session: 1, .. }));
    let registration = extension::registrations(NPI_CONNECTION_V1).pop().unwrap();
    assert!(
        registration
            .call(0, DISPATCH_LEVEL, |context, dispatch| {
                let table = table(dispatch);
                // SAFETY: weir's table and context, while the socket is there.
                unsafe { (table.State)(context, 1, 0) };
            })
            .is_some()
    );
    assert_eq!(plane.control().extensions().late, 1);
    plane.end();
}

#[test]
fn callbacks_with_wrong_arguments_are_counted_and_not_believed() {
    let plane = plane_with(supported());
    let _peer = plane.connect();
    let registration = &accepted(1)[0];
    let data = [7u8; 64];
    vendor(registration, 1, data.as_ptr().cast(), 41);
    vendor(registration, 2, std::ptr::null(), 1);
    metric(registration, std::ptr::null());
    metric(registration, &CONNECTION_METRIC_V1 { Size: 8, Version: 1, ..Default::default() });
    metric(registration, &CONNECTION_METRIC_V1 { Size: 32, Version: 0, ..Default::default() });
    assert_eq!(plane.control().extensions().malformed, 5);
    // What is right is taken, at the bounds too.
    vendor(registration, 3, data.as_ptr().cast(), 40);
    vendor(registration, 4, std::ptr::null(), 0);
    metric(
        registration,
        &CONNECTION_METRIC_V1 { Size: 32, Version: 1, BytesReceived: 5, ..Default::default() },
    );
    let told = plane.end();
    assert_eq!(values(&told, 1), [3, 4, 5]);
    assert!(told.contains(&Told::Detached { session: 1, callbacks: 3 }));
}

#[test]
fn events_are_switched_on_by_the_interfaces_own_identifier() {
    let plane = plane_with(supported());
    let _peer = plane.connect();
    let registration = &accepted(1)[0];
    assert_eq!(registration.enabled(), ALL);
    let table = table(registration.client_dispatch());
    assert_eq!((table.Size, table.Version), (40, CONNECTION_V1));
    plane.end();
}

#[test]
fn unload_in_the_midst_of_callbacks_waits_for_them() {
    for seed in 0..4 {
        let mut plane = plane(wsk::Config { seed, ..wsk::Config::default() }, supported(), &parameters());
        let _peers: Vec<_> = (0..4).map(|_| plane.connect()).collect();
        let registrations = accepted(4);
        std::thread::scope(|scope| {
            for registration in &registrations {
                scope.spawn(move || {
                    let mut count = 0;
                    while tell(registration, DISPATCH_LEVEL, count, 0) {
                        count += 1;
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(5));
            plane.stop();
        });
        let told = plane.end();
        for session in 1..=4 {
            assert!(
                told.iter().any(|told| matches!(told, Told::Detached { session: of, .. } if *of == session))
            );
        }
    }
}

#[test]
fn whatever_fails_in_a_registration_nothing_is_left_behind() {
    for nth in 1..12 {
        let sim = control_support::boot(wsk::Config::default());
        extension::script(NPI_CONNECTION_V1, supported());
        let plane = Plane::start_on(sim, &parameters());
        plane.address();
        plane.sim.fault(ntsim::fault::Plan::Nth(nth));
        // Refused, or served with or without the interface.
        let peer = plane.connect();
        eventually("it is settled", || {
            let counters = plane.control().counters();
            let totals = plane.control().extensions();
            counters.refused == 1 || totals.wsk.granted + totals.missing == 2
        });
        plane.sim.fault(ntsim::fault::Plan::None);
        drop(peer);
        plane.end();
    }
}

#[test]
fn a_registration_is_never_made_after_its_socket_began_to_close() {
    for seed in 0..10 {
        let mut plane = plane(wsk::Config { seed, ..wsk::Config::default() }, supported(), &parameters());
        let peers: Vec<_> = (0..4).map(|_| plane.connect()).collect();
        for peer in &peers {
            peer.reset();
        }
        plane.stop();
        plane.check();
        assert!(plane.told().iter().all(|told| !matches!(told, Told::Failed { .. })), "seed {seed}");
    }
}
