//! The events: one table, from which come the [`Event`] that the driver emits, the metadata that documentation and
//! consumers read ([`Event::TABLE`]), and the generic way to walk an event's fields ([`Event::fields`]).
//!
//! Pure. Names, ids, fields, levels and keywords are public API: an id is never used for another event, and fields
//! are only ever added at the end.
#![forbid(unsafe_code)]

use core::fmt;
use core::net::IpAddr;

use super::guid::Guid;
use crate::policy::{Action, Direction};

/// How much an event matters; the numbers are those of ETW (winmeta.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    Critical = 1,
    Error = 2,
    Warning = 3,
    Information = 4,
    Verbose = 5,
}

bitflags::bitflags! {
    /// What an event is about. The upper 16 bits belong to Microsoft.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Keywords: u64 {
        /// The driver's start and stop, step by step.
        const LIFECYCLE = 0x1;
        /// Settings.
        const CONFIGURATION = 0x2;
        /// Policies.
        const POLICY = 0x4;
        /// Verdicts on connections.
        const VERDICT = 0x8;
        /// Connections opened and closed.
        const FLOW = 0x10;
        /// The control socket.
        const CONTROL = 0x20;
        /// Extension interfaces.
        const EXTENSION = 0x40;
        /// The dispatch ring.
        const RING = 0x80;
        /// Things that failed while the driver goes on.
        const FAULT = 0x100;
    }
}

/// An NTSTATUS in an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NtStatus(pub i32);

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010X}", self.0.cast_unsigned())
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(kernel)]
impl From<crate::kernel::Status> for NtStatus {
    fn from(status: crate::kernel::Status) -> Self {
        Self(status.0)
    }
}

/// Enumerations in events: a byte with a name for each value.
macro_rules! named_values {
    ($($(#[doc = $doc:literal])+ $name:ident { $($value:ident = $number:literal $text:literal),+ $(,)? })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($value = $number),+
        }

        impl $name {
            /// The values with their names.
            pub const NAMES: &'static [(u8, &'static str)] = &[$(($number, $text)),+];

            /// The value of a number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$value),)+ _ => None }
            }

            /// The name of the value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }

        impl Field for $name {
            const KIND: Kind = Kind::Named(Self::NAMES);
            fn value(&self) -> Value<'_> {
                Value::Named(*self as u8, self.name())
            }
        }

        #[cfg(feature = "sim")]
        impl super::samples::Sample for $name {
            fn sample(number: usize) -> Self {
                super::samples::of(&[$(Self::$value),+], number)
            }
        }
    )+};
}

named_values! {
    /// How the end of a connection was seen.
    CloseReason { Closure = 0 "closure", FlowDeleted = 1 "flow-deleted", Unload = 2 "unload" }
    /// What happens to connections while no policy is loaded.
    FailMode { Open = 0 "open", Closed = 1 "closed" }
    /// In which order records of several processors are told.
    RingOrder { Processor = 0 "processor", Time = 1 "time" }
    /// Who provides an extension interface.
    Provider { Wsk = 0 "wsk", Nmr = 1 "nmr", Builtin = 2 "builtin" }
    /// Why a value in the registry was not taken.
    RefusedSetting {
        UnknownName = 0 "unknown-name",
        WrongType = 1 "wrong-type",
        WrongSize = 2 "wrong-size",
        TooLong = 3 "too-long",
        EmbeddedNul = 4 "embedded-nul",
        NotText = 5 "not-text",
        OutOfRange = 6 "out-of-range",
        NotPowerOfTwo = 7 "not-power-of-two",
        BadAddress = 8 "bad-address",
        BadInterface = 9 "bad-interface",
        Duplicate = 10 "duplicate",
        TooMany = 11 "too-many",
        Unreadable = 12 "unreadable",
        BadPeer = 13 "bad-peer",
        UnknownPeer = 14 "unknown-peer",
        BadPath = 15 "bad-path",
        UnknownInterface = 16 "unknown-interface",
    }
    /// Why the driver's private key was not taken.
    RefusedKey {
        Unreadable = 0 "unreadable",
        WrongType = 1 "wrong-type",
        WrongSize = 2 "wrong-size",
        Zero = 3 "zero",
        Descriptor = 4 "descriptor",
        Owner = 5 "owner",
        NoList = 6 "no-list",
        Admits = 7 "admits-others",
    }
    /// How a start ended well, or why it does not count.
    GuardEnd {
        Settled = 0 "settled",
        Stopped = 1 "stopped",
        ShutDown = 2 "shut-down",
        OtherVersion = 3 "other-version",
        Unwatched = 4 "unwatched",
        Off = 5 "off",
    }
    /// Why a provisional policy was taken back.
    RollbackReason { Expired = 0 "expired", Asked = 1 "asked", Stopped = 2 "stopped" }
    /// Where a setting's value comes from.
    Origin { Default = 0 "default", Registry = 1 "registry", Policy = 2 "policy" }
    /// When a setting's value takes effect.
    Effect { Now = 0 "now", NextStart = 1 "next-start" }
    /// Up to which level events are told.
    TraceLevel {
        None = 0 "none",
        Critical = 1 "critical",
        Error = 2 "error",
        Warning = 3 "warning",
        Information = 4 "information",
        Verbose = 5 "verbose",
    }
}

