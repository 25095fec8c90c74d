//! Settings: the registry's schema, how the driver reads it, and how it follows changes of it.
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

mod endpoint;
pub mod interface;
pub mod schema;

#[cfg(kernel)]
mod live;
#[cfg(kernel)]
mod load;
#[cfg(kernel)]
mod watch;
#[cfg(kernel)]
pub use live::{Live, Running};
#[cfg(kernel)]
pub use load::{
    Book, Guarding, Loaded, POLICIES, Page, RegistryPolicy, Rejected, Row, Shared, guarding, load,
    policy_image,
};
pub use schema::Settings;
#[cfg(kernel)]
pub use watch::{Rereads, Watcher};

#[cfg(test)]
mod tests;
