//! What a scripted extension provider answers, and the sequence of its callbacks: the same for the same seed.
//!
//! The numbers are those of the driver's extension interfaces (`src/ext/connection_v1.rs`, `label_v1.rs`), as a vendor's own
//! header would have them.

use crate::random::Random;
use crate::sys::nt::{GUID, NTSTATUS, STATUS_SUCCESS};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

/// Which interface's tables a registration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// `connection_v1`.
    Connection,
    /// `label_v1`.
    Label,
}

/// {9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84}: `label_v1`.
const LABEL_V1: GUID = GUID {
    Data1: 0x9D2C_6A7E,
    Data2: 0x41B5,
    Data3: 0x4C0F,
    Data4: [0x8E, 0x39, 0x52, 0xA7, 0xD6, 0x1F, 0x0B, 0x84],
};

impl Tongue {
    /// What is spoken under an identifier, unless an answer says otherwise.
    pub fn of(npi: &GUID) -> Self {
        if *npi == LABEL_V1 { Self::Label } else { Self::Connection }
    }

    /// All of the interface's events.
    pub const fn events(self) -> u32 {
        match self {
            Self::Connection => STATE | BACKLOG | METRIC | VENDOR,
            Self::Label => LABEL,
        }
    }
}

/// A success whose tables cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// NULL for both the provider's context and its table.
    Null,
    /// A table that ends before its functions.
    Short,
    /// A table of version 0.
    Old,
    /// A table at an odd place.
    Misaligned,
}

/// What to answer to the registration of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// STATUS_SUCCESS with the scripted provider's tables: those of the interface, or of this one.
    Grant(Option<Tongue>),
    /// STATUS_SUCCESS with a table whose functions are all NULL.
    Bare,
    /// STATUS_SUCCESS with what must not be used.
    Lie(Lie),
    /// This status, and output that must not be used.
    Refuse(NTSTATUS),
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim() {
            "grant" => Self::Grant(None),
            "grant-connection" => Self::Grant(Some(Tongue::Connection)),
            "grant-label" => Self::Grant(Some(Tongue::Label)),
            "bare" => Self::Bare,
            "null" => Self::Lie(Lie::Null),
            "short" => Self::Lie(Lie::Short),
            "old" => Self::Lie(Lie::Old),
            "misaligned" => Self::Lie(Lie::Misaligned),
            text => {
                let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
                let parsed = match digits {
                    Some(digits) => u32::from_str_radix(digits, 16).ok(),
                    None => text.parse().ok(),
                };
                let status = parsed.ok_or_else(|| {
                    format!(
                        "{text:?} is none of grant, grant-connection, grant-label, bare, null, short, old, misaligned, or \
                         a status"
                    )
                })?;
                if status.cast_signed() == STATUS_SUCCESS {
                    return Err("STATUS_SUCCESS alone grants nothing: say grant".into());
                }
                Self::Refuse(status.cast_signed())
            }
        })
    }
}

/// Bits of the events of `connection_v1`.
pub const STATE: u32 = 0x1;
pub const BACKLOG: u32 = 0x2;
pub const METRIC: u32 = 0x4;
pub const VENDOR: u32 = 0x8;
/// The only one of `label_v1`.
pub const LABEL: u32 = 0x1;

pub const ESTABLISHED: u32 = 1;
pub const CLOSED: u32 = 2;

/// Why a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    None = 0,
    PeerFinished = 1,
    PeerReset = 2,
    ProviderLeaves = 5,
}

/// The most bytes of a vendor's event, and of a label's text.
pub const VENDOR_DATA: usize = 40;

/// One callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    State { state: u32, reason: Reason },
    Backlog { direction: u32, above: bool, bytes: u64, mark: u64 },
    Metric,
    Vendor { kind: u32, data: Vec<u8> },
    Label { label: u64, text: Vec<u8> },
}

impl Call {
    /// The bit of the event.
    pub const fn event(&self) -> u32 {
        match self {
            Self::State { .. } => STATE,
            Self::Backlog { .. } => BACKLOG,
            Self::Metric => METRIC,
            Self::Vendor { .. } => VENDOR,
            Self::Label { .. } => LABEL,
        }
    }
}

/// A connection's callbacks: opened, then whatever the seed brings, then closed; or one label after another.
#[derive(Clone, Debug)]
pub struct Script {
    random: Random,
    tongue: Tongue,
    opened: bool,
    closed: bool,
}

impl Script {
    pub const fn new(seed: u64, tongue: Tongue) -> Self {
        Self { random: Random::new(seed), tongue, opened: false, closed: false }
    }

