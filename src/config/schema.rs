//! The registry's schema: one table, from which come the typed [`Settings`], their parser, and what documentation,
//! packaging and tools say of them ([`TABLE`]).
//!
//! Pure. The values stand under `HKLM\SYSTEM\CurrentControlSet\Services\weir\Parameters`, and whoever can write there
//! writes what he likes: a value of the wrong type, size, form or range is refused whole, and what held before holds
//! on, at the start the default. Nothing in here fails otherwise, whatever the bytes.
#![forbid(unsafe_code)]

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::interface;
pub use super::interface::{Extension, Providers, Requirement, SPOKEN};
use crate::control::protocol::noise::PublicKey;
use crate::control::protocol::role::{self, MAX_PEERS, Name, Peer};
pub use crate::trace::Guid;
pub use crate::trace::events::{
    FailMode, Origin, Provider, RefusedSetting as Refused, RingOrder, TraceLevel,
};

pub const REG_SZ: u32 = 1;
pub const REG_BINARY: u32 = 3;
pub const REG_DWORD: u32 = 4;
pub const REG_MULTI_SZ: u32 = 7;

/// The longest text of an endpoint taken, in characters.
const MAX_TEXT: usize = 64;
/// The most addresses to listen on, and the most peers to dial.
pub const MAX_ENDPOINTS: usize = 8;
/// The longest path taken, in UTF-16 units.
pub const MAX_PATH: usize = 255;
/// The most extension interfaces taken.
pub const MAX_EXTENSIONS: usize = 16;

/// What a value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// REG_DWORD in a range, ends included.
    Number { minimum: u32, maximum: u32, power_of_two: bool, unit: &'static str },
    /// REG_DWORD with a name for each value.
    Choice(&'static [(u8, &'static str)]),
    /// REG_SZ, or REG_MULTI_SZ for several: `ADDRESS:PORT`, IPv6 addresses in brackets; port 0: any; empty: none.
    Endpoints,
    /// REG_MULTI_SZ: `PEER@ADDRESS:PORT`.
    Dials,
    /// REG_MULTI_SZ: `NAME=ROLE:KEY`.
    Peers,
    /// REG_SZ: an absolute path of the object manager; `.`: the driver's own; empty: none.
    Directory,
    /// REG_MULTI_SZ: `{NPIID}=required`, `{NPIID}=optional` or `{NPIID}=off`, and options.
    Extensions,
    /// REG_BINARY of at most so many bytes.
    Binary { maximum: usize },
}

impl Kind {
    /// The registry types that a value may have; the usual one first.
    pub const fn registry_types(self) -> &'static [u32] {
        match self {
            Self::Number { .. } | Self::Choice(_) => &[REG_DWORD],
            Self::Endpoints => &[REG_SZ, REG_MULTI_SZ],
            Self::Directory => &[REG_SZ],
            Self::Dials | Self::Peers | Self::Extensions => &[REG_MULTI_SZ],
            Self::Binary { .. } => &[REG_BINARY],
        }
    }

    /// The largest value that can be right, in bytes; a larger one need not be read.
    pub const fn maximum_size(self) -> usize {
        match self {
            Self::Number { .. } | Self::Choice(_) => size_of::<u32>(),
            Self::Endpoints => size_of::<[u16; MAX_ENDPOINTS * (MAX_TEXT + 1) + 1]>(),
            Self::Dials => size_of::<[u16; MAX_ENDPOINTS * (role::MAX_NAME + 1 + MAX_TEXT + 1) + 1]>(),
            Self::Peers => size_of::<[u16; MAX_PEERS * (role::MAX_TEXT + 1) + 1]>(),
            Self::Directory => size_of::<[u16; MAX_PATH + 1]>(),
            Self::Extensions => size_of::<[u16; MAX_EXTENSIONS * (interface::MAX_TEXT + 1) + 1]>(),
            Self::Binary { maximum } => maximum,
        }
    }
}

