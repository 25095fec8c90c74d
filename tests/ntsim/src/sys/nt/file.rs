//! Files: wdm.h, ntifs.h, all at PASSIVE_LEVEL.

use super::types::{
    ACCESS_MASK, FILE_COMPLETE_IF_OPLOCKED, FILE_INFORMATION_CLASS, FILE_READ_DATA,
    FILE_STANDARD_INFORMATION, FILE_SYNCHRONOUS_IO_ALERT, FILE_SYNCHRONOUS_IO_NONALERT, FILE_WRITE_DATA,
    FileStandardInformation, HANDLE, LARGE_INTEGER, NTSTATUS, OBJ_KERNEL_HANDLE, PASSIVE_LEVEL,
    PDRIVER_OBJECT, PHANDLE, PIO_APC_ROUTINE, PIO_STATUS_BLOCK, PLARGE_INTEGER, POBJECT_ATTRIBUTES, PULONG,
    PVOID, SYNCHRONIZE, ULONG,
};
use super::{
    OBJECT_ATTRIBUTES, STATUS_DEVICE_NOT_READY, STATUS_INFO_LENGTH_MISMATCH, STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_INFO_CLASS, STATUS_INVALID_PARAMETER, STATUS_OPLOCK_BREAK_IN_PROGRESS, STATUS_SUCCESS,
};
use crate::file::{self, Created, Open};
use crate::irql::{is_system_thread, require_at_most};
use crate::verify::violation;
use crate::{fault, object, rules};

rules! {
    FILE_HANDLE = ("handle that a user process could reach", "Using Files in a Driver");
    FILE_SYNCHRONOUS = ("file opened for synchronous use without SYNCHRONIZE access", "ZwCreateFile");
    FILE_OPLOCK = ("waits for the holder of an oplock, who need not give it up", "ZwCreateFile");
    FILE_ASYNCHRONOUS = ("file not opened for synchronous use, and nothing to wait on", "ZwReadFile");
}

/// Writes the result of a call that is done.
///
/// # Safety
/// `block` is NULL or writable.
unsafe fn finish(block: PIO_STATUS_BLOCK, status: NTSTATUS, information: usize) -> NTSTATUS {
    // SAFETY: as the caller promises.
    if let Some(block) = unsafe { block.as_mut() } {
        block.u.Status = status;
        block.Information = information;
    }
    status
}

