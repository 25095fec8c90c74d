//! Follows the registry while the driver runs: one thread, at PASSIVE_LEVEL, which a change of either key wakes.
//!
//! Each turn watches both keys anew, and reads after that, so that no change is lost in between; what a change is, it
//! finds out by reading all. It also looks by itself, seldom where the registry tells of changes, and more often where it
//! does not.

use core::fmt;

use super::live::Live;
use super::load::{Book, Page, Read};
use super::schema::{POLICY_IMAGE, TABLE};
use crate::kernel::event::{self, Event, Kind, Waited};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::registry::Watch;
use crate::kernel::string::Utf16;
use crate::kernel::thread::Thread;
use crate::kernel::time::Interval;
use crate::kernel::{Result, Status};
use crate::trace::events::Effect;
use crate::trace::{self, Keywords, Level};

/// How long the thread waits before it looks by itself.
const LOOK: Interval = Interval::from_millis(60_000);
/// How long, while it is not told of changes, or could not read.
const RETRY: Interval = Interval::from_millis(5_000);
/// How long after a change it reads: mostly several values are set one after the other.
const SETTLING: Interval = Interval::from_millis(200);

/// Above the key of policies, which is mostly not there: what is watched is the first that is, the former with all below
/// it.
const ABOVE_POLICIES: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Policies";
const ABOVE_THAT: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet";

/// Whom another `PolicyImage` concerns.
pub trait Rereads: Send + Sync + 'static {
    /// The registry has another policy now, or none any more.
    fn reread(&self, irql: &mut AtMostDispatch);
}

/// The thread.
#[derive(Debug)]
#[must_use = "the thread must be stopped"]
pub struct Watcher {
    stop: PoolArc<Event>,
    thread: Thread,
}

impl Watcher {
    /// Starts the thread. What changes is published in `live`, and another policy is told to `policies`.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what PsCreateSystemThread returns.
    pub fn start<P: Rereads>(
        passive: &Passive,
        book: Book,
        live: PoolArc<Live>,
        policies: PoolArc<P>,
    ) -> Result<Self> {
        let stop = PoolArc::try_new(tags::SYNC, Event::try_new(Kind::Notification)?)?;
        let work = Work { stop: stop.clone(), book, live, policies, unwatched: false, failed: false };
        let work = PoolBox::try_new(tags::CONFIGURATION, work)?;
        Ok(Self { stop, thread: Thread::start(passive, work, run::<P>)? })
    }

    /// Ends the thread. Nothing is published, and the registry has nothing to tell any more, when this returns.
    pub fn stop(self, passive: &Passive) {
        self.stop.set();
        self.thread.join(passive);
    }
}

/// What the thread works with.
struct Work<P> {
    stop: PoolArc<Event>,
    book: Book,
    live: PoolArc<Live>,
    policies: PoolArc<P>,
    /// That changes are not told has been told.
    unwatched: bool,
    /// That the settings could not be read has been told.
    failed: bool,
}

impl<P> fmt::Debug for Work<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("book", &self.book).finish_non_exhaustive()
    }
}

/// Both keys, as far as they can be watched.
struct Watches {
    own: Result<Watch>,
    policies: Result<Watch>,
}

impl Watches {
    fn open(passive: &Passive, service: &[u16]) -> Self {
        let above = || Watch::open(passive, &Utf16::<{ ABOVE_THAT.len() }>::from_text(ABOVE_THAT)?, false);
        let policies = Utf16::<{ ABOVE_POLICIES.len() }>::from_text(ABOVE_POLICIES);
        let policies = policies
            .and_then(|path| Watch::open(passive, &path, true))
            .or_else(|status| if status == Status::OBJECT_NAME_NOT_FOUND { above() } else { Err(status) });
        // With all below it: `Parameters` may be deleted and made anew.
        Self { own: Watch::open(passive, service, true), policies }
    }

    fn failure(&self) -> Option<Status> {
        self.own.as_ref().err().or(self.policies.as_ref().err()).copied()
    }

