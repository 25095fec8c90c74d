//! One processor's ring, and the claim that fills a record in place.
//!
//! Positions count lines since the start and do not wrap in practice (64 bits); a line's index is its position
//! under the mask. The owner publishes by storing the tail, once for each record; the dispatcher gives lines
//! back by storing the head, once for each batch, and the owner reads that only when the room it knows of is
//! used up. What the owner touches for a record is one line of its own, and the record.

use core::{
    cell::Cell,
    marker::PhantomData,
    ptr::{NonNull, null_mut},
    slice,
};

use super::{
    Alone,
    life::{Object, take_number},
    line::{BEFORE, FILLER, Frame, Header, LINE, Line, MAX_LINES, SEQUENCE, Sequence, Stamp, StampBytes},
    record::{Kind, Kinds, Payload},
    rings::{Rings, Supply},
    sync::{AtomicU64, AtomicUsize, Ordering, Site, Track, order},
};

/// Why a record was refused. Each refusal is counted by processor, kind and cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cause {
    /// The ring has no room: the newest record gives way.
    Full = 0,
    /// The record is longer than half of the ring, or than [`MAX_LINES`].
    TooLong = 1,
    /// A claim is open on this processor: the caller runs inside the one who holds it, or that one leaked.
    Nested = 2,
    /// The processor has no ring (yet).
    NoRing = 3,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 4] = [Self::Full, Self::TooLong, Self::Nested, Self::NoRing];

    /// The cause's name in loss counts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooLong => "too-long",
            Self::Nested => "nested",
            Self::NoRing => "no-ring",
        }
    }
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

/// What the owner of the processor works with: one cache line. The dispatcher reads the tail in it, once for
/// each batch.
#[repr(C, align(64))]
struct Writer<S: Supply> {
    /// Every position before it is committed. Stored by the owner, last of all that a record takes.
    tail: AtomicUsize,
    /// Positions before it are known to be free. Not beyond the tail while losses are to be told, so that they need
    /// no look of their own on the way that most records go.
    limit: Cell<usize>,
    /// A claim is open.
    open: Cell<bool>,
    /// Losses are to be told. (Their number is kept elsewhere: refusals leave this line to the dispatcher.)
    owes: Cell<bool>,
    /// Kinds whose records are stamped.
    stamped: Kinds,
    /// Lines less one.
    mask: usize,
    lines: S::Lines,
}

/// What the dispatcher works with.
#[repr(C, align(64))]
struct Reader {
    /// Every position before it may be written again.
    head: AtomicUsize,
    /// The next position to deliver. The dispatcher's.
    at: Cell<usize>,
    /// The tail when the dispatcher last looked. The dispatcher's.
    seen: Cell<usize>,
    /// The stamp that was delivered last. The dispatcher's.
    time: Cell<Stamp>,
    /// Records delivered.
    delivered: AtomicU64,
}

/// What was lost. The owner's.
#[repr(C, align(64))]
struct Losses {
    /// By kind and cause, since the start. Written by the owner only, read by anyone.
    counts: [[AtomicU64; CAUSES]; Kind::COUNT],
    /// How many of them records have told.
    told: Cell<u64>,
}

impl Losses {
    /// Losses that no record has told yet.
    #[cold]
    fn untold(&self) -> u64 {
        let counts = self.counts.iter().flatten();
        counts
            .fold(0_u64, |sum, count| sum.wrapping_add(count.load(Ordering::Relaxed)))
            .wrapping_sub(self.told.get())
    }
}

/// The ring of one processor.
#[repr(C)]
pub struct Ring<S: Supply> {
    writer: Writer<S>,
    reader: Reader,
    losses: Losses,
    track: Track,
}

// SAFETY: `writer`'s cells are touched only through `OnProcessor`, whose holder is alone on the processor, and
// `reader`'s only by the dispatcher, of which there is one; the rest is atomic. Lines are handed over with the
// release and acquire of tail and head.
unsafe impl<S: Supply> Sync for Ring<S> where S::Lines: Send + Sync {}
// SAFETY: as above; nothing in the ring is bound to a thread.
unsafe impl<S: Supply> Send for Ring<S> where S::Lines: Send + Sync {}

