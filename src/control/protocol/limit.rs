//! How often something may happen: a session's messages, and a source's handshakes before any Diffie-Hellman is done.
//!
//! A bucket is one number: when it will be full again (the generic cell rate algorithm). One that is full again is as
//! good as one that was never used, so a table of them ages by itself. Times are the caller's, in units of 100 ns,
//! from a clock that does not go back.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use core::ops::DerefMut;

/// So many at once, and one more after each interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many may come at once; at least one may.
    pub burst: u32,
    /// In units of 100 ns.
    pub interval: u64,
}

/// How long until the next may come, in units of 100 ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooOften {
    pub wait: u64,
}

/// What is left of a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// When all of it is there again.
    full_at: u64,
}

impl Bucket {
    /// Nothing was taken yet.
    pub const UNUSED: Self = Self { full_at: 0 };

    /// Takes one.
    ///
    /// # Errors
    /// None is left, and nothing was taken.
    pub fn take(&mut self, rate: Rate, now: u64) -> Result<(), TooOften> {
        // Further ahead than an empty one is only what was taken at another rate, a slower one or one of more at once.
        let empty = rate.interval.saturating_mul(u64::from(rate.burst.max(1)));
        let full_at = self.full_at.max(now).min(now.saturating_add(empty));
        self.full_at = full_at;
        let most = rate.interval.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
        let ahead = full_at.saturating_sub(now);
        if ahead > most {
            return Err(TooOften { wait: ahead.saturating_sub(most) });
        }
        self.full_at = full_at.saturating_add(rate.interval);
        Ok(())
    }

    fn is_full(self, now: u64) -> bool {
        self.full_at <= now
    }
}

/// A source's bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    source: Source,
    bucket: Bucket,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Who is counted as one: an IPv4 address, or the 64 bits of an IPv6 address that a site is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Source([u64; 2]);

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Where mapped addresses are, which are no site's.
            IpAddr::V4(address) => Self([0, 0xFFFF_0000_0000 | u64::from(address.to_bits())]),
            IpAddr::V6(address) => {
                // The upper half fits.
                Self([u64::try_from(address.to_bits() >> 64).unwrap_or_default(), 0])
            }
        }
    }
}

/// Holds each source to a rate, with a table of the caller's.
///
/// When the table has no room for another source, all that are not in it share one bucket: who comes with many
/// addresses gets no more for it, and does not displace those that are known.
#[derive(Debug)]
pub struct Limiter<T> {
    rate: Rate,
    table: T,
    others: Bucket,
}

impl<T: DerefMut<Target = [Entry]>> Limiter<T> {
    /// The table is of default entries.
    pub const fn new(rate: Rate, table: T) -> Self {
        Self { rate, table, others: Bucket::UNUSED }
    }

    /// Another rate holds from now on.
    pub const fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Whether something from that address may be done now.
    ///
    /// # Errors
    /// It is too early for it.
    pub fn admit(&mut self, now: u64, address: IpAddr) -> Result<(), TooOften> {
        let source = Source::of(address);
        let mut free = None;
        for entry in self.table.iter_mut() {
            if entry.source == source && !entry.bucket.is_full(now) {
                return entry.bucket.take(self.rate, now);
            }
            if free.is_none() && entry.bucket.is_full(now) {
                free = Some(entry);
            }
        }
        let Some(entry) = free else { return self.others.take(self.rate, now) };
        *entry = Entry { source, bucket: Bucket::default() };
        entry.bucket.take(self.rate, now)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: 100 };

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_burst_passes_then_one_after_each_interval() {
        let mut bucket = Bucket::default();
        let mut passed = |now| bucket.take(RATE, now);
        assert_eq!([passed(1000), passed(1000), passed(1000)], [Ok(()); 3]);
        assert_eq!(passed(1000), Err(TooOften { wait: 100 }));
        assert_eq!(passed(1099), Err(TooOften { wait: 1 }));
        assert_eq!(passed(1100), Ok(()));
        assert_eq!(passed(1100), Err(TooOften { wait: 100 }));
        assert_eq!([passed(5000), passed(5000), passed(5000)], [Ok(()); 3]);
        assert!(passed(5000).is_err());
    }

