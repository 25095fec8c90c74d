//! Locks over slim reader/writer locks, spelled as the standard library spells its own, but without poison: a panic
//! ends the process.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::time::Duration;

use alloc::boxed::Box;
use windows_sys::Win32::System::Threading::{
    AcquireSRWLockExclusive, CONDITION_VARIABLE, INFINITE, ReleaseSRWLockExclusive, SRWLOCK,
    SleepConditionVariableSRW, WakeAllConditionVariable, WakeConditionVariable,
};

/// A lock for one owner at a time. Not recursive.
pub struct Mutex<T: ?Sized> {
    lock: UnsafeCell<SRWLOCK>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        // SRWLOCK_INIT is a null pointer.
        Self { lock: UnsafeCell::new(SRWLOCK { Ptr: null_mut() }), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: the lock was initialised when it was made and does not move while it is borrowed.
        unsafe { AcquireSRWLockExclusive(self.lock.get()) };
        MutexGuard { mutex: self, _this_thread: PhantomData }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Ownership of a [`Mutex`].
#[must_use]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    _this_thread: PhantomData<*const ()>,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard owns the lock.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard owns the lock, and is borrowed for itself alone.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the guard owns the lock.
        unsafe { ReleaseSRWLockExclusive(self.mutex.lock.get()) };
    }
}

/// A condition that threads wait for under a [`Mutex`].
pub struct Condvar(UnsafeCell<CONDITION_VARIABLE>);

// SAFETY: the system's condition variables are for any number of threads.
unsafe impl Send for Condvar {}
// SAFETY: as above.
unsafe impl Sync for Condvar {}

impl Condvar {
    pub const fn new() -> Self {
        // CONDITION_VARIABLE_INIT is a null pointer.
        Self(UnsafeCell::new(CONDITION_VARIABLE { Ptr: null_mut() }))
    }

    /// Waits to be notified; may wake for nothing.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.sleep(&guard, INFINITE);
        guard
    }

    /// Waits to be notified, or for the time; may wake for nothing.
    pub fn wait_timeout<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>, time: Duration) -> MutexGuard<'a, T> {
        // A millisecond more, so that a wait is not shorter than asked for.
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(INFINITE).min(INFINITE - 2) + 1;
        self.sleep(&guard, milliseconds);
        guard
    }

    fn sleep<T: ?Sized>(&self, guard: &MutexGuard<'_, T>, milliseconds: u32) {
        // SAFETY: the condition was initialised when it was made; the guard owns the lock, exclusively.
        unsafe { SleepConditionVariableSRW(self.0.get(), guard.mutex.lock.get(), milliseconds, 0) };
    }

    pub fn notify_one(&self) {
        // SAFETY: the condition was initialised when it was made.
        unsafe { WakeConditionVariable(self.0.get()) };
    }

    pub fn notify_all(&self) {
        // SAFETY: the condition was initialised when it was made.
        unsafe { WakeAllConditionVariable(self.0.get()) };
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

/// A value that is made when it is first used, and stays.
pub struct Lazy<T> {
    value: AtomicPtr<T>,
    making: Mutex<()>,
    make: fn() -> T,
}

impl<T> Lazy<T> {
    pub const fn new(make: fn() -> T) -> Self {
        Self { value: AtomicPtr::new(null_mut()), making: Mutex::new(()), make }
    }
}

// Statics are all it is for: the value is never dropped.
impl<T: Send + Sync> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let mut value = self.value.load(Ordering::Acquire);
        if value.is_null() {
            let _making = self.making.lock();
            value = self.value.load(Ordering::Acquire);
            if value.is_null() {
                value = Box::into_raw(Box::new((self.make)()));
                self.value.store(value, Ordering::Release);
            }
        }
        // SAFETY: it was made by `Box::into_raw` and is never freed.
        unsafe { &*value }
    }
}
