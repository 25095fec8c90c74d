//! IRPs and MDLs.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use ntsim::irp::{self, complete, send};
use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, FALSE, IRP, IoAcquireCancelSpinLock, IoAllocateIrp, IoAllocateMdl,
    IoCancelIrp, IoFreeIrp, IoFreeMdl, IoReleaseCancelSpinLock, IoReuseIrp, IoSetCompletionRoutine,
    MmBuildMdlForNonPagedPool, MmGetSystemAddressForMdlSafe, NTSTATUS, PAGE_SIZE, PDEVICE_OBJECT, PIRP, PMDL,
    POOL_FLAG_NON_PAGED, POOL_FLAG_PAGED, PVOID, STATUS_CANCELLED, STATUS_MORE_PROCESSING_REQUIRED,
    STATUS_NOT_SUPPORTED, STATUS_PENDING, STATUS_SUCCESS, TRUE,
};
use ntsim::verify::rule::{
    CANCEL_LOCK, IRP_CANCEL_ROUTINE, IRP_COMPLETED_TWICE, IRP_COMPLETION_STATUS, IRP_FREED_PENDING,
    IRP_INVALID, IRP_NO_COMPLETION, IRP_NO_STACK, IRP_REUSED_PENDING, IRP_SENT_PENDING, IRP_STACK_SIZE,
    IRP_STATUS_PENDING, IRP_USE_AFTER_FREE, IRQL_NOT_RESTORED, MDL_INVALID, MDL_MEMORY, MDL_NOT_BUILT,
};
use ntsim::{irql, verify::rule};

use crate::{TAG, expect, expect_clean, held, machine};

const API: &str = "WskReceive";

/// What a completion routine saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU32,
    status: AtomicI32,
    information: AtomicU32,
    pending_returned: AtomicU32,
}

unsafe extern "C" fn record(_device: PDEVICE_OBJECT, irp: PIRP, context: PVOID) -> NTSTATUS {
    let seen = unsafe { &*context.cast::<Seen>() };
    seen.calls.fetch_add(1, Ordering::SeqCst);
    seen.status.store(unsafe { (*irp).IoStatus.u.Status }, Ordering::SeqCst);
    let information = unsafe { (*irp).IoStatus.Information };
    seen.information.store(u32::try_from(information).unwrap(), Ordering::SeqCst);
    seen.pending_returned.store(u32::from(unsafe { (*irp).PendingReturned }), Ordering::SeqCst);
    STATUS_MORE_PROCESSING_REQUIRED
}

unsafe extern "C" fn free(_device: PDEVICE_OBJECT, irp: PIRP, _context: PVOID) -> NTSTATUS {
    unsafe { IoFreeIrp(irp) };
    STATUS_MORE_PROCESSING_REQUIRED
}

fn context(seen: &Seen) -> PVOID {
    ptr::from_ref(seen).cast_mut().cast()
}

fn allocate(seen: &Seen) -> PIRP {
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    assert!(!irp.is_null());
    unsafe { IoSetCompletionRoutine(irp, Some(record), context(seen), TRUE, TRUE, TRUE) };
    irp
}

#[test]
fn an_irp_can_be_completed_at_once_reused_and_completed_later() {
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert_eq!(unsafe { ((*irp).StackCount, (*irp).CurrentLocation) }, (1, 2));
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 12) };
    assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
    assert_eq!(seen.status.load(Ordering::SeqCst), STATUS_SUCCESS);
    assert_eq!(seen.information.load(Ordering::SeqCst), 12);
    assert_eq!(seen.pending_returned.load(Ordering::SeqCst), 0);

    unsafe { IoReuseIrp(irp, STATUS_NOT_SUPPORTED) };
    assert_eq!(unsafe { (*irp).IoStatus.u.Status }, STATUS_NOT_SUPPORTED);
    unsafe { IoSetCompletionRoutine(irp, Some(record), context(&seen), TRUE, TRUE, TRUE) };
    assert!(unsafe { send(API, irp) });
    unsafe { irp::mark_pending(irp) };
    let address = irp.expose_provenance();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _raised = irql::raise_scope();
            unsafe { complete(ptr::with_exposed_provenance_mut(address), STATUS_CANCELLED, 0) };
        });
    });
    assert_eq!(seen.calls.load(Ordering::SeqCst), 2);
    assert_eq!(seen.status.load(Ordering::SeqCst), STATUS_CANCELLED);
    assert_eq!(seen.pending_returned.load(Ordering::SeqCst), 1);
    unsafe { IoFreeIrp(irp) };
    expect_clean(&sim);
}

