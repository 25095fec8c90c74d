//! Registration files (.reg), read as Registry Editor reads them, and written as it writes them.
//!
//! Of the format, Microsoft's page says the outline ("How to add, modify, or delete registry subkeys and values by using a
//! .reg file", KB 310516). What it leaves open is read as the conformance tests of Wine's `reg` found Windows to do it
//! (`programs/reg/tests/import.c`, which pass on Windows): where blanks and comments may stand, how values go on over
//! lines, and that Registry Editor passes over what it does not understand, without a word. Here that is told.

use std::fmt::Write as _;
use std::ops::Range;

use encoding_rs::WINDOWS_1252;
use weir::config::schema::{REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ};

/// What every file begins with.
const VERSION_5: &str = "Windows Registry Editor Version 5.00";
/// The same of files in the code page of the machine.
const VERSION_4: &str = "REGEDIT4";

const REG_EXPAND_SZ: u32 = 2;

/// What the characters of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-16, least significant byte first, with a mark: as Registry Editor writes it.
    Utf16,
    /// Nothing outside ASCII.
    Ascii,
    /// Not what Registry Editor takes it for, which is the machine's code page.
    Utf8,
    /// UTF-8 with a mark, so that the first line is another one for Registry Editor.
    Utf8Marked,
    /// No UTF-8, so it is in some code page; read as if it was 1252.
    CodePage,
}

/// Why nothing of a file can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    BigEndian,
    NoMark,
    OddSize,
    NotUtf16,
}

impl Unreadable {
    pub const fn message(self) -> &'static str {
        match self {
            Self::BigEndian => "UTF-16 with the most significant byte first",
            Self::NoMark => "UTF-16 without a mark at its beginning",
            Self::OddSize => "UTF-16 with half a character at its end: the file is cut off",
            Self::NotUtf16 => "not UTF-16, though its mark says so",
        }
    }
}

/// A file's text, with `\n` as the end of lines.
///
/// # Errors
/// It is not one that Registry Editor takes.
pub fn decode(bytes: &[u8]) -> Result<(String, Encoding), Unreadable> {
    let (text, encoding) = match bytes {
        [0xff, 0xfe, rest @ ..] => {
            let (units, odd) = rest.as_chunks();
            if !odd.is_empty() {
                return Err(Unreadable::OddSize);
            }
            let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
            let text: Result<String, _> = char::decode_utf16(units).collect();
            (text.map_err(|_| Unreadable::NotUtf16)?, Encoding::Utf16)
        }
        [0xfe, 0xff, ..] => return Err(Unreadable::BigEndian),
        [_, 0, ..] => return Err(Unreadable::NoMark),
        [0xef, 0xbb, 0xbf, rest @ ..] if let Ok(text) = str::from_utf8(rest) => {
            (text.to_owned(), Encoding::Utf8Marked)
        }
        _ => match str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => (text.to_owned(), Encoding::Ascii),
            Ok(text) => (text.to_owned(), Encoding::Utf8),
            Err(_) => (WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(), Encoding::CodePage),
        },
    };
    let text = if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text };
    Ok((text, encoding))
}

/// What stands on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The key that values below belong to.
    Key {
        name: String,
        span: Range<usize>,
    },
    /// A key that is removed, with all below it.
    RemovedKey {
        name: String,
        span: Range<usize>,
    },
    Value(Value),
    /// What Registry Editor passes over.
    Malformed {
        span: Range<usize>,
        what: Malformed,
    },
}

/// A value's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Empty: the key's default value.
    pub name: String,
    pub name_span: Range<usize>,
    /// On the first line.
    pub data_span: Range<usize>,
    /// All of its lines.
    pub span: Range<usize>,
    /// A backslash before a character that needs none: it is lost.
    pub lost_backslash: Option<Range<usize>>,
    pub data: Data,
}

/// What a value becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Removed,
    /// Of a registry type (`REG_…`).
    Set(u32, Vec<u8>),
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    Header,
    OtherHeader,
    NoLine,
    KeyOpen,
    KeyBlank,
    NameOpen,
    NoEquals,
    NoData,
    Type,
    TextOpen,
    Nul,
    Number,
    Byte,
    NoComma,
    Continuation,
    CutOff,
    Rest,
}