/// A value that can be taken; lists are read out of it where they are to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    Number(u32),
    Choice(u8),
    /// Each is an endpoint.
    Endpoints(Texts<'a>),
    /// Each is a dial.
    Dials(Texts<'a>),
    /// Each is a peer, with a name and a key of its own.
    Peers(Texts<'a>),
    /// Each is an extension.
    Extensions(Texts<'a>),
    Directory(Text<'a>),
    Binary(&'a [u8]),
}

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applies {
    /// At the driver's next start.
    Restart,
    /// At once, while the driver runs.
    Live,
    /// At once, but for what is more than at the driver's start: that at the next one.
    Lowered,
}

/// What is known of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The value's name in the registry; case does not matter there.
    pub name: &'static str,
    pub kind: Kind,
    /// As an administrator would write it; empty: none.
    pub default: &'static str,
    pub applies: Applies,
    /// One or more sentences.
    pub doc: &'static str,
}

/// Up to `N` of something, in the order of the registry.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    entries: [T; N],
    len: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    /// None; `filling` stands where nothing is.
    pub const fn empty(filling: T) -> Self {
        Self { entries: [filling; N], len: 0 }
    }

    pub fn as_slice(&self) -> &[T] {
        self.entries.get(..self.len).unwrap_or_default()
    }

    /// What stands in the place of what was there. Each entry is written where it stays: a whole list is large.
    fn refill(&mut self, entries: impl Iterator<Item = T>) {
        self.len = 0;
        for (place, entry) in self.entries.iter_mut().zip(entries) {
            *place = entry;
            self.len = self.len.saturating_add(1);
        }
    }
}

/// What stands behind the last entry is left of a list that was longer.
impl<T: Copy + PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Copy + Eq, const N: usize> Eq for List<T, N> {}

impl<T: fmt::Debug + Copy, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// Where to listen.
pub type Endpoints = List<SocketAddr, MAX_ENDPOINTS>;
/// Whom to connect to.
pub type Dials = List<Dial, MAX_ENDPOINTS>;
/// Who may connect.
pub type Peers = List<Peer, MAX_PEERS>;
/// The interfaces that control connections are to be registered for.
pub type Extensions = List<Extension, MAX_EXTENSIONS>;

const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

impl Endpoints {
    pub const EMPTY: Self = Self::empty(NOWHERE);

    /// The loopback address, with the port that controllers expect.
    const DEFAULT: Self = {
        let mut list = Self::EMPTY;
        list.entries[0] = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 47474));
        list.len = 1;
        list
    };
}

impl Dials {
    pub const EMPTY: Self = Self::empty(Dial { peer: Name::EMPTY, address: NOWHERE });
}

impl Peers {
    pub const EMPTY: Self = Self::empty(Peer::NOBODY);

    /// The peer with that number.
    pub fn numbered(&self, number: Option<u8>) -> Option<&Peer> {
        self.as_slice().get(usize::from(number?))
    }

    /// The number of the peer with that key.
    pub fn with_key(&self, key: &PublicKey) -> Option<u8> {
        self.position(|peer| peer.key == *key)
    }

    /// The number of the peer with that name.
    pub fn named(&self, name: &Name) -> Option<u8> {
        self.position(|peer| peer.name.is(name))
    }

    fn position(&self, is: impl FnMut(&Peer) -> bool) -> Option<u8> {
        u8::try_from(self.as_slice().iter().position(is)?).ok()
    }
}

impl Extensions {
    pub const EMPTY: Self = Self::empty(Extension::new(
        Guid { data1: 0, data2: 0, data3: 0, data4: [0; 8] },
        Requirement::Optional,
    ));
}

/// A peer to connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dial {
    /// Its name among the peers, whose case does not matter.
    pub peer: Name,
    pub address: SocketAddr,
}

/// A directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    units: [u16; MAX_PATH],
    len: u8,
}

const _: () = assert!(MAX_PATH <= u8::MAX as usize);

/// Where a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    Nowhere,
    /// The one that the system keeps for the driver.
    Own,
    /// At this path of the object manager.
    At(&'a [u16]),
}

impl Directory {
    /// The one that the system keeps for the driver.
    pub const OWN: Self = {
        let mut units = [0; MAX_PATH];
        units[0] = OWN;
        Self { units, len: 1 }
    };

    pub fn place(&self) -> Place<'_> {
        match self.units.get(..usize::from(self.len)) {
            None | Some([]) => Place::Nowhere,
            Some([OWN]) => Place::Own,
            Some(path) => Place::At(path),
        }
    }
}

/// What stands for the driver's own directory.
const OWN: u16 = b'.' as u16;

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.place(), f)
    }
}

