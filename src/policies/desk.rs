//! Where orders for policies are handed in, and where what became of them is fetched. At most DISPATCH_LEVEL.
//!
//! Every order that is taken has an outcome, unless the driver stops before. There is room for the outcome of every
//! order, so none is ever lost.

use core::fmt;

use crate::config::Rereads;
use crate::control::protocol::message::{ErrorCode, PolicyState};
use crate::kernel::event::{Event, Kind};
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::policy::Action;

/// How many orders there can be whose outcomes have not been fetched.
const ORDERS: usize = 16;

/// Whose order it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The session's number.
    pub session: u64,
    /// The request's id, if it has one.
    pub request: Option<u64>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Order {
    pub ticket: Ticket,
    pub what: What,
}

/// What is to be done with the policy.
#[derive(Debug)]
pub enum What {
    /// An image is to decide from now on, and for `window` seconds unless it is confirmed.
    Apply {
        image: PoolSlice<u8>,
        /// BLAKE2s-256 of it, which has been checked.
        digest: [u8; 32],
        window: u32,
        /// The generation that it is to take the place of; 0: none. `None`: whichever.
        replaces: Option<u32>,
    },
    /// The provisional policy is to stay, and to decide after a restart as well.
    Confirm { generation: u32 },
    /// The provisional policy is to go.
    Rollback { generation: u32 },
}

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub ticket: Ticket,
    pub result: core::result::Result<Done, Refusal>,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The policy decides.
    Applied { generation: u32, rules: u32, window: u32 },
    /// It stays.
    Confirmed { generation: u32 },
    /// The one before it decides again; 0: there was none.
    RolledBack { generation: u32 },
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    /// What the kernel or the file system answered, where that is why.
    pub status: Option<Status>,
    /// What is wrong, for people.
    pub text: &'static str,
}

impl Refusal {
    pub(super) const fn new(code: ErrorCode, text: &'static str) -> Self {
        Self { code, status: None, text }
    }

    pub(super) const fn failed(status: Status, text: &'static str) -> Self {
        Self { code: ErrorCode::Failed, status: Some(status), text }
    }
}

/// How the policy stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyStatus {
    pub state: PolicyState,
    /// Counts the policies since the driver's start, from 1; 0: there is none.
    pub generation: u32,
    pub rules: u32,
    /// The image's size, in bytes.
    pub size: u32,
    /// BLAKE2s-256 of the image.
    pub digest: Option<[u8; 32]>,
    /// How long until it is rolled back, in milliseconds, while it is provisional.
    pub rollback_in: Option<u64>,
    /// What is done with a connection that no rule matches.
    pub default_action: Option<Action>,
}

impl PolicyStatus {
    /// There is none.
    pub const ABSENT: Self = Self {
        state: PolicyState::Absent,
        generation: 0,
        rules: 0,
        size: 0,
        digest: None,
        rollback_in: None,
        default_action: None,
    };
}

/// The desk: shared by those who order and by the steward.
pub struct Desk {
    state: SpinLock<State>,
    /// Set when there is an order.
    ordered: Event,
}

struct State {
    /// Nobody serves any more.
    closed: bool,
    /// The registry's policy is another one.
    reread: bool,
    orders: Queue<Order>,
    /// The order that is being served has room for its outcome too.
    serving: usize,
    outcomes: Queue<Outcome>,
    wake: Option<PoolArc<Event>>,
    status: PolicyStatus,
    /// When a provisional policy is rolled back, since boot.
    deadline: Option<Interval>,
    stores: bool,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn try_new() -> Result<PoolArc<Self>> {
        let state = State {
            closed: false,
            reread: false,
            orders: Queue::try_new()?,
            serving: 0,
            outcomes: Queue::try_new()?,
            wake: None,
            status: PolicyStatus::ABSENT,
            deadline: None,
            stores: false,
        };
        let ordered = Event::try_new(Kind::Synchronization)?;
        PoolArc::try_new(tags::DESK, Self { state: SpinLock::new("policy desk", state), ordered })
    }

    /// Hands an order in.
    ///
    /// # Errors
    /// The order: the desk is full, or the driver stops.
    pub fn submit(&self, irql: &mut AtMostDispatch, order: Order) -> core::result::Result<(), Order> {
        let mut state = self.state.lock(irql);
        let owed = state.orders.len.saturating_add(state.serving).saturating_add(state.outcomes.len);
        if state.closed || owed >= ORDERS {
            return Err(order);
        }
        state.orders.push(order)?;
        drop(state);
        self.ordered.set();
        Ok(())
    }

