//! `weir run`: the driver in the simulated kernel, fed with a capture.

pub mod capture;
mod follow;
pub mod hosts;
pub mod local;
mod machine;
pub mod packet;
pub mod recording;
mod report;
pub mod sample;

use std::io::{self, IsTerminal, Seek, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ipnet::IpNet;
use ntsim::tcpip::{Direction, Endpoints, Host, Identity, Stack};
use weir::trace::events::{Keywords, Level};

use self::capture::{Capture, End};
use self::follow::Follow;
use self::hosts::Hosts;
use self::local::Local;
use self::machine::{Machine, Steering};
use self::packet::Skip;
use self::recording::Recording;
pub use self::report::protocol;
use self::report::{Format, Printer, Summary};
use crate::names;
use crate::place::{self, Running, Told};
use crate::policy::{self, Compiled};

/// Boots the driver in a simulated kernel and shows it the traffic of a capture.
///
/// The driver is the one that Windows loads, with its own DriverEntry: it reads its configuration from a simulated
/// registry, opens its control port on real TCP, registers callouts and filters, decides on each connection and counts
/// its packets. At the end it is unloaded, and the verifier says what it left behind.
///
/// The JSON lines, the side file of --hosts and what the replay cannot show are described in tools/weir/RUN.md.
///
/// Exit code: 0 done; 1 refused, damaged, interrupted, or the verifier found something; 2 usage.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Policy to apply, a TOML file (tools/weir/POLICY.md); without it, tools/weir/examples/default.toml
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Capture to replay, pcap or pcapng, `-` for standard input; without it, a small one that weir carries
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Side file with the application, user and interface of connections, which a capture does not know
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// The host's own address or network; repeatable; without it, inferred from the capture
    #[arg(long, value_name = "CIDR", value_parser = hosts::network)]
    local: Vec<IpNet>,
    /// Address of the control port; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keep the driver running after the capture, until interrupted
    #[arg(long)]
    stay: bool,
    /// End connections without a packet for this many seconds of the capture's time; without it they end with their
    /// TCP connection, or with the capture
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle_timeout: Option<u32>,
    /// Write the driver's events into an event trace log, as Windows would; read it with `weir trace decode`. A file that
    /// is there is replaced
    #[arg(long, value_name = "FILE")]
    etl: Option<PathBuf>,
    /// Of these, up to this level: critical, error, warning, information, verbose
    #[arg(long, value_name = "LEVEL", value_parser = names::level, default_value = "verbose", requires = "etl")]
    etl_level: Level,
    /// Of these, with one of these keywords alone: lifecycle, configuration, policy, verdict, flow, control, extension,
    /// ring, fault
    #[arg(long, value_name = "KEYWORDS", value_parser = names::keyword, value_delimiter = ',', requires = "etl")]
    etl_keywords: Vec<Keywords>,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
    /// Print the summary alone
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// Set by the first interrupt.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// What the command line gives the stack.
struct Playing {
    local: Local,
    hosts: Hosts,
}

impl Host for Playing {
    fn is_local(&self, address: std::net::IpAddr) -> bool {
        self.local.contains(address)
    }

    fn identity(&self, endpoints: &Endpoints, _: Direction) -> Identity {
        self.hosts.identity(endpoints)
    }
}

/// Runs the command.
pub fn run(args: &RunArgs) -> ExitCode {
    match try_run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("weir: {message}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(args: &RunArgs) -> Result<bool, String> {
    let (policy_name, compiled) = load_policy(args.policy.as_deref())?;
    let hosts = args.hosts.as_deref().map(Hosts::read).transpose()?.unwrap_or_default();
    let mut input = Input::open(args.capture.as_deref())?;
    let local =
        if args.local.is_empty() { Local::infer(input.capture()?) } else { Local::given(args.local.clone()) };
    // The first interrupt stops the replay; the driver is unloaded in any case.
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .map_err(|error| format!("cannot handle interrupts: {error}"))?;

    let format = match (args.json, args.quiet) {
        (true, _) => Format::Json,
        (_, true) => Format::Quiet,
        _ => Format::People,
    };
    let mut printer = Printer::new(io::BufWriter::new(anstream::stdout()), format);
    // What stays can be steered: by keys that stay too, and by who is told where it is.
    let steering = if args.stay { Steering::new(place::keys()?) } else { Steering::of_the_run()? };
    let recording = recording(args)?;
    let machine = Machine::boot(&compiled.image, args.listen, &steering, recording.clone())?;
    let _told = if args.stay {
        let (control, driver_key) = (machine.control(), steering.public().to_string());
        Some(Told::of(Running { control, driver_key, process: std::process::id() })?)
    } else {
        None
    };
    printer.started(Some(machine.control()), &local.names(), local.inferred, &policy_name);
    if args.hosts.is_none() && compiled.app_rules > 0 {
        printer.note(&format!(
            "{} of the policy's rules name an application; no connection of a capture has one without --hosts, so \
             they cannot match",
            compiled.app_rules
        ));
    }
    printer.flush();

    let mut replay = Replay {
        summary: Summary::default(),
        progress: progress(&input, format),
        recording,
        stack: Stack::new(
            Playing { local, hosts },
            Follow::new(machine.inbox(), compiled.rules, printer),
            args.idle_timeout.map(|seconds| i64::from(seconds) * 1_000_000_000),
        ),
    };
    replay.all(input.capture()?);
    if args.stay && replay.proceeds() {
        replay.stay();
    }
    let Replay { mut summary, progress, recording, mut stack } = replay;
    stack.finish();
    let orphans = stack.orphans();
    if orphans > 0 {
        *summary.skipped.entry(Skip::Fragment).or_default() += orphans;
    }
    let verified = machine.unload();
    let recorded = recording.map_or(Ok(()), |recording| recording.finish());
    progress.finish_and_clear();
    let mut printer = stack.observer.finish(&mut summary);
    summary.leaks = verified.leaks.len() as u64;
    summary.violations = verified.violations.len() as u64;
    printer.summary(&summary);
    if let Some((offset, what)) = &summary.damage {
        eprintln!("weir: {}: damaged at offset {offset}: {what}", input.name());
    }
    for line in verified.leaks.iter().chain(&verified.violations) {
        eprintln!("weir: verifier: {line}");
    }
    recorded?;
    Ok(summary.is_clean() && printer.error().is_none())
}

/// Begins the trace, if one is asked for. Only what the run was asked to read is known to be worth more than it.
fn recording(args: &RunArgs) -> Result<Option<Arc<Recording>>, String> {
    let Some(path) = &args.etl else { return Ok(None) };
    let inputs = [&args.policy, &args.capture, &args.hosts].map(Option::as_deref);
    let keywords = args.etl_keywords.iter().fold(Keywords::empty(), |all, keyword| all | *keyword);
    let keywords = if keywords.is_empty() { Keywords::all() } else { keywords };
    Recording::begin(path, &inputs, (args.etl_level, keywords)).map(|recording| Some(Arc::new(recording)))
}

fn load_policy(path: Option<&Path>) -> Result<(String, Compiled), String> {
    let (name, text) = match path {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("default.toml (built in)".into(), policy::DEFAULT_TOML.to_owned()),
    };
    let compiled = policy::compile(&text).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|fault| format!("{name}:{fault}")).collect();
        format!("the policy is refused\n{}", faults.join("\n"))
    })?;
    Ok((name, compiled))
}

