//! The registry's schema: one table, from which come the typed [`Settings`], their parser, and what documentation,
//! packaging and tools say of them ([`TABLE`]).
//!
//! Pure. The values stand under `HKLM\SYSTEM\CurrentControlSet\Services\weir\Parameters`, and whoever can write there
//! writes what he likes: a value of the wrong type, size, form or range is refused whole, and the setting keeps its
//! default. Nothing in here fails otherwise, whatever the bytes.
#![forbid(unsafe_code)]

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

pub use crate::trace::Guid;
pub use crate::trace::events::{FailMode, RefusedSetting as Refused};

pub const REG_SZ: u32 = 1;
pub const REG_BINARY: u32 = 3;
pub const REG_DWORD: u32 = 4;
pub const REG_MULTI_SZ: u32 = 7;

/// The longest text taken, in characters.
const MAX_TEXT: usize = 64;
/// The most extension interfaces taken.
pub const MAX_EXTENSIONS: usize = 16;
/// The most that one extension takes in its text: GUID, `=`, `required`, terminator.
const EXTENSION_TEXT: usize = 38 + 1 + 8 + 1;

/// What a value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// REG_DWORD in a range, ends included.
    Number { minimum: u32, maximum: u32, power_of_two: bool, unit: &'static str },
    /// REG_DWORD with a name for each value.
    Choice(&'static [(u8, &'static str)]),
    /// REG_SZ: `ADDRESS:PORT`, IPv6 addresses in brackets; port 0: any; empty: none.
    Endpoint,
    /// REG_MULTI_SZ: `{NPIID}=required` or `{NPIID}=optional`.
    Extensions,
    /// REG_BINARY of at most so many bytes.
    Binary { maximum: usize },
}

impl Kind {
    /// The registry type that a value must have.
    pub const fn registry_type(self) -> u32 {
        match self {
            Self::Number { .. } | Self::Choice(_) => REG_DWORD,
            Self::Endpoint => REG_SZ,
            Self::Extensions => REG_MULTI_SZ,
            Self::Binary { .. } => REG_BINARY,
        }
    }

    /// The largest value that can be right, in bytes; a larger one need not be read.
    pub const fn maximum_size(self) -> usize {
        match self {
            Self::Number { .. } | Self::Choice(_) => size_of::<u32>(),
            Self::Endpoint => size_of::<[u16; MAX_TEXT + 1]>(),
            Self::Extensions => size_of::<[u16; MAX_EXTENSIONS * EXTENSION_TEXT + 1]>(),
            Self::Binary { maximum } => maximum,
        }
    }
}

/// A value as it is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "parsed one at a time, and nowhere kept")]
pub enum Value<'a> {
    Number(u32),
    Choice(u8),
    Endpoint(Option<SocketAddr>),
    Extensions(Extensions),
    Binary(&'a [u8]),
}

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applies {
    /// At the driver's next start.
    Restart,
    /// May change while the driver runs: nothing is sized or opened by it.
    Live,
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

/// The interfaces that control connections are to be registered for, in the order of the registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extensions {
    entries: [Extension; MAX_EXTENSIONS],
    len: usize,
}

/// An extension interface to register for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extension {
    pub interface: Guid,
    /// A connection that cannot have it is closed.
    pub required: bool,
}

impl Extensions {
    /// None.
    pub const EMPTY: Self = Self {
        entries: [Extension {
            interface: Guid { data1: 0, data2: 0, data3: 0, data4: [0; 8] },
            required: false,
        }; MAX_EXTENSIONS],
        len: 0,
    };

    pub fn as_slice(&self) -> &[Extension] {
        self.entries.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, extension: Extension) -> Result<(), Refused> {
        if self.as_slice().iter().any(|known| known.interface == extension.interface) {
            return Err(Refused::Duplicate);
        }
        *self.entries.get_mut(self.len).ok_or(Refused::TooMany)? = extension;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

/// A type that a setting can have.
trait Typed: Sized {
    fn from_value(value: &Value<'_>) -> Option<Self>;
}

impl Typed for u32 {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        if let Value::Number(number) = *value { Some(number) } else { None }
    }
}

impl Typed for FailMode {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        if let Value::Choice(number) = *value { Self::from_number(number) } else { None }
    }
}

impl Typed for Option<SocketAddr> {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        if let Value::Endpoint(endpoint) = *value { Some(endpoint) } else { None }
    }
}

