//! Listening sockets.

use super::client::{Client, Irp, Sock, call, wait_until};
use super::{assert_clean, assert_only, boot, every, plain};
use crate::sys::nt::{
    NTSTATUS, PVOID, STATUS_ADDRESS_ALREADY_ASSOCIATED, STATUS_ADDRESS_ALREADY_EXISTS, STATUS_CANCELLED,
    STATUS_FILE_FORCED_CLOSED, STATUS_INVALID_DEVICE_STATE, STATUS_INVALID_PARAMETER, STATUS_PENDING,
    STATUS_REQUEST_NOT_ACCEPTED, STATUS_SUCCESS,
};
use crate::sys::wsk::*;
use crate::verify::lock;
use crate::wsk::{Completion, Config, address, memory, rules, settle, sockets};
use std::net::SocketAddr;
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::time::Duration;

#[derive(Default)]
struct Seen {
    accepted: Vec<Sock>,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    data: Vec<u8>,
    dead: usize,
    inspected: Vec<WSK_INSPECT_ID>,
    aborted: Vec<WSK_INSPECT_ID>,
}

struct App {
    seen: Mutex<Seen>,
    answer: Mutex<NTSTATUS>,
    action: Mutex<WSK_INSPECT_ACTION>,
    /// Whether accepted sockets get callbacks.
    callbacks: bool,
    family: u16,
}

impl App {
    fn new(callbacks: bool) -> Box<Self> {
        Box::new(Self {
            seen: Mutex::default(),
            answer: Mutex::new(STATUS_SUCCESS),
            action: Mutex::new(WskInspectAccept),
            callbacks,
            family: AF_INET,
        })
    }

