//! The back end in memory: a network of one machine, with a test's hands on its other end.
//!
//! A test [`connect`]s to the sockets that the driver listens on, or [`listen`]s where the driver dials, and gets a
//! [`Peer`]: blocking, with a time limit, and able to do what peers do to drivers (end, reset, stop reading). How
//! streams are cut into pieces is drawn from the seed.

use super::address::{specific, unmapped};
use super::exec::Executor;
use super::link::{BindOptions, Binding, Connected, Link, Listener, Network, Notify, Read, Write};
use crate::sys::nt::{
    NTSTATUS, STATUS_ADDRESS_ALREADY_EXISTS, STATUS_CONNECTION_REFUSED, STATUS_INVALID_ADDRESS_COMPONENT,
};
use crate::verify::lock;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a [`Peer`] and a [`Server`] wait unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The first dynamic port, as on Windows.
const FIRST_DYNAMIC_PORT: u16 = 49152;

pub(super) struct Net {
    executor: Arc<Executor>,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Bytes that a receiver's stack takes before its reader does.
    pub window: usize,
    /// Connections that wait to be accepted before more are refused.
    pub backlog: usize,
    /// Whether reads return pieces of what is there.
    pub split: bool,
}

#[derive(Default)]
struct State {
    listeners: HashMap<SocketAddr, Arc<Endpoint>>,
    bound: HashSet<SocketAddr>,
    /// Where connecting gets no answer.
    silent: HashSet<SocketAddr>,
    next_port: u16,
}

/// A listening address.
struct Endpoint {
    local: SocketAddr,
    dual_stack: bool,
    queue: Mutex<Queue>,
    arrived: Condvar,
    whom: Option<Weak<dyn Notify>>,
    net: Weak<Net>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<End>>,
    closed: bool,
}

/// One direction of a connection.
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
struct PipeState {
    data: VecDeque<u8>,
    ended: bool,
    reset: bool,
    /// The receiving stack takes and acknowledges nothing.
    stalled: bool,
    /// The reading end is gone: what is written to it is answered by a reset.
    reader_gone: bool,
    reader: Option<Weak<dyn Notify>>,
    writer: Option<Weak<dyn Notify>>,
}

impl Pipe {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new() })
    }

    /// Tells the ends that something changed for them.
    fn tell(&self, mut state: MutexGuard<'_, PipeState>, reader: bool, writer: bool) {
        let state = &mut *state;
        let reader = state.reader.as_ref().filter(|_| reader).and_then(Weak::upgrade);
        let writer = state.writer.as_ref().filter(|_| writer).and_then(Weak::upgrade);
        self.changed.notify_all();
        if let Some(reader) = reader {
            reader.readable();
        }
        if let Some(writer) = writer {
            writer.writable();
        }
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        if !state.reset {
            state.reset = true;
            state.data.clear();
            self.tell(state, true, true);
        }
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        if !state.ended {
            state.ended = true;
            self.tell(state, true, true);
        }
    }
}

/// One end of a connection.
struct End {
    net: Weak<Net>,
    local: SocketAddr,
    remote: SocketAddr,
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    window: usize,
}

impl End {
    fn pair(net: &Arc<Net>, client: SocketAddr, server: SocketAddr) -> (Arc<Self>, Arc<Self>) {
        let (up, down) = (Pipe::new(), Pipe::new());
        let end = |local, remote, incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| {
            Arc::new(Self {
                net: Arc::downgrade(net),
                local,
                remote,
                incoming: Arc::clone(incoming),
                outgoing: Arc::clone(outgoing),
                window: net.settings.window,
            })
        };
        (end(client, server, &down, &up), end(server, client, &up, &down))
    }

    fn reset(&self) {
        self.incoming.reset();
        self.outgoing.reset();
    }
}

impl Link for End {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn read(&self, into: &mut [u8]) -> Read {
        let net = self.net.upgrade();
        let mut state = lock(&self.incoming.state);
        if state.reset {
            return Read::Reset;
        }
        let available = state.data.len().min(into.len());
        if available == 0 {
            return if state.ended && state.data.is_empty() { Read::End } else { Read::Empty };
        }
        let split = net.as_ref().filter(|net| net.settings.split);
        let count = split.map_or(available, |net| 1 + net.executor.draw(available));
        let (first, second) = state.data.as_slices();
        let split = count.min(first.len());
        let rest = count - split;
        for (to, from) in [(0..split, first.get(..split)), (split..count, second.get(..rest))] {
            if let (Some(to), Some(from)) = (into.get_mut(to), from) {
                to.copy_from_slice(from);
            }
        }
        state.data.drain(..count);
        self.incoming.tell(state, false, true);
        Read::Data(count)
    }

