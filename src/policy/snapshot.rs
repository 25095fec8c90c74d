//! One policy for all processors, replaced while they look things up in it.
//!
//! A reader owns its processor ([`OnProcessor`]). It marks the processor's epoch odd, reads the pointer, and
//! makes the epoch even when it is done: no lock, and no cache line that another reader writes. The writer,
//! at PASSIVE_LEVEL, stores the new pointer, and then waits for each processor that was inside until it has
//! been outside once: from then on nobody can hold the old pointer, and the writer gets the old policy back
//! to free it. No interrupt, no DPC.
//!
//! Of the reader's mark and the writer's store, at least one is seen by the other: both put a full fence
//! between their store and their load. So either the writer sees the mark and waits, or the reader sees the
//! new pointer.
//!
//! Readers may nest on one processor (a callout may run inside another): what an inner one reads is protected
//! by the mark of the outermost.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};

use self::sync::{AtomicPtr, AtomicUsize, Ordering, Site, fence, order};
use crate::ring::OnProcessor;

/// An owner of something that can be held by its address alone, as a box is.
///
/// # Safety
/// What [`into_raw`](Self::into_raw) returns stays valid, and may be shared between threads, until
/// [`from_raw`](Self::from_raw) is called on it.
pub unsafe trait Handle: Send + Sized {
    /// What is owned.
    type Target: Sync;

    /// Gives the owner up for the address.
    fn into_raw(self) -> NonNull<Self::Target>;

    /// Takes the owner back.
    ///
    /// # Safety
    /// `address` came from `into_raw` and has not been taken back, and nobody uses it any more.
    unsafe fn from_raw(address: NonNull<Self::Target>) -> Self;
}

/// Where one processor stands: odd while a reader is inside. On a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Epoch(AtomicUsize);

impl Epoch {
    /// Of a processor that is outside.
    #[cfg(not(all(loom, test)))]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Of a processor that is outside.
    #[cfg(all(loom, test))]
    pub fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Only the processor's owner calls it, so nothing changes between load and store.
    #[inline]
    fn enter(&self) -> Option<Inside<'_>> {
        let epoch = self.0.load(Ordering::Relaxed);
        if epoch & 1 != 0 {
            return None;
        }
        self.0.store(epoch.wrapping_add(1), Ordering::Relaxed);
        fence(Site::Enter);
        Some(Inside { epoch: &self.0, next: epoch.wrapping_add(2) })
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}

/// The outermost reader on a processor; it leaves on drop.
struct Inside<'a> {
    epoch: &'a AtomicUsize,
    next: usize,
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.epoch.store(self.next, order(Site::Leave, Ordering::Release));
    }
}

/// The current policy. `E` holds one [`Epoch`] for each processor that the system may ever have.
#[derive(Debug)]
pub struct Snapshot<H: Handle, E: Deref<Target = [Epoch]>> {
    current: AtomicPtr<H::Target>,
    epochs: E,
    owns: PhantomData<H>,
}

impl<H: Handle, E: Deref<Target = [Epoch]>> Snapshot<H, E> {
    /// No policy yet.
    pub fn new(epochs: E) -> Self {
        Self { current: AtomicPtr::new(null_mut()), epochs, owns: PhantomData }
    }

    /// Calls `use_it` with the current policy; `None` if there is none, or no epoch for this processor.
    /// DISPATCH_LEVEL.
    #[inline]
    pub fn read<R>(&self, processor: &impl OnProcessor, use_it: impl FnOnce(Option<&H::Target>) -> R) -> R {
        let Some(epoch) = self.epochs.get(processor.processor() as usize) else {
            return use_it(None);
        };
        let _inside = epoch.enter();
        let current = self.current.load(order(Site::Read, Ordering::Acquire));
        // SAFETY: null, or an address from `into_raw` that is not taken back before this processor's epoch
        // has moved on, which it does not before `_inside` is dropped.
        let policy = unsafe { current.as_ref() };
        use_it(policy)
    }

    /// Publishes `next` and returns what was there, once no processor can see it any more. `pause` is called
    /// between looks at a processor that is inside, with the count of looks so far. PASSIVE_LEVEL: the caller
    /// may not own a processor, or it would wait for itself. Returns as soon as every reader that was inside
    /// has left.
    pub fn replace(&self, next: Option<H>, mut pause: impl FnMut(u32)) -> Option<H> {
        let next = next.map_or(null_mut(), |next| next.into_raw().as_ptr());
        let old = self.current.swap(next, order(Site::Publish, Ordering::AcqRel));
        fence(Site::Replace);
        let old = NonNull::new(old)?;
        for epoch in &*self.epochs {
            let seen = epoch.0.load(order(Site::Look, Ordering::Acquire));
            if seen & 1 == 0 {
                continue;
            }
            let mut looks = 0_u32;
            while epoch.0.load(order(Site::Look, Ordering::Acquire)) == seen {
                looks = looks.saturating_add(1);
                pause(looks);
            }
        }
        // SAFETY: it came from `into_raw` and was taken out of `current` by this call only; each processor
        // has been outside since, so that no reader still has it.
        Some(unsafe { H::from_raw(old) })
    }
}

