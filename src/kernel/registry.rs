//! Reading the registry. PASSIVE_LEVEL only, which [`Key`] borrows the proof of.
//!
//! What the registry holds was written by someone else: a value comes back as its type and its bytes, of a size
//! that the caller bounds, and is believed in nothing.
//!
//! ```compile_fail,E0502
//! use weir::kernel::{irql::Passive, registry::Key};
//! fn raises_with_a_key_open(passive: &mut Passive, path: &[u16]) {
//!     let key = Key::open(passive, path);
//!     let raised = passive.raise();
//!     drop(key); // would be ZwClose at DISPATCH_LEVEL
//!     drop(raised);
//! }
//! ```

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};

use zeroize::Zeroize as _;

use super::event::{Awaited, Signal, Waited};
use super::irql::Passive;
use super::pool::{PoolBox, PoolSlice, tags};
use super::security;
use super::status::{Result, Status};
use super::string::UnicodeStr;
use super::time::Interval;
use crate::sys::nt;

/// An open key, for reading. Closed when dropped.
#[derive(Debug)]
pub struct Key<'p> {
    handle: nt::HANDLE,
    // Closing needs PASSIVE_LEVEL, so the level cannot be raised while a key is open.
    passive: PhantomData<&'p Passive>,
}

/// What [`Key::secret`] found under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secret {
    Absent,
    /// It was read.
    Read,
    /// A value of another type.
    WrongType,
    /// More bytes, or fewer.
    WrongSize,
}

/// What stands under a name.
#[derive(Debug)]
pub enum Found {
    Absent,
    /// More bytes than asked for; they were not read.
    TooLong {
        kind: u32,
        size: usize,
    },
    Value(Value),
}

/// A value as it was read.
#[derive(Debug)]
pub struct Value {
    kind: u32,
    len: usize,
    // KEY_VALUE_PARTIAL_INFORMATION: the data follows the header.
    information: PoolSlice<u8>,
}

/// The name of a value or subkey, cut off after [`MAX_NAME`] units.
pub type Name = super::string::Utf16<MAX_NAME>;

/// The longest name that enumeration returns whole, in UTF-16 units. A value's name can have 16,383, a key's 255.
pub const MAX_NAME: usize = 128;

/// Offset of `Data` in KEY_VALUE_PARTIAL_INFORMATION: TitleIndex, Type, DataLength.
const PARTIAL_HEADER: usize = 12;
/// Offset of `Type` in it.
const TYPE: usize = 4;
/// Offset of `DataLength` in it.
const DATA_LENGTH: usize = 8;
/// How much data the first read has room for: most values fit.
const FIRST_READ: usize = 256;
/// Offset of `Name` in KEY_VALUE_BASIC_INFORMATION: TitleIndex, Type, NameLength.
const VALUE_BASIC_HEADER: usize = 12;
/// Offset of `Name` in KEY_BASIC_INFORMATION: LastWriteTime, TitleIndex, NameLength.
const KEY_BASIC_HEADER: usize = 16;
/// How often a value that grows while it is read is asked for again.
const ATTEMPTS: usize = 4;

/// Room for a basic information with a name, aligned as the structures are.
#[repr(C, align(8))]
struct NameBuffer([u8; KEY_BASIC_HEADER + 2 * MAX_NAME]);

/// Room for a partial information with a secret, aligned as the structure is.
#[repr(C, align(8))]
struct SecretBuffer([u8; PARTIAL_HEADER + 64]);

