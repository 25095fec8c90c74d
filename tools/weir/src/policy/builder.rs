//! From the model to the image of `weir::policy::format`.

use super::fold;
use super::model::{Addresses, Number, Pattern, Policy, Protocols, Ranges, Rule};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use weir::policy::format::{
    self, Address, MAX_APP_CANDIDATES, MAX_BUCKET, MAX_ENTRIES, MAX_GROUPS, MAX_IMAGE, MAX_PROBES,
    MAX_VECTOR_RULES, NO_FALLBACK, STAR, apps, entry, field, group, header, partition, pattern, rule, slot,
};

/// Why no image can be made of a policy.
#[derive(Debug)]
pub(super) struct TooLarge {
    /// The rule that does not fit, if there is one.
    pub rule: Option<usize>,
    pub message: String,
}

impl TooLarge {
    fn new(rule: Option<u32>, message: impl Into<String>) -> Self {
        Self { rule: rule.map(|rule| rule as usize), message: message.into() }
    }
}

/// Compiles `policy`, which was written as `text`.
pub(super) fn image(policy: &Policy, text: &str) -> Result<Vec<u8>, TooLarge> {
    let mut block = Block(vec![0; header::LEN]);
    block.0[..8].copy_from_slice(&format::MAGIC);
    block.0[header::VERSION..][..2].copy_from_slice(&format::VERSION.to_le_bytes());
    block.0[header::HEADER_LEN..][..2]
        .copy_from_slice(&u16::try_from(header::LEN).expect("small").to_le_bytes());
    block.set(header::GENERATION, policy.generation);
    block.0[header::DEFAULT] = policy.default as u8;
    block.0[header::DIGEST..][..32].copy_from_slice(&Sha256::digest(text.as_bytes()));

    let patterns = Patterns::of(&policy.rules);
    partitions::<u32>(&mut block, policy, &patterns, 0)?;
    partitions::<u128>(&mut block, policy, &patterns, 1)?;
    patterns.write(&mut block)?;
    rules(&mut block, policy, &patterns);

    if block.0.len() > MAX_IMAGE {
        let message = format!("the image would be of {} bytes; the driver takes {MAX_IMAGE}", block.0.len());
        return Err(TooLarge::new(None, message));
    }
    block.set(header::LENGTH, block.end());
    let checksum = weir::policy::checksum(&block.0);
    block.set(header::CHECKSUM, checksum);
    Ok(block.0)
}

/// The image as it grows.
struct Block(Vec<u8>);

impl Block {
    fn end(&self) -> u32 {
        u32::try_from(self.0.len()).expect("the parts of a policy at its limits stay below 4 GiB")
    }

    fn align(&mut self) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.end()
    }

    fn set(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Sets an offset and a count.
    fn set_table(&mut self, at: usize, offset: u32, count: usize) {
        self.set(at, offset);
        self.set(at + 4, number(count));
    }

    fn push_u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn push_u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("counts are bounded by the policy's limits")
}

/// Addresses that can be built into an image.
trait Field: Address + Number + Hash {
    fn ranges(addresses: &Addresses) -> &Ranges<Self>;
    fn push(self, out: &mut Vec<u8>);
    /// `self - base`, and how many bits it takes.
    fn distance_bits(self, base: Self) -> u32;
    /// `base + (step << shift)`, or the last address.
    fn at_step(base: Self, step: usize, shift: u32) -> Self;
    /// The last address of the prefix of `len` bits that starts here.
    fn prefix_end(self, len: u8) -> Self;
    /// Bits by which prefix lengths are first rounded down, so that like shapes meet.
    const ROUNDING: u8;
}

macro_rules! field {
    ($type:ty, $list:ident, $rounding:expr) => {
        impl Field for $type {
            fn ranges(addresses: &Addresses) -> &Ranges<Self> {
                &addresses.$list
            }
            fn push(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn distance_bits(self, base: Self) -> u32 {
                Self::BITS - (self - base).leading_zeros()
            }
            fn at_step(base: Self, step: usize, shift: u32) -> Self {
                let step = Self::try_from(step).unwrap_or(Self::MAX);
                let add = if step.leading_zeros() < shift {
                    Self::MAX
                } else {
                    step.checked_shl(shift).unwrap_or(0)
                };
                base.saturating_add(add)
            }
            fn prefix_end(self, len: u8) -> Self {
                self | Self::MAX.checked_shr(u32::from(len)).unwrap_or(0)
            }
            const ROUNDING: u8 = $rounding;
        }
    };
}

field!(u32, v4, 4);
field!(u128, v6, 8);

/// One rule as a partition sees it. `None` is "any".
struct Term<'a, A> {
    rule: u32,
    local: Option<&'a Ranges<A>>,
    remote: Option<&'a Ranges<A>>,
    local_ports: Option<&'a Ranges<u16>>,
    remote_ports: Option<&'a Ranges<u16>>,
    protocols: Option<Protocols>,
    apps: Option<&'a [Pattern]>,
}