impl Malformed {
    /// What is wrong.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Header => "this is no registration file",
            Self::OtherHeader => "Registry Editor takes nothing from a file with this first line",
            Self::NoLine => "neither a key, nor a value, nor a comment",
            Self::KeyOpen => "a key without `]`",
            Self::KeyBlank => "a blank before the key's name",
            Self::NameOpen => "a value's name without a quotation mark at its end",
            Self::NoEquals => "a value without `=`",
            Self::NoData => "a value without data",
            Self::Type => "data of no type that there is",
            Self::TextOpen => "text without a quotation mark at its end",
            Self::Nul => "a NUL character in text",
            Self::Number => "not a number of one to eight hexadecimal digits",
            Self::Byte => "not a byte of two hexadecimal digits",
            Self::NoComma => "a backslash without a comma before it",
            Self::Continuation => "the value above goes on here, and this is no byte",
            Self::CutOff => "the file ends within this value",
            Self::Rest => "more than a comment behind the value",
        }
    }

    /// What would be right.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Header | Self::OtherHeader => {
                "the first line is `Windows Registry Editor Version 5.00`, or `REGEDIT4`"
            }
            Self::NoLine => "`[KEY]`, `\"NAME\"=DATA`, or `; a comment`",
            Self::KeyOpen | Self::KeyBlank => r"as `[HKEY_LOCAL_MACHINE\SYSTEM\…]`, all on one line",
            Self::NameOpen | Self::NoEquals | Self::NoData | Self::Type => {
                "as `\"NAME\"=dword:0000001f`, `\"NAME\"=\"text\"`, `\"NAME\"=hex(7):61,00,…` or `\"NAME\"=-`, in lower case"
            }
            Self::TextOpen => {
                r#"text stands on one line; `\"` is a quotation mark in it, and `\\` a backslash"#
            }
            Self::Nul => "write the text as bytes: `hex(1):…`",
            Self::Number => "as `dword:0000001f`",
            Self::Byte | Self::NoComma | Self::Continuation => {
                "there are commas between bytes; a line that goes on ends in `,\\`, and the next one begins with a byte"
            }
            Self::CutOff => "the last line of a value has no backslash at its end",
            Self::Rest => "a comment begins with `;`",
        }
    }
}

/// Reads all lines of a text.
///
/// # Errors
/// It is no registration file: what is on its first line.
pub fn read(text: &str) -> Result<Vec<Item>, (Range<usize>, Malformed)> {
    let mut lines = Lines { text, next: 0 };
    let first = lines.next().unwrap_or(0..0);
    let header = text[first.clone()].trim_start_matches(BLANKS);
    let wide = match header {
        VERSION_5 => true,
        VERSION_4 => false,
        _ if header.starts_with("REGEDIT") => return Err((first, Malformed::OtherHeader)),
        _ => return Err((first, Malformed::Header)),
    };
    let mut items = Vec::new();
    while let Some(line) = lines.next() {
        let mut cursor = Cursor { text, at: line.start, end: line.end };
        cursor.blanks();
        let read = match cursor.peek() {
            // Of a line that begins so nothing is taken, which makes it a comment.
            None | Some(';' | '#') => continue,
            Some('[') => key(&mut cursor),
            Some('"' | '@') => value(&mut cursor, &mut lines, wide).map(Item::Value),
            Some(_) => Err((cursor.rest(), Malformed::NoLine)),
        };
        items.push(read.unwrap_or_else(|(span, what)| Item::Malformed { span, what }));
    }
    Ok(items)
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Each line, without its end.
struct Lines<'a> {
    text: &'a str,
    next: usize,
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let rest = self.text.get(self.next..).filter(|rest| !rest.is_empty())?;
        let start = self.next;
        let end = start + rest.find('\n').unwrap_or(rest.len());
        self.next = end + 1;
        Some(start..end)
    }
}

/// A place on a line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

type Read<T> = Result<T, (Range<usize>, Malformed)>;

