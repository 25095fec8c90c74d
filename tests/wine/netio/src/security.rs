//! Security descriptors that a client has cached, so that it may pass them to the provider's functions.
//!
//! Pages "WSK_CACHE_SD", "WSK_RELEASE_SD", PFN_WSK_SOCKET. Winsock has nothing to do with them: they are kept, and checked
//! for being what they are passed as.

use crate::registration::Client;
use crate::report::violation;
use crate::sys::nt::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::sys::wsk::PSECURITY_DESCRIPTOR;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;

#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn RtlMakeSelfRelativeSD(
        from: PSECURITY_DESCRIPTOR,
        to: PSECURITY_DESCRIPTOR,
        size: *mut u32,
    ) -> NTSTATUS;
}

const SECURITY_DESCRIPTOR_REVISION: u8 = 1;

/// A copy in the self-relative form, aligned as a descriptor is.
#[derive(Debug)]
pub struct Cached(Box<[u64]>);

impl Cached {
    /// # Safety
    /// A descriptor that is valid, in whatever form.
    unsafe fn copy(descriptor: PSECURITY_DESCRIPTOR) -> Option<Self> {
        let mut size = 0;
        // SAFETY: the caller's; no room is given, so that only the size is told.
        unsafe { RtlMakeSelfRelativeSD(descriptor, core::ptr::null_mut(), &raw mut size) };
        let words = usize::try_from(size).ok()?.div_ceil(size_of::<u64>());
        let mut copy: Box<[u64]> = core::iter::repeat_n(0, words).collect::<Vec<_>>().into();
        // SAFETY: the caller's; there is as much room as is said.
        let status = unsafe { RtlMakeSelfRelativeSD(descriptor, copy.as_mut_ptr().cast(), &raw mut size) };
        (status == STATUS_SUCCESS && words != 0).then_some(Self(copy))
    }

    /// What the client knows it by.
    pub fn address(&self) -> usize {
        self.0.as_ptr().expose_provenance()
    }
}

/// The variable that an operation takes a descriptor from.
///
/// # Safety
/// `input` is NULL or valid for `size` bytes.
unsafe fn variable(size: usize, input: *mut c_void) -> Option<PSECURITY_DESCRIPTOR> {
    let fits = size == size_of::<PSECURITY_DESCRIPTOR>() && !input.is_null();
    // SAFETY: the caller's, and as large as it must be.
    let pointer = fits.then(|| unsafe { input.cast::<PSECURITY_DESCRIPTOR>().read_unaligned() })?;
    (!pointer.is_null()).then_some(pointer)
}

/// WSK_CACHE_SD.
///
/// # Safety
/// The buffers are what the client passed, as the page has it.
pub unsafe fn cache(
    client: &Client,
    (input_size, input): (usize, *mut c_void),
    (output_size, output): (usize, *mut c_void),
) -> NTSTATUS {
    // SAFETY: the caller's.
    let Some(descriptor) = (unsafe { variable(input_size, input) }) else { return STATUS_INVALID_PARAMETER };
    if output_size != size_of::<PSECURITY_DESCRIPTOR>() || output.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // Wine's RtlValidSecurityDescriptor answers a status where a BOOLEAN is due.
    // SAFETY: not NULL; a security descriptor, says the page, which begins with its revision.
    if unsafe { descriptor.cast::<u8>().read() } != SECURITY_DESCRIPTOR_REVISION {
        violation!("WSK_CACHE_SD", "{descriptor:p} is no security descriptor");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: valid, as was just seen.
    let Some(cached) = (unsafe { Cached::copy(descriptor) }) else { return STATUS_INVALID_PARAMETER };
    let address = cached.address();
    client.cache(cached);
    let given: PSECURITY_DESCRIPTOR = core::ptr::with_exposed_provenance_mut(address);
    // SAFETY: large enough, and the client's own.
    unsafe { output.cast::<PSECURITY_DESCRIPTOR>().write_unaligned(given) };
    STATUS_SUCCESS
}

/// WSK_RELEASE_SD.
///
/// # Safety
/// As for [`cache`].
pub unsafe fn release(client: &Client, (input_size, input): (usize, *mut c_void)) -> NTSTATUS {
    // SAFETY: the caller's.
    let Some(descriptor) = (unsafe { variable(input_size, input) }) else { return STATUS_INVALID_PARAMETER };
    if client.uncache(descriptor.addr()) {
        return STATUS_SUCCESS;
    }
    violation!("WSK_RELEASE_SD", "{descriptor:p} is not cached");
    STATUS_INVALID_PARAMETER
}

/// Whether a descriptor may be passed to a function of the provider: none, or one that the client has cached.
pub fn may_pass(api: &str, client: &Client, descriptor: PSECURITY_DESCRIPTOR) -> bool {
    let may = descriptor.is_null() || client.has_cached(descriptor.addr());
    if !may {
        violation!(api, "{descriptor:p} is not a cached security descriptor");
    }
    may
}
