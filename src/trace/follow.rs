//! A second listener beside ETW, within the driver: whoever sends events to those that follow them over the network.
//!
//! There is at most one. It can come and go while others emit events: an emitter counts itself in before it looks for
//! the listener, and the listener, when it goes, waits until nobody is inside any more.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

use super::wanted::Wanted;
use super::{Event, Keywords, Level};
use crate::kernel::irql::{AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};

/// What hears of events.
pub trait Follower: Send + Sync + 'static {
    /// An event, on the thread that emits it. Nothing may be emitted from here.
    fn hear(&self, irql: &mut AtMostDispatch, event: &Event<'_>);
}

/// The listener, its type forgotten.
struct Target {
    /// A share of the follower.
    follower: NonNull<()>,
    /// # Safety
    /// The first argument is [`Target::follower`], which lasts meanwhile.
    hear: unsafe fn(NonNull<()>, &mut AtMostDispatch, &Event<'_>),
    /// # Safety
    /// As above, and it is not used afterwards.
    release: unsafe fn(NonNull<()>),
}

static WANTED: Wanted = Wanted::nothing();
static TARGET: AtomicPtr<Target> = AtomicPtr::new(null_mut());
/// How many emitters are inside.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// How long the end waits between looks at those that are inside: what hearing takes, many times over.
const PAUSE: Interval = Interval::from_micros(50);

/// Following, until it is ended.
#[derive(Debug)]
#[must_use = "it must be ended before the driver unloads"]
pub struct Following(());

/// Lets `follower` hear events, as far as [`want`] says; none at first.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES`; `STATUS_INVALID_DEVICE_STATE`: there is one already.
pub fn follow<F: Follower>(follower: PoolArc<F>) -> Result<Following> {
    let target = Target { follower: follower.into_raw(), hear: hear::<F>, release: release::<F> };
    let (follower, release) = (target.follower, target.release);
    let made = PoolBox::try_new(tags::CONTROL, target).and_then(|target| {
        let target = target.into_raw();
        let placed =
            TARGET.compare_exchange(null_mut(), target.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
        if placed.is_err() {
            // SAFETY: given up just now with this tag, and seen by nobody.
            drop(unsafe { PoolBox::from_raw(tags::CONTROL, target) });
            return Err(Status::INVALID_DEVICE_STATE);
        }
        Ok(Following(()))
    });
    if made.is_err() {
        // SAFETY: the share that was given up above, which nobody has come to know.
        unsafe { release(follower) };
    }
    made
}

/// Events up to `level` with one of `keywords` are to be heard; `None`: none.
pub fn want(wanted: Option<(Level, Keywords)>) {
    match wanted {
        Some((level, keywords)) => WANTED.set(level as u8, keywords.bits()),
        None => WANTED.clear(),
    }
}

impl Following {
    /// Ends it. When this returns, nobody is in the follower any more, and nobody will be.
    pub fn end(self, passive: &Passive) {
        WANTED.clear();
        let target = NonNull::new(TARGET.swap(null_mut(), Ordering::SeqCst));
        fence(Ordering::SeqCst);
        while INSIDE.load(Ordering::SeqCst) != 0 {
            time::delay(passive, PAUSE);
        }
        let Some(target) = target else { return };
        // SAFETY: given up by `follow` with this tag, taken by the swap, and nobody is inside.
        let target = unsafe { PoolBox::from_raw(tags::CONTROL, target) };
        // SAFETY: the share that `follow` gave up; nobody is inside.
        unsafe { (target.release)(target.follower) };
    }
}

#[inline]
pub(super) fn enabled(level: Level, keywords: Keywords) -> bool {
    WANTED.includes(level, keywords)
}

pub(super) fn hold_to_limit() {
    WANTED.hold_to_limit();
}

pub(super) fn tell(event: &Event<'_>) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if let Some(target) = NonNull::new(TARGET.load(Ordering::SeqCst)) {
        // SAFETY: whoever takes the target away waits for those that were inside before.
        let target = unsafe { target.as_ref() };
        // SAFETY: events are emitted at or below DISPATCH_LEVEL; the token does not leave this call.
        let mut irql = unsafe { AtMostDispatch::assume() };
        // SAFETY: the target's own follower, which lasts as long as the target.
        unsafe { (target.hear)(target.follower, &mut irql, event) };
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

/// # Safety
/// `follower` came from `into_raw` of a `PoolArc<F>`, and lasts meanwhile.
unsafe fn hear<F: Follower>(follower: NonNull<()>, irql: &mut AtMostDispatch, event: &Event<'_>) {
    // SAFETY: the caller's promise.
    unsafe { PoolArc::<F>::borrow_raw(follower) }.hear(irql, event);
}

/// # Safety
/// `follower` came from `into_raw` of a `PoolArc<F>`, and is not used afterwards.
unsafe fn release<F: Follower>(follower: NonNull<()>) {
    // SAFETY: the caller's promise.
    drop(unsafe { PoolArc::<F>::from_raw(follower) });
}
