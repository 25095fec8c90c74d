//! Brings together what the stack saw of a connection and what the driver says of it.
//!
//! The driver's word comes by the dispatch ring, on another thread and later. A replay is faster than any network, so
//! it waits when more verdicts are on their way than the ring is sure to hold: nothing is lost that a real stack's
//! pace would not lose.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use ntsim::tcpip::{Connection, Direction, EndReason, Endpoints, Observer, Verdict};

use super::report::{Closed, DEFAULT_RULE, Decided, Printer, Ring, Summary};

/// What the driver said, as far as a run needs it.
#[derive(Debug)]
pub enum Said {
    /// It decided on a connection.
    Verdict { flow: u64, decided: Decided, rule: Option<u32> },
    /// It closed its record of a connection: packets and bytes, received and sent.
    Closed { flow: u64, packets: [u64; 2], bytes: [u64; 2] },
    /// The ring lost records of a kind.
    Lost { kind: &'static str, records: u64 },
}

/// Where the dispatcher's thread leaves what the driver said.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    said: Vec<Said>,
    delivered: u64,
    listening: Option<SocketAddr>,
    filtering: bool,
    faults: Vec<String>,
}

impl Inbox {
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_all();
        result
    }

    /// Takes a word of the driver that came by the ring.
    pub fn say(&self, said: Said) {
        self.with(|state| {
            state.delivered += 1;
            state.said.push(said);
        });
    }

    /// The control port is open.
    pub fn listening(&self, address: SocketAddr) {
        self.with(|state| state.listening = Some(address));
    }

    /// The filters are in place, or gone.
    pub fn filtering(&self, filtering: bool) {
        self.with(|state| state.filtering = filtering);
    }

    /// Something failed in the driver.
    pub fn fault(&self, what: String) {
        self.with(|state| state.faults.push(what));
    }

    /// Waits until the filters are in place and the control port is open.
    ///
    /// # Errors
    /// What failed instead, or that nothing happened for `patience`.
    pub fn ready(&self, patience: Duration) -> Result<SocketAddr, String> {
        let end = Instant::now() + patience;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let (Some(address), true) = (state.listening, state.filtering) {
                return Ok(address);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !state.faults.is_empty() {
                let faults = state.faults.join("; ");
                return Err(if faults.is_empty() { "the driver did not become ready".into() } else { faults });
            }
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take(&self) -> Vec<Said> {
        self.with(|state| std::mem::take(&mut state.said))
    }

    /// Waits for a word, not for long.
    fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_empty() {
            drop(self.arrived.wait_timeout(state, Duration::from_millis(1)));
        }
    }

    fn delivered(&self) -> u64 {
        self.with(|state| state.delivered)
    }
}

/// Verdicts and ends that may be on their way through the ring: below the smallest ring that can be configured.
const MOST_UNDER_WAY: usize = 128;
/// How long the dispatcher may be silent before its words are given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that is not yet reported as closed.
struct Live {
    endpoints: Endpoints,
    direction: Direction,
    time: i64,
    decided: Option<(Decided, Option<u32>)>,
    counted: Option<([u64; 2], [u64; 2])>,
    ended: Option<(Box<Connection>, EndReason)>,
}

/// The stack's observer, and the printer's source.
pub struct Follow<W> {
    inbox: Arc<Inbox>,
    rules: Vec<String>,
    printer: Printer<W>,
    summary: Summary,
    live: HashMap<u64, Live>,
    /// Connections whose verdict is under way.
    undecided: usize,
    /// Permitted connections that ended and whose driver's record is under way.
    uncounted: VecDeque<u64>,
    ring: Ring,
}

impl<W: Write> Follow<W> {
    pub fn new(inbox: Arc<Inbox>, rules: Vec<String>, printer: Printer<W>) -> Self {
        Self {
            inbox,
            rules,
            printer,
            summary: Summary::default(),
            live: HashMap::new(),
            undecided: 0,
            uncounted: VecDeque::new(),
            ring: Ring::default(),
        }
    }

    /// Whether the output is gone.
    pub fn output_failed(&self) -> bool {
        self.printer.error().is_some()
    }

    /// Hands the output on.
    pub fn flush(&mut self) {
        self.printer.flush();
    }

    /// The capture is over, the driver stays.
    pub fn staying(&mut self) {
        self.printer.note("the capture is over; the driver stays until interrupted");
        self.printer.flush();
    }

    /// Allowed, blocked and audited so far.
    pub fn verdicts(&self) -> (u64, u64, u64) {
        (self.summary.allowed, self.summary.blocked, self.summary.audited)
    }

    /// Takes what the driver said meanwhile.
    pub fn take_events(&mut self) {
        for said in self.inbox.take() {
            match said {
                Said::Verdict { flow, decided, rule } => self.decide(flow, decided, rule),
                Said::Closed { flow, packets, bytes } => {
                    if let Some(live) = self.live.get_mut(&flow) {
                        live.counted = Some((packets, bytes));
                    }
                    self.complete(flow);
                }
                Said::Lost { kind, records } => {
                    self.ring.dropped += records;
                    *self.ring.dropped_by_kind.entry(kind.to_owned()).or_default() += records;
                }
            }
        }
        while self.uncounted.front().is_some_and(|flow| !self.live.contains_key(flow)) {
            self.uncounted.pop_front();
        }
    }

