//! Files, security descriptors, random numbers.

use std::ptr;

use ntsim::security::{Descriptor, Sid};
use ntsim::sys::cng::{BCRYPT_USE_SYSTEM_PREFERRED_RNG, BCryptGenRandom};
use ntsim::sys::nt::{
    DACL_SECURITY_INFORMATION, FILE_ATTRIBUTE_NORMAL, FILE_CREATED, FILE_DIRECTORY_FILE, FILE_GENERIC_READ,
    FILE_GENERIC_WRITE, FILE_NON_DIRECTORY_FILE, FILE_OPEN, FILE_OPEN_IF, FILE_OPENED, FILE_OVERWRITE_IF,
    FILE_OVERWRITTEN, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_STANDARD_INFORMATION,
    FILE_SYNCHRONOUS_IO_NONALERT, FILE_TRAVERSE, FileStandardInformation, HANDLE, IO_STATUS_BLOCK,
    IO_STATUS_BLOCK_0, KEY_READ, KeLowerIrql, KeRaiseIrqlToDpcLevel, LARGE_INTEGER, NTSTATUS,
    OBJ_CASE_INSENSITIVE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, OWNER_SECURITY_INFORMATION,
    STATUS_ACCESS_DENIED, STATUS_BUFFER_TOO_SMALL, STATUS_DISK_FULL, STATUS_END_OF_FILE,
    STATUS_FILE_IS_A_DIRECTORY, STATUS_INVALID_PARAMETER, STATUS_NOT_A_DIRECTORY,
    STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_PATH_NOT_FOUND, STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_SHARING_VIOLATION, STATUS_SUCCESS, SYNCHRONIZE, ZwClose, ZwCreateFile, ZwFlushBuffersFile,
    ZwOpenKey, ZwQueryInformationFile, ZwQuerySecurityObject, ZwReadFile, ZwWriteFile,
};
use ntsim::verify::rule::{
    FILE_ASYNCHRONOUS, FILE_HANDLE, FILE_SYNCHRONOUS, HANDLE_ACCESS, HANDLE_INVALID, HANDLE_WRONG_KIND,
    IRQL_TOO_HIGH, RANDOM_ARGUMENTS,
};

use crate::{Text, expect, expect_clean, held, machine};

const DIRECTORY: &str = r"\??\C:\ProgramData\sample";
const READ: u32 = FILE_GENERIC_READ;
const WRITE: u32 = FILE_GENERIC_WRITE;

fn attributes(root: HANDLE, name: &mut Text, flags: u32) -> OBJECT_ATTRIBUTES {
    OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: root,
        ObjectName: name.as_ptr(),
        Attributes: flags,
        SecurityDescriptor: ptr::null_mut(),
        SecurityQualityOfService: ptr::null_mut(),
    }
}

fn block() -> IO_STATUS_BLOCK {
    IO_STATUS_BLOCK { u: IO_STATUS_BLOCK_0 { Pointer: ptr::null_mut() }, Information: 0 }
}

/// What it was opened with, and the handle.
fn create(
    root: HANDLE,
    name: &str,
    access: u32,
    share: u32,
    disposition: u32,
    options: u32,
) -> Result<(usize, HANDLE), NTSTATUS> {
    let mut name = Text::new(name);
    let mut attributes = attributes(root, &mut name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE);
    let (mut handle, mut block) = (ptr::null_mut(), block());
    let status = unsafe {
        ZwCreateFile(
            &raw mut handle,
            access,
            &raw mut attributes,
            &raw mut block,
            ptr::null_mut(),
            FILE_ATTRIBUTE_NORMAL,
            share,
            disposition,
            options,
            ptr::null_mut(),
            0,
        )
    };
    if status == STATUS_SUCCESS { Ok((block.Information, handle)) } else { Err(status) }
}

fn directory(path: &str) -> HANDLE {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE;
    let options = FILE_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT;
    create(ptr::null_mut(), path, FILE_TRAVERSE | SYNCHRONIZE, share, FILE_OPEN_IF, options).unwrap().1
}

