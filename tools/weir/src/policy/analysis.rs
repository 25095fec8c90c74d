//! Rules that can never match: contradictions in themselves, and rules that earlier ones leave nothing to.
//!
//! A rule is a product of sets, one for each field; EMPTY is a value of each field that only a rule that does
//! not name the field has. What earlier rules leave of a rule is found by cutting their products out of its
//! own, piece by piece; if no piece is left, the rule can never match. That is exact, but for application
//! patterns: one pattern is taken to cover another only if that shows by holding one against the other, and
//! several patterns never cover one together. So a rule that is reported never matches; one that is not
//! might.
//!
//! The work is bounded by `MAX_COMPARISONS` over the policy and `MAX_PIECES` for a rule; the rules that this
//! leaves unchecked are counted.

use super::finding::Finding;
use super::fold;
use super::model::{Addresses, IN, Number, OUT, Pattern, Policy, Protocols, Ranges, Rule, V4, V6, normalise};
use crate::source::{Severity, Source};
use std::collections::{BTreeSet, HashMap};
use weir::policy::format::{Address, STAR};

/// What the name of a volume is part of.
const ANY_VOLUME: &str = r"\device\harddiskvolume*";
/// Comparisons of two rules over the whole policy.
const MAX_COMPARISONS: usize = 200_000_000;
/// Pieces that a rule may be cut into.
const MAX_PIECES: usize = 256;
/// Rules that a message names.
const MAX_NAMED: usize = 3;

/// The warnings, and how many rules could not be checked.
pub(super) fn warnings(policy: &Policy, source: &Source<'_>) -> (Vec<Finding>, usize) {
    let mut out = Vec::new();
    let mut cover = Cover { comparisons: MAX_COMPARISONS };
    let v4 = Planes::<u32>::new(policy, V4);
    let v6 = Planes::<u128>::new(policy, V6);
    let mut unchecked = 0;
    for (index, rule) in policy.rules.iter().enumerate() {
        let mut warn = |message: String, help: &str| {
            let mut finding = source.finding(Severity::Warning, rule.span.clone(), message);
            finding.rule = Some(rule.name.clone());
            finding.help = Some(help.to_owned());
            out.push(finding);
        };
        if rule.families() == 0 {
            let message = format!(
                "rule `{}` can never match: `local` and `remote` are of different families",
                rule.name
            );
            warn(message, "both ends of a connection are IPv4, or both are IPv6: write a rule for each");
            continue;
        }
        if rule.ports_without_protocol() {
            let message = format!(
                "rule `{}` can never match: it names ports, and no protocol that has them",
                rule.name
            );
            warn(
                message,
                "ports match TCP and UDP only: leave the ports out, or name `protocol = \"tcp\"` or \"udp\"",
            );
            continue;
        }
        let mut by = BTreeSet::new();
        let left = [v4.left(index, rule, &mut cover, &mut by), v6.left(index, rule, &mut cover, &mut by)];
        if left.contains(&Left::Something) {
            continue;
        }
        if left.contains(&Left::Unknown) {
            unchecked += 1;
            continue;
        }
        let line = |index: usize| source.position(policy.rules[index].span.start).0;
        let named: Vec<String> = by
            .iter()
            .take(MAX_NAMED)
            .map(|index| format!("`{}` (line {})", policy.rules[*index].name, line(*index)))
            .collect();
        let rest = by.len().saturating_sub(MAX_NAMED);
        let rest = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        let whose = if by.len() == 1 { "rule" } else { "rules" };
        let message = format!(
            "rule `{}` can never match: {whose} {}{rest} before it decide all that it would",
            rule.name,
            named.join(", ")
        );
        warn(
            message,
            "the first rule that matches decides: move this rule up, narrow the others, or remove it",
        );
    }
    (out, unchecked)
}

/// The work that is left to do.
struct Cover {
    comparisons: usize,
}

/// What earlier rules leave of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
    Unknown,
}

/// Values of a field: ranges, and perhaps EMPTY.
#[derive(Clone, Debug)]
struct Set<T> {
    ranges: Ranges<T>,
    empty: bool,
}

