//! What a live view shows, and how it is gathered: figures that a driver has, and how they change.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::time::Instant;

use serde_json::{Value, json};
use weir::config::interface;
use weir::control::protocol::message::{
    Answer, Connection, Empty, EventRecord, EventValue, Events, ExtensionState, From, ListWriter,
    PolicyState, Request, Subscribe,
};
use weir::policy::Action;
use weir::trace::Guid;
use weir::trace::events::{Level, Provider};

use crate::client::json::hex;
use crate::client::{Client, Error, Follower, Message};
use crate::ctl::{action, direction, end};
use crate::output::span;
use crate::record;
use crate::run::protocol;

/// The event of a verdict, and where it says which.
const VERDICT: u16 = 40;
const VERDICT_FIELD: usize = 1;
/// The event of an extension's callback.
const CALLBACK: u16 = 63;
/// Bits of the events that vendors alone have something to say by: one of their own, and a label.
const VENDOR: u64 = 0x8;
const LABEL: u64 = 0x1;
/// Verdicts that may be on their way at once; those beyond are counted as lost, and so shown.
const CREDIT: u32 = 50_000;
/// Parts of the list of connections that are asked for each time: a view is to cost the driver little.
const PARTS: usize = 64;

/// Policies whose rules' names are kept: connections outlive the policy that decided on them.
const REMEMBERED: usize = 16;

/// Verdicts, or how many a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Verdicts<N> {
    pub allow: N,
    pub block: N,
    pub audit: N,
    /// Verdicts of which it is not known what they were: there were too many for this view.
    pub untold: N,
}

impl Verdicts<f64> {
    pub fn all(&self) -> f64 {
        self.allow + self.block + self.audit + self.untold
    }
}

/// A connection, and what it carries.
#[derive(Clone, PartialEq, Debug)]
pub struct Talker {
    pub number: u64,
    pub way: &'static str,
    pub protocol: String,
    pub local: String,
    pub remote: String,
    pub verdict: &'static str,
    pub rule: String,
    /// Bytes, received and sent.
    pub bytes: [u64; 2],
    /// Bytes a second.
    pub rates: [f64; 2],
}

/// The extension interfaces of the control sockets.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Extended {
    /// How many are registered, by the kind of their provider: WSK, vendors' modules, weir itself.
    pub registered: [u64; 3],
    /// How many nobody provides.
    pub refused: u64,
    /// How many their provider could not.
    pub failed: u64,
    /// Vendors' modules.
    pub modules: u64,
    /// Callbacks: in all, and a second.
    pub callbacks: (u64, f64),
    /// Callbacks that the ring had no room for.
    pub lost: u64,
    /// Callbacks a second, by interface, of those that make any.
    pub by_interface: BTreeMap<String, f64>,
    /// What a vendor has said last.
    pub last: Option<Said>,
}

/// What a vendor has said of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub session: u64,
    pub interface: String,
    pub provider: &'static str,
    /// A label's number, or the type of an event of the vendor's own.
    pub value: u64,
    /// A label's text, or an event's bytes in hexadecimal.
    pub text: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, interface, provider, value, text } = self;
        write!(f, "session {session}: {interface} {value} {text} ({provider})")
    }
}

/// How the driver stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    pub driver: String,
    /// In units of 100 ns.
    pub up: u64,
    pub processors: u32,
    pub filters: bool,
    pub policy: String,
    pub generation: u32,
    pub rules: u32,
    /// In milliseconds.
    pub rollback_in: Option<u64>,
    pub connections: u64,
    pub sessions: u32,
    pub degraded: u32,
}

/// One look at the driver.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct View {
    pub standing: Standing,
    /// So long the rates were measured, in seconds.
    pub seconds: f64,
    pub verdicts: Verdicts<f64>,
    /// Since the view began.
    pub verdicts_in_all: Verdicts<u64>,
    /// The dispatch ring's records: delivered, and a second.
    pub delivered: (u64, f64),
    /// Records lost, by kind and cause, where there are any.
    pub lost: BTreeMap<String, u64>,
    pub extended: Extended,
    /// Bytes a second of the connections that were looked at, received and sent.
    pub traffic: [f64; 2],
    /// The connections that were looked at, unordered.
    pub talkers: Vec<Talker>,
    /// There are more.
    pub more: bool,
}

