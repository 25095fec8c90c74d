//! `weir policy`: checks policies and explains what they decide.

use super::finding::Finding;
use super::parser::PROTOCOLS;
use super::{Compiled, app_bytes, compile};
use crate::output::{json_line, plural, print, read};
use crate::source::{self, Severity, Shown, Source};
use serde::Serialize;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use weir::policy::format::MAGIC;
use weir::policy::{Action, App, Direction, Family, Fields, Image, Tuple};

/// Checks policies and explains what they decide
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Check(CheckArgs),
    Explain(ExplainArgs),
}

/// Compiles a policy and names every fault, and rules that can never match
///
/// Exits with 0 if the policy is good (with warnings, too), with 1 if it is not, with 2 if it cannot be read.
/// The language is described in tools/weir/POLICY.md.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// The policy; `-` is standard input
    file: PathBuf,
    /// Print one JSON object a line: {"event":"finding", …} for each fault and warning, then
    /// {"event":"summary", …}
    #[arg(long)]
    json: bool,
    /// Exit with 1 on warnings, too
    #[arg(long)]
    strict: bool,
    /// Write the compiled image to this file, if the policy is good
    #[arg(long, value_name = "IMAGE")]
    output: Option<PathBuf>,
}

/// Tells which rule decides a connection, and why those before it do not
///
/// What is not given is EMPTY: no rule that names it matches. Exits with 0 whatever is decided, with 1 if the
/// policy has faults, with 2 if it cannot be read.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The policy; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    tuple: TupleArgs,
    /// List every rule before the one that decides, not just those that one field alone keeps from matching
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line: {"event":"rule", …} for each rule tried, then {"event":"decision", …}
    #[arg(long)]
    json: bool,
}

/// A connection to ask about.
#[derive(clap::Args, Debug)]
pub struct TupleArgs {
    /// Who opens the connection: a remote host (in) or this one (out)
    #[arg(long, value_parser = direction)]
    pub direction: Direction,
    /// The protocol, by name or number
    #[arg(long, value_parser = protocol)]
    pub protocol: Option<u8>,
    /// The local address, with or without a port: 192.0.2.1:1234, 192.0.2.1, `[2001:db8::1]:1234`
    #[arg(long, value_parser = endpoint, value_name = "ADDR[:PORT]")]
    pub local: Option<Endpoint>,
    /// The remote address, with or without a port
    #[arg(long, value_parser = endpoint, value_name = "ADDR[:PORT]")]
    pub remote: Option<Endpoint>,
    /// The NT path of the application, such as '\device\harddiskvolume2\windows\system32\curl.exe'
    #[arg(long, value_name = "PATH")]
    pub app: Option<String>,
}

impl TupleArgs {
    /// The family of the addresses, IPv4 if there are none.
    ///
    /// # Errors
    /// They are of different ones.
    pub fn family(&self) -> Result<Family, String> {
        match (self.local.map(|end| end.address), self.remote.map(|end| end.address)) {
            (Some(local), Some(remote)) if local.is_ipv4() != remote.is_ipv4() => {
                Err("--local and --remote are of different families".to_owned())
            }
            (Some(address), _) | (None, Some(address)) if address.is_ipv6() => Ok(Family::V6),
            _ => Ok(Family::V4),
        }
    }
}

/// An address, and a port if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: Option<u16>,
}

fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "in" => Ok(Direction::In),
        "out" => Ok(Direction::Out),
        _ => Err("allowed: in, out".to_owned()),
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)) {
        return Ok(*number);
    }
    text.parse()
        .map_err(|_| "allowed: a number from 0 to 255, or a name such as tcp, udp, icmp, icmpv6".to_owned())
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Ok(Endpoint { address, port: None });
    }
    let with_port: SocketAddr =
        text.parse().map_err(|_| "allowed: 192.0.2.1, 192.0.2.1:80, [2001:db8::1]:80".to_owned())?;
    Ok(Endpoint { address: with_port.ip(), port: Some(with_port.port()) })
}

