//! The policy image: validation, and the typed view that everything else reads through.
//!
//! [`Image::validate`] looks at every byte that a look-up can reach, once, with bounds; it takes time and may
//! run at any IRQL but belongs at PASSIVE_LEVEL. Everything after it is bounded and allocates nothing. Safety
//! does not hang on it: every read is checked again, so that a damaged image gives wrong answers, never a
//! wild read.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::format::{
    self, ANY, Address, MAX_APP_CANDIDATES, MAX_BUCKET, MAX_ENTRIES, MAX_GROUPS, MAX_IMAGE, MAX_NAME,
    MAX_PATTERN_UNITS, MAX_PATTERNS, MAX_PROBES, MAX_RULES, MAX_WORDS, NO_FALLBACK, STAR, apps, entry, field,
    group, header, item, offset_at, partition, pattern, rule, slot, u8_at, u16_at, u32_at,
};
use super::{Action, Direction, Family};
use crc::{CRC_32_ISCSI, Crc};

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The checksum of an image: CRC-32C of everything after the checksum field. It tells damage, not forgery:
/// who may hand an image to the driver is for the registry's DACL and the control session to decide.
pub fn checksum(image: &[u8]) -> u32 {
    CRC.checksum(image.get(header::CHECKED..).unwrap_or_default())
}

/// Which part of an image is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Not a policy image.
    Magic,
    /// Of a version that this driver does not read.
    Version,
    /// Truncated, longer than it says, or over the limit.
    Length,
    /// Damaged.
    Checksum,
    /// A header field.
    Header,
    /// A rule.
    Rule,
    /// A rule's list of values.
    List,
    /// A rule's name.
    Name,
    /// The applications' section.
    Apps,
    /// A partition.
    Partition,
    /// A field's map.
    Field,
    /// A group of the hashed part.
    Group,
    /// A slot of a group.
    Slot,
    /// An entry of a bucket.
    Entry,
}

/// Why an image was refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong.
    pub what: What,
    /// Byte offset in the image.
    pub offset: usize,
}

impl Invalid {
    /// The NTSTATUS to refuse the image with: STATUS_REVISION_MISMATCH, STATUS_CRC_ERROR or
    /// STATUS_DATA_ERROR.
    pub const fn status(&self) -> i32 {
        match self.what {
            What::Version => 0xC000_0059_u32.cast_signed(),
            What::Checksum => 0xC000_003F_u32.cast_signed(),
            _ => 0xC000_003E_u32.cast_signed(),
        }
    }
}

/// Counts over an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes.
    pub bytes: u32,
    /// Rules.
    pub rules: u32,
    /// Distinct partitions.
    pub partitions: u32,
    /// Rules in bit-vector parts.
    pub vector_rules: u32,
    /// Groups, and entries in them.
    pub groups: u32,
    pub entries: u32,
    /// Distinct application patterns.
    pub patterns: u32,
    /// Upper bound of the steps of any look-up, as counted in [`format`](mod@format).
    pub steps: u32,
}

/// A policy image. Copies are cheap: it is one slice.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
}

/// One rule of an image.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Its place in the file, from 0.
    pub index: u32,
}

impl<'a> Image<'a> {
    /// Checks a whole image. What passes is looked up in a bounded number of steps and answers as its tables
    /// say.
    pub fn validate(bytes: &'a [u8]) -> Result<Self, Invalid> {
        Validator { bytes, stats: Stats::default(), app_steps: 0 }.image()?;
        Ok(Self { bytes })
    }

    /// Validates and counts.
    pub fn validate_with_stats(bytes: &'a [u8]) -> Result<(Self, Stats), Invalid> {
        let stats = Validator { bytes, stats: Stats::default(), app_steps: 0 }.image()?;
        Ok((Self { bytes }, stats))
    }

