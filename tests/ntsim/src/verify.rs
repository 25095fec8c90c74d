//! What the verifier found: violations of documented rules, and what is still held.
//!
//! Every module of the simulated kernel reports here. A violation names the rule and its documentation page, the API
//! that noticed it, the thread and IRQL, and, when [`crate::Config::backtraces`] asks for it, the call stack.
//! In strict mode ([`crate::Config::strict`]) a violation is a bug check: a panic with the same text.
//!
//! Callable on any thread at any IRQL.

use std::backtrace::Backtrace;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::irql;
use crate::sys::nt::KIRQL;

/// The rules of the NT kernel that are checked.
pub mod rule {
    pub use crate::bugcheck::{
        BUGCHECK_BUFFER, BUGCHECK_REASON, BUGCHECK_RECORD, BUGCHECK_TAG, BUGCHECK_TOO_LONG,
    };
    pub use crate::device::{
        DEVICE_INVALID, WORK_ITEM_DEVICE, WORK_ITEM_HANGS, WORK_ITEM_INVALID, WORK_ITEM_QUEUED,
    };
    pub use crate::dispatcher::{
        DPC_ROUTINE, OBJECT_FREED, OBJECT_NOT_INITIALISED, OBJECT_REINITIALISED, RUNDOWN_HANGS,
        TIMER_STILL_SET, WAIT_ARGUMENTS,
    };
    pub use crate::driver::{
        DRIVER_HANGS, DRIVER_LEFT_BUGCHECK, DRIVER_LEFT_CALLBACKS, DRIVER_LEFT_DEVICES, DRIVER_LEFT_THREADS,
        DRIVER_LEFT_TIMERS, DRIVER_NO_UNLOAD,
    };
    pub use crate::irp::{
        CALL_DEVICE, CANCEL_LOCK, COMPLETION_DEVICE, COMPLETION_LOST, IRP_CANCEL_ROUTINE,
        IRP_COMPLETED_TWICE, IRP_COMPLETION_STATUS, IRP_FREED_PENDING, IRP_INVALID, IRP_NO_COMPLETION,
        IRP_NO_STACK, IRP_REUSED_PENDING, IRP_SENT_PENDING, IRP_STACK_SIZE, IRP_STATUS_PENDING,
        IRP_USE_AFTER_FREE,
    };
    pub use crate::irql::{
        AFTER_TERMINATE, IRQL_LOWER_RAISES, IRQL_NOT_RESTORED, IRQL_RAISE_LOWERS, IRQL_TOO_HIGH, IRQL_TOO_LOW,
    };
    pub use crate::lock::{
        LOCK_DEPTH, LOCK_FREED, LOCK_HELD_BLOCKING, LOCK_HELD_LOWERING, LOCK_IRQL, LOCK_NOT_HELD, LOCK_ORDER,
        LOCK_RECURSION,
    };
    pub use crate::object::{
        HANDLE_ACCESS, HANDLE_INVALID, HANDLE_WRONG_KIND, OBJECT_REFERENCE, THREAD_NOT_SYSTEM, THREAD_START,
    };
    pub use crate::pool::{
        POOL_DOUBLE_FREE, POOL_EXECUTABLE, POOL_INVALID_FREE, POOL_OVERRUN, POOL_PARAMETER, POOL_RAISES,
        POOL_SECRET, POOL_UNDERRUN, POOL_USE_AFTER_FREE, POOL_WRONG_ROUTINE, POOL_WRONG_TAG,
    };
    pub use crate::processors::{
        PROCESSOR_CALLBACK, PROCESSOR_HANDLE, PROCESSOR_REENTERED, PROCESSOR_STATUS,
    };
    pub use crate::shutdown::{SHUTDOWN_DEVICE, SHUTDOWN_HANGS, SHUTDOWN_LEFT, SHUTDOWN_UNKNOWN};
    pub use crate::sys::cng::RANDOM_ARGUMENTS;
    pub use crate::sys::nt::rule::{
        DEVICE_OWNER, FILE_ASYNCHRONOUS, FILE_HANDLE, FILE_OPLOCK, FILE_SYNCHRONOUS, MDL_INVALID, MDL_MEMORY,
        MDL_NOT_BUILT, PROCESSOR_RELATION, REGISTRY_ATTRIBUTES, REGISTRY_BUFFER, REGISTRY_HANDLE,
        RUNDOWN_RELEASE, RUNDOWN_STATE,
    };
}

pub use crate::lock::{lock_acquired, lock_acquiring, lock_released};

/// A rule of the documentation. `page` names the page; an empty one means the page of the API itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: &'static str,
    pub page: &'static str,
}

