//! Pool memory: wdm.h `ExAllocatePool2`, `ExAllocatePool3`, `ExAllocatePoolWithTag`, `ExFreePoolWithTag`.

use super::types::{
    MM_ANY_NODE_OK, NonPagedPool, NonPagedPoolNx, PCPOOL_EXTENDED_PARAMETER, POOL_EXTENDED_PARAMETER,
    POOL_FLAG_CACHE_ALIGNED, POOL_FLAG_NON_PAGED, POOL_FLAG_NON_PAGED_EXECUTE, POOL_FLAG_PAGED,
    POOL_FLAG_RAISE_ON_FAILURE, POOL_FLAG_SESSION, POOL_FLAG_UNINITIALIZED, POOL_FLAG_USE_QUOTA, POOL_FLAGS,
    POOL_TYPE, PVOID, PagedPool, PoolExtendedParameterNumaNode, PoolExtendedParameterPriority, SIZE_T, ULONG,
    ULONG64,
};
use crate::irql::require_at_most;
use crate::pool::{
    Kind, POOL_EXECUTABLE, POOL_PARAMETER, POOL_RAISES, Request, allocate, irql_limit, release,
};
use crate::verify::violation;
use crate::{fault, processors};

/// The low half of the flags must be understood by the system (page "POOL_FLAGS").
const REQUIRED: POOL_FLAGS = 0xffff_ffff;
const KNOWN: POOL_FLAGS = POOL_FLAG_USE_QUOTA
    | POOL_FLAG_UNINITIALIZED
    | POOL_FLAG_SESSION
    | POOL_FLAG_CACHE_ALIGNED
    | POOL_FLAG_RAISE_ON_FAILURE
    | POOL_FLAG_NON_PAGED
    | POOL_FLAG_NON_PAGED_EXECUTE
    | POOL_FLAG_PAGED;
const TYPES: POOL_FLAGS = POOL_FLAG_NON_PAGED | POOL_FLAG_NON_PAGED_EXECUTE | POOL_FLAG_PAGED;

/// Each character of a tag lies between space and tilde; shorter tags end in zeros (page "ExAllocatePool2").
fn tag_is_valid(tag: ULONG) -> bool {
    let bytes = tag.to_le_bytes();
    let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    length != 0
        && bytes.iter().take(length).all(|byte| (0x20..=0x7e).contains(byte))
        && bytes.iter().skip(length).all(|&byte| byte == 0)
}

/// What is behind both functions.
fn allocate_by_flags(
    api: &'static str,
    flags: POOL_FLAGS,
    size: SIZE_T,
    tag: ULONG,
    parameters: &[POOL_EXTENDED_PARAMETER],
) -> PVOID {
    let paged = flags & POOL_FLAG_PAGED != 0;
    require_at_most(api, irql_limit(paged));
    if size == 0 || !tag_is_valid(tag) || flags & REQUIRED & !KNOWN != 0 || (flags & TYPES).count_ones() != 1
    {
        violation(
            &POOL_PARAMETER,
            api,
            format!("size {size}, tag {:?}, flags {flags:#x}", crate::verify::Tag(tag)),
        );
        return core::ptr::null_mut();
    }
    if flags & POOL_FLAG_RAISE_ON_FAILURE != 0 {
        violation(&POOL_RAISES, api, "POOL_FLAG_RAISE_ON_FAILURE");
    }
    if flags & POOL_FLAG_NON_PAGED_EXECUTE != 0 {
        violation(&POOL_EXECUTABLE, api, "POOL_FLAG_NON_PAGED_EXECUTE");
    }
    let Ok(node) = node(api, flags, parameters) else { return core::ptr::null_mut() };
    if fault::fail(api) {
        return core::ptr::null_mut();
    }
    allocate(&Request {
        api,
        kind: Kind::Pool,
        size,
        tag,
        paged,
        zeroed: flags & POOL_FLAG_UNINITIALIZED == 0,
        cache_aligned: flags & POOL_FLAG_CACHE_ALIGNED != 0,
        node,
    })
    .cast()
}

/// A parameter is not understood, and not optional either.
struct Unknown;