/// A type that a setting can have.
trait Typed {
    /// Becomes the value; `false` for a value of another kind, which changes nothing.
    fn take(&mut self, value: &Value<'_>) -> bool;

    /// The value as the number that stands for it in the registry, if one does.
    fn number(&self) -> Option<u32> {
        None
    }
}

macro_rules! typed {
    ($($type:ty, $kind:ident($value:ident) => $becomes:expr, $self:ident => $number:expr;)+) => {$(
        impl Typed for $type {
            fn take(&mut self, value: &Value<'_>) -> bool {
                let Value::$kind($value) = *value else { return false };
                let Some(becomes) = $becomes else { return false };
                *self = becomes;
                true
            }

            fn number(&self) -> Option<u32> {
                let $self = *self;
                Some($number)
            }
        }
    )+};
}

typed! {
    u32, Number(number) => Some(number), it => it;
    FailMode, Choice(number) => Self::from_number(number), it => u32::from(it as u8);
    RingOrder, Choice(number) => Self::from_number(number), it => u32::from(it as u8);
    TraceLevel, Choice(number) => Self::from_number(number), it => u32::from(it as u8);
}

macro_rules! listed {
    ($($type:ty, $kind:ident => $entry:path;)+) => {$(
        impl Typed for $type {
            fn take(&mut self, value: &Value<'_>) -> bool {
                let Value::$kind(texts) = *value else { return false };
                // Each has been read before, so that none is left out.
                self.refill(texts.iter().filter_map(|text| $entry(text).ok()));
                true
            }
        }
    )+};
}

listed! {
    Endpoints, Endpoints => endpoint;
    Dials, Dials => dial;
    Peers, Peers => peer;
    Extensions, Extensions => interface::parse;
}

impl Typed for Directory {
    fn take(&mut self, value: &Value<'_>) -> bool {
        let Value::Directory(text) = *value else { return false };
        let Ok(len) = u8::try_from(text.len()) else { return false };
        for (place, unit) in self.units.iter_mut().zip(text) {
            *place = u16::from_le_bytes(*unit);
        }
        for place in self.units.iter_mut().skip(text.len()) {
            *place = 0;
        }
        self.len = len;
        true
    }
}

macro_rules! schema {
    (
        settings {$(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $name:literal $kind:expr, $default:expr, $written:literal, $applies:ident;
        )+}
        blocks {$(
            $(#[doc = $block_doc:literal])+
            $constant:ident = $block:literal $block_kind:expr, $block_applies:ident;
        )*}
    ) => {
        /// The settings, each with a value that holds.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Settings {
            /// What holds where the registry says nothing.
            pub const DEFAULT: Self = Self { $($field: $default),+ };

            /// Takes a value. One that is refused changes nothing.
            ///
            /// # Errors
            /// As [`parse`]. [`Refused::UnknownName`] also for the values that are not part of the settings.
            pub fn set(&mut self, name: &str, registry_type: u32, bytes: &[u8]) -> Result<(), Refused> {
                let value = parse(name, registry_type, bytes)?;
                $(if name.eq_ignore_ascii_case($name) {
                    return if self.$field.take(&value) { Ok(()) } else { Err(Refused::OutOfRange) };
                })+
                Err(Refused::UnknownName)
            }

            /// Whether both have the same value of that name.
            pub fn agrees(&self, other: &Self, name: &str) -> bool {
                $(if name.eq_ignore_ascii_case($name) {
                    return self.$field == other.$field;
                })+
                true
            }

            /// Takes over the value of that name.
            pub fn adopt(&mut self, other: &Self, name: &str) {
                $(if name.eq_ignore_ascii_case($name) {
                    self.$field = other.$field;
                })+
            }

            /// The value of that name as the number that stands for it in the registry, if one does.
            pub fn number(&self, name: &str) -> Option<u32> {
                $(if name.eq_ignore_ascii_case($name) {
                    return self.$field.number();
                })+
                None
            }
        }

        $($(#[doc = $block_doc])+ pub const $constant: Setting = Setting {
            name: $block,
            kind: $block_kind,
            default: "",
            applies: Applies::$block_applies,
            doc: concat!($($block_doc),+).trim_ascii(),
        };)*

        /// Every value that weir reads: the settings, then the blocks that are read by themselves.
        pub const TABLE: &[Setting] = &[
            $(Setting {
                name: $name,
                kind: $kind,
                default: $written,
                applies: Applies::$applies,
                doc: concat!($($doc),+).trim_ascii(),
            },)+
            $($constant,)*
        ];
    };
}

schema! {
    settings {
        /// Who may connect, as `NAME=ROLE:KEY`: a name of letters, digits, `.`, `-`, `_` and `@`; `observer`, which may
        /// look, or `operator`, which may change the policy as well; the public key as 64 hexadecimal digits. At most
        /// 64. With one that is wrong none is taken.
        control_peers: Peers = "ControlPeers" Kind::Peers, Peers::EMPTY, "", Live;
        /// Where control sockets listen, as `ADDRESS:PORT`; an IPv6 address stands in brackets. Port 0 takes any free
        /// port. Several stand in a REG_MULTI_SZ, at most 8. Empty: nowhere.
        control_listen: Endpoints = "ControlListen" Kind::Endpoints, Endpoints::DEFAULT, "127.0.0.1:47474", Restart;
        /// Whom the driver connects to by itself, as `PEER@ADDRESS:PORT`, the peer by its name in ControlPeers: for
        /// hosts that cannot be reached from outside. At most 8.
        control_dial: Dials = "ControlDial" Kind::Dials, Dials::EMPTY, "", Restart;
        /// How many control connections there can be at a time. Further ones are refused. One place of eight is kept for
        /// operators.
        control_max_sessions: u32 = "ControlMaxSessions"
            Kind::Number { minimum: 1, maximum: 1024, power_of_two: false, unit: "connections" },
            128, "128", Lowered;
        /// How many of them can be there before it is known who they are. Further ones are refused.
        control_max_unauthenticated: u32 = "ControlMaxUnauthenticated"
            Kind::Number { minimum: 1, maximum: 1024, power_of_two: false, unit: "connections" },
            64, "64", Live;
        /// How long a control connection may take until it is known who it is.
        control_handshake_timeout_ms: u32 = "ControlHandshakeTimeout"
            Kind::Number { minimum: 100, maximum: 60_000, power_of_two: false, unit: "milliseconds" },
            5000, "5000", Live;
        /// How long a control connection may be silent. A `ping` ends the silence.
        control_idle_timeout_ms: u32 = "ControlIdleTimeout"
            Kind::Number { minimum: 1000, maximum: 86_400_000, power_of_two: false, unit: "milliseconds" },
            300_000, "300000", Live;
        /// How many control connections one address may open at once, before its rate counts.
        control_connect_burst: u32 = "ControlConnectBurst"
            Kind::Number { minimum: 1, maximum: 1024, power_of_two: false, unit: "connections" },
            32, "32", Live;
        /// How many control connections a minute one address may open when it has used up its burst.
        control_connect_rate: u32 = "ControlConnectRate"
            Kind::Number { minimum: 1, maximum: 60_000, power_of_two: false, unit: "connections a minute" },
            120, "120", Live;
        /// How many requests a second a control connection may make; 0: as many as it likes.
        control_message_rate: u32 = "ControlMessageRate"
            Kind::Number { minimum: 0, maximum: 1_000_000, power_of_two: false, unit: "requests a second" },
            1000, "1000", Live;
        /// The directory in which a confirmed policy is kept, as an absolute path of the object manager, as
        /// `\??\C:\Windows\weir`. It is made if it is not there. Whoever may write there decides which policy a restart
        /// finds: nobody but the system and administrators may be able to write to it, or above it. A single `.`: the
        /// directory that the system keeps for the driver's data (IoGetDriverDirectory), or where it keeps none,
        /// `\SystemRoot\System32\drivers\DriverData\weir`. Empty: nothing is kept, and a confirmed policy ends with the
        /// driver.
        policy_store: Directory = "PolicyStore" Kind::Directory, Directory::OWN, ".", Restart;
        /// What happens to connections while no policy is loaded: open lets them pass, closed blocks them.
        fail_mode: FailMode = "FailMode" Kind::Choice(FailMode::NAMES),
            FailMode::Open, "0", Restart;
        /// Extension interfaces that each control connection is registered for, at most 16: `{NPIID}=required`,
        /// `{NPIID}=optional` or `{NPIID}=off`, then options; see below. A connection that cannot have a required one is
        /// closed. Those that weir speaks are asked for in any case, as optional ones, unless they are off.
        extension_interfaces: Extensions = "ExtensionInterfaces" Kind::Extensions,
            Extensions::EMPTY, "", Restart;
        /// How often weir itself, where it provides an interface, tells what a control connection has carried; 0: not at
        /// all.
        extension_metric_seconds: u32 = "ExtensionMetricSeconds"
            Kind::Number { minimum: 0, maximum: 86_400, power_of_two: false, unit: "seconds" },
            60, "60", Live;
        /// How much may wait to be sent on a control connection before extensions are told, and again when half of it
        /// is left; above it, a connection has no more than one buffer under way. 0: no mark.
        send_backlog_mark: u32 = "SendBacklogMark"
            Kind::Number { minimum: 0, maximum: 16_777_216, power_of_two: false, unit: "bytes" },
            0, "0", Restart;
        /// How much may have been received on a control connection and not been read before extensions are told, and
        /// again when half of it is left. 0: no mark.
        receive_backlog_mark: u32 = "ReceiveBacklogMark"
            Kind::Number { minimum: 0, maximum: 16_777_216, power_of_two: false, unit: "bytes" },
            0, "0", Restart;
        /// How many records of 64 bytes the dispatch ring of each processor holds. When it is full, telemetry is
        /// dropped, and counted; the ends of connections are told all the same. Each active processor takes that many times
        /// 64 bytes of non-paged memory, 256 KiB by default, and so does each that is added later.
        ring_records: u32 = "RingRecords"
            Kind::Number { minimum: 256, maximum: 1_048_576, power_of_two: true, unit: "records" },
            4096, "4096", Restart;
        /// In which order records of several processors are told: processor leaves it to how they come, and keeps the
        /// order of each processor and of each connection; time merges them by when they were written, which costs each a
        /// look at the clock, makes that of a verdict twice as large, and delays all by a tenth of a millisecond.
        ring_order: RingOrder = "RingOrder" Kind::Choice(RingOrder::NAMES),
            RingOrder::Processor, "0", Restart;
        /// How long the dispatcher looks for further records before it sleeps. Longer saves wake-ups under load and
        /// costs processor time.
        dispatch_spin_microseconds: u32 = "DispatchSpinMicroseconds"
            Kind::Number { minimum: 0, maximum: 1000, power_of_two: false, unit: "microseconds" },
            20, "20", Live;
        /// How many connections are tracked at a time. Beyond that they are decided on, but neither counted nor
        /// reported, which an event tells.
        max_connections: u32 = "MaxConnections"
            Kind::Number { minimum: 1024, maximum: 16_777_216, power_of_two: false, unit: "connections" },
            262_144, "262144", Restart;
        /// Of the verdicts that allow, one in so many is traced; 0: none of them. Those that block or audit are
        /// always traced.
        verdict_sampling: u32 = "VerdictSampling"
            Kind::Number { minimum: 0, maximum: 1_000_000, power_of_two: false, unit: "verdicts" },
            1, "1", Live;
        /// How long the stop waits for control connections to end in good order before it aborts them.
        shutdown_timeout_ms: u32 = "ShutdownTimeoutMs"
            Kind::Number { minimum: 100, maximum: 60_000, power_of_two: false, unit: "milliseconds" },
            5000, "5000", Live;
        /// How many starts in a row can end badly before weir comes up passing everything, whatever FailMode says: starts
        /// of which it is not known that they ran for GuardSettleSeconds, or that weir was stopped or the system shut
        /// down. 0: no such guard.
        guard_starts: u32 = "GuardStarts"
            Kind::Number { minimum: 0, maximum: 100, power_of_two: false, unit: "starts" },
            3, "3", Restart;
        /// How long weir must have run for its start to count as a good one.
        guard_settle_seconds: u32 = "GuardSettleSeconds"
            Kind::Number { minimum: 1, maximum: 86_400, power_of_two: false, unit: "seconds" },
            300, "300", Restart;
        /// The most that is told: events up to this level, whatever a trace session or a subscriber asks for. Below 3,
        /// faults and what is missing are not told either.
        trace_level: TraceLevel = "TraceLevel" Kind::Choice(TraceLevel::NAMES),
            TraceLevel::Verbose, "5", Live;
        /// What is told at most: events with one of these keywords, a bit each, whatever a trace session or a subscriber
        /// asks for.
        trace_keywords: u32 = "TraceKeywords"
            Kind::Number { minimum: 0, maximum: u32::MAX, power_of_two: false, unit: "(a mask)" },
            u32::MAX, "4294967295", Live;
    }
    blocks {
        /// The policy image, as `weir policy check --output` writes it. One that is damaged is refused whole.
        POLICY_IMAGE = "PolicyImage" Kind::Binary { maximum: 64 * 1024 * 1024 }, Live;
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Settings {
    /// The first to connect to who is not one of the peers. With one of these nobody is connected to: whom the name
    /// stands for is not known, and the others were written by the same hand.
    pub fn stranger(&self) -> Option<&Dial> {
        let is_peer =
            |dial: &&Dial| self.control_peers.as_slice().iter().any(|peer| peer.name.is(&dial.peer));
        self.control_dial.as_slice().iter().find(|dial| !is_peer(dial))
    }
}

/// The setting of that name; case does not matter.
pub fn find(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
}

/// Reads one value of the registry: its name, its type (`REG_…`), its bytes.
///
/// # Errors
/// Why the value cannot be taken.
pub fn parse<'a>(name: &str, registry_type: u32, bytes: &'a [u8]) -> Result<Value<'a>, Refused> {
    let kind = find(name).ok_or(Refused::UnknownName)?.kind;
    if !kind.registry_types().contains(&registry_type) {
        return Err(Refused::WrongType);
    }
    let most = kind.maximum_size();
    match kind {
        Kind::Number { minimum, maximum, power_of_two, .. } => {
            let number = dword(bytes)?;
            if !(minimum..=maximum).contains(&number) {
                Err(Refused::OutOfRange)
            } else if power_of_two && !number.is_power_of_two() {
                Err(Refused::NotPowerOfTwo)
            } else {
                Ok(Value::Number(number))
            }
        }
        Kind::Choice(values) => {
            let number = u8::try_from(dword(bytes)?).map_err(|_| Refused::OutOfRange)?;
            let known = values.iter().any(|&(value, _)| value == number);
            if known { Ok(Value::Choice(number)) } else { Err(Refused::OutOfRange) }
        }
        Kind::Endpoints => {
            let texts = if registry_type == REG_SZ {
                Texts::one(text(bytes, most)?)
            } else {
                Texts::read(bytes, most)?
            };
            distinct(texts, MAX_ENDPOINTS, endpoint)?;
            Ok(Value::Endpoints(texts))
        }
        Kind::Dials => {
            let texts = Texts::read(bytes, most)?;
            distinct(texts, MAX_ENDPOINTS, dial)?;
            Ok(Value::Dials(texts))
        }
        Kind::Peers => {
            let texts = Texts::read(bytes, most)?;
            peers(texts)?;
            Ok(Value::Peers(texts))
        }
        Kind::Extensions => {
            let texts = Texts::read(bytes, most)?;
            distinct(texts, MAX_EXTENSIONS, |text| interface::parse(text).map(|it| it.interface))?;
            Ok(Value::Extensions(texts))
        }
        Kind::Directory => {
            let text = text(bytes, most)?;
            if text.contains(&NUL) {
                return Err(Refused::EmbeddedNul);
            }
            match text {
                [] | [[b'.', 0]] => Ok(Value::Directory(text)),
                [[b'\\', 0], _, ..] if text.len() <= MAX_PATH => Ok(Value::Directory(text)),
                _ => Err(Refused::BadPath),
            }
        }
        Kind::Binary { maximum } => {
            if bytes.len() > maximum {
                Err(Refused::TooLong)
            } else if bytes.is_empty() {
                Err(Refused::WrongSize)
            } else {
                Ok(Value::Binary(bytes))
            }
        }
    }
}

/// A UTF-16 unit as it stands in the registry.
pub type Unit = [u8; 2];
/// A text as it stands in the registry.
pub type Text<'a> = &'a [Unit];
const NUL: Unit = [0, 0];

fn dword(bytes: &[u8]) -> Result<u32, Refused> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| Refused::WrongSize)
}

