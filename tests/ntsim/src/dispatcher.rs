//! Dispatcher objects: waiting and signalling, timers, DPCs, rundown.
//!
//! One lock guards all of it, as the kernel's own dispatcher lock once did: signalling an object satisfies the waits it
//! can satisfy there and then, in the order in which they began, so an event that is set and reset at once still
//! releases its waiters (page "KeWaitForSingleObject"). The state of an object stands in its own header, where drivers
//! and debuggers expect it. Waiters are found by the object's address.
//!
//! Timers run on a thread of their own, DPCs on two, at DISPATCH_LEVEL on a virtual processor. They start when needed.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::nt::{
    APC_LEVEL, DISPATCH_LEVEL, DISPATCHER_HEADER, KDPC, KTIMER, LIST_ENTRY, NTSTATUS,
    STATUS_INVALID_PARAMETER, STATUS_SUCCESS, STATUS_TIMEOUT, ULARGE_INTEGER,
};
use crate::verify::{Leak, lock, violation};
use crate::{clock, irql, rules, threads};

rules! {
    OBJECT_NOT_INITIALISED = (
        "dispatcher object not initialised, moved, or freed", "Introduction to Kernel Dispatcher Objects"
    );
    OBJECT_REINITIALISED = ("dispatcher object initialised while a thread waits on it", "KeInitializeEvent");
    OBJECT_FREED = ("memory freed with a waiter, active timer or queued DPC in it", "ExFreePoolWithTag");
    WAIT_ARGUMENTS = ("bad wait", "KeWaitForMultipleObjects");
    TIMER_STILL_SET = ("timer still set", "KeCancelTimer");
    DPC_ROUTINE = ("DPC without a routine, or not initialised", "KeInitializeDpc");
    RUNDOWN_HANGS = ("rundown protection is not released", "ExWaitForRundownProtectionRelease");
}

/// Object types in the header's first byte (ntos KOBJECTS).
pub(crate) mod object_type {
    pub const NOTIFICATION_EVENT: u8 = 0;
    pub const SYNCHRONIZATION_EVENT: u8 = 1;
    pub const THREAD: u8 = 6;
    pub const NOTIFICATION_TIMER: u8 = 8;
    pub const SYNCHRONIZATION_TIMER: u8 = 9;
}

/// The type of a KDPC, in its first byte.
const DPC_OBJECT: u32 = 19;
const PENDING: i64 = -1;
/// A wait's outcome that is not the index of an object.
const TIMED_OUT: i64 = -2;

struct Waiter {
    objects: Vec<usize>,
    all: bool,
    /// [`PENDING`], or the index of the object that ended the wait.
    outcome: AtomicI64,
    wake: Condvar,
}

struct Armed {
    key: (u64, u64),
    /// In 100 ns units; 0 is once.
    period: u64,
    dpc: usize,
}

struct State {
    /// By the address of the object waited on.
    waiters: BTreeMap<usize, Vec<Arc<Waiter>>>,
    /// Everyone who waits with a deadline, for the virtual clock.
    timed: Vec<Arc<Waiter>>,
    /// By due time and order of setting: the address of the timer.
    due: BTreeMap<(u64, u64), usize>,
    armed: BTreeMap<usize, Armed>,
    dpcs: VecDeque<(u64, usize)>,
    running: Vec<(u64, usize)>,
    next: u64,
    stopping: bool,
    timer_thread: bool,
    dpc_threads: bool,
}

