//! Handles, objects and their references; system threads and events as objects.
//!
//! Both start with a dispatcher header. A thread object is signalled when its start routine has returned. An object lives
//! while a handle, a reference, or the thread itself holds it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::dispatcher::{self, object_type};
use crate::file::Open;
use crate::registry::Key;
use crate::sys::nt::{
    ACCESS_MASK, DISPATCHER_HEADER, NTSTATUS, PKSTART_ROUTINE, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_HANDLE, STATUS_OBJECT_TYPE_MISMATCH, STATUS_SUCCESS,
};
use crate::verify::{Leak, lock, violation};
use crate::{irql, rules, threads};

rules! {
    HANDLE_INVALID = ("handle that is not open", "ZwClose");
    HANDLE_WRONG_KIND = ("handle of another kind of object", "ObReferenceObjectByHandle");
    OBJECT_REFERENCE = ("reference to an object that is not there", "ObDereferenceObject");
    THREAD_START = ("thread without a start routine", "PsCreateSystemThread");
    THREAD_NOT_SYSTEM = ("terminating a thread that is not a system thread of a driver", "PsTerminateSystemThread");
    HANDLE_ACCESS = ("handle opened without the access that the call needs", "ZwOpenKey");
}

/// A system thread, or an event: what is waited for.
#[repr(C)]
struct Waited {
    header: DISPATCHER_HEADER,
}

struct Object {
    kind: Kind,
    /// References by pointer.
    references: usize,
    handles: usize,
    /// The start routine has not returned.
    running: bool,
    /// The thread itself still needs the object: to signal it.
    held: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thread,
    Event,
}

enum Target {
    /// The address of a [`Waited`].
    Object(usize),
    Key(Key),
    File(Open),
}

struct Handle {
    target: Target,
    access: ACCESS_MASK,
    api: &'static str,
    backtrace: Option<String>,
}

#[derive(Default)]
struct Table {
    handles: HashMap<usize, Handle>,
    objects: HashMap<usize, Object>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);
/// Kernel handles have the high bit set (page "Object Handles"), and handles are multiples of four.
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(FIRST_HANDLE);
const FIRST_HANDLE: usize = 0xffff_ffff_8000_0004;

fn with_table<T>(body: impl FnOnce(&mut Table) -> T) -> T {
    body(lock(&TABLE).get_or_insert_default())
}

/// Drops every handle, every event and every thread object whose thread has ended.
pub(crate) fn stop() {
    let table = lock(&TABLE).take().unwrap_or_default();
    for (address, object) in table.objects {
        if !object.held {
            // SAFETY: the object was in the table, so it is a box that is freed once, here.
            unsafe { free_object(address) };
        }
    }
    NEXT_HANDLE.store(FIRST_HANDLE, Ordering::Relaxed);
}

/// # Safety
/// `address` came from `Box::into_raw` of a [`Waited`] and is freed once.
unsafe fn free_object(address: usize) {
    // SAFETY: as the caller promises.
    drop(unsafe { Box::from_raw(address as *mut Waited) });
}

fn insert(table: &mut Table, target: Target, access: ACCESS_MASK, api: &'static str) -> *mut c_void {
    let value = NEXT_HANDLE.fetch_add(4, Ordering::Relaxed);
    let backtrace = crate::verify::backtrace().map(|backtrace| backtrace.to_string());
    table.handles.insert(value, Handle { target, access, api, backtrace });
    value as *mut c_void
}

/// Opens a handle to a registry key.
pub(crate) fn open_key(key: Key, access: ACCESS_MASK, api: &'static str) -> *mut c_void {
    with_table(|table| insert(table, Target::Key(key), access, api))
}

/// The key behind a handle that was opened with `needed` access.
pub(crate) fn key(api: &'static str, handle: *mut c_void, needed: ACCESS_MASK) -> Result<Key, NTSTATUS> {
    behind(api, handle, needed, "key", |target| match target {
        Target::Key(key) => Some(key.clone()),
        _ => None,
    })
}