/// A field's type, for documentation and decoders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    U8,
    U16,
    U32,
    U64,
    /// 32 bits, shown in hexadecimal.
    NtStatus,
    /// 16 bytes, in the Windows structure's layout.
    Guid,
    /// 4 or 16 bytes, in network order.
    Address,
    /// Bytes that only their maker knows, shown in hexadecimal.
    Bytes,
    /// UTF-8.
    Text,
    /// UTF-16.
    Wide,
    /// 8 bits, each value with a name.
    Named(&'static [(u8, &'static str)]),
}

/// A field's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    Bool(bool),
    Unsigned(u64),
    NtStatus(NtStatus),
    Guid(Guid),
    Address(IpAddr),
    Bytes(&'a [u8]),
    Text(&'a str),
    Wide(&'a [u16]),
    Named(u8, &'static str),
}

/// A type that a field can have.
trait Field {
    const KIND: Kind;
    fn value(&self) -> Value<'_>;
}

macro_rules! fields {
    ($($type:ty, $kind:ident, $self:ident => $value:expr;)+) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::$kind;
            fn value(&self) -> Value<'_> {
                let $self = self;
                $value
            }
        }
    )+};
}

fields! {
    bool, Bool, it => Value::Bool(*it);
    u8, U8, it => Value::Unsigned(u64::from(*it));
    u16, U16, it => Value::Unsigned(u64::from(*it));
    u32, U32, it => Value::Unsigned(u64::from(*it));
    u64, U64, it => Value::Unsigned(*it);
    NtStatus, NtStatus, it => Value::NtStatus(*it);
    Guid, Guid, it => Value::Guid(*it);
    IpAddr, Address, it => Value::Address(*it);
    &[u8], Bytes, it => Value::Bytes(it);
    &str, Text, it => Value::Text(it);
    &[u16], Wide, it => Value::Wide(it);
}

impl Field for Action {
    const KIND: Kind = Kind::Named(&[(0, "allow"), (1, "block"), (2, "audit")]);
    fn value(&self) -> Value<'_> {
        let name = match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Audit => "audit",
        };
        Value::Named(*self as u8, name)
    }
}

impl Field for Direction {
    const KIND: Kind = Kind::Named(&[(0, "in"), (1, "out")]);
    fn value(&self) -> Value<'_> {
        let name = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        Value::Named(*self as u8, name)
    }
}

/// What is known of an event before it happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub id: u16,
    pub name: &'static str,
    pub level: Level,
    pub keywords: Keywords,
    /// One or more sentences.
    pub doc: &'static str,
    pub fields: &'static [FieldMeta],
}

/// What is known of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldMeta {
    pub name: &'static str,
    pub kind: Kind,
    /// What the number counts; empty for what has no unit.
    pub unit: &'static str,
    pub doc: &'static str,
}