    /// Fetches what became of an order, in the order in which they were served.
    pub fn next_outcome(&self, irql: &mut AtMostDispatch) -> Option<Outcome> {
        self.state.lock(irql).outcomes.pop()
    }

    /// The event that is set when there is an outcome; `None` takes it back: it is not touched after this returns.
    pub fn set_wake(&self, irql: &mut AtMostDispatch, wake: Option<PoolArc<Event>>) {
        let before = core::mem::replace(&mut self.state.lock(irql).wake, wake);
        drop(before);
    }

    /// How the policy stands.
    pub fn status(&self, irql: &mut AtMostDispatch) -> PolicyStatus {
        let state = self.state.lock(irql);
        let left = state.deadline.map(|deadline| {
            let left = deadline.as_100ns().saturating_sub(time::since_boot().as_100ns());
            left.div_ceil(10_000)
        });
        PolicyStatus { rollback_in: left, ..state.status }
    }

    /// Whether a confirmed policy survives a restart.
    pub fn stores(&self, irql: &mut AtMostDispatch) -> bool {
        self.state.lock(irql).stores
    }

    /// The event that is set when there is an order.
    pub(super) const fn ordered(&self) -> &Event {
        &self.ordered
    }

    /// Whether the registry's policy is another one, since this was asked last.
    pub(super) fn take_reread(&self, irql: &mut AtMostDispatch) -> bool {
        core::mem::take(&mut self.state.lock(irql).reread)
    }

    /// The next order, which must be answered before another is taken.
    pub(super) fn take(&self, irql: &mut AtMostDispatch) -> Option<Order> {
        let mut state = self.state.lock(irql);
        let order = state.orders.pop()?;
        state.serving = 1;
        Some(order)
    }

    /// Answers the order that was taken.
    pub(super) fn answer(&self, irql: &mut AtMostDispatch, outcome: Outcome) {
        let mut state = self.state.lock(irql);
        state.serving = 0;
        // There is room: it was kept when the order was taken.
        _ = state.outcomes.push(outcome);
        // Within the lock, so that whoever takes the event back knows that it is not touched any more.
        if let Some(wake) = &state.wake {
            wake.set();
        }
    }

    /// Says how the policy stands from now on.
    pub(super) fn set_status(
        &self,
        irql: &mut AtMostDispatch,
        status: &PolicyStatus,
        deadline: Option<Interval>,
    ) {
        let mut state = self.state.lock(irql);
        (state.status, state.deadline) = (*status, deadline);
    }

    /// Says whether a confirmed policy survives a restart.
    pub(super) fn set_stores(&self, irql: &mut AtMostDispatch, stores: bool) {
        self.state.lock(irql).stores = stores;
    }

    /// Takes no more orders, and gives back one of those that were not served.
    pub(super) fn close(&self, irql: &mut AtMostDispatch) -> Option<Order> {
        let mut state = self.state.lock(irql);
        state.closed = true;
        state.orders.pop()
    }
}

impl Rereads for Desk {
    fn reread(&self, irql: &mut AtMostDispatch) {
        self.state.lock(irql).reread = true;
        self.ordered.set();
    }
}

/// First in, first out.
struct Queue<T> {
    slots: PoolSlice<Option<T>>,
    first: usize,
    len: usize,
}

impl<T> Queue<T> {
    fn try_new() -> Result<Self> {
        Ok(Self { slots: PoolSlice::try_from_fn(tags::DESK, ORDERS, |_| None)?, first: 0, len: 0 })
    }

    /// # Errors
    /// The entry: there is no room.
    fn push(&mut self, entry: T) -> core::result::Result<(), T> {
        let place = self.first.wrapping_add(self.len).checked_rem(self.slots.len()).unwrap_or(0);
        match self.slots.get_mut(place) {
            Some(slot @ None) => {
                *slot = Some(entry);
                self.len = self.len.saturating_add(1);
                Ok(())
            }
            _ => Err(entry),
        }
    }

    fn pop(&mut self) -> Option<T> {
        let entry = self.slots.get_mut(self.first)?.take()?;
        self.first = self.first.wrapping_add(1).checked_rem(self.slots.len()).unwrap_or(0);
        self.len = self.len.saturating_sub(1);
        Some(entry)
    }
}