/// Runs a command.
pub fn run(command: &Command) -> ExitCode {
    let result = match command {
        Command::Check(args) => check(args),
        Command::Explain(args) => explain(args),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            anstream::eprintln!("weir: {message}");
            ExitCode::from(2)
        }
    }
}

/// A policy that was read, and what became of it.
struct Checked {
    text: String,
    compiled: Result<Compiled, Vec<Finding>>,
}

fn load(file: &Path) -> Result<Checked, String> {
    read(file).map(checked)
}

/// A policy's image, from its text or from the image itself. What is to be said of the text is said on standard error.
///
/// # Errors
/// A text for people: it cannot be read, or is no policy.
pub fn image(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(file)?;
    if bytes.starts_with(&MAGIC) {
        Image::validate(&bytes).map_err(|invalid| {
            let (what, at) = (invalid.what, invalid.offset);
            format!("{}: an image that no driver takes: {what:?} at byte {at}", file.display())
        })?;
        return Ok(bytes);
    }
    let (checked, file) = (checked(bytes), file.display().to_string());
    findings(&mut anstream::stderr().lock(), &checked, &file)
        .map_err(|error| format!("standard error: {error}"))?;
    let faults = checked.count(Severity::Fault);
    checked
        .compiled
        .map(|compiled| compiled.image)
        .map_err(|_| format!("{file}: {}", plural(faults, "fault")))
}

fn checked(bytes: Vec<u8>) -> Checked {
    match String::from_utf8(bytes) {
        Ok(text) => Checked { compiled: compile(&text), text },
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let finding = Source::new(&text).finding(Severity::Fault, good..good + 1, "not UTF-8");
            Checked { text, compiled: Err(vec![finding]) }
        }
    }
}

