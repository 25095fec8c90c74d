//! Winsock Kernel sockets: their gate, and what may be called while.
#![cfg(feature = "sim")]

mod wsk_support;

use ntsim::sys::nt::{NTSTATUS, PVOID, STATUS_SUCCESS};
use ntsim::wsk::extension::{self, Offer, Script};
use ntsim::wsk::{self, memory};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use weir::config::schema::REG_MULTI_SZ;
use weir::config::{Live, Page, Settings};
use weir::dispatch::{Dispatching, Memory};
use weir::ext::connection_v1::{
    CONNECTION_METRIC_V1, CONNECTION_V1, CONNECTION_V1_PROVIDER_DISPATCH, ConnectionV1, NPI_CONNECTION_V1,
};
use weir::ext::{Attached, Ends, Marks, Plan, SocketKind, Sockets, State};
use weir::flow::Flows;
use weir::kernel::Result;
use weir::kernel::irql::AtMostDispatch;
use weir::kernel::lock::SpinLock;
use weir::kernel::pool::{PoolArc, tags};
use weir::kernel::time::Interval;
use weir::trace::Guid;
use weir::wsk::{
    Accepted, CaptureError, ConnectionEvents, ConnectionSocket, Data, Disconnected, EVENTS, Incoming,
    ListenEvents, ListenSocket, Registration, SendBuffer, WSK_VERSION,
};
use wsk_support::{boot, eventually, passive};

/// An owner that notes what it is told.
struct Connection {
    socket: ConnectionSocket<Self>,
    attached: Attached,
    received: AtomicUsize,
    finished: AtomicBool,
    reset: AtomicBool,
    disconnect_done: AtomicU32,
    closed: AtomicU32,
}

struct Listener {
    sockets: PoolArc<Sockets>,
    connection: SpinLock<Option<PoolArc<Connection>>>,
    closed: AtomicU32,
}

impl ListenEvents for Listener {
    type Connection = Connection;

    fn admit(&self, irql: &mut AtMostDispatch, incoming: Incoming) -> Option<PoolArc<Connection>> {
        let connection = Connection {
            socket: ConnectionSocket::offered(incoming.socket).ok()?,
            attached: Sockets::attach(&self.sockets, irql, SocketKind::Accepted, 1, Ends::default())?,
            received: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            disconnect_done: AtomicU32::new(0),
            closed: AtomicU32::new(0),
        };
        PoolArc::try_new(tags::SOCKET, connection).ok()
    }

    fn admitted(&self, irql: &mut AtMostDispatch, connection: PoolArc<Connection>) {
        *self.connection.lock(irql) = Some(connection);
    }

    fn accept_done(&self, _irql: &mut AtMostDispatch, _accepted: Accepted<Self>) {}

    fn dead(&self, _irql: &mut AtMostDispatch) {}

    fn closed(&self, _irql: &mut AtMostDispatch) {
        self.closed.fetch_add(1, Ordering::Release);
    }
}

impl ConnectionEvents for Connection {
    fn socket(&self) -> &ConnectionSocket<Self> {
        &self.socket
    }

    fn received(&self, _irql: &mut AtMostDispatch, data: &mut Data<'_>) {
        let mut bytes = vec![0; data.len()];
        self.received.fetch_add(data.read(&mut bytes).unwrap(), Ordering::Relaxed);
    }

    fn sent(&self, _irql: &mut AtMostDispatch, _buffer: SendBuffer<Self>, _result: Result<usize>) {}

    fn ideal_backlog(&self, _irql: &mut AtMostDispatch, _bytes: usize) {}

    fn connected(&self, _irql: &mut AtMostDispatch, _result: Result) {}

    fn disconnected(&self, _irql: &mut AtMostDispatch, how: Disconnected) {
        match how {
            Disconnected::Gracefully => self.finished.store(true, Ordering::Release),
            Disconnected::Abortively => self.reset.store(true, Ordering::Release),
        }
    }

    fn dead(&self, _irql: &mut AtMostDispatch) {}

    fn receive_done(&self, _irql: &mut AtMostDispatch) {}

    fn disconnect_done(&self, _irql: &mut AtMostDispatch) {
        self.disconnect_done.fetch_add(1, Ordering::Release);
    }

    fn closed(&self, _irql: &mut AtMostDispatch) {
        self.closed.fetch_add(1, Ordering::Release);
    }
}

