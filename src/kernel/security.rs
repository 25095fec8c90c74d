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

#[cfg(all(test, feature = "sim", not(loom)))]
mod tests {
    use std::vec::Vec;

    use ntsim::security::{Ace, Descriptor, FULL, INHERIT_ONLY, READ, Sid};
    use proptest::prelude::*;

    use super::*;

    fn judged(list: Option<Vec<Ace>>) -> core::result::Result<(), Flaw> {
        judge(&Descriptor { owner: Sid::SYSTEM, list }.bytes(), HARMLESS_TO_A_KEY)
    }

    fn with(ace: Ace) -> core::result::Result<(), Flaw> {
        judged(Some(std::vec![Ace::allow(FULL, Sid::SYSTEM), ace, Ace::allow(FULL, Sid::ADMINISTRATORS)]))
    }

    #[test]
    fn what_is_closed_to_all_but_the_system_and_its_administrators_passes() {
        assert_eq!(judge(&Descriptor::closed().bytes(), HARMLESS_TO_A_KEY), Ok(()));
        let owned = Descriptor { owner: Sid::ADMINISTRATORS, ..Descriptor::closed() };
        assert_eq!(judge(&owned.bytes(), HARMLESS_TO_A_KEY), Ok(()));
        // Nobody at all.
        assert_eq!(judged(Some(Vec::new())), Ok(()));
    }

    #[test]
    fn what_a_service_inherits_does_not() {
        assert_eq!(judge(&Descriptor::of_a_service().bytes(), HARMLESS_TO_A_KEY), Err(Flaw::Admits));
    }

    #[test]
    fn whoever_else_owns_it_might_admit_himself() {
        for owner in [Sid::USERS, Sid::EVERYONE, Sid(5, &[21, 1, 2, 3, 500]), Sid(5, &[18, 0]), Sid(1, &[18])]
        {
            let descriptor = Descriptor { owner, ..Descriptor::closed() };
            assert_eq!(judge(&descriptor.bytes(), HARMLESS_TO_A_KEY), Err(Flaw::Owner), "{owner:?}");
        }
    }

    #[test]
    fn without_a_list_everybody_is_admitted() {
        assert_eq!(judged(None), Err(Flaw::NoList));
        // Present, and NULL.
        let mut null = Descriptor { owner: Sid::SYSTEM, list: None }.bytes();
        null[2] |= 4;
        assert_eq!(judge(&null, HARMLESS_TO_A_KEY), Err(Flaw::NoList));
        // There, and said to be absent.
        let mut absent = Descriptor::closed().bytes();
        absent[2] &= !4;
        assert_eq!(judge(&absent, HARMLESS_TO_A_KEY), Err(Flaw::NoList));
    }

    #[test]
    fn every_right_that_shows_or_changes_the_key_matters_and_no_other() {
        for bit in 0..32 {
            let mask = 1_u32 << bit;
            let expected = if mask & HARMLESS_TO_A_KEY == 0 { Err(Flaw::Admits) } else { Ok(()) };
            assert_eq!(with(Ace::allow(mask, Sid::USERS)), expected, "{mask:#x}");
        }
        assert_eq!(with(Ace::allow(READ, Sid::USERS)), Err(Flaw::Admits));
        assert_eq!(with(Ace::allow(HARMLESS_TO_A_KEY, Sid::EVERYONE)), Ok(()));
    }

    #[test]
    fn every_kind_of_entry_that_allows_counts() {
        let others = Sid::AUTHENTICATED_USERS;
        assert_eq!(with(Ace::allow_callback(READ, others)), Err(Flaw::Admits));
        for present in 0..4 {
            let ace = Ace::allow_object(present, READ, others);
            assert_eq!(with(ace.clone()), Err(Flaw::Admits), "{present}");
            assert_eq!(with(Ace { kind: 11, ..ace }), Err(Flaw::Admits), "{present}");
            assert_eq!(with(Ace::allow_object(present, READ, Sid::SYSTEM)), Ok(()), "{present}");
        }
    }

    #[test]
    fn entries_that_deny_or_are_for_what_is_below_say_nothing() {
        assert_eq!(with(Ace::deny(FULL, Sid::EVERYONE)), Ok(()));
        assert_eq!(with(Ace::allow(FULL, Sid::CREATOR_OWNER).flags(INHERIT_ONLY)), Ok(()));
        // To be inherited, and for the key itself.
        assert_eq!(with(Ace::allow(READ, Sid::USERS).flags(2)), Err(Flaw::Admits));
        // An entry that denies does not take back what another allows.
        let both = Some(std::vec![Ace::deny(FULL, Sid::USERS), Ace::allow(READ, Sid::USERS)]);
        assert_eq!(judged(both), Err(Flaw::Admits));
    }

    #[test]
    fn an_entry_of_an_unknown_kind_is_refused() {
        for kind in (0..=u8::MAX).filter(|kind| !matches!(kind, 0 | 1 | 5 | 6 | 9..=12)) {
            assert_eq!(with(Ace { kind, ..Ace::allow(0, Sid::SYSTEM) }), Err(Flaw::Descriptor), "{kind}");
        }
    }

    #[test]
    fn a_descriptor_that_is_cut_or_says_more_than_it_has_is_refused() {
        let whole = Descriptor::closed().bytes();
        for length in 0..whole.len() {
            assert_eq!(judge(&whole[..length], HARMLESS_TO_A_KEY), Err(Flaw::Descriptor), "{length}");
        }
        // One entry more than there is.
        let mut more = whole.clone();
        more[20 + 12 + 4] += 1;
        assert_eq!(judge(&more, HARMLESS_TO_A_KEY), Err(Flaw::Descriptor));
        // Not self-relative: the offsets would be pointers.
        let mut absolute = whole;
        absolute[3] &= !0x80;
        assert_eq!(judge(&absolute, HARMLESS_TO_A_KEY), Err(Flaw::Descriptor));
    }

    #[test]
    fn whatever_byte_is_changed_nobody_else_is_admitted_unseen() {
        // A mask may be narrowed or widened, and an entry for others may become one of the system's; what admits others
        // never passes as long as the entry is there.
        let open = Descriptor {
            owner: Sid::SYSTEM,
            list: Some(std::vec![Ace::allow(FULL, Sid::SYSTEM), Ace::allow(FULL, Sid::EVERYONE)]),
        };
        let bytes = open.bytes();
        let mut passed = 0;
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[at] = value;
                if judge(&changed, HARMLESS_TO_A_KEY).is_ok() {
                    passed += 1;
                    // Then the list ends before the entry, or the entry is no longer one that allows.
                    let list = 20 + 12;
                    let second = list + 8 + 20;
                    let ends = at == list + 4 || at == list + 5;
                    let denies = at == second && matches!(value, 1 | 10);
                    let below = at == second + 1 && value & 8 != 0;
                    let elsewhere = (16..20).contains(&at);
                    assert!(ends || denies || below || elsewhere, "byte {at} = {value:#x}");
                }
            }
        }
        assert!(passed > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, whole: bool,
        ) {
            let _any = judge(&bytes, HARMLESS_TO_A_KEY);
            if whole && !bytes.is_empty() {
                let mut descriptor = Descriptor::of_a_service().bytes();
                let at = at.index(descriptor.len());
                bytes.truncate(descriptor.len() - at);
                descriptor[at..at + bytes.len()].copy_from_slice(&bytes);
                let _any = judge(&descriptor, HARMLESS_TO_A_KEY);
            }
        }
    }
}
