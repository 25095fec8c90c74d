//! What weir does at each layer. Safe code over [`Classify`], at DISPATCH_LEVEL: the callouts raise once for all of it.

use core::sync::atomic::{AtomicU32, Ordering};

use super::callout::Callouts;
use super::classify::Classify;
use super::layer::Role;
use super::verdict::Verdict;
use crate::config::Live;
use crate::dispatch::{Rings, Subject};
use crate::flow::{Connection, Decided, Ended, Flows, Inserted, Key, Ref};
use crate::kernel::irql::AtDispatch;
use crate::kernel::pool::PoolArc;
use crate::policies::Policies;
use crate::policy::{Action, Decision, Direction, Tuple};
use crate::ring::{self, LifeCycle};
use crate::trace::{self, Keywords, Level};

/// A connection that somebody attempts, and what was decided on it.
struct Attempt {
    key: Key,
    direction: Direction,
    /// It was decided on before.
    reauthorized: bool,
    decided: Decided,
}

/// What the handlers work on.
pub struct Handler {
    policy: PoolArc<Policies>,
    rings: PoolArc<Rings>,
    flows: PoolArc<Flows>,
    /// What happens to connections while there is no policy.
    fail: Action,
    /// How many of the verdicts that allow are told.
    live: PoolArc<Live>,
    /// Verdicts that allow, since one was told.
    skipped: AtomicU32,
}

