//! Levels, keywords and events by their names, as options have them.

use weir::trace::events::{Event, Keywords, Level};

const LEVELS: [(&str, Level); 5] = [
    ("critical", Level::Critical),
    ("error", Level::Error),
    ("warning", Level::Warning),
    ("information", Level::Information),
    ("verbose", Level::Verbose),
];

/// A level, by its name or number.
///
/// # Errors
/// Which ones there are.
pub fn level(text: &str) -> Result<Level, String> {
    let found = LEVELS
        .iter()
        .find(|(name, level)| text.eq_ignore_ascii_case(name) || text.parse() == Ok(*level as u8));
    found.map(|(_, level)| *level).ok_or_else(|| {
        let names: Vec<_> = LEVELS.iter().map(|(name, _)| *name).collect();
        format!("allowed: {}, or 1 to 5", names.join(", "))
    })
}

/// A keyword of weir's own, by its name.
///
/// # Errors
/// Which ones there are.
pub fn keyword(text: &str) -> Result<Keywords, String> {
    Keywords::from_name(&text.to_ascii_uppercase()).ok_or_else(|| {
        let names: Vec<_> = Keywords::all().iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
        format!("allowed: {}", names.join(", "))
    })
}

/// An event of weir's own, by its name or id.
///
/// # Errors
/// Which one may be meant.
pub fn event(text: &str) -> Result<u16, String> {
    let named = Event::TABLE.iter().find(|meta| meta.name.eq_ignore_ascii_case(text)).map(|meta| meta.id);
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let near = Event::TABLE.iter().map(|meta| (strsim::jaro_winkler(meta.name, text), meta.name));
        let near = near.max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, name)| name);
        format!("there is no such event; {near} would be one (PROTOCOL.md has them all)")
    })
}

/// The name of a level, or its number.
pub fn of_level(level: u8) -> String {
    let named = LEVELS.iter().find(|(_, named)| *named as u8 == level);
    named.map_or_else(|| level.to_string(), |(name, _)| (*name).to_owned())
}
