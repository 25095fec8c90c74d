//! The back end on real TCP: the host's sockets, non-blocking, watched by one thread.

use super::address::specific;
use super::link::{BindOptions, Binding, Connected, Link, Listener, Network, Notify, Read, Write};
use crate::sys::nt::{
    NTSTATUS, STATUS_ACCESS_DENIED, STATUS_ADDRESS_ALREADY_EXISTS, STATUS_CONNECTION_ABORTED,
    STATUS_CONNECTION_REFUSED, STATUS_CONNECTION_RESET, STATUS_HOST_UNREACHABLE,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_ADDRESS_COMPONENT, STATUS_IO_TIMEOUT,
    STATUS_NETWORK_UNREACHABLE,
};
use crate::verify::lock;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};

const WAKE: Token = Token(0);
/// What the host queues before a listener of ours accepts.
const BACKLOG: i32 = 1024;

/// What a readiness event is for.
trait Ready: Send + Sync {
    fn ready(&self, readable: bool, writable: bool, failed: bool);
}

struct Reactor {
    registry: Registry,
    waker: Waker,
    watched: Mutex<HashMap<Token, Weak<dyn Ready>>>,
    next: AtomicUsize,
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reactor {
    fn start() -> io::Result<Arc<Self>> {
        let mut poll = Poll::new()?;
        let reactor = Arc::new(Self {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            watched: Mutex::default(),
            next: AtomicUsize::new(1),
            stop: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let watcher = Arc::clone(&reactor);
        let thread = thread::Builder::new().name("wsk-tcp".into()).spawn(move || {
            let mut events = Events::with_capacity(256);
            while !watcher.stop.load(Ordering::Acquire) {
                if let Err(error) = poll.poll(&mut events, None)
                    && error.kind() != ErrorKind::Interrupted
                {
                    return;
                }
                for event in &events {
                    let found = lock(&watcher.watched).get(&event.token()).and_then(Weak::upgrade);
                    if let Some(found) = found {
                        let failed = event.is_error();
                        let readable = event.is_readable() || event.is_read_closed() || failed;
                        found.ready(readable, event.is_writable() || failed, failed);
                    }
                }
            }
        })?;
        *lock(&reactor.thread) = Some(thread);
        Ok(reactor)
    }

    fn token(&self) -> Token {
        Token(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn forget(&self, token: Token) {
        lock(&self.watched).remove(&token);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Without a wake-up there is no thread to end.
        if self.waker.wake().is_ok()
            && let Some(thread) = lock(&self.thread).take()
        {
            drop(thread.join());
        }
    }
}

/// The status for an error of the host.
fn status(error: &io::Error) -> NTSTATUS {
    match error.kind() {
        ErrorKind::AddrInUse => STATUS_ADDRESS_ALREADY_EXISTS,
        ErrorKind::AddrNotAvailable => STATUS_INVALID_ADDRESS_COMPONENT,
        ErrorKind::ConnectionRefused => STATUS_CONNECTION_REFUSED,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => STATUS_CONNECTION_RESET,
        ErrorKind::ConnectionAborted => STATUS_CONNECTION_ABORTED,
        ErrorKind::HostUnreachable => STATUS_HOST_UNREACHABLE,
        ErrorKind::NetworkUnreachable => STATUS_NETWORK_UNREACHABLE,
        ErrorKind::TimedOut => STATUS_IO_TIMEOUT,
        ErrorKind::PermissionDenied => STATUS_ACCESS_DENIED,
        _ => STATUS_INSUFFICIENT_RESOURCES,
    }
}

/// A stream socket of the host, bound to `at`.
fn bound(at: SocketAddr, options: BindOptions) -> io::Result<Socket> {
    let domain = if at.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    // On the hosts that this runs on it only lets an address be taken again that old connections linger on.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

fn local_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::InvalidData.into())
}

pub struct TcpNetwork {
    reactor: Option<Arc<Reactor>>,
}

impl TcpNetwork {
    pub fn start() -> Arc<Self> {
        // Without a poller every bind fails for want of resources.
        Arc::new(Self { reactor: Reactor::start().ok() })
    }

    fn reactor(&self) -> Result<Arc<Reactor>, NTSTATUS> {
        self.reactor.clone().ok_or(STATUS_INSUFFICIENT_RESOURCES)
    }
}

impl Network for TcpNetwork {
    fn listen(
        &self,
        at: SocketAddr,
        options: BindOptions,
        whom: Weak<dyn Notify>,
    ) -> Result<Arc<dyn Listener>, NTSTATUS> {
        let reactor = self.reactor()?;
        let open = || -> io::Result<Arc<dyn Listener>> {
            let socket = bound(at, options)?;
            socket.listen(BACKLOG)?;
            let local = local_of(&socket)?;
            let mut listener = TcpListener::from_std(socket.into());
            let token = reactor.token();
            reactor.registry.register(&mut listener, token, Interest::READABLE)?;
            let port = Arc::new(TcpPort {
                reactor: Arc::clone(&reactor),
                token,
                local,
                listener: Mutex::new(Some(listener)),
                whom,
            });
            let weak: Weak<TcpPort> = Arc::downgrade(&port);
            lock(&reactor.watched).insert(token, weak);
            port.ready(true, false, false);
            Ok(port)
        };
        open().map_err(|error| status(&error))
    }

    fn bind(&self, at: SocketAddr, options: BindOptions) -> Result<Arc<dyn Binding>, NTSTATUS> {
        let reactor = self.reactor()?;
        let socket = bound(at, options).map_err(|error| status(&error))?;
        let local = local_of(&socket).map_err(|error| status(&error))?;
        Ok(Arc::new(TcpBinding {
            reactor,
            local,
            socket: Mutex::new(Some(socket)),
            attempt: Mutex::default(),
        }))
    }

    fn stop(&self) {
        if let Some(reactor) = &self.reactor {
            reactor.stop();
        }
    }
}

struct TcpPort {
    reactor: Arc<Reactor>,
    token: Token,
    local: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    whom: Weak<dyn Notify>,
}

impl Ready for TcpPort {
    fn ready(&self, _readable: bool, _writable: bool, _failed: bool) {
        if let Some(whom) = self.whom.upgrade() {
            whom.readable();
        }
    }
}

impl Listener for TcpPort {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn accept(&self) -> Option<Arc<dyn Link>> {
        loop {
            let accepted = lock(&self.listener).as_ref()?.accept();
            match accepted {
                Ok((stream, remote)) => {
                    // A connection that is gone already is none.
                    if let Ok(link) = TcpLink::start(&self.reactor, stream, remote) {
                        return Some(link);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        }
    }

    fn close(&self) {
        self.reactor.forget(self.token);
        if let Some(mut listener) = lock(&self.listener).take() {
            // Dropping it closes it, registered or not.
            drop(self.reactor.registry.deregister(&mut listener));
        }
    }
}

impl Drop for TcpPort {
    fn drop(&mut self) {
        Listener::close(self);
    }
}

struct TcpBinding {
    reactor: Arc<Reactor>,
    local: SocketAddr,
    socket: Mutex<Option<Socket>>,
    attempt: Mutex<Option<Arc<Attempt>>>,
}

/// A connection being made.
struct Attempt {
    reactor: Arc<Reactor>,
    token: Token,
    remote: SocketAddr,
    stream: Mutex<Option<(TcpStream, Connected)>>,
}

impl Binding for TcpBinding {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn connect(&self, remote: SocketAddr, done: Connected) -> Result<(), NTSTATUS> {
        let socket = lock(&self.socket).take().ok_or(STATUS_INVALID_ADDRESS_COMPONENT)?;
        let remote = specific(remote);
        if let Err(error) = socket.connect(&remote.into())
            && error.kind() != ErrorKind::WouldBlock
            && error.raw_os_error() != Some(IN_PROGRESS)
        {
            return Err(status(&error));
        }
        let mut stream = TcpStream::from_std(socket.into());
        let token = self.reactor.token();
        let registered =
            self.reactor.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE);
        registered.map_err(|error| status(&error))?;
        let attempt = Arc::new(Attempt {
            reactor: Arc::clone(&self.reactor),
            token,
            remote,
            stream: Mutex::new(Some((stream, done))),
        });
        let weak: Weak<Attempt> = Arc::downgrade(&attempt);
        lock(&self.reactor.watched).insert(token, weak);
        *lock(&self.attempt) = Some(Arc::clone(&attempt));
        // An event may have come before anyone was watching.
        attempt.ready(false, true, false);
        Ok(())
    }

    fn close(&self) {
        drop(lock(&self.socket).take());
        if let Some(attempt) = lock(&self.attempt).take() {
            attempt.give_up();
        }
    }
}

/// EINPROGRESS, which std has no kind for.
#[cfg(target_os = "linux")]
const IN_PROGRESS: i32 = 115;
#[cfg(all(unix, not(target_os = "linux")))]
const IN_PROGRESS: i32 = 36;
/// WSAEWOULDBLOCK, which std maps to a kind by itself.
#[cfg(windows)]
const IN_PROGRESS: i32 = 10035;

impl Attempt {
    fn give_up(&self) {
        self.reactor.forget(self.token);
        if let Some((mut stream, done)) = lock(&self.stream).take() {
            drop(self.reactor.registry.deregister(&mut stream));
            drop(done);
        }
    }

    /// How the attempt ended; nothing while it goes on.
    fn outcome(stream: &TcpStream) -> Option<io::Result<()>> {
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
            Ok(None) => {}
        }
        match stream.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Ready for Attempt {
    fn ready(&self, _readable: bool, _writable: bool, _failed: bool) {
        let mut slot = lock(&self.stream);
        let Some(outcome) = slot.as_ref().and_then(|(stream, _)| Self::outcome(stream)) else { return };
        let Some((mut stream, done)) = slot.take() else { return };
        drop(slot);
        self.reactor.forget(self.token);
        // It is registered again for the link.
        drop(self.reactor.registry.deregister(&mut stream));
        let link = outcome.and_then(|()| TcpLink::start(&self.reactor, stream, self.remote));
        match link {
            Ok(link) => done(Ok(link)),
            Err(error) => done(Err(status(&error))),
        }
    }
}

/// A connection of the host.
struct TcpLink {
    reactor: Arc<Reactor>,
    token: Token,
    local: SocketAddr,
    remote: SocketAddr,
    stream: Mutex<Option<TcpStream>>,
    whom: Mutex<Option<Weak<dyn Notify>>>,
    ended: AtomicBool,
    reset: AtomicBool,
    /// The host has an error to tell.
    suspect: AtomicBool,
}

impl TcpLink {
    fn start(reactor: &Arc<Reactor>, mut stream: TcpStream, remote: SocketAddr) -> io::Result<Arc<dyn Link>> {
        let local = stream.local_addr()?;
        // Sends are as large as the driver makes them.
        stream.set_nodelay(true)?;
        let token = reactor.token();
        reactor.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let link = Arc::new(Self {
            reactor: Arc::clone(reactor),
            token,
            local,
            remote,
            stream: Mutex::new(Some(stream)),
            whom: Mutex::default(),
            ended: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
        });
        let weak: Weak<Self> = Arc::downgrade(&link);
        lock(&reactor.watched).insert(token, weak);
        Ok(link)
    }

    fn failed(&self, error: &io::Error) -> bool {
        let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        if !waits {
            self.reset.store(true, Ordering::Release);
        }
        !waits
    }

    fn take(&self) -> Option<TcpStream> {
        self.reactor.forget(self.token);
        let mut stream = lock(&self.stream).take()?;
        drop(self.reactor.registry.deregister(&mut stream));
        Some(stream)
    }
}

impl Ready for TcpLink {
    fn ready(&self, readable: bool, writable: bool, failed: bool) {
        if failed {
            self.suspect.store(true, Ordering::Release);
        }
        let whom = lock(&self.whom).as_ref().and_then(Weak::upgrade);
        if let Some(whom) = whom {
            if readable {
                whom.readable();
            }
            if writable {
                whom.writable();
            }
        }
    }
}

impl Link for TcpLink {
    fn local(&self) -> SocketAddr {
        self.local
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn read(&self, into: &mut [u8]) -> Read {
        loop {
            let guard = lock(&self.stream);
            let Some(mut stream) = guard.as_ref() else { return Read::Reset };
            match stream.read(into) {
                Ok(0) => return Read::End,
                Ok(count) => return Read::Data(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return if self.failed(&error) { Read::Reset } else { Read::Empty },
            }
        }
    }

    fn write(&self, from: &[u8]) -> Write {
        loop {
            let guard = lock(&self.stream);
            let Some(mut stream) = guard.as_ref() else { return Write::Reset };
            match stream.write(from) {
                Ok(count) => return Write::Wrote(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return if self.failed(&error) { Write::Reset } else { Write::Full },
            }
        }
    }

    fn is_reset(&self) -> bool {
        if self.suspect.swap(false, Ordering::AcqRel)
            && let Some(stream) = lock(&self.stream).as_ref()
            && let Ok(Some(error)) = stream.take_error()
        {
            self.failed(&error);
        }
        self.reset.load(Ordering::Acquire)
    }

    fn end(&self) {
        if let Some(stream) = lock(&self.stream).as_ref()
            && let Err(error) = stream.shutdown(Shutdown::Write)
        {
            self.failed(&error);
        }
        self.ended.store(true, Ordering::Release);
    }

    fn end_acknowledged(&self) -> bool {
        // The host does not tell when the peer has it; its stack does the rest.
        self.ended.load(Ordering::Acquire)
    }

    fn abort(&self) {
        if let Some(stream) = self.take() {
            // Dropping a socket that lingers for no time resets the connection.
            drop(SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)));
        }
    }

    fn close(&self) {
        drop(self.take());
    }

    fn notify(&self, whom: Weak<dyn Notify>) {
        *lock(&self.whom) = Some(whom);
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.abort();
    }
}
