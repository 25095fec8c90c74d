//! `weir config`: what can be set, and what is wrong with a registration file. `CONFIG.md` describes it.

mod check;
pub mod form;
mod mask;
mod path;
mod reason;
pub mod reg;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use weir::config::schema::{self, Kind, Setting, TABLE};

pub use check::{Checked, Effective, Finding, Origin, Other, check};

use crate::output::{Failure, done, json_line, plural, print, read, table};
pub use crate::source::Severity;
use crate::source::{self, Shown, Source};

/// Says what can be set in the registry, and checks registration files
///
/// The settings are described in inf/REGISTRY.md, these commands in tools/weir/CONFIG.md.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Explain(ExplainArgs),
    Check(CheckArgs),
    Default(DefaultArgs),
}

/// Says of each setting what it is, what it may be, and when it takes effect
///
/// Exits with 0; with 2 if there is no such setting.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// Settings, in any case; without one, all of them in a table
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print a JSON object a line, for each setting
    #[arg(long)]
    json: bool,
}

/// Checks a registration file (.reg), and says what the driver would make of it
///
/// Exits with 0 if all of it would be taken (with warnings, too), with 1 if it would not, with 2 if the file cannot be
/// read.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// The file, as Registry Editor or `reg export` writes it; `-` is standard input
    file: PathBuf,
    /// Print one JSON object a line: {"event":"finding", …} for each fault, warning and note, {"event":"setting", …} for
    /// each setting as the driver would have it, then {"event":"summary", …}
    #[arg(long)]
    json: bool,
    /// Exit with 1 on warnings, too
    #[arg(long)]
    strict: bool,
}

/// Prints a registration file with every default, to begin with
///
/// Keep the lines that you change, and remove the others: what is not in the registry has its default, also a later
/// one.
#[derive(clap::Args, Debug)]
pub struct DefaultArgs {
    /// Write it to this file instead, as Registry Editor would: in UTF-16
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs a command.
pub fn run(command: &Command) -> ExitCode {
    match command {
        Command::Explain(args) => done(explain(args)),
        Command::Check(args) => match run_check(args) {
            Ok(code) => code,
            Err(message) => done(Err(Failure::Usage(message))),
        },
        Command::Default(args) => done(default(args)),
    }
}

fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let mut settings = Vec::new();
    for name in &args.names {
        let setting = schema::find(name).ok_or_else(|| {
            let near = reason::nearest(name).map(|near| format!("; did you mean {near}?"));
            Failure::Usage(format!("there is no setting {name}{}", near.unwrap_or_default()))
        })?;
        settings.push(setting);
    }
    let printed = match (args.json, settings.is_empty()) {
        (true, true) => print(|out| TABLE.iter().try_for_each(|setting| explain_json(out, setting))),
        (true, false) => print(|out| settings.iter().try_for_each(|setting| explain_json(out, setting))),
        (false, true) => print(explain_all),
        (false, false) => print(|out| {
            for (index, setting) in settings.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                explain_one(out, setting)?;
            }
            Ok(())
        }),
    };
    Ok(printed?)
}

/// How wide text is for people.
const WIDTH: usize = 100;

/// Words on lines no wider than that.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn default_in_words(setting: &Setting) -> &'static str {
    if setting.default.is_empty() { "none" } else { setting.default }
}

fn explain_all(out: &mut dyn Write) -> io::Result<()> {
    let mut table = table(["name", "type", "default", "changes", "range"], &[]);
    for setting in TABLE {
        let kind = setting.kind;
        let types = kind.registry_types().iter().map(|kind| form::type_name(*kind)).collect::<Vec<_>>();
        let (changes, _) = form::changes(setting.applies);
        let range = form::range(kind);
        table.add_row([setting.name, &types.join("/"), default_in_words(setting), changes, &range]);
    }
    writeln!(out, "{table}")
}