impl Typed for Extensions {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        if let Value::Extensions(extensions) = *value { Some(extensions) } else { None }
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
                    self.$field = <$type as Typed>::from_value(&value).ok_or(Refused::OutOfRange)?;
                    return Ok(());
                })+
                Err(Refused::UnknownName)
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
        /// Where the control socket listens, as `ADDRESS:PORT`; an IPv6 address stands in brackets. Port 0 takes any
        /// free port. Empty: no control socket.
        control_listen: Option<SocketAddr> = "ControlListen" Kind::Endpoint,
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 47474))), "127.0.0.1:47474", Restart;
        /// How many control connections there can be at a time. Further ones are refused.
        control_max_sessions: u32 = "ControlMaxSessions"
            Kind::Number { minimum: 1, maximum: 1024, power_of_two: false, unit: "connections" },
            16, "16", Live;
        /// What happens to connections while no policy is loaded: open lets them pass, closed blocks them.
        fail_mode: FailMode = "FailMode" Kind::Choice(FailMode::NAMES),
            FailMode::Open, "0", Live;
        /// Extension interfaces that each control connection is registered for: one `{NPIID}=required` or
        /// `{NPIID}=optional` each, at most 16. A connection that cannot have a required one is closed. Those that weir
        /// speaks are asked for in any case, as optional ones.
        extension_interfaces: Extensions = "ExtensionInterfaces" Kind::Extensions,
            Extensions::EMPTY, "", Restart;
        /// How many records of 64 bytes the dispatch ring of each processor holds. When it is full, telemetry is
        /// dropped, and counted; the ends of connections are told all the same.
        ring_records: u32 = "RingRecords"
            Kind::Number { minimum: 256, maximum: 1_048_576, power_of_two: true, unit: "records" },
            4096, "4096", Restart;
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
    if registry_type != kind.registry_type() {
        return Err(Refused::WrongType);
    }
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
        Kind::Endpoint => {
            let text = units(bytes, kind.maximum_size())?;
            // The registry may hold a string with its terminator, or without.
            endpoint(text.strip_suffix(&[NUL]).unwrap_or(text)).map(Value::Endpoint)
        }
        Kind::Extensions => extensions(units(bytes, kind.maximum_size())?).map(Value::Extensions),
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
type Unit = [u8; 2];
const NUL: Unit = [0, 0];

fn dword(bytes: &[u8]) -> Result<u32, Refused> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| Refused::WrongSize)
}

fn units(bytes: &[u8], maximum: usize) -> Result<&[Unit], Refused> {
    match bytes.as_chunks() {
        // Even an empty string has a terminator.
        (_, [_]) | ([], _) => Err(Refused::WrongSize),
        _ if bytes.len() > maximum => Err(Refused::TooLong),
        (units, _) => Ok(units),
    }
}

fn endpoint(text: &[Unit]) -> Result<Option<SocketAddr>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut ascii = [0; MAX_TEXT];
    let ascii = ascii.get_mut(..text.len()).ok_or(Refused::TooLong)?;
    for (place, &unit) in ascii.iter_mut().zip(text) {
        *place = match unit {
            NUL => return Err(Refused::EmbeddedNul),
            [byte, 0] if byte.is_ascii_graphic() => byte,
            _ => return Err(Refused::NotText),
        };
    }
    super::endpoint::parse(ascii).map(Some).ok_or(Refused::BadAddress)
}

fn extensions(text: &[Unit]) -> Result<Extensions, Refused> {
    // Each string has a terminator and the list another; either may be missing at the very end.
    let text = text.strip_suffix(&[NUL]).unwrap_or(text);
    let text = text.strip_suffix(&[NUL]).unwrap_or(text);
    let mut extensions = Extensions::EMPTY;
    if text.is_empty() {
        return Ok(extensions);
    }
    for entry in text.split(|&unit| unit == NUL) {
        if entry.is_empty() {
            return Err(Refused::EmbeddedNul);
        }
        extensions.push(extension(entry).ok_or(Refused::BadInterface)?)?;
    }
    Ok(extensions)
}

fn extension(entry: &[Unit]) -> Option<Extension> {
    let equals = entry.iter().position(|&unit| unit == [b'=', 0])?;
    let (interface, requirement) = entry.split_at_checked(equals)?;
    let (_, requirement) = requirement.split_first()?;
    let is = |word: &str| {
        requirement.len() == word.len()
            && requirement
                .iter()
                .zip(word.bytes())
                .all(|(&[low, high], expected)| high == 0 && low.to_ascii_lowercase() == expected)
    };
    let required = if is("required") {
        true
    } else if is("optional") {
        false
    } else {
        return None;
    };
    let interface = Guid::parse(interface.iter().map(|&unit| u16::from_le_bytes(unit)))?;
    Some(Extension { interface, required })
}
