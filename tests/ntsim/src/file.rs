//! The disk: files and directories in memory, which tests fill, look at, and take away.
//!
//! One volume, under the names that it has in the object manager; that `\SystemRoot` and `\??\C:\Windows` are one
//! directory on a Windows machine is not so here. What was written is on the disk only once it was flushed: what a loss
//! of power leaves is made of a [journal](Files::record), by [`after_power_loss`].

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::registry::fold;
use crate::sys::nt::{
    ACCESS_MASK, DELETE, FILE_APPEND_DATA, FILE_CREATE, FILE_CREATED, FILE_DIRECTORY_FILE,
    FILE_NON_DIRECTORY_FILE, FILE_OPEN, FILE_OPENED, FILE_OVERWRITE, FILE_OVERWRITE_IF, FILE_OVERWRITTEN,
    FILE_READ_DATA, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SUPERSEDE,
    FILE_SYNCHRONOUS_IO_ALERT, FILE_SYNCHRONOUS_IO_NONALERT, FILE_TRAVERSE, FILE_WRITE_DATA, NTSTATUS,
    STATUS_DISK_FULL, STATUS_END_OF_FILE, STATUS_FILE_IS_A_DIRECTORY, STATUS_INVALID_PARAMETER,
    STATUS_NOT_A_DIRECTORY, STATUS_OBJECT_NAME_COLLISION, STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_NAME_NOT_FOUND, STATUS_OBJECT_PATH_NOT_FOUND, STATUS_OBJECT_PATH_SYNTAX_BAD,
    STATUS_SHARING_VIOLATION, STATUS_SUCCESS, ULONG,
};
use crate::verify::lock;

const SEPARATOR: u16 = b'\\' as u16;

/// Directories that every machine has.
const DIRECTORIES: &[&str] = &[r"\SystemRoot\System32\drivers\DriverData", r"\??\C:\ProgramData"];
/// Where drivers' own directories are.
const DRIVER_DATA: &str = DIRECTORIES[0];

/// What is on the disk; `None`: a directory.
pub type Contents = BTreeMap<String, Option<Vec<u8>>>;

/// Something that was done to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new one, or one that has lost what was in it.
    Emptied,
    Written {
        offset: usize,
        bytes: Vec<u8>,
    },
    /// Everything before is safe.
    Flushed,
}

/// Something that was done to the disk: to which file, and what.
pub type Entry = (String, Change);

#[derive(Default)]
struct Disk {
    /// By folded path.
    nodes: BTreeMap<Vec<u16>, Node>,
    journal: Option<Vec<Entry>>,
    /// How many bytes all files can have together.
    capacity: Option<usize>,
    /// The volume is not there yet.
    absent: bool,
}

struct Node {
    /// As it was written first.
    path: String,
    /// `None`: a directory.
    data: Option<Vec<u8>>,
    /// Access and sharing of each handle.
    users: Vec<(ACCESS_MASK, ULONG)>,
    /// Somebody holds an oplock, and does not give it up.
    oplocked: bool,
}

static DISK: Mutex<Option<Disk>> = Mutex::new(None);

fn with<T>(body: impl FnOnce(&mut Disk) -> T) -> T {
    body(lock(&DISK).get_or_insert_default())
}

pub(crate) fn clear() {
    *lock(&DISK) = None;
}

pub(crate) fn reset() {
    clear();
    for directory in DIRECTORIES {
        Files.create_directory(directory);
    }
}

fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// A file or directory that was opened. The last copy gives its sharing back.
#[derive(Clone, Debug)]
pub(crate) struct Open(std::sync::Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: Vec<u16>,
    access: ACCESS_MASK,
    share: ULONG,
    options: ULONG,
}

impl Open {
    pub fn is_synchronous(&self) -> bool {
        self.0.options & (FILE_SYNCHRONOUS_IO_ALERT | FILE_SYNCHRONOUS_IO_NONALERT) != 0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        with(|disk| {
            let Some(node) = disk.nodes.get_mut(&self.path) else { return };
            if let Some(place) = node.users.iter().position(|user| *user == (self.access, self.share)) {
                node.users.swap_remove(place);
            }
        });
    }
}