    fn context(&self) -> PVOID {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    unsafe fn of<'a>(context: PVOID) -> &'a Self {
        unsafe { &*context.cast() }
    }

    fn accepted(&self) -> Vec<Sock> {
        lock(&self.seen).accepted.clone()
    }
}

unsafe extern "system" fn on_accept(
    context: PVOID,
    _flags: u32,
    local: PSOCKADDR,
    remote: PSOCKADDR,
    socket: PWSK_SOCKET,
    its_context: *mut PVOID,
    its_dispatch: *mut *const WSK_CLIENT_CONNECTION_DISPATCH,
) -> NTSTATUS {
    let app = unsafe { App::of(context) };
    let mut seen = lock(&app.seen);
    if socket.is_null() {
        seen.dead += 1;
        return STATUS_SUCCESS;
    }
    let answer = *lock(&app.answer);
    if answer != STATUS_SUCCESS {
        return answer;
    }
    if app.callbacks {
        unsafe { *its_context = context };
        unsafe { *its_dispatch = &raw const EVENTS };
    }
    let local = unsafe { address::read(local, app.family) }.unwrap();
    let remote = unsafe { address::read(remote, app.family) }.unwrap();
    seen.addresses.push((local, remote));
    seen.accepted.push(Sock(socket));
    STATUS_SUCCESS
}

unsafe extern "system" fn on_inspect(
    context: PVOID,
    _local: PSOCKADDR,
    _remote: PSOCKADDR,
    id: PWSK_INSPECT_ID,
) -> WSK_INSPECT_ACTION {
    let app = unsafe { App::of(context) };
    if id.is_null() {
        lock(&app.seen).dead += 1;
        return WskInspectReject;
    }
    lock(&app.seen).inspected.push(unsafe { *id });
    *lock(&app.action)
}

unsafe extern "system" fn on_abort(context: PVOID, id: PWSK_INSPECT_ID) -> NTSTATUS {
    lock(&unsafe { App::of(context) }.seen).aborted.push(unsafe { *id });
    STATUS_SUCCESS
}

unsafe extern "system" fn on_receive(
    context: PVOID,
    _flags: u32,
    mut node: PWSK_DATA_INDICATION,
    _indicated: usize,
    _accepted: *mut usize,
) -> NTSTATUS {
    let app = unsafe { App::of(context) };
    while !node.is_null() {
        let found = unsafe { *node };
        let part = unsafe { crate::wsk::buffer::Buffer::check("test", &raw const found.Buffer) }.unwrap();
        part.read(0, |bytes| {
            lock(&app.seen).data.extend_from_slice(bytes);
            bytes.len()
        });
        node = found.Next;
    }
    STATUS_SUCCESS
}

static EVENTS: WSK_CLIENT_CONNECTION_DISPATCH = WSK_CLIENT_CONNECTION_DISPATCH {
    WskReceiveEvent: Some(on_receive),
    WskDisconnectEvent: None,
    WskSendBacklogEvent: None,
};

static LISTEN: WSK_CLIENT_LISTEN_DISPATCH = WSK_CLIENT_LISTEN_DISPATCH {
    WskAcceptEvent: Some(on_accept),
    WskInspectEvent: Some(on_inspect),
    WskAbortEvent: Some(on_abort),
};

const AT: &str = "127.0.0.1:47474";

fn at() -> SocketAddr {
    AT.parse().unwrap()
}

#[test]
fn a_bound_listener_listens_and_queues_until_it_is_asked() {
    for config in every() {
        let sim = boot(config);
        let client = Client::new();
        let listener = client.listener(AT, null_mut(), null());
        let early = memory::connect(at()).unwrap();
        let first = listener.accept();
        let irp = Irp::new();
        assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
        assert_eq!(irp.wait_for(Duration::from_millis(5)), None);
        let late = memory::connect(at()).unwrap();
        let (status, handle) = irp.wait();
        assert_eq!(status, STATUS_SUCCESS);
        let second = Sock(std::ptr::with_exposed_provenance_mut(handle));
        early.send(b"one").unwrap();
        late.send(b"two").unwrap();
        assert_eq!(first.receive(3, WSK_FLAG_WAITALL).1, b"one");
        assert_eq!(second.receive(3, WSK_FLAG_WAITALL).1, b"two");
        assert_eq!(first.local(), at());
        for socket in [first, second, listener] {
            socket.close();
        }
        drop((irp, client));
        assert_clean(&sim);
    }
}

#[test]
fn an_accept_writes_the_addresses_and_ends_by_cancel_or_close() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let listener = client.listener(AT, null_mut(), null());
    let mut addresses = [SOCKADDR_IN::default(); 2];
    let (local, remote) = (&raw mut addresses[0], &raw mut addresses[1]);
    let irp = Irp::new();
    let accept = |irp| unsafe {
        listener.listen().WskAccept.unwrap()(
            listener.0,
            0,
            null_mut(),
            null(),
            local.cast(),
            remote.cast(),
            irp,
        )
    };
    assert_eq!(accept(irp.irp), STATUS_PENDING);
    let from = "198.51.100.7:5555".parse().unwrap();
    let peer = memory::connect_from(from, at()).unwrap();
    let socket = Sock(std::ptr::with_exposed_provenance_mut(irp.wait().1));
    assert_eq!(unsafe { address::read(local.cast(), AF_INET) }, Some(at()));
    assert_eq!(unsafe { address::read(remote.cast(), AF_INET) }, Some(from));
    socket.close();
    irp.reuse();
    assert_eq!(accept(irp.irp), STATUS_PENDING);
    unsafe { crate::sys::nt::IoCancelIrp(irp.irp) };
    assert_eq!(irp.wait().0, STATUS_CANCELLED);
    irp.reuse();
    assert_eq!(accept(irp.irp), STATUS_PENDING);
    assert_eq!(sockets()[0].pending_accepts(), 1);
    listener.close();
    assert_eq!(irp.result().unwrap().0, STATUS_CANCELLED);
    drop((irp, peer, client));
    assert_clean(&sim);
}

