//! The policy: an ordered list of rules, of which the first that matches a connection decides it.
//!
//! A policy reaches the driver as an *image* ([`image`]): one contiguous, position-independent block that the
//! tools compile. The driver validates it once and looks connections up in place ([`lookup`]); which rule
//! decides and why is told by [`explain`]; [`snapshot`] publishes one image to all processors and takes it
//! back.
//!
//! Everything here but [`snapshot`] is plain code over bytes: no kernel, no memory of its own, any IRQL, no
//! panic, and no loop whose length the image alone decides beyond the limits of [`format`](mod@format).

pub mod format;

mod app;
mod explain;
mod image;
mod lookup;
pub mod snapshot;

pub use app::App;
pub use explain::{Explain, Fields, Step};
pub use image::{Image, Invalid, Rule, Stats, What, checksum};

/// Which side opens the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// A remote host connects to this one (ALE_AUTH_RECV_ACCEPT).
    In = 0,
    /// This host connects to a remote one (ALE_AUTH_CONNECT).
    Out = 1,
}

/// The address family of a connection; both of its addresses are of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// What a rule, or the default, does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Permit it.
    Allow = 0,
    /// Block it.
    Block = 1,
    /// Let it pass without permitting it (other filters still have their say), and record it.
    Audit = 2,
}

impl Action {
    /// The action that an image encodes as `byte`.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Allow),
            1 => Some(Self::Block),
            2 => Some(Self::Audit),
            _ => None,
        }
    }
}

/// What is known of a connection when it is decided. A field that is `None` is EMPTY: no rule that names the
/// field matches, whatever the rule says of it.
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    /// Which side opens the connection.
    pub direction: Direction,
    /// The family of `local` and `remote`.
    pub family: Family,
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// The local address in network byte order; an IPv4 address fills the first four bytes.
    pub local: Option<[u8; 16]>,
    /// The remote address, laid out as `local` is.
    pub remote: Option<[u8; 16]>,
    /// The local port in host byte order. Looked at for TCP and UDP only, so that an ICMP type in WFP's port
    /// slot is never taken for a port.
    pub local_port: Option<u16>,
    /// The remote port, as `local_port`.
    pub remote_port: Option<u16>,
    /// The NT path of the application.
    pub app: Option<App<'a>>,
}

/// The protocols that have ports.
const TCP: u8 = 6;
const UDP: u8 = 17;

impl Tuple<'_> {
    /// The ports (local, remote) if the protocol has any.
    fn ports(&self) -> (Option<u16>, Option<u16>) {
        match self.protocol {
            Some(TCP | UDP) => (self.local_port, self.remote_port),
            _ => (None, None),
        }
    }
}

/// What the policy says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The rule that says so, by its place in the file from 0; `None` is the default.
    pub rule: Option<u32>,
}

#[cfg(test)]
mod tests;