impl<S: Supply> Ring<S> {
    /// A ring over `lines`, a power of two of them: records are at most half as long, and at most
    /// [`MAX_LINES`]. Records of the kinds in `stamped` are stamped with the time. PASSIVE_LEVEL.
    pub fn new(lines: S::Lines, stamped: Kinds) -> Result<Self, AttachError> {
        let count = lines.len();
        if !count.is_power_of_two() || count > 1 << 24 {
            return Err(AttachError::Lines);
        }
        Ok(Self {
            track: Track::new(count),
            writer: Writer {
                tail: AtomicUsize::new(0),
                limit: Cell::new(count),
                open: Cell::new(false),
                owes: Cell::new(false),
                stamped,
                mask: count.wrapping_sub(1),
                lines,
            },
            reader: Reader {
                head: AtomicUsize::new(0),
                at: Cell::new(0),
                seen: Cell::new(0),
                time: Cell::new(0),
                delivered: AtomicU64::new(0),
            },
            losses: Losses {
                counts: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
                told: Cell::new(0),
            },
        })
    }

    /// Lines in the ring.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.writer.mask.wrapping_add(1)
    }

    /// Records of `kind` that this processor lost for `cause`, so far.
    pub fn lost(&self, kind: Kind, cause: Cause) -> u64 {
        self.loss(kind, cause).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Records of this processor that were delivered, so far.
    pub fn delivered(&self) -> u64 {
        self.reader.delivered.load(Ordering::Relaxed)
    }

    /// Lines that the owner has published since the start.
    pub fn written(&self) -> usize {
        self.writer.tail.load(Ordering::Acquire)
    }

    /// Lines that the dispatcher has given back since the start.
    pub fn given_back(&self) -> usize {
        self.reader.head.load(Ordering::Acquire)
    }

    /// Copies the lines that were published last, the oldest first, whether they have been given back or not, and returns
    /// how many they are.
    pub fn copy_latest(&self, _alone: &impl Alone, into: &mut [[u8; LINE]]) -> usize {
        let written = self.written();
        let count = into.len().min(written).min(self.capacity());
        let first = written.wrapping_sub(count);
        for (index, place) in into.iter_mut().take(count).enumerate() {
            let line = self.line(first.wrapping_add(index)).cast::<[u8; LINE]>();
            // SAFETY: a line of the ring, which was zeroed when it was made; nobody writes to it now.
            *place = unsafe { line.read() };
        }
        count
    }

    #[inline(always)]
    fn loss(&self, kind: Kind, cause: Cause) -> Option<&AtomicU64> {
        self.losses.counts.get(kind as usize)?.get(cause as usize)
    }

    #[inline(always)]
    fn index(&self, position: usize) -> usize {
        position & self.writer.mask
    }

    /// The address of the line at `position`.
    #[inline(always)]
    fn line(&self, position: usize) -> *mut Line {
        let lines: &[Line] = &self.writer.lines;
        // SAFETY: the slice has a power of two of lines, of which `mask` is one less.
        unsafe { lines.as_ptr().add(self.index(position)) }.cast_mut()
    }

    /// Room for a record with its header in it, not marked as taken: another one may be given out.
    #[inline(always)]
    fn room<'a>(&'a self, asked: &Asked<'a, S>) -> Result<Room<'a, S>, Refused> {
        // One way for each, so that most of what a record without a stamp needs is known when this is compiled.
        let Lines { record, end, lost } = if self.writer.stamped.has(asked.kind) {
            // By value and taken apart: what the call reads and writes in memory would be there on both ways.
            match self.lines_stamped(asked.kind, asked.detail, asked.len, asked.object) {
                Ok(Lines { record, end, lost }) => Lines { record, end, lost },
                Err(Refused(cause)) => return Err(Refused(cause)),
            }
        } else {
            self.lines_for::<false>(asked, 0)?
        };
        Ok(Room { ring: self, record, object: asked.object, end, lost, len: asked.len })
    }

    #[cold]
    #[inline(never)]
    fn lines_stamped(
        &self,
        kind: Kind,
        detail: u16,
        len: usize,
        object: Option<S::Object<'_>>,
    ) -> Result<Lines, Refused> {
        // Before the ring is looked at: the clock is the caller's own code.
        let now = S::now();
        self.lines_for::<true>(&Asked { kind, detail, len, object }, now)
    }

    #[inline(always)]
    fn lines_for<const STAMPED: bool>(&self, asked: &Asked<'_, S>, now: Stamp) -> Result<Lines, Refused> {
        let Asked { kind, detail, len, object } = *asked;
        if self.writer.open.get() {
            return Err(self.refuse_nested(kind));
        }
        let frame = Frame { of_object: object.is_some(), stamped: STAMPED };
        let lines = frame.lines_for(len);
        let tail = self.writer.tail.load(Ordering::Relaxed);
        let skipped = if lines == 1 { 0 } else { self.skip(kind, tail, lines)? };
        let end = tail.wrapping_add(skipped).wrapping_add(lines);
        let mut lost = 0;
        let mut header = Header::new(kind as u8, frame, lines, detail);
        if self.writer.limit.get().wrapping_sub(end).wrapping_sub(self.kept_from(kind)).cast_signed() < 0 {
            lost = self.refresh(kind, tail, end)?;
            header = header.after_losing(lost);
        }
        if skipped != 0 {
            self.fill(tail, skipped);
        }
        let start = tail.wrapping_add(skipped);
        let record = self.line(start).cast::<Header>();
        self.track.write(self.index(start), lines);
        // SAFETY: lines behind the tail and before the limit are this side's alone until published.
        unsafe { record.write(header) };
        if let Some(object) = object {
            // SAFETY: within the record's first line.
            let place = unsafe { record.add(1) }.cast::<*mut ()>();
            // SAFETY: as above.
            unsafe { place.write(object.into_raw().as_ptr()) };
        }
        if STAMPED {
            let at = lines.wrapping_mul(LINE).wrapping_sub(frame.after());
            // SAFETY: within the record's lines.
            let place = unsafe { record.cast::<u8>().add(at) }.cast::<StampBytes>();
            // SAFETY: as above.
            unsafe { place.write(now.to_ne_bytes()) };
        }
        Ok(Lines { record: record.cast(), end, lost })
    }

    /// Claims room for a record.
    ///
    /// # Safety
    /// The caller owns the ring's processor until the claim is gone.
    #[inline(always)]
    pub(super) unsafe fn claim<'a>(&'a self, asked: &Asked<'a, S>) -> Result<Open<'a, S>, Refused> {
        let room = self.room(asked)?;
        self.writer.open.set(true);
        Ok(Open { room })
    }

    /// Writes and publishes `payload`.
    ///
    /// # Safety
    /// The caller owns the ring's processor. (Payloads are this module's own, and do not come back here: so the
    /// room needs no mark.)
    #[inline(always)]
    pub(super) unsafe fn push<'a, P: Payload>(
        &'a self,
        payload: &P,
        object: Option<S::Object<'a>>,
    ) -> Result<(), Refused> {
        let (detail, len) = (payload.detail(), payload.size());
        let mut room = self.room(&Asked { kind: payload.kind(), detail, len, object })?;
        payload.encode(room.payload());
        room.publish();
        Ok(())
    }

    /// Lines to leave out before `position`'s record of `lines` lines, so that it lies in one piece. A record of
    /// at most half the ring always fits into an empty ring, wherever that starts.
    fn skip(&self, kind: Kind, position: usize, lines: usize) -> Result<usize, Refused> {
        if lines > MAX_LINES || lines > self.capacity().div_ceil(2) {
            return Err(self.refuse(kind, Cause::TooLong, position));
        }
        let to_end = self.capacity().wrapping_sub(self.index(position));
        Ok(if lines > to_end { to_end } else { 0 })
    }

    /// How many lines a record of `kind` has to leave free.
    #[inline(always)]
    fn kept_from(&self, kind: Kind) -> usize {
        if kind.leaves_room() { self.capacity() / 4 } else { 0 }
    }

    /// Looks how far the dispatcher has come, for a record from `tail` to `end`: what was lost before it; or a counted
    /// refusal.
    #[inline]
    fn refresh(&self, kind: Kind, tail: usize, end: usize) -> Result<u32, Refused> {
        let writer = &self.writer;
        let head = self.reader.head.load(order(Site::Reuse, Ordering::Acquire));
        let limit = head.wrapping_add(self.capacity());
        // An empty ring is for everybody, wherever it begins.
        let kept = if head == tail { 0 } else { self.kept_from(kind) };
        if limit.wrapping_sub(end).wrapping_sub(kept).cast_signed() < 0 {
            return Err(self.refuse(kind, Cause::Full, tail));
        }
        if !writer.owes.get() {
            writer.limit.set(limit);
            return Ok(0);
        }
        // The limit stays where it is until the losses have been told: this record may yet be abandoned.
        Ok(u32::try_from(self.losses.untold()).unwrap_or(u32::MAX))
    }

    /// Counts a record as lost for lack of room, to be told by the next one.
    #[inline]
    fn refuse(&self, kind: Kind, cause: Cause, tail: usize) -> Refused {
        if kind.is_pushed_again() {
            return Refused(cause);
        }
        // Only the first refusal writes to the line that the dispatcher reads.
        if !self.writer.owes.get() {
            self.writer.owes.set(true);
            self.writer.limit.set(tail);
        }
        self.count(kind, cause)
    }

    /// Counts a record as lost because a claim is open, to be told by the next one.
    #[cold]
    fn refuse_nested(&self, kind: Kind) -> Refused {
        self.refuse(kind, Cause::Nested, self.writer.tail.load(Ordering::Relaxed))
    }

    #[inline]
    fn count(&self, kind: Kind, cause: Cause) -> Refused {
        if let Some(count) = self.loss(kind, cause) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        Refused(cause)
    }

    /// Marks the lines before the ring's end as nobody's.
    #[cold]
    fn fill(&self, position: usize, lines: usize) {
        self.track.write(self.index(position), lines);
        // SAFETY: lines behind the tail and before the limit are this side's alone until published.
        unsafe { self.line(position).cast::<Header>().write(Header::new(FILLER, Frame::PLAIN, lines, 0)) };
    }

    /// Whether records came since the dispatcher last looked. The dispatcher's.
    pub(super) fn has_news(&self) -> bool {
        self.writer.tail.load(Ordering::Relaxed) != self.reader.seen.get()
    }

    /// Whether the dispatcher has not delivered all that it saw. The dispatcher's.
    pub(super) fn is_held(&self) -> bool {
        self.reader.seen.get() != self.reader.at.get()
    }

    /// Looks what the ring's next record is, fillers passed over. The dispatcher's.
    pub(super) fn next(&self) -> Option<Next> {
        let look = || {
            let tail = self.writer.tail.load(order(Site::Observe, Ordering::Acquire));
            self.reader.seen.set(tail);
            tail
        };
        let mut at = self.reader.at.get();
        // Its owner writes the tail: it is left alone as long as there is something that was seen before.
        let seen = self.reader.seen.get();
        let tail = if at == seen { look() } else { seen };
        while at != tail {
            let view = self.view(at);
            if let Some(view) = view.record {
                let is_due = view.is_due();
                if !is_due {
                    look();
                }
                return Some(Next { time: view.time.unwrap_or(self.reader.time.get()), is_due });
            }
            at = at.wrapping_add(view.lines);
        }
        None
    }

    /// Delivers records until `bound` lines are done, none is left, one's turn has not come, or one was stamped after
    /// `until`; the number of lines done. The dispatcher's.
    #[inline]
    pub(super) fn drain(&self, bound: usize, until: Stamp, mut deliver: impl FnMut(View<'_, S>)) -> usize {
        let tail = self.writer.tail.load(order(Site::Observe, Ordering::Acquire));
        self.reader.seen.set(tail);
        let start = self.reader.at.get();
        if start == tail {
            return 0;
        }
        let mut at = start;
        let mut records: u64 = 0;
        while at != tail && at.wrapping_sub(start) < bound {
            let Viewed { lines, record } = self.view(at);
            if let Some(view) = record {
                if !view.is_due() || view.time.is_some_and(|time| time > until) {
                    break;
                }
                let link = view.owner.map(|(object, _)| object.link());
                if let Some(time) = view.time {
                    self.reader.time.set(time);
                }
                deliver(view);
                if let Some(link) = link {
                    link.advance();
                }
                records = records.wrapping_add(1);
            }
            at = at.wrapping_add(lines);
        }
        self.reader.at.set(at);
        let delivered = &self.reader.delivered;
        delivered.store(delivered.load(Ordering::Relaxed).wrapping_add(records), Ordering::Relaxed);
        self.reader.head.store(at, order(Site::Free, Ordering::Release));
        at.wrapping_sub(start)
    }

    /// What lies at a position between the dispatcher's and the tail.
    #[inline(always)]
    fn view(&self, at: usize) -> Viewed<'_, S> {
        let record = self.line(at);
        // SAFETY: committed and not given back, the line is the dispatcher's and starts with a header.
        let header = unsafe { record.cast::<Header>().read() };
        let lines = header.lines();
        self.track.read(self.index(at), lines);
        if header.kind() == FILLER {
            return Viewed { lines, record: None };
        }
        let frame = header.frame();
        let len = lines.wrapping_mul(LINE).wrapping_sub(BEFORE).wrapping_sub(frame.after());
        // SAFETY: within the record's lines, which lie in one piece.
        let payload = unsafe { record.cast::<u8>().add(BEFORE) };
        let time = frame.stamped.then(|| {
            // SAFETY: within the record's lines.
            let stamp = unsafe { payload.add(len) }.cast::<StampBytes>();
            // SAFETY: a stamped record has its stamp behind the payload.
            Stamp::from_ne_bytes(unsafe { stamp.read() })
        });
        let mut owner = None;
        if frame.of_object {
            let end = len.wrapping_add(frame.after()).wrapping_sub(frame.behind_stamp());
            // SAFETY: within the record's lines.
            let sequence = unsafe { payload.add(end) }.cast::<Sequence>();
            // SAFETY: a record of an object ends with its number.
            let sequence = u32::from_ne_bytes(unsafe { sequence.read() });
            // SAFETY: within the record's first line.
            let object = unsafe { record.cast::<Header>().add(1) }.cast::<*mut ()>();
            // SAFETY: a record of an object has its address behind the header.
            let object = NonNull::new(unsafe { object.read() });
            // SAFETY: the object is retained until its `Closed` is delivered, which comes after, and nobody looks here
            // once what was not delivered has been given up; null if it had been raised before.
            owner = object.map(|object| (unsafe { S::Object::from_raw(object) }, sequence));
        }
        // SAFETY: committed lines are initialised and not written until they are given back.
        let payload = unsafe { slice::from_raw_parts(payload, len) };
        Viewed { lines, record: Some(View { header, owner, time, payload }) }
    }
}

