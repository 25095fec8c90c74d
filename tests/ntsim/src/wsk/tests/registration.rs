//! Registration, capture, the client object.

use super::client::{Client, Irp, Sock, call, registration, succeed, wait_until};
use super::{assert_clean, assert_only, boot, plain};
use crate::boot::Sim;
use crate::fault::Plan;
use crate::irql::raise_scope;
use crate::sys::nt::{
    GUID, NTSTATUS, STATUS_BUFFER_OVERFLOW, STATUS_CANCELLED, STATUS_DEVICE_NOT_READY,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED,
    STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::*;
use crate::verify::lock;
use crate::wsk::exec::{Lane, Part};
use crate::wsk::{Completion, Config, rules, set_ready};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn machine() -> Sim {
    boot(plain(Completion::Inline))
}

fn register(registration: *mut WSK_REGISTRATION, dispatch: &'static WSK_CLIENT_DISPATCH) {
    let mut npi = WSK_CLIENT_NPI { ClientContext: null_mut(), Dispatch: dispatch };
    assert_eq!(unsafe { WskRegister(&raw mut npi, registration) }, STATUS_SUCCESS);
}

fn no_provider() -> WSK_PROVIDER_NPI {
    WSK_PROVIDER_NPI { Client: null_mut(), Dispatch: null() }
}

#[test]
fn a_client_registers_captures_and_leaves_nothing() {
    let sim = machine();
    let client = Client::new();
    assert_eq!(client.dispatch().Version, 0x0100);
    drop(client);
    assert_clean(&sim);
}

#[test]
fn capture_without_a_provider_is_not_ready_and_waits_no_longer_than_asked() {
    let sim = boot(Config { ready: false, ..plain(Completion::Inline) });
    let mut object = registration();
    register(&raw mut *object, &super::client::DISPATCH);
    let mut npi = no_provider();
    let capture = |timeout, npi: &mut WSK_PROVIDER_NPI, object: &mut WSK_REGISTRATION| unsafe {
        WskCaptureProviderNPI(&raw mut *object, timeout, &raw mut *npi)
    };
    assert_eq!(capture(WSK_NO_WAIT, &mut npi, &mut object), STATUS_DEVICE_NOT_READY);
    let began = Instant::now();
    assert_eq!(capture(30, &mut npi, &mut object), STATUS_DEVICE_NOT_READY);
    assert!(began.elapsed() >= Duration::from_millis(30));
    let mut characteristics = WSK_PROVIDER_CHARACTERISTICS::default();
    let query = unsafe { WskQueryProviderCharacteristics(&raw mut *object, &raw mut characteristics) };
    assert_eq!(query, STATUS_DEVICE_NOT_READY);
    set_ready(true);
    assert_eq!(capture(WSK_INFINITE_WAIT, &mut npi, &mut object), STATUS_SUCCESS);
    unsafe { WskReleaseProviderNPI(&raw mut *object) };
    unsafe { WskDeregister(&raw mut *object) };
    assert_eq!(capture(WSK_NO_WAIT, &mut npi, &mut object), STATUS_DEVICE_NOT_READY);
    assert_clean(&sim);
}

#[test]
fn deregistering_ends_a_capture_that_waits() {
    let sim = boot(Config { ready: false, ..plain(Completion::Inline) });
    let mut object = registration();
    register(&raw mut *object, &super::client::DISPATCH);
    let address = (&raw mut *object).expose_provenance();
    let waits = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            waits.store(true, Ordering::Release);
            let mut npi = no_provider();
            let object = std::ptr::with_exposed_provenance_mut(address);
            unsafe { WskCaptureProviderNPI(object, WSK_INFINITE_WAIT, &raw mut npi) }
        });
        wait_until("the capture", || waits.load(Ordering::Acquire));
        thread::sleep(Duration::from_millis(5));
        unsafe { WskDeregister(std::ptr::with_exposed_provenance_mut(address)) };
        assert_eq!(waiter.join().unwrap(), STATUS_DEVICE_NOT_READY);
    });
    assert_clean(&sim);
}

