//! IRPs and buffers, as a driver makes them.

use crate::sys::nt::{
    NTSTATUS, PDEVICE_OBJECT, PIO_STACK_LOCATION, PIRP, PMDL, PVOID, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR,
    SL_INVOKE_ON_SUCCESS, STATUS_MORE_PROCESSING_REQUIRED, STATUS_PENDING,
};
use crate::sys::wsk::WSK_BUF;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::null_mut;
use core::time::Duration;
use wine_support::sync::{Condvar, Mutex};
use wine_support::time::Instant;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn IoAllocateIrp(StackSize: i8, ChargeQuota: u8) -> PIRP;
    fn IoFreeIrp(Irp: PIRP);
    fn IoCancelIrp(Irp: PIRP) -> u8;
    fn IoAllocateMdl(Address: PVOID, Length: u32, Secondary: u8, ChargeQuota: u8, Irp: PIRP) -> PMDL;
    fn IoFreeMdl(Mdl: PMDL);
    fn MmBuildMdlForNonPagedPool(Mdl: PMDL);
}

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// How a request ended: status, and information.
pub type Outcome = (NTSTATUS, usize);

/// Waits, under a lock, until `done` gives something; `None` when that takes too long.
pub fn wait<S, T>(lock: &(Mutex<S>, Condvar), mut done: impl FnMut(&mut S) -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + LIMIT;
    let mut state = lock.0.lock();
    loop {
        if let Some(done) = done(&mut state) {
            return Some(done);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        state = lock.1.wait_timeout(state, left.min(Duration::from_millis(50)));
    }
}

type Done = (Mutex<Option<Outcome>>, Condvar);

/// A request that is out.
pub struct Pending {
    irp: PIRP,
    done: Arc<Done>,
    pub returned: NTSTATUS,
}

/// Makes a request: `issue` passes the IRP on, and returns what the function returned.
pub fn request(issue: impl FnOnce(PIRP) -> NTSTATUS) -> Pending {
    // SAFETY: no preconditions.
    let irp = unsafe { IoAllocateIrp(1, 0) };
    assert!(!irp.is_null(), "no IRP");
    let done: Arc<Done> = Arc::new((Mutex::new(None), Condvar::new()));
    let context = Arc::into_raw(Arc::clone(&done));
    // SAFETY: the IRP is ours.
    let tail = unsafe { (*irp).Tail };
    // SAFETY: the tail is an overlay throughout an IRP's life.
    let current: PIO_STACK_LOCATION = unsafe { tail.Overlay.CurrentStackLocation };
    // SAFETY: it was made with one location, which lies before the current one.
    let next = unsafe { &mut *current.wrapping_sub(1) };
    next.CompletionRoutine = Some(completed);
    next.Context = context.cast_mut().cast();
    next.Control = SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL;
    let returned = issue(irp);
    Pending { irp, done, returned }
}

unsafe extern "C" fn completed(_device: PDEVICE_OBJECT, irp: PIRP, context: PVOID) -> NTSTATUS {
    // SAFETY: given up by `request`, for this one call.
    let done = unsafe { Arc::from_raw(context.cast::<Done>().cast_const()) };
    // SAFETY: this IRP is being completed.
    let block = unsafe { (*irp).IoStatus };
    // SAFETY: a completed IRP holds a status.
    let status = unsafe { block.u.Status };
    *done.0.lock() = Some((status, block.Information));
    done.1.notify_all();
    STATUS_MORE_PROCESSING_REQUIRED
}

impl Pending {
    /// How it ended; `None` if it does not.
    pub fn outcome(&self) -> Option<Outcome> {
        wait(&self.done, |outcome| *outcome)
    }

    /// How it ended, if it has.
    pub fn now(&self) -> Option<Outcome> {
        *self.done.0.lock()
    }

    pub fn cancel(&self) {
        // SAFETY: the IRP is freed only when this value is dropped.
        unsafe { IoCancelIrp(self.irp) };
    }

    /// Waits for the end: the outcome, which must agree with what the function returned.
    pub fn end(self) -> Outcome {
        let outcome = self.outcome().unwrap_or((STATUS_PENDING, usize::MAX));
        assert!(
            self.returned == STATUS_PENDING || self.returned == outcome.0,
            "returned {:#010x}, completed with {:#010x}",
            self.returned,
            outcome.0
        );
        outcome
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // One that is never completed is never freed.
        if self.now().is_some() {
            // SAFETY: completed.
            unsafe { IoFreeIrp(self.irp) };
        }
    }
}

/// Memory over a chain of MDLs.
pub struct Buffer {
    parts: Vec<(Box<[u8]>, PMDL)>,
    pub described: WSK_BUF,
}

impl Buffer {
    /// `length` bytes over MDLs of at most `part` bytes, after `offset` bytes of the first one.
    pub fn new(length: usize, part: usize, offset: usize) -> Self {
        let mut parts: Vec<(Box<[u8]>, PMDL)> = Vec::new();
        let mut left = length + offset;
        while left > 0 || parts.is_empty() {
            let size = left.min(part).max(1);
            let mut memory = alloc::vec![0_u8; size].into_boxed_slice();
            let size32 = u32::try_from(size).unwrap_or(0);
            // SAFETY: memory that lives as long as the MDL.
            let mdl = unsafe { IoAllocateMdl(memory.as_mut_ptr().cast(), size32, 0, 0, null_mut()) };
            assert!(!mdl.is_null(), "no MDL");
            // SAFETY: allocated just now, over memory that stays.
            unsafe { MmBuildMdlForNonPagedPool(mdl) };
            if let Some((_, last)) = parts.last() {
                // SAFETY: the MDL before it, which is ours.
                unsafe { (**last).Next = mdl };
            }
            parts.push((memory, mdl));
            left -= size.min(left);
        }
        let first = parts.first().map_or(null_mut(), |(_, mdl)| *mdl);
        let offset = u32::try_from(offset).unwrap_or(0);
        Self { parts, described: WSK_BUF { Mdl: first, Offset: offset, Length: length } }
    }

    /// Fills it with `data`.
    pub fn of(data: &[u8], part: usize, offset: usize) -> Self {
        let mut buffer = Self::new(data.len(), part, offset);
        let mut bytes = data.iter();
        let places = buffer.parts.iter_mut().flat_map(|(memory, _)| memory.iter_mut()).skip(offset);
        for (place, byte) in places.zip(&mut bytes) {
            *place = *byte;
        }
        buffer
    }

    /// The first `length` bytes of it.
    pub fn read(&self, length: usize) -> Vec<u8> {
        let bytes = self.parts.iter().flat_map(|(memory, _)| memory.iter().copied());
        bytes.skip(self.described.Offset as usize).take(length).collect()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for (_, mdl) in &self.parts {
            // SAFETY: allocated by IoAllocateMdl, and no request refers to it any more.
            unsafe { IoFreeMdl(*mdl) };
        }
    }
}
