//! What `weir run` prints: a line for each connection while it works, and a summary; for people, or JSON lines for
//! programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use ntsim::tcpip::{Connection, Direction, EndReason, Endpoints};
use serde::Serialize;
use serde_json::json;

use super::packet::Skip;

/// The rule name of a connection that no rule matched.
pub const DEFAULT_RULE: &str = "default";

/// What the driver decided on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decided {
    Allow,
    Block,
    Audit,
}

impl Decided {
    /// Its name in a policy and in every report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Audit => "audit",
        }
    }

    fn style(self) -> Style {
        Style::new().fg_color(Some(match self {
            Self::Allow => AnsiColor::Green.into(),
            Self::Block => AnsiColor::Red.into(),
            Self::Audit => AnsiColor::Yellow.into(),
        }))
    }
}

/// One connection's end, with all that was counted of it.
#[derive(Debug)]
pub struct Closed<'a> {
    pub connection: &'a Connection,
    pub reason: EndReason,
    pub decided: Decided,
    pub rule: &'a str,
    /// Packets and bytes, received and sent.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
}

/// Flows, packets and bytes of one row of the summary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub flows: u64,
    pub packets: u64,
    pub bytes: u64,
    pub suppressed: u64,
}

impl Tally {
    fn add(&mut self, closed: &Closed<'_>) {
        self.flows += 1;
        self.packets += closed.packets.iter().sum::<u64>();
        self.bytes += closed.bytes.iter().sum::<u64>();
        self.suppressed += closed.connection.suppressed;
    }
}

/// Everything that a run counted.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Packets of the file.
    pub packets: u64,
    /// Frames that were not shown to the driver, by cause.
    pub skipped: BTreeMap<Skip, u64>,
    pub flows: u64,
    pub allowed: u64,
    pub blocked: u64,
    pub audited: u64,
    pub by_rule: BTreeMap<(String, Decided), Tally>,
    pub by_protocol: BTreeMap<u8, Tally>,
    pub by_direction: BTreeMap<&'static str, Tally>,
    /// Connections whose verdict never came through the ring.
    pub unreported: u64,
    /// Connections of which the driver counted other packets than the stack showed it.
    pub miscounted: u64,
    /// Connections that the driver let pass without counting them, for want of memory or room.
    pub untracked: u64,
    pub ring: Ring,
    pub leaks: u64,
    pub violations: u64,
    pub interrupted: bool,
    /// Offset and cause, if the capture is damaged.
    pub damage: Option<(u64, String)>,
}

/// The dispatch ring's figures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ring {
    pub delivered: u64,
    pub dropped: u64,
    pub dropped_by_kind: BTreeMap<String, u64>,
}

impl Summary {
    /// Counts one closed connection.
    pub fn close(&mut self, closed: &Closed<'_>) {
        self.by_rule.entry((closed.rule.to_owned(), closed.decided)).or_default().add(closed);
        self.by_protocol.entry(closed.connection.endpoints.protocol).or_default().add(closed);
        self.by_direction.entry(direction(closed.connection.direction)).or_default().add(closed);
    }

    /// Counts a decision.
    pub fn decide(&mut self, decided: Decided) {
        match decided {
            Decided::Allow => self.allowed += 1,
            Decided::Block => self.blocked += 1,
            Decided::Audit => self.audited += 1,
        }
    }

    fn skipped_total(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Whether the run found nothing wrong.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0
            && self.violations == 0
            && self.damage.is_none()
            && !self.interrupted
            && self.unreported == 0
            && self.miscounted == 0
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "out",
        Direction::Inbound => "in",
    }
}

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Closed => "closed",
        EndReason::Idle => "idle",
        EndReason::CaptureEnd => "capture_end",
    }
}

/// The protocol's name, or its number.
pub fn protocol(number: u8) -> String {
    etherparse::IpNumber(number).keyword_str().map_or_else(|| number.to_string(), str::to_ascii_lowercase)
}

