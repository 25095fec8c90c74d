//! The driver's device object: unnamed, without a link, so that nothing in user mode can open it.
//!
//! It is what binds callouts and completion routines to the driver: while one is under way, the device is referenced,
//! and the driver's image stays. No request comes to it but those that [`super::irp`] takes back, and the
//! one that tells of the system's shutdown, which is for [`super::shutdown`].

use core::ptr::NonNull;

use super::irp;
use super::irql::Passive;
use super::shutdown;
use super::status::{Result, Status};
use crate::sys::nt;

/// A device object. It must be [deleted](Device::delete) before the driver unloads; one that is dropped instead
/// leaks, and the verifier names it.
#[derive(Debug)]
#[must_use = "a device must be deleted before the driver unloads"]
pub struct Device {
    object: NonNull<nt::DEVICE_OBJECT>,
}

// SAFETY: a kernel object that any thread may refer to.
unsafe impl Send for Device {}
// SAFETY: nothing is changed through a shared device.
unsafe impl Sync for Device {}

/// The driver's own object. It is there for as long as the driver's code is.
#[derive(Clone, Copy, Debug)]
pub struct DriverObject {
    object: NonNull<nt::DRIVER_OBJECT>,
}

// SAFETY: a kernel object that any thread may refer to.
unsafe impl Send for DriverObject {}
// SAFETY: nothing is changed through it.
unsafe impl Sync for DriverObject {}

impl DriverObject {
    pub(super) fn as_raw(self) -> *mut nt::DRIVER_OBJECT {
        self.object.as_ptr()
    }
}

impl Device {
    /// Makes a device (IoCreateDevice) of type FILE_DEVICE_NETWORK.
    ///
    /// # Safety
    /// `driver` is the driver object that DriverEntry was given.
    ///
    /// # Errors
    /// What IoCreateDevice returns.
    pub unsafe fn try_new(_passive: &Passive, driver: *mut nt::DRIVER_OBJECT) -> Result<Self> {
        let mut object = core::ptr::null_mut();
        // SAFETY: the caller's driver object; the token says PASSIVE_LEVEL.
        let status = unsafe {
            nt::IoCreateDevice(
                driver,
                0,
                core::ptr::null_mut(),
                nt::FILE_DEVICE_NETWORK,
                nt::FILE_DEVICE_SECURE_OPEN,
                nt::FALSE,
                &raw mut object,
            )
        };
        Status(status).exact()?;
        let object = NonNull::new(object).ok_or(Status::UNSUCCESSFUL)?;
        // SAFETY: the caller's driver object, in its DriverEntry.
        let functions = unsafe { &mut (*driver).MajorFunction };
        if let Some(function) = functions.get_mut(usize::from(nt::IRP_MJ_INTERNAL_DEVICE_CONTROL)) {
            *function = Some(irp::take_back);
        }
        if let Some(function) = functions.get_mut(usize::from(nt::IRP_MJ_SHUTDOWN)) {
            *function = Some(shutdown::dispatch);
        }
        irp::guard(Some(object));
        Ok(Self { object })
    }

    /// The driver that the device belongs to.
    pub fn driver(&self) -> Option<DriverObject> {
        // SAFETY: the device is there, and its driver does not change.
        let object = unsafe { self.object.as_ref() }.DriverObject;
        NonNull::new(object).map(|object| DriverObject { object })
    }

    /// The object, for calls that bind something to the device (FwpsCalloutRegister3).
    pub fn as_raw(&self) -> *mut nt::DEVICE_OBJECT {
        self.object.as_ptr()
    }

    /// Deletes the device (IoDeleteDevice). Whatever was bound to it is gone by now.
    pub fn delete(self, _passive: &Passive) {
        irp::guard(None);
        // SAFETY: ours, and deleted once; the token says PASSIVE_LEVEL.
        unsafe { nt::IoDeleteDevice(self.object.as_ptr()) };
    }
}
