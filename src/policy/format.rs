//! The policy image, version 1: where everything lies. The compiler writes by these constants, the driver
//! reads by them; nothing else knows the layout.
//!
//! All integers are little-endian and need no alignment. All offsets count bytes from the start of the image.
//! A pair "offset, count" names a table; a table of nothing has offset 0.
//!
//! ```text
//! header | partitions (up to four, shared where equal) | tables of the partitions | rules | lists | apps | names
//! ```
//!
//! **Rules** are the policy as written, in file order: what `explain` reads, and the reference for everything
//! else. **Partitions** are what a look-up reads, one for each direction and family. A partition has up to
//! two parts, and the lower rule number found by them decides:
//!
//! - the *bit-vector part*, one bit for each rule (at most [`MAX_WORDS`] words): the look-up of each field
//!   gives a row of bits, the rules that the field's value satisfies; the first bit set in all rows is the
//!   rule;
//! - the *hashed part*, for what does not fit there: rules are expanded to entries of one prefix, one port
//!   range and one protocol a field, entries of like shape share a hash table (a *group*, at most
//!   [`MAX_GROUPS`]), and the field look-ups give the groups worth probing as the bits of one word.
//!
//! # Bounds of a look-up
//! Two address searches per part take at most 32 steps each, the other field look-ups one step each, the
//! bit-vector part [`MAX_WORDS`] steps, the hashed part at most [`MAX_GROUPS`] × ([`MAX_PROBES`] +
//! [`MAX_BUCKET`]) steps, and the application at most [`MAX_APP_CANDIDATES`] patterns of at most 3 ×
//! [`MAX_APP_UNITS`] steps each. An image over any of them is refused. [`Stats::steps`](super::Stats::steps)
//! is the bound for the image at hand.

/// First bytes of every image.
pub const MAGIC: [u8; 8] = *b"weirplcy";
/// The version that this code reads. Any change to the layout changes it.
pub const VERSION: u16 = 1;

/// Largest image in bytes.
pub const MAX_IMAGE: usize = 64 << 20;
/// Most rules in a policy.
pub const MAX_RULES: u32 = 131_072;
/// Most 64-bit words in a row of the bit-vector part.
pub const MAX_WORDS: usize = 16;
/// Most rules in the bit-vector part of one partition.
pub const MAX_VECTOR_RULES: usize = MAX_WORDS * 64;
/// Most groups in the hashed part of one partition.
pub const MAX_GROUPS: usize = 64;
/// Most slots looked at in one probe of a group, the empty one that ends it included.
pub const MAX_PROBES: u32 = 64;
/// Most entries in one bucket.
pub const MAX_BUCKET: u16 = 32;
/// Most entries in the hashed part of one partition.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Most bytes in a rule's name.
pub const MAX_NAME: usize = 128;
/// Most UTF-16 units of an application path that are looked at; a longer path matches no pattern.
pub const MAX_APP_UNITS: usize = 1024;
/// Most UTF-16 units in an application pattern.
pub const MAX_PATTERN_UNITS: usize = 512;
/// Most distinct application patterns.
pub const MAX_PATTERNS: u32 = 16_384;
/// Most patterns that have to be tried on one path.
pub const MAX_APP_CANDIDATES: u32 = 64;

/// Offset that stands for "any value" where a rule's list would be.
pub const ANY: u32 = 0;
/// The wildcard in a pattern; no Windows path has it.
pub const STAR: u16 = b'*' as u16;
/// Fallback of a pattern unit that has none: the text moves on.
pub const NO_FALLBACK: u16 = u16::MAX;

/// Header: `MAGIC`, version u16, header length u16, checksum u32 (CRC-32C of all that follows it), and then
pub mod header {
    /// Length of the header in bytes.
    pub const LEN: usize = 128;
    pub const VERSION: usize = 8;
    pub const HEADER_LEN: usize = 10;
    pub const CHECKSUM: usize = 12;
    /// The checksum covers the image from here.
    pub const CHECKED: usize = 16;
    /// Length of the image, u32.
    pub const LENGTH: usize = 16;
    /// The operator's number for this policy, u32.
    pub const GENERATION: usize = 20;
    /// Default action, u8, then three zero bytes.
    pub const DEFAULT: usize = 24;
    /// SHA-256 of the policy text.
    pub const DIGEST: usize = 28;
    /// Rules: offset, count.
    pub const RULES: usize = 60;
    /// Lists: offset, length in bytes.
    pub const LISTS: usize = 68;
    /// Names: offset, length in bytes.
    pub const NAMES: usize = 76;
    /// Applications: offset, or 0.
    pub const APPS: usize = 84;
    /// Partitions: four offsets, at `direction + 2 * family`; 0 where no rule applies.
    pub const PARTITIONS: usize = 88;
    /// Zero from here to the end of the header.
    pub const RESERVED: usize = 104;
}

