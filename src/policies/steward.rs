//! The steward: the one thread that puts policies into force, and takes them back.
//!
//! Waiting is its trade: for readers of the policy before, for the file system, for the end of a window. Nothing of the
//! control plane waits with it.

use super::desk::{Desk, Done, Order, Outcome, PolicyStatus, Refusal, Ticket, What};
use super::force::{Bytes, Policies, Policy, Unfit};
use crate::control::protocol::message::{ErrorCode, PolicyState};
use crate::control::protocol::noise::Digest;
use crate::kernel::Result;
use crate::kernel::event::{Event, Kind, Waited};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::registry::Value;
use crate::kernel::thread::Thread;
use crate::kernel::time::{self, Interval};
use crate::trace;
use crate::trace::events::{FailMode, RollbackReason};

/// How long the thread waits at most while a window is open. A wait does not count the time in which the machine
/// sleeps, which the window does.
const LOOK: Interval = Interval::from_millis(5_000);

/// Where policies come from at the start.
#[derive(Debug)]
pub struct Sources {
    /// The bytes of `PolicyImage` in the registry.
    pub registry: Option<Value>,
    /// What decides while there is no policy.
    pub fail_mode: FailMode,
}

/// The thread, and what others know of it.
#[derive(Debug)]
#[must_use = "the thread must be stopped"]
pub struct Steward {
    desk: PoolArc<Desk>,
    stop: PoolArc<Event>,
    thread: Thread,
}

impl Steward {
    /// Puts the policy into force that is to decide after a start, and starts the thread. Also says how many of the
    /// policies that there are cannot be used, each of which an event has told.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what PsCreateSystemThread returns.
    pub fn start(
        passive: &mut Passive,
        policies: PoolArc<Policies>,
        sources: Sources,
    ) -> Result<(Self, u32)> {
        let desk = Desk::try_new()?;
        let stop = PoolArc::try_new(tags::SYNC, Event::try_new(Kind::Notification)?)?;
        let work = Work { desk: desk.clone(), stop: stop.clone(), policies, provisional: None };
        let mut work = PoolBox::try_new(tags::POLICY, work)?;
        let refused = work.begin(passive, sources);
        let thread = Thread::start(passive, work, run)?;
        Ok((Self { desk, stop, thread }, refused))
    }

    /// Where orders are handed in.
    pub fn desk(&self) -> PoolArc<Desk> {
        self.desk.clone()
    }

    /// Ends the thread. A policy that is provisional is rolled back: a restart does not find it either. Nobody orders
    /// any more.
    pub fn stop(self, passive: &mut Passive) {
        self.stop.set();
        self.thread.join(passive);
        while let Some(unserved) = self.desk.close(passive) {
            drop(unserved);
        }
    }
}

/// What the thread works with.
struct Work {
    desk: PoolArc<Desk>,
    stop: PoolArc<Event>,
    policies: PoolArc<Policies>,
    provisional: Option<Provisional>,
}

/// A policy that has not been confirmed.
struct Provisional {
    generation: u32,
    /// When it is rolled back, since boot.
    deadline: Interval,
    /// What decided before, and will then.
    before: Option<PoolBox<Policy>>,
}

fn run(passive: &mut Passive, mut work: PoolBox<Work>) {
    loop {
        // An order that came within the window is served before the window is looked at.
        while let Some(order) = work.desk.take(passive) {
            let Order { ticket, what } = order;
            let result = work.serve(passive, &ticket, what);
            work.desk.answer(passive, Outcome { ticket, result });
        }
        if work.stop.is_set() {
            break;
        }
        let bound = work.look(passive);
        if Event::wait_any(&[&work.stop, work.desk.ordered()], passive, bound).is_err() {
            // The wait itself failed: there is only one way left to be told of the end.
            if work.stop.wait(passive, Some(LOOK)) == Waited::Signalled {
                break;
            }
        }
    }
    work.roll_back(passive, RollbackReason::Stopped, 0);
}

impl Work {
    /// Puts the policy into force that is to decide after a start. Returns how many cannot be used.
    fn begin(&mut self, passive: &mut Passive, sources: Sources) -> u32 {
        let mut refused = 0_u32;
        if let Some(image) = sources.registry {
            let mut digest = Digest::default();
            digest.update(image.bytes());
            match self.policies.prepare(passive, image.into(), &digest.finish()) {
                Ok(policy) => {
                    drop(self.put(passive, Some(policy)));
                }
                // Told by the policy itself.
                Err(_) => refused = refused.saturating_add(1),
            }
        } else {
            trace::emit(&trace::Event::PolicyAbsent { fail_mode: sources.fail_mode });
        }
        self.tell_status(passive);
        refused
    }

    fn serve(
        &mut self,
        passive: &mut Passive,
        ticket: &Ticket,
        what: What,
    ) -> core::result::Result<Done, Refusal> {
        match what {
            What::Apply { image, digest, window, replaces } => {
                self.apply(passive, ticket, Bytes::after(0, image), &digest, window, replaces)
            }
            What::Confirm { generation } => self.confirm(passive, ticket, generation),
            What::Rollback { generation } => {
                self.expect_provisional(passive, generation)?;
                let restored = self.roll_back(passive, RollbackReason::Asked, ticket.session);
                Ok(Done::RolledBack { generation: restored })
            }
        }
    }