fn units(bytes: &[u8], maximum: usize) -> Result<Text<'_>, Refused> {
    match bytes.as_chunks() {
        // Even an empty string has a terminator.
        (_, [_]) | ([], _) => Err(Refused::WrongSize),
        _ if bytes.len() > maximum => Err(Refused::TooLong),
        (units, _) => Ok(units),
    }
}

/// A string, which the registry may hold with its terminator, or without.
fn text(bytes: &[u8], maximum: usize) -> Result<Text<'_>, Refused> {
    units(bytes, maximum).map(|text| text.strip_suffix(&[NUL]).unwrap_or(text))
}

/// Strings, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Texts<'a> {
    /// `None`: there are no more.
    rest: Option<Text<'a>>,
    /// One string is all there is, whatever stands in it.
    single: bool,
}

impl<'a> Texts<'a> {
    /// One string; none if it is empty.
    fn one(text: Text<'a>) -> Self {
        Self { rest: Some(text).filter(|text| !text.is_empty()), single: true }
    }

    /// Those of a REG_MULTI_SZ.
    fn read(bytes: &'a [u8], maximum: usize) -> Result<Self, Refused> {
        let text = units(bytes, maximum)?;
        // Each string has a terminator and the list another; either may be missing at the very end.
        let text = text.strip_suffix(&[NUL]).unwrap_or(text);
        let text = text.strip_suffix(&[NUL]).unwrap_or(text);
        let texts = Self { rest: Some(text).filter(|text| !text.is_empty()), single: false };
        if texts.iter().any(<[Unit]>::is_empty) { Err(Refused::EmbeddedNul) } else { Ok(texts) }
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Text<'a>> {
        Each(self)
    }
}

