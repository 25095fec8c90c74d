//! The machine: one at a time in a process.
//!
//! [`boot`] waits for the machine before it to be gone, so tests that run in parallel threads take turns. Everything a
//! machine held is given back when its [`Sim`] and the drivers loaded in it are dropped.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::driver::{Driver, Entry};
use crate::fault::{Injected, Plan};
use crate::processors::Topology;
use crate::registry::Registry;
use crate::sys::nt::{NTSTATUS, PASSIVE_LEVEL};
use crate::verify::{Report, lock};
use crate::{
    bugcheck, clock, device, dispatcher, driver, fault, file, irp, irql, object, pool, processors, random,
    registry, shutdown, threads, verify, wfp,
};

/// How a machine is set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Processors at boot, from 1.
    pub processors: u32,
    /// Processors that it can have in the end, at most [`irql::MAXIMUM_PROCESSORS`]; raised to `processors`.
    pub maximum_processors: u32,
    /// How they lie in groups and nodes.
    pub topology: Topology,
    /// A violation is a bug check (a panic) instead of a line in the report.
    pub strict: bool,
    /// Keep the call stack of every violation and of everything that is held. Slow.
    pub backtraces: bool,
    pub clock: Clock,
    /// Bytes of freed memory that are kept, poisoned, to notice late writes. 0 gives freed memory back at once, for
    /// tools that watch the heap themselves.
    pub quarantine: usize,
    /// A thread moves to another processor at each such number of raises to DISPATCH_LEVEL; 0 keeps it where it is.
    pub migrate_every: u32,
    /// How long something that must end may take before it is called hung.
    pub hang_after: Duration,
    /// Exports that this Windows, an older one, does not have.
    pub absent_routines: &'static [&'static str],
    /// Safe mode: 1 minimal, 2 with networking, 3 directory services repair; 0: none of them.
    pub safe_boot: u32,
    /// Seed of the random numbers that the kernel gives; `None`: the host's own.
    pub random: Option<u64>,
    /// How Winsock Kernel behaves.
    pub wsk: crate::wsk::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            processors: 4,
            maximum_processors: 4,
            topology: Topology::default(),
            strict: false,
            backtraces: false,
            clock: Clock::Real,
            quarantine: 1 << 20,
            migrate_every: 0,
            hang_after: Duration::from_mins(2),
            absent_routines: &[],
            safe_boot: 0,
            random: None,
            wsk: crate::wsk::Config::default(),
        }
    }
}

static RUNNING: Mutex<bool> = Mutex::new(false);
static STOPPED: Condvar = Condvar::new();
static SAFE_BOOT: AtomicU32 = AtomicU32::new(0);
static GENERATION: AtomicU64 = AtomicU64::new(0);
static HANG_AFTER_MS: AtomicU64 = AtomicU64::new(0);
static ABSENT_ROUTINES: Mutex<&[&str]> = Mutex::new(&[]);

type Hook = Box<dyn FnOnce() + Send>;
static AT_SHUTDOWN: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// A number that is another one after every boot: state that a subsystem kept from an earlier machine is not this one's.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Runs `hook` once when this machine shuts down, before its threads are joined and its memory goes; the last registered
/// runs first. For subsystems that hold state of their own.
pub fn at_shutdown(hook: impl FnOnce() + Send + 'static) {
    lock(&AT_SHUTDOWN).push(Box::new(hook));
}

pub(crate) fn routine_is_absent(name: &str) -> bool {
    lock(&ABSENT_ROUTINES).contains(&name)
}

pub(crate) fn hang_after() -> Duration {
    Duration::from_millis(HANG_AFTER_MS.load(Ordering::Relaxed))
}

/// In which safe mode the machine was started.
pub(crate) fn safe_boot() -> u32 {
    SAFE_BOOT.load(Ordering::Relaxed)
}

/// The machine itself; gone when its last holder is.
pub(crate) struct Machine {
    _private: (),
}

/// A booted machine.
#[must_use = "the machine shuts down when this is dropped"]
pub struct Sim {
    machine: Arc<Machine>,
}

