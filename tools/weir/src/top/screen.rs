//! A view on a terminal of any size.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};

use super::watch::{Talker, View, rate};
use crate::output::bytes;

/// What the keys have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Manner {
    pub paused: bool,
    /// By the bytes in all, instead of those a second.
    pub by_total: bool,
}

/// Verdicts a second, the last ones at the end.
#[derive(Debug, Default)]
pub struct History(VecDeque<u64>);

/// As many as the widest terminal shows.
const REMEMBERED: usize = 512;

impl History {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar's height")]
    pub fn push(&mut self, verdicts_a_second: f64) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(verdicts_a_second.round() as u64);
    }
}

/// Draws the view. What there is no room for is left out: first the bars, then the figures from the last on.
pub fn draw(frame: &mut Frame<'_>, view: &View, history: &History, manner: Manner) {
    let area = frame.area();
    let lines = view.lines();
    // A line for the keys, and two for the table, if there are more than a few.
    let spare = usize::from(area.height).saturating_sub(3);
    let figures = lines.len().min(spare.max(1));
    let bars = if usize::from(area.height) > figures + 12 { 3 } else { 0 };
    let keys = u16::from(area.height > 2);
    let [top, middle, table, bottom] = Layout::vertical([
        Constraint::Length(u16::try_from(figures).unwrap_or(u16::MAX)),
        Constraint::Length(bars),
        Constraint::Min(0),
        Constraint::Length(keys),
    ])
    .areas(area);
    let alarming = !view.standing.filters || view.standing.degraded > 0;
    let text: Vec<_> = lines
        .into_iter()
        .take(figures)
        .enumerate()
        .map(|(index, line)| {
            let loud = match index {
                0 => alarming,
                1 => view.standing.rollback_in.is_some(),
                4 => view.lost_in_all() > 0,
                6 => view.extended.lost > 0,
                _ => false,
            };
            let style = if loud { Style::new().fg(Color::Yellow) } else { Style::new() };
            Line::styled(line, if index == 0 { style.add_modifier(Modifier::BOLD) } else { style })
        })
        .collect();
    frame.render_widget(Paragraph::new(text), top);
    if middle.height > 0 {
        let newest: Vec<_> = history.0.iter().rev().take(usize::from(middle.width)).rev().copied().collect();
        frame.render_widget(Sparkline::default().data(newest).style(Style::new().fg(Color::Cyan)), middle);
    }
    draw_talkers(frame, table, view);
    let keys = match (manner.paused, manner.by_total) {
        (true, _) => "PAUSED  q quit  space go on  s sort",
        (false, false) => "q quit  space pause  s sort by total",
        (false, true) => "q quit  space pause  s sort by rate",
    };
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), bottom);
}