fn file(root: HANDLE, name: &str, access: u32, disposition: u32) -> Result<(usize, HANDLE), NTSTATUS> {
    let options = FILE_NON_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT;
    create(root, name, access, FILE_SHARE_READ, disposition, options)
}

fn close(handle: HANDLE) {
    assert_eq!(unsafe { ZwClose(handle) }, STATUS_SUCCESS);
}

fn write(handle: HANDLE, offset: i64, bytes: &[u8]) -> (NTSTATUS, usize) {
    let (mut block, mut place) = (block(), LARGE_INTEGER { QuadPart: offset });
    let null = ptr::null_mut;
    let status = unsafe {
        ZwWriteFile(
            handle,
            null(),
            None,
            null(),
            &raw mut block,
            bytes.as_ptr().cast_mut().cast(),
            u32::try_from(bytes.len()).unwrap(),
            &raw mut place,
            ptr::null_mut(),
        )
    };
    (status, block.Information)
}

fn read(handle: HANDLE, offset: i64, length: u32) -> Result<Vec<u8>, NTSTATUS> {
    let (mut block, mut place) = (block(), LARGE_INTEGER { QuadPart: offset });
    let mut bytes = vec![0; length as usize];
    let null = ptr::null_mut;
    let status = unsafe {
        ZwReadFile(
            handle,
            null(),
            None,
            null(),
            &raw mut block,
            bytes.as_mut_ptr().cast(),
            length,
            &raw mut place,
            ptr::null_mut(),
        )
    };
    bytes.truncate(block.Information);
    if status == STATUS_SUCCESS { Ok(bytes) } else { Err(status) }
}

fn size(handle: HANDLE) -> i64 {
    let mut block = block();
    let zero = LARGE_INTEGER { QuadPart: 0 };
    let mut found = FILE_STANDARD_INFORMATION {
        AllocationSize: zero,
        EndOfFile: zero,
        NumberOfLinks: 0,
        DeletePending: 0,
        Directory: 0,
    };
    let status = unsafe {
        ZwQueryInformationFile(
            handle,
            &raw mut block,
            (&raw mut found).cast(),
            u32::try_from(size_of::<FILE_STANDARD_INFORMATION>()).unwrap(),
            FileStandardInformation,
        )
    };
    assert_eq!(status, STATUS_SUCCESS);
    unsafe { found.EndOfFile.QuadPart }
}

#[test]
fn what_is_written_is_read_and_stays_when_it_is_closed() {
    let sim = machine();
    let root = directory(DIRECTORY);
    let (information, handle) = file(root, "one", WRITE, FILE_OVERWRITE_IF).unwrap();
    assert_eq!(information, FILE_CREATED);
    assert_eq!(write(handle, 4, b"data"), (STATUS_SUCCESS, 4));
    assert_eq!(unsafe { ZwFlushBuffersFile(handle, &mut block()) }, STATUS_SUCCESS);
    close(handle);
    // Any case, and a path of its own, name the same file.
    let path = r"\??\c:\programdata\SAMPLE\ONE";
    let (information, handle) = file(ptr::null_mut(), path, READ, FILE_OPEN).unwrap();
    assert_eq!((information, size(handle)), (FILE_OPENED, 8));
    assert_eq!(read(handle, 0, 100).unwrap(), b"\0\0\0\0data");
    assert_eq!(read(handle, 6, 1).unwrap(), b"t");
    assert_eq!(read(handle, 8, 1), Err(STATUS_END_OF_FILE));
    close(handle);
    let (information, handle) = file(root, "one", WRITE, FILE_OVERWRITE_IF).unwrap();
    assert_eq!((information, size(handle)), (FILE_OVERWRITTEN, 0));
    assert_eq!(held(&sim), ["file handle", "file handle"]);
    close(handle);
    close(root);
    assert_eq!(sim.files().read(r"\??\C:\ProgramData\sample\one"), Some(vec![]));
    expect_clean(&sim);
}

