//! The raw ABI, and nothing else: every type, constant and function of the kernel that the driver names.
//!
//! Under the feature `sim` all of it comes from the simulated kernel; in the image the NT kernel comes from wdk-sys, and
//! the rest is imported here. [`proof`] holds both to the layouts and values of the headers. Only `kernel`, `wsk`, `ext`
//! and `wfp` look in here; everyone else speaks to them.

pub mod cng;
#[cfg(image)]
pub mod etw;
pub mod fwp;
pub mod nmr;
pub mod nt;
mod proof;
pub mod wsk;

/// What the simulated kernel's verifier is told beyond the calls that it sees.
#[cfg(feature = "sim")]
pub mod verifier {
    pub use ntsim::verify::{lock_acquired, lock_acquiring, lock_released};
}

/// Nobody verifies what an image does.
#[cfg(image)]
pub mod verifier {
    pub const fn lock_acquiring(_lock: usize, _name: &'static str) {}
    pub const fn lock_acquired(_lock: usize, _name: &'static str) {}
    pub const fn lock_released(_lock: usize) {}
}
