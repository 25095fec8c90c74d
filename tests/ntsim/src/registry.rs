//! The registry: a tree in memory that tests fill and the driver reads.
//!
//! Names compare without case, whatever the caller asks for, as the configuration manager does. A value is a type and
//! bytes: nothing makes them agree, so that hostile values can be stored.

#![allow(non_upper_case_globals, reason = "constants are spelled as in the Windows headers")]

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Mutex;

use crate::security::Descriptor;
use crate::sys::nt::{
    IO_STATUS_BLOCK, IO_STATUS_BLOCK_0, KeyBasicInformation, KeyFullInformation, KeyNodeInformation,
    KeyValueBasicInformation, KeyValueFullInformation, KeyValueFullInformationAlign64,
    KeyValuePartialInformation, KeyValuePartialInformationAlign64, NTSTATUS, REG_BINARY, REG_DWORD,
    REG_EXPAND_SZ, REG_MULTI_SZ, REG_NONE, REG_NOTIFY_CHANGE_LAST_SET, REG_NOTIFY_CHANGE_NAME, REG_QWORD,
    REG_SZ, STATUS_BUFFER_OVERFLOW, STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_ENTRIES, STATUS_NOTIFY_CLEANUP, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS,
};
use crate::verify::lock;

/// Data of a value, as a test writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    None,
    Dword(u32),
    Qword(u64),
    Sz(String),
    ExpandSz(String),
    MultiSz(Vec<String>),
    Binary(Vec<u8>),
    /// Any type with any bytes.
    Raw {
        kind: u32,
        data: Vec<u8>,
    },
}

impl Value {
    /// The type and the bytes, strings with the zeros that end them.
    pub fn into_raw(self) -> (u32, Vec<u8>) {
        let text =
            |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        match self {
            Self::None => (REG_NONE, Vec::new()),
            Self::Dword(value) => (REG_DWORD, value.to_le_bytes().to_vec()),
            Self::Qword(value) => (REG_QWORD, value.to_le_bytes().to_vec()),
            Self::Sz(value) => (REG_SZ, text(&value)),
            Self::ExpandSz(value) => (REG_EXPAND_SZ, text(&value)),
            Self::MultiSz(values) => {
                let mut data: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
                data.extend([0, 0]);
                (REG_MULTI_SZ, data)
            }
            Self::Binary(data) => (REG_BINARY, data),
            Self::Raw { kind, data } => (kind, data),
        }
    }
}

struct Entry {
    name: Vec<u16>,
    kind: u32,
    data: Vec<u8>,
}

#[derive(Default)]
struct Node {
    name: Vec<u16>,
    /// In the order in which they were first set, which is the order of enumeration.
    values: Vec<Entry>,
    /// A self-relative descriptor.
    security: Vec<u8>,
}

/// Keys by folded path.
static TREE: Mutex<BTreeMap<Vec<u16>, Node>> = Mutex::new(BTreeMap::new());

const SEPARATOR: u16 = b'\\' as u16;

/// Who is to be told of a change.
struct Notice {
    /// The key, and the handle that it was asked for with.
    path: Vec<u16>,
    handle: usize,
    /// The event, referenced.
    event: usize,
    block: usize,
    filter: u32,
    tree: bool,
}

static NOTICES: Mutex<Vec<Notice>> = Mutex::new(Vec::new());

/// A change of a key is told to those who asked. Not under the tree's lock: they may read at once.
fn changed(path: &[u16], what: u32) {
    let concerns = |notice: &Notice| {
        let below = || path.starts_with(&notice.path) && path.get(notice.path.len()) == Some(&SEPARATOR);
        notice.filter & what != 0 && (notice.path == path || (notice.tree && below()))
    };
    let told: Vec<Notice> = lock(&NOTICES).extract_if(.., |notice| concerns(notice)).collect();
    complete(told, STATUS_SUCCESS);
}

fn complete(notices: Vec<Notice>, status: NTSTATUS) {
    for Notice { event, block, .. } in notices {
        let block = ptr::with_exposed_provenance_mut::<IO_STATUS_BLOCK>(block);
        let u = IO_STATUS_BLOCK_0 { Status: status };
        // SAFETY: writable until the event is set, as the caller of ZwNotifyChangeKey promised.
        unsafe { block.write(IO_STATUS_BLOCK { u, Information: 0 }) };
        let event = ptr::with_exposed_provenance_mut(event);
        // SAFETY: an event that is referenced.
        unsafe { crate::dispatcher::signal(event) };
        crate::object::dereference("ZwNotifyChangeKey", event);
    }
}

/// Tells an event of the next change.
pub(crate) fn notify(key: &Key, handle: usize, event: usize, block: usize, filter: u32, tree: bool) {
    // SAFETY: an event that is referenced; page "NtNotifyChangeKey": it is clear until the change.
    unsafe { crate::dispatcher::reset(ptr::with_exposed_provenance_mut(event)) };
    lock(&NOTICES).push(Notice { path: key.path.clone(), handle, event, block, filter, tree });
}