#[test]
fn names_lead_nowhere_as_documented() {
    let sim = machine();
    let root = directory(DIRECTORY);
    let null = ptr::null_mut;
    assert_eq!(file(root, "none", READ, FILE_OPEN).map(drop), Err(STATUS_OBJECT_NAME_NOT_FOUND));
    let missing = file(null(), r"\??\C:\Nowhere\x", READ, FILE_OPEN);
    assert_eq!(missing.map(drop), Err(STATUS_OBJECT_PATH_NOT_FOUND));
    assert_eq!(file(null(), "relative", READ, FILE_OPEN).map(drop), Err(STATUS_OBJECT_PATH_SYNTAX_BAD));
    assert_eq!(file(null(), DIRECTORY, READ, FILE_OPEN).map(drop), Err(STATUS_FILE_IS_A_DIRECTORY));
    sim.files().write(r"\??\C:\ProgramData\sample\file", b"x");
    let options = FILE_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT;
    let wrong = create(root, "file", FILE_TRAVERSE | SYNCHRONIZE, 0, FILE_OPEN, options);
    assert_eq!(wrong.map(drop), Err(STATUS_NOT_A_DIRECTORY));
    sim.files().set_present(false);
    assert_eq!(file(root, "file", READ, FILE_OPEN).map(drop), Err(STATUS_OBJECT_PATH_NOT_FOUND));
    close(root);
    expect_clean(&sim);
}

#[test]
fn a_file_is_shared_as_far_as_everybody_agrees() {
    let sim = machine();
    let root = directory(DIRECTORY);
    let (_, writer) = file(root, "one", WRITE, FILE_OVERWRITE_IF).unwrap();
    assert_eq!(file(root, "one", WRITE, FILE_OPEN).map(drop), Err(STATUS_SHARING_VIOLATION));
    // The reader would have to allow the writer.
    assert_eq!(file(root, "one", READ, FILE_OPEN).map(drop), Err(STATUS_SHARING_VIOLATION));
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE;
    let (_, reader) = create(root, "one", READ, share, FILE_OPEN, FILE_SYNCHRONOUS_IO_NONALERT).unwrap();
    close(writer);
    let (_, second) = file(root, "one", READ, FILE_OPEN).unwrap();
    for handle in [reader, second, root] {
        close(handle);
    }
    expect_clean(&sim);
}

#[test]
fn a_full_disk_takes_what_fits() {
    let sim = machine();
    let root = directory(DIRECTORY);
    sim.files().set_capacity(Some(10));
    let (_, handle) = file(root, "one", WRITE, FILE_OVERWRITE_IF).unwrap();
    assert_eq!(write(handle, 0, &[1; 8]), (STATUS_SUCCESS, 8));
    assert_eq!(write(handle, 8, &[2; 8]), (STATUS_DISK_FULL, 2));
    assert_eq!(write(handle, 0, &[3; 10]), (STATUS_SUCCESS, 10));
    close(handle);
    close(root);
    expect_clean(&sim);
}

#[test]
fn files_are_used_as_they_were_opened() {
    let sim = machine();
    let root = directory(DIRECTORY);
    let (_, handle) = file(root, "one", WRITE, FILE_OVERWRITE_IF).unwrap();
    assert_eq!(read(handle, 0, 1), Err(STATUS_ACCESS_DENIED));
    close(handle);
    let without = create(root, "one", READ & !SYNCHRONIZE, 0, FILE_OPEN, FILE_SYNCHRONOUS_IO_NONALERT);
    assert_eq!(without.map(drop), Err(STATUS_INVALID_PARAMETER));
    let (_, asynchronous) = create(root, "one", READ, 0, FILE_OPEN, 0).unwrap();
    assert_eq!(read(asynchronous, 0, 1), Err(STATUS_INVALID_PARAMETER));
    close(asynchronous);
    _ = read(asynchronous, 0, 1);
    let mut name = Text::new("one");
    let mut user = attributes(root, &mut name, OBJ_CASE_INSENSITIVE);
    let mut key = ptr::null_mut();
    let status = unsafe {
        ZwCreateFile(
            &raw mut key,
            READ,
            &raw mut user,
            &mut block(),
            ptr::null_mut(),
            0,
            0,
            FILE_OPEN,
            FILE_SYNCHRONOUS_IO_NONALERT,
            ptr::null_mut(),
            0,
        )
    };
    assert_eq!(status, STATUS_SUCCESS);
    close(key);
    let old = unsafe { KeRaiseIrqlToDpcLevel() };
    _ = size(root);
    unsafe { KeLowerIrql(old) };
    close(root);
    expect(
        &sim,
        &[
            &HANDLE_ACCESS,
            &FILE_SYNCHRONOUS,
            &FILE_ASYNCHRONOUS,
            &HANDLE_INVALID,
            &FILE_HANDLE,
            &IRQL_TOO_HIGH,
        ],
    );
}

