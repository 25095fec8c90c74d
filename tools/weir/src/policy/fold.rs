//! Case folding of application paths, one UTF-16 unit at a time, as Windows file names are compared.

use std::sync::LazyLock;

/// What each unit folds to: the lower case of its upper case, where both are one unit long.
pub(super) fn table() -> &'static [u16] {
    static TABLE: LazyLock<Vec<u16>> = LazyLock::new(|| {
        (0..=u16::MAX)
            .map(|unit| {
                let Some(character) = char::from_u32(u32::from(unit)) else {
                    return unit;
                };
                single(single(character, char::to_uppercase), char::to_lowercase)
                    .try_into()
                    .map_or(unit, |folded: u32| u16::try_from(folded).unwrap_or(unit))
            })
            .collect()
    });
    &TABLE
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
