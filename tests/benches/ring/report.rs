//! What is said of the figures: lines of JSON, a table, a plot.

use std::fmt::Write;

use super::{measure::Round, queues::Role};

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Less is better.
    Nanoseconds,
    /// More is better.
    MillionsPerSecond,
}

impl Unit {
    const fn json(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns/record",
            Self::MillionsPerSecond => "M records/s",
        }
    }

    /// How many times as good `ours` is as `other`.
    fn ratio(self, ours: f64, other: f64) -> f64 {
        match self {
            Self::Nanoseconds => other / ours,
            Self::MillionsPerSecond => ours / other,
        }
    }
}

/// Whom an aim is set against.
#[derive(Clone, Copy)]
pub enum Against {
    Best,
    Named(&'static str),
}

/// How fast the ring has to be beside another queue.
#[derive(Clone, Copy)]
pub struct Aim {
    against: Against,
    /// So many times as fast; below 1, it may be slower by the inverse.
    times: f64,
}

impl Aim {
    pub const fn times(times: f64, against: Against) -> Self {
        Self { against, times }
    }

    /// It may take so many times as long.
    pub const fn within(times: f64, against: Against) -> Self {
        Self { against, times: 1.0 / times }
    }

    fn text(&self) -> String {
        let against = match self.against {
            Against::Best => "the best peer",
            Against::Named(name) => name,
        };
        if self.times < 1.0 {
            format!("at most {:.1} × as long as {against}", 1.0 / self.times)
        } else {
            format!("at least {:.1} × as fast as {against}", self.times)
        }
    }
}

/// What came of an aim; no ratio if the other queue was not measured.
struct Outcome {
    aim: Aim,
    ratio: Option<f64>,
}

impl Outcome {
    fn met(&self) -> Option<bool> {
        self.ratio.map(|ratio| ratio >= self.aim.times)
    }

    /// As the aim counts: how many times as fast, or as long.
    fn is(&self) -> Option<f64> {
        self.ratio.map(|ratio| if self.aim.times < 1.0 { 1.0 / ratio } else { ratio })
    }

    /// Met or missed, and by how much.
    fn text(&self) -> String {
        match (self.ratio, self.is()) {
            (Some(ratio), Some(is)) => {
                let (how, by) = if ratio >= self.aim.times {
                    ("met", ratio / self.aim.times)
                } else {
                    ("missed", self.aim.times / ratio)
                };
                format!("{is:.2} ×: {how} by {:.0} %", (by - 1.0) * 100.0)
            }
            _ => "not measured".to_owned(),
        }
    }

