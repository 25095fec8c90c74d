//! Vendors on a simulated machine: modules at the Network Module Registrar and providers in WSK, as scripted as a test
//! wants them, that watch weir's side of the contract (`src/ext/module.rs`, the pages of NMR and WSK) themselves.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub mod module;
pub mod record;
pub mod tables;

pub use module::{Answer, Attachment, Form, Inline, Module, Release};
pub use record::{Heard, Record};
pub use tables::Interface;

use crate::control_support::{self, Plane};
use ntsim::sys::nt::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};
use ntsim::{irql, nmr, wsk};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use weir::config::Settings;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers by a seed: splitmix64.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// In so many of a hundred cases.
    pub fn percent(&mut self, cases: u64) -> bool {
        self.next() % 100 < cases
    }

    pub fn of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    pub fn irql(&mut self) -> KIRQL {
        *self.of(&[PASSIVE_LEVEL, DISPATCH_LEVEL])
    }

    pub fn manner(&mut self) -> nmr::Manner {
        nmr::Manner {
            order: *self.of(&[nmr::Order::ClientFirst, nmr::Order::ProviderFirst, nmr::Order::Together]),
            detach_at_dispatch: self.percent(50),
            attach_elsewhere: self.percent(50),
        }
    }
}

/// At that level.
pub fn at<T>(level: KIRQL, body: impl FnOnce() -> T) -> T {
    let _raised = (level >= DISPATCH_LEVEL && irql::current() < DISPATCH_LEVEL).then(irql::raise_scope);
    body()
}

/// The tests' short times, with these entries for the extension interfaces, no samples of the built-in provider's, and
/// as many connections as a test likes.
pub fn settings(entries: &[String]) -> Settings {
    let mut settings = Settings {
        extension_interfaces: Settings::DEFAULT.extension_interfaces,
        extension_metric_seconds: 0,
        control_connect_burst: 1000,
        control_connect_rate: 60_000,
        shutdown_timeout_ms: 30,
        ..control_support::parameters()
    };
    if !entries.is_empty() {
        let entries: Vec<_> = entries.iter().map(String::as_str).collect();
        control_support::set_list(&mut settings, "ExtensionInterfaces", &entries);
    }
    settings
}

/// The control plane on a machine with vendors, and what it told.
pub struct World {
    plane: Option<Plane>,
    pub record: Record,
    pub modules: Vec<Module>,
}

impl World {
    /// A machine on which nothing runs yet.
    pub fn prepare(sim: ntsim::Sim) -> Self {
        let record = Record::default();
        let hear = record.clone();
        let plane = Plane::prepare_heard(sim, move |event| hear.hear(event));
        Self { plane: Some(plane), record, modules: Vec::new() }
    }

    /// A machine with these modules, on which the control plane has started.
    #[track_caller]
    pub fn start(entries: &[String], modules: impl FnOnce() -> Vec<Module>) -> Self {
        Self::start_on(control_support::boot(wsk::Config::default()), entries, modules)
    }

    #[track_caller]
    pub fn start_on(sim: ntsim::Sim, entries: &[String], modules: impl FnOnce() -> Vec<Module>) -> Self {
        let mut world = Self::prepare(sim);
        world.modules = modules();
        world.run(&settings(entries));
        world
    }

    /// Starts the control plane.
    #[track_caller]
    pub fn run(&mut self, settings: &Settings) {
        self.plane_mut().try_start(settings).expect("the control plane starts");
    }

    pub fn plane(&self) -> &Plane {
        self.plane.as_ref().unwrap()
    }

    pub fn plane_mut(&mut self) -> &mut Plane {
        self.plane.as_mut().unwrap()
    }

    /// Weir stops, then the modules leave; the verifier has nothing to say. What was told.
    #[track_caller]
    pub fn end(mut self) -> Vec<Heard> {
        self.plane_mut().stop();
        self.finish()
    }

    /// The modules leave, then weir stops.
    #[track_caller]
    pub fn end_modules_first(mut self) -> Vec<Heard> {
        self.modules.clear();
        self.end()
    }

    /// After the control plane's stop.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Heard> {
        self.modules.clear();
        let plane = self.plane.take().unwrap();
        plane.check();
        let heard = self.record.heard();
        if let Err(breach) = record::check_order(&heard) {
            panic!("{breach}\n{heard:#?}");
        }
        heard
    }

    #[track_caller]
    pub fn wait(&self, what: &str, is: impl Fn(&[Heard]) -> bool) {
        control_support::eventually(what, || is(&self.record.heard()));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever failed, modules leave a machine that is still there.
        if let Some(plane) = &mut self.plane {
            plane.stop();
        }
        self.modules.clear();
    }
}

/// A moment.
pub fn moment() {
    std::thread::sleep(Duration::from_millis(1));
}
