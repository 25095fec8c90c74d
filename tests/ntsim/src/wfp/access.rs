//! The access check behind conditions on users: whether a security descriptor grants `FWP_ACTRL_MATCH_FILTER` to a
//! token (*Permitting and Blocking Applications and Users*; *FWP_MATCH_TYPE*, remarks).

use alloc::vec::Vec;
use core::ffi::c_void;

/// FWP_ACTRL_MATCH_FILTER (*Access Right Identifiers*).
const MATCH_FILTER: u32 = 1;

const ACCESS_ALLOWED_ACE_TYPE: u8 = 0;
const ACCESS_DENIED_ACE_TYPE: u8 = 1;
/// SE_DACL_PRESENT of SECURITY_DESCRIPTOR_CONTROL.
const DACL_PRESENT: u16 = 4;
/// Where a self-relative security descriptor has its control bits, and the offset of its DACL.
const CONTROL: usize = 2;
const DACL: usize = 16;

/// `token` is a `TOKEN_ACCESS_INFORMATION`, `descriptor` a self-relative security descriptor. The entries of the list
/// count in their order; without a list, all is granted; an empty one grants nothing (*How AccessCheck Works*).
pub(super) fn grants(descriptor: &[u8], token: &[u8]) -> bool {
    let sids = sids(token);
    let Some(control) = u16_at(descriptor, CONTROL) else {
        return false;
    };
    let offset = u32_at(descriptor, DACL).unwrap_or(0) as usize;
    if control & DACL_PRESENT == 0 || offset == 0 {
        return true;
    }
    let Some(list) = descriptor.get(offset..) else {
        return false;
    };
    let count = u16_at(list, 4).unwrap_or(0);
    let mut at = 8;
    for _ in 0..count {
        let Some((kind, size, mask)) = list
            .get(at)
            .copied()
            .zip(u16_at(list, at + 2))
            .zip(u32_at(list, at + 4))
            .map(|((kind, size), mask)| (kind, size, mask))
        else {
            return false;
        };
        let Some(sid) = list.get(at + 8..at + usize::from(size)) else {
            return false;
        };
        if mask & MATCH_FILTER != 0 && sids.iter().any(|held| sid.starts_with(held)) {
            match kind {
                ACCESS_ALLOWED_ACE_TYPE => return true,
                ACCESS_DENIED_ACE_TYPE => return false,
                _ => {}
            }
        }
        at += usize::from(size);
    }
    false
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// SID_AND_ATTRIBUTES (winnt.h).
#[repr(C)]
struct SidAndAttributes {
    sid: *const u8,
    attributes: u32,
}

/// The head of SID_AND_ATTRIBUTES_HASH (winnt.h).
#[repr(C)]
struct SidHash {
    count: u32,
    sids: *const SidAndAttributes,
}

/// The SIDs of a token: of its user, and of its groups.
fn sids(token: &[u8]) -> Vec<&[u8]> {
    // TOKEN_ACCESS_INFORMATION begins with a pointer to the hash of its SIDs.
    let Some(head) = token.get(..size_of::<*const c_void>()) else {
        return Vec::new();
    };
    // SAFETY: the slice is as long as a pointer, and is read without regard to alignment.
    let hash = unsafe { head.as_ptr().cast::<*const SidHash>().read_unaligned() };
    // SAFETY: the stack made the token and keeps what it points at until the classification is over.
    let Some(hash) = (unsafe { hash.as_ref() }) else {
        return Vec::new();
    };
    if hash.sids.is_null() {
        return Vec::new();
    }
    // SAFETY: as above; the hash says how many SIDs there are.
    let entries = unsafe { core::slice::from_raw_parts(hash.sids, hash.count as usize) };
    entries.iter().filter(|entry| !entry.sid.is_null()).map(|entry| super::convert::sid(entry.sid)).collect()
}
