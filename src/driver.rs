//! The driver as a whole: it owns every part, and knows the order in which they start and stop.
//!
//! Everything hangs on one pool object, [`Driver`], made by DriverEntry and taken down by DriverUnload, both at
//! PASSIVE_LEVEL; in between nothing in here runs.
//!
//! # Start
//! Each step needs those before it. The driver refuses to start (DriverEntry fails, with everything undone) where
//! without the step it could do nothing of use, or could not keep a promise; else it starts *degraded* and tells so.
//!
//! | step | if it fails |
//! | --- | --- |
//! | device object | refused |
//! | guard | told; after too many starts that did not end well, and in safe mode, the start ends here, *passing*: see [`crate::guard`] |
//! | dump | degraded: a crash dump has nothing of weir's own |
//! | settings | their defaults hold (see [`crate::config`]); refused only if memory for those is wanting |
//! | policy | the thread for it is needed; a damaged one is not taken, a store that cannot be read is tried again, and without any the fail mode decides: degraded, not refused |
//! | rings, table of connections, dispatcher thread | refused: events would be lost unseen |
//! | control socket | degraded: the policy holds without it |
//! | callouts | refused: nothing would be decided |
//! | filters | the thread for them is needed; that the engine does not run or refuses is degraded, and tried again |
//! | settings watch | degraded: what was read holds until the next start |
//!
//! # Stop
//! The one order in which nothing is left behind, also for a start that failed half-way (`Driver::stop`): the watch of
//! the settings, so that nothing changes any more; control sockets, so that nobody steers a driver that is going, and
//! while the policy still holds, for their end may take a while; the policies' steward, which takes back what was not
//! confirmed; filters, with the subscription to the engine's state and the session; the gate of the callouts; flow
//! contexts; callouts; rings, of which no more are made for processors that are added; dispatcher, which delivers what is
//! left; what would go into a dump; the guard, for whom the start has ended well by now; device.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::board::Board;
use crate::config::{self, Live, Loaded, Watcher};
use crate::control::{self, Control, Host};
use crate::dispatch::{Dispatching, Memory};
use crate::dump::{self, Recorder};
use crate::flow::Flows;
use crate::guard::{Guard, Verdict};
use crate::kernel::device::Device;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{self, PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::time;
use crate::kernel::{Result, Status};
use crate::policies::{Policies, Sources, Steward};
use crate::policy::Action;
use crate::sys::nt::DRIVER_OBJECT;
use crate::trace::events::FailMode;
use crate::trace::{self, Event};
use crate::wfp::{Callouts, Handler, Keeper, Own, Plan};

/// The driver, from a DriverEntry that succeeded to DriverUnload.
static DRIVER: AtomicPtr<Driver> = AtomicPtr::new(null_mut());

/// Every part, in the order in which they start. What is `None` has not been started, or could not be.
pub struct Driver {
    device: Option<Device>,
    guard: Option<Guard>,
    recorder: Option<Recorder>,
    policies: Option<PoolArc<Policies>>,
    steward: Option<Steward>,
    memory: Option<Memory>,
    flows: Option<PoolArc<Flows>>,
    dispatching: Option<Dispatching>,
    control: Option<Control>,
    callouts: Option<PoolBox<Callouts>>,
    keeper: Option<Keeper>,
    watcher: Option<Watcher>,
    live: Option<PoolArc<Live>>,
    board: Option<PoolArc<Board>>,
}

/// A step of the start that failed.
struct Failed {
    step: &'static str,
    status: Status,
}

/// Names the step in which something failed, and tells how each ended.
fn step<T>(step: &'static str, result: Result<T>) -> core::result::Result<T, Failed> {
    let status = result.as_ref().map_or_else(|status| *status, |_| Status::SUCCESS);
    dump::note(step, status, false);
    trace::emit(&Event::StartStep { step, status: status.into() });
    result.map_err(|status| Failed { step, status })
}

/// DriverEntry.
///
/// # Safety
/// `object` is the driver object that DriverEntry was given.
///
/// # Errors
/// Why the driver does not start; nothing of it is left then.
pub unsafe fn start(passive: &mut Passive, object: *mut DRIVER_OBJECT, service: &[u16]) -> Result {
    dump::begin();
    pool::look_up(passive);
    trace::open(passive);
    // SAFETY: the caller's driver object.
    let started = unsafe { start_traced(passive, object, service) };
    if started.is_err() {
        trace::close(passive);
    }
    started
}

/// [`start`], between the provider's registration and its end.
///
/// # Safety
/// As for [`start`].
unsafe fn start_traced(passive: &mut Passive, object: *mut DRIVER_OBJECT, service: &[u16]) -> Result {
    trace::emit(&Event::DriverStarting { version: env!("CARGO_PKG_VERSION") });
    let mut driver = match PoolBox::try_new(tags::DRIVER, Driver::NOTHING) {
        Ok(driver) => driver,
        Err(status) => {
            trace::emit(&Event::StartFailed { step: "memory", status: status.into() });
            return Err(status);
        }
    };
    // SAFETY: the caller's driver object.
    let device = unsafe { Device::try_new(passive, object) };
    match driver.start(passive, device, service) {
        Ok(()) => {
            // Passing, it has nothing but its device.
            let degraded = driver.board.as_ref().map_or(1, |board| board.degraded());
            trace::emit(&Event::DriverStarted { degraded });
            DRIVER.store(driver.into_raw().as_ptr(), Ordering::Release);
            Ok(())
        }
        Err(Failed { step, status }) => {
            driver.stop(passive);
            trace::emit(&Event::StartFailed { step, status: status.into() });
            Err(status)
        }
    }
}

/// DriverUnload. When it returns nothing of the driver is left.
pub fn stop(passive: &mut Passive) {
    let Some(driver) = NonNull::new(DRIVER.swap(null_mut(), Ordering::AcqRel)) else { return };
    trace::emit(&Event::DriverStopping {});
    // SAFETY: `start` gave it up with this tag, and the swap gives it to one caller.
    let mut driver = unsafe { PoolBox::from_raw(tags::DRIVER, driver) };
    driver.stop(passive);
    drop(driver);
    trace::emit(&Event::DriverStopped {});
    trace::close(passive);
}

impl Driver {
    const NOTHING: Self = Self {
        device: None,
        guard: None,
        recorder: None,
        policies: None,
        steward: None,
        memory: None,
        flows: None,
        dispatching: None,
        control: None,
        callouts: None,
        keeper: None,
        watcher: None,
        live: None,
        board: None,
    };

    fn start(
        &mut self,
        passive: &mut Passive,
        device: Result<Device>,
        service: &[u16],
    ) -> core::result::Result<(), Failed> {
        let device = self.device.insert(step("device", device)?);
        let (guard, verdict) = Guard::start(passive, device, service);
        self.guard = Some(guard);
        if verdict == Verdict::Passing {
            return Ok(());
        }
        let board = PoolArc::try_new(tags::DRIVER, Board::new(time::system_time()));
        let board: &PoolArc<Board> = self.board.insert(step("board", board)?);
        match step("dump", Recorder::start(passive)) {
            Ok(recorder) => self.recorder = Some(recorder),
            Err(Failed { step, status }) => degrade(board, step, status),
        }
        let Loaded { book, identity, policy_image } = step("settings", config::load(passive, service))?;
        let live = self.live.insert(step("settings", Live::try_new(book.page()))?);
        let settings = live.running(passive);
        let fail_mode = settings.fail_mode;

        let policies = step("policy", Policies::try_new(passive))?;
        let policies = self.policies.insert(step("policy", PoolArc::try_new(tags::POLICY, policies))?);
        let sources = Sources {
            service,
            registry: policy_image,
            store: settings.policy_store.place(),
            driver: device.driver(),
            fail_mode,
        };
        let (steward, unusable) = step("policy", Steward::start(passive, policies.clone(), sources))?;
        self.steward = Some(steward);
        board.degrade(unusable);

        let memory = Memory::start(passive, settings.ring_records, settings.ring_order);
        let memory = self.memory.insert(step("rings", memory)?);
        let rings = memory.rings();
        if let Some(recorder) = &self.recorder {
            recorder.show(rings, policies);
        }
        let flows = step("connections", Flows::try_new(passive, settings.max_connections))?;
        let flows = self.flows.insert(step("connections", PoolArc::try_new(tags::FLOW_TABLE, flows))?);
        // Without a key there is nothing to speak with, which has been told.
        let control = match &identity {
            None => None,
            Some(_) => match step("control", control::sockets(passive, &settings, rings.clone())) {
                Ok(sockets) => Some(sockets),
                // The policy holds without it.
                Err(Failed { step, status }) => {
                    degrade(board, step, status);
                    None
                }
            },
        };
        let dispatching = Dispatching::start(
            passive,
            rings.clone(),
            flows.clone(),
            control.clone(),
            live.clone(),
            settings.ring_order,
        );
        self.dispatching = Some(step("dispatcher", dispatching)?);

        let (fail, fail_open) = match fail_mode {
            FailMode::Open => (Action::Allow, true),
            FailMode::Closed => (Action::Block, false),
        };
        let handler = Handler::new(policies.clone(), rings.clone(), flows.clone(), fail, live.clone());

        if let (Some(keys), Some(sockets), Some(steward)) = (identity, control, &self.steward) {
            let host = Host {
                live: live.clone(),
                keys,
                rings: rings.clone(),
                flows: flows.clone(),
                policies: policies.clone(),
                desk: steward.desk(),
                board: board.clone(),
            };
            match step("control", Control::start(passive, host, sockets)) {
                Ok(control) => self.control = Some(control),
                Err(Failed { step, status }) => degrade(board, step, status),
            }
        }
        let own = step("filters", own_connections(passive, self.control.as_ref()))?;
        self.callouts = Some(step("callouts", Callouts::register(passive, device, handler))?);

        let plan = Plan { own, fail_open };
        let keeper = step("filters", Keeper::start(passive, device, plan, board.clone()))?;
        if !keeper.is_filtering() {
            board.degrade(1);
        }
        self.keeper = Some(keeper);
        if let Some(steward) = &self.steward {
            match step("settings watch", Watcher::start(passive, book, live.clone(), steward.desk())) {
                Ok(watcher) => self.watcher = Some(watcher),
                // What was read holds until the next start.
                Err(Failed { step, status }) => degrade(board, step, status),
            }
        }
        Ok(())
    }

    /// Takes down what has been started. See the module.
    fn stop(&mut self, passive: &mut Passive) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop(passive);
            told("settings watch");
        }
        if let Some(control) = self.control.take() {
            control.stop(passive);
            told("control");
        }
        if let Some(steward) = self.steward.take() {
            steward.stop(passive);
            told("policy");
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.stop(passive);
            told("filters");
        }
        if let Some(callouts) = self.callouts.take() {
            callouts.close(passive);
            told("gate");
            callouts.remove_contexts(passive);
            told("flow contexts");
            callouts.unregister(passive);
            told("callouts");
        }
        if let Some(memory) = self.memory.take() {
            let rings = memory.stop(passive);
            told("rings");
            if let Some(dispatching) = self.dispatching.take() {
                dispatching.stop(passive, &rings);
                told("dispatcher");
            }
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.stop(passive);
            told("dump");
        }
        self.flows = None;
        self.policies = None;
        self.live = None;
        self.board = None;
        if let Some(guard) = self.guard.take() {
            guard.stop(passive);
            told("guard");
        }
        if let Some(device) = self.device.take() {
            device.delete(passive);
            told("device");
        }
    }
}

/// Which connections are weir's own: those to its listeners, as far as their ports are known (the others are subject to
/// the policy like all), and those to controllers.
fn own_connections(passive: &mut Passive, control: Option<&Control>) -> Result<PoolSlice<Own>> {
    let Some(control) = control else { return PoolSlice::try_from_fn(tags::WFP, 0, |_| Own::Accepted(0)) };
    let targets = control.targets();
    let count = targets.len().saturating_add(control.local_addresses(passive).count());
    let mut own = PoolSlice::try_from_fn(tags::WFP, count, |_| Own::Accepted(0))?;
    let accepted = control.local_addresses(passive).map(|address| Own::Accepted(address.port()));
    for (place, connection) in own.iter_mut().zip(targets.map(Own::Dialled).chain(accepted)) {
        *place = connection;
    }
    Ok(own)
}

/// Goes on without a part.
fn degrade(board: &Board, part: &'static str, status: Status) {
    board.degrade(1);
    trace::emit(&Event::Degraded { part, status: status.into() });
}

/// Tells that a step of the stop is done.
fn told(step: &'static str) {
    dump::note(step, Status::SUCCESS, true);
    trace::emit(&Event::StopStep { step, status: Status::SUCCESS.into() });
}