impl<H: Handle, E: Deref<Target = [Epoch]>> Drop for Snapshot<H, E> {
    fn drop(&mut self) {
        // Nobody can be inside: they would borrow the snapshot.
        drop(self.replace(None, |_| ()));
    }
}

/// The atomics, `core`'s or loom's, and the orderings that the protocol depends on.
mod sync {
    #[cfg(not(all(loom, test)))]
    pub use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
    #[cfg(all(loom, test))]
    pub use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// A place in the code whose ordering matters.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Site {
        /// Fence between a reader's mark and its load of the pointer.
        Enter,
        /// Load of the pointer.
        Read,
        /// Store of the epoch when a reader leaves.
        Leave,
        /// Swap of the pointer.
        Publish,
        /// Fence between the swap and the looks at the epochs.
        Replace,
        /// Load of an epoch.
        Look,
    }

    /// The ordering of `site`, unless the running model takes it away.
    #[inline]
    pub fn order(site: Site, ordering: Ordering) -> Ordering {
        if weakened(site) { Ordering::Relaxed } else { ordering }
    }

    /// A full fence, unless the running model takes it away.
    #[inline]
    pub fn fence(site: Site) {
        if !weakened(site) {
            #[cfg(not(all(loom, test)))]
            core::sync::atomic::fence(Ordering::SeqCst);
            #[cfg(all(loom, test))]
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    #[cfg(not(all(loom, test)))]
    #[inline]
    const fn weakened(_: Site) -> bool {
        false
    }

    #[cfg(all(loom, test))]
    fn weakened(site: Site) -> bool {
        WEAK.get() == Some(site)
    }

    #[cfg(all(loom, test))]
    std::thread_local! {
        /// What the model that runs on this thread weakens (loom runs all threads of a model on one).
        pub static WEAK: std::cell::Cell<Option<Site>> = const { std::cell::Cell::new(None) };
    }
}

#[cfg(all(loom, test))]
mod models {
    use super::sync::{Site, WEAK};
    use super::{Epoch, Handle, OnProcessor, Snapshot};
    use core::ptr::NonNull;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use std::boxed::Box;
    use std::sync::atomic as outside;
    use std::vec::Vec;

    struct Policy {
        value: UnsafeCell<u32>,
    }

    // SAFETY: loom checks every access to the cell.
    unsafe impl Sync for Policy {}
    // SAFETY: as above.
    unsafe impl Send for Policy {}

    // SAFETY: a box's address is valid until it is a box again.
    unsafe impl Handle for Box<Policy> {
        type Target = Policy;
        fn into_raw(self) -> NonNull<Policy> {
            NonNull::from(Box::leak(self))
        }
        unsafe fn from_raw(address: NonNull<Policy>) -> Self {
            // SAFETY: by the contract.
            unsafe { Box::from_raw(address.as_ptr()) }
        }
    }

    struct Processor(u32);

    // SAFETY: each model runs one reader for each number.
    unsafe impl OnProcessor for Processor {
        fn processor(&self) -> u32 {
            self.0
        }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the box is the handle")]
    fn policy(value: u32) -> Box<Policy> {
        let policy = Box::new(Policy { value: UnsafeCell::new(0) });
        // SAFETY: not shared yet; a plain write, which readers must not see half-done.
        policy.value.with_mut(|cell| unsafe { *cell = value });
        policy
    }

    /// How often a reader saw the old policy, the new one, and how often the writer had to wait.
    static SEEN: [outside::AtomicUsize; 3] = [const { outside::AtomicUsize::new(0) }; 3];

    /// One reader (nested on request) on each of two processors' epochs, one writer that frees what it gets
    /// back.
    fn model(readers: u32, nested: bool, weak: Option<Site>) {
        let mut builder = loom::model::Builder::new();
        // What two threads can do to each other takes few switches; all of them would take hours.
        builder.preemption_bound = Some(3);
        builder.check(move || {
            WEAK.set(weak);
            let epochs: Vec<Epoch> = (0..2).map(|_| Epoch::new()).collect();
            let snapshot = Arc::new(Snapshot::<Box<Policy>, Vec<Epoch>>::new(epochs));
            snapshot.replace(Some(policy(1)), |_| ());
            let reads = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..readers)
                .map(|number| {
                    let (snapshot, reads) = (snapshot.clone(), reads.clone());
                    loom::thread::spawn(move || {
                        let look = |policy: Option<&Policy>| {
                            // SAFETY: what the model is about: nobody writes while it is read.
                            let value = policy.expect("published").value.with(|cell| unsafe { *cell });
                            SEEN[(value - 1) as usize].fetch_add(1, outside::Ordering::Relaxed);
                        };
                        let processor = Processor(number);
                        snapshot.read(&processor, |policy| {
                            if nested {
                                snapshot.read(&processor, look);
                            }
                            look(policy);
                        });
                        reads.fetch_add(1, Ordering::Relaxed);
                    })
                })
                .collect();
            let writer = {
                let snapshot = snapshot.clone();
                loom::thread::spawn(move || {
                    let old = snapshot.replace(Some(policy(2)), |_| {
                        SEEN[2].fetch_add(1, outside::Ordering::Relaxed);
                        loom::thread::yield_now();
                    });
                    let old = old.expect("there was one");
                    // SAFETY: nobody else has it any more; loom objects if somebody has.
                    old.value.with_mut(|cell| unsafe { *cell = 0 });
                })
            };
            for thread in threads {
                thread.join().unwrap();
            }
            writer.join().unwrap();
            assert_eq!(reads.load(Ordering::Relaxed), readers as usize);
        });
    }

    fn finds(weak: Site) {
        let failed = std::panic::catch_unwind(|| model(1, false, Some(weak))).is_err();
        WEAK.set(None);
        assert!(failed, "the model does not notice a weak {weak:?}");
    }

    #[test]
    fn nobody_reads_a_policy_that_was_given_back() {
        model(1, false, None);
        for (count, what) in SEEN.iter().zip(["old policies", "new policies", "waits"]) {
            assert_ne!(
                count.load(outside::Ordering::Relaxed),
                0,
                "no {what} seen: the model explores too little"
            );
        }
    }

    #[test]
    fn nobody_reads_a_policy_that_was_given_back_with_two_processors() {
        model(2, false, None);
    }

    #[test]
    fn nested_readers_are_protected_by_the_outermost() {
        model(1, true, None);
    }

    #[test]
    fn the_model_finds_each_mistake() {
        for site in [Site::Enter, Site::Read, Site::Leave, Site::Publish, Site::Replace, Site::Look] {
            finds(site);
        }
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use super::{Epoch, Handle, OnProcessor, Snapshot};
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::boxed::Box;
    use std::vec::Vec;

    struct Policy(AtomicU64);

    // SAFETY: a box's address is valid until it is a box again.
    unsafe impl Handle for Box<Policy> {
        type Target = Policy;
        fn into_raw(self) -> NonNull<Policy> {
            NonNull::from(Box::leak(self))
        }
        unsafe fn from_raw(address: NonNull<Policy>) -> Self {
            // SAFETY: by the contract.
            unsafe { Box::from_raw(address.as_ptr()) }
        }
    }

    struct Processor(u32);

    // SAFETY: each test uses a number on one thread only.
    unsafe impl OnProcessor for Processor {
        fn processor(&self) -> u32 {
            self.0
        }
    }

    fn snapshot(processors: usize) -> Snapshot<Box<Policy>, Vec<Epoch>> {
        Snapshot::new((0..processors).map(|_| Epoch::new()).collect())
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the box is the handle")]
    fn policy(value: u64) -> Box<Policy> {
        Box::new(Policy(AtomicU64::new(value)))
    }

    #[test]
    fn the_policy_that_was_published_last_is_read() {
        let snapshot = snapshot(1);
        let value =
            || snapshot.read(&Processor(0), |policy| policy.map(|policy| policy.0.load(Ordering::Relaxed)));
        assert_eq!(value(), None);
        assert!(snapshot.replace(Some(policy(7)), |_| ()).is_none());
        assert_eq!(value(), Some(7));
        let old = snapshot.replace(Some(policy(8)), |_| ()).map(|old| old.0.into_inner());
        assert_eq!((old, value()), (Some(7), Some(8)));
    }

    #[test]
    fn a_processor_without_an_epoch_reads_no_policy() {
        let snapshot = snapshot(1);
        snapshot.replace(Some(policy(7)), |_| ());
        assert!(snapshot.read(&Processor(1), |policy| policy.is_none()));
    }

    #[test]
    fn the_writer_waits_for_a_reader_and_only_for_that() {
        const READERS: u32 = 3;
        const GENERATIONS: u64 = 300;
        let snapshot = snapshot(READERS as usize);
        snapshot.replace(Some(policy(1)), |_| ());
        std::thread::scope(|scope| {
            for number in 0..READERS {
                let snapshot = &snapshot;
                scope.spawn(move || {
                    let mut last = 0;
                    while last < GENERATIONS {
                        last = snapshot.read(&Processor(number), |policy| {
                            let value = policy.expect("published").0.load(Ordering::Relaxed);
                            assert!(value >= last, "{value} after {last}");
                            value
                        });
                    }
                });
            }
            for generation in 2..=GENERATIONS {
                let old = snapshot
                    .replace(Some(policy(generation)), |_| std::thread::yield_now())
                    .expect("there was one");
                old.0.store(0, Ordering::Relaxed);
            }
        });
    }
}