fn partitions<A: Field>(
    block: &mut Block,
    policy: &Policy,
    patterns: &Patterns<'_>,
    family: usize,
) -> Result<(), TooLarge> {
    let members = |direction: usize| -> Vec<u32> {
        let applies = |rule: &Rule| {
            rule.directions >> direction & 1 != 0
                && rule.families() >> family & 1 != 0
                && !rule.ports_without_protocol()
        };
        (0_u32..).zip(&policy.rules).filter(|(_, rule)| applies(rule)).map(|(index, _)| index).collect()
    };
    let sets = [members(0), members(1)];
    let mut offsets = [0, 0];
    for direction in 0..2 {
        if sets[direction].is_empty() {
            continue;
        }
        offsets[direction] = if direction == 1 && sets[0] == sets[1] {
            offsets[0]
        } else {
            let term = |index: &u32| {
                let rule = &policy.rules[*index as usize];
                Term {
                    rule: *index,
                    local: rule.local.as_ref().map(A::ranges),
                    remote: rule.remote.as_ref().map(A::ranges),
                    local_ports: rule.local_ports.as_ref(),
                    remote_ports: rule.remote_ports.as_ref(),
                    protocols: rule.protocols,
                    apps: rule.apps.as_deref(),
                }
            };
            partition(block, sets[direction].iter().map(term).collect(), patterns)?
        };
        block.set(header::PARTITIONS + 4 * (direction + 2 * family), offsets[direction]);
    }
    Ok(())
}

/// Writes a partition and says where.
fn partition<A: Field>(
    block: &mut Block,
    terms: Vec<Term<'_, A>>,
    patterns: &Patterns<'_>,
) -> Result<u32, TooLarge> {
    let (mut vector, hashed) = divide(terms)?;
    let at = block.align();
    block.0.resize(at as usize + partition::LEN, 0);
    let at = at as usize;

    if !hashed.is_empty() {
        let (groups, overflow) = group_entries(expand(&hashed)?);
        let room = MAX_VECTOR_RULES - vector.len();
        if overflow.len() > room {
            let message = format!(
                "more than {MAX_BUCKET} rules of this kind overlap so much that only the bit-vector \
                     can hold them, and it is full ({MAX_VECTOR_RULES} rules)"
            );
            return Err(TooLarge::new(overflow.iter().nth(room).copied(), message));
        }
        vector.extend(hashed.into_iter().filter(|term| overflow.contains(&term.rule)));
        vector.sort_unstable_by_key(|term| term.rule);
        write_groups(block, at, &groups);
    }
    if !vector.is_empty() {
        write_vector(block, at, &vector, patterns);
    }
    Ok(number(at))
}

/// The terms of the bit-vector part and those of the hashed part.
#[expect(clippy::type_complexity, reason = "two lists of the same thing")]
fn divide<A: Field>(terms: Vec<Term<'_, A>>) -> Result<(Vec<Term<'_, A>>, Vec<Term<'_, A>>), TooLarge> {
    /// A rule that expands to more entries than this is better off in the bit-vector.
    const WIDE: usize = 64;
    if terms.len() <= MAX_VECTOR_RULES {
        return Ok((terms, Vec::new()));
    }
    let mut order: Vec<(bool, usize, usize)> =
        terms.iter().enumerate().map(|(at, term)| (term.apps.is_some(), expansion(term), at)).collect();
    order.sort_unstable_by_key(|(app, entries, at)| (!app, std::cmp::Reverse(*entries), *at));
    if let Some((true, _, at)) = order.get(MAX_VECTOR_RULES) {
        let message = format!(
            "a policy with more than {MAX_VECTOR_RULES} rules for one direction and family can have \
                 {MAX_VECTOR_RULES} of them name an app, and this is one more"
        );
        return Err(TooLarge::new(Some(terms[*at].rule), message));
    }
    let chosen: HashSet<usize> = order
        .iter()
        .take(MAX_VECTOR_RULES)
        .filter(|(app, entries, _)| *app || *entries > WIDE)
        .map(|(_, _, at)| *at)
        .collect();
    let (mut vector, mut hashed) = (Vec::new(), Vec::new());
    for (at, term) in terms.into_iter().enumerate() {
        if chosen.contains(&at) { vector.push(term) } else { hashed.push(term) }
    }
    Ok((vector, hashed))
}

/// How many entries a rule expands to.
fn expansion<A: Field>(term: &Term<'_, A>) -> usize {
    let addresses = |ranges: Option<&Ranges<A>>| {
        ranges.map_or(1, |ranges| ranges.iter().map(|(first, last)| prefixes(*first, *last).len()).sum())
    };
    let ports = |ranges: Option<&Ranges<u16>>| ranges.map_or(1, Vec::len);
    [
        addresses(term.local),
        addresses(term.remote),
        ports(term.local_ports),
        ports(term.remote_ports),
        term.protocols.map_or(1, |set| set.iter().count()),
    ]
    .into_iter()
    .fold(1, usize::saturating_mul)
}

/// The prefixes that make up a range.
fn prefixes<A: Field>(first: A, last: A) -> Vec<(A, u8)> {
    let mut out = Vec::new();
    let mut start = first;
    loop {
        let mut len = A::BITS;
        while len > 0 && start.masked(len - 1) == start && start.prefix_end(len - 1) <= last {
            len -= 1;
        }
        out.push((start, len));
        match start.prefix_end(len).next() {
            Some(next) if next <= last => start = next,
            _ => return out,
        }
    }
}

/// An entry of the hashed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry<A> {
    local: (A, u8),
    remote: (A, u8),
    local_port: (u16, u16),
    remote_port: (u16, u16),
    protocol: u8,
    named: u8,
    rule: u32,
}