impl<'a> Cursor<'a> {
    fn left(&self) -> &'a str {
        &self.text[self.at..self.end]
    }

    fn rest(&self) -> Range<usize> {
        self.at..self.end
    }

    fn peek(&self) -> Option<char> {
        self.left().chars().next()
    }

    fn skip(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take(&mut self, text: &str) -> bool {
        let there = self.left().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    fn blanks(&mut self) {
        self.at = self.end - self.left().trim_start_matches(BLANKS).len();
    }

    /// Nothing but blanks and a comment is left.
    fn finish(&mut self) -> Read<()> {
        self.blanks();
        if matches!(self.peek(), None | Some(';')) { Ok(()) } else { Err((self.rest(), Malformed::Rest)) }
    }

    /// What stands between this quotation mark and the next one; and the first backslash that is lost.
    fn quoted(&mut self, open: Malformed) -> Read<(String, Option<Range<usize>>)> {
        let start = self.at;
        self.skip();
        let (mut text, mut lost) = (String::new(), None);
        loop {
            let at = self.at;
            match self.skip() {
                None => return Err((start..self.end, open)),
                Some('"') => return Ok((text, lost)),
                Some('\0') => return Err((at..self.at, Malformed::Nul)),
                Some('\\') => match self.skip() {
                    None => return Err((start..self.end, open)),
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('0' | '\0') => return Err((at..self.at, Malformed::Nul)),
                    Some(other) => {
                        if !matches!(other, '\\' | '"') && lost.is_none() {
                            lost = Some(at..self.at);
                        }
                        text.push(other);
                    }
                },
                Some(other) => text.push(other),
            }
        }
    }
}

fn key(cursor: &mut Cursor<'_>) -> Read<Item> {
    let whole = cursor.rest();
    cursor.skip();
    // A key's name may have brackets in it.
    let close = cursor.left().rfind(']').ok_or((whole.clone(), Malformed::KeyOpen))?;
    let end = cursor.at + close;
    let removed = cursor.take("-");
    let name = cursor.text.get(cursor.at..end).unwrap_or_default();
    if name.starts_with(BLANKS) {
        return Err((whole, Malformed::KeyBlank));
    }
    let (name, span) = (name.to_owned(), whole.start..end + 1);
    Ok(if removed { Item::RemovedKey { name, span } } else { Item::Key { name, span } })
}

fn value(cursor: &mut Cursor<'_>, lines: &mut Lines<'_>, wide: bool) -> Read<Value> {
    let start = cursor.at;
    let (name, mut lost_backslash) =
        if cursor.take("@") { (String::new(), None) } else { cursor.quoted(Malformed::NameOpen)? };
    let name_span = start..cursor.at;
    cursor.blanks();
    if !cursor.take("=") {
        return Err((start..cursor.end, Malformed::NoEquals));
    }
    cursor.blanks();
    let data_span = cursor.at..cursor.at + cursor.left().trim_end_matches(BLANKS).len();
    let data = match cursor.peek() {
        None => return Err((start..cursor.end, Malformed::NoData)),
        Some('-') => {
            cursor.skip();
            cursor.finish()?;
            Data::Removed
        }
        Some('"') => {
            let (text, lost) = cursor.quoted(Malformed::TextOpen)?;
            cursor.finish()?;
            lost_backslash = lost_backslash.or(lost);
            Data::Set(REG_SZ, text_bytes(&text))
        }
        Some(_) if cursor.take("dword:") => Data::Set(REG_DWORD, number(cursor)?),
        Some(_) => {
            let kind = binary_type(cursor).ok_or((data_span.clone(), Malformed::Type))?;
            let bytes = binary(cursor, lines)?;
            Data::Set(kind, if wide { bytes } else { widened(kind, bytes) })
        }
    };
    Ok(Value { name, name_span, data_span, span: start..cursor.end, lost_backslash, data })
}

/// Text as the registry has it.
pub fn text_bytes(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// Texts as the registry has them, each with an end and the list with another. Of none, that is all there is.
pub fn list_bytes<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    texts.into_iter().flat_map(text_bytes).chain([0; 2]).collect()
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_hexdigit).count()
}

fn number(cursor: &mut Cursor<'_>) -> Read<Vec<u8>> {
    cursor.blanks();
    let whole = cursor.rest();
    let digits = digits(cursor.left());
    let number = (1..=8).contains(&digits).then(|| u32::from_str_radix(&cursor.left()[..digits], 16));
    let Some(Ok(number)) = number else { return Err((whole, Malformed::Number)) };
    cursor.at += digits;
    cursor.finish().map_err(|_| (whole, Malformed::Number))?;
    Ok(number.to_le_bytes().to_vec())
}