#[test]
fn a_keys_descriptor_is_read_whole_or_not_at_all() {
    const KEY: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\sample";
    let sim = machine();
    sim.registry().create_key(KEY);
    let open = |access| {
        let mut name = Text::new(KEY);
        let mut attributes = attributes(ptr::null_mut(), &mut name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE);
        let mut key = ptr::null_mut();
        assert_eq!(unsafe { ZwOpenKey(&raw mut key, access, &raw mut attributes) }, STATUS_SUCCESS);
        key
    };
    let query = |key, length: u32| {
        let (mut bytes, mut needed) = (vec![0xEE_u8; length as usize], 0);
        let information = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
        let status = unsafe {
            ZwQuerySecurityObject(key, information, bytes.as_mut_ptr().cast(), length, &raw mut needed)
        };
        (status, needed, bytes)
    };
    let inherited = Descriptor::of_a_service().bytes();
    let length = u32::try_from(inherited.len()).unwrap();
    let key = open(KEY_READ);
    assert_eq!(query(key, length), (STATUS_SUCCESS, length, inherited));
    assert_eq!(query(key, length - 1), (STATUS_BUFFER_TOO_SMALL, length, vec![0xEE; length as usize - 1]));
    let own = Descriptor { owner: Sid::SYSTEM, list: None };
    assert!(sim.registry().set_security(KEY, own.bytes()));
    assert_eq!(query(key, 32), (STATUS_SUCCESS, 32, own.bytes()));
    // What is made below has it too.
    sim.registry().create_key(&format!(r"{KEY}\Below"));
    close(key);
    // Without READ_CONTROL.
    let key = open(1);
    assert_eq!(query(key, length).0, STATUS_ACCESS_DENIED);
    close(key);
    let root = directory(DIRECTORY);
    _ = query(root, length);
    close(root);
    expect(&sim, &[&HANDLE_ACCESS, &HANDLE_WRONG_KIND]);
}

#[test]
fn random_numbers_are_given_at_passive_level_without_a_handle() {
    let fill = |handle: HANDLE, flags| {
        let mut bytes = [0; 32];
        let status = unsafe { BCryptGenRandom(handle, bytes.as_mut_ptr(), 32, flags) };
        (status, bytes)
    };
    let seeded = || {
        let sim = ntsim::boot(ntsim::Config { random: Some(7), ..ntsim::Config::default() });
        let drawn = [(); 2].map(|()| fill(ptr::null_mut(), BCRYPT_USE_SYSTEM_PREFERRED_RNG).1);
        expect_clean(&sim);
        drawn
    };
    let [first, second] = seeded();
    assert_ne!(first, second);
    assert_eq!(seeded(), [first, second]);

    let sim = machine();
    let (status, bytes) = fill(ptr::null_mut(), BCRYPT_USE_SYSTEM_PREFERRED_RNG);
    assert_eq!(status, STATUS_SUCCESS);
    assert_ne!(bytes, fill(ptr::null_mut(), BCRYPT_USE_SYSTEM_PREFERRED_RNG).1);
    assert_eq!(fill(ptr::null_mut(), 0).0, STATUS_INVALID_PARAMETER);
    let old = unsafe { KeRaiseIrqlToDpcLevel() };
    _ = fill(ptr::null_mut(), BCRYPT_USE_SYSTEM_PREFERRED_RNG);
    unsafe { KeLowerIrql(old) };
    expect(&sim, &[&RANDOM_ARGUMENTS, &IRQL_TOO_HIGH]);
}
