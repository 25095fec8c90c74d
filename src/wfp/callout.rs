//! weir's callouts: their registration, the functions that the filter engine calls, and their end.
//!
//! The functions come without a context of weir's own (a filter's `context` is whatever whoever added the filter put
//! there, and anybody who may add filters may name weir's callouts), so the one [`Callouts`] is found through a
//! static. It is set before the first callout is registered and taken back after the last one is unregistered, and
//! unregistering waits for the functions that run.
//!
//! Order of the end, each step by the caller ([`crate::driver`]): the filters go, so that no new classification
//! starts; [`Callouts::close`], after which none associates a flow context any more; [`Callouts::remove_contexts`],
//! after which no flow has one; [`Callouts::unregister`].
//!
//! IRQL: the functions <= DISPATCH_LEVEL, everything else PASSIVE_LEVEL. Documentation: "Registering Callouts with the
//! Filter Engine", `nf-fwpsk-fwpscalloutregister3`, `nf-fwpsk-fwpsflowremovecontext0`,
//! `nf-fwpsk-fwpscalloutunregisterbyid0`.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::classify::{Classify, filter_flags};
use super::handler::Handler;
use super::layer::{self, LAYERS, Layer, Role};
use super::retry;
use super::verdict::{self, Verdict};
use crate::flow::{Connection, Ended, Ref};
use crate::kernel::device::Device;
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::{PoolBox, tags};
use crate::kernel::rundown::{Protection, Rundown};
use crate::kernel::{Result, Status};
use crate::policy::{Direction, Family};
use crate::sys::fwp::{
    self, FWPS_CALLOUT_CLASSIFY_FN3, FWPS_CALLOUT_NOTIFY_TYPE, FWPS_CALLOUT3, FWPS_CLASSIFY_OUT0,
    FWPS_FILTER3, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0,
};
use crate::sys::nt::{self, GUID, NTSTATUS};

/// Where the functions find the callouts.
static CALLOUTS: AtomicPtr<Callouts> = AtomicPtr::new(null_mut());

/// One callout's state.
struct Slot {
    /// The run-time identifier with [`REGISTERED`], or 0.
    id: AtomicU64,
    /// Who decides or associates is inside.
    gate: Rundown,
}

const REGISTERED: u64 = 1 << 32;

impl Slot {
    fn id(&self) -> Option<u32> {
        let id = self.id.load(Ordering::Acquire);
        u32::try_from(id & !REGISTERED).ok().filter(|_| id & REGISTERED != 0)
    }
}

/// All callouts. Stays at its address while any is registered.
pub struct Callouts {
    slots: [Slot; layer::COUNT],
    handler: Handler,
}

/// What can be wrong with flow contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAssociated(pub Status);

impl Callouts {
    fn try_new(handler: Handler) -> Result<PoolBox<Self>> {
        let slot = || Ok(Slot { id: AtomicU64::new(0), gate: Rundown::try_new()? });
        let slots = [
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
            slot()?,
        ];
        PoolBox::try_new(tags::WFP, Self { slots, handler })
    }

    /// Makes the callouts and registers every one. They stay where they are until [`Callouts::unregister`] has
    /// returned, which comes before they are dropped.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`, and what FwpsCalloutRegister3 returns; none is registered then.
    pub fn register(passive: &mut Passive, device: &Device, handler: Handler) -> Result<PoolBox<Self>> {
        let callouts = Self::try_new(handler)?;
        CALLOUTS.store(callouts.as_ptr(), Ordering::Release);
        for ((layer, slot), classify) in LAYERS.iter().zip(&callouts.slots).zip(THUNKS) {
            match register(passive, device, layer, classify) {
                Ok(id) => slot.id.store(u64::from(id) | REGISTERED, Ordering::Release),
                Err(status) => {
                    // Somebody else's filters may have used those that are registered.
                    callouts.close(passive);
                    callouts.remove_contexts(passive);
                    callouts.unregister(passive);
                    return Err(status);
                }
            }
        }
        Ok(callouts)
    }

    /// Closes the gate: from now on a classification returns without an opinion, and when this returns none is
    /// deciding or associating a flow context any more.
    pub fn close(&self, passive: &Passive) {
        for slot in &self.slots {
            slot.gate.run_down(passive);
        }
    }