#[test]
fn a_version_that_the_provider_lacks_has_no_interface() {
    static NEWER: WSK_CLIENT_DISPATCH =
        WSK_CLIENT_DISPATCH { Version: MAKE_WSK_VERSION(2, 0), Reserved: 0, WskClientEvent: None };
    let sim = boot(Config { versions: (0x0100, 0x0101), ..plain(Completion::Inline) });
    let mut object = registration();
    register(&raw mut *object, &NEWER);
    let mut npi = no_provider();
    let status = unsafe { WskCaptureProviderNPI(&raw mut *object, WSK_NO_WAIT, &raw mut npi) };
    assert_eq!(status, STATUS_NOINTERFACE);
    let mut found = WSK_PROVIDER_CHARACTERISTICS::default();
    let status = unsafe { WskQueryProviderCharacteristics(&raw mut *object, &raw mut found) };
    assert_eq!((status, found.LowestVersion, found.HighestVersion), (STATUS_SUCCESS, 0x0100, 0x0101));
    unsafe { WskDeregister(&raw mut *object) };
    assert_clean(&sim);
}

#[test]
fn a_registration_that_is_not_deregistered_is_a_leak() {
    let sim = machine();
    let mut object = registration();
    register(&raw mut *object, &super::client::DISPATCH);
    assert_eq!(sim.report().leaks.len(), 1);
    unsafe { WskDeregister(&raw mut *object) };
    assert_clean(&sim);
}

#[test]
fn one_registration_object_cannot_be_registered_twice() {
    let sim = machine();
    let mut object = registration();
    register(&raw mut *object, &super::client::DISPATCH);
    let mut npi = WSK_CLIENT_NPI { ClientContext: null_mut(), Dispatch: &raw const super::client::DISPATCH };
    assert_eq!(unsafe { WskRegister(&raw mut npi, &raw mut *object) }, STATUS_INVALID_PARAMETER);
    unsafe { WskDeregister(&raw mut *object) };
    assert_only(&sim, &rules::REGISTERED_TWICE);
}

#[test]
fn a_moved_registration_object_is_noticed() {
    let sim = machine();
    let mut object = registration();
    register(&raw mut *object, &super::client::DISPATCH);
    let mut copy = WSK_REGISTRATION { ..*object };
    let mut npi = no_provider();
    let status = unsafe { WskCaptureProviderNPI(&raw mut copy, WSK_NO_WAIT, &raw mut npi) };
    assert_eq!(status, STATUS_INVALID_PARAMETER);
    unsafe { WskDeregister(&raw mut *object) };
    assert_only(&sim, &rules::REGISTRATION_MOVED);
}

#[test]
fn a_release_without_a_capture_is_noticed() {
    let sim = machine();
    let mut client = Client::new();
    client.release();
    unsafe { WskReleaseProviderNPI(&raw mut *client.registration) };
    drop(client);
    assert_only(&sim, &rules::RELEASE_WITHOUT_CAPTURE);
}

#[test]
fn the_provider_is_not_called_after_its_release() {
    let sim = machine();
    let mut client = Client::new();
    client.release();
    let outcome = call(|irp| client.socket_irp(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null(), irp));
    assert_eq!(outcome.status, STATUS_DEVICE_NOT_READY);
    drop(client);
    assert_only(&sim, &rules::NO_CAPTURE);
}

#[test]
fn an_unknown_client_object_is_noticed_and_its_irp_completed() {
    let sim = machine();
    let mut client = Client::new();
    let real = std::mem::replace(&mut client.npi.Client, std::ptr::without_provenance_mut(0x1000));
    let outcome = call(|irp| client.socket_irp(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null(), irp));
    assert_eq!(outcome.status, STATUS_INVALID_HANDLE);
    client.npi.Client = real;
    drop(client);
    assert_only(&sim, &rules::NOT_A_CLIENT);
}

