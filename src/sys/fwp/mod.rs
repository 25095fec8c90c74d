//! The Windows Filtering Platform, as a driver calls it: types and identifiers from `fwptypes.h` and its kin, and
//! the functions of `fwpkclnt.sys`. Raw; the safe side is in `crate::wfp`.

#[cfg(image)]
mod abi;
#[cfg(image)]
mod image;

#[cfg(image)]
pub use abi::*;
#[cfg(image)]
pub use image::*;

#[cfg(feature = "sim")]
pub use ntsim::sys::fwp::*;
