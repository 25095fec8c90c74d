//! The system's shutdown, and whoever has something to finish before it (pages "IoRegisterShutdownNotification",
//! "IRP_MJ_SHUTDOWN").
//!
//! The request comes to the driver's device before the file systems are flushed, so that what is written then is kept;
//! IoRegisterLastChanceShutdownNotification, which tells later, allows no file any more. It comes at APC_LEVEL at most, in
//! the thread of whoever it is: nothing is done there but to ask a thread of the driver's own, and to wait for it, with a
//! bound. No machine is kept from going down.
//!
//! There is one such device, and one who is asked at a time.

use core::ptr::NonNull;

use super::device::Device;
use super::event::{Event, Kind};
use super::irql::{AtMostDispatch, Passive};
use super::lock::SpinLock;
use super::pool::{PoolArc, tags};
use super::status::{Result, Status};
use super::time::{self, Interval};
use crate::sys::nt;

/// How long the shutdown waits for who was asked.
const PATIENCE: Interval = Interval::from_millis(10_000);
/// How long it is until requests that are under way are looked for again.
const LOOK: Interval = Interval::from_millis(1);

/// What the request and who is asked have in common.
#[derive(Debug)]
pub struct Notice {
    asked: Event,
    done: Event,
}

impl Notice {
    /// One that nobody has asked for yet.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new() -> Result<PoolArc<Self>> {
        let (asked, done) = (Event::try_new(Kind::Notification)?, Event::try_new(Kind::Notification)?);
        PoolArc::try_new(tags::SYNC, Self { asked, done })
    }

    /// Set once the system shuts down.
    pub const fn asked(&self) -> &Event {
        &self.asked
    }

    /// There is nothing more to wait for.
    pub fn finish(&self) {
        self.done.set();
    }
}

struct Place {
    notice: Option<PoolArc<Notice>>,
    /// Requests that are under way.
    inside: u32,
}

static PLACE: SpinLock<Place> = SpinLock::new("shutdown notification", Place { notice: None, inside: 0 });

/// The registration. It must be [taken back](Registration::cancel) before the device is deleted.
#[derive(Debug)]
#[must_use = "it must be taken back before the device is deleted"]
pub struct Registration {
    device: NonNull<nt::DEVICE_OBJECT>,
}

// SAFETY: a kernel object that any thread may refer to.
unsafe impl Send for Registration {}
// SAFETY: nothing is done through a shared registration.
unsafe impl Sync for Registration {}

impl Registration {
    /// Asks by `notice` when the system shuts down (IoRegisterShutdownNotification).
    ///
    /// # Errors
    /// What IoRegisterShutdownNotification returns.
    pub fn try_new(passive: &mut Passive, device: &Device, notice: PoolArc<Notice>) -> Result<Self> {
        let raw = device.as_raw();
        let object = NonNull::new(raw).ok_or(Status::INVALID_PARAMETER)?;
        PLACE.lock(passive).notice = Some(notice);
        // SAFETY: the driver's own device, which the registration is taken back before; PASSIVE_LEVEL says the token.
        let registered = Status(unsafe { nt::IoRegisterShutdownNotification(raw) }).exact();
        if let Err(status) = registered {
            let notice = PLACE.lock(passive).notice.take();
            drop(notice);
            return Err(status);
        }
        Ok(Self { device: object })
    }

    /// Takes it back (IoUnregisterShutdownNotification), and waits until no request is under way.
    pub fn cancel(self, passive: &mut Passive) {
        // SAFETY: registered in `try_new`, and taken back once; PASSIVE_LEVEL says the token.
        unsafe { nt::IoUnregisterShutdownNotification(self.device.as_ptr()) };
        let notice = PLACE.lock(passive).notice.take();
        if let Some(notice) = &notice {
            notice.finish();
        }
        // The page does not say that a request under way is waited for.
        while PLACE.lock(passive).inside != 0 {
            time::delay(passive, LOOK);
        }
    }
}

/// The dispatch routine of IRP_MJ_SHUTDOWN.
///
/// # Safety
/// Called by the I/O manager, with a request that was sent to the driver's device.
pub(super) unsafe extern "C" fn dispatch(_device: *mut nt::DEVICE_OBJECT, irp: nt::PIRP) -> nt::NTSTATUS {
    // SAFETY: "IRQL <= APC_LEVEL"; lent to this function's own calls only. What waits here may be called up to APC_LEVEL.
    let mut passive = unsafe { Passive::assume() };
    let mut place = PLACE.lock(&mut passive);
    place.inside = place.inside.saturating_add(1);
    let notice = place.notice.clone();
    drop(place);
    if let Some(notice) = &notice {
        notice.asked.set();
        let _either_way = notice.done.wait(&passive, Some(PATIENCE));
    }
    drop(notice);
    // SAFETY: sent here.
    unsafe { nt::set_io_status(irp, nt::STATUS_SUCCESS) };
    // SAFETY: sent here, and not pending. The boost is none.
    unsafe { nt::IofCompleteRequest(irp, 0) };
    let irql: &mut AtMostDispatch = &mut passive;
    let mut place = PLACE.lock(irql);
    place.inside = place.inside.saturating_sub(1);
    nt::STATUS_SUCCESS
}
