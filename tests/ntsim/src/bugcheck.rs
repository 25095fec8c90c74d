//! Bug checks, as drivers' callbacks see them (page "Writing a Bug Check Callback Routine"): at HIGH_LEVEL, with all other
//! processors standing still. Here they stand still at DISPATCH_LEVEL, where simulated threads let go of them; threads below
//! go on. Afterwards the simulated machine goes on too.

use std::ffi::CStr;
use std::sync::Mutex;

use crate::pool::{self, Range};
use crate::sys::nt::{
    GUID, HIGH_LEVEL, KBUGCHECK_CALLBACK_REASON, KBUGCHECK_REASON_CALLBACK_RECORD,
    KBUGCHECK_REASON_CALLBACK_ROUTINE, KBUGCHECK_SECONDARY_DUMP_DATA, KbCallbackSecondaryDumpData, PUCHAR,
};
use crate::verify::{lock, violation};
use crate::{driver, irql, rules};

rules! {
    BUGCHECK_RECORD = (
        "callback record that is not initialised, or registered already, or not in memory that stays",
        "KeInitializeCallbackRecord"
    );
    BUGCHECK_REASON = ("reason that is not simulated: only KbCallbackSecondaryDumpData is", "KeRegisterBugCheckReasonCallback");
    BUGCHECK_TOO_LONG = ("more data for the dump than is allowed", "KBUGCHECK_SECONDARY_DUMP_DATA");
    BUGCHECK_BUFFER = ("data for the dump that are not in resident memory", "Writing a Bug Check Callback Routine");
    BUGCHECK_TAG = ("two blocks with one GUID, of which the second cannot be read", "Writing a Bug Check Callback Routine");
}

