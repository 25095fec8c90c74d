//! Keeps the filters in force while the base filtering engine runs.
//!
//! One thread owns the [`Session`]. It opens one when the engine runs and none is open, and lets go of one when the
//! engine has stopped. A notification only wakes it early: it looks at the engine's state, and at whether the engine
//! still knows the session, again and again by itself, and tries what has failed again after a delay that grows.
//!
//! PASSIVE_LEVEL, but for the notification, which sets an event. Documentation:
//! `nf-fwpmk-fwpmbfestatesubscribechanges0` (subscribe, then read the state; do not unsubscribe in the callback).

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use super::engine::{Plan, Session};
use super::retry;
use crate::board::Board;
use crate::kernel::device::Device;
use crate::kernel::event::{Event, Kind};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::thread::Thread;
use crate::kernel::time::Interval;
use crate::kernel::{Result, Status};
use crate::sys::fwp::{self, FWPM_SERVICE_RUNNING, FWPM_SERVICE_STATE};
use crate::sys::nt::HANDLE;
use crate::trace;

/// How often the thread looks by itself.
const LOOK: Interval = Interval::from_millis(10_000);
/// How long it waits after a failure: at first, and at most.
const FIRST_DELAY: Interval = Interval::from_millis(50);
const LONGEST_DELAY: Interval = Interval::from_millis(30_000);
/// How often cancelling the notification is tried.
const ATTEMPTS: u32 = 100;
/// How long the start waits for the first attempt. A transaction waits less for another session's.
const FIRST_ATTEMPT: Interval = Interval::from_millis(15_000);

/// What the thread, the notification and the owner share.
#[derive(Debug)]
struct Shared {
    /// The engine's state has changed.
    changed: Event,
    /// The thread is to end.
    stop: Event,
    /// The thread has looked once.
    looked: Event,
    board: PoolArc<Board>,
}

/// The thread that owns the session.
#[derive(Debug)]
#[must_use = "the thread must be stopped"]
pub struct Keeper {
    shared: PoolArc<Shared>,
    subscription: Option<Subscription>,
    thread: Thread,
}

impl Keeper {
    /// Starts the thread, and waits until it has tried once. The callouts are registered. It is no failure if the
    /// engine does not run or refuses: see [`Keeper::is_filtering`].
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn start(passive: &Passive, device: &Device, plan: Plan, board: PoolArc<Board>) -> Result<Self> {
        let shared = PoolArc::try_new(
            tags::WFP,
            Shared {
                changed: Event::try_new(Kind::Synchronization)?,
                stop: Event::try_new(Kind::Notification)?,
                looked: Event::try_new(Kind::Notification)?,
                board,
            },
        )?;
        let work = PoolBox::try_new(tags::WFP, Work { shared: shared.clone(), plan, session: None })?;
        // Before the thread reads the state, so that no change is missed in between.
        let subscription = match Subscription::try_new(passive, device, &shared) {
            Ok(subscription) => Some(subscription),
            Err(status) => {
                // The thread looks by itself, only later.
                trace::emit(&trace::Event::Degraded {
                    part: "filtering engine notification",
                    status: status.into(),
                });
                None
            }
        };
        match Thread::start(passive, work, run) {
            Ok(thread) => {
                let _looked = shared.looked.wait(passive, Some(FIRST_ATTEMPT));
                Ok(Self { shared, subscription, thread })
            }
            Err(status) => {
                if let Some(subscription) = subscription {
                    subscription.cancel(passive);
                }
                Err(status)
            }
        }
    }

    /// Whether the filters are in force, as far as the thread knows.
    pub fn is_filtering(&self) -> bool {
        self.shared.board.is_filtering()
    }

    /// Ends the subscription, the session and the thread. The filters are gone when this returns.
    pub fn stop(self, passive: &Passive) {
        if let Some(subscription) = self.subscription {
            subscription.cancel(passive);
        }
        self.shared.stop.set();
        self.thread.join(passive);
    }
}

/// A subscription to changes of the engine's state.
#[derive(Debug)]
struct Subscription {
    handle: HANDLE,
    /// The callback's own.
    context: NonNull<()>,
}

// SAFETY: a handle and an ownership, good on any thread.
unsafe impl Send for Subscription {}
// SAFETY: nothing is done through a shared subscription.
unsafe impl Sync for Subscription {}

