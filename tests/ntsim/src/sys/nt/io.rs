//! IRPs, MDLs, device objects and work items: wdm.h.

use super::types::{
    BOOLEAN, CCHAR, DEVICE_TYPE, DISPATCH_LEVEL, KIRQL, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED,
    MDL_PARTIAL, MDL_SOURCE_IS_NONPAGED_POOL, NTSTATUS, PAGE_SIZE, PASSIVE_LEVEL, PDEVICE_OBJECT,
    PDRIVER_OBJECT, PIO_COMPLETION_ROUTINE, PIO_WORKITEM, PIO_WORKITEM_ROUTINE, PIRP, PKIRQL, PMDL,
    PUNICODE_STRING, PVOID, ULONG, WORK_QUEUE_TYPE,
};
use super::{APC_LEVEL, FALSE, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, TRUE};
use crate::irql::require_at_most;
use crate::pool::{self, Kind, Range, Request};
use crate::verify::violation;
use crate::{device, fault, irp, rules, shutdown};

rules! {
    MDL_INVALID = ("MDL that is not there", "IoFreeMdl");
    MDL_MEMORY = ("MDL over memory that is not non-paged pool or an image", "MmBuildMdlForNonPagedPool");
    MDL_NOT_BUILT = ("MDL used before it was built", "MmGetSystemAddressForMdlSafe");
    DEVICE_OWNER = ("device created for no driver", "IoCreateDevice");
}

/// Page "IoAllocateIrp": IRQL <= DISPATCH_LEVEL. NULL when there is no memory.
///
/// # Safety
/// None needed.
pub unsafe extern "system-unwind" fn IoAllocateIrp(stack_size: CCHAR, _charge_quota: BOOLEAN) -> PIRP {
    const API: &str = "IoAllocateIrp";
    require_at_most(API, DISPATCH_LEVEL);
    if fault::fail(API) { core::ptr::null_mut() } else { irp::allocate(API, stack_size) }
}

/// Page "IoFreeIrp": IRQL <= DISPATCH_LEVEL; the IRP is not pending.
///
/// # Safety
/// Nothing refers to the IRP any more.
pub unsafe extern "system-unwind" fn IoFreeIrp(irp: PIRP) {
    const API: &str = "IoFreeIrp";
    require_at_most(API, DISPATCH_LEVEL);
    irp::free(API, irp);
}

/// Page "IoReuseIrp": IRQL <= DISPATCH_LEVEL; the IRP is not pending. Clears the completion routine.
///
/// # Safety
/// The IRP is the caller's.
pub unsafe extern "system-unwind" fn IoReuseIrp(irp: PIRP, status: NTSTATUS) {
    const API: &str = "IoReuseIrp";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    unsafe { irp::reuse(API, irp, status) };
}

/// Page "IoSetCompletionRoutine": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is the caller's; the routine may be called with the context once the IRP is sent.
pub unsafe extern "system-unwind" fn IoSetCompletionRoutine(
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    on_success: BOOLEAN,
    on_error: BOOLEAN,
    on_cancel: BOOLEAN,
) {
    const API: &str = "IoSetCompletionRoutine";
    require_at_most(API, DISPATCH_LEVEL);
    let control = irp::invoke_on(on_success != FALSE, on_error != FALSE, on_cancel != FALSE);
    // SAFETY: as the caller promises.
    unsafe { irp::set_completion(API, irp, routine, context, control) };
}

/// Page "IoSetCompletionRoutineEx": IRQL <= DISPATCH_LEVEL. As IoSetCompletionRoutine, but that the driver's image stays
/// until the routine has returned. It allocates memory, which goes when the routine has run: the IRP must be sent.
///
/// # Safety
/// As for IoSetCompletionRoutine; the device is the driver's.
pub unsafe extern "system-unwind" fn IoSetCompletionRoutineEx(
    device: PDEVICE_OBJECT,
    irp: PIRP,
    routine: PIO_COMPLETION_ROUTINE,
    context: PVOID,
    on_success: BOOLEAN,
    on_error: BOOLEAN,
    on_cancel: BOOLEAN,
) -> NTSTATUS {
    const API: &str = "IoSetCompletionRoutineEx";
    require_at_most(API, DISPATCH_LEVEL);
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let control = irp::invoke_on(on_success != FALSE, on_error != FALSE, on_cancel != FALSE);
    // SAFETY: as the caller promises.
    unsafe { irp::set_guarded_completion(API, device, irp, routine, context, control) }
}