/// Another program that has something open, until it is dropped.
#[derive(Debug)]
#[must_use = "it is closed when it is dropped"]
pub struct User {
    _open: Open,
}

/// What opening has come to.
pub(crate) struct Created {
    pub open: Open,
    /// What was done: FILE_OPENED and so on.
    pub information: usize,
    /// Somebody has to give up an oplock before anything is done with it.
    pub oplocked: bool,
}

impl Disk {
    fn note(&mut self, path: &[u16], change: Change) {
        let Some(node) = self.nodes.get(path) else { return };
        if let Some(journal) = &mut self.journal {
            journal.push((node.path.clone(), change));
        }
    }

    fn used(&self) -> usize {
        self.nodes.values().filter_map(|node| node.data.as_ref()).map(Vec::len).sum()
    }

    /// Whether somebody has the file in a way that does not go with this one (pages "ZwCreateFile" and
    /// "IoCheckShareAccess"). Who neither reads, writes nor deletes is in nobody's way.
    fn conflicts(&self, path: &[u16], access: ACCESS_MASK, share: ULONG) -> bool {
        const READS: ACCESS_MASK = FILE_READ_DATA | FILE_TRAVERSE;
        const WRITES: ACCESS_MASK = FILE_WRITE_DATA | FILE_APPEND_DATA;
        let kinds = [(READS, FILE_SHARE_READ), (WRITES, FILE_SHARE_WRITE), (DELETE, FILE_SHARE_DELETE)];
        let shares = |access: ACCESS_MASK| access & (READS | WRITES | DELETE) != 0;
        let forbids = |theirs: ACCESS_MASK, access: ACCESS_MASK, share: ULONG| {
            shares(access) && kinds.iter().any(|&(kind, flag)| theirs & kind != 0 && share & flag == 0)
        };
        self.nodes.get(path).is_some_and(|node| {
            node.users
                .iter()
                .any(|&(theirs, shared)| forbids(access, theirs, shared) || forbids(theirs, access, share))
        })
    }
}

/// Page "ZwCreateFile": what there is under a name, or is made there.
pub(crate) fn open(
    root: Option<&Open>,
    name: &[u16],
    access: ACCESS_MASK,
    share: ULONG,
    disposition: ULONG,
    options: ULONG,
) -> Result<Created, NTSTATUS> {
    let absolute = name.first() == Some(&SEPARATOR);
    let mut path = match root {
        Some(_) if absolute => return Err(STATUS_OBJECT_NAME_INVALID),
        Some(root) => root.0.path.clone(),
        None if absolute => Vec::new(),
        None => return Err(STATUS_OBJECT_PATH_SYNTAX_BAD),
    };
    let relative = name.strip_prefix(&[SEPARATOR]).unwrap_or(name);
    let relative = relative.strip_suffix(&[SEPARATOR]).unwrap_or(relative);
    let parts: Vec<&[u16]> = relative.split(|&unit| unit == SEPARATOR).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(STATUS_OBJECT_NAME_INVALID);
    }
    let directory = options & FILE_DIRECTORY_FILE != 0;
    if directory && (options & FILE_NON_DIRECTORY_FILE != 0 || disposition == FILE_SUPERSEDE) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    if directory && matches!(disposition, FILE_OVERWRITE | FILE_OVERWRITE_IF) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    with(|disk| {
        if disk.absent {
            return Err(STATUS_OBJECT_PATH_NOT_FOUND);
        }
        let mut spelled = disk.nodes.get(&path).map(|node| node.path.clone()).unwrap_or_default();
        let mut above = Vec::new();
        for part in parts {
            above.clone_from(&path);
            path.push(SEPARATOR);
            path.extend(fold(part));
            spelled.push('\\');
            spelled += &String::from_utf16_lossy(part);
        }
        let is_directory = |node: &Node| node.data.is_none();
        if !disk.nodes.get(&above).is_some_and(is_directory) {
            return Err(STATUS_OBJECT_PATH_NOT_FOUND);
        }
        let there = disk.nodes.get(&path).map(|node| node.data.is_none());
        let information = match (there, disposition) {
            (Some(true), _) if options & FILE_NON_DIRECTORY_FILE != 0 => {
                return Err(STATUS_FILE_IS_A_DIRECTORY);
            }
            (Some(false), _) if directory => return Err(STATUS_NOT_A_DIRECTORY),
            (Some(_), FILE_CREATE) => return Err(STATUS_OBJECT_NAME_COLLISION),
            (None, FILE_OPEN | FILE_OVERWRITE) => return Err(STATUS_OBJECT_NAME_NOT_FOUND),
            (Some(_), FILE_OVERWRITE | FILE_OVERWRITE_IF | FILE_SUPERSEDE) => FILE_OVERWRITTEN,
            (Some(_), _) => FILE_OPENED,
            (None, _) => FILE_CREATED,
        };
        if disk.conflicts(&path, access, share) {
            return Err(STATUS_SHARING_VIOLATION);
        }
        if information != FILE_OPENED {
            let data = (!directory).then(Vec::new);
            let before = disk.nodes.remove(&path);
            let (users, oplocked) = before.map(|node| (node.users, node.oplocked)).unwrap_or_default();
            disk.nodes.insert(path.clone(), Node { path: spelled, data, users, oplocked });
            if !directory {
                disk.note(&path, Change::Emptied);
            }
        }
        let mut oplocked = false;
        if let Some(node) = disk.nodes.get_mut(&path) {
            node.users.push((access, share));
            oplocked = node.oplocked;
        }
        let open = Open(std::sync::Arc::new(Opened { path, access, share, options }));
        Ok(Created { open, information, oplocked })
    })
}