impl View {
    /// A rate, of what has happened since the look before.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn per_second(&self, happened: u64) -> f64 {
        if self.seconds > 0.0 { happened as f64 / self.seconds } else { 0.0 }
    }

    /// The records that the ring has lost.
    pub fn lost_in_all(&self) -> u64 {
        self.lost.values().sum()
    }

    /// The figures beside the connections, a line each.
    pub fn lines(&self) -> Vec<String> {
        let Standing { driver, up, processors, filters, policy, generation, rules, .. } = &self.standing;
        let filters = if *filters { "filters in force" } else { "NO FILTERS: every connection passes" };
        let missing = match self.standing.degraded {
            0 => String::new(),
            1 => ", 1 part missing".into(),
            count => format!(", {count} parts missing"),
        };
        let decides = match generation {
            0 => String::new(),
            generation => format!(", generation {generation}, {rules} rules"),
        };
        let open = self.standing.rollback_in.map_or_else(String::new, |left| {
            format!(", rolled back in {} s unless confirmed", left.div_ceil(1000))
        });
        let Verdicts { allow, block, audit, untold } = self.verdicts;
        let untold = if untold > 0.0 { format!(", {untold:.0} not told") } else { String::new() };
        let lost = match self.lost_in_all() {
            0 => "none lost".into(),
            count => {
                let kinds: Vec<_> = self.lost.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
                format!("{count} LOST ({})", kinds.join(", "))
            }
        };
        let [received, sent] = self.traffic.map(rate);
        let mut lines = vec![
            format!("weir {driver}, up for {}, {processors} processors, {filters}{missing}", span(*up)),
            format!("policy       {policy}{decides}{open}"),
            format!(
                "verdicts     {:.0}/s: {allow:.0} allow, {block:.0} block, {audit:.0} audit{untold}",
                self.verdicts.all()
            ),
            format!("connections  {}, {received} received, {sent} sent", self.standing.connections),
            format!("ring         {:.0} records/s, {} in all, {lost}", self.delivered.1, self.delivered.0),
            format!("control      {} sessions", self.standing.sessions),
            self.extended.line(),
        ];
        lines.extend(self.extended.last.as_ref().map(|said| format!("last said    {said}")));
        lines
    }

    /// Puts those who carry most in front.
    pub fn sort(&mut self, by_total: bool) {
        let sum = |values: [u64; 2]| values[0].saturating_add(values[1]);
        self.talkers.sort_by(|a, b| {
            let rates = (b.rates[0] + b.rates[1]).total_cmp(&(a.rates[0] + a.rates[1]));
            let totals = sum(b.bytes).cmp(&sum(a.bytes));
            let first = if by_total { totals } else { rates };
            first.then(totals).then(a.number.cmp(&b.number))
        });
    }

    /// All of it, with so many connections.
    pub fn json(&self, most: usize) -> Value {
        let standing = &self.standing;
        let verdicts = |allow: Value, block: Value, audit: Value, untold: Value| json!({ "allow": allow, "block": block, "audit": audit, "untold": untold });
        let rates = self.verdicts;
        let totals = self.verdicts_in_all;
        let talkers = self.talkers.iter().take(most).map(|talker| {
            json!({
                "connection": talker.number,
                "direction": talker.way,
                "protocol": talker.protocol,
                "local": talker.local,
                "remote": talker.remote,
                "verdict": talker.verdict,
                "rule": talker.rule,
                "bytes_in": talker.bytes[0],
                "bytes_out": talker.bytes[1],
                "bytes_in_per_second": talker.rates[0],
                "bytes_out_per_second": talker.rates[1],
            })
        });
        json!({
            "driver": standing.driver,
            "up_seconds": standing.up / 10_000_000,
            "processors": standing.processors,
            "filters": standing.filters,
            "policy": standing.policy,
            "generation": standing.generation,
            "rules": standing.rules,
            "rollback_in": standing.rollback_in,
            "degraded": standing.degraded,
            "connections": standing.connections,
            "sessions": standing.sessions,
            "seconds": self.seconds,
            "verdicts_per_second":
                verdicts(rates.allow.into(), rates.block.into(), rates.audit.into(), rates.untold.into()),
            "verdicts":
                verdicts(totals.allow.into(), totals.block.into(), totals.audit.into(), totals.untold.into()),
            "ring": {
                "delivered": self.delivered.0,
                "delivered_per_second": self.delivered.1,
                "lost": self.lost_in_all(),
                "lost_by": self.lost,
            },
            "extensions": self.extended.json(),
            "bytes_in_per_second": self.traffic[0],
            "bytes_out_per_second": self.traffic[1],
            "talkers": talkers.collect::<Vec<_>>(),
            "more_connections": self.more,
        })
    }
}

