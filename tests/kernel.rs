//! What the safe primitives over the kernel promise, held against the simulated kernel's verifier.
#![cfg(feature = "sim")]

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ntsim::fault::Plan;
use weir::kernel::Status;
use weir::kernel::event::{Event, Kind, Waited};
use weir::kernel::irql::{self, Passive};
use weir::kernel::lock::SpinLock;
use weir::kernel::mdl::MdlBuffer;
use weir::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use weir::kernel::rundown::Rundown;
use weir::kernel::thread::Thread;
use weir::kernel::time::{self, Interval};

const PROCESSORS: u32 = 4;

fn boot() -> ntsim::Sim {
    ntsim::boot(ntsim::Config { processors: PROCESSORS, ..Default::default() })
}

/// Test threads run at PASSIVE_LEVEL.
fn passive() -> Passive {
    // SAFETY: nothing has raised this thread's level; the token stays in the test.
    unsafe { Passive::assume() }
}

#[track_caller]
fn assert_clean(sim: &ntsim::Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

fn violated(sim: &ntsim::Sim, rule: &str) -> bool {
    sim.report().violations.iter().any(|violation| violation.rule.name.contains(rule))
}

/// Counts how often it is dropped.
#[derive(Clone)]
struct Dropped(Arc<AtomicU32>);

impl Dropped {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

mod statuses {
    use super::*;

    #[test]
    fn a_status_that_only_looks_like_success_is_not_taken_for_it() {
        assert_eq!(Status::SUCCESS.exact(), Ok(()));
        for informational in [Status::PENDING, Status::OBJECT_NAME_EXISTS] {
            assert!(informational.nt_success());
            assert_eq!(informational.exact(), Err(informational));
        }
        assert!(!Status::BUFFER_OVERFLOW.nt_success(), "a warning is no success");
        assert_eq!(format!("{}", Status::INSUFFICIENT_RESOURCES), "0xC000009A");
    }
}

mod levels {
    use super::*;

    #[test]
    fn raising_lowers_to_where_it_came_from_in_reverse_order() {
        let sim = boot();
        let mut passive = passive();
        {
            let mut outer = passive.raise();
            assert_eq!(ntsim::irql::current(), 2);
            assert!(outer.token().processor() < irql::maximum_processors());
            let inner = outer.raise();
            assert_eq!(ntsim::irql::current(), 2);
            drop(inner);
            assert_eq!(ntsim::irql::current(), 2, "still raised by the outer one");
        }
        assert_eq!(ntsim::irql::current(), 0);
        assert_clean(&sim);
    }

    #[test]
    fn a_raised_thread_owns_its_processor_alone() {
        let sim = boot();
        let owners: Vec<AtomicBool> = (0..PROCESSORS).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..PROCESSORS * 2 {
                scope.spawn(|| {
                    let mut passive = passive();
                    for _ in 0..1000 {
                        let raised = passive.raise();
                        let processor = raised.processor() as usize;
                        assert!(!owners[processor].swap(true, Ordering::SeqCst));
                        assert_eq!(raised.processor() as usize, processor);
                        owners[processor].store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_clean(&sim);
    }
}

mod locks {
    use super::*;

    #[test]
    fn a_lock_lets_one_in_at_a_time() {
        let sim = boot();
        let counter = SpinLock::new("counter", 0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut passive = passive();
                    for _ in 0..5000 {
                        let mut guard = counter.lock(&mut passive);
                        let seen = *guard;
                        *guard = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*counter.lock(&mut passive()), 20_000);
        assert_eq!(ntsim::irql::current(), 0);
        assert_clean(&sim);
    }

    #[test]
    fn a_held_lock_lends_its_level_for_another() {
        let sim = boot();
        let (first, second) = (SpinLock::new("first", 1), SpinLock::new("second", 2));
        let mut passive = passive();
        let mut guard = first.lock(&mut passive);
        let (data, token) = guard.with_token();
        *data += *second.lock_at(&token);
        assert_eq!(*guard, 3);
        drop(guard);
        assert_eq!(ntsim::irql::current(), 0);
        assert_clean(&sim);
    }

    #[test]
    fn the_verifier_sees_locks_taken_in_both_orders() {
        let sim = boot();
        let (first, second) = (SpinLock::new("first", ()), SpinLock::new("second", ()));
        let mut passive = passive();
        for (outer, inner) in [(&first, &second), (&second, &first)] {
            let mut guard = outer.lock(&mut passive);
            let ((), token) = guard.with_token();
            drop(inner.lock_at(&token));
        }
        assert!(violated(&sim, "both orders"), "{}", sim.report());
    }

    #[test]
    fn the_verifier_sees_a_wait_under_a_lock() {
        let sim = boot();
        let lock = SpinLock::new("lock", ());
        let mut first = passive();
        let guard = lock.lock(&mut first);
        // A second token is what no driver code can have.
        time::delay(&passive(), Interval::from_millis(1));
        drop(guard);
        assert!(violated(&sim, "spin lock held"), "{}", sim.report());
    }
}

mod pool {
    use super::*;

    #[test]
    fn objects_are_dropped_once_and_their_memory_given_back() {
        let sim = boot();
        let dropped = Dropped::new();
        drop(PoolBox::try_new(tags::DRIVER, dropped.clone()).unwrap());
        assert_eq!(dropped.count(), 1);
        let moved = PoolBox::try_new(tags::DRIVER, dropped.clone()).unwrap().into_inner();
        assert_eq!(dropped.count(), 1);
        drop(moved);
        let slice = PoolSlice::try_from_fn(tags::DRIVER, 5, |_| dropped.clone()).unwrap();
        assert_eq!(slice.len(), 5);
        drop(slice);
        assert_eq!(dropped.count(), 7);
        assert_clean(&sim);
    }

    #[test]
    fn memory_is_aligned_to_what_the_type_asks_for() {
        #[repr(align(64))]
        struct Line([u8; 64]);
        #[repr(align(512))]
        struct Page([u8; 512]);
        let sim = boot();
        let lines =
            PoolSlice::try_from_fn(tags::RING, 3, |index| Line([u8::try_from(index).unwrap(); 64])).unwrap();
        let pages: Vec<_> =
            (0..50).map(|index| PoolBox::try_new(tags::RING, Page([index; 512])).unwrap()).collect();
        assert!(lines.as_ptr().addr().is_multiple_of(64));
        assert!(
            lines
                .iter()
                .enumerate()
                .all(|(index, line)| line.0.iter().all(|&byte| usize::from(byte) == index))
        );
        for (index, page) in pages.iter().enumerate() {
            assert!(page.as_ptr().addr().is_multiple_of(512));
            assert!(page.0.iter().all(|&byte| usize::from(byte) == index));
        }
        drop((lines, pages));
        assert_clean(&sim);
    }

    #[test]
    fn want_of_memory_is_an_error_that_loses_nothing() {
        let sim = boot();
        let dropped = Dropped::new();
        let fails = || sim.fault(Plan::Nth(1));
        fails();
        let boxed = PoolBox::try_new(tags::DRIVER, dropped.clone());
        assert_eq!(boxed.map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        assert_eq!(dropped.count(), 1);
        fails();
        let slice = PoolSlice::try_from_fn(tags::DRIVER, 9, |_| dropped.clone());
        assert_eq!(slice.map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        assert_eq!(dropped.count(), 1, "no element is made without room for it");
        fails();
        let shared = PoolArc::try_new(tags::DRIVER, dropped.clone());
        assert_eq!(shared.map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        fails();
        assert_eq!(PoolSlice::try_zeroed(tags::DRIVER, 10).map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        let too_long = PoolSlice::try_from_fn(tags::DRIVER, usize::MAX / 2, |_| 0_u64);
        assert_eq!(too_long.map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        assert_clean(&sim);
    }

    #[test]
    fn a_slice_that_fails_half_way_drops_what_it_has() {
        let sim = boot();
        let dropped = Dropped::new();
        let slice = PoolSlice::try_from_fallible(tags::DRIVER, 9, |index| {
            if index < 4 { Ok(dropped.clone()) } else { Err(Status::DEVICE_NOT_READY) }
        });
        assert_eq!(slice.map(drop), Err(Status::DEVICE_NOT_READY));
        assert_eq!(dropped.count(), 4);
        assert_clean(&sim);
    }

    #[test]
    fn a_large_object_is_built_where_it_stays() {
        struct Large {
            bytes: [u8; 100_000],
            last: Dropped,
        }
        let sim = boot();
        let dropped = Dropped::new();
        let build = |outcome: weir::kernel::Result| {
            let init = |place: &mut MaybeUninit<Large>| {
                outcome?;
                // SAFETY: a projection into the place.
                let last = unsafe { &raw mut (*place.as_mut_ptr()).last };
                // SAFETY: as above, and not initialised yet.
                unsafe { last.write(dropped.clone()) };
                Ok(())
            };
            // SAFETY: the bytes are zeroed beforehand, and the rest is written before success is returned.
            unsafe { PoolBox::<Large>::try_new_in_place(tags::DRIVER, init) }
        };
        let large = build(Ok(())).unwrap();
        assert!(large.bytes.iter().all(|&byte| byte == 0));
        assert_eq!(large.last.count(), 0);
        drop(large);
        assert_eq!(dropped.count(), 1);
        assert_eq!(build(Err(Status::DEVICE_NOT_READY)).map(drop), Err(Status::DEVICE_NOT_READY));
        sim.fault(Plan::Nth(1));
        assert_eq!(build(Ok(())).map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        assert_eq!(dropped.count(), 1);
        assert_clean(&sim);
    }

    #[test]
    fn an_empty_slice_has_no_block() {
        let sim = boot();
        sim.fault(Plan::Nth(1));
        assert!(PoolSlice::try_zeroed(tags::DRIVER, 0).unwrap().is_empty());
        assert!(PoolSlice::try_from_fn(tags::DRIVER, 0, |_| 0_u32).unwrap().is_empty());
        assert_clean(&sim);
    }

    #[test]
    fn the_last_of_several_owners_drops_the_object() {
        let sim = boot();
        let dropped = Dropped::new();
        let first = PoolArc::try_new(tags::CONNECTION, dropped.clone()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let owner = first.clone();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        drop(owner.clone());
                    }
                });
            }
        });
        assert_eq!(dropped.count(), 0);
        let raw = first.clone().into_raw();
        // SAFETY: given up on the line before, and `first` is an owner.
        assert_eq!(unsafe { PoolArc::<Dropped>::borrow_raw(raw) }.count(), 0);
        // SAFETY: given up above, once.
        let second = unsafe { PoolArc::<Dropped>::from_raw(raw) };
        assert!(PoolArc::ptr_eq(&first, &second));
        drop(first);
        assert_eq!(dropped.count(), 0);
        drop(second);
        assert_eq!(dropped.count(), 1);
        assert_clean(&sim);
    }

    #[test]
    fn what_is_left_behind_is_reported_under_its_tag() {
        let sim = boot();
        let left = PoolBox::try_new(tags::CONNECTION, 7_u64).unwrap().into_raw();
        let report = sim.report();
        assert_eq!(report.leaks.len(), 1, "{report}");
        assert_eq!(report.leaks[0].tag.map(|tag| tag.0), Some(tags::CONNECTION.as_u32()));
        // SAFETY: given up above, once, with this tag.
        drop(unsafe { PoolBox::from_raw(tags::CONNECTION, left) });
        assert_clean(&sim);
    }

    #[test]
    fn tags_are_unique_and_can_be_read() {
        let mut seen = std::collections::HashSet::new();
        for (tag, purpose) in tags::ALL {
            assert!(seen.insert(tag.as_u32()), "{purpose} shares its tag");
            assert!(tag.characters().iter().all(u8::is_ascii_alphanumeric), "{purpose}");
            assert!(!purpose.trim().is_empty());
        }
    }
}

mod events {
    use super::*;

    const SOON: Option<Interval> = Some(Interval::from_millis(20));
    const LATE: Option<Interval> = Some(Interval::from_millis(20_000));

    #[test]
    fn a_wait_ends_when_its_bound_has_passed() {
        let sim = boot();
        let event = Event::try_new(Kind::Notification).unwrap();
        let before = time::since_boot();
        assert_eq!(event.wait(&passive(), SOON), Waited::TimedOut);
        assert!(time::since_boot().as_100ns() - before.as_100ns() >= 200_000);
        assert_eq!(event.wait(&passive(), Some(Interval::ZERO)), Waited::TimedOut);
        drop(event);
        assert_clean(&sim);
    }

    #[test]
    fn a_notification_event_stays_set_and_a_synchronization_event_lets_one_through() {
        let sim = boot();
        let passive = passive();
        let stays = Event::try_new(Kind::Notification).unwrap();
        let once = Event::try_new(Kind::Synchronization).unwrap();
        for event in [&stays, &once] {
            assert!(!event.is_set());
            event.set();
            assert!(event.is_set());
            assert_eq!(event.wait(&passive, None), Waited::Signalled);
        }
        assert_eq!(stays.wait(&passive, SOON), Waited::Signalled);
        assert_eq!(once.wait(&passive, SOON), Waited::TimedOut);
        stays.clear();
        assert_eq!(stays.wait(&passive, SOON), Waited::TimedOut);
        drop((stays, once));
        assert_clean(&sim);
    }

    #[test]
    fn an_event_may_be_moved_while_it_is_in_use() {
        let sim = boot();
        let event = Box::new(Event::try_new(Kind::Notification).unwrap());
        event.set();
        let event = *event;
        assert_eq!(event.wait(&passive(), LATE), Waited::Signalled);
        drop(event);
        assert_clean(&sim);
    }

    #[test]
    fn waiting_for_several_tells_which_came() {
        let sim = boot();
        let passive = passive();
        let events = [(); 3].map(|()| Event::try_new(Kind::Synchronization).unwrap());
        let all = events.each_ref();
        assert_eq!(Event::wait_any(&all, &passive, SOON), Ok(None));
        events[2].set();
        assert_eq!(Event::wait_any(&all, &passive, LATE), Ok(Some(2)));
        assert_eq!(Event::wait_any(&all, &passive, SOON), Ok(None), "taken by the wait before");
        events[2].set();
        events[1].set();
        assert_eq!(Event::wait_any(&all, &passive, None), Ok(Some(1)), "the first in order");
        assert_eq!(Event::wait_any(&[], &passive, SOON), Err(Status::INVALID_PARAMETER));
        assert_eq!(Event::wait_any(&[all[0]; 4], &passive, SOON), Err(Status::INVALID_PARAMETER));
        drop(events);
        assert_clean(&sim);
    }

    #[test]
    fn setting_from_dispatch_level_wakes_a_waiter() {
        let sim = boot();
        let event = Event::try_new(Kind::Notification).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| event.wait(&passive(), LATE));
            std::thread::sleep(Duration::from_millis(10));
            let mut passive = passive();
            let raised = passive.raise();
            event.set();
            drop(raised);
            assert_eq!(waiter.join().unwrap(), Waited::Signalled);
        });
        drop(event);
        assert_clean(&sim);
    }
}

mod threads {
    use super::*;

    struct Work {
        go: PoolArc<Event>,
        done: Arc<AtomicBool>,
        dropped: Dropped,
    }

    fn work(passive: &mut Passive, work: PoolBox<Work>) {
        assert_eq!(work.go.wait(passive, None), Waited::Signalled);
        // The end of the thread is what join waits for, however late it comes.
        time::delay(passive, Interval::from_millis(30));
        work.done.store(true, Ordering::SeqCst);
        assert_eq!(work.dropped.count(), 0);
        drop(work);
    }

    #[test]
    fn join_returns_when_the_thread_has_ended() {
        let sim = boot();
        let (done, dropped) = (Arc::new(AtomicBool::new(false)), Dropped::new());
        let go = PoolArc::try_new(tags::DRIVER, Event::try_new(Kind::Notification).unwrap()).unwrap();
        let context = Work { go: go.clone(), done: Arc::clone(&done), dropped: dropped.clone() };
        let context = PoolBox::try_new(tags::DRIVER, context).unwrap();
        let thread = Thread::start(&passive(), context, work).unwrap();
        assert_eq!(thread.wait(&passive(), Some(Interval::from_millis(20))), Waited::TimedOut);
        go.set();
        thread.join(&passive());
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(dropped.count(), 1);
        drop(go);
        assert_clean(&sim);
    }

    #[test]
    fn a_thread_that_cannot_be_started_leaves_nothing() {
        let sim = boot();
        let dropped = Dropped::new();
        // The packet, then the thread itself.
        for call in 1..=2 {
            let context = PoolBox::try_new(tags::DRIVER, dropped.clone()).unwrap();
            sim.fault(Plan::Nth(call));
            let thread = Thread::start(&passive(), context, |_, _| panic!("not to be called"));
            assert!(thread.is_err(), "call {call}");
            assert_eq!(u64::from(dropped.count()), call);
        }
        assert_clean(&sim);
    }

    #[test]
    fn a_thread_that_is_not_joined_is_reported() {
        let sim = boot();
        let context = PoolBox::try_new(tags::DRIVER, 0_u32).unwrap();
        let thread = Thread::start(&passive(), context, |_, _| ()).unwrap();
        let ended = thread.wait(&passive(), Some(Interval::from_millis(20_000)));
        assert_eq!(ended, Waited::Signalled);
        drop(thread);
        let report = sim.report();
        assert!(!report.leaks.is_empty(), "{report}");
    }
}

mod rundown {
    use super::*;

    #[test]
    fn running_down_waits_for_those_inside_and_lets_nobody_in_after() {
        let sim = boot();
        let gate = Rundown::try_new().unwrap();
        let inside = AtomicBool::new(true);
        let protection = gate.acquire().unwrap();
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| {
                gate.run_down(&passive());
                assert!(!inside.load(Ordering::SeqCst), "run down with somebody inside");
            });
            // The gate closes before the last one has left.
            while gate.acquire().is_some() {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            inside.store(false, Ordering::SeqCst);
            drop(protection);
            runner.join().unwrap();
        });
        assert!(gate.acquire().is_none());
        gate.run_down(&passive());
        drop(gate);
        assert_clean(&sim);
    }

    #[test]
    fn a_protection_can_outlive_the_borrow_and_end_elsewhere() {
        let sim = boot();
        let gate = Rundown::try_new().unwrap();
        gate.acquire().unwrap().keep();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: for the `keep` above, once.
                unsafe { gate.leave() };
            });
            gate.run_down(&passive());
        });
        drop(gate);
        assert_clean(&sim);
    }

    #[test]
    fn a_gate_can_be_opened_again() {
        let sim = boot();
        let mut gate = Rundown::try_new().unwrap();
        gate.run_down(&passive());
        assert!(gate.acquire().is_none());
        gate.reopen(&passive());
        assert!(gate.acquire().is_some());
        gate.run_down(&passive());
        drop(gate);
        assert_clean(&sim);
    }
}

