//! System work items. Wine has the I/O manager's (`IoQueueWorkItem`), not the executive's.

use wine_support::thread;

use crate::irql;
use crate::sys::nt::{DISPATCH_LEVEL, LIST_ENTRY, PVOID};

/// WORK_QUEUE_ITEM.
#[repr(C)]
pub(super) struct WorkQueueItem {
    list: LIST_ENTRY,
    routine: Option<unsafe extern "system" fn(parameter: PVOID)>,
    parameter: PVOID,
}

const _: () = assert!(size_of::<WorkQueueItem>() == 0x20);

/// The routine runs on a thread of its own, at PASSIVE_LEVEL.
pub(super) unsafe extern "system" fn ExQueueWorkItem(item: *mut WorkQueueItem, _queue: i32) {
    irql::require_at_most("ExQueueWorkItem", DISPATCH_LEVEL);
    // SAFETY: by the function's page it is initialised.
    let item = unsafe { &*item };
    let (routine, parameter) = (item.routine, item.parameter.expose_provenance());
    let run = move || {
        if let Some(routine) = routine {
            // SAFETY: the driver initialised the item with the routine and its parameter.
            unsafe { routine(core::ptr::with_exposed_provenance_mut(parameter)) };
        }
        irql::leave("WorkerRoutine");
    };
    drop(thread::spawn(run));
}
