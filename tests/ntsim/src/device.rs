//! Device objects and work items.
//!
//! A queued work item holds a reference to its device object until its routine has returned, and so does a completion
//! routine that IoSetCompletionRoutineEx has set; a device deleted meanwhile goes when the last reference does, and the
//! driver's image stays until then (pages "IoDeleteDevice", "System Worker Threads", "IoSetCompletionRoutineEx").

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::pool::{self, Kind, Request};
use crate::sys::nt::{
    DEVICE_OBJECT, DO_DEVICE_HAS_NAME, DO_DEVICE_INITIALIZING, DO_EXCLUSIVE, DRIVER_OBJECT, IO_TYPE_DEVICE,
    IO_TYPE_DRIVER, NTSTATUS, PDEVICE_OBJECT, PDRIVER_OBJECT, PIO_WORKITEM, PIO_WORKITEM_ROUTINE,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_OBJECT_NAME_COLLISION,
};
use crate::verify::{lock, violation};
use crate::{irql, rules, threads};

rules! {
    DEVICE_INVALID = ("device object that is not there", "IoDeleteDevice");
    WORK_ITEM_INVALID = ("work item that is not there", "IoFreeWorkItem");
    WORK_ITEM_QUEUED = ("work item queued or freed while it is queued", "IoFreeWorkItem");
    WORK_ITEM_DEVICE = ("work item without a device object", "IoAllocateWorkItem");
    WORK_ITEM_HANGS = ("work items do not end", "System Worker Threads");
}

/// The states of a work item's block.
const IDLE: u32 = 0;
const QUEUED: u32 = 1;

/// The most worker threads at a time.
const WORKERS: usize = 16;

struct Device {
    /// Work items queued or running on it, and completion routines that are set.
    references: usize,
    deleted: bool,
    name: Option<String>,
}

struct WorkItem {
    owner: *mut c_void,
}

struct Queued {
    item: usize,
    device: usize,
    routine: unsafe extern "C" fn(PDEVICE_OBJECT, *mut c_void),
    context: usize,
}

struct State {
    devices: Option<HashMap<usize, Device>>,
    queue: VecDeque<Queued>,
    workers: usize,
    idle: usize,
    running: usize,
    stopping: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    devices: None,
    queue: VecDeque::new(),
    workers: 0,
    idle: 0,
    running: 0,
    stopping: false,
});
static WORK: Condvar = Condvar::new();
static DONE: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    lock(&STATE)
}

pub(crate) fn start() {
    *state() =
        State { devices: None, queue: VecDeque::new(), workers: 0, idle: 0, running: 0, stopping: false };
}

pub(crate) fn stop() {
    let mut state = state();
    state.stopping = true;
    state.queue.clear();
    state.devices = None;
    WORK.notify_all();
}

/// Creates a device object with an extension of `extension_size` bytes and links it into the driver's list.
///
/// # Safety
/// `driver` is the driver's object.
pub(crate) unsafe fn create(
    api: &'static str,
    driver: PDRIVER_OBJECT,
    extension_size: u32,
    name: Option<String>,
    device_type: u32,
    characteristics: u32,
    exclusive: bool,
) -> Result<PDEVICE_OBJECT, NTSTATUS> {
    let mut state = state();
    let devices = state.devices.get_or_insert_default();
    if name.is_some() && devices.values().any(|device| device.name == name) {
        return Err(STATUS_OBJECT_NAME_COLLISION);
    }
    let size = size_of::<DEVICE_OBJECT>() + extension_size as usize;
    let device: PDEVICE_OBJECT = pool::allocate(&Request::object(api, Kind::Device, size)).cast();
    // SAFETY: null, or a zeroed block of that size; zeroes are a valid device object.
    let Some(fields) = (unsafe { device.as_mut() }) else { return Err(STATUS_INSUFFICIENT_RESOURCES) };
    fields.Type = IO_TYPE_DEVICE;
    fields.Size = u16::try_from(size).unwrap_or(u16::MAX);
    fields.DriverObject = driver;
    fields.Flags = DO_DEVICE_INITIALIZING
        | if name.is_some() { DO_DEVICE_HAS_NAME } else { 0 }
        | if exclusive { DO_EXCLUSIVE } else { 0 };
    fields.Characteristics = characteristics;
    fields.DeviceType = device_type;
    fields.StackSize = 1;
    if extension_size != 0 {
        // SAFETY: the extension lies behind the device object in the same block.
        fields.DeviceExtension = unsafe { device.add(1) }.cast();
    }
    // SAFETY: as the caller promises.
    fields.NextDevice = unsafe { (*driver).DeviceObject };
    // SAFETY: as the caller promises.
    unsafe { (*driver).DeviceObject = device };
    devices.insert(device.expose_provenance(), Device { references: 0, deleted: false, name });
    Ok(device)
}

