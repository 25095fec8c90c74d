//! Encoded events that wait to be sent, in a circle of bytes: each with its length in two bytes before it.
#![forbid(unsafe_code)]

use crate::kernel::Result;
use crate::kernel::pool::{PoolSlice, tags};

/// The bytes of a length.
const HEAD: usize = size_of::<u16>();

/// The circle.
#[derive(Debug)]
pub(super) struct Log {
    bytes: PoolSlice<u8>,
    /// Where the oldest event begins.
    first: usize,
    used: usize,
    count: u64,
}

impl Log {
    /// A circle of `size` bytes.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new(size: usize) -> Result<Self> {
        Ok(Self { bytes: PoolSlice::try_zeroed(tags::CONTROL, size)?, first: 0, used: 0, count: 0 })
    }

    /// How many events wait.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Its bytes, taken or not.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an event of `length` bytes has room.
    pub(super) fn has_room(&self, length: usize) -> bool {
        let free = self.bytes.len().saturating_sub(self.used);
        u16::try_from(length).is_ok() && length.saturating_add(HEAD) <= free
    }

    /// Adds an event; false: there is no room.
    pub(super) fn push(&mut self, event: &[u8]) -> bool {
        let Some(length) = u16::try_from(event.len()).ok().filter(|_| self.has_room(event.len())) else {
            return false;
        };
        self.append(&length.to_be_bytes());
        self.append(event);
        self.count = self.count.saturating_add(1);
        true
    }

    /// Hands the oldest event to `taken`, in one piece or two, and drops it if that takes it. False: there is none, or
    /// it was not taken.
    pub(super) fn pop(&mut self, taken: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        if self.count == 0 {
            return false;
        }
        let mut head = [0; HEAD];
        let (front, back) = self.pieces(self.first, HEAD);
        for (place, byte) in head.iter_mut().zip(front.iter().chain(back)) {
            *place = *byte;
        }
        let length = usize::from(u16::from_be_bytes(head));
        let (front, back) = self.pieces(self.place_after(self.first, HEAD), length);
        if !taken(front, back) {
            return false;
        }
        let size = length.saturating_add(HEAD);
        self.first = self.place_after(self.first, size);
        self.used = self.used.saturating_sub(size);
        self.count = self.count.saturating_sub(1);
        true
    }

    /// Moves everything into a larger circle.
    pub(super) fn move_into(&mut self, mut other: Self) -> Self {
        while self.pop(|front, back| {
            let length = front.len().saturating_add(back.len());
            let Some(length) = u16::try_from(length).ok().filter(|_| other.has_room(length)) else {
                return false;
            };
            other.append(&length.to_be_bytes());
            other.append(front);
            other.append(back);
            other.count = other.count.saturating_add(1);
            true
        }) {}
        core::mem::replace(self, other)
    }

    fn place_after(&self, place: usize, count: usize) -> usize {
        place.saturating_add(count).checked_rem(self.bytes.len()).unwrap_or_default()
    }

    /// `length` bytes from `start` on, across the end.
    fn pieces(&self, start: usize, length: usize) -> (&[u8], &[u8]) {
        let front = self.bytes.get(start..).unwrap_or_default();
        let front = front.get(..length).unwrap_or(front);
        let back = self.bytes.get(..length.saturating_sub(front.len())).unwrap_or_default();
        (front, back)
    }

    /// Adds bytes for which there is room.
    fn append(&mut self, bytes: &[u8]) {
        let start = self.place_after(self.first, self.used);
        let straight = self.bytes.len().saturating_sub(start).min(bytes.len());
        if let (Some((front, back)), Some(place)) =
            (bytes.split_at_checked(straight), self.bytes.get_mut(start..))
        {
            copy(place, front);
            copy(&mut self.bytes, back);
        }
        self.used = self.used.saturating_add(bytes.len());
    }
}

/// Copies `bytes` to the beginning of `place`, which is as long at least.
fn copy(place: &mut [u8], bytes: &[u8]) {
    if let Some(place) = place.get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::Log;

    fn pop(log: &mut Log) -> Option<Vec<u8>> {
        let mut event = None;
        log.pop(|front, back| {
            event = Some([front, back].concat());
            true
        });
        event
    }

    proptest! {
        /// Whatever is put in comes out, whole and in its order, also across the end and into a larger circle.
        #[test]
        fn it_is_a_queue(
            size in 1_usize..80,
            steps in prop::collection::vec((0_u8..8, prop::collection::vec(any::<u8>(), 0..30)), 0..200),
        ) {
            let _sim = ntsim::boot(ntsim::Config::default());
            let mut log = Log::try_new(size).unwrap();
            let mut expected = VecDeque::new();
            for (step, event) in steps {
                match step {
                    0..4 => {
                        let free = log.size() - expected.iter().map(|event: &Vec<u8>| event.len() + 2).sum::<usize>();
                        let fits = event.len() + 2 <= free;
                        prop_assert_eq!(log.push(&event), fits);
                        if fits {
                            expected.push_back(event);
                        }
                    }
                    4..7 => prop_assert_eq!(pop(&mut log), expected.pop_front()),
                    _ => {
                        let larger = Log::try_new(log.size() + event.len()).unwrap();
                        let emptied = log.move_into(larger);
                        prop_assert_eq!(emptied.count(), 0);
                    }
                }
                prop_assert_eq!(log.count(), expected.len() as u64);
            }
            while let Some(event) = expected.pop_front() {
                prop_assert_eq!(pop(&mut log), Some(event));
            }
            prop_assert_eq!(pop(&mut log), None);
        }
    }

    #[test]
    fn what_is_not_taken_stays() {
        let _sim = ntsim::boot(ntsim::Config::default());
        let mut log = Log::try_new(16).unwrap();
        assert!(log.push(b"event"));
        assert!(!log.pop(|_, _| false));
        assert_eq!(pop(&mut log), Some(b"event".to_vec()));
        assert!(!log.push(&[0; 15]));
        assert_eq!(log.count(), 0);
    }
}
