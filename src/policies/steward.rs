//! The steward: the one thread that puts policies into force, and takes them back.
//!
//! Waiting is its trade: for readers of the policy before, for the file system, for the end of a window. Nothing of the
//! control plane waits with it.

use super::desk::{Desk, Done, Order, Outcome, PolicyStatus, Refusal, Ticket, What};
use super::force::{Bytes, Policies, Policy, Unfit};
use super::slot::digest;
use super::store::{Store, Stored};
use crate::config::schema::Place;
use crate::config::{self, RegistryPolicy};
use crate::control::protocol::message::{ErrorCode, PolicyState};
use crate::kernel::Result;
use crate::kernel::device::DriverObject;
use crate::kernel::event::{Event, Kind, Waited};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::registry::Value;
use crate::kernel::thread::Thread;
use crate::kernel::time::{self, Interval};
use crate::trace;
use crate::trace::events::{FailMode, RollbackReason};

/// How long the thread waits at most while a window is open. A wait does not count the time in which the machine
/// sleeps, which the window does.
const LOOK: Interval = Interval::from_millis(5_000);

/// How long the thread pauses when it could not wait.
const PAUSE: Interval = Interval::from_millis(50);
/// How long it is until a store that could not be read is tried again: at first, and at most.
const FIRST_RETRY: Interval = Interval::from_millis(1_000);
const LONGEST_RETRY: Interval = Interval::from_millis(60_000);
/// The digest of no policy.
const NO_DIGEST: [u8; 32] = [0; 32];

/// Where policies come from at the start.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The path of the service's registry key.
    pub service: &'a [u16],
    /// The bytes of `PolicyImage` in there.
    pub registry: Option<Value>,
    /// Where confirmed policies are stored.
    pub store: Place<'a>,
    pub driver: Option<DriverObject>,
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
    /// places that policies come from cannot be used, each of which an event has told.
    ///
    /// That is the stored policy while the registry's is the one that it was when the stored one was confirmed; else
    /// somebody has changed the registry's since, so that is the newer one, and decides. One that is damaged leaves the
    /// decision to the other.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what PsCreateSystemThread returns.
    // What it makes passes over the stack, on the way down from DriverEntry.
    #[inline(never)]
    pub fn start(
        passive: &mut Passive,
        policies: PoolArc<Policies>,
        sources: Sources<'_>,
    ) -> Result<(Self, u32)> {
        let desk = Desk::try_new()?;
        let store = Store::at(sources.store, sources.driver)?;
        let unit = |index: usize| sources.service.get(index).copied().unwrap_or_default();
        let service = PoolSlice::try_from_fn(tags::POLICY, sources.service.len(), unit)?;
        desk.set_stores(passive, store.is_some());
        let stop = PoolArc::try_new(tags::SYNC, Event::try_new(Kind::Notification)?)?;
        let work = Work {
            desk: desk.clone(),
            stop: stop.clone(),
            policies,
            provisional: None,
            store,
            service,
            registry: Some(NO_DIGEST),
            unfit: false,
            late: None,
            withdrawn: false,
            outdated: None,
            fail_mode: sources.fail_mode,
        };
        let mut work = PoolBox::try_new(tags::POLICY, work)?;
        let unusable = work.begin(passive, sources.registry);
        let thread = Thread::start(passive, work, run)?;
        Ok((Self { desk, stop, thread }, unusable))
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
    /// `None`: nothing is stored.
    store: Option<Store>,
    /// The path of the service's registry key.
    service: PoolSlice<u16>,
    /// The digest of the registry's policy, as it was looked at last; `None`: it could not be read.
    registry: Option<[u8; 32]>,
    /// There is a policy in the registry that is none.
    unfit: bool,
    /// The store could not be read, and nobody has confirmed a policy since.
    late: Option<Late>,
    /// The registry's policy is gone, and what decides does so only until it is known whether a stored one is to.
    withdrawn: bool,
    /// When the registry's policy, which is another one, is looked at, since boot.
    outdated: Option<Interval>,
    /// What decides while there is no policy.
    fail_mode: FailMode,
}

/// When the store is tried again.
struct Late {
    /// Since boot.
    due: Interval,
    delay: Interval,
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
        while let Some(order) = work.desk.take(passive) {
            // Nothing is confirmed when its window is over.
            work.expire(passive);
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
            if work.stop.wait(passive, Some(PAUSE)) == Waited::Signalled {
                break;
            }
        }
    }
    work.roll_back(passive, RollbackReason::Stopped, 0);
    if let Some(store) = &mut work.store {
        store.void(passive);
    }
}

