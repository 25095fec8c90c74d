//! Fault injection.

use std::ptr;

use ntsim::fault::{self, Plan};
use ntsim::registry::Value;
use ntsim::sys::nt::{
    ExAllocatePool2, ExFreePoolWithTag, FALSE, IoAllocateIrp, IoAllocateMdl, IoAllocateWorkItem,
    IoCreateDevice, IoDeleteDevice, IoFreeIrp, IoFreeMdl, IoFreeWorkItem, KernelMode, NTSTATUS,
    ObReferenceObjectByHandle, ObfDereferenceObject, PDRIVER_OBJECT, POOL_FLAG_NON_PAGED, PUNICODE_STRING,
    PVOID, PsCreateSystemThread, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, ZwClose, ZwOpenKey,
    ZwQueryValueKey,
};
use ntsim::{Config, Sim, boot};

use crate::{TAG, Text, expect_clean, machine};

/// Allocates one block; whether it was had.
fn allocation() -> bool {
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, TAG) };
    if !block.is_null() {
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    !block.is_null()
}

#[test]
fn the_nth_call_fails_and_no_other() {
    let sim = machine();
    sim.fault(Plan::Nth(3));
    let had: Vec<bool> = (0..5).map(|_| allocation()).collect();
    assert_eq!(had, [true, true, false, true, true]);
    assert_eq!(sim.fault_calls(), 5);
    let injected = sim.faults_injected();
    assert_eq!(injected.len(), 1);
    assert_eq!((injected[0].api, injected[0].call), ("ExAllocatePool2", 3));
    sim.fault(Plan::From(2));
    let had: Vec<bool> = (0..3).map(|_| allocation()).collect();
    assert_eq!(had, [true, false, false]);
    sim.fault(Plan::None);
    assert_eq!(sim.fault_calls(), 0);
    assert!(allocation());
    assert_eq!(sim.fault_calls(), 1);
    expect_clean(&sim);
}

#[test]
fn the_nth_call_of_one_api_fails() {
    let sim = machine();
    sim.fault(Plan::Api { name: "IoAllocateIrp", nth: 2 });
    let had: Vec<bool> = (0..3)
        .map(|_| {
            assert!(allocation());
            let irp = unsafe { IoAllocateIrp(1, FALSE) };
            if !irp.is_null() {
                unsafe { IoFreeIrp(irp) };
            }
            !irp.is_null()
        })
        .collect();
    assert_eq!(had, [true, false, true]);
    expect_clean(&sim);
}

#[test]
fn a_seed_always_chooses_the_same_calls() {
    let run = |seed| {
        let sim = machine();
        sim.fault(Plan::Seeded { seed, one_in: 4 });
        let had: Vec<bool> = (0..200).map(|_| allocation()).collect();
        expect_clean(&sim);
        had
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let failed = first.iter().filter(|had| !**had).count();
    assert!((20..80).contains(&failed), "{failed} of 200 at one in four");
}

#[test]
fn the_simulator_itself_is_exempt() {
    let sim = machine();
    sim.fault(Plan::From(1));
    assert!(fault::exempt(allocation));
    assert!(!allocation());
    assert_eq!(sim.fault_calls(), 1);
}

#[test]
fn an_injected_failure_shows_where_it_struck() {
    let sim = boot(Config { backtraces: true, ..Config::default() });
    sim.fault(Plan::Nth(1));
    assert!(!allocation());
    let injected = sim.faults_injected().remove(0);
    assert!(injected.backtrace.unwrap().contains("an_injected_failure_shows_where_it_struck"));
}

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}
unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
    unsafe { (*driver).DriverUnload = Some(unload) };
    STATUS_SUCCESS
}
unsafe extern "C" fn nothing(_context: PVOID) {}