/// What lies in a ring: a record, or nobody's lines.
struct Viewed<'a, S: Supply> {
    lines: usize,
    record: Option<View<'a, S>>,
}

/// A committed record as the dispatcher finds it.
pub(super) struct View<'a, S: Supply> {
    pub header: Header,
    /// The object, and the record's number.
    pub owner: Option<(S::Object<'a>, u32)>,
    pub time: Option<Stamp>,
    pub payload: &'a [u8],
}

impl<S: Supply> View<'_, S> {
    /// Whether everything before it of its object has been delivered.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.owner.is_none_or(|(object, sequence)| object.link().is_next(sequence))
    }
}

/// A ring's next record.
#[derive(Clone, Copy)]
pub(super) struct Next {
    /// Its stamp; without one, that of the last record before it that had one.
    pub time: Stamp,
    /// Everything before it of its object has been delivered.
    pub is_due: bool,
}

/// A record to be.
pub(super) struct Asked<'a, S: Supply> {
    pub kind: Kind,
    pub detail: u16,
    /// Payload bytes.
    pub len: usize,
    pub object: Option<S::Object<'a>>,
}

/// Lines for a record.
struct Lines {
    record: *mut Line,
    /// The position behind the record.
    end: usize,
    /// What the header says was lost.
    lost: u32,
}