fn explain_one(out: &mut dyn Write, setting: &Setting) -> io::Result<()> {
    writeln!(out, "{}", setting.name)?;
    for line in wrapped(setting.doc, WIDTH - 2) {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\n  type     {}", form::types(setting.kind))?;
    writeln!(out, "  range    {}", form::range(setting.kind))?;
    writeln!(out, "  default  {}", default_in_words(setting))?;
    writeln!(out, "  changes  {}", form::changes(setting.applies).1)?;
    for (index, line) in form::grammar(setting.kind).iter().enumerate() {
        writeln!(out, "  {}  {line}", if index == 0 { "entries" } else { "       " })?;
    }
    if let Some(command) = form::command(setting) {
        writeln!(out, "  command  {command}")?;
    }
    Ok(())
}

fn explain_json(out: &mut dyn Write, setting: &Setting) -> io::Result<()> {
    let kind = setting.kind;
    let mut object = json!({
        "name": setting.name,
        "types": kind.registry_types().iter().map(|kind| form::type_name(*kind)).collect::<Vec<_>>(),
        "range": form::range(kind),
        "default": setting.default,
        "changes": form::changes(setting.applies).0,
        "doc": wrapped(setting.doc, usize::MAX).join(" "),
    });
    match kind {
        Kind::Number { minimum, maximum, power_of_two, unit } => {
            object["minimum"] = minimum.into();
            object["maximum"] = maximum.into();
            object["power_of_two"] = power_of_two.into();
            object["unit"] = unit.into();
        }
        Kind::Choice(values) => {
            object["values"] =
                values.iter().map(|(number, name)| json!({ "number": number, "name": name })).collect();
        }
        _ => object["maximum_bytes"] = kind.maximum_size().into(),
    }
    let grammar = form::grammar(kind);
    if !grammar.is_empty() {
        object["grammar"] = grammar.into();
    }
    if let Some(command) = form::command(setting) {
        object["command"] = command.into();
    }
    writeln!(out, "{object}")
}

fn run_check(args: &CheckArgs) -> Result<ExitCode, String> {
    #[derive(Serialize)]
    struct Summary<'a> {
        file: &'a str,
        ok: bool,
        faults: usize,
        warnings: usize,
        notes: usize,
        keys: &'a [String],
        not_read: &'a [Other],
    }
    let checked = check(&read(&args.file)?);
    let count = |severity| checked.count(severity);
    let (faults, warnings) = (count(Severity::Fault), count(Severity::Warning));
    let ok = faults == 0 && !(args.strict && warnings > 0);
    let file = &*args.file.display().to_string();
    print(|out| {
        if !args.json {
            return report(out, &checked, file);
        }
        for finding in &checked.findings {
            json_line(out, "finding", finding)?;
        }
        for setting in &checked.effective {
            json_line(out, "setting", setting)?;
        }
        let (notes, keys, not_read) = (count(Severity::Note), &*checked.keys, &*checked.others);
        json_line(out, "summary", &Summary { file, ok, faults, warnings, notes, keys, not_read })
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many keys that are not read are named.
const NAMED: usize = 5;

/// What was found, for people.
///
/// # Errors
/// It cannot be written.
pub fn report(out: &mut dyn Write, checked: &Checked, file: &str) -> io::Result<()> {
    let source = Source::new(&checked.text);
    for Finding { severity, span, message, help, .. } in &checked.findings {
        if *severity != Severity::Note {
            let shown = Shown { severity: *severity, span, message, help: help.as_deref() };
            source::show(out, &source, file, &shown)?;
        }
    }
    for Finding { line, message, help, .. } in
        checked.findings.iter().filter(|finding| finding.severity == Severity::Note)
    {
        let help = help.as_ref().map_or_else(String::new, |help| format!(": {help}"));
        writeln!(out, "{file}:{line}: note: {message}{help}")?;
    }
    for Other { key, line } in checked.others.iter().take(NAMED) {
        writeln!(out, "{file}:{line}: note: not read by weir: {}", reason::printable(key))?;
    }
    if let Some(more) = checked.others.len().checked_sub(NAMED).filter(|more| *more > 0) {
        writeln!(out, "{file}: note: and {} that weir does not read", plural(more, "more key"))?;
    }
    if !checked.effective.is_empty() {
        let mut table = table(["setting", "value", "from", "line"], &[3]);
        for Effective { name, value, origin, line } in &checked.effective {
            let value = if value.is_empty() { "none".to_owned() } else { value.join("\n") };
            let line = line.map_or_else(String::new, |line| line.to_string());
            table.add_row([*name, &value, origin.name(), &line]);
        }
        writeln!(out, "\nWhere nothing else is set, the driver would have:\n\n{table}\n")?;
    }
    let [faults, warnings, notes] =
        [Severity::Fault, Severity::Warning, Severity::Note].map(|severity| checked.count(severity));
    let mut told = if faults == 0 { "good".to_owned() } else { plural(faults, "fault") };
    for (count, what) in [(warnings, "warning"), (notes, "note")] {
        if count > 0 {
            let _infallible = write!(told, ", {}", plural(count, what));
        }
    }
    writeln!(out, "{file}: {told}")
}

/// A registration file with every default that there is.
pub fn default_file() -> String {
    let mut file = reg::header();
    file += "\r\n; weir's settings, each with its default. Keep the lines that you change, and remove the others: what is\r\n\
             ; not in the registry has its default.\r\n";
    let _infallible = write!(file, "\r\n[HKEY_LOCAL_MACHINE\\{}]\r\n", form::PARAMETERS);
    for setting in TABLE {
        file += "\r\n";
        let about = format!("{} {}: {}.", setting.doc, form::types(setting.kind), form::range(setting.kind));
        for line in wrapped(&about, WIDTH) {
            let _infallible = write!(file, "; {line}\r\n");
        }
        if let Some((kind, bytes)) = form::default_value(setting) {
            file += &reg::written(setting.name, kind, &bytes);
        } else {
            let _infallible = write!(file, "; \"{}\"=\r\n", setting.name);
        }
    }
    file
}

fn default(args: &DefaultArgs) -> Result<(), String> {
    let file = default_file();
    match &args.output {
        None => print(|out| out.write_all(file.as_bytes())),
        Some(path) => {
            std::fs::write(path, reg::encode(&file)).map_err(|error| format!("{}: {error}", path.display()))
        }
    }
}