impl Extended {
    fn line(&self) -> String {
        let [wsk, nmr, builtin] = self.registered;
        let mut line = format!("extensions   {wsk} wsk, {nmr} nmr, {builtin} builtin");
        for (count, what) in [(self.refused, "nobody's"), (self.failed, "failed")] {
            if count > 0 {
                let _ = write!(line, ", {count} {what}");
            }
        }
        if self.modules > 0 {
            let _ = write!(line, "; {} modules", self.modules);
        }
        let _ = write!(line, "; {:.0} callbacks/s, {} in all", self.callbacks.1, self.callbacks.0);
        if self.lost > 0 {
            let _ = write!(line, ", {} LOST", self.lost);
        }
        if self.by_interface.len() > 1 {
            let each: Vec<_> =
                self.by_interface.iter().map(|(interface, rate)| format!("{interface} {rate:.0}")).collect();
            let _ = write!(line, " ({})", each.join(", "));
        }
        line
    }

    fn json(&self) -> Value {
        let [wsk, nmr, builtin] = self.registered;
        let last = self.last.as_ref().map(|said| {
            json!({
                "session": said.session,
                "interface": said.interface,
                "provider": said.provider,
                "value": said.value,
                "text": said.text,
            })
        });
        json!({
            "registered": { "wsk": wsk, "nmr": nmr, "builtin": builtin },
            "refused": self.refused,
            "failed": self.failed,
            "modules": self.modules,
            "callbacks": self.callbacks.0,
            "callbacks_per_second": self.callbacks.1,
            "callbacks_per_second_by": self.by_interface,
            "lost": self.lost,
            "last": last,
        })
    }
}

/// What a vendor says by a callback; `None`: it is the interface that says something.
fn said(event: &EventRecord<'_>) -> Option<Said> {
    let mut values = event.values();
    let (session, id, code) = (values.next()?, values.next()?.guid()?, values.next()?);
    let (value, provider, data) = (values.next()?, values.next(), values.next());
    let (EventValue::Unsigned(session), EventValue::Unsigned(code), EventValue::Unsigned(value)) =
        (session, code, value)
    else {
        return None;
    };
    let data = if let Some(EventValue::Bytes(bytes)) = data { bytes } else { &[] };
    let provider = match provider {
        Some(EventValue::Unsigned(number)) => u8::try_from(number).ok().and_then(Provider::from_number),
        _ => None,
    };
    let text = match (interface::name(&id), code) {
        // Whatever a vendor writes, the terminal is this program's.
        (Some("label_v1"), LABEL) => format!("\"{}\"", String::from_utf8_lossy(data).escape_debug()),
        (Some("connection_v1"), VENDOR) | (None, _) => hex(data),
        _ => return None,
    };
    let provider = provider.map_or("", Provider::name);
    Some(Said { session, interface: crate::ctl::interface(&id), provider, value, text })
}

/// Bytes a second for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and far from 2^64"
)]
pub fn rate(bytes_a_second: f64) -> String {
    format!("{}/s", crate::output::bytes(bytes_a_second.round() as u64))
}