    fn write(&self, from: &[u8]) -> Write {
        let mut state = lock(&self.outgoing.state);
        if state.reset {
            return Write::Reset;
        }
        if state.reader_gone {
            drop(state);
            self.reset();
            return Write::Reset;
        }
        let room = if state.stalled { 0 } else { self.window.saturating_sub(state.data.len()) };
        let count = room.min(from.len());
        if count == 0 {
            return if from.is_empty() { Write::Wrote(0) } else { Write::Full };
        }
        state.data.extend(from.iter().take(count));
        self.outgoing.tell(state, true, false);
        Write::Wrote(count)
    }

    fn is_reset(&self) -> bool {
        lock(&self.incoming.state).reset
    }

    fn end(&self) {
        self.outgoing.end();
    }

    fn end_acknowledged(&self) -> bool {
        let state = lock(&self.outgoing.state);
        state.ended && !state.stalled
    }

    fn abort(&self) {
        self.reset();
    }

    fn close(&self) {
        self.end();
        lock(&self.incoming.state).reader_gone = true;
    }

    fn notify(&self, whom: Weak<dyn Notify>) {
        lock(&self.incoming.state).reader = Some(Weak::clone(&whom));
        lock(&self.outgoing.state).writer = Some(whom);
    }
}

impl Listener for Endpoint {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn accept(&self) -> Option<Arc<dyn Link>> {
        let mut queue = lock(&self.queue);
        queue.waiting.pop_front().map(|end| end as Arc<dyn Link>)
    }

    fn close(&self) {
        if let Some(net) = self.net.upgrade() {
            let mut state = lock(&net.state);
            state.listeners.remove(&self.local);
            state.bound.remove(&self.local);
        }
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        self.arrived.notify_all();
        for end in waiting {
            end.reset();
        }
    }
}

/// A bound socket that is not connected.
struct Bound {
    net: Arc<Net>,
    local: SocketAddr,
    attempt: Arc<Mutex<Option<Connected>>>,
}

impl Binding for Bound {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn connect(&self, remote: SocketAddr, done: Connected) -> Result<(), NTSTATUS> {
        if lock(&self.net.state).silent.contains(&remote) {
            *lock(&self.attempt) = Some(done);
            return Ok(());
        }
        match self.net.open(self.local, remote) {
            Ok(end) => done(Ok(end)),
            Err(error) => done(Err(error)),
        }
        Ok(())
    }

    fn close(&self) {
        lock(&self.net.state).bound.remove(&self.local);
        drop(lock(&self.attempt).take());
    }
}

impl Net {
    pub fn start(executor: Arc<Executor>, settings: Settings) -> Arc<Self> {
        let state = State { next_port: FIRST_DYNAMIC_PORT, ..State::default() };
        Arc::new(Self { executor, settings, state: Mutex::new(state) })
    }

    /// Takes a local address, with a free port when it asks for none.
    fn take(state: &mut State, at: SocketAddr) -> Result<SocketAddr, NTSTATUS> {
        if at.ip().is_multicast() {
            return Err(STATUS_INVALID_ADDRESS_COMPONENT);
        }
        let in_use = |state: &State, candidate: SocketAddr| {
            state.bound.iter().any(|bound| {
                bound.port() == candidate.port()
                    && (bound.ip() == candidate.ip()
                        || (bound.is_ipv4() == candidate.is_ipv4()
                            && (bound.ip().is_unspecified() || candidate.ip().is_unspecified())))
            })
        };
        let mut candidate = at;
        if at.port() == 0 {
            for _ in FIRST_DYNAMIC_PORT..=u16::MAX {
                candidate.set_port(state.next_port);
                state.next_port = state.next_port.checked_add(1).unwrap_or(FIRST_DYNAMIC_PORT);
                if !in_use(state, candidate) {
                    break;
                }
            }
        }
        if in_use(state, candidate) {
            return Err(STATUS_ADDRESS_ALREADY_EXISTS);
        }
        state.bound.insert(candidate);
        Ok(candidate)
    }