    fn json(&self) -> String {
        let number = |number: Option<f64>| number.map_or("null".to_owned(), |number| format!("{number:.2}"));
        let met = self.met().map_or("null".to_owned(), |met| met.to_string());
        format!("{{\"aim\":{:?},\"is\":{},\"met\":{met}}}", self.aim.text(), number(self.is()))
    }
}

/// One thing measured, for every queue.
pub struct Row {
    pub name: &'static str,
    /// Records in one sample, and places for each producer.
    pub records: usize,
    what: &'static str,
    unit: Unit,
    aims: &'static [Aim],
    queues: Vec<(&'static str, Role, Vec<Round>)>,
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    pub const fn new(name: &'static str, records: usize, what: &'static str, unit: Unit) -> Self {
        Self { name, records, what, unit, aims: &[], queues: Vec::new() }
    }

    pub const fn aims(mut self, aims: &'static [Aim]) -> Self {
        self.aims = aims;
        self
    }

    pub fn add(&mut self, name: &'static str, role: Role, round: Round) {
        match self.queues.iter_mut().find(|queue| queue.0 == name) {
            Some(queue) => queue.2.push(round),
            None => self.queues.push((name, role, vec![round])),
        }
    }

    /// Whether the cores were near in most rounds. Figures are of these rounds, or of the others: a median over both
    /// would be of neither.
    fn near(&self) -> bool {
        let rounds = self.queues.first().map_or(&[][..], |queue| &queue.2);
        rounds.iter().filter(|round| round.is_near()).count() * 2 >= rounds.len()
    }

    /// Medians, ours first, then the others from the best on.
    fn medians(&self) -> Vec<Median> {
        let near = self.near();
        let figures = |rounds: &[Round]| -> Vec<f64> {
            rounds.iter().filter(|round| round.is_near() == near).map(|round| round.figure).collect()
        };
        let ours =
            self.queues.iter().find(|queue| queue.1 == Role::Ours).map_or(vec![], |queue| figures(&queue.2));
        let of = |(name, role, rounds): &(&'static str, Role, Vec<Round>)| {
            let figures = figures(rounds);
            let ratios =
                ours.iter().zip(&figures).map(|(ours, other)| self.unit.ratio(*ours, *other)).collect();
            Median { name, role: *role, ratio: median(ratios), figure: median(figures) }
        };
        let mut medians: Vec<_> = self.queues.iter().map(of).collect();
        medians.sort_by(|one, two| match self.unit {
            Unit::Nanoseconds => one.figure.total_cmp(&two.figure),
            Unit::MillionsPerSecond => two.figure.total_cmp(&one.figure),
        });
        medians.sort_by_key(|median| median.role != Role::Ours);
        medians
    }

    fn ours(&self) -> f64 {
        self.medians().first().map_or(f64::NAN, |median| median.figure)
    }

    fn of(&self, role: Role) -> Vec<Median> {
        self.medians().into_iter().filter(|median| median.role == role).collect()
    }

    /// How many times as good ours is as the best peer.
    fn ratio_to_best(&self) -> f64 {
        self.of(Role::Peer).iter().map(|peer| peer.ratio).fold(f64::INFINITY, f64::min)
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let medians = self.medians();
        let ratio = |aim: &Aim| match aim.against {
            Against::Best => Some(self.ratio_to_best()),
            Against::Named(name) => {
                medians.iter().find(|median| median.name == name).map(|median| median.ratio)
            }
        };
        self.aims.iter().map(|aim| Outcome { aim: *aim, ratio: ratio(aim) }).collect()
    }

    /// One object on a line. `aim` has what came of each; `met` says whether all that were measured are met.
    pub fn json(&self) -> String {
        let named = |role| {
            let pairs: Vec<_> = self
                .of(role)
                .iter()
                .map(|median| format!("{:?}:{:.2}", median.name, median.figure))
                .collect();
            pairs.join(",")
        };
        let outcomes = self.outcomes();
        let aims: Vec<_> = outcomes.iter().map(Outcome::json).collect();
        let met = if outcomes.is_empty() {
            "null".to_owned()
        } else {
            outcomes.iter().all(|outcome| outcome.met() != Some(false)).to_string()
        };
        format!(
            "{{\"bench\":{:?},\"ours\":{:.2},\"unit\":{:?},\"peers\":{{{}}},\"ratio_to_best\":{:.2},\"beside\":{{{}}},\"aim\":[{}],\"met\":{met},\"cores\":{:?}}}",
            self.name,
            self.ours(),
            self.unit.json(),
            named(Role::Peer),
            self.ratio_to_best(),
            named(Role::Beside),
            aims.join(","),
            self.cores(),
        )
    }

    /// How near the cores were.
    fn cores(&self) -> String {
        let rounds = self.queues.first().map_or(&[][..], |queue| &queue.2);
        let here: Vec<_> = rounds
            .iter()
            .filter(|round| round.is_near() == self.near())
            .map(|round| round.ping_pong)
            .collect();
        let (count, how) = (here.len(), if self.near() { "near" } else { "far" });
        format!("{how} in {count} of {} rounds, which count; ping-pong {:.0} ns", rounds.len(), median(here))
    }
}

/// One queue's figure, and how many times as good ours is: both medians over the rounds. The ratio is taken round by
/// round, so that a drift of the machine meets both sides of it.
struct Median {
    name: &'static str,
    role: Role,
    figure: f64,
    ratio: f64,
}

/// For people.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let _ = writeln!(out, "{}: {} ({}); cores {}", row.name, row.what, row.unit.json(), row.cores());
        for median in row.medians() {
            let ratio = median.ratio;
            let said = match median.role {
                Role::Ours => String::new(),
                Role::Peer => format!("weir is {ratio:.2} times as fast"),
                Role::Beside => format!("weir is {ratio:.2} times as fast (no peer)"),
            };
            let _ = writeln!(out, "  {:<40} {:>8.2}  {said}", median.name, median.figure);
        }
        for outcome in row.outcomes() {
            let _ = writeln!(out, "  aim: {}: {}", outcome.aim.text(), outcome.text());
        }
    }
    out
}

/// The table of the documentation.
pub fn page(rows: &[Row]) -> String {
    let mut out = String::from("| measured | weir | the best peer | weir is | other peers | beside them |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let named = |medians: &[Median]| {
            let named: Vec<_> =
                medians.iter().map(|median| format!("{} {:.1}", median.name, median.figure)).collect();
            named.join(", ")
        };
        let peers = row.of(Role::Peer);
        let (best, others) = peers.split_at(peers.len().min(1));
        let _ = writeln!(
            out,
            "| {}, {} | {:.1} | {} | {:.1} × as fast | {} | {} |",
            row.what,
            row.unit.json(),
            row.ours(),
            named(best),
            row.ratio_to_best(),
            named(others),
            named(&row.of(Role::Beside)),
        );
    }
    out.push_str("\n| measured | aim | weir's is |\n| --- | --- | --- |\n");
    for (row, outcome) in
        rows.iter().flat_map(|row| row.outcomes().into_iter().map(move |outcome| (row, outcome)))
    {
        let _ = writeln!(out, "| {} | {} | {} |", row.what, outcome.aim.text(), outcome.text());
    }
    let _ = writeln!(out, "\nThe cores were {}.", rows.first().map(Row::cores).unwrap_or_default());
    out
}

/// A panel for each row, a bar for each queue; the longest is the panel's worst in time, or best in rate.
pub fn plot(rows: &[Row]) -> String {
    const WIDTH: f64 = 860.0;
    const NAMES: f64 = 300.0;
    const BAR: f64 = 18.0;
    let mut body = String::new();
    let mut y = 0.0;
    for row in rows {
        y += 26.0;
        let _ = writeln!(
            body,
            "<text x=\"0\" y=\"{y}\" font-weight=\"bold\">{} ({})</text>",
            row.what,
            row.unit.json()
        );
        y += 8.0;
        let medians = row.medians();
        let longest = medians.iter().map(|median| median.figure).fold(0.0, f64::max);
        for median in medians {
            let length = (WIDTH - NAMES - 70.0) * median.figure / longest;
            let colour = match median.role {
                Role::Ours => "#1b6ca8",
                Role::Peer => "#9aa5ad",
                Role::Beside => "#d6dbde",
            };
            let text = y + BAR - 5.0;
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{NAMES}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{:.1}</text>",
                NAMES - 8.0,
                median.name,
                y + 2.0,
                BAR - 4.0,
                NAMES + length + 6.0,
                median.figure,
            );
            y += BAR;
        }
        y += 10.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
