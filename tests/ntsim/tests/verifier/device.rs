//! Device objects and work items.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

use ntsim::sys::nt::{
    DEVICE_OBJECT, DO_DEVICE_HAS_NAME, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE, DelayedWorkQueue,
    FILE_DEVICE_NETWORK, FILE_DEVICE_SECURE_OPEN, IRP_MJ_SHUTDOWN, IoAllocateWorkItem, IoCreateDevice,
    IoDeleteDevice, IoFreeWorkItem, IoQueueWorkItem, IoRegisterShutdownNotification,
    IoUnregisterShutdownNotification, IofCompleteRequest, NTSTATUS, PDEVICE_OBJECT, PDRIVER_OBJECT,
    PIO_WORKITEM, PIRP, PUNICODE_STRING, PVOID, STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_COLLISION,
    STATUS_SUCCESS,
};
use ntsim::verify::rule::{
    DEVICE_INVALID, DEVICE_OWNER, IRQL_TOO_HIGH, POOL_WRONG_ROUTINE, SHUTDOWN_LEFT, SHUTDOWN_UNKNOWN,
    WORK_ITEM_DEVICE, WORK_ITEM_INVALID, WORK_ITEM_QUEUED,
};
use ntsim::{Driver, Sim, irql};

use crate::{Event, Text, event, expect, expect_clean, held, machine, wait};

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}

unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
    unsafe { (*driver).DriverUnload = Some(unload) };
    STATUS_SUCCESS
}

fn driver(sim: &Sim) -> Driver {
    sim.load_driver("sample", entry).unwrap()
}

fn create(driver: PDRIVER_OBJECT, extension: u32, name: PUNICODE_STRING) -> Result<PDEVICE_OBJECT, NTSTATUS> {
    let mut device = ptr::null_mut();
    let status = unsafe {
        IoCreateDevice(
            driver,
            extension,
            name,
            FILE_DEVICE_NETWORK,
            FILE_DEVICE_SECURE_OPEN,
            1,
            &raw mut device,
        )
    };
    if status == STATUS_SUCCESS { Ok(device) } else { Err(status) }
}

#[test]
fn devices_hang_on_their_driver_until_deleted() {
    let sim = machine();
    let driver = driver(&sim);
    let first = create(driver.object(), 64, ptr::null_mut()).unwrap();
    let second = create(driver.object(), 0, ptr::null_mut()).unwrap();
    let third = create(driver.object(), 0, ptr::null_mut()).unwrap();
    let fields = unsafe { &*first };
    assert_eq!(fields.DriverObject, driver.object());
    assert_eq!(fields.DeviceType, FILE_DEVICE_NETWORK);
    assert_eq!(fields.Flags, DO_DEVICE_INITIALIZING | DO_EXCLUSIVE);
    assert_eq!(fields.DeviceExtension.addr(), first.addr() + size_of::<DEVICE_OBJECT>());
    unsafe { fields.DeviceExtension.cast::<u8>().write_bytes(1, 64) };
    assert!(unsafe { (*second).DeviceExtension }.is_null());
    assert_eq!(unsafe { (*driver.object()).DeviceObject }, third);
    unsafe { IoDeleteDevice(second) };
    assert_eq!(unsafe { (*third).NextDevice }, first);
    assert_eq!(held(&sim), ["device object"; 2]);
    unsafe { IoDeleteDevice(third) };
    unsafe { IoDeleteDevice(first) };
    assert!(unsafe { (*driver.object()).DeviceObject }.is_null());
    driver.unload();
    expect_clean(&sim);
}

#[test]
fn a_device_name_is_taken_once() {
    let sim = machine();
    let driver = driver(&sim);
    let mut name = Text::new("\\Device\\Sample");
    let device = create(driver.object(), 0, name.as_ptr()).unwrap();
    assert_ne!(unsafe { (*device).Flags } & DO_DEVICE_HAS_NAME, 0);
    assert_eq!(create(driver.object(), 0, name.as_ptr()), Err(STATUS_OBJECT_NAME_COLLISION));
    unsafe { IoDeleteDevice(device) };
    let device = create(driver.object(), 0, name.as_ptr()).unwrap();
    unsafe { IoDeleteDevice(device) };
    driver.unload();
    expect_clean(&sim);
}