    /// Ends the following: what has not come by now does not come.
    pub fn finish(mut self, summary: &mut Summary) -> Printer<W> {
        self.take_events();
        let flows: Vec<u64> = self.live.keys().copied().collect();
        for flow in flows {
            self.give_up(flow);
        }
        let Summary { allowed, blocked, audited, flows, by_rule, by_protocol, by_direction, .. } = self.summary;
        let (unreported, miscounted, untracked) =
            (self.summary.unreported, self.summary.miscounted, self.summary.untracked);
        *summary = Summary {
            packets: summary.packets,
            skipped: std::mem::take(&mut summary.skipped),
            interrupted: summary.interrupted,
            damage: summary.damage.take(),
            flows,
            allowed,
            blocked,
            audited,
            by_rule,
            by_protocol,
            by_direction,
            unreported,
            miscounted,
            untracked,
            ring: Ring { delivered: self.inbox.delivered(), ..self.ring },
            leaks: 0,
            violations: 0,
        };
        self.printer
    }

    fn rule(rules: &[String], rule: Option<u32>) -> &str {
        rule.map_or(DEFAULT_RULE, |rule| rules.get(rule as usize).map_or("?", String::as_str))
    }

    fn decide(&mut self, flow: u64, decided: Decided, rule: Option<u32>) {
        let Some(live) = self.live.get_mut(&flow) else { return };
        // A connection that is authorized again after a change of policy keeps its first decision in the summary.
        if live.decided.is_some() {
            return;
        }
        live.decided = Some((decided, rule));
        self.undecided -= 1;
        self.summary.decide(decided);
        let name = Self::rule(&self.rules, rule);
        self.printer.verdict(&live.endpoints, live.direction, live.time, decided, name);
        self.complete(flow);
    }

    /// Reports a connection of which everything has come.
    fn complete(&mut self, flow: u64) {
        let Some(live) = self.live.get(&flow) else { return };
        let (Some((decided, _)), Some((connection, _))) = (live.decided, &live.ended) else { return };
        let permitted = decided != Decided::Block && connection.verdict == Verdict::Permit;
        if permitted && live.counted.is_none() {
            return;
        }
        self.report(flow);
    }

    fn report(&mut self, flow: u64) {
        let Some(Live { decided: Some((decided, rule)), counted, ended: Some((connection, reason)), .. }) =
            self.live.remove(&flow)
        else {
            return;
        };
        let seen = (connection.packets, connection.bytes);
        if connection.verdict == Verdict::Permit {
            match counted {
                Some(counted) if counted != seen && connection.suppressed == 0 => self.summary.miscounted += 1,
                Some(_) => {}
                None => self.summary.untracked += 1,
            }
        }
        let (packets, bytes) = counted.filter(|_| connection.suppressed == 0).unwrap_or(seen);
        let rule = Self::rule(&self.rules, rule);
        let closed = Closed { connection: &connection, reason, decided, rule, packets, bytes };
        self.summary.close(&closed);
        self.printer.closed(&closed);
    }

    /// Reports a connection without the rest of what the driver has to say.
    fn give_up(&mut self, flow: u64) {
        let Some(live) = self.live.get_mut(&flow) else { return };
        if live.decided.is_none() {
            self.undecided -= 1;
            self.summary.unreported += 1;
            let blocked = live.ended.as_ref().is_some_and(|(connection, _)| connection.verdict == Verdict::Block);
            let decided = if blocked { Decided::Block } else { Decided::Allow };
            live.decided = Some((decided, Some(u32::MAX)));
            self.summary.decide(decided);
        }
        self.report(flow);
    }

    /// Waits while too much is under way.
    fn pace(&mut self) {
        if self.undecided < MOST_UNDER_WAY && self.uncounted.len() < MOST_UNDER_WAY {
            return;
        }
        let mut end = Instant::now() + PATIENCE;
        loop {
            let before = (self.undecided, self.uncounted.len());
            self.take_events();
            if self.undecided <= MOST_UNDER_WAY / 2 && self.uncounted.len() <= MOST_UNDER_WAY / 2 {
                return;
            }
            if (self.undecided, self.uncounted.len()) != before {
                end = Instant::now() + PATIENCE;
            } else if Instant::now() > end {
                for flow in std::mem::take(&mut self.uncounted) {
                    self.give_up(flow);
                }
                return;
            }
            self.inbox.wait();
        }
    }
}

impl<W: Write> Observer for Follow<W> {
    fn authorized(&mut self, connection: &Connection) {
        self.summary.flows += 1;
        self.undecided += 1;
        self.live.insert(
            connection.flow,
            Live {
                endpoints: connection.endpoints,
                direction: connection.direction,
                time: connection.first,
                decided: None,
                counted: None,
                ended: None,
            },
        );
        self.pace();
    }

    fn ended(&mut self, connection: &Connection, reason: EndReason) {
        let Some(live) = self.live.get_mut(&connection.flow) else { return };
        live.ended = Some((Box::new(connection.clone()), reason));
        if connection.verdict == Verdict::Permit && live.counted.is_none() {
            self.uncounted.push_back(connection.flow);
        }
        self.complete(connection.flow);
        self.pace();
    }
}