#[test]
fn a_completion_routine_may_free_its_irp() {
    let sim = machine();
    let irp = unsafe { IoAllocateIrp(2, FALSE) };
    unsafe { IoSetCompletionRoutine(irp, Some(free), ptr::null_mut(), TRUE, TRUE, TRUE) };
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    expect_clean(&sim);
}

#[test]
fn an_irp_that_is_not_freed_is_held() {
    let sim = machine();
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    assert_eq!(held(&sim), ["IRP"]);
    unsafe { IoFreeIrp(irp) };
    unsafe { IoFreeIrp(irp) };
    unsafe { IoFreeIrp(16 as PIRP) };
    assert!(unsafe { IoAllocateIrp(0, FALSE) }.is_null());
    expect(&sim, &[&IRP_USE_AFTER_FREE, &IRP_INVALID, &IRP_STACK_SIZE]);
}

#[test]
fn a_pending_irp_is_not_freed_reused_or_sent() {
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert!(unsafe { send(API, irp) });
    unsafe { IoFreeIrp(irp) };
    unsafe { IoReuseIrp(irp, STATUS_SUCCESS) };
    assert!(!unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRP_FREED_PENDING, &IRP_REUSED_PENDING, &IRP_SENT_PENDING]);
    assert!(held(&sim).is_empty());
}

#[test]
fn an_irp_is_completed_once() {
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    unsafe { IoFreeIrp(irp) };
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
    expect(&sim, &[&IRP_COMPLETED_TWICE, &IRP_USE_AFTER_FREE]);
}

#[test]
fn an_irp_needs_a_completion_routine_for_every_outcome_each_time_it_is_sent() {
    let sim = machine();
    let seen = Seen::default();
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    assert!(!unsafe { send(API, irp) });
    unsafe { IoSetCompletionRoutine(irp, Some(record), context(&seen), TRUE, TRUE, FALSE) };
    assert!(!unsafe { send(API, irp) });
    unsafe { IoSetCompletionRoutine(irp, Some(record), context(&seen), TRUE, TRUE, TRUE) };
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    assert!(!unsafe { send(API, irp) });
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRP_NO_COMPLETION; 3]);
}

#[test]
fn the_driver_keeps_its_own_irp_after_completion() {
    unsafe extern "C" fn lets_go(_device: PDEVICE_OBJECT, _irp: PIRP, _context: PVOID) -> NTSTATUS {
        STATUS_SUCCESS
    }
    let sim = machine();
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    unsafe { IoSetCompletionRoutine(irp, Some(lets_go), ptr::null_mut(), TRUE, TRUE, TRUE) };
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRP_COMPLETION_STATUS]);
}

#[test]
fn a_completion_routine_returns_at_its_irql() {
    unsafe extern "C" fn raises(_device: PDEVICE_OBJECT, _irp: PIRP, _context: PVOID) -> NTSTATUS {
        unsafe { ntsim::sys::nt::KeRaiseIrqlToDpcLevel() };
        STATUS_MORE_PROCESSING_REQUIRED
    }
    let sim = machine();
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    unsafe { IoSetCompletionRoutine(irp, Some(raises), ptr::null_mut(), TRUE, TRUE, TRUE) };
    assert!(unsafe { send(API, irp) });
    unsafe { complete(irp, STATUS_SUCCESS, 0) };
    assert_eq!(irql::current(), 0);
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRQL_NOT_RESTORED]);
}

#[test]
fn a_subsystem_that_completes_wrongly_is_seen() {
    unsafe extern "C" fn never(_device: PDEVICE_OBJECT, _irp: PIRP) {}
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert!(unsafe { send(API, irp) });
    unsafe { irp::set_cancel_routine(irp, Some(never)) };
    unsafe { complete(irp, STATUS_PENDING, 0) };
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRP_STATUS_PENDING, &IRP_CANCEL_ROUTINE]);
}

#[test]
fn a_location_that_is_not_there_is_not_used() {
    let sim = machine();
    let seen = Seen::default();
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    unsafe { (*irp).CurrentLocation = 1 };
    unsafe { IoSetCompletionRoutine(irp, Some(record), context(&seen), TRUE, TRUE, TRUE) };
    unsafe { IoFreeIrp(irp) };
    expect(&sim, &[&IRP_NO_STACK]);
}

