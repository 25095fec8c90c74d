//! Processors that are added, and the nodes of processors and memory.

use std::ptr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use ntsim::fault::Plan;
use ntsim::sys::nt::{
    ALL_PROCESSOR_GROUPS, ExAllocatePool3, ExFreePoolWithTag, KE_PROCESSOR_CHANGE_ADD_EXISTING,
    KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, KeDeregisterProcessorChangeCallback, KeGetCurrentProcessorNumberEx,
    KeProcessorAddCompleteNotify, KeProcessorAddFailureNotify, KeProcessorAddStartNotify,
    KeQueryActiveProcessorCountEx, KeQueryLogicalProcessorRelationship, KeQueryMaximumProcessorCountEx,
    KeRegisterProcessorChangeCallback, MM_ANY_NODE_OK, NTSTATUS, PDRIVER_OBJECT, POOL_EXTENDED_PARAMETER,
    POOL_FLAG_NON_PAGED, POOL_FLAG_PAGED, PROCESSOR_NUMBER, PUNICODE_STRING, PVOID,
    PoolExtendedParameterNumaNode, RelationNumaNode, STATUS_INFO_LENGTH_MISMATCH,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
};
use ntsim::verify::rule::{
    DRIVER_LEFT_CALLBACKS, IRQL_NOT_RESTORED, IRQL_TOO_HIGH, POOL_PARAMETER, PROCESSOR_CALLBACK,
    PROCESSOR_HANDLE, PROCESSOR_REENTERED, PROCESSOR_RELATION, PROCESSOR_STATUS,
};
use ntsim::{Config, Sim, Topology, boot, irql};

use crate::{TAG, expect, expect_clean, held, machine};

/// What a callback is told: state, index, group and number, status.
type Told = (i32, u32, (u16, u8), NTSTATUS);

/// What a callback does with what it is told.
type Behaviour = Box<dyn Fn(&KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT) -> Option<NTSTATUS> + Send + Sync>;

struct Callback {
    told: Mutex<Vec<Told>>,
    behaviour: Behaviour,
}

impl Callback {
    fn new(
        behaviour: impl Fn(&KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT) -> Option<NTSTATUS> + Send + Sync + 'static,
    ) -> Box<Self> {
        Box::new(Self { told: Mutex::new(Vec::new()), behaviour: Box::new(behaviour) })
    }

    fn quiet() -> Box<Self> {
        Self::new(|_| None)
    }

    fn register(&self, flags: u32) -> PVOID {
        let context = ptr::from_ref(self).cast_mut().cast();
        unsafe { KeRegisterProcessorChangeCallback(Some(changed), context, flags) }
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

unsafe extern "C" fn changed(
    context: PVOID,
    change: *mut KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    operation: *mut NTSTATUS,
) {
    assert_eq!(irql::current(), 0);
    let callback = unsafe { &*context.cast::<Callback>() };
    let change = unsafe { &*change };
    let place = (change.ProcNumber.Group, change.ProcNumber.Number);
    callback.told.lock().unwrap().push((change.State, change.NtNumber, place, change.Status));
    if let Some(status) = (callback.behaviour)(change) {
        unsafe { operation.write(status) };
    }
}

fn deregister(handle: PVOID) {
    unsafe { KeDeregisterProcessorChangeCallback(handle) };
}

const START: i32 = KeProcessorAddStartNotify;
const COMPLETE: i32 = KeProcessorAddCompleteNotify;
const FAILURE: i32 = KeProcessorAddFailureNotify;

/// Two processors of six, in groups of two, and nodes of three.
fn small(topology: Topology) -> Sim {
    let topology = Topology { group_size: 2, node_size: 3, ..topology };
    boot(Config { processors: 2, maximum_processors: 6, topology, ..Config::default() })
}

#[test]
fn a_registration_tells_of_the_processors_that_are_there_if_asked_to() {
    let sim = small(Topology::default());
    let callback = Callback::quiet();
    let handle = callback.register(KE_PROCESSOR_CHANGE_ADD_EXISTING);
    assert!(!handle.is_null());
    assert_eq!(
        callback.take(),
        [(START, 0, (0, 0), 0), (START, 1, (0, 1), 0), (COMPLETE, 0, (0, 0), 0), (COMPLETE, 1, (0, 1), 0)]
    );
    let other = Callback::quiet();
    let second = other.register(0);
    assert_eq!(other.take(), []);
    assert_eq!(held(&sim), ["processor change callback"; 2]);
    deregister(second);
    deregister(handle);
    expect_clean(&sim);
}

#[test]
fn an_added_processor_is_told_of_before_and_after() {
    let sim = small(Topology::default());
    let callback = Callback::new(|change| {
        let active = unsafe { KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS) };
        assert_eq!(active, if change.State == START { change.NtNumber } else { change.NtNumber + 1 });
        None
    });
    let handle = callback.register(0);
    assert_eq!(sim.add_processor(), Some(2));
    assert_eq!(sim.add_processor(), Some(3));
    assert_eq!(
        callback.take(),
        [(START, 2, (1, 0), 0), (COMPLETE, 2, (1, 0), 0), (START, 3, (1, 1), 0), (COMPLETE, 3, (1, 1), 0)]
    );
    deregister(handle);
    assert_eq!(sim.add_processor(), Some(4));
    assert_eq!(callback.take(), []);
    expect_clean(&sim);
}

#[test]
fn a_processor_that_does_not_come_is_told_of() {
    let sim = small(Topology::default());
    let callback = Callback::quiet();
    let handle = callback.register(0);
    sim.fail_to_add_processor(STATUS_UNSUCCESSFUL);
    assert_eq!(callback.take(), [(START, 2, (1, 0), 0), (FAILURE, 2, (1, 0), STATUS_UNSUCCESSFUL)]);
    assert_eq!(unsafe { KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS) }, 2);
    assert_eq!(sim.add_processor(), Some(2));
    deregister(handle);
    expect_clean(&sim);
}

