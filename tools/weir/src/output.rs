//! What the commands print, and what they exit with: 0 done, 1 refused or failed, 2 wrong usage.

use std::io::{self, Read as _, Write};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Why a command did not do what it was to.
#[derive(Debug)]
pub enum Failure {
    /// It was refused, or has failed.
    Failed(String),
    /// It was not asked for as it must be.
    Usage(String),
}

impl<T: ToString> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Failed(message.to_string())
    }
}

/// Says what went wrong, if something did, and gives the exit code.
pub fn done<E: Into<Failure>>(result: Result<(), E>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let (code, message) = match failure.into() {
        Failure::Failed(message) => (ExitCode::FAILURE, message),
        Failure::Usage(message) => (ExitCode::from(2), message),
    };
    anstream::eprintln!("weir: {message}");
    code
}

/// Prints to standard output; a reader that has gone away is no error.
///
/// # Errors
/// A text for people.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
    let mut out = io::BufWriter::new(anstream::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// The whole of a file; `-` is standard input.
///
/// # Errors
/// A text for people.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|all| bytes = all)
    };
    read.map(|()| bytes).map_err(|error| format!("{}: {error}", file.display()))
}

/// Prints an object on a line of its own, with what it tells of first.
pub fn json_line(out: &mut dyn Write, event: &'static str, value: &impl Serialize) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a, T> {
        event: &'static str,
        #[serde(flatten)]
        value: &'a T,
    }
    serde_json::to_writer(&mut *out, &Line { event, value })?;
    writeln!(out)
}

/// So many of something.
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A table for people: columns with their names, those of numbers to the right.
pub fn table<const N: usize>(head: [&str; N], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number of bytes for people.
#[expect(clippy::cast_precision_loss, reason = "three digits for people")]
pub fn bytes(count: u64) -> String {
    let mut rest = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if rest < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{rest:.1} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} PiB")
}

/// How long something took or lasts, in units of 100 ns, for people.
pub fn span(units: u64) -> String {
    let seconds = units / 10_000_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        for (count, text) in
            [(0, "0 B"), (999, "999 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (u64::MAX, "16384.0 PiB")]
        {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(59, "59 s"), (61, "1 min 01 s"), (7320, "2 h 02 min"), (180_000, "2 d 02 h")]
        {
            assert_eq!(span(seconds * 10_000_000), text);
        }
    }
}