/// The handle of a key is closed: what was asked for with it is over.
pub(crate) fn key_closed(handle: usize) {
    let over: Vec<Notice> = lock(&NOTICES).extract_if(.., |notice| notice.handle == handle).collect();
    complete(over, STATUS_NOTIFY_CLEANUP);
}

/// Memory is about to be freed: no status block that is still to be written may be in it.
pub(crate) fn check_freed(start: usize, size: usize) -> Vec<String> {
    let range = start..start + size;
    lock(&NOTICES)
        .iter()
        .filter(|notice| range.contains(&notice.block))
        .map(|notice| format!("a change of a key will be written to {:#x}", notice.block))
        .collect()
}

/// A key that was opened.
#[derive(Clone, Debug)]
pub struct Key {
    path: Vec<u16>,
}

/// Folds case one unit at a time, as the kernel's upcase table does, which knows the basic plane only.
pub(crate) fn fold(name: &[u16]) -> Vec<u16> {
    let upcase = |unit: u16| {
        let mut upper = char::from_u32(u32::from(unit)).into_iter().flat_map(char::to_uppercase);
        match (upper.next().map(|letter| u16::try_from(u32::from(letter))), upper.next()) {
            (Some(Ok(folded)), None) => folded,
            _ => unit,
        }
    };
    name.iter().map(|&unit| upcase(unit)).collect()
}

pub(crate) fn clear() {
    lock(&NOTICES).clear();
    lock(&TREE).clear();
}

pub(crate) fn reset() {
    clear();
    Registry.create_key("\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services");
}

/// The registry of the booted machine.
#[derive(Clone, Copy, Debug)]
pub struct Registry;

impl Registry {
    /// Makes a key and those above it.
    pub fn create_key(self, path: &str) {
        let mut tree = lock(&TREE);
        let mut made = Vec::new();
        let mut folded = Vec::new();
        for part in path.split('\\').filter(|part| !part.is_empty()) {
            let name: Vec<u16> = part.encode_utf16().collect();
            folded.push(SEPARATOR);
            folded.extend(fold(&name));
            if !tree.contains_key(&folded) {
                // A new key has what it inherits.
                let security = parent(&folded).and_then(|above| tree.get(above));
                let security = security
                    .map_or_else(|| Descriptor::of_a_service().bytes(), |above| above.security.clone());
                tree.insert(folded.clone(), Node { name, values: Vec::new(), security });
                made.push(folded.clone());
            }
        }
        drop(tree);
        for path in made {
            changed(parent(&path).unwrap_or_default(), REG_NOTIFY_CHANGE_NAME);
        }
    }

    /// Removes a key and those below it.
    pub fn delete_key(self, path: &str) {
        let gone = fold_path(path);
        let mut below = gone.clone();
        below.push(SEPARATOR);
        lock(&TREE).retain(|path, _| *path != gone && !path.starts_with(&below));
        changed(parent(&gone).unwrap_or_default(), REG_NOTIFY_CHANGE_NAME);
    }

    /// Sets a value, making its key.
    pub fn set(self, path: &str, name: &str, value: Value) {
        self.create_key(path);
        let name: Vec<u16> = name.encode_utf16().collect();
        let (kind, data) = value.into_raw();
        let mut tree = lock(&TREE);
        let Some(node) = tree.get_mut(&fold_path(path)) else { return };
        let folded = fold(&name);
        match node.values.iter_mut().find(|entry| fold(&entry.name) == folded) {
            Some(entry) => (entry.kind, entry.data) = (kind, data),
            None => node.values.push(Entry { name, kind, data }),
        }
        drop(tree);
        changed(&fold_path(path), REG_NOTIFY_CHANGE_LAST_SET);
    }

    /// Gives a key a security descriptor, as bytes of the self-relative form, true or not. Keys that are made below it
    /// later have it too. Returns whether the key is there.
    pub fn set_security(self, path: &str, descriptor: Vec<u8>) -> bool {
        let mut tree = lock(&TREE);
        let node = tree.get_mut(&fold_path(path));
        node.map(|node| node.security = descriptor).is_some()
    }

    /// Removes a value. Returns whether it was there.
    pub fn remove(self, path: &str, name: &str) -> bool {
        let folded = fold(&name.encode_utf16().collect::<Vec<_>>());
        let removed = lock(&TREE).get_mut(&fold_path(path)).is_some_and(|node| {
            let before = node.values.len();
            node.values.retain(|entry| fold(&entry.name) != folded);
            node.values.len() != before
        });
        if removed {
            changed(&fold_path(path), REG_NOTIFY_CHANGE_LAST_SET);
        }
        removed
    }