impl State {
    const fn new() -> Self {
        Self {
            waiters: BTreeMap::new(),
            timed: Vec::new(),
            due: BTreeMap::new(),
            armed: BTreeMap::new(),
            dpcs: VecDeque::new(),
            running: Vec::new(),
            next: 1,
            stopping: false,
            timer_thread: false,
            dpc_threads: false,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

static STATE: Mutex<State> = Mutex::new(State::new());
static TIMERS_CHANGED: Condvar = Condvar::new();
static DPC_QUEUED: Condvar = Condvar::new();
static DPC_DONE: Condvar = Condvar::new();
static RUNDOWN: Condvar = Condvar::new();
/// Waiters, timers and DPCs: so that freeing memory need not take the lock when there are none.
static BUSY: AtomicUsize = AtomicUsize::new(0);

type Guard = MutexGuard<'static, State>;

fn state() -> Guard {
    lock(&STATE)
}

fn wait_on(condvar: &Condvar, guard: Guard) -> Guard {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

fn wait_on_for(condvar: &Condvar, guard: Guard, limit: Duration) -> Guard {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

fn update_busy(state: &State) {
    let busy = state.waiters.len() + state.armed.len() + state.dpcs.len();
    BUSY.store(busy, Ordering::Release);
}

pub(crate) fn start() {
    *state() = State::new();
    BUSY.store(0, Ordering::Release);
}

/// Ends the service threads; [`crate::threads`] joins them.
pub(crate) fn stop() {
    let mut state = state();
    state.stopping = true;
    state.due.clear();
    state.armed.clear();
    state.dpcs.clear();
    drop(state);
    TIMERS_CHANGED.notify_all();
    DPC_QUEUED.notify_all();
}

/// # Safety
/// `object` is readable as a dispatcher header for as long as the result is used.
unsafe fn signal_state<'a>(object: usize) -> &'a AtomicI32 {
    let header = object as *mut DISPATCHER_HEADER;
    // SAFETY: the field lies inside the header, which is valid as the caller promises.
    let field = unsafe { &raw mut (*header).SignalState };
    // SAFETY: the field is aligned and valid; the simulator only touches it as an atomic.
    unsafe { AtomicI32::from_ptr(field) }
}

/// # Safety
/// `object` is readable as a dispatcher header.
unsafe fn kind(object: usize) -> u8 {
    // SAFETY: as the caller promises.
    unsafe { (*(object as *const DISPATCHER_HEADER)).Type }
}

/// Where the list head of a header lies: an initialised header points there itself, a moved copy does not.
fn list_head(object: usize) -> *mut LIST_ENTRY {
    (object + std::mem::offset_of!(DISPATCHER_HEADER, WaitListHead)) as *mut LIST_ENTRY
}

/// Initialises a header in place.
///
/// # Safety
/// `object` is writable as a dispatcher header.
pub(crate) unsafe fn initialise(
    api: &'static str,
    object: *mut c_void,
    kind: u8,
    size: usize,
    signalled: bool,
) {
    let address = object.expose_provenance();
    if state().waiters.contains_key(&address) {
        violation(&OBJECT_REINITIALISED, api, format!("{address:#x}"));
    }
    let head = list_head(address);
    let header = DISPATCHER_HEADER {
        Type: kind,
        Signalling: 0,
        Size: u8::try_from(size / 4).unwrap_or(0),
        Reserved1: 0,
        SignalState: i32::from(signalled),
        WaitListHead: LIST_ENTRY { Flink: head, Blink: head },
    };
    // SAFETY: as the caller promises.
    unsafe { object.cast::<DISPATCHER_HEADER>().write(header) };
}

/// Whether `object` is an initialised dispatcher object of one of `kinds`; a violation otherwise.
///
/// # Safety
/// `object` is null or readable as a dispatcher header.
pub(crate) unsafe fn check(api: &'static str, object: *const c_void, kinds: &[u8]) -> bool {
    let address = object.expose_provenance();
    let problem = if object.is_null() {
        "NULL".to_owned()
    } else {
        // Only what initialisation writes is read here: the state changes under other threads' hands.
        // SAFETY: not null, so readable as the caller promises.
        let kind = unsafe { kind(address) };
        // SAFETY: as above.
        let first = unsafe { (*list_head(address)).Flink };
        if !kinds.contains(&kind) {
            format!("{address:#x} has type {kind:#x}")
        } else if first != list_head(address) {
            format!("{address:#x} was never initialised here")
        } else {
            return true;
        }
    };
    violation(&OBJECT_NOT_INITIALISED, api, problem);
    false
}

pub(crate) const EVENTS: &[u8] = &[object_type::NOTIFICATION_EVENT, object_type::SYNCHRONIZATION_EVENT];
pub(crate) const TIMERS: &[u8] = &[object_type::NOTIFICATION_TIMER, object_type::SYNCHRONIZATION_TIMER];
const WAITABLE: &[u8] = &[
    object_type::NOTIFICATION_EVENT,
    object_type::SYNCHRONIZATION_EVENT,
    object_type::THREAD,
    object_type::NOTIFICATION_TIMER,
    object_type::SYNCHRONIZATION_TIMER,
];

/// Takes a signalled object for one waiter: synchronisation objects are reset by it.
///
/// # Safety
/// `object` is a valid dispatcher object; the state is locked.
unsafe fn consume(object: usize) {
    // SAFETY: as the caller promises.
    let kind = unsafe { kind(object) };
    if matches!(kind, object_type::SYNCHRONIZATION_EVENT | object_type::SYNCHRONIZATION_TIMER) {
        // SAFETY: as above.
        unsafe { signal_state(object) }.store(0, Ordering::Release);
    }
}

/// Tries to end a wait: the index of the object that ended it.
///
/// # Safety
/// The objects are valid dispatcher objects; the state is locked.
unsafe fn satisfy(objects: &[usize], all: bool) -> Option<usize> {
    // SAFETY: as the caller promises.
    let signalled = |object: &usize| unsafe { signal_state(*object) }.load(Ordering::Acquire) > 0;
    if all {
        if !objects.iter().all(signalled) {
            return None;
        }
        for &object in objects {
            // SAFETY: as the caller promises.
            unsafe { consume(object) };
        }
        return Some(0);
    }
    let index = objects.iter().position(signalled)?;
    // SAFETY: as the caller promises.
    unsafe { consume(objects[index]) };
    Some(index)
}

fn forget(state: &mut State, waiter: &Arc<Waiter>) {
    for object in &waiter.objects {
        if let Some(list) = state.waiters.get_mut(object) {
            list.retain(|other| !Arc::ptr_eq(other, waiter));
            if list.is_empty() {
                state.waiters.remove(object);
            }
        }
    }
    state.timed.retain(|other| !Arc::ptr_eq(other, waiter));
    update_busy(state);
}

/// Ends the waits that an object, just signalled, can end.
///
/// # Safety
/// `object` is a valid dispatcher object.
unsafe fn release_waiters(state: &mut State, object: usize) {
    let Some(list) = state.waiters.get(&object) else { return };
    for waiter in list.clone() {
        // SAFETY: as the caller promises.
        if unsafe { signal_state(object) }.load(Ordering::Acquire) <= 0 {
            break;
        }
        // SAFETY: the waiter's objects are valid for as long as it waits: its thread's caller promised so.
        if let Some(index) = unsafe { satisfy(&waiter.objects, waiter.all) } {
            waiter.outcome.store(i64::try_from(index).unwrap_or(0), Ordering::Release);
            forget(state, &waiter);
            waiter.wake.notify_one();
        }
    }
}

/// Sets an object to signalled and returns its state before.
///
/// # Safety
/// `object` is a valid dispatcher object.
pub(crate) unsafe fn signal(object: *mut c_void) -> i32 {
    let mut state = state();
    // SAFETY: as the caller promises.
    let before = unsafe { signal_state(object.expose_provenance()) }.swap(1, Ordering::AcqRel);
    if before <= 0 {
        // SAFETY: as above.
        unsafe { release_waiters(&mut state, object.expose_provenance()) };
    }
    before
}

/// Sets an object to not signalled and returns its state before.
///
/// # Safety
/// `object` is a valid dispatcher object.
pub(crate) unsafe fn reset(object: *mut c_void) -> i32 {
    let _state = state();
    // SAFETY: as the caller promises.
    unsafe { signal_state(object.expose_provenance()) }.swap(0, Ordering::AcqRel)
}

/// # Safety
/// `object` is a valid dispatcher object.
pub(crate) unsafe fn read(object: *mut c_void) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { signal_state(object.expose_provenance()) }.load(Ordering::Acquire)
}

/// Checks that the thread may block, when `timeout` lets it (page "KeWaitForSingleObject": with a zero timeout up to
/// DISPATCH_LEVEL, else up to APC_LEVEL and not in an arbitrary context at DISPATCH_LEVEL).
fn require_may_block(api: &'static str, timeout: Option<i64>) {
    if timeout == Some(0) {
        irql::require_at_most(api, DISPATCH_LEVEL);
    } else {
        irql::require_at_most(api, APC_LEVEL);
        crate::lock::require_none_held_blocking(api);
        crate::wsk::require_no_callback(api);
    }
}

/// Waits for one or all of `objects`. `timeout` is as documented, in 100 ns units: negative relative, positive absolute,
/// zero does not wait; `None` waits for ever.
///
/// # Safety
/// The objects are readable as dispatcher headers until the wait ends.
pub(crate) unsafe fn wait(
    api: &'static str,
    objects: &[*mut c_void],
    all: bool,
    timeout: Option<i64>,
) -> NTSTATUS {
    require_may_block(api, timeout);
    for &object in objects {
        // SAFETY: as the caller promises.
        if !unsafe { check(api, object, WAITABLE) } {
            return STATUS_INVALID_PARAMETER;
        }
    }
    let addresses: Vec<usize> = objects.iter().map(|object| object.expose_provenance()).collect();
    let deadline = timeout.map(clock::deadline);
    let mut state = state();
    // SAFETY: the objects were checked, and stay valid as the caller promises.
    if let Some(index) = unsafe { satisfy(&addresses, all) } {
        return status_of(i64::try_from(index).unwrap_or(0));
    }
    if timeout == Some(0) {
        return STATUS_TIMEOUT;
    }
    let waiter =
        Arc::new(Waiter { objects: addresses, all, outcome: AtomicI64::new(PENDING), wake: Condvar::new() });
    for &object in &waiter.objects {
        state.waiters.entry(object).or_default().push(Arc::clone(&waiter));
    }
    status_of(block(state, &waiter, deadline))
}

/// Sleeps until the deadline (page "KeDelayExecutionThread").
pub(crate) fn delay(api: &'static str, interval: i64) -> NTSTATUS {
    require_may_block(api, Some(interval.min(-1)));
    let deadline = clock::deadline(interval);
    let waiter = Arc::new(Waiter {
        objects: Vec::new(),
        all: false,
        outcome: AtomicI64::new(PENDING),
        wake: Condvar::new(),
    });
    block(state(), &waiter, Some(deadline));
    STATUS_SUCCESS
}

fn block(mut state: Guard, waiter: &Arc<Waiter>, deadline: Option<u64>) -> i64 {
    if deadline.is_some() {
        state.timed.push(Arc::clone(waiter));
    }
    update_busy(&state);
    loop {
        let outcome = waiter.outcome.load(Ordering::Acquire);
        if outcome != PENDING {
            return outcome;
        }
        let left = deadline.map(|deadline| deadline.saturating_sub(clock::now()));
        state = match left {
            Some(0) => {
                forget(&mut state, waiter);
                return TIMED_OUT;
            }
            Some(left) if !clock::is_virtual() => {
                // A unit more, since the clock cuts off below 100 ns.
                wait_on_for(&waiter.wake, state, clock::duration(left.saturating_add(1)))
            }
            _ => wait_on(&waiter.wake, state),
        };
    }
}

fn status_of(outcome: i64) -> NTSTATUS {
    if outcome == TIMED_OUT { STATUS_TIMEOUT } else { i32::try_from(outcome).unwrap_or(STATUS_SUCCESS) }
}

/// Sets a timer, in place of what it was set to. Returns whether it was set.
///
/// # Safety
/// `timer` is an initialised timer, `dpc` null or an initialised DPC; both stay until the timer is cancelled or expired.
pub(crate) unsafe fn set_timer(timer: *mut KTIMER, due: i64, period_ms: u32, dpc: *mut KDPC) -> bool {
    let address = timer.expose_provenance();
    let due = clock::deadline(due);
    let mut state = state();
    let was_set = disarm(&mut state, address);
    // SAFETY: the timer is valid as the caller promises, and its header is its start.
    unsafe { signal_state(address) }.store(0, Ordering::Release);
    // SAFETY: as above; the fields behind the header are only touched under the lock.
    unsafe { (*timer).DueTime = ULARGE_INTEGER { QuadPart: due } };
    // SAFETY: as above.
    unsafe { (*timer).Period = period_ms };
    // SAFETY: as above.
    unsafe { (*timer).Dpc = dpc };
    let key = (due, state.number());
    state.due.insert(key, address);
    state
        .armed
        .insert(address, Armed { key, period: u64::from(period_ms) * 10_000, dpc: dpc.expose_provenance() });
    update_busy(&state);
    if clock::is_virtual() {
        // What is due at once expires at once; the rest when the clock is moved.
        expire(&mut state);
    } else if !state.timer_thread {
        state.timer_thread = true;
        threads::service("ntsim timers", run_timers);
    }
    drop(state);
    TIMERS_CHANGED.notify_one();
    was_set
}

fn disarm(state: &mut State, timer: usize) -> bool {
    let Some(armed) = state.armed.remove(&timer) else { return false };
    state.due.remove(&armed.key);
    update_busy(state);
    true
}

/// Cancels a timer. Returns whether it was set. A DPC that it queued already still runs (page "KeCancelTimer").
pub(crate) fn cancel_timer(timer: *mut KTIMER) -> bool {
    disarm(&mut state(), timer.addr())
}

/// Lets every timer that is due expire.
fn expire(state: &mut State) {
    let now = clock::now();
    while let Some((&key, &timer)) = state.due.first_key_value() {
        if key.0 > now {
            break;
        }
        state.due.remove(&key);
        let Some(mut armed) = state.armed.remove(&timer) else { continue };
        let dpc = armed.dpc;
        if armed.period != 0 {
            armed.key = (key.0 + armed.period, state.number());
            state.due.insert(armed.key, timer);
            state.armed.insert(timer, armed);
        }
        // SAFETY: whoever set the timer keeps it until it is cancelled or has expired.
        unsafe { signal_state(timer) }.store(1, Ordering::Release);
        // SAFETY: as above.
        unsafe { release_waiters(state, timer) };
        if dpc != 0 {
            // SAFETY: as above; the arguments of a timer's DPC have no meaning.
            unsafe { enqueue(state, dpc as *mut KDPC) };
        }
    }
    update_busy(state);
}

fn run_timers() {
    let mut state = state();
    while !state.stopping {
        expire(&mut state);
        let next = state.due.first_key_value().map(|(key, _)| key.0);
        state = match next {
            None => wait_on(&TIMERS_CHANGED, state),
            Some(due) => {
                let left = due.saturating_sub(clock::now()).saturating_add(1);
                wait_on_for(&TIMERS_CHANGED, state, clock::duration(left))
            }
        };
    }
}

/// Moves a virtual clock, expiring timers and waits in order; the DPCs of each moment run before the next comes.
pub(crate) fn advance(by: Duration) {
    let target = clock::now() + clock::units(by);
    loop {
        let mut state = state();
        let next = state.due.first_key_value().map(|(key, _)| key.0).filter(|&due| due <= target);
        clock::move_to(next.unwrap_or(target));
        expire(&mut state);
        for waiter in &state.timed {
            waiter.wake.notify_one();
        }
        let last = state.next;
        drop(flush(state, last));
        if next.is_none() {
            return;
        }
    }
}

/// # Safety
/// `dpc` is writable as a KDPC.
pub(crate) unsafe fn initialise_dpc(
    dpc: *mut KDPC,
    routine: crate::sys::nt::PKDEFERRED_ROUTINE,
    context: *mut c_void,
) {
    // SAFETY: as the caller promises.
    unsafe {
        dpc.write(KDPC {
            TargetInfoAsUlong: DPC_OBJECT,
            DpcListEntry: crate::sys::nt::SINGLE_LIST_ENTRY { Next: std::ptr::null_mut() },
            ProcessorHistory: 0,
            DeferredRoutine: routine,
            DeferredContext: context,
            SystemArgument1: std::ptr::null_mut(),
            SystemArgument2: std::ptr::null_mut(),
            DpcData: std::ptr::null_mut(),
        });
    }
}

/// # Safety
/// `dpc` is an initialised KDPC that stays until it has run or was removed.
pub(crate) unsafe fn queue_dpc(
    api: &'static str,
    dpc: *mut KDPC,
    first: *mut c_void,
    second: *mut c_void,
) -> bool {
    let mut state = state();
    // SAFETY: as the caller promises.
    let fields = unsafe { &mut *dpc };
    if fields.TargetInfoAsUlong != DPC_OBJECT || fields.DeferredRoutine.is_none() {
        drop(state);
        violation(&DPC_ROUTINE, api, format!("{:#x}", dpc.addr()));
        return false;
    }
    if state.dpcs.iter().any(|&(_, queued)| queued == dpc.addr()) {
        return false;
    }
    fields.SystemArgument1 = first;
    fields.SystemArgument2 = second;
    // SAFETY: as the caller promises.
    unsafe { enqueue(&mut state, dpc) }
}

/// # Safety
/// `dpc` is an initialised KDPC that stays until it has run or was removed.
unsafe fn enqueue(state: &mut State, dpc: *mut KDPC) -> bool {
    if state.dpcs.iter().any(|&(_, queued)| queued == dpc.addr()) {
        return false;
    }
    if !state.dpc_threads {
        state.dpc_threads = true;
        for name in ["ntsim DPC 0", "ntsim DPC 1"] {
            threads::service(name, run_dpcs);
        }
    }
    let number = state.number();
    state.dpcs.push_back((number, dpc.expose_provenance()));
    update_busy(state);
    DPC_QUEUED.notify_one();
    true
}

/// Takes a DPC out of the queue. Returns whether it was in it.
pub(crate) fn remove_dpc(dpc: *mut KDPC) -> bool {
    let mut state = state();
    let before = state.dpcs.len();
    state.dpcs.retain(|&(_, queued)| queued != dpc.addr());
    update_busy(&state);
    state.dpcs.len() != before
}

fn run_dpcs() {
    let mut state = state();
    loop {
        let Some((number, address)) = state.dpcs.pop_front() else {
            if state.stopping {
                return;
            }
            state = wait_on(&DPC_QUEUED, state);
            continue;
        };
        state.running.push((number, address));
        update_busy(&state);
        // SAFETY: a queued DPC stays valid until it has been taken out, which is now; what it holds is copied here
        // because its routine may free it.
        let dpc = unsafe { (address as *const KDPC).read() };
        drop(state);
        if let Some(routine) = dpc.DeferredRoutine {
            let raised = irql::raise_scope();
            irql::same_irql("DPC routine", || {
                // SAFETY: the routine and its arguments are the driver's own.
                unsafe {
                    routine(
                        address as *mut KDPC,
                        dpc.DeferredContext,
                        dpc.SystemArgument1,
                        dpc.SystemArgument2,
                    );
                }
            });
            drop(raised);
        }
        state = self::state();
        state.running.retain(|&(running, _)| running != number);
        DPC_DONE.notify_all();
    }
}

fn flush(mut state: Guard, before: u64) -> Guard {
    while state.dpcs.iter().chain(&state.running).any(|&(number, _)| number < before) {
        state = wait_on(&DPC_DONE, state);
    }
    state
}

/// Waits until every DPC that is queued now has run (page "KeFlushQueuedDpcs").
pub(crate) fn flush_dpcs() {
    let state = state();
    let last = state.next;
    drop(flush(state, last));
}

/// Memory is about to be freed: nobody may wait on an object in it, and no timer or DPC in it may be active
/// ([`OBJECT_FREED`]). Returns what is.
pub(crate) fn check_freed(start: usize, size: usize) -> Vec<String> {
    if BUSY.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    let range = start..start + size;
    let mut found = Vec::new();
    let mut state = state();
    if let Some((object, _)) = state.waiters.range(range.clone()).next() {
        found.push(format!("a thread waits on {object:#x}, in the block {start:#x}"));
    }
    let timers: Vec<usize> = state.armed.range(range.clone()).map(|(&timer, _)| timer).collect();
    for timer in timers {
        found.push(format!("timer {timer:#x} is set, in the block {start:#x}"));
        disarm(&mut state, timer);
    }
    if let Some(&(_, dpc)) = state.dpcs.iter().find(|(_, dpc)| range.contains(dpc)) {
        found.push(format!("DPC {dpc:#x} is queued, in the block {start:#x}"));
        state.dpcs.retain(|(_, dpc)| !range.contains(dpc));
        update_busy(&state);
    }
    found
}

pub(crate) fn report(leaks: &mut Vec<Leak>) {
    let state = state();
    leaks.extend(state.armed.keys().map(|&timer| Leak {
        kind: "timer that is set",
        id: timer,
        tag: None,
        size: 0,
        made_by: "KeSetTimer".to_owned(),
        backtrace: None,
    }));
    leaks.extend(state.dpcs.iter().map(|&(_, dpc)| Leak {
        kind: "queued DPC",
        id: dpc,
        tag: None,
        size: 0,
        made_by: "KeInsertQueueDpc".to_owned(),
        backtrace: None,
    }));
}

/// Timers that are set: an unloaded driver may have none.
pub(crate) fn timers_set() -> usize {
    state().armed.len()
}

/// Wakes those who wait for rundown; the lock is taken so that none is missed.
pub(crate) fn rundown_released() {
    let _state = state();
    RUNDOWN.notify_all();
}

/// Blocks until `drained`, which is asked again after each [`rundown_released`].
pub(crate) fn wait_rundown(api: &'static str, address: usize, drained: impl Fn() -> bool) {
    let limit = crate::boot::hang_after();
    let began = std::time::Instant::now();
    let mut said = false;
    let mut state = state();
    while !drained() {
        state = wait_on_for(&RUNDOWN, state, Duration::from_millis(200));
        if !said && began.elapsed() > limit {
            said = true;
            drop(state);
            violation(&RUNDOWN_HANGS, api, format!("{address:#x} after {limit:?}"));
            state = self::state();
        }
    }
}
