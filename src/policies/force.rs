//! The policy in force, in the pool, one for all processors.
//!
//! Deciding takes a processor ([`AtDispatch`]) and no lock. Putting another policy into force is for PASSIVE_LEVEL, and
//! one thread at a time does it; it returns when no processor reads the policy before any more.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::irql::{self, AtDispatch, AtMostDispatch, Passive};
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::registry::Value;
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::policy::snapshot::{Epoch, Handle, Snapshot};
use crate::policy::{Decision, Image, Invalid, Tuple, What};
use crate::trace::{self, Event};

/// The bytes of an image, wherever they came from: a part of a block.
#[derive(Debug)]
pub struct Bytes {
    block: PoolSlice<u8>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// What follows the first `start` bytes of a block.
    pub fn after(start: usize, block: PoolSlice<u8>) -> Self {
        let len = block.len().saturating_sub(start);
        Self { block, start, len }
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.block.get(self.start..).and_then(|rest| rest.get(..self.len)).unwrap_or_default()
    }
}

impl From<Value> for Bytes {
    fn from(value: Value) -> Self {
        let (block, start, len) = value.into_parts();
        Self { block, start, len }
    }
}

/// A policy that has been validated. A copy is another owner of the same one.
#[derive(Clone, Debug)]
pub struct Policy {
    body: PoolArc<Body>,
}

#[derive(Debug)]
struct Body {
    image: Bytes,
    generation: u32,
    digest: [u8; 32],
}

impl Policy {
    pub fn image(&self) -> Image<'_> {
        Image::assume_valid(self.body.image.as_slice())
    }

    /// Counts the policies since the driver's start, from 1; 0 stands for no policy.
    pub fn generation(&self) -> u32 {
        self.body.generation
    }

    /// BLAKE2s-256 of the image.
    pub fn digest(&self) -> &[u8; 32] {
        &self.body.digest
    }
}

// SAFETY: a pool block stays where it is until the box is dropped, and what it holds is `Sync`.
unsafe impl Handle for PoolBox<Policy> {
    type Target = Policy;

    fn into_raw(self) -> NonNull<Policy> {
        Self::into_raw(self)
    }

    unsafe fn from_raw(address: NonNull<Policy>) -> Self {
        // SAFETY: it came from `into_raw` (contract), of a box that `Policies::prepare` made with this tag.
        unsafe { Self::from_raw(tags::POLICY, address) }
    }
}

/// The policy in force, if there is one.
#[derive(Debug)]
pub struct Policies {
    snapshot: Snapshot<PoolBox<Policy>, PoolSlice<Epoch>>,
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

    /// The generation that was given last; 0: none. Any level.
    pub fn last_generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Makes a policy of an image, which the caller has the digest of, and gives it the next generation. Tells why it
    /// cannot.
    ///
    /// # Errors
    /// [`Unfit`]. No generation is used up.
    pub fn prepare(
        &self,
        _passive: &Passive,
        image: Bytes,
        digest: &[u8; 32],
    ) -> core::result::Result<PoolBox<Policy>, Unfit> {
        if let Err(invalid) = Image::validate(image.as_slice()) {
            let size = u32::try_from(image.as_slice().len()).unwrap_or(u32::MAX);
            let (reason, status) = (reason(invalid.what), Status(invalid.status()));
            trace::emit(&Event::PolicyRefused { reason, size, status: status.into() });
            return Err(Unfit::Image(invalid));
        }
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1).max(1);
        let body = PoolArc::try_new(tags::POLICY, Body { image, generation, digest: *digest });
        let policy = body.and_then(|body| PoolBox::try_new(tags::POLICY, Policy { body }));
        let policy = policy.map_err(|status| {
            trace::emit(&Event::Fault { operation: "memory for a policy", status: status.into() });
            Unfit::Memory(status)
        })?;
        self.generation.store(generation, Ordering::Relaxed);
        Ok(policy)
    }

    /// Puts a policy, or none, into force, and gives back the one before, which nobody reads any more. One thread at a
    /// time does this.
    pub fn publish(&self, passive: &Passive, policy: Option<PoolBox<Policy>>) -> Option<PoolBox<Policy>> {
        self.snapshot.replace(policy, |_| time::delay(passive, PAUSE))
    }

    /// What the policy in force says, and its generation; `None` without one.
    #[inline]
    pub fn decide(&self, tuple: &Tuple<'_>, at: &AtDispatch<'_>) -> Option<(Decision, u32)> {
        self.snapshot
            .read(at, |policy| policy.map(|policy| (policy.image().decide(tuple), policy.generation())))
    }

    /// The policy in force, to look at for as long as it takes: another one may come into force meanwhile.
    pub fn current(&self, irql: &mut AtMostDispatch) -> Option<Policy> {
        self.with_current(irql, |policy| Some(policy?.clone()))
    }

    /// Lends the policy in force, for a short time: at DISPATCH_LEVEL, and no other policy can come into force
    /// meanwhile.
    pub fn with_current<R>(&self, irql: &mut AtMostDispatch, read: impl FnOnce(Option<&Policy>) -> R) -> R {
        self.snapshot.read(&*irql.raise(), read)
    }
}

/// Why there is no policy in an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It is damaged.
    Image(Invalid),
    /// There is no memory for it.
    Memory(Status),
}

impl Unfit {
    /// The same as a status.
    pub const fn status(&self) -> Status {
        match self {
            Self::Image(invalid) => Status(invalid.status()),
            Self::Memory(status) => *status,
        }
    }

    /// What is wrong, in a word or two.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Image(invalid) => reason(invalid.what),
            Self::Memory(_) => "memory",
        }
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
