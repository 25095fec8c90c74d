//! The Windows Filtering Platform: weir's side of it.
//!
//! | module | what | IRQL |
//! | --- | --- | --- |
//! | [`layer`] | the one table of layers | any |
//! | [`classify`] | a classification as safe code reads it | <= DISPATCH_LEVEL |
//! | [`verdict`] | writing a verdict, by the rights of arbitration | <= DISPATCH_LEVEL |
//! | [`callout`] | registration, the functions that the engine calls, their end | both |
//! | [`handler`] | what is done at each layer | <= DISPATCH_LEVEL |
//! | [`engine`] | session, provider, sublayer, callout objects, filters | PASSIVE_LEVEL |
//! | [`keeper`] | the thread that owns the session and follows the engine's state | PASSIVE_LEVEL |
//!
//! `unsafe` is in the calls of the platform and in the functions that it calls; the handlers are safe code.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

pub mod callout;
pub mod classify;
pub mod engine;
pub mod handler;
pub mod keeper;
pub mod layer;
pub mod verdict;

pub use callout::Callouts;
pub use engine::{Own, Plan};
pub use handler::Handler;
pub use keeper::Keeper;

use crate::kernel::Result;
use crate::kernel::irql::Passive;
use crate::kernel::time::{self, Interval};
use crate::trace;

/// How long an attempt to let go of something is apart from the next: at first, and at most.
const FIRST_DELAY: Interval = Interval::from_millis(1);
const LONGEST_DELAY: Interval = Interval::from_millis(100);
/// After how many attempts in vain an event tells of it.
const ATTEMPTS_TOLD: u32 = 64;

/// Tries until it succeeds, or `most` times, with a delay that grows; tells of it if that takes long, or is given up.
///
/// # Errors
/// The status of the last attempt. Without `most` there is no error.
fn retry(
    passive: &Passive,
    operation: &'static str,
    most: Option<u32>,
    mut attempt: impl FnMut() -> Result,
) -> Result {
    let mut delay = FIRST_DELAY;
    let mut attempts: u32 = 0;
    while let Err(status) = attempt() {
        attempts = attempts.saturating_add(1);
        let given_up = most.is_some_and(|most| attempts >= most);
        if given_up || attempts.is_multiple_of(ATTEMPTS_TOLD) {
            trace::emit(&trace::Event::Fault { operation, status: status.into() });
        }
        if given_up {
            return Err(status);
        }
        time::delay(passive, delay);
        delay = Interval::from_100ns(delay.as_100ns().saturating_mul(2)).min(LONGEST_DELAY);
    }
    Ok(())
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::retry;
    use crate::kernel::Status;
    use crate::kernel::irql::Passive;

    #[test]
    fn what_is_busy_is_tried_again_after_a_while_until_it_is_not_or_the_attempts_are_used_up() {
        const BUSY: Status = Status(ntsim::sys::nt::STATUS_DEVICE_BUSY);
        let _sim = ntsim::boot(ntsim::Config::default());
        // SAFETY: a test's thread is at PASSIVE_LEVEL.
        let passive = unsafe { Passive::assume() };
        let run = |free_at: u32, most| {
            let mut attempts = 0;
            let result = retry(&passive, "test", most, || {
                attempts += 1;
                if attempts == free_at { Ok(()) } else { Err(BUSY) }
            });
            (result, attempts)
        };
        assert_eq!(run(1, None), (Ok(()), 1));
        assert_eq!(run(6, None), (Ok(()), 6));
        assert_eq!(run(6, Some(6)), (Ok(()), 6));
        assert_eq!(run(6, Some(5)), (Err(BUSY), 5));
    }
}
