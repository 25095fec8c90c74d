//! Loading and unloading drivers, as the I/O manager does it.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvError, RecvTimeoutError};

use crate::boot::Machine;
use crate::pool::{self, Kind, Request};
use crate::registry::Registry;
use crate::sys::nt::{
    DO_DEVICE_INITIALIZING, DRIVER_EXTENSION, DRIVER_OBJECT, IO_TYPE_DRIVER, NT_SUCCESS, NTSTATUS,
    PDEVICE_OBJECT, PDRIVER_DISPATCH, PDRIVER_OBJECT, PIRP, PUNICODE_STRING, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_DEVICE_REQUEST, UNICODE_STRING,
};
use crate::verify::violation;
use crate::{bugcheck, device, dispatcher, irql, object, processors, rules, threads};

rules! {
    DRIVER_LEFT_DEVICES = ("device objects left behind", "DRIVER_UNLOAD");
    DRIVER_LEFT_THREADS = ("system threads still running when the driver's image goes", "DRIVER_UNLOAD");
    DRIVER_LEFT_TIMERS = ("timers still set when the driver's image goes", "DRIVER_UNLOAD");
    DRIVER_LEFT_CALLBACKS =
        ("processor change callbacks still registered when the driver's image goes", "KeDeregisterProcessorChangeCallback");
    DRIVER_LEFT_BUGCHECK = (
        "bug check callbacks still registered when the driver's image goes",
        "KeRegisterBugCheckReasonCallback"
    );
    DRIVER_HANGS = ("routine of the driver does not return", "DRIVER_UNLOAD");
    DRIVER_NO_UNLOAD = ("driver without an unload routine", "DRIVER_UNLOAD");
}

/// A DriverEntry.
pub type Entry = unsafe extern "system" fn(PDRIVER_OBJECT, PUNICODE_STRING) -> NTSTATUS;

/// What belongs to a driver object. It stays where it is.
struct Memory {
    object: DRIVER_OBJECT,
    extension: DRIVER_EXTENSION,
    name: Vec<u16>,
    service: Vec<u16>,
    hardware: Vec<u16>,
    hardware_string: UNICODE_STRING,
}

/// A driver that is loaded. Dropping it unloads it.
pub struct Driver {
    /// Owned; a raw pointer, since the driver writes to what it points to.
    memory: *mut Memory,
    loaded: bool,
    _machine: Arc<Machine>,
}

// SAFETY: the memory is the driver object's, which any thread may be handed; this type touches it only while loading and
// unloading, which take it by value or exclusively.
unsafe impl Send for Driver {}

fn counted(units: &mut [u16]) -> UNICODE_STRING {
    let bytes = u16::try_from(units.len() * 2).unwrap_or(u16::MAX);
    UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: units.as_mut_ptr() }
}

/// What answers a request that the driver has no dispatch routine for.
unsafe extern "C" fn invalid_request(_device: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
    // SAFETY: sent to the driver just now.
    unsafe { crate::irp::complete(irp, STATUS_INVALID_DEVICE_REQUEST, 0) };
    STATUS_INVALID_DEVICE_REQUEST
}

/// Runs `body` on a system thread and hands its result, or its panic, to the caller.
pub(crate) fn on_system_thread<T: Send + 'static>(
    name: &'static str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NTSTATUS> {
    let (sender, receiver) = mpsc::channel();
    let started = threads::system(name, move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // The caller waits for it below.
        let _ = sender.send(result);
    });
    if !started {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    let limit = crate::boot::hang_after();
    let answer = match receiver.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => {
            violation(&DRIVER_HANGS, name, format!("it still runs after {limit:?}"));
            eprintln!("ntsim: {name} hangs:\n{}", crate::verify::report());
            receiver.recv()
        }
        Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        Ok(answer) => Ok(answer),
    };
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => Err(STATUS_INSUFFICIENT_RESOURCES),
    }
}

