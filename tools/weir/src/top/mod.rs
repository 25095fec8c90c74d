//! `weir top`: a driver, live.

mod screen;
mod watch;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::screen::{History, Manner, draw};
use self::watch::{View, Watch};
use crate::ctl::ConnectArgs;
use crate::output::{self, Failure, bytes, table};

/// Shows a driver live: its connections and who carries most, verdicts a second, what the ring delivers and loses
///
/// Keys: q, Esc or Ctrl-C quit; space pauses; s sorts by bytes in all, or by bytes a second. Without a terminal, with
/// --once or with --json, one look is printed, with rates that were measured over the interval.
///
/// Exit code: 0 done; 1 refused or failed; 2 usage.
#[derive(clap::Args, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Time between two looks
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=3600)
    )]
    interval: u16,
    /// Print one look and end
    #[arg(long)]
    once: bool,
    /// Print one look as JSON
    #[arg(long)]
    json: bool,
    /// How many connections one look prints
    #[arg(long, value_name = "CONNECTIONS", default_value = "20")]
    most: usize,
}

/// How long a key may wait.
const TICK: Duration = Duration::from_millis(100);

/// Set by an interrupt, or by the end of the terminal.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub fn run(args: &TopArgs) -> ExitCode {
    output::done(try_run(args))
}

fn try_run(args: &TopArgs) -> Result<(), Failure> {
    let (client, _) = args.connect.way()?.open()?;
    let mut watch = Watch::start(client)?;
    let interval = Duration::from_secs(args.interval.into());
    let first = watch.look()?;
    if args.json || args.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        watch.listen(Instant::now() + interval)?;
        let mut view = watch.look()?;
        view.sort(false);
        output::print(|out| {
            if args.json { writeln!(out, "{}", view.json(args.most)) } else { plain(out, &view, args.most) }
        })?;
        return Ok(());
    }
    ctrlc::set_handler(|| ENDED.store(true, Ordering::Relaxed))
        .map_err(|error| format!("cannot handle interrupts: {error}"))?;
    // Also restores it if there is a panic.
    let terminal = ratatui::try_init().map_err(|error| format!("this terminal: {error}"))?;
    let watched = live(terminal, &mut watch, first, interval);
    ratatui::restore();
    watched
}

/// Until somebody has enough of it.
fn live(
    mut terminal: DefaultTerminal,
    watch: &mut Watch,
    mut view: View,
    interval: Duration,
) -> Result<(), Failure> {
    let (mut history, mut manner) = (History::default(), Manner::default());
    let mut next = Instant::now() + interval;
    loop {
        if Instant::now() >= next {
            let seen = watch.look()?;
            history.push(seen.verdicts.all());
            if !manner.paused {
                view = seen;
            }
            next = Instant::now() + interval;
        }
        view.sort(manner.by_total);
        terminal
            .draw(|frame| draw(frame, &view, &history, manner))
            .map_err(|error| format!("this terminal: {error}"))?;
        watch.listen(next.min(Instant::now() + TICK))?;
        while event::poll(Duration::ZERO).map_err(|error| format!("this terminal: {error}"))? {
            match event::read().map_err(|error| format!("this terminal: {error}"))? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Char(' ') => manner.paused = !manner.paused,
                    KeyCode::Char('s') => manner.by_total = !manner.by_total,
                    _ => {}
                },
                _ => {}
            }
        }
        if ENDED.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// One look, for people.
fn plain(out: &mut dyn Write, view: &View, most: usize) -> io::Result<()> {
    for line in view.lines() {
        writeln!(out, "{line}")?;
    }
    let head = ["verdict", "way", "protocol", "local", "remote", "received", "sent", "in all", "rule"];
    let mut table = table(head, &[5, 6, 7]);
    for talker in view.talkers.iter().take(most) {
        let [received, sent] = talker.rates.map(watch::rate);
        table.add_row([
            talker.verdict,
            talker.way,
            &talker.protocol,
            &talker.local,
            &talker.remote,
            &received,
            &sent,
            &bytes(talker.bytes[0].saturating_add(talker.bytes[1])),
            &talker.rule,
        ]);
    }
    writeln!(out, "\n{table}")?;
    let left_out = view.talkers.len().saturating_sub(most);
    if left_out > 0 || view.more {
        let more = if view.more { "more than " } else { "" };
        writeln!(out, "{more}{left_out} others (--most)")?;
    }
    Ok(())
}
