//! Files, and the security of objects: Wine's own, with the IRQL that the pages allow checked, made to fail where they were
//! told to, and with the one name that Wine does not know.

use alloc::vec::Vec;

use crate::sys::nt::{
    ACCESS_MASK, HANDLE, LARGE_INTEGER, NTSTATUS, OBJECT_ATTRIBUTES, PASSIVE_LEVEL, PIO_APC_ROUTINE,
    PIO_STATUS_BLOCK, PVOID, STATUS_ACCESS_DENIED, STATUS_DISK_FULL, STATUS_INSUFFICIENT_RESOURCES,
    UNICODE_STRING,
};
use crate::{fault, irql};

super::checked::checked! {
    fn ZwReadFile(
        file: HANDLE, event: HANDLE, routine: PIO_APC_ROUTINE, context: PVOID, status: PIO_STATUS_BLOCK,
        buffer: PVOID, length: u32, offset: *const LARGE_INTEGER, key: *const u32
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn ZwWriteFile(
        file: HANDLE, event: HANDLE, routine: PIO_APC_ROUTINE, context: PVOID, status: PIO_STATUS_BLOCK,
        buffer: PVOID, length: u32, offset: *const LARGE_INTEGER, key: *const u32
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_DISK_FULL;
    fn ZwFlushBuffersFile(
        file: HANDLE, status: PIO_STATUS_BLOCK
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn ZwQueryInformationFile(
        file: HANDLE, status: PIO_STATUS_BLOCK, information: PVOID, length: u32, class: i32
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
    fn ZwSetInformationFile(
        file: HANDLE, status: PIO_STATUS_BLOCK, information: PVOID, length: u32, class: i32
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_DISK_FULL;
    fn ZwQuerySecurityObject(
        object: HANDLE, information: u32, descriptor: PVOID, length: u32, needed: *mut u32
    ) -> NTSTATUS, PASSIVE_LEVEL, else STATUS_INSUFFICIENT_RESOURCES;
}

mod ntoskrnl {
    use super::{ACCESS_MASK, HANDLE, LARGE_INTEGER, NTSTATUS, OBJECT_ATTRIBUTES, PIO_STATUS_BLOCK, PVOID};

    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn ZwCreateFile(
            file: *mut HANDLE,
            access: ACCESS_MASK,
            attributes: *const OBJECT_ATTRIBUTES,
            status: PIO_STATUS_BLOCK,
            size: *const LARGE_INTEGER,
            kind: u32,
            share: u32,
            disposition: u32,
            options: u32,
            extended: PVOID,
            extended_length: u32,
        ) -> NTSTATUS;
    }
}

/// `\SystemRoot`, the folder that Windows is in (page "Object Names"): Wine has no object of that name.
fn without_system_root(name: &[u16]) -> Option<Vec<u16>> {
    const ROOT: &str = r"\SystemRoot\";
    const FOLDER: &str = r"\??\C:\windows\";
    let units: Vec<u16> = ROOT.encode_utf16().collect();
    let head = name.get(..units.len())?;
    let folded = |unit: u16| u8::try_from(unit).map_or(unit, |byte| byte.to_ascii_lowercase().into());
    let same = head.iter().zip(&units).all(|(one, other)| folded(*one) == folded(*other));
    same.then(|| FOLDER.encode_utf16().chain(name.iter().skip(units.len()).copied()).collect())
}

pub(super) unsafe extern "system" fn ZwCreateFile(
    file: *mut HANDLE,
    access: ACCESS_MASK,
    attributes: *const OBJECT_ATTRIBUTES,
    status: PIO_STATUS_BLOCK,
    size: *const LARGE_INTEGER,
    kind: u32,
    share: u32,
    disposition: u32,
    options: u32,
    extended: PVOID,
    extended_length: u32,
) -> NTSTATUS {
    const API: &str = "ZwCreateFile";
    irql::require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return STATUS_ACCESS_DENIED;
    }
    // SAFETY: by the function's page they can be read.
    let mut attributes = unsafe { *attributes };
    // SAFETY: by the page "OBJECT_ATTRIBUTES" it is null or a counted string.
    let name = unsafe { attributes.ObjectName.as_ref() }.map_or(&[][..], |name| {
        // SAFETY: a counted string has that many bytes.
        unsafe { core::slice::from_raw_parts(name.Buffer, usize::from(name.Length) / 2) }
    });
    let other = without_system_root(name);
    let mut string;
    if let Some(other) = &other {
        let length = u16::try_from(other.len() * 2).unwrap_or(u16::MAX);
        string = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: other.as_ptr().cast_mut() };
        attributes.ObjectName = &raw mut string;
    }
    let attributes = &raw const attributes;
    // SAFETY: the driver's, by the page of the function.
    unsafe {
        ntoskrnl::ZwCreateFile(
            file,
            access,
            attributes,
            status,
            size,
            kind,
            share,
            disposition,
            options,
            extended,
            extended_length,
        )
    }
}
