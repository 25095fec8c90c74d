//! The policy that a restart finds: two files, of which the newer whole one counts.
//!
//! A policy is written to the file that does not count, and that one counts when all of it is on the disk: whenever the
//! power fails, one of the two is whole, the new one or the one before. PASSIVE_LEVEL.

use super::force::{Bytes, Policies};
use super::slot::{Damage, HEADER, Header, LARGEST};
use crate::config::schema::Place;
use crate::kernel::device::DriverObject;
use crate::kernel::file::{Directory, File};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolSlice, tags};
use crate::kernel::string::from_ascii;
use crate::kernel::{Result, Status, time};
use crate::trace::{self, Event};

/// The files, by slot.
static NAMES: [[u16; 8]; 2] = [from_ascii(b"policy.0"), from_ascii(b"policy.1")];
/// What an event calls the directory, among the slots.
const DIRECTORY: u8 = u8::MAX;

/// Where the files are.
#[derive(Debug)]
enum Location {
    /// In the directory that the system keeps for this driver.
    Own(Option<DriverObject>),
    At(PoolSlice<u16>),
}

/// Which slot counts.
#[derive(Clone, Copy, Debug)]
enum Newest {
    /// The directory could not be used so far.
    Unknown,
    Neither,
    One {
        slot: u8,
    },
}

/// How often a store whose slots cannot be read is left for later.
const MOST_FAILURES: u8 = 4;

impl Newest {
    fn of(stored: Option<&Stored>) -> Self {
        stored.map_or(Self::Neither, |stored| Self::One { slot: stored.slot })
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    location: Location,
    newest: Newest,
    /// The highest sequence that any header has said.
    highest: u64,
    /// How often slots could not be read.
    failures: u8,
    /// What might count could not be read, the last time.
    unreadable: bool,
    /// A slot that was written to in vain, and might count all the same.
    torn: Option<u8>,
}

/// A policy that was stored.
#[derive(Debug)]
pub struct Stored {
    pub slot: u8,
    pub header: Header,
    pub image: Bytes,
}

impl Store {
    /// The store in that place; `None`: nothing is to be stored. Nothing is opened yet.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn at(place: Place<'_>, driver: Option<DriverObject>) -> Result<Option<Self>> {
        let location = match place {
            Place::Nowhere => return Ok(None),
            Place::Own => Location::Own(driver),
            Place::At(path) => {
                let unit = |index: usize| path.get(index).copied().unwrap_or_default();
                Location::At(PoolSlice::try_from_fn(tags::STORE, path.len(), unit)?)
            }
        };
        Ok(Some(Self {
            location,
            newest: Newest::Unknown,
            highest: 0,
            failures: 0,
            unreadable: false,
            torn: None,
        }))
    }

    fn open<'p>(&self, passive: &'p Passive) -> Result<Directory<'p>> {
        match &self.location {
            Location::At(path) => Directory::open(passive, path),
            Location::Own(driver) => Directory::of_data(passive, *driver),
        }
    }

    /// Reads the newest policy that is whole. What cannot be used is told.
    ///
    /// # Errors
    /// The directory cannot be used, which is told; it may be later.
    pub fn read(&mut self, passive: &Passive) -> Result<Option<Stored>> {
        let directory = self.open(passive).inspect_err(|status| refuse(DIRECTORY, "directory", *status))?;
        let mut failed = None;
        let mut sequence = |slot| {
            sequence(passive, &directory, slot).unwrap_or_else(|status| {
                failed = Some(status);
                None
            })
        };
        let (first, second) = (sequence(0), sequence(1));
        self.highest = self.highest.max(first.max(second).unwrap_or_default());
        let newer = if second > first { [1, 0] } else { [0, 1] };
        let mut newest = None;
        for slot in newer.into_iter().filter(|slot| if *slot == 0 { first } else { second }.is_some()) {
            match twice(|| stored(passive, &directory, slot)) {
                Ok(stored) => {
                    newest = Some(stored);
                    break;
                }
                Err(unusable) => {
                    if let Unusable::Unreadable(status) = unusable {
                        failed = Some(status);
                    }
                    unusable.tell(slot);
                }
            }
        }
        self.unreadable = failed.is_some();
        if failed.is_none() {
            self.failures = 0;
        }
        // An older policy, or none, does not take the place of one that only cannot be read now; but not for ever.
        if let Some(status) = failed
            && self.failures < MOST_FAILURES
        {
            self.failures = self.failures.saturating_add(1);
            return Err(status);
        }
        self.newest = Newest::of(newest.as_ref());
        Ok(newest)
    }

    /// Whether a policy may be there that [`read`](Self::read) left out the last time, since it could not be read.
    pub const fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Writes the policy in force, and waits until it counts. `registry` is the digest of the registry's policy.
    ///
    /// # Errors
    /// Why it could not be written; the one before still counts.
    pub fn write(&mut self, passive: &mut Passive, policies: &Policies, registry: &[u8; 32]) -> Result {
        if let Newest::Unknown = self.newest {
            drop(self.read(passive)?);
        }
        let (slot, sequence) = match self.newest {
            Newest::One { slot } => (slot ^ 1, self.highest.saturating_add(1)),
            Newest::Neither | Newest::Unknown => (0, self.highest.saturating_add(1)),
        };
        let mut touched = false;
        let written = self.write_slot(passive, policies, registry, (slot, sequence), &mut touched);
        match written {
            Ok(()) => {
                self.newest = Newest::One { slot };
                self.highest = sequence;
                self.torn = None;
            }
            Err(status) => {
                refuse(slot, "not written", status);
                if touched {
                    self.torn = Some(slot);
                }
                self.void(passive);
            }
        }
        written
    }

    /// Takes care that what was written in vain does not count: all of it may be there, only not safe from a loss of
    /// power.
    pub fn void(&mut self, passive: &Passive) {
        let Some(slot) = self.torn else { return };
        let void = || {
            let name = name(slot).ok_or(Status::INVALID_PARAMETER)?;
            self.open(passive)?.replace_file(passive, name)?.flush()
        };
        match void() {
            Ok(()) => self.torn = None,
            Err(status) => refuse(slot, "not voided", status),
        }
    }

    fn write_slot(
        &self,
        passive: &mut Passive,
        policies: &Policies,
        registry: &[u8; 32],
        (slot, sequence): (u8, u64),
        touched: &mut bool,
    ) -> Result {
        let policy = policies.current(passive).ok_or(Status::INVALID_DEVICE_STATE)?;
        let image = policy.image();
        let image = image.bytes();
        let header = Header {
            size: u32::try_from(image.len()).map_err(|_| Status::INVALID_PARAMETER)?,
            sequence,
            confirmed: time::system_time(),
            registry: *registry,
            image: *policy.digest(),
        };
        let directory = self.open(passive)?;
        let name = name(slot).ok_or(Status::INVALID_PARAMETER)?;
        let written = directory.replace_file(passive, name)?;
        *touched = true;
        written.write(HEADER as u64, image)?;
        // The header last: without it the file is nothing.
        written.write(0, &header.encode())?;
        written.flush()
    }
}