#[test]
fn sockets_outlive_the_release_of_the_provider_and_hold_the_deregistration() {
    let sim = machine();
    let mut client = Client::new();
    let socket = client.socket(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null());
    client.release();
    let closed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            closed.store(true, Ordering::Release);
            socket.close();
        });
        drop(client);
        assert!(closed.load(Ordering::Acquire), "WskDeregister waits for the sockets");
    });
    assert_clean(&sim);
}

#[test]
fn a_deregistration_that_never_ends_is_reported_with_what_is_left() {
    let sim = machine();
    let client = Client::new();
    let socket = client.socket(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null());
    drop(client);
    let report = sim.report();
    assert_eq!(report.violations[0].rule, &rules::DEREGISTER_BLOCKED, "{report}");
    assert!(report.violations[0].detail.contains("1 sockets"), "{report}");
    socket.close();
}

#[test]
fn what_waits_at_passive_level_is_not_called_at_dispatch_level() {
    let sim = machine();
    let mut client = Client::new();
    {
        let _raised = raise_scope();
        let mut npi = no_provider();
        let no_wait =
            unsafe { WskCaptureProviderNPI(&raw mut *client.registration, WSK_NO_WAIT, &raw mut npi) };
        assert_eq!(no_wait, STATUS_SUCCESS);
        unsafe { WskReleaseProviderNPI(&raw mut *client.registration) };
    }
    assert_clean_but_registered(&sim);
    {
        let _raised = raise_scope();
        let mut npi = no_provider();
        let waits = unsafe { WskCaptureProviderNPI(&raw mut *client.registration, 10, &raw mut npi) };
        assert_eq!(waits, STATUS_SUCCESS);
        unsafe { WskReleaseProviderNPI(&raw mut *client.registration) };
    }
    let report = sim.report();
    assert_eq!(report.violations.len(), 1, "{report}");
    assert_eq!(report.violations[0].api, "WskCaptureProviderNPI");
}

fn assert_clean_but_registered(sim: &Sim) {
    let report = sim.report();
    assert_eq!(report.violation_count, 0, "{report}");
}

#[test]
fn every_call_that_can_fail_fails_on_demand_and_completes_its_irp() {
    let sim = boot(plain(Completion::Seeded));
    let client = Client::new();
    for nth in 1..=3 {
        sim.fault(Plan::Api { name: "WskSocket", nth });
        let mut failed = 0;
        for _ in 0..3 {
            let outcome =
                call(|irp| client.socket_irp(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null(), irp));
            if outcome.status == STATUS_INSUFFICIENT_RESOURCES {
                failed += 1;
            } else {
                super::client::Sock(std::ptr::with_exposed_provenance_mut(outcome.information)).close();
            }
        }
        assert_eq!(failed, 1);
    }
    sim.fault(Plan::Api { name: "WskControlClient", nth: 1 });
    assert_eq!(client.set_static(WSK_EVENT_RECEIVE), STATUS_INSUFFICIENT_RESOURCES);
    sim.fault(Plan::None);
    drop(client);
    assert_clean(&sim);
}

