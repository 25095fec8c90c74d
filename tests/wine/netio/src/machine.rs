//! The settings of this process, and what the seed decides.

use crate::config::{Completion, Config, Level};
use crate::random::Random;
use crate::sync::{Condvar, Mutex};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wine_support::sync::Lazy;
use wine_support::{env, log};

struct Machine {
    config: Result<Config, ()>,
    random: Mutex<Random>,
    ready: AtomicBool,
}

static MACHINE: Lazy<Machine> = Lazy::new(|| {
    let config = Config::read(env::setting).map_err(|error| log!("VIOLATION: settings: {error}"));
    let seed = config.as_ref().map_or(0, |config| config.seed);
    let ready = config.as_ref().is_ok_and(|config| config.ready);
    Machine { config, random: Mutex::new(Random::new(seed)), ready: AtomicBool::new(ready) }
});

static DEFAULT: Lazy<Config> = Lazy::new(Config::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What waits for the provider or for the end of something waits for this.
pub static CHANGED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Wakes everyone who waits by [`CHANGED`].
pub fn changed() {
    drop(CHANGED.0.lock());
    CHANGED.1.notify_all();
}

/// Reads the settings.
pub fn start() {
    if let Ok(config) = &MACHINE.config {
        log!("settings: {config:?}");
    }
}

pub fn config() -> &'static Config {
    MACHINE.config.as_ref().unwrap_or(&DEFAULT)
}

/// Whether the settings could be read: nothing works otherwise.
pub fn is_sound() -> bool {
    MACHINE.config.is_ok()
}

pub fn is_ready() -> bool {
    MACHINE.ready.load(Ordering::Acquire)
}

/// Brings the WSK provider, or takes it away.
pub fn set_ready(ready: bool) {
    MACHINE.ready.store(ready, Ordering::Release);
    changed();
}

/// A number that nothing else has.
pub fn next_id() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// True in about `percent` of a hundred cases.
pub fn chance(percent: u64) -> bool {
    MACHINE.random.lock().chance(percent)
}

pub fn draw(bound: usize) -> usize {
    let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
    usize::try_from(MACHINE.random.lock().below(bound)).unwrap_or(0)
}

/// Whether the next request completes within its call, where it can.
pub fn pick_inline() -> bool {
    match config().completion {
        Completion::Inline => true,
        Completion::Pending => false,
        Completion::Seeded => chance(34),
    }
}

/// Whether the next callback comes at DISPATCH_LEVEL.
pub fn callback_at_dispatch() -> bool {
    match config().level {
        Level::Passive => false,
        Level::Dispatch => true,
        Level::Seeded => chance(50),
    }
}

/// Whether the next indication comes in pieces.
pub fn splits() -> bool {
    chance(50)
}
