//! Extension interfaces as settings say them: `{NPIID}=required|optional|off`, then options, each behind a `;`.
//!
//! Pure. Case is ignored, nothing is blank, and an option stands once.
#![forbid(unsafe_code)]

use super::schema::{Refused, Text, Unit};
use crate::trace::Guid;
use crate::trace::events::Provider;

/// The interfaces whose tables weir knows, in the order of `ext::INTERFACES`.
pub const SPOKEN: [Guid; 2] = [
    Guid {
        data1: 0x5EE5_D4F1,
        data2: 0x9929,
        data3: 0x4633,
        data4: [0x83, 0x68, 0x7B, 0xC7, 0x43, 0x8B, 0x41, 0x40],
    },
    Guid {
        data1: 0x9D2C_6A7E,
        data2: 0x41B5,
        data3: 0x4C0F,
        data4: [0x8E, 0x39, 0x52, 0xA7, 0xD6, 0x1F, 0x0B, 0x84],
    },
];

/// What people call each of [`SPOKEN`].
pub const NAMES: [&str; 2] = ["connection_v1", "label_v1"];

/// What people call an interface, if weir knows it.
pub fn name(interface: &Guid) -> Option<&'static str> {
    SPOKEN.iter().zip(NAMES).find(|(spoken, _)| *spoken == interface).map(|(_, name)| name)
}

/// The interface that people call so, in whatever case.
pub fn named(name: &str) -> Option<Guid> {
    NAMES.iter().zip(SPOKEN).find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, spoken)| spoken)
}

/// The longest entry, in UTF-16 units.
pub(super) const MAX_TEXT: usize = "{00000000-0000-0000-0000-000000000000}=required\
    ;events=0x00000000\
    ;providers=builtin,wsk,nmr\
    ;speaks={00000000-0000-0000-0000-000000000000}"
    .len();

/// Whether a socket can do without an extension interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requirement {
    /// It is not asked for.
    Off,
    /// The socket goes on without it.
    Optional,
    /// The socket is closed without it.
    Required,
}

/// Kinds of providers, at least one, in the order in which they are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Providers([Option<Provider>; 3]);

impl Providers {
    /// WSK, modules of vendors, weir itself.
    pub const DEFAULT: Self = Self([Some(Provider::Wsk), Some(Provider::Nmr), Some(Provider::Builtin)]);

    /// These kinds, in this order; `None`: there is none among them, or one stands twice.
    pub fn new(kinds: impl IntoIterator<Item = Provider>) -> Option<Self> {
        let mut providers = Self([None; 3]);
        for kind in kinds {
            if providers.iter().any(|earlier| earlier == kind) {
                return None;
            }
            // There are as many places as kinds.
            *providers.0.iter_mut().find(|place| place.is_none())? = Some(kind);
        }
        providers.iter().next().map(|_| providers)
    }

    /// The kinds, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Provider> {
        self.0.into_iter().flatten()
    }
}

/// An extension interface, and how sockets are to have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extension {
    pub interface: Guid,
    pub requirement: Requirement,
    /// The events to switch on; `None`: those of the interface.
    pub events: Option<u32>,
    pub providers: Providers,
    /// The interface whose tables this one has, if it is an alias.
    pub speaks: Option<Guid>,
}

impl Extension {
    /// By the defaults but for the requirement.
    pub const fn new(interface: Guid, requirement: Requirement) -> Self {
        Self { interface, requirement, events: None, providers: Providers::DEFAULT, speaks: None }
    }
}