#[test]
fn an_accept_event_hands_over_a_socket_with_inherited_callbacks() {
    for config in every() {
        let sim = boot(config);
        let client = Client::new();
        let app = App::new(true);
        let listener = client.listener(AT, app.context(), &raw const LISTEN);
        assert_eq!(listener.events(WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE), STATUS_SUCCESS);
        let peer = memory::connect(at()).unwrap();
        peer.send(b"hello").unwrap();
        wait_until("the data", || lock(&app.seen).data == b"hello");
        let accepted = app.accepted();
        assert_eq!(lock(&app.seen).addresses, [(at(), peer.local())]);
        let accepted_ref = &sockets()[1];
        assert_eq!(accepted_ref.enabled_events(), WSK_EVENT_RECEIVE);
        accepted[0].close();
        listener.close();
        drop(client);
        assert_clean(&sim);
    }
}

#[test]
fn sockets_that_a_request_accepts_inherit_no_callbacks() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(true);
    let listener = client.listener(AT, app.context(), &raw const LISTEN);
    assert_eq!(listener.events(WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE), STATUS_SUCCESS);
    let irp = Irp::new();
    assert_eq!(listener.accept_irp(app.context(), &raw const EVENTS, irp.irp), STATUS_PENDING);
    let peer = memory::connect(at()).unwrap();
    let socket = Sock(std::ptr::with_exposed_provenance_mut(irp.wait().1));
    peer.send(b"quiet").unwrap();
    settle(super::PATIENCE);
    assert!(lock(&app.seen).data.is_empty());
    assert_eq!(socket.events(WSK_EVENT_RECEIVE), STATUS_SUCCESS);
    wait_until("the data", || lock(&app.seen).data == b"quiet");
    socket.close();
    listener.close();
    drop((irp, client));
    assert_clean(&sim);
}

#[test]
fn a_rejected_connection_is_closed_by_the_subsystem() {
    for config in every() {
        let sim = boot(config);
        let client = Client::new();
        let app = App::new(true);
        *lock(&app.answer) = STATUS_REQUEST_NOT_ACCEPTED;
        let listener = client.listener(AT, app.context(), &raw const LISTEN);
        assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_SUCCESS);
        let peer = memory::connect(at()).unwrap();
        peer.wait_reset().unwrap();
        settle(super::PATIENCE);
        assert_eq!(sockets().len(), 1);
        listener.close();
        drop(client);
        assert_clean(&sim);
    }
}

#[test]
fn an_undocumented_answer_to_an_accept_event_is_noticed() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(true);
    *lock(&app.answer) = STATUS_INVALID_PARAMETER;
    let listener = client.listener(AT, app.context(), &raw const LISTEN);
    assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_SUCCESS);
    memory::connect(at()).unwrap().wait_reset().unwrap();
    listener.close();
    drop(client);
    assert_only(&sim, &rules::CALLBACK_STATUS);
}

#[test]
fn what_waited_is_accepted_when_the_event_is_enabled_and_queued_while_it_is_off() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(false);
    let listener = client.listener(AT, app.context(), &raw const LISTEN);
    let _early = memory::connect(at()).unwrap();
    assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_SUCCESS);
    wait_until("the accept", || app.accepted().len() == 1);
    settle(super::PATIENCE);
    assert_eq!(listener.events(WSK_EVENT_DISABLE | WSK_EVENT_ACCEPT), STATUS_SUCCESS);
    let _late = memory::connect(at()).unwrap();
    settle(super::PATIENCE);
    assert_eq!(app.accepted().len(), 1);
    let second = listener.accept();
    for socket in app.accepted().into_iter().chain([second, listener]) {
        socket.close();
    }
    drop(client);
    assert_clean(&sim);
}