impl Work {
    /// Puts the policy into force that is to decide after a start. Returns how many places of policies cannot be used.
    #[inline(never)]
    fn begin(&mut self, passive: &mut Passive, registry: Option<Value>) -> u32 {
        let mut unusable = 0_u32;
        // One that could not be read is not gone: then, what was confirmed decides.
        let registry = registry.or_else(|| match config::policy_image(passive, &self.service) {
            Ok(RegistryPolicy::Image(image)) => Some(image),
            Ok(RegistryPolicy::Absent) => None,
            Ok(RegistryPolicy::Refused) | Err(_) => {
                self.registry = None;
                None
            }
        });
        let registry = registry.map(|image| {
            let digest = digest(image.bytes());
            self.registry = Some(digest);
            (Bytes::from(image), digest)
        });
        let mut stored = None;
        if let Some(store) = &mut self.store {
            if let Ok(found) = store.read(passive) {
                stored = found;
            } else {
                // Told by the store. The volume may not be there yet.
                unusable = unusable.saturating_add(1);
                self.late = Some(Late { due: after(FIRST_RETRY), delay: FIRST_RETRY });
            }
        }
        let mut decided = false;
        if stored.as_ref().is_some_and(|stored| self.is_newest(stored)) {
            decided = self.restore(passive, stored.take());
        }
        if !decided && let Some((image, digest)) = registry {
            if let Ok(policy) = self.policies.prepare(passive, image, &digest) {
                drop(self.put(passive, policy));
                decided = true;
            } else {
                // Told by the policy itself.
                self.unfit = true;
                unusable = unusable.saturating_add(1);
            }
            // What was confirmed once is better than nothing.
            decided = decided || self.restore(passive, stored);
        }
        if !decided {
            trace::emit(&trace::Event::PolicyAbsent { fail_mode: self.fail_mode });
        }
        self.tell_status(passive);
        unusable
    }

    /// Lets the registry's policy decide when it is another one than was looked at last, as a start would: but one that is
    /// no good leaves the decision where it is, and one that awaits its confirmation is not disturbed.
    fn follow_registry(&mut self, passive: &mut Passive) {
        if self.desk.take_reread(passive) {
            self.outdated = Some(time::since_boot());
        }
        if self.provisional.is_some() || self.outdated.take_if(|due| *due <= time::since_boot()).is_none() {
            return;
        }
        let image = match config::policy_image(passive, &self.service) {
            Ok(RegistryPolicy::Image(image)) => Some(image),
            Ok(RegistryPolicy::Absent) => None,
            Ok(RegistryPolicy::Refused) => return,
            Err(_) => {
                self.outdated = Some(after(FIRST_RETRY));
                return;
            }
        };
        let digest = image.as_ref().map_or(NO_DIGEST, |image| digest(image.bytes()));
        if self.registry == Some(digest) {
            return;
        }
        let policy = match image.map(|image| self.policies.prepare(passive, Bytes::from(image), &digest)) {
            None => None,
            Some(Ok(policy)) => Some(policy),
            Some(Err(Unfit::Memory(_))) => {
                self.outdated = Some(after(FIRST_RETRY));
                return;
            }
            // Told by the policy itself.
            Some(Err(Unfit::Image(_))) => {
                self.registry = Some(digest);
                self.withdrawn = false;
                return;
            }
        };
        self.registry = Some(digest);
        self.unfit = false;
        self.late = None;
        self.withdrawn = policy.is_none();
        let stored = self.read_store(passive, FIRST_RETRY);
        let newest = stored.as_ref().is_some_and(|stored| self.is_newest(stored));
        if !(newest && self.restore(passive, stored)) {
            if let Some(policy) = policy {
                drop(self.put(passive, policy));
            } else {
                self.withdraw(passive);
            }
        }
        self.tell_status(passive);
    }

    /// Whether the registry's policy has, as far as is known, stayed the same since this one was confirmed; if not,
    /// tells.
    fn is_newest(&self, stored: &Stored) -> bool {
        let newest = self.registry.is_none_or(|registry| registry == stored.header.registry);
        if !newest {
            trace::emit(&trace::Event::PolicyStoreOutdated { sequence: stored.header.sequence });
        }
        newest
    }

    /// Puts a stored policy into force, if it is fit for that, and there is one.
    fn restore(&mut self, passive: &Passive, stored: Option<Stored>) -> bool {
        let Some(Stored { slot, header, image }) = stored else { return false };
        match self.policies.prepare(passive, image, &header.image) {
            Ok(policy) => {
                trace::emit(&trace::Event::PolicyStoreRead { slot, sequence: header.sequence });
                drop(self.put(passive, policy));
                self.withdrawn = false;
                true
            }
            // Either has been told. There may be memory later.
            Err(Unfit::Memory(_)) => {
                self.late = Some(Late { due: after(FIRST_RETRY), delay: FIRST_RETRY });
                false
            }
            Err(Unfit::Image(_)) => false,
        }
    }