/// Page "IofCallDriver", which IoCallDriver is: IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is the caller's, and its next location is set up for the device's driver.
pub unsafe extern "system-unwind" fn IofCallDriver(device: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
    const API: &str = "IoCallDriver";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    unsafe { irp::call_driver(API, device, irp) }
}

/// Page "IofCompleteRequest", which IoCompleteRequest is: IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP was sent to the caller, with its status filled in.
pub unsafe extern "system-unwind" fn IofCompleteRequest(irp: PIRP, _boost: CCHAR) {
    require_at_most("IoCompleteRequest", DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    let block = unsafe { &(*irp).IoStatus };
    // SAFETY: a request's IoStatus holds a status.
    let (status, information) = (unsafe { block.u.Status }, block.Information);
    // SAFETY: as the caller promises.
    unsafe { irp::complete(irp, status, information) };
}

/// Page "IoCancelIrp": IRQL <= DISPATCH_LEVEL. TRUE when a cancel routine was called.
///
/// # Safety
/// The IRP is the caller's, pending or not.
pub unsafe extern "system-unwind" fn IoCancelIrp(irp: PIRP) -> BOOLEAN {
    const API: &str = "IoCancelIrp";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if unsafe { irp::cancel(API, irp) } { TRUE } else { FALSE }
}

/// Page "IoAcquireCancelSpinLock": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `level` is writable.
pub unsafe extern "system-unwind" fn IoAcquireCancelSpinLock(level: PKIRQL) {
    require_at_most("IoAcquireCancelSpinLock", DISPATCH_LEVEL);
    let before = irp::acquire_cancel_lock();
    // SAFETY: as the caller promises.
    unsafe { level.write(before) };
}

/// Page "IoReleaseCancelSpinLock": DISPATCH_LEVEL, on the thread that holds it.
///
/// # Safety
/// The caller holds the cancel spin lock.
pub unsafe extern "system-unwind" fn IoReleaseCancelSpinLock(level: KIRQL) {
    irp::release_cancel_lock("IoReleaseCancelSpinLock", level);
}

/// Page "IoRegisterShutdownNotification": PASSIVE_LEVEL.
///
/// # Safety
/// The device is the caller's.
pub unsafe extern "system-unwind" fn IoRegisterShutdownNotification(device: PDEVICE_OBJECT) -> NTSTATUS {
    const API: &str = "IoRegisterShutdownNotification";
    require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) { STATUS_INSUFFICIENT_RESOURCES } else { shutdown::register(API, device) }
}

/// Page "IoUnregisterShutdownNotification": PASSIVE_LEVEL; all that was registered for the device goes.
///
/// # Safety
/// The device is the caller's.
pub unsafe extern "system-unwind" fn IoUnregisterShutdownNotification(device: PDEVICE_OBJECT) {
    const API: &str = "IoUnregisterShutdownNotification";
    require_at_most(API, PASSIVE_LEVEL);
    shutdown::unregister(API, device);
}

/// The pages that a buffer touches (page "ADDRESS_AND_SIZE_TO_SPAN_PAGES").
fn pages(address: usize, length: usize) -> usize {
    (address % PAGE_SIZE + length).div_ceil(PAGE_SIZE)
}

