//! Threads, and a word that each thread has of its own.

use alloc::boxed::Box;
use core::ffi::c_void;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
use windows_sys::Win32::System::Threading::{
    CreateThread, GetCurrentThreadId, INFINITE, Sleep, SwitchToThread, TLS_OUT_OF_INDEXES, TlsAlloc, TlsFree,
    TlsGetValue, TlsSetValue, WaitForSingleObject,
};

type Body = Box<dyn FnOnce() + Send>;

/// A thread that was started. Dropped, it runs on by itself.
pub struct JoinHandle(HANDLE);

// SAFETY: a handle is for the whole process.
unsafe impl Send for JoinHandle {}
// SAFETY: as above.
unsafe impl Sync for JoinHandle {}

impl JoinHandle {
    /// Waits until the thread has ended.
    pub fn join(self) {
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.0, INFINITE) };
    }
}

impl Drop for JoinHandle {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and is not used after this.
        unsafe { CloseHandle(self.0) };
    }
}

unsafe extern "system" fn start(body: *mut c_void) -> u32 {
    // SAFETY: `spawn` made it from a box, for this one call.
    let body = unsafe { Box::from_raw(body.cast::<Body>()) };
    body();
    0
}

/// Starts a thread. In `DllMain` too: the thread begins when the loader is through.
///
/// # Panics
/// When the system has no thread to give.
pub fn spawn(body: impl FnOnce() + Send + 'static) -> JoinHandle {
    let body: Box<Body> = Box::new(Box::new(body));
    let body = Box::into_raw(body);
    // SAFETY: the start routine takes the body over.
    let handle = unsafe { CreateThread(null(), 0, Some(start), body.cast(), 0, null_mut()) };
    assert!(!handle.is_null(), "the system has no thread to give");
    JoinHandle(handle)
}

/// What tells threads apart; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(u32);

/// The calling thread.
pub fn current() -> ThreadId {
    // SAFETY: no preconditions.
    ThreadId(unsafe { GetCurrentThreadId() })
}

/// Lets another thread run.
pub fn yield_now() {
    // SAFETY: no preconditions.
    unsafe { SwitchToThread() };
}

/// Sleeps, to the millisecond; less than one is one.
pub fn sleep(time: Duration) {
    let milliseconds = u32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u32::MAX - 1);
    // SAFETY: no preconditions.
    unsafe { Sleep(milliseconds) };
}

/// A number that each thread has of its own, 0 to begin with.
pub struct ThreadWord(AtomicU32);

impl ThreadWord {
    pub const fn new() -> Self {
        Self(AtomicU32::new(TLS_OUT_OF_INDEXES))
    }

    fn index(&self) -> u32 {
        let index = self.0.load(Ordering::Acquire);
        if index == TLS_OUT_OF_INDEXES { self.allocate() } else { index }
    }

    #[cold]
    fn allocate(&self) -> u32 {
        // SAFETY: no preconditions.
        let index = unsafe { TlsAlloc() };
        assert!(index != TLS_OUT_OF_INDEXES, "the process has no thread local index left");
        match self.0.compare_exchange(TLS_OUT_OF_INDEXES, index, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => index,
            Err(other) => {
                // SAFETY: it was allocated above, and nobody else knows it.
                unsafe { TlsFree(index) };
                other
            }
        }
    }

    pub fn get(&self) -> usize {
        // SAFETY: the index is allocated.
        unsafe { TlsGetValue(self.index()) }.addr()
    }

    pub fn set(&self, value: usize) {
        // SAFETY: the index is allocated.
        unsafe { TlsSetValue(self.index(), core::ptr::without_provenance(value)) };
    }

    pub fn replace(&self, value: usize) -> usize {
        let old = self.get();
        self.set(value);
        old
    }
}

impl Default for ThreadWord {
    fn default() -> Self {
        Self::new()
    }
}

/// A flag that each thread has of its own, `false` to begin with.
#[derive(Default)]
pub struct ThreadFlag(ThreadWord);

impl ThreadFlag {
    pub const fn new() -> Self {
        Self(ThreadWord::new())
    }

    pub fn get(&self) -> bool {
        self.0.get() != 0
    }

    pub fn set(&self, value: bool) {
        self.0.set(value.into());
    }

    pub fn replace(&self, value: bool) -> bool {
        self.0.replace(value.into()) != 0
    }
}
