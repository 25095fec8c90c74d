//! What the IRP wrapper promises: every way in which a request can be answered, or not be.
#![cfg(feature = "sim")]

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ntsim::fault::Plan;
use ntsim::sys::nt::PIRP;
use weir::kernel::Status;
use weir::kernel::irp::{self, Bounds, Called, Completion, Irp, Started};
use weir::kernel::irql::{AtMostDispatch, Passive};
use weir::kernel::mdl::MdlBuffer;
use weir::kernel::time::Interval;

const BOUNDS: Bounds = Bounds { pending: Interval::from_millis(40), settle: Interval::from_millis(20) };
const PATIENT: Bounds =
    Bounds { pending: Interval::from_millis(20_000), settle: Interval::from_millis(20_000) };

fn boot() -> ntsim::Sim {
    ntsim::boot(ntsim::Config::default())
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

/// The subsystem takes an IRP.
fn take(irp: PIRP) {
    // SAFETY: a driver's IRP, with a completion routine.
    assert!(unsafe { ntsim::irp::send("test", irp) });
}

/// The subsystem completes an IRP that it has taken.
fn complete(irp: PIRP, status: Status, information: usize) {
    // SAFETY: taken, and completed once.
    unsafe { ntsim::irp::complete(irp, status.0, information) };
}

fn buffer() -> MdlBuffer {
    MdlBuffer::try_new(64).unwrap()
}

/// An IRP on its way to another thread.
struct Sent(PIRP);
// SAFETY: the tests complete an IRP on one thread at a time.
unsafe impl Send for Sent {}

impl Sent {
    fn complete_after(self, delay: Duration, status: Status) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let sent = self;
            std::thread::sleep(delay);
            complete(sent.0, status, 5);
        })
    }
}

#[test]
fn a_request_answered_at_once_gives_its_completion() {
    let sim = boot();
    let mut irp = Irp::try_new(1, buffer()).unwrap();
    // The same IRP serves again and again.
    for (status, information) in [(Status::SUCCESS, 7), (Status::CANCELLED, 0), (Status::PENDING, 9)] {
        let completed = if status == Status::PENDING { Status::SUCCESS } else { status };
        let called = irp.call(&passive(), PATIENT, |irp, buffer| {
            assert_eq!(buffer.len(), 64);
            take(irp);
            complete(irp, completed, information);
            status
        });
        let Called::Completed(back, completion) = called else { panic!("{status:?} was not completed") };
        assert_eq!(completion, Completion { status: completed, information });
        irp = back;
    }
    drop(irp);
    assert_clean(&sim);
}

#[test]
fn a_pending_request_is_waited_for() {
    let sim = boot();
    let mut worker = None;
    let called = Irp::try_new(1, buffer()).unwrap().call(&passive(), PATIENT, |irp, _| {
        take(irp);
        worker = Some(Sent(irp).complete_after(Duration::from_millis(20), Status::SUCCESS));
        Status::PENDING
    });
    let Called::Completed(irp, completion) = called else { panic!("not completed") };
    assert_eq!(completion, Completion { status: Status::SUCCESS, information: 5 });
    worker.unwrap().join().unwrap();
    drop(irp);
    assert_clean(&sim);
}

static CANCELLABLE: AtomicPtr<ntsim::sys::nt::IRP> = AtomicPtr::new(std::ptr::null_mut());

/// A subsystem's cancel routine.
unsafe extern "C" fn cancelled(_device: ntsim::sys::nt::PDEVICE_OBJECT, irp: PIRP) {
    // SAFETY: the IRP that is being cancelled.
    let level = unsafe { (*irp).CancelIrql };
    // SAFETY: called with the cancel spin lock held, whose old level is in the IRP.
    unsafe { ntsim::sys::nt::IoReleaseCancelSpinLock(level) };
    CANCELLABLE.store(irp, Ordering::SeqCst);
    complete(irp, Status::CANCELLED, 0);
}

#[test]
fn a_request_that_hangs_is_cancelled() {
    let sim = boot();
    let called = Irp::try_new(1, buffer()).unwrap().call(&passive(), BOUNDS, |irp, _| {
        take(irp);
        // SAFETY: taken above.
        unsafe { ntsim::irp::set_cancel_routine(irp, Some(cancelled)) };
        Status::PENDING
    });
    let Called::Completed(irp, completion) = called else { panic!("not completed") };
    assert_eq!(completion.status, Status::CANCELLED);
    assert!(!CANCELLABLE.load(Ordering::SeqCst).is_null());
    drop(irp);
    assert_clean(&sim);
}

#[test]
fn a_request_that_cannot_be_cancelled_is_given_up_and_frees_itself_when_it_completes() {
    let sim = boot();
    let mut sent = None;
    let called = Irp::try_new(1, buffer()).unwrap().call(&passive(), BOUNDS, |irp, _| {
        take(irp);
        sent = Some(irp);
        Status::PENDING
    });
    assert!(matches!(called, Called::NeverCompleted(Status::PENDING)));
    let report = sim.report();
    assert!(!report.leaks.is_empty(), "the request still owns its buffers");
    assert_eq!(report.violation_count, 0, "{report}");
    complete(sent.unwrap(), Status::CANCELLED, 0);
    assert_clean(&sim);
    // SAFETY: nothing is out any more.
    assert_eq!(unsafe { irp::reclaim_parked(&mut passive()) }, 0);
}

