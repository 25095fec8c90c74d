//! Brings together what the stack saw of a connection and what the driver says of it.
//!
//! The driver's word comes by the dispatch ring, on another thread and later. A replay is faster than any network, so
//! it waits when more verdicts are on their way than the ring is sure to hold: nothing is lost that a real stack's
//! pace would not lose.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use ntsim::tcpip::{Connection, Direction, EndReason, Endpoints, Observer, Verdict};

use super::report::{Closed, DEFAULT_RULE, Decided, Printer, Ring, Summary};

/// A connection as the driver names it: for ICMP type and code stand for the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub protocol: u8,
    pub local: (IpAddr, u16),
    pub remote: (IpAddr, u16),
}

impl From<&Endpoints> for Ends {
    fn from(endpoints: &Endpoints) -> Self {
        let (local, remote) = match endpoints.protocol {
            1 | 58 => (endpoints.icmp.0.into(), endpoints.icmp.1.into()),
            _ => (endpoints.local_port, endpoints.remote_port),
        };
        Self {
            protocol: endpoints.protocol,
            local: (endpoints.local, local),
            remote: (endpoints.remote, remote),
        }
    }
}

/// What the driver said, as far as a run needs it.
#[derive(Debug)]
pub enum Said {
    /// It decided on a connection.
    Verdict { ends: Ends, decided: Decided, rule: Option<u32> },
    /// It closed its record of a connection: packets and bytes, received and sent.
    Closed { ends: Ends, packets: [u64; 2], bytes: [u64; 2] },
    /// The ring lost records of a kind.
    Lost { kind: String, records: u64 },
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
    faults: Vec<String>,
}

impl Inbox {
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_all();
        result
    }

    /// Takes a word of the driver.
    pub fn say(&self, said: Said) {
        self.with(|state| state.said.push(said));
    }

    /// How many records the dispatcher has delivered, told at the driver's stop.
    pub fn delivered_in_all(&self, records: u64) {
        self.with(|state| state.delivered = records);
    }

    /// The control port is open.
    pub fn listening(&self, address: SocketAddr) {
        self.with(|state| state.listening = Some(address));
    }

    /// Something failed in the driver.
    pub fn fault(&self, what: String) {
        self.with(|state| state.faults.push(what));
    }

    /// Where the control port is open, once it is.
    ///
    /// # Errors
    /// What failed instead.
    pub fn control(&self) -> Result<Option<SocketAddr>, String> {
        self.with(
            |state| {
                if state.faults.is_empty() { Ok(state.listening) } else { Err(state.faults.join("; ")) }
            },
        )
    }

    fn take(&self) -> Vec<Said> {
        self.with(|state| std::mem::take(&mut state.said))
    }

    /// Waits for a word, not for long.
    pub fn wait(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_empty() {
            drop(self.arrived.wait_timeout(state, Duration::from_millis(1)));
        }
    }

    fn delivered(&self) -> u64 {
        self.with(|state| state.delivered)
    }
}

/// Verdicts and ends that may be on their way through the ring: well below [`RING_RECORDS`].
const MOST_UNDER_WAY: usize = 8192;
/// The ring of each processor, larger than by default: a replay sends more at a time than a network does.
pub const RING_RECORDS: u32 = 32_768;
/// How long the dispatcher may be silent before its words are given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that is not yet reported as closed.
struct Live {
    endpoints: Endpoints,
    direction: Direction,
    time: i64,
    /// By the filter engine's word, which comes before the driver's.
    blocked: bool,
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
    by_ends: HashMap<Ends, VecDeque<u64>>,
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
            by_ends: HashMap::new(),
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
                Said::Verdict { ends, decided, rule } => {
                    if let Some(flow) = self.waiting(ends, |live| live.decided.is_none()) {
                        self.decide(flow, decided, rule);
                    }
                }
                Said::Closed { ends, packets, bytes } => {
                    let counts = |live: &Live| live.counted.is_none() && !live.blocked;
                    if let Some(flow) = self.waiting(ends, counts) {
                        if let Some(live) = self.live.get_mut(&flow) {
                            live.counted = Some((packets, bytes));
                        }
                        self.complete(flow);
                    }
                }
                Said::Lost { kind, records } => {
                    self.ring.dropped += records;
                    *self.ring.dropped_by_kind.entry(kind).or_default() += records;
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
        let Summary { allowed, blocked, audited, flows, by_rule, by_protocol, by_direction, .. } =
            self.summary;
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

    /// The oldest connection on these ends that waits for something. The driver tells of connections on the same ends
    /// in their order.
    fn waiting(&self, ends: Ends, waits: impl Fn(&Live) -> bool) -> Option<u64> {
        let flows = self.by_ends.get(&ends)?;
        flows.iter().copied().find(|flow| self.live.get(flow).is_some_and(&waits))
    }

    fn rule(rules: &[String], rule: Option<u32>) -> &str {
        rule.map_or(DEFAULT_RULE, |rule| rules.get(rule as usize).map_or("?", String::as_str))
    }

    fn decide(&mut self, flow: u64, decided: Decided, rule: Option<u32>) {
        let Some(live) = self.live.get_mut(&flow) else { return };
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
        if live.decided.is_some() && live.ended.is_some() && (live.blocked || live.counted.is_some()) {
            self.report(flow);
        }
    }

    fn report(&mut self, flow: u64) {
        let Some(Live { decided: Some((decided, rule)), counted, ended: Some((connection, reason)), .. }) =
            self.live.remove(&flow)
        else {
            return;
        };
        if let Entry::Occupied(mut flows) = self.by_ends.entry(Ends::from(&connection.endpoints)) {
            flows.get_mut().retain(|other| *other != flow);
            if flows.get().is_empty() {
                flows.remove();
            }
        }
        let seen = (connection.packets, connection.bytes);
        if connection.verdict == Verdict::Permit {
            match counted {
                Some(counted) if counted != seen && connection.suppressed == 0 => {
                    self.summary.miscounted += 1;
                }
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
            let decided = if live.blocked { Decided::Block } else { Decided::Allow };
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
        self.by_ends.entry(Ends::from(&connection.endpoints)).or_default().push_back(connection.flow);
        self.live.insert(
            connection.flow,
            Live {
                endpoints: connection.endpoints,
                direction: connection.direction,
                time: connection.first,
                blocked: connection.verdict == Verdict::Block,
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