#[test]
fn a_device_is_created_for_a_driver_below_dispatch_level_and_deleted_once() {
    let sim = machine();
    let driver = driver(&sim);
    assert_eq!(create(ptr::null_mut(), 0, ptr::null_mut()), Err(STATUS_INVALID_PARAMETER));
    let raised = irql::raise_scope();
    let device = create(driver.object(), 0, ptr::null_mut()).unwrap();
    drop(raised);
    unsafe { IoDeleteDevice(device) };
    unsafe { IoDeleteDevice(device) };
    driver.unload();
    expect(&sim, &[&DEVICE_OWNER, &IRQL_TOO_HIGH, &DEVICE_INVALID]);
}

/// What a work item is given.
struct Work {
    item: AtomicPtr<c_void>,
    runs: AtomicU32,
    frees: bool,
    go: Event,
}

impl Work {
    fn new(frees: bool, goes: bool) -> Box<Self> {
        Box::new(Self {
            item: AtomicPtr::new(ptr::null_mut()),
            runs: AtomicU32::new(0),
            frees,
            go: event(false, goes),
        })
    }
}

unsafe extern "C" fn work(device: PDEVICE_OBJECT, context: PVOID) {
    let work = unsafe { &*context.cast::<Work>() };
    assert_eq!(irql::current(), 0);
    let driver = unsafe { (*device).DriverObject };
    assert!(!driver.is_null(), "the device is there while its work runs");
    wait(work.go.get(), None);
    if work.frees {
        unsafe { IoFreeWorkItem(work.item.load(Ordering::SeqCst).cast()) };
    }
    work.runs.fetch_add(1, Ordering::SeqCst);
}

fn queue(item: PIO_WORKITEM, work_done: &Work) {
    work_done.item.store(item.cast(), Ordering::SeqCst);
    let context = ptr::from_ref(work_done).cast_mut().cast();
    unsafe { IoQueueWorkItem(item, Some(work), DelayedWorkQueue, context) };
}

fn runs(work: &Work, count: u32) {
    while work.runs.load(Ordering::SeqCst) < count {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_work_item_runs_at_passive_level_and_may_be_queued_again_or_freed_in_its_routine() {
    let sim = machine();
    let driver = driver(&sim);
    let device = create(driver.object(), 0, ptr::null_mut()).unwrap();
    let item = unsafe { IoAllocateWorkItem(device) };
    let kept = Work::new(false, true);
    {
        let _raised = irql::raise_scope();
        queue(item, &kept);
    }
    runs(&kept, 1);
    assert_eq!(held(&sim), ["device object", "work item"]);
    let freed = Work::new(true, true);
    queue(item, &freed);
    runs(&freed, 1);
    unsafe { IoDeleteDevice(device) };
    driver.unload();
    expect_clean(&sim);
}

#[test]
fn unloading_waits_for_queued_work_whose_device_is_already_deleted() {
    let sim = machine();
    let driver = driver(&sim);
    let device = create(driver.object(), 0, ptr::null_mut()).unwrap();
    let item = unsafe { IoAllocateWorkItem(device) };
    let slow = Work::new(true, false);
    queue(item, &slow);
    unsafe { IoDeleteDevice(device) };
    std::thread::scope(|scope| {
        let slow = std::panic::AssertUnwindSafe(&slow);
        let go = slow.go.get().expose_provenance();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(40));
            unsafe { ntsim::sys::nt::KeSetEvent(ptr::with_exposed_provenance_mut(go), 0, 0) };
        });
        driver.unload();
        assert_eq!(slow.runs.load(Ordering::SeqCst), 1);
    });
    expect_clean(&sim);
}

