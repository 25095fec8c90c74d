//! Registry files: what `reg import` reads.

use std::fmt::Write as _;

/// A value to set.
#[derive(Clone, Debug)]
pub enum Value {
    Text(String),
    Number(u32),
    Binary(Vec<u8>),
    Texts(Vec<String>),
}

impl Value {
    fn written(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{}\"", escaped(text)),
            Self::Number(number) => format!("dword:{number:08x}"),
            Self::Binary(bytes) => format!("hex:{}", digits(bytes)),
            Self::Texts(texts) => {
                let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0])).chain([0]);
                format!("hex(7):{}", digits(&units.flat_map(u16::to_le_bytes).collect::<Vec<_>>()))
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_the_registry_editor_writes_it() {
        let values = vec![
            ("Path", Value::Text(r#"C:\a "b""#.into())),
            ("Number", Value::Number(0x1F)),
            ("Bytes", Value::Binary(vec![0, 0xAB])),
            ("Texts", Value::Texts(vec!["a".into()])),
        ];
        let bytes = file(&[(r"HKEY_LOCAL_MACHINE\Software\x", values)]);
        let units: Vec<_> = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let expected = [
            "\u{feff}Windows Registry Editor Version 5.00",
            "",
            r"[-HKEY_LOCAL_MACHINE\Software\x]",
            "",
            r"[HKEY_LOCAL_MACHINE\Software\x]",
            r#""Path"="C:\\a \"b\"""#,
            r#""Number"=dword:0000001f"#,
            r#""Bytes"=hex:00,ab"#,
            r#""Texts"=hex(7):61,00,00,00,00,00"#,
            "",
        ];
        assert_eq!(String::from_utf16(&units).unwrap(), expected.join("\r\n"));
    }
}
