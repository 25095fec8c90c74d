//! IRPs on their way through the module: taken once, completed once.
//!
//! Page "Using IRPs with Winsock Kernel Functions": the IRP is completed whatever the call returns. A request that waits is
//! a [`Ticket`]: whoever clears its cancel routine completes it, which settles every race with IoCancelIrp.

use crate::irql;
use crate::machine;
use crate::registration::Client;
use crate::report::violation;
use crate::socket::Socket;
use crate::sync::Mutex;
use crate::sys::nt::{
    IRP, NTSTATUS, PDEVICE_OBJECT, PDRIVER_CANCEL, PIO_STACK_LOCATION, PIRP, SL_INVOKE_ON_CANCEL,
    SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED, STATUS_CANCELLED, STATUS_PENDING,
};
use crate::work::{self, Job};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "C" {
    fn IofCompleteRequest(Irp: PIRP, PriorityBoost: i8);
    fn IoReleaseCancelSpinLock(Irql: u8);
}

/// For whom an IRP is outstanding.
#[derive(Clone)]
pub enum Owner {
    Client(Arc<Client>),
    Socket(Arc<Socket>),
}

impl Owner {
    fn begin(&self, irp: PIRP, api: &'static str) {
        let socket = match self {
            Self::Client(_) => 0,
            Self::Socket(socket) => {
                socket.irp_begins();
                socket.id
            }
        };
        self.client().irp_begins();
        OUTSTANDING.lock().insert(irp.addr(), Outstanding { api, socket });
    }

    fn client(&self) -> &Arc<Client> {
        match self {
            Self::Client(client) => client,
            Self::Socket(socket) => &socket.client,
        }
    }

    fn end(self) {
        if let Self::Socket(socket) = &self {
            socket.irp_ends();
        }
        self.client().irp_ends();
    }
}

#[derive(Clone, Copy)]
struct Outstanding {
    api: &'static str,
    socket: u64,
}

/// The IRPs that were taken and not completed, by address.
static OUTSTANDING: Mutex<BTreeMap<usize, Outstanding>> = Mutex::new(BTreeMap::new());
/// Those that wait in a queue, for their cancel routine.
static TICKETS: Mutex<BTreeMap<usize, Arc<Ticket>>> = Mutex::new(BTreeMap::new());

/// The IRPs that were taken and not completed: address, function, socket (0: none).
pub fn outstanding() -> Vec<(usize, &'static str, u64)> {
    let outstanding = OUTSTANDING.lock();
    outstanding.iter().map(|(irp, Outstanding { api, socket })| (*irp, *api, *socket)).collect()
}

/// An IRP as the client passed it: NULL, or the module's until it completes it.
#[derive(Clone, Copy)]
pub struct Irp(PIRP);

impl Irp {
    pub const NULL: Self = Self(core::ptr::null_mut());

    /// # Safety
    /// `irp` is NULL or an IRP that the client passed to the function that is being called.
    pub const unsafe fn passed(irp: PIRP) -> Self {
        Self(irp)
    }

    pub const fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// An IRP that the module holds. It is completed by [`Request::complete`] and by nothing else.
pub struct Request {
    irp: PIRP,
    owner: Owner,
}

// SAFETY: whoever holds the request owns the IRP; there is one request for each IRP.
unsafe impl Send for Request {}
// SAFETY: shared access marks the IRP pending, which only the one who took it does.
unsafe impl Sync for Request {}

impl Request {
    /// Takes `irp` for `owner`. `None` after a violation; then the IRP was not touched.
    pub fn begin(api: &'static str, Irp(irp): Irp, owner: Owner) -> Option<Self> {
        if irp.is_null() {
            violation!(api, "the IRP is NULL");
            return None;
        }
        if OUTSTANDING.lock().contains_key(&irp.addr()) {
            violation!(api, "the IRP {irp:p} is pending");
            return None;
        }
        // SAFETY: not NULL: an IRP that the client passed, and of which nobody else is told.
        let fields = unsafe { &mut *irp };
        if fields.CurrentLocation <= 1 {
            violation!(api, "the IRP {irp:p} has no stack location left");
            return None;
        }
        // SAFETY: the tail is an overlay throughout an IRP's life.
        let current = unsafe { fields.Tail.Overlay.CurrentStackLocation };
        let next = current.wrapping_sub(1);
        // SAFETY: a location is left before the current one.
        let control = unsafe { (*next).Control };
        let all = SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL;
        if control & all != all {
            violation!(api, "the IRP {irp:p} has no completion routine for every outcome");
            return None;
        }
        fields.CurrentLocation -= 1;
        fields.Tail.Overlay.CurrentStackLocation = next;
        fields.PendingReturned = 0;
        owner.begin(irp, api);
        Some(Self { irp, owner })
    }