/// Why a slot cannot be used.
enum Unusable {
    Damaged(Damage),
    /// What the file system answered.
    Unreadable(Status),
}

impl Unusable {
    fn tell(self, slot: u8) {
        match self {
            Self::Damaged(damage) => refuse(slot, damage.reason(), Status::SUCCESS),
            Self::Unreadable(status) => refuse(slot, "unreadable", status),
        }
    }
}

impl From<Status> for Unusable {
    fn from(status: Status) -> Self {
        Self::Unreadable(status)
    }
}

impl From<Damage> for Unusable {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// Reads, and once more if the file system fails: an older policy is not taken for want of memory at one moment.
fn twice<T>(read: impl Fn() -> core::result::Result<T, Unusable>) -> core::result::Result<T, Unusable> {
    match read() {
        Err(Unusable::Unreadable(status)) if status != Status::OBJECT_NAME_NOT_FOUND => read(),
        done => done,
    }
}

fn refuse(slot: u8, reason: &'static str, status: Status) {
    trace::emit(&Event::PolicyStoreRefused { slot, reason, status: status.into() });
}

fn name(slot: u8) -> Option<&'static [u16]> {
    NAMES.get(usize::from(slot)).map(<[u16; 8]>::as_slice)
}

/// The sequence that the header of a slot says, unless the slot is empty, or damaged, which is told.
///
/// # Errors
/// The slot cannot be read, which is told.
fn sequence(passive: &Passive, directory: &Directory<'_>, slot: u8) -> Result<Option<u64>> {
    let read = || -> core::result::Result<u64, Unusable> {
        let file = open(passive, directory, slot)?;
        let mut bytes = [0; HEADER];
        let length = file.read(0, &mut bytes)?;
        let header = Header::decode(bytes.get(..length).unwrap_or_default(), file.size()?)?;
        Ok(header.sequence)
    };
    match twice(read) {
        Ok(sequence) => Ok(Some(sequence)),
        Err(Unusable::Unreadable(Status::OBJECT_NAME_NOT_FOUND)) => Ok(None),
        Err(Unusable::Unreadable(status)) => {
            refuse(slot, "unreadable", status);
            Err(status)
        }
        Err(damaged) => {
            damaged.tell(slot);
            Ok(None)
        }
    }
}

/// The policy of a slot, whole.
#[inline(never)]
fn stored(passive: &Passive, directory: &Directory<'_>, slot: u8) -> core::result::Result<Stored, Unusable> {
    let file = open(passive, directory, slot)?;
    let size = file.size()?;
    let length = usize::try_from(size).ok().filter(|length| *length <= LARGEST).ok_or(Damage::Size)?;
    let mut bytes = PoolSlice::try_zeroed(tags::STORE, length)?;
    if file.read(0, &mut bytes)? != length {
        return Err(Damage::Size.into());
    }
    let header = Header::decode(&bytes, size)?;
    let image = Bytes::after(HEADER, bytes);
    header.check(image.as_slice())?;
    Ok(Stored { slot, header, image })
}

fn open<'p>(passive: &'p Passive, directory: &Directory<'p>, slot: u8) -> Result<File<'p>> {
    directory.open_file(passive, name(slot).ok_or(Status::INVALID_PARAMETER)?)
}