    /// The next callback, of an event that is enabled. `over` says that the connection has ended.
    pub fn next(&mut self, enabled: u32, over: Option<Reason>) -> Option<Call> {
        if self.closed {
            return None;
        }
        if self.tongue == Tongue::Label {
            if over.is_some() || enabled & LABEL == 0 {
                return None;
            }
            return Some(self.label());
        }
        if !self.opened && enabled & STATE != 0 {
            self.opened = true;
            return Some(Call::State { state: ESTABLISHED, reason: Reason::None });
        }
        if let Some(reason) = over {
            self.closed = true;
            return (enabled & STATE != 0).then_some(Call::State { state: CLOSED, reason });
        }
        let bits: Vec<u32> = [BACKLOG, METRIC, VENDOR].into_iter().filter(|bit| enabled & bit != 0).collect();
        let bound = u64::try_from(bits.len()).ok().filter(|bound| *bound != 0)?;
        let index = usize::try_from(self.random.below(bound)).ok()?;
        match *bits.get(index)? {
            BACKLOG => {
                let mark = 1024 << self.random.below(6);
                let above = self.random.chance(50);
                let bytes = if above { mark + self.random.below(mark) } else { self.random.below(mark) };
                let direction = u32::from(self.random.chance(50));
                Some(Call::Backlog { direction, above, bytes, mark })
            }
            METRIC => Some(Call::Metric),
            _ => {
                let length = self.random.below(VENDOR_DATA as u64 + 1);
                let data = (0..length).map(|_| self.random.next().to_le_bytes()[0]).collect();
                let kind = u32::try_from(self.random.below(1 << 16)).unwrap_or(0);
                Some(Call::Vendor { kind, data })
            }
        }
    }

    fn label(&mut self) -> Call {
        let label = self.random.next();
        let mut text = format!("label {label:x} ");
        let length = usize::try_from(self.random.below(VENDOR_DATA as u64 + 1)).unwrap_or(0);
        text.extend(core::iter::repeat_n('.', VENDOR_DATA));
        text.truncate(length);
        Call::Label { label, text: text.into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ALL: u32 = STATE | BACKLOG | METRIC | VENDOR;

    #[test]
    fn a_connection_is_opened_first_and_closed_last() {
        let mut script = Script::new(3, Tongue::Connection);
        assert_eq!(script.next(0, None), None, "nothing is enabled yet");
        let opened = Call::State { state: ESTABLISHED, reason: Reason::None };
        assert_eq!(script.next(ALL, None), Some(opened));
        let between: Vec<_> = (0..100).filter_map(|_| script.next(ALL, None)).collect();
        assert_eq!(between.len(), 100);
        assert!(between.iter().all(|call| call.event() != STATE));
        assert!([BACKLOG, METRIC, VENDOR].iter().all(|bit| between.iter().any(|call| call.event() == *bit)));
        let closed = Call::State { state: CLOSED, reason: Reason::PeerReset };
        assert_eq!(script.next(ALL, Some(Reason::PeerReset)), Some(closed));
        assert_eq!(script.next(ALL, None), None);
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let run = |seed| {
            let mut script = Script::new(seed, Tongue::Connection);
            (0..50).filter_map(|_| script.next(ALL, None)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn only_enabled_events_are_called_and_vendor_data_fits() {
        let mut script = Script::new(9, Tongue::Connection);
        script.next(STATE, None);
        assert_eq!(script.next(STATE, None), None);
        for _ in 0..200 {
            match script.next(VENDOR, None) {
                Some(Call::Vendor { data, .. }) => assert!(data.len() <= VENDOR_DATA),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn labels_come_until_the_connection_is_over_and_fit() {
        let mut script = Script::new(4, Tongue::Label);
        assert_eq!(script.next(0, None), None, "nothing is enabled yet");
        for _ in 0..200 {
            match script.next(LABEL, None) {
                Some(Call::Label { text, .. }) => assert!(text.len() <= VENDOR_DATA),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(script.next(LABEL, Some(Reason::PeerReset)), None);
    }

    #[test]
    fn what_is_spoken_depends_on_the_interface_unless_the_answer_says_so() {
        assert_eq!(Tongue::of(&LABEL_V1), Tongue::Label);
        assert_eq!(Tongue::of(&GUID { Data1: 1, ..LABEL_V1 }), Tongue::Connection);
        assert_eq!("grant-label".parse(), Ok(Answer::Grant(Some(Tongue::Label))));
        assert_eq!("misaligned".parse(), Ok(Answer::Lie(Lie::Misaligned)));
        assert_eq!("0x103".parse(), Ok(Answer::Refuse(0x103)));
    }
}