    /// Completes the IRP on this thread. Neither it nor what its completion frees may be touched after.
    pub fn complete(self, status: NTSTATUS, information: usize) {
        let Self { irp, owner } = self;
        OUTSTANDING.lock().remove(&irp.addr());
        // SAFETY: taken in `begin`, and given up here.
        let fields = unsafe { &mut *irp };
        fields.IoStatus.u.Status = status;
        fields.IoStatus.Information = information;
        // SAFETY: as above; no lock is held.
        unsafe { IofCompleteRequest(irp, 0) };
        owner.end();
    }

    /// Completes the IRP at the IRQL of callbacks.
    pub fn complete_as_callback(self, status: NTSTATUS, information: usize) {
        irql::as_callback(|_| self.complete(status, information));
    }

    /// Notes that the function that took this IRP returns STATUS_PENDING (IoMarkIrpPending).
    pub fn mark_pending(&self) {
        // SAFETY: taken and not completed.
        let tail = unsafe { (*self.irp).Tail };
        // SAFETY: the tail is an overlay throughout an IRP's life.
        let location: PIO_STACK_LOCATION = unsafe { tail.Overlay.CurrentStackLocation };
        // SAFETY: an IRP that was taken has a current location.
        unsafe { (*location).Control |= SL_PENDING_RETURNED };
    }

