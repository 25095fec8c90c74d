//! Data flows and the contexts that callouts associate with them (*Associating Context with a Data Flow*).
//! Callable at IRQL <= DISPATCH_LEVEL.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashMap;
use spin::mutex::SpinMutex;
use wfp_engine::flow::{AssociateError, Contexts, Deleted, Removal};

use super::host::has_flows;
use super::state::{ASYNCHRONOUS_DELETE, PUBLISHED};
use crate::rt::{self, Condvar, Lazy, Mutex, lock};
use crate::sys::nt::{
    NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_NOT_FOUND, STATUS_OBJECT_NAME_EXISTS, STATUS_PENDING,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};
use crate::{boot, irql};

/// A data flow: what a connection is to the filter engine once it is authorized. It ends with [`flow_end`], or when the
/// last reference goes.
#[derive(Clone, Debug)]
pub struct FlowRef(Arc<Flow>);

#[derive(Debug)]
pub(super) struct Flow {
    id: u64,
    /// Held for a few instructions only, twice for each classification.
    contexts: SpinMutex<Contexts>,
    aborted: AtomicBool,
    /// The machine that it was made on: callouts of a later one are not told of it.
    machine: u64,
}

const SHARDS: usize = 16;
type Shard = Mutex<HashMap<u64, Weak<Flow>>>;
static FLOWS: [Lazy<Shard>; SHARDS] = [const { Lazy::new(Shard::default) }; SHARDS];
static NEXT: AtomicU64 = AtomicU64::new(1);

fn shard(id: u64) -> &'static Shard {
    &FLOWS[usize::try_from(id).unwrap_or(0) % SHARDS]
}

fn find(id: u64) -> Option<Arc<Flow>> {
    lock(shard(id)).get(&id).and_then(Weak::upgrade)
}

impl FlowRef {
    /// The flow handle of the metadata; never 0.
    #[inline]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether a callout has aborted the flow (`FwpsFlowAbort0`): the stack then resets or drops the connection.
    pub fn aborted(&self) -> bool {
        self.0.aborted.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn flow(&self) -> &Flow {
        &self.0
    }
}

/// Makes a flow without contexts.
pub fn flow_create() -> FlowRef {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let flow = Arc::new(Flow {
        id,
        contexts: SpinMutex::new(Contexts::new()),
        aborted: AtomicBool::new(false),
        machine: boot::generation(),
    });
    lock(shard(id)).insert(id, Arc::downgrade(&flow));
    FlowRef(flow)
}

/// Ends a flow: each context that is still associated is deleted, by its callout's flowDeleteFn. "The context will be
/// automatically removed from the data flow by the filter engine when the data flow terminates" (*flowDeleteFn*).
pub fn flow_end(flow: &FlowRef) {
    flow.0.end();
}

impl Flow {
    fn end(&self) {
        lock(shard(self.id)).remove(&self.id);
        let deleted = self.contexts.lock().end();
        if self.machine != boot::generation() {
            return;
        }
        for context in deleted {
            delete(context);
        }
    }

    /// The context of a callout at a layer for one classification; 0 if there is none. To be released.
    #[inline]
    pub(super) fn acquire(&self, layer: u16, callout: u32) -> u64 {
        self.contexts.lock().acquire(layer, callout)
    }