#[test]
fn listener_events_want_a_bound_socket_and_inherited_ones_stay() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    let app = App::new(true);
    let listener = client.socket(AF_INET, WSK_FLAG_LISTEN_SOCKET, app.context(), (&raw const LISTEN).cast());
    assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_INVALID_DEVICE_STATE);
    let early = call(|irp| listener.accept_irp(null_mut(), null(), irp));
    assert_eq!(early.status, STATUS_INVALID_DEVICE_STATE);
    assert_eq!(listener.bind(at()).status, STATUS_SUCCESS);
    assert_eq!(listener.bind(at()).status, STATUS_ADDRESS_ALREADY_ASSOCIATED);
    assert_eq!(listener.events(WSK_EVENT_RECEIVE), STATUS_SUCCESS);
    assert_eq!(listener.events(WSK_EVENT_DISABLE | WSK_EVENT_RECEIVE), STATUS_INVALID_PARAMETER);
    listener.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_listener_that_dies_says_so_and_can_be_made_anew() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(true);
    let listener = client.listener(AT, app.context(), &raw const LISTEN);
    assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_SUCCESS);
    let irp = Irp::new();
    assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
    sockets()[0].fail();
    assert_eq!(irp.wait().0, STATUS_FILE_FORCED_CLOSED);
    wait_until("the NULL socket", || lock(&app.seen).dead == 1);
    listener.close();
    let anew = client.listener(AT, app.context(), &raw const LISTEN);
    assert!(memory::connect(at()).is_ok());
    anew.close();
    assert!(memory::connect(at()).is_err());
    drop((irp, client));
    assert_clean(&sim);
}

#[test]
fn addresses_are_taken_once_and_port_zero_is_any() {
    let sim = boot(plain(Completion::Inline));
    let client = Client::new();
    let listener = client.listener(AT, null_mut(), null());
    let second = client.socket(AF_INET, WSK_FLAG_LISTEN_SOCKET, null_mut(), null());
    assert_eq!(second.bind(at()).status, STATUS_ADDRESS_ALREADY_EXISTS);
    assert_eq!(second.set_option(SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1).status, STATUS_SUCCESS);
    assert_eq!(second.bind("127.0.0.1:0".parse().unwrap()).status, STATUS_SUCCESS);
    assert_eq!(second.set_option(SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 0).status, STATUS_INVALID_DEVICE_STATE);
    assert!(sockets()[1].is_exclusive());
    assert_ne!(second.local().port(), 0);
    assert!(memory::connect(second.local()).is_ok());
    second.close();
    listener.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn one_socket_serves_both_families_when_it_is_told_to() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let v4: SocketAddr = "127.0.0.1:4000".parse().unwrap();
    let only = client.listener("[::]:4000", null_mut(), null());
    assert!(memory::connect(v4).is_err());
    only.close();
    let both = client.socket(AF_INET6, WSK_FLAG_LISTEN_SOCKET, null_mut(), null());
    assert_eq!(both.set_option(IPPROTO_IPV6, IPV6_V6ONLY, 0).status, STATUS_SUCCESS);
    assert_eq!(both.bind("[::]:4000".parse().unwrap()).status, STATUS_SUCCESS);
    let peer = memory::connect(v4).unwrap();
    let socket = both.accept();
    assert_eq!(socket.local().to_string(), "[::ffff:127.0.0.1]:4000");
    let sixth = memory::connect("[::1]:4000".parse().unwrap()).unwrap();
    let second = both.accept();
    assert_eq!(second.local().to_string(), "[::1]:4000");
    for socket in [socket, second, both] {
        socket.close();
    }
    drop((peer, sixth, client));
    assert_clean(&sim);
}

fn conditional(client: &Client, app: &App) -> Sock {
    let listener = client.socket(AF_INET, WSK_FLAG_LISTEN_SOCKET, app.context(), (&raw const LISTEN).cast());
    assert_eq!(listener.set_option(SOL_SOCKET, SO_CONDITIONAL_ACCEPT, 1).status, STATUS_SUCCESS);
    assert_eq!(listener.bind(at()).status, STATUS_SUCCESS);
    listener
}