/// The node that parameters prefer (page "POOL_EXTENDED_PARAMETER").
fn node(
    api: &'static str,
    flags: POOL_FLAGS,
    parameters: &[POOL_EXTENDED_PARAMETER],
) -> Result<Option<u32>, Unknown> {
    const TYPE: ULONG64 = 0xff;
    const OPTIONAL: ULONG64 = 0x100;
    let mut found = None;
    for parameter in parameters {
        let node = parameter.PreferredNode & !MM_ANY_NODE_OK;
        match parameter.Type & TYPE {
            PoolExtendedParameterPriority => {}
            PoolExtendedParameterNumaNode if processors::topology().pool_knows_nodes => {
                if parameter.Type & !(TYPE | OPTIONAL) != 0
                    || flags & POOL_FLAG_NON_PAGED == 0
                    || node >= processors::nodes()
                {
                    let detail = format!("type {:#x}, node {node}, flags {flags:#x}", parameter.Type);
                    violation(&POOL_PARAMETER, api, detail);
                    return Err(Unknown);
                }
                found = Some(node);
            }
            _ if parameter.Type & OPTIONAL != 0 => {}
            _ => return Err(Unknown),
        }
    }
    Ok(found)
}

/// Page "ExAllocatePool2": IRQL <= DISPATCH_LEVEL, paged pool <= APC_LEVEL; NULL for a zero tag or bad flags.
///
/// # Safety
/// As documented; callable with any arguments.
pub unsafe extern "system-unwind" fn ExAllocatePool2(flags: POOL_FLAGS, size: SIZE_T, tag: ULONG) -> PVOID {
    allocate_by_flags("ExAllocatePool2", flags, size, tag, &[])
}

/// Page "ExAllocatePool3": as [`ExAllocatePool2`], with parameters.
///
/// # Safety
/// `parameters` are `count`.
pub unsafe extern "system-unwind" fn ExAllocatePool3(
    flags: POOL_FLAGS,
    size: SIZE_T,
    tag: ULONG,
    parameters: PCPOOL_EXTENDED_PARAMETER,
    count: ULONG,
) -> PVOID {
    let parameters = if count == 0 {
        &[]
    } else {
        // SAFETY: as the caller promises.
        unsafe { core::slice::from_raw_parts(parameters, count as usize) }
    };
    allocate_by_flags("ExAllocatePool3", flags, size, tag, parameters)
}

/// What `MmGetSystemRoutineAddress` gives for "ExAllocatePool3".
pub type EX_ALLOCATE_POOL3 =
    unsafe extern "system-unwind" fn(POOL_FLAGS, SIZE_T, ULONG, PCPOOL_EXTENDED_PARAMETER, ULONG) -> PVOID;

/// What `MmGetSystemRoutineAddress` gives for "ExAllocatePool2".
pub type EX_ALLOCATE_POOL2 = unsafe extern "system-unwind" fn(POOL_FLAGS, SIZE_T, ULONG) -> PVOID;

/// Page "ExAllocatePoolWithTag", for the pool types that a driver of today asks for: IRQL <= DISPATCH_LEVEL, paged pool
/// <= APC_LEVEL. The memory is not zeroed. Page "POOL_TYPE": NonPagedPool is executable.
///
/// # Safety
/// As documented; callable with any arguments.
pub unsafe extern "system-unwind" fn ExAllocatePoolWithTag(
    kind: POOL_TYPE,
    size: SIZE_T,
    tag: ULONG,
) -> PVOID {
    const API: &str = "ExAllocatePoolWithTag";
    let paged = kind == PagedPool;
    require_at_most(API, irql_limit(paged));
    if size == 0 || !tag_is_valid(tag) || ![NonPagedPool, PagedPool, NonPagedPoolNx].contains(&kind) {
        let detail = format!("size {size}, tag {:?}, type {kind}", crate::verify::Tag(tag));
        violation(&POOL_PARAMETER, API, detail);
        return core::ptr::null_mut();
    }
    if kind == NonPagedPool {
        violation(&POOL_EXECUTABLE, API, "NonPagedPool");
    }
    if fault::fail(API) {
        return core::ptr::null_mut();
    }
    allocate(&Request {
        api: API,
        kind: Kind::Pool,
        size,
        tag,
        paged,
        zeroed: false,
        cache_aligned: false,
        node: None,
    })
    .cast()
}

/// Page "ExFreePoolWithTag": IRQL <= DISPATCH_LEVEL; <= APC_LEVEL for paged blocks. The tag is the one of allocation.
///
/// # Safety
/// Nothing refers to the block any more.
pub unsafe extern "system-unwind" fn ExFreePoolWithTag(block: PVOID, tag: ULONG) {
    const API: &str = "ExFreePoolWithTag";
    require_at_most(API, irql_limit(false));
    release(API, Kind::Pool, block.cast(), tag);
}

/// Page "ExFreePool": as [`ExFreePoolWithTag`] for any tag.
///
/// # Safety
/// Nothing refers to the block any more.
pub unsafe extern "system-unwind" fn ExFreePool(block: PVOID) {
    const API: &str = "ExFreePool";
    require_at_most(API, irql_limit(false));
    release(API, Kind::Pool, block.cast(), 0);
}