#[test]
fn a_driver_can_refuse_a_processor() {
    let sim = small(Topology::default());
    let quiet = Callback::quiet();
    let refuses = Callback::new(|change| (change.State == START).then_some(STATUS_INSUFFICIENT_RESOURCES));
    let (first, second) = (quiet.register(0), refuses.register(0));
    assert_eq!(sim.add_processor(), None);
    let told = [(START, 2, (1, 0), 0), (FAILURE, 2, (1, 0), STATUS_INSUFFICIENT_RESOURCES)];
    assert_eq!((quiet.take(), refuses.take()), (told.to_vec(), told.to_vec()));
    deregister(first);
    deregister(second);
    // For those that are there, it refuses itself.
    let refuses = Callback::new(|change| {
        (change.State == START && change.NtNumber == 1).then_some(STATUS_INSUFFICIENT_RESOURCES)
    });
    let registered = refuses.register(KE_PROCESSOR_CHANGE_ADD_EXISTING);
    assert_eq!(
        refuses.take(),
        [(START, 0, (0, 0), 0), (START, 1, (0, 1), 0), (FAILURE, 0, (0, 0), STATUS_INSUFFICIENT_RESOURCES),]
    );
    // The registration stands all the same.
    deregister(registered);
    expect_clean(&sim);
}

#[test]
fn breaches_of_the_rules_are_seen() {
    let sim = small(Topology::default());
    assert!(unsafe { KeRegisterProcessorChangeCallback(None, ptr::null_mut(), 0) }.is_null());
    deregister(ptr::without_provenance_mut(0x99));
    let raised = irql::raise_scope();
    let callback = Callback::new(|change| (change.State == COMPLETE).then_some(STATUS_UNSUCCESSFUL));
    let handle = callback.register(0);
    drop(raised);
    assert_eq!(sim.add_processor(), Some(2));
    deregister(handle);
    deregister(handle);
    expect(
        &sim,
        &[&PROCESSOR_CALLBACK, &PROCESSOR_HANDLE, &IRQL_TOO_HIGH, &PROCESSOR_STATUS, &PROCESSOR_HANDLE],
    );
}

