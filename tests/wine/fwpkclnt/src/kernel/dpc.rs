//! Deferred procedure calls. Wine takes them and never makes them.
//!
//! One thread makes the calls, at DISPATCH_LEVEL, in the order in which they were queued.

use alloc::collections::VecDeque;
use core::ptr::null_mut;

use wine_support::sync::{Condvar, Mutex};
use wine_support::thread;

use crate::irql;
use crate::sys::nt::{APC_LEVEL, BOOLEAN, FALSE, KDPC, PVOID, TRUE};

struct Queue {
    /// Addresses of KDPCs.
    waiting: VecDeque<usize>,
    running: bool,
    /// Whether there is a thread.
    served: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { waiting: VecDeque::new(), running: false, served: false });
static QUEUED: Condvar = Condvar::new();
static IDLE: Condvar = Condvar::new();

fn serve() {
    let mut queue = QUEUE.lock();
    loop {
        let Some(address) = queue.waiting.pop_front() else {
            queue = QUEUED.wait(queue);
            continue;
        };
        let dpc = core::ptr::with_exposed_provenance_mut::<KDPC>(address);
        // SAFETY: by the page "KeInsertQueueDpc" it stays until its routine runs. It may be queued again from here on,
        // or be freed by the routine: what it holds is taken before.
        let taken = unsafe { dpc.read() };
        // SAFETY: as above; under the queue's lock, as all its changes are.
        unsafe { (*dpc).DpcData = null_mut() };
        queue.running = true;
        drop(queue);
        if let Some(routine) = taken.DeferredRoutine {
            let _raised = irql::raise_scope();
            irql::same_irql("DeferredRoutine", || {
                // SAFETY: the driver initialised the DPC with the routine and its context.
                unsafe { routine(dpc, taken.DeferredContext, taken.SystemArgument1, taken.SystemArgument2) };
            });
        }
        queue = QUEUE.lock();
        queue.running = false;
        IDLE.notify_all();
    }
}

/// FALSE if it is queued already.
pub(super) unsafe extern "system" fn KeInsertQueueDpc(
    dpc: *mut KDPC,
    first: PVOID,
    second: PVOID,
) -> BOOLEAN {
    let mut queue = QUEUE.lock();
    // SAFETY: by the function's page the DPC is initialised; under the queue's lock.
    let object = unsafe { &mut *dpc };
    if !object.DpcData.is_null() {
        return FALSE;
    }
    object.SystemArgument1 = first;
    object.SystemArgument2 = second;
    object.DpcData = dpc.cast();
    queue.waiting.push_back(dpc.expose_provenance());
    if !queue.served {
        queue.served = true;
        drop(thread::spawn(serve));
    }
    drop(queue);
    QUEUED.notify_one();
    TRUE
}

/// FALSE if it was not queued.
pub(super) unsafe extern "system" fn KeRemoveQueueDpc(dpc: *mut KDPC) -> BOOLEAN {
    let mut queue = QUEUE.lock();
    let before = queue.waiting.len();
    queue.waiting.retain(|address| *address != dpc.addr());
    if queue.waiting.len() == before {
        return FALSE;
    }
    // SAFETY: it was queued, so it is there; under the queue's lock.
    unsafe { (*dpc).DpcData = null_mut() };
    TRUE
}

/// Returns when all calls that were queued have been made.
pub(super) unsafe extern "system" fn KeFlushQueuedDpcs() {
    irql::require_at_most("KeFlushQueuedDpcs", APC_LEVEL);
    let mut queue = QUEUE.lock();
    while queue.running || !queue.waiting.is_empty() {
        queue = IDLE.wait(queue);
    }
}