    fn close(self, passive: &Passive) {
        for watch in [self.own, self.policies].into_iter().flatten() {
            if let Err(status) = watch.close(passive) {
                let operation = "a notification of the registry was never completed";
                trace::emit(&trace::Event::Fault { operation, status: status.into() });
            }
        }
    }
}

fn run<P: Rereads>(passive: &mut Passive, mut work: PoolBox<Work<P>>) {
    loop {
        let watches = Watches::open(passive, work.book.service());
        let failure = watches.failure();
        work.tell_unwatched(failure);
        let reads = work.reload(passive);
        let bound = if failure.is_none() && reads { LOOK } else { RETRY };
        let awaited = [
            Some(work.stop.awaited()),
            watches.own.as_ref().ok().map(Watch::awaited),
            watches.policies.as_ref().ok().map(Watch::awaited),
        ];
        let pause = match event::wait_any(&awaited, passive, Some(bound)) {
            Ok(Some(0)) => None,
            Ok(Some(_)) => Some(SETTLING),
            Ok(None) => Some(Interval::from_100ns(0)),
            // The wait itself failed: there is only one way left to be told of the end.
            Err(_) => Some(bound),
        };
        let ends = pause.is_none_or(|pause| work.stop.wait(passive, Some(pause)) == Waited::Signalled);
        watches.close(passive);
        if ends {
            return;
        }
    }
}

impl<P: Rereads> Work<P> {
    fn tell_unwatched(&mut self, failure: Option<Status>) {
        if let Some(status) = failure.filter(|_| !self.unwatched) {
            trace::emit(&trace::Event::SettingsUnwatched { status: status.into() });
        }
        self.unwatched = failure.is_some();
    }

    /// Reads all, and lets hold what has changed. False: it could not be read.
    fn reload(&mut self, passive: &mut Passive) -> bool {
        let done = self.book.read(passive).and_then(|read| self.take_over(passive, read));
        if let Err(status) = done
            && !self.failed
        {
            trace::emit(&trace::Event::Degraded { part: "settings", status: status.into() });
        }
        self.failed = done.is_err();
        done.is_ok()
    }

    fn take_over(&mut self, passive: &mut Passive, read: Read) -> Result {
        let before = self.book.page().clone();
        let silences = tell_silence(&read.page, &before);
        let running = self.live.publish(passive, read.page.clone())?;
        let (now, then) = (&read.page, &before);
        let mut differs = now.rows != then.rows;
        for (setting, row) in TABLE.iter().zip(&now.rows) {
            let changed = if setting.name == POLICY_IMAGE.name {
                read.is_other_image
            } else {
                !now.settings.agrees(&then.settings, setting.name)
            };
            differs |= changed;
            if changed && !(silences && LIMITS.contains(&setting.name)) {
                let holds = running.agrees(&now.settings, setting.name);
                let effect = if holds { Effect::Now } else { Effect::NextStart };
                trace::emit(&trace::Event::SettingChanged { name: setting.name, effect, origin: row.origin });
            }
        }
        if differs {
            trace::emit(&trace::Event::SettingsRead { taken: read.taken, refused: read.refused });
        }
        let rereads = read.is_other_image;
        self.book.keep(read);
        if rereads {
            self.policies.reread(passive);
        }
        Ok(())
    }
}

/// What limits the trace.
const LIMITS: [&str; 2] = ["TraceLevel", "TraceKeywords"];

/// Tells that what limits the trace has changed, if it could not be told once that holds: who reads the trace is to know
/// why it ends.
fn tell_silence(now: &Page, then: &Page) -> bool {
    let limits = TABLE.iter().zip(&now.rows).filter(|(setting, _)| LIMITS.contains(&setting.name));
    let settings = &now.settings;
    let keywords = Keywords::from_bits_retain(settings.trace_keywords.into());
    let silences = (settings.trace_level as u8) < Level::Information as u8
        || !keywords.contains(Keywords::CONFIGURATION);
    for (setting, row) in limits.filter(|_| silences) {
        if !settings.agrees(&then.settings, setting.name) {
            let (name, origin) = (setting.name, row.origin);
            trace::emit(&trace::Event::SettingChanged { name, effect: Effect::Now, origin });
        }
    }
    silences
}
