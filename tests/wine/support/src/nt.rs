//! NT types and status values, as the simulated kernel spells them: one copy for all that is not the kernel itself.

#![allow(
    non_snake_case,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::upper_case_acronyms,
    reason = "names are those of the Windows headers"
)]

#[path = "../../../ntsim/src/sys/nt/status.rs"]
mod status;
#[path = "../../../ntsim/src/sys/nt/types.rs"]
mod types;

pub use status::*;
pub use types::*;
