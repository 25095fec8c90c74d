//! IRQL of the calling thread. Wine's own functions neither keep it nor tell it.

use crate::irql;
use crate::sys::nt::{DISPATCH_LEVEL, KIRQL};

pub(super) unsafe extern "system" fn KeGetCurrentIrql() -> KIRQL {
    irql::current()
}

pub(super) unsafe extern "system" fn KfRaiseIrql(new: KIRQL) -> KIRQL {
    irql::raise(new)
}

pub(super) unsafe extern "system" fn KeRaiseIrql(new: KIRQL, old: *mut KIRQL) {
    let level = irql::raise(new);
    // SAFETY: by the function's page it can be written.
    unsafe { old.write(level) };
}

pub(super) unsafe extern "system" fn KeRaiseIrqlToDpcLevel() -> KIRQL {
    irql::raise(DISPATCH_LEVEL)
}

pub(super) unsafe extern "system" fn KeLowerIrql(new: KIRQL) {
    irql::lower(new);
}

pub(super) unsafe extern "system" fn KfLowerIrql(new: KIRQL) {
    irql::lower(new);
}