fn expand<A: Field>(terms: &[Term<'_, A>]) -> Result<Vec<Entry<A>>, TooLarge> {
    let addresses = |ranges: Option<&Ranges<A>>| match ranges {
        None => vec![(<A as Number>::MIN, 0)],
        Some(ranges) => ranges.iter().flat_map(|(first, last)| prefixes(*first, *last)).collect(),
    };
    let ports = |ranges: Option<&Ranges<u16>>| ranges.cloned().unwrap_or_else(|| vec![(0, u16::MAX)]);
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    for term in terms {
        let mut named = 0;
        for (names, bit) in [
            (term.local.is_some(), entry::NAMES_LOCAL),
            (term.remote.is_some(), entry::NAMES_REMOTE),
            (term.local_ports.is_some(), entry::NAMES_LOCAL_PORT),
            (term.remote_ports.is_some(), entry::NAMES_REMOTE_PORT),
            (term.protocols.is_some(), entry::NAMES_PROTOCOL),
        ] {
            named |= if names { bit } else { 0 };
        }
        let protocols: Vec<u8> = term.protocols.map_or_else(|| vec![0], |set| set.iter().collect());
        for local in addresses(term.local) {
            for remote in addresses(term.remote) {
                for local_port in ports(term.local_ports) {
                    for remote_port in ports(term.remote_ports) {
                        for protocol in protocols.iter().copied() {
                            let rule = term.rule;
                            let entry =
                                Entry { local, remote, local_port, remote_port, protocol, named, rule };
                            // What an earlier rule says of the very same connections stands.
                            if seen.insert(Entry { rule: 0, ..entry }) {
                                out.push(entry);
                            }
                        }
                    }
                }
            }
        }
        if out.len() > MAX_ENTRIES {
            let message = format!(
                "the rules of one direction and family expand to more than {MAX_ENTRIES} combinations \
                     of one prefix, port range and protocol each; this rule is over that"
            );
            return Err(TooLarge::new(Some(term.rule), message));
        }
    }
    Ok(out)
}

/// What the entries of a group have in common: prefixes at least this long, and these fields exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shape {
    local: u8,
    remote: u8,
    key: u8,
}

/// A group's key: addresses, and what `format::key_rest` makes of the other fields.
type Key<A> = (A, A, u64);

impl Shape {
    fn of<A: Field>(entry: &Entry<A>) -> Self {
        let mut key = 0;
        let exact = |range: (u16, u16), named: u8| entry.named & named != 0 && range.0 == range.1;
        if exact(entry.local_port, entry::NAMES_LOCAL_PORT) {
            key |= group::KEY_LOCAL_PORT;
        }
        if exact(entry.remote_port, entry::NAMES_REMOTE_PORT) {
            key |= group::KEY_REMOTE_PORT;
        }
        if entry.named & entry::NAMES_PROTOCOL != 0 {
            key |= group::KEY_PROTOCOL;
        }
        Self { local: entry.local.1, remote: entry.remote.1, key }
    }

    fn rounded<A: Field>(self) -> Self {
        Self {
            local: self.local / A::ROUNDING * A::ROUNDING,
            remote: self.remote / A::ROUNDING * A::ROUNDING,
            key: self.key,
        }
    }

    /// Whether an entry of shape `other` can be in a group of this shape.
    fn admits(self, other: Self) -> bool {
        self.local <= other.local && self.remote <= other.remote && self.key & !other.key == 0
    }

    /// How much the key tells entries apart.
    fn selectivity(self) -> u32 {
        let bits = |bit: u8, worth: u32| if self.key & bit == 0 { 0 } else { worth };
        u32::from(self.local)
            + u32::from(self.remote)
            + bits(group::KEY_LOCAL_PORT, 12)
            + bits(group::KEY_REMOTE_PORT, 12)
            + bits(group::KEY_PROTOCOL, 2)
    }

    fn key<A: Field>(self, entry: &Entry<A>) -> Key<A> {
        let rest = format::key_rest(entry.local_port.0, entry.remote_port.0, entry.protocol, self.key);
        (entry.local.0.masked(self.local), entry.remote.0.masked(self.remote), rest)
    }
}

struct Group<A> {
    shape: Shape,
    buckets: BTreeMap<Key<A>, Vec<Entry<A>>>,
}

impl<A> Group<A> {
    fn first(&self) -> u32 {
        self.buckets.values().flatten().map(|entry| entry.rule).min().unwrap_or(u32::MAX)
    }
}