#[test]
fn requests_given_up_are_freed_in_any_order() {
    let sim = boot();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut sent = Vec::new();
        for _ in 0..3 {
            let called = Irp::try_new(1, buffer()).unwrap().call(&passive(), BOUNDS, |irp, _| {
                take(irp);
                sent.push(irp);
                Status::PENDING
            });
            assert!(matches!(called, Called::NeverCompleted(_)));
        }
        for index in order {
            complete(sent[index], Status::SUCCESS, 0);
        }
        assert_clean(&sim);
    }
}

#[test]
fn an_irp_that_was_never_touched_is_told_from_one_that_failed_and_is_reclaimed_at_the_end() {
    let sim = boot();
    for _ in 0..3 {
        let called =
            Irp::try_new(1, buffer()).unwrap().call(&passive(), BOUNDS, |_irp, _| Status::NOT_SUPPORTED);
        assert!(matches!(called, Called::NeverCompleted(Status::NOT_SUPPORTED)));
    }
    let failed = Irp::try_new(1, buffer()).unwrap().call(&passive(), BOUNDS, |irp, _| {
        take(irp);
        complete(irp, Status::NOT_SUPPORTED, 0);
        Status::NOT_SUPPORTED
    });
    let Called::Completed(irp, completion) = failed else { panic!("it was completed") };
    assert_eq!(completion.status, Status::NOT_SUPPORTED);
    drop(irp);
    // SAFETY: nothing is out any more.
    assert_eq!(unsafe { irp::reclaim_parked(&mut passive()) }, 3);
    assert_clean(&sim);
}

#[test]
fn completion_racing_the_end_of_the_wait_loses_nothing() {
    let sim = boot();
    let bounds = Bounds { pending: Interval::from_micros(200), settle: Interval::from_micros(200) };
    for round in 0..200_u64 {
        let mut worker = None;
        let called = Irp::try_new(1, buffer()).unwrap().call(&passive(), bounds, |irp, _| {
            take(irp);
            let delay = Duration::from_micros(round * 7 % 900);
            worker = Some(Sent(irp).complete_after(delay, Status::SUCCESS));
            Status::PENDING
        });
        worker.unwrap().join().unwrap();
        if let Called::Completed(_, completion) = called {
            assert_eq!(completion, Completion { status: Status::SUCCESS, information: 5 });
        }
    }
    assert_clean(&sim);
}

type Answers = Arc<Mutex<Vec<Completion>>>;

fn answered(mut irp: Irp<(MdlBuffer, Answers)>, completion: Completion, level: &mut AtMostDispatch) {
    // The handler has the buffers again, and may raise and lock, but not wait.
    irp.buffers_mut().0[0] = 1;
    drop(level.raise());
    irp.buffers().1.lock().unwrap().push(completion);
}

#[test]
fn a_started_request_gives_the_irp_back_to_its_handler_even_before_the_call_returns() {
    let sim = boot();
    let answers = Answers::default();
    let irp = Irp::try_new(1, (buffer(), Arc::clone(&answers))).unwrap();
    let started = irp.start(
        &mut passive(),
        answered,
        |(buffer, _)| buffer.as_mdl(),
        |irp, mdl| {
            // SAFETY: the buffer's MDL, while the request is out.
            assert_eq!(unsafe { (*mdl).ByteCount }, 64);
            take(irp);
            complete(irp, Status::CANCELLED, 3);
            Status::CANCELLED
        },
    );
    assert!(matches!(started, Ok(Started::Out)));
    assert_eq!(*answers.lock().unwrap(), [Completion { status: Status::CANCELLED, information: 3 }]);
    assert_clean(&sim);
}

#[test]
fn a_started_request_can_be_completed_by_another_thread_at_dispatch_level() {
    let sim = boot();
    let answers = Answers::default();
    let irp = Irp::try_new(1, (buffer(), Arc::clone(&answers))).unwrap();
    let mut worker = None;
    let started = irp.start(
        &mut passive(),
        answered,
        |_| (),
        |irp, ()| {
            take(irp);
            let sent = Sent(irp);
            worker = Some(std::thread::spawn(move || {
                let sent = sent;
                let raised = ntsim::irql::raise_scope();
                complete(sent.0, Status::SUCCESS, 1);
                drop(raised);
            }));
            Status::PENDING
        },
    );
    assert!(matches!(started, Ok(Started::Out)));
    worker.unwrap().join().unwrap();
    assert_eq!(*answers.lock().unwrap(), [Completion { status: Status::SUCCESS, information: 1 }]);
    assert_clean(&sim);
}

#[test]
fn an_irp_that_cannot_be_had_leaves_nothing() {
    let sim = boot();
    for call in 1..=2 {
        let buffer = buffer();
        sim.fault(Plan::Nth(call));
        assert_eq!(Irp::try_new(1, buffer).map(drop), Err(Status::INSUFFICIENT_RESOURCES));
    }
    sim.fault(Plan::None);
    assert_eq!(Irp::try_new(0, buffer()).map(drop), Err(Status::INVALID_PARAMETER));
    assert_clean(&sim);
}
