//! Identifiers as text.

use crate::sys::nt::GUID;
use alloc::format;
use alloc::string::String;

/// `guid` in lower case with hyphens, without braces.
pub fn text(guid: &GUID) -> String {
    let GUID { Data1, Data2, Data3, Data4 } = guid;
    let tail = u64::from_be_bytes(*Data4);
    let (fourth, fifth) = (tail >> 48, tail & 0xFFFF_FFFF_FFFF);
    format!("{Data1:08x}-{Data2:04x}-{Data3:04x}-{fourth:04x}-{fifth:012x}")
}

/// Reads a GUID, with or without braces, in either case.
pub fn parse(text: &str) -> Option<GUID> {
    let text = text.trim();
    let text = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let lengths = [8, 4, 4, 4, 12];
    let mut parts = text.split('-');
    let mut values = [0_u64; 5];
    for (value, length) in values.iter_mut().zip(lengths) {
        let part = parts.next().filter(|part| part.len() == length)?;
        *value = u64::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?;
    }
    if parts.next().is_some() {
        return None;
    }
    let [first, second, third, fourth, fifth] = values;
    let tail = (fourth << 48 | fifth).to_be_bytes();
    Some(GUID {
        Data1: u32::try_from(first).ok()?,
        Data2: u16::try_from(second).ok()?,
        Data3: u16::try_from(third).ok()?,
        Data4: tail,
    })
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn a_guid_survives_being_written_and_read() {
        let written = "5ee5d4f1-9929-4633-8368-7bc7438b4140";
        assert_eq!(text(&parse(written).unwrap()), written);
        assert_eq!(text(&parse("{5EE5D4F1-9929-4633-8368-7BC7438B4140}").unwrap()), written);
    }

    #[test]
    fn what_is_no_guid_is_refused() {
        for bad in
            ["", "5ee5d4f1", "5ee5d4f1-9929-4633-8368-7bc7438b414", "5ee5d4f1-9929-4633-8368-7bc7438b4140-0"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("+ee5d4f1-9929-4633-8368-7bc7438b4140"), None);
    }
}