    /// The view of bytes that [`validate`](Self::validate) has passed before, without the cost of passing
    /// them again. With other bytes it is a view that gives wrong answers, and nothing worse.
    #[inline]
    pub const fn assume_valid(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The bytes.
    #[inline]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The operator's number for this policy.
    pub fn generation(&self) -> u32 {
        u32_at(self.bytes, header::GENERATION).unwrap_or(0)
    }

    /// SHA-256 of the text that the policy was compiled from.
    pub fn digest(&self) -> [u8; 32] {
        self.bytes.get(header::DIGEST..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
    }

    /// What is done with a connection that no rule matches. A damaged image blocks.
    #[inline]
    pub fn default_action(&self) -> Action {
        u8_at(self.bytes, header::DEFAULT).and_then(Action::from_byte).unwrap_or(Action::Block)
    }

    /// Count of rules.
    pub fn rule_count(&self) -> u32 {
        u32_at(self.bytes, header::RULES.wrapping_add(4)).unwrap_or(0)
    }

    /// The rule at `index`, counted from 0 in file order.
    pub fn rule(&self, index: u32) -> Option<Rule<'a>> {
        if index >= self.rule_count() {
            return None;
        }
        let at = item(offset_at(self.bytes, header::RULES)?, index as usize, rule::LEN);
        Some(Rule { bytes: self.bytes, at, index })
    }

    /// All rules in file order.
    pub fn rules(&self) -> impl Iterator<Item = Rule<'a>> + use<'a> {
        let image = *self;
        (0..self.rule_count()).map_while(move |index| image.rule(index))
    }

    /// Offset of the partition for a direction and family; `None` if no rule applies there.
    #[inline]
    pub(super) fn partition(&self, direction: Direction, family: Family) -> Option<usize> {
        let place = (direction as usize).wrapping_add((family as usize).wrapping_mul(2));
        offset_at(self.bytes, item(header::PARTITIONS, place, 4)).filter(|at| *at != 0)
    }

    /// Offset of the applications' section.
    #[inline]
    pub(super) fn apps(&self) -> Option<usize> {
        offset_at(self.bytes, header::APPS).filter(|at| *at != 0)
    }
}

impl<'a> Rule<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        let name = || {
            let start = offset_at(self.bytes, self.at.wrapping_add(rule::NAME))?;
            let length = u16_at(self.bytes, self.at.wrapping_add(rule::NAME_LEN))?;
            self.bytes.get(start..start.wrapping_add(usize::from(length)))
        };
        name().and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// What it does with a connection that it matches. A damaged image blocks.
    #[inline]
    pub fn action(&self) -> Action {
        self.byte(rule::ACTION).and_then(Action::from_byte).unwrap_or(Action::Block)
    }

    /// Bit 0 in, bit 1 out.
    pub(super) fn directions(&self) -> u8 {
        self.byte(rule::DIRECTIONS).unwrap_or(0)
    }

    /// Offset of a list (`rule::PROTOCOLS` and so on); `ANY` if the rule does not name the field.
    pub(super) fn list(&self, list: usize) -> Option<u32> {
        u32_at(self.bytes, self.at.wrapping_add(list))
    }

    fn byte(&self, at: usize) -> Option<u8> {
        u8_at(self.bytes, self.at.wrapping_add(at))
    }
}

type Checked<T = ()> = Result<T, Invalid>;

struct Validator<'a> {
    bytes: &'a [u8],
    stats: Stats,
    /// Upper bound of the steps that it takes to match an application.
    app_steps: u32,
}

fn bad<T>(what: What, offset: usize) -> Checked<T> {
    Err(Invalid { what, offset })
}

fn check(holds: bool, what: What, offset: usize) -> Checked {
    if holds { Ok(()) } else { bad(what, offset) }
}

