//! Settings: the registry's schema, and how the driver reads it.
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
mod load;
#[cfg(kernel)]
pub use load::{Guarding, Loaded, RegistryPolicy, guarding, load, policy_image};
pub use schema::Settings;

#[cfg(test)]
mod tests;