    fn apply(
        &mut self,
        passive: &mut Passive,
        ticket: &Ticket,
        image: Bytes,
        digest: &[u8; 32],
        window: u32,
        replaces: Option<u32>,
    ) -> core::result::Result<Done, Refusal> {
        if self.provisional.is_some() {
            return Err(Refusal::new(ErrorCode::Busy, "another policy awaits its confirmation"));
        }
        if replaces.is_some_and(|replaces| replaces != self.generation(passive)) {
            return Err(Refusal::new(ErrorCode::Conflict, "another policy decides by now"));
        }
        let policy = self.policies.prepare(passive, image, digest).map_err(|unfit| match unfit {
            Unfit::Image(_) => {
                Refusal { code: ErrorCode::PolicyRefused, status: Some(unfit.status()), text: unfit.reason() }
            }
            Unfit::Memory(status) => Refusal::failed(status, "no memory for the policy"),
        })?;
        let (generation, rules) = (policy.generation(), policy.image().rule_count());
        let now = time::since_boot().as_100ns();
        let length = Interval::from_millis(window.saturating_mul(1000));
        let deadline = Interval::from_100ns(now.saturating_add(length.as_100ns()));
        let before = self.put(passive, Some(policy));
        self.provisional = Some(Provisional { generation, deadline, before });
        self.tell_status(passive);
        trace::emit(&trace::Event::PolicyProvisional { generation, window, session: ticket.session });
        Ok(Done::Applied { generation, rules, window })
    }

    fn confirm(
        &mut self,
        passive: &mut Passive,
        ticket: &Ticket,
        generation: u32,
    ) -> core::result::Result<Done, Refusal> {
        self.expect_provisional(passive, generation)?;
        let confirmed = self.provisional.take();
        drop(confirmed);
        self.tell_status(passive);
        trace::emit(&trace::Event::PolicyConfirmed { generation, stored: false, session: ticket.session });
        Ok(Done::Confirmed { generation })
    }

    /// That the provisional policy is this one.
    fn expect_provisional(
        &self,
        passive: &mut Passive,
        generation: u32,
    ) -> core::result::Result<(), Refusal> {
        match &self.provisional {
            Some(provisional) if provisional.generation == generation => Ok(()),
            None if generation == self.generation(passive) => {
                Err(Refusal::new(ErrorCode::NotFound, "the policy does not await a confirmation"))
            }
            _ => Err(Refusal::new(ErrorCode::Conflict, "another policy decides by now")),
        }
    }

    /// Puts the policy before a provisional one back into force. Returns which one decides now.
    fn roll_back(&mut self, passive: &mut Passive, reason: RollbackReason, session: u64) -> u32 {
        let Some(Provisional { generation, before, .. }) = self.provisional.take() else {
            return self.generation(passive);
        };
        drop(self.policies.publish(passive, before));
        self.tell_status(passive);
        let restored = self.generation(passive);
        trace::emit(&trace::Event::PolicyRolledBack { generation, restored, reason, session });
        restored
    }

    /// Looks at the time. Returns how long it is until the next look.
    fn look(&mut self, passive: &mut Passive) -> Option<Interval> {
        let now = time::since_boot();
        let deadline = self.provisional.as_ref()?.deadline;
        if deadline <= now {
            self.roll_back(passive, RollbackReason::Expired, 0);
            return None;
        }
        let left = deadline.as_100ns().saturating_sub(now.as_100ns());
        Some(Interval::from_100ns(left).min(LOOK))
    }

    /// Puts a policy into force, tells of it, and gives back the one before.
    fn put(&self, passive: &Passive, policy: Option<PoolBox<Policy>>) -> Option<PoolBox<Policy>> {
        let loaded = policy.as_ref().map(|policy| trace::Event::PolicyLoaded {
            generation: policy.generation(),
            rules: policy.image().rule_count(),
            size: u32::try_from(policy.image().bytes().len()).unwrap_or(u32::MAX),
        });
        let before = self.policies.publish(passive, policy);
        if let Some(event) = &loaded {
            trace::emit(event);
        }
        before
    }

    /// The policy that decides; 0: none.
    fn generation(&self, passive: &mut Passive) -> u32 {
        self.policies.with_current(passive, |policy| policy.map_or(0, Policy::generation))
    }

    fn tell_status(&self, passive: &mut Passive) {
        let deadline = self.provisional.as_ref().map(|provisional| provisional.deadline);
        let confirmed = if deadline.is_some() { PolicyState::Provisional } else { PolicyState::Confirmed };
        let status = self.policies.with_current(passive, |policy| {
            policy.map_or(PolicyStatus::ABSENT, |policy| PolicyStatus {
                state: confirmed,
                generation: policy.generation(),
                rules: policy.image().rule_count(),
                size: u32::try_from(policy.image().bytes().len()).unwrap_or(u32::MAX),
                digest: Some(*policy.digest()),
                rollback_in: None,
                default_action: Some(policy.image().default_action()),
            })
        });
        self.desk.set_status(passive, &status, deadline);
    }
}