unsafe extern "C" fn cancelled(_device: PDEVICE_OBJECT, irp: PIRP) {
    unsafe { IoReleaseCancelSpinLock((*irp).CancelIrql) };
    unsafe { complete(irp, STATUS_CANCELLED, 0) };
}

#[test]
fn cancelling_calls_the_cancel_routine_once() {
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert!(unsafe { send(API, irp) });
    assert!(unsafe { irp::set_cancel_routine(irp, Some(cancelled)) }.is_none());
    assert_eq!(unsafe { IoCancelIrp(irp) }, TRUE);
    assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
    assert_eq!(seen.status.load(Ordering::SeqCst), STATUS_CANCELLED);
    assert_eq!(unsafe { IoCancelIrp(irp) }, FALSE);
    assert_eq!(irql::current(), 0);
    unsafe { IoFreeIrp(irp) };
    assert_eq!(unsafe { IoCancelIrp(irp) }, FALSE);
    expect(&sim, &[&IRP_USE_AFTER_FREE]);
}

#[test]
fn an_irp_without_a_cancel_routine_is_marked() {
    let sim = machine();
    let seen = Seen::default();
    let irp = allocate(&seen);
    assert!(unsafe { send(API, irp) });
    assert!(!unsafe { irp::is_cancelled(irp) });
    assert_eq!(unsafe { IoCancelIrp(irp) }, FALSE);
    assert!(unsafe { irp::is_cancelled(irp) });
    unsafe { complete(irp, STATUS_CANCELLED, 0) };
    unsafe { IoFreeIrp(irp) };
    expect_clean(&sim);
}

#[test]
fn the_cancel_spin_lock_is_released_by_its_holder() {
    let sim = machine();
    let mut level = 9;
    unsafe { IoAcquireCancelSpinLock(&raw mut level) };
    assert_eq!((level, irql::current()), (0, 2));
    std::thread::scope(|scope| {
        scope.spawn(|| unsafe { IoReleaseCancelSpinLock(0) });
    });
    unsafe { IoReleaseCancelSpinLock(level) };
    expect(&sim, &[&CANCEL_LOCK]);
}

#[test]
fn completing_and_cancelling_at_once_ends_in_one_completion() {
    let sim = machine();
    for round in 0..if cfg!(miri) { 3 } else { 300 } {
        let seen = Seen::default();
        let irp = allocate(&seen);
        assert!(unsafe { send(API, irp) });
        unsafe { irp::set_cancel_routine(irp, Some(cancelled)) };
        let address = irp.expose_provenance();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let irp: *mut IRP = ptr::with_exposed_provenance_mut(address);
                if round % 2 == 0 {
                    std::thread::yield_now();
                }
                if unsafe { irp::set_cancel_routine(irp, None) }.is_some() {
                    unsafe { complete(irp, STATUS_SUCCESS, 0) };
                }
            });
            unsafe { IoCancelIrp(irp) };
        });
        // A cancel that found no routine leaves the completion to the other thread, which has ended by now.
        assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
        unsafe { IoFreeIrp(irp) };
    }
    expect_clean(&sim);
    std::thread::sleep(Duration::ZERO);
}

fn block(flags: u64, size: usize) -> *mut c_void {
    unsafe { ExAllocatePool2(flags, size, TAG) }
}

fn mdl(address: *mut c_void, length: usize) -> PMDL {
    unsafe { IoAllocateMdl(address, u32::try_from(length).unwrap(), FALSE, FALSE, ptr::null_mut()) }
}

#[test]
fn an_mdl_describes_its_buffer() {
    let sim = machine();
    let buffer = block(POOL_FLAG_NON_PAGED, 3 * PAGE_SIZE);
    let start = buffer.wrapping_byte_add(100);
    let mdl = mdl(start, 5000);
    unsafe { MmBuildMdlForNonPagedPool(mdl) };
    let fields = unsafe { &*mdl };
    assert_eq!((fields.StartVa, fields.ByteOffset, fields.ByteCount), (buffer, 100, 5000));
    assert_eq!(fields.Size, 0x30 + 2 * 8, "two pages");
    assert_eq!(unsafe { MmGetSystemAddressForMdlSafe(mdl, 16) }, start);
    assert_eq!(held(&sim), ["MDL", "pool block"]);
    unsafe { IoFreeMdl(mdl) };
    unsafe { ExFreePoolWithTag(buffer, TAG) };
    expect_clean(&sim);
}

