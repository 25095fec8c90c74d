//! The security descriptor of listening sockets.
//!
//! It controls who may share the local address that a socket is bound to (page "SO_WSK_SECURITY"): SYSTEM and
//! Administrators, nobody else. WSK takes descriptors only as cached copies of its own (WSK_CACHE_SD), which stay
//! until the request that applies them is completed, and are released when they are needed no more (WSK_RELEASE_SD).

use super::provider::Provider;
use crate::kernel::{Result, Status};
use crate::sys::nt::PVOID;
use crate::sys::wsk::{WSK_CACHE_SD, WSK_RELEASE_SD};
use core::ptr::null_mut;

/// A security descriptor that WSK has cached. It is released when dropped.
pub(super) struct Cached<'p> {
    provider: &'p Provider<'p>,
    descriptor: PVOID,
}

impl<'p> Cached<'p> {
    /// Has WSK cache the descriptor.
    ///
    /// # Errors
    /// What WskControlClient returns: STATUS_NOT_SUPPORTED and STATUS_NOT_IMPLEMENTED among them.
    pub(super) fn new(provider: &'p Provider<'p>) -> Result<Self> {
        // WSK reads from there; nobody writes.
        let mut original: PVOID = (&raw const DESCRIPTOR).cast_mut().cast();
        let mut descriptor: PVOID = null_mut();
        provider.control(WSK_CACHE_SD, Some(&mut original), Some(&mut descriptor)).exact()?;
        if descriptor.is_null() {
            return Err(Status::UNSUCCESSFUL);
        }
        Ok(Self { provider, descriptor })
    }

    /// The cached copy.
    pub(super) const fn as_raw(&self) -> PVOID {
        self.descriptor
    }

    /// Leaves the copy to WSK: a request that uses it was never completed.
    pub(super) fn abandon(self) {
        core::mem::forget(self);
    }
}

impl Drop for Cached<'_> {
    fn drop(&mut self) {
        // Nobody could be helped by its failure.
        let _released = self.provider.control(WSK_RELEASE_SD, Some(&mut self.descriptor), None::<&mut PVOID>);
    }
}

/// S-1-5-18: revision, number of parts, authority, parts.
const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// S-1-5-32-544.
const ADMINISTRATORS: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 0x02, 0, 0];

/// FILE_ALL_ACCESS: sockets are file objects, and generic rights would have to be mapped first.
const ACCESS: u32 = 0x001F_01FF;

/// SECURITY_DESCRIPTOR, self-relative, and what its offsets lead to.
#[repr(C, align(8))]
struct Descriptor {
    revision: u8,
    reserved: u8,
    control: u16,
    owner: u32,
    group: u32,
    system_list: u32,
    list: u32,
    owner_id: [u8; 16],
    group_id: [u8; 12],
    entries: List,
}

/// ACL.
#[repr(C)]
struct List {
    revision: u8,
    reserved: u8,
    size: u16,
    count: u16,
    reserved_too: u16,
    system: Allow<12>,
    administrators: Allow<16>,
}

/// ACCESS_ALLOWED_ACE.
#[repr(C)]
struct Allow<const N: usize> {
    kind: u8,
    flags: u8,
    size: u16,
    access: u32,
    who: [u8; N],
}

static DESCRIPTOR: Descriptor = Descriptor {
    revision: 1,
    reserved: 0,
    // SE_SELF_RELATIVE, SE_DACL_PROTECTED (from inheritance), SE_DACL_PRESENT.
    control: 0x9004,
    owner: 20,
    group: 36,
    system_list: 0,
    list: 48,
    owner_id: ADMINISTRATORS,
    group_id: SYSTEM,
    entries: List {
        revision: 2,
        reserved: 0,
        size: 52,
        count: 2,
        reserved_too: 0,
        system: Allow { kind: 0, flags: 0, size: 20, access: ACCESS, who: SYSTEM },
        administrators: Allow { kind: 0, flags: 0, size: 24, access: ACCESS, who: ADMINISTRATORS },
    },
};

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Descriptor, owner_id) == 20);
    assert!(offset_of!(Descriptor, group_id) == 36);
    assert!(offset_of!(Descriptor, entries) == 48);
    assert!(size_of::<List>() == 52);
    assert!(size_of::<Allow<12>>() == 20 && size_of::<Allow<16>>() == 24);
};