/// Sorts entries into at most `MAX_GROUPS` hash tables, and names the rules of which an entry fits in none.
///
/// Entries of one shape would each need a table of their own; a table of a coarser shape can take them as
/// long as its buckets stay short. What is left of the count of tables is used to cut the largest into parts
/// of neighbouring addresses: the field look-ups then name the one part worth probing.
fn group_entries<A: Field>(entries: Vec<Entry<A>>) -> (Vec<Group<A>>, std::collections::BTreeSet<u32>) {
    const SHORT: usize = 8;
    let total = entries.len();
    let mut by_shape: HashMap<Shape, Vec<Entry<A>>> = HashMap::new();
    for entry in entries {
        by_shape.entry(Shape::of(&entry).rounded::<A>()).or_default().push(entry);
    }
    let mut by_shape: Vec<_> = by_shape.into_iter().collect();
    by_shape.sort_unstable_by_key(|(shape, entries)| (std::cmp::Reverse(entries.len()), *shape));

    let mut tables: Vec<Group<A>> = Vec::new();
    let mut overflow = std::collections::BTreeSet::new();
    let place = |tables: &mut Vec<Group<A>>, entry: Entry<A>, limit: usize| -> Option<Entry<A>> {
        let shape = Shape::of(&entry);
        let room = |table: &Group<A>| {
            table.shape.admits(shape)
                && table.buckets.get(&table.shape.key(&entry)).is_none_or(|bucket| bucket.len() < limit)
        };
        let best =
            tables.iter_mut().filter(|table| room(table)).max_by_key(|table| table.shape.selectivity());
        let Some(table) = best else {
            return Some(entry);
        };
        table.buckets.entry(table.shape.key(&entry)).or_default().push(entry);
        None
    };
    for (shape, entries) in by_shape {
        let mut left: Vec<Entry<A>> =
            entries.into_iter().filter_map(|entry| place(&mut tables, entry, SHORT)).collect();
        if left.is_empty() {
            continue;
        }
        if tables.len() < MAX_GROUPS - 1 {
            tables.push(Group { shape, buckets: BTreeMap::new() });
        } else if tables.len() < MAX_GROUPS {
            tables.push(Group { shape: Shape { local: 0, remote: 0, key: 0 }, buckets: BTreeMap::new() });
        }
        left.retain(|entry| place(&mut tables, *entry, usize::from(MAX_BUCKET)).is_some());
        overflow.extend(left.into_iter().map(|entry| entry.rule));
    }
    for table in &mut tables {
        for bucket in table.buckets.values_mut() {
            bucket.retain(|entry| !overflow.contains(&entry.rule));
        }
        table.buckets.retain(|_, bucket| !bucket.is_empty());
    }
    tables.retain(|table| !table.buckets.is_empty());

    let spare = MAX_GROUPS - tables.len();
    let mut groups = Vec::new();
    for table in tables {
        let count: usize = table.buckets.values().map(Vec::len).sum();
        let parts = (1 + count * spare / total).min(table.buckets.len());
        let mut buckets: Vec<_> = table.buckets.into_iter().collect();
        if table.shape.remote >= table.shape.local {
            buckets.sort_unstable_by_key(|((local, remote, rest), _)| (*remote, *local, *rest));
        }
        let size = buckets.len().div_ceil(parts);
        let mut buckets = buckets.into_iter().peekable();
        while buckets.peek().is_some() {
            groups.push(Group { shape: table.shape, buckets: buckets.by_ref().take(size).collect() });
        }
    }
    groups.sort_by_key(Group::first);
    (groups, overflow)
}

fn write_groups<A: Field>(block: &mut Block, at: usize, groups: &[Group<A>]) {
    let mut slots: Vec<(u32, u16, u16)> = Vec::new();
    let mut entries: Vec<Entry<A>> = Vec::new();
    let mut records = Vec::new();
    let mut columns = Columns::new(1);
    for (bit, table) in groups.iter().enumerate() {
        let mut capacity = (table.buckets.len() * 2).next_power_of_two();
        let layout = loop {
            match hash_layout(table, capacity) {
                Some(layout) => break layout,
                None => capacity *= 2,
            }
        };
        records.push((table, number(slots.len()), number(capacity - 1)));
        for place in layout {
            let Some((tag, bucket)) = place else {
                slots.push((0, 0, 0));
                continue;
            };
            slots.push((
                number(entries.len()),
                tag,
                u16::try_from(bucket.len()).expect("at most MAX_BUCKET"),
            ));
            let mut bucket = bucket.clone();
            bucket.sort_unstable_by_key(|entry| entry.rule);
            entries.extend(bucket);
        }
        for entry in table.buckets.values().flatten() {
            columns.add_entry(bit, entry);
        }
    }

    let records_at = block.align();
    for (table, base, mask) in &records {
        block.push_u32(table.first());
        block.push_u32(*base);
        block.push_u32(*mask);
        block.0.extend_from_slice(&[table.shape.local, table.shape.remote, table.shape.key, 0]);
    }
    block.set_table(at + partition::GROUPS, records_at, records.len());
    let slots_at = block.align();
    for (start, tag, count) in &slots {
        block.push_u32(*start);
        block.push_u16(*tag);
        block.push_u16(*count);
    }
    debug_assert_eq!(block.0.len(), slots_at as usize + slots.len() * slot::LEN);
    block.set_table(at + partition::SLOTS, slots_at, slots.len());
    let entries_at = block.align();
    for entry in &entries {
        entry.local.0.push(&mut block.0);
        entry.remote.0.push(&mut block.0);
        for port in [entry.local_port.0, entry.local_port.1, entry.remote_port.0, entry.remote_port.1] {
            block.push_u16(port);
        }
        block.push_u32(entry.rule);
        block.0.extend_from_slice(&[entry.local.1, entry.remote.1, entry.protocol, entry.named]);
    }
    block.set_table(at + partition::ENTRIES, entries_at, entries.len());
    columns.write(block, at + partition::HASHED_FIELDS);
}

type Slots<'g, A> = Vec<Option<(u16, &'g Vec<Entry<A>>)>>;

