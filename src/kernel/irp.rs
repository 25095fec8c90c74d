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
//!   the handler gets it back, from the completion routine. Nothing of it is touched after the call. Requests that are
//!   out are listed, so that [`reclaim_parked`] also finds those that are never completed.
//!
//! **No completion routine outlives the driver.** That every request is completed before WskDeregister returns does not
//! say that its routine has returned as well. IoSetCompletionRoutineEx is made for drivers outside Plug and Play: it
//! keeps the image until the routine has returned, by a reference to the device object. While the driver has a device
//! ([`guard`]), every routine is set with it. What that costs, as its page has it:
//!
//! - It allocates, and can fail. So a request can fail to be *made*, and comes back then. Where that must not happen, as
//!   in closing a socket, the routine is set ahead by [`Irp::arm`], while there is still somebody to refuse.
//! - What it allocates is freed when the routine has run, hence leaks if the IRP is never sent. An armed IRP that is not
//!   wanted any more is therefore sent to the driver's own device, whose dispatch routine, [`take_back`], completes it.
//!
//! Before there is a device, or without one, IoSetCompletionRoutine takes its place; then [`reclaim_parked`], which waits
//! for queued DPCs, is all that stands between the last routines and the end of the image.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

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
    /// The request was not made, for want of memory.
    NotMade(Irp<B>),
}

/// What became of a request that [`Irp::start`] has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Started {
    /// The handler has been called, or will be.
    Out,
    /// The call returned this error and has not completed its IRP, which by that is misused: nothing is to be expected
    /// of the request. If the IRP is completed after all, the handler is called.
    Ignored(Status),
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
    /// [`UNSENT`], then one of the others.
    state: AtomicU32,
    /// Whether the completion routine is set.
    armed: Armed,
    /// Tells a started request from another one in the same block, or in another block at the same address.
    serial: u64,
    done: EventCell,
    /// Written by the completion routine before `done` is set, read after.
    completion: UnsafeCell<Completion>,
    /// Frees the whole block.
    free: unsafe fn(NonNull<Header>),
    /// Neighbours in the list of requests that are out, under its lock.
    links: UnsafeCell<Links>,
}

/// An IRP and all that belongs to it. Frees the IRP when dropped.
#[repr(C)]
struct Block<B: Send + 'static> {
    header: Header,
    handler: Option<Handler<B>>,
    buffers: B,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    No,
    /// By IoSetCompletionRoutine, which leaves nothing behind.
    Plain,
    /// By IoSetCompletionRoutineEx: the routine must run.
    Guarded,
}

#[derive(Clone, Copy)]
struct Links {
    previous: Option<NonNull<Header>>,
    next: Option<NonNull<Header>>,
}

/// The IRP is not out.
const UNSENT: u32 = 0;
/// The request is out, and its caller waits for it.
const AWAITED: u32 = 1;
/// The request is out, and nobody waits: the completion routine owns the block. It is listed.
const STARTED: u32 = 2;
/// The caller has given up: the completion routine owns the block. It is listed.
const PARKED: u32 = 3;
/// The completion routine has been called.
const COMPLETED: u32 = 4;

/// The requests that are out and that nobody waits for.
struct Listed {
    first: Option<NonNull<Header>>,
    /// The number of the request that was started last.
    serial: u64,
}

// SAFETY: what the list points to is only reached under the list's lock.
unsafe impl Send for Listed {}

static LISTED: SpinLock<Listed> = SpinLock::new("requests that are out", Listed { first: None, serial: 0 });

/// What completion routines are bound to.
static DEVICE: AtomicPtr<nt::DEVICE_OBJECT> = AtomicPtr::new(null_mut());

/// Binds completion routines that are set from now on to the driver's device, or to none. No IRP is armed meanwhile.
pub(super) fn guard(device: Option<NonNull<nt::DEVICE_OBJECT>>) {
    DEVICE.store(device.map_or(null_mut(), NonNull::as_ptr), Ordering::Release);
}