impl<T: Number> Set<T> {
    fn of(ranges: Option<&Ranges<T>>) -> Self {
        match ranges {
            None => Self { ranges: vec![(T::MIN, T::MAX)], empty: true },
            Some(ranges) => Self { ranges: ranges.clone(), empty: false },
        }
    }

    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.empty
    }

    fn both(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some((a, b)), Some((c, d))) = (left.peek(), right.peek()) {
            let (first, last) = (*a.max(c), *b.min(d));
            if first <= last {
                ranges.push((first, last));
            }
            if b <= d {
                left.next()
            } else {
                right.next()
            };
        }
        Self { ranges, empty: self.empty && other.empty }
    }

    fn without(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for (first, last) in &self.ranges {
            let mut start = Some(*first);
            let from = other.ranges.partition_point(|(_, end)| end < first);
            for (a, b) in other.ranges[from..].iter().take_while(|(a, _)| a <= last) {
                if let (Some(start), Some(before)) = (start, a.previous())
                    && start <= before
                {
                    ranges.push((start, before));
                }
                start = b.next();
            }
            if let Some(start) = start.filter(|start| start <= last) {
                ranges.push((start, *last));
            }
        }
        Self { ranges, empty: self.empty && !other.empty }
    }

    /// First and last value, for a first look.
    fn bounds(&self) -> (T, T) {
        match (self.ranges.first(), self.ranges.last()) {
            (Some((first, _)), Some((_, last))) => (*first, *last),
            _ => (T::MAX, T::MIN),
        }
    }
}

/// A part of a rule: all combinations of its sets.
#[derive(Clone, Debug)]
struct Piece<'a, A> {
    protocol: Set<u8>,
    local: Set<A>,
    remote: Set<A>,
    local_port: Set<u16>,
    remote_port: Set<u16>,
    /// `None` is any application, EMPTY too.
    apps: Option<Vec<&'a Pattern>>,
}

impl<A: Number> Piece<'_, A> {
    /// What is left of this piece when `cover` is taken out of it.
    fn without(self, cover: &Self, out: &mut Vec<Self>) {
        let mut inside = self;
        if let Some(covers) = &cover.apps {
            // What a pattern leaves of "any", or of a pattern that it does not cover, is taken to be all of
            // it.
            let Some(apps) = inside.apps.take() else {
                out.push(inside);
                return;
            };
            let (covered, left): (Vec<_>, Vec<_>) =
                apps.into_iter().partition(|app| covers.iter().any(|cover| cover.covers(app)));
            if !left.is_empty() {
                out.push(Self { apps: Some(left), ..inside.clone() });
            }
            if covered.is_empty() {
                return;
            }
            inside.apps = Some(covered);
        }
        macro_rules! cut {
            ($($field:ident)*) => {$(
                let outside = inside.$field.without(&cover.$field);
                let both = inside.$field.both(&cover.$field);
                if !outside.is_empty() {
                    out.push(Self { $field: outside, ..inside.clone() });
                }
                if both.is_empty() {
                    return;
                }
                inside.$field = both;
            )*};
        }
        cut!(protocol remote local remote_port local_port);
    }

    fn meets(&self, other: &Self) -> bool {
        !(self.protocol.both(&other.protocol).is_empty()
            || self.remote.both(&other.remote).is_empty()
            || self.local.both(&other.local).is_empty()
            || self.remote_port.both(&other.remote_port).is_empty()
            || self.local_port.both(&other.local_port).is_empty())
    }
}

/// Addresses that can be analysed.
trait Field: Address + Number + std::hash::Hash {
    fn ranges(addresses: &Addresses) -> &Ranges<Self>;
    /// Bits by which addresses are sorted into drawers.
    const DRAWER: u8;
}

impl Field for u32 {
    fn ranges(addresses: &Addresses) -> &Ranges<Self> {
        &addresses.v4
    }
    const DRAWER: u8 = 16;
}

impl Field for u128 {
    fn ranges(addresses: &Addresses) -> &Ranges<Self> {
        &addresses.v6
    }
    const DRAWER: u8 = 64;
}

/// The rules of one family, with an index by address.
struct Planes<'a, A> {
    pieces: Vec<Option<Piece<'a, A>>>,
    bounds: Vec<Bounds<A>>,
    local: Drawers<A>,
    remote: Drawers<A>,
}