    fn endpoint(
        self: &Arc<Self>,
        at: SocketAddr,
        options: BindOptions,
        whom: Option<Weak<dyn Notify>>,
    ) -> Result<Arc<Endpoint>, NTSTATUS> {
        let mut state = lock(&self.state);
        let local = Self::take(&mut state, at)?;
        let endpoint = Arc::new(Endpoint {
            local,
            dual_stack: local.is_ipv6() && !options.v6_only,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            whom,
            net: Arc::downgrade(self),
        });
        state.listeners.insert(local, Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// The listener that a connection to `remote` reaches.
    fn listener(state: &State, remote: SocketAddr) -> Option<Arc<Endpoint>> {
        let any: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let same = [remote, SocketAddr::new(any, remote.port())];
        if let Some(found) = same.iter().find_map(|address| state.listeners.get(address)) {
            return Some(Arc::clone(found));
        }
        let dual = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), remote.port());
        state.listeners.get(&dual).filter(|found| found.dual_stack && remote.is_ipv4()).cloned()
    }

    /// Connects; the other end waits at its listener.
    fn open(self: &Arc<Self>, local: SocketAddr, remote: SocketAddr) -> Result<Arc<End>, NTSTATUS> {
        let remote = unmapped(remote);
        let found = Self::listener(&lock(&self.state), remote).ok_or(STATUS_CONNECTION_REFUSED)?;
        let (near, far) = End::pair(self, specific(local), remote);
        let mut queue = lock(&found.queue);
        if queue.closed || queue.waiting.len() >= self.settings.backlog {
            return Err(STATUS_CONNECTION_REFUSED);
        }
        queue.waiting.push_back(far);
        drop(queue);
        found.arrived.notify_all();
        if let Some(whom) = found.whom.as_ref().and_then(Weak::upgrade) {
            whom.readable();
        }
        Ok(near)
    }