#[test]
fn datagram_and_stream_sockets_and_unknown_transports_are_refused() {
    let sim = machine();
    let client = Client::new();
    for flags in [WSK_FLAG_DATAGRAM_SOCKET, WSK_FLAG_STREAM_SOCKET] {
        let outcome = call(|irp| client.socket_irp(AF_INET, flags, null_mut(), null(), irp));
        assert_eq!(outcome.status, STATUS_NOT_SUPPORTED);
    }
    let outcome = call(|irp| client.socket_irp(99, WSK_FLAG_LISTEN_SOCKET, null_mut(), null(), irp));
    assert_eq!(outcome.status, STATUS_NOT_SUPPORTED);
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_basic_socket_takes_no_context() {
    let sim = machine();
    let client = Client::new();
    let mut something = 0_u32;
    client.socket(AF_INET, WSK_FLAG_BASIC_SOCKET, (&raw mut something).cast(), null()).close();
    drop(client);
    assert_only(&sim, &rules::BASIC_CONTEXT);
}

#[test]
fn static_callbacks_are_set_before_any_socket_and_without_an_irp() {
    let sim = machine();
    let client = Client::new();
    assert_eq!(client.set_static(WSK_EVENT_RECEIVE | WSK_EVENT_DISABLE), STATUS_INVALID_PARAMETER);
    assert_eq!(client.set_static(WSK_EVENT_RECEIVE), STATUS_SUCCESS);
    client.socket(AF_INET, WSK_FLAG_BASIC_SOCKET, null_mut(), null()).close();
    assert_eq!(client.set_static(WSK_EVENT_ACCEPT), STATUS_INVALID_DEVICE_STATE);
    assert_eq!(sim.report().violations[0].rule, &rules::STATIC_AFTER_SOCKET);
    let behaviour = &mut 1_u32.to_ne_bytes();
    let late = client.control(WSK_TDI_BEHAVIOR, behaviour, &mut [], null_mut(), null_mut());
    assert_eq!(late, STATUS_INVALID_DEVICE_STATE);
    drop(client);
    assert_only(&sim, &rules::STATIC_AFTER_SOCKET);
}

#[test]
fn a_client_operation_without_irp_refuses_one_and_completes_it() {
    let sim = machine();
    let client = Client::new();
    let outcome = call(|irp| client.control(WSK_TDI_BEHAVIOR, &mut [0; 4], &mut [], null_mut(), irp));
    assert_eq!(outcome.status, STATUS_INVALID_PARAMETER);
    drop(client);
    assert_only(&sim, &rules::IRP_FORBIDDEN);
}

#[test]
fn the_transport_list_is_asked_for_its_size_and_then_read() {
    let sim = machine();
    let client = Client::new();
    let mut size = 0;
    let probe = client.control(WSK_TRANSPORT_LIST_QUERY, &mut [], &mut [], &raw mut size, null_mut());
    assert_eq!((probe, size), (STATUS_BUFFER_OVERFLOW, 2 * size_of::<WSK_TRANSPORT>()));
    let mut list = vec![0; size];
    let read = client.control(WSK_TRANSPORT_LIST_QUERY, &mut [], &mut list, &raw mut size, null_mut());
    assert_eq!(read, STATUS_SUCCESS);
    let first = unsafe { list.as_ptr().cast::<WSK_TRANSPORT>().read_unaligned() };
    assert_eq!((first.SocketType, first.Protocol, first.AddressFamily), (SOCK_STREAM, IPPROTO_TCP, AF_INET));
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_wait_for_the_transport_list_ends_by_a_change_a_cancel_or_the_deregistration() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let change = |irp: &Irp| {
        let status = client.control(WSK_TRANSPORT_LIST_CHANGE, &mut [], &mut [], null_mut(), irp.irp);
        assert_eq!(status, STATUS_PENDING);
    };
    let irp = Irp::new();
    change(&irp);
    assert_eq!(irp.result(), None);
    crate::wsk::change_transport_list();
    assert_eq!(irp.wait(), (STATUS_SUCCESS, 0));
    irp.reuse();
    change(&irp);
    assert_eq!(unsafe { crate::sys::nt::IoCancelIrp(irp.irp) }, 1);
    assert_eq!(irp.wait(), (STATUS_CANCELLED, 0));
    irp.reuse();
    change(&irp);
    drop(client);
    assert_eq!(irp.result(), Some((STATUS_CANCELLED, 0)));
    drop(irp);
    assert_clean(&sim);
}

/// A security descriptor: self-relative, with an owner and an empty list.
fn descriptor() -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0] = 1;
    bytes[2..4].copy_from_slice(&0x8004_u16.to_le_bytes());
    bytes[4] = 20;
    bytes[16] = 32;
    bytes[20..32].copy_from_slice(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]);
    bytes[32..40].copy_from_slice(&[2, 0, 8, 0, 0, 0, 0, 0]);
    bytes
}