/// Unlinks a device object; it goes once no work item holds it.
pub(crate) fn delete(api: &'static str, device: PDEVICE_OBJECT) {
    crate::shutdown::deleted(api, device);
    let mut state = state();
    let Some(entry) =
        state.devices.get_or_insert_default().get_mut(&device.addr()).filter(|entry| !entry.deleted)
    else {
        drop(state);
        violation(&DEVICE_INVALID, api, format!("{:#x}", device.addr()));
        return;
    };
    entry.deleted = true;
    entry.name = None;
    // SAFETY: the device is in the table, and its driver object outlives it.
    unsafe { unlink(device) };
    free_if_unused(&mut state, device.addr(), api);
}

/// # Safety
/// `device` is live, and so is its driver object.
unsafe fn unlink(device: PDEVICE_OBJECT) {
    // SAFETY: as the caller promises.
    let driver: *mut DRIVER_OBJECT = unsafe { (*device).DriverObject };
    // SAFETY: as the caller promises.
    let mut link: *mut PDEVICE_OBJECT = unsafe { &raw mut (*driver).DeviceObject };
    // SAFETY: the list consists of live devices of this driver.
    while let Some(next) = unsafe { link.as_mut() }.filter(|next| !next.is_null()) {
        if *next == device {
            // SAFETY: as the caller promises.
            *next = unsafe { (*device).NextDevice };
            return;
        }
        // SAFETY: the entry is a live device.
        link = unsafe { &raw mut (**next).NextDevice };
    }
}

fn free_if_unused(state: &mut State, device: usize, api: &'static str) {
    let devices = state.devices.get_or_insert_default();
    if devices.get(&device).is_some_and(|entry| entry.deleted && entry.references == 0) {
        devices.remove(&device);
        pool::release(api, Kind::Device, device as *mut u8, 0);
    }
}

/// Allocates a work item for a device or driver object. Null when there is no memory.
pub(crate) fn allocate_work_item(api: &'static str, owner: *mut c_void) -> PIO_WORKITEM {
    if owner.is_null() {
        violation(&WORK_ITEM_DEVICE, api, "NULL");
        return ptr::null_mut();
    }
    let item: *mut WorkItem =
        pool::allocate(&Request::object(api, Kind::WorkItem, size_of::<WorkItem>())).cast();
    if !item.is_null() {
        // SAFETY: the block has room for it.
        unsafe { item.write(WorkItem { owner }) };
    }
    item.cast()
}

pub(crate) fn free_work_item(api: &'static str, item: PIO_WORKITEM) {
    match pool::with_block(Kind::WorkItem, item.cast(), |block| block.state) {
        Some(IDLE) => pool::release(api, Kind::WorkItem, item.cast(), 0),
        Some(_) => violation(&WORK_ITEM_QUEUED, api, format!("{:#x}", item.addr())),
        None => violation(&WORK_ITEM_INVALID, api, format!("{:#x}", item.addr())),
    }
}

