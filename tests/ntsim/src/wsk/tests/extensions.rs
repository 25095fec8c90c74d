//! Extension interfaces.

use super::client::{Client, Irp, Sock, wait_until};
use super::{assert_clean, assert_only, boot, plain};
use crate::fault::Plan;
use crate::sys::nt::{
    DISPATCH_LEVEL, GUID, NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_ACCESS_DENIED, STATUS_EVENT_PENDING,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_PARAMETER, STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::*;
use crate::wsk::extension::{self, Callback, Offer, Registration, Script};
use crate::wsk::{Completion, memory, rules, sockets};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

static NPI: GUID = GUID { Data1: 0x1234_5678, Data2: 1, Data3: 2, Data4: [1, 2, 3, 4, 5, 6, 7, 8] };
static OTHER: GUID = GUID { Data1: 0x8765_4321, ..NPI };

/// The interface of these tests: one callback, one function.
#[repr(C)]
struct ClientDispatch {
    notify: unsafe extern "system" fn(context: PVOID, value: usize),
}

#[repr(C)]
struct ProviderDispatch {
    poke: unsafe extern "system" fn(context: PVOID) -> NTSTATUS,
}

unsafe extern "system" fn notify(context: PVOID, value: usize) {
    unsafe { &*context.cast::<AtomicUsize>() }.fetch_add(value, Ordering::SeqCst);
}

unsafe extern "system" fn poke(context: PVOID) -> NTSTATUS {
    match extension::enter(context, "poke") {
        Some(_in_call) => STATUS_SUCCESS,
        None => STATUS_INVALID_DEVICE_REQUEST,
    }
}

static CLIENT: ClientDispatch = ClientDispatch { notify };
static PROVIDER: ProviderDispatch = ProviderDispatch { poke };

fn register_sized(
    socket: Sock,
    npi: &'static GUID,
    context: &AtomicUsize,
    sizes: (usize, usize),
) -> (NTSTATUS, WSK_EXTENSION_CONTROL_OUT) {
    let mut input = WSK_EXTENSION_CONTROL_IN {
        NpiId: npi,
        ClientContext: std::ptr::from_ref(context).cast_mut().cast(),
        ClientDispatch: (&raw const CLIENT).cast(),
    };
    let mut output = WSK_EXTENSION_CONTROL_OUT { ProviderContext: null_mut(), ProviderDispatch: null() };
    let status = socket.control(
        WskIoctl,
        SIO_WSK_REGISTER_EXTENSION,
        0,
        ((&raw mut input).cast(), sizes.0),
        ((&raw mut output).cast(), sizes.1),
        null_mut(),
    );
    (status, output)
}

fn register(
    socket: Sock,
    npi: &'static GUID,
    context: &AtomicUsize,
) -> (NTSTATUS, WSK_EXTENSION_CONTROL_OUT) {
    register_sized(socket, npi, context, (24, 16))
}

fn notify_by(registration: &Registration, event: u32, irql: u8, value: usize) -> bool {
    let called = registration.call(event, irql, |context, dispatch| {
        let table = unsafe { &*dispatch.cast::<ClientDispatch>() };
        unsafe { (table.notify)(context, value) };
    });
    called.is_some()
}

fn call_poke(out: &WSK_EXTENSION_CONTROL_OUT) -> NTSTATUS {
    let table = unsafe { &*out.ProviderDispatch.cast::<ProviderDispatch>() };
    unsafe { (table.poke)(out.ProviderContext) }
}

fn socket(client: &Client) -> Sock {
    client.socket(AF_INET, WSK_FLAG_CONNECTION_SOCKET, null_mut(), null())
}

#[test]
fn without_a_script_no_interface_is_supported() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_NOT_SUPPORTED);
    assert_eq!(sockets()[0].registrations(), [(NPI, STATUS_NOT_SUPPORTED)]);
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_granted_interface_is_called_both_ways_until_the_close() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    let server = memory::listen("127.0.0.1:9".parse().unwrap()).unwrap();
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    let (status, out) = register(socket, &NPI, &context);
    assert_eq!(status, STATUS_SUCCESS);
    // Its events can be switched on when it is connected.
    assert_eq!(socket.events_of(&NPI, 4, null_mut()), STATUS_INVALID_DEVICE_STATE);
    assert_eq!(socket.bind("0.0.0.0:0".parse().unwrap()).status, STATUS_SUCCESS);
    assert_eq!(socket.connect(server.local()).status, STATUS_SUCCESS);
    let found = extension::wait_registrations(NPI, 1, Duration::from_secs(5)).unwrap();
    let [registration] = &found[..] else { panic!("one registration") };
    assert_eq!(registration.provider_context(), out.ProviderContext);
    assert_eq!(call_poke(&out), STATUS_SUCCESS);
    assert_eq!(registration.function_calls(), 1);
    // Events come only when the client has enabled them; what no mask governs always does.
    assert!(notify_by(registration, 0, PASSIVE_LEVEL, 1));
    assert!(!notify_by(registration, 4, DISPATCH_LEVEL, 10));
    assert_eq!(socket.events_of(&NPI, 4 | 8, null_mut()), STATUS_SUCCESS);
    assert_eq!(registration.enabled(), 12);
    assert!(notify_by(registration, 4, DISPATCH_LEVEL, 10));
    assert_eq!(socket.events_of(&NPI, WSK_EVENT_DISABLE | 4, null_mut()), STATUS_SUCCESS);
    assert!(!notify_by(registration, 4, DISPATCH_LEVEL, 100));
    assert_eq!(context.load(Ordering::SeqCst), 11);
    socket.close();
    assert!(!registration.is_open());
    assert!(!notify_by(registration, 8, PASSIVE_LEVEL, 1000));
    assert_eq!(context.load(Ordering::SeqCst), 11);
    assert_eq!(extension::registrations(NPI).len(), 0);
    assert_eq!(registration.socket().registrations(), [(NPI, STATUS_SUCCESS)]);
    drop(client);
    assert_clean(&sim);
}

