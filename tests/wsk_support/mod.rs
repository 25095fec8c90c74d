//! Owners of sockets that note what they are told, on a simulated machine with a driver's device.
#![allow(dead_code, reason = "each test program uses a part")]

use ntsim::Sim;
use ntsim::clock::Clock;
use ntsim::sys::nt::{NTSTATUS, PDRIVER_OBJECT, PUNICODE_STRING, STATUS_SUCCESS};
use ntsim::wsk::{self, CallbackIrql, Completion, memory};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use weir::kernel::device::Device;
use weir::kernel::irql::{AtMostDispatch, Passive};
use weir::kernel::pool::{PoolArc, tags};
use weir::kernel::time::Interval;
use weir::kernel::{Result, Status};
use weir::wsk::{
    Accepted, ConnectionEvents, ConnectionSocket, Data, DialError, Disconnected, EVENTS, Incoming,
    ListenError, ListenEvents, ListenSocket, Provider, Registration, SendBuffer, WSK_VERSION,
};

/// The token of the test's own thread.
pub fn passive() -> Passive {
    // SAFETY: tests run at PASSIVE_LEVEL, and lend the token to calls only.
    unsafe { Passive::assume() }
}

/// Waits for `what` to come true.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Boots a machine whose WSK behaves like this.
pub fn boot(wsk: wsk::Config) -> Sim {
    ntsim::boot(ntsim::Config { wsk, ..ntsim::Config::default() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection was told, in all.
#[derive(Default)]
pub struct Log {
    pub data: Vec<u8>,
    /// Readings that failed.
    pub unreadable: u32,
    pub receive_done: u32,
    pub sent: Vec<Result<usize>>,
    /// What came back from sending.
    pub buffers: Vec<SendBuffer<Connection>>,
    pub backlog: Vec<usize>,
    pub connected: Vec<Result>,
    pub disconnected: Vec<Disconnected>,
    pub disconnect_done: u32,
    pub dead: u32,
    pub closed: u32,
    /// What came after the end.
    pub late: u32,
}

/// A connection's owner.
pub struct Connection {
    pub socket: ConnectionSocket<Self>,
    /// Bytes that it still takes.
    pub room: AtomicUsize,
    /// Something was not taken.
    pub refused: AtomicBool,
    /// A receive request is out: what it brings comes first, and finds room.
    requested: AtomicBool,
    log: Mutex<Log>,
    /// Sends what came back at once, as a driver must not.
    pub hasty: Mutex<Option<PoolArc<Self>>>,
}

impl Connection {
    fn new(socket: ConnectionSocket<Self>) -> Result<PoolArc<Self>> {
        let connection = Self {
            socket,
            room: AtomicUsize::new(usize::MAX),
            refused: AtomicBool::new(false),
            requested: AtomicBool::new(false),
            log: Mutex::default(),
            hasty: Mutex::default(),
        };
        PoolArc::try_new(tags::SOCKET, connection)
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn note(&self) -> MutexGuard<'_, Log> {
        let mut log = self.log();
        log.late += log.closed;
        log
    }

    /// Closes the socket and waits for the end.
    #[track_caller]
    pub fn close(&self) {
        self.socket.close(&mut passive());
        eventually("the connection is closed", || self.socket.is_closed() && self.log().closed == 1);
        assert_eq!(self.log().late, 0, "told after the end");
    }

    /// Sends a copy of `bytes` from a buffer of its own.
    pub fn send(this: &PoolArc<Self>, bytes: &[u8]) -> Result {
        let mut buffer = SendBuffer::try_new(bytes.len())?;
        buffer.bytes_mut().copy_from_slice(bytes);
        let sent = this.socket.send(&mut passive(), this, buffer, bytes.len());
        sent.map_err(|_| Status::INSUFFICIENT_RESOURCES)
    }

    /// Asks for `most` bytes, unless a request is out.
    pub fn receive(this: &PoolArc<Self>, most: usize) -> bool {
        if this.requested.swap(true, Ordering::AcqRel) {
            return false;
        }
        this.room.fetch_max(most, Ordering::Relaxed);
        let made = this.socket.receive(&mut passive(), this, most);
        if !made {
            this.requested.store(false, Ordering::Release);
        }
        made
    }

    /// Takes what was refused by requests, each time that something was, until there are `length` bytes in all.
    #[track_caller]
    pub fn take_rest(this: &PoolArc<Self>, length: usize) {
        eventually("all has arrived", || {
            if this.refused.load(Ordering::Acquire) && !this.requested.load(Ordering::Acquire) {
                this.refused.store(false, Ordering::Release);
                assert!(Self::receive(this, 64));
            }
            this.log().data.len() == length
        });
    }

    /// Dials. The owner comes with the outcome of what was asked for.
    pub fn dial(
        provider: &Provider<'_>,
        remote: SocketAddr,
    ) -> Result<(PoolArc<Self>, core::result::Result<(), DialError>)> {
        let connection = Self::new(ConnectionSocket::to_dial()?)?;
        let dialled = connection.socket.dial(&mut passive(), provider, &connection, remote);
        Ok((connection, dialled))
    }
}

impl ConnectionEvents for Connection {
    fn socket(&self) -> &ConnectionSocket<Self> {
        &self.socket
    }

    fn received(&self, _irql: &mut AtMostDispatch, data: &mut Data<'_>) {
        let mut log = self.note();
        if data.is_indicated() && self.requested.load(Ordering::Acquire) {
            self.refused.store(true, Ordering::Release);
            return;
        }
        // Odd pieces, so that they end within MDLs.
        let mut piece = [0; 37];
        loop {
            let room = self.room.load(Ordering::Relaxed).min(piece.len());
            match data.read(&mut piece[..room]) {
                Ok(0) => {
                    self.refused.fetch_or(!data.is_empty(), Ordering::Release);
                    return;
                }
                Ok(read) => {
                    self.room.fetch_sub(read, Ordering::Relaxed);
                    log.data.extend_from_slice(&piece[..read]);
                }
                Err(_) => {
                    log.unreadable += 1;
                    self.refused.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }

    fn receive_done(&self, _irql: &mut AtMostDispatch) {
        self.requested.store(false, Ordering::Release);
        self.note().receive_done += 1;
    }

    fn sent(&self, irql: &mut AtMostDispatch, buffer: SendBuffer<Self>, result: Result<usize>) {
        let mut log = self.note();
        log.sent.push(result);
        let hasty = lock(&self.hasty).take();
        match hasty {
            Some(owner) => {
                drop(log);
                let length = buffer.bytes().len();
                drop(self.socket.send(irql, &owner, buffer, length));
            }
            None => log.buffers.push(buffer),
        }
    }

    fn ideal_backlog(&self, _irql: &mut AtMostDispatch, bytes: usize) {
        self.note().backlog.push(bytes);
    }

    fn connected(&self, _irql: &mut AtMostDispatch, result: Result) {
        self.note().connected.push(result);
    }

    fn disconnected(&self, _irql: &mut AtMostDispatch, how: Disconnected) {
        self.note().disconnected.push(how);
    }

    fn dead(&self, _irql: &mut AtMostDispatch) {
        self.note().dead += 1;
    }

    fn disconnect_done(&self, _irql: &mut AtMostDispatch) {
        self.note().disconnect_done += 1;
    }

    fn closed(&self, _irql: &mut AtMostDispatch) {
        self.note().closed += 1;
    }
}

/// A listener's owner.
#[derive(Default)]
pub struct Listener {
    /// Refuses whatever comes.
    pub refuses: AtomicBool,
    pub connections: Mutex<Vec<PoolArc<Connection>>>,
    pub accepted: Mutex<Option<Accepted<Self>>>,
    pub offered: AtomicUsize,
    pub dead: AtomicBool,
    closed: AtomicBool,
}

impl ListenEvents for Listener {
    type Connection = Connection;

    fn admit(&self, _irql: &mut AtMostDispatch, incoming: Incoming) -> Option<PoolArc<Connection>> {
        self.offered.fetch_add(1, Ordering::Relaxed);
        // Prepared in any case: what is refused gives everything back.
        let connection = Connection::new(ConnectionSocket::offered(incoming.socket).ok()?).ok()?;
        (!self.refuses.load(Ordering::Relaxed)).then_some(connection)
    }

    fn admitted(&self, _irql: &mut AtMostDispatch, connection: PoolArc<Connection>) {
        lock(&self.connections).push(connection);
    }

    fn accept_done(&self, _irql: &mut AtMostDispatch, accepted: Accepted<Self>) {
        *lock(&self.accepted) = Some(accepted);
    }

    fn dead(&self, _irql: &mut AtMostDispatch) {
        self.dead.store(true, Ordering::Release);
    }

    fn closed(&self, _irql: &mut AtMostDispatch) {
        self.closed.store(true, Ordering::Release);
    }
}

/// A socket that listens.
pub struct Listening {
    pub owner: PoolArc<Listener>,
    pub socket: ListenSocket<Listener>,
}

impl Listening {
    pub fn open(provider: &Provider<'_>, at: &str) -> core::result::Result<Self, ListenError> {
        let owner = PoolArc::try_new(tags::SOCKET, Listener::default())
            .map_err(|status| ListenError { step: weir::wsk::Step::Allocate, status })?;
        let socket = ListenSocket::bind(&mut passive(), provider, &owner, at.parse().unwrap())
            .map_err(|(error, _)| error)?;
        Ok(Self { owner, socket })
    }

    /// The next connection that was accepted.
    #[track_caller]
    pub fn connection(&self) -> PoolArc<Connection> {
        let mut connection = None;
        eventually("a connection is accepted", || {
            connection = lock(&self.owner.connections).pop();
            connection.is_some()
        });
        connection.unwrap()
    }

    /// A connection with the test's end of it.
    #[track_caller]
    pub fn pair(&self) -> (PoolArc<Connection>, memory::Peer) {
        let peer = memory::connect(self.socket.address()).unwrap();
        (self.connection(), peer)
    }

    #[track_caller]
    pub fn close(self) {
        self.socket.close(&mut passive());
        eventually("the listener is closed", || self.owner.closed.load(Ordering::Acquire));
        if let Some(accepted) = lock(&self.owner.accepted).take() {
            accepted.refuse(&passive());
        }
    }
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
    // SAFETY: the driver object of this DriverEntry, which runs at PASSIVE_LEVEL.
    match unsafe { Device::try_new(&passive(), driver) } {
        Ok(device) => *lock(&DEVICE) = Some(device),
        Err(status) => return status.0,
    }
    // SAFETY: as above.
    unsafe { (*driver).DriverUnload = Some(unload) };
    STATUS_SUCCESS
}

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
    if let Some(device) = lock(&DEVICE).take() {
        device.delete(&passive());
    }
}

/// Runs `body` on a machine whose WSK behaves like this, within a driver that has a device, and takes down what is
/// there. Requests that were never completed are counted.
#[track_caller]
pub fn run(wsk: wsk::Config, body: impl FnOnce(&Sim, &Provider<'_>)) -> (Sim, u32) {
    run_on(ntsim::Config { wsk, ..ntsim::Config::default() }, body)
}

/// [`run`] on a machine like this.
#[track_caller]
fn run_on(config: ntsim::Config, body: impl FnOnce(&Sim, &Provider<'_>)) -> (Sim, u32) {
    let sim = ntsim::boot(ntsim::Config { hang_after: Duration::from_secs(5), ..config });
    let driver = sim.load_driver("sample", entry).unwrap();
    let mut passive = passive();
    let registration = Registration::new(&passive, WSK_VERSION).unwrap();
    let outcome = {
        let provider = registration.capture(&passive, Interval::from_millis(1000)).unwrap();
        // What was started is taken down in any case: a machine with threads in it does not shut down.
        catch_unwind(AssertUnwindSafe(|| body(&sim, &provider)))
    };
    let left = registration.deregister(&mut passive);
    driver.unload();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    (sim, left)
}

/// [`run`], after which nothing is left, and nothing was wrong.
#[track_caller]
pub fn clean(wsk: wsk::Config, body: impl FnOnce(&Sim, &Provider<'_>)) {
    assert_nothing_is_left(0, run(wsk, body));
}

/// [`clean`], on a machine on which a second is over in a few milliseconds, but for requests that the provider ignores.
#[track_caller]
pub fn fast(wsk: wsk::Config, ignored: u32, body: impl FnOnce(&Provider<'_>)) {
    let config = ntsim::Config { wsk, clock: Clock::Virtual, ..ntsim::Config::default() };
    let over = AtomicBool::new(false);
    let outcome = run_on(config, |sim, provider| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    sim.advance(Duration::from_millis(200));
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let outcome = catch_unwind(AssertUnwindSafe(|| body(provider)));
            over.store(true, Ordering::Release);
            if let Err(panic) = outcome {
                resume_unwind(panic);
            }
        });
    });
    assert_nothing_is_left(ignored, outcome);
}

#[track_caller]
fn assert_nothing_is_left(ignored: u32, (sim, left): (Sim, u32)) {
    assert_eq!(left, ignored, "requests that were never completed");
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// [`clean`], with a listener whose events are on.
#[track_caller]
pub fn listening(wsk: wsk::Config, body: impl FnOnce(&Sim, &Provider<'_>, &Listening)) {
    clean(wsk, |sim, provider| {
        provider.set_static_event_callbacks(EVENTS).unwrap();
        let listening = Listening::open(provider, "127.0.0.1:0").unwrap();
        body(sim, provider, &listening);
        listening.close();
    });
}

/// A configuration without chance.
pub fn plain(completion: Completion) -> wsk::Config {
    wsk::Config {
        completion,
        callback_irql: CallbackIrql::Dispatch,
        split: false,
        races: 0,
        release_asap: 0,
        ..wsk::Config::default()
    }
}

/// Every way in which requests complete and callbacks come.
pub fn every() -> impl Iterator<Item = wsk::Config> {
    let ways = [Completion::Inline, Completion::Pending, Completion::OtherThread];
    let plain = ways.into_iter().flat_map(|completion| {
        [CallbackIrql::Passive, CallbackIrql::Dispatch]
            .map(|callback_irql| wsk::Config { callback_irql, ..plain(completion) })
    });
    let seeded = (0..8_usize).map(|seed| wsk::Config {
        seed: seed as u64,
        threads: 1 + seed % 3,
        ..wsk::Config::default()
    });
    plain.chain(seeded)
}

/// Bytes in which a misplaced one shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index * 31 + index / 251) % 256).unwrap()).collect()
}
