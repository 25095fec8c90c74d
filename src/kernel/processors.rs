//! Processors that are added while the system runs, and the NUMA nodes that processors are of.
//!
//! A [`Watch`] is told of every processor: at its start of those that are there, later of each that is added. Its owner
//! makes what it keeps for each processor when it is told, and needs no list of its own. All of it is at PASSIVE_LEVEL:
//! the start, the end, and what is told (page "KeRegisterProcessorChangeCallback").
//!
//! A driver may refuse a processor by an error in the callback. weir never does: what cannot be made for a processor is
//! done without.

use core::ffi::c_void;
use core::num::NonZeroU32;
use core::ptr::NonNull;

use super::irql::Passive;
use super::pool::{PoolBox, tags};
use super::rundown::Rundown;
use super::status::{Result, Status};
use crate::sys::nt;

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// One more than the number: so that none takes no more room, and a place in the pool goes in registers.
    successor: NonZeroU32,
}

impl Node {
    /// The node of this number, from 0.
    const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::MIN.checked_add(number) {
            Some(successor) => Some(Self { successor }),
            None => None,
        }
    }

    /// The node's number, from 0.
    pub const fn number(self) -> u32 {
        self.successor.get().wrapping_sub(1)
    }
}

/// A processor that is told of.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    index: u32,
    number: nt::PROCESSOR_NUMBER,
}

impl Processor {
    /// Its index over all groups, as [`AtDispatch::processor`](super::irql::AtDispatch::processor) has it.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Its node, if the system says (KeQueryLogicalProcessorRelationship, which names the node of one processor whatever
    /// group it is in; a node's affinity, by KeQueryNodeActiveAffinity, is that of one group alone). Whether it does for
    /// a processor that [`Change::Starts`], no page says.
    pub fn node(self) -> Option<Node> {
        let mut number = self.number;
        let mut related = nt::UNRELATED;
        let mut length = u32::try_from(size_of_val(&related)).ok()?;
        // SAFETY: callable up to DISPATCH_LEVEL; in and out structures live for the call.
        let status = unsafe {
            nt::KeQueryLogicalProcessorRelationship(
                &raw mut number,
                nt::RelationNumaNode,
                &raw mut related,
                &raw mut length,
            )
        };
        Status(status).exact().ok()?;
        nt::numa_node(&related).and_then(Node::new)
    }
}

/// What becomes of a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is about to be active, or is so already. What it needs is made now.
    Starts,
    /// It is active.
    Active,
    /// It [started](Change::Starts), and did not become active. It may start again.
    Failed,
}

/// Who is told of processors.
pub trait Watcher: Send + Sync + 'static {
    /// A processor changes. Nobody else is told of any meanwhile.
    fn changed(&self, passive: &Passive, processor: Processor, change: Change);
}

/// The registration of a watcher. One that is dropped without [`Watch::stop`] stays registered, and the verifier names
/// it.
#[must_use = "a watch must be stopped before the driver unloads"]
pub struct Watch<T: Watcher> {
    context: NonNull<Context<T>>,
    handle: NonNull<c_void>,
}

// SAFETY: the watcher is shared with the callback, and the handle is good on any thread.
unsafe impl<T: Watcher> Send for Watch<T> {}
// SAFETY: as above.
unsafe impl<T: Watcher> Sync for Watch<T> {}

struct Context<T> {
    inside: Rundown,
    watcher: T,
}

impl<T: Watcher> Watch<T> {
    /// Registers `watcher` (KeRegisterProcessorChangeCallback). Before this returns it is told of every active processor,
    /// first that each [`Starts`](Change::Starts), then that each is [`Active`](Change::Active); the system leaves none
    /// out that is added meanwhile.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; the watcher is dropped.
    pub fn start(_passive: &Passive, watcher: T) -> Result<Self> {
        let inside = Rundown::try_new()?;
        let context = PoolBox::try_new(tags::PROCESSORS, Context { inside, watcher })?.into_raw();
        // SAFETY: the token says PASSIVE_LEVEL; the context is the routine's, and stays until `stop`.
        let handle = unsafe {
            nt::KeRegisterProcessorChangeCallback(
                Some(changed::<T>),
                context.as_ptr().cast(),
                nt::KE_PROCESSOR_CHANGE_ADD_EXISTING,
            )
        };
        let Some(handle) = NonNull::new(handle) else {
            // SAFETY: it was not registered, so the context is still ours.
            drop(unsafe { PoolBox::from_raw(tags::PROCESSORS, context) });
            return Err(Status::INSUFFICIENT_RESOURCES);
        };
        Ok(Self { context, handle })
    }

    /// Who is told.
    pub fn watcher(&self) -> &T {
        // SAFETY: the context stays until `stop`.
        let context = unsafe { self.context.as_ref() };
        &context.watcher
    }

    /// Takes the registration back (KeDeregisterProcessorChangeCallback), waits until nobody is being told, and drops the
    /// watcher.
    ///
    /// The page says that a driver does this before it is unloaded, so no call comes when it has returned; whether it
    /// waits for one that is under way, it does not say: who is being told already is waited for here.
    pub fn stop(self, passive: &Passive) {
        // SAFETY: registered in `start`, and taken back once; the token says PASSIVE_LEVEL.
        unsafe { nt::KeDeregisterProcessorChangeCallback(self.handle.as_ptr()) };
        // SAFETY: given up in `start`, and taken back once; nobody new comes to it.
        let context = unsafe { PoolBox::from_raw(tags::PROCESSORS, self.context) };
        context.inside.run_down(passive);
    }
}

/// The callback. The status of the operation is left as it is: no processor is refused.
unsafe extern "C" fn changed<T: Watcher>(
    context: nt::PVOID,
    change: *mut nt::KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    _operation: *mut nt::NTSTATUS,
) {
    // SAFETY: the context that `Watch::start` registered, which stays for as long as this is called.
    let Some(context) = (unsafe { context.cast::<Context<T>>().as_ref() }) else { return };
    // SAFETY: the system's own, for the time of the call.
    let Some(change) = (unsafe { change.as_ref() }) else { return };
    let Some(_inside) = context.inside.acquire() else { return };
    // SAFETY: "The processor change callback function is called at IRQL = PASSIVE_LEVEL"; lent to the watcher only.
    let passive = unsafe { Passive::assume() };
    let processor = Processor { index: change.NtNumber, number: change.ProcNumber };
    let change = match change.State {
        nt::KeProcessorAddStartNotify => Change::Starts,
        nt::KeProcessorAddCompleteNotify => Change::Active,
        _ => Change::Failed,
    };
    context.watcher.changed(&passive, processor, change);
}
