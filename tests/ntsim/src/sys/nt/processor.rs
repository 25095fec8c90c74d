//! Processors that are added, and nodes: wdm.h `KeRegisterProcessorChangeCallback`, `KeQueryLogicalProcessorRelationship`.

use core::ptr::{self, null_mut};

use super::status::{STATUS_INFO_LENGTH_MISMATCH, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use super::types::{
    DISPATCH_LEVEL, GROUP_AFFINITY, KE_PROCESSOR_CHANGE_ADD_EXISTING, LOGICAL_PROCESSOR_RELATIONSHIP,
    NTSTATUS, NUMA_NODE_RELATIONSHIP, PASSIVE_LEVEL, PPROCESSOR_NUMBER, PROCESSOR_CALLBACK_FUNCTION,
    PSYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, PULONG, PVOID, RelationNumaNode,
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, ULONG,
};
use crate::irql::require_at_most;
use crate::verify::violation;
use crate::{fault, processors, rules};

rules! {
    PROCESSOR_RELATION = (
        "relationship that is not simulated: only the node of one processor is",
        "KeQueryLogicalProcessorRelationship"
    );
}

/// Page "KeRegisterProcessorChangeCallback": IRQL = PASSIVE_LEVEL; NULL if it fails.
///
/// # Safety
/// The callback and its context are good until the registration is taken back.
pub unsafe extern "system-unwind" fn KeRegisterProcessorChangeCallback(
    callback: PROCESSOR_CALLBACK_FUNCTION,
    context: PVOID,
    flags: ULONG,
) -> PVOID {
    const API: &str = "KeRegisterProcessorChangeCallback";
    require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return null_mut();
    }
    processors::register(callback, context, flags & KE_PROCESSOR_CHANGE_ADD_EXISTING != 0)
}

/// Page "KeDeregisterProcessorChangeCallback": IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// As documented; callable with any handle.
pub unsafe extern "system-unwind" fn KeDeregisterProcessorChangeCallback(handle: PVOID) {
    require_at_most("KeDeregisterProcessorChangeCallback", PASSIVE_LEVEL);
    processors::deregister(handle);
}

/// The bytes of a relationship of this kind: header, node, and one group.
const NODE_SIZE: ULONG = 0x30;

/// Page "KeQueryLogicalProcessorRelationship": IRQL <= DISPATCH_LEVEL; STATUS_INVALID_PARAMETER for a processor that is
/// not there, STATUS_INFO_LENGTH_MISMATCH with the size that is needed for a buffer that is too small.
///
/// # Safety
/// As documented.
pub unsafe extern "system-unwind" fn KeQueryLogicalProcessorRelationship(
    processor: PPROCESSOR_NUMBER,
    relationship: LOGICAL_PROCESSOR_RELATIONSHIP,
    information: PSYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX,
    length: PULONG,
) -> NTSTATUS {
    const API: &str = "KeQueryLogicalProcessorRelationship";
    require_at_most(API, DISPATCH_LEVEL);
    // SAFETY: as the caller promises.
    let processor = unsafe { processor.as_ref() };
    let (Some(processor), RelationNumaNode) = (processor, relationship) else {
        violation(&PROCESSOR_RELATION, API, format!("relationship {relationship}"));
        return STATUS_INVALID_PARAMETER;
    };
    let found = processors::node_of(*processor);
    let (Some((node, group, mask)), false) = (found, fault::fail(API)) else {
        return STATUS_INVALID_PARAMETER;
    };
    // SAFETY: as the caller promises.
    let room = unsafe { length.replace(NODE_SIZE) };
    if information.is_null() || room < NODE_SIZE {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    let related = NUMA_NODE_RELATIONSHIP {
        NodeNumber: node,
        Reserved: [0; 18],
        GroupCount: 1,
        GroupMask: GROUP_AFFINITY { Mask: mask, Group: group, Reserved: [0; 3] },
    };
    let full = SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX {
        Relationship: RelationNumaNode,
        Size: NODE_SIZE,
        NumaNode: related,
        Others: [0; 4],
    };
    // SAFETY: as the caller promises, there is room for that much; no more is written.
    unsafe {
        ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), information.cast(), NODE_SIZE as usize);
    };
    STATUS_SUCCESS
}