impl Subscription {
    fn try_new(_passive: &Passive, device: &Device, shared: &PoolArc<Shared>) -> Result<Self> {
        let context = shared.clone().into_raw();
        let mut handle = null_mut();
        // SAFETY: the device outlives the subscription; the context is the callback's until it is cancelled;
        // PASSIVE_LEVEL says the token.
        let status = unsafe {
            fwp::FwpmBfeStateSubscribeChanges0(
                device.as_raw().cast(),
                Some(state_changed),
                context.as_ptr().cast(),
                &raw mut handle,
            )
        };
        if let Err(status) = Status(status).exact() {
            // SAFETY: not taken, so it is still ours.
            drop(unsafe { PoolArc::<Shared>::from_raw(context) });
            return Err(status);
        }
        Ok(Self { handle, context })
    }

    /// Cancels it. No callback runs when this returns.
    fn cancel(self, passive: &Passive) {
        let cancelled = retry(passive, "filtering engine notification", Some(ATTEMPTS), || {
            // SAFETY: ours, cancelled once, not inside the callback; PASSIVE_LEVEL says the token.
            Status(unsafe { fwp::FwpmBfeStateUnsubscribeChanges0(self.handle) }).exact()
        });
        // A subscription that cannot be cancelled keeps its context: better lost than used after it is freed.
        if cancelled.is_ok() {
            // SAFETY: given up in `try_new`, taken back once; no callback has it any more.
            drop(unsafe { PoolArc::<Shared>::from_raw(self.context) });
        }
    }
}

/// The notification.
unsafe extern "system" fn state_changed(context: *mut c_void, _state: FWPM_SERVICE_STATE) {
    let Some(context) = NonNull::new(context.cast::<()>()) else { return };
    // SAFETY: the subscription owns it until it is cancelled, which waits for this function.
    let shared: &Shared = unsafe { PoolArc::borrow_raw(context) };
    shared.changed.set();
}

/// What the thread works with.
struct Work {
    shared: PoolArc<Shared>,
    plan: Plan,
    session: Option<Session>,
}

fn run(passive: &mut Passive, mut work: PoolBox<Work>) {
    let mut delay = FIRST_DELAY;
    loop {
        let wait = match work.look(passive) {
            Ok(()) => {
                delay = FIRST_DELAY;
                LOOK
            }
            Err(status) => {
                trace::emit(&trace::Event::Degraded { part: "filtering", status: status.into() });
                let wait = delay;
                delay = Interval::from_100ns(delay.as_100ns().saturating_mul(2)).min(LONGEST_DELAY);
                wait
            }
        };
        work.shared.looked.set();
        match Event::wait_any(&[&work.shared.stop, &work.shared.changed], passive, Some(wait)) {
            Ok(Some(0)) => break,
            // Changed, or time to look.
            Ok(_) => {}
            // The wait itself failed: there is only one way left to be told of the end.
            Err(_) => {
                if work.shared.stop.wait(passive, Some(wait)) == crate::kernel::event::Waited::Signalled {
                    break;
                }
            }
        }
    }
    work.let_go(passive);
}

impl Work {
    /// Brings session and engine into agreement.
    fn look(&mut self, passive: &Passive) -> Result {
        // SAFETY: callable up to DISPATCH_LEVEL.
        let running = unsafe { fwp::FwpmBfeStateGet0() } == FWPM_SERVICE_RUNNING;
        // An engine that runs again has forgotten the sessions from before.
        let holds = running && self.session.as_ref().is_some_and(|session| session.holds(passive));
        if !holds && self.let_go(passive) {
            trace::emit(&trace::Event::FiltersGone {});
        }
        if !running || holds {
            return Ok(());
        }
        let session = Session::open(passive)?;
        match session.add(passive, &self.plan) {
            Ok(()) => {
                self.session = Some(session);
                self.shared.board.set_filtering(true);
                trace::emit(&trace::Event::FiltersInForce {});
                Ok(())
            }
            Err(status) => {
                session.close(passive);
                Err(status)
            }
        }
    }

    /// Closes the session; false if none is open.
    fn let_go(&mut self, passive: &Passive) -> bool {
        let Some(session) = self.session.take() else { return false };
        self.shared.board.set_filtering(false);
        session.close(passive);
        true
    }
}
