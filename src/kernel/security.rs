//! Who may touch an object: its security descriptor, read (ZwQuerySecurityObject, PASSIVE_LEVEL) and judged.
//!
//! [`judge`] is pure, and believes nothing of the bytes: a descriptor that is not whole, or has an entry that it does not
//! know, is refused. It asks a narrower question than an access check does: whether anybody but the system and its
//! administrators is *named* with a right that matters. Entries that deny do not make up for one that allows, and a
//! condition on an entry does not either. Layout: pages "SECURITY_DESCRIPTOR", "ACL", "ACE_HEADER" and "SID" of the
//! Windows SDK, and [MS-DTYP] 2.4.

use super::irql::Passive;
use super::pool::{PoolSlice, tags};
use super::status::{Result, Status};
use crate::sys::nt;

/// What is wrong with a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It is not a whole self-relative descriptor, or has an entry of an unknown kind.
    Descriptor,
    /// Somebody else owns the object, and may give himself any right.
    Owner,
    /// There is no list of who may do what: everybody may do everything.
    NoList,
    /// The list admits somebody else.
    Admits,
}

/// `S-1-5-18`: the system.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// `S-1-5-32-544`: its administrators.
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];

/// Rights to a key that neither show what stands in it nor change it: KEY_ENUMERATE_SUB_KEYS, KEY_NOTIFY, READ_CONTROL,
/// SYNCHRONIZE.
pub const HARMLESS_TO_A_KEY: u32 = 0x8 | 0x10 | 0x2_0000 | 0x10_0000;

/// The largest descriptor: what an ACL's 16 bits of size allow, with the rest.
const LARGEST: usize = 0x1_0000;
/// Room for the usual one at the first attempt.
const FIRST: usize = 256;
/// How often a descriptor that changes while it is read is asked for again.
const ATTEMPTS: usize = 4;

/// Reads owner and list of the object behind a handle.
///
/// # Safety
/// An open handle, with READ_CONTROL access.
///
/// # Errors
/// What ZwQuerySecurityObject returns; `STATUS_INSUFFICIENT_RESOURCES`.
pub(super) unsafe fn read(_passive: &Passive, handle: nt::HANDLE) -> Result<PoolSlice<u8>> {
    let mut size = FIRST;
    for _ in 0..ATTEMPTS {
        let mut descriptor = PoolSlice::try_zeroed(tags::SECURITY, size)?;
        let length = u32::try_from(descriptor.len()).map_err(|_| Status::INVALID_PARAMETER)?;
        let mut needed = 0;
        // SAFETY: the caller's handle; a buffer of `length` bytes; PASSIVE_LEVEL says the token.
        let status = unsafe {
            nt::ZwQuerySecurityObject(
                handle,
                nt::OWNER_SECURITY_INFORMATION | nt::DACL_SECURITY_INFORMATION,
                descriptor.as_mut_ptr().cast(),
                length,
                &raw mut needed,
            )
        };
        match Status(status) {
            Status::SUCCESS => return Ok(descriptor),
            Status::BUFFER_TOO_SMALL => {}
            other => return Err(other),
        }
        size = usize::try_from(needed).unwrap_or(LARGEST);
        if size > LARGEST {
            return Err(Status::BUFFER_TOO_SMALL);
        }
    }
    Err(Status::UNSUCCESSFUL)
}

