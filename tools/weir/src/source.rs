//! A text that is checked, and findings in it as people see them: with the line, and a mark below the place.

use std::io::{self, Write};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What it is about is not taken.
    Fault,
    /// It is, but hardly means what it says.
    Warning,
    /// It is worth knowing.
    Note,
}

/// The text, and where its lines begin.
pub struct Source<'a> {
    pub text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines }
    }

    /// Line and column, from 1, of a byte.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= at);
        let before = self.text.get(self.lines[line - 1]..at).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The lines that a span touches, and at which byte they begin.
    pub fn lines(&self, span: &Range<usize>) -> (&'a str, usize) {
        let start = self.lines[self.position(span.start).0 - 1];
        let last = self.position(span.end.max(span.start)).0;
        let end = self.lines.get(last).copied().unwrap_or(self.text.len());
        (self.text[start..end].trim_end_matches(['\n', '\r']), start)
    }
}

/// What is shown of a finding.
pub struct Shown<'a> {
    pub severity: Severity,
    pub span: &'a Range<usize>,
    pub message: &'a str,
    pub help: Option<&'a str>,
}

/// Prints a finding with the line that it is about.
pub fn show(out: &mut dyn Write, source: &Source<'_>, file: &str, found: &Shown<'_>) -> io::Result<()> {
    let level = match found.severity {
        Severity::Fault => Level::ERROR.with_name("fault"),
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let (lines, start) = source.lines(found.span);
    let from = (found.span.start - start).min(lines.len());
    let to = found.span.end.saturating_sub(start).clamp(from, lines.len());
    let snippet = Snippet::source(lines).path(file).line_start(source.position(found.span.start).0);
    let group: Group<'_> = level
        .primary_title(found.message)
        .element(snippet.annotation(AnnotationKind::Primary.span(from..to)));
    let group = match found.help {
        Some(help) => group.element(Level::HELP.message(help)),
        None => group,
    };
    writeln!(out, "{}\n", Renderer::styled().render(&[group]))
}
