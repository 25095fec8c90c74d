//! Files, as far as the driver keeps something on disk. PASSIVE_LEVEL only, which every handle borrows the proof of; the
//! calling thread is one of the system's, as DriverEntry's and every system thread is (page "Using Files in a Driver").
//!
//! Handles are the kernel's own (OBJ_KERNEL_HANDLE), and for synchronous use: each call returns when it is done. What
//! has been written is safe from a loss of power only once [`File::flush`] has returned.
//!
//! ```compile_fail,E0502
//! use weir::kernel::{file::Directory, irql::Passive};
//! fn raises_with_a_directory_open(passive: &mut Passive, path: &[u16]) {
//!     let directory = Directory::open(passive, path);
//!     let raised = passive.raise();
//!     drop(directory); // would be ZwClose at DISPATCH_LEVEL
//!     drop(raised);
//! }
//! ```

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

use super::device::DriverObject;
use super::irql::Passive;
use super::status::{Result, Status};
use super::string::{self, UnicodeStr};
use crate::sys::nt;

/// The most that is read or written at once, in bytes.
const PIECE: usize = 1 << 20;

/// The directory for the driver's data on a system that keeps none.
static FALLBACK: [u16; 44] = string::from_ascii(br"\SystemRoot\System32\drivers\DriverData\weir");

/// An open handle. Closed when dropped.
#[derive(Debug)]
struct Handle<'p> {
    raw: nt::HANDLE,
    // Closing needs PASSIVE_LEVEL, so the level cannot be raised while a handle is open.
    passive: PhantomData<&'p Passive>,
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and closed once; PASSIVE_LEVEL by the token that it borrows.
        _ = unsafe { nt::ZwClose(self.raw) };
    }
}

/// How something is opened.
struct Opening {
    access: u32,
    share: u32,
    disposition: u32,
    options: u32,
}

/// ZwCreateFile.
///
/// # Safety
/// `root` is NULL, or an open handle of a directory.
unsafe fn open<'p>(
    _passive: &'p Passive,
    root: nt::HANDLE,
    name: &[u16],
    opening: &Opening,
) -> Result<Handle<'p>> {
    let name = UnicodeStr::new(name)?;
    let mut attributes = nt::OBJECT_ATTRIBUTES {
        Length: nt::OBJECT_ATTRIBUTES_SIZE,
        RootDirectory: root,
        ObjectName: name.as_raw(),
        Attributes: nt::OBJ_KERNEL_HANDLE | nt::OBJ_CASE_INSENSITIVE,
        // Who may do what with it is inherited.
        SecurityDescriptor: null_mut(),
        SecurityQualityOfService: null_mut(),
    };
    let mut raw = null_mut();
    let mut block = MaybeUninit::<nt::IO_STATUS_BLOCK>::zeroed();
    // SAFETY: everything that is pointed to lives for the call, which is synchronous; the root is the caller's;
    // PASSIVE_LEVEL says the token.
    let status = unsafe {
        nt::ZwCreateFile(
            &raw mut raw,
            opening.access | nt::SYNCHRONIZE,
            &raw mut attributes,
            block.as_mut_ptr(),
            null_mut(),
            nt::FILE_ATTRIBUTE_NORMAL,
            opening.share,
            opening.disposition,
            // Else it would wait for whoever holds an oplock and need not give it up.
            opening.options | nt::FILE_SYNCHRONOUS_IO_NONALERT | nt::FILE_COMPLETE_IF_OPLOCKED,
            null_mut(),
            0,
        )
    };
    if status == nt::STATUS_OPLOCK_BREAK_IN_PROGRESS {
        // There is a handle, but what is done with it waits (page "ZwCreateFile").
        drop(Handle { raw, passive: PhantomData });
    }
    Status(status).exact()?;
    Ok(Handle { raw, passive: PhantomData })
}

/// An open directory.
#[derive(Debug)]
pub struct Directory<'p> {
    handle: Handle<'p>,
}

impl<'p> Directory<'p> {
    /// Opens the directory with an absolute path of the object manager, `\??\C:\…`. It is made if it is not there; the
    /// one above it must be.
    ///
    /// # Errors
    /// `STATUS_OBJECT_PATH_NOT_FOUND` without the one above, or before the volume is there; what else ZwCreateFile
    /// returns.
    pub fn open(passive: &'p Passive, path: &[u16]) -> Result<Self> {
        let opening = Opening {
            access: nt::FILE_TRAVERSE,
            share: nt::FILE_SHARE_READ | nt::FILE_SHARE_WRITE,
            disposition: nt::FILE_OPEN_IF,
            options: nt::FILE_DIRECTORY_FILE,
        };
        // SAFETY: an absolute path needs no root.
        unsafe { open(passive, null_mut(), path, &opening) }.map(|handle| Self { handle })
    }