    /// Completes a request whose outcome is known, within the call or on another thread. Returns what the function
    /// returns.
    pub fn finish(self, status: NTSTATUS, information: usize) -> NTSTATUS {
        if machine::pick_inline() {
            self.complete(status, information);
            return status;
        }
        self.mark_pending();
        work::put(move || self.complete_as_callback(status, information));
        STATUS_PENDING
    }
}

/// Refuses a call that cannot be taken: completes its IRP, if there is one, and returns `status`.
pub fn refuse(api: &'static str, irp: Irp, owner: Owner, status: NTSTATUS) -> NTSTATUS {
    if !irp.is_null()
        && let Some(request) = Request::begin(api, irp, owner)
    {
        request.complete(status, 0);
    }
    status
}

/// The cancel routine's place, which is exchanged atomically (IoSetCancelRoutine).
///
/// # Safety
/// `irp` is taken and not completed while the result is used.
unsafe fn cancel_slot<'a>(irp: PIRP) -> &'a AtomicPtr<()> {
    // SAFETY: the field lies inside the IRP.
    let field = unsafe { irp.cast::<u8>().add(offset_of!(IRP, CancelRoutine)) };
    // SAFETY: an aligned pointer that is only used atomically while the IRP is pending.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// Sets the cancel routine, or clears it; true if there was one before.
///
/// # Safety
/// As for [`cancel_slot`].
unsafe fn set_cancel_routine(irp: PIRP, routine: PDRIVER_CANCEL) -> bool {
    let pointer = routine.map_or(core::ptr::null_mut(), |routine| routine as *mut ());
    // SAFETY: the caller's.
    !unsafe { cancel_slot(irp) }.swap(pointer, Ordering::AcqRel).is_null()
}

/// Whether IoCancelIrp was called.
///
/// # Safety
/// `irp` is taken and not completed.
unsafe fn is_cancelled(irp: PIRP) -> bool {
    // SAFETY: the field lies inside the IRP.
    let field = unsafe { &raw mut (*irp).Cancel };
    // SAFETY: a byte that is only used atomically while the IRP is pending.
    unsafe { AtomicU8::from_ptr(field) }.load(Ordering::Acquire) != 0
}

/// A request that waits in a queue, where it may be cancelled at any time.
pub struct Ticket {
    request: Mutex<Option<Request>>,
    /// Run after a cancellation.
    on_cancel: Mutex<Option<Job>>,
}

impl Ticket {
    /// Queues a request, of which STATUS_PENDING is returned.
    pub fn new(request: Request) -> Arc<Self> {
        Self::make(request, None)
    }

    /// [`Ticket::new`] for a request whose cancellation ends more than itself.
    pub fn with_cancel(request: Request, on_cancel: Job) -> Arc<Self> {
        Self::make(request, Some(on_cancel))
    }

    fn make(request: Request, on_cancel: Option<Job>) -> Arc<Self> {
        request.mark_pending();
        let irp = request.irp;
        let ticket = Arc::new(Self { request: Mutex::new(Some(request)), on_cancel: Mutex::new(on_cancel) });
        TICKETS.lock().insert(irp.addr(), Arc::clone(&ticket));
        let waits = ticket.request.lock();
        // SAFETY: taken, and completed only by whoever clears the routine, which the lock holds up for others.
        unsafe { set_cancel_routine(irp, Some(cancel)) };
        // SAFETY: not completed yet, as above: the cancel routine waits for the lock.
        let late = unsafe { is_cancelled(irp) };
        // SAFETY: the same. Cancelled before it had a routine: unless that is being called now, it is up to us.
        let ours = late && unsafe { set_cancel_routine(irp, None) };
        drop(waits);
        if ours {
            ticket.cancelled();
        }
        ticket
    }

    /// Takes the request out, to complete it; `None` if someone else did, or is about to.
    pub fn take(&self) -> Option<Request> {
        let mut request = self.request.lock();
        let irp = request.as_ref()?.irp;
        // SAFETY: not completed while it is in the ticket. Without a routine to clear, that routine is on its way and
        // completes the IRP.
        if !unsafe { set_cancel_routine(irp, None) } {
            return None;
        }
        TICKETS.lock().remove(&irp.addr());
        request.take()
    }

    /// Whether the request is no longer here.
    pub fn is_taken(&self) -> bool {
        self.request.lock().is_none()
    }

    /// Completes the request at the IRQL of callbacks, if it still waits.
    pub fn complete(&self, status: NTSTATUS, information: usize) {
        if let Some(request) = self.take() {
            request.complete_as_callback(status, information);
        }
    }

    /// Completes the request as cancelled, when its cancel routine is cleared.
    fn cancelled(&self) {
        let request = self.request.lock().take();
        if let Some(request) = request {
            TICKETS.lock().remove(&request.irp.addr());
            request.complete(STATUS_CANCELLED, 0);
            if let Some(job) = self.on_cancel.lock().take() {
                work::put(job);
            }
        }
    }
}

/// The cancel routine of every queued IRP.
unsafe extern "C" fn cancel(_device: PDEVICE_OBJECT, irp: PIRP) {
    // SAFETY: the IRP is being cancelled, and stays until this routine completes it.
    let irql = unsafe { (*irp).CancelIrql };
    // SAFETY: the cancel spin lock is held, as the routine's page has it.
    unsafe { IoReleaseCancelSpinLock(irql) };
    let ticket = TICKETS.lock().get(&irp.addr()).cloned();
    if let Some(ticket) = ticket {
        ticket.cancelled();
    }
}

/// What is still outstanding, in words: for a client that cannot be deregistered.
pub fn words() -> String {
    let mut words = String::new();
    for (irp, api, socket) in outstanding() {
        // Writing to a string does not fail.
        let _written = write!(words, " {api} (IRP {irp:#x}, socket {socket})");
    }
    words
}
