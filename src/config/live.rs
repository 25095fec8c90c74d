//! The settings that hold while the driver runs. What changes is published whole; who runs on a thread of its own takes
//! all of it over when it looks, and who runs at DISPATCH_LEVEL reads one word.
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::load::{Page, Shared};
use super::schema::{Applies, Setting, Settings, TABLE};
use crate::kernel::Result;
use crate::kernel::event::Event;
use crate::kernel::irql::AtMostDispatch;
use crate::kernel::lock::SpinLock;
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::trace::{self, Keywords};

/// Settings that do not change any more.
pub type Running = PoolArc<PoolBox<Settings>>;

/// What holds, and what would after a start.
pub struct Live {
    state: SpinLock<State>,
    /// Another one each time that something is published.
    version: AtomicU32,
    verdict_sampling: AtomicU32,
    dispatch_spin: AtomicU32,
    /// What `ControlMaxSessions` was at the start: there are places for as many.
    max_sessions: u32,
}

struct State {
    running: Running,
    page: Shared,
    wake: Option<PoolArc<Event>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Live {
    /// At the start: all that was read holds.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(page: &Shared) -> Result<PoolArc<Self>> {
        let running = share(PoolBox::try_copy(tags::CONFIGURATION, &page.settings)?)?;
        let settings = &**running;
        let (sampling, spin) = (settings.verdict_sampling, settings.dispatch_spin_microseconds);
        let max_sessions = settings.control_max_sessions;
        limit_trace(settings);
        PoolArc::try_with(tags::CONFIGURATION, || Self {
            state: SpinLock::new(
                "settings",
                State { running: running.clone(), page: page.clone(), wake: None },
            ),
            version: AtomicU32::new(1),
            verdict_sampling: AtomicU32::new(sampling),
            dispatch_spin: AtomicU32::new(spin),
            max_sessions,
        })
    }

    /// What holds.
    pub fn running(&self, irql: &mut AtMostDispatch) -> Running {
        self.state.lock(irql).running.clone()
    }

    /// What would hold after a start, and where it comes from.
    pub fn page(&self, irql: &mut AtMostDispatch) -> Shared {
        self.state.lock(irql).page.clone()
    }

    /// Another number than before when something has been published since.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// The event that is set when something has been published; `None` takes it back: it is not touched after this
    /// returns.
    pub fn set_wake(&self, irql: &mut AtMostDispatch, wake: Option<PoolArc<Event>>) {
        let before = core::mem::replace(&mut self.state.lock(irql).wake, wake);
        drop(before);
    }

    /// Of the verdicts that allow, one in so many is told; 0: none.
    #[inline]
    pub fn verdict_sampling(&self) -> u32 {
        self.verdict_sampling.load(Ordering::Relaxed)
    }

    /// How long the dispatcher looks for further records before it sleeps, in microseconds.
    pub fn dispatch_spin(&self) -> u32 {
        self.dispatch_spin.load(Ordering::Relaxed)
    }

    fn take_over(&self, next: &mut Settings, page: &Page, setting: &Setting) {
        match setting.applies {
            Applies::Restart => {}
            Applies::Live => next.adopt(&page.settings, setting.name),
            Applies::Lowered => {
                next.adopt(&page.settings, setting.name);
                next.control_max_sessions = next.control_max_sessions.min(self.max_sessions);
            }
        }
    }

    /// Lets the settings of a page hold, as far as they are taken over at once, and says what holds then.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; nothing has changed.
    pub fn publish(&self, irql: &mut AtMostDispatch, page: Shared) -> Result<Running> {
        let mut next = PoolBox::try_copy(tags::CONFIGURATION, &**self.running(irql))?;
        for setting in TABLE {
            self.take_over(&mut next, &page, setting);
        }
        let running = share(next)?;
        self.verdict_sampling.store(running.verdict_sampling, Ordering::Relaxed);
        self.dispatch_spin.store(running.dispatch_spin_microseconds, Ordering::Relaxed);
        limit_trace(&running);
        let mut state = self.state.lock(irql);
        let before = (
            core::mem::replace(&mut state.running, running.clone()),
            core::mem::replace(&mut state.page, page),
        );
        self.version.fetch_add(1, Ordering::Release);
        // Within the lock, so that whoever takes the event back knows that it is not touched any more.
        if let Some(wake) = &state.wake {
            wake.set();
        }
        drop(state);
        drop(before);
        Ok(running)
    }
}

fn limit_trace(settings: &Settings) {
    trace::limit(settings.trace_level, Keywords::from_bits_retain(settings.trace_keywords.into()));
}

/// Settings, to be shared.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`.
fn share(settings: PoolBox<Settings>) -> Result<Running> {
    PoolArc::try_new(tags::CONFIGURATION, settings)
}