#[test]
fn any_status_but_success_grants_nothing() {
    for status in [STATUS_ACCESS_DENIED, STATUS_EVENT_PENDING, STATUS_PENDING] {
        let sim = boot(plain(Completion::Inline));
        let client = Client::new();
        extension::script(NPI, Script::Fail(status));
        let socket = socket(&client);
        let context = AtomicUsize::new(0);
        let (returned, out) = register(socket, &NPI, &context);
        assert_eq!(returned, status);
        assert!(!out.ProviderDispatch.is_null(), "what a client must not use is there to be misused");
        assert_eq!(socket.events_of(&NPI, 1, null_mut()), STATUS_INVALID_PARAMETER);
        assert!(extension::registrations(NPI).is_empty());
        socket.close();
        drop(client);
        assert_clean(&sim);
    }
}

#[test]
fn an_interface_may_be_granted_with_null_tables() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::NullTables);
    let socket = socket(&client);
    let (status, out) = register(socket, &NPI, &AtomicUsize::new(0));
    assert_eq!(status, STATUS_SUCCESS);
    assert!(out.ProviderContext.is_null() && out.ProviderDispatch.is_null());
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_provider_may_call_back_before_the_registration_returns() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    let callback = Callback::new(|registration| {
        assert!(notify_by(registration, 0, DISPATCH_LEVEL, 7));
    });
    extension::script(NPI, Script::InlineCallback(Offer::new(&PROVIDER), callback));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_SUCCESS);
    assert_eq!(context.load(Ordering::SeqCst), 7);
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn several_interfaces_fit_one_socket_each_once() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    extension::script(OTHER, Script::Supported(Offer::new(&PROVIDER)));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_SUCCESS);
    assert_eq!(register(socket, &OTHER, &context).0, STATUS_SUCCESS);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_INVALID_DEVICE_REQUEST);
    extension::clear(NPI);
    let second = self::socket(&client);
    assert_eq!(register(second, &NPI, &context).0, STATUS_NOT_SUPPORTED);
    second.close();
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_script_can_choose_by_socket() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script_by(NPI, |socket| {
        if socket.category() == crate::wsk::Category::Listen {
            Script::NotSupported
        } else {
            Script::Supported(Offer::new(&PROVIDER))
        }
    });
    let context = AtomicUsize::new(0);
    let listener = client.listener("127.0.0.1:1", null_mut(), null());
    assert_eq!(register(listener, &NPI, &context).0, STATUS_NOT_SUPPORTED);
    // Nothing passes from a listening socket to what it accepts.
    let peer = memory::connect("127.0.0.1:1".parse().unwrap()).unwrap();
    let accepted = listener.accept();
    assert!(sockets()[1].registrations().is_empty());
    assert_eq!(register(accepted, &NPI, &context).0, STATUS_SUCCESS);
    accepted.close();
    listener.close();
    drop((peer, client));
    assert_clean(&sim);
}

