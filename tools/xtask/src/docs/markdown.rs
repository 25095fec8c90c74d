//! The blocks of a document that something is done with.

use std::fmt;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Sh,
    Background,
    Follows,
    Steps,
    Console {
        /// The commands are refused.
        refused: bool,
    },
    Cmd,
    NotRun,
    /// To be written to a file of this name.
    File(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sh => f.write_str("sh"),
            Self::Background => f.write_str("sh background"),
            Self::Follows => f.write_str("sh follows"),
            Self::Steps => f.write_str("sh step"),
            Self::Console { refused: false } => f.write_str("console"),
            Self::Console { refused: true } => f.write_str("console refused"),
            Self::Cmd => f.write_str("cmd"),
            Self::NotRun => f.write_str("cmd not-run"),
            Self::File(name) => write!(f, "the file {name}"),
        }
    }
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub kind: Kind,
    /// Where it starts in the document, from 1.
    pub line: usize,
    pub text: String,
}

/// What only shows something.
const SHOWN: [&str; 7] = ["text", "mermaid", "json", "toml", "reg", "rust", "c"];

/// The blocks of a document of the tree.
///
/// # Errors
/// It cannot be read, or has a block of which it is not said what it is.
pub fn read(name: &str) -> Result<Vec<Block>, String> {
    parse(&super::text(name)?).map_err(|error| format!("{name}:{error}"))
}

/// The blocks of a text.
fn parse(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut open = None;
    for (event, range) in Parser::new(text).into_offset_iter() {
        let line = 1 + text.get(..range.start).map_or(0, |before| before.matches('\n').count());
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                return Err(format!("{line}: an indented block: put a fence around it, and say what it is"));
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(words))) => {
                let kind = kind(&words).map_err(|error| format!("{line}: {error}"))?;
                open = Some((kind, line, String::new()));
            }
            Event::Text(part) => {
                if let Some((_, _, text)) = &mut open {
                    text.push_str(&part);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((Some(kind), line, text)) = open.take() {
                    blocks.push(Block { kind, line, text });
                }
            }
            _ => {}
        }
    }
    Ok(blocks)
}

/// What the words behind a fence say; none for what is only shown.
fn kind(words: &str) -> Result<Option<Kind>, String> {
    let words: Vec<_> = words.split_whitespace().collect();
    Ok(Some(match *words {
        ["sh"] => Kind::Sh,
        ["sh", "background"] => Kind::Background,
        ["sh", "follows"] => Kind::Follows,
        ["sh", "step"] => Kind::Steps,
        ["console"] => Kind::Console { refused: false },
        ["console", "refused"] => Kind::Console { refused: true },
        ["cmd"] => Kind::Cmd,
        ["cmd", "not-run"] => Kind::NotRun,
        [language] if SHOWN.contains(&language) => return Ok(None),
        [language, name] if SHOWN.contains(&language) && name.contains('.') => Kind::File(name.to_owned()),
        _ => return Err(format!("`{}` behind a fence says nothing that is known", words.join(" "))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_stands_behind_its_fence() {
        let text = "# A\n\n```sh\na\nb\n```\n\n```text\nc\n```\n\n```reg d.reg\ne\n```\n- in a list:\n\n  ```console refused\n  $ f\n  ```\n";
        let block = |kind, line, text: &str| Block { kind, line, text: text.to_owned() };
        assert_eq!(
            parse(text),
            Ok(vec![
                block(Kind::Sh, 3, "a\nb\n"),
                block(Kind::File("d.reg".to_owned()), 12, "e\n"),
                block(Kind::Console { refused: true }, 17, "$ f\n"),
            ])
        );
    }

    #[test]
    fn a_block_that_does_not_say_what_it_is_is_refused() {
        for text in ["```\na\n```\n", "```sh now\na\n```\n", "a\n\n    b\n", "```reg name\n```\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