#[test]
fn a_callback_comes_back_at_its_irql_and_does_not_deregister_itself() {
    static HANDLE: Mutex<usize> = Mutex::new(0);
    let sim = small(Topology::default());
    let callback = Callback::new(|change| {
        if change.State == START {
            deregister(ptr::with_exposed_provenance_mut(*HANDLE.lock().unwrap()));
            Callback::quiet().register(0);
        } else {
            irql::raise_to_dispatch();
        }
        None
    });
    let handle = callback.register(0);
    *HANDLE.lock().unwrap() = handle.expose_provenance();
    assert_eq!(sim.add_processor(), Some(2));
    deregister(handle);
    expect(&sim, &[&PROCESSOR_REENTERED, &PROCESSOR_REENTERED, &IRQL_NOT_RESTORED]);
}

#[test]
fn a_callback_that_is_left_registered_at_unload_is_seen() {
    unsafe extern "C" fn unload(_driver: PDRIVER_OBJECT) {}
    unsafe extern "C" fn told(
        _context: PVOID,
        _change: *mut KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
        _operation: *mut NTSTATUS,
    ) {
    }
    unsafe extern "system" fn entry(driver: PDRIVER_OBJECT, _path: PUNICODE_STRING) -> NTSTATUS {
        unsafe { (*driver).DriverUnload = Some(unload) };
        assert!(!unsafe { KeRegisterProcessorChangeCallback(Some(told), ptr::null_mut(), 0) }.is_null());
        STATUS_SUCCESS
    }
    let sim = machine();
    sim.load_driver("sample", entry).unwrap().unload();
    expect(&sim, &[&DRIVER_LEFT_CALLBACKS]);
    assert_eq!(held(&sim), ["processor change callback"]);
}

#[test]
fn a_registration_fails_when_told_to() {
    let sim = machine();
    sim.fault(Plan::Api { name: "KeRegisterProcessorChangeCallback", nth: 1 });
    let callback = Callback::quiet();
    assert!(callback.register(KE_PROCESSOR_CHANGE_ADD_EXISTING).is_null());
    assert_eq!(callback.take(), []);
    expect_clean(&sim);
}

/// A callback that says when it is entered, and stays until it is let go.
fn staying() -> (Box<Callback>, Receiver<()>, Sender<()>) {
    let (entered, is_entered) = channel();
    let (let_go, is_let_go) = channel();
    let is_let_go = Mutex::new(is_let_go);
    let callback = Callback::new(move |change| {
        if change.State == START {
            entered.send(()).unwrap();
            is_let_go.lock().unwrap().recv().unwrap();
        }
        None
    });
    (callback, is_entered, let_go)
}

#[test]
fn a_deregistration_waits_for_a_callback_that_runs_or_does_not() {
    for waits in [true, false] {
        let sim = small(Topology { deregistration_waits: waits, ..Topology::default() });
        let (callback, is_entered, let_go) = staying();
        let handle = callback.register(0).expose_provenance();
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(sim.add_processor(), Some(2)));
            is_entered.recv().unwrap();
            let gone = scope.spawn(move || deregister(ptr::with_exposed_provenance_mut(handle)));
            if waits {
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!gone.is_finished());
            } else {
                gone.join().unwrap();
            }
            let_go.send(()).unwrap();
        });
        // Where it has gone before, it is not told what became of the processor.
        assert_eq!(callback.take().len(), if waits { 2 } else { 1 });
        expect_clean(&sim);
    }
}

#[test]
fn groups_have_counts_and_numbers_of_their_own() {
    let sim = small(Topology::default());
    assert_eq!(sim.add_processor(), Some(2));
    let counts =
        |group| unsafe { (KeQueryActiveProcessorCountEx(group), KeQueryMaximumProcessorCountEx(group)) };
    assert_eq!(
        [counts(ALL_PROCESSOR_GROUPS), counts(0), counts(1), counts(2), counts(3)],
        [(3, 6), (2, 2), (1, 2), (0, 2), (0, 0)]
    );
    irql::move_to(2);
    let raised = irql::raise_scope();
    let mut number = PROCESSOR_NUMBER::default();
    let index = unsafe { KeGetCurrentProcessorNumberEx(&raw mut number) };
    drop(raised);
    assert_eq!((index, number.Group, number.Number), (2, 1, 0));
    expect_clean(&sim);
}