/// A block of data in the crash dump.
#[derive(Clone, Debug)]
pub struct Block {
    /// Who registered the callback.
    pub component: String,
    pub tag: GUID,
    pub data: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Registration {
    record: usize,
    routine: KBUGCHECK_REASON_CALLBACK_ROUTINE,
    component: usize,
}

static REGISTRATIONS: Mutex<Vec<Registration>> = Mutex::new(Vec::new());

pub(crate) fn stop() {
    lock(&REGISTRATIONS).clear();
}

/// Callbacks that are registered.
pub(crate) fn registered() -> usize {
    lock(&REGISTRATIONS).len()
}

/// # Safety
/// The record and the component are valid until the registration is taken back.
pub(crate) unsafe fn register(
    api: &'static str,
    record: *mut KBUGCHECK_REASON_CALLBACK_RECORD,
    routine: KBUGCHECK_REASON_CALLBACK_ROUTINE,
    reason: KBUGCHECK_CALLBACK_REASON,
    component: PUCHAR,
) -> bool {
    if reason != KbCallbackSecondaryDumpData || routine.is_none() {
        violation(&BUGCHECK_REASON, api, format!("{reason}"));
        return false;
    }
    // SAFETY: as the caller promises.
    let is_empty = unsafe { (*record).State } == 0;
    let stays = matches!(
        pool::range(record.cast(), size_of::<KBUGCHECK_REASON_CALLBACK_RECORD>()),
        Range::Inside { paged: false } | Range::Elsewhere
    );
    let mut registrations = lock(&REGISTRATIONS);
    let is_new = !registrations.iter().any(|registration| registration.record == record.addr());
    if !(is_empty && stays && is_new) {
        drop(registrations);
        violation(&BUGCHECK_RECORD, api, format!("{:#x}", record.addr()));
        return false;
    }
    // SAFETY: as the caller promises. BufferInserted.
    unsafe { (*record).State = 1 };
    let registration = Registration {
        record: record.expose_provenance(),
        routine,
        component: component.expose_provenance(),
    };
    registrations.push(registration);
    true
}

/// Whether it was registered.
pub(crate) fn deregister(record: *mut KBUGCHECK_REASON_CALLBACK_RECORD) -> bool {
    let mut registrations = lock(&REGISTRATIONS);
    let before = registrations.len();
    registrations.retain(|registration| registration.record != record.addr());
    registrations.len() != before
}

/// A bug check: the data that drivers add to the crash dump, each of which may have so many bytes.
///
/// # Panics
/// When the host has no thread to do it on.
pub fn bug_check(maximum: u32) -> Vec<Block> {
    let blocks = driver::on_system_thread("bug check", move || {
        let old = irql::raise(HIGH_LEVEL);
        let frozen = irql::freeze();
        // Whoever would take a registration back stands still.
        let registrations = lock(&REGISTRATIONS);
        let blocks: Vec<Block> =
            registrations.iter().filter_map(|registration| ask(registration, maximum)).collect();
        drop(registrations);
        drop(frozen);
        irql::lower(old);
        blocks
    });
    let blocks = blocks.expect("the host has a thread");
    for (index, block) in blocks.iter().enumerate() {
        if blocks[..index].iter().any(|other| same(&other.tag, &block.tag)) {
            violation(&BUGCHECK_TAG, "KbCallbackSecondaryDumpData", block.component.clone());
        }
    }
    blocks
}

fn same(a: &GUID, b: &GUID) -> bool {
    (a.Data1, a.Data2, a.Data3, a.Data4) == (b.Data1, b.Data2, b.Data3, b.Data4)
}

/// Asks for the size first, with OutBuffer NULL, then for the data, with OutBuffer the system's own.
fn ask(registration: &Registration, maximum: u32) -> Option<Block> {
    const API: &str = "KbCallbackSecondaryDumpData";
    let routine = registration.routine?;
    let mut own = vec![0_u8; 512];
    let mut block = None;
    for size_alone in [true, false] {
        let in_buffer = own.as_mut_ptr().cast();
        let mut data = KBUGCHECK_SECONDARY_DUMP_DATA {
            InBuffer: in_buffer,
            InBufferLength: 512,
            MaximumAllowed: maximum,
            Guid: GUID { Data1: 0, Data2: 0, Data3: 0, Data4: [0; 8] },
            OutBuffer: if size_alone { std::ptr::null_mut() } else { in_buffer },
            OutBufferLength: 0,
        };
        let length = u32::try_from(size_of::<KBUGCHECK_SECONDARY_DUMP_DATA>()).ok()?;
        let record = std::ptr::with_exposed_provenance_mut(registration.record);
        irql::same_irql("bug check callback", || {
            // SAFETY: the driver registered it, with this record and for this reason.
            unsafe { routine(KbCallbackSecondaryDumpData, record, (&raw mut data).cast(), length) };
        });
        if data.OutBufferLength > maximum {
            violation(&BUGCHECK_TOO_LONG, API, format!("{} of {maximum} bytes", data.OutBufferLength));
            return None;
        }
        let (start, size) = (data.OutBuffer.cast::<u8>(), data.OutBufferLength as usize);
        let in_own = start.addr() == own.as_ptr().addr() && size <= own.len();
        let resident = matches!(pool::range(start, size), Range::Inside { paged: false } | Range::Elsewhere);
        if size == 0 {
            return None;
        }
        if start.is_null() || !(in_own || resident) {
            violation(&BUGCHECK_BUFFER, API, format!("{:#x}, {size} bytes", start.addr()));
            return None;
        }
        // SAFETY: the driver vouches for the buffer, which was looked at above.
        let bytes = unsafe { std::slice::from_raw_parts(start, size) }.to_vec();
        let component: *const std::ffi::c_char = std::ptr::with_exposed_provenance(registration.component);
        // SAFETY: the driver's text, with a zero at its end.
        let component = unsafe { CStr::from_ptr(component) }.to_string_lossy().into_owned();
        block = Some(Block { component, tag: data.Guid, data: bytes });
    }
    block
}