    #[test]
    fn each_source_has_its_own() {
        let mut limiter = Limiter::new(RATE, vec![Entry::default(); 4]);
        for _ in 0..3 {
            assert_eq!(limiter.admit(0, v4(1)), Ok(()));
        }
        assert_eq!(limiter.admit(0, v4(1)), Err(TooOften { wait: 100 }));
        assert_eq!(limiter.admit(0, v4(2)), Ok(()));
        // The same host by its mapped address.
        let mapped = "::ffff:0.0.0.1".parse().unwrap();
        assert!(limiter.admit(0, mapped).is_err());
        // A site's addresses are one source, another site's another.
        for address in ["2001:db8::1", "2001:db8::2:0:0:1", "2001:db8::ffff"] {
            assert_eq!(limiter.admit(0, address.parse().unwrap()), Ok(()));
        }
        assert!(limiter.admit(0, "2001:db8::4".parse().unwrap()).is_err());
        assert_eq!(limiter.admit(0, "2001:db8:0:1::1".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_flood_of_sources_displaces_nobody_and_gets_no_more_than_one_would() {
        let mut limiter = Limiter::new(RATE, vec![Entry::default(); 8]);
        assert_eq!(limiter.admit(0, v4(1)), Ok(()));
        let passed = (100..10_000).filter(|number| limiter.admit(0, v4(*number)).is_ok()).count();
        assert_eq!(passed, 7 + 3, "the free places, and what strangers share");
        assert_eq!(limiter.admit(0, v4(1)), Ok(()), "who was known has what is left");
        assert_eq!(limiter.admit(0, v4(1)), Ok(()));
        assert!(limiter.admit(0, v4(1)).is_err());
        assert_eq!(limiter.admit(10_000, v4(77)), Ok(()), "the table has aged");
        assert_eq!(limiter.admit(10_000, v4(77)), Ok(()));
    }

    #[test]
    fn who_has_used_up_one_rate_waits_no_longer_than_an_interval_of_another() {
        let slow = Rate { burst: 32, interval: 600_000_000 };
        for quick in [Rate { burst: 32, interval: 5_000_000 }, Rate { burst: 2, interval: 5_000_000 }] {
            // With a place of its own, and among those who share one.
            for places in [1, 0] {
                let mut limiter = Limiter::new(slow, vec![Entry::default(); places]);
                while limiter.admit(1000, v4(1)).is_ok() {}
                limiter.set_rate(quick);
                assert_eq!(limiter.admit(1000, v4(1)), Err(TooOften { wait: quick.interval }));
                let then = 1000 + quick.interval;
                assert_eq!(limiter.admit(then, v4(1)), Ok(()));
                assert!(limiter.admit(then, v4(1)).is_err());
            }
        }
    }

    #[test]
    fn times_at_the_end_of_the_clock_are_no_trouble() {
        let mut bucket = Bucket::default();
        let never = Rate { burst: 0, interval: u64::MAX };
        assert_eq!(bucket.take(never, u64::MAX), Ok(()));
        assert_eq!(bucket.take(never, 0), Err(TooOften { wait: u64::MAX }));
        assert!(Limiter::new(RATE, Vec::new()).admit(0, v4(1)).is_ok(), "even without a table");
    }

    proptest! {
        #[test]
        fn no_source_gets_more_than_its_rate(
            mut times in prop::collection::vec((0_u64..5000, 0_u32..5), 1..200),
        ) {
            times.sort_unstable();
            let mut limiter = Limiter::new(RATE, vec![Entry::default(); 8]);
            let mut passed = [const { Vec::new() }; 5];
            for (now, source) in times {
                if limiter.admit(now, v4(source)).is_ok() {
                    passed[source as usize].push(now);
                }
            }
            for times in passed {
                for (index, first) in times.iter().enumerate() {
                    for (count, last) in times[index..].iter().enumerate() {
                        prop_assert!((count as u64) < u64::from(RATE.burst) + (last - first) / RATE.interval);
                    }
                }
            }
        }
    }
}