/// A rule. A list's offset is `ANY` where the rule does not name the field.
pub mod rule {
    /// Length in bytes.
    pub const LEN: usize = 48;
    /// Offset u32 and length u16 of the name, UTF-8.
    pub const NAME: usize = 0;
    pub const NAME_LEN: usize = 4;
    /// u8.
    pub const ACTION: usize = 6;
    /// u8, bit 0 in, bit 1 out.
    pub const DIRECTIONS: usize = 7;
    /// u8, bit 0 IPv4, bit 1 IPv6: the families for which the rule's addresses leave anything to match.
    pub const FAMILIES: usize = 8;
    /// Three zero bytes.
    pub const RESERVED: usize = 9;
    /// 256 bits.
    pub const PROTOCOLS: usize = 12;
    /// Counts of IPv4 and of IPv6 ranges, u32 each; the ranges, first and last address each, u32 or u128,
    /// ascending.
    pub const LOCAL: usize = 16;
    pub const REMOTE: usize = 20;
    /// Count u32; ranges, first and last port each, u16, ascending.
    pub const LOCAL_PORTS: usize = 24;
    pub const REMOTE_PORTS: usize = 28;
    /// Count u32; numbers of patterns, u32.
    pub const APPS: usize = 32;
    /// Lists of user SIDs and interfaces, and where to redirect: zero in version 1.
    pub const USERS: usize = 36;
    pub const INTERFACES: usize = 40;
    pub const REDIRECT: usize = 44;
}

/// A field's map from values to rows. Twelve u32; which of them are used depends on the field.
pub mod field {
    /// Length in bytes.
    pub const LEN: usize = 32;
    /// Rows: offset, count. A row has as many u64 as the part has words.
    pub const ROWS: usize = 0;
    pub const ROW_COUNT: usize = 4;
    /// The row of an EMPTY value.
    pub const EMPTY: usize = 8;
    /// Address: cuts, each an address and the row (u32) of the values from it to the next; the first cut is
    /// 0. Port: 256 page numbers (u16). Protocol: 256 rows (u16). Application: a row (u32) for each pattern.
    pub const MAP: usize = 12;
    /// Address: count of cuts. Port: count of pages (each 256 rows, u16), which follow the page numbers.
    pub const MAP_COUNT: usize = 16;
    /// Address: the index, u32 places of cuts, one more than there are steps. Of a value v, step
    /// `min((v - second cut) >> shift, steps - 1)` and the place after it enclose the cut that holds v.
    pub const INDEX: usize = 20;
    pub const INDEX_COUNT: usize = 24;
    pub const SHIFT: usize = 28;
}

/// A partition.
pub mod partition {
    use super::field;
    /// Length in bytes.
    pub const LEN: usize = HASHED_FIELDS + 5 * field::LEN;
    /// Bit-vector part: words in a row, u32; 0 if there is no such part.
    pub const WORDS: usize = 0;
    /// Rule numbers by bit, ascending: offset, count.
    pub const VECTOR_RULES: usize = 4;
    /// Hashed part: groups (offset, count), slots, entries.
    pub const GROUPS: usize = 12;
    pub const SLOTS: usize = 20;
    pub const ENTRIES: usize = 28;
    /// Six fields of the bit-vector part, in the order of `Fields`.
    pub const VECTOR_FIELDS: usize = 36;
    /// Five fields of the hashed part (no application).
    pub const HASHED_FIELDS: usize = VECTOR_FIELDS + 6 * field::LEN;
    /// Places of the fields.
    pub const LOCAL: usize = 0;
    pub const REMOTE: usize = 1;
    pub const LOCAL_PORT: usize = 2;
    pub const REMOTE_PORT: usize = 3;
    pub const PROTOCOL: usize = 4;
    pub const APP: usize = 5;
}