/// Page "IoGetDriverDirectory": the directory for a driver's data, made if it is not there. `None` before the volume is.
pub(crate) fn of_driver(name: &[u16]) -> Option<Open> {
    if with(|disk| disk.absent) {
        return None;
    }
    let name = name.rsplit(|&unit| unit == SEPARATOR).next().unwrap_or_default();
    let path = format!("{DRIVER_DATA}\\{}", String::from_utf16_lossy(name));
    Files.create_directory(&path);
    let options = FILE_DIRECTORY_FILE | FILE_SYNCHRONOUS_IO_NONALERT;
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE;
    open(None, &utf16(&path), 0, share, FILE_OPEN, options).ok().map(|created| created.open)
}

/// Page "ZwReadFile".
pub(crate) fn read(open: &Open, offset: usize, length: usize) -> Result<Vec<u8>, NTSTATUS> {
    with(|disk| {
        let data = disk.nodes.get(&open.0.path).and_then(|node| node.data.as_ref());
        let rest = data.and_then(|data| data.get(offset..)).filter(|rest| !rest.is_empty());
        rest.map(|rest| rest[..length.min(rest.len())].to_vec()).ok_or(STATUS_END_OF_FILE)
    })
}

/// Page "ZwWriteFile": bytes between the old end and the offset are zero. The status, and how much was written.
pub(crate) fn write(open: &Open, offset: usize, bytes: &[u8]) -> (NTSTATUS, usize) {
    with(|disk| {
        let path = &open.0.path;
        let length = disk.nodes.get(path).and_then(|node| node.data.as_ref()).map_or(0, Vec::len);
        let room = disk.capacity.map(|capacity| (capacity + length).saturating_sub(disk.used() + offset));
        let fits = room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if let Some(data) = disk.nodes.get_mut(path).and_then(|node| node.data.as_mut()) {
            put(data, offset, &bytes[..fits]);
        }
        disk.note(path, Change::Written { offset, bytes: bytes[..fits].to_vec() });
        if fits < bytes.len() { (STATUS_DISK_FULL, fits) } else { (STATUS_SUCCESS, fits) }
    })
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        data.resize(data.len().max(offset + bytes.len()), 0);
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Page "ZwFlushBuffersFile".
pub(crate) fn flush(open: &Open) {
    with(|disk| disk.note(&open.0.path, Change::Flushed));
}

/// Its size, and whether it is a directory.
pub(crate) fn size(open: &Open) -> (usize, bool) {
    with(|disk| match disk.nodes.get(&open.0.path).map(|node| &node.data) {
        Some(Some(data)) => (data.len(), false),
        _ => (0, true),
    })
}

/// The disk of the booted machine.
#[derive(Clone, Copy, Debug)]
pub struct Files;

fn fold_path(path: &str) -> Vec<u16> {
    fold(&utf16(path.trim_end_matches('\\')))
}

impl Files {
    /// Makes a directory and those above it.
    pub fn create_directory(self, path: &str) {
        let path = path.trim_end_matches('\\');
        let ends = path.match_indices('\\').map(|(at, _)| at).filter(|at| *at != 0).chain([path.len()]);
        with(|disk| {
            for end in ends {
                let path = &path[..end];
                let node = Node { path: path.to_owned(), data: None, users: Vec::new(), oplocked: false };
                disk.nodes.entry(fold_path(path)).or_insert(node);
            }
        });
    }

    /// Puts a file there, with the directories above it.
    pub fn write(self, path: &str, data: &[u8]) {
        if let Some((above, _)) = path.rsplit_once('\\') {
            self.create_directory(above);
        }
        let node =
            Node { path: path.to_owned(), data: Some(data.to_vec()), users: Vec::new(), oplocked: false };
        with(|disk| disk.nodes.insert(fold_path(path), node));
    }

    /// What is in a file.
    pub fn read(self, path: &str) -> Option<Vec<u8>> {
        with(|disk| disk.nodes.get(&fold_path(path))?.data.clone())
    }

    /// Another program opens what is there, with rights that the file system has granted.
    ///
    /// # Errors
    /// What ZwCreateFile returns.
    pub fn open(self, path: &str, access: ACCESS_MASK, share: ULONG) -> Result<User, NTSTATUS> {
        open(None, &utf16(path), access, share, FILE_OPEN, 0).map(|created| User { _open: created.open })
    }

    /// Another program takes an oplock on what is there and does not give it up, or gives it up.
    pub fn oplock(self, path: &str, held: bool) {
        with(|disk| {
            if let Some(node) = disk.nodes.get_mut(&fold_path(path)) {
                node.oplocked = held;
            }
        });
    }

    /// How many have it open.
    pub fn users(self, path: &str) -> usize {
        with(|disk| disk.nodes.get(&fold_path(path)).map_or(0, |node| node.users.len()))
    }

    /// Takes a file, or a directory and all below it, away.
    pub fn remove(self, path: &str) {
        let gone = fold_path(path);
        let below = [&gone[..], &[SEPARATOR]].concat();
        with(|disk| disk.nodes.retain(|path, _| *path != gone && !path.starts_with(&below)));
    }

    /// All of it.
    pub fn contents(self) -> Contents {
        with(|disk| disk.nodes.values().map(|node| (node.path.clone(), node.data.clone())).collect())
    }

    /// Has this on it, and nothing else. Nothing is open.
    pub fn set_contents(self, contents: &Contents) {
        let nodes = contents.iter().map(|(path, data)| {
            (
                fold_path(path),
                Node { path: path.clone(), data: data.clone(), users: Vec::new(), oplocked: false },
            )
        });
        with(|disk| disk.nodes = nodes.collect());
    }

    /// Keeps a journal from here on.
    pub fn record(self) {
        with(|disk| disk.journal = Some(Vec::new()));
    }

    /// The journal so far.
    pub fn journal(self) -> Vec<Entry> {
        with(|disk| disk.journal.clone().unwrap_or_default())
    }

    /// How many bytes there is room for in all files together; `None`: as many as one likes.
    pub fn set_capacity(self, capacity: Option<usize>) {
        with(|disk| disk.capacity = capacity);
    }

    /// Whether the volume is there: early in a boot it is not.
    pub fn set_present(self, present: bool) {
        with(|disk| disk.absent = !present);
    }
}

/// Every disk that a loss of power can leave, somewhere within what the journal says was done to `before`: each write cut
/// at each byte; and what had not been flushed lost, whole, or but for its length.
pub fn after_power_loss(before: &Contents, journal: &[Entry]) -> impl Iterator<Item = Contents> {
    (0..=journal.len()).flat_map(move |done| {
        let (past, future) = journal.split_at(done);
        let cuts = match future.first() {
            Some((path, Change::Written { offset, bytes })) => (0..bytes.len())
                .map(|cut| {
                    let mut disk = applied(before, past);
                    apply(
                        &mut disk,
                        path,
                        &Change::Written { offset: *offset, bytes: bytes[..cut].to_vec() },
                    );
                    disk
                })
                .collect(),
            _ => vec![applied(before, past)],
        };
        cuts.into_iter().chain(forgotten(before, past))
    })
}

/// The disk that a loss of power leaves at the end of the journal, if nothing that was not flushed has come that far.
pub fn after_losing_power(before: &Contents, journal: &[Entry]) -> Contents {
    let [old, ..] = forgotten(before, journal);
    old
}

fn applied(before: &Contents, journal: &[Entry]) -> Contents {
    let mut disk = before.clone();
    for (path, change) in journal {
        apply(&mut disk, path, change);
    }
    disk
}

fn apply(disk: &mut Contents, path: &str, change: &Change) {
    match change {
        Change::Emptied => drop(disk.insert(path.to_owned(), Some(Vec::new()))),
        Change::Written { offset, bytes } => {
            if let Some(Some(data)) = disk.get_mut(path) {
                put(data, *offset, bytes);
            }
        }
        Change::Flushed => {}
    }
}

/// The disk without what was not flushed: files as they were then; files that are empty; files of zeros.
fn forgotten(before: &Contents, journal: &[Entry]) -> [Contents; 3] {
    let now = applied(before, journal);
    let mut disks = [now.clone(), now.clone(), now.clone()];
    for (path, data) in &now {
        let Some(data) = data else { continue };
        let of_path = |entry: &&Entry| entry.0 == *path;
        let Some(last) = journal.iter().rposition(|entry| of_path(&entry) && entry.1 == Change::Flushed)
        else {
            if journal.iter().any(|entry| of_path(&entry)) {
                let [old, empty, zeros] = &mut disks;
                match before.get(path) {
                    Some(then) => drop(old.insert(path.clone(), then.clone())),
                    None => drop(old.remove(path)),
                }
                empty.insert(path.clone(), Some(Vec::new()));
                zeros.insert(path.clone(), Some(vec![0; data.len()]));
            }
            continue;
        };
        if journal[last..].iter().filter(of_path).count() > 1 {
            let [old, empty, zeros] = &mut disks;
            let then = applied(before, &journal[..last]).remove(path).flatten();
            old.insert(path.clone(), then);
            empty.insert(path.clone(), Some(Vec::new()));
            zeros.insert(path.clone(), Some(vec![0; data.len()]));
        }
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(changes: &[Change]) -> Vec<Option<Vec<u8>>> {
        let before = Contents::from([("f".to_owned(), Some(b"old".to_vec()))]);
        let journal: Vec<Entry> = changes.iter().map(|change| ("f".to_owned(), change.clone())).collect();
        after_power_loss(&before, &journal).map(|disk| disk.get("f").cloned().flatten()).collect()
    }

    #[test]
    fn a_loss_of_power_leaves_every_prefix_and_what_was_flushed() {
        let write = Change::Written { offset: 0, bytes: b"new".to_vec() };
        let states = states(&[Change::Emptied, write, Change::Flushed]);
        for expected in ["old", "", "n", "ne", "new", "\0\0\0"] {
            assert!(states.contains(&Some(expected.into())), "{expected:?} of {states:?}");
        }
        let unflushed = [("f".to_owned(), Change::Written { offset: 0, bytes: b"new".to_vec() })];
        let before = Contents::from([("f".to_owned(), Some(b"old".to_vec()))]);
        assert_eq!(after_losing_power(&before, &unflushed), before);
        // Once it is flushed, it is there.
        assert_eq!(states.last(), Some(&Some(b"new".to_vec())));
    }
}
