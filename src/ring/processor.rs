//! One processor's ring, and the claim that fills a record in place.
//!
//! Positions count lines since the start and never wrap in practice (64 bits); a line's index is its position
//! under the mask. The owner publishes by storing the tail, once per record; the dispatcher gives lines back
//! by storing the head, once per batch, and the owner reads that only when the room it knows of is used up.

use core::{cell::Cell, marker::PhantomData, ptr::null, slice};

use super::{
    life::{Linked, take_number},
    line::{FILLER, HEADER, Header, LINE, Line, MAX_LINES, lines_for},
    record::Kind,
    rings::{Rings, Supply},
    sync::{AtomicU64, AtomicUsize, Ordering, Site, Track, order},
};

/// Why a record was refused. Each refusal is counted by processor, kind and cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cause {
    /// The ring has no room: the newest record gives way.
    Full = 0,
    /// The record is longer than the ring can ever hold.
    TooLong = 1,
    /// A claim is open on this processor: the caller runs inside the one who holds it, or that one leaked.
    Nested = 2,
    /// The processor has no ring (yet).
    NoRing = 3,
}

/// Causes that a ring itself counts: all but [`Cause::NoRing`].
const CAUSES: usize = 3;

/// The record was not taken; it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused(pub Cause);

/// Why a ring was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// The number of lines is not a power of two, or is over 2^24.
    Lines,
    /// The table has no such processor.
    Processor,
    /// The processor has a ring.
    Attached,
}

/// What the owner of the processor works with, on one cache line with nothing of the dispatcher's.
#[repr(C, align(64))]
struct Owner<S: Supply> {
    /// The position of the next record.
    next: Cell<usize>,
    /// Lines known to be free; [`OPEN`] while a claim is open.
    room: Cell<isize>,
    /// Records lost since the last one committed.
    lost: Cell<u32>,
    lines: S::Lines,
}

const OPEN: isize = -1;

#[repr(C, align(64))]
struct Line64<T>(T);

/// What the dispatcher works with.
#[repr(C, align(64))]
struct Reader {
    /// Every position before it may be written again.
    head: AtomicUsize,
    /// The next position to deliver. The dispatcher's.
    at: Cell<usize>,
    /// The tail when the dispatcher last looked. The dispatcher's.
    seen: Cell<usize>,
    /// Records delivered.
    delivered: AtomicU64,
}

/// The ring of one processor.
#[repr(C)]
pub struct Ring<S: Supply> {
    owner: Owner<S>,
    /// Every position before it is committed.
    tail: Line64<AtomicUsize>,
    reader: Reader,
    /// Written by the owner only, read by anyone.
    losses: Line64<[[AtomicU64; CAUSES]; Kind::COUNT]>,
    track: Track,
}

// SAFETY: `owner` is touched only through `OnProcessor`, whose holder is alone on the processor, and `reader`'s
// cells only by the dispatcher, of which there is one; the rest is atomic. Lines are handed over with the
// release and acquire of tail and head.
unsafe impl<S: Supply> Sync for Ring<S> where S::Lines: Send + Sync {}
// SAFETY: as above; nothing in the ring is bound to a thread.
unsafe impl<S: Supply> Send for Ring<S> where S::Lines: Send + Sync {}

