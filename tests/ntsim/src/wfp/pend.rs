//! Operations that a callout can pend and complete later (*FwpsPendOperation0*, *FwpsCompleteOperation0*).
//!
//! The stack offers a completion with a classification; a callout may take it. Nothing can be pended that was not
//! offered: without the offer, the metadata has no completion handle.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::ffi::c_void;

use hashbrown::HashMap;

use super::state::UNKNOWN_COMPLETION;
use crate::rt::{self, Lazy, Mutex, lock};
use crate::sys::fwp::{
    FWPS_INCOMING_METADATA_VALUES0, FWPS_METADATA_FIELD_COMPLETION_HANDLE, NET_BUFFER_LIST,
    STATUS_FWP_CANNOT_PEND,
};
use crate::sys::nt::{NTSTATUS, STATUS_INVALID_HANDLE};
use crate::verify::violation;

/// Called when the operation is completed, on the completing thread, with the packet that was given.
type OnComplete = Box<dyn FnOnce(*mut NET_BUFFER_LIST) + Send>;

struct Operation {
    on_complete: OnComplete,
    /// "Only an initial ALE flow authorization can be postponed": a reauthorization cannot.
    reauthorization: bool,
    pended: bool,
}

#[derive(Default)]
struct Operations {
    by_handle: HashMap<usize, Operation>,
    next: usize,
}

static OPERATIONS: Lazy<Mutex<Operations>> = Lazy::new(Mutex::default);

/// Handles start here, so that they are no other handles.
const BASE: usize = 0xC0_0000;

rt::thread_flags! {
    /// Whether the classification on this thread was pended.
    static PENDED;
}

/// An offer to pend one classification. Gone with it unless it was taken.
#[derive(Debug)]
pub struct Offer {
    handle: usize,
}

/// Offers a completion for one classification. `on_complete` runs once if a callout takes it, on the thread that
/// completes; the stack is then to authorize anew: "pended connections are reauthenticated after the
/// FwpsCompleteOperation0 function executes".
pub fn offer_completion(
    reauthorization: bool,
    on_complete: impl FnOnce(*mut NET_BUFFER_LIST) + Send + 'static,
) -> Offer {
    let mut operations = lock(&OPERATIONS);
    operations.next += 8;
    let handle = BASE + operations.next;
    let operation = Operation { on_complete: Box::new(on_complete), reauthorization, pended: false };
    operations.by_handle.insert(handle, operation);
    Offer { handle }
}

impl Offer {
    /// Puts the completion handle into the metadata of the classification.
    pub fn describe(&self, metadata: &mut FWPS_INCOMING_METADATA_VALUES0) {
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_COMPLETION_HANDLE;
        metadata.completionHandle = core::ptr::without_provenance_mut(self.handle);
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut operations = lock(&OPERATIONS);
        if operations.by_handle.get(&self.handle).is_some_and(|operation| !operation.pended) {
            operations.by_handle.remove(&self.handle);
        }
    }
}

/// Whether the classification that `body` makes on this thread is pended in it.
#[inline]
pub(super) fn watch<T>(body: impl FnOnce() -> T) -> (T, bool) {
    let outer = PENDED.replace(false);
    let result = body();
    (result, PENDED.replace(outer))
}

/// `FwpsPendOperation0`: the completion context, which is the handle.
pub(crate) fn pend(handle: *mut c_void) -> Result<*mut c_void, NTSTATUS> {
    let mut operations = lock(&OPERATIONS);
    let operation = operations.by_handle.get_mut(&handle.addr()).ok_or(STATUS_INVALID_HANDLE)?;
    if operation.reauthorization || operation.pended {
        return Err(STATUS_FWP_CANNOT_PEND);
    }
    operation.pended = true;
    PENDED.set(true);
    Ok(handle)
}

/// `FwpsCompleteOperation0`.
pub(crate) fn complete(context: *mut c_void, packet: *mut NET_BUFFER_LIST) {
    let operation = {
        let mut operations = lock(&OPERATIONS);
        match operations.by_handle.get(&context.addr()) {
            Some(operation) if operation.pended => operations.by_handle.remove(&context.addr()),
            _ => None,
        }
    };
    match operation {
        Some(operation) => (operation.on_complete)(packet),
        None => violation(&UNKNOWN_COMPLETION, "FwpsCompleteOperation0", format!("{context:p}")),
    }
}

pub(super) fn reset() {
    lock(&OPERATIONS).by_handle.clear();
}

pub(super) fn report(leak: &mut impl FnMut(&'static str, usize, String)) {
    for (handle, operation) in &lock(&OPERATIONS).by_handle {
        if operation.pended {
            leak("WFP pended operation", *handle, "FwpsPendOperation0".into());
        }
    }
}
