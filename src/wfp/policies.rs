//! The policy in force, in the pool, one for all processors.
//!
//! Deciding takes a processor ([`AtDispatch`]) and no lock. Applying is for PASSIVE_LEVEL, and one thread at a time
//! does it; it returns when no processor reads the policy before any more, which is freed then.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::irql::{self, AtDispatch, Passive};
use crate::kernel::pool::{PoolBox, PoolSlice, tags};
use crate::kernel::registry::Value;
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::policy::snapshot::{Epoch, Handle, Snapshot};
use crate::policy::{Decision, Image, Tuple, What};
use crate::trace::{self, Event};

/// A policy that has been validated.
#[derive(Debug)]
pub struct Loaded {
    image: Value,
    generation: u32,
}

// SAFETY: a pool block stays where it is until the box is dropped, and what it holds is `Sync`.
unsafe impl Handle for PoolBox<Loaded> {
    type Target = Loaded;

    fn into_raw(self) -> NonNull<Loaded> {
        Self::into_raw(self)
    }

    unsafe fn from_raw(address: NonNull<Loaded>) -> Self {
        // SAFETY: it came from `into_raw` (contract), of a box that `Policies::apply` made with this tag.
        unsafe { Self::from_raw(tags::POLICY, address) }
    }
}

/// The policy in force, if there is one.
#[derive(Debug)]
pub struct Policies {
    snapshot: Snapshot<PoolBox<Loaded>, PoolSlice<Epoch>>,
    generation: AtomicU32,
}

/// How long the writer waits between looks at a processor that is deciding: what a look-up takes, many times over.
const PAUSE: Interval = Interval::from_micros(50);

impl Policies {
    /// No policy yet.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(_passive: &Passive) -> Result<Self> {
        let processors =
            usize::try_from(irql::maximum_processors()).map_err(|_| Status::INVALID_PARAMETER)?;
        let epochs = PoolSlice::try_from_fn(tags::EPOCH, processors, |_| Epoch::new())?;
        Ok(Self { snapshot: Snapshot::new(epochs), generation: AtomicU32::new(0) })
    }

    /// Puts the policy in `image` into force, and tells of it. A damaged one is refused, which is told, and changes
    /// nothing.
    ///
    /// # Errors
    /// The status of the refusal; `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn apply(&self, passive: &Passive, image: Value) -> Result {
        let bytes = image.bytes();
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let rules = match Image::validate(bytes) {
            Ok(image) => image.rule_count(),
            Err(invalid) => {
                let status = Status(invalid.status());
                trace::emit(&Event::PolicyRefused {
                    reason: reason(invalid.what),
                    size,
                    status: status.into(),
                });
                return Err(status);
            }
        };
        // Counted from 1; 0 stands for no policy.
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1).max(1);
        let loaded = PoolBox::try_new(tags::POLICY, Loaded { image, generation })?;
        self.generation.store(generation, Ordering::Relaxed);
        drop(self.snapshot.replace(Some(loaded), |_| time::delay(passive, PAUSE)));
        trace::emit(&Event::PolicyLoaded { generation, rules, size });
        Ok(())
    }

    /// What the policy in force says, and its generation; `None` without one.
    #[inline]
    pub fn decide(&self, tuple: &Tuple<'_>, at: &AtDispatch<'_>) -> Option<(Decision, u32)> {
        self.snapshot.read(at, |policy| {
            policy.map(|policy| (Image::assume_valid(policy.image.bytes()).decide(tuple), policy.generation))
        })
    }
}

/// The part of an image that is wrong, as events name it.
const fn reason(what: What) -> &'static str {
    match what {
        What::Magic => "not a policy image",
        What::Version => "version",
        What::Length => "length",
        What::Checksum => "checksum",
        What::Header => "header",
        What::Rule => "rule",
        What::List => "list of values",
        What::Name => "rule name",
        What::Apps => "applications",
        What::Partition => "partition",
        What::Field => "field",
        What::Group => "group",
        What::Slot => "slot",
        What::Entry => "entry",
    }
}
