//! Application paths and the patterns that match them. Any IRQL; reads nothing but its arguments.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::format::{self, MAX_APP_UNITS, NO_FALLBACK, STAR, apps, item, offset_at, pattern, u16_at, u32_at};

const BACKSLASH: u16 = b'\\' as u16;
/// How the NT path of a volume begins; its number follows.
const VOLUME: &[u8] = br"\device\harddiskvolume";

/// The NT path of an application, for example `\device\harddiskvolume2\windows\system32\svchost.exe`, as the
/// bytes of its UTF-16 units in little-endian order: what `FWPS_FIELD_ALE_AUTH_CONNECT_V4_ALE_APP_ID` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App<'a> {
    units: &'a [[u8; 2]],
}

impl<'a> App<'a> {
    /// Takes a path with or without its terminating NUL; an odd last byte is dropped. `None` if nothing is
    /// left: an empty path is an EMPTY field.
    pub fn from_utf16le(bytes: &'a [u8]) -> Option<Self> {
        let (mut units, _) = bytes.as_chunks::<2>();
        while let Some((&[0, 0], head)) = units.split_last() {
            units = head;
        }
        if units.is_empty() { None } else { Some(Self { units }) }
    }

    /// The path's units.
    pub fn units(&self) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + Clone + use<'a> {
        self.units.iter().map(|unit| u16::from_le_bytes(*unit))
    }
}

/// The applications' section of an image.
#[derive(Clone, Copy)]
pub(super) struct Apps<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Apps<'a> {
    /// The section at `at`, which is not 0.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn head(&self, field: usize) -> Option<usize> {
        offset_at(self.bytes, self.at.wrapping_add(field))
    }

    /// Folds the case of one unit.
    fn fold(&self, table: usize, unit: u16) -> Option<u16> {
        let [low, high] = unit.to_le_bytes();
        if high == 0 && low.is_ascii() {
            return Some(u16::from(low.to_ascii_lowercase()));
        }
        let page = u16_at(self.bytes, item(table, usize::from(high), 2))?;
        let entry = usize::from(page).wrapping_mul(256).wrapping_add(usize::from(low));
        Some(unit.wrapping_add(u16_at(self.bytes, item(table.wrapping_add(512), entry, 2))?))
    }

    /// Calls `hit` with the number of every pattern that matches `app`, in no order. Each is tried at most
    /// once where its bucket holds it once; `None` if the image is damaged.
    pub(super) fn matching(&self, app: App<'_>, mut hit: impl FnMut(u32)) -> Option<()> {
        if app.units.len() > MAX_APP_UNITS {
            return Some(());
        }
        let table = self.head(apps::FOLD)?;
        let mut hash = 0;
        if let Some(name) = app.units.rsplit(|unit| u16::from_le_bytes(*unit) == BACKSLASH).next() {
            hash = format::name_hash(name.iter().map(|unit| {
                let unit = u16::from_le_bytes(*unit);
                self.fold(table, unit).unwrap_or(unit)
            }));
        }
        let members = self.head(apps::MEMBERS)?;
        let mask = self.head(apps::BUCKETS.wrapping_add(4))?.wrapping_sub(1);
        let bucket = item(self.head(apps::BUCKETS)?, hash as usize & mask, apps::BUCKET_LEN);
        let (start, count) = (offset_at(self.bytes, bucket)?, offset_at(self.bytes, bucket.wrapping_add(4))?);
        let general = self.head(apps::GENERAL)?;
        let limit = format::MAX_APP_CANDIDATES as usize;
        for index in (0..general.min(limit)).chain((start..start.wrapping_add(count)).take(limit)) {
            let number = u32_at(self.bytes, item(members, index, 4))?;
            if self.matches(table, number, app)? {
                hit(number);
            }
        }
        Some(())
    }

    /// Whether one pattern matches.
    pub(super) fn is_match(&self, number: u32, app: App<'_>) -> Option<bool> {
        if app.units.len() > MAX_APP_UNITS || number as usize >= self.head(apps::PATTERNS.wrapping_add(4))? {
            return Some(false);
        }
        self.matches(self.head(apps::FOLD)?, number, app)
    }

    /// What follows the name of a volume, if the path begins with one.
    fn after_volume<'t>(&self, table: usize, path: &'t [[u8; 2]]) -> Option<&'t [[u8; 2]]> {
        let (volume, rest) = path.split_at_checked(VOLUME.len())?;
        for (unit, expected) in volume.iter().zip(VOLUME) {
            if self.fold(table, u16::from_le_bytes(*unit))? != u16::from(*expected) {
                return None;
            }
        }
        let digits = rest.iter().take_while(|unit| matches!(unit, [b'0'..=b'9', 0])).count();
        if digits == 0 { None } else { rest.get(digits..) }
    }

    /// At most three steps for each unit of the path: one to compare it, and no more falling back than was
    /// advanced.
    fn matches(&self, table: usize, number: u32, app: App<'_>) -> Option<bool> {
        let record = item(self.head(apps::PATTERNS)?, number as usize, pattern::LEN);
        let record: &[u8; pattern::LEN] = self.bytes.get(record..)?.first_chunk()?;
        let field = |at: usize| u16_at(record, at).map(usize::from);
        let (count, prefix, tail) = (field(pattern::COUNT)?, field(pattern::PREFIX)?, field(pattern::TAIL)?);
        let units = self.bytes.get(offset_at(record, pattern::UNITS)?..)?.as_chunks::<2>().0;
        let (units, fallbacks) = (units.get(..count)?, units.get(count..)?.get(..count)?);
        let unit = |at: usize| units.get(at).map(|unit| u16::from_le_bytes(*unit));
        let same = |text: &[[u8; 2]], pattern: &[[u8; 2]]| -> Option<bool> {
            for (text, pattern) in text.iter().zip(pattern) {
                if self.fold(table, u16::from_le_bytes(*text))? != u16::from_le_bytes(*pattern) {
                    return Some(false);
                }
            }
            Some(text.len() == pattern.len())
        };

        let text = match u16_at(record, pattern::FLAGS)? {
            0 => app.units,
            _ => match self.after_volume(table, app.units) {
                Some(rest) => rest,
                None => return Some(false),
            },
        };
        if tail == 0 {
            return same(text, units);
        }
        let (beginning, ending) = (units.get(..prefix)?, units.get(tail..)?);
        let Some((start, rest)) = text.split_at_checked(prefix) else {
            return Some(false);
        };
        let Some((between, end)) = rest.split_at_checked(rest.len().wrapping_sub(ending.len())) else {
            return Some(false);
        };
        if !same(end, ending)? || !same(start, beginning)? {
            return Some(false);
        }
        if tail <= prefix.saturating_add(1) {
            return Some(true);
        }

        // Between the wildcards: the leftmost place of each piece is good enough, since whatever follows a
        // later place follows the leftmost one too.
        let last_star = tail.saturating_sub(1);
        let mut at = prefix.wrapping_add(1);
        for text in between {
            let folded = self.fold(table, u16::from_le_bytes(*text))?;
            for _ in 0..count {
                if unit(at)? == folded {
                    at = at.wrapping_add(1);
                    break;
                }
                match u16::from_le_bytes(*fallbacks.get(at)?) {
                    NO_FALLBACK => break,
                    earlier => at = usize::from(earlier),
                }
            }
            if unit(at)? == STAR {
                if at >= last_star {
                    return Some(true);
                }
                at = at.wrapping_add(1);
            }
        }
        Some(false)
    }
}