    #[inline]
    pub(super) fn release(&self, layer: u16, callout: u32, context: u64) {
        let deleted = self.contexts.lock().release(layer, callout, context);
        if let Some(deleted) = deleted {
            call_flow_delete(deleted);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}

/// Deletes a context, here or on another thread.
fn delete(context: Deleted) {
    if ASYNCHRONOUS_DELETE.load(Ordering::Relaxed) {
        delete_later(context);
    } else {
        call_flow_delete(context);
    }
}

fn call_flow_delete(context: Deleted) {
    PUBLISHED.read(|published| {
        let Some(entry) = published.and_then(|published| published.callout(context.callout)) else {
            return;
        };
        if let Some(flow_delete) = entry.flow_delete {
            irql::same_irql("flowDeleteFn", || {
                // SAFETY: the driver registered the function; the callout stays while it has a context.
                unsafe { flow_delete(context.layer, context.callout, context.context) };
            });
        }
        entry.contexts.fetch_sub(1, Ordering::SeqCst);
    });
}

/// Contexts whose deletion another thread has in hand.
struct Later {
    pending: Mutex<usize>,
    done: Condvar,
}

static LATER: Later = Later { pending: Mutex::new(0), done: Condvar::new() };

/// The flow delete function runs on a thread of its own, at DISPATCH_LEVEL.
fn delete_later(context: Deleted) {
    *lock(&LATER.pending) += 1;
    rt::spawn("wfp flow delete", move || {
        rt::yield_now();
        {
            let _raised = irql::raise_scope();
            call_flow_delete(context);
        }
        *lock(&LATER.pending) -= 1;
        LATER.done.notify_all();
    });
}

/// Waits for deletions on other threads.
pub(super) fn drain() {
    let mut pending = lock(&LATER.pending);
    while *pending != 0 {
        pending = rt::wait(&LATER.done, pending);
    }
}

pub(super) fn reset() {
    for shard in &FLOWS {
        lock(shard).clear();
    }
}

/// Flows that still have contexts.
pub(super) fn report(leak: &mut impl FnMut(&'static str, usize, String)) {
    for shard in &FLOWS {
        let flows: Vec<Arc<Flow>> = lock(shard).values().filter_map(Weak::upgrade).collect();
        for flow in flows {
            let left = flow.contexts.lock().len();
            if left != 0 {
                let made_by = format!("FwpsFlowAssociateContext0, {left} on this flow");
                leak("WFP flow context", usize::try_from(flow.id).unwrap_or(usize::MAX), made_by);
            }
        }
    }
}

/// `FwpsFlowAssociateContext0`.
pub(crate) fn associate(flow: u64, layer: u16, id: u32, context: u64) -> NTSTATUS {
    PUBLISHED.read(|published| {
        // "Either the flowContext parameter is NULL or the callout specified by the calloutID parameter does not have
        // a flowDeleteFn registered"; "there must be a callout in the filter engine at the layer identified by the
        // layerId parameter".
        let entry = published
            .filter(|published| context != 0 && has_flows(layer) && published.snapshot.has_callout(id, layer))
            .and_then(|published| published.callout(id))
            .filter(|entry| entry.flow_delete.is_some());
        let Some(entry) = entry else {
            return STATUS_INVALID_PARAMETER;
        };
        let Some(flow) = find(flow) else {
            return STATUS_NOT_FOUND;
        };
        entry.contexts.fetch_add(1, Ordering::SeqCst);
        let result = if entry.leaving.load(Ordering::SeqCst) {
            STATUS_INVALID_PARAMETER
        } else {
            match flow.contexts.lock().associate(layer, id, context) {
                Ok(()) => return STATUS_SUCCESS,
                Err(AssociateError::Zero) => STATUS_INVALID_PARAMETER,
                Err(AssociateError::Exists) => STATUS_OBJECT_NAME_EXISTS,
                Err(AssociateError::Ended) => STATUS_NOT_FOUND,
            }
        };
        entry.contexts.fetch_sub(1, Ordering::SeqCst);
        result
    })
}

/// `FwpsFlowRemoveContext0`.
pub(crate) fn remove(flow: u64, layer: u16, callout: u32) -> NTSTATUS {
    let Some(flow) = find(flow) else {
        return STATUS_UNSUCCESSFUL;
    };
    let removal = flow.contexts.lock().remove(layer, callout);
    match removal {
        Removal::NotFound => STATUS_UNSUCCESSFUL,
        Removal::Pending => STATUS_PENDING,
        Removal::Done(context) if ASYNCHRONOUS_DELETE.load(Ordering::Relaxed) => {
            delete_later(context);
            STATUS_PENDING
        }
        Removal::Done(context) => {
            call_flow_delete(context);
            STATUS_SUCCESS
        }
    }
}

/// `FwpsFlowAbort0`: the flow is marked; the stack ends it.
pub(crate) fn flow_abort(flow: u64) -> NTSTATUS {
    match find(flow) {
        Some(flow) => {
            flow.aborted.store(true, Ordering::Release);
            STATUS_SUCCESS
        }
        None => STATUS_NOT_FOUND,
    }
}