impl Rule {
    pub const fn new(name: &'static str, page: &'static str) -> Self {
        Self { name, page }
    }
}

/// Defines rules as statics; they are public unless a visibility is given.
#[macro_export]
macro_rules! rules {
    () => {};
    ($(#[$meta:meta])* $name:ident = ($text:expr, $page:expr); $($rest:tt)*) => {
        $(#[$meta])* pub static $name: $crate::verify::Rule = $crate::verify::Rule::new($text, $page);
        $crate::rules! { $($rest)* }
    };
    ($(#[$meta:meta])* $visibility:vis $name:ident = ($text:expr, $page:expr); $($rest:tt)*) => {
        $(#[$meta])* $visibility static $name: $crate::verify::Rule =
            $crate::verify::Rule::new($text, $page);
        $crate::rules! { $($rest)* }
    };
}

/// One breach of a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: &'static Rule,
    /// The API that noticed it.
    pub api: &'static str,
    pub detail: String,
    pub thread: String,
    pub irql: KIRQL,
    pub backtrace: Option<String>,
}

impl Violation {
    /// The documentation page behind the rule.
    pub fn page(&self) -> &'static str {
        if self.rule.page.is_empty() { self.api } else { self.rule.page }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}: {}: {} (thread {}, IRQL {}, see {})",
            self.rule.name,
            self.api,
            self.detail,
            self.thread,
            self.irql,
            self.page()
        )?;
        if let Some(backtrace) = &self.backtrace {
            write!(out, "\n{backtrace}")?;
        }
        Ok(())
    }
}

/// A pool tag: four characters, in the order in which they lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl fmt::Display for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.to_le_bytes() {
            write!(out, "{}", if (0x20..=0x7e).contains(&byte) { char::from(byte) } else { '.' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "'{self}'")
    }
}

/// Something still held.
#[derive(Clone, Debug)]
pub struct Leak {
    /// What it is: "pool block", "IRP", "handle", …
    pub kind: &'static str,
    /// Its address, handle or id.
    pub id: usize,
    /// Its pool tag, when it has one.
    pub tag: Option<Tag>,
    /// In bytes; 0 when it has no size.
    pub size: usize,
    /// Which API made it, or what says who did.
    pub made_by: String,
    pub backtrace: Option<String>,
}

impl Leak {
    /// Something that has neither size nor tag.
    pub(crate) fn new(kind: &'static str, id: usize, made_by: String) -> Self {
        Self { kind, id, tag: None, size: 0, made_by, backtrace: None }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:#x}", self.kind, self.id)?;
        if let Some(tag) = self.tag {
            write!(out, " tag '{tag}'")?;
        }
        if self.size != 0 {
            write!(out, " of {} bytes", self.size)?;
        }
        write!(out, " from {}", self.made_by)?;
        if let Some(backtrace) = &self.backtrace {
            write!(out, "\n{backtrace}")?;
        }
        Ok(())
    }
}

/// What the verifier has to say at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Everything that is held at this moment. After the driver's unload it is what the driver left behind.
    pub leaks: Vec<Leak>,
    /// The first [`VIOLATIONS_KEPT`] violations.
    pub violations: Vec<Violation>,
    /// All violations, those not kept included.
    pub violation_count: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.leaks.is_empty() && self.violation_count == 0
    }

    /// Bytes and blocks still held for each pool tag.
    pub fn pool_by_tag(&self) -> Vec<(Tag, usize, usize)> {
        let mut tags: HashMap<Tag, (usize, usize)> = HashMap::new();
        for leak in &self.leaks {
            if let Some(tag) = leak.tag {
                let entry = tags.entry(tag).or_default();
                entry.0 += leak.size;
                entry.1 += 1;
            }
        }
        let mut rows: Vec<_> = tags.into_iter().map(|(tag, (bytes, blocks))| (tag, bytes, blocks)).collect();
        rows.sort_unstable();
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "violations: {}, leaks: {}", self.violation_count, self.leaks.len())?;
        for violation in &self.violations {
            writeln!(out, "violation: {violation}")?;
        }
        for leak in &self.leaks {
            writeln!(out, "leak: {leak}")?;
        }
        Ok(())
    }
}

/// How many violations a report keeps in full.
pub const VIOLATIONS_KEPT: usize = 1000;

static STRICT: AtomicBool = AtomicBool::new(false);
static BACKTRACES: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static VIOLATIONS: Mutex<Vec<Violation>> = Mutex::new(Vec::new());