    /// Removes every flow context and waits until the last is gone, with its connection. After [`Callouts::close`],
    /// with the dispatcher still at work.
    pub fn remove_contexts(&self, passive: &mut Passive) {
        let flows = self.handler.flows();
        flows.for_each_removal(passive, |connection| {
            connection.end(Ended::Unload);
            for (layer, id) in self.counting(connection.key().family) {
                dissociate(&connection, layer, id);
            }
        });
        // A removal that is pending ends in a flowDeleteFn of which nothing else tells. What has been removed is
        // freed when the dispatcher has told its end.
        let _gone = retry(passive, "flow contexts", None, || {
            if flows.population() == 0 { Ok(()) } else { Err(Status::PENDING) }
        });
    }

    /// Unregisters every callout, and returns when none can be called any more. A callout that has contexts, or is in
    /// use, is asked again after a while.
    pub fn unregister(&self, passive: &Passive) {
        for slot in &self.slots {
            let Some(id) = slot.id() else { continue };
            let _gone = retry(passive, "callout", None, || {
                // SAFETY: registered by us; PASSIVE_LEVEL says the token.
                match Status(unsafe { fwp::FwpsCalloutUnregisterById0(id) }) {
                    Status(fwp::STATUS_FWP_CALLOUT_NOT_FOUND) => Ok(()),
                    status => status.exact(),
                }
            });
            slot.id.store(0, Ordering::Release);
        }
        CALLOUTS.store(null_mut(), Ordering::Release);
    }

    /// Associates `connection` with its flow at the layers that count, and adds an owner for each. Either both
    /// contexts are there afterwards, or an error is returned, and what is left of them is on its way out.
    ///
    /// # Errors
    /// The status of FwpsFlowAssociateContext0, those included that pass NT_SUCCESS.
    pub(super) fn associate(&self, connection: &Ref) -> core::result::Result<(), NotAssociated> {
        let family = connection.key().family;
        for (done, (layer, id)) in self.counting(family).enumerate() {
            connection.add_context();
            let context = connection.clone().into_context();
            // SAFETY: callable up to DISPATCH_LEVEL; the context is not 0, and owns the connection.
            let status = unsafe { fwp::FwpsFlowAssociateContext0(connection.flow(), layer.id, id, context) };
            if let Err(status) = Status(status).exact() {
                // SAFETY: the engine did not take it, so it is still ours.
                drop(unsafe { Ref::from_context(context) });
                // Never the last one: the caller's own count holds.
                let _last = connection.remove_context();
                connection.abandon();
                for (layer, id) in self.counting(family).take(done) {
                    dissociate(connection, layer, id);
                }
                return Err(NotAssociated(status));
            }
        }
        Ok(())
    }

    /// The layers of a family that count, with the identifiers of their callouts.
    fn counting(&self, family: Family) -> impl Iterator<Item = (&'static Layer, u32)> {
        LAYERS
            .iter()
            .zip(&self.slots)
            .filter(move |(layer, _)| layer.has_flow_context() && layer.family == family)
            .filter_map(|(layer, slot)| Some((layer, slot.id()?)))
    }

    /// Whether the gate of a callout is open; held while the guard lives.
    fn enter(&self, index: layer::Index) -> Option<Protection<'_>> {
        self.slots.get(index)?.gate.acquire()
    }

    /// One classification at a layer that decides or learns.
    fn classify(&self, index: layer::Index, classify: &Classify<'_>, irql: &mut AtMostDispatch) -> Verdict {
        let Some(_inside) = self.enter(index) else { return Verdict::Continue };
        // Once for all that needs the processor: the policy, the bucket's lock, the ring.
        let raised = irql.raise();
        let at = &raised.token();
        match classify.layer().role {
            Role::Authorize(direction) => self.handler.authorize(self, classify, direction, at),
            Role::Established => {
                self.handler.established(classify, at);
                Verdict::Continue
            }
            Role::Closure => {
                self.handler.closure(classify, at);
                Verdict::Continue
            }
            Role::Count(_) => Verdict::Continue,
        }
    }
}

impl core::fmt::Debug for Callouts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.slots.iter().map(Slot::id)).finish()
    }
}

