//! The identity and the life of a connection.
//!
//! A [`Connection`] is what weir knows of one flow: which connection it is, what was decided, what it has carried.
//! It is made when a connection is authorized, found again by the filter engine's flow contexts (which carry its
//! address) and through the table [`Flows`], and freed by whoever lets go of it last:
//!
//! | owner | from | until |
//! | --- | --- | --- |
//! | the table | [`Flows::insert`] | [`Flows::remove`] |
//! | each flow context | before it is associated | its flowDeleteFn |
//! | the dispatch ring | its first record or event | its `Closed` has been delivered |
//!
//! Its states are the ring's life-cycle events: *authorized* until `Opened` is raised, *established* until `Closed`
//! is, *closed* from then on. Each is raised at most once, in any order of the calls that lead there.
//!
//! IRQL <= DISPATCH_LEVEL everywhere. No lock is held while a connection is freed or the filter engine called.
//!
//! `unsafe` is in [`reference`](mod@reference) (counting of owners that the kernel and the ring hold by address) and
//! in the table's chains.
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

mod connection;
mod key;
pub mod reference;
mod table;

pub use connection::{Connection, Counters, Decided, Ended};
pub use key::{Address, Key};
pub use reference::Ref;
pub use table::{Flows, Inserted};