    /// A value's type and bytes.
    pub fn get(self, path: &str, name: &str) -> Option<(u32, Vec<u8>)> {
        let folded = fold(&name.encode_utf16().collect::<Vec<_>>());
        lock(&TREE)
            .get(&fold_path(path))?
            .values
            .iter()
            .find(|entry| fold(&entry.name) == folded)
            .map(|entry| (entry.kind, entry.data.clone()))
    }
}

fn fold_path(path: &str) -> Vec<u16> {
    path.split('\\')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let name: Vec<u16> = part.encode_utf16().collect();
            [vec![SEPARATOR], fold(&name)].concat()
        })
        .collect()
}

/// The path of the key above.
fn parent(path: &[u16]) -> Option<&[u16]> {
    let separator = path.iter().rposition(|&unit| unit == SEPARATOR)?;
    path.get(..separator).filter(|above| !above.is_empty())
}

/// The security descriptor of a key, if it is still there.
pub(crate) fn security(key: &Key) -> Option<Vec<u8>> {
    lock(&TREE).get(&key.path).map(|node| node.security.clone())
}

/// Opens a key by an absolute name, or by one relative to `root`.
pub(crate) fn open(root: Option<&Key>, name: &[u16]) -> Result<Key, NTSTATUS> {
    let absolute = name.first() == Some(&SEPARATOR);
    let mut path = match root {
        Some(_) if absolute => return Err(crate::sys::nt::STATUS_OBJECT_PATH_SYNTAX_BAD),
        Some(root) => root.path.clone(),
        None if absolute => Vec::new(),
        None => return Err(crate::sys::nt::STATUS_OBJECT_PATH_SYNTAX_BAD),
    };
    for part in name.split(|&unit| unit == SEPARATOR).filter(|part| !part.is_empty()) {
        path.push(SEPARATOR);
        path.extend(fold(part));
    }
    if lock(&TREE).contains_key(&path) { Ok(Key { path }) } else { Err(STATUS_OBJECT_NAME_NOT_FOUND) }
}

/// A caller's buffer and where it wants the size.
pub(crate) struct Output {
    pub buffer: *mut u8,
    pub length: u32,
    pub result_length: *mut u32,
}

impl Output {
    /// Writes a structure of a fixed part and a variable one (page "ZwQueryValueKey"): with less room than the fixed
    /// part STATUS_BUFFER_TOO_SMALL and nothing written; with less than all STATUS_BUFFER_OVERFLOW and what fits
    /// written; the size it takes is returned in every case.
    ///
    /// # Safety
    /// The buffer is writable for its length, and the result length is writable.
    unsafe fn write(&self, fixed: usize, all: &[u8]) -> NTSTATUS {
        // SAFETY: as the caller promises.
        unsafe { self.result_length.write(u32::try_from(all.len()).unwrap_or(u32::MAX)) };
        let room = self.length as usize;
        if room < fixed {
            return STATUS_BUFFER_TOO_SMALL;
        }
        let copied = room.min(all.len());
        // SAFETY: as the caller promises.
        unsafe { ptr::copy_nonoverlapping(all.as_ptr(), self.buffer, copied) };
        if copied < all.len() { STATUS_BUFFER_OVERFLOW } else { STATUS_SUCCESS }
    }
}