/// Places the buckets of a group in `capacity` slots; `None` if a probe would be too long.
fn hash_layout<A: Field>(table: &Group<A>, capacity: usize) -> Option<Slots<'_, A>> {
    let mut slots: Slots<'_, A> = vec![None; capacity];
    // Buckets that decide early stand nearest to where their probe starts.
    let mut buckets: Vec<_> = table.buckets.iter().collect();
    buckets.sort_by_key(|(_, bucket)| bucket.iter().map(|entry| entry.rule).min());
    for ((local, remote, rest), bucket) in buckets {
        let hash = format::key_hash(local.fold(), remote.fold(), *rest);
        let tag = (hash & 0xffff) as u16;
        let mut place = (hash >> 32) as usize & (capacity - 1);
        while slots[place].is_some() {
            place = (place + 1) & (capacity - 1);
        }
        slots[place] = Some((tag, bucket));
    }
    let mut run = 0;
    for place in (0..capacity).chain(0..capacity.min(MAX_PROBES as usize)) {
        run = if slots[place].is_some() { run + 1 } else { 0 };
        if run + 1 >= MAX_PROBES {
            return None;
        }
    }
    Some(slots)
}

fn write_vector<A: Field>(block: &mut Block, at: usize, terms: &[Term<'_, A>], patterns: &Patterns<'_>) {
    let words = terms.len().div_ceil(64);
    block.set(at + partition::WORDS, number(words));
    let mut columns = Columns::new(words);
    let rules_at = block.align();
    for (bit, term) in terms.iter().enumerate() {
        block.push_u32(term.rule);
        columns.add_term(bit, term);
    }
    block.set_table(at + partition::VECTOR_RULES, rules_at, terms.len());
    let fields = at + partition::VECTOR_FIELDS;
    columns.write(block, fields);

    let mut rows = Rows::new(words);
    let mut any = vec![0; words];
    let mut by_pattern: HashMap<u32, Vec<u64>> = HashMap::new();
    for (bit, term) in terms.iter().enumerate() {
        match term.apps {
            None => set(&mut any, bit),
            Some(apps) => {
                for app in apps {
                    let row = by_pattern.entry(patterns.number(app)).or_insert_with(|| vec![0; words]);
                    set(row, bit);
                }
            }
        }
    }
    let empty = rows.number(&any);
    let mut map = Vec::new();
    if !by_pattern.is_empty() {
        let none = rows.number(&vec![0; words]);
        map = (0..number(patterns.list.len()))
            .map(|pattern| by_pattern.get(&pattern).map_or(none, |row| rows.number(row)))
            .collect();
    }
    let app = fields + partition::APP * field::LEN;
    rows.write(block, app, empty);
    if !map.is_empty() {
        let map_at = block.align();
        for row in &map {
            block.push_u32(*row);
        }
        block.set_table(app + field::MAP, map_at, map.len());
    }
}

fn set(row: &mut [u64], bit: usize) {
    row[bit / 64] |= 1 << (bit % 64);
}

/// Distinct rows, numbered as they come.
struct Rows {
    words: usize,
    numbers: HashMap<Vec<u64>, u32>,
    distinct: Vec<u64>,
}

impl Rows {
    fn new(words: usize) -> Self {
        Self { words, numbers: HashMap::new(), distinct: Vec::new() }
    }

    fn number(&mut self, row: &[u64]) -> u32 {
        if let Some(number) = self.numbers.get(row) {
            return *number;
        }
        let number = number(self.distinct.len() / self.words);
        self.distinct.extend_from_slice(row);
        self.numbers.insert(row.to_vec(), number);
        number
    }

    fn write(self, block: &mut Block, field: usize, empty: u32) {
        let at = block.align();
        for word in &self.distinct {
            block.0.extend_from_slice(&word.to_le_bytes());
        }
        block.set_table(field + field::ROWS, at, self.distinct.len() / self.words);
        block.set(field + field::EMPTY, empty);
    }
}

/// A field's conditions by bit: the bits that take any value, and where others begin and end to match.
struct Column<T> {
    any: Vec<u64>,
    events: Vec<(T, usize, bool)>,
}

impl<T: Number> Column<T> {
    fn new(words: usize) -> Self {
        Self { any: vec![0; words], events: Vec::new() }
    }

    fn add(&mut self, bit: usize, first: T, last: T) {
        self.events.push((first, bit, true));
        if let Some(end) = last.next() {
            self.events.push((end, bit, false));
        }
    }

    /// The values at which the row changes, the first of all included, and the row's number from there.
    fn cuts(mut self, rows: &mut Rows) -> Vec<(T, u32)> {
        self.events.sort_unstable();
        let mut counts = vec![0_u32; self.any.len() * 64];
        let mut row = self.any.clone();
        let mut cuts = Vec::new();
        let mut events = self.events.into_iter().peekable();
        let mut value = T::MIN;
        loop {
            while let Some((_, bit, begins)) = events.next_if(|event| event.0 == value) {
                // An end may be taken before a beginning at the same value: the count goes below zero and
                // back.
                counts[bit] = if begins { counts[bit].wrapping_add(1) } else { counts[bit].wrapping_sub(1) };
                let matches = counts[bit] != 0 || self.any[bit / 64] >> (bit % 64) & 1 != 0;
                let mask = 1 << (bit % 64);
                row[bit / 64] = if matches { row[bit / 64] | mask } else { row[bit / 64] & !mask };
            }
            let number = rows.number(&row);
            if cuts.last().is_none_or(|(_, last)| *last != number) {
                cuts.push((value, number));
            }
            match events.peek() {
                Some(event) => value = event.0,
                None => return cuts,
            }
        }
    }
}

/// The fields that both parts of a partition have.
struct Columns<A> {
    words: usize,
    local: Column<A>,
    remote: Column<A>,
    local_port: Column<u16>,
    remote_port: Column<u16>,
    protocols: Vec<(usize, Option<Protocols>)>,
}

impl<A: Field> Columns<A> {
    fn new(words: usize) -> Self {
        Self {
            words,
            local: Column::new(words),
            remote: Column::new(words),
            local_port: Column::new(words),
            remote_port: Column::new(words),
            protocols: Vec::new(),
        }
    }

    fn add_term(&mut self, bit: usize, term: &Term<'_, A>) {
        fn add<T: Number>(column: &mut Column<T>, bit: usize, ranges: Option<&Ranges<T>>) {
            match ranges {
                None => set(&mut column.any, bit),
                Some(ranges) => ranges.iter().for_each(|(first, last)| column.add(bit, *first, *last)),
            }
        }
        add(&mut self.local, bit, term.local);
        add(&mut self.remote, bit, term.remote);
        add(&mut self.local_port, bit, term.local_ports);
        add(&mut self.remote_port, bit, term.remote_ports);
        self.protocols.push((bit, term.protocols));
    }

    fn add_entry(&mut self, bit: usize, entry: &Entry<A>) {
        fn add<T: Number>(column: &mut Column<T>, bit: usize, named: bool, first: T, last: T) {
            if named {
                column.add(bit, first, last);
            } else {
                set(&mut column.any, bit);
            }
        }
        let named = |name: u8| entry.named & name != 0;
        let address = |(start, len): (A, u8)| (start, start.prefix_end(len));
        let (local, remote) = (address(entry.local), address(entry.remote));
        add(&mut self.local, bit, named(entry::NAMES_LOCAL), local.0, local.1);
        add(&mut self.remote, bit, named(entry::NAMES_REMOTE), remote.0, remote.1);
        let (local, remote) = (entry.local_port, entry.remote_port);
        add(&mut self.local_port, bit, named(entry::NAMES_LOCAL_PORT), local.0, local.1);
        add(&mut self.remote_port, bit, named(entry::NAMES_REMOTE_PORT), remote.0, remote.1);
        let mut protocols = Protocols::default();
        protocols.insert(entry.protocol);
        self.protocols.push((bit, named(entry::NAMES_PROTOCOL).then_some(protocols)));
    }

    fn write(self, block: &mut Block, fields: usize) {
        let field = |place: usize| fields + place * field::LEN;
        write_addresses(block, field(partition::LOCAL), self.local, self.words);
        write_addresses(block, field(partition::REMOTE), self.remote, self.words);
        write_ports(block, field(partition::LOCAL_PORT), self.local_port, self.words);
        write_ports(block, field(partition::REMOTE_PORT), self.remote_port, self.words);

        let mut rows = Rows::new(self.words);
        let mut any = vec![0; self.words];
        let mut by_protocol = vec![vec![0; self.words]; 256];
        for (bit, protocols) in self.protocols {
            match protocols {
                None => set(&mut any, bit),
                Some(protocols) => {
                    for protocol in protocols.iter() {
                        set(&mut by_protocol[usize::from(protocol)], bit);
                    }
                }
            }
        }
        let empty = rows.number(&any);
        let map: Vec<u32> = by_protocol
            .into_iter()
            .map(|mut row| {
                row.iter_mut().zip(&any).for_each(|(word, any)| *word |= any);
                rows.number(&row)
            })
            .collect();
        let map_at = block.align();
        for row in map {
            block.push_u16(u16::try_from(row).expect("257 rows at most"));
        }
        block.set_table(field(partition::PROTOCOL) + field::MAP, map_at, 256);
        rows.write(block, field(partition::PROTOCOL), empty);
    }
}

fn write_addresses<A: Field>(block: &mut Block, field: usize, column: Column<A>, words: usize) {
    let mut rows = Rows::new(words);
    let empty = rows.number(&column.any);
    let cuts = column.cuts(&mut rows);
    rows.write(block, field, empty);

    let map_at = block.align();
    for (address, row) in &cuts {
        address.push(&mut block.0);
        block.push_u32(*row);
    }
    block.set_table(field + field::MAP, map_at, cuts.len());

    let mut index = vec![0];
    let mut shift = 0;
    if let (Some((base, _)), Some((last, _))) = (cuts.get(1), cuts.last()) {
        let wanted = usize::BITS - cuts.len().leading_zeros() + 1;
        shift = last.distance_bits(*base).saturating_sub(wanted.min(20));
        let steps = last.step(*base, shift) + 1;
        for step in 1..steps {
            let start = A::at_step(*base, step, shift);
            index.push(number(cuts.partition_point(|(cut, _)| *cut <= start) - 1));
        }
    }
    index.push(number(cuts.len() - 1));
    let index_at = block.align();
    for place in &index {
        block.push_u32(*place);
    }
    block.set_table(field + field::INDEX, index_at, index.len());
    block.set(field + field::SHIFT, shift);
}

fn write_ports(block: &mut Block, field: usize, column: Column<u16>, words: usize) {
    let mut rows = Rows::new(words);
    let empty = rows.number(&column.any);
    let cuts = column.cuts(&mut rows);
    rows.write(block, field, empty);
    let mut by_port = vec![0_u16; 65536];
    for (place, (first, row)) in cuts.iter().enumerate() {
        let end = cuts.get(place + 1).map_or(65536, |(next, _)| usize::from(*next));
        by_port[usize::from(*first)..end].fill(u16::try_from(*row).expect("at most one row for each port"));
    }
    let mut pages: Vec<&[u16]> = Vec::new();
    let mut numbers: HashMap<&[u16], u16> = HashMap::new();
    let map_at = block.align();
    for page in by_port.chunks(256) {
        let number = *numbers.entry(page).or_insert_with(|| {
            pages.push(page);
            u16::try_from(pages.len() - 1).expect("256 pages at most")
        });
        block.push_u16(number);
    }
    for row in pages.iter().copied().flatten() {
        block.push_u16(*row);
    }
    block.set_table(field + field::MAP, map_at, pages.len());
}

/// The distinct application patterns of a policy.
struct Patterns<'a> {
    list: Vec<&'a Pattern>,
    numbers: HashMap<&'a Pattern, u32>,
}

