//! The look-up: which rule decides a connection, in place and in a bounded number of steps (see
//! [`format`](mod@super::format)). Any IRQL; no memory, no lock, no wait.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::app::Apps;
use super::format::{
    self, Address, MAX_GROUPS, MAX_PROBES, MAX_WORDS, entry, field, group, item, offset_at, partition, slot, u8_at,
    u16_at, u32_at,
};
use super::image::Image;
use super::{Decision, Family, Tuple};

/// A row: little-endian words of one bit for each rule or group.
type Row<'a> = &'a [[u8; 8]];

/// No rule.
const NONE: u32 = u32::MAX;

impl Image<'_> {
    /// What the policy says of a connection: the first rule in file order that matches it, else the default.
    #[inline]
    pub fn decide(&self, tuple: &Tuple<'_>) -> Decision {
        let found = match tuple.family {
            Family::V4 => self.find::<u32>(tuple),
            Family::V6 => self.find::<u128>(tuple),
        };
        match found.and_then(|index| self.rule(index)) {
            Some(rule) => Decision { action: rule.action(), rule: Some(rule.index) },
            None => Decision { action: self.default_action(), rule: None },
        }
    }

    fn find<A: Address>(&self, tuple: &Tuple<'_>) -> Option<u32> {
        let at = self.partition(tuple.direction, tuple.family)?;
        let search = Search::<A> { bytes: self.bytes(), key: Key::of(tuple) };
        let mut best = NONE;
        let words = offset_at(self.bytes(), at.wrapping_add(partition::WORDS))?;
        if words != 0 {
            let mut apps = [[0; 8]; MAX_WORDS];
            let app = search.app_row(at, words, self.apps(), tuple, &mut apps)?;
            best = search.vector(at, words, app)?;
        }
        let groups = offset_at(self.bytes(), at.wrapping_add(partition::GROUPS).wrapping_add(4))?;
        if groups != 0 {
            best = search.hashed(at, best)?;
        }
        Some(best)
    }
}

struct Key<A> {
    local: Option<A>,
    remote: Option<A>,
    local_port: Option<u16>,
    remote_port: Option<u16>,
    protocol: Option<u8>,
}

impl<A: Address> Key<A> {
    #[inline]
    fn of(tuple: &Tuple<'_>) -> Self {
        let (local_port, remote_port) = tuple.ports();
        let address = |wire: &Option<[u8; 16]>| wire.as_ref().map(A::of);
        Self {
            local: address(&tuple.local),
            remote: address(&tuple.remote),
            local_port,
            remote_port,
            protocol: tuple.protocol,
        }
    }
}

struct Search<'a, A> {
    bytes: &'a [u8],
    key: Key<A>,
}

impl<'a, A: Address> Search<'a, A> {
    /// The first rule whose bit is set in the rows of all fields.
    #[inline]
    fn vector(&self, at: usize, words: usize, app: Row<'_>) -> Option<u32> {
        let [local, remote, local_port, remote_port, protocol] =
            self.rows(at.wrapping_add(partition::VECTOR_FIELDS), words)?;
        let rows = local.iter().zip(remote).zip(local_port).zip(remote_port).zip(protocol).zip(app);
        for ((((((a, b), c), d), e), f), word) in rows.zip(0_u32..) {
            let bits = [a, b, c, d, e, f].into_iter().fold(u64::MAX, |bits, word| bits & u64::from_le_bytes(*word));
            if bits != 0 {
                let bit = word.wrapping_mul(64).wrapping_add(bits.trailing_zeros());
                let table = offset_at(self.bytes, at.wrapping_add(partition::VECTOR_RULES))?;
                return u32_at(self.bytes, item(table, bit as usize, 4));
            }
        }
        Some(NONE)
    }

    /// The lowest rule below `best` in the groups, else `best`.
    #[inline]
    fn hashed(&self, at: usize, mut best: u32) -> Option<u32> {
        let rows = self.rows(at.wrapping_add(partition::HASHED_FIELDS), 1)?;
        let mut candidates = u64::MAX;
        for row in rows {
            candidates &= u64::from_le_bytes(*row.first()?);
        }
        let groups = offset_at(self.bytes, at.wrapping_add(partition::GROUPS))?;
        let slots = offset_at(self.bytes, at.wrapping_add(partition::SLOTS))?;
        let entries = offset_at(self.bytes, at.wrapping_add(partition::ENTRIES))?;
        for _ in 0..MAX_GROUPS {
            if candidates == 0 {
                break;
            }
            let group = item(groups, candidates.trailing_zeros() as usize, group::LEN);
            candidates &= candidates.wrapping_sub(1);
            if u32_at(self.bytes, group.wrapping_add(group::FIRST))? >= best {
                break;
            }
            best = self.probe(group, slots, entries, best)?;
        }
        Some(best)
    }