/// Runs `body` with one accepted connection and the test's end of it, then takes everything down.
fn with_connection(script: Script, body: impl FnOnce(&PoolArc<Connection>, memory::Peer)) {
    let sim = boot(wsk::Config::default());
    extension::script(NPI_CONNECTION_V1, script);
    let mut passive = passive();
    let outcome;
    let mut settings = Settings::DEFAULT;
    let wanted = format!("{}=optional;providers=wsk\0\0", Guid::from(NPI_CONNECTION_V1));
    let wanted: Vec<u8> = wanted.encode_utf16().flat_map(u16::to_le_bytes).collect();
    settings.set("ExtensionInterfaces", REG_MULTI_SZ, &wanted).unwrap();
    let plan = Plan::try_new(&settings.extension_interfaces, Marks::default()).unwrap();
    let memory = Memory::start(&passive, 256, settings.ring_order).unwrap();
    let rings = memory.rings().clone();
    let flows = PoolArc::try_new(tags::FLOW_TABLE, Flows::try_new(&passive, 16).unwrap()).unwrap();
    let sockets = Sockets::try_new(&passive, 4, plan, rings.clone()).unwrap();
    let dispatching = {
        let live = Live::try_new(&Page::of(&settings).unwrap()).unwrap();
        Dispatching::start(&passive, rings.clone(), flows, Some(sockets.clone()), live, settings.ring_order)
            .unwrap()
    };
    let registration = Registration::new(&passive, WSK_VERSION).unwrap();
    {
        let provider = registration.capture(&passive, Interval::from_millis(1000)).unwrap();
        provider.set_static_event_callbacks(EVENTS).unwrap();
        let listener = Listener {
            sockets,
            connection: SpinLock::new("test connection", None),
            closed: AtomicU32::new(0),
        };
        let listener = PoolArc::try_new(tags::SOCKET, listener).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let socket = ListenSocket::bind(&mut passive, &provider, &listener, address)
            .map_err(|(error, _)| error)
            .expect("the port is free");
        let peer = memory::connect(socket.address()).unwrap();
        let mut connection = None;
        eventually("the connection is accepted", || {
            connection = listener.connection.lock(&mut wsk_support::passive()).take();
            connection.is_some()
        });
        let connection = connection.unwrap();
        let call = connection.socket.call().unwrap();
        connection.attached.register(&mut passive, &call, provider.version()).unwrap();
        drop(call);

        // What was started is taken down in any case: a machine with threads in it does not shut down.
        outcome = catch_unwind(AssertUnwindSafe(|| body(&connection, peer)));

        connection.socket.close(&mut passive);
        connection.socket.close(&mut passive);
        eventually("close has completed", || connection.closed.load(Ordering::Acquire) == 1);
        assert!(connection.socket.is_closed());
        assert!(connection.socket.call().is_none());
        connection.attached.end(&passive);
        socket.close(&mut passive);
        eventually("the listener is closed", || listener.closed.load(Ordering::Acquire) == 1);
    }
    assert_eq!(registration.deregister(&mut passive), 0);
    drop(rings);
    let rings = memory.stop(&passive);
    dispatching.stop(&passive, &rings);
    drop(rings);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

static INSIDE: (Mutex<(bool, bool)>, Condvar) = (Mutex::new((false, false)), Condvar::new());

/// A function of the provider that takes its time.
unsafe extern "system" fn slow(context: PVOID, metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
    let _call = extension::enter(context, "QueryMetric");
    let (state, changed) = &INSIDE;
    let mut state = state.lock().unwrap();
    state.0 = true;
    changed.notify_all();
    while !state.1 {
        state = changed.wait(state).unwrap();
    }
    // SAFETY: the caller's structure.
    unsafe { (*metric).BytesReceived = 42 };
    STATUS_SUCCESS
}

unsafe extern "system" fn prompt(context: PVOID, metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
    let _call = extension::enter(context, "QueryMetric");
    // SAFETY: the caller's structure.
    unsafe { (*metric).BytesReceived = 17 };
    STATUS_SUCCESS
}

const fn provider(
    function: unsafe extern "system" fn(PVOID, *mut CONNECTION_METRIC_V1) -> NTSTATUS,
) -> CONNECTION_V1_PROVIDER_DISPATCH {
    CONNECTION_V1_PROVIDER_DISPATCH {
        Size: 32,
        Version: CONNECTION_V1,
        Reserved: 0,
        QueryMetric: Some(function),
        SetMarks: None,
        Control: None,
    }
}

static SLOW: CONNECTION_V1_PROVIDER_DISPATCH = provider(slow);
static PROMPT: CONNECTION_V1_PROVIDER_DISPATCH = provider(prompt);

fn bytes_received(connection: &Connection) -> Option<u64> {
    let call = connection.socket.call()?;
    let provider = connection.attached.providers::<ConnectionV1>(&call).next()?.1;
    provider.query_metric().ok().map(|metric| metric.BytesReceived)
}

#[test]
fn a_granted_providers_functions_can_be_called_until_the_close() {
    with_connection(Script::Supported(Offer::new(&PROMPT)), |connection, _peer| {
        assert_eq!(connection.attached.state::<ConnectionV1>(), State::Granted);
        assert_eq!(bytes_received(connection), Some(17));
        connection.socket.close(&mut passive());
        assert_eq!(bytes_received(connection), None);
    });
}

#[test]
fn a_refused_providers_functions_are_not_there() {
    with_connection(Script::NotSupported, |connection, _peer| {
        assert_eq!(connection.attached.state::<ConnectionV1>(), State::Refused);
        assert_eq!(bytes_received(connection), None);
    });
}

#[test]
fn a_function_that_the_table_lacks_is_not_called() {
    with_connection(Script::Supported(Offer::new(&PROMPT)), |connection, _peer| {
        let call = connection.socket.call().unwrap();
        let provider = connection.attached.providers::<ConnectionV1>(&call).next().unwrap().1;
        assert!(provider.set_marks(0, 1, 2).is_err());
        assert!(provider.control(1, b"x").is_err());
    });
}

#[test]
fn close_waits_for_extension_functions_in_progress() {
    with_connection(Script::Supported(Offer::new(&SLOW)), |connection, _peer| {
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| bytes_received(connection));
            let (state, changed) = &INSIDE;
            drop(changed.wait_while(state.lock().unwrap(), |state| !state.0).unwrap());
            let closing = scope.spawn(|| connection.socket.close(&mut passive()));
            eventually("the gate is shut", || connection.socket.call().is_none());
            std::thread::sleep(Duration::from_millis(20));
            let waits = !closing.is_finished() && !connection.socket.is_closed();
            state.lock().unwrap().1 = true;
            changed.notify_all();
            assert_eq!(caller.join().unwrap(), Some(42));
            closing.join().unwrap();
            assert!(waits, "close was issued while a function was in progress");
        });
    });
}