impl Drop for SecretBuffer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<'p> Key<'p> {
    /// Opens the key with an absolute path, `\Registry\Machine\…` (ZwOpenKey, KEY_READ).
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_NOT_FOUND` if there is none, and what else ZwOpenKey returns.
    pub fn open(passive: &'p Passive, path: &[u16]) -> Result<Self> {
        // SAFETY: no root directory is needed for an absolute path.
        unsafe { Self::open_at(passive, core::ptr::null_mut(), path) }
    }

    /// Opens a key below this one.
    ///
    /// # Errors
    /// As [`Key::open`].
    pub fn open_subkey(&self, passive: &'p Passive, name: &[u16]) -> Result<Self> {
        // SAFETY: the handle is an open key's.
        unsafe { Self::open_at(passive, self.handle, name) }
    }

    /// # Safety
    /// `root` is NULL or an open key.
    unsafe fn open_at(_passive: &'p Passive, root: nt::HANDLE, name: &[u16]) -> Result<Self> {
        let name = UnicodeStr::new(name)?;
        let mut attributes = nt::OBJECT_ATTRIBUTES {
            Length: nt::OBJECT_ATTRIBUTES_SIZE,
            RootDirectory: root,
            ObjectName: name.as_raw(),
            Attributes: nt::OBJ_KERNEL_HANDLE | nt::OBJ_CASE_INSENSITIVE,
            SecurityDescriptor: core::ptr::null_mut(),
            SecurityQualityOfService: core::ptr::null_mut(),
        };
        let mut handle = core::ptr::null_mut();
        // SAFETY: everything that is pointed to lives for the call; the token says PASSIVE_LEVEL.
        let status = unsafe { nt::ZwOpenKey(&raw mut handle, nt::KEY_READ, &raw mut attributes) };
        Status(status).exact()?;
        Ok(Self { handle, passive: PhantomData })
    }

    /// Reads a value of at most `cap` bytes.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what ZwQueryValueKey returns but for a value that is absent or too long.
    pub fn value(&self, name: &[u16], cap: usize) -> Result<Found> {
        let name = UnicodeStr::new(name)?;
        let mut size = PARTIAL_HEADER.saturating_add(cap.min(FIRST_READ));
        for _ in 0..ATTEMPTS {
            let mut information = PoolSlice::try_zeroed(tags::REGISTRY, size)?;
            let length = u32::try_from(information.len()).map_err(|_| Status::INVALID_PARAMETER)?;
            let mut needed = 0;
            // SAFETY: an open key; the buffer has `length` bytes, aligned as the structure is; PASSIVE_LEVEL by
            // the token that the key borrows.
            let status = Status(unsafe {
                nt::ZwQueryValueKey(
                    self.handle,
                    name.as_raw(),
                    nt::KeyValuePartialInformation,
                    information.as_mut_ptr().cast(),
                    length,
                    &raw mut needed,
                )
            });
            match status {
                Status::SUCCESS => return Value::parse(information).map(Found::Value),
                Status::OBJECT_NAME_NOT_FOUND => return Ok(Found::Absent),
                // The header was written, and as much of the data as there is room for.
                Status::BUFFER_OVERFLOW => {}
                other => return Err(other),
            }
            size = usize::try_from(needed).map_err(|_| Status::INVALID_PARAMETER)?;
            let data = size.saturating_sub(PARTIAL_HEADER);
            if data > cap {
                let kind = word(&information, TYPE).ok_or(Status::UNSUCCESSFUL)?;
                return Ok(Found::TooLong { kind, size: data });
            }
        }
        Err(Status::UNSUCCESSFUL)
    }

    /// Reads a value that nobody else is to see: `N` bytes of type REG_BINARY, into a place of the caller's, which is
    /// overwritten in any case. No other copy of it is left.
    ///
    /// # Errors
    /// What ZwQueryValueKey returns but for a value that is absent or of another size.
    pub fn secret<const N: usize>(&self, name: &[u16], secret: &mut [u8; N]) -> Result<Secret> {
        const REG_BINARY: u32 = 3;
        // Header and data; longer by one, so that a longer value is told from one that fits.
        const { assert!(N < 64) };
        let mut buffer = SecretBuffer([0; _]);
        let name = UnicodeStr::new(name)?;
        let length = u32::try_from(size_of::<SecretBuffer>()).map_err(|_| Status::INVALID_PARAMETER)?;
        let mut needed = 0;
        *secret = [0; N];
        // SAFETY: an open key; the buffer has `length` bytes, aligned as the structure is; PASSIVE_LEVEL by the token
        // that the key borrows.
        let status = Status(unsafe {
            nt::ZwQueryValueKey(
                self.handle,
                name.as_raw(),
                nt::KeyValuePartialInformation,
                buffer.0.as_mut_ptr().cast(),
                length,
                &raw mut needed,
            )
        });
        match status {
            // With BUFFER_OVERFLOW as much as fits was written; what matters is that it is too much.
            Status::SUCCESS | Status::BUFFER_OVERFLOW => {}
            Status::OBJECT_NAME_NOT_FOUND => return Ok(Secret::Absent),
            other => return Err(other),
        }
        if word(&buffer.0, TYPE) != Some(REG_BINARY) {
            return Ok(Secret::WrongType);
        }
        if word(&buffer.0, DATA_LENGTH).and_then(|length| usize::try_from(length).ok()) != Some(N) {
            return Ok(Secret::WrongSize);
        }
        let data = buffer.0.get(PARTIAL_HEADER..).unwrap_or_default();
        for (place, byte) in secret.iter_mut().zip(data) {
            *place = *byte;
        }
        Ok(Secret::Read)
    }

    /// Whether nobody but the system and its administrators owns the key, or may see or change what stands in it.
    ///
    /// # Errors
    /// What ZwQuerySecurityObject returns; `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn is_closed(&self, passive: &Passive) -> Result<core::result::Result<(), security::Flaw>> {
        // SAFETY: an open key; KEY_READ includes READ_CONTROL.
        let descriptor = unsafe { security::read(passive, self.handle) }?;
        Ok(security::judge(&descriptor, security::HARMLESS_TO_A_KEY))
    }