impl<S: Supply> Ring<S> {
    /// A ring over `lines`, a power of two of them: records are at most half as long, and at most
    /// [`MAX_LINES`]. PASSIVE_LEVEL.
    pub fn new(lines: S::Lines) -> Result<Self, AttachError> {
        let count = lines.len();
        if !count.is_power_of_two() || count > 1 << 24 {
            return Err(AttachError::Lines);
        }
        Ok(Self {
            track: Track::new(count),
            owner: Owner {
                next: Cell::new(0),
                room: Cell::new(count.cast_signed()),
                lost: Cell::new(0),
                lines,
            },
            tail: Line64(AtomicUsize::new(0)),
            reader: Reader {
                head: AtomicUsize::new(0),
                at: Cell::new(0),
                seen: Cell::new(0),
                delivered: AtomicU64::new(0),
            },
            losses: Line64(core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0)))),
        })
    }

    /// Lines in the ring.
    pub fn capacity(&self) -> usize {
        self.owner.lines.len()
    }

    /// Records of `kind` that this processor lost for `cause`, so far.
    pub fn lost(&self, kind: Kind, cause: Cause) -> u64 {
        self.losses
            .0
            .get(kind as usize)
            .and_then(|by_cause| by_cause.get(cause as usize))
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Records of this processor that were delivered, so far.
    pub fn delivered(&self) -> u64 {
        self.reader.delivered.load(Ordering::Relaxed)
    }

    /// The address of the line at `position`.
    #[inline(always)]
    fn line(&self, position: usize) -> *mut Line {
        let lines: &[Line] = &self.owner.lines;
        let index = position & lines.len().wrapping_sub(1);
        // SAFETY: the length is a power of two, so the index is within the slice.
        unsafe { lines.as_ptr().add(index) }.cast_mut()
    }

    fn index(&self, position: usize) -> usize {
        position & self.capacity().wrapping_sub(1)
    }

    /// Claims room for `len` payload bytes.
    ///
    /// # Safety
    /// The caller owns the ring's processor until the claim is gone.
    #[inline(always)]
    pub(super) unsafe fn claim(&self, kind: Kind, len: usize) -> Result<Open<'_, S>, Refused> {
        let lines = lines_for(len);
        let start = self.owner.next.get();
        let room = self.owner.room.get();
        let skipped = if lines == 1 { 0 } else { self.skip(kind, start, lines)? };
        let taken = lines.wrapping_add(skipped);
        let room = if taken.cast_signed() <= room { room } else { self.refresh(kind, taken)? };
        self.owner.room.set(OPEN);
        Ok(Open { ring: self, start, skipped, lines, room })
    }

    /// Lines to leave out before `position`'s record of `lines` lines, so that it lies in one piece. A record of
    /// at most half the ring always fits into an empty ring, wherever that starts.
    fn skip(&self, kind: Kind, position: usize, lines: usize) -> Result<usize, Refused> {
        if lines > MAX_LINES || lines > self.capacity().div_ceil(2) {
            return Err(self.refuse(kind, Cause::TooLong));
        }
        let to_end = self.capacity().wrapping_sub(self.index(position));
        Ok(if lines > to_end { to_end } else { 0 })
    }

    /// Looks how far the dispatcher has come; the room, or a counted refusal.
    fn refresh(&self, kind: Kind, taken: usize) -> Result<isize, Refused> {
        if self.owner.room.get() == OPEN {
            return Err(self.refuse(kind, Cause::Nested));
        }
        let head = self.reader.head.load(order(Site::Reuse, Ordering::Acquire));
        let used = self.owner.next.get().wrapping_sub(head);
        let room = self.capacity().wrapping_sub(used).cast_signed();
        if taken.cast_signed() > room { Err(self.refuse(kind, Cause::Full)) } else { Ok(room) }
    }

    #[inline]
    fn refuse(&self, kind: Kind, cause: Cause) -> Refused {
        if let Some(count) = self.losses.0.get(kind as usize).and_then(|causes| causes.get(cause as usize)) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        self.owner.lost.set(self.owner.lost.get().saturating_add(1));
        Refused(cause)
    }

    /// Whether records came since the dispatcher last looked. The dispatcher's.
    pub(super) fn has_news(&self) -> bool {
        self.tail.0.load(Ordering::Relaxed) != self.reader.seen.get()
    }

    /// Whether the dispatcher has not delivered all that it saw. The dispatcher's.
    pub(super) fn is_held(&self) -> bool {
        self.reader.seen.get() != self.reader.at.get()
    }

    /// Delivers records until `bound` lines are done, none is left, or one's turn has not come; the number of
    /// lines done. The dispatcher's.
    pub(super) fn drain(&self, bound: usize, mut deliver: impl FnMut(View<'_, S::Object>)) -> usize {
        let tail = self.tail.0.load(order(Site::Observe, Ordering::Acquire));
        self.reader.seen.set(tail);
        let start = self.reader.at.get();
        let mut at = start;
        let mut records: u64 = 0;
        while at != tail && at.wrapping_sub(start) < bound {
            // SAFETY: committed and not given back, the line is the dispatcher's and starts with a header.
            let header = unsafe { self.line(at).cast::<Header>().read() };
            let lines = usize::from(header.lines);
            self.track.read(self.index(at), lines);
            if header.kind != FILLER {
                // SAFETY: a record's object is retained until its `Closed` is delivered, which comes after.
                let object = unsafe { header.object.cast::<S::Object>().as_ref() };
                if object.is_some_and(|object| !object.link().is_next(header.sequence)) {
                    break;
                }
                // SAFETY: within the record's lines, which lie in one piece.
                let payload = unsafe { self.line(at).cast::<u8>().add(HEADER) };
                let len = lines.wrapping_mul(LINE).wrapping_sub(HEADER);
                // SAFETY: committed lines are initialised and not written until they are given back.
                let payload = unsafe { slice::from_raw_parts(payload, len) };
                deliver(View { header, object, payload });
                if let Some(object) = object {
                    object.link().advance();
                }
                records = records.wrapping_add(1);
            }
            at = at.wrapping_add(lines);
        }
        if at != start {
            self.reader.at.set(at);
            self.reader.delivered.store(
                self.reader.delivered.load(Ordering::Relaxed).wrapping_add(records),
                Ordering::Relaxed,
            );
            self.reader.head.store(at, order(Site::Free, Ordering::Release));
        }
        at.wrapping_sub(start)
    }
}

/// A committed record as the dispatcher finds it.
pub(super) struct View<'a, T> {
    pub header: Header,
    pub object: Option<&'a T>,
    pub payload: &'a [u8],
}

/// Claimed lines; gone without a trace unless published.
pub(super) struct Open<'a, S: Supply> {
    ring: &'a Ring<S>,
    start: usize,
    skipped: usize,
    lines: usize,
    room: isize,
}

