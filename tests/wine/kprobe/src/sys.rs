//! What the kernel's headers declare.

pub mod nt {
    pub use wine_support::nt::*;
}

#[allow(dead_code, unused_imports, reason = "all that a header has is there, whether it is used here or not")]
#[path = "../../../../src/sys/fwp/abi.rs"]
pub mod fwp;
