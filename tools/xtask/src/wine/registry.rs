//! Registry files: what `reg import` reads, and `reg export` writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    /// With names of the environment in it.
    Expanded(String),
    Number(u32),
    /// A number of 64 bits.
    Long(u64),
    Binary(Vec<u8>),
    Texts(Vec<String>),
}

impl Value {
    fn written(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{}\"", escaped(text)),
            Self::Expanded(text) => format!("hex(2):{}", digits(&text_bytes(text))),
            Self::Number(number) => format!("dword:{number:08x}"),
            Self::Long(number) => format!("hex(b):{}", digits(&number.to_le_bytes())),
            Self::Binary(bytes) => format!("hex:{}", digits(bytes)),
            Self::Texts(texts) => {
                let texts = texts.iter().flat_map(|text| text_bytes(text)).chain([0; 2]);
                format!("hex(7):{}", digits(&texts.collect::<Vec<_>>()))
            }
        }
    }

    /// What [`Self::written`] has written.
    fn read(text: &str) -> Option<Self> {
        if let Some(text) = text.strip_prefix('"') {
            return Some(Self::Text(unescaped(text.strip_suffix('"')?)));
        }
        let (kind, data) = text.split_once(':')?;
        if kind == "dword" {
            return u32::from_str_radix(data, 16).ok().map(Self::Number);
        }
        let bytes = data.split(',').filter(|digits| !digits.is_empty());
        let bytes: Vec<u8> =
            bytes.map(|digits| u8::from_str_radix(digits, 16).ok()).collect::<Option<_>>()?;
        let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>();
        let text = || Some(String::from_utf16(&units).ok()?.trim_end_matches('\0').to_owned());
        match kind {
            "hex" => Some(Self::Binary(bytes)),
            "hex(b)" => bytes.try_into().ok().map(u64::from_le_bytes).map(Self::Long),
            "hex(2)" => text().map(Self::Expanded),
            "hex(7)" => Some(Self::Texts(text()?.split_terminator('\0').map(str::to_owned).collect())),
            _ => None,
        }
    }
}

fn text_bytes(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn unescaped(text: &str) -> String {
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(",")
}

/// Who may do what with the key that holds the private one, in the language of security descriptors: as the driver demands it.
pub const GUARDED: &str = "O:SYG:SYD:P(A;;KA;;;SY)(A;;KA;;;BA)";

/// A file of the Registry Editor, version 5, in UTF-16 with a mark, as its page says. A key is emptied before its
/// values are set.
pub fn file(keys: &[(&str, Vec<(&str, Value)>)]) -> Vec<u8> {
    let mut text = String::from("Windows Registry Editor Version 5.00\r\n");
    for (key, values) in keys {
        let _ = write!(text, "\r\n[-{key}]\r\n\r\n[{key}]\r\n");
        for (name, value) in values {
            let _ = write!(text, "\"{}\"={}\r\n", escaped(name), value.written());
        }
    }
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// The values of a key, by their names.
pub type Values = BTreeMap<String, Value>;

/// Reads such a file: keys with their values.
///
/// # Errors
/// The line that is not understood.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, Values>, String> {
    let units: Vec<_> = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let text = String::from_utf16(&units).map_err(|error| error.to_string())?;
    let mut keys: BTreeMap<String, Values> = BTreeMap::new();
    let mut key = String::new();
    // Long values are continued.
    let text = text.replace("\\\r\n  ", "");
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut key);
            keys.entry(key.clone()).or_default();
            continue;
        }
        let read = line.strip_prefix('"').and_then(|rest| rest.split_once("\"="));
        let read = read.and_then(|(name, value)| Some((unescaped(name), Value::read(value)?)));
        let (name, value) = read.ok_or_else(|| format!("not understood: {line}"))?;
        keys.entry(key.clone()).or_default().insert(name, value);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_the_registry_editor_writes_it() {
        let values = vec![
            ("Path", Value::Text(r#"C:\a "b""#.into())),
            ("Number", Value::Number(0x1F)),
            ("Long", Value::Long(0x1FF)),
            ("Bytes", Value::Binary(vec![0, 0xAB])),
            ("Texts", Value::Texts(vec!["a".into()])),
            ("Expanded", Value::Expanded("%a%".into())),
        ];
        let bytes = file(&[(r"HKEY_LOCAL_MACHINE\Software\x", values.clone())]);
        let units: Vec<_> = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let expected = [
            "\u{feff}Windows Registry Editor Version 5.00",
            "",
            r"[-HKEY_LOCAL_MACHINE\Software\x]",
            "",
            r"[HKEY_LOCAL_MACHINE\Software\x]",
            r#""Path"="C:\\a \"b\"""#,
            r#""Number"=dword:0000001f"#,
            r#""Long"=hex(b):ff,01,00,00,00,00,00,00"#,
            r#""Bytes"=hex:00,ab"#,
            r#""Texts"=hex(7):61,00,00,00,00,00"#,
            r#""Expanded"=hex(2):25,00,61,00,25,00,00,00"#,
            "",
        ];
        assert_eq!(String::from_utf16(&units).unwrap(), expected.join("\r\n"));

        let text = expected.join("\r\n").replace("[-HKEY_LOCAL_MACHINE\\Software\\x]", "");
        let text = text.replace("hex(7):61,00,", "hex(7):61,\\\r\n  00,");
        let exported: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let key = read(&exported).unwrap().remove(r"HKEY_LOCAL_MACHINE\Software\x").unwrap();
        assert_eq!(key, values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    }
}