/// A column: its name, its width, and what stands in it.
type Column = (&'static str, Constraint, fn(&Talker) -> String);

/// The columns that a terminal of that width has room for.
fn columns(width: u16) -> Vec<Column> {
    let remote: Column = ("remote", Constraint::Fill(3), |talker| talker.remote.clone());
    let local: Column = ("local", Constraint::Fill(3), |talker| talker.local.clone());
    let received: Column = ("received", Constraint::Length(11), |talker| rate(talker.rates[0]));
    let sent: Column = ("sent", Constraint::Length(11), |talker| rate(talker.rates[1]));
    let verdict: Column = ("", Constraint::Length(5), |talker| talker.verdict.into());
    let way: Column = ("way", Constraint::Length(3), |talker| talker.way.into());
    let protocol: Column = ("proto", Constraint::Length(6), |talker| talker.protocol.clone());
    let total: Column =
        ("in all", Constraint::Length(10), |talker| bytes(talker.bytes[0].saturating_add(talker.bytes[1])));
    let rule: Column = ("rule", Constraint::Fill(2), |talker| talker.rule.clone());
    match width {
        0..72 => vec![remote, received, sent],
        72..130 => vec![verdict, way, remote, received, sent, rule],
        _ => vec![verdict, way, protocol, local, remote, received, sent, total, rule],
    }
}

fn draw_talkers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let columns = columns(area.width);
    let rows = view.talkers.iter().take(usize::from(area.height)).map(|talker| {
        let color = match talker.verdict {
            "block" => Some(Color::Red),
            "audit" => Some(Color::Yellow),
            _ => None,
        };
        let style = color.map_or_else(Style::new, |color| Style::new().fg(color));
        Row::new(columns.iter().map(|(_, _, cell)| cell(talker)).collect::<Vec<_>>()).style(style)
    });
    let head =
        Row::new(columns.iter().map(|(name, ..)| *name)).style(Style::new().add_modifier(Modifier::REVERSED));
    let table = Table::new(rows, columns.iter().map(|(_, width, _)| *width)).header(head);
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::top::watch::{Extended, Said, Standing, Verdicts};

    fn view() -> View {
        let talker = |number: u64, verdict, rate: f64| Talker {
            number,
            way: "out",
            protocol: "tcp".into(),
            local: "192.0.2.1:50000".into(),
            remote: format!("198.51.100.{number}:443"),
            verdict,
            rule: "web".into(),
            bytes: [1000 * (10 - number), 0],
            rates: [rate, 0.0],
        };
        View {
            standing: Standing {
                driver: "0.1.0".into(),
                filters: true,
                policy: "provisional".into(),
                generation: 2,
                rules: 12,
                rollback_in: Some(41_500),
                connections: 3,
                sessions: 1,
                ..Standing::default()
            },
            seconds: 1.0,
            verdicts: Verdicts { allow: 10.0, block: 2.0, audit: 0.0, untold: 0.0 },
            lost: BTreeMap::from([("verdict.full".into(), 7)]),
            extended: Extended {
                registered: [1, 4, 2],
                refused: 3,
                modules: 2,
                callbacks: (345, 12.0),
                by_interface: BTreeMap::from([("connection_v1".into(), 10.0), ("label_v1".into(), 2.0)]),
                last: Some(Said {
                    session: 7,
                    interface: "label_v1".into(),
                    provider: "nmr",
                    value: 42,
                    text: "\"db\"".into(),
                }),
                ..Extended::default()
            },
            talkers: vec![talker(1, "allow", 5.0), talker(2, "block", 9000.0), talker(3, "audit", 0.0)],
            ..View::default()
        }
    }

    fn drawn(width: u16, height: u16) -> String {
        let mut view = view();
        view.sort(false);
        let mut history = History::default();
        history.push(12.0);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &view, &history, Manner::default())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_wide_terminal_shows_all_of_it() {
        let screen = drawn(140, 30);
        for text in [
            "weir 0.1.0",
            "generation 2, 12 rules, rolled back in 42 s unless confirmed",
            "12/s: 10 allow, 2 block, 0 audit",
            "7 LOST (verdict.full 7)",
            "198.51.100.2:443",
            "8.8 KiB/s",
            "192.0.2.1:50000",
            "extensions   1 wsk, 4 nmr, 2 builtin, 3 nobody's; 2 modules; 12 callbacks/s, 345 in all \
             (connection_v1 10, label_v1 2)",
            "last said    session 7: label_v1 42 \"db\" (nmr)",
            "q quit",
        ] {
            assert!(screen.contains(text), "{text}\n{screen}");
        }
        let place = |text: &str| screen.find(text).unwrap();
        assert!(place("198.51.100.2:443") < place("198.51.100.1:443"), "who carries most is first");
    }

    #[test]
    fn every_size_of_terminal_is_drawn() {
        for width in [1, 2, 20, 49, 71, 72, 129, 130, 200] {
            for height in [1, 2, 3, 4, 5, 10, 24, 60] {
                let screen = drawn(width, height);
                if width >= 20 {
                    assert!(screen.contains("weir 0.1.0"), "{width}x{height}\n{screen}");
                }
                if width >= 40 && height >= 10 {
                    assert!(screen.contains("198.51.100.2:443"), "{width}x{height}\n{screen}");
                }
            }
        }
    }

    #[test]
    fn the_order_is_by_rate_or_by_total() {
        let mut view = view();
        let order = |view: &View| view.talkers.iter().map(|talker| talker.number).collect::<Vec<_>>();
        view.sort(false);
        assert_eq!(order(&view), [2, 1, 3]);
        view.sort(true);
        assert_eq!(order(&view), [1, 2, 3]);
    }
}
