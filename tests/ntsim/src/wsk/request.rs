//! IRPs on their way through the subsystem: taken once, completed once.

use super::context::{Doing, during};
use super::socket::Socket;
use super::{Subsystem, rules};
use crate::pool::{self, Range};
use crate::sys::nt::{NTSTATUS, PDEVICE_OBJECT, PIRP, STATUS_CANCELLED};
use crate::verify::{lock, violation};
use crate::{irp, irql};
use std::ptr::with_exposed_provenance;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// For whom an IRP is outstanding.
#[derive(Clone)]
pub enum Owner {
    /// Nobody: the IRP came with a call that is refused.
    Nobody,
    Client(Arc<super::registration::Client>),
    Socket(Arc<Socket>),
}

impl Owner {
    fn begin(&self) {
        match self {
            Self::Nobody => {}
            Self::Client(client) => client.irp_begins(),
            Self::Socket(socket) => {
                socket.client.irp_begins();
                socket.irp_begins();
            }
        }
    }

    fn end_use_of_security(&self, security: usize) {
        match self {
            Self::Nobody => {}
            Self::Client(client) => client.end_use_of_security(security),
            Self::Socket(socket) => socket.client.end_use_of_security(security),
        }
    }

    fn end(self, subsystem: &Arc<Subsystem>) {
        match self {
            Self::Nobody => {}
            Self::Client(client) => client.irp_ends(),
            Self::Socket(socket) => {
                socket.irp_ends(subsystem);
                socket.client.irp_ends();
            }
        }
    }
}

/// An IRP that WSK holds. It is completed by [`Request::complete`] and by nothing else.
pub struct Request {
    irp: PIRP,
    pub api: &'static str,
    owner: Owner,
    /// What the driver lends until the completion.
    lent: Option<(usize, usize)>,
    /// The cached security descriptor that the driver keeps until the completion; 0 for none.
    security: usize,
}

// SAFETY: whoever holds the request owns the IRP; there is one request for each IRP.
unsafe impl Send for Request {}

impl Request {
    /// Takes `irp` for `owner`. `None` after a violation; then the IRP was not touched.
    pub fn begin(api: &'static str, irp: PIRP, owner: Owner) -> Option<Self> {
        if irp.is_null() {
            violation(&rules::NULL_IRP, api, "the IRP is NULL");
            return None;
        }
        // SAFETY: what a driver passed.
        if !unsafe { irp::send(api, irp) } {
            return None;
        }
        owner.begin();
        Some(Self { irp, api, owner, lent: None, security: 0 })
    }

    /// The driver keeps a cached security descriptor, whose use has begun, until the completion.
    pub fn uses_security(&mut self, security: usize) {
        self.security = security;
    }

    /// The driver keeps the `length` bytes at `start` until the completion.
    pub fn lends<T>(&mut self, start: *const T, length: usize) {
        self.lent = (!start.is_null() && length > 0).then(|| (start.expose_provenance(), length));
    }

    /// Whether what the driver lends is there still; a violation otherwise, which is reported once.
    pub fn has_what_was_lent(&mut self, subsystem: &Subsystem) -> bool {
        let Some((start, length)) = self.lent.filter(|_| subsystem.config.watch_buffers) else { return true };
        let is_there = pool::range(with_exposed_provenance(start), length) != Range::Freed;
        if !is_there {
            self.lent = None;
            violation(&rules::ARGUMENT_FREED, self.api, format!("{length} bytes at {start:#x}"));
        }
        is_there
    }

    /// Completes the IRP at the current IRQL. Neither it nor what its completion frees may be touched after.
    pub fn complete(mut self, subsystem: &Arc<Subsystem>, status: NTSTATUS, information: usize) {
        self.has_what_was_lent(subsystem);
        let Self { irp, api, owner, lent: _, security } = self;
        owner.end_use_of_security(security);
        // SAFETY: taken in `begin`, and given up here.
        during(Doing::Completion(api), || unsafe { irp::complete(irp, status, information) });
        owner.end(subsystem);
    }

    /// Notes that the function that took this IRP returns STATUS_PENDING.
    pub fn mark_pending(&self) {
        // SAFETY: taken and not completed.
        unsafe { irp::mark_pending(self.irp) };
    }
}

/// A request that waits in a queue, where it may be cancelled. Whoever takes it completes it.
pub struct Ticket {
    request: Mutex<Option<Request>>,
    completed: AtomicBool,
    on_cancel: Mutex<Option<OnCancel>>,
}

/// What else a cancellation undoes, before the IRP is completed.
pub type OnCancel = Box<dyn FnOnce(&Arc<Subsystem>) + Send>;