/// A mutex of the simulator itself: a panic elsewhere does not make its state untrue.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn start(strict: bool, backtraces: bool) {
    STRICT.store(strict, Ordering::Relaxed);
    BACKTRACES.store(backtraces, Ordering::Relaxed);
    COUNT.store(0, Ordering::Relaxed);
    lock(&VIOLATIONS).clear();
    for shard in &TRACKED {
        // Not `clear`, which would keep the table's memory beyond the machine.
        *lock(shard) = HashMap::new();
    }
}

pub(crate) fn stop() {
    start(false, false);
}

/// The call stack, when backtraces are asked for.
pub(crate) fn backtrace() -> Option<Backtrace> {
    if BACKTRACES.load(Ordering::Relaxed) { Some(Backtrace::force_capture()) } else { None }
}

pub(crate) fn thread_name() -> String {
    let thread = std::thread::current();
    thread.name().map_or_else(|| format!("{:?}", thread.id()), str::to_owned)
}

/// Records a breach of `rule` that `api` noticed. In strict mode it is a bug check.
///
/// # Panics
/// In strict mode, unless the thread is panicking already.
#[cold]
pub fn violation(rule: &'static Rule, api: &'static str, detail: impl Into<String>) {
    let violation = Violation {
        rule,
        api,
        detail: detail.into(),
        thread: thread_name(),
        irql: irql::current(),
        backtrace: backtrace().map(|backtrace| backtrace.to_string()),
    };
    let text = STRICT.load(Ordering::Relaxed).then(|| violation.to_string());
    COUNT.fetch_add(1, Ordering::Relaxed);
    {
        let mut kept = lock(&VIOLATIONS);
        if kept.len() < VIOLATIONS_KEPT {
            kept.push(violation);
        }
    }
    if let Some(text) = text
        && !std::thread::panicking()
    {
        panic!("DRIVER_VERIFIER_DETECTED_VIOLATION: {text}");
    }
}

/// What a subsystem (WFP, WSK, …) holds for the driver. See [`track`].
struct Tracked {
    tag: u32,
    place: &'static Location<'static>,
    backtrace: Option<Backtrace>,
}

const SHARDS: usize = 16;
type Shard = Mutex<HashMap<(&'static str, usize), Tracked>>;
static TRACKED: [std::sync::LazyLock<Shard>; SHARDS] =
    [const { std::sync::LazyLock::new(|| Mutex::new(HashMap::new())) }; SHARDS];

fn shard(id: usize) -> &'static Shard {
    // Pointers differ above their alignment, ids differ at the bottom.
    &TRACKED[(id ^ (id >> 6) ^ (id >> 12)) % SHARDS]
}

/// Notes that the driver now holds `id`, of the kind `kind`; it is a leak until [`untrack`]. `tag` 0 means none.
/// Returns false when it is tracked already.
#[track_caller]
pub fn track(kind: &'static str, id: usize, tag: u32) -> bool {
    let tracked = Tracked { tag, place: Location::caller(), backtrace: backtrace() };
    lock(shard(id)).insert((kind, id), tracked).is_none()
}

/// The driver gave `id` back. Returns false when it was not tracked: a double release, or one of a stranger.
pub fn untrack(kind: &'static str, id: usize) -> bool {
    lock(shard(id)).remove(&(kind, id)).is_some()
}

pub fn is_tracked(kind: &'static str, id: usize) -> bool {
    lock(shard(id)).contains_key(&(kind, id))
}

/// How many things of one kind are held.
pub fn tracked(kind: &'static str) -> usize {
    TRACKED.iter().map(|shard| lock(shard).keys().filter(|key| key.0 == kind).count()).sum()
}

/// The state of the verifier now: checks what is held and what lies in quarantine, and lists both.
pub fn report() -> Report {
    let mut leaks = Vec::new();
    crate::pool::report(&mut leaks);
    crate::object::report(&mut leaks);
    crate::dispatcher::report(&mut leaks);
    crate::wfp::report(&mut leaks);
    for shard in &TRACKED {
        leaks.extend(lock(shard).iter().map(|(&(kind, id), tracked)| Leak {
            kind,
            id,
            tag: (tracked.tag != 0).then_some(Tag(tracked.tag)),
            size: 0,
            made_by: tracked.place.to_string(),
            backtrace: tracked.backtrace.as_ref().map(ToString::to_string),
        }));
    }
    leaks.sort_by(|a, b| (a.kind, a.tag, a.id).cmp(&(b.kind, b.tag, b.id)));
    Report { leaks, violations: lock(&VIOLATIONS).clone(), violation_count: COUNT.load(Ordering::Relaxed) }
}