impl Validator<'_> {
    fn u8(&self, at: usize) -> Checked<u8> {
        u8_at(self.bytes, at).ok_or(Invalid { what: What::Length, offset: at })
    }

    fn u16(&self, at: usize) -> Checked<u16> {
        u16_at(self.bytes, at).ok_or(Invalid { what: What::Length, offset: at })
    }

    fn u32(&self, at: usize) -> Checked<u32> {
        u32_at(self.bytes, at).ok_or(Invalid { what: What::Length, offset: at })
    }

    fn usize(&self, at: usize) -> Checked<usize> {
        self.u32(at).map(|value| value as usize)
    }

    fn address<A: Address>(&self, at: usize) -> Checked<A> {
        A::read(self.bytes, at).ok_or(Invalid { what: What::Length, offset: at })
    }

    /// Whether `count` items of `len` bytes at `start` lie between the header and the end.
    fn table(&self, start: usize, count: usize, len: usize, what: What, at: usize) -> Checked {
        let end = count.checked_mul(len).and_then(|bytes| bytes.checked_add(start));
        check(start >= header::LEN && end.is_some_and(|end| end <= self.bytes.len()), what, at)
    }

    fn zero(&self, start: usize, end: usize, what: What) -> Checked {
        check(
            self.bytes.get(start..end).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)),
            what,
            start,
        )
    }

    fn image(mut self) -> Checked<Stats> {
        let length = self.bytes.len();
        check(self.bytes.first_chunk() == Some(&format::MAGIC), What::Magic, 0)?;
        check(u16_at(self.bytes, header::VERSION) == Some(format::VERSION), What::Version, header::VERSION)?;
        check((header::LEN..=MAX_IMAGE).contains(&length), What::Length, length)?;
        check(self.usize(header::LENGTH)? == length, What::Length, header::LENGTH)?;
        check(usize::from(self.u16(header::HEADER_LEN)?) == header::LEN, What::Header, header::HEADER_LEN)?;
        check(self.u32(header::CHECKSUM)? == checksum(self.bytes), What::Checksum, header::CHECKSUM)?;
        check(Action::from_byte(self.u8(header::DEFAULT)?).is_some(), What::Header, header::DEFAULT)?;
        self.zero(header::DEFAULT.wrapping_add(1), header::DIGEST, What::Header)?;
        self.zero(header::RESERVED, header::LEN, What::Header)?;
        self.stats.bytes = u32::try_from(length).unwrap_or(u32::MAX);

        let rules = self.u32(header::RULES.wrapping_add(4))?;
        check(rules <= MAX_RULES, What::Header, header::RULES)?;
        self.stats.rules = rules;
        let patterns = self.apps()?;
        if rules != 0 {
            self.rules(rules)?;
        }
        let mut seen = [0; 4];
        for (place, known) in (0..4_usize).zip(1_usize..) {
            let pointer = item(header::PARTITIONS, place, 4);
            let at = self.usize(pointer)?;
            if at == 0 {
                continue;
            }
            let twin = place & 2;
            if seen.iter().take(known).skip(twin).any(|earlier| *earlier == at) {
                continue;
            }
            if let Some(entry) = seen.get_mut(place) {
                *entry = at;
            }
            self.table(at, 1, partition::LEN, What::Partition, pointer)?;
            let steps = if place < 2 {
                self.partition::<u32>(at, rules, patterns)?
            } else {
                self.partition::<u128>(at, rules, patterns)?
            };
            self.stats.steps = self.stats.steps.max(steps);
        }
        Ok(self.stats)
    }

    fn rules(&self, count: u32) -> Checked {
        let start = self.usize(header::RULES)?;
        self.table(start, count as usize, rule::LEN, What::Header, header::RULES)?;
        let (lists, lists_len) = (self.usize(header::LISTS)?, self.usize(header::LISTS.wrapping_add(4))?);
        self.table(lists, lists_len, 1, What::Header, header::LISTS)?;
        let (names, names_len) = (self.usize(header::NAMES)?, self.usize(header::NAMES.wrapping_add(4))?);
        self.table(names, names_len, 1, What::Header, header::NAMES)?;
        let lists = lists..lists.wrapping_add(lists_len);
        let names = names..names.wrapping_add(names_len);
        for index in 0..count as usize {
            let at = item(start, index, rule::LEN);
            let here = |offset: usize| at.wrapping_add(offset);
            check(Action::from_byte(self.u8(here(rule::ACTION))?).is_some(), What::Rule, here(rule::ACTION))?;
            check(matches!(self.u8(here(rule::DIRECTIONS))?, 1..=3), What::Rule, here(rule::DIRECTIONS))?;
            check(self.u8(here(rule::FAMILIES))? <= 3, What::Rule, here(rule::FAMILIES))?;
            self.zero(here(rule::RESERVED), here(rule::PROTOCOLS), What::Rule)?;
            self.zero(here(rule::USERS), here(rule::LEN), What::Rule)?;

            let name = self.usize(here(rule::NAME))?;
            let name_end = name.saturating_add(usize::from(self.u16(here(rule::NAME_LEN))?));
            let text = self.bytes.get(name..name_end).filter(|name| (1..=MAX_NAME).contains(&name.len()));
            let inside = names.start <= name && name_end <= names.end;
            check(inside && text.is_some_and(|name| core::str::from_utf8(name).is_ok()), What::Name, at)?;

            for (list, field) in [
                (List::Protocols, rule::PROTOCOLS),
                (List::Addresses, rule::LOCAL),
                (List::Addresses, rule::REMOTE),
                (List::Items, rule::LOCAL_PORTS),
                (List::Items, rule::REMOTE_PORTS),
                (List::Items, rule::APPS),
            ] {
                let offset = self.u32(here(field))?;
                if offset == ANY {
                    continue;
                }
                let offset = offset as usize;
                check(lists.contains(&offset), What::List, here(field))?;
                let end = self.list(offset, lists.end, list)?;
                check(end <= lists.end, What::List, offset)?;
            }
        }
        Ok(())
    }

    /// Says where a list ends. Its values need no check: any are good.
    fn list(&self, at: usize, limit: usize, list: List) -> Checked<usize> {
        let body = at.wrapping_add(4);
        match list {
            List::Protocols => Ok(at.wrapping_add(32)),
            List::Addresses => {
                let (v4, v6) = (self.usize(at)?, self.usize(body)?);
                let v4_at = at.wrapping_add(8);
                let v6_at = v4_at.saturating_add(v4.saturating_mul(8));
                let end = v6_at.saturating_add(v6.saturating_mul(32));
                check(end <= limit && (v4 != 0 || v6 != 0), What::List, at)?;
                Ok(end)
            }
            List::Items => {
                let count = self.usize(at)?;
                let end = body.saturating_add(count.saturating_mul(4));
                check(end <= limit && count != 0, What::List, at)?;
                Ok(end)
            }
        }
    }

    /// Checks the applications' section and counts its patterns.
    fn apps(&mut self) -> Checked<u32> {
        let at = self.usize(header::APPS)?;
        if at == 0 {
            return Ok(0);
        }
        self.table(at, 1, apps::LEN, What::Apps, header::APPS)?;
        let here = |offset: usize| at.wrapping_add(offset);
        let pair = |offset: usize| -> Checked<(usize, usize)> {
            Ok((self.usize(here(offset))?, self.usize(here(offset.wrapping_add(4)))?))
        };

        let (fold, pages) = pair(apps::FOLD)?;
        check((1..=256).contains(&pages), What::Apps, here(apps::FOLD))?;
        self.table(fold, pages.wrapping_add(1), 512, What::Apps, here(apps::FOLD))?;
        for high in 0..256 {
            let page = item(fold, high, 2);
            check(usize::from(self.u16(page)?) < pages, What::Apps, page)?;
        }

        let (patterns, count) = pair(apps::PATTERNS)?;
        check(count <= MAX_PATTERNS as usize, What::Apps, here(apps::PATTERNS))?;
        self.table(patterns, count, pattern::LEN, What::Apps, here(apps::PATTERNS))?;
        for number in 0..count {
            self.pattern(item(patterns, number, pattern::LEN))?;
        }

        let (members, member_count) = pair(apps::MEMBERS)?;
        self.table(members, member_count, 4, What::Apps, here(apps::MEMBERS))?;
        for place in 0..member_count {
            let member = item(members, place, 4);
            check(self.usize(member)? < count, What::Apps, member)?;
        }
        let (buckets, bucket_count) = pair(apps::BUCKETS)?;
        check(bucket_count.is_power_of_two(), What::Apps, here(apps::BUCKETS))?;
        self.table(buckets, bucket_count, apps::BUCKET_LEN, What::Apps, here(apps::BUCKETS))?;
        let general = self.u32(here(apps::GENERAL))?;
        check(general as usize <= member_count, What::Apps, here(apps::GENERAL))?;
        let mut longest = 0;
        for place in 0..bucket_count {
            let bucket = item(buckets, place, apps::BUCKET_LEN);
            let (start, length) = (self.usize(bucket)?, self.u32(bucket.wrapping_add(4))?);
            let end = start.saturating_add(length as usize);
            check(end <= member_count, What::Apps, bucket)?;
            longest = longest.max(length);
        }
        let candidates = general.saturating_add(longest);
        check(candidates <= MAX_APP_CANDIDATES, What::Apps, here(apps::GENERAL))?;
        let units = u32::try_from(format::MAX_APP_UNITS).unwrap_or(u32::MAX);
        self.app_steps = candidates.saturating_mul(units).saturating_mul(3);
        self.stats.patterns = u32::try_from(count).unwrap_or(u32::MAX);
        Ok(self.stats.patterns)
    }

    fn pattern(&self, at: usize) -> Checked {
        let field = |offset: usize| self.u16(at.wrapping_add(offset)).map(usize::from);
        let units = self.usize(at.wrapping_add(pattern::UNITS))?;
        let (count, prefix, tail) = (field(pattern::COUNT)?, field(pattern::PREFIX)?, field(pattern::TAIL)?);
        check((1..=MAX_PATTERN_UNITS).contains(&count), What::Apps, at)?;
        self.table(units, count, 4, What::Apps, at)?;
        check(field(pattern::FLAGS)? <= usize::from(pattern::ON_VOLUME), What::Apps, at)?;
        let is_star = |place: usize| self.u16(item(units, place, 2)).map(|unit| unit == STAR);
        if tail == 0 {
            check(prefix == count, What::Apps, at)?;
        } else {
            check(prefix < tail && tail <= count, What::Apps, at)?;
            check(is_star(prefix)? && is_star(tail.wrapping_sub(1))?, What::Apps, at)?;
        }
        let mut after_star = false;
        for place in 0..count {
            let star = is_star(place)?;
            let between = (prefix..tail).contains(&place);
            check(!(star && (after_star || !between)), What::Apps, item(units, place, 2))?;
            after_star = star;
            let fallback = item(units, count.wrapping_add(place), 2);
            let back = self.u16(fallback)?;
            check(back == NO_FALLBACK || usize::from(back) < place, What::Apps, fallback)?;
        }
        Ok(())
    }

    /// Checks a partition, which lies within the image, and bounds the steps of a look-up in it.
    fn partition<A: Address>(&mut self, at: usize, rules: u32, patterns: u32) -> Checked<u32> {
        let here = |offset: usize| at.wrapping_add(offset);
        let mut steps = 0_u32;

        let words = self.usize(here(partition::WORDS))?;
        check(words <= MAX_WORDS, What::Partition, at)?;
        if words != 0 {
            let (table, count) = (
                self.usize(here(partition::VECTOR_RULES))?,
                self.usize(here(partition::VECTOR_RULES.wrapping_add(4)))?,
            );
            check(count <= words.wrapping_mul(64), What::Partition, at)?;
            self.table(table, count, 4, What::Partition, at)?;
            let mut last = None;
            for place in 0..count {
                let number = self.u32(item(table, place, 4))?;
                check(
                    number < rules && last.is_none_or(|last| last < number),
                    What::Partition,
                    item(table, place, 4),
                )?;
                last = Some(number);
            }
            steps = steps.saturating_add(self.fields::<A>(here(partition::VECTOR_FIELDS), words)?);
            steps = steps.saturating_add(u32::try_from(words).unwrap_or(u32::MAX));
            let app = here(partition::VECTOR_FIELDS.wrapping_add(partition::APP.wrapping_mul(field::LEN)));
            steps = steps.saturating_add(self.app_field(app, words, patterns)?);
            self.stats.vector_rules =
                self.stats.vector_rules.saturating_add(u32::try_from(count).unwrap_or(0));
        }

        let pair = |offset: usize| -> Checked<(usize, usize)> {
            Ok((self.usize(here(offset))?, self.usize(here(offset.wrapping_add(4)))?))
        };
        let (groups, group_count) = pair(partition::GROUPS)?;
        check(group_count <= MAX_GROUPS, What::Partition, here(partition::GROUPS))?;
        if group_count != 0 {
            let (slots, slot_count) = pair(partition::SLOTS)?;
            let (entries, entry_count) = pair(partition::ENTRIES)?;
            self.table(groups, group_count, group::LEN, What::Partition, here(partition::GROUPS))?;
            self.table(slots, slot_count, slot::LEN, What::Partition, here(partition::SLOTS))?;
            self.table(entries, entry_count, entry::len(A::SIZE), What::Partition, here(partition::ENTRIES))?;
            check(entry_count <= MAX_ENTRIES, What::Partition, here(partition::ENTRIES))?;
            steps = steps.saturating_add(self.fields::<A>(here(partition::HASHED_FIELDS), 1)?);
            let (mut first, mut base) = (0, 0_usize);
            for number in 0..group_count {
                let group = item(groups, number, group::LEN);
                // One after the other, so that no slot is in two groups and the check's cost is the image's
                // length.
                check(self.usize(group.wrapping_add(group::BASE))? == base, What::Group, group)?;
                base = base.saturating_add(self.usize(group.wrapping_add(group::MASK))?).saturating_add(1);
                check(first <= self.u32(group.wrapping_add(group::FIRST))?, What::Group, group)?;
                first = self.u32(group.wrapping_add(group::FIRST))?;
                steps = steps.saturating_add(self.group(group, slots, slot_count, entry_count, A::BITS)?);
            }
            for number in 0..entry_count {
                self.entry::<A>(item(entries, number, entry::len(A::SIZE)), rules)?;
            }
            self.stats.groups = self.stats.groups.saturating_add(u32::try_from(group_count).unwrap_or(0));
            self.stats.entries = self.stats.entries.saturating_add(u32::try_from(entry_count).unwrap_or(0));
        }
        self.stats.partitions = self.stats.partitions.saturating_add(1);
        Ok(steps)
    }

    fn group(&self, at: usize, slots: usize, slot_count: usize, entries: usize, bits: u8) -> Checked<u32> {
        let here = |offset: usize| at.wrapping_add(offset);
        let (base, mask) = (self.usize(here(group::BASE))?, self.usize(here(group::MASK))?);
        let count = mask.saturating_add(1);
        check(count.is_power_of_two() && base.saturating_add(count) <= slot_count, What::Group, at)?;
        check(
            self.u8(here(group::LOCAL_LEN))? <= bits && self.u8(here(group::REMOTE_LEN))? <= bits,
            What::Group,
            at,
        )?;
        check(self.u8(here(group::KEY))? < 8 && self.u8(here(15))? == 0, What::Group, here(group::KEY))?;
        let (mut longest_run, mut run, mut longest_bucket) = (0_u32, 0_u32, 0);
        // A run may go round the end: what stands at its start is counted again after it.
        for place in (0..count).chain(0..count.min(MAX_PROBES as usize)) {
            let slot = item(slots, base.wrapping_add(place), slot::LEN);
            let (start, length) =
                (self.usize(slot.wrapping_add(slot::START))?, self.u16(slot.wrapping_add(slot::COUNT))?);
            check(
                start.saturating_add(usize::from(length)) <= entries && length <= MAX_BUCKET,
                What::Slot,
                slot,
            )?;
            run = if length == 0 { 0 } else { run.saturating_add(1) };
            longest_run = longest_run.max(run);
            longest_bucket = longest_bucket.max(length);
        }
        check(longest_run < MAX_PROBES, What::Group, at)?;
        Ok(longest_run.saturating_add(1).saturating_add(u32::from(longest_bucket)))
    }

    fn entry<A: Address>(&self, at: usize, rules: u32) -> Checked {
        let tail = at.wrapping_add(A::SIZE.wrapping_mul(2));
        check(self.u32(tail.wrapping_add(entry::RULE))? < rules, What::Entry, at)?;
        let lengths =
            (self.u8(tail.wrapping_add(entry::LOCAL_LEN))?, self.u8(tail.wrapping_add(entry::REMOTE_LEN))?);
        check(lengths.0 <= A::BITS && lengths.1 <= A::BITS, What::Entry, at)?;
        check(self.u8(tail.wrapping_add(entry::NAMED))? < 32, What::Entry, at)
    }

    /// Checks the fields that both parts have, and bounds the steps.
    fn fields<A: Address>(&self, at: usize, words: usize) -> Checked<u32> {
        let mut steps = 3_u32;
        for place in [partition::LOCAL, partition::REMOTE] {
            steps = steps.saturating_add(self.address_field::<A>(item(at, place, field::LEN), words)?);
        }
        for place in [partition::LOCAL_PORT, partition::REMOTE_PORT] {
            let at = item(at, place, field::LEN);
            let rows = self.rows(at, words)?;
            let (map, pages) = self.map(at)?;
            check((1..=256).contains(&pages), What::Field, at)?;
            self.table(map, pages.wrapping_add(1), 512, What::Field, at)?;
            for high in 0..256 {
                let page = item(map, high, 2);
                check(usize::from(self.u16(page)?) < pages, What::Field, page)?;
            }
            for port in 256..pages.wrapping_add(1).wrapping_mul(256) {
                let row = item(map, port, 2);
                check(usize::from(self.u16(row)?) < rows, What::Field, row)?;
            }
        }
        let at = item(at, partition::PROTOCOL, field::LEN);
        let rows = self.rows(at, words)?;
        let (map, _) = self.map(at)?;
        self.table(map, 256, 2, What::Field, at)?;
        for protocol in 0..256 {
            let row = item(map, protocol, 2);
            check(usize::from(self.u16(row)?) < rows, What::Field, row)?;
        }
        Ok(steps)
    }

    /// Checks a field's rows and counts them.
    fn rows(&self, at: usize, words: usize) -> Checked<usize> {
        let (start, count) =
            (self.usize(at.wrapping_add(field::ROWS))?, self.usize(at.wrapping_add(field::ROW_COUNT))?);
        self.table(start, count, words.wrapping_mul(8), What::Field, at)?;
        check(self.usize(at.wrapping_add(field::EMPTY))? < count, What::Field, at)?;
        Ok(count)
    }

    fn map(&self, at: usize) -> Checked<(usize, usize)> {
        Ok((self.usize(at.wrapping_add(field::MAP))?, self.usize(at.wrapping_add(field::MAP_COUNT))?))
    }

    fn address_field<A: Address>(&self, at: usize, words: usize) -> Checked<u32> {
        let rows = self.rows(at, words)?;
        let (cuts, count) = self.map(at)?;
        let length = A::SIZE.wrapping_add(4);
        check(count != 0, What::Field, at)?;
        self.table(cuts, count, length, What::Field, at)?;
        let mut last = None;
        for place in 0..count {
            let cut = item(cuts, place, length);
            let address = self.address::<A>(cut)?;
            let ascends = last.map_or(address.masked(0) == address, |last| last < address);
            check(ascends && self.usize(cut.wrapping_add(A::SIZE))? < rows, What::Field, cut)?;
            last = Some(address);
        }
        let (index, places) =
            (self.usize(at.wrapping_add(field::INDEX))?, self.usize(at.wrapping_add(field::INDEX_COUNT))?);
        check(places >= 2, What::Field, at)?;
        self.table(index, places, 4, What::Field, at)?;
        check(self.u32(at.wrapping_add(field::SHIFT))? <= u32::from(A::BITS), What::Field, at)?;
        let (mut before, mut widest) = (0, 0_usize);
        for place in 0..places {
            let start = self.usize(item(index, place, 4))?;
            check(before <= start && start < count, What::Field, item(index, place, 4))?;
            widest = widest.max(start.wrapping_sub(before));
            before = start;
        }
        Ok(usize::BITS.wrapping_sub(widest.leading_zeros()))
    }

    fn app_field(&self, at: usize, words: usize, patterns: u32) -> Checked<u32> {
        let (map, count) = self.map(at)?;
        let rows = self.rows(at, words)?;
        if map == 0 {
            return Ok(1);
        }
        check(count == patterns as usize, What::Field, at)?;
        self.table(map, count, 4, What::Field, at)?;
        for number in 0..count {
            let row = item(map, number, 4);
            check(self.usize(row)? < rows, What::Field, row)?;
        }
        Ok(self.app_steps)
    }
}

#[derive(Clone, Copy)]
enum List {
    Protocols,
    Addresses,
    /// Port ranges or numbers of patterns.
    Items,
}