/// Boots a machine; waits for the one before to be gone.
///
/// # Panics
/// When the configuration asks for no processors, or for more than there can be.
pub fn boot(config: Config) -> Sim {
    let maximum = config.maximum_processors.max(config.processors);
    assert!(config.processors != 0, "a machine has at least one processor");
    assert!(maximum as usize <= irql::MAXIMUM_PROCESSORS, "too many processors: {maximum}");
    let mut running = lock(&RUNNING);
    while *running {
        running = STOPPED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running = true;
    drop(running);
    GENERATION.fetch_add(1, Ordering::AcqRel);
    HANG_AFTER_MS.store(u64::try_from(config.hang_after.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    *lock(&ABSENT_ROUTINES) = config.absent_routines;
    SAFE_BOOT.store(config.safe_boot, Ordering::Relaxed);
    verify::start(config.strict, config.backtraces);
    crate::lock::reset();
    fault::set(Plan::None);
    pool::start(config.quarantine);
    clock::start(config.clock);
    dispatcher::start();
    device::start();
    registry::reset();
    file::reset();
    random::start(config.random);
    wfp::start();
    processors::start(config.topology);
    irql::start(config.processors, maximum, config.migrate_every);
    crate::wsk::boot(config.wsk);
    crate::nmr::boot();
    Sim { machine: Arc::new(Machine { _private: () }) }
}

impl Drop for Machine {
    fn drop(&mut self) {
        loop {
            let Some(hook) = lock(&AT_SHUTDOWN).pop() else { break };
            hook();
        }
        wfp::stop();
        dispatcher::stop();
        device::stop();
        let left = threads::join_all(hang_after());
        if left != 0 {
            // Their memory cannot be taken from under them.
            eprintln!("ntsim: {left} threads still run at shutdown:\n{}", verify::report());
            std::process::abort();
        }
        object::stop();
        pool::stop();
        irp::stop();
        shutdown::stop();
        bugcheck::stop();
        registry::clear();
        file::clear();
        fault::set(Plan::None);
        verify::stop();
        if irql::current() != PASSIVE_LEVEL {
            irql::restore(PASSIVE_LEVEL);
        }
        irql::stop();
        *lock(&RUNNING) = false;
        STOPPED.notify_one();
    }
}

impl Sim {
    pub fn registry(&self) -> Registry {
        Registry
    }

    /// The disk.
    pub fn files(&self) -> file::Files {
        file::Files
    }

    /// Loads a driver: its service key is made, and its DriverEntry is called on a system thread at PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The status of a DriverEntry that refused. The verifier has looked by then for what it left behind.
    pub fn load_driver(&self, name: &str, entry: Entry) -> Result<Driver, NTSTATUS> {
        driver::load(Arc::clone(&self.machine), name, entry)
    }

    /// What the verifier found so far, and what is held now.
    pub fn report(&self) -> Report {
        verify::report()
    }

    /// Sets which calls fail from here on, and counts anew.
    pub fn fault(&self, plan: Plan) {
        fault::set(plan);
    }

    /// Fallible calls seen since the plan was set.
    pub fn fault_calls(&self) -> u64 {
        fault::calls()
    }

    /// The calls that were made to fail since the plan was set.
    pub fn faults_injected(&self) -> Vec<Injected> {
        fault::injected()
    }

    /// Moves a virtual clock: timers and waits end in order, and the DPCs of each moment run before the next.
    ///
    /// # Panics
    /// On a machine with a real clock.
    pub fn advance(&self, by: Duration) {
        assert!(clock::is_virtual(), "the clock is real: boot with Clock::Virtual");
        dispatcher::advance(by);
    }

    /// Tells drivers that the system is shut down in good order. They go on until the machine is dropped: a driver in it
    /// is unloaded then, which no shutdown does.
    pub fn shut_down(&self) {
        shutdown::tell();
    }

    /// Adds a processor. Returns its index, or `None` when the machine has its maximum, or a driver refuses it.
    pub fn add_processor(&self) -> Option<u32> {
        processors::hot_add()
    }

    /// Begins to add a processor, and fails with this status after the drivers have been told.
    pub fn fail_to_add_processor(&self, status: NTSTATUS) {
        // No processor was added.
        let _ = driver::on_system_thread("hot add", move || processors::add(Some(status)));
    }

    /// Looks for these bytes in all kernel memory that is freed from here on: a driver overwrites its secrets first.
    pub fn watch_secret(&self, secret: &[u8]) {
        pool::watch_secret(secret);
    }

    /// The pool blocks in use with this tag.
    pub fn pool_blocks(&self, tag: [u8; 4]) -> Vec<pool::InUse> {
        pool::in_use(u32::from_le_bytes(tag))
    }

    /// Kernel memory in use.
    pub fn pool_usage(&self) -> pool::Usage {
        pool::usage()
    }
}
