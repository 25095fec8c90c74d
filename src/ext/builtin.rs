//! weir's own provider of `connection_v1`: what a socket's owner knows of its traffic, told where nobody else tells.
//!
//! The socket's owner counts here, from its callbacks; what crosses a mark is told by [`super::Attached`].
//! IRQL <= DISPATCH_LEVEL.

use super::connection_v1::{
    CONNECTION_DIRECTION_RECEIVE, CONNECTION_DIRECTION_SEND, CONNECTION_METRIC_V1, CONNECTION_V1,
    CONNECTION_V1_PROVIDER_DISPATCH, METRIC_SIZE, PROVIDER_SIZE,
};
use crate::sys::nt::{NTSTATUS, PVOID, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A socket's traffic.
#[derive(Debug)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    receive: Lane,
    send: Lane,
}

/// A direction's marks, in bytes; a high one of 0: none.
#[derive(Debug)]
struct Lane {
    low: AtomicU64,
    high: AtomicU64,
    above: AtomicBool,
}

/// A mark was crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crossing {
    pub(super) above: bool,
    pub(super) mark: u64,
}

impl Lane {
    const fn new() -> Self {
        Self { low: AtomicU64::new(0), high: AtomicU64::new(0), above: AtomicBool::new(false) }
    }

    fn set(&self, low: u64, high: u64) {
        self.low.store(low, Ordering::Relaxed);
        self.high.store(high, Ordering::Relaxed);
    }

    fn cross(&self, bytes: u64) -> Option<Crossing> {
        let (low, high) = (self.low.load(Ordering::Relaxed), self.high.load(Ordering::Relaxed));
        let (above, mark) = match self.above.load(Ordering::Relaxed) {
            false if high != 0 && bytes >= high => (true, high),
            // Without marks there is nothing to be above of.
            true if high == 0 || bytes <= low => (false, low),
            _ => return None,
        };
        // Of several at once, one tells.
        (self.above.swap(above, Ordering::Relaxed) != above).then_some(Crossing { above, mark })
    }
}

impl Traffic {
    pub(super) const fn new() -> Self {
        Self { received: AtomicU64::new(0), sent: AtomicU64::new(0), receive: Lane::new(), send: Lane::new() }
    }

    /// Begins anew, for another socket.
    pub(super) fn reset(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        for lane in [&self.receive, &self.send] {
            lane.set(0, 0);
            lane.above.store(false, Ordering::Relaxed);
        }
    }

    /// Nobody has been told of a crossing yet.
    pub(super) fn begin(&self) {
        for lane in [&self.receive, &self.send] {
            lane.above.store(false, Ordering::Relaxed);
        }
    }

    /// So many bytes have come.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes were sent.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn lane(&self, direction: u32) -> Option<&Lane> {
        match direction {
            CONNECTION_DIRECTION_RECEIVE => Some(&self.receive),
            CONNECTION_DIRECTION_SEND => Some(&self.send),
            _ => None,
        }
    }

    /// So many bytes wait in that direction: the mark that was crossed by that.
    pub(super) fn cross(&self, direction: u32, bytes: u64) -> Option<Crossing> {
        self.lane(direction)?.cross(bytes)
    }

    /// The counters; the round-trip time is not known.
    pub(super) fn sample(&self) -> CONNECTION_METRIC_V1 {
        CONNECTION_METRIC_V1 {
            Size: METRIC_SIZE,
            Version: CONNECTION_V1,
            BytesReceived: self.received(),
            BytesSent: self.sent(),
            ..CONNECTION_METRIC_V1::default()
        }
    }
}

/// The provider's table. Its context is a [`Traffic`].
pub(super) static TABLE: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH {
    Size: PROVIDER_SIZE,
    Version: CONNECTION_V1,
    Reserved: 0,
    QueryMetric: Some(query_metric),
    SetMarks: Some(set_marks),
    Control: None,
};

#[allow(non_snake_case, reason = "the interface's names")]
unsafe extern "system" fn query_metric(
    ProviderContext: PVOID,
    Metric: *mut CONNECTION_METRIC_V1,
) -> NTSTATUS {
    // SAFETY: the context that goes with this table, of a socket that is there.
    let traffic = unsafe { &*ProviderContext.cast::<Traffic>() };
    // SAFETY: weir's own call: a whole structure.
    unsafe { Metric.write(traffic.sample()) };
    STATUS_SUCCESS
}

#[allow(non_snake_case, reason = "the interface's names")]
unsafe extern "system" fn set_marks(ProviderContext: PVOID, Direction: u32, Low: u64, High: u64) -> NTSTATUS {
    // SAFETY: as in `query_metric`.
    let traffic = unsafe { &*ProviderContext.cast::<Traffic>() };
    match traffic.lane(Direction) {
        Some(lane) if Low <= High => {
            lane.set(Low, High);
            STATUS_SUCCESS
        }
        _ => STATUS_INVALID_PARAMETER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crossing_is_told_once_each_way() {
        let traffic = Traffic::new();
        let cross = |bytes| traffic.cross(CONNECTION_DIRECTION_SEND, bytes);
        assert_eq!(cross(u64::MAX), None);
        traffic.send.set(50, 100);
        assert_eq!(cross(99), None);
        assert_eq!(cross(100), Some(Crossing { above: true, mark: 100 }));
        assert_eq!(cross(500), None);
        assert_eq!(cross(51), None);
        assert_eq!(cross(50), Some(Crossing { above: false, mark: 50 }));
        assert_eq!(cross(0), None);
        assert_eq!(traffic.cross(CONNECTION_DIRECTION_RECEIVE, 500), None);
        assert_eq!(traffic.cross(2, 500), None);
    }

    #[test]
    fn what_is_above_a_mark_that_goes_is_below() {
        let traffic = Traffic::new();
        traffic.receive.set(1, 2);
        assert_eq!(traffic.cross(CONNECTION_DIRECTION_RECEIVE, 2), Some(Crossing { above: true, mark: 2 }));
        traffic.receive.set(0, 0);
        assert_eq!(traffic.cross(CONNECTION_DIRECTION_RECEIVE, 2), Some(Crossing { above: false, mark: 0 }));
    }

    #[test]
    fn marks_are_looked_at() {
        let traffic = Traffic::new();
        let context = std::ptr::from_ref(&traffic).cast_mut().cast();
        for (direction, low, high, status) in [
            (0, 1, 1, STATUS_SUCCESS),
            (0, 2, 1, STATUS_INVALID_PARAMETER),
            (2, 1, 1, STATUS_INVALID_PARAMETER),
        ] {
            // SAFETY: the context is a `Traffic`.
            assert_eq!(unsafe { set_marks(context, direction, low, high) }, status);
        }
        assert_eq!(traffic.receive.high.load(Ordering::Relaxed), 1);
    }
}