struct Each<'a>(Texts<'a>);

impl<'a> Iterator for Each<'a> {
    type Item = Text<'a>;

    fn next(&mut self) -> Option<Text<'a>> {
        let Self(Texts { rest: left, single }) = self;
        let rest = (*left)?;
        let end = rest.iter().position(|&unit| unit == NUL).filter(|_| !*single);
        let Some((text, after)) = end.and_then(|end| rest.split_at_checked(end)) else {
            *left = None;
            return Some(rest);
        };
        *left = after.split_first().map(|(_, after)| after);
        Some(text)
    }
}

/// Reads each text, which must be at most so many, and different ones.
fn distinct<'a, T: PartialEq>(
    texts: Texts<'a>,
    most: usize,
    read: impl Fn(Text<'a>) -> Result<T, Refused>,
) -> Result<(), Refused> {
    for (index, text) in texts.iter().enumerate() {
        let entry = read(text)?;
        // Few enough to be read again and again, and too many to be kept on the stack.
        if texts.iter().take(index).any(|earlier| read(earlier).is_ok_and(|earlier| earlier == entry)) {
            return Err(Refused::Duplicate);
        }
        if index >= most {
            return Err(Refused::TooMany);
        }
    }
    Ok(())
}

fn endpoint(text: Text<'_>) -> Result<SocketAddr, Refused> {
    let mut ascii = [0; MAX_TEXT];
    let ascii = ascii.get_mut(..text.len()).ok_or(Refused::TooLong)?;
    for (place, &unit) in ascii.iter_mut().zip(text) {
        *place = match unit {
            NUL => return Err(Refused::EmbeddedNul),
            [byte, 0] if byte.is_ascii_graphic() => byte,
            _ => return Err(Refused::NotText),
        };
    }
    super::endpoint::parse(ascii).ok_or(Refused::BadAddress)
}