mod buffers {
    use super::*;

    #[test]
    fn an_mdl_describes_its_whole_buffer() {
        let sim = boot();
        let buffer = MdlBuffer::try_new(10_000).unwrap();
        // SAFETY: the MDL of a live buffer.
        let mdl = unsafe { &*buffer.as_mdl() };
        assert_eq!(mdl.ByteCount, 10_000);
        assert_eq!(mdl.StartVa.addr() + mdl.ByteOffset as usize, buffer.as_ptr().addr());
        assert_eq!(mdl.MappedSystemVa.addr(), buffer.as_ptr().addr(), "non-paged pool is mapped");
        drop(buffer);
        assert_clean(&sim);
    }

    #[test]
    fn an_mdl_that_cannot_be_had_leaves_nothing() {
        let sim = boot();
        for call in 1..=2 {
            sim.fault(Plan::Nth(call));
            assert_eq!(MdlBuffer::try_new(100).map(drop), Err(Status::INSUFFICIENT_RESOURCES));
        }
        assert_eq!(MdlBuffer::try_new(0).map(drop), Err(Status::INVALID_PARAMETER));
        assert_eq!(MdlBuffer::try_new(1 << 32).map(drop), Err(Status::INVALID_PARAMETER));
        assert_clean(&sim);
    }
}

