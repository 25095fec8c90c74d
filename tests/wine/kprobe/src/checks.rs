//! The promises of the kernel functions, each with its check.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use wine_support::{log, thread};

#[allow(clippy::wildcard_imports, reason = "what is checked")]
use crate::kernel::*;
use crate::sys::nt::{
    ALL_PROCESSOR_GROUPS, DISPATCH_LEVEL, EX_RUNDOWN_REF, GUID, KDPC, KSPIN_LOCK, LARGE_INTEGER, NTSTATUS,
    PASSIVE_LEVEL, POOL_FLAG_CACHE_ALIGNED, POOL_FLAG_NON_PAGED, POOL_FLAG_PAGED, PROCESSOR_NUMBER,
    STATUS_SUCCESS, UNICODE_STRING,
};
use crate::{io, platform};

pub type Check = Result<(), String>;

/// The tag of the probe's own memory.
pub const TAG: u32 = u32::from_le_bytes(*b"Kprb");

/// Fails the check unless both are the same.
pub fn same<T: PartialEq + core::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Check {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:x?}, not {wanted:x?}")) }
}

/// Fails the check unless `holds`.
pub fn that(what: &str, holds: bool) -> Check {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// What is promised, and how it is checked.
type Promise = (&'static str, fn() -> Check);

const PROMISES: [Promise; 18] = [
    ("pool memory is zeroed and aligned, and flags that are none are refused", pool),
    ("each thread has an IRQL, and threads start at PASSIVE_LEVEL", levels),
    ("a spin lock raises, excludes others, and lowers again", locks),
    ("at DISPATCH_LEVEL a thread has its processor to itself", processors_apart),
    ("a deferred call is queued once, runs at DISPATCH_LEVEL, and a flush waits for it", deferred),
    ("run-down protection waits for its users and lets none in afterwards", rundown),
    ("a work item runs at PASSIVE_LEVEL", work),
    ("clocks count hundreds of nanoseconds", clocks),
    ("the kernel's shared data is read by whatever instruction", shared),
    ("a routine that nobody has has no address", routines),
    ("an MDL of pool memory has its address", memory_list),
    ("a completion routine is called with its device and its context", io::completion),
    ("randomness is drawn from cng.sys", io::random),
    ("a file in the driver's own folder is written, flushed, cut, read and deleted", io::files),
    ("a key tells its owner and who may do what", io::key_security),
    ("processors that are there are told to whoever asks", processors_told),
    ("a provider is enabled when it registers", tracing),
    ("objects of the filtering platform are added, read, kept while in use, and deleted", platform::objects),
];

/// Runs all checks; true if all passed.
pub fn run() -> bool {
    let mut failed = 0;
    for (promise, check) in PROMISES {
        match check() {
            Ok(()) => log!("PASS {promise}"),
            Err(why) => {
                failed += 1;
                log!("FAIL {promise}: {why}");
            }
        }
    }
    log!("DONE {} passed, {failed} failed", PROMISES.len() - failed);
    failed == 0
}

fn pool() -> Check {
    for (flags, size, alignment) in [
        (POOL_FLAG_NON_PAGED, 100, 16),
        (POOL_FLAG_NON_PAGED | POOL_FLAG_CACHE_ALIGNED, 100, 64),
        (POOL_FLAG_PAGED, 5000, 4096),
    ] {
        let block = ExAllocatePool2(flags, size, TAG);
        that("a block", !block.is_null())?;
        same("its place", &(block.addr() % alignment), &0)?;
        // SAFETY: the block has that size.
        let bytes = unsafe { core::slice::from_raw_parts(block.cast::<u8>(), size) };
        let zero = bytes.iter().all(|byte| *byte == 0);
        // SAFETY: it is ours.
        unsafe { ExFreePoolWithTag(block, TAG) };
        that("zeros", zero)?;
    }
    // No type, two types, and a flag that is not known.
    for flags in [0, POOL_FLAG_NON_PAGED | POOL_FLAG_PAGED, POOL_FLAG_NON_PAGED | 0x400] {
        same("flags that are none", &ExAllocatePool2(flags, 100, TAG), &null_mut())?;
    }
    Ok(())
}

/// Runs `body` on so many threads and waits for them.
fn on_threads(count: usize, body: fn()) {
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(body)).collect();
    threads.into_iter().for_each(thread::JoinHandle::join);
}

fn levels() -> Check {
    static ELSEWHERE: AtomicUsize = AtomicUsize::new(99);
    same("at first", &KeGetCurrentIrql(), &PASSIVE_LEVEL)?;
    same("before", &KfRaiseIrql(DISPATCH_LEVEL), &PASSIVE_LEVEL)?;
    let raised = KeGetCurrentIrql();
    KeLowerIrql(PASSIVE_LEVEL);
    same("raised", &raised, &DISPATCH_LEVEL)?;
    same("lowered", &KeGetCurrentIrql(), &PASSIVE_LEVEL)?;
    on_threads(1, || ELSEWHERE.store(KeGetCurrentIrql().into(), Ordering::SeqCst));
    same("on a new thread", &ELSEWHERE.load(Ordering::SeqCst), &PASSIVE_LEVEL.into())
}

const THREADS: usize = 6;
const ROUNDS: usize = 5_000;

fn locks() -> Check {
    static LOCK: AtomicUsize = AtomicUsize::new(0);
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static WRONG: AtomicBool = AtomicBool::new(false);
    fn count() {
        let lock: *mut KSPIN_LOCK = LOCK.as_ptr();
        for _ in 0..ROUNDS {
            // SAFETY: the lock is a static.
            let old = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
            let level = KeGetCurrentIrql();
            // Two steps, which only the lock makes one.
            let before = COUNT.load(Ordering::Relaxed);
            COUNT.store(before + 1, Ordering::Relaxed);
            // SAFETY: this thread holds it.
            unsafe { KeReleaseSpinLock(lock, old) };
            if old != PASSIVE_LEVEL || level != DISPATCH_LEVEL || KeGetCurrentIrql() != PASSIVE_LEVEL {
                WRONG.store(true, Ordering::Relaxed);
            }
        }
    }
    on_threads(THREADS, count);
    that("an IRQL", !WRONG.load(Ordering::Relaxed))?;
    same("the count", &COUNT.load(Ordering::Relaxed), &(THREADS * ROUNDS))
}

/// The number of the processor that the thread is on.
fn processor() -> usize {
    // SAFETY: the number within a group is not asked for.
    unsafe { KeGetCurrentProcessorNumberEx(null_mut()) as usize }
}

fn processors_apart() -> Check {
    static BUSY: [AtomicBool; 64] = [const { AtomicBool::new(false) }; 64];
    static CLASHES: AtomicUsize = AtomicUsize::new(0);
    static MOVED: AtomicUsize = AtomicUsize::new(0);
    fn take() {
        for _ in 0..ROUNDS {
            let old = KfRaiseIrql(DISPATCH_LEVEL);
            let number = processor();
            if BUSY.get(number).is_none_or(|busy| busy.swap(true, Ordering::SeqCst)) {
                CLASHES.fetch_add(1, Ordering::SeqCst);
            }
            (0..20).for_each(|_| core::hint::spin_loop());
            if processor() != number {
                MOVED.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(busy) = BUSY.get(number) {
                busy.store(false, Ordering::SeqCst);
            }
            KeLowerIrql(old);
        }
    }
    on_threads(THREADS, take);
    same("two threads on one processor", &CLASHES.load(Ordering::SeqCst), &0)?;
    same("threads that moved", &MOVED.load(Ordering::SeqCst), &0)
}

static DEFERRED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn deferred_routine(
    _dpc: *mut KDPC,
    context: *mut c_void,
    first: *mut c_void,
    second: *mut c_void,
) {
    let wanted = (context.addr(), first.addr(), second.addr()) == (7, 8, 9);
    if wanted && KeGetCurrentIrql() == DISPATCH_LEVEL {
        // A while, so that a flush has something to wait for.
        (0..100_000).for_each(|_| core::hint::spin_loop());
        DEFERRED.fetch_add(1, Ordering::SeqCst);
    }
}

fn deferred() -> Check {
    // SAFETY: a KDPC is made of integers and pointers.
    let mut dpc: KDPC = unsafe { core::mem::zeroed() };
    let place = &raw mut dpc;
    let number = core::ptr::without_provenance_mut::<c_void>;
    // SAFETY: the DPC lives until it is flushed.
    unsafe { KeInitializeDpc(place, Some(deferred_routine), number(7)) };
    for round in 1..=3 {
        // SAFETY: initialised above.
        same("queued", &unsafe { KeInsertQueueDpc(place, number(8), number(9)) }, &1)?;
        KeFlushQueuedDpcs();
        same("calls", &DEFERRED.load(Ordering::SeqCst), &round)?;
    }
    // SAFETY: initialised above.
    same("removed what is not queued", &unsafe { KeRemoveQueueDpc(place) }, &0)
}

fn rundown() -> Check {
    static REFERENCE: AtomicUsize = AtomicUsize::new(0);
    static GONE: AtomicBool = AtomicBool::new(false);
    let reference = REFERENCE.as_ptr().cast::<EX_RUNDOWN_REF>();
    // SAFETY: a static word.
    unsafe { ExInitializeRundownProtection(reference) };
    // SAFETY: initialised.
    same("a user", &unsafe { ExAcquireRundownProtection(reference) }, &1)?;
    let user = thread::spawn(|| {
        thread::sleep(Duration::from_millis(50));
        GONE.store(true, Ordering::SeqCst);
        // SAFETY: acquired above.
        unsafe { ExReleaseRundownProtection(REFERENCE.as_ptr().cast()) };
    });
    // SAFETY: initialised.
    unsafe { ExWaitForRundownProtectionRelease(reference) };
    let gone = GONE.load(Ordering::SeqCst);
    user.join();
    that("the wait ended before its user", gone)?;
    // SAFETY: initialised.
    same("a user afterwards", &unsafe { ExAcquireRundownProtection(reference) }, &0)
}

static WORKED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn work_routine(parameter: *mut c_void) {
    WORKED.store(parameter.addr() + usize::from(KeGetCurrentIrql()), Ordering::SeqCst);
}

fn work() -> Check {
    let mut item = WorkItem {
        // SAFETY: a list entry is two pointers.
        list: unsafe { core::mem::zeroed() },
        routine: work_routine,
        parameter: core::ptr::without_provenance_mut(0x1230),
    };
    // SAFETY: the item lives until the routine has run.
    unsafe { ExQueueWorkItem(&raw mut item, 1) };
    for _ in 0..500 {
        if WORKED.load(Ordering::SeqCst) != 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    same("parameter and IRQL", &WORKED.load(Ordering::SeqCst), &0x1230)
}

fn system_time() -> i64 {
    let mut time = LARGE_INTEGER { QuadPart: 0 };
    // SAFETY: the place can be written.
    unsafe { KeQuerySystemTimePrecise(&raw mut time) };
    // SAFETY: both views are plain integers.
    unsafe { time.QuadPart }
}

fn clocks() -> Check {
    // 50 ms, and what a busy machine may make of it.
    const LEAST: u64 = 490_000;
    const MOST: u64 = 50_000_000;
    let (interrupt, system) = (KeQueryInterruptTime(), system_time());
    let interval = LARGE_INTEGER { QuadPart: -500_000 };
    // SAFETY: the interval lives.
    same("a delay", &unsafe { KeDelayExecutionThread(0, 0, &raw const interval) }, &STATUS_SUCCESS)?;
    let interrupt = KeQueryInterruptTime() - interrupt;
    that(&format!("interrupt time: {interrupt}"), (LEAST..MOST).contains(&interrupt))?;
    let passed = system_time() - system;
    that(&format!("system time: {passed}"), (LEAST..MOST).contains(&passed.cast_unsigned()))?;
    // The year 2020, counted from 1601.
    that("system time is that of today", system > 132_223_104_000_000_000)
}

fn shared() -> Check {
    let (moved, added, compared): (u64, u64, u64);
    // SAFETY: reads the kernel's page of shared data, which is there for every driver.
    unsafe {
        core::arch::asm!(
            "mov {page}, 0xFFFFF78000000008",
            "mov {page}, [{page}]",
            page = out(reg) moved,
        );
    };
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "mov {page}, 0xFFFFF78000000000",
            "xor {sum:e}, {sum:e}",
            "add {sum}, [{page} + 8]",
            page = out(reg) _,
            sum = out(reg) added,
        );
    };
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "mov {page}, 0xFFFFF78000000008",
            "xor {more:e}, {more:e}",
            "cmp qword ptr [{page}], 0",
            "seta {more:l}",
            page = out(reg) _,
            more = out(reg) compared,
        );
    };
    that("a move that loads the register itself", moved != 0)?;
    that(&format!("an addition: {added}, after {moved}"), added >= moved && added - moved < 50_000_000)?;
    same("a comparison", &compared, &1)
}