/// Where the capture comes from. It is read twice when the local side is inferred.
enum Input {
    Carried,
    File(PathBuf),
    /// Standard input or a pipe, kept in a temporary file.
    Spooled(std::fs::File, PathBuf),
}

impl Input {
    fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::Carried) };
        let fail = |error: io::Error| format!("{}: {error}", path.display());
        let stdin = path.as_os_str() == "-";
        if !stdin && std::fs::metadata(path).map_err(fail)?.is_file() {
            return Ok(Self::File(path.to_owned()));
        }
        let mut spool = tempfile::tempfile().map_err(fail)?;
        let mut source: Box<dyn io::Read> =
            if stdin { Box::new(io::stdin()) } else { Box::new(std::fs::File::open(path).map_err(fail)?) };
        io::copy(&mut source, &mut spool).map_err(fail)?;
        Ok(Self::Spooled(spool, path.to_owned()))
    }

    fn name(&self) -> String {
        match self {
            Self::Carried => "the capture that weir carries".into(),
            Self::File(path) | Self::Spooled(_, path) => path.display().to_string(),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Carried => sample::CAPTURE.len() as u64,
            Self::File(path) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            Self::Spooled(file, _) => file.metadata().map_or(0, |metadata| metadata.len()),
        }
    }

    fn capture(&mut self) -> Result<Capture, String> {
        let fail = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        match self {
            Self::Carried => Ok(Capture::from_reader(sample::CAPTURE)),
            Self::File(path) => {
                std::fs::File::open(&*path).map(Capture::from_reader).map_err(|error| fail(path, error))
            }
            Self::Spooled(file, path) => {
                file.rewind().map_err(|error| fail(path, error))?;
                file.try_clone().map(Capture::from_reader).map_err(|error| fail(path, error))
            }
        }
    }
}