/// Page "IoAllocateMdl": IRQL <= DISPATCH_LEVEL. NULL when there is no memory. With an IRP, the MDL is attached to it: as
/// its first, or behind the last when it is a secondary buffer.
///
/// # Safety
/// `irp` is NULL or an IRP of the caller's.
pub unsafe extern "system-unwind" fn IoAllocateMdl(
    address: PVOID,
    length: ULONG,
    secondary: BOOLEAN,
    _charge_quota: BOOLEAN,
    irp: PIRP,
) -> PMDL {
    const API: &str = "IoAllocateMdl";
    require_at_most(API, DISPATCH_LEVEL);
    if fault::fail(API) {
        return core::ptr::null_mut();
    }
    let size = size_of::<MDL>() + pages(address.addr(), length as usize) * size_of::<usize>();
    let mdl: PMDL = pool::allocate(&Request::object(API, Kind::Mdl, size)).cast();
    // SAFETY: null, or a zeroed block of that size; zeroes are a valid MDL.
    let Some(fields) = (unsafe { mdl.as_mut() }) else { return core::ptr::null_mut() };
    let offset = address.addr() % PAGE_SIZE;
    fields.Size = i16::try_from(size).unwrap_or(i16::MAX);
    fields.StartVa = address.wrapping_byte_sub(offset);
    fields.ByteOffset = u32::try_from(offset).unwrap_or(0);
    fields.ByteCount = length;
    // SAFETY: as the caller promises.
    if let Some(irp) = unsafe { irp.as_mut() } {
        if secondary == FALSE {
            irp.MdlAddress = mdl;
        } else {
            let mut link = &mut irp.MdlAddress;
            // SAFETY: the chain consists of live MDLs.
            while let Some(next) = unsafe { link.as_mut() } {
                link = &mut next.Next;
            }
            *link = mdl;
        }
    }
    mdl
}

fn is_mdl(api: &'static str, mdl: PMDL) -> bool {
    let there = pool::with_block(Kind::Mdl, mdl.cast(), |_| ()).is_some();
    if !there {
        violation(&MDL_INVALID, api, format!("{:#x}", mdl.addr()));
    }
    there
}

/// Page "IoFreeMdl": IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// Nothing refers to the MDL any more.
pub unsafe extern "system-unwind" fn IoFreeMdl(mdl: PMDL) {
    const API: &str = "IoFreeMdl";
    require_at_most(API, DISPATCH_LEVEL);
    if is_mdl(API, mdl) {
        pool::release(API, Kind::Mdl, mdl.cast(), 0);
    }
}

/// Page "MmBuildMdlForNonPagedPool": IRQL <= DISPATCH_LEVEL; the memory is non-paged pool or lies in an image.
///
/// # Safety
/// The MDL describes memory that stays for as long as the MDL.
pub unsafe extern "system-unwind" fn MmBuildMdlForNonPagedPool(mdl: PMDL) {
    const API: &str = "MmBuildMdlForNonPagedPool";
    require_at_most(API, DISPATCH_LEVEL);
    if !is_mdl(API, mdl) {
        return;
    }
    // SAFETY: it is a live MDL.
    let fields = unsafe { &mut *mdl };
    let start = fields.StartVa.wrapping_byte_add(fields.ByteOffset as usize);
    match pool::range(start.cast(), fields.ByteCount as usize) {
        Range::Inside { paged: false } | Range::Elsewhere => {}
        bad => {
            violation(&MDL_MEMORY, API, format!("{:#x}, {} bytes: {bad:?}", start.addr(), fields.ByteCount));
        }
    }
    fields.MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
    fields.MappedSystemVa = start;
}

/// Page "MmGetSystemAddressForMdlSafe": IRQL <= DISPATCH_LEVEL. An MDL over non-paged pool, or one that is mapped already,
/// has its address; one of locked pages is mapped now, which can fail.
///
/// # Safety
/// The MDL was built.
pub unsafe extern "system-unwind" fn MmGetSystemAddressForMdlSafe(mdl: PMDL, _priority: ULONG) -> PVOID {
    const API: &str = "MmGetSystemAddressForMdlSafe";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises. It may be another's MDL, so it is not looked up.
    let fields = unsafe { &mut *mdl };
    let built = MDL_SOURCE_IS_NONPAGED_POOL | MDL_MAPPED_TO_SYSTEM_VA | MDL_PAGES_LOCKED | MDL_PARTIAL;
    if fields.MdlFlags & built == 0 {
        violation(&MDL_NOT_BUILT, API, format!("{:#x}", mdl.addr()));
        return core::ptr::null_mut();
    }
    if fields.MdlFlags & (MDL_SOURCE_IS_NONPAGED_POOL | MDL_MAPPED_TO_SYSTEM_VA) == 0 {
        if fault::fail(API) {
            return core::ptr::null_mut();
        }
        fields.MappedSystemVa = fields.StartVa.wrapping_byte_add(fields.ByteOffset as usize);
        fields.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    }
    fields.MappedSystemVa
}