#[test]
fn mdls_chain_on_an_irp() {
    let sim = machine();
    let mut memory = [0u8; 64];
    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    let address: *mut c_void = memory.as_mut_ptr().cast();
    let mdls =
        [FALSE, TRUE, TRUE].map(|secondary| unsafe { IoAllocateMdl(address, 64, secondary, FALSE, irp) });
    assert_eq!(unsafe { (*irp).MdlAddress }, mdls[0]);
    assert_eq!(unsafe { (*mdls[0]).Next }, mdls[1]);
    assert_eq!(unsafe { (*mdls[1]).Next }, mdls[2]);
    unsafe { IoFreeIrp(irp) };
    assert_eq!(held(&sim), ["MDL"; 3], "freeing an IRP does not free its MDLs");
    for mdl in mdls {
        unsafe { IoFreeMdl(mdl) };
    }
    expect_clean(&sim);
}

#[test]
fn an_mdl_lies_over_memory_that_stays() {
    let sim = machine();
    let paged = block(POOL_FLAG_PAGED, 64);
    let small = block(POOL_FLAG_NON_PAGED, 64);
    let freed = block(POOL_FLAG_NON_PAGED, 64);
    unsafe { ExFreePoolWithTag(freed, TAG) };
    for (address, length) in [(paged, 64), (small, 65), (small.wrapping_byte_add(32), 33), (freed, 64)] {
        let mdl = mdl(address, length);
        unsafe { MmBuildMdlForNonPagedPool(mdl) };
        unsafe { IoFreeMdl(mdl) };
    }
    unsafe { ExFreePoolWithTag(paged, TAG) };
    unsafe { ExFreePoolWithTag(small, TAG) };
    expect(&sim, &[&MDL_MEMORY; 4]);
}

#[test]
fn an_mdl_is_built_before_use_and_freed_once() {
    let sim = machine();
    let mut memory = [0u8; 64];
    let mdl = mdl(memory.as_mut_ptr().cast(), 64);
    assert!(unsafe { MmGetSystemAddressForMdlSafe(mdl, 16) }.is_null());
    unsafe { IoFreeMdl(mdl) };
    unsafe { IoFreeMdl(mdl) };
    unsafe { MmBuildMdlForNonPagedPool(mdl) };
    expect(&sim, &[&MDL_NOT_BUILT, &MDL_INVALID, &MDL_INVALID]);
    assert_eq!(rule::MDL_INVALID.page, "IoFreeMdl");
}

