//! I/O request packets of our own, reusable, for WSK calls.
//!
//! "Using IRPs with Winsock Kernel Functions": the IRP is completed whatever the call returns, an error at once
//! included, perhaps before the call returns; only a misused call leaves it alone. From that:
//!
//! - An [`Irp`] owns what the request refers to (buffers, addresses), so that none of it can be freed while the
//!   request is out.
//! - [`Irp::call`] waits, at PASSIVE_LEVEL, and always with a bound: a request that is not completed is cancelled;
//!   one that is not completed even then, or that the callee never touched, is *parked*, with all that it owns. It
//!   frees itself if it completes after all; [`reclaim_parked`] frees the rest at the end.
//! - [`Irp::start`] does not wait, and is for any level up to DISPATCH_LEVEL: the IRP belongs to the request until
//!   the handler gets it back, from the completion routine. Nothing of it is touched after the call.

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use super::event::{EventCell, Kind, Waited};
use super::irql::{AtMostDispatch, Passive};
use super::lock::SpinLock;
use super::pool::{PoolBox, tags};
use super::status::{Result, Status};
use super::time::Interval;
use crate::sys::nt;

/// An IRP with what its requests refer to, not in use.
pub struct Irp<B: Send + 'static> {
    block: PoolBox<Block<B>>,
}

/// How a request was completed: `IoStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    pub status: Status,
    /// What the request counts, mostly bytes; some requests return a pointer.
    pub information: usize,
}

/// How [`Irp::call`] ended.
#[must_use]
pub enum Called<B: Send + 'static> {
    /// The request was completed: with success, with an error, or because it was cancelled.
    Completed(Irp<B>, Completion),
    /// The call returned this status and did not complete the IRP within its bounds. `STATUS_PENDING`: the request
    /// hangs. Anything else: the callee never touched the IRP. The IRP is parked.
    NeverCompleted(Status),
}

/// How long [`Irp::call`] waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// For a request that was returned as pending, before it is cancelled.
    pub pending: Interval,
    /// For the completion of a request that was cancelled, or whose call returned anything but pending.
    pub settle: Interval,
}

/// Gets back the IRP of a request that was started. It may run before [`Irp::start`] returns, on any thread, at any
/// level up to DISPATCH_LEVEL: it must not wait, nor start further requests of the same provider.
pub type Handler<B> = fn(Irp<B>, Completion, &mut AtMostDispatch);

/// The part that does not depend on what the request refers to. First in [`Block`].
#[repr(C)]
struct Header {
    irp: nt::PIRP,
    /// [`ISSUED`], then one of the others.
    state: AtomicU32,
    done: EventCell,
    /// Written by the completion routine before `done` is set, read after.
    completion: UnsafeCell<Completion>,
    /// Frees the whole block.
    free: unsafe fn(NonNull<Header>),
    /// Neighbours in the list of parked requests, under its lock.
    links: UnsafeCell<Links>,
}

/// An IRP and all that belongs to it. Frees the IRP when dropped.
#[repr(C)]
struct Block<B: Send + 'static> {
    header: Header,
    handler: Option<Handler<B>>,
    buffers: B,
}

#[derive(Clone, Copy)]
struct Links {
    previous: Option<NonNull<Header>>,
    next: Option<NonNull<Header>>,
}

/// The request is out, and its caller waits for it.
const ISSUED: u32 = 0;
/// The completion routine has been called.
const COMPLETED: u32 = 1;
/// The caller has given up: the completion routine owns the block.
const PARKED: u32 = 2;
/// [`reclaim_parked`] owns the block.
const RECLAIMED: u32 = 3;

/// The parked requests' list.
struct Parked {
    first: Option<NonNull<Header>>,
}

// SAFETY: what the list points to is only reached under the list's lock.
unsafe impl Send for Parked {}

static PARKED_IRPS: SpinLock<Parked> = SpinLock::new("parked IRPs", Parked { first: None });