macro_rules! unit {
    () => {
        ""
    };
    ($unit:literal) => {
        $unit
    };
}

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])+
        $id:literal $name:ident($level:ident, $keywords:ident) {
            $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $([$unit:literal])?,)*
        }
    )+) => {
        /// Something that happened.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Event<'a> {
            $($(#[doc = $doc])+ $name { $($(#[doc = $field_doc])+ $field: $type,)* },)+
        }

        impl<'a> Event<'a> {
            /// Every event, by id.
            pub const TABLE: &'static [Meta] = &[$(Meta {
                id: $id,
                name: stringify!($name),
                level: Level::$level,
                keywords: Keywords::$keywords,
                doc: concat!($($doc),+).trim_ascii(),
                fields: &[$(FieldMeta {
                    name: stringify!($field),
                    kind: <$type as Field>::KIND,
                    unit: unit!($($unit)?),
                    doc: concat!($($field_doc),+).trim_ascii(),
                }),*],
            }),+];

            /// The id: the event's identity in traces.
            pub const fn id(&self) -> u16 {
                match self { $(Self::$name { .. } => $id),+ }
            }

            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name)),+ }
            }

            #[inline]
            pub const fn level(&self) -> Level {
                match self { $(Self::$name { .. } => Level::$level),+ }
            }

            #[inline]
            pub const fn keywords(&self) -> Keywords {
                match self { $(Self::$name { .. } => Keywords::$keywords),+ }
            }

            /// Every event, by id, each field with its type's sample of this number: extremes, and what is odd. With as
            /// many numbers as the longest enumeration has values, each of these occurs.
            #[cfg(feature = "sim")]
            pub fn samples(number: usize) -> std::vec::Vec<Self> {
                use super::samples::Sample;
                std::vec![$(Self::$name { $($field: Sample::sample(number)),* }),+]
            }

            /// Walks the fields in the table's order.
            pub fn fields<'e>(&'e self, mut visit: impl FnMut(&'static str, Value<'e>)) {
                match self {
                    $(Self::$name { $($field),* } => { $(visit(stringify!($field), $field.value());)* })+
                }
            }
        }
    };
}