    /// The name of the value at `index`, from 0, in no particular order; `None` past the last.
    ///
    /// # Errors
    /// What ZwEnumerateValueKey returns.
    pub fn value_name(&self, index: u32) -> Result<Option<Name>> {
        Self::name(VALUE_BASIC_HEADER, |buffer, length, needed| {
            // SAFETY: an open key and a buffer of `length` bytes; PASSIVE_LEVEL by the token that the key borrows.
            Status(unsafe {
                nt::ZwEnumerateValueKey(
                    self.handle,
                    index,
                    nt::KeyValueBasicInformation,
                    buffer,
                    length,
                    needed,
                )
            })
        })
    }

    /// The name of the subkey at `index`, from 0, in no particular order; `None` past the last.
    ///
    /// # Errors
    /// What ZwEnumerateKey returns.
    pub fn subkey_name(&self, index: u32) -> Result<Option<Name>> {
        Self::name(KEY_BASIC_HEADER, |buffer, length, needed| {
            // SAFETY: an open key and a buffer of `length` bytes; PASSIVE_LEVEL by the token that the key borrows.
            Status(unsafe {
                nt::ZwEnumerateKey(self.handle, index, nt::KeyBasicInformation, buffer, length, needed)
            })
        })
    }

    /// Asks for a basic information whose name starts at `header`, after its length.
    fn name(header: usize, query: impl FnOnce(nt::PVOID, u32, *mut u32) -> Status) -> Result<Option<Name>> {
        let mut buffer = NameBuffer([0; _]);
        let length = u32::try_from(size_of::<NameBuffer>()).map_err(|_| Status::INVALID_PARAMETER)?;
        let mut needed = 0;
        match query(buffer.0.as_mut_ptr().cast(), length, &raw mut needed) {
            // With BUFFER_OVERFLOW as much of the name was written as there is room for.
            Status::SUCCESS | Status::BUFFER_OVERFLOW => {}
            Status::NO_MORE_ENTRIES => return Ok(None),
            other => return Err(other),
        }
        let bytes = header
            .checked_sub(size_of::<u32>())
            .and_then(|at| word(&buffer.0, at))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(0);
        let mut name = Name::new();
        let units = buffer.0.get(header..).unwrap_or_default().as_chunks::<2>().0;
        for &unit in units.iter().take(bytes.div_ceil(2)).take(MAX_NAME) {
            name.extend(&[u16::from_le_bytes(unit)])?;
        }
        Ok(Some(name))
    }
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and closed once; PASSIVE_LEVEL by the token that the key borrows.
        _ = unsafe { nt::ZwClose(self.handle) };
    }
}

/// The block that the kernel writes when a key has changed.
struct Block(UnsafeCell<MaybeUninit<nt::IO_STATUS_BLOCK>>);