/// The status, and the node of a processor with its group's mask.
fn node(group: u16, number: u8, room: u32) -> (NTSTATUS, u32, usize) {
    let mut number = PROCESSOR_NUMBER { Group: group, Number: number, Reserved: 0 };
    let mut information = SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX::default();
    let mut length = room;
    let status = unsafe {
        KeQueryLogicalProcessorRelationship(
            &raw mut number,
            RelationNumaNode,
            &raw mut information,
            &raw mut length,
        )
    };
    assert_eq!(length, if status == STATUS_INVALID_PARAMETER { room } else { 0x30 });
    (status, information.NumaNode.NodeNumber, information.NumaNode.GroupMask.Mask)
}

#[test]
fn a_processor_is_of_a_node_whatever_its_group() {
    let sim = small(Topology::default());
    assert_eq!(sim.add_processor(), Some(2));
    assert_eq!(sim.add_processor(), Some(3));
    // Node 0 has processors in two groups.
    assert_eq!(node(0, 1, 0x50), (STATUS_SUCCESS, 0, 0b11));
    assert_eq!(node(1, 0, 0x30), (STATUS_SUCCESS, 0, 0b01));
    assert_eq!(node(1, 1, 0x50), (STATUS_SUCCESS, 1, 0b10));
    assert_eq!(node(1, 1, 0x2f).0, STATUS_INFO_LENGTH_MISMATCH);
    assert_eq!(node(2, 0, 0x50).0, STATUS_INVALID_PARAMETER);
    assert_eq!(node(0, 2, 0x50).0, STATUS_INVALID_PARAMETER);
    expect_clean(&sim);
    let mut length = 0;
    let all = unsafe {
        KeQueryLogicalProcessorRelationship(
            ptr::null_mut(),
            RelationNumaNode,
            ptr::null_mut(),
            &raw mut length,
        )
    };
    assert_eq!(all, STATUS_INVALID_PARAMETER);
    expect(&sim, &[&PROCESSOR_RELATION]);
}

#[test]
fn a_processor_that_starts_may_have_a_node_or_not() {
    for related in [true, false] {
        let sim = small(Topology { starting_is_related: related, ..Topology::default() });
        let callback = Callback::new(move |change| {
            let known = node(change.ProcNumber.Group, change.ProcNumber.Number, 0x50).0 == STATUS_SUCCESS;
            assert_eq!(known, related || change.State == COMPLETE);
            None
        });
        let handle = callback.register(0);
        assert_eq!(sim.add_processor(), Some(2));
        deregister(handle);
        expect_clean(&sim);
    }
}

/// Nothing was allocated.
#[derive(Debug, PartialEq, Eq)]
struct Null;

/// Allocates on a node, and says where the block is.
fn allocated(sim: &Sim, flags: u64, kind: u64, node: u32) -> Result<Option<u32>, Null> {
    let parameter = POOL_EXTENDED_PARAMETER { Type: kind, PreferredNode: node, Rest: 0 };
    let block = unsafe { ExAllocatePool3(flags, 100, TAG, &raw const parameter, 1) };
    let found = sim.pool_blocks(TAG.to_le_bytes()).first().map(|block| block.node).ok_or(Null);
    if !block.is_null() {
        unsafe { ExFreePoolWithTag(block, TAG) };
    }
    found
}

#[test]
fn memory_comes_from_the_node_that_is_asked_for() {
    const OPTIONAL: u64 = 0x100;
    const NODE: u64 = PoolExtendedParameterNumaNode;
    let sim = small(Topology::default());
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE, 1), Ok(Some(1)));
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE | OPTIONAL, MM_ANY_NODE_OK), Ok(Some(0)));
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, 9 | OPTIONAL, 1), Ok(None));
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, 9, 1), Err(Null));
    sim.fault(Plan::Api { name: "ExAllocatePool3", nth: 1 });
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE, 1), Err(Null));
    expect_clean(&sim);
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE, 2), Err(Null));
    assert_eq!(allocated(&sim, POOL_FLAG_PAGED, NODE, 0), Err(Null));
    expect(&sim, &[&POOL_PARAMETER, &POOL_PARAMETER]);
    drop(sim);
    let sim = small(Topology { pool_knows_nodes: false, ..Topology::default() });
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE | OPTIONAL, 1), Ok(None));
    assert_eq!(allocated(&sim, POOL_FLAG_NON_PAGED, NODE, 1), Err(Null));
    expect_clean(&sim);
}