fn address_of(name: &str) -> bool {
    let units: Vec<u16> = name.encode_utf16().collect();
    let length = u16::try_from(units.len() * 2).unwrap_or(0);
    let string = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: units.as_ptr().cast_mut() };
    // SAFETY: the string lives.
    !unsafe { MmGetSystemRoutineAddress(&raw const string) }.is_null()
}

fn routines() -> Check {
    that("one that the stand-in has", address_of("ExAllocatePool2"))?;
    that("one that Wine has", address_of("KeClearEvent"))?;
    // Wine exports a function of this name that aborts.
    that("one that Wine only names", !address_of("SeTokenIsAdmin"))?;
    that("one that nobody has", !address_of("NoSuchRoutine"))
}

fn memory_list() -> Check {
    const OFFSET: usize = 100;
    let block = ExAllocatePool2(POOL_FLAG_NON_PAGED, 6000, TAG);
    let start = block.wrapping_byte_add(OFFSET);
    // SAFETY: the memory is there; no IRP.
    let list = unsafe { IoAllocateMdl(start, 300, 0, 0, null_mut()) };
    // SAFETY: the list is ours.
    unsafe { MmBuildMdlForNonPagedPool(list) };
    // SAFETY: the list is ours.
    let mapped = unsafe { (*list).MappedSystemVa };
    // SAFETY: the list is ours.
    unsafe { IoFreeMdl(list) };
    // SAFETY: the block is ours.
    unsafe { ExFreePoolWithTag(block, TAG) };
    same("its address", &mapped, &start)
}