fn cache(client: &Client, descriptor: &mut [u8]) -> (NTSTATUS, usize) {
    let pointer = descriptor.as_mut_ptr().expose_provenance();
    let mut cached = [0_u8; 8];
    let status =
        client.control(WSK_CACHE_SD, &mut pointer.to_ne_bytes(), &mut cached, null_mut(), null_mut());
    (status, usize::from_ne_bytes(cached))
}

#[test]
fn what_is_no_security_descriptor_is_not_cached() {
    let sim = machine();
    let client = Client::new();
    assert_eq!(cache(&client, &mut [0_u8; 40]).0, STATUS_INVALID_PARAMETER);
    drop(client);
    assert_only(&sim, &rules::SECURITY_INVALID);
}

#[test]
fn a_security_descriptor_that_is_released_before_its_socket_is_made_is_noticed() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let (status, security) = cache(&client, &mut descriptor());
    assert_eq!(status, STATUS_SUCCESS);
    // What completes the client's requests waits here.
    let gate = Arc::new(Mutex::new(()));
    let held = lock(&gate);
    let waits = Arc::clone(&gate);
    let subsystem = crate::wsk::current().unwrap();
    subsystem.executor.put(Lane(client.id(), Part::Control), Box::new(move || drop(lock(&waits))));
    let irp = Irp::new();
    let returned = unsafe {
        client.dispatch().WskSocket.unwrap()(
            client.npi.Client,
            AF_INET,
            SOCK_STREAM,
            IPPROTO_TCP,
            WSK_FLAG_LISTEN_SOCKET,
            null_mut(),
            null(),
            null_mut(),
            null_mut(),
            std::ptr::with_exposed_provenance_mut(security),
            irp.irp,
        )
    };
    assert_eq!(returned, STATUS_PENDING);
    let released =
        client.control(WSK_RELEASE_SD, &mut security.to_ne_bytes(), &mut [], null_mut(), null_mut());
    assert_eq!(released, STATUS_SUCCESS);
    drop(held);
    let (status, handle) = irp.wait();
    assert_eq!(status, STATUS_SUCCESS);
    let socket = Sock(std::ptr::with_exposed_provenance_mut(handle));
    assert_eq!(crate::wsk::sockets()[0].security().as_deref(), Some(&descriptor()[..]));
    socket.close();
    drop((irp, client));
    assert_only(&sim, &rules::SECURITY_RELEASED_EARLY);
}

#[test]
fn security_descriptors_are_cached_used_and_released() {
    let sim = machine();
    let client = Client::new();
    let mut mine = descriptor();
    let pointer = (&raw mut mine).expose_provenance();
    let mut cached = [0_u8; 8];
    let status =
        client.control(WSK_CACHE_SD, &mut pointer.to_ne_bytes(), &mut cached, null_mut(), null_mut());
    assert_eq!(status, STATUS_SUCCESS);
    let socket = client.socket(AF_INET, WSK_FLAG_LISTEN_SOCKET, null_mut(), null());
    let set = |mut security: usize| {
        let input = ((&raw mut security).cast(), size_of_val(&security));
        call(|irp| socket.control(WskSetOption, SO_WSK_SECURITY, SOL_SOCKET, input, (null_mut(), 0), irp))
            .status
    };
    assert_eq!(set(usize::from_ne_bytes(cached)), STATUS_SUCCESS);
    assert_eq!(sim.report().violation_count, 0);
    assert_eq!(set(pointer), STATUS_INVALID_PARAMETER);
    assert_eq!(sim.report().violations[0].rule, &rules::SECURITY_NOT_CACHED);
    let mut copy = 0_usize;
    let output = ((&raw mut copy).cast(), size_of_val(&copy));
    succeed(|irp| socket.control(WskGetOption, SO_WSK_SECURITY, SOL_SOCKET, (null_mut(), 0), output, irp));
    assert_ne!(copy, 0);
    let released = client.control(WSK_RELEASE_SD, &mut copy.to_ne_bytes(), &mut [], null_mut(), null_mut());
    assert_eq!(released, STATUS_SUCCESS);
    socket.close();
    let leaks = sim.report().leaks;
    assert!(leaks.iter().any(|leak| leak.kind == "WSK cached security descriptor"));
    let released = client.control(WSK_RELEASE_SD, &mut cached, &mut [], null_mut(), null_mut());
    assert_eq!(released, STATUS_SUCCESS);
    drop(client);
    assert_only(&sim, &rules::SECURITY_NOT_CACHED);
}

