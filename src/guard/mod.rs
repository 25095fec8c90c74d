//! The guard against a driver that keeps its machine from booting. PASSIVE_LEVEL.
//!
//! Each start is counted in a file before anything of the driver runs that could bring the machine down, and the count
//! goes back to zero when the start is known to have ended well: it has run for a while (`GuardSettleSeconds`), or the
//! driver was stopped, or the system was shut down. With `GuardStarts` in a row of which neither is known, the driver
//! comes up *passing*: it is loaded, and nothing of it is at work, whatever `FailMode` says. So it stays, over restarts
//! of the machine, until somebody stops it (the next start is a whole one), another version of it is installed, or the
//! file is gone. It does the same in safe mode, where it is not loaded unless somebody has seen to that.
//!
//! # Before the guard
//! What runs before the count is on the disk: the look for kernel routines, the registration of the event provider, one
//! allocation, the device object, the two settings, and the file itself.
//!
//! # Where the count is
//! In a file `guard` in the directory that the system keeps for the driver, written through, and flushed. Not in the registry:
//! until the session manager has initialised that, after the drivers that the system starts, nothing of it is
//! written, and a flush says that it was (ReactOS' configuration manager, which follows Windows', has the switch as
//! `CmpNoWrite`). The volume is there: drivers of this start type are themselves read from it.
//!
//! # Who could keep the count
//! Whoever may read the file could, by having it open, keep it from being written, and so make good starts look like bad
//! ones. While the driver waits it has the file open itself, and shares it with nobody; at a start of the system no
//! user is there yet. What does not go through all the same is tried again, until the driver stops or the
//! system shuts down; by then the users' programs are gone. A driver that passes has no file open, so that it can be deleted.
//!
//! # What it cannot see
//! A fast startup, after which the system goes on where it was, is no start, and the shutdown before it none that is told
//! ("not called for transitions to any other power states"): the settling time goes on with it.
//!
//! A power cut within the settling time is an unclean start like any other. If the count cannot be read or written the
//! driver starts as usual, and [`Event::GuardBlind`] tells; a file that is damaged counts as zero, and is told as well.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod count;

use count::{Count, SIZE};

use crate::config::{self, Guarding};
use crate::kernel::boot;
use crate::kernel::device::{Device, DriverObject};
use crate::kernel::event::{self, Waited};
use crate::kernel::file::{Directory, File};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::shutdown::{Notice, Registration};
use crate::kernel::string::from_ascii;
use crate::kernel::thread::Thread;
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::trace::events::GuardEnd;
use crate::trace::{self, Event};

/// The file.
static NAME: [u16; 5] = from_ascii(b"guard");

/// How long it is until a count that could not be taken back is tried again.
const AGAIN: Interval = Interval::from_millis(60_000);

/// How the driver is to come up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As a whole.
    Whole,
    /// Loaded, with nothing of it at work.
    Passing,
}

/// The guard, from a start to its stop.
#[derive(Debug)]
#[must_use = "it must be stopped before the device is deleted"]
pub struct Guard {
    driver: Option<DriverObject>,
    watch: Option<Watch>,
    /// The count goes to zero with the stop, unless the thread has seen to that.
    counts: bool,
}

/// Who waits for the end of the settling time.
#[derive(Debug)]
struct Watch {
    stop: PoolArc<event::Event>,
    registration: Option<Registration>,
    thread: Thread,
}

/// What the thread works with.
struct Work {
    driver: Option<DriverObject>,
    stop: PoolArc<event::Event>,
    notice: PoolArc<Notice>,
    settling: Interval,
}

impl Guard {
    /// Counts this start, and says how the driver is to come up. What cannot be done is told, and leaves the driver to come
    /// up as a whole.
    pub fn start(passive: &mut Passive, device: &Device, service: &[u16]) -> (Self, Verdict) {
        let driver = device.driver();
        let idle = Self { driver, watch: None, counts: false };
        let mode = boot::safe_mode();
        if mode != 0 {
            trace::emit(&Event::SafeMode { mode });
            return (idle, Verdict::Passing);
        }
        let Guarding { starts: limit, settle_seconds } = config::guarding(passive, service);
        if limit == 0 {
            // Nothing is left for when it is switched on again.
            match read(passive, driver) {
                Ok(0) => {}
                Ok(_) => clear(passive, driver, GuardEnd::Off),
                Err(status) => blind("read", status),
            }
            return (idle, Verdict::Whole);
        }
        // The count without this start, where that was counted.
        let mut before = None;
        match read(passive, driver) {
            Ok(starts) if starts >= limit => {
                trace::emit(&Event::GuardTripped { starts, limit });
                return (Self { counts: true, ..idle }, Verdict::Passing);
            }
            Ok(others) => {
                let starts = others.saturating_add(1);
                match write(passive, driver, starts) {
                    Ok(()) => {
                        before = Some(others);
                        trace::emit(&Event::GuardCounted { starts, limit });
                    }
                    Err(status) => blind("write", status),
                }
            }
            // Whatever stands there stays, and goes when this start has ended well.
            Err(status) => blind("read", status),
        }
        let settling = Interval::from_millis(settle_seconds.saturating_mul(1000));
        match Watch::start(passive, device, driver, settling) {
            Ok(watch) => (Self { watch: Some(watch), counts: true, ..idle }, Verdict::Whole),
            Err(status) => {
                blind("thread", status);
                // A start that nobody watches is not counted. That those before it ended well is not known for that.
                match before.map(|before| write(passive, driver, before)) {
                    None => {}
                    Some(Ok(())) => trace::emit(&Event::GuardCleared { end: GuardEnd::Unwatched }),
                    Some(Err(status)) => blind("clear", status),
                }
                (Self { counts: true, ..idle }, Verdict::Whole)
            }
        }
    }