mod devices {
    use super::*;
    use ntsim::sys::nt::{NTSTATUS, PDRIVER_OBJECT, PUNICODE_STRING, STATUS_SUCCESS};
    use weir::kernel::device::Device;

    static LEAVE_BEHIND: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}

    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        // SAFETY: DriverEntry runs at PASSIVE_LEVEL.
        let passive = unsafe { Passive::assume() };
        // SAFETY: the driver object of this DriverEntry.
        let device = match unsafe { Device::try_new(&passive, driver) } {
            Ok(device) => device,
            Err(status) => return status.0,
        };
        // SAFETY: a live device.
        let flags = unsafe { (*device.as_raw()).Flags };
        assert_eq!(flags & ntsim::sys::nt::DO_DEVICE_HAS_NAME, 0);
        if !LEAVE_BEHIND.load(Ordering::SeqCst) {
            device.delete(&passive);
        }
        // SAFETY: as above.
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }

    /// One test, because the driver's entry has no context.
    #[test]
    fn a_device_has_no_name_and_is_gone_once_deleted() {
        let sim = boot();
        sim.load_driver("sample", entry).unwrap().unload();
        assert_clean(&sim);

        sim.fault(Plan::Api { name: "IoCreateDevice", nth: 1 });
        let refused = sim.load_driver("sample", entry).map(drop);
        assert_eq!(refused.map_err(Status), Err(Status::INSUFFICIENT_RESOURCES));
        assert_clean(&sim);

        sim.fault(Plan::None);
        LEAVE_BEHIND.store(true, Ordering::SeqCst);
        sim.load_driver("sample", entry).unwrap().unload();
        assert!(!sim.report().is_clean(), "a device left behind is reported");
    }
}

mod clocks {
    use super::*;

    #[test]
    fn a_delay_is_at_least_as_long_as_asked() {
        let _sim = boot();
        let before = time::since_boot();
        time::delay(&passive(), Interval::from_millis(15));
        assert!(time::since_boot() >= Interval::from_100ns(before.as_100ns() + 150_000));
    }

    #[test]
    fn clocks_go_forward() {
        let _sim = boot();
        let (ticks, system) = (time::counter(), time::system_time());
        time::delay(&passive(), Interval::from_micros(2_000));
        assert!(time::counter() > ticks);
        assert!(time::system_time() > system);
        assert!(time::counter_frequency() >= 1_000_000);
        // 1601 to 2020.
        assert!(system > 132_000_000_000_000_000);
    }
}