/// A record behind the tail, which the dispatcher does not look at before it is published.
struct Room<'a, S: Supply> {
    ring: &'a Ring<S>,
    record: *mut Line,
    object: Option<S::Object<'a>>,
    /// The position behind the record.
    end: usize,
    /// What the header says was lost.
    lost: u32,
    len: usize,
}

impl<S: Supply> Room<'_, S> {
    #[inline(always)]
    fn payload(&mut self) -> &mut [u8] {
        // SAFETY: within the record's lines, which lie in one piece.
        let payload = unsafe { self.record.cast::<u8>().add(BEFORE) };
        // SAFETY: `len` was asked for; the lines are this side's alone until published.
        unsafe { slice::from_raw_parts_mut(payload, self.len) }
    }

    #[inline(always)]
    fn publish(&self) {
        if let Some(object) = self.object {
            self.number(object);
        }
        let writer = &self.ring.writer;
        if self.lost != 0 {
            let losses = &self.ring.losses;
            losses.told.set(losses.told.get().wrapping_add(self.lost.into()));
            writer.owes.set(losses.untold() != 0);
        }
        writer.tail.store(self.end, order(Site::Publish, Ordering::Release));
    }

    /// Ends the record with the object's next number.
    #[inline]
    fn number(&self, object: S::Object<'_>) {
        let Some(number) = take_number(object) else {
            // SAFETY: within the record's first line.
            let place = unsafe { self.record.cast::<Header>().add(1) }.cast::<*mut ()>();
            // SAFETY: the line is this side's alone until published.
            return unsafe { place.write(null_mut()) };
        };
        let last = self.ring.line(self.end.wrapping_sub(1)).cast::<u8>();
        // SAFETY: within the record's last line.
        let place = unsafe { last.add(LINE.wrapping_sub(SEQUENCE)) }.cast::<Sequence>();
        // SAFETY: as above.
        unsafe { place.write(number.to_ne_bytes()) };
    }
}

/// Room that nobody else gets, until this is gone.
pub(super) struct Open<'a, S: Supply> {
    room: Room<'a, S>,
}

impl<S: Supply> Drop for Open<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        self.room.ring.writer.open.set(false);
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
    /// Neither `Send` nor `Sync`: the claim is bound to its processor.
    here: PhantomData<*const ()>,
}

impl<'a, S: Supply> Claim<'a, S> {
    #[inline(always)]
    pub(super) fn new(rings: &'a Rings<S>, open: Open<'a, S>) -> Self {
        Self { rings, open, here: PhantomData }
    }

    /// The payload, as long as was claimed. It holds stale bytes of earlier records until it is written; from the
    /// first byte to the last is the fastest way.
    #[inline(always)]
    pub fn payload(&mut self) -> &mut [u8] {
        self.open.room.payload()
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
        let Room { ring, record, object, end, lost, len } = self.open.room;
        let room = Room { ring, record, object, end, lost, len };
        // The mark goes before the record is published: if nobody can have seen it, it need not even be written.
        drop(self);
        room.publish();
    }
}
