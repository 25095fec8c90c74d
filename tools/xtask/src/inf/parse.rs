//! Reads an INF: bytes to text, text to sections of entries (page "General Syntax Rules for INF Files").
//!
//! Nothing is refused but what Windows' parser refuses. Whatever the bytes, it ends with an INF or with an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// A section's name, or a field, can have that many characters, with the terminator for a field.
const MAX_SECTION: usize = 255;
const MAX_FIELD: usize = 4096;

/// What the file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A code page.
    Ansi,
    /// UTF-16 of the low byte first, with its mark.
    Utf16,
    /// Another one, which InfVerif does not take, and which could be read all the same.
    Other(&'static str),
}

/// The text of a file.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<(String, Encoding), &'static str> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks();
        let units: Vec<_> = pairs.iter().map(|pair| unit(*pair)).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or("UTF-16 that is not whole")
    };
    let (text, encoding) = if let Some(rest) = bytes.strip_prefix(b"\xff\xfe") {
        (utf16(rest, u16::from_le_bytes)?, Encoding::Utf16)
    } else if let Some(rest) = bytes.strip_prefix(b"\xfe\xff") {
        (utf16(rest, u16::from_be_bytes)?, Encoding::Other("UTF-16 of the other byte order"))
    } else if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        let text = str::from_utf8(rest).map_err(|_| "UTF-8 that is not whole")?;
        (text.to_owned(), Encoding::Other("UTF-8 with a mark"))
    } else if bytes.get(1) == Some(&0) {
        (utf16(bytes, u16::from_le_bytes)?, Encoding::Other("UTF-16 without a mark"))
    } else {
        // Of a code page, of which nothing that has a meaning in an INF depends on.
        (bytes.iter().map(|byte| char::from(*byte)).collect(), Encoding::Ansi)
    };
    if text.contains('\0') { Err("binary data") } else { Ok((text, encoding)) }
}

/// A value, or a key: without the quotation marks around it, and with its `%tokens%` as they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// The characters.
    pub raw: String,
}

/// A line of a section, continued ones together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first of its lines in the file, from 1.
    pub line: usize,
    /// What stands before the sign of equality.
    pub key: Option<Field>,
    /// What stands after it, by commas.
    pub fields: Vec<Field>,
}

/// A section, as often as it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Without its brackets.
    pub name: String,
    /// Where its name is, from 1.
    pub line: usize,
    /// What follows.
    pub entries: Vec<Entry>,
}

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inf {
    /// In the order of the file.
    pub sections: Vec<Section>,
    /// The `[Strings]`, names in lower case.
    strings: BTreeMap<String, String>,
}

/// Why a file is no INF, with the number that SetupAPI has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where it is, from 1.
    pub line: usize,
    /// `0xE0000001` and its neighbours.
    pub number: u32,
    /// What is wrong.
    pub what: &'static str,
}

/// ERROR_BAD_SECTION_NAME_LINE and its neighbours (setupapi.h).
const BAD_SECTION_NAME_LINE: u32 = 0xE000_0001;
const SECTION_NAME_TOO_LONG: u32 = 0xE000_0002;
const GENERAL_SYNTAX: u32 = 0xE000_0003;

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:08X})", self.what, self.number)
    }
}

/// Lines that belong together, without comments, and with the backslash that continues a line gone.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, line) in text.lines().enumerate() {
        let mut quoted = false;
        let end = line.char_indices().find(|(_, character)| {
            quoted ^= *character == '"';
            *character == ';' && !quoted
        });
        // In a quoted string neither a semicolon nor a backslash at the end means anything.
        let open = quoted && end.is_none();
        let content = end.map_or(line, |(at, _)| &line[..at]).trim();
        let (content, goes_on) = match content.strip_suffix('\\') {
            Some(rest) if !open && !content.starts_with('[') => (rest.trim_end(), true),
            _ => (content, false),
        };
        match joined.last_mut().filter(|_| continued) {
            Some((_, before)) => before.push_str(content),
            None => joined.push((index + 1, content.to_owned())),
        }
        continued = goes_on;
    }
    joined
}

/// Fields of a line; the key is the first where a sign of equality, and not a comma, follows it.
fn fields(content: &str) -> (Option<Field>, Vec<Field>) {
    let mut key = None;
    let mut fields: Vec<Field> = Vec::new();
    let (mut raw, mut quoted) = (String::new(), false);
    // Blanks are kept where they are between what is not blank, or quoted.
    let mut kept = 0;
    let mut characters = content.chars().peekable();
    let done = |raw: &mut String, kept: &mut usize| {
        raw.truncate((*kept).max(raw.trim_end().len()));
        *kept = 0;
        Field { raw: std::mem::take(raw) }
    };
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                raw.push('"');
                kept = raw.len();
            }
            '"' => {
                quoted = !quoted;
                kept = kept.max(if quoted { 0 } else { raw.len() });
            }
            ',' if !quoted => fields.push(done(&mut raw, &mut kept)),
            '=' if !quoted && key.is_none() && fields.is_empty() => key = Some(done(&mut raw, &mut kept)),
            _ if character.is_whitespace() && !quoted && raw.is_empty() => {}
            _ => raw.push(character),
        }
    }
    fields.push(done(&mut raw, &mut kept));
    (key, fields)
}