impl<S: Supply> Open<'_, S> {
    #[inline(always)]
    fn record(&self) -> *mut Line {
        self.ring.line(self.start.wrapping_add(self.skipped))
    }

    #[inline(always)]
    pub fn payload(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: within the claimed lines, which lie in one piece.
        let payload = unsafe { self.record().cast::<u8>().add(HEADER) };
        // SAFETY: `len` was claimed; claimed lines are this side's alone until published.
        unsafe { slice::from_raw_parts_mut(payload, len) }
    }

    #[inline(always)]
    pub fn publish(self, kind: Kind, detail: u16, object: *const (), sequence: u32) {
        let ring = self.ring;
        let header = Header {
            kind: kind as u8,
            #[allow(clippy::cast_possible_truncation)] // at most MAX_LINES, or the claim was refused
            lines: self.lines as u8,
            detail,
            lost: ring.owner.lost.get(),
            object,
            sequence,
        };
        let record = self.record();
        ring.track.write(ring.index(self.start.wrapping_add(self.skipped)), self.lines);
        // SAFETY: the claimed line is this side's alone until published.
        unsafe { record.cast::<Header>().write(header) };
        if self.skipped != 0 {
            ring.fill(self.start, self.skipped);
        }
        let taken = self.skipped.wrapping_add(self.lines);
        let end = self.start.wrapping_add(taken);
        ring.owner.lost.set(0);
        ring.owner.next.set(end);
        ring.tail.0.store(end, order(Site::Publish, Ordering::Release));
        ring.owner.room.set(self.room.wrapping_sub(taken.cast_signed()));
        core::mem::forget(self);
    }
}

impl<S: Supply> Drop for Open<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        self.ring.owner.room.set(self.room);
    }
}

impl<S: Supply> Ring<S> {
    /// Marks the lines before the ring's end as nobody's.
    #[inline(never)]
    fn fill(&self, position: usize, lines: usize) {
        let header = Header {
            kind: FILLER,
            #[allow(clippy::cast_possible_truncation)] // fewer than the record's
            lines: lines as u8,
            detail: 0,
            lost: 0,
            object: null(),
            sequence: 0,
        };
        self.track.write(self.index(position), lines);
        // SAFETY: the claimed line is this side's alone until published.
        unsafe { self.line(position).cast::<Header>().write(header) };
    }
}

/// An open claim: room for one record on the caller's processor, to be filled in place.
///
/// It borrows the caller's hold on the processor, so IRQL cannot be lowered while it is open. Nothing is seen
/// of it until [`commit`](Claim::commit); dropped, it is as if it had never been. While it is open, call
/// nothing that is not weir's own: a callback that comes back to the ring on the same stack is refused with
/// [`Cause::Nested`] and counted. (A claim that is leaked with `mem::forget` closes its processor's ring for
/// good; nothing is corrupted.)
#[must_use = "a claim that is not committed is abandoned"]
pub struct Claim<'a, S: Supply> {
    rings: &'a Rings<S>,
    open: Open<'a, S>,
    kind: Kind,
    detail: u16,
    len: usize,
    /// Neither `Send` nor `Sync`: the claim is bound to its processor.
    here: PhantomData<*const ()>,
}

impl<'a, S: Supply> Claim<'a, S> {
    #[inline(always)]
    pub(super) fn new(rings: &'a Rings<S>, open: Open<'a, S>, kind: Kind, len: usize) -> Self {
        Self { rings, open, kind, detail: 0, len, here: PhantomData }
    }

    /// The payload, as long as was claimed. It holds stale bytes of earlier records until it is written.
    #[inline(always)]
    pub fn payload(&mut self) -> &mut [u8] {
        self.open.payload(self.len)
    }

    /// Sets the word in the header that is for the kind's own use (0 unless set).
    #[inline(always)]
    pub fn set_detail(&mut self, detail: u16) {
        self.detail = detail;
    }

    /// Publishes the record and wakes the dispatcher if it is parked.
    #[inline(always)]
    pub fn commit(self) {
        let rings = self.rings;
        self.commit_quietly();
        rings.notify();
    }

    /// Publishes the record without a look at the dispatcher. The caller calls [`Rings::notify`] after the
    /// last of a batch, before it leaves the processor: otherwise the record may lie until the next one comes.
    #[inline(always)]
    pub fn commit_quietly(self) {
        self.open.publish(self.kind, self.detail, null(), 0);
    }

    /// Publishes the record as the next of `object`, and wakes the dispatcher if it is parked. The record is
    /// delivered after all that took a number of the object before, and with a reference to the object.
    /// Once `Closed` has been raised it is delivered as a record of no object.
    #[inline(always)]
    pub fn commit_for(self, object: &S::Object) {
        let rings = self.rings;
        self.commit_quietly_for(object);
        rings.notify();
    }

    /// As [`commit_for`](Claim::commit_for), without the look at the dispatcher: see
    /// [`commit_quietly`](Claim::commit_quietly).
    #[inline(always)]
    pub fn commit_quietly_for(self, object: &S::Object) {
        match take_number(object) {
            Some(sequence) => {
                self.open.publish(self.kind, self.detail, core::ptr::from_ref(object).cast(), sequence);
            }
            None => self.open.publish(self.kind, self.detail, null(), 0),
        }
    }
}
