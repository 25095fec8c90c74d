//! Case folding of application paths, one UTF-16 unit at a time, as Windows file names are compared.

use std::sync::LazyLock;

/// What each unit folds to: the lower case of its upper case, where both are one unit long. Nothing outside
/// ASCII folds into it: to Windows the Kelvin sign is no `k`.
pub(super) fn table() -> &'static [u16] {
    static TABLE: LazyLock<Vec<u16>> = LazyLock::new(|| (0..=u16::MAX).map(fold).collect());
    &TABLE
}

fn fold(unit: u16) -> u16 {
    let Some(character) = char::from_u32(u32::from(unit)) else {
        return unit;
    };
    let folded = single(single(character, char::to_uppercase), char::to_lowercase);
    match u16::try_from(u32::from(folded)) {
        Ok(folded) if folded >= 0x80 || unit < 0x80 => folded,
        _ => unit,
    }
}

fn single<I: Iterator<Item = char>>(character: char, map: fn(char) -> I) -> char {
    let mut mapped = map(character);
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => character,
    }
}

/// Folds a text.
pub(super) fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().map(|unit| table()[usize::from(unit)]).collect()
}