    /// The driver stops, in good order: so did this start.
    pub fn stop(self, passive: &mut Passive) {
        match self.watch {
            Some(watch) => watch.stop(passive),
            None if self.counts => clear(passive, self.driver, GuardEnd::Stopped),
            None => {}
        }
    }
}

impl Watch {
    fn start(
        passive: &mut Passive,
        device: &Device,
        driver: Option<DriverObject>,
        settling: Interval,
    ) -> Result<Self> {
        let stop = PoolArc::try_new(tags::SYNC, event::Event::try_new(event::Kind::Notification)?)?;
        let notice = Notice::try_new()?;
        let work = Work { driver, stop: stop.clone(), notice: notice.clone(), settling };
        let thread = Thread::start(passive, PoolBox::try_new(tags::GUARD, work)?, run)?;
        let registration = match Registration::try_new(passive, device, notice) {
            Ok(registration) => Some(registration),
            Err(status) => {
                blind("shutdown notification", status);
                None
            }
        };
        Ok(Self { stop, registration, thread })
    }

    fn stop(self, passive: &mut Passive) {
        self.stop.set();
        self.thread.join(passive);
        if let Some(registration) = self.registration {
            registration.cancel(passive);
        }
    }
}

fn run(passive: &mut Passive, work: PoolBox<Work>) {
    let Work { driver, stop, notice, settling } = work.into_inner();
    let passive: &Passive = passive;
    let mut bound = settling;
    let mut told = false;
    loop {
        let held = hold(passive, driver);
        let end = match event::Event::wait_any(&[&stop, notice.asked()], passive, Some(bound)) {
            Ok(None) => GuardEnd::Settled,
            Ok(Some(0)) => GuardEnd::Stopped,
            Ok(Some(_)) => GuardEnd::ShutDown,
            // The wait itself failed: there is only one way left to be told.
            Err(_) => match stop.wait(passive, Some(bound)) {
                Waited::Signalled => GuardEnd::Stopped,
                Waited::TimedOut => GuardEnd::Settled,
            },
        };
        let cleared = held.and_then(|file| put(&file, 0)).or_else(|_| write(passive, driver, 0));
        let last = end != GuardEnd::Settled;
        match cleared {
            Ok(()) => {
                trace::emit(&Event::GuardCleared { end });
                break;
            }
            Err(status) => {
                if last || !told {
                    blind("clear", status);
                }
                if last {
                    break;
                }
            }
        }
        told = true;
        bound = AGAIN;
    }
    notice.finish();
}

/// The count goes to zero.
fn clear(passive: &Passive, driver: Option<DriverObject>, end: GuardEnd) {
    match write(passive, driver, 0) {
        Ok(()) => trace::emit(&Event::GuardCleared { end }),
        Err(status) => blind("clear", status),
    }
}

fn blind(operation: &'static str, status: Status) {
    trace::emit(&Event::GuardBlind { operation, status: status.into() });
}

/// How many starts the file has counted. One that is damaged, or another version's, has counted none.
fn read(passive: &Passive, driver: Option<DriverObject>) -> Result<u32> {
    let directory = Directory::of_data(passive, driver)?;
    let file = match directory.open_file(passive, &NAME) {
        Err(Status::OBJECT_NAME_NOT_FOUND) => return Ok(0),
        opened => opened?,
    };
    // One more, so that a longer file is told from one that fits.
    let mut bytes = [0; SIZE + 1];
    let length = file.read(0, &mut bytes)?;
    match Count::decode(bytes.get(..length).unwrap_or_default()) {
        Ok(count) if count.is_others() => {
            if count.starts != 0 {
                trace::emit(&Event::GuardCleared { end: GuardEnd::OtherVersion });
            }
            Ok(0)
        }
        Ok(count) => Ok(count.starts),
        Err(damage) => {
            trace::emit(&Event::GuardRefused { reason: damage.reason() });
            Ok(0)
        }
    }
}

/// Writes the count, and waits until it is on the disk.
fn write(passive: &Passive, driver: Option<DriverObject>, starts: u32) -> Result {
    let directory = Directory::of_data(passive, driver)?;
    put(&directory.open_or_make_file(passive, &NAME)?, starts)
}

/// The file, which nobody else can open.
fn hold(passive: &Passive, driver: Option<DriverObject>) -> Result<File<'_>> {
    Directory::of_data(passive, driver)?.hold_file(passive, &NAME)
}

fn put(file: &File<'_>, starts: u32) -> Result {
    file.write(0, &Count::own(starts, time::system_time()).encode())?;
    file.flush()
}
