//! A provider's call: a claim, a few stores, a commit.

use super::gate::Tag;
use super::slot::{ABOVE, Part, Slot, State};
use super::sockets::Sockets;
use crate::dispatch::Subject;
use crate::kernel::irql::AtMostDispatch;
use crate::ring::ExtensionEvent;
use crate::sys::nt::PVOID;
use crate::trace::events::Provider;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// A provider's call on a socket that is there. Leaves when dropped.
pub struct Callback<'a> {
    slot: &'a Slot,
    part: &'a Part,
    sockets: &'a Sockets,
    irql: AtMostDispatch,
}

/// The part that a client context names, with the generation that it was given in.
///
/// # Safety
/// `context` is NULL or a client context that was given to a provider, and the blocks of slots are there.
pub(super) unsafe fn part_of<'a>(context: PVOID) -> Option<(&'a Part, Tag)> {
    let tag = Tag::from_address(context.addr());
    let part = context.map_addr(|address| address & !(align_of::<Part>().wrapping_sub(1))).cast::<Part>();
    // SAFETY: NULL, or a part, whose block is there (contract).
    Some((unsafe { part.as_ref() }?, tag))
}

/// What a provider hands over with its call; `None`: more than `most` bytes, or none where it says that there are some.
///
/// # Safety
/// `data` is NULL, or points to `length` bytes that live for `'a`.
pub(super) unsafe fn data_of<'a>(data: *const c_void, length: u32, most: u32) -> Option<&'a [u8]> {
    if length == 0 {
        return Some(&[]);
    }
    if length > most || data.is_null() {
        return None;
    }
    // SAFETY: not NULL, and as many bytes as that (contract).
    Some(unsafe { core::slice::from_raw_parts(data.cast::<u8>(), length as usize) })
}

/// The slot and the sockets that a part belongs to.
pub(super) fn home(part: &Part) -> Option<(&Slot, &Sockets)> {
    // SAFETY: stored when the blocks were made, which go together.
    let slot = unsafe { part.slot.load(Ordering::Relaxed).as_ref() }?;
    Some((slot, slot.home()?))
}

impl<'a> Callback<'a> {
    /// Lets a callback in; `None`, counted, if its socket is gone, or the provider has no business with it any more.
    ///
    /// # Safety
    /// `context` is NULL or a client context that was given in a registration, the blocks of slots are there, and the
    /// IRQL is at most DISPATCH_LEVEL.
    pub unsafe fn enter(context: PVOID) -> Option<Self> {
        // SAFETY: the caller's promise.
        let (part, tag) = unsafe { part_of(context) }?;
        let (slot, sockets): (&'a Slot, &'a Sockets) = home(part)?;
        if part.gate.enter(tag).is_err() {
            sockets.late();
            return None;
        }
        // SAFETY: IRQL <= DISPATCH_LEVEL (contract); the token goes with the callback, which stays in this call.
        let callback = Self { slot, part, sockets, irql: unsafe { AtMostDispatch::assume() } };
        let leaving = part.kind() == Provider::Nmr && !sockets.is_attached(part);
        if leaving || !matches!(part.state(), State::Registering | State::Granted) {
            sockets.late();
            return None;
        }
        Some(callback)
    }

    /// weir's own call, unless another provider has taken its place.
    pub(super) fn own(_irql: &mut AtMostDispatch, part: &'a Part) -> Option<Self> {
        let (slot, sockets) = home(part)?;
        if !part.gate.enter_now() {
            return None;
        }
        // SAFETY: the caller's token says so; it stays in this call.
        let callback = Self { slot, part, sockets, irql: unsafe { AtMostDispatch::assume() } };
        (part.kind() == Provider::Builtin && part.state() == State::Granted).then_some(callback)
    }

    /// Whether the event was asked for.
    fn is_wanted(&self, code: u32) -> bool {
        self.sockets.row(self.part).is_some_and(|row| row.events & code != 0)
    }

    /// Puts the event into the ring of this processor, as the socket's next. One that was not asked for is counted as
    /// malformed.
    pub fn emit(mut self, code: u32, value: u64, data: &[u8]) {
        if self.is_wanted(code) {
            self.push(code, value, data);
        } else {
            self.malformed();
        }
    }

    /// As [`Callback::emit`], with what the socket's owner goes by: that is noted, whatever becomes of the record.
    pub(super) fn emit_noted(mut self, (flag, is): (u8, bool), code: u32, value: u64, data: &[u8]) {
        if !self.is_wanted(code) {
            return self.malformed();
        }
        let news = self.part.note(flag, is);
        self.push(code, value, data);
        // That too much waits is seen whenever a buffer is wanted.
        if news && (flag, is) != (ABOVE, true) {
            self.sockets.look_after();
        }
    }

    fn push(&mut self, code: u32, value: u64, data: &[u8]) {
        let event = ExtensionEvent {
            session: self.slot.session(),
            part: self.part.index,
            provider: self.part.kind() as u8,
            code,
            value,
            data,
        };
        let raised = self.irql.raise();
        let taken = self.sockets.rings.push(&*raised, &event, Some(Subject::Socket(self.slot)));
        drop(raised);
        if taken {
            self.part.callbacks.fetch_add(1, Ordering::Relaxed);
        }
        self.sockets.called_back(taken);
    }

    /// Counts a callback whose arguments break the interface's rules.
    pub fn malformed(self) {
        self.sockets.malformed();
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        self.part.gate.leave();
    }
}
