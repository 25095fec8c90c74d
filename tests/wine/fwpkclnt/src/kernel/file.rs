//! Files, and the security of objects: Wine's own, with the IRQL that the pages allow checked, made to fail where they were
//! told to, and with the one name that Wine does not know.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::{null, null_mut};

use crate::sys::nt::{
    ACCESS_MASK, HANDLE, IO_STATUS_BLOCK, IO_STATUS_BLOCK_0, LARGE_INTEGER, NTSTATUS, OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, PASSIVE_LEVEL, PDRIVER_OBJECT, PIO_APC_ROUTINE, PIO_STATUS_BLOCK,
    PVOID, STATUS_ACCESS_DENIED, STATUS_DISK_FULL, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS, UNICODE_STRING,
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

/// Opens a directory below `\SystemRoot`, which is made if it is not there.
fn directory(name: &str, file: *mut HANDLE) -> NTSTATUS {
    // FILE_LIST_DIRECTORY, FILE_ADD_FILE, FILE_TRAVERSE, SYNCHRONIZE.
    const ACCESS: ACCESS_MASK = 0x0010_0023;
    const OPEN_IF: u32 = 3;
    // FILE_DIRECTORY_FILE, FILE_SYNCHRONOUS_IO_NONALERT.
    const OPTIONS: u32 = 0x21;
    // FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SHARE_DELETE.
    const SHARE: u32 = 7;
    let units: Vec<u16> = name.encode_utf16().collect();
    let length = u16::try_from(units.len() * 2).unwrap_or(u16::MAX);
    let mut string =
        UNICODE_STRING { Length: length, MaximumLength: length, Buffer: units.as_ptr().cast_mut() };
    let attributes = OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: null_mut(),
        ObjectName: &raw mut string,
        Attributes: OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
        SecurityDescriptor: null_mut(),
        SecurityQualityOfService: null_mut(),
    };
    let mut status = IO_STATUS_BLOCK { u: IO_STATUS_BLOCK_0 { Status: 0 }, Information: 0 };
    let (attributes, status) = (&raw const attributes, &raw mut status);
    // SAFETY: all of it lives until the call has returned.
    unsafe {
        ZwCreateFile(file, ACCESS, attributes, status, null(), 0, SHARE, OPEN_IF, OPTIONS, null_mut(), 0)
    }
}

/// Where Windows keeps what a driver writes: a directory for each driver.
pub(super) unsafe extern "system" fn IoGetDriverDirectory(
    driver: PDRIVER_OBJECT,
    kind: i32,
    flags: u32,
    file: *mut HANDLE,
) -> NTSTATUS {
    const API: &str = "IoGetDriverDirectory";
    const DATA: i32 = 1;
    const PARENT: &str = r"\SystemRoot\System32\drivers\DriverData";
    irql::require_at_most(API, PASSIVE_LEVEL);
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if driver.is_null() || file.is_null() || kind != DATA || flags != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not null; the driver's own object.
    let name = unsafe { (*driver).DriverName };
    // SAFETY: a counted string has that many bytes.
    let name = unsafe { core::slice::from_raw_parts(name.Buffer, usize::from(name.Length) / 2) };
    let name = String::from_utf16_lossy(name);
    let made = directory(PARENT, file);
    if made != STATUS_SUCCESS {
        return made;
    }
    // SAFETY: the call above has written it.
    let parent = unsafe { file.read() };
    // SAFETY: opened just now.
    unsafe { super::checked::ZwClose(parent) };
    directory(&format!(r"{PARENT}\{}", name.rsplit('\\').next().unwrap_or_default()), file)
}