fn dial(text: Text<'_>) -> Result<Dial, Refused> {
    // A name may have the sign in it, an address may not.
    let at = text.iter().rposition(|&unit| unit == [b'@', 0]).ok_or(Refused::BadPeer)?;
    let (name, address) = text.split_at_checked(at).ok_or(Refused::BadPeer)?;
    let peer = Name::parse(utf16(name)).ok_or(Refused::BadPeer)?;
    let address = endpoint(address.split_first().map(|(_, address)| address).unwrap_or_default())?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(Refused::BadAddress);
    }
    Ok(Dial { peer, address })
}

fn peer(text: Text<'_>) -> Result<Peer, Refused> {
    Peer::parse(utf16(text)).map_err(|_| Refused::BadPeer)
}

/// Reads each peer, which must have a name and a key of its own.
fn peers(texts: Texts<'_>) -> Result<(), Refused> {
    for (index, text) in texts.iter().enumerate() {
        let entry = peer(text)?;
        for earlier in texts.iter().take(index) {
            entry.fits(&[peer(earlier)?]).map_err(|_| Refused::Duplicate)?;
        }
        if index >= MAX_PEERS {
            return Err(Refused::TooMany);
        }
    }
    Ok(())
}

fn utf16(text: Text<'_>) -> impl Iterator<Item = u16> {
    text.iter().map(|&unit| u16::from_le_bytes(unit))
}