impl Handler {
    pub fn new(
        policy: PoolArc<Policies>,
        rings: PoolArc<Rings>,
        flows: PoolArc<Flows>,
        fail: Action,
        live: PoolArc<Live>,
    ) -> Self {
        Self { policy, rings, flows, fail, live, skipped: AtomicU32::new(0) }
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// ALE_AUTH_CONNECT and ALE_AUTH_RECV_ACCEPT: decides, tracks what passes, and tells.
    pub(super) fn authorize(
        &self,
        callouts: &Callouts,
        classify: &Classify<'_>,
        direction: Direction,
        at: &AtDispatch<'_>,
    ) -> Verdict {
        let tuple = classify.tuple(direction);
        let attempt = Attempt {
            key: Key::of(&tuple),
            direction,
            reauthorized: classify.is_reauthorization(),
            decided: self.decide(&tuple, at),
        };
        let connection = self.track(callouts, classify, &attempt, at);
        self.tell(&attempt, connection.as_deref(), at);
        attempt.decided.action.into()
    }

    /// ALE_FLOW_ESTABLISHED: the connection stands, on an endpoint of its own.
    pub(super) fn established(&self, classify: &Classify<'_>, at: &AtDispatch<'_>) {
        let Some(flow) = classify.flow() else { return };
        let Some(connection) = self.flows.find(&classify.key(), flow, at) else { return };
        if let Some(endpoint) = classify.endpoint() {
            connection.set_endpoint(endpoint);
        }
        self.rings.raise(at, Subject::Connection(&connection), LifeCycle::Opened);
    }

    /// ALE_ENDPOINT_CLOSURE: the connection is over.
    pub(super) fn closure(&self, classify: &Classify<'_>, at: &AtDispatch<'_>) {
        let found = self.flows.find_open(&classify.key(), classify.endpoint(), at);
        let Some(connection) = found else { return };
        self.close(&connection, Ended::Closure, at);
    }

    /// A flow context is gone, or none is going to be associated any more.
    pub(super) fn context_removed(&self, connection: &Connection, at: &AtDispatch<'_>) {
        if connection.remove_context() {
            self.flows.remove(connection, at);
            if !connection.is_abandoned() {
                self.close(connection, Ended::FlowDeleted, at);
            }
        }
    }

    fn close(&self, connection: &Connection, how: Ended, at: &AtDispatch<'_>) {
        connection.end(how);
        self.rings.raise(at, Subject::Connection(connection), LifeCycle::Closed);
    }

    fn decide(&self, tuple: &Tuple<'_>, at: &AtDispatch<'_>) -> Decided {
        match self.policy.decide(tuple, at) {
            Some((Decision { action, rule }, generation)) => Decided { action, rule, generation },
            None => Decided { action: self.fail, rule: None, generation: 0 },
        }
    }

    /// The connection that was decided on: the one that its flow has, or a new one if it may pass. Of what cannot be
    /// tracked there is none, and it is counted.
    fn track(
        &self,
        callouts: &Callouts,
        classify: &Classify<'_>,
        attempt: &Attempt,
        at: &AtDispatch<'_>,
    ) -> Option<Ref> {
        let Attempt { key, direction, decided, reauthorized } = *attempt;
        let passes = decided.action != Action::Block;
        let Some(flow) = classify.flow() else {
            if passes {
                self.flows.count_untracked();
            }
            return None;
        };
        if reauthorized && let Some(known) = self.flows.find(&key, flow, at) {
            known.decide(decided);
            return Some(known);
        }
        if !passes {
            return None;
        }
        let number = self.flows.next_number();
        match self.flows.insert(number, key, direction, flow, decided, at) {
            Ok(Inserted::New(connection)) => self.enlist(callouts, classify, connection, at),
            Ok(Inserted::Known(known)) => {
                known.decide(decided);
                Some(known)
            }
            Err(_) => {
                self.flows.count_untracked();
                None
            }
        }
    }

    /// Gives a new connection its flow contexts, and counts the packet that it came with if no callout will.
    fn enlist(
        &self,
        callouts: &Callouts,
        classify: &Classify<'_>,
        connection: Ref,
        at: &AtDispatch<'_>,
    ) -> Option<Ref> {
        if let Some(endpoint) = classify.endpoint() {
            connection.set_endpoint(endpoint);
        }
        let associated = callouts.associate(&connection);
        if associated.is_ok() && came_before_its_context(classify) {
            let carried = classify.carried_inbound();
            connection.count(Direction::In, carried.packets, carried.bytes);
        }
        // The count that `insert` left: everything that could be associated is.
        self.context_removed(&connection, at);
        if associated.is_err() {
            self.flows.count_untracked();
            return None;
        }
        Some(connection)
    }

    fn tell(&self, attempt: &Attempt, connection: Option<&Connection>, at: &AtDispatch<'_>) {
        let Attempt { key, direction, decided, reauthorized } = *attempt;
        if !trace::enabled(Level::Information, Keywords::VERDICT) || !self.sampled(decided.action) {
            return;
        }
        let record = ring::Verdict {
            action: decided.action,
            direction,
            family: key.family,
            reauthorized,
            protocol: key.protocol,
            rule: decided.rule.unwrap_or(u32::MAX),
            generation: decided.generation,
            local: key.local,
            remote: key.remote,
            local_port: key.local_port,
            remote_port: key.remote_port,
        };
        // What the ring refuses it counts.
        let _told = self.rings.push(at, &record, connection.map(Subject::Connection));
    }

    /// Whether this verdict is one of those that are told.
    fn sampled(&self, action: Action) -> bool {
        match (action, self.live.verdict_sampling()) {
            (Action::Block | Action::Audit, _) | (Action::Allow, 1) => true,
            (Action::Allow, 0) => false,
            (Action::Allow, sampling) => {
                self.skipped.fetch_add(1, Ordering::Relaxed).is_multiple_of(sampling)
            }
        }
    }
}

/// Whether the indicated packet passed INBOUND_TRANSPORT before the connection had its context there: one that is
/// received, at ALE_AUTH_RECV_ACCEPT. On reauthorization it may be one that is sent, which OUTBOUND_TRANSPORT is still
/// to see.
fn came_before_its_context(classify: &Classify<'_>) -> bool {
    classify.layer().role == Role::Authorize(Direction::In)
        && classify.packet_direction() != Some(Direction::Out)
}