/// The two ends: `address:port`, `[address]:port`, or the address alone where the protocol has no ports.
fn ends(endpoints: &Endpoints) -> (String, String) {
    if endpoints.has_ports() {
        (
            SocketAddr::new(endpoints.local, endpoints.local_port).to_string(),
            SocketAddr::new(endpoints.remote, endpoints.remote_port).to_string(),
        )
    } else {
        (endpoints.local.to_string(), endpoints.remote.to_string())
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people and programs, to the microsecond")]
fn seconds(nanoseconds: i64) -> f64 {
    (nanoseconds / 1000) as f64 / 1e6
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line for each connection and a table.
    People,
    /// The table alone.
    Quiet,
    /// JSON lines.
    Json,
}

/// Where a run prints. An error of the output (a closed pipe) is kept, and ends the run.
pub struct Printer<W> {
    output: W,
    format: Format,
    error: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    pub fn new(output: W, format: Format) -> Self {
        Self { output, format, error: None }
    }

    /// The first error of the output.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    fn json(&mut self, value: &serde_json::Value) {
        if self.error.is_none() {
            let result = writeln!(self.output, "{value}");
            self.keep(result);
        }
    }

    /// Hands on what is buffered.
    pub fn flush(&mut self) {
        let result = self.output.flush();
        self.keep(result);
    }

    /// The driver is up.
    pub fn started(
        &mut self,
        control: Option<SocketAddr>,
        local: &[String],
        inferred: Option<&str>,
        policy: &str,
    ) {
        match self.format {
            Format::Json => self.json(&json!({
                "event": "started",
                "control": control.map(|address| address.to_string()),
                "local": local,
                "local_inferred": inferred.is_some(),
                "policy": policy,
            })),
            Format::People | Format::Quiet => {
                let control = control.map_or("none".into(), |address| address.to_string());
                let how = inferred
                    .map_or(String::new(), |how| format!(" (inferred: {how}; --local says otherwise)"));
                let result = writeln!(
                    self.output,
                    "policy   {policy}\ncontrol  {control}\nlocal    {}{how}\n",
                    if local.is_empty() { "none".into() } else { local.join(", ") },
                );
                self.keep(result);
            }
        }
    }

    /// Something that the user should know, and that is no fault.
    pub fn note(&mut self, text: &str) {
        match self.format {
            Format::Json => self.json(&json!({ "event": "note", "text": text })),
            Format::People | Format::Quiet => {
                let result = writeln!(self.output, "note: {text}");
                self.keep(result);
            }
        }
    }

    /// The driver decided on a connection.
    pub fn verdict(
        &mut self,
        endpoints: &Endpoints,
        way: Direction,
        time: i64,
        decided: Decided,
        rule: &str,
    ) {
        let (local, remote) = ends(endpoints);
        match self.format {
            Format::Quiet => {}
            Format::Json => {
                let mut value = json!({
                    "event": "verdict",
                    "time": seconds(time),
                    "verdict": decided.name(),
                    "rule": rule,
                    "direction": direction(way),
                    "protocol": endpoints.protocol,
                    "local": local,
                    "remote": remote,
                });
                add_icmp(&mut value, endpoints);
                self.json(&value);
            }
            Format::People => {
                let style = decided.style();
                let arrow = if way == Direction::Outbound { "->" } else { "<-" };
                let result = writeln!(
                    self.output,
                    "{style}{:<5}{style:#}  {:<3}  {:<8}  {local} {arrow} {remote}  {rule}",
                    decided.name(),
                    direction(way),
                    protocol(endpoints.protocol),
                );
                self.keep(result);
            }
        }
    }

    /// A connection is gone.
    pub fn closed(&mut self, closed: &Closed<'_>) {
        if self.format != Format::Json {
            return;
        }
        let connection = closed.connection;
        let (local, remote) = ends(&connection.endpoints);
        let mut value = json!({
            "event": "closed",
            "time": seconds(connection.last),
            "seconds": seconds(connection.last.saturating_sub(connection.first)),
            "reason": reason(closed.reason),
            "verdict": closed.decided.name(),
            "rule": closed.rule,
            "direction": direction(connection.direction),
            "protocol": connection.endpoints.protocol,
            "local": local,
            "remote": remote,
            "packets": closed.packets.iter().sum::<u64>(),
            "packets_in": closed.packets[0],
            "packets_out": closed.packets[1],
            "bytes": closed.bytes.iter().sum::<u64>(),
            "bytes_in": closed.bytes[0],
            "bytes_out": closed.bytes[1],
            "suppressed": connection.suppressed,
        });
        add_icmp(&mut value, &connection.endpoints);
        self.json(&value);
    }

    /// The end of the run.
    pub fn summary(&mut self, summary: &Summary) {
        match self.format {
            Format::Json => self.json(&json_summary(summary)),
            Format::People | Format::Quiet => {
                let result = people_summary(&mut self.output, summary);
                self.keep(result);
            }
        }
        self.flush();
    }
}

fn add_icmp(value: &mut serde_json::Value, endpoints: &Endpoints) {
    if matches!(endpoints.protocol, 1 | 58) {
        value["icmp_type"] = endpoints.icmp.0.into();
        value["icmp_code"] = endpoints.icmp.1.into();
    }
}

fn json_summary(summary: &Summary) -> serde_json::Value {
    let mut by_rule: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut by_verdict: BTreeMap<&str, Tally> = BTreeMap::new();
    for ((rule, decided), tally) in &summary.by_rule {
        for row in [by_rule.entry(rule).or_default(), by_verdict.entry(decided.name()).or_default()] {
            row.flows += tally.flows;
            row.packets += tally.packets;
            row.bytes += tally.bytes;
            row.suppressed += tally.suppressed;
        }
    }
    let skipped: BTreeMap<_, _> =
        Skip::ALL.iter().map(|skip| (skip.name(), summary.skipped.get(skip).copied().unwrap_or(0))).collect();
    let mut value = json!({
        "event": "summary",
        "packets": summary.packets,
        "skipped": summary.skipped_total(),
        "skipped_by": skipped,
        "flows": summary.flows,
        "allowed": summary.allowed,
        "blocked": summary.blocked,
        "audited": summary.audited,
        "by_rule": by_rule,
        "by_verdict": by_verdict,
        "by_protocol": summary.by_protocol,
        "by_direction": summary.by_direction,
        "unreported": summary.unreported,
        "miscounted": summary.miscounted,
        "untracked": summary.untracked,
        "ring": summary.ring,
        "verifier": { "leaks": summary.leaks, "violations": summary.violations },
        "interrupted": summary.interrupted,
    });
    if let Some((offset, what)) = &summary.damage {
        value["damage"] = json!({ "offset": offset, "what": what });
    }
    value
}

fn people_summary(output: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let skipped: Vec<_> =
        summary.skipped.iter().map(|(skip, count)| format!("{} {count}", skip.name())).collect();
    let skipped = if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join(", ")) };
    writeln!(
        output,
        "\n{} packets, {} skipped{skipped}; {} flows: {} allowed, {} blocked, {} audited",
        summary.packets,
        summary.skipped_total(),
        summary.flows,
        summary.allowed,
        summary.blocked,
        summary.audited,
    )?;
    let rules =
        summary.by_rule.iter().map(|((rule, decided), tally)| (decided.name().into(), rule.clone(), tally));
    table(output, ["verdict", "rule"], rules)?;
    let directions =
        summary.by_direction.iter().map(|(way, tally)| ("direction".into(), (*way).into(), tally));
    let protocols =
        summary.by_protocol.iter().map(|(number, tally)| ("protocol".into(), protocol(*number), tally));
    table(output, ["by", ""], directions.chain(protocols))?;

    let dropped: Vec<_> =
        summary.ring.dropped_by_kind.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let dropped = if dropped.is_empty() { String::new() } else { format!(" ({})", dropped.join(", ")) };
    writeln!(
        output,
        "ring      {} delivered, {} dropped{dropped}",
        summary.ring.delivered, summary.ring.dropped
    )?;
    writeln!(output, "verifier  {} leaks, {} violations", summary.leaks, summary.violations)?;
    if summary.unreported > 0 || summary.miscounted > 0 {
        writeln!(
            output,
            "account   {} verdicts lost, {} connections miscounted",
            summary.unreported, summary.miscounted
        )?;
    }
    Ok(())
}

fn table<'a>(
    output: &mut impl Write,
    head: [&str; 2],
    rows: impl Iterator<Item = (String, String, &'a Tally)>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([head[0], head[1], "flows", "packets", "bytes", "suppressed"]);
    for (first, second, tally) in rows {
        let numbers =
            [tally.flows, tally.packets, tally.bytes, tally.suppressed].map(|number| number.to_string());
        table.add_row([first, second].into_iter().chain(numbers));
    }
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(output, "{table}\n")
}