/// Queues a work item.
///
/// # Safety
/// The routine may be called with the context on a worker thread.
pub(crate) unsafe fn queue_work_item(
    api: &'static str,
    item: PIO_WORKITEM,
    routine: PIO_WORKITEM_ROUTINE,
    context: *mut c_void,
) {
    let Some(routine) = routine else {
        violation(&WORK_ITEM_INVALID, api, "WorkerRoutine is NULL");
        return;
    };
    let before =
        pool::with_block(Kind::WorkItem, item.cast(), |block| std::mem::replace(&mut block.state, QUEUED));
    match before {
        None => violation(&WORK_ITEM_INVALID, api, format!("{:#x}", item.addr())),
        Some(IDLE) => {
            // SAFETY: it is a live work item.
            let owner = unsafe { (*item.cast::<WorkItem>()).owner };
            let mut state = state();
            let device = state.devices.get_or_insert_default().get_mut(&owner.addr());
            let Some(device) = device else {
                drop(state);
                pool::with_block(Kind::WorkItem, item.cast(), |block| block.state = IDLE);
                violation(&WORK_ITEM_DEVICE, api, format!("{:#x} is no device object", owner.addr()));
                return;
            };
            device.references += 1;
            state.queue.push_back(Queued {
                item: item.addr(),
                device: owner.addr(),
                routine,
                context: context.expose_provenance(),
            });
            if state.idle < state.queue.len() && state.workers < WORKERS {
                state.workers += 1;
                threads::service("ntsim worker", work);
            }
            WORK.notify_one();
        }
        Some(_) => violation(&WORK_ITEM_QUEUED, api, format!("{:#x}", item.addr())),
    }
}

/// A system worker thread.
fn work() {
    let mut state = state();
    loop {
        let Some(queued) = state.queue.pop_front() else {
            if state.stopping {
                return;
            }
            state.idle += 1;
            state = WORK.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        state.running += 1;
        drop(state);
        // The item is out of the queue before its routine runs, so that the routine may free it or queue it again.
        pool::with_block(Kind::WorkItem, queued.item as *const u8, |block| block.state = IDLE);
        irql::same_irql("WorkItem", || {
            // SAFETY: whoever queued it promised so; the device is referenced.
            unsafe { (queued.routine)(queued.device as PDEVICE_OBJECT, queued.context as *mut c_void) };
        });
        state = self::state();
        state.running -= 1;
        if let Some(device) = state.devices.get_or_insert_default().get_mut(&queued.device) {
            device.references -= 1;
        }
        free_if_unused(&mut state, queued.device, "IoDeleteDevice");
        DONE.notify_all();
    }
}

/// Waits until no work item is queued or running, as the I/O manager does before it takes a driver's image away.
pub(crate) fn wait_for_work_items(api: &'static str) {
    let limit = crate::boot::hang_after();
    let began = Instant::now();
    let mut state = state();
    while !state.queue.is_empty() || state.running != 0 {
        state = DONE
            .wait_timeout(state, std::time::Duration::from_millis(200))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if began.elapsed() > limit {
            let left = state.queue.len() + state.running;
            drop(state);
            violation(&WORK_ITEM_HANGS, api, format!("{left} after {limit:?}"));
            return;
        }
    }
}

/// Holds a device object, and so its driver's image, until [`dereference`]; false if it is not there.
pub(crate) fn reference(device: PDEVICE_OBJECT) -> bool {
    let mut state = state();
    let entry = state.devices.get_or_insert_default().get_mut(&device.addr());
    let Some(entry) = entry.filter(|entry| !entry.deleted) else { return false };
    entry.references += 1;
    true
}

/// Lets go of a device object that [`reference()`] holds.
pub(crate) fn dereference(api: &'static str, device: PDEVICE_OBJECT) {
    let mut state = state();
    if let Some(entry) = state.devices.get_or_insert_default().get_mut(&device.addr()) {
        entry.references -= 1;
    }
    free_if_unused(&mut state, device.addr(), api);
}

/// Whether there is such a device object that nobody has deleted.
pub(crate) fn is_live(device: PDEVICE_OBJECT) -> bool {
    state().devices.get_or_insert_default().get(&device.addr()).is_some_and(|entry| !entry.deleted)
}

/// Whether `object` is a device or driver object, by its type.
///
/// # Safety
/// `object` is null or readable.
pub(crate) unsafe fn is_io_object(object: *const c_void) -> bool {
    // SAFETY: as the caller promises; both kinds start with their type.
    unsafe { object.cast::<i16>().as_ref() }
        .is_some_and(|&object_type| object_type == IO_TYPE_DEVICE || object_type == IO_TYPE_DRIVER)
}