impl<'a> Patterns<'a> {
    fn of(rules: &'a [Rule]) -> Self {
        let mut patterns = Self { list: Vec::new(), numbers: HashMap::new() };
        for pattern in rules.iter().filter_map(|rule| rule.apps.as_ref()).flatten() {
            patterns.numbers.entry(pattern).or_insert_with(|| {
                patterns.list.push(pattern);
                number(patterns.list.len() - 1)
            });
        }
        patterns
    }

    fn number(&self, pattern: &Pattern) -> u32 {
        self.numbers[pattern]
    }

    fn write(&self, block: &mut Block) -> Result<(), TooLarge> {
        if self.list.is_empty() {
            return Ok(());
        }
        if self.list.len() > format::MAX_PATTERNS as usize {
            let message =
                format!("{} distinct apps; at most {} are possible", self.list.len(), format::MAX_PATTERNS);
            return Err(TooLarge::new(None, message));
        }
        // Patterns whose file name is spelt out are found by it; the others are tried on every path.
        let mut general = Vec::new();
        let mut named: Vec<(u32, u32)> = Vec::new();
        for (index, pattern) in (0_u32..).zip(&self.list) {
            match pattern.file_name() {
                Some(name) => named.push((format::name_hash(name.iter().copied()), index)),
                None => general.push(index),
            }
        }
        let mut capacity = (named.len() * 2).next_power_of_two();
        let limit = MAX_APP_CANDIDATES as usize;
        let buckets = loop {
            let mut buckets = vec![Vec::new(); capacity];
            for (hash, index) in &named {
                buckets[*hash as usize & (capacity - 1)].push(*index);
            }
            let longest = buckets.iter().map(Vec::len).max().unwrap_or(0);
            if general.len() + longest <= limit {
                break buckets;
            }
            if general.len() >= limit || capacity >= named.len() * 64 {
                let message = format!(
                    "{} apps have a `*` in the file name, and up to {longest} share a file name; \
                         together they may be {limit}, because each of them is tried on every \
                         connection of such an app",
                    general.len()
                );
                return Err(TooLarge::new(None, message));
            }
            capacity *= 2;
        };

        let at = block.align();
        block.0.resize(at as usize + apps::LEN, 0);
        block.set(header::APPS, at);
        let at = at as usize;

        let mut units_at = Vec::new();
        for pattern in &self.list {
            units_at.push(block.end());
            pattern.units.iter().for_each(|unit| block.push_u16(*unit));
            pattern.fallbacks().into_iter().for_each(|place| block.push_u16(place));
        }
        let patterns_at = block.align();
        for (pattern, units) in self.list.iter().zip(units_at) {
            let short = |count: usize| u16::try_from(count).expect("at most MAX_PATTERN_UNITS");
            let first = pattern.units.iter().position(|unit| *unit == STAR);
            let last = pattern.units.iter().rposition(|unit| *unit == STAR);
            block.push_u32(units);
            block.push_u16(short(pattern.units.len()));
            block.push_u16(short(first.unwrap_or(pattern.units.len())));
            block.push_u16(short(last.map_or(0, |last| last + 1)));
            block.push_u16(if pattern.on_volume { pattern::ON_VOLUME } else { 0 });
        }
        debug_assert_eq!(block.0.len(), patterns_at as usize + self.list.len() * pattern::LEN);
        block.set_table(at + apps::PATTERNS, patterns_at, self.list.len());

        let members: Vec<u32> = general.iter().chain(buckets.iter().flatten()).copied().collect();
        let members_at = block.align();
        for member in &members {
            block.push_u32(*member);
        }
        block.set_table(at + apps::MEMBERS, members_at, members.len());
        block.set(at + apps::GENERAL, number(general.len()));
        let buckets_at = block.align();
        let mut start = number(general.len());
        for bucket in &buckets {
            block.push_u32(start);
            block.push_u32(number(bucket.len()));
            start += number(bucket.len());
        }
        block.set_table(at + apps::BUCKETS, buckets_at, buckets.len());

        let fold: Vec<u16> =
            (0..=u16::MAX).zip(fold::table()).map(|(unit, folded)| folded.wrapping_sub(unit)).collect();
        let mut pages: Vec<&[u16]> = Vec::new();
        let fold_at = block.align();
        for page in fold.chunks(256) {
            let number = pages.iter().position(|known| *known == page).unwrap_or_else(|| {
                pages.push(page);
                pages.len() - 1
            });
            block.push_u16(u16::try_from(number).expect("256 pages at most"));
        }
        for unit in pages.iter().copied().flatten() {
            block.push_u16(*unit);
        }
        block.set_table(at + apps::FOLD, fold_at, pages.len());
        Ok(())
    }
}

