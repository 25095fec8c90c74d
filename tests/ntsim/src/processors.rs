//! How processors lie in groups and NUMA nodes, and what drivers are told when one is added.
//!
//! Additions, registrations and deregistrations come one after the other, so that a registration for the processors
//! that exist misses none. Callbacks run at PASSIVE_LEVEL, on the thread that registers or on a system thread (page
//! "KeRegisterProcessorChangeCallback").

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::sys::nt::{
    KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, KeProcessorAddCompleteNotify, KeProcessorAddFailureNotify,
    KeProcessorAddStartNotify, NT_SUCCESS, NTSTATUS, PROCESSOR_CALLBACK_FUNCTION, PROCESSOR_NUMBER, PVOID,
    STATUS_SUCCESS,
};
use crate::verify::{self, lock, violation};
use crate::{driver, irql, rules};

rules! {
    PROCESSOR_CALLBACK = ("processor change callback without a function", "KeRegisterProcessorChangeCallback");
    PROCESSOR_STATUS = (
        "operation status changed where no processor is about to be added, or to no error",
        "KeRegisterProcessorChangeCallback"
    );
    PROCESSOR_HANDLE = ("deregistration of what is not registered", "KeDeregisterProcessorChangeCallback");
    PROCESSOR_REENTERED = (
        "processor change callback registered or deregistered in one, which would wait for itself",
        "KeDeregisterProcessorChangeCallback"
    );
}

/// What a registration is among the leaks.
pub(crate) const KIND: &str = "processor change callback";

/// How a machine's processors lie, and what its Windows tells of them where the documentation leaves it open.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Processors in a group, 1 to 64 (page "Processor Groups").
    pub group_size: u32,
    /// Processors in a NUMA node: the first ones are node 0's.
    pub node_size: u32,
    /// Whether a processor that is about to be added has relationships yet. No page says.
    pub starting_is_related: bool,
    /// Whether ExAllocatePool3 knows PoolExtendedParameterNumaNode, which the first pages of the function do not have.
    pub pool_knows_nodes: bool,
    /// Whether a deregistration waits for callbacks that run. The page says only that a driver deregisters before it is
    /// unloaded.
    pub deregistration_waits: bool,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            group_size: 64,
            node_size: 64,
            starting_is_related: true,
            pool_knows_nodes: true,
            deregistration_waits: true,
        }
    }
}

#[derive(Clone, Copy)]
struct Registration {
    handle: usize,
    callback: PROCESSOR_CALLBACK_FUNCTION,
    context: usize,
}

static TOPOLOGY: Mutex<Option<Topology>> = Mutex::new(None);
static REGISTRATIONS: Mutex<Vec<Registration>> = Mutex::new(Vec::new());
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(0x10);
/// Whose turn it is to add a processor, or to register.
static TURN: Mutex<()> = Mutex::new(());
/// The processor that is being added; [`NONE`] if there is none.
static STARTING: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;

