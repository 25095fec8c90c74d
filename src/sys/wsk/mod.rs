//! Winsock Kernel, as a driver calls it: types and constants of `wsk.h`, and the exports of `netio.sys`. Raw; the safe
//! side is in `crate::wsk`.

#[cfg(image)]
mod abi;
#[cfg(image)]
mod image;

#[cfg(image)]
pub use abi::*;
#[cfg(image)]
pub use image::*;

#[cfg(feature = "sim")]
pub use ntsim::sys::wsk::*;
