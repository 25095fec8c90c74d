//! Completion routines, files, the security of keys, and randomness.

use alloc::vec;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::checks::{Check, same, that};
use crate::kernel::{KeGetCurrentIrql, KeLowerIrql, KfRaiseIrql};
use crate::sys::nt::{
    ACCESS_MASK, BOOLEAN, DISPATCH_LEVEL, HANDLE, IO_STATUS_BLOCK, IO_STATUS_BLOCK_0, LARGE_INTEGER,
    NTSTATUS, OBJ_CASE_INSENSITIVE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, PDEVICE_OBJECT, PDRIVER_OBJECT,
    PIO_APC_ROUTINE, PIO_COMPLETION_ROUTINE, PIO_STATUS_BLOCK, PIRP, PVOID, STATUS_BUFFER_TOO_SMALL,
    STATUS_MORE_PROCESSING_REQUIRED, STATUS_SUCCESS, UNICODE_STRING,
};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn IoAllocateIrp(stack: i8, quota: BOOLEAN) -> PIRP;
    fn IoFreeIrp(irp: PIRP);
    fn IofCompleteRequest(irp: PIRP, boost: i8);
    fn IoCreateDevice(
        driver: PDRIVER_OBJECT,
        extension: u32,
        name: *const UNICODE_STRING,
        kind: u32,
        characteristics: u32,
        exclusive: BOOLEAN,
        device: *mut PDEVICE_OBJECT,
    ) -> NTSTATUS;
    fn IoDeleteDevice(device: PDEVICE_OBJECT);
    fn IoSetCompletionRoutineEx(
        device: PDEVICE_OBJECT,
        irp: PIRP,
        routine: PIO_COMPLETION_ROUTINE,
        context: PVOID,
        on_success: BOOLEAN,
        on_error: BOOLEAN,
        on_cancel: BOOLEAN,
    ) -> NTSTATUS;
    fn IoGetDriverDirectory(driver: PDRIVER_OBJECT, kind: i32, flags: u32, file: *mut HANDLE) -> NTSTATUS;
    fn ZwClose(handle: HANDLE) -> NTSTATUS;
    fn ZwOpenKey(key: *mut HANDLE, access: ACCESS_MASK, attributes: *const OBJECT_ATTRIBUTES) -> NTSTATUS;
    fn ZwCreateFile(
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
    fn ZwReadFile(
        file: HANDLE,
        event: HANDLE,
        routine: PIO_APC_ROUTINE,
        context: PVOID,
        status: PIO_STATUS_BLOCK,
        buffer: PVOID,
        length: u32,
        offset: *const LARGE_INTEGER,
        key: *const u32,
    ) -> NTSTATUS;
    fn ZwWriteFile(
        file: HANDLE,
        event: HANDLE,
        routine: PIO_APC_ROUTINE,
        context: PVOID,
        status: PIO_STATUS_BLOCK,
        buffer: PVOID,
        length: u32,
        offset: *const LARGE_INTEGER,
        key: *const u32,
    ) -> NTSTATUS;
    fn ZwFlushBuffersFile(file: HANDLE, status: PIO_STATUS_BLOCK) -> NTSTATUS;
    fn ZwQueryInformationFile(
        file: HANDLE,
        status: PIO_STATUS_BLOCK,
        information: PVOID,
        length: u32,
        class: i32,
    ) -> NTSTATUS;
    fn ZwSetInformationFile(
        file: HANDLE,
        status: PIO_STATUS_BLOCK,
        information: PVOID,
        length: u32,
        class: i32,
    ) -> NTSTATUS;
    fn ZwQuerySecurityObject(
        object: HANDLE,
        information: u32,
        descriptor: PVOID,
        length: u32,
        needed: *mut u32,
    ) -> NTSTATUS;
}

#[link(name = "cng.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn BCryptGenRandom(algorithm: PVOID, buffer: PVOID, length: u32, flags: u32) -> NTSTATUS;
}

