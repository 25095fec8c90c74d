//! What a back end offers to the sockets: connections as non-blocking byte streams, and listeners.

use crate::sys::nt::NTSTATUS;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

/// What reading a link gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Data(usize),
    /// Nothing yet; the link notifies when that changes.
    Empty,
    /// The peer has ended its direction, and all that it sent was read.
    End,
    /// The peer has reset the connection.
    Reset,
}

/// What writing to a link gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    Wrote(usize),
    /// The peer takes no more for now; the link notifies when that changes.
    Full,
    Reset,
}

/// One end of a connection.
pub trait Link: Send + Sync {
    fn local(&self) -> SocketAddr;
    fn remote(&self) -> SocketAddr;
    fn read(&self, into: &mut [u8]) -> Read;
    fn write(&self, from: &[u8]) -> Write;
    /// Whether the peer has reset the connection, whatever is left to read.
    fn is_reset(&self) -> bool;
    /// Ends this direction after what was written (FIN).
    fn end(&self);
    /// Whether the peer's stack has acknowledged the end.
    fn end_acknowledged(&self) -> bool;
    /// Drops the connection, and has the peer see a reset.
    fn abort(&self);
    /// Gives the link up after both directions have ended.
    fn close(&self);
    /// Whom to tell of readiness.
    fn notify(&self, whom: Weak<dyn Notify>);
}

/// Told, from any thread and under the back end's locks, that something changed; only queues work.
pub trait Notify: Send + Sync {
    fn readable(&self);
    fn writable(&self);
}

/// Options that matter to a back end at bind.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    pub exclusive: bool,
    /// An AF_INET6 socket that takes no IPv4.
    pub v6_only: bool,
}

/// A bound listener.
pub trait Listener: Send + Sync {
    fn local(&self) -> SocketAddr;
    /// The next connection that waits to be accepted.
    fn accept(&self) -> Option<Arc<dyn Link>>;
    /// Resets what waits and stops listening.
    fn close(&self);
}

/// A local address held by a socket that is not connected yet.
pub trait Binding: Send + Sync {
    fn local(&self) -> SocketAddr;
    /// Starts to connect; `done` is called once, from any thread, unless the attempt is cancelled first.
    fn connect(&self, remote: SocketAddr, done: Connected) -> Result<(), NTSTATUS>;
    /// Gives up the address and an attempt under way.
    fn close(&self);
}

pub type Connected = Box<dyn FnOnce(Result<Arc<dyn Link>, NTSTATUS>) + Send>;

pub trait Network: Send + Sync {
    fn listen(
        &self,
        at: SocketAddr,
        options: BindOptions,
        whom: Weak<dyn Notify>,
    ) -> Result<Arc<dyn Listener>, NTSTATUS>;
    fn bind(&self, at: SocketAddr, options: BindOptions) -> Result<Arc<dyn Binding>, NTSTATUS>;
    /// Ends every thread of the back end.
    fn stop(&self);
}