#[test]
fn a_queued_work_item_is_not_queued_or_freed() {
    let sim = machine();
    let driver = driver(&sim);
    let device = create(driver.object(), 0, ptr::null_mut()).unwrap();
    // Sixteen items block all workers; the next one stays in the queue.
    let gate = Work::new(false, false);
    let blockers: Vec<_> = (0..16).map(|_| unsafe { IoAllocateWorkItem(device) }).collect();
    for &item in &blockers {
        queue(item, &gate);
    }
    let last = Work::new(false, true);
    let item = unsafe { IoAllocateWorkItem(device) };
    queue(item, &last);
    queue(item, &last);
    unsafe { IoFreeWorkItem(item) };
    expect(&sim, &[&WORK_ITEM_QUEUED, &WORK_ITEM_QUEUED]);
    unsafe { ntsim::sys::nt::KeSetEvent(gate.go.get(), 0, 0) };
    runs(&gate, 16);
    runs(&last, 1);
    for item in blockers.into_iter().chain([item]) {
        unsafe { IoFreeWorkItem(item) };
    }
    unsafe { IoDeleteDevice(device) };
    driver.unload();
    assert!(held(&sim).is_empty());
}

#[test]
fn a_work_item_needs_a_device_and_a_routine() {
    let sim = machine();
    let driver = driver(&sim);
    assert!(unsafe { IoAllocateWorkItem(ptr::null_mut()) }.is_null());
    let for_driver = unsafe { IoAllocateWorkItem(driver.object().cast()) };
    queue(for_driver, &Work::new(false, true));
    unsafe { IoQueueWorkItem(for_driver, None, DelayedWorkQueue, ptr::null_mut()) };
    unsafe { IoFreeWorkItem(for_driver) };
    unsafe { IoFreeWorkItem(for_driver) };
    driver.unload();
    expect(&sim, &[&WORK_ITEM_DEVICE, &WORK_ITEM_DEVICE, &WORK_ITEM_INVALID, &WORK_ITEM_INVALID]);
    assert_eq!(POOL_WRONG_ROUTINE.page, "");
}

#[test]
fn a_device_is_told_of_the_shutdown_until_it_takes_that_back() {
    static TOLD: AtomicU32 = AtomicU32::new(0);
    static DEVICE: AtomicPtr<DEVICE_OBJECT> = AtomicPtr::new(ptr::null_mut());
    unsafe extern "C" fn dispatch(_device: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
        assert_eq!(ntsim::irql::current(), 1, "APC_LEVEL");
        TOLD.fetch_add(1, Ordering::SeqCst);
        unsafe { IofCompleteRequest(irp, 0) };
        STATUS_SUCCESS
    }
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
        let device = DEVICE.load(Ordering::SeqCst);
        unsafe { IoUnregisterShutdownNotification(device) };
        unsafe { IoDeleteDevice(device) };
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        let mut device = ptr::null_mut();
        unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), 0x12, 0, 0, &raw mut device) };
        DEVICE.store(device, Ordering::SeqCst);
        unsafe { (*driver).MajorFunction[IRP_MJ_SHUTDOWN] = Some(dispatch) };
        unsafe { (*driver).DriverUnload = Some(unload) };
        unsafe { IoRegisterShutdownNotification(device) }
    }
    let sim = machine();
    let driver = sim.load_driver("sample", entry).unwrap();
    sim.shut_down();
    assert_eq!(TOLD.load(Ordering::SeqCst), 1);
    driver.unload();
    sim.shut_down();
    assert_eq!(TOLD.load(Ordering::SeqCst), 1);
    expect_clean(&sim);
}

#[test]
fn a_shutdown_notification_that_stays_or_never_was_is_a_violation() {
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        let mut device = ptr::null_mut();
        unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), 0x12, 0, 0, &raw mut device) };
        unsafe { IoUnregisterShutdownNotification(device) };
        assert_eq!(unsafe { IoRegisterShutdownNotification(device) }, STATUS_SUCCESS);
        unsafe { IoDeleteDevice(device) };
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let sim = machine();
    sim.load_driver("sample", entry).unwrap().unload();
    expect(&sim, &[&SHUTDOWN_UNKNOWN, &SHUTDOWN_LEFT]);
}