static TOLD: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn processor_told(
    _context: *mut c_void,
    change: *mut ProcessorChange,
    _status: *mut NTSTATUS,
) {
    const ADD_COMPLETE: i32 = 1;
    // SAFETY: the kernel's own.
    if unsafe { (*change).state } == ADD_COMPLETE {
        TOLD.fetch_add(1, Ordering::SeqCst);
    }
}

fn processors_told() -> Check {
    const ADD_EXISTING: u32 = 1;
    const NUMA_NODE: i32 = 1;
    let active = KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS);
    that("there are some", active != 0)?;
    that("no more than there may be", active <= KeQueryMaximumProcessorCountEx(ALL_PROCESSOR_GROUPS))?;
    that("the own one", processor() < active as usize)?;
    // SAFETY: the callback is deregistered below.
    let handle = unsafe { KeRegisterProcessorChangeCallback(processor_told, null_mut(), ADD_EXISTING) };
    that("a registration", !handle.is_null())?;
    // SAFETY: registered above.
    unsafe { KeDeregisterProcessorChangeCallback(handle) };
    same("told", &TOLD.load(Ordering::SeqCst), &active)?;
    let mut number = PROCESSOR_NUMBER { Group: 0, Number: 0, Reserved: 0 };
    let mut related = [u32::MAX; 32];
    let mut length = 128;
    // SAFETY: in and out structures live for the call.
    let status = unsafe {
        KeQueryLogicalProcessorRelationship(&raw mut number, NUMA_NODE, related.as_mut_ptr(), &raw mut length)
    };
    same("the node of the first", &(status, related[0], related[2]), &(0, NUMA_NODE.cast_unsigned(), 0))
}

static ENABLED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn enabled(
    _source: *const GUID,
    control: u32,
    level: u8,
    any: u64,
    _all: u64,
    _filter: *mut c_void,
    context: *mut c_void,
) {
    const ENABLE: u32 = 1;
    if control == ENABLE && level == 5 && any == u64::MAX {
        ENABLED.store(context.addr(), Ordering::SeqCst);
    }
}

fn tracing() -> Check {
    let id = GUID { Data1: 7, Data2: 7, Data3: 7, Data4: [7; 8] };
    let mut handle = 0;
    let context = core::ptr::without_provenance_mut(0x77);
    // SAFETY: unregistered below.
    let status = unsafe { EtwRegister(&raw const id, Some(enabled), context, &raw mut handle) };
    same("EtwRegister", &status, &STATUS_SUCCESS)?;
    same("EtwUnregister", &EtwUnregister(handle), &STATUS_SUCCESS)?;
    same("the callback's context", &ENABLED.load(Ordering::SeqCst), &0x77)
}