impl Ticket {
    /// Queues a request: from here on it may be cancelled at any time, even before this returns.
    pub fn new(subsystem: &Arc<Subsystem>, request: Request) -> Arc<Self> {
        Self::make(subsystem, request, None)
    }

    /// [`Ticket::new`] for a request whose cancellation undoes more.
    pub fn with_cancel(subsystem: &Arc<Subsystem>, request: Request, on_cancel: OnCancel) -> Arc<Self> {
        Self::make(subsystem, request, Some(on_cancel))
    }

    fn make(subsystem: &Arc<Subsystem>, request: Request, on_cancel: Option<OnCancel>) -> Arc<Self> {
        request.mark_pending();
        let irp = request.irp;
        let ticket = Arc::new(Self {
            request: Mutex::new(Some(request)),
            completed: AtomicBool::new(false),
            on_cancel: Mutex::new(on_cancel),
        });
        lock(&subsystem.tickets).insert(irp.addr(), Arc::clone(&ticket));
        // SAFETY: taken, and completed only through the ticket, which the cancel routine finds.
        unsafe { irp::set_cancel_routine(irp, Some(cancel)) };
        // Cancelled before it had a cancel routine: unless someone called that in between, it is up to us.
        // SAFETY: the IRP is completed by whoever has cleared its cancel routine, and that is not settled yet.
        if ticket.is_cancelled(irp) && unsafe { irp::set_cancel_routine(irp, None) }.is_some() {
            ticket.cancel(subsystem);
        }
        ticket
    }

    pub fn is_taken(&self) -> bool {
        lock(&self.request).is_none()
    }

    fn is_cancelled(&self, irp: PIRP) -> bool {
        let request = lock(&self.request);
        // SAFETY: not completed while it is in the ticket.
        request.is_some() && unsafe { irp::is_cancelled(irp) }
    }

    /// Whether the completion routine has come back.
    pub fn is_completed(&self) -> bool {
        self.completed.load(Ordering::Acquire)
    }

    /// Takes the request out, to complete it by [`Ticket::finish`]; `None` if someone else did, or is about to.
    pub fn take(&self, subsystem: &Subsystem) -> Option<Request> {
        let mut request = lock(&self.request);
        // SAFETY: not completed while it is in the ticket. Without a routine to clear, that routine is on its way and
        // completes the IRP.
        unsafe { irp::set_cancel_routine(request.as_ref()?.irp, None) }?;
        Self::remove(subsystem, request.take())
    }

    fn remove(subsystem: &Subsystem, request: Option<Request>) -> Option<Request> {
        let request = request?;
        lock(&subsystem.tickets).remove(&request.irp.addr());
        Some(request)
    }

    /// Completes what [`Ticket::take`] gave.
    pub fn finish(&self, subsystem: &Arc<Subsystem>, request: Request, status: NTSTATUS, information: usize) {
        drop(lock(&self.on_cancel).take());
        request.complete(subsystem, status, information);
        self.completed.store(true, Ordering::Release);
    }

    /// Completes the request at once, if it still waits.
    pub fn complete(&self, subsystem: &Arc<Subsystem>, status: NTSTATUS, information: usize) {
        if let Some(request) = self.take(subsystem) {
            self.finish(subsystem, request, status, information);
        }
    }

    /// Completes the request as cancelled; for the cancel routine, after which no one else can take it.
    fn cancel(&self, subsystem: &Arc<Subsystem>) {
        let request = lock(&self.request).take();
        if let Some(request) = Self::remove(subsystem, request) {
            let undo = lock(&self.on_cancel).take();
            if let Some(undo) = undo {
                undo(subsystem);
            }
            self.finish(subsystem, request, STATUS_CANCELLED, 0);
        }
    }
}

/// The cancel routine of every queued IRP.
unsafe extern "C" fn cancel(_device: PDEVICE_OBJECT, irp: PIRP) {
    // SAFETY: the IRP is being cancelled, and stays until this routine completes it.
    let irql = unsafe { (*irp).CancelIrql };
    irp::release_cancel_lock("IoReleaseCancelSpinLock", irql);
    let Some(subsystem) = super::current() else { return };
    let ticket = lock(&subsystem.tickets).get(&irp.addr()).cloned();
    if let Some(ticket) = ticket {
        ticket.cancel(&subsystem);
    }
}

/// Runs `body` at DISPATCH_LEVEL if `dispatch`, else where the thread is.
pub fn at<T>(dispatch: bool, body: impl FnOnce() -> T) -> T {
    if dispatch {
        let _raised = irql::raise_scope();
        body()
    } else {
        body()
    }
}
