#[cfg(feature = "sim")]
pub use ntsim::sys::nmr::*;