/// The dispatch routine that completes what the driver sends to itself.
///
/// # Safety
/// Called by the I/O manager, with an IRP that was sent to the driver's device.
pub(super) unsafe extern "C" fn take_back(_device: *mut nt::DEVICE_OBJECT, irp: nt::PIRP) -> nt::NTSTATUS {
    // SAFETY: sent here.
    unsafe { nt::set_io_status(irp, nt::STATUS_INVALID_DEVICE_REQUEST) };
    // SAFETY: sent here, and not pending. The boost is none: nobody waits.
    unsafe { nt::IofCompleteRequest(irp, 0) };
    nt::STATUS_INVALID_DEVICE_REQUEST
}

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
            state: AtomicU32::new(UNSENT),
            armed: Armed::No,
            serial: 0,
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

    /// The block, which the completion routine will own, or whoever waits.
    fn into_raw(self) -> NonNull<Block<B>> {
        let this = ManuallyDrop::new(self);
        // SAFETY: the IRP is not dropped, so the block has one owner.
        let block = unsafe { core::ptr::read(&raw const this.block) };
        block.into_raw()
    }

    /// Sets the completion routine ahead, so that the next request is made whatever memory is left. IRQL <=
    /// DISPATCH_LEVEL, no spin lock held when an armed IRP is dropped.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn arm(&mut self) -> Result {
        if self.block.header.armed != Armed::No {
            return Ok(());
        }
        let context = self.block.as_ptr().cast();
        let header = &mut self.block.header;
        let irp = header.irp;
        header.state.store(UNSENT, Ordering::Relaxed);
        header.done.clear();
        // SAFETY: allocated by IoAllocateIrp, and not in use.
        unsafe { nt::IoReuseIrp(irp, nt::STATUS_UNSUCCESSFUL) };
        let device = DEVICE.load(Ordering::Acquire);
        let routine: nt::PIO_COMPLETION_ROUTINE = Some(on_completed::<B>);
        if device.is_null() {
            // SAFETY: the IRP has a stack location; the context outlives the request.
            unsafe { nt::IoSetCompletionRoutine(irp, routine, context, nt::TRUE, nt::TRUE, nt::TRUE) };
            header.armed = Armed::Plain;
            return Ok(());
        }
        // SAFETY: as above; the device is the driver's own.
        let status = unsafe {
            nt::IoSetCompletionRoutineEx(device, irp, routine, context, nt::TRUE, nt::TRUE, nt::TRUE)
        };
        Status(status).exact()?;
        header.armed = Armed::Guarded;
        Ok(())
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
        if self.arm().is_err() {
            return Called::NotMade(self);
        }
        self.block.handler = None;
        // Set still, if the callee never touches the IRP; cleared when the routine has run.
        self.block.header.state.store(AWAITED, Ordering::Relaxed);
        let block = self.into_raw();
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
        let mut block = unsafe { PoolBox::from_raw(tags::IRP, block) };
        block.header.armed = Armed::No;
        Called::Completed(Self { block }, completion)
    }

    /// Makes a request and does not wait: `handler` gets the IRP back with the completion.
    ///
    /// `arguments` takes from the buffers what `issue` passes on with the IRP (pointers to them, mostly): once the
    /// request is out, the buffers can be back with the handler, or gone, before `issue` returns.
    ///
    /// # Errors
    /// The IRP, and no request was made, for want of memory. An armed one does not fail.
    pub fn start<A>(
        mut self,
        irql: &mut AtMostDispatch,
        handler: Handler<B>,
        arguments: impl FnOnce(&mut B) -> A,
        issue: impl FnOnce(nt::PIRP, A) -> Status,
    ) -> core::result::Result<Started, Self> {
        if self.arm().is_err() {
            return Err(self);
        }
        self.block.handler = Some(handler);
        self.block.header.state.store(STARTED, Ordering::Relaxed);
        let irp = self.block.header.irp;
        let arguments = arguments(&mut self.block.buffers);
        let header = self.into_raw().cast::<Header>();
        let serial = {
            let mut listed = LISTED.lock(irql);
            listed.serial = listed.serial.wrapping_add(1);
            // SAFETY: ours until it is issued.
            unsafe { (*header.as_ptr()).serial = listed.serial };
            listed.push(header);
            listed.serial
        };
        // Owned by the completion routine from here on.
        let returned = issue(irp, arguments);
        if returned == Status::PENDING || returned.nt_success() || !LISTED.lock(irql).has(header, serial) {
            return Ok(Started::Out);
        }
        Ok(Started::Ignored(returned))
    }
}

impl<B: Send + 'static> Drop for Block<B> {
    fn drop(&mut self) {
        // SAFETY: allocated by IoAllocateIrp, not in use, and freed once.
        unsafe { nt::IoFreeIrp(self.header.irp) };
    }
}