#[test]
fn a_provider_that_lacks_functions_returns_and_leaves_the_irp_alone() {
    let sim = boot(Config { completion: Completion::Inline, ..Config::incomplete() });
    let client = Client::new();
    assert_eq!(client.set_static(WSK_EVENT_RECEIVE), STATUS_NOT_IMPLEMENTED);
    let socket = client.socket(AF_INET, WSK_FLAG_LISTEN_SOCKET, null_mut(), null());
    let irp = Irp::new();
    let mut value = 1_u32;
    let input = ((&raw mut value).cast(), 4);
    let status =
        socket.control(WskSetOption, SO_EXCLUSIVEADDRUSE, SOL_SOCKET, input, (null_mut(), 0), irp.irp);
    assert_eq!(status, STATUS_NOT_IMPLEMENTED);
    assert_eq!(irp.wait_for(Duration::from_millis(20)), None);
    irp.abandon();
    socket.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn name_resolution_is_refused_and_completes_its_irp() {
    let sim = machine();
    let client = Client::new();
    let mut result = std::ptr::without_provenance_mut(1);
    let outcome = call(|irp| unsafe {
        client.dispatch().WskGetAddressInfo.unwrap()(
            client.npi.Client,
            null_mut(),
            null_mut(),
            0,
            null_mut::<GUID>(),
            null_mut(),
            &raw mut result,
            null_mut(),
            null_mut(),
            irp,
        )
    });
    assert_eq!((outcome.status, result), (STATUS_NOT_SUPPORTED, null_mut()));
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_socket_connects_in_one_call_or_is_not_there() {
    let sim = boot(plain(Completion::Seeded));
    let client = Client::new();
    let server = crate::wsk::memory::listen("127.0.0.1:700".parse().unwrap()).unwrap();
    let connect = |to: &str, irp| {
        let mut from = crate::wsk::address::to_inet("0.0.0.0:0".parse().unwrap(), AF_INET);
        let mut to = crate::wsk::address::to_inet(to.parse().unwrap(), AF_INET);
        unsafe {
            client.dispatch().WskSocketConnect.unwrap()(
                client.npi.Client,
                SOCK_STREAM,
                IPPROTO_TCP,
                (&raw mut from).cast(),
                (&raw mut to).cast(),
                0,
                null_mut(),
                null(),
                null_mut(),
                null_mut(),
                null_mut(),
                irp,
            )
        }
    };
    let handle = succeed(|irp| connect("127.0.0.1:700", irp));
    let socket = super::client::Sock(std::ptr::with_exposed_provenance_mut(handle));
    let peer = server.accept().unwrap();
    assert_eq!(socket.send(b"hello").status, STATUS_SUCCESS);
    assert_eq!(peer.recv_exact(5).unwrap(), b"hello");
    socket.close();
    let refused = call(|irp| connect("127.0.0.1:701", irp));
    assert_eq!(refused.status, crate::sys::nt::STATUS_CONNECTION_REFUSED);
    crate::wsk::memory::set_silent("127.0.0.1:702".parse().unwrap(), true).unwrap();
    let irp = Irp::new();
    assert_eq!(connect("127.0.0.1:702", irp.irp), STATUS_PENDING);
    unsafe { crate::sys::nt::IoCancelIrp(irp.irp) };
    assert_eq!(irp.wait().0, STATUS_CANCELLED);
    drop(irp);
    drop(client);
    assert!(crate::wsk::sockets().is_empty());
    assert_clean(&sim);
}