/// What is behind a handle that was opened with `needed` access, if it is of the right kind.
fn behind<T>(
    api: &'static str,
    handle: *mut c_void,
    needed: ACCESS_MASK,
    kind: &str,
    take: impl FnOnce(&Target) -> Option<T>,
) -> Result<T, NTSTATUS> {
    enum Problem {
        Invalid,
        Kind,
        Access(ACCESS_MASK),
    }
    let found = with_table(|table| {
        let Handle { target, access, .. } = table.handles.get(&handle.addr()).ok_or(Problem::Invalid)?;
        let found = take(target).ok_or(Problem::Kind)?;
        if access & needed == needed { Ok(found) } else { Err(Problem::Access(*access)) }
    });
    found.map_err(|problem| match problem {
        Problem::Invalid => {
            violation(&HANDLE_INVALID, api, format!("{:#x}", handle.addr()));
            STATUS_INVALID_HANDLE
        }
        Problem::Kind => {
            violation(&HANDLE_WRONG_KIND, api, format!("{:#x} is not a {kind}", handle.addr()));
            STATUS_OBJECT_TYPE_MISMATCH
        }
        Problem::Access(access) => {
            violation(&HANDLE_ACCESS, api, format!("opened with {access:#x}, needs {needed:#x}"));
            crate::sys::nt::STATUS_ACCESS_DENIED
        }
    })
}

/// Opens a handle to a file or directory.
pub(crate) fn open_file(file: Open, access: ACCESS_MASK, api: &'static str) -> *mut c_void {
    with_table(|table| insert(table, Target::File(file), access, api))
}

/// The file or directory behind a handle that was opened with `needed` access.
pub(crate) fn file(api: &'static str, handle: *mut c_void, needed: ACCESS_MASK) -> Result<Open, NTSTATUS> {
    behind(api, handle, needed, "file", |target| match target {
        Target::File(open) => Some(open.clone()),
        _ => None,
    })
}

/// Closes a handle.
pub(crate) fn close(api: &'static str, handle: *mut c_void) -> NTSTATUS {
    let closed = with_table(|table| {
        let closed = table.handles.remove(&handle.addr())?;
        if let Target::Object(address) = closed.target {
            update(table, address, |object| object.handles -= 1);
        }
        Some(closed.target)
    });
    if let Some(closed) = closed {
        if matches!(closed, Target::Key(_)) {
            crate::registry::key_closed(handle.addr());
        }
        return STATUS_SUCCESS;
    }
    violation(&HANDLE_INVALID, api, format!("{:#x}", handle.addr()));
    STATUS_INVALID_HANDLE
}

/// Changes an object's holds and frees it when nothing holds it any more.
fn update(table: &mut Table, address: usize, change: impl FnOnce(&mut Object)) -> bool {
    let Some(object) = table.objects.get_mut(&address) else { return false };
    change(object);
    if object.references == 0 && object.handles == 0 && !object.held {
        table.objects.remove(&address);
        // SAFETY: the object was in the table and is out of it now.
        unsafe { free_object(address) };
    }
    true
}

/// The object behind a handle, referenced.
pub(crate) fn reference_by_handle(api: &'static str, handle: *mut c_void) -> Result<*mut c_void, NTSTATUS> {
    let found = with_table(|table| match table.handles.get(&handle.addr()).map(|handle| &handle.target) {
        None => Err(STATUS_INVALID_HANDLE),
        Some(Target::Key(_) | Target::File(_)) => Err(STATUS_OBJECT_TYPE_MISMATCH),
        Some(&Target::Object(address)) => {
            update(table, address, |object| object.references += 1);
            Ok(address as *mut c_void)
        }
    });
    found.inspect_err(|&status| {
        let rule = if status == STATUS_INVALID_HANDLE { &HANDLE_INVALID } else { &HANDLE_WRONG_KIND };
        violation(rule, api, format!("{:#x}", handle.addr()));
    })
}

/// Adds a reference to an object that the caller holds already. Returns the new count.
pub(crate) fn reference(api: &'static str, object: *mut c_void) -> isize {
    let found = with_table(|table| {
        let object = table.objects.get_mut(&object.addr()).filter(|object| object.references != 0)?;
        object.references += 1;
        isize::try_from(object.references).ok()
    });
    found.unwrap_or_else(|| {
        violation(&OBJECT_REFERENCE, api, format!("{:#x}", object.addr()));
        0
    })
}

/// Drops a reference. Returns the new count.
pub(crate) fn dereference(api: &'static str, object: *mut c_void) -> isize {
    let found = with_table(|table| {
        let entry = table.objects.get(&object.addr()).filter(|entry| entry.references != 0)?;
        let left = entry.references - 1;
        update(table, object.addr(), |entry| entry.references -= 1);
        isize::try_from(left).ok()
    });
    found.unwrap_or_else(|| {
        violation(&OBJECT_REFERENCE, api, format!("{:#x}", object.addr()));
        0
    })
}

/// What is waited for, in memory of its own.
fn make(api: &'static str, kind: u8, signalled: bool) -> usize {
    let null = std::ptr::null_mut();
    let header = DISPATCHER_HEADER {
        Type: 0,
        Signalling: 0,
        Size: 0,
        Reserved1: 0,
        SignalState: 0,
        WaitListHead: crate::sys::nt::LIST_ENTRY { Flink: null, Blink: null },
    };
    let address = Box::into_raw(Box::new(Waited { header })).expose_provenance();
    // SAFETY: the box was just made.
    unsafe { dispatcher::initialise(api, address as *mut c_void, kind, size_of::<Waited>(), signalled) };
    address
}