// SAFETY: a request's completion routine runs on any thread anyway, and the buffers are `Send`.
unsafe impl<B: Send> Send for Irp<B> {}

impl<B: Send + 'static> Irp<B> {
    /// An IRP with `stack_size` stack locations, at least one (IoAllocateIrp).
    ///
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` without a stack location; `STATUS_INSUFFICIENT_RESOURCES`. The buffers are dropped.
    pub fn try_new(stack_size: i8, buffers: B) -> Result<Self> {
        if stack_size < 1 {
            return Err(Status::INVALID_PARAMETER);
        }
        // SAFETY: callable up to DISPATCH_LEVEL; no quota is charged.
        let irp = NonNull::new(unsafe { nt::IoAllocateIrp(stack_size, nt::FALSE) })
            .ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let header = Header {
            irp: irp.as_ptr(),
            state: AtomicU32::new(ISSUED),
            // SAFETY: initialised below, where it stays.
            done: unsafe { EventCell::uninitialised() },
            completion: UnsafeCell::new(Completion { status: Status::PENDING, information: 0 }),
            free: free::<B>,
            links: UnsafeCell::new(Links { previous: None, next: None }),
        };
        let block = PoolBox::try_new(tags::IRP, Block { header, handler: None, buffers })?;
        // SAFETY: in the pool, where it stays, and not initialised yet.
        unsafe { block.header.done.init(Kind::Notification) };
        Ok(Self { block })
    }

    /// What the next request refers to.
    pub fn buffers(&self) -> &B {
        &self.block.buffers
    }

    /// What the next request refers to.
    pub fn buffers_mut(&mut self) -> &mut B {
        &mut self.block.buffers
    }

    /// Makes a request and waits for its completion.
    ///
    /// `issue` passes the IRP to the function that completes it, with the buffers that are the IRP's own, and
    /// returns that function's status.
    pub fn call(
        mut self,
        passive: &Passive,
        bounds: Bounds,
        issue: impl FnOnce(nt::PIRP, &mut B) -> Status,
    ) -> Called<B> {
        self.block.handler = None;
        self.prepare(Some(on_awaited));
        let block = self.block.into_raw();
        // SAFETY: the block lives until it is parked below, or given back; its header is shared with the completion
        // routine from here on.
        let header = unsafe { block.cast::<Header>().as_ref() };
        // SAFETY: as above; neither the completion routine nor anybody else touches the buffers while `issue` runs,
        // but the callee, through what it is given.
        let buffers = unsafe { &mut (*block.as_ptr()).buffers };
        let returned = issue(header.irp, buffers);
        let mut waited = if returned == Status::PENDING {
            header.done.wait(passive, Some(bounds.pending))
        } else {
            header.done.wait(passive, Some(bounds.settle))
        };
        if waited == Waited::TimedOut && returned == Status::PENDING {
            // SAFETY: the IRP is not freed before we or the completion routine do it.
            unsafe { nt::IoCancelIrp(header.irp) };
            waited = header.done.wait(passive, Some(bounds.settle));
        }
        if waited == Waited::TimedOut {
            if park(header) {
                return Called::NeverCompleted(returned);
            }
            // The completion routine is about to set the event.
            let _set = header.done.wait(passive, None);
        }
        // SAFETY: written before the event was set.
        let completion = unsafe { *header.completion.get() };
        // SAFETY: given up above; the completion routine is done with it.
        let block = unsafe { PoolBox::from_raw(tags::IRP, block) };
        Called::Completed(Self { block }, completion)
    }

    /// Makes a request and does not wait: `handler` gets the IRP back with the completion.
    ///
    /// `arguments` takes from the buffers what `issue` passes on with the IRP (pointers to them, mostly): once the
    /// request is out, the buffers can be back with the handler, or gone, before `issue` returns.
    ///
    /// Returns what `issue` returned, for the record: the request's outcome is the handler's to know. A call that is
    /// misused so that it never completes its IRP leaks it.
    pub fn start<A>(
        mut self,
        handler: Handler<B>,
        arguments: impl FnOnce(&mut B) -> A,
        issue: impl FnOnce(nt::PIRP, A) -> Status,
    ) -> Status {
        self.block.handler = Some(handler);
        self.prepare(Some(on_started::<B>));
        let irp = self.block.header.irp;
        let arguments = arguments(&mut self.block.buffers);
        // Owned by the completion routine from here on.
        let _given_up = self.block.into_raw();
        issue(irp, arguments)
    }

    /// Readies the IRP for its next request.
    fn prepare(&mut self, routine: nt::PIO_COMPLETION_ROUTINE) {
        let context = self.block.as_ptr();
        let header = &self.block.header;
        header.state.store(ISSUED, Ordering::Relaxed);
        header.done.clear();
        // SAFETY: allocated by IoAllocateIrp, and not in use.
        unsafe { nt::IoReuseIrp(header.irp, nt::STATUS_UNSUCCESSFUL) };
        // SAFETY: the IRP has a stack location; the context outlives the request.
        unsafe {
            nt::IoSetCompletionRoutine(header.irp, routine, context.cast(), nt::TRUE, nt::TRUE, nt::TRUE);
        }
    }
}

impl<B: Send + 'static> Drop for Block<B> {
    fn drop(&mut self) {
        // SAFETY: allocated by IoAllocateIrp, not in use, and freed once.
        unsafe { nt::IoFreeIrp(self.header.irp) };
    }
}

impl<B: Send + fmt::Debug> fmt::Debug for Irp<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Irp").field("buffers", &self.block.buffers).finish_non_exhaustive()
    }
}

/// # Safety
/// `header` is that of a `Block<B>` that the caller owns.
unsafe fn free<B: Send + 'static>(header: NonNull<Header>) {
    // SAFETY: the caller's promise; blocks are made with this tag.
    drop(unsafe { PoolBox::<Block<B>>::from_raw(tags::IRP, header.cast()) });
}

/// Gives a request up. `false` if it has been completed meanwhile.
fn park(header: &Header) -> bool {
    // SAFETY: called by `Irp::call`, which runs at PASSIVE_LEVEL; used for this lock only.
    let mut irql = unsafe { AtMostDispatch::assume() };
    let mut parked = PARKED_IRPS.lock(&mut irql);
    // Under the lock, so that a completion routine that finds PARKED also finds the links.
    if header.state.compare_exchange(ISSUED, PARKED, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return false;
    }
    parked.push(NonNull::from(header));
    true
}

impl Parked {
    fn push(&mut self, header: NonNull<Header>) {
        // SAFETY: the lock is held.
        unsafe { set_links(header, Links { previous: None, next: self.first }) };
        if let Some(first) = self.first {
            // SAFETY: the lock is held.
            let links = unsafe { links(first) };
            // SAFETY: the lock is held.
            unsafe { set_links(first, Links { previous: Some(header), ..links }) };
        }
        self.first = Some(header);
    }

    fn remove(&mut self, header: NonNull<Header>) {
        // SAFETY: the lock is held.
        let Links { previous, next } = unsafe { links(header) };
        match previous {
            Some(previous) => {
                // SAFETY: the lock is held.
                let links = unsafe { links(previous) };
                // SAFETY: the lock is held.
                unsafe { set_links(previous, Links { next, ..links }) };
            }
            None => self.first = next,
        }
        if let Some(next) = next {
            // SAFETY: the lock is held.
            let links = unsafe { links(next) };
            // SAFETY: the lock is held.
            unsafe { set_links(next, Links { previous, ..links }) };
        }
    }
}

/// # Safety
/// The list's lock is held, and `header` alive.
unsafe fn links(header: NonNull<Header>) -> Links {
    // SAFETY: alive, says the caller.
    let header = unsafe { header.as_ref() };
    // SAFETY: links are only touched under the lock.
    unsafe { *header.links.get() }
}

/// # Safety
/// The list's lock is held, and `header` alive.
unsafe fn set_links(header: NonNull<Header>, links: Links) {
    // SAFETY: alive, says the caller.
    let header = unsafe { header.as_ref() };
    // SAFETY: links are only touched under the lock.
    unsafe { *header.links.get() = links };
}

/// Frees the parked requests that never completed, and says how many there were.
///
/// # Safety
/// No function that was given one of the IRPs can complete it any more: all sockets are closed and the provider is
/// deregistered.
pub unsafe fn reclaim_parked(passive: &mut Passive) -> u32 {
    // A completion routine that has told its waiter has a few instructions left. Where it runs in a DPC, as completions
    // from the network do, this waits for it.
    // SAFETY: the token says PASSIVE_LEVEL.
    unsafe { nt::KeFlushQueuedDpcs() };
    let mut count: u32 = 0;
    loop {
        let mut parked = PARKED_IRPS.lock(passive);
        let Some(header) = parked.first else { return count };
        parked.remove(header);
        // SAFETY: in the list, hence alive.
        unsafe { header.as_ref() }.state.store(RECLAIMED, Ordering::Relaxed);
        drop(parked);
        // SAFETY: alive, a plain field.
        let free = unsafe { header.as_ref() }.free;
        // SAFETY: out of the list, and its completion routine will not run.
        unsafe { free(header) };
        count = count.saturating_add(1);
    }
}

/// Reads how the request ended.
///
/// # Safety
/// `irp` is valid and being completed.
unsafe fn completion(irp: nt::PIRP) -> Completion {
    // SAFETY: the completion routine's own IRP.
    let (status, information) = unsafe { nt::io_status(irp) };
    Completion { status: Status(status), information }
}

/// The completion routine of [`Irp::call`].
unsafe extern "C" fn on_awaited(
    _device: *mut nt::DEVICE_OBJECT,
    irp: nt::PIRP,
    context: nt::PVOID,
) -> nt::NTSTATUS {
    if let Some(pointer) = NonNull::new(context.cast::<Header>()) {
        // SAFETY: the context is the block, which the waiter or the list of parked requests keeps until it sees
        // that the request is completed.
        let header = unsafe { pointer.as_ref() };
        // SAFETY: this IRP is being completed.
        let completion = unsafe { completion(irp) };
        // SAFETY: read only after the event is set.
        unsafe { *header.completion.get() = completion };
        if header.state.swap(COMPLETED, Ordering::AcqRel) == PARKED {
            // SAFETY: completion routines run at or below DISPATCH_LEVEL.
            let mut irql = unsafe { AtMostDispatch::assume() };
            PARKED_IRPS.lock(&mut irql).remove(pointer);
            let free = header.free;
            // SAFETY: out of the list; whoever waited has given it up.
            unsafe { free(pointer) };
        } else {
            header.done.set();
        }
    }
    nt::STATUS_MORE_PROCESSING_REQUIRED
}

/// The completion routine of [`Irp::start`].
unsafe extern "C" fn on_started<B: Send + 'static>(
    _device: *mut nt::DEVICE_OBJECT,
    irp: nt::PIRP,
    context: nt::PVOID,
) -> nt::NTSTATUS {
    if let Some(block) = NonNull::new(context.cast::<Block<B>>()) {
        // SAFETY: this IRP is being completed.
        let completion = unsafe { completion(irp) };
        // SAFETY: `Irp::start` gave the block up to this routine.
        let mut irp = Irp { block: unsafe { PoolBox::from_raw(tags::IRP, block) } };
        // SAFETY: completion routines run at or below DISPATCH_LEVEL; lent to the handler only.
        let mut irql = unsafe { AtMostDispatch::assume() };
        if let Some(handler) = irp.block.handler.take() {
            handler(irp, completion, &mut irql);
        }
    }
    nt::STATUS_MORE_PROCESSING_REQUIRED
}
