//! The verifier itself: every rule is broken once and seen, and correct programs report nothing.

#![allow(
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    clippy::unnecessary_box_returns,
    reason = "tests call the kernel's functions as a driver written in C would, on objects that do not move"
)]

mod bugcheck;
mod device;
mod driver;
mod event;
mod fault;
mod file;
mod io;
mod irql;
mod lock;
mod pool;
mod processor;
mod registry;
mod rundown;
mod thread;
mod timer;

use std::cell::UnsafeCell;
use std::ptr;

use ntsim::sys::nt::{
    Executive, FALSE, KEVENT, KeInitializeEvent, KeWaitForSingleObject, KernelMode, LARGE_INTEGER, NTSTATUS,
    NotificationEvent, PVOID, SynchronizationEvent, UNICODE_STRING,
};
use ntsim::verify::Rule;
use ntsim::{Config, Sim, boot};

fn machine() -> Sim {
    boot(Config::default())
}

/// The violations so far are of these rules, in this order.
#[track_caller]
fn expect(sim: &Sim, rules: &[&'static Rule]) {
    let report = sim.report();
    let found: Vec<_> = report.violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(found, rules, "{report}");
    assert_eq!(report.violation_count, rules.len() as u64);
}

/// Nothing was violated, and nothing is held.
#[track_caller]
fn expect_clean(sim: &Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// What is held now, by kind.
fn held(sim: &Sim) -> Vec<&'static str> {
    sim.report().leaks.iter().map(|leak| leak.kind).collect()
}

const TAG: u32 = u32::from_le_bytes(*b"Test");

/// An event at an address that does not change, shared with the simulator and other threads.
struct Event(Box<UnsafeCell<KEVENT>>);
// SAFETY: only the simulator looks into it, under its own lock.
unsafe impl Sync for Event {}
// SAFETY: as above.
unsafe impl Send for Event {}

impl Event {
    fn get(&self) -> *mut KEVENT {
        self.0.get()
    }
}

fn event(synchronization: bool, signalled: bool) -> Event {
    let event = Event(unsafe { Box::new(std::mem::zeroed()) });
    let kind = if synchronization { SynchronizationEvent } else { NotificationEvent };
    unsafe { KeInitializeEvent(event.get(), kind, u8::from(signalled)) };
    event
}

fn relative_ms(milliseconds: i64) -> LARGE_INTEGER {
    LARGE_INTEGER { QuadPart: -10_000 * milliseconds }
}

/// Waits for one object; `None` waits for ever.
fn wait<T>(object: *const T, timeout: Option<i64>) -> NTSTATUS {
    let object: PVOID = object.cast_mut().cast();
    let mut timeout = timeout.map(|units| LARGE_INTEGER { QuadPart: units });
    let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    unsafe { KeWaitForSingleObject(object, Executive, KernelMode, FALSE, timeout) }
}

/// A counted string and what it points to.
struct Text {
    units: Vec<u16>,
    string: UNICODE_STRING,
}

impl Text {
    fn new(text: &str) -> Box<Self> {
        let mut text = Box::new(Self {
            units: text.encode_utf16().collect(),
            string: UNICODE_STRING { Length: 0, MaximumLength: 0, Buffer: ptr::null_mut() },
        });
        let bytes = u16::try_from(text.units.len() * 2).unwrap();
        text.string = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: text.units.as_mut_ptr() };
        text
    }

    fn as_ptr(&mut self) -> *mut UNICODE_STRING {
        &raw mut self.string
    }
}

#[test]
fn machines_take_turns() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static BOOTED: AtomicU32 = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let sim = machine();
                    assert_eq!(BOOTED.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    assert_eq!(BOOTED.fetch_sub(1, Ordering::SeqCst), 1);
                    drop(sim);
                }
            });
        }
    });
}

#[test]
fn a_new_machine_knows_nothing_of_the_one_before() {
    let sim = machine();
    sim.registry().set("\\Registry\\Machine\\Left", "Over", ntsim::registry::Value::Dword(1));
    unsafe { ntsim::sys::nt::ExAllocatePool2(ntsim::sys::nt::POOL_FLAG_NON_PAGED, 8, TAG) };
    unsafe { ntsim::sys::nt::KeLowerIrql(2) };
    assert!(!sim.report().is_clean());
    let before = ntsim::boot::generation();
    drop(sim);

    let sim = machine();
    assert_ne!(ntsim::boot::generation(), before);
    expect_clean(&sim);
    assert_eq!(sim.registry().get("\\Registry\\Machine\\Left", "Over"), None);
    assert_eq!(sim.pool_usage(), ntsim::pool::Usage::default());
}

#[test]
fn a_subsystem_is_told_once_that_its_machine_shuts_down() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static TOLD: AtomicU32 = AtomicU32::new(0);
    let sim = machine();
    ntsim::boot::at_shutdown(|| {
        TOLD.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(TOLD.load(Ordering::SeqCst), 0);
    drop(sim);
    assert_eq!(TOLD.load(Ordering::SeqCst), 1);
    drop(machine());
    assert_eq!(TOLD.load(Ordering::SeqCst), 1);
}

#[test]
fn in_strict_mode_a_violation_is_a_bug_check_that_names_the_rule_and_its_page() {
    let sim = boot(Config { strict: true, ..Config::default() });
    let caught = std::panic::catch_unwind(|| unsafe {
        ntsim::sys::nt::ExAllocatePool2(ntsim::sys::nt::POOL_FLAG_NON_PAGED, 0, TAG)
    });
    let text = *caught.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("bad pool request"), "{text}");
    assert!(text.contains("ExAllocatePool2"), "{text}");
    assert_eq!(sim.report().violation_count, 1);
}

#[test]
fn a_bug_check_stops_the_thread_with_its_code() {
    let _sim = machine();
    let caught = std::panic::catch_unwind(|| unsafe { ntsim::sys::nt::KeBugCheckEx(0xe2, 1, 2, 3, 4) });
    let text = *caught.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(text, "bug check 0xe2 (0x1, 0x2, 0x3, 0x4)");
}

#[test]
fn what_a_subsystem_tracks_is_a_leak_until_it_is_given_back() {
    let sim = machine();
    assert!(ntsim::verify::track("callout", 7, TAG));
    assert!(!ntsim::verify::track("callout", 7, TAG));
    assert!(ntsim::verify::is_tracked("callout", 7));
    assert_eq!(ntsim::verify::tracked("callout"), 1);
    let report = sim.report();
    assert_eq!(report.leaks.len(), 1);
    assert_eq!((report.leaks[0].kind, report.leaks[0].id), ("callout", 7));
    assert_eq!(report.leaks[0].tag.unwrap().to_string(), "Test");
    assert!(report.leaks[0].made_by.contains("main.rs"), "{report}");
    assert!(ntsim::verify::untrack("callout", 7));
    assert!(!ntsim::verify::untrack("callout", 7));
    expect_clean(&sim);
}

#[test]
fn backtraces_show_who_made_what_is_held() {
    let sim = boot(Config { backtraces: true, ..Config::default() });
    let block = unsafe { ntsim::sys::nt::ExAllocatePool2(ntsim::sys::nt::POOL_FLAG_NON_PAGED, 8, TAG) };
    let leak = sim.report().leaks.remove(0);
    assert!(leak.backtrace.unwrap().contains("backtraces_show_who_made_what_is_held"));
    unsafe { ntsim::sys::nt::ExFreePoolWithTag(block, TAG) };
    expect_clean(&sim);
}