/// Makes an event and opens a handle to it.
pub(crate) fn create_event(api: &'static str, kind: u8, signalled: bool, access: ACCESS_MASK) -> *mut c_void {
    let address = make(api, kind, signalled);
    with_table(|table| {
        let object = Object { kind: Kind::Event, references: 0, handles: 1, running: false, held: false };
        table.objects.insert(address, object);
        insert(table, Target::Object(address), access, api)
    })
}

/// The event behind a handle that was opened with `needed` access, referenced.
pub(crate) fn reference_event(
    api: &'static str,
    handle: *mut c_void,
    needed: ACCESS_MASK,
) -> Result<*mut c_void, NTSTATUS> {
    let address = behind(api, handle, needed, "event", |target| match target {
        Target::Object(address) => Some(*address),
        _ => None,
    })?;
    let is_event = with_table(|table| {
        let is_event = table.objects.get(&address).is_some_and(|object| object.kind == Kind::Event);
        is_event && update(table, address, |object| object.references += 1)
    });
    if is_event {
        return Ok(address as *mut c_void);
    }
    violation(&HANDLE_WRONG_KIND, api, format!("{:#x} is not an event", handle.addr()));
    Err(STATUS_OBJECT_TYPE_MISMATCH)
}

/// Starts a system thread and opens a handle to it.
pub(crate) fn create_thread(
    api: &'static str,
    start: PKSTART_ROUTINE,
    context: *mut c_void,
) -> Result<*mut c_void, NTSTATUS> {
    struct SendPointer(*mut c_void);
    // SAFETY: the driver hands its context to the new thread; what it points to is the driver's affair.
    unsafe impl Send for SendPointer {}

    let Some(start) = start else {
        violation(&THREAD_START, api, "StartRoutine is NULL");
        return Err(crate::sys::nt::STATUS_INVALID_PARAMETER);
    };
    let address = make(api, object_type::THREAD, false);
    let handle = with_table(|table| {
        let object = Object { kind: Kind::Thread, references: 0, handles: 1, running: true, held: true };
        table.objects.insert(address, object);
        insert(table, Target::Object(address), crate::sys::nt::THREAD_ALL_ACCESS, api)
    });
    let context = SendPointer(context);
    let body = move || {
        let context = context;
        // SAFETY: the driver promises that its routine may be called with its context.
        unsafe { start(context.0) };
        irql::leave_system_thread("ThreadStart");
        with_table(|table| update(table, address, |object| object.running = false));
        // SAFETY: the object lives while `held` is set.
        unsafe { dispatcher::signal(address as *mut c_void) };
        with_table(|table| update(table, address, |object| object.held = false));
    };
    if threads::system("driver thread", body) {
        return Ok(handle);
    }
    with_table(|table| {
        table.handles.remove(&handle.addr());
        update(table, address, |object| {
            object.handles = 0;
            object.running = false;
            object.held = false;
        })
    });
    Err(STATUS_INSUFFICIENT_RESOURCES)
}

/// System threads of drivers whose start routine has not returned.
pub(crate) fn running_threads() -> usize {
    with_table(|table| table.objects.values().filter(|object| object.running).count())
}

pub(crate) fn report(leaks: &mut Vec<Leak>) {
    with_table(|table| {
        leaks.extend(table.handles.iter().map(|(&id, handle)| Leak {
            kind: match handle.target {
                Target::Object(address) => match table.objects.get(&address).map(|object| object.kind) {
                    Some(Kind::Event) => "event handle",
                    Some(Kind::Thread) | None => "thread handle",
                },
                Target::Key(_) => "key handle",
                Target::File(_) => "file handle",
            },
            id,
            tag: None,
            size: 0,
            made_by: handle.api.to_owned(),
            backtrace: handle.backtrace.clone(),
        }));
        for (&id, object) in &table.objects {
            let leak = |kind, made_by: &str| Leak {
                kind,
                id,
                tag: None,
                size: 0,
                made_by: made_by.to_owned(),
                backtrace: None,
            };
            if object.references != 0 {
                let kind = match object.kind {
                    Kind::Thread => "thread reference",
                    Kind::Event => "event reference",
                };
                leaks.push(leak(kind, "ObReferenceObjectByHandle"));
            }
            if object.running {
                leaks.push(leak("running thread", "PsCreateSystemThread"));
            }
        }
    });
}