/// Whose callbacks are counted: session, interface, kind of provider, module.
type Registration = (u64, Guid, Option<Provider>, Option<Guid>);

/// Looks at a driver again and again.
pub struct Watch {
    client: Client,
    follower: Follower,
    looked: Option<Instant>,
    verdicts: Verdicts<u64>,
    verdicts_before: Verdicts<u64>,
    delivered_before: Option<u64>,
    callbacks_before: Option<u64>,
    /// Callbacks, by session, interface and provider.
    calls_before: HashMap<Registration, u64>,
    last_said: Option<Said>,
    bytes_before: HashMap<u64, [u64; 2]>,
    /// The rules' names, by the generation of the policy; of the last few.
    rules: BTreeMap<u32, Vec<String>>,
}

impl Watch {
    /// Begins to look.
    ///
    /// # Errors
    /// The driver says no, or does not answer.
    pub fn start(mut client: Client) -> Result<Self, Error> {
        let mut place = [0; 8];
        let mut ids = ListWriter::new(&mut place);
        // Two have room.
        let _told = ids.push(&VERDICT).and_then(|()| ids.push(&CALLBACK));
        let request = Subscribe {
            credit: CREDIT,
            level: Some(Level::Verbose as u8),
            keywords: None,
            ids: Some(ids.finish()),
            snapshot: None,
        };
        let follower = Follower::start(&mut client, request)?;
        Ok(Self {
            client,
            follower,
            looked: None,
            verdicts: Verdicts::default(),
            verdicts_before: Verdicts::default(),
            delivered_before: None,
            callbacks_before: None,
            calls_before: HashMap::new(),
            last_said: None,
            bytes_before: HashMap::new(),
            rules: BTreeMap::new(),
        })
    }