/// What is looked at first.
#[derive(Clone, Copy)]
struct Bounds<A> {
    local: (A, A),
    remote: (A, A),
    local_port: (u16, u16),
    remote_port: (u16, u16),
    directions: u8,
}

/// Rules by the first bits of an address; those with several, in a place for themselves.
struct Drawers<A> {
    wide: Vec<usize>,
    narrow: HashMap<A, Vec<usize>>,
}

impl<A: Field> Drawers<A> {
    fn drawer((first, last): (A, A)) -> Option<A> {
        let drawer = first.masked(A::DRAWER);
        (drawer == last.masked(A::DRAWER)).then_some(drawer)
    }

    fn new(bounds: &[Bounds<A>], side: impl Fn(&Bounds<A>) -> (A, A)) -> Self {
        let mut drawers = Self { wide: Vec::new(), narrow: HashMap::new() };
        for (index, bounds) in bounds.iter().enumerate() {
            match Self::drawer(side(bounds)) {
                Some(drawer) => drawers.narrow.entry(drawer).or_default().push(index),
                None => drawers.wide.push(index),
            }
        }
        drawers
    }

    /// Rules that may share an address with `bounds`, and are before `index`; `None` is any.
    fn candidates(&self, bounds: (A, A), index: usize) -> Option<[&[usize]; 2]> {
        let before = |list: &'_ [usize]| list.partition_point(|other| *other < index);
        let drawer = Self::drawer(bounds)?;
        let narrow = self.narrow.get(&drawer).map_or(&[][..], Vec::as_slice);
        Some([&narrow[..before(narrow)], &self.wide[..before(&self.wide)]])
    }
}

impl<'a, A: Field> Planes<'a, A> {
    fn new(policy: &'a Policy, family: u8) -> Self {
        let pieces: Vec<_> = policy.rules.iter().map(|rule| piece(rule, family)).collect();
        let bounds: Vec<_> = pieces
            .iter()
            .zip(&policy.rules)
            .map(|(piece, rule)| match piece {
                None => Bounds {
                    local: (<A as Number>::MIN, <A as Number>::MIN),
                    remote: (<A as Number>::MIN, <A as Number>::MIN),
                    local_port: (0, 0),
                    remote_port: (0, 0),
                    directions: 0,
                },
                Some(piece) => Bounds {
                    local: piece.local.bounds(),
                    remote: piece.remote.bounds(),
                    local_port: piece.local_port.bounds(),
                    remote_port: piece.remote_port.bounds(),
                    directions: rule.directions,
                },
            })
            .collect();
        let local = Drawers::new(&bounds, |bounds| bounds.local);
        let remote = Drawers::new(&bounds, |bounds| bounds.remote);
        Self { pieces, bounds, local, remote }
    }

    /// What is left of a rule in both directions; `by` gets the rules that took something.
    fn left(&self, index: usize, rule: &Rule, cover: &mut Cover, by: &mut BTreeSet<usize>) -> Left {
        let Some(piece) = &self.pieces[index] else {
            return Left::Nothing;
        };
        let mut left = Left::Nothing;
        for direction in [IN, OUT] {
            if rule.directions & direction == 0 {
                continue;
            }
            match self.left_in(index, direction, piece, cover, by) {
                Left::Nothing => {}
                Left::Something => return Left::Something,
                Left::Unknown => left = Left::Unknown,
            }
        }
        left
    }