/// Page "IoCreateDevice": IRQL <= APC_LEVEL.
///
/// # Safety
/// `driver` is the caller's driver object, `name` NULL or valid, `created` writable.
pub unsafe extern "system-unwind" fn IoCreateDevice(
    driver: PDRIVER_OBJECT,
    extension_size: ULONG,
    name: PUNICODE_STRING,
    device_type: DEVICE_TYPE,
    characteristics: ULONG,
    exclusive: BOOLEAN,
    created: *mut PDEVICE_OBJECT,
) -> NTSTATUS {
    const API: &str = "IoCreateDevice";
    require_at_most(API, APC_LEVEL);
    // SAFETY: null or readable, as the caller promises.
    if !unsafe { device::is_io_object(driver.cast()) } {
        violation(&DEVICE_OWNER, API, format!("{:#x}", driver.addr()));
        return super::STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: as the caller promises.
    let name = unsafe { super::string::text(name) };
    let exclusive = exclusive != FALSE;
    // SAFETY: it is a driver object.
    let made =
        unsafe { device::create(API, driver, extension_size, name, device_type, characteristics, exclusive) };
    match made {
        Ok(device) => {
            // SAFETY: as the caller promises.
            unsafe { created.write(device) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Page "IoDeleteDevice": IRQL <= APC_LEVEL.
///
/// # Safety
/// The driver does not use the device any more.
pub unsafe extern "system-unwind" fn IoDeleteDevice(device: PDEVICE_OBJECT) {
    const API: &str = "IoDeleteDevice";
    require_at_most(API, APC_LEVEL);
    device::delete(API, device);
}

/// Page "IoAllocateWorkItem": IRQL <= DISPATCH_LEVEL. NULL when there is no memory.
///
/// # Safety
/// `device` is a device or driver object of the caller's.
pub unsafe extern "system-unwind" fn IoAllocateWorkItem(device: PDEVICE_OBJECT) -> PIO_WORKITEM {
    const API: &str = "IoAllocateWorkItem";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    if !unsafe { device::is_io_object(device.cast()) } {
        violation(&device::WORK_ITEM_DEVICE, API, format!("{:#x}", device.addr()));
        return core::ptr::null_mut();
    }
    if fault::fail(API) {
        return core::ptr::null_mut();
    }
    device::allocate_work_item(API, device.cast())
}

/// Page "IoQueueWorkItem": IRQL <= DISPATCH_LEVEL; the item is not queued already.
///
/// # Safety
/// The routine may be called with the context on another thread, at PASSIVE_LEVEL.
pub unsafe extern "system-unwind" fn IoQueueWorkItem(
    item: PIO_WORKITEM,
    routine: PIO_WORKITEM_ROUTINE,
    _queue: WORK_QUEUE_TYPE,
    context: PVOID,
) {
    const API: &str = "IoQueueWorkItem";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    unsafe { device::queue_work_item(API, item, routine, context) };
}

/// Page "IoFreeWorkItem": IRQL <= DISPATCH_LEVEL; not queued, but its own routine may free it.
///
/// # Safety
/// The item is not used any more.
pub unsafe extern "system-unwind" fn IoFreeWorkItem(item: PIO_WORKITEM) {
    const API: &str = "IoFreeWorkItem";
    require_at_most(API, DISPATCH_LEVEL);
    device::free_work_item(API, item);
}
