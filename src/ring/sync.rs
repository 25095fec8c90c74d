//! Every atomic of the ring, through one shim: `core`'s, or loom's when the models run.
//!
//! Orderings that the protocol depends on are named by [`Site`], so that a model can weaken one of them and
//! prove that the mistake is found.

#[cfg(not(all(loom, test)))]
pub use core::{
    cell::Cell,
    hint::spin_loop as relax,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
#[cfg(all(loom, test))]
pub use loom::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    thread::yield_now as relax,
};

/// A place in the code whose memory ordering carries the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// A processor gets its ring.
    Attach,
    /// The owner publishes records: store of the tail.
    Publish,
    /// The dispatcher sees records: load of the tail.
    Observe,
    /// The dispatcher gives lines back: store of the head.
    Free,
    /// The owner takes lines back: load of the head.
    Reuse,
    /// An object goes on the life-cycle list.
    Enqueue,
    /// The dispatcher takes the life-cycle list.
    Take,
    /// A life-cycle event is marked ready.
    Ready,
    /// Stop is asked for.
    Stop,
    /// The fence between a producer's publication and its look at the dispatcher's state.
    Signal,
    /// The fence between the dispatcher's saying that it parks and its last look at the rings.
    Park,
}

/// The ordering of `site`, unless the running model weakens that site.
#[inline(always)]
#[cfg_attr(not(all(loom, test)), allow(unused_variables))]
pub fn order(site: Site, ordering: Ordering) -> Ordering {
    #[cfg(all(loom, test))]
    if weak::is(site) {
        return Ordering::Relaxed;
    }
    ordering
}

/// A full fence: the stores before it are seen by every processor before the loads after it are made.
#[inline(always)]
#[cfg_attr(not(all(loom, test)), allow(unused_variables))]
pub fn fence(site: Site) {
    #[cfg(all(loom, test))]
    if !weak::is(site) {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
    #[cfg(not(all(loom, test)))]
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Tells loom of accesses to lines; nothing outside of a model.
pub struct Track(#[cfg(all(loom, test))] std::vec::Vec<loom::cell::UnsafeCell<()>>);

impl Track {
    #[cfg_attr(not(all(loom, test)), allow(unused_variables))]
    pub fn new(lines: usize) -> Self {
        Self(
            #[cfg(all(loom, test))]
            (0..lines).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        )
    }

    #[inline(always)]
    #[cfg_attr(not(all(loom, test)), allow(unused_variables, clippy::unused_self))]
    pub fn write(&self, first: usize, lines: usize) {
        #[cfg(all(loom, test))]
        for cell in &self.0[first..first + lines] {
            cell.with_mut(|_| ());
        }
    }

    #[inline(always)]
    #[cfg_attr(not(all(loom, test)), allow(unused_variables, clippy::unused_self))]
    pub fn read(&self, first: usize, lines: usize) {
        #[cfg(all(loom, test))]
        for cell in &self.0[first..first + lines] {
            cell.with(|_| ());
        }
    }
}

/// The weakened site of the model that runs on this thread (loom runs a model's threads on one).
#[cfg(all(loom, test))]
pub mod weak {
    use super::Site;

    std::thread_local!(static WEAK: std::cell::Cell<Option<Site>> = const { std::cell::Cell::new(None) });

    pub fn set(site: Option<Site>) {
        WEAK.set(site);
    }

    pub fn is(site: Site) -> bool {
        WEAK.get() == Some(site)
    }
}
