//! The look-up: which rule decides a connection, in place and in a bounded number of steps (see
//! [`format`](mod@super::format)). Any IRQL; no memory, no lock, no wait.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::app::Apps;
use super::format::{
    self, Address, MAX_GROUPS, MAX_PROBES, MAX_WORDS, entry, field, group, item, offset_at, partition, slot,
    u8_at, u16_at, u32_at,
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
        let partition = self.bytes().get(at..)?.first_chunk()?;
        let search = Search::<A> { bytes: self.bytes(), partition, key: Key::of(tuple) };
        let mut best = NONE;
        let words = offset_at(partition, partition::WORDS)?;
        if words != 0 {
            let mut apps = [[0; 8]; MAX_WORDS];
            let app = search.app_row(words, self.apps(), tuple, &mut apps)?;
            best = search.vector(words, app)?;
        }
        if u32_at(partition, partition::GROUPS.wrapping_add(4))? != 0 {
            best = search.hashed(best)?;
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

/// A look-up in one partition. Records are taken out of the image whole, with one check each: what is read of
/// them then lies in them by its type.
struct Search<'a, A> {
    bytes: &'a [u8],
    partition: &'a [u8; partition::LEN],
    key: Key<A>,
}

impl<'a, A: Address> Search<'a, A> {
    /// The first rule whose bit is set in the rows of all fields.
    #[inline]
    fn vector(&self, words: usize, app: Row<'_>) -> Option<u32> {
        let [local, remote, local_port, remote_port, protocol] =
            self.rows(partition::VECTOR_FIELDS, words)?;
        let rows = local.iter().zip(remote).zip(local_port).zip(remote_port).zip(protocol).zip(app);
        for ((((((a, b), c), d), e), f), word) in rows.zip(0_u32..) {
            let bits =
                [a, b, c, d, e, f].into_iter().fold(u64::MAX, |bits, word| bits & u64::from_le_bytes(*word));
            if bits != 0 {
                let bit = word.wrapping_mul(64).wrapping_add(bits.trailing_zeros());
                let table = offset_at(self.partition, partition::VECTOR_RULES)?;
                return u32_at(self.bytes, item(table, bit as usize, 4));
            }
        }
        Some(NONE)
    }

    /// The lowest rule below `best` in the groups, else `best`.
    #[inline]
    fn hashed(&self, mut best: u32) -> Option<u32> {
        let rows = self.rows(partition::HASHED_FIELDS, 1)?;
        let mut candidates = u64::MAX;
        for row in rows {
            candidates &= u64::from_le_bytes(*row.first()?);
        }
        let groups = offset_at(self.partition, partition::GROUPS)?;
        let slots = offset_at(self.partition, partition::SLOTS)?;
        let entries = offset_at(self.partition, partition::ENTRIES)?;
        for _ in 0..MAX_GROUPS {
            if candidates == 0 {
                break;
            }
            let group = self.record(item(groups, candidates.trailing_zeros() as usize, group::LEN))?;
            candidates &= candidates.wrapping_sub(1);
            if u32_at(group, group::FIRST)? >= best {
                break;
            }
            best = self.probe(group, slots, entries, best)?;
        }
        Some(best)
    }

    #[inline]
    fn probe(&self, group: &[u8; group::LEN], slots: usize, entries: usize, best: u32) -> Option<u32> {
        let base = offset_at(group, group::BASE)?;
        let mask = offset_at(group, group::MASK)?;
        let masked = |address: Option<A>, len: usize| -> Option<u64> {
            let len = u8_at(group, len)?;
            Some(address.map_or(0, |address| address.masked(len).fold()))
        };
        let local = masked(self.key.local, group::LOCAL_LEN)?;
        let remote = masked(self.key.remote, group::REMOTE_LEN)?;
        let key = u8_at(group, group::KEY)?;
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
            let slot: &[u8; slot::LEN] =
                self.record(item(slots, base.wrapping_add(place & mask), slot::LEN))?;
            let count = u16_at(slot, slot::COUNT)?;
            if count == 0 {
                break;
            }
            if u16_at(slot, slot::TAG)? == tag {
                let start = offset_at(slot, slot::START)?;
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
            let (addresses, tail) = self.bytes.get(at..at.wrapping_add(length))?.split_last_chunk()?;
            let rule = u32_at(tail, entry::RULE)?;
            if rule >= best {
                break;
            }
            if self.matches(addresses, tail)? {
                return Some(rule);
            }
        }
        Some(best)
    }

    #[inline]
    fn matches(&self, addresses: &[u8], tail: &[u8; entry::TAIL]) -> Option<bool> {
        let named = u8_at(tail, entry::NAMED)?;
        let address = |key: Option<A>, at: usize, len: usize, bit: u8| -> Option<bool> {
            match key {
                Some(key) => Some(key.masked(u8_at(tail, len)?) == A::read(addresses, at)?),
                None => Some(named & bit == 0),
            }
        };
        let port = |key: Option<u16>, first: usize, bit: u8| -> Option<bool> {
            if named & bit == 0 {
                return Some(true);
            }
            let (first, last) = (u16_at(tail, first)?, u16_at(tail, first.wrapping_add(2))?);
            Some(key.is_some_and(|key| first <= key && key <= last))
        };
        Some(
            address(self.key.remote, A::SIZE, entry::REMOTE_LEN, entry::NAMES_REMOTE)?
                && address(self.key.local, 0, entry::LOCAL_LEN, entry::NAMES_LOCAL)?
                && port(self.key.remote_port, entry::REMOTE_FIRST, entry::NAMES_REMOTE_PORT)?
                && port(self.key.local_port, entry::LOCAL_FIRST, entry::NAMES_LOCAL_PORT)?
                && (named & entry::NAMES_PROTOCOL == 0
                    || self.key.protocol == Some(u8_at(tail, entry::PROTOCOL)?)),
        )
    }

    /// The record at `at`.
    #[inline]
    fn record<const LEN: usize>(&self, at: usize) -> Option<&'a [u8; LEN]> {
        self.bytes.get(at..)?.first_chunk()
    }

    /// The rows of local and remote address, local and remote port, and protocol, of the fields at `fields`.
    #[inline]
    fn rows(&self, fields: usize, words: usize) -> Option<[Row<'a>; 5]> {
        let field = |place: usize| self.field(item(fields, place, field::LEN));
        let (local, remote) = (field(partition::LOCAL)?, field(partition::REMOTE)?);
        let (local_port, remote_port) = (field(partition::LOCAL_PORT)?, field(partition::REMOTE_PORT)?);
        let protocol = field(partition::PROTOCOL)?;
        Some([
            self.row(local, words, self.key.local.and_then(|address| self.address(local, address)))?,
            self.row(remote, words, self.key.remote.and_then(|address| self.address(remote, address)))?,
            self.row(local_port, words, self.key.local_port.and_then(|port| self.port(local_port, port)))?,
            self.row(remote_port, words, self.key.remote_port.and_then(|port| self.port(remote_port, port)))?,
            self.row(protocol, words, self.key.protocol.and_then(|number| self.protocol(protocol, number)))?,
        ])
    }

    /// The field at `at` of the partition.
    #[inline]
    fn field(&self, at: usize) -> Option<&'a [u8; field::LEN]> {
        self.partition.get(at..)?.first_chunk()
    }

    /// A row by its number; without one, the value is EMPTY.
    #[inline]
    fn row(&self, field: &[u8; field::LEN], words: usize, number: Option<usize>) -> Option<Row<'a>> {
        let number = match number {
            Some(number) => number,
            None => offset_at(field, field::EMPTY)?,
        };
        let length = words.wrapping_mul(8);
        let start = item(offset_at(field, field::ROWS)?, number, length);
        Some(self.bytes.get(start..start.wrapping_add(length))?.as_chunks().0)
    }

    #[inline]
    fn protocol(&self, field: &[u8; field::LEN], protocol: u8) -> Option<usize> {
        let map = offset_at(field, field::MAP)?;
        u16_at(self.bytes, item(map, usize::from(protocol), 2)).map(usize::from)
    }

    #[inline]
    fn port(&self, field: &[u8; field::LEN], port: u16) -> Option<usize> {
        let map = offset_at(field, field::MAP)?;
        let [low, high] = port.to_le_bytes();
        let page = u16_at(self.bytes, item(map, usize::from(high), 2))?;
        let place = usize::from(page).wrapping_add(1).wrapping_mul(256).wrapping_add(usize::from(low));
        u16_at(self.bytes, item(map, place, 2)).map(usize::from)
    }

    /// The row of the last cut that is not above `address`.
    #[inline]
    fn address(&self, field: &[u8; field::LEN], address: A) -> Option<usize> {
        let length = A::SIZE.wrapping_add(4);
        let cuts = offset_at(field, field::MAP)?;
        let steps = offset_at(field, field::INDEX_COUNT)?.wrapping_sub(2);
        let base = A::read(self.bytes, cuts.wrapping_add(length)).unwrap_or(address);
        let step = address.step(base, u32_at(field, field::SHIFT)?).min(steps);
        let enclosing: &[u8; 8] = self.record(item(offset_at(field, field::INDEX)?, step, 4))?;
        let (mut low, high) = (offset_at(enclosing, 0)?, offset_at(enclosing, 4)?);
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
        words: usize,
        apps: Option<usize>,
        tuple: &Tuple<'_>,
        out: &'r mut [[u8; 8]; MAX_WORDS],
    ) -> Option<Row<'r>>
    where
        'a: 'r,
    {
        let field = self.field(item(partition::VECTOR_FIELDS, partition::APP, field::LEN))?;
        let any = self.row(field, words, None)?;
        let map = offset_at(field, field::MAP)?;
        let (Some(app), Some(apps), true) = (tuple.app, apps, map != 0) else {
            return Some(any);
        };
        for (out, any) in out.iter_mut().zip(any) {
            *out = *any;
        }
        let rows = offset_at(field, field::ROWS)?;
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
