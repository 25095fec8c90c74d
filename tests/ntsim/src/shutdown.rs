//! The system's shutdown, as drivers are told of it: IRP_MJ_SHUTDOWN to each device that asked for it, before the file
//! systems are flushed (pages "IoRegisterShutdownNotification", "IRP_MJ_SHUTDOWN").

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::sys::nt::{
    APC_LEVEL, IRP_MJ_SHUTDOWN, NTSTATUS, PDEVICE_OBJECT, PIRP, STATUS_INVALID_PARAMETER,
    STATUS_MORE_PROCESSING_REQUIRED, STATUS_SUCCESS,
};
use crate::verify::{lock, violation};
use crate::{device, driver, fault, irp, irql, rules};

rules! {
    SHUTDOWN_DEVICE = ("shutdown notification for a device object that is not there", "IoRegisterShutdownNotification");
    SHUTDOWN_UNKNOWN = ("shutdown notification taken back that was not asked for", "IoUnregisterShutdownNotification");
    SHUTDOWN_LEFT = (
        "device deleted that is still to be told of the shutdown",
        "IoUnregisterShutdownNotification"
    );
    SHUTDOWN_HANGS = ("request that holds the shutdown up", "IRP_MJ_SHUTDOWN");
}

/// A device that is to be told.
struct Asked {
    device: usize,
    told: bool,
}

/// One for each time that a device asked.
static REGISTERED: Mutex<Vec<Asked>> = Mutex::new(Vec::new());

pub(crate) fn stop() {
    lock(&REGISTERED).clear();
}

pub(crate) fn register(api: &'static str, device: PDEVICE_OBJECT) -> NTSTATUS {
    if !device::is_live(device) {
        violation(&SHUTDOWN_DEVICE, api, format!("{:#x}", device.addr()));
        return STATUS_INVALID_PARAMETER;
    }
    lock(&REGISTERED).push(Asked { device: device.expose_provenance(), told: false });
    STATUS_SUCCESS
}

/// All of a device's registrations go.
pub(crate) fn unregister(api: &'static str, device: PDEVICE_OBJECT) {
    let mut registered = lock(&REGISTERED);
    let before = registered.len();
    registered.retain(|asked| asked.device != device.addr());
    if registered.len() == before {
        drop(registered);
        violation(&SHUTDOWN_UNKNOWN, api, format!("{:#x}", device.addr()));
    }
}

/// A device goes.
pub(crate) fn deleted(api: &'static str, device: PDEVICE_OBJECT) {
    let mut registered = lock(&REGISTERED);
    let before = registered.len();
    registered.retain(|asked| asked.device != device.addr());
    if registered.len() != before {
        drop(registered);
        violation(&SHUTDOWN_LEFT, api, format!("{:#x}", device.addr()));
    }
}

unsafe extern "C" fn completed(_device: PDEVICE_OBJECT, _irp: PIRP, context: *mut c_void) -> NTSTATUS {
    // SAFETY: the flag of whoever sent the request and waits for it.
    let done = unsafe { &*context.cast::<AtomicBool>() };
    done.store(true, Ordering::Release);
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Sends one device its request, at APC_LEVEL: "IRQL <= APC_LEVEL in an arbitrary thread context".
fn send(device: usize) {
    const API: &str = "IRP_MJ_SHUTDOWN";
    let device = device as PDEVICE_OBJECT;
    let irp = fault::exempt(|| irp::allocate(API, 1));
    // SAFETY: the IRP is ours.
    let Some(location) = (unsafe { irp::next_location(API, irp) }) else { return };
    let done = Arc::new(AtomicBool::new(false));
    // SAFETY: the location belongs to the IRP.
    let location = unsafe { &mut *location };
    location.MajorFunction = IRP_MJ_SHUTDOWN.to_le_bytes()[0];
    location.CompletionRoutine = Some(completed);
    location.Context = Arc::as_ptr(&done).cast_mut().cast();
    location.Control = irp::invoke_on(true, true, true);
    let old = irql::raise(APC_LEVEL);
    // SAFETY: the IRP is ours, with its location set up.
    unsafe { irp::call_driver(API, device, irp) };
    irql::lower(old);
    let (limit, began) = (crate::boot::hang_after(), Instant::now());
    while !done.load(Ordering::Acquire) {
        if began.elapsed() > limit {
            violation(&SHUTDOWN_HANGS, API, format!("it is not completed after {limit:?}"));
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    irp::free(API, irp);
}

/// Tells every device that asked, the last one first, while other threads do as they like.
///
/// # Panics
/// When the host has no thread to do it on.
pub fn tell() {
    let told = driver::on_system_thread("shutdown", || {
        loop {
            let next = lock(&REGISTERED).iter_mut().rev().find(|asked| !asked.told).map(|asked| {
                asked.told = true;
                asked.device
            });
            let Some(device) = next else { break };
            let pointer: PDEVICE_OBJECT = device as PDEVICE_OBJECT;
            if device::reference(pointer) {
                send(device);
                device::dereference("IRP_MJ_SHUTDOWN", pointer);
            }
        }
    });
    assert!(told.is_ok(), "the host has no thread to shut down on");
}