events! {
    /// The driver starts.
    1 DriverStarting(Information, LIFECYCLE) {
        /// The driver's version, as major.minor.patch.
        version: &'a str,
    }
    /// A step of the start was done, or failed.
    2 StartStep(Verbose, LIFECYCLE) {
        /// The step's name.
        step: &'a str,
        /// How it ended.
        status: NtStatus,
    }
    /// The driver has started.
    3 DriverStarted(Information, LIFECYCLE) {
        /// How many parts are missing; each was told by a Degraded event.
        degraded: u32,
    }
    /// The driver could not start, and has undone what it had begun.
    4 StartFailed(Error, LIFECYCLE) {
        /// The step that failed.
        step: &'a str,
        /// Why.
        status: NtStatus,
    }
    /// The driver stops.
    5 DriverStopping(Information, LIFECYCLE) {}
    /// A step of the stop was done.
    6 StopStep(Verbose, LIFECYCLE) {
        /// The step's name.
        step: &'a str,
        /// How it ended.
        status: NtStatus,
    }
    /// The driver has stopped. The last event.
    7 DriverStopped(Information, LIFECYCLE) {}
    /// A part of the driver does not work, and the rest goes on without it.
    8 Degraded(Warning, FAULT) {
        /// The part.
        part: &'a str,
        /// Why.
        status: NtStatus,
    }
    /// Something failed once, and what it was for was given up.
    9 Fault(Warning, FAULT) {
        /// What failed.
        operation: &'a str,
        /// Why.
        status: NtStatus,
    }

    /// This start has been counted, until it is known that it ended well.
    10 GuardCounted(Information, LIFECYCLE) {
        /// How many starts in a row that is, with this one.
        starts: u32,
        /// With how many of them weir comes up passing everything.
        limit: u32,
    }
    /// Too many starts in a row did not end well: weir passes everything, and does nothing else, until it is stopped, or
    /// another version of it is installed.
    11 GuardTripped(Error, LIFECYCLE) {
        /// How many starts that were.
        starts: u32,
        /// How many are too many.
        limit: u32,
    }
    /// The count of starts went back: to zero, or, with `unwatched`, to what it was before this one.
    12 GuardCleared(Information, LIFECYCLE) {
        /// How the start ended.
        end: GuardEnd,
    }
    /// The guard against boot loops could not do something. weir starts all the same.
    13 GuardBlind(Warning, FAULT) {
        /// What it could not do.
        operation: &'a str,
        /// Why.
        status: NtStatus,
    }
    /// The file with the count of starts is damaged, and counts as zero.
    14 GuardRefused(Warning, FAULT) {
        /// What is wrong with it.
        reason: &'a str,
    }
    /// The system runs in safe mode: weir passes everything, and does nothing else.
    15 SafeMode(Warning, LIFECYCLE) {
        /// 1: minimal, 2: with networking, 3: directory services repair.
        mode: u32,
    }

    /// A value in the registry was refused: what held before holds on, at the start the default, or what stands in the other
    /// key.
    20 SettingRefused(Warning, CONFIGURATION) {
        /// The value's name.
        name: &'a str,
        /// Why.
        reason: RefusedSetting,
        /// The value's registry type, REG_SZ = 1 and so on.
        registry_type: u32,
        /// The value's size.
        size: u32 ["bytes"],
        /// The key that it stands in: the service's own, or the policies'.
        origin: Origin,
    }
    /// The registry holds a value that weir does not know: perhaps a name misspelt.
    21 SettingUnknown(Warning, CONFIGURATION) {
        /// The value's name.
        name: &'a [u16],
        /// The key that it stands in: the service's own, or the policies'.
        origin: Origin,
    }
    /// The settings have been read: at the start, and when they have changed.
    22 SettingsRead(Information, CONFIGURATION) {
        /// How many values were taken.
        taken: u32,
        /// How many were refused.
        refused: u32,
    }

    /// The driver's private key was refused, so there is no control socket.
    23 ControlKeyRefused(Error, CONFIGURATION) {
        /// Why.
        reason: RefusedKey,
        /// What the registry answered, where that is why.
        status: NtStatus,
    }
    /// The driver has no private key, so there is no control socket.
    24 ControlKeyAbsent(Warning, CONFIGURATION) {}
    /// A setting has changed while the driver runs.
    25 SettingChanged(Information, CONFIGURATION) {
        /// The value's name.
        name: &'a str,
        /// When the change takes effect.
        effect: Effect,
        /// Where the value comes from now.
        origin: Origin,
    }
    /// Changes of the settings cannot be told by the registry, which is looked at again and again instead.
    26 SettingsUnwatched(Warning, CONFIGURATION) {
        /// Why.
        status: NtStatus,
    }

    /// A policy has been loaded and decides from now on.
    30 PolicyLoaded(Information, POLICY) {
        /// Counts the policies since the driver's start, from 1.
        generation: u32,
        /// How many rules it has.
        rules: u32,
        /// The image's size.
        size: u32 ["bytes"],
    }
    /// A policy image was refused; the policy before it stays.
    31 PolicyRefused(Error, POLICY) {
        /// What is wrong with it.
        reason: &'a str,
        /// The image's size.
        size: u32 ["bytes"],
        /// The same as a status.
        status: NtStatus,
    }
    /// There is no policy: the fail mode decides.
    32 PolicyAbsent(Warning, POLICY) {
        /// What it decides.
        fail_mode: FailMode,
    }
    /// A policy was applied from remote: it decides, and is rolled back unless it is confirmed in time.
    33 PolicyProvisional(Information, POLICY) {
        /// The policy.
        generation: u32,
        /// How long it has until then.
        window: u32 ["seconds"],
        /// The session that applied it.
        session: u64,
    }
    /// A provisional policy was confirmed.
    34 PolicyConfirmed(Information, POLICY) {
        /// The policy.
        generation: u32,
        /// It is stored, and decides after a restart as well.
        stored: bool,
        /// The session that confirmed it.
        session: u64,
    }
    /// A provisional policy was taken back; the one before it decides again.
    35 PolicyRolledBack(Warning, POLICY) {
        /// The policy that was taken back.
        generation: u32,
        /// The one that decides now; 0: there is none, and the fail mode decides.
        restored: u32,
        /// Why.
        reason: RollbackReason,
        /// The session that asked for it; 0: nobody did.
        session: u64,
    }
    /// A stored policy cannot be used, or none can be stored. The other slot's is used, or the registry's.
    36 PolicyStoreRefused(Warning, POLICY) {
        /// The slot, 0 or 1; 255: the directory.
        slot: u8,
        /// What is wrong.
        reason: &'a str,
        /// What the file system answered, where that is why.
        status: NtStatus,
    }
    /// The registry's policy is another one than when the stored one was confirmed: the registry's is the newer one, and
    /// decides.
    37 PolicyStoreOutdated(Information, POLICY) {
        /// The number of the stored policy: counts the confirmations.
        sequence: u64,
    }
    /// A policy was read from the store.
    38 PolicyStoreRead(Information, POLICY) {
        /// The slot, 0 or 1.
        slot: u8,
        /// The number of the stored policy: counts the confirmations.
        sequence: u64,
    }

    /// A connection was decided on.
    40 ConnectionVerdict(Information, VERDICT) {
        /// The connection's number, unique since the driver's start; 0 if it is not tracked.
        connection: u64,
        /// What was decided.
        verdict: Action,
        /// The rule that decided, its index in the policy; 4294967295: the policy's default, or the fail mode.
        rule: u32,
        /// The policy that decided; 0: the fail mode.
        generation: u32,
        /// Which side opened the connection.
        direction: Direction,
        /// IP protocol number.
        protocol: u8,
        /// This machine's address.
        local: IpAddr,
        /// This machine's port; for ICMP the message's type.
        local_port: u16,
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port; for ICMP the message's code.
        remote_port: u16,
        /// The decision was made again, after a change of policy or of the network.
        reauthorized: bool,
    }
    /// A connection was established.
    41 FlowOpened(Information, FLOW) {
        /// The connection's number.
        connection: u64,
        /// Which side opened it.
        direction: Direction,
        /// IP protocol number.
        protocol: u8,
        /// This machine's address.
        local: IpAddr,
        /// This machine's port; for ICMP the message's type.
        local_port: u16,
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port; for ICMP the message's code.
        remote_port: u16,
    }
    /// A connection has ended. Told once for each that is tracked.
    42 FlowClosed(Information, FLOW) {
        /// The connection's number.
        connection: u64,
        /// What had been decided.
        verdict: Action,
        /// The rule that had decided; see ConnectionVerdict.
        rule: u32,
        /// The policy that had decided.
        generation: u32,
        /// Which side opened it.
        direction: Direction,
        /// IP protocol number.
        protocol: u8,
        /// This machine's address.
        local: IpAddr,
        /// This machine's port; for ICMP the message's type.
        local_port: u16,
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port; for ICMP the message's code.
        remote_port: u16,
        /// Packets received.
        packets_in: u64 ["packets"],
        /// Packets sent.
        packets_out: u64 ["packets"],
        /// IP payload received: transport headers and data.
        bytes_in: u64 ["bytes"],
        /// IP payload sent: transport headers and data.
        bytes_out: u64 ["bytes"],
        /// From the decision to the end.
        duration: u64 ["100 ns"],
        /// How the end was seen.
        reason: CloseReason,
    }
    /// Connections could not be tracked for want of memory or room; they were decided on all the same.
    43 FlowsUntracked(Warning, FLOW) {
        /// How many since the last such event.
        count: u64 ["connections"],
    }

    /// The control socket listens.
    50 ControlListening(Information, CONTROL) {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    }
    /// The control socket could not be opened, or was lost.
    51 ControlListenFailed(Error, CONTROL) {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Why.
        status: NtStatus,
    }
    /// A control connection was accepted.
    52 ControlAccepted(Information, CONTROL) {
        /// The session's number, unique since the driver's start.
        session: u64,
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port.
        remote_port: u16,
    }
    /// A control connection was refused.
    53 ControlRefused(Warning, CONTROL) {
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port.
        remote_port: u16,
        /// Why.
        status: NtStatus,
    }
    /// A control connection has ended.
    54 ControlClosed(Information, CONTROL) {
        /// The session's number.
        session: u64,
        /// How: success for an orderly end.
        status: NtStatus,
    }
    /// Winsock Kernel is not there yet; the control socket is opened when it is. Told once for each time that is
    /// waited for it.
    55 ControlWaiting(Warning, CONTROL) {
        /// What it answered.
        status: NtStatus,
    }
    /// It is certain who the other side of a control connection is.
    56 ControlAuthenticated(Information, CONTROL) {
        /// The session's number.
        session: u64,
        /// The peer's name.
        peer: &'a str,
    }
    /// A control connection is ended because the other side is no peer, or spoke something else.
    57 ControlRejected(Warning, CONTROL) {
        /// The session's number.
        session: u64,
        /// The other side's address.
        remote: IpAddr,
        /// The other side's port.
        remote_port: u16,
        /// Which of the two: access denied, or an invalid message.
        status: NtStatus,
    }
    /// A controller that weir connects to cannot be reached; it is tried again.
    58 ControlDialFailed(Warning, CONTROL) {
        /// The controller's address.
        remote: IpAddr,
        /// The controller's port.
        remote_port: u16,
        /// Why.
        status: NtStatus,
    }

    /// A control connection has been registered for an extension interface.
    60 ExtensionRegistered(Information, EXTENSION) {
        /// The session's number; 0 for the listening socket.
        session: u64,
        /// The interface's NPIID.
        interface: Guid,
        /// Who provides it.
        provider: Provider,
    }
    /// Nobody provides an extension interface for a control connection.
    61 ExtensionRefused(Information, EXTENSION) {
        /// The session's number; 0 for the listening socket.
        session: u64,
        /// The interface's NPIID.
        interface: Guid,
        /// The interface is required, so the connection is closed.
        required: bool,
        /// What the last provider asked answered.
        status: NtStatus,
    }
    /// A provider of an extension interface failed to register a control connection. Another one may be asked.
    62 ExtensionFailed(Warning, EXTENSION) {
        /// The session's number; 0 for the listening socket.
        session: u64,
        /// The interface's NPIID.
        interface: Guid,
        /// Who was asked.
        provider: Provider,
        /// The interface is required, so the connection is closed if nobody else provides it.
        required: bool,
        /// Why.
        status: NtStatus,
    }
    /// An extension called back.
    63 ExtensionCallback(Verbose, EXTENSION) {
        /// The session's number.
        session: u64,
        /// The interface's NPIID.
        interface: Guid,
        /// What the interface calls the event.
        code: u32,
        /// The event's parameter.
        value: u64,
        /// Who called back.
        provider: Provider,
        /// What came with it, at most 40 bytes.
        data: &'a [u8],
    }
    /// A registration has ended with its connection. Told once for each ExtensionRegistered.
    64 ExtensionDetached(Information, EXTENSION) {
        /// The session's number; 0 for the listening socket.
        session: u64,
        /// The interface's NPIID.
        interface: Guid,
        /// How many callbacks it made.
        callbacks: u64,
        /// Who provided it.
        provider: Provider,
    }
    /// A vendor's module offers an extension interface: it is asked from now on.
    65 ExtensionProviderAttached(Information, EXTENSION) {
        /// The interface's NPIID.
        interface: Guid,
        /// The module's id.
        module: Guid,
        /// Its functions are of a form that weir can use; otherwise it is left alone.
        usable: bool,
    }
    /// A vendor's module has gone, and what it had registered has ended.
    66 ExtensionProviderDetached(Information, EXTENSION) {
        /// The interface's NPIID.
        interface: Guid,
        /// The module's id.
        module: Guid,
    }

    /// The dispatch ring had no room for records.
    70 RingLoss(Warning, RING) {
        /// The processor whose ring was full.
        processor: u32,
        /// What the records told.
        kind: &'a str,
        /// How many were lost since the last such event.
        count: u64 ["records"],
    }
    /// What the dispatch rings have carried since the driver's start. Told at the stop.
    71 RingSummary(Information, RING) {
        /// Records delivered.
        delivered: u64 ["records"],
        /// Records lost; each was told by RingLoss.
        lost: u64 ["records"],
        /// Records delivered after younger ones, where the order of time was asked for.
        late: u64 ["records"],
    }
    /// A processor has its dispatch ring: told at the driver's start for each that is active, and for each that is added
    /// later.
    72 RingMade(Information, RING) {
        /// The processor.
        processor: u32,
        /// The NUMA node that its memory was asked for on; 4294967295 if the system does not say which is the
        /// processor's.
        node: u32,
        /// The ring's memory.
        bytes: u64 ["bytes"],
        /// The memory of all rings so far, with the table of them.
        total: u64 ["bytes"],
    }
    /// There is no memory for the dispatch ring of a processor that has been added. The driver goes on; records of that
    /// processor are lost, and counted.
    73 RingMissing(Error, RING) {
        /// The processor.
        processor: u32,
        /// Why.
        status: NtStatus,
    }

    /// weir's filters are in force: every new connection is decided on from now on.
    80 FiltersInForce(Information, LIFECYCLE) {}
    /// The filtering engine has stopped, and weir's filters have gone with it: until they are back, weir decides on
    /// nothing.
    81 FiltersGone(Warning, FAULT) {}
}
