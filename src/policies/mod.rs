//! Which policy decides, and which one a restart finds.
//!
//! | module | what | IRQL |
//! | --- | --- | --- |
//! | [`force`] | the policy in force, read by every processor | both |
//! | [`steward`] | the thread that applies, confirms and rolls back | PASSIVE_LEVEL |
//! | [`store`] | the policy that a restart finds, in two files | PASSIVE_LEVEL |
//! | [`slot`] | what such a file looks like | any |
//! | [`desk`] | where others hand in orders for it, and fetch the outcomes | <= DISPATCH_LEVEL |
//!
//! A policy that is applied from remote decides at once, but *provisionally*: unless it is confirmed within its window
//! the one before it decides again, whatever became of whoever applied it. So nobody who locks himself out stays locked
//! out. A confirmed policy is stored, and decides after a restart as well.
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

pub mod desk;
pub mod force;
pub mod slot;
pub mod steward;
pub mod store;

pub use desk::{Desk, Done, Order, Outcome, PolicyStatus, Refusal, Ticket, What};
pub use force::{Bytes, Policies, Policy};
pub use steward::{Sources, Steward};
