//! Event Tracing for Windows, the providers' side. Wine has none of it.
//!
//! A provider is enabled as soon as it registers, for all levels and keywords; each event that it writes becomes one
//! line of `etw.jsonl` in the folder of the stand-ins, decoded by [`wine_support::tracelogging`], and one record of `etw.raw`,
//! as it came.

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::SystemInformation::GetSystemTimePreciseAsFileTime;
use windows_sys::Win32::System::Threading::{GetCurrentProcessId, GetCurrentThreadId};
use wine_support::json::{Value, json};
use wine_support::log::Appender;
use wine_support::sync::Mutex;
use wine_support::{env, time, tracelogging};

use crate::sys::nt::{
    BOOLEAN, FALSE, GUID, NTSTATUS, PASSIVE_LEVEL, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_HANDLE,
    STATUS_INVALID_PARAMETER, STATUS_SUCCESS, TRUE,
};
use crate::verify::violation;
use crate::{fault, irql};

crate::rules! {
    ETW_HANDLE = ("unknown registration handle", "");
    ETW_EVENT = ("event that does not describe itself", "TraceLogging");
}

/// EVENT_DESCRIPTOR.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct EventDescriptor {
    id: u16,
    version: u8,
    channel: u8,
    level: u8,
    opcode: u8,
    task: u16,
    keyword: u64,
}

/// EVENT_DATA_DESCRIPTOR.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct DataDescriptor {
    pointer: u64,
    size: u32,
    /// The lowest byte of the reserved member.
    kind: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<EventDescriptor>() == 16 && size_of::<DataDescriptor>() == 16);

/// ETWENABLECALLBACK.
type EnableCallback = unsafe extern "system" fn(
    source: *const GUID,
    control: u32,
    level: u8,
    match_any: u64,
    match_all: u64,
    filter: *mut c_void,
    context: *mut c_void,
);

/// EVENT_CONTROL_CODE_*.
const DISABLE: u32 = 0;
const ENABLE: u32 = 1;

/// EventProviderSetTraits of EVENT_INFO_CLASS.
const SET_TRAITS: i32 = 2;

/// What is asked of providers.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// `None`: nothing.
    pub level: Option<u8>,
    pub keywords: u64,
}

#[derive(Clone)]
struct Provider {
    handle: u64,
    id: GUID,
    name: String,
    callback: Option<EnableCallback>,
    context: usize,
}

struct State {
    providers: Vec<Provider>,
    next: u64,
    wanted: Wanted,
    events: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    providers: Vec::new(),
    next: 1,
    wanted: Wanted { level: Some(5), keywords: u64::MAX },
    events: 0,
});
/// Held while a callback runs: unregistering waits for it.
static CALLING: Mutex<()> = Mutex::new(());
static FILE: Appender = Appender::closed();
static RAW: Appender = Appender::closed();
/// The two files have the same events in the same order.
static WRITING: Mutex<()> = Mutex::new(());

/// Handles are no small numbers.
const BASE: u64 = 0xE7_0000;

fn tell(provider: &Provider, wanted: Wanted) {
    let Some(callback) = provider.callback else {
        return;
    };
    let (control, level, keywords) = match wanted.level {
        Some(level) => (ENABLE, level, wanted.keywords),
        None => (DISABLE, 0, 0),
    };
    // The session's identifier, which nobody here has: zero.
    let source = GUID { Data1: 0, Data2: 0, Data3: 0, Data4: [0; 8] };
    let context = core::ptr::with_exposed_provenance_mut(provider.context);
    irql::same_irql("EnableCallback", || {
        // SAFETY: the driver registered it with this context, and has not unregistered.
        unsafe { callback(&raw const source, control, level, keywords, 0, core::ptr::null_mut(), context) };
    });
}

/// Asks all providers for something else.
pub(crate) fn want(wanted: Wanted) {
    let _calling = CALLING.lock();
    let providers = {
        let mut state = STATE.lock();
        state.wanted = wanted;
        state.providers.clone()
    };
    for provider in &providers {
        tell(provider, wanted);
    }
}

/// Names and identifiers of the registered providers, and how many events there were.
pub(crate) fn state() -> (Vec<String>, u64) {
    let state = STATE.lock();
    (state.providers.iter().map(|provider| provider.name.clone()).collect(), state.events)
}

