//! What is not to be shown of a file: private keys, and whatever may be one.

use std::ops::Range;

use weir::config::schema;

use super::reg::{Data, Item, Malformed};

/// The text, with data that nobody is to see made unreadable; every byte stays at its place.
///
/// That is the data of every value that is no setting, for a private key may stand under any name, and of lines that are
/// not understood, unless they are a setting's.
pub fn masked(text: &str, items: &[Item]) -> String {
    let mut masked = text.to_owned();
    for item in items {
        match item {
            Item::Value(value) if schema::find(&value.name).is_none() && value.data != Data::Removed => {
                cover(&mut masked, value.data_span.start..value.span.end);
            }
            Item::Malformed { span, what } => {
                let line = text[..span.start].rfind('\n').map_or(0, |end| end + 1);
                let end = text[span.start..].find('\n').map_or(text.len(), |end| span.start + end);
                let whole = text[line..end].trim_ascii();
                let name = whole.trim_start_matches('"').split(['"', '=']).next().unwrap_or_default();
                let data = text[line..end].find('=').map(|at| line + at + 1);
                let is_key = matches!(what, Malformed::KeyOpen | Malformed::KeyBlank);
                match data {
                    _ if is_key || schema::find(name).is_some() => {}
                    Some(data) => cover(&mut masked, data..end),
                    None if whole
                        .bytes()
                        .all(|byte| byte.is_ascii_hexdigit() || b", \t\\".contains(&byte)) =>
                    {
                        cover(&mut masked, line..end);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }
    masked
}

/// Makes all but blanks unreadable.
fn cover(text: &mut String, span: Range<usize>) {
    let Some(part) = text.get(span.clone()) else { return };
    let stars: String = part
        .chars()
        .map(|character| match character {
            '\n' | ' ' | '\t' => character.to_string(),
            other => "*".repeat(other.len_utf8()),
        })
        .collect();
    text.replace_range(span, &stars);
}