    #[inline]
    fn probe(&self, group: usize, slots: usize, entries: usize, best: u32) -> Option<u32> {
        let base = offset_at(self.bytes, group.wrapping_add(group::BASE))?;
        let mask = offset_at(self.bytes, group.wrapping_add(group::MASK))?;
        let masked = |address: Option<A>, len: usize| -> Option<u64> {
            let len = u8_at(self.bytes, group.wrapping_add(len))?;
            Some(address.map_or(0, |address| address.masked(len).fold()))
        };
        let local = masked(self.key.local, group::LOCAL_LEN)?;
        let remote = masked(self.key.remote, group::REMOTE_LEN)?;
        let key = u8_at(self.bytes, group.wrapping_add(group::KEY))?;
        let rest = format::key_rest(
            self.key.local_port.unwrap_or(0),
            self.key.remote_port.unwrap_or(0),
            self.key.protocol.unwrap_or(0),
            key,
        );
        let [t0, t1, _, _, h0, h1, h2, h3] = format::key_hash(local, remote, rest).to_le_bytes();
        let tag = u16::from_le_bytes([t0, t1]);
        let mut place = u32::from_le_bytes([h0, h1, h2, h3]) as usize;
        for _ in 0..MAX_PROBES {
            let slot = item(slots, base.wrapping_add(place & mask), slot::LEN);
            let count = u16_at(self.bytes, slot.wrapping_add(slot::COUNT))?;
            if count == 0 {
                break;
            }
            if u16_at(self.bytes, slot.wrapping_add(slot::TAG))? == tag {
                let start = offset_at(self.bytes, slot.wrapping_add(slot::START))?;
                let found = self.bucket(entries, start, count.min(format::MAX_BUCKET), best)?;
                if found < best {
                    return Some(found);
                }
            }
            place = place.wrapping_add(1);
        }
        Some(best)
    }

    /// The first entry of a bucket that matches, if its rule is below `best`. Entries ascend by rule.
    #[inline]
    fn bucket(&self, entries: usize, start: usize, count: u16, best: u32) -> Option<u32> {
        let length = entry::len(A::SIZE);
        for place in 0..usize::from(count) {
            let at = item(entries, start.wrapping_add(place), length);
            let rule = u32_at(self.bytes, item(at, 2, A::SIZE).wrapping_add(entry::RULE))?;
            if rule >= best {
                break;
            }
            if self.matches(at)? {
                return Some(rule);
            }
        }
        Some(best)
    }

    #[inline]
    fn matches(&self, at: usize) -> Option<bool> {
        let tail = item(at, 2, A::SIZE);
        let named = u8_at(self.bytes, tail.wrapping_add(entry::NAMED))?;
        let address = |key: Option<A>, at: usize, len: usize, bit: u8| -> Option<bool> {
            match key {
                Some(key) => {
                    let len = u8_at(self.bytes, tail.wrapping_add(len))?;
                    Some(key.masked(len) == A::read(self.bytes, at)?)
                }
                None => Some(named & bit == 0),
            }
        };
        let port = |key: Option<u16>, first: usize, bit: u8| -> Option<bool> {
            if named & bit == 0 {
                return Some(true);
            }
            let first = tail.wrapping_add(first);
            let last = u16_at(self.bytes, first.wrapping_add(2))?;
            let first = u16_at(self.bytes, first)?;
            Some(key.is_some_and(|key| first <= key && key <= last))
        };
        Some(
            address(self.key.remote, at.wrapping_add(A::SIZE), entry::REMOTE_LEN, entry::NAMES_REMOTE)?
                && address(self.key.local, at, entry::LOCAL_LEN, entry::NAMES_LOCAL)?
                && port(self.key.remote_port, entry::REMOTE_FIRST, entry::NAMES_REMOTE_PORT)?
                && port(self.key.local_port, entry::LOCAL_FIRST, entry::NAMES_LOCAL_PORT)?
                && (named & entry::NAMES_PROTOCOL == 0
                    || self.key.protocol == Some(u8_at(self.bytes, tail.wrapping_add(entry::PROTOCOL))?)),
        )
    }

