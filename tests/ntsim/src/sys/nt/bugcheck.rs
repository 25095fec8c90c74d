//! What is done at a bug check: wdm.h `KeRegisterBugCheckReasonCallback`.

use super::types::{
    BOOLEAN, KBUGCHECK_CALLBACK_REASON, KBUGCHECK_REASON_CALLBACK_ROUTINE, PKBUGCHECK_REASON_CALLBACK_RECORD,
    PUCHAR,
};
use super::{FALSE, TRUE};
use crate::irql::require_at_most;
use crate::sys::nt::DISPATCH_LEVEL;
use crate::{bugcheck, fault};

/// Page "KeRegisterBugCheckReasonCallback": FALSE if it is not registered. The page names no IRQL; what it takes is a lock.
///
/// # Safety
/// The record is initialised, and stays with the component until it is taken back.
pub unsafe extern "system-unwind" fn KeRegisterBugCheckReasonCallback(
    record: PKBUGCHECK_REASON_CALLBACK_RECORD,
    routine: KBUGCHECK_REASON_CALLBACK_ROUTINE,
    reason: KBUGCHECK_CALLBACK_REASON,
    component: PUCHAR,
) -> BOOLEAN {
    const API: &str = "KeRegisterBugCheckReasonCallback";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    let taken = !fault::fail(API) && unsafe { bugcheck::register(API, record, routine, reason, component) };
    if taken { TRUE } else { FALSE }
}

/// Page "KeDeregisterBugCheckReasonCallback": FALSE if it is not registered.
///
/// # Safety
/// As documented.
pub unsafe extern "system-unwind" fn KeDeregisterBugCheckReasonCallback(
    record: PKBUGCHECK_REASON_CALLBACK_RECORD,
) -> BOOLEAN {
    require_at_most("KeDeregisterBugCheckReasonCallback", DISPATCH_LEVEL);
    if bugcheck::deregister(record) { TRUE } else { FALSE }
}