#[test]
fn a_registration_takes_no_irp_and_buffers_of_the_right_size() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register_sized(socket, &NPI, &context, (24, 8)).0, STATUS_INVALID_PARAMETER);
    assert_eq!(register_sized(socket, &NPI, &context, (16, 16)).0, STATUS_INVALID_PARAMETER);
    let outcome = super::client::call(|irp| {
        let mut input = [0_usize; 3];
        let mut output = [0_usize; 2];
        socket.control(
            WskIoctl,
            SIO_WSK_REGISTER_EXTENSION,
            0,
            ((&raw mut input).cast(), 24),
            ((&raw mut output).cast(), 16),
            irp,
        )
    });
    assert_eq!(outcome.status, STATUS_INVALID_PARAMETER);
    socket.close();
    drop(client);
    let names: Vec<_> = sim.report().violations.iter().map(|violation| violation.rule.name).collect();
    assert_eq!(names, [rules::NULL_OUTPUT.name, rules::NULL_OUTPUT.name, rules::IRP_FORBIDDEN.name]);
}

#[test]
fn a_registration_fails_on_demand() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    let socket = socket(&client);
    sim.fault(Plan::Api { name: "SIO_WSK_REGISTER_EXTENSION", nth: 1 });
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_INSUFFICIENT_RESOURCES);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_SUCCESS);
    let attempts = sockets()[0].registrations();
    assert_eq!(attempts, [(NPI, STATUS_INSUFFICIENT_RESOURCES), (NPI, STATUS_SUCCESS)]);
    sim.fault(Plan::None);
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn the_close_waits_for_extension_callbacks_in_progress() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_SUCCESS);
    let registration = extension::registrations(NPI).remove(0);
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    thread::scope(|scope| {
        let (inside, outside) = (Arc::clone(&entered), Arc::clone(&leave));
        let calling = registration.clone();
        scope.spawn(move || {
            calling.call(0, PASSIVE_LEVEL, |_: PVOID, _: *const c_void| {
                inside.wait();
                outside.wait();
            })
        });
        entered.wait();
        let close = Irp::new();
        assert_eq!(socket.close_irp(close.irp), STATUS_PENDING);
        assert!(!notify_by(&registration, 0, PASSIVE_LEVEL, 1));
        assert_eq!(close.wait_for(Duration::from_millis(20)), None);
        leave.wait();
        assert_eq!(close.wait(), (STATUS_SUCCESS, 0));
    });
    drop(client);
    assert_clean(&sim);
}

#[test]
fn closing_with_an_extension_function_in_progress_is_noticed() {
    static ENTERED: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "system" fn slow(context: PVOID) -> NTSTATUS {
        let _in_call = extension::enter(context, "slow");
        ENTERED.store(1, Ordering::SeqCst);
        while ENTERED.load(Ordering::SeqCst) != 2 {
            thread::yield_now();
        }
        STATUS_SUCCESS
    }
    static SLOW: ProviderDispatch = ProviderDispatch { poke: slow };
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&SLOW)));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    let (_, out) = register(socket, &NPI, &context);
    let (table, its_context) =
        (out.ProviderDispatch.expose_provenance(), out.ProviderContext.expose_provenance());
    thread::scope(|scope| {
        scope.spawn(move || {
            call_poke(&WSK_EXTENSION_CONTROL_OUT {
                ProviderContext: std::ptr::with_exposed_provenance_mut(its_context),
                ProviderDispatch: std::ptr::with_exposed_provenance(table),
            })
        });
        wait_until("the function", || ENTERED.load(Ordering::SeqCst) == 1);
        socket.close();
        ENTERED.store(2, Ordering::SeqCst);
    });
    drop(client);
    assert_only(&sim, &rules::EXTENSION_AT_CLOSE);
}

#[test]
fn an_extension_function_called_after_the_close_is_noticed() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    let (_, out) = register(socket, &NPI, &context);
    socket.close();
    assert_eq!(call_poke(&out), STATUS_INVALID_DEVICE_REQUEST);
    drop(client);
    assert_only(&sim, &rules::EXTENSION_AFTER_CLOSE);
}

#[test]
fn callbacks_storm_from_many_threads_and_are_all_counted() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    extension::script(NPI, Script::Supported(Offer::new(&PROVIDER)));
    let socket = socket(&client);
    let context = AtomicUsize::new(0);
    assert_eq!(register(socket, &NPI, &context).0, STATUS_SUCCESS);
    let registration = extension::registrations(NPI).remove(0);
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let registration = registration.clone();
            scope.spawn(move || {
                for _ in 0..500 {
                    assert!(notify_by(
                        &registration,
                        0,
                        if thread % 2 == 0 { PASSIVE_LEVEL } else { DISPATCH_LEVEL },
                        1
                    ));
                }
            });
        }
    });
    assert_eq!(context.load(Ordering::SeqCst), 2000);
    socket.close();
    drop(client);
    assert_clean(&sim);
}
