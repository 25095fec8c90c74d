//! Handles, objects and their references; system threads as objects.
//!
//! A thread object starts with a dispatcher header and is signalled when its start routine has returned. It lives while
//! a handle, a reference, or the thread itself holds it.

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

/// A system thread.
#[repr(C)]
struct Thread {
    header: DISPATCHER_HEADER,
}

struct Object {
    /// References by pointer.
    references: usize,
    handles: usize,
    /// The start routine has not returned.
    running: bool,
    /// The thread itself still needs the object: to signal it.
    held: bool,
}

enum Target {
    /// The address of a [`Thread`].
    Thread(usize),
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

/// Drops every handle and every thread object whose thread has ended.
pub(crate) fn stop() {
    let table = lock(&TABLE).take().unwrap_or_default();
    for (address, object) in table.objects {
        if !object.held {
            // SAFETY: the object was in the table, so it is a box that is freed once, here.
            unsafe { free_thread(address) };
        }
    }
    NEXT_HANDLE.store(FIRST_HANDLE, Ordering::Relaxed);
}

/// # Safety
/// `address` came from `Box::into_raw` of a [`Thread`] and is freed once.
unsafe fn free_thread(address: usize) {
    // SAFETY: as the caller promises.
    drop(unsafe { Box::from_raw(address as *mut Thread) });
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
        if let Target::Thread(address) = closed.target {
            update(table, address, |object| object.handles -= 1);
        }
        Some(())
    });
    if closed.is_some() {
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
        unsafe { free_thread(address) };
    }
    true
}

/// The object behind a handle, referenced.
pub(crate) fn reference_by_handle(api: &'static str, handle: *mut c_void) -> Result<*mut c_void, NTSTATUS> {
    let found = with_table(|table| match table.handles.get(&handle.addr()).map(|handle| &handle.target) {
        None => Err(STATUS_INVALID_HANDLE),
        Some(Target::Key(_) | Target::File(_)) => Err(STATUS_OBJECT_TYPE_MISMATCH),
        Some(&Target::Thread(address)) => {
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
    let null = std::ptr::null_mut();
    let header = DISPATCHER_HEADER {
        Type: 0,
        Signalling: 0,
        Size: 0,
        Reserved1: 0,
        SignalState: 0,
        WaitListHead: crate::sys::nt::LIST_ENTRY { Flink: null, Blink: null },
    };
    let address = Box::into_raw(Box::new(Thread { header })).expose_provenance();
    // SAFETY: the box was just made.
    unsafe {
        dispatcher::initialise(api, address as *mut c_void, object_type::THREAD, size_of::<Thread>(), false);
    }
    let handle = with_table(|table| {
        table.objects.insert(address, Object { references: 0, handles: 1, running: true, held: true });
        insert(table, Target::Thread(address), crate::sys::nt::THREAD_ALL_ACCESS, api)
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
                Target::Thread(_) => "thread handle",
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
                leaks.push(leak("thread reference", "ObReferenceObjectByHandle"));
            }
            if object.running {
                leaks.push(leak("running thread", "PsCreateSystemThread"));
            }
        }
    });
}