impl Pattern {
    /// The file name, if the pattern spells it out.
    fn file_name(&self) -> Option<&[u16]> {
        let tail = self.units.rsplit(|unit| *unit == STAR).next()?;
        let wild = tail.len() < self.units.len();
        let slash = tail.iter().rposition(|unit| *unit == u16::from(b'\\'));
        match slash {
            Some(slash) => Some(&tail[slash + 1..]),
            None if wild => None,
            None => Some(tail),
        }
    }

    /// For each unit between wildcards, where to go on when it does not match: after the longest end of what
    /// matched that is a beginning too (Knuth, Morris and Pratt).
    fn fallbacks(&self) -> Vec<u16> {
        let mut out = vec![NO_FALLBACK; self.units.len()];
        let mut start = 0;
        for piece in self.units.split(|unit| *unit == STAR) {
            let mut border = 0;
            for place in 1..piece.len() {
                out[start + place] = u16::try_from(start + border).expect("at most MAX_PATTERN_UNITS");
                while border > 0 && piece[border] != piece[place] {
                    border = usize::from(out[start + border]) - start;
                }
                if piece[border] == piece[place] {
                    border += 1;
                }
            }
            start += piece.len() + 1;
        }
        out
    }
}

/// Writes rules, lists and names.
fn rules(block: &mut Block, policy: &Policy, patterns: &Patterns<'_>) {
    if policy.rules.is_empty() {
        return;
    }
    let rules_at = block.align();
    block.0.resize(rules_at as usize + policy.rules.len() * rule::LEN, 0);
    block.set_table(header::RULES, rules_at, policy.rules.len());

    // The lists start with four bytes of nothing, so that none of them is at an offset that means "any".
    let lists_at = block.align();
    block.push_u32(0);
    let mut lists: HashMap<Vec<u8>, u32> = HashMap::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        let at = rules_at as usize + index * rule::LEN;
        let mut list = |field: usize, bytes: Option<Vec<u8>>| {
            let Some(bytes) = bytes else { return };
            let offset = lists.get(&bytes).copied().unwrap_or_else(|| {
                let offset = block.end();
                block.0.extend_from_slice(&bytes);
                lists.insert(bytes, offset);
                offset
            });
            block.set(at + field, offset);
        };
        list(
            rule::PROTOCOLS,
            rule.protocols.map(|set| set.0.iter().flat_map(|word| word.to_le_bytes()).collect()),
        );
        list(rule::LOCAL, rule.local.as_ref().map(address_list));
        list(rule::REMOTE, rule.remote.as_ref().map(address_list));
        list(rule::LOCAL_PORTS, rule.local_ports.as_ref().map(|ports| port_list(ports)));
        list(rule::REMOTE_PORTS, rule.remote_ports.as_ref().map(|ports| port_list(ports)));
        list(rule::APPS, rule.apps.as_ref().map(|apps| app_list(apps, patterns)));
        block.0[at + rule::ACTION] = rule.action as u8;
        block.0[at + rule::DIRECTIONS] = rule.directions;
        block.0[at + rule::FAMILIES] = rule.families();
    }
    let length = block.end() - lists_at;
    block.set(header::LISTS, lists_at);
    block.set(header::LISTS + 4, length);

    let names_at = block.align();
    for (index, rule) in policy.rules.iter().enumerate() {
        let at = rules_at as usize + index * rule::LEN;
        let offset = block.end();
        block.set(at + rule::NAME, offset);
        let length = u16::try_from(rule.name.len()).expect("at most MAX_NAME");
        block.0[at + rule::NAME_LEN..][..2].copy_from_slice(&length.to_le_bytes());
        block.0.extend_from_slice(rule.name.as_bytes());
    }
    let length = block.end() - names_at;
    block.set(header::NAMES, names_at);
    block.set(header::NAMES + 4, length);
}

fn address_list(addresses: &Addresses) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&number(addresses.v4.len()).to_le_bytes());
    out.extend_from_slice(&number(addresses.v6.len()).to_le_bytes());
    for (first, last) in &addresses.v4 {
        first.push(&mut out);
        last.push(&mut out);
    }
    for (first, last) in &addresses.v6 {
        first.push(&mut out);
        last.push(&mut out);
    }
    out
}

fn port_list(ports: &[(u16, u16)]) -> Vec<u8> {
    let mut out = number(ports.len()).to_le_bytes().to_vec();
    for (first, last) in ports {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
    out
}

fn app_list(apps: &[Pattern], patterns: &Patterns<'_>) -> Vec<u8> {
    let mut out = number(apps.len()).to_le_bytes().to_vec();
    out.extend(apps.iter().flat_map(|app| patterns.number(app).to_le_bytes()));
    out
}