    /// Opens the directory that the system keeps for the driver's own data (IoGetDriverDirectory).
    ///
    /// # Errors
    /// `STATUS_NOT_SUPPORTED`: this system keeps none. What else IoGetDriverDirectory returns, for one before the
    /// volume is there.
    pub fn of_driver(passive: &'p Passive, driver: DriverObject) -> Result<Self> {
        /// DriverDirectoryData.
        const DATA: i32 = 1;
        static NAME: [u16; 20] = string::from_ascii(b"IoGetDriverDirectory");
        let name = UnicodeStr::new(&NAME)?;
        // SAFETY: PASSIVE_LEVEL says the token; the name is only read.
        let routine = unsafe { nt::MmGetSystemRoutineAddress(name.as_raw()) };
        if routine.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        // SAFETY: the kernel's routine of that name has this type.
        let routine = unsafe { core::mem::transmute::<nt::PVOID, nt::IO_GET_DRIVER_DIRECTORY>(routine) };
        let mut raw = null_mut();
        // SAFETY: the driver's own object; the handle is written to the variable; PASSIVE_LEVEL in a thread of the
        // system's says the token.
        let status = unsafe { routine(driver.as_raw(), DATA, 0, &raw mut raw) };
        Status(status).exact()?;
        let _: &Passive = passive;
        Ok(Self { handle: Handle { raw, passive: PhantomData } })
    }

    /// As [`Directory::of_driver`]; where the system keeps none, one of the same kind, which is made if it is not there.
    ///
    /// # Errors
    /// As [`Directory::of_driver`], and [`Directory::open`].
    pub fn of_data(passive: &'p Passive, driver: Option<DriverObject>) -> Result<Self> {
        match driver.map(|driver| Self::of_driver(passive, driver)) {
            None | Some(Err(Status::NOT_SUPPORTED)) => Self::open(passive, &FALLBACK),
            Some(opened) => opened,
        }
    }