/// Uses every API that can fail, gives back what it got, and tells how many of them succeeded.
fn use_everything(sim: &Sim, driver: PDRIVER_OBJECT) -> usize {
    const PATH: &str = "\\Registry\\Machine\\Sample";
    sim.registry().set(PATH, "Value", Value::Dword(1));
    let mut succeeded = usize::from(allocation());
    let null = ptr::null_mut();

    let irp = unsafe { IoAllocateIrp(1, FALSE) };
    if !irp.is_null() {
        succeeded += 1;
        unsafe { IoFreeIrp(irp) };
    }
    let mdl = unsafe { IoAllocateMdl(null, 8, FALSE, FALSE, ptr::null_mut()) };
    if !mdl.is_null() {
        succeeded += 1;
        unsafe { IoFreeMdl(mdl) };
    }
    let mut device = ptr::null_mut();
    let status = unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), 0x12, 0, 0, &raw mut device) };
    if status == STATUS_SUCCESS {
        succeeded += 1;
        unsafe { IoDeleteDevice(device) };
    } else {
        assert_eq!(status, STATUS_INSUFFICIENT_RESOURCES);
    }
    let item = unsafe { IoAllocateWorkItem(driver.cast()) };
    if !item.is_null() {
        succeeded += 1;
        unsafe { IoFreeWorkItem(item) };
    }
    let mut thread = ptr::null_mut();
    let created = unsafe {
        PsCreateSystemThread(&raw mut thread, 0, ptr::null_mut(), null, ptr::null_mut(), Some(nothing), null)
    };
    if created == STATUS_SUCCESS {
        succeeded += 1;
        unsafe { ntsim::sys::nt::ZwWaitForSingleObject(thread, 0, ptr::null_mut()) };
        let mut object = ptr::null_mut();
        let referenced = unsafe {
            ObReferenceObjectByHandle(
                thread,
                0,
                ptr::null_mut(),
                KernelMode,
                &raw mut object,
                ptr::null_mut(),
            )
        };
        if referenced == STATUS_SUCCESS {
            succeeded += 1;
            unsafe { ObfDereferenceObject(object) };
        }
        unsafe { ZwClose(thread) };
    }
    succeeded + use_registry(PATH)
}

fn use_registry(path: &str) -> usize {
    let mut path = Text::new(path);
    let mut name = Text::new("Value");
    let mut attributes = ntsim::sys::nt::OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: ptr::null_mut(),
        ObjectName: path.as_ptr(),
        Attributes: ntsim::sys::nt::OBJ_KERNEL_HANDLE,
        SecurityDescriptor: ptr::null_mut(),
        SecurityQualityOfService: ptr::null_mut(),
    };
    let mut key = ptr::null_mut();
    let access = ntsim::sys::nt::KEY_READ;
    if unsafe { ZwOpenKey(&raw mut key, access, &raw mut attributes) } != STATUS_SUCCESS {
        return 0;
    }
    let mut words = [0u64; 8];
    let buffer: PVOID = words.as_mut_ptr().cast();
    let mut needed = 0;
    let class = ntsim::sys::nt::KeyValuePartialInformation;
    let reads = [
        unsafe { ZwQueryValueKey(key, name.as_ptr(), class, buffer, 64, &raw mut needed) },
        unsafe { ntsim::sys::nt::ZwEnumerateValueKey(key, 0, class, buffer, 64, &raw mut needed) },
        unsafe { ntsim::sys::nt::ZwEnumerateKey(key, 0, 0, buffer, 64, &raw mut needed) },
    ];
    unsafe { ZwClose(key) };
    // The key has no subkey, so that the last one ends in STATUS_NO_MORE_ENTRIES unless it was made to fail.
    1 + reads.iter().filter(|&&status| status != STATUS_INSUFFICIENT_RESOURCES).count()
}

#[test]
fn every_api_that_can_fail_does_so_on_demand() {
    let sim = machine();
    let driver = sim.load_driver("sample", entry).unwrap();
    sim.fault(Plan::None);
    let all = use_everything(&sim, driver.object());
    let calls = sim.fault_calls();
    assert_eq!(all as u64, calls);
    let mut failed = Vec::new();
    for call in 1..=calls {
        sim.fault(Plan::Nth(call));
        assert!(use_everything(&sim, driver.object()) < all, "call {call}");
        failed.extend(sim.faults_injected().into_iter().map(|injected| injected.api));
    }
    assert_eq!(
        failed,
        [
            "ExAllocatePool2",
            "IoAllocateIrp",
            "IoAllocateMdl",
            "IoCreateDevice",
            "IoAllocateWorkItem",
            "PsCreateSystemThread",
            "ObReferenceObjectByHandle",
            "ZwOpenKey",
            "ZwQueryValueKey",
            "ZwEnumerateValueKey",
            "ZwEnumerateKey"
        ]
    );
    sim.fault(Plan::None);
    driver.unload();
    expect_clean(&sim);
}