/// A pointer that goes to a system thread and back.
struct Passed<T>(*mut T);
// SAFETY: the thread that sends it waits for the one that receives it.
unsafe impl<T> Send for Passed<T> {}

impl<T> Passed<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

fn make_memory(name: &str) -> *mut Memory {
    let null = ptr::null_mut();
    let utf16 = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
    let empty = UNICODE_STRING { Length: 0, MaximumLength: 0, Buffer: ptr::null_mut() };
    let dispatch: PDRIVER_DISPATCH = Some(invalid_request);
    let memory = Box::into_raw(Box::new(Memory {
        object: DRIVER_OBJECT {
            Type: IO_TYPE_DRIVER,
            Size: i16::try_from(size_of::<DRIVER_OBJECT>()).unwrap_or(i16::MAX),
            DeviceObject: ptr::null_mut(),
            Flags: 0,
            DriverStart: null,
            DriverSize: 0,
            DriverSection: null,
            DriverExtension: ptr::null_mut(),
            DriverName: empty,
            HardwareDatabase: ptr::null_mut(),
            FastIoDispatch: ptr::null_mut(),
            DriverInit: None,
            DriverStartIo: None,
            DriverUnload: None,
            MajorFunction: [dispatch; _],
        },
        extension: DRIVER_EXTENSION {
            DriverObject: ptr::null_mut(),
            AddDevice: None,
            Count: 0,
            ServiceKeyName: empty,
        },
        name: utf16(&format!("\\Driver\\{name}")),
        service: utf16(name),
        hardware: utf16("\\REGISTRY\\MACHINE\\HARDWARE\\DESCRIPTION\\SYSTEM"),
        hardware_string: empty,
    }));
    // SAFETY: the box was just made, and nothing else refers to it.
    let fields = unsafe { &mut *memory };
    fields.hardware_string = counted(&mut fields.hardware);
    fields.object.DriverName = counted(&mut fields.name);
    fields.extension.ServiceKeyName = counted(&mut fields.service);
    // SAFETY: both lie in the box.
    let extension = unsafe { &raw mut (*memory).extension };
    // SAFETY: as above.
    let hardware = unsafe { &raw mut (*memory).hardware_string };
    // SAFETY: as above.
    let object = unsafe { &raw mut (*memory).object };
    // SAFETY: as above.
    unsafe { (*object).DriverExtension = extension };
    // SAFETY: as above.
    unsafe { (*object).HardwareDatabase = hardware };
    // SAFETY: as above.
    unsafe { (*extension).DriverObject = object };
    memory
}

/// The registry path as DriverEntry gets it: lent for the call only, and without a terminating zero (page
/// "DRIVER_INITIALIZE").
fn lend_registry_path(path: &str) -> *mut UNICODE_STRING {
    let units: Vec<u16> = path.encode_utf16().collect();
    let size = size_of::<UNICODE_STRING>() + units.len() * 2;
    let lent = pool::allocate(&Request::object("DriverEntry", Kind::Lent, size));
    let string: *mut UNICODE_STRING = lent.cast();
    if !string.is_null() {
        // SAFETY: the characters lie behind the structure in the same block.
        let characters: *mut u16 = unsafe { string.add(1) }.cast();
        // SAFETY: the block has room for them.
        unsafe { ptr::copy_nonoverlapping(units.as_ptr(), characters, units.len()) };
        let bytes = u16::try_from(units.len() * 2).unwrap_or(u16::MAX);
        // SAFETY: the block starts with the structure.
        unsafe {
            string.write(UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: characters });
        }
    }
    string
}