fn push_u32(out: &mut Vec<u8>, value: usize) {
    out.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn push_units(out: &mut Vec<u8>, units: &[u16]) {
    out.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
}

/// The structure of an information class for one value: the size of its fixed part, and all of it.
fn encode_value(class: i32, entry: &Entry) -> Option<(usize, Vec<u8>)> {
    let mut out = Vec::new();
    let name_size = entry.name.len() * 2;
    let fixed = match class {
        KeyValueBasicInformation => {
            push_u32(&mut out, 0);
            push_u32(&mut out, entry.kind as usize);
            push_u32(&mut out, name_size);
            let fixed = out.len();
            push_units(&mut out, &entry.name);
            fixed
        }
        KeyValueFullInformation | KeyValueFullInformationAlign64 => {
            let alignment = if class == KeyValueFullInformation { 4 } else { 8 };
            let fixed = 20;
            let data_offset = (fixed + name_size).next_multiple_of(alignment);
            push_u32(&mut out, 0);
            push_u32(&mut out, entry.kind as usize);
            push_u32(&mut out, data_offset);
            push_u32(&mut out, entry.data.len());
            push_u32(&mut out, name_size);
            push_units(&mut out, &entry.name);
            out.resize(data_offset, 0);
            out.extend(&entry.data);
            fixed
        }
        KeyValuePartialInformation | KeyValuePartialInformationAlign64 => {
            if class == KeyValuePartialInformation {
                push_u32(&mut out, 0);
            }
            push_u32(&mut out, entry.kind as usize);
            push_u32(&mut out, entry.data.len());
            let fixed = out.len();
            out.extend(&entry.data);
            fixed
        }
        _ => return None,
    };
    Some((fixed, out))
}

fn value_alignment(class: i32) -> usize {
    if matches!(class, KeyValueFullInformationAlign64 | KeyValuePartialInformationAlign64) { 8 } else { 4 }
}

/// Whether a buffer suits the structures of a value information class; they are made of ULONGs.
pub(crate) fn is_aligned(class: i32, buffer: *const u8) -> bool {
    buffer.addr().is_multiple_of(value_alignment(class))
}

/// # Safety
/// As for [`Output::write`].
unsafe fn output_value(class: i32, entry: &Entry, output: &Output) -> NTSTATUS {
    match encode_value(class, entry) {
        // SAFETY: as the caller promises.
        Some((fixed, all)) => unsafe { output.write(fixed, &all) },
        None => STATUS_INVALID_PARAMETER,
    }
}

/// Page "ZwQueryValueKey".
///
/// # Safety
/// As for [`Output::write`].
pub(crate) unsafe fn query_value(key: &Key, name: &[u16], class: i32, output: &Output) -> NTSTATUS {
    let tree = lock(&TREE);
    let folded = fold(name);
    let entry =
        tree.get(&key.path).and_then(|node| node.values.iter().find(|entry| fold(&entry.name) == folded));
    match entry {
        // SAFETY: as the caller promises.
        Some(entry) => unsafe { output_value(class, entry, output) },
        None => STATUS_OBJECT_NAME_NOT_FOUND,
    }
}

/// Page "ZwEnumerateValueKey".
///
/// # Safety
/// As for [`Output::write`].
pub(crate) unsafe fn enumerate_value(key: &Key, index: u32, class: i32, output: &Output) -> NTSTATUS {
    let tree = lock(&TREE);
    match tree.get(&key.path).and_then(|node| node.values.get(index as usize)) {
        // SAFETY: as the caller promises.
        Some(entry) => unsafe { output_value(class, entry, output) },
        None => STATUS_NO_MORE_ENTRIES,
    }
}

/// Page "ZwEnumerateKey", for KeyBasicInformation and KeyNodeInformation.
///
/// # Safety
/// As for [`Output::write`].
pub(crate) unsafe fn enumerate_key(key: &Key, index: u32, class: i32, output: &Output) -> NTSTATUS {
    if !matches!(class, KeyBasicInformation | KeyNodeInformation | KeyFullInformation) {
        return STATUS_INVALID_PARAMETER;
    }
    let tree = lock(&TREE);
    let mut below = key.path.clone();
    below.push(SEPARATOR);
    let children: Vec<&Vec<u16>> = tree
        .keys()
        .filter(|path| path.starts_with(&below) && !path[below.len()..].contains(&SEPARATOR))
        .collect();
    let Some(path) = children.get(index as usize) else { return STATUS_NO_MORE_ENTRIES };
    let Some(node) = tree.get(*path) else { return STATUS_NO_MORE_ENTRIES };
    let mut out = vec![0; 8];
    push_u32(&mut out, 0);
    let name_size = node.name.len() * 2;
    let fixed = match class {
        KeyBasicInformation => {
            push_u32(&mut out, name_size);
            let fixed = out.len();
            push_units(&mut out, &node.name);
            fixed
        }
        KeyNodeInformation => {
            // No key here has a class: its offset is -1 and its length 0.
            push_u32(&mut out, usize::MAX);
            push_u32(&mut out, 0);
            push_u32(&mut out, name_size);
            let fixed = out.len();
            push_units(&mut out, &node.name);
            fixed
        }
        _ => full_information(&mut out, &tree, path, node),
    };
    // SAFETY: as the caller promises.
    unsafe { output.write(fixed, &out) }
}

/// The rest of a KEY_FULL_INFORMATION; returns the size of its fixed part.
fn full_information(out: &mut Vec<u8>, tree: &BTreeMap<Vec<u16>, Node>, path: &[u16], node: &Node) -> usize {
    let below = [path, &[SEPARATOR]].concat();
    let names: Vec<usize> = tree
        .iter()
        .filter(|(path, _)| path.starts_with(&below) && !path[below.len()..].contains(&SEPARATOR))
        .map(|(_, child)| child.name.len() * 2)
        .collect();
    push_u32(out, usize::MAX);
    push_u32(out, 0);
    push_u32(out, names.len());
    push_u32(out, names.iter().copied().max().unwrap_or(0));
    push_u32(out, 0);
    push_u32(out, node.values.len());
    push_u32(out, node.values.iter().map(|entry| entry.name.len() * 2).max().unwrap_or(0));
    push_u32(out, node.values.iter().map(|entry| entry.data.len()).max().unwrap_or(0));
    out.len()
}
