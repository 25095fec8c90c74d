//! The registry.

use std::ptr;

use ntsim::Sim;
use ntsim::registry::Value;
use ntsim::sys::nt::{
    HANDLE, KEY_ENUMERATE_SUB_KEYS, KEY_QUERY_VALUE, KEY_READ, KeyBasicInformation, KeyFullInformation,
    KeyNameInformation, KeyNodeInformation, KeyValueBasicInformation, KeyValueFullInformation,
    KeyValuePartialInformation, KeyValuePartialInformationAlign64, NTSTATUS, OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ, STATUS_ACCESS_DENIED,
    STATUS_BUFFER_OVERFLOW, STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_ENTRIES, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_PATH_SYNTAX_BAD, STATUS_SUCCESS,
    ZwClose, ZwEnumerateKey, ZwEnumerateValueKey, ZwOpenKey, ZwQueryValueKey,
};
use ntsim::verify::rule::{
    HANDLE_ACCESS, HANDLE_INVALID, IRQL_TOO_HIGH, REGISTRY_ATTRIBUTES, REGISTRY_BUFFER, REGISTRY_HANDLE,
};

use crate::{Text, expect, expect_clean, held, machine};

const PATH: &str = "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\sample\\Parameters";

fn open_as(root: HANDLE, path: &str, access: u32, attributes: u32) -> Result<HANDLE, NTSTATUS> {
    let mut name = Text::new(path);
    let mut attributes = OBJECT_ATTRIBUTES {
        Length: 0x30,
        RootDirectory: root,
        ObjectName: name.as_ptr(),
        Attributes: attributes,
        SecurityDescriptor: ptr::null_mut(),
        SecurityQualityOfService: ptr::null_mut(),
    };
    let mut handle = ptr::null_mut();
    match unsafe { ZwOpenKey(&raw mut handle, access, &raw mut attributes) } {
        STATUS_SUCCESS => Ok(handle),
        status => Err(status),
    }
}

fn open(path: &str) -> HANDLE {
    open_as(ptr::null_mut(), path, KEY_READ, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE).unwrap()
}

fn close(handle: HANDLE) {
    assert_eq!(unsafe { ZwClose(handle) }, STATUS_SUCCESS);
}

/// A buffer, aligned for any of the structures, and what was said of it.
struct Answer {
    status: NTSTATUS,
    needed: u32,
    words: Vec<u64>,
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).take(self.needed as usize).collect()
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let bytes = self.bytes();
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }
}

fn ask(length: usize, call: impl FnOnce(*mut std::ffi::c_void, u32, *mut u32) -> NTSTATUS) -> Answer {
    let mut words = vec![0xeeee_eeee_eeee_eeee_u64; 64];
    let mut needed = 0;
    let status = call(words.as_mut_ptr().cast(), u32::try_from(length).unwrap(), &raw mut needed);
    Answer { status, needed, words }
}

fn query(key: HANDLE, name: &str, class: i32, length: usize) -> Answer {
    let mut name = Text::new(name);
    ask(length, |buffer, length, needed| unsafe {
        ZwQueryValueKey(key, name.as_ptr(), class, buffer, length, needed)
    })
}

fn sample(sim: &Sim) {
    let registry = sim.registry();
    registry.set(PATH, "Number", Value::Dword(5));
    registry.set(PATH, "Text", Value::Sz("äb".to_owned()));
    registry.set(PATH, "List", Value::MultiSz(vec!["a".to_owned(), "b".to_owned()]));
    registry.set(PATH, "Odd", Value::Raw { kind: REG_DWORD, data: vec![1, 2, 3] });
}

#[test]
fn values_are_read_with_their_type_and_bytes() {
    let sim = machine();
    sample(&sim);
    let key = open(PATH);
    for (name, kind, data) in [
        ("number", REG_DWORD, vec![5, 0, 0, 0]),
        ("TEXT", REG_SZ, vec![0xe4, 0, b'b', 0, 0, 0]),
        ("List", REG_MULTI_SZ, vec![b'a', 0, 0, 0, b'b', 0, 0, 0, 0, 0]),
        ("Odd", REG_DWORD, vec![1, 2, 3]),
    ] {
        let answer = query(key, name, KeyValuePartialInformation, 256);
        assert_eq!(answer.status, STATUS_SUCCESS);
        assert_eq!(answer.needed as usize, 12 + data.len());
        assert_eq!((answer.u32_at(4), answer.u32_at(8) as usize), (kind, data.len()));
        assert_eq!(answer.bytes()[12..], data);
    }
    assert_eq!(query(key, "None", KeyValuePartialInformation, 256).status, STATUS_OBJECT_NAME_NOT_FOUND);
    assert_eq!(query(key, "Number", 99, 256).status, STATUS_INVALID_PARAMETER);
    close(key);
    expect_clean(&sim);
}