    /// Waits under `mutex` until `ready`, stepping the executor when tests drive it.
    fn wait<'a, T, R>(
        &self,
        mutex: &'a Mutex<T>,
        changed: &Condvar,
        patience: Duration,
        mut ready: impl FnMut(&mut MutexGuard<'a, T>) -> Option<R>,
    ) -> io::Result<R> {
        let deadline = Instant::now() + patience;
        loop {
            let mut guard = lock(mutex);
            if let Some(result) = ready(&mut guard) {
                return Ok(result);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            let pause = if self.executor.is_manual() {
                drop(guard);
                if self.executor.step() {
                    continue;
                }
                guard = lock(mutex);
                left.min(Duration::from_millis(1))
            } else {
                left
            };
            if let Some(result) = ready(&mut guard) {
                return Ok(result);
            }
            drop(changed.wait_timeout(guard, pause).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The network as the sockets use it.
pub(super) struct MemoryNetwork(pub Arc<Net>);

impl Network for MemoryNetwork {
    fn listen(
        &self,
        at: SocketAddr,
        options: BindOptions,
        whom: Weak<dyn Notify>,
    ) -> Result<Arc<dyn Listener>, NTSTATUS> {
        Ok(self.0.endpoint(at, options, Some(whom))?)
    }

    fn bind(&self, at: SocketAddr, _options: BindOptions) -> Result<Arc<dyn Binding>, NTSTATUS> {
        let local = Net::take(&mut lock(&self.0.state), at)?;
        Ok(Arc::new(Bound { net: Arc::clone(&self.0), local, attempt: Arc::default() }))
    }

    fn stop(&self) {
        let listeners: Vec<_> = lock(&self.0.state).listeners.values().cloned().collect();
        for listener in listeners {
            Listener::close(&*listener);
        }
    }
}

fn net() -> io::Result<Arc<Net>> {
    super::current().and_then(|subsystem| subsystem.memory()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "no machine with the memory network is booted")
    })
}

fn error(status: NTSTATUS) -> io::Error {
    match status {
        STATUS_CONNECTION_REFUSED => io::ErrorKind::ConnectionRefused.into(),
        STATUS_ADDRESS_ALREADY_EXISTS => io::ErrorKind::AddrInUse.into(),
        _ => io::ErrorKind::AddrNotAvailable.into(),
    }
}

/// Connects to `remote`, from the loopback address of its family and a free port. Returns when the connection waits at
/// its listener; whether the driver accepts it shows later.
pub fn connect(remote: SocketAddr) -> io::Result<Peer> {
    let ip: IpAddr = if remote.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    connect_from(SocketAddr::new(ip, 0), remote)
}

/// [`connect`] from a chosen address; port 0 is any.
pub fn connect_from(local: SocketAddr, remote: SocketAddr) -> io::Result<Peer> {
    let net = net()?;
    let local = Net::take(&mut lock(&net.state), local).map_err(error)?;
    let opened = net.open(local, remote);
    if opened.is_err() {
        lock(&net.state).bound.remove(&local);
    }
    Ok(Peer { end: opened.map_err(error)?, net, patience: PATIENCE, bound: Some(local) })
}

/// Listens as a remote host would, for connections that the driver makes.
pub fn listen(at: SocketAddr) -> io::Result<Server> {
    let net = net()?;
    let endpoint = net.endpoint(at, BindOptions::default(), None).map_err(error)?;
    Ok(Server { endpoint, net, patience: PATIENCE })
}

/// From now on (or no more) connecting to `remote` gets no answer at all.
pub fn set_silent(remote: SocketAddr, silent: bool) -> io::Result<()> {
    let net = net()?;
    let mut state = lock(&net.state);
    if silent {
        state.silent.insert(remote);
    } else {
        state.silent.remove(&remote);
    }
    Ok(())
}

/// A remote host that the driver can connect to. Dropping it refuses further connections and resets waiting ones.
pub struct Server {
    endpoint: Arc<Endpoint>,
    net: Arc<Net>,
    patience: Duration,
}

impl Server {
    pub fn local(&self) -> SocketAddr {
        self.endpoint.local
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The next connection, waiting for it.
    pub fn accept(&self) -> io::Result<Peer> {
        let end = self.net.wait(&self.endpoint.queue, &self.endpoint.arrived, self.patience, |queue| {
            queue.waiting.pop_front()
        })?;
        Ok(Peer { end, net: Arc::clone(&self.net), patience: self.patience, bound: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Listener::close(&*self.endpoint);
    }
}

/// The test's end of a connection. Dropping it closes it as a program's end does: gracefully, or by a reset if data
/// was left unread.
pub struct Peer {
    end: Arc<End>,
    net: Arc<Net>,
    patience: Duration,
    bound: Option<SocketAddr>,
}

impl Peer {
    pub fn local(&self) -> SocketAddr {
        self.end.local
    }

    pub fn remote(&self) -> SocketAddr {
        self.end.remote
    }

    /// How long sends and receives wait; [`PATIENCE`] at first.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends all of `data`, waiting for the driver to take it.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            self.net.wait(&self.end.outgoing.state, &self.end.outgoing.changed, self.patience, |state| {
                (state.reset || (!state.stalled && state.data.len() < self.end.window)).then_some(())
            })?;
            let count = self.try_send(rest)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends what fits the driver's window, without waiting.
    pub fn try_send(&self, data: &[u8]) -> io::Result<usize> {
        match self.end.write(data) {
            Write::Wrote(count) => Ok(count),
            Write::Full => Ok(0),
            Write::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Receives what is there, waiting for at least one byte. 0 is the driver's end of the stream.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let incoming = &self.end.incoming;
        self.net.wait(&incoming.state, &incoming.changed, self.patience, |state| {
            (state.reset || state.ended || !state.data.is_empty()).then_some(())
        })?;
        match self.end.read(into) {
            Read::Data(count) => Ok(count),
            Read::End | Read::Empty => Ok(0),
            Read::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Receives exactly `count` bytes.
    pub fn recv_exact(&self, count: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; count];
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.recv(rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => done += more,
            }
        }
        Ok(data)
    }

    /// Receives until the driver ends its direction.
    pub fn recv_to_end(&self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match self.recv(&mut piece)? {
                0 => return Ok(data),
                count => data.extend_from_slice(piece.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Ends this direction (FIN); the other one stays.
    pub fn end(&self) {
        self.end.end();
    }

    /// Resets the connection.
    pub fn reset(&self) {
        self.end.reset();
    }

    /// From now on (or no more) this host takes and acknowledges nothing: what the driver sends does not complete,
    /// nor does a graceful disconnect.
    pub fn stall(&self, stalled: bool) {
        let incoming = &self.end.incoming;
        let mut state = lock(&incoming.state);
        state.stalled = stalled;
        incoming.tell(state, false, true);
    }

    /// Whether the driver reset the connection.
    pub fn is_reset(&self) -> bool {
        self.end.is_reset()
    }

    /// Waits for the driver to reset the connection.
    pub fn wait_reset(&self) -> io::Result<()> {
        let incoming = &self.end.incoming;
        self.net.wait(&incoming.state, &incoming.changed, self.patience, |state| state.reset.then_some(()))
    }

    /// Closes gracefully: ends this direction and gives the connection up.
    pub fn close(self) {
        drop(self);
    }
}

impl io::Read for Peer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.recv(into)
    }
}

impl io::Write for Peer {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.send(from)?;
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let unread = !lock(&self.end.incoming.state).data.is_empty();
        if unread {
            self.end.reset();
        } else {
            Link::close(&*self.end);
        }
        if let Some(bound) = self.bound {
            lock(&self.net.state).bound.remove(&bound);
        }
    }
}