/// The driver's own object.
pub static DRIVER: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// What the routine was called with.
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static LEVEL: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn completed(device: PDEVICE_OBJECT, _irp: PIRP, context: PVOID) -> NTSTATUS {
    DEVICE.store(device.addr(), Ordering::SeqCst);
    LEVEL.store(KeGetCurrentIrql().into(), Ordering::SeqCst);
    // SAFETY: the check's own counter, which outlives the request.
    unsafe { &*context.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Gives an IRP to a driver below, which completes it at once.
///
/// # Safety
/// The IRP is the caller's, and has a location left.
unsafe fn complete_below(irp: PIRP) {
    // SAFETY: the caller's.
    let fields = unsafe { &mut *irp };
    fields.CurrentLocation -= 1;
    // SAFETY: the tail is an overlay throughout an IRP's life.
    let current = unsafe { fields.Tail.Overlay.CurrentStackLocation };
    fields.Tail.Overlay.CurrentStackLocation = current.wrapping_sub(1);
    // SAFETY: the location above is the one that its routine is in.
    unsafe { IofCompleteRequest(irp, 0) };
}

pub fn completion() -> Check {
    const UNKNOWN_DEVICE: u32 = 0x22;
    let mut device = null_mut();
    let driver = DRIVER.load(Ordering::SeqCst).cast();
    // SAFETY: the driver's own object; a device without a name.
    let status = unsafe { IoCreateDevice(driver, 0, null(), UNKNOWN_DEVICE, 0, 0, &raw mut device) };
    same("IoCreateDevice", &status, &STATUS_SUCCESS)?;
    // SAFETY: no preconditions.
    let irp = unsafe { IoAllocateIrp(1, 0) };
    that("an IRP", !irp.is_null())?;
    let called = AtomicUsize::new(0);
    let context = (&raw const called).cast_mut().cast();
    // SAFETY: the IRP and the device are ours, and what the context points to outlives the request.
    let status = unsafe { IoSetCompletionRoutineEx(device, irp, Some(completed), context, 1, 1, 1) };
    same("IoSetCompletionRoutineEx", &status, &STATUS_SUCCESS)?;
    let old = KfRaiseIrql(DISPATCH_LEVEL);
    // SAFETY: the IRP is ours.
    unsafe { complete_below(irp) };
    KeLowerIrql(old);
    let found = (called.load(Ordering::SeqCst), DEVICE.load(Ordering::SeqCst), LEVEL.load(Ordering::SeqCst));
    // SAFETY: the routine has kept it.
    unsafe { IoFreeIrp(irp) };
    // SAFETY: nothing is open on it.
    unsafe { IoDeleteDevice(device) };
    same("calls, device, IRQL", &found, &(1, device.addr(), DISPATCH_LEVEL.into()))
}

pub fn random() -> Check {
    const SYSTEM_PREFERRED: u32 = 2;
    let mut draws = [[0_u8; 32]; 2];
    for draw in &mut draws {
        let place = draw.as_mut_ptr().cast();
        // SAFETY: there is as much room as is said.
        let status = unsafe { BCryptGenRandom(null_mut(), place, 32, SYSTEM_PREFERRED) };
        same("BCryptGenRandom", &status, &STATUS_SUCCESS)?;
    }
    let [one, other] = draws;
    that("two draws differ, and neither is zero", one != other && one != [0; 32] && other != [0; 32])
}

/// The attributes of an object by its name, whose text must outlive them.
fn named(text: &[u16], string: &mut UNICODE_STRING) -> OBJECT_ATTRIBUTES {
    let length = u16::try_from(text.len() * 2).unwrap_or(0);
    *string = UNICODE_STRING { Length: length, MaximumLength: length, Buffer: text.as_ptr().cast_mut() };
    OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: null_mut(),
        ObjectName: string,
        Attributes: OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
        SecurityDescriptor: null_mut(),
        SecurityQualityOfService: null_mut(),
    }
}

const NO_STRING: UNICODE_STRING = UNICODE_STRING { Length: 0, MaximumLength: 0, Buffer: null_mut() };

fn no_status() -> IO_STATUS_BLOCK {
    IO_STATUS_BLOCK { u: IO_STATUS_BLOCK_0 { Status: 0 }, Information: 0 }
}

/// FILE_STANDARD_INFORMATION.
#[repr(C)]
#[derive(Default)]
struct Standard {
    allocated: i64,
    end: i64,
    links: u32,
    deleted: u8,
    folder: u8,
}

pub fn files() -> Check {
    // FILE_GENERIC_READ, FILE_GENERIC_WRITE and DELETE; FILE_OVERWRITE_IF; FILE_SYNCHRONOUS_IO_NONALERT,
    // FILE_NON_DIRECTORY_FILE and FILE_WRITE_THROUGH.
    const ACCESS: ACCESS_MASK = 0x0012_0089 | 0x0012_0116 | 0x0001_0000;
    const OVERWRITE_IF: u32 = 5;
    const OPTIONS: u32 = 0x20 | 0x40 | 0x02;
    const NORMAL: u32 = 0x80;
    const STANDARD: i32 = 5;
    const DISPOSITION: i32 = 13;
    const END_OF_FILE: i32 = 20;
    const DATA: i32 = 1;
    let driver = DRIVER.load(Ordering::SeqCst).cast();
    let mut folder = null_mut();
    // SAFETY: the driver's own object.
    let found = unsafe { IoGetDriverDirectory(driver, DATA, 0, &raw mut folder) };
    same("IoGetDriverDirectory", &found, &STATUS_SUCCESS)?;
    let name: Vec<u16> = "kprobe.tmp".encode_utf16().collect();
    let mut string = NO_STRING;
    let attributes = OBJECT_ATTRIBUTES { RootDirectory: folder, ..named(&name, &mut string) };
    let (mut file, mut block) = (null_mut(), no_status());
    let status = &raw mut block;
    // SAFETY: all of it lives until the call has returned.
    let opened = unsafe {
        ZwCreateFile(
            &raw mut file,
            ACCESS,
            &raw const attributes,
            status,
            null(),
            NORMAL,
            0,
            OVERWRITE_IF,
            OPTIONS,
            null_mut(),
            0,
        )
    };
    // SAFETY: open.
    unsafe { ZwClose(folder) };
    same("ZwCreateFile", &opened, &STATUS_SUCCESS)?;
    let (mut written, begin) = ([7_u8; 100], LARGE_INTEGER { QuadPart: 0 });
    let (place, none) = (written.as_mut_ptr().cast(), null_mut());
    // SAFETY: an open file, and as many bytes as are said.
    let wrote = unsafe { ZwWriteFile(file, none, None, none, status, place, 100, &raw const begin, null()) };
    same("ZwWriteFile", &(wrote, block.Information), &(STATUS_SUCCESS, 100))?;
    // SAFETY: an open file.
    same("ZwFlushBuffersFile", &unsafe { ZwFlushBuffersFile(file, status) }, &STATUS_SUCCESS)?;
    let mut end = 60_i64;
    // SAFETY: an open file, and the structure of the class.
    let set = unsafe { ZwSetInformationFile(file, status, (&raw mut end).cast(), 8, END_OF_FILE) };
    same("the end of the file", &set, &STATUS_SUCCESS)?;
    let mut standard = Standard::default();
    let size = u32::try_from(size_of::<Standard>()).unwrap_or(0);
    // SAFETY: the same.
    let asked = unsafe { ZwQueryInformationFile(file, status, (&raw mut standard).cast(), size, STANDARD) };
    same("its size", &(asked, standard.end), &(STATUS_SUCCESS, 60))?;
    let mut read = [0_u8; 100];
    let place = read.as_mut_ptr().cast();
    // SAFETY: an open file, and as much room as is said.
    let got = unsafe { ZwReadFile(file, none, None, none, status, place, 100, &raw const begin, null()) };
    same("ZwReadFile", &(got, block.Information), &(STATUS_SUCCESS, 60))?;
    that("what was written", read.starts_with(&[7; 60]) && read.ends_with(&[0; 40]))?;
    let mut delete = 1_u8;
    // SAFETY: an open file, and the structure of the class.
    let set = unsafe { ZwSetInformationFile(file, status, (&raw mut delete).cast(), 1, DISPOSITION) };
    same("its deletion", &set, &STATUS_SUCCESS)?;
    // SAFETY: open.
    same("ZwClose", &unsafe { ZwClose(file) }, &STATUS_SUCCESS)
}

pub fn key_security() -> Check {
    const READ_CONTROL: ACCESS_MASK = 0x0002_0000;
    const OWNER_AND_DACL: u32 = 1 | 4;
    const SELF_RELATIVE_WITH_DACL: u16 = 0x8004;
    let name: Vec<u16> = r"\Registry\Machine\Software".encode_utf16().collect();
    let mut string = NO_STRING;
    let attributes = named(&name, &mut string);
    let mut key = null_mut();
    // SAFETY: all of it lives until the call has returned.
    let opened = unsafe { ZwOpenKey(&raw mut key, READ_CONTROL, &raw const attributes) };
    same("ZwOpenKey", &opened, &STATUS_SUCCESS)?;
    let mut needed = 0;
    // SAFETY: an open key; no room.
    let short = unsafe { ZwQuerySecurityObject(key, OWNER_AND_DACL, null_mut(), 0, &raw mut needed) };
    same("without room", &(short, needed > 20), &(STATUS_BUFFER_TOO_SMALL, true))?;
    let mut bytes = vec![0_u8; needed as usize];
    let place = bytes.as_mut_ptr().cast();
    // SAFETY: an open key, and as much room as is said.
    let told = unsafe { ZwQuerySecurityObject(key, OWNER_AND_DACL, place, needed, &raw mut needed) };
    // SAFETY: open.
    unsafe { ZwClose(key) };
    same("ZwQuerySecurityObject", &told, &STATUS_SUCCESS)?;
    let control =
        bytes.get(2..4).map_or(0, |pair| pair.iter().rev().fold(0, |all, byte| all << 8 | u16::from(*byte)));
    same("its form", &(control & SELF_RELATIVE_WITH_DACL), &SELF_RELATIVE_WITH_DACL)
}