    /// The rows of local and remote address, local and remote port, and protocol.
    #[inline]
    fn rows(&self, at: usize, words: usize) -> Option<[Row<'a>; 5]> {
        let field = |place: usize| item(at, place, field::LEN);
        Some([
            self.row(field(partition::LOCAL), words, |map| self.address(map, self.key.local?))?,
            self.row(field(partition::REMOTE), words, |map| self.address(map, self.key.remote?))?,
            self.row(field(partition::LOCAL_PORT), words, |map| self.port(map, self.key.local_port?))?,
            self.row(field(partition::REMOTE_PORT), words, |map| self.port(map, self.key.remote_port?))?,
            self.row(field(partition::PROTOCOL), words, |map| {
                let map = offset_at(self.bytes, map.wrapping_add(field::MAP))?;
                u16_at(self.bytes, item(map, usize::from(self.key.protocol?), 2)).map(usize::from)
            })?,
        ])
    }

    /// The row that `find` numbers; where it finds none, the value is EMPTY.
    #[inline]
    fn row(&self, field: usize, words: usize, find: impl FnOnce(usize) -> Option<usize>) -> Option<Row<'a>> {
        let number = match find(field) {
            Some(number) => number,
            None => offset_at(self.bytes, field.wrapping_add(field::EMPTY))?,
        };
        let rows = offset_at(self.bytes, field.wrapping_add(field::ROWS))?;
        let length = words.wrapping_mul(8);
        let start = item(rows, number, length);
        Some(self.bytes.get(start..start.wrapping_add(length))?.as_chunks().0)
    }

    #[inline]
    fn port(&self, field: usize, port: u16) -> Option<usize> {
        let map = offset_at(self.bytes, field.wrapping_add(field::MAP))?;
        let [low, high] = port.to_le_bytes();
        let page = u16_at(self.bytes, item(map, usize::from(high), 2))?;
        let place = usize::from(page).wrapping_add(1).wrapping_mul(256).wrapping_add(usize::from(low));
        u16_at(self.bytes, item(map, place, 2)).map(usize::from)
    }

    /// The row of the last cut that is not above `address`.
    #[inline]
    fn address(&self, field: usize, address: A) -> Option<usize> {
        let length = A::SIZE.wrapping_add(4);
        let cuts = offset_at(self.bytes, field.wrapping_add(field::MAP))?;
        let index = offset_at(self.bytes, field.wrapping_add(field::INDEX))?;
        let steps = offset_at(self.bytes, field.wrapping_add(field::INDEX_COUNT))?.wrapping_sub(2);
        let shift = u32_at(self.bytes, field.wrapping_add(field::SHIFT))?;
        let base = A::read(self.bytes, cuts.wrapping_add(length)).unwrap_or(address);
        let step = address.step(base, shift).min(steps);
        let mut low = offset_at(self.bytes, item(index, step, 4))?;
        let high = offset_at(self.bytes, item(index, step.wrapping_add(1), 4))?;
        let mut span = high.wrapping_sub(low).wrapping_add(1);
        while span > 1 {
            let half = span.wrapping_shr(1);
            let middle = low.wrapping_add(half);
            if A::read(self.bytes, item(cuts, middle, length))? <= address {
                low = middle;
            }
            span = span.wrapping_sub(half);
        }
        offset_at(self.bytes, item(cuts, low, length).wrapping_add(A::SIZE))
    }

    /// The rules that do not name an application, and those of which a pattern matches: `None` if damaged.
    #[inline]
    fn app_row<'r>(
        &self,
        at: usize,
        words: usize,
        apps: Option<usize>,
        tuple: &Tuple<'_>,
        out: &'r mut [[u8; 8]; MAX_WORDS],
    ) -> Option<Row<'r>>
    where
        'a: 'r,
    {
        let field = item(at.wrapping_add(partition::VECTOR_FIELDS), partition::APP, field::LEN);
        let any = self.row(field, words, |_| None)?;
        let map = offset_at(self.bytes, field.wrapping_add(field::MAP))?;
        let (Some(app), Some(apps), true) = (tuple.app, apps, map != 0) else {
            return Some(any);
        };
        for (out, any) in out.iter_mut().zip(any) {
            *out = *any;
        }
        let rows = offset_at(self.bytes, field.wrapping_add(field::ROWS))?;
        Apps::new(self.bytes, apps).matching(app, |number| {
            let row = offset_at(self.bytes, item(map, number as usize, 4)).unwrap_or(0);
            for (word, out) in out.iter_mut().take(words).enumerate() {
                let start = item(item(rows, row, words.wrapping_mul(8)), word, 8);
                if let Some(bits) = self.bytes.get(start..).and_then(<[u8]>::first_chunk) {
                    *out = (u64::from_le_bytes(*out) | u64::from_le_bytes(*bits)).to_le_bytes();
                }
            }
        })?;
        out.get(..words)
    }
}