pub(crate) fn load(machine: Arc<Machine>, name: &str, entry: Entry) -> Result<Driver, NTSTATUS> {
    let path = format!("\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\{name}");
    Registry.create_key(&path);
    let memory = make_memory(name);
    // SAFETY: the box lives until the driver is dropped.
    let object = unsafe { &raw mut (*memory).object };
    let mut driver = Driver { memory, loaded: false, _machine: machine };
    let lent = lend_registry_path(&path);
    let arguments = (Passed(object), Passed(lent));
    let status = on_system_thread("DriverEntry", move || {
        let status = irql::same_irql("DriverEntry", || {
            // SAFETY: the arguments are what a DriverEntry gets.
            unsafe { entry(arguments.0.get(), arguments.1.get()) }
        });
        pool::release("DriverEntry", Kind::Lent, arguments.1.get().cast(), 0);
        status
    })?;
    if NT_SUCCESS(status) {
        driver.loaded = true;
        driver.devices_are_ready();
        Ok(driver)
    } else {
        driver.check_left_behind("DriverEntry");
        Err(status)
    }
}

impl Driver {
    /// The driver's object.
    pub fn object(&self) -> PDRIVER_OBJECT {
        // SAFETY: the memory lives as long as this.
        unsafe { &raw mut (*self.memory).object }
    }

    /// Unloads the driver: calls its DriverUnload on a system thread at PASSIVE_LEVEL, waits for its work items and
    /// DPCs, and looks for what it left behind.
    pub fn unload(mut self) {
        self.unload_now();
    }

    fn unload_now(&mut self) {
        if !std::mem::take(&mut self.loaded) {
            return;
        }
        let object = self.object();
        // SAFETY: the object is live.
        let Some(unload) = (unsafe { (*object).DriverUnload }) else {
            violation(&DRIVER_NO_UNLOAD, "DriverUnload", "the driver cannot be unloaded");
            return;
        };
        let passed = Passed(object);
        let done = on_system_thread("DriverUnload", move || {
            irql::same_irql("DriverUnload", || {
                // SAFETY: the driver set it for its own object.
                unsafe { unload(passed.get()) };
            });
        });
        if done.is_err() {
            violation(&DRIVER_NO_UNLOAD, "DriverUnload", "the host has no thread to unload on");
        }
        self.check_left_behind("DriverUnload");
    }

    /// The I/O manager marks the devices made in DriverEntry as ready (page "DEVICE_OBJECT", DO_DEVICE_INITIALIZING).
    fn devices_are_ready(&self) {
        // SAFETY: the object is live.
        let mut next = unsafe { (*self.object()).DeviceObject };
        // SAFETY: the list consists of live devices.
        while let Some(device) = unsafe { next.as_mut() } {
            device.Flags &= !DO_DEVICE_INITIALIZING;
            next = device.NextDevice;
        }
    }

    /// Waits for what the system waits for, and reports what would run without its image.
    fn check_left_behind(&self, api: &'static str) {
        device::wait_for_work_items(api);
        // The system flushes DPCs before it takes the image away (page "KeCancelTimer").
        dispatcher::flush_dpcs();
        // SAFETY: the object is live.
        let devices: *mut c_void = unsafe { (*self.object()).DeviceObject }.cast();
        if !devices.is_null() {
            violation(&DRIVER_LEFT_DEVICES, api, format!("{:#x}", devices.addr()));
        }
        let running = object::running_threads();
        if running != 0 {
            violation(&DRIVER_LEFT_THREADS, api, format!("{running}"));
        }
        let callbacks = processors::registered();
        if callbacks != 0 {
            violation(&DRIVER_LEFT_CALLBACKS, api, format!("{callbacks}"));
        }
        let callbacks = bugcheck::registered();
        if callbacks != 0 {
            violation(&DRIVER_LEFT_BUGCHECK, api, format!("{callbacks}"));
        }
        let timers = dispatcher::timers_set();
        if timers != 0 {
            violation(&DRIVER_LEFT_TIMERS, api, format!("{timers}"));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.unload_now();
        // Devices left behind point to the driver object; they are leaks, and are not followed any more.
        // SAFETY: the box was made in `make_memory` and is dropped once.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}
