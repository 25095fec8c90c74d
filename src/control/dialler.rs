//! Controllers that weir connects to by itself: each again and again, later each time it fails.
#![forbid(unsafe_code)]

use crate::kernel::irql::Passive;
use crate::kernel::random;
use crate::kernel::time::{self, Interval};
use core::net::SocketAddr;

/// How long to wait before a target is tried again, at first, in units of 100 ns; doubled each time.
const BACK_OFF_FIRST: u64 = Interval::from_millis(1_000).as_100ns();
/// How long at most.
const BACK_OFF_LAST: u64 = Interval::from_millis(120_000).as_100ns();
/// A connection that has lasted so long was a good one: what comes after it begins anew.
const GOOD: u64 = Interval::from_millis(30_000).as_100ns();

/// A controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    remote: SocketAddr,
    /// The peer, by its number.
    peer: u8,
    state: State,
    back_off: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is tried at this time.
    Waiting(u64),
    /// There is a session for it, since this time.
    Busy(u64),
}

impl Target {
    pub(super) const fn new(remote: SocketAddr, peer: u8) -> Self {
        Self { remote, peer, state: State::Waiting(0), back_off: BACK_OFF_FIRST }
    }

    pub(super) const fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(super) const fn peer(&self) -> u8 {
        self.peer
    }

    /// When it is to be tried; `None`: it has a session.
    pub(super) const fn due(&self) -> Option<u64> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Busy(_) => None,
        }
    }

    /// There is a session for it.
    pub(super) fn begun(&mut self) {
        self.state = State::Busy(time::since_boot().as_100ns());
    }

    /// Its session has ended, or there could be none. `was_open`: it is known who was there.
    pub(super) fn ended(&mut self, passive: &Passive, was_open: bool) {
        let now = time::since_boot().as_100ns();
        if let State::Busy(since) = self.state
            && was_open
            && now.saturating_sub(since) >= GOOD
        {
            self.back_off = BACK_OFF_FIRST;
        }
        self.state = State::Waiting(now.saturating_add(jittered(passive, self.back_off)));
        self.back_off = self.back_off.saturating_mul(2).min(BACK_OFF_LAST);
    }
}

/// Three quarters to five quarters of `interval`, so that hosts that lost their controller together do not come back
/// together.
fn jittered(passive: &Passive, interval: u64) -> u64 {
    let mut byte = [0x80];
    // Without randomness it is the interval itself.
    if random::fill(passive, &mut byte).is_err() {
        byte = [0x80];
    }
    let [byte] = byte;
    let quarter = interval / 4;
    interval.saturating_sub(quarter).saturating_add((quarter / 128).saturating_mul(byte.into()))
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::{BACK_OFF_FIRST, BACK_OFF_LAST, State, Target};
    use crate::kernel::irql::Passive;
    use crate::kernel::time;

    #[test]
    fn tries_are_further_apart_each_time_and_never_at_the_same_moment() {
        let _sim = ntsim::boot(ntsim::Config::default());
        // SAFETY: a test's thread is at PASSIVE_LEVEL.
        let passive = unsafe { Passive::assume() };
        let mut target = Target::new("127.0.0.1:1".parse().unwrap(), 0);
        assert_eq!(target.due(), Some(0));
        let mut expected = BACK_OFF_FIRST;
        let mut waits = std::vec::Vec::new();
        for _ in 0..12 {
            target.begun();
            assert_eq!(target.due(), None);
            let before = time::since_boot().as_100ns();
            target.ended(&passive, false);
            let wait = target.due().unwrap() - before;
            let slack = 10_000_000;
            assert!((expected * 3 / 4..=expected * 5 / 4 + slack).contains(&wait), "{wait} {expected}");
            waits.push(wait * 1_000 / expected);
            expected = (expected * 2).min(BACK_OFF_LAST);
        }
        waits.dedup();
        assert!(waits.len() > 6, "{waits:?}");
    }

    #[test]
    fn a_connection_that_was_good_begins_anew_and_one_that_never_opened_does_not() {
        let _sim = ntsim::boot(ntsim::Config::default());
        // SAFETY: a test's thread is at PASSIVE_LEVEL.
        let passive = unsafe { Passive::assume() };
        for (was_open, since, anew) in [(true, 0, true), (false, 0, false), (true, u64::MAX, false)] {
            let mut target = Target { back_off: BACK_OFF_LAST, ..Target::new("[::1]:1".parse().unwrap(), 0) };
            let now = time::since_boot().as_100ns();
            target.state = State::Busy(since.min(now));
            // Since boot there has to have been time enough.
            let good = was_open && now.saturating_sub(since.min(now)) >= super::GOOD;
            target.ended(&passive, was_open);
            assert_eq!(target.back_off == 2 * BACK_OFF_FIRST, anew && good);
        }
    }
}
