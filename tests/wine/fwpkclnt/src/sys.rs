//! What the kernel's headers declare: NT types, and the Windows Filtering Platform's functions as the simulated kernel
//! has them.

pub mod nt {
    pub use wine_support::nt::*;
}

#[allow(dead_code, unused_imports, reason = "all that a header has is there, whether it is used here or not")]
#[allow(clippy::missing_safety_doc, reason = "callers are drivers")]
#[path = "../../../ntsim/src/sys/fwp/mod.rs"]
pub mod fwp;