#[test]
fn an_end_in_good_order_is_no_reset() {
    with_connection(Script::NotSupported, |connection, peer| {
        peer.send(b"data").unwrap();
        peer.end();
        eventually("the peer's end is told", || connection.finished.load(Ordering::Acquire));
        assert_eq!(connection.received.load(Ordering::Relaxed), 4);
        let mut irql = passive();
        assert!(connection.socket.disconnect(&mut irql, connection));
        assert!(!connection.socket.disconnect(&mut irql, connection), "once");
        assert_eq!(peer.recv_to_end().unwrap(), []);
        eventually("it is over", || connection.disconnect_done.load(Ordering::Acquire) == 1);
        connection.socket.close(&mut passive());
        eventually("close has completed", || connection.closed.load(Ordering::Acquire) == 1);
        assert!(!peer.is_reset());
    });
}

#[test]
fn a_graceful_end_that_never_comes_is_over_when_the_socket_is_closed() {
    with_connection(Script::NotSupported, |connection, peer| {
        peer.stall(true);
        assert!(connection.socket.disconnect(&mut passive(), connection));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(connection.disconnect_done.load(Ordering::Acquire), 0);
        connection.socket.close(&mut passive());
        eventually("it is over", || connection.disconnect_done.load(Ordering::Acquire) == 1);
        peer.wait_reset().unwrap();
    });
}

#[test]
fn a_reset_is_told_as_one() {
    with_connection(Script::NotSupported, |connection, peer| {
        peer.reset();
        eventually("the reset is told", || connection.reset.load(Ordering::Acquire));
        assert!(!connection.finished.load(Ordering::Acquire));
    });
}

#[test]
fn a_capture_of_what_is_not_there_ends_in_its_bound() {
    let sim = boot(wsk::Config { ready: false, ..wsk::Config::default() });
    let mut passive = passive();
    let registration = Registration::new(&passive, WSK_VERSION).unwrap();
    let captured = registration.capture(&passive, Interval::from_millis(20)).map(|_| ());
    assert!(matches!(captured, Err(CaptureError::NotReady(_))), "{captured:?}");
    registration.deregister(&mut passive);
    assert!(sim.report().is_clean());
}

#[test]
fn another_version_is_found_within_the_same_major_one() {
    for (versions, found) in [((0x0102, 0x0105), Some(0x0102)), ((0x0200, 0x0205), None)] {
        let sim = boot(wsk::Config { versions, ..wsk::Config::default() });
        let passive = passive();
        let registration = Registration::new(&passive, WSK_VERSION).unwrap();
        let captured = registration.capture(&passive, Interval::from_millis(20)).map(|_| ());
        assert_eq!(captured, Err(CaptureError::OtherVersion));
        assert_eq!(registration.other_version(&passive), found);
        drop(registration);
        assert!(sim.report().is_clean());
    }
}