/// Whether nobody but the system and its administrators owns the object, or has a right to it that is not `harmless`.
///
/// # Errors
/// What is wrong.
pub fn judge(descriptor: &[u8], harmless: u32) -> core::result::Result<(), Flaw> {
    /// Bits of `Control`.
    const DACL_PRESENT: u16 = 0x4;
    const SELF_RELATIVE: u16 = 0x8000;
    const HEADER: usize = 20;
    let header = descriptor.get(..HEADER).ok_or(Flaw::Descriptor)?;
    let control = half(header, 2).ok_or(Flaw::Descriptor)?;
    if header.first() != Some(&1) || control & SELF_RELATIVE == 0 {
        return Err(Flaw::Descriptor);
    }
    let part = |at: usize| {
        let offset = usize::try_from(word(header, at)?).ok().filter(|offset| *offset >= HEADER)?;
        descriptor.get(offset..)
    };
    let owner = part(4).and_then(sid).ok_or(Flaw::Descriptor)?;
    if !is_trusted(owner) {
        return Err(Flaw::Owner);
    }
    if control & DACL_PRESENT == 0 || word(header, 16) == Some(0) {
        return Err(Flaw::NoList);
    }
    list(part(16).ok_or(Flaw::Descriptor)?, harmless)
}

/// Judges a list.
fn list(bytes: &[u8], harmless: u32) -> core::result::Result<(), Flaw> {
    const HEADER: usize = 8;
    let size = half(bytes, 2).ok_or(Flaw::Descriptor)?;
    let count = half(bytes, 4).ok_or(Flaw::Descriptor)?;
    // ACL_REVISION, ACL_REVISION_DS.
    if !matches!(bytes.first(), Some(2 | 4)) {
        return Err(Flaw::Descriptor);
    }
    let all = bytes.get(..usize::from(size)).ok_or(Flaw::Descriptor)?;
    let mut rest = all.get(HEADER..).ok_or(Flaw::Descriptor)?;
    for _ in 0..count {
        let size = usize::from(half(rest, 2).ok_or(Flaw::Descriptor)?);
        let (entry, others) = rest.split_at_checked(size).ok_or(Flaw::Descriptor)?;
        admits(entry, harmless)?;
        rest = others;
    }
    Ok(())
}

/// Judges an entry of a list.
fn admits(entry: &[u8], harmless: u32) -> core::result::Result<(), Flaw> {
    /// It is there for what is made below the object, and says nothing of the object itself.
    const INHERIT_ONLY: u8 = 8;
    const OBJECT_TYPE_PRESENT: u32 = 1;
    const INHERITED_OBJECT_TYPE_PRESENT: u32 = 2;
    const GUID: usize = 16;
    let [kind, flags, _, _, entry @ ..] = entry else { return Err(Flaw::Descriptor) };
    // Allowed, denied; the same with an object's type, or a condition, or both.
    let (allows, of_object) = match kind {
        0 | 9 => (true, false),
        1 | 10 => (false, false),
        5 | 11 => (true, true),
        6 | 12 => (false, true),
        _ => return Err(Flaw::Descriptor),
    };
    let mask = word(entry, 0).ok_or(Flaw::Descriptor)?;
    let mut start = size_of::<u32>();
    if of_object {
        let present = word(entry, start).ok_or(Flaw::Descriptor)?;
        start = start.saturating_add(size_of::<u32>());
        for kind in [OBJECT_TYPE_PRESENT, INHERITED_OBJECT_TYPE_PRESENT] {
            if present & kind != 0 {
                start = start.saturating_add(GUID);
            }
        }
    }
    let who = entry.get(start..).and_then(sid).ok_or(Flaw::Descriptor)?;
    let concerns = allows && flags & INHERIT_ONLY == 0 && mask & !harmless != 0;
    if concerns && !is_trusted(who) { Err(Flaw::Admits) } else { Ok(()) }
}

/// The identifier that the bytes begin with.
fn sid(bytes: &[u8]) -> Option<&[u8]> {
    const HEADER: usize = 8;
    const MOST: u8 = 15;
    let [1, count @ 1..=MOST, ..] = bytes else { return None };
    let length = usize::from(*count).checked_mul(size_of::<u32>())?.checked_add(HEADER)?;
    bytes.get(..length)
}

fn is_trusted(sid: &[u8]) -> bool {
    sid == SYSTEM || sid == ADMINISTRATORS
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|half| u16::from_le_bytes(*half))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}