impl<B: Send + 'static> Drop for Irp<B> {
    /// Lets a completion routine run that was set and whose IRP is not sent to anybody else any more.
    fn drop(&mut self) {
        let header = self.block.as_ptr().cast::<Header>();
        let device = DEVICE.load(Ordering::Acquire);
        // SAFETY: ours, and not out.
        if unsafe { (*header).armed } != Armed::Guarded || device.is_null() {
            return;
        }
        // SAFETY: as above.
        let irp = unsafe { (*header).irp };
        // SAFETY: as above.
        unsafe { (*header).state.store(UNSENT, Ordering::Relaxed) };
        // SAFETY: the next location, which holds the routine, was not passed on.
        let next = unsafe { nt::next_stack_location(irp) };
        // SAFETY: as above.
        unsafe { (*next).MajorFunction = nt::IRP_MJ_INTERNAL_DEVICE_CONTROL };
        // SAFETY: our own device, whose dispatch routine completes the IRP before it returns.
        let _refused = unsafe { nt::IofCallDriver(device, irp) };
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
    drop(Irp::<B> { block: unsafe { PoolBox::from_raw(tags::IRP, header.cast()) } });
}

/// Gives a request up. `false` if it has been completed meanwhile.
fn park(header: &Header) -> bool {
    // SAFETY: called by `Irp::call`, which runs at PASSIVE_LEVEL; used for this lock only.
    let mut irql = unsafe { AtMostDispatch::assume() };
    let mut listed = LISTED.lock(&mut irql);
    // Under the lock, so that a completion routine that finds PARKED also finds the links.
    if header.state.compare_exchange(AWAITED, PARKED, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return false;
    }
    listed.push(NonNull::from(header));
    true
}

impl Listed {
    /// Whether this very request is out still. The header may be gone.
    fn has(&self, header: NonNull<Header>, serial: u64) -> bool {
        let mut at = self.first;
        while let Some(found) = at {
            if found == header {
                // SAFETY: listed, hence alive; the number is written before that.
                return unsafe { (*found.as_ptr()).serial } == serial;
            }
            // SAFETY: the lock is held.
            at = unsafe { links(found) }.next;
        }
        false
    }

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

/// Frees the requests that are out and were never completed, and says how many there were.
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
        let mut listed = LISTED.lock(passive);
        let Some(header) = listed.first else { return count };
        listed.remove(header);
        drop(listed);
        // SAFETY: in the list until now, hence alive, and nobody else has it.
        let fields = unsafe { &mut *header.as_ptr() };
        // SAFETY: the block's own IRP.
        if unsafe { nt::was_sent(fields.irp) } {
            // Its location is in the callee's hands, and what set its routine leaks with it.
            fields.armed = Armed::No;
        }
        let free = fields.free;
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

/// The completion routine of every request.
unsafe extern "C" fn on_completed<B: Send + 'static>(
    _device: *mut nt::DEVICE_OBJECT,
    irp: nt::PIRP,
    context: nt::PVOID,
) -> nt::NTSTATUS {
    if let Some(pointer) = NonNull::new(context.cast::<Header>()) {
        // SAFETY: the context is the block, which whoever waits, or the list, keeps until the request is completed.
        let header = unsafe { pointer.as_ref() };
        // SAFETY: this IRP is being completed.
        let completion = unsafe { completion(irp) };
        // SAFETY: read only after the event is set.
        unsafe { *header.completion.get() = completion };
        // SAFETY: completion routines run at or below DISPATCH_LEVEL; lent to calls only.
        let mut irql = unsafe { AtMostDispatch::assume() };
        match header.state.swap(COMPLETED, Ordering::AcqRel) {
            AWAITED => header.done.set(),
            STARTED => {
                LISTED.lock(&mut irql).remove(pointer);
                // SAFETY: `Irp::start` gave the block up to this routine.
                let mut irp = Irp::<B> { block: unsafe { PoolBox::from_raw(tags::IRP, pointer.cast()) } };
                irp.block.header.armed = Armed::No;
                if let Some(handler) = irp.block.handler.take() {
                    handler(irp, completion, &mut irql);
                }
            }
            PARKED => {
                LISTED.lock(&mut irql).remove(pointer);
                // SAFETY: out of the list; whoever waited has given it up.
                unsafe { (*pointer.as_ptr()).armed = Armed::No };
                // SAFETY: as above.
                unsafe { free::<B>(pointer) };
            }
            // Taken back unsent: whoever drops the IRP waits for this to return.
            _ => {}
        }
    }
    nt::STATUS_MORE_PROCESSING_REQUIRED
}