/// Captures smaller than this are over before a bar could be read.
const WORTH_A_BAR: u64 = 4 << 20;

fn progress(input: &Input, format: Format) -> ProgressBar {
    let size = input.size();
    if format == Format::Json || size < WORTH_A_BAR || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(size);
    let template = "{bar:30} {bytes}/{total_bytes}  {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Packets between two looks at the dispatcher's events, the interrupt and the progress bar.
const BATCH: u64 = 256;

struct Replay<W: Write> {
    summary: Summary,
    progress: ProgressBar,
    recording: Option<Arc<Recording>>,
    stack: Stack<Playing, Follow<W>>,
}

impl<W: Write> Replay<W> {
    fn proceeds(&self) -> bool {
        !interrupted() && !self.stack.observer.output_failed()
    }

    fn all(&mut self, capture: Capture) {
        let end = capture.for_each(|frame, offset| {
            self.summary.packets += 1;
            match packet::decode(&frame) {
                Ok((_, packet)) => self.stack.packet(&packet),
                Err(skip) => *self.summary.skipped.entry(skip).or_default() += 1,
            }
            if self.summary.packets.is_multiple_of(BATCH) {
                self.look(offset);
                if !self.proceeds() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        self.look(u64::MAX);
        match end {
            End::Complete => {}
            End::Stopped => self.summary.interrupted = true,
            End::Damaged(damage) => self.summary.damage = Some((damage.offset, damage.what)),
        }
    }

    fn look(&mut self, offset: u64) {
        self.flush();
        let observer = &mut self.stack.observer;
        if self.progress.is_hidden() {
            observer.take_events();
            return;
        }
        self.progress.suspend(|| {
            observer.take_events();
            observer.flush();
        });
        let (allowed, blocked, audited) = observer.verdicts();
        self.progress.set_message(format!("{allowed} allowed, {blocked} blocked, {audited} audited"));
        if offset != u64::MAX {
            self.progress.set_position(offset);
        }
    }

    fn stay(&mut self) {
        self.progress.finish_and_clear();
        self.stack.observer.staying();
        while self.proceeds() {
            std::thread::sleep(Duration::from_millis(50));
            self.stack.observer.take_events();
            self.stack.observer.flush();
            self.flush();
        }
    }

    fn flush(&self) {
        if let Some(recording) = &self.recording {
            recording.flush();
        }
    }
}
