//! A policy as understood: what the parser makes of the text, and what the analysis and the image builder
//! read.

use std::ops::Range;
use weir::policy::Action;

/// Bit 0 in, bit 1 out.
pub(super) const IN: u8 = 1;
pub(super) const OUT: u8 = 2;
/// Bit 0 IPv4, bit 1 IPv6.
pub(super) const V4: u8 = 1;
pub(super) const V6: u8 = 2;

/// A whole policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub default: Action,
    pub generation: u32,
    pub rules: Vec<Rule>,
}

/// A rule. Lists are sorted, without overlap and never empty; `None` is "any".
#[derive(Debug)]
pub(super) struct Rule {
    pub name: String,
    pub action: Action,
    pub directions: u8,
    pub protocols: Option<Protocols>,
    pub local: Option<Addresses>,
    pub remote: Option<Addresses>,
    pub local_ports: Option<Ranges<u16>>,
    pub remote_ports: Option<Ranges<u16>>,
    pub apps: Option<Vec<Pattern>>,
    /// Where the rule's name stands in the text.
    pub span: Range<usize>,
}

/// Inclusive ranges, ascending, apart from each other.
pub(super) type Ranges<T> = Vec<(T, T)>;

/// A set of protocol numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Protocols(pub [u64; 4]);

impl Protocols {
    pub fn insert(&mut self, protocol: u8) {
        self.0[usize::from(protocol / 64)] |= 1 << (protocol % 64);
    }

    pub fn contains(&self, protocol: u8) -> bool {
        self.0[usize::from(protocol / 64)] >> (protocol % 64) & 1 != 0
    }

    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|protocol| self.contains(*protocol))
    }
}

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Addresses {
    pub v4: Ranges<u32>,
    pub v6: Ranges<u128>,
}

/// An application pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    /// Case-folded UTF-16 units, `*` as wildcard, no two wildcards in a row.
    pub units: Vec<u16>,
    /// Whether the units follow the name of a volume, of whatever number.
    pub on_volume: bool,
}

impl Rule {
    /// The families for which the addresses leave anything to match.
    pub fn families(&self) -> u8 {
        let of = |addresses: &Option<Addresses>| match addresses {
            None => V4 | V6,
            Some(addresses) => {
                (if addresses.v4.is_empty() { 0 } else { V4 })
                    | (if addresses.v6.is_empty() { 0 } else { V6 })
            }
        };
        of(&self.local) & of(&self.remote)
    }

    /// Whether the rule names ports.
    pub fn names_ports(&self) -> bool {
        self.local_ports.is_some() || self.remote_ports.is_some()
    }

    /// Whether the rule names ports, but no protocol that has any.
    pub fn ports_without_protocol(&self) -> bool {
        self.names_ports() && self.protocols.is_some_and(|set| !set.contains(6) && !set.contains(17))
    }
}

/// What ranges need of a number.
pub(super) trait Number: Copy + Ord {
    const MIN: Self;
    const MAX: Self;
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Number for $type {
            const MIN: Self = <$type>::MIN;
            const MAX: Self = <$type>::MAX;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

number!(u8 u16 u32 u128);

/// Sorts ranges and joins those that overlap or touch.
pub(super) fn normalise<T: Number>(mut ranges: Vec<(T, T)>) -> Ranges<T> {
    ranges.sort_unstable();
    let mut out: Ranges<T> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if end.next().is_none_or(|next| first <= next) => *end = (*end).max(last),
            _ => out.push((first, last)),
        }
    }
    out
}