fn guid_bytes(id: &GUID) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&id.Data1.to_le_bytes());
    bytes[4..6].copy_from_slice(&id.Data2.to_le_bytes());
    bytes[6..8].copy_from_slice(&id.Data3.to_le_bytes());
    bytes[8..].copy_from_slice(&id.Data4);
    bytes
}

fn guid_text(id: &GUID) -> String {
    tracelogging::guid(guid_bytes(id))
}

/// "The enable callback may be called before EtwRegister returns": the handle is there when it is.
pub(super) unsafe extern "system" fn EtwRegister(
    id: *const GUID,
    callback: Option<EnableCallback>,
    context: *mut c_void,
    handle: *mut u64,
) -> NTSTATUS {
    irql::require_at_most("EtwRegister", PASSIVE_LEVEL);
    // SAFETY: by the function's page it is null or a GUID.
    let Some(id) = (unsafe { id.as_ref() }) else {
        return STATUS_INVALID_PARAMETER;
    };
    if fault::fail("EtwRegister") {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let _calling = CALLING.lock();
    let (provider, wanted) = {
        let mut state = STATE.lock();
        if state.next == 1
            && let Some(path) = env::file("etw.jsonl")
        {
            FILE.open(&path);
        }
        if state.next == 1
            && let Some(path) = env::file("etw.raw")
        {
            RAW.open(&path);
        }
        let provider = Provider {
            handle: BASE + state.next * 0x10,
            id: *id,
            name: guid_text(id),
            callback,
            context: context.expose_provenance(),
        };
        state.next += 1;
        state.providers.push(provider.clone());
        (provider, state.wanted)
    };
    // SAFETY: by the function's page it can be written.
    unsafe { handle.write(provider.handle) };
    if wanted.level.is_some() {
        tell(&provider, wanted);
    }
    STATUS_SUCCESS
}

pub(super) unsafe extern "system" fn EtwUnregister(handle: u64) -> NTSTATUS {
    irql::require_at_most("EtwUnregister", PASSIVE_LEVEL);
    let _calling = CALLING.lock();
    let mut state = STATE.lock();
    let before = state.providers.len();
    state.providers.retain(|provider| provider.handle != handle);
    if state.providers.len() == before {
        drop(state);
        return unknown("EtwUnregister", handle);
    }
    STATUS_SUCCESS
}

#[cold]
fn unknown(api: &'static str, handle: u64) -> NTSTATUS {
    violation(&ETW_HANDLE, api, alloc::format!("{handle:#x}"));
    STATUS_INVALID_HANDLE
}

pub(super) unsafe extern "system" fn EtwSetInformation(
    handle: u64,
    class: i32,
    information: *const c_void,
    length: u32,
) -> NTSTATUS {
    if class != SET_TRAITS {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: by the function's page there are that many bytes.
    let traits = unsafe { core::slice::from_raw_parts(information.cast::<u8>(), length as usize) };
    let Ok(name) = tracelogging::provider_name(traits) else {
        return STATUS_INVALID_PARAMETER;
    };
    let mut state = STATE.lock();
    let Some(provider) = state.providers.iter_mut().find(|provider| provider.handle == handle) else {
        drop(state);
        return unknown("EtwSetInformation", handle);
    };
    provider.name = name;
    STATUS_SUCCESS
}

/// Whether an event is wanted (page "EtwWrite", and "Configuring and Starting an Event Tracing Session").
fn is_wanted(wanted: Wanted, level: u8, keyword: u64) -> bool {
    wanted.level.is_some_and(|most| level <= most) && (keyword == 0 || keyword & wanted.keywords != 0)
}

pub(super) unsafe extern "system" fn EtwProviderEnabled(_handle: u64, level: u8, keyword: u64) -> BOOLEAN {
    if is_wanted(STATE.lock().wanted, level, keyword) { TRUE } else { FALSE }
}

pub(super) unsafe extern "system" fn EtwEventEnabled(
    handle: u64,
    descriptor: *const EventDescriptor,
) -> BOOLEAN {
    // SAFETY: by the function's page it can be read.
    let descriptor = unsafe { &*descriptor };
    // SAFETY: values only.
    unsafe { EtwProviderEnabled(handle, descriptor.level, descriptor.keyword) }
}

/// A record of `etw.raw`: its size (this included), the system time, process, thread, processor, how many parts; the provider and
/// the descriptor as they lie in memory; for each part its size, its type and its bytes. Little-endian.
fn raw(id: &GUID, descriptor: &EventDescriptor, parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut now = FILETIME::default();
    // SAFETY: it can be written.
    unsafe { GetSystemTimePreciseAsFileTime(&raw mut now) };
    // SAFETY: no preconditions.
    let process = unsafe { GetCurrentProcessId() };
    // SAFETY: no preconditions.
    let thread = unsafe { GetCurrentThreadId() };
    let short = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let mut record = Vec::new();
    for number in [0, now.dwLowDateTime, now.dwHighDateTime, process, thread] {
        record.extend(number.to_le_bytes());
    }
    record.extend(short(irql::processor() as usize));
    record.extend(short(parts.len()));
    record.extend(guid_bytes(id));
    let EventDescriptor { id, version, channel, level, opcode, task, keyword } = *descriptor;
    record.extend(id.to_le_bytes());
    record.extend([version, channel, level, opcode]);
    record.extend(task.to_le_bytes());
    record.extend(keyword.to_le_bytes());
    for (kind, bytes) in parts {
        record.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.push(*kind);
        record.extend_from_slice(bytes);
    }
    let size = u32::try_from(record.len()).unwrap_or(u32::MAX);
    record[..4].copy_from_slice(&size.to_le_bytes());
    record
}

pub(super) unsafe extern "system" fn EtwWriteTransfer(
    handle: u64,
    descriptor: *const EventDescriptor,
    _activity: *const GUID,
    _related: *const GUID,
    count: u32,
    data: *const DataDescriptor,
) -> NTSTATUS {
    // SAFETY: by the function's page it can be read.
    let descriptor = unsafe { &*descriptor };
    let (registered, id) = {
        let mut state = STATE.lock();
        let Some(provider) = state.providers.iter().find(|provider| provider.handle == handle) else {
            drop(state);
            return unknown("EtwWriteTransfer", handle);
        };
        let found = (provider.name.clone(), provider.id);
        if !is_wanted(state.wanted, descriptor.level, descriptor.keyword) {
            return STATUS_SUCCESS;
        }
        state.events += 1;
        found
    };
    let parts: &[DataDescriptor] = if count == 0 {
        &[]
    } else {
        // SAFETY: by the function's page there are that many.
        unsafe { core::slice::from_raw_parts(data, count as usize) }
    };
    let parts: Vec<(u8, &[u8])> = parts
        .iter()
        .map(|part| {
            let bytes = usize::try_from(part.pointer).ok().filter(|_| part.size != 0);
            let bytes = bytes.map_or(&[][..], |address| {
                let start = core::ptr::with_exposed_provenance::<u8>(address);
                // SAFETY: a descriptor names so many bytes, which stay until the event is written.
                unsafe { core::slice::from_raw_parts(start, part.size as usize) }
            });
            (part.kind, bytes)
        })
        .collect();
    let (provider, name, fields) = match tracelogging::decode(&parts) {
        Ok(event) => (event.provider.unwrap_or(registered), event.name, Value::Object(event.fields)),
        Err(error) => {
            violation(&ETW_EVENT, "EtwWriteTransfer", alloc::format!("id {}: {error:?}", descriptor.id));
            (registered, String::new(), Value::Null)
        }
    };
    let _writing = WRITING.lock();
    RAW.write_bytes(&raw(&id, descriptor, &parts));
    let line = json!({
        "t": time::milliseconds(),
        "provider": provider,
        "guid": guid_text(&id),
        "id": descriptor.id,
        "name": name,
        "level": descriptor.level,
        "keyword": alloc::format!("{:#x}", descriptor.keyword),
        "fields": fields,
    });
    FILE.write(&alloc::format!("{line}\n"));
    STATUS_SUCCESS
}

pub(super) unsafe extern "system" fn EtwWrite(
    handle: u64,
    descriptor: *const EventDescriptor,
    activity: *const GUID,
    count: u32,
    data: *const DataDescriptor,
) -> NTSTATUS {
    // SAFETY: by the function's page.
    unsafe { EtwWriteTransfer(handle, descriptor, activity, core::ptr::null(), count, data) }
}