// SAFETY: nobody but the kernel looks into it.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// A key that is watched: one change of it, or of one below it, is told by an event. Who wants to be told of the next one
/// watches anew, and reads after that, so that nothing is missed in between.
///
/// The request is by event, without a routine: one that the kernel calls could outlive the image.
#[must_use = "it must be closed"]
pub struct Watch {
    key: nt::HANDLE,
    signal: Signal,
    block: PoolBox<Block>,
}

// SAFETY: a kernel handle, and what is good on any thread itself.
unsafe impl Send for Watch {}
// SAFETY: nothing is done through a shared watch but waiting.
unsafe impl Sync for Watch {}

/// How long the end of a request is waited for. It comes with the closing of the key.
const CLEANUP: Interval = Interval::from_millis(5_000);

impl Watch {
    /// Watches a key with an absolute path for values that change, and keys that come and go; with `tree` also those
    /// below it (ZwNotifyChangeKey).
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_NOT_FOUND` if there is none; `STATUS_INSUFFICIENT_RESOURCES`; what ZwOpenKey, ZwCreateEvent and
    /// ZwNotifyChangeKey return.
    pub fn open(passive: &Passive, path: &[u16], tree: bool) -> Result<Self> {
        let key = Key::open(passive, path)?;
        let block = PoolBox::try_new(tags::REGISTRY, Block(UnsafeCell::new(MaybeUninit::zeroed())))?;
        let signal = Signal::try_new(passive)?;
        // SAFETY: an open key and an open event; the block stays where it is until the event is set, which `close` sees
        // to; PASSIVE_LEVEL by the token.
        let status = Status(unsafe {
            nt::ZwNotifyChangeKey(
                key.handle,
                signal.handle(),
                None,
                core::ptr::null_mut(),
                block.0.get().cast(),
                nt::REG_NOTIFY_CHANGE_NAME | nt::REG_NOTIFY_CHANGE_LAST_SET,
                if tree { nt::TRUE } else { nt::FALSE },
                core::ptr::null_mut(),
                0,
                nt::TRUE,
            )
        });
        if !status.nt_success() {
            // A request that is refused is not there.
            signal.close(passive);
            return Err(status);
        }
        let key = ManuallyDrop::new(key).handle;
        Ok(Self { key, signal, block })
    }

    /// What is set when something has changed.
    pub const fn awaited(&self) -> Awaited<'_> {
        self.signal.awaited()
    }

    /// Ends it. Page "RegNotifyChangeKeyValue": closing the key sets the event; until then the request may write.
    ///
    /// # Errors
    /// `STATUS_PENDING`: the request is not over all the same, so that what it may write to is left to it for good.
    pub fn close(self, passive: &Passive) -> Result {
        let Self { key, signal, block } = self;
        // SAFETY: the handle is ours, and closed once; the token says PASSIVE_LEVEL.
        _ = unsafe { nt::ZwClose(key) };
        if signal.wait(passive, CLEANUP) == Waited::TimedOut {
            let _left = block.into_raw();
            return Err(Status::PENDING);
        }
        signal.close(passive);
        Ok(())
    }
}

impl core::fmt::Debug for Watch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Watch").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Value {
    fn parse(information: PoolSlice<u8>) -> Result<Self> {
        let kind = word(&information, TYPE).ok_or(Status::UNSUCCESSFUL)?;
        let len = word(&information, DATA_LENGTH).ok_or(Status::UNSUCCESSFUL)?;
        let len = usize::try_from(len).map_err(|_| Status::UNSUCCESSFUL)?;
        if len > information.len().saturating_sub(PARTIAL_HEADER) {
            return Err(Status::UNSUCCESSFUL);
        }
        Ok(Self { kind, len, information })
    }

    /// The block that holds the data, where in it they start, and how many they are.
    pub fn into_parts(self) -> (PoolSlice<u8>, usize, usize) {
        (self.information, PARTIAL_HEADER, self.len)
    }

    /// REG_SZ, REG_DWORD, …
    pub const fn kind(&self) -> u32 {
        self.kind
    }

    /// The data. It starts at an address aligned to 4.
    pub fn bytes(&self) -> &[u8] {
        self.information.get(PARTIAL_HEADER..).and_then(|data| data.get(..self.len)).unwrap_or_default()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}
