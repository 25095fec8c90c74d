//! What a scripted extension provider answers, and the sequence of its callbacks: the same for the same seed.
//!
//! The numbers are those of the driver's extension interface (`src/ext/connection_v1.rs`), as a vendor's own header would
//! have them.

use crate::random::Random;
use crate::sys::nt::{NTSTATUS, STATUS_SUCCESS};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

/// What to answer to the registration of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// STATUS_SUCCESS with the scripted provider's tables.
    Grant,
    /// STATUS_SUCCESS with NULL for both the provider's context and its table.
    NullTables,
    /// This status, and output that must not be used.
    Refuse(NTSTATUS),
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "grant" => Ok(Self::Grant),
            "null" => Ok(Self::NullTables),
            text => {
                let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
                let parsed = match digits {
                    Some(digits) => u32::from_str_radix(digits, 16).ok(),
                    None => text.parse().ok(),
                };
                let status = parsed.ok_or_else(|| format!("{text:?} is none of grant, null, or a status"))?;
                if status.cast_signed() == STATUS_SUCCESS {
                    return Err("STATUS_SUCCESS alone grants nothing: say grant".into());
                }
                Ok(Self::Refuse(status.cast_signed()))
            }
        }
    }
}

/// Bits of the interface's events.
pub const STATE: u32 = 0x1;
pub const BACKLOG: u32 = 0x2;
pub const METRIC: u32 = 0x4;
pub const VENDOR: u32 = 0x8;

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

/// The most bytes of a vendor's event.
pub const VENDOR_DATA: usize = 40;

/// One callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    State { state: u32, reason: Reason },
    Backlog { direction: u32, above: bool, bytes: u64, mark: u64 },
    Metric,
    Vendor { kind: u32, data: Vec<u8> },
}

impl Call {
    /// The bit of the event.
    pub const fn event(&self) -> u32 {
        match self {
            Self::State { .. } => STATE,
            Self::Backlog { .. } => BACKLOG,
            Self::Metric => METRIC,
            Self::Vendor { .. } => VENDOR,
        }
    }
}

/// A connection's callbacks: opened, then whatever the seed brings, then closed.
#[derive(Clone, Debug)]
pub struct Script {
    random: Random,
    opened: bool,
    closed: bool,
}

impl Script {
    pub const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), opened: false, closed: false }
    }

    /// The next callback, of an event that is enabled. `over` says that the connection has ended.
    pub fn next(&mut self, enabled: u32, over: Option<Reason>) -> Option<Call> {
        if self.closed {
            return None;
        }
        if !self.opened {
            if enabled & STATE == 0 {
                return None;
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ALL: u32 = STATE | BACKLOG | METRIC | VENDOR;

    #[test]
    fn a_connection_is_opened_first_and_closed_last() {
        let mut script = Script::new(3);
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
            let mut script = Script::new(seed);
            (0..50).filter_map(|_| script.next(ALL, None)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn only_enabled_events_are_called_and_vendor_data_fits() {
        let mut script = Script::new(9);
        script.next(STATE, None);
        assert_eq!(script.next(STATE, None), None);
        for _ in 0..200 {
            match script.next(VENDOR, None) {
                Some(Call::Vendor { data, .. }) => assert!(data.len() <= VENDOR_DATA),
                other => panic!("{other:?}"),
            }
        }
    }
}