impl Checked {
    fn findings(&self) -> &[Finding] {
        match &self.compiled {
            Ok(compiled) => &compiled.warnings,
            Err(findings) => findings,
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings().iter().filter(|finding| finding.severity == severity).count()
    }
}

fn check(args: &CheckArgs) -> Result<ExitCode, String> {
    #[derive(Serialize)]
    struct Summary {
        file: String,
        ok: bool,
        faults: usize,
        warnings: usize,
        /// Rules that were not looked at for being covered by earlier ones.
        unchecked: usize,
        rules: Option<u32>,
        image_bytes: Option<usize>,
        steps: Option<u32>,
    }
    let checked = load(&args.file)?;
    let (faults, warnings) = (checked.count(Severity::Fault), checked.count(Severity::Warning));
    let ok = faults == 0 && !(args.strict && warnings > 0);
    let compiled = checked.compiled.as_ref().ok();
    let file = args.file.display().to_string();
    print(|out| {
        if args.json {
            for finding in checked.findings() {
                json_line(out, "finding", finding)?;
            }
            let summary = Summary {
                file: file.clone(),
                ok,
                faults,
                warnings,
                unchecked: compiled.map_or(0, |compiled| compiled.unchecked),
                rules: compiled.map(|compiled| compiled.stats.rules),
                image_bytes: compiled.map(|compiled| compiled.image.len()),
                steps: compiled.map(|compiled| compiled.stats.steps),
            };
            return json_line(out, "summary", &summary);
        }
        findings(out, &checked, &file)?;
        let warned = if warnings == 0 { String::new() } else { format!(", {}", plural(warnings, "warning")) };
        match compiled {
            None => writeln!(out, "{file}: {}{warned}", plural(faults, "fault")),
            Some(compiled) => {
                let rules = plural(compiled.stats.rules as usize, "rule");
                writeln!(out, "{file}: good: {rules}, an image of {} bytes{warned}", compiled.image.len())?;
                if compiled.unchecked > 0 {
                    let unchecked = plural(compiled.unchecked, "rule");
                    writeln!(
                        out,
                        "{unchecked} could not be checked for being covered by earlier ones: too many to compare"
                    )?;
                }
                Ok(())
            }
        }
    })?;
    if let (Some(path), Some(compiled), true) = (&args.output, compiled, ok) {
        std::fs::write(path, &compiled.image).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints each finding with the line that it is about.
fn findings(out: &mut dyn Write, checked: &Checked, file: &str) -> io::Result<()> {
    let source = Source::new(&checked.text);
    for Finding { severity, span, message, help, .. } in checked.findings() {
        let shown = Shown { severity: *severity, span, message, help: help.as_deref() };
        source::show(out, &source, file, &shown)?;
    }
    Ok(())
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, String> {
    let given = &args.tuple;
    let family = given.family()?;
    let checked = load(&args.file)?;
    let file = args.file.display().to_string();
    let Ok(compiled) = &checked.compiled else {
        print(|out| findings(out, &checked, &file))?;
        return Ok(ExitCode::FAILURE);
    };
    let app = given.app.as_deref().map(app_bytes);
    let tuple = Tuple {
        direction: given.direction,
        family,
        protocol: given.protocol,
        local: given.local.map(|end| wire(end.address)),
        remote: given.remote.map(|end| wire(end.address)),
        local_port: given.local.and_then(|end| end.port),
        remote_port: given.remote.and_then(|end| end.port),
        app: app.as_deref().and_then(App::from_utf16le),
    };
    let image = Image::assume_valid(&compiled.image);
    print(|out| explanation(out, args, &checked.text, compiled, &image, &tuple))?;
    Ok(ExitCode::SUCCESS)
}

fn explanation(
    out: &mut dyn Write,
    args: &ExplainArgs,
    text: &str,
    compiled: &Compiled,
    image: &Image<'_>,
    tuple: &Tuple<'_>,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Tried<'a> {
        rule: &'a str,
        line: usize,
        matches: bool,
        failed: Vec<&'static str>,
    }
    #[derive(Serialize)]
    struct Decided<'a> {
        verdict: &'static str,
        rule: &'a str,
        line: Option<usize>,
    }
    let source = Source::new(text);
    let line = |index: u32| compiled.lines.get(index as usize).map_or(0, |at| source.position(*at).0);
    let mut left_out = 0;
    for step in image.explain(tuple) {
        let failed = failed_fields(step.failed);
        if !args.all && failed.len() > 1 {
            left_out += 1;
            continue;
        }
        let (rule, line, matches) = (step.rule.name(), line(step.rule.index), failed.is_empty());
        if args.json {
            json_line(out, "rule", &Tried { rule, line, matches, failed })?;
        } else if matches {
            writeln!(out, "  {rule} (line {line}) matches")?;
        } else {
            writeln!(out, "  {rule} (line {line}) does not match: {}", failed.join(", "))?;
        }
    }
    let decision = image.decide(tuple);
    let verdict = match decision.action {
        Action::Allow => "allow",
        Action::Block => "block",
        Action::Audit => "audit",
    };
    let rule = decision.rule.and_then(|index| image.rule(index));
    let name = rule.map_or("default", |rule| rule.name());
    let line = rule.map(|rule| line(rule.index));
    if args.json {
        return json_line(out, "decision", &Decided { verdict, rule: name, line });
    }
    if left_out > 0 {
        writeln!(
            out,
            "  {} more did not match in more than one field (--all lists them)",
            plural(left_out, "rule")
        )?;
    }
    match line {
        Some(line) => writeln!(out, "{verdict}, by rule `{name}` (line {line})"),
        None => writeln!(out, "{verdict}, by default: no rule matches"),
    }
}

/// The fields of a rule, by the keys that people write.
const FIELDS: [(Fields, &str); 7] = [
    (Fields::DIRECTION, "direction"),
    (Fields::PROTOCOL, "protocol"),
    (Fields::LOCAL, "local"),
    (Fields::LOCAL_PORT, "local_port"),
    (Fields::REMOTE, "remote"),
    (Fields::REMOTE_PORT, "remote_port"),
    (Fields::APP, "app"),
];

/// What does not match, by the keys that people write.
pub fn failed_fields(failed: Fields) -> Vec<&'static str> {
    FIELDS.iter().filter(|(field, _)| failed.contains(*field)).map(|(_, name)| *name).collect()
}

fn wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&address.octets());
            out
        }
    }
}