/// Removes the flow context of `connection` at a layer. Where there is none any more this does nothing; where a
/// classification runs, flowDeleteFn comes later.
fn dissociate(connection: &Connection, layer: &Layer, id: u32) {
    // SAFETY: callable up to DISPATCH_LEVEL; no lock is held, for flowDeleteFn may run inside.
    let _told_by_flow_delete = unsafe { fwp::FwpsFlowRemoveContext0(connection.flow(), layer.id, id) };
}

fn register(
    _passive: &Passive,
    device: &Device,
    layer: &Layer,
    classify: FWPS_CALLOUT_CLASSIFY_FN3,
) -> Result<u32> {
    let callout = FWPS_CALLOUT3 {
        calloutKey: layer.callout,
        flags: layer.callout_flags(),
        classifyFn: classify,
        notifyFn: Some(notify),
        flowDeleteFn: if layer.has_flow_context() { Some(flow_delete) } else { None },
    };
    let mut id = 0;
    // SAFETY: the device stays until the callouts are unregistered; the structure lives for the call; PASSIVE_LEVEL
    // says the token.
    let status =
        unsafe { fwp::FwpsCalloutRegister3(device.as_raw().cast(), &raw const callout, &raw mut id) };
    Status(status).exact()?;
    Ok(id)
}

/// The callouts, while any is registered.
fn current<'a>() -> Option<&'a Callouts> {
    let callouts = NonNull::new(CALLOUTS.load(Ordering::Acquire))?;
    // SAFETY: it stays where it is until the last callout is unregistered, which waits for the function that asks.
    Some(unsafe { callouts.as_ref() })
}

macro_rules! thunks {
    ($($index:literal)*) => { [$(Some(classify::<$index>)),*] };
}

/// The classifyFn of each layer.
static THUNKS: [FWPS_CALLOUT_CLASSIFY_FN3; layer::COUNT] = thunks!(0 1 2 3 4 5 6 7 8 9 10 11);

/// classifyFn of the layer at `INDEX`.
unsafe extern "system" fn classify<const INDEX: usize>(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _classify_context: *const c_void,
    filter: *const FWPS_FILTER3,
    flow_context: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    let Some(layer) = LAYERS.get(INDEX) else { return };
    // SAFETY: the engine's own pointers, for the time of this call.
    let Some(view) = (unsafe { Classify::from_raw(layer, values, metadata, layer_data) }) else { return };
    // SAFETY: as above.
    let Some(out) = (unsafe { out.as_mut() }) else { return };
    let verdict = if let Role::Count(way) = layer.role {
        // SAFETY: the engine keeps a context until its flowDeleteFn has been called, which it is not during a
        // classification with it.
        count(&view, unsafe { Ref::borrow_context(flow_context) }, way);
        Verdict::Continue
    } else {
        // SAFETY: a classifyFn runs at or below DISPATCH_LEVEL.
        let mut irql = unsafe { AtMostDispatch::assume() };
        current().map_or(Verdict::Continue, |callouts| callouts.classify(INDEX, &view, &mut irql))
    };
    // SAFETY: the engine's own pointer, for the time of this call.
    verdict::write(out, verdict, unsafe { filter_flags(filter) });
}

/// Counts a packet to its connection.
fn count(classify: &Classify<'_>, connection: Option<&Connection>, way: Direction) {
    let Some(connection) = connection else { return };
    let carried = match way {
        Direction::In => classify.carried_inbound(),
        Direction::Out => classify.carried(),
    };
    connection.count(way, carried.packets, carried.bytes);
}

/// notifyFn of every callout: any filter may name it.
unsafe extern "system" fn notify(
    _type: FWPS_CALLOUT_NOTIFY_TYPE,
    _filter_key: *const GUID,
    _filter: *mut FWPS_FILTER3,
) -> NTSTATUS {
    nt::STATUS_SUCCESS
}

/// flowDeleteFn of the callouts that count.
unsafe extern "system" fn flow_delete(_layer: u16, _callout: u32, flow_context: u64) {
    // SAFETY: the engine gives back what it was given in `associate`, once.
    let Some(connection) = (unsafe { Ref::from_context(flow_context) }) else { return };
    // SAFETY: a flowDeleteFn runs at or below DISPATCH_LEVEL.
    let mut irql = unsafe { AtMostDispatch::assume() };
    if let Some(callouts) = current() {
        let raised = irql.raise();
        callouts.handler.context_removed(&connection, &raised.token());
    }
}