/// A group: a hash table of entries whose prefixes are at least as long as the group's.
pub mod group {
    /// Length in bytes.
    pub const LEN: usize = 16;
    /// The lowest rule number in it, u32. Groups ascend by it.
    pub const FIRST: usize = 0;
    /// First slot, u32, and count of slots less one, u32 (the count is a power of two).
    pub const BASE: usize = 4;
    pub const MASK: usize = 8;
    /// Prefix lengths, u8 each.
    pub const LOCAL_LEN: usize = 12;
    pub const REMOTE_LEN: usize = 13;
    /// Which of `KEY_*` are part of the key, u8; then a zero byte.
    pub const KEY: usize = 14;
    pub const KEY_LOCAL_PORT: u8 = 1;
    pub const KEY_REMOTE_PORT: u8 = 2;
    pub const KEY_PROTOCOL: u8 = 4;
}

/// A slot: the bucket of one key.
pub mod slot {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// First entry, u32.
    pub const START: usize = 0;
    /// Low bits of the key's hash, u16.
    pub const TAG: usize = 4;
    /// Count of entries, u16; 0 in a free slot.
    pub const COUNT: usize = 6;
}

/// An entry: one prefix, port range and protocol for each field. The addresses come first (local, remote; u32
/// or u128), and from their end
pub mod entry {
    /// Port ranges, first and last, u16 each.
    pub const LOCAL_FIRST: usize = 0;
    pub const LOCAL_LAST: usize = 2;
    pub const REMOTE_FIRST: usize = 4;
    pub const REMOTE_LAST: usize = 6;
    /// Rule number, u32.
    pub const RULE: usize = 8;
    /// Prefix lengths, u8 each.
    pub const LOCAL_LEN: usize = 12;
    pub const REMOTE_LEN: usize = 13;
    /// u8.
    pub const PROTOCOL: usize = 14;
    /// u8, of `NAMES_*`.
    pub const NAMED: usize = 15;
    /// The entry names a protocol; local ports; remote ports; a local address; a remote address.
    pub const NAMES_PROTOCOL: u8 = 1;
    pub const NAMES_LOCAL_PORT: u8 = 2;
    pub const NAMES_REMOTE_PORT: u8 = 4;
    pub const NAMES_LOCAL: u8 = 8;
    pub const NAMES_REMOTE: u8 = 16;
    /// Length of what follows the addresses.
    pub const TAIL: usize = 16;

    /// Length of an entry with addresses of `address` bytes.
    pub const fn len(address: usize) -> usize {
        2 * address + TAIL
    }
}

/// Applications: patterns, the case folding table, and the index by file name.
pub mod apps {
    /// Length in bytes of the head.
    pub const LEN: usize = 36;
    /// Patterns: offset, count.
    pub const PATTERNS: usize = 0;
    /// Case folding: 256 page numbers (u16) by high byte, then pages of 256 distances (u16, modulo 2^16) from
    /// a unit to what it folds to: offset, count of pages.
    pub const FOLD: usize = 8;
    /// Buckets by the hash of the file name, each a first member and a count (u32): offset, count (a power of
    /// two).
    pub const BUCKETS: usize = 16;
    /// Members of buckets, numbers of patterns (u32): offset, count. The first `GENERAL` of them are in no
    /// bucket and are tried on every path.
    pub const MEMBERS: usize = 24;
    pub const GENERAL: usize = 32;
    pub const BUCKET_LEN: usize = 8;
}

/// A pattern: folded UTF-16 units with `STAR` as wildcard.
pub mod pattern {
    /// Length in bytes.
    pub const LEN: usize = 12;
    /// Units, u16 each, and then for each unit the place to fall back to: offset.
    pub const UNITS: usize = 0;
    /// Count of units, u16.
    pub const COUNT: usize = 4;
    /// Units before the first wildcard, u16; all of them if there is none.
    pub const PREFIX: usize = 6;
    /// Place after the last wildcard, u16; 0 if there is none.
    pub const TAIL: usize = 8;
    /// u16, of `ON_*`.
    pub const FLAGS: usize = 10;
    /// The units follow `\device\harddiskvolume` and digits, of which there is at least one.
    pub const ON_VOLUME: u16 = 1;
}