/// `hex:` is REG_BINARY, `hex(N):` the type of that number.
fn binary_type(cursor: &mut Cursor<'_>) -> Option<u32> {
    if cursor.take("hex:") {
        return Some(REG_BINARY);
    }
    if !cursor.take("hex(") {
        return None;
    }
    let digits = digits(cursor.left());
    let kind = u32::from_str_radix(&cursor.left()[..digits], 16).ok()?;
    cursor.at += digits;
    cursor.take("):").then_some(kind)
}

/// Bytes, on this line and on those that continue it.
fn binary(cursor: &mut Cursor<'_>, lines: &mut Lines<'_>) -> Read<Vec<u8>> {
    let mut bytes = Vec::new();
    // Whether a byte may stand here, or the backslash of a line that goes on.
    let mut open = true;
    loop {
        cursor.blanks();
        match cursor.peek() {
            None | Some(';') => return Ok(bytes),
            Some('\\') => {
                let backslash = cursor.at..cursor.at + 1;
                if !open {
                    return Err((backslash, Malformed::NoComma));
                }
                cursor.skip();
                cursor.finish()?;
                *cursor = continued(cursor.text, lines).ok_or((backslash, Malformed::CutOff))?;
                if digits(cursor.left()) == 0 {
                    return Err((cursor.rest(), Malformed::Continuation));
                }
            }
            Some(_) if open => {
                let digits = digits(cursor.left());
                let byte = (1..=2).contains(&digits).then(|| &cursor.left()[..digits]);
                let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(byte.ok_or((cursor.rest(), Malformed::Byte))?);
                cursor.at += digits;
                open = cursor.take(",");
            }
            Some(_) => return Err((cursor.rest(), Malformed::Byte)),
        }
    }
}

/// The next line that is more than blanks and a comment.
fn continued<'a>(text: &'a str, lines: &mut Lines<'_>) -> Option<Cursor<'a>> {
    loop {
        let line = lines.next()?;
        let mut cursor = Cursor { text, at: line.start, end: line.end };
        cursor.blanks();
        if !matches!(cursor.peek(), None | Some(';')) {
            return Some(cursor);
        }
    }
}

/// Texts in a file of the older version are in the machine's code page, and become UTF-16.
fn widened(kind: u32, bytes: Vec<u8>) -> Vec<u8> {
    if !matches!(kind, REG_SZ | REG_EXPAND_SZ | REG_MULTI_SZ) {
        return bytes;
    }
    let text = WINDOWS_1252.decode_without_bom_handling(&bytes).0;
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The longest line of bytes that Registry Editor writes.
const LINE: usize = 80;

/// A value's line, as Registry Editor writes it.
pub fn written(name: &str, kind: u32, bytes: &[u8]) -> String {
    let mut line = if name.is_empty() { "@=".to_owned() } else { format!("\"{}\"=", escaped(name)) };
    match (kind, <[u8; 4]>::try_from(bytes)) {
        (REG_DWORD, Ok(number)) => return format!("{line}dword:{:08x}\r\n", u32::from_le_bytes(number)),
        (REG_SZ, _) if let Some(text) = plain(bytes) => return format!("{line}\"{}\"\r\n", escaped(&text)),
        (REG_BINARY, _) => line += "hex:",
        _ => {
            let _infallible = write!(line, "hex({kind:x}):");
        }
    }
    let mut length = line.len();
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            line.push(',');
            length += 1;
            // Behind the byte there are a comma and a backslash, perhaps.
            if length + 4 > LINE {
                line += "\\\r\n  ";
                length = 2;
            }
        }
        let _infallible = write!(line, "{byte:02x}");
        length += 2;
    }
    line + "\r\n"
}

/// Text that can stand between quotation marks, if the bytes are such.
fn plain(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks() else { return None };
    let units: Vec<_> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let text = String::from_utf16(units.strip_suffix(&[0])?).ok()?;
    let one_line = !text.contains(['\0', '\r', '\n']);
    one_line.then_some(text)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// The first line of a file.
pub fn header() -> String {
    format!("{VERSION_5}\r\n")
}

/// A text as Registry Editor saves it: UTF-16 with a mark.
pub fn encode(text: &str) -> Vec<u8> {
    [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}