#[test]
fn a_small_buffer_gets_nothing_or_a_part_and_always_the_size() {
    let sim = machine();
    sample(&sim);
    let key = open(PATH);
    let none = query(key, "Number", KeyValuePartialInformation, 11);
    assert_eq!((none.status, none.needed), (STATUS_BUFFER_TOO_SMALL, 16));
    assert!(none.words.iter().all(|&word| word == 0xeeee_eeee_eeee_eeee));
    for room in 12..16 {
        let part = query(key, "Number", KeyValuePartialInformation, room);
        assert_eq!((part.status, part.needed), (STATUS_BUFFER_OVERFLOW, 16));
        let bytes = part.bytes();
        assert_eq!(&bytes[8..12], [4, 0, 0, 0]);
        assert!(bytes[room..].iter().all(|&byte| byte == 0xee));
    }
    assert_eq!(query(key, "Number", KeyValuePartialInformation, 16).status, STATUS_SUCCESS);
    close(key);
    expect_clean(&sim);
}

#[test]
fn the_other_classes_have_their_own_layout() {
    let sim = machine();
    sample(&sim);
    let key = open(PATH);
    let basic = query(key, "odd", KeyValueBasicInformation, 256);
    assert_eq!((basic.u32_at(4), basic.u32_at(8)), (REG_DWORD, 6));
    assert_eq!(basic.bytes()[12..], [b'O', 0, b'd', 0, b'd', 0], "the name as it was set");
    let full = query(key, "odd", KeyValueFullInformation, 256);
    assert_eq!((full.u32_at(8), full.u32_at(12), full.u32_at(16)), (28, 3, 6));
    assert_eq!(full.bytes()[28..], [1, 2, 3]);
    let aligned = query(key, "odd", KeyValuePartialInformationAlign64, 256);
    assert_eq!((aligned.u32_at(0), aligned.u32_at(4)), (REG_DWORD, 3));
    assert_eq!(aligned.bytes()[8..], [1, 2, 3]);
    close(key);
    expect_clean(&sim);
}

#[test]
fn values_are_enumerated_to_the_last() {
    let sim = machine();
    sample(&sim);
    let key = open(PATH);
    let at = |index| {
        ask(256, |buffer, length, needed| unsafe {
            ZwEnumerateValueKey(key, index, KeyValueFullInformation, buffer, length, needed)
        })
    };
    let names: Vec<u32> = (0..4).map(|index| at(index).u32_at(16)).collect();
    assert_eq!(names, [12, 8, 8, 6]);
    assert_eq!(at(4).status, STATUS_NO_MORE_ENTRIES);
    assert!(sim.registry().remove(PATH, "number"));
    assert!(!sim.registry().remove(PATH, "number"));
    assert_eq!(at(3).status, STATUS_NO_MORE_ENTRIES);
    close(key);
    expect_clean(&sim);
}

#[test]
fn keys_are_opened_by_path_and_below_a_root_and_enumerated() {
    let sim = machine();
    sample(&sim);
    sim.registry().create_key(&format!("{PATH}\\Peers\\One"));
    sim.registry().create_key(&format!("{PATH}\\Peers\\Two\\Below"));
    let root = open(&PATH.to_uppercase());
    let flags = OBJ_KERNEL_HANDLE;
    let peers = open_as(root, "peers", KEY_READ, flags).unwrap();
    let at = |key, index, class| {
        ask(256, |buffer, length, needed| unsafe {
            ZwEnumerateKey(key, index, class, buffer, length, needed)
        })
    };
    assert_eq!(at(peers, 0, KeyBasicInformation).bytes()[16..], [b'O', 0, b'n', 0, b'e', 0]);
    assert_eq!(at(peers, 1, KeyNodeInformation).bytes()[24..], [b'T', 0, b'w', 0, b'o', 0]);
    assert_eq!(at(peers, 2, KeyBasicInformation).status, STATUS_NO_MORE_ENTRIES);
    let full = at(root, 0, KeyFullInformation);
    assert_eq!(
        (full.u32_at(20), full.u32_at(24)),
        (2, 6),
        "two subkeys, the longest name of three characters"
    );
    assert_eq!(at(root, 0, KeyNameInformation).status, STATUS_INVALID_PARAMETER);
    assert_eq!(open_as(root, "\\peers", KEY_READ, flags), Err(STATUS_OBJECT_PATH_SYNTAX_BAD));
    assert_eq!(open_as(ptr::null_mut(), "peers", KEY_READ, flags), Err(STATUS_OBJECT_PATH_SYNTAX_BAD));
    assert_eq!(open_as(root, "none", KEY_READ, flags), Err(STATUS_OBJECT_NAME_NOT_FOUND));
    sim.registry().delete_key(&format!("{PATH}\\Peers"));
    assert_eq!(open_as(root, "peers", KEY_READ, flags), Err(STATUS_OBJECT_NAME_NOT_FOUND));
    close(root);
    close(peers);
    expect_clean(&sim);
}

