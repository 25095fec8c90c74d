//! Controllers that weir connects to by itself: each again and again, later each time it fails.
#![forbid(unsafe_code)]

use crate::kernel::time::Interval;
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
    /// The peer, by its number; `None`: there is no such peer any more, and it is not tried.
    peer: Option<u8>,
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
    pub(super) const fn new(remote: SocketAddr, peer: Option<u8>) -> Self {
        Self { remote, peer, state: State::Waiting(0), back_off: BACK_OFF_FIRST }
    }

    pub(super) const fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(super) const fn peer(&self) -> Option<u8> {
        self.peer
    }

    /// The peer has this number now, or is gone. One that has come is tried at once.
    pub(super) fn set_peer(&mut self, peer: Option<u8>, now: u64) {
        if peer.is_some() && self.peer.is_none() {
            self.hope_again(now);
        }
        self.peer = peer;
    }

    /// When it is to be tried; `None`: it has a session, or is nobody.
    pub(super) const fn due(&self) -> Option<u64> {
        match (self.state, self.peer) {
            (State::Waiting(at), Some(_)) => Some(at),
            (State::Busy(_), _) | (_, None) => None,
        }
    }

    /// There is a session for it, now, in units of 100 ns since boot.
    pub(super) fn begun(&mut self, now: u64) {
        self.state = State::Busy(now);
    }

    /// What it has failed for may be there now.
    pub(super) fn hope_again(&mut self, now: u64) {
        self.back_off = BACK_OFF_FIRST;
        if let State::Waiting(at) = &mut self.state {
            *at = (*at).min(now);
        }
    }

    /// Its session has ended now, or there could be none. `was_open`: it is known who was there. `chance` is random.
    pub(super) fn ended(&mut self, now: u64, was_open: bool, chance: u8) {
        if let State::Busy(since) = self.state
            && was_open
            && now.saturating_sub(since) >= GOOD
        {
            self.back_off = BACK_OFF_FIRST;
        }
        self.state = State::Waiting(now.saturating_add(jittered(self.back_off, chance)));
        self.back_off = self.back_off.saturating_mul(2).min(BACK_OFF_LAST);
    }
}

/// Three quarters to five quarters of `interval`, so that hosts that lost their controller together do not come back
/// together.
fn jittered(interval: u64, chance: u8) -> u64 {
    let quarter = interval / 4;
    interval.saturating_sub(quarter).saturating_add((quarter / 128).saturating_mul(chance.into()))
}

#[cfg(test)]
mod tests {
    use super::{BACK_OFF_FIRST, BACK_OFF_LAST, GOOD, Target};

    fn target() -> Target {
        Target::new("127.0.0.1:1".parse().unwrap(), Some(0))
    }

    #[test]
    fn tries_are_further_apart_each_time_and_spread() {
        for chance in [0, 0x80, 0xFF] {
            let mut target = target();
            assert_eq!(target.due(), Some(0));
            let mut expected = BACK_OFF_FIRST;
            for now in 0..12 {
                target.begun(now);
                assert_eq!(target.due(), None);
                target.ended(now, false, chance);
                let wait = target.due().unwrap() - now;
                let share = wait * 1000 / expected;
                let bounds = match chance {
                    0 => 740..=750,
                    0x80 => 990..=1000,
                    _ => 1240..=1250,
                };
                assert!(bounds.contains(&share), "{share}");
                expected = (expected * 2).min(BACK_OFF_LAST);
            }
        }
    }

    #[test]
    fn who_may_have_what_was_wanting_is_tried_at_once() {
        let mut target = Target { back_off: BACK_OFF_LAST, ..target() };
        target.begun(7);
        target.hope_again(8);
        assert_eq!(target.due(), None, "it has a session");
        target.ended(9, false, 0x80);
        assert!(target.due() < Some(9 + 2 * BACK_OFF_FIRST), "what comes next is no long wait");
        target.hope_again(10);
        assert_eq!(target.due(), Some(10));
        assert_eq!(target.back_off, BACK_OFF_FIRST);
    }

    #[test]
    fn only_a_connection_that_was_good_begins_anew() {
        for (was_open, lasted, anew) in [(true, GOOD, true), (false, GOOD, false), (true, GOOD - 1, false)] {
            let mut target = Target { back_off: BACK_OFF_LAST, ..target() };
            target.begun(7);
            target.ended(7 + lasted, was_open, 0);
            assert_eq!(target.back_off == 2 * BACK_OFF_FIRST, anew, "{was_open} {lasted}");
        }
    }
}
