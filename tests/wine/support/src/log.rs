//! The log: one line for each message, in `<stand-in>.log` of the folder [`crate::env::FOLDER`] and on standard error.
//!
//! A line is `<milliseconds since the process's clock began> <stand-in> <thread id> <message>`. What tells of a fault
//! begins with `CRASH:` (the process ends) or `VIOLATION:` (the driver broke a rule of the kernel).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void};
use core::fmt::Arguments;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use windows_sys::Win32::Foundation::{GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_ALWAYS, CreateFileW, FILE_APPEND_DATA, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, OPEN_ALWAYS, WriteFile,
};
use windows_sys::Win32::System::Threading::GetCurrentThreadId;

use crate::sync::Mutex;
use crate::{env, time};

#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    /// Wine's own: writes to the standard error of Linux, which a driver's process has no handle for.
    fn __wine_dbg_output(text: *const c_char) -> c_int;
}

/// Writes a message to the log.
#[macro_export]
macro_rules! log {
    ($($part:tt)*) => { $crate::log::write(format_args!($($part)*)) };
}

/// A file that only grows. Each write is one piece, also when others append to the same file.
pub struct Appender {
    handle: AtomicPtr<c_void>,
    /// Wine looks for the end of the file and writes in two steps.
    one_at_a_time: Mutex<()>,
}

impl Appender {
    /// Not open: writes nothing.
    pub const fn closed() -> Self {
        Self { handle: AtomicPtr::new(null_mut()), one_at_a_time: Mutex::new(()) }
    }

    /// Opens a file by its Windows path, for good. An earlier one stays open and is written to no more.
    pub fn open(&self, path: &str) -> bool {
        let handle = open(path, FILE_APPEND_DATA, OPEN_ALWAYS);
        if handle != INVALID_HANDLE_VALUE {
            self.handle.store(handle, Ordering::Release);
        }
        handle != INVALID_HANDLE_VALUE
    }

    /// Appends a text. What cannot be written is lost.
    pub fn write(&self, text: &str) {
        self.write_bytes(text.as_bytes());
    }

    /// Appends bytes. What cannot be written is lost.
    pub fn write_bytes(&self, bytes: &[u8]) {
        let handle = self.handle.load(Ordering::Acquire);
        if !handle.is_null() {
            let _one = self.one_at_a_time.lock();
            write_to(handle, bytes);
        }
    }
}

fn open(path: &str, access: u32, disposition: u32) -> HANDLE {
    let path = env::wide(path);
    // SAFETY: the path ends with a zero; the rest are values.
    unsafe {
        CreateFileW(
            path.as_ptr(),
            access,
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            null(),
            disposition,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        )
    }
}

fn write_to(handle: HANDLE, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut written = 0;
    // SAFETY: there are that many bytes; the handle is a file or a pipe, or refused.
    unsafe { WriteFile(handle, bytes.as_ptr(), length, &raw mut written, null_mut()) };
}

/// Writes a whole small file anew, by its Windows path.
pub fn write_file(path: &str, text: &str) -> bool {
    let handle = open(path, GENERIC_WRITE, CREATE_ALWAYS);
    if handle == INVALID_HANDLE_VALUE {
        return false;
    }
    write_to(handle, text.as_bytes());
    // SAFETY: the handle was opened above.
    unsafe { windows_sys::Win32::Foundation::CloseHandle(handle) };
    true
}

static NAME: Mutex<&'static str> = Mutex::new("?");
static FILE: Appender = Appender::closed();

/// Names the stand-in and opens its log. To be called once, first.
pub fn init(name: &'static str) {
    *NAME.lock() = name;
    if let Some(path) = env::file(&(name.to_string() + ".log")) {
        FILE.open(&path);
    }
}

/// The name that [`init`] was given.
pub fn name() -> &'static str {
    *NAME.lock()
}

/// Writes a message. See [`crate::log!`].
pub fn write(message: Arguments<'_>) {
    // SAFETY: no preconditions.
    let thread = unsafe { GetCurrentThreadId() };
    let line: String = alloc::format!("{} {} {thread:x} {message}\n", time::milliseconds(), name());
    FILE.write(&line);
    let line: Vec<u8> = line.into_bytes().into_iter().filter(|byte| *byte != 0).chain([0]).collect();
    // SAFETY: the text ends with a zero.
    unsafe { __wine_dbg_output(line.as_ptr().cast()) };
}