thread_local! {
    /// A callback runs on this thread.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// # Panics
/// When groups or nodes have no processors, or groups too many.
pub(crate) fn start(topology: Topology) {
    assert!((1..=64).contains(&topology.group_size), "a group has 1 to 64 processors");
    assert!(topology.node_size != 0, "a node has at least one processor");
    *lock(&TOPOLOGY) = Some(topology);
    lock(&REGISTRATIONS).clear();
    STARTING.store(NONE, Ordering::Relaxed);
}

pub(crate) fn topology() -> Topology {
    lock(&TOPOLOGY).unwrap_or_default()
}

/// Where the processor of this index is.
pub(crate) fn number_of(index: u32) -> PROCESSOR_NUMBER {
    let size = topology().group_size;
    PROCESSOR_NUMBER {
        Group: u16::try_from(index / size).unwrap_or(u16::MAX),
        Number: u8::try_from(index % size).unwrap_or(u8::MAX),
        Reserved: 0,
    }
}

/// The index of the processor that is there.
fn index_of(number: PROCESSOR_NUMBER) -> Option<u32> {
    let size = topology().group_size;
    (u32::from(number.Number) < size).then(|| u32::from(number.Group) * size + u32::from(number.Number))
}

/// How many of the machine's first `count` processors are in a group.
pub(crate) fn in_group(group: u16, count: u32) -> u32 {
    let size = topology().group_size;
    count.saturating_sub(u32::from(group).saturating_mul(size)).min(size)
}

/// How many nodes the machine may ever have.
pub(crate) fn nodes() -> u32 {
    irql::maximum_processors().div_ceil(topology().node_size)
}

/// The node of a processor, its group, and the node's processors in that group.
pub(crate) fn node_of(number: PROCESSOR_NUMBER) -> Option<(u32, u16, usize)> {
    let Topology { node_size, starting_is_related, .. } = topology();
    let index = index_of(number)?;
    let starts = starting_is_related && index == STARTING.load(Ordering::Acquire);
    if index >= irql::active_processors() && !starts {
        return None;
    }
    let node = index / node_size;
    let of_node = (node * node_size..(node + 1).saturating_mul(node_size).min(irql::active_processors()))
        .map(number_of)
        .filter(|other| other.Group == number.Group);
    Some((node, number.Group, of_node.fold(0, |mask, other| mask | 1 << other.Number)))
}

/// Calls a callback for one state of one addition; what it says of it.
fn call(registration: &Registration, state: i32, index: u32, status: NTSTATUS) -> NTSTATUS {
    let Some(callback) = registration.callback else { return STATUS_SUCCESS };
    let mut change = KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT {
        State: state,
        NtNumber: index,
        Status: status,
        ProcNumber: number_of(index),
    };
    let mut operation = STATUS_SUCCESS;
    TELLING.set(true);
    irql::same_irql("ProcessorCallback", || {
        // SAFETY: the driver registered it with this context.
        unsafe { callback(registration.context as PVOID, &raw mut change, &raw mut operation) };
    });
    TELLING.set(false);
    if operation != STATUS_SUCCESS && (state != KeProcessorAddStartNotify || NT_SUCCESS(operation)) {
        violation(&PROCESSOR_STATUS, "ProcessorCallback", format!("{operation:#x} in state {state}"));
        return STATUS_SUCCESS;
    }
    operation
}

/// Registers a callback. With `existing`, it is told of each active processor first: that all are about to be added, then
/// that they have been; after an error, to those before it, that they have not. The registration stands all the same: what
/// is returned "indicates only whether the registration of the callback function succeeds" (page
/// "KeRegisterProcessorChangeCallback").
pub(crate) fn register(callback: PROCESSOR_CALLBACK_FUNCTION, context: PVOID, existing: bool) -> PVOID {
    const API: &str = "KeRegisterProcessorChangeCallback";
    if callback.is_none() {
        violation(&PROCESSOR_CALLBACK, API, "NULL");
        return null_mut();
    }
    if TELLING.get() {
        violation(&PROCESSOR_REENTERED, API, "");
        return null_mut();
    }
    let _turn = lock(&TURN);
    let handle = NEXT_HANDLE.fetch_add(0x10, Ordering::Relaxed);
    let registration = Registration { handle, callback, context: context.expose_provenance() };
    let active = if existing { irql::active_processors() } else { 0 };
    let refused = (0..active).find_map(|index| {
        let error = call(&registration, KeProcessorAddStartNotify, index, STATUS_SUCCESS);
        (!NT_SUCCESS(error)).then_some((index, error))
    });
    let (told, change, status) = match refused {
        Some((index, error)) => (index, KeProcessorAddFailureNotify, error),
        None => (active, KeProcessorAddCompleteNotify, STATUS_SUCCESS),
    };
    for index in 0..told {
        call(&registration, change, index, status);
    }
    lock(&REGISTRATIONS).push(registration);
    verify::track(KIND, handle, 0);
    handle as PVOID
}

pub(crate) fn deregister(handle: PVOID) {
    const API: &str = "KeDeregisterProcessorChangeCallback";
    if TELLING.get() {
        violation(&PROCESSOR_REENTERED, API, format!("{:#x}", handle.addr()));
        return;
    }
    let _turn = topology().deregistration_waits.then(|| lock(&TURN));
    let mut registrations = lock(&REGISTRATIONS);
    let Some(at) = registrations.iter().position(|registration| registration.handle == handle.addr()) else {
        drop(registrations);
        violation(&PROCESSOR_HANDLE, API, format!("{:#x}", handle.addr()));
        return;
    };
    registrations.remove(at);
    verify::untrack(KIND, handle.addr());
}

/// Callbacks that are registered.
pub(crate) fn registered() -> usize {
    lock(&REGISTRATIONS).len()
}

/// Adds a processor, while other threads do as they like. Returns its index, or `None` when the machine has its maximum, or a
/// driver refuses it.
pub fn hot_add() -> Option<u32> {
    driver::on_system_thread("hot add", || add(None)).ok().flatten()
}

/// Adds a processor: drivers are told that it will be, and one of them can refuse; it becomes active; and they are told
/// that it has been, or not. `failure` makes the machine itself fail to add it. The index of the new processor.
///
/// At PASSIVE_LEVEL.
pub(crate) fn add(failure: Option<NTSTATUS>) -> Option<u32> {
    let _turn = lock(&TURN);
    let index = irql::active_processors();
    if index >= irql::maximum_processors() {
        return None;
    }
    STARTING.store(index, Ordering::Release);
    let registrations = lock(&REGISTRATIONS).clone();
    let is_registered =
        |registration: &&Registration| lock(&REGISTRATIONS).iter().any(|it| it.handle == registration.handle);
    let mut error = None;
    let mut told = Vec::new();
    for registration in registrations.iter().filter(is_registered) {
        told.push(*registration);
        let status = call(registration, KeProcessorAddStartNotify, index, STATUS_SUCCESS);
        if !NT_SUCCESS(status) {
            error = Some(status);
            break;
        }
    }
    let error = error.or(failure);
    if error.is_none() {
        irql::add_processor();
    }
    STARTING.store(NONE, Ordering::Release);
    let state = if error.is_none() { KeProcessorAddCompleteNotify } else { KeProcessorAddFailureNotify };
    for registration in told.iter().filter(is_registered) {
        call(registration, state, index, error.unwrap_or(STATUS_SUCCESS));
    }
    error.is_none().then_some(index)
}