fn complete_inspection(listener: Sock, mut id: WSK_INSPECT_ID, action: WSK_INSPECT_ACTION) {
    let outcome = call(|irp| unsafe {
        listener.listen().WskInspectComplete.unwrap()(listener.0, &raw mut id, action, irp)
    });
    assert_eq!(outcome.status, STATUS_SUCCESS);
}

#[test]
fn connections_are_inspected_before_they_are_accepted() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(false);
    let listener = conditional(&client, &app);
    assert_eq!(listener.set_option(SOL_SOCKET, SO_CONDITIONAL_ACCEPT, 0).status, STATUS_INVALID_DEVICE_STATE);
    let _accepted = memory::connect(at()).unwrap();
    let socket = listener.accept();
    *lock(&app.action) = WskInspectReject;
    memory::connect(at()).unwrap().wait_reset().unwrap();
    *lock(&app.action) = WskInspectPend;
    let _pended = memory::connect(at()).unwrap();
    wait_until("the inspection", || lock(&app.seen).inspected.len() == 3);
    settle(super::PATIENCE);
    let irp = Irp::new();
    assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
    assert_eq!(irp.wait_for(Duration::from_millis(10)), None);
    let id = lock(&app.seen).inspected[2];
    complete_inspection(listener, id, WskInspectAccept);
    let second = Sock(std::ptr::with_exposed_provenance_mut(irp.wait().1));
    for socket in [socket, second, listener] {
        socket.close();
    }
    drop((irp, client));
    assert_clean(&sim);
}

#[test]
fn a_connection_that_goes_during_its_inspection_is_aborted() {
    let sim = boot(plain(Completion::Pending));
    let client = Client::new();
    let app = App::new(false);
    *lock(&app.action) = WskInspectPend;
    let listener = conditional(&client, &app);
    let peer = memory::connect(at()).unwrap();
    wait_until("the inspection", || lock(&app.seen).inspected.len() == 1);
    settle(super::PATIENCE);
    peer.reset();
    wait_until("the abort", || !lock(&app.seen).aborted.is_empty());
    let id = lock(&app.seen).inspected[0];
    assert_eq!(lock(&app.seen).aborted, [id]);
    complete_inspection(listener, id, WskInspectAccept);
    let irp = Irp::new();
    assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
    assert_eq!(irp.wait_for(Duration::from_millis(10)), None);
    listener.close();
    drop((irp, client));
    assert_clean(&sim);
}

#[test]
fn a_pending_accept_beats_the_event_and_a_race_is_left() {
    let by_event = |races| {
        let sim = boot(Config { races, ..plain(Completion::Pending) });
        let client = Client::new();
        let app = App::new(false);
        let listener = client.listener(AT, app.context(), &raw const LISTEN);
        assert_eq!(listener.events(WSK_EVENT_ACCEPT), STATUS_SUCCESS);
        settle(super::PATIENCE);
        let irp = Irp::new();
        assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
        let _peer = memory::connect(at()).unwrap();
        wait_until("the accept", || irp.result().is_some() || !app.accepted().is_empty());
        let by_event = !app.accepted().is_empty();
        if let Some((STATUS_SUCCESS, handle)) = irp.result() {
            Sock(std::ptr::with_exposed_provenance_mut(handle)).close();
        }
        for socket in app.accepted() {
            socket.close();
        }
        listener.close();
        drop((irp, client));
        assert_clean(&sim);
        by_event
    };
    assert!(!by_event(0));
    assert!(by_event(100));
}

#[test]
fn a_queue_that_is_full_refuses() {
    let sim = boot(Config { backlog: 2, ..plain(Completion::Pending) });
    let client = Client::new();
    let listener = client.listener(AT, null_mut(), null());
    let waiting: Vec<_> = (0..2).map(|_| memory::connect(at()).unwrap()).collect();
    assert!(memory::connect(at()).is_err());
    listener.close();
    for peer in &waiting {
        peer.wait_reset().unwrap();
    }
    drop(client);
    assert_clean(&sim);
}