    /// Takes in verdicts until then.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn listen(&mut self, until: Instant) -> Result<(), Error> {
        loop {
            let Some(message) = self.follower.next(&mut self.client, Some(until))? else { return Ok(()) };
            self.count(&message)?;
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn count(&mut self, message: &Message) -> Result<(), Error> {
        let Answer::Events(Events { lost, events, .. }) = message.answer()? else { return Ok(()) };
        for event in events.iter() {
            if event.id == CALLBACK {
                self.last_said = said(&event).or(self.last_said.take());
            }
            if event.id != VERDICT {
                continue;
            }
            let verdict = match event.values().nth(VERDICT_FIELD) {
                Some(EventValue::Unsigned(number)) => u8::try_from(number).ok().and_then(Action::from_byte),
                _ => None,
            };
            let place = match verdict {
                Some(Action::Allow) => &mut self.verdicts.allow,
                Some(Action::Block) => &mut self.verdicts.block,
                Some(Action::Audit) => &mut self.verdicts.audit,
                None => &mut self.verdicts.untold,
            };
            *place += 1;
        }
        let lost = lost.unwrap_or_default();
        let lost = lost.iter().filter(|loss| loss.event == VERDICT);
        self.verdicts.untold += lost.map(|loss| loss.count).sum::<u64>();
        Ok(())
    }

    /// Looks at all of it. Rates are measured since the look before; the first one has none.
    ///
    /// # Errors
    /// The driver says no, or does not answer.
    pub fn look(&mut self) -> Result<View, Error> {
        let mut view = View { standing: self.standing()?, ..View::default() };
        if !self.rules.contains_key(&view.standing.generation) {
            self.read_rules()?;
        }
        let now = Instant::now();
        let before = self.looked.replace(now);
        view.seconds = before.map_or(0.0, |before| now.duration_since(before).as_secs_f64());
        self.rate_verdicts(&mut view);
        self.count_records(&mut view)?;
        self.find_extensions(&mut view)?;
        self.find_talkers(&mut view)?;
        Ok(view)
    }

    fn standing(&mut self) -> Result<Standing, Error> {
        let message = self.client.ask(&Request::Status(Empty {}))?;
        let status = record!(message, Status)?;
        Ok(Standing {
            driver: status.driver.to_owned(),
            up: status.now.saturating_sub(status.started),
            processors: status.processors,
            filters: status.filters,
            policy: status.policy.name().to_owned(),
            generation: if status.policy == PolicyState::Absent { 0 } else { status.generation },
            rules: status.rules,
            rollback_in: status.rollback_in,
            connections: status.connections,
            sessions: status.sessions,
            degraded: status.degraded,
        })
    }

    fn read_rules(&mut self) -> Result<(), Error> {
        let pages = self.client.pages(|from| Request::PolicyShow(From { from }))?;
        for page in &pages {
            let policy = record!(page, PolicyShow)?;
            // The policy may change between two parts; they are told by their generations.
            let names = self.rules.entry(policy.generation).or_default();
            names.extend(policy.rules.iter().map(|rule| rule.name.to_owned()));
        }
        while self.rules.len() > REMEMBERED {
            self.rules.pop_first();
        }
        Ok(())
    }

    fn rate_verdicts(&mut self, view: &mut View) {
        let (now, before) = (self.verdicts, self.verdicts_before);
        let per_second = |now: u64, before: u64| view.per_second(now.saturating_sub(before));
        view.verdicts = Verdicts {
            allow: per_second(now.allow, before.allow),
            block: per_second(now.block, before.block),
            audit: per_second(now.audit, before.audit),
            untold: per_second(now.untold, before.untold),
        };
        view.verdicts_in_all = now;
        self.verdicts_before = now;
    }

    fn count_records(&mut self, view: &mut View) -> Result<(), Error> {
        let pages = self.client.pages(|from| Request::Counters(From { from }))?;
        let (mut delivered, mut callbacks) = (0_u64, 0);
        for page in &pages {
            for counter in record!(page, Counters)?.counters.iter() {
                if let Some(kind) = counter.name.strip_prefix("ring.lost.") {
                    if counter.value > 0 {
                        view.lost.insert(kind.to_owned(), counter.value);
                    }
                } else if matches!(counter.name, "ring.delivered" | "ring.life_cycle_delivered") {
                    delivered = delivered.saturating_add(counter.value);
                } else if counter.name == "extensions.callbacks" {
                    callbacks = counter.value;
                } else if counter.name == "extensions.lost" {
                    view.extended.lost = counter.value;
                } else if counter.name == "extensions.modules" {
                    view.extended.modules = counter.value;
                }
            }
        }
        let before = self.delivered_before.replace(delivered).unwrap_or(delivered);
        view.delivered = (delivered, view.per_second(delivered.saturating_sub(before)));
        let before = self.callbacks_before.replace(callbacks).unwrap_or(callbacks);
        view.extended.callbacks = (callbacks, view.per_second(callbacks.saturating_sub(before)));
        Ok(())
    }

    fn find_extensions(&mut self, view: &mut View) -> Result<(), Error> {
        let (mut calls, mut from) = (HashMap::new(), None);
        for _ in 0..PARTS {
            let message = self.client.ask(&Request::Extensions(From { from }))?;
            let part = record!(message, Extensions)?;
            for row in part.extensions.iter() {
                match (row.state, row.provider) {
                    (ExtensionState::Registered, provider) => {
                        let kind = provider.map_or(0, |provider| usize::from(provider as u8));
                        if let Some(count) = view.extended.registered.get_mut(kind) {
                            *count += 1;
                        }
                    }
                    (ExtensionState::Refused, _) => view.extended.refused += 1,
                    (ExtensionState::Failed, _) => view.extended.failed += 1,
                    (ExtensionState::Detached, _) => {}
                }
                let registration = (row.session, row.interface, row.provider, row.module);
                // Sockets that listen have no number of their own.
                let made: &mut u64 = calls.entry(registration).or_default();
                *made = made.saturating_add(row.callbacks);
            }
            from = part.next;
            if from.is_none() {
                break;
            }
        }
        for (registration, made) in &calls {
            // What was not there before has made all of them since.
            let before = self.calls_before.get(registration).copied().unwrap_or_default();
            let rate = view.per_second(made.saturating_sub(before));
            if *made > 0 {
                *view.extended.by_interface.entry(crate::ctl::interface(&registration.1)).or_default() +=
                    rate;
            }
        }
        self.calls_before = calls;
        view.extended.last.clone_from(&self.last_said);
        Ok(())
    }

    fn find_talkers(&mut self, view: &mut View) -> Result<(), Error> {
        let (mut bytes, mut from) = (HashMap::new(), None);
        for _ in 0..PARTS {
            let message = self.client.ask(&Request::Connections(From { from }))?;
            let part = record!(message, Connections)?;
            for row in part.connections.iter() {
                let now = [row.bytes_in, row.bytes_out];
                // What was not there before has carried all of it since.
                let before = self.bytes_before.get(&row.connection).copied().unwrap_or_default();
                let rates = [0, 1].map(|way| view.per_second(now[way].saturating_sub(before[way])));
                bytes.insert(row.connection, now);
                view.traffic = [view.traffic[0] + rates[0], view.traffic[1] + rates[1]];
                view.talkers.push(talker(&row, rates, &self.rules));
            }
            from = part.next;
            if from.is_none() {
                break;
            }
        }
        view.more = from.is_some();
        self.bytes_before = bytes;
        Ok(())
    }
}

fn talker(row: &Connection, rates: [f64; 2], rules: &BTreeMap<u32, Vec<String>>) -> Talker {
    let rule = match row.rule {
        None => "default".into(),
        Some(rule) => {
            let names = rules.get(&row.generation);
            let name = names.and_then(|names| names.get(usize::try_from(rule).ok()?));
            // Of a policy that was gone before this view began.
            name.cloned().unwrap_or_else(|| format!("{rule} of generation {}", row.generation))
        }
    };
    Talker {
        number: row.connection,
        way: direction(row.direction),
        protocol: protocol(row.protocol),
        local: end(row.local, row.local_port),
        remote: end(row.remote, row.remote_port),
        verdict: action(row.verdict),
        rule,
        bytes: [row.bytes_in, row.bytes_out],
        rates,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::config::schema::SPOKEN;
    use weir::control::protocol::message::Batch;
    use weir::trace::Event;

    /// What is taken up of a callback.
    fn said_by(interface: Guid, code: u32, data: &[u8]) -> Option<String> {
        let provider = Provider::Nmr;
        let event = Event::ExtensionCallback { session: 7, interface, code, value: 42, provider, data };
        let mut buffer = vec![0; 1024];
        let mut batch = Batch::begin(&mut buffer, 1, 0, [].into_iter(), false).unwrap();
        batch.push(1, &event).unwrap();
        let length = batch.finish();
        let (_, Answer::Events(events)) = Answer::decode(&buffer[..length]).unwrap() else { panic!() };
        said(&events.events.iter().next().unwrap()).map(|said| said.to_string())
    }

    #[test]
    fn what_vendors_say_is_told_from_what_the_interface_says() {
        let [connection_v1, label_v1] = SPOKEN;
        let alias = Guid { data1: 1, ..Guid::default() };
        for (interface, code, data, expected) in [
            (label_v1, 1, &b"db-1"[..], Some("session 7: label_v1 42 \"db-1\" (nmr)")),
            (
                label_v1,
                1,
                b"a\x1b[2J\"\xFF",
                Some("session 7: label_v1 42 \"a\\u{1b}[2J\\\"\u{FFFD}\" (nmr)"),
            ),
            (label_v1, 2, b"", None),
            (connection_v1, 8, &[0xAB, 0], Some("session 7: connection_v1 42 ab00 (nmr)")),
            (connection_v1, 1, &[], None),
            (connection_v1, 2, &[0; 16], None),
            (connection_v1, 4, &[0; 16], None),
            (alias, 4, &[1], Some("session 7: {00000001-0000-0000-0000-000000000000} 42 01 (nmr)")),
        ] {
            assert_eq!(said_by(interface, code, data).as_deref(), expected, "{interface} {code}");
        }
    }
}