/// Page "ZwCreateFile": PASSIVE_LEVEL; a name is absolute, or relative to the root directory's handle; synchronous use
/// takes SYNCHRONIZE access; with FILE_COMPLETE_IF_OPLOCKED what an oplock is in the way of is open, and told.
///
/// # Safety
/// `handle` and `block` are writable, `attributes` valid.
pub unsafe extern "system-unwind" fn ZwCreateFile(
    handle: PHANDLE,
    access: ACCESS_MASK,
    attributes: POBJECT_ATTRIBUTES,
    block: PIO_STATUS_BLOCK,
    _allocation: PLARGE_INTEGER,
    _file_attributes: ULONG,
    share: ULONG,
    disposition: ULONG,
    options: ULONG,
    _extended: PVOID,
    _extended_length: ULONG,
) -> NTSTATUS {
    const API: &str = "ZwCreateFile";
    require_at_most(API, PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let Some(attributes) = (unsafe { attributes.as_ref() }) else { return STATUS_INVALID_PARAMETER };
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
        return STATUS_INVALID_PARAMETER;
    }
    if attributes.Attributes & OBJ_KERNEL_HANDLE == 0 && !is_system_thread() {
        violation(&FILE_HANDLE, API, "OBJ_KERNEL_HANDLE is missing");
    }
    let synchronous = options & (FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT) != 0;
    if synchronous && access & SYNCHRONIZE == 0 {
        violation(&FILE_SYNCHRONOUS, API, format!("access {access:#x}"));
        return STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: as the caller promises.
    let Some(name) = (unsafe { super::registry::units(attributes.ObjectName) }) else {
        return STATUS_INVALID_PARAMETER;
    };
    let root = if attributes.RootDirectory.is_null() {
        None
    } else {
        match object::file(API, attributes.RootDirectory, 0) {
            Ok(root) => Some(root),
            Err(status) => return status,
        }
    };
    match file::open(root.as_ref(), name, access, share, disposition, options) {
        Ok(Created { open, information, oplocked }) => {
            // SAFETY: as the caller promises.
            unsafe { handle.write(object::open_file(open, access, API)) };
            let completes = options & FILE_COMPLETE_IF_OPLOCKED != 0;
            if oplocked && !completes {
                violation(&FILE_OPLOCK, API, "opened without FILE_COMPLETE_IF_OPLOCKED");
            }
            let status = if oplocked && completes { STATUS_OPLOCK_BREAK_IN_PROGRESS } else { STATUS_SUCCESS };
            // SAFETY: as the caller promises.
            unsafe { finish(block, status, information) }
        }
        Err(status) => status,
    }
}

/// Page "IoGetDriverDirectory": PASSIVE_LEVEL, in a thread of the system's; flags are 0; an error before the volume is
/// there. Here for DriverDirectoryData. DriverEntry's thread counts as one of the system's.
///
/// # Safety
/// `driver` is a driver's object, `handle` writable.
pub unsafe extern "system-unwind" fn IoGetDriverDirectory(
    driver: PDRIVER_OBJECT,
    kind: i32,
    flags: ULONG,
    handle: PHANDLE,
) -> NTSTATUS {
    const API: &str = "IoGetDriverDirectory";
    require_at_most(API, PASSIVE_LEVEL);
    // SAFETY: as the caller promises.
    let Some(driver) = (unsafe { driver.as_mut() }) else { return STATUS_INVALID_PARAMETER };
    if flags != 0 || kind != 1 || handle.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the object's own string.
    let name = unsafe { super::registry::units(&raw mut driver.DriverName) }.unwrap_or_default();
    match file::of_driver(name) {
        Some(open) => {
            let access = super::FILE_GENERIC_READ | super::FILE_GENERIC_WRITE | super::FILE_TRAVERSE;
            // SAFETY: as the caller promises.
            unsafe { handle.write(object::open_file(open, access, API)) };
            STATUS_SUCCESS
        }
        None => STATUS_DEVICE_NOT_READY,
    }
}

/// The common checks of the routines that use a file.
fn enter(api: &'static str, handle: HANDLE, needed: ACCESS_MASK) -> Result<Open, NTSTATUS> {
    require_at_most(api, PASSIVE_LEVEL);
    let open = object::file(api, handle, needed)?;
    if !open.is_synchronous() {
        violation(&FILE_ASYNCHRONOUS, api, "opened without FILE_SYNCHRONOUS_IO_NONALERT");
        return Err(STATUS_INVALID_PARAMETER);
    }
    Ok(open)
}

/// # Safety
/// `offset` is NULL or readable.
unsafe fn offset(offset: PLARGE_INTEGER) -> Option<usize> {
    // SAFETY: as the caller promises.
    let offset: &LARGE_INTEGER = unsafe { offset.as_ref() }?;
    // SAFETY: both views of the union are plain integers of the same 8 bytes.
    usize::try_from(unsafe { offset.QuadPart }).ok()
}

/// Page "ZwReadFile": PASSIVE_LEVEL, FILE_READ_DATA; STATUS_END_OF_FILE at the end. Here with an explicit offset alone.
///
/// # Safety
/// `block` is writable, `buffer` for `length` bytes; `place` readable.
pub unsafe extern "system-unwind" fn ZwReadFile(
    handle: HANDLE,
    _event: HANDLE,
    _routine: PIO_APC_ROUTINE,
    _context: PVOID,
    block: PIO_STATUS_BLOCK,
    buffer: PVOID,
    length: ULONG,
    place: PLARGE_INTEGER,
    _key: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwReadFile";
    let open = match enter(API, handle, FILE_READ_DATA) {
        Ok(open) => open,
        Err(status) => return status,
    };
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: as the caller promises.
    let Some(place) = (unsafe { offset(place) }) else { return STATUS_INVALID_PARAMETER };
    match file::read(&open, place, length as usize) {
        Ok(bytes) => {
            // SAFETY: as the caller promises.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len()) };
            // SAFETY: as the caller promises.
            unsafe { finish(block, STATUS_SUCCESS, bytes.len()) }
        }
        // SAFETY: as the caller promises.
        Err(status) => unsafe { finish(block, status, 0) },
    }
}

/// Page "ZwWriteFile": PASSIVE_LEVEL, FILE_WRITE_DATA. Here with an explicit offset alone. One that fails may have
/// written a part: the page does not say otherwise.
///
/// # Safety
/// `block` is writable, `buffer` readable for `length` bytes; `place` readable.
pub unsafe extern "system-unwind" fn ZwWriteFile(
    handle: HANDLE,
    _event: HANDLE,
    _routine: PIO_APC_ROUTINE,
    _context: PVOID,
    block: PIO_STATUS_BLOCK,
    buffer: PVOID,
    length: ULONG,
    place: PLARGE_INTEGER,
    _key: PULONG,
) -> NTSTATUS {
    const API: &str = "ZwWriteFile";
    let open = match enter(API, handle, FILE_WRITE_DATA) {
        Ok(open) => open,
        Err(status) => return status,
    };
    // SAFETY: as the caller promises.
    let Some(place) = (unsafe { offset(place) }) else { return STATUS_INVALID_PARAMETER };
    // SAFETY: as the caller promises.
    let bytes = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
    if fault::fail(API) {
        _ = file::write(&open, place, &bytes[..bytes.len() / 2]);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let (status, written) = file::write(&open, place, bytes);
    // SAFETY: as the caller promises.
    unsafe { finish(block, status, written) }
}

/// Page "ZwFlushBuffersFile": PASSIVE_LEVEL, a file that can be written to.
///
/// # Safety
/// `block` is writable.
pub unsafe extern "system-unwind" fn ZwFlushBuffersFile(handle: HANDLE, block: PIO_STATUS_BLOCK) -> NTSTATUS {
    const API: &str = "ZwFlushBuffersFile";
    let open = match enter(API, handle, FILE_WRITE_DATA) {
        Ok(open) => open,
        Err(status) => return status,
    };
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    file::flush(&open);
    // SAFETY: as the caller promises.
    unsafe { finish(block, STATUS_SUCCESS, 0) }
}

/// Page "ZwQueryInformationFile", for FileStandardInformation: PASSIVE_LEVEL.
///
/// # Safety
/// `block` is writable, `information` for `length` bytes.
pub unsafe extern "system-unwind" fn ZwQueryInformationFile(
    handle: HANDLE,
    block: PIO_STATUS_BLOCK,
    information: PVOID,
    length: ULONG,
    class: FILE_INFORMATION_CLASS,
) -> NTSTATUS {
    const API: &str = "ZwQueryInformationFile";
    require_at_most(API, PASSIVE_LEVEL);
    let open = match object::file(API, handle, 0) {
        Ok(open) => open,
        Err(status) => return status,
    };
    if class != FileStandardInformation {
        return STATUS_INVALID_INFO_CLASS;
    }
    if (length as usize) < size_of::<FILE_STANDARD_INFORMATION>() {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    if fault::fail(API) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let (size, directory) = file::size(&open);
    let integer = |value: usize| LARGE_INTEGER { QuadPart: i64::try_from(value).unwrap_or(i64::MAX) };
    let found = FILE_STANDARD_INFORMATION {
        AllocationSize: integer(size.next_multiple_of(4096)),
        EndOfFile: integer(size),
        NumberOfLinks: 1,
        DeletePending: 0,
        Directory: u8::from(directory),
    };
    // SAFETY: as the caller promises.
    unsafe { information.cast::<FILE_STANDARD_INFORMATION>().write_unaligned(found) };
    // SAFETY: as the caller promises.
    unsafe { finish(block, STATUS_SUCCESS, size_of::<FILE_STANDARD_INFORMATION>()) }
}