/// A driver whose device binds completion routines.
mod guarded {
    use super::*;
    use ntsim::fault::Plan;
    use ntsim::sys::nt::{
        FILE_DEVICE_NETWORK, IRP_MJ_INTERNAL_DEVICE_CONTROL, IoCreateDevice, IoDeleteDevice,
        IoSetCompletionRoutineEx, IofCallDriver, IofCompleteRequest, PDRIVER_OBJECT, PUNICODE_STRING,
        STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_PARAMETER,
    };
    use ntsim::verify::rule::{CALL_DEVICE, COMPLETION_DEVICE, COMPLETION_LOST};
    use ntsim::{Driver, Sim};

    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}

    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }

    fn driver(sim: &Sim) -> (Driver, PDEVICE_OBJECT) {
        let driver = sim.load_driver("sample", entry).unwrap();
        let mut device = ptr::null_mut();
        let status = unsafe {
            IoCreateDevice(
                driver.object(),
                0,
                ptr::null_mut(),
                FILE_DEVICE_NETWORK,
                0,
                FALSE,
                &raw mut device,
            )
        };
        assert_eq!(status, STATUS_SUCCESS);
        (driver, device)
    }

    fn set(device: PDEVICE_OBJECT, irp: PIRP, seen: &Seen) -> NTSTATUS {
        unsafe { IoSetCompletionRoutineEx(device, irp, Some(record), context(seen), TRUE, TRUE, TRUE) }
    }

    #[test]
    fn a_completion_routine_holds_its_device_until_it_has_returned() {
        let sim = machine();
        let (driver, device) = driver(&sim);
        let seen = Seen::default();
        let irp = unsafe { IoAllocateIrp(1, FALSE) };
        assert_eq!(set(device, irp, &seen), STATUS_SUCCESS);
        assert!(unsafe { send(API, irp) });
        unsafe { IoDeleteDevice(device) };
        assert!(held(&sim).contains(&"device object"), "it is referenced");
        unsafe { complete(irp, STATUS_SUCCESS, 3) };
        assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
        assert_eq!(held(&sim), ["IRP"]);
        unsafe { IoFreeIrp(irp) };
        driver.unload();
        expect_clean(&sim);
    }

    #[test]
    fn a_completion_routine_that_cannot_be_set_leaves_the_irp_as_it_was() {
        let sim = machine();
        let (driver, device) = driver(&sim);
        let seen = Seen::default();
        let irp = unsafe { IoAllocateIrp(1, FALSE) };
        sim.fault(Plan::Nth(1));
        assert_eq!(set(device, irp, &seen), STATUS_INSUFFICIENT_RESOURCES);
        sim.fault(Plan::None);
        unsafe { IoFreeIrp(irp) };
        unsafe { IoDeleteDevice(device) };
        driver.unload();
        expect_clean(&sim);
    }

    /// What frees or reuses the IRP instead of sending it leaks what the routine was set with, and the device.
    #[test]
    fn a_completion_routine_that_never_runs_is_noticed() {
        let free = |irp| unsafe { IoFreeIrp(irp) };
        let reuse = |irp| {
            unsafe { IoReuseIrp(irp, STATUS_SUCCESS) };
            unsafe { IoFreeIrp(irp) };
        };
        for lose in [free as fn(PIRP), reuse] {
            let sim = machine();
            let (driver, device) = driver(&sim);
            let seen = Seen::default();
            let irp = unsafe { IoAllocateIrp(1, FALSE) };
            assert_eq!(set(device, irp, &seen), STATUS_SUCCESS);
            lose(irp);
            unsafe { IoDeleteDevice(device) };
            assert_eq!(seen.calls.load(Ordering::SeqCst), 0);
            assert!(held(&sim).contains(&"completion routine"));
            driver.unload();
            expect(&sim, &[&COMPLETION_LOST]);
        }
    }

    #[test]
    fn a_completion_routine_is_for_a_device_that_is_there() {
        let sim = machine();
        let (driver, device) = driver(&sim);
        let seen = Seen::default();
        unsafe { IoDeleteDevice(device) };
        let irp = unsafe { IoAllocateIrp(1, FALSE) };
        assert_eq!(set(device, irp, &seen), STATUS_INVALID_PARAMETER);
        assert_eq!(unsafe { IofCallDriver(device, irp) }, STATUS_INVALID_PARAMETER);
        unsafe { IoFreeIrp(irp) };
        driver.unload();
        expect(&sim, &[&COMPLETION_DEVICE, &CALL_DEVICE]);
    }

    unsafe extern "C" fn dispatch(_device: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
        unsafe { (*irp).IoStatus.u.Status = STATUS_NOT_SUPPORTED };
        unsafe { (*irp).IoStatus.Information = 7 };
        unsafe { IofCompleteRequest(irp, 0) };
        STATUS_NOT_SUPPORTED
    }

    #[test]
    fn an_irp_that_a_driver_sends_to_its_own_device_comes_back() {
        let sim = machine();
        let (driver, device) = driver(&sim);
        for (own, status, information) in
            [(false, STATUS_INVALID_DEVICE_REQUEST, 0), (true, STATUS_NOT_SUPPORTED, 7)]
        {
            if own {
                let functions = unsafe { &mut (*driver.object()).MajorFunction };
                functions[IRP_MJ_INTERNAL_DEVICE_CONTROL] = Some(dispatch);
            }
            let seen = Seen::default();
            let irp = unsafe { IoAllocateIrp(1, FALSE) };
            assert_eq!(set(device, irp, &seen), STATUS_SUCCESS);
            let next = unsafe { (*irp).Tail.Overlay.CurrentStackLocation.sub(1) };
            unsafe { (*next).MajorFunction = IRP_MJ_INTERNAL_DEVICE_CONTROL.try_into().unwrap() };
            assert_eq!(unsafe { IofCallDriver(device, irp) }, status);
            assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
            assert_eq!(seen.status.load(Ordering::SeqCst), status);
            assert_eq!(seen.information.load(Ordering::SeqCst), information);
            unsafe { IoFreeIrp(irp) };
        }
        unsafe { IoDeleteDevice(device) };
        driver.unload();
        expect_clean(&sim);
    }
}
