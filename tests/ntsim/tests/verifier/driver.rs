//! Loading and unloading drivers.

use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use ntsim::sys::nt::{
    DO_DEVICE_INITIALIZING, ExAllocatePool2, IoCreateDevice, IoDeleteDevice, KTIMER, KeCancelTimer,
    KeInitializeTimer, KeRaiseIrqlToDpcLevel, KeSetEvent, KeSetTimer, NTSTATUS, PDRIVER_OBJECT,
    POOL_FLAG_NON_PAGED, PUNICODE_STRING, PVOID, PsCreateSystemThread, RtlInitUnicodeString,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, STATUS_UNSUCCESSFUL, UNICODE_STRING, ZwClose,
    ZwWaitForSingleObject,
};
use ntsim::verify::rule::{
    DRIVER_HANGS, DRIVER_LEFT_DEVICES, DRIVER_LEFT_THREADS, DRIVER_LEFT_TIMERS, DRIVER_NO_UNLOAD,
    IRQL_NOT_RESTORED,
};

use crate::{TAG, event, expect, expect_clean, held, machine, relative_ms, wait};

unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}

fn text(string: &UNICODE_STRING) -> String {
    let units = unsafe { std::slice::from_raw_parts(string.Buffer, usize::from(string.Length) / 2) };
    String::from_utf16(units).unwrap()
}

#[test]
fn driver_entry_gets_its_object_and_a_path_that_is_lent() {
    static PATH: Mutex<String> = Mutex::new(String::new());
    static LENT: AtomicPtr<u16> = AtomicPtr::new(ptr::null_mut());
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, path: PUNICODE_STRING) -> NTSTATUS {
        assert!(ntsim::irql::is_system_thread());
        assert_eq!(ntsim::irql::current(), 0);
        let driver = unsafe { &mut *driver };
        assert_eq!(text(&driver.DriverName), "\\Driver\\sample");
        assert_eq!(text(unsafe { &(*driver.DriverExtension).ServiceKeyName }), "sample");
        assert!(driver.MajorFunction.iter().all(Option::is_some));
        driver.DriverUnload = Some(unload);
        *PATH.lock().unwrap() = text(unsafe { &*path });
        LENT.store(unsafe { (*path).Buffer }, Ordering::SeqCst);
        STATUS_SUCCESS
    }
    let sim = machine();
    let driver = sim.load_driver("sample", entry).unwrap();
    assert_eq!(*PATH.lock().unwrap(), "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\sample");
    let poison = u16::from_le_bytes([ntsim::pool::POISON; 2]);
    assert_eq!(unsafe { LENT.load(Ordering::SeqCst).read() }, poison);
    driver.unload();
    expect_clean(&sim);
}

#[test]
fn a_driver_that_is_dropped_is_unloaded() {
    static UNLOADED: Mutex<u32> = Mutex::new(0);
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
        assert!(ntsim::irql::is_system_thread());
        *UNLOADED.lock().unwrap() += 1;
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let sim = machine();
    drop(sim.load_driver("sample", entry).unwrap());
    assert_eq!(*UNLOADED.lock().unwrap(), 1);
    expect_clean(&sim);
}

#[test]
fn devices_made_in_driver_entry_are_ready_after_it() {
    unsafe extern "C" fn unload(driver: PDRIVER_OBJECT) {
        let device = unsafe { (*driver).DeviceObject };
        assert_eq!(unsafe { (*device).Flags } & DO_DEVICE_INITIALIZING, 0);
        unsafe { IoDeleteDevice(device) };
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        let mut device = ptr::null_mut();
        let status = unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), 0x12, 0, 0, &raw mut device) };
        assert_ne!(unsafe { (*device).Flags } & DO_DEVICE_INITIALIZING, 0);
        status
    }
    let sim = machine();
    sim.load_driver("sample", entry).unwrap().unload();
    expect_clean(&sim);
}

#[test]
fn a_driver_that_refuses_leaves_nothing_behind_or_is_reported() {
    unsafe extern "system" fn refuses(_driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        STATUS_INSUFFICIENT_RESOURCES
    }
    unsafe extern "system" fn leaves(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        let mut device = ptr::null_mut();
        unsafe { IoCreateDevice(driver, 0, ptr::null_mut(), 0x12, 0, 0, &raw mut device) };
        unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 8, TAG) };
        STATUS_UNSUCCESSFUL
    }
    let sim = machine();
    assert_eq!(sim.load_driver("sample", refuses).err(), Some(STATUS_INSUFFICIENT_RESOURCES));
    expect_clean(&sim);
    assert_eq!(sim.load_driver("sample", leaves).err(), Some(STATUS_UNSUCCESSFUL));
    expect(&sim, &[&DRIVER_LEFT_DEVICES]);
    assert_eq!(held(&sim), ["device object", "pool block"]);
}