/// Reads an entry.
///
/// # Errors
/// - [`Refused::BadInterface`]: it has not the form of one, or an interface that has tables of its own is to speak
///   another's.
/// - [`Refused::Duplicate`]: an option, or a kind of provider, stands twice.
/// - [`Refused::OutOfRange`]: the events have more than 32 bits.
/// - [`Refused::UnknownInterface`]: it speaks an interface that weir does not know.
pub(super) fn parse(entry: Text<'_>) -> Result<Extension, Refused> {
    const BAD: Refused = Refused::BadInterface;
    let mut parts = entry.split(|unit| is_byte(*unit, b';'));
    let (interface, requirement) = parts.next().and_then(pair).ok_or(BAD)?;
    let requirement = requirement_of(requirement).ok_or(BAD)?;
    let mut extension = Extension::new(guid(interface).ok_or(BAD)?, requirement);
    let mut kinds = None;
    for option in parts {
        let (option, value) = pair(option).ok_or(BAD)?;
        if is(option, "events") {
            once(&mut extension.events, mask(value)?)?;
        } else if is(option, "providers") {
            once(&mut kinds, providers(value)?)?;
        } else if is(option, "speaks") {
            once(&mut extension.speaks, guid(value).ok_or(BAD)?)?;
        } else {
            return Err(BAD);
        }
    }
    extension.providers = kinds.unwrap_or(Providers::DEFAULT);
    match extension.speaks {
        Some(speaks) if speaks == extension.interface || SPOKEN.contains(&extension.interface) => Err(BAD),
        Some(speaks) if !SPOKEN.contains(&speaks) => Err(Refused::UnknownInterface),
        _ => Ok(extension),
    }
}

/// What stands before and behind the first `=`.
fn pair(text: Text<'_>) -> Option<(Text<'_>, Text<'_>)> {
    let equals = text.iter().position(|unit| is_byte(*unit, b'='))?;
    let (name, value) = text.split_at_checked(equals)?;
    Some((name, value.split_first()?.1))
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refused> {
    if place.replace(value).is_some() { Err(Refused::Duplicate) } else { Ok(()) }
}

fn requirement_of(text: Text<'_>) -> Option<Requirement> {
    let words =
        [("required", Requirement::Required), ("optional", Requirement::Optional), ("off", Requirement::Off)];
    words.iter().find(|(word, _)| is(text, word)).map(|(_, requirement)| *requirement)
}

/// `0x` and at least one hexadecimal digit.
fn mask(text: Text<'_>) -> Result<u32, Refused> {
    let (prefix, digits) = text.split_at_checked(2).ok_or(Refused::BadInterface)?;
    if !is(prefix, "0x") || digits.is_empty() {
        return Err(Refused::BadInterface);
    }
    let mut bits = Some(0_u32);
    for &unit in digits {
        let digit = char::from_u32(u16::from_le_bytes(unit).into()).and_then(|digit| digit.to_digit(16));
        let digit = digit.ok_or(Refused::BadInterface)?;
        bits = bits.and_then(|bits| bits.checked_mul(16)?.checked_add(digit));
    }
    bits.ok_or(Refused::OutOfRange)
}

/// Names of kinds, with commas between them.
fn providers(text: Text<'_>) -> Result<Providers, Refused> {
    let kind = |text| {
        let (number, _) = Provider::NAMES.iter().find(|(_, name)| is(text, name))?;
        Provider::from_number(*number)
    };
    let kinds = || text.split(|unit| is_byte(*unit, b',')).map(kind);
    if kinds().any(|kind| kind.is_none()) {
        return Err(Refused::BadInterface);
    }
    Providers::new(kinds().flatten()).ok_or(Refused::Duplicate)
}

fn guid(text: Text<'_>) -> Option<Guid> {
    Guid::parse(text.iter().map(|&unit| u16::from_le_bytes(unit)))
}

fn is_byte(unit: Unit, byte: u8) -> bool {
    unit == [byte, 0]
}

/// Whether a text is this word, which is in lower case.
fn is(text: Text<'_>, word: &str) -> bool {
    text.len() == word.len()
        && text
            .iter()
            .zip(word.bytes())
            .all(|(&[low, high], expected)| high == 0 && low.to_ascii_lowercase() == expected)
}