/// Hash of a folded file name: FNV-1a, 32 bits, over UTF-16 units.
pub fn name_hash(units: impl Iterator<Item = u16>) -> u32 {
    units.fold(0x811c_9dc5, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(0x0100_0193))
}

/// Hash of a group's key: addresses masked to the group's prefixes and folded to 64 bits, ports and protocol
/// where the group's key has them. The slot comes from the high half, the tag from the low bits.
#[inline]
pub fn key_hash(local: u64, remote: u64, rest: u64) -> u64 {
    let mixed = local.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ remote.rotate_left(32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let mixed = (mixed ^ mixed.wrapping_shr(31) ^ rest).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed.wrapping_shr(32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// The part of a group's key that is not an address.
#[inline]
pub fn key_rest(local_port: u16, remote_port: u16, protocol: u8, key: u8) -> u64 {
    let pick = |bit: u8, value: u64| if key & bit == 0 { 0 } else { value };
    pick(group::KEY_LOCAL_PORT, u64::from(local_port))
        | pick(group::KEY_REMOTE_PORT, u64::from(remote_port).wrapping_shl(16))
        | pick(group::KEY_PROTOCOL, u64::from(protocol).wrapping_shl(32))
}

/// An IPv4 (`u32`) or IPv6 (`u128`) address in host byte order.
pub trait Address: Copy + Ord + core::fmt::Debug {
    /// Bits in an address.
    const BITS: u8;
    /// Bytes in an address.
    const SIZE: usize;
    /// The address that a tuple carries.
    fn of(wire: &[u8; 16]) -> Self;
    /// The address at `at`.
    fn read(bytes: &[u8], at: usize) -> Option<Self>;
    /// The first `len` bits, the others zero.
    #[must_use]
    fn masked(self, len: u8) -> Self;
    /// Folded to 64 bits.
    fn fold(self) -> u64;
    /// `(self - base) >> shift`, from 0 up to `u32::MAX`.
    fn step(self, base: Self, shift: u32) -> usize;
}

impl Address for u32 {
    const BITS: u8 = 32;
    const SIZE: usize = 4;
    #[inline]
    fn of(wire: &[u8; 16]) -> Self {
        let [a, b, c, d, ..] = *wire;
        Self::from_be_bytes([a, b, c, d])
    }
    #[inline]
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        u32_at(bytes, at)
    }
    #[inline]
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32u32.saturating_sub(u32::from(len))).unwrap_or(0)
    }
    #[inline]
    fn fold(self) -> u64 {
        u64::from(self)
    }
    #[inline]
    fn step(self, base: Self, shift: u32) -> usize {
        self.saturating_sub(base).checked_shr(shift).unwrap_or(0) as usize
    }
}

impl Address for u128 {
    const BITS: u8 = 128;
    const SIZE: usize = 16;
    #[inline]
    fn of(wire: &[u8; 16]) -> Self {
        Self::from_be_bytes(*wire)
    }
    #[inline]
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        bytes.get(at..)?.first_chunk().map(|chunk| Self::from_le_bytes(*chunk))
    }
    #[inline]
    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128u32.saturating_sub(u32::from(len))).unwrap_or(0)
    }
    #[inline]
    fn fold(self) -> u64 {
        let (high, low) = (self.wrapping_shr(64) & Self::from(u64::MAX), self & Self::from(u64::MAX));
        u64::try_from(high).unwrap_or(0) ^ u64::try_from(low).unwrap_or(0).wrapping_mul(0x9fb2_1c65_1e98_df25)
    }
    #[inline]
    fn step(self, base: Self, shift: u32) -> usize {
        let step = self.saturating_sub(base).checked_shr(shift).unwrap_or(0);
        u32::try_from(step).unwrap_or(u32::MAX) as usize
    }
}

/// The byte at `at`.
#[inline]
pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The little-endian u16 at `at`.
#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

/// The little-endian u32 at `at`.
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian u32 at `at`, as an offset or count.
#[inline]
pub(super) fn offset_at(bytes: &[u8], at: usize) -> Option<usize> {
    u32_at(bytes, at).map(|value| value as usize)
}

/// Where item `index` of a table of `len`-byte items at `base` lies. Wraps instead of overflowing: what comes
/// out is checked against the image's end when it is read.
#[inline]
pub(super) fn item(base: usize, index: usize, len: usize) -> usize {
    base.wrapping_add(index.wrapping_mul(len))
}