    /// Tries again to read the store.
    fn retry(&mut self, passive: &mut Passive, delay: Interval) {
        let delay = Interval::from_100ns(delay.as_100ns().saturating_mul(2)).min(LONGEST_RETRY);
        let stored = self.read_store(passive, delay);
        let newest = stored.as_ref().is_some_and(|stored| self.is_newest(stored));
        // What was confirmed once is better than nothing.
        let decides = newest || (stored.is_some() && self.unfit && self.generation(passive) == 0);
        if !(decides && self.restore(passive, stored)) {
            self.withdraw(passive);
        }
        self.tell_status(passive);
    }

    /// What the store has; if that could not be found out, which the store has told, it is tried again.
    fn read_store(&mut self, passive: &Passive, delay: Interval) -> Option<Stored> {
        let store = self.store.as_mut()?;
        let read = store.read(passive);
        let unknown = match &read {
            Err(_) => true,
            // Enforcement does not end, nor go back to an older policy, for want of what may be there.
            Ok(_) => self.withdrawn && store.is_unreadable(),
        };
        if unknown {
            self.late = Some(Late { due: after(delay), delay });
            return None;
        }
        read.ok().flatten()
    }

    /// Lets a policy that is gone from the registry decide no longer, once it is known that no stored one is to.
    fn withdraw(&mut self, passive: &mut Passive) {
        if self.withdrawn && self.late.is_none() {
            self.withdrawn = false;
            drop(self.policies.publish(passive, None));
            trace::emit(&trace::Event::PolicyAbsent { fail_mode: self.fail_mode });
        }
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
        let deadline = after(Interval::from_millis(window.saturating_mul(1000)));
        let before = self.put(passive, policy);
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
        let stored = self.store.is_some();
        // Somebody may have changed it since the start: this confirmation is the later word.
        let registry = config::policy_image(passive, &self.service).map(|registry| match registry {
            RegistryPolicy::Image(image) => digest(image.bytes()),
            RegistryPolicy::Absent | RegistryPolicy::Refused => NO_DIGEST,
        });
        if let Some(store) = &mut self.store {
            let registry = registry.map_err(|status| {
                Refusal::failed(
                    status,
                    "the registry's policy could not be read; this one still awaits its confirmation",
                )
            })?;
            // One that a restart would not find is not confirmed.
            store.write(passive, &self.policies, &registry).map_err(|status| {
                Refusal::failed(status, "the policy could not be stored, and still awaits its confirmation")
            })?;
        }
        if let Ok(registry) = registry {
            self.registry = Some(registry);
            self.outdated = None;
        }
        let confirmed = self.provisional.take();
        drop(confirmed);
        // Whatever the store had is older.
        self.late = None;
        self.withdrawn = false;
        self.tell_status(passive);
        trace::emit(&trace::Event::PolicyConfirmed { generation, stored, session: ticket.session });
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
        if let Some(store) = &mut self.store {
            store.void(passive);
        }
        self.tell_status(passive);
        let restored = self.generation(passive);
        trace::emit(&trace::Event::PolicyRolledBack { generation, restored, reason, session });
        restored
    }

    /// Takes a provisional policy back whose window is over.
    fn expire(&mut self, passive: &mut Passive) {
        let now = time::since_boot();
        if self.provisional.as_ref().is_some_and(|provisional| provisional.deadline <= now) {
            self.roll_back(passive, RollbackReason::Expired, 0);
        }
    }

    /// Does what is due. Returns how long it is until something else is.
    fn look(&mut self, passive: &mut Passive) -> Option<Interval> {
        self.expire(passive);
        self.follow_registry(passive);
        let now = time::since_boot();
        // What is stored comes after what somebody has applied, and before nothing.
        if self.provisional.is_none()
            && let Some(Late { delay, .. }) = self.late.take_if(|late| late.due <= now)
        {
            self.retry(passive, delay);
        }
        let window = self.provisional.as_ref().map(|provisional| provisional.deadline);
        let due = self.late.as_ref().filter(|_| self.provisional.is_none()).map(|late| late.due);
        let outdated = self.outdated.filter(|_| self.provisional.is_none());
        let next = window.into_iter().chain(due).chain(outdated).min()?;
        let left = next.as_100ns().saturating_sub(time::since_boot().as_100ns());
        Some(Interval::from_100ns(left).min(LOOK))
    }

    /// Puts a policy into force, tells of it, and gives back the one before.
    fn put(&self, passive: &Passive, policy: PoolBox<Policy>) -> Option<PoolBox<Policy>> {
        let image = policy.image();
        let loaded = trace::Event::PolicyLoaded {
            generation: policy.generation(),
            rules: image.rule_count(),
            size: u32::try_from(image.bytes().len()).unwrap_or(u32::MAX),
        };
        let before = self.policies.publish(passive, Some(policy));
        trace::emit(&loaded);
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

/// That much later than now, since boot.
fn after(delay: Interval) -> Interval {
    Interval::from_100ns(time::since_boot().as_100ns().saturating_add(delay.as_100ns()))
}