/// The name of a section, if the line begins one.
fn heading(line: usize, content: &str) -> Result<Option<&str>, SyntaxError> {
    let Some(rest) = content.strip_prefix('[') else { return Ok(None) };
    let error = |number, what| Err(SyntaxError { line, number, what });
    match rest.split_once(']') {
        None => error(BAD_SECTION_NAME_LINE, "a section's name without its closing bracket"),
        Some((_, after)) if !after.trim().is_empty() => {
            error(BAD_SECTION_NAME_LINE, "something behind a section's name")
        }
        Some((name, _)) if name.chars().count() > MAX_SECTION => {
            error(SECTION_NAME_TOO_LONG, "a section's name of more than 255 characters")
        }
        Some((name, _)) => Ok(Some(name.trim())),
    }
}

/// Reads a text.
///
/// # Errors
/// The first line that is wrong.
pub fn parse(text: &str) -> Result<Inf, SyntaxError> {
    let mut inf = Inf::default();
    for (line, content) in joined(text) {
        if content.is_empty() {
            continue;
        }
        if let Some(name) = heading(line, &content)? {
            inf.sections.push(Section { name: name.to_owned(), line, entries: Vec::new() });
            continue;
        }
        // Before the first section there may be anything.
        let Some(section) = inf.sections.last_mut() else { continue };
        let (key, fields) = fields(&content);
        if key.iter().chain(&fields).any(|field| field.raw.chars().count() >= MAX_FIELD) {
            let what = "a field of more than 4095 characters";
            return Err(SyntaxError { line, number: GENERAL_SYNTAX, what });
        }
        section.entries.push(Entry { line, key, fields });
    }
    let strings = inf.sections.iter().filter(|section| section.name.eq_ignore_ascii_case("Strings"));
    let strings = strings.flat_map(|section| &section.entries).filter_map(|entry| {
        Some((entry.key.as_ref()?.raw.to_ascii_lowercase(), entry.fields.first()?.raw.clone()))
    });
    // The first one holds.
    let mut known = BTreeMap::new();
    for (name, value) in strings {
        known.entry(name).or_insert(value);
    }
    inf.strings = known;
    Ok(inf)
}

/// A piece of a text with tokens.
enum Piece<'a> {
    Text(&'a str),
    Token(&'a str),
}

/// Text and `%tokens%`; of `%%`, a sign of percent.
fn pieces(raw: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('%') {
        pieces.push(Piece::Text(before));
        rest = match after.split_once('%') {
            Some(("", after)) => {
                pieces.push(Piece::Text("%"));
                after
            }
            Some((name, after)) => {
                pieces.push(Piece::Token(name));
                after
            }
            None => {
                pieces.push(Piece::Text("%"));
                after
            }
        };
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Whether a token is a directory's number, as in `%13%\weir.sys`.
fn is_dirid(name: &str) -> bool {
    let digits = name.strip_prefix('-').unwrap_or(name);
    !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

impl Inf {
    /// The entries of all sections of that name; case does not matter.
    pub fn entries(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.sections(name).flat_map(|section| &section.entries)
    }

    /// The sections of that name.
    pub fn sections(&self, name: &str) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(move |section| section.name.eq_ignore_ascii_case(name))
    }

    /// The first section of that name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections(name).next()
    }

    /// A field with its tokens replaced; directories' numbers, and what is not known, stay as `%token%`.
    pub fn text(&self, field: &Field) -> String {
        let piece = |piece| match piece {
            Piece::Text(text) => Cow::from(text),
            Piece::Token(name) => match self.strings.get(&name.to_ascii_lowercase()) {
                Some(value) => Cow::from(value.as_str()),
                None => Cow::from(format!("%{name}%")),
            },
        };
        pieces(&field.raw).into_iter().map(piece).collect()
    }

    /// The tokens of a field that no string has, directories' numbers aside.
    pub fn unknown<'f>(&self, field: &'f Field) -> Vec<&'f str> {
        let unknown = |piece| match piece {
            Piece::Token(name) if !is_dirid(name) => Some(name),
            _ => None,
        };
        let tokens = pieces(&field.raw).into_iter().filter_map(unknown);
        tokens.filter(|name| !self.strings.contains_key(&name.to_ascii_lowercase())).collect()
    }
}