    /// Opens a file in it, for reading.
    ///
    /// # Errors
    /// `STATUS_OBJECT_NAME_NOT_FOUND`, and what else ZwCreateFile returns.
    pub fn open_file(&self, passive: &'p Passive, name: &[u16]) -> Result<File<'p>> {
        self.file(
            passive,
            name,
            &Opening {
                access: nt::FILE_GENERIC_READ,
                share: nt::FILE_SHARE_READ,
                disposition: nt::FILE_OPEN,
                options: nt::FILE_NON_DIRECTORY_FILE,
            },
        )
    }

    /// Opens a file in it, for writing, empty: a new one, or the one that is there, with nothing left of what it had.
    ///
    /// # Errors
    /// What ZwCreateFile returns.
    pub fn replace_file(&self, passive: &'p Passive, name: &[u16]) -> Result<File<'p>> {
        self.file(
            passive,
            name,
            &Opening {
                access: nt::FILE_GENERIC_WRITE,
                // Whoever only looks, as a backup does, is in nobody's way.
                share: nt::FILE_SHARE_READ,
                disposition: nt::FILE_OVERWRITE_IF,
                options: nt::FILE_NON_DIRECTORY_FILE | nt::FILE_WRITE_THROUGH,
            },
        )
    }

    /// Opens a file in it, for writing, with what is in it; a new one is empty.
    ///
    /// # Errors
    /// What ZwCreateFile returns.
    pub fn open_or_make_file(&self, passive: &'p Passive, name: &[u16]) -> Result<File<'p>> {
        self.file(
            passive,
            name,
            &Opening {
                access: nt::FILE_GENERIC_WRITE,
                share: nt::FILE_SHARE_READ,
                disposition: nt::FILE_OPEN_IF,
                options: nt::FILE_NON_DIRECTORY_FILE | nt::FILE_WRITE_THROUGH,
            },
        )
    }

    /// Opens a file that is there, for writing, with what is in it. As long as it is open nobody else can open it to read,
    /// write or delete it (page "ZwCreateFile": no flag of ShareAccess).
    ///
    /// # Errors
    /// `STATUS_SHARING_VIOLATION`: somebody has it open. What else ZwCreateFile returns.
    pub fn hold_file(&self, passive: &'p Passive, name: &[u16]) -> Result<File<'p>> {
        self.file(
            passive,
            name,
            &Opening {
                access: nt::FILE_GENERIC_WRITE,
                share: 0,
                disposition: nt::FILE_OPEN,
                options: nt::FILE_NON_DIRECTORY_FILE | nt::FILE_WRITE_THROUGH,
            },
        )
    }

    fn file(&self, passive: &'p Passive, name: &[u16], opening: &Opening) -> Result<File<'p>> {
        // SAFETY: the root is an open directory.
        unsafe { open(passive, self.handle.raw, name, opening) }.map(|handle| File { handle })
    }
}

/// An open file.
#[derive(Debug)]
pub struct File<'p> {
    handle: Handle<'p>,
}

impl File<'_> {
    /// Its size, in bytes.
    ///
    /// # Errors
    /// What ZwQueryInformationFile returns.
    pub fn size(&self) -> Result<u64> {
        let mut information = MaybeUninit::<nt::FILE_STANDARD_INFORMATION>::zeroed();
        let mut block = MaybeUninit::<nt::IO_STATUS_BLOCK>::zeroed();
        let length = u32::try_from(size_of::<nt::FILE_STANDARD_INFORMATION>());
        // SAFETY: an open file; the structure of this class has this length; PASSIVE_LEVEL by the token that the handle
        // borrows.
        let status = unsafe {
            nt::ZwQueryInformationFile(
                self.handle.raw,
                block.as_mut_ptr(),
                information.as_mut_ptr().cast(),
                length.map_err(|_| Status::INVALID_PARAMETER)?,
                nt::FileStandardInformation,
            )
        };
        Status(status).exact()?;
        // SAFETY: zeroed, and written by the call; any bits are such a structure.
        let information = unsafe { information.assume_init_ref() };
        u64::try_from(nt::large_integer_value(&information.EndOfFile)).map_err(|_| Status::UNSUCCESSFUL)
    }

    /// Reads from `offset` on, as much as there is, and returns how much that was.
    ///
    /// # Errors
    /// What ZwReadFile returns but for the end of the file.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut done = 0_usize;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let piece = rest.get_mut(..PIECE.min(rest.len())).unwrap_or_default();
            let length = u32::try_from(piece.len()).map_err(|_| Status::INVALID_PARAMETER)?;
            let mut at = place(offset, done)?;
            let mut block = MaybeUninit::<nt::IO_STATUS_BLOCK>::zeroed();
            // SAFETY: an open file, for reading; a buffer of `length` bytes; the call is synchronous; PASSIVE_LEVEL by
            // the token that the handle borrows.
            let status = unsafe {
                nt::ZwReadFile(
                    self.handle.raw,
                    null_mut(),
                    None,
                    null_mut(),
                    block.as_mut_ptr(),
                    piece.as_mut_ptr().cast(),
                    length,
                    &raw mut at,
                    null_mut(),
                )
            };
            match Status(status) {
                Status::SUCCESS => {}
                Status::END_OF_FILE => break,
                other => return Err(other),
            }
            // SAFETY: zeroed, and written by the call.
            let read = nt::io_information(unsafe { block.assume_init_ref() }).min(piece.len());
            if read == 0 {
                break;
            }
            done = done.saturating_add(read);
        }
        Ok(done)
    }

    /// Writes all of it, from `offset` on.
    ///
    /// # Errors
    /// What ZwWriteFile returns; `STATUS_UNSUCCESSFUL` if it wrote less. A part may have been written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let length = u32::try_from(piece.len()).map_err(|_| Status::INVALID_PARAMETER)?;
            let mut at = place(offset, index.saturating_mul(PIECE))?;
            let mut block = MaybeUninit::<nt::IO_STATUS_BLOCK>::zeroed();
            // SAFETY: an open file, for writing; a buffer of `length` bytes, which is only read; the call is
            // synchronous; PASSIVE_LEVEL by the token that the handle borrows.
            let status = unsafe {
                nt::ZwWriteFile(
                    self.handle.raw,
                    null_mut(),
                    None,
                    null_mut(),
                    block.as_mut_ptr(),
                    piece.as_ptr().cast_mut().cast(),
                    length,
                    &raw mut at,
                    null_mut(),
                )
            };
            Status(status).exact()?;
            // SAFETY: zeroed, and written by the call.
            if nt::io_information(unsafe { block.assume_init_ref() }) != piece.len() {
                return Err(Status::UNSUCCESSFUL);
            }
        }
        Ok(())
    }

    /// Waits until what was written is where a loss of power cannot take it (ZwFlushBuffersFile).
    ///
    /// # Errors
    /// What ZwFlushBuffersFile returns.
    pub fn flush(&self) -> Result {
        let mut block = MaybeUninit::<nt::IO_STATUS_BLOCK>::zeroed();
        // SAFETY: an open file, for writing; the call is synchronous; PASSIVE_LEVEL by the token that the handle
        // borrows.
        Status(unsafe { nt::ZwFlushBuffersFile(self.handle.raw, block.as_mut_ptr()) }).exact()
    }
}

/// The place `done` bytes behind `offset`.
fn place(offset: u64, done: usize) -> Result<nt::LARGE_INTEGER> {
    let done = u64::try_from(done).map_err(|_| Status::INVALID_PARAMETER)?;
    let place = offset.checked_add(done).and_then(|place| i64::try_from(place).ok());
    place.map(nt::large_integer).ok_or(Status::INVALID_PARAMETER)
}