#[test]
fn a_driver_without_an_unload_routine_stays() {
    unsafe extern "system" fn entry(_driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        STATUS_SUCCESS
    }
    let sim = machine();
    sim.load_driver("sample", entry).unwrap().unload();
    expect(&sim, &[&DRIVER_NO_UNLOAD]);
}

#[test]
fn an_unload_that_does_not_return_is_reported() {
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let hang_after = std::time::Duration::from_millis(50);
    let sim = ntsim::boot(ntsim::Config { hang_after, ..ntsim::Config::default() });
    sim.load_driver("sample", entry).unwrap().unload();
    expect(&sim, &[&DRIVER_HANGS]);
}

#[test]
fn driver_entry_and_unload_return_at_passive_level() {
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
        unsafe { KeRaiseIrqlToDpcLevel() };
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { KeRaiseIrqlToDpcLevel() };
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let sim = machine();
    sim.load_driver("sample", entry).unwrap().unload();
    expect(&sim, &[&IRQL_NOT_RESTORED, &IRQL_NOT_RESTORED]);
}

#[test]
fn threads_and_timers_left_behind_are_seen_at_unload() {
    unsafe extern "C" fn wait_for(context: PVOID) {
        wait(context.cast_const(), None);
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let sim = machine();
    let driver = sim.load_driver("sample", entry).unwrap();
    let go = event(false, false);
    let mut thread = ptr::null_mut();
    let null = ptr::null_mut();
    let go_pointer: PVOID = go.get().cast();
    let created = unsafe {
        PsCreateSystemThread(
            &raw mut thread,
            0,
            ptr::null_mut(),
            null,
            ptr::null_mut(),
            Some(wait_for),
            go_pointer,
        )
    };
    assert_eq!(created, STATUS_SUCCESS);
    let mut timer: Box<KTIMER> = unsafe { Box::new(std::mem::zeroed()) };
    unsafe { KeInitializeTimer(&raw mut *timer) };
    unsafe { KeSetTimer(&raw mut *timer, relative_ms(60_000), ptr::null_mut()) };
    driver.unload();
    expect(&sim, &[&DRIVER_LEFT_THREADS, &DRIVER_LEFT_TIMERS]);
    assert_eq!(held(&sim), ["running thread", "thread handle", "timer that is set"]);
    unsafe { KeCancelTimer(&raw mut *timer) };
    unsafe { KeSetEvent(go.get(), 0, 0) };
    unsafe { ZwWaitForSingleObject(thread, 0, ptr::null_mut()) };
    unsafe { ZwClose(thread) };
    assert!(held(&sim).is_empty());
}

#[test]
fn a_test_that_panics_unloads_its_driver_and_shuts_its_machine_down() {
    static UNLOADED: Mutex<u32> = Mutex::new(0);
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {
        *UNLOADED.lock().unwrap() += 1;
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        STATUS_SUCCESS
    }
    let caught = std::panic::catch_unwind(|| {
        let sim = machine();
        let _driver = sim.load_driver("sample", entry).unwrap();
        panic!("as a failed assertion does");
    });
    assert!(caught.is_err());
    assert_eq!(*UNLOADED.lock().unwrap(), 1);
    expect_clean(&machine());
}

#[test]
fn counted_strings_are_made_from_terminated_ones() {
    let source: Vec<u16> = "weir\0".encode_utf16().collect();
    let mut string = UNICODE_STRING { Length: 9, MaximumLength: 9, Buffer: ptr::null_mut() };
    unsafe { RtlInitUnicodeString(&raw mut string, source.as_ptr()) };
    assert_eq!((string.Length, string.MaximumLength, text(&string).as_str()), (8, 10, "weir"));
    unsafe { RtlInitUnicodeString(&raw mut string, ptr::null()) };
    assert_eq!((string.Length, string.MaximumLength), (0, 0));
}

#[test]
fn debug_output_goes_to_the_sink() {
    static SEEN: Mutex<Vec<(u32, u32, String)>> = Mutex::new(Vec::new());
    let sim = machine();
    ntsim::debug::set_sink(Some(|component, level, message| {
        SEEN.lock().unwrap().push((component, level, message.to_owned()));
    }));
    unsafe { ntsim::sys::nt::DbgPrintEx(77, 3, c"hello".as_ptr().cast()) };
    ntsim::debug::set_sink(None);
    unsafe { ntsim::sys::nt::DbgPrintEx(77, 3, c"nobody hears".as_ptr().cast()) };
    assert_eq!(*SEEN.lock().unwrap(), [(77, 3, "hello".to_owned())]);
    drop(sim);
}