#[test]
fn a_key_is_read_with_the_access_it_was_opened_with() {
    let sim = machine();
    sample(&sim);
    let key = open_as(ptr::null_mut(), PATH, KEY_ENUMERATE_SUB_KEYS, OBJ_KERNEL_HANDLE).unwrap();
    assert_eq!(query(key, "Number", KeyValuePartialInformation, 64).status, STATUS_ACCESS_DENIED);
    close(key);
    let key = open_as(ptr::null_mut(), PATH, KEY_QUERY_VALUE, OBJ_KERNEL_HANDLE).unwrap();
    assert_eq!(query(key, "Number", KeyValuePartialInformation, 64).status, STATUS_SUCCESS);
    let answer = ask(64, |buffer, length, needed| unsafe {
        ZwEnumerateKey(key, 0, KeyBasicInformation, buffer, length, needed)
    });
    assert_eq!(answer.status, STATUS_ACCESS_DENIED);
    close(key);
    expect(&sim, &[&HANDLE_ACCESS, &HANDLE_ACCESS]);
}

#[test]
fn misuse_of_the_registry_is_seen() {
    let sim = machine();
    sample(&sim);
    let key = open_as(ptr::null_mut(), PATH, KEY_READ, OBJ_CASE_INSENSITIVE).unwrap();
    assert_eq!(held(&sim), ["key handle"]);
    let mut name = Text::new("Number");
    let unaligned = ask(64, |buffer, length, needed| unsafe {
        ZwQueryValueKey(key, name.as_ptr(), KeyValuePartialInformation, buffer.byte_add(2), length, needed)
    });
    assert_eq!(unaligned.status, STATUS_SUCCESS);
    let raised = ntsim::irql::raise_scope();
    query(key, "Number", KeyValuePartialInformation, 64);
    drop(raised);
    close(key);
    assert_eq!(query(key, "Number", KeyValuePartialInformation, 64).status, STATUS_INVALID_HANDLE);
    let mut attributes: OBJECT_ATTRIBUTES = unsafe { std::mem::zeroed() };
    let mut handle = ptr::null_mut();
    let status = unsafe { ZwOpenKey(&raw mut handle, KEY_READ, &raw mut attributes) };
    assert_eq!(status, STATUS_INVALID_PARAMETER);
    expect(
        &sim,
        &[&REGISTRY_HANDLE, &REGISTRY_BUFFER, &IRQL_TOO_HIGH, &HANDLE_INVALID, &REGISTRY_ATTRIBUTES],
    );
}

#[test]
fn a_test_reads_back_what_it_wrote() {
    let sim = machine();
    sim.registry().set(PATH, "Bytes", Value::Binary(vec![1, 2]));
    sim.registry().set(PATH, "BYTES", Value::Qword(7));
    let qword = (ntsim::sys::nt::REG_QWORD, 7u64.to_le_bytes().to_vec());
    assert_eq!(sim.registry().get(&PATH.to_lowercase(), "bytes"), Some(qword));
    assert_eq!(Value::Binary(vec![9]).into_raw(), (REG_BINARY, vec![9]));
    assert_eq!(Value::None.into_raw(), (0, vec![]));
    assert_eq!(Value::ExpandSz("%a".to_owned()).into_raw(), (2, vec![b'%', 0, b'a', 0, 0, 0]));
}