    fn left_in(
        &self,
        index: usize,
        direction: u8,
        piece: &Piece<'a, A>,
        cover: &mut Cover,
        by: &mut BTreeSet<usize>,
    ) -> Left {
        let bounds = &self.bounds[index];
        let local = self.local.candidates(bounds.local, index);
        let remote = self.remote.candidates(bounds.remote, index);
        let size = |lists: &Option<[&[usize]; 2]>| lists.map_or(index, |[a, b]| a.len() + b.len());
        let lists = if size(&local) < size(&remote) { local } else { remote };
        let count = size(&lists);
        if count > cover.comparisons {
            cover.comparisons = 0;
            return Left::Unknown;
        }
        cover.comparisons -= count;
        let mut meeting: Vec<usize> = match lists {
            Some([a, b]) => {
                a.iter().chain(b).copied().filter(|other| self.may_meet(*other, bounds, direction)).collect()
            }
            None => (0..index).filter(|other| self.may_meet(*other, bounds, direction)).collect(),
        };
        meeting.sort_unstable();
        let mut meeting: Vec<(usize, &Piece<'a, A>)> = meeting
            .into_iter()
            .filter_map(|other| Some((other, self.pieces[other].as_ref()?)))
            .filter(|(_, other)| piece.meets(other))
            .collect();

        // One rule that takes it all makes the better message.
        for (other, cut) in &meeting {
            let mut rest = Vec::new();
            piece.clone().without(cut, &mut rest);
            if rest.is_empty() {
                by.insert(*other);
                return Left::Nothing;
            }
        }
        // The wide ones first: they leave the fewest pieces.
        meeting.sort_by_key(|(other, cut)| {
            (cut.apps.is_some(), std::cmp::Reverse(cut.remote.ranges.len() + cut.local.ranges.len()), *other)
        });
        let mut pieces = vec![piece.clone()];
        let mut helped = Vec::new();
        for (other, cut) in meeting {
            let mut rest = Vec::new();
            let mut took = false;
            for piece in pieces {
                if piece.meets(cut) {
                    took = true;
                    piece.without(cut, &mut rest);
                } else {
                    rest.push(piece);
                }
            }
            if took {
                helped.push(other);
            }
            if rest.is_empty() {
                by.extend(helped);
                return Left::Nothing;
            }
            if rest.len() > MAX_PIECES {
                return Left::Unknown;
            }
            pieces = rest;
        }
        Left::Something
    }

    fn may_meet(&self, other: usize, bounds: &Bounds<A>, direction: u8) -> bool {
        fn apart<T: Ord>(a: &(T, T), b: &(T, T)) -> bool {
            a.1 < b.0 || b.1 < a.0
        }
        let other = &self.bounds[other];
        other.directions & direction != 0
            && !apart(&other.remote, &bounds.remote)
            && !apart(&other.local, &bounds.local)
            && !apart(&other.local_port, &bounds.local_port)
            && !apart(&other.remote_port, &bounds.remote_port)
    }
}

/// All of a rule, in one family; `None` if it cannot match there.
fn piece<A: Field>(rule: &Rule, family: u8) -> Option<Piece<'_, A>> {
    if rule.families() & family == 0 || rule.ports_without_protocol() {
        return None;
    }
    let ranges = |set: &Protocols| normalise(set.iter().map(|protocol| (protocol, protocol)).collect());
    let mut protocol = Set::of(rule.protocols.as_ref().map(ranges).as_ref());
    if rule.names_ports() {
        protocol = protocol.both(&Set { ranges: vec![(6, 6), (17, 17)], empty: false });
    }
    Some(Piece {
        protocol,
        local: Set::of(rule.local.as_ref().map(A::ranges)),
        remote: Set::of(rule.remote.as_ref().map(A::ranges)),
        local_port: Set::of(rule.local_ports.as_ref()),
        remote_port: Set::of(rule.remote_ports.as_ref()),
        apps: rule.apps.as_ref().map(|apps| apps.iter().collect()),
    })
}

impl Pattern {
    /// Whether it shows that all that `other` matches is matched by this: a wildcard of `other` can only be
    /// part of what a wildcard here stands for.
    fn covers(&self, other: &Self) -> bool {
        let named = match (self.on_volume, other.on_volume) {
            (true, false) => return false,
            (false, true) => fold::units(ANY_VOLUME),
            _ => Vec::new(),
        };
        let (pattern, text) = (&self.units, &[named, other.units.clone()].concat());
        let (mut at, mut place) = (0, 0);
        let mut retry = None;
        while place < text.len() {
            if pattern.get(at) == Some(&STAR) {
                retry = Some((at + 1, place));
                at += 1;
            } else if pattern.get(at) == text.get(place) && text[place] != STAR {
                at += 1;
                place += 1;
            } else if let Some((after, from)) = retry {
                retry = Some((after, from + 1));
                at = after;
                place = from + 1;
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|unit| *unit == STAR)
    }
}
